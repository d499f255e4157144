import { hash } from 'node:crypto';
import type { Note } from '../../protocols/engine.ts';
import {
  type Parameter,
  STATEMENT_KINDS,
  STATEMENT_STATUSES,
  type Statement,
  type TransactionState,
} from '../../protocols/statement.ts';
import {
  type EventParameter,
  type FrameEvent,
  type JournalEvent,
  type StatementEndedEvent,
  type StatementStartedEvent,
  timeText,
} from './events.ts';
import { EVENT_BYTES_MAX } from './limits.ts';
import type { AuditEvent, SessionEnd, SessionStart } from './recorder.ts';

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

const TYPE_STARTED = 1;
const TYPE_ENDED = 2;
const TYPE_JSON = 3;
const TYPE_FRAME = 4;

const SESSION_BYTES = 26;
const STARTED_FIXED_BYTES = SESSION_BYTES + 4 + 8 + 1 + 1 + 8;
const ENDED_FIXED_BYTES = SESSION_BYTES + 4 + 8 + 8 + 1 + 1 + 8 + 8 + 2;

const STARTED_TEXT = 1;
const STARTED_SHA256 = 2;
const STARTED_NAME = 4;
const STARTED_PARAMETERS = 8;
const STARTED_OPAQUE = 16;
const STARTED_MASKED = 32;

const ENDED_RETURNED = 1;
const ENDED_AFFECTED = 2;
const ENDED_AFFECTED_BIG = 4;
const ENDED_TAG = 8;
const ENDED_COLUMNS = 16;
const ENDED_EXTRA = 32;
const ENDED_TEXT = 64;
const ENDED_PARAMETERS = 128;
const ENDED_TRUNCATED = 256;

const VALUE_NULL = 0;
const VALUE_TEXT = 1;
const VALUE_NUMBER = 2;
const VALUE_TRUE = 3;
const VALUE_FALSE = 4;
const VALUE_JSON = 5;
const VALUE_CUT = 0x80;

const TRANSACTIONS: readonly TransactionState[] = ['idle', 'active', 'failed', 'unknown'];
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

const NO_TEXT = 0xffffffff;

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

/** Bytes that are no event: the reader says where. */
export class FormatError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'FormatError';
  }
}

class EventReader {
  readonly bytes: Buffer;
  at: number;
  readonly end: number;

  constructor(bytes: Buffer, at: number, end: number) {
    this.bytes = bytes;
    this.at = at;
    this.end = end;
  }

  take(length: number, field: string): number {
    const at = this.at;
    if (length > this.end - at) throw new FormatError(`an event ends within ${field}`);
    this.at = at + length;
    return at;
  }

  u8(field: string): number {
    return this.bytes[this.take(1, field)]!;
  }

  u32(field: string): number {
    return this.bytes.readUInt32LE(this.take(4, field));
  }

  f64(field: string): number {
    return this.bytes.readDoubleLE(this.take(8, field));
  }

  text(field: string): string | null {
    const length = this.u32(field);
    if (length === NO_TEXT) return null;
    const at = this.take(length, field);
    return this.bytes.toString('utf8', at, at + length);
  }

  hex(length: number, field: string): string {
    const at = this.take(length, field);
    return this.bytes.toString('hex', at, at + length);
  }

  session(): string {
    const at = this.take(SESSION_BYTES, 'session');
    return this.bytes.toString('latin1', at, at + SESSION_BYTES);
  }
}

/** One event of a batch, not decoded yet. `bytes` is its whole encoding, length included. */
export interface RawEvent {
  readonly bytes: Buffer;
  /** The session that it belongs to; null for events of the gateway itself. */
  readonly session: string | null;
}

/**
 * Splits a payload into its events. Throws `FormatError` for bytes that are none, unless `torn` is set: then it gives
 * the complete events before the tear.
 */
export function splitEvents(payload: Buffer, torn = false): RawEvent[] {
  const events: RawEvent[] = [];
  let at = 0;
  while (at < payload.length) {
    const length = payload.length - at >= 4 ? payload.readUInt32LE(at) : 0;
    if (length < 1 || length > payload.length - at - 4) {
      if (torn) return events;
      throw new FormatError(`no event at byte ${at} of ${payload.length}`);
    }
    const bytes = payload.subarray(at, at + 4 + length);
    try {
      events.push({ bytes, session: sessionOf(bytes) });
    } catch (error) {
      if (torn) return events;
      throw error;
    }
    at += 4 + length;
  }
  return events;
}

/** The session an encoded event belongs to, without decoding the rest where that is possible. */
function sessionOf(bytes: Buffer): string | null {
  const type = bytes[4];
  if (type === TYPE_STARTED || type === TYPE_ENDED || type === TYPE_FRAME) {
    if (bytes.length < 5 + SESSION_BYTES) throw new FormatError('an event ends within its session');
    return bytes.toString('latin1', 5, 5 + SESSION_BYTES);
  }
  const event = decodeEvent(bytes);
  return 'session' in event ? event.session : null;
}

/** Decodes one event, length included. Throws `FormatError`. */
export function decodeEvent(bytes: Buffer): JournalEvent {
  const reader = new EventReader(bytes, 4, bytes.length);
  const type = reader.u8('type');
  if (type === TYPE_STARTED) return decodeStarted(reader);
  if (type === TYPE_ENDED) return decodeEnded(reader);
  if (type === TYPE_FRAME) return decodeFrame(reader);
  if (type !== TYPE_JSON) throw new FormatError(`unknown event type ${type}`);
  try {
    return JSON.parse(bytes.toString('utf8', 5)) as JournalEvent;
  } catch {
    throw new FormatError('an event is no JSON');
  }
}

function decodeStarted(reader: EventReader): StatementStartedEvent {
  const session = reader.session();
  const seq = reader.u32('seq');
  const at = timeText(reader.f64('at'));
  const kind = STATEMENT_KINDS[reader.u8('kind')];
  if (kind === undefined) throw new FormatError('unknown statement kind');
  const flags = reader.u8('flags');
  const textBytes = reader.f64('text bytes');
  const text = (flags & STARTED_TEXT) === 0 ? null : reader.text('text');
  let sha256 = (flags & STARTED_SHA256) === 0 ? null : reader.hex(32, 'sha256');
  const name = (flags & STARTED_NAME) === 0 ? null : reader.text('name');
  const parameters = (flags & STARTED_PARAMETERS) === 0 ? null : decodeParameters(reader);
  const masked = (flags & STARTED_MASKED) !== 0;
  // Computed here and not when the statement passed: readers have the time.
  if (sha256 === null && text !== null) {
    const whole = masked || Buffer.byteLength(text) >= textBytes || textBytes === 0;
    if (whole) sha256 = hash('sha256', text);
  }
  return {
    type: 'statement_started',
    session,
    seq,
    at,
    kind,
    text,
    text_bytes: textBytes,
    text_sha256: sha256,
    masked,
    name,
    parameters,
    opaque: (flags & STARTED_OPAQUE) !== 0,
  };
}

function decodeEnded(reader: EventReader): StatementEndedEvent {
  const session = reader.session();
  const seq = reader.u32('seq');
  const at = timeText(reader.f64('at'));
  const durationUs = reader.f64('duration');
  const status = STATEMENT_STATUSES[reader.u8('status')];
  const transaction = TRANSACTIONS[reader.u8('transaction')];
  if (status === undefined || transaction === undefined) throw new FormatError('unknown statement status');
  const bytesSent = reader.f64('bytes sent');
  const bytesReceived = reader.f64('bytes received');
  const flags = reader.bytes.readUInt16LE(reader.take(2, 'flags'));
  const rowsReturned = (flags & ENDED_RETURNED) === 0 ? null : reader.f64('rows returned');
  let rowsAffected: number | string | null = null;
  if ((flags & ENDED_AFFECTED) !== 0) rowsAffected = reader.f64('rows affected');
  if ((flags & ENDED_AFFECTED_BIG) !== 0)
    rowsAffected = String(reader.bytes.readBigUInt64LE(reader.take(8, 'rows affected')));
  const tag = (flags & ENDED_TAG) === 0 ? null : reader.text('tag');
  let columns: string[] | null = null;
  if ((flags & ENDED_COLUMNS) !== 0) {
    columns = [];
    for (let left = reader.u32('columns'); left > 0; left -= 1) columns.push(reader.text('column') ?? '');
  }
  const extra = (flags & ENDED_EXTRA) === 0 ? null : parseExtra(reader.text('extra'));
  const event: StatementEndedEvent = {
    type: 'statement_ended',
    session,
    seq,
    at,
    status,
    rows_returned: rowsReturned,
    rows_affected: rowsAffected,
    tag,
    columns,
    error: extra?.error ?? null,
    results: extra?.results ?? null,
    sample: extra?.sample ?? null,
    messages: extra?.messages ?? null,
    return_status: extra?.return_status ?? null,
    outputs: extra?.outputs ?? null,
    duration_us: durationUs,
    bytes_sent: bytesSent,
    bytes_received: bytesReceived,
    transaction,
  };
  if ((flags & ENDED_TEXT) !== 0) {
    event.text_bytes = reader.f64('text bytes');
    event.text_sha256 = reader.hex(32, 'sha256');
  }
  if ((flags & ENDED_PARAMETERS) !== 0) event.parameters = decodeParameters(reader);
  if ((flags & ENDED_TRUNCATED) !== 0) event.truncated = true;
  return event;
}

function decodeFrame(reader: EventReader): FrameEvent {
  const session = reader.session();
  const at = timeText(reader.f64('at'));
  const from = reader.u8('from') === 0 ? 'client' : 'server';
  const data = reader.bytes.subarray(reader.at, reader.end);
  return { type: 'frame', session, at, from, bytes: data.length, data: data.toString('base64') };
}

type Extra = Pick<
  StatementEndedEvent,
  'error' | 'results' | 'sample' | 'messages' | 'return_status' | 'outputs'
>;

function parseExtra(text: string | null): Extra | null {
  try {
    return text === null ? null : (JSON.parse(text) as Extra);
  } catch {
    throw new FormatError('an event is no JSON');
  }
}

function decodeParameters(reader: EventReader): EventParameter[] {
  const parameters: EventParameter[] = [];
  for (let left = reader.u32('parameters'); left > 0; left -= 1) {
    const name = reader.text('parameter name');
    const type = reader.text('parameter type');
    const code = reader.u8('parameter value');
    const parameter: EventParameter = { name, type, value: decodeValue(reader, code & ~VALUE_CUT) };
    if ((code & VALUE_CUT) !== 0) {
      parameter.bytes = reader.f64('parameter bytes');
      if (reader.u8('parameter sha256') === 1) parameter.sha256 = reader.hex(32, 'parameter sha256');
    }
    parameters.push(parameter);
  }
  return parameters;
}

function decodeValue(reader: EventReader, code: number): EventParameter['value'] {
  switch (code) {
    case VALUE_NULL:
      return null;
    case VALUE_TEXT:
      return reader.text('parameter value');
    case VALUE_NUMBER:
      return reader.f64('parameter value');
    case VALUE_TRUE:
      return true;
    case VALUE_FALSE:
      return false;
    case VALUE_JSON:
      try {
        return JSON.parse(reader.text('parameter value') ?? 'null') as EventParameter['value'];
      } catch {
        throw new FormatError('a parameter is no JSON');
      }
    default:
      throw new FormatError(`unknown parameter value ${code}`);
  }
}

/** A session's start as an event. */
export function startedEvent(start: SessionStart, at: number): JournalEvent {
  return {
    type: 'session_started',
    session: start.session,
    at: timeText(at),
    gateway: start.gateway,
    principal: start.principal,
    resource: start.resource,
    engine: start.engine,
    server_version: start.serverVersion,
    database_user: start.databaseUser,
    database: start.database,
    server_address: start.serverAddress,
    server_session: start.serverSession,
    authentication: start.authentication,
    client_address: start.clientAddress,
    client_user: start.clientUser,
    client_program: start.clientProgram,
    client_attributes: { ...start.clientAttributes },
    client_tls: start.clientTls,
    server_tls: start.serverTls,
    server_tls_verified: start.serverTlsVerified,
    tls_fallback: start.tlsFallback,
    launch: start.launch ?? null,
    rule: start.rule ?? null,
  };
}

export function noteEvent(session: string, seq: number, note: Note, at: number): JournalEvent {
  return { type: 'note', session, seq, at: timeText(at), note: { ...note } };
}

export function endedEvent(session: string, statements: number, end: SessionEnd, at: number): JournalEvent {
  return {
    type: 'session_ended',
    session,
    at: timeText(at),
    reason: end.reason,
    detail: end.detail,
    statements,
    bytes_sent: end.bytesSent,
    bytes_received: end.bytesReceived,
  };
}

export function auditEvent(gateway: string, event: AuditEvent, at: number): JournalEvent {
  return {
    type: 'audit',
    at: timeText(at),
    gateway,
    action: event.action,
    principal: event.principal,
    resource: event.resource,
    client_address: event.clientAddress,
    reason: event.reason,
    ...(event.detail === undefined ? {} : { detail: { ...event.detail } }),
  };
}
