import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort, listening, type Started, start } from './process.ts';

/** Something between client and database, or nothing (`direct`). */
export interface Peer {
  readonly name: string;
  readonly port: number;
  /** Processes whose CPU time counts; empty for `direct`. */
  readonly pids: readonly number[];
  /** The password to give to it; null for none. */
  readonly password: string | null;
  stop(): Promise<void>;
}

export interface Backend {
  readonly type: 'postgres' | 'mysql' | 'mariadb' | 'sqlserver';
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
}

const root = fileURLToPath(new URL('../../', import.meta.url));
const NOBODY = { uid: 65534, gid: 65534 };

export function direct(backend: Backend): Peer {
  return { name: 'direct', port: backend.port, pids: [], password: backend.password, stop: async () => {} };
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
  return peer('HAProxy', port, started, backend.password, folder);
}

/** PgBouncer in session mode, which signs in to the server with a password of its own and lets everybody in. */
export async function pgbouncer(backend: Backend, options: { freshServers?: boolean } = {}): Promise<Peer> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-pgbouncer-'));
  const port = await freePort();
  const config = join(folder, 'pgbouncer.ini');
  writeFileSync(
    config,
    `[databases]
* = host=127.0.0.1 port=${backend.port} dbname=${backend.database} user=${backend.user} password=${backend.password}
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
`,
    { mode: 0o644 },
  );
  writeFileSync(join(folder, 'users.txt'), `"${backend.user}" "${backend.password}"\n`, { mode: 0o644 });
  chmodSync(folder, 0o755);
  const started = start('pgbouncer', [config], process.getuid?.() === 0 ? NOBODY : {});
  await listening(port, started);
  return peer('PgBouncer', port, started, null, folder);
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
}

/** The product itself, started as a user would. */
export async function sallyport(backend: Backend, options: SallyportOptions): Promise<Peer> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-'));
  const port = await freePort();
  const httpPort = await freePort();
  const config = join(folder, 'config.yaml');
  const recording = [
    `durability: ${options.recording === 'off' ? 'buffered' : options.recording}`,
    `parameters: ${options.parameters ?? true}`,
    `store: { type: directory, path: ${join(folder, 'recordings')} }`,
  ];
  const ofResource =
    options.resourceRecording === undefined ? '' : `    recording: ${options.resourceRecording}\n`;
  writeFileSync(
    config,
    `gateway: { name: bench, data_dir: ${join(folder, 'data')}${options.workers ? `, workers: ${options.workers}` : ''} }
http: { listen: "127.0.0.1:${httpPort}" }
secrets: { env: { type: env } }
recording: { ${recording.join(', ')} }
resources:
  db:
    type: ${backend.type}
    host: 127.0.0.1
    port: ${backend.port}
    database: ${backend.database}
    tls: { mode: disable }
    limits: { max_connections: 6000 }
${ofResource}    launch_credentials: { username: ${backend.user}, password: "env:BENCH_PASSWORD" }
listeners:
  - { listen: "127.0.0.1:${port}", resource: db, client_auth: trust }
`,
  );
  const script =
    options.recording === 'off'
      ? [join(root, 'bench', 'unrecorded.ts'), config]
      : [join(root, 'bin', 'sallyport.js'), 'start', '--config', config, '--log-level', 'error'];
  const started = start(process.execPath, [...(options.nodeFlags ?? []), ...script], {
    env: { ...process.env, BENCH_PASSWORD: backend.password },
  });
  await listening(port, started);
  return peer(options.name ?? `Sallyport ${options.recording}`, port, started, null, folder);
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
