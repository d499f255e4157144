import { chmodSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';

/**
 * What of the recordings can be searched: sessions, and of their statements the fields one asks by. An index and no
 * record: it can be deleted and made anew from the recordings, and nothing is proved by it.
 *
 * It holds statement texts in the clear. Where the gateway's disk must show nothing, it is kept to sessions.
 */
export interface RecordingIndex {
  /** Adds rows; those that are there already are replaced. All or none. */
  write(rows: IndexRows): void;
  sessions(filter: SessionFilter): SessionRow[];
  session(id: string): SessionRow | null;
  search(filter: StatementFilter): StatementRow[];
  /** Sessions not under legal hold that ended before `time`, the oldest first. */
  endedBefore(time: number, limit: number): SessionRow[];
  /**
   * Sets or lifts the legal hold of a session, and keeps that `by` did so until the gateway has put it on record; false
   * when the session is not in the index.
   */
  hold(session: string, held: boolean, by: string): boolean;
  /** What `hold` did that is not yet on record, in order. */
  holdChanges(): HoldChange[];
  /** These and all before are on record. */
  holdsRecorded(id: number): void;
  remove(session: string): void;
  /** Marks what a gateway left open in runs before `boot` as interrupted. */
  interrupt(gateway: string, boot: string): void;
  /** Bytes and sessions by resource. */
  sizes(): { resource: string; sessions: number; bytes: number }[];
  close(): void;
}

export interface HoldChange {
  readonly id: number;
  readonly session: string;
  readonly resource: string;
  readonly held: number;
  readonly by: string;
  /** Milliseconds since the epoch. */
  readonly at: number;
}

export interface IndexRows {
  readonly sessions: readonly SessionPatch[];
  readonly statements: readonly StatementRow[];
}

export type SessionStateName = 'live' | 'ended' | 'interrupted';

export interface SessionRow {
  readonly id: string;
  readonly gateway: string;
  readonly principal: string;
  readonly resource: string;
  readonly engine: string;
  readonly database: string | null;
  readonly database_user: string;
  readonly client_address: string;
  readonly client_program: string | null;
  readonly server_session: string | null;
  /** Milliseconds since the epoch. */
  readonly started_at: number;
  readonly ended_at: number | null;
  readonly state: SessionStateName;
  readonly reason: string | null;
  readonly statements: number;
  readonly errors: number;
  readonly denied: number;
  readonly rows_returned: number;
  /** Of the sealed parts. */
  readonly bytes: number;
  readonly parts: number;
  readonly held: number;
  /** The highest of its statements, as a place in `RISKS`; null where it was indexed before risk was judged. */
  readonly risk: number | null;
  readonly risk_reason: string | null;
}

/** `add` fields grow by what is given, the others are set where they are given. */
export interface SessionPatch {
  readonly id: string;
  readonly set: Partial<Omit<SessionRow, 'id' | 'held'>>;
  readonly add: Partial<
    Record<'statements' | 'errors' | 'denied' | 'rows_returned' | 'bytes' | 'parts', number>
  >;
  /** Raises the session's risk to this, where it is lower. After `set`. */
  readonly raise?: { readonly risk: number; readonly risk_reason: string | null };
}

export interface StatementRow {
  readonly session: string;
  readonly seq: number;
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly kind: string;
  readonly text: string | null;
  readonly status: string;
  readonly rows_returned: number | null;
  readonly rows_affected: number | null;
  readonly duration_us: number | null;
  readonly error_code: string | null;
  /** Tables touched, lower case, as the text names them. */
  readonly tables: readonly string[];
  readonly effects: readonly string[];
  /** A place in `RISKS`; null where it was indexed before risk was judged. */
  readonly risk: number | null;
  readonly risk_reason: string | null;
}

export interface SessionFilter {
  readonly principal?: string;
  readonly resource?: string;
  readonly engine?: string;
  readonly state?: SessionStateName;
  readonly reason?: string;
  /** At least so risky: of sessions their riskiest statement, of statements themselves. A place in `RISKS`. */
  readonly riskMin?: number;
  readonly since?: number;
  readonly until?: number;
  readonly limit: number;
  readonly offset?: number;
}

export interface StatementFilter extends SessionFilter {
  readonly session?: string;
  readonly seq?: number;
  /** Words that the text must hold, all of them. */
  readonly text?: string;
  readonly table?: string;
  readonly effect?: string;
  readonly status?: string;
  readonly rowsMin?: number;
  readonly durationMsMin?: number;
}

/** Text kept per statement; the rest is in the recording. */
const TEXT_CHARACTERS_MAX = 16 * 1024;
export const RESULTS_MAX = 10_000;

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, gateway TEXT NOT NULL DEFAULT '', principal TEXT NOT NULL DEFAULT '',
    resource TEXT NOT NULL DEFAULT '', engine TEXT NOT NULL DEFAULT '', database TEXT,
    database_user TEXT NOT NULL DEFAULT '', client_address TEXT NOT NULL DEFAULT '', client_program TEXT,
    server_session TEXT, started_at REAL NOT NULL DEFAULT 0, ended_at REAL, state TEXT NOT NULL DEFAULT 'live',
    reason TEXT, statements INTEGER NOT NULL DEFAULT 0, errors INTEGER NOT NULL DEFAULT 0,
    denied INTEGER NOT NULL DEFAULT 0, rows_returned INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
    parts INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0
  ) STRICT;
  CREATE INDEX IF NOT EXISTS sessions_by_start ON sessions (started_at);
  CREATE INDEX IF NOT EXISTS sessions_by_end ON sessions (ended_at) WHERE held = 0;
  CREATE INDEX IF NOT EXISTS sessions_by_principal ON sessions (principal, started_at);
  CREATE INDEX IF NOT EXISTS sessions_by_resource ON sessions (resource, started_at);
  CREATE TABLE IF NOT EXISTS statements (
    id INTEGER PRIMARY KEY, session TEXT NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
    text TEXT, status TEXT NOT NULL, rows_returned INTEGER, rows_affected INTEGER, duration_us INTEGER,
    error_code TEXT, effects TEXT NOT NULL DEFAULT '', tables TEXT NOT NULL DEFAULT '', UNIQUE (session, seq)
  ) STRICT;
  CREATE INDEX IF NOT EXISTS statements_by_time ON statements (at);
  CREATE TABLE IF NOT EXISTS statement_tables (
    name TEXT NOT NULL, statement INTEGER NOT NULL, PRIMARY KEY (name, statement)
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS hold_changes (
    id INTEGER PRIMARY KEY, session TEXT NOT NULL, held INTEGER NOT NULL, by TEXT NOT NULL, at REAL NOT NULL
  ) STRICT;
  CREATE VIRTUAL TABLE IF NOT EXISTS statement_texts USING fts5 (
    text, content='statements', content_rowid='id', tokenize="unicode61 tokenchars '_$'"
  );
`;

/** Columns that came later: added to an index that has none of them. */
const RISK_COLUMNS = ['risk INTEGER', 'risk_reason TEXT'];

/** The index in a SQLite file of this process and of the commands that read it (WAL). */
export class SqliteRecordingIndex implements RecordingIndex {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

  /** Throws what SQLite throws. The file is for its owner alone (mode 0600). */
  constructor(path: string, options: { readOnly?: boolean } = {}) {
    const inMemory = path === ':memory:';
    if (options.readOnly !== true && !inMemory) mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    this.#database = new DatabaseSync(path, { readOnly: options.readOnly ?? false, timeout: 5000 });
    if (options.readOnly === true) return;
    if (!inMemory) chmodSync(path, 0o600);
    this.#database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;');
    this.#database.exec(SCHEMA);
    for (const name of ['sessions', 'statements']) {
      if (this.#hasRisk(name)) continue;
      for (const column of RISK_COLUMNS) this.#database.exec(`ALTER TABLE ${name} ADD COLUMN ${column}`);
    }
  }

  write({ sessions, statements }: IndexRows): void {
    this.#database.exec('BEGIN IMMEDIATE');
    try {
      for (const patch of sessions) this.#patch(patch);
      for (const row of statements) this.#insert(row);
      this.#database.exec('COMMIT');
    } catch (error) {
      this.#database.exec('ROLLBACK');
      throw error;
    }
  }

  sessions(filter: SessionFilter): SessionRow[] {
    this.#requireRisk(filter);
    const { where, values } = sessionWhere(filter);
    const sql = `SELECT s.* FROM sessions s ${where} ORDER BY s.started_at DESC, s.id DESC LIMIT ? OFFSET ?`;
    return this.#all(sql, [...values, limitOf(filter), filter.offset ?? 0]) as unknown as SessionRow[];
  }

  session(id: string): SessionRow | null {
    return (this.#all('SELECT * FROM sessions WHERE id = ?', [id])[0] as unknown as SessionRow) ?? null;
  }

  search(filter: StatementFilter): StatementRow[] {
    this.#requireRisk(filter);
    const { where, values } = statementWhere(filter);
    const sql = `
      SELECT t.* FROM statements t JOIN sessions s ON s.id = t.session ${where}
      ORDER BY t.at DESC, t.seq DESC LIMIT ? OFFSET ?`;
    return this.#all(sql, [...values, limitOf(filter), filter.offset ?? 0]).map((row) => {
      const { id: _, tables, effects, ...rest } = row as Record<string, unknown>;
      return {
        ...(rest as unknown as StatementRow),
        tables: listOf(tables, '\n'),
        effects: listOf(effects, ' '),
      };
    });
  }

  endedBefore(time: number, limit: number): SessionRow[] {
    const sql = 'SELECT * FROM sessions WHERE ended_at < ? AND held = 0 ORDER BY ended_at LIMIT ?';
    return this.#all(sql, [time, limit]) as unknown as SessionRow[];
  }

  hold(session: string, held: boolean, by: string): boolean {
    const value = held ? 1 : 0;
    this.#database.exec('BEGIN IMMEDIATE');
    try {
      const sql = 'UPDATE sessions SET held = ? WHERE id = ?';
      const known = this.#prepare(sql).run(value, session).changes === 1;
      if (known) {
        const change = 'INSERT INTO hold_changes (session, held, by, at) VALUES (?, ?, ?, ?)';
        this.#prepare(change).run(session, value, by, Date.now());
      }
      this.#database.exec('COMMIT');
      return known;
    } catch (error) {
      this.#database.exec('ROLLBACK');
      throw error;
    }
  }

  holdChanges(): HoldChange[] {
    const sql = `
      SELECT c.*, coalesce(s.resource, '') AS resource
      FROM hold_changes c LEFT JOIN sessions s ON s.id = c.session ORDER BY c.id LIMIT 1000`;
    return this.#all(sql, []) as unknown as HoldChange[];
  }

  holdsRecorded(id: number): void {
    this.#prepare('DELETE FROM hold_changes WHERE id <= ?').run(id);
  }

  remove(session: string): void {
    this.#database.exec('BEGIN IMMEDIATE');
    try {
      const ids = this.#all('SELECT id, text, tables FROM statements WHERE session = ?', [session]);
      for (const row of ids) this.#forget(row);
      this.#prepare('DELETE FROM statements WHERE session = ?').run(session);
      this.#prepare('DELETE FROM sessions WHERE id = ?').run(session);
      this.#database.exec('COMMIT');
    } catch (error) {
      this.#database.exec('ROLLBACK');
      throw error;
    }
  }

  interrupt(gateway: string, boot: string): void {
    this.#prepare(
      `UPDATE sessions SET state = 'interrupted', reason = 'interrupted', ended_at = started_at
       WHERE state = 'live' AND gateway = ? AND id < ?`,
    ).run(gateway, boot);
  }

  sizes(): { resource: string; sessions: number; bytes: number }[] {
    return this.#all(
      'SELECT resource, count(*) AS sessions, sum(bytes) AS bytes FROM sessions GROUP BY resource ORDER BY bytes DESC',
      [],
    ) as { resource: string; sessions: number; bytes: number }[];
  }

  close(): void {
    this.#database.close();
  }

  #hasRisk(name: string): boolean {
    return (
      this.#database.prepare('SELECT 1 FROM pragma_table_info(?) WHERE name = ?').get(name, 'risk') !==
      undefined
    );
  }

  #requireRisk({ riskMin }: SessionFilter): void {
    if (riskMin !== undefined && !this.#hasRisk('sessions'))
      throw new Error(
        'this index was made before risk was judged: the gateway brings it up to date at its next start',
      );
  }

  #patch({ id, set, add, raise }: SessionPatch): void {
    this.#prepare('INSERT OR IGNORE INTO sessions (id) VALUES (?)').run(id);
    this.#set(id, set, add);
    if (raise === undefined) return;
    this.#prepare(
      'UPDATE sessions SET risk = ?, risk_reason = ? WHERE id = ? AND coalesce(risk, -1) < ?',
    ).run(raise.risk, raise.risk_reason, id, raise.risk);
  }

  #set(id: string, set: SessionPatch['set'], add: SessionPatch['add']): void {
    const columns = Object.keys(set);
    const grown = Object.keys(add);
    if (columns.length + grown.length === 0) return;
    const terms = [...columns.map((name) => `${name} = ?`), ...grown.map((name) => `${name} = ${name} + ?`)];
    const values = [...Object.values(set), ...Object.values(add)] as SQLInputValue[];
    this.#prepare(`UPDATE sessions SET ${terms.join(', ')} WHERE id = ?`).run(...values, id);
  }

  #insert(row: StatementRow): void {
    const text = row.text === null ? null : row.text.slice(0, TEXT_CHARACTERS_MAX);
    const tables = [...new Set(row.tables.map((table) => table.toLowerCase().replaceAll('\n', ' ')))];
    const known = this.#all('SELECT id, text, tables FROM statements WHERE session = ? AND seq = ?', [
      row.session,
      row.seq,
    ])[0];
    if (known !== undefined) {
      this.#forget(known);
      this.#prepare('DELETE FROM statements WHERE id = ?').run(known['id'] as number);
    }
    const { lastInsertRowid } = this.#prepare(
      `INSERT INTO statements (session, seq, at, kind, text, status, rows_returned, rows_affected, duration_us,
         error_code, effects, tables, risk, risk_reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ).run(
      row.session,
      row.seq,
      row.at,
      row.kind,
      text,
      row.status,
      row.rows_returned,
      row.rows_affected,
      row.duration_us,
      row.error_code,
      row.effects.join(' '),
      tables.join('\n'),
      row.risk,
      row.risk_reason,
    );
    if (text !== null)
      this.#prepare('INSERT INTO statement_texts (rowid, text) VALUES (?, ?)').run(lastInsertRowid, text);
    for (const table of tables)
      this.#prepare('INSERT OR IGNORE INTO statement_tables (name, statement) VALUES (?, ?)').run(
        table,
        lastInsertRowid,
      );
  }

  #forget({ id, text, tables }: Record<string, unknown>): void {
    const rowid = id as number;
    if (text !== null) {
      // An external-content index needs the old text to take its words out.
      this.#prepare("INSERT INTO statement_texts (statement_texts, rowid, text) VALUES ('delete', ?, ?)").run(
        rowid,
        text as string,
      );
    }
    for (const table of listOf(tables, '\n'))
      this.#prepare('DELETE FROM statement_tables WHERE name = ? AND statement = ?').run(table, rowid);
  }

  #all(sql: string, values: readonly SQLInputValue[]): Record<string, unknown>[] {
    return this.#prepare(sql).all(...values) as Record<string, unknown>[];
  }

  #prepare(sql: string): StatementSync {
    let prepared = this.#statements.get(sql);
    if (prepared === undefined) {
      prepared = this.#database.prepare(sql);
      this.#statements.set(sql, prepared);
    }
    return prepared;
  }
}

function limitOf({ limit }: SessionFilter): number {
  return Math.min(limit, RESULTS_MAX);
}

function listOf(text: unknown, separator: string): string[] {
  return typeof text === 'string' && text !== '' ? text.split(separator) : [];
}

interface Where {
  readonly where: string;
  readonly values: SQLInputValue[];
}

function sessionWhere(filter: SessionFilter): Where {
  const { terms, values } = sessionTerms(filter, 's.started_at', 's.risk');
  return { where: terms.length === 0 ? '' : `WHERE ${terms.join(' AND ')}`, values };
}

function sessionTerms(
  filter: SessionFilter,
  time: string,
  risk: string,
): { terms: string[]; values: SQLInputValue[] } {
  const terms: string[] = [];
  const values: SQLInputValue[] = [];
  const add = (term: string, value: SQLInputValue | undefined): void => {
    if (value === undefined) return;
    terms.push(term);
    values.push(value);
  };
  add('s.principal = ?', filter.principal);
  add('s.resource = ?', filter.resource);
  add('s.engine = ?', filter.engine);
  add('s.state = ?', filter.state);
  add('s.reason = ?', filter.reason);
  add(`${risk} >= ?`, filter.riskMin);
  add(`${time} >= ?`, filter.since);
  add(`${time} < ?`, filter.until);
  return { terms, values };
}

function statementWhere(filter: StatementFilter): Where {
  const { terms, values } = sessionTerms(filter, 't.at', 't.risk');
  const add = (term: string, value: SQLInputValue | undefined): void => {
    if (value === undefined) return;
    terms.push(term);
    values.push(value);
  };
  add('t.session = ?', filter.session);
  add('t.seq = ?', filter.seq);
  add('t.status = ?', filter.status);
  add('max(coalesce(t.rows_returned, 0), coalesce(t.rows_affected, 0)) >= ?', filter.rowsMin);
  add('t.duration_us >= ?', filter.durationMsMin === undefined ? undefined : filter.durationMsMin * 1000);
  add("instr(' ' || t.effects || ' ', ' ' || ? || ' ') > 0", filter.effect);
  if (filter.table !== undefined) {
    // A bare name also finds it with its schema.
    terms.push(
      't.id IN (SELECT statement FROM statement_tables WHERE name = ? OR name LIKE ? ESCAPE char(92))',
    );
    const name = filter.table.toLowerCase();
    values.push(name, `%.${name.replace(/[\\%_]/g, '\\$&')}`);
  }
  if (filter.text !== undefined) {
    const words = ftsQuery(filter.text);
    if (words === '') terms.push('0');
    else {
      terms.push('t.id IN (SELECT rowid FROM statement_texts WHERE statement_texts MATCH ?)');
      values.push(words);
    }
  }
  return { where: terms.length === 0 ? '' : `WHERE ${terms.join(' AND ')}`, values };
}

/** Every word as a quoted prefix, so that nothing in it is taken for an operator. */
function ftsQuery(text: string): string {
  return text
    .split(/[^\p{L}\p{N}_$]+/u)
    .filter((word) => word !== '')
    .map((word) => `"${word}"*`)
    .join(' ');
}
