import { isAscii, isUtf8 } from 'node:buffer';
import saslprep from '@mongodb-js/saslprep';

/**
 * Normalizes a password as PostgreSQL does before it derives keys: SASLprep (RFC 4013), and the bytes as they are where
 * SASLprep rejects them or leaves nothing, because accounts with such passwords exist all the same
 * (`scram_build_secret`, `pg_saslprep` in the server's source).
 *
 * `password` is UTF-8 in principle and any bytes in practice. Returns it itself where nothing changes, else a new
 * buffer, which the caller wipes.
 */
export function preparePassword(password: Buffer): Buffer {
  if (isAscii(password) || !isUtf8(password)) return password;
  try {
    const prepared = saslprep(password.toString('utf8'));
    return prepared === '' ? password : Buffer.from(prepared, 'utf8');
  } catch {
    return password;
  }
}
