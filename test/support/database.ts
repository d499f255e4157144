import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import mysql from 'mysql2/promise';
import { type Authority, type Issued, makeAuthority } from './certificates.ts';

/**
 * MySQL and MariaDB servers for tests: unpacked by `scripts/databases.cjs` into `var/servers`, each run on its own data
 * directory, port and socket by the dynamic loader that was unpacked with it.
 */

/** One unpacked server (and its command-line clients). */
export interface ServerTree {
  readonly name: 'mysql' | 'mariadb-10' | 'mariadb-11';
  readonly root: string;
}

/** A running server, and what a test may do with it. */
export interface DatabaseServer {
  readonly host: '127.0.0.1';
  readonly port: number;
  readonly socket: string;
  /** As `SELECT VERSION()` says. */
  readonly version: string;
  /** The authority that signed the server's certificate, PEM text and file. */
  readonly ca: string;
  readonly caFile: string;
  /** Issues more certificates of the same authority, for clients. */
  readonly authority: Authority;
  readonly certificate: Issued;
  /** Runs statements as root over the socket, one after another; gives the last one's rows. */
  run(...statements: string[]): Promise<Record<string, unknown>[]>;
  /** A new connection as root, over the socket. The caller ends it. */
  root(): Promise<mysql.Connection>;
  /** The server's general log so far: every statement that it ran. */
  generalLog(): string;
  errorLog(): string;
  /** Stops and starts again on the same data and port. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

export interface StartOptions {
  /** Further server options, `--name=value`. */
  readonly options?: readonly string[];
  /** `false`: the server has no certificate and offers no TLS. */
  readonly tls?: boolean;
}

/** What differs between the two families. */
export interface Family {
  readonly tree: ServerTree;
  readonly program: string;
  /** Options that both the making of a data directory and every start need. */
  readonly common: readonly string[];
  readonly start: readonly string[];
  /** Fills an empty data directory. */
  initialise(dataDirectory: string): void;
}

const SERVERS = resolve(import.meta.dirname, '..', '..', 'var', 'servers');

/** The tree of that name, or null where `scripts/databases.cjs` could not fetch it. */
export function serverTree(name: ServerTree['name']): ServerTree | null {
  const root = join(SERVERS, name);
  return existsSync(root) ? { name, root } : null;
}

/** Program and leading arguments that run `program` (a path below the tree) with the libraries of its own release. */
export function programOf(tree: ServerTree, program: string): { file: string; args: string[] } {
  const { root } = tree;
  const libraries = [
    'usr/lib/x86_64-linux-gnu',
    'lib/x86_64-linux-gnu',
    'usr/lib/aarch64-linux-gnu',
    'lib/aarch64-linux-gnu',
  ]
    .map((path) => join(root, path))
    .filter((path) => existsSync(path));
  const loader = [
    'usr/lib64/ld-linux-x86-64.so.2',
    'lib64/ld-linux-x86-64.so.2',
    'usr/lib/ld-linux-aarch64.so.1',
    'lib/ld-linux-aarch64.so.1',
  ]
    .map((path) => join(root, path))
    .find((path) => existsSync(path));
  if (loader === undefined) throw new Error(`no dynamic loader in ${root}`);
  return { file: loader, args: ['--library-path', libraries.join(':'), join(root, program)] };
}

/** Runs a program of the tree to its end. */
export function runProgram(
  tree: ServerTree,
  program: string,
  args: readonly string[],
  options: { input?: string; timeoutMs?: number; env?: Record<string, string> } = {},
): { status: number | null; stdout: string; stderr: string } {
  const { file, args: leading } = programOf(tree, program);
  const { status, stdout, stderr } = spawnSync(file, [...leading, ...args], {
    input: options.input ?? '',
    encoding: 'utf8',
    timeout: options.timeoutMs ?? 60_000,
    maxBuffer: 256 * 1024 * 1024,
    env: { ...process.env, ...options.env },
  });
  return { status, stdout, stderr };
}

/** Starts a server of the family on a free port of 127.0.0.1. */
export async function startDatabase(family: Family, options: StartOptions = {}): Promise<DatabaseServer> {
  const folder = mkdtempSync(join(tmpdir(), `sallyport-${family.tree.name}-`));
  const data = join(folder, 'data');
  cpSync(dataTemplate(family), data, { recursive: true });
  const authority = await makeAuthority('Test databases', 'rsa');
  const certificate = await authority.issue({
    commonName: 'localhost',
    hosts: ['localhost', '127.0.0.1'],
    keyType: 'rsa',
  });
  const files = { ca: join(folder, 'ca.pem'), cert: join(folder, 'cert.pem'), key: join(folder, 'key.pem') };
  writeFileSync(files.ca, authority.cert);
  writeFileSync(files.cert, certificate.cert);
  writeFileSync(files.key, certificate.key, { mode: 0o600 });
  const port = await freePort();
  const socket = join(folder, 's');
  const args = [
    '--no-defaults',
    ...family.common,
    `--datadir=${data}`,
    '--bind-address=127.0.0.1',
    `--port=${port}`,
    `--socket=${socket}`,
    `--pid-file=${join(folder, 'pid')}`,
    `--log-error=${join(folder, 'error.log')}`,
    '--general-log=ON',
    '--log-output=FILE',
    `--general-log-file=${join(folder, 'general.log')}`,
    ...(options.tls === false
      ? []
      : [`--ssl-ca=${files.ca}`, `--ssl-cert=${files.cert}`, `--ssl-key=${files.key}`]),
    ...family.start,
    ...(options.options ?? []),
  ];
  const errorLog = (): string =>
    existsSync(join(folder, 'error.log')) ? readFileSync(join(folder, 'error.log'), 'utf8') : '';
  const root = (): Promise<mysql.Connection> =>
    mysql.createConnection({ socketPath: socket, user: 'root', multipleStatements: true });
  let child = await launch(family, args, root, errorLog);
  // A test run that dies must not leave servers behind.
  const onExit = (): void => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  };
  process.on('exit', onExit);
  const run = async (...statements: string[]): Promise<Record<string, unknown>[]> => {
    const connection = await root();
    try {
      let rows: unknown = [];
      for (const statement of statements) [rows] = await connection.query(statement);
      return rows as Record<string, unknown>[];
    } finally {
      await connection.end();
    }
  };
  const version = String((await run('SELECT VERSION() AS version'))[0]?.['version']);
  return {
    host: '127.0.0.1',
    port,
    socket,
    version,
    ca: authority.cert,
    caFile: files.ca,
    authority,
    certificate,
    run,
    root,
    generalLog: () => readFileSync(join(folder, 'general.log'), 'utf8'),
    errorLog,
    restart: async () => {
      await halt(child);
      child = await launch(family, args, root, errorLog);
    },
    stop: async () => {
      process.off('exit', onExit);
      await halt(child);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** An initialised data directory, made once and copied for each server. */
function dataTemplate(family: Family): string {
  const template = join(SERVERS, 'data', family.tree.name);
  if (existsSync(template)) return template;
  mkdirSync(join(SERVERS, 'data'), { recursive: true });
  const made = mkdtempSync(join(SERVERS, 'data', 'new-'));
  const data = join(made, 'data');
  mkdirSync(data);
  family.initialise(data);
  // The server's identity: each copy makes its own.
  rmSync(join(data, 'auto.cnf'), { force: true });
  try {
    renameSync(data, template);
  } catch (error) {
    if (!existsSync(template)) throw error;
  }
  rmSync(made, { recursive: true, force: true });
  return template;
}

async function launch(
  family: Family,
  args: readonly string[],
  root: () => Promise<mysql.Connection>,
  errorLog: () => string,
): Promise<ChildProcess> {
  const { file, args: leading } = programOf(family.tree, family.program);
  const child = spawn(file, [...leading, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    stderr = (stderr + chunk.toString()).slice(-4000);
  });
  const deadline = Date.now() + 60_000;
  for (;;) {
    if (child.exitCode !== null) {
      throw new Error(`${family.tree.name} ended while starting: ${stderr}${errorLog().slice(-4000)}`);
    }
    try {
      const connection = await root();
      await connection.end();
      return child;
    } catch (error) {
      if (Date.now() > deadline) {
        child.kill('SIGKILL');
        throw new Error(
          `${family.tree.name} does not answer: ${(error as Error).message}\n${errorLog().slice(-4000)}`,
        );
      }
      await delay(50);
    }
  }
}

async function halt(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 20_000);
  await ended;
  clearTimeout(timer);
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
