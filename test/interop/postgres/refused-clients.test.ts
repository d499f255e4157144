import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import postgresjs from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Verdict } from '../../../protocols/engine.ts';
import { postgres } from '../../../protocols/postgres/engine.ts';
import type { Statement } from '../../../protocols/statement.ts';
import { statementGate } from '../../../src/gateway/policy.ts';
import { startTestGateway, type TestGateway } from '../../support/gateway.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';

/** What people see in their own tools when the product's own rules refuse a statement, and that their session goes on. */

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..', '..');
const PYTHON = join(ROOT, 'var', 'clients', 'python', 'bin', 'python');
const EVIL = "ALTER ROLE launch_user PASSWORD 'taken over'";

let server: PostgresServer;
let gateway: TestGateway;
let options: { host: string; port: number; user: string; database: string };

beforeAll(async () => {
  server = await startPostgres({ major: 18 });
  gateway = await startTestGateway({
    engine: postgres,
    settings: {
      engine: 'postgres',
      channelBinding: 'prefer',
      allowReplication: false,
      targetSessionAttrs: 'any',
      directTls: false,
      protocolVersion: '3.0',
      scramIterationsMax: 1_000_000,
    },
    servers: [server],
    username: 'launch_user',
    password: server.accounts.launch.password,
    database: server.database,
    decide: gate(),
  });
  options = { host: '127.0.0.1', port: gateway.port, user: 'x', database: server.database };
});
afterAll(async () => {
  await gateway?.close();
  await server?.stop();
});

function gate(): (statement: Statement) => Verdict {
  return statementGate({
    engine: 'postgres',
    account: 'launch_user',
    allowAccountChange: false,
    readOnly: false,
  });
}

async function python(script: string): Promise<string[]> {
  const { stdout } = await run(PYTHON, ['-c', script, String(gateway.port), EVIL]);
  return stdout.trim().split('\n');
}

test('node-postgres: simple, with parameters, named, in a transaction', async () => {
  const client = new pg.Client(options);
  await client.connect();
  const refused = (query: Promise<unknown>): Promise<{ code: string; hint: string; severity: string }> =>
    query.then(
      () => Promise.reject(new Error('it was let through')),
      (error) => error,
    );
  for (const query of [
    (): Promise<unknown> => client.query(EVIL),
    (): Promise<unknown> => client.query({ text: EVIL, values: [], queryMode: 'extended' } as pg.QueryConfig),
    (): Promise<unknown> => client.query({ name: 'n', text: EVIL, values: [] }),
  ]) {
    const error = await refused(query());
    expect(error).toMatchObject({ code: '42501', severity: 'ERROR' });
    expect(error.hint).not.toBe('');
    expect((await client.query('select 1 as n')).rows).toEqual([{ n: 1 }]);
  }
  await client.query('begin');
  expect((await refused(client.query(EVIL))).code).toBe('42501');
  expect((await refused(client.query('select 1') as Promise<unknown>)).code).toBe('25P02');
  await client.query('rollback');
  await client.end();
});

test('postgres.js: what is before and behind it in the pipeline is answered', async () => {
  const sql = postgresjs({
    host: options.host,
    port: options.port,
    username: 'x',
    database: options.database,
    max: 1,
  });
  const outcomes = await Promise.allSettled([
    sql`select 1 as n`,
    sql.unsafe(EVIL),
    sql`select ${2}::int as n`,
  ]);
  expect(outcomes.map((one) => (one.status === 'fulfilled' ? one.value[0]?.n : one.reason.code))).toEqual([
    1,
    '42501',
    2,
  ]);
  await sql.end();
});

test('psql, and its \\password', async () => {
  const { stdout, stderr } = await run('psql', ['-X', '-c', EVIL, '-c', 'select 1 as after'], {
    env: {
      PATH: process.env.PATH,
      PGHOST: options.host,
      PGPORT: String(options.port),
      PGUSER: 'x',
      PGDATABASE: options.database,
    },
  });
  expect(stderr).toMatch(/ERROR: .*\nHINT: /);
  expect(stdout).toContain('after');
  expect(stderr).not.toContain('sallyport_deny');
  const changed = await run('python3', ['-c', PASSWORD_BY_TERMINAL, String(options.port)]);
  expect(changed.stdout).toContain('ERROR:');
  expect(changed.stdout).toContain('HINT:');
});

/** psql asks for a new password only on a terminal. */
const PASSWORD_BY_TERMINAL = `
import os, pty, select, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp('psql', ['psql', '-X', '-h', '127.0.0.1', '-p', sys.argv[1], '-U', 'x', 'appdb'])
heard = b''
def until(word):
    global heard
    seen = len(heard)
    end = time.time() + 10
    while word not in heard[seen:] and time.time() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            heard += os.read(terminal, 4096)
for word, answer in ((b'appdb=', b'\\password'), (b'new password', b'new'), (b'again', b'new')):
    until(word)
    os.write(terminal, answer + b'\\n')
until(b'appdb=')
os.write(terminal, b'\\q\\n')
os.waitpid(pid, 0)
print(heard.decode())
`;

describe('Python', () => {
  test('psycopg2', async () => {
    const heard = await python(`
import sys, psycopg2
connection = psycopg2.connect(host='127.0.0.1', port=sys.argv[1], user='x', dbname='appdb', sslmode='disable')
cursor = connection.cursor()
try:
    cursor.execute(sys.argv[2])
except psycopg2.Error as error:
    print(error.pgcode, bool(error.diag.message_hint))
connection.rollback()
cursor.execute('select 1')
print(cursor.fetchone()[0])
`);
    expect(heard).toEqual(['42501 True', '1']);
  });

  test('psycopg 3, in a pipeline too', async () => {
    const heard = await python(`
import sys, psycopg
connection = psycopg.connect(host='127.0.0.1', port=sys.argv[1], user='x', dbname='appdb', sslmode='disable', autocommit=True)
for prepare in (False, True):
    try:
        connection.execute(sys.argv[2], prepare=prepare)
    except psycopg.Error as error:
        print(error.sqlstate)
try:
    with connection.pipeline():
        first = connection.execute('select 1')
        connection.execute(sys.argv[2])
        connection.execute('select 2')
except psycopg.Error as error:
    print('pipeline', error.sqlstate, first.fetchone()[0])
print(connection.execute('select 3').fetchone()[0])
`);
    expect(heard).toEqual(['42501', '42501', 'pipeline 42501 1', '3']);
  });

  test('asyncpg', async () => {
    const heard = await python(`
import asyncio, sys, asyncpg
async def main():
    connection = await asyncpg.connect(host='127.0.0.1', port=int(sys.argv[1]), user='x', database='appdb', ssl=False)
    for call in (connection.execute, connection.fetch, connection.prepare):
        try:
            await call(sys.argv[2])
        except asyncpg.PostgresError as error:
            print(error.sqlstate, bool(error.hint))
    print(await connection.fetchval('select $1::int', 1))
    await connection.close()
asyncio.run(main())
`);
    expect(heard).toEqual(['42501 True', '42501 True', '42501 True', '1']);
  });
});

test('pgx', async () => {
  const { stdout } = await run(join(ROOT, 'var', 'clients', 'bin', 'pgx-tour'), [
    `postgres://x@127.0.0.1:${options.port}/appdb?sslmode=disable`,
    EVIL,
  ]);
  expect(stdout.trim().split('\n')).toEqual(['refused 42501', 'refused 42501', 'refused 42501', 'after 1']);
});

test('pgjdbc, with and without autosave', async () => {
  for (const autosave of ['never', 'always']) {
    const { stdout } = await run('java', [
      '-cp',
      join(ROOT, 'var', 'clients', 'java', '*'),
      join(ROOT, 'test', 'clients', 'java', 'PostgresRefused.java'),
      `jdbc:postgresql://127.0.0.1:${options.port}/appdb?sslmode=disable&autosave=${autosave}`,
      EVIL,
    ]);
    const inTransaction = autosave === 'always' ? 'in transaction 1' : 'in transaction 25P02';
    expect(stdout.trim().split('\n')).toEqual(['42501', 'after 1', '42501', inTransaction]);
  }
});

test('what connection pools send when a connection comes back is let through', async () => {
  const client = new pg.Client(options);
  await client.connect();
  await client.query(
    'SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP',
  );
  await client.query('DISCARD ALL');
  await client.end();
});

test.each([
  'ALTER USER launch_user PASSWORD NULL',
  "alter role current_user with password 'x'",
  'alter/**/user "launch_user" password \'x\'',
  'ALTER ROLE U&"launch\\005fuser" PASSWORD \'x\'',
  "select 1; ALTER ROLE session_user ENCRYPTED PASSWORD 'x'",
])('%s never reaches the server', async (text) => {
  const client = new pg.Client(options);
  await client.connect();
  await expect(client.query(text)).rejects.toMatchObject({ code: '42501' });
  await client.end();
});

test('the password is what it was', async () => {
  const client = new pg.Client({
    ...options,
    port: server.port,
    user: 'launch_user',
    password: server.accounts.launch.password ?? '',
  });
  await client.connect();
  await client.end();
  expect(await server.log()).not.toContain('taken over');
});
