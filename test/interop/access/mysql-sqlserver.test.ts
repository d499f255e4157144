import mysql2 from 'mysql2/promise';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type AccessApp, eventually, startAccessApp } from '../../support/access.ts';
import { type Authority, makeAuthority } from '../../support/certificates.ts';
import type { DatabaseServer } from '../../support/database.ts';
import { mariadbClient, startMariadb } from '../../support/mariadb.ts';
import { commandLine, type MysqlClient, mysqlClients } from '../../support/mysql-clients.ts';
import { freePort } from '../../support/postgres.ts';
import { type SqlServer, startSqlServer } from '../../support/sql-server.ts';
import { FreeTds } from '../../support/tds-clients.ts';
import { batchOf, closeTedious, connectTedious } from '../../support/tedious.ts';

/** Launch tokens in the tools of MariaDB, MySQL and SQL Server. */

let server: DatabaseServer;
let sqlServer: SqlServer;
let gateway: AccessApp;
let authority: Authority;
let port: number;
let sqlPort: number;

beforeAll(async () => {
  [server, sqlServer, authority] = await Promise.all([
    startMariadb(),
    startSqlServer(),
    makeAuthority('gateway'),
  ]);
  const password = 'canary-maria';
  await server.run(
    'CREATE DATABASE shop',
    'CREATE TABLE shop.kept (id int) ENGINE=InnoDB',
    `CREATE USER app IDENTIFIED BY '${password}'`,
    'GRANT ALL ON shop.* TO app',
  );
  process.env['ACCESS_MARIA_PASSWORD'] = password;
  process.env['ACCESS_SQL_PASSWORD'] = sqlServer.password;
  const certificate = await authority.issue({ commonName: 'localhost', hosts: ['localhost', '127.0.0.1'] });
  [port, sqlPort] = [await freePort(), await freePort()];
  const maria = {
    type: 'mariadb',
    host: server.host,
    port: server.port,
    database: 'shop',
    tls: { ca: server.caFile },
    launch_credentials: { username: 'app', password: 'env:ACCESS_MARIA_PASSWORD' },
  };
  const tls = { cert: 'tls.pem', key: 'tls.key' };
  gateway = await startAccessApp(
    {
      resources: {
        shop: maria,
        archive: maria,
        ledger: {
          type: 'sqlserver',
          host: sqlServer.host,
          port: sqlServer.port,
          database: sqlServer.database,
          encryption: 'off',
          tls: { mode: 'disable' },
          launch_credentials: { username: sqlServer.username, password: 'env:ACCESS_SQL_PASSWORD' },
        },
      },
      listeners: [
        { listen: `127.0.0.1:${port}`, resources: ['shop', 'archive'], client_auth: 'token', tls },
        { listen: `127.0.0.1:${sqlPort}`, resources: ['ledger'], client_auth: 'token', tls },
      ],
      rules: [
        { name: 'readers', users: ['ben'], read_only: true },
        { name: 'writers', users: ['anna'] },
      ],
    },
    { 'tls.pem': certificate.chain, 'tls.key': certificate.key, 'ca.pem': authority.cert },
  );
});

afterAll(async () => {
  await gateway?.close();
  await server?.stop();
  await sqlServer?.close();
});

function call(launch: { id: string; token: string }, tls: 'required' | 'off') {
  return {
    port,
    user: launch.id,
    password: launch.token,
    database: 'shop',
    tls,
    caFile: `${gateway.folder}/ca.pem`,
  } as const;
}

const chosen = (client: MysqlClient): boolean =>
  /^(mysql 9|mariadb 1|mysql2|mariadb|PyMySQL)/.test(client.name);

describe('MariaDB', () => {
  test.each(mysqlClients().filter(chosen))('$name signs in with a token over TLS', async (client) => {
    const launch = await gateway.issue('anna', 'shop');
    expect(await client.run(call(launch, 'required'), 'SELECT CURRENT_USER()')).toEqual({
      ok: true,
      text: 'app@%',
    });
    // Ten wrong tokens of one address are all that this file has.
    if (!/^(mysql2|mariadb 10)/.test(client.name)) return;
    const wrong = await client.run(call({ ...launch, token: 'slp_wrong' }, 'required'), 'SELECT 1');
    expect(wrong).toMatchObject({ ok: false, text: expect.stringContaining('launch token is wrong') });
  });

  /** A launch of which only one plugin's hash is right: whoever gets in was judged by that one. */
  async function launchFor(plugin: 'mysql_native_password' | 'caching_sha2_password') {
    const { id, token } = await gateway.issue('anna', 'shop');
    const { state } = gateway.app.access;
    const launch = state.launch(id)!;
    const other = plugin === 'mysql_native_password' ? 'sha2Hash' : 'nativeHash';
    const length = Buffer.from(String(launch.verifier![other]), 'base64').length;
    const only = `${id.slice(0, -1)}${id.endsWith('a') ? 'b' : 'a'}`;
    const verifier = { ...launch.verifier, [other]: Buffer.alloc(length).toString('base64') };
    state.addLaunch({ ...launch, id: only, verifier });
    return { id: only, token };
  }

  test.each(['mysql_native_password', 'caching_sha2_password'] as const)('mariadb by %s', async (plugin) => {
    const { file, args } = mariadbClient('10');
    const client = commandLine(
      'mariadb',
      { file, args: [...args, `--default-auth=${plugin}`] },
      ({ caFile }) => ['--ssl', `--ssl-ca=${caFile}`],
    );
    const right = call(await launchFor(plugin), 'required');
    expect(await client.run(right, 'SELECT 7')).toEqual({ ok: true, text: '7' });
    const unlike = plugin === 'mysql_native_password' ? 'caching_sha2_password' : 'mysql_native_password';
    expect(await client.run(call(await launchFor(unlike), 'required'), 'SELECT 7')).toMatchObject({
      ok: false,
    });
  });

  test('read-only: no write, and no way out', async () => {
    const launch = await gateway.issue('ben', 'archive');
    const connection = await mysql2.createConnection({
      host: '127.0.0.1',
      port,
      user: launch.id,
      password: launch.token,
      database: 'shop',
      ssl: { rejectUnauthorized: false },
    });
    expect((await connection.query('SELECT COUNT(*) AS n FROM kept'))[0]).toEqual([{ n: 0 }]);
    for (const statement of [
      'INSERT INTO kept VALUES (1)',
      'SET SESSION TRANSACTION READ WRITE',
      'SET TRANSACTION READ WRITE',
      'START TRANSACTION READ WRITE',
      'SET @@session.tx_read_only = 0',
      'SET tx_read_only = OFF',
      "SELECT 'x' INTO OUTFILE '/tmp/never'",
      '/*!50000 INSERT */ INTO kept VALUES (1)',
      '/*M!100000 DELETE FROM kept */',
      'CREATE TEMPORARY TABLE made (id int)',
      'SELECT 1; INSERT INTO kept VALUES (1)',
      "PREPARE sneaky FROM 'INSERT INTO kept VALUES (1)'",
      "EXECUTE IMMEDIATE 'INSERT INTO kept VALUES (1)'",
      'SELECT 1 FROM kept FOR UPDATE',
    ]) {
      await expect(connection.query(statement), statement).rejects.toThrow();
    }
    await expect(connection.execute('INSERT INTO kept VALUES (?)', [1])).rejects.toThrow();
    await connection
      .changeUser({ user: launch.id, password: launch.token, database: 'shop' })
      .catch(() => {});
    await expect(connection.query('INSERT INTO kept VALUES (2)')).rejects.toThrow();
    connection.destroy();
    expect(await server.run('SELECT * FROM shop.kept')).toEqual([]);
  });

  test('its time is up in a transaction: an error packet says so', async () => {
    const launch = await gateway.expiring('anna', 'shop', 1500);
    const connection = await mysql2.createConnection({
      host: '127.0.0.1',
      port,
      user: launch.id,
      password: launch.token,
      database: 'shop',
      ssl: { rejectUnauthorized: false },
    });
    const heard = new Promise<Error>((resolve) => {
      (connection as unknown as NodeJS.EventEmitter).once('error', resolve);
    });
    await connection.query('START TRANSACTION');
    await connection.query('INSERT INTO kept VALUES (9)');
    expect((await heard).message).toMatch(/launch has ended/);
    await eventually(async () => (await server.run('SELECT * FROM shop.kept')).length === 0);
  });
});

describe('SQL Server', () => {
  test('revoked: the running session ends', async () => {
    const launch = await gateway.issue('anna', 'ledger');
    const connection = await connectTedious({
      port: sqlPort,
      user: launch.id,
      password: launch.token,
      options: { encrypt: true, trustServerCertificate: true },
    });
    const ended = new Promise((resolve) => connection.once('end', resolve));
    connection.on('error', () => {});
    await gateway.call('DELETE', `/api/v1/launches/${launch.id}`, { token: await gateway.login('anna') });
    await ended;
    await eventually(() => gateway.app.access.launches.connections(launch.id) === 0);
  });

  test('tedious and tsql sign in with a token, inside TLS', async () => {
    const launch = await gateway.issue('anna', 'ledger');
    const connection = await connectTedious({
      port: sqlPort,
      user: launch.id,
      password: launch.token,
      options: { encrypt: true, trustServerCertificate: true },
    });
    expect((await batchOf(connection, 'SELECT 42 AS answer')).rows).toEqual([[42]]);
    await closeTedious(connection);
    const freeTds = await FreeTds.start(sqlPort);
    const signIn = { port: sqlPort, user: launch.id, password: launch.token, database: sqlServer.database };
    expect(await freeTds.tsql('require', signIn)).toEqual({ ok: true, text: '42' });
    expect(await freeTds.tsql('require', { ...signIn, password: 'slp_wrong' })).toMatchObject({ ok: false });
    await freeTds.stop();
  });

  test('a wrong token and an unknown user hear the same', async () => {
    const launch = await gateway.issue('anna', 'ledger');
    const attempt = (user: string, password: string) =>
      connectTedious({
        port: sqlPort,
        user,
        password,
        options: { encrypt: true, trustServerCertificate: true },
      }).then(
        () => 'in',
        (error: Error) => error.message,
      );
    const wrong = await attempt(launch.id, 'slp_wrong');
    expect(wrong).toContain('launch token is wrong');
    expect(await attempt('laaaaaaaaa', launch.token)).toBe(wrong);
    // A token of another resource of the gateway opens nothing here.
    const other = await gateway.issue('anna', 'shop');
    expect(await attempt(other.id, other.token)).toBe(wrong);
  });
});
