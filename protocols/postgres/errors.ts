import { Writer } from '../bytes.ts';
import { ProtocolError, type Refusal, type RefusalCode } from '../error.ts';

/**
 * What PostgreSQL's clients are told, and how. One table turns each refusal into an SQLSTATE, one function builds the
 * ErrorResponse ("Error and Notice Message Fields" in the protocol chapter).
 *
 * Codes of class 28 make pgjdbc and asyncpg try again, in the clear where they began with TLS: only what such a retry
 * may mend carries one. 57P03 sends libpq to the next host of its list.
 */
export const SQLSTATES: Readonly<Record<RefusalCode, string>> = {
  tls_required: '28000', // invalid_authorization_specification: `sslmode=allow` then tries again with TLS
  credentials_invalid: '28P01', // invalid_password
  not_allowed: '42501', // insufficient_privilege
  database_not_allowed: '42501',
  replication_not_allowed: '42501',
  option_not_allowed: '42501',
  session_limit: '53300', // too_many_connections
  rate_limited: '53300',
  draining: '57P03', // cannot_connect_now
  server_unreachable: '08006', // connection_failure
  server_tls_failed: '08006',
  server_rejected: '08006',
  credentials_unavailable: '08006',
  recording_unavailable: '57P03',
  handshake_timeout: '57014', // query_canceled, as for PostgreSQL's own timeouts
  protocol_violation: '08P01', // protocol_violation
  statement_not_allowed: '42501',
  killed: '57P01', // admin_shutdown
  idle_timeout: '57P05', // idle_session_timeout
  idle_in_transaction: '25P03', // idle_in_transaction_session_timeout
  max_duration: '57P01',
  shutdown: '57P01',
  launch_expired: '57P01',
  recording_failed: '57P01',
  server_closed: '08006',
  internal: 'XX000', // internal_error
};

export type Severity = 'ERROR' | 'FATAL';

/** The fields of an ErrorResponse or NoticeResponse that we send; text is UTF-8, and a NUL in it is left out. */
export interface ErrorFields {
  readonly severity: Severity;
  /** SQLSTATE, five characters. */
  readonly code: string;
  readonly message: string;
  readonly detail?: string | null;
  readonly hint?: string | null;
}

/** An ErrorResponse (`E`): severity, SQLSTATE, message, and detail and hint where there are any. */
export function errorResponse(fields: ErrorFields): Buffer {
  const writer = new Writer();
  writer.uint8(0x45);
  const length = writer.reserve(4);
  const field = (type: string, value: string): void => {
    writer.text(type).cstring(value.replaceAll('\0', ''));
  };
  field('S', fields.severity);
  field('V', fields.severity);
  field('C', fields.code);
  field('M', fields.message);
  if (fields.detail) field('D', fields.detail);
  if (fields.hint) field('H', fields.hint);
  writer.uint8(0);
  writer.patchUint32be(length, writer.length - 1);
  return writer.take();
}

/** The ErrorResponse for a refusal: `FATAL` where it ends the session (or keeps it from beginning), else `ERROR`. */
export function refusalResponse(refusal: Refusal, severity: Severity): Buffer {
  return errorResponse({
    severity,
    code: SQLSTATES[refusal.code],
    message: refusal.message,
    hint: refusal.hint,
  });
}

/** The fields of an ErrorResponse or NoticeResponse that a server sent, by their type letter. */
export type ServerFields = ReadonlyMap<string, string>;

/** An error by which the server refused the session, after or before it took the credentials. */
export class ServerError extends ProtocolError {
  readonly fields: ServerFields;

  constructor(fields: ServerFields) {
    const code = fields.get('C') ?? 'XX000';
    super('server_error', 'server', `the server refused the session: ${fields.get('M') ?? 'no message'}`, {
      serverCode: code,
    });
    this.fields = fields;
  }
}

/**
 * Takes an error's body apart: pairs of a type byte and a cstring, up to a NUL. Stops where the body is cut short: what
 * came before still tells more than a complaint about its form.
 */
export function parseServerFields(body: Buffer): Map<string, string> {
  const fields = new Map<string, string>();
  let position = 0;
  while (position < body.length && body[position] !== 0) {
    const nul = body.indexOf(0, position + 1);
    if (nul < 0) break;
    fields.set(String.fromCharCode(body[position]!), body.toString('utf8', position + 1, nul));
    position = nul + 1;
  }
  return fields;
}
