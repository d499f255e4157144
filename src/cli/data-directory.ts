import { existsSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../config/load.ts';

/** Where the demo keeps its journal, recordings and keys: `var/demo` of a checkout, else a folder of this user's own. */
export function demoDataDirectory(): string {
  const chosen = process.env['SALLYPORT_DEMO_DIR'];
  if (chosen) return chosen;
  const checkout = fileURLToPath(new URL('../../', import.meta.url));
  if (existsSync(join(checkout, 'src', 'main.ts'))) return join(checkout, 'var', 'demo');
  return join(tmpdir(), `sallyport-demo-${userInfo().username}`);
}

export interface DataDirectoryOptions {
  readonly config?: string | undefined;
  readonly dataDir?: string | undefined;
}

/**
 * The data directory that a command reads: `--data-dir`, else that of `--config`, else that of `config.yaml` here, else
 * the demo's where it has run. Rejects with an error that says what to give.
 */
export async function dataDirectory(options: DataDirectoryOptions): Promise<string> {
  if (options.dataDir !== undefined) return options.dataDir;
  const config = options.config ?? (existsSync('config.yaml') ? 'config.yaml' : null);
  if (config !== null) return (await loadConfig(config)).config.gateway.data_dir;
  const demo = demoDataDirectory();
  if (existsSync(demo)) return demo;
  throw new Error(
    'nothing was recorded here yet; name the configuration with --config FILE, or its data_dir with --data-dir DIR',
  );
}
