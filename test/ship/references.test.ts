import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { errorsReference } from '../../scripts/references/errors.ts';
import { licenceReference, productionPackages } from '../../scripts/references/licences.ts';
import { manualPages } from '../../scripts/references/manual.ts';
import { metricsReference } from '../../scripts/references/metrics.ts';
import { commandTree } from '../../src/cli/command-tree.ts';
import { makeProgram } from '../../src/cli/commands.ts';
import { Metrics } from '../../src/metrics.ts';
import { version } from '../../src/version.ts';

/** Pages that are made from the code and committed say what the code says now. To write them anew: npm run generate. */

const root = new URL('../../', import.meta.url);
const committed = (path: string): string => readFileSync(new URL(path, root), 'utf8');

test('docs/metrics.md', () => {
  expect(committed('docs/metrics.md')).toBe(metricsReference(new Metrics()));
});

test('docs/errors.md', () => {
  expect(committed('docs/errors.md')).toBe(errorsReference());
});

test('THIRD-PARTY.md', () => {
  expect(committed('THIRD-PARTY.md')).toBe(licenceReference(productionPackages(root)));
});

test('docs/man has a page for every command, and no other', async () => {
  const pages = manualPages(commandTree(await makeProgram(() => true)), version);
  expect(readdirSync(new URL('docs/man', root)).sort()).toEqual([...pages.keys()].sort());
  for (const [name, text] of pages) expect(committed(`docs/man/${name}`), name).toBe(text);
  // npm puts into a manual's place only what is named.
  const { man } = JSON.parse(committed('package.json')) as { man: string[] };
  expect(man.sort()).toEqual([...pages.keys()].map((name) => `docs/man/${name}`).sort());
});

test('docs/cli.md speaks of every command', async () => {
  const page = committed('docs/cli.md');
  const { commands } = commandTree(await makeProgram(() => true));
  for (const { path } of commands) expect(page, path.join(' ')).toContain(path.join(' '));
});
