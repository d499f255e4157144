import { chmodSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import {
  type HoldChange,
  IndexError,
  type IndexOwner,
  type IndexRows,
  type RecordingIndex,
  type SessionFilter,
  type SessionPatch,
  type SessionRow,
  type StatementEnd,
  type StatementFilter,
  type StatementRow,
} from './recording-index.ts';
import {
  type FilterSyntax,
  limitOf,
  sessionTerms,
  statementTerms,
  type Term,
} from './recording-index-filters.ts';
import { bringUpToDate, VERSION, versionOf } from './recording-index-sqlite-schema.ts';
import { bareTable, digestOf, isAscii, keptTables, keptText, wordsOf } from './recording-words.ts';

/** Places of texts and sessions kept in memory, so that what runs again and again is not looked up. */
const KNOWN_MAX = 5_000;
/** Longer texts are looked up each time. */
const KNOWN_CHARACTERS_MAX = 2_000;
/** A search that fewer statements come into question for reads them all; of more, it reads the latest until it has enough. */
const SCAN_MAX = 20_000;
/** Texts with the same hash that are looked at; beyond, a text is kept again. */
const SAME_HASH_MAX = 4;
/** What a writer keeps of the file in memory: new texts come at random places of their index. */
const CACHE_KIB_MAX = 16 * 1024;
/** Pages (4 KiB) that come together before they are carried from the write-ahead log into the file, each once. */
const CHECKPOINT_PAGES = 8_000;
/** How long a writer waits for another process's lock. */
const BUSY_MS_MAX = 5_000;

const SESSION_COLUMNS = `s.id, s.gateway, s.principal, s.resource, s.engine, s.database, s.database_user, s.client_address,
  s.client_program, s.server_session, s.started_at, s.ended_at, s.state, s.reason, s.statements, s.errors, s.denied,
  s.rows_returned, s.bytes, s.parts, s.held, s.risk, s.risk_reason`;

export interface SqliteIndexOptions {
  readonly readOnly?: boolean;
  /** Leave a file of an earlier version as it is, and throw: the gateway that it belongs to brings it up to date. */
  readonly keepVersion?: boolean;
}

/** The index in a SQLite file of this process and of the commands that read it (WAL). */
export class SqliteRecordingIndex implements RecordingIndex {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  /** What is made of a list of tables: many statements share one. */
  readonly #tables = new WeakMap<readonly string[], { readonly names: string; readonly tokens: string }>();
  /** Place of a text that came again, by all that is kept with it. */
  readonly #texts = new Map<string, number>();
  readonly #sessions = new Map<string, number>();
  /** Changes when another connection has written: what is in memory may be gone from the file then. */
  #dataVersion = 0;

  /** Throws what SQLite throws, and an `IndexError`. The file is for its owner alone (mode 0600). */
  constructor(path: string, options: SqliteIndexOptions = {}) {
    const readOnly = options.readOnly === true;
    const inMemory = path === ':memory:';
    if (!readOnly && !inMemory) mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    this.#database = new DatabaseSync(path, { readOnly, timeout: BUSY_MS_MAX });
    try {
      if (!readOnly && !inMemory) chmodSync(path, 0o600);
      if (!readOnly)
        this.#database.exec(
          `PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -${CACHE_KIB_MAX};
          PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES};`,
        );
      if (!readOnly && options.keepVersion !== true) {
        bringUpToDate(this.#database, path, (rows) => this.#write(rows));
      } else if (versionOf(this.#database) !== VERSION) {
        throw new IndexError(
          'version',
          `${path} was written by another version of Sallyport: its gateway brings it up to date at its start`,
        );
      }
    } catch (error) {
      this.#database.close();
      throw error;
    }
  }

  write(rows: IndexRows): Promise<void> {
    return this.#attempt(() => this.#transaction(() => this.#write(rows)));
  }

  sessions(filter: SessionFilter): Promise<SessionRow[]> {
    return this.#attempt(() => {
      const { where, values } = joined(sessionTerms(filter));
      const sql = `SELECT ${SESSION_COLUMNS} FROM sessions s ${where} ORDER BY s.started_at DESC, s.id DESC LIMIT ? OFFSET ?`;
      return this.#all(sql, [...values, limitOf(filter), filter.offset ?? 0]) as unknown as SessionRow[];
    });
  }

  session(id: string): Promise<SessionRow | null> {
    return this.#attempt(() => {
      const sql = `SELECT ${SESSION_COLUMNS} FROM sessions s WHERE s.id = ?`;
      return (this.#all(sql, [id])[0] as unknown as SessionRow | undefined) ?? null;
    });
  }

  search(filter: StatementFilter): Promise<StatementRow[]> {
    return this.#attempt(() => {
      const terms = statementTerms(filter, SYNTAX);
      if (terms.none) return [];
      const { where, values } = joined([...terms.statements, ...terms.texts, ...terms.sessions]);
      const sql = `
        SELECT s.id AS session, t.seq, t.at, t.kind, x.text, t.status, t.rows_returned, t.rows_affected,
          t.duration_us, t.error_code, x.tables, x.effects, x.risk, x.risk_reason
        FROM ${this.#from(terms)} ${where}
        ORDER BY t.at DESC, t.seq DESC, s.id DESC LIMIT ? OFFSET ?`;
      return this.#all(sql, [...values, limitOf(filter), filter.offset ?? 0]).map((row) => ({
        ...(row as unknown as StatementRow),
        tables: listOf(row['tables'], '\n'),
        effects: listOf(row['effects'], ' '),
      }));
    });
  }

  endedBefore(time: number, limit: number, owner?: IndexOwner): Promise<SessionRow[]> {
    return this.#attempt(() => {
      const sql = `
        SELECT ${SESSION_COLUMNS} FROM sessions s WHERE s.ended_at < ?1 AND s.held = 0
          AND (?2 IS NULL OR s.gateway = ?2 OR s.resource IN (SELECT value FROM json_each(?3)))
        ORDER BY s.ended_at LIMIT ?4`;
      const values = [time, owner?.gateway ?? null, JSON.stringify(owner?.resources ?? []), limit];
      return this.#all(sql, values) as unknown as SessionRow[];
    });
  }

  hold(session: string, held: boolean, by: string): Promise<boolean> {
    const value = held ? 1 : 0;
    return this.#attempt(() =>
      this.#transaction(() => {
        const sql = 'UPDATE sessions SET held = ? WHERE id = ?';
        if (this.#prepare(sql).run(value, session).changes !== 1) return false;
        const change = 'INSERT INTO hold_changes (session, held, by, at) VALUES (?, ?, ?, ?)';
        this.#prepare(change).run(session, value, by, Date.now());
        return true;
      }),
    );
  }

  async recordHolds(put: (changes: readonly HoldChange[]) => void | Promise<void>): Promise<void> {
    const changes = await this.#attempt(() => {
      const sql = `
        SELECT c.*, coalesce(s.resource, '') AS resource
        FROM hold_changes c LEFT JOIN sessions s ON s.id = c.session ORDER BY c.id LIMIT 1000`;
      return this.#all(sql, []) as unknown as HoldChange[];
    });
    const last = changes.at(-1);
    if (last === undefined) return;
    await put(changes);
    await this.#attempt(() => {
      this.#prepare('DELETE FROM hold_changes WHERE id <= ?').run(last.id);
    });
  }

  remove(session: string): Promise<void> {
    return this.#attempt(() => this.#transaction(() => this.#remove(session)));
  }

  interrupt(gateway: string, boot: string): Promise<void> {
    return this.#attempt(() => {
      this.#prepare(
        `UPDATE sessions SET state = 'interrupted', reason = 'interrupted', ended_at = started_at
         WHERE state = 'live' AND gateway = ? AND id < ?`,
      ).run(gateway, boot);
    });
  }

  sizes(): Promise<{ resource: string; sessions: number; bytes: number }[]> {
    return this.#attempt(() => {
      const sql =
        'SELECT resource, count(*) AS sessions, sum(bytes) AS bytes FROM sessions GROUP BY resource ORDER BY bytes DESC, resource';
      return this.#all(sql, []) as { resource: string; sessions: number; bytes: number }[];
    });
  }

  /** The file belongs to one gateway. */
  alone<T>(work: () => Promise<T>): Promise<T | null> {
    return work();
  }

  async close(): Promise<void> {
    if (this.#database.isOpen) this.#database.close();
  }

  /**
   * Which table to begin with. Texts or sessions that come into question for few statements lead to them; else the latest
   * statements are read until there are enough.
   */
  #from({ texts, sessions }: ReturnType<typeof statementTerms>): string {
    const byText = texts.length === 0 ? SCAN_MAX : this.#countByText(texts);
    const bySession = sessions.length === 0 ? SCAN_MAX : this.#countBySession(sessions);
    if (Math.min(byText, bySession) >= SCAN_MAX)
      return `statements t INDEXED BY statements_by_time
        CROSS JOIN texts x ON x.id = t.text CROSS JOIN sessions s ON s.number = t.session`;
    if (byText <= bySession)
      return `texts x CROSS JOIN statements t INDEXED BY statements_by_text ON t.text = x.id
        CROSS JOIN sessions s ON s.number = t.session`;
    return `sessions s CROSS JOIN statements t ON t.session = s.number CROSS JOIN texts x ON x.id = t.text`;
  }

  #countByText(terms: readonly Term[]): number {
    const { where, values } = joined(terms);
    const sql = `
      SELECT count(*) AS n FROM (
        SELECT 1 FROM texts x CROSS JOIN statements t INDEXED BY statements_by_text ON t.text = x.id ${where}
        LIMIT ${SCAN_MAX})`;
    return this.#all(sql, values)[0]!['n'] as number;
  }

  #countBySession(terms: readonly Term[]): number {
    const { where, values } = joined(terms);
    const sql = `SELECT coalesce(sum(s.statements), 0) AS n FROM sessions s ${where}`;
    return this.#all(sql, values)[0]!['n'] as number;
  }

  #write({ sessions, statements, ends }: IndexRows): void {
    this.#checkKnown();
    for (const patch of sessions) this.#patch(patch);
    for (const row of statements) this.#insert(row);
    for (const end of ends ?? []) this.#end(end);
  }

  #patch({ id, set, add, raise }: SessionPatch): void {
    const number = this.#sessionNumber(id);
    const columns = Object.keys(set);
    const grown = Object.keys(add);
    if (columns.length + grown.length > 0) {
      const terms = [
        ...columns.map((name) => `${name} = ?`),
        ...grown.map((name) => `${name} = ${name} + ?`),
      ];
      const values = [...Object.values(set), ...Object.values(add)] as SQLInputValue[];
      this.#prepare(`UPDATE sessions SET ${terms.join(', ')} WHERE number = ?`).run(...values, number);
    }
    if (raise === undefined) return;
    this.#prepare(
      'UPDATE sessions SET risk = ?, risk_reason = ? WHERE number = ? AND coalesce(risk, -1) < ?',
    ).run(raise.risk, raise.risk_reason, number, raise.risk);
  }

  #insert(row: StatementRow): void {
    this.#prepare('INSERT OR REPLACE INTO statements VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)').run(
      this.#sessionNumber(row.session),
      row.seq,
      row.at,
      row.kind,
      this.#textId(row),
      row.status,
      row.rows_returned,
      row.rows_affected,
      row.duration_us,
      row.error_code,
    );
  }

  #end(end: StatementEnd): void {
    this.#prepare(
      `UPDATE statements SET status = ?, rows_returned = ?, rows_affected = ?, duration_us = ?, error_code = ?
       WHERE session = ? AND seq = ?`,
    ).run(
      end.status,
      end.rows_returned,
      end.rows_affected,
      end.duration_us,
      end.error_code,
      this.#sessionNumber(end.session),
      end.seq,
    );
  }

  #sessionNumber(id: string): number {
    let number = this.#sessions.get(id);
    if (number !== undefined) return number;
    const sql =
      'INSERT INTO sessions (id) VALUES (?) ON CONFLICT (id) DO UPDATE SET id = id RETURNING number';
    number = this.#prepare(sql).get(id)!['number'] as number;
    keep(this.#sessions, id, number);
    return number;
  }

  /** The place of a text with all that was made of it: the same text may be of several dialects. */
  #textId(row: StatementRow): number {
    const { names, tokens } = this.#tablesOf(row.tables);
    const effects = row.effects.join(' ');
    const text = row.text === null ? null : keptText(row.text);
    const key = `${row.risk} ${row.risk_reason}\n${effects}\n${names}\0${text === null ? '' : ` ${text}`}`;
    const known = this.#texts.get(key);
    if (known !== undefined) return known;
    const digest = digestOf(key);
    const candidates = this.#prepare(`SELECT * FROM texts WHERE hash = ? LIMIT ${SAME_HASH_MAX}`).all(digest);
    const same = candidates.find(
      (one) =>
        one['text'] === text &&
        one['tables'] === names &&
        one['effects'] === effects &&
        one['risk'] === row.risk &&
        one['risk_reason'] === row.risk_reason,
    );
    if (same !== undefined) {
      const id = same['id'] as number;
      if (key.length <= KNOWN_CHARACTERS_MAX) keep(this.#texts, key, id);
      return id;
    }
    const made = this.#prepare(
      'INSERT INTO texts (hash, text, tables, effects, risk, risk_reason) VALUES (?, ?, ?, ?, ?, ?)',
    ).run(digest, text, names, effects, row.risk, row.risk_reason);
    const id = Number(made.lastInsertRowid);
    // The tokenizer makes of ASCII the same words by itself.
    const words = text === null ? '' : isAscii(text) ? text : wordsOf(text).join(' ');
    this.#prepare('INSERT INTO text_words (rowid, words) VALUES (?, ?)').run(id, `${words} ${tokens}`);
    return id;
  }

  #tablesOf(tables: readonly string[]): { readonly names: string; readonly tokens: string } {
    let made = this.#tables.get(tables);
    if (made === undefined) {
      const kept = keptTables(tables);
      const tokens = [...new Set(kept.map((name) => tableToken(bareTable(name))))];
      made = { names: kept.join('\n'), tokens: tokens.join(' ') };
      this.#tables.set(tables, made);
    }
    return made;
  }

  /** Texts go with the last statement that has them. */
  #remove(session: string): void {
    const number = this.#all('SELECT number FROM sessions WHERE id = ?', [session])[0]?.['number'];
    if (number === undefined) return;
    const texts = this.#all('SELECT DISTINCT text FROM statements WHERE session = ?', [number as number]);
    this.#prepare('DELETE FROM statements WHERE session = ?').run(number as number);
    this.#prepare('DELETE FROM sessions WHERE number = ?').run(number as number);
    for (const { text } of texts) {
      const id = text as number;
      if (this.#prepare('SELECT 1 FROM statements WHERE text = ? LIMIT 1').get(id) !== undefined) continue;
      this.#prepare('DELETE FROM text_words WHERE rowid = ?').run(id);
      this.#prepare('DELETE FROM texts WHERE id = ?').run(id);
    }
    this.#forgetKnown();
  }

  /** Within a transaction: nobody else writes until it is over. */
  #checkKnown(): void {
    const version = this.#prepare('PRAGMA data_version').get()!['data_version'] as number;
    if (version === this.#dataVersion) return;
    this.#dataVersion = version;
    this.#forgetKnown();
  }

  #forgetKnown(): void {
    this.#texts.clear();
    this.#sessions.clear();
  }

  #transaction<T>(work: () => T): T {
    this.#database.exec('BEGIN IMMEDIATE');
    try {
      const result = work();
      this.#database.exec('COMMIT');
      return result;
    } catch (error) {
      this.#forgetKnown();
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK');
      throw error;
    }
  }

  async #attempt<T>(work: () => T): Promise<T> {
    try {
      return work();
    } catch (cause) {
      if (cause instanceof IndexError) throw cause;
      throw new IndexError('failed', `the index of recordings: ${(cause as Error).message}`, { cause });
    }
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

const SYNTAX: FilterSyntax = {
  rows: 'max(coalesce(t.rows_returned, 0), coalesce(t.rows_affected, 0))',
  effect: (effect) => ({ sql: "instr(' ' || x.effects || ' ', ' ' || ? || ' ') > 0", values: [effect] }),
  // A bare name also finds it with its schema.
  table: (name, bare) => ({
    sql: `x.id IN (SELECT rowid FROM text_words WHERE text_words MATCH ?)
      AND (instr(char(10) || x.tables || char(10), ?) > 0 OR instr(x.tables || char(10), ?) > 0)`,
    values: [`"${tableToken(bare)}"`, `\n${name}\n`, `.${name}\n`],
  }),
  words: (words) => ({
    sql: 'x.id IN (SELECT rowid FROM text_words WHERE text_words MATCH ?)',
    values: [words.map((word) => `"${word}"*`).join(' ')],
  }),
};

/** A table among the words: a token that no text has, for its first character is in no word. */
function tableToken(bare: string): string {
  return `\ue000${bare.replaceAll(/[^\p{L}\p{N}_$]/gu, '\ue001')}`;
}

function joined(terms: readonly Term[]): { where: string; values: SQLInputValue[] } {
  const where = terms.length === 0 ? '' : `WHERE ${terms.map(({ sql }) => sql).join(' AND ')}`;
  return { where, values: terms.flatMap(({ values }) => values) };
}

function keep<K, V>(map: Map<K, V>, key: K, value: V): void {
  if (map.size >= KNOWN_MAX) map.delete(map.keys().next().value!);
  map.set(key, value);
}

function listOf(text: unknown, separator: string): string[] {
  return typeof text === 'string' && text !== '' ? text.split(separator) : [];
}
