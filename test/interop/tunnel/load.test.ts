import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { DEBIAN_BIN, type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { int4, query } from '../../support/postgres-observer.ts';
import { WireClient } from '../../support/postgres-wire.ts';
import {
  type GatewayProcess,
  makePerson,
  type Person,
  postgresResource,
  residentMiB,
  startGatewayProcess,
  type TunnelProcess,
} from '../../support/tunnel.ts';

/** Many connections, and much through one: what lies between must hold neither up, nor keep what it carries. */

const CONNECTIONS = 1_000;
const COPY_ROWS = 200_000;
/** 200 MB: a thousand characters and a line end, so often. */
const COPY_BYTES = COPY_ROWS * 1_001;
/** What a process may grow by, whatever it carries: the buffers of the streams, and garbage that is not collected yet. */
const GROWTH_MIB_MAX = 150;

let server: PostgresServer;
let light: Server;
let gateway: GatewayProcess;
let anna: Person;
const open: TunnelProcess[] = [];

beforeAll(async () => {
  server = await startPostgres();
  await server.query('CREATE TABLE lines (line text)');
  await server.query(`GRANT ALL ON lines TO ${server.accounts.launch.user}`);
  light = await startLightServer();
  const limits = '    limits: { max_connections: 2000 }\n';
  gateway = await startGatewayProcess({
    resources:
      postgresResource('orders', server.port) +
      postgresResource('light', (light.address() as AddressInfo).port, limits),
    environment: { TUNNEL_PASSWORD: server.accounts.launch.password ?? '' },
  });
  anna = await makePerson(gateway);
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((tunnel) => tunnel.stop()));
});
afterAll(async () => {
  anna?.remove();
  await gateway?.close();
  light?.close();
  await server?.stop();
});

async function tunnelTo(resource: string): Promise<TunnelProcess> {
  const tunnel = await anna.tunnel([resource]);
  open.push(tunnel);
  return tunnel;
}

test('a thousand connections through one tunnel, all of which answer, and end with it', async () => {
  const tunnel = await tunnelTo('light');
  const before = { tunnel: tunnel.residentMiB(), gateway: residentMiB(gateway.pid) };
  const began = performance.now();
  const clients = await Promise.all(
    Array.from({ length: CONNECTIONS }, () =>
      WireClient.connect('127.0.0.1', tunnel.port, { user: 'me', database: 'appdb' }),
    ),
  );
  const opened = performance.now() - began;
  expect(await gateway.metric('sallyport_tunnel_connections_open{resource="light",engine="postgres"}')).toBe(
    CONNECTIONS,
  );
  const asked = performance.now();
  for (const client of clients) client.send(query('SELECT 1'));
  await Promise.all(clients.map((client) => client.until('Z')));
  const answered = performance.now() - asked;
  const grown = {
    tunnel: (tunnel.residentMiB() - before.tunnel) / CONNECTIONS,
    gateway: (residentMiB(gateway.pid) - before.gateway) / CONNECTIONS,
  };
  console.info(
    `${CONNECTIONS} connections: open in ${Math.round(opened)} ms, one statement each in ${Math.round(answered)} ms; a connection costs ${Math.round(grown.tunnel * 1024)} KiB in the tunnel, ${Math.round(grown.gateway * 1024)} KiB in the gateway`,
  );
  expect(grown.tunnel).toBeLessThan(0.25);
  const farewells = clients.map((client) => client.untilClosed());
  await tunnel.stop();
  for (const messages of await Promise.all(farewells)) {
    const last = Buffer.concat(messages).toString('latin1');
    expect(last).toContain('its tunnel was closed');
  }
  for (const name of ['sallyport_tunnel_connections_open', 'sallyport_tunnels_open'])
    await expect
      .poll(() => gateway.metric(`${name}{resource="light",engine="postgres"}`), { timeout: 10_000 })
      .toBe(0);
}, 120_000);

test('200 MB out and in, through processes that do not grow', async () => {
  const tunnel = await tunnelTo('orders');
  const watch = watchMemory({ tunnel: tunnel.pid, gateway: gateway.pid });
  const conninfo = `host=127.0.0.1 port=${tunnel.port} dbname=appdb user=me sslmode=disable`;
  const out = spawn(
    join(DEBIAN_BIN, 'psql'),
    [conninfo, '-c', `COPY (SELECT repeat('x', 1000) FROM generate_series(1, ${COPY_ROWS})) TO STDOUT`],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const outMs = await timed(async () => expect(await bytesOf(out)).toBe(COPY_BYTES));
  const client = new pg.Client({ host: '127.0.0.1', port: tunnel.port, user: 'me', database: 'appdb' });
  await client.connect();
  const line = Buffer.from(`${'y'.repeat(1000)}\n`);
  const block = Buffer.concat(Array.from({ length: 64 }, () => line));
  const blocks = function* (): Generator<Buffer> {
    for (let left = COPY_ROWS; left > 0; left -= 64)
      yield left >= 64 ? block : block.subarray(0, left * line.length);
  };
  const inMs = await timed(() =>
    pipeline(Readable.from(blocks()), client.query(copyFrom('COPY lines FROM STDIN'))),
  );
  const { rows } = await client.query(
    'SELECT count(*)::int AS n, sum(length(line))::int AS bytes FROM lines',
  );
  expect(rows).toEqual([{ n: COPY_ROWS, bytes: COPY_ROWS * 1000 }]);
  await client.end();
  const grown = watch.stop();
  console.info(
    `200 MB out in ${Math.round(outMs)} ms, in in ${Math.round(inMs)} ms; grown by ${JSON.stringify(grown)} MiB`,
  );
  expect(grown['tunnel']).toBeLessThan(GROWTH_MIB_MAX);
  expect(grown['gateway']).toBeLessThan(GROWTH_MIB_MAX);
}, 120_000);

test('a tool that does not read holds the server up, not our memory', async () => {
  const tunnel = await tunnelTo('orders');
  const wire = await WireClient.connect('127.0.0.1', tunnel.port, { user: 'me', database: 'appdb' });
  const watch = watchMemory({ tunnel: tunnel.pid, gateway: gateway.pid });
  wire.socket.removeAllListeners('data');
  wire.socket.pause();
  wire.send(query(`SELECT repeat('x', 1000) FROM generate_series(1, ${COPY_ROWS})`));
  await sleep(3_000);
  const [waiting] = await server.query(
    "SELECT wait_event FROM pg_stat_activity WHERE query LIKE 'SELECT repeat%' AND pid <> pg_backend_pid()",
  );
  expect(waiting).toEqual({ wait_event: 'ClientWrite' });
  const grown = watch.stop();
  expect(grown['tunnel']).toBeLessThan(GROWTH_MIB_MAX);
  expect(grown['gateway']).toBeLessThan(GROWTH_MIB_MAX);
  // It reads on where it stopped.
  let bytes = 0;
  wire.socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (chunk.subarray(-6).equals(Buffer.concat([Buffer.from('Z'), int4(5), Buffer.from('I')])))
      wire.destroy();
  });
  const closed = once(wire.socket, 'close');
  wire.socket.resume();
  await closed;
  expect(bytes).toBeGreaterThan(COPY_ROWS * 1000);
}, 120_000);

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

async function bytesOf(child: ChildProcess): Promise<number> {
  let bytes = 0;
  for await (const chunk of child.stdout!) bytes += (chunk as Buffer).length;
  return bytes;
}

/** The most that processes have grown by, in MiB, until `stop`. */
function watchMemory(pids: Readonly<Record<string, number>>): { stop(): Record<string, number> } {
  const names = Object.keys(pids);
  const first = names.map((name) => residentMiB(pids[name]!));
  const most = [...first];
  const timer = setInterval(() => {
    names.forEach((name, index) => {
      most[index] = Math.max(most[index]!, residentMiB(pids[name]!));
    });
  }, 50);
  return {
    stop: () => {
      clearInterval(timer);
      return Object.fromEntries(names.map((name, index) => [name, Math.round(most[index]! - first[index]!)]));
    },
  };
}

/**
 * A server that signs everybody in and answers every query with nothing: a thousand processes of the real one would be a
 * test of this machine's memory.
 */
async function startLightServer(): Promise<Server> {
  const message = (type: string, ...parts: Buffer[]): Buffer => {
    const body = Buffer.concat(parts);
    return Buffer.concat([Buffer.from(type), int4(body.length + 4), body]);
  };
  const ready = message('Z', Buffer.from('I'));
  const setting = (name: string, value: string): Buffer => message('S', Buffer.from(`${name}\0${value}\0`));
  const signIn = Buffer.concat([
    message('R', int4(0)),
    setting('server_version', '18.4'),
    setting('server_encoding', 'UTF8'),
    setting('client_encoding', 'UTF8'),
    setting('standard_conforming_strings', 'on'),
    message('K', int4(1), int4(2)),
    ready,
  ]);
  const answer = Buffer.concat([message('C', Buffer.from('SELECT 0\0')), ready]);
  const listening = createServer({ noDelay: true }, (socket: Socket) => {
    let began = false;
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      if (!began) socket.write(signIn);
      else if (chunk[0] === 0x51) socket.write(answer);
      began = true;
    });
  });
  await new Promise<void>((resolve) => listening.listen(0, '127.0.0.1', 1024, () => resolve()));
  return listening;
}
