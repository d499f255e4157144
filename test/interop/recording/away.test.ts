import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { Statement } from '../../../protocols/statement.ts';
import { parseConfig } from '../../../src/config/load.ts';
import { newId } from '../../../src/lib/id.ts';
import { makeLog } from '../../../src/log.ts';
import { Metrics } from '../../../src/metrics.ts';
import { type Journal, openJournal } from '../../../src/recording/journal.ts';
import { knownSigningKeys, loadRecordingKeys } from '../../../src/recording/keys.ts';
import { Library } from '../../../src/recording/library.ts';
import { Pipeline } from '../../../src/recording/pipeline.ts';
import type { SessionRecord } from '../../../src/recording/recorder.ts';
import { Recording } from '../../../src/recording/setup.ts';
import { DirectoryStore } from '../../../src/recording/store/directory.ts';
import { type RecordingStore, StoreError } from '../../../src/recording/store/store.ts';
import { verifyEntries, verifySession } from '../../../src/recording/verify.ts';
import { pipelineOf, sessionStart, TemporaryDirectory } from '../../support/recording.ts';

/**
 * The store is away under load: nothing is lost, nothing is twice, and whoever runs the gateway is told.
 * `SALLYPORT_TEST_HOURS=1` lets it really be away for an hour.
 */

const HOURS = Number(process.env['SALLYPORT_TEST_HOURS'] ?? 0);
const ROUND_MS = 10_000;
const HOUR_MS = 3_600_000;

/** A folder that refuses everything while it is away, and remembers what came and when. */
class FarStore implements RecordingStore {
  readonly name = 'a far store';
  readonly #store: DirectoryStore;
  readonly #now: () => number;
  away = false;
  /** Times at which it was asked while it was away. */
  readonly refused = new Set<number>();
  readonly put_keys: string[] = [];

  constructor(path: string, now: () => number) {
    this.#store = new DirectoryStore(path);
    this.#now = now;
  }

  async put(key: string, path: string): Promise<void> {
    this.#answer();
    this.put_keys.push(key);
    await this.#store.put(key, path);
  }

  get(key: string): Promise<Buffer> {
    this.#answer();
    return this.#store.get(key);
  }

  async list(prefix: string): ReturnType<RecordingStore['list']> {
    this.#answer();
    return this.#store.list(prefix);
  }

  async delete(key: string): Promise<void> {
    this.#answer();
    await this.#store.delete(key);
  }

  async check(): Promise<void> {
    this.#answer();
  }

  async close(): Promise<void> {}

  #answer(): void {
    if (!this.away) return;
    this.refused.add(this.#now());
    throw new StoreError('unavailable', 'a far store cannot be reached');
  }
}

/** People at work: some stay, others come and go. Knows what each session must have on record. */
class Load {
  readonly statements = new Map<string, number>();
  readonly #journal: Journal;
  readonly #stay: SessionRecord[] = [];

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  come(): SessionRecord {
    const record = this.#journal.session(sessionStart(newId()));
    this.statements.set(record.id, 0);
    return record;
  }

  say(record: SessionRecord, count: number, noise = 0): void {
    for (let index = 0; index < count; index += 1) {
      const seq = this.statements.get(record.id)! + 1;
      const statement = new Statement('query', `SELECT ${seq} ${random(noise)}`, 20);
      record.begin(statement);
      statement.status = 'ok';
      record.end(statement);
      this.statements.set(record.id, seq);
    }
  }

  go(record: SessionRecord): void {
    record.close({ reason: 'client_closed', detail: null, bytesSent: 1, bytesReceived: 2 });
  }

  round(staying: number, visitors: number, noise = 0): void {
    while (this.#stay.length < staying) this.#stay.push(this.come());
    for (const record of this.#stay) this.say(record, 10, noise);
    for (let visitor = 0; visitor < visitors; visitor += 1) {
      const record = this.come();
      this.say(record, 15, noise);
      this.go(record);
    }
    this.#journal.flush();
  }

  end(): void {
    for (const record of this.#stay) this.go(record);
    this.#stay.length = 0;
  }
}

/** Text that does not compress. */
function random(characters: number): string {
  let text = '';
  while (text.length < characters) text += Math.random().toString(36).slice(2);
  return text;
}

/** Every session is in the store, proven, with all its statements once and in order, and nothing else is there. */
async function expectWhole(load: Load, library: Library, dataDir: string): Promise<void> {
  const all = await library.allParts();
  const signing = knownSigningKeys(dataDir);
  for (const [session, statements] of load.statements) {
    const result = await verifySession(library, session, all.get(session) ?? [], signing, null);
    expect(result, session).toMatchObject({
      proven: true,
      opened: true,
      state: 'ended',
      statements,
      gaps: 0,
    });
    const seqs: number[] = [];
    for await (const event of library.events(session))
      if (event.type === 'statement_started') seqs.push(event.seq);
    expect(seqs, session).toEqual(Array.from({ length: statements }, (_, index) => index + 1));
  }
  const entries = await verifyEntries(library, all);
  expect(entries.findings).toEqual([]);
  const parts = [...all.entries()].filter(([session]) => load.statements.has(session));
  expect(parts.length).toBe(load.statements.size);
  expect(parts.flatMap(([, files]) => files).length).toBe(entries.entries);
}

test('an hour away by the clock: it is asked ever less often, and has everything once and in order afterwards', async () => {
  using directory = new TemporaryDirectory();
  const dataDir = join(directory.path, 'data');
  mkdirSync(dataDir);
  const began = Date.now();
  let now = began;
  const store = new FarStore(join(directory.path, 'store'), () => now);
  const keys = await loadRecordingKeys(dataDir, []);
  const journal = await openJournal({
    dataDir,
    gateway: 'gw',
    keys,
    durability: 'flushed',
    onFailure: 'refuse',
    clock: { wall: () => now, monotonic: () => now - began },
  });
  const said: string[] = [];
  const pipeline = await Pipeline.make(
    {
      ...pipelineOf(dataDir, 'gw', journal, keys),
      store: { type: 'directory', path: join(directory.path, 'store') },
      index: 'off',
    },
    { info: () => {}, error: (_, message) => said.push(message) },
    false,
    () => {},
    { now: () => now, store },
  );
  const load = new Load(journal);
  load.round(4, 3);
  await pipeline.run();
  expect(pipeline.status).toMatchObject({ spoolFiles: 0, storeError: null, partsStored: 3 });
  store.away = true;
  let waiting = 0;
  for (let round = 0; round < HOUR_MS / ROUND_MS; round += 1) {
    now += ROUND_MS;
    load.round(4, 3);
    await pipeline.run();
    const { spoolFiles, storeError } = pipeline.status;
    expect(spoolFiles).toBeGreaterThanOrEqual(waiting + 3);
    expect(storeError).toBe('a far store cannot be reached');
    waiting = spoolFiles;
  }
  // A second at first, a minute at last; and it is said once, not each time.
  expect(store.refused.size).toBeGreaterThan(50);
  expect(store.refused.size).toBeLessThan(75);
  expect(said).toEqual(['the store of recordings is away']);
  store.away = false;
  now += 60_000;
  load.round(4, 3);
  await pipeline.run();
  expect(pipeline.status).toMatchObject({ spoolFiles: 0, spoolBytes: 0, storeError: null });
  expect(store.put_keys.slice(3)).toEqual([...store.put_keys.slice(3)].sort());
  load.end();
  await journal.close();
  await pipeline.finish();
  expect(pipeline.status).toMatchObject({ spoolFiles: 0, error: null });
  expect(pipeline.status.partsStored).toBe(pipeline.status.partsSealed);
  expect(new Set(store.put_keys).size).toBe(store.put_keys.length);
  expect([...load.statements.values()].reduce((sum, count) => sum + count, 0)).toBeGreaterThan(30_000);
  await expectWhole(load, new Library({ store, dataDir, identities: keys.identities }), dataDir);
}, 120_000);

interface Running {
  readonly recording: Recording;
  readonly metrics: Metrics;
  readonly storePath: string;
  readonly dataDir: string;
  readonly library: () => Promise<Library>;
}

async function start(root: string, settings: string): Promise<Running> {
  const dataDir = join(root, 'data');
  const storePath = join(root, 'store');
  const text = `
gateway: { name: gw-test, data_dir: ${JSON.stringify(dataDir)} }
recording: { store: { type: directory, path: ${JSON.stringify(storePath)} }, index: off, ${settings} }
resources: { orders: { type: postgres, host: localhost, launch_credentials: { username: app } } }
`;
  const { config } = parseConfig(text, 'test.yaml', { files: false });
  const metrics = new Metrics();
  const recording = await Recording.start(config, metrics, makeLog('json', 'silent'));
  const library = async (): Promise<Library> => {
    const { identities } = await loadRecordingKeys(dataDir, []);
    return new Library({ store: new DirectoryStore(storePath), dataDir, identities });
  };
  return { recording, metrics, storePath, dataDir, library };
}

async function spoolMetrics({ metrics }: Running): Promise<{ bytes: number; parts: number }> {
  const value = async (gauge: Metrics['recordingSpoolBytes']): Promise<number> =>
    (await gauge.get()).values[0]!.value;
  return { bytes: await value(metrics.recordingSpoolBytes), parts: await value(metrics.recordingSpoolParts) };
}

describe('at the limit of the spool', () => {
  test.each(['refuse', 'continue'] as const)(
    'on_failure: %s decides',
    async (onFailure) => {
      using directory = new TemporaryDirectory();
      const running = await start(
        directory.path,
        `seal_every: 200ms, spool_limit_mib: 2, on_failure: ${onFailure}`,
      );
      const { recording, storePath } = running;
      const { journal } = recording;
      writeFileSync(storePath, 'not a folder');
      const told: string[] = [];
      journal.onFailure((error) => told.push(error.message));
      const load = new Load(journal);
      const warnings = new Set<string | null>();
      let most = 0;
      for (let round = 0; round < 200 && journal.blocked === null; round += 1) {
        load.round(4, 3, 600);
        warnings.add(recording.warning);
        most = Math.max(most, (await spoolMetrics(running)).bytes);
        await sleep(100);
      }
      expect(told).toEqual(['too many recordings wait on disk for their store']);
      expect([...warnings].join('\n')).toMatch(/cannot be written: .*; \d+ parts of recordings wait on disk/);
      const { bytes, parts } = await spoolMetrics(running);
      expect(bytes).toBeGreaterThan(2 * 1024 * 1024);
      expect(parts).toBeGreaterThan(10);
      expect(most).toBeLessThan(3 * 1024 * 1024);
      if (onFailure === 'refuse') {
        expect(() => journal.session(sessionStart(newId()))).toThrow(/cannot be written/);
      } else {
        for (let round = 0; round < 5; round += 1) load.round(4, 3, 600);
        await expect
          .poll(async () => (await spoolMetrics(running)).bytes, { timeout: 10_000 })
          .toBeGreaterThan(bytes);
      }
      rmSync(storePath);
      await expect.poll(() => journal.blocked, { timeout: 40_000 }).toBeNull();
      await expect.poll(() => recording.warning, { timeout: 10_000 }).toBeNull();
      load.round(4, 3);
      load.end();
      await recording.close(20_000);
      expect(recording.status).toMatchObject({ spoolFiles: 0, storeError: null, error: null });
      await expectWhole(load, await running.library(), running.dataDir);
    },
    90_000,
  );
});

// Not a test that is skipped: without the setting there is none.
if (HOURS > 0) {
  test('really away for the hours that SALLYPORT_TEST_HOURS says', awayForHours, (HOURS + 1) * HOUR_MS);
}

async function awayForHours(): Promise<void> {
  using directory = new TemporaryDirectory();
  const running = await start(directory.path, 'seal_every: 1m, spool_limit_mib: 10000');
  const { recording, storePath } = running;
  writeFileSync(storePath, 'not a folder');
  const load = new Load(recording.journal);
  const until = Date.now() + HOURS * HOUR_MS;
  let rounds = 0;
  let resident = process.memoryUsage().rss;
  while (Date.now() < until) {
    load.round(10, 5);
    rounds += 1;
    await sleep(1_000);
    if (rounds === 60) resident = process.memoryUsage().rss;
  }
  expect(recording.journal.failed).toBeNull();
  expect(recording.warning).toMatch(/parts of recordings wait on disk/);
  const { bytes, parts } = await spoolMetrics(running);
  const statements = [...load.statements.values()].reduce((sum, count) => sum + count, 0);
  const grown = (process.memoryUsage().rss - resident) / 1024 / 1024;
  rmSync(storePath);
  const back = Date.now();
  await expect.poll(() => recording.status.storeError, { timeout: 90_000 }).toBeNull();
  await expect.poll(() => recording.status.spoolFiles, { timeout: 300_000 }).toBeLessThan(50);
  const seconds = (Date.now() - back) / 1000;
  load.end();
  await recording.close(60_000);
  await expectWhole(load, await running.library(), running.dataDir);
  console.log(
    `${HOURS} h away: ${load.statements.size} sessions, ${statements} statements, ${parts} parts of ${bytes} bytes waited; all stored ${seconds} s after it was back; memory grew by ${grown.toFixed(0)} MiB`,
  );
}
