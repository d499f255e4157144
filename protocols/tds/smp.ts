import type { Observer, Verdict } from '../engine.ts';
import { Refusal } from '../error.ts';
import type { TransactionState } from '../statement.ts';
import {
  type Connection,
  type Held,
  keepHeld,
  type Line,
  noteOpaque,
  type PacketPosition,
} from './conversation.ts';
import { MessageType, PACKET_HEADER_BYTES, PacketStatus } from './frames.ts';
import { MULTIPLEXED_SESSIONS_MAX } from './limits.ts';
import { refusalText } from './refuse.ts';
import { Stream } from './stream.ts';

/**
 * Multiple active result sets: each packet travels in a frame of the Session Multiplex Protocol (MC-SMP), and each
 * multiplexed session is a stream of its own. Frames pass as they are: sequence numbers and windows belong to the two
 * ends. So a refused request is not dropped but changed into one that makes the server answer with our error.
 *
 * A frame is 16 bytes, little-endian (0x53, flags, session 2, length 4 with the header, sequence 4, window 4), and,
 * with the DATA flag, one packet.
 */

const FRAME_HEADER_BYTES = 16;
const FRAME_ID = 0x53;
const Flag = { syn: 0x01, acknowledge: 0x02, fin: 0x04, data: 0x08 } as const;

/** The largest frame: its header and a packet, whose length has two bytes. */
const FRAME_BYTES_MAX = FRAME_HEADER_BYTES + 0xffff;

/**
 * A client may send four packets ahead of the server's acknowledgement, which may lag by one (the defaults of SqlClient
 * and FreeTDS). Two can be held back without stopping it.
 */
const HELD_PACKETS_MAX = 2;

export class MultiplexedObserver implements Observer {
  readonly #connection: Connection;
  readonly #streams = new Map<number, MultiplexedStream>();
  readonly #out: Forward;
  readonly #client: FrameCutter;
  readonly #server: FrameScanner;
  #serverLost = false;
  /** The stream whose statement waits for its verdict, and the frames that came behind. */
  #undecided: MultiplexedStream | null = null;
  #waiting: Held[] = [];

  constructor(connection: Connection) {
    this.#connection = connection;
    this.#out = new Forward(connection);
    this.#client = new FrameCutter((bytes, start, end) => this.#clientFrame(bytes, start, end));
    this.#server = new FrameScanner((id) => this.#streams.get(id)?.stream ?? null);
  }

  client(chunk: Buffer): void {
    if (!this.#client.feed(chunk)) this.#violated('something that is not a multiplexed frame');
    if (this.#serverLost) this.#loseStreams();
    this.#out.flush();
    for (const stream of this.#streams.values()) stream.keepHeld(chunk);
    if (this.#waiting.length > 0) keepHeld(this.#waiting, chunk);
  }

  server(chunk: Buffer): void {
    if (!this.#serverLost && !this.#server.feed(chunk)) {
      this.#serverLost = true;
      this.#loseStreams();
      noteOpaque(
        this.#connection,
        'the server sent something that is not a multiplexed frame; nothing more can be followed',
        '',
      );
    }
    this.#connection.sink.toClient(chunk);
  }

  release(verdict: Verdict): void {
    this.#undecided?.release(verdict);
    while (this.#undecided === null || !this.#undecided.stream.undecided) {
      this.#undecided = null;
      const frame = this.#waiting.shift();
      if (frame === undefined) break;
      this.#clientFrame(frame.bytes, frame.start, frame.end);
    }
    this.#out.flush();
  }

  get busy(): boolean {
    for (const { stream } of this.#streams.values()) if (stream.busy) return true;
    return false;
  }

  get transaction(): TransactionState {
    return this.#connection.transaction;
  }

  get saturated(): boolean {
    if (this.#undecided !== null) return true;
    for (const { stream } of this.#streams.values()) if (stream.saturated) return true;
    return false;
  }

  /** Nothing of ours can stand among frames whose numbers are not ours, so the end of a frame is as good as any. */
  get atBoundary(): boolean {
    return this.#server.atBoundary;
  }

  get leaving(): 'client' | 'server' | null {
    return this.#connection.serverLeaves ? 'server' : null;
  }

  get fatal(): Refusal | null {
    return this.#connection.fatal;
  }

  farewell(): Buffer {
    return Buffer.alloc(0);
  }

  goodbye(): Buffer | null {
    return null;
  }

  attention(): Buffer | null {
    return null;
  }

  close(status: 'unknown' | 'cancelled'): void {
    for (const { stream } of this.#streams.values()) stream.close(status);
  }

  #clientFrame(bytes: Buffer, start: number, end: number): void {
    if (this.#connection.fatal !== null) return;
    if (this.#undecided !== null) {
      this.#waiting.push({ bytes, start, packet: start, end });
      return;
    }
    const flags = bytes[start + 1]!;
    const id = bytes.readUInt16LE(start + 2);
    if (flags === Flag.syn && !this.#streams.has(id)) {
      if (this.#streams.size >= MULTIPLEXED_SESSIONS_MAX) {
        this.#violated('more multiplexed sessions than are followed');
        return;
      }
      this.#streams.set(id, new MultiplexedStream(this.#connection, this.#out));
    }
    const stream = this.#streams.get(id);
    if (stream === undefined) {
      this.#violated('a frame of a multiplexed session that was not opened');
      return;
    }
    stream.clientFrame(bytes, start, end, flags === Flag.data);
    if (stream.stream.undecided) this.#undecided = stream;
    if (flags === Flag.fin) {
      stream.stream.close('unknown');
      this.#streams.delete(id);
    }
  }

  #violated(what: string): void {
    this.#connection.fatal ??= new Refusal('protocol_violation', `the client sent ${what}`);
  }

  #loseStreams(): void {
    for (const { stream } of this.#streams.values()) stream.loseServer();
  }
}

/** Collects what goes to the server: neighbouring frames are one view. */
class Forward {
  readonly #connection: Connection;
  #range: Buffer | null = null;
  #start = 0;
  #end = 0;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  add(bytes: Buffer, start: number, end: number): void {
    if (this.#range === bytes && this.#end === start) {
      this.#end = end;
      return;
    }
    this.flush();
    this.#range = bytes;
    this.#start = start;
    this.#end = end;
  }

  flush(): void {
    const range = this.#range;
    if (range === null) return;
    this.#range = null;
    this.#connection.sink.toServer(range.subarray(this.#start, this.#end));
  }
}

class MultiplexedStream implements Line {
  readonly heldPacketsMax = HELD_PACKETS_MAX;
  readonly stream: Stream;
  readonly #out: Forward;
  readonly #connection: Connection;
  /** Frames without a packet that came behind packets which are held: they must not overtake them. */
  #behind: Held[] = [];
  #holding = false;

  constructor(connection: Connection, out: Forward) {
    this.#connection = connection;
    this.#out = out;
    this.stream = new Stream(connection, this);
  }

  clientFrame(bytes: Buffer, start: number, end: number, data: boolean): void {
    if (!data) {
      if (this.#holding) this.#behind.push({ bytes, start, packet: start, end });
      else this.#out.add(bytes, start, end);
      return;
    }
    const packet = start + FRAME_HEADER_BYTES;
    const length = end - packet;
    if (length < PACKET_HEADER_BYTES || bytes.readUInt16BE(packet + 2) !== length) {
      this.#connection.fatal ??= new Refusal(
        'protocol_violation',
        'the client sent a frame that is not one packet',
      );
      return;
    }
    this.#holding = true;
    this.stream.clientPacket(bytes, start, packet, end);
  }

  keepHeld(chunk: Buffer): void {
    this.stream.keepHeld(chunk);
    if (this.#behind.length > 0) keepHeld(this.#behind, chunk);
  }

  release(verdict: Verdict): void {
    this.stream.release(verdict);
  }

  toServer(bytes: Buffer, start: number, end: number): void {
    this.#out.add(bytes, start, end);
    this.#holding = false;
    const behind = this.#behind;
    if (behind.length === 0) return;
    this.#behind = [];
    for (const frame of behind) this.#out.add(frame.bytes, frame.start, frame.end);
  }

  toClient(): void {}

  swallow(): void {}

  swallowed(): void {}

  /**
   * A frame with the same number: all of a message together are a batch of blanks and, at its end, a statement that raises
   * the error, under the headers of the original (they name the transaction).
   */
  substitute({ bytes, start, packet, end }: Held, position: PacketPosition, refusal: Refusal): Buffer {
    const payload = packet + PACKET_HEADER_BYTES;
    const headers = position.first ? headersOf(bytes, payload, end) : EMPTY;
    const text = position.last
      ? raiseText(refusal)
      : Buffer.from(' '.repeat((end - payload - headers.length) >> 1), 'utf16le');
    const frame = Buffer.concat([bytes.subarray(start, payload), headers, text]);
    frame.writeUInt32LE(frame.length, 4);
    frame[FRAME_HEADER_BYTES] = MessageType.sqlBatch;
    frame[FRAME_HEADER_BYTES + 1]! &= ~PacketStatus.ignore;
    frame.writeUInt16BE(frame.length - FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + 2);
    return frame;
  }
}

const EMPTY = Buffer.alloc(0);

/** Characters of our text in a packet of 512 bytes, the smallest there is. */
const RAISED_CHARACTERS_MAX = 180;

function headersOf(bytes: Buffer, payload: number, end: number): Buffer {
  const length = end - payload >= 4 ? bytes.readUInt32LE(payload) : 0;
  return bytes.subarray(payload, Math.min(end, payload + length));
}

function raiseText(refusal: Refusal): Buffer {
  const text = refusalText(refusal)
    .slice(0, RAISED_CHARACTERS_MAX)
    .replaceAll('%', '%%')
    .replaceAll("'", "''");
  return Buffer.from(`RAISERROR(N'${text}',16,1)`, 'utf16le');
}

/** Cuts the client's bytes into whole frames. */
class FrameCutter {
  readonly #frame: (bytes: Buffer, start: number, end: number) => void;
  #rest: Buffer | null = null;

  constructor(frame: (bytes: Buffer, start: number, end: number) => void) {
    this.#frame = frame;
  }

  /** False when the bytes are not frames. */
  feed(chunk: Buffer): boolean {
    const bytes = this.#rest === null ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#rest = null;
    let position = 0;
    while (position < bytes.length) {
      if (bytes[position] !== FRAME_ID) return false;
      if (bytes.length - position < FRAME_HEADER_BYTES) break;
      const length = bytes.readUInt32LE(position + 4);
      if (length < FRAME_HEADER_BYTES || length > FRAME_BYTES_MAX) return false;
      if (length > bytes.length - position) break;
      this.#frame(bytes, position, position + length);
      position += length;
    }
    if (position < bytes.length) this.#rest = Buffer.from(bytes.subarray(position));
    return true;
  }
}

/** Follows the server's frames without putting them together. */
class FrameScanner {
  readonly #stream: (id: number) => Stream | null;
  readonly #header = Buffer.alloc(FRAME_HEADER_BYTES);
  #headerLength = 0;
  #left = 0;
  #current: Stream | null = null;

  constructor(stream: (id: number) => Stream | null) {
    this.#stream = stream;
  }

  get atBoundary(): boolean {
    return this.#headerLength === 0 && this.#left === 0;
  }

  feed(chunk: Buffer): boolean {
    let position = 0;
    while (position < chunk.length) {
      if (this.#left > 0) {
        const taken = Math.min(this.#left, chunk.length - position);
        this.#left -= taken;
        if (this.#current !== null && !this.#current.serverBytes(chunk, position, position + taken))
          return false;
        position += taken;
        continue;
      }
      const taken = Math.min(FRAME_HEADER_BYTES - this.#headerLength, chunk.length - position);
      chunk.copy(this.#header, this.#headerLength, position, position + taken);
      this.#headerLength += taken;
      position += taken;
      if (this.#header[0] !== FRAME_ID) return false;
      if (this.#headerLength < FRAME_HEADER_BYTES) break;
      this.#headerLength = 0;
      const length = this.#header.readUInt32LE(4);
      if (length < FRAME_HEADER_BYTES || length > FRAME_BYTES_MAX) return false;
      this.#left = length - FRAME_HEADER_BYTES;
      this.#current = this.#stream(this.#header.readUInt16LE(2));
    }
    return true;
  }
}
