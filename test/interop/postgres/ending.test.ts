import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { PostgresSettings } from '../../../protocols/engine.ts';
import { Refusal } from '../../../protocols/error.ts';
import { postgres } from '../../../protocols/postgres/engine.ts';
import type { SessionLimits } from '../../../src/gateway/target.ts';
import type { CloseReason } from '../../../src/recording/recorder.ts';
import { startTestGateway, type TestGateway } from '../../support/gateway.ts';
import type { RecordedSession } from '../../support/memory-recorder.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { execute, message, parse, query, sync } from '../../support/postgres-observer.ts';
import { fields, letters, WireClient } from '../../support/postgres-wire.ts';

/** How sessions end: by our will, by a limit, by the server, by a client that is gone. */

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
const gateways: TestGateway[] = [];

beforeAll(async () => {
  server = await startPostgres({
    major: 18,
    setup: 'CREATE TABLE kept (a int); GRANT ALL ON kept TO PUBLIC',
  });
});
afterAll(async () => {
  for (const gateway of gateways) await gateway.close();
  await server?.stop();
});

async function gatewayWith(limits: Partial<SessionLimits> = {}): Promise<TestGateway> {
  const gateway = await startTestGateway({
    engine: postgres,
    settings: SETTINGS,
    servers: [server],
    username: 'launch_user',
    password: server.accounts.launch.password,
    database: server.database,
    limits,
  });
  gateways.push(gateway);
  return gateway;
}

const connect = (gateway: TestGateway, more: Record<string, string> = {}): Promise<WireClient> =>
  WireClient.connect('127.0.0.1', gateway.port, { user: 'x', database: server.database, ...more });

/** Whether the server still has the backend, after at most a second. */
async function backendGone(pid: number): Promise<boolean> {
  for (let attempt = 0; attempt < 20; attempt += 1) {
    const rows = await server.query('select 1 from pg_stat_activity where pid = $1', [pid]);
    if (rows.length === 0) return true;
    await sleep(50);
  }
  return false;
}

function kill(gateway: TestGateway): void {
  for (const connection of gateway.gateway.connections) {
    connection.end(new Refusal('killed', 'the session was ended by an administrator'), 'killed');
  }
}

async function closed(gateway: TestGateway): Promise<RecordedSession> {
  const session = gateway.recorder.sessions[0]!;
  await gateway.recorder.until(() => session.end_ !== null);
  return session;
}

async function expectEnd(gateway: TestGateway, reason: CloseReason): Promise<RecordedSession> {
  const session = await closed(gateway);
  expect(session.end_!.reason).toBe(reason);
  return session;
}

describe('a session that is killed', () => {
  const BIG = "select repeat('x', 1000) from generate_series(1, 1000000)";

  test('while a statement runs: the client hears it, and nothing is left on the server', async () => {
    const gateway = await gatewayWith();
    const client = await connect(gateway);
    client.send(query('select pg_sleep(60)'));
    await sleep(200);
    kill(gateway);
    const heard = await client.untilClosed();
    expect(fields(heard.at(-1)!)).toMatchObject({ S: 'FATAL', C: '57P01' });
    expect(await backendGone(client.pid)).toBe(true);
    const session = await expectEnd(gateway, 'killed');
    expect(session.statements[0]!.status).toBe('cancelled');
  });

  test.each([
    ['a big result', [query(BIG)], 'T'],
    ['COPY out', [query(`copy (${BIG}) to stdout`)], 'H'],
    ['COPY in', [query('copy kept from stdin'), message('d', Buffer.from('1\n2\n'))], 'G'],
  ])('in the middle of %s: the last words stand at the boundary of a message', async (_what, sent, first) => {
    const gateway = await gatewayWith();
    const client = await connect(gateway);
    client.send(...sent);
    await client.until(first);
    kill(gateway);
    const heard = await client.untilClosed();
    expect(fields(heard.at(-1)!)).toMatchObject({ S: 'FATAL', C: '57P01' });
    expect(await backendGone(client.pid)).toBe(true);
    await expectEnd(gateway, 'killed');
    expect(await server.query('select count(*)::int as n from kept')).toEqual([{ n: 0 }]);
  });
});

describe('limits', () => {
  test('an idle session ends, one that computes does not', async () => {
    const gateway = await gatewayWith({ idleTimeoutMs: 600 });
    const client = await connect(gateway);
    client.send(query('select pg_sleep(1.5)'));
    expect(letters(await client.until('Z'))).toContain('ZI');
    const heard = await client.untilClosed();
    expect(fields(heard.at(-1)!)).toMatchObject({ S: 'FATAL', C: '57P05' });
    await expectEnd(gateway, 'idle_timeout');
  });

  test('a session that is idle in a transaction says so', async () => {
    const gateway = await gatewayWith({ idleInTransactionTimeoutMs: 400 });
    const client = await connect(gateway);
    client.send(query('begin'));
    await client.until('Z');
    const heard = await client.untilClosed();
    expect(fields(heard.at(-1)!)).toMatchObject({ S: 'FATAL', C: '25P03' });
    expect(await backendGone(client.pid)).toBe(true);
  });

  test('replication is never idle', async () => {
    await server.query('ALTER ROLE launch_user REPLICATION');
    const gateway = await gatewayWith({ idleTimeoutMs: 400 });
    const client = await connect(gateway, { replication: 'database' });
    client.send(query('CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput'));
    await client.until('Z');
    client.send(query(`START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')`));
    await client.until('W');
    await sleep(1200);
    expect(client.closed).toBe(false);
    client.destroy();
    await expectEnd(gateway, 'client_closed');
  });

  test('a session ends when it has lasted long enough', async () => {
    const gateway = await gatewayWith({ maxDurationMs: 500 });
    const client = await connect(gateway);
    const heard = await client.untilClosed();
    expect(fields(heard.at(-1)!)).toMatchObject({ S: 'FATAL', C: '57P01' });
    await expectEnd(gateway, 'max_duration');
  });
});

describe('the server ends it', () => {
  test('by an administrator: its words pass as they are', async () => {
    const gateway = await gatewayWith();
    const client = await connect(gateway);
    await server.query('select pg_terminate_backend($1)', [client.pid]);
    const heard = await client.untilClosed();
    expect(letters(heard)).toBe('E');
    expect(fields(heard[0]!)).toMatchObject({ S: 'FATAL', C: '57P01', R: 'ProcessInterrupts' });
    await expectEnd(gateway, 'server_closed');
  });

  test('by an administrator, while a statement runs', async () => {
    const gateway = await gatewayWith();
    const client = await connect(gateway);
    client.send(query('select pg_sleep(60)'));
    await sleep(200);
    await server.query('select pg_terminate_backend($1)', [client.pid]);
    const heard = await client.untilClosed();
    expect(fields(heard.at(-1)!)).toMatchObject({ S: 'FATAL', C: '57P01' });
    const session = await closed(gateway);
    expect(session.statements[0]).toMatchObject({ status: 'error', error: { code: '57P01' } });
  });

  test('by a crash: the client is told, by the server or by us', async () => {
    const victim = await startPostgres({ major: 18 });
    try {
      const gateway = await startTestGateway({
        engine: postgres,
        settings: SETTINGS,
        servers: [victim],
        username: 'launch_user',
        password: victim.accounts.launch.password,
        database: victim.database,
      });
      gateways.push(gateway);
      const one = await connect(gateway);
      const other = await connect(gateway);
      one.send(query('select pg_sleep(60)'));
      await sleep(200);
      process.kill(one.pid, 'SIGKILL');
      const heard = await one.untilClosed();
      expect(fields(heard.at(-1)!)).toMatchObject({ S: 'FATAL', C: '08006' });
      const alsoHeard = await other.untilClosed();
      expect(fields(alsoHeard[0]!).C).toBe('57P02');
      await gateway.recorder.until(() => gateway.recorder.sessions.every((session) => session.end_ !== null));
      expect(gateway.recorder.statements[0]).toMatchObject({
        text: 'select pg_sleep(60)',
        status: 'unknown',
      });
    } finally {
      await victim.stop('immediate');
    }
  });
});

describe('the client is gone', () => {
  test('without a goodbye, while a statement runs: it runs on, as on a direct connection', async () => {
    const gateway = await gatewayWith();
    const client = await connect(gateway);
    client.send(query('insert into kept select 1 from pg_sleep(1)'));
    await sleep(200);
    client.socket.resetAndDestroy();
    const session = await expectEnd(gateway, 'client_closed');
    expect(session.statements[0]!.text).toContain('insert into kept');
    for (let attempt = 0; attempt < 60 && !(await backendGone(client.pid)); attempt += 1);
    expect(await server.query('select count(*)::int as n from kept')).toEqual([{ n: 1 }]);
    await server.query('truncate kept');
  });

  test('it sends no more, and still hears the answer to what it asked', async () => {
    const gateway = await gatewayWith();
    const client = await connect(gateway);
    client.send(query('select 7 from pg_sleep(0.3)'));
    client.socket.end();
    expect(letters(await client.untilClosed())).toBe('T D C ZI');
    const session = await expectEnd(gateway, 'client_closed');
    expect(session.statements[0]).toMatchObject({ status: 'ok', rowsReturned: 1 });
    expect(await backendGone(client.pid)).toBe(true);
  });

  test('a goodbye behind a statement: the statement is answered first', async () => {
    const gateway = await gatewayWith();
    const client = await connect(gateway);
    client.send(query('select 1'), message('X'));
    expect(letters(await client.untilClosed())).toBe('T D C ZI');
    const session = await expectEnd(gateway, 'client_closed');
    expect(session.statements[0]!.status).toBe('ok');
  });
});

test('parameters in another encoding are on record as what they mean', async () => {
  const gateway = await gatewayWith();
  const client = await connect(gateway);
  client.send(query("set client_encoding to 'LATIN1'"));
  const status = (await client.until('Z')).find((one) => one[0] === 0x53)!;
  expect(status.toString('latin1', 5)).toBe('client_encoding\0LATIN1\0');
  client.send(message('Q', Buffer.from("select 'é', length('é')\0", 'latin1')));
  const row = (await client.until('Z')).find((one) => one[0] === 0x44)!;
  expect(row.toString('latin1', 11, 12)).toBe('é');
  expect(gateway.recorder.statements.at(-1)!.text).toBe("select 'é', length('é')");
  const values = [0, 1, 0, 0, 0, 1, 0xe9, 0, 0];
  client.send(
    parse('', 'select $1::text'),
    message('B', '', '', Buffer.from([0, 0, ...values])),
    execute(''),
    sync(),
  );
  await client.until('Z');
  expect(gateway.recorder.statements.at(-1)!.parameters![0]!.value).toBe('é');
  client.destroy();
});
