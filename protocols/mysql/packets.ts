/**
 * MySQL's packets ("MySQL Packets" in the protocol documentation): three bytes of payload length (little-endian), one
 * byte of sequence number, the payload. A payload of exactly 0xFFFFFF bytes is continued by the next packet; what is
 * longer ends with a shorter packet, which may be empty. Sequence numbers count modulo 256 over both directions and
 * begin at 0 with each command.
 */
export const HEADER_BYTES = 4;
export const PACKET_PAYLOAD_BYTES_MAX = 0xff_ffff;

/** One payload as packets numbered from `sequence`: several, where it is 0xFFFFFF bytes or longer. */
export function packet(sequence: number, payload: Buffer): Buffer {
  const packets = Math.floor(payload.length / PACKET_PAYLOAD_BYTES_MAX) + 1;
  const bytes = Buffer.allocUnsafe(payload.length + packets * HEADER_BYTES);
  let from = 0;
  let at = 0;
  for (let index = 0; index < packets; index += 1) {
    const length = Math.min(payload.length - from, PACKET_PAYLOAD_BYTES_MAX);
    bytes.writeUIntLE(length, at, 3);
    bytes[at + 3] = (sequence + index) & 0xff;
    payload.copy(bytes, at + HEADER_BYTES, from, from + length);
    from += length;
    at += HEADER_BYTES + length;
  }
  return bytes;
}

/** The payload length in the header at `at`. */
export function payloadLength(bytes: Buffer, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16);
}

/** Values of a length-encoded integer's first byte that say how many bytes follow ("Protocol::LengthEncodedInteger"). */
export const LENENC_NULL = 0xfb;
const LENENC_TWO = 0xfc;
const LENENC_THREE = 0xfd;
const LENENC_EIGHT = 0xfe;

/**
 * Walks the fields of one payload without ever reading past its end: a field that is not wholly there reads as 0 or
 * empty, and sets `short`. What peers send is looked at by this, so that nothing they send can throw.
 */
export class Fields {
  bytes: Buffer;
  at: number;
  end: number;
  /** A field did not fit; what was read since is not to be trusted. */
  short = false;

  constructor(bytes: Buffer, at = 0, end = bytes.length) {
    this.bytes = bytes;
    this.at = at;
    this.end = end;
  }

  get remaining(): number {
    return this.end - this.at;
  }

  uint8(): number {
    const at = this.take(1);
    return at < 0 ? 0 : this.bytes[at]!;
  }

  uint16(): number {
    const at = this.take(2);
    return at < 0 ? 0 : this.bytes[at]! | (this.bytes[at + 1]! << 8);
  }

  uint32(): number {
    const at = this.take(4);
    return at < 0 ? 0 : this.bytes.readUInt32LE(at);
  }

  /** A length-encoded integer; beyond 2^53 it loses its low bits. NULL (0xFB) reads as -1. */
  lenenc(): number {
    const first = this.uint8();
    if (first < LENENC_NULL) return first;
    if (first === LENENC_NULL) return -1;
    const size = first === LENENC_TWO ? 2 : first === LENENC_THREE ? 3 : first === LENENC_EIGHT ? 8 : 0;
    const at = size === 0 ? this.fail() : this.take(size);
    if (at < 0) return 0;
    if (size === 8) return Number(this.bytes.readBigUInt64LE(at));
    return this.bytes.readUIntLE(at, size);
  }

  /** A length-encoded integer in full. */
  lenencCount(): number | bigint {
    if (this.remaining >= 9 && this.bytes[this.at] === LENENC_EIGHT) {
      const value = this.bytes.readBigUInt64LE(this.at + 1);
      this.at += 9;
      return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
    }
    return this.lenenc();
  }

  /** A view of a length-encoded string; null for NULL. */
  lenencBytes(): Buffer | null {
    const length = this.lenenc();
    if (length < 0) return null;
    return this.slice(length);
  }

  /** A view of the next `length` bytes. */
  slice(length: number): Buffer {
    const at = this.take(length);
    return at < 0 ? EMPTY : this.bytes.subarray(at, at + length);
  }

  /** A view of the bytes up to the next NUL, which is consumed; of all that is left where there is none. */
  untilNul(): Buffer {
    const nul = this.bytes.indexOf(0, this.at);
    const start = this.at;
    if (nul < 0 || nul >= this.end) {
      this.at = this.end;
      return this.bytes.subarray(start, this.end);
    }
    this.at = nul + 1;
    return this.bytes.subarray(start, nul);
  }

  rest(): Buffer {
    const start = this.at;
    this.at = this.end;
    return this.bytes.subarray(start, this.end);
  }

  /** Moves past `length` bytes; the offset they began at, or -1 where they do not fit. */
  take(length: number): number {
    if (length > this.end - this.at) return this.fail();
    const at = this.at;
    this.at += length;
    return at;
  }

  /** Gives up: nothing more is read. */
  fail(): -1 {
    this.short = true;
    this.at = this.end;
    return -1;
  }
}

const EMPTY = Buffer.alloc(0);

/** A length-encoded integer below 2^32. */
export function lenencInteger(value: number): Buffer {
  if (value < LENENC_NULL) return Buffer.of(value);
  if (value < 0x1_0000) return Buffer.of(LENENC_TWO, value & 0xff, value >>> 8);
  if (value < 0x100_0000) return Buffer.of(LENENC_THREE, value & 0xff, (value >>> 8) & 0xff, value >>> 16);
  const bytes = Buffer.alloc(9);
  bytes[0] = LENENC_EIGHT;
  bytes.writeUInt32LE(value, 1);
  return bytes;
}
