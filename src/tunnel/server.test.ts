import { once } from 'node:events';
import { createServer, get, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { makeLog } from '../log.ts';
import { Metrics } from '../metrics.ts';
import type { AuditEvent } from '../recording/recorder.ts';
import type { StoredLaunch } from '../store/state.ts';
import { Cookies } from './cookies.ts';
import { dial } from './dial.ts';
import { TUNNELS_PER_PRINCIPAL_MAX } from './limits.ts';
import { type LinkError, openLink } from './link.ts';
import { CloseCode, SUBPROTOCOL, type TunnelRole } from './messages.ts';
import { TunnelServer } from './server.ts';

/** The gateway's end over a real HTTP server, what stands behind it played by values. */

const HOUR_MS = 3_600_000;

let http: Server;
let server: TunnelServer;
let launches: Map<string, StoredLaunch>;
let audits: AuditEvent[];
let ended: string[];
let served: Duplex[];
let draining: boolean;
let resources: string[];

function launchOf(id: string, change: Partial<StoredLaunch> = {}): StoredLaunch {
  return {
    id,
    principal: 'anna',
    source: 'password',
    roles: [],
    resource: 'orders',
    rule: 'r',
    createdAt: Date.now(),
    expiresAt: Date.now() + HOUR_MS,
    endedAt: null,
    endReason: null,
    databases: null,
    maxConnections: null,
    readOnly: false,
    reason: null,
    verifier: null,
    ...change,
  };
}

beforeEach(async () => {
  launches = new Map([
    ['l1', launchOf('l1')],
    ['l2', launchOf('l2', { databases: ['shop'], readOnly: true, verifier: { iterations: 1 } })],
    ['lben', launchOf('lben', { principal: 'ben' })],
    ['lover', launchOf('lover', { expiresAt: Date.now() - 1 })],
    ['lrevoked', launchOf('lrevoked', { endedAt: Date.now(), endReason: 'revoked' })],
    ['lgone', launchOf('lgone', { resource: 'gone' })],
  ]);
  audits = [];
  ended = [];
  served = [];
  draining = false;
  resources = ['orders'];
  server = new TunnelServer({
    gateway: 'gw-1',
    principal: (token) =>
      token === 'anna' || token === 'ben' ? { name: token, roles: [], source: 'password' } : null,
    launch: (id) => launches.get(id) ?? null,
    endLaunch: (id, by) => void ended.push(`${id} by ${by}`),
    resource: (name) =>
      resources.includes(name)
        ? { type: 'mariadb', engine: 'mysql', database: 'orders', account: 'app_ro' }
        : null,
    serve: async (_launch, stream) => {
      stream.on('error', () => {});
      served.push(stream);
    },
    draining: () => draining,
    audit: (event) => void audits.push(event),
    metrics: new Metrics(),
    log: makeLog('json', 'silent'),
    now: Date.now,
  });
  http = createServer((_request, response) => response.end('plain'));
  server.attach(http);
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
});
afterEach(async () => {
  await server.close();
  http.close();
});

function link(
  launch: string,
  role: TunnelRole = 'control',
  token: string | null = 'anna',
): Promise<WebSocket> {
  const port = (http.address() as AddressInfo).port;
  return openLink(
    {
      gateway: new URL(`http://127.0.0.1:${port}`),
      dial: (url) => dial(url, { ca: null, environment: {} }),
      token: () => token,
      launch,
      cookies: new Cookies(),
    },
    role,
  );
}

async function hello(launch: string): Promise<{ socket: WebSocket; said: Record<string, unknown> }> {
  const socket = await link(launch);
  const first = once(socket, 'message');
  socket.resume();
  return { socket, said: JSON.parse(String((await first)[0])) as Record<string, unknown> };
}

async function refusal(...how: Parameters<typeof link>): Promise<{ status: number | null; code: string }> {
  const error = await link(...how).then(
    () => null,
    (failure: LinkError) => failure,
  );
  if (error === null) throw new Error('it was let in');
  return { status: error.status, code: error.code };
}

describe('who is let in', () => {
  test('the owner of a launch that lasts, who is told all about it', async () => {
    expect((await hello('l1')).said).toMatchObject({
      type: 'hello',
      gateway: 'gw-1',
      principal: 'anna',
      resource_type: 'mariadb',
      database: 'orders',
      account: 'app_ro',
      requires_token: false,
      read_only: false,
    });
    expect((await hello('l2')).said).toMatchObject({
      database: 'shop',
      requires_token: true,
      read_only: true,
    });
    expect(audits.map(({ action }) => action)).toEqual(['tunnel_opened', 'tunnel_opened']);
  });

  test.each([
    ['no login', 'l1', null, 401, 'login_required'],
    ['a login that is unknown', 'l1', 'nobody', 401, 'login_required'],
    ["somebody else's launch", 'lben', 'anna', 404, 'launch_unknown'],
    ['a launch that does not exist', 'l9', 'anna', 404, 'launch_unknown'],
    ['a launch whose time is up', 'lover', 'anna', 410, 'launch_ended'],
    ['a launch that was revoked', 'lrevoked', 'anna', 410, 'launch_ended'],
    ['a resource that is gone', 'lgone', 'anna', 410, 'resource_unknown'],
  ])('%s is refused', async (_what, launch, token, status, code) => {
    expect(await refusal(launch, 'connection', token)).toEqual({ status, code });
    expect(served).toEqual([]);
  });

  test('nobody while the gateway drains', async () => {
    draining = true;
    expect(await refusal('l1')).toEqual({ status: 503, code: 'draining' });
  });

  test('no page in a browser, though it had a login', async () => {
    const port = (http.address() as AddressInfo).port;
    const page = new WebSocket(`ws://127.0.0.1:${port}/tunnel?launch=l1&role=control`, SUBPROTOCOL, {
      origin: 'https://evil.example',
      headers: { authorization: 'Bearer anna' },
    });
    const [, response] = (await once(page, 'unexpected-response')) as [unknown, { statusCode: number }];
    expect(response.statusCode).toBe(403);
    page.on('error', () => {});
    page.terminate();
  });

  test('so many tunnels of one person, and then those of others still', async () => {
    const all = Array.from({ length: TUNNELS_PER_PRINCIPAL_MAX }, (_one, index) => `many${index}`);
    for (const id of all) launches.set(id, launchOf(id));
    for (const id of all) (await link(id)).resume();
    expect(await refusal('l1')).toEqual({ status: 429, code: 'rate_limited' });
    (await link('lben', 'control', 'ben')).resume();
    expect(audits.filter(({ action }) => action === 'tunnel_refused')).toMatchObject([
      { principal: 'anna', resource: 'orders', reason: 'rate_limited' },
    ]);
  });

  test('requests that would upgrade to something else are answered as they are', async () => {
    const port = (http.address() as AddressInfo).port;
    const request = get({ port, host: '127.0.0.1', headers: { connection: 'Upgrade', upgrade: 'h2c' } });
    const [answer] = (await once(request, 'response')) as [{ statusCode: number; resume(): void }];
    expect(answer.statusCode).toBe(200);
    answer.resume();
  });
});

describe('the control channel', () => {
  test('closing a tunnel ends its launch, losing it does not', async () => {
    const one = await hello('l1');
    one.socket.terminate();
    const two = await hello('l2');
    two.socket.send(JSON.stringify({ type: 'close' }));
    const closed = once(two.socket, 'close');
    await expect.poll(() => ended).toEqual(['l2 by anna']);
    server.launchEnded('l2', 'your launch has ended: its tunnel was closed');
    expect((await closed)[0]).toBe(CloseCode.launchEnded);
    await expect
      .poll(() => audits.filter(({ action }) => action === 'tunnel_closed').map(({ reason }) => reason))
      .toEqual(['connection lost', 'launch ended']);
  });

  test('a newer one takes the place of an older one', async () => {
    const old = await hello('l1');
    const closed = once(old.socket, 'close');
    const fresh = await hello('l1');
    expect((await closed)[0]).toBe(CloseCode.replaced);
    const heard = once(fresh.socket, 'message');
    server.drain();
    expect(JSON.parse(String((await heard)[0]))).toEqual({ type: 'draining' });
  });

  test('says what its person should know, and skips what it does not know', async () => {
    const { socket } = await hello('l1');
    for (const text of ['no JSON', '{"type":"news"}', '{"type":"local_refused","uid":"x","count":1}'])
      socket.send(text);
    socket.send(JSON.stringify({ type: 'local_refused', uid: 1001, count: 3 }));
    await expect
      .poll(() => audits.at(-1))
      .toMatchObject({
        action: 'tunnel_local_refused',
        principal: 'anna',
        detail: { launch: 'l1', uid: 1001, count: 3 },
      });
    expect(socket.readyState).toBe(socket.OPEN);
  });

  test('is closed when it floods, or sends bytes', async () => {
    const loud = await hello('l1');
    const closed = once(loud.socket, 'close');
    for (let count = 0; count < 200; count += 1) loud.socket.send('{"type":"news"}');
    expect((await closed)[0]).toBe(CloseCode.violation);
    const wrong = await hello('l2');
    const cut = once(wrong.socket, 'close');
    wrong.socket.send(Buffer.of(1, 2, 3));
    expect((await cut)[0]).toBe(CloseCode.violation);
  });
});

test('a gateway that stops closes everything, also what does not answer', async () => {
  const control = await link('l1');
  const connection = await link('l1', 'connection');
  const other = await link('l2');
  other.resume();
  const closed = once(other, 'close');
  expect(served).toHaveLength(1);
  await server.close();
  expect((await closed)[0]).toBe(CloseCode.restart);
  expect(await refusal('l1')).toEqual({ status: 503, code: 'draining' });
  control.terminate();
  connection.terminate();
});
