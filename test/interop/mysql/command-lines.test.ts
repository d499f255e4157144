import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mysql } from '../../../protocols/mysql/engine.ts';
import type { DatabaseServer } from '../../support/database.ts';
import { startTestGateway, type TestGateway } from '../../support/gateway.ts';
import { mariadbClient, startMariadb } from '../../support/mariadb.ts';
import { mysqlClient, mysqlMissing, startMysql } from '../../support/mysql.ts';
import { execute } from '../../support/mysql-clients.ts';
import { MYSQL_SETTINGS } from '../../support/mysql-peers.ts';

/** The command lines and what comes with them: their own dialogue, Ctrl-C, dump and restore, and sysbench. */

interface Program {
  readonly file: string;
  readonly args: readonly string[];
}

interface Family {
  readonly name: string;
  readonly flavor: 'mysql' | 'mariadb';
  readonly missing: () => boolean;
  readonly start: () => Promise<DatabaseServer>;
  readonly client: () => Program;
  readonly dump: () => Program;
  readonly admin: () => Program;
}

const FAMILIES: readonly Family[] = [
  {
    name: 'MySQL',
    flavor: 'mysql',
    missing: mysqlMissing,
    start: () => startMysql({ options: ['--local-infile=ON', '--max-prepared-stmt-count=10000'] }),
    client: () => mysqlClient('mysql'),
    dump: () => mysqlClient('mysqldump'),
    admin: () => mysqlClient('mysqladmin'),
  },
  {
    name: 'MariaDB',
    flavor: 'mariadb',
    missing: () => false,
    start: () => startMariadb('10', { options: ['--local-infile=ON'] }),
    client: () => mariadbClient('10', 'mariadb'),
    dump: () => mariadbClient('10', 'mariadb-dump'),
    admin: () => mariadbClient('10', 'mariadb-admin'),
  },
];

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

for (const family of FAMILIES) {
  describe.skipIf(family.missing())(family.name, () => {
    let server: DatabaseServer;
    let gateway: TestGateway;
    let folder: string;

    beforeAll(async () => {
      folder = mkdtempSync(join(tmpdir(), 'sallyport-lines-'));
      server = await family.start();
      await server.run(
        'create database lab',
        'create database copy',
        "create user app@'%' identified by ''",
        "grant all on *.* to app@'%'",
        'create table lab.t (id int primary key, v varchar(40), b longblob, d datetime(6), j json)',
        "insert into lab.t values (1, 'größer', x'00ff27', '2026-01-02 03:04:05.000678', '{\"a\": [1]}'), (2, null, null, null, null)",
        `insert into lab.t select n + 10, repeat('x', 40), repeat(x'5c27', 20000), now(6), '{}' from json_table('[${Array.from({ length: 60 }, (_, n) => n).join(',')}]', '$[*]' columns (n int path '$')) as numbers`,
        'create view lab.w as select id from lab.t where id < 5',
        'create procedure lab.p() begin select 1; select 2; end',
        'use lab; create trigger g before insert on t for each row set new.v = upper(new.v)',
      );
      gateway = await startTestGateway({
        engine: mysql,
        settings: { ...MYSQL_SETTINGS, flavor: family.flavor, allowLocalInfile: true },
        servers: [{ host: server.host, port: server.port }],
        username: 'app',
        password: null,
        database: 'lab',
        serverTls: { mode: 'verify-full', ca: server.ca, serverName: 'localhost' },
      });
    });

    afterAll(async () => {
      await gateway?.close();
      await server?.stop();
      rmSync(folder, { recursive: true, force: true });
    });

    const address = (port: number) => ['--protocol=TCP', '--host=127.0.0.1', `--port=${port}`, '--user=app'];

    function run(program: Program, args: readonly string[], input = ''): Promise<Ended> {
      return new Promise((resolve, reject) => {
        const child = spawn(program.file, [...program.args, ...args], { stdio: 'pipe' });
        let stdout = '';
        let stderr = '';
        child.stdout.on('data', (chunk: Buffer) => {
          stdout += chunk.toString('latin1');
        });
        child.stderr.on('data', (chunk: Buffer) => {
          stderr += chunk.toString();
        });
        child.on('error', reject);
        child.on('close', (code) => resolve({ code, stdout, stderr }));
        child.stdin.on('error', () => {});
        child.stdin.end(input);
      });
    }

    test('a session of the command line is as directly', async () => {
      const csv = join(folder, 'x.csv');
      writeFileSync(csv, '100,a\n101,b\n');
      const script = [
        'select version(), current_user(), database();',
        'select id, v from t order by id limit 3;',
        'select nosuch;',
        'show warnings;',
        'call p();',
        'begin; update t set v = 1 where id = 1; rollback;',
        'create temporary table tt as select 1 as a; select * from tt;',
        `load data local infile '${csv}' into table tt; show warnings;`,
        "set names latin1; select hex('x'), @@character_set_client;",
        "set names utf8mb4; select 'größer 😀';",
        'use copy; select database();',
        'delimiter //',
        'select 1; select 2//',
        'delimiter ;',
        "prepare s from 'select ? + 1'; set @a = 4; execute s using @a; deallocate prepare s;",
      ].join('\n');
      const args = [
        '--force',
        '--table',
        '--local-infile=1',
        '--default-character-set=utf8mb4',
        '--comments',
        'lab',
      ];
      const direct = await run(family.client(), [...address(server.port), ...args], script);
      const through = await run(family.client(), [...address(gateway.port), ...args], script);
      expect(through.stdout).toBe(direct.stdout);
      expect(through.stderr).toBe(direct.stderr);
      expect(through.code).toBe(direct.code);
      // What the server sees of TLS is the gateway's own leg.
      const status = await run(family.client(), [
        ...address(gateway.port),
        '-e',
        "show status like 'Ssl_cipher'",
      ]);
      expect(status.stdout).toMatch(/Ssl_cipher\tTLS_/);
    });

    test('Ctrl-C stops the query, and the session goes on', async () => {
      const { file, args } = family.client();
      const before = gateway.recorder.sessions.length;
      const child = spawn(file, [...args, ...address(gateway.port), '--force', '--unbuffered', 'lab'], {
        stdio: 'pipe',
      });
      let stdout = '';
      let stderr = '';
      child.stdout.on('data', (chunk: Buffer) => {
        stdout += chunk.toString();
      });
      child.stderr.on('data', (chunk: Buffer) => {
        stderr += chunk.toString();
      });
      child.stdin.write('select count(*) from t a, t b where sleep(5) = 0;\n');
      const running = () =>
        gateway.recorder.sessions
          .slice(before)
          .some(({ statements }) =>
            statements.some(({ text, ended }) => text?.includes('sleep(5)') && !ended),
          );
      await gateway.recorder.until(running);
      // On the server too: a KILL that comes before the query has begun stops nothing.
      const busy = async () =>
        (
          await server.run(
            "select count(*) as n from information_schema.processlist where info like 'select count(*) from t a%'",
          )
        )[0]!['n'] === 1;
      while (!(await busy())) await new Promise((resolve) => setTimeout(resolve, 20));
      const started = Date.now();
      child.kill('SIGINT');
      const killed = () =>
        gateway.recorder.sessions
          .slice(before)
          .some(({ statements }) =>
            statements.some(({ text, ended }) => /^KILL QUERY/.test(text ?? '') && ended),
          );
      await gateway.recorder.until(killed);
      await gateway.recorder.until(() => !running());
      expect(Date.now() - started).toBeLessThan(3000);
      child.stdin.end('select 41 + 1;\n');
      await new Promise((resolve) => child.on('close', resolve));
      expect(`${stdout}${stderr}`).toMatch(/interrupted|aborted/);
      expect(stdout).toContain('42');
      const session = gateway.recorder.sessions[before]!;
      expect(session.statements.find(({ text }) => text?.includes('sleep(5)'))).toMatchObject({
        status: 'cancelled',
        error: { code: '1317/70100' },
      });
    });

    test('a dump is as directly, and can be restored', async () => {
      const args = [
        '--skip-dump-date',
        '--routines',
        '--triggers',
        '--hex-blob',
        '--single-transaction',
        '--skip-comments',
        ...(family.flavor === 'mysql' ? ['--set-gtid-purged=OFF'] : []),
        'lab',
      ];
      const direct = await run(family.dump(), [...address(server.port), ...args]);
      const through = await run(family.dump(), [...address(gateway.port), ...args]);
      expect(through.code).toBe(0);
      expect(through.stdout).toBe(direct.stdout);
      expect(through.stdout.length).toBeGreaterThan(2_000_000);
      const restored = await run(
        family.client(),
        [...address(gateway.port), 'copy'],
        Buffer.from(through.stdout, 'latin1').toString(),
      );
      expect(restored.stderr).toBe('');
      const sum = (schema: string) =>
        server.run(
          `select count(*) as n, sum(crc32(b)) as b, sum(crc32(concat_ws('|', id, v, d, j))) as rest from ${schema}.t`,
        );
      expect(await sum('copy')).toEqual(await sum('lab'));
      expect((await server.run('select count(*) as n from copy.w'))[0]!['n']).toBe(2);
    });

    test('the administrator’s tool', async () => {
      for (const command of [
        ['ping'],
        ['version'],
        ['status'],
        ['extended-status'],
        ['processlist'],
        ['flush-tables'],
      ]) {
        const { code, stderr } = await run(family.admin(), [...address(gateway.port), ...command]);
        expect([command[0], code, stderr.replace(/.*WARNING.*\n?/g, '')]).toEqual([command[0], 0, '']);
      }
      const { code } = await run(family.admin(), [...address(gateway.port), 'shutdown']);
      const statements = gateway.recorder.sessions.at(-1)!.statements;
      // MySQL's tool sends the SQL statement, which is for policy and for the account's rights to forbid.
      if (family.flavor === 'mariadb') {
        expect(code).not.toBe(0);
        expect(statements.at(-1)).toMatchObject({ text: 'COM_SHUTDOWN', status: 'denied' });
      }
    });
  });
}

test('the binary log passes where replication is allowed, and not elsewhere', async () => {
  const server = await startMariadb('10', { options: ['--log-bin', '--server-id=7'] });
  await server.run(
    "create user app@'%' identified by ''",
    "grant all on *.* to app@'%'",
    'create database lab',
    'create table lab.t (v longtext)',
    `insert into lab.t values ('${'x'.repeat(100_000)}'), ('${'y'.repeat(3_000_000)}')`,
    'flush binary logs',
  );
  const start = (allowReplication: boolean) =>
    startTestGateway({
      engine: mysql,
      settings: { ...MYSQL_SETTINGS, flavor: 'mariadb', allowReplication },
      servers: [{ host: server.host, port: server.port }],
      username: 'app',
      password: null,
    });
  const allowed = await start(true);
  const refused = await start(false);
  const { file, args } = mariadbClient('10', 'mariadb-binlog');
  const log = String((await server.run('show binary logs'))[0]!['Log_name']);
  const read = (port: number) =>
    execute(file, [
      ...args,
      '--read-from-remote-server',
      '--host=127.0.0.1',
      `--port=${port}`,
      '--user=app',
      log,
    ]);
  const direct = await read(server.port);
  expect(direct.ok, direct.text).toBe(true);
  expect(direct.text.length).toBeGreaterThan(2_000_000);
  const through = await read(allowed.port);
  expect(through.ok, through.text.slice(0, 500)).toBe(true);
  expect(through.text === direct.text).toBe(true);
  const { statements } = allowed.recorder.sessions.at(-1)!;
  expect(statements.at(-1)).toMatchObject({ kind: 'command', text: 'COM_BINLOG_DUMP', status: 'ok' });
  const no = await read(refused.port);
  expect(no.ok).toBe(false);
  expect(no.text).toContain('replication is not allowed');
  await allowed.close();
  await refused.close();
  await server.stop();
});

describe('sysbench', () => {
  let server: DatabaseServer;
  let gateway: TestGateway;

  beforeAll(async () => {
    server = await startMariadb('10');
    await server.run(
      'create database sbtest',
      "create user app@'%' identified by ''",
      "grant all on *.* to app@'%'",
    );
    gateway = await startTestGateway({
      engine: mysql,
      settings: { ...MYSQL_SETTINGS, flavor: 'mariadb' as const },
      servers: [{ host: server.host, port: server.port }],
      username: 'app',
      password: null,
      database: 'sbtest',
    });
  });

  afterAll(async () => {
    await gateway?.close();
    await server?.stop();
  });

  test.each(['auto', 'disable'])('reads and writes with prepared statements: %s', async (mode) => {
    const bench = (step: string) =>
      new Promise<{ code: number | null; text: string }>((resolve, reject) => {
        const child = spawn(
          'sysbench',
          [
            'oltp_read_write',
            '--mysql-host=127.0.0.1',
            `--mysql-port=${gateway.port}`,
            '--mysql-user=app',
            '--mysql-db=sbtest',
            '--tables=2',
            '--table-size=500',
            '--threads=4',
            '--events=200',
            '--time=30',
            `--db-ps-mode=${mode}`,
            step,
          ],
          { stdio: ['ignore', 'pipe', 'pipe'] },
        );
        let text = '';
        for (const stream of [child.stdout, child.stderr]) {
          stream.on('data', (chunk: Buffer) => {
            text += chunk.toString();
          });
        }
        child.on('error', reject);
        child.on('close', (code) => resolve({ code, text }));
      });
    expect(await bench('prepare')).toMatchObject({ code: 0 });
    const before = gateway.recorder.statements.length;
    const { code, text } = await bench('run');
    expect(code, text).toBe(0);
    expect(text).toMatch(/transactions: +200 /);
    const statements = gateway.recorder.statements.slice(before);
    // Ten point selects a transaction.
    const points = statements.filter(
      ({ kind, text: each }) => kind !== 'prepare' && /^SELECT c FROM sbtest\d WHERE id=/.test(each ?? ''),
    );
    expect(points.length).toBeGreaterThanOrEqual(2000);
    expect(points.every(({ rowsReturned, status }) => rowsReturned === 1 && status === 'ok')).toBe(true);
    if (mode === 'auto') expect(points.every(({ parameters }) => parameters?.length === 1)).toBe(true);
    expect(await bench('cleanup')).toMatchObject({ code: 0 });
  });
});
