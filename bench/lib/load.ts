import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LoopDelay, loopDelay } from './loop-delay.ts';
import type { Peer } from './peers.ts';
import { type CpuSnapshot, type CpuUse, cpuBetween, cpuSnapshot } from './usage.ts';

/** One look for rest, and the CPU time within it that still counts as rest. */
const REST_LOOK_MS = 50;
const REST_CPU_SECONDS_MAX = 0.004;
const REST_MS_MAX = 4_000;

/** What a peer used between `Meter.open` and `close`. */
export interface Metered {
  readonly cpu: CpuUse;
  readonly seconds: number;
  readonly loopDelay: LoopDelay | null;
}

/** Measures one peer for a while. */
export class Meter {
  readonly #peer: Peer;
  readonly #before: CpuSnapshot;
  /** As of `performance.now()`. */
  readonly openedAt = performance.now();

  private constructor(peer: Peer) {
    this.#peer = peer;
    this.#before = cpuSnapshot(peer.pids);
  }

  /** Asking for the delays so far begins them anew. */
  static async open(peer: Peer): Promise<Meter> {
    await loopDelay(peer);
    return new Meter(peer);
  }

  /** The CPU time is that of the moment of the call. */
  async close(): Promise<Metered> {
    const cpu = cpuBetween(this.#before, cpuSnapshot(this.#peer.pids));
    const seconds = (performance.now() - this.openedAt) / 1000;
    return { cpu, seconds, loopDelay: await loopDelay(this.#peer) };
  }
}

export interface Loaded extends Metered {
  readonly output: string;
  readonly errors: string;
  /** Seconds between the line that said so (`begins`) and the opening of the meter. */
  readonly lateSeconds: number;
  /** When the meter was opened, in milliseconds since the epoch. */
  readonly openedAtEpoch: number;
}

/**
 * Runs a load generator to its end, and measures the peer from the moment that its output matches `begins`: sign-ins and
 * warm-up stay outside. Rejects when it fails, or never says so.
 */
export async function loaded(
  peer: Peer,
  command: string,
  args: readonly string[],
  options: { readonly env?: NodeJS.ProcessEnv; readonly cwd?: string; readonly begins: RegExp },
): Promise<Loaded> {
  const { env = process.env, cwd } = options;
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env,
    ...(cwd === undefined ? {} : { cwd }),
  });
  let output = '';
  let errors = '';
  let begunAt: number | null = null;
  let opening: Promise<Meter> | null = null;
  const look = (text: string): void => {
    if (opening !== null || !options.begins.test(text)) return;
    begunAt = performance.now();
    opening = Meter.open(peer);
  };
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString('utf8');
    look(output);
  });
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString('utf8');
    look(errors);
  });
  let metered: Promise<Metered> | null = null;
  let meter: Meter | null = null;
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', () => {
      metered = Promise.resolve(opening).then((opened) => {
        meter = opened;
        return opened === null
          ? Promise.reject(new Error(`${command} ended before its load began`))
          : opened.close();
      });
      metered.catch(() => {});
    });
    child.once('close', resolve);
  });
  if (code !== 0)
    throw new Error(
      `${command} ${args.join(' ')} failed (${code}):\n${errors.slice(-2000)}\n${output.slice(-2000)}`,
    );
  const found = await metered!;
  const openedAt = (meter as unknown as Meter).openedAt;
  return {
    ...found,
    output,
    errors,
    lateSeconds: (openedAt - begunAt!) / 1000,
    openedAtEpoch: performance.timeOrigin + openedAt,
  };
}

/** Waits until the peer does nothing any more (what one run left to do must not count for the next), for some seconds at most. */
export async function atRest(peer: Peer): Promise<void> {
  const deadline = performance.now() + REST_MS_MAX;
  while (peer.pids.length > 0 && performance.now() < deadline) {
    const before = cpuSnapshot(peer.pids);
    await sleep(REST_LOOK_MS);
    if (cpuBetween(before, cpuSnapshot(peer.pids)).total <= REST_CPU_SECONDS_MAX) return;
  }
}

/**
 * Measures every peer once a round, every other round in the opposite order, so that neither drift nor neighbours favour
 * one of them. What fails is tried once more; what fails again is left out, and said.
 */
export async function interleaved<Subject extends { readonly name: string }, Sample>(
  subjects: readonly Subject[],
  runs: number,
  measure: (subject: Subject) => Promise<Sample>,
): Promise<Map<Subject, Sample[]>> {
  const samples = new Map<Subject, Sample[]>(subjects.map((subject) => [subject, []]));
  for (let round = 0; round < runs; round += 1) {
    for (const subject of round % 2 === 0 ? subjects : [...subjects].reverse()) {
      const sample = await twice(subject.name, () => measure(subject));
      if (sample !== null) samples.get(subject)!.push(sample);
    }
  }
  return samples;
}

async function twice<Sample>(name: string, work: () => Promise<Sample>): Promise<Sample | null> {
  for (const attempt of ['trying once more', 'left out of this round']) {
    try {
      return await work();
    } catch (error) {
      console.error(`${name}: ${(error as Error).message.trim()}\n(${attempt})`);
    }
  }
  return null;
}
