import type { Duplex } from 'node:stream';

/**
 * A test double of SQL Server, written from the protocol's specification and sharing no code with the engine under
 * test. This file: packets, messages and a reader over a stream.
 */

export interface DoubleMessage {
  readonly type: number;
  readonly payload: Buffer;
  /** Status byte of the first packet: the reset bits are there. */
  readonly status: number;
  /** Status byte of the last packet: the ignore bit is there. */
  readonly lastStatus: number;
}

/** Reads exact amounts from a stream that may be exchanged for another (TLS) between two reads. */
export class StreamReader {
  #stream: Duplex;
  #chunks: Buffer[] = [];
  #length = 0;
  #ended = false;
  #wake: (() => void) | null = null;

  constructor(stream: Duplex) {
    this.#stream = stream;
    this.#attach();
  }

  get stream(): Duplex {
    return this.#stream;
  }

  /** Takes the hands off the stream and returns what was read of it and not used. */
  detach(): Buffer {
    this.#stream.off('data', this.#onData);
    this.#stream.off('end', this.#onEnd);
    this.#stream.off('close', this.#onEnd);
    this.#stream.pause();
    const rest = Buffer.concat(this.#chunks);
    this.#chunks = [];
    this.#length = 0;
    return rest;
  }

  /** Goes on with another stream; `pending` comes before what it brings. */
  attach(stream: Duplex, pending: Buffer = Buffer.alloc(0)): void {
    this.#stream = stream;
    if (pending.length > 0) this.#onData(pending);
    this.#attach();
  }

  /** Puts bytes back in front. */
  unread(bytes: Buffer): void {
    this.#chunks.unshift(bytes);
    this.#length += bytes.length;
  }

  /** `length` bytes; null when the peer has closed before. */
  async read(length: number): Promise<Buffer | null> {
    while (this.#length < length) {
      if (this.#ended) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    this.#chunks = length < all.length ? [all.subarray(length)] : [];
    this.#length -= length;
    return all.subarray(0, length);
  }

  async peek(length: number): Promise<Buffer | null> {
    const bytes = await this.read(length);
    if (bytes !== null) this.unread(bytes);
    return bytes;
  }

  /** One packet: its header and payload. */
  async packet(): Promise<{ header: Buffer; payload: Buffer } | null> {
    const header = await this.read(8);
    if (header === null) return null;
    const payload = await this.read(header.readUInt16BE(2) - 8);
    return payload === null ? null : { header, payload };
  }

  async message(): Promise<DoubleMessage | null> {
    const payloads: Buffer[] = [];
    let first: Buffer | null = null;
    for (;;) {
      const packet = await this.packet();
      if (packet === null) return null;
      first ??= packet.header;
      payloads.push(packet.payload);
      const status = packet.header[1]!;
      if (status & 1) {
        return {
          type: first[0]!,
          payload: Buffer.concat(payloads),
          status: first[1]!,
          lastStatus: status,
        };
      }
    }
  }

  #attach(): void {
    this.#stream.on('data', this.#onData);
    this.#stream.on('end', this.#onEnd);
    this.#stream.on('close', this.#onEnd);
    this.#stream.on('error', () => {});
    this.#stream.resume();
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  };

  readonly #onEnd = (): void => {
    this.#ended = true;
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  };
}

/** Packets of one server message. */
export function packets(type: number, payload: Buffer, packetBytes: number, spid: number): Buffer {
  const parts: Buffer[] = [];
  const room = packetBytes - 8;
  let at = 0;
  let id = 1;
  do {
    const part = payload.subarray(at, at + room);
    at += room;
    const header = Buffer.from([type, at >= payload.length ? 1 : 0, 0, 0, spid >> 8, spid & 0xff, id, 0]);
    header.writeUInt16BE(part.length + 8, 2);
    id = (id + 1) & 0xff;
    parts.push(header, part);
  } while (at < payload.length);
  return Buffer.concat(parts);
}

export function utf16(text: string): Buffer {
  return Buffer.from(text, 'utf16le');
}

/** B_VARCHAR */
export function shortText(text: string): Buffer {
  return Buffer.concat([Buffer.from([text.length]), utf16(text)]);
}

/** US_VARCHAR */
export function longText(text: string): Buffer {
  return Buffer.concat([u16(text.length), utf16(text)]);
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value & 0xffff);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}
