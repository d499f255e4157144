import { randomBytes } from 'node:crypto';
import type { DatabaseServer } from '../../support/database.ts';
import { endToEnd, type Reachable } from '../../support/end-to-end.ts';
import { startMariadb } from '../../support/mariadb.ts';
import { mysqlMissing, startMysql } from '../../support/mysql.ts';
import { startPostgres } from '../../support/postgres.ts';
import { startSqlServer } from '../../support/sql-server.ts';

/** The tests that containers run, on the servers of this machine: one suite for every server of every kind. */

endToEnd('PostgreSQL 18, embedded', async () => {
  const server = await startPostgres();
  const { user, password } = server.accounts.launch;
  return {
    type: 'postgres',
    host: server.host,
    port: server.port,
    username: user,
    password: password ?? '',
    database: server.database,
    close: () => server.stop(),
  };
});

async function withAccount(server: DatabaseServer, type: 'mysql' | 'mariadb'): Promise<Reachable> {
  const password = `Aa1-${randomBytes(12).toString('hex')}`;
  await server.run(
    'CREATE DATABASE shop',
    `CREATE USER launch@'%' IDENTIFIED BY '${password}'`,
    "GRANT ALL ON shop.* TO launch@'%'",
  );
  const { host, port } = server;
  return { type, host, port, username: 'launch', password, database: 'shop', close: () => server.stop() };
}

if (!mysqlMissing()) endToEnd('MySQL, unpacked', async () => withAccount(await startMysql(), 'mysql'));

endToEnd('MariaDB 10, unpacked', async () => withAccount(await startMariadb('10'), 'mariadb'));

endToEnd('SQL Server: a real one where there is one, else the double', async () => ({
  type: 'sqlserver',
  ...(await startSqlServer()),
}));
