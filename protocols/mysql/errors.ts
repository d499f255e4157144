import { ProtocolError, Refusal } from '../error.ts';
import { readError, type ServerError } from './messages.ts';
import { ERROR_CODES, type ErrorCode, errorPayload, refusalText } from './refuse.ts';

/**
 * What goes wrong in a sign-in, and what the person at the tool is told of it. The operator's log has the whole story;
 * the client never sees the launch account's name, its host, or where the database is.
 */

/** The server answered with an ERR packet. */
export class ServerRefused extends ProtocolError {
  readonly error: ServerError;

  constructor(error: ServerError, where: string) {
    const code = DENIALS.has(error.errno) ? 'authentication_failed' : 'server_error';
    super(code, 'server', `${where}: ${error.message} (${error.errno})`, {
      serverCode: `${error.errno}/${error.sqlstate}`,
    });
    this.name = 'ServerRefused';
    this.error = error;
  }
}

/** ER_ACCESS_DENIED_ERROR, and what MariaDB says where it is not about the password. */
const DENIALS: ReadonlySet<number> = new Set([1045, 1698]);

/** ER_DBACCESS_DENIED_ERROR, ER_BAD_DB_ERROR. */
const DATABASE_DENIED = 1044;
const UNKNOWN_DATABASE = 1049;
/** ER_HOST_IS_BLOCKED, ER_HOST_NOT_PRIVILEGED: about the gateway's own address. */
const HOST_REFUSALS: ReadonlySet<number> = new Set([1129, 1130]);
/** ER_NET_READ_INTERRUPTED: the server has waited longer than its connect_timeout for our answer. */
export const NET_READ_INTERRUPTED = 1159;

const BAD_HANDSHAKE: ErrorCode = { errno: 1043, sqlstate: '08S01' };
const OLD_PROTOCOL: ErrorCode = { errno: 1251, sqlstate: '08004' };

/** Throws a `ServerRefused` for an ERR packet; `where` says what was under way. */
export function serverRefused(payload: Buffer, where: string): ServerRefused {
  return new ServerRefused(readError(payload, 0, payload.length), where);
}

/** What a sign-in was about, for the texts that name it. */
export interface Told {
  /** The account of the launch credentials, once they are known: it is taken out of what the server says. */
  readonly account: string | null;
  readonly database: string | null;
}

/**
 * The ERR payload that tells a client of `error`, or null where nothing can be said any more. `early` is for the time
 * before the greeting, when packets carry no SQLSTATE.
 */
export function errorFor(error: unknown, told: Told, early = false): Buffer | null {
  const said = sayingOf(error, told);
  if (said === null) return null;
  const payload = errorPayload(said.code, said.text);
  return early ? Buffer.concat([payload.subarray(0, 3), payload.subarray(9)]) : payload;
}

interface Saying {
  readonly code: ErrorCode;
  readonly text: string;
}

function sayingOf(error: unknown, told: Told): Saying | null {
  if (error instanceof Refusal) return { code: ERROR_CODES[error.code], text: refusalText(error) };
  if (error instanceof ServerRefused) return serverSaying(error.error, told);
  if (!(error instanceof ProtocolError))
    return { code: ERROR_CODES.internal, text: 'internal error of the gateway' };
  return error.fault === 'client' ? clientSaying(error) : serverFault(error);
}

function clientSaying(error: ProtocolError): Saying | null {
  switch (error.code) {
    case 'unexpected_end':
    case 'tls_failed':
      return null;
    case 'timeout':
      return { code: ERROR_CODES.handshake_timeout, text: error.message };
    case 'unsupported':
      return {
        code: OLD_PROTOCOL,
        text: `Client does not support the protocol of this server: ${error.message}`,
      };
    default:
      return { code: BAD_HANDSHAKE, text: 'Bad handshake' };
  }
}

/** The server's own words, where they are about what the client asked for; ours where they name what it must not see. */
function serverSaying(error: ServerError, told: Told): Saying {
  const code: ErrorCode = { errno: error.errno, sqlstate: error.sqlstate };
  if (DENIALS.has(error.errno)) {
    return {
      code: ERROR_CODES.server_rejected,
      text: 'the database did not take the account that this gateway signs in with (Ask the people who run it.)',
    };
  }
  if (error.errno === DATABASE_DENIED)
    return { code, text: `Access denied to database '${told.database ?? ''}'` };
  if (error.errno === UNKNOWN_DATABASE) return { code, text: `Unknown database '${told.database ?? ''}'` };
  if (HOST_REFUSALS.has(error.errno)) {
    return { code, text: error.message.replaceAll(/'[^']*'/g, 'of the gateway') };
  }
  return { code, text: withoutAccount(error.message, told.account) };
}

/** Takes the account's name out of a server's text: `'name'@'host'`, `'name'`, and `User name`. */
export function withoutAccount(message: string, account: string | null): string {
  const text = message.replaceAll(/'[^']*'@'[^']*'/g, SOMEBODY);
  if (account === null || account === '') return text;
  const named = new RegExp(`\\buser ${account.replaceAll(/[^\w]/g, '\\$&')}(?=\\s|$)`, 'gi');
  return text.replaceAll(`'${account}'`, SOMEBODY).replaceAll(named, `User ${SOMEBODY}`);
}

const SOMEBODY = '(launch account)';

function serverFault(error: ProtocolError): Saying {
  switch (error.code) {
    case 'tls_required':
    case 'tls_failed':
      return {
        code: ERROR_CODES.server_tls_failed,
        text: 'TLS toward the database failed (Ask the people who run this gateway.)',
      };
    case 'authentication_unsupported':
    case 'server_untrusted':
      return {
        code: ERROR_CODES.server_rejected,
        text: 'the database asks for a sign-in that this gateway may not answer (Ask the people who run it.)',
      };
    case 'timeout':
      return { code: ERROR_CODES.server_unreachable, text: 'the database did not answer in time' };
    case 'unexpected_end':
      return {
        code: ERROR_CODES.server_unreachable,
        text: 'the database closed the connection during the sign-in',
      };
    default:
      return {
        code: ERROR_CODES.server_unreachable,
        text: 'the database does not speak the protocol that was expected',
      };
  }
}
