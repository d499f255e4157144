import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import mysql from 'mysql2/promise';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { DatabaseServer } from '../../support/database.ts';
import { mariadbClient, startMariadb } from '../../support/mariadb.ts';
import { type SqlServer, startSqlServer } from '../../support/sql-server.ts';
import { batchOf, closeTedious, connectTedious } from '../../support/tedious.ts';
import {
  type GatewayProcess,
  makePerson,
  type Person,
  startGatewayProcess,
  type TunnelProcess,
} from '../../support/tunnel.ts';

/** The other engines' own clients through tunnels. */

let mariadb: DatabaseServer;
let sqlServer: SqlServer;
let gateway: GatewayProcess;
let anna: Person;
/** Holds the client that `connect` looks for: the servers that tests unpack are not installed. */
let programs: string;
const open: TunnelProcess[] = [];

beforeAll(async () => {
  mariadb = await startMariadb();
  await mariadb.run(
    'CREATE DATABASE shop',
    "CREATE USER launch_user@'%' IDENTIFIED BY 'canary-MariaDB'",
    "GRANT ALL ON shop.* TO launch_user@'%'",
  );
  sqlServer = await startSqlServer();
  const isReal = sqlServer.double === null;
  gateway = await startGatewayProcess({
    resources: `  shop:
    type: mariadb
    host: 127.0.0.1
    port: ${mariadb.port}
    database: shop
    tls: { mode: disable }
    launch_credentials: { username: launch_user, password: "env:MARIADB_LAUNCH" }
  ledger:
    type: sqlserver
    host: "${sqlServer.host}"
    port: ${sqlServer.port}
    database: ${sqlServer.database}
    encryption: ${isReal ? 'on' : 'off'}
    tls: { mode: ${isReal ? 'require' : 'disable'} }
    launch_credentials: { username: "${sqlServer.username}", password: "env:SQL_LAUNCH" }`,
    environment: { MARIADB_LAUNCH: 'canary-MariaDB', SQL_LAUNCH: sqlServer.password },
  });
  anna = await makePerson(gateway);
  programs = mkdtempSync(join(tmpdir(), 'sallyport-programs-'));
  const { file, args } = mariadbClient();
  const words = [file, ...args].map((word) => `'${word}'`).join(' ');
  writeFileSync(join(programs, 'mariadb'), `#!/bin/sh\nexec ${words} "$@"\n`);
  chmodSync(join(programs, 'mariadb'), 0o755);
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((tunnel) => tunnel.stop()));
});
afterAll(async () => {
  if (programs) rmSync(programs, { recursive: true, force: true });
  anna?.remove();
  await gateway?.close();
  await sqlServer?.close();
  await mariadb?.stop();
});

async function tunnelTo(resource: string, ...args: string[]): Promise<TunnelProcess> {
  const tunnel = await anna.tunnel([resource, ...args]);
  open.push(tunnel);
  return tunnel;
}

function path(): { PATH: string } {
  return { PATH: `${programs}:${process.env['PATH']}` };
}

describe('MariaDB', () => {
  test('connect runs its client', async () => {
    const done = await anna.run(['connect', 'shop', '--', '-N', '-e', 'SELECT current_user(), database()'], {
      environment: path(),
    });
    expect(done).toMatchObject({ code: 0, stdout: 'launch_user@%\tshop\n' });
    expect(done.stderr).toContain('signed in as launch_user by Sallyport, recorded, until');
  });

  test('with a token, in clear between tool and tunnel, and over TLS', async () => {
    const done = await anna.run(['connect', 'shop', '--require-token', '--', '-N', '-e', 'SELECT 1'], {
      environment: path(),
    });
    expect(done).toMatchObject({ code: 0, stdout: '1\n' });
    const tunnel = await tunnelTo('shop', '--require-token');
    const password = tunnel.token!;
    const to = { host: '127.0.0.1', port: tunnel.port, user: 'whoever', database: 'shop' };
    const secure = await mysql.createConnection({ ...to, password, ssl: { rejectUnauthorized: false } });
    expect((await secure.query('SELECT 3 AS n'))[0]).toEqual([{ n: 3 }]);
    await secure.end();
    await expect(mysql.createConnection({ ...to, password: 'guess' })).rejects.toThrow(/token is wrong/);
  });

  test('a socket, a pool, and a statement that is killed by another connection', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'sallyport-socket-'));
    const tunnel = await tunnelTo('shop', '--socket', join(folder, 'shop.sock'));
    const pool = mysql.createPool({
      socketPath: tunnel.socket!,
      user: 'me',
      database: 'shop',
      connectionLimit: 10,
    });
    const rows = await Promise.all(
      Array.from({ length: 30 }, async (_one, n) => (await pool.query('SELECT ? AS n', [n]))[0]),
    );
    expect(rows).toEqual(Array.from({ length: 30 }, (_one, n) => [{ n }]));
    const [victim, killer] = [await pool.getConnection(), await pool.getConnection()];
    const running = victim.query('SELECT SLEEP(60)').catch(() => [[{ interrupted: true }]]);
    // The two go by connections of their own: a kill that overtakes the statement has nothing to end.
    const ended = running.then(() => true);
    do await killer.query(`KILL QUERY ${victim.threadId}`);
    while (!(await Promise.race([ended, delay(200, false)])));
    const [[slept]] = (await running) as [object[], unknown];
    expect(Object.values(slept!)[0]).toBeTruthy();
    victim.release();
    killer.release();
    await pool.end();
    rmSync(folder, { recursive: true });
  });

  test('a launch that ends is told in its protocol, to those that are there and those that come', async () => {
    const tunnel = await anna.tunnel(['shop']);
    const one = await mysql.createConnection({ host: '127.0.0.1', port: tunnel.port, user: 'me' });
    const failed = one.query('SELECT SLEEP(60)').catch((error: Error) => error.message);
    await (await gateway.client()).delete(`/launches/${tunnel.launch}`);
    expect(await failed).toMatch(/your launch has ended|interrupted|closed/i);
    expect(await tunnel.exited).toBe(1);
    const late = await anna.run(
      [
        ...['tunnel', 'shop', '--', 'sh', '-c'],
        `kill -9 ${gateway.pid}; sleep 1; mariadb -h $MYSQL_HOST -P $MYSQL_TCP_PORT --protocol=TCP -e 'SELECT 1'`,
      ],
      { environment: path() },
    );
    expect(late.stderr).toMatch(/ERROR .*cannot be reached: nothing listens there/);
    await gateway.restart();
  });
});

describe('SQL Server', () => {
  const options = { encrypt: true, trustServerCertificate: true };

  test('tedious, in clear and encrypted', async () => {
    const tunnel = await tunnelTo('ledger');
    for (const encrypt of [false, true]) {
      const connection = await connectTedious({ port: tunnel.port, options: { ...options, encrypt } });
      expect((await batchOf(connection, 'SELECT 1 AS n')).rows).toEqual([[1]]);
      await closeTedious(connection);
    }
  });

  test('with a token', async () => {
    const tunnel = await tunnelTo('ledger', '--require-token');
    const connection = await connectTedious({ port: tunnel.port, password: tunnel.token!, options });
    expect((await batchOf(connection, 'SELECT 2 AS n')).rows).toEqual([[2]]);
    await closeTedious(connection);
    await expect(connectTedious({ port: tunnel.port, password: 'guess', options })).rejects.toThrow(
      /launch token is wrong/,
    );
  });

  test('connect runs tsql', async () => {
    const done = await anna.run(['connect', 'ledger', '--', '-o', 'q'], { input: 'SELECT 40 + 2\nGO\n' });
    expect(done.stdout).toContain('42');
    expect(done.code).toBe(0);
  });

  test('a gateway that is away is told in its protocol', async () => {
    const tunnel = await tunnelTo('ledger');
    await gateway.kill('SIGKILL');
    for (const encrypt of [false, true])
      await expect(connectTedious({ port: tunnel.port, options: { ...options, encrypt } })).rejects.toThrow(
        /cannot be reached: nothing listens there/,
      );
    await gateway.restart();
  });

  test('knows no Unix sockets', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'sallyport-socket-'));
    const refused = await anna.run(['tunnel', 'ledger', '--socket', join(folder, 's')]);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining('know no Unix sockets') });
    rmSync(folder, { recursive: true });
  });
});
