import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem, type } from 'node:os';
import { fileURLToPath } from 'node:url';

const path = fileURLToPath(new URL('../RESULTS.md', import.meta.url));

/** Puts one part's tables into `RESULTS.md`, in the place of those of the former run. */
export function writeSection(name: string, text: string): void {
  const begin = `<!-- begin ${name} -->`;
  const end = `<!-- end ${name} -->`;
  const section = `${begin}\n${text.trim()}\n${end}\n`;
  let whole = existsSync(path) ? readFileSync(path, 'utf8') : HEAD;
  const from = whole.indexOf(begin);
  const to = whole.indexOf(end);
  if (from >= 0 && to > from) whole = whole.slice(0, from) + section + whole.slice(to + end.length + 1);
  else whole = `${whole.trimEnd()}\n\n${section}`;
  writeFileSync(path, whole);
}

/** What the figures were measured on. */
export function machineText(versions: Readonly<Record<string, string>>): string {
  const [cpu] = cpus();
  const lines = [
    `${cpus().length} × ${cpu?.model.trim() ?? 'unknown processor'}, ${Math.round(totalmem() / 2 ** 30)} GiB, ${type()} ${release()}`,
    Object.entries({ 'Node.js': process.versions.node, ...versions })
      .map(([name, version]) => `${name} ${version}`)
      .join(', '),
  ];
  return lines.join('\n\n');
}

const HEAD = `# Results

Made by \`npm run bench\`. Everything in one table was measured in turns within one run, so that the ratios mean something: bare
times depend on the machine and on what else it does. Each figure is the median of the runs that its table names.
`;
