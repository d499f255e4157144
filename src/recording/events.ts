import { z } from 'zod';
import { STATEMENT_KINDS, STATEMENT_STATUSES } from '../../protocols/statement.ts';
import { CLOSE_REASONS } from './recorder.ts';

/**
 * What the journal and recordings hold, as JSON. The schemas are the documentation and are exported for those who read
 * exports; a reader of ours trusts the authenticated bytes and does not parse by them.
 *
 * Times are RFC 3339 in UTC with microseconds. Counts beyond 2^53 are decimal strings.
 */

const at = z.string().describe('RFC 3339 time in UTC with microseconds.');
const session = z.string().length(26).describe("The session's id.");
const seq = z.int().nonnegative().describe("The statement's number within its session, from 1.");
const count = z.union([z.number(), z.string()]).nullable();

export const parameterSchema = z.strictObject({
  name: z.string().nullable(),
  type: z.string().nullable().describe("The engine's own type name."),
  value: z.union([z.string(), z.number(), z.boolean(), z.null(), z.record(z.string(), z.unknown())]),
  bytes: z.number().optional().describe('Length of the whole value, where it was cut.'),
  sha256: z.string().optional().describe('SHA-256 of the whole value, where it was cut.'),
});

export const sessionStartedSchema = z.strictObject({
  type: z.literal('session_started'),
  session,
  at,
  gateway: z.string(),
  principal: z.string(),
  resource: z.string(),
  engine: z.string(),
  server_version: z.string(),
  database_user: z.string(),
  database: z.string().nullable(),
  server_address: z.string(),
  server_session: z.string().nullable().describe("The server's own id: pid, connection id, spid."),
  authentication: z.string(),
  client_address: z.string(),
  client_user: z.string(),
  client_program: z.string().nullable(),
  client_attributes: z.record(z.string(), z.string()),
  client_tls: z.string().nullable(),
  server_tls: z.string().nullable(),
  server_tls_verified: z.boolean(),
  tls_fallback: z.boolean(),
  launch: z
    .string()
    .nullable()
    .optional()
    .describe('The launch that the session belongs to; null on trusted listeners.'),
  rule: z.string().nullable().optional().describe('The rule that let it in.'),
});

export const statementStartedSchema = z.strictObject({
  type: z.literal('statement_started'),
  session,
  seq,
  at,
  kind: z.enum(STATEMENT_KINDS),
  text: z.string().nullable(),
  text_bytes: z.number().describe('Length of the whole text as sent.'),
  text_sha256: z.string().nullable().describe('SHA-256 of the whole text; of the masked text where masked.'),
  masked: z.boolean().describe('Something in the text or the parameters was masked before it was written.'),
  name: z.string().nullable(),
  parameters: z.array(parameterSchema).nullable(),
  opaque: z.boolean(),
});

export const statementEndedSchema = z.strictObject({
  type: z.literal('statement_ended'),
  session,
  seq,
  at,
  status: z.enum(STATEMENT_STATUSES),
  rows_returned: count,
  rows_affected: count,
  tag: z.string().nullable(),
  columns: z.array(z.string()).nullable(),
  error: z
    .strictObject({
      code: z.string(),
      message: z.string(),
      detail: z.record(z.string(), z.union([z.string(), z.number()])).optional(),
    })
    .nullable(),
  results: z
    .array(
      z.strictObject({
        tag: z.string().nullable(),
        rows_returned: count,
        rows_affected: count,
        columns: z.array(z.string()).optional(),
        text: z.string().optional(),
      }),
    )
    .nullable(),
  sample: z.array(z.array(z.string().nullable())).nullable(),
  messages: z.array(z.string()).nullable(),
  return_status: z.number().nullable(),
  outputs: z.array(parameterSchema).nullable().describe('Output parameters of a call.'),
  duration_us: z.number(),
  bytes_sent: z.number(),
  bytes_received: z.number(),
  transaction: z.enum(['idle', 'active', 'failed', 'unknown']),
  /** Known only when the whole text has passed. */
  text_bytes: z.number().optional(),
  text_sha256: z.string().optional(),
  /** Parameters that were not known when the statement started. */
  parameters: z.array(parameterSchema).optional(),
  truncated: z.boolean().optional().describe('Columns, samples and messages were too long to keep.'),
});

export const noteSchema = z.strictObject({
  type: z.literal('note'),
  session,
  seq,
  at,
  note: z.looseObject({ kind: z.string() }),
});

export const frameSchema = z.strictObject({
  type: z.literal('frame'),
  session,
  at,
  from: z.enum(['client', 'server']),
  bytes: z.number(),
  data: z.string().describe('Base64. Nothing in it is masked.'),
});

export const sessionEndedSchema = z.strictObject({
  type: z.literal('session_ended'),
  session,
  at,
  reason: z.enum(CLOSE_REASONS),
  detail: z.string().nullable(),
  statements: z.number(),
  bytes_sent: z.number(),
  bytes_received: z.number(),
});

export const auditSchema = z.strictObject({
  type: z.literal('audit'),
  at,
  gateway: z.string(),
  action: z.string(),
  principal: z.string().nullable(),
  resource: z.string().nullable(),
  client_address: z.string().nullable(),
  reason: z.string().nullable(),
  detail: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()])).optional(),
});

export const gapSchema = z.strictObject({
  type: z.literal('gap'),
  at,
  from: at,
  to: at,
  events: z.number().describe('Events that were lost; 0 where it is not known that any was.'),
  sessions: z.array(session).describe('Sessions that lost events, as far as they were counted.'),
  reason: z.string(),
});

export const journalSchema = z.strictObject({
  type: z.literal('journal'),
  at,
  action: z.enum(['opened', 'closed']),
  boot: z.string(),
  segment: z.number(),
  sessions: z.array(session).describe('Sessions that are open at this point.'),
});

export const eventSchema = z.discriminatedUnion('type', [
  sessionStartedSchema,
  statementStartedSchema,
  statementEndedSchema,
  noteSchema,
  frameSchema,
  sessionEndedSchema,
  auditSchema,
  gapSchema,
  journalSchema,
]);

/** A statement from start to end in one object: what exports, searches and streams give. */
export const statementSchema = z.strictObject({
  ...statementStartedSchema.omit({ type: true }).shape,
  ...statementEndedSchema.omit({
    type: true,
    session: true,
    seq: true,
    at: true,
    text_bytes: true,
    text_sha256: true,
    parameters: true,
  }).shape,
  duration_us: z.number().nullable().describe('Null where the end is not on record.'),
});

export type EventParameter = z.output<typeof parameterSchema>;
export type SessionStartedEvent = z.output<typeof sessionStartedSchema>;
export type StatementStartedEvent = z.output<typeof statementStartedSchema>;
export type StatementEndedEvent = z.output<typeof statementEndedSchema>;
export type FrameEvent = z.output<typeof frameSchema>;
export type NoteEvent = z.output<typeof noteSchema>;
export type SessionEndedEvent = z.output<typeof sessionEndedSchema>;
export type AuditJournalEvent = z.output<typeof auditSchema>;
export type GapEvent = z.output<typeof gapSchema>;
export type JournalMarkEvent = z.output<typeof journalSchema>;
export type JournalEvent = z.output<typeof eventSchema>;
export type RecordedStatement = z.output<typeof statementSchema>;

/** Three digits of all numbers below a thousand. */
const THREE_DIGITS = Array.from({ length: 1000 }, (_, number) => String(number).padStart(3, '0'));

/** The second that was written last, and the one that was read last: times of events that follow each other share it. */
const written = { second: Number.NaN, text: '' };
const read = { text: '', ms: Number.NaN };
/** Characters of a time up to its fraction, `2026-11-24T13:43:13.`, and with it. */
const SECOND_CHARACTERS = 20;
const TIME_CHARACTERS = 27;

/** Milliseconds since the epoch, with fraction, as RFC 3339 with microseconds. */
export function timeText(ms: number): string {
  const whole = Math.floor(ms);
  const micros = Math.min(999, Math.floor((ms - whole) * 1000));
  const second = Math.floor(whole / 1000);
  if (second !== written.second) {
    written.text = new Date(second * 1000).toISOString().slice(0, -4);
    written.second = second;
  }
  return `${written.text}${THREE_DIGITS[whole - second * 1000]}${THREE_DIGITS[micros]}Z`;
}

/** The inverse of `timeText`, in milliseconds. NaN for what is no time. */
export function timeMs(text: string): number {
  if (text.length !== TIME_CHARACTERS || !FRACTION.test(text)) return Date.parse(text);
  const second = text.slice(0, SECOND_CHARACTERS);
  if (second !== read.text) {
    read.ms = Date.parse(`${second}000Z`);
    read.text = second;
  }
  return read.ms + Number(text.slice(SECOND_CHARACTERS, -4)) + Number(text.slice(-4, -1)) / 1000;
}

const FRACTION = /\.\d{6}Z$/;

/** Joins a statement's start with its end; a start without an end has status `unknown`. */
export function joinStatement(
  start: StatementStartedEvent,
  end: StatementEndedEvent | null,
): RecordedStatement {
  const { type: _, ...started } = start;
  if (end === null) {
    return {
      ...started,
      status: 'unknown',
      rows_returned: null,
      rows_affected: null,
      tag: null,
      columns: null,
      error: null,
      results: null,
      sample: null,
      messages: null,
      return_status: null,
      outputs: null,
      duration_us: null,
      bytes_sent: 0,
      bytes_received: 0,
      transaction: 'unknown',
    };
  }
  const { type: _type, session: _session, seq: _seq, at: _at, ...ended } = end;
  return { ...started, ...ended };
}
