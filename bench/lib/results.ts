import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem, type } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DEBIAN_BIN } from '../../test/support/postgres.ts';
import { routerCommand } from './peers.ts';

let path = fileURLToPath(new URL('../RESULTS.md', import.meta.url));

/** Sections as they follow each other in the file; one that is not named goes to the end. */
const ORDER = [
  'postgres round trips',
  'postgres recording levels',
  'postgres bulk',
  'postgres sign-ins',
  'postgres memory',
  'mysql round trips',
  'mysql bulk',
  'mysql sign-ins',
  'mysql memory',
  'sql server round trips',
  'sql server bulk',
  'sql server sign-ins',
  'sql server memory',
  'workers',
  'fairness',
  'start-up',
];

/** Writes into another file than `bench/RESULTS.md`: for trials. */
export function writeResultsTo(file: string): void {
  path = file;
}

/** Puts one part's tables into `RESULTS.md`, in the place of those of the former run. */
export function writeSection(name: string, text: string): void {
  const begin = `<!-- begin ${name} -->`;
  const end = `<!-- end ${name} -->`;
  const section = `${begin}\n${text.trim()}\n${end}\n`;
  let whole = existsSync(path) ? readFileSync(path, 'utf8') : HEAD;
  const from = whole.indexOf(begin);
  const to = whole.indexOf(end);
  if (from >= 0 && to > from) whole = whole.slice(0, from) + section + whole.slice(to + end.length + 1);
  else {
    const later = ORDER.slice(ORDER.indexOf(name) + 1).map((other) =>
      whole.indexOf(`<!-- begin ${other} -->`),
    );
    const next = ORDER.includes(name) ? later.find((at) => at >= 0) : undefined;
    whole =
      next === undefined
        ? `${whole.trimEnd()}\n\n${section}`
        : `${whole.slice(0, next)}${section}\n${whole.slice(next)}`;
  }
  writeFileSync(path, whole);
}

/** One part's section, written anew with each table, so that what was measured stays whatever becomes of the rest. */
export class Section {
  readonly #name: string;
  readonly #head: string;
  readonly #tables: string[] = [];

  /** `head`: title, what was measured and how, machine and versions. */
  constructor(name: string, head: readonly string[]) {
    this.#name = name;
    this.#head = head.join('\n\n');
  }

  add(title: string | null, text: string): void {
    const whole = title === null ? text : `### ${title}\n\n${text}`;
    console.log(`${whole}\n`);
    this.#tables.push(whole);
    writeSection(this.#name, [this.#head, ...this.#tables].join('\n\n'));
  }
}

/** What the figures were measured on, and when. */
export function machineText(versions: Readonly<Record<string, string>>): string {
  const [cpu] = cpus();
  const lines = [
    `${cpus().length} × ${cpu?.model.trim() ?? 'unknown processor'}, ${Math.round(totalmem() / 2 ** 30)} GiB, ${type()} ${release()}; ${new Date().toISOString().slice(0, 10)}`,
    Object.entries({ 'Node.js': process.versions.node, ...versions })
      .map(([name, version]) => `${name} ${version}`)
      .join(', '),
  ];
  return lines.join('\n\n');
}

const router = routerCommand();

/** Programs and how they tell their versions; a program that is not there is left out. */
const PROGRAMS = {
  HAProxy: ['haproxy', '-v'],
  PgBouncer: ['pgbouncer', '--version'],
  'MySQL Router': router === null ? [] : [...router, '--version'],
  pgbench: [join(DEBIAN_BIN, 'pgbench'), '--version'],
  sysbench: ['sysbench', '--version'],
} satisfies Readonly<Record<string, readonly string[]>>;

/** The versions of those programs that are there, by name, as they tell themselves. */
export function versionsOf(names: readonly (keyof typeof PROGRAMS)[]): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of names) {
    const [command, ...rest] = PROGRAMS[name];
    if (command === undefined) continue;
    const line = execFileSync(command, rest, { encoding: 'utf8' }).split('\n')[0]!;
    found[name] = /\d+\.[\d.]*\d/.exec(line)?.[0] ?? line;
  }
  return found;
}

const HEAD = `# Results

Made by \`npm run bench\`; [README.md](README.md) says how. Every table names the machine, the versions and the number of its runs.
`;
