import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import mysql from 'mysql2/promise';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { freePort } from '../../../bench/lib/process.ts';
import { OPERATOR_TOKEN_FILE } from '../../../src/access/access-control.ts';
import { ExitCode } from '../../../src/cli/exit-codes.ts';
import { INDEX_FILE } from '../../../src/recording/index-store.ts';
import { identitiesIn, LOCAL_KEY_FILE } from '../../../src/recording/keys.ts';
import { Library } from '../../../src/recording/library.ts';
import { makeStore, STORE_FILE } from '../../../src/recording/pipeline.ts';
import { SqliteRecordingIndex } from '../../../src/store/recording-index-sqlite.ts';
import { Daemon, runSallyport } from '../../support/daemon.ts';
import { startMariadb } from '../../support/mariadb.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';

/** A gateway of three processes: two workers that serve the listeners, and the one that looks after them. */

/** For what happens by itself, on machines that do other things too. */
const PATIENCE = { timeout: 15_000 };

let server: PostgresServer;
let daemon: Daemon;
let port: number;
let tokenPort: number;
let httpPort: number;
const clients: pg.Client[] = [];

beforeAll(async () => {
  server = await startPostgres();
});
afterAll(() => server.stop());
beforeEach(async () => {
  daemon = new Daemon({ ORDERS_PASSWORD: server.accounts.launch.password! });
  [port, tokenPort, httpPort] = [await freePort(), await freePort(), await freePort()];
});
afterEach(async () => {
  for (const client of clients.splice(0)) void client.end().catch(() => {});
  await daemon.remove();
});

function configure(
  changes: { limits?: string; listeners?: string; workers?: string; recording?: string; more?: string } = {},
): void {
  daemon.configure(`
gateway: { name: test, data_dir: ./data, shutdown_grace: 10s, workers: ${changes.workers ?? 2} }
http: { listen: "127.0.0.1:${httpPort}" }
secrets: { env: { type: env } }
recording: { store: { type: directory, path: ./recordings }${changes.recording ?? ''} }
resources:
  orders:
    type: postgres
    host: 127.0.0.1
    port: ${server.port}
    database: ${server.database}
    tls: { mode: disable }
    launch_credentials: { username: ${server.accounts.launch.user}, password: "env:ORDERS_PASSWORD" }
    limits: { ${changes.limits ?? ''} }
${changes.more ?? ''}rules: [{ name: everybody }]
listeners:
${
  changes.listeners ??
  `  - { listen: "127.0.0.1:${port}", resource: orders, client_auth: trust }
  - { listen: "127.0.0.1:${tokenPort}", resource: orders, client_auth: token }`
}`);
}

type Client = pg.Client & { processID: number; secretKey: number };

async function client(options: { port?: number; user?: string; password?: string } = {}): Promise<Client> {
  const made = new pg.Client({
    host: '127.0.0.1',
    port: options.port ?? port,
    user: options.user ?? 'anybody',
    database: server.database,
    ...(options.password === undefined ? {} : { password: options.password }),
  });
  made.on('error', () => {});
  clients.push(made);
  await made.connect();
  return made as Client;
}

async function several(count: number): Promise<Client[]> {
  const made: Client[] = [];
  for (let index = 0; index < count; index += 1) made.push(await client());
  return made;
}

/** Waits until so many sessions were opened since the daemon began; the workers that the last of them are in. */
async function workersOf(opened: number, last: number): Promise<Set<number | undefined>> {
  await daemon.until(() => lines('session opened').length === opened);
  return new Set(
    lines('session opened')
      .slice(-last)
      .map(({ worker }) => worker),
  );
}

interface LogLine {
  readonly reason?: string;
  readonly worker?: number;
  readonly msg: string;
  readonly session?: string;
  readonly outcome?: string;
}

function logLines(): LogLine[] {
  return daemon.output.split('\n').flatMap((line) => {
    try {
      return [JSON.parse(line) as LogLine];
    } catch {
      return [];
    }
  });
}

const lines = (message: string): LogLine[] => logLines().filter(({ msg }) => msg === message);

async function call(method: string, path: string, body?: object): Promise<Response> {
  const token = readFileSync(join(daemon.folder, 'data', OPERATOR_TOKEN_FILE), 'utf8');
  return fetch(`http://127.0.0.1:${httpPort}/api/v1${path}`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}

interface SessionView {
  readonly id: string;
  readonly server_session: string;
  readonly busy: boolean;
}

const openSessions = async (): Promise<SessionView[]> =>
  (await (await call('GET', '/sessions')).json()) as SessionView[];

/** The session's id of a client, by the server's own. */
async function sessionOf(one: Client): Promise<string> {
  const { rows } = await one.query('select pg_backend_pid()::text as pid');
  return (await openSessions()).find(({ server_session }) => server_session === rows[0].pid)!.id;
}

async function readiness(): Promise<{ status: number; text: string }> {
  const response = await fetch(`http://127.0.0.1:${httpPort}/readyz`);
  return { status: response.status, text: await response.text() };
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${httpPort}/metrics`)).text();
  return text
    .split('\n')
    .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

/** Processes of the daemon, the workers among them by number. */
function workerPids(): number[] {
  return readFileSync(`/proc/${daemon.pid}/task/${daemon.pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .map(Number);
}

const SLEEPING = "select 1 from pg_stat_activity where state = 'active' and query = 'select pg_sleep(30)'";

function cancelKey(id: number, secret: number): Promise<void> {
  const request = Buffer.alloc(16);
  request.writeInt32BE(16, 0);
  request.writeInt32BE(80877102, 4);
  request.writeInt32BE(id, 8);
  request.writeInt32BE(secret, 12);
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port }, () => socket.write(request));
    socket.once('close', () => resolve());
    socket.resume();
  });
}

describe('across workers', () => {
  test('sessions are on both; a cancel reaches its session wherever it lands; list, kill and follow find them all', async () => {
    configure();
    await daemon.start();
    expect((await readiness()).status).toBe(200);
    const all = await several(4);
    expect(await workersOf(4, 4)).toEqual(new Set([1, 2]));
    expect(await openSessions()).toHaveLength(4);

    // Several times each: a cancel is a connection of its own, and goes to the worker whose turn it is.
    for (let round = 0; round < 3; round += 1) {
      for (const one of all) {
        const running = one.query('select pg_sleep(30)');
        const failed = expect(running).rejects.toMatchObject({ code: '57014' });
        // Not before the server runs it: it forgets cancels of what is still on its way.
        await expect.poll(() => server.query(SLEEPING), PATIENCE).toHaveLength(1);
        expect((await openSessions()).filter(({ busy }) => busy)).toHaveLength(1);
        await cancelKey(one.processID, one.secretKey);
        await failed;
      }
    }
    const cancels = lines('cancel requested');
    expect(cancels.every(({ outcome }) => outcome === 'sent')).toBe(true);
    expect(new Set(cancels.map(({ worker }) => worker))).toEqual(new Set([1, 2]));
    // A key that nobody has stays one, and is counted as wrong.
    await cancelKey(all[0]!.processID, all[0]!.secretKey ^ 1);
    await daemon.until(() => lines('cancel requested').at(-1)!.outcome === 'unknown_key');

    for (const one of all.slice(0, 2)) {
      const id = await sessionOf(one);
      const following = await call('GET', `/sessions/${id}/events`);
      const reader = following.body!.pipeThrough(new TextDecoderStream()).getReader();
      let heard = '';
      const hear = async (what: string): Promise<void> => {
        while (!heard.includes(what)) heard += (await reader.read()).value ?? '';
      };
      await hear('event: session');
      await one.query("select 'followed' as what");
      await hear('event: ended');
      expect(heard).toContain("select 'followed' as what");
      const ended = new Promise<Error>((resolve) => one.once('error', resolve));
      expect((await call('DELETE', `/sessions/${id}?reason=test`)).status).toBe(204);
      expect(await ended).toMatchObject({ message: expect.stringContaining('was ended by operator: test') });
      await hear('event: closed');
    }
    await expect.poll(async () => (await openSessions()).length, PATIENCE).toBe(2);
    expect((await call('GET', '/sessions/01AAAAAAAAAAAAAAAAAAAAAAAA')).status).toBe(404);
  });

  test('a limit holds over both, places come back, and metrics are the sum', async () => {
    configure({ limits: 'max_connections: 3' });
    await daemon.start();
    const all = await several(3);
    await expect(client()).rejects.toMatchObject({ code: '53300' });
    await expect(client()).rejects.toMatchObject({ code: '53300' });
    await Promise.all(all.map((one) => one.query('select 1')));
    expect(await metric('sallyport_sessions_open')).toBe(3);
    expect(await metric('sallyport_sessions_limit')).toBe(3);
    expect(await metric('sallyport_statements_total')).toBe(3);
    await all[0]!.end();
    await daemon.until(() => lines('session closed').length === 1);
    await expect.poll(async () => (await client().catch(() => null)) !== null, PATIENCE).toBe(true);
    expect(await metric('sallyport_sessions_open')).toBe(3);
  });

  test('a launch has its connections on both, and its end ends them', async () => {
    configure();
    await daemon.start();
    const made = await call('POST', '/launches', { resource: 'orders', principal: 'ana' });
    const launch = (await made.json()) as { id: string; token: string };
    const sign = (): Promise<Client> => client({ port: tokenPort, user: launch.id, password: launch.token });
    const all = [await sign(), await sign(), await sign(), await sign()];
    expect(await workersOf(4, 4)).toEqual(new Set([1, 2]));
    await expect(client({ port: tokenPort, user: launch.id, password: 'slp_wrong' })).rejects.toMatchObject({
      code: '28P01',
    });
    await expect(client({ port: tokenPort, user: 'l000000000', password: 'x' })).rejects.toThrow();
    const listed = (await (await call('GET', '/launches?all=true')).json()) as { connections: number }[];
    expect(listed[0]!.connections).toBe(4);
    const ends = all.map((one) => new Promise<Error>((resolve) => one.once('error', resolve)));
    expect((await call('DELETE', `/launches/${launch.id}`)).status).toBe(204);
    for (const end of ends) expect((await end).message).toContain('your launch was revoked');
    await expect(sign()).rejects.toThrow();
  });

  test('a reload changes the listeners of both, or of none', async () => {
    configure();
    await daemon.start();
    const running = await several(2);
    const second = await freePort();
    const listener = (to: number, more = ''): string =>
      `  - { listen: "127.0.0.1:${to}", resource: orders, client_auth: trust${more} }`;
    configure({ listeners: listener(second), limits: 'max_connections: 4' });
    daemon.signal('SIGHUP');
    await daemon.until(() => daemon.output.includes('configuration read again'));
    await expect(client()).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    await client({ port: second });
    await client({ port: second });
    expect(await workersOf(4, 2)).toEqual(new Set([1, 2]));
    // Those that were there before count against the new limit.
    await expect(client({ port: second })).rejects.toMatchObject({ code: '53300' });
    for (const one of running) await one.query('select 1');
    // An address that cannot be had: the former configuration stays, in both.
    configure({ listeners: `${listener(second)}\n${listener(server.port)}`, limits: 'max_connections: 40' });
    daemon.signal('SIGHUP');
    await daemon.until(() => daemon.output.includes('was not taken'));
    expect(daemon.output).toContain('another process listens there');
    await expect(client({ port: second })).rejects.toMatchObject({ code: '53300' });
    expect((await readiness()).status).toBe(200);
  });
});

test('MariaDB: KILL QUERY reaches its session from a connection of the other worker', async () => {
  const maria = await startMariadb('10');
  const connections: mysql.Connection[] = [];
  try {
    const password = server.accounts.launch.password!;
    await maria.run(`CREATE USER launch@'%' IDENTIFIED BY '${password}'`);
    // The server may have been given the port that was free before.
    httpPort = await freePort();
    const mariaPort = await freePort();
    configure({
      more: `  stock:
    type: mariadb
    host: 127.0.0.1
    port: ${maria.port}
    tls: { mode: disable }
    launch_credentials: { username: launch, password: "env:ORDERS_PASSWORD" }
`,
      listeners: `  - { listen: "127.0.0.1:${mariaPort}", resource: stock, client_auth: trust }`,
    });
    await daemon.start();
    for (let count = 0; count < 4; count += 1)
      connections.push(await mysql.createConnection({ host: '127.0.0.1', port: mariaPort, user: 'anybody' }));
    expect(await workersOf(4, 4)).toEqual(new Set([1, 2]));
    const [sleeping, ...killing] = connections as [mysql.Connection, ...mysql.Connection[]];
    for (const killer of killing) {
      // 1: it was interrupted (the function's own answer).
      const running = sleeping.query('select sleep(30) as outcome').catch((error: Error) => error);
      const query = "select 1 from information_schema.processlist where info like 'select sleep(30)%'";
      await expect.poll(() => maria.run(query), PATIENCE).toHaveLength(1);
      await killer.query(`kill query ${sleeping.threadId}`);
      const ended = await running;
      if (ended instanceof Error) expect(ended).toMatchObject({ errno: 1317 });
      else expect(ended[0]).toEqual([{ outcome: 1 }]);
    }
  } finally {
    for (const connection of connections) connection.destroy();
    await maria.stop();
  }
});

describe('when processes end', () => {
  test('a worker that is killed costs its own sessions, and another comes; everything is on record', async () => {
    configure({ limits: 'max_connections: 4' });
    await daemon.start();
    const all = await several(4);
    const ended = new Set<Client>();
    for (const one of all) one.once('end', () => ended.add(one));
    for (const [index, one] of all.entries()) await one.query(`select 'worker killed ${index}'`);
    const sessions = await Promise.all(all.map(sessionOf));
    const statements = await metric('sallyport_statements_total');
    process.kill(workerPids()[0]!, 'SIGKILL');
    await daemon.until(() => lines('a worker ended, and its sessions with it').length === 1);
    await daemon.until(() => lines('a worker was started again').length === 1);
    await expect.poll(() => ended.size, PATIENCE).toBe(2);
    await expect.poll(async () => (await readiness()).status, PATIENCE).toBe(200);
    const left = all.filter((one) => !ended.has(one));
    for (const one of left) await one.query("select 'worker killed, after'");
    expect(await openSessions()).toHaveLength(2);
    // What counters said is not taken back.
    expect(await metric('sallyport_statements_total')).toBe(statements + 2);
    // Its places are free again, and the new worker takes them: it has the fewest sessions.
    await several(2);
    await expect(client()).rejects.toMatchObject({ code: '53300' });
    const [dead] = lines('a worker ended, and its sessions with it');
    expect(await workersOf(6, 2)).toEqual(new Set([dead!.worker]));

    const index = async (): Promise<string[]> => {
      const opened = new SqliteRecordingIndex(join(daemon.folder, 'data', INDEX_FILE), { readOnly: true });
      const states: string[] = [];
      for (const session of sessions) states.push((await opened.session(session))?.state ?? 'unknown');
      await opened.close();
      return states;
    };
    const wanted = all.map((one) => (ended.has(one) ? 'interrupted' : 'live'));
    await expect.poll(index, PATIENCE).toEqual(wanted);
    daemon.signal('SIGTERM');
    expect(await daemon.ended()).toBe(ExitCode.ok);
    await provenAndComplete('worker killed');
  });

  test('workers that are killed again and again under load: all that the server has logged is on record', async () => {
    configure();
    await daemon.start();
    const KILLS = 6;
    let isOver = false;
    let sent = 0;
    const load = Array.from({ length: 6 }, async (_, lane) => {
      while (!isOver) {
        const one = await client().catch(() => null);
        for (let isOpen = one !== null; isOpen && !isOver; ) {
          sent += 1;
          const statement = `select 'again and again ${lane} ${sent}'`;
          isOpen = await one!.query(statement).then(
            () => true,
            () => false,
          );
        }
        await one?.end().catch(() => {});
      }
    });
    for (let kill = 1; kill <= KILLS; kill += 1) {
      await sleep(300 + Math.random() * 300);
      process.kill(workerPids()[kill % 2]!, 'SIGKILL');
      await daemon.until(() => lines('a worker was started again').length === kill);
    }
    isOver = true;
    await Promise.all(load);
    expect(sent).toBeGreaterThan(100);
    await expect.poll(openSessions, PATIENCE).toEqual([]);
    daemon.signal('SIGTERM');
    expect(await daemon.ended()).toBe(ExitCode.ok);
    await provenAndComplete('again and again');
  }, 60_000);

  test('without the first process the workers end, and the next start finishes what all of them left', async () => {
    configure();
    await daemon.start();
    const all = await several(4);
    const workers = workerPids();
    let running = true;
    const load = all.map(async (one, client) => {
      for (let count = 0; running; count += 1) await one.query(`select 'all killed ${client} ${count}'`);
    });
    await sleep(500);
    daemon.signal('SIGKILL');
    await daemon.ended();
    running = false;
    await Promise.allSettled(load);
    await expect.poll(() => workers.filter(isAlive), PATIENCE).toEqual([]);
    await daemon.start();
    await (await client()).query("select 'all killed, again'");
    await expect
      .poll(async () => {
        const index = new SqliteRecordingIndex(join(daemon.folder, 'data', INDEX_FILE), { readOnly: true });
        const interrupted = (await index.sessions({ state: 'interrupted', limit: 10 })).length;
        await index.close();
        return interrupted;
      }, PATIENCE)
      .toBe(4);
    daemon.signal('SIGTERM');
    expect(await daemon.ended()).toBe(ExitCode.ok);
    await provenAndComplete('all killed');
  });

  test('SIGTERM lets statements finish in all workers, also when the whole group gets it', async () => {
    configure();
    await daemon.start();
    const all = await several(4);
    const running = all.map((one) => one.query("select pg_sleep(1), 'done' as outcome /* drained */"));
    await expect.poll(async () => (await openSessions()).filter(({ busy }) => busy).length, PATIENCE).toBe(4);
    for (const pid of workerPids()) process.kill(pid, 'SIGTERM');
    daemon.signal('SIGTERM');
    for (const one of await Promise.all(running)) expect(one.rows[0]).toMatchObject({ outcome: 'done' });
    expect(await daemon.ended()).toBe(ExitCode.ok);
    await provenAndComplete('drained');
  });

  test('an address that is taken keeps all of it from starting, and says so', async () => {
    configure({
      listeners: `  - { listen: "127.0.0.1:${server.port}", resource: orders, client_auth: trust }`,
    });
    const { code, stdout } = await runSallyport(['start', '--config', daemon.configPath], {
      env: { ORDERS_PASSWORD: 'x' },
    });
    expect(code).toBe(ExitCode.startFailed);
    expect(stdout).toContain(`cannot listen on 127.0.0.1:${server.port}: another process listens there`);
  });
});

test('recordings that cannot be stored stop all workers, until they can', async () => {
  const store = join(daemon.folder, 'recordings');
  writeFileSync(store, 'not a folder');
  configure({ recording: ', spool_limit_mib: 1' });
  await daemon.start();
  const all = await several(4);
  const noise = (): string => Array.from({ length: 4500 }, () => Math.random().toString(36)).join('');
  for (let round = 0; round < 10; round += 1)
    for (const one of all) await one.query(`select length('${noise()}')`);
  const [leaving, ...staying] = all as [Client, ...Client[]];
  const ends = staying.map((one) => new Promise<Error>((resolve) => one.once('error', resolve)));
  await leaving.end();
  try {
    for (const one of await several(3)) {
      for (let round = 0; round < 15; round += 1) await one.query(`select length('${noise()}')`);
      await one.end();
    }
  } catch {
    // What waits has reached its limit before they were through: they are stopped like the others.
  }
  for (const end of ends) expect((await end).message).toContain('can no longer be recorded');
  const stopped = (): Set<number | undefined> =>
    new Set(
      lines('session closed')
        .filter(({ reason }) => reason === 'recording_failed')
        .map(({ worker }) => worker),
    );
  await expect.poll(stopped, PATIENCE).toEqual(new Set([1, 2]));
  expect(await readiness()).toMatchObject({ status: 503, text: expect.stringContaining('wait on disk') });
  for (let attempt = 0; attempt < 2; attempt += 1)
    await expect(client()).rejects.toThrow('cannot be recorded');
  rmSync(store);
  await expect.poll(async () => (await readiness()).status, PATIENCE).toBe(200);
  for (const one of await several(2)) expect((await one.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
});

test('a Unix socket and auto: as many workers as cores, one socket of the owner alone', async () => {
  const path = join(daemon.folder, '.s.PGSQL.5432');
  configure({
    workers: 'auto',
    listeners: `  - { listen: "unix:${path}", resource: orders, client_auth: trust }`,
  });
  for (let start = 0; start < 2; start += 1) {
    await daemon.start();
    const local = new pg.Client({ host: daemon.folder, port: 5432, user: 'x', database: server.database });
    await local.connect();
    expect((await local.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    await local.end();
    // The second start finds the socket of one that is dead.
    daemon.signal('SIGKILL');
    await daemon.ended();
  }
});

/** Every recording verifies, and no statement with this mark that the server has logged is missing. */
async function provenAndComplete(mark: string): Promise<void> {
  const dataDir = join(daemon.folder, 'data');
  const verified = await runSallyport(['recordings', 'verify', '--all', '--data-dir', dataDir]);
  expect(`${verified.stdout}${verified.stderr}`).not.toMatch(/altered|missing|unknown key/);
  expect(verified.code).toBe(ExitCode.ok);
  const keyFile = join(dataDir, LOCAL_KEY_FILE);
  const library = new Library({
    store: await makeStore(JSON.parse(readFileSync(join(dataDir, STORE_FILE), 'utf8'))),
    dataDir,
    identities: identitiesIn(readFileSync(keyFile, 'utf8'), keyFile),
  });
  const recorded = new Set<string>();
  for (const session of (await library.allParts()).keys()) {
    for await (const event of library.events(session))
      if (event.type === 'statement_started' && event.text !== null) recorded.add(event.text);
  }
  const logged = (await server.statementLog()).filter(({ text }) => text.includes(mark));
  expect(logged.length).toBeGreaterThan(0);
  expect(logged.filter(({ text }) => !recorded.has(text)).slice(0, 5)).toEqual([]);
}

/** Not gone, and not only waiting for somebody to take note of it. */
function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
