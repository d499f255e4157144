import type { ObserveOptions, Sink } from '../engine.ts';
import type { Refusal } from '../error.ts';
import type { TransactionState } from '../statement.ts';
import type { KnownHandles } from './calls.ts';
import { OPAQUE_NOTES_MAX } from './limits.ts';
import type { Outcome } from './outcome.ts';
import type { RequestReader } from './requests.ts';
import type { SessionFacts } from './session.ts';

/** What the halves of an observer share: the connection's state, the way of its bytes, the requests under way. */

/** What the streams of one connection share. */
export interface Connection {
  readonly sink: Sink;
  readonly options: ObserveOptions;
  readonly facts: SessionFacts;
  /** TDS 7.2 or later. */
  readonly wide: boolean;
  /** TDS 7.1 or later. */
  readonly collated: boolean;
  readonly handles: KnownHandles;
  transaction: TransactionState;
  database: string | null;
  fatal: Refusal | null;
  serverLeaves: boolean;
  opaqueNotes: number;
}

/** Puts on record that something could not be followed, as long as there are not too many such notes. */
export function noteOpaque(connection: Connection, reason: string, trace: string): void {
  connection.opaqueNotes += 1;
  if (connection.opaqueNotes > OPAQUE_NOTES_MAX) return;
  connection.sink.note({ kind: 'opaque', reason, trace });
}

/** The way of a stream's bytes. */
export interface Line {
  /** Packets of one message that may be held back: a client that must wait for the server's window stops after a few. */
  readonly heldPacketsMax: number;
  /** `bytes[start, end)` may go to the server now. */
  toServer(bytes: Buffer, start: number, end: number): void;
  /** Forwards what came from the server up to `position` of the chunk at hand, and then `bytes`. */
  toClient(position: number, bytes: Buffer): void;
  /** From `position` of the chunk at hand on, nothing of the server's goes to the client. */
  swallow(position: number): void;
  /** From `position` on it does again. */
  swallowed(position: number): void;
  /**
   * What goes to the server in place of one packet of a refused request, so that the server itself answers with an
   * error; null where we answer for it. `position`: where the packet stands in its message.
   */
  substitute(packet: Held, position: PacketPosition, refusal: Refusal): Buffer | null;
}

export interface PacketPosition {
  readonly first: boolean;
  readonly last: boolean;
}

/** A packet that waits, as `bytes[start, end)`; the packet itself begins at `packet`. */
export interface Held {
  readonly bytes: Buffer;
  readonly start: number;
  readonly packet: number;
  readonly end: number;
}

/**
 * Gives what waits of `chunk` memory of its own: the chunk's is used for something else once the call is over. Neighbours
 * stay neighbours, so that they still pass as one view.
 */
export function keepHeld(held: Held[], chunk: Buffer): void {
  const first = held.findIndex(({ bytes }) => bytes === chunk);
  if (first < 0) return;
  const { start: base } = held[first]!;
  const copy = Buffer.from(chunk.subarray(base));
  for (let index = first; index < held.length; index++) {
    const { bytes, start, packet, end } = held[index]!;
    if (bytes === chunk)
      held[index] = { bytes: copy, start: start - base, packet: packet - base, end: end - base };
  }
}

/** One message of the client that wants an answer. */
export class Request {
  readonly type: number;
  readonly reader: RequestReader;
  readonly outcomes: Outcome[] = [];
  held: Held[] = [];
  heldBytes = 0;
  bytes = 0;
  /** How many of `outcomes` the gate has allowed, and how many have begun. */
  allowed = 0;
  begun = 0;
  /** Its last packet has been seen. */
  whole = false;
  /** It is in the queue: the server has, or is about to have, its bytes. */
  queued = false;
  /** The client gave it up before it was whole. */
  ignored = false;
  /** An attention was sent while it was outstanding. */
  cancelAsked = false;
  /** What the client is answered in the server's place. */
  answer: Buffer | null = null;
  /** Its packets are changed into a request that the server answers with this. */
  substituted: Refusal | null = null;
  /** The server's own answer must not reach the client: ours takes its place. */
  replaces = false;
  current = 0;
  returnStatusSeen = false;
  textBytes = 0;
  /** It asked for a reset that leaves the transaction as it is. */
  keepsTransaction = false;

  constructor(type: number, reader: RequestReader) {
    this.type = type;
    this.reader = reader;
  }
}
