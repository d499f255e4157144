import { createHash, type Hash } from 'node:crypto';
import { Extent } from './types.ts';

/**
 * Stepping over values by their lengths (MS-TDS 2.2.5.2). `stepOver` is for a value that is wholly at hand, the
 * `ValueWalker` for one that comes in pieces; neither looks at what a value says.
 */

const NULL_SHORT = 0xffff;
const NULL_LONG = 0xffff_ffff;
/** High word of a chunked value's total length when it is NULL (low word 0xFFFFFFFF) or unknown (0xFFFFFFFE). */
const SPECIAL_TOTAL = 0xffff_ffff;
/** Behind a text pointer. */
const TIMESTAMP_BYTES = 8;

/** The position behind the value at `position`, or -1 when `bytes[position, end)` does not hold all of it. */
export function stepOver(extent: number, size: number, bytes: Buffer, position: number, end: number): number {
  let next = position;
  switch (extent) {
    case Extent.fixed:
      next += size;
      break;
    case Extent.byte:
      if (next >= end) return -1;
      next += 1 + bytes[next]!;
      break;
    case Extent.short: {
      if (next + 2 > end) return -1;
      const length = bytes[next]! | (bytes[next + 1]! << 8);
      next += length === NULL_SHORT ? 2 : 2 + length;
      break;
    }
    case Extent.long: {
      if (next + 4 > end) return -1;
      const length = uint32(bytes, next);
      next += length === NULL_LONG ? 4 : 4 + length;
      break;
    }
    case Extent.chunks:
      return stepOverChunks(bytes, next, end);
    default: {
      if (next >= end) return -1;
      const pointerBytes = bytes[next]!;
      next += 1;
      if (pointerBytes === 0) break;
      next += pointerBytes + TIMESTAMP_BYTES;
      if (next + 4 > end) return -1;
      next += 4 + uint32(bytes, next);
    }
  }
  return next <= end ? next : -1;
}

function stepOverChunks(bytes: Buffer, position: number, end: number): number {
  let next = position + 8;
  if (next > end) return -1;
  if (uint32(bytes, position) === NULL_LONG && uint32(bytes, position + 4) === SPECIAL_TOTAL) return next;
  for (;;) {
    if (next + 4 > end) return -1;
    const length = uint32(bytes, next);
    next += 4 + length;
    if (length === 0) return next;
    if (next > end) return -1;
  }
}

function uint32(bytes: Buffer, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

type Expecting =
  | 'nothing'
  | 'length'
  | 'data'
  | 'total'
  | 'chunk_length'
  | 'chunk_data'
  | 'pointer_length'
  | 'pointer'
  | 'pointer_data_length';

/** Steps over one value that may be cut at any byte, and hands what passes to a capture, if there is one. */
export class ValueWalker {
  #expecting: Expecting = 'nothing';
  #capture: ValueCapture | null = null;
  /** Of the length word that is being read: its width, how much of it is there, and its two halves. */
  #width = 0;
  #have = 0;
  #low = 0;
  #high = 0;
  /** Bytes left of what is being stepped over. */
  #left = 0;
  /** The value is NULL; known when it is done. A zero length is left to the reader: it is NULL for some types only. */
  isNull = false;

  get done(): boolean {
    return this.#expecting === 'nothing';
  }

  /** Prepares for a value. `capture` must have been begun. */
  begin(extent: number, size: number, capture: ValueCapture | null): void {
    this.#capture = capture;
    this.isNull = false;
    switch (extent) {
      case Extent.fixed:
        this.#skip(size, 'data');
        break;
      case Extent.byte:
        this.#word(1, 'length');
        break;
      case Extent.short:
        this.#word(2, 'length');
        break;
      case Extent.long:
        this.#word(4, 'length');
        break;
      case Extent.chunks:
        this.#word(8, 'total');
        break;
      default:
        this.#word(1, 'pointer_length');
    }
  }

  /** Takes what is there of the value, and returns the position behind it. */
  feed(bytes: Buffer, start: number, end: number): number {
    let position = start;
    while (this.#expecting !== 'nothing' && position < end) {
      if (this.#have < this.#width) {
        position = this.#readWord(bytes, position, end);
        continue;
      }
      const taken = Math.min(this.#left, end - position);
      if (this.#capture !== null && (this.#expecting === 'data' || this.#expecting === 'chunk_data')) {
        this.#capture.add(bytes, position, position + taken);
      }
      position += taken;
      this.#left -= taken;
      if (this.#left === 0) this.#skipped();
    }
    return position;
  }

  #word(width: number, expecting: Expecting): void {
    this.#expecting = expecting;
    this.#width = width;
    this.#have = 0;
    this.#low = 0;
    this.#high = 0;
  }

  #skip(length: number, expecting: Expecting): void {
    this.#expecting = expecting;
    this.#width = 0;
    this.#have = 0;
    this.#left = length;
    if (length === 0) this.#skipped();
  }

  #skipped(): void {
    if (this.#expecting === 'data') this.#expecting = 'nothing';
    else if (this.#expecting === 'chunk_data') this.#word(4, 'chunk_length');
    else if (this.#expecting === 'pointer') this.#word(4, 'pointer_data_length');
  }

  #readWord(bytes: Buffer, start: number, end: number): number {
    let position = start;
    while (this.#have < this.#width && position < end) {
      const byte = bytes[position++]!;
      if (this.#have < 4) this.#low = (this.#low | (byte << (8 * this.#have))) >>> 0;
      else this.#high = (this.#high | (byte << (8 * (this.#have - 4)))) >>> 0;
      this.#have += 1;
    }
    if (this.#have === this.#width) this.#wordRead();
    return position;
  }

  #wordRead(): void {
    const length = this.#low;
    switch (this.#expecting) {
      case 'length':
        if ((this.#width === 2 && length === NULL_SHORT) || (this.#width === 4 && length === NULL_LONG)) {
          this.#finishNull();
        } else {
          this.#skip(length, 'data');
        }
        break;
      case 'total':
        if (this.#high === SPECIAL_TOTAL && length === NULL_LONG) this.#finishNull();
        else this.#word(4, 'chunk_length');
        break;
      case 'chunk_length':
        if (length === 0) this.#expecting = 'nothing';
        else this.#skip(length, 'chunk_data');
        break;
      case 'pointer_length':
        if (length === 0) this.#finishNull();
        else this.#skip(length + TIMESTAMP_BYTES, 'pointer');
        break;
      default:
        this.#skip(length, 'data');
    }
  }

  #finishNull(): void {
    this.isNull = true;
    this.#expecting = 'nothing';
  }
}

/**
 * Keeps the beginning of a value, its length, and, when it is longer than what is kept, its SHA-256.
 * A value that comes in one piece is kept as a view of it, good for as long as the piece is: `keep` makes it last.
 */
export class ValueCapture {
  #limit = 0;
  #digests = false;
  /** `#kept[#start, #end)` is what is kept: a stretch of what passed, or our own buffer once it came in pieces. */
  #kept: Buffer = EMPTY;
  #start = 0;
  #end = 0;
  #owned = false;
  #hash: Hash | null = null;
  /** Bytes of the whole value that have passed. */
  total = 0;

  /** `limit`: bytes to keep. `digests`: compute the SHA-256 of what is longer. */
  begin(limit: number, digests: boolean): void {
    this.#limit = limit;
    this.#digests = digests;
    this.#kept = EMPTY;
    this.#start = 0;
    this.#end = 0;
    this.#owned = false;
    this.#hash = null;
    this.total = 0;
  }

  /** What was kept: the whole value, or its first bytes. */
  get bytes(): Buffer {
    return this.#kept.subarray(this.#start, this.#end);
  }

  /** What was kept, as UTF-16. */
  get utf16(): string {
    const { length } = this;
    return length < 2 ? '' : this.#kept.toString('utf16le', this.#start, this.#start + (length & ~1));
  }

  /** Bytes that were kept. */
  get length(): number {
    return this.#end - this.#start;
  }

  get cut(): boolean {
    return this.total > this.#limit;
  }

  /** Hex; only of a value that was cut, and once. */
  digest(): string | null {
    return this.#hash === null ? null : this.#hash.digest('hex');
  }

  add(bytes: Buffer, start: number, end: number): void {
    const before = this.total;
    this.total += end - start;
    if (before === 0 && this.total <= this.#limit) {
      this.#kept = bytes;
      this.#start = start;
      this.#end = end;
      return;
    }
    const room = this.#limit - before;
    if (room > 0) this.#append(bytes, start, Math.min(end, start + room), before);
    if (this.total <= this.#limit || !this.#digests) return;
    if (this.#hash === null) {
      this.#hash = createHash('sha256');
      this.#hash.update(this.bytes.subarray(0, Math.min(before, this.#limit)));
    }
    this.#hash.update(bytes.subarray(start, end));
  }

  /** The memory of what was added is about to be used for something else. */
  keep(): void {
    if (this.#owned || this.#end === this.#start) return;
    this.#kept = Buffer.from(this.bytes);
    this.#end -= this.#start;
    this.#start = 0;
    this.#owned = true;
  }

  #append(bytes: Buffer, start: number, end: number, before: number): void {
    const needed = before + end - start;
    if (!this.#owned || needed > this.#kept.length) {
      const grown = Buffer.allocUnsafe(Math.min(this.#limit, Math.max(needed * 2, 1024)));
      this.#kept.copy(grown, 0, this.#start, this.#start + before);
      this.#kept = grown;
      this.#start = 0;
      this.#owned = true;
    }
    bytes.copy(this.#kept, before, start, end);
    this.#end = needed;
  }
}

const EMPTY = Buffer.alloc(0);
