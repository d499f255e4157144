import { connect, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Refusal } from '../../../protocols/error.ts';
import { PacketScanner, type SegmentSink } from '../../../protocols/tds/frames.ts';
import { statementGate } from '../../../src/gateway/policy.ts';
import { makeAuthority } from '../../support/certificates.ts';
import { standsStill, type TestGateway } from '../../support/gateway.ts';
import type { RecordedSession } from '../../support/memory-recorder.ts';
import { type SqlServer, startSqlGateway, startSqlServer } from '../../support/sql-server.ts';
import { batch } from '../../support/tds-encode.ts';
import { loginPacket, preloginPacket } from '../../support/tds-peers.ts';
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

/** How sessions with SQL Server end by the gateway's will, what its policy lets pass, and traffic inside TLS. */

/** Why a test is left out on a real server. */
const ONE_OF_ITS_OWN = 'needs a server of its own, whose bytes it can see';

let server: SqlServer;
const gateways: TestGateway[] = [];

beforeAll(async () => {
  server = await startSqlServer();
});

afterEach(async () => {
  for (const gateway of gateways.splice(0)) await gateway.close();
});

afterAll(() => server?.close());

async function gatewayWith(options: Parameters<typeof startSqlGateway>[1] = {}): Promise<TestGateway> {
  const gateway = await startSqlGateway(server, options);
  gateways.push(gateway);
  return gateway;
}

function kill(gateway: TestGateway): void {
  for (const connection of gateway.gateway.connections) {
    connection.end(new Refusal('killed', 'an operator ended this session'), 'killed');
  }
}

function ended(connection: Connection): Promise<number> {
  const began = Date.now();
  return new Promise((resolve) => connection.once('end', () => resolve(Date.now() - began)));
}

async function closed(gateway: TestGateway): Promise<RecordedSession> {
  const session = gateway.recorder.sessions[0]!;
  await gateway.recorder.until(() => session.end_ !== null);
  return session;
}

describe('a session that is killed', () => {
  test('while it is idle is closed at once', async () => {
    const gateway = await gatewayWith();
    const connection = await connectTedious({ port: gateway.port });
    connection.on('error', () => {});
    const end = ended(connection);
    kill(gateway);
    expect(await end).toBeLessThan(1000);
    expect((await closed(gateway)).end_).toMatchObject({ reason: 'killed' });
  });

  test('while a statement runs: the client reads why, the server is told to stop', async () => {
    const gateway = await gatewayWith();
    const connection = await connectTedious({ port: gateway.port });
    connection.on('error', () => {});
    const end = ended(connection);
    const running = batchOf(connection, "WAITFOR DELAY '00:00:30'");
    await gateway.recorder.until(() =>
      gateway.recorder.statements.some(({ text }) => text?.startsWith('WAITFOR')),
    );
    kill(gateway);
    expect((await running).error).toMatchObject({ message: 'Sallyport: an operator ended this session.' });
    expect(await end).toBeLessThan(5000);
    const session = await closed(gateway);
    expect(session.end_).toMatchObject({ reason: 'killed' });
    expect(session.statements.at(-1)).toMatchObject({ status: 'cancelled', ended: true });
    if (server.double) expect(server.double.requests.at(-1)).toMatchObject({ type: 0x06 });
  });

  test('in the middle of a result: what came of it does not pass for all of it', async () => {
    const gateway = await gatewayWith();
    const connection = await connectTedious({ port: gateway.port });
    connection.on('error', () => {});
    const sql =
      "SELECT TOP 2000000 1 AS a, N'some text' AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b";
    let rows = 0;
    const outcome = await runRequest(
      sql,
      (request) => connection.execSqlBatch(request),
      (request) =>
        request.on('row', () => {
          rows += 1;
          if (rows === 1000) kill(gateway);
        }),
    );
    expect(rows).toBeLessThan(2_000_000);
    expect(outcome.error).not.toBeNull();
    const session = await closed(gateway);
    expect(session.statements.at(-1)).toMatchObject({ status: 'cancelled' });
  });
});

describe('limits', () => {
  test('an idle session ends, one that computes does not', async () => {
    const gateway = await gatewayWith({ limits: { idleTimeoutMs: 700 } });
    const connection = await connectTedious({ port: gateway.port });
    connection.on('error', () => {});
    expect((await batchOf(connection, "WAITFOR DELAY '00:00:02'; SELECT 1")).rows).toEqual([[1]]);
    expect(await ended(connection)).toBeLessThan(3000);
    expect((await closed(gateway)).end_).toMatchObject({ reason: 'idle_timeout' });
  });

  test('a session that is idle in a transaction has its own', async () => {
    const gateway = await gatewayWith({ limits: { idleInTransactionTimeoutMs: 500 } });
    const connection = await connectTedious({ port: gateway.port });
    connection.on('error', () => {});
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await new Promise<void>((resolve) => connection.beginTransaction(() => resolve()));
    expect(await ended(connection)).toBeLessThan(3000);
    expect((await closed(gateway)).end_).toMatchObject({ reason: 'idle_timeout' });
  });
});

test('a client that leaves in the middle of a result takes its server session along', async () => {
  const gateway = await gatewayWith();
  const connection = await connectTedious({ port: gateway.port });
  const sql =
    "SELECT TOP 2000000 1 AS a, N'some text' AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b";
  await runRequest(
    sql,
    (request) => connection.execSqlBatch(request),
    (request) => request.once('row', () => connection.close()),
  );
  const session = await closed(gateway);
  expect(session.end_).toMatchObject({ reason: 'client_closed' });
  expect(session.statements.at(-1)).toMatchObject({ text: sql, status: 'unknown' });
});

test('a server that dies ends the session', async ({ skip }) => {
  skip(server.double === null, ONE_OF_ITS_OWN);
  const mortal = await startSqlServer();
  const gateway = await startSqlGateway(mortal);
  gateways.push(gateway);
  const connection = await connectTedious({ port: gateway.port });
  connection.on('error', () => {});
  const running = batchOf(connection, "WAITFOR DELAY '00:00:30'");
  await gateway.recorder.until(() =>
    gateway.recorder.statements.some(({ text }) => text?.startsWith('WAITFOR')),
  );
  await mortal.close();
  expect((await running).error).toMatchObject({ message: expect.stringContaining('database server closed') });
  const session = await closed(gateway);
  expect(session.end_).toMatchObject({ reason: 'server_closed' });
  expect(session.statements.at(-1)).toMatchObject({ status: 'unknown' });
});

test('a client that does not read holds the server back', async () => {
  const gateway = await gatewayWith();
  const socket = connect(gateway.port, '127.0.0.1');
  const heard = new Bytes(socket);
  socket.write(preloginPacket());
  await heard.message();
  socket.write(loginPacket({ database: server.database }));
  await heard.message();
  socket.pause();
  const before = process.memoryUsage().rss;
  socket.write(
    batch("SELECT TOP 40000 REPLICATE(N'x', 4000) AS x FROM sys.all_objects a CROSS JOIN sys.all_columns b"),
  );
  let most = 0;
  const carried = await standsStill(gateway, 'bytesReceived', () => {
    most = Math.max(most, process.memoryUsage().rss - before);
  });
  expect(carried).toBeLessThan(160_000_000);
  // The result is 320 MB; between the two stand the buffers of four sockets.
  expect(most).toBeLessThan(120 * 1024 * 1024);
  socket.resume();
  const received = await heard.message();
  expect(received).toBeGreaterThan(320_000_000);
  socket.destroy();
  const session = await closed(gateway);
  expect(session.statements).toMatchObject([{ rowsReturned: 40_000, status: 'ok', opaque: false }]);
});

/** Counts the bytes of the server's messages as they come, and keeps none. */
class Bytes implements SegmentSink {
  readonly #scanner = new PacketScanner();
  #bytes = 0;
  #done: ((bytes: number) => void) | null = null;

  constructor(socket: Socket) {
    socket.on('data', (chunk) => this.#scanner.feed(chunk, 0, chunk.length, this));
  }

  /** The length of the next message. */
  message(): Promise<number> {
    return new Promise((resolve) => {
      this.#done = resolve;
    });
  }

  header(length: number): void {
    this.#bytes += length;
  }

  payload(): void {}

  messageEnd(): void {
    this.#done?.(this.#bytes);
    this.#bytes = 0;
  }
}

describe('the statement policy', () => {
  async function governed(rules: {
    readOnly: boolean;
  }): Promise<{ gateway: TestGateway; connection: Connection }> {
    const gateway = await gatewayWith({
      decide: statementGate({ engine: 'tds', account: server.username, allowAccountChange: false, ...rules }),
    });
    return { gateway, connection: await connectTedious({ port: gateway.port }) };
  }

  test('keeps the account that the session runs as', async () => {
    const { gateway, connection } = await governed({ readOnly: false });
    const login = `ALTER LOGIN ${server.username} WITH PASSWORD = 'x'`;
    const refused = [
      await batchOf(connection, login),
      await queryOf(connection, `SELECT 1; ${login}`),
      await batchOf(connection, `EXEC('${login.replaceAll("'", "''")}')`),
      await callOf(connection, 'sp_password', (request) => request.addParameter('new', TYPES.NVarChar, 'x')),
      await callOf(connection, 'master.dbo.sp_password', (request) =>
        request.addParameter('new', TYPES.NVarChar, 'x'),
      ),
    ];
    for (const { error } of refused) expect(error).toMatchObject({ number: 50_501 });
    expect((await batchOf(connection, 'SELECT 1')).rows).toEqual([[1]]);
    await closeTedious(connection);
    const session = await closed(gateway);
    expect(session.statements.filter(({ status }) => status === 'denied')).toHaveLength(refused.length);
    if (server.double) {
      const sent = server.double.requests.map(({ payload }) => payload.toString('utf16le')).join();
      expect(sent).not.toContain('ALTER LOGIN');
      expect(sent).not.toContain('sp_password');
    }
  });

  test('keeps read-only access to reading, in every kind of request', async () => {
    const { gateway, connection } = await governed({ readOnly: true });
    expect(
      (await queryOf(connection, 'SELECT @p', (request) => request.addParameter('p', TYPES.Int, 4))).rows,
    ).toEqual([[4]]);
    const prepared = new Request('DELETE FROM dbo.kept WHERE a = @a', () => {});
    prepared.addParameter('a', TYPES.Int, null);
    const failed = new Promise<Error>((resolve) => prepared.once('error', resolve));
    connection.prepare(prepared);
    expect(await failed).toMatchObject({ message: expect.stringContaining('read-only') });
    const loaded = await new Promise<Error | null | undefined>((resolve) => {
      const load = connection.newBulkLoad('dbo.kept', {}, (error) => resolve(error));
      load.addColumn('a', TYPES.Int, { nullable: false });
      connection.execBulkLoad(load, [{ a: 1 }]);
    });
    expect(loaded).toMatchObject({ message: expect.stringContaining('read-only') });
    for (const outcome of [
      await batchOf(connection, 'CREATE TABLE dbo.kept (a int)'),
      await callOf(connection, 'dbo.some_procedure'),
    ]) {
      expect(outcome.error).toMatchObject({ number: 50_501 });
    }
    await new Promise<void>((resolve, reject) =>
      connection.beginTransaction((error) => (error ? reject(error) : resolve())),
    );
    await new Promise<void>((resolve, reject) =>
      connection.commitTransaction((error) => (error ? reject(error) : resolve())),
    );
    await closeTedious(connection);
    await closed(gateway);
  });
});

describe('inside TLS', () => {
  test('large requests and results pass, in the largest packets that fit a record', async () => {
    const authority = await makeAuthority('Streaming', 'rsa');
    const issue = () =>
      authority.issue({ commonName: 'localhost', hosts: ['localhost', '127.0.0.1'], keyType: 'rsa' });
    const front = await issue();
    const secure =
      server.double === null
        ? server
        : await startSqlServer({ encryption: 'required', certificate: await issue() });
    const gateway = await startSqlGateway(secure, {
      clientTls: { certificate: front },
      serverTls: { mode: secure.double === null ? 'require' : 'verify-full', ca: authority.cert },
      encryption: 'on',
    });
    gateways.push(gateway);
    const connection = await connectTedious({
      port: gateway.port,
      options: { encrypt: true, trustServerCertificate: true, packetSize: 32_767 },
    });
    const long = 'é☃'.repeat(200_000);
    const { rows, error } = await queryOf(
      connection,
      "SELECT TOP 2000 @p AS p, REPLICATE(N'x', 2000) AS x FROM sys.all_objects a CROSS JOIN sys.all_columns b WHERE @n IS NULL",
      (request) => {
        request.addParameter('p', TYPES.NVarChar, 'short');
        request.addParameter('n', TYPES.Int, null);
      },
    );
    expect([rows.length, error]).toEqual([2000, null]);
    const echoed = await queryOf(connection, 'SELECT @long AS l', (request) =>
      request.addParameter('long', TYPES.NVarChar, long),
    );
    expect(echoed.rows[0]?.[0]).toBe(long);
    const batch = await batchOf(connection, `SELECT 1 /* ${'y'.repeat(1_500_000)} */`);
    expect(batch.rows).toEqual([[1]]);
    await closeTedious(connection);
    const session = await closed(gateway);
    expect(session.start.clientTls).toMatch(/^TLSv1\.2/);
    expect(session.start.serverTls).toMatch(/^TLSv1/);
    const statements = session.statements.slice(1);
    expect(statements.map(({ status, opaque }) => [status, opaque])).toEqual([
      ['ok', false],
      ['ok', false],
      ['ok', false],
    ]);
    expect(statements[1]!.parameters).toMatchObject([{ name: '@long', bytes: long.length * 2 }]);
    expect(statements[2]!.textBytes).toBeGreaterThan(1_500_000);
    if (secure !== server) await secure.close();
  });

  test('each packet reaches the server in a record of its own', async ({ skip }) => {
    skip(server.double === null, ONE_OF_ITS_OWN);
    const authority = await makeAuthority('Records', 'rsa');
    const certificate = await authority.issue({
      commonName: 'localhost',
      hosts: ['127.0.0.1'],
      keyType: 'rsa',
    });
    const secure = await startSqlServer({ encryption: 'required', certificate });
    const gateway = await startSqlGateway(secure, {
      serverTls: { mode: 'verify-full', ca: authority.cert },
      encryption: 'on',
    });
    gateways.push(gateway);
    const connection = await connectTedious({ port: gateway.port, options: { packetSize: 8000 } });
    const from = secure.double!.received.length;
    await queryOf(connection, 'SELECT LEN(@p)', (request) =>
      request.addParameter('p', TYPES.NVarChar, 'x'.repeat(60_000)),
    );
    const bytes = Buffer.concat(secure.double!.received.slice(from));
    const records: number[] = [];
    for (let at = 0; at < bytes.length; at += 5 + bytes.readUInt16BE(at + 3))
      records.push(bytes.readUInt16BE(at + 3));
    // The cipher adds the same to each.
    expect(new Set(records.slice(0, -1)).size).toBe(1);
    expect(records[0]! - 8000).toBeLessThan(100);
    expect(records).toHaveLength(16);
    await closeTedious(connection);
    await secure.close();
  });
});
