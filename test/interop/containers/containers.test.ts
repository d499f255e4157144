import { describe } from 'vitest';
import {
  containersMissing,
  mysqlContainer,
  postgresContainer,
  sqlServerContainer,
} from '../../support/containers.ts';
import { endToEnd } from '../../support/end-to-end.ts';

/** The same tests as in local.test.ts, on servers in containers, where an engine for them answers. */
describe.skipIf(containersMissing())('in containers', () => {
  for (const image of ['postgres:18', 'postgres:14']) endToEnd(image, () => postgresContainer(image));
  for (const image of ['mysql:8.4', 'mysql:9']) endToEnd(image, () => mysqlContainer(image, 'mysql'));
  for (const image of ['mariadb:11.8', 'mariadb:10.6'])
    endToEnd(image, () => mysqlContainer(image, 'mariadb'));
  const licensed = process.env['SALLYPORT_TEST_ACCEPT_EULA'] === 'Y';
  if (!licensed && !containersMissing())
    console.error('SQL Server in a container is left out: SALLYPORT_TEST_ACCEPT_EULA=Y takes its licence.');
  for (const image of licensed ? ['2022-latest', '2019-latest'] : [])
    endToEnd(`SQL Server ${image}`, () => sqlServerContainer(`mcr.microsoft.com/mssql/server:${image}`));
});
