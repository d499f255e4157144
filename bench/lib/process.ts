import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** One clock tick of `/proc`: Linux has 100 a second on every platform that Node runs on. */
const TICKS_PER_SECOND = 100;
const LISTEN_MS_MAX = 30_000;

/** CPU time of a process and its children's processes that still live, in seconds. */
export interface CpuTime {
  readonly user: number;
  readonly system: number;
}

/** CPU time so far of all `pids` together, from `/proc/PID/stat`. */
export function cpuTime(pids: readonly number[]): CpuTime {
  let user = 0;
  let system = 0;
  for (const pid of pids) {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command's name may hold blanks and parentheses; the fields behind it do not.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    user += Number(fields[11]) / TICKS_PER_SECOND;
    system += Number(fields[12]) / TICKS_PER_SECOND;
  }
  return { user, system };
}

/** CPU time so far of the processes' first threads alone: for Sallyport the one that relays, without the one that seals. */
export function mainThreadTime(pids: readonly number[]): number {
  let ticks = 0;
  for (const pid of pids) {
    const text = readFileSync(`/proc/${pid}/task/${pid}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks / TICKS_PER_SECOND;
}

export function cpuSince(pids: readonly number[], before: CpuTime): CpuTime {
  const now = cpuTime(pids);
  return { user: now.user - before.user, system: now.system - before.system };
}

/** Memory of all `pids` that only they use (`Pss`), in KiB: shared pages counted once. */
export function memoryKiB(pids: readonly number[]): number {
  let sum = 0;
  for (const pid of pids) {
    const match = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'));
    sum += Number(match?.[1] ?? 0);
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

/** Starts a program and keeps the end of what it prints. */
export function start(
  command: string,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; uid?: number; gid?: number; cwd?: string } = {},
): Started {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
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
