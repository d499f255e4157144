import { mkdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { RecordingError } from './recorder.ts';

/** The lock that the process of a boot holds while its journal is open: beside its segments. */
export function bootLockPath(directory: string, boot: string): string {
  return join(directory, `${boot}.lock`);
}

/**
 * Keeps two processes from using one directory. The file names its process by id and start time, so that a file left by
 * a crash, whose id may have been given away since, holds nobody up.
 */
export class Lock {
  readonly #path: string;

  /** Whether a living process other than this one holds the lock at `path`. */
  static isHeld(path: string): boolean {
    let holder: string;
    try {
      holder = readFileSync(path, 'utf8');
    } catch {
      return false;
    }
    return Number(holder.split(' ')[0]) !== process.pid && alive(holder);
  }

  /** Throws `RecordingError` when a living process holds the lock. */
  constructor(path: string) {
    this.#path = path;
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    for (let attempt = 0; attempt < 2; attempt += 1) {
      try {
        writeFileSync(path, identity(process.pid), { flag: 'wx', mode: 0o600 });
        return;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST')
          throw new RecordingError(`${path} cannot be written`, { cause: error });
      }
      const holder = readFileSync(path, 'utf8');
      if (alive(holder)) {
        throw new RecordingError(
          `${dirname(path)} is in use by process ${holder.split(' ')[0]}; two gateways need two data directories`,
        );
      }
      unlinkSync(path);
    }
    throw new RecordingError(`${path} is being taken by another process`);
  }

  release(): void {
    try {
      unlinkSync(this.#path);
    } catch {
      // Gone already, or the directory is: nobody is held up.
    }
  }
}

function identity(pid: number): string {
  return `${pid} ${startTime(pid) ?? ''}`;
}

function alive(holder: string): boolean {
  const [pid = '', started = ''] = holder.split(' ');
  if (!/^\d+$/.test(pid)) return false;
  try {
    process.kill(Number(pid), 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  return started === '' || startTime(Number(pid)) === started;
}

/** When a process started, in the kernel's clock ticks (proc(5), field 22); null where there is no /proc. */
function startTime(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    return null;
  }
}
