import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, expect, test } from 'vitest';
import { indexContract, sessionPatch, statementRow } from '../../test/support/index-contract.ts';
import { TemporaryDirectory } from '../../test/support/recording.ts';
import { newId } from '../lib/id.ts';
import { SqliteRecordingIndex } from './recording-index-sqlite.ts';

describe('an index in SQLite', () => {
  indexContract(async () => new SqliteRecordingIndex(':memory:'));
});

/** The first layout: a text with every statement. Risk came later, by `ALTER TABLE`. */
const FIRST_LAYOUT = `
  CREATE TABLE sessions (
    id TEXT PRIMARY KEY, gateway TEXT NOT NULL DEFAULT '', principal TEXT NOT NULL DEFAULT '',
    resource TEXT NOT NULL DEFAULT '', engine TEXT NOT NULL DEFAULT '', database TEXT,
    database_user TEXT NOT NULL DEFAULT '', client_address TEXT NOT NULL DEFAULT '', client_program TEXT,
    server_session TEXT, started_at REAL NOT NULL DEFAULT 0, ended_at REAL, state TEXT NOT NULL DEFAULT 'live',
    reason TEXT, statements INTEGER NOT NULL DEFAULT 0, errors INTEGER NOT NULL DEFAULT 0,
    denied INTEGER NOT NULL DEFAULT 0, rows_returned INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    parts INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0
  ) STRICT;
  CREATE INDEX sessions_by_start ON sessions (started_at);
  CREATE INDEX sessions_by_end ON sessions (ended_at) WHERE held = 0;
  CREATE INDEX sessions_by_principal ON sessions (principal, started_at);
  CREATE INDEX sessions_by_resource ON sessions (resource, started_at);
  CREATE TABLE statements (
    id INTEGER PRIMARY KEY, session TEXT NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
    text TEXT, status TEXT NOT NULL, rows_returned INTEGER, rows_affected INTEGER, duration_us INTEGER,
    error_code TEXT, effects TEXT NOT NULL DEFAULT '', tables TEXT NOT NULL DEFAULT '', UNIQUE (session, seq)
  ) STRICT;
  CREATE INDEX statements_by_time ON statements (at);
  CREATE TABLE statement_tables (
    name TEXT NOT NULL, statement INTEGER NOT NULL, PRIMARY KEY (name, statement)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE hold_changes (
    id INTEGER PRIMARY KEY, session TEXT NOT NULL, held INTEGER NOT NULL, by TEXT NOT NULL, at REAL NOT NULL
  ) STRICT;
  CREATE VIRTUAL TABLE statement_texts USING fts5 (
    text, content='statements', content_rowid='id', tokenize="unicode61 tokenchars '_$'"
  );
`;
const FIRST_RISK = ['sessions', 'statements']
  .flatMap((name) =>
    ['risk INTEGER', 'risk_reason TEXT'].map((column) => `ALTER TABLE ${name} ADD COLUMN ${column};`),
  )
  .join('');

function firstLayout(path: string, risk: boolean): void {
  const database = new DatabaseSync(path);
  database.exec(`${FIRST_LAYOUT}${risk ? FIRST_RISK : ''}; BEGIN`);
  database.exec(`
    INSERT INTO sessions (id, principal, started_at, ended_at, state, statements, held)
      VALUES ('A', 'ana', 10, 20, 'ended', 2, 1), ('B', 'ben', 5, 6, 'ended', 1, 0);
    INSERT INTO hold_changes (session, held, by, at) VALUES ('A', 1, 'root', 30);
  `);
  const insert = database.prepare(
    'INSERT INTO statements (session, seq, at, kind, text, status, tables, effects) VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
  );
  for (let seq = 1; seq <= 12_000; seq += 1)
    insert.run(
      'A',
      seq,
      10 + seq,
      'query',
      `SELECT ${seq} FROM customers`,
      'ok',
      'customers\nsales.x',
      'read write',
    );
  insert.run('B', 1, 5, 'rpc', null, 'error', '', '');
  if (risk)
    database.exec(`
      UPDATE statements SET risk = 3, risk_reason = 'reason' WHERE seq = 2;
      UPDATE sessions SET risk = 3, risk_reason = 'reason' WHERE id = 'A'`);
  database.exec('COMMIT');
  database.close();
}

describe('a file of the first layout', () => {
  test.each([[true], [false]])('is brought up to date, with risk: %s', async (risk) => {
    using directory = new TemporaryDirectory();
    const path = join(directory.path, 'recordings.sqlite');
    firstLayout(path, risk);
    expect(() => new SqliteRecordingIndex(path, { readOnly: true })).toThrow(/another version/);
    expect(() => new SqliteRecordingIndex(path, { keepVersion: true })).toThrow(/another version/);
    const index = new SqliteRecordingIndex(path);
    expect((await index.search({ limit: 20_000 })).length).toBe(10_000);
    expect(await index.search({ limit: 10, text: '2 customers', seq: 2 })).toEqual([
      {
        session: 'A',
        seq: 2,
        at: 12,
        kind: 'query',
        text: 'SELECT 2 FROM customers',
        status: 'ok',
        rows_returned: null,
        rows_affected: null,
        duration_us: null,
        error_code: null,
        tables: ['customers', 'sales.x'],
        effects: ['read', 'write'],
        risk: risk ? 3 : null,
        risk_reason: risk ? 'reason' : null,
      },
    ]);
    expect((await index.search({ limit: 10, table: 'x', session: 'A', seq: 7 })).length).toBe(1);
    expect((await index.search({ limit: 10, riskMin: 0 })).map(({ seq }) => seq)).toEqual(risk ? [2] : []);
    expect((await index.search({ limit: 10, principal: 'ben' })).map(({ status }) => status)).toEqual([
      'error',
    ]);
    expect((await index.sessions({ limit: 10 })).map(({ id, held }) => ({ id, held }))).toEqual([
      { id: 'A', held: 1 },
      { id: 'B', held: 0 },
    ]);
    const changes: string[] = [];
    await index.recordHolds((given) => void changes.push(...given.map(({ by }) => by)));
    expect(changes).toEqual(['root']);
    await index.remove('A');
    expect((await index.search({ limit: 10, text: 'select' })).length).toBe(0);
    await index.close();
    const reader = new SqliteRecordingIndex(path, { readOnly: true });
    expect((await reader.sessions({ limit: 10 })).map(({ id }) => id)).toEqual(['B']);
    await reader.close();
  });

  test('one of a later version is refused and left alone', () => {
    using directory = new TemporaryDirectory();
    const path = join(directory.path, 'recordings.sqlite');
    const database = new DatabaseSync(path);
    database.exec('PRAGMA user_version = 99');
    database.close();
    expect(() => new SqliteRecordingIndex(path)).toThrow(/newer version/);
  });
});

describe('what is kept', () => {
  test('a text is kept once, whoever runs it however often, and only its owner may read the file', async () => {
    using directory = new TemporaryDirectory();
    const path = join(directory.path, 'data', 'recordings.sqlite');
    const index = new SqliteRecordingIndex(path);
    const ids = [newId(), newId()];
    await index.write({
      sessions: ids.map((id) => sessionPatch(id)),
      statements: ids.flatMap((id) =>
        Array.from({ length: 500 }, (_, seq) => statementRow(id, seq, { text: 'SELECT $1', tables: ['t'] })),
      ),
    });
    await index.close();
    // Another process does not know what the first had in memory.
    const again = new SqliteRecordingIndex(path);
    await again.write({
      sessions: [],
      statements: [statementRow(ids[0]!, 501, { text: 'SELECT $1', tables: ['t'] })],
    });
    const database = new DatabaseSync(path, { readOnly: true });
    const count = (table: string): number =>
      Number(database.prepare(`SELECT count(*) AS n FROM ${table}`).get()!['n']);
    expect(count('texts')).toBe(1);
    expect(count('statements')).toBe(1001);
    await again.remove(ids[0]!);
    expect(count('texts')).toBe(1);
    await again.remove(ids[1]!);
    expect([count('texts'), count('statements'), count('sessions')]).toEqual([0, 0, 0]);
    database.close();
    await again.close();
    expect(existsSync(path)).toBe(true);
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  test('two processes write to one file, and neither trusts what it remembers', async () => {
    using directory = new TemporaryDirectory();
    const path = join(directory.path, 'recordings.sqlite');
    const [one, two] = [new SqliteRecordingIndex(path), new SqliteRecordingIndex(path)];
    const id = newId();
    const rows = { sessions: [sessionPatch(id)], statements: [statementRow(id, 1), statementRow(id, 2)] };
    await one.write(rows);
    await one.write(rows);
    await two.remove(id);
    await two.write({ sessions: [sessionPatch(newId())], statements: [] });
    await one.write(rows);
    expect((await two.search({ limit: 10, session: id })).map(({ text }) => text)).toEqual([
      'SELECT 2',
      'SELECT 1',
    ]);
    await one.close();
    await two.close();
  });
});
