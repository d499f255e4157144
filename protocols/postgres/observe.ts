import type { ObserveOptions, Observer, Sink, Verdict } from '../engine.ts';
import type { Refusal } from '../error.ts';
import type { TransactionState } from '../statement.ts';
import { ClientStream } from './client-stream.ts';
import { Conversation } from './conversation.ts';
import { TERMINATE_MESSAGE } from './messages.ts';
import { farewell } from './refuse.ts';
import { ServerStream } from './server-stream.ts';
import type { SessionFacts } from './session.ts';

/**
 * Follows one session's traffic after sign-in. Three parts: each direction is framed by its own stream, and both tell
 * the conversation, which matches answers to what was asked and fills in the records.
 */
export function observe(sink: Sink, options: ObserveOptions, facts: SessionFacts): Observer {
  return new PostgresObserver(sink, options, facts);
}

class PostgresObserver implements Observer {
  readonly #conversation: Conversation;
  readonly #client: ClientStream;
  readonly #server: ServerStream;

  constructor(sink: Sink, options: ObserveOptions, facts: SessionFacts) {
    this.#conversation = new Conversation(sink, options, facts);
    this.#client = new ClientStream(sink, this.#conversation, options, facts.denialMarker);
    this.#server = new ServerStream(sink, this.#conversation, options, facts.denialMarker);
    this.#conversation.trace = () =>
      `client ${this.#client.requests.trace.text} server ${this.#server.trace.text}`;
  }

  client(chunk: Buffer): void {
    this.#client.push(chunk);
  }

  server(chunk: Buffer): void {
    this.#server.push(chunk);
  }

  release(verdict: Verdict): void {
    this.#client.release(verdict);
  }

  get busy(): boolean {
    return this.#conversation.busy || this.#client.held;
  }

  get transaction(): TransactionState {
    return this.#conversation.transaction;
  }

  get saturated(): boolean {
    return this.#client.saturated;
  }

  get atBoundary(): boolean {
    return this.#server.atBoundary;
  }

  get leaving(): 'client' | 'server' | null {
    if (this.#conversation.serverLeaves) return 'server';
    return this.#client.requests.leaves ? 'client' : null;
  }

  get fatal(): Refusal | null {
    return this.#client.fatal ?? this.#server.fatal;
  }

  farewell(refusal: Refusal): Buffer {
    return farewell(refusal);
  }

  /** Terminate, unless it was said already or would land within a message. */
  goodbye(): Buffer | null {
    return this.#client.requests.leaves || this.#client.streaming ? null : TERMINATE_MESSAGE;
  }

  /** PostgreSQL cancels over a connection of its own. */
  attention(): Buffer | null {
    return null;
  }

  close(status: 'unknown' | 'cancelled'): void {
    this.#conversation.close(status);
  }
}
