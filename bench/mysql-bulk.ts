import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mariadbClient } from '../test/support/mariadb.ts';
import { mysqlClient } from '../test/support/mysql.ts';
import { digits } from './lib/figures.ts';
import { interleaved } from './lib/load.ts';
import { type Backend, direct, haproxy, type Peer, sallyport } from './lib/peers.ts';
import { run } from './lib/process.ts';
import { Section } from './lib/results.ts';
import type { BenchOptions } from './lib/round-trips.ts';
import { mysqlVersionsText, PEERS_TEXT, preparedMysql, routerIfThere } from './mysql.ts';
import { BULK_COLUMNS_TEXT, bulkTable, transferred, writeRows } from './postgres-bulk.ts';

const ROWS = 60_000;
const BODY_BYTES = 960;
const UPLOAD_BYTES = 60_000_000;

/** A large result down, and a file up by LOAD DATA LOCAL. */
export async function bulk(options: BenchOptions): Promise<void> {
  const prepared = await preparedMysql();
  const { server, backend } = prepared;
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-rows-'));
  const file = join(folder, 'rows.tsv');
  const peers = [
    direct(backend),
    await haproxy(backend),
    ...(await routerIfThere(backend)),
    await sallyport(backend, { recording: 'off' }),
    await sallyport(backend, { recording: 'flushed' }),
    await sallyport(backend, {
      recording: 'flushed',
      resourceRecording: '{ sample_rows: 10 }',
      name: 'Sallyport flushed, 10 sample rows',
    }),
  ];
  const section = new Section('mysql bulk', [
    `## ${prepared.name}: bulk`,
    `The command-line client, ${options.runs} interleaved runs of each. ${BULK_COLUMNS_TEXT}`,
    PEERS_TEXT,
    mysqlVersionsText(prepared),
  ]);
  const works = [
    { name: 'down, SELECT', bytes: ROWS * (BODY_BYTES + 9), statement: 'SELECT * FROM bulk' },
    {
      name: 'up, LOAD DATA LOCAL',
      bytes: UPLOAD_BYTES,
      statement: `LOAD DATA LOCAL INFILE '${file}' INTO TABLE upload`,
    },
  ];
  try {
    await server.run(
      'USE bench',
      `CREATE TABLE bulk (id INT PRIMARY KEY, body VARCHAR(${BODY_BYTES})) ENGINE = InnoDB`,
      'SET SESSION cte_max_recursion_depth = 1000000',
      `INSERT INTO bulk WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < ${ROWS}) SELECT id, REPEAT(SHA2(id, 256), ${BODY_BYTES / 64}) FROM n`,
      `CREATE TABLE upload (id INT, body VARCHAR(1000)) ENGINE = ${backend.type === 'mysql' ? 'BLACKHOLE' : 'MyISAM'}`,
      'GRANT DROP ON bench.* TO app',
    );
    await writeRows(file, UPLOAD_BYTES);
    for (const { name, bytes, statement } of works) {
      const samples = await interleaved(peers, options.runs, async (peer) => {
        if (name.startsWith('up')) await server.run('TRUNCATE bench.upload');
        return transferred(peer, async () => {
          await client(peer, backend, statement);
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

/** Runs one statement by the command-line client of the server's family, and throws its rows away. */
async function client(peer: Peer, backend: Backend, statement: string): Promise<void> {
  const isMysql = backend.type === 'mysql';
  const { file, args } = isMysql ? mysqlClient() : mariadbClient();
  await run(
    'sh',
    [
      ...['-c', 'exec "$0" "$@" > /dev/null', file, ...args],
      ...[isMysql ? '--ssl-mode=DISABLED' : '--skip-ssl', '--local-infile=1', '--quick', '--batch', '--raw'],
      ...['--host=127.0.0.1', `--port=${peer.port}`, `--user=${backend.user}`],
      ...[`--database=${backend.database}`, `--execute=${statement}`],
    ],
    { env: { ...process.env, MYSQL_PWD: backend.password } },
  );
}
