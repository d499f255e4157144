import { createRequire } from 'node:module';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import mariadb from 'mariadb';
import mysql2 from 'mysql2/promise';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mysql } from '../../../protocols/mysql/engine.ts';
import type { DatabaseServer } from '../../support/database.ts';
import { startTestGateway, type TestGateway } from '../../support/gateway.ts';
import { parseGeneralLog } from '../../support/general-log.ts';
import { startMariadb } from '../../support/mariadb.ts';
import type { RecordedSession, RecordedStatement } from '../../support/memory-recorder.ts';
import { mysqlMissing, startMysql } from '../../support/mysql.ts';
import { execute } from '../../support/mysql-clients.ts';
import { MYSQL_SETTINGS } from '../../support/mysql-peers.ts';

/**
 * A tour through each driver, directly and through the gateway: it must see the same. Then the server's general log is
 * held against the record: nothing ran that is not on record, and nothing is on record that did not run.
 */

const ROOT = join(import.meta.dirname, '..', '..', '..');
const CLIENTS = join(ROOT, 'var', 'clients');
const mysqljs = createRequire(import.meta.url)('mysql') as {
  createConnection(options: object): MysqljsConnection;
};

interface MysqljsConnection {
  query(text: string, values: unknown[], done: (error: Error | null, rows: unknown) => void): void;
  changeUser(options: object, done: (error: Error | null) => void): void;
  end(done: () => void): void;
}

interface Driver {
  readonly name: string;
  /** Directly, this driver cannot sign in to MySQL 9 without a password: it is compared with nothing there. */
  readonly onlyThrough?: boolean;
  run(port: number, flavor: 'mysql' | 'mariadb'): Promise<string>;
}

const program =
  (file: string, ...args: string[]) =>
  async (port: number) => {
    const { ok, text } = await execute(
      file,
      args.map((each) => each.replace('{port}', String(port))),
      90_000,
    );
    if (!ok) throw new Error(text);
    return text;
  };

const java = (...urls: string[]) =>
  program(
    'java',
    '-XX:TieredStopAtLevel=1',
    '-cp',
    `${join(CLIENTS, 'java')}/*`,
    join(import.meta.dirname, 'Tour.java'),
    ...urls,
  );

const PYTHON = join(CLIENTS, 'python', 'bin', 'python');
const TOUR = join(import.meta.dirname, 'tour.py');
const SERVER_SIDE = 'useServerPrepStmts=true&cachePrepStmts=true&useCursorFetch=true';

const DRIVERS: readonly Driver[] = [
  { name: 'mysql2', run: mysql2Tour },
  { name: 'mysql (npm)', onlyThrough: true, run: mysqljsTour },
  { name: 'mariadb (npm)', run: mariadbTour },
  { name: 'PyMySQL', run: program(PYTHON, TOUR, 'pymysql', '{port}') },
  { name: 'mysqlclient', run: program('/usr/bin/python3', TOUR, 'mysqlclient', '{port}') },
  { name: 'mysql-connector-python', run: program(PYTHON, TOUR, 'connector', '{port}') },
  {
    name: 'go-sql-driver',
    run: program(
      join(CLIENTS, 'bin', 'mysql-tour'),
      'app@tcp(127.0.0.1:{port})/lab?multiStatements=true&parseTime=true',
    ),
  },
  {
    name: 'PHP mysqlnd',
    run: program('php', '-d', 'mysqli.allow_local_infile=1', join(import.meta.dirname, 'tour.php'), '{port}'),
  },
  {
    name: 'Connector/J',
    run: java(
      'jdbc:mysql://127.0.0.1:{port}/lab?sslMode=DISABLED&allowMultiQueries=true',
      `jdbc:mysql://127.0.0.1:{port}/lab?sslMode=DISABLED&allowMultiQueries=true&rewriteBatchedStatements=true&${SERVER_SIDE}`,
    ),
  },
  {
    name: 'MariaDB Connector/J',
    run: java(
      'jdbc:mariadb://127.0.0.1:{port}/lab?allowMultiQueries=true',
      'jdbc:mariadb://127.0.0.1:{port}/lab?allowMultiQueries=true&useServerPrepStmts=true',
      'jdbc:mariadb://127.0.0.1:{port}/lab?allowMultiQueries=true&useServerPrepStmts=true&useBulkStmts=true',
    ),
  },
];

const FAMILIES = [
  {
    name: 'MySQL',
    flavor: 'mysql' as const,
    missing: mysqlMissing,
    start: () => startMysql({ options: ['--local-infile=ON'] }),
  },
  {
    name: 'MariaDB',
    flavor: 'mariadb' as const,
    missing: () => false,
    start: () => startMariadb('10', { options: ['--local-infile=ON'] }),
  },
];

for (const family of FAMILIES) {
  describe.skipIf(family.missing())(family.name, () => {
    let server: DatabaseServer;
    let gateway: TestGateway;

    beforeAll(async () => {
      server = await family.start();
      await server.run(
        'create database lab',
        'create database other',
        "create user app@'%' identified by ''",
        "grant all on *.* to app@'%'",
        'create table lab.numbers (n int primary key)',
        `insert into lab.numbers values ${Array.from({ length: 150 }, (_, n) => `(${n})`).join(',')}`,
        'create table lab.batch (id int auto_increment primary key, n int, s varchar(50))',
        'create procedure lab.two() begin select 1, 2; select n from lab.numbers where n < 3; end',
        'create procedure lab.put(in a int, out b int) begin set b = a + 1; end',
        'set global max_allowed_packet = 67108864',
      );
      gateway = await startTestGateway({
        engine: mysql,
        settings: { ...MYSQL_SETTINGS, flavor: family.flavor, allowLocalInfile: true },
        servers: [{ host: server.host, port: server.port }],
        username: 'app',
        password: null,
        database: 'lab',
      });
    });

    afterAll(async () => {
      await gateway?.close();
      await server?.stop();
    });

    test.each(DRIVERS)('$name', async ({ name, run, onlyThrough }) => {
      await server.run('truncate table lab.batch');
      const direct = onlyThrough && family.flavor === 'mysql' ? null : await run(server.port, family.flavor);
      await server.run('truncate table lab.batch');
      const before = gateway.recorder.sessions.length;
      const through = await run(gateway.port, family.flavor);
      if (direct !== null) expect(through).toBe(direct);
      const sessions = gateway.recorder.sessions.slice(before);
      await gateway.recorder.until(() => sessions.every(({ end_ }) => end_ !== null));
      expect(sessions.length).toBeGreaterThan(0);
      compare(sessions, server.generalLog());
      if (name === 'Connector/J' && family.flavor === 'mysql') {
        const named = sessions
          .flatMap(({ statements }) => statements)
          .flatMap(({ parameters }) => parameters ?? []);
        expect(named).toContainEqual({ name: 'trace', type: expect.any(String), value: 'tour-1' });
      }
      for (const session of sessions) {
        expect(session.notes.filter(({ kind }) => kind === 'opaque')).toEqual([]);
        // A command longer than what is inspected has parameters that were not seen.
        const unread = session.statements.filter(
          ({ opaque, bytesSent }) => opaque && bytesSent < 1024 * 1024,
        );
        expect(unread).toEqual([]);
        expect(session.statements.every(({ ended }) => ended)).toBe(true);
      }
    });
  });
}

/** The record of sessions against what the server logged of the same connections. */
function compare(sessions: readonly RecordedSession[], log: string): void {
  const logged = parseGeneralLog(log);
  for (const session of sessions) {
    const id = Number(session.start.serverSession);
    const entries = logged.filter(({ connection }) => connection === id);
    expect(entries.length).toBeGreaterThan(0);
    const texts = (command: string) =>
      entries.filter((entry) => entry.command === command).map(({ text }) => text);
    const recorded = (kind: string) => session.statements.filter((statement) => statement.kind === kind);
    // A text with several statements is logged once for each, or once whole and once for each rest.
    const queries = recorded('query');
    let at = 0;
    const ofOurOwn = session.statements.flatMap(({ messages }) => messages ?? []).join('\n');
    const ran = new Set<number>();
    for (const text of texts('Query')) {
      if (/^SET NAMES \w+, collation_connection = \d+$/.test(text) && ofOurOwn.includes(text)) continue;
      const contains = (index: number) => isPart(text, queries[index]);
      if (!contains(at) || (ran.has(at) && normal(queries[at + 1]?.text ?? '') === normal(text))) {
        at += ran.has(at) ? 1 : 0;
        while (at < queries.length && !contains(at)) {
          // What failed to parse may not be in the log; all else must be.
          expect([queries[at]!.text, queries[at]!.status]).toEqual([queries[at]!.text, 'error']);
          at += 1;
        }
      }
      expect(at, `not on record: ${text.slice(0, 200)}`).toBeLessThan(queries.length);
      ran.add(at);
    }
    // A server prepares anew, and logs it, when a table or a parameter's type has changed.
    const prepared = recorded('prepare').filter(({ status }) => status === 'ok');
    expect(once(prepared.map(({ text }) => normal(text!)))).toEqual(once(texts('Prepare').map(normal)));
    const executions = texts('Execute').length + texts('Bulk_execute').length;
    // What was never prepared is not executed, nor logged.
    const executed = [...recorded('execute'), ...recorded('bulk')].filter(
      ({ error }) => error?.code !== '1243/HY000',
    );
    expect(executions).toBe(executed.length);
  }
}

/** Whether a logged text is a recorded one, or one of its statements. */
function isPart(logged: string, recorded: RecordedStatement | undefined): boolean {
  if (recorded === undefined || recorded.text === null) return false;
  // An event keeps the first 64 KiB of a text.
  if (recorded.textSha256 !== null) return logged.startsWith(recorded.text.slice(0, 1000).split('\0')[0]!);
  return normal(recorded.text).includes(normal(logged));
}

function once(texts: readonly string[]): string[] {
  return texts.filter((text, index) => text !== texts[index - 1]);
}

/** Logs may cut blanks at the ends, and write passwords otherwise. */
function normal(text: string): string {
  return text.replace(/\s+/g, ' ').replace(/;\s*$/, '').trim();
}

async function mysql2Tour(port: number): Promise<string> {
  const lines: unknown[] = [];
  const connection = await mysql2.createConnection({
    host: '127.0.0.1',
    port,
    user: 'app',
    database: 'lab',
    multipleStatements: true,
    supportBigNumbers: true,
    bigNumberStrings: true,
    rowsAsArray: true,
    infileStreamFactory: () => Readable.from([Buffer.from('1,a\n2,b\n')]),
  });
  const rows = async (label: string, work: Promise<[unknown, unknown]>) => {
    const [result] = await work;
    lines.push([label, result]);
  };
  await rows('who', connection.query('SELECT CURRENT_USER(), DATABASE(), VERSION()'));
  for (const n of [1, 2, 3]) {
    await rows(
      'execute',
      connection.execute('SELECT ? + 1, ?, ?, ?', [n, 'größer 😀', null, new Date(86_400_000)]),
    );
  }
  await rows('execute', connection.execute('SELECT n FROM numbers WHERE n < ?', [3]));
  await rows('several', connection.query("SELECT 1; SELECT 'b', 2; DO 3; CALL two()"));
  await rows(
    'file',
    connection.query({ sql: "LOAD DATA LOCAL INFILE 'x' INTO TABLE batch FIELDS TERMINATED BY ',' (n, s)" }),
  );
  try {
    await connection.query('SELECT nosuch');
  } catch (error) {
    lines.push(['error', (error as { errno: number; sqlState: string }).errno, (error as Error).message]);
  }
  await rows('warnings', connection.query('SHOW WARNINGS'));
  await connection.beginTransaction();
  await rows('insert', connection.execute('INSERT INTO batch (n, s) VALUES (?, ?)', [5, 'five']));
  await connection.rollback();
  await rows(
    'big',
    connection.query("SELECT LENGTH(?), REPEAT('y', 17000000) IS NOT NULL", ['x'.repeat(17_000_000)]),
  );
  await rows('count', connection.query('SELECT a.n FROM numbers a, numbers b'));
  await connection.changeUser({ user: 'app', database: 'other' });
  await rows('changed', connection.query('SELECT CURRENT_USER(), DATABASE()'));
  await connection.ping();
  await connection.end();
  return JSON.stringify(lines);
}

async function mysqljsTour(port: number): Promise<string> {
  const lines: unknown[] = [];
  const connection = mysqljs.createConnection({
    host: '127.0.0.1',
    port,
    user: 'app',
    database: 'lab',
    multipleStatements: true,
  });
  const query = (text: string, values: unknown[] = []) =>
    new Promise<void>((resolve) => {
      connection.query(text, values, (error, rows) => {
        lines.push([text.slice(0, 40), error === null ? rows : error.message]);
        resolve();
      });
    });
  await query('SELECT CURRENT_USER(), DATABASE(), VERSION()');
  await query('SELECT ? + 1 AS a, ? AS b', [5, "it's größer"]);
  await query("SELECT 1 AS a; SELECT 'b' AS b; DO 3");
  await query('CALL two()');
  await query('SELECT nosuch');
  await query('SHOW WARNINGS');
  await query('SELECT COUNT(*) AS n FROM numbers a, numbers b');
  // Sent in one go: answered in order.
  await Promise.all(Array.from({ length: 20 }, (_, n) => query(`SELECT ${n} AS n`)));
  await new Promise<void>((resolve) => {
    connection.changeUser({ user: 'app', database: 'other' }, (error) => {
      lines.push(['changed', error?.message ?? null]);
      resolve();
    });
  });
  await query('SELECT CURRENT_USER(), DATABASE()');
  await new Promise<void>((resolve) => connection.end(() => resolve()));
  return JSON.stringify(lines);
}

async function mariadbTour(port: number, flavor: 'mysql' | 'mariadb'): Promise<string> {
  const lines: unknown[] = [];
  const options = {
    host: '127.0.0.1',
    port,
    user: 'app',
    database: 'lab',
    multipleStatements: true,
    rowsAsArray: true,
  };
  const connection = await mariadb.createConnection(options);
  const rows = async (label: string, work: Promise<unknown>) => {
    const result = await work.catch((error: Error & { errno: number }) => ['error', error.errno]);
    lines.push([label, result]);
  };
  await rows('who', connection.query('SELECT CURRENT_USER(), DATABASE(), VERSION()'));
  await rows('query', connection.query('SELECT ?, ?', [1, 'größer']));
  for (const n of [1, 2, 3]) await rows('execute', connection.execute('SELECT ? + 1, ?, ?', [n, 'ü', null]));
  // Prepared, executed and closed in one go each; and many of them at once.
  await Promise.all(
    Array.from({ length: 13 }, (_, n) => rows('pipelined', connection.execute('SELECT ? + 0', [n]))),
  );
  await rows('wrong', connection.execute('SELECT nosuch', [1]));
  await rows('several', connection.query("SELECT 1; SELECT 'b', 2; DO 3"));
  await rows('procedure', connection.query('CALL two()'));
  await connection.beginTransaction();
  await rows(
    'bulk',
    connection.batch(
      'INSERT INTO batch (n, s) VALUES (?, ?)',
      Array.from({ length: 40 }, (_, n) => [n, n === 7 ? null : `r${n}`]),
    ),
  );
  await rows('bulk', connection.query('SELECT COUNT(*), SUM(n), COUNT(s) FROM batch'));
  await connection.rollback();
  await rows('big', connection.query('SELECT LENGTH(?)', ['x'.repeat(17_000_000)]));
  if (flavor === 'mariadb') {
    await connection.changeUser({ user: 'app', database: 'other' });
    await rows('changed', connection.query('SELECT CURRENT_USER(), DATABASE()'));
  }
  await connection.reset();
  await rows('reset', connection.query('SELECT @x'));
  await connection.end();
  return JSON.stringify(lines, (_key, value) => (typeof value === 'bigint' ? `${value}` : value));
}
