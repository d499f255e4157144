import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as tls from 'node:tls';
import pg from 'pg';
import postgresJs from 'postgres';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cancelPacket, startupPacket } from '../../../protocols/postgres/packets.ts';
import type { Gateway } from '../../../src/gateway/gateway.ts';
import { type Authority, makeAuthority } from '../../support/certificates.ts';
import type { TestGateway } from '../../support/gateway.ts';
import { DEBIAN_BIN, type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { runGo, runJava, runPython } from '../../support/postgres-clients.ts';
import { type PostgresGatewayOptions, startPostgresGateway } from '../../support/postgres-gateway.ts';

/** Cancels by every client's own means, and by raw packets where no client would send them. */

let authority: Authority;
let server: PostgresServer;
let folder: string;
let caFile: string;
const all: TestGateway[] = [];
/** Requires TLS of clients and does TLS and 3.2 with the server; the other is in the clear with both. */
let secure: TestGateway;
let clear: TestGateway;

async function start(options: PostgresGatewayOptions): Promise<TestGateway> {
  const gateway = await startPostgresGateway(server, options);
  all.push(gateway);
  return gateway;
}

beforeAll(async () => {
  authority = await makeAuthority('Cancel');
  const certificate = await authority.issue({ commonName: 'both', hosts: ['localhost', '127.0.0.1'] });
  folder = await mkdtemp(join(tmpdir(), 'sallyport-cancel-'));
  caFile = join(folder, 'ca.pem');
  await writeFile(caFile, authority.cert);
  server = await startPostgres({ major: 18, tls: certificate });
  clear = await start({});
  secure = await start({
    clientTls: { certificate, mode: 'require' },
    serverTls: { mode: 'verify-full', ca: authority.cert },
    settings: { protocolVersion: '3.2' },
  });
});

afterAll(async () => {
  for (const gateway of all) await gateway.close();
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const SLEEP = 'SELECT pg_sleep(60)';

/** Waits until `count` statements sleep on the server. */
async function sleeping(count = 1): Promise<void> {
  for (;;) {
    const rows = await server.query(
      "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()",
    );
    if (rows.length === count) return;
    await sleep(20);
  }
}

const ended = (gateway: TestGateway) =>
  gateway.recorder.statements.filter(({ text }) => text === SLEEP).at(-1);

describe('psql’s Ctrl-C', () => {
  it.each([
    ['in the clear', () => clear, 'sslmode=disable'],
    ['in the clear from a session with TLS, to a listener that requires it', () => secure, 'sslmode=require'],
  ] as const)('reaches the server %s', async (_, gateway, mode) => {
    const child = spawn(
      join(DEBIAN_BIN, 'psql'),
      [
        '-X',
        '-d',
        `host=127.0.0.1 port=${gateway().port} user=x dbname=appdb ${mode}`,
        '-c',
        SLEEP,
        '-c',
        'SELECT 1',
      ],
      { env: { PATH: '/usr/bin:/bin', HOME: folder } },
    );
    let stderr = '';
    child.stderr.on('data', (chunk) => {
      stderr += chunk;
    });
    await sleeping();
    const started = performance.now();
    child.kill('SIGINT');
    await once(child, 'close');
    expect(performance.now() - started).toBeLessThan(2000);
    expect(stderr).toContain('canceling statement due to user request');
    await sleeping(0);
    await gateway().recorder.until(() => ended(gateway())?.ended === true);
    expect(ended(gateway())).toMatchObject({ status: 'cancelled', error: { code: '57014' } });
  });
});

describe('drivers', () => {
  it('pgjdbc’s query timeout works in the clear and with TLS', async () => {
    const url = (gateway: TestGateway, more: string): string =>
      `cancel jdbc:postgresql://127.0.0.1:${gateway.port}/appdb?user=x${more}`;
    const { stdout } = await runJava('SignIn.java', [
      url(clear, ''),
      url(secure, '&sslmode=require'),
      url(secure, `&sslmode=verify-full&sslrootcert=${caFile}`),
    ]);
    const line = 'cancelled 57014 account launch_user';
    expect(stdout.trimEnd().split('\n')).toEqual([line, line, line]);
    await sleeping(0);
  });

  it('Python’s work, over the kind of connection that each takes', async () => {
    const to = (gateway: TestGateway, driver: string, more: object) => ({
      driver,
      host: '127.0.0.1',
      port: gateway.port,
      user: 'x',
      [driver.startsWith('psycopg') ? 'dbname' : 'database']: 'appdb',
      ...more,
    });
    const latest = { min_protocol_version: '3.2', max_protocol_version: '3.2' };
    const results = await runPython('cancel.py', [
      to(clear, 'psycopg', {}),
      to(secure, 'psycopg', {}),
      to(clear, 'psycopg safe', latest),
      to(secure, 'psycopg safe', { ...latest, sslmode: 'verify-full', sslrootcert: caFile }),
      to(secure, 'psycopg safe', { sslmode: 'require', sslnegotiation: 'direct' }),
      to(clear, 'asyncpg', {}),
      to(secure, 'asyncpg', { ca: caFile }),
    ]);
    const by = (cancelled: string) => ({ cancelled, account: 'launch_user' });
    expect(results).toEqual([...Array.from({ length: 5 }, () => by('57014')), by('timeout'), by('timeout')]);
    await sleeping(0);
  });

  it('pgx’s context works in the clear, with TLS and with 3.2', async () => {
    for (const [gateway, query] of [
      [clear, 'sslmode=disable'],
      [secure, 'sslmode=require'],
      [secure, 'sslmode=require&max_protocol_version=3.2'],
    ] as const) {
      const { stdout } = await runGo('pgx-sign-in', [
        `postgres://x@127.0.0.1:${gateway.port}/appdb?${query}`,
        'cancel',
      ]);
      expect(stdout).toBe('cancelled: 57014\nuser: launch_user\n');
    }
    await sleeping(0);
  });

  it('postgres.js’s cancel works in the clear and with TLS', async () => {
    for (const [gateway, ssl] of [
      [clear, false],
      [secure, 'require'],
    ] as const) {
      const sql = postgresJs({
        host: '127.0.0.1',
        port: gateway.port,
        user: 'x',
        database: 'appdb',
        ssl,
        max: 1,
      });
      await sql`SELECT 1`;
      const query = sql.unsafe(SLEEP);
      const outcome = query.then(
        () => null,
        (error: unknown) => error,
      );
      await sleeping();
      query.cancel();
      expect(await outcome).toMatchObject({ code: '57014' });
      await sql.end();
    }
  });

  it('pgAdmin’s way works: the process id that a client has is the server’s', async () => {
    const config = { host: '127.0.0.1', port: clear.port, user: 'x', database: 'appdb' };
    const [first, second] = [new pg.Client(config), new pg.Client(config)];
    await first.connect();
    await second.connect();
    const outcome = first.query(SLEEP).catch((error: unknown) => error);
    await sleeping();
    const pid = (first as unknown as { processID: number }).processID;
    await second.query('SELECT pg_cancel_backend($1)', [pid]);
    expect(await outcome).toMatchObject({ code: '57014' });
    expect((await first.query('SELECT pg_backend_pid() AS pid')).rows).toEqual([{ pid }]);
    await first.end();
    await second.end();
  });
});

/** A session by raw packets, with the key that it was given. */
interface RawSession {
  readonly socket: Socket;
  readonly pid: number;
  readonly secret: Buffer;
  received: string;
}

async function rawSession(gateway: TestGateway, version = 0x30000): Promise<RawSession> {
  const socket = connect({ host: '127.0.0.1', port: gateway.port });
  socket.write(
    startupPacket(version, [
      ['user', 'x'],
      ['database', 'appdb'],
    ]),
  );
  let bytes = Buffer.alloc(0);
  const session: RawSession = await new Promise((resolve) => {
    socket.on('data', function onData(chunk: Buffer) {
      bytes = Buffer.concat([bytes, chunk]);
      const ready = bytes.length > 6 && bytes.subarray(-6, -1).toString('hex') === '5a00000005';
      const at = bytes.indexOf(Buffer.from('K\0\0\0'));
      if (!ready || at < 0) return;
      const length = bytes.readUInt32BE(at + 1);
      socket.off('data', onData);
      resolve({
        socket,
        pid: bytes.readInt32BE(at + 5),
        secret: Buffer.from(bytes.subarray(at + 9, at + 1 + length)),
        received: '',
      });
    });
  });
  socket.on('data', (chunk: Buffer) => {
    session.received += chunk.toString('latin1');
  });
  return session;
}

function query(session: RawSession, text: string): void {
  const body = Buffer.from(`${text}\0`);
  const head = Buffer.alloc(5);
  head.write('Q');
  head.writeUInt32BE(body.length + 4, 1);
  session.received = '';
  session.socket.write(Buffer.concat([head, body]));
}

async function heard(session: RawSession, text: string): Promise<void> {
  while (!session.received.includes(text)) await once(session.socket, 'data');
}

/** Sends a CancelRequest and waits for the gateway to close, as clients do. Resolves to what came back: nothing. */
async function sendCancel(
  gateway: { readonly port: number },
  pid: number,
  secret: Buffer,
  how: 'clear' | 'tls' | 'direct' = 'clear',
): Promise<Buffer> {
  let socket = connect({ host: '127.0.0.1', port: gateway.port }) as Socket;
  const trust = { ca: authority.cert, host: '127.0.0.1' };
  if (how === 'tls') {
    socket.write(Buffer.from('0000000804d2162f', 'hex'));
    await once(socket, 'data');
    socket = tls.connect({ ...trust, socket });
  } else if (how === 'direct') {
    socket = tls.connect({ ...trust, port: gateway.port, ALPNProtocols: ['postgresql'] });
  }
  const bytes: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => bytes.push(chunk));
  socket.on('error', () => {});
  socket.write(cancelPacket(pid, secret));
  await once(socket, 'close');
  return Buffer.concat(bytes);
}

describe('raw cancel requests', () => {
  it('work in the clear, over TLS and over direct TLS', async () => {
    const session = await rawSession(clear);
    expect(session.secret.length).toBe(4);
    query(session, SLEEP);
    await sleeping();
    expect((await sendCancel(clear, session.pid, session.secret)).length).toBe(0);
    await heard(session, 'C57014');
    session.socket.destroy();

    // The key of a session with TLS, by each way that such a listener has.
    const client = new pg.Client({
      ...{ host: '127.0.0.1', port: secure.port, user: 'x', database: 'appdb' },
      ssl: { ca: authority.cert },
    });
    await client.connect();
    const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
    const key = Buffer.alloc(4);
    key.writeInt32BE(secretKey);
    for (const how of ['clear', 'tls', 'direct'] as const) {
      const outcome = client.query(SLEEP).catch((error: unknown) => error);
      await sleeping();
      await sendCancel(secure, processID, key, how);
      expect(await outcome).toMatchObject({ code: '57014' });
    }
    await client.end();
  });

  it('need the whole key of 3.2', async () => {
    const session = await rawSession(clear, 0x30002);
    expect(session.secret.length).toBe(32);
    query(session, SLEEP);
    await sleeping();
    await sendCancel(clear, session.pid, session.secret.subarray(0, 4));
    await sleeping();
    await sendCancel(clear, session.pid, session.secret);
    await heard(session, 'C57014');
    session.socket.destroy();
  });

  it('with the server’s own key come to nothing: clients do not have it, and the gateway knows others', async () => {
    const session = await rawSession(clear);
    const outcome = await sendCancel(clear, session.pid, Buffer.alloc(4));
    expect(outcome.length).toBe(0);
    session.socket.destroy();
  });

  it('of a statement that has ended do not hit the next', async () => {
    const session = await rawSession(clear);
    query(session, 'SELECT 1');
    await heard(session, 'Z');
    const late = sendCancel(clear, session.pid, session.secret);
    await late;
    query(session, 'SELECT pg_sleep(0.2), 4711');
    await heard(session, '4711');
    expect(session.received).not.toContain('57014');
    session.socket.destroy();
  });

  it('with wrong keys are dropped after ten, without a word and without harm', async () => {
    const gateway = await start({});
    const session = await rawSession(gateway);
    query(session, SLEEP);
    await sleeping();
    for (let i = 0; i < 11; i++) await sendCancel(gateway, session.pid, Buffer.from([9, 9, 9, i]));
    await sleeping();
    // Even the right key is now taken for a guess.
    await sendCancel(gateway, session.pid, session.secret);
    await sleeping();
    expect(gateway.logs.join('')).toContain('rate_limited');
    session.socket.destroy();
    await server.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()",
    );
  });

  it('reach the gateway that has the session, whichever they come to', async () => {
    const gateways: Gateway[] = [];
    const askPeers = async (id: number, secret: Buffer, host: string): Promise<boolean> => {
      for (const gateway of gateways)
        if ((await gateway.cancels.cancel(id, secret, host)) === 'sent') return true;
      return false;
    };
    const [one, other] = [await start({ askPeers }), await start({ askPeers })];
    gateways.push(one.gateway, other.gateway);
    const session = await rawSession(one);
    query(session, SLEEP);
    await sleeping();
    await sendCancel(other, session.pid, session.secret);
    await heard(session, 'C57014');
    session.socket.destroy();
  });

  it('are not needed when the client is gone for good: its key is forgotten', async () => {
    const session = await rawSession(clear);
    session.socket.destroy();
    await clear.recorder.until(() => clear.recorder.sessions.at(-1)?.end_ != null);
    const before = clear.logs.length;
    await sendCancel(clear, session.pid, session.secret);
    expect(clear.logs.slice(before).join('')).toContain('unknown_key');
  });
});
