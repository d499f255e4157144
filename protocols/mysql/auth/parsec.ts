import { createPrivateKey, pbkdf2, sign } from 'node:crypto';
import { promisify } from 'node:util';
import { ProtocolError } from '../../error.ts';
import { PARSEC_FACTOR_MAX } from '../limits.ts';

/**
 * MariaDB's `parsec` (11.6 and later): PBKDF2 makes an Ed25519 key of the password and a salt of the server's, which
 * signs both sides' random bytes. Source: MariaDB, "Authentication Plugin - PARSEC".
 */
export const PARSEC = 'parsec';

export const PARSEC_NONCE_BYTES = 32;
export const PARSEC_SALT_BYTES = 18;

const KDF = 0x50; // 'P': PBKDF2, the only one so far
const ROUNDS = 1024;
const SEED_BYTES = 32;
/** PrivateKeyInfo of an Ed25519 key (RFC 8410, section 7), up to the 32 bytes of the key itself. */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');

/**
 * The reply: our random bytes, and the signature over the server's and ours. `salt` is the server's second message:
 * 'P', factor, 18 bytes. Rejects with a `ProtocolError` for another key derivation or a factor out of range.
 */
export async function parsecReply(
  password: Buffer,
  nonce: Buffer,
  salt: Buffer,
  random: Buffer,
): Promise<Buffer> {
  const factor = salt[1] ?? 0;
  if (salt.length < 2 + PARSEC_SALT_BYTES || salt[0] !== KDF) {
    throw new ProtocolError(
      'authentication_unsupported',
      'server',
      'parsec: the server names an unknown key derivation',
    );
  }
  if (factor > PARSEC_FACTOR_MAX) {
    throw new ProtocolError(
      'authentication_unsupported',
      'server',
      `parsec: a work factor of ${factor} is not followed`,
    );
  }
  const seed = await promisify(pbkdf2)(
    password,
    salt.subarray(2, 2 + PARSEC_SALT_BYTES),
    ROUNDS << factor,
    SEED_BYTES,
    'sha512',
  );
  const encoded = Buffer.concat([PKCS8_PREFIX, seed]);
  const key = createPrivateKey({ key: encoded, format: 'der', type: 'pkcs8' });
  const signature = sign(null, Buffer.concat([nonce, random]), key);
  seed.fill(0);
  encoded.fill(0);
  return Buffer.concat([random, signature]);
}
