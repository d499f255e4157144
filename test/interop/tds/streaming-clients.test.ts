import { execFile, spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Refusal } from '../../../protocols/error.ts';
import type { TestGateway } from '../../support/gateway.ts';
import type { RecordedSession, RecordedStatement } from '../../support/memory-recorder.ts';
import { connectMssql, MSSQL_ROWS, MSSQL_VALUES, mssqlTour } from '../../support/mssql.ts';
import { type SqlServer, startSqlGateway, startSqlServer } from '../../support/sql-server.ts';

/**
 * The drivers and tools that people use with SQL Server, each on a tour of what it can do: directly and through the
 * gateway it prints the same, and what it did is on record.
 */

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..', '..');
const CLIENTS = join(ROOT, 'var', 'clients');
const JAVA_PATH = ['jtds-1.3.1.jar', 'mssql-jdbc-13.4.0.jre11.jar']
  .map((jar) => join(CLIENTS, 'java', jar))
  .join(delimiter);

interface Way {
  readonly port: number;
  readonly user: string;
  readonly password: string;
}

let server: SqlServer;
let gateway: TestGateway;
let folder: string;

beforeAll(async () => {
  server = await startSqlServer({ mars: true });
  gateway = await startSqlGateway(server, { mars: true });
  folder = await mkdtemp(join(tmpdir(), 'sallyport-tds-'));
});

afterAll(async () => {
  await gateway?.close();
  await server?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

interface Toured {
  readonly output: string;
  readonly sessions: readonly RecordedSession[];
  readonly statements: readonly RecordedStatement[];
}

/** Takes the tour both ways, which must look the same, and gives what it showed and what the record has of it. */
async function both(tour: (way: Way) => Promise<string>): Promise<Toured> {
  const expected = await tour({ port: server.port, user: server.username, password: server.password });
  const from = gateway.recorder.sessions.length;
  const output = await tour({ port: gateway.port, user: 'somebody', password: 'anything' });
  expect(output).toBe(expected);
  const sessions = gateway.recorder.sessions.slice(from);
  await gateway.recorder.until(() => sessions.every(({ end_ }) => end_ !== null));
  const statements = sessions.flatMap((session) => session.statements);
  expect(sessions.flatMap(({ notes }) => notes.filter(({ kind }) => kind === 'opaque'))).toEqual([]);
  expect(statements.filter(({ ended, opaque }) => !ended || opaque)).toEqual([]);
  return { output, sessions, statements };
}

/** The lines of a tour by the word that they begin with; of several, the last. */
function steps(output: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const line of output.trim().split('\n')) {
    const [, step, value] = /^(.*?) (\[.*|\S+|\d.*)$/.exec(line) ?? [null, line, ''];
    found[step!] = value!;
  }
  return found;
}

function texts(statements: readonly RecordedStatement[]): (string | null)[] {
  return statements.map(({ text }) => text);
}

function find(statements: readonly RecordedStatement[], pattern: RegExp): RecordedStatement {
  const found = statements.find(({ text, name }) => pattern.test(text ?? name ?? ''));
  if (found === undefined)
    throw new Error(`not on record: ${pattern}; there is ${texts(statements).join(' | ').slice(0, 3000)}`);
  return found;
}

/** The call of a procedure of the tour's own, and not the statements that make and drop it. */
function call(statements: readonly RecordedStatement[], pattern: RegExp): RecordedStatement {
  return find(
    statements.filter(({ kind }) => kind === 'rpc'),
    pattern,
  );
}

function python(driver: string) {
  return async ({ port, user, password }: Way): Promise<string> => {
    const script = join(ROOT, 'test', 'clients', 'python', 'sqlserver_tour.py');
    const args = [script, driver, '127.0.0.1', String(port), user, password, server.database];
    const { stdout } = await run(join(CLIENTS, 'python', 'bin', 'python'), args, { timeout: 60_000 });
    return stdout;
  };
}

function java(url: (port: number) => string) {
  return async ({ port, user, password }: Way): Promise<string> => {
    const script = join(ROOT, 'test', 'clients', 'java', 'SqlServerTour.java');
    const { stdout } = await run(
      'java',
      [
        '-Dfile.encoding=UTF-8',
        '-Dstdout.encoding=UTF-8',
        '-cp',
        JAVA_PATH,
        script,
        url(port),
        user,
        password,
      ],
      { timeout: 90_000, env: { ...process.env, LC_ALL: 'C.UTF-8' } },
    );
    return stdout;
  };
}

/** Runs a command with a text for its input; gives what it prints, whatever its exit code. */
function fed(
  command: string,
  args: readonly string[],
  input: string,
  environment: Record<string, string> = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { env: { ...process.env, ...environment }, timeout: 60_000 });
    const shown: Buffer[] = [];
    const complained: Buffer[] = [];
    child.stdout.on('data', (part: Buffer) => shown.push(part));
    child.stderr.on('data', (part: Buffer) => complained.push(part));
    child.on('error', reject);
    child.on('close', () => resolve(Buffer.concat([...shown, ...complained]).toString('utf8')));
    child.stdin.end(input);
  });
}

test('pymssql, on DB-Library', async () => {
  const { output, statements } = await both(python('pymssql'));
  expect(steps(output)).toMatchObject({
    inserted: '2',
    updated: '6',
    many: '20000',
    duplicate: '2627',
    missing: '208',
  });
  expect(find(statements, /^tour_out_pymssql$/)).toMatchObject({
    kind: 'rpc',
    parameters: [{ value: 21 }, { value: null }],
    returnStatus: 5,
    outputs: [{ value: 42 }],
  });
  expect(find(statements, /12345\.6789/)).toMatchObject({ kind: 'batch', rowsAffected: 1 });
  expect(find(statements, /WHERE id >= 10/)).toMatchObject({ rowsAffected: 6, transaction: 'active' });
  expect(find(statements, /no_such_table/)).toMatchObject({ status: 'error', error: { code: '208' } });
});

test('python-tds', async () => {
  const { output, statements } = await both(python('pytds'));
  expect(steps(output)).toMatchObject({
    procedure: '[[[21]], 21, 5]',
    bulk: '[[60]]',
    'after cancel': '[[7]]',
  });
  expect(find(statements, /insert bulk/i)).toMatchObject({ kind: 'bulk', rowsAffected: 60, status: 'ok' });
  const typed = statements.find(({ parameters }) => parameters?.length === 10)!;
  expect(typed.parameters!.map(({ type, value }) => [type, value])).toMatchObject([
    ['bit', true],
    ['bigint', 2 ** 40],
    ['float', 3.25],
    [expect.stringMatching(/^(decimal|numeric)/), '-7.125'],
    [expect.stringMatching(/^varbinary/), '0x00ff'],
    ['uniqueidentifier', '6F9619FF-8B86-D011-B42D-00C04FC964FF'],
    ['date', '2024-02-29'],
    [expect.stringMatching(/^time/), expect.stringMatching(/^13:14:15\.678/)],
    [expect.stringMatching(/^datetime2/), expect.stringMatching(/^2024-02-29T13:14:15\.678/)],
    [expect.stringMatching(/^nvarchar/), 'ü'],
  ]);
  // The large result was given up: what is certain is that the next statement is its own.
  expect(find(statements, /TOP 200000/).status).toMatch(/cancelled|ok/);
  expect(find(statements, /^SELECT 7$/)).toMatchObject({ rowsReturned: 1, status: 'ok' });
});

test('python-tds with several results at once (MARS)', async () => {
  const { output, statements } = await both(python('pytds-mars'));
  expect(steps(output)).toMatchObject({ inner: '[["inner"]]', outer: '5000', long: '20000' });
  expect(find(statements, /TOP 5000/)).toMatchObject({ rowsReturned: 5000, status: 'ok' });
  expect(statements.filter(({ parameters }) => parameters?.[0]?.value === 'inner')).toMatchObject([
    { name: 'sp_executesql', rowsReturned: 1, status: 'ok' },
  ]);
});

test('python-tds under MARS is told of a refusal by the server itself', async () => {
  const refusal = new Refusal('statement_not_allowed', 'logins may not be changed');
  const strict = await startSqlGateway(server, {
    mars: true,
    decide: ({ text }) =>
      text?.includes('ALTER LOGIN') ? { action: 'refuse', refusal } : { action: 'allow' },
  });
  const output = await python('pytds-mars-refused')({ port: strict.port, user: 'me', password: 'x' });
  expect(steps(output)).toMatchObject({ after: '[["after"]]', outer: '5000' });
  expect(output).toContain('Sallyport: logins may not be changed.');
  const session = strict.recorder.sessions[0]!;
  await strict.recorder.until(() => session.end_ !== null);
  expect(session.statements.filter(({ status }) => status === 'denied').length).toBeGreaterThan(0);
  await strict.close();
});

test("pyodbc on Microsoft's ODBC driver", async () => {
  const { output, statements } = await both(python('pyodbc'));
  expect(steps(output)).toMatchObject({
    cancelled: 'true',
    'after cancel': '[[7]]',
    'two at once': '[[["inner"]], 5000]',
  });
  expect(find(statements, /WAITFOR/)).toMatchObject({ status: 'cancelled' });
  expect(statements.filter(({ name }) => name === 'sp_prepexec').length).toBeGreaterThan(3);
});

test("pyodbc on FreeTDS's ODBC driver", async () => {
  const { output, statements } = await both(python('freetds-odbc'));
  expect(steps(output)).toMatchObject({ cancelled: 'true', 'after cancel': '[[7]]' });
  expect(find(statements, /WAITFOR/)).toMatchObject({ status: 'cancelled' });
});

test('mssql-python', async () => {
  const { output, statements } = await both(python('mssql-python'));
  expect(steps(output)).toMatchObject({ inserted: '2', updated: '6', long: '30000' });
  expect(find(statements, /^tour_out_mssqlpython$/)).toMatchObject({
    kind: 'execute',
    name: 'sp_prepexecrpc',
    parameters: [{ value: 21 }, { value: 0 }],
  });
});

test('mssql-jdbc', async () => {
  const { output, statements } = await both(
    java(
      (port) =>
        `jdbc:sqlserver://127.0.0.1:${port};databaseName=${server.database};encrypt=false;applicationName=tour`,
    ),
  );
  expect(steps(output)).toMatchObject({ cancelled: 'true', 'timed out': 'true', bulk: '[[300]]' });
  const executed = statements.filter(({ text }) => text !== null && /^SELECT\s+@P0\s+\+ 1 AS b/.test(text));
  expect(executed.map(({ name, parameters }) => [name, parameters![0]!.value])).toEqual([
    ['sp_prepexec', 1],
    ['sp_execute', 2],
    ['sp_execute', 3],
  ]);
  expect(find(statements, /^insert bulk/i)).toMatchObject({ kind: 'bulk', rowsAffected: 300 });
  expect(statements.filter(({ status }) => status === 'cancelled')).toHaveLength(2);
  expect(call(statements, /tour_jdbc_out/)).toMatchObject({
    name: 'sp_executesql',
    outputs: [
      { name: '@P0', value: 5 },
      { name: '@P2', value: 42 },
    ],
    returnStatus: 0,
  });
  expect(find(statements, /SET n = /)).toMatchObject({ rowsAffected: 3, transaction: 'active' });
});

test('mssql-jdbc with server cursors', async () => {
  const { statements } = await both(
    java(
      (port) =>
        `jdbc:sqlserver://127.0.0.1:${port};databaseName=${server.database};encrypt=false;selectMethod=cursor;packetSize=512`,
    ),
  );
  const cursors = statements.filter(({ name }) => name?.startsWith('sp_cursor'));
  expect(cursors.length).toBeGreaterThan(10);
  expect(cursors.every(({ text }) => text !== null && !/^cursor #/.test(text))).toBe(true);
});

test('jTDS', async () => {
  const { output, statements } = await both(
    java((port) => `jdbc:jtds:sqlserver://127.0.0.1:${port}/${server.database};appName=tour`),
  );
  expect(steps(output)).toMatchObject({ cancelled: 'true', 'timed out': 'true', batch: '10' });
  expect(statements.some(({ name, text }) => name === 'sp_execute' && /^SELECT/.test(text ?? ''))).toBe(true);
  expect(call(statements, /tour_jtds_out/)).toMatchObject({ returnStatus: 5 });
});

test('go-mssqldb', async () => {
  const { output, statements } = await both(async ({ port, user, password }) => {
    const url = `sqlserver://${user}:${encodeURIComponent(password)}@127.0.0.1:${port}?database=${server.database}&encrypt=disable&app+name=tour`;
    return (await run(join(CLIENTS, 'bin', 'mssql-tour'), [url], { timeout: 60_000 })).stdout;
  });
  expect(output).toContain('procedure 42 5');
  expect(output).toContain('bulk 300 [[300]]');
  expect(output).toContain('cancelled true true');
  expect(find(statements, /^tour_go_out$/)).toMatchObject({
    outputs: [{ name: '@o', value: 42 }],
    returnStatus: 5,
  });
  expect(find(statements, /^insertbulk|^insert bulk/i)).toMatchObject({ kind: 'bulk', rowsAffected: 300 });
  expect(find(statements, /WAITFOR/)).toMatchObject({ status: 'cancelled' });
});

test('mssql, the npm client', async () => {
  const { output, sessions, statements } = await both(async (way) => {
    const pool = await connectMssql({ ...way, database: server.database });
    const shown = await mssqlTour(pool);
    await pool.close();
    return shown;
  });
  expect(steps(output)).toMatchObject({
    inserted: '[1]',
    kept: '[{"id":10}]',
    bulk: '3000',
    paused: '30000',
    readable: '5000',
    'cancelled in a result': '["ECANCEL",true]',
  });
  expect(output).toContain('"code":"EREQUEST","number":2627');
  expect(output).toContain('timed out {"code":"ETIMEOUT"');
  // The first session of a pool is its trial.
  expect(sessions).toHaveLength(2);

  expect(find(statements, /^INSERT INTO dbo\.tour_mssql \(id, n\) VALUES \(@id/)).toMatchObject({
    kind: 'rpc',
    name: 'sp_executesql',
    parameters: [
      { name: '@id', type: 'int', value: 1 },
      { name: '@n', type: 'nvarchar(40)', value: 'été ☃' },
    ],
    rowsAffected: 1,
  });
  expect(find(statements, /^SELECT n FROM dbo\.tour_mssql WHERE id = @param1$/)).toMatchObject({
    parameters: [{ name: '@param1', value: 1 }],
    rowsReturned: 1,
  });
  const typed = find(statements, /^SELECT @bit AS/);
  expect(typed.parameters!.map(({ name }) => name)).toEqual(MSSQL_VALUES.map(([name]) => `@${name}`));
  expect(Object.fromEntries(typed.parameters!.map(({ name, type, value }) => [name, [type, value]]))).toEqual(
    {
      '@bit': ['bit', true],
      '@tiny': ['tinyint', 200],
      '@small': ['smallint', -1234],
      '@int': ['int', 2_147_483_647],
      '@big': ['bigint', '9007199254740993'],
      '@decimal': ['decimal(18,4)', '12345.6789'],
      '@money': ['money', '1234.5678'],
      '@float': ['float', Math.PI],
      '@nvarchar': ['nvarchar(50)', 'héllo ☃ 😀'],
      '@varchar': ['varchar(20)', 'plain €'],
      '@long': ['nvarchar(max)', 'ü'.repeat(2048)],
      '@binary': ['varbinary(20)', '0x00ff10'],
      '@guid': ['uniqueidentifier', '6F9619FF-8B86-D011-B42D-00C04FC964FF'],
      '@date': ['date', '2024-02-29'],
      '@time': ['time(3)', '13:14:15.677'],
      '@datetime2': ['datetime2(7)', '2024-02-29T13:14:15.6770000'],
      '@offset': ['datetimeoffset(3)', '2024-02-29T13:14:15.677+00:00'],
      '@nothing': ['nvarchar(10)', null],
    },
  );
  expect(find(statements, /PRINT 'hello'/)).toMatchObject({
    kind: 'batch',
    messages: ['hello'],
    results: [{ rowsReturned: 1 }, { rowsReturned: 2 }],
  });
  expect(find(statements, /RAISERROR/)).toMatchObject({
    status: 'error',
    error: { code: '50000', message: 'boom', detail: { state: 3, class: 16 } },
  });
  expect(call(statements, /^dbo\.tour_mssql_out$/)).toMatchObject({
    parameters: [
      { name: '@a', value: 21 },
      { name: '@o', value: null },
      { name: '@s', value: 'hey' },
    ],
    outputs: [
      { name: '@o', value: 42 },
      { name: '@s', value: 'éhey' },
    ],
    returnStatus: 5,
  });
  const handled = statements.filter(({ text }) => text === 'SELECT @a + 1 AS b');
  expect(handled.map(({ kind, name, parameters }) => [kind, name, parameters?.[0]?.value])).toEqual([
    ['prepare', 'sp_prepare', undefined],
    ['execute', 'sp_execute', 1],
    ['execute', 'sp_execute', 41],
    ['rpc', 'sp_unprepare', undefined],
  ]);
  const managed = statements.filter(({ kind }) => kind === 'command');
  expect(managed.map(({ text }) => text)).toEqual([
    expect.stringMatching(/^BEGIN TRANSACTION/),
    'COMMIT TRANSACTION',
    expect.stringMatching(/^BEGIN TRANSACTION/),
    'ROLLBACK TRANSACTION',
  ]);
  expect(find(statements, /VALUES \(11,/)).toMatchObject({ rowsAffected: 1, transaction: 'active' });
  expect(find(statements, /^insert bulk/i)).toMatchObject({ kind: 'bulk', rowsAffected: 3000, status: 'ok' });
  const rows = (count: number) => statements.filter(({ text }) => text === MSSQL_ROWS(count));
  expect(rows(30_000)).toMatchObject([{ rowsReturned: 30_000, status: 'ok' }]);
  expect(rows(5000)).toMatchObject([{ rowsReturned: 5000, status: 'ok' }]);
  expect(rows(300_000)).toMatchObject([{ status: 'cancelled' }]);
  expect(statements.filter(({ text }) => text?.startsWith('WAITFOR'))).toMatchObject([
    { status: 'cancelled' },
    { status: 'cancelled' },
  ]);
});

test('tsql and bsqldb', async () => {
  const script =
    "SELECT 1 AS one, N'été ☃' AS t\nPRINT 'hello'\nRAISERROR('boom', 16, 3)\nSELECT 2 AS two UNION ALL SELECT 3\nGO\n";
  for (const version of ['7.1', '7.4']) {
    const environment = { TDSVER: version, FREETDSCONF: join(folder, 'none.conf') };
    await writeFile(join(folder, 'none.conf'), '[global]\nclient charset = UTF-8\nencryption = off\n');
    const tsql = await both(({ port, user, password }) =>
      fed(
        'tsql',
        ['-H', '127.0.0.1', '-p', String(port), '-U', user, '-P', password, '-D', server.database],
        `${script}exit\n`,
        environment,
      ),
    );
    expect(find(tsql.statements, /^SELECT 1 AS one/)).toMatchObject({
      rowsReturned: 3,
      error: { code: '50000', detail: { state: 3, class: 16 } },
      messages: ['hello'],
      results: [{ rowsReturned: 1 }, { rowsReturned: 2 }],
    });
    const bsqldb = await both(async ({ port, user, password }) => {
      const file = join(folder, 'servers.conf');
      await writeFile(
        file,
        `[global]\ntds version = ${version}\nencryption = off\nclient charset = UTF-8\n[srv]\nhost = 127.0.0.1\nport = ${port}\n`,
      );
      return fed('bsqldb', ['-S', 'srv', '-U', user, '-P', password, '-D', server.database], script, {
        FREETDSCONF: file,
      });
    });
    expect(find(bsqldb.statements, /^SELECT 1 AS one/)).toMatchObject({ rowsReturned: 3, status: 'error' });
  }
});

test('freebcp, in and out', async () => {
  const { statements } = await both(async ({ port, user, password }) => {
    const file = join(folder, 'bcp.conf');
    await writeFile(
      file,
      `[global]\ntds version = 7.4\nencryption = off\n[srv]\nhost = 127.0.0.1\nport = ${port}\n`,
    );
    const data = join(folder, 'rows.txt');
    await writeFile(data, Array.from({ length: 250 }, (_, index) => `${index}\trow ${index}\n`).join(''));
    const environment = { FREETDSCONF: file };
    const sql = (text: string) =>
      fed(
        'bsqldb',
        ['-S', 'srv', '-U', user, '-P', password, '-D', server.database],
        `${text}\nGO\n`,
        environment,
      );
    await sql('DROP TABLE IF EXISTS tour_bcp');
    await sql('CREATE TABLE tour_bcp (a int NOT NULL, s varchar(30) NULL)');
    const account = ['-S', 'srv', '-U', user, '-P', password, '-D', server.database];
    const came = await fed('freebcp', ['tour_bcp', 'in', data, '-c', ...account], '', environment);
    const out = join(folder, 'out.txt');
    const went = await fed('freebcp', ['tour_bcp', 'out', out, '-c', ...account], '', environment);
    const strip = (text: string) =>
      text.replace(/.*(?:Elapsed|Avg|clock).*\n?/gi, '').replaceAll(String(port), 'port');
    return strip(came) + strip(went) + (await sql('SELECT COUNT(*) FROM tour_bcp'));
  });
  expect(find(statements, /^insert bulk/i)).toMatchObject({ kind: 'bulk', rowsAffected: 250, status: 'ok' });
});

test('isql of unixODBC', async () => {
  const { statements } = await both(({ port, user, password }) => {
    const connection = `DRIVER=/usr/lib/x86_64-linux-gnu/odbc/libtdsodbc.so;SERVER=127.0.0.1;PORT=${port};UID=${user};PWD=${password};DATABASE=${server.database};TDS_Version=7.4;Encryption=off`;
    return fed('isql', ['-k', connection, '-b', '-v'], 'SELECT 1 AS one\nSELECT * FROM no_such_table\n');
  });
  expect(find(statements, /^SELECT 1 AS one/)).toMatchObject({ rowsReturned: 1, status: 'ok' });
  expect(find(statements, /no_such_table/)).toMatchObject({ status: 'error', error: { code: '208' } });
});
