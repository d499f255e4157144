import { lastingCopy, Reader } from '../bytes.ts';
import type { Channel } from '../channel.ts';
import type { Credentials, PostgresSettings } from '../engine.ts';
import { ProtocolError, Refusal } from '../error.ts';
import type { DerivedKeys } from '../scram/keys.ts';
import { parseServerFields, ServerError, type ServerFields } from './errors.ts';
import {
  AUTHENTICATION_BYTES_MAX,
  AUTHENTICATION_MESSAGES_MAX,
  CANCEL_SECRET_BYTES_MAX,
  CANCEL_SECRET_BYTES_MIN,
  SERVER_MESSAGE_BYTES_MAX,
  STARTUP_BODY_BYTES_MAX,
  WELCOME_BYTES_MAX,
} from './limits.ts';
import { type Message, PROTOCOL_3_0, PROTOCOL_3_2, readMessage, startupPacket } from './packets.ts';
import { ServerAuthentication } from './server-authentication.ts';
import { secureServer } from './server-tls.ts';

/** What a sign-in to a server needs. */
export interface LoginRequest {
  readonly credentials: Credentials;
  readonly database: Buffer;
  /** Further startup parameters, in the order in which they are sent. */
  readonly parameters: readonly [string, Buffer][];
  readonly settings: PostgresSettings;
  readonly derivedKeys: DerivedKeys;
  readonly random: (length: number) => Buffer;
}

/** A server that waits for the first query. */
export interface LoggedIn {
  readonly server: Channel;
  readonly tlsFallback: boolean;
  /** `scram-sha-256-plus`, `scram-sha-256`, `md5`, `password`, `oauthbearer`, `cert`, `trust`. */
  readonly authentication: string;
  readonly parameters: ReadonlyMap<string, string>;
  /** Null where the server sent no BackendKeyData, as some poolers do. */
  readonly backendKey: BackendKey | null;
  readonly transactionStatus: 'I' | 'T' | 'E';
  /** What came behind AuthenticationOk up to ReadyForQuery, in order; notices from before it stand first. */
  readonly welcome: readonly Message[];
}

/** What cancels a statement of this session. Never leaves the gateway. */
export interface BackendKey {
  readonly pid: number;
  readonly secret: Buffer;
}

/**
 * Signs in to a server and reads up to its first ReadyForQuery, so that a database that is not there, a setting that is
 * not known and all else that fails up to then reaches the client as an error of its sign-in.
 *
 * Rejects with a `ServerError` when the server sent an error, with `authentication_failed` when that error says that it
 * does not take the credentials (28P01, 28000), with another `ProtocolError` of the server's fault otherwise.
 */
export async function login(server: Channel, request: LoginRequest): Promise<LoggedIn> {
  const tls = await secureServer(server, request.settings.directTls);
  server.write(makeStartup(request));
  const held: Message[] = [];
  const authentication = await authenticateToServer(server, request, held);
  const welcome = await readWelcome(server, request, held);
  return { server, tlsFallback: tls.fallback, authentication, ...welcome };
}

function makeStartup({ credentials, database, parameters, settings }: LoginRequest): Buffer {
  const packet = startupPacket(settings.protocolVersion === '3.2' ? PROTOCOL_3_2 : PROTOCOL_3_0, [
    ['user', credentials.username],
    ['database', database],
    ...parameters,
  ]);
  if (packet.length - 4 > STARTUP_BODY_BYTES_MAX) {
    throw new Refusal('option_not_allowed', 'the connection options are too long', {
      hint: `They may take ${STARTUP_BODY_BYTES_MAX} bytes together.`,
    });
  }
  return packet;
}

/** Up to AuthenticationOk. Resolves to the name of the method; notices go to `held`. */
async function authenticateToServer(
  server: Channel,
  request: LoginRequest,
  held: Message[],
): Promise<string> {
  const authentication = new ServerAuthentication(server, request);
  let negotiated = false;
  try {
    for (let count = 0; count < AUTHENTICATION_MESSAGES_MAX; count++) {
      const one = await readMessage(server, 'an authentication request', beforeOk);
      if (one.type === 'R') {
        const method = await authentication.request(one.body);
        if (method !== null) return method;
      } else if (one.type === 'N') held.push(one);
      else if (one.type === 'E') throw refusedBy(one.body, request, authentication);
      else {
        if (negotiated) throw unexpected('NegotiateProtocolVersion twice');
        negotiated = true;
        checkNegotiation(one.body, request.settings.protocolVersion);
      }
    }
    throw unexpected(`more than ${AUTHENTICATION_MESSAGES_MAX} messages before AuthenticationOk`);
  } finally {
    authentication.wipe();
  }
}

function beforeOk(type: string): number | null {
  if (type === 'R' || type === 'v') return AUTHENTICATION_BYTES_MAX;
  return type === 'E' || type === 'N' ? SERVER_MESSAGE_BYTES_MAX : null;
}

/**
 * What an ErrorResponse means: class 28 is about the credentials (the password before AuthenticationOk; a role that does
 * not exist, or may not sign in, behind it), all else is for the client to know.
 */
function refusedBy(
  body: Buffer,
  request: LoginRequest,
  authentication?: ServerAuthentication,
): ProtocolError {
  const fields = parseServerFields(body);
  const serverCode = fields.get('C') ?? 'XX000';
  if (serverCode !== '28P01' && serverCode !== '28000')
    return new ServerError(withoutAccount(fields, request));
  authentication?.rejected();
  return new ProtocolError(
    'authentication_failed',
    'server',
    `the server does not take the launch credentials: ${fields.get('M') ?? 'no message'}`,
    { serverCode },
  );
}

/** Quotation marks of the languages that the server's messages are translated to. */
const QUOTES = ['""', "''", '„“', '„”', '«»', '»«', '“”', '”“', '‹›'];

/** Some errors name the account in quotation marks: `too many connections for role "app"`. */
function withoutAccount(fields: Map<string, string>, { credentials, database }: LoginRequest): ServerFields {
  const account = credentials.username;
  // Of the same name, the text more likely means the database, which the client named itself.
  if (database.toString('utf8') === account) return fields;
  for (const field of ['M', 'H']) {
    let text = fields.get(field);
    if (text === undefined) continue;
    for (const [open, close] of QUOTES.map((pair) => [...pair])) {
      text = text.replaceAll(`${open}${account}${close}`, "of the gateway's account");
      text = text.replaceAll(`${open}\u00a0${account}\u00a0${close}`, "of the gateway's account");
    }
    fields.set(field, text);
  }
  return fields;
}

/** The server speaks less than was asked for. We send no protocol options, so it can have none that it does not know. */
function checkNegotiation(body: Buffer, asked: '3.0' | '3.2'): void {
  const reader = new Reader(body, 'server');
  const version = reader.int32be('protocol version');
  const options = reader.int32be('number of protocol options');
  if (asked === '3.2' && version === PROTOCOL_3_0 && options === 0) return;
  throw unexpected('NegotiateProtocolVersion for what we did not ask');
}

type Welcome = Pick<LoggedIn, 'parameters' | 'backendKey' | 'transactionStatus' | 'welcome'>;

async function readWelcome(
  server: Channel,
  request: LoginRequest,
  held: readonly Message[],
): Promise<Welcome> {
  const welcome = [...held];
  const parameters = new Map<string, string>();
  let backendKey: BackendKey | null = null;
  let room = WELCOME_BYTES_MAX;
  for (;;) {
    const one = await readMessage(server, 'ReadyForQuery', (type) =>
      'SKNEZ'.includes(type) ? Math.min(room, SERVER_MESSAGE_BYTES_MAX) : null,
    );
    room -= one.body.length + 5;
    if (one.type === 'E') throw refusedBy(one.body, request);
    welcome.push(one);
    const reader = new Reader(one.body, 'server');
    if (one.type === 'S') {
      const name = reader.cstring('parameter name').toString('utf8');
      parameters.set(name, reader.cstring('parameter value').toString('utf8'));
    } else if (one.type === 'K') {
      backendKey = { pid: reader.int32be('process id'), secret: lastingCopy(reader.rest()) };
      checkSecret(backendKey.secret);
    } else if (one.type === 'Z') {
      return { parameters, backendKey, transactionStatus: transactionStatus(reader), welcome };
    }
  }
}

function checkSecret(secret: Buffer): void {
  if (secret.length >= CANCEL_SECRET_BYTES_MIN && secret.length <= CANCEL_SECRET_BYTES_MAX) return;
  throw new ProtocolError('malformed', 'server', `a cancel secret of ${secret.length} bytes`);
}

function transactionStatus(reader: Reader): 'I' | 'T' | 'E' {
  const status = String.fromCharCode(reader.uint8('transaction status'));
  if (status === 'I' || status === 'T' || status === 'E') return status;
  throw reader.malformed('transaction status', 'is none of I, T and E');
}

function unexpected(what: string): ProtocolError {
  return new ProtocolError('unexpected_message', 'server', `the server sent ${what}`);
}
