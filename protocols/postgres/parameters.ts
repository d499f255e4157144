import { createHash, type Hash, hash } from 'node:crypto';
import { PARAMETER_BYTES_MAX, PARAMETERS_BYTES_MAX } from '../limits.ts';
import type { Parameter } from '../statement.ts';
import { type TextDecode, utf8Cut } from './encoding.ts';
import { int32, uint16 } from './messages.ts';
import { typeName } from './types.ts';
import { binaryText, hexText, isTextual } from './values.ts';

/**
 * Bound values, as Bind and FunctionCall carry them: Int16 number of formats, the formats, Int16 number of values, and
 * for each an Int32 length (-1 for NULL) and its bytes. No format means text for all, one is for all.
 */

/** Where the values of a message begin, and what form they have. */
export interface ValueLayout {
  /** Offset of the first value's length word. */
  readonly start: number;
  readonly count: number;
  /** Offset of the formats, and how many there are. */
  readonly formats: number;
  readonly formatCount: number;
}

/** Reads up to the first value. Null when the message is too short or the counts contradict each other. */
export function valueLayout(bytes: Buffer, start: number, end: number): ValueLayout | null {
  if (start + 2 > end) return null;
  const formatCount = uint16(bytes, start);
  const formats = start + 2;
  const counted = formats + formatCount * 2;
  if (counted + 2 > end) return null;
  const count = uint16(bytes, counted);
  if (formatCount > 1 && formatCount !== count) return null;
  return { start: counted + 2, count, formats, formatCount };
}

function formatOf(bytes: Buffer, layout: ValueLayout, index: number): number {
  if (layout.formatCount === 0) return 0;
  return uint16(bytes, layout.formats + (layout.formatCount === 1 ? 0 : index * 2));
}

/** The values of one message as parameters, and where what follows them begins. */
export interface ReadParameters {
  readonly parameters: Parameter[];
  readonly end: number;
}

/** Reads all values of a message that is wholly in memory. Null when it contradicts itself. */
export function readParameters(
  bytes: Buffer,
  layout: ValueLayout,
  end: number,
  types: readonly number[] | null,
  decode: TextDecode,
): ReadParameters | null {
  const parameters: Parameter[] = [];
  let at = layout.start;
  let budget = PARAMETERS_BYTES_MAX;
  for (let index = 0; index < layout.count; index += 1) {
    if (at + 4 > end) return null;
    const length = int32(bytes, at);
    at += 4;
    if (length > end - at) return null;
    const oid = types === null ? 0 : (types[index] ?? 0);
    if (length < 0) {
      parameters.push({ name: null, type: typeName(oid), value: null });
      continue;
    }
    const format = formatOf(bytes, layout, index);
    const kept = Math.min(length, PARAMETER_BYTES_MAX, budget);
    budget -= kept;
    if (kept === length) {
      const value = valueText(oid, format, bytes, at, at + length, decode);
      parameters.push({ name: null, type: typeName(oid), value });
    } else {
      const sha256 = hash('sha256', bytes.subarray(at, at + length));
      parameters.push(cutParameter(oid, format, bytes, at, kept, length, sha256, decode));
    }
    at += length;
  }
  return { parameters, end: at };
}

function valueText(
  oid: number,
  format: number,
  bytes: Buffer,
  start: number,
  end: number,
  decode: TextDecode,
): string {
  return format === 0 ? decode(bytes, start, end) : binaryText(oid, bytes, start, end, decode);
}

/** A value of which the first `kept` bytes at `start` are shown. */
function cutParameter(
  oid: number,
  format: number,
  bytes: Buffer,
  start: number,
  kept: number,
  length: number,
  sha256: string | undefined,
  decode: TextDecode,
): Parameter {
  const textual = format === 0 || isTextual(oid);
  const value = textual
    ? decode(bytes, start, utf8Cut(bytes, start, start + kept + 1, kept))
    : hexText(bytes, start, start + kept);
  const parameter = { name: null, type: typeName(oid), value, bytes: length };
  return sha256 === undefined ? parameter : { ...parameter, sha256 };
}

/** Result formats of a Bind: Int16 count, and each. */
export function readFormats(bytes: Buffer, start: number, end: number): readonly number[] | null {
  if (start + 2 > end) return null;
  const count = uint16(bytes, start);
  if (start + 2 + count * 2 > end) return null;
  const formats: number[] = [];
  for (let index = 0; index < count; index += 1) formats.push(uint16(bytes, start + 2 + index * 2));
  return formats;
}

/** Memory that parameters hold, roughly: for the bound on what is outstanding. */
export function parametersWeight(parameters: readonly Parameter[]): number {
  let weight = 64 * parameters.length;
  for (const { value } of parameters) if (typeof value === 'string') weight += value.length;
  return weight;
}

/**
 * The values of a message that is too large to be held: fed with its bytes as they pass, it keeps the head of each
 * value and hashes what it does not keep.
 */
export class ParameterStream {
  readonly parameters: Parameter[] = [];
  /** The message contradicted itself; what was read before stands. */
  malformed = false;
  readonly #count: number;
  readonly #formats: Uint16Array;
  readonly #types: readonly number[] | null;
  readonly #decode: TextDecode;
  #budget = PARAMETERS_BYTES_MAX;
  /** The length word under way: its bytes so far. */
  #word = 0;
  #wordBytes = 0;
  /** The value under way. */
  #left = -1;
  #length = 0;
  #head: Buffer = Buffer.alloc(0);
  #headLength = 0;
  #hash: Hash | null = null;

  /** `bytes` must hold what comes before `layout.start`; values are fed by `push` afterwards. */
  constructor(bytes: Buffer, layout: ValueLayout, types: readonly number[] | null, decode: TextDecode) {
    this.#count = layout.count;
    this.#types = types;
    this.#decode = decode;
    this.#formats = new Uint16Array(layout.formatCount);
    for (let index = 0; index < layout.formatCount; index += 1) {
      this.#formats[index] = uint16(bytes, layout.formats + index * 2);
    }
  }

  push(bytes: Buffer, start: number, end: number): void {
    let at = start;
    while (at < end && this.parameters.length < this.#count && !this.malformed) {
      if (this.#left < 0) {
        this.#word = (this.#word << 8) | bytes[at]!;
        at += 1;
        this.#wordBytes += 1;
        if (this.#wordBytes === 4) this.#beginValue();
        continue;
      }
      const size = Math.min(this.#left, end - at);
      const kept = Math.min(size, this.#head.length - this.#headLength);
      if (kept > 0) {
        bytes.copy(this.#head, this.#headLength, at, at + kept);
        this.#headLength += kept;
      }
      this.#hash?.update(bytes.subarray(at, at + size));
      this.#left -= size;
      at += size;
      if (this.#left === 0) this.#endValue();
    }
  }

  /** The message is over. A value that was promised and did not come is left out. */
  end(): void {
    this.malformed = this.parameters.length < this.#count;
  }

  #beginValue(): void {
    const length = this.#word;
    this.#word = 0;
    this.#wordBytes = 0;
    if (length < 0) {
      this.#add({ name: null, type: typeName(this.#oid), value: null });
      return;
    }
    const kept = Math.min(length, PARAMETER_BYTES_MAX, this.#budget);
    this.#budget -= kept;
    this.#length = length;
    this.#left = length;
    this.#head = Buffer.allocUnsafe(kept);
    this.#headLength = 0;
    this.#hash = kept < length ? createHash('sha256') : null;
    if (length === 0) this.#endValue();
  }

  #endValue(): void {
    const head = this.#head;
    const oid = this.#oid;
    const format = this.#format;
    this.#left = -1;
    if (this.#hash === null) {
      const value = valueText(oid, format, head, 0, head.length, this.#decode);
      this.#add({ name: null, type: typeName(oid), value });
    } else {
      const sha256 = this.#hash.digest('hex');
      this.#hash = null;
      this.#add(cutParameter(oid, format, head, 0, head.length, this.#length, sha256, this.#decode));
    }
  }

  #add(parameter: Parameter): void {
    this.parameters.push(parameter);
  }

  get #oid(): number {
    return this.#types?.[this.parameters.length] ?? 0;
  }

  get #format(): number {
    const formats = this.#formats;
    if (formats.length === 0) return 0;
    return formats[formats.length === 1 ? 0 : this.parameters.length] ?? 0;
  }
}
