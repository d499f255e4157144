import type { Cursor } from './cursor.ts';

/**
 * Data types: their ids, the TYPE_INFO that describes them (MS-TDS 2.2.5.4 to 2.2.5.6), and how long a value is.
 * Stepping over a value needs its `Extent` only; what it says is the business of `values.ts`.
 */

export const TypeId = {
  null: 0x1f,
  image: 0x22,
  text: 0x23,
  guid: 0x24,
  varbinaryOld: 0x25,
  intN: 0x26,
  varcharOld: 0x27,
  date: 0x28,
  time: 0x29,
  datetime2: 0x2a,
  datetimeoffset: 0x2b,
  binaryOld: 0x2d,
  charOld: 0x2f,
  int1: 0x30,
  bit: 0x32,
  int2: 0x34,
  decimalOld: 0x37,
  int4: 0x38,
  smalldatetime: 0x3a,
  real: 0x3b,
  money: 0x3c,
  datetime: 0x3d,
  float: 0x3e,
  numericOld: 0x3f,
  variant: 0x62,
  ntext: 0x63,
  bitN: 0x68,
  decimalN: 0x6a,
  numericN: 0x6c,
  floatN: 0x6d,
  moneyN: 0x6e,
  datetimeN: 0x6f,
  smallmoney: 0x7a,
  int8: 0x7f,
  varbinary: 0xa5,
  varchar: 0xa7,
  binary: 0xad,
  char: 0xaf,
  nvarchar: 0xe7,
  nchar: 0xef,
  udt: 0xf0,
  xml: 0xf1,
  table: 0xf3,
  json: 0xf4,
  vector: 0xf5,
} as const;

/** How the length of a value is told. */
export const Extent = {
  /** `size` bytes, never NULL. */
  fixed: 0,
  /** A one-byte length, zero for NULL. */
  byte: 1,
  /** A two-byte length, 0xFFFF for NULL. */
  short: 2,
  /** Eight bytes of total length (or NULL, or unknown), then chunks up to an empty one: the `max` types, XML, UDT, JSON. */
  chunks: 3,
  /** A text pointer, a timestamp and a four-byte length: `text`, `ntext` and `image` in rows; a zero pointer length is NULL. */
  pointer: 4,
  /** A four-byte length, 0xFFFFFFFF for NULL: `sql_variant`, and the text types in requests. */
  long: 5,
} as const;
export type Extent = (typeof Extent)[keyof typeof Extent];

export interface TypeInfo {
  readonly id: number;
  readonly extent: Extent;
  /** Bytes: of a fixed value, or the largest that is declared. */
  readonly size: number;
  readonly precision: number;
  readonly scale: number;
  /** Five bytes; null where the type has none. */
  readonly collation: Buffer | null;
  /** Of a UDT or a table type, `database.schema.name` as far as given. */
  readonly name: string | null;
}

/** Where a TYPE_INFO stands decides on details: requests say less of a UDT, and have no text pointers. */
export type Flavor = 'request' | 'result';

/**
 * Reads one TYPE_INFO. Null: a type id that is not known (`cursor.short` is false), or not enough bytes (it is true).
 * Table types have their columns behind it and are left to the caller: only their id is consumed.
 */
export function readTypeInfo(cursor: Cursor, flavor: Flavor): TypeInfo | null {
  const id = cursor.uint8();
  if (cursor.short) return null;
  const common = COMMON[id];
  if (common) return common;
  const info = readDescription(cursor, id, flavor);
  return cursor.short ? null : info;
}

function readDescription(cursor: Cursor, id: number, flavor: Flavor): TypeInfo | null {
  switch (id) {
    case TypeId.guid:
    case TypeId.intN:
    case TypeId.bitN:
    case TypeId.floatN:
    case TypeId.moneyN:
    case TypeId.datetimeN:
      return bounded(id, cursor.uint8());
    case TypeId.charOld:
    case TypeId.varcharOld:
    case TypeId.binaryOld:
    case TypeId.varbinaryOld:
      return bounded(id, cursor.uint8());
    case TypeId.decimalN:
    case TypeId.numericN:
    case TypeId.decimalOld:
    case TypeId.numericOld: {
      const size = cursor.uint8();
      const precision = cursor.uint8();
      return describe(id, Extent.byte, size, precision, cursor.uint8());
    }
    case TypeId.time:
    case TypeId.datetime2:
    case TypeId.datetimeoffset:
      return describe(id, Extent.byte, 0, 0, cursor.uint8());
    case TypeId.varchar:
    case TypeId.char:
    case TypeId.nvarchar:
    case TypeId.nchar: {
      const size = cursor.uint16();
      return describe(id, sizeExtent(size), size, 0, 0, readCollation(cursor));
    }
    case TypeId.varbinary:
    case TypeId.binary: {
      const size = cursor.uint16();
      return describe(id, sizeExtent(size), size);
    }
    case TypeId.text:
    case TypeId.ntext: {
      const size = cursor.uint32();
      return describe(id, textExtent(flavor), size, 0, 0, readCollation(cursor));
    }
    case TypeId.image:
      return describe(id, textExtent(flavor), cursor.uint32());
    case TypeId.variant:
      return describe(id, Extent.long, cursor.uint32());
    case TypeId.udt:
      return readUdt(cursor, flavor);
    case TypeId.xml:
      return readXml(cursor);
    case TypeId.vector: {
      const size = cursor.uint16();
      return describe(id, Extent.short, size, 0, cursor.uint8());
    }
    default:
      return null;
  }
}

function readUdt(cursor: Cursor, flavor: Flavor): TypeInfo {
  const size = flavor === 'result' ? cursor.uint16() : 0xffff;
  const name = qualify(cursor.shortText(), cursor.shortText(), cursor.shortText());
  if (flavor === 'result') cursor.skipLongText();
  return describe(TypeId.udt, Extent.chunks, size, 0, 0, null, name);
}

function readXml(cursor: Cursor): TypeInfo {
  if (cursor.uint8() !== 0) {
    cursor.skipShortText();
    cursor.skipShortText();
    cursor.skipLongText();
  }
  return describe(TypeId.xml, Extent.chunks, 0xffff);
}

/** `a.b.c` of the parts that are not empty. */
export function qualify(...parts: string[]): string {
  return parts.filter((part) => part !== '').join('.');
}

function bounded(id: number, size: number): TypeInfo {
  const key = (id << 8) | size;
  let info = BOUNDED.get(key);
  if (info === undefined) {
    info = describe(id, Extent.byte, size);
    BOUNDED.set(key, info);
  }
  return info;
}

function describe(
  id: number,
  extent: Extent,
  size: number,
  precision = 0,
  scale = 0,
  collation: Buffer | null = null,
  name: string | null = null,
): TypeInfo {
  return { id, extent, size, precision, scale, collation, name };
}

function sizeExtent(size: number): Extent {
  return size === 0xffff ? Extent.chunks : Extent.short;
}

function textExtent(flavor: Flavor): Extent {
  return flavor === 'result' ? Extent.pointer : Extent.long;
}

/** Collations that have been seen; a server has few, so most descriptions allocate none. */
const COLLATIONS = new Map<number, Buffer>();
const COLLATIONS_MAX = 1000;

function readCollation(cursor: Cursor): Buffer | null {
  if (!cursor.collated) return null;
  const head = cursor.uint32();
  const sortId = cursor.uint8();
  const key = head * 256 + sortId;
  let collation = COLLATIONS.get(key);
  if (collation === undefined) {
    collation = Buffer.alloc(5);
    collation.writeUInt32LE(head);
    collation[4] = sortId;
    if (COLLATIONS.size < COLLATIONS_MAX) COLLATIONS.set(key, collation);
  }
  return collation;
}

/** Types with a one-byte size in their description, at most 256 for each of the ten ids. */
const BOUNDED = new Map<number, TypeInfo>();

/** Types that are described by their id alone. */
const COMMON: (TypeInfo | undefined)[] = [];
for (const [id, size] of [
  [TypeId.null, 0],
  [TypeId.int1, 1],
  [TypeId.bit, 1],
  [TypeId.int2, 2],
  [TypeId.int4, 4],
  [TypeId.smalldatetime, 4],
  [TypeId.real, 4],
  [TypeId.money, 8],
  [TypeId.datetime, 8],
  [TypeId.float, 8],
  [TypeId.smallmoney, 4],
  [TypeId.int8, 8],
] as const) {
  COMMON[id] = describe(id, Extent.fixed, size);
}
COMMON[TypeId.date] = describe(TypeId.date, Extent.byte, 3);
COMMON[TypeId.json] = describe(TypeId.json, Extent.chunks, 0xffff);
COMMON[TypeId.table] = describe(TypeId.table, Extent.fixed, 0);

/** The type as T-SQL writes it. */
export function typeName(info: TypeInfo): string {
  const { id, size } = info;
  switch (id) {
    case TypeId.intN:
      return INTEGERS[size] ?? 'int';
    case TypeId.floatN:
      return size === 4 ? 'real' : 'float';
    case TypeId.moneyN:
      return size === 4 ? 'smallmoney' : 'money';
    case TypeId.datetimeN:
      return size === 4 ? 'smalldatetime' : 'datetime';
    case TypeId.decimalN:
    case TypeId.decimalOld:
      return `decimal(${info.precision},${info.scale})`;
    case TypeId.numericN:
    case TypeId.numericOld:
      return `numeric(${info.precision},${info.scale})`;
    case TypeId.time:
    case TypeId.datetime2:
    case TypeId.datetimeoffset:
      return `${NAMES.get(id)}(${info.scale})`;
    case TypeId.nvarchar:
    case TypeId.nchar:
      return `${NAMES.get(id)}(${size === 0xffff ? 'max' : size / 2})`;
    case TypeId.varchar:
    case TypeId.char:
    case TypeId.varbinary:
    case TypeId.binary:
    case TypeId.charOld:
    case TypeId.varcharOld:
    case TypeId.binaryOld:
    case TypeId.varbinaryOld:
      return `${NAMES.get(id)}(${size === 0xffff ? 'max' : size})`;
    case TypeId.udt:
    case TypeId.table:
      return info.name ?? NAMES.get(id)!;
    case TypeId.vector: {
      const elementBytes = info.scale === 1 ? 2 : 4;
      const dimensions = Math.max(0, size - VECTOR_HEADER_BYTES) / elementBytes;
      return `vector(${dimensions})`;
    }
    default:
      return NAMES.get(id) ?? `type ${id}`;
  }
}

/** Bytes ahead of a vector's elements: layout, version, dimensions, element type, three reserved (MS-TDS 2.2.5.5.7). */
export const VECTOR_HEADER_BYTES = 8;

const INTEGERS: Record<number, string> = { 1: 'tinyint', 2: 'smallint', 4: 'int', 8: 'bigint' };

const NAMES = new Map<number, string>([
  [TypeId.null, 'null'],
  [TypeId.image, 'image'],
  [TypeId.text, 'text'],
  [TypeId.guid, 'uniqueidentifier'],
  [TypeId.varbinaryOld, 'varbinary'],
  [TypeId.varcharOld, 'varchar'],
  [TypeId.date, 'date'],
  [TypeId.time, 'time'],
  [TypeId.datetime2, 'datetime2'],
  [TypeId.datetimeoffset, 'datetimeoffset'],
  [TypeId.binaryOld, 'binary'],
  [TypeId.charOld, 'char'],
  [TypeId.int1, 'tinyint'],
  [TypeId.bit, 'bit'],
  [TypeId.int2, 'smallint'],
  [TypeId.int4, 'int'],
  [TypeId.smalldatetime, 'smalldatetime'],
  [TypeId.real, 'real'],
  [TypeId.money, 'money'],
  [TypeId.datetime, 'datetime'],
  [TypeId.float, 'float'],
  [TypeId.variant, 'sql_variant'],
  [TypeId.ntext, 'ntext'],
  [TypeId.bitN, 'bit'],
  [TypeId.smallmoney, 'smallmoney'],
  [TypeId.int8, 'bigint'],
  [TypeId.varbinary, 'varbinary'],
  [TypeId.varchar, 'varchar'],
  [TypeId.binary, 'binary'],
  [TypeId.char, 'char'],
  [TypeId.nvarchar, 'nvarchar'],
  [TypeId.nchar, 'nchar'],
  [TypeId.udt, 'udt'],
  [TypeId.xml, 'xml'],
  [TypeId.table, 'table'],
  [TypeId.json, 'json'],
  [TypeId.vector, 'vector'],
]);
