import { Writer } from '../bytes.ts';
import { ProtocolError, Refusal, type RefusalCode } from '../error.ts';
import { buildMessage, LoginMessage } from './messages.ts';
import { type TdsVersion, versionAtLeast } from './session.ts';

/**
 * What SQL Server's clients are told of a sign-in that fails, and what a server's own error becomes on the way to them:
 * an ERROR token and a DONE (MS-TDS 2.2.7.10, 2.2.7.6), after LOGIN7 and never before, since no driver reads one there.
 */

/** "Login failed": drivers show it verbatim and none tries again by itself. */
const LOGIN_FAILED = 18_456;
/**
 * "Cannot open database": a tool may offer another. Only where the server said so: tedious and python-tds take it for
 * something that passes and try again, which a rule of ours does not.
 */
const CANNOT_OPEN_DATABASE = 4060;

/** Severity 14, insufficient permission: shown as an error everywhere. */
const LOGIN_ERROR_CLASS = 14;

/** Longest message of an ERROR that every driver shows whole. */
const MESSAGE_UNITS_MAX = 2000;

export interface ErrorFields {
  readonly number: number;
  readonly state: number;
  /** Severity, 11 to 25: up to 10 it is a message and no error, from 20 on the connection is over. */
  readonly class: number;
  readonly message: string;
  readonly serverName: string;
}

/** An ERROR token. Its line number is two bytes wide up to TDS 7.1, four from 7.2. */
export function errorToken(fields: ErrorFields, version: TdsVersion): Buffer {
  const message = Buffer.from(fields.message.slice(0, MESSAGE_UNITS_MAX), 'utf16le');
  const server = Buffer.from(fields.serverName.slice(0, 128), 'utf16le');
  const long = versionAtLeast(version, '7.2');
  const writer = new Writer(64 + message.length + server.length);
  writer.uint8(0xaa);
  const length = writer.reserve(2);
  writer.uint32le(fields.number).uint8(fields.state).uint8(fields.class);
  writer.uint16le(message.length / 2).append(message);
  writer.uint8(server.length / 2).append(server);
  writer.uint8(0);
  if (long) writer.uint32le(1);
  else writer.uint16le(1);
  writer.patchUint16le(length, writer.length - length - 2);
  return writer.take();
}

const DONE_ERROR = 0x0002;

/** DONE with the error bit and no count: 9 bytes up to TDS 7.1, 13 from 7.2. */
export function doneError(version: TdsVersion): Buffer {
  const bytes = Buffer.alloc(versionAtLeast(version, '7.2') ? 13 : 9);
  bytes[0] = 0xfd;
  bytes.writeUInt16LE(DONE_ERROR, 1);
  return bytes;
}

/** The whole answer to a LOGIN7 that is refused, packets and all. */
export function loginRefusal(fields: ErrorFields, version: TdsVersion, packetBytes: number): Buffer {
  const payload = Buffer.concat([errorToken(fields, version), doneError(version)]);
  return buildMessage(LoginMessage.tabularResult, payload, packetBytes);
}

/** What a client hears of the error that ended its sign-in. `serverName` is the resource's. */
export function loginErrorFields(error: unknown, serverName: string): ErrorFields {
  const refusal = asRefusal(error);
  const hint = refusal.hint === null ? '' : ` ${refusal.hint}`;
  const message = `Sallyport: ${refusal.message}.${hint}`;
  return { number: numberOf(error), state: 1, class: LOGIN_ERROR_CLASS, message, serverName };
}

function numberOf(error: unknown): number {
  if (error instanceof LoginRejected) {
    if (error.kind === 'database') return CANNOT_OPEN_DATABASE;
    if (error.kind === 'unavailable') return error.number;
  }
  return LOGIN_FAILED;
}

/** A protocol fault in words for the person at the tool. Never repeats what the server said: it may name the account. */
function asRefusal(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  if (error instanceof LoginRejected) return error.refusal;
  if (!(error instanceof ProtocolError))
    return new Refusal('internal', 'the sign-in failed inside the gateway');
  // The gateway itself ends sign-ins: it shuts down, or the launch is over.
  if (error.fault === 'ours') {
    return error.cause instanceof Refusal ? error.cause : new Refusal('internal', error.message);
  }
  if (error.fault === 'client') {
    if (error.code === 'timeout') return new Refusal('handshake_timeout', 'the sign-in took too long');
    return new Refusal('protocol_violation', error.message);
  }
  const [code, message] = SERVER_FAULTS[error.code] ?? [
    'server_unreachable',
    'the database server did not answer as a SQL Server does',
  ];
  return new Refusal(code, message, { hint: ASK });
}

const ASK = 'Ask the people who run this gateway.';

const SERVER_FAULTS: Readonly<Partial<Record<ProtocolError['code'], readonly [RefusalCode, string]>>> = {
  unexpected_end: ['server_unreachable', 'the database server closed the connection during the sign-in'],
  timeout: ['handshake_timeout', 'the database server did not answer in time'],
  tls_failed: [
    'server_tls_failed',
    'the encrypted connection to the database server failed, its certificate included',
  ],
  tls_required: ['server_tls_failed', 'the database server and the gateway do not agree on encryption'],
  authentication_failed: ['server_rejected', 'the database server did not take the launch credentials'],
  authentication_unsupported: [
    'server_rejected',
    'the database server asks for a way of signing in that the launch credentials do not have',
  ],
};

/** An ERROR that a server answered LOGIN7 with. */
export interface ServerError {
  readonly number: number;
  readonly state: number;
  readonly class: number;
}

/** Wrong name or password, account locked, disabled or expired, not trusted: all say that the credentials will not do. */
const CREDENTIAL_NUMBERS: readonly number[] = [
  18_450, 18_451, 18_452, 18_456, 18_461, 18_463, 18_464, 18_465, 18_466, 18_467, 18_468, 18_470, 18_486,
  18_487, 18_488,
];

/** Those that a newer password may mend. */
const STALE_PASSWORD_NUMBERS: readonly number[] = [LOGIN_FAILED, 18_487, 18_488];

const DATABASE_NUMBERS: readonly number[] = [CANNOT_OPEN_DATABASE, 911, 916];

/** The server is starting, full or moving: drivers know these numbers and try again by themselves. */
const UNAVAILABLE_NUMBERS: readonly number[] = [
  4221, 10_928, 10_929, 17_142, 17_187, 17_189, 17_809, 17_830, 18_401, 40_197, 40_501, 40_613, 49_918,
  49_919, 49_920,
];

export type LoginRejectedKind = 'credentials' | 'database' | 'unavailable' | 'other';

/** The server answered LOGIN7 with an error. The message has the number and never the server's own text. */
export class LoginRejected extends ProtocolError {
  readonly number: number;
  readonly kind: LoginRejectedKind;
  readonly refusal: Refusal;

  /** `errors` as they came, at least one; `database` is the one that was asked for. */
  constructor(errors: readonly ServerError[], database: string) {
    // A database that cannot be opened comes with a "login failed" behind it: the other number says more.
    const telling = errors.find(({ number }) => number !== LOGIN_FAILED) ?? errors[0]!;
    const kind = kindOf(telling.number);
    super(
      kind === 'credentials' ? 'authentication_failed' : 'server_error',
      'server',
      `the server refused the sign-in with error ${telling.number}, state ${telling.state}`,
      { serverCode: String(telling.number) },
    );
    this.number = telling.number;
    this.kind = kind;
    this.refusal = refusalFor(kind, telling.number, database);
  }

  get mayBeStale(): boolean {
    return STALE_PASSWORD_NUMBERS.includes(this.number);
  }
}

function kindOf(number: number): LoginRejectedKind {
  if (CREDENTIAL_NUMBERS.includes(number)) return 'credentials';
  if (DATABASE_NUMBERS.includes(number)) return 'database';
  if (UNAVAILABLE_NUMBERS.includes(number)) return 'unavailable';
  return 'other';
}

function refusalFor(kind: LoginRejectedKind, number: number, database: string): Refusal {
  switch (kind) {
    case 'credentials':
      return new Refusal(
        'server_rejected',
        `the database server did not take the launch credentials (SQL Server error ${number})`,
        { hint: ASK },
      );
    case 'database':
      return new Refusal('server_rejected', `the database "${database}" cannot be opened`, {
        hint: 'It does not exist, is offline, or the launch account has no access to it.',
      });
    case 'unavailable':
      return new Refusal(
        'server_unreachable',
        `the database server is not available at the moment (SQL Server error ${number})`,
        { hint: 'Try again in a minute.' },
      );
    case 'other':
      return new Refusal(
        'server_rejected',
        `the database server refused the sign-in (SQL Server error ${number})`,
        {
          hint: ASK,
        },
      );
  }
}
