import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

/** Links between pages lead somewhere, down to the heading; and every page can be reached from the index. */

const root = fileURLToPath(new URL('../../', import.meta.url));
const pages = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '*.md'], {
  cwd: root,
  encoding: 'utf8',
})
  .split('\n')
  .filter((path) => path !== '' && existsSync(join(root, path)));

interface Link {
  readonly page: string;
  readonly line: number;
  readonly target: string;
}

function withoutCode(text: string): string {
  return text
    .replaceAll(/^ *(```|~~~)[\s\S]*?^ *\1 *$/gm, (block) => block.replaceAll(/[^\n]/g, ' '))
    .replaceAll(/`[^`\n]*`/g, (code) => ' '.repeat(code.length));
}

function linksOf(page: string): Link[] {
  const text = withoutCode(readFileSync(join(root, page), 'utf8'));
  const inline = [...text.matchAll(/\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)/g)];
  const references = [...text.matchAll(/^\[[^\]]+\]:\s+(\S+)/gm)];
  return [...inline, ...references].map((match) => ({
    page,
    line: text.slice(0, match.index).split('\n').length,
    target: match[1]!,
  }));
}

/** The names of a page's headings, as GitHub and VitePress make them. */
function anchorsOf(page: string): Set<string> {
  const anchors = new Set<string>();
  const text = readFileSync(join(root, page), 'utf8').replaceAll(/^ *(```|~~~)[\s\S]*?^ *\1 *$/gm, '');
  for (const [, title = ''] of text.matchAll(/^#{1,6} +(.+?) *#*$/gm)) {
    const plain = title.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1').replaceAll(/[`*]/g, '');
    const slug = plain
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .trim()
      .replaceAll(/\s/g, '-');
    let name = slug;
    for (let again = 1; anchors.has(name); again++) name = `${slug}-${again}`;
    anchors.add(name);
  }
  return anchors;
}

const links = pages.flatMap(linksOf);
const internal = links.filter(({ target }) => !/^[a-z]+:/i.test(target));

test('there are pages, and links between them', () => {
  expect(pages.length).toBeGreaterThan(20);
  expect(internal.length).toBeGreaterThan(50);
});

test('every link within the repository leads to a file, and to a heading that is there', () => {
  const broken: string[] = [];
  for (const { page, line, target } of internal) {
    const [path = '', anchor = ''] = target.split('#');
    const file = path === '' ? page : normalize(join(dirname(page), decodeURIComponent(path)));
    const where = `${page}:${line}: ${target}`;
    if (file.startsWith('..') || !existsSync(join(root, file))) broken.push(`${where}: no such file`);
    else if (anchor !== '' && file.endsWith('.md') && !anchorsOf(file).has(anchor))
      broken.push(`${where}: no such heading`);
  }
  expect(broken).toEqual([]);
});

test('addresses elsewhere are encrypted, or of this machine', () => {
  const plain = links.filter(
    ({ target }) => target.startsWith('http://') && !/^http:\/\/(127\.0\.0\.1|localhost)/.test(target),
  );
  expect(plain.map(({ page, line, target }) => `${page}:${line}: ${target}`)).toEqual([]);
});

test('every page of docs/ can be reached from its index', () => {
  const index = 'docs/README.md';
  const reached = new Set<string>();
  const visit = (page: string): void => {
    if (reached.has(page)) return;
    reached.add(page);
    for (const { target } of linksOf(page)) {
      if (/^[a-z]+:/i.test(target)) continue;
      const path = relative('.', normalize(join(dirname(page), target.split('#')[0]!)));
      if (path.endsWith('.md') && existsSync(join(root, path)) && statSync(join(root, path)).isFile())
        visit(path);
    }
  };
  visit(index);
  expect(pages.filter((page) => page.startsWith('docs/') && !reached.has(page))).toEqual([]);
});
