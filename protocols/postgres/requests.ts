import { hash } from 'node:crypto';
import { ALLOW, type ObserveOptions, type Sink, type Verdict } from '../engine.ts';
import type { Refusal } from '../error.ts';
import { STATEMENT_TEXT_BYTES_MAX } from '../limits.ts';
import { Statement } from '../statement.ts';
import type { Conversation } from './conversation.ts';
import { utf8Cut } from './encoding.ts';
import { FUNCTIONS } from './functions.ts';
import {
  BIND,
  CLOSE,
  COPY_DONE,
  COPY_FAIL,
  DESCRIBE,
  EXECUTE,
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
import { ParameterStream, parametersWeight, readFormats, readParameters, valueLayout } from './parameters.ts';
import { executionOf } from './records.ts';
import { poison, type Refusable } from './refuse.ts';
import { type Rest, TextRest } from './rest.ts';
import { Portal, Prepared } from './statements.ts';
import { MessageTrace } from './trace.ts';

/** What becomes of a message: it passes, something else was sent in its place, or it waits for the gate. */
export const PASSES = 0;
export const REPLACED = 1;
export const HELD = 2;
export type Fate = typeof PASSES | typeof REPLACED | typeof HELD;

const NO_BYTES: Buffer = Buffer.alloc(0);

/**
 * What the client asks: reads its messages one by one, asks the gate, puts statements on record before their bytes go
 * on, and tells the conversation what the server will have to answer.
 */
export class Requests {
  readonly #sink: Sink;
  readonly #conversation: Conversation;
  readonly #parameters: boolean;
  readonly #formats: boolean;
  readonly #marker: string;
  readonly trace = new MessageTrace();
  /** The client has said that it leaves. */
  leaves = false;
  /** Who reads the rest of the message that was read last, where it goes on behind what is here. */
  rest: Rest | null = null;
  /** What goes to the server in place of the message that was read last, when its fate is `REPLACED`. */
  replacement: Buffer = NO_BYTES;
  /** The gate's answer to the held message, which is read anew. */
  answer: Verdict | null = null;
  #heldStatement: Statement | null = null;
  /** A Parse whose text is not on record yet: an Execute in the same chunk will tell it, or else `recordParses` does. */
  #parse: Operation | null = null;
  #parseStatement: Statement | null = null;
  #earlierParses: { operation: Operation; statement: Statement }[] = [];

  constructor(sink: Sink, conversation: Conversation, options: ObserveOptions, marker: string) {
    this.#sink = sink;
    this.#conversation = conversation;
    this.#parameters = options.parameters;
    this.#formats = options.sampleRows > 0;
    this.#marker = marker;
  }

  /**
   * Reads one message. `start` and `end` bound its body, or as much of it as is here; `total` is the whole message's
   * size in bytes.
   */
  read(type: number, bytes: Buffer, start: number, end: number, total: number): Fate {
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
    this.recordParses();
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
    if (this.rest instanceof TextRest) this.rest.prepared = prepared;
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
      this.rest = stream;
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
    const statement = this.#heldStatement ?? executionOf(portal, name);
    const whole = prepared === null || prepared.textSha256 === null;
    // A text that was cut was judged whole when it was parsed.
    const verdict = whole || this.answer !== null ? this.#ask(statement) : ALLOW;
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
    this.recordParses();
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
      this.rest = stream;
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

  /** Puts each Parse on record that no Execute has told of. */
  recordParses(): void {
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

  /** Puts a refused message on record, and makes what the server must reject in its place. */
  #refuse(operation: Operation, statement: Statement, refusal: Refusal, name: Buffer): Fate {
    const conversation = this.#conversation;
    this.recordParses();
    conversation.refuse(operation, statement, refusal);
    conversation.sent(operation);
    this.replacement = poison(operation.kind as Refusable, this.#marker, name);
    return REPLACED;
  }

  /** Cuts a text that is too long for an event. `whole` says that it ends at `end` and does not go on. */
  #cut(statement: Statement, bytes: Buffer, start: number, end: number, whole: boolean): void {
    const kept = utf8Cut(bytes, start, end, STATEMENT_TEXT_BYTES_MAX);
    statement.text = this.#conversation.decode(bytes, start, kept);
    if (whole) statement.textSha256 = hash('sha256', bytes.subarray(start, end));
    else this.rest = new TextRest(statement, bytes.subarray(start, end));
  }

  #ask(statement: Statement): Verdict {
    const answer = this.answer;
    if (answer !== null) {
      this.answer = null;
      this.#heldStatement = null;
      return answer;
    }
    const verdict = this.#sink.decide(statement);
    if (verdict.action === 'hold') this.#heldStatement = statement;
    return verdict;
  }
}

const SPACE_OR_COMMENT = /^(?:\s+|--[^\n]*(?:\n|$)|\/\*[\s\S]*?\*\/)*/;

/** Whether a text begins with COPY. */
function copies(text: string): boolean {
  const first = text.charCodeAt(0) | 0x20;
  if (first >= 0x61 && first <= 0x7a) return first === 0x63 && /^copy\b/i.test(text);
  const begin = SPACE_OR_COMMENT.exec(text)![0].length;
  return begin > 0 && /^copy\b/i.test(text.slice(begin, begin + 5));
}
