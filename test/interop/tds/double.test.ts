import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Issued, makeAuthority } from '../../support/certificates.ts';
import { mssqlSignIn } from '../../support/mssql.ts';
import { FreeTds, golang, isql, jdbc, python, tedious } from '../../support/tds-clients.ts';
import { startTdsDouble, type TdsDouble } from '../../support/tds-double/double.ts';
import type { DoubleEncryption } from '../../support/tds-double/login.ts';

/**
 * The test double itself, without a gateway: what other tests take for a SQL Server must be one to every client. It must
 * also be able to do what is wrong, so that a test that passes says something.
 */

let certificate: Issued;
const USER = 'svc';
const PASSWORD = 'Double-1';

beforeAll(async () => {
  const authority = await makeAuthority('Double CA', 'rsa');
  certificate = await authority.issue({
    commonName: 'localhost',
    hosts: ['localhost', '127.0.0.1'],
    keyType: 'rsa',
  });
});

function double(encryption: DoubleEncryption, form?: 'split'): Promise<TdsDouble> {
  return startTdsDouble({
    encryption,
    certificate,
    logins: { [USER]: PASSWORD },
    ...(form ? { form } : {}),
  });
}

describe.each(['off', 'login-only', 'required'] as const)('with encryption `%s`', (encryption) => {
  let server: TdsDouble;
  let freeTds: FreeTds;

  beforeAll(async () => {
    server = await double(encryption);
    freeTds = await FreeTds.start(server.port);
  });

  afterAll(async () => {
    await freeTds?.stop();
    await server?.close();
  });

  it('it is a SQL Server to every client that may come without encryption or does not insist on it', async () => {
    const signIn = { port: server.port, user: USER, password: PASSWORD, database: 'testdb' };
    const encrypted = encryption !== 'off';
    const results = {
      tedious: await tedious(signIn, { encrypt: encrypted, trustServerCertificate: true }),
      mssql: await mssqlSignIn(signIn, { encrypt: encrypted }),
      jdbc: (
        await jdbc([
          {
            url: `jdbc:sqlserver://localhost:${server.port};encrypt=false;trustServerCertificate=true`,
            user: USER,
            password: PASSWORD,
          },
        ])
      )[0],
      jtds: (
        await jdbc([
          {
            url: `jdbc:jtds:sqlserver://localhost:${server.port};ssl=request`,
            user: USER,
            password: PASSWORD,
          },
        ])
      )[0],
      golang: (
        await golang([
          `sqlserver://${USER}:${PASSWORD}@localhost:${server.port}?encrypt=false&trustservercertificate=true`,
        ])
      )[0],
      tsql: await freeTds.tsql('request', signIn),
      isql: await isql(signIn),
      python: await python([
        { driver: 'pymssql', ...signIn },
        { driver: 'pyodbc', ...signIn, options: { Encrypt: 'no', TrustServerCertificate: 'yes' } },
        { driver: 'mssql-python', ...signIn, options: { Encrypt: 'no', TrustServerCertificate: 'yes' } },
        { driver: 'freetds-odbc', ...signIn, options: { TDS_Version: '7.4' } },
      ]),
    };
    const good = { ok: true, text: '42' };
    expect(results).toEqual({
      tedious: good,
      mssql: good,
      jdbc: good,
      jtds: good,
      golang: good,
      tsql: good,
      isql: good,
      python: [good, good, good, good],
    });
  });

  it('and it lets nobody in with a wrong password', async () => {
    const signIn = { port: server.port, user: USER, password: 'wrong', database: 'testdb' };
    const { ok, text } = await tedious(signIn, {
      encrypt: encryption !== 'off',
      trustServerCertificate: true,
    });
    expect({ ok, text }).toEqual({ ok: false, text: `Login failed for user '${USER}'.` });
  });
});

describe('what would break a client breaks it', () => {
  it('a flight of TLS in two messages stalls tedious', async () => {
    const server = await double('required', 'split');
    try {
      const signIn = { port: server.port, user: USER, password: PASSWORD, database: 'testdb' };
      const { ok, text } = await tedious(signIn, {
        encrypt: true,
        trustServerCertificate: true,
        connectTimeout: 2000,
      });
      expect(ok).toBe(false);
      expect(text).toMatch(/timeout|Failed to connect/i);
    } finally {
      await server.close();
    }
  });
});
