import { describe } from 'vitest';
import {
  containersMissing,
  mysqlContainer,
  postgresContainer,
  sqlServerContainer,
} from '../../support/containers.ts';
import { endToEnd } from '../../support/end-to-end.ts';

/** The same tests as in local.test.ts, on servers in containers, where an engine for them answers. */
describe.skipIf(await containersMissing())('in containers', () => {
  for (const image of ['postgres:18', 'postgres:14']) endToEnd(image, () => postgresContainer(image));
  for (const image of ['mysql:8.4', 'mysql:9']) endToEnd(image, () => mysqlContainer(image, 'mysql'));
  for (const image of ['mariadb:11.8', 'mariadb:10.6'])
    endToEnd(image, () => mysqlContainer(image, 'mariadb'));
  // The newer one is what all other tests of SQL Server run on.
  if (process.env['SALLYPORT_TEST_MSSQL_URL'] !== 'none') {
    const image = 'mcr.microsoft.com/mssql/server:2019-latest';
    endToEnd(image, () => sqlServerContainer(image));
  }
});
