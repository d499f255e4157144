import { constants } from 'node:fs';
import { chmod, type FileHandle, mkdir, open, readFile, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Decrypter, Encrypter, generateX25519Identity, identityToRecipient } from 'age-encryption';
import { z } from 'zod';
import { newId } from '../lib/id.ts';

/** What the encrypted file holds. An entry is one text, or several named ones. */
export const secretFileSchema = z.strictObject({
  format: z.literal('sallyport-secrets'),
  version: z.literal(1),
  secrets: z.record(
    z.string(),
    z.strictObject({
      value: z.string().optional(),
      fields: z.record(z.string(), z.string()).optional(),
      updated_at: z.string(),
    }),
  ),
});
export type SecretFile = z.output<typeof secretFileSchema>;

/** What is wrong with a secret file or its identity, for the person at the command line. */
export class SecretFileError extends Error {
  constructor(message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.name = 'SecretFileError';
  }
}

/** Secret keys of an identity file in age's own form: one a line, `#` begins a comment. */
export function readIdentities(text: string, path: string): string[] {
  const keys = text.split(/\r?\n/).filter((line) => line.trim() !== '' && !line.startsWith('#'));
  if (keys.length === 0 || keys.some((key) => !/^AGE-SECRET-KEY-/.test(key)))
    throw new SecretFileError(`${path} is no age identity: each line must begin with AGE-SECRET-KEY-`);
  return keys.map((key) => key.trim());
}

/**
 * The encrypted file as the command line changes it. One change at a time: a lock file beside it keeps two commands
 * apart, and every write goes to a new file that takes the old one's place at once.
 */
export class SecretFileEditor {
  readonly #path: string;
  readonly #identity: string;

  constructor(path: string, identity: string) {
    this.#path = path;
    this.#identity = identity;
  }

  /** Stores a text under `name`, or under one field of it. Makes the file and the identity on first use. */
  async set(name: string, field: string | null, value: string, now: Date): Promise<void> {
    await this.#locked(async () => {
      await this.#makeIdentity(now);
      const file = (await this.#read()) ?? emptyFile();
      const fields = file.secrets[name]?.fields ?? {};
      file.secrets[name] =
        field === null
          ? { value, updated_at: now.toISOString() }
          : { fields: { ...fields, [field]: value }, updated_at: now.toISOString() };
      await this.#write(file);
    });
  }

  /** Names, their fields and when they were set: never a value. Empty when there is no file yet. */
  async list(): Promise<{ name: string; fields: string[]; updatedAt: string }[]> {
    const file = await this.#read();
    return Object.entries(file?.secrets ?? {})
      .map(([name, entry]) => ({
        name,
        fields: Object.keys(entry.fields ?? {}),
        updatedAt: entry.updated_at,
      }))
      .sort((left, right) => left.name.localeCompare(right.name));
  }

  /** Removes an entry, or one field of it. False when it was not there. */
  async remove(name: string, field: string | null): Promise<boolean> {
    return this.#locked(async () => {
      const file = await this.#read();
      const entry = file?.secrets[name];
      if (file === null || entry === undefined) return false;
      if (field === null) delete file.secrets[name];
      else {
        if (entry.fields?.[field] === undefined) return false;
        delete entry.fields[field];
        if (Object.keys(entry.fields).length === 0) delete file.secrets[name];
      }
      await this.#write(file);
      return true;
    });
  }

  /**
   * Encrypts the file to a new identity. In between, the identity file holds both keys, so that the file can be opened
   * whenever the process ends. Returns the new public key.
   */
  async rekey(now: Date): Promise<string> {
    return this.#locked(async () => {
      const file = await this.#read();
      if (file === null) throw new SecretFileError(`${this.#path} is not there: nothing to encrypt anew`);
      const former = readIdentities(await readFile(this.#identity, 'utf8'), this.#identity);
      const fresh = await generateX25519Identity();
      await replaceFile(this.#identity, await identityText(fresh, now, former));
      await this.#write(file);
      await replaceFile(this.#identity, await identityText(fresh, now, []));
      return identityToRecipient(fresh);
    });
  }

  async #makeIdentity(now: Date): Promise<void> {
    await mkdir(dirname(this.#identity), { recursive: true, mode: 0o700 });
    let handle: FileHandle;
    try {
      handle = await open(this.#identity, 'wx', 0o600);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') return;
      throw error;
    }
    try {
      await handle.writeFile(await identityText(await generateX25519Identity(), now, []));
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  async #read(): Promise<SecretFile | null> {
    let sealed: Buffer;
    try {
      sealed = await readFile(this.#path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
    const decrypter = new Decrypter();
    for (const key of readIdentities(await readFile(this.#identity, 'utf8'), this.#identity))
      decrypter.addIdentity(key);
    try {
      return secretFileSchema.parse(JSON.parse(await decrypter.decrypt(sealed, 'text')));
    } catch {
      // The cause is left out: its message could quote what was decrypted.
      throw new SecretFileError(
        `${this.#path} cannot be opened with ${this.#identity}: it was encrypted to another key, or is damaged`,
      );
    }
  }

  /** Encrypts to the first key of the identity file. */
  async #write(file: SecretFile): Promise<void> {
    const [key] = readIdentities(await readFile(this.#identity, 'utf8'), this.#identity);
    const encrypter = new Encrypter();
    encrypter.addRecipient(await identityToRecipient(key!));
    await replaceFile(this.#path, await encrypter.encrypt(JSON.stringify(file)));
  }

  async #locked<T>(act: () => Promise<T>): Promise<T> {
    const lock = `${this.#path}.lock`;
    await mkdir(dirname(this.#path), { recursive: true, mode: 0o700 });
    await takeLock(lock);
    try {
      return await act();
    } finally {
      await unlink(lock);
    }
  }
}

function emptyFile(): SecretFile {
  return { format: 'sallyport-secrets', version: 1, secrets: {} };
}

async function identityText(key: string, now: Date, former: readonly string[]): Promise<string> {
  const head = [`# created: ${now.toISOString()}`, `# public key: ${await identityToRecipient(key)}`];
  return `${[...head, key, ...former].join('\n')}\n`;
}

/** Makes the lock file. One whose process is gone is taken over. */
async function takeLock(lock: string): Promise<void> {
  for (const last of [false, true]) {
    try {
      const handle = await open(lock, 'wx', 0o600);
      await handle.writeFile(String(process.pid));
      await handle.close();
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const owner = Number(await readFile(lock, 'utf8').catch(() => ''));
    if (last || owner === 0 || isRunning(owner)) {
      throw new SecretFileError(
        `another command is changing the secret file; if none is running, remove ${lock}`,
      );
    }
    await unlink(lock).catch(() => {});
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Puts `content` in the place of `path` so that a reader, or a crash, sees the old or the new file and nothing else. */
async function replaceFile(path: string, content: string | Uint8Array): Promise<void> {
  const folder = dirname(path);
  const fresh = join(folder, `.${basename(path)}.${newId()}`);
  const handle = await open(fresh, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o600);
  try {
    await handle.writeFile(content);
    await handle.sync();
  } catch (error) {
    await handle.close();
    await unlink(fresh).catch(() => {});
    throw error;
  }
  await handle.close();
  await chmod(fresh, 0o600);
  await rename(fresh, path);
  const directory = await open(folder, 'r');
  try {
    await directory.sync();
  } catch {
    // Some file systems cannot sync a folder; the rename is atomic all the same.
  } finally {
    await directory.close();
  }
}
