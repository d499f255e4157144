import mysql from 'mysql2/promise';
import type { DatabaseServer } from '../test/support/database.ts';
import { startMariadb } from '../test/support/mariadb.ts';
import { mysqlTree, startMysql } from '../test/support/mysql.ts';
import { percentile } from './lib/figures.ts';
import { atRest, type Loaded, loaded } from './lib/load.ts';
import { type Backend, direct, haproxy, mysqlRouter, type Peer, sallyport } from './lib/peers.ts';
import { run } from './lib/process.ts';
import { machineText, Section, versionsOf } from './lib/results.ts';
import { addRoundTrips, type BenchOptions, COLUMNS_TEXT, type RoundTripSample } from './lib/round-trips.ts';
import { perWork } from './lib/usage.ts';

const ROWS = 20_000;

/**
 * libmariadb loads its plugins when they are first asked for, and threads that do so at the same moment sometimes go
 * without: they are named beforehand.
 */
const PLUGINS = 'caching_sha2_password;client_ed25519';

/** A server whose account every peer signs in with, the first time over TLS so that it keeps the password's digest. */
export interface PreparedMysql {
  readonly server: DatabaseServer;
  readonly backend: Backend;
  /** `MySQL` or `MariaDB`. */
  readonly name: string;
}

/** Selects by primary key with sysbench: as text, and prepared. */
export async function roundTrips(options: BenchOptions): Promise<void> {
  const prepared = await preparedMysql();
  const { server, backend } = prepared;
  const balancer = await haproxy(backend);
  const main = [
    direct(backend),
    balancer,
    ...(await routerIfThere(backend)),
    await sallyport(backend, { recording: 'off' }),
    await sallyport(backend, { recording: 'flushed' }),
  ];
  const variants = {
    text: [
      await sallyport(backend, { recording: 'buffered' }),
      await sallyport(backend, { recording: 'synced' }),
      await sallyport(backend, {
        recording: 'flushed',
        resourceRecording: '{ sample_rows: 10 }',
        name: 'Sallyport flushed, 10 sample rows',
      }),
    ],
    // The text protocol has no parameters.
    prepared: [
      await sallyport(backend, {
        recording: 'flushed',
        parameters: false,
        name: 'Sallyport flushed, no parameters',
      }),
    ],
  };
  const section = new Section('mysql round trips', [
    `## ${prepared.name}: round trips`,
    `\`sysbench oltp_point_select\`, ${options.runs} interleaved runs of ${options.seconds} s; Sallyport records parameters unless it says otherwise. ${COLUMNS_TEXT}`,
    PEERS_TEXT,
    mysqlVersionsText(prepared),
  ]);
  try {
    await run('sysbench', sysbenchArguments(main[0]!, backend, 'oltp_point_select', ['prepare']));
    for (const mode of ['text', 'prepared'] as const)
      await addRoundTrips(section, options, {
        title: `${mode} protocol`,
        peers: main,
        variants: variants[mode],
        reference: balancer,
        isMain: mode === 'text',
        measure: (peer, clients) => select(peer, backend, mode, clients, options.seconds),
      });
  } finally {
    for (const peer of [...main, ...variants.text, ...variants.prepared]) await peer.stop();
    await server.stop();
  }
}

/** Which peers there are, for the head of a section. */
export const PEERS_TEXT =
  'MySQL Router (of Debian unstable, fetched by `node scripts/databases.cjs --bench`; a missing row means that it was not there) passes the client’s own sign-in on, with one thread. No package registry that is used here has ProxySQL.';

/** MySQL Router, or a line that says how to get it. */
export async function routerIfThere(backend: Backend): Promise<Peer[]> {
  const router = await mysqlRouter(backend);
  if (router !== null) return [router];
  console.log('MySQL Router is left out: node scripts/databases.cjs --bench fetches it\n');
  return [];
}

async function select(
  peer: Peer,
  backend: Backend,
  mode: 'text' | 'prepared',
  clients: number,
  seconds: number,
): Promise<RoundTripSample> {
  const found = await sysbench(peer, backend, 'oltp_point_select', seconds, [
    `--db-ps-mode=${mode === 'prepared' ? 'auto' : 'disable'}`,
    `--table-size=${ROWS}`,
    `--threads=${clients}`,
  ]);
  const { count, measuredSeconds } = found;
  // `0.352 |*** 123`: how many took about that many milliseconds.
  const latencies = [...found.output.matchAll(/^ +([\d.]+) \|\**\s+(\d+)$/gm)].flatMap(([, value, times]) =>
    Array<number>(Number(times)).fill(Number(value)),
  );
  return {
    throughput: count / measuredSeconds,
    p50: percentile(latencies, 0.5),
    p99: percentile(latencies, 0.99),
    loopDelay: found.loopDelay,
    ...perWork(found.cpu, count),
  };
}

/**
 * One run of a sysbench test through a peer, and how much of it was while the peer was measured. Throws when nothing came of
 * it. `cwd`: where it finds its certificates.
 */
export async function sysbench(
  peer: Peer,
  backend: Backend,
  test: string,
  seconds: number,
  options: readonly string[],
  cwd?: string,
): Promise<Loaded & { readonly count: number; readonly measuredSeconds: number }> {
  const found = await loaded(
    peer,
    'sysbench',
    sysbenchArguments(peer, backend, test, [
      ...options,
      ...[`--time=${seconds}`, '--percentile=99', '--histogram=on', 'run'],
    ]),
    {
      begins: /^Threads started!/m,
      env: { ...process.env, LIBMYSQL_PLUGINS: PLUGINS },
      ...(cwd === undefined ? {} : { cwd }),
    },
  );
  await atRest(peer);
  const all = Number(/total number of events: +(\d+)/.exec(found.output)?.[1]);
  if (!(all > 0)) throw new Error(`sysbench finished nothing in ${seconds} s: give it more --seconds`);
  const total = Number(/total time: +([\d.]+)s/.exec(found.output)?.[1]);
  const measuredSeconds = total - found.lateSeconds;
  return { ...found, count: (all * measuredSeconds) / total, measuredSeconds };
}

function sysbenchArguments(
  peer: Peer,
  backend: Backend,
  test: string,
  rest: readonly string[],
): readonly string[] {
  return [
    test,
    ...['--mysql-host=127.0.0.1', `--mysql-port=${peer.port}`, `--mysql-db=${backend.database}`],
    // Sallyport signs in with its own, whatever is asked for.
    ...[`--mysql-user=${backend.user}`, `--mysql-password=${backend.password}`],
    ...rest,
  ];
}

/** MySQL where there is one here, else MariaDB. */
export async function preparedMysql(): Promise<PreparedMysql> {
  const isMysql = mysqlTree() !== null;
  const options = ['--innodb-buffer-pool-size=256M', '--max-connections=1000', '--general-log=OFF'];
  const server = isMysql
    ? await startMysql({ options: [...options, '--disable-log-bin'] })
    : await startMariadb('10', { options });
  const password = 'bench-password';
  const how = isMysql ? 'IDENTIFIED WITH caching_sha2_password BY' : 'IDENTIFIED BY';
  await server.run(
    'CREATE DATABASE bench',
    `CREATE USER app@'%' ${how} '${password}'`,
    "GRANT ALL ON bench.* TO app@'%'",
  );
  const connection = await mysql.createConnection({
    host: server.host,
    port: server.port,
    user: 'app',
    password,
    ssl: { ca: server.ca, rejectUnauthorized: false },
  });
  await connection.end();
  const backend: Backend = {
    type: isMysql ? 'mysql' : 'mariadb',
    port: server.port,
    user: 'app',
    password,
    database: 'bench',
  };
  return { server, backend, name: isMysql ? 'MySQL' : 'MariaDB' };
}

/** Machine, and versions of what takes part. */
export function mysqlVersionsText({ name, server }: PreparedMysql): string {
  return machineText({ [name]: server.version, ...versionsOf(['HAProxy', 'MySQL Router', 'sysbench']) });
}
