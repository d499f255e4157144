import { digits, median, table } from './lib/figures.ts';
import { type Backend, haproxy, pgbouncer, sallyport } from './lib/peers.ts';
import { writeSection } from './lib/results.ts';
import type { BenchOptions } from './postgres.ts';

/** From the start of the process to the first accepted connection. */
export async function startup(options: BenchOptions): Promise<void> {
  const backend: Backend = { type: 'postgres', port: 1, user: 'a', password: 'b', database: 'c' };
  const starters = [
    ['HAProxy', () => haproxy(backend)],
    ['PgBouncer', () => pgbouncer(backend)],
    ['Sallyport', () => sallyport(backend, { recording: 'flushed' })],
  ] as const;
  const times = new Map<string, number[]>(starters.map(([name]) => [name, []]));
  for (let round = 0; round < options.runs; round += 1) {
    for (const [name, begin] of starters) {
      const started = performance.now();
      const peer = await begin();
      times.get(name)!.push(performance.now() - started);
      await peer.stop();
    }
  }
  const reference = median(times.get('HAProxy')!);
  const text = table(
    ['', 'start ÷ HAProxy'],
    [...times].map(([name, values]) => [name, digits(median(values) / reference)]),
  );
  console.log(text);
  writeSection(
    'start-up',
    `## Start-up\n\nUntil the port takes connections, sources and no compiled package; ${options.runs} times.\n\n${text}`,
  );
}
