import type { IndexRows, RecordingIndex } from '../store/recording-index.ts';
import { IndexError } from '../store/recording-index.ts';
import type { JournalEvent } from './events.ts';
import { BehindSessions } from './index-behind.ts';
import { Indexer } from './indexer.ts';
import type { Library } from './library.ts';
import {
  INDEX_BATCH_ROWS,
  INDEX_KEPT_CHARACTERS_MAX,
  INDEX_KEPT_ROWS_MAX,
  INDEX_WAIT_MS,
  STORE_RETRY_MS_MAX,
  STORE_RETRY_MS_MIN,
} from './limits.ts';
import { inspectPart } from './recording.ts';
import type { PostgresParser } from './relations.ts';
import type { SealedPart, SealerLog } from './sealer.ts';

/** What metrics and readiness say of the index. */
export interface IndexStatus {
  /** Why it could not be written last; null when it could. */
  readonly error: string | null;
  /** Sessions that it does not know whole. */
  readonly behind: number;
  /** They are indexed again by themselves, or by a command with a key that opens them. */
  readonly catchesUp: boolean;
}

/**
 * Keeps the index in step with the journal, and never holds recordings up for it.
 *
 * Rows are written some thousand at once, in order, one transaction after the other. While the index is away, rows wait
 * up to a limit; beyond, they are dropped. Sessions whose part is sealed with rows not written are noted on disk first, for
 * what was heard of them is not heard again after a crash. When the index is back, those whose rows were lost are
 * indexed again from their recordings.
 */
export class IndexKeeper {
  readonly index: RecordingIndex;
  readonly #indexer: Indexer;
  readonly #make: () => Indexer;
  readonly #behind: BehindSessions;
  readonly #log: SealerLog;
  readonly #now: () => number;
  readonly #waitMs: number;
  readonly #retryMs: number;
  /** Batches to be written, in order. */
  #queue: { rows: IndexRows; count: number; characters: number }[] = [];
  #writing: Promise<void> | null = null;
  /** It was waited for already. */
  #isLate = false;
  #error: string | null = null;
  #retryAt = 0;
  #pauseMs: number;
  /** Sessions noted only because their rows wait. */
  readonly #waiting = new Set<string>();
  /** Sessions that cannot be indexed again in this run: that was tried. */
  readonly #given = new Set<string>();
  readonly #catchesUp: boolean;
  #catching: Promise<void> | null = null;
  #closed = false;

  constructor(
    index: RecordingIndex,
    options: {
      readonly dataDir: string;
      /** Keep statements, and not sessions alone. */
      readonly statements: boolean;
      readonly parser: PostgresParser | null;
      /** Recordings can be opened, so that sessions can be indexed again from them. */
      readonly catchesUp: boolean;
      readonly log: SealerLog;
      readonly now?: () => number;
      readonly waitMs?: number;
      readonly retryMs?: number;
    },
  ) {
    this.index = index;
    this.#make = () => new Indexer(index, options.statements, options.parser);
    this.#indexer = this.#make();
    this.#behind = new BehindSessions(options.dataDir);
    this.#catchesUp = options.catchesUp;
    this.#log = options.log;
    this.#now = options.now ?? Date.now;
    this.#waitMs = options.waitMs ?? INDEX_WAIT_MS;
    this.#retryMs = options.retryMs ?? STORE_RETRY_MS_MIN;
    this.#pauseMs = this.#retryMs;
  }

  get status(): IndexStatus {
    return {
      error: this.#error,
      behind: this.#behind.all ? Number.POSITIVE_INFINITY : this.#behind.size,
      catchesUp: this.#catchesUp && !this.#behind.all,
    };
  }

  hear(event: JournalEvent, session: string): void {
    this.#indexer.hear(event, session);
  }

  sealed(part: Pick<SealedPart, 'session' | 'part' | 'bytes'>): void {
    this.#indexer.sealed(part);
  }

  /** Behind some events: writes when enough rows have come together. Never rejects. */
  async batchHeard(): Promise<void> {
    if (this.#indexer.waiting >= INDEX_BATCH_ROWS) await this.flush();
  }

  /**
   * All that was heard of sessions is in the index when this resolves, or it is noted that it may not be: for their parts
   * are sealed now. Never rejects for anything the index does.
   */
  async settle(sessions: readonly string[]): Promise<void> {
    await this.#place();
    for (const session of sessions) this.#indexer.settle(session);
    if (await this.flush()) return;
    for (const session of sessions) {
      if (this.#behind.has(session)) continue;
      this.#waiting.add(session);
      this.#behind.add(session);
    }
  }

  /** Writes what waits; false when it could not be, or takes long. Never rejects. */
  async flush(): Promise<boolean> {
    await this.#place();
    this.#enqueue();
    if (this.#queue.length === 0) return this.#writing === null;
    if (this.#writing === null) {
      if (this.#now() < this.#retryAt) return false;
      this.#writing = this.#write().finally(() => {
        this.#writing = null;
        this.#isLate = false;
      });
    }
    if (this.#isLate) return false;
    await within(this.#writing, this.#waitMs);
    this.#isLate = this.#writing !== null;
    return this.#queue.length === 0 && this.#writing === null;
  }

  /** Work with the index that has time: null when it is away, or turns out to be. Never rejects. */
  async use<T>(work: (index: RecordingIndex) => Promise<T>): Promise<T | null> {
    if (this.#error !== null && this.#now() < this.#retryAt) return null;
    try {
      const result = await work(this.index);
      if (this.#queue.length === 0) this.#works();
      return result;
    } catch (error) {
      if (!(error instanceof IndexError)) throw error;
      this.#fails(error);
      return null;
    }
  }

  /** Indexes sessions again whose rows were lost, beside everything else. */
  catchUp(library: Library): void {
    if (!this.#catchesUp || this.#closed || this.#error !== null || this.#queue.length > 0) return;
    if (this.#behind.size === 0) return;
    this.#catching ??= this.#catchUp(library)
      .catch((error: unknown) => {
        if (!this.#closed)
          this.#log.error({ error: (error as Error).message }, 'the index could not be brought up to date');
      })
      .finally(() => {
        this.#catching = null;
      });
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.index.close();
    await this.#writing;
    await this.#catching;
  }

  async #place(): Promise<void> {
    const asks = this.#error === null || this.#now() >= this.#retryAt;
    for (const session of await this.#indexer.place(asks)) this.#behind.add(session);
  }

  #enqueue(): void {
    if (this.#indexer.waiting === 0) return;
    const { rows, characters } = this.#indexer.take();
    const count = rows.sessions.length + rows.statements.length + (rows.ends?.length ?? 0);
    this.#queue.push({ rows, count, characters });
    let kept = 0;
    let keptCharacters = 0;
    for (const batch of this.#queue) {
      kept += batch.count;
      keptCharacters += batch.characters;
    }
    if (kept <= INDEX_KEPT_ROWS_MAX && keptCharacters <= INDEX_KEPT_CHARACTERS_MAX) return;
    if (this.#queue.length === 1 && this.#error === null) return;
    this.#log.error({ rows: kept }, 'too many rows wait for the index; sessions will be indexed again');
    // The first may be on its way.
    for (const batch of this.#queue.splice(this.#writing === null ? 0 : 1)) this.#drop(batch.rows);
  }

  async #write(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue[0]!;
      try {
        await this.index.write(batch.rows);
      } catch (error) {
        if (!(error instanceof IndexError)) throw error;
        this.#fails(error);
        if (error.code !== 'failed') return;
        // Perhaps a row that the index does not take: it must not hold up all others.
        this.#queue.shift();
        this.#drop(batch.rows);
        return;
      }
      this.#queue.shift();
    }
    for (const session of this.#waiting) this.#behind.delete(session);
    this.#waiting.clear();
    this.#works();
  }

  #drop({ sessions, statements, ends }: IndexRows): void {
    const ids = new Set([
      ...sessions.map(({ id }) => id),
      ...[...statements, ...(ends ?? [])].map((row) => row.session),
    ]);
    for (const id of ids) {
      this.#waiting.delete(id);
      this.#behind.add(id);
    }
  }

  #works(): void {
    if (this.#error !== null) this.#log.info({}, 'the index of recordings can be written again');
    this.#error = null;
    this.#retryAt = 0;
    this.#pauseMs = this.#retryMs;
  }

  #fails(error: IndexError): void {
    if (this.#closed) return;
    if (this.#error === null)
      this.#log.error({ error: error.message }, 'the index of recordings cannot be written');
    this.#error = error.message;
    this.#retryAt = this.#now() + this.#pauseMs;
    this.#pauseMs = Math.min(this.#pauseMs * 2, STORE_RETRY_MS_MAX);
  }

  async #catchUp(library: Library): Promise<void> {
    let done = 0;
    for (const session of this.#behind.refresh()) {
      if (this.#closed || this.#error !== null) break;
      // One that goes on is heard still; one that waits is written soon.
      if (this.#given.has(session) || this.#waiting.has(session) || this.#indexer.isOpen(session)) continue;
      try {
        if (!(await reindex(session, library, this.#make()))) continue;
        this.#behind.delete(session);
        done += 1;
      } catch (error) {
        if (error instanceof IndexError && error.code !== 'failed') {
          this.#fails(error);
          break;
        }
        this.#given.add(session);
        this.#log.error({ session, error: (error as Error).message }, 'a session could not be indexed again');
      }
    }
    if (done > 0) this.#log.info({ sessions: done }, 'sessions were indexed again from their recordings');
  }
}

/** Resolves with `work`, or after `milliseconds`. */
function within(work: Promise<void>, milliseconds: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    timer.unref();
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/**
 * Indexes a session from its recording. False when it goes on: the rest is heard as it happens. A session that has no
 * recording any more needs none in the index. Rejects with an `IndexError`, a `RecordingError` or a `StoreError`.
 */
export async function reindex(session: string, library: Library, indexer: Indexer): Promise<boolean> {
  const parts = await library.parts(session);
  const last = parts.at(-1);
  if (last === undefined) return true;
  const state = inspectPart(await library.read(last)).trailer?.state;
  if (state === undefined || state === 'open') return false;
  let ofGateway = true;
  for await (const event of library.events(session)) {
    if (event.type === 'session_started') ofGateway = false;
    if (ofGateway) continue;
    indexer.hear(event, session);
    if (indexer.waiting >= INDEX_BATCH_ROWS) await indexer.write();
  }
  if (ofGateway) return true;
  for (const { part, size } of parts) indexer.sealed({ session, part, bytes: size });
  await indexer.write();
  return true;
}
