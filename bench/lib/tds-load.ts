import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection, Request } from 'tedious';
import { closeTedious } from '../../test/support/tedious.ts';
import { percentile } from './figures.ts';
import { ACCOUNT, bulkMessage, REQUESTS, TdsConnection } from './tds.ts';

/**
 * The load generator of the SQL Server benchmarks: `node tds-load.ts PORT WORK CLIENTS SECONDS [CA]`. WORK is `batch`, `rpc`,
 * `down`, `up`, `signin` (in the clear, with recorded bytes), or a sign-in by tedious: `login`, `tls`, `strict`. Prints `started` when everybody is signed in and warm, and in the end a line of JSON
 * (`TdsLoadResult`).
 */

export interface TdsLoadResult {
  readonly count: number;
  readonly seconds: number;
  /** Milliseconds. */
  readonly p50: number;
  readonly p99: number;
}

const WARM_UP_MS = 500;
/** Between `started` and a transfer, for whoever measures to be ready. */
const READY_MS = 300;

const [port, work, clients, seconds] = [
  Number(process.argv[2]),
  process.argv[3]!,
  Number(process.argv[4]),
  Number(process.argv[5]),
];

async function roundTrips(request: Buffer): Promise<TdsLoadResult> {
  const connections = await opened();
  const latencies: number[] = [];
  let ending = Number.POSITIVE_INFINITY;
  const all = connections.map(
    (connection) =>
      new Promise<void>((resolve) => {
        let sentAt = performance.now();
        const answered = (): void => {
          const now = performance.now();
          latencies.push(now - sentAt);
          sentAt = now;
          if (now >= ending) resolve();
          else connection.send(request, answered);
        };
        connection.send(request, answered);
      }),
  );
  await sleep(WARM_UP_MS);
  latencies.length = 0;
  const started = performance.now();
  ending = started + seconds * 1000;
  console.log('started');
  await Promise.all(all);
  const taken = (performance.now() - started) / 1000;
  const result = {
    count: latencies.length,
    seconds: taken,
    p50: percentile(latencies, 0.5),
    p99: percentile(latencies, 0.99),
  };
  return result;
}

async function opened(): Promise<TdsConnection[]> {
  const connections: TdsConnection[] = [];
  for (let count = 0; count < clients; count += 1) connections.push(await TdsConnection.open(port));
  return connections;
}

async function transfer(messages: readonly Buffer[]): Promise<TdsLoadResult> {
  const connection = await TdsConnection.open(port);
  console.log('started');
  await sleep(READY_MS);
  const started = performance.now();
  for (const bytes of messages) await connection.exchange(bytes);
  const taken = performance.now() - started;
  return { count: 1, seconds: taken / 1000, p50: taken, p99: taken };
}

async function signIns(signIn: () => Promise<void>): Promise<TdsLoadResult> {
  const latencies: number[] = [];
  console.log('started');
  const started = performance.now();
  const ending = started + seconds * 1000;
  await Promise.all(
    Array.from({ length: clients }, async () => {
      while (performance.now() < ending) {
        const began = performance.now();
        await signIn();
        latencies.push(performance.now() - began);
      }
    }),
  );
  return {
    count: latencies.length,
    seconds: (performance.now() - started) / 1000,
    p50: percentile(latencies, 0.5),
    p99: percentile(latencies, 0.99),
  };
}

async function signInClear(): Promise<void> {
  const connection = await TdsConnection.open(port);
  await connection.exchange(REQUESTS.batch);
  await connection.close();
}

const { user, password, database } = ACCOUNT;
const ca = process.argv[6] === undefined ? undefined : readFileSync(process.argv[6], 'utf8');

/** With TLS inside PRELOGIN, for the `login` alone or throughout; or first of all (`strict`). */
async function signInTls(): Promise<void> {
  const connection = new Connection({
    server: 'localhost',
    authentication: { type: 'default', options: { userName: user, password } },
    options: {
      port,
      database,
      encrypt: work === 'strict' ? 'strict' : work === 'tls',
      cryptoCredentialsDetails: { ca },
      connectTimeout: 30_000,
    },
  });
  await new Promise<void>((resolve, reject) =>
    connection.connect((error) => (error ? reject(error) : resolve())),
  );
  await new Promise<void>((resolve, reject) =>
    connection.execSqlBatch(new Request('SELECT 1', (error) => (error ? reject(error) : resolve()))),
  );
  await closeTedious(connection);
}

const result =
  work === 'signin'
    ? await signIns(signInClear)
    : work === 'login' || work === 'tls' || work === 'strict'
      ? await signIns(signInTls)
      : work === 'down'
        ? await transfer([REQUESTS.down])
        : work === 'up'
          ? await transfer([REQUESTS.insertBulk, bulkMessage()])
          : await roundTrips(work === 'rpc' ? REQUESTS.rpc : REQUESTS.batch);
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0));
