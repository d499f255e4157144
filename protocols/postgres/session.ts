/**
 * What is known of a PostgreSQL session when both sides are signed in: the handshake gathers it, the observer starts
 * from it. The first byte the observer sees in either direction is the type byte of the message behind the first
 * ReadyForQuery (server) or the first message behind the sign-in (client).
 */
export interface SessionFacts {
  /** The protocol version agreed with the client: 3.0 or 3.2. The streams after sign-in are the same in both. */
  readonly protocolVersion: '3.0' | '3.2';
  /** ParameterStatus as the server reported it during sign-in: `server_version`, `client_encoding`, `TimeZone` … */
  readonly parameters: ReadonlyMap<string, string>;
  /** The status byte of the first ReadyForQuery. */
  readonly transactionStatus: 'I' | 'T' | 'E';
  /** From BackendKeyData; null where the server sent none (some poolers). */
  readonly serverPid: number | null;
  /** The account that is signed in to the server (the launch credentials'), for what must never be shown or changed. */
  readonly account: string;
  readonly database: string;
  /** The session was opened with `replication=true` or `replication=database`, and the resource allows it. */
  readonly replication: boolean;
  /**
   * What stands in place of a refused statement, so that the server itself fails there: `sallyport_deny_` and twelve
   * random hexadecimal digits, drawn for each session so that no client can forge it (`denialMarker` makes it).
   */
  readonly denialMarker: string;
}

/** Random bytes that `denialMarker` needs. */
export const DENIAL_MARKER_BYTES = 6;

/** Makes a session's marker from `DENIAL_MARKER_BYTES` random bytes. A legal SQL identifier, in lower case, of 27 bytes. */
export function denialMarker(random: Buffer): string {
  return `sallyport_deny_${random.toString('hex', 0, DENIAL_MARKER_BYTES)}`;
}
