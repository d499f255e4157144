import { lastingCopy } from '../bytes.ts';
import type { ObserveOptions, Sink } from '../engine.ts';
import { Refusal } from '../error.ts';
import type { Conversation } from './conversation.ts';
import { DescriptionReader } from './descriptions.ts';
import {
  BIND_COMPLETE,
  CLOSE_COMPLETE,
  COMMAND_COMPLETE,
  COPY_BOTH_RESPONSE,
  COPY_DATA,
  COPY_IN_RESPONSE,
  COPY_OUT_RESPONSE,
  DATA_ROW,
  EMPTY_QUERY_RESPONSE,
  ERROR_RESPONSE,
  FUNCTION_CALL_RESPONSE,
  HEADER_BYTES,
  int32,
  NO_DATA,
  NOTICE_RESPONSE,
  PARAMETER_DESCRIPTION,
  PARAMETER_STATUS,
  PARSE_COMPLETE,
  PORTAL_SUSPENDED,
  parseParameterDescription,
  parseServerMessage,
  READY_FOR_QUERY,
  ROW_DESCRIPTION,
  terminator,
} from './messages.ts';
import { refused } from './refuse.ts';
import { readRow } from './sample.ts';
import {
  ANSWER_BYTES_MAX,
  DESCRIPTION_BYTES_MAX,
  ERROR_BYTES_MAX,
  ERROR_TEXT_LENGTH_MAX,
  SAMPLE_BYTES_MAX,
} from './stream-limits.ts';
import { TagReader } from './tags.ts';
import { MessageTrace } from './trace.ts';

const NO_BYTES: Buffer = Buffer.alloc(0);

/**
 * The server's direction: every chunk passes in the call that brings it, as it is. Rows are counted by their headers.
 * What is short and tells something (tags, errors, descriptions) is read in place, or collected beside the stream
 * where a chunk cuts it. Only while a refused statement waits for its answer are errors held until they are whole,
 * since one of them must be replaced.
 */
export class ServerStream {
  readonly #sink: Sink;
  readonly #conversation: Conversation;
  readonly #marker: Buffer;
  readonly #sampleRows: number;
  readonly #describes: boolean;
  readonly #tags = new TagReader();
  readonly #descriptions = new DescriptionReader();
  readonly trace = new MessageTrace();
  /** The server has sent what is no message. */
  fatal: Refusal | null = null;

  /** Bytes seen before the chunk under observation. */
  #base = 0;
  #chunk: Buffer = NO_BYTES;
  #forwarded = 0;
  /** Bytes of the current message that pass unread. */
  #skipping = 0;
  /** They do not even pass: another message has taken its place. */
  #discarding = false;
  /** A message that is read and was cut by the end of a chunk, as far as it is looked at. */
  #partial: Buffer = NO_BYTES;
  #partialBytes = 0;
  /** How many of its bytes were not passed on. */
  #withheld = 0;

  constructor(sink: Sink, conversation: Conversation, options: ObserveOptions, marker: string) {
    this.#sink = sink;
    this.#conversation = conversation;
    this.#marker = lastingCopy(Buffer.from(marker, 'latin1'));
    this.#sampleRows = options.sampleRows;
    this.#describes = options.columns || options.sampleRows > 0;
  }

  get atBoundary(): boolean {
    return this.#skipping === 0 && this.#partialBytes === 0 && this.fatal === null;
  }

  push(chunk: Buffer): void {
    if (this.fatal !== null) {
      this.#sink.toClient(chunk);
      return;
    }
    this.#chunk = chunk;
    this.#forwarded = 0;
    let at = 0;
    while (at < chunk.length && this.fatal === null) {
      if (this.#skipping > 0) at = this.#skip(chunk, at);
      else if (this.#partialBytes > 0) at = this.#collect(chunk, at);
      else at = this.#messages(chunk, at);
    }
    this.#base += chunk.length;
    this.#pass(chunk.length);
    this.#chunk = NO_BYTES;
    this.#conversation.tellEndings();
  }

  #messages(chunk: Buffer, start: number): number {
    const { length } = chunk;
    const conversation = this.#conversation;
    let at = start;
    while (length - at >= HEADER_BYTES) {
      const type = chunk[at]!;
      const size = int32(chunk, at + 1);
      if (size < 4) return this.#broken(length);
      const end = at + 1 + size;
      if (type === DATA_ROW || type === COPY_DATA) {
        if (type === DATA_ROW) {
          const sampled = conversation.rows < this.#sampleRows && size <= SAMPLE_BYTES_MAX;
          if (sampled && end > length) return this.#collect(chunk, at);
          conversation.rows += 1;
          if (sampled) readRow(conversation, chunk, at + HEADER_BYTES, end);
        }
        if (end > length) {
          this.#skipping = end - length;
          return length;
        }
        at = end;
        continue;
      }
      if (end > length) return this.#collect(chunk, at);
      conversation.position = this.#base + end;
      const replacement = this.#message(type, chunk, at + HEADER_BYTES, end, true);
      if (replacement !== null) {
        this.#pass(at);
        this.#sink.toClient(replacement);
        this.#forwarded = end;
      }
      at = end;
    }
    return at === length ? length : this.#collect(chunk, at);
  }

  /** The server speaks something else: nothing behind this point can be told apart. */
  #broken(length: number): number {
    this.fatal = new Refusal('internal', 'the database server sent what is not of its protocol');
    this.#conversation.lose('a message with an impossible length');
    return length;
  }

  #skip(chunk: Buffer, at: number): number {
    const size = Math.min(this.#skipping, chunk.length - at);
    this.#skipping -= size;
    if (this.#discarding) this.#forwarded = at + size;
    if (this.#skipping === 0) this.#discarding = false;
    return at + size;
  }

  /** Gathers a message that a chunk cuts, beside the stream or (an error that may have to be replaced) out of it. */
  #collect(chunk: Buffer, start: number): number {
    let at = start;
    while (at < chunk.length) {
      const known = this.#partialBytes >= HEADER_BYTES;
      const total = known ? int32(this.#partial, 1) + 1 : HEADER_BYTES;
      const wanted = known ? Math.min(total, readLimit(this.#partial[0]!) + HEADER_BYTES) : HEADER_BYTES;
      const size = Math.min(wanted - this.#partialBytes, chunk.length - at);
      if (this.#withholds(known)) {
        this.#pass(at);
        this.#withheld += size;
        this.#forwarded = at + size;
      }
      this.#append(chunk, at, size);
      at += size;
      if (this.#partialBytes < wanted) return at;
      if (!known) {
        if (!this.#headerKnown()) return at;
        if (int32(this.#partial, 1) > 4) continue;
      }
      this.#collected(at, int32(this.#partial, 1) + 1);
      return at;
    }
    return at;
  }

  /** Whether the bytes under way must wait, since they may be of an error that is to be replaced. */
  #withholds(known: boolean): boolean {
    if (this.#conversation.poisons === 0 && this.#withheld === 0) return false;
    return this.#withheld === this.#partialBytes && (!known || this.#partial[0] === ERROR_RESPONSE);
  }

  /** The header is whole. Returns whether the message's body is to be collected too. */
  #headerKnown(): boolean {
    const type = this.#partial[0]!;
    const size = int32(this.#partial, 1);
    if (size < 4) {
      this.#letGo();
      this.#partialBytes = 0;
      this.#broken(0);
      return false;
    }
    if (type !== ERROR_RESPONSE) this.#letGo();
    if (type !== DATA_ROW && type !== COPY_DATA) return true;
    if (type === DATA_ROW) {
      const conversation = this.#conversation;
      conversation.rows += 1;
      if (conversation.rows <= this.#sampleRows && size <= SAMPLE_BYTES_MAX) return true;
    }
    this.#skipping = size - 4;
    this.#partialBytes = 0;
    return false;
  }

  /** What was withheld is no error after all. */
  #letGo(): void {
    if (this.#withheld === 0) return;
    this.#sink.toClient(Buffer.from(this.#partial.subarray(0, this.#withheld)));
    this.#withheld = 0;
  }

  #collected(at: number, total: number): void {
    const partial = this.#partial.subarray(0, this.#partialBytes);
    const type = partial[0]!;
    this.#skipping = total - partial.length;
    this.#conversation.position = this.#base + at + this.#skipping;
    this.#partial = NO_BYTES;
    this.#partialBytes = 0;
    const withheld = this.#withheld;
    this.#withheld = 0;
    if (type === DATA_ROW) {
      readRow(this.#conversation, partial, HEADER_BYTES, partial.length);
      return;
    }
    const replacement = this.#message(type, partial, HEADER_BYTES, partial.length, withheld > 0);
    if (withheld > 0) this.#sink.toClient(replacement ?? partial);
    this.#discarding = replacement !== null && this.#skipping > 0;
  }

  #append(chunk: Buffer, at: number, size: number): void {
    const needed = this.#partialBytes + size;
    if (needed > this.#partial.length) {
      const grown = Buffer.allocUnsafe(Math.max(needed, this.#partial.length * 2, 256));
      this.#partial.copy(grown, 0, 0, this.#partialBytes);
      this.#partial = grown;
    }
    chunk.copy(this.#partial, this.#partialBytes, at, at + size);
    this.#partialBytes = needed;
  }

  #pass(end: number): void {
    const chunk = this.#chunk;
    const start = this.#forwarded;
    if (end <= start) return;
    this.#forwarded = end;
    this.#sink.toClient(start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
  }

  /** Reads one message; `start` and `end` bound its body. Returns what goes to the client in its place, or null. */
  #message(type: number, bytes: Buffer, start: number, end: number, replaceable: boolean): Buffer | null {
    const conversation = this.#conversation;
    this.trace.add(type);
    switch (type) {
      case COMMAND_COMPLETE: {
        const nul = bytes[end - 1] === 0 ? end - 1 : end;
        conversation.result(this.#tags.read(bytes, start, nul), false);
        return null;
      }
      case READY_FOR_QUERY:
        conversation.readyForQuery(start < end ? bytes[start]! : 0);
        return null;
      case BIND_COMPLETE:
        conversation.bindComplete();
        return null;
      case PARSE_COMPLETE:
        conversation.parseComplete();
        return null;
      case CLOSE_COMPLETE:
        conversation.closeComplete();
        return null;
      case ROW_DESCRIPTION:
        conversation.rowDescription(
          this.#describes ? this.#descriptions.read(bytes, start, end, conversation.decode) : null,
        );
        return null;
      case NO_DATA:
        conversation.noData();
        return null;
      case PARAMETER_DESCRIPTION:
        conversation.parameterDescription(parseParameterDescription(bytes, start, end));
        return null;
      case EMPTY_QUERY_RESPONSE:
        conversation.result(null, false);
        return null;
      case PORTAL_SUSPENDED:
        conversation.result(null, true);
        return null;
      case ERROR_RESPONSE:
        return this.#error(bytes, start, end, replaceable);
      case NOTICE_RESPONSE:
        conversation.notice(
          parseServerMessage(bytes, start, end, conversation.decode, ERROR_TEXT_LENGTH_MAX),
        );
        return null;
      case PARAMETER_STATUS:
        this.#parameterStatus(bytes, start, end);
        return null;
      case COPY_IN_RESPONSE:
        conversation.copyInResponse();
        return null;
      case COPY_OUT_RESPONSE:
        conversation.copyOutResponse();
        return null;
      case COPY_BOTH_RESPONSE:
        conversation.copyBothResponse();
        return null;
      case FUNCTION_CALL_RESPONSE:
        conversation.functionCallResponse();
        return null;
      default: // CopyDone, NotificationResponse, and what is not known yet
        return null;
    }
  }

  #error(bytes: Buffer, start: number, end: number, replaceable: boolean): Buffer | null {
    const conversation = this.#conversation;
    const message = parseServerMessage(bytes, start, end, conversation.decode, ERROR_TEXT_LENGTH_MAX);
    let repeats = false;
    if (conversation.poisons > 0) {
      const found = bytes.indexOf(this.#marker, start);
      repeats = found >= 0 && found < end;
    }
    const refusal = conversation.error(message, repeats);
    return refusal === null || !replaceable ? null : refused(refusal);
  }

  #parameterStatus(bytes: Buffer, start: number, end: number): void {
    const nameEnd = terminator(bytes, start, end);
    if (nameEnd < 0) return;
    const valueEnd = terminator(bytes, nameEnd + 1, end);
    if (valueEnd < 0) return;
    const { decode } = this.#conversation;
    this.#conversation.parameterStatus(decode(bytes, start, nameEnd), decode(bytes, nameEnd + 1, valueEnd));
  }
}

/** How much of a message's body is looked at. */
function readLimit(type: number): number {
  if (type === ERROR_RESPONSE || type === NOTICE_RESPONSE) return ERROR_BYTES_MAX;
  if (type === ROW_DESCRIPTION || type === PARAMETER_DESCRIPTION) return DESCRIPTION_BYTES_MAX;
  return type === DATA_ROW ? SAMPLE_BYTES_MAX : ANSWER_BYTES_MAX;
}
