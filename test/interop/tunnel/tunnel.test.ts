import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { DEBIAN_BIN, type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { query } from '../../support/postgres-observer.ts';
import { WireClient } from '../../support/postgres-wire.ts';
import {
  type GatewayProcess,
  makePerson,
  type Person,
  postgresResource,
  startGatewayProcess,
  type TunnelProcess,
} from '../../support/tunnel.ts';

/** A person's commands, a gateway's process, psql and node-postgres: what a person does all day with tunnels. */

const PSQL = join(DEBIAN_BIN, 'psql');
const NOBODY = 65534;

let server: PostgresServer;
let gateway: GatewayProcess;
let anna: Person;
let ben: Person;
const open: TunnelProcess[] = [];

beforeAll(async () => {
  server = await startPostgres();
  await server.query('CREATE TABLE kept (id int)');
  await server.query(`GRANT ALL ON kept TO ${server.accounts.launch.user}`);
  gateway = await startGatewayProcess({
    resources: postgresResource('orders', server.port) + postgresResource('stock', server.port),
    rules: `  - { name: orders, users: [anna, ben], resources: [orders] }
  - { name: stock, users: [anna], resources: [stock], read_only: true, max_connections: 2 }`,
    environment: { TUNNEL_PASSWORD: server.accounts.launch.password ?? '' },
  });
  anna = await makePerson(gateway);
  ben = await makePerson(gateway, { user: 'ben' });
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((tunnel) => tunnel.stop()));
});
afterAll(async () => {
  anna?.remove();
  ben?.remove();
  await gateway?.close();
  await server?.stop();
});

async function tunnelOf(person: Person, ...args: string[]): Promise<TunnelProcess> {
  const tunnel = await person.tunnel(args);
  open.push(tunnel);
  return tunnel;
}

async function client(tunnel: { port: number }, config: pg.ClientConfig = {}): Promise<pg.Client> {
  const made = new pg.Client({
    host: '127.0.0.1',
    port: tunnel.port,
    user: 'me',
    database: 'appdb',
    ...config,
  });
  made.on('error', () => {});
  await made.connect();
  return made;
}

describe('the command', () => {
  test('prints lines for tools, one of which psql takes as it is', async () => {
    const child = anna.start(['tunnel', 'orders']);
    let said = '';
    child.stdout!.on('data', (chunk) => {
      said += chunk;
    });
    while (!said.includes('Ctrl-C')) await once(child.stdout!, 'data');
    expect(said).toMatch(/^orders \(PostgreSQL\) is at 127\.0\.0\.1:\d+$/m);
    expect(said).toMatch(/^signed in as launch_user by Sallyport, recorded, until \d\d:\d\d|\d{4}-/m);
    expect(said).toMatch(/jdbc:postgresql:\/\/127\.0\.0\.1:\d+\/appdb\?user=anna&sslmode=disable/);
    const conninfo = /psql '(.*)'/.exec(said)![1]!;
    expect((await run(PSQL, [conninfo, '-Atc', 'SELECT current_user'])).stdout).toBe('launch_user\n');
    child.kill('SIGINT');
    expect(await once(child, 'exit')).toEqual([0, null]);
  });

  test('runs a command with its variables and passes its exit status on', async () => {
    const done = await anna.run(['tunnel', 'orders', '--', PSQL, '-Atc', 'SELECT current_database()']);
    expect(done).toMatchObject({ code: 0, stdout: 'appdb\n' });
    expect(done.stderr).toContain('signed in as launch_user by Sallyport, recorded, until');
    const failed = await anna.run(['tunnel', 'orders', '--', 'sh', '-c', 'exit 37']);
    expect(failed.code).toBe(37);
    const killed = await anna.run(['tunnel', 'orders', '--', 'sh', '-c', 'kill -TERM $$']);
    expect(killed.code).toBe(128 + 15);
    const missing = await anna.run(['tunnel', 'orders', '--', 'no-such-program-anywhere']);
    expect(missing).toMatchObject({ code: 127, stderr: expect.stringContaining('was not found') });
    const url = await anna.run(
      ['tunnel', 'orders', '--', 'sh', '-c', `${PSQL} "$DATABASE_URL" -Atc 'SELECT 7'`],
      {
        environment: { PGHOSTADDR: '203.0.113.1', PGSERVICE: 'elsewhere' },
      },
    );
    expect(url).toMatchObject({ code: 0, stdout: '7\n' });
  });

  test('connect runs psql, with further arguments and standard input', async () => {
    const asked = await anna.run(['connect', 'orders', '--', '-At'], { input: 'SELECT 6 * 7;\n' });
    expect(asked).toMatchObject({ code: 0, stdout: '42\n' });
    const wrong = await anna.run(['connect', 'orders', '--', '-c', 'SELECT 1/0']);
    expect(wrong).toMatchObject({ code: 1, stderr: expect.stringContaining('division by zero') });
  });

  test('a tunnel in the background outlives its command, is listed, and stops', async () => {
    const started = await anna.run(['tunnel', 'orders', '--background', '--json']);
    expect(started.code).toBe(0);
    const facts = JSON.parse(started.stdout) as { port: number; name: string };
    const one = await client(facts);
    const listed = JSON.parse((await anna.run(['tunnel', 'list', '--json'])).stdout);
    expect(listed).toMatchObject([
      { name: 'orders', mode: 'background', address: `127.0.0.1:${facts.port}` },
    ]);
    const second = await anna.run(['tunnel', 'orders', '--background', '--json']);
    expect(JSON.parse(second.stdout)).toMatchObject({ name: 'orders-2' });
    const ended = new Promise((resolve) => one.once('end', resolve));
    expect((await anna.run(['tunnel', 'stop', 'orders'])).stdout).toBe('orders is closed.\n');
    await ended;
    expect((await anna.run(['tunnel', 'stop', 'orders'])).code).toBe(1);
    expect((await anna.run(['tunnel', 'stop', '--all'])).stdout).toBe('orders-2 is closed.\n');
    expect((await anna.run(['tunnel', 'list'])).stdout).toBe('no tunnels\n');
    // Stopping them ended their launches.
    expect(await (await gateway.client()).get('/launches', z.array(z.unknown()))).toEqual([]);
  });

  test('says what is wrong', async () => {
    const unknown = await anna.run(['tunnel', 'nothing']);
    expect(unknown).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('there is no resource "nothing"'),
    });
    const forbidden = await ben.run(['tunnel', 'stock']);
    expect(forbidden).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('no rule lets ben use stock'),
    });
    const nobody = await anna.run(['tunnel', 'orders'], { environment: { SALLYPORT_HOME: '/nonexistent' } });
    expect(nobody).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('log in first: sallyport login'),
    });
  });

  test('has the same port each time, another when that is taken, and the one that is asked for', async () => {
    const first = await tunnelOf(anna, 'orders');
    expect(first.port).toBeGreaterThanOrEqual(49_152);
    const second = await tunnelOf(anna, 'orders');
    expect(second.port).not.toBe(first.port);
    await first.stop();
    expect((await tunnelOf(anna, 'orders')).port).toBe(first.port);
    // Somebody who sits on the other loopback address has the port, for tools that are told `localhost`.
    const wish = (await tunnelOf(anna, 'orders', '--port', '0')).port + 1;
    const squatter = createServer();
    await new Promise<void>((resolve, reject) => {
      squatter.once('error', reject);
      squatter.listen(wish, '::1', resolve);
    });
    const taken = await anna.run(['tunnel', 'orders', '--port', String(wish)]);
    expect(taken).toMatchObject({ code: 1, stderr: expect.stringContaining(`port ${wish} is taken`) });
    squatter.close();
    expect((await tunnelOf(anna, 'orders', '--port', String(wish))).port).toBe(wish);
  });
});

describe('what passes', () => {
  test('a read-only rule and its number of connections hold', async () => {
    const tunnel = await tunnelOf(anna, 'stock');
    const [one, two] = [await client(tunnel), await client(tunnel)];
    await expect(one.query('CREATE TABLE more (id int)')).rejects.toThrow(/read-only|read only/);
    await expect(client(tunnel)).rejects.toThrow('your launch allows 2 connections at once');
    await one.end();
    await two.end();
  });

  test('connections at once, one of which does not read, do not wait for each other', async () => {
    const tunnel = await tunnelOf(anna, 'orders');
    const stuck = await WireClient.connect('127.0.0.1', tunnel.port, { user: 'me', database: 'appdb' });
    stuck.socket.pause();
    stuck.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"));
    const others = await Promise.all(Array.from({ length: 40 }, () => client(tunnel)));
    for (let round = 0; round < 3; round += 1) {
      const rows = await Promise.all(others.map((one, index) => one.query('SELECT $1::int AS n', [index])));
      expect(rows.map(({ rows }) => rows[0].n)).toEqual(others.map((_one, index) => index));
    }
    await Promise.all(others.map((one) => one.end()));
    stuck.destroy();
  });

  test('half-close: the answer to the last statement arrives after the client has said that it sends no more', async () => {
    const tunnel = await tunnelOf(anna, 'orders');
    const wire = await WireClient.connect('127.0.0.1', tunnel.port, { user: 'me', database: 'appdb' });
    const chunks: Buffer[] = [];
    wire.socket.removeAllListeners('data');
    wire.socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    const ended = once(wire.socket, 'end');
    wire.send(query("SELECT pg_sleep(0.5), 'the last answer'"));
    wire.socket.end();
    await ended;
    expect(Buffer.concat(chunks).toString('latin1')).toContain('the last answer');
  });

  test('Ctrl-C cancels the statement in psql, and the tunnel ends after it', async () => {
    const child = anna.start(
      ['connect', 'orders', '--', '-c', 'SELECT pg_sleep(60)', '-c', "SELECT 'went on'"],
      {
        detached: true,
      },
    );
    let said = '';
    for (const output of [child.stdout!, child.stderr!])
      output.on('data', (chunk) => {
        said += chunk;
      });
    await untilRuns('SELECT pg_sleep(60)');
    process.kill(-child.pid!, 'SIGINT');
    const [code] = await once(child, 'close');
    expect(said).toContain('canceling statement due to user request');
    expect(code).toBe(1);
  });

  test('a cancel finds its session among many, and none of the others', async () => {
    const tunnel = await tunnelOf(anna, 'orders');
    const [one, two] = [await client(tunnel), await client(tunnel)];
    const hit = one.query('SELECT pg_sleep(60)');
    const spared = two.query("SELECT pg_sleep(2), 'spared' AS said");
    await untilRuns('SELECT pg_sleep(60)');
    const { processID, secretKey } = one as unknown as { processID: number; secretKey: number };
    const cancel = connect({ host: '127.0.0.1', port: tunnel.port });
    const request = Buffer.alloc(16);
    [16, 80877102, processID, secretKey].forEach((word, index) => void request.writeInt32BE(word, index * 4));
    cancel.end(request);
    await expect(hit).rejects.toThrow('canceling statement due to user request');
    expect((await spared).rows[0].said).toBe('spared');
    await Promise.all([one.end(), two.end()]);
  });
});

describe('the end of a launch', () => {
  test('revoked in the middle of a transaction: the tool hears why, the tunnel ends, nothing was kept', async () => {
    const tunnel = await tunnelOf(anna, 'orders');
    const one = await client(tunnel);
    await one.query('BEGIN');
    await one.query('INSERT INTO kept VALUES (1)');
    const heard = once(one, 'error');
    await (await gateway.client()).delete(`/launches/${tunnel.launch}`);
    const [error] = (await heard) as [Error];
    expect(error.message).toContain('your launch has ended');
    expect(await tunnel.exited).toBe(1);
    expect(tunnel.stderr()).toContain('your launch has ended: it was checked in');
    expect(await server.query('SELECT * FROM kept')).toEqual([]);
  });

  test('its time is up while a statement runs', async () => {
    const tunnel = await tunnelOf(anna, 'orders', '--ttl', '10s');
    const one = await client(tunnel);
    await expect(one.query('SELECT pg_sleep(60)')).rejects.toThrow(
      /your launch has ended|canceling statement/,
    );
    expect(await tunnel.exited).toBe(1);
    expect(tunnel.stderr()).toContain('its time is up');
  });

  test('while a command runs: it hears no from the tunnel in its own protocol', async () => {
    const script = `echo $SALLYPORT_LAUNCH; read line; ${PSQL} -c 'SELECT 1'`;
    const child = anna.start(['tunnel', 'orders', '--', 'sh', '-c', script]);
    let stderr = '';
    child.stderr!.on('data', (chunk) => {
      stderr += chunk;
    });
    const [launch] = await once(child.stdout!, 'data');
    await (await gateway.client()).delete(`/launches/${String(launch).trim()}`);
    while (!stderr.includes('your launch has ended')) await once(child.stderr!, 'data');
    child.stdin!.end('\n');
    const [code] = await once(child, 'close');
    expect(stderr).toMatch(/psql: error: .*your launch has ended: it was checked in/);
    expect(code).toBe(2);
  });

  test('closing a tunnel ends its sessions with a word, and is on record', async () => {
    const tunnel = await tunnelOf(anna, 'orders');
    const one = await client(tunnel);
    const heard = once(one, 'error');
    expect(await tunnel.stop()).toBe(0);
    expect(((await heard) as [Error])[0].message).toContain('its tunnel was closed');
    const audits = (await gateway.audits()).filter(({ detail }) => detail?.['launch'] === tunnel.launch);
    expect(audits.map(({ action, principal, resource }) => ({ action, principal, resource }))).toEqual(
      ['launch_started', 'tunnel_opened', 'launch_ended', 'tunnel_closed'].map((action) => ({
        action,
        principal: 'anna',
        resource: 'orders',
      })),
    );
  });
});

describe('others on the same machine', () => {
  test('a Unix socket is open to its owner alone, and psql finds it', async () => {
    const folder = join(mkdtempSync(join(tmpdir(), 'sallyport-socket-')), 'mine');
    const tunnel = await tunnelOf(anna, 'orders', '--socket', `${folder}/`);
    expect(tunnel.socket).toBe(join(folder, '.s.PGSQL.5432'));
    expect(statSync(folder).mode & 0o777).toBe(0o700);
    expect(statSync(tunnel.socket!).mode & 0o777).toBe(0o600);
    expect((await run(PSQL, ['-h', folder, '-d', 'appdb', '-Atc', 'SELECT 5'])).stdout).toBe('5\n');
    await tunnel.stop();
    chmodSync(folder, 0o777);
    const shared = await anna.run(['tunnel', 'orders', '--socket', join(folder, 's')]);
    expect(shared).toMatchObject({ code: 1, stderr: expect.stringContaining('is not yours alone') });
    rmSync(folder, { recursive: true });
  });

  test('with --require-token nobody gets in without the token, whatever the user name', async () => {
    const tunnel = await tunnelOf(anna, 'orders', '--require-token');
    expect(tunnel.token).toMatch(/^slp_/);
    await expect(client(tunnel, { password: 'guess' })).rejects.toThrow('launch token is wrong');
    const one = await client(tunnel, { user: 'whoever', password: tunnel.token! });
    expect((await one.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
    await one.end();
    // The token of another launch is no key to this tunnel.
    const other = await tunnelOf(anna, 'orders', '--require-token');
    await expect(client(tunnel, { user: other.launch, password: other.token! })).rejects.toThrow(
      'token is wrong',
    );
    const psql = await anna.run(['tunnel', 'orders', '--require-token', '--', PSQL, '-Atc', 'SELECT 3']);
    expect(psql).toMatchObject({ code: 0, stdout: '3\n' });
  });

  test.runIf(isRoot())('another user of the machine is told no, and it is on record', async () => {
    const tunnel = await tunnelOf(anna, 'orders');
    for (const host of ['127.0.0.1', '::1']) {
      const conninfo = `host=${host} port=${tunnel.port} dbname=appdb user=me sslmode=disable`;
      const asNobody = await run(PSQL, [conninfo, '-c', 'SELECT 1'], NOBODY);
      expect(asNobody.stderr).toContain('this tunnel belongs to another user of this machine');
      expect(asNobody.code).toBe(2);
      expect((await run(PSQL, [conninfo, '-Atc', 'SELECT 1'])).stdout).toBe('1\n');
    }
    expect(tunnel.stderr()).toContain(`refused a connection of another user of this machine (uid ${NOBODY})`);
    const told = (await gateway.audits()).filter(({ action }) => action === 'tunnel_local_refused');
    expect(told).toMatchObject([
      { principal: 'anna', detail: { uid: NOBODY, count: 1, launch: tunnel.launch } },
    ]);
  });

  test.runIf(isRoot())('a socket file lets another user not even begin', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'sallyport-socket-'));
    chmodSync(folder, 0o755);
    mkdirSync(join(folder, 'tunnel'), { mode: 0o755 });
    const path = join(folder, 'tunnel', '.s.PGSQL.5432');
    await tunnelOf(anna, 'orders', '--socket', path);
    const asNobody = await run(PSQL, ['-h', join(folder, 'tunnel'), '-d', 'appdb', '-c', 'SELECT 1'], NOBODY);
    expect(asNobody.stderr).toContain('Permission denied');
  });

  test('a process that knows the gateway but has no login of the owner gets nowhere', async () => {
    const tunnel = await tunnelOf(anna, 'orders');
    const benToken = (
      JSON.parse(readFileSync(join(ben.home, 'credentials.json'), 'utf8')) as { token: string }
    ).token;
    const ask = (headers: Record<string, string>, launch = tunnel.launch): Promise<number> =>
      upgradeStatus(gateway.port, `/tunnel?launch=${launch}&role=connection`, headers);
    const protocol = { 'sec-websocket-protocol': 'sallyport.tunnel.v1' };
    expect(await ask(protocol)).toBe(401);
    expect(await ask({ ...protocol, authorization: 'Bearer sll_wrong' })).toBe(401);
    expect(await ask({ ...protocol, authorization: `Bearer ${benToken}` })).toBe(404);
    expect(await ask({ authorization: `Bearer ${benToken}` })).toBe(426);
    expect(
      await ask({ ...protocol, authorization: `Bearer ${benToken}`, origin: 'http://evil.example' }),
    ).toBe(403);
    const annaToken = (
      JSON.parse(readFileSync(join(anna.home, 'credentials.json'), 'utf8')) as { token: string }
    ).token;
    expect(await ask({ ...protocol, authorization: `Bearer ${annaToken}`, origin: 'null' })).toBe(403);
    expect(await ask({ ...protocol, authorization: `Bearer ${annaToken}` }, 'lnothing99')).toBe(404);
    expect(await ask({ ...protocol, authorization: `Bearer ${annaToken}` })).toBe(101);
  });
});

function isRoot(): boolean {
  if (process.getuid?.() === 0) return true;
  console.error('Not root: tests that play another user of this machine are left out.');
  return false;
}

interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

async function run(file: string, args: string[], uid?: number): Promise<Ran> {
  const child = spawn(file, args, {
    ...(uid === undefined ? {} : { uid, gid: uid }),
    cwd: '/',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: '/usr/bin:/bin', LC_ALL: 'C.UTF-8', HOME: '/nonexistent' },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
  });
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stdout, stderr };
}

/** Waits until the server runs a statement that begins so. */
async function untilRuns(text: string): Promise<void> {
  for (;;) {
    const running = await server.query(
      "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE $1 AND pid <> pg_backend_pid()",
      [`${text}%`],
    );
    if (running.length > 0) return;
    await sleep(50);
  }
}

/** The status of HTTP that answers an upgrade. */
async function upgradeStatus(port: number, path: string, headers: Record<string, string>): Promise<number> {
  const socket: Socket = connect({ host: '127.0.0.1', port });
  const lines = Object.entries({
    host: `127.0.0.1:${port}`,
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-version': '13',
    'sec-websocket-key': 'c2FsbHlwb3J0IHR1bm5lbA==',
    ...headers,
  }).map(([name, value]) => `${name}: ${value}`);
  socket.write(`GET ${path} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
  const [chunk] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  return Number(/^HTTP\/1\.1 (\d+)/.exec(chunk.toString('latin1'))?.[1]);
}
