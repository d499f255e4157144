import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';

/** How long a tunnel that was told to stop may take. Ours. */
const STOP_MS_MAX = 6_000;
const STOP_POLL_MS = 50;

const entrySchema = z.object({
  name: z.string(),
  pid: z.number().int().positive(),
  /** When the process began, as the system words it: a number that has come to another process is not taken for ours. */
  process_started: z.string(),
  resource: z.string(),
  gateway: z.string(),
  address: z.string(),
  principal: z.string(),
  expires_at: z.string(),
  mode: z.enum(['foreground', 'background', 'command']),
});

/** A tunnel that runs on this machine for this person. */
export type RunningTunnel = z.output<typeof entrySchema>;

/** Where the operating system has a person's programs keep their state: `tunnels` in the folder of Sallyport. */
export function tunnelsFolder(): string {
  if (process.env['SALLYPORT_HOME']) return join(process.env['SALLYPORT_HOME'], 'tunnels');
  const home = homedir();
  const folder =
    process.platform === 'win32'
      ? (process.env['LOCALAPPDATA'] ?? join(home, 'AppData', 'Local'))
      : process.platform === 'darwin'
        ? join(home, 'Library', 'Application Support')
        : (process.env['XDG_STATE_HOME'] ?? join(home, '.local', 'state'));
  return join(folder, 'sallyport', 'tunnels');
}

/** Enters this process's tunnel, under the resource's name or, where that is taken, with a number. */
export function enterTunnel(tunnel: Omit<RunningTunnel, 'name' | 'pid' | 'process_started'>): {
  name: string;
  leave: () => void;
} {
  const folder = tunnelsFolder();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  runningTunnels();
  for (let number = 1; ; number += 1) {
    const name = number === 1 ? tunnel.resource : `${tunnel.resource}-${number}`;
    const entry: RunningTunnel = {
      name,
      pid: process.pid,
      process_started: startOf(process.pid) ?? '',
      ...tunnel,
    };
    const path = join(folder, `${name}.json`);
    try {
      writeFileSync(path, `${JSON.stringify(entry, null, 2)}\n`, { mode: 0o600, flag: 'wx' });
      return { name, leave: () => rmSync(path, { force: true }) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
}

/** All that run, by name; entries of processes that are gone are cleared away. */
export function runningTunnels(): RunningTunnel[] {
  const folder = tunnelsFolder();
  let names: string[];
  try {
    names = readdirSync(folder).filter((name) => name.endsWith('.json'));
  } catch {
    return [];
  }
  return names.sort().flatMap((name) => {
    const path = join(folder, name);
    const entry = readEntry(path);
    if (entry !== null && isAlive(entry)) return [entry];
    rmSync(path, { force: true });
    return [];
  });
}

/** Asks a tunnel to stop and waits until it has. False when it does not. */
export async function stopTunnel(tunnel: RunningTunnel): Promise<boolean> {
  process.kill(tunnel.pid, 'SIGTERM');
  for (let waited = 0; waited < STOP_MS_MAX; waited += STOP_POLL_MS) {
    await sleep(STOP_POLL_MS);
    if (!isAlive(tunnel)) return true;
  }
  return false;
}

function readEntry(path: string): RunningTunnel | null {
  try {
    const parsed = entrySchema.safeParse(JSON.parse(readFileSync(path, 'utf8')));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

function isAlive(tunnel: RunningTunnel): boolean {
  try {
    process.kill(tunnel.pid, 0);
  } catch {
    return false;
  }
  return startOf(tunnel.pid) === tunnel.process_started;
}

/** When a process began: field 22 of /proc/PID/stat (proc(5)) on Linux, what `ps` says elsewhere; null where it is gone. */
function startOf(pid: number): string | null {
  if (process.platform === 'linux') {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
      // The second field, the name in parentheses, may hold anything.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return fields[0] === 'Z' ? null : (fields[19] ?? null);
    } catch {
      return null;
    }
  }
  if (process.platform === 'win32') return '';
  const { stdout, status } = spawnSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : null;
}
