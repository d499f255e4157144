import { createHash, createHmac, pbkdf2 } from 'node:crypto';
import { promisify } from 'node:util';
import { DERIVATIONS_MAX, DERIVED_KEYS_MAX } from './limits.ts';
import { preparePassword } from './saslprep.ts';

const pbkdf2Async = promisify(pbkdf2);

/** What SCRAM-SHA-256 needs of a password (RFC 5802, section 3), 32 bytes each. As good as the password to this server. */
export interface ScramKeys {
  readonly clientKey: Buffer;
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
}

export function hmac(key: Buffer, data: Buffer | string): Buffer {
  return createHmac('sha256', key).update(data).digest();
}

export function sha256(data: Buffer): Buffer {
  return createHash('sha256').update(data).digest();
}

/** The keys from SaltedPassword (32 bytes). */
export function keysFrom(saltedPassword: Buffer): ScramKeys {
  const clientKey = hmac(saltedPassword, 'Client Key');
  return { clientKey, storedKey: sha256(clientKey), serverKey: hmac(saltedPassword, 'Server Key') };
}

/** Derives the keys of a password (bytes as configured; SASLprep is done here). PBKDF2 runs off the event loop. */
export async function deriveKeys(password: Buffer, salt: Buffer, iterations: number): Promise<ScramKeys> {
  const prepared = preparePassword(password);
  try {
    const saltedPassword = await pbkdf2Async(prepared, salt, iterations, 32, 'sha256');
    const keys = keysFrom(saltedPassword);
    saltedPassword.fill(0);
    return keys;
  } finally {
    if (prepared !== password) prepared.fill(0);
  }
}

/**
 * Keeps derived keys, so that PBKDF2 is paid once for an account and not at each sign-in. Sign-ins at the same moment
 * wait for one derivation.
 *
 * An entry is found by an HMAC over password, salt and count under a key that only this object has, so that the index
 * gives nobody a cheap way to guess a password. Nothing goes in for a password that the server did not take: the caller
 * `forget`s it.
 */
export class DerivedKeys {
  readonly #entries = new Map<string, Promise<ScramKeys>>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;
  #indexKey: Buffer | null = null;

  /** `random` gives the index its key, at the first call. Rejects only if PBKDF2 does (it was given impossible arguments). */
  async derive(
    password: Buffer,
    salt: Buffer,
    iterations: number,
    random: (length: number) => Buffer,
  ): Promise<ScramKeys> {
    const name = this.#name(password, salt, iterations, random);
    const known = this.#entries.get(name);
    if (known !== undefined) {
      // Put behind the others: the first in a Map's order is the one not used for longest.
      this.#entries.delete(name);
      this.#entries.set(name, known);
      return known;
    }
    const derived = this.#derive(password, salt, iterations);
    this.#entries.set(name, derived);
    derived.catch(() => this.#entries.delete(name));
    if (this.#entries.size > DERIVED_KEYS_MAX) this.#drop(this.#entries.keys().next().value as string);
    return derived;
  }

  /** Drops the keys of a password that did not work. */
  forget(password: Buffer, salt: Buffer, iterations: number): void {
    if (this.#indexKey === null) return;
    this.#drop(this.#name(password, salt, iterations, () => Buffer.alloc(0)));
  }

  get size(): number {
    return this.#entries.size;
  }

  async #derive(password: Buffer, salt: Buffer, iterations: number): Promise<ScramKeys> {
    // A copy: the caller may wipe its own while this waits for its turn.
    const copy = Buffer.from(password);
    if (this.#running >= DERIVATIONS_MAX) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#running += 1;
    try {
      return await deriveKeys(copy, salt, iterations);
    } finally {
      copy.fill(0);
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running -= 1;
    }
  }

  #drop(name: string): void {
    // Not wiped: a sign-in may be using them.
    this.#entries.delete(name);
  }

  #name(password: Buffer, salt: Buffer, iterations: number, random: (length: number) => Buffer): string {
    this.#indexKey ??= random(32);
    return createHmac('sha256', this.#indexKey)
      .update(`${iterations}:${salt.length}:`)
      .update(salt)
      .update(password)
      .digest('base64');
  }
}
