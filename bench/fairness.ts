import { spawn } from 'node:child_process';
import pg from 'pg';
import { digits, median, milliseconds, percentile, table } from './lib/figures.ts';
import { atRest, interleaved } from './lib/load.ts';
import { direct, haproxy, type Peer, pgbouncer, sallyport } from './lib/peers.ts';
import { memoryKiB } from './lib/process.ts';
import { Section } from './lib/results.ts';
import { type BenchOptions, nameWithRuns } from './lib/round-trips.ts';
import { postgresEnvironment, prepared, versionsText } from './postgres.ts';

/** Round trips that one session makes, one after another, while others download. */
const ROUND_TRIPS = 1500;
const WARM_UP_ROUND_TRIPS = 200;
/** Medians of fewer say little: the 99th percentile beside a download is a matter of luck. */
const RUNS_MIN = 5;
const STALLED_MS = 1_000;

interface FairnessSample {
  /** 99th percentiles in milliseconds. */
  readonly alone: number;
  readonly beside: number;
  /** MiB. */
  readonly stalled: number;
}

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
  const runs = Math.max(RUNS_MIN, options.runs);
  const section = new Section('fairness', [
    '## One session and its neighbours',
    `One session makes ${ROUND_TRIPS} round trips, alone and while another downloads by COPY without pause; ${runs} interleaved runs, the medians of their 99th percentiles. The download takes CPU from everybody on a small machine, so the row to compare with is the first. Then a client asks for 100 MB and does not read: what the one in between has grown by after ${STALLED_MS / 1000} s, the most of all runs.`,
    versionsText(),
  ]);
  try {
    const samples = await interleaved(peers, runs, async (peer): Promise<FairnessSample> => {
      const alone = percentile(await latencies(peer, backend), 0.99);
      const end = download(peer, backend);
      try {
        const beside = percentile(await latencies(peer, backend), 0.99);
        end();
        await atRest(peer);
        const stalled = peer.pids.length === 0 ? Number.NaN : await stalledReader(peer, backend);
        await atRest(peer);
        return { alone, beside, stalled };
      } finally {
        end();
      }
    });
    const of = (peer: Peer, field: (sample: FairnessSample) => number): number =>
      median(samples.get(peer)!.map(field));
    section.add(
      null,
      table(
        ['', 'p99 alone, ms', 'p99 beside a download, ms', 'more, ms', 'MiB for a reader that stands still'],
        peers.map((peer) => [
          nameWithRuns(peer, samples.get(peer)!.length, runs),
          milliseconds(of(peer, ({ alone }) => alone)),
          milliseconds(of(peer, ({ beside }) => beside)),
          digits(of(peer, ({ beside }) => beside) - of(peer, ({ alone }) => alone)),
          digits(Math.max(...samples.get(peer)!.map(({ stalled }) => stalled))),
        ]),
      ),
    );
  } finally {
    for (const peer of peers) await peer.stop();
    await server.stop();
  }
}

type Where = { readonly user: string; readonly database: string };

/** Downloads again and again until the returned function is called. */
function download(peer: Peer, where: Where): () => void {
  const child = spawn('sh', ['-c', 'while :; do psql -qXc "copy bulk to stdout" > /dev/null || exit; done'], {
    stdio: 'ignore',
    detached: true,
    env: {
      ...postgresEnvironment(peer),
      PGHOST: '127.0.0.1',
      PGPORT: String(peer.port),
      PGUSER: where.user,
      PGDATABASE: where.database,
    },
  });
  let ended = false;
  return () => {
    if (ended) return;
    ended = true;
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // It ended by itself, because its peer did.
    }
  };
}

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
  for (let index = 0; index < WARM_UP_ROUND_TRIPS + ROUND_TRIPS; index += 1) {
    const started = performance.now();
    await client.query('select 1');
    if (index >= WARM_UP_ROUND_TRIPS) found.push(performance.now() - started);
  }
  await client.end();
  return found;
}

/** Growth of the one in between, in MiB, some time after a client has asked for 100 MB and reads nothing. */
async function stalledReader(peer: Peer, where: Where): Promise<number> {
  const client = connection(peer, where);
  await client.connect();
  const before = memoryKiB(peer.pids);
  const { stream } = (client as unknown as { connection: { stream: { pause(): void; destroy(): void } } })
    .connection;
  client.query('select * from bulk').catch(() => {});
  // The query is written in this turn of the event loop; nothing is read from here on.
  stream.pause();
  await new Promise((resolve) => setTimeout(resolve, STALLED_MS));
  const after = memoryKiB(peer.pids);
  stream.destroy();
  return (after - before) / 1024;
}
