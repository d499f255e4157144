import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  DEBIAN_BIN,
  type PostgresAccounts,
  type PostgresOptions,
  type PostgresServer,
  startPostgres,
} from '../test/support/postgres.ts';
import { percentile } from './lib/figures.ts';
import { atRest, interleaved, loaded } from './lib/load.ts';
import { type Backend, direct, haproxy, type Peer, pgbouncer, sallyport } from './lib/peers.ts';
import { run } from './lib/process.ts';
import { machineText, Section, versionsOf } from './lib/results.ts';
import {
  addRoundTrips,
  type BenchOptions,
  COLUMNS_TEXT,
  type RoundTripSample,
  roundTripTable,
  VARIANTS_CLIENTS,
} from './lib/round-trips.ts';
import { perWork } from './lib/usage.ts';

const SCALE = 10;
/** `pgbench` tells of its progress by whole seconds, the first of which is the warm-up. */
const WARM_UP_SECONDS = 1;
/** With fewer round trips a figure means nothing, and the run is made once more, this many times as long. */
const ROUND_TRIPS_MIN = 50;
const LONGER = 4;
const LEVELS_SECONDS_MIN = 3;

type Mode = 'simple' | 'prepared';

/** Round trips of a select by primary key: throughput, latency, CPU time of the one in between. */
export async function roundTrips(options: BenchOptions): Promise<void> {
  const { server, backend } = await prepared({}, { account: 'trust' });
  const bouncer = await pgbouncer(backend);
  const main = [
    direct(backend),
    await haproxy(backend),
    bouncer,
    await sallyport(backend, { recording: 'off' }),
    await sallyport(backend, { recording: 'flushed' }),
  ];
  const variants: Record<Mode, Peer[]> = {
    simple: [
      await sallyport(backend, { recording: 'buffered' }),
      await sallyport(backend, { recording: 'synced' }),
      await sallyport(backend, {
        recording: 'flushed',
        resourceRecording: '{ sample_rows: 10 }',
        name: 'Sallyport flushed, 10 sample rows',
      }),
    ],
    // The simple protocol has no parameters.
    prepared: [
      await sallyport(backend, {
        recording: 'flushed',
        parameters: false,
        name: 'Sallyport flushed, no parameters',
      }),
    ],
  };
  const section = new Section('postgres round trips', [
    '## PostgreSQL: round trips',
    `\`pgbench -S\`, one thread, ${options.runs} interleaved runs of ${options.seconds} s behind a warm-up of ${WARM_UP_SECONDS} s; Sallyport records parameters unless it says otherwise. ${COLUMNS_TEXT}`,
    versionsText(),
  ]);
  try {
    for (const mode of ['simple', 'prepared'] as const)
      await addRoundTrips(section, options, {
        title: `${mode} protocol`,
        peers: main,
        variants: variants[mode],
        reference: bouncer,
        isMain: mode === 'simple',
        measure: (peer, clients) => select(peer, backend, mode, clients, options.seconds),
      });
  } finally {
    for (const peer of [...main, ...variants.simple, ...variants.prepared]) await peer.stop();
    await server.stop();
  }
}

/** The same round trips by what is recorded of them: each level alone, beside no recording at all. */
export async function levels(options: BenchOptions): Promise<void> {
  const { server, backend } = await prepared({}, { account: 'trust' });
  const level = (name: string, resourceRecording: string): Promise<Peer> =>
    sallyport(backend, { recording: 'flushed', resourceRecording, name: `Sallyport, ${name}` });
  const nothing = await sallyport(backend, { recording: 'off', name: 'Sallyport, nothing recorded' });
  const peers = [
    direct(backend),
    nothing,
    await level('statements without parameters', '{ parameters: "off" }'),
    await level('with parameters', '{ parameters: "on" }'),
    await level(
      'parameters and masks',
      `{ parameters: "on", masks: [{ columns: [aid, ssn] }, { pattern: '\\b\\d{4}-\\d{4}-\\d{4}-\\d{4}\\b' }] }`,
    ),
    await level('parameters and 10 sample rows', '{ parameters: "on", sample_rows: 10 }'),
    await level('parameters and raw frames', '{ parameters: "on", raw_frames: true }'),
  ];
  const seconds = Math.max(LEVELS_SECONDS_MIN, options.seconds);
  const section = new Section('postgres recording levels', [
    '## PostgreSQL: what each level of recording costs',
    `\`pgbench -S -M prepared\` (one parameter, results of one row), one thread, ${options.runs} interleaved runs of ${seconds} s behind a warm-up of ${WARM_UP_SECONDS} s; durability \`flushed\`, column names recorded at every level. ${COLUMNS_TEXT}`,
    versionsText(),
  ]);
  try {
    const samples = await interleaved(peers, options.runs, (peer) =>
      select(peer, backend, 'prepared', VARIANTS_CLIENTS, seconds),
    );
    section.add(
      `${VARIANTS_CLIENTS} clients`,
      roundTripTable(samples, { runs: options.runs, clients: VARIANTS_CLIENTS, reference: nothing }),
    );
  } finally {
    for (const peer of peers) await peer.stop();
    await server.stop();
  }
}

/** One run of `pgbench -S` through a peer. Throws when it gets nothing done, even in a longer one. */
export async function select(
  peer: Peer,
  backend: Backend,
  mode: Mode,
  clients: number,
  seconds: number,
): Promise<RoundTripSample> {
  for (const lasting of [seconds, seconds * LONGER]) {
    const sample = await selectFor(peer, backend, mode, clients, lasting);
    await atRest(peer);
    if (sample !== null) return sample;
  }
  throw new Error(`pgbench finished next to nothing in ${seconds * LONGER} s: give it more --seconds`);
}

async function selectFor(
  peer: Peer,
  backend: Backend,
  mode: Mode,
  clients: number,
  seconds: number,
): Promise<RoundTripSample | null> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-log-'));
  const lasting = WARM_UP_SECONDS + seconds;
  try {
    const found = await loaded(
      peer,
      join(DEBIAN_BIN, 'pgbench'),
      [
        ...['-n', '-S', '-M', mode, '-c', String(clients), '-j', '1', '-T', String(lasting)],
        ...[
          '-P',
          String(WARM_UP_SECONDS),
          '-l',
          '--sampling-rate=0.5',
          `--log-prefix=${join(folder, 'log')}`,
        ],
        ...['-h', '127.0.0.1', '-p', String(peer.port), '-U', backend.user, backend.database],
      ],
      { env: postgresEnvironment(peer), begins: PROGRESS },
    );
    const all = Number(/number of transactions actually processed: (\d+)/.exec(found.output)?.[1]);
    const [, warmSeconds, warmRate] = PROGRESS.exec(found.errors)!.map(Number) as [number, number, number];
    const measuredSeconds = lasting - warmSeconds - found.lateSeconds;
    const measured = (all - warmRate * warmSeconds) * (measuredSeconds / (lasting - warmSeconds));
    const latencies = loggedLatencies(folder, found.openedAtEpoch);
    if (!(measured >= ROUND_TRIPS_MIN) || latencies.length === 0) return null;
    return {
      throughput: measured / measuredSeconds,
      p50: percentile(latencies, 0.5),
      p99: percentile(latencies, 0.99),
      loopDelay: found.loopDelay,
      ...perWork(found.cpu, measured),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** `progress: 1.0 s, 8534.0 tps, …` */
const PROGRESS = /^progress: ([\d.]+) s, ([\d.]+) tps/m;

/** Milliseconds of what ended after `since` (milliseconds since the epoch), by pgbench's log. */
function loggedLatencies(folder: string, since: number): number[] {
  return readdirSync(folder)
    .flatMap((name) => readFileSync(join(folder, name), 'utf8').trim().split('\n'))
    .map((line) => line.split(' ').map(Number))
    .filter((fields) => fields[4]! * 1000 + fields[5]! / 1000 >= since)
    .map((fields) => fields[2]! / 1000);
}

/** A server with pgbench's tables, and one of its accounts to sign in with. */
export async function prepared(
  settings: Record<string, string | number> = {},
  options: { account?: keyof PostgresAccounts; tls?: PostgresOptions['tls'] } = {},
): Promise<{ server: PostgresServer; backend: Backend }> {
  const server = await startPostgres({
    settings: { log_statement: 'none', log_connections: 'off', max_connections: 1000, ...settings },
    ...(options.tls === undefined ? {} : { tls: options.tls }),
  });
  const { user, password } = server.accounts[options.account ?? 'launch'];
  const backend: Backend = {
    type: 'postgres',
    port: server.port,
    user,
    password: password ?? '',
    database: server.database,
  };
  await run(
    join(DEBIAN_BIN, 'pgbench'),
    [
      ...['-i', '-q', '-s', String(SCALE), '-h', '127.0.0.1', '-p', String(server.port)],
      ...['-U', user, server.database],
    ],
    { env: postgresEnvironment({ password }) },
  );
  await server.query('GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC');
  return { server, backend };
}

/** For libpq: the password that the peer wants, and TLS or none. */
export function postgresEnvironment(
  peer: { readonly password: string | null },
  sslmode: 'disable' | 'require' = 'disable',
): NodeJS.ProcessEnv {
  const { PATH, HOME } = process.env;
  return {
    PATH,
    HOME,
    PGSSLMODE: sslmode,
    ...(peer.password === null ? {} : { PGPASSWORD: peer.password }),
  };
}

/** Machine, and versions of what takes part. */
export function versionsText(): string {
  return machineText({ PostgreSQL: '18', ...versionsOf(['HAProxy', 'PgBouncer', 'pgbench']) });
}
