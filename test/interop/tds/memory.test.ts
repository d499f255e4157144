import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { makeAuthority } from '../../support/certificates.ts';
import { FreeTds, jdbc, python } from '../../support/tds-clients.ts';
import { startTdsDouble, type TdsDouble } from '../../support/tds-double/double.ts';
import { formsOf } from '../../support/tds-peers.ts';

/**
 * The daemon's memory after sign-ins, read from outside: no client's password is in it as text, and the launch password is
 * not in the forms that LOGIN7 gives it. (As it came from its provider it may still be there.) Of the client's own LOGIN7,
 * a piece that the network cut off may linger until its memory is used again, obfuscated as it was sent.
 */

const ROOT = join(import.meta.dirname, '../../..');
// Made at run time, so that neither is in any program text.
const LAUNCH = `launch-${randomBytes(9).toString('base64url')}`;
const CLIENT = `client-${randomBytes(9).toString('base64url')}`;

let folder: string;
let server: TdsDouble;
let daemon: ChildProcess;
let port: number;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sallyport-memory-'));
  const authority = await makeAuthority('Memory CA', 'rsa');
  const certificate = await authority.issue({ commonName: 'localhost', keyType: 'rsa' });
  server = await startTdsDouble({ encryption: 'required', certificate, logins: { svc: LAUNCH } });
  await writeFile(join(folder, 'ca.pem'), authority.cert);
  port = await freePort();
  await writeFile(
    join(folder, 'sallyport.yaml'),
    `gateway: { name: memory, data_dir: ./data }
http: { listen: 127.0.0.1:${await freePort()} }
secrets: { env: { type: env } }
recording: { store: { type: directory, path: ./recordings } }
resources:
  shop:
    type: sqlserver
    host: localhost
    port: ${server.port}
    database: testdb
    tls: { mode: verify-full, ca: ./ca.pem }
    launch_credentials: { username: svc, password: "env:LAUNCH_PASSWORD" }
listeners:
  - { listen: "127.0.0.1:${port}", resource: shop }
`,
  );
  daemon = spawn(
    process.execPath,
    [join(ROOT, 'src/main.ts'), 'start', '--config', join(folder, 'sallyport.yaml')],
    {
      cwd: folder,
      env: { PATH: process.env['PATH'], LAUNCH_PASSWORD: LAUNCH },
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  await listening(port);
});

afterAll(async () => {
  if (daemon?.exitCode === null) {
    daemon.kill('SIGKILL');
    await once(daemon, 'exit');
  }
  await server?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

it.skipIf(process.platform !== 'linux')('keeps no password of a sign-in', async () => {
  const signIn = { port, user: 'alice', password: CLIENT, database: 'testdb' };
  const freeTds = await FreeTds.start(port);
  try {
    const results = [
      ...(await python([
        { driver: 'pytds', ...signIn },
        { driver: 'pymssql', ...signIn },
        { driver: 'pyodbc', ...signIn, options: { Encrypt: 'no' } },
        { driver: 'pyodbc', ...signIn, options: { Encrypt: 'yes', TrustServerCertificate: 'yes' } },
      ])),
      ...(await jdbc([
        { url: `jdbc:jtds:sqlserver://localhost:${port}/testdb;ssl=off`, user: 'alice', password: CLIENT },
        {
          url: `jdbc:sqlserver://localhost:${port};encrypt=true;trustServerCertificate=true`,
          user: 'alice',
          password: CLIENT,
        },
      ])),
      await freeTds.tsql('request', signIn),
    ];
    expect(results.map(({ ok }) => ok)).toEqual(results.map(() => true));
  } finally {
    await freeTds.stop();
  }
  const [, launchText, launchHidden] = formsOf(LAUNCH);
  const found = search(daemon.pid!, {
    'client, UTF-8': Buffer.from(CLIENT),
    'client, UTF-16': formsOf(CLIENT)[1]!,
    'client, obfuscated': formsOf(CLIENT)[2]!,
    'launch, UTF-16': launchText!,
    'launch, obfuscated': launchHidden!,
    // That the search finds what is there.
    'launch, UTF-8': Buffer.from(LAUNCH),
  });
  expect(found['launch, UTF-8']).toBeGreaterThan(0);
  expect(found['client, obfuscated']).toBeLessThan(3);
  delete found['launch, UTF-8'];
  delete found['client, obfuscated'];
  expect(found).toEqual({
    'client, UTF-8': 0,
    'client, UTF-16': 0,
    'launch, UTF-16': 0,
    'launch, obfuscated': 0,
  });
});

/** How often each pattern is in the writable memory of a process of ours. */
function search(pid: number, patterns: Readonly<Record<string, Buffer>>): Record<string, number> {
  const counts: Record<string, number> = Object.fromEntries(Object.keys(patterns).map((name) => [name, 0]));
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  const chunk = Buffer.alloc(8 * 1024 * 1024);
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
      // What no file backs: heaps, stacks, buffers.
      const match = /^([0-9a-f]+)-([0-9a-f]+) rw\S+ \S+ \S+ \d+\s*(?:\[(?:heap|stack|anon).*)?$/.exec(line);
      if (match === null) continue;
      const end = BigInt(`0x${match[2]}`);
      for (let at = BigInt(`0x${match[1]}`); at < end; at += BigInt(chunk.length)) {
        const left = end - at;
        const length = left < BigInt(chunk.length) ? Number(left) : chunk.length;
        const part = chunk.subarray(0, readPart(memory, chunk, length, at));
        for (const [name, pattern] of Object.entries(patterns)) {
          for (let found = part.indexOf(pattern); found >= 0; found = part.indexOf(pattern, found + 1)) {
            counts[name]! += 1;
          }
        }
      }
    }
  } finally {
    closeSync(memory);
  }
  return counts;
}

/** Some mappings are listed as readable and are not. */
function readPart(memory: number, chunk: Buffer, length: number, at: bigint): number {
  try {
    return readSync(memory, chunk, 0, length, at);
  } catch {
    return 0;
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port: free } = probe.address() as { port: number };
  probe.close();
  return free;
}

async function listening(at: number): Promise<void> {
  for (let tries = 0; tries < 200; tries += 1) {
    const socket = connect({ host: '127.0.0.1', port: at });
    const open = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true));
      socket.once('error', () => resolve(false));
    });
    socket.destroy();
    if (open) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error('the daemon did not come up');
}
