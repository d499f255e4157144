import type { ClientBase } from 'pg';
import { IndexError } from './recording-index.ts';

/** Advisory locks of an index, in the database it has for itself: a first key of ours, and what for. */
export const LOCKS = { space: 0x5350_5258, schema: 1, texts: 2, alone: 3 } as const;

/** Each brings the tables from its place in the list to the next version. Never changed once released. */
const MIGRATIONS: readonly string[] = [
  `CREATE TABLE recording_sessions (
     number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE,
     gateway text NOT NULL DEFAULT '', principal text NOT NULL DEFAULT '', resource text NOT NULL DEFAULT '',
     engine text NOT NULL DEFAULT '', database text, database_user text NOT NULL DEFAULT '',
     client_address text NOT NULL DEFAULT '', client_program text, server_session text,
     started_at double precision NOT NULL DEFAULT 0, ended_at double precision, state text NOT NULL DEFAULT 'live',
     reason text, statements bigint NOT NULL DEFAULT 0, errors bigint NOT NULL DEFAULT 0,
     denied bigint NOT NULL DEFAULT 0, rows_returned bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0,
     parts bigint NOT NULL DEFAULT 0, held integer NOT NULL DEFAULT 0, risk integer, risk_reason text
   );
   CREATE INDEX ON recording_sessions (started_at DESC, id DESC);
   CREATE INDEX ON recording_sessions (ended_at) WHERE held = 0;
   CREATE INDEX ON recording_sessions (principal, started_at);
   CREATE INDEX ON recording_sessions (resource, started_at);
   CREATE INDEX ON recording_sessions (gateway) WHERE state = 'live';
   CREATE TABLE recording_texts (
     id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, hash bytea NOT NULL UNIQUE, text text,
     tables text[] NOT NULL, bare_tables text[] NOT NULL, effects text[] NOT NULL, risk integer, risk_reason text,
     words tsvector NOT NULL
   );
   CREATE INDEX ON recording_texts USING gin (words);
   CREATE INDEX ON recording_texts USING gin (bare_tables);
   CREATE INDEX ON recording_texts (risk) WHERE risk >= 2;
   CREATE TABLE recording_statements (
     session bigint NOT NULL, seq bigint NOT NULL, at double precision NOT NULL, kind text NOT NULL,
     text bigint NOT NULL, status text NOT NULL, rows_returned bigint, rows_affected bigint, duration_us bigint,
     error_code text, PRIMARY KEY (session, seq)
   );
   CREATE INDEX ON recording_statements (at DESC, seq DESC);
   CREATE INDEX ON recording_statements (text);
   CREATE TABLE recording_hold_changes (
     id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, session text NOT NULL, held integer NOT NULL,
     by text NOT NULL, at double precision NOT NULL
   );`,
];

export const VERSION = MIGRATIONS.length;

/**
 * Makes the tables or brings them up to date, one gateway after the other; where `changes` is false, only looks whether
 * they are. Rejects with an `IndexError` of code `version` where they are not, or are of a later version.
 */
export async function bringUpToDate(client: ClientBase, name: string, changes: boolean): Promise<void> {
  if ((await versionOf(client, name)) === VERSION) return;
  if (!changes)
    throw new IndexError(
      'version',
      `${name} was written by another version of Sallyport, or by none: a gateway brings it up to date at its start`,
    );
  await client.query('BEGIN');
  try {
    await client.query('SELECT pg_advisory_xact_lock($1, $2)', [LOCKS.space, LOCKS.schema]);
    const found = await versionOf(client, name);
    if (found === 0)
      await client.query(
        'CREATE TABLE recording_index_version (version integer NOT NULL); INSERT INTO recording_index_version VALUES (0)',
      );
    for (const migration of MIGRATIONS.slice(found)) await client.query(migration);
    await client.query('UPDATE recording_index_version SET version = $1', [VERSION]);
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    throw error;
  }
}

async function versionOf(client: ClientBase, name: string): Promise<number> {
  // From the catalogue itself: what the server remembers of names may be older than the lock that was just waited for.
  const { rows } = await client.query(
    "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'recording_index_version' AND pg_table_is_visible(oid)) AS there",
  );
  if (rows[0].there !== true) return 0;
  const version = Number(
    (await client.query('SELECT version FROM recording_index_version')).rows[0]?.version,
  );
  if (version > VERSION)
    throw new IndexError(
      'version',
      `${name} was written by a newer version of Sallyport (schema ${version}, known ${VERSION})`,
    );
  return version;
}
