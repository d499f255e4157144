import type { ObserveOptions, Observer, Sink, Verdict } from '../engine.ts';
import { Refusal } from '../error.ts';
import type { TransactionState } from '../statement.ts';
import { type Connection, type Line, noteOpaque } from './conversation.ts';
import { PacketCutter } from './frames.ts';
import { Handles } from './handles.ts';
import { sessionEnd } from './refuse.ts';
import { type SessionFacts, versionAtLeast } from './session.ts';
import { MultiplexedObserver } from './smp.ts';
import { Stream } from './stream.ts';

/** Follows one session after sign-in. */
export function observe(sink: Sink, options: ObserveOptions, facts: SessionFacts): Observer {
  const wide = versionAtLeast(facts.version, '7.2');
  const connection: Connection = {
    sink,
    options,
    facts,
    wide,
    collated: versionAtLeast(facts.version, '7.1'),
    handles: { prepared: new Handles(), cursors: new Handles() },
    // Before TDS 7.2 servers do not tell when a transaction begins or ends.
    transaction: facts.inTransaction ? 'active' : wide ? 'idle' : 'unknown',
    database: facts.database,
    fatal: null,
    serverLeaves: false,
    opaqueNotes: 0,
  };
  return facts.mars ? new MultiplexedObserver(connection) : new StreamObserver(connection);
}

/** One stream over the whole connection. Packets are gated, the server's chunks pass as they are. */
class StreamObserver implements Observer, Line {
  readonly heldPacketsMax = Number.POSITIVE_INFINITY;
  readonly #connection: Connection;
  readonly #stream: Stream;
  readonly #cutter = new PacketCutter();
  /** What goes to the server at the end of this call: neighbouring packets are one view. */
  #range: Buffer | null = null;
  #rangeStart = 0;
  #rangeEnd = 0;
  /** The server's chunk at hand, and how much of it has been dealt with. */
  #chunk: Buffer | null = null;
  #passed = 0;
  #swallowing = false;
  #serverLost = false;

  constructor(connection: Connection) {
    this.#connection = connection;
    this.#stream = new Stream(connection, this);
  }

  client(chunk: Buffer): void {
    if (!this.#cutter.feed(chunk, this.#stream) && this.#connection.fatal === null) {
      this.#connection.fatal = new Refusal(
        'protocol_violation',
        'the client sent a packet shorter than its own header',
      );
    }
    if (this.#serverLost) this.#stream.loseServer();
    this.#flush();
    this.#stream.keepHeld(chunk);
  }

  server(chunk: Buffer): void {
    if (this.#serverLost) {
      this.#connection.sink.toClient(chunk);
      return;
    }
    this.#chunk = chunk;
    this.#passed = 0;
    if (!this.#stream.serverBytes(chunk, 0, chunk.length)) this.#loseServer();
    this.#chunk = null;
    if (this.#swallowing || this.#passed === chunk.length) return;
    this.#connection.sink.toClient(this.#passed === 0 ? chunk : chunk.subarray(this.#passed));
  }

  release(verdict: Verdict): void {
    this.#stream.release(verdict);
    this.#flush();
  }

  get busy(): boolean {
    return this.#stream.busy;
  }

  get transaction(): TransactionState {
    return this.#connection.transaction;
  }

  get saturated(): boolean {
    return this.#stream.saturated;
  }

  get atBoundary(): boolean {
    return this.#stream.atBoundary && !this.#serverLost;
  }

  /** TDS has no goodbye of the client; the server's is an error of class 20 or more. */
  get leaving(): 'client' | 'server' | null {
    return this.#connection.serverLeaves ? 'server' : null;
  }

  get fatal(): Refusal | null {
    return this.#connection.fatal;
  }

  /** A client that waits for an answer gets it; one that does not would take it for the answer to its next request. */
  farewell(refusal: Refusal): Buffer {
    if (!this.#stream.awaited) return NOTHING;
    const { version, packetBytes, serverName } = this.#connection.facts;
    return sessionEnd(refusal, { version, packetBytes, serverName });
  }

  goodbye(): Buffer | null {
    return null;
  }

  attention(): Buffer | null {
    return this.#serverLost || !this.#cutter.empty ? null : this.#stream.interrupt();
  }

  close(status: 'unknown' | 'cancelled'): void {
    this.#stream.close(status);
  }

  // Line: called by the stream within `client`, `server` or `release`.

  toServer(bytes: Buffer, start: number, end: number): void {
    if (this.#range === bytes && this.#rangeEnd === start) {
      this.#rangeEnd = end;
      return;
    }
    this.#flush();
    this.#range = bytes;
    this.#rangeStart = start;
    this.#rangeEnd = end;
  }

  toClient(position: number, bytes: Buffer): void {
    this.#passTo(position);
    this.#connection.sink.toClient(bytes);
  }

  swallow(position: number): void {
    this.#passTo(position);
    this.#swallowing = true;
  }

  swallowed(position: number): void {
    this.#swallowing = false;
    this.#passed = position;
  }

  substitute(): Buffer | null {
    return null;
  }

  #passTo(position: number): void {
    const chunk = this.#chunk;
    if (chunk === null || position <= this.#passed) return;
    if (!this.#swallowing) this.#connection.sink.toClient(chunk.subarray(this.#passed, position));
    this.#passed = position;
  }

  #flush(): void {
    const range = this.#range;
    if (range === null) return;
    this.#range = null;
    const whole = this.#rangeStart === 0 && this.#rangeEnd === range.length;
    this.#connection.sink.toServer(whole ? range : range.subarray(this.#rangeStart, this.#rangeEnd));
  }

  #loseServer(): void {
    this.#serverLost = true;
    this.#swallowing = false;
    this.#stream.loseServer();
    noteOpaque(
      this.#connection,
      'the server sent a packet shorter than its own header; nothing more can be followed',
      '',
    );
  }
}

const NOTHING = Buffer.alloc(0);
