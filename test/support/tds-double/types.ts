import { u16, u32, u64, utf16 } from './wire.ts';

/** Types and values of the test double: TYPE_INFO both ways, and values in the form that rows and parameters share. */

export type Scalar = null | number | bigint | boolean | string | Buffer;

export interface SqlType {
  readonly id: number;
  /** TYPE_INFO, the type byte included. */
  readonly info: Buffer;
  readonly scale: number;
  readonly precision: number;
  /** Bytes; 0xFFFF for the types without limit. */
  readonly size: number;
  readonly utf8?: boolean;
}

export interface SqlValue {
  readonly type: SqlType;
  readonly value: Scalar;
  /** The bytes as they came in a parameter: what `SELECT @p` gives back unchanged. */
  readonly wire?: Buffer;
  /** A table-valued parameter: the name of its type, which has the columns, and its rows. */
  readonly table?: { readonly typeName: string; readonly rows: readonly (readonly SqlValue[])[] };
}

const COLLATION = Buffer.from([0x09, 0x04, 0xd0, 0x00, 0x34]);
const UTF8_FLAG = 0x04;

function type(id: number, info: readonly (number | Buffer)[], extra: Partial<SqlType> = {}): SqlType {
  const parts = info.map((part) => (typeof part === 'number' ? Buffer.from([part]) : part));
  return {
    id,
    info: Buffer.concat([Buffer.from([id]), ...parts]),
    scale: 0,
    precision: 0,
    size: 0,
    ...extra,
  };
}

export const INT = type(0x26, [4], { size: 4 });
export const BIGINT = type(0x26, [8], { size: 8 });
export const SMALLINT = type(0x26, [2], { size: 2 });
export const TINYINT = type(0x26, [1], { size: 1 });
export const BIT = type(0x68, [1], { size: 1 });
export const FLOAT = type(0x6d, [8], { size: 8 });
export const REAL = type(0x6d, [4], { size: 4 });
export const GUID = type(0x24, [16], { size: 16 });
export const DATE = type(0x28, []);
export const DATETIME = type(0x6f, [8], { size: 8 });
export const SMALLDATETIME = type(0x6f, [4], { size: 4 });
export const MONEY = type(0x6e, [8], { size: 8 });
export const XML = type(0xf1, [0], { size: 0xffff });

export const nvarchar = (units: number): SqlType =>
  units > 4000
    ? type(0xe7, [u16(0xffff), COLLATION], { size: 0xffff })
    : type(0xe7, [u16(Math.max(1, units) * 2), COLLATION], { size: Math.max(1, units) * 2 });
export const nchar = (units: number): SqlType => type(0xef, [u16(units * 2), COLLATION], { size: units * 2 });
export const varchar = (bytes: number): SqlType =>
  bytes > 8000
    ? type(0xa7, [u16(0xffff), COLLATION], { size: 0xffff })
    : type(0xa7, [u16(Math.max(1, bytes)), COLLATION], { size: Math.max(1, bytes) });
export const char = (bytes: number): SqlType => type(0xaf, [u16(bytes), COLLATION], { size: bytes });
export const varbinary = (bytes: number): SqlType =>
  bytes > 8000
    ? type(0xa5, [u16(0xffff)], { size: 0xffff })
    : type(0xa5, [u16(Math.max(1, bytes))], { size: Math.max(1, bytes) });
export const decimal = (precision: number, scale: number): SqlType =>
  type(0x6c, [decimalBytes(precision), precision, scale], { precision, scale });
export const time = (scale: number): SqlType => type(0x29, [scale], { scale });
export const datetime2 = (scale: number): SqlType => type(0x2a, [scale], { scale });
export const datetimeoffset = (scale: number): SqlType => type(0x2b, [scale], { scale });

function decimalBytes(precision: number): number {
  return precision <= 9 ? 5 : precision <= 19 ? 9 : precision <= 28 ? 13 : 17;
}

/** A value with the type that its literal has in T-SQL. */
export function literal(value: Scalar): SqlValue {
  if (value === null) return { type: INT, value };
  if (typeof value === 'boolean') return { type: BIT, value };
  if (typeof value === 'bigint') return { type: BIGINT, value };
  if (typeof value === 'number') {
    if (!Number.isInteger(value)) return { type: FLOAT, value };
    return { type: Math.abs(value) < 0x8000_0000 ? INT : BIGINT, value };
  }
  if (Buffer.isBuffer(value)) return { type: varbinary(value.length), value };
  return { type: nvarchar(value.length), value };
}

/** The value's bytes as a row has them. */
export function encode({ type: of, value, wire }: SqlValue): Buffer {
  if (wire !== undefined) return wire;
  if (value === null) return of.size === 0xffff ? Buffer.alloc(8, 0xff) : nullOf(of);
  const body = encodeBody(of, value);
  if (of.size === 0xffff) {
    const chunks: Buffer[] = [u64(body.length)];
    if (body.length > 0) chunks.push(u32(body.length), body);
    return Buffer.concat([...chunks, u32(0)]);
  }
  return Buffer.concat([isShort(of) ? u16(body.length) : Buffer.from([body.length]), body]);
}

function isShort(of: SqlType): boolean {
  return [0xa7, 0xaf, 0xe7, 0xef, 0xa5, 0xad].includes(of.id);
}

function nullOf(of: SqlType): Buffer {
  return isShort(of) ? u16(0xffff) : Buffer.from([0]);
}

function encodeBody(of: SqlType, value: Exclude<Scalar, null>): Buffer {
  switch (of.id) {
    case 0x26: {
      const bytes = Buffer.alloc(8);
      bytes.writeBigInt64LE(BigInt(typeof value === 'string' ? value.trim() : (value as number)));
      return bytes.subarray(0, of.size);
    }
    case 0x68:
      return Buffer.from([value === true || Number(value) !== 0 ? 1 : 0]);
    case 0x6d: {
      const bytes = Buffer.alloc(of.size);
      if (of.size === 8) bytes.writeDoubleLE(Number(value));
      else bytes.writeFloatLE(Number(value));
      return bytes;
    }
    case 0x6c:
    case 0x6a:
      return encodeDecimal(of, String(value));
    case 0x6e: {
      const scaled = scaledInteger(String(value), 4);
      const bytes = Buffer.alloc(8);
      bytes.writeInt32LE(Number(scaled >> 32n), 0);
      bytes.writeUInt32LE(Number(scaled & 0xffff_ffffn), 4);
      return bytes;
    }
    case 0xe7:
    case 0xef:
      return utf16(of.id === 0xef ? text(value).padEnd(of.size / 2) : text(value));
    case 0xf1:
      return Buffer.concat([Buffer.from([0xff, 0xfe]), utf16(text(value))]);
    case 0xa7:
    case 0xaf: {
      const shown = of.id === 0xaf ? text(value).padEnd(of.size) : text(value);
      return Buffer.from(shown, of.utf8 ? 'utf8' : 'latin1');
    }
    case 0xa5:
    case 0xad:
      return Buffer.isBuffer(value) ? value : utf16(text(value));
    case 0x24:
      return encodeGuid(text(value));
    default:
      return encodeTemporal(of, text(value));
  }
}

export function text(value: Scalar): string {
  if (value === null) return '';
  if (value === true) return '1';
  if (value === false) return '0';
  return Buffer.isBuffer(value) ? value.toString('utf16le') : String(value);
}

function scaledInteger(number: string, scale: number): bigint {
  const match = /^\s*(-?)(\d*)(?:\.(\d*))?\s*$/.exec(number);
  if (match === null) throw new Error(`not a number: ${number}`);
  const digits = `${match[2] || '0'}${(match[3] ?? '').slice(0, scale).padEnd(scale, '0')}`;
  return BigInt(digits) * (match[1] ? -1n : 1n);
}

function encodeDecimal(of: SqlType, number: string): Buffer {
  const scaled = scaledInteger(number, of.scale);
  const bytes = Buffer.alloc(decimalBytes(of.precision));
  bytes[0] = scaled < 0n ? 0 : 1;
  let rest = scaled < 0n ? -scaled : scaled;
  for (let at = 1; at < bytes.length; at += 1) {
    bytes[at] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  return bytes;
}

function encodeGuid(guid: string): Buffer {
  const hex = Buffer.from(guid.replaceAll(/[{}-]/g, ''), 'hex');
  return Buffer.concat([
    hex.subarray(0, 4).reverse(),
    hex.subarray(4, 6).reverse(),
    hex.subarray(6, 8).reverse(),
    hex.subarray(8),
  ]);
}

const DAY_MS = 86_400_000;

function encodeTemporal(of: SqlType, iso: string): Buffer {
  const match =
    /^(?:(\d{4})-(\d\d)-(\d\d))?[T ]?(?:(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,7}))?)?)?\s*([+-]\d\d:\d\d)?$/.exec(
      iso,
    );
  if (match === null) throw new Error(`not a date: ${iso}`);
  const [, year, month, day, hour, minute, second, fraction, zone] = match;
  const minutes =
    zone === undefined ? 0 : (zone[0] === '-' ? -1 : 1) * (+zone.slice(1, 3) * 60 + +zone.slice(4));
  const seconds = +(hour ?? 0) * 3600 + +(minute ?? 0) * 60 + +(second ?? 0) - minutes * 60;
  let days = Math.round(Date.UTC(+(year ?? 1900), +(month ?? 1) - 1, +(day ?? 1)) / DAY_MS);
  const shift = Math.floor(seconds / 86_400);
  days += shift;
  const ticks = BigInt(seconds - shift * 86_400) * 10_000_000n + BigInt((fraction ?? '').padEnd(7, '0'));
  if (of.id === 0x6f) {
    const bytes = Buffer.alloc(8);
    bytes.writeInt32LE(days + 25_567, 0);
    bytes.writeUInt32LE(Number((ticks * 300n + 5_000_000n) / 10_000_000n), 4);
    return bytes;
  }
  const since = Buffer.alloc(4);
  since.writeUInt32LE(days + 719_162);
  const date = since.subarray(0, 3);
  if (of.id === 0x28) return date;
  const width = of.scale <= 2 ? 3 : of.scale <= 4 ? 4 : 5;
  const clock = u64(ticks / 10n ** BigInt(7 - of.scale)).subarray(0, width);
  if (of.id === 0x29) return clock;
  if (of.id === 0x2a) return Buffer.concat([clock, date]);
  return Buffer.concat([clock, date, u16(minutes)]);
}

/** A cursor over a message's payload. */
export class Bytes {
  readonly bytes: Buffer;
  at: number;

  constructor(bytes: Buffer, at = 0) {
    this.bytes = bytes;
    this.at = at;
  }

  get left(): number {
    return this.bytes.length - this.at;
  }

  u8(): number {
    this.at += 1;
    return this.bytes[this.at - 1]!;
  }

  u16(): number {
    this.at += 2;
    return this.bytes.readUInt16LE(this.at - 2);
  }

  u32(): number {
    this.at += 4;
    return this.bytes.readUInt32LE(this.at - 4);
  }

  take(length: number): Buffer {
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  text(units: number): string {
    return this.take(units * 2).toString('utf16le');
  }
}

const FIXED: Readonly<Record<number, number>> = {
  31: 0,
  48: 1,
  50: 1,
  52: 2,
  56: 4,
  58: 4,
  59: 4,
  60: 8,
  61: 8,
  62: 8,
  122: 4,
  127: 8,
};

/** Reads TYPE_INFO. `column`: the form of COLMETADATA, with a table name behind text types. */
export function readType(from: Bytes, column: boolean): SqlType {
  const start = from.at;
  const id = from.u8();
  let size = 0;
  let scale = 0;
  let precision = 0;
  let collation: Buffer | null = null;
  if (id in FIXED) size = FIXED[id]!;
  else if ([0x24, 0x26, 0x68, 0x6d, 0x6e, 0x6f].includes(id)) size = from.u8();
  else if (id === 0x6a || id === 0x6c) {
    size = from.u8();
    precision = from.u8();
    scale = from.u8();
  } else if (id >= 0x29 && id <= 0x2b) scale = from.u8();
  else if (id === 0xa7 || id === 0xaf || id === 0xe7 || id === 0xef) {
    size = from.u16();
    collation = from.take(5);
  } else if (id === 0xa5 || id === 0xad) size = from.u16();
  else if (id === 0x22 || id === 0x23 || id === 0x63) {
    size = from.u32();
    if (id !== 0x22) collation = from.take(5);
    if (column) for (let parts = from.u8(); parts > 0; parts -= 1) from.text(from.u16());
  } else if (id === 0xf1) {
    if (from.u8() === 1) {
      from.text(from.u8());
      from.text(from.u8());
      from.text(from.u16());
    }
    size = 0xffff;
  } else if (id === 0x62) size = from.u32();
  else if (id !== 0x28) throw new Error(`the test double does not know type 0x${id.toString(16)}`);
  const info = from.bytes.subarray(start, from.at);
  return { id, info, size, scale, precision, utf8: collation !== null && (collation[3]! & UTF8_FLAG) !== 0 };
}

/** Reads a value of a parameter or a bulk row, with the type that a result column of it has. */
export function readValue(from: Bytes, of: SqlType): SqlValue {
  const start = from.at;
  if (of.id in FIXED) return nullable(of, from.take(of.size));
  if (of.id === 0x22 || of.id === 0x23 || of.id === 0x63) return readLong(from, of);
  if (of.size === 0xffff) {
    const data = readChunks(from);
    return {
      type: of,
      value: data === null ? null : decode(of, data),
      wire: from.bytes.subarray(start, from.at),
    };
  }
  let length: number;
  if (of.id === 0x62) length = from.u32();
  else if (isShort(of)) length = from.u16();
  else length = from.u8();
  const isNull = isShort(of) ? length === 0xffff : length === 0;
  const data = isNull ? null : from.take(length);
  return {
    type: of,
    value: data === null ? null : decode(of, data),
    wire: from.bytes.subarray(start, from.at),
  };
}

function readChunks(from: Bytes): Buffer | null {
  const total = from.take(8);
  if (total.every((byte) => byte === 0xff)) return null;
  const chunks: Buffer[] = [];
  for (let length = from.u32(); length > 0; length = from.u32()) chunks.push(from.take(length));
  return Buffer.concat(chunks);
}

/** TEXT, NTEXT and IMAGE come back as the types without limit that took their place. */
function readLong(from: Bytes, of: SqlType): SqlValue {
  const length = from.u32();
  const data = length === 0xffff_ffff ? null : from.take(length);
  const as = of.id === 0x22 ? varbinary(9000) : of.id === 0x23 ? varchar(9000) : nvarchar(9000);
  if (data === null) return { type: as, value: null };
  if (of.id === 0x22) return { type: as, value: data };
  return { type: as, value: data.toString(of.id === 0x23 ? 'latin1' : 'utf16le') };
}

/** A fixed type as the nullable one that a column has. */
function nullable(of: SqlType, data: Buffer): SqlValue {
  const ids: Readonly<Record<number, SqlType>> = {
    48: TINYINT,
    50: BIT,
    52: SMALLINT,
    56: INT,
    58: SMALLDATETIME,
    59: REAL,
    60: MONEY,
    61: DATETIME,
    62: FLOAT,
    127: BIGINT,
  };
  const as = ids[of.id] ?? INT;
  if (data.length === 0) return { type: as, value: null };
  return { type: as, value: decode(as, data), wire: Buffer.concat([Buffer.from([data.length]), data]) };
}

function decode(of: SqlType, data: Buffer): Scalar {
  switch (of.id) {
    case 0x26:
      if (data.length === 8) return data.readBigInt64LE(0);
      return data.length === 1 ? data[0]! : data.readIntLE(0, data.length);
    case 0x68:
      return data[0] !== 0;
    case 0x6d:
      return data.length === 8 ? data.readDoubleLE(0) : data.readFloatLE(0);
    case 0xe7:
    case 0xef:
      return data.toString('utf16le');
    case 0xa7:
    case 0xaf:
      return data.toString(of.utf8 ? 'utf8' : 'latin1');
    case 0x6a:
    case 0x6c: {
      let magnitude = 0n;
      for (let at = data.length - 1; at > 0; at -= 1) magnitude = (magnitude << 8n) | BigInt(data[at]!);
      const digits = magnitude.toString().padStart(of.scale + 1, '0');
      const point = digits.length - of.scale;
      const shown = of.scale === 0 ? digits : `${digits.slice(0, point)}.${digits.slice(point)}`;
      return data[0] === 0 ? `-${shown}` : shown;
    }
    default:
      return data;
  }
}
