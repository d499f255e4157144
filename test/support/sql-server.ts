import { inject } from 'vitest';
import type { TdsSettings } from '../../protocols/engine.ts';
import { tds } from '../../protocols/tds/engine.ts';
import { startTestGateway, type TestGateway, type TestGatewayOptions } from './gateway.ts';
import type { SqlServerOffer } from './sql-server-run.ts';
import { startTdsDouble, type TdsDouble, type TdsDoubleOptions } from './tds-double/double.ts';

/**
 * The SQL Server that tests run against: the one that `SALLYPORT_TEST_MSSQL_URL` names (`mssql://user:password@host:port/database`),
 * one in a container where an engine for them answers, or else the test double (`sql-server-choice.ts` says which). Tests
 * of the one must hold for the others: real T-SQL, real error numbers.
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

/** `options` are those of the double, where it is the double. A real server is shared by all tests of a run. */
export async function startSqlServer(options: Partial<TdsDoubleOptions> = {}): Promise<SqlServer> {
  const response = await fetch(inject('sqlServerOffer'));
  if (!response.ok) throw new Error(await response.text());
  const offer = (await response.json()) as SqlServerOffer;
  if (offer !== null) return { ...offer, double: null, close: async () => {} };
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
