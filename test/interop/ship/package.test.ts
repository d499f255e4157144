import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort, type PostgresServer, startPostgres } from '../../support/postgres.ts';

/**
 * The package as people install it and as the image holds it: packed, installed without development packages and install
 * scripts, and run from there, with a real session through it.
 */

const root = fileURLToPath(new URL('../../../', import.meta.url));
const scratch = mkdtempSync(join(tmpdir(), 'sallyport-package-'));
const prefix = join(scratch, 'prefix');
const started: ChildProcess[] = [];
/** A user that owns nothing; the image has one of the same number. */
const NOBODY = 65_532;

let server: PostgresServer;
let packed: { filename: string; files: { path: string }[] };

beforeAll(async () => {
  chmodSync(scratch, 0o755);
  server = await startPostgres();
  const said = execFileSync('npm', ['pack', '--json', '--loglevel=error', `--pack-destination=${scratch}`], {
    cwd: root,
    encoding: 'utf8',
  });
  packed = (JSON.parse(said.slice(said.indexOf('['))) as [typeof packed])[0];
});
afterAll(async () => {
  for (const child of started) if (child.exitCode === null) child.kill('SIGKILL');
  await server?.stop();
  chmodTree(scratch, 'u+w');
  rmSync(scratch, { recursive: true, force: true });
});

interface Running {
  readonly child: ChildProcess;
  readonly port: number;
  readonly config: string;
  /** Runs another command of the same installation on the same configuration. */
  run(...args: string[]): { status: number | null; stdout: string; stderr: string };
}

/** Starts `command ... start` on a configuration of its own in `folder`, and waits until it is ready. */
async function start(command: readonly string[], folder: string, uid?: number): Promise<Running> {
  mkdirSync(folder, { recursive: true });
  const port = await freePort();
  const config = join(folder, 'config.yaml');
  writeFileSync(
    config,
    `gateway: { data_dir: ${folder}/data, shutdown_grace: 1s }
http: { listen: "127.0.0.1:0" }
secrets: { env: { type: env } }
recording: { store: { type: directory, path: ${folder}/recordings } }
resources:
  appdb:
    type: postgres
    host: 127.0.0.1
    port: ${server.port}
    database: appdb
    tls: { mode: disable }
    launch_credentials: { username: ${server.accounts.launch.user}, password: "env:LAUNCH_PASSWORD" }
listeners:
  - { listen: "127.0.0.1:${port}", resource: appdb, client_auth: trust, principal: ada }
`,
  );
  const identity = uid === undefined ? {} : { uid, gid: uid };
  if (uid !== undefined) chownSync(folder, uid, uid);
  // What a service or a container has: nothing of this terminal.
  const env = {
    PATH: `${dirname(process.execPath)}:/usr/bin:/bin`,
    LAUNCH_PASSWORD: server.accounts.launch.password ?? '',
  };
  const [file = '', ...args] = command;
  const child = spawn(file, [...args, 'start', '--config', config], { env, cwd: '/', ...identity });
  started.push(child);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += String(chunk)));
  while (!output.includes('"ready"')) {
    if (child.exitCode !== null) throw new Error(`the gateway ended with ${child.exitCode}:\n${output}`);
    await Promise.race([once(child.stdout, 'data'), once(child, 'exit')]);
  }
  const run = (...more: string[]) =>
    spawnSync(file, [...args, ...more], { env, cwd: folder, encoding: 'utf8', timeout: 30_000, ...identity });
  return { child, port, config, run };
}

async function rowsThrough(port: number): Promise<unknown[]> {
  const client = new pg.Client({ host: '127.0.0.1', port, user: 'anybody', database: 'appdb' });
  await client.connect();
  const { rows } = await client.query('SELECT $1::int + 1 AS answer', [41]);
  await client.end();
  return rows;
}

async function stop({ child }: Running): Promise<number | null> {
  child.kill('SIGTERM');
  if (child.exitCode === null) await once(child, 'exit');
  return child.exitCode;
}

function chmodTree(path: string, mode: string): void {
  if (existsSync(path)) execFileSync('chmod', ['-R', mode, path]);
}

test('the package holds what is run and read, and nothing of how it is made', () => {
  const paths = packed.files.map(({ path }) => path);
  for (const path of [
    'bin/sallyport.js',
    'dist/src/main.js',
    'dist/src/recording/sealer-thread.js',
    'dist/build.json',
    'docs/man/sallyport.1',
    'docs/operations.md',
    'config.example.yaml',
    'config.schema.json',
    'LICENSE',
    'README.md',
    'SECURITY.md',
    'THIRD-PARTY.md',
  ])
    expect(paths).toContain(path);
  expect(
    paths.filter((path) => /\.test\.|^test\/|^src\/|^docs\/(\.vitepress|package)|node_modules/.test(path)),
  ).toEqual([]);
});

describe('installed for everybody (npm install --global)', () => {
  const command = join(prefix, 'bin', 'sallyport');
  let running: Running;

  beforeAll(async () => {
    execFileSync(
      'npm',
      [
        'install',
        '--global',
        `--prefix=${prefix}`,
        '--omit=dev',
        '--ignore-scripts',
        '--prefer-offline',
        '--no-audit',
        '--no-fund',
        '--loglevel=error',
        join(scratch, packed.filename),
      ],
      { cwd: scratch, stdio: 'pipe' },
    );
    running = await start([process.execPath, command], join(scratch, 'global'));
  });

  test('brings manual pages, and says what it was built from', () => {
    expect(existsSync(join(prefix, 'share', 'man', 'man1', 'sallyport.1'))).toBe(true);
    const said = JSON.parse(running.run('version', '--json').stdout) as Record<string, string>;
    expect(said).toMatchObject({ node: process.versions.node, openssl: process.versions.openssl });
    expect(said['built']).toMatch(/^\d{4}-\d\d-\d\dT/);
    expect(said['revision']).toMatch(/^[0-9a-f]{40}$/);
  });

  test('checks its configuration, every step to the database included', () => {
    const { status, stdout } = running.run('check', '--config', running.config, '--connect');
    expect(stdout).toContain('all 1 resources work');
    expect(status).toBe(0);
  });

  test('is healthy while it runs', () => {
    expect(running.run('health', '--config', running.config)).toMatchObject({ status: 0 });
    // A configuration that is here is found without being named.
    const { status, stdout } = running.run('health', '--json');
    expect(JSON.parse(stdout)).toMatchObject({ status: 'ready' });
    expect(status).toBe(0);
  });

  test('carries a session, seals it by its thread, and shows and proves it', async () => {
    expect(await rowsThrough(running.port)).toEqual([{ answer: 42 }]);
    expect(await stop(running)).toBe(0);
    const replayed = running.run('recordings', 'replay', '--last');
    expect(replayed.stdout).toContain('SELECT $1::int + 1 AS answer');
    expect(replayed.status).toBe(0);
    const verified = running.run('recordings', 'verify', '--all');
    expect(verified.status, verified.stdout + verified.stderr).toBe(0);
    const listed = JSON.parse(running.run('recordings', 'list', '--json').stdout.split('\n')[0]!);
    expect(listed).toMatchObject({ principal: 'ada', state: 'ended' });
  });

  test('is not healthy when it has ended', () => {
    const { status, stderr } = running.run('health', '--config', running.config);
    expect(status).toBe(1);
    expect(stderr).toMatch(/cannot be reached|cannot be read/);
  });

  test('loads every command', () => {
    for (const name of [
      'demo',
      'secrets',
      'login',
      'tunnel',
      'connect',
      'tokens',
      'users',
      'access',
      'sessions',
    ])
      expect(running.run(name, '--help'), name).toMatchObject({ status: 0 });
  });
});

describe('as the image holds it', () => {
  test('runs as another user from files that nobody may change', async () => {
    const app = join(scratch, 'app');
    mkdirSync(app);
    for (const name of ['package.json', 'package-lock.json', '.npmrc', 'bin', 'dist'])
      cpSync(join(root, name), join(app, name), { recursive: true });
    execFileSync('npm', ['ci', '--omit=dev', '--ignore-scripts', '--prefer-offline', '--loglevel=error'], {
      cwd: app,
      stdio: 'pipe',
    });
    chmodTree(app, 'a-w,a+rX');
    const bin = join(app, 'bin', 'sallyport.js');
    // The checkout, and the Node in it, may be where other users cannot go.
    const node = join(scratch, 'node');
    cpSync(process.execPath, node);
    const running = await start(
      [node, bin],
      join(scratch, 'image'),
      process.getuid?.() === 0 ? NOBODY : undefined,
    );
    expect(await rowsThrough(running.port)).toEqual([{ answer: 42 }]);
    expect(running.run('health', '--config', running.config)).toMatchObject({ status: 0 });
    expect(await stop(running)).toBe(0);
    expect(running.run('recordings', 'verify', '--all')).toMatchObject({ status: 0 });
    expect(execFileSync('find', [app, '-newer', running.config], { encoding: 'utf8' })).toBe('');
  });
});
