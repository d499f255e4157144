import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';

/** The manual as a site: built as `npm run docs` builds it, with every page on it and in its sidebar. */

const docs = fileURLToPath(new URL('../../../docs/', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'sallyport-docs-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

test('the site builds, and each page is on it', () => {
  cpSync(docs, scratch, {
    recursive: true,
    filter: (path) => !/node_modules|\.vitepress\/(dist|cache)/.test(path),
  });
  const options = { cwd: scratch, stdio: 'pipe', timeout: 110_000 } as const;
  execFileSync('npm', ['ci', '--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error'], options);
  execFileSync('npm', ['run', 'build'], options);
  const site = join(scratch, '.vitepress', 'dist');
  const index = readFileSync(join(docs, 'README.md'), 'utf8');
  const pages = [...index.matchAll(/\]\(((?!\.\.)[^)#]+)\.md\)/g)].map((match) => match[1]!);
  expect(pages.length).toBeGreaterThan(20);
  const sidebar = readFileSync(join(docs, '.vitepress', 'config.mts'), 'utf8');
  for (const page of pages) {
    expect(existsSync(join(site, `${page}.html`)), page).toBe(true);
    expect(sidebar, page).toContain(`link: '/${page}'`);
  }
});
