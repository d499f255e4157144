import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { ExitCode } from '../src/cli/exit-codes.ts';
import type { ConfigError } from '../src/config/faults.ts';
import { parseConfig } from '../src/config/load.ts';

/** What the documentation says is what the code does. */

const docs = fileURLToPath(new URL('../docs/', import.meta.url));
const page = (name: string): string => readFileSync(`${docs}${name}`, 'utf8');

test('docs/cli.md lists every exit status, and no other', () => {
  const listed = [...page('cli.md').matchAll(/^\| (\d+) \| /gm)].map((match) => Number(match[1]));
  expect(listed.sort((left, right) => left - right)).toEqual(
    Object.values(ExitCode).sort((left, right) => left - right),
  );
});

describe('examples of configuration', () => {
  const pages = readdirSync(docs, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.md') && !name.includes('node_modules'));
  const examples = pages.flatMap((name) =>
    [...page(name).matchAll(/```yaml\n([\s\S]*?)```/g)].map((match, index) => ({
      name: `${name}, ${index + 1}`,
      text: match[1]!,
    })),
  );

  test('there are some', () => {
    expect(examples.length).toBeGreaterThan(10);
  });

  /** Parts of a configuration are made whole: the resource a listener needs is looked for on the same page. */
  test.each(examples)('$name is valid', ({ text }) => {
    const part = parse(text) as Record<string, unknown>;
    const whole = stringify({ resources: {}, ...part });
    let faults: string[] = [];
    try {
      parseConfig(whole, 'example.yaml', { files: false });
    } catch (error) {
      faults = (error as ConfigError).faults
        .filter(({ message }) => !/is not the name of a resource|no resource has such a name/.test(message))
        .map(({ path, message, remedy }) => `${path}: ${message}; ${remedy}`);
    }
    expect(faults).toEqual([]);
  });

  test('docs/secrets.md has one for every type of provider', () => {
    const shown = new Set([...page('secrets.md').matchAll(/type: ([a-z-]+)/g)].map((match) => match[1]));
    const types = [...page('configuration.md').matchAll(/^### secrets\.NAME, type `([a-z-]+)`/gm)].map(
      (match) => match[1],
    );
    expect(types.length).toBeGreaterThan(8);
    for (const type of types) expect(shown).toContain(type);
  });
});

test('docs/operations.md quotes what the gateway says', () => {
  const root = fileURLToPath(new URL('../', import.meta.url));
  const sources = ['src', 'protocols'].flatMap((folder) =>
    readdirSync(`${root}${folder}`, { recursive: true })
      .map((name) => `${root}${folder}/${String(name)}`)
      .filter((path) => path.endsWith('.ts') && !path.endsWith('.test.ts')),
  );
  // As it is said, with the place of every name marked, however it is written in the source.
  const said = sources
    .map((path) => readFileSync(path, 'utf8'))
    .join('\n')
    .replaceAll(/\$\{[^}]*\}/g, 'X')
    .replaceAll("\\'", "'");
  const tables = page('operations.md')
    .split('### In the tool')[1]!
    .split('### The gateway does not answer')[0]!;
  const quoted = [...tables.matchAll(/^\| (.*?) \|/gm)]
    .flatMap(([, cell = '']) => [...cell.matchAll(/`([^`]{12,})`/g)])
    .map((match) => match[1]!);
  expect(quoted.length).toBeGreaterThan(30);
  for (const text of quoted) expect(said.includes(text), text).toBe(true);
});
