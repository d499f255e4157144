import { mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Statement } from '../protocols/statement.ts';
import { newId } from '../src/lib/id.ts';
import { Metrics } from '../src/metrics.ts';
import { INDEX_FILE } from '../src/recording/index-store.ts';
import { type Durability, type Journal, openJournal } from '../src/recording/journal.ts';
import { knownSigningKeys, loadRecordingKeys, type RecordingKeys } from '../src/recording/keys.ts';
import { Library } from '../src/recording/library.ts';
import { StatementMasker } from '../src/recording/masking.ts';
import { Pipeline } from '../src/recording/pipeline.ts';
import { readJournal } from '../src/recording/reader.ts';
import type { SessionRecord, SessionStart } from '../src/recording/recorder.ts';
import { framesOf } from '../src/recording/replay.ts';
import { DirectoryStore } from '../src/recording/store/directory.ts';
import { verifySession } from '../src/recording/verify.ts';
import { SqliteRecordingIndex } from '../src/store/recording-index-sqlite.ts';

/**
 * `node bench/recordings.ts`: what recording costs a statement, what it takes on disk, and how long it takes to seal, list,
 * search, replay and verify. `--statements` and `--sessions` make it shorter or longer.
 */
const { values } = parseArgs({
  options: {
    statements: { type: 'string', default: '1000000' },
    sessions: { type: 'string', default: '10000' },
    only: { type: 'string' },
  },
});

const START: Omit<SessionStart, 'session' | 'principal'> = {
  gateway: 'bench',
  resource: 'orders',
  engine: 'postgres',
  serverVersion: '18.4',
  databaseUser: 'app',
  database: 'orders',
  serverAddress: '127.0.0.1:5432',
  serverSession: '4711',
  authentication: 'scram-sha-256',
  clientAddress: '127.0.0.1:50000',
  clientUser: 'ana',
  clientProgram: 'psql',
  clientAttributes: { client_encoding: 'UTF8' },
  clientTls: null,
  serverTls: 'TLSv1.3 TLS_AES_256_GCM_SHA384',
  serverTlsVerified: true,
  tlsFallback: false,
};

const TEXTS = [
  'SELECT abalance FROM pgbench_accounts WHERE aid = $1',
  'UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2',
  'INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP)',
  'SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.status = $1 ORDER BY o.id LIMIT 50',
];
const COLUMNS = ['id', 'total', 'name'];

function statement(index: number): Statement {
  const text = TEXTS[index % TEXTS.length]!;
  const made = new Statement('execute', text, text.length);
  made.parameters = [{ name: null, type: 'int4', value: index % 100_000 }];
  return made;
}

function finish(made: Statement): void {
  made.status = 'ok';
  made.rowsReturned = 1;
  made.tag = 'SELECT 1';
  made.columns = COLUMNS;
  made.bytesSent = 120;
  made.bytesReceived = 240;
  made.transaction = 'idle';
}

class World {
  readonly root: string;
  keys!: RecordingKeys;
  journal!: Journal;

  constructor(root: string) {
    this.root = root;
  }

  static async make(durability: Durability = 'flushed'): Promise<World> {
    const world = new World(await mkdtemp(join(tmpdir(), 'sallyport-bench-')));
    const dataDir = join(world.root, 'data');
    mkdirSync(dataDir);
    world.keys = await loadRecordingKeys(dataDir, []);
    world.journal = await openJournal({
      dataDir,
      gateway: 'bench',
      keys: world.keys,
      durability,
      onFailure: 'refuse',
      metrics: new Metrics(),
      masker: new StatementMasker(new Map()),
    });
    return world;
  }

  pipeline(): Promise<Pipeline> {
    return Pipeline.make(
      {
        dataDir: join(this.root, 'data'),
        gateway: 'bench',
        boot: this.journal.boot,
        bootKey: this.journal.bootKey,
        recipients: this.keys.recipients,
        identities: this.keys.identities,
        store: { type: 'directory', path: join(this.root, 'store') },
        index: 'statements',
      },
      { info: () => {}, error: (fields, message) => console.error(message, fields) },
      false,
    );
  }

  library(): Library {
    return new Library({
      store: new DirectoryStore(join(this.root, 'store')),
      dataDir: join(this.root, 'data'),
      identities: this.keys.identities,
    });
  }

  index(): SqliteRecordingIndex {
    return new SqliteRecordingIndex(join(this.root, 'data', INDEX_FILE), { readOnly: true });
  }

  remove(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

function sizeOf(path: string): number {
  let size = 0;
  for (const entry of readdirSync(path, { withFileTypes: true, recursive: true }))
    if (entry.isFile()) size += statSync(join(entry.parentPath, entry.name)).size;
  return size;
}

const figure = (name: string, value: string): void => console.log(`${name.padEnd(58)} ${value}`);
const mib = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(1)} MiB`;

async function timed<T>(
  name: string,
  work: () => T | Promise<T>,
  note: (result: T, seconds: number) => string,
): Promise<T> {
  const began = performance.now();
  const result = await work();
  const seconds = (performance.now() - began) / 1000;
  figure(name, note(result, seconds));
  return result;
}

/** Microseconds of CPU that the journal adds to a statement, whose round trip here takes one turn of the event loop. */
async function journalCost(durability: Durability, sessions: number, statements: number): Promise<void> {
  const turns = async (): Promise<number> => {
    const before = process.cpuUsage();
    for (let index = 0; index < statements / sessions; index += 1) {
      await new Promise((resolve) => setImmediate(resolve));
      await new Promise((resolve) => setImmediate(resolve));
    }
    const { user, system } = process.cpuUsage(before);
    return user + system;
  };
  const empty = await turns();
  const world = await World.make(durability);
  const { journal } = world;
  await journal.flushed();
  const before = process.cpuUsage();
  const began = performance.now();
  let left = statements;
  await new Promise<void>((resolve) => {
    let running = sessions;
    for (let index = 0; index < sessions; index += 1) {
      const record: SessionRecord = journal.session({ ...START, session: newId(), principal: 'ana' });
      let current: Statement;
      const answered = (): void => {
        finish(current);
        record.end(current);
        next();
      };
      const waiter = { written: (): void => void setImmediate(answered) };
      const next = (): void => {
        if (left <= 0) {
          running -= 1;
          if (running === 0) resolve();
          return;
        }
        left -= 1;
        current = statement(left);
        record.begin(current);
        journal.afterWrite(waiter);
      };
      next();
    }
  });
  const { user, system } = process.cpuUsage(before);
  const seconds = (performance.now() - began) / 1000;
  await journal.close();
  const bytes = sizeOf(journal.directory);
  figure(
    `journal, ${durability}, ${sessions} sessions`,
    `${((user + system - empty) / statements).toFixed(2)} µs CPU a statement, ${((seconds * 1e6) / statements).toFixed(1)} µs elapsed, ${(bytes / statements).toFixed(0)} bytes`,
  );
  world.remove();
}

async function oneLongSession(count: number): Promise<void> {
  const world = await World.make();
  const { journal } = world;
  const record = journal.session({ ...START, session: newId(), principal: 'ana' });
  for (let index = 0; index < count; index += 1) {
    const made = statement(index);
    record.begin(made);
    finish(made);
    record.end(made);
    if (index % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
  await journal.close();
  const journalBytes = sizeOf(journal.directory);
  figure(
    `one session, ${count} statements: journal`,
    `${mib(journalBytes)}, ${(journalBytes / count).toFixed(0)} bytes a statement`,
  );
  await timed(
    'read the journal, every batch verified',
    () => readJournal(journal.directory, world.keys.identities),
    ({ events, damaged }, seconds) =>
      `${seconds.toFixed(1)} s, ${((seconds * 1e6) / events).toFixed(2)} µs an event, ${mib(journalBytes / seconds)}/s, ${damaged.length} faults`,
  );
  const pipeline = await world.pipeline();
  await timed(
    'seal, store and index it',
    () => pipeline.finish(),
    (_, seconds) => `${seconds.toFixed(1)} s, ${((seconds * 1e6) / count).toFixed(1)} µs a statement`,
  );
  const stored = sizeOf(join(world.root, 'store'));
  const library = world.library();
  const parts = await library.parts(record.id);
  figure(
    'recording',
    `${mib(stored)} in ${parts.length} parts, ${(stored / count).toFixed(1)} bytes a statement`,
  );
  figure('index', `${mib(statSync(join(world.root, 'data', INDEX_FILE)).size)}`);
  const keys = knownSigningKeys(join(world.root, 'data'));
  await timed(
    'verify: chain, signature, content',
    () => verifySession(library, record.id, parts, keys, null),
    ({ proven, bytes }, seconds) =>
      `${seconds.toFixed(2)} s, ${mib(bytes / seconds)}/s, ${(count / seconds / 1000).toFixed(0)}k statements/s, proven: ${proven}`,
  );
  const blind = new Library({ store: library.store, dataDir: null, identities: [] });
  await timed(
    'verify without a key to read: chain, signature',
    () => verifySession(blind, record.id, parts, keys, null),
    ({ bytes }, seconds) => `${seconds.toFixed(2)} s, ${mib(bytes / seconds)}/s`,
  );
  await timed(
    'read all events',
    async () => {
      let events = 0;
      for await (const _ of library.events(record.id)) events += 1;
      return events;
    },
    (events, seconds) => `${seconds.toFixed(1)} s, ${events} events`,
  );
  await timed(
    'frames of its replay',
    async () => {
      let frames = 0;
      for await (const _ of framesOf(library.events(record.id))) frames += 1;
      return frames;
    },
    (frames, seconds) => `${seconds.toFixed(1)} s, ${frames} frames`,
  );
  const index = world.index();
  for (const [name, filter] of [
    ['text "customers status"', { text: 'customers status' }],
    ['table pgbench_history', { table: 'pgbench_history' }],
    ['status error', { status: 'error' }],
    ['at least 2 rows', { rowsMin: 2 }],
  ] as const) {
    await timed(
      `search ${count} statements: ${name}`,
      () => index.search({ limit: 50, ...filter }),
      (rows, seconds) => `${(seconds * 1000).toFixed(0)} ms, ${rows.length} of them`,
    );
  }
  await index.close();
  world.remove();
}

async function manySessions(count: number): Promise<void> {
  const world = await World.make();
  const { journal } = world;
  for (let session = 0; session < count; session += 1) {
    const record = journal.session({ ...START, session: newId(), principal: `person-${session % 100}` });
    for (let index = 0; index < 10; index += 1) {
      const made = statement(index);
      record.begin(made);
      finish(made);
      record.end(made);
    }
    record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
    if (session % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await journal.close();
  const pipeline = await world.pipeline();
  await timed(
    `${count} sessions of 10 statements: seal, store, index`,
    () => pipeline.finish(),
    (_, seconds) => `${seconds.toFixed(1)} s, ${((seconds * 1000) / count).toFixed(2)} ms a session`,
  );
  const stored = sizeOf(join(world.root, 'store'));
  figure('recordings', `${mib(stored)}, ${(stored / count).toFixed(0)} bytes a session`);
  const index = world.index();
  await timed(
    'list the latest 50',
    () => index.sessions({ limit: 50 }),
    (_, seconds) => `${(seconds * 1000).toFixed(1)} ms`,
  );
  await timed(
    'list one person of 100',
    () => index.sessions({ limit: 50, principal: 'person-7' }),
    (rows, seconds) => `${(seconds * 1000).toFixed(1)} ms, ${rows.length} sessions`,
  );
  await timed(
    'search by text and person',
    () => index.search({ limit: 50, text: 'customers', principal: 'person-7' }),
    (rows, seconds) => `${(seconds * 1000).toFixed(1)} ms, ${rows.length} statements`,
  );
  await index.close();
  const library = world.library();
  const keys = knownSigningKeys(join(world.root, 'data'));
  await timed(
    'verify all',
    async () => {
      let proven = 0;
      for (const [id, parts] of await library.allParts())
        if ((await verifySession(library, id, parts, keys, null)).proven) proven += 1;
      return proven;
    },
    (proven, seconds) =>
      `${seconds.toFixed(1)} s, ${proven} proven, ${((seconds * 1000) / count).toFixed(2)} ms a session`,
  );
  world.remove();
}

const wanted = (part: string): boolean => values.only === undefined || values.only === part;
if (wanted('journal')) {
  await journalCost('flushed', 1, 100_000);
  await journalCost('flushed', 16, 200_000);
  await journalCost('flushed', 256, 200_000);
  await journalCost('buffered', 16, 200_000);
  await journalCost('synced', 1, 500);
  await journalCost('synced', 64, 20_000);
}
if (wanted('session')) await oneLongSession(Number(values.statements));
if (wanted('sessions')) await manySessions(Number(values.sessions));
