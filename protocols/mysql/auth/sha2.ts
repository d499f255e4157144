import {
  constants,
  createHash,
  createPublicKey,
  type KeyObject,
  publicEncrypt,
  timingSafeEqual,
} from 'node:crypto';
import { ProtocolError } from '../../error.ts';
import { RSA_KEY_BITS_MAX } from '../limits.ts';
import { xor } from './scramble.ts';

/** `caching_sha2_password` and `sha256_password`. Protocol, "Caching_sha2_password information", "SHA256". */
export const CACHING_SHA2 = 'caching_sha2_password';
export const SHA256 = 'sha256_password';

export const SHA2_REPLY_BYTES = 32;

/** What stands behind the 0x01 of AuthMoreData in caching_sha2_password: the server knows the password, or does not. */
export const FAST_AUTH_SUCCESS = 0x03;
export const FULL_AUTH_NEEDED = 0x04;

/** How a client asks for the server's public key, in each of the two. */
export const CACHING_SHA2_REQUEST_KEY = 0x02;
export const SHA256_REQUEST_KEY = 0x01;

/** SHA256(password) XOR SHA256(SHA256(SHA256(password)) || scramble); nothing for an empty password. */
export function sha2Reply(password: Buffer, scramble: Buffer): Buffer {
  if (password.length === 0) return Buffer.alloc(0);
  const once = sha256(password);
  const reply = xor(once, sha256(sha256(once), scramble));
  once.fill(0);
  return reply;
}

/** Whether `reply` was made with the password whose SHA256(SHA256()) is `hash`. */
export function sha2Matches(hash: Buffer, scramble: Buffer, reply: Buffer): boolean {
  if (reply.length !== SHA2_REPLY_BYTES) return false;
  return timingSafeEqual(sha256(xor(reply, sha256(hash, scramble))), hash);
}

/** The password with the NUL that the servers expect behind it. The caller wipes it. */
export function terminated(password: Buffer): Buffer {
  const bytes = Buffer.alloc(password.length + 1);
  password.copy(bytes);
  return bytes;
}

/**
 * Encrypts a password for a server's RSA key: (password || NUL) XOR scramble, then OAEP with SHA-1. Throws a
 * `ProtocolError` with the server's fault for what is no usable key, and `unsupported` for a password longer than the
 * key can carry.
 */
export function rsaReply(password: Buffer, scramble: Buffer, key: KeyObject): Buffer {
  const clear = terminated(password);
  const mixed = xor(clear, scramble);
  clear.fill(0);
  const bits = key.asymmetricKeyDetails?.modulusLength ?? 0;
  // OAEP takes 2 bytes and two SHA-1 digests.
  if (mixed.length > bits / 8 - 42) {
    throw new ProtocolError(
      'unsupported',
      'ours',
      `the password is too long for the server's ${bits}-bit public key`,
    );
  }
  const encrypted = publicEncrypt(
    { key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha1' },
    mixed,
  );
  mixed.fill(0);
  return encrypted;
}

/** Reads an RSA public key in PEM. `fault` says where it came from: the server, or our own settings. */
export function rsaKey(pem: Buffer | string, fault: 'server' | 'ours'): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey({ key: pem, format: 'pem' });
  } catch (cause) {
    throw new ProtocolError('server_untrusted', fault, 'the public key for the password cannot be read', {
      cause,
    });
  }
  const bits = key.asymmetricKeyDetails?.modulusLength ?? 0;
  if (key.asymmetricKeyType !== 'rsa' || bits < 1024 || bits > RSA_KEY_BITS_MAX) {
    throw new ProtocolError(
      'server_untrusted',
      fault,
      'the public key for the password is no RSA key of a usable size',
    );
  }
  return key;
}

function sha256(...parts: readonly Buffer[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}
