import { mkdtempSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digits, median, table } from './lib/figures.ts';
import { atRest, interleaved, Meter } from './lib/load.ts';
import { direct, haproxy, type Peer, pgbouncer, sallyport } from './lib/peers.ts';
import { resetPeak, residentKiB, run } from './lib/process.ts';
import { Section } from './lib/results.ts';
import { type BenchOptions, nameWithRuns } from './lib/round-trips.ts';
import type { CpuUse } from './lib/usage.ts';
import { postgresEnvironment, prepared, versionsText } from './postgres.ts';

const ROWS = 100_000;
const SELECT_ROWS = 50_000;
const ROW_BYTES = 30 * 32 + 8;
const UPLOAD_BYTES = 96_000_000;
const BYTES_PER_GB = 1e9;

/** One transfer: how long it took, and what the one in between used for it. */
export interface BulkSample {
  readonly seconds: number;
  readonly cpu: CpuUse;
  /** What it grew by at most, in MiB. */
  readonly growth: number;
}

/** One transfer through a peer, measured. `transfer` gives the time it took where it knows better. */
export async function transferred(
  peer: Peer,
  transfer: () => Promise<{ seconds: number; cpu: CpuUse } | null>,
): Promise<BulkSample> {
  resetPeak(peer.pids);
  const before = residentKiB(peer.pids, 'now');
  const meter = await Meter.open(peer);
  const own = await transfer();
  const { seconds, cpu } = await meter.close();
  const growth = (residentKiB(peer.pids, 'peak') - before) / 1024;
  await atRest(peer);
  return { seconds, cpu, ...own, growth };
}

/** A tenth of a gigabyte down by COPY, half of that by SELECT, and a tenth up by COPY. */
export async function bulk(options: BenchOptions): Promise<void> {
  const { server, backend } = await prepared();
  await server.query(
    `CREATE UNLOGGED TABLE bulk AS SELECT n AS id, repeat(md5(n::text), 30) AS body FROM generate_series(1, ${ROWS}) n;
     CREATE UNLOGGED TABLE upload (id int, body text); GRANT ALL ON bulk, upload TO PUBLIC`,
  );
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-rows-'));
  const file = join(folder, 'rows.tsv');
  await writeRows(file, UPLOAD_BYTES);
  const peers = [
    direct(backend),
    await haproxy(backend),
    await pgbouncer(backend),
    await sallyport(backend, { recording: 'off' }),
    await sallyport(backend, { recording: 'flushed' }),
    await sallyport(backend, {
      recording: 'flushed',
      resourceRecording: '{ sample_rows: 10 }',
      name: 'Sallyport flushed, 10 sample rows',
    }),
  ];
  const works = [
    { name: 'down, COPY', bytes: ROWS * ROW_BYTES, command: 'psql -qXc "copy bulk to stdout" > /dev/null' },
    {
      name: 'down, SELECT',
      bytes: SELECT_ROWS * ROW_BYTES,
      command: `psql -qXAt -v FETCH_COUNT=0 -c "select * from bulk limit ${SELECT_ROWS}" > /dev/null`,
    },
    {
      name: 'up, COPY',
      bytes: UPLOAD_BYTES,
      command: `psql -qXc "copy upload from stdin" < ${file}`,
    },
  ];
  const section = new Section('postgres bulk', [
    '## PostgreSQL: bulk',
    `\`psql\`, ${options.runs} interleaved runs of each. ${BULK_COLUMNS_TEXT}`,
    versionsText(),
  ]);
  try {
    for (const { name, bytes, command } of works) {
      const samples = await interleaved(peers, options.runs, async (peer) => {
        if (name.startsWith('up')) await server.query('TRUNCATE upload');
        return transferred(peer, async () => {
          await run('sh', ['-c', command], {
            env: {
              ...postgresEnvironment(peer),
              PGHOST: '127.0.0.1',
              PGPORT: String(peer.port),
              PGUSER: backend.user,
              PGDATABASE: backend.database,
            },
          });
          return null;
        });
      });
      section.add(`${name}, ${digits(bytes / 1e6)} MB`, bulkTable(samples, options.runs, bytes));
    }
  } finally {
    for (const peer of peers) await peer.stop();
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A file of two columns, a number and a text, as both COPY and LOAD DATA read it; about so long. */
export async function writeRows(file: string, bytes: number): Promise<void> {
  const row = `1\t${'x'.repeat(950)}\n`;
  await writeFile(file, row.repeat(Math.floor(bytes / row.length)));
}

export const BULK_COLUMNS_TEXT =
  'CPU time is that of the one in between, all its threads, in seconds for each gigabyte (10⁹ bytes). The last column is what its resident memory grew by at most while the transfer ran.';

/** Times as multiples of the first peer's, CPU time of the second as 1. */
export function bulkTable(
  samples: ReadonlyMap<{ readonly name: string; readonly pids: readonly number[] }, readonly BulkSample[]>,
  runs: number,
  bytes: number,
): string {
  const peers = [...samples.keys()];
  const time = (peer: (typeof peers)[number]): number =>
    median(samples.get(peer)!.map(({ seconds }) => seconds));
  const cpu = (peer: (typeof peers)[number], of: (use: CpuUse) => number): number =>
    (median(samples.get(peer)!.map((sample) => of(sample.cpu))) * BYTES_PER_GB) / bytes;
  const [base, reference] = peers as [(typeof peers)[number], (typeof peers)[number]];
  return table(
    ['', 'time ÷ direct', 'CPU, s a GB', 'user + system', `CPU ÷ ${reference.name}`, 'MiB more'],
    peers.map((peer) => [
      nameWithRuns(peer, samples.get(peer)!.length, runs),
      digits(time(peer) / time(base)),
      ...(peer.pids.length === 0
        ? ['–', '–', '–', '–']
        : [
            digits(cpu(peer, ({ total }) => total)),
            `${digits(cpu(peer, ({ user }) => user))} + ${digits(cpu(peer, ({ system }) => system))}`,
            digits(cpu(peer, ({ total }) => total) / cpu(reference, ({ total }) => total)),
            digits(median(samples.get(peer)!.map(({ growth }) => growth))),
          ]),
    ]),
  );
}
