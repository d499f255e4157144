import { randomBytes } from 'node:crypto';
import type { StartedTestContainer } from 'testcontainers';
import type { Reachable } from './end-to-end.ts';

/** Servers in containers. The images are those of the playground, and the newest of each that people are likely to have. */

/** A first start pulls the image. */
const STARTUP_MS_MAX = 170_000;

/**
 * For `describe.skipIf(await containersMissing())`: whether no container engine answers. Says so on standard error; what
 * the containers would run is run on local servers all the same. Where the tests must not be left out, set
 * SALLYPORT_TEST_CONTAINERS=1: then they fail instead.
 */
export async function containersMissing(): Promise<boolean> {
  if (process.env['SALLYPORT_TEST_CONTAINERS'] === '1' || (await engineAnswers())) return false;
  console.error('No container engine answers: the tests with databases in containers are left out.');
  return true;
}

/** Whether there is an engine that testcontainers can work with: Docker, or one that speaks its API. */
export async function engineAnswers(): Promise<boolean> {
  const { getContainerRuntimeClient } = await import('testcontainers');
  return getContainerRuntimeClient().then(
    () => true,
    () => false,
  );
}

const password = (): string => `Aa1-${randomBytes(12).toString('hex')}`;

function reachable(
  container: StartedTestContainer,
  port: number,
  facts: Pick<Reachable, 'type' | 'username' | 'password' | 'database'>,
): Reachable {
  return {
    ...facts,
    host: container.getHost(),
    port: container.getMappedPort(port),
    close: async () => {
      await container.stop();
    },
  };
}

export async function postgresContainer(image: string): Promise<Reachable> {
  const { GenericContainer, Wait } = await import('testcontainers');
  const facts = { type: 'postgres', username: 'launch', password: password(), database: 'shop' } as const;
  const container = await new GenericContainer(image)
    .withEnvironment({
      POSTGRES_USER: facts.username,
      POSTGRES_PASSWORD: facts.password,
      POSTGRES_DB: facts.database,
    })
    .withExposedPorts(5432)
    // The second time is the server itself; the first is its own set-up.
    .withWaitStrategy(Wait.forLogMessage(/database system is ready to accept connections/, 2))
    .withStartupTimeout(STARTUP_MS_MAX)
    .start();
  return reachable(container, 5432, facts);
}

export async function mysqlContainer(image: string, type: 'mysql' | 'mariadb'): Promise<Reachable> {
  const { GenericContainer, Wait } = await import('testcontainers');
  const facts = { type, username: 'launch', password: password(), database: 'shop' };
  const prefix = type === 'mysql' ? 'MYSQL' : 'MARIADB';
  const container = await new GenericContainer(image)
    .withEnvironment({
      [`${prefix}_RANDOM_ROOT_PASSWORD`]: 'yes',
      [`${prefix}_USER`]: facts.username,
      [`${prefix}_PASSWORD`]: facts.password,
      [`${prefix}_DATABASE`]: facts.database,
    })
    .withExposedPorts(3306)
    // With its port: the server of the set-up has none.
    .withWaitStrategy(Wait.forLogMessage(/ready for connections[\s\S]*port: 3306/))
    .withStartupTimeout(STARTUP_MS_MAX)
    .start();
  return reachable(container, 3306, facts);
}

/** Whoever runs this accepts Microsoft's licence of the image: the free Developer edition. */
export async function sqlServerContainer(image: string): Promise<Reachable> {
  const { GenericContainer, Wait } = await import('testcontainers');
  const facts = { type: 'sqlserver', username: 'sa', password: password(), database: 'tempdb' } as const;
  const container = await new GenericContainer(image)
    .withEnvironment({ ACCEPT_EULA: 'Y', MSSQL_PID: 'Developer', MSSQL_SA_PASSWORD: facts.password })
    .withExposedPorts(1433)
    .withWaitStrategy(Wait.forLogMessage(/Recovery is complete/))
    .withStartupTimeout(STARTUP_MS_MAX)
    .start();
  return { ...reachable(container, 1433, facts), double: null };
}
