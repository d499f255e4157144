import { hash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type ConnectionOptions, checkServerIdentity } from 'node:tls';
import type pg from 'pg';
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
import { bringUpToDate, LOCKS } from './recording-index-postgres-schema.ts';
import { bareTable, keptTables, keptText, withoutNul, wordsOf } from './recording-words.ts';

/** Where an index in PostgreSQL is. No secret is in it. */
export interface PostgresIndexOptions {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly username: string;
  readonly tls: {
    readonly mode: 'disable' | 'require' | 'verify-ca' | 'verify-full';
    /** Files, PEM. */
    readonly ca?: string | undefined;
    readonly cert?: string | undefined;
    readonly key?: string | undefined;
    readonly server_name?: string | undefined;
  };
}

/** How long the server may take for a connection, for a lock that another gateway has, and for one statement. */
const CONNECT_MS_MAX = 5_000;
const LOCK_MS_MAX = 10_000;
const QUERY_MS_MAX = 60_000;
/** Statements of a session that are removed in one transaction. */
const REMOVED_MAX = 10_000;

/** Classes of SQLSTATE that say that a value was not taken; all else is of the server or the way to it. */
const VALUE_FAULTS = /^(22|23|54)/;

const INT8 = 20;

const TEXT_COLUMNS = [
  'gateway',
  'principal',
  'resource',
  'engine',
  'database',
  'database_user',
  'client_address',
];
const COLUMNS: Readonly<Record<string, string>> = {
  ...Object.fromEntries(TEXT_COLUMNS.map((name) => [name, 'text'])),
  client_program: 'text',
  server_session: 'text',
  started_at: 'double precision',
  ended_at: 'double precision',
  state: 'text',
  reason: 'text',
  statements: 'bigint',
  errors: 'bigint',
  denied: 'bigint',
  rows_returned: 'bigint',
  bytes: 'bigint',
  parts: 'bigint',
  held: 'integer',
  risk: 'integer',
  risk_reason: 'text',
};
const SESSION_COLUMNS = ['id', ...Object.keys(COLUMNS)].map((name) => `s.${name}`).join(', ');

/** Each column as it is, or as it is set, and grown. */
const PATCH = `
  UPDATE recording_sessions s SET ${Object.entries(COLUMNS)
    .map(([name, type]) => {
      const set = `CASE WHEN p.set ? '${name}' THEN (p.set ->> '${name}')::${type} ELSE s.${name} END`;
      return `${name} = ${type === 'bigint' ? `${set} + coalesce((p.add ->> '${name}')::bigint, 0)` : set}`;
    })
    .join(', ')}
  FROM (SELECT e ->> 'id' AS id, e -> 'set' AS set, e -> 'add' AS add FROM jsonb_array_elements($1::jsonb) e) p
  WHERE s.id = p.id`;

const RAISE = `
  UPDATE recording_sessions s SET risk = p.risk, risk_reason = p.risk_reason
  FROM jsonb_to_recordset($1::jsonb) AS p (id text, risk integer, risk_reason text)
  WHERE s.id = p.id AND coalesce(s.risk, -1) < p.risk`;

const ADD_TEXTS = `
  INSERT INTO recording_texts (hash, text, tables, bare_tables, effects, risk, risk_reason, words)
  SELECT decode(p.hash, 'hex'), p.text, p.tables, p.bare_tables, p.effects, p.risk, p.risk_reason,
    array_to_tsvector(p.words)
  FROM jsonb_to_recordset($1::jsonb) AS p (hash text, text text, tables text[], bare_tables text[], effects text[],
    risk integer, risk_reason text, words text[])
  ORDER BY p.hash
  ON CONFLICT (hash) DO NOTHING RETURNING encode(hash, 'hex') AS hash, id`;

const OUTCOME = ['status', 'rows_returned', 'rows_affected', 'duration_us', 'error_code'] as const;
const OUTCOME_TYPES = 'text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[]';

const ADD_STATEMENTS = `
  INSERT INTO recording_statements
    (session, seq, status, rows_returned, rows_affected, duration_us, error_code, at, kind, text)
  SELECT s.number, p.seq, p.status, p.rows_returned, p.rows_affected, p.duration_us, p.error_code, p.at, p.kind, p.text
  FROM unnest($1::text[], $2::bigint[], $3::${OUTCOME_TYPES}, $8::double precision[], $9::text[], $10::bigint[])
    AS p (session, seq, ${OUTCOME.join(', ')}, at, kind, text)
  JOIN recording_sessions s ON s.id = p.session
  ORDER BY s.number, p.seq
  ON CONFLICT (session, seq) DO UPDATE SET
    ${[...OUTCOME, 'at', 'kind', 'text'].map((name) => `${name} = excluded.${name}`).join(', ')}`;

const END_STATEMENTS = `
  UPDATE recording_statements t SET ${OUTCOME.map((name) => `${name} = p.${name}`).join(', ')}
  FROM unnest($1::text[], $2::bigint[], $3::${OUTCOME_TYPES}) AS p (session, seq, ${OUTCOME.join(', ')})
  JOIN recording_sessions s ON s.id = p.session
  WHERE t.session = s.number AND t.seq = p.seq`;

/**
 * The index in a database of PostgreSQL (13 and later) that several gateways share. Connects when it is first used, and again
 * when the connection was lost; one statement runs at a time.
 */
export class PostgresRecordingIndex implements RecordingIndex {
  /** For people: no secret is in it. */
  readonly name: string;
  readonly #library: typeof pg;
  readonly #options: PostgresIndexOptions;
  readonly #password: () => Promise<string | null>;
  readonly #migrates: boolean;
  #client: pg.Client | null = null;
  /** Whoever works with the connection has it until this resolves. */
  #busy: Promise<unknown> = Promise.resolve();
  #closed = false;

  /** `password` is asked for each connection. `migrates`: brings the tables up to date; else it refuses to use others. */
  static async open(
    options: PostgresIndexOptions,
    password: () => Promise<string | null>,
    migrates: boolean,
  ): Promise<PostgresRecordingIndex> {
    const { default: library } = await import('pg');
    return new PostgresRecordingIndex(library, options, password, migrates);
  }

  private constructor(
    library: typeof pg,
    options: PostgresIndexOptions,
    password: () => Promise<string | null>,
    migrates: boolean,
  ) {
    this.#library = library;
    this.#options = options;
    this.#password = password;
    this.#migrates = migrates;
    this.name = `the index of recordings in PostgreSQL (${options.database} on ${options.host}:${options.port})`;
  }

  write(rows: IndexRows): Promise<void> {
    return this.#transaction(async (client) => {
      await client.query('SELECT pg_advisory_xact_lock_shared($1, $2)', [LOCKS.space, LOCKS.texts]);
      await patchSessions(client, rows);
      if (rows.statements.length > 0) await addStatements(client, rows.statements);
      if (rows.ends !== undefined && rows.ends.length > 0)
        await client.query(END_STATEMENTS, outcomeArrays(latest(rows.ends)));
    });
  }

  sessions(filter: SessionFilter): Promise<SessionRow[]> {
    const { where, values } = joined(sessionTerms(filter));
    return this.#rows(
      `SELECT ${SESSION_COLUMNS} FROM recording_sessions s ${where} ORDER BY s.started_at DESC, s.id DESC LIMIT ? OFFSET ?`,
      [...values, limitOf(filter), filter.offset ?? 0],
    );
  }

  async session(id: string): Promise<SessionRow | null> {
    const sql = `SELECT ${SESSION_COLUMNS} FROM recording_sessions s WHERE s.id = ?`;
    return (await this.#rows<SessionRow>(sql, [id]))[0] ?? null;
  }

  async search(filter: StatementFilter): Promise<StatementRow[]> {
    const { none, statements, texts, sessions } = statementTerms(filter, SYNTAX);
    if (none) return [];
    const { where, values } = joined([...statements, ...texts, ...sessions]);
    return this.#rows(
      `SELECT s.id AS session, t.seq, t.at, t.kind, x.text, t.status, t.rows_returned, t.rows_affected, t.duration_us,
         t.error_code, x.tables, x.effects, x.risk, x.risk_reason
       FROM recording_statements t JOIN recording_sessions s ON s.number = t.session
         JOIN recording_texts x ON x.id = t.text ${where}
       ORDER BY t.at DESC, t.seq DESC, s.id DESC LIMIT ? OFFSET ?`,
      [...values, limitOf(filter), filter.offset ?? 0],
    );
  }

  endedBefore(time: number, limit: number, owner?: IndexOwner): Promise<SessionRow[]> {
    return this.#rows(
      `SELECT ${SESSION_COLUMNS} FROM recording_sessions s WHERE s.ended_at < ? AND s.held = 0
         AND (?::text IS NULL OR s.gateway = ?::text OR s.resource = ANY (?::text[])) ORDER BY s.ended_at LIMIT ?`,
      [time, owner?.gateway ?? null, owner?.gateway ?? null, owner?.resources ?? [], limit],
    );
  }

  hold(session: string, held: boolean, by: string): Promise<boolean> {
    const value = held ? 1 : 0;
    return this.#transaction(async (client) => {
      const { rowCount } = await client.query('UPDATE recording_sessions SET held = $1 WHERE id = $2', [
        value,
        session,
      ]);
      if (rowCount !== 1) return false;
      await client.query(
        'INSERT INTO recording_hold_changes (session, held, by, at) VALUES ($1, $2, $3, $4)',
        [session, value, clean(by), Date.now()],
      );
      return true;
    });
  }

  async recordHolds(put: (changes: readonly HoldChange[]) => void | Promise<void>): Promise<void> {
    if ((await this.#rows('SELECT 1 FROM recording_hold_changes LIMIT 1', [])).length === 0) return;
    let fault: { readonly error: unknown } | null = null;
    const taken = this.#transaction(async (client) => {
      const { rows } = await client.query<HoldChange>(`
        SELECT c.id, c.session, c.held, c.by, c.at, coalesce(s.resource, '') AS resource
        FROM recording_hold_changes c LEFT JOIN recording_sessions s ON s.id = c.session
        ORDER BY c.id LIMIT 1000 FOR UPDATE OF c SKIP LOCKED`);
      if (rows.length === 0) return;
      try {
        await put(rows);
      } catch (error) {
        fault = { error };
        throw error;
      }
      await client.query('DELETE FROM recording_hold_changes WHERE id = ANY ($1)', [
        rows.map(({ id }) => id),
      ]);
    });
    await taken.catch((error: unknown) => {
      throw fault === null ? error : fault.error;
    });
  }

  /** In pieces, so that nobody waits long for it. */
  async remove(session: string): Promise<void> {
    while (await this.#transaction((client) => removeSome(client, session)));
  }

  async interrupt(gateway: string, boot: string): Promise<void> {
    await this.#rows(
      `UPDATE recording_sessions SET state = 'interrupted', reason = 'interrupted', ended_at = started_at
       WHERE state = 'live' AND gateway = ? AND id < ?`,
      [gateway, boot],
    );
  }

  sizes(): Promise<{ resource: string; sessions: number; bytes: number }[]> {
    return this.#rows(
      `SELECT resource, count(*) AS sessions, sum(bytes)::bigint AS bytes FROM recording_sessions
       GROUP BY resource ORDER BY bytes DESC, resource`,
      [],
    );
  }

  async alone<T>(work: () => Promise<T>): Promise<T | null> {
    const key = [LOCKS.space, LOCKS.alone];
    const [row] = await this.#rows<{ got: boolean }>('SELECT pg_try_advisory_lock(?, ?) AS got', key);
    if (row?.got !== true) return null;
    try {
      return await work();
    } finally {
      // With the connection the lock would go as well.
      await this.#rows('SELECT pg_advisory_unlock(?, ?)', key).catch(() => {});
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#busy.catch(() => {});
    const client = this.#client;
    this.#client = null;
    await client?.end().catch(() => {});
  }

  #rows<T extends object>(sql: string, values: readonly unknown[]): Promise<T[]> {
    let place = 0;
    const numbered = sql.replaceAll('?', () => {
      place += 1;
      return `$${place}`;
    });
    return this.#exclusively(async (client) => (await client.query(numbered, [...values])).rows as T[]);
  }

  #transaction<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    return this.#exclusively(async (client) => {
      await client.query('BEGIN');
      try {
        const result = await work(client);
        await client.query('COMMIT');
        return result;
      } catch (error) {
        await client.query('ROLLBACK').catch(() => this.#drop(client));
        throw error;
      }
    });
  }

  #exclusively<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    const result = this.#busy.then(async () => {
      try {
        return await work(await this.#connected());
      } catch (cause) {
        throw this.#error(cause);
      }
    });
    this.#busy = result.catch(() => {});
    return result;
  }

  async #connected(): Promise<pg.Client> {
    if (this.#closed) throw new IndexError('away', `${this.name} was closed`);
    if (this.#client !== null) return this.#client;
    const { host, port, database, username } = this.#options;
    const password = await this.#password();
    const client = new this.#library.Client({
      host,
      port,
      database,
      user: username,
      ...(password === null ? {} : { password }),
      ssl: sslOptions(this.#options),
      enableChannelBinding: true,
      application_name: 'sallyport index of recordings',
      connectionTimeoutMillis: CONNECT_MS_MAX,
      statement_timeout: QUERY_MS_MAX,
      // The server's own limit comes first, where it still answers.
      query_timeout: QUERY_MS_MAX + CONNECT_MS_MAX,
      lock_timeout: LOCK_MS_MAX,
      keepAlive: true,
      types: {
        getTypeParser: (oid: number, format?: 'text' | 'binary') =>
          oid === INT8 ? Number : this.#library.types.getTypeParser(oid, format as 'text'),
      },
    });
    client.on('error', () => this.#drop(client));
    client.on('end', () => this.#drop(client));
    try {
      await client.connect();
      await bringUpToDate(client, this.name, this.#migrates);
    } catch (error) {
      await client.end().catch(() => {});
      throw error;
    }
    this.#client = client;
    return client;
  }

  #drop(client: pg.Client): void {
    if (this.#client !== client) return;
    this.#client = null;
    void client.end().catch(() => {});
  }

  #error(cause: unknown): IndexError {
    if (cause instanceof IndexError) return cause;
    const { message, code } = cause as Error & { code?: string };
    const isServer = cause instanceof this.#library.DatabaseError;
    if (isServer && VALUE_FAULTS.test(code ?? ''))
      return new IndexError('failed', `${this.name} did not take a row (${code})`, { cause });
    // After a time-out the answer may still come: it would be taken for that of the next statement.
    if (!isServer && this.#client !== null) this.#drop(this.#client);
    return new IndexError('away', `${this.name} cannot be used: ${message || code || 'no answer'}`, {
      cause,
    });
  }
}

function sslOptions({ host, tls }: PostgresIndexOptions): false | ConnectionOptions {
  if (tls.mode === 'disable') return false;
  const file = (path: string | undefined): Buffer | undefined =>
    path === undefined ? undefined : readFileSync(path);
  const [ca, cert, key] = [file(tls.ca), file(tls.cert), file(tls.key)];
  const name = tls.server_name ?? host;
  return {
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    rejectUnauthorized: tls.mode !== 'require',
    checkServerIdentity: (_, certificate) =>
      tls.mode === 'verify-full' ? checkServerIdentity(name, certificate) : undefined,
  };
}

async function patchSessions(client: pg.Client, { sessions, statements, ends }: IndexRows): Promise<void> {
  const ids = new Set([
    ...sessions.map(({ id }) => id),
    ...statements.map(({ session }) => session),
    ...(ends ?? []).map(({ session }) => session),
  ]);
  // In one order everywhere, so that two gateways never wait for each other.
  await client.query(
    'INSERT INTO recording_sessions (id) SELECT unnest($1::text[]) ON CONFLICT (id) DO NOTHING',
    [[...ids].sort()],
  );
  if (sessions.length === 0) return;
  const patches = [...sessions].sort((left, right) => (left.id < right.id ? -1 : 1));
  await client.query(PATCH, [
    JSON.stringify(patches.map(({ id, set, add }) => ({ id, set: cleaned(set), add }))),
  ]);
  const raised = patches.filter((patch): patch is SessionPatch & Required<Pick<SessionPatch, 'raise'>> => {
    return patch.raise !== undefined;
  });
  if (raised.length > 0)
    await client.query(RAISE, [JSON.stringify(raised.map(({ id, raise }) => ({ id, ...cleaned(raise) })))]);
}

async function addStatements(client: pg.Client, rows: readonly StatementRow[]): Promise<void> {
  const last = latest(rows);
  const texts = await textIds(client, last);
  await client.query(ADD_STATEMENTS, [
    ...outcomeArrays(last),
    last.map(({ at }) => at),
    last.map(({ kind }) => kind),
    texts,
  ]);
}

/** The text of each row: those that are there already, those that are new, and those that another gateway was first with. */
async function textIds(client: pg.Client, rows: readonly StatementRow[]): Promise<number[]> {
  const made = new Map<string, ReturnType<typeof textOf>>();
  const hashes = rows.map((row) => {
    const text = textOf(row);
    made.set(text.hash, text);
    return text.hash;
  });
  const ids = new Map<string, number>();
  const take = (found: { hash: string; id: number }[]): void => {
    for (const { hash: digest, id } of found) ids.set(digest, id);
  };
  const look = async (wanted: string[]): Promise<void> => {
    const sql = `SELECT encode(hash, 'hex') AS hash, id FROM recording_texts
      WHERE hash IN (SELECT decode(unnest($1::text[]), 'hex'))`;
    take((await client.query(sql, [wanted])).rows);
  };
  const missing = (): string[] => [...made.keys()].filter((digest) => !ids.has(digest));
  await look(missing());
  const added = missing();
  if (added.length > 0) {
    const fresh = added.map((digest) => ({
      ...made.get(digest)!,
      words: wordsOf(made.get(digest)!.text ?? ''),
    }));
    take((await client.query(ADD_TEXTS, [JSON.stringify(fresh)])).rows);
  }
  if (missing().length > 0) await look(missing());
  return hashes.map((digest) => ids.get(digest)!);
}

function textOf(row: StatementRow): {
  hash: string;
  text: string | null;
  tables: string[];
  bare_tables: string[];
  effects: readonly string[];
  risk: number | null;
  risk_reason: string | null;
} {
  const text = row.text === null ? null : keptText(row.text);
  const tables = keptTables(row.tables);
  const { effects, risk, risk_reason } = row;
  return {
    // The same text may be of several dialects.
    hash: hash('sha256', JSON.stringify([text, tables, effects, risk, risk_reason]), 'hex').slice(0, 32),
    text,
    tables,
    bare_tables: [...new Set(tables.map(bareTable))],
    effects,
    risk,
    risk_reason: risk_reason === null ? null : clean(risk_reason),
  };
}

/** Removes statements of a session, and texts that no other has; when none are left, the session. False when it is gone. */
async function removeSome(client: pg.Client, session: string): Promise<boolean> {
  const { rows } = await client.query<{ text: number; n: number }>(
    `WITH gone AS (
       DELETE FROM recording_statements WHERE ctid = ANY (ARRAY(
         SELECT t.ctid FROM recording_statements t JOIN recording_sessions s ON s.number = t.session
         WHERE s.id = $1 LIMIT ${REMOVED_MAX}))
       RETURNING text)
     SELECT text, count(*) AS n FROM gone GROUP BY text`,
    [session],
  );
  if (rows.length === 0) {
    await client.query('DELETE FROM recording_sessions WHERE id = $1', [session]);
    return false;
  }
  // Nobody is between having looked a text up and having written a statement with it.
  await client.query('SELECT pg_advisory_xact_lock($1, $2)', [LOCKS.space, LOCKS.texts]);
  await client.query(
    `DELETE FROM recording_texts x WHERE x.id = ANY ($1::bigint[])
       AND NOT EXISTS (SELECT 1 FROM recording_statements t WHERE t.text = x.id)`,
    [rows.map(({ text }) => text)],
  );
  return true;
}

/** One row a statement, the last: one command cannot write a row twice. */
function latest<T extends { readonly session: string; readonly seq: number }>(rows: readonly T[]): T[] {
  return [...new Map(rows.map((row) => [`${row.session} ${row.seq}`, row])).values()];
}

function outcomeArrays(rows: readonly StatementEnd[]): unknown[][] {
  return [
    rows.map(({ session }) => session),
    rows.map(({ seq }) => seq),
    ...OUTCOME.map((name) => rows.map((row) => row[name])),
  ];
}

function cleaned<T extends object>(values: T): T {
  const pairs = Object.entries(values).map(([name, value]) => [
    name,
    typeof value === 'string' ? clean(value) : value,
  ]);
  return Object.fromEntries(pairs) as T;
}

function clean(text: string): string {
  return withoutNul(text).toWellFormed();
}

const SYNTAX: FilterSyntax = {
  rows: 'greatest(coalesce(t.rows_returned, 0), coalesce(t.rows_affected, 0))',
  effect: (effect) => ({ sql: '?::text = ANY (x.effects)', values: [effect] }),
  table: (name, bare) => ({
    sql: `x.bare_tables @> ARRAY[?::text] AND EXISTS (
      SELECT 1 FROM unnest(x.tables) AS n WHERE n = ?::text OR right(n, length(?::text)) = ?::text)`,
    values: [bare, name, `.${name}`, `.${name}`],
  }),
  // Letters, digits, _ and $ alone are in words: nothing in the query can be taken for an operator.
  words: (words) => ({
    sql: 'x.words @@ ?::tsquery',
    values: [words.map((word) => `'${word}':*`).join(' & ')],
  }),
};

function joined(terms: readonly Term[]): { where: string; values: unknown[] } {
  const where = terms.length === 0 ? '' : `WHERE ${terms.map(({ sql }) => sql).join(' AND ')}`;
  return { where, values: terms.flatMap(({ values }) => values) };
}
