import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { App } from '../../../src/app.ts';
import { parseConfig } from '../../../src/config/load.ts';
import { makeLog } from '../../../src/log.ts';
import type { JournalEvent } from '../../../src/recording/events.ts';
import { knownSigningKeys, loadRecordingKeys } from '../../../src/recording/keys.ts';
import { Library } from '../../../src/recording/library.ts';
import { pcapng } from '../../../src/recording/pcapng.ts';
import { framesOf, statementsOf } from '../../../src/recording/replay.ts';
import { DirectoryStore } from '../../../src/recording/store/directory.ts';
import { verifySession } from '../../../src/recording/verify.ts';
import { freePort, type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { collected, TemporaryDirectory } from '../../support/recording.ts';

/** A whole gateway before a real PostgreSQL: what is on record is compared with what the client saw. */
let server: PostgresServer;
let directory: TemporaryDirectory;
let app: App;
let port: number;

beforeAll(async () => {
  server = await startPostgres({
    major: 18,
    setup: `CREATE TABLE people (id int, name text, ssn text);
      INSERT INTO people SELECT n, 'person ' || n, 'secret-' || n FROM generate_series(1, 100) n;
      GRANT ALL ON people TO PUBLIC;`,
  });
  directory = new TemporaryDirectory();
  port = await freePort();
  process.env['SESSION_TEST_PASSWORD'] = server.accounts.launch.password ?? '';
  const text = `
gateway: { name: gw, data_dir: ${JSON.stringify(join(directory.path, 'data'))} }
http: { listen: "127.0.0.1:0" }
secrets: { env: { type: env } }
recording:
  store: { type: directory, path: ${JSON.stringify(join(directory.path, 'store'))} }
  streams: { lines: { type: file, path: ${JSON.stringify(join(directory.path, 'events.jsonl'))} } }
resources:
  appdb:
    type: postgres
    host: ${server.host}
    port: ${server.port}
    database: ${server.database}
    tls: { mode: disable }
    launch_credentials: { username: ${server.accounts.launch.user}, password: "env:SESSION_TEST_PASSWORD" }
    recording: { sample_rows: 3, raw_frames: true, masks: [{ columns: [ssn] }] }
listeners:
  - { listen: "127.0.0.1:${port}", resource: appdb, principal: ana }
`;
  app = await App.start(parseConfig(text, 'test.yaml', { files: false }), makeLog('json', 'silent'));
});

afterAll(async () => {
  await app?.stop(0);
  await server?.stop();
  directory?.[Symbol.dispose]();
  delete process.env['SESSION_TEST_PASSWORD'];
});

async function eventsOf(library: Library, session: string): Promise<JournalEvent[]> {
  const events: JournalEvent[] = [];
  for await (const event of library.events(session)) events.push(event);
  return events;
}

test('the recording has what the client saw, masked where it must be, and nothing of the password', async () => {
  const client = new pg.Client({ host: '127.0.0.1', port, user: 'whoever', database: server.database });
  await client.connect();
  const seen = [
    await client.query('SELECT id, name, ssn FROM people WHERE id > $1 ORDER BY id', [90]),
    await client.query('UPDATE people SET name = upper(name) WHERE id <= 7'),
    await client.query(`SELECT count(*) FROM people WHERE ssn = 'secret-5'`),
  ];
  const failed = await client.query('SELECT * FROM nowhere').catch((error: pg.DatabaseError) => error);
  await client.end();
  const dataDir = join(directory.path, 'data');
  const { identities } = await loadRecordingKeys(dataDir, []);
  const library = new Library({
    store: new DirectoryStore(join(directory.path, 'store')),
    dataDir,
    identities,
  });
  let session = '';
  await expect
    .poll(
      async () => {
        const [latest] = [...(await library.allParts())].filter(([id]) => id !== app.journal.boot);
        session = latest?.[0] ?? '';
        return session;
      },
      { timeout: 20_000 },
    )
    .not.toBe('');
  const events = await eventsOf(library, session);
  expect(events[0]).toMatchObject({
    type: 'session_started',
    principal: 'ana',
    resource: 'appdb',
    client_user: 'whoever',
  });
  const statements = statementsOf(events);
  const [selected, updated, counted, wrong] = statements;
  expect(statements.length).toBe(4);
  expect(selected).toMatchObject({
    text: 'SELECT id, name, ssn FROM people WHERE id > $1 ORDER BY id',
    status: 'ok',
    rows_returned: seen[0]!.rowCount,
    columns: seen[0]!.fields.map(({ name }) => name),
    sample: seen[0]!.rows.slice(0, 3).map(({ id, name }) => [String(id), name, '***']),
  });
  expect(selected!.parameters).toMatchObject([{ value: '90' }]);
  expect(updated).toMatchObject({ status: 'ok', rows_affected: seen[1]!.rowCount, tag: 'UPDATE 7' });
  expect(counted!.text).toBe(`SELECT count(*) FROM people WHERE ssn = '***'`);
  expect(wrong).toMatchObject({ status: 'error', error: { code: (failed as pg.DatabaseError).code } });
  expect(events.at(-1)).toMatchObject({ type: 'session_ended', reason: 'client_closed', statements: 4 });

  const parts = await library.parts(session);
  const verified = await verifySession(
    library,
    session,
    parts,
    knownSigningKeys(dataDir),
    await library.openSessions(),
  );
  expect(verified).toMatchObject({ proven: true, statements: 4, state: 'ended' });
  const played = (await collected(framesOf(events))).map(({ text }) => text).join('\n');
  expect(played).toMatch(/#2 UPDATE people .*\n.*→ ok, 7 rows affected/);
  const capture = Buffer.concat(await collected(pcapng(events)));
  expect(capture.includes('UPDATE people SET name')).toBe(true);
  const withoutFrames = JSON.stringify(events.filter(({ type }) => type !== 'frame'));
  expect(withoutFrames).not.toContain('secret-5');
  const password = server.accounts.launch.password!;
  for (const text of [withoutFrames, capture.toString('latin1')]) expect(text).not.toContain(password);
}, 60_000);
