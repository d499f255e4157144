import { spawn } from 'node:child_process';
import pg from 'pg';
import { digits, median, percentile, table } from './lib/figures.ts';
import { direct, haproxy, type Peer, pgbouncer, sallyport } from './lib/peers.ts';
import { memoryKiB } from './lib/process.ts';
import { writeSection } from './lib/results.ts';
import { type BenchOptions, prepared } from './postgres.ts';

/** Round trips that one session makes, one after another, while others download. */
const ROUND_TRIPS = 1500;

/** What one session that downloads at full speed costs another's latency, and what a reader that stands still costs in memory. */
export async function fairness(options: BenchOptions): Promise<void> {
  const { server, backend } = await prepared();
  await server.query(
    'CREATE UNLOGGED TABLE bulk AS SELECT n AS id, repeat(md5(n::text), 30) AS body FROM generate_series(1, 100000) n; GRANT ALL ON bulk TO PUBLIC',
  );
  const peers = [
    direct(backend),
    await haproxy(backend),
    await pgbouncer(backend),
    await sallyport(backend, { recording: 'flushed' }),
  ];
  const rows: string[][] = [];
  try {
    for (const peer of peers) {
      const quiet: number[] = [];
      const busy: number[] = [];
      for (let round = 0; round < options.runs; round += 1) {
        quiet.push(percentile(await latencies(peer, backend), 0.99));
        const download = spawn(
          'sh',
          ['-c', 'while :; do psql -qXc "copy bulk to stdout" > /dev/null || exit; done'],
          {
            stdio: 'ignore',
            detached: true,
            env: {
              PATH: process.env['PATH'],
              PGHOST: '127.0.0.1',
              PGPORT: String(peer.port),
              PGUSER: backend.user,
              PGDATABASE: backend.database,
              PGSSLMODE: 'disable',
              ...(peer.password === null ? {} : { PGPASSWORD: peer.password }),
            },
          },
        );
        busy.push(percentile(await latencies(peer, backend), 0.99));
        process.kill(-download.pid!, 'SIGKILL');
      }
      rows.push([
        peer.name,
        digits(median(quiet)),
        digits(median(busy)),
        digits(median(busy) - median(quiet)),
        peer.pids.length === 0 ? '–' : digits(await stalledReader(peer, backend)),
      ]);
    }
  } finally {
    for (const peer of peers) await peer.stop();
    await server.stop();
  }
  const text = table(
    ['', 'p99 alone, ms', 'p99 beside a download, ms', 'more, ms', 'MiB for a reader that stands still'],
    rows,
  );
  console.log(text);
  writeSection(
    'fairness',
    `## One session and its neighbours\n\nOne session makes ${ROUND_TRIPS} round trips, alone and while another downloads by COPY without pause; ${options.runs} times. The download takes CPU from everybody on a small machine, so the row to compare with is the first. Then a client asks for 100 MB and does not read.\n\n${text}`,
  );
}

type Where = { readonly user: string; readonly database: string };

function connection(peer: Peer, where: Where): pg.Client {
  const client = new pg.Client({
    host: '127.0.0.1',
    port: peer.port,
    user: where.user,
    database: where.database,
    ...(peer.password === null ? {} : { password: peer.password }),
  });
  client.on('error', () => {});
  return client;
}

async function latencies(peer: Peer, where: Where): Promise<number[]> {
  const client = connection(peer, where);
  await client.connect();
  const found: number[] = [];
  for (let index = 0; index < ROUND_TRIPS; index += 1) {
    const started = performance.now();
    await client.query('select 1');
    found.push(performance.now() - started);
  }
  await client.end();
  return found;
}

/** Growth of the one in between, in MiB, two seconds after a client has asked for 100 MB and reads nothing. */
async function stalledReader(peer: Peer, where: Where): Promise<number> {
  const client = connection(peer, where);
  await client.connect();
  const before = memoryKiB(peer.pids);
  const { stream } = (client as unknown as { connection: { stream: { pause(): void; destroy(): void } } })
    .connection;
  client.query('select * from bulk').catch(() => {});
  stream.pause();
  await new Promise((resolve) => setTimeout(resolve, 2000));
  const after = memoryKiB(peer.pids);
  stream.destroy();
  return (after - before) / 1024;
}
