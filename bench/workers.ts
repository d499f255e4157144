import { availableParallelism } from 'node:os';
import { digits, median, table } from './lib/figures.ts';
import { interleaved } from './lib/load.ts';
import { direct, type Peer, sallyport } from './lib/peers.ts';
import { Section } from './lib/results.ts';
import { type BenchOptions, COLUMNS_TEXT, type RoundTripSample, roundTripTable } from './lib/round-trips.ts';
import { prepared, select, versionsText } from './postgres.ts';

/** Enough to keep several processes busy, and many more. */
const CLIENTS = [8, 64];

/** Round trips through one process and through two workers beside the one that looks after them, in the same runs. */
export async function workers(options: BenchOptions): Promise<void> {
  const { server, backend } = await prepared({}, { account: 'trust' });
  const one = await sallyport(backend, { recording: 'flushed', workers: 1, name: 'Sallyport, one process' });
  const two = await sallyport(backend, { recording: 'flushed', workers: 2, name: 'Sallyport, 2 workers' });
  const peers = [direct(backend), one, two];
  const section = new Section('workers', [
    '## PostgreSQL: workers',
    `\`pgbench -S\` in the simple protocol, one thread, ${options.runs} interleaved runs of ${options.seconds} s; \`gateway.workers\` 1 and 2, durability \`flushed\`. Load generator, server and gateway share the ${availableParallelism()} cores of this machine, so that a second worker gains what they leave. CPU time is that of all processes of the gateway. ${COLUMNS_TEXT}`,
    versionsText(),
  ]);
  const ratios: string[][] = [];
  try {
    for (const clients of CLIENTS) {
      const samples = await interleaved(peers, options.runs, (peer) =>
        select(peer, backend, 'simple', clients, options.seconds),
      );
      section.add(
        `${clients} clients`,
        roundTripTable(samples, { runs: options.runs, clients, reference: one }),
      );
      ratios.push([String(clients), ...ratiosOf(samples, one, two)]);
    }
    section.add(
      'two workers ÷ one process',
      table(['clients', 'throughput', 'p50', 'p99', 'CPU a round trip'], ratios),
    );
  } finally {
    for (const peer of peers) await peer.stop();
    await server.stop();
  }
}

function ratiosOf(samples: ReadonlyMap<Peer, readonly RoundTripSample[]>, one: Peer, two: Peer): string[] {
  const of = (peer: Peer, value: (sample: RoundTripSample) => number): number =>
    median(samples.get(peer)!.map(value));
  const values: ((sample: RoundTripSample) => number)[] = [
    ({ throughput }) => throughput,
    ({ p50 }) => p50,
    ({ p99 }) => p99,
    ({ total }) => total,
  ];
  return values.map((value) => digits(of(two, value) / of(one, value)));
}
