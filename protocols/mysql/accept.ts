import { createHash } from 'node:crypto';
import type { Challenge, Claim, Proof, TokenVerifier } from '../engine.ts';
import { ProtocolError, Refusal } from '../error.ts';
import { Secret } from '../secret.ts';
import { CLEAR } from './auth/answer.ts';
import { NATIVE, NATIVE_REPLY_BYTES, nativeMatches } from './auth/native.ts';
import {
  CACHING_SHA2,
  FAST_AUTH_SUCCESS,
  FULL_AUTH_NEEDED,
  SHA2_REPLY_BYTES,
  SHA256,
  sha2Matches,
} from './auth/sha2.ts';
import {
  bits,
  CAPABILITY_EXTENSION,
  COMPRESS,
  CONNECT_ATTRS,
  has,
  LOCAL_FILES,
  MARIADB_EXTENDED_KNOWN,
  MULTI_FACTOR_AUTHENTICATION,
  PLUGIN_AUTH,
  PLUGIN_AUTH_LENENC_CLIENT_DATA,
  PROTOCOL_41,
  REMEMBER_OPTIONS,
  SECURE_CONNECTION,
  SESSION_TRACK,
  SSL,
  SSL_VERIFY_SERVER_CERT,
  STATUS_SESSION_STATE_CHANGED,
  without,
  ZSTD_COMPRESSION_ALGORITHM,
} from './capabilities.ts';
import { flavorOf, type Greeting, greetingPayload } from './greeting.ts';
import type { Leg } from './leg.ts';
import { Fields, lenencInteger } from './packets.ts';
import { attributesOf, parseResponse, type Response, readRequest } from './response.ts';

/**
 * The client's side of a sign-in: a greeting made after the server's own, TLS where the client asks for it, the
 * client's answer, the proof of who it is, and the last OK.
 */

/** Never offered to a client: compression (stripped on both legs) and what concerns the sign-in of one leg alone. */
const NOT_OFFERED = bits(
  COMPRESS,
  ZSTD_COMPRESSION_ALGORITHM,
  MULTI_FACTOR_AUTHENTICATION,
  CAPABILITY_EXTENSION,
  SSL_VERIFY_SERVER_CERT,
  REMEMBER_OPTIONS,
  SSL,
);

/** Always offered: they concern how the client signs in, and that is with us. */
const OFFERED = bits(
  PROTOCOL_41,
  SECURE_CONNECTION,
  PLUGIN_AUTH,
  CONNECT_ATTRS,
  PLUGIN_AUTH_LENENC_CLIENT_DATA,
);

/**
 * The greeting for the client: the server's own version, connection id, collation and status; what both legs can do;
 * a scramble of ours, and the plugin that clients of its family know best.
 */
export function clientGreeting(
  server: Greeting,
  options: { scramble: Buffer; tls: boolean; localInfile: boolean },
): Greeting {
  let capabilities = bits(without(server.capabilities, NOT_OFFERED), OFFERED);
  if (options.tls) capabilities = bits(capabilities, SSL);
  if (!options.localInfile) capabilities = without(capabilities, LOCAL_FILES);
  return {
    ...server,
    scramble: options.scramble,
    capabilities,
    extended: (server.extended & MARIADB_EXTENDED_KNOWN) >>> 0,
    plugin: clientPlugin(server),
  };
}

/** MariaDB's clients can check our certificate by the OK packet, but with the native plugin only (2.10 of their protocol). */
function clientPlugin(server: Greeting): string {
  const { plugin } = server;
  if (plugin === null || plugin === NATIVE || flavorOf(server.serverVersion) === 'mariadb') return NATIVE;
  return CACHING_SHA2;
}

/**
 * Greets the client and reads its answer, TLS between them where the client wants it. Null where the client goes without
 * a word (a health check). Throws a `Refusal` (`tls_required`) or a `ProtocolError` with the client's fault.
 */
export async function greet(leg: Leg, greeting: Greeting): Promise<Response | null> {
  leg.write(greetingPayload(greeting));
  if ((await leg.channel.first()) === null) return null;
  let payload = await leg.read('answer to the greeting');
  if (readRequest(payload).ssl) {
    if (!has(greeting.capabilities, SSL)) {
      throw new ProtocolError('unexpected_message', 'client', 'the client starts TLS, which was not offered');
    }
    await leg.channel.acceptTls({});
    payload = await leg.read('answer to the greeting, within TLS');
  } else if (has(readRequest(payload).flags, SSL) && leg.channel.tls === null) {
    throw new ProtocolError(
      'malformed',
      'client',
      'the client asks for TLS and signs in in clear, in one packet',
    );
  }
  if (leg.channel.tls === null && leg.channel.tlsMode === 'require') {
    throw new Refusal('tls_required', 'Connections using insecure transport are prohibited here', {
      hint: 'Turn TLS on in the client.',
    });
  }
  readRequest(payload);
  return parseResponse(payload, greeting.capabilities, greeting.extended);
}

/** What a client says of itself. */
export function claimOf(response: Response): Claim {
  const attributes = attributesOf(response.attributes);
  const driver = attributes['_client_name'];
  const version = attributes['_client_version'];
  const named = driver === undefined ? null : version === undefined ? driver : `${driver} ${version}`;
  return {
    user: response.user,
    database: response.database.length === 0 ? null : response.database.toString('utf8'),
    program: attributes['program_name'] ?? named,
    replication: false,
    attributes,
  };
}

/** What a client proved, and how the packet that lets it in must look. */
export interface Proved {
  readonly proof: Proof;
  /** `caching_sha2_password` clients wait for "fast authentication succeeded" before the OK. */
  readonly fastSuccess: boolean;
  /**
   * What a MariaDB client checks our certificate by: SHA1(SHA1(token)) and the scramble that its reply was made with.
   * Null where it cannot: no TLS, another plugin, no secret in common.
   */
  readonly sealedBy: { readonly hash: Buffer; readonly scramble: Buffer } | null;
}

const TRUSTED: Proof = { method: 'trust' };

/**
 * Has the client prove itself. `scramble` makes a fresh one for an AuthSwitchRequest; at most one is sent. Throws a
 * `Refusal` (`tls_required`) where a bearer token would cross an open connection.
 */
export async function prove(
  leg: Leg,
  response: Response,
  greeting: Greeting,
  challenge: Challenge,
  scramble: () => Buffer,
): Promise<Proved> {
  const plugin = response.plugin ?? NATIVE;
  const { reply } = response;
  if (challenge.method === 'trust') {
    return {
      proof: TRUSTED,
      fastSuccess: plugin === CACHING_SHA2 && reply.length === SHA2_REPLY_BYTES,
      sealedBy: null,
    };
  }
  if (challenge.method === 'bearer') return bearer(leg, response, plugin, scramble);
  const { verifier } = challenge;
  const first: Reply = { plugin, reply, scramble: greeting.scramble };
  const judged = judge(first, verifier, leg.confidential);
  if (judged !== 'unusable') return proved(first, judged, verifier);
  // An empty reply under the plugin of the greeting is an empty password; under another one it means nothing yet.
  if (response.plugin === null || (plugin === greeting.plugin && isEmpty(reply)))
    return proved(first, false, verifier);
  const second = await switched(leg, plugin === CACHING_SHA2 ? CACHING_SHA2 : NATIVE, scramble());
  return proved(second, judge(second, verifier, leg.confidential) === true, verifier);
}

interface Reply {
  readonly plugin: string;
  readonly reply: Buffer;
  readonly scramble: Buffer;
}

/** Whether the reply proves the token; `unusable` where it says nothing about it. */
function judge(shown: Reply, verifier: TokenVerifier, confidential: boolean): boolean | 'unusable' {
  const { plugin, reply, scramble } = shown;
  if (isEmpty(reply)) return 'unusable';
  if (plugin === NATIVE && reply.length === NATIVE_REPLY_BYTES)
    return nativeMatches(verifier.nativeHash, scramble, reply);
  if (plugin === CACHING_SHA2 && reply.length === SHA2_REPLY_BYTES)
    return sha2Matches(verifier.sha2Hash, scramble, reply);
  if ((plugin === CLEAR || plugin === SHA256) && confidential) return verifier.matches(unterminated(reply));
  return 'unusable';
}

function proved(shown: Reply, valid: boolean, verifier: TokenVerifier): Proved {
  const native = valid && shown.plugin === NATIVE;
  return {
    proof: { method: 'token', valid },
    fastSuccess: valid && shown.plugin === CACHING_SHA2,
    sealedBy: native ? { hash: verifier.nativeHash, scramble: shown.scramble } : null,
  };
}

async function switched(leg: Leg, plugin: string, scramble: Buffer): Promise<Reply> {
  leg.write(switchRequest(plugin, scramble));
  return { plugin, scramble, reply: await leg.read('reply to the authentication switch') };
}

/** AuthSwitchRequest: 0xFE, plugin, scramble and a NUL. */
export function switchRequest(plugin: string, scramble: Buffer): Buffer {
  return Buffer.concat([Buffer.of(0xfe), Buffer.from(`${plugin}\0`, 'latin1'), scramble, Buffer.of(0)]);
}

/**
 * A token that only the gateway can judge comes in clear. All clients with caching_sha2_password send the password
 * itself when they are told that the server does not have it in its cache, without a setting of their own.
 */
async function bearer(leg: Leg, response: Response, plugin: string, scramble: () => Buffer): Promise<Proved> {
  if (!leg.confidential) {
    throw new Refusal('tls_required', 'a token is sent in clear, so that this connection must be encrypted', {
      hint: 'Turn TLS on in the client.',
    });
  }
  let text: Buffer;
  if (plugin === CLEAR || plugin === SHA256) text = response.reply;
  else {
    let { reply } = response;
    if (plugin !== CACHING_SHA2 || isEmpty(reply))
      reply = (await switched(leg, CACHING_SHA2, scramble())).reply;
    text = isEmpty(reply) ? reply : await fullAuthentication(leg);
  }
  const secret = Secret.fromBytes(Buffer.from(unterminated(text)));
  text.fill(0);
  return { proof: { method: 'bearer', text: secret }, fastSuccess: false, sealedBy: null };
}

async function fullAuthentication(leg: Leg): Promise<Buffer> {
  leg.write(Buffer.of(0x01, FULL_AUTH_NEEDED));
  return leg.read('token');
}

/** Libraries differ: an empty password is no byte at all, or one NUL. */
function isEmpty(reply: Buffer): boolean {
  return reply.length === 0 || (reply.length === 1 && reply[0] === 0);
}

function unterminated(reply: Buffer): Buffer {
  return reply.at(-1) === 0 ? reply.subarray(0, -1) : reply;
}

/** Tells the client that it is in: what its plugin waits for, and the server's OK made fit for it. */
export function welcome(leg: Leg, proved: Proved, serverOk: Buffer, capabilities: number): void {
  if (proved.fastSuccess) leg.write(Buffer.of(0x01, FAST_AUTH_SUCCESS));
  leg.write(okForClient(serverOk, has(capabilities, SESSION_TRACK), seal(leg, proved)));
}

/**
 * The text by which a MariaDB client takes a certificate that it does not know: 0x01 and, in upper-case hexadecimal,
 * SHA256(SHA1(SHA1(password)) || scramble || SHA256(certificate)). MariaDB 11.4, "Zero-configuration TLS".
 */
function seal(leg: Leg, { sealedBy }: Proved): Buffer | null {
  const certificate = leg.channel.tls?.localCertificate ?? null;
  if (sealedBy === null || certificate === null) return null;
  const digest = sha256(sealedBy.hash, sealedBy.scramble, sha256(certificate));
  return Buffer.from(`\x01${digest.toString('hex').toUpperCase()}`, 'latin1');
}

const CHANGE_SYSTEM_VARIABLES = 0;

/**
 * The server's last OK for the client. Taken out: a seal of the server's own certificate, and where the server would
 * like its clients to connect instead (`redirect_url`, `Location:`), past the gateway.
 */
export function okForClient(payload: Buffer, sessionTrack: boolean, sealed: Buffer | null): Buffer {
  const fields = new Fields(payload, 1);
  fields.lenenc();
  fields.lenenc();
  const countsEnd = fields.at;
  const status = fields.uint16();
  const warnings = fields.uint16();
  if (fields.short) return payload;
  let info: Buffer = fields.remaining > 0 ? (fields.lenencBytes() ?? EMPTY) : EMPTY;
  if (info[0] === 0x01 || /^location:\s*mysql:/i.test(info.toString('latin1'))) info = EMPTY;
  if (sealed !== null) info = sealed;
  const tracked = sessionTrack && (status & STATUS_SESSION_STATE_CHANGED) !== 0;
  const changes = tracked ? withoutRedirects(fields.lenencBytes() ?? EMPTY) : EMPTY;
  const flags = changes.length > 0 ? status : status & ~STATUS_SESSION_STATE_CHANGED;
  const head = Buffer.concat([payload.subarray(0, countsEnd), uint16(flags), uint16(warnings)]);
  if (info.length === 0 && changes.length === 0) return head;
  const parts = [head, lenencInteger(info.length), info];
  if (changes.length > 0) parts.push(lenencInteger(changes.length), changes);
  return Buffer.concat(parts);
}

/** Entries of session state without those that name `redirect_url`. */
function withoutRedirects(entries: Buffer): Buffer {
  const fields = new Fields(entries);
  const kept: Buffer[] = [];
  while (fields.remaining > 0) {
    const start = fields.at;
    const type = fields.uint8();
    const data = fields.lenencBytes();
    if (fields.short || data === null) break;
    if (type !== CHANGE_SYSTEM_VARIABLES) {
      kept.push(entries.subarray(start, fields.at));
      continue;
    }
    const variables = withoutRedirectVariable(data);
    if (variables.length > 0) kept.push(Buffer.of(type), lenencInteger(variables.length), variables);
  }
  return Buffer.concat(kept);
}

function withoutRedirectVariable(pairs: Buffer): Buffer {
  const fields = new Fields(pairs);
  const kept: Buffer[] = [];
  while (fields.remaining > 0) {
    const start = fields.at;
    const name = fields.lenencBytes();
    fields.lenencBytes();
    if (fields.short) break;
    if (name?.toString('latin1').toLowerCase() !== 'redirect_url')
      kept.push(pairs.subarray(start, fields.at));
  }
  return Buffer.concat(kept);
}

function uint16(value: number): Buffer {
  return Buffer.of(value & 0xff, (value >>> 8) & 0xff);
}

function sha256(...parts: readonly Buffer[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}

const EMPTY = Buffer.alloc(0);
