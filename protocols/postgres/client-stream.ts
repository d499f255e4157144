import type { ObserveOptions, Sink, Verdict } from '../engine.ts';
import { Refusal } from '../error.ts';
import { INSPECT_BYTES_MAX, OUTSTANDING_BYTES_MAX, OUTSTANDING_OPERATIONS_MAX } from '../limits.ts';
import type { Conversation } from './conversation.ts';
import {
  BIND,
  CLOSE,
  COPY_DATA,
  COPY_DONE,
  COPY_FAIL,
  DESCRIBE,
  EXECUTE,
  FLUSH,
  FLUSH_MESSAGE,
  FUNCTION_CALL,
  HEADER_BYTES,
  int32,
  PARSE,
  QUERY,
  SYNC,
  TERMINATE,
} from './messages.ts';
import { HELD, PASSES, REPLACED, Requests } from './requests.ts';
import type { Rest } from './rest.ts';
import { LARGE_MESSAGE_LENGTH_MAX, SMALL_MESSAGE_LENGTH_MAX } from './stream-limits.ts';

const NO_BYTES: Buffer = Buffer.alloc(0);

/**
 * The client's direction: framing by headers, and what passes when.
 *
 * Messages that lie whole within a chunk are read in place and pass as one view of the chunk. A message that is cut by
 * the end of a chunk is collected until it is whole; one of more than `INSPECT_BYTES_MAX` is judged by its head and
 * streams from then on. CopyData is never held.
 */
export class ClientStream {
  readonly requests: Requests;
  readonly #sink: Sink;
  readonly #conversation: Conversation;
  fatal: Refusal | null = null;

  /** A message that was begun and is not whole yet. */
  #partial: Buffer = NO_BYTES;
  #partialBytes = 0;
  /** Bytes of the current message that are still to stream, whether they pass, and who reads them. */
  #streaming = 0;
  #dropping = false;
  #rest: Rest | null = null;

  /** The chunk under observation, and how much of it has gone on. */
  #chunk: Buffer = NO_BYTES;
  #forwarded = 0;

  /** Bytes that wait for the gate, the first of them the message in question. */
  #held: Buffer[] | null = null;
  /** The server was asked to flush its answers since too much is outstanding. */
  #flushing = false;

  constructor(sink: Sink, conversation: Conversation, options: ObserveOptions, marker: string) {
    this.#sink = sink;
    this.#conversation = conversation;
    this.requests = new Requests(sink, conversation, options, marker);
  }

  /** Nothing of a message is under way. */
  get atBoundary(): boolean {
    return this.#partialBytes === 0 && this.#streaming === 0;
  }

  /** A part of a message has gone to the server, and the rest has not. */
  get streaming(): boolean {
    return this.#streaming > 0 && !this.#dropping;
  }

  /** A statement waits for the gate. */
  get held(): boolean {
    return this.#held !== null;
  }

  /** Not within a message: the server could not be waited for there. */
  get saturated(): boolean {
    return this.#held !== null || (this.atBoundary && this.#overfull);
  }

  get #overfull(): boolean {
    const { queue } = this.#conversation;
    return queue.size > OUTSTANDING_OPERATIONS_MAX || queue.weight > OUTSTANDING_BYTES_MAX;
  }

  push(chunk: Buffer): void {
    if (this.fatal !== null) return;
    if (this.#held !== null) {
      this.#held.push(Buffer.from(chunk));
      return;
    }
    this.#chunk = chunk;
    this.#forwarded = 0;
    let at = 0;
    while (at < chunk.length) {
      if (this.#streaming > 0) at = this.#stream(chunk, at);
      else if (this.#partialBytes > 0) at = this.#collect(chunk, at);
      else at = this.#messages(chunk, at);
      if (at < 0) break;
    }
    if (at >= 0) this.#pass(chunk.length);
    this.#chunk = NO_BYTES;
    this.#conversation.tellEndings();
    if (!this.#overfull) this.#flushing = false;
    else if (!this.#flushing && this.saturated && this.#held === null) {
      // A server keeps short answers back until it is asked for them, and the client is not read until they are here.
      this.#flushing = true;
      this.#sink.toServer(FLUSH_MESSAGE);
    }
  }

  release(verdict: Verdict): void {
    const held = this.#held;
    if (held === null || verdict.action === 'hold') return;
    this.#held = null;
    this.requests.answer = verdict;
    for (const chunk of held) this.push(chunk);
  }

  /** Reads whole messages in place. Returns where to go on; -1 when nothing more of the chunk is to be read. */
  #messages(chunk: Buffer, start: number): number {
    const { length } = chunk;
    let at = start;
    while (length - at >= HEADER_BYTES) {
      const type = chunk[at]!;
      const size = int32(chunk, at + 1);
      const end = at + 1 + size;
      if (type === COPY_DATA && size >= 4 && size <= LARGE_MESSAGE_LENGTH_MAX) {
        this.#conversation.copyBytes += size + 1;
        if (end > length) {
          this.#streaming = end - length;
          this.#dropping = false;
          return length;
        }
        at = end;
        continue;
      }
      if (!this.#legal(type, size)) {
        this.#pass(at);
        return -1;
      }
      if (end > length) break;
      const fate = this.requests.read(type, chunk, at + HEADER_BYTES, end, size + 1);
      if (fate === PASSES) {
        at = end;
        continue;
      }
      if (fate === HELD) {
        this.#pass(at);
        this.#held = [Buffer.from(chunk.subarray(at))];
        return -1;
      }
      this.#pass(at);
      this.#sink.toServer(this.requests.replacement);
      at = end;
      this.#forwarded = end;
    }
    if (at === length) return length;
    this.#pass(at);
    return this.#collect(chunk, at);
  }

  /** Checks type and length as the server does, which would close the connection. */
  #legal(type: number, size: number): boolean {
    let limit: number;
    switch (type) {
      case QUERY:
      case PARSE:
      case BIND:
      case FUNCTION_CALL:
      case COPY_DATA:
        limit = LARGE_MESSAGE_LENGTH_MAX;
        break;
      case EXECUTE:
      case DESCRIBE:
      case CLOSE:
      case SYNC:
      case FLUSH:
      case TERMINATE:
      case COPY_DONE:
      case COPY_FAIL:
        limit = SMALL_MESSAGE_LENGTH_MAX;
        break;
      default:
        this.fatal = new Refusal('protocol_violation', `invalid frontend message type ${type}`);
        return false;
    }
    if (size >= 4 && size <= limit) return true;
    this.fatal = new Refusal('protocol_violation', `invalid length of a message of type ${type}`);
    return false;
  }

  /** Gathers a message that is cut by the end of a chunk. What is taken into it is not passed by `#pass`. */
  #collect(chunk: Buffer, start: number): number {
    let at = start;
    while (at < chunk.length) {
      const known = this.#partialBytes >= HEADER_BYTES;
      const total = known ? int32(this.#partial, 1) + 1 : HEADER_BYTES;
      const wanted = Math.min(total, INSPECT_BYTES_MAX);
      const size = Math.min(wanted - this.#partialBytes, chunk.length - at);
      this.#append(chunk, at, size, wanted);
      at += size;
      this.#forwarded = at;
      if (this.#partialBytes < wanted) return at;
      if (!known) {
        const type = this.#partial[0]!;
        const length = int32(this.#partial, 1);
        if (!this.#legal(type, length)) return -1;
        if (type === COPY_DATA) {
          this.#conversation.copyBytes += length + 1;
          this.#passPartial();
          this.#streaming = length - 4;
          this.#dropping = false;
          return at;
        }
        if (length > 4) continue;
      }
      return this.#collected(chunk, at);
    }
    return at;
  }

  #append(chunk: Buffer, at: number, size: number, wanted: number): void {
    const needed = this.#partialBytes + size;
    if (needed > this.#partial.length) {
      const grown = Buffer.allocUnsafe(
        Math.min(Math.max(needed, this.#partial.length * 2, 256), Math.max(wanted, needed)),
      );
      this.#partial.copy(grown, 0, 0, this.#partialBytes);
      this.#partial = grown;
    }
    chunk.copy(this.#partial, this.#partialBytes, at, at + size);
    this.#partialBytes = needed;
  }

  /** A message is whole, or as much of it is here as is looked at before it passes. */
  #collected(chunk: Buffer, at: number): number {
    const partial = this.#partial.subarray(0, this.#partialBytes);
    const total = int32(partial, 1) + 1;
    const fate = this.requests.read(partial[0]!, partial, HEADER_BYTES, partial.length, total);
    if (fate === HELD) {
      this.#held = [Buffer.from(partial)];
      this.#partialBytes = 0;
      this.#partial = NO_BYTES;
      this.#streaming = 0;
      if (at < chunk.length) this.#held.push(Buffer.from(chunk.subarray(at)));
      return -1;
    }
    this.#streaming = total - partial.length;
    this.#dropping = fate === REPLACED;
    this.#rest = fate === PASSES && this.#streaming > 0 ? this.requests.rest : null;
    this.requests.rest = null;
    if (fate === PASSES) {
      this.#passPartial();
    } else {
      this.#partialBytes = 0;
      this.#partial = NO_BYTES;
      this.#sink.toServer(this.requests.replacement);
    }
    return at;
  }

  #passPartial(): void {
    const partial = this.#partial.subarray(0, this.#partialBytes);
    this.#partial = NO_BYTES;
    this.#partialBytes = 0;
    this.requests.recordParses();
    this.#sink.toServer(partial);
  }

  /** The rest of a large message. */
  #stream(chunk: Buffer, at: number): number {
    const size = Math.min(this.#streaming, chunk.length - at);
    const end = at + size;
    this.#rest?.push(chunk, at, end);
    this.#streaming -= size;
    if (this.#dropping) this.#forwarded = end;
    if (this.#streaming === 0) {
      this.#rest?.end();
      this.#rest = null;
    }
    return end;
  }

  /** Hands on what has not gone on yet of the chunk, up to `end`. */
  #pass(end: number): void {
    const chunk = this.#chunk;
    const start = this.#forwarded;
    if (end <= start) return;
    this.#forwarded = end;
    this.requests.recordParses();
    this.#sink.toServer(start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
  }
}
