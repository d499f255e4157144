import { ProtocolError } from '../../error.ts';
import { ED25519, ED25519_NONCE_BYTES, ed25519Reply } from './ed25519.ts';
import { NATIVE, nativeReply } from './native.ts';
import { PARSEC, PARSEC_NONCE_BYTES, parsecReply } from './parsec.ts';
import { SCRAMBLE_BYTES, scrambleOf } from './scramble.ts';
import {
  CACHING_SHA2,
  CACHING_SHA2_REQUEST_KEY,
  FAST_AUTH_SUCCESS,
  FULL_AUTH_NEEDED,
  rsaKey,
  rsaReply,
  SHA256,
  SHA256_REQUEST_KEY,
  sha2Reply,
  terminated,
} from './sha2.ts';

export const CLEAR = 'mysql_clear_password';
export const DIALOG = 'dialog';
const OLD = 'mysql_old_password';

/** What a password may be answered with, and how far it may go. */
export interface Means {
  /** Empty for an account without password. */
  readonly password: Buffer;
  /** It is an access token: only for `mysql_clear_password`, only to a server that has proved who it is. */
  readonly token: boolean;
  /** Nobody can read along: TLS, or a Unix socket. */
  readonly confidential: boolean;
  /** The server's certificate was verified, or it is a Unix socket. */
  readonly verified: boolean;
  /** The server's RSA key in PEM, where it is configured. */
  readonly publicKey: string | null;
  /** Without one, ask the server for it. */
  readonly fetchPublicKey: boolean;
  random(length: number): Buffer;
}

/** One plugin's side of a conversation with a server. Every returned buffer is the caller's to wipe. */
export interface Answer {
  /** How it went, for the record: the plugin, and its way where it has several. */
  readonly name: string;
  /** The reply to the data that came with the greeting or an AuthSwitchRequest. */
  first(data: Buffer): Buffer;
  /** The reply to further data of the plugin (its 0x01 taken off), or null for none. */
  more(data: Buffer): Promise<Buffer | null>;
}

/**
 * The answering side of `plugin`. Throws a `ProtocolError` `authentication_unsupported` for a plugin that is not known,
 * or that may not be answered with what is at hand; a password never leaves in clear on an unencrypted connection.
 */
export function answerTo(plugin: string, means: Means): Answer {
  if (means.token && plugin !== CLEAR) {
    throw unsupported(`the server asks for ${shown(plugin)}, and the launch credential is an access token`);
  }
  switch (plugin) {
    case NATIVE:
      return single(NATIVE, (data) => nativeReply(means.password, scrambled(data, NATIVE)));
    case CACHING_SHA2:
      return new CachingSha2(means);
    case SHA256:
      return new Sha256(means);
    case ED25519:
      return single(ED25519, (data) => {
        if (data.length < ED25519_NONCE_BYTES) throw shortNonce(ED25519, data);
        return ed25519Reply(means.password, data.subarray(0, ED25519_NONCE_BYTES));
      });
    case PARSEC:
      return new Parsec(means);
    case CLEAR:
      requireConfidential(CLEAR, means);
      if (means.token && !means.verified) {
        throw unsupported(
          'an access token goes only to a server whose certificate was verified: set tls.mode to verify-ca or verify-full',
        );
      }
      return single(CLEAR, () => terminated(means.password));
    case DIALOG:
      requireConfidential(DIALOG, means);
      return single(DIALOG, () => terminated(means.password));
    case OLD:
      throw unsupported('the account has a password in the format of MySQL before 4.1: set it anew');
    default:
      throw unsupported(
        `the server asks for ${shown(plugin)}, which cannot be answered with a stored secret`,
      );
  }
}

function single(name: string, first: (data: Buffer) => Buffer): Answer {
  return {
    name,
    first,
    more: async () => {
      throw new ProtocolError(
        'unexpected_message',
        'server',
        `the server goes on with ${name} after its reply`,
      );
    },
  };
}

/**
 * caching_sha2_password: a digest, and where the server does not have the password in its cache (its first use since a
 * restart or a change) the password itself, inside TLS or encrypted for the server's key.
 */
class CachingSha2 implements Answer {
  name = CACHING_SHA2;
  #expects: 'result' | 'key' | 'nothing' = 'result';
  #scramble: Buffer = Buffer.alloc(0);
  readonly #means: Means;

  constructor(means: Means) {
    this.#means = means;
  }

  first(data: Buffer): Buffer {
    this.#scramble = Buffer.from(scrambled(data, CACHING_SHA2));
    return sha2Reply(this.#means.password, this.#scramble);
  }

  async more(data: Buffer): Promise<Buffer | null> {
    const { password, confidential, publicKey, fetchPublicKey } = this.#means;
    if (this.#expects === 'key') {
      this.#expects = 'nothing';
      return rsaReply(password, this.#scramble, rsaKey(data, 'server'));
    }
    if (this.#expects === 'nothing' || data.length !== 1) throw outOfOrder(CACHING_SHA2);
    if (data[0] === FAST_AUTH_SUCCESS) {
      this.#expects = 'nothing';
      return null;
    }
    if (data[0] !== FULL_AUTH_NEEDED) throw outOfOrder(CACHING_SHA2);
    this.name = confidential ? `${CACHING_SHA2} (full)` : `${CACHING_SHA2} (full, RSA)`;
    this.#expects = 'nothing';
    if (confidential) return terminated(password);
    if (publicKey !== null) return rsaReply(password, this.#scramble, rsaKey(publicKey, 'ours'));
    if (!fetchPublicKey) throw needsKey(CACHING_SHA2);
    this.#expects = 'key';
    return Buffer.of(CACHING_SHA2_REQUEST_KEY);
  }
}

/** sha256_password: the same without a cache, and with another byte to ask for the key. */
class Sha256 implements Answer {
  name = SHA256;
  #expectsKey = false;
  #scramble: Buffer = Buffer.alloc(0);
  readonly #means: Means;

  constructor(means: Means) {
    this.#means = means;
  }

  first(data: Buffer): Buffer {
    const { password, confidential, publicKey, fetchPublicKey } = this.#means;
    if (password.length === 0) return Buffer.of(0);
    if (confidential) return terminated(password);
    this.#scramble = Buffer.from(scrambled(data, SHA256));
    this.name = `${SHA256} (RSA)`;
    if (publicKey !== null) return rsaReply(password, this.#scramble, rsaKey(publicKey, 'ours'));
    if (!fetchPublicKey) throw needsKey(SHA256);
    this.#expectsKey = true;
    return Buffer.of(SHA256_REQUEST_KEY);
  }

  async more(data: Buffer): Promise<Buffer> {
    if (!this.#expectsKey) throw outOfOrder(SHA256);
    this.#expectsKey = false;
    return rsaReply(this.#means.password, this.#scramble, rsaKey(data, 'server'));
  }
}

/** parsec: an empty reply asks for the salt, the second reply is the signature. */
class Parsec implements Answer {
  readonly name = PARSEC;
  #nonce: Buffer | null = null;
  readonly #means: Means;

  constructor(means: Means) {
    this.#means = means;
  }

  first(data: Buffer): Buffer {
    if (data.length < PARSEC_NONCE_BYTES) throw shortNonce(PARSEC, data);
    this.#nonce = Buffer.from(data.subarray(0, PARSEC_NONCE_BYTES));
    return Buffer.alloc(0);
  }

  async more(data: Buffer): Promise<Buffer> {
    const nonce = this.#nonce;
    if (nonce === null) throw outOfOrder(PARSEC);
    this.#nonce = null;
    return parsecReply(this.#means.password, nonce, data, this.#means.random(PARSEC_NONCE_BYTES));
  }
}

function scrambled(data: Buffer, plugin: string): Buffer {
  const scramble = scrambleOf(data);
  if (scramble.length < SCRAMBLE_BYTES) throw shortNonce(plugin, data);
  return scramble;
}

function requireConfidential(plugin: string, means: Means): void {
  if (means.confidential) return;
  throw unsupported(
    `the server asks for ${plugin}, which sends the password in clear: turn TLS toward the database on (tls.mode)`,
  );
}

function needsKey(plugin: string): ProtocolError {
  return unsupported(
    `${plugin} sends the password itself now, and this connection is in clear: turn TLS toward the database on (tls.mode), or set server_public_key`,
  );
}

function shortNonce(plugin: string, data: Buffer): ProtocolError {
  return new ProtocolError(
    'malformed',
    'server',
    `${plugin}: the server's random data has only ${data.length} bytes`,
  );
}

function outOfOrder(plugin: string): ProtocolError {
  return new ProtocolError(
    'unexpected_message',
    'server',
    `${plugin}: the server goes on in a way that it has not`,
  );
}

function unsupported(message: string): ProtocolError {
  return new ProtocolError('authentication_unsupported', 'server', message);
}

function shown(plugin: string): string {
  return plugin.replaceAll(/[^\x21-\x7e]/g, '?').slice(0, 64) || 'a plugin without a name';
}
