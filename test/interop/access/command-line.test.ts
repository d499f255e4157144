import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { verifyPassword } from '../../../src/access/passwords.ts';
import { readJournal } from '../../support/access.ts';
import { Daemon, type Ran, runSallyport } from '../../support/daemon.ts';
import { freePort, type PostgresServer, startPostgres } from '../../support/postgres.ts';

/** The commands as people type them, and the daemon as it runs: configuration by file, changed by SIGHUP. */

const PASSWORD = 'canary-typed-password';
let server: PostgresServer;
let daemon: Daemon;
let home: string;
let port: number;
let httpPort: number;
let gateway: string;
let config: Record<string, unknown>;

const run = (args: readonly string[], input = ''): Promise<Ran> =>
  runSallyport(args, { env: { SALLYPORT_HOME: home }, input });

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'sallyport-home-'));
  server = await startPostgres();
  [port, httpPort] = [await freePort(), await freePort()];
  gateway = `http://127.0.0.1:${httpPort}`;
  daemon = new Daemon({ COMMAND_LINE_PASSWORD: server.accounts.launch.password ?? '' });
  const added = await run(
    ['users', 'add', 'anna', '--role', 'developer', '--role', 'admin', '--password-stdin'],
    `${PASSWORD}\n`,
  );
  expect(added.code).toBe(0);
  const resource = {
    type: 'postgres',
    host: '127.0.0.1',
    port: server.port,
    database: 'appdb',
    tls: { mode: 'disable' },
    launch_credentials: { username: server.accounts.launch.user, password: 'env:COMMAND_LINE_PASSWORD' },
  };
  config = {
    gateway: { data_dir: './data', shutdown_grace: '1s' },
    http: { listen: `127.0.0.1:${httpPort}` },
    recording: { store: { type: 'directory', path: './recordings' } },
    secrets: { env: { type: 'env' } },
    resources: { orders: resource, stock: resource },
    users: parse(added.stdout),
    api: { admins: { roles: ['admin'] } },
    rules: [{ name: 'orders', roles: ['developer'], resources: ['orders'] }],
    listeners: [{ listen: `127.0.0.1:${port}`, resources: ['orders', 'stock'], client_auth: 'token' }],
  };
  daemon.configure(stringify(config));
  await daemon.start();
});
afterAll(async () => {
  await daemon?.remove();
  await server?.stop();
  rmSync(home, { recursive: true, force: true });
});

async function connect(user: string, password: string): Promise<pg.Client> {
  const client = new pg.Client({ host: '127.0.0.1', port, user, password, database: 'appdb' });
  client.on('error', () => {});
  await client.connect();
  return client;
}

async function reload(rules: unknown): Promise<void> {
  const before = daemon.output.split('configuration read again').length;
  daemon.configure(stringify({ ...config, rules }));
  daemon.signal('SIGHUP');
  await daemon.until(() => daemon.output.split('configuration read again').length > before);
}

describe('before a login', () => {
  test('commands say what to do first', async () => {
    for (const args of [
      ['tokens', 'list'],
      ['tokens', 'issue', 'orders'],
      ['access', 'explain', 'anna', 'orders'],
    ]) {
      const answer = await run(args);
      expect(answer.code).toBe(1);
      expect(answer.stderr).toContain('log in first: sallyport login');
    }
  });

  test('a gateway that is down, and an address that is none', async () => {
    const down = await run(
      ['login', `http://127.0.0.1:${await freePort()}`, '--user', 'anna', '--password-stdin'],
      'x\n',
    );
    expect(down.code).not.toBe(0);
    expect(down.stderr).toMatch(/127\.0\.0\.1:\d+/);
    expect(down.stderr).not.toMatch(/^\s+at /m);
    const none = await run(['login', 'gateway', '--user', 'anna', '--password-stdin'], 'x\n');
    expect(none.code).not.toBe(0);
    expect(none.stderr).toContain('https://');
    const other = await run(
      ['login', `http://127.0.0.1:${server.port}`, '--user', 'anna', '--password-stdin'],
      'x\n',
    );
    expect(other.code).not.toBe(0);
    expect(other.stderr).not.toMatch(/^\s+at /m);
  });

  test('a short password is refused, and the hash is of the right one', async () => {
    expect(await run(['users', 'add', 'ben', '--password-stdin'], 'short\n')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('at least 10 characters'),
    });
    const { anna } = config['users'] as { anna: { password: string; roles: string[] } };
    expect(anna.roles).toEqual(['developer', 'admin']);
    expect(await verifyPassword(PASSWORD, anna.password)).toBe(true);
  });
});

test('login, tokens, sessions, logout', async () => {
  const wrong = await run(['login', gateway, '--user', 'anna', '--password-stdin'], 'wrong-password\n');
  expect(wrong).toMatchObject({ code: 1, stderr: expect.stringContaining('wrong user name or password') });
  const login = await run(['login', `${gateway}/`, '--user', 'anna', '--password-stdin'], `${PASSWORD}\n`);
  expect(login).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('Logged in as anna (developer, admin)'),
  });
  const saved = join(home, 'credentials.json');
  expect(statSync(saved).mode & 0o777).toBe(0o600);
  expect(readFileSync(saved, 'utf8')).not.toContain(PASSWORD);

  const issued = await run(['tokens', 'issue', 'orders', '--ttl', '10m', '--reason', 'ticket 9', '--json']);
  const { id, token } = JSON.parse(issued.stdout) as { id: string; token: string };
  const client = await connect(id, token);
  expect((await run(['tokens', 'list'])).stdout).toMatch(new RegExp(`${id}\\s+anna\\s+orders`));
  expect((await run(['tokens', 'issue', 'orders', '--ttl', 'soon'])).stderr).toContain(
    'write a whole number and a unit',
  );
  expect(await run(['tokens', 'issue', 'stock'])).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('no rule lets anna use stock'),
  });

  const listed = await run(['sessions', 'list', '--config', daemon.configPath, '--json']);
  const session = JSON.parse(listed.stdout.trim().split('\n')[0]!) as { id: string; principal: string };
  expect(session.principal).toBe('anna');
  const ended = new Promise<Error>((resolve) => client.once('error', resolve));
  expect(await run(['sessions', 'kill', session.id, '--reason', 'too long'])).toMatchObject({ code: 0 });
  expect((await ended).message).toContain('ended by anna: too long');
  expect((await run(['sessions', 'kill', session.id])).code).toBe(1);

  expect(await run(['tokens', 'revoke', id])).toMatchObject({ code: 0, stdout: `${id} has ended.\n` });
  expect(await run(['tokens', 'revoke', id])).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('ended already'),
  });
  await expect(connect(id, token)).rejects.toThrow('launch token is wrong');

  expect(await run(['access', 'explain', 'anna', 'orders'])).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('Yes, by the rule "orders"'),
  });
  expect(await run(['access', 'explain', 'anna', 'stock'])).toMatchObject({
    code: 1,
    stdout: expect.stringContaining('orders: it is not for stock'),
  });
  const asOperator = await run(['access', 'explain', 'nobody', 'orders', '--config', daemon.configPath]);
  expect(asOperator).toMatchObject({ code: 1, stdout: expect.stringContaining('it is not for nobody') });

  expect((await run(['logout'])).code).toBe(0);
  expect((await run(['tokens', 'list'])).stderr).toContain('log in first');
  expect(daemon.output).not.toContain(token);
  expect(daemon.output).not.toContain(PASSWORD);
});

test('SIGHUP changes the rules for connections from then on', async () => {
  await run(['login', gateway, '--user', 'anna', '--password-stdin'], `${PASSWORD}\n`);
  const { id, token } = JSON.parse((await run(['tokens', 'issue', 'orders', '--json'])).stdout);
  const running = await connect(id, token);
  const attempt = () =>
    connect(id, token).then(
      (client) => client.end().then(() => 'in'),
      (error: Error) => error.message,
    );
  expect(await attempt()).toBe('in');
  const rule = { name: 'orders', roles: ['developer'], resources: ['orders'] };
  const today = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
  const others = today.filter(
    (_, index) => index !== new Date().getUTCDay() && index !== (new Date().getUTCDay() + 1) % 7,
  );
  for (const narrowed of [
    { networks: ['10.0.0.0/8'] },
    { days: others },
    { users: ['ben'], roles: ['nobody'] },
    { labels: { env: 'prod' } },
  ]) {
    await reload([{ ...rule, ...narrowed }]);
    expect(await attempt(), JSON.stringify(narrowed)).toContain('no rule lets anna use orders now');
  }
  await reload([{ ...rule, databases: ['other'] }]);
  expect(await attempt()).not.toBe('in');
  await reload([{ ...rule, networks: ['127.0.0.0/8'], read_only: true }]);
  const reader = await connect(id, token);
  await expect(reader.query('CREATE TABLE never (id int)')).rejects.toThrow(/read-only/);
  await reader.end();
  expect((await running.query('SELECT 1')).rowCount).toBe(1);
  await running.end();
  daemon.configure('rules: [');
  daemon.signal('SIGHUP');
  await daemon.until(() => daemon.output.includes('the former one stays in force'));
  const events = await readJournal(join(daemon.folder, 'data'));
  const actions = events.flatMap((event) => (event.type === 'audit' ? [event.action] : []));
  for (const action of [
    'gateway_started',
    'login',
    'login_refused',
    'logout',
    'launch_started',
    'launch_refused',
    'launch_ended',
    'session_killed',
    'session_refused',
    'configuration_reloaded',
    'configuration_refused',
    'api_call',
  ])
    expect(actions).toContain(action);
  expect(JSON.stringify(events)).not.toContain(token);
});
