import { createHash, type Hash } from 'node:crypto';
import type { Statement } from '../statement.ts';
import { terminator } from './messages.ts';
import type { Prepared } from './statements.ts';

/** Reads the rest of a message that is too large to be held, as it passes. */
export interface Rest {
  push(bytes: Buffer, start: number, end: number): void;
  end(): void;
}

/** Hashes the rest of a statement's text. */
export class TextRest implements Rest {
  prepared: Prepared | null = null;
  readonly #statement: Statement;
  readonly #hash: Hash;
  #textBytes: number;
  #ended = false;

  constructor(statement: Statement, head: Buffer) {
    this.#statement = statement;
    this.#hash = createHash('sha256').update(head);
    this.#textBytes = head.length;
  }

  push(bytes: Buffer, start: number, end: number): void {
    if (this.#ended) return;
    const nul = terminator(bytes, start, end);
    const textEnd = nul < 0 ? end : nul;
    this.#ended = nul >= 0;
    this.#hash.update(bytes.subarray(start, textEnd));
    this.#textBytes += textEnd - start;
  }

  end(): void {
    const sha256 = this.#hash.digest('hex');
    this.#statement.textBytes = this.#textBytes;
    this.#statement.textSha256 = sha256;
    if (this.prepared === null) return;
    this.prepared.textBytes = this.#textBytes;
    this.prepared.textSha256 = sha256;
  }
}
