import { hash } from 'node:crypto';
import { STATEMENT_KINDS, STATEMENT_STATUSES } from '../../protocols/statement.ts';
import {
  type EventParameter,
  type FrameEvent,
  type JournalEvent,
  type StatementEndedEvent,
  type StatementStartedEvent,
  timeText,
} from './events.ts';
import {
  ENDED_AFFECTED,
  ENDED_AFFECTED_BIG,
  ENDED_COLUMNS,
  ENDED_EXTRA,
  ENDED_PARAMETERS,
  ENDED_RETURNED,
  ENDED_TAG,
  ENDED_TEXT,
  ENDED_TRUNCATED,
  NO_TEXT,
  SESSION_BYTES,
  STARTED_MASKED,
  STARTED_NAME,
  STARTED_OPAQUE,
  STARTED_PARAMETERS,
  STARTED_SHA256,
  STARTED_TEXT,
  TRANSACTIONS,
  TYPE_ENDED,
  TYPE_FRAME,
  TYPE_JSON,
  TYPE_STARTED,
  VALUE_CUT,
  VALUE_FALSE,
  VALUE_JSON,
  VALUE_NULL,
  VALUE_NUMBER,
  VALUE_TEXT,
  VALUE_TRUE,
} from './format.ts';

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

  session(known: string | null): string {
    const at = this.take(SESSION_BYTES, 'session');
    return known ?? this.bytes.toString('latin1', at, at + SESSION_BYTES);
  }
}

/** One event of a batch, not decoded yet. `bytes` is its whole encoding, length included. */
export interface RawEvent {
  readonly bytes: Buffer;
  /** The session that it belongs to; null for events of the gateway itself. */
  readonly session: string | null;
  /** The event, where it had to be decoded to know its session. */
  readonly event: JournalEvent | null;
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
      events.push(rawEvent(bytes));
    } catch (error) {
      if (torn) return events;
      throw error;
    }
    at += 4 + length;
  }
  return events;
}

/** Finds the session an encoded event belongs to, without decoding the rest where that is possible. */
function rawEvent(bytes: Buffer): RawEvent {
  const type = bytes[4];
  if (type === TYPE_STARTED || type === TYPE_ENDED || type === TYPE_FRAME) {
    if (bytes.length < 5 + SESSION_BYTES) throw new FormatError('an event ends within its session');
    return { bytes, session: bytes.toString('latin1', 5, 5 + SESSION_BYTES), event: null };
  }
  const event = decodeEvent(bytes);
  return { bytes, session: 'session' in event ? event.session : null, event };
}

/** Decodes one event, length included. `session` is its own, where that is known already. Throws `FormatError`. */
export function decodeEvent(bytes: Buffer, session: string | null = null): JournalEvent {
  const reader = new EventReader(bytes, 4, bytes.length);
  const type = reader.u8('type');
  if (type === TYPE_STARTED) return decodeStarted(reader, session);
  if (type === TYPE_ENDED) return decodeEnded(reader, session);
  if (type === TYPE_FRAME) return decodeFrame(reader, session);
  if (type !== TYPE_JSON) throw new FormatError(`unknown event type ${type}`);
  try {
    return JSON.parse(bytes.toString('utf8', 5)) as JournalEvent;
  } catch {
    throw new FormatError('an event is no JSON');
  }
}

function decodeStarted(reader: EventReader, known: string | null): StatementStartedEvent {
  const session = reader.session(known);
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

function decodeEnded(reader: EventReader, known: string | null): StatementEndedEvent {
  const session = reader.session(known);
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

function decodeFrame(reader: EventReader, known: string | null): FrameEvent {
  const session = reader.session(known);
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
