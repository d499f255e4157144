import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Statement } from '../../protocols/statement.ts';
import { pipelineOf, sessionStart, TemporaryDirectory } from '../../test/support/recording.ts';
import { newId } from '../lib/id.ts';
import { SqliteRecordingIndex } from '../store/recording-index-sqlite.ts';
import type { JournalEvent } from './events.ts';
import { followJournal } from './follow.ts';
import { INDEX_FILE } from './index-store.ts';
import { type Boot, JOURNAL_DIRECTORY, type Journal, newBoot, openJournal } from './journal.ts';
import { knownSigningKeys, loadRecordingKeys, loadSigningKey } from './keys.ts';
import { Library } from './library.ts';
import { bootLockPath } from './lock.ts';
import { Pipeline, SPOOL_DIRECTORY, type StreamOptions } from './pipeline.ts';
import { listBoots } from './reader.ts';
import { recoverJournal } from './recovery.ts';
import { segmentName } from './segment.ts';
import { DirectoryStore } from './store/directory.ts';
import { sessionPrefix } from './store/store.ts';
import { verifySession } from './verify.ts';

/** Several processes that write journals into one directory, and one that makes recordings of them all. */

const QUIET = { info: () => {}, error: () => {} };

class World {
  readonly dataDir: string;
  readonly identities: readonly string[];
  readonly recipients: readonly string[];

  static async make(dataDir: string): Promise<World> {
    const { identities, recipients } = await loadRecordingKeys(dataDir, []);
    return new World(dataDir, identities, recipients);
  }

  private constructor(dataDir: string, identities: readonly string[], recipients: readonly string[]) {
    this.dataDir = dataDir;
    this.identities = identities;
    this.recipients = recipients;
  }

  journal(boot?: Boot): Promise<Journal> {
    return openJournal({
      dataDir: this.dataDir,
      gateway: 'gw-test',
      keys: { recipients: this.recipients, identities: this.identities },
      durability: 'flushed',
      onFailure: 'refuse',
      ...(boot === undefined ? {} : { boot }),
    });
  }

  pipeline(journal: Journal, streams: Record<string, StreamOptions> = {}): Promise<Pipeline> {
    return Pipeline.make(
      {
        ...pipelineOf(this.dataDir, 'gw-test', journal, this),
        store: { type: 'directory', path: this.storePath },
        index: 'statements',
        streams,
      },
      QUIET,
      false,
    );
  }

  get storePath(): string {
    return join(this.dataDir, 'store');
  }

  get journalDirectory(): string {
    return join(this.dataDir, JOURNAL_DIRECTORY);
  }

  library(): Library {
    return new Library({
      store: new DirectoryStore(this.storePath),
      dataDir: this.dataDir,
      identities: this.identities,
    });
  }
}

/** A session with one statement; it ends where `isOver` says so. */
function talk(journal: Journal, text: string, isOver: boolean): string {
  const record = journal.session(sessionStart(newId()));
  const statement = new Statement('query', text, Buffer.byteLength(text));
  record.begin(statement);
  statement.status = 'ok';
  record.end(statement);
  if (isOver) record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
  journal.flush();
  return record.id;
}

async function eventsOf(library: Library, session: string): Promise<JournalEvent[]> {
  const events: JournalEvent[] = [];
  for await (const event of library.events(session)) events.push(event);
  return events;
}

function textsIn(lines: string): string[] {
  return lines
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as JournalEvent)
    .flatMap((event) => (event.type === 'statement_started' ? [event.text ?? ''] : []));
}

test('journals of several processes become recordings; what a dead one left open is interrupted, the others go on', async () => {
  using directory = new TemporaryDirectory();
  const world = await World.make(directory.path);
  const own = await world.journal();
  const file = join(directory.path, 'events.jsonl');
  const pipeline = await world.pipeline(own, { lines: { type: 'file', path: file } });
  const boots = [await newBoot(world.recipients, Date.now()), await newBoot(world.recipients, Date.now())];
  const journals: Journal[] = [];
  for (const boot of boots) {
    pipeline.begin({ boot: boot.id, bootKey: boot.key });
    journals.push(await world.journal(boot));
  }
  const [first, second] = journals as [Journal, Journal];
  const sessions = [
    talk(own, 'select 0', true),
    talk(first, 'select 1', true),
    talk(second, 'select 2', true),
  ];
  const open = [talk(first, 'select 3', false), talk(second, 'select 4', false)] as const;
  await pipeline.run();
  await expect.poll(() => textsIn(readFileSync(file, 'utf8')).length).toBe(5);

  // The first dies in the middle of a write.
  writeFileSync(join(world.journalDirectory, segmentName(first.boot, 1)), Buffer.alloc(7, 1), { flag: 'a' });
  pipeline.end(first.boot);
  await pipeline.run();
  const library = world.library();
  expect((await eventsOf(library, open[0])).at(-1)).toMatchObject({
    type: 'session_ended',
    reason: 'interrupted',
    statements: 1,
  });
  const later = talk(second, 'select 5', true);
  await pipeline.run();
  const index = new SqliteRecordingIndex(join(world.dataDir, INDEX_FILE), { readOnly: true });
  expect((await index.session(open[0]))?.state).toBe('interrupted');
  expect((await index.session(open[1]))?.state).toBe('live');
  await index.close();
  for (const session of [...sessions, later])
    expect((await eventsOf(library, session)).at(-1)).toMatchObject({ reason: 'client_closed' });
  // Its segments go once the stream has them as well, and nothing of it is sent twice.
  await expect
    .poll(async () => {
      await pipeline.run();
      return listBoots(world.journalDirectory).includes(first.boot);
    })
    .toBe(false);
  await second.close();
  await own.close();
  await pipeline.finish();
  expect(textsIn(readFileSync(file, 'utf8')).sort()).toEqual(
    [0, 1, 2, 3, 4, 5].map((number) => `select ${number}`),
  );
  const trusted = knownSigningKeys(world.dataDir);
  for (const [session, parts] of await library.allParts())
    expect(await verifySession(library, session, parts, trusted, null)).toMatchObject({ proven: true });
});

test('a second gateway is refused, and one that starts anew waits for processes that still live', async () => {
  using directory = new TemporaryDirectory();
  const world = await World.make(directory.path);
  const own = await world.journal();
  await expect(world.journal()).rejects.toThrow('two gateways need two data directories');
  const boot = await newBoot(world.recipients, Date.now());
  const other = await world.journal(boot);
  const session = talk(other, 'select 1', false);
  // The lock as another process would have written it, which is alive.
  const lock = bootLockPath(world.journalDirectory, boot.id);
  expect(existsSync(lock)).toBe(true);
  writeFileSync(lock, `${process.ppid} `);
  const options = {
    journalDirectory: world.journalDirectory,
    spoolDirectory: join(world.dataDir, 'spool'),
    gateway: 'gw-test',
    recipients: world.recipients,
    identities: world.identities,
    signing: loadSigningKey(world.dataDir),
    store: new DirectoryStore(world.storePath),
    isCurrent: (one: string) => one === own.boot,
  };
  expect(await recoverJournal(options)).toEqual({ sealed: [], bundled: [], alive: [boot.id] });
  talk(other, 'select 2', true);
  await other.close();
  expect(await recoverJournal(options)).toEqual({ sealed: [boot.id], bundled: [], alive: [] });
  expect((await eventsOf(world.library(), session)).map(({ type }) => type)).toContain('session_ended');
  await own.close();
});

test('following the journal gives what all processes write, also those that begin later', async () => {
  using directory = new TemporaryDirectory();
  const world = await World.make(directory.path);
  const own = await world.journal();
  talk(own, 'select 1', true);
  const abort = new AbortController();
  const texts: string[] = [];
  const following = (async () => {
    for await (const { event } of followJournal(world.dataDir, world.identities, abort.signal))
      if (event.type === 'statement_started') texts.push(event.text ?? '');
  })();
  const other = await world.journal(await newBoot(world.recipients, Date.now()));
  talk(other, 'select 2', true);
  await expect.poll(() => [...texts].sort()).toEqual(['select 1', 'select 2']);
  talk(own, 'select 3', true);
  talk(other, 'select 4', true);
  await expect.poll(() => texts.length).toBe(4);
  abort.abort();
  await following;
  await other.close();
  await own.close();
});

test('a spool that cannot be written for one process holds up neither the store nor another process', async () => {
  using directory = new TemporaryDirectory();
  const world = await World.make(directory.path);
  const own = await world.journal();
  const pipeline = await world.pipeline(own);
  const boot = await newBoot(world.recipients, Date.now());
  pipeline.begin({ boot: boot.id, bootKey: boot.key });
  const other = await world.journal(boot);
  const stuck = talk(own, 'select 1', true);
  const obstacle = join(world.dataDir, SPOOL_DIRECTORY, `${own.boot}.${stuck}.1.tmp`);
  mkdirSync(obstacle);
  const fine = talk(other, 'select 2', true);
  await pipeline.run();
  expect(pipeline.status.error).toMatch(/EISDIR/);
  const store = new DirectoryStore(world.storePath);
  expect(await store.list(sessionPrefix(fine))).toHaveLength(1);
  expect(await store.list(sessionPrefix(stuck))).toEqual([]);
  rmdirSync(obstacle);
  await pipeline.run();
  expect(pipeline.status.error).toBeNull();
  expect(
    textsIn((await eventsOf(world.library(), stuck)).map((event) => JSON.stringify(event)).join('\n')),
  ).toEqual(['select 1']);
  expect(await store.list(sessionPrefix(stuck))).toHaveLength(1);
  await other.close();
  await own.close();
  await pipeline.finish();
});
