import { transcode } from 'node:buffer';
import type { Channel } from '../channel.ts';
import type { Challenge, Claim, Proof, TdsSettings } from '../engine.ts';
import { ProtocolError, Refusal } from '../error.ts';
import { Secret } from '../secret.ts';
import { Feature, type FedAuthRequest, parseFedAuth } from './features.ts';
import {
  HANDSHAKE_PACKET_BYTES_MAX,
  LOGIN7_BYTES_MAX,
  PACKET_BYTES_MIN,
  PRELOGIN_BYTES_MAX,
} from './limits.ts';
import { type Login7, loginVersion, parseLogin7, USER_TYPE_REPLICATION, unscramble } from './login7.ts';
import { buildMessage, LoginMessage, readMessage, readPacket, readRest } from './messages.ts';
import { buildPreloginAnswer, Encryption, type Prelogin, parsePrelogin } from './prelogin.ts';
import type { TdsVersion } from './session.ts';
import { PreloginTransport } from './transport.ts';

/** The client's half of the sign-in: what it speaks, its PRELOGIN and TLS, its LOGIN7, and who it says it is. */

/**
 * How a client's bytes travel: `clear`; `login`, only the first packet of LOGIN7 inside TLS; `full`, TLS inside
 * PRELOGIN; `strict`, TLS first (TDS 8.0).
 */
export type Protection = 'clear' | 'login' | 'full' | 'strict';

/** What the first byte says: TLS, PRELOGIN, LOGIN7 without PRELOGIN (jTDS without `ssl`), or nobody there. */
export type Greeting = 'tls' | 'prelogin' | 'login7' | null;

const TLS_HANDSHAKE = 0x16;

/** Looks at the first byte. Throws `unknown_message` for one that begins nothing we speak. */
export async function greet(client: Channel): Promise<Greeting> {
  const first = await client.first();
  switch (first) {
    case null:
      return null;
    case TLS_HANDSHAKE:
      return 'tls';
    case LoginMessage.prelogin:
      return 'prelogin';
    case LoginMessage.login7:
      return 'login7';
    default:
      throw new ProtocolError(
        'unknown_message',
        'client',
        `the first byte 0x${first.toString(16).padStart(2, '0')} begins neither TLS, PRELOGIN nor LOGIN7`,
      );
  }
}

/** TDS 8.0: TLS at once. Throws what the channel throws. */
export async function acceptStrict(client: Channel): Promise<void> {
  await client.acceptTls({ alpn: ['tds/8.0'] });
}

export async function readPrelogin(client: Channel): Promise<Prelogin> {
  const message = await readMessage(client, [LoginMessage.prelogin], PRELOGIN_BYTES_MAX, 'PRELOGIN');
  return parsePrelogin(message.payload, 'client');
}

/** The answer to a client's ENCRYPTION byte, what follows from it, and why it must be refused, if it must. */
export interface Negotiated {
  readonly answer: number;
  readonly protection: Protection;
  readonly refusal: Refusal | null;
}

/**
 * The table of MS-TDS 2.2.6.5, with the policy toward clients. Never ON to a client that said OFF (SqlClient goes on in
 * the clear), and never "not supported" to one that said ON where TLS can be had (tedious goes on in the clear).
 */
export function negotiate(
  client: Channel,
  asked: number,
  policy: TdsSettings['clientEncryption'],
): Negotiated {
  if (client.tls !== null) {
    return { answer: Encryption.notSupported, protection: 'strict', refusal: null };
  }
  const wants = asked !== Encryption.off && asked !== Encryption.notSupported;
  const required = policy === 'required' || client.tlsMode === 'require';
  if (client.tlsMode === 'disable') {
    const refusal = wants || required ? noCertificate(wants) : null;
    return { answer: Encryption.notSupported, protection: 'clear', refusal };
  }
  if (wants) return { answer: Encryption.on, protection: 'full', refusal: null };
  if (required) return { answer: Encryption.required, protection: 'full', refusal: null };
  if (policy === 'login' && asked === Encryption.off) {
    return { answer: Encryption.off, protection: 'login', refusal: null };
  }
  return { answer: Encryption.notSupported, protection: 'clear', refusal: null };
}

/** What a client that sends LOGIN7 without PRELOGIN gets: it cannot encrypt. */
export function negotiateNothing(client: Channel, policy: TdsSettings['clientEncryption']): Negotiated {
  const required = policy === 'required' || client.tlsMode === 'require';
  return { answer: Encryption.notSupported, protection: 'clear', refusal: required ? tlsRequired() : null };
}

/** What drivers choose their own version by, when the server's is not known. */
const FALLBACK_VERSION = Buffer.from([16, 0, 0x03, 0xe8, 0, 0]);

/**
 * Answers PRELOGIN as the server did and starts TLS where that was agreed. Returns how the client's LOGIN7 will come:
 * a client that was told to encrypt and sends LOGIN7 in the clear is to be refused when it has been read.
 */
export async function answerPrelogin(
  client: Channel,
  prelogin: Prelogin,
  server: Prelogin | null,
  mars: boolean,
  negotiated: Negotiated,
): Promise<{ protection: Protection; refusal: Refusal | null }> {
  const payload = buildPreloginAnswer({
    version: server?.version ?? FALLBACK_VERSION,
    encryption: negotiated.answer,
    mars,
    // 0 leaves the way of signing in to the client. An answer to a client that did not ask is an error to it.
    fedAuthRequired: prelogin.fedAuthRequired === null ? null : 0,
  });
  client.write(buildMessage(LoginMessage.tabularResult, payload, HANDSHAKE_PACKET_BYTES_MAX));
  const { protection } = negotiated;
  if (protection !== 'full' && protection !== 'login') return negotiated;
  const first = await client.peek(1, 'TLS inside PRELOGIN');
  if (first[0] === LoginMessage.login7) {
    const refusal = protection === 'full' ? tlsRequired() : null;
    return { protection: 'clear', refusal };
  }
  await client.acceptTls({
    maxVersion: 'TLSv1.2',
    noTickets: true,
    transport: (raw) => new PreloginTransport(raw, 'server', protection === 'login'),
  });
  return negotiated;
}

function tlsRequired(): Refusal {
  return new Refusal('tls_required', 'this listener takes encrypted connections only', {
    hint: 'Turn encryption on in your tool (Encrypt=yes, encrypt=true, ssl=require).',
  });
}

function noCertificate(wanted: boolean): Refusal {
  if (!wanted)
    return new Refusal(
      'tls_required',
      'this listener takes encrypted connections only and has no certificate',
    );
  return new Refusal('tls_required', 'your tool asks for encryption and this listener has no certificate', {
    hint: 'Turn encryption off in your tool (Encrypt=no, encrypt=false), or give the listener a certificate.',
  });
}

/** A LOGIN7 that was read, and what is known even when it was not read to its end. */
export interface LoginReader {
  /** From the first packet on: what the widths of an ERROR depend on. */
  version: TdsVersion | null;
  packetBytes: number;
}

export interface ReceivedLogin {
  readonly login: Login7;
  /** Holds the client's password, obfuscated: wiped when the sign-in is over. */
  readonly payload: Buffer;
  /** The password came inside TLS. */
  readonly passwordProtected: boolean;
}

/**
 * Reads LOGIN7, and leaves TLS behind its first packet where that was agreed. `known` is filled in as soon as the first
 * packet is there, so that a refusal can be told in the client's own widths.
 */
export async function readLogin(
  client: Channel,
  protection: Protection,
  known: LoginReader,
): Promise<ReceivedLogin> {
  const limit = LOGIN7_BYTES_MAX;
  const first = await readPacket(client, [LoginMessage.login7], limit, 'LOGIN7');
  known.version = loginVersion(first.payload) ?? '7.4';
  if (protection === 'login') await client.clearTls();
  if (first.payload.length >= 12) {
    known.packetBytes = answerPacketBytes(first.payload.readUInt32LE(8));
    const announced = first.payload.readUInt32LE(0);
    if (announced > limit) {
      throw new ProtocolError('length_out_of_range', 'client', `LOGIN7 announces ${announced} bytes`);
    }
  }
  const message = first.last ? first : await readRest(client, first, limit, 'LOGIN7');
  // The whole is a copy of its packets then, and the first of them has the password.
  if (!first.last) first.payload.fill(0);
  const login = parseLogin7(message.payload);
  const protectedBytes =
    protection === 'clear' ? 0 : protection === 'login' ? first.payload.length : message.payload.length;
  return { login, payload: message.payload, passwordProtected: login.passwordEnd <= protectedBytes };
}

/** Packets to a client before it has been told a size: no larger than what it asked for, nor than the default. */
function answerPacketBytes(asked: number): number {
  return asked < PACKET_BYTES_MIN ? HANDSHAKE_PACKET_BYTES_MAX : Math.min(asked, HANDSHAKE_PACKET_BYTES_MAX);
}

/** What a client says of itself, for the record and the rules. */
export function claimOf(login: Login7, protection: Protection): Claim {
  const attributes: Record<string, string> = { tds: login.version, encryption: protection };
  const add = (name: string, value: string): void => {
    if (value !== '') attributes[name] = value;
  };
  add('host', login.hostName.toString('utf16le'));
  add('driver', login.libraryName.toString('utf16le'));
  const agent = login.features?.find(({ id }) => id === Feature.userAgent);
  if (agent !== undefined) add('user_agent', agent.data.toString('utf16le').slice(0, 512));
  if (login.integrated) add('sign_in', 'integrated');
  if (login.readOnlyIntent) add('application_intent', 'read-only');
  if (login.attachFile.length > 0) add('attach_file', 'left out');
  return {
    user: login.userName.toString('utf16le'),
    database: login.database.length === 0 ? null : login.database.toString('utf16le'),
    program: login.programName.length === 0 ? null : login.programName.toString('utf16le'),
    replication: login.userType === USER_TYPE_REPLICATION,
    attributes,
  };
}

/** How the client wants to sign in with Entra, or null. */
export function fedAuthOf(login: Login7): FedAuthRequest | null {
  const feature = login.features?.find(({ id }) => id === Feature.fedAuth);
  return feature === undefined ? null : parseFedAuth(feature.data);
}

/** Refuses what no rule can allow. Throws a `Refusal`. */
export function checkLogin(login: Login7, fedAuth: FedAuthRequest | null): void {
  if (login.passwordChange) {
    throw new Refusal('option_not_allowed', 'a password cannot be changed through this gateway', {
      hint: 'Leave the new password out of the sign-in.',
    });
  }
  const recovery = login.features?.find(({ id }) => id === Feature.sessionRecovery);
  if (recovery !== undefined && recovery.data.length > 0) {
    throw new Refusal('option_not_allowed', 'a broken session cannot be resumed through this gateway', {
      hint: 'Connect anew.',
    });
  }
  if (fedAuth !== null && fedAuth.library !== 'token') throw entraNotTaken();
}

/**
 * What the client proves. Under `trust`, whatever it shows will do: a login with any password, a Windows account, a
 * token. Else its password (or access token) is the proof, which must have come inside TLS. Throws a `Refusal`.
 */
export function proofOf(
  challenge: Challenge,
  received: ReceivedLogin,
  fedAuth: FedAuthRequest | null,
): Proof {
  if (challenge.method === 'trust') return { method: 'trust' };
  const { login } = received;
  if (login.integrated) throw integratedNotTaken();
  const shown = fedAuth?.library === 'token' ? utf8(fedAuth.token) : passwordOf(login);
  try {
    if (shown.length > 0 && !received.passwordProtected) {
      throw new Refusal('tls_required', 'the password came over a connection that is not encrypted', {
        hint: 'Turn encryption on in your tool (Encrypt=yes, encrypt=true, ssl=require).',
      });
    }
    if (challenge.method === 'token') return { method: 'token', valid: challenge.verifier.matches(shown) };
    return { method: 'bearer', text: Secret.fromBytes(Buffer.from(shown)) };
  } finally {
    shown.fill(0);
  }
}

/** The client's password, UTF-8. */
function passwordOf(login: Login7): Buffer {
  const clear = unscramble(login.password);
  const password = utf8(clear);
  clear.fill(0);
  return password;
}

/** UTF-16LE as UTF-8. What is no text (half a surrogate pair) stays as it is: it is nobody's token. */
function utf8(text: Buffer): Buffer {
  if (text.length === 0) return Buffer.alloc(0);
  try {
    return transcode(text, 'utf16le', 'utf8') as Buffer;
  } catch {
    return Buffer.from(text);
  }
}

function integratedNotTaken(): Refusal {
  return new Refusal(
    'credentials_invalid',
    'this gateway does not take Windows (integrated) authentication',
    {
      hint: 'Choose "SQL Server Authentication" in your tool, with any login name, and your launch token as the password.',
    },
  );
}

function entraNotTaken(): Refusal {
  return new Refusal(
    'credentials_invalid',
    'this gateway does not take Microsoft Entra (Azure AD) authentication',
    {
      hint: 'Choose "SQL Server Authentication" in your tool, with any login name.',
    },
  );
}
