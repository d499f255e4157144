import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { Statement } from '../../protocols/statement.ts';
import { collected, pipelineOf, sessionStart, TemporaryDirectory } from '../../test/support/recording.ts';
import { newId } from '../lib/id.ts';
import type { JournalEvent, StatementEndedEvent, StatementStartedEvent } from './events.ts';
import { timeText } from './events.ts';
import { EXPORT_FORMATS, type ExportFormat, exportSession } from './export.ts';
import { joined } from './join.ts';
import { openJournal } from './journal.ts';
import { loadRecordingKeys } from './keys.ts';
import { emptyReport, Library } from './library.ts';
import { JOIN_EVENTS_MAX, REPLAY_FRAMES_MAX } from './limits.ts';
import { startedEvent } from './make-events.ts';
import { Pipeline } from './pipeline.ts';
import { framesOf, Player } from './replay.ts';
import { DirectoryStore } from './store/directory.ts';

/** Long sessions are replayed and exported as they are read: none is ever in memory as a whole. */

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const SESSION = newId();
const BEGAN = Date.UTC(2026, 10, 24);

/** What a reader holds at most of what it was given, in events: one statement and what belongs to it. */
const AHEAD_MAX = 8;
/** Growth of the heap while a long session passes: a fraction of what its events take together. */
const GROWTH_BYTES_MAX = 15 * 1024 * 1024;

function started(seq: number): StatementStartedEvent {
  return {
    type: 'statement_started',
    session: SESSION,
    seq,
    at: timeText(BEGAN + seq),
    kind: 'query',
    text: `SELECT ${seq} FROM orders WHERE note = '${'x'.repeat(100)}'`,
    text_bytes: 140,
    text_sha256: null,
    name: null,
    parameters: null,
    masked: false,
    opaque: false,
  };
}

function ended(seq: number): StatementEndedEvent {
  return {
    type: 'statement_ended',
    session: SESSION,
    seq,
    at: timeText(BEGAN + seq + 0.5),
    status: 'ok',
    rows_returned: 1,
    rows_affected: null,
    tag: 'SELECT 1',
    columns: null,
    error: null,
    results: null,
    sample: null,
    messages: null,
    return_status: null,
    outputs: null,
    duration_us: 500,
    bytes_sent: 10,
    bytes_received: 20,
    transaction: 'idle',
  };
}

/** A session's events as they are asked for. */
async function* generated(
  statements: number,
  options: {
    readonly frames?: boolean;
    readonly asked?: (events: number) => void;
    readonly endless?: number;
  } = {},
): AsyncGenerator<JournalEvent> {
  let given = 0;
  const give = <T>(event: T): T => {
    given += 1;
    options.asked?.(given);
    return event;
  };
  yield give(startedEvent(sessionStart(SESSION), BEGAN));
  for (let seq = 1; seq <= statements; seq += 1) {
    yield give(started(seq));
    if (options.frames === true) {
      const data = Buffer.alloc(500).toString('base64');
      yield give({
        type: 'frame',
        session: SESSION,
        at: timeText(BEGAN + seq),
        from: 'client',
        bytes: 500,
        data,
      });
    }
    if (seq !== options.endless) yield give(ended(seq));
  }
}

async function passThrough(
  statements: number,
  format: ExportFormat,
): Promise<{ ahead: number; growth: number }> {
  let asked = 0;
  let given = 0;
  let ahead = 0;
  const events = generated(statements, {
    frames: format === 'pcapng',
    asked: (count) => {
      asked = count;
    },
  });
  let least = Number.POSITIVE_INFINITY;
  let most = 0;
  let pieces = 0;
  for await (const _ of exportSession(events, format)) {
    ahead = Math.max(ahead, asked - given);
    given = asked;
    pieces += 1;
    if (pieces % Math.ceil(statements / 10) !== 0) continue;
    collectGarbage();
    const { heapUsed } = process.memoryUsage();
    least = Math.min(least, heapUsed);
    most = Math.max(most, heapUsed);
  }
  return { ahead, growth: Math.max(0, most - least) };
}

describe('a long session', () => {
  test.each(EXPORT_FORMATS)(
    'exports as %s while it is read',
    async (format) => {
      const { ahead, growth } = await passThrough(50_000, format);
      // A capture is given on in pieces of 64 KiB.
      expect(ahead).toBeLessThan(format === 'pcapng' ? 500 : AHEAD_MAX);
      expect(growth).toBeLessThan(GROWTH_BYTES_MAX);
    },
    60_000,
  );

  test('replays while it is read', async () => {
    const statements = 100_000;
    let shown = 0;
    let asked = 0;
    let ahead = 0;
    let least = Number.POSITIVE_INFINITY;
    let most = 0;
    const player = new Player(
      () =>
        framesOf(
          generated(statements, {
            asked: (count) => {
              asked = count;
            },
          }),
        ),
      { speed: 1000, pauseMsMax: 1, from: 1 },
      {
        wait: async () => null,
        write: () => {
          shown += 1;
          ahead = Math.max(ahead, asked - shown);
          if (shown % 20_000 !== 0) return;
          collectGarbage();
          const { heapUsed } = process.memoryUsage();
          least = Math.min(least, heapUsed);
          most = Math.max(most, heapUsed);
        },
      },
    );
    await player.run();
    expect(shown).toBe(2 * statements + 1);
    expect(ahead).toBeLessThan(AHEAD_MAX);
    expect(most - least).toBeLessThan(GROWTH_BYTES_MAX);
  }, 60_000);

  test('a replay goes back farther than what it keeps, and to any statement', async () => {
    const statements = 3 * REPLAY_FRAMES_MAX;
    let opened = 0;
    let output = '';
    const keys: string[] = [];
    const player = new Player(
      () => {
        opened += 1;
        return framesOf(generated(statements));
      },
      { speed: 1000, pauseMsMax: 1, from: statements - 2 },
      {
        wait: async () => keys.shift() ?? null,
        write: (text) => {
          output += text;
        },
      },
    );
    keys.push(
      '5',
      '\r',
      'n',
      'n',
      'p',
      'n',
      ...String(statements - 1),
      '\r',
      'n',
      'p',
      ...String(statements),
      '\r',
    );
    await player.run();
    const shown = [...output.matchAll(/#(\d+)(?: --| SELECT)/g)].map(([, seq]) => Number(seq));
    const last = statements;
    expect(shown).toEqual([last - 2, 5, 5, 6, 5, 5, last - 1, last - 1, last - 2, last, last]);
    expect(opened).toBe(2);
    expect(output).not.toMatch(/no statement/);
  });

  test('a statement without an end holds up no more than a named number of events', async () => {
    const statements = 2 * JOIN_EVENTS_MAX;
    let asked = 0;
    let ahead = 0;
    let given = 0;
    let read = 0;
    const events = generated(statements, {
      endless: 3,
      asked: (count) => {
        asked = count;
      },
    });
    const outcomes = new Map<number, string>();
    for await (const event of joined(events, () => {
      read += 1;
      return generated(statements, { endless: 3 });
    })) {
      given += 1;
      ahead = Math.max(ahead, asked / 2 - given);
      if (event.type === 'statement') outcomes.set(event.seq, event.status);
    }
    expect(ahead).toBeLessThan(JOIN_EVENTS_MAX + AHEAD_MAX);
    expect(read).toBe(1);
    expect(outcomes.size).toBe(statements);
    expect([...outcomes].filter(([, status]) => status !== 'ok')).toEqual([[3, 'unknown']]);
    expect([...outcomes.keys()]).toEqual(Array.from({ length: statements }, (_, index) => index + 1));
  }, 60_000);

  test('a statement that runs beside very many others has its own outcome', async () => {
    const statements = JOIN_EVENTS_MAX + 10;
    async function* events(): AsyncGenerator<JournalEvent> {
      yield* generated(statements, { endless: 1 });
      yield { ...ended(1), status: 'cancelled' };
    }
    const all = await collected(joined(events(), events));
    expect(
      all.flatMap((event) => (event.type === 'statement' ? [[event.seq, event.status]] : [])).slice(0, 2),
    ).toEqual([
      [1, 'cancelled'],
      [2, 'ok'],
    ]);
    expect(all.length).toBe(statements + 1);
  }, 60_000);
});

test('a session is read whole while its events move from the journal into parts', async () => {
  using directory = new TemporaryDirectory();
  const dataDir = directory.path;
  const keys = await loadRecordingKeys(dataDir, []);
  const journal = await openJournal({
    dataDir,
    gateway: 'gw',
    keys,
    durability: 'flushed',
    onFailure: 'refuse',
    segmentBytesMax: 4096,
  });
  const storePath = `${dataDir}/store`;
  const pipeline = await Pipeline.make(
    {
      ...pipelineOf(dataDir, 'gw', journal, keys),
      store: { type: 'directory', path: storePath },
      index: 'off',
      sealMs: 0,
    },
    { info: () => {}, error: () => {} },
    false,
  );
  const record = journal.session(sessionStart(newId()));
  const say = (count: number): void => {
    for (let index = 0; index < count; index += 1) {
      const statement = new Statement('query', `SELECT 1 -- ${'x'.repeat(500)}`, 512);
      record.begin(statement);
      record.end(statement);
      journal.flush();
    }
  };
  say(100);
  const report = emptyReport();
  const library = new Library({ store: new DirectoryStore(storePath), dataDir, identities: keys.identities });
  const seqs: number[] = [];
  for await (const event of library.events(record.id, report)) {
    if (event.type !== 'statement_started') continue;
    seqs.push(event.seq);
    if (event.seq === 20 || event.seq === 60) {
      say(50);
      await pipeline.run();
    }
    if (event.seq === 150)
      record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
  }
  expect(seqs).toEqual(Array.from({ length: 200 }, (_, index) => index + 1));
  expect(report).toMatchObject({ faults: [], missing: [], locked: [] });
  await journal.close();
  await pipeline.finish();
});
