import { constants, type Stats } from 'node:fs';
import { copyFile, link, mkdir, open, readdir, readFile, rm, rmdir, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { newId } from '../../lib/id.ts';
import { fileSha256, type RecordingStore, type StoredObject, StoreError } from './store.ts';

/** Recordings in a folder, which may be a mounted share. Files are for their owner alone (mode 0600). */
export class DirectoryStore implements RecordingStore {
  readonly name: string;
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
    this.name = path;
  }

  /** Copies, syncs, and links under the final name: a key either has its whole content or does not exist. */
  async put(key: string, path: string): Promise<void> {
    const target = this.#file(key);
    const temporary = `${target}.${newId()}.tmp`;
    try {
      const made = await mkdir(dirname(target), { recursive: true, mode: 0o700 });
      await copyFile(path, temporary, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
      const file = await open(temporary, 'r+');
      try {
        await file.chmod(0o600);
        await file.sync();
      } finally {
        await file.close();
      }
      try {
        await link(temporary, target);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
        if ((await fileSha256(target)) !== (await fileSha256(temporary)))
          throw new StoreError('exists', `${key} exists in ${this.name} with other content`);
      }
      await unlink(temporary);
      await syncDirectories(dirname(target), made === undefined ? dirname(target) : dirname(made));
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => {});
      if (error instanceof StoreError) throw error;
      throw new StoreError('unavailable', `${this.name} cannot be written: ${codeOf(error)}`, {
        cause: error,
      });
    }
  }

  async get(key: string): Promise<Buffer> {
    const path = this.#file(key);
    try {
      return await readFile(path);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') throw new StoreError('not_found', `${this.name} has no ${key}`);
      throw new StoreError('unavailable', `${key} in ${this.name} cannot be read: ${codeOf(error)}`, {
        cause: error,
      });
    }
  }

  async list(prefix: string): Promise<StoredObject[]> {
    const objects: StoredObject[] = [];
    const folder = prefix.slice(0, prefix.lastIndexOf('/') + 1);
    await this.#walk(folder, prefix, objects);
    return objects.sort((left, right) => (left.key < right.key ? -1 : 1));
  }

  async delete(key: string): Promise<void> {
    const path = this.#file(key);
    await rm(path, { force: true });
    // Empty folders of past days go with their last recording.
    for (let folder = dirname(path); folder.length > this.#path.length; folder = dirname(folder)) {
      try {
        await rmdir(folder);
      } catch {
        return;
      }
    }
  }

  async check(): Promise<void> {
    const probe = join(this.#path, `.probe.${newId()}.tmp`);
    try {
      await mkdir(this.#path, { recursive: true, mode: 0o700 });
      const file = await open(probe, 'wx', 0o600);
      await file.close();
      await unlink(probe);
    } catch (error) {
      throw new StoreError('unavailable', `${this.name} cannot be written: ${codeOf(error)}`, {
        cause: error,
      });
    }
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #file(key: string): string {
    if (!/^[\w./:@+-]+$/.test(key) || key.split('/').some((step) => step === '' || step.startsWith('.')))
      throw new StoreError('not_found', `${JSON.stringify(key)} is no key of a recording`);
    return join(this.#path, key);
  }

  async #walk(folder: string, prefix: string, objects: StoredObject[]): Promise<void> {
    let entries: Awaited<ReturnType<typeof readEntries>>;
    try {
      entries = await readEntries(join(this.#path, folder));
    } catch (error) {
      if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return;
      throw new StoreError('unavailable', `${this.name} cannot be read: ${codeOf(error)}`, { cause: error });
    }
    for (const entry of entries) {
      const key = folder + entry.name;
      if (entry.isDirectory()) {
        if (`${key}/`.startsWith(prefix) || prefix.startsWith(`${key}/`))
          await this.#walk(`${key}/`, prefix, objects);
      } else if (key.startsWith(prefix) && !key.endsWith('.tmp')) {
        const facts = await factsOf(join(this.#path, key));
        if (facts !== null) objects.push({ key, size: facts.size, modifiedAt: facts.mtimeMs });
      }
    }
  }
}

function readEntries(path: string) {
  return readdir(path, { withFileTypes: true });
}

/** Null for files that are gone by now. */
async function factsOf(path: string): Promise<Stats | null> {
  try {
    return await stat(path);
  } catch {
    return null;
  }
}

async function syncDirectories(from: string, to: string): Promise<void> {
  for (let folder = from; folder.length >= to.length; folder = dirname(folder)) {
    const handle = await open(folder, 'r');
    try {
      await handle.sync();
    } catch (error) {
      if (!['EINVAL', 'ENOTSUP', 'EPERM'].includes(codeOf(error))) throw error;
    } finally {
      await handle.close();
    }
    if (folder === dirname(folder)) return;
  }
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error);
}
