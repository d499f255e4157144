import type { Refusal } from '../error.ts';
import type { Statement } from '../statement.ts';
import { type BIND, COPY_DONE, type PARSE, SYNC } from './messages.ts';
import type { Portal, Prepared } from './statements.ts';

/** Kinds beside the type bytes of client messages: a Describe of a portal, a Close of a portal. */
export const DESCRIBE_PORTAL = 0x144;
export const CLOSE_PORTAL = 0x143;

/** One client message that the server will answer, or skip. `kind` is its type byte or one of the kinds above. */
export class Operation {
  readonly kind: number;
  /** Statement or portal that it names; '' for the unnamed one. */
  readonly name: string;
  /** A Sync within COPY: no answer is to be expected. */
  soft = false;
  /** A Sync that may or may not be answered. */
  maybe = false;
  /** Sent where it cannot be known whether the server skips. */
  tentative: boolean;
  /** Skipped by the server, or taken out with a failed one. */
  dropped = false;
  /** What was sent in place of a refused message; the client hears this. */
  refusal: Refusal | null = null;
  /** The statement on record that this message is (Query, FunctionCall, Execute, an unexecuted Parse). */
  statement: Statement | null = null;
  /** What a Parse prepares, a Describe describes. */
  prepared: Prepared | null = null;
  /** What a Bind opens, an Execute runs. */
  portal: Portal | null = null;
  /** Memory held while it is outstanding, roughly. */
  weight = 0;
  /** Results that a Query has had. */
  results = 0;
  /** CopyDone and CopyFail: bytes of CopyData before it. */
  bytes = 0;
  /** How many Syncs were sent before it: what has the same number stands or falls together. */
  readonly group: number;

  constructor(kind: number, name: string, tentative: boolean, group: number) {
    this.kind = kind;
    this.name = name;
    this.tentative = tentative;
    this.group = group;
  }

  /** Whether the server owes an answer for certain. */
  get certain(): boolean {
    return this.kind !== COPY_DONE && !this.soft && !this.maybe;
  }
}

/** A queue whose front moves: first in, first out, with a few looks behind the front. */
export class OperationQueue {
  #items: Operation[] = [];
  #head = 0;
  /** Sum of the weights within. */
  weight = 0;

  get size(): number {
    return this.#items.length - this.#head;
  }

  push(operation: Operation): void {
    this.#items.push(operation);
    this.weight += operation.weight;
  }

  front(): Operation | null {
    return this.#head < this.#items.length ? this.#items[this.#head]! : null;
  }

  /** The operation `index` places behind the front; null behind the end. */
  at(index: number): Operation | null {
    const position = this.#head + index;
    return position < this.#items.length ? this.#items[position]! : null;
  }

  shift(): void {
    const items = this.#items;
    this.weight -= items[this.#head]!.weight;
    this.#head += 1;
    if (this.#head === items.length) {
      items.length = 0;
      this.#head = 0;
    } else if (this.#head >= 1024 && this.#head * 2 >= items.length) {
      items.copyWithin(0, this.#head);
      items.length -= this.#head;
      this.#head = 0;
    }
  }

  /** Takes out those of the first `count` that `drop` tells; the others keep their order. */
  filterFront(count: number, drop: (operation: Operation) => boolean): void {
    const items = this.#items;
    let to = this.#head + count - 1;
    for (let from = to; from >= this.#head; from -= 1) {
      const operation = items[from]!;
      if (drop(operation)) {
        this.weight -= operation.weight;
      } else {
        items[to] = operation;
        to -= 1;
      }
    }
    this.#head = to + 1;
    if (this.#head === items.length) {
      items.length = 0;
      this.#head = 0;
    }
  }

  /** The newest Parse or Bind of a name. */
  newest(kind: typeof PARSE | typeof BIND, name: string): Operation | null {
    for (let index = this.#items.length - 1; index >= this.#head; index -= 1) {
      const operation = this.#items[index]!;
      if (operation.kind === kind && operation.name === name) return operation;
    }
    return null;
  }

  /** Whether some operation is one that the server owes an answer for. */
  get busy(): boolean {
    const items = this.#items;
    for (let index = this.#head; index < items.length; index += 1) if (items[index]!.certain) return true;
    return false;
  }

  /** Index of the first Sync that is certain to be answered, counted from the front; -1 when there is none. */
  firstHardSync(): number {
    const items = this.#items;
    for (let index = this.#head; index < items.length; index += 1) {
      const operation = items[index]!;
      if (operation.kind === SYNC && !operation.soft) return index - this.#head;
    }
    return -1;
  }

  clear(): void {
    this.#items = [];
    this.#head = 0;
    this.weight = 0;
  }
}
