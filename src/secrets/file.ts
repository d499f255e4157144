import { readFile, stat } from 'node:fs/promises';
import { Decrypter } from 'age-encryption';
import { fieldValue, secretFields, textValue } from './fields.ts';
import { SecretError, type SecretProvider, type SecretReference, type SecretValue } from './provider.ts';
import { readIdentities, type SecretFile, SecretFileError, secretFileSchema } from './secret-file.ts';

/** What of the file is kept in memory between fetches, and the state of the files that it was read from. */
interface Opened {
  readonly state: string;
  readonly file: SecretFile;
}

/**
 * One file encrypted with age. The path of a reference is an entry's name. The file is read again when it has changed,
 * so that `sallyport secrets set` reaches a running gateway.
 */
export class FileSecrets implements SecretProvider {
  readonly name: string;
  readonly #path: string;
  readonly #identity: string;
  #opened: Opened | null = null;

  constructor(name: string, path: string, identity: string) {
    this.name = name;
    this.#path = path;
    this.#identity = identity;
  }

  async fetch(reference: SecretReference): Promise<SecretValue> {
    const { file } = await this.#open();
    const entry = Object.hasOwn(file.secrets, reference.path) ? file.secrets[reference.path] : undefined;
    if (entry === undefined) {
      throw new SecretError(this.name, `the secret file has no entry "${reference.path}"`, {
        code: 'not_found',
        hint: `Add it with: sallyport secrets set ${reference.path}`,
      });
    }
    if (entry.value !== undefined) return textValue(reference, Buffer.from(entry.value, 'utf8'), null);
    return fieldValue(reference, secretFields(entry.fields ?? {}), null);
  }

  async check(): Promise<void> {
    await this.#open();
  }

  async close(): Promise<void> {
    this.#opened = null;
  }

  async #open(): Promise<Opened> {
    try {
      const states = await Promise.all([this.#path, this.#identity].map(fileState));
      const state = states.join();
      if (this.#opened?.state === state) return this.#opened;
      const decrypter = new Decrypter();
      for (const identity of readIdentities(await readFile(this.#identity, 'utf8'), this.#identity))
        decrypter.addIdentity(identity);
      const text = await decrypter.decrypt(await readFile(this.#path), 'text');
      this.#opened = { state, file: secretFileSchema.parse(JSON.parse(text)) };
      return this.#opened;
    } catch (error) {
      this.#opened = null;
      throw this.#failure(error as NodeJS.ErrnoException);
    }
  }

  /** Says what is wrong without the cause, whose message could quote what was decrypted. */
  #failure(error: NodeJS.ErrnoException): SecretError {
    if (error.code === 'ENOENT' || error.code === 'EACCES') {
      const missing = error.code === 'ENOENT';
      return new SecretError(
        this.name,
        `${error.path ?? this.#path} ${missing ? 'is not there' : 'may not be read'}`,
        {
          code: 'denied',
          hint: missing ? 'Make it with: sallyport secrets set NAME' : 'It must be readable by this user.',
        },
      );
    }
    if (error instanceof SecretFileError)
      return new SecretError(this.name, error.message, { code: 'denied' });
    return new SecretError(this.name, `${this.#path} cannot be opened with the identity ${this.#identity}`, {
      code: 'denied',
      hint: 'The file was encrypted to another key, is damaged, or is no secret file of Sallyport.',
    });
  }
}

async function fileState(path: string): Promise<string> {
  const { ino, size, mtimeNs } = await stat(path, { bigint: true });
  return `${ino}:${size}:${mtimeNs}`;
}
