import { Duplex } from 'node:stream';
import type { TlsTransport } from '../channel.ts';
import { PACKET_HEADER_BYTES, PacketStatus } from './frames.ts';
import { HANDSHAKE_PACKET_BYTES_MAX } from './limits.ts';
import { LoginMessage } from './messages.ts';

/** TLS record types (RFC 5246 6.2.1): 0x14 change cipher spec, 0x15 alert, 0x16 handshake, 0x17 application data. */
const Record = { changeCipherSpec: 0x14, handshake: 0x16, applicationData: 0x17 } as const;
const RECORD_HEADER_BYTES = 5;

type Inbound = 'expect_packet_header' | 'expect_packet_payload' | 'records' | 'held';

/**
 * The way of TLS inside PRELOGIN (MS-TDS 3.2.5.2, TDS 7.1 to 7.4). During the handshake TLS's bytes are the payload of
 * packets of type 0x12; then TLS records travel bare on the same stream.
 *
 * Outward, what TLS hands over at once (one flight) becomes one message: drivers wait for the end of a message, and
 * tedious for ever when a flight comes in two. Wrapping ends for a server behind its own ChangeCipherSpec and Finished,
 * which Node writes after it has announced that the connection is secure, and for a client before its first
 * application data. Nothing is negotiated there, so both are found by looking at record headers.
 *
 * Inward, payloads of successive packets are one byte stream and the end-of-message bit says nothing: Microsoft's
 * client ends one after every write. The peer has stopped wrapping when a packet boundary is followed by a TLS record
 * type, which is no packet type.
 *
 * `untilCleared` is for login-only encryption, where the peer goes on in the clear after a few records: bytes at a
 * record boundary that begin no record are held back for `release`.
 */
export class PreloginTransport extends Duplex implements TlsTransport {
  readonly #raw: Duplex;
  readonly #role: 'server' | 'client';
  readonly #untilCleared: boolean;
  #inbound: Inbound = 'expect_packet_header';
  readonly #header = Buffer.alloc(PACKET_HEADER_BYTES);
  #headerFilled = 0;
  #payloadLeft = 0;
  readonly #inward = new RecordCursor();
  #held: Buffer[] = [];
  readonly #outward = new RecordCursor();
  #wrapping = true;
  #changed = false;
  #released = false;

  /** `raw` must be paused; bytes that it holds are read from here on. `role` is ours in TLS. */
  constructor(raw: Duplex, role: 'server' | 'client', untilCleared: boolean) {
    super();
    this.#raw = raw;
    this.#role = role;
    this.#untilCleared = untilCleared;
    raw.on('data', this.#onData);
    raw.on('end', this.#onEnd);
    raw.on('close', this.#onClose);
    raw.on('error', this.#onError);
  }

  release(): Buffer {
    this.#detach();
    this.#raw.pause();
    const held = Buffer.concat(this.#held);
    this.#held = [];
    return held;
  }

  override _read(): void {
    if (!this.#released && this.#inbound !== 'held') this.#raw.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#send([chunk], callback);
  }

  override _writev(chunks: { chunk: Buffer }[], callback: (error?: Error | null) => void): void {
    this.#send(
      chunks.map(({ chunk }) => chunk),
      callback,
    );
  }

  override _final(callback: (error?: Error | null) => void): void {
    if (!this.#released && !this.#raw.writableEnded) this.#raw.end();
    callback();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    if (!this.#released) {
      this.#detach();
      this.#raw.destroy();
    }
    callback(error);
  }

  #detach(): void {
    this.#released = true;
    this.#raw.off('data', this.#onData);
    this.#raw.off('end', this.#onEnd);
    this.#raw.off('close', this.#onClose);
    this.#raw.off('error', this.#onError);
  }

  // Outward

  #send(chunks: Buffer[], callback: (error?: Error | null) => void): void {
    if (this.#released || this.#raw.destroyed) {
      callback();
      return;
    }
    if (!this.#wrapping) {
      this.#pass(chunks, callback);
      return;
    }
    const flight = Buffer.concat(chunks);
    const wrapped = this.#wrappedBytes(flight);
    const parts = wrapped === 0 ? [] : [wrap(flight.subarray(0, wrapped))];
    if (wrapped < flight.length) parts.push(flight.subarray(wrapped));
    this.#raw.write(Buffer.concat(parts), callback);
  }

  #pass(chunks: Buffer[], callback: (error?: Error | null) => void): void {
    const raw = this.#raw;
    const last = chunks.length - 1;
    if (last > 0) raw.cork();
    for (let index = 0; index < last; index += 1) raw.write(chunks[index]!);
    raw.write(chunks[last]!, callback);
    if (last > 0) raw.uncork();
  }

  /** How much of `flight` still travels wrapped. Turns wrapping off when that is not all of the future. */
  #wrappedBytes(flight: Buffer): number {
    let position = 0;
    while (position < flight.length) {
      if (this.#outward.atBoundary) {
        const type = flight[position]!;
        if (this.#role === 'client' && type === Record.applicationData) {
          this.#wrapping = false;
          return position;
        }
        if (this.#role === 'server' && this.#changed && type === Record.handshake) this.#wrapping = false;
        if (type === Record.changeCipherSpec) this.#changed = true;
      }
      position = this.#outward.step(flight, position);
      if (!this.#wrapping && this.#outward.atBoundary) return position;
    }
    return position;
  }

  // Inward

  readonly #onData = (chunk: Buffer): void => {
    let position = 0;
    while (position < chunk.length) {
      switch (this.#inbound) {
        case 'expect_packet_header':
          position = this.#onPacketHeader(chunk, position);
          break;
        case 'expect_packet_payload':
          position = this.#onPacketPayload(chunk, position);
          break;
        case 'records':
          position = this.#onRecords(chunk, position);
          break;
        case 'held':
          this.#held.push(chunk.subarray(position));
          this.#raw.pause();
          return;
      }
      if (position < 0) return;
    }
  };

  #onPacketHeader(chunk: Buffer, position: number): number {
    if (this.#headerFilled === 0) {
      const first = chunk[position]!;
      if (first >= 0x14 && first <= 0x17) {
        this.#inbound = 'records';
        return position;
      }
      // A server that has taken LOGIN7 answers in the clear, be it before we have left TLS ourselves.
      if (this.#untilCleared && this.#role === 'client' && !this.#wrapping) {
        this.#inbound = 'held';
        return position;
      }
      // SQL Server 2000 answers with the type of its other messages.
      const known =
        first === LoginMessage.prelogin || (this.#role === 'client' && first === LoginMessage.tabularResult);
      if (!known) return this.#fail(`byte 0x${first.toString(16)} where a PRELOGIN packet was expected`);
    }
    const taken = Math.min(PACKET_HEADER_BYTES - this.#headerFilled, chunk.length - position);
    chunk.copy(this.#header, this.#headerFilled, position, position + taken);
    this.#headerFilled += taken;
    if (this.#headerFilled < PACKET_HEADER_BYTES) return position + taken;
    this.#headerFilled = 0;
    this.#payloadLeft = this.#header.readUInt16BE(2) - PACKET_HEADER_BYTES;
    if (this.#payloadLeft < 0) return this.#fail('a PRELOGIN packet shorter than its header');
    if (this.#payloadLeft > 0) this.#inbound = 'expect_packet_payload';
    return position + taken;
  }

  #onPacketPayload(chunk: Buffer, position: number): number {
    const taken = Math.min(this.#payloadLeft, chunk.length - position);
    this.#payloadLeft -= taken;
    if (this.#payloadLeft === 0) this.#inbound = 'expect_packet_header';
    this.#give(chunk.subarray(position, position + taken));
    return position + taken;
  }

  #onRecords(chunk: Buffer, start: number): number {
    if (!this.#untilCleared) {
      this.#give(start === 0 ? chunk : chunk.subarray(start));
      return chunk.length;
    }
    let position = start;
    while (position < chunk.length) {
      if (this.#inward.atBoundary && (chunk[position]! < 0x14 || chunk[position]! > 0x17)) {
        this.#inbound = 'held';
        break;
      }
      position = this.#inward.step(chunk, position);
    }
    if (position > start) this.#give(chunk.subarray(start, position));
    return position;
  }

  #give(bytes: Buffer): void {
    if (!this.push(bytes)) this.#raw.pause();
  }

  #fail(what: string): -1 {
    this.destroy(new Error(`not TLS inside PRELOGIN: ${what}`));
    return -1;
  }

  readonly #onEnd = (): void => {
    this.push(null);
  };

  readonly #onClose = (): void => {
    if (!this.readableEnded) this.push(null);
    this.destroy();
  };

  readonly #onError = (error: Error): void => {
    this.destroy(error);
  };
}

/** Follows TLS record headers through a byte stream that is cut anywhere. */
class RecordCursor {
  #header = 0;
  #lengthHigh = 0;
  #left = 0;

  get atBoundary(): boolean {
    return this.#header === 0 && this.#left === 0;
  }

  /** Moves over the rest of the record that `position` is in, or over what of it is there; returns the new position. */
  step(bytes: Buffer, position: number): number {
    let at = position;
    if (this.#left === 0) {
      while (this.#header < RECORD_HEADER_BYTES && at < bytes.length) {
        if (this.#header === 3) this.#lengthHigh = bytes[at]!;
        else if (this.#header === 4) this.#left = this.#lengthHigh * 256 + bytes[at]!;
        this.#header += 1;
        at += 1;
      }
      if (this.#header < RECORD_HEADER_BYTES) return at;
      this.#header = 0;
    }
    const taken = Math.min(this.#left, bytes.length - at);
    this.#left -= taken;
    return at + taken;
  }
}

/** One message of PRELOGIN packets around the bytes of a flight. */
function wrap(flight: Buffer): Buffer {
  const room = HANDSHAKE_PACKET_BYTES_MAX - PACKET_HEADER_BYTES;
  const parts: Buffer[] = [];
  for (let position = 0; position < flight.length; position += room) {
    const payload = flight.subarray(position, position + room);
    const header = Buffer.alloc(PACKET_HEADER_BYTES);
    header[0] = LoginMessage.prelogin;
    header[1] = position + room >= flight.length ? PacketStatus.endOfMessage : 0;
    header.writeUInt16BE(payload.length + PACKET_HEADER_BYTES, 2);
    header[6] = (parts.length / 2 + 1) & 0xff;
    parts.push(header, payload);
  }
  return Buffer.concat(parts);
}
