import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TdsSettings } from '../../../protocols/engine.ts';
import { tds } from '../../../protocols/tds/engine.ts';
import { type Issued, makeAuthority } from '../../support/certificates.ts';
import { startTestGateway, type TestGateway, type TestGatewayOptions } from '../../support/gateway.ts';
import { mssqlSignIn } from '../../support/mssql.ts';
import { type SqlServer, startSqlServer } from '../../support/sql-server.ts';
import { golang, jdbc, python, type SignInResult, tedious } from '../../support/tds-clients.ts';

/**
 * Signing in to a server, whatever it is: the one that `startSqlServer` finds, or the test double. Nothing here may
 * depend on which.
 */

let server: SqlServer;
let front: Issued;
const stops: (() => Promise<void>)[] = [];

beforeAll(async () => {
  const authority = await makeAuthority('Server CA', 'rsa');
  const hosts = ['localhost', '127.0.0.1'];
  server = await startSqlServer({
    encryption: 'login-only',
    certificate: await authority.issue({ commonName: 'localhost', hosts, keyType: 'rsa' }),
  });
  const front_ = await makeAuthority('Front CA', 'rsa');
  front = await front_.issue({ commonName: 'localhost', hosts, keyType: 'rsa' });
});

afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
  await server?.close();
});

async function gateway(
  encryption: TdsSettings['encryption'],
  options: Partial<TestGatewayOptions> = {},
): Promise<TestGateway> {
  const started = await startTestGateway({
    engine: tds,
    settings: {
      engine: 'tds',
      encryption,
      clientEncryption: 'login',
      mars: false,
      windowsDomain: null,
      serverName: null,
    },
    servers: [{ host: server.host, port: server.port }],
    username: server.username,
    password: server.password,
    database: server.database,
    // The server under test may have made its certificate itself.
    serverTls: { mode: encryption === 'off' ? 'disable' : 'require' },
    clientTls: { certificate: front },
    ...options,
  });
  stops.push(() => started.close());
  return started;
}

async function asked(port: number, statement: string, database = server.database): Promise<SignInResult> {
  const signIn = { port, user: 'somebody', password: 'anything', database };
  return tedious(
    signIn,
    { encrypt: false, appName: 'sallyport test', workstationId: 'desk-7', maxRetriesOnTransientErrors: 0 },
    statement,
  );
}

describe('a session', () => {
  it.each(['login-only', 'on'] as const)(
    'opens with encryption `%s`, as the launch account',
    async (encryption) => {
      const { port, recorder } = await gateway(encryption);
      expect(await asked(port, 'SELECT SUSER_SNAME()')).toEqual({ ok: true, text: server.username });
      const { start } = recorder.sessions[0]!;
      expect(start).toMatchObject({
        databaseUser: server.username,
        clientUser: 'somebody',
        authentication: 'sql',
      });
      expect(start.serverVersion).toMatch(/^\d+\.\d+\.\d+$/);
      if (encryption === 'on') expect(start.serverTls).toMatch(/^TLS/);
    },
  );

  it('keeps what the client says of itself', async () => {
    const { port } = await gateway('on');
    expect(await asked(port, 'SELECT APP_NAME()')).toEqual({ ok: true, text: 'sallyport test' });
    expect(await asked(port, 'SELECT HOST_NAME()')).toEqual({ ok: true, text: 'desk-7' });
    expect(await asked(port, 'SELECT DB_NAME()')).toEqual({ ok: true, text: server.database });
  });

  it('is on record under the server’s own id', async () => {
    const { port, recorder } = await gateway('on');
    const { text } = await asked(port, 'SELECT @@SPID');
    expect(recorder.sessions.at(-1)!.start.serverSession).toBe(text);
  });

  it('opens the database of the resource when the client names none, and another when it does', async () => {
    const { port } = await gateway('on');
    expect(await asked(port, 'SELECT DB_NAME()', '')).toEqual({ ok: true, text: server.database });
    expect(await asked(port, 'SELECT DB_NAME()', 'master')).toEqual({ ok: true, text: 'master' });
  });

  it('opens for every family of drivers', async () => {
    const { port } = await gateway('on');
    const signIn = { port, user: 'somebody', password: 'anything', database: server.database };
    const statement = 'SELECT DB_NAME()';
    const results = [
      await mssqlSignIn(signIn, { encrypt: false }, statement),
      await mssqlSignIn(signIn, { encrypt: true }, statement),
      ...(await jdbc(
        [
          { url: `jdbc:sqlserver://localhost:${port};encrypt=false`, user: 'a', password: 'b' },
          {
            url: `jdbc:sqlserver://localhost:${port};encrypt=true;trustServerCertificate=true`,
            user: 'a',
            password: 'b',
          },
          { url: `jdbc:jtds:sqlserver://localhost:${port};ssl=off`, user: 'a', password: 'b' },
          { url: `jdbc:jtds:sqlserver://localhost:${port};ssl=request`, user: 'a', password: 'b' },
        ],
        null,
        statement,
      )),
      ...(await python([
        { driver: 'pytds', ...signIn, statement },
        { driver: 'pymssql', ...signIn, statement },
        { driver: 'pyodbc', ...signIn, statement, options: { Encrypt: 'no' } },
        {
          driver: 'mssql-python',
          ...signIn,
          statement,
          options: { Encrypt: 'yes', TrustServerCertificate: 'yes' },
        },
        { driver: 'freetds-odbc', ...signIn, statement, options: { TDS_Version: '7.4' } },
      ])),
      ...(await golang(
        [`sqlserver://a:b@localhost:${port}?encrypt=true&trustservercertificate=true`],
        statement,
      )),
    ];
    expect(results).toEqual(results.map(() => ({ ok: true, text: server.database })));
  });
});

describe('a session that cannot be opened', () => {
  it('for a wrong password of the launch account says so and names nobody', async () => {
    const { port, recorder } = await gateway('on', { password: 'canary-Wrong!1' });
    const { ok, text } = await asked(port, 'SELECT 1');
    expect(ok).toBe(false);
    expect(text).toMatch(/launch credentials \(SQL Server error 18456\)/);
    expect(text).not.toContain(server.username);
    expect(recorder.sessions).toEqual([]);
    expect(recorder.audits.at(-1)).toMatchObject({
      action: 'session_refused',
      reason: 'authentication_failed',
    });
  });

  it('is opened after all when the provider has a newer password', async () => {
    const { port } = await gateway('on', {
      password: 'canary-Wrong!1',
      refetched: { username: server.username, password: server.password },
    });
    expect(await asked(port, 'SELECT 1')).toEqual({ ok: true, text: '1' });
  });

  it('for a database that does not exist names the database', async () => {
    const { port } = await gateway('on');
    const { ok, text } = await asked(port, 'SELECT 1', 'no_such_database');
    expect(ok).toBe(false);
    expect(text).toContain('database "no_such_database" cannot be opened');
  });

  it('to a server whose certificate is not trusted', async () => {
    const stranger = await makeAuthority('Stranger CA');
    const { port } = await gateway('on', { serverTls: { mode: 'verify-full', ca: stranger.cert } });
    const { ok, text } = await asked(port, 'SELECT 1');
    expect(ok).toBe(false);
    expect(text).toContain('certificate');
  });
});

it('a resource can be checked by signing in', async () => {
  const { connect } = await import('node:net');
  const { createSecureContext } = await import('node:tls');
  const { StreamChannel } = await import('../../../src/gateway/channel.ts');
  const { Secret } = await import('../../../protocols/secret.ts');
  const socket = connect({ host: server.host, port: server.port, allowHalfOpen: true });
  const address = { host: server.host, port: server.port };
  const channel = new StreamChannel(socket, 'server', address, {
    mode: 'require',
    context: createSecureContext(),
  });
  const facts = await tds.probe(
    channel,
    {
      name: 'checked',
      engine: 'tds',
      addresses: [address],
      settings: {
        engine: 'tds',
        encryption: 'on',
        clientEncryption: 'login',
        mars: false,
        windowsDomain: null,
        serverName: null,
      },
    },
    { username: server.username, password: Secret.fromText(server.password), kind: 'password' },
    { database: server.database, random: (length) => Buffer.alloc(length) },
  );
  expect(facts).toMatchObject({ databaseUser: server.username, database: server.database });
  socket.destroy();
});
