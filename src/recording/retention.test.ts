import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import { describe, expect, test } from 'vitest';
import { Statement } from '../../protocols/statement.ts';
import { sessionStart, TemporaryDirectory } from '../../test/support/recording.ts';
import { newId } from '../lib/id.ts';
import { SqliteRecordingIndex } from '../store/recording-index-sqlite.ts';
import { openJournal } from './journal.ts';
import { loadSigningKey } from './keys.ts';
import type { AuditEvent } from './recorder.ts';
import { bundlesIn, recoverJournal } from './recovery.ts';
import { deleteBundles, type Retention, recordHolds } from './retention.ts';
import { DirectoryStore } from './store/directory.ts';
import { StoreError } from './store/store.ts';

const DAY = 86_400_000;

describe('a legal hold that a command sets', () => {
  test('stays to be recorded until it is on record, and is known again when it comes twice', async () => {
    using directory = new TemporaryDirectory();
    const path = join(directory.path, 'index.sqlite');
    const id = newId();
    const first = new SqliteRecordingIndex(path);
    await first.write({
      sessions: [{ id, set: { resource: 'orders', started_at: 1 }, add: {} }],
      statements: [],
    });
    await first.hold(id, true, 'ana');
    const heard: AuditEvent[] = [];
    // The journal cannot be written.
    const refused = recordHolds(first, (event) => {
      heard.push(event);
      return Promise.reject(new Error('the journal cannot be written'));
    });
    await expect(refused).rejects.toThrow('cannot be written');
    // The process ends while the journal is being written.
    void recordHolds(first, (event) => {
      heard.push(event);
      return new Promise<void>(() => {});
    });
    await expect.poll(() => heard.length).toBe(2);
    await first.close();
    const second = new SqliteRecordingIndex(path);
    await recordHolds(second, (event) => void heard.push(event));
    await recordHolds(second, (event) => void heard.push(event));
    expect(heard.map(({ action, detail }) => [action, detail?.['session']])).toEqual(
      Array.from({ length: 3 }, () => ['recording_held', id]),
    );
    expect(new Set(heard.map(({ detail }) => detail?.['change'])).size).toBe(1);
    await second.hold(id, false, 'ana');
    await recordHolds(second, (event) => void heard.push(event));
    expect(heard[3]).toMatchObject({ action: 'recording_released' });
    expect(heard[3]!.detail!['change']).not.toBe(heard[0]!.detail!['change']);
    await second.close();
  });
});

describe('the stored journal of a run that crashed', () => {
  /** Gives the store with one, the session in it, and the index. */
  async function crashed(path: string) {
    const dataDir = join(path, 'data');
    mkdirSync(dataDir);
    const store = new DirectoryStore(join(path, 'store'));
    const recipients = [await identityToRecipient(await generateX25519Identity())];
    const journal = await openJournal({
      dataDir,
      gateway: 'gw-1',
      keys: { recipients, identities: [] },
      durability: 'flushed',
      onFailure: 'refuse',
    });
    const record = journal.session(sessionStart(newId()));
    const startedAt = Date.now();
    record.begin(new Statement('query', 'SELECT 1', 8));
    journal.rotate();
    record.begin(new Statement('query', 'SELECT 2', 8));
    await journal.close();
    await recoverJournal({
      journalDirectory: journal.directory,
      spoolDirectory: join(dataDir, 'spool'),
      gateway: 'gw-1',
      recipients,
      signing: loadSigningKey(dataDir),
      store,
      isCurrent: () => false,
      identities: [],
    });
    const index = new SqliteRecordingIndex(':memory:');
    await index.write({
      sessions: [{ id: record.id, set: { resource: 'orders', started_at: startedAt }, add: {} }],
      statements: [],
    });
    const other = join(path, 'other');
    writeFileSync(other, 'a recording');
    await store.put('2026/11/24/other', other);
    return { store, index, session: record.id, boot: journal.boot };
  }

  const retention: Retention = {
    defaultMs: 10 * DAY,
    byResource: { ledger: 30 * DAY, orders: DAY },
    held: [],
  };

  test('goes when the longest retention is over, and its deletion is on record', async () => {
    using directory = new TemporaryDirectory();
    const { store, index, boot } = await crashed(directory.path);
    const audited: AuditEvent[] = [];
    const run = (more: Partial<Retention>, days: number): Promise<number> =>
      deleteBundles(
        { ...retention, ...more },
        index,
        store,
        (event) => void audited.push(event),
        Date.now() + days * DAY,
      );
    const [bundle] = await bundlesIn(store);
    expect(bundle).toMatchObject({ boot, gateway: 'gw-1', segments: { length: 2 } });
    expect(await run({}, 29)).toBe(0);
    expect(await run({ defaultMs: null }, 4000)).toBe(0);
    expect(await run({ held: ['court'] }, 4000)).toBe(0);
    expect(await run({ owner: { gateway: 'gw-2', resources: ['orders'] } }, 4000)).toBe(0);
    expect(audited).toEqual([]);
    expect(await run({ owner: { gateway: 'gw-1', resources: [] } }, 31)).toBe(1);
    expect(audited).toMatchObject([
      {
        action: 'journal_bundle_deleted',
        reason: 'retention',
        detail: { boot, segments: 2, bytes: bundle!.bytes },
      },
    ]);
    expect((await store.list('')).map(({ key }) => key)).toEqual(['2026/11/24/other']);
    await index.close();
  });

  test('stays while a session of its time is held, and while the store has locked it', async () => {
    using directory = new TemporaryDirectory();
    const { store, index, session } = await crashed(directory.path);
    const run = (to: DirectoryStore): Promise<number> =>
      deleteBundles(retention, index, to, () => {}, Date.now() + 4000 * DAY);
    await index.hold(session, true, 'ana');
    expect(await run(store)).toBe(0);
    await index.hold(session, false, 'ana');
    const locked = new DirectoryStore(join(directory.path, 'store'));
    locked.delete = () => Promise.reject(new StoreError('held', 'locked'));
    expect(await run(locked)).toBe(0);
    expect(await bundlesIn(store)).toMatchObject([{ segments: { length: 2 } }]);
    expect(await run(store)).toBe(1);
    await index.close();
  });

  test('whose deletion was cut short is deleted in the next round, and said again', async () => {
    using directory = new TemporaryDirectory();
    const { store, index, boot } = await crashed(directory.path);
    const later = Date.now() + 4000 * DAY;
    const cut = deleteBundles(retention, index, store, () => Promise.reject(new Error('crash')), later);
    await expect(cut).rejects.toThrow('crash');
    const audited: AuditEvent[] = [];
    expect(await deleteBundles(retention, index, store, (event) => void audited.push(event), later)).toBe(1);
    expect(audited).toMatchObject([{ detail: { boot } }]);
    expect(await bundlesIn(store)).toEqual([]);
    await index.close();
  });
});
