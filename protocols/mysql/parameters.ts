import { PARAMETER_BYTES_MAX, PARAMETERS_BYTES_MAX } from '../limits.ts';
import type { Parameter } from '../statement.ts';
import type { Charset } from './charset.ts';
import { BULK_TUPLES_MAX } from './limits.ts';
import { Fields } from './packets.ts';
import type { Prepared } from './prepared.ts';
import { bytesParameter, headValue, isBinaryType, isLengthEncoded, readFixed, typeName } from './values.ts';

/** How far the parameters of one command could be read. */
export interface ParameterList {
  readonly parameters: Parameter[];
  /** All of them were read; else the list ends where the bytes, or our limits, did. */
  complete: boolean;
}

const UNSIGNED = 0x80;

/**
 * Reads values behind a NULL bitmap and types. `types` holds two bytes a parameter, type and flag. Values end early
 * where the bytes do (a command longer than what is inspected).
 */
function readValues(
  fields: Fields,
  count: number,
  nullsAt: number,
  types: Buffer,
  names: readonly (string | null)[] | null,
  prepared: Prepared | null,
  charset: Charset,
  cut: boolean,
): ParameterList {
  const list: ParameterList = { parameters: [], complete: true };
  let budget = PARAMETERS_BYTES_MAX;
  for (let index = 0; index < count; index += 1) {
    const type = types[index * 2]!;
    const unsigned = (types[index * 2 + 1]! & UNSIGNED) !== 0;
    const name = names?.[index] ?? null;
    let parameter: Parameter | null;
    const valueAt = fields.at;
    const long = prepared?.longData?.get(index);
    if (long !== undefined) {
      const value = long.kept ? headValue(long.head(), isBinaryType(type), charset) : '';
      const sha256 = long.sha256();
      parameter = {
        name,
        type: typeName(type, unsigned),
        value,
        bytes: long.bytes,
        ...(sha256 === null ? {} : { sha256 }),
      };
    } else if (isNull(fields.bytes, nullsAt, index)) {
      parameter = { name, type: typeName(type, unsigned), value: null };
    } else {
      parameter = readValue(fields, type, unsigned, name, charset);
    }
    if (parameter === null) {
      const head = cut ? readHead(fields, valueAt, type, unsigned, name, charset) : null;
      if (head !== null) list.parameters.push(head);
    } else budget -= weight(parameter);
    if (parameter === null || budget < 0) {
      list.complete = false;
      return list;
    }
    list.parameters.push(parameter);
  }
  return list;
}

/** The NULL bitmap that begins at `nullsAt` has the bit of parameter `index`. */
function isNull(bytes: Buffer, nullsAt: number, index: number): boolean {
  return ((bytes[nullsAt + (index >> 3)]! >> (index & 7)) & 1) === 1;
}

/** One value; null where it is cut short or its type is unknown. */
function readValue(
  fields: Fields,
  type: number,
  unsigned: boolean,
  name: string | null,
  charset: Charset,
): Parameter | null {
  const shown = typeName(type, unsigned);
  if (isLengthEncoded(type)) {
    const bytes = fields.lenencBytes();
    if (fields.short) return null;
    if (bytes === null) return { name, type: shown, value: null };
    return bytesParameter(name, shown, bytes, isBinaryType(type), charset);
  }
  const value = readFixed(fields, type, unsigned);
  if (value === undefined || fields.short) return null;
  return { name, type: shown, value };
}

/** The head of a string whose end is beyond what is inspected of its command; `at` is where it begins. */
function readHead(
  fields: Fields,
  at: number,
  type: number,
  unsigned: boolean,
  name: string | null,
  charset: Charset,
): Parameter | null {
  if (!isLengthEncoded(type)) return null;
  const value = new Fields(fields.bytes, at, fields.end);
  const length = value.lenenc();
  if (value.short || length < 0) return null;
  const head = value.slice(Math.min(value.remaining, PARAMETER_BYTES_MAX));
  return {
    name,
    type: typeName(type, unsigned),
    value: headValue(head, isBinaryType(type), charset),
    bytes: length,
  };
}

/** What a parameter costs in an event, roughly. */
function weight(parameter: Parameter): number {
  const { value } = parameter;
  if (typeof value === 'string') return value.length + 32;
  if (value !== null && typeof value === 'object')
    return 32 + ((value['hex'] as string | undefined)?.length ?? 0);
  return 32;
}

/**
 * The attributes before the text of a COM_QUERY, where CLIENT_QUERY_ATTRIBUTES is in force: a count, the number of sets
 * (1), and where there are any, a NULL bitmap, a flag, types with names, values. `fields` is left at the text.
 * Null where they cannot be read, and so neither can the text be found.
 */
export function readQueryAttributes(fields: Fields, charset: Charset): ParameterList | null {
  const count = fields.lenenc();
  fields.lenenc();
  if (fields.short || count < 0) return null;
  if (count === 0) return { parameters: [], complete: true };
  if (count > fields.remaining) return null;
  const nullsAt = fields.take((count + 7) >> 3);
  if (fields.uint8() !== 1) return null;
  const bound = readTypes(fields, count, true, null);
  if (bound === null) return null;
  const list = readValues(fields, count, nullsAt, bound.types, bound.names, null, charset, false);
  if (list.complete) return list;
  return fields.short ? null : skipValues(fields, count, nullsAt, bound.types, list);
}

/** Our limits ended the list, not the bytes: finds the end of the values. */
function skipValues(fields: Fields, count: number, nullsAt: number, types: Buffer, list: ParameterList) {
  for (let index = list.parameters.length + 1; index < count; index += 1) {
    if (isNull(fields.bytes, nullsAt, index)) continue;
    const type = types[index * 2]!;
    const encoded = isLengthEncoded(type);
    if (encoded === null) return null;
    if (encoded) fields.lenencBytes();
    else readFixed(fields, type, false);
    if (fields.short) return null;
  }
  return list;
}

/** Types as they are bound anew; `known` is kept where it says the same, as it mostly does. */
function readTypes(fields: Fields, count: number, named: boolean, known: Buffer | null) {
  // Two bytes a parameter at least: the count cannot make us allocate more than what was sent.
  if (count * 2 > fields.remaining) return null;
  if (!named) {
    const at = fields.take(count * 2);
    const { bytes } = fields;
    if (known !== null && isSame(known, bytes, at, count * 2)) return { types: known, names: null };
    return { types: Buffer.from(bytes.subarray(at, at + count * 2)), names: null };
  }
  const types = Buffer.alloc(count * 2);
  const names: (string | null)[] = [];
  for (let index = 0; index < count; index += 1) {
    types[index * 2] = fields.uint8();
    types[index * 2 + 1] = fields.uint8();
    const name = fields.lenencBytes();
    if (fields.short) return null;
    names.push(name === null || name.length === 0 ? null : name.toString());
  }
  return { types, names };
}

function isSame(known: Buffer, bytes: Buffer, at: number, length: number): boolean {
  if (known.length !== length) return false;
  for (let index = 0; index < length; index += 1) if (known[index] !== bytes[at + index]) return false;
  return true;
}

const EXECUTE_PARAMETER_COUNT_AVAILABLE = 8;

/**
 * The parameters of a COM_STMT_EXECUTE. `fields` stands behind the command byte and the statement id. `counted` is the
 * number of the statement's parameters. Types are remembered in `prepared`, for the executions that leave them out.
 * `cut`: the command goes on behind what is here.
 */
export function readExecute(
  fields: Fields,
  prepared: Prepared,
  counted: number,
  queryAttributes: boolean,
  charset: Charset,
  cut: boolean,
): ParameterList {
  const failed: ParameterList = { parameters: [], complete: false };
  const flags = fields.uint8();
  fields.uint32(); // iterations, always 1
  let count = counted;
  // A count of their own for statements with parameters, whatever the flag says; the flag is for those that have none.
  const flagged = queryAttributes && (flags & EXECUTE_PARAMETER_COUNT_AVAILABLE) !== 0;
  if (count === 0 && !flagged) return { parameters: [], complete: !fields.short };
  if (queryAttributes) count = fields.lenenc();
  if (fields.short || count < 0 || count > fields.remaining * 8) return failed;
  if (count === 0) return { parameters: [], complete: true };
  const nullsAt = fields.take((count + 7) >> 3);
  const newTypes = fields.uint8();
  if (fields.short) return failed;
  if (newTypes === 1) {
    const bound = readTypes(fields, count, queryAttributes, prepared.types);
    if (bound === null) return failed;
    prepared.types = bound.types;
    prepared.names = bound.names;
  }
  const types = prepared.types;
  if (types === null || types.length < count * 2) {
    return allNull(fields.bytes, nullsAt, count) ? nullParameters(count) : failed;
  }
  return readValues(fields, count, nullsAt, types, prepared.names, prepared, charset, cut);
}

function allNull(bytes: Buffer, nullsAt: number, count: number): boolean {
  for (let index = 0; index < count; index += 1) if (!isNull(bytes, nullsAt, index)) return false;
  return true;
}

function nullParameters(count: number): ParameterList {
  const parameters = Array.from(
    { length: count },
    (): Parameter => ({ name: null, type: null, value: null }),
  );
  return { parameters, complete: true };
}

const BULK_TYPES_FOLLOW = 128;
const INDICATORS: Readonly<Record<number, string>> = { 2: 'default', 3: 'ignore', 4: 'ignore row' };

export interface BulkParameters extends ParameterList {
  /** Tuples in the command, as far as it was read. */
  tuples: number;
}

/**
 * The tuples of MariaDB's COM_STMT_BULK_EXECUTE; `fields` stands behind command byte and id. A parameter is named by
 * its tuple and its place in it, both from 1: `2.1`.
 */
export function readBulk(
  fields: Fields,
  prepared: Prepared,
  count: number,
  decode: boolean,
  charset: Charset,
): BulkParameters {
  const list: BulkParameters = { parameters: [], complete: true, tuples: 0 };
  const flags = fields.uint16();
  if (flags & BULK_TYPES_FOLLOW) {
    const bound = readTypes(fields, count, false, prepared.types);
    if (bound !== null) prepared.types = bound.types;
    else list.complete = false;
  }
  const types = prepared.types;
  if (types === null || types.length < count * 2 || count === 0) list.complete = false;
  let budget = PARAMETERS_BYTES_MAX;
  while (list.complete && types !== null && fields.remaining > 0) {
    const kept = decode && list.tuples < BULK_TUPLES_MAX && budget > 0;
    for (let index = 0; index < count && list.complete; index += 1) {
      const parameter = readBulkValue(fields, types, index, list.tuples, kept, charset);
      if (parameter === null) list.complete = false;
      else if (kept) {
        budget -= weight(parameter);
        list.parameters.push(parameter);
      }
    }
    if (list.complete) list.tuples += 1;
  }
  return list;
}

const SKIPPED: Parameter = { name: null, type: null, value: null };

function readBulkValue(
  fields: Fields,
  types: Buffer,
  index: number,
  tuple: number,
  kept: boolean,
  charset: Charset,
): Parameter | null {
  const indicator = fields.uint8();
  const type = types[index * 2]!;
  const unsigned = (types[index * 2 + 1]! & UNSIGNED) !== 0;
  const name = kept ? `${tuple + 1}.${index + 1}` : null;
  if (fields.short) return null;
  if (indicator === 1) return { name, type: typeName(type, unsigned), value: null };
  const special = INDICATORS[indicator];
  if (special !== undefined) return { name, type: typeName(type, unsigned), value: { indicator: special } };
  if (indicator !== 0) return null;
  if (kept) return readValue(fields, type, unsigned, name, charset);
  const encoded = isLengthEncoded(type);
  if (encoded === null) return null;
  if (encoded) fields.lenencBytes();
  else readFixed(fields, type, unsigned);
  return fields.short ? null : SKIPPED;
}
