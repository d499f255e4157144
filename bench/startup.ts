import { digits, median, table } from './lib/figures.ts';
import { interleaved } from './lib/load.ts';
import { type Backend, haproxy, type Peer, pgbouncer, sallyport } from './lib/peers.ts';
import { Section } from './lib/results.ts';
import type { BenchOptions } from './lib/round-trips.ts';
import { versionsText } from './postgres.ts';

/** From the start of the process to the first accepted connection. */
export async function startup(options: BenchOptions): Promise<void> {
  const backend: Backend = { type: 'postgres', port: 1, user: 'a', password: 'b', database: 'c' };
  const starters: { readonly name: string; begin(): Promise<Peer> }[] = [
    { name: 'HAProxy', begin: () => haproxy(backend) },
    { name: 'PgBouncer', begin: () => pgbouncer(backend) },
    { name: 'Sallyport', begin: () => sallyport(backend, { recording: 'flushed' }) },
  ];
  const section = new Section('start-up', [
    '## Start-up',
    `Until the port takes connections (looked at every 20 ms), Sallyport from its sources and not from a compiled package, with a data directory that it has to make first; ${options.runs} interleaved runs.`,
    versionsText(),
  ]);
  const times = await interleaved(starters, options.runs, async ({ begin }) => {
    const started = performance.now();
    const peer = await begin();
    const taken = performance.now() - started;
    await peer.stop();
    return taken;
  });
  const reference = median(times.get(starters[0]!)!);
  section.add(
    null,
    table(
      ['', 'start, ms', 'start ÷ HAProxy'],
      starters.map((starter) => {
        const taken = median(times.get(starter)!);
        return [starter.name, digits(taken), digits(taken / reference)];
      }),
    ),
  );
}
