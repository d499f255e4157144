import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import postgresJs from 'postgres';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Authority, makeAuthority } from '../../support/certificates.ts';
import type { TestGateway } from '../../support/gateway.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { psql, runGo, runJava, runPython } from '../../support/postgres-clients.ts';
import {
  type PostgresGatewayOptions,
  queryThrough,
  startPostgresGateway,
  TokenAccess,
} from '../../support/postgres-gateway.ts';

/**
 * Other people's clients sign in to Sallyport: by trust and by token, in the clear, with TLS as they ask for it by
 * default and as they can be told to, and refused where they should be.
 */

const TOKEN = 'spt-0123456789-token';
let authority: Authority;
let server: PostgresServer;
let folder: string;
let caFile: string;
const all: TestGateway[] = [];

/** Listeners by what they ask of clients. */
let clear: TestGateway;
let offering: TestGateway;
let requiring: TestGateway;
let tokenClear: TestGateway;
let tokenTls: TestGateway;

beforeAll(async () => {
  authority = await makeAuthority('Clients');
  const certificate = await authority.issue({ commonName: 'gateway', hosts: ['localhost', '127.0.0.1'] });
  folder = await mkdtemp(join(tmpdir(), 'sallyport-clients-'));
  caFile = join(folder, 'ca.pem');
  await writeFile(caFile, authority.cert);
  server = await startPostgres({ major: 18 });
  const start = async (options: PostgresGatewayOptions): Promise<TestGateway> => {
    const gateway = await startPostgresGateway(server, options);
    all.push(gateway);
    return gateway;
  };
  const prefer = { clientTls: { certificate, mode: 'prefer' } } as const;
  const token = { access: new TokenAccess(TOKEN), clientAuth: 'token' } as const;
  clear = await start({});
  offering = await start(prefer);
  requiring = await start({ clientTls: { certificate, mode: 'require' } });
  tokenClear = await start(token);
  tokenTls = await start({ ...prefer, ...token });
});

afterAll(async () => {
  for (const gateway of all) await gateway.close();
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const ACCOUNT = 'launch_user';
const WHO = 'SELECT current_user';
const lastStart = (gateway: TestGateway) => gateway.recorder.sessions.at(-1)?.start;

describe('psql 15', () => {
  const conninfo = (gateway: TestGateway, more = ''): string =>
    `host=127.0.0.1 port=${gateway.port} user=anyone dbname=appdb ${more}`;

  it.each([
    ['in the clear', () => clear, '', false],
    ['as by default where TLS is offered', () => offering, '', true],
    ['without TLS where it is offered', () => offering, 'sslmode=disable', false],
    ['with TLS where it is required', () => requiring, '', true],
    ['by sslmode=allow where it is required', () => requiring, 'sslmode=allow', true],
    ['by verify-full', () => requiring, 'sslmode=verify-full sslrootcert=CA', true],
  ] as const)('signs in %s', async (_, gateway, more, tls) => {
    const ran = await psql(conninfo(gateway(), more.replace('CA', caFile)), [WHO]);
    expect(ran).toMatchObject({ code: 0, stdout: `${ACCOUNT}\n` });
    expect(lastStart(gateway())?.clientTls ?? '').toMatch(tls ? /^TLSv1\.3/ : /^$/);
  });

  it('signs in with any password too', async () => {
    const ran = await psql(conninfo(clear), [WHO], { PGPASSWORD: 'whatever' });
    expect(ran.stdout).toBe(`${ACCOUNT}\n`);
  });

  it('is told that TLS is required, by the code that makes others upgrade', async () => {
    const ran = await psql(conninfo(requiring, 'sslmode=disable'), ['\\set VERBOSITY verbose', WHO]);
    expect(ran.code).toBe(2);
    expect(ran.stderr).toContain('connections without TLS are not accepted here');
  });

  it('signs in by token, bound to the channel over TLS', async () => {
    const password = { PGPASSWORD: TOKEN };
    for (const [gateway, more] of [
      [tokenClear, ''],
      [tokenTls, ''],
      [tokenTls, 'channel_binding=require'],
      [tokenTls, 'sslmode=disable'],
    ] as const) {
      const ran = await psql(conninfo(gateway, more), [WHO], password);
      expect(ran).toMatchObject({ code: 0, stdout: `${ACCOUNT}\n` });
    }
    expect(lastStart(tokenTls)?.principal).toBe('anyone');
  });

  it('hears the same of a wrong token whoever asks, and is counted once though it tries twice', async () => {
    const before = tokenTls.recorder.audits.length;
    const ran = await psql(conninfo(tokenTls), [WHO], { PGPASSWORD: 'wrong' });
    expect(ran.code).toBe(2);
    expect(ran.stderr).toContain('password authentication failed for user "anyone"');
    expect((await psql(conninfo(tokenTls), [WHO])).stderr).toContain('no password supplied');
    expect(tokenTls.recorder.audits.length).toBeGreaterThan(before);
  });

  it('shows what the server says while it lets us in', async () => {
    await server.query('CREATE DATABASE noisy');
    const setup = [
      'CREATE FUNCTION greet() RETURNS event_trigger LANGUAGE plpgsql AS',
      "$$ BEGIN RAISE NOTICE 'maintenance at noon'; END $$;",
      'CREATE EVENT TRIGGER greeting ON login EXECUTE FUNCTION greet();',
      'ALTER EVENT TRIGGER greeting ENABLE ALWAYS;',
    ].join(' ');
    const own = `host=${server.socketDirectory} port=${server.port} user=postgres dbname=noisy`;
    expect(await psql(own, [setup])).toMatchObject({ code: 0 });
    const ran = await psql(conninfo(clear).replace('appdb', 'noisy'), [WHO]);
    expect(ran).toMatchObject({ code: 0, stdout: `${ACCOUNT}\n` });
    expect(ran.stderr).toContain('NOTICE:  maintenance at noon');
  });

  it('cannot be made to trust a listener that asks nothing, where it wants the channel bound', async () => {
    const ran = await psql(conninfo(offering, 'channel_binding=require'), [WHO], { PGPASSWORD: 'x' });
    expect(ran.code).toBe(2);
    expect(ran.stderr).toContain('channel binding required');
    await offering.recorder.until(() => offering.recorder.sessions.at(-1)?.end_ != null);
    expect(offering.recorder.sessions.at(-1)?.end_?.reason).toBe('client_closed');
  });
});

describe('Python', () => {
  interface Case {
    readonly driver: string;
    readonly gateway: () => TestGateway;
    readonly more?: Readonly<Record<string, unknown>>;
    /** What the record says of TLS. */
    readonly tls: boolean;
  }

  const database = (driver: string) =>
    driver === 'psycopg' || driver === 'psycopg2' ? 'dbname' : 'database';
  const request = ({ driver, gateway, more }: Pick<Case, 'driver' | 'gateway' | 'more'>) => ({
    driver,
    host: '127.0.0.1',
    port: gateway().port,
    user: 'anyone',
    [database(driver)]: 'appdb',
    ...more,
  });

  const ca = 'CA';
  const password = TOKEN;
  const cases: Case[] = [
    // libpq 18
    { driver: 'psycopg', gateway: () => clear, tls: false },
    { driver: 'psycopg', gateway: () => offering, tls: true },
    { driver: 'psycopg', gateway: () => offering, more: { require_auth: 'none' }, tls: true },
    {
      driver: 'psycopg',
      gateway: () => requiring,
      more: { sslmode: 'verify-full', sslrootcert: ca },
      tls: true,
    },
    {
      driver: 'psycopg',
      gateway: () => requiring,
      more: { sslmode: 'require', sslnegotiation: 'direct' },
      tls: true,
    },
    {
      driver: 'psycopg',
      gateway: () => clear,
      more: { min_protocol_version: '3.2', max_protocol_version: 'latest' },
      tls: false,
    },
    {
      driver: 'psycopg',
      gateway: () => tokenClear,
      more: { password, require_auth: 'scram-sha-256' },
      tls: false,
    },
    { driver: 'psycopg', gateway: () => tokenTls, more: { password, channel_binding: 'require' }, tls: true },
    // libpq 17
    { driver: 'psycopg2', gateway: () => clear, tls: false },
    { driver: 'psycopg2', gateway: () => offering, tls: true },
    {
      driver: 'psycopg2',
      gateway: () => requiring,
      more: { sslmode: 'require', sslnegotiation: 'direct' },
      tls: true,
    },
    {
      driver: 'psycopg2',
      gateway: () => tokenTls,
      more: { password, channel_binding: 'require' },
      tls: true,
    },
    { driver: 'asyncpg', gateway: () => clear, tls: false },
    { driver: 'asyncpg', gateway: () => offering, tls: true },
    { driver: 'asyncpg', gateway: () => requiring, more: { ca }, tls: true },
    { driver: 'asyncpg', gateway: () => requiring, more: { ca, direct_tls: true }, tls: true },
    { driver: 'asyncpg', gateway: () => tokenTls, more: { password }, tls: true },
    { driver: 'asyncpg', gateway: () => tokenClear, more: { password }, tls: false },
    { driver: 'pg8000', gateway: () => clear, tls: false },
    { driver: 'pg8000', gateway: () => offering, more: { ssl_context: false }, tls: false },
    { driver: 'pg8000', gateway: () => requiring, more: { ca }, tls: true },
    { driver: 'pg8000', gateway: () => tokenTls, more: { ca, password }, tls: true },
    { driver: 'pg8000', gateway: () => tokenClear, more: { password }, tls: false },
  ];

  it('signs in with every driver, in the clear and with TLS, by trust and by token', async () => {
    const before = new Map(all.map((gateway) => [gateway, gateway.recorder.sessions.length]));
    const requests = cases.map(request);
    const text = JSON.stringify(requests).replaceAll(`"${ca}"`, JSON.stringify(caFile));
    const results = await runPython('sign_in.py', JSON.parse(text));
    const wanted = cases.map(() => ({ account: ACCOUNT }));
    expect(results).toEqual(wanted);
    for (const gateway of all) {
      const seen = gateway.recorder.sessions.slice(before.get(gateway));
      const expected = cases.filter((one) => one.gateway() === gateway);
      expect(seen.map(({ start }) => start.clientTls !== null)).toEqual(expected.map(({ tls }) => tls));
    }
  });

  it('is refused by every driver’s own kind of error', async () => {
    const results = await runPython('sign_in.py', [
      request({ driver: 'psycopg', gateway: () => requiring, more: { sslmode: 'disable' } }),
      request({ driver: 'psycopg', gateway: () => tokenTls, more: { password: 'wrong' } }),
      request({ driver: 'psycopg', gateway: () => clear, more: { require_auth: 'scram-sha-256', password } }),
      request({ driver: 'psycopg2', gateway: () => tokenTls, more: { password: 'wrong' } }),
      request({ driver: 'asyncpg', gateway: () => requiring, more: { ssl: false } }),
      request({ driver: 'asyncpg', gateway: () => tokenTls, more: { password: 'wrong' } }),
      request({ driver: 'pg8000', gateway: () => tokenClear, more: { password: 'wrong' } }),
    ]);
    const wrong = /password authentication failed for user "anyone"/;
    expect(results).toEqual([
      { error: expect.stringMatching(/connections without TLS are not accepted here/) },
      { error: expect.stringMatching(wrong) },
      { error: expect.stringMatching(/did not complete authentication/) },
      { error: expect.stringMatching(wrong) },
      { error: expect.stringMatching(/^InvalidAuthorizationSpecificationError: connections without TLS/) },
      { error: expect.stringMatching(/^InvalidPasswordError: password authentication failed/) },
      { error: expect.stringMatching(/28P01/) },
    ]);
  });
});

describe('node-postgres', () => {
  const ssl = () => ({ ca: authority.cert, host: '127.0.0.1' });

  it.each([
    ['in the clear', () => clear, () => ({}), false],
    ['with TLS', () => requiring, () => ({ ssl: ssl() }), true],
    ['with direct TLS', () => requiring, () => ({ ssl: ssl(), sslnegotiation: 'direct' }), true],
    ['by token', () => tokenClear, () => ({ password: TOKEN }), false],
    ['by token over TLS', () => tokenTls, () => ({ password: TOKEN, ssl: ssl() }), true],
    [
      'bound to the channel',
      () => tokenTls,
      () => ({ password: TOKEN, ssl: ssl(), enableChannelBinding: true }),
      true,
    ],
  ] as const)('signs in %s', async (_, gateway, options, tls) => {
    const rows = await queryThrough(gateway(), options() as pg.ClientConfig);
    expect(rows).toEqual([{ account: ACCOUNT, database: 'appdb' }]);
    expect(lastStart(gateway())?.clientTls !== null).toBe(tls);
  });

  it('is refused where it should be', async () => {
    await expect(queryThrough(requiring)).rejects.toMatchObject({ code: '28000' });
    await expect(queryThrough(tokenClear, { password: 'wrong' })).rejects.toMatchObject({ code: '28P01' });
    await expect(queryThrough(clear, { ssl: ssl() })).rejects.toThrow('does not support SSL');
  });

  it('has a pool of many sign-ins at once', async () => {
    const pool = new pg.Pool({ host: '127.0.0.1', port: clear.port, user: 'x', database: 'appdb', max: 20 });
    const rows = await Promise.all(Array.from({ length: 60 }, () => pool.query('SELECT pg_sleep(0.01)')));
    expect(rows.length).toBe(60);
    await pool.end();
  });
});

describe('postgres.js', () => {
  it.each([
    ['in the clear', () => clear, () => ({}), false],
    ['by prefer', () => offering, () => ({ ssl: 'prefer' }), true],
    ['by require', () => requiring, () => ({ ssl: 'require' }), true],
    ['verified', () => requiring, () => ({ ssl: { ca: authority.cert } }), true],
    ['by token', () => tokenTls, () => ({ ssl: 'require', password: TOKEN }), true],
  ] as const)('signs in %s', async (_, gateway, options, tls) => {
    const sql = postgresJs({
      host: '127.0.0.1',
      port: gateway().port,
      user: 'anyone',
      database: 'appdb',
      max: 1,
      ...options(),
    } as object);
    expect([...(await sql`SELECT current_user::text AS account`)]).toEqual([{ account: ACCOUNT }]);
    await sql.end();
    expect(lastStart(gateway())?.clientTls !== null).toBe(tls);
  });
});

describe('pgjdbc', () => {
  it('signs in with every TLS mode and refuses what it should', async () => {
    const url = (gateway: TestGateway, more: string): string =>
      `jdbc:postgresql://127.0.0.1:${gateway.port}/appdb?user=anyone&password=${TOKEN}${more}`;
    const verify = `&sslmode=verify-full&sslrootcert=${caFile}`;
    const { stdout, stderr } = await runJava('SignIn.java', [
      url(clear, ''),
      url(offering, ''),
      url(clear, '&gssEncMode=prefer'),
      url(requiring, '&sslmode=require'),
      url(requiring, verify),
      url(requiring, `${verify}&sslNegotiation=direct`),
      url(tokenClear, ''),
      url(tokenTls, verify),
      url(tokenTls, `${verify}&channelBinding=require`),
      url(tokenTls, `${verify}&requireAuth=scram-sha-256`),
      url(requiring, '&sslmode=disable'),
      url(tokenTls, '&password=wrong').replace(`&password=${TOKEN}`, ''),
    ]);
    const lines = stdout.trimEnd().split('\n');
    expect(lines.slice(0, 10), stderr).toEqual(Array.from({ length: 10 }, () => `account ${ACCOUNT}`));
    expect(lines[10]).toMatch(/^error 28000 FATAL: connections without TLS/);
    expect(lines[11]).toMatch(/^error 28P01 FATAL: password authentication failed/);
  });
});

describe('pgx', () => {
  it.each([
    ['in the clear', () => clear, 'sslmode=disable', null],
    ['as by default', () => offering, '', null],
    ['by require', () => requiring, 'sslmode=require', null],
    ['by verify-full', () => requiring, 'sslmode=verify-full&sslrootcert=CA', null],
    ['by direct TLS', () => requiring, 'sslmode=require&sslnegotiation=direct', null],
    ['by token', () => tokenTls, 'sslmode=require', TOKEN],
    ['by 3.2', () => clear, 'sslmode=disable&max_protocol_version=3.2', null],
  ] as const)('signs in %s', async (_, gateway, query, token) => {
    const login = token === null ? 'anyone' : `anyone:${token}`;
    const text = query.replace('CA', encodeURIComponent(caFile));
    const ran = await runGo('pgx-sign-in', [`postgres://${login}@127.0.0.1:${gateway().port}/appdb?${text}`]);
    expect(ran.stdout).toBe(`user: ${ACCOUNT}\n`);
  });
});
