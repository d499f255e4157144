import { closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';

/** Launches, their tokens and logins, as they are kept. Times are milliseconds since the epoch. */
export interface StoredLaunch {
  readonly id: string;
  readonly principal: string;
  readonly roles: readonly string[];
  /** How the principal was proven when the launch was made. */
  readonly source: string;
  readonly resource: string;
  readonly rule: string;
  readonly createdAt: number;
  readonly expiresAt: number;
  /** Null while it lasts. */
  readonly endedAt: number | null;
  readonly endReason: string | null;
  readonly databases: readonly string[] | null;
  readonly maxConnections: number | null;
  readonly readOnly: boolean;
  readonly reason: string | null;
  /** The token's verifier; null for launches without one (tunnels). */
  readonly verifier: Readonly<Record<string, string | number>> | null;
}

export interface StoredLogin {
  /** SHA-256 of the bearer token, hex. */
  readonly tokenSha256: string;
  readonly principal: string;
  readonly roles: readonly string[];
  readonly source: string;
  /** Digest of what proved it, where that may change (a password's hash); empty elsewhere. */
  readonly proof: string;
  readonly createdAt: number;
  readonly expiresAt: number;
}

/** What the gateway remembers across restarts, behind one port. */
export interface State {
  addLaunch(launch: StoredLaunch): void;
  launch(id: string): StoredLaunch | null;
  /** Newest first. */
  launches(filter: { principal?: string; running?: boolean; limit: number }): StoredLaunch[];
  /** False when it has ended already, or does not exist. */
  endLaunch(id: string, at: number, reason: string): boolean;
  /** Ids of launches that have passed their end without being marked so. */
  expiredLaunches(now: number): string[];
  addLogin(login: StoredLogin): void;
  login(tokenSha256: string): StoredLogin | null;
  removeLogin(tokenSha256: string): boolean;
  /** The latest login of a principal that has not ended at `now`, or null. */
  latestLogin(principal: string, now: number): StoredLogin | null;
  /** Forgets logins that have ended, and launches that ended before `before`. */
  purge(now: number, before: number): void;
  close(): void;
}

/** Each brings the schema from its index to the next version. Never changed once released. */
const MIGRATIONS: readonly string[] = [
  `CREATE TABLE launches (
     id TEXT PRIMARY KEY, principal TEXT NOT NULL, roles TEXT NOT NULL, resource TEXT NOT NULL, rule TEXT NOT NULL,
     created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, ended_at INTEGER, end_reason TEXT, databases TEXT,
     max_connections INTEGER, read_only INTEGER NOT NULL, reason TEXT, verifier TEXT
   ) STRICT;
   CREATE INDEX launches_by_principal ON launches (principal, created_at);
   CREATE INDEX launches_running ON launches (expires_at) WHERE ended_at IS NULL;
   CREATE TABLE logins (
     token_sha256 TEXT PRIMARY KEY, principal TEXT NOT NULL, roles TEXT NOT NULL, source TEXT NOT NULL,
     created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL
   ) STRICT;
   CREATE INDEX logins_by_principal ON logins (principal);`,
  `ALTER TABLE launches ADD COLUMN source TEXT NOT NULL DEFAULT 'token';
   ALTER TABLE logins ADD COLUMN proof TEXT NOT NULL DEFAULT '';`,
];

/** How long a writer waits for another process's lock. */
const BUSY_MS_MAX = 5_000;

/** State in one SQLite file (or in memory, for `:memory:`), mode 0600. Throws when it is of a newer version. */
export class SqliteState implements State {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

  constructor(path: string) {
    if (path !== ':memory:') mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    // SQLite gives its other files the mode of this one.
    if (path !== ':memory:') closeSync(openSync(path, 'a', 0o600));
    this.#database = new DatabaseSync(path, { timeout: BUSY_MS_MAX });
    this.#database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON');
    migrate(this.#database, path);
  }

  addLaunch(launch: StoredLaunch): void {
    this.#prepared(
      `INSERT INTO launches (id, principal, roles, resource, rule, created_at, expires_at, ended_at, end_reason, databases,
         max_connections, read_only, reason, verifier, source) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ).run(
      launch.id,
      launch.principal,
      JSON.stringify(launch.roles),
      launch.resource,
      launch.rule,
      launch.createdAt,
      launch.expiresAt,
      launch.endedAt,
      launch.endReason,
      launch.databases === null ? null : JSON.stringify(launch.databases),
      launch.maxConnections,
      launch.readOnly ? 1 : 0,
      launch.reason,
      launch.verifier === null ? null : JSON.stringify(launch.verifier),
      launch.source,
    );
  }

  launch(id: string): StoredLaunch | null {
    const row = this.#prepared('SELECT * FROM launches WHERE id = ?').get(id);
    return row === undefined ? null : launchFrom(row);
  }

  launches(filter: { principal?: string; running?: boolean; limit: number }): StoredLaunch[] {
    return this.#prepared(
      `SELECT * FROM launches WHERE (?1 IS NULL OR principal = ?1) AND (?2 = 0 OR ended_at IS NULL)
       ORDER BY created_at DESC LIMIT ?3`,
    )
      .all(filter.principal ?? null, filter.running ? 1 : 0, filter.limit)
      .map(launchFrom);
  }

  endLaunch(id: string, at: number, reason: string): boolean {
    const { changes } = this.#prepared(
      'UPDATE launches SET ended_at = ?, end_reason = ? WHERE id = ? AND ended_at IS NULL',
    ).run(at, reason, id);
    return Number(changes) > 0;
  }

  expiredLaunches(now: number): string[] {
    return this.#prepared('SELECT id FROM launches WHERE ended_at IS NULL AND expires_at <= ?')
      .all(now)
      .map((row) => String(row['id']));
  }

  addLogin(login: StoredLogin): void {
    this.#prepared(
      'INSERT INTO logins (token_sha256, principal, roles, source, proof, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)',
    ).run(
      login.tokenSha256,
      login.principal,
      JSON.stringify(login.roles),
      login.source,
      login.proof,
      login.createdAt,
      login.expiresAt,
    );
  }

  login(tokenSha256: string): StoredLogin | null {
    const row = this.#prepared('SELECT * FROM logins WHERE token_sha256 = ?').get(tokenSha256);
    return row === undefined ? null : loginFrom(row);
  }

  removeLogin(tokenSha256: string): boolean {
    return Number(this.#prepared('DELETE FROM logins WHERE token_sha256 = ?').run(tokenSha256).changes) > 0;
  }

  latestLogin(principal: string, now: number): StoredLogin | null {
    const row = this.#prepared(
      'SELECT * FROM logins WHERE principal = ? AND expires_at > ? ORDER BY created_at DESC LIMIT 1',
    ).get(principal, now);
    return row === undefined ? null : loginFrom(row);
  }

  purge(now: number, before: number): void {
    this.#prepared('DELETE FROM logins WHERE expires_at <= ?').run(now);
    this.#prepared('DELETE FROM launches WHERE ended_at IS NOT NULL AND ended_at < ?').run(before);
  }

  close(): void {
    this.#database.close();
  }

  #prepared(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#database.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }
}

function migrate(database: DatabaseSync, path: string): void {
  const current = Number(database.prepare('PRAGMA user_version').get()?.['user_version'] ?? 0);
  if (current > MIGRATIONS.length)
    throw new Error(
      `${path} was written by a newer version of Sallyport (schema ${current}, known ${MIGRATIONS.length})`,
    );
  for (let version = current; version < MIGRATIONS.length; version += 1) {
    database.exec(`BEGIN IMMEDIATE; ${MIGRATIONS[version]}; PRAGMA user_version = ${version + 1}; COMMIT`);
  }
}

function loginFrom(row: Record<string, unknown>): StoredLogin {
  return {
    tokenSha256: String(row['token_sha256']),
    principal: String(row['principal']),
    roles: JSON.parse(String(row['roles'])) as string[],
    source: String(row['source']),
    proof: String(row['proof']),
    createdAt: Number(row['created_at']),
    expiresAt: Number(row['expires_at']),
  };
}

function launchFrom(row: Record<string, unknown>): StoredLaunch {
  const text = (name: string): string | null => (row[name] === null ? null : String(row[name]));
  const number = (name: string): number | null => (row[name] === null ? null : Number(row[name]));
  return {
    id: String(row['id']),
    principal: String(row['principal']),
    roles: JSON.parse(String(row['roles'])) as string[],
    source: String(row['source']),
    resource: String(row['resource']),
    rule: String(row['rule']),
    createdAt: Number(row['created_at']),
    expiresAt: Number(row['expires_at']),
    endedAt: number('ended_at'),
    endReason: text('end_reason'),
    databases: row['databases'] === null ? null : (JSON.parse(String(row['databases'])) as string[]),
    maxConnections: number('max_connections'),
    readOnly: Number(row['read_only']) === 1,
    reason: text('reason'),
    verifier:
      row['verifier'] === null
        ? null
        : (JSON.parse(String(row['verifier'])) as Record<string, string | number>),
  };
}
