import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const LISTEN_MS_MAX = 30_000;

/** Memory of all `pids` that only they use (`Pss`), in KiB: shared pages counted once. */
export function memoryKiB(pids: readonly number[]): number {
  let sum = 0;
  for (const pid of pids) {
    const match = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'));
    sum += Number(match?.[1] ?? 0);
  }
  return sum;
}

/** Begins the most memory that each process has had anew, at what it has now. */
export function resetPeak(pids: readonly number[]): void {
  for (const pid of pids) writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

/** Resident memory of the processes in KiB: what they have now, or the most since `resetPeak`. */
export function residentKiB(pids: readonly number[], which: 'now' | 'peak'): number {
  let sum = 0;
  for (const pid of pids) {
    const field = which === 'now' ? /^VmRSS:\s+(\d+) kB/m : /^VmHWM:\s+(\d+) kB/m;
    sum += Number(field.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);
  }
  return sum;
}

/** A process and all below it. */
export function descendants(pid: number): number[] {
  const parents = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const text = readFileSync(`/proc/${name}/stat`, 'utf8');
      const parent = Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[1]);
      parents.set(parent, [...(parents.get(parent) ?? []), Number(name)]);
    } catch {
      // It ended while we looked.
    }
  }
  const all = [pid];
  for (let index = 0; index < all.length; index += 1) all.push(...(parents.get(all[index]!) ?? []));
  return all;
}

export interface Started {
  readonly child: ChildProcess;
  readonly pid: number;
  output(): string;
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Starts a program with as many open files as the machine allows, and keeps the end of what it prints. */
export function start(
  command: string,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; uid?: number; gid?: number; cwd?: string } = {},
): Started {
  // Not all programs raise their soft limit themselves; `exec` keeps the process id.
  const raised = 'ulimit -n "$(ulimit -Hn)"; exec "$0" "$@"';
  const child = spawn('sh', ['-c', raised, command, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...options,
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString('utf8')).slice(-20_000);
    });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const kill = (): void => void child.kill('SIGKILL');
  process.once('exit', kill);
  return {
    child,
    pid: child.pid!,
    output: () => output,
    async stop(signal = 'SIGTERM') {
      process.off('exit', kill);
      if (child.exitCode === null && child.signalCode === null) {
        child.kill(signal);
        const late = setTimeout(() => child.kill('SIGKILL'), 5_000);
        await exited;
        clearTimeout(late);
      }
    },
  };
}

/** Starts one of the benchmarks' own servers (`bench/lib/NAME.ts`), which say `port N` when they listen. */
export async function startServer(
  name: string,
  args: readonly string[] = [],
): Promise<{ port: number; stop(): Promise<void> }> {
  const script = fileURLToPath(new URL(`${name}.ts`, import.meta.url));
  const started = start(process.execPath, [script, ...args]);
  const deadline = Date.now() + LISTEN_MS_MAX;
  for (;;) {
    const port = /^port (\d+)$/m.exec(started.output())?.[1];
    if (port !== undefined) return { port: Number(port), stop: () => started.stop('SIGKILL') };
    if (Date.now() > deadline || started.child.exitCode !== null)
      throw new Error(`${name} does not start:\n${started.output()}`);
    await sleep(20);
  }
}

/** Runs a program to its end and returns what it printed. Rejects, with that, when it fails. */
export async function run(
  command: string,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; input?: string } = {},
): Promise<string> {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env: options.env ?? process.env });
  let output = '';
  let errors = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString('utf8');
  });
  child.stderr.on('data', (chunk: Buffer) => {
    errors = (errors + chunk.toString('utf8')).slice(-4_000);
  });
  child.stdin.end(options.input ?? '');
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0)
    throw new Error(`${command} ${args.join(' ')} failed (${code}):\n${errors}\n${output.slice(-2000)}`);
  return output;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}

/** Resolves when something listens on the port. */
export async function listening(port: number, started?: Started): Promise<void> {
  const deadline = Date.now() + LISTEN_MS_MAX;
  while (Date.now() < deadline && started?.child.exitCode == null) {
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect({ host: '127.0.0.1', port });
      socket.once('connect', () => {
        socket.destroy();
        resolve(true);
      });
      socket.once('error', () => resolve(false));
    });
    if (open) return;
    await sleep(20);
  }
  throw new Error(`nothing listens on port ${port}:\n${started?.output() ?? ''}`);
}
