/**
 * Every way a conversation can fail, as closed lists.
 *
 * Two kinds, because two readers: a `ProtocolError` says that bytes were wrong and whose fault it was (for the
 * operator's log); a `Refusal` says that somebody may not go on and why (for the person at the tool). Each engine has
 * one table, in its `refuse.ts`, that turns a `RefusalCode` into what its protocol shows.
 */

export const PROTOCOL_ERROR_CODES = [
  'unexpected_end', // the peer closed in the middle of something
  'length_out_of_range', // a length word below its minimum or above its limit
  'unexpected_message', // a legal message at the wrong time
  'unknown_message', // a type byte that this protocol does not have
  'malformed', // fields that contradict each other or run past their message
  'unsupported', // legal, but not something this engine speaks
  'tls_required', // the peer does not offer the TLS that the settings demand
  'tls_failed', // the TLS handshake did not complete, certificate faults included
  'tls_stuffing', // clear bytes were sent ahead of a TLS handshake (CVE-2021-23214 and its kind)
  'authentication_failed', // the server did not take the launch credentials
  'authentication_unsupported', // the server asks for a method we cannot or may not answer
  'server_untrusted', // the server could not prove what it should (SCRAM signature, channel binding, public key)
  'server_error', // the server refused the session by an error of its own
  'timeout', // a deadline of the handshake passed
] as const;
export type ProtocolErrorCode = (typeof PROTOCOL_ERROR_CODES)[number];

/** Whose fault: the client's, the database server's, or our own. */
export type Fault = 'client' | 'server' | 'ours';

/** Bytes or an order of messages that cannot be accepted. Never carries a secret or statement text. */
export class ProtocolError extends Error {
  readonly code: ProtocolErrorCode;
  readonly fault: Fault;
  /** The server's own error code where there is one: SQLSTATE, errno or TDS error number. */
  readonly serverCode: string | null;

  constructor(
    code: ProtocolErrorCode,
    fault: Fault,
    message: string,
    options: { cause?: unknown; serverCode?: string } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = 'ProtocolError';
    this.code = code;
    this.fault = fault;
    this.serverCode = options.serverCode ?? null;
  }
}

export const REFUSAL_CODES = [
  // before the session
  'tls_required',
  'credentials_invalid', // the token or password that the client showed
  'not_allowed', // no rule lets this principal in
  'database_not_allowed',
  'replication_not_allowed',
  'option_not_allowed', // a sign-in option that would change who the session is, or what it may do
  'session_limit',
  'rate_limited',
  'draining',
  'server_unreachable',
  'server_tls_failed',
  'server_rejected', // the server did not take the launch credentials, or asks for what we cannot give
  'credentials_unavailable', // the secret provider did not answer
  'recording_unavailable',
  'handshake_timeout',
  'protocol_violation',
  // statements
  'statement_not_allowed',
  // ends of a running session
  'killed',
  'idle_timeout',
  'idle_in_transaction',
  'max_duration',
  'shutdown',
  'launch_expired',
  'recording_failed',
  'server_closed',
  'internal',
] as const;
export type RefusalCode = (typeof REFUSAL_CODES)[number];

/**
 * "No", with the reason that the person reads in their own tool.
 *
 * `message` is one English line without a secret, an account name or an internal address. `hint` says what to do.
 */
export class Refusal extends Error {
  readonly code: RefusalCode;
  readonly hint: string | null;

  constructor(code: RefusalCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.name = 'Refusal';
    this.code = code;
    this.hint = options.hint ?? null;
  }
}
