import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import { describe, expect, test } from 'vitest';
import { Statement } from '../../protocols/statement.ts';
import { collected, pipelineOf, sessionStart, TemporaryDirectory } from '../../test/support/recording.ts';
import { newId } from '../lib/id.ts';
import { SqliteRecordingIndex } from '../store/recording-index-sqlite.ts';
import { type JournalEvent, statementSchema } from './events.ts';
import { type ExportFormat, exportSession } from './export.ts';
import { followJournal } from './follow.ts';
import { INDEX_FILE } from './index-store.ts';
import { type Journal, openJournal } from './journal.ts';
import { knownSigningKeys, loadRecordingKeys, type RecordingKeys, rotateSigningKey } from './keys.ts';
import { emptyReport, Library } from './library.ts';
import { Pipeline } from './pipeline.ts';
import { shown } from './present.ts';
import { type Frame, framesOf, Player, type PlayerPorts } from './replay.ts';
import { DirectoryStore } from './store/directory.ts';
import { partKey } from './store/store.ts';
import { verifyEntries, verifySession } from './verify.ts';

const QUIET = { info: () => {}, error: () => {} };

/** A gateway's recording side, as `app.ts` puts it together, without the thread. */
class World {
  readonly dataDir: string;
  readonly storePath: string;
  readonly store: DirectoryStore;
  keys!: RecordingKeys;
  recipients: readonly string[] = [];
  journal!: Journal;
  pipeline!: Pipeline;

  constructor(path: string) {
    this.dataDir = join(path, 'data');
    this.storePath = join(path, 'store');
    mkdirSync(this.dataDir, { recursive: true });
    this.store = new DirectoryStore(this.storePath);
  }

  async start(sealMs = 300_000): Promise<void> {
    this.keys = await loadRecordingKeys(this.dataDir, this.recipients);
    this.journal = await openJournal({
      dataDir: this.dataDir,
      gateway: 'gw-test',
      keys: this.keys,
      durability: 'flushed',
      onFailure: 'refuse',
    });
    this.pipeline = await Pipeline.make(
      {
        ...pipelineOf(this.dataDir, 'gw-test', this.journal, this.keys),
        store: { type: 'directory', path: this.storePath },
        index: 'statements',
        sealMs,
      },
      QUIET,
      false,
    );
  }

  async stop(): Promise<void> {
    await this.journal.close();
    await this.pipeline.finish();
  }

  library(identities: readonly string[] = this.keys.identities): Library {
    return new Library({ store: this.store, dataDir: this.dataDir, identities });
  }

  index(): SqliteRecordingIndex {
    return new SqliteRecordingIndex(join(this.dataDir, INDEX_FILE), { readOnly: true });
  }
}

function talk(journal: Journal, principal: string, texts: readonly string[]): string {
  const record = journal.session(sessionStart(newId(), principal));
  for (const text of texts) {
    const statement = new Statement('query', text, Buffer.byteLength(text));
    statement.parameters = [{ name: null, type: 'int4', value: 42 }];
    record.begin(statement);
    statement.status = text.includes('missing') ? 'error' : 'ok';
    statement.error = text.includes('missing')
      ? { code: '42P01', message: 'relation "missing" does not exist' }
      : null;
    statement.rowsReturned = 3;
    record.end(statement);
  }
  record.close({ reason: 'client_closed', detail: null, bytesSent: 10, bytesReceived: 20 });
  return record.id;
}

async function eventsOf(library: Library, session: string): Promise<JournalEvent[]> {
  const events: JournalEvent[] = [];
  for await (const event of library.events(session)) events.push(event);
  return events;
}

describe('reading', () => {
  test('a session reads the same from the journal, the spool and the store', async () => {
    using directory = new TemporaryDirectory();
    const world = new World(directory.path);
    await world.start();
    const id = talk(world.journal, 'ana', ['SELECT 1', 'SELECT * FROM missing']);
    world.journal.flush();
    const live = await eventsOf(world.library(), id);
    expect(live.length).toBe(6);
    writeFileSync(world.storePath, 'away');
    await world.pipeline.run();
    expect(world.pipeline.status).toMatchObject({
      spoolFiles: 1,
      storeError: expect.stringContaining('cannot be written'),
    });
    rmSync(world.storePath);
    expect(await eventsOf(world.library(), id)).toEqual(live);
    await world.stop();
    expect(world.pipeline.status).toMatchObject({ spoolFiles: 0 });
    expect(await eventsOf(world.library(), id)).toEqual(live);
  });

  test('a session that is sealed in part goes on in the journal', async () => {
    using directory = new TemporaryDirectory();
    const world = new World(directory.path);
    await world.start(0);
    const record = world.journal.session(sessionStart(newId()));
    record.begin(new Statement('query', 'SELECT 1', 8));
    world.journal.flush();
    await world.pipeline.run();
    record.begin(new Statement('query', 'SELECT 2', 8));
    world.journal.flush();
    const report = emptyReport();
    const seqs: number[] = [];
    for await (const event of world.library().events(record.id, report))
      if (event.type === 'statement_started') seqs.push(event.seq);
    expect(seqs).toEqual([1, 2]);
    expect(report.unsealed).toBe(true);
    expect((await world.library().parts(record.id)).length).toBe(1);
    await world.stop();
  });

  test('a stranger is told that the key is not theirs, and sees nothing', async () => {
    using directory = new TemporaryDirectory();
    const world = new World(directory.path);
    await world.start();
    const id = talk(world.journal, 'ana', ['SELECT 1']);
    await world.stop();
    await expect(eventsOf(world.library([await generateX25519Identity()]), id)).rejects.toThrow(
      /no identity at hand opens/,
    );
  });

  test('with other reviewers from now on, each key reads what it was a recipient of', async () => {
    using directory = new TemporaryDirectory();
    const before = await generateX25519Identity();
    const after = await generateX25519Identity();
    const world = new World(directory.path);
    const ids: string[] = [];
    for (const reviewer of [before, after]) {
      world.recipients = [await identityToRecipient(reviewer)];
      await world.start();
      ids.push(talk(world.journal, 'ana', ['SELECT 1']));
      await world.stop();
    }
    const [old, fresh] = ids as [string, string];
    expect((await eventsOf(world.library([before]), old)).length).toBe(4);
    await expect(eventsOf(world.library([before]), fresh)).rejects.toThrow(/no identity at hand opens/);
    await expect(eventsOf(world.library([after]), old)).rejects.toThrow(/no identity at hand opens/);
    for (const id of ids) expect((await eventsOf(world.library([before, after]), id)).length).toBe(4);
  });

  test('a live session can be followed', async () => {
    using directory = new TemporaryDirectory();
    const world = new World(directory.path);
    await world.start();
    const abort = new AbortController();
    const seen: string[] = [];
    const following = (async () => {
      for await (const { event } of followJournal(world.dataDir, world.keys.identities, abort.signal))
        seen.push(event.type);
    })();
    talk(world.journal, 'ana', ['SELECT 1']);
    await expect.poll(() => seen).toContain('session_ended');
    abort.abort();
    await following;
    await world.stop();
  });
});

describe('a gateway that cannot read its own journal', () => {
  test('stores it after a crash, and reviewers read the session all the same', async () => {
    using directory = new TemporaryDirectory();
    const reviewer = await generateX25519Identity();
    const world = new World(directory.path);
    world.recipients = [await identityToRecipient(reviewer)];
    await world.start(0);
    const record = world.journal.session(sessionStart(newId()));
    record.begin(new Statement('query', 'SELECT 1', 8));
    world.journal.flush();
    await world.pipeline.run();
    record.begin(new Statement('query', 'SELECT 2', 8));
    world.journal.flush();
    const former = world.journal;
    await world.pipeline.close();
    rmSync(join(world.dataDir, 'journal', 'lock'));
    await world.start();
    await world.pipeline.run();
    expect(await world.index().session(record.id)).toMatchObject({ state: 'interrupted' });
    await world.stop();
    const seqs = (await eventsOf(world.library([reviewer]), record.id)).flatMap((event) =>
      event.type === 'statement_started' ? [event.seq] : [],
    );
    expect(seqs).toEqual([1, 2]);
    await expect(eventsOf(world.library([]), record.id)).rejects.toThrow(/no identity at hand opens/);
    await former.close();
  });
});

describe('the index', () => {
  test('finds by person, resource, words, table, status, rows and time', async () => {
    using directory = new TemporaryDirectory();
    const world = new World(directory.path);
    await world.start();
    const ana = talk(world.journal, 'ana', [
      'SELECT name FROM sales.customers',
      'UPDATE customers SET name = 1',
    ]);
    const ben = talk(world.journal, 'ben', [
      'SELECT * FROM missing',
      'DROP TABLE old_orders',
      `SELECT '"*) OR -- x'`,
    ]);
    await world.stop();
    const index = world.index();
    expect(
      (await index.sessions({ limit: 10 })).map(({ id, state, errors, parts }) => ({
        id,
        state,
        errors,
        parts,
      })),
    ).toEqual([
      { id: ben, state: 'ended', errors: 1, parts: 1 },
      { id: ana, state: 'ended', errors: 0, parts: 1 },
    ]);
    expect((await index.sessions({ limit: 10, principal: 'ana' })).map(({ id }) => id)).toEqual([ana]);
    const find = async (filter: object): Promise<string[]> =>
      (await index.search({ limit: 10, ...filter })).map(({ text }) => text!);
    expect(await find({ text: 'custom name' })).toEqual([
      'UPDATE customers SET name = 1',
      'SELECT name FROM sales.customers',
    ]);
    expect((await find({ table: 'customers' })).length).toBe(2);
    expect(await find({ table: 'sales.customers' })).toEqual(['SELECT name FROM sales.customers']);
    expect(await find({ status: 'error' })).toEqual(['SELECT * FROM missing']);
    expect(await find({ effect: 'definition' })).toEqual(['DROP TABLE old_orders']);
    expect(await find({ riskMin: 3 })).toEqual(['DROP TABLE old_orders', 'UPDATE customers SET name = 1']);
    expect((await index.sessions({ limit: 10, riskMin: 3 })).map(({ risk }) => risk)).toEqual([3, 3]);
    expect(await index.sessions({ limit: 10, riskMin: 4 })).toEqual([]);
    expect(await find({ rowsMin: 4 })).toEqual([]);
    expect(await find({ text: '"*) OR -- x' })).toEqual([`SELECT '"*) OR -- x'`]);
    expect(await find({ principal: 'ben', until: 0 })).toEqual([]);
    await index.close();
  });

  test('a crash and its recovery leave every statement once, and the session interrupted', async () => {
    using directory = new TemporaryDirectory();
    const world = new World(directory.path);
    await world.start();
    const record = world.journal.session(sessionStart(newId()));
    for (let seq = 0; seq < 3; seq += 1) {
      const statement = new Statement('query', `SELECT ${seq}`, 8);
      record.begin(statement);
      if (seq < 2) record.end(statement);
    }
    world.journal.flush();
    await world.pipeline.run();
    // The process is gone: neither the journal nor the pipeline comes to its end.
    await world.pipeline.close();
    renameSync(join(world.dataDir, 'journal', 'lock'), join(world.dataDir, 'journal', 'lock.dead'));
    const former = world.journal;
    await world.start();
    await world.pipeline.run();
    const index = world.index();
    expect(await index.session(record.id)).toMatchObject({
      state: 'interrupted',
      statements: 3,
      reason: 'interrupted',
    });
    expect((await index.search({ limit: 10, session: record.id })).map(({ status }) => status)).toEqual([
      'unknown',
      'unknown',
      'unknown',
    ]);
    await index.close();
    await world.stop();
    await former.close();
  });
});

describe('verifying a session', () => {
  async function three(path: string): Promise<{ world: World; id: string; files: string[] }> {
    const world = new World(path);
    await world.start(0);
    const record = world.journal.session(sessionStart(newId()));
    for (let part = 0; part < 3; part += 1) {
      record.begin(new Statement('query', `SELECT ${part}`, 8));
      if (part === 2) record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
      world.journal.flush();
      await world.pipeline.run();
    }
    await world.stop();
    return {
      world,
      id: record.id,
      files: [1, 2, 3].map((part) => join(world.storePath, partKey(record.id, part))),
    };
  }

  async function findings(world: World, id: string): Promise<string[]> {
    const library = world.library();
    const parts = await library.parts(id);
    const result = await verifySession(
      library,
      id,
      parts,
      knownSigningKeys(world.dataDir),
      await library.openSessions(),
    );
    expect(result.proven).toBe(result.findings.length === 0);
    return result.findings.map(({ what }) => what);
  }

  test('what was not touched is proven, with and without a key to read', async () => {
    using directory = new TemporaryDirectory();
    const { world, id } = await three(directory.path);
    expect(await findings(world, id)).toEqual([]);
    const blind = world.library([]);
    const result = await verifySession(
      blind,
      id,
      await blind.parts(id),
      knownSigningKeys(world.dataDir),
      null,
    );
    expect(result).toMatchObject({ proven: true, opened: false, state: 'ended', parts: 3 });
  });

  test('a removed, swapped, doubled or foreign part is found', async () => {
    using directory = new TemporaryDirectory();
    const { world, id, files } = await three(directory.path);
    const [first, second, third] = files.map((file) => readFileSync(file)) as [Buffer, Buffer, Buffer];
    const restore = (): void => {
      for (const [at, bytes] of [first, second, third].entries()) writeFileSync(files[at]!, bytes);
    };
    rmSync(files[1]!);
    expect((await findings(world, id))[0]).toMatch(/part 2 is missing/);
    restore();
    writeFileSync(files[0]!, second);
    writeFileSync(files[1]!, first);
    expect((await findings(world, id)).join()).toMatch(/this is part 2/);
    restore();
    writeFileSync(files[2]!, second);
    expect((await findings(world, id)).join()).toMatch(/this is part 2/);
    restore();
    rmSync(files[2]!);
    expect(await findings(world, id)).toEqual(['its end is missing: no part closes the session']);
    restore();
    expect(await findings(world, id)).toEqual([]);
  });

  test('a session or a last part that was deleted shows in the entries of the gateway', async () => {
    using directory = new TemporaryDirectory();
    const { world, id, files } = await three(directory.path);
    const library = world.library();
    const check = async (): Promise<string[]> =>
      (await verifyEntries(library, await library.allParts())).findings.map(
        ({ key, what }) => `${key}: ${what}`,
      );
    expect(await check()).toEqual([]);
    expect((await verifyEntries(library, await library.allParts())).entries).toBe(3);
    const last = readFileSync(files[2]!);
    rmSync(files[2]!);
    expect(await check()).toEqual([`${partKey(id, 3)}: it was sealed, and is not in the store`]);
    writeFileSync(files[2]!, Buffer.concat([last, last]));
    expect(await check()).toEqual([`${partKey(id, 3)}: it is not the file that was sealed`]);
    for (const file of files) rmSync(file);
    expect((await check()).length).toBe(3);
  });

  test('a new signing key leaves old recordings proven; a key nobody knows does not', async () => {
    using directory = new TemporaryDirectory();
    const { world, id } = await three(directory.path);
    const fresh = rotateSigningKey(world.dataDir);
    expect(knownSigningKeys(world.dataDir).has(fresh)).toBe(true);
    await world.start();
    const second = talk(world.journal, 'ana', ['SELECT 1']);
    await world.stop();
    expect(await findings(world, id)).toEqual([]);
    expect(await findings(world, second)).toEqual([]);
    const library = world.library();
    const only = new Map([...knownSigningKeys(world.dataDir)].filter(([key]) => key !== fresh));
    const result = await verifySession(library, second, await library.parts(second), only, null);
    expect(result.findings[0]!.what).toMatch(/unknown key/);
  });
});

async function exported(events: readonly JournalEvent[], format: ExportFormat): Promise<string> {
  let text = '';
  for await (const piece of exportSession(events, format)) text += String(piece);
  return text;
}

async function* framesFrom(frames: readonly Frame[]): AsyncGenerator<Frame> {
  yield* frames;
}

describe('replay and export', () => {
  async function events(path: string): Promise<JournalEvent[]> {
    const world = new World(path);
    await world.start();
    const id = talk(world.journal, 'ana', ['SELECT 1', 'SELECT "a,b"\nFROM missing', 'SELECT 3']);
    await world.stop();
    return eventsOf(world.library(), id);
  }

  /** Plays with scripted keys: each wait takes the next; null lets the time pass. */
  async function play(
    frames: readonly Frame[],
    keys: (string | null)[],
    speed = 1,
  ): Promise<{ output: string; waits: (number | null)[] }> {
    let output = '';
    const waits: (number | null)[] = [];
    const ports: PlayerPorts = {
      write: (text) => {
        output += text;
      },
      wait: (ms) => {
        waits.push(ms);
        if (ms === null && keys.length === 0) throw new Error('the player waits for a key');
        return Promise.resolve(keys.shift() ?? null);
      },
    };
    await new Player(() => framesFrom(frames), { speed, pauseMsMax: 500, from: 1 }, ports).run();
    return { output, waits };
  }

  test('shows statements with parameters, rows, durations and errors', async () => {
    using directory = new TemporaryDirectory();
    const frames = await collected(framesOf(await events(directory.path)));
    const { output } = await play(frames, []);
    expect(output).toMatch(/ana on orders/);
    expect(output).toMatch(/#1 SELECT 1\n +\$1 int4 = 42\n +→ ok, 3 rows returned, \d/);
    expect(output).toMatch(/42P01 relation "missing" does not exist/);
    expect(output).toMatch(/ended: client_closed, 3 statements/);
  });

  test('waits as long as the session did, scaled and capped; pauses, steps and seeks', async () => {
    const frames = [
      { at: 0, text: 'start', seq: null },
      { at: 100, text: 'one', seq: 1 },
      { at: 300, text: 'two', seq: 2 },
      { at: 90_000, text: 'three', seq: 3 },
    ];
    expect((await play(frames, [], 2)).waits).toEqual([0, 50, 100, 500]);
    expect((await play(frames, [null, ' ', 'n', 'n', ' ', null])).output).toBe(
      'start\n-- paused: space goes on, n next, p previous, q ends --\none\ntwo\nthree\n',
    );
    expect((await play(frames, [null, null, null, 'p', null, null, null])).output).toBe(
      'start\none\ntwo\n-- back to #1 --\none\ntwo\nthree\n',
    );
    expect((await play(frames, ['3', '\r', null])).output).toBe('-- #3 --\nthree\n');
    expect((await play(frames, [null, 'q'])).output).toBe('start\n');
  });

  test('a statement cannot steer the terminal of who reviews it', () => {
    expect(shown('a\u001b[2J\u0007b\r\u009bc\u202e\n\tx')).toBe('a␛[2J␇b\\u009bc\\u202e\n\tx');
  });

  test('statements that overlap come in the order of their starts, one that never ended as unknown', async () => {
    const world: JournalEvent[] = await (async () => {
      using directory = new TemporaryDirectory();
      const it = new World(directory.path);
      await it.start();
      const record = it.journal.session(sessionStart(newId()));
      const [one, two, three] = ['SELECT 1', 'SELECT 2', 'SELECT 3'].map(
        (text) => new Statement('query', text, 8),
      ) as [Statement, Statement, Statement];
      record.begin(one);
      record.begin(two);
      record.end(two);
      record.note({ kind: 'database_changed', database: 'x' });
      record.begin(three);
      record.end(one);
      record.close({ reason: 'killed', detail: null, bytesSent: 0, bytesReceived: 0 });
      await it.stop();
      return await eventsOf(it.library(), record.id);
    })();
    const lines = (await exported(world, 'jsonl'))
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines.map(({ type, seq }) => (type === 'statement' ? seq : type))).toEqual([
      'session_started',
      1,
      2,
      'note',
      3,
      'session_ended',
    ]);
    expect(lines.find(({ seq, type }) => type === 'statement' && seq === 3)).toMatchObject({
      status: 'unknown',
      duration_us: null,
    });
  });

  test('exports are what they say', async () => {
    using directory = new TemporaryDirectory();
    const recorded = await events(directory.path);
    const lines = (await exported(recorded, 'jsonl'))
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines.map(({ type }) => type)).toEqual([
      'session_started',
      'statement',
      'statement',
      'statement',
      'session_ended',
    ]);
    const { type: _, ...statement } = lines[1];
    expect(statementSchema.parse(statement)).toEqual(statement);
    const csv = await exported(recorded, 'csv');
    expect(csv.split('\r\n')[0]).toMatch(/^session,principal/);
    expect(csv).toContain('"SELECT ""a,b""\nFROM missing"');
    const cast = (await exported(recorded, 'asciicast'))
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(cast[0]).toMatchObject({ version: 2 });
    let last = 0;
    for (const [at, code, text] of cast.slice(1) as [number, string, string][]) {
      expect(code).toBe('o');
      expect(at).toBeGreaterThanOrEqual(last);
      expect(text.endsWith('\r\n')).toBe(true);
      last = at;
    }
  });
});
