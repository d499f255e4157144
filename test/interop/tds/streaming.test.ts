import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Refusal } from '../../../protocols/error.ts';
import type { TestGateway } from '../../support/gateway.ts';
import type { RecordedStatement } from '../../support/memory-recorder.ts';
import { type SqlServer, startSqlGateway, startSqlServer } from '../../support/sql-server.ts';
import {
  batchOf,
  type Connection,
  callOf,
  closeTedious,
  connectTedious,
  queryOf,
  Request,
  runRequest,
  TYPES,
} from '../../support/tedious.ts';

/** tedious through the gateway: everything a driver does after sign-in works as directly, and is on record. */

let server: SqlServer;
let gateway: TestGateway;

beforeAll(async () => {
  server = await startSqlServer();
  gateway = await startSqlGateway(server, {
    observe: { sampleRows: 2 },
    decide: ({ text }) =>
      text?.includes('ALTER LOGIN')
        ? { action: 'refuse', refusal: new Refusal('statement_not_allowed', 'logins may not be changed') }
        : { action: 'allow' },
  });
  const connection = await direct();
  for (const sql of SETUP) expect((await batchOf(connection, sql)).error).toBeNull();
  await closeTedious(connection);
});

afterAll(async () => {
  await gateway?.close();
  await server?.close();
});

const SETUP = [
  'DROP TABLE IF EXISTS dbo.sp_rows',
  'DROP TABLE IF EXISTS dbo.sp_bulk',
  'DROP PROCEDURE IF EXISTS dbo.sp_out',
  'DROP PROCEDURE IF EXISTS dbo.sp_table',
  'DROP TYPE IF EXISTS dbo.sp_ids',
  'CREATE TYPE dbo.sp_ids AS TABLE (id int NOT NULL, n nvarchar(20) NULL, d datetime2(7) NULL)',
  'CREATE PROCEDURE dbo.sp_table @t dbo.sp_ids READONLY AS SELECT id, n, d FROM @t ORDER BY id',
  'CREATE TABLE dbo.sp_rows (id int NOT NULL PRIMARY KEY, n nvarchar(20))',
  'CREATE TABLE dbo.sp_bulk (a int NOT NULL, s nvarchar(30))',
  "CREATE PROCEDURE dbo.sp_out @a int, @o int OUTPUT, @s nvarchar(40) OUTPUT AS SELECT @a AS a; SET @o = @a * 2; SET @s = N'é' + @s; RETURN 5",
];

function direct(): Promise<Connection> {
  return connectTedious({
    port: server.port,
    user: server.username,
    password: server.password,
    database: server.database,
    options: { encrypt: server.double === null, trustServerCertificate: true },
  });
}

let connection: Connection;
let mark = 0;

beforeEach(async () => {
  connection = await connectTedious({ port: gateway.port });
  mark = gateway.recorder.sessions.length - 1;
  return () => closeTedious(connection);
});

/** What this test's session has on record, but for the settings that the driver makes first. */
async function recorded(count: number): Promise<RecordedStatement[]> {
  const session = gateway.recorder.sessions[mark]!;
  await gateway.recorder.until(() => {
    const statements = session.statements.slice(1);
    return statements.length >= count && statements.every(({ ended }) => ended);
  });
  expect(session.notes.filter(({ kind }) => kind === 'opaque')).toEqual([]);
  return session.statements.slice(1);
}

describe('batches', () => {
  test('with several results, messages and errors', async () => {
    const sql =
      "SELECT 1 AS a; PRINT 'hello'; SELECT 2 AS b, N'zwei' AS c UNION ALL SELECT 3, N'drei'; RAISERROR('boom', 16, 3); SELECT 4 AS d";
    const { rows, error } = await batchOf(connection, sql);
    expect(rows).toEqual([[1], [2, 'zwei'], [3, 'drei'], [4]]);
    expect(error).toMatchObject({ number: 50_000, message: 'boom' });
    expect(await recorded(1)).toMatchObject([
      {
        kind: 'batch',
        text: sql,
        status: 'error',
        rowsReturned: 4,
        error: { code: '50000', message: 'boom', detail: { state: 3, class: 16 } },
        messages: ['hello'],
        columns: ['d'],
        sample: [['4']],
        results: [{ rowsReturned: 1 }, { rowsReturned: 2 }, { rowsReturned: 1 }],
      },
    ]);
  });

  test('that change rows', async () => {
    await batchOf(connection, 'DELETE FROM dbo.sp_rows');
    await batchOf(connection, "INSERT INTO dbo.sp_rows (id, n) VALUES (1, N'a'), (2, N'b'), (3, N'c')");
    await batchOf(
      connection,
      "UPDATE dbo.sp_rows SET n = N'x' WHERE id < 3; DELETE FROM dbo.sp_rows WHERE id = 9",
    );
    await batchOf(connection, 'SELECT id FROM dbo.sp_rows WHERE id < 0');
    const { error } = await batchOf(connection, "INSERT INTO dbo.sp_rows (id, n) VALUES (1, N'again')");
    expect(error?.number).toBe(2627);
    const statements = await recorded(5);
    expect(
      statements.map(({ rowsAffected, rowsReturned, status }) => [rowsAffected, rowsReturned, status]),
    ).toEqual([
      [expect.any(Number), null, 'ok'],
      [3, null, 'ok'],
      [2, null, 'ok'],
      [null, 0, 'ok'],
      [null, null, 'error'],
    ]);
    expect(statements[2]!.results).toMatchObject([
      { tag: 'UPDATE', rowsAffected: 2 },
      { tag: 'DELETE', rowsAffected: 0 },
    ]);
  });

  test('that change the database', async () => {
    await batchOf(connection, 'USE master');
    expect((await batchOf(connection, 'SELECT DB_NAME()')).rows).toEqual([['master']]);
    await recorded(2);
    expect(gateway.recorder.sessions[mark]!.notes).toContainEqual({
      kind: 'database_changed',
      database: 'master',
    });
  });

  test('of many packets', async () => {
    const text = `SELECT N'${'é☃😀'.repeat(3000)}' AS long /* ${'x'.repeat(150_000)} */`;
    const { rows } = await batchOf(connection, text);
    expect(rows).toEqual([['é☃😀'.repeat(3000)]]);
    const [statement] = await recorded(1);
    expect(statement).toMatchObject({ textBytes: Buffer.byteLength(text), status: 'ok', rowsReturned: 1 });
    expect(text.startsWith(statement!.text!)).toBe(true);
  });

  test('that are refused, and the session goes on', async () => {
    const { error } = await batchOf(connection, "ALTER LOGIN app_rw WITH PASSWORD = 'x'");
    expect(error).toMatchObject({ number: 50_501, message: 'Sallyport: logins may not be changed.' });
    const other = await queryOf(connection, "SELECT 1; EXEC('ALTER LOGIN a ENABLE')");
    expect(other.error).toMatchObject({ number: 50_501 });
    expect((await batchOf(connection, 'SELECT 1')).rows).toEqual([[1]]);
    expect((await recorded(3)).map(({ status }) => status)).toEqual(['denied', 'denied', 'ok']);
  });
});

const POINT = new Date('2024-02-29T13:14:15.677Z');

/** name, type, value, options, how the record shows type and value */
const VALUES: readonly [string, (typeof TYPES)[keyof typeof TYPES], unknown, object, string, unknown][] = [
  ['tinyint', TYPES.TinyInt, 200, {}, 'tinyint', 200],
  ['smallint', TYPES.SmallInt, -1234, {}, 'smallint', -1234],
  ['int', TYPES.Int, 2_147_483_647, {}, 'int', 2_147_483_647],
  ['bigint', TYPES.BigInt, '9007199254740993', {}, 'bigint', '9007199254740993'],
  ['bit', TYPES.Bit, true, {}, 'bit', true],
  ['decimal', TYPES.Decimal, 12_345.6789, { precision: 18, scale: 4 }, 'decimal(18,4)', '12345.6789'],
  ['numeric', TYPES.Numeric, -0.25, { precision: 10, scale: 2 }, 'numeric(10,2)', '-0.25'],
  ['money', TYPES.Money, 1234.5678, {}, 'money', '1234.5678'],
  ['smallmoney', TYPES.SmallMoney, -1.5, {}, 'smallmoney', '-1.5000'],
  ['real', TYPES.Real, 1.5, {}, 'real', 1.5],
  ['float', TYPES.Float, Math.PI, {}, 'float', Math.PI],
  ['nvarchar', TYPES.NVarChar, 'héllo ☃ 😀', { length: 50 }, 'nvarchar(50)', 'héllo ☃ 😀'],
  ['varchar', TYPES.VarChar, 'plain €', { length: 20 }, 'varchar(20)', 'plain €'],
  ['nchar', TYPES.NChar, 'ab☃', { length: 3 }, 'nchar(3)', 'ab☃'],
  ['char', TYPES.Char, 'cdef', { length: 4 }, 'char(4)', 'cdef'],
  ['nvarcharmax', TYPES.NVarChar, 'ü'.repeat(5000), {}, 'nvarchar(max)', 'ü'.repeat(2048)],
  ['varbinary', TYPES.VarBinary, Buffer.from('00ff10', 'hex'), { length: 20 }, 'varbinary(20)', '0x00ff10'],
  ['varbinarymax', TYPES.VarBinary, Buffer.alloc(9000, 1), {}, 'varbinary(max)', `0x${'01'.repeat(4096)}`],
  [
    'guid',
    TYPES.UniqueIdentifier,
    '6F9619FF-8B86-D011-B42D-00C04FC964FF',
    {},
    'uniqueidentifier',
    '6F9619FF-8B86-D011-B42D-00C04FC964FF',
  ],
  ['date', TYPES.Date, POINT, {}, 'date', '2024-02-29'],
  ['time', TYPES.Time, POINT, { scale: 3 }, 'time(3)', '13:14:15.677'],
  ['datetime', TYPES.DateTime, POINT, {}, 'datetime', '2024-02-29T13:14:15.677'],
  ['smalldatetime', TYPES.SmallDateTime, POINT, {}, 'smalldatetime', '2024-02-29T13:14:00'],
  ['datetime2', TYPES.DateTime2, POINT, { scale: 7 }, 'datetime2(7)', '2024-02-29T13:14:15.6770000'],
  [
    'datetimeoffset',
    TYPES.DateTimeOffset,
    POINT,
    { scale: 3 },
    'datetimeoffset(3)',
    '2024-02-29T13:14:15.677+00:00',
  ],
];

describe('parameters', () => {
  test('of every type that tedious sends', async () => {
    for (const [name, type, value, options, shownType, shown] of VALUES) {
      const { rows, error } = await queryOf(connection, `SELECT @${name}`, (request) =>
        request.addParameter(name, type, value, options),
      );
      expect([name, error]).toEqual([name, null]);
      expect(rows).toHaveLength(1);
      const statements = await recorded(1);
      expect(statements.at(-1)).toMatchObject({
        kind: 'rpc',
        name: 'sp_executesql',
        text: `SELECT @${name}`,
        parameters: [{ name: `@${name}`, type: shownType, value: shown }],
        opaque: false,
        rowsReturned: 1,
        status: 'ok',
      });
    }
  });

  test('that are NULL', async () => {
    for (const [name, type, , options] of VALUES) {
      const { rows } = await queryOf(connection, `SELECT @${name}`, (request) =>
        request.addParameter(name, type, null, options),
      );
      expect(rows).toEqual([[null]]);
      const statements = await recorded(1);
      expect(statements.at(-1)).toMatchObject({
        parameters: [{ name: `@${name}`, value: null }],
        opaque: false,
      });
    }
  });

  test('of procedures, with outputs and return status', async () => {
    const { rows, outputs, status } = await callOf(connection, 'dbo.sp_out', (request) => {
      request.addParameter('a', TYPES.Int, 21);
      request.addOutputParameter('o', TYPES.Int);
      request.addOutputParameter('s', TYPES.NVarChar, 'hey', { length: 40 });
    });
    expect([rows, outputs, status]).toEqual([[[21]], { o: 42, s: 'éhey' }, 5]);
    expect(await recorded(1)).toMatchObject([
      {
        kind: 'rpc',
        name: 'dbo.sp_out',
        text: null,
        parameters: [
          { name: '@a', type: 'int', value: 21 },
          { name: '@o', type: 'int', value: null },
          { name: '@s', type: 'nvarchar(40)', value: 'hey' },
        ],
        outputs: [
          { name: '@o', type: 'int', value: 42 },
          { name: '@s', type: expect.stringContaining('nvarchar'), value: 'éhey' },
        ],
        returnStatus: 5,
        rowsReturned: 1,
        rowsAffected: null,
      },
    ]);
  });

  test('that are tables', async () => {
    const { rows } = await callOf(connection, 'dbo.sp_table', (request) =>
      request.addParameter('t', TYPES.TVP, {
        name: 'sp_ids',
        schema: 'dbo',
        columns: [
          { name: 'id', type: TYPES.Int },
          { name: 'n', type: TYPES.NVarChar, length: 20 },
          { name: 'd', type: TYPES.DateTime2, scale: 7 },
        ],
        rows: [
          [1, 'one', POINT],
          [2, null, null],
          [3, 'drei', POINT],
        ],
      }),
    );
    expect(rows).toEqual([
      [1, 'one', POINT],
      [2, null, null],
      [3, 'drei', POINT],
    ]);
    const statements = await recorded(1);
    expect(statements.at(-1)!.parameters).toEqual([
      {
        name: '@t',
        type: 'dbo.sp_ids',
        value: { columns: ['int', 'nvarchar(20)', 'datetime2(7)'], rows: 3 },
      },
    ]);
  });
});

describe('prepared statements', () => {
  test('are shown by their text when they run', async () => {
    const request = new Request('SELECT @a + 1 AS b', () => {});
    request.addParameter('a', TYPES.Int, null);
    await new Promise<void>((resolve, reject) => {
      request.once('prepared', () => resolve());
      request.once('error', reject);
      connection.prepare(request);
    });
    for (const a of [1, 41]) {
      const values: unknown[] = [];
      await new Promise<void>((resolve) => {
        request.removeAllListeners('row');
        request.on('row', (columns: { value: unknown }[]) => values.push(columns[0]!.value));
        request.once('requestCompleted', () => resolve());
        connection.execute(request, { a });
      });
      expect(values).toEqual([a + 1]);
    }
    await new Promise<void>((resolve) => {
      request.once('requestCompleted', () => resolve());
      connection.unprepare(request);
    });
    const statements = await recorded(4);
    expect(statements.map(({ kind, name, text, parameters }) => [kind, name, text, parameters])).toEqual([
      ['prepare', 'sp_prepare', 'SELECT @a + 1 AS b', []],
      ['execute', 'sp_execute', 'SELECT @a + 1 AS b', [{ name: '@a', type: 'int', value: 1 }]],
      ['execute', 'sp_execute', 'SELECT @a + 1 AS b', [{ name: '@a', type: 'int', value: 41 }]],
      ['rpc', 'sp_unprepare', 'SELECT @a + 1 AS b', []],
    ]);
  });
});

describe('transactions', () => {
  const step = (run: (done: (error?: Error | null) => void) => void): Promise<void> =>
    new Promise((resolve, reject) => run((error) => (error ? reject(error) : resolve())));

  test('are followed', async () => {
    await batchOf(connection, 'DELETE FROM dbo.sp_rows');
    await step((done) => connection.beginTransaction(done, 'trx1'));
    await batchOf(connection, "INSERT INTO dbo.sp_rows (id, n) VALUES (10, N'in')");
    await step((done) => connection.saveTransaction(done, 'sp1'));
    await batchOf(connection, "INSERT INTO dbo.sp_rows (id, n) VALUES (11, N'out')");
    await step((done) => connection.rollbackTransaction(done, 'sp1'));
    await step((done) => connection.commitTransaction(done, 'trx1'));
    expect((await batchOf(connection, 'SELECT id FROM dbo.sp_rows')).rows).toEqual([[10]]);
    const statements = (await recorded(8)).slice(1);
    expect(
      statements.map(({ kind, text, name, transaction }) => [kind, text!.slice(0, 20), name, transaction]),
    ).toEqual([
      ['command', 'BEGIN TRANSACTION', 'trx1', 'active'],
      ['batch', 'INSERT INTO dbo.sp_r', null, 'active'],
      ['command', 'SAVE TRANSACTION', 'sp1', 'active'],
      ['batch', 'INSERT INTO dbo.sp_r', null, 'active'],
      ['command', 'ROLLBACK TRANSACTION', 'sp1', 'active'],
      ['command', 'COMMIT TRANSACTION', 'trx1', 'idle'],
      ['batch', 'SELECT id FROM dbo.s', null, 'idle'],
    ]);
  });
});

describe('cancels', () => {
  test('stop what runs, and the next request is served', async () => {
    const running = runRequest("WAITFOR DELAY '00:00:20'; SELECT 1", (request) => {
      connection.execSqlBatch(request);
      setTimeout(() => connection.cancel(), 100);
    });
    expect((await running).error).toMatchObject({ code: 'ECANCEL' });
    expect((await batchOf(connection, 'SELECT 7')).rows).toEqual([[7]]);
    expect((await recorded(2)).map(({ status }) => status)).toEqual(['cancelled', 'ok']);
  });

  test('in the middle of a result', async () => {
    const sql =
      "SELECT TOP 300000 1 AS a, N'some text' AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b";
    let cancelled = false;
    const outcome = await runRequest(
      sql,
      (request) => connection.execSqlBatch(request),
      (request) =>
        request.on('row', () => {
          if (!cancelled) connection.cancel();
          cancelled = true;
        }),
    );
    expect(outcome.error).toMatchObject({ code: 'ECANCEL' });
    expect((await batchOf(connection, 'SELECT 7')).rows).toEqual([[7]]);
    expect((await recorded(2)).map(({ status }) => status)).toEqual(['cancelled', 'ok']);
  });
});

describe('bulk loads', () => {
  test('are one statement with the number of their rows', async () => {
    await batchOf(connection, 'DELETE FROM dbo.sp_bulk');
    const loaded = await new Promise<number>((resolve, reject) => {
      const load = connection.newBulkLoad('dbo.sp_bulk', {}, (error, count) =>
        error ? reject(error) : resolve(count ?? -1),
      );
      load.addColumn('a', TYPES.Int, { nullable: false });
      load.addColumn('s', TYPES.NVarChar, { length: 30, nullable: true });
      connection.execBulkLoad(
        load,
        Array.from({ length: 5000 }, (_, index) => ({ a: index, s: index % 7 ? `row ${index}` : null })),
      );
    });
    expect(loaded).toBe(5000);
    expect((await batchOf(connection, 'SELECT COUNT(*) FROM dbo.sp_bulk')).rows).toEqual([[5000]]);
    const statements = (await recorded(3)).slice(1);
    expect(statements).toMatchObject([
      {
        kind: 'bulk',
        status: 'ok',
        rowsAffected: 5000,
        text: expect.stringMatching(/^insert bulk dbo\.sp_bulk/i),
      },
      { kind: 'batch' },
    ]);
    expect(statements).toHaveLength(2);
    expect(statements[0]!.bytesSent).toBeGreaterThan(100_000);
  });
});

describe('large results', () => {
  test('pass with their rows counted, and slow clients hold the server back', async () => {
    const sql =
      "SELECT TOP 60000 1 AS a, REPLICATE(N'x', 500) AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b";
    let rows = 0;
    const outcome = await runRequest(
      sql,
      (request) => connection.execSqlBatch(request),
      (request) =>
        request.on('row', () => {
          rows += 1;
          if (rows % 20_000 !== 0) return;
          request.pause();
          setTimeout(() => request.resume(), 100);
        }),
    );
    expect(outcome.error).toBeNull();
    const [statement] = await recorded(1);
    expect(statement).toMatchObject({ rowsReturned: 60_000, status: 'ok' });
    expect(statement!.bytesReceived).toBeGreaterThan(60_000_000);
  });

  test('in packets of 512 and of 32767 bytes', async () => {
    for (const packetSize of [512, 32_767]) {
      const other = await connectTedious({ port: gateway.port, options: { packetSize } });
      const { rows, error } = await queryOf(other, "SELECT REPLICATE(N'ab☃', 1300), @p", (request) =>
        request.addParameter('p', TYPES.NVarChar, 'z'.repeat(60_000)),
      );
      expect(error).toBeNull();
      expect(rows).toEqual([['ab☃'.repeat(1300), 'z'.repeat(60_000)]]);
      await closeTedious(other);
    }
  });
});

describe('a connection that is reset', () => {
  test('says so, and is back in its database', async () => {
    await batchOf(connection, 'USE master');
    await new Promise<void>((resolve, reject) =>
      connection.reset((error) => (error ? reject(error) : resolve())),
    );
    expect((await batchOf(connection, 'SELECT DB_NAME()')).rows).toEqual([[server.database]]);
    await recorded(3);
    expect(gateway.recorder.sessions[mark]!.notes).toMatchObject([
      { kind: 'database_changed', database: 'master' },
      { kind: 'session_changed', what: 'connection', value: 'reset' },
      { kind: 'database_changed', database: server.database },
    ]);
  });
});
