import {
  type Parameter,
  STATEMENT_KINDS,
  STATEMENT_STATUSES,
  type Statement,
  type TransactionState,
} from '../../protocols/statement.ts';
import type { JournalEvent } from './events.ts';
import { EVENT_BYTES_MAX } from './limits.ts';

/**
 * How events are encoded: a 32-bit length (of what follows it), one byte for the type, the body. All numbers are little
 * endian. The two events that every statement has are packed by hand, at a quarter of the cost of JSON and half of its
 * size; all others are JSON. Nothing here does I/O.
 *
 *   statement_started  session 26 | seq u32 | at f64 | kind u8 | flags u8 | text bytes f64 | [text] [sha256] [name] [parameters]
 *   statement_ended    session 26 | seq u32 | at f64 | duration f64 | status u8 | transaction u8 | sent f64 | received f64 |
 *                      flags u16 | [rows returned f64] [rows affected f64 or i64] [tag] [columns] [extra JSON] [text length and sha256] [parameters]
 *   frame              session 26 | at f64 | from u8 (0 client, 1 server) | bytes to the end
 */

export const TYPE_STARTED = 1;
export const TYPE_ENDED = 2;
export const TYPE_JSON = 3;
export const TYPE_FRAME = 4;

export const SESSION_BYTES = 26;
const STARTED_FIXED_BYTES = SESSION_BYTES + 4 + 8 + 1 + 1 + 8;
const ENDED_FIXED_BYTES = SESSION_BYTES + 4 + 8 + 8 + 1 + 1 + 8 + 8 + 2;

export const STARTED_TEXT = 1;
export const STARTED_SHA256 = 2;
export const STARTED_NAME = 4;
export const STARTED_PARAMETERS = 8;
export const STARTED_OPAQUE = 16;
export const STARTED_MASKED = 32;

export const ENDED_RETURNED = 1;
export const ENDED_AFFECTED = 2;
export const ENDED_AFFECTED_BIG = 4;
export const ENDED_TAG = 8;
export const ENDED_COLUMNS = 16;
export const ENDED_EXTRA = 32;
export const ENDED_TEXT = 64;
export const ENDED_PARAMETERS = 128;
export const ENDED_TRUNCATED = 256;

export const VALUE_NULL = 0;
export const VALUE_TEXT = 1;
export const VALUE_NUMBER = 2;
export const VALUE_TRUE = 3;
export const VALUE_FALSE = 4;
export const VALUE_JSON = 5;
export const VALUE_CUT = 0x80;

export const TRANSACTIONS: readonly TransactionState[] = ['idle', 'active', 'failed', 'unknown'];
const KIND_CODES = new Map<string, number>(STATEMENT_KINDS.map((kind, index) => [kind, index]));
const STATUS_CODES = new Map<string, number>(STATEMENT_STATUSES.map((status, index) => [status, index]));
const TRANSACTION_CODES = new Map<string, number>(TRANSACTIONS.map((state, index) => [state, index]));

/** Text that may grow threefold in UTF-8. */
function room(text: string): number {
  return text.length * 3 + 8;
}

/** An append-only buffer of encoded events. `start` bytes at its head belong to its user. */
export class EventBuffer {
  bytes: Buffer;
  end: number;
  readonly start: number;
  events = 0;

  constructor(start: number, capacity: number) {
    this.start = start;
    this.end = start;
    this.bytes = Buffer.allocUnsafeSlow(capacity);
  }

  get length(): number {
    return this.end - this.start;
  }

  clear(): void {
    this.end = this.start;
    this.events = 0;
  }

  /** Makes sure that `more` bytes fit, and that what is behind them (`slack`) does too. */
  reserve(more: number): void {
    const needed = this.end + more;
    if (needed <= this.bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, this.bytes.length * 2));
    this.bytes.copy(larger, 0, 0, this.end);
    this.bytes = larger;
  }

  started(
    session: Buffer,
    statement: Statement,
    at: number,
    text: string | null,
    parameters: readonly Parameter[] | null,
    masked: boolean,
  ): void {
    const sha256 = masked ? null : statement.textSha256;
    this.reserve(
      STARTED_FIXED_BYTES + 64 + (text === null ? 0 : room(text)) + (statement.name?.length ?? 0) * 3,
    );
    const { bytes } = this;
    const begin = this.end;
    let at_ = begin + 4;
    bytes[at_++] = TYPE_STARTED;
    bytes.set(session, at_);
    at_ += SESSION_BYTES;
    at_ = bytes.writeUInt32LE(statement.seq, at_);
    at_ = bytes.writeDoubleLE(at, at_);
    bytes[at_++] = KIND_CODES.get(statement.kind)!;
    const flags = at_++;
    bytes[flags] =
      (text === null ? 0 : STARTED_TEXT) |
      (sha256 === null ? 0 : STARTED_SHA256) |
      (statement.name === null ? 0 : STARTED_NAME) |
      (parameters === null ? 0 : STARTED_PARAMETERS) |
      (statement.opaque ? STARTED_OPAQUE : 0) |
      (masked ? STARTED_MASKED : 0);
    at_ = bytes.writeDoubleLE(statement.textBytes, at_);
    if (text !== null) at_ = writeText(bytes, text, at_);
    if (sha256 !== null) at_ += bytes.write(sha256, at_, 32, 'hex');
    if (statement.name !== null) at_ = writeText(bytes, statement.name, at_);
    this.end = at_;
    if (parameters !== null) this.#parameters(parameters);
    this.#close(begin);
  }

  ended(
    session: Buffer,
    statement: Statement,
    at: number,
    durationUs: number,
    parameters: Parameter[] | null,
  ): void {
    const begin = this.end;
    this.#endedWith(session, statement, at, durationUs, parameters, false);
    if (this.end - begin <= EVENT_BYTES_MAX) return;
    this.end = begin;
    this.events -= 1;
    this.#endedWith(session, statement, at, durationUs, null, true);
  }

  #endedWith(
    session: Buffer,
    statement: Statement,
    at: number,
    durationUs: number,
    parameters: Parameter[] | null,
    truncated: boolean,
  ): void {
    const { rowsReturned, rowsAffected, tag } = statement;
    // The digest of a text with a secret in it would let the secret be guessed.
    const textSha256 = statement.masked ? null : statement.textSha256;
    const columns = truncated ? null : statement.columns;
    const extra = extraOf(statement, truncated);
    let more = ENDED_FIXED_BYTES + 128 + (tag?.length ?? 0) * 3 + (extra === null ? 0 : room(extra));
    if (columns !== null) for (const column of columns) more += room(column);
    this.reserve(more);
    const { bytes } = this;
    const begin = this.end;
    let at_ = begin + 4;
    bytes[at_++] = TYPE_ENDED;
    bytes.set(session, at_);
    at_ += SESSION_BYTES;
    at_ = bytes.writeUInt32LE(statement.seq, at_);
    at_ = bytes.writeDoubleLE(at, at_);
    at_ = bytes.writeDoubleLE(durationUs, at_);
    bytes[at_++] = STATUS_CODES.get(statement.status)!;
    bytes[at_++] = TRANSACTION_CODES.get(statement.transaction)!;
    at_ = bytes.writeDoubleLE(statement.bytesSent, at_);
    at_ = bytes.writeDoubleLE(statement.bytesReceived, at_);
    const flags =
      (rowsReturned === null ? 0 : ENDED_RETURNED) |
      (rowsAffected === null ? 0 : typeof rowsAffected === 'bigint' ? ENDED_AFFECTED_BIG : ENDED_AFFECTED) |
      (tag === null ? 0 : ENDED_TAG) |
      (columns === null ? 0 : ENDED_COLUMNS) |
      (extra === null ? 0 : ENDED_EXTRA) |
      (textSha256 === null ? 0 : ENDED_TEXT) |
      (parameters === null ? 0 : ENDED_PARAMETERS) |
      (truncated ? ENDED_TRUNCATED : 0);
    at_ = bytes.writeUInt16LE(flags, at_);
    if (rowsReturned !== null) at_ = bytes.writeDoubleLE(rowsReturned, at_);
    if (typeof rowsAffected === 'bigint') at_ = bytes.writeBigUInt64LE(BigInt.asUintN(64, rowsAffected), at_);
    else if (rowsAffected !== null) at_ = bytes.writeDoubleLE(rowsAffected, at_);
    if (tag !== null) at_ = writeText(bytes, tag, at_);
    if (columns !== null) {
      at_ = bytes.writeUInt32LE(columns.length, at_);
      for (const column of columns) at_ = writeText(bytes, column, at_);
    }
    if (extra !== null) at_ = writeText(bytes, extra, at_);
    if (textSha256 !== null) {
      at_ = bytes.writeDoubleLE(statement.textBytes, at_);
      at_ += bytes.write(textSha256, at_, 32, 'hex');
    }
    this.end = at_;
    if (parameters !== null) this.#parameters(parameters);
    this.#close(begin);
  }

  frame(session: Buffer, at: number, from: 'client' | 'server', data: Buffer): void {
    this.reserve(5 + SESSION_BYTES + 9 + data.length);
    const { bytes } = this;
    const begin = this.end;
    bytes[begin + 4] = TYPE_FRAME;
    bytes.set(session, begin + 5);
    let at_ = bytes.writeDoubleLE(at, begin + 5 + SESSION_BYTES);
    bytes[at_++] = from === 'client' ? 0 : 1;
    bytes.set(data, at_);
    this.end = at_ + data.length;
    this.#close(begin);
  }

  /** Appends an event as JSON. */
  json(event: JournalEvent): void {
    const text = JSON.stringify(event);
    this.reserve(5 + room(text));
    const begin = this.end;
    this.bytes[begin + 4] = TYPE_JSON;
    this.end = begin + 5 + this.bytes.write(text, begin + 5, 'utf8');
    this.#close(begin);
  }

  /** Appends events that are encoded already. */
  raw(encoded: Uint8Array, events: number): void {
    this.reserve(encoded.length);
    this.bytes.set(encoded, this.end);
    this.end += encoded.length;
    this.events += events;
  }

  #close(begin: number): void {
    this.bytes.writeUInt32LE(this.end - begin - 4, begin);
    this.events += 1;
  }

  #parameters(parameters: readonly Parameter[]): void {
    this.reserve(4);
    this.end = this.bytes.writeUInt32LE(parameters.length, this.end);
    for (const parameter of parameters) this.#parameter(parameter);
  }

  #parameter({ name, type, value, bytes: length, sha256 }: Parameter): void {
    const json = typeof value === 'object' && value !== null ? JSON.stringify(value) : null;
    const text = typeof value === 'string' ? value : json;
    this.reserve(64 + (name?.length ?? 0) * 3 + (type?.length ?? 0) * 3 + (text === null ? 0 : room(text)));
    const { bytes } = this;
    let at = this.end;
    at = writeText(bytes, name, at);
    at = writeText(bytes, type, at);
    const tag = at++;
    let code: number;
    if (text !== null) {
      code = json === null ? VALUE_TEXT : VALUE_JSON;
      at = writeText(bytes, text, at);
    } else if (typeof value === 'number') {
      code = VALUE_NUMBER;
      at = bytes.writeDoubleLE(value, at);
    } else if (value === null) code = VALUE_NULL;
    else code = value === true ? VALUE_TRUE : VALUE_FALSE;
    if (length !== undefined) {
      code |= VALUE_CUT;
      at = bytes.writeDoubleLE(length, at);
      bytes[at++] = sha256 === undefined ? 0 : 1;
      if (sha256 !== undefined) at += bytes.write(sha256, at, 32, 'hex');
    }
    bytes[tag] = code;
    this.end = at;
  }
}

export const NO_TEXT = 0xffffffff;

function writeText(bytes: Buffer, text: string | null, at: number): number {
  if (text === null) return bytes.writeUInt32LE(NO_TEXT, at);
  const length = bytes.write(text, at + 4, 'utf8');
  bytes.writeUInt32LE(length, at);
  return at + 4 + length;
}

function extraOf(statement: Statement, truncated: boolean): string | null {
  const { error, returnStatus } = statement;
  const results = truncated ? null : statement.results;
  const sample = truncated ? null : statement.sample;
  const messages = truncated ? null : statement.messages;
  const outputs = truncated ? null : statement.outputs;
  if (
    error === null &&
    results === null &&
    sample === null &&
    messages === null &&
    returnStatus === null &&
    outputs === null
  )
    return null;
  return JSON.stringify({
    error,
    results:
      results?.map(({ tag, rowsReturned, rowsAffected, columns, text }) => ({
        tag,
        rows_returned: rowsReturned,
        rows_affected: rowsAffected,
        columns,
        text,
      })) ?? null,
    sample,
    messages,
    return_status: returnStatus,
    outputs,
  });
}
