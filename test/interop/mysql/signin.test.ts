import { connect as connectSocket } from 'node:net';
import { userInfo } from 'node:os';
import mysql2 from 'mysql2/promise';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { MysqlSettings } from '../../../protocols/engine.ts';
import { mysql } from '../../../protocols/mysql/engine.ts';
import type { Access } from '../../../src/access/access.ts';
import { ListenerAccess } from '../../../src/access/listener-access.ts';
import { makePermit } from '../../../src/access/permit.ts';
import type { DatabaseServer } from '../../support/database.ts';
import { startTestGateway, type TestGateway, type TestGatewayOptions } from '../../support/gateway.ts';
import { mariadb11Missing, startMariadb } from '../../support/mariadb.ts';
import { mysqlMissing, startMysql } from '../../support/mysql.ts';
import { MYSQL_SETTINGS } from '../../support/mysql-peers.ts';
import { type ByteRelay, startRelay } from '../../support/relay.ts';

/** Sallyport's own sign-in to real servers: every plugin and its ways, TLS modes, refusals, and what a client sees of it. */

const SECRET = 'canary-Launch!1';

interface Means extends Partial<Omit<TestGatewayOptions, 'settings'>> {
  readonly settings?: Partial<MysqlSettings>;
}

const gateways: TestGateway[] = [];

afterEach(async () => {
  for (const gateway of gateways) {
    const written = [...gateway.logs, JSON.stringify(gateway.recorder)].join('\n');
    expect(written).not.toContain('canary-');
  }
  await Promise.all(gateways.splice(0).map((gateway) => gateway.close()));
});

async function gatewayTo(server: DatabaseServer, means: Means = {}): Promise<TestGateway> {
  const gateway = await startTestGateway({
    engine: mysql,
    servers: [{ host: server.host, port: server.port }],
    username: 'app',
    password: SECRET,
    ...means,
    settings: { ...MYSQL_SETTINGS, ...means.settings },
  });
  gateways.push(gateway);
  return gateway;
}

/** Signs in with mysql2 as nobody in particular; what the server calls the account, and how it was checked. */
async function signIn(
  gateway: TestGateway,
  options: mysql2.ConnectionOptions = {},
): Promise<{ account: string; authentication: string }> {
  const connection = await mysql2.createConnection({
    host: '127.0.0.1',
    port: gateway.port,
    user: 'anybody',
    ...options,
  });
  try {
    const [rows] = await connection.query({ sql: 'SELECT CURRENT_USER()', rowsAsArray: true });
    const { authentication } = gateway.recorder.sessions.at(-1)!.start;
    return { account: (rows as string[][])[0]![0]!, authentication };
  } finally {
    await connection.end();
  }
}

/** What a client is told that does not get in. */
async function refusal(
  gateway: TestGateway,
  options: mysql2.ConnectionOptions = {},
): Promise<{ errno: number; message: string }> {
  const outcome = await signIn(gateway, options).catch(
    (error: unknown) => error as { errno: number; sqlMessage?: string; message: string },
  );
  if ('account' in outcome) throw new Error(`${outcome.account} got in`);
  return { errno: outcome.errno, message: outcome.sqlMessage ?? outcome.message };
}

/** The log is written once the client has been told. */
async function logged(gateway: TestGateway, text: string): Promise<void> {
  await expect.poll(() => gateway.logs.join('')).toContain(text);
}

/** Lets everybody in, to read. */
class ReadingAccess extends ListenerAccess {
  override async admit(...given: Parameters<Access['admit']>): ReturnType<Access['admit']> {
    return makePermit({ ...(await super.admit(...given)), readOnly: true });
  }
}

/** A session that may only read, before and after what resets it: the server itself refuses to write. */
async function expectReadOnly(gateway: TestGateway): Promise<void> {
  const connection = await mysql2.createConnection({
    host: '127.0.0.1',
    port: gateway.port,
    user: 'x',
    database: 'shop',
  });
  const writes = (): Promise<unknown> => connection.query('INSERT INTO goods VALUES (1)');
  await expect(writes()).rejects.toMatchObject({ errno: 1792 });
  await connection.reset();
  await expect(writes()).rejects.toMatchObject({ errno: 1792 });
  await connection.changeUser({ user: 'y', database: 'shop' });
  await expect(writes()).rejects.toMatchObject({ errno: 1792 });
  const [rows] = await connection.query({ sql: 'SELECT COUNT(*) FROM goods', rowsAsArray: true });
  expect(rows).toEqual([[0]]);
  await connection.end();
}

const DENIED = {
  errno: 1045,
  message:
    'the database did not take the account that this gateway signs in with (Ask the people who run it.)',
};
const UNANSWERED = {
  errno: 1045,
  message: 'the database asks for a sign-in that this gateway may not answer (Ask the people who run it.)',
};

describe.skipIf(mysqlMissing())('MySQL', () => {
  let server: DatabaseServer;
  let verified: Means;
  let publicKey: string;

  beforeAll(async () => {
    server = await startMysql({
      options: ['--plugin-load-add=auth_socket.so', '--max-connect-errors=20', '--connect-timeout=2'],
    });
    await server.run(
      'CREATE DATABASE shop',
      'CREATE DATABASE secret',
      `CREATE USER app@'%' IDENTIFIED WITH caching_sha2_password BY '${SECRET}'`,
      "GRANT ALL ON shop.* TO app@'%'",
      `CREATE USER sha256@'%' IDENTIFIED WITH sha256_password BY '${SECRET}'`,
      "CREATE USER nothing@'%' IDENTIFIED WITH caching_sha2_password BY ''",
      `CREATE USER only_tls@'%' IDENTIFIED BY '${SECRET}' REQUIRE SSL`,
      `CREATE USER only_x509@'%' IDENTIFIED BY '${SECRET}' REQUIRE X509`,
      `CREATE USER two@'%' IDENTIFIED WITH caching_sha2_password BY '${SECRET}' AND IDENTIFIED WITH auth_socket AS '${userInfo().username}'`,
      `CREATE USER root_user@'localhost' IDENTIFIED WITH auth_socket AS '${userInfo().username}'`,
    );
    verified = { serverTls: { mode: 'verify-full', ca: server.ca, serverName: 'localhost' } };
    const [row] = await server.run("SHOW STATUS LIKE 'Caching_sha2_password_rsa_public_key'");
    publicKey = String(row?.['Value']);
  });

  afterAll(() => server?.stop());

  const forget = (): Promise<unknown> => server.run('FLUSH PRIVILEGES');

  test('caching_sha2_password inside TLS: in full, then fast, and in full again after a change and a restart', async () => {
    const gateway = await gatewayTo(server, verified);
    await forget();
    const FULL = { account: 'app@%', authentication: 'caching_sha2_password (full)' };
    const FAST = { account: 'app@%', authentication: 'caching_sha2_password' };
    expect(await signIn(gateway)).toEqual(FULL);
    expect(await signIn(gateway)).toEqual(FAST);
    await server.run(`ALTER USER app@'%' IDENTIFIED BY '${SECRET}'`);
    expect(await signIn(gateway)).toEqual(FULL);
    await server.restart();
    expect(await signIn(gateway)).toEqual(FULL);
    expect(await signIn(gateway)).toEqual(FAST);
  });

  test('caching_sha2_password in clear: only with a key, and then encrypted for it', async () => {
    await forget();
    const without = await gatewayTo(server);
    expect(await refusal(without)).toEqual(UNANSWERED);
    await logged(without, 'server_public_key');
    const RSA = { account: 'app@%', authentication: 'caching_sha2_password (full, RSA)' };
    expect(await signIn(await gatewayTo(server, { settings: { serverPublicKey: publicKey } }))).toEqual(RSA);
    expect(await signIn(without)).toEqual({ account: 'app@%', authentication: 'caching_sha2_password' });
    await forget();
    expect(await signIn(await gatewayTo(server, { settings: { fetchServerPublicKey: true } }))).toEqual(RSA);
    await forget();
    const { generateKeyPairSync } = await import('node:crypto');
    const other = generateKeyPairSync('rsa', { modulusLength: 2048 })
      .publicKey.export({ format: 'pem', type: 'spki' })
      .toString();
    expect(await refusal(await gatewayTo(server, { settings: { serverPublicKey: other } }))).toEqual(DENIED);
  });

  test('sha256_password: inside TLS, and in clear with a key only', async () => {
    const username = 'sha256';
    const plain = await gatewayTo(server, { username });
    expect(await refusal(plain)).toEqual(UNANSWERED);
    const fetching = await gatewayTo(server, { username, settings: { fetchServerPublicKey: true } });
    expect(await signIn(fetching)).toEqual({ account: 'sha256@%', authentication: 'sha256_password (RSA)' });
    const inTls = await gatewayTo(server, { username, ...verified });
    expect(await signIn(inTls)).toEqual({ account: 'sha256@%', authentication: 'sha256_password' });
  });

  test('an account without password', async () => {
    for (const password of [null, '']) {
      const gateway = await gatewayTo(server, { username: 'nothing', password });
      expect(await signIn(gateway)).toMatchObject({ account: 'nothing@%' });
    }
  });

  test('over a socket file: the password in full, an account of the operating system, and both as two factors', async () => {
    await forget();
    const servers = [{ host: server.socket, port: server.port }];
    // TLS, which is the default toward servers, is for networks.
    expect(await signIn(await gatewayTo(server, { servers, ...verified }))).toEqual({
      account: 'app@%',
      authentication: 'caching_sha2_password (full)',
    });
    const system = await gatewayTo(server, { servers, username: 'root_user', password: null });
    expect(await signIn(system)).toMatchObject({ account: 'root_user@localhost' });
    const two = await gatewayTo(server, { servers, username: 'two' });
    expect(await signIn(two)).toMatchObject({ account: 'two@%' });
  });

  test('a refused account: told without its name, logged with the server’s words, and fetched anew once', async () => {
    const wrong = await gatewayTo(server, { ...verified, password: 'canary-wrong' });
    expect(await refusal(wrong)).toEqual(DENIED);
    await logged(wrong, "Access denied for user 'app'@");
    const rotated = await gatewayTo(server, {
      ...verified,
      password: 'canary-wrong',
      refetched: { username: 'app', password: SECRET },
    });
    expect(await signIn(rotated)).toMatchObject({ account: 'app@%' });
    const twice = await gatewayTo(server, {
      ...verified,
      password: 'canary-wrong',
      refetched: { username: 'app', password: 'canary-wrong-too' },
    });
    expect(await refusal(twice)).toEqual(DENIED);
  });

  test('REQUIRE SSL and REQUIRE X509', async () => {
    const clear = await gatewayTo(server, { username: 'only_tls', settings: { fetchServerPublicKey: true } });
    expect(await refusal(clear)).toEqual(DENIED);
    await logged(clear, 'the account may require TLS');
    expect(await signIn(await gatewayTo(server, { username: 'only_tls', ...verified }))).toMatchObject({
      account: 'only_tls@%',
    });
    expect(await refusal(await gatewayTo(server, { username: 'only_x509', ...verified }))).toEqual(DENIED);
    const { cert, key } = await server.authority.issue({ commonName: 'gateway', keyType: 'rsa' });
    const shown = await gatewayTo(server, {
      username: 'only_x509',
      serverTls: { ...verified.serverTls!, cert, key },
    });
    expect(await signIn(shown)).toMatchObject({ account: 'only_x509@%' });
  });

  test('a certificate that does not fit: refused, and nothing but the greeting was answered', async () => {
    const tlsFailed = {
      errno: 1105,
      message: 'TLS toward the database failed (Ask the people who run this gateway.)',
    };
    const unknown = await gatewayTo(server, { serverTls: { mode: 'verify-ca' } });
    expect(await refusal(unknown)).toEqual(tlsFailed);
    const otherName = await gatewayTo(server, {
      serverTls: { mode: 'verify-full', ca: server.ca, serverName: 'db.example' },
    });
    expect(await refusal(otherName)).toEqual(tlsFailed);
    await logged(otherName, 'db.example');
    const caOnly = await gatewayTo(server, {
      serverTls: { mode: 'verify-ca', ca: server.ca, serverName: 'db.example' },
    });
    expect(await signIn(caOnly)).toMatchObject({ account: 'app@%' });
    expect(caOnly.recorder.sessions[0]!.start.serverTlsVerified).toBe(true);
    const unchecked = await gatewayTo(server, { serverTls: { mode: 'require' } });
    expect(await signIn(unchecked)).toMatchObject({ account: 'app@%' });
    expect(unchecked.recorder.sessions[0]!.start.serverTlsVerified).toBe(false);
  });

  test('databases: the one asked for is opened, and what the server says of others is told', async () => {
    const gateway = await gatewayTo(server, verified);
    const connection = await mysql2.createConnection({
      host: '127.0.0.1',
      port: gateway.port,
      user: 'x',
      database: 'shop',
    });
    const [rows] = await connection.query({ sql: 'SELECT DATABASE()', rowsAsArray: true });
    expect(rows).toEqual([['shop']]);
    await connection.end();
    expect(await refusal(gateway, { database: 'nowhere' })).toMatchObject({
      errno: 1044,
      message: "Access denied to database 'nowhere'",
    });
    expect(await refusal(gateway, { database: 'secret' })).toMatchObject({
      errno: 1044,
      message: "Access denied to database 'secret'",
    });
    const only = await gatewayTo(server, { ...verified, databases: ['shop'] });
    expect(await refusal(only, { database: 'secret' })).toMatchObject({
      errno: 1044,
      message: expect.stringContaining('shop'),
    });
  });

  test('a session that may only read', async () => {
    await server.run('CREATE TABLE shop.goods (id INT)');
    await expectReadOnly(await gatewayTo(server, { ...verified, access: new ReadingAccess() }));
  });

  test('the server knows the client’s attributes, the session and the principal', async () => {
    const gateway = await gatewayTo(server, verified);
    const connection = await mysql2.createConnection({
      host: '127.0.0.1',
      port: gateway.port,
      user: 'x',
      connectAttributes: { program_name: 'warehouse' },
    });
    const [id] = await connection.query({ sql: 'SELECT CONNECTION_ID()', rowsAsArray: true });
    const session = gateway.recorder.sessions[0]!;
    expect(session.start.serverSession).toBe(String((id as number[][])[0]![0]));
    expect(session.start.clientProgram).toBe('warehouse');
    const attributes = await server.run(
      `SELECT attr_name, attr_value FROM performance_schema.session_connect_attrs WHERE processlist_id = ${session.start.serverSession}`,
    );
    const byName = Object.fromEntries(
      attributes.map((row) => [row['ATTR_NAME'] ?? row['attr_name'], row['ATTR_VALUE'] ?? row['attr_value']]),
    );
    expect(byName).toMatchObject({
      program_name: 'warehouse',
      _client_name: 'Node-MySQL-2',
      sallyport_session: session.id,
      sallyport_principal: 'tester',
    });
    await connection.end();
  });

  test('clients that come and go do not make the server block this host', async () => {
    const relay = await startRelay(server.port, { localAddress: '127.0.0.3' });
    try {
      const gateway = await gatewayTo(server, { servers: [{ host: '127.0.0.1', port: relay.port }] });
      await forget();
      for (let round = 0; round < 30; round += 1) {
        const socket = connectSocket(gateway.port, '127.0.0.1');
        await new Promise<void>((resolve) => {
          socket.once('data', () => {
            if (round % 3 === 0) socket.write('GET / HTTP/1.1\r\n\r\n');
            if (round % 3 === 1) socket.end();
            else socket.destroy();
          });
          socket.once('close', () => resolve());
          socket.once('error', () => {});
        });
      }
      await expect
        .poll(
          async () =>
            (
              await server.run(
                "SELECT COUNT(*) AS n FROM information_schema.processlist WHERE user = 'unauthenticated user'",
              )
            )[0]?.['n'],
        )
        .toBe(0);
      const [blocked] = await server.run(
        "SELECT SUM_CONNECT_ERRORS AS n FROM performance_schema.host_cache WHERE IP = '127.0.0.3'",
      );
      expect(blocked?.['n']).toBe(0);
      expect(await signIn(await gatewayTo(server, { ...verified }))).toMatchObject({ account: 'app@%' });
      expect(await signIn(gateway)).toMatchObject({ account: 'app@%' });
    } finally {
      await relay.close();
    }
  });

  test('a client that thinks longer than the server waits gets in all the same', async () => {
    const gateway = await gatewayTo(server, verified);
    const slow = await startRelay(gateway.port, { holdFirstMs: 2600 });
    const { port } = slow;
    const connection = await mysql2.createConnection({ host: '127.0.0.1', port, user: 'x' });
    const [rows] = await connection.query({ sql: 'SELECT 1', rowsAsArray: true });
    expect(rows).toEqual([[1]]);
    await connection.end();
    await slow.close();
  });

  test('a stalled client is told so and let go', async () => {
    const gateway = await gatewayTo(server, { limits: { handshakeTimeoutMs: 500 } });
    const socket = connectSocket(gateway.port, '127.0.0.1');
    const received: Buffer[] = [];
    socket.on('data', (chunk) => received.push(chunk));
    await new Promise((resolve) => socket.once('close', resolve));
    expect(Buffer.concat(received).toString('latin1')).toContain('#08S01the sign-in took longer than 0.5 s');
  });

  test('too many connections and a server that is down are told in words', async () => {
    await server.run('SET GLOBAL max_connections = 1');
    const held = [await server.root().catch(() => null), await server.root().catch(() => null)];
    const gateway = await gatewayTo(server, verified);
    expect(await refusal(gateway)).toEqual({ errno: 1040, message: 'Too many connections' });
    await held[0]?.query('SET GLOBAL max_connections = 150');
    for (const connection of held) await connection?.end();
    const down = await gatewayTo(server, { servers: [{ host: '127.0.0.1', port: 1 }] });
    expect(await refusal(down)).toMatchObject({
      errno: 1105,
      message: expect.stringContaining('cannot be reached'),
    });
  });

  test('a session that must end takes its running statement with it', async () => {
    const gateway = await gatewayTo(server, { ...verified, limits: { maxDurationMs: 1200 } });
    const connection = await mysql2.createConnection({ host: '127.0.0.1', port: gateway.port, user: 'x' });
    connection.on('error', () => {});
    await connection.query('SELECT SLEEP(60)').catch(() => {});
    await expect
      .poll(
        async () =>
          (
            await server.run(
              "SELECT COUNT(*) AS n FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'",
            )
          )[0]?.['n'],
        {
          timeout: 4000,
        },
      )
      .toBe(0);
    connection.destroy();
  });

  test('no byte of the password reaches the client or, in clear, the network toward the server', async () => {
    const near: ByteRelay[] = [];
    const far = await startRelay(server.port);
    for (const settings of [{ fetchServerPublicKey: true }, { serverPublicKey: publicKey }]) {
      await forget();
      const gateway = await gatewayTo(server, { servers: [{ host: '127.0.0.1', port: far.port }], settings });
      const relay = await startRelay(gateway.port);
      near.push(relay);
      for (let round = 0; round < 2; round += 1) {
        const connection = await mysql2.createConnection({ host: '127.0.0.1', port: relay.port, user: 'x' });
        await connection.end();
      }
    }
    const toClients = Buffer.concat(near.flatMap(({ toClient }) => toClient)).toString('latin1');
    const toServer = Buffer.concat(far.toServer).toString('latin1');
    expect(toServer).toContain('sallyport_session');
    for (const seen of [toClients, toServer]) {
      expect(seen).not.toContain(SECRET);
      expect(seen).not.toContain('canary');
    }
    expect(toClients).not.toContain('app');
    await Promise.all([...near, far].map((relay) => relay.close()));
  });

  test('probe: signs in and out', async () => {
    const { connect } = await import('node:net');
    const { StreamChannel, NO_TLS } = await import('../../../src/gateway/channel.ts');
    const { Secret } = await import('../../../protocols/secret.ts');
    const { randomBytes } = await import('node:crypto');
    const socket = connect(server.port, '127.0.0.1');
    const channel = new StreamChannel(socket, 'server', { host: '127.0.0.1', port: server.port }, NO_TLS);
    const resource = {
      name: 'shop',
      engine: 'mysql' as const,
      addresses: [],
      settings: { ...MYSQL_SETTINGS, fetchServerPublicKey: true },
    };
    const credentials = { username: 'app', password: Secret.fromText(SECRET), kind: 'password' as const };
    const facts = await mysql.probe(channel, resource, credentials, {
      database: 'shop',
      random: randomBytes,
    });
    expect(facts).toMatchObject({ serverVersion: server.version, databaseUser: 'app', database: 'shop' });
    socket.destroy();
  });
});

describe('MariaDB 10.11', () => {
  let server: DatabaseServer;

  beforeAll(async () => {
    server = await startMariadb('10');
    await server.run(
      `CREATE USER app@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('${SECRET}')`,
      `CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('${SECRET}')`,
      `CREATE USER either@'%' IDENTIFIED VIA ed25519 USING PASSWORD('another') OR mysql_native_password USING PASSWORD('${SECRET}')`,
      "CREATE USER socket_user@'%' IDENTIFIED VIA unix_socket",
      "CREATE USER nothing@'%'",
      `CREATE USER only_tls@'%' IDENTIFIED BY '${SECRET}' REQUIRE SSL`,
    );
  });

  afterAll(() => server?.stop());

  const mariadb = (means: Means = {}): Promise<TestGateway> =>
    gatewayTo(server, { ...means, settings: { flavor: 'mariadb', ...means.settings } });

  test.each([
    ['app', SECRET, 'mysql_native_password'],
    ['ed', SECRET, 'client_ed25519'],
    ['either', SECRET, 'mysql_native_password'],
    ['nothing', null, 'mysql_native_password'],
  ])('%s, in clear and inside TLS', async (username, password, authentication) => {
    for (const means of [
      {},
      { serverTls: { mode: 'verify-full' as const, ca: server.ca, serverName: 'localhost' } },
    ]) {
      const gateway = await mariadb({ username, password, ...means });
      expect(await signIn(gateway)).toEqual({ account: `${username}@%`, authentication });
    }
  });

  test('a session that may only read', async () => {
    await server.run(
      'CREATE DATABASE shop',
      'CREATE TABLE shop.goods (id INT)',
      "GRANT ALL ON shop.* TO app@'%'",
    );
    await expectReadOnly(await mariadb({ access: new ReadingAccess() }));
  });

  test('an account of the operating system is not let in over the network', async () => {
    const network = await mariadb({ username: 'socket_user' });
    expect(await refusal(network)).toEqual(DENIED);
    await logged(network, '1698');
  });

  test('REQUIRE SSL, and a server without TLS', async () => {
    expect(await refusal(await mariadb({ username: 'only_tls' }))).toEqual(DENIED);
    const plain = await startMariadb('10', { tls: false });
    try {
      await plain.run(`CREATE USER app@'%' IDENTIFIED BY '${SECRET}'`);
      const required = await gatewayTo(plain, {
        settings: { flavor: 'mariadb' },
        serverTls: { mode: 'require' },
      });
      expect(await refusal(required)).toMatchObject({ errno: 1105, message: expect.stringContaining('TLS') });
      const preferred = await gatewayTo(plain, {
        settings: { flavor: 'mariadb' },
        serverTls: { mode: 'prefer' },
      });
      expect(await signIn(preferred)).toMatchObject({ account: 'app@%' });
      expect(preferred.recorder.sessions[0]!.start).toMatchObject({ tlsFallback: true, serverTls: null });
    } finally {
      await plain.stop();
    }
  });
});

describe.skipIf(mariadb11Missing())('MariaDB 11.8', () => {
  let server: DatabaseServer;

  beforeAll(async () => {
    server = await startMariadb('11');
    await server.run(
      `CREATE USER parsec@'%' IDENTIFIED VIA parsec USING PASSWORD('${SECRET}')`,
      `CREATE USER root_user@localhost IDENTIFIED VIA unix_socket AS '${userInfo().username}'`,
      `CREATE USER sha2@'%' IDENTIFIED VIA caching_sha2_password USING PASSWORD('${SECRET}')`,
      `CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('${SECRET}')`,
      `CREATE USER app@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('${SECRET}')`,
    );
  });

  afterAll(() => server?.stop());

  test('parsec and ed25519, in clear and inside TLS', async () => {
    for (const [username, authentication] of [
      ['parsec', 'parsec'],
      ['ed', 'client_ed25519'],
    ] as const) {
      for (const mode of ['disable', 'verify-full'] as const) {
        const gateway = await gatewayTo(server, {
          username,
          settings: { flavor: 'mariadb' },
          serverTls: { mode, ca: server.ca, serverName: 'localhost' },
        });
        expect(await signIn(gateway)).toEqual({ account: `${username}@%`, authentication });
      }
    }
  });

  test('an account of the operating system, over a socket file', async () => {
    const gateway = await gatewayTo(server, {
      username: 'root_user',
      password: null,
      settings: { flavor: 'mariadb' },
      servers: [{ host: server.socket, port: server.port }],
    });
    expect(await signIn(gateway)).toMatchObject({ account: 'root_user@localhost' });
  });

  test('MariaDB’s caching_sha2_password: in full inside TLS, and encrypted for its key in clear', async () => {
    const inTls = await gatewayTo(server, {
      username: 'sha2',
      settings: { flavor: 'mariadb' },
      serverTls: { mode: 'verify-full', ca: server.ca, serverName: 'localhost' },
    });
    expect(await signIn(inTls)).toEqual({
      account: 'sha2@%',
      authentication: 'caching_sha2_password (full)',
    });
    await server.run('FLUSH PRIVILEGES');
    const plain = await gatewayTo(server, {
      username: 'sha2',
      settings: { flavor: 'mariadb', fetchServerPublicKey: true },
    });
    expect(await signIn(plain)).toMatchObject({ account: 'sha2@%' });
  });

  test('a redirect that the server announces does not reach the client', async () => {
    await server.run("SET GLOBAL redirect_url = 'mysql://127.0.0.1:1'");
    try {
      const gateway = await gatewayTo(server, { settings: { flavor: 'mariadb' } });
      const relay = await startRelay(gateway.port);
      const { default: mariadb } = await import('mariadb');
      const connection = await mariadb.createConnection({ host: '127.0.0.1', port: relay.port, user: 'x' });
      expect(await connection.query('SELECT CURRENT_USER() AS account')).toMatchObject([
        { account: 'app@%' },
      ]);
      await connection.end();
      expect(Buffer.concat(relay.toClient).toString('latin1')).not.toContain('mysql://127.0.0.1:1');
      await relay.close();
    } finally {
      await server.run("SET GLOBAL redirect_url = ''");
    }
  });
});
