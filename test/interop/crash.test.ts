import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { identitiesIn, LOCAL_KEY_FILE } from '../../src/recording/keys.ts';
import { emptyReport, Library } from '../../src/recording/library.ts';
import { makeStore, STORE_FILE, type StoreOptions } from '../../src/recording/pipeline.ts';
import { freePort, type PostgresServer, startPostgres } from '../support/postgres.ts';
import { bind, execute, parse, query, sync } from '../support/postgres-observer.ts';
import { WireClient } from '../support/postgres-wire.ts';

/**
 * Nothing reaches the database that is not on record, not even when the gateway dies by `kill -9` under load: what the
 * server itself has logged (`log_statement = all`) is compared with the recordings. SALLYPORT_CRASHES says how often.
 */
const CRASHES = Number(process.env.SALLYPORT_CRASHES ?? 100);
const CLIENTS = 4;
/** Gateways at once, each with its own data directory and listener: most of the time goes into their start. */
const LANES = 2;

let server: PostgresServer;
let folder: string;
let ports: number[];

beforeAll(async () => {
  server = await startPostgres({ major: 18 });
  folder = await mkdtemp(join(tmpdir(), 'sallyport-crash-'));
  ports = [];
  for (let lane = 0; lane < LANES; lane += 1) {
    const port = await freePort();
    ports.push(port);
    await writeFile(join(folder, `lane${lane}.yaml`), configuration(lane, port));
  }
});
afterAll(async () => {
  await server?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

function configuration(lane: number, port: number): string {
  return `gateway: { name: crash-${lane}, data_dir: ./data${lane} }
http: { listen: "127.0.0.1:0" }
secrets:
  env: { type: env }
recording:
  durability: flushed
  store: { type: directory, path: ./recordings${lane} }
resources:
  appdb:
    type: postgres
    host: 127.0.0.1
    port: ${server.port}
    database: appdb
    tls: { mode: disable }
    launch_credentials: { username: launch_user, password: "env:CRASH_PASSWORD" }
listeners:
  - listen: 127.0.0.1:${port}
    resource: appdb
    client_auth: trust
    principal: crash
`;
}

async function startGateway(lane: number): Promise<ChildProcess> {
  const main = join(import.meta.dirname, '..', '..', 'src', 'main.ts');
  const child = spawn(process.execPath, [main, 'start', '--config', join(folder, `lane${lane}.yaml`)], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, CRASH_PASSWORD: server.accounts.launch.password ?? '' },
  });
  const ready = Promise.withResolvers<void>();
  let said = '';
  const hear = (chunk: Buffer): void => {
    if (said.length < 10_000) said += chunk;
    if (said.includes('"ready"')) ready.resolve();
  };
  child.stdout.on('data', hear);
  child.stderr.on('data', hear);
  child.once('exit', () => ready.reject(new Error(`the gateway did not start: ${said}`)));
  await ready.promise;
  return child;
}

/** Sends statements of every form, each with a text of its own, until the connection breaks. Counts what it sent. */
async function load(port: number, name: string): Promise<number> {
  let sent = 0;
  const text = (): string => {
    sent += 1;
    return `select $1::text /* ${name}-${sent} */`;
  };
  const plain = (): string => text().replace('$1::text', '1');
  const client = await WireClient.connect('127.0.0.1', port, { user: 'x', database: 'appdb' });
  try {
    for (;;) {
      client.send(query(plain()));
      await client.until('Z');
      client.send(parse('', text()), bind('', '', ['value']), execute(''), sync());
      await client.until('Z');
      const pipeline = Array.from({ length: 20 }, () => [
        parse('', text()),
        bind('', '', ['value']),
        execute(''),
        sync(),
      ]);
      client.send(query(plain()), ...pipeline.flat());
      await client.until('Z'.repeat(21));
      client.send(parse('named', text()), sync());
      await client.until('Z');
      client.send(bind('', 'named', ['value']), execute(''), query('deallocate named'), sync());
      await client.until('ZZ');
    }
  } catch {
    return sent;
  } finally {
    client.destroy();
  }
}

/** Starts a gateway, kills it under load, and so on. Returns how many statements were sent. */
async function killAgainAndAgain(lane: number): Promise<number> {
  let sent = 0;
  for (let crash = lane; crash < CRASHES; crash += LANES) {
    const gateway = await startGateway(lane);
    const loads = Array.from({ length: CLIENTS }, (_, client) =>
      load(ports[lane]!, `crash ${crash} client ${client}`).catch(() => 0),
    );
    await sleep(40 + Math.random() * 250);
    gateway.kill('SIGKILL');
    await once(gateway, 'exit');
    for (const count of await Promise.all(loads)) sent += count;
  }
  // A last start finds what the dead ones left; it is ended in order.
  const last = await startGateway(lane);
  await sleep(500);
  last.kill('SIGTERM');
  await once(last, 'exit');
  return sent;
}

test(`after ${CRASHES} kills, every statement that the server has logged is in the recordings`, async () => {
  const lanes = Array.from({ length: LANES }, (_, lane) => lane);
  const sent = await Promise.all(lanes.map(killAgainAndAgain));
  const logged = (await server.statementLog()).filter(({ user }) => user === 'launch_user');
  const recorded = await Promise.all(lanes.map(recordedTexts));
  const missing = logged.filter(({ text }) => !recorded.some(({ texts }) => texts.has(text)));
  expect(missing.slice(0, 5)).toEqual([]);
  expect(recorded.flatMap(({ faults }) => faults)).toEqual([]);
  const sessions = recorded.reduce((sum, lane) => sum + lane.sessions, 0);
  const texts = recorded.reduce((sum, lane) => sum + lane.texts.size, 0);
  const all = sent.reduce((sum, count) => sum + count, 0);
  console.log(
    `${CRASHES} kills: ${all} statements sent, ${logged.length} logged by the server, ${texts} texts in ${sessions} recordings`,
  );
  expect(new Set(logged.map(({ text }) => text)).size, 'there was load').toBeGreaterThan(CRASHES * CLIENTS);
  expect(sessions).toBeGreaterThanOrEqual(CRASHES);
}, 600_000);

async function recordedTexts(
  lane: number,
): Promise<{ texts: Set<string>; sessions: number; faults: unknown[] }> {
  const dataDir = join(folder, `data${lane}`);
  const options = JSON.parse(await readFile(join(dataDir, STORE_FILE), 'utf8')) as StoreOptions;
  const keyFile = join(dataDir, LOCAL_KEY_FILE);
  const library = new Library({
    store: await makeStore(options),
    dataDir,
    identities: identitiesIn(await readFile(keyFile, 'utf8'), keyFile),
  });
  const texts = new Set<string>();
  const report = emptyReport();
  const sessions = new Set([...(await library.allParts()).keys(), ...(await library.liveSessions()).keys()]);
  let withStart = 0;
  for (const session of sessions) {
    for await (const event of library.events(session, report)) {
      if (event.type === 'session_started') withStart += 1;
      if (event.type === 'statement_started' && event.text !== null) texts.add(event.text);
    }
  }
  return { texts, sessions: withStart, faults: [...report.faults, ...report.locked, ...report.missing] };
}
