import { connect } from 'node:net';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cancelPacket } from '../../../protocols/postgres/packets.ts';
import { type Authority, type Issued, makeAuthority } from '../../support/certificates.ts';
import type { TestGateway } from '../../support/gateway.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import {
  type PostgresGatewayOptions,
  queryThrough,
  startPostgresGateway,
  startTap,
} from '../../support/postgres-gateway.ts';

/** Sign-in to real servers: every method, version and setting that the server leg has. */

let authority: Authority;
let clientCertificate: Issued;
const servers = new Map<15 | 18, PostgresServer>();
const gateways: TestGateway[] = [];

// SASLprep: what PostgreSQL makes of each is known only to itself; a sign-in shows that we agree.
const PASSWORDS = [
  'plain',
  '\u00aa',
  'I\u00adX',
  '\u2168',
  '\u06271',
  '\u0627\u0628',
  'p\u{1f680}w',
  'a\u3000b',
  'a\u200bb',
  '\u00ad',
  'é\u0007',
  '\u0221',
  'e\u0301',
  '\ufb01',
  'naïve – Straße',
];

beforeAll(async () => {
  authority = await makeAuthority('Sign-in');
  const issued = await authority.issue({ commonName: 'localhost', hosts: ['localhost', '127.0.0.1'] });
  clientCertificate = await authority.issue({ commonName: 'cert_user' });
  const setup = PASSWORDS.map(
    (password, index) => `CREATE ROLE prep_${index} LOGIN PASSWORD '${password}';`,
  ).join('\n');
  const extra = { tls: issued, clientAuthority: authority.cert, setup };
  for (const major of [15, 18] as const) servers.set(major, await startPostgres({ ...extra, major }));
});

afterAll(async () => {
  for (const gateway of gateways) await gateway.close();
  for (const server of servers.values()) await server.stop();
});

function serverOf(major: 15 | 18): PostgresServer {
  const server = servers.get(major);
  if (server === undefined) throw new Error(`no server ${major}`);
  return server;
}

async function gatewayTo(server: PostgresServer, options: PostgresGatewayOptions = {}): Promise<TestGateway> {
  const gateway = await startPostgresGateway(server, options);
  gateways.push(gateway);
  return gateway;
}

const verified = () => ({ mode: 'verify-full', ca: authority.cert }) as const;

describe.each([15, 18] as const)('PostgreSQL %i', (major) => {
  it.each([
    ['trust', 'trust', false],
    ['trust', 'trust', true],
    ['password', 'password', true],
    ['md5', 'md5', false],
    ['md5', 'md5', true],
    ['scram', 'scram-sha-256', false],
    ['scram', 'scram-sha-256-plus', true],
  ] as const)('signs in by %s as %s (TLS: %s)', async (name, authentication, tls) => {
    const server = serverOf(major);
    const account = server.accounts[name];
    const gateway = await gatewayTo(server, {
      username: account.user,
      password: account.password,
      ...(tls ? { serverTls: verified() } : {}),
    });
    expect(await queryThrough(gateway)).toEqual([{ account: account.user, database: 'appdb' }]);
    expect(gateway.recorder.sessions[0]?.start).toMatchObject({
      authentication,
      databaseUser: account.user,
      clientUser: 'anyone',
      database: 'appdb',
      serverVersion: expect.stringMatching(`^${major}\\.`),
      serverTls: tls ? expect.stringContaining('TLSv1.3') : null,
      serverTlsVerified: tls,
      tlsFallback: false,
    });
  });

  it('signs in by a client certificate', async () => {
    const gateway = await gatewayTo(serverOf(major), {
      username: 'cert_user',
      password: null,
      serverTls: { ...verified(), cert: clientCertificate.chain, key: clientCertificate.key },
    });
    expect(await queryThrough(gateway)).toMatchObject([{ account: 'cert_user' }]);
    expect(gateway.recorder.sessions[0]?.start.authentication).toBe('cert');
  });

  it('does not send a password in clear over what is not verified', async () => {
    const server = serverOf(major);
    const { user, password } = server.accounts.password;
    for (const options of [{}, { serverTls: { mode: 'require' } as const }]) {
      const gateway = await gatewayTo(server, { username: user, password, ...options });
      await expect(queryThrough(gateway)).rejects.toMatchObject({ code: '08006', severity: 'FATAL' });
      expect(gateway.logs.join('')).toContain('only sent over TLS that verifies the server');
    }
  });

  it('says nothing of the account when the server does not take it, and fetches it anew once', async () => {
    const server = serverOf(major);
    const { user, password } = server.accounts.scram;
    const wrong = 'canary-wrong-password';
    const gateway = await gatewayTo(server, { username: user, password: wrong });
    const error = await queryThrough(gateway).catch((one: unknown) => one);
    expect(error).toMatchObject({ code: '08006' });
    expect(`${(error as Error).message} ${JSON.stringify(error)}`).not.toContain(user);
    expect(gateway.logs.join('')).toContain('28P01');
    expect(gateway.logs.join('')).not.toContain(wrong);

    const rotated = await gatewayTo(server, {
      username: user,
      password: wrong,
      refetched: { username: user, password: password ?? '' },
    });
    expect(await queryThrough(rotated)).toMatchObject([{ account: user }]);
  });

  it('passes the server’s own errors of a sign-in on, before AuthenticationOk is said', async () => {
    const gateway = await gatewayTo(serverOf(major));
    await expect(queryThrough(gateway, { database: 'nowhere' })).rejects.toMatchObject({
      code: '3D000',
      message: 'database "nowhere" does not exist',
    });
    await expect(queryThrough(gateway, { options: '-c no_such_setting=1' })).rejects.toMatchObject({
      code: '42704',
    });
    await expect(queryThrough(gateway, { options: '-B 10' })).rejects.toMatchObject({ code: '42501' });
    expect(gateway.recorder.sessions).toEqual([]);
    const refused = gateway.recorder.audits.map(({ action }) => action);
    expect(refused).toEqual(['session_refused', 'session_refused', 'session_refused']);
  });

  it('keeps every startup parameter', async () => {
    const gateway = await gatewayTo(serverOf(major));
    const rows = await queryThrough(
      gateway,
      {
        application_name: 'interop',
        options: '-c search_path=a,b -c work_mem=7MB',
        statement_timeout: 54_321,
      },
      "SELECT name, setting FROM pg_settings WHERE name IN ('application_name','search_path','work_mem','statement_timeout') ORDER BY name",
    );
    expect(rows.map(({ setting }) => setting)).toEqual(['interop', 'a,b', '54321', '7168']);
    expect(gateway.recorder.sessions[0]?.start.clientProgram).toBe('interop');
  });

  it('switches the role as the startup packet asks, and has it on record', async () => {
    const server = serverOf(major);
    await server.query('CREATE ROLE "other"; GRANT "other" TO launch_user');
    const gateway = await gatewayTo(server);
    expect(await queryThrough(gateway, { options: '--role=other' })).toMatchObject([{ account: 'other' }]);
    const [session] = gateway.recorder.sessions;
    expect(session?.start.clientAttributes).toMatchObject({ role: 'other' });
    expect(session?.notes).toContainEqual({ kind: 'session_changed', what: 'role', value: 'other' });
  });

  it('agrees with it about every password', async () => {
    const server = serverOf(major);
    for (const [index, password] of PASSWORDS.entries()) {
      const gateway = await gatewayTo(server, { username: `prep_${index}`, password });
      expect(await queryThrough(gateway)).toMatchObject([{ account: `prep_${index}` }]);
    }
  });

  it('lets no byte of either side’s secrets pass to the other', async () => {
    const server = serverOf(major);
    const { user, password } = server.accounts.launch;
    const gateway = await gatewayTo(server);
    const tap = await startTap(gateway.port);
    await queryThrough(tap, { password: 'canary-of-the-client', user: 'visitor' }, 'SELECT 1');
    await queryThrough(tap, { database: 'nowhere' }).catch(() => {});
    await tap.close();
    const toClient = tap.toClient().toString('latin1');
    expect(toClient).not.toContain(password);
    expect(toClient.length).toBeGreaterThan(300);
    // The account's name is shown by the server itself as ParameterStatus session_authorization, and nowhere else.
    expect(toClient.split(user).length - 1).toBe(1);
    expect(gateway.logs.join('')).not.toContain(password);
    expect(await server.log()).not.toMatch(/canary-of-the-client|visitor/);
  });

  it('refuses replication unless it is allowed', async () => {
    const server = serverOf(major);
    const { user, password } = server.accounts.replica;
    const refused = await gatewayTo(server, { username: user, password });
    const asked = { replication: 'database' } as object;
    await expect(queryThrough(refused, asked, 'IDENTIFY_SYSTEM')).rejects.toMatchObject({ code: '42501' });
    const allowed = await gatewayTo(server, {
      username: user,
      password,
      settings: { allowReplication: true },
    });
    expect(await queryThrough(allowed, asked, 'IDENTIFY_SYSTEM')).toMatchObject([{ dbname: 'appdb' }]);
  });

  it('asks for 3.2 where that is set, and takes less', async () => {
    const gateway = await gatewayTo(serverOf(major), { settings: { protocolVersion: '3.2' } });
    expect(await queryThrough(gateway)).toMatchObject([{ account: 'launch_user' }]);
  });

  it('pays PBKDF2 once for an account', async () => {
    const server = serverOf(major);
    const rounds = 200_000;
    const password = 'many-rounds';
    const slow = major === 18 ? `SET scram_iterations = ${rounds};` : '';
    await server.query(`${slow} CREATE ROLE slow_${major} LOGIN PASSWORD '${password}'`);
    const gateway = await gatewayTo(server, { username: `slow_${major}`, password });
    const times: number[] = [];
    for (let i = 0; i < 4; i++) {
      const started = performance.now();
      await queryThrough(gateway, {}, 'SELECT 1');
      times.push(performance.now() - started);
    }
    // 200 000 rounds take some forty milliseconds; PostgreSQL 15 has no setting for them.
    if (major === 18) expect(Math.min(...times.slice(1))).toBeLessThan(times[0]!);
    const strict = await gatewayTo(server, {
      username: `slow_${major}`,
      password,
      settings: { scramIterationsMax: 100_000 },
    });
    if (major === 18) await expect(queryThrough(strict)).rejects.toMatchObject({ code: '08006' });
  });
});

describe('PostgreSQL 18 alone', () => {
  it('signs in over direct TLS, which 15 does not have', async () => {
    const options = { serverTls: verified(), settings: { directTls: true } } as const;
    const gateway = await gatewayTo(serverOf(18), options);
    expect(await queryThrough(gateway)).toMatchObject([{ account: 'launch_user' }]);
    expect(gateway.recorder.sessions[0]?.start.authentication).toBe('scram-sha-256-plus');
    const old = await gatewayTo(serverOf(15), options);
    await expect(queryThrough(old)).rejects.toMatchObject({ code: '08006' });
  });
});

describe('Unix sockets', () => {
  it('lead to a server as they do for libpq: without TLS whatever its mode, each method taken', async () => {
    const server = await startPostgres({
      hba: [
        'local all launch_user scram-sha-256',
        'local all password_user password',
        'local all trust_user trust',
      ],
    });
    try {
      const socket = { host: `${server.socketDirectory}/.s.PGSQL.${server.port}`, port: server.port };
      for (const [name, authentication] of [
        ['launch', 'scram-sha-256'],
        ['password', 'password'],
        ['trust', 'trust'],
      ] as const) {
        const { user, password } = server.accounts[name];
        const gateway = await gatewayTo(server, {
          username: user,
          password,
          servers: [socket],
          serverTls: verified(),
        });
        expect(await queryThrough(gateway)).toMatchObject([{ account: user }]);
        expect(gateway.recorder.sessions[0]?.start).toMatchObject({
          authentication,
          serverTls: null,
          tlsFallback: false,
        });
        await gateway.close();
      }
    } finally {
      await server.stop();
    }
  });

  it('can be what clients come through', async () => {
    const server = serverOf(18);
    const gateway = await gatewayTo(server, {
      socketPath: `${server.socketDirectory}/.s.PGSQL.1`,
    });
    const client = { host: server.socketDirectory, port: 1 };
    expect(await queryThrough(gateway, client)).toMatchObject([{ account: 'launch_user' }]);
    const config = { ...client, user: 'x', database: 'appdb' };
    const running = new pg.Client(config);
    await running.connect();
    const outcome = running.query('SELECT pg_sleep(60)').catch((error: unknown) => error);
    await gateway.recorder.until(() =>
      gateway.recorder.statements.some(({ text }) => text === 'SELECT pg_sleep(60)'),
    );
    const { processID, secretKey } = running as unknown as { processID: number; secretKey: number };
    const key = Buffer.alloc(4);
    key.writeInt32BE(secretKey);
    connect(`${server.socketDirectory}/.s.PGSQL.1`).end(cancelPacket(processID, key));
    expect(await outcome).toMatchObject({ code: '57014' });
    await running.end();
  });
});

describe('several hosts', () => {
  it('finds the one that is up, and the one that may be written to', async () => {
    const [older, newer] = [serverOf(15), serverOf(18)];
    const { user, password } = older.accounts.launch;
    // Both know the account by the same password, and the older takes no writes.
    await newer.query(`ALTER ROLE ${user} PASSWORD '${password}'`);
    await older.query(`ALTER ROLE ${user} SET default_transaction_read_only = on`);
    const down = { host: '127.0.0.1', port: 1 };
    const version = async (targetSessionAttrs: 'any' | 'read-write' | 'read-only' | 'prefer-standby') => {
      const gateway = await gatewayTo(older, {
        servers: [down, older, newer],
        settings: { targetSessionAttrs },
      });
      const [row] = await queryThrough(gateway, {}, 'SHOW server_version');
      return Number.parseInt(String(row?.server_version), 10);
    };
    expect(await version('any')).toBe(15);
    expect(await version('read-write')).toBe(18);
    expect(await version('read-only')).toBe(15);
    expect(await version('prefer-standby')).toBe(15);
    const nowhere = await gatewayTo(older, { servers: [down] });
    await expect(queryThrough(nowhere)).rejects.toMatchObject({ code: '08006' });
  });
});
