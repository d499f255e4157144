import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Config } from '../config/schema.ts';
import type { RecordingIndex } from '../store/recording-index.ts';
import { PostgresRecordingIndex } from '../store/recording-index-postgres.ts';
import { SqliteRecordingIndex } from '../store/recording-index-sqlite.ts';

export const INDEX_FILE = 'recordings.sqlite';

/** Says where the index is, for commands that are given the data directory alone. No credentials. */
const INDEX_STORE_FILE = 'index-store.json';

type Configured = Extract<Config['recording']['index'], object>;
/** Where an index is; can be sent to a thread, and has no secret in it. */
export type IndexStoreOptions = Configured['store'];

export type IndexKeeps = 'statements' | 'sessions' | 'off';

/** Fetches what a reference to a secret stands for. */
export type SecretSource = (reference: string) => Promise<string>;

/** What the configuration says of the index, with what it leaves to us. */
export function indexOptionsOf({ index, recipients }: Config['recording']): {
  keep: IndexKeeps;
  store: IndexStoreOptions;
} {
  const { keep, store } =
    typeof index === 'object' ? index : { keep: index, store: { type: 'sqlite' as const } };
  // Texts in the clear would show on a disk that is to show nothing: only where the key lies there anyway.
  return { keep: keep ?? (recipients.length === 0 ? 'statements' : 'sessions'), store };
}

/** The index of a gateway, brought up to date; one behind a network when it is first used. */
export async function makeIndex(
  keep: IndexKeeps,
  options: IndexStoreOptions,
  dataDir: string,
  secret: SecretSource | null,
): Promise<RecordingIndex> {
  writeFileSync(join(dataDir, INDEX_STORE_FILE), `${JSON.stringify({ keep, store: options })}\n`, {
    mode: 0o600,
  });
  if (options.type === 'sqlite') return new SqliteRecordingIndex(join(dataDir, INDEX_FILE));
  return PostgresRecordingIndex.open(options, () => passwordOf(options.password, secret), true);
}

/** What a gateway keeps in its index, and where, as of its last start. */
export function storedIndex(dataDir: string): {
  readonly keep: IndexKeeps;
  readonly store: IndexStoreOptions;
} {
  const file = join(dataDir, INDEX_STORE_FILE);
  if (!existsSync(file)) return { keep: 'sessions', store: { type: 'sqlite' } };
  return JSON.parse(readFileSync(file, 'utf8')) as ReturnType<typeof storedIndex>;
}

/** The index of a gateway for a command; null where there is none yet. `secret`: what the configuration fetches it with. */
export async function openIndex(
  dataDir: string,
  secret: SecretSource | null,
  readOnly: boolean,
): Promise<RecordingIndex | null> {
  const options = storedIndex(dataDir).store;
  if (options.type === 'postgres') {
    if (options.password !== undefined && secret === null)
      throw new Error(
        'the index of recordings is in PostgreSQL: name the configuration with --config FILE, which says how its password is fetched',
      );
    return PostgresRecordingIndex.open(options, () => passwordOf(options.password, secret), false);
  }
  const path = join(dataDir, INDEX_FILE);
  return existsSync(path) ? new SqliteRecordingIndex(path, { readOnly, keepVersion: true }) : null;
}

async function passwordOf(
  reference: string | undefined,
  secret: SecretSource | null,
): Promise<string | null> {
  if (reference === undefined) return null;
  if (secret === null) throw new Error('nothing fetches the password of the index here');
  return secret(reference);
}
