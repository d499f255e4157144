import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { STATEMENT_KINDS, STATEMENT_STATUSES, Statement } from '../../protocols/statement.ts';
import { journalEvents, sessionStart, TemporaryDirectory } from '../../test/support/recording.ts';
import { newId } from '../lib/id.ts';
import { eventSchema, type StatementStartedEvent, timeMs, timeText } from './events.ts';
import { type Journal, type JournalOptions, openJournal } from './journal.ts';
import { loadRecordingKeys } from './keys.ts';
import { readJournal } from './reader.ts';

async function open(
  dataDir: string,
  more: Partial<JournalOptions> = {},
): Promise<{ journal: Journal; identities: readonly string[]; directory: string }> {
  const keys = await loadRecordingKeys(dataDir, []);
  const journal = await openJournal({
    dataDir,
    gateway: 'gw-test',
    keys,
    durability: 'flushed',
    onFailure: 'refuse',
    ...more,
  });
  return { journal, identities: keys.identities, directory: journal.directory };
}

function query(text: string): Statement {
  return new Statement('query', text, Buffer.byteLength(text));
}

/** A small journal of three segments, closed. */
async function small(dataDir: string): Promise<{ identities: readonly string[]; directory: string }> {
  const { journal, identities, directory } = await open(dataDir);
  const record = journal.session(sessionStart(newId()));
  for (let index = 0; index < 3; index += 1) {
    const statement = query(`SELECT ${index}`);
    record.begin(statement);
    await journal.flushed();
    statement.status = 'ok';
    record.end(statement);
    if (index < 2) journal.rotate();
  }
  record.close({ reason: 'client_closed', detail: null, bytesSent: 1, bytesReceived: 2 });
  await journal.close();
  return { identities, directory };
}

describe('what is written can be read', () => {
  const text = fc.string({ unit: 'grapheme', maxLength: 200 });
  const parameter = fc.record(
    {
      name: fc.option(text),
      type: fc.option(text),
      value: fc.oneof(
        text,
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        fc.boolean(),
        fc.constant(null),
      ),
    },
    { requiredKeys: ['name', 'type', 'value'] },
  );
  const statements = fc.array(
    fc.record({
      kind: fc.constantFrom(...STATEMENT_KINDS),
      text: fc.option(text),
      name: fc.option(text),
      parameters: fc.option(fc.array(parameter, { maxLength: 4 })),
      status: fc.constantFrom(...STATEMENT_STATUSES),
      rowsReturned: fc.option(fc.nat()),
      rowsAffected: fc.option(fc.oneof(fc.nat(), fc.bigInt(0n, 2n ** 64n - 1n))),
      tag: fc.option(text),
      columns: fc.option(fc.array(text, { maxLength: 5 })),
      messages: fc.option(fc.array(text, { maxLength: 3 })),
      sample: fc.option(fc.array(fc.array(fc.option(text), { maxLength: 3 }), { maxLength: 3 })),
      error: fc.option(fc.record({ code: text, message: text })),
      returnStatus: fc.option(fc.integer()),
      late: fc.boolean(),
    }),
    { maxLength: 8 },
  );

  test('events come back as they went in, and fit their schemas', async () => {
    await fc.assert(
      fc.asyncProperty(statements, async (cases) => {
        using directory = new TemporaryDirectory();
        const { journal, identities } = await open(directory.path);
        const session = newId();
        const record = journal.session(sessionStart(session));
        for (const wanted of cases) {
          const statement = new Statement(wanted.kind, wanted.text, Buffer.byteLength(wanted.text ?? ''));
          statement.name = wanted.name;
          if (!wanted.late) statement.parameters = wanted.parameters;
          record.begin(statement);
          if (wanted.late) statement.parameters = wanted.parameters;
          Object.assign(statement, {
            status: wanted.status,
            rowsReturned: wanted.rowsReturned,
            rowsAffected: wanted.rowsAffected,
            tag: wanted.tag,
            columns: wanted.columns,
            messages: wanted.messages,
            sample: wanted.sample,
            error: wanted.error,
            returnStatus: wanted.returnStatus,
          });
          record.end(statement);
        }
        record.note({ kind: 'database_changed', database: 'other' });
        record.close({ reason: 'killed', detail: 'by ana', bytesSent: 7, bytesReceived: 8 });
        await journal.close();
        const events = await journalEvents(journal.directory, identities);
        for (const event of events) expect(eventSchema.parse(event)).toEqual(event);
        const started = events.filter((event) => event.type === 'statement_started');
        const ended = events.filter((event) => event.type === 'statement_ended');
        expect(started.length).toBe(cases.length);
        cases.forEach((wanted, index) => {
          const start = started[index]!;
          const end = ended[index]!;
          expect(start).toMatchObject({
            session,
            seq: index + 1,
            kind: wanted.kind,
            text: wanted.text,
            name: wanted.name,
          });
          const parameters =
            wanted.late && (wanted.parameters?.length ?? 0) > 0 ? end.parameters : start.parameters;
          if (!wanted.late || (wanted.parameters?.length ?? 0) > 0)
            expect(parameters).toEqual(wanted.parameters);
          expect(end).toMatchObject({
            seq: index + 1,
            status: wanted.status,
            rows_returned: wanted.rowsReturned,
            rows_affected:
              typeof wanted.rowsAffected === 'bigint' ? String(wanted.rowsAffected) : wanted.rowsAffected,
            tag: wanted.tag,
            columns: wanted.columns,
            messages: wanted.messages,
            sample: wanted.sample,
            error: wanted.error,
            return_status: wanted.returnStatus,
          });
        });
        expect(events.at(-2)).toMatchObject({
          type: 'session_ended',
          reason: 'killed',
          statements: cases.length,
        });
      }),
      { numRuns: 40 },
    );
  });

  test('times keep their microseconds', () => {
    expect(timeText(Date.UTC(2026, 10, 24, 10, 0, 0) + 123.456789)).toBe('2026-11-24T10:00:00.123456Z');
    expect(timeMs('2026-11-24T10:00:00.123456Z')).toBeCloseTo(Date.UTC(2026, 10, 24, 10, 0, 0) + 123.456, 3);
  });

  test('the SHA-256 of a text is there for readers, and was given by the observer where the text was cut', async () => {
    using directory = new TemporaryDirectory();
    const { journal, identities } = await open(directory.path);
    const record = journal.session(sessionStart(newId()));
    record.begin(query('SELECT 1'));
    const cut = new Statement('query', 'SELECT', 3_000_000);
    record.begin(cut);
    cut.textSha256 = 'ab'.repeat(32);
    record.end(cut);
    await journal.close();
    const events = await journalEvents(journal.directory, identities);
    const [first, second] = events.filter((event) => event.type === 'statement_started');
    expect(first!.text_sha256).toBe('e004ebd5b5532a4b85984a62f8ad48a81aa3460c1ca07701f386135d72cdecf5');
    expect(second!.text_sha256).toBeNull();
    expect(events.find((event) => event.type === 'statement_ended')).toMatchObject({
      text_sha256: 'ab'.repeat(32),
      text_bytes: 3_000_000,
    });
  });

  test('two sessions of one turn share one write, and both are on disk when they are told', async () => {
    using directory = new TemporaryDirectory();
    const { journal, identities } = await open(directory.path);
    const records = [journal.session(sessionStart(newId())), journal.session(sessionStart(newId()))];
    await journal.flushed();
    const before = (await readJournal(journal.directory, identities)).batches;
    const told: number[] = [];
    await Promise.all(
      records.map(
        (record, index) =>
          new Promise<void>((resolve) => {
            record.begin(query(`SELECT ${index}`));
            journal.afterWrite({
              written() {
                told.push(journal.position!.offset);
                resolve();
              },
            });
            expect(told).toEqual([]);
          }),
      ),
    );
    const path = join(
      journal.directory,
      readdirSync(journal.directory).find((name) => name.endsWith('.journal'))!,
    );
    expect(told).toEqual([statSync(path).size, statSync(path).size]);
    expect((await readJournal(journal.directory, identities)).batches).toBe(before + 1);
    await journal.close();
  });

  test.each(['flushed', 'synced', 'buffered'] as const)(
    '%s: who waits is told, and nothing is lost at close',
    async (durability) => {
      using directory = new TemporaryDirectory();
      const { journal, identities } = await open(directory.path, { durability, segmentBytesMax: 4096 });
      const record = journal.session(sessionStart(newId()));
      for (let index = 0; index < 50; index += 1) {
        record.begin(query(`SELECT ${index} ${'x'.repeat(100)}`));
        await new Promise<void>((resolve) => journal.afterWrite({ written: resolve }));
      }
      await journal.flushed();
      await journal.close();
      const report = await readJournal(journal.directory, identities);
      expect(report).toMatchObject({ damaged: [], torn: [] });
      expect(report.segments).toBeGreaterThan(1);
      const started = (await journalEvents(journal.directory, identities)).filter(
        (event) => event.type === 'statement_started',
      );
      expect(started.length).toBe(50);
    },
  );

  test('an end that nobody waits for is written soon', async () => {
    using directory = new TemporaryDirectory();
    const { journal, identities } = await open(directory.path);
    const record = journal.session(sessionStart(newId()));
    const statement = query('SELECT 1');
    record.begin(statement);
    await journal.flushed();
    record.end(statement);
    await expect
      .poll(async () => (await journalEvents(journal.directory, identities)).map(({ type }) => type), {
        timeout: 5000,
      })
      .toContain('statement_ended');
    await journal.close();
  });
});

describe('what the disk shows', () => {
  test('files are for their owner alone, and hold no statement in the clear', async () => {
    using directory = new TemporaryDirectory();
    const { directory: journal } = await small(directory.path);
    expect(statSync(journal).mode & 0o777).toBe(0o700);
    expect(statSync(join(directory.path, 'recording.key')).mode & 0o777).toBe(0o600);
    for (const name of readdirSync(journal)) {
      expect(statSync(join(journal, name)).mode & 0o777).toBe(0o600);
      const bytes = readFileSync(join(journal, name)).toString('latin1');
      for (const clear of ['SELECT', 'ana', 'orders', 'psql']) expect(bytes).not.toContain(clear);
    }
  });

  test('only a recipient can read', async () => {
    using directory = new TemporaryDirectory();
    const reviewers = [await generateX25519Identity(), await generateX25519Identity()];
    const recipients = await Promise.all(reviewers.map((identity) => identityToRecipient(identity)));
    const { journal } = await open(directory.path, { keys: { recipients, identities: [] } });
    journal.session(sessionStart(newId()));
    await journal.close();
    for (const identity of reviewers)
      expect((await readJournal(journal.directory, [identity])).events).toBeGreaterThan(1);
    const stranger = await generateX25519Identity();
    expect(await readJournal(journal.directory, [stranger])).toMatchObject({
      events: 0,
      locked: [journal.boot],
    });
  });

  test('every flipped bit is found, and no altered event is given', async () => {
    using directory = new TemporaryDirectory();
    const { identities, directory: journal } = await small(directory.path);
    const truth = (await journalEvents(journal, identities)).map((event) => JSON.stringify(event));
    const names = readdirSync(journal).filter((name) => name.endsWith('.journal'));
    expect(names.length).toBe(3);
    let flips = 0;
    for (const name of names) {
      const path = join(journal, name);
      const bytes = readFileSync(path);
      const clear = bytes.readUInt32LE(8) + 12;
      // The clear header is long and each open of it unwraps a key: there, a bit every few bytes.
      for (let at = 0; at < bytes.length; at += at < clear ? 41 : 3) {
        const altered = Buffer.from(bytes);
        altered[at]! ^= 1 << (at % 8);
        writeFileSync(path, altered);
        const seen: string[] = [];
        const report = await readJournal(journal, identities, (event, { verified }) => {
          if (verified) seen.push(JSON.stringify(event));
        });
        const found = report.damaged.length + report.torn.length + report.locked.length;
        expect(found, `bit at ${at} of ${name}`).toBeGreaterThan(0);
        for (const event of seen) expect(truth).toContain(event);
        flips += 1;
      }
      writeFileSync(path, bytes);
    }
    expect(flips).toBeGreaterThan(300);
  }, 120_000);

  test('a journal cut at any byte gives every whole batch before the cut', async () => {
    using directory = new TemporaryDirectory();
    const { identities, directory: journal } = await small(directory.path);
    const name = readdirSync(journal)
      .filter((file) => file.endsWith('.journal'))
      .at(-1)!;
    const path = join(journal, name);
    const bytes = readFileSync(path);
    const clear = bytes.readUInt32LE(8) + 12;
    const ends = [clear];
    await readJournal(journal, identities, (_, { position }) => {
      if (position.segment === 3 && !ends.includes(position.offset)) ends.push(position.offset);
    });
    for (let length = bytes.length - 1; length >= clear; length -= 1) {
      writeFileSync(path, bytes.subarray(0, length));
      let verified = 0;
      const offsets = new Set<number>();
      const report = await readJournal(journal, identities, (_, where) => {
        if (where.position.segment !== 3 || !where.verified) return;
        verified += 1;
        offsets.add(where.position.offset);
      });
      expect(report.damaged).toEqual([]);
      const atBoundary = ends.includes(length);
      expect(report.torn.length).toBe(atBoundary ? 0 : 1);
      if (length > clear && ends.length > 1 && length >= ends[1]!) expect(verified).toBeGreaterThan(0);
    }
  }, 120_000);

  test('a removed, swapped or doubled batch is found', async () => {
    using directory = new TemporaryDirectory();
    const { journal, identities } = await open(directory.path);
    const record = journal.session(sessionStart(newId()));
    for (let index = 0; index < 5; index += 1) {
      record.begin(query(`SELECT ${index}`));
      await journal.flushed();
    }
    await journal.close();
    const [name] = readdirSync(journal.directory).filter((file) => file.endsWith('.journal'));
    const path = join(journal.directory, name!);
    const bytes = readFileSync(path);
    const offsets = new Set<number>();
    await readJournal(journal.directory, identities, (_, { position }) => offsets.add(position.offset));
    const cuts = [...offsets, bytes.length];
    const head = bytes.subarray(0, cuts[0]);
    const batches = cuts.slice(1).map((end, index) => bytes.subarray(cuts[index], end));
    expect(batches.length).toBeGreaterThan(5);
    for (let at = 0; at + 2 < batches.length; at += 1) {
      const [one, two] = [batches[at]!, batches[at + 1]!];
      for (const middle of [[two], [two, one], [one, one, two]]) {
        writeFileSync(
          path,
          Buffer.concat([head, ...batches.slice(0, at), ...middle, ...batches.slice(at + 2)]),
        );
        const report = await readJournal(journal.directory, identities);
        expect(report.damaged.length + report.torn.length).toBeGreaterThan(0);
        expect(report.batches).toBeLessThanOrEqual(at + 1);
      }
    }
  });

  test('a removed, swapped or renamed segment is found', async () => {
    using directory = new TemporaryDirectory();
    const { identities, directory: journal } = await small(directory.path);
    const names = readdirSync(journal).filter((name) => name.endsWith('.journal'));
    const copy = join(directory.path, 'copy');
    const restore = (): void => {
      rmSync(copy, { recursive: true, force: true });
      mkdirSync(copy);
      for (const name of names) copyFileSync(join(journal, name), join(copy, name));
    };
    const [first, second, third] = names.map((name) => join(copy, name)) as [string, string, string];
    restore();
    rmSync(second);
    expect((await readJournal(copy, identities)).damaged[0]!.reason).toMatch(/removed/);
    restore();
    renameSync(first, `${first}.x`);
    renameSync(second, first);
    renameSync(`${first}.x`, second);
    expect((await readJournal(copy, identities)).damaged[0]!.reason).toMatch(/renamed/);
    restore();
    copyFileSync(second, third);
    expect((await readJournal(copy, identities)).damaged[0]!.reason).toMatch(/renamed/);
  });

  test('a second process cannot use the same directory', async () => {
    using directory = new TemporaryDirectory();
    const { journal } = await open(directory.path);
    await expect(open(directory.path)).rejects.toThrow(/in use by process/);
    await journal.close();
    const again = await open(directory.path);
    await again.journal.close();
  });
});

describe('when the process or the disk fails', () => {
  function start(dataDir: string, ...args: string[]): { child: ChildProcess; lines: string[] } {
    const child = spawn(process.execPath, ['test/support/journal-writer.ts', dataDir, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const lines: string[] = [];
    createInterface({ input: child.stdout! }).on('line', (line) => lines.push(line));
    return { child, lines };
  }

  async function end(child: ChildProcess): Promise<void> {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGKILL');
      await once(child, 'close');
    }
  }

  test.each(['flushed', 'synced'] as const)(
    '%s: what was promised survives kill -9',
    async (durability) => {
      for (let round = 0; round < 3; round += 1) {
        using directory = new TemporaryDirectory();
        const { child, lines } = start(directory.path, durability, 'refuse', '5', '0');
        await expect.poll(() => lines.length, { timeout: 20_000 }).toBeGreaterThan(200 + round * 150);
        child.kill('SIGKILL');
        await once(child, 'close');
        const { identities } = await loadRecordingKeys(directory.path, []);
        const starts = new Set<string>();
        const report = await readJournal(join(directory.path, 'journal'), identities, (event) => {
          if (event.type === 'statement_started') starts.add(`written ${event.session} ${event.seq}`);
        });
        expect(report.damaged).toEqual([]);
        expect(lines.filter((line) => line.startsWith('written') && !starts.has(line))).toEqual([]);
        // The lock of the dead holds nobody up.
        const next = await open(directory.path);
        await next.journal.close();
      }
    },
    60_000,
  );

  test('disk full, refuse: nobody is told, new sessions are refused, and all goes on when there is room', async () => {
    using directory = new TemporaryDirectory();
    const { child, lines } = start(directory.path, 'flushed', 'refuse', '3', '1');
    try {
      await expect.poll(() => lines.length, { timeout: 20_000 }).toBeGreaterThan(50);
      execFileSync('prlimit', [`--pid=${child.pid}`, '--fsize=0:']);
      await expect
        .poll(() => lines.find((line) => line.startsWith('failed')), { timeout: 10_000 })
        .toBe('failed EFBIG');
      const written = lines.filter((line) => line.startsWith('written')).length;
      child.stdin!.write('session\n');
      await expect
        .poll(() => lines.at(-1), { timeout: 10_000 })
        .toBe('session refused: the journal cannot be written');
      expect(lines.filter((line) => line.startsWith('written')).length).toBe(written);
      execFileSync('prlimit', [`--pid=${child.pid}`, '--fsize=unlimited:']);
      await expect
        .poll(
          () => {
            child.stdin!.write('session\n');
            return lines.at(-1);
          },
          { timeout: 20_000, interval: 200 },
        )
        .toBe('session accepted');
      child.stdin!.end();
      await once(child, 'close');
      const { identities } = await loadRecordingKeys(directory.path, []);
      const events = await journalEvents(join(directory.path, 'journal'), identities);
      expect((await readJournal(join(directory.path, 'journal'), identities)).damaged).toEqual([]);
      expect(events.filter((event) => event.type === 'gap')).toMatchObject([{ events: 0, reason: 'EFBIG' }]);
      // What could not be written was kept: the three statements that were never forwarded are on record too.
      const starts = events.filter(
        (event): event is StatementStartedEvent => event.type === 'statement_started',
      );
      expect(starts.length).toBe(written + 3);
    } finally {
      await end(child);
    }
  }, 60_000);

  test('disk full, continue: sessions go on, and the gap is on record', async () => {
    using directory = new TemporaryDirectory();
    const { child, lines } = start(directory.path, 'flushed', 'continue', '3', '1');
    try {
      await expect.poll(() => lines.length, { timeout: 20_000 }).toBeGreaterThan(50);
      execFileSync('prlimit', [`--pid=${child.pid}`, '--fsize=0:']);
      await expect
        .poll(() => lines.find((line) => line.startsWith('failed')), { timeout: 10_000 })
        .toBe('failed EFBIG');
      const before = lines.length;
      await expect.poll(() => lines.length, { timeout: 10_000 }).toBeGreaterThan(before + 50);
      execFileSync('prlimit', [`--pid=${child.pid}`, '--fsize=unlimited:']);
      await expect
        .poll(
          async () => {
            const { identities } = await loadRecordingKeys(directory.path, []);
            const events = await journalEvents(join(directory.path, 'journal'), identities);
            return events.filter((event) => event.type === 'gap').length;
          },
          { timeout: 20_000, interval: 300 },
        )
        .toBe(1);
    } finally {
      await end(child);
    }
    const { identities } = await loadRecordingKeys(directory.path, []);
    const starts = new Set<string>();
    await readJournal(join(directory.path, 'journal'), identities, (event) => {
      if (event.type === 'statement_started') starts.add(`written ${event.session} ${event.seq}`);
    });
    expect(lines.filter((line) => line.startsWith('written') && !starts.has(line))).toEqual([]);
  }, 60_000);
});
