import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { loadConfig } from '../config/load.ts';
import { makeLog } from '../log.ts';
import { makeResolver } from '../providers.ts';
import { openIndex, type SecretSource } from '../recording/index-store.ts';
import { identitiesIn, LOCAL_KEY_FILE } from '../recording/keys.ts';
import { Library } from '../recording/library.ts';
import { makeStore, STORE_FILE, type StoreOptions } from '../recording/pipeline.ts';
import type { RecordingIndex } from '../store/recording-index.ts';
import { dataDirectory } from './data-directory.ts';

/** How long a secret provider may take for the password of the index. */
const SECRET_MS_MAX = 30_000;

/** Options of every command that reads recordings. */
export interface AccessOptions {
  readonly config?: string;
  readonly dataDir?: string;
  readonly store?: string;
  readonly identity?: string[];
  readonly json?: boolean;
}

export function withAccess(command: Command): Command {
  return command
    .option('-c, --config <file>', "the gateway's configuration; default: config.yaml here, else the demo's")
    .option('--data-dir <folder>', "the gateway's data_dir, instead of its configuration")
    .option('--store <folder>', 'a folder of recordings, without the gateway they came from')
    .option(
      '-i, --identity <file>',
      "an age key file that opens them; may be given several times. Default: the gateway's own",
      (file: string, before: string[] | undefined) => [...(before ?? []), file],
    );
}

/** What the options name: the data directory (null where a store is read alone), the library, who can read. */
export interface Access {
  readonly dataDir: string | null;
  readonly library: Library;
  readonly identities: readonly string[];
  /** Null where there is none. */
  index(options?: { write?: boolean }): Promise<RecordingIndex | null>;
}

/** Rejects with an error that says what to give. */
export async function openAccess(options: AccessOptions): Promise<Access> {
  const dataDir = options.store !== undefined ? null : await dataDirectory(options);
  const store = await makeStore(await storeOptions(options, dataDir));
  const identities = identityFiles(options, dataDir).flatMap((file) =>
    identitiesIn(readFileSync(file, 'utf8'), file),
  );
  return {
    dataDir,
    identities,
    library: new Library({ store, dataDir, identities }),
    index: async (how) =>
      dataDir === null ? null : openIndex(dataDir, secretSource(options), how?.write !== true),
  };
}

/** Secrets as the configuration fetches them; null where none is named. */
function secretSource(options: AccessOptions): SecretSource | null {
  const path =
    options.config ?? (options.dataDir === undefined && existsSync('config.yaml') ? 'config.yaml' : null);
  if (path === null) return null;
  return async (reference) => {
    const { config } = await loadConfig(path);
    const resolver = makeResolver(config, makeLog('json', 'silent'), null);
    try {
      return await resolver.text(reference, AbortSignal.timeout(SECRET_MS_MAX));
    } finally {
      await resolver.close();
    }
  };
}

function identityFiles(options: AccessOptions, dataDir: string | null): string[] {
  if (options.identity !== undefined) return options.identity;
  const own = dataDir === null ? null : join(dataDir, LOCAL_KEY_FILE);
  return own !== null && existsSync(own) ? [own] : [];
}

async function storeOptions(options: AccessOptions, dataDir: string | null): Promise<StoreOptions> {
  if (options.store !== undefined) {
    if (!existsSync(options.store)) throw new Error(`there is no folder ${options.store}`);
    return { type: 'directory', path: options.store };
  }
  const path = join(dataDir ?? '.', STORE_FILE);
  if (existsSync(path)) return JSON.parse(readFileSync(path, 'utf8')) as StoreOptions;
  if (options.config !== undefined) return (await loadConfig(options.config)).config.recording.store;
  throw new Error(`no gateway has run with ${dataDir} yet`);
}
