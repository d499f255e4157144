import type { DatabaseSync } from 'node:sqlite';
import { IndexError, type IndexRows, type StatementRow } from './recording-index.ts';

/** What `PRAGMA user_version` says of a file with the tables below. */
export const VERSION = 1;

/** Statements of one transaction while a file of the first layout is brought up to date. */
const COPY_ROWS = 5_000;

const SCHEMA = `
  CREATE TABLE sessions (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, gateway TEXT NOT NULL DEFAULT '',
    principal TEXT NOT NULL DEFAULT '', resource TEXT NOT NULL DEFAULT '', engine TEXT NOT NULL DEFAULT '',
    database TEXT, database_user TEXT NOT NULL DEFAULT '', client_address TEXT NOT NULL DEFAULT '',
    client_program TEXT, server_session TEXT, started_at REAL NOT NULL DEFAULT 0, ended_at REAL,
    state TEXT NOT NULL DEFAULT 'live', reason TEXT, statements INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0, denied INTEGER NOT NULL DEFAULT 0, rows_returned INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0, parts INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0,
    risk INTEGER, risk_reason TEXT
  ) STRICT;
  CREATE INDEX sessions_by_start ON sessions (started_at);
  CREATE INDEX sessions_by_end ON sessions (ended_at) WHERE held = 0;
  CREATE INDEX sessions_by_principal ON sessions (principal, started_at);
  CREATE INDEX sessions_by_resource ON sessions (resource, started_at);
  CREATE TABLE texts (
    id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, text TEXT, tables TEXT NOT NULL, effects TEXT NOT NULL,
    risk INTEGER, risk_reason TEXT
  ) STRICT;
  CREATE INDEX texts_by_hash ON texts (hash);
  CREATE INDEX texts_by_risk ON texts (risk) WHERE risk >= 2;
  CREATE VIRTUAL TABLE text_words USING fts5 (
    words, content='', contentless_delete=1, detail=none, tokenize="ascii tokenchars '_$'"
  );
  CREATE TABLE statements (
    session INTEGER NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, text INTEGER NOT NULL,
    status TEXT NOT NULL, rows_returned INTEGER, rows_affected INTEGER, duration_us INTEGER, error_code TEXT,
    PRIMARY KEY (session, seq)
  ) STRICT;
  CREATE INDEX statements_by_time ON statements (at);
  CREATE INDEX statements_by_text ON statements (text);
`;

/** Not new: a file of the first layout has it already. */
const HOLDS = `
  CREATE TABLE IF NOT EXISTS hold_changes (
    id INTEGER PRIMARY KEY, session TEXT NOT NULL, held INTEGER NOT NULL, by TEXT NOT NULL, at REAL NOT NULL
  ) STRICT;
`;

export function versionOf(database: DatabaseSync): number {
  return database.prepare('PRAGMA user_version').get()!['user_version'] as number;
}

/**
 * Makes the tables, or those of the first layout (a text with every statement, with risk or without) into the present
 * ones. `write` adds rows within the transaction. A file of a later version throws an `IndexError`.
 */
export function bringUpToDate(database: DatabaseSync, path: string, write: (rows: IndexRows) => void): void {
  if (versionOf(database) === VERSION) return;
  database.exec('BEGIN IMMEDIATE');
  try {
    const version = versionOf(database);
    if (version > VERSION)
      throw new IndexError(
        'version',
        `${path} was written by a newer version of Sallyport (layout ${version}, known ${VERSION}); without it, an index is made anew`,
      );
    if (version === 0) {
      const first = columnsOf(database, 'statements').length > 0;
      if (first) setAside(database);
      database.exec(SCHEMA + HOLDS);
      if (first) copy(database, write);
    }
    database.exec(`PRAGMA user_version = ${VERSION}; COMMIT`);
  } catch (error) {
    if (database.isTransaction) database.exec('ROLLBACK');
    throw error;
  }
}

function setAside(database: DatabaseSync): void {
  database.exec(`
    DROP TABLE IF EXISTS statement_texts;
    DROP TABLE IF EXISTS statement_tables;
    DROP INDEX IF EXISTS statements_by_time;
    DROP INDEX IF EXISTS sessions_by_start;
    DROP INDEX IF EXISTS sessions_by_end;
    DROP INDEX IF EXISTS sessions_by_principal;
    DROP INDEX IF EXISTS sessions_by_resource;
    ALTER TABLE sessions RENAME TO first_sessions;
    ALTER TABLE statements RENAME TO first_statements;
  `);
}

function copy(database: DatabaseSync, write: (rows: IndexRows) => void): void {
  const columns = columnsOf(database, 'first_sessions').join(', ');
  database.exec(
    `INSERT INTO sessions (${columns}) SELECT ${columns} FROM first_sessions ORDER BY started_at`,
  );
  let statements: StatementRow[] = [];
  for (const row of database.prepare('SELECT * FROM first_statements ORDER BY id').iterate()) {
    const { id: _, tables, effects, ...rest } = row as Record<string, unknown>;
    statements.push({
      risk: null,
      risk_reason: null,
      ...(rest as unknown as Omit<StatementRow, 'tables' | 'effects' | 'risk' | 'risk_reason'>),
      tables: listOf(tables, '\n'),
      effects: listOf(effects, ' '),
    });
    if (statements.length < COPY_ROWS) continue;
    write({ sessions: [], statements });
    statements = [];
  }
  write({ sessions: [], statements });
  database.exec('DROP TABLE first_statements; DROP TABLE first_sessions');
}

function columnsOf(database: DatabaseSync, table: string): string[] {
  const rows = database.prepare('SELECT name FROM pragma_table_info(?)').all(table);
  return rows.map((row) => row['name'] as string);
}

function listOf(text: unknown, separator: string): string[] {
  return typeof text === 'string' && text !== '' ? text.split(separator) : [];
}
