import { readlinkSync } from 'node:fs';
import { setPriority } from 'node:os';

/**
 * Makes the thread that calls it nicer (`nice(2)`, 0 to 19): on Linux each thread has a niceness of its own. Elsewhere, and
 * where the system does not allow it, nothing happens.
 */
export function yieldToOthers(niceness: number): void {
  if (process.platform !== 'linux') return;
  try {
    const thread = readlinkSync('/proc/thread-self').split('/').at(-1);
    setPriority(Number(thread), niceness);
  } catch {
    // Without /proc, or forbidden: it is a courtesy.
  }
}
