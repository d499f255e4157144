import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { PostgresSettings } from '../../../protocols/engine.ts';
import { postgres } from '../../../protocols/postgres/engine.ts';
import { makeAuthority } from '../../support/certificates.ts';
import { startTestGateway, type TestGateway } from '../../support/gateway.ts';
import type { RecordedStatement } from '../../support/memory-recorder.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { nodePostgresTour, postgresJsTour, type Way } from '../../support/postgres-tours.ts';

/**
 * The clients that people use, each on a tour of what it can do: directly and through the gateway it prints the same,
 * and what it did is on record.
 */

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..', '..');
const CLIENTS = join(ROOT, 'var', 'clients');

const SETTINGS: PostgresSettings = {
  engine: 'postgres',
  channelBinding: 'prefer',
  allowReplication: true,
  targetSessionAttrs: 'any',
  directTls: false,
  protocolVersion: '3.0',
  scramIterationsMax: 1_000_000,
};

let server: PostgresServer;
let gateway: TestGateway;
let folder: string;

beforeAll(async () => {
  server = await startPostgres({ major: 18 });
  await server.query('ALTER ROLE launch_user REPLICATION; GRANT pg_monitor TO launch_user');
  gateway = await startTestGateway({
    engine: postgres,
    settings: SETTINGS,
    servers: [server],
    username: server.accounts.launch.user,
    password: server.accounts.launch.password,
    database: server.database,
  });
  folder = await mkdtemp(join(tmpdir(), 'sallyport-clients-'));
});
afterAll(async () => {
  await gateway?.close();
  await server?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

const direct = (): Way => ({
  host: server.host,
  port: server.port,
  user: server.accounts.launch.user,
  password: server.accounts.launch.password,
  database: server.database,
});
const through = (): Way => ({
  host: '127.0.0.1',
  port: gateway.port,
  user: 'somebody',
  password: null,
  database: server.database,
});

/** Takes the tour both ways. Returns what the record has of it. */
async function both(tour: (way: Way) => Promise<string[] | string>): Promise<RecordedStatement[]> {
  const expected = await tour(direct());
  expect(expected.length, 'the tour shows something').toBeGreaterThan(0);
  const from = gateway.recorder.sessions.length;
  expect(await tour(through())).toEqual(expected);
  await gateway.recorder.until(() =>
    gateway.recorder.sessions.slice(from).every((session) => session.end_ !== null),
  );
  const sessions = gateway.recorder.sessions.slice(from);
  expect(sessions.length).toBeGreaterThan(0);
  for (const session of sessions) {
    expect(session.notes.filter((note) => note.kind === 'opaque')).toEqual([]);
    expect(session.statements.filter((statement) => !statement.ended || statement.opaque)).toEqual([]);
    expect(session.statements.filter((statement) => statement.status === 'unknown')).toEqual([]);
  }
  return sessions.flatMap((session) => session.statements);
}

/** Statements whose text has a part, as what matters of them. */
function found(statements: readonly RecordedStatement[], part: string): RecordedStatement[] {
  const matching = statements.filter(({ text, kind }) => kind !== 'prepare' && text?.includes(part));
  expect(matching.length, `a statement with "${part}" is on record`).toBeGreaterThan(0);
  return matching;
}

function values(statement: RecordedStatement): unknown[] {
  return (statement.parameters ?? []).map(({ value }) => value);
}

function environment(way: Way): Record<string, string> {
  return {
    PATH: process.env.PATH ?? '',
    HOME: folder,
    PGHOST: way.host,
    PGPORT: String(way.port),
    PGUSER: way.user,
    PGDATABASE: way.database,
    PGSSLMODE: way.tls ? 'require' : 'disable',
    ...(way.password === null ? {} : { PGPASSWORD: way.password }),
  };
}

async function command(way: Way, file: string, args: readonly string[]): Promise<string> {
  const { stdout, stderr } = await run(file, args as string[], { env: environment(way), maxBuffer: 1 << 28 });
  return stdout + stderr;
}

describe('drivers', () => {
  const python = join(CLIENTS, 'python', 'bin', 'python');
  const pythonTour =
    (driver: string) =>
    async (way: Way): Promise<string> => {
      const { stdout } = await run(python, [
        join(ROOT, 'test', 'clients', 'python', 'postgres_tour.py'),
        driver,
        way.host,
        String(way.port),
        way.user,
        way.password ?? '-',
        way.database,
      ]);
      expect(stdout.trim().endsWith('done')).toBe(true);
      return stdout.replace(/"oid": \d+/g, '');
    };

  test('node-postgres, its pool, pg-cursor, pg-copy-streams', async () => {
    const statements = await both(nodePostgresTour);
    expect(values(found(statements, 'insert into tourn values')[0]!)).toEqual(['1', 'ü', '{"a":[1,null]}']);
    const named = statements.filter(({ name }) => name === 'insert');
    expect(named.map(({ text, rowsAffected }) => [text, rowsAffected])).toEqual(
      [2, 3, 4].map(() => ['insert into tourn (id, name) values ($1, $2)', 1]),
    );
    expect(found(statements, 'generate_series')[0]).toMatchObject({ rowsReturned: 10, status: 'ok' });
    expect(found(statements, 'copy tourn (id, name) from stdin')[0]).toMatchObject({
      kind: 'copy',
      rowsAffected: 2,
    });
    expect(found(statements, 'to stdout')[0]).toMatchObject({ kind: 'copy', rowsReturned: 6 });
    expect(found(statements, '1/$1')[0]).toMatchObject({ status: 'error', error: { code: '22012' } });
  });

  test('postgres.js', async () => {
    const statements = await both(postgresJsTour);
    const pipelined = found(statements, 'select $1::int as n');
    expect(pipelined.map((statement) => values(statement)[0])).toEqual(
      Array.from({ length: 200 }, (_, n) => String(n)),
    );
    expect(found(statements, 'generate_series')[0]).toMatchObject({ rowsReturned: 10 });
  });

  test('psycopg2', async () => {
    const statements = await both(pythonTour('psycopg2'));
    expect(found(statements, "O''Neill")[0]).toMatchObject({
      kind: 'query',
      rowsAffected: 1,
      transaction: 'active',
    });
    expect(found(statements, 'select 1/0')[0]).toMatchObject({
      error: { code: '22012' },
      transaction: 'failed',
    });
    expect(found(statements, 'raise notice')[0]!.messages).toEqual(['NOTICE 00000: noted']);
    const calls = statements.filter(({ kind }) => kind === 'rpc');
    expect(calls.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['lo_open', 'lowrite', 'loread', 'lo_close', 'lo_unlink']),
    );
    const writes = calls.filter(({ name }) => name === 'lowrite');
    expect(writes[0]!.parameters![1]).toMatchObject({ type: 'bytea', bytes: 50_000 });
  });

  test('psycopg 3', async () => {
    const statements = await both(pythonTour('psycopg'));
    const selected = found(statements, 'select name from tour3');
    expect(selected.map((statement) => values(statement)[0])).toEqual([
      '0',
      '1',
      '2',
      '3',
      '4',
      '5',
      '6',
      '7',
    ]);
    expect(selected.at(-1)!.name, 'prepared from the sixth use on').toMatch(/^_pg3_/);
    expect(values(found(statements, '$4::bytea')[0]!)).toEqual(['7', 'binary', 'text', '\\xff']);
    const pipeline = statements.filter(({ text }) => /\(50\)|1\/0|\(51\)/.test(text ?? ''));
    expect(pipeline.map(({ status }) => status)).toEqual(['ok', 'error', 'cancelled']);
    expect(found(statements, 'copy tour3 (id) from')[0]).toMatchObject({
      kind: 'copy',
      error: { code: '22P02' },
    });
    expect(found(statements, 'select generate_series(1, 5)')[0]).toMatchObject({ rowsReturned: 5 });
  });

  test('asyncpg, with binary parameters of every type', async () => {
    let casts: string[] = [];
    const statements = await both(async (way) => {
      const output = await pythonTour('asyncpg')(way);
      casts = output.split('\n').filter((line) => line.startsWith('cast '));
      return output;
    });
    const recorded = statements
      .filter(({ kind, text }) => kind === 'execute' && /^select \$1::.*::text$/.test(text ?? ''))
      .map((statement) => values(statement)[0]);
    const expected = casts.map((line) => JSON.parse(line.slice(line.indexOf(' ', 5) + 1)) as string | null);
    // The server shows times by the session's time zone, and an inet with its prefix, as sent.
    expect(recorded).toEqual(expected);
    expect(found(statements, 'select id from toura')[0]).toMatchObject({ rowsReturned: 10, status: 'ok' });
    expect(found(statements, 'select $1::int * 2')).toHaveLength(4);
  });

  test('pg8000', async () => {
    const statements = await both(pythonTour('pg8000'));
    expect(found(statements, 'insert into tour8').map((statement) => values(statement))).toEqual(
      [0, 1, 2].map((n) => [String(n), `n${n}`]),
    );
  });

  test('pgx, in each of its modes', async () => {
    const program = join(CLIENTS, 'bin', 'pgx-tour');
    const statements = await both(async ({ host, port, user, password, database }) => {
      const account = password === null ? user : `${user}:${encodeURIComponent(password)}`;
      const url = `postgres://${account}@${host}:${port}/${database}?sslmode=disable`;
      const { stdout } = await run(program, [url]);
      return stdout;
    });
    const modes = found(statements, 'select name, ');
    expect(modes.map(({ kind }) => kind)).toEqual(['execute', 'execute', 'execute', 'execute', 'query']);
    for (const mode of modes.slice(0, 4)) expect(values(mode)[0]).toBe('1');
    expect(found(statements, 'from tourg').length).toBeGreaterThan(5);
    expect(
      statements.filter(({ kind }) => kind === 'copy').map(({ rowsAffected }) => rowsAffected),
    ).toContain(2);
  });

  describe('pgjdbc', () => {
    const tour =
      (query: string) =>
      async (way: Way): Promise<string> => {
        const { stdout } = await run('java', [
          '-cp',
          join(CLIENTS, 'java', '*'),
          join(ROOT, 'test', 'clients', 'java', 'PostgresTour.java'),
          `jdbc:postgresql://${way.host}:${way.port}/${way.database}?sslmode=disable&${query}`,
          way.user,
          way.password ?? '-',
        ]);
        expect(stdout.trim().endsWith('done')).toBe(true);
        return stdout;
      };

    test('as it comes', async () => {
      const statements = await both(tour(''));
      const batch = found(statements, 'insert into tourj');
      expect(batch.map((statement) => values(statement).slice(0, 2))).toEqual([
        ['1', 'n1'],
        ['2', 'n2'],
        ['3', 'n3'],
      ]);
      const seven = found(statements, 'select name from tourj');
      expect(seven.map((statement) => values(statement)[0])).toEqual(['2', '3', '1', '2', '3', '1', '2']);
      expect(seven[0]!.name).toBeNull();
      expect(seven[6]!.name, 'prepared from the fifth use on').toMatch(/^S_\d/);
      const fetched = found(statements, 'generate_series');
      expect(fetched).toHaveLength(1);
      expect(fetched[0]).toMatchObject({ rowsReturned: 5, status: 'ok' });
      expect(fetched[0]!.results!.map(({ rowsReturned }) => rowsReturned)).toEqual([2, 2, 1]);
      expect(found(statements, "update tourj set name = 'x'")[0]).toMatchObject({
        rowsAffected: 2,
        transaction: 'active',
      });
    });

    test('in its simple mode', async () => {
      const statements = await both(tour('preferQueryMode=simple'));
      expect(found(statements, 'BEGIN')[0]).toMatchObject({ kind: 'query', tag: 'BEGIN' });
      expect(statements.some(({ kind }) => kind === 'execute')).toBe(false);
    });

    test('with autosave, and prepared from the first use on', async () => {
      const statements = await both(tour('autosave=always&prepareThreshold=1'));
      found(statements, 'PGJDBC_AUTOSAVE');
      const selects = found(statements, 'select name from tourj');
      expect(selects.map((statement) => values(statement)[0])).toEqual(['2', '3', '1', '2', '3', '1', '2']);
      expect(selects[1]!.name).toMatch(/^S_\d/);
    });
  });
});

describe('psql', () => {
  test('statements of every kind', async () => {
    const script = join(folder, 'script.sql');
    await writeFile(
      script,
      `\\set ON_ERROR_STOP 0
create temporary table t (id int, name text);
copy t from stdin;
1\tone
2\ttwo
\\.
select * from t order by id;
update t set name = 'x' where id = 1; select count(*) from t;
select 1/0;
begin; select 1; slect; select 2; rollback;
\\copy t to stdout
\\d t
prepare p as select $1::int; execute p(3); deallocate p;
do $$ begin raise notice 'noted'; end $$;
select 'ünï' as text;
`,
    );
    const statements = await both(async (way) =>
      (await command(way, 'psql', ['-X', '-f', script])).replace(/pg_temp_\d+/g, 'pg_temp'),
    );
    expect(found(statements, 'copy t from stdin')[0]).toMatchObject({ kind: 'copy', rowsAffected: 2 });
    expect(found(statements, 'select * from t')[0]).toMatchObject({
      rowsReturned: 2,
      columns: ['id', 'name'],
    });
    expect(found(statements, 'slect')[0]).toMatchObject({ error: { code: '42601' }, transaction: 'failed' });
  });

  test('several statements in one Query', async () => {
    const statements = await both((way) =>
      command(way, 'psql', ['-X', '-c', 'select 1; select 2; select 3']),
    );
    expect(found(statements, 'select 3')[0]!.results).toHaveLength(3);
  });
});

describe("PostgreSQL's own programs", () => {
  /** What pgbench says of its work, without the times. */
  async function pgbench(way: Way, ...args: string[]): Promise<string> {
    const output = await command(way, 'pgbench', ['-n', ...args]);
    return output
      .split('\n')
      .filter((line) => /number of (transactions actually|failed)|query mode/.test(line))
      .join('\n');
  }

  test('pgbench initializes, and runs in each of its modes', async () => {
    const counts = `select (select count(*) from pgbench_accounts) || ' ' || (select count(*) from pgbench_branches)`;
    const statements = await both(async (way) => {
      await command(way, 'pgbench', ['-i', '-q']);
      return command(way, 'psql', ['-XAtc', counts]);
    });
    expect(found(statements, 'copy pgbench_accounts')[0]).toMatchObject({
      kind: 'copy',
      rowsAffected: 100_000,
    });
    for (const mode of ['simple', 'extended', 'prepared']) {
      const ran = await both((way) => pgbench(way, '-M', mode, '-c', '2', '-t', '50'));
      const selects = found(ran, 'SELECT abalance');
      expect(selects).toHaveLength(100);
      if (mode !== 'simple') expect(values(selects[0]!)[0]).toMatch(/^\d+$/);
      expect(found(ran, 'INSERT INTO pgbench_history')).toHaveLength(100);
    }
    const script = join(folder, 'pipeline.sql');
    await writeFile(
      script,
      `\\set id random(1, 100000)
\\startpipeline
select abalance from pgbench_accounts where aid = :id;
update pgbench_accounts set abalance = abalance + 1 where aid = :id;
select abalance from pgbench_accounts where aid = :id;
\\endpipeline
`,
    );
    for (const mode of ['extended', 'prepared']) {
      const ran = await both((way) => pgbench(way, '-M', mode, '-f', script, '-t', '40'));
      expect(found(ran, 'update pgbench_accounts')).toHaveLength(40);
      expect(ran.filter(({ kind, status }) => kind === 'execute' && status === 'ok')).toHaveLength(120);
    }
  });

  test('pg_dump and pg_restore, in parallel, with large objects', async () => {
    await server.query(
      `create schema kept authorization launch_user; set role launch_user;
       create table kept.t as select n as id, repeat(chr(97 + n % 26), 100) as text from generate_series(1, 20000) n;
       create table kept.u as select n as id from generate_series(1, 5000) n;
       create index on kept.t (id); select lo_from_bytea(0, repeat('x', 100000)::bytea);`,
    );
    // The server is newer than Debian's pg_dump: its own is not part of the npm package, so plain SQL is compared.
    const old = await startPostgres({ major: 15 });
    const other = await startTestGateway({
      engine: postgres,
      settings: SETTINGS,
      servers: [old],
      username: 'launch_user',
      password: old.accounts.launch.password,
      database: old.database,
    });
    try {
      await old.query(
        `create schema kept authorization launch_user; set role launch_user;
         create table kept.t as select n as id, repeat(chr(97 + n % 26), 100) as text from generate_series(1, 20000) n;
         create table kept.u as select n as id from generate_series(1, 5000) n;
         create index on kept.t (id); select lo_from_bytea(0, repeat('x', 100000)::bytea);`,
      );
      const ways: Way[] = [
        { ...direct(), port: old.port, password: old.accounts.launch.password },
        { ...through(), port: other.port },
      ];
      const dumps: string[] = [];
      const restored: string[] = [];
      for (const [index, way] of ways.entries()) {
        const target = join(folder, `dump${index}`);
        await command(way, 'pg_dump', ['-Fd', '-j4', '-b', '-n', 'kept', '-f', target]);
        dumps.push(await command(way, 'pg_restore', ['-f', '-', target]));
        await command(way, 'psql', [
          '-Xqc',
          'drop schema kept cascade; select lo_unlink(oid) from pg_largeobject_metadata',
        ]);
        await command(way, 'pg_restore', ['-j4', '-d', way.database, target]);
        restored.push(
          await command(way, 'psql', [
            '-XAtc',
            `select md5(string_agg(t::text, ',' order by id)) from kept.t; select count(*) from kept.u;
             select sum(length(lo_get(oid))) from pg_largeobject_metadata; select indexdef from pg_indexes where schemaname = 'kept'`,
          ]),
        );
      }
      const plain = (dump: string): string =>
        dump.replace(/^-- (Dumped|Started|Completed).*$/gm, '').replace(/restrict \S+/g, '');
      expect(plain(dumps[1]!)).toBe(plain(dumps[0]!));
      expect(restored[1]).toBe(restored[0]);
      expect(restored[0]).toContain('100000');
      const statements = other.recorder.statements;
      const copies = statements.filter(({ kind }) => kind === 'copy');
      expect(copies.map(({ rowsReturned }) => rowsReturned)).toEqual(expect.arrayContaining([20_000, 5_000]));
      expect(copies.map(({ rowsAffected }) => rowsAffected)).toEqual(expect.arrayContaining([20_000, 5_000]));
      expect(statements.filter(({ kind }) => kind === 'rpc').map(({ name }) => name)).toEqual(
        expect.arrayContaining(['lo_open', 'loread', 'lo_close', 'lowrite']),
      );
      expect(statements.filter(({ status, ended }) => !ended || status === 'unknown')).toEqual([]);
    } finally {
      await other.close();
      await old.stop();
    }
  });

  test('pg_recvlogical and pg_basebackup, where replication is allowed', async () => {
    const old = await startPostgres({ major: 15 });
    const other = await startTestGateway({
      engine: postgres,
      settings: SETTINGS,
      servers: [old],
      username: 'replica_user',
      password: old.accounts.replica.password,
      database: old.database,
    });
    const way = { ...through(), port: other.port };
    try {
      await command(way, 'pg_recvlogical', [
        '-d',
        way.database,
        '--slot',
        's',
        '--create-slot',
        '-P',
        'test_decoding',
      ]);
      await old.query('create table r (a int); insert into r select generate_series(1, 100)');
      const [end] = await old.query('select pg_current_wal_insert_lsn()::text as lsn');
      const changes = join(folder, 'changes');
      await command(way, 'pg_recvlogical', [
        ...['-d', way.database, '--slot', 's', '--start', '-f', changes, '--endpos', String(end!.lsn)],
        '--no-loop',
      ]);
      expect((await readFile(changes, 'utf8')).match(/INSERT/g)).toHaveLength(100);
      const backup = join(folder, 'backup');
      await command(way, 'pg_basebackup', ['-D', backup, '-X', 'stream', '-c', 'fast']);
      expect(existsSync(join(backup, 'backup_manifest'))).toBe(true);
      await other.recorder.until(() => other.recorder.sessions.every((session) => session.end_ !== null));
      const statements = other.recorder.statements;
      expect(found(statements, 'START_REPLICATION').length).toBeGreaterThanOrEqual(2);
      expect(found(statements, 'BASE_BACKUP')[0]).toMatchObject({ status: 'ok' });
      expect(
        other.recorder.sessions.flatMap(({ notes }) => notes).filter(({ kind }) => kind === 'opaque'),
      ).toEqual([]);
    } finally {
      await other.close();
      await old.stop();
    }
  });
});

test('with TLS on both legs', async () => {
  const authority = await makeAuthority('tours');
  const certificate = await authority.issue({ commonName: 'localhost', hosts: ['localhost', '127.0.0.1'] });
  const secured = await startPostgres({ major: 18, tls: certificate, tlsRequired: true });
  const other = await startTestGateway({
    engine: postgres,
    settings: SETTINGS,
    servers: [secured],
    username: 'launch_user',
    password: secured.accounts.launch.password,
    database: secured.database,
    serverTls: { mode: 'verify-full', ca: authority.cert },
    clientTls: { certificate, mode: 'require' },
  });
  try {
    const way = { ...through(), port: other.port, tls: true };
    expect(await nodePostgresTour(way)).toEqual(await nodePostgresTour(direct()));
    expect(await postgresJsTour(way)).toEqual(await postgresJsTour(direct()));
    const rows = "copy (select n, repeat('x', 1000) from generate_series(1, 20000) n) to stdout";
    const psql = (where: Way): Promise<string> => command(where, 'psql', ['-X', '-c', rows]);
    expect((await psql(way)) === (await psql(direct()))).toBe(true);
    await command(way, 'pgbench', ['-i', '-q']);
    await command(way, 'pgbench', ['-n', '-M', 'prepared', '-c', '2', '-t', '50']);
    await other.recorder.until(() => other.recorder.sessions.every((session) => session.end_ !== null));
    expect(found(other.recorder.statements, 'SELECT abalance')).toHaveLength(100);
    for (const { start, notes } of other.recorder.sessions) {
      expect(start).toMatchObject({ serverTlsVerified: true, tlsFallback: false });
      expect(start.clientTls).toMatch(/^TLSv1\.3/);
      expect(notes.filter((note) => note.kind === 'opaque')).toEqual([]);
    }
  } finally {
    await other.close();
    await secured.stop();
  }
});
