import type { TextDecode } from './encoding.ts';
import { int32, uint16 } from './messages.ts';
import { ARRAY_ELEMENTS, RANGE_ELEMENTS } from './types.ts';

/**
 * Binary values as text: what `value::text` gives in a session with PostgreSQL's default settings and `TimeZone` UTC.
 * Source: the `*_send` functions of src/backend/utils/adt. Integers are big endian.
 */

/** Arrays and ranges within arrays: deeper is shown as bytes. */
const DEPTH_MAX = 4;

/** A value that does not have its type's form. */
class Misshapen extends Error {}

/**
 * The text of a binary value of type `oid`. What the type is not known for, or what does not have its form, is shown
 * as bytes: `\x` and hexadecimal digits.
 */
export function binaryText(
  oid: number,
  bytes: Buffer,
  start: number,
  end: number,
  decode: TextDecode,
): string {
  try {
    return textOf(oid, bytes, start, end, decode, 0) ?? hexText(bytes, start, end);
  } catch (error) {
    if (error instanceof Misshapen || error instanceof RangeError) return hexText(bytes, start, end);
    throw error;
  }
}

export function hexText(bytes: Buffer, start: number, end: number): string {
  return `\\x${bytes.toString('hex', start, end)}`;
}

/** Whether the type's binary form is its text in the client's encoding. */
export function isTextual(oid: number): boolean {
  switch (oid) {
    case 18: // char
    case 19: // name
    case 25: // text
    case 114: // json
    case 142: // xml
    case 705: // unknown
    case 1042: // bpchar
    case 1043: // varchar
    case 1790: // refcursor
      return true;
    default:
      return false;
  }
}

function textOf(
  oid: number,
  bytes: Buffer,
  start: number,
  end: number,
  decode: TextDecode,
  depth: number,
): string | null {
  const length = end - start;
  if (isTextual(oid)) return decode(bytes, start, end);
  switch (oid) {
    case 16:
      need(length === 1);
      return bytes[start] === 0 ? 'false' : 'true';
    case 17:
      return hexText(bytes, start, end);
    case 20:
      need(length === 8);
      return String(bytes.readBigInt64BE(start));
    case 21:
      need(length === 2);
      return String(bytes.readInt16BE(start));
    case 23:
      need(length === 4);
      return String(int32(bytes, start));
    case 24: // regproc and its kind, as numbers: their names are in the server
    case 26:
    case 28:
    case 29:
    case 2202:
    case 2205:
    case 2206:
      need(length === 4);
      return String(bytes.readUInt32BE(start));
    case 5069:
      need(length === 8);
      return String(bytes.readBigUInt64BE(start));
    case 27:
      need(length === 6);
      return `(${bytes.readUInt32BE(start)},${uint16(bytes, start + 4)})`;
    case 700:
      need(length === 4);
      return float4Text(bytes.readFloatBE(start));
    case 701:
      need(length === 8);
      return float8Text(bytes.readDoubleBE(start));
    case 790:
      need(length === 8);
      return moneyText(bytes.readBigInt64BE(start));
    case 1082:
      need(length === 4);
      return dateText(int32(bytes, start));
    case 1083:
      need(length === 8);
      return timeText(bytes.readBigInt64BE(start));
    case 1266:
      need(length === 12);
      return timeText(bytes.readBigInt64BE(start)) + zoneText(-int32(bytes, start + 8));
    case 1114:
      need(length === 8);
      return timestampText(bytes.readBigInt64BE(start), '');
    case 1184:
      need(length === 8);
      return timestampText(bytes.readBigInt64BE(start), '+00');
    case 1186:
      need(length === 16);
      return intervalText(bytes.readBigInt64BE(start), int32(bytes, start + 8), int32(bytes, start + 12));
    case 1560:
    case 1562:
      return bitText(bytes, start, end);
    case 1700:
      return numericText(bytes, start, end);
    case 2950:
      need(length === 16);
      return uuidText(bytes.toString('hex', start, end));
    case 3220:
      need(length === 8);
      return `${bytes.readUInt32BE(start).toString(16).toUpperCase()}/${bytes
        .readUInt32BE(start + 4)
        .toString(16)
        .toUpperCase()}`;
    case 3802:
    case 4072:
      need(length >= 1 && bytes[start] === 1);
      return decode(bytes, start + 1, end);
    case 650:
    case 869:
      return inetText(bytes, start, end, oid === 650);
    case 774:
    case 829:
      need(length === (oid === 829 ? 6 : 8));
      return (bytes.toString('hex', start, end).match(/../g) ?? []).join(':');
    case 600:
    case 601:
    case 603:
    case 718:
    case 628:
      return geometryText(oid, bytes, start, length);
    default:
  }
  if (depth < DEPTH_MAX) {
    if (ARRAY_ELEMENTS.has(oid)) return arrayText(bytes, start, end, decode, depth);
    const element = RANGE_ELEMENTS.get(oid);
    if (element !== undefined) return rangeText(element, bytes, start, end, decode, depth);
  }
  return null;
}

function need(condition: boolean): void {
  if (!condition) throw new Misshapen();
}

/** `%g` with as many digits as tell the value apart, as PostgreSQL 12 and later print it. */
function floatText(value: number, shortest: string, exponentMax: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (value === Number.POSITIVE_INFINITY) return 'Infinity';
  if (value === Number.NEGATIVE_INFINITY) return '-Infinity';
  if (value === 0) return Object.is(value, -0) ? '-0' : '0';
  const match = /^(-?)(\d)(?:\.(\d+))?e([+-]\d+)$/.exec(shortest);
  if (match === null) return shortest;
  const sign = match[1]!;
  const digits = match[2]! + (match[3] ?? '');
  const exponent = Number(match[4]);
  if (exponent < -4 || exponent >= exponentMax) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : '';
    const size = Math.abs(exponent);
    return `${sign}${digits[0]}${fraction}e${exponent < 0 ? '-' : '+'}${size < 10 ? `0${size}` : size}`;
  }
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`;
  if (digits.length <= exponent + 1) return sign + digits + '0'.repeat(exponent + 1 - digits.length);
  return `${sign}${digits.slice(0, exponent + 1)}.${digits.slice(exponent + 1)}`;
}

function float8Text(value: number): string {
  return floatText(value, value.toExponential(), 15);
}

function float4Text(value: number): string {
  for (let precision = 0; precision < 9; precision += 1) {
    const text = value.toExponential(precision);
    if (Math.fround(Number(text)) === value) return floatText(value, text.replace(/\.?0+e/, 'e'), 6);
  }
  return floatText(value, value.toExponential(8), 6);
}

function moneyText(cents: bigint): string {
  const size = cents < 0n ? -cents : cents;
  const whole = String(size / 100n).replace(/\B(?=(\d{3})+$)/g, ',');
  return `${cents < 0n ? '-' : ''}$${whole}.${String(size % 100n).padStart(2, '0')}`;
}

const DAY_MICROSECONDS = 86_400_000_000n;
/** From 1970-01-01 to 2000-01-01. */
const EPOCH_DAYS = 10_957;

/** Year, month and day of a day number since 2000-01-01, in the proleptic Gregorian calendar. */
function civil(days: number): { year: number; month: number; day: number } {
  // Counted from 0000-03-01 in eras of 400 years, so that leap days come last.
  const shifted = days + EPOCH_DAYS + 719_468;
  const era = Math.floor(shifted / 146_097);
  const dayOfEra = shifted - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra -
      Math.floor(dayOfEra / 1460) +
      Math.floor(dayOfEra / 36_524) -
      Math.floor(dayOfEra / 146_096)) /
      365,
  );
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const shiftedMonth = Math.floor((5 * dayOfYear + 2) / 153);
  const month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9;
  return {
    year: yearOfEra + era * 400 + (month <= 2 ? 1 : 0),
    month,
    day: dayOfYear - Math.floor((153 * shiftedMonth + 2) / 5) + 1,
  };
}

function two(value: number | bigint): string {
  return String(value).padStart(2, '0');
}

/** The date and, for years before the first, what goes behind the whole value. */
function dateParts(days: number): { date: string; era: string } {
  const { year, month, day } = civil(days);
  const shown = year > 0 ? year : 1 - year;
  return {
    date: `${String(shown).padStart(4, '0')}-${two(month)}-${two(day)}`,
    era: year > 0 ? '' : ' BC',
  };
}

function dateText(days: number): string {
  if (days === 0x7fffffff) return 'infinity';
  if (days === -0x80000000) return '-infinity';
  const { date, era } = dateParts(days);
  return date + era;
}

function timeText(microseconds: bigint): string {
  const fraction = microseconds % 1_000_000n;
  const seconds = microseconds / 1_000_000n;
  const text = `${two(seconds / 3600n)}:${two((seconds / 60n) % 60n)}:${two(seconds % 60n)}`;
  return text + fractionText(fraction);
}

function fractionText(microseconds: bigint): string {
  return microseconds === 0n ? '' : `.${String(microseconds).padStart(6, '0').replace(/0+$/, '')}`;
}

/** `seconds` east of Greenwich. */
function zoneText(seconds: number): string {
  const size = Math.abs(seconds);
  const sign = seconds < 0 ? '-' : '+';
  const minutes = Math.floor(size / 60) % 60;
  const rest = size % 60;
  const hours = two(Math.floor(size / 3600));
  if (rest !== 0) return `${sign}${hours}:${two(minutes)}:${two(rest)}`;
  return minutes === 0 ? sign + hours : `${sign}${hours}:${two(minutes)}`;
}

function timestampText(microseconds: bigint, zone: string): string {
  if (microseconds === 0x7fffffffffffffffn) return 'infinity';
  if (microseconds === -0x8000000000000000n) return '-infinity';
  let days = microseconds / DAY_MICROSECONDS;
  let time = microseconds % DAY_MICROSECONDS;
  if (time < 0n) {
    time += DAY_MICROSECONDS;
    days -= 1n;
  }
  const { date, era } = dateParts(Number(days));
  return `${date} ${timeText(time)}${zone}${era}`;
}

/** As `IntervalStyle` `postgres` prints it. */
function intervalText(microseconds: bigint, days: number, months: number): string {
  if (months === 0x7fffffff && days === 0x7fffffff) return 'infinity';
  if (months === -0x80000000 && days === -0x80000000) return '-infinity';
  const parts: string[] = [];
  let negativeBefore = false;
  const part = (value: number, unit: string): void => {
    if (value === 0) return;
    const sign = negativeBefore && value > 0 ? '+' : '';
    parts.push(`${sign}${value} ${unit}${value === 1 ? '' : 's'}`);
    negativeBefore = value < 0;
  };
  part(Math.trunc(months / 12), 'year');
  part(months % 12, 'mon');
  part(days, 'day');
  if (microseconds !== 0n || parts.length === 0) {
    const size = microseconds < 0n ? -microseconds : microseconds;
    const sign = microseconds < 0n ? '-' : negativeBefore ? '+' : '';
    parts.push(sign + timeText(size));
  }
  return parts.join(' ');
}

function bitText(bytes: Buffer, start: number, end: number): string {
  need(end - start >= 4);
  const count = int32(bytes, start);
  need(count >= 0 && start + 4 + Math.ceil(count / 8) === end);
  let text = '';
  for (let at = start + 4; at < end; at += 1) text += bytes[at]!.toString(2).padStart(8, '0');
  return text.slice(0, count);
}

function numericText(bytes: Buffer, start: number, end: number): string {
  need(end - start >= 8);
  const count = uint16(bytes, start);
  const weight = bytes.readInt16BE(start + 2);
  const sign = uint16(bytes, start + 4);
  const scale = uint16(bytes, start + 6);
  if (sign === 0xc000) return 'NaN';
  if (sign === 0xd000) return 'Infinity';
  if (sign === 0xf000) return '-Infinity';
  need((sign === 0 || sign === 0x4000) && start + 8 + count * 2 === end);
  const digit = (index: number): string =>
    index < 0 || index >= count ? '0000' : String(uint16(bytes, start + 8 + index * 2)).padStart(4, '0');
  let whole = '';
  for (let index = 0; index <= weight; index += 1) whole += digit(index);
  whole = whole.replace(/^0+(?=\d)/, '') || '0';
  let fraction = '';
  for (let index = weight + 1; fraction.length < scale; index += 1) fraction += digit(index);
  fraction = fraction.slice(0, scale);
  return `${sign === 0 ? '' : '-'}${whole}${scale === 0 ? '' : `.${fraction}`}`;
}

function uuidText(hex: string): string {
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

function inetText(bytes: Buffer, start: number, end: number, cidr: boolean): string {
  need(end - start >= 4);
  const family = bytes[start];
  const bits = bytes[start + 1]!;
  const length = bytes[start + 3]!;
  need(start + 4 + length === end && (family === 2 ? length === 4 : family === 3 && length === 16));
  const address = family === 2 ? bytes.subarray(start + 4, end).join('.') : inet6Text(bytes, start + 4);
  return bits === length * 8 && !cidr ? address : `${address}/${bits}`;
}

/** RFC 5952: the longest run of two or more zero groups is left out, the first of equal ones. */
function inet6Text(bytes: Buffer, start: number): string {
  const groups: number[] = [];
  for (let index = 0; index < 8; index += 1) groups.push(uint16(bytes, start + index * 2));
  let runStart = -1;
  let runLength = 1;
  for (let index = 0; index < 8; index += 1) {
    let length = 0;
    while (index + length < 8 && groups[index + length] === 0) length += 1;
    if (length > runLength) {
      runStart = index;
      runLength = length;
    }
  }
  const mapped = runStart === 0 && (runLength === 6 || (runLength === 5 && groups[5] === 0xffff));
  if (mapped) {
    const tail = bytes.subarray(start + 12, start + 16).join('.');
    return runLength === 6 ? `::${tail}` : `::ffff:${tail}`;
  }
  const hex = groups.map((group) => group.toString(16));
  if (runStart < 0) return hex.join(':');
  return `${hex.slice(0, runStart).join(':')}::${hex.slice(runStart + runLength).join(':')}`;
}

function geometryText(oid: number, bytes: Buffer, start: number, length: number): string {
  const counts: Readonly<Record<number, number>> = { 600: 2, 601: 4, 603: 4, 718: 3, 628: 3 };
  const count = counts[oid]!;
  need(length === count * 8);
  const n: string[] = [];
  for (let index = 0; index < count; index += 1) n.push(float8Text(bytes.readDoubleBE(start + index * 8)));
  if (oid === 600) return `(${n[0]},${n[1]})`;
  if (oid === 601) return `[(${n[0]},${n[1]}),(${n[2]},${n[3]})]`;
  if (oid === 603) return `(${n[0]},${n[1]}),(${n[2]},${n[3]})`;
  if (oid === 718) return `<(${n[0]},${n[1]}),${n[2]}>`;
  return `{${n[0]},${n[1]},${n[2]}}`;
}

/** Int32 dimensions, has-null flag, element OID; length and lower bound of each dimension; elements with their lengths. */
function arrayText(bytes: Buffer, start: number, end: number, decode: TextDecode, depth: number): string {
  need(end - start >= 12);
  const dimensions = int32(bytes, start);
  const element = int32(bytes, start + 8) >>> 0;
  need(dimensions >= 0 && dimensions <= 6 && start + 12 + dimensions * 8 <= end);
  if (dimensions === 0) return '{}';
  const lengths: number[] = [];
  let prefix = '';
  let shifted = false;
  for (let index = 0; index < dimensions; index += 1) {
    const length = int32(bytes, start + 12 + index * 8);
    const lower = int32(bytes, start + 16 + index * 8);
    need(length >= 0 && length <= end - start);
    lengths.push(length);
    if (lower !== 1) shifted = true;
    prefix += `[${lower}:${lower + length - 1}]`;
  }
  const separator = element === 603 ? ';' : ',';
  let at = start + 12 + dimensions * 8;
  const item = (): string => {
    need(at + 4 <= end);
    const length = int32(bytes, at);
    at += 4;
    if (length < 0) return 'NULL';
    need(at + length <= end);
    const from = at;
    at += length;
    if (element === 16) return bytes[from] === 0 ? 'f' : 't';
    const text = textOf(element, bytes, from, at, decode, depth + 1) ?? hexText(bytes, from, at);
    return quoted(text, separator);
  };
  const level = (dimension: number): string => {
    const items: string[] = [];
    for (let index = 0; index < lengths[dimension]!; index += 1) {
      items.push(dimension + 1 < dimensions ? level(dimension + 1) : item());
    }
    return `{${items.join(separator)}}`;
  };
  const text = level(0);
  need(at === end);
  return shifted ? `${prefix}=${text}` : text;
}

function quoted(text: string, separator: string): string {
  if (text !== '' && text.toUpperCase() !== 'NULL' && !/[\s{}"\\]/.test(text) && !text.includes(separator)) {
    return text;
  }
  return `"${text.replace(/["\\]/g, '\\$&')}"`;
}

const RANGE_EMPTY = 0x01;
const RANGE_LOWER_INCLUSIVE = 0x02;
const RANGE_UPPER_INCLUSIVE = 0x04;
const RANGE_LOWER_INFINITE = 0x08;
const RANGE_UPPER_INFINITE = 0x10;

function rangeText(
  element: number,
  bytes: Buffer,
  start: number,
  end: number,
  decode: TextDecode,
  depth: number,
): string {
  need(end > start);
  const flags = bytes[start]!;
  if ((flags & RANGE_EMPTY) !== 0) return 'empty';
  let at = start + 1;
  const bound = (infinite: number): string => {
    if ((flags & infinite) !== 0) return '';
    need(at + 4 <= end);
    const length = int32(bytes, at);
    const from = at + 4;
    need(length >= 0 && from + length <= end);
    at = from + length;
    const text = textOf(element, bytes, from, at, decode, depth + 1) ?? hexText(bytes, from, at);
    return text === '' || /[\s()[\],"\\]/.test(text) ? `"${text.replace(/["\\]/g, '$&$&')}"` : text;
  };
  const lower = bound(RANGE_LOWER_INFINITE);
  const upper = bound(RANGE_UPPER_INFINITE);
  need(at === end);
  const open = (flags & RANGE_LOWER_INCLUSIVE) !== 0 ? '[' : '(';
  const close = (flags & RANGE_UPPER_INCLUSIVE) !== 0 ? ']' : ')';
  return `${open}${lower},${upper}${close}`;
}
