import { startMariadb } from '../test/support/mariadb.ts';
import { mysqlTree, startMysql } from '../test/support/mysql.ts';
import { digits, median, table } from './lib/figures.ts';
import { type Backend, direct, haproxy, type Peer, sallyport } from './lib/peers.ts';
import { cpuSince, cpuTime, run } from './lib/process.ts';
import { machineText, writeSection } from './lib/results.ts';
import type { BenchOptions } from './postgres.ts';

const ROWS = 20_000;
const MICROSECONDS = 1e6;

interface Sample {
  readonly throughput: number;
  readonly p99: number;
  readonly cpu: number;
}

/** Selects by primary key with sysbench: as text, and prepared. Neither ProxySQL nor MySQL Router is in the registries used here. */
export async function roundTrips(options: BenchOptions): Promise<void> {
  const isMysql = mysqlTree() !== null;
  const server = isMysql ? await startMysql() : await startMariadb('10');
  const password = 'bench-password';
  await server.run(
    'CREATE DATABASE sbtest',
    isMysql
      ? `CREATE USER app@'%' IDENTIFIED WITH caching_sha2_password BY '${password}'`
      : `CREATE USER app@'%' IDENTIFIED BY '${password}'`,
    "GRANT ALL ON sbtest.* TO app@'%'",
    // sysbench's client library is too old for the default plugin of today's MySQL without TLS.
    `CREATE USER loader@'%' IDENTIFIED BY ''`,
    "GRANT ALL ON sbtest.* TO loader@'%'",
    'SET GLOBAL general_log = 0',
    'SET GLOBAL max_connections = 600',
  );
  const backend: Backend = {
    type: isMysql ? 'mysql' : 'mariadb',
    port: server.port,
    user: 'app',
    password,
    database: 'sbtest',
  };
  const peers = [
    { ...direct(backend), password: null },
    { ...(await haproxy(backend)), password: null },
    await sallyport(backend, { recording: 'off' }),
    await sallyport(backend, { recording: 'buffered' }),
    await sallyport(backend, { recording: 'flushed' }),
    await sallyport(backend, { recording: 'synced' }),
  ];
  const sections: string[] = [];
  try {
    await sysbench(peers[0]!, 'oltp_point_select', 1, ['prepare']);
    for (const mode of ['disable', 'auto'] as const) {
      for (const clients of options.clients) {
        const samples = new Map<Peer, Sample[]>(peers.map((peer) => [peer, []]));
        for (let round = 0; round < options.runs; round += 1) {
          for (const peer of peers) {
            const before = cpuTime(peer.pids);
            const output = await sysbench(peer, 'oltp_point_select', clients, [
              `--db-ps-mode=${mode}`,
              `--time=${options.seconds}`,
              'run',
            ]);
            const cpu = cpuSince(peer.pids, before);
            const count = Number(/total number of events: +(\d+)/.exec(output)![1]);
            samples.get(peer)!.push({
              throughput: Number(/queries: +\d+ +\(([\d.]+) per sec/.exec(output)![1]),
              p99: Number(/99th percentile: +([\d.]+)/.exec(output)![1]),
              cpu: ((cpu.user + cpu.system) * MICROSECONDS) / count,
            });
          }
        }
        const of = (peer: Peer, field: keyof Sample): number =>
          median(samples.get(peer)!.map((sample) => sample[field]));
        const rows = peers.map((peer) => [
          peer.name,
          digits(of(peer, 'throughput') / of(peers[0]!, 'throughput')),
          digits(of(peer, 'p99') / of(peers[0]!, 'p99')),
          peer.pids.length === 0 ? '–' : digits(of(peer, 'cpu')),
          peer.pids.length === 0 ? '–' : digits(of(peer, 'cpu') / of(peers[1]!, 'cpu')),
        ]);
        sections.push(
          `### ${mode === 'auto' ? 'prepared' : 'text'}, ${clients} client${clients === 1 ? '' : 's'}\n\n${table(
            ['', 'throughput ÷ direct', 'p99 ÷ direct', 'CPU µs a round trip', 'CPU ÷ HAProxy'],
            rows,
          )}`,
        );
        console.log(sections.at(-1));
      }
    }
  } finally {
    for (const peer of peers) await peer.stop();
    await server.stop();
  }
  writeSection(
    'mysql round trips',
    `## ${isMysql ? 'MySQL' : 'MariaDB'}: round trips\n\n\`sysbench oltp_point_select\`, ${options.runs} interleaved runs of ${options.seconds} s each.\n\n${machineText({ [isMysql ? 'MySQL' : 'MariaDB']: server.version })}\n\n${sections.join('\n\n')}`,
  );
}

function sysbench(peer: Peer, test: string, threads: number, rest: readonly string[]): Promise<string> {
  return run('sysbench', [
    test,
    '--mysql-host=127.0.0.1',
    `--mysql-port=${peer.port}`,
    // Directly and through HAProxy the account without a password; Sallyport signs in as its own, whatever is asked for.
    '--mysql-user=loader',
    '--mysql-db=sbtest',
    '--tables=1',
    `--table-size=${ROWS}`,
    `--threads=${threads}`,
    '--percentile=99',
    ...rest,
  ]);
}
