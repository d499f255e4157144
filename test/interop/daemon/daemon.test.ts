import { spawn } from 'node:child_process';
import { statSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { freePort } from '../../../bench/lib/process.ts';
import { ExitCode } from '../../../src/cli/exit-codes.ts';
import { Daemon, runSallyport } from '../../support/daemon.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';

let server: PostgresServer;
let daemon: Daemon;
let port: number;
let httpPort: number;

beforeAll(async () => {
  server = await startPostgres();
});
afterAll(() => server.stop());
beforeEach(async () => {
  daemon = new Daemon({ ORDERS_PASSWORD: server.accounts.launch.password! });
  port = await freePort();
  httpPort = await freePort();
});
afterEach(() => daemon.remove());

function config(
  changes: { grace?: string; limits?: string; listeners?: string; extra?: string } = {},
): string {
  return `
gateway: { name: test, data_dir: ./data, shutdown_grace: ${changes.grace ?? '20s'} }
http: { listen: "127.0.0.1:${httpPort}" }
secrets: { env: { type: env } }
resources:
  orders:
    type: postgres
    host: 127.0.0.1
    port: ${server.port}
    database: ${server.database}
    tls: { mode: disable }
    launch_credentials: { username: ${server.accounts.launch.user}, password: "env:ORDERS_PASSWORD" }
    limits: { ${changes.limits ?? ''} }
listeners:
${changes.listeners ?? `  - { listen: "127.0.0.1:${port}", resource: orders, client_auth: trust }`}
${changes.extra ?? ''}`;
}

function client(to = port): pg.Client {
  const made = new pg.Client({ host: '127.0.0.1', port: to, user: 'anybody', database: server.database });
  made.on('error', () => {});
  return made;
}

async function get(path: string): Promise<{ status: number; text: string }> {
  const response = await fetch(`http://127.0.0.1:${httpPort}${path}`);
  return { status: response.status, text: await response.text() };
}

describe('SIGTERM', () => {
  test('lets a running statement finish, and takes nobody new', async () => {
    daemon.configure(config());
    await daemon.start();
    const [busy, quiet] = [client(), client()];
    await busy.connect();
    await quiet.connect();
    const ended = new Promise<Error>((resolve) => quiet.once('error', resolve));
    const running = busy.query("select pg_sleep(1.5), 'done' as outcome");
    await daemon.until(() => (daemon.output.match(/session opened/g) ?? []).length === 2);
    daemon.signal('SIGTERM');
    // A session that does nothing hears at once, in PostgreSQL's own words, that it is over.
    expect(await ended).toMatchObject({ code: '57P01' });
    await expect(client().connect()).rejects.toThrow();
    expect((await running).rows[0]).toMatchObject({ outcome: 'done' });
    expect(await daemon.ended()).toBe(ExitCode.ok);
  });

  test('cuts what runs longer than the grace, on the server as well', async () => {
    daemon.configure(config({ grace: '300ms' }));
    await daemon.start();
    const busy = client();
    await busy.connect();
    const running = busy.query("select pg_sleep(60), 'never'");
    const failed = expect(running).rejects.toMatchObject({ code: '57P01' });
    await daemon.until(() => daemon.output.includes('session opened'));
    daemon.signal('SIGTERM');
    await failed;
    expect(await daemon.ended()).toBe(ExitCode.ok);
    const left = await server.query(
      "select 1 from pg_stat_activity where query like '%never%' and pid <> pg_backend_pid()",
    );
    expect(left).toEqual([]);
  });
});

describe('SIGHUP', () => {
  test('takes a new configuration, and leaves running sessions alone', async () => {
    daemon.configure(config());
    await daemon.start();
    const running = client();
    await running.connect();
    const second = await freePort();
    daemon.configure(
      config({
        limits: 'max_connections: 1',
        listeners: `  - { listen: "127.0.0.1:${second}", resource: orders, client_auth: trust }`,
      }),
    );
    daemon.signal('SIGHUP');
    await daemon.until(() => daemon.output.includes('configuration read again'));
    expect((await running.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    await expect(client().connect()).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    // The running session counts against the new limit.
    await expect(client(second).connect()).rejects.toMatchObject({ code: '53300' });
    await running.end();
  });

  test('keeps the former configuration when the new one has faults', async () => {
    daemon.configure(config());
    await daemon.start();
    daemon.configure(config({ limits: 'max_conections: 1' }));
    daemon.signal('SIGHUP');
    await daemon.until(() => daemon.output.includes('was not taken'));
    expect(daemon.output).toContain('max_connections');
    const still = client();
    await still.connect();
    await still.end();
  });
});

describe('what keeps it from starting', () => {
  test('a configuration with faults: every one of them, with its line', async () => {
    daemon.configure(config({ limits: 'max_conections: 1', extra: 'colour: red' }));
    const { code, stderr } = await runSallyport(['start', '--config', daemon.configPath]);
    expect(code).toBe(ExitCode.usage);
    expect(stderr).toMatch(/config\.yaml:\d+:\d+: .*max_conections.*max_connections/);
    expect(stderr).toMatch(/colour/);
  });

  test('an address that is taken', async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(port, '127.0.0.1', resolve));
    daemon.configure(config());
    const { code, stdout } = await runSallyport(['start', '--config', daemon.configPath], {
      env: { ORDERS_PASSWORD: 'x' },
    });
    other.close();
    expect(code).toBe(ExitCode.startFailed);
    expect(stdout).toContain('another process listens there');
  });

  test('a data directory that another gateway uses', async () => {
    daemon.configure(config());
    await daemon.start();
    const { code, stdout } = await runSallyport(['start', '--config', daemon.configPath], {
      env: { ORDERS_PASSWORD: 'x' },
    });
    expect(code).toBe(ExitCode.startFailed);
    expect(stdout).toContain('could not start');
  });

  test('a command that does not exist', async () => {
    const { code, stderr } = await runSallyport(['strat']);
    expect(code).toBe(ExitCode.usage);
    expect(stderr).toContain('start');
  });
});

test('a Unix socket is its owner’s alone, and works', async () => {
  const path = join(daemon.folder, '.s.PGSQL.5432');
  daemon.configure(
    config({ listeners: `  - { listen: "unix:${path}", resource: orders, client_auth: trust }` }),
  );
  await daemon.start();
  expect(statSync(path).mode & 0o777).toBe(0o600);
  const local = new pg.Client({
    host: daemon.folder,
    port: 5432,
    user: 'anybody',
    database: server.database,
  });
  await local.connect();
  expect((await local.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  await local.end();
});

describe('health and metrics', () => {
  test('say that it lives and is ready, in a form that Prometheus takes', async () => {
    daemon.configure(config());
    await daemon.start();
    const one = client();
    await one.connect();
    await one.query('select 1');
    await one.end();
    await daemon.until(() => daemon.output.includes('session closed'));
    expect((await get('/livez')).status).toBe(200);
    expect((await get('/readyz')).status).toBe(200);
    const { text } = await get('/metrics');
    expect(text).toMatch(
      /^sallyport_sessions_total\{resource="orders",engine="postgres",reason="client_closed"\} 1$/m,
    );
    expect(text).toMatch(
      /^sallyport_statements_total\{resource="orders",engine="postgres",status="ok"\} 1$/m,
    );
    expect(await promtool(text)).toEqual({ code: 0, said: '' });
  });

  test('say what is wrong when the secret provider is down, and new sessions are refused in their protocol', async () => {
    daemon.configure(
      config().replace(
        'secrets: { env: { type: env } }',
        'secrets: { env: { type: exec, command: [sh, -c, "sleep 60"], timeout: 300ms } }',
      ),
    );
    await daemon.start();
    await expect(client().connect()).rejects.toMatchObject({ severity: 'FATAL' });
    const { status, text } = await get('/readyz');
    expect(status).toBe(503);
    expect(text).toContain('secrets.env');
  });
});

function promtool(text: string): Promise<{ code: number | null; said: string }> {
  const child = spawn('promtool', ['check', 'metrics'], { stdio: 'pipe' });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      said += chunk.toString('utf8');
    });
  child.stdin.end(text);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, said }));
  });
}
