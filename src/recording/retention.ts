import { createHash } from 'node:crypto';
import type { IndexOwner, RecordingIndex, SessionRow } from '../store/recording-index.ts';
import type { AuditEvent } from './recorder.ts';
import { bundlesIn } from './recovery.ts';
import { DELETED_ACTION } from './sealer.ts';
import { idTime, type RecordingStore, StoreError, sessionPrefix } from './store/store.ts';

/** How long recordings stay, by resource. */
export interface Retention {
  /** Null: for ever. */
  readonly defaultMs: number | null;
  readonly byResource: Readonly<Record<string, number>>;
  /** Resources under legal hold: nothing of them is deleted. */
  readonly held: readonly string[];
  /** Whose sessions it deletes where several gateways share an index; all of them where it is not given. */
  readonly owner?: IndexOwner;
}

/** Audit events of a legal hold that was set or lifted by a command. */
const HELD_ACTION = 'recording_held';
const RELEASED_ACTION = 'recording_released';
/** The stored journal of a run that crashed, which only reviewers could open, was deleted. */
const BUNDLE_DELETED_ACTION = 'journal_bundle_deleted';

/** Puts an event on record; resolves when it is as durable as is configured, rejects when it cannot be. */
export type Audit = (event: AuditEvent) => void | Promise<void>;

/** Sessions looked at in one round. */
const ROUND_MAX = 500;

export function retains(retention: Retention): boolean {
  return retention.defaultMs !== null || Object.keys(retention.byResource).length > 0;
}

/**
 * Deletes the recordings whose time is over, from the store and the index, and puts each deletion on record by `audit`.
 * What is under legal hold, by session or by resource, stays; what the store itself holds (object lock) stays until the
 * store lets it go. Gives the number of sessions deleted.
 */
export async function applyRetention(
  retention: Retention,
  index: RecordingIndex,
  store: RecordingStore,
  audit: Audit,
  now: number,
): Promise<number> {
  let deleted = 0;
  for await (const session of overdue(retention, index, now)) {
    try {
      let bytes = 0;
      for (const { key, size } of await store.list(sessionPrefix(session.id))) {
        await store.delete(key);
        bytes += size;
      }
      // Before the index forgets it: after a crash in between it is deleted, and said, once more.
      await audit({
        action: DELETED_ACTION,
        principal: session.principal,
        resource: session.resource,
        clientAddress: null,
        reason: 'retention',
        detail: { session: session.id, bytes },
      });
      await index.remove(session.id);
      deleted += 1;
    } catch (error) {
      if (!(error instanceof StoreError) || error.code !== 'held') throw error;
    }
  }
  return deleted;
}

/**
 * Deletes the stored journals of runs that crashed and that only reviewers can open, when their time is over. What is in
 * them cannot be known here: the longest retention of all applies, from when they were stored; while a resource is under
 * legal hold they stay, and so does one from whose time a session is held. Gives the number of journals deleted.
 */
export async function deleteBundles(
  retention: Retention,
  index: RecordingIndex,
  store: RecordingStore,
  audit: Audit,
  now: number,
): Promise<number> {
  if (retention.defaultMs === null || retention.held.length > 0) return 0;
  const longest = Math.max(retention.defaultMs, ...Object.values(retention.byResource));
  let deleted = 0;
  for (const bundle of await bundlesIn(store)) {
    if (bundle.storedAt >= now - longest) continue;
    if (retention.owner !== undefined && bundle.gateway !== retention.owner.gateway) continue;
    const during = { held: true as const, since: idTime(bundle.boot), until: bundle.storedAt + 1, limit: 1 };
    if ((await index.sessions(during)).length > 0) continue;
    try {
      for (const key of bundle.segments) await store.delete(key);
      await audit({
        action: BUNDLE_DELETED_ACTION,
        principal: null,
        resource: null,
        clientAddress: null,
        reason: 'retention',
        detail: { boot: bundle.boot, segments: bundle.segments.length, bytes: bundle.bytes },
      });
      // Its list goes last: as long as it is there, what is left is found again.
      if (bundle.manifest !== null) await store.delete(bundle.manifest);
      deleted += 1;
    } catch (error) {
      if (!(error instanceof StoreError) || error.code !== 'held') throw error;
    }
  }
  return deleted;
}

/**
 * Puts on record what commands did to legal holds since the last time, also while the gateway did not run. The index
 * forgets a change when it is durably on record; after a crash in between it is there twice, with the same `change`.
 */
export function recordHolds(index: RecordingIndex, audit: Audit): Promise<void> {
  return index.recordHolds(async (changes) => {
    for (const { session, resource, held, by, at } of changes) {
      const change = createHash('sha256')
        .update(JSON.stringify([session, held, by, at]))
        .digest('hex');
      await audit({
        action: held === 1 ? HELD_ACTION : RELEASED_ACTION,
        // Who did it is a user of the machine, and none of the gateway's principals.
        principal: null,
        resource,
        clientAddress: null,
        reason: 'command',
        detail: { session, by, done_at: new Date(at).toISOString(), change: change.slice(0, 16) },
      });
    }
  });
}

async function* overdue(
  retention: Retention,
  index: RecordingIndex,
  now: number,
): AsyncGenerator<SessionRow> {
  const periods = [retention.defaultMs, ...Object.values(retention.byResource)].filter(
    (period) => period !== null,
  );
  const shortest = Math.min(...periods);
  if (!Number.isFinite(shortest)) return;
  // The index lists the latest first: the oldest are its last pages, and those that stay must not hide the others.
  for (const session of await index.endedBefore(now - shortest, ROUND_MAX, retention.owner)) {
    if (session.held === 1 || retention.held.includes(session.resource)) continue;
    const period = retention.byResource[session.resource] ?? retention.defaultMs;
    if (period !== null && session.ended_at !== null && session.ended_at < now - period) yield session;
  }
}
