import type { ObserveOptions, Observer, Sink, Verdict } from '../engine.ts';
import type { Refusal } from '../error.ts';
import type { TransactionState } from '../statement.ts';
import { COM_QUIT } from './commands.ts';
import { Conversation } from './conversation.ts';
import { packet } from './packets.ts';
import { refusalPacket } from './refuse.ts';
import { Replies } from './replies.ts';
import { Requests } from './requests.ts';
import type { SessionFacts } from './session.ts';

/**
 * Follows one session's traffic after sign-in. `Requests` reads the client's direction, `Replies` the server's; what both
 * know of the session is a `Conversation`, at its heart the queue of commands that the server still has to answer.
 */
export function observe(sink: Sink, options: ObserveOptions, facts: SessionFacts): Observer {
  return new MysqlObserver(new Conversation(sink, options, facts));
}

/**
 * What a client that waits for nothing is told goes with this sequence number: the one its next command's reply has, so
 * that whoever reads it only then finds it in order.
 */
const IDLE_SEQUENCE = 1;

class MysqlObserver implements Observer {
  readonly #conversation: Conversation;
  readonly #requests: Requests;
  readonly #replies: Replies;

  constructor(conversation: Conversation) {
    this.#conversation = conversation;
    this.#requests = new Requests(conversation);
    this.#replies = new Replies(conversation);
  }

  client(chunk: Buffer): void {
    this.#requests.client(chunk);
  }

  server(chunk: Buffer): void {
    this.#replies.server(chunk);
  }

  release(verdict: Verdict): void {
    this.#requests.release(verdict);
  }

  get busy(): boolean {
    const { head, changing } = this.#conversation;
    return head !== null || changing !== null || this.#requests.incomplete;
  }

  get transaction(): TransactionState {
    return this.#conversation.transaction;
  }

  get saturated(): boolean {
    return this.#requests.blocked || this.#conversation.crowded;
  }

  get atBoundary(): boolean {
    return this.#replies.atBoundary;
  }

  get leaving(): 'client' | 'server' | null {
    return this.#conversation.leaving;
  }

  get fatal(): Refusal | null {
    return this.#requests.fatal;
  }

  farewell(refusal: Refusal): Buffer {
    const { head, sequence } = this.#conversation;
    if (sequence >= 0) return refusalPacket(sequence, refusal);
    return refusalPacket(head === null ? IDLE_SEQUENCE : head.sequence, refusal);
  }

  goodbye(): Buffer | null {
    if (this.#conversation.leaving !== null || !this.#requests.atBoundary) return null;
    return packet(0, Buffer.of(COM_QUIT));
  }

  /** MySQL cancels over a second connection (KILL QUERY). */
  attention(): Buffer | null {
    return null;
  }

  close(status: 'unknown' | 'cancelled'): void {
    this.#conversation.close(status);
  }
}
