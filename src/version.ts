import { readFileSync } from 'node:fs';

interface PackageFacts {
  readonly name?: string;
  readonly version?: string;
}

/** `dist/build.json`, which `scripts/build.mjs` writes beside what it compiles. */
interface Build {
  readonly revision?: string | null;
  readonly built?: string | null;
}

export interface BuildFacts {
  readonly version: string;
  /** The commit it was built from; null where nobody said. */
  readonly revision: string | null;
  /** When it was built, RFC 3339; null where nobody said. */
  readonly built: string | null;
  readonly node: string;
  readonly openssl: string;
  readonly platform: string;
}

/** The version in `package.json`, which stands one folder up in a checkout and two in the compiled package. */
export const version = readVersion();

/** What this build is made of: from the environment of an image, else as it was compiled. */
export function buildFacts(): BuildFacts {
  const build = (readJson('../build.json') ?? {}) as Build;
  return {
    version,
    revision: known(process.env['SALLYPORT_BUILD_REVISION']) ?? build.revision ?? null,
    built: known(process.env['SALLYPORT_BUILD_CREATED']) ?? build.built ?? null,
    node: process.versions.node,
    openssl: process.versions.openssl,
    platform: `${process.platform} ${process.arch}`,
  };
}

/** What an image says that was built without telling it. */
function known(value: string | undefined): string | null {
  return value === undefined || value === '' || value === 'unknown' ? null : value;
}

function readVersion(): string {
  for (const path of ['../package.json', '../../package.json']) {
    const facts = readJson(path) as PackageFacts | null;
    if (facts?.name === 'sallyport' && facts.version !== undefined) return facts.version;
  }
  return 'unknown';
}

/** A JSON file by its place relative to this one; null where there is none. */
function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'));
  } catch {
    return null;
  }
}
