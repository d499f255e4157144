import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import { describe, expect, test } from 'vitest';
import { Statement } from '../../protocols/statement.ts';
import { sessionStart, TemporaryDirectory } from '../../test/support/recording.ts';
import { parseConfig } from '../config/load.ts';
import { newId } from '../lib/id.ts';
import { makeLog } from '../log.ts';
import { Metrics } from '../metrics.ts';
import { SqliteRecordingIndex } from '../store/recording-index-sqlite.ts';
import type { JournalEvent } from './events.ts';
import { INDEX_FILE } from './index-store.ts';
import { loadRecordingKeys } from './keys.ts';
import { Library } from './library.ts';
import type { AuditEvent } from './recorder.ts';
import { applyRetention, recordHolds } from './retention.ts';
import { Recording } from './setup.ts';
import { DirectoryStore } from './store/directory.ts';
import { StoreError } from './store/store.ts';

const DAY = 86_400_000;

async function start(
  root: string,
  recording: string,
  resource = '{}',
): Promise<{ recording: Recording; metrics: Metrics }> {
  const text = `
gateway: { name: gw-test, data_dir: ${JSON.stringify(join(root, 'data'))} }
recording: { seal_every: 200ms, store: { type: directory, path: ${JSON.stringify(join(root, 'store'))} }, ${recording} }
resources:
  orders: { type: postgres, host: localhost, launch_credentials: { username: app }, recording: ${resource} }
`;
  const { config } = parseConfig(text, 'test.yaml', { files: false });
  const metrics = new Metrics();
  return { recording: await Recording.start(config, metrics, makeLog('json', 'silent')), metrics };
}

function talk(recording: Recording, ...texts: string[]): string {
  const record = recording.journal.session(sessionStart(newId()));
  for (const text of texts) {
    const statement = new Statement('query', text, Buffer.byteLength(text));
    record.begin(statement);
    statement.status = 'error';
    statement.error = { code: '42601', message: `syntax error at or near "${text.slice(-12)}"` };
    record.end(statement);
  }
  record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
  recording.journal.flush();
  return record.id;
}

async function eventsOf(root: string, session: string): Promise<JournalEvent[]> {
  const dataDir = join(root, 'data');
  const { identities } = await loadRecordingKeys(dataDir, []);
  const library = new Library({ store: new DirectoryStore(join(root, 'store')), dataDir, identities });
  const events: JournalEvent[] = [];
  for await (const event of library.events(session)) events.push(event);
  return events;
}

describe('the recording side as the gateway starts it', () => {
  test('seals in its thread, and has everything in the store when it is closed', async () => {
    using directory = new TemporaryDirectory();
    const { recording } = await start(directory.path, '');
    const id = talk(recording, 'SELECT 1');
    await expect.poll(() => recording.status.partsStored, { timeout: 10_000 }).toBeGreaterThan(0);
    await recording.close(10_000);
    expect((await eventsOf(directory.path, id)).map(({ type }) => type)).toEqual([
      'session_started',
      'statement_started',
      'statement_ended',
      'session_ended',
    ]);
  });

  test('masks what the configuration says before anything is written, and what the server repeats of it', async () => {
    using directory = new TemporaryDirectory();
    const { recording } = await start(
      directory.path,
      '',
      `{ masks: [{ columns: [ssn] }, { pattern: 'card-\\d+' }] }`,
    );
    const id = talk(
      recording,
      `ALTER ROLE app PASSWORD 'hunter22222'`,
      `SELECT 1 FROM people WHERE ssn = '111-22-3333'`,
      `SELECT 'card-4111', 'open'`,
    );
    await recording.close(10_000);
    const events = await eventsOf(directory.path, id);
    const whole = JSON.stringify(events);
    expect(whole).not.toMatch(/hunter|22222|111-22|4111/);
    expect(whole).toContain('open');
    const started = events.filter((event) => event.type === 'statement_started');
    expect(started.map(({ masked }) => masked)).toEqual([true, true, true]);
    const index = new SqliteRecordingIndex(join(directory.path, 'data', INDEX_FILE), { readOnly: true });
    expect(JSON.stringify(await index.search({ limit: 10 }))).not.toMatch(/hunter|111-22|4111/);
    await index.close();
  });

  test('a spool that is full refuses sessions like a journal that failed, until the store is back', async () => {
    using directory = new TemporaryDirectory();
    const storePath = join(directory.path, 'store');
    writeFileSync(storePath, 'not a folder');
    const { recording, metrics } = await start(directory.path, 'spool_limit_mib: 1');
    const failures: Error[] = [];
    recording.journal.onFailure((error) => failures.push(error));
    const noise = (): string => Array.from({ length: 600 }, () => Math.random().toString(36)).join('');
    for (let round = 0; round < 300; round += 1) talk(recording, noise());
    await expect
      .poll(() => recording.journal.blocked?.message, { timeout: 20_000 })
      .toMatch(/wait on disk for their store/);
    expect(failures.length).toBe(1);
    await expect
      .poll(() => String(recording.warning), { timeout: 20_000 })
      .toMatch(/cannot be written.*parts of recordings wait on disk/);
    expect(() => recording.journal.session(sessionStart(newId()))).toThrow(/cannot be written/);
    expect((await metrics.recordingSpoolBytes.get()).values[0]!.value).toBeGreaterThan(1024 * 1024);
    rmSync(storePath);
    await expect.poll(() => recording.journal.blocked, { timeout: 20_000 }).toBeNull();
    talk(recording, 'SELECT 1');
    await recording.close(10_000);
    expect(recording.status.spoolFiles).toBe(0);
  }, 60_000);

  test('with recipients and a recovery identity, the gateway finishes what a crash left', async () => {
    using directory = new TemporaryDirectory();
    const identity = await generateX25519Identity();
    const path = join(directory.path, 'recovery.key');
    writeFileSync(path, `# created for recovery\n${identity}\n`, { mode: 0o600 });
    const settings = `recipients: [${await identityToRecipient(identity)}], recovery_identity: ${JSON.stringify(path)}`;
    const first = await start(directory.path, settings);
    expect(existsSync(join(directory.path, 'data', 'recording.key'))).toBe(false);
    const id = talk(first.recording, 'SELECT 1');
    await first.recording.close(10_000);
    const library = new Library({
      store: new DirectoryStore(join(directory.path, 'store')),
      dataDir: null,
      identities: [identity],
    });
    const types: string[] = [];
    for await (const event of library.events(id)) types.push(event.type);
    expect(types).toContain('statement_started');
    await expect(start(directory.path, `recovery_identity: /nowhere`)).rejects.toThrow(/recovery_identity/);
  });
});

describe('retention', () => {
  test('deletes what is over by resource, keeps what is held by session, resource or store, and puts it on record', async () => {
    using directory = new TemporaryDirectory();
    const store = new DirectoryStore(join(directory.path, 'store'));
    const index = new SqliteRecordingIndex(':memory:');
    const now = Date.UTC(2026, 10, 24);
    const add = async (resource: string, daysAgo: number): Promise<string> => {
      const ended = now - daysAgo * DAY;
      const id = newId(ended);
      const part = join(directory.path, id);
      writeFileSync(part, resource);
      const { partKey } = await import('./store/store.ts');
      await store.put(partKey(id, 1), part);
      await index.write({
        sessions: [{ id, set: { resource, started_at: ended, ended_at: ended, state: 'ended' }, add: {} }],
        statements: [],
      });
      return id;
    };
    const old = await add('orders', 40);
    const young = await add('orders', 20);
    const long = await add('ledger', 40);
    const held = await add('orders', 41);
    const hold = await add('court', 400);
    const locked = await add('orders', 42);
    await index.hold(held, true, 'ana');
    const refusing = Object.assign(Object.create(store) as DirectoryStore, {
      delete: (key: string) =>
        key.includes(locked) ? Promise.reject(new StoreError('held', 'locked')) : store.delete(key),
      list: (prefix: string) => store.list(prefix),
    });
    const audited: AuditEvent[] = [];
    await recordHolds(index, (event) => void audited.push(event));
    await recordHolds(index, (event) => void audited.push(event));
    expect(audited.splice(0)).toMatchObject([
      { action: 'recording_held', resource: 'orders', detail: { session: held, by: 'ana' } },
    ]);
    const retention = { defaultMs: 30 * DAY, byResource: { ledger: 365 * DAY }, held: ['court'] };
    expect(await applyRetention(retention, index, refusing, (event) => void audited.push(event), now)).toBe(
      1,
    );
    expect(audited).toMatchObject([
      { action: 'recording_deleted', resource: 'orders', detail: { session: old } },
    ]);
    const left = (await index.sessions({ limit: 10 })).map(({ id }) => id);
    expect(left.sort()).toEqual([young, long, held, hold, locked].sort());
    expect((await store.list('')).length).toBe(5);
    await index.close();
  });
});
