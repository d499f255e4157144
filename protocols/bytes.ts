import { type Fault, ProtocolError } from './error.ts';

/**
 * Reads fields from one message that is wholly in memory. Every read names its field and is checked against the end,
 * so that a short message is a `malformed` error that says which field was missing, and never a read past the end.
 */
export class Reader {
  readonly bytes: Buffer;
  readonly end: number;
  position: number;
  readonly #fault: Fault;

  /** `bytes` from `position` (inclusive) to `end` (exclusive); `fault` says who sent it. */
  constructor(bytes: Buffer, fault: Fault, position = 0, end = bytes.length) {
    this.bytes = bytes;
    this.position = position;
    this.end = end;
    this.#fault = fault;
  }

  get remaining(): number {
    return this.end - this.position;
  }

  uint8(field: string): number {
    return this.bytes[this.#take(1, field)]!;
  }

  uint16be(field: string): number {
    return this.bytes.readUInt16BE(this.#take(2, field));
  }

  uint16le(field: string): number {
    return this.bytes.readUInt16LE(this.#take(2, field));
  }

  uint24le(field: string): number {
    return this.bytes.readUIntLE(this.#take(3, field), 3);
  }

  int16be(field: string): number {
    return this.bytes.readInt16BE(this.#take(2, field));
  }

  int32be(field: string): number {
    return this.bytes.readInt32BE(this.#take(4, field));
  }

  uint32be(field: string): number {
    return this.bytes.readUInt32BE(this.#take(4, field));
  }

  int32le(field: string): number {
    return this.bytes.readInt32LE(this.#take(4, field));
  }

  uint32le(field: string): number {
    return this.bytes.readUInt32LE(this.#take(4, field));
  }

  int64be(field: string): bigint {
    return this.bytes.readBigInt64BE(this.#take(8, field));
  }

  uint64le(field: string): bigint {
    return this.bytes.readBigUInt64LE(this.#take(8, field));
  }

  /** A view of the next `length` bytes, not a copy. */
  slice(length: number, field: string): Buffer {
    const start = this.#take(length, field);
    return this.bytes.subarray(start, start + length);
  }

  /** The bytes up to the next NUL, which is consumed and not part of the view. */
  cstring(field: string): Buffer {
    const nul = this.bytes.indexOf(0, this.position);
    if (nul < 0 || nul >= this.end) throw this.malformed(field, 'has no terminator');
    const start = this.position;
    this.position = nul + 1;
    return this.bytes.subarray(start, nul);
  }

  /** A view of all that is left. */
  rest(): Buffer {
    const start = this.position;
    this.position = this.end;
    return this.bytes.subarray(start, this.end);
  }

  skip(length: number, field: string): void {
    this.#take(length, field);
  }

  malformed(field: string, what: string): ProtocolError {
    return new ProtocolError('malformed', this.#fault, `${field} ${what}`);
  }

  #take(length: number, field: string): number {
    if (length < 0 || length > this.remaining) {
      throw this.malformed(field, `needs ${length} bytes and ${this.remaining} are left`);
    }
    const start = this.position;
    this.position += length;
    return start;
  }
}

/** Builds one message. Grows by doubling; `take()` hands the bytes over and leaves the writer empty. */
export class Writer {
  #bytes: Buffer;
  #length = 0;

  constructor(capacity = 256) {
    this.#bytes = Buffer.allocUnsafe(capacity);
  }

  get length(): number {
    return this.#length;
  }

  uint8(value: number): this {
    const at = this.#room(1);
    this.#bytes[at] = value;
    return this;
  }

  uint16be(value: number): this {
    const at = this.#room(2);
    this.#bytes.writeUInt16BE(value, at);
    return this;
  }

  uint16le(value: number): this {
    const at = this.#room(2);
    this.#bytes.writeUInt16LE(value, at);
    return this;
  }

  uint24le(value: number): this {
    const at = this.#room(3);
    this.#bytes.writeUIntLE(value, at, 3);
    return this;
  }

  int32be(value: number): this {
    const at = this.#room(4);
    this.#bytes.writeInt32BE(value, at);
    return this;
  }

  uint32be(value: number): this {
    const at = this.#room(4);
    this.#bytes.writeUInt32BE(value, at);
    return this;
  }

  int32le(value: number): this {
    const at = this.#room(4);
    this.#bytes.writeInt32LE(value, at);
    return this;
  }

  uint32le(value: number): this {
    const at = this.#room(4);
    this.#bytes.writeUInt32LE(value, at);
    return this;
  }

  uint64le(value: bigint): this {
    const at = this.#room(8);
    this.#bytes.writeBigUInt64LE(value, at);
    return this;
  }

  append(bytes: Uint8Array): this {
    const at = this.#room(bytes.length);
    this.#bytes.set(bytes, at);
    return this;
  }

  text(value: string, encoding: BufferEncoding = 'utf8'): this {
    return this.append(Buffer.from(value, encoding));
  }

  /** Text or bytes, and a NUL behind them. */
  cstring(value: string | Uint8Array): this {
    if (typeof value === 'string') this.text(value);
    else this.append(value);
    return this.uint8(0);
  }

  zeros(count: number): this {
    const start = this.#room(count);
    this.#bytes.fill(0, start, start + count);
    return this;
  }

  /** Room for a length to be filled in later by `patch…`; returns its offset. */
  reserve(count: number): number {
    const at = this.#length;
    this.zeros(count);
    return at;
  }

  patchUint32be(at: number, value: number): void {
    this.#bytes.writeUInt32BE(value, at);
  }

  patchUint32le(at: number, value: number): void {
    this.#bytes.writeUInt32LE(value, at);
  }

  patchUint16le(at: number, value: number): void {
    this.#bytes.writeUInt16LE(value, at);
  }

  patchUint16be(at: number, value: number): void {
    this.#bytes.writeUInt16BE(value, at);
  }

  patchUint24le(at: number, value: number): void {
    this.#bytes.writeUIntLE(value, at, 3);
  }

  take(): Buffer {
    const bytes = this.#bytes.subarray(0, this.#length);
    this.#bytes = Buffer.allocUnsafe(256);
    this.#length = 0;
    return bytes;
  }

  /** Makes room and returns its offset. May replace `#bytes`, so it is called before that is looked at. */
  #room(count: number): number {
    const at = this.#length;
    const needed = at + count;
    if (needed > this.#bytes.length) {
      const grown = Buffer.allocUnsafe(Math.max(needed, this.#bytes.length * 2));
      this.#bytes.copy(grown, 0, 0, at);
      this.#bytes = grown;
    }
    this.#length = needed;
    return at;
  }
}

/**
 * A copy for long. A short `Buffer` of Node's lies in a pool of 64 KiB, all of which stays in memory for as long as one of
 * its pieces: thousands of sessions with a few bytes each would hold much more than that.
 */
export function lastingCopy(bytes: Uint8Array): Buffer {
  const copy = Buffer.allocUnsafeSlow(bytes.length);
  copy.set(bytes);
  return copy;
}
