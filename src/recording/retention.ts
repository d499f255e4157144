import type { IndexOwner, RecordingIndex, SessionRow } from '../store/recording-index.ts';
import type { AuditEvent } from './recorder.ts';
import { DELETED_ACTION } from './sealer.ts';
import { type RecordingStore, StoreError, sessionPrefix } from './store/store.ts';

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
  audit: (event: AuditEvent) => void,
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
      await index.remove(session.id);
      deleted += 1;
      audit({
        action: DELETED_ACTION,
        principal: session.principal,
        resource: session.resource,
        clientAddress: null,
        reason: 'retention',
        detail: { session: session.id, bytes },
      });
    } catch (error) {
      if (!(error instanceof StoreError) || error.code !== 'held') throw error;
    }
  }
  return deleted;
}

/** Puts on record what commands did to legal holds since the last time, also while the gateway did not run. */
export function recordHolds(index: RecordingIndex, audit: (event: AuditEvent) => void): Promise<void> {
  return index.recordHolds((changes) => {
    for (const { session, resource, held, by, at } of changes) {
      audit({
        action: held === 1 ? HELD_ACTION : RELEASED_ACTION,
        // Who did it is a user of the machine, and none of the gateway's principals.
        principal: null,
        resource,
        clientAddress: null,
        reason: 'command',
        detail: { session, by, done_at: new Date(at).toISOString() },
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
