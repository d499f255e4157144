import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DEBIAN_BIN } from './postgres.ts';

/** Other people's PostgreSQL clients, as `scripts/clients.cjs` installs them. */

const CLIENTS = join(import.meta.dirname, '../../var/clients');
export const PROGRAMS = join(import.meta.dirname, '../interop/postgres');

export interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end. Never rejects for its exit code. */
export async function runProgram(
  command: string,
  args: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>>; readonly input?: string } = {},
): Promise<Ran> {
  const child = spawn(command, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    // Nothing of the person's own settings for libpq.
    env: {
      PATH: process.env.PATH ?? '/usr/bin:/bin',
      HOME: '/nonexistent',
      LC_ALL: 'C.UTF-8',
      ...options.env,
    },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
  });
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  child.stdin.on('error', () => {});
  child.stdin.end(options.input ?? '');
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { code, stdout, stderr };
}

/** Debian's psql: no start-up file, unaligned output without headers. */
export function psql(
  conninfo: string,
  commands: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Ran> {
  return runProgram(
    join(DEBIAN_BIN, 'psql'),
    ['-X', '-A', '-t', '-w', '-d', conninfo, ...commands.flatMap((command) => ['-c', command])],
    { env },
  );
}

/** Runs a Python program of `test/interop/postgres` with the drivers of `test/clients/requirements.txt`. */
export async function runPython(program: string, input: unknown): Promise<unknown> {
  const { stdout, stderr } = await runProgram(join(CLIENTS, 'python/bin/python'), [join(PROGRAMS, program)], {
    input: JSON.stringify(input),
  });
  if (stdout === '') throw new Error(`${program} said nothing: ${stderr}`);
  return JSON.parse(stdout);
}

/** Runs a Java program of `test/interop/postgres` with pgjdbc. */
export async function runJava(program: string, args: readonly string[]): Promise<Ran> {
  const jars = (await readdir(join(CLIENTS, 'java'))).filter((name) => name.startsWith('postgresql-'));
  if (jars.length === 0) throw new Error('pgjdbc is missing: node scripts/clients.cjs --only java');
  const classpath = jars.map((name) => join(CLIENTS, 'java', name)).join(':');
  return runProgram('java', ['-cp', classpath, '-XX:TieredStopAtLevel=1', join(PROGRAMS, program), ...args]);
}

/** Runs a Go program of `test/clients/go`. */
export async function runGo(name: string, args: readonly string[]): Promise<Ran> {
  const path = join(CLIENTS, 'bin', name);
  if (!existsSync(path)) throw new Error(`${name} is missing: node scripts/clients.cjs --only go`);
  return runProgram(path, args);
}
