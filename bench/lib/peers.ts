import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { descendants, freePort, listening, type Started, start } from './process.ts';

/** Something between client and database, or nothing (`direct`). */
export interface Peer {
  readonly name: string;
  readonly port: number;
  /** Processes whose CPU time counts; empty for `direct`. */
  readonly pids: readonly number[];
  /** The password to give to it; null for none. */
  readonly password: string | null;
  /** Where Sallyport's own metrics are. */
  readonly httpPort?: number;
  stop(): Promise<void>;
}

export interface Backend {
  readonly type: 'postgres' | 'mysql' | 'mariadb' | 'sqlserver';
  readonly port: number;
  readonly user: string;
  /** Empty: the server asks for none. */
  readonly password: string;
  readonly database: string;
}

/** Files (PEM) with a certificate, its key and its authority, for TLS on both sides of a peer. */
export interface TlsFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

const root = fileURLToPath(new URL('../../', import.meta.url));
const ROUTER_TREE = join(root, 'var', 'servers', 'mysql-router');
const WORKERS_MS_MAX = 30_000;
const NOBODY = { uid: 65534, gid: 65534 };

export function direct(backend: Backend): Peer {
  const { port, password } = backend;
  return { name: 'direct', port, pids: [], password: password || null, stop: async () => {} };
}

/** HAProxy as a plain TCP relay with one thread. */
export async function haproxy(backend: Backend): Promise<Peer> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-haproxy-'));
  const port = await freePort();
  const config = join(folder, 'haproxy.cfg');
  writeFileSync(
    config,
    `global
  nbthread 1
  maxconn 6000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen db
  bind 127.0.0.1:${port}
  server db 127.0.0.1:${backend.port}
`,
  );
  const started = start('haproxy', ['-f', config, '-db']);
  await listening(port, started);
  return peer('HAProxy', port, started, backend.password || null, folder);
}

/** PgBouncer in session mode, which signs in to the server with a password of its own and lets everybody in. */
export async function pgbouncer(
  backend: Backend,
  options: { freshServers?: boolean; tls?: TlsFiles } = {},
): Promise<Peer> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-pgbouncer-'));
  const port = await freePort();
  const config = join(folder, 'pgbouncer.ini');
  const password = backend.password === '' ? '' : ` password=${backend.password}`;
  const tls =
    options.tls === undefined
      ? ''
      : `client_tls_sslmode = require
client_tls_cert_file = ${options.tls.cert}
client_tls_key_file = ${options.tls.key}
server_tls_sslmode = verify-full
server_tls_ca_file = ${options.tls.ca}
`;
  writeFileSync(
    config,
    `[databases]
* = host=127.0.0.1 port=${backend.port} dbname=${backend.database} user=${backend.user}${password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
auth_file = ${join(folder, 'users.txt')}
pool_mode = session
max_client_conn = 6000
default_pool_size = 6000
max_db_connections = 0
server_lifetime = ${options.freshServers ? 0 : 3600}
server_idle_timeout = 0
server_reset_query =
log_connections = 0
log_disconnections = 0
ignore_startup_parameters = extra_float_digits,options
${tls}`,
    { mode: 0o644 },
  );
  writeFileSync(join(folder, 'users.txt'), `"${backend.user}" "${backend.password}"\n`, { mode: 0o644 });
  chmodSync(folder, 0o755);
  const started = start('pgbouncer', [config], process.getuid?.() === 0 ? NOBODY : {});
  await listening(port, started);
  return peer('PgBouncer', port, started, null, folder);
}

/** MySQL Router as a plain relay with one thread; null where `node scripts/databases.cjs --bench` did not fetch it. */
export async function mysqlRouter(backend: Backend): Promise<Peer | null> {
  if (routerCommand() === null) return null;
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-router-'));
  const port = await freePort();
  const config = join(folder, 'router.conf');
  writeFileSync(
    config,
    `[DEFAULT]
plugin_folder = ${join(ROUTER_TREE, 'usr/lib/mysqlrouter/plugin')}
runtime_folder = ${folder}
data_folder = ${folder}
max_total_connections = 6000
client_ssl_mode = PASSTHROUGH
server_ssl_mode = AS_CLIENT
[logger]
level = WARNING
[io]
threads = 1
[routing:db]
bind_address = 127.0.0.1
bind_port = ${port}
destinations = 127.0.0.1:${backend.port}
routing_strategy = first-available
protocol = classic
max_connections = 6000
`,
  );
  const [command, ...args] = routerCommand()!;
  const started = start(command!, [...args, '-c', config]);
  await listening(port, started);
  return peer('MySQL Router', port, started, backend.password || null, folder);
}

/** The unpacked MySQL Router, run by the dynamic loader that was unpacked with it; null where there is none. */
export function routerCommand(): string[] | null {
  const folder = ['x86_64-linux-gnu', 'aarch64-linux-gnu']
    .map((platform) => join(ROUTER_TREE, 'usr/lib', platform))
    .find((libraries) => existsSync(libraries));
  const loader = folder && readdirSync(folder).find((name) => /^ld-linux-.*\.so\.\d$/.test(name));
  if (!folder || !loader) return null;
  const libraries = [folder, join(ROUTER_TREE, 'usr/lib/mysql-router')].join(':');
  return [join(folder, loader), '--library-path', libraries, join(ROUTER_TREE, 'usr/bin/mysqlrouter')];
}

export interface SallyportOptions {
  /** `off`: the benchmark's own gateway with a recorder that does nothing. */
  readonly recording: 'off' | 'buffered' | 'flushed' | 'synced';
  readonly parameters?: boolean;
  /** What the resource says of its recordings, in YAML's flow style: `{ sample_rows: 10 }`. */
  readonly resourceRecording?: string;
  readonly name?: string;
  readonly workers?: number;
  readonly nodeFlags?: readonly string[];
  /** TLS with clients and with the server. Default: none. */
  readonly tls?: TlsFiles;
  /** For SQL Server with TLS: what the resource says of encryption and of the account. */
  readonly sqlServer?: {
    readonly encryption: 'login-only' | 'on' | 'strict';
    readonly windowsDomain?: string;
  };
}

/** What the daemon gives itself by `bin/sallyport.js`. */
const DAEMON_FLAGS = ['--liftoff-only', '--max-semi-space-size=32'];

/** The product itself, started as a user would. */
export async function sallyport(backend: Backend, options: SallyportOptions): Promise<Peer> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-'));
  const port = await freePort();
  const httpPort = await freePort();
  const config = join(folder, 'config.yaml');
  writeFileSync(config, configuration(backend, options, { folder, port, httpPort }));
  const script =
    options.recording === 'off'
      ? [...DAEMON_FLAGS, join(root, 'bench', 'unrecorded.ts'), config]
      : [join(root, 'bin', 'sallyport.js'), 'start', '--config', config, '--log-level', 'error'];
  const started = start(process.execPath, [...(options.nodeFlags ?? []), ...script], {
    env: { ...process.env, BENCH_PASSWORD: backend.password },
  });
  await listening(port, started);
  const made = peer(options.name ?? `Sallyport ${options.recording}`, port, started, null, folder);
  const stop = async (): Promise<void> => {
    await made.stop();
    // It logs errors alone: figures of a gateway that could not record would be worth nothing.
    if (started.output() !== '') console.error(`${made.name} said:\n${started.output()}`);
  };
  return { ...made, stop, httpPort, pids: await processesOf(started, options.workers ?? 1) };
}

/** The gateway's processes: with several workers, those and the one that they belong to. */
async function processesOf({ pid }: Started, workers: number): Promise<number[]> {
  const expected = workers === 1 ? 1 : workers + 1;
  for (let waited = 0; waited < WORKERS_MS_MAX; waited += 50) {
    const found = descendants(pid);
    if (found.length >= expected) return found;
    await sleep(50);
  }
  throw new Error(`the gateway has fewer than ${workers} workers after ${WORKERS_MS_MAX / 1000} s`);
}

function configuration(
  backend: Backend,
  options: SallyportOptions,
  place: { folder: string; port: number; httpPort: number },
): string {
  const { folder, port, httpPort } = place;
  const recording = [
    `durability: ${options.recording === 'off' ? 'buffered' : options.recording}`,
    `parameters: ${options.parameters ?? true}`,
    `store: { type: directory, path: ${join(folder, 'recordings')} }`,
  ];
  const ofResource = [
    ...(options.resourceRecording === undefined ? [] : [`recording: ${options.resourceRecording}`]),
    ...(backend.type === 'mysql' || backend.type === 'mariadb'
      ? ['allow_local_infile: true', 'fetch_server_public_key: true']
      : []),
    ...(backend.type === 'sqlserver' ? sqlServerSettings(options.sqlServer) : []),
  ];
  const password = backend.password === '' ? '' : ', password: "env:BENCH_PASSWORD"';
  const tls =
    options.tls === undefined ? '' : `, tls: { cert: ${options.tls.cert}, key: ${options.tls.key} }`;
  return `gateway: { name: bench, data_dir: ${join(folder, 'data')}${options.workers ? `, workers: ${options.workers}` : ''} }
http: { listen: "127.0.0.1:${httpPort}" }
secrets: { env: { type: env } }
recording: { ${recording.join(', ')} }
resources:
  db:
    type: ${backend.type}
    host: 127.0.0.1
    port: ${backend.port}
    database: ${backend.database}
    tls: ${options.tls === undefined ? '{ mode: disable }' : `{ mode: verify-full, ca: ${options.tls.ca} }`}
    limits: { max_connections: 6000 }
    launch_credentials: { username: ${backend.user}${password} }
${ofResource.map((line) => `    ${line}\n`).join('')}listeners:
  - { listen: "127.0.0.1:${port}", resource: db, client_auth: trust${tls} }
`;
}

function sqlServerSettings(settings: SallyportOptions['sqlServer']): string[] {
  if (settings === undefined) return ['encryption: "off"', 'client_encryption: none'];
  const { encryption, windowsDomain } = settings;
  return [
    `encryption: "${encryption}"`,
    `client_encryption: ${encryption === 'login-only' ? 'login' : 'required'}`,
    ...(windowsDomain === undefined ? [] : [`windows_domain: ${windowsDomain}`]),
  ];
}

function peer(name: string, port: number, started: Started, password: string | null, folder: string): Peer {
  return {
    name,
    port,
    pids: [started.pid],
    password,
    async stop() {
      await started.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
