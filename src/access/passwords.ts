import { argon2, randomBytes, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';

const argon2Async = promisify(argon2);

/** OWASP's first choice for argon2id: 19 MiB, two passes, one lane. */
const MEMORY_KIB = 19_456;
const PASSES = 2;
const LANES = 1;
const SALT_BYTES = 16;
const TAG_BYTES = 32;

/** A password longer than this is refused before any work is done for it. Ours. */
export const PASSWORD_BYTES_MAX = 1024;
/** A stored hash that asks for more than this is not computed: 256 MiB, 10 passes. Ours. */
const MEMORY_KIB_MAX = 262_144;
const PASSES_MAX = 10;

/** The hash of a password in PHC form: `$argon2id$v=19$m=…,t=…,p=…$salt$hash`. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(SALT_BYTES);
  const tag = await derive(password, salt, MEMORY_KIB, PASSES, LANES, TAG_BYTES);
  return `$argon2id$v=19$m=${MEMORY_KIB},t=${PASSES},p=${LANES}$${unpadded(salt)}$${unpadded(tag)}`;
}

/** Whether `password` is the one that was hashed. False for a hash that cannot be read. Compares in constant time. */
export async function verifyPassword(password: string, hash: string): Promise<boolean> {
  const match = /^\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)$/.exec(hash);
  if (match === null || Buffer.byteLength(password) > PASSWORD_BYTES_MAX) return false;
  const [memory, passes, lanes] = [Number(match[1]), Number(match[2]), Number(match[3])];
  if (memory > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > 16) return false;
  const expected = Buffer.from(match[5]!, 'base64');
  try {
    const tag = await derive(
      password,
      Buffer.from(match[4]!, 'base64'),
      memory,
      passes,
      lanes,
      expected.length,
    );
    return timingSafeEqual(tag, expected);
  } catch {
    return false;
  }
}

/** A hash that no password has, to be checked for users who do not exist: it takes as long as a real one. */
export const NOBODY_HASH = `$argon2id$v=19$m=${MEMORY_KIB},t=${PASSES},p=${LANES}$${unpadded(Buffer.alloc(SALT_BYTES))}$${unpadded(Buffer.alloc(TAG_BYTES))}`;

function derive(
  password: string,
  salt: Buffer,
  memory: number,
  passes: number,
  lanes: number,
  tagLength: number,
): Promise<Buffer> {
  return argon2Async('argon2id', {
    message: Buffer.from(password, 'utf8'),
    nonce: salt,
    memory,
    passes,
    parallelism: lanes,
    tagLength,
  }) as Promise<Buffer>;
}

function unpadded(bytes: Buffer): string {
  return bytes.toString('base64').replaceAll('=', '');
}
