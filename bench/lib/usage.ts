import { readdirSync, readFileSync } from 'node:fs';

/**
 * CPU time of processes by thread, from `/proc`. What a thread has run is in `schedstat`, in nanoseconds; how it divides
 * into user and system is in `stat`, in ticks.
 */

/** One clock tick of `/proc`: Linux has 100 a second on every platform that Node runs on. */
const TICKS_PER_SECOND = 100;
const NANOSECONDS = 1e9;
/** What Node calls the threads of `node:worker_threads`; Sallyport has one, which seals recordings. */
const WORKER_NAME = 'WorkerThread';

/** CPU time in seconds. */
export interface CpuUse {
  /** All threads: `user` and `system` together, and `relaying`, `sealing` and `rest` together. */
  readonly total: number;
  readonly user: number;
  readonly system: number;
  /** The processes' first threads: for Sallyport the event loop that relays. */
  readonly relaying: number;
  /** Sallyport's thread that seals and indexes recordings. */
  readonly sealing: number;
  /** Everything else: V8's helpers (garbage collection, compilation) and libuv's pool (files, TLS keys, SCRAM). */
  readonly rest: number;
}

/** CPU time of each live thread at one moment. */
export type CpuSnapshot = ReadonlyMap<string, ThreadTime>;

interface ThreadTime {
  readonly kind: 'relaying' | 'sealing' | 'rest';
  readonly seconds: number;
  readonly userTicks: number;
  readonly systemTicks: number;
}

/** Reads all threads of `pids`. A process that has ended has none. */
export function cpuSnapshot(pids: readonly number[]): CpuSnapshot {
  const found = new Map<string, ThreadTime>();
  for (const pid of pids) {
    for (const thread of threadsOf(pid)) {
      const time = threadTime(pid, thread);
      if (time !== null) found.set(`${pid}/${thread}`, time);
    }
  }
  return found;
}

/** What the threads have used between two snapshots. A thread that ended in between counts for nothing. */
export function cpuBetween(before: CpuSnapshot, after: CpuSnapshot): CpuUse {
  const sums = { relaying: 0, sealing: 0, rest: 0 };
  let userTicks = 0;
  let systemTicks = 0;
  for (const [thread, now] of after) {
    const then = before.get(thread);
    sums[now.kind] += now.seconds - (then?.seconds ?? 0);
    userTicks += now.userTicks - (then?.userTicks ?? 0);
    systemTicks += now.systemTicks - (then?.systemTicks ?? 0);
  }
  const total = sums.relaying + sums.sealing + sums.rest;
  const ticks = userTicks + systemTicks;
  const user = ticks === 0 ? total : (total * userTicks) / ticks;
  return { total, user, system: total - user, ...sums };
}

/** The same use for one of `count` equal works, in microseconds. */
export function perWork(use: CpuUse, count: number): CpuUse {
  const scaled = (seconds: number): number => (seconds * 1e6) / count;
  return {
    total: scaled(use.total),
    user: scaled(use.user),
    system: scaled(use.system),
    relaying: scaled(use.relaying),
    sealing: scaled(use.sealing),
    rest: scaled(use.rest),
  };
}

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

function threadTime(pid: number, thread: string): ThreadTime | null {
  const folder = `/proc/${pid}/task/${thread}`;
  try {
    const text = readFileSync(`${folder}/stat`, 'utf8');
    // The thread's name may hold blanks and parentheses; the fields behind it do not.
    const name = text.slice(text.indexOf('(') + 1, text.lastIndexOf(')'));
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    const userTicks = Number(fields[11]);
    const systemTicks = Number(fields[12]);
    return {
      kind: thread === String(pid) ? 'relaying' : name === WORKER_NAME ? 'sealing' : 'rest',
      seconds: ranSeconds(folder) ?? (userTicks + systemTicks) / TICKS_PER_SECOND,
      userTicks,
      systemTicks,
    };
  } catch {
    return null;
  }
}

/** Null where the kernel keeps no such statistics. */
function ranSeconds(folder: string): number | null {
  try {
    return Number(readFileSync(`${folder}/schedstat`, 'utf8').split(' ')[0]) / NANOSECONDS;
  } catch {
    return null;
  }
}
