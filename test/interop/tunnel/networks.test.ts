import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type Authority, makeAuthority } from '../../support/certificates.ts';
import { makeLaptop, startBalancer, startLongWay, startProxy } from '../../support/networks.ts';
import { DEBIAN_BIN, type PostgresServer, startPostgres } from '../../support/postgres.ts';
import {
  type GatewayProcess,
  makePerson,
  PASSWORD,
  type Person,
  postgresResource,
  startGatewayProcess,
  type TunnelProcess,
} from '../../support/tunnel.ts';

/** What lies between a person and a gateway, and what goes wrong there. */

const PSQL = join(DEBIAN_BIN, 'psql');

let server: PostgresServer;
let authority: Authority;
let gateway: GatewayProcess;
let resources: string;
let environment: Record<string, string>;
const people: Person[] = [];
const open: TunnelProcess[] = [];

beforeAll(async () => {
  server = await startPostgres();
  authority = await makeAuthority('Company');
  resources = postgresResource('orders', server.port);
  environment = { TUNNEL_PASSWORD: server.accounts.launch.password ?? '' };
  gateway = await startGatewayProcess({
    resources,
    environment,
    tls: await authority.issue({ commonName: 'gateway', hosts: ['127.0.0.1', 'gateway.test'] }),
    ca: authority.cert,
  });
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((tunnel) => tunnel.stop()));
  for (const person of people.splice(0)) person.remove();
});
afterAll(async () => {
  await gateway?.close();
  await server?.stop();
});

async function person(options: Parameters<typeof makePerson>[1] = {}, of = gateway): Promise<Person> {
  const made = await makePerson(of, options);
  people.push(made);
  return made;
}

async function opened(
  anna: Person,
  variables: Record<string, string> = {},
  ...args: string[]
): Promise<TunnelProcess> {
  const tunnel = await anna.tunnel(['orders', ...args], { environment: variables });
  open.push(tunnel);
  return tunnel;
}

async function client(tunnel: { port: number }): Promise<pg.Client> {
  const made = new pg.Client({ host: '127.0.0.1', port: tunnel.port, user: 'me', database: 'appdb' });
  made.on('error', () => {});
  await made.connect();
  return made;
}

describe('TLS', () => {
  test('a gateway whose certificate is of another authority, or for another name, is sent nothing', async () => {
    const other = await makeAuthority('Somebody else');
    const stranger = await person({ ca: other.cert });
    const refused = await stranger.run(['tunnel', 'orders']);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain(`the certificate of 127.0.0.1:${gateway.port} is not trusted`);
    expect(refused.stderr).toContain('log in with --ca FILE');
    const misnamed = await person({ url: `https://localhost:${gateway.port}` });
    expect((await misnamed.run(['tunnel', 'orders'])).stderr).toMatch(
      /the certificate of localhost:\d+ is not trusted: .*altnames/,
    );
    const clear = await person({ url: `http://127.0.0.1:${gateway.port}` });
    expect((await clear.run(['tunnel', 'orders'])).code).toBe(1);
  });

  test('carries statements where the certificate is right', async () => {
    const done = await (await person()).run(['tunnel', 'orders', '--', PSQL, '-Atc', 'SELECT 2']);
    expect(done).toMatchObject({ code: 0, stdout: '2\n' });
  });
});

describe('a proxy', () => {
  const url = (): string => `https://gateway.test:${gateway.port}`;

  test('that the environment names carries the API and all connections, names looked up by it alone', async () => {
    const proxy = await startProxy({ login: 'anna:proxy secret' });
    const anna = await person({ url: url() });
    const variables = {
      HTTPS_PROXY: `http://anna:proxy%20secret@127.0.0.1:${proxy.port}`,
      NO_PROXY: 'db.test',
    };
    const tunnel = await opened(anna, variables);
    const one = await client(tunnel);
    expect((await one.query('SELECT 8 AS n')).rows).toEqual([{ n: 8 }]);
    expect(proxy.asked).toEqual(['gateway.test', 'gateway.test', 'gateway.test']);
    await one.end();
    const wrong = await anna.run(['tunnel', 'orders'], {
      environment: { HTTPS_PROXY: `http://127.0.0.1:${proxy.port}` },
    });
    expect(wrong.stderr).toContain(`the proxy 127.0.0.1:${proxy.port} asks for a login`);
    const direct = await anna.run(['tunnel', 'orders'], {
      environment: { ...variables, NO_PROXY: '.test' },
    });
    expect(direct.stderr).toContain(`gateway.test:${gateway.port} cannot be reached: there is no such host`);
    proxy.close();
  });

  test('a control channel that is lost comes back, and connections do not notice', async () => {
    const proxy = await startProxy();
    const anna = await person({ url: url() });
    const tunnel = await opened(anna, { https_proxy: `http://127.0.0.1:${proxy.port}` });
    const one = await client(tunnel);
    await one.query('BEGIN');
    const running = one.query("SELECT pg_sleep(2), 'undisturbed' AS said");
    // The call of the API is over, so that the first that is carried is the control channel.
    [...proxy.carried][0]!.destroy();
    await waitFor(async () => (await opens(tunnel.launch)) === 2);
    expect((await running).rows[0].said).toBe('undisturbed');
    const two = await client(tunnel);
    await two.end();
    await one.query('COMMIT');
    await one.end();
    // The new channel does what the old one did.
    await (await gateway.client()).delete(`/launches/${tunnel.launch}`);
    expect(await tunnel.exited).toBe(1);
    proxy.close();
  });
});

async function opens(launch: string): Promise<number> {
  const audits = await gateway.audits();
  return audits.filter(({ action, detail }) => action === 'tunnel_opened' && detail?.['launch'] === launch)
    .length;
}

describe('a gateway that dies', () => {
  test('by kill -9: tools hear an end at once, then why; the tunnel is back when the gateway is', async () => {
    const anna = await person();
    const tunnel = await opened(anna);
    const one = await client(tunnel);
    const ended = new Promise((resolve) => one.once('end', resolve));
    const running = one.query('SELECT pg_sleep(60)');
    running.catch(() => {});
    await gateway.kill('SIGKILL');
    await Promise.race([ended, late(5_000)]);
    await expect(running).rejects.toThrow();
    await expect(client(tunnel)).rejects.toThrow(/cannot be reached: nothing listens there/);
    await tunnel.says(/trying to come back/);
    await gateway.restart();
    await tunnel.says(/the gateway is back/, 30_000);
    const two = await client(tunnel);
    expect((await two.query('SELECT 9 AS n')).rows).toEqual([{ n: 9 }]);
    await two.end();
  });

  test('that shuts down says so first, in the words of the protocol', async () => {
    const anna = await person();
    const tunnel = await opened(anna);
    const one = await client(tunnel);
    const heard = once(one, 'error');
    await gateway.kill('SIGTERM');
    expect(((await heard) as [Error])[0].message).toContain('the gateway is shutting down');
    await tunnel.says(/the gateway is shutting down; sessions will be ended/);
    await gateway.restart();
    await waitFor(async () =>
      client(tunnel).then(
        async (two) => {
          await two.end();
          return true;
        },
        () => false,
      ),
    );
  });
});

describe('several gateways behind one address', () => {
  test('work where the balancer keeps a person on one, and say what is wrong where it does not', async () => {
    const gateways = [
      await startGatewayProcess({ name: 'gw-a', resources, environment }),
      await startGatewayProcess({ name: 'gw-b', resources, environment }),
    ];
    const balancer = await startBalancer(gateways.map(({ port }) => port));
    const address = `http://127.0.0.1:${balancer.port}`;
    const anna = await person({ url: address }, gateways[0]);
    const login = await anna.run(['login', address, '--user', 'anna', '--password-stdin'], {
      input: `${PASSWORD}\n`,
    });
    expect(login).toMatchObject({ code: 0, stdout: expect.stringContaining('Logged in as anna') });
    for (let round = 0; round < 3; round += 1) {
      const done = await anna.run(['tunnel', 'orders', '--', PSQL, '-Atc', 'SELECT 4']);
      expect(done).toMatchObject({ code: 0, stdout: '4\n' });
    }
    expect(Math.min(...balancer.counts)).toBe(0);
    // The same without the cookie: the turn is now the other gateway's.
    const file = join(anna.home, 'credentials.json');
    const { cookies, ...saved } = JSON.parse(readFileSync(file, 'utf8')) as Record<string, string>;
    expect(cookies).toMatch(/^route=\d$/);
    writeFileSync(file, JSON.stringify(saved));
    const astray = await anna.run(['tunnel', 'orders']);
    expect(astray).toMatchObject({ code: 1, stderr: expect.stringContaining('Log in again') });
    balancer.close();
    for (const one of gateways) await one.close();
  });
});

describe('another network', () => {
  const laptop = makeLaptop();
  afterAll(() => laptop?.remove());

  test.skipIf(laptop === null)(
    'a long way off, on a machine that reaches nothing but the gateway',
    async () => {
      const { host, through, impaired } = laptop!;
      const remote = await startGatewayProcess({
        resources,
        environment,
        host,
        tls: await authority.issue({ commonName: 'gateway', hosts: [host] }),
        ca: authority.cert,
      });
      const way = impaired ? null : await startLongWay(remote.port, 30, host, host);
      const anna = await person({ url: `https://${host}:${way?.port ?? remote.port}` }, remote);
      const direct = spawnSync(through[0]!, [
        ...through.slice(1),
        PSQL,
        '-h',
        '127.0.0.1',
        '-p',
        String(server.port),
      ]);
      expect(String(direct.stderr)).toContain('Connection refused');
      const script = `SELECT sum(length(repeat('x', 10000))) FROM generate_series(1, 100); SELECT repeat('y', 1000000);`;
      const done = await anna.run(['connect', 'orders', '--', '-Atc', script], { through });
      expect(done).toMatchObject({ code: 0 });
      expect(done.stdout).toMatch(/^1000000\ny{1000000}\n$/);
      // Connections that are opened together wait together: ten take about as long as one.
      const many = `for i in 1 2 3 4 5 6 7 8 9 10; do ${PSQL} -Atc 'SELECT pg_sleep(0.2)' & done; wait; echo done`;
      const began = Date.now();
      const ten = await anna.run(['tunnel', 'orders', '--', 'sh', '-c', many], { through });
      expect(ten.stdout).toContain('done');
      expect(Date.now() - began).toBeLessThan(30_000);
      way?.close();
      await remote.close();
    },
  );
});

async function waitFor(condition: () => Promise<boolean>, withinMs = 30_000): Promise<void> {
  const end = Date.now() + withinMs;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error('it did not come to be');
    await sleep(100);
  }
}

async function late(ms: number): Promise<never> {
  await sleep(ms, undefined, { ref: false });
  throw new Error(`nothing happened within ${ms} ms`);
}
