import type { Refusal, RefusalCode } from '../error.ts';
import { packet } from './packets.ts';

/** What MySQL's clients are told: the error number (MySQL's "Server Error Message Reference") and its SQLSTATE. */
export interface ErrorCode {
  readonly errno: number;
  readonly sqlstate: string;
}

/**
 * One row for each refusal. Numbers of the client library's own range (2000 to 2999) are not used: libmariadb does not
 * believe them from a server. 08S01 makes pools throw the connection away; 1045 makes tools ask for a password again.
 */
export const ERROR_CODES: Readonly<Record<RefusalCode, ErrorCode>> = {
  tls_required: { errno: 3159, sqlstate: 'HY000' }, // ER_SECURE_TRANSPORT_REQUIRED
  credentials_invalid: { errno: 1045, sqlstate: '28000' }, // ER_ACCESS_DENIED_ERROR
  not_allowed: { errno: 1045, sqlstate: '28000' },
  database_not_allowed: { errno: 1044, sqlstate: '42000' }, // ER_DBACCESS_DENIED_ERROR
  replication_not_allowed: { errno: 1227, sqlstate: '42000' }, // ER_SPECIFIC_ACCESS_DENIED_ERROR
  option_not_allowed: { errno: 1227, sqlstate: '42000' },
  session_limit: { errno: 1040, sqlstate: '08004' }, // ER_CON_COUNT_ERROR
  rate_limited: { errno: 1040, sqlstate: '08004' },
  draining: { errno: 1053, sqlstate: '08S01' }, // ER_SERVER_SHUTDOWN
  server_unreachable: { errno: 1105, sqlstate: 'HY000' }, // ER_UNKNOWN_ERROR
  server_tls_failed: { errno: 1105, sqlstate: 'HY000' },
  server_rejected: { errno: 1045, sqlstate: '28000' },
  credentials_unavailable: { errno: 1105, sqlstate: 'HY000' },
  recording_unavailable: { errno: 1105, sqlstate: 'HY000' },
  handshake_timeout: { errno: 1159, sqlstate: '08S01' }, // ER_NET_READ_INTERRUPTED
  protocol_violation: { errno: 1835, sqlstate: 'HY000' }, // ER_MALFORMED_PACKET
  statement_not_allowed: { errno: 1227, sqlstate: '42000' },
  killed: { errno: 1927, sqlstate: '70100' }, // ER_CONNECTION_KILLED of MariaDB
  idle_timeout: { errno: 4031, sqlstate: 'HY000' }, // ER_CLIENT_INTERACTION_TIMEOUT
  idle_in_transaction: { errno: 4031, sqlstate: 'HY000' },
  max_duration: { errno: 1927, sqlstate: '70100' },
  shutdown: { errno: 1053, sqlstate: '08S01' },
  launch_expired: { errno: 1927, sqlstate: '70100' },
  recording_failed: { errno: 1105, sqlstate: 'HY000' },
  server_closed: { errno: 1158, sqlstate: '08S01' }, // ER_NET_READ_ERROR
  internal: { errno: 1105, sqlstate: 'HY000' },
};

/** ER_UNKNOWN_COM_ERROR: what servers say to a command that they do not know. */
export const UNKNOWN_COMMAND: ErrorCode = { errno: 1047, sqlstate: '08S01' };

/** What each family says where LOAD DATA LOCAL is switched off. */
export const LOCAL_FILES_DISABLED: Readonly<Record<'mysql' | 'mariadb', ErrorCode>> = {
  mysql: { errno: 3948, sqlstate: '42000' }, // ER_CLIENT_LOCAL_FILES_DISABLED
  mariadb: { errno: 4166, sqlstate: 'HY000' }, // ER_LOAD_INFILE_CAPABILITY_DISABLED
};

/** Clients keep error texts in 512 bytes (MYSQL_ERRMSG_SIZE), the code and the NUL included. */
const MESSAGE_BYTES_MAX = 480;

/** The payload of an ERR packet in the form of CLIENT_PROTOCOL_41 (`#` and SQLSTATE before the text). */
export function errorPayload(code: ErrorCode, message: string): Buffer {
  let text = Buffer.from(message, 'utf8');
  if (text.length > MESSAGE_BYTES_MAX) {
    let end = MESSAGE_BYTES_MAX;
    while ((text[end]! & 0xc0) === 0x80) end -= 1;
    text = text.subarray(0, end);
  }
  const head = Buffer.from([0xff, code.errno & 0xff, code.errno >>> 8]);
  return Buffer.concat([head, Buffer.from(`#${code.sqlstate}`, 'latin1'), text]);
}

/** A whole ERR packet with the given sequence number. */
export function errorPacket(sequence: number, code: ErrorCode, message: string): Buffer {
  return packet(sequence, errorPayload(code, message));
}

/** What the person reads of a refusal: its message, and its hint behind it. */
export function refusalText(refusal: Refusal): string {
  return refusal.hint === null ? refusal.message : `${refusal.message} (${refusal.hint})`;
}

/** The ERR packet for a refusal. */
export function refusalPacket(sequence: number, refusal: Refusal): Buffer {
  return errorPacket(sequence, ERROR_CODES[refusal.code], refusalText(refusal));
}
