import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import mysql from 'mysql2/promise';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { Refusal } from '../../../protocols/error.ts';
import { App } from '../../../src/app.ts';
import { loadConfig } from '../../../src/config/load.ts';
import { makeLog } from '../../../src/log.ts';
import type { DatabaseServer } from '../../support/database.ts';
import { startMariadb } from '../../support/mariadb.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { startVaultDouble, type VaultDouble } from '../../support/secret-stores/vault-double.ts';

/**
 * Launch credentials on their whole way: from a provider through the gateway into a real PostgreSQL server. Vault is a
 * double that was written from its documentation; it makes real accounts on the server.
 */

let folder: string;
let server: PostgresServer;
let mariadb: DatabaseServer;
let vault: VaultDouble;
let app: App;
let logged = '';

const SECRET = 'canary-c41d-vault-made';

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'sallyport-launch-'));
  [server, mariadb, vault] = await Promise.all([startPostgres(), startMariadb(), startVaultDouble()]);
  process.env['SALLYPORT_TEST_SECRET_ID'] = vault.vault.secretId;
  await server.query(`CREATE ROLE rotated LOGIN PASSWORD '${SECRET}-1'`);
  vault.vault.kv.set('secret/rotated', { username: 'rotated', password: `${SECRET}-1` });
  vault.vault.kv.set('database/creds/ro', { password: SECRET });
  // The accounts that the double will name, ahead of their making.
  for (let index = 0; index < 20; index += 1)
    await server.query(`CREATE ROLE "v-ro-${index}" LOGIN PASSWORD '${SECRET}'`);
  vault.vault.kv.set('database/creds/rw', { password: SECRET });
  for (let index = 0; index < 40; index += 1)
    await mariadb.run(`CREATE USER "v-rw-${index}" IDENTIFIED BY '${SECRET}'`);
  const resource = {
    type: 'postgres',
    host: server.host,
    port: server.port,
    database: server.database,
    tls: { mode: 'disable' },
  };
  const file = join(folder, 'config.yaml');
  writeFileSync(
    file,
    stringify({
      gateway: { data_dir: './data' },
      http: { listen: '127.0.0.1:0' },
      recording: { store: { type: 'directory', path: './recordings' } },
      secrets: {
        env: { type: 'env' },
        vault: {
          type: 'vault',
          address: vault.url,
          timeout: '1s',
          auth: { method: 'approle', role_id: vault.vault.roleId, secret_id: 'env:SALLYPORT_TEST_SECRET_ID' },
        },
      },
      resources: {
        made: { ...resource, launch_credentials: 'vault:database/creds/ro' },
        rotated: { ...resource, launch_credentials: 'vault:secret/rotated' },
        maria: {
          type: 'mariadb',
          host: mariadb.host,
          port: mariadb.port,
          tls: { ca: mariadb.caFile },
          launch_credentials: 'vault:database/creds/rw',
        },
      },
      listeners: [
        { listen: `unix:${join(folder, '.s.PGSQL.5001')}`, resource: 'made' },
        { listen: `unix:${join(folder, '.s.PGSQL.5002')}`, resource: 'rotated' },
        { listen: `unix:${join(folder, 'maria.sock')}`, resource: 'maria' },
      ],
    }),
  );
  const lines = new PassThrough();
  lines.on('data', (chunk: Buffer) => {
    logged += chunk.toString();
  });
  app = await App.start(await loadConfig(file), makeLog('json', 'trace', lines));
});
afterAll(async () => {
  await app.stop(0);
  await vault.close();
  await Promise.all([server.stop(), mariadb.stop()]);
  rmSync(folder, { recursive: true });
});

const PORTS = { made: 5001, rotated: 5002 };

async function connect(resource: keyof typeof PORTS): Promise<pg.Client> {
  const client = new pg.Client({
    host: folder,
    port: PORTS[resource],
    user: 'anybody',
    database: server.database,
  });
  client.on('error', () => {});
  await client.connect();
  return client;
}

const accountOf = async (client: pg.Client): Promise<string> =>
  (await client.query<{ session_user: string }>('SELECT session_user')).rows[0]!.session_user;
const leases = (): { username: string; revoked: boolean }[] => [...vault.vault.leases.values()];

describe('accounts made for a session', () => {
  test('each session has its own, and it is revoked when the session ends', async () => {
    const first = await connect('made');
    const second = await connect('made');
    const names = [await accountOf(first), await accountOf(second)];
    expect(new Set(names).size).toBe(2);
    await first.end();
    await expect.poll(() => leases().find(({ username }) => username === names[0])?.revoked).toBe(true);
    expect(leases().find(({ username }) => username === names[1])?.revoked).toBe(false);
    await second.end();
    await expect.poll(() => leases().every(({ revoked }) => revoked)).toBe(true);
  });

  test('one whose sign-in fails is given back too', async () => {
    vault.vault.kv.set('database/creds/ro', { password: 'not-what-the-server-has' });
    await expect(connect('made')).rejects.toThrow();
    vault.vault.kv.set('database/creds/ro', { password: SECRET });
    await expect.poll(() => leases().every(({ revoked }) => revoked)).toBe(true);
  });
});

test('an account that Vault takes away ends its session, in the words of the protocol', async () => {
  vault.vault.leaseSeconds = 1;
  vault.vault.leaseSecondsMax = 1;
  const client = await connect('made');
  const heard = new Promise<Error>((resolve) => client.once('error', resolve));
  expect(await heard).toMatchObject({
    code: '57P01',
    message: expect.stringContaining('account that was made for this session has ended'),
  });
  vault.vault.leaseSeconds = 3600;
  vault.vault.leaseSecondsMax = 86_400;
  await expect.poll(() => leases().every(({ revoked }) => revoked)).toBe(true);
});

describe('a cancel', () => {
  test('signs in as the same account, without a lease of its own', async () => {
    const client = await mysql.createConnection({ socketPath: join(folder, 'maria.sock'), user: 'anybody' });
    client.on('error', () => {});
    const [rows] = await client.query<mysql.RowDataPacket[]>('SELECT CURRENT_USER() AS account');
    const made = leases().length;
    const sleeping = client.query('SELECT SLEEP(60)').catch((error: unknown) => error);
    const running = async (): Promise<number> =>
      Number(
        (
          await mariadb.run(
            "SELECT COUNT(*) AS n FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'",
          )
        )[0]!['n'],
      );
    await expect.poll(running, { timeout: 5_000 }).toBe(1);
    const session = [...app.gateway.connections].find(({ resource }) => resource?.name === 'maria')!;
    expect(app.gateway.kill(session.id, new Refusal('killed', 'ended by a test'), 'killed')).toBe(true);
    expect(await sleeping).toBeInstanceOf(Error);
    await expect.poll(running, { timeout: 5_000 }).toBe(0);
    expect(rows[0]!['account']).toMatch(/^v-rw-/);
    expect(leases().length).toBe(made);
    await expect.poll(() => leases().every(({ revoked }) => revoked)).toBe(true);
  });
});

describe('a stored password', () => {
  test('that was rotated is fetched anew, once, past the cache', async () => {
    await (await connect('rotated')).end();
    await server.query(`ALTER ROLE rotated PASSWORD '${SECRET}-2'`);
    vault.vault.kv.set('secret/rotated', { username: 'rotated', password: `${SECRET}-2` });
    const client = await connect('rotated');
    expect(await accountOf(client)).toBe('rotated');
    await client.end();
  });

  test('that is wrong on both sides is tried once, and said', async () => {
    await server.query(`ALTER ROLE rotated PASSWORD '${SECRET}-3'`);
    const failures = async (): Promise<number> =>
      (await server.log()).split('password authentication failed for user "rotated"').length;
    const before = await failures();
    await expect(connect('rotated')).rejects.toMatchObject({
      message: expect.stringMatching(/credentials|rotated/),
    });
    expect((await failures()) - before).toBe(1);
    vault.vault.kv.set('secret/rotated', { username: 'rotated', password: `${SECRET}-3` });
    await (await connect('rotated')).end();
  });
});

describe('a provider that is down', () => {
  test('refuses new sessions with one clear error, forwards nothing, and leaves running ones alone', async () => {
    const running = await connect('made');
    vault.fault = { status: 502 };
    const backends = async (): Promise<number> =>
      Number(
        (await server.query(`SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'v-ro-%'`))[0]![
          'count'
        ],
      );
    const before = await backends();
    await expect(connect('made')).rejects.toMatchObject({
      message: expect.stringContaining('credentials for made are not available'),
    });
    expect(await backends()).toBe(before);
    expect((await running.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
    expect((await app.health()).parts.find(({ name }) => name === 'secrets.vault')).toMatchObject({
      ready: false,
    });
    vault.fault = 'none';
    await (await connect('made')).end();
    expect((await app.health()).parts.find(({ name }) => name === 'secrets.vault')).toMatchObject({
      ready: true,
    });
    await running.end();
  });

  test('and one that does not answer is not waited for without end', async () => {
    vault.fault = 'stall';
    const started = Date.now();
    await expect(connect('made')).rejects.toThrow(/not available/);
    expect(Date.now() - started).toBeLessThan(10_000);
    vault.fault = 'none';
  });
});

test('no password reached the log, the metrics or the disk', async () => {
  expect(logged).toContain('session opened');
  expect(logged).not.toMatch(/canary-c41d/);
  expect(await app.metrics.registry.metrics()).not.toMatch(/canary-c41d/);
  const files = readdirSync(folder, { recursive: true })
    .map((name) => join(folder, String(name)))
    .filter((path) => statSync(path).isFile());
  expect(files.length).toBeGreaterThan(2);
  for (const file of files) expect(readFileSync(file).includes('canary-c41d'), file).toBe(false);
});
