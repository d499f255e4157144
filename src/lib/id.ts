import { randomBytes } from 'node:crypto';

const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';

/**
 * A new identifier: 26 characters of Crockford base 32, the first ten the time in milliseconds, the rest 80 random
 * bits (the ULID form). Sorts by time, is safe in file names and double-clicks as one word.
 */
export function newId(now: number = Date.now()): string {
  let text = '';
  let time = now;
  for (let index = 0; index < 10; index += 1) {
    text = ALPHABET[time % 32]! + text;
    time = Math.floor(time / 32);
  }
  const random = randomBytes(16);
  for (const byte of random) text += ALPHABET[byte & 31]!;
  return text;
}
