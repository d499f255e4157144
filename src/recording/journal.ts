import { randomBytes } from 'node:crypto';
import { closeSync, fdatasync, fsyncSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import type { Parameter, Statement } from '../../protocols/statement.ts';
import { newId } from '../lib/id.ts';
import type { JournalEvent } from './events.ts';
import { timeText } from './events.ts';
import { EventBuffer } from './format.ts';
import { JournalSession, type Masker } from './journal-session.ts';
import { type RecordingKeys, wrapKey } from './keys.ts';
import {
  BATCH_BYTES_MAX,
  BUFFERED_DELAY_MS_MAX,
  END_DELAY_MS_MAX,
  PENDING_BYTES_MAX,
  RETRY_MS,
  SEGMENT_BYTES_MAX,
  SEGMENT_MS_MAX,
  TICK_MS,
} from './limits.ts';
import { bootLockPath, Lock } from './lock.ts';
import { auditEvent, startedEvent } from './make-events.ts';
import {
  type AuditEvent,
  type Recorder,
  RecordingError,
  type SessionRecord,
  type SessionStart,
  type Waiter,
} from './recorder.ts';
import { BATCH_HEAD_BYTES, SegmentWriter } from './segment.ts';

/**
 * The journal of one process: every session's events in one append-only sequence of segments.
 *
 * Events are encoded into one buffer as they happen. The first that somebody waits for schedules a write for the end of
 * this turn of the event loop (`setImmediate`: behind all sockets that were readable in it, so that they share the
 * write). An end that nobody waits for rides along with the next write, or goes within 20 ms.
 *
 * A write that fails closes the segment at its last whole batch. Its events stay in memory and go, first of all, to the
 * next segment that can be written; what did not fit meanwhile is counted and recorded as a gap.
 */

export type Durability = 'flushed' | 'synced' | 'buffered';
export type OnFailure = 'refuse' | 'continue';

/** One process's run: what its segments are named by, and the key that encrypts them. */
export interface Boot {
  /** An id in order of time, 26 characters. */
  readonly id: string;
  /** 32 bytes. */
  readonly key: Buffer;
  /** The key as an age file for the recipients, base64: how it stands in the segments. */
  readonly wrappedKey: string;
}

/** A boot that begins now, under a new key. */
export async function newBoot(recipients: readonly string[], now: number): Promise<Boot> {
  const key = randomBytes(32);
  return { id: newId(now), key, wrappedKey: (await wrapKey(key, recipients)).toString('base64') };
}

export interface JournalOptions {
  /** `data_dir`; segments go to `journal` within. */
  readonly dataDir: string;
  /**
   * Set for a process that shares the directory with the one that holds its lock, and was given its boot by that one.
   * Default: the directory is locked, and a new boot begins.
   */
  readonly boot?: Boot;
  readonly gateway: string;
  readonly keys: RecordingKeys;
  readonly durability: Durability;
  readonly onFailure: OnFailure;
  readonly metrics?: JournalMetrics;
  readonly log?: JournalLog;
  readonly clock?: JournalClock;
  readonly masker?: Masker;
  /** Whether the raw frames of a resource's sessions are recorded. Asked when a session starts. */
  readonly rawFrames?: (resource: string) => boolean;
  readonly segmentBytesMax?: number;
  readonly segmentMsMax?: number;
}

/** What the journal measures; prom-client's instruments fit. */
export interface JournalMetrics {
  readonly journalLagSeconds: { set(value: number): void };
  readonly journalWriteSeconds: { observe(value: number): void };
  readonly journalBytesTotal: { inc(value: number): void };
  readonly journalFailuresTotal: { inc(): void };
}

export interface JournalLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Both in milliseconds with fraction: one that follows the calendar, one that never goes back. */
export interface JournalClock {
  wall(): number;
  monotonic(): number;
}

const SYSTEM_CLOCK: JournalClock = { wall: () => Date.now(), monotonic: () => performance.now() };

export const JOURNAL_DIRECTORY = 'journal';

/**
 * Opens the journal of this process.
 *
 * Rejects with a `RecordingError` when the directory cannot be written or another gateway uses it.
 */
export async function openJournal(options: JournalOptions): Promise<Journal> {
  const directory = join(options.dataDir, JOURNAL_DIRECTORY);
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new RecordingError(`the journal's directory ${directory} cannot be made`, { cause });
  }
  const locks = options.boot === undefined ? [new Lock(join(directory, 'lock'))] : [];
  try {
    const now = (options.clock ?? SYSTEM_CLOCK).wall();
    const boot = options.boot ?? (await newBoot(options.keys.recipients, Math.floor(now)));
    locks.unshift(new Lock(bootLockPath(directory, boot.id)));
    return new Journal(options, directory, locks, boot);
  } catch (error) {
    for (const lock of locks) lock.release();
    throw error;
  }
}

export class Journal implements Recorder {
  readonly directory: string;
  readonly boot: string;
  /** The data key of this boot, for its sealer. */
  readonly bootKey: Buffer;
  readonly #options: JournalOptions;
  readonly #locks: readonly Lock[];
  readonly #wrappedKey: string;
  readonly #clock: JournalClock;
  readonly #buffered: boolean;
  readonly #synced: boolean;
  readonly #buffer = new EventBuffer(BATCH_HEAD_BYTES, BATCH_BYTES_MAX + 256 * 1024);
  readonly #listeners: ((error: Error) => void)[] = [];
  readonly #ticker: NodeJS.Timeout;
  #segment: SegmentWriter | null = null;
  #segments = 0;
  #previous: { segment: number; mac: string } | null = null;
  /** Wall time minus monotonic time. */
  #offset = 0;
  #scheduled = false;
  #timer: NodeJS.Timeout | null = null;
  #waiters: Waiter[] = [];
  #promises: PendingPromise[] = [];
  #sync: SyncState = { running: false, waiters: [], promises: [], retired: [], since: null };
  #oldestAt: number | null = null;
  #failed: Error | null = null;
  #blocked: Error | null = null;
  #failedAt = 0;
  #retry: NodeJS.Timeout | null = null;
  #lost = { events: 0, from: 0, to: 0, sessions: new Set<string>() };
  #closed = false;
  /** Sessions that are open: each segment begins with their list, so that none is forgotten by who finishes them. */
  readonly #sessions = new Set<string>();

  /** Use `openJournal`. */
  constructor(options: JournalOptions, directory: string, locks: readonly Lock[], boot: Boot) {
    this.#options = options;
    this.directory = directory;
    this.#locks = locks;
    this.boot = boot.id;
    this.bootKey = boot.key;
    this.#wrappedKey = boot.wrappedKey;
    this.#clock = options.clock ?? SYSTEM_CLOCK;
    this.#buffered = options.durability === 'buffered';
    this.#synced = options.durability === 'synced';
    this.#offset = this.#clock.wall() - this.#clock.monotonic();
    try {
      this.#open();
    } catch (cause) {
      throw new RecordingError(`the journal in ${directory} cannot be written: ${reasonOf(cause)}`, {
        cause,
      });
    }
    this.#flush();
    if (this.#failed !== null) {
      this.#abandon();
      throw new RecordingError(`the journal in ${directory} cannot be written: ${reasonOf(this.#failed)}`);
    }
    this.#ticker = setInterval(() => this.#tick(), TICK_MS);
    this.#ticker.unref();
  }

  get failed(): Error | null {
    return this.#failed ?? this.#blocked;
  }

  /** Why no session may be recorded although the journal itself can be written; null where there is no reason. */
  get blocked(): Error | null {
    return this.#blocked;
  }

  /** Acts as when the journal failed, while what is appended is still written. Under `continue`, it is only told. */
  block(reason: Error): void {
    this.#blocked = reason;
    for (const listener of this.#listeners) listener(reason);
  }

  unblock(): void {
    this.#blocked = null;
  }

  /** Where the next batch will begin. Null while nothing can be written. */
  get position(): { segment: number; offset: number } | null {
    return this.#segment === null ? null : { segment: this.#segment.segment, offset: this.#segment.size };
  }

  /** Seconds since the oldest event that is not yet as durable as is configured; 0 when there is none. */
  get lagSeconds(): number {
    const since = this.#oldestAt ?? this.#sync.since;
    return since === null ? 0 : (this.#clock.monotonic() - since) / 1000;
  }

  session(start: SessionStart): SessionRecord {
    if (this.failed !== null && this.#options.onFailure === 'refuse')
      throw new RecordingError('the journal cannot be written', { cause: this.failed });
    if (this.#closed) throw new RecordingError('the journal is closed');
    if (!/^[\x21-\x7e]{26}$/.test(start.session)) throw new RecordingError('a session id has 26 characters');
    this.#sessions.add(start.session);
    this.append(startedEvent(start, this.#now()), start.session);
    const rawFrames = this.#options.rawFrames?.(start.resource) ?? false;
    return new JournalSession(this, start, this.#options.masker ?? null, rawFrames);
  }

  audit(event: AuditEvent): void {
    this.append(auditEvent(this.#options.gateway, event, this.#now()), null);
  }

  /** Appends an event that is neither a statement's start nor its end. */
  append(event: JournalEvent, session: string | null): void {
    if (!this.#room(session)) return;
    this.#buffer.json(event);
    this.#appended();
  }

  /** For the sessions of this journal alone. */
  begin(
    session: Buffer,
    statement: Statement,
    text: string | null,
    parameters: readonly Parameter[] | null,
    masked: boolean,
    id: string,
  ): void {
    statement.startedAt = this.#clock.monotonic();
    if (!this.#room(id)) return;
    this.#buffer.started(session, statement, statement.startedAt + this.#offset, text, parameters, masked);
    this.#appended();
  }

  /** For the sessions of this journal alone. */
  end(session: Buffer, statement: Statement, parameters: Parameter[] | null, id: string): void {
    if (!this.#room(id)) return;
    const now = this.#clock.monotonic();
    const durationUs = Math.round((now - statement.startedAt) * 1000);
    this.#buffer.ended(session, statement, now + this.#offset, durationUs, parameters);
    this.#appended();
  }

  /** For the sessions of this journal alone. */
  frame(session: Buffer, from: 'client' | 'server', bytes: Buffer, id: string): void {
    if (!this.#room(id)) return;
    this.#buffer.frame(session, this.#now(), from, bytes);
    this.#appended();
  }

  /** For the sessions of this journal alone. */
  ended(event: JournalEvent, id: string): void {
    this.#sessions.delete(id);
    this.append(event, id);
  }

  /** The wall time, in milliseconds with fraction. */
  now(): number {
    return this.#now();
  }

  afterWrite(waiter: Waiter): void {
    if (this.#buffered) {
      if (this.#failed === null || this.#options.onFailure === 'continue') waiter.written();
      return;
    }
    if (this.#failed !== null) {
      if (this.#options.onFailure === 'continue') waiter.written();
      return;
    }
    this.#waiters.push(waiter);
    this.#schedule();
  }

  flushed(): Promise<void> {
    if (this.#closed) return Promise.reject(new RecordingError('the journal is closed'));
    if (this.#failed !== null) {
      return this.#options.onFailure === 'continue'
        ? Promise.resolve()
        : Promise.reject(new RecordingError('the journal cannot be written', { cause: this.#failed }));
    }
    if (this.#buffered) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#promises.push({ resolve, reject });
      this.#schedule();
    });
  }

  /** Writes what has been appended so far, now. For readers in this process that must see it. */
  flush(): void {
    if (this.#failed === null) this.#flush();
  }

  onFailure(listener: (error: Error) => void): void {
    this.#listeners.push(listener);
  }

  /** Closes the segment and begins the next, so that a reader can be done with the file. */
  rotate(): void {
    if (this.#failed !== null || this.#closed) return;
    this.#write();
    const segment = this.#segment;
    if (segment === null) return;
    try {
      this.#open();
    } catch (error) {
      this.#fail(error as Error);
      return;
    }
    this.#retire(segment);
    this.#write();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    clearInterval(this.#ticker);
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#retry !== null) clearTimeout(this.#retry);
    if (this.#failed !== null) this.#recover();
    if (this.#segment !== null) {
      this.#mark('closed', this.#segment.segment);
      this.#flush();
    }
    this.#closed = true;
    if (this.#synced) await new Promise<void>((resolve) => this.#whenSynced(resolve));
    this.#segment?.close();
    this.#segment = null;
    for (const lock of this.#locks) lock.release();
  }

  #now(): number {
    return this.#clock.monotonic() + this.#offset;
  }

  /** Whether an event may be appended; when not, it is counted as lost. */
  #room(session: string | null): boolean {
    if (this.#failed === null || this.#buffer.length < PENDING_BYTES_MAX) return true;
    const lost = this.#lost;
    const now = this.#now();
    if (lost.events === 0) lost.from = now;
    lost.events += 1;
    lost.to = now;
    if (session !== null && lost.sessions.size < 1000) lost.sessions.add(session);
    return false;
  }

  #appended(): void {
    this.#oldestAt ??= this.#clock.monotonic();
    if (this.#failed !== null) return;
    if (this.#buffer.length > BATCH_BYTES_MAX) this.#flush();
    else if (!this.#scheduled && this.#timer === null) {
      const delay = this.#buffered ? BUFFERED_DELAY_MS_MAX : END_DELAY_MS_MAX;
      this.#timer = setTimeout(this.#onTimer, delay);
    }
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#onTurn);
  }

  readonly #onTurn = (): void => {
    this.#scheduled = false;
    if (this.#failed === null) this.#flush();
  };

  readonly #onTimer = (): void => {
    this.#timer = null;
    if (this.#failed === null && this.#buffer.length > 0) this.#flush();
  };

  #flush(): void {
    this.#write();
    const segment = this.#segment;
    if (segment !== null && segment.size >= (this.#options.segmentBytesMax ?? SEGMENT_BYTES_MAX))
      this.rotate();
  }

  #write(): void {
    const segment = this.#segment;
    if (segment === null) return;
    if (this.#buffer.length > 0) {
      const before = performance.now();
      let written: number;
      try {
        written = segment.write(this.#buffer);
      } catch (error) {
        this.#fail(error as Error);
        return;
      }
      const metrics = this.#options.metrics;
      if (metrics !== undefined) {
        metrics.journalBytesTotal.inc(written);
        if (!this.#synced) metrics.journalWriteSeconds.observe((performance.now() - before) / 1000);
      }
      this.#buffer.clear();
    }
    if (this.#synced) this.#startSync();
    else {
      this.#oldestAt = null;
      this.#tell();
    }
  }

  #tell(): void {
    if (this.#waiters.length > 0) {
      const waiters = this.#waiters;
      this.#waiters = [];
      for (const waiter of waiters) waiter.written();
    }
    if (this.#promises.length > 0) {
      const promises = this.#promises;
      this.#promises = [];
      for (const promise of promises) promise.resolve();
    }
  }

  /** Group commit: one fdatasync at a time, in libuv's thread pool; who comes meanwhile shares the next. */
  #startSync(): void {
    const sync = this.#sync;
    sync.waiters.push(...this.#waiters);
    sync.promises.push(...this.#promises);
    this.#waiters = [];
    this.#promises = [];
    if (sync.running || this.#segment === null) return;
    if (this.#oldestAt === null && sync.waiters.length === 0 && sync.promises.length === 0) return;
    const { waiters, promises, retired } = sync;
    sync.running = true;
    sync.waiters = [];
    sync.promises = [];
    sync.retired = [];
    sync.since = this.#oldestAt;
    this.#oldestAt = null;
    const before = performance.now();
    const segment = this.#segment;
    const done = (error: NodeJS.ErrnoException | null): void => {
      sync.running = false;
      sync.since = null;
      for (const old of retired) old.close();
      this.#options.metrics?.journalWriteSeconds.observe((performance.now() - before) / 1000);
      if (error !== null) {
        for (const promise of promises) promise.reject(error);
        if (this.#failed === null) this.#fail(error);
        return;
      }
      for (const waiter of waiters) waiter.written();
      for (const promise of promises) promise.resolve();
      if (this.#failed === null && (sync.waiters.length > 0 || sync.promises.length > 0)) this.#startSync();
    };
    const files = [...retired, segment];
    const step = (index: number): void => {
      const file = files[index];
      if (file === undefined) done(null);
      else fdatasync(file.fd, (error) => (error ? done(error) : step(index + 1)));
    };
    step(0);
  }

  #whenSynced(resolve: () => void): void {
    if (this.#failed !== null || this.#segment === null) {
      resolve();
      return;
    }
    this.#promises.push({ resolve, reject: resolve });
    this.#startSync();
  }

  /** Begins the next segment. Throws what the file system throws. */
  #open(): void {
    const now = this.#now();
    this.#segments += 1;
    if (this.#segment !== null)
      this.#previous = { segment: this.#segment.segment, mac: this.#segment.mac.toString('hex') };
    const header = {
      version: 1 as const,
      boot: this.boot,
      segment: this.#segments,
      gateway: this.#options.gateway,
      created_at: timeText(now),
      recipients: [...this.#options.keys.recipients],
      key: this.#wrappedKey,
      previous: this.#previous,
    };
    this.#segment = new SegmentWriter(
      this.directory,
      header,
      this.bootKey,
      this.#buffer,
      this.#clock.monotonic(),
    );
    if (this.#synced) syncDirectory(this.directory);
    this.#mark('opened', this.#segments);
  }

  /** Says in the journal itself where a segment begins and ends, before what has piled up meanwhile. */
  #mark(action: 'opened' | 'closed', segment: number): void {
    this.#buffer.json({
      type: 'journal',
      at: timeText(this.#now()),
      action,
      boot: this.boot,
      segment,
      sessions: [...this.#sessions],
    });
  }

  #retire(segment: SegmentWriter): void {
    if (this.#synced) this.#sync.retired.push(segment);
    else segment.close();
  }

  #fail(error: Error): void {
    const { metrics, log, onFailure } = this.#options;
    metrics?.journalFailuresTotal.inc();
    const segment = this.#segment;
    this.#segment = null;
    if (segment !== null) {
      if (segment.batches > 0)
        this.#previous = { segment: segment.segment, mac: segment.mac.toString('hex') };
      segment.abandon();
    }
    for (const retired of this.#sync.retired) retired.close();
    const first = this.#failed === null;
    this.#failed = error;
    this.#retryLater();
    if (!first) return;
    this.#failedAt = this.#now();
    log?.error({ error: error.message, onFailure }, 'the journal cannot be written');
    const promises = [...this.#promises, ...this.#sync.promises];
    const waiters = [...this.#waiters, ...this.#sync.waiters];
    this.#promises = [];
    this.#waiters = [];
    this.#sync.promises = [];
    this.#sync.waiters = [];
    this.#sync.retired = [];
    const goOn = onFailure === 'continue';
    for (const promise of promises) {
      if (goOn) promise.resolve();
      else promise.reject(new RecordingError('the journal cannot be written', { cause: error }));
    }
    if (goOn) for (const waiter of waiters) waiter.written();
    // Not within the write: those who are told end sessions, and that appends events.
    queueMicrotask(() => {
      for (const listener of this.#listeners) listener(error);
    });
  }

  #retryLater(): void {
    if (this.#closed || this.#retry !== null) return;
    this.#retry = setTimeout(() => {
      this.#retry = null;
      this.#recover();
    }, RETRY_MS);
    this.#retry.unref();
  }

  /** Tries to go on in a new segment: what waits in memory first, then what is known of the gap. */
  #recover(): void {
    const reason = reasonOf(this.#failed);
    const { end, events } = this.#buffer;
    try {
      this.#open();
    } catch (error) {
      this.#fail(error as Error);
      return;
    }
    const lost = this.#lost;
    const now = this.#now();
    this.#buffer.json({
      type: 'gap',
      at: timeText(now),
      from: timeText(lost.events > 0 ? lost.from : this.#failedAt),
      to: timeText(lost.events > 0 ? lost.to : now),
      events: lost.events,
      sessions: [...lost.sessions],
      reason,
    });
    try {
      this.#segment!.write(this.#buffer);
    } catch (error) {
      this.#buffer.end = end;
      this.#buffer.events = events;
      this.#fail(error as Error);
      return;
    }
    this.#buffer.clear();
    this.#failed = null;
    this.#oldestAt = null;
    this.#options.log?.warn(
      { lostEvents: lost.events, seconds: (now - this.#failedAt) / 1000 },
      'the journal can be written again',
    );
    this.#lost = { events: 0, from: 0, to: 0, sessions: new Set() };
    if (this.#synced) this.#startSync();
  }

  #abandon(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#closed = true;
  }

  #tick(): void {
    this.#offset = this.#clock.wall() - this.#clock.monotonic();
    this.#options.metrics?.journalLagSeconds.set(this.lagSeconds);
    const segment = this.#segment;
    if (segment === null) return;
    const age = this.#clock.monotonic() - segment.createdAt;
    // A segment that holds nothing but its own beginning may grow as old as it likes.
    if (segment.batches > 1 && age >= (this.#options.segmentMsMax ?? SEGMENT_MS_MAX)) this.rotate();
  }
}

interface PendingPromise {
  resolve(): void;
  reject(error: Error): void;
}

interface SyncState {
  running: boolean;
  waiters: Waiter[];
  promises: PendingPromise[];
  /** Closed segments that have not been synced yet. */
  retired: SegmentWriter[];
  since: number | null;
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? ((error as NodeJS.ErrnoException).code ?? error.message) : String(error);
}

/** Makes a new file's name durable. Not every file system lets directories be synced. */
function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } catch (error) {
    if (!['EINVAL', 'ENOTSUP', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  } finally {
    closeSync(fd);
  }
}
