import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

/** The code about the code: which way dependencies point, and what must not stand anywhere. */

const root = fileURLToPath(new URL('..', import.meta.url));

interface Source {
  readonly path: string;
  readonly text: string;
  /** What it imports at run time; `type` imports are left out. */
  readonly values: readonly string[];
  /** Everything it imports, types included. */
  readonly all: readonly string[];
}

const sources = ['protocols', 'src'].flatMap((folder) => readSources(folder));
const product = sources.filter(({ path }) => !path.endsWith('.test.ts'));
const byPath = new Map(sources.map((source) => [source.path, source]));

describe('directions', () => {
  test('protocols know bytes and nothing else', () => {
    const allowed = /^(node:(crypto|util|stream|buffer|zlib|string_decoder)|@mongodb-js\/saslprep)$/;
    for (const { path, all } of product.filter(({ path }) => path.startsWith('protocols/'))) {
      for (const name of all) {
        if (name.startsWith('.')) expect(resolved(path, name), path).toMatch(/^protocols\//);
        else expect(name, path).toMatch(allowed);
      }
    }
  });

  test('an engine knows no other engine', () => {
    const engines = ['postgres', 'mysql', 'tds'];
    for (const engine of engines) {
      for (const { path, all } of product.filter(({ path }) => path.startsWith(`protocols/${engine}/`))) {
        for (const name of all.filter((one) => one.startsWith('.'))) {
          for (const other of engines.filter((one) => one !== engine))
            expect(resolved(path, name).startsWith(`protocols/${other}/`), `${path} imports ${name}`).toBe(
              false,
            );
        }
      }
    }
  });

  /** What each folder of `src` may import of the others; `app.ts`, `main.ts` and `cli` stand above all. */
  const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
    lib: [],
    config: ['lib', 'secrets', 'access'],
    secrets: ['lib', 'config'],
    recording: ['lib', 'config', 'store'],
    store: ['lib', 'config'],
    access: ['lib', 'config', 'store', 'recording'],
    tunnel: ['lib', 'config', 'access'],
    gateway: ['lib', 'config', 'access', 'secrets', 'recording', 'tunnel', 'store'],
    http: ['lib', 'config', 'access', 'secrets', 'recording', 'tunnel', 'store', 'gateway'],
    workers: ['lib', 'config', 'access', 'secrets', 'recording', 'gateway'],
    demo: ['lib', 'config'],
  };

  test('folders of src import only what stands below them', () => {
    for (const { path, values } of product.filter(({ path }) => /^src\/[a-z]+\//.test(path))) {
      const folder = path.split('/')[1]!;
      if (folder === 'cli') continue;
      const allowed = MAY_IMPORT[folder];
      expect(allowed, `${path}: say in this test what src/${folder} may import`).toBeDefined();
      for (const name of values.filter((one) => one.startsWith('.'))) {
        const target = resolved(path, name).split('/');
        if (target[0] !== 'src' || target[1] === folder || target.length === 2) continue;
        expect(allowed, `${path} imports ${name}`).toContain(target[1]);
      }
    }
  });

  test('no import leads back to where it came from', () => {
    const done = new Set<string>();
    const visit = (path: string, trail: readonly string[]): void => {
      expect(trail.includes(path), `cycle: ${[...trail.slice(trail.indexOf(path)), path].join(' → ')}`).toBe(
        false,
      );
      if (done.has(path)) return;
      for (const name of byPath.get(path)?.values ?? []) {
        if (name.startsWith('.')) visit(resolved(path, name), [...trail, path]);
      }
      done.add(path);
    };
    for (const { path } of product) visit(path, []);
  });
});

describe('what must not stand anywhere', () => {
  test('nobody but access makes a permit', () => {
    for (const { path, text } of product) {
      if (path.startsWith('src/access/')) continue;
      expect(/as unknown as Permit\b|as Permit\b/.test(text), path).toBe(false);
    }
  });

  test('secrets are opened only where they are used', () => {
    const opens = product.filter(({ text }) => /\.expose\(\)/.test(text)).map(({ path }) => path);
    for (const path of opens)
      expect(path, 'a new place that opens secrets').toMatch(
        /^protocols\/(secret|postgres|mysql|tds|scram)|^src\/(secrets|access|http)\//,
      );
  });

  test('no default exports, barrels, or words of unfinished work', () => {
    for (const { path, text } of product) {
      expect(/^export default /m.test(text), `${path}: default export`).toBe(false);
      expect(/^export \* from/m.test(text), `${path}: barrel`).toBe(false);
      expect(/\b(TODO|FIXME|XXX|HACK)\b/.test(text), `${path}: unfinished`).toBe(false);
    }
  });

  test('no test is switched off for everybody, or runs alone', () => {
    for (const { path, text } of [...sources, ...readSources('test')].filter((one) =>
      one.path.endsWith('.test.ts'),
    )) {
      if (path === 'test/tidy.test.ts') continue;
      expect(/\b(test|it|describe)\.(only|todo|skip)\(/.test(text), path).toBe(false);
    }
  });

  test('the protocols read no clock, no randomness, no environment', () => {
    for (const { path, text } of product.filter(({ path }) => path.startsWith('protocols/'))) {
      expect(
        /\bDate\.now\(|\bnew Date\(\)|performance\.now\(|\bMath\.random\(|\brandomBytes\b|\bprocess\.env\b/.test(
          text,
        ),
        path,
      ).toBe(false);
    }
  });
});

function readSources(folder: string): Source[] {
  return readdirSync(join(root, folder), { recursive: true })
    .map((name) => join(folder, String(name)))
    .filter((path) => path.endsWith('.ts') && !path.includes('node_modules'))
    .map((path) => {
      const text = readFileSync(join(root, path), 'utf8');
      const imports = [
        ...text.matchAll(/^import\b(?<what>[^'"`;]*?)(?:from\s+)?['"](?<name>[^'"]+)['"]/gm),
        ...text.matchAll(/^export(?<what>\s+(?:type\s+)?\{[^}]*\})\s+from\s+['"](?<name>[^'"]+)['"]/gm),
      ];
      const all = imports.map((match) => match.groups!['name']!);
      const values = imports
        .filter((match) => !isTypeOnly(match.groups!['what']!))
        .map((match) => match.groups!['name']!);
      return { path, text, values, all };
    });
}

/** `import type …`, or braces in which every name is a `type`. */
function isTypeOnly(what: string): boolean {
  if (/^\s+type\b/.test(what)) return true;
  const braces = /\{([^}]*)\}/.exec(what);
  if (braces === null || /^\s*\w+\s*,/.test(what)) return false;
  const names = braces[1]!
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
  return names.length > 0 && names.every((name) => name.startsWith('type '));
}

function resolved(from: string, name: string): string {
  return relative(root, join(root, dirname(from), name));
}
