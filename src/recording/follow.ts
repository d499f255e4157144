import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { decodeEvent } from './decode.ts';
import type { JournalEvent } from './events.ts';
import { JOURNAL_DIRECTORY } from './journal.ts';
import { JournalReader, listBoots, openBoot } from './reader.ts';
import { RecordingError } from './recorder.ts';

const POLL_MS = 100;

/**
 * Events of the running gateway as they reach its journal, from the oldest that is still there; of several processes, those
 * of each in order. Ends when `signal` is aborted. Rejects with a `RecordingError` when no identity opens the journal.
 */
export async function* followJournal(
  dataDir: string,
  identities: readonly string[],
  signal: AbortSignal,
): AsyncGenerator<{ event: JournalEvent; session: string | null }> {
  const directory = join(dataDir, JOURNAL_DIRECTORY);
  /** By boot; null for what cannot be opened. */
  const readers = new Map<string, JournalReader | null>();
  const look = async (): Promise<void> => {
    for (const boot of listBoots(directory)) {
      if (readers.has(boot)) continue;
      const { bootKey } = await openBoot(directory, boot, identities);
      readers.set(boot, bootKey === null ? null : new JournalReader(directory, boot, bootKey));
    }
  };
  await look();
  if (readers.size === 0)
    throw new RecordingError(`there is no journal in ${directory}: the gateway does not run`);
  if ([...readers.values()].every((reader) => reader === null))
    throw new RecordingError('no identity at hand opens the journal; name a key file with --identity');
  try {
    while (!signal.aborted) {
      let isQuiet = true;
      for (const reader of readers.values()) {
        for (let read = reader?.next(false) ?? null; read !== null; read = reader?.next(false) ?? null) {
          isQuiet = false;
          if (signal.aborted) return;
          if (read.kind !== 'batch') continue;
          for (const raw of read.events) yield { event: decodeEvent(raw.bytes), session: raw.session };
        }
      }
      if (!isQuiet) continue;
      await sleep(POLL_MS, undefined, { signal }).catch(() => {});
      await look();
    }
  } finally {
    for (const reader of readers.values()) reader?.close();
  }
}
