import { createHash } from 'node:crypto';
import { PARAMETER_BYTES_MAX } from '../limits.ts';
import type { Parameter, ParameterValue } from '../statement.ts';
import type { Charset } from './charset.ts';
import type { Fields } from './packets.ts';

/**
 * MySQL's binary values ("Binary Protocol Value"): bound parameters and the rows of prepared statements. Types are the
 * numbers of `enum_field_types`.
 */
export const TYPE_NULL = 6;
const TYPE_DATE = 10;
const TYPE_TIME = 11;
const TYPE_DATETIME = 12;
const TYPE_TIMESTAMP = 7;
const TYPE_BIT = 16;
const TYPE_VECTOR = 242;
const TYPE_TINY_BLOB = 249;
const TYPE_BLOB = 252;
const TYPE_GEOMETRY = 255;

const NAMES: Readonly<Record<number, string>> = {
  0: 'DECIMAL',
  1: 'TINYINT',
  2: 'SMALLINT',
  3: 'INT',
  4: 'FLOAT',
  5: 'DOUBLE',
  6: 'NULL',
  7: 'TIMESTAMP',
  8: 'BIGINT',
  9: 'MEDIUMINT',
  10: 'DATE',
  11: 'TIME',
  12: 'DATETIME',
  13: 'YEAR',
  15: 'VARCHAR',
  16: 'BIT',
  242: 'VECTOR',
  244: 'BOOL',
  245: 'JSON',
  246: 'DECIMAL',
  247: 'ENUM',
  248: 'SET',
  249: 'TINYBLOB',
  250: 'MEDIUMBLOB',
  251: 'LONGBLOB',
  252: 'BLOB',
  253: 'VARCHAR',
  254: 'CHAR',
  255: 'GEOMETRY',
};

/** The SQL name of a type number, with `UNSIGNED` where the flag says so; null for an unknown number. */
export function typeName(type: number, unsigned: boolean): string | null {
  const name = NAMES[type];
  if (name === undefined) return null;
  return unsigned ? UNSIGNED_NAMES[type]! : name;
}

const UNSIGNED_NAMES = Object.fromEntries(
  Object.entries(NAMES).map(([type, name]) => [type, `${name} UNSIGNED`]),
) as Record<number, string>;

/** Types whose values are bytes rather than text. */
export function isBinaryType(type: number): boolean {
  return (
    (type >= TYPE_TINY_BLOB && type <= TYPE_BLOB) ||
    type === TYPE_BIT ||
    type === TYPE_GEOMETRY ||
    type === TYPE_VECTOR
  );
}

/** Whether the value of this type is a length-encoded string. Null for a type that is unknown. */
export function isLengthEncoded(type: number): boolean | null {
  if (NAMES[type] === undefined) return null;
  return type === 0 || type === 15 || type === TYPE_BIT || type === TYPE_VECTOR || type >= 245;
}

/**
 * One value of a fixed or dated type, consumed from `fields`: numbers as numbers, integers beyond 2^53 and moments as
 * the text that the server would show. `undefined` for a type that is length-encoded or unknown.
 */
export function readFixed(fields: Fields, type: number, unsigned: boolean): ParameterValue | undefined {
  const { bytes } = fields;
  let at: number;
  switch (type) {
    case TYPE_NULL:
      return null;
    case 1:
    case 244:
      at = fields.take(1);
      return at < 0 ? undefined : unsigned ? bytes[at]! : bytes.readInt8(at);
    case 2:
    case 13:
      at = fields.take(2);
      return at < 0 ? undefined : unsigned ? bytes.readUInt16LE(at) : bytes.readInt16LE(at);
    case 3:
    case 9:
      at = fields.take(4);
      return at < 0 ? undefined : unsigned ? bytes.readUInt32LE(at) : bytes.readInt32LE(at);
    case 8:
      at = fields.take(8);
      return at < 0 ? undefined : wholeNumber(bytes, at, unsigned);
    case 4:
      at = fields.take(4);
      return at < 0 ? undefined : finite(shortestFloat(bytes.readFloatLE(at)));
    case 5:
      at = fields.take(8);
      return at < 0 ? undefined : finite(bytes.readDoubleLE(at));
    case TYPE_DATE:
    case TYPE_DATETIME:
    case TYPE_TIMESTAMP:
      return readMoment(fields, type === TYPE_DATE);
    case TYPE_TIME:
      return readTime(fields);
    default:
      return undefined;
  }
}

function wholeNumber(bytes: Buffer, at: number, unsigned: boolean): number | string {
  const high = unsigned ? bytes.readUInt32LE(at + 4) : bytes.readInt32LE(at + 4);
  if (high >= -0x20_0000 && high < 0x20_0000) return high * 0x1_0000_0000 + bytes.readUInt32LE(at);
  return String(unsigned ? bytes.readBigUInt64LE(at) : bytes.readBigInt64LE(at));
}

/** JSON has no infinity and no NaN. */
function finite(value: number): number | string {
  return Number.isFinite(value) ? value : String(value);
}

/** The shortest decimal number that is this 32-bit float. */
function shortestFloat(value: number): number {
  for (let digits = 6; digits < 9; digits += 1) {
    const shorter = Number(value.toPrecision(digits));
    if (Math.fround(shorter) === value) return shorter;
  }
  return value;
}

function two(value: number): string {
  return value < 10 ? `0${value}` : String(value);
}

function fraction(microseconds: number): string {
  return microseconds === 0 ? '' : `.${String(microseconds).padStart(6, '0')}`;
}

/** DATE, DATETIME, TIMESTAMP: 0, 4, 7, 11 or (with a time zone offset) 13 bytes. */
function readMoment(fields: Fields, dateOnly: boolean): string | undefined {
  const length = fields.uint8();
  if (length > fields.remaining) {
    fields.fail();
    return undefined;
  }
  const end = fields.at + length;
  let date = '0000-00-00';
  let time = '00:00:00';
  if (length >= 4) {
    const year = String(fields.uint16()).padStart(4, '0');
    date = `${year}-${two(fields.uint8())}-${two(fields.uint8())}`;
  }
  if (length >= 7) time = `${two(fields.uint8())}:${two(fields.uint8())}:${two(fields.uint8())}`;
  if (length >= 11) time += fraction(fields.uint32());
  if (length >= 13) time += offset(fields.uint16());
  fields.at = end;
  return dateOnly && length <= 4 ? date : `${date} ${time}`;
}

function offset(raw: number): string {
  const minutes = raw >= 0x8000 ? raw - 0x1_0000 : raw;
  const size = Math.abs(minutes);
  return `${minutes < 0 ? '-' : '+'}${two(Math.floor(size / 60))}:${two(size % 60)}`;
}

/** TIME: 0, 8 or 12 bytes; days are part of the hours. */
function readTime(fields: Fields): string | undefined {
  const length = fields.uint8();
  if (length > fields.remaining) {
    fields.fail();
    return undefined;
  }
  const end = fields.at + length;
  let text = '00:00:00';
  if (length >= 8) {
    const sign = fields.uint8() === 0 ? '' : '-';
    const days = fields.uint32();
    const hours = fields.uint8() + days * 24;
    text = `${sign}${two(hours)}:${two(fields.uint8())}:${two(fields.uint8())}`;
    if (length >= 12) text += fraction(fields.uint32());
  }
  fields.at = end;
  return text;
}

/** A string or bytes as a parameter's value: text where they are text, else their hexadecimal digits. */
export function bytesValue(bytes: Buffer, binary: boolean, charset: Charset): ParameterValue {
  if (!charset.isText(bytes) || (binary && bytes.includes(0))) return { hex: bytes.toString('hex') };
  return charset.decode(bytes, 0, bytes.length);
}

/** The event's form of a string or bytes value: cut, with length and SHA-256, where it is longer than an event keeps. */
export function bytesParameter(
  name: string | null,
  type: string | null,
  bytes: Buffer,
  binary: boolean,
  charset: Charset,
): Parameter {
  if (bytes.length <= PARAMETER_BYTES_MAX) return { name, type, value: bytesValue(bytes, binary, charset) };
  const value = headValue(bytes.subarray(0, PARAMETER_BYTES_MAX), binary, charset);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  return { name, type, value, bytes: bytes.length, sha256 };
}

/** As `bytesValue`, for the head of a longer value: a character that the cut went through does not make it binary. */
export function headValue(head: Buffer, binary: boolean, charset: Charset): ParameterValue {
  for (let cut = 0; cut < 4 && cut <= head.length; cut += 1) {
    const part = head.subarray(0, head.length - cut);
    if (charset.isText(part)) return bytesValue(part, binary, charset);
  }
  return { hex: head.toString('hex') };
}
