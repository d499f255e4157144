import mysql2 from 'mysql2/promise';
import pg from 'pg';
import { TYPES } from 'tedious';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { mysql } from '../../protocols/mysql/engine.ts';
import { postgres } from '../../protocols/postgres/engine.ts';
import { statementGate } from '../../src/gateway/policy.ts';
import { startTestGateway, type TestGateway, type TestGatewayOptions } from './gateway.ts';
import { MYSQL_SETTINGS } from './mysql-peers.ts';
import { POSTGRES_SETTINGS } from './postgres-peers.ts';
import { startSqlGateway } from './sql-server.ts';
import type { TdsDouble } from './tds-double/double.ts';
import { batchOf, type Connection, closeTedious, connectTedious, type Outcome, queryOf } from './tedious.ts';

/** A database server that tests may sign in to and make tables in. */
export interface Reachable {
  readonly type: 'postgres' | 'mysql' | 'mariadb' | 'sqlserver';
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly database: string;
  /** `sqlserver`: null for a real server. */
  readonly double?: TdsDouble | null;
  close(): Promise<void>;
}

/** What an ordinary tool does, in the words of one driver. */
interface Tool {
  /** Runs a statement with values; gives its rows. Rejects with the driver's error. */
  query(text: string, values?: readonly number[]): Promise<unknown[][]>;
  /** Runs a long statement, cancels it once it runs, and resolves when it has ended with an error. */
  cancelled(running: () => Promise<void>): Promise<void>;
  close(): Promise<void>;
}

interface Words {
  readonly account: string;
  /** Two values in, their sum out. */
  readonly sum: string;
  readonly error: { readonly text: string; readonly code: string };
  readonly numbers: (rows: number) => string;
  readonly changePassword: (user: string) => string;
}

const WORDS: Readonly<Record<'postgres' | 'mysql' | 'tds', Words>> = {
  postgres: {
    account: 'SELECT current_user::text',
    sum: 'SELECT $1::int + $2::int',
    error: { text: 'SELECT * FROM not_there', code: '42P01' },
    numbers: (rows) => `SELECT n, repeat('x', 100) FROM generate_series(1, ${rows}) AS n`,
    changePassword: (user) => `ALTER ROLE ${user} PASSWORD 'another-one'`,
  },
  mysql: {
    account: "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)",
    sum: 'SELECT ? + ?',
    error: { text: 'SELECT * FROM not_there', code: '1146' },
    numbers: (rows) =>
      `WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < ${rows}) SELECT n, REPEAT('x', 100) FROM s`,
    changePassword: () => "SET PASSWORD = 'another-one'",
  },
  tds: {
    account: 'SELECT SUSER_SNAME()',
    sum: 'SELECT @p1 + @p2',
    error: { text: 'SELECT * FROM not_there', code: '208' },
    numbers: (rows) =>
      `WITH s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < ${rows}) SELECT n, REPLICATE('x', 100) FROM s OPTION (MAXRECURSION 1000)`,
    changePassword: (user) => `ALTER LOGIN ${user} WITH PASSWORD = 'Another-one-1'`,
  },
};

/** Enough for many chunks, few enough for MySQL's cte_max_recursion_depth. */
const ROWS = 900;

/**
 * The tests that hold for every server of every kind: the same for one that was unpacked here, one in a container and one
 * somewhere else. `start` is called once.
 */
export function endToEnd(name: string, start: () => Promise<Reachable>): void {
  describe(name, () => {
    let server: Reachable;
    let gateway: TestGateway;
    let words: Words;
    const tools: Tool[] = [];

    beforeAll(async () => {
      server = await start();
      words = WORDS[engineOf(server)];
      gateway = await gatewayFor(server);
    });
    afterAll(async () => {
      for (const tool of tools) await tool.close().catch(() => {});
      await gateway?.close();
      await server?.close();
    });
    const open = async (port = gateway.port): Promise<Tool> => {
      const tool = await openTool(server, port);
      tools.push(tool);
      return tool;
    };
    const recorded = (text: string) =>
      gateway.recorder.statements.find((one) => one.kind !== 'prepare' && one.text?.includes(text));

    test('a tool without a password is signed in as the launch account', async () => {
      const tool = await open();
      expect(await tool.query(words.account)).toEqual([[server.username]]);
      expect(gateway.recorder.sessions.at(-1)?.start.databaseUser).toBe(server.username);
    });

    test('values and rows are on record', async () => {
      const tool = await open();
      expect((await tool.query(words.sum, [40, 2])).map(([sum]) => Number(sum))).toEqual([42]);
      await gateway.recorder.until(() => recorded(words.sum)?.ended === true);
      const statement = recorded(words.sum)!;
      expect(statement).toMatchObject({ status: 'ok', rowsReturned: 1 });
      expect((statement.parameters ?? []).map(({ value }) => Number(value))).toEqual([40, 2]);
    });

    test("an error is the server's own, and on record", async () => {
      const tool = await open();
      await expect(tool.query(words.error.text)).rejects.toThrow(/not_there/);
      await gateway.recorder.until(() => recorded('not_there')?.ended === true);
      expect(recorded('not_there')).toMatchObject({ status: 'error' });
      expect(String(recorded('not_there')?.error?.code)).toContain(words.error.code);
      expect(await tool.query('SELECT 1')).toHaveLength(1);
    });

    test('a result of many rows comes whole', async () => {
      // The test double has no recursion.
      const text = server.double ? 'SELECT 1' : words.numbers(ROWS);
      const rows = await (await open()).query(text);
      expect(rows).toHaveLength(server.double ? 1 : ROWS);
      await gateway.recorder.until(() => recorded(text)?.ended === true);
      expect(recorded(text)?.rowsReturned).toBe(rows.length);
    });

    test('a running statement is cancelled, and the session lives on', async () => {
      const tool = await open();
      const before = gateway.recorder.statements.length;
      await tool.cancelled(() => gateway.recorder.until(() => gateway.recorder.statements.length > before));
      expect(await tool.query('SELECT 1')).toHaveLength(1);
    });

    test('the shared account cannot be changed', async () => {
      const tool = await open();
      await expect(tool.query(words.changePassword(server.username))).rejects.toThrow();
      await gateway.recorder.until(() => recorded('nother-one')?.ended === true);
      expect(recorded('nother-one')?.status).toBe('denied');
      expect(await (await open()).query('SELECT 1')).toHaveLength(1);
    });

    test('launch credentials that the server does not take: an error, and no word of them', async () => {
      const wrong = await gatewayFor(server, { password: 'canary-Wrong!1' });
      const error = await open(wrong.port).then(
        () => null,
        (reason: unknown) => reason as Error,
      );
      await wrong.close();
      expect(error?.message).toBeTruthy();
      expect(error?.message).not.toMatch(/canary|Wrong/);
      expect(error?.message).not.toContain(server.username);
    });
  });
}

function engineOf({ type }: Reachable): 'postgres' | 'mysql' | 'tds' {
  return type === 'sqlserver' ? 'tds' : type === 'postgres' ? 'postgres' : 'mysql';
}

function gatewayFor(server: Reachable, changes: Partial<TestGatewayOptions> = {}): Promise<TestGateway> {
  const { host, port, username, password, database, type } = server;
  const decide = statementGate({
    engine: engineOf(server),
    account: username,
    allowAccountChange: false,
    readOnly: false,
    databases: null,
  });
  const common = { username, password, database, decide, servers: [{ host, port }] };
  switch (type) {
    case 'postgres':
      return startTestGateway({ ...common, ...changes, engine: postgres, settings: POSTGRES_SETTINGS });
    case 'mysql':
    case 'mariadb':
      // MySQL's default sign-in needs TLS, or the server's public key. Servers make a certificate of their own at first.
      return startTestGateway({
        ...common,
        ...changes,
        serverTls: { mode: 'prefer' },
        engine: mysql,
        settings: { ...MYSQL_SETTINGS, flavor: type, fetchServerPublicKey: true },
      });
    case 'sqlserver':
      return startSqlGateway({ ...server, double: server.double ?? null }, { decide, ...changes });
  }
}

function openTool(server: Reachable, port: number): Promise<Tool> {
  switch (server.type) {
    case 'postgres':
      return openPostgres(server, port);
    case 'mysql':
    case 'mariadb':
      return openMysql(server, port);
    case 'sqlserver':
      return openSqlServer(server, port);
  }
}

async function openPostgres({ database }: Reachable, port: number): Promise<Tool> {
  const config = { host: '127.0.0.1', port, user: 'anybody', database };
  const client = new pg.Client(config);
  client.on('error', () => {});
  await client.connect();
  return {
    query: async (text, values) =>
      (await client.query({ text, ...(values ? { values: [...values] } : {}), rowMode: 'array' })).rows,
    cancelled: async (running) => {
      const failed = expect(client.query('SELECT pg_sleep(60)')).rejects.toMatchObject({ code: '57014' });
      await running();
      const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
      const canceller = new pg.Client(config) as unknown as {
        connection: {
          connect(port: number, host: string): void;
          on(event: string, then: () => void): void;
          cancel(id: number, key: number): void;
        };
      };
      canceller.connection.on('connect', () => canceller.connection.cancel(processID, secretKey));
      canceller.connection.connect(port, '127.0.0.1');
      await failed;
    },
    close: () => client.end(),
  };
}

async function openMysql({ database }: Reachable, port: number): Promise<Tool> {
  const connection = await mysql2.createConnection({ host: '127.0.0.1', port, user: 'anybody', database });
  connection.on('error', () => {});
  const rowsOf = (result: unknown): unknown[][] => (Array.isArray(result) ? (result as unknown[][]) : []);
  return {
    query: async (text, values) => {
      const options = { sql: text, rowsAsArray: true };
      const [result] = values
        ? await connection.execute(options, [...values])
        : await connection.query(options);
      return rowsOf(result);
    },
    cancelled: async (running) => {
      const id = connection.threadId;
      const ended = connection.query({ sql: 'SELECT SLEEP(60)', rowsAsArray: true }).then(
        // MySQL answers a killed SLEEP with 1, MariaDB with an error.
        ([rows]) => Number(rowsOf(rows)[0]?.[0]),
        (error: { errno: number }) => error.errno,
      );
      await running();
      const killer = await openMysql({ database } as Reachable, port);
      await killer.query(`KILL QUERY ${id}`);
      expect([1, 1317]).toContain(await ended);
      await killer.close();
    },
    close: () => connection.end(),
  };
}

async function openSqlServer({ database }: Reachable, port: number): Promise<Tool> {
  const connection: Connection = await connectTedious({
    port,
    database,
    options: { maxRetriesOnTransientErrors: 0 },
  });
  const rowsOf = ({ rows, error }: Outcome): unknown[][] => {
    if (error !== null) throw new Error(error.message);
    return rows;
  };
  return {
    query: async (text, values) =>
      rowsOf(
        values
          ? await queryOf(connection, text, (request) => {
              for (const [index, value] of values.entries())
                request.addParameter(`p${index + 1}`, TYPES.Int, value);
            })
          : await batchOf(connection, text),
      ),
    cancelled: async (running) => {
      const ended = batchOf(connection, "WAITFOR DELAY '00:01:00'");
      await running();
      connection.cancel();
      expect((await ended).error?.code).toBe('ECANCEL');
    },
    close: () => closeTedious(connection),
  };
}
