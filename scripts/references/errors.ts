import {
  PROTOCOL_ERROR_CODES,
  type ProtocolErrorCode,
  REFUSAL_CODES,
  Refusal,
  type RefusalCode,
} from '../../protocols/error.ts';
import { ERROR_CODES } from '../../protocols/mysql/refuse.ts';
import { SQLSTATES } from '../../protocols/postgres/errors.ts';
import { refusalNumber } from '../../protocols/tds/refuse.ts';
import { CLOSE_REASONS, type CloseReason } from '../../src/recording/recorder.ts';

/** When a refusal is heard: at the sign-in, in answer to a statement, or as the end of a session. */
type When = 'sign-in' | 'statement' | 'end';

/** For each refusal: when, what it means, and what to do about it. */
const REFUSALS: Readonly<Record<RefusalCode, readonly [When, string, string]>> = {
  tls_required: [
    'sign-in',
    'The listener takes encrypted connections only, or what was shown may not pass in the clear.',
    'Turn TLS on in the tool.',
  ],
  credentials_invalid: [
    'sign-in',
    'The token or password is wrong, or its launch has ended.',
    'Issue a new one: `sallyport tokens issue RESOURCE`. A pool may still have the old one.',
  ],
  not_allowed: [
    'sign-in',
    'No rule lets this person use this resource now.',
    '`sallyport access explain PERSON RESOURCE` says which rule is missing.',
  ],
  database_not_allowed: [
    'sign-in',
    'The resource does not offer this database, or its name is too long.',
    'Connect to one that it offers, or extend `databases`.',
  ],
  replication_not_allowed: [
    'sign-in',
    'A replication connection, which reads the whole server.',
    'Set `allow_replication: true` on the resource.',
  ],
  option_not_allowed: [
    'sign-in',
    'A sign-in option that would change who the session is, or what it may do.',
    "Leave it out of the connection's options.",
  ],
  session_limit: [
    'sign-in',
    '`limits.max_connections` of the resource, or `max_connections` of the rule, is reached.',
    'Close connections, make the pool smaller, or raise the limit.',
  ],
  rate_limited: ['sign-in', 'Too many wrong tokens or passwords from this address.', 'Wait a minute.'],
  draining: ['sign-in', 'The gateway is shutting down.', 'Connect again in a moment.'],
  server_unreachable: [
    'sign-in',
    'No connection to the database server, or it did not answer as such a server does.',
    '`sallyport check --connect`: name, port, firewall.',
  ],
  server_tls_failed: [
    'sign-in',
    'TLS toward the database failed, its certificate included.',
    '`tls.mode`, `tls.ca` and `tls.server_name` of the resource; `sallyport check --connect` says which.',
  ],
  server_rejected: [
    'sign-in',
    'The server did not take the launch credentials, cannot open the database, or asks for a sign-in that is not answered.',
    "Rotate or correct the credentials in the provider; the log has the server's own code.",
  ],
  credentials_unavailable: [
    'sign-in',
    'The secret provider did not give the launch credentials.',
    'The log names provider and reason; `/readyz` shows which is down.',
  ],
  recording_unavailable: [
    'sign-in',
    'The journal cannot be written, so no session may begin.',
    'Disk full or read-only: free space, and it recovers by itself.',
  ],
  handshake_timeout: [
    'sign-in',
    'The sign-in took longer than is allowed.',
    'A slow network, database or provider: raise `limits.connect_timeout`, or look which it is.',
  ],
  protocol_violation: [
    'sign-in',
    'The tool sent what is not of its protocol.',
    'Is it the right tool for this port? Otherwise please report it.',
  ],
  statement_not_allowed: [
    'statement',
    'The statement would change the account that everybody shares, or the access is read-only.',
    'Change the password where it is kept; ask for other access.',
  ],
  killed: ['end', 'Somebody ended the session.', '`sallyport recordings show SESSION` says who.'],
  idle_timeout: [
    'end',
    '`limits.idle_timeout` has passed.',
    'Connect again; pools should test their connections.',
  ],
  idle_in_transaction: [
    'end',
    'A transaction was left open for `limits.idle_in_transaction_timeout`.',
    'Commit or roll back sooner.',
  ],
  max_duration: [
    'end',
    '`limits.max_duration` has passed.',
    'Connect again; give the pool a shorter lifetime.',
  ],
  shutdown: [
    'end',
    'The gateway is shutting down and `gateway.shutdown_grace` has passed.',
    'Connect again.',
  ],
  launch_expired: [
    'end',
    'The launch has ended: its time is up, it was revoked, or its account is gone.',
    'Ask for a new one.',
  ],
  recording_failed: [
    'end',
    'The journal cannot be written any more, and `recording.on_failure` is `refuse`.',
    'Disk full or read-only: free space.',
  ],
  server_closed: ['end', 'The database server closed the connection.', 'Its own log says why.'],
  internal: ['end', 'A defect of the gateway.', 'The log has the whole story; please report it.'],
};

const PROTOCOL_ERRORS: Readonly<Record<ProtocolErrorCode, string>> = {
  unexpected_end: 'The peer closed in the middle of something.',
  length_out_of_range: 'A length below its minimum or above its limit.',
  unexpected_message: 'A message that exists, at the wrong time.',
  unknown_message: 'A message that this protocol does not have.',
  malformed: 'Fields that contradict each other or run past their message.',
  unsupported: 'Something of the protocol that Sallyport does not speak.',
  tls_required: 'The peer does not offer the TLS that the settings demand.',
  tls_failed: 'The TLS handshake did not complete: certificate, version or ciphers.',
  tls_stuffing: 'Clear bytes ahead of a TLS handshake: an attack, or a very broken tool.',
  authentication_failed: 'The server did not take the launch credentials.',
  authentication_unsupported: 'The server asks for a method that cannot or may not be answered.',
  server_untrusted: 'The server could not prove that it knows the password, or is who it should be.',
  server_error: 'The server refused the session with an error of its own: `serverCode`.',
  timeout: 'A deadline of the sign-in passed.',
};

const CLOSES: Readonly<Record<CloseReason, string>> = {
  client_closed: 'The tool closed the connection.',
  server_closed: 'The database server closed it.',
  idle_timeout:
    'Idle for longer than `limits.idle_timeout`, or within a transaction than `limits.idle_in_transaction_timeout`.',
  max_duration: '`limits.max_duration` passed.',
  killed: 'Somebody ended it.',
  shutdown: 'The gateway was shut down.',
  recording_failed: 'It could no longer be recorded.',
  protocol_error: 'One side sent what is not of the protocol.',
  server_unreachable: 'The database server could not be reached.',
  auth_failed: 'The sign-in failed.',
  denied: 'It was refused.',
  launch_expired: 'The launch ended.',
  interrupted: 'The gateway did not end in order: a crash, `kill -9`, or a loss of power.',
};

const WHEN: Readonly<Record<When, string>> = {
  'sign-in': 'When somebody connects',
  statement: 'In answer to a statement',
  end: 'At the end of a session',
};

/** docs/errors.md: every code there is, and what each protocol shows of it. */
export function errorsReference(): string {
  const parts = (['sign-in', 'statement', 'end'] as const).map((when) => {
    const rows = REFUSAL_CODES.filter((code) => REFUSALS[code][0] === when).map((code) => {
      const [, meaning, remedy] = REFUSALS[code];
      const { errno, sqlstate } = ERROR_CODES[code];
      const number = when === 'sign-in' ? '18456' : refusalNumber(new Refusal(code, ''));
      return `| \`${code}\` | ${SQLSTATES[code]} | ${errno} (${sqlstate}) | ${number} | ${meaning} | ${remedy} |`;
    });
    return `### ${WHEN[when]}\n\n| code | SQLSTATE | MySQL | SQL Server | what it means | what to do |\n|---|---|---|---|---|---|\n${rows.join('\n')}`;
  });
  return `# Errors

Two lists, for two readers. A **refusal** is what the person reads in their tool; its code is in the log as \`code\`, in metrics as the
label \`code\`, in the audit as the reason. A **protocol error** says in the operator's log that bytes were wrong and whose fault it was
(\`fault\`: \`client\`, \`server\` or \`ours\`); the tool hears of it by the refusal that fits. [Operations](operations.md#troubleshooting) goes by what people
read.

## Refusals

What a tool gets is an error of its own protocol: the SQLSTATE of PostgreSQL, the error number (and SQLSTATE) of MySQL and MariaDB, the
error number of SQL Server. An error that the database itself gave is passed on as it is, in the middle of a session; at the sign-in the name of the account and
the address of the server are kept from it, and some numbers that make drivers try again (SQL Server's 4060, 40613 and their kind) are kept.

${parts.join('\n\n')}

## Protocol errors

| code | what it means |
|---|---|
${PROTOCOL_ERROR_CODES.map((code) => `| \`${code}\` | ${PROTOCOL_ERRORS[code]} |`).join('\n')}

## Why a session ended

The reason of a session's end in recordings, in \`sallyport_sessions_total\` and in the log line \`session closed\`.

| reason | what it means |
|---|---|
${CLOSE_REASONS.map((reason) => `| \`${reason}\` | ${CLOSES[reason]} |`).join('\n')}

The numbers on this page are taken from the protocols' own tables by \`npm run generate\`.
`;
}
