import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TokenVerifier } from '../../../protocols/engine.ts';
import { Refusal } from '../../../protocols/error.ts';
import { tds } from '../../../protocols/tds/engine.ts';
import type { Access } from '../../../src/access/access.ts';
import { makePermit } from '../../../src/access/permit.ts';
import { type Issued, makeAuthority } from '../../support/certificates.ts';
import { startTestGateway, type TestGateway, type TestGatewayOptions } from '../../support/gateway.ts';
import { mssqlSignIn } from '../../support/mssql.ts';
import {
  FreeTds,
  golang,
  isql,
  jdbc,
  python,
  type SignInResult,
  tedious,
} from '../../support/tds-clients.ts';
import { startTdsDouble, type TdsDouble, type TdsDoubleOptions } from '../../support/tds-double/double.ts';

/** What the person at each tool reads when a sign-in is refused, and what else of a sign-in needs a whole gateway. */

const LAUNCH = 'canary-launch';
let front: Issued;
let back: { certificate: Issued; ca: string };
const stops: (() => Promise<void>)[] = [];

beforeAll(async () => {
  const frontCa = await makeAuthority('Front CA', 'rsa');
  const backCa = await makeAuthority('Back CA', 'rsa');
  const hosts = ['localhost', '127.0.0.1'];
  front = await frontCa.issue({ commonName: 'localhost', hosts, keyType: 'rsa' });
  back = {
    certificate: await backCa.issue({ commonName: 'localhost', hosts, keyType: 'rsa' }),
    ca: backCa.cert,
  };
});

afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
});

async function double(options: Partial<TdsDoubleOptions> = {}): Promise<TdsDouble> {
  const started = await startTdsDouble({
    encryption: 'required',
    certificate: back.certificate,
    logins: { svc: LAUNCH },
    ...options,
  });
  stops.push(() => started.close());
  return started;
}

async function gateway(port: number, options: Partial<TestGatewayOptions> = {}): Promise<TestGateway> {
  const started = await startTestGateway({
    engine: tds,
    settings: {
      engine: 'tds',
      encryption: 'on',
      clientEncryption: 'login',
      mars: false,
      windowsDomain: null,
      serverName: null,
    },
    servers: [{ host: '127.0.0.1', port }],
    username: 'svc',
    password: LAUNCH,
    serverTls: { mode: 'verify-full', ca: back.ca },
    clientTls: { certificate: front },
    ...options,
  });
  stops.push(() => started.close());
  return started;
}

/** Every client, once in the clear (or for LOGIN7 only) and once encrypted. */
async function everyClient(
  port: number,
  user = 'alice',
  password = 'any-thing',
  database = 'testdb',
): Promise<Record<string, SignInResult>> {
  const signIn = { port, user, password, database };
  const freeTds = await FreeTds.start(port);
  try {
    const [sqlServer, jtds] = [
      `jdbc:sqlserver://localhost:${port};databaseName=${database};loginTimeout=15;connectRetryCount=0;trustServerCertificate=true`,
      `jdbc:jtds:sqlserver://localhost:${port}/${database};loginTimeout=15`,
    ];
    const [javaResults, pythonResults, goResults] = [
      await jdbc([
        { url: `${sqlServer};encrypt=false`, user, password },
        { url: `${sqlServer};encrypt=true`, user, password },
        { url: `${jtds};ssl=off`, user, password },
        { url: `${jtds};ssl=request`, user, password },
        { url: `${jtds};ssl=require`, user, password },
      ]),
      await python([
        { driver: 'pytds', ...signIn, timeout: 4 },
        { driver: 'pymssql', ...signIn },
        { driver: 'pyodbc', ...signIn, options: { Encrypt: 'no' } },
        { driver: 'pyodbc', ...signIn, options: { Encrypt: 'yes', TrustServerCertificate: 'yes' } },
        { driver: 'freetds-odbc', ...signIn, options: { TDS_Version: '7.4' } },
      ]),
      await golang([
        `sqlserver://${user}:${password}@localhost:${port}?database=${database}&encrypt=disable`,
        `sqlserver://${user}:${password}@localhost:${port}?database=${database}&encrypt=true&trustservercertificate=true`,
      ]),
    ];
    return {
      'tedious in the clear': await tedious(signIn, { encrypt: false, maxRetriesOnTransientErrors: 0 }),
      'tedious encrypted': await tedious(signIn, {
        encrypt: true,
        trustServerCertificate: true,
        maxRetriesOnTransientErrors: 0,
      }),
      'mssql in the clear': await mssqlSignIn(signIn, { encrypt: false }),
      'mssql encrypted': await mssqlSignIn(signIn, { encrypt: true }),
      'mssql-jdbc, login only': javaResults[0]!,
      'mssql-jdbc encrypted': javaResults[1]!,
      'jTDS from LOGIN7': javaResults[2]!,
      'jTDS, login only': javaResults[3]!,
      'jTDS encrypted': javaResults[4]!,
      'python-tds': pythonResults[0]!,
      'pymssql, login only': pythonResults[1]!,
      // In a process of its own: DB-Library words a message once.
      'pymssql encrypted': (
        await python([{ driver: 'pymssql', ...signIn, options: { encryption: 'require' } }])
      )[0]!,
      'ODBC 18, login only': pythonResults[2]!,
      'ODBC 18 encrypted': pythonResults[3]!,
      'FreeTDS ODBC': pythonResults[4]!,
      'go-mssqldb in the clear': goResults[0]!,
      'go-mssqldb encrypted': goResults[1]!,
      'tsql 7.1': await freeTds.tsql('request-7.1', signIn),
      'tsql 7.4': await freeTds.tsql('require-7.4', signIn),
      isql: await isql(signIn),
    };
  } finally {
    await freeTds.stop();
  }
}

/** Those whose client does not show `text`, with what it says instead. */
function withoutText(results: Record<string, SignInResult>, text: RegExp): Record<string, SignInResult> {
  return Object.fromEntries(
    Object.entries(results).filter(([, result]) => result.ok || !text.test(result.text)),
  );
}

/** An address where nothing listens. */
async function deadPort(): Promise<number> {
  const started = await startTdsDouble({ encryption: 'off' });
  await started.close();
  return started.port;
}

describe('every client shows why it may not come in', () => {
  it('when the server cannot be reached', async () => {
    const { port } = await gateway(await deadPort());
    expect(withoutText(await everyClient(port), /cannot be reached/)).toEqual({});
  });

  it('when the server’s certificate is not trusted', async () => {
    const other = await makeAuthority('Other CA', 'rsa');
    const { port } = await gateway((await double()).port, {
      serverTls: { mode: 'verify-full', ca: other.cert },
    });
    expect(withoutText(await everyClient(port), /certificate/)).toEqual({});
  });

  it('when the launch credentials are refused, without naming the account', async () => {
    const server = await double();
    const { port } = await gateway(server.port, { password: 'canary-wrong' });
    const results = await everyClient(port);
    expect(withoutText(results, /did not take the launch credentials \(SQL Server error 18456\)/)).toEqual(
      {},
    );
    expect(JSON.stringify(results)).not.toMatch(/svc|canary/);
  });

  it('when the database does not exist, by its number', async () => {
    const { port } = await gateway((await double()).port);
    const results = await everyClient(port, 'alice', 'any-thing', 'nosuchdb');
    // python-tds tries this number again until its time is over, and then has nothing to say. So it does directly.
    delete results['python-tds'];
    expect(withoutText(results, /the database "nosuchdb" cannot be opened/)).toEqual({});
    expect(results['tsql 7.4']!.text).toContain('Msg 4060');
  });

  it('when the database is not among those that are allowed', async () => {
    const { port } = await gateway((await double()).port, { databases: ['sales'] });
    expect(withoutText(await everyClient(port), /database "testdb" may not be opened here.*sales/s)).toEqual(
      {},
    );
  });

  it('when a token is asked for and the password is none, encrypted or not', async () => {
    const { port } = await gateway((await double()).port, tokenAccess('right-token'));
    const results = await everyClient(port);
    expect(withoutText(results, /token|not encrypted/)).toEqual({});
    expect(JSON.stringify(results)).not.toContain('right-token');
  });

  it('when there are too many sessions', async () => {
    const { port } = await gateway((await double()).port, { limits: { maxConnections: 0 } });
    expect(withoutText(await everyClient(port), /too many sessions/)).toEqual({});
  });
});

/** Access by one token, for whatever user. */
function tokenAccess(token: string): Pick<TestGatewayOptions, 'access' | 'clientAuth'> {
  const verifier: TokenVerifier = {
    scram: {
      salt: Buffer.alloc(16),
      iterations: 4096,
      storedKey: Buffer.alloc(32),
      serverKey: Buffer.alloc(32),
    },
    nativeHash: Buffer.alloc(20),
    sha2Hash: Buffer.alloc(32),
    matches: (shown) => shown.toString() === token,
  };
  const access: Access = {
    challenge: async () => ({ method: 'token', verifier }),
    admit: async (claim, proof, { session, resources }) => {
      if (proof.method !== 'token' || !proof.valid) {
        throw new Refusal('credentials_invalid', 'the launch token is not valid', {
          hint: 'Ask for a new one.',
        });
      }
      return makePermit({
        session,
        principal: 'by-token',
        resource: resources[0]!.resource,
        database: claim.database,
        readOnly: false,
        launch: null,
      });
    },
    closed: () => {},
  };
  return { access, clientAuth: 'token' };
}

describe('a launch token as the password', () => {
  it('lets in every client that encrypts its LOGIN7, and none that does not', async () => {
    const { port } = await gateway((await double()).port, tokenAccess('right-token'));
    const results = await everyClient(port, 'alice', 'right-token');
    const refused = Object.keys(results).filter((name) => !results[name]!.ok);
    expect(refused).toEqual([
      'tedious in the clear',
      'mssql in the clear',
      'jTDS from LOGIN7',
      'python-tds',
      'go-mssqldb in the clear',
    ]);
    for (const name of refused) expect(results[name]!.text).toContain('not encrypted');
  });
});

describe('a whole sign-in', () => {
  it('follows the server’s routing and never tells the client', async () => {
    const target = await double();
    const front_ = await double({
      route: { host: 'localhost', port: target.port },
      partner: 'other.example.com',
    });
    const started = await gateway(front_.port);
    const results = await everyClient(started.port);
    expect(withoutText(results, /^$/)).toEqual(results);
    expect(Object.values(results).every(({ ok }) => ok)).toBe(true);
    // Each of the pools of mssql makes a trial first.
    expect(target.sessions.length).toBe(Object.keys(results).length + 2);
    expect(target.logins.every(({ login }) => login.server === 'localhost')).toBe(true);
    expect(target.tls.every(({ serverName }) => serverName === 'localhost')).toBe(true);
  });

  it('uses a new password when the old one is refused', async () => {
    const server = await double();
    const { port } = await gateway(server.port, {
      password: 'canary-old',
      refetched: { username: 'svc', password: LAUNCH },
    });
    const signIn = { port, user: 'alice', password: 'x', database: 'testdb' };
    expect(await tedious(signIn, { encrypt: false })).toEqual({ ok: true, text: '42' });
    expect(server.logins.length).toBe(2);
  });

  it('signs in as a Windows account and by an access token', async () => {
    for (const [options, doubleOptions, user] of [
      [
        { username: 'CORP\\svc' },
        { accounts: { 'CORP\\svc': LAUNCH }, extendedProtection: true },
        'ntlm CORP\\svc',
      ],
      [{ credentialKind: 'token' as const }, { tokens: [LAUNCH], fedAuthRequired: 1 }, 'token'],
    ] as const) {
      const server = await double({ logins: {}, ...doubleOptions });
      const started = await gateway(server.port, options);
      const signIn = { port: started.port, user: 'alice', password: 'x', database: 'testdb' };
      const [jdbcUser] = await jdbc(
        [
          {
            url: `jdbc:sqlserver://localhost:${started.port};encrypt=true;trustServerCertificate=true`,
            user: 'bob',
            password: 'y',
          },
        ],
        null,
        'SELECT SUSER_SNAME()',
      );
      expect(await tedious(signIn, { encrypt: false }, 'SELECT SUSER_SNAME()')).toEqual({
        ok: true,
        text: user,
      });
      expect(jdbcUser).toEqual({ ok: true, text: user });
    }
  });

  it('keeps what the client says of itself', async () => {
    const server = await double();
    const { port, recorder } = await gateway(server.port);
    const signIn = { port, user: 'alice', password: 'x', database: 'testdb' };
    await tedious(signIn, { encrypt: false, appName: 'my report', workstationId: 'desk-7' });
    expect(server.logins[0]!.login).toMatchObject({
      user: 'svc',
      app: 'my report',
      host: 'desk-7',
      library: 'Tedious',
      database: 'testdb',
      server: '127.0.0.1',
    });
    expect(recorder.sessions[0]!.start).toMatchObject({
      clientUser: 'alice',
      clientProgram: 'my report',
      databaseUser: 'svc',
      database: 'testdb',
      authentication: 'sql',
      serverVersion: '16.0.1000',
    });
    expect(recorder.sessions[0]!.start.clientAttributes).toMatchObject({ host: 'desk-7', driver: 'Tedious' });
  });

  it('with an Entra token of the client’s own is let in under trust, and by dialog is told what to do', async () => {
    const { port } = await gateway((await double()).port);
    const signIn = { port, user: '', password: '', database: 'testdb' };
    const options = { encrypt: true, trustServerCertificate: true };
    const token = {
      type: 'azure-active-directory-access-token' as const,
      options: { token: 'canary-entra' },
    };
    expect(await tedious(signIn, options, 'SELECT SUSER_SNAME()', token)).toEqual({ ok: true, text: 'svc' });
    const dialog = {
      type: 'azure-active-directory-service-principal-secret' as const,
      options: { clientId: 'x', clientSecret: 'y', tenantId: 'z' },
    };
    const refused = await tedious(signIn, options, 'SELECT 1', dialog);
    expect(refused.ok).toBe(false);
    expect(refused.text).toContain('Choose "SQL Server Authentication"');
  });

  it('of a Windows client under trust is served, where the driver lets it come', async () => {
    const { port } = await gateway((await double()).port);
    const windows = { type: 'ntlm' as const, options: { userName: 'bob', password: 'y', domain: 'CORP' } };
    const signIn = { port, user: '', password: '', database: 'testdb' };
    const results = [
      await tedious(signIn, { encrypt: false }, 'SELECT 42', windows),
      ...(await jdbc([
        {
          url: `jdbc:sqlserver://localhost:${port};encrypt=false;integratedSecurity=true;authenticationScheme=NTLM;domain=CORP`,
          user: 'bob',
          password: 'y',
        },
        {
          url: `jdbc:jtds:sqlserver://localhost:${port}/testdb;domain=CORP;ssl=off`,
          user: 'bob',
          password: 'y',
        },
      ])),
      ...(await python([{ driver: 'pymssql', port, user: 'CORP\\bob', password: 'y', database: 'testdb' }])),
    ];
    expect(results).toEqual(results.map(() => ({ ok: true, text: '42' })));
  });
});
