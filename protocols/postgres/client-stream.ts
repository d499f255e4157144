import { createHash, type Hash, hash } from 'node:crypto';
import { ALLOW, type ObserveOptions, type Sink, type Verdict } from '../engine.ts';
import { Refusal } from '../error.ts';
import {
  INSPECT_BYTES_MAX,
  OUTSTANDING_BYTES_MAX,
  OUTSTANDING_OPERATIONS_MAX,
  STATEMENT_TEXT_BYTES_MAX,
} from '../limits.ts';
import { Statement } from '../statement.ts';
import type { Conversation } from './conversation.ts';
import { utf8Cut } from './encoding.ts';
import { FUNCTIONS } from './functions.ts';
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
  parseTypes,
  QUERY,
  SYNC,
  TERMINATE,
  terminator,
  uint16,
} from './messages.ts';
import { CLOSE_PORTAL, DESCRIBE_PORTAL, type Operation } from './operations.ts';
import { ParameterStream, parametersWeight, readParameters, valueLayout } from './parameters.ts';
import { poison, type Refusable } from './refuse.ts';
import { Portal, Prepared } from './statements.ts';
import { LARGE_MESSAGE_LENGTH_MAX, SMALL_MESSAGE_LENGTH_MAX } from './stream-limits.ts';
import { MessageTrace } from './trace.ts';

/** What becomes of a message: it passes, something else was sent in its place, or it waits for the gate. */
const PASSES = 0;
const REPLACED = 1;
const HELD = 2;
type Fate = typeof PASSES | typeof REPLACED | typeof HELD;

/** Reads the rest of a message that is too large to be held, as it passes. */
interface Rest {
  push(bytes: Buffer, start: number, end: number): void;
  end(): void;
}

/** Hashes the rest of a statement's text. */
class TextRest implements Rest {
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

const NO_BYTES: Buffer = Buffer.alloc(0);

/**
 * The client's direction: framing by headers, the record of what is asked, and the gate.
 *
 * Messages that lie whole within a chunk are read in place and pass as one view of the chunk. A message that is cut by
 * the end of a chunk is collected until it is whole; one of more than `INSPECT_BYTES_MAX` is judged by its head and
 * streams from then on. CopyData is never held.
 */
export class ClientStream {
  readonly #sink: Sink;
  readonly #conversation: Conversation;
  readonly #parameters: boolean;
  readonly #formats: boolean;
  readonly #marker: string;
  leaves = false;
  fatal: Refusal | null = null;

  /** A message that was begun and is not whole yet. */
  #partial: Buffer = NO_BYTES;
  #partialBytes = 0;
  /** Bytes of the current message that are still to stream, whether they pass, and who reads them. */
  #streaming = 0;
  #dropping = false;
  #rest: Rest | null = null;

  /** The chunk under observation, how much of it has gone on, and where in it the message under observation begins. */
  #chunk: Buffer = NO_BYTES;
  #forwarded = 0;
  #messageAt = 0;
  /** A Parse whose text is not on record yet: an Execute in the same chunk will tell it, or else `#pass` does. */
  #parse: Operation | null = null;
  #parseStatement: Statement | null = null;
  #earlierParses: { operation: Operation; statement: Statement }[] = [];

  /** Bytes that wait for the gate, the first of them the message in question. */
  #held: Buffer[] | null = null;
  #heldStatement: Statement | null = null;
  #answer: Verdict | null = null;
  /** The server was asked to flush its answers since too much is outstanding. */
  #flushing = false;

  readonly trace = new MessageTrace();

  constructor(sink: Sink, conversation: Conversation, options: ObserveOptions, marker: string) {
    this.#sink = sink;
    this.#conversation = conversation;
    this.#parameters = options.parameters;
    this.#formats = options.sampleRows > 0;
    this.#marker = marker;
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
    this.#answer = verdict;
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
      this.#messageAt = at;
      const fate = this.#message(type, chunk, at + HEADER_BYTES, end, size + 1);
      if (fate === PASSES) {
        at = end;
        continue;
      }
      if (fate === HELD) {
        this.#pass(at);
        this.#held = [Buffer.from(chunk.subarray(at))];
        return -1;
      }
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
    this.#messageAt = this.#forwarded;
    const fate = this.#message(partial[0]!, partial, HEADER_BYTES, partial.length, total);
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
    if (fate === PASSES) {
      this.#passPartial();
    } else {
      this.#partialBytes = 0;
      this.#partial = NO_BYTES;
      this.#rest = null;
    }
    return at;
  }

  #passPartial(): void {
    const partial = this.#partial.subarray(0, this.#partialBytes);
    this.#partial = NO_BYTES;
    this.#partialBytes = 0;
    this.#recordParses();
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
    if (this.#parse !== null) this.#recordParses();
    this.#sink.toServer(start === 0 && end === chunk.length ? chunk : chunk.subarray(start, end));
  }

  /** Puts each Parse on record that no Execute has told of. */
  #recordParses(): void {
    const operation = this.#parse;
    if (operation === null) return;
    for (const parse of this.#earlierParses) this.#recordParse(parse.operation, parse.statement);
    if (this.#earlierParses.length > 0) this.#earlierParses = [];
    this.#recordParse(operation, this.#parseStatement!);
    this.#parse = null;
    this.#parseStatement = null;
  }

  #recordParse(operation: Operation, statement: Statement): void {
    operation.prepared!.bytes = 0;
    this.#sink.begin(statement);
    if (operation.dropped) this.#conversation.skipped(statement);
    else operation.statement = statement;
  }

  /** An Execute is on record with the text of this Parse. */
  #parseTold(prepared: Prepared): void {
    if (this.#parse?.prepared === prepared) {
      const earlier = this.#earlierParses.pop();
      this.#parse = earlier?.operation ?? null;
      this.#parseStatement = earlier?.statement ?? null;
    } else if (this.#earlierParses.length > 0) {
      const index = this.#earlierParses.findIndex((parse) => parse.operation.prepared === prepared);
      if (index >= 0) this.#earlierParses.splice(index, 1);
    }
  }

  /**
   * Reads one message. `start` and `end` bound its body, or as much of it as is here; `total` is the whole message's
   * size in bytes.
   */
  #message(type: number, bytes: Buffer, start: number, end: number, total: number): Fate {
    this.trace.add(type);
    switch (type) {
      case QUERY:
        return this.#query(bytes, start, end, total);
      case BIND:
        this.#bind(bytes, start, end, total);
        return PASSES;
      case EXECUTE:
        return this.#execute(bytes, start, end, total);
      case SYNC:
        this.#conversation.syncSent();
        return PASSES;
      case PARSE:
        return this.#parseMessage(bytes, start, end, total);
      case DESCRIBE:
      case CLOSE:
        this.#named(type, bytes, start, end);
        return PASSES;
      case FUNCTION_CALL:
        return this.#functionCall(bytes, start, end, total);
      case COPY_DONE:
      case COPY_FAIL:
        this.#conversation.copyEndSent();
        return PASSES;
      case TERMINATE:
        this.leaves = true;
        return PASSES;
      default: // Flush
        return PASSES;
    }
  }

  #query(bytes: Buffer, start: number, end: number, total: number): Fate {
    const whole = end - start === total - HEADER_BYTES;
    const textEnd = whole && end > start && bytes[end - 1] === 0 ? end - 1 : end;
    const conversation = this.#conversation;
    let statement = this.#heldStatement;
    if (statement === null) {
      const text = conversation.decode(bytes, start, textEnd);
      statement = new Statement(
        copies(text) ? 'copy' : 'query',
        text,
        whole ? textEnd - start : total - HEADER_BYTES - 1,
      );
      statement.bytesSent = total;
    }
    const verdict = this.#ask(statement);
    if (verdict.action === 'hold') return HELD;
    if (statement.textBytes > STATEMENT_TEXT_BYTES_MAX) this.#cut(statement, bytes, start, textEnd, whole);
    const operation = conversation.operation(QUERY, '');
    if (verdict.action === 'refuse') return this.#refuse(operation, statement, verdict.refusal, NO_BYTES);
    operation.statement = statement;
    operation.weight =
      statement.textBytes > STATEMENT_TEXT_BYTES_MAX ? STATEMENT_TEXT_BYTES_MAX : statement.textBytes;
    this.#recordParses();
    this.#sink.begin(statement);
    conversation.sent(operation);
    return PASSES;
  }

  #parseMessage(bytes: Buffer, start: number, end: number, total: number): Fate {
    const conversation = this.#conversation;
    const whole = end - start === total - HEADER_BYTES;
    const nameEnd = bytes[start] === 0 ? start : terminator(bytes, start, end);
    const textStart = nameEnd < 0 ? end : nameEnd + 1;
    const found = terminator(bytes, textStart, end);
    const textEnd = found < 0 ? end : found;
    const textWhole = whole || found >= 0;
    const name = nameEnd <= start ? '' : conversation.decode(bytes, start, nameEnd);
    let statement = this.#heldStatement;
    if (statement === null) {
      const text = conversation.decode(bytes, textStart, textEnd);
      // Of a text that goes on, all but the name, two terminators and the count of types.
      const textBytes = textWhole ? textEnd - textStart : total - HEADER_BYTES - (textStart - start) - 3;
      statement = new Statement('prepare', text, textBytes);
      statement.name = name === '' ? null : name;
      statement.bytesSent = total;
    }
    const verdict = this.#ask(statement);
    if (verdict.action === 'hold') return HELD;
    const copying = copies(statement.text!);
    if (statement.textBytes > STATEMENT_TEXT_BYTES_MAX)
      this.#cut(statement, bytes, textStart, textEnd, textWhole);
    const operation = conversation.operation(PARSE, name);
    const prepared = new Prepared(name, statement.text, statement.textBytes, copying, total);
    prepared.textSha256 = statement.textSha256;
    operation.prepared = prepared;
    conversation.names.parseSent(operation);
    if (verdict.action === 'refuse') {
      prepared.refusedIn = conversation.group;
      const sentName = bytes.subarray(start, Math.max(start, nameEnd));
      return this.#refuse(operation, statement, verdict.refusal, sentName);
    }
    if (this.#rest instanceof TextRest) this.#rest.prepared = prepared;
    if (whole && found >= 0 && found + 3 <= end && uint16(bytes, found + 1) > 0) {
      prepared.types = parseTypes(bytes, found + 1, end);
    }
    operation.weight = statement.text!.length;
    conversation.sent(operation);
    if (this.#parse !== null) {
      this.#earlierParses.push({ operation: this.#parse, statement: this.#parseStatement! });
    }
    this.#parse = operation;
    this.#parseStatement = statement;
    return PASSES;
  }

  #bind(bytes: Buffer, start: number, end: number, total: number): void {
    const conversation = this.#conversation;
    const portalEnd = bytes[start] === 0 ? start : terminator(bytes, start, end);
    const nameStart = portalEnd < 0 ? end : portalEnd + 1;
    const found = bytes[nameStart] === 0 ? nameStart : terminator(bytes, nameStart, end);
    const nameEnd = found < 0 ? end : found;
    const portalName = portalEnd <= start ? '' : conversation.decode(bytes, start, portalEnd);
    const name = nameEnd <= nameStart ? '' : conversation.decode(bytes, nameStart, nameEnd);
    const { names } = conversation;
    let prepared = names.foreseenPrepared(name, conversation.skip);
    // A refused Parse fails, and what the name stood for before counts again behind the next Sync.
    if (prepared !== null && prepared.refusedIn >= 0 && prepared.refusedIn !== conversation.group) {
      prepared = names.prepared(name);
    }
    const portal = new Portal(portalName, name, prepared);
    portal.bytes = total;
    const operation = conversation.operation(BIND, portalName);
    operation.portal = portal;
    const more = total - HEADER_BYTES > end - start;
    if (this.#parameters || this.#formats) this.#values(portal, bytes, nameEnd + 1, end, more);
    if (portal.parameters !== null) operation.weight = parametersWeight(portal.parameters);
    names.bindSent(operation);
    conversation.sent(operation);
  }

  /** Reads a Bind's values and result formats. `more` says that the message goes on behind `end`. */
  #values(portal: Portal, bytes: Buffer, start: number, end: number, more: boolean): void {
    const layout = valueLayout(bytes, start, end);
    if (layout === null) {
      portal.opaque = true;
      return;
    }
    const types = portal.prepared === null ? null : portal.prepared.types;
    const { decode } = this.#conversation;
    if (more) {
      const stream = new ParameterStream(bytes, layout, types, decode);
      stream.push(bytes, layout.start, end);
      if (this.#parameters) portal.parameters = stream.parameters;
      this.#rest = stream;
      return;
    }
    const read = readParameters(bytes, layout, end, types, decode);
    if (read === null) {
      portal.opaque = true;
      return;
    }
    if (this.#parameters && read.parameters.length > 0) portal.parameters = read.parameters;
    if (this.#formats) portal.formats = readFormats(bytes, read.end, end);
  }

  #execute(bytes: Buffer, start: number, end: number, total: number): Fate {
    const conversation = this.#conversation;
    const nameEnd = bytes[start] === 0 ? start : terminator(bytes, start, end);
    const name = nameEnd <= start ? '' : conversation.decode(bytes, start, nameEnd);
    const portal = conversation.names.foreseenPortal(name, conversation.skip);
    const prepared = portal === null ? null : portal.prepared;
    if (portal !== null && portal.statement !== null) {
      // The portal has not run to its end: this is more of the same statement.
      const operation = conversation.operation(EXECUTE, name);
      operation.portal = portal;
      operation.statement = portal.statement;
      portal.statement.bytesSent += total;
      portal.pending += 1;
      conversation.sent(operation);
      return PASSES;
    }
    if (prepared !== null && prepared.refusedIn === conversation.group) {
      // It follows a refused Parse within the same group, which the server skips. The refusal tells of it.
      const operation = conversation.operation(EXECUTE, name);
      conversation.sent(operation);
      return PASSES;
    }
    const statement = this.#heldStatement ?? executed(portal, name);
    const whole = prepared === null || prepared.textSha256 === null;
    // A text that was cut was judged whole when it was parsed.
    const verdict = whole || this.#answer !== null ? this.#ask(statement) : ALLOW;
    if (verdict.action === 'hold') return HELD;
    statement.bytesSent = total;
    if (portal !== null) {
      statement.bytesSent += portal.bytes;
      portal.bytes = 0;
    }
    if (prepared !== null) {
      if (this.#parse !== null) this.#parseTold(prepared);
      statement.bytesSent += prepared.bytes;
      prepared.bytes = 0;
    }
    const operation = conversation.operation(EXECUTE, name);
    if (verdict.action === 'refuse') return this.#refuse(operation, statement, verdict.refusal, NO_BYTES);
    operation.statement = statement;
    operation.portal = portal;
    if (portal !== null) {
      portal.statement = statement;
      portal.pending += 1;
      portal.results = 0;
    }
    this.#sink.begin(statement);
    conversation.sent(operation);
    return PASSES;
  }

  #functionCall(bytes: Buffer, start: number, end: number, total: number): Fate {
    const conversation = this.#conversation;
    let statement = this.#heldStatement;
    if (statement === null) {
      const oid = end - start >= 4 ? int32(bytes, start) >>> 0 : 0;
      const known = FUNCTIONS.get(oid);
      statement = new Statement('rpc', null, 0);
      statement.name = known === undefined ? `oid ${oid}` : known.name;
      statement.bytesSent = total;
      if (this.#parameters)
        this.#arguments(statement, known?.arguments ?? null, bytes, start + 4, end, total);
    }
    const verdict = this.#ask(statement);
    if (verdict.action === 'hold') return HELD;
    const operation = conversation.operation(FUNCTION_CALL, '');
    if (verdict.action === 'refuse') return this.#refuse(operation, statement, verdict.refusal, NO_BYTES);
    operation.statement = statement;
    if (statement.parameters !== null) operation.weight = parametersWeight(statement.parameters);
    this.#recordParses();
    this.#sink.begin(statement);
    conversation.sent(operation);
    return PASSES;
  }

  #arguments(
    statement: Statement,
    types: readonly number[] | null,
    bytes: Buffer,
    start: number,
    end: number,
    total: number,
  ): void {
    const layout = valueLayout(bytes, start, end);
    const { decode } = this.#conversation;
    if (layout === null) {
      statement.opaque = true;
    } else if (total - HEADER_BYTES > end - start + 4) {
      const stream = new ParameterStream(bytes, layout, types, decode);
      stream.push(bytes, layout.start, end);
      statement.parameters = stream.parameters;
      this.#rest = stream;
    } else {
      const read = readParameters(bytes, layout, end, types, decode);
      statement.parameters = read === null ? null : read.parameters;
      statement.opaque = read === null;
    }
  }

  /** Describe or Close: a byte that says of what (`S`, `P`), and its name. */
  #named(type: typeof DESCRIBE | typeof CLOSE, bytes: Buffer, start: number, end: number): void {
    const conversation = this.#conversation;
    const portal = bytes[start] === 0x50;
    let name = '';
    if (start + 1 < end && bytes[start + 1] !== 0) {
      const nameEnd = terminator(bytes, start + 1, end);
      name = conversation.decode(bytes, start + 1, nameEnd < 0 ? end : nameEnd);
    }
    const kind = type === DESCRIBE ? (portal ? DESCRIBE_PORTAL : DESCRIBE) : portal ? CLOSE_PORTAL : CLOSE;
    conversation.sent(conversation.operation(kind, name));
  }

  /** Puts a refused message on record and sends in its place what the server must reject. */
  #refuse(operation: Operation, statement: Statement, refusal: Refusal, name: Buffer): Fate {
    const conversation = this.#conversation;
    this.#pass(this.#messageAt);
    conversation.refuse(operation, statement, refusal);
    conversation.sent(operation);
    this.#sink.toServer(poison(operation.kind as Refusable, this.#marker, name));
    return REPLACED;
  }

  /** Cuts a text that is too long for an event. `whole` says that it ends at `end` and does not go on. */
  #cut(statement: Statement, bytes: Buffer, start: number, end: number, whole: boolean): void {
    const kept = utf8Cut(bytes, start, end, STATEMENT_TEXT_BYTES_MAX);
    statement.text = this.#conversation.decode(bytes, start, kept);
    if (whole) statement.textSha256 = hash('sha256', bytes.subarray(start, end));
    else this.#rest = new TextRest(statement, bytes.subarray(start, end));
  }

  #ask(statement: Statement): Verdict {
    const answer = this.#answer;
    if (answer !== null) {
      this.#answer = null;
      this.#heldStatement = null;
      return answer;
    }
    const verdict = this.#sink.decide(statement);
    if (verdict.action === 'hold') this.#heldStatement = statement;
    return verdict;
  }
}

function executed(portal: Portal | null, name: string): Statement {
  const prepared = portal === null ? null : portal.prepared;
  if (prepared === null) {
    const statement = new Statement('execute', null, 0);
    statement.name = (portal === null ? '' : portal.preparedName) || name || null;
    if (portal !== null) statement.parameters = portal.parameters;
    return statement;
  }
  const statement = new Statement(prepared.copies ? 'copy' : 'execute', prepared.text, prepared.textBytes);
  statement.textSha256 = prepared.textSha256;
  statement.name = prepared.name || name || null;
  statement.parameters = portal!.parameters;
  statement.opaque = portal!.opaque;
  return statement;
}

/** Result formats of a Bind: Int16 count, and each. */
function readFormats(bytes: Buffer, start: number, end: number): readonly number[] | null {
  if (start + 2 > end) return null;
  const count = uint16(bytes, start);
  if (start + 2 + count * 2 > end) return null;
  const formats: number[] = [];
  for (let index = 0; index < count; index += 1) formats.push(uint16(bytes, start + 2 + index * 2));
  return formats;
}

const SPACE_OR_COMMENT = /^(?:\s+|--[^\n]*(?:\n|$)|\/\*[\s\S]*?\*\/)*/;

/** Whether a text begins with COPY. */
function copies(text: string): boolean {
  const first = text.charCodeAt(0) | 0x20;
  if (first >= 0x61 && first <= 0x7a) return first === 0x63 && /^copy\b/i.test(text);
  const begin = SPACE_OR_COMMENT.exec(text)![0].length;
  return begin > 0 && /^copy\b/i.test(text.slice(begin, begin + 5));
}
