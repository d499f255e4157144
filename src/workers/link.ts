import { REFUSAL_CODES, Refusal, type RefusalCode } from '../../protocols/error.ts';
import { QUESTIONS_MAX } from './limits.ts';

/** The channel between a process and one that it started: `ChildProcess` and `process` have it. */
export interface Channel {
  send(message: object, sent: (error: Error | null) => void): void;
  onMessage(listener: (message: unknown) => void): void;
}

/** What can be asked of a side: one argument, one answer, both of values that structured cloning takes. */
export type Calls<Side> = { [Name in keyof Side]: (argument: never) => unknown };

type Argument<Call> = Call extends (argument: infer Given) => unknown ? Given : never;
type Answer<Call> = Call extends (argument: never) => infer Given ? Awaited<Given> : never;

type Message =
  | { readonly kind: 'ask'; readonly id: number; readonly name: string; readonly argument: unknown }
  | { readonly kind: 'tell'; readonly name: string; readonly argument: unknown }
  | { readonly kind: 'answer'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'failure'; readonly id: number; readonly failure: Failure };

const KINDS: readonly string[] = ['ask', 'tell', 'answer', 'failure'] satisfies Message['kind'][];

interface Failure {
  readonly message: string;
  /** Set for a `Refusal`. */
  readonly code: RefusalCode | null;
  readonly hint: string | null;
}

interface Question {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/**
 * Questions and answers between two processes. `Here` is what the other may ask of us, `There` what we may ask of it.
 * Messages arrive in the order in which they were sent.
 */
export class Link<Here extends Calls<Here>, There extends Calls<There>> {
  readonly #channel: Channel;
  readonly #handlers: Here;
  readonly #questions = new Map<number, Question>();
  #last = 0;
  #closed = false;

  constructor(channel: Channel, handlers: Here) {
    this.#channel = channel;
    this.#handlers = handlers;
    channel.onMessage((message) => this.#take(message as Message));
  }

  /** Rejects with the other side's `Refusal` or `Error`, or when the link is closed. */
  ask<Name extends keyof There & string>(
    name: Name,
    argument: Argument<There[Name]>,
  ): Promise<Answer<There[Name]>> {
    if (this.#closed) return Promise.reject(new GoneError());
    if (this.#questions.size >= QUESTIONS_MAX)
      return Promise.reject(new Refusal('rate_limited', 'too much is asked at once; try again'));
    this.#last += 1;
    const id = this.#last;
    return new Promise((resolve, reject) => {
      this.#questions.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#channel.send({ kind: 'ask', id, name, argument } satisfies Message, (error) => {
        if (error !== null && this.#questions.delete(id)) reject(new GoneError());
      });
    });
  }

  /** Says something that needs no answer. `sent` is called once the operating system has it, or the other side is gone. */
  tell<Name extends keyof There & string>(
    name: Name,
    argument: Argument<There[Name]>,
    sent: () => void = () => {},
  ): void {
    if (this.#closed) sent();
    else this.#channel.send({ kind: 'tell', name, argument } satisfies Message, sent);
  }

  /** The other side is gone: whoever waits for an answer hears so. */
  close(): void {
    this.#closed = true;
    for (const question of this.#questions.values()) question.reject(new GoneError());
    this.#questions.clear();
  }

  #take(message: Message): void {
    // Sockets come over the same channel.
    if (this.#closed || !KINDS.includes(message.kind)) return;
    if (message.kind === 'ask') void this.#reply(message.id, message.name, message.argument);
    else if (message.kind === 'tell') void this.#hear(message.name, message.argument);
    else {
      const question = this.#questions.get(message.id);
      this.#questions.delete(message.id);
      if (message.kind === 'answer') question?.resolve(message.value);
      else question?.reject(errorOf(message.failure));
    }
  }

  async #reply(id: number, name: string, argument: unknown): Promise<void> {
    let message: Message;
    try {
      message = { kind: 'answer', id, value: await this.#call(name, argument) };
    } catch (error) {
      message = { kind: 'failure', id, failure: failureOf(error) };
    }
    if (!this.#closed) this.#channel.send(message, () => {});
  }

  /** What was told and cannot be done concerns nobody there: it is told again, or over. */
  async #hear(name: string, argument: unknown): Promise<void> {
    try {
      await this.#call(name, argument);
    } catch {}
  }

  #call(name: string, argument: unknown): unknown {
    return (this.#handlers as Record<string, (argument: never) => unknown>)[name]!(argument as never);
  }
}

/** There is nobody any more to answer. */
export class GoneError extends Error {
  constructor() {
    super('the other process is gone');
    this.name = 'GoneError';
  }
}

function failureOf(error: unknown): Failure {
  if (error instanceof Refusal) return { message: error.message, code: error.code, hint: error.hint };
  return { message: error instanceof Error ? error.message : String(error), code: null, hint: null };
}

function errorOf({ message, code, hint }: Failure): Error {
  if (code === null || !REFUSAL_CODES.includes(code)) return new Error(message);
  return new Refusal(code, message, hint === null ? {} : { hint });
}
