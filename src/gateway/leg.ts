import type { Duplex } from 'node:stream';
import { readBuffers } from './read-buffers.ts';

/** What a leg tells its relay. All calls are synchronous. */
export interface LegEvents {
  /** The bytes are good during the call alone: `readBuffers.lasting` copies what must stay. */
  data(chunk: Buffer): void;
  ended(): void;
  failed(error: Error): void;
  closed(): void;
  drained(): void;
}

/** One side of a relay, between the handshake and its end: the client's connection, or the server's. */
export interface Leg {
  readonly destroyed: boolean;
  /** The peer sends no more. */
  readonly readableEnded: boolean;
  /** We send no more. */
  readonly writableEnded: boolean;
  /** Bytes wait for the peer to read: `drained` tells when it has. */
  readonly needsDrain: boolean;
  /** Begins to read. Called once. */
  start(events: LegEvents): void;
  /** Sends `bytes`, in order. False: it is time to wait for `drained`. */
  write(bytes: Buffer): boolean;
  pause(): void;
  resume(): void;
  /** Sends no more; what was written before still goes out. */
  end(): void;
  destroy(): void;
}

/** A leg over any stream: TLS, one end of a tunnel, and sockets where nothing quicker can be had. */
export class StreamLeg implements Leg {
  readonly #stream: Duplex;

  constructor(stream: Duplex) {
    this.#stream = stream;
  }

  get destroyed(): boolean {
    return this.#stream.destroyed;
  }

  get readableEnded(): boolean {
    return this.#stream.readableEnded;
  }

  get writableEnded(): boolean {
    return this.#stream.writableEnded;
  }

  get needsDrain(): boolean {
    return this.#stream.writableNeedDrain;
  }

  start(events: LegEvents): void {
    const stream = this.#stream;
    stream.on('data', events.data);
    stream.on('end', events.ended);
    stream.on('error', events.failed);
    stream.on('close', events.closed);
    stream.on('drain', events.drained);
  }

  write(bytes: Buffer): boolean {
    const stream = this.#stream;
    if (!readBuffers.isLent(bytes)) return stream.write(bytes);
    // A stream may keep what it is given, and says so only by what it holds afterwards.
    if (stream.writableLength > 0) return stream.write(Buffer.from(bytes));
    const ready = stream.write(bytes);
    if (stream.writableLength > 0) readBuffers.forsake(bytes);
    return ready;
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  end(): void {
    if (!this.#stream.writableEnded && !this.#stream.destroyed) this.#stream.end();
  }

  destroy(): void {
    this.#stream.destroy();
  }
}
