const EMPTY = Buffer.alloc(0);

/**
 * Reads little-endian fields of something that may not have arrived whole. A read past the end sets `short` and gives
 * zero or an empty view, so that a parser runs through and asks once, at the end, whether there was enough.
 * One instance serves a whole session: nothing is allocated for an element that is parsed.
 */
export class Cursor {
  bytes: Buffer = EMPTY;
  position = 0;
  end = 0;
  short = false;
  /** TYPE_INFO of text names a collation: from TDS 7.1 on. */
  readonly collated: boolean;

  constructor(collated = true) {
    this.collated = collated;
  }

  set(bytes: Buffer, position: number, end: number): this {
    this.bytes = bytes;
    this.position = position;
    this.end = end;
    this.short = false;
    return this;
  }

  uint8(): number {
    if (this.position >= this.end) return this.#missing();
    return this.bytes[this.position++]!;
  }

  uint16(): number {
    const at = this.position;
    if (at + 2 > this.end) return this.#missing();
    this.position = at + 2;
    return this.bytes[at]! | (this.bytes[at + 1]! << 8);
  }

  uint32(): number {
    const at = this.position;
    if (at + 4 > this.end) return this.#missing();
    this.position = at + 4;
    return this.bytes.readUInt32LE(at);
  }

  /** An eight-byte count. Exact up to 2^53; beyond, the nearest double. */
  uint64(): number {
    const low = this.uint32();
    return low + this.uint32() * 0x1_0000_0000;
  }

  /** A view of `length` bytes. */
  slice(length: number): Buffer {
    const at = this.position;
    if (at + length > this.end) {
      this.#missing();
      return EMPTY;
    }
    this.position = at + length;
    return this.bytes.subarray(at, at + length);
  }

  skip(length: number): void {
    if (this.position + length > this.end) this.#missing();
    else this.position += length;
  }

  /** `characters` UTF-16 units as text. */
  text(characters: number): string {
    const at = this.position;
    const end = at + characters * 2;
    if (end > this.end) {
      this.#missing();
      return '';
    }
    this.position = end;
    return characters === 0 ? '' : this.bytes.toString('utf16le', at, end);
  }

  /** B_VARCHAR: text behind a one-byte count of characters. */
  shortText(): string {
    return this.text(this.uint8());
  }

  /** US_VARCHAR: text behind a two-byte count of characters. */
  longText(): string {
    return this.text(this.uint16());
  }

  skipShortText(): void {
    this.skip(this.uint8() * 2);
  }

  skipLongText(): void {
    this.skip(this.uint16() * 2);
  }

  #missing(): number {
    this.short = true;
    this.position = this.end;
    return 0;
  }
}
