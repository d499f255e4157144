import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { decodeEvent } from './decode.ts';
import type { JournalEvent } from './events.ts';
import { JOURNAL_DIRECTORY } from './journal.ts';
import { JournalReader, listBoots, openBoot } from './reader.ts';
import { RecordingError } from './recorder.ts';

const POLL_MS = 100;

/**
 * Events of the running gateway as they reach its journal, from the oldest that is still there. Ends when `signal` is
 * aborted, or when the gateway closes its journal and no other follows. Rejects with a `RecordingError` when no identity
 * opens the journal.
 */
export async function* followJournal(
  dataDir: string,
  identities: readonly string[],
  signal: AbortSignal,
): AsyncGenerator<{ event: JournalEvent; session: string | null }> {
  const directory = join(dataDir, JOURNAL_DIRECTORY);
  let boot = listBoots(directory).at(-1);
  if (boot === undefined)
    throw new RecordingError(`there is no journal in ${directory}: the gateway does not run`);
  for (;;) {
    const { bootKey } = await openBoot(directory, boot, identities);
    if (bootKey === null)
      throw new RecordingError('no identity at hand opens the journal; name a key file with --identity');
    const reader = new JournalReader(directory, boot, bootKey);
    try {
      while (!signal.aborted) {
        const read = reader.next(false);
        if (read?.kind === 'batch') {
          for (const raw of read.events) yield { event: decodeEvent(raw.bytes), session: raw.session };
          continue;
        }
        if (read !== null) continue;
        const latest = listBoots(directory).at(-1);
        if (latest !== undefined && latest !== boot) {
          boot = latest;
          break;
        }
        await sleep(POLL_MS, undefined, { signal }).catch(() => {});
      }
    } finally {
      reader.close();
    }
    if (signal.aborted) return;
  }
}
