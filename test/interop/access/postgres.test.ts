import { join } from 'node:path';
import pg from 'pg';
import postgresjs from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type AccessApp, eventually, startAccessApp } from '../../support/access.ts';
import { type Issued, makeAuthority } from '../../support/certificates.ts';
import { DEBIAN_BIN, freePort, type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { psql, runProgram } from '../../support/postgres-clients.ts';

/** Launch tokens and client certificates before a real PostgreSQL server, typed into the tools that people use. */

let server: PostgresServer;
let gateway: AccessApp;
let tokenPort: number;
let mtlsPort: number;
let dnsPort: number;
const people: Record<string, Issued> = {};

beforeAll(async () => {
  server = await startPostgres();
  await server.query('CREATE TABLE kept (id int); CREATE SEQUENCE counter');
  await server.query('CREATE DATABASE otherdb');
  await server.query(`GRANT ALL ON kept, counter TO ${server.accounts.launch.user}`);
  process.env['ACCESS_TEST_PASSWORD'] = server.accounts.launch.password ?? '';
  const authority = await makeAuthority('people');
  const stranger = await makeAuthority('strangers');
  const certificate = await authority.issue({ commonName: 'localhost', hosts: ['localhost', '127.0.0.1'] });
  people['anna'] = await authority.issue({ commonName: 'anna', hosts: ['ben'] });
  people['expired'] = await authority.issue({ commonName: 'anna', days: -1 });
  people['stranger'] = await stranger.issue({ commonName: 'anna' });
  people['nobody'] = await authority.issue({ commonName: 'mallory' });
  [tokenPort, mtlsPort, dnsPort] = [await freePort(), await freePort(), await freePort()];
  const files: Record<string, string> = {
    'tls.pem': certificate.chain,
    'tls.key': certificate.key,
    'ca.pem': authority.cert,
  };
  for (const [name, issued] of Object.entries(people)) {
    files[`${name}.pem`] = issued.cert;
    files[`${name}.key`] = issued.key;
  }
  const resource = {
    type: 'postgres',
    host: '127.0.0.1',
    port: server.port,
    database: 'appdb',
    tls: { mode: 'disable' },
    launch_credentials: { username: server.accounts.launch.user, password: 'env:ACCESS_TEST_PASSWORD' },
  };
  const tls = { cert: 'tls.pem', key: 'tls.key' };
  gateway = await startAccessApp(
    {
      resources: {
        orders: { ...resource, labels: { env: 'prod' } },
        stock: { ...resource, labels: { env: 'test' } },
        closed: resource,
      },
      listeners: [
        {
          listen: `127.0.0.1:${tokenPort}`,
          resources: ['orders', 'stock'],
          client_auth: 'token',
          tls,
        },
        {
          listen: `127.0.0.1:${mtlsPort}`,
          resource: 'orders',
          client_auth: 'mtls',
          certificate: { principal: 'common_name', roles: ['by-name'] },
          tls: { ...tls, mode: 'require', client_ca: 'ca.pem' },
        },
        {
          listen: `127.0.0.1:${dnsPort}`,
          resource: 'orders',
          client_auth: 'mtls',
          certificate: { principal: 'dns' },
          tls: { ...tls, mode: 'require', client_ca: 'ca.pem' },
        },
      ],
      rules: RULES,
    },
    files,
  );
});

const RULES = [
  { name: 'annas', users: ['anna'], resources: ['orders'], databases: ['appdb', 'postgres'] },
  { name: 'test-readers', users: ['ben'], labels: { env: 'test' }, read_only: true },
  { name: 'two', users: ['anna'], resources: ['stock'], max_connections: 2, max_launch: '2h' },
];

afterAll(async () => {
  await gateway?.close();
  await server?.stop();
});

function conninfo(user: string, more = ''): string {
  return `host=127.0.0.1 port=${tokenPort} user=${user} dbname=appdb sslmode=disable ${more}`;
}

async function client(
  launch: { id: string; token: string },
  config: pg.ClientConfig = {},
): Promise<pg.Client> {
  const made = new pg.Client({
    host: '127.0.0.1',
    port: tokenPort,
    user: launch.id,
    password: launch.token,
    database: 'appdb',
    ...config,
  });
  made.on('error', () => {});
  await made.connect();
  return made;
}

/** What a client hears that is not let in. */
async function refused(config: pg.ClientConfig): Promise<{ code: string; message: string }> {
  const made = new pg.Client({ host: '127.0.0.1', port: tokenPort, database: 'appdb', ...config });
  made.on('error', () => {});
  try {
    await made.connect();
  } catch (error) {
    const { code, message } = error as { code: string; message: string };
    return { code, message };
  }
  await made.end();
  throw new Error('it was let in');
}

describe('a launch token as password', () => {
  test('psql: SCRAM without TLS and SCRAM-SHA-256-PLUS with it', async () => {
    const { id, token } = await gateway.issue('anna', 'orders');
    const plain = await psql(conninfo(id), ['SELECT current_user'], {
      PGPASSWORD: token,
    });
    expect(plain).toMatchObject({ code: 0, stdout: `${server.accounts.launch.user}\n` });
    const bound = await psql(
      `host=localhost hostaddr=127.0.0.1 port=${tokenPort} user=${id} dbname=appdb sslmode=verify-full sslrootcert=${join(gateway.folder, 'ca.pem')} channel_binding=require`,
      ['SELECT 42'],
      { PGPASSWORD: token },
    );
    expect(bound).toMatchObject({ code: 0, stdout: '42\n' });
  });

  test('a person may write their own name before the launch', async () => {
    const { id, token } = await gateway.issue('anna', 'orders');
    const answer = await psql(conninfo(`anna+${id.toUpperCase()}`), ['SELECT 1'], { PGPASSWORD: token });
    expect(answer).toMatchObject({ code: 0, stdout: '1\n' });
  });

  test('node-postgres pools and postgres.js', async () => {
    const { id, token } = await gateway.issue('anna', 'orders');
    const pool = new pg.Pool({
      host: '127.0.0.1',
      port: tokenPort,
      user: id,
      password: token,
      database: 'appdb',
      max: 5,
    });
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, n) => pool.query('SELECT $1::int AS n', [n])),
    );
    expect(answers.map(({ rows }) => rows[0].n)).toEqual(Array.from({ length: 20 }, (_, n) => n));
    await pool.end();
    const sql = postgresjs({
      host: '127.0.0.1',
      port: tokenPort,
      user: id,
      password: token,
      database: 'appdb',
      max: 2,
    });
    expect(await sql`SELECT ${6} * 7 AS answer`).toMatchObject([{ answer: 42 }]);
    await sql.end();
  });

  test('the launch chooses the resource, and may not be used for another', async () => {
    const orders = await client(await gateway.issue('anna', 'orders'));
    const stock = await client(await gateway.issue('anna', 'stock'));
    const open = (await gateway.call('GET', '/api/v1/sessions', { token: await gateway.login('anna') })).json;
    expect(open.map((one: { resource: string }) => one.resource).sort()).toEqual(['orders', 'stock']);
    await orders.end();
    await stock.end();
  });

  test('launch and rule are on record with the session', async () => {
    const launch = await gateway.issue('anna', 'orders');
    const one = await client(launch);
    const started = (await gateway.journal()).find(
      (event) => event.type === 'session_started' && event.launch === launch.id,
    );
    expect(started).toMatchObject({ principal: 'anna', rule: 'annas', resource: 'orders' });
    await one.end();
  });

  test('the token is neither in the log nor in the state', async () => {
    const { id, token } = await gateway.issue('anna', 'orders');
    await (await client({ id, token })).end();
    expect(gateway.log()).not.toContain(token);
    const stored = JSON.stringify(gateway.app.access.state.launch(id));
    expect(stored).not.toContain(token);
    const { createHash } = await import('node:crypto');
    // caching_sha2_password takes this for the token itself.
    expect(stored).not.toContain(createHash('sha256').update(token).digest('base64'));
  });
});

describe('what does not let anybody in', () => {
  test('wrong, revoked and expired tokens and unknown users all hear the same', async () => {
    const { id, token } = await gateway.issue('anna', 'orders');
    const gone = await gateway.issue('anna', 'orders');
    await gateway.call('DELETE', `/api/v1/launches/${gone.id}`, { token: await gateway.login('anna') });
    const late = await gateway.expiring('anna', 'orders', 1);
    const heard = [
      await refused({ user: id, password: `${token}x` }),
      await refused({ user: gone.id, password: gone.token }),
      await refused({ user: late.id, password: late.token }),
      await refused({ user: 'laaaaaaaaa', password: token }),
      await refused({ user: 'postgres', password: 'postgres' }),
    ];
    expect(heard[0]).toEqual({ code: '28P01', message: expect.stringContaining('launch token is wrong') });
    for (const one of heard) expect(one).toEqual(heard[0]);
    const refusals = await gateway.audits('session_refused');
    expect(refusals.at(-1)).toMatchObject({ reason: 'credentials_invalid', detail: { user: 'postgres' } });
  });

  test('psql asked for SCRAM of a user who does not exist sees the same salt each time, as of one who does', async () => {
    const { PostgresScramProbe } = await import('../../support/scram-probe.ts');
    const { id } = await gateway.issue('anna', 'orders');
    const probe = new PostgresScramProbe('127.0.0.1', tokenPort);
    const unknown = [await probe.offer('lbbbbbbbbb'), await probe.offer('lbbbbbbbbb')];
    const known = [await probe.offer(id), await probe.offer(id)];
    expect(unknown[0]).toEqual(unknown[1]);
    expect(known[0]).toEqual(known[1]);
    expect(unknown[0]!.salt).not.toBe(known[0]!.salt);
    expect({ ...unknown[0], salt: unknown[0]!.salt.length }).toEqual({
      ...known[0],
      salt: known[0]!.salt.length,
    });
  });

  test('a rule for the database holds at sign-in', async () => {
    const { id, token } = await gateway.issue('anna', 'orders');
    expect(await refused({ user: id, password: token, database: 'otherdb' })).toMatchObject({
      message: expect.stringContaining('"otherdb" may not be opened here'),
    });
    await (await client({ id, token }, { database: 'postgres' })).end();
  });

  test('the launch allows so many connections, and one again when one has gone', async () => {
    const launch = await gateway.issue('anna', 'stock');
    const [one, two] = [await client(launch), await client(launch)];
    expect(await refused({ user: launch.id, password: launch.token })).toMatchObject({
      code: '53300',
      message: expect.stringContaining('2 connections at once'),
    });
    await one.end();
    await eventually(() => gateway.app.access.launches.connections(launch.id) === 1);
    await (await client(launch)).end();
    await two.end();
  });

  test('a launch may not last longer than its rule, and nobody gets one without a rule', async () => {
    const token = await gateway.login('anna');
    const ask = (body: object) => gateway.call('POST', '/api/v1/launches', { token, body });
    expect(await ask({ resource: 'stock', ttl_seconds: 7201 })).toMatchObject({ status: 403 });
    expect(await ask({ resource: 'stock', ttl_seconds: 7200 })).toMatchObject({ status: 200 });
    expect(await ask({ resource: 'closed' })).toMatchObject({ status: 403 });
    expect((await gateway.audits('launch_refused')).at(-1)).toMatchObject({
      principal: 'anna',
      resource: 'closed',
      client_address: '127.0.0.1',
    });
  });
});

describe('read-only', () => {
  test('writes and all ways out are refused, by the gateway or by the server', async () => {
    const reader = await client(await gateway.issue('ben', 'stock'));
    expect((await reader.query('SELECT count(*)::int AS n FROM kept')).rows).toEqual([{ n: 0 }]);
    for (const statement of [
      'INSERT INTO kept VALUES (1)',
      'SET default_transaction_read_only = off',
      'SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE',
      'BEGIN READ WRITE',
      'START TRANSACTION READ WRITE',
      'SET TRANSACTION READ WRITE',
      'RESET ALL',
      'DISCARD ALL',
      'RESET default_transaction_read_only',
      "SELECT set_config('default_transaction_read_only', 'off', false)",
      "SELECT nextval('counter')",
      'WITH gone AS (DELETE FROM kept RETURNING *) SELECT * FROM gone',
      'EXPLAIN ANALYZE INSERT INTO kept VALUES (1)',
      'SELECT 1; INSERT INTO kept VALUES (1)',
      'COPY kept FROM STDIN',
      'DO $$ BEGIN INSERT INTO kept VALUES (1); END $$',
      'SELECT 1 INTO made',
      '/* SELECT */ INSERT INTO kept VALUES (1)',
    ]) {
      await expect(reader.query(statement), statement).rejects.toMatchObject({
        code: expect.stringMatching(/^(42501|25006)$/),
      });
    }
    await expect(
      reader.query({ text: 'INSERT INTO kept VALUES ($1)', values: [1], name: 'sneaky' }),
    ).rejects.toThrow();
    expect((await reader.query('SHOW transaction_read_only')).rows).toEqual([
      { transaction_read_only: 'on' },
    ]);
    await reader.end();
    expect(await server.query('SELECT * FROM kept')).toEqual([]);
  });

  test('the startup options cannot switch it off', async () => {
    const { id, token } = await gateway.issue('ben', 'stock');
    const answer = await psql(conninfo(id), ['SHOW transaction_read_only'], {
      PGPASSWORD: token,
      PGOPTIONS: '-c default_transaction_read_only=off',
    });
    expect(answer.stdout).not.toBe('off\n');
  });
});

describe('the end of a launch', () => {
  test('in the middle of a transaction, the client hears why in its own protocol, and nothing is kept', async () => {
    const launch = await gateway.expiring('anna', 'orders', 1500);
    const one = await client(launch);
    const heard = new Promise<Error & { code?: string }>((resolve) => one.once('error', resolve));
    await one.query('BEGIN');
    await one.query('INSERT INTO kept VALUES (7)');
    expect(await heard).toMatchObject({
      code: '57P01',
      message: expect.stringContaining('your launch has ended'),
    });
    expect(await server.query('SELECT * FROM kept')).toEqual([]);
    let ended: unknown;
    await eventually(async () => {
      ended = (await gateway.audits('launch_ended')).find(({ detail }) => detail?.['launch'] === launch.id);
      return ended !== undefined;
    });
    expect(ended).toMatchObject({ reason: 'expired', principal: 'gateway', detail: { of: 'anna' } });
  });

  test('revoked under load: every connection ends with a word, none comes back, and the server is free of them', async () => {
    const launch = await gateway.issue('anna', 'orders');
    const clients = await Promise.all(Array.from({ length: 15 }, () => client(launch)));
    let rejected: string[] = [];
    let isOver = false;
    const working = clients.map(async (one) => {
      while (!isOver) {
        try {
          await one.query('SELECT pg_sleep(0.002), generate_series(1, 50)');
        } catch (error) {
          rejected.push((error as { code?: string }).code ?? (error as Error).message);
          return;
        }
      }
    });
    await eventually(
      async () =>
        ((
          await server.query(
            "SELECT count(*)::int AS n FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(0.002)%'",
          )
        )[0]!['n'] as number) >= 15,
    );
    const revoked = await gateway.call('DELETE', `/api/v1/launches/${launch.id}`, {
      token: await gateway.login('adam'),
    });
    expect(revoked.status).toBe(204);
    await Promise.all(working);
    isOver = true;
    expect(rejected).toHaveLength(15);
    rejected = rejected.filter((code) => code !== '57P01' && code !== '57014');
    expect(rejected).toEqual([]);
    expect(await refused({ user: launch.id, password: launch.token })).toMatchObject({ code: '28P01' });
    await eventually(
      async () =>
        (
          await server.query(
            "SELECT count(*)::int AS n FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(0.002)%'",
          )
        )[0]!['n'] === 0,
    );
    expect(
      (await gateway.audits('launch_ended')).find(({ detail }) => detail?.['launch'] === launch.id),
    ).toMatchObject({
      principal: 'adam',
      reason: 'revoked',
      detail: { connections: 15, of: 'anna', launch: launch.id },
    });
  });
});

describe('client certificates', () => {
  const mtls = (name: string | null, port = mtlsPort) =>
    runProgram(join(DEBIAN_BIN, 'psql'), [
      '-XAtw',
      '-d',
      `host=localhost hostaddr=127.0.0.1 port=${port} user=whoever dbname=appdb sslmode=verify-full sslrootcert=${join(gateway.folder, 'ca.pem')}` +
        (name === null
          ? ' sslcert=/nonexistent'
          : ` sslcert=${join(gateway.folder, `${name}.pem`)} sslkey=${join(gateway.folder, `${name}.key`)}`),
      '-c',
      'SELECT 42',
    ]);

  test('of somebody with a rule: in, and one launch for all connections', async () => {
    expect(await mtls('anna', mtlsPort)).toMatchObject({ code: 0, stdout: '42\n' });
    expect(await mtls('anna', mtlsPort)).toMatchObject({ code: 0 });
    const launches = (await gateway.call('GET', '/api/v1/launches', { token: await gateway.login('anna') }))
      .json;
    const byCertificate = launches.filter(
      (one: { id: string }) => gateway.app.access.state.launch(one.id)!.source === 'certificate',
    );
    expect(byCertificate).toHaveLength(1);
  });

  test('each listener names people in its own way', async () => {
    // "ben" by its DNS name, who has no rule for orders; "anna" by its common name.
    expect(await mtls('anna', dnsPort)).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('no rule lets ben use orders'),
    });
  });

  test.each(['stranger', 'expired', 'nobody', null])('%s: not in', async (name) => {
    const answer = await mtls(name, mtlsPort);
    expect(answer.code).toBe(2);
    expect(answer.stderr).toMatch(name === 'nobody' ? /no rule lets mallory use orders/ : /certificate/);
  });

  test('a token does not help on a listener for certificates', async () => {
    const { id, token } = await gateway.issue('anna', 'orders');
    expect(
      await refused({ port: mtlsPort, user: id, password: token, ssl: { rejectUnauthorized: false } }),
    ).toMatchObject({
      message: expect.stringContaining('certificate'),
    });
    expect(await refused({ port: mtlsPort, user: id, password: token })).toMatchObject({
      message: expect.stringMatching(/TLS|encrypt/i),
    });
  });
});

describe('guessing', () => {
  test('is limited by address and by launch, and keeps no owner out who was in before', async () => {
    const launch = await gateway.issue('anna', 'orders');
    await (await client(launch)).end();
    const heard: string[] = [];
    for (let count = 0; count < 14; count += 1)
      heard.push((await refused({ user: `x${count}+laaaaaaaab`, password: 'guess' })).message);
    expect(heard.at(-1)).toContain('too many wrong tokens; wait a minute');
    const other = await gateway.issue('anna', 'orders');
    expect(await refused({ user: other.id, password: other.token })).toMatchObject({
      message: expect.stringContaining('wait a minute'),
    });
    expect((await (await client(launch)).query('SELECT 1')).rowCount).toBe(1);
    const limits = await gateway.audits('guessing_limited');
    expect(limits.length).toBeGreaterThanOrEqual(1);
    expect(limits.length).toBeLessThanOrEqual(3);
  });
});
