import mssql from 'mssql';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Refusal } from '../../../protocols/error.ts';
import type { TestGateway } from '../../support/gateway.ts';
import type { RecordedStatement } from '../../support/memory-recorder.ts';
import { connectMssql, faultOf, MSSQL_ROWS, type MssqlOptions } from '../../support/mssql.ts';
import { type SqlServer, startSqlGateway, startSqlServer } from '../../support/sql-server.ts';

/**
 * The npm client mssql, whose users see pools, transactions and prepared statements and never a connection: what becomes
 * of those when the gateway refuses, cancels or ends, and what pooling puts on record. Its tour of everything is among
 * the other clients'.
 */

let server: SqlServer;
const gateways: TestGateway[] = [];
const pools: mssql.ConnectionPool[] = [];

beforeAll(async () => {
  server = await startSqlServer();
  const pool = await connectMssql({ ...account(server.port), ...credentials() });
  for (const sql of SETUP) await pool.batch(sql);
  await pool.close();
});

afterEach(async () => {
  // First, so that a pool whose test failed has nothing to wait for.
  for (const gateway of gateways.splice(0)) await gateway.close();
  for (const pool of pools.splice(0)) await pool.close().catch(() => {});
});

afterAll(() => server?.close());

const SETUP = [
  'DROP TABLE IF EXISTS dbo.ms_rows',
  'DROP PROCEDURE IF EXISTS dbo.ms_table',
  'DROP TYPE IF EXISTS dbo.ms_ids',
  'CREATE TABLE dbo.ms_rows (id int NOT NULL PRIMARY KEY, n nvarchar(20) NULL)',
  'CREATE TYPE dbo.ms_ids AS TABLE (id int NOT NULL, n nvarchar(20) NULL)',
  'CREATE PROCEDURE dbo.ms_table @t dbo.ms_ids READONLY AS SELECT id, n FROM @t ORDER BY id',
];

function account(port: number) {
  return { port, user: 'somebody', password: '', database: server.database };
}

function credentials() {
  return { user: server.username, password: server.password };
}

interface Stand {
  readonly gateway: TestGateway;
  readonly pool: mssql.ConnectionPool;
}

/** A gateway that refuses what its policy says, and a pool through it. */
async function stand(
  options: MssqlOptions = {},
  refused: RegExp | null = null,
  gatewayOptions: Parameters<typeof startSqlGateway>[1] = {},
): Promise<Stand> {
  const gateway = await startSqlGateway(server, {
    decide: ({ text, name }) =>
      refused?.test(text ?? name ?? '')
        ? { action: 'refuse', refusal: new Refusal('statement_not_allowed', 'this table is closed') }
        : { action: 'allow' },
    ...gatewayOptions,
  });
  gateways.push(gateway);
  const pool = await connectMssql(account(gateway.port), options);
  pools.push(pool);
  return { gateway, pool };
}

/** Texts of a program's own requests: without the settings that every connection begins with. */
function own(gateway: TestGateway): RecordedStatement[] {
  return gateway.recorder.statements.filter(({ text }) => !/^\s*set /i.test(text ?? ''));
}

async function fault(running: Promise<unknown>): Promise<ReturnType<typeof faultOf>> {
  return running.then(
    () => Promise.reject(new Error('it went well')),
    (error: unknown) => {
      expect(error).toBeInstanceOf(mssql.MSSQLError);
      return faultOf(error);
    },
  );
}

const CLOSED = { code: 'EREQUEST', number: 50_501, message: 'Sallyport: this table is closed.' };

describe('a pool', () => {
  test('is on record with its trial, and with the question before each use', async () => {
    const { gateway, pool } = await stand();
    for (const value of [1, 2]) await pool.query`SELECT ${value} AS v`;
    await pool.close();
    await gateway.recorder.until(() => gateway.recorder.sessions.every(({ end_ }) => end_ !== null));
    expect(gateway.recorder.sessions.map(({ end_ }) => end_?.reason)).toEqual([
      'client_closed',
      'client_closed',
    ]);
    expect(gateway.recorder.sessions.map(({ start }) => [start.clientUser, start.clientProgram])).toEqual([
      ['somebody', 'node-mssql'],
      ['somebody', 'node-mssql'],
    ]);
    expect(own(gateway).map(({ text, parameters }) => [text, parameters?.[0]?.value])).toEqual([
      ['SELECT 1;', undefined],
      ['SELECT @param1 AS v', 1],
      ['SELECT 1;', undefined],
      ['SELECT @param1 AS v', 2],
    ]);
  });

  test('that asks the socket only puts nothing else on record', async () => {
    const { gateway, pool } = await stand({ validateConnection: 'socket' });
    for (const value of [1, 2]) await pool.query(`SELECT ${value} AS v`);
    await pool.close();
    expect(own(gateway).map(({ text }) => text)).toEqual(['SELECT 1 AS v', 'SELECT 2 AS v']);
  });

  test('opens one session for each that runs at once', async () => {
    const { gateway, pool } = await stand({ connectionsMax: 4 });
    const spids = await Promise.all(
      [1, 2, 3, 4].map(async () => {
        const { recordset } = await pool.request().batch("WAITFOR DELAY '00:00:01'; SELECT @@SPID AS spid");
        return String(recordset[0].spid);
      }),
    );
    expect(new Set(spids).size).toBe(4);
    const sessions = gateway.recorder.sessions.slice(1);
    expect(new Set(sessions.map(({ start }) => start.serverSession))).toEqual(new Set(spids));
  });

  // This client resets no connection between uses: what one leaves, the next finds.
  test('keeps a connection’s state from use to use, as it does directly', async () => {
    const { gateway, pool } = await stand();
    await pool.batch('USE master');
    expect((await pool.query('SELECT DB_NAME() AS name')).recordset).toEqual([{ name: 'master' }]);
    expect(gateway.recorder.sessions.at(-1)!.notes).toContainEqual({
      kind: 'database_changed',
      database: 'master',
    });
  });

  test('replaces a connection that was killed while nobody used it', async () => {
    const { gateway, pool } = await stand();
    await pool.query('SELECT 1 AS one');
    const [connection] = [...gateway.gateway.connections];
    connection!.end(new Refusal('killed', 'an operator ended this session'), 'killed');
    await gateway.recorder.until(() =>
      gateway.recorder.sessions.some(({ end_ }) => end_?.reason === 'killed'),
    );
    expect((await pool.query('SELECT 2 AS two')).recordset).toEqual([{ two: 2 }]);
    expect(gateway.recorder.sessions).toHaveLength(3);
  });
});

describe('a refusal is the error of', () => {
  test('a query, a batch, a procedure, a prepared statement and a bulk load, and the session goes on', async () => {
    const { gateway, pool } = await stand({}, /ms_rows|ms_table/);
    expect(await fault(pool.query`SELECT * FROM dbo.ms_rows WHERE id = ${1}`)).toEqual(CLOSED);
    expect(await fault(pool.batch('DELETE FROM dbo.ms_rows'))).toEqual(CLOSED);
    expect(await fault(pool.request().input('a', mssql.Int, 1).execute('dbo.ms_table'))).toEqual(CLOSED);
    const prepared = new mssql.PreparedStatement(pool);
    prepared.input('id', mssql.Int);
    expect(await fault(prepared.prepare('DELETE FROM dbo.ms_rows WHERE id = @id'))).toEqual(CLOSED);
    const table = new mssql.Table('dbo.ms_rows');
    table.columns.add('id', mssql.Int, { nullable: false });
    table.rows.add(1);
    expect(await fault(pool.request().bulk(table))).toEqual(CLOSED);
    expect((await pool.query('SELECT 7 AS seven')).recordset).toEqual([{ seven: 7 }]);
    expect(gateway.recorder.sessions).toHaveLength(2);
    expect(own(gateway).filter(({ status }) => status === 'denied')).toHaveLength(5);
    if (server.double === null) return;
    const sent = server.double.requests.map(({ payload }) => payload.toString('utf16le')).slice(SETUP.length);
    expect(sent.filter((text) => text.includes('DELETE FROM dbo.ms_rows'))).toEqual([]);
  });

  test('a request that streams', async () => {
    const { pool } = await stand({}, /ms_rows/);
    const request = pool.request();
    const stream = request.toReadableStream();
    void request.query('SELECT * FROM dbo.ms_rows');
    expect(await fault(stream.toArray())).toEqual(CLOSED);
    expect((await pool.query('SELECT 7 AS seven')).recordset).toEqual([{ seven: 7 }]);
  });

  test('one statement of a transaction, which can still be committed', async () => {
    const { gateway, pool } = await stand({}, /closed_table/);
    await pool.batch('DELETE FROM dbo.ms_rows');
    const transaction = new mssql.Transaction(pool);
    await transaction.begin();
    await transaction.request().query("INSERT INTO dbo.ms_rows (id, n) VALUES (1, N'before')");
    expect(await fault(transaction.request().query('SELECT * FROM closed_table'))).toEqual(CLOSED);
    await transaction.request().query("INSERT INTO dbo.ms_rows (id, n) VALUES (2, N'after')");
    await transaction.commit();
    expect((await pool.query('SELECT id FROM dbo.ms_rows ORDER BY id')).recordset).toEqual([
      { id: 1 },
      { id: 2 },
    ]);
    expect(own(gateway).find(({ status }) => status === 'denied')).toMatchObject({ transaction: 'active' });
  });

  test('a sign-in, by its own class and code', async () => {
    const gateway = await startSqlGateway(server, { databases: ['other'] });
    gateways.push(gateway);
    const error = await connectMssql(account(gateway.port)).then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(mssql.ConnectionError);
    expect(error).toMatchObject({
      code: 'ELOGIN',
      message: expect.stringContaining('may not be opened here'),
    });
  });
});

describe('a session that is ended', () => {
  test('while a statement runs tells its program why, and the pool goes on with another', async () => {
    const { gateway, pool } = await stand();
    const running = fault(pool.request().batch("WAITFOR DELAY '00:00:30'"));
    await gateway.recorder.until(() => own(gateway).some(({ text }) => text?.startsWith('WAITFOR')));
    for (const connection of gateway.gateway.connections) {
      connection.end(new Refusal('killed', 'an operator ended this session'), 'killed');
    }
    expect(await running).toMatchObject({
      number: 50_504,
      message: 'Sallyport: an operator ended this session.',
    });
    expect((await pool.query('SELECT 2 AS two')).recordset).toEqual([{ two: 2 }]);
  });

  test('in a transaction leaves nothing of it', async () => {
    const { gateway, pool } = await stand();
    await pool.batch('DELETE FROM dbo.ms_rows');
    const transaction = new mssql.Transaction(pool);
    await transaction.begin();
    await transaction.request().query("INSERT INTO dbo.ms_rows (id, n) VALUES (1, N'lost')");
    for (const connection of gateway.gateway.connections) {
      connection.end(new Refusal('killed', 'an operator ended this session'), 'killed');
    }
    await fault(transaction.commit());
    const count = async () => (await pool.query('SELECT COUNT(*) AS n FROM dbo.ms_rows')).recordset;
    await expect.poll(count).toEqual([{ n: 0 }]);
  });
});

test('tables as parameters, of a procedure and of a query', async () => {
  const { gateway, pool } = await stand();
  const table = new mssql.Table('dbo.ms_ids');
  table.columns.add('id', mssql.Int, { nullable: false });
  table.columns.add('n', mssql.NVarChar(20), { nullable: true });
  table.rows.add(1, 'one');
  table.rows.add(2, null);
  const expected = [
    { id: 1, n: 'one' },
    { id: 2, n: null },
  ];
  const called = await pool.request().input('t', mssql.TVP('dbo.ms_ids'), table).execute('dbo.ms_table');
  expect(called.recordset).toEqual(expected);
  const queried = await pool
    .request()
    .input('t', mssql.TVP('dbo.ms_ids'), table)
    .query('SELECT id, n FROM @t ORDER BY id');
  expect(queried.recordset).toEqual(expected);
  const parameter = {
    name: '@t',
    type: 'dbo.ms_ids',
    value: { columns: ['int', 'nvarchar(20)'], rows: 2 },
  };
  expect(own(gateway).filter(({ parameters }) => parameters?.length === 1)).toMatchObject([
    { name: 'dbo.ms_table', parameters: [parameter] },
    { text: 'SELECT id, n FROM @t ORDER BY id', parameters: [parameter] },
  ]);
});

test('a bulk load into a table that it makes itself', async () => {
  const { gateway, pool } = await stand();
  const table = new mssql.Table('ms_made');
  table.create = true;
  table.columns.add('id', mssql.Int, { nullable: false });
  table.columns.add('n', mssql.NVarChar(20), { nullable: true });
  for (let row = 0; row < 200; row += 1) table.rows.add(row, `row ${row}`);
  await pool.batch('DROP TABLE IF EXISTS ms_made');
  expect((await pool.request().bulk(table)).rowsAffected).toBe(200);
  expect((await pool.query('SELECT COUNT(*) AS n FROM ms_made')).recordset).toEqual([{ n: 200 }]);
  await pool.batch('DROP TABLE ms_made');
  expect(own(gateway).find(({ kind }) => kind === 'bulk')).toMatchObject({ rowsAffected: 200, status: 'ok' });
});

test('a program that pauses for long holds the server back, and misses nothing', async () => {
  const { gateway, pool } = await stand();
  const request = pool.request();
  request.stream = true;
  let rows = 0;
  request.on('row', () => {
    rows += 1;
    if (rows !== 100) return;
    request.pause();
    setTimeout(() => {
      const running = own(gateway).find(({ text }) => text === MSSQL_ROWS(60_000));
      expect(running).toMatchObject({ ended: false });
      request.resume();
    }, 1000);
  });
  void request.query(MSSQL_ROWS(60_000));
  await new Promise((resolve, reject) => {
    request.once('done', resolve);
    request.once('error', reject);
  });
  expect(rows).toBe(60_000);
  expect(own(gateway).find(({ text }) => text === MSSQL_ROWS(60_000))).toMatchObject({
    rowsReturned: 60_000,
    status: 'ok',
  });
});
