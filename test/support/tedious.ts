import { Connection, type ConnectionConfiguration, Request, type RequestError, TYPES } from 'tedious';

/** tedious in promises, for tests that play a tool. */

export interface TediousTarget {
  readonly port: number;
  readonly user?: string;
  readonly password?: string;
  readonly database?: string;
  readonly options?: ConnectionConfiguration['options'];
}

export function connectTedious(target: TediousTarget): Promise<Connection> {
  const connection = new Connection({
    server: '127.0.0.1',
    authentication: {
      type: 'default',
      options: { userName: target.user ?? 'me', password: target.password ?? 'anything' },
    },
    options: {
      port: target.port,
      encrypt: false,
      ...(target.database ? { database: target.database } : {}),
      useColumnNames: false,
      rowCollectionOnRequestCompletion: false,
      ...target.options,
    },
  });
  return new Promise((resolve, reject) => {
    connection.connect((error) => (error ? reject(error) : resolve(connection)));
  });
}

export function closeTedious(connection: Connection): Promise<void> {
  return new Promise((resolve) => {
    connection.once('end', () => resolve());
    connection.close();
  });
}

export interface Outcome {
  /** Rows of all results, one behind another. */
  readonly rows: unknown[][];
  readonly count: number | null;
  readonly error: { number: number | undefined; message: string; code: string | undefined } | null;
  readonly outputs: Record<string, unknown>;
  readonly status: number | null;
}

/** Runs a request that `send` gives to the connection. Errors are part of the outcome. */
export function runRequest(
  text: string,
  send: (request: Request) => void,
  prepare: (request: Request) => void = () => {},
): Promise<Outcome> {
  return new Promise((resolve) => {
    const rows: unknown[][] = [];
    const outputs: Record<string, unknown> = {};
    let status: number | null = null;
    const request = new Request(text, (error, rowCount) => {
      const failed = error as RequestError | null | undefined;
      resolve({
        rows,
        count: rowCount ?? null,
        error: failed ? { number: failed.number, message: failed.message, code: failed.code } : null,
        outputs,
        status,
      });
    });
    request.on('row', (columns: { value: unknown }[]) => rows.push(columns.map(({ value }) => value)));
    request.on('returnValue', (name: string, value: unknown) => {
      outputs[name] = value;
    });
    request.on('doneProc', (_rowCount, _more, returnStatus: number | undefined) => {
      if (returnStatus !== undefined) status = returnStatus;
    });
    prepare(request);
    send(request);
  });
}

export function batchOf(connection: Connection, text: string): Promise<Outcome> {
  return runRequest(text, (request) => connection.execSqlBatch(request));
}

export function queryOf(
  connection: Connection,
  text: string,
  prepare?: (request: Request) => void,
): Promise<Outcome> {
  return runRequest(text, (request) => connection.execSql(request), prepare);
}

export function callOf(
  connection: Connection,
  procedure: string,
  prepare?: (request: Request) => void,
): Promise<Outcome> {
  return runRequest(procedure, (request) => connection.callProcedure(request), prepare);
}

export { type Connection, Request, TYPES };
