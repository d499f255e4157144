import { createHash, timingSafeEqual } from 'node:crypto';
import { xor } from './scramble.ts';

/** `mysql_native_password`: SHA-1, twice. Protocol, "Native Authentication". */
export const NATIVE = 'mysql_native_password';

export const NATIVE_REPLY_BYTES = 20;

/** SHA1(password) XOR SHA1(scramble || SHA1(SHA1(password))); nothing for an empty password. */
export function nativeReply(password: Buffer, scramble: Buffer): Buffer {
  if (password.length === 0) return Buffer.alloc(0);
  const once = sha1(password);
  const reply = xor(once, sha1(scramble, sha1(once)));
  once.fill(0);
  return reply;
}

/** Whether `reply` was made with the password whose SHA1(SHA1()) is `hash`. */
export function nativeMatches(hash: Buffer, scramble: Buffer, reply: Buffer): boolean {
  if (reply.length !== NATIVE_REPLY_BYTES) return false;
  return timingSafeEqual(sha1(xor(reply, sha1(scramble, hash))), hash);
}

function sha1(...parts: readonly Buffer[]): Buffer {
  const hash = createHash('sha1');
  for (const part of parts) hash.update(part);
  return hash.digest();
}
