import type { Channel } from '../channel.ts';
import type { Credentials, MysqlSettings } from '../engine.ts';
import { ProtocolError } from '../error.ts';
import { type Answer, answerTo, type Means } from './auth/answer.ts';
import { NATIVE } from './auth/native.ts';
import { CACHING_SHA2 } from './auth/sha2.ts';
import {
  bits,
  CONNECT_ATTRS,
  CONNECT_WITH_DB,
  has,
  LONG_PASSWORD,
  MULTI_FACTOR_AUTHENTICATION,
  PLUGIN_AUTH,
  PLUGIN_AUTH_LENENC_CLIENT_DATA,
  PROTOCOL_41,
  SECURE_CONNECTION,
  SSL,
  without,
} from './capabilities.ts';
import { COM_INIT_DB, COM_QUIT } from './commands.ts';
import { serverRefused } from './errors.ts';
import { type Greeting, parseGreeting } from './greeting.ts';
import { Leg } from './leg.ts';
import { AUTH_PACKETS_MAX, AUTH_SWITCHES_MAX, LEAVE_MS_MAX } from './limits.ts';
import { FAREWELL_FLAGS, responsePayload, sslRequestPayload } from './response.ts';

/**
 * The server's side of a sign-in: its greeting, TLS as the resource asks for it, the answer with the launch credentials,
 * and whatever conversation the account's plugin wants, up to the OK.
 */

/** A server that has greeted, and what it is owed before it may be left. */
export class ServerLeg {
  readonly leg: Leg;
  readonly greeting: Greeting;
  /** It has had its answer, or can have none any more. */
  answered = false;
  /** TLS was preferred, and the server has none. */
  tlsFallback = false;

  constructor(leg: Leg, greeting: Greeting) {
    this.leg = leg;
    this.greeting = greeting;
  }

  get channel(): Channel {
    return this.leg.channel;
  }
}

/** Reads a server's greeting. Throws a `ProtocolError`; `ServerRefused` where it sends an error in its place. */
export async function meet(channel: Channel): Promise<ServerLeg> {
  const leg = new Leg(channel);
  const payload = await leg.read('greeting');
  if (payload[0] === ERR) throw serverRefused(payload, 'the server refuses connections');
  return new ServerLeg(leg, parseGreeting(payload));
}

/** What a session asks of the server, beside the account. */
export interface Wish {
  /** CLIENT_* flags that the client and this server have in common. */
  readonly capabilities: number;
  readonly extended: number;
  readonly packetBytesMax: number;
  readonly collation: number;
  /** Empty for none. */
  readonly database: Buffer;
  readonly attributes: Buffer;
}

export interface SignedIn {
  /** The server's last OK. */
  readonly ok: Buffer;
  /** The plugin that the account was checked by, and its way. */
  readonly authentication: string;
}

const OK = 0x00;
const MORE_DATA = 0x01;
const NEXT_FACTOR = 0x02;
const SWITCH = 0xfe;
const ERR = 0xff;

/** Flags that every sign-in of ours has, as far as the server offers them. */
const LOGIN_FLAGS = bits(
  PLUGIN_AUTH,
  PLUGIN_AUTH_LENENC_CLIENT_DATA,
  CONNECT_ATTRS,
  // Without it an account with several factors is refused, even where a further one needs no packets.
  MULTI_FACTOR_AUTHENTICATION,
);

/**
 * Signs in. Throws a `ProtocolError`: `ServerRefused` for the server's own errors (`authentication_failed` where it is
 * the account), `tls_required` and `tls_failed`, `authentication_unsupported`, and those of the channel.
 */
export async function login(
  server: ServerLeg,
  wish: Wish,
  credentials: Credentials,
  settings: MysqlSettings,
  random: (length: number) => Buffer,
): Promise<SignedIn> {
  const { leg, greeting } = server;
  if (leg.channel.buffered > 0) throw await spokenOutOfTurn(leg);
  const tls = startsTls(server);
  let flags = bits(
    commonFlags(wish, greeting),
    PROTOCOL_41,
    SECURE_CONNECTION,
    (greeting.capabilities & LOGIN_FLAGS) >>> 0,
  );
  flags = tls ? bits(flags, SSL) : without(flags, SSL);
  const opensDatabase = wish.database.length > 0 && has(greeting.capabilities, CONNECT_WITH_DB);
  flags = opensDatabase ? bits(flags, CONNECT_WITH_DB) : without(flags, CONNECT_WITH_DB);
  const fixed = { ...wish, flags };
  if (tls) {
    leg.write(sslRequestPayload(fixed));
    // From here on there is no way back to an answer in clear.
    server.answered = true;
    await leg.channel.connectTls({});
  }
  const means = meansOf(leg, credentials, settings, random);
  const answer = firstAnswer(greeting, means);
  const response = responsePayload({
    ...fixed,
    user: credentials.username,
    reply: answer === null ? EMPTY : answer.first(greeting.scramble),
    plugin: answer?.name ?? greeting.plugin ?? NATIVE,
  });
  leg.write(response);
  server.answered = true;
  const signedIn = await converse(leg, answer, means, has(flags, MULTI_FACTOR_AUTHENTICATION));
  if (wish.database.length > 0 && !opensDatabase) await openDatabase(leg, wish.database);
  return signedIn;
}

/** A server that does not wait for our answer has something to complain of. */
async function spokenOutOfTurn(leg: Leg): Promise<ProtocolError> {
  const payload = await leg.read('packet behind the greeting');
  if (payload[0] === ERR) return serverRefused(payload, 'the server did not wait for the sign-in');
  return new ProtocolError('unexpected_message', 'server', 'the server goes on before it has been answered');
}

/** What is asked for and the server has. The first flag is a client's own word, whatever the server offers. */
export function commonFlags(wish: Wish, greeting: Greeting): number {
  return (wish.capabilities & (greeting.capabilities | LONG_PASSWORD)) >>> 0;
}

/**
 * Whether TLS comes next, by the resource's mode and what the server offers. Not through a Unix socket: no network lies
 * between, and no certificate could name it.
 */
function startsTls(server: ServerLeg): boolean {
  const mode = server.channel.tlsMode;
  if (mode === 'disable' || server.leg.confidential) return false;
  if (has(server.greeting.capabilities, SSL)) return true;
  if (mode === 'prefer') {
    server.tlsFallback = true;
    return false;
  }
  throw new ProtocolError('tls_required', 'server', `the server offers no TLS, and tls.mode is ${mode}`);
}

function meansOf(
  leg: Leg,
  credentials: Credentials,
  settings: MysqlSettings,
  random: (length: number) => Buffer,
): Means {
  const socket = leg.channel.tls === null && leg.confidential;
  return {
    password: credentials.password?.expose() ?? EMPTY,
    token: credentials.kind === 'token',
    confidential: leg.confidential,
    verified: socket || (leg.channel.tls?.verified ?? false),
    publicKey: settings.serverPublicKey,
    fetchPublicKey: settings.fetchServerPublicKey,
    random,
  };
}

/**
 * What to answer the greeting with: its own plugin where that sends a digest, else a digest that makes the server switch.
 * Null for a token, which waits for the switch to its own plugin.
 */
function firstAnswer(greeting: Greeting, means: Means): Answer | null {
  if (means.token) return null;
  const known = greeting.plugin === NATIVE || greeting.plugin === CACHING_SHA2;
  return answerTo(known ? greeting.plugin : NATIVE, means);
}

const REFUSED = 'the server refused the sign-in';
/** An account with REQUIRE SSL is denied like any other, and the server does not say why. */
const REFUSED_IN_CLEAR = `${REFUSED} over a connection in clear, where the account may require TLS`;

/** Answers until the server is content. A server may switch plugins, and ask for a second and third factor. */
async function converse(leg: Leg, first: Answer | null, means: Means, factors: boolean): Promise<SignedIn> {
  let answer = first;
  let switches = 0;
  for (let packets = 0; packets < AUTH_PACKETS_MAX; packets += 1) {
    const payload = await leg.read('reply to the sign-in');
    const kind = payload[0];
    if (kind === undefined)
      throw new ProtocolError('malformed', 'server', 'an empty packet during the sign-in');
    if (kind === OK) return { ok: payload, authentication: answer?.name ?? 'none' };
    if (kind === ERR) throw serverRefused(payload, leg.confidential ? REFUSED : REFUSED_IN_CLEAR);
    if (kind === SWITCH || (kind === NEXT_FACTOR && factors)) {
      switches += 1;
      if (switches > AUTH_SWITCHES_MAX)
        throw tooMany('switches of the authentication method', AUTH_SWITCHES_MAX);
      const asked = switchOf(payload);
      answer = answerTo(asked.plugin, means);
      reply(leg, answer.first(asked.data));
      continue;
    }
    if (answer === null)
      throw new ProtocolError('unexpected_message', 'server', 'plugin data before any plugin');
    const further = await answer.more(kind === MORE_DATA ? payload.subarray(1) : payload);
    if (further !== null) reply(leg, further);
  }
  throw tooMany('packets of authentication', AUTH_PACKETS_MAX);
}

function reply(leg: Leg, bytes: Buffer): void {
  leg.write(bytes);
  bytes.fill(0);
}

/** AuthSwitchRequest and AuthNextFactor: plugin name and its data. A bare 0xFE asks for the password of before 4.1. */
function switchOf(payload: Buffer): { plugin: string; data: Buffer } {
  if (payload.length === 1) return { plugin: 'mysql_old_password', data: EMPTY };
  const nul = payload.indexOf(0, 1);
  const end = nul < 0 ? payload.length : nul;
  return {
    plugin: payload.toString('latin1', 1, end),
    data: payload.subarray(Math.min(end + 1, payload.length)),
  };
}

async function openDatabase(leg: Leg, database: Buffer): Promise<void> {
  leg.command(Buffer.concat([Buffer.of(COM_INIT_DB), database]));
  const payload = await leg.read('reply to COM_INIT_DB');
  if (payload[0] === ERR) throw serverRefused(payload, 'the database cannot be opened');
}

/**
 * Leaves a server that was greeted and has had no answer. It would count us as a failed handshake, and after a hundred
 * of those (max_connect_errors) refuse this host altogether: so it gets a complete answer, of nobody, and says no to it.
 * Never rejects.
 */
export async function leave(server: ServerLeg): Promise<void> {
  const { leg, greeting } = server;
  if (server.answered) return;
  server.answered = true;
  const fields = {
    flags: FAREWELL_FLAGS,
    extended: 0,
    packetBytesMax: 0,
    collation: greeting.collation,
    user: '',
    reply: EMPTY,
    database: EMPTY,
    plugin: greeting.plugin ?? NATIVE,
    attributes: EMPTY,
  };
  try {
    leg.write(responsePayload(fields));
    for (let packets = 0; packets < 3; packets += 1) {
      const kind = (await leg.read('reply to nobody'))[0];
      if (kind === ERR) return;
      if (kind === OK) {
        leg.command(Buffer.of(COM_QUIT));
        return;
      }
      leg.write(EMPTY);
    }
  } catch {
    // The deadline has passed or the server is gone: what was written is read by it or by nobody.
    await leg.channel.drained(LEAVE_MS_MAX);
  }
}

function tooMany(what: string, most: number): ProtocolError {
  return new ProtocolError('unexpected_message', 'server', `the server asks for more than ${most} ${what}`);
}

const EMPTY = Buffer.alloc(0);
