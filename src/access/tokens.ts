import { createHash, createHmac, pbkdf2Sync, randomBytes, timingSafeEqual } from 'node:crypto';
import type { TokenVerifier } from '../../protocols/engine.ts';
import { keysFrom } from '../../protocols/scram/keys.ts';

/**
 * Launch tokens: what a person types as password into a tool. 130 random bits, so that the ways in which protocols store
 * and check passwords, made to slow down guessing of what people think up, need not be slow here.
 */

const ALPHABET = 'abcdefghjkmnpqrstvwxyz0123456789';
const TOKEN_CHARACTERS = 26;
const LAUNCH_CHARACTERS = 10;
const TOKEN_PREFIX = 'slp_';
/** PostgreSQL's own default; clients refuse fewer. */
const SCRAM_ITERATIONS = 4096;
const SALT_BYTES = 16;

/** A new token. Shown once; only its verifier is kept. */
export function newToken(): string {
  return TOKEN_PREFIX + randomText(TOKEN_CHARACTERS);
}

/** A new launch's id: short enough to type, as (part of) the user name. */
export function newLaunchId(): string {
  return `l${randomText(LAUNCH_CHARACTERS - 1)}`;
}

/**
 * The launch that a user name speaks of: the whole name, or what stands behind its last `+`, `/` or `@`, so that a person
 * may put their own name before it. Null when it has not the form of one.
 */
export function launchIdIn(user: string): string | null {
  const id = user
    .slice(Math.max(user.lastIndexOf('+'), user.lastIndexOf('/'), user.lastIndexOf('@')) + 1)
    .toLowerCase();
  return new RegExp(`^l[${ALPHABET}]{${LAUNCH_CHARACTERS - 1}}$`).test(id) ? id : null;
}

/**
 * What is kept of a token, as stored. Nothing of it signs in by itself: SHA-256 of the token alone is not among it, since
 * `caching_sha2_password` takes that for the token.
 */
export interface StoredVerifier {
  readonly salt: Buffer;
  readonly iterations: number;
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
  readonly nativeHash: Buffer;
  readonly sha2Hash: Buffer;
}

export function verifierOf(token: string): StoredVerifier {
  const bytes = Buffer.from(token, 'utf8');
  const salt = randomBytes(SALT_BYTES);
  const salted = pbkdf2Sync(bytes, salt, SCRAM_ITERATIONS, 32, 'sha256');
  const { storedKey, serverKey } = keysFrom(salted);
  return {
    salt,
    iterations: SCRAM_ITERATIONS,
    storedKey,
    serverKey,
    nativeHash: digest('sha1', digest('sha1', bytes)),
    sha2Hash: digest('sha256', digest('sha256', bytes)),
  };
}

/** As the engines want it. */
export function tokenVerifier(stored: StoredVerifier): TokenVerifier {
  const { salt, iterations, storedKey, serverKey, nativeHash, sha2Hash } = stored;
  return {
    scram: { salt, iterations, storedKey, serverKey },
    nativeHash,
    sha2Hash,
    matches: (token) => timingSafeEqual(digest('sha256', digest('sha256', token)), sha2Hash),
  };
}

/**
 * A verifier that nothing satisfies, the same for the same name each time: whoever asks for a user that does not exist
 * cannot tell it from one that does.
 */
export function impossibleVerifier(key: Buffer, user: string): TokenVerifier {
  const part = (name: string): Buffer => createHmac('sha256', key).update(`${name}\0${user}`).digest();
  return {
    scram: {
      salt: part('salt').subarray(0, SALT_BYTES),
      iterations: SCRAM_ITERATIONS,
      storedKey: part('stored key'),
      serverKey: part('server key'),
    },
    nativeHash: part('native').subarray(0, 20),
    sha2Hash: part('sha2'),
    matches: (token) => {
      timingSafeEqual(digest('sha256', digest('sha256', token)), part('token'));
      return false;
    },
  };
}

function digest(algorithm: 'sha1' | 'sha256', bytes: Buffer): Buffer {
  return createHash(algorithm).update(bytes).digest();
}

function randomText(length: number): string {
  let text = '';
  for (const byte of randomBytes(length)) text += ALPHABET[byte & 31]!;
  return text;
}
