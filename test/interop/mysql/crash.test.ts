import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { identitiesIn, LOCAL_KEY_FILE } from '../../../src/recording/keys.ts';
import { emptyReport, Library } from '../../../src/recording/library.ts';
import { makeStore, STORE_FILE, type StoreOptions } from '../../../src/recording/pipeline.ts';
import { type DatabaseServer, freePort } from '../../support/database.ts';
import { parseGeneralLog } from '../../support/general-log.ts';
import { startMariadb } from '../../support/mariadb.ts';
import { RawMysql } from '../../support/mysql-raw.ts';
import { command, FLAG, lenenc, u32 } from '../../support/mysql-scripts.ts';

/**
 * Nothing reaches the server that is not on record, not even when the gateway dies by `kill -9` under load: the server's
 * general log against the recordings. SALLYPORT_CRASHES says how often.
 */
const CRASHES = Number(process.env['SALLYPORT_CRASHES'] ?? 12);
const CLIENTS = 4;

let server: DatabaseServer;
let folder: string;
let port: number;

beforeAll(async () => {
  server = await startMariadb('10');
  await server.run(
    'create database lab',
    "create user app@'%' identified by 'app-Password'",
    "grant all on lab.* to app@'%'",
  );
  folder = await mkdtemp(join(tmpdir(), 'sallyport-mysql-crash-'));
  port = await freePort();
  await writeFile(
    join(folder, 'config.yaml'),
    `gateway: { name: crash, data_dir: ./data }
http: { listen: "127.0.0.1:0" }
secrets:
  env: { type: env }
recording:
  durability: flushed
  store: { type: directory, path: ./recordings }
resources:
  lab:
    type: mariadb
    host: 127.0.0.1
    port: ${server.port}
    database: lab
    tls: { mode: disable }
    launch_credentials: { username: app, password: "env:CRASH_PASSWORD" }
listeners:
  - listen: 127.0.0.1:${port}
    resource: lab
    client_auth: trust
    principal: crash
`,
  );
});

afterAll(async () => {
  await server?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** Starts the gateway; it is up when a client can sign in. */
async function startGateway(): Promise<ChildProcess> {
  const main = join(import.meta.dirname, '..', '..', '..', 'src', 'main.ts');
  const child = spawn(
    process.execPath,
    [main, 'start', '--config', join(folder, 'config.yaml'), '--log-level', 'error'],
    {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, CRASH_PASSWORD: 'app-Password' },
    },
  );
  let said = '';
  child.stderr!.on('data', (chunk) => {
    said += chunk;
  });
  for (let attempt = 0; attempt < 1000; attempt += 1) {
    if (child.exitCode !== null) throw new Error(`the gateway did not start: ${said}`);
    const client = await connect().catch(() => null);
    if (client !== null) {
      client.end();
      return child;
    }
    await delay(10);
  }
  throw new Error('the gateway did not listen');
}

const connect = () =>
  RawMysql.connect({ port, user: 'x', database: '', capabilities: FLAG.multiStatements | FLAG.deprecateEof });

/** Sends statements of every form, each with a text of its own, until the connection breaks. Counts what it sent. */
async function load(name: string): Promise<number> {
  let sent = 0;
  const comment = (): string => {
    sent += 1;
    return `/* ${name}-${sent} */`;
  };
  const client = await connect();
  try {
    for (;;) {
      await client.ask(client.query(`select 1 ${comment()}`));
      await client.ask(client.query(`select 1 ${comment()}; select 2 ${comment()}`));
      await client.ask(Buffer.concat(Array.from({ length: 20 }, () => client.query(`do 1 ${comment()}`))));
      await client.ask(
        Buffer.concat([
          command(0x16, `select ? ${comment()}`),
          command(0x17, u32(0xffff_ffff), 0, u32(1), 0, 1, 253, 0, lenenc('value')),
          command(0x19, u32(0xffff_ffff)),
        ]),
      );
    }
  } catch {
    return sent;
  } finally {
    client.destroy();
  }
}

test(`after ${CRASHES} kills, every statement that the server has logged is in the recordings`, async () => {
  let sent = 0;
  for (let crash = 0; crash < CRASHES; crash += 1) {
    const gateway = await startGateway();
    const loads = Array.from({ length: CLIENTS }, (_, client) =>
      load(`crash ${crash} client ${client}`).catch(() => 0),
    );
    await delay(40 + Math.random() * 200);
    gateway.kill('SIGKILL');
    await once(gateway, 'exit');
    for (const count of await Promise.all(loads)) sent += count;
  }
  // A last start finds what the dead ones left; it is ended in order.
  const last = await startGateway();
  last.kill('SIGTERM');
  await once(last, 'exit');

  const logged = parseGeneralLog(server.generalLog())
    .filter(
      ({ command: kind, text }) => (kind === 'Query' || kind === 'Prepare') && text.includes('/* crash '),
    )
    .flatMap(({ text }) => text.match(/\/\* crash \d+ client \d+-\d+ \*\//g) ?? []);
  const recorded = await recordedTexts();
  const missing = logged.filter((marker) => !recorded.has(marker));
  expect(missing.slice(0, 5)).toEqual([]);
  console.log(`${CRASHES} kills: ${sent} statements sent, ${new Set(logged).size} run by the server`);
  expect(new Set(logged).size, 'there was load').toBeGreaterThan(CRASHES * CLIENTS);
}, 600_000);

/** The markers of all statements in all recordings. */
async function recordedTexts(): Promise<Set<string>> {
  const dataDir = join(folder, 'data');
  const options = JSON.parse(await readFile(join(dataDir, STORE_FILE), 'utf8')) as StoreOptions;
  const keyFile = join(dataDir, LOCAL_KEY_FILE);
  const library = new Library({
    store: await makeStore(options),
    dataDir,
    identities: identitiesIn(await readFile(keyFile, 'utf8'), keyFile),
  });
  const markers = new Set<string>();
  const report = emptyReport();
  const sessions = new Set([...(await library.allParts()).keys(), ...(await library.liveSessions()).keys()]);
  for (const session of sessions) {
    for await (const event of library.events(session, report)) {
      if (event.type !== 'statement_started' || event.text === null) continue;
      for (const marker of event.text.match(/\/\* crash \d+ client \d+-\d+ \*\//g) ?? []) markers.add(marker);
    }
  }
  expect([...report.faults, ...report.locked, ...report.missing]).toEqual([]);
  return markers;
}
