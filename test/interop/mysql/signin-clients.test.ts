import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import mysql2 from 'mysql2/promise';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Refusal } from '../../../protocols/error.ts';
import { mysql } from '../../../protocols/mysql/engine.ts';
import type { Access } from '../../../src/access/access.ts';
import { ListenerAccess } from '../../../src/access/listener-access.ts';
import { type Issued, makeAuthority } from '../../support/certificates.ts';
import type { DatabaseServer } from '../../support/database.ts';
import { startTestGateway, type TestGateway } from '../../support/gateway.ts';
import { mariadb11Missing, mariadbClient, startMariadb } from '../../support/mariadb.ts';
import { mysqlClient, mysqlMissing, mysqlTree, startMysql } from '../../support/mysql.ts';
import {
  type Call,
  commandLine,
  execute,
  type MysqlClient,
  mysqlClients,
  type Outcome,
} from '../../support/mysql-clients.ts';
import { MYSQL_SETTINGS, verifierOf } from '../../support/mysql-peers.ts';

/** Every client's sign-in through the gateway: in its defaults, with TLS required, by trust and by token. */

const QUERY = "SELECT CONCAT(CURRENT_USER(), ' ', DATABASE())";
const IN = { ok: true, text: 'app@% shop' };
const SECRET = 'canary-App!1';
const TOKEN = 'launch-token-1';

let folder: string;
let listener: Issued;
let caFile: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'sallyport-signin-'));
  const authority = await makeAuthority('Listeners', 'rsa');
  listener = await authority.issue({
    commonName: 'localhost',
    hosts: ['localhost', '127.0.0.1'],
    keyType: 'rsa',
  });
  caFile = join(folder, 'listener-ca.pem');
  writeFileSync(caFile, authority.cert);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Lets whoever shows the token in, as its principal; everybody else is told no. */
class TokenAccess extends ListenerAccess implements Access {
  override async challenge(): ReturnType<Access['challenge']> {
    return { method: 'token', verifier: verifierOf(TOKEN) };
  }

  override async admit(...[claim, proof, visitor]: Parameters<Access['admit']>): ReturnType<Access['admit']> {
    if (proof.method !== 'token' || !proof.valid) {
      throw new Refusal('credentials_invalid', 'the token is not valid');
    }
    return super.admit(claim, { method: 'trust' }, { ...visitor, clientAuth: 'trust' });
  }
}

// MariaDB 11.8 differs from 10.11 in how its clients check certificates: it gets the tests that show this.
const FAMILIES = [
  { name: 'MySQL', flavor: 'mysql' as const, brief: false, missing: mysqlMissing, start: () => startMysql() },
  {
    name: 'MariaDB 10.11',
    flavor: 'mariadb' as const,
    brief: false,
    missing: () => false,
    start: () => startMariadb('10'),
  },
  {
    name: 'MariaDB 11.8',
    flavor: 'mariadb' as const,
    // As 10.11 but for the check of certificates, which is in the others.
    brief: true,
    missing: mariadb11Missing,
    start: () => startMariadb('11'),
  },
];

function nothing(_name: string, _run: () => Promise<void>): void {}

for (const family of FAMILIES) {
  describe.skipIf(family.missing())(family.name, () => {
    let server: DatabaseServer;
    let plain: TestGateway;
    let withTls: TestGateway;
    let byToken: TestGateway;

    beforeAll(async () => {
      server = await family.start();
      await server.run(
        `CREATE USER app@'%' IDENTIFIED BY '${SECRET}'`,
        'CREATE DATABASE shop',
        "GRANT ALL ON shop.* TO app@'%'",
      );
      const common = {
        engine: mysql,
        settings: { ...MYSQL_SETTINGS, flavor: family.flavor },
        servers: [{ host: server.host, port: server.port }],
        username: 'app',
        password: SECRET,
        serverTls: { mode: 'verify-full' as const, ca: server.ca, serverName: 'localhost' },
      };
      plain = await startTestGateway(common);
      withTls = await startTestGateway({ ...common, clientTls: { certificate: listener } });
      byToken = await startTestGateway({
        ...common,
        clientTls: { certificate: listener },
        clientAuth: 'token',
        access: new TokenAccess(),
      });
    });

    afterAll(async () => {
      await Promise.all([plain?.close(), withTls?.close(), byToken?.close()]);
      await server?.stop();
    });

    /** Runs every client, a few at a time, and gives what each came to. */
    async function runAll(
      gateway: TestGateway,
      call: Partial<Call>,
      clients = mysqlClients(),
    ): Promise<Map<string, Outcome>> {
      const outcomes = new Map<string, Outcome>();
      const waiting = [...clients];
      const worker = async (): Promise<void> => {
        for (let client = waiting.shift(); client !== undefined; client = waiting.shift()) {
          const { port } = gateway;
          const all: Call = {
            port,
            user: 'anybody',
            password: null,
            database: 'shop',
            tls: 'default',
            caFile,
            ...call,
          };
          outcomes.set(client.name, await client.run(all, QUERY));
        }
      };
      await Promise.all([worker(), worker(), worker()]);
      return outcomes;
    }

    function expected(outcome: (client: MysqlClient) => unknown): Map<string, unknown> {
      return new Map(mysqlClients().map((client) => [client.name, outcome(client)]));
    }

    /** Order does not matter: clients finish as they do. */
    function sorted(outcomes: Map<string, unknown>): unknown {
      return Object.fromEntries([...outcomes].sort(([left], [right]) => left.localeCompare(right)));
    }

    // Not skipped but not there: what is left out here is in another family's tests.
    const testInFull = family.brief ? nothing : test;
    const testInBrief = family.brief ? test : nothing;
    const UNTRUSTED = { ok: false, text: expect.stringContaining('ERROR 2026') };
    const REFUSED = { ok: false, text: expect.any(String) };

    testInFull('trust: no password, TLS not offered', async () => {
      expect(sorted(await runAll(plain, {}))).toEqual(sorted(expected(() => IN)));
    });

    testInFull('trust: any password, TLS not offered', async () => {
      const outcomes = await runAll(plain, { password: 'whatever' });
      expect(sorted(outcomes)).toEqual(
        sorted(expected(({ checksServer }) => (checksServer ? UNTRUSTED : IN))),
      );
    });

    testInFull('trust: no password, TLS offered', async () => {
      expect(sorted(await runAll(withTls, {}))).toEqual(sorted(expected(() => IN)));
    });

    // What it could check our certificate by is the password, and nobody knows that here.
    test('trust: any password, TLS offered', async () => {
      const outcomes = await runAll(withTls, { password: 'whatever' });
      expect(sorted(outcomes)).toEqual(
        sorted(expected(({ checksServer }) => (checksServer ? UNTRUSTED : IN))),
      );
    });

    test('trust: any password, TLS required and our certificate checked', async () => {
      const before = withTls.recorder.sessions.length;
      expect(sorted(await runAll(withTls, { password: 'whatever', tls: 'required' }))).toEqual(
        sorted(expected(() => IN)),
      );
      const sessions = withTls.recorder.sessions.slice(before);
      expect(sessions).toHaveLength(mysqlClients().length);
      for (const { start } of sessions) {
        expect(start.clientTls).toMatch(/^TLSv1\.[23] /);
        expect(start.serverTls).toMatch(/^TLSv1\.3 /);
        expect(start).toMatchObject({
          serverTlsVerified: true,
          databaseUser: 'app',
          clientUser: 'anybody',
          database: 'shop',
        });
      }
    });

    test('token: the right one, TLS required', async () => {
      expect(sorted(await runAll(byToken, { password: TOKEN, tls: 'required' }))).toEqual(
        sorted(expected(() => IN)),
      );
    });

    // The token proves our certificate to MariaDB's clients, under the plugin that MariaDB itself greets with.
    test('token: the right one, in the client’s defaults', async () => {
      const outcomes = await runAll(byToken, { password: TOKEN });
      const isUntrusted = (client: MysqlClient): boolean =>
        client.checksServer === true && family.flavor === 'mysql';
      expect(sorted(outcomes)).toEqual(sorted(expected((client) => (isUntrusted(client) ? UNTRUSTED : IN))));
    });

    // Some clients believe a seal only from a server whose version has it.
    testInBrief('token: a certificate of our own making is taken for the seal in our OK', async () => {
      const sealing = mysqlClients().filter(({ takesSeal }) => takesSeal);
      const call = { password: TOKEN, tls: 'sealed' } as const;
      expect(sorted(await runAll(byToken, call, sealing))).toEqual(
        sorted(new Map(sealing.map(({ name }) => [name, IN]))),
      );
      const trusted = await runAll(withTls, { ...call, password: 'whatever' }, sealing);
      expect(sorted(trusted)).toEqual(sorted(new Map(sealing.map(({ name }) => [name, REFUSED]))));
    });

    testInFull('a client that would like to compress goes on without', async () => {
      const uncompressed = [
        ...(mysqlTree() === null
          ? []
          : [{ ...mysqlClient(), option: '--compression-algorithms=zlib,zstd,uncompressed' }]),
        { ...mariadbClient('10'), option: '--compress' },
      ];
      const call = {
        port: plain.port,
        user: 'x',
        password: null,
        database: 'shop',
        tls: 'default',
        caFile,
      } as const;
      for (const { file, args, option } of uncompressed) {
        const client = commandLine('compressing', { file, args: [...args, option] }, () => []);
        expect(await client.run(call, QUERY)).toEqual(IN);
      }
      const connection = await mysql2.createConnection({
        host: '127.0.0.1',
        port: plain.port,
        user: 'x',
        database: 'shop',
        compress: true,
      });
      expect((await connection.query({ sql: QUERY, rowsAsArray: true }))[0]).toEqual([[IN.text]]);
      await connection.end();
      if (mysqlTree() === null) return;
      // Nothing but compression: this one cannot be served, and says why.
      const only = commandLine(
        'only zlib',
        { ...mysqlClient(), args: [...mysqlClient().args, '--compression-algorithms=zlib'] },
        () => [],
      );
      expect(await only.run(call, QUERY)).toEqual({ ok: false, text: expect.stringContaining('ERROR 2066') });
    });

    testInFull('through a Unix socket, with any password and with a token', async () => {
      const socketPath = join(folder, `${family.flavor}.sock`);
      const options = {
        engine: mysql,
        settings: { ...MYSQL_SETTINGS, flavor: family.flavor },
        servers: [{ host: server.host, port: server.port }],
        username: 'app',
        password: SECRET,
        serverTls: { mode: 'verify-full' as const, ca: server.ca, serverName: 'localhost' },
        clientTls: { certificate: listener },
        socketPath,
      };
      const lines = [
        ...(mysqlTree() === null ? [] : [mysqlClient()]),
        mariadbClient('10'),
        ...(mariadb11Missing() ? [] : [mariadbClient('11')]),
      ];
      for (const [more, password] of [
        [{}, 'whatever'],
        [{ clientAuth: 'token' as const, access: new TokenAccess() }, TOKEN],
      ] as const) {
        const gateway = await startTestGateway({ ...options, ...more });
        try {
          for (const { file, args } of lines) {
            const how = ['--protocol=SOCKET', `--socket=${socketPath}`, '--user=x', `--password=${password}`];
            const what = ['--skip-column-names', '--batch', `--execute=${QUERY}`, 'shop'];
            expect(await execute(file, [...args, ...how, ...what]), file).toEqual(IN);
          }
        } finally {
          await gateway.close();
        }
      }
    });

    const bareCli = mysqlTree() !== null && family.flavor === 'mariadb' ? testInFull : nothing;
    bareCli('token: mysql 9 without its native plugin, greeted with that, is asked again', async () => {
      const { file, args } = mysqlClient();
      const bare = commandLine('mysql 9, bare', { file, args: [...args, '--plugin-dir=/nowhere'] }, () => []);
      const call = { user: 'x', database: 'shop', tls: 'default', caFile, port: byToken.port } as const;
      expect(await bare.run({ ...call, password: TOKEN }, QUERY)).toEqual(IN);
      expect(await bare.run({ ...call, password: 'wrong' }, QUERY)).toEqual({
        ok: false,
        text: expect.stringContaining('ERROR 1045'),
      });
    });

    testInFull('token: the wrong one, and none', async () => {
      for (const password of ['wrong', null]) {
        expect(sorted(await runAll(byToken, { password }))).toEqual(sorted(expected(() => REFUSED)));
      }
    });

    test('no byte of the launch password or of a token is in what was logged or recorded', () => {
      for (const gateway of [plain, withTls, byToken]) {
        const written = [...gateway.logs, JSON.stringify(gateway.recorder)].join('\n');
        for (const secret of [SECRET, TOKEN, 'whatever']) expect(written).not.toContain(secret);
      }
    });
  });
}
