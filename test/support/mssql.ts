import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import mssql from 'mssql';
import { messagesOf, type SignIn, type SignInResult } from './tds-clients.ts';

/** The npm client mssql: a pool over tedious, with its own requests, transactions, prepared statements and bulk loads. */

type Encryption = boolean | 'strict';

export interface MssqlOptions {
  readonly encrypt?: Encryption;
  readonly trustServerCertificate?: boolean;
  /** PEM of the authorities to trust. */
  readonly ca?: string;
  readonly connectionsMax?: number;
  readonly validateConnection?: boolean | 'socket';
}

/** A pool that has signed in. Rejects with the client's own error. */
export async function connectMssql(
  { port, user, password, database }: Omit<SignIn, 'database'> & { database?: string },
  options: MssqlOptions = {},
): Promise<mssql.ConnectionPool> {
  const pool = new mssql.ConnectionPool({
    server: 'localhost',
    port,
    user,
    password,
    ...(database ? { database } : {}),
    connectionTimeout: 15_000,
    requestTimeout: 60_000,
    pool: { max: options.connectionsMax ?? 1 },
    validateConnection: options.validateConnection ?? true,
    options: {
      // The types of tedious leave out `strict`, which it takes.
      encrypt: (options.encrypt ?? false) as boolean,
      trustServerCertificate: options.trustServerCertificate ?? true,
      maxRetriesOnTransientErrors: 0,
      ...(options.ca === undefined ? {} : { cryptoCredentialsDetails: { ca: options.ca } }),
    },
  });
  pool.on('error', () => {});
  return pool.connect();
}

/** One sign-in and one query. Throws nothing. */
export async function mssqlSignIn(
  signIn: SignIn,
  options: MssqlOptions = {},
  statement = 'SELECT 42 AS answer',
): Promise<SignInResult> {
  let pool: mssql.ConnectionPool | null = null;
  try {
    pool = await connectMssql(signIn, options);
    const { recordset } = await pool.request().batch(statement);
    return { ok: true, text: String(Object.values(recordset[0]!)[0]) };
  } catch (error) {
    return { ok: false, text: messagesOf(error) };
  } finally {
    await pool?.close();
  }
}

/** What went wrong, as a program that uses mssql sees it. */
export function faultOf(error: unknown): { code: string; number: number | undefined; message: string } {
  const { code, number, message } = error as mssql.RequestError;
  return { code, number, message };
}

async function faulted(running: Promise<unknown>): Promise<ReturnType<typeof faultOf> | 'no error'> {
  try {
    await running;
    return 'no error';
  } catch (error) {
    return faultOf(error);
  }
}

const MOMENT = new Date('2024-02-29T13:14:15.677Z');

/** name, type, value */
export const MSSQL_VALUES: readonly [string, () => mssql.ISqlType, unknown][] = [
  ['bit', () => mssql.Bit(), true],
  ['tiny', () => mssql.TinyInt(), 200],
  ['small', () => mssql.SmallInt(), -1234],
  ['int', () => mssql.Int(), 2_147_483_647],
  ['big', () => mssql.BigInt(), '9007199254740993'],
  ['decimal', () => mssql.Decimal(18, 4), 12_345.6789],
  ['money', () => mssql.Money(), 1234.5678],
  ['float', () => mssql.Float(), Math.PI],
  ['nvarchar', () => mssql.NVarChar(50), 'héllo ☃ 😀'],
  ['varchar', () => mssql.VarChar(20), 'plain €'],
  ['long', () => mssql.NVarChar(mssql.MAX), 'ü'.repeat(5000)],
  ['binary', () => mssql.VarBinary(20), Buffer.from('00ff10', 'hex')],
  ['guid', () => mssql.UniqueIdentifier(), '6F9619FF-8B86-D011-B42D-00C04FC964FF'],
  ['date', () => mssql.Date(), MOMENT],
  ['time', () => mssql.Time(3), MOMENT],
  ['datetime2', () => mssql.DateTime2(7), MOMENT],
  ['offset', () => mssql.DateTimeOffset(3), MOMENT],
  ['nothing', () => mssql.NVarChar(10), null],
];

/** A long result, which a program reads piece by piece. */
export const MSSQL_ROWS = (count: number): string =>
  `SELECT TOP ${count} 1 AS a, REPLICATE(N'x', 500) AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b`;

/**
 * Everything that the client can do, on one connection; a line a step, the same by every way to the server. Its tables
 * and procedures begin with `tour_mssql`.
 */
export async function mssqlTour(pool: mssql.ConnectionPool): Promise<string> {
  const lines: string[] = [];
  const show = (step: string, value: unknown) => lines.push(`${step} ${JSON.stringify(value)}`);
  await make(pool);
  await queries(pool, show);
  await batches(pool, show);
  await procedures(pool, show);
  await prepared(pool, show);
  await transactions(pool, show);
  await bulk(pool, show);
  await streams(pool, show);
  await cancels(pool, show);
  await drop(pool);
  return `${lines.join('\n')}\n`;
}

type Show = (step: string, value: unknown) => void;

async function drop(pool: mssql.ConnectionPool): Promise<void> {
  await pool.batch('DROP TABLE IF EXISTS dbo.tour_mssql');
  await pool.batch('DROP TABLE IF EXISTS dbo.tour_mssql_bulk');
  await pool.batch('DROP PROCEDURE IF EXISTS dbo.tour_mssql_out');
}

async function make(pool: mssql.ConnectionPool): Promise<void> {
  await drop(pool);
  await pool.batch('CREATE TABLE dbo.tour_mssql (id int NOT NULL PRIMARY KEY, n nvarchar(40))');
  await pool.batch('CREATE TABLE dbo.tour_mssql_bulk (a int NOT NULL, s nvarchar(30) NULL)');
  await pool.batch(
    "CREATE PROCEDURE dbo.tour_mssql_out @a int, @o int OUTPUT, @s nvarchar(40) OUTPUT AS SELECT @a AS a; SET @o = @a * 2; SET @s = N'é' + @s; RETURN 5",
  );
}

async function queries(pool: mssql.ConnectionPool, show: Show): Promise<void> {
  const inserted = await pool
    .request()
    .input('id', mssql.Int, 1)
    .input('n', mssql.NVarChar(40), 'été ☃')
    .query('INSERT INTO dbo.tour_mssql (id, n) VALUES (@id, @n)');
  show('inserted', inserted.rowsAffected);
  const id = 1;
  show('template', (await pool.query`SELECT n FROM dbo.tour_mssql WHERE id = ${id}`).recordset);
  const request = pool.request();
  for (const [name, type, value] of MSSQL_VALUES) request.input(name, type(), value);
  const list = MSSQL_VALUES.map(([name]) => `@${name} AS ${name}_`).join(', ');
  show('types', (await request.query(`SELECT ${list}`)).recordset);
  const arrays = pool.request();
  arrays.arrayRowMode = true;
  show('arrays', (await arrays.query("SELECT 1 AS a, N'zwei' AS a")).recordset);
  show('duplicate', await faulted(pool.query`INSERT INTO dbo.tour_mssql (id) VALUES (${id})`));
  show('missing', await faulted(pool.query('SELECT * FROM no_such_table')));
}

async function batches(pool: mssql.ConnectionPool, show: Show): Promise<void> {
  const request = pool.request();
  const said: unknown[] = [];
  request.on('info', ({ message }) => said.push(message));
  const { recordsets, rowsAffected } = await request.batch(
    "SELECT 1 AS a; PRINT 'hello'; SELECT 2 AS b, N'zwei' AS c UNION ALL SELECT 3, N'drei'",
  );
  show('results', [recordsets, rowsAffected, said]);
  show('raised', await faulted(pool.batch("SELECT 1 AS a; RAISERROR('boom', 16, 3); SELECT 2 AS b")));
}

async function procedures(pool: mssql.ConnectionPool, show: Show): Promise<void> {
  const { recordset, output, returnValue } = await pool
    .request()
    .input('a', mssql.Int, 21)
    .output('o', mssql.Int)
    .output('s', mssql.NVarChar(40), 'hey')
    .execute('dbo.tour_mssql_out');
  show('procedure', [recordset, output, returnValue]);
}

async function prepared(pool: mssql.ConnectionPool, show: Show): Promise<void> {
  const statement = new mssql.PreparedStatement(pool);
  statement.input('a', mssql.Int);
  await statement.prepare('SELECT @a + 1 AS b');
  const found: unknown[] = [];
  for (const a of [1, 41]) found.push((await statement.execute({ a })).recordset);
  await statement.unprepare();
  show('prepared', found);
}

async function transactions(pool: mssql.ConnectionPool, show: Show): Promise<void> {
  for (const [id, end] of [
    [10, 'commit'],
    [11, 'rollback'],
  ] as const) {
    const transaction = new mssql.Transaction(pool);
    await transaction.begin(mssql.ISOLATION_LEVEL.REPEATABLE_READ);
    await transaction.request().query(`INSERT INTO dbo.tour_mssql (id, n) VALUES (${id}, N'${end}')`);
    await transaction[end]();
  }
  show('kept', (await pool.query('SELECT id FROM dbo.tour_mssql WHERE id >= 10')).recordset);
}

async function bulk(pool: mssql.ConnectionPool, show: Show): Promise<void> {
  const table = new mssql.Table('dbo.tour_mssql_bulk');
  table.columns.add('a', mssql.Int, { nullable: false });
  table.columns.add('s', mssql.NVarChar(30), { nullable: true });
  for (let row = 0; row < 3000; row += 1) table.rows.add(row, row % 7 ? `row ${row}` : null);
  show('bulk', (await pool.request().bulk(table)).rowsAffected);
  show('loaded', (await pool.query('SELECT COUNT(*) AS n FROM dbo.tour_mssql_bulk')).recordset);
}

async function streams(pool: mssql.ConnectionPool, show: Show): Promise<void> {
  const request = pool.request();
  request.stream = true;
  let rows = 0;
  request.on('row', () => {
    rows += 1;
    if (rows % 10_000 !== 0) return;
    request.pause();
    setTimeout(() => request.resume(), 50);
  });
  void request.query(MSSQL_ROWS(30_000));
  await once(request, 'done');
  show('paused', rows);
  const readable = pool.request();
  const stream = readable.toReadableStream({ highWaterMark: 16 });
  void readable.query(MSSQL_ROWS(5000));
  let read = 0;
  for await (const row of stream) {
    read += (row as { a: number }).a;
    if (read % 1000 === 0) await delay(5);
  }
  show('readable', read);
}

async function cancels(pool: mssql.ConnectionPool, show: Show): Promise<void> {
  const waiting = pool.request();
  const outcome = faulted(waiting.batch("WAITFOR DELAY '00:00:20'; SELECT 1 AS a"));
  // Time to reach the server; before that, it would only be taken out of the pool's queue.
  await delay(500);
  waiting.cancel();
  show('cancelled', await outcome);
  show('after cancel', (await pool.query('SELECT 7 AS seven')).recordset);
  const large = pool.request();
  large.stream = true;
  let seen = 0;
  const fault = new Promise((resolve) => large.once('error', (error) => resolve(faultOf(error).code)));
  large.on('row', () => {
    seen += 1;
    if (seen === 1) large.cancel();
  });
  void large.query(MSSQL_ROWS(300_000));
  show('cancelled in a result', [await fault, seen < 300_000]);
  show('after that', (await pool.query('SELECT 8 AS eight')).recordset);
  const late = pool.request();
  // What the second argument of its constructor says, which its types leave out.
  Object.assign(late, { overrides: { requestTimeout: 300 } });
  show('timed out', await faulted(late.batch("WAITFOR DELAY '00:00:20'")));
  show('after the time-out', (await pool.query('SELECT 9 AS nine')).recordset);
}
