import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { RecordingIndex } from '../store/recording-index.ts';
import { SqliteRecordingIndex } from '../store/recording-index-sqlite.ts';

export const INDEX_FILE = 'recordings.sqlite';

/** Where an index is; can be sent to a thread, and has no secret in it. */
export type IndexStoreOptions = { readonly type: 'sqlite' };

/** Fetches what a reference to a secret stands for. */
export type SecretSource = (reference: string) => Promise<string>;

/** The index of a gateway, brought up to date; one behind a network when it is first used. */
export async function makeIndex(
  _options: IndexStoreOptions,
  dataDir: string,
  _secret: SecretSource | null,
): Promise<RecordingIndex> {
  return new SqliteRecordingIndex(join(dataDir, INDEX_FILE));
}

/** The index of a gateway for a command; null where there is none yet. */
export async function openIndex(
  _options: IndexStoreOptions,
  dataDir: string,
  _secret: SecretSource | null,
  readOnly: boolean,
): Promise<RecordingIndex | null> {
  const path = join(dataDir, INDEX_FILE);
  return existsSync(path) ? new SqliteRecordingIndex(path, { readOnly, keepVersion: true }) : null;
}
