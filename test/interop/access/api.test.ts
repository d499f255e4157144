import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openApiDocument } from '../../../src/http/openapi.ts';
import { type AccessApp, eventually, startAccessApp, USER_PASSWORD } from '../../support/access.ts';
import { freePort, type PostgresServer, startPostgres } from '../../support/postgres.ts';

/** Every route of the API over real HTTP: with and without a login, and as each kind of caller. */

let server: PostgresServer;
let gateway: AccessApp;
let port: number;
let operator: string;

beforeAll(async () => {
  server = await startPostgres();
  port = await freePort();
  process.env['ACCESS_API_PASSWORD'] = server.accounts.launch.password ?? '';
  const resource = {
    type: 'postgres',
    host: '127.0.0.1',
    port: server.port,
    database: 'appdb',
    tls: { mode: 'disable' },
    launch_credentials: { username: server.accounts.launch.user, password: 'env:ACCESS_API_PASSWORD' },
  };
  gateway = await startAccessApp({
    resources: { orders: { ...resource, labels: { env: 'prod' } }, hidden: resource },
    listeners: [{ listen: `127.0.0.1:${port}`, resources: ['orders', 'hidden'], client_auth: 'token' }],
    rules: [{ name: 'orders', roles: ['developer', 'analyst'], resources: ['orders'] }],
  });
  operator = readFileSync(join(gateway.dataDirectory, 'operator.token'), 'utf8');
});
afterAll(async () => {
  await gateway?.close();
  await server?.stop();
});

async function connected(user: string): Promise<pg.Client> {
  const { id, token } = await gateway.issue(user, 'orders');
  const client = new pg.Client({ host: '127.0.0.1', port, user: id, password: token, database: 'appdb' });
  client.on('error', () => {});
  await client.connect();
  return client;
}

async function sessionOf(user: string): Promise<string> {
  const sessions = (await gateway.call('GET', '/api/v1/sessions', { token: await gateway.login(user) })).json;
  return sessions.find((one: { principal: string }) => one.principal === user).id;
}

describe('the document', () => {
  test('is committed, and served as it is', async () => {
    const committed = readFileSync(join(import.meta.dirname, '../../../docs/openapi.json'), 'utf8');
    expect(JSON.parse(committed), 'run: npm run openapi').toEqual(JSON.parse(await openApiDocument()));
    expect((await gateway.call('GET', '/api/v1/openapi.json')).json).toEqual(JSON.parse(committed));
  });

  test('names for every route whether it needs a login, and that is so', async () => {
    const { paths } = JSON.parse(await openApiDocument()) as {
      paths: Record<string, Record<string, { security: unknown[]; summary: string }>>;
    };
    let routes = 0;
    for (const [path, methods] of Object.entries(paths)) {
      for (const [method, { security, summary }] of Object.entries(methods)) {
        routes += 1;
        expect(summary, path).not.toBe('');
        const route = path.replace(/\{[^}]+\}/g, 'x');
        const { status, headers } = await gateway.call(method.toUpperCase(), route);
        if (security.length > 0) {
          expect([method, path, status]).toEqual([method, path, 401]);
          expect(headers.get('www-authenticate')).toBe('Bearer');
          const wrong = await gateway.call(method.toUpperCase(), route, { token: 'sll_wrong' });
          expect([method, path, wrong.status]).toEqual([method, path, 401]);
        } else expect([method, path, status]).not.toEqual([method, path, 401]);
      }
    }
    expect(routes).toBeGreaterThanOrEqual(17);
  });

  test('no route answers other origins', async () => {
    for (const method of ['OPTIONS', 'GET'])
      for (const path of ['/api/v1/me', '/api/v1/login', '/api/v1/openapi.json']) {
        const { headers } = await gateway.call(method, path, {
          headers: { origin: 'https://evil.example', 'access-control-request-method': 'GET' },
        });
        expect([...headers.keys()].filter((name) => name.startsWith('access-control-'))).toEqual([]);
        expect(headers.get('cache-control')).toBe('no-store');
      }
  });
});

describe('what each may', () => {
  test('who one is', async () => {
    const me = async (user: string) =>
      (await gateway.call('GET', '/api/v1/me', { token: await gateway.login(user) })).json;
    expect(await me('anna')).toEqual({
      principal: 'anna',
      roles: ['developer'],
      source: 'password',
      admin: false,
      reviewer: false,
    });
    expect(await me('rita')).toMatchObject({ admin: false, reviewer: true });
    expect(await me('adam')).toMatchObject({ admin: true, reviewer: true });
    expect((await gateway.call('GET', '/api/v1/me', { token: operator })).json).toMatchObject({
      principal: 'operator',
      source: 'operator',
      admin: true,
    });
  });

  test('resources: those that a rule gives, all for admins', async () => {
    const names = async (token: string) =>
      (await gateway.call('GET', '/api/v1/resources', { token })).json.map(
        (one: { name: string }) => one.name,
      );
    expect(await names(await gateway.login('anna'))).toEqual(['orders']);
    expect(await names(await gateway.login('rita'))).toEqual([]);
    expect(await names(await gateway.login('adam'))).toEqual(['orders', 'hidden']);
    expect(await names(operator)).toEqual(['orders', 'hidden']);
  });

  test("launches: one's own, everybody's for reviewers, ended by their owner or an admin", async () => {
    const mine = await gateway.issue('anna', 'orders', { reason: 'ticket 7' });
    const list = async (user: string, query = '') =>
      gateway.call('GET', `/api/v1/launches${query}`, { token: await gateway.login(user) });
    expect((await list('ben')).json).toEqual([]);
    expect(await list('ben', '?all=true')).toMatchObject({ status: 403 });
    const seen = (await list('rita', '?all=true')).json;
    expect(seen).toContainEqual(
      expect.objectContaining({ id: mine.id, principal: 'anna', reason: 'ticket 7' }),
    );
    expect(JSON.stringify(seen)).not.toContain(mine.token);
    for (const user of ['ben', 'rita'])
      expect(
        await gateway.call('DELETE', `/api/v1/launches/${mine.id}`, { token: await gateway.login(user) }),
      ).toMatchObject({ status: 404 });
    expect(
      await gateway.call('DELETE', `/api/v1/launches/${mine.id}`, { token: await gateway.login('anna') }),
    ).toMatchObject({ status: 204 });
    expect(
      await gateway.call('DELETE', `/api/v1/launches/${mine.id}`, { token: await gateway.login('anna') }),
    ).toMatchObject({ status: 409 });
    expect((await list('anna', '?ended=true')).json).toContainEqual(
      expect.objectContaining({ id: mine.id, end_reason: 'checked_in' }),
    );
  });

  test('only the operator makes a launch for somebody else', async () => {
    const body = { resource: 'orders', principal: 'ben' };
    expect(
      await gateway.call('POST', '/api/v1/launches', { token: await gateway.login('adam'), body }),
    ).toMatchObject({ status: 403 });
    expect(await gateway.call('POST', '/api/v1/launches', { token: operator, body })).toMatchObject({
      status: 200,
      json: { principal: 'ben', rule: 'orders' },
    });
    expect(
      await gateway.call('POST', '/api/v1/launches', {
        token: operator,
        body: { resource: 'hidden', principal: 'ben' },
      }),
    ).toMatchObject({ status: 403 });
  });

  test('explanations: of oneself, of others for admins, of nothing that is not there', async () => {
    const ask = async (user: string, query: string) =>
      gateway.call('GET', `/api/v1/access/explain?${query}`, { token: await gateway.login(user) });
    expect((await ask('anna', 'resource=orders')).json).toMatchObject({ allowed: true, rule: 'orders' });
    expect((await ask('anna', 'resource=hidden')).json).toMatchObject({
      allowed: false,
      reasons: [{ rule: 'orders', why: 'it is not for hidden' }],
    });
    expect(await ask('anna', 'resource=orders&principal=ben')).toMatchObject({ status: 403 });
    expect((await ask('adam', 'resource=orders&principal=ben')).json).toMatchObject({ allowed: true });
    expect(await ask('adam', 'resource=nowhere')).toMatchObject({ status: 403 });
    expect(await ask('anna', 'resource=orders&at=yesterday')).toMatchObject({ status: 400 });
  });

  test('sessions: seen by their owner and reviewers, ended by their owner and admins', async () => {
    const client = await connected('anna');
    const ended = new Promise<{ message: string }>((resolve) => client.once('error', resolve));
    const id = await sessionOf('anna');
    const as = async (user: string, method: string, path = '') =>
      gateway.call(method, `/api/v1/sessions/${id}${path}`, { token: await gateway.login(user) });
    expect((await as('ben', 'GET')).status).toBe(404);
    expect((await as('rita', 'GET')).json).toMatchObject({
      principal: 'anna',
      resource: 'orders',
      busy: false,
    });
    expect((await as('ben', 'DELETE')).status).toBe(404);
    expect((await as('rita', 'DELETE')).status).toBe(403);
    expect((await as('adam', 'DELETE', '?reason=a%0Ab')).status).toBe(400);
    expect((await as('adam', 'DELETE', '?reason=maintenance')).status).toBe(204);
    expect((await ended).message).toContain('the session was ended by adam: maintenance');
    await eventually(async () => (await as('adam', 'GET')).status === 404);
    expect((await gateway.audits('session_killed')).at(-1)).toMatchObject({
      principal: 'adam',
      reason: 'maintenance',
      client_address: '127.0.0.1',
      detail: { session: id, of: 'anna' },
    });
  });

  test('live statements come as events, masked, and the stream ends with the session', async () => {
    const client = await connected('anna');
    const id = await sessionOf('anna');
    const stream = await fetch(`${gateway.url}/api/v1/sessions/${id}/events`, {
      headers: { authorization: `Bearer ${await gateway.login('rita')}` },
    });
    expect(stream.headers.get('content-type')).toBe('text/event-stream');
    expect(
      (await gateway.call('GET', `/api/v1/sessions/${id}/events`, { token: await gateway.login('ben') }))
        .status,
    ).toBe(404);
    let text = '';
    const reading = (async () => {
      for await (const chunk of stream.body!) text += Buffer.from(chunk).toString('utf8');
    })();
    await eventually(() => text.includes('event: session'));
    await client.query('SELECT 42 AS answer');
    await client.query("CREATE ROLE nobody PASSWORD 'canary-in-a-statement'").catch(() => {});
    await client.end();
    await reading;
    expect(text).toContain('event: began');
    expect(text).toContain('SELECT 42 AS answer');
    expect(text).toContain('event: ended');
    expect(text.trimEnd().endsWith('event: closed\ndata: {}')).toBe(true);
    expect(text).toContain("PASSWORD '***'");
    expect(text).not.toContain('canary-in-a-statement');
  });

  test('keys that recordings are checked by', async () => {
    const { json } = await gateway.call('GET', '/api/v1/keys', { token: await gateway.login('anna') });
    expect(Object.values(json)[0]).toContain('BEGIN PUBLIC KEY');
  });
});

describe('wrong input', () => {
  test.each<[string, unknown]>([
    ['no body', undefined],
    ['no JSON', '{"resource":'],
    ['no resource', {}],
    ['a resource that is none', { resource: 7 }],
    ['a negative time', { resource: 'orders', ttl_seconds: -1 }],
    ['half a second', { resource: 'orders', ttl_seconds: 0.5 }],
    ['a line break in the reason', { resource: 'orders', reason: 'a\nb' }],
    ['a long reason', { resource: 'orders', reason: 'x'.repeat(1001) }],
    ['an array', []],
  ])('%s', async (_name, body) => {
    const answer = await gateway.call('POST', '/api/v1/launches', {
      token: await gateway.login('anna'),
      body,
    });
    expect(answer.status).toBe(400);
    expect(answer.json).toMatchObject({ error: 'bad_request' });
  });

  test('names that objects have of themselves are no resources and no users', async () => {
    for (const resource of ['__proto__', 'constructor', 'toString'])
      expect(
        await gateway.call('POST', '/api/v1/launches', {
          token: await gateway.login('anna'),
          body: { resource },
        }),
      ).toMatchObject({ status: 403 });
    expect(
      await gateway.call('POST', '/api/v1/login', { body: { user: 'constructor', password: 'x' } }),
    ).toMatchObject({ status: 401 });
  });

  test('a body that is too large, and one of another kind', async () => {
    const token = await gateway.login('anna');
    const large = await gateway.call('POST', '/api/v1/launches', {
      token,
      body: { resource: 'x'.repeat(300_000) },
    });
    expect(large.status).toBe(413);
    const form = await gateway.call('POST', '/api/v1/launches', {
      token,
      body: 'resource=orders',
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
    });
    expect(form.status).toBe(415);
  });
});

describe('logins', () => {
  test('a login is on record, ends at logout, and with the password', async () => {
    const login = async () =>
      (await gateway.call('POST', '/api/v1/login', { body: { user: 'ben', password: USER_PASSWORD } })).json
        .token as string;
    const me = (token: string) => gateway.call('GET', '/api/v1/me', { token });
    const token = await login();
    expect((await me(token)).status).toBe(200);
    expect((await gateway.audits('login')).at(-1)).toMatchObject({
      principal: 'ben',
      client_address: '127.0.0.1',
      reason: 'password',
    });
    expect((await gateway.call('POST', '/api/v1/logout', { token })).status).toBe(204);
    expect((await me(token)).status).toBe(401);
    expect((await gateway.audits('logout')).at(-1)).toMatchObject({ principal: 'ben' });
    const second = await login();
    const { hashPassword } = await import('../../../src/access/passwords.ts');
    const launch = await gateway.issue('ben', 'orders');
    const users = { ben: { password: await hashPassword('another password'), roles: [] } };
    await gateway.reload({ users: { ...gateway.app.access.config.users, ...users } });
    expect((await me(second)).status).toBe(401);
    // The role is gone with the reload, and with it the launch's use.
    const client = new pg.Client({
      host: '127.0.0.1',
      port,
      user: launch.id,
      password: launch.token,
      database: 'appdb',
    });
    client.on('error', () => {});
    await expect(client.connect()).rejects.toThrow('no rule lets ben use orders');
    expect((await gateway.audits('configuration_reloaded')).at(-1)).toMatchObject({
      reason: 'SIGHUP',
      detail: { changed: 'users' },
    });
    await gateway.reload({});
  });

  test('every call is on record with who, from where and what came of it', async () => {
    await gateway.call('GET', '/api/v1/resources', { token: await gateway.login('anna') });
    expect((await gateway.audits('api_call')).at(-1)).toMatchObject({
      principal: 'anna',
      client_address: '127.0.0.1',
      detail: { method: 'GET', route: '/api/v1/resources', status: 200 },
    });
  });

  test('many wrong passwords at once are counted before any is found wrong', async () => {
    const attempt = (user: string, password: string) =>
      gateway.call('POST', '/api/v1/login', { body: { user, password } });
    const known = await attempt('anna', 'wrong');
    const unknown = await attempt('nobody', 'wrong');
    expect(unknown).toMatchObject({ status: 401, text: known.text });
    const answers = await Promise.all(Array.from({ length: 30 }, (_, n) => attempt('anna', `guess ${n}`)));
    const statuses = answers.map(({ status }) => status);
    expect(statuses.filter((status) => status === 401).length).toBeLessThanOrEqual(10);
    expect(statuses.filter((status) => status === 429).length).toBeGreaterThanOrEqual(20);
    expect((await gateway.audits('guessing_limited')).length).toBeGreaterThanOrEqual(1);
    expect((await attempt('anna', USER_PASSWORD)).status).toBe(429);
  });

  test('strangers who go on and on are told to wait, and leave off filling the journal', async () => {
    const answers = await Promise.all(Array.from({ length: 100 }, () => gateway.call('GET', '/api/v1/me')));
    expect(answers.filter(({ status }) => status === 429).length).toBeGreaterThanOrEqual(40);
    expect((await gateway.call('GET', '/api/v1/me', { token: await gateway.login('anna') })).status).toBe(
      200,
    );
  });
});
