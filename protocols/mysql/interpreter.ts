import { createHash } from 'node:crypto';
import { STATEMENT_TEXT_BYTES_MAX } from '../limits.ts';
import { Statement, type StatementKind } from '../statement.ts';
import { type ChangeUserRequest, RESET_ONLY, readChangeUser } from './change-user.ts';
import type { Charset } from './charset.ts';
import * as com from './commands.ts';
import { type Conversation, Exchange } from './conversation.ts';
import { Fields } from './packets.ts';
import { type ParameterList, readBulk, readExecute, readQueryAttributes } from './parameters.ts';
import { Prepared } from './prepared.ts';
import { ERROR_CODES, type ErrorCode, UNKNOWN_COMMAND } from './refuse.ts';
import { countPlaceholders } from './texts.ts';

/** What one command is. The interpreter fills the same object each time: whoever keeps it longer takes a `copy`. */
export class Request {
  /** Null where the server sends no reply. */
  exchange: Exchange | null = null;
  /** Null for what is not on record: COM_PING, COM_STMT_CLOSE and their kind. */
  statement: Statement | null = null;
  /** Our own refusal, whatever the policy says. */
  refused: { readonly code: ErrorCode; readonly message: string } | null = null;
  changeUser: ChangeUserRequest | null = null;
  /** Offset of the statement's text, for one whose rest is still to come; -1 for none. */
  textStart = -1;
  /** What goes into the event where the text is longer than an event keeps; the gate sees all that was inspected. */
  cut: { readonly text: string; readonly sha256: string | null } | null = null;
  /** Takes what follows of a command that is longer than is inspected. */
  more: ((piece: Buffer) => void) | null = null;

  clear(): void {
    this.exchange = null;
    this.statement = null;
    this.refused = null;
    this.changeUser = null;
    this.textStart = -1;
    this.cut = null;
    this.more = null;
  }

  copy(): Request {
    return Object.assign(new Request(), this);
  }
}

/** Tells what a client's command is, and what of it goes on record. */
export class Interpreter {
  readonly #conversation: Conversation;
  readonly #request = new Request();
  /** Bytes of the command that are not inspected, as far as its first header tells. */
  #beyond = 0;

  constructor(conversation: Conversation) {
    this.#conversation = conversation;
  }

  /**
   * Reads the command whose payload begins at `start`. `end` is the payload's end, or as far as it is inspected where
   * `whole` is false; `length` is what its first header says. Never throws.
   */
  read(bytes: Buffer, start: number, end: number, whole: boolean, length: number): Request {
    const request = this.#request;
    request.clear();
    this.#beyond = start + length - end;
    if (start === end) {
      // Servers take an empty packet for COM_SLEEP, and answer with an error.
      request.exchange = new Exchange('one', null);
      request.exchange.empty = true;
      return request;
    }
    try {
      this.#dispatch(bytes[start]!, bytes, start, end, whole);
    } catch (error) {
      this.#unreadable(bytes[start]!, end - start, error);
    }
    return request;
  }

  /**
   * A fault of ours in reading a command. What only runs a statement that was judged when it was prepared passes, without
   * its detail; nothing else passes that has not been read.
   */
  #unreadable(code: number, length: number, error: unknown): void {
    const request = this.#request;
    request.clear();
    const statement = new Statement('command', null, length);
    statement.opaque = true;
    request.statement = statement;
    request.exchange = new Exchange(com.replyKind(code), statement);
    if (code !== com.COM_STMT_EXECUTE && code !== com.COM_STMT_BULK_EXECUTE && code !== com.COM_STMT_FETCH) {
      request.refused = { code: ERROR_CODES.internal, message: 'Sallyport could not read this command' };
    }
    this.#conversation.sink.note({
      kind: 'opaque',
      reason: `a command could not be read: ${(error as Error).message}`,
      trace: `command 0x${code.toString(16)} of ${length} bytes`,
    });
  }

  #dispatch(code: number, bytes: Buffer, start: number, end: number, whole: boolean): void {
    const request = this.#request;
    switch (code) {
      case com.COM_QUERY:
        this.#query(bytes, start, end, whole);
        break;
      case com.COM_STMT_EXECUTE:
        this.#execute(bytes, start, end, whole);
        break;
      case com.COM_STMT_PREPARE:
        this.#prepare(bytes, start, end, whole);
        break;
      case com.COM_PING:
        request.exchange = new Exchange('one', null);
        break;
      case com.COM_QUIT:
        this.#conversation.leaving = 'client';
        break;
      case com.SEMI_SYNC_ACKNOWLEDGEMENT:
        // Of a replica, while it is sent the binary log. It has no reply.
        if (!this.#conversation.streaming) this.#command(code, bytes, start, end);
        break;
      case com.COM_STMT_CLOSE:
      case com.COM_STMT_RESET:
      case com.COM_STMT_SEND_LONG_DATA:
      case com.COM_STMT_FETCH:
      case com.COM_STMT_BULK_EXECUTE:
        this.#ofStatement(code, bytes, start, end, whole);
        break;
      case com.COM_SET_OPTION:
        this.#setOption(bytes, start, end);
        break;
      default:
        this.#command(code, bytes, start, end);
    }
  }

  #query(bytes: Buffer, start: number, end: number, whole: boolean): void {
    const conversation = this.#conversation;
    let textStart = start + 1;
    let attributes: ParameterList | null = null;
    let readable = true;
    if (conversation.queryAttributes) {
      if (bytes[textStart] === 0 && bytes[textStart + 1] === 1 && textStart + 2 <= end) textStart += 2;
      else {
        const fields = new Fields(bytes, textStart, end);
        attributes = readQueryAttributes(fields, conversation.charset);
        textStart = fields.at;
        readable = attributes !== null;
      }
    }
    const statement = this.#textStatement('query', bytes, readable ? textStart : -1, end, whole);
    if (!readable) {
      // A text that we cannot find cannot be judged, nor put on record: it does not run.
      statement.textBytes = end - start - 1;
      this.#request.refused = {
        code: ERROR_CODES.protocol_violation,
        message: 'Malformed communication packet',
      };
    }
    if (attributes !== null && attributes.parameters.length > 0 && conversation.options.parameters) {
      statement.parameters = attributes.parameters;
    }
    const exchange = new Exchange('result', statement);
    exchange.text = true;
    this.#request.exchange = exchange;
  }

  #prepare(bytes: Buffer, start: number, end: number, whole: boolean): void {
    const statement = this.#textStatement('prepare', bytes, start + 1, end, whole);
    const { cut } = this.#request;
    const prepared = new Prepared(cut === null ? statement.text : cut.text, statement.textBytes);
    prepared.textSha256 = cut?.sha256 ?? null;
    const exchange = new Exchange('prepare', statement);
    exchange.prepared = prepared;
    this.#request.exchange = exchange;
  }

  /** A statement with text, which begins at `from` (-1: it cannot be found) and goes to `end` or beyond. */
  #textStatement(kind: StatementKind, bytes: Buffer, from: number, end: number, whole: boolean): Statement {
    const request = this.#request;
    const { charset } = this.#conversation;
    const text = from < 0 ? null : charset.decode(bytes, from, end);
    // A text that goes on beyond what is here says so by its length: nobody may take it for whole.
    const statement = new Statement(kind, text, from < 0 ? 0 : end - from + this.#beyond);
    statement.opaque = text === null;
    request.statement = statement;
    if (from >= 0 && !whole) request.textStart = from;
    if (from >= 0 && end - from > STATEMENT_TEXT_BYTES_MAX) {
      const sha256 = whole ? createHash('sha256').update(bytes.subarray(from, end)).digest('hex') : null;
      request.cut = { text: textHead(bytes, from, charset), sha256 };
    }
    return statement;
  }

  #execute(bytes: Buffer, start: number, end: number, whole: boolean): void {
    const conversation = this.#conversation;
    const fields = new Fields(bytes, start + 1, end);
    const id = fields.uint32();
    const prepared = this.#find(id);
    const statement = this.#ofPrepared('execute', id, prepared);
    const exchange = new Exchange('result', statement);
    exchange.binary = true;
    exchange.prepared = prepared;
    this.#request.exchange = exchange;
    if (!conversation.options.parameters) return;
    if (prepared === null || (prepared.parameters === null && prepared.text === null)) {
      statement.opaque = true;
      return;
    }
    const counted = prepared.parameters ?? countPlaceholders(prepared.text!, conversation.status);
    if (prepared.parameters === null) {
      // Sent in one go with its COM_STMT_PREPARE: read again, should the server count otherwise.
      exchange.unread = Buffer.from(bytes.subarray(start, end));
      exchange.assumedParameters = counted;
    }
    readParameters(statement, fields, prepared, counted, conversation, !whole);
    if (!whole) statement.opaque = true;
  }

  #find(id: number): Prepared | null {
    const conversation = this.#conversation;
    if (id === com.LAST_PREPARED) return conversation.lastPrepared;
    return conversation.prepared.find(id) ?? null;
  }

  #ofPrepared(kind: StatementKind, id: number, prepared: Prepared | null): Statement {
    const statement = new Statement(kind, prepared?.text ?? null, prepared?.textBytes ?? 0);
    statement.name = prepared?.name ?? (id === com.LAST_PREPARED ? null : String(id));
    statement.textSha256 = prepared?.textSha256 ?? null;
    statement.opaque = prepared === null;
    this.#request.statement = statement;
    return statement;
  }

  #ofStatement(code: number, bytes: Buffer, start: number, end: number, whole: boolean): void {
    const conversation = this.#conversation;
    const request = this.#request;
    const fields = new Fields(bytes, start + 1, end);
    const id = fields.uint32();
    const prepared = this.#find(id);
    switch (code) {
      case com.COM_STMT_CLOSE:
        if (prepared !== null && prepared.id >= 0) conversation.prepared.remove(prepared.id);
        return;
      case com.COM_STMT_RESET:
        if (prepared !== null) conversation.prepared.dropLongData(prepared);
        request.exchange = new Exchange('one', null);
        return;
      case com.COM_STMT_SEND_LONG_DATA: {
        const index = fields.uint16();
        if (prepared === null || fields.short || !conversation.options.parameters) return;
        // One that the statement does not have is an error of the execution; nothing is kept for it.
        if (prepared.parameters !== null && index >= prepared.parameters) return;
        const data = conversation.prepared.longData(prepared, index);
        data.add(fields.rest());
        if (!whole) request.more = (piece) => data.add(piece);
        return;
      }
      case com.COM_STMT_FETCH: {
        const statement = this.#ofPrepared('command', id, prepared);
        statement.text = `FETCH ${fields.uint32()}`;
        statement.textBytes = 0;
        statement.textSha256 = null;
        request.exchange = new Exchange('fetch', statement);
        request.exchange.binary = true;
        request.exchange.prepared = prepared;
        return;
      }
      default:
        this.#bulk(fields, id, prepared, whole);
    }
  }

  #bulk(fields: Fields, id: number, prepared: Prepared | null, whole: boolean): void {
    const conversation = this.#conversation;
    const statement = this.#ofPrepared('bulk', id, prepared);
    const exchange = new Exchange('result', statement);
    exchange.binary = true;
    exchange.prepared = prepared;
    this.#request.exchange = exchange;
    if (prepared === null || (prepared.parameters === null && prepared.text === null)) {
      statement.opaque = true;
      return;
    }
    const counted = prepared.parameters ?? countPlaceholders(prepared.text!, conversation.status);
    const { parameters: decode } = conversation.options;
    const list = readBulk(fields, prepared, counted, decode, conversation.charset);
    if (decode) statement.parameters = list.parameters;
    if (!list.complete || !whole) statement.opaque = true;
    statement.messages = [`${statement.opaque ? 'at least ' : ''}${list.tuples} tuples`];
  }

  #setOption(bytes: Buffer, start: number, end: number): void {
    const conversation = this.#conversation;
    const exchange = new Exchange('one', null);
    const option = new Fields(bytes, start + 1, end).uint16();
    if (option <= com.OPTION_MULTI_STATEMENTS_OFF) {
      exchange.applied = () => {
        conversation.multiStatements = option !== com.OPTION_MULTI_STATEMENTS_OFF;
      };
    }
    this.#request.exchange = exchange;
  }

  /** Commands that are recorded as what they amount to, or by their name. */
  #command(code: number, bytes: Buffer, start: number, end: number): void {
    const conversation = this.#conversation;
    const request = this.#request;
    const { charset } = conversation;
    const fields = new Fields(bytes, start + 1, end);
    const rest = (): string => charset.decode(bytes, fields.at, Math.min(end, fields.at + NAME_BYTES_MAX));
    switch (code) {
      case com.COM_INIT_DB: {
        const database = rest();
        const exchange = this.#plain(`USE ${quoted(database)}`, 'one');
        exchange.applied = () => conversation.changeDatabase(database);
        return;
      }
      case com.COM_FIELD_LIST: {
        const table = fields.untilNul().subarray(0, NAME_BYTES_MAX);
        this.#plain(`COM_FIELD_LIST ${charset.decode(table, 0, table.length)} ${rest()}`.trimEnd(), 'list');
        return;
      }
      case com.COM_CREATE_DB:
        this.#plain(`CREATE DATABASE ${quoted(rest())}`, 'one');
        return;
      case com.COM_DROP_DB:
        this.#plain(`DROP DATABASE ${quoted(rest())}`, 'one');
        return;
      case com.COM_REFRESH:
        this.#plain(`COM_REFRESH ${fields.uint8()}`, 'one');
        return;
      case com.COM_PROCESS_KILL:
        this.#plain(`KILL ${fields.uint32()}`, 'one');
        return;
      case com.COM_PROCESS_INFO:
        this.#plain('SHOW PROCESSLIST', 'result');
        return;
      case com.COM_RESET_CONNECTION:
        if (conversation.facts.readOnly) request.changeUser = RESET_ONLY;
        this.#plain('COM_RESET_CONNECTION', 'one').applied = () => conversation.reset();
        return;
      case com.COM_CHANGE_USER:
        request.changeUser = readChangeUser(fields, conversation);
        this.#plain(
          `COM_CHANGE_USER ${request.changeUser.user} ${request.changeUser.database}`.trimEnd(),
          'one',
        );
        return;
      case com.COM_STATISTICS:
        this.#plain('COM_STATISTICS', 'text');
        return;
      default:
        // What else these carry stays off the record: COM_REGISTER_SLAVE has a password among it.
        this.#plain(com.commandName(code), com.isStream(code) ? 'stream' : 'one');
    }
    if (code === com.COM_SHUTDOWN) {
      request.refused = {
        code: ERROR_CODES.statement_not_allowed,
        message: 'shutting the server down is not allowed here',
      };
    } else if (com.isReplication(code)) {
      if (conversation.facts.settings.allowReplication) return;
      request.refused = {
        code: ERROR_CODES.replication_not_allowed,
        message: 'replication is not allowed on this resource',
      };
    } else if (com.isInternal(code)) request.refused = { code: UNKNOWN_COMMAND, message: 'Unknown command' };
  }

  #plain(text: string, reply: com.ReplyKind): Exchange {
    const statement = new Statement('command', text, Buffer.byteLength(text));
    const exchange = new Exchange(reply, statement);
    this.#request.statement = statement;
    this.#request.exchange = exchange;
    return exchange;
  }
}

/** Names in these commands have at most 64 characters (MySQL Reference Manual 11.2.1); more is not put on record. */
const NAME_BYTES_MAX = 1024;

function quoted(name: string): string {
  return `\`${name.replaceAll('`', '``')}\``;
}

/**
 * Reads an execution's parameters into its statement; `fields` stands behind the statement id. `cut`: the command goes on
 * behind what is here.
 */
export function readParameters(
  statement: Statement,
  fields: Fields,
  prepared: Prepared,
  counted: number,
  conversation: Conversation,
  cut: boolean,
): void {
  const { queryAttributes, charset } = conversation;
  const list = readExecute(fields, prepared, counted, queryAttributes, charset, cut);
  statement.parameters = list.parameters.length === 0 ? null : list.parameters;
  statement.opaque = !list.complete;
}

/** The first part of a text, as long as an event keeps, without half a character at its end. */
function textHead(bytes: Buffer, from: number, charset: Charset): string {
  let end = from + STATEMENT_TEXT_BYTES_MAX;
  if (charset.name.startsWith('utf8')) while (end > from && (bytes[end]! & 0xc0) === 0x80) end -= 1;
  return charset.decode(bytes, from, end);
}

/** The gate has seen the text in full: the event gets as much of it as it keeps. */
export function cutText(statement: Statement, request: Request): void {
  const { cut } = request;
  if (cut === null) return;
  statement.text = cut.text;
  statement.textSha256 = cut.sha256;
}
