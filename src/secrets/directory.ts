import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { join, normalize, sep } from 'node:path';
import { Secret } from '../../protocols/secret.ts';
import { fieldValue, textValue, withoutLineEnd } from './fields.ts';
import { ANSWER_BYTES_MAX } from './limits.ts';
import { SecretError, type SecretProvider, type SecretReference, type SecretValue } from './provider.ts';

/**
 * Files of a folder, as Kubernetes, Docker and systemd put secrets there. A file is one text; a folder's files are
 * fields. They are read at each fetch, so a secret that is mounted anew is used at once.
 */
export class DirectorySecrets implements SecretProvider {
  readonly name: string;
  readonly #folder: string;

  constructor(name: string, folder: string) {
    this.name = name;
    this.#folder = folder;
  }

  async fetch(reference: SecretReference): Promise<SecretValue> {
    const path = normalize(reference.path);
    if (path.startsWith('..') || path.startsWith(sep)) {
      throw new SecretError(this.name, `${reference.path} leads out of the folder`, { code: 'not_found' });
    }
    try {
      const target = await current(join(this.#folder, path));
      if (!(await stat(target)).isDirectory())
        return textValue(reference, withoutLineEnd(await this.#read(target)), null);
      const fields: Record<string, Secret> = {};
      for (const entry of await readdir(target, { withFileTypes: true })) {
        if (entry.name.startsWith('.') || entry.isDirectory()) continue;
        fields[entry.name] = Secret.fromBytes(withoutLineEnd(await this.#read(join(target, entry.name))));
      }
      return fieldValue(reference, fields, null);
    } catch (error) {
      throw error instanceof SecretError
        ? error
        : this.#failure(reference.path, error as NodeJS.ErrnoException);
    }
  }

  async check(): Promise<void> {
    try {
      await readdir(this.#folder);
    } catch (error) {
      throw this.#failure('.', error as NodeJS.ErrnoException, 'denied');
    }
  }

  async close(): Promise<void> {}

  async #read(file: string): Promise<Buffer> {
    const { size } = await stat(file);
    if (size > ANSWER_BYTES_MAX)
      throw new SecretError(this.name, `${file} is larger than ${ANSWER_BYTES_MAX / 1024} KiB`, {
        code: 'malformed',
      });
    return readFile(file);
  }

  #failure(
    path: string,
    error: NodeJS.ErrnoException,
    missing: 'not_found' | 'denied' = 'not_found',
  ): SecretError {
    const place = join(this.#folder, path);
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') {
      return new SecretError(this.name, `there is no ${place}`, {
        code: missing,
        hint: 'Is the secret mounted into this container, under this name?',
      });
    }
    return new SecretError(this.name, `${place} cannot be read (${error.code ?? error.name})`, {
      code: 'denied',
      hint: 'It must be readable by this user (fsGroup, defaultMode).',
    });
  }
}

/**
 * Where `path` is at this moment. Kubernetes swaps a whole folder at once by a link (`..data`): what is read from the
 * folder behind it belongs together.
 */
async function current(path: string): Promise<string> {
  try {
    return await realpath(join(path, '..data'));
  } catch {
    return realpath(path);
  }
}
