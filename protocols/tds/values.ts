import type { ParameterValue } from '../statement.ts';
import { decodeCodePage } from './collation.ts';
import { Cursor } from './cursor.ts';
import { TypeId, type TypeInfo, typeName, VECTOR_HEADER_BYTES } from './types.ts';

/**
 * Values as the record shows them: numbers as numbers where JSON keeps them exactly and as text where it does not,
 * decimals and money as text, dates and times in ISO 8601 at the declared precision, binary as `0x…` (MS-TDS 2.2.5.5).
 */

/**
 * Reads one value that is not NULL. `bytes` is the value without its length, or, with `cut`, only its beginning.
 * Whatever does not fit its type reads as hexadecimal; nothing is thrown.
 */
export function decodeValue(info: TypeInfo, bytes: Buffer, cut = false): ParameterValue {
  switch (info.id) {
    case TypeId.nvarchar:
    case TypeId.nchar:
    case TypeId.ntext:
      return decodeUtf16(bytes);
    case TypeId.varchar:
    case TypeId.char:
    case TypeId.text:
    case TypeId.varcharOld:
    case TypeId.charOld:
      return decodeCharacters(bytes, info.collation, cut);
    case TypeId.json:
      return wholeCharacters(bytes.toString('utf8'), cut);
    case TypeId.xml:
      return decodeXml(bytes);
    case TypeId.variant:
      return decodeVariant(bytes, cut);
    case TypeId.vector:
      return decodeVector(bytes, cut);
    default:
      if (cut) return hexadecimal(bytes);
      return decodeScalar(info, bytes) ?? hexadecimal(bytes);
  }
}

/** The base type of a `sql_variant` value, as T-SQL writes it; null where it cannot be read. */
export function variantTypeName(bytes: Buffer): string | null {
  const base = readVariant(bytes);
  return base === null ? null : typeName(base.info);
}

export function hexadecimal(bytes: Buffer): string {
  return `0x${bytes.toString('hex')}`;
}

/** Null where the length does not fit the type. */
function decodeScalar(info: TypeInfo, bytes: Buffer): ParameterValue {
  const { id } = info;
  const length = bytes.length;
  switch (id) {
    case TypeId.int1:
    case TypeId.int2:
    case TypeId.int4:
    case TypeId.int8:
    case TypeId.intN:
      return decodeInteger(bytes);
    case TypeId.bit:
    case TypeId.bitN:
      return length === 1 ? bytes[0] !== 0 : null;
    case TypeId.real:
    case TypeId.float:
    case TypeId.floatN:
      if (length === 4) return shortestFloat(bytes.readFloatLE(0));
      return length === 8 ? finite(bytes.readDoubleLE(0)) : null;
    case TypeId.money:
    case TypeId.smallmoney:
    case TypeId.moneyN:
      return decodeMoney(bytes);
    case TypeId.datetime:
    case TypeId.smalldatetime:
    case TypeId.datetimeN:
      return decodeOldDatetime(bytes);
    case TypeId.decimalN:
    case TypeId.numericN:
    case TypeId.decimalOld:
    case TypeId.numericOld:
      return decodeDecimal(bytes, info.scale);
    case TypeId.guid:
      return length === 16 ? decodeGuid(bytes) : null;
    case TypeId.date:
      return length === 3 ? dateText(bytes.readUIntLE(0, 3)) : null;
    case TypeId.time:
      return decodeTime(bytes, info.scale);
    case TypeId.datetime2:
      return decodeDatetime2(bytes, info.scale);
    case TypeId.datetimeoffset:
      return decodeDatetimeoffset(bytes, info.scale);
    default:
      return null;
  }
}

function decodeInteger(bytes: Buffer): ParameterValue {
  switch (bytes.length) {
    case 1:
      return bytes[0]!;
    case 2:
      return bytes.readInt16LE(0);
    case 4:
      return bytes.readInt32LE(0);
    case 8: {
      const value = bytes.readBigInt64LE(0);
      const number = Number(value);
      return Number.isSafeInteger(number) ? number : value.toString();
    }
    default:
      return null;
  }
}

/** JSON has no NaN and no infinity, and SQL Server stores neither. */
function finite(value: number): ParameterValue {
  return Number.isFinite(value) ? value : String(value);
}

/** The number with the fewest digits that is this `real`: 1.1, not 1.100000023841858. */
function shortestFloat(value: number): ParameterValue {
  if (!Number.isFinite(value)) return String(value);
  for (let digits = 6; digits < 9; digits++) {
    const candidate = Number(value.toPrecision(digits));
    if (Math.fround(candidate) === value) return candidate;
  }
  return value;
}

function decodeMoney(bytes: Buffer): ParameterValue {
  if (bytes.length === 4) return scaled(BigInt(bytes.readInt32LE(0)), 4);
  if (bytes.length !== 8) return null;
  return scaled((BigInt(bytes.readInt32LE(0)) << 32n) | BigInt(bytes.readUInt32LE(4)), 4);
}

function decodeDecimal(bytes: Buffer, scale: number): ParameterValue {
  if (bytes.length < 2 || bytes.length > 17) return null;
  let magnitude = 0n;
  for (let index = bytes.length - 1; index >= 1; index--)
    magnitude = (magnitude << 8n) | BigInt(bytes[index]!);
  return scaled(bytes[0] === 0 ? -magnitude : magnitude, scale);
}

function scaled(value: bigint, scale: number): string {
  if (scale === 0) return value.toString();
  const digits = (value < 0n ? -value : value).toString().padStart(scale + 1, '0');
  const point = digits.length - scale;
  return `${value < 0n ? '-' : ''}${digits.slice(0, point)}.${digits.slice(point)}`;
}

/** The first three groups are little-endian. */
function decodeGuid(bytes: Buffer): string {
  const first = bytes.readUInt32LE(0).toString(16).padStart(8, '0');
  const second = bytes.readUInt16LE(4).toString(16).padStart(4, '0');
  const third = bytes.readUInt16LE(6).toString(16).padStart(4, '0');
  const rest = bytes.toString('hex', 8);
  return `${first}-${second}-${third}-${rest.slice(0, 4)}-${rest.slice(4)}`.toUpperCase();
}

/** Days between 0001-01-01 and 1900-01-01. */
const DAYS_TO_1900 = 693_595;

function decodeOldDatetime(bytes: Buffer): ParameterValue {
  if (bytes.length === 4) {
    const minutes = bytes.readUInt16LE(2);
    return `${dateText(DAYS_TO_1900 + bytes.readUInt16LE(0))}T${clockText(minutes * 60)}`;
  }
  if (bytes.length !== 8) return null;
  // Ticks are 1/300 s and read as milliseconds rounded, as SQL Server shows them.
  const milliseconds = Math.round((bytes.readUInt32LE(4) * 10) / 3);
  const clock = clockText(Math.floor(milliseconds / 1000));
  const fraction = String(milliseconds % 1000).padStart(3, '0');
  return `${dateText(DAYS_TO_1900 + bytes.readInt32LE(0))}T${clock}.${fraction}`;
}

function decodeTime(bytes: Buffer, scale: number): ParameterValue {
  if (bytes.length < 3 || bytes.length > 5 || scale > 7) return null;
  const units = bytes.readUIntLE(0, bytes.length);
  return timeText(units, scale);
}

function decodeDatetime2(bytes: Buffer, scale: number): ParameterValue {
  const timeBytes = bytes.length - 3;
  const time = decodeTime(bytes.subarray(0, Math.max(0, timeBytes)), scale);
  if (time === null) return null;
  return `${dateText(bytes.readUIntLE(timeBytes, 3))}T${time}`;
}

/** The wire has UTC and the offset; shown is the local time with its offset. */
function decodeDatetimeoffset(bytes: Buffer, scale: number): ParameterValue {
  const timeBytes = bytes.length - 5;
  if (timeBytes < 3 || timeBytes > 5 || scale > 7) return null;
  const perSecond = 10 ** scale;
  const units = bytes.readUIntLE(0, timeBytes);
  const days = bytes.readUIntLE(timeBytes, 3);
  const offset = bytes.readInt16LE(timeBytes + 3);
  const seconds = days * 86_400 + Math.floor(units / perSecond) + offset * 60;
  const day = Math.floor(seconds / 86_400);
  const local = (seconds - day * 86_400) * perSecond + (units % perSecond);
  const minutes = Math.abs(offset);
  const zone = `${offset < 0 ? '-' : '+'}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
  return `${dateText(day)}T${timeText(local, scale)}${zone}`;
}

function timeText(units: number, scale: number): string {
  const perSecond = 10 ** scale;
  const clock = clockText(Math.floor(units / perSecond));
  return scale === 0 ? clock : `${clock}.${String(units % perSecond).padStart(scale, '0')}`;
}

function clockText(seconds: number): string {
  return `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
}

function two(value: number): string {
  return value < 10 ? `0${value}` : String(value);
}

const DAY_MS = 86_400_000;
const YEAR_1_MS = -62_135_596_800_000;

/** `days` since 0001-01-01, Gregorian throughout. */
function dateText(days: number): string {
  const date = new Date(YEAR_1_MS + days * DAY_MS);
  const year = date.getUTCFullYear();
  if (Number.isNaN(year)) return `day ${days}`;
  return `${String(year).padStart(4, '0')}-${two(date.getUTCMonth() + 1)}-${two(date.getUTCDate())}`;
}

function decodeUtf16(bytes: Buffer): string {
  return bytes.toString('utf16le', 0, bytes.length & ~1);
}

function decodeCharacters(bytes: Buffer, collation: Buffer | null, cut: boolean): string {
  return wholeCharacters(decodeCodePage(bytes, collation), cut);
}

/** A cut may have gone through a character of several bytes. */
function wholeCharacters(text: string, cut: boolean): string {
  return cut ? text.replace(/\ufffd$/, '') : text;
}

/** Text in UTF-16, or binary XML (MS-BINXML), which begins with 0xDFFF and is shown as bytes. */
function decodeXml(bytes: Buffer): string {
  if (bytes.length >= 2 && bytes[0] === 0xdf && bytes[1] === 0xff) return hexadecimal(bytes);
  return decodeUtf16(bytes).replace(/^\ufeff/, '');
}

function decodeVariant(bytes: Buffer, cut: boolean): ParameterValue {
  const base = readVariant(bytes);
  if (base === null) return hexadecimal(bytes);
  return decodeValue(base.info, base.data, cut);
}

/** A variant's base type and data: type id, length of its properties, properties, data (MS-TDS 2.2.5.5.4). */
function readVariant(bytes: Buffer): { info: TypeInfo; data: Buffer } | null {
  const cursor = new Cursor().set(bytes, 0, bytes.length);
  const id = cursor.uint8();
  const propertiesEnd = cursor.uint8() + 2;
  let size = 0;
  let precision = 0;
  let scale = 0;
  let collation: Buffer | null = null;
  switch (id) {
    case TypeId.varchar:
    case TypeId.char:
    case TypeId.nvarchar:
    case TypeId.nchar:
      collation = Buffer.from(cursor.slice(5));
      size = cursor.uint16();
      break;
    case TypeId.varbinary:
    case TypeId.binary:
      size = cursor.uint16();
      break;
    case TypeId.decimalN:
    case TypeId.numericN:
      precision = cursor.uint8();
      scale = cursor.uint8();
      break;
    case TypeId.time:
    case TypeId.datetime2:
    case TypeId.datetimeoffset:
      scale = cursor.uint8();
      break;
    default:
      break;
  }
  if (cursor.short || propertiesEnd > bytes.length || id === TypeId.variant) return null;
  const info: TypeInfo = { id, extent: 0, size, precision, scale, collation, name: null };
  return { info, data: bytes.subarray(propertiesEnd) };
}

/** A header (0xA9, version 1, dimensions, element type) and `float32` or `float16` elements (MS-TDS 2.2.5.5.7). */
function decodeVector(bytes: Buffer, cut: boolean): string {
  if (bytes.length < VECTOR_HEADER_BYTES || bytes[0] !== 0xa9) return hexadecimal(bytes);
  const half = bytes[4] === 1;
  const elementBytes = half ? 2 : 4;
  const elements: ParameterValue[] = [];
  for (let at = VECTOR_HEADER_BYTES; at + elementBytes <= bytes.length; at += elementBytes) {
    elements.push(half ? decodeHalf(bytes.readUInt16LE(at)) : shortestFloat(bytes.readFloatLE(at)));
  }
  return `[${elements.join(',')}${cut ? ',…' : ''}]`;
}

/** IEEE 754 binary16. */
function decodeHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
