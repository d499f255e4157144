import { digits, median, milliseconds, table } from './figures.ts';
import { interleaved } from './load.ts';
import type { LoopDelay } from './loop-delay.ts';
import type { Peer } from './peers.ts';
import type { Section } from './results.ts';
import type { CpuUse } from './usage.ts';

export interface BenchOptions {
  readonly runs: number;
  readonly seconds: number;
  readonly clients: readonly number[];
}

/** All ways of recording are compared at this many clients; at others, the two that matter. */
export const VARIANTS_CLIENTS = 8;
/** Of a protocol's two ways of asking, the second is measured with fewer: its difference is the same. */
const SECOND_CLIENTS = [8, 64];

/** One run of round trips. CPU time is that of the one in between, in microseconds a round trip. */
export interface RoundTripSample extends CpuUse {
  /** Round trips a second. */
  readonly throughput: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
  readonly loopDelay: LoopDelay | null;
}

export interface RoundTripTableOptions {
  readonly runs: number;
  readonly clients: number;
  /** Whose CPU time is 1. */
  readonly reference: Peer;
}

/** What the columns of `roundTripTable` mean, for the head of a section. */
export const COLUMNS_TEXT =
  'In brackets: as a multiple of what is measured directly. CPU time is that of the one in between, in µs a round trip: all its threads; of it user and kernel; of it the thread that relays, the thread that seals and indexes recordings, and the rest (garbage collection, compilation, the pool). Event loop: how late its timers ran, p50 / p99 / most, by the gateway’s own metrics.';

/** Medians of the runs of each peer; the first is what latency and throughput are compared with. */
export function roundTripTable(
  samples: ReadonlyMap<Peer, readonly RoundTripSample[]>,
  options: RoundTripTableOptions,
): string {
  const peers = [...samples.keys()];
  const of = (peer: Peer, value: (sample: RoundTripSample) => number): number =>
    median(samples.get(peer)!.map(value));
  const base = peers[0]!;
  const latency = (peer: Peer, value: (sample: RoundTripSample) => number): string =>
    `${milliseconds(of(peer, value))} (${digits(of(peer, value) / of(base, value))})`;
  const isAlone = options.clients === 1;
  const head = [
    '',
    'throughput ÷ direct',
    'p50, ms',
    ...(isAlone ? ['p50 added, µs'] : []),
    'p99, ms',
    'CPU, µs',
    'user + system',
    'relaying + sealing + rest',
    `CPU ÷ ${options.reference.name}`,
    'relaying ÷ the same',
    'event loop, ms',
  ];
  const rows = peers.map((peer) => {
    const cells = [
      nameWithRuns(peer, samples.get(peer)!.length, options.runs),
      digits(of(peer, ({ throughput }) => throughput) / of(base, ({ throughput }) => throughput)),
      latency(peer, ({ p50 }) => p50),
      ...(isAlone ? [digits((of(peer, ({ p50 }) => p50) - of(base, ({ p50 }) => p50)) * 1000)] : []),
      latency(peer, ({ p99 }) => p99),
    ];
    if (peer.pids.length === 0) return [...cells, '–', '–', '–', '–', '–', '–'];
    const total = of(peer, (sample) => sample.total);
    const reference = of(options.reference, (sample) => sample.total);
    const relaying = of(peer, (sample) => sample.relaying);
    return [
      ...cells,
      digits(total),
      `${digits(of(peer, ({ user }) => user))} + ${digits(of(peer, ({ system }) => system))}`,
      peer.httpPort === undefined
        ? '–'
        : `${digits(relaying)} + ${digits(of(peer, ({ sealing }) => sealing))} + ${digits(of(peer, ({ rest }) => rest))}`,
      digits(total / reference),
      peer.httpPort === undefined ? '–' : digits(relaying / reference),
      loopDelayCell(samples.get(peer)!),
    ];
  });
  return table(head, rows);
}

/** One way of asking, between the same peers. */
export interface RoundTripPart {
  readonly title: string;
  readonly peers: readonly Peer[];
  /** Further ways of recording, at `VARIANTS_CLIENTS`. */
  readonly variants: readonly Peer[];
  readonly reference: Peer;
  /** The first of the protocol's ways, measured at every number of clients. */
  readonly isMain: boolean;
  readonly measure: (peer: Peer, clients: number) => Promise<RoundTripSample>;
}

/** Adds a table for each number of clients. */
export async function addRoundTrips(
  section: Section,
  { runs, clients: counts }: BenchOptions,
  { title, peers, variants, reference, isMain, measure }: RoundTripPart,
): Promise<void> {
  for (const clients of counts) {
    if (!isMain && !SECOND_CLIENTS.includes(clients)) continue;
    const measured = clients === VARIANTS_CLIENTS ? [...peers, ...variants] : peers;
    const samples = await interleaved(measured, runs, (peer) => measure(peer, clients));
    section.add(
      `${title}, ${clients} client${clients === 1 ? '' : 's'}`,
      roundTripTable(samples, { runs, clients, reference }),
    );
  }
}

/** The name, and how many runs there were where some failed. */
export function nameWithRuns(peer: { readonly name: string }, found: number, runs: number): string {
  return found === runs ? peer.name : `${peer.name} (${found} of ${runs} runs)`;
}

function loopDelayCell(samples: readonly RoundTripSample[]): string {
  const delays = samples.flatMap(({ loopDelay }) => (loopDelay === null ? [] : [loopDelay]));
  if (delays.length === 0) return '–';
  const of = (value: (delay: LoopDelay) => number): string => digits(median(delays.map(value)));
  return `${of(({ p50 }) => p50)} / ${of(({ p99 }) => p99)} / ${of(({ max }) => max)}`;
}
