import { unlink } from 'node:fs/promises';
import { STORE_RETRY_MS_MAX, STORE_RETRY_MS_MIN } from './limits.ts';
import { type SpoolFile, spoolFiles } from './sealer.ts';
import { partKey, type RecordingStore } from './store/store.ts';

const PARALLEL_MAX = 8;

/** What waits for the store, and whether it can be reached. */
export interface SpoolState {
  readonly files: number;
  readonly bytes: number;
  /** Why the last attempt failed; null when it did not. */
  readonly error: string | null;
}

/** Carries sealed parts from the spool to the store, in the order of their ids, until the store has them all. */
export class Uploader {
  readonly #spool: string;
  readonly #store: RecordingStore;
  readonly #stored: (file: SpoolFile) => void;
  readonly #log: { error(fields: object, message: string): void };
  #error: string | null = null;
  #failures = 0;
  #notBefore = 0;
  readonly #now: () => number;

  constructor(
    spool: string,
    store: RecordingStore,
    log: { error(fields: object, message: string): void },
    stored: (file: SpoolFile) => void = () => {},
    now: () => number = Date.now,
  ) {
    this.#spool = spool;
    this.#store = store;
    this.#stored = stored;
    this.#log = log;
    this.#now = now;
  }

  get state(): SpoolState {
    const files = spoolFiles(this.#spool);
    return {
      files: files.length,
      bytes: files.reduce((sum, { size }) => sum + size, 0),
      error: this.#error,
    };
  }

  /**
   * Stores what waits. After a failure nothing is tried for a while, longer each time, unless `now` is set. Never
   * rejects; gives the number of parts stored.
   */
  async run(now = false): Promise<number> {
    if (!now && this.#now() < this.#notBefore) return 0;
    const waiting = spoolFiles(this.#spool);
    let stored = 0;
    for (let at = 0; at < waiting.length; at += PARALLEL_MAX) {
      const results = await Promise.allSettled(
        waiting.slice(at, at + PARALLEL_MAX).map((file) => this.#put(file)),
      );
      stored += results.filter(({ status }) => status === 'fulfilled').length;
      const failed = results.find((result) => result.status === 'rejected');
      if (failed !== undefined) {
        // One failure a round, however many parts it took with it: the pause grows by rounds.
        this.#fail(failed.reason);
        return stored;
      }
    }
    if (waiting.length > 0) {
      this.#error = null;
      this.#failures = 0;
    }
    return stored;
  }

  async #put(file: SpoolFile): Promise<void> {
    await this.#store.put(partKey(file.session, file.part), file.path);
    await unlink(file.path);
    this.#stored(file);
  }

  #fail(error: unknown): void {
    this.#failures += 1;
    const pause = Math.min(STORE_RETRY_MS_MAX, STORE_RETRY_MS_MIN * 2 ** Math.min(10, this.#failures - 1));
    this.#notBefore = this.#now() + pause;
    const text = error instanceof Error ? error.message : String(error);
    if (this.#error !== text)
      this.#log.error({ store: this.#store.name, error: text }, 'the store of recordings is away');
    this.#error = text;
  }
}
