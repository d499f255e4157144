import { readFileSync } from 'node:fs';

/** The version in `package.json`, which stands one folder up in a checkout and two in the compiled package. */
export const version = readVersion();

function readVersion(): string {
  for (const path of ['../package.json', '../../package.json']) {
    try {
      const text = readFileSync(new URL(path, import.meta.url), 'utf8');
      const parsed = JSON.parse(text) as { name?: string; version?: string };
      if (parsed.name === 'sallyport' && parsed.version !== undefined) return parsed.version;
    } catch {
      // The other place, then.
    }
  }
  return 'unknown';
}
