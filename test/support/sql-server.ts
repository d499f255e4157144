import { randomBytes } from 'node:crypto';
import type { TdsSettings } from '../../protocols/engine.ts';
import { tds } from '../../protocols/tds/engine.ts';
import { startTestGateway, type TestGateway, type TestGatewayOptions } from './gateway.ts';
import { startTdsDouble, type TdsDouble, type TdsDoubleOptions } from './tds-double/double.ts';

/**
 * The SQL Server that tests run against: the one that `SALLYPORT_TEST_MSSQL_URL` names (`mssql://user:password@host:port/database`),
 * one in a container (`docker:mcr.microsoft.com/mssql/server:2022-latest`, whose licence whoever sets this accepts), or
 * else the test double. Tests of the one must hold for the others: real T-SQL, real error numbers.
 */
export interface SqlServer {
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly database: string;
  /** Null: a real server. */
  readonly double: TdsDouble | null;
  close(): Promise<void>;
}

export async function startSqlServer(options: Partial<TdsDoubleOptions> = {}): Promise<SqlServer> {
  const url = process.env['SALLYPORT_TEST_MSSQL_URL'];
  if (url?.startsWith('docker:')) return containerServer(url.slice('docker:'.length));
  if (url) return realServer(new URL(url));
  const double = await startTdsDouble({
    encryption: 'off',
    logins: { app_rw: 'canary-Server!1' },
    databases: ['master', 'tempdb', 'shop'],
    ...options,
  });
  return {
    host: '127.0.0.1',
    port: double.port,
    username: 'app_rw',
    password: 'canary-Server!1',
    database: 'shop',
    double,
    close: () => double.close(),
  };
}

/** Fails where no container engine answers: it was asked for by name. */
async function containerServer(image: string): Promise<SqlServer> {
  const { GenericContainer, Wait } = await import('testcontainers');
  const password = `Aa1-${randomBytes(12).toString('hex')}`;
  const container = await new GenericContainer(image)
    .withEnvironment({ ACCEPT_EULA: 'Y', MSSQL_PID: 'Developer', MSSQL_SA_PASSWORD: password })
    .withExposedPorts(1433)
    .withWaitStrategy(Wait.forLogMessage(/Recovery is complete/))
    .withStartupTimeout(170_000)
    .start();
  return {
    host: container.getHost(),
    port: container.getMappedPort(1433),
    username: 'sa',
    password,
    database: 'tempdb',
    double: null,
    close: async () => {
      await container.stop();
    },
  };
}

function realServer(url: URL): SqlServer {
  return {
    host: url.hostname,
    port: Number(url.port || 1433),
    username: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
    database: url.pathname.slice(1) || 'tempdb',
    double: null,
    close: async () => {},
  };
}

/** The gateway before that server, in the clear on the client's side unless told otherwise. */
export function startSqlGateway(
  server: SqlServer,
  options: Partial<Omit<TestGatewayOptions, 'settings'>> & {
    mars?: boolean;
    encryption?: TdsSettings['encryption'];
  } = {},
): Promise<TestGateway> {
  const real = server.double === null;
  const { mars = false, encryption = real ? 'on' : 'off', ...rest } = options;
  return startTestGateway({
    engine: tds,
    settings: {
      engine: 'tds',
      encryption,
      clientEncryption: rest.clientTls ? 'required' : 'none',
      mars,
      windowsDomain: null,
      serverName: null,
    },
    servers: [{ host: server.host, port: server.port }],
    ...(real ? { serverTls: { mode: 'require' as const } } : {}),
    username: server.username,
    password: server.password,
    database: server.database,
    ...rest,
  });
}
