import { randomBytes } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Statement } from '../../protocols/statement.ts';
import { journalEvents, sessionStart, TemporaryDirectory } from '../../test/support/recording.ts';
import { newId } from '../lib/id.ts';
import type { AuditJournalEvent, JournalEvent } from './events.ts';
import { type Journal, type JournalOptions, openJournal } from './journal.ts';
import { loadRecordingKeys, loadSigningKey, type RecordingKeys, unwrapKey, wrapKey } from './keys.ts';
import { Library } from './library.ts';
import { listSegments } from './reader.ts';
import { dataKey, inspectPart, openPart, RecordingWriter } from './recording.ts';
import { listBundles, recoverJournal } from './recovery.ts';
import { SEALED_ACTION, Sealer, type SealerOptions, spoolFiles } from './sealer.ts';
import { DirectoryStore } from './store/directory.ts';
import { parsePartKey, StoreError, sessionPrefix } from './store/store.ts';
import { Uploader } from './uploader.ts';

const QUIET = { info: () => {}, error: () => {} };

interface Bench {
  readonly dataDir: string;
  readonly keys: RecordingKeys;
  readonly store: DirectoryStore;
  readonly storePath: string;
  journal: Journal;
  options(more?: Partial<SealerOptions>): SealerOptions;
  /** Puts what is spooled into the store. */
  upload(): Promise<void>;
  recover(identities?: readonly string[]): Promise<void>;
}

async function bench(path: string, keys?: RecordingKeys, more: Partial<JournalOptions> = {}): Promise<Bench> {
  const dataDir = join(path, 'data');
  const storePath = join(path, 'store');
  mkdirSync(dataDir, { recursive: true });
  const used = keys ?? (await loadRecordingKeys(dataDir, []));
  const store = new DirectoryStore(storePath);
  const journal = await openJournal({
    dataDir,
    gateway: 'gw-test',
    keys: used,
    durability: 'flushed',
    onFailure: 'refuse',
    ...more,
  });
  const common = {
    journalDirectory: join(dataDir, 'journal'),
    spoolDirectory: join(dataDir, 'spool'),
    gateway: 'gw-test',
    recipients: used.recipients,
    signing: loadSigningKey(dataDir),
    store,
  };
  return {
    dataDir,
    keys: used,
    store,
    storePath,
    journal,
    options: (extra = {}) => ({
      ...common,
      boot: journal.boot,
      bootKey: journal.bootKey,
      resumed: false,
      ...extra,
    }),
    upload: async () => {
      const uploader = new Uploader(common.spoolDirectory, store, QUIET);
      await uploader.run(true);
      expect(uploader.state.error).toBeNull();
    },
    recover: async (identities = used.identities) => {
      await recoverJournal({ ...common, isCurrent: () => false, identities });
    },
  };
}

/** Every event of a session's parts in the store, every part checked. */
async function stored(
  bench: Bench,
  session: string,
  identities = bench.keys.identities,
): Promise<JournalEvent[]> {
  const events: JournalEvent[] = [];
  let previous: string | null = null;
  let part = 0;
  for (const { key } of await bench.store.list(sessionPrefix(session))) {
    part += 1;
    expect(parsePartKey(key)).toEqual({ session, part });
    const file = await bench.store.get(key);
    const inspection = inspectPart(file);
    expect(inspection.faults).toEqual([]);
    expect(inspection.header).toMatchObject({ session, part, previous });
    previous = inspection.sha256;
    const wrapping = (await unwrapKey(Buffer.from(inspection.header!.key, 'base64'), identities))!;
    for (const line of openPart(file, inspection, dataKey(inspection.header!, wrapping)))
      events.push(JSON.parse(line) as JournalEvent);
  }
  return events;
}

function run(journal: Journal, sessions: number, statements: number, size = 20): string[] {
  const records = Array.from({ length: sessions }, (_, index) =>
    journal.session(sessionStart(newId(), `person-${index}`)),
  );
  for (let seq = 0; seq < statements; seq += 1) {
    for (const record of records) {
      const statement = new Statement('query', `SELECT ${seq} ${'x'.repeat(size)}`, size);
      record.begin(statement);
      statement.status = 'ok';
      record.end(statement);
    }
    if (seq % 10 === 0) journal.flush();
  }
  for (const record of records)
    record.close({ reason: 'client_closed', detail: null, bytesSent: 1, bytesReceived: 2 });
  return records.map(({ id }) => id);
}

const ofSession = (events: readonly JournalEvent[], session: string): JournalEvent[] =>
  events.filter((event) => 'session' in event && event.session === session);

describe('an index that fails', () => {
  test('takes no event from a recording, whether it fails at an event or as a part is sealed', async () => {
    using directory = new TemporaryDirectory();
    const place = await bench(directory.path);
    const sessions = run(place.journal, 3, 20);
    await place.journal.close();
    const written = await journalEvents(place.journal.directory, place.keys.identities);
    let heard = 0;
    let sealings = 0;
    const sealer = new Sealer(
      place.options({
        heard: () => {
          heard += 1;
          if (heard % 7 === 0) throw new Error('the index is away');
        },
        sealing: () => {
          sealings += 1;
          if (sealings % 2 === 1) throw new Error('the index is away');
        },
      }),
    );
    let failures = 0;
    for (let done = false; !done; ) {
      try {
        await sealer.finish();
        done = true;
      } catch (error) {
        expect((error as Error).message).toBe('the index is away');
        failures += 1;
      }
    }
    expect(failures).toBeGreaterThan(3);
    await place.upload();
    for (const session of sessions) expect(await stored(place, session)).toEqual(ofSession(written, session));
  });
});

describe('a spool that cannot be written', () => {
  test.each([
    [
      'as a part begins',
      (place: Bench, id: string) => join(place.dataDir, 'spool', `${place.journal.boot}.${id}.1.tmp`),
    ],
    [
      'as a part takes its name',
      (place: Bench, id: string) => join(place.dataDir, 'spool', `${id}-000001.sprec`),
    ],
  ])('%s takes no event from a recording, and holds none up for ever', async (_, obstacle) => {
    using directory = new TemporaryDirectory();
    const place = await bench(directory.path);
    const sessions = run(place.journal, 3, 20, 20_000);
    place.journal.flush();
    const sealer = new Sealer(place.options({}));
    for (const id of sessions.slice(0, 2)) mkdirSync(join(obstacle(place, id), 'full'), { recursive: true });
    await expect(sealer.poll()).rejects.toThrow(/EISDIR|ENOTEMPTY|ENOTDIR/);
    const later = run(place.journal, 2, 20);
    place.journal.flush();
    await expect(sealer.poll()).rejects.toThrow(/EISDIR|ENOTEMPTY|ENOTDIR/);
    for (const id of sessions.slice(0, 2)) rmSync(obstacle(place, id), { recursive: true });
    await sealer.poll();
    await place.journal.close();
    const written = await journalEvents(place.journal.directory, place.keys.identities);
    await sealer.finish();
    await place.upload();
    for (const session of [...sessions, ...later])
      expect(await stored(place, session)).toEqual(ofSession(written, session));
    // The key of the round that failed is forgotten with it.
    const [early, late] = await Promise.all(
      [sessions[0]!, later[0]!].map(async (id) =>
        inspectPart(await place.store.get((await place.store.list(sessionPrefix(id)))[0]!.key)),
      ),
    );
    expect(late!.header!.key).not.toBe(early!.header!.key);
    sealer.release(true);
    expect(listSegments(place.journal.directory)).toEqual([]);
  });
});

describe('sealing', () => {
  test('what went into the journal is in the recordings, event by event, and the journal is empty', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 0, max: 40 }),
        fc.integer({ min: 0, max: 20_000 }),
        fc.constantFrom('zstd' as const, 'gzip' as const, 'none' as const),
        async (sessions, statements, size, compression) => {
          using directory = new TemporaryDirectory();
          const it = await bench(directory.path, undefined, { segmentBytesMax: 100_000 });
          const ids = run(it.journal, sessions, statements, size);
          await it.journal.close();
          const truth = await journalEvents(it.journal.directory, it.keys.identities);
          const sealer = new Sealer(it.options({ compression, partBytesMax: 50_000 }));
          await sealer.finish();
          await it.upload();
          sealer.release(true);
          for (const id of ids) expect(await stored(it, id)).toEqual(ofSession(truth, id));
          expect((await stored(it, it.journal.boot)).map(({ type }) => type)).toContain('journal');
          expect(listSegments(it.journal.directory)).toEqual([]);
          expect(spoolFiles(join(it.dataDir, 'spool'))).toEqual([]);
        },
      ),
      { numRuns: 12 },
    );
  }, 60_000);

  test('a long session is sealed in parts, and its segments are released', async () => {
    using directory = new TemporaryDirectory();
    const it = await bench(directory.path);
    let now = Date.now();
    const sealer = new Sealer(it.options({ sealMs: 60_000, now: () => now }));
    const record = it.journal.session(sessionStart(newId()));
    for (let round = 0; round < 3; round += 1) {
      record.begin(new Statement('query', `SELECT ${round}`, 8));
      it.journal.rotate();
      await sealer.poll();
      now += 61_000;
      await sealer.poll();
      await it.upload();
      sealer.release();
    }
    expect(listSegments(it.journal.directory).length).toBe(1);
    record.close({ reason: 'killed', detail: null, bytesSent: 0, bytesReceived: 0 });
    await it.journal.close();
    await sealer.finish();
    await it.upload();
    const events = await stored(it, record.id);
    expect(events.map(({ type }) => type)).toEqual([
      'session_started',
      'statement_started',
      'statement_started',
      'statement_started',
      'session_ended',
    ]);
    expect((await it.store.list(sessionPrefix(record.id))).length).toBe(4);
  });

  test("the gateway's own recording has an entry of every part, also of those that are sealed with it", async () => {
    using directory = new TemporaryDirectory();
    const it = await bench(directory.path);
    const sealed: string[] = [];
    const sealer = new Sealer(
      it.options({
        sealMs: 0,
        partBytesMax: 400,
        sealed: ({ session, part, ofGateway }) => {
          if (!ofGateway) sealed.push(`${session} ${part}`);
        },
      }),
    );
    for (let round = 0; round < 3; round += 1) {
      const open = it.journal.session(sessionStart(newId()));
      run(it.journal, 70, 1);
      it.journal.flush();
      await sealer.poll();
      open.close({ reason: 'client_closed', detail: null, bytesSent: 1, bytesReceived: 2 });
    }
    await it.journal.close();
    await sealer.finish();
    await it.upload();
    const entries = (await stored(it, it.journal.boot))
      .filter((event) => event.type === 'audit' && event.action === SEALED_ACTION)
      .map((event) => (event as AuditJournalEvent).detail)
      .map((detail) => `${detail?.['session']} ${detail?.['part']}`);
    expect(sealed).toHaveLength(3 * 70 + 3 * 2);
    expect(entries).toEqual(sealed);
  });

  test('a session is ended also where its end fills a part', async () => {
    using directory = new TemporaryDirectory();
    const it = await bench(directory.path);
    const ids = Array.from({ length: 24 }, (_, step) => {
      const record = it.journal.session(sessionStart(newId()));
      // Somewhere among these, all but the last event is just short of a chunk.
      for (const size of [60_000, 60_000, 60_000, 60_000, 18_700 + step * 100])
        record.begin(new Statement('query', 'x'.repeat(size), size));
      record.close({ reason: 'client_closed', detail: null, bytesSent: 1, bytesReceived: 2 });
      return record.id;
    });
    await it.journal.close();
    const sealer = new Sealer(it.options({ partBytesMax: 1 }));
    await sealer.poll(true);
    expect(sealer.openSessions).toBe(1);
    await sealer.finish();
    await it.upload();
    for (const id of ids) {
      const parts = await it.store.list(sessionPrefix(id));
      const last = inspectPart(await it.store.get(parts.at(-1)!.key));
      expect(last.trailer?.state).toBe('ended');
    }
  });

  test('only reviewers can read, with any of their keys, and the disk shows nothing', async () => {
    using directory = new TemporaryDirectory();
    const reviewers = [await generateX25519Identity(), await generateX25519Identity()];
    const recipients = await Promise.all(reviewers.map((identity) => identityToRecipient(identity)));
    const it = await bench(directory.path, { recipients, identities: [] });
    const [id] = run(it.journal, 1, 3);
    await it.journal.close();
    await new Sealer(it.options({ compression: 'none' })).finish();
    await it.upload();
    for (const reviewer of reviewers) expect((await stored(it, id!, [reviewer])).length).toBe(8);
    const key = (await it.store.list(sessionPrefix(id!)))[0]!.key;
    const file = await it.store.get(key);
    expect(file.toString('latin1')).not.toMatch(/SELECT|person|orders/);
    const stranger = await generateX25519Identity();
    expect(await unwrapKey(Buffer.from(inspectPart(file).header!.key, 'base64'), [stranger])).toBeNull();
    expect(() => [...openPart(file, inspectPart(file), Buffer.alloc(32))]).toThrow(
      /cannot be opened with this key/,
    );
  });
});

describe('keys', () => {
  test('parts have data keys of their own, made of one that is wrapped once', async () => {
    using directory = new TemporaryDirectory();
    const it = await bench(directory.path);
    const ids = run(it.journal, 3, 2);
    await it.journal.close();
    await new Sealer(it.options()).finish();
    await it.upload();
    const headers = await Promise.all(
      ids.map(async (id) => {
        const { key } = (await it.store.list(sessionPrefix(id)))[0]!;
        return inspectPart(await it.store.get(key)).header!;
      }),
    );
    expect(new Set(headers.map(({ key }) => key)).size).toBe(1);
    const wrapping = (await unwrapKey(Buffer.from(headers[0]!.key, 'base64'), it.keys.identities))!;
    const keys = headers.map((header) => dataKey(header, wrapping).toString('hex'));
    expect(new Set([...keys, wrapping.toString('hex')]).size).toBe(4);
  });

  test('a part without a salt has its own key in the header', async () => {
    using directory = new TemporaryDirectory();
    const it = await bench(directory.path);
    const key = randomBytes(32);
    const header = {
      session: newId(),
      part: 1,
      previous: null,
      gateway: 'test',
      created_at: '2026-11-24T00:00:00.000000Z',
      compression: 'none' as const,
      recipients: [...it.keys.recipients],
      key: (await wrapKey(key, it.keys.recipients)).toString('base64'),
    };
    const writer = new RecordingWriter(header, Buffer.from(key), loadSigningKey(it.dataDir));
    const chunk = writer.chunk(Buffer.from('{"type":"note"}\n'), 1);
    const place = [1, 0, 0] as [number, number, number];
    const end = writer.end({
      state: 'ended',
      firstAt: null,
      lastAt: null,
      boot: newId(),
      from: place,
      to: place,
    });
    const file = Buffer.concat([writer.head, chunk, end]);
    const inspection = inspectPart(file);
    const library = new Library({ store: it.store, dataDir: it.dataDir, identities: it.keys.identities });
    const opened = await library.key(inspection);
    expect([...openPart(file, inspection, opened!)]).toEqual(['{"type":"note"}']);
    await it.journal.close();
  });
});

describe('verifying', () => {
  async function onePart(path: string): Promise<Buffer> {
    const it = await bench(path);
    const [id] = run(it.journal, 1, 2);
    await it.journal.close();
    await new Sealer(it.options()).finish();
    await it.upload();
    const key = (await it.store.list(sessionPrefix(id!)))[0]!.key;
    return it.store.get(key);
  }

  async function manyChunks(path: string): Promise<Buffer> {
    const it = await bench(path);
    const [id] = run(it.journal, 1, 400, 3000);
    await it.journal.close();
    await new Sealer(it.options()).finish();
    await it.upload();
    const key = (await it.store.list(sessionPrefix(id!)))[0]!.key;
    return it.store.get(key);
  }

  test('every flipped bit is found', async () => {
    using directory = new TemporaryDirectory();
    const file = await onePart(directory.path);
    expect(inspectPart(file).faults).toEqual([]);
    for (let at = 0; at < file.length; at += 1) {
      for (let bit = 0; bit < 8; bit += 1) {
        file[at]! ^= 1 << bit;
        const { faults } = inspectPart(file);
        file[at]! ^= 1 << bit;
        expect(faults.length, `bit ${bit} of byte ${at}`).toBeGreaterThan(0);
      }
    }
  }, 60_000);

  test('every truncation is found', async () => {
    using directory = new TemporaryDirectory();
    const file = await onePart(directory.path);
    for (let length = 0; length < file.length; length += 1)
      expect(inspectPart(file.subarray(0, length)).faults.length, `${length} bytes`).toBeGreaterThan(0);
    expect(inspectPart(Buffer.concat([file, Buffer.from('x')])).faults.length).toBeGreaterThan(0);
  }, 60_000);

  test('the first bad byte range is that of the chunk that was altered, removed, swapped or doubled', async () => {
    using directory = new TemporaryDirectory();
    const file = await manyChunks(directory.path);
    const { chunks } = inspectPart(file).trailer!;
    expect(chunks.length).toBeGreaterThan(3);
    const [first, second, third] = chunks as [(typeof chunks)[0], (typeof chunks)[0], (typeof chunks)[0]];
    const cut = (chunk: typeof first): Buffer => file.subarray(chunk.offset, chunk.offset + chunk.length);
    const before = file.subarray(0, second.offset);
    const behind = file.subarray(third.offset + third.length);
    const altered = Buffer.from(file);
    altered[second.offset + 100]! ^= 1;
    expect(inspectPart(altered).faults[0]).toEqual({
      from: second.offset,
      to: second.offset + second.length,
      what: 'chunk 1 was altered',
    });
    for (const middle of [[third, second], [second, second, third], [third]]) {
      const [fault] = inspectPart(Buffer.concat([before, ...middle.map(cut), behind])).faults;
      expect(fault!.from).toBeGreaterThanOrEqual(second.offset);
      expect(fault!.from).toBeLessThanOrEqual(third.offset + third.length);
    }
  });

  test('an event that a reader took out, swapped or doubled is found: who can read cannot sign', async () => {
    using directory = new TemporaryDirectory();
    const it = await bench(directory.path);
    const [id] = run(it.journal, 1, 3);
    await it.journal.close();
    await new Sealer(it.options()).finish();
    await it.upload();
    const file = await it.store.get((await it.store.list(sessionPrefix(id!)))[0]!.key);
    const inspection = inspectPart(file);
    const { header, trailer } = inspection;
    const wrapping = (await unwrapKey(Buffer.from(header!.key, 'base64'), it.keys.identities))!;
    const key = dataKey(header!, wrapping);
    const lines = [...openPart(file, inspection, key)];
    const [first, second, third, ...rest] = lines as [string, string, string, ...string[]];
    const end = file.subarray(trailer!.chunks[0]!.offset + trailer!.chunks[0]!.length);
    const forger = loadSigningKey(join(directory.path, 'store'));
    for (const forged of [
      [first, third, ...rest],
      [first, third, second, ...rest],
      [first, second, second, third, ...rest],
    ]) {
      const { format: _, signing_key: __, ...facts } = header!;
      const writer = new RecordingWriter(facts, Buffer.from(key), forger);
      const chunk = writer.chunk(Buffer.from(`${forged.join('\n')}\n`), forged.length);
      const head = file.subarray(0, trailer!.chunks[0]!.offset);
      // With the old trailer the chain does not hold; with a new one it is signed by somebody else.
      expect(inspectPart(Buffer.concat([head, chunk, end])).faults[0]!.from).toBe(head.length);
      const { state, first_at, last_at, journal } = trailer!;
      const signed = writer.end({ state, firstAt: first_at, lastAt: last_at, ...journal });
      const resigned = inspectPart(Buffer.concat([writer.head, chunk, signed]));
      expect(resigned.faults).toEqual([]);
      expect(resigned.signedBy).not.toBe(inspection.signedBy);
    }
  });

  test('a file that is another part, or signed by another key, is told apart', async () => {
    using directory = new TemporaryDirectory();
    using other = new TemporaryDirectory();
    const file = await onePart(directory.path);
    const foreign = await onePart(other.path);
    expect(inspectPart(file).signedBy).not.toBe(inspectPart(foreign).signedBy);
    const { chunks } = inspectPart(foreign).trailer!;
    const grafted = Buffer.concat([
      file.subarray(0, inspectPart(file).trailer!.chunks[0]!.offset),
      foreign.subarray(chunks[0]!.offset),
    ]);
    expect(inspectPart(grafted).faults[0]!.what).toBe('the header was altered');
  });
});

describe('after a crash', () => {
  /** What lies on disk when the process stops at this moment, as a second world to be recovered. */
  function copy(from: string, to: string): void {
    mkdirSync(to, { recursive: true });
    for (const entry of readdirSync(from, { withFileTypes: true })) {
      if (entry.name === 'lock') continue;
      if (entry.isDirectory()) copy(join(from, entry.name), join(to, entry.name));
      else copyFileSync(join(from, entry.name), join(to, entry.name));
    }
  }

  test('at every step of sealing and storing: nothing is lost, nothing is twice, open sessions are interrupted', async () => {
    using directory = new TemporaryDirectory();
    const live = await bench(join(directory.path, 'live'));
    let now = Date.now();
    const worlds: string[] = [];
    const snapshot = (): void => {
      const world = join(directory.path, `world-${worlds.length}`);
      copy(join(directory.path, 'live'), world);
      worlds.push(world);
    };
    const sealer = new Sealer(
      live.options({ sealMs: 60_000, now: () => now, partBytesMax: 20_000, sealed: snapshot }),
    );
    const promised = new Map<string, number>();
    const long = live.journal.session(sessionStart(newId(), 'long'));
    const idle = live.journal.session(sessionStart(newId(), 'idle'));
    const counts: Map<string, number>[] = [];
    const step = async (work: () => void | Promise<void>): Promise<void> => {
      const before = worlds.length;
      await work();
      snapshot();
      while (counts.length < worlds.length) counts.push(new Map(promised));
      expect(worlds.length).toBeGreaterThan(before);
    };
    const statement = (): void => {
      long.begin(new Statement('query', `SELECT ${'y'.repeat(5000)} ${Math.random()}`, 5000));
      live.journal.flush();
      promised.set(long.id, (promised.get(long.id) ?? 0) + 1);
    };
    for (let round = 0; round < 3; round += 1) {
      await step(statement);
      await step(statement);
      await step(async () => void (await sealer.poll()));
      await step(() => live.journal.rotate());
      await step(statement);
      now += 61_000;
      await step(async () => void (await sealer.poll()));
      if (round === 1) await step(() => sealer.release());
      await step(() => live.upload());
      await step(() => sealer.release());
    }
    await live.journal.close();
    sealer.close();
    expect(worlds.length).toBeGreaterThan(20);
    for (const [index, world] of worlds.entries()) {
      const keys = await loadRecordingKeys(join(world, 'data'), []);
      const it: Bench = {
        ...live,
        dataDir: join(world, 'data'),
        store: new DirectoryStore(join(world, 'store')),
        keys,
      };
      const options = {
        journalDirectory: join(world, 'data', 'journal'),
        spoolDirectory: join(world, 'data', 'spool'),
        gateway: 'gw-test',
        recipients: keys.recipients,
        signing: loadSigningKey(it.dataDir),
        store: it.store,
      };
      await recoverJournal({ ...options, isCurrent: () => false, identities: keys.identities });
      // A second crash right behind the first must not change what the first recovery made.
      await recoverJournal({ ...options, isCurrent: () => false, identities: keys.identities });
      const uploader = new Uploader(options.spoolDirectory, it.store, QUIET);
      await uploader.run(true);
      const events = await stored(it, long.id);
      const seqs = events.filter((event) => event.type === 'statement_started').map(({ seq }) => seq);
      expect(seqs, `world ${index}`).toEqual(
        Array.from({ length: counts[index]?.get(long.id) ?? 0 }, (_, at) => at + 1),
      );
      for (const id of [long.id, idle.id]) {
        const own = id === long.id ? events : await stored(it, id);
        expect(own[0], `world ${index}`).toMatchObject({ type: 'session_started' });
        expect(own.at(-1), `world ${index}`).toMatchObject({ type: 'session_ended', reason: 'interrupted' });
        expect(own.filter(({ type }) => type === 'session_ended').length).toBe(1);
      }
      expect(listSegments(options.journalDirectory)).toEqual([]);
    }
  }, 120_000);

  test('a gateway that cannot read its own journal stores it as it is, for reviewers', async () => {
    using directory = new TemporaryDirectory();
    const reviewer = await generateX25519Identity();
    const it = await bench(directory.path, {
      recipients: [await identityToRecipient(reviewer)],
      identities: [],
    });
    const record = it.journal.session(sessionStart(newId()));
    record.begin(new Statement('query', 'SELECT 1', 8));
    it.journal.flush();
    await it.journal.close();
    await it.recover();
    expect(listSegments(it.journal.directory)).toEqual([]);
    expect(await listBundles(it.store)).toEqual([it.journal.boot]);
    const events = await journalEvents(join(it.storePath, 'journal', it.journal.boot), [reviewer]);
    expect(events.map(({ type }) => type)).toContain('statement_started');
  });

  test('it is stored whole however often the storing of it is cut short', async () => {
    using directory = new TemporaryDirectory();
    const reviewer = await generateX25519Identity();
    const recipients = [await identityToRecipient(reviewer)];
    const it = await bench(directory.path, { recipients, identities: [] });
    const record = it.journal.session(sessionStart(newId()));
    for (let seq = 0; seq < 3; seq += 1) {
      record.begin(new Statement('query', `SELECT ${seq}`, 8));
      it.journal.rotate();
    }
    await it.journal.close();
    const put = it.store.put.bind(it.store);
    let before = 0;
    for (let steps = 0; ; steps += 1) {
      let left = steps;
      // Stops before a step, and after it, by turns.
      it.store.put = async (key, path) => {
        if (left <= 0) throw new StoreError('unavailable', 'stopped');
        await put(key, path);
        left -= 2;
        if (left < 0) throw new StoreError('unavailable', 'stopped');
      };
      const isWhole = await it.recover().then(
        () => true,
        () => false,
      );
      const segments = listSegments(it.journal.directory).length;
      if (isWhole) {
        expect(segments).toBe(0);
        break;
      }
      expect(segments).toBeGreaterThanOrEqual(before);
      before = segments;
    }
    expect(before).toBeGreaterThan(2);
    const events = await journalEvents(join(it.storePath, 'journal', it.journal.boot), [reviewer]);
    expect(events.flatMap((event) => (event.type === 'statement_started' ? [event.seq] : []))).toEqual([
      1, 2, 3,
    ]);
  });

  test('the disk is full while it seals: nothing is lost, and it goes on when there is room', async () => {
    using directory = new TemporaryDirectory();
    const it = await bench(directory.path);
    const spool = join(it.dataDir, 'spool');
    const [first] = run(it.journal, 1, 5);
    it.journal.flush();
    const sealer = new Sealer(it.options());
    // No room in the spool: its place is taken.
    rmSync(spool, { recursive: true });
    writeFileSync(spool, '');
    for (let attempt = 0; attempt < 3; attempt += 1) await expect(sealer.poll()).rejects.toThrow();
    rmSync(spool);
    mkdirSync(spool);
    const [second] = run(it.journal, 1, 5);
    await it.journal.close();
    await sealer.finish();
    await it.upload();
    for (const id of [first, second]) {
      const seqs = (await stored(it, id!)).flatMap((event) =>
        event.type === 'statement_started' ? [event.seq] : [],
      );
      expect(seqs).toEqual([1, 2, 3, 4, 5]);
    }
  });

  test('an altered segment is kept as evidence, and the recordings say so', async () => {
    using directory = new TemporaryDirectory();
    const it = await bench(directory.path);
    const record = it.journal.session(sessionStart(newId()));
    record.begin(new Statement('query', 'SELECT 1', 8));
    it.journal.flush();
    record.begin(new Statement('query', 'SELECT 2', 8));
    it.journal.flush();
    await it.journal.close();
    const [segment] = listSegments(it.journal.directory);
    const bytes = readFileSync(segment!.path);
    bytes[bytes.length - 200]! ^= 1;
    writeFileSync(segment!.path, bytes);
    await it.recover();
    await it.upload();
    const events = await stored(it, record.id);
    expect(events.map(({ type }) => type)).toEqual(
      expect.arrayContaining(['statement_started', 'gap', 'session_ended']),
    );
    expect(existsSync(join(it.journal.directory, 'damaged', segment!.name))).toBe(true);
  });
});

describe('the store is away', () => {
  test('parts wait in the spool and are stored when it is back', async () => {
    using directory = new TemporaryDirectory();
    const it = await bench(directory.path);
    writeFileSync(it.storePath, 'not a folder');
    const ids = run(it.journal, 5, 2);
    await it.journal.close();
    await new Sealer(it.options()).finish();
    const spool = join(it.dataDir, 'spool');
    const uploader = new Uploader(spool, it.store, QUIET);
    await uploader.run();
    expect(uploader.state).toMatchObject({ files: 6 });
    expect(uploader.state.error).toMatch(/cannot be written/);
    rmSync(it.storePath);
    expect(await uploader.run()).toBe(0);
    expect(await uploader.run(true)).toBe(6);
    expect(uploader.state).toEqual({ files: 0, bytes: 0, error: null });
    for (const id of ids) expect((await stored(it, id)).length).toBe(6);
  });
});
