import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config/schema.ts';
import { version } from '../version.ts';
import { IndexKeeper, type IndexStatus } from './index-keeper.ts';
import { type IndexStoreOptions, makeIndex, type SecretSource } from './index-store.ts';
import { JOURNAL_DIRECTORY } from './journal.ts';
import { loadSigningKey } from './keys.ts';
import { Library } from './library.ts';
import { RETENTION_ROUND_MS, SEALER_POLL_MS, STORE_RETRY_MS_MIN, STREAM_FINISH_MS } from './limits.ts';
import { bootLockPath, Lock } from './lock.ts';
import { listSegments, openBoot } from './reader.ts';
import { recoverJournal } from './recovery.ts';
import { loadPostgresParser } from './relations.ts';
import {
  type Audit,
  applyRetention,
  deleteBundles,
  type Retention,
  recordHolds,
  retains,
} from './retention.ts';
import { Sealer, type SealerLog, type SealerOptions } from './sealer.ts';
import { DirectoryStore } from './store/directory.ts';
import type { RecordingStore } from './store/store.ts';
import { FileSink } from './streams/file.ts';
import { OtlpSink } from './streams/otlp.ts';
import { type Sink, Stream } from './streams/stream.ts';
import { SyslogSink } from './streams/syslog.ts';
import { WebhookSink } from './streams/webhook.ts';
import { Uploader } from './uploader.ts';

/** All that the sealing of one gateway needs to know; can be sent to a thread. */
export interface PipelineOptions {
  readonly dataDir: string;
  readonly gateway: string;
  readonly boot: string;
  readonly bootKey: Uint8Array;
  /** Boots of other processes of this run. */
  readonly others?: readonly OtherBoot[];
  readonly recipients: readonly string[];
  /** What opens the journals of earlier boots; none where only reviewers can. */
  readonly identities: readonly string[];
  readonly store: StoreOptions;
  /** `statements` keeps their texts in the clear; `off` keeps nothing. */
  readonly index: 'statements' | 'sessions' | 'off';
  /** Where the index is. Default: a SQLite file in the data directory. */
  readonly indexStore?: IndexStoreOptions;
  readonly sealMs?: number;
  readonly retention?: Retention;
  readonly streams?: Readonly<Record<string, StreamOptions>>;
}

/** The boot of a process that works for this one. */
export interface OtherBoot {
  readonly boot: string;
  readonly bootKey: Uint8Array;
}

export type StoreOptions = Config['recording']['store'];
export type StreamOptions = Config['recording']['streams'][string];

/** What the gateway's metrics and readiness say of it. */
export interface PipelineStatus {
  readonly spoolFiles: number;
  readonly spoolBytes: number;
  /** Why the store cannot be reached; null when it can. */
  readonly storeError: string | null;
  /** Why sealing itself failed last; null when it did not. */
  readonly error: string | null;
  readonly partsSealed: number;
  readonly partsStored: number;
  readonly eventsRead: number;
  /** Null where there is none. */
  readonly index: IndexStatus | null;
  readonly streams: readonly {
    readonly name: string;
    readonly error: string | null;
    readonly sent: number;
  }[];
}

export const SPOOL_DIRECTORY = 'spool';
/** Says where recordings are, for commands that are given the data directory alone. No credentials. */
export const STORE_FILE = 'store.json';

export async function makeStore(options: StoreOptions): Promise<RecordingStore> {
  if (options.type === 'directory') return new DirectoryStore(options.path);
  const { S3Store } = await import('./store/s3.ts');
  return S3Store.open(options);
}

function makeSink(options: StreamOptions, gateway: string): Sink {
  switch (options.type) {
    case 'file':
      return new FileSink(options.path);
    case 'syslog':
      return new SyslogSink({
        host: options.host,
        port: options.port,
        tls: options.tls,
        ca: options.ca === undefined ? null : readFileSync(options.ca, 'utf8'),
        gateway,
      });
    case 'webhook': {
      const secret =
        options.secret_file === undefined ? null : readFileSync(options.secret_file, 'utf8').trim();
      return new WebhookSink({
        url: options.url,
        secret: secret === null ? null : Buffer.from(secret, 'utf8'),
        headers: {},
      });
    }
    case 'otlp':
      return new OtlpSink({ url: options.url, headers: options.headers, gateway, version });
  }
}

/** What a pipeline finds around it; where it is not given, the machine's clock and the store that its options name. */
export interface PipelineWorld {
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
  readonly store?: RecordingStore;
  /** What fetches the password of an index behind a network. */
  readonly secret?: SecretSource;
}

/** Sealing, storing and indexing, as one loop. Runs wherever it is made: in the gateway, in a thread of its own. */
export class Pipeline {
  readonly #options: PipelineOptions;
  readonly #log: SealerLog;
  readonly #store: RecordingStore;
  readonly #now: () => number;
  readonly #audit: Audit;
  #retainAfter = 0;
  #retention: Retention | undefined;
  readonly #uploader: Uploader;
  readonly #index: IndexKeeper | null;
  readonly #library: Library;
  readonly #sealerOptions: Omit<SealerOptions, 'boot' | 'bootKey' | 'resumed'>;
  /** By boot: of this process first, of others behind it. */
  readonly #sealers = new Map<string, Sealer>();
  readonly #keys = new Map<string, Buffer>();
  /** Boots whose process is gone, and that wait to be finished. */
  readonly #over = new Set<string>();
  readonly #streams: readonly Stream[];
  readonly #streaming = new Map<Stream, Promise<void>>();
  #recovered = false;
  #interrupted = false;
  #recoverAfter = 0;
  #error: string | null = null;
  #partsSealed = 0;
  #partsStored = 0;
  #eventsRead = 0;
  #busy: Promise<void> | null = null;
  #timer: NodeJS.Timeout | null = null;
  #stopped = false;

  /** `resumed`: a former pipeline of this boot may have sealed some of it already. */
  static async make(
    options: PipelineOptions,
    log: SealerLog,
    resumed: boolean,
    audit: Audit = () => {},
    world: PipelineWorld = {},
  ): Promise<Pipeline> {
    const parser = options.index === 'statements' ? await loadPostgresParser() : null;
    const store = world.store ?? (await makeStore(options.store));
    const now = world.now ?? Date.now;
    const index =
      options.index === 'off'
        ? null
        : new IndexKeeper(
            await makeIndex(
              options.index,
              options.indexStore ?? { type: 'sqlite' },
              options.dataDir,
              world.secret ?? null,
            ),
            {
              dataDir: options.dataDir,
              statements: options.index === 'statements',
              parser,
              catchesUp: options.identities.length > 0,
              log,
              now,
            },
          );
    return new Pipeline(options, log, { now, store }, resumed, audit, index);
  }

  private constructor(
    options: PipelineOptions,
    log: SealerLog,
    { now, store }: { readonly now: () => number; readonly store: RecordingStore },
    resumed: boolean,
    audit: Audit,
    index: IndexKeeper | null,
  ) {
    this.#now = now;
    this.#audit = audit;
    this.#retention = options.retention;
    const { dataDir, gateway, recipients } = options;
    const spoolDirectory = join(dataDir, SPOOL_DIRECTORY);
    this.#options = options;
    this.#log = log;
    this.#store = store;
    const stored = (): void => {
      this.#partsStored += 1;
    };
    this.#uploader = new Uploader(spoolDirectory, store, log, stored, now);
    this.#index = index;
    this.#library = new Library({ store, dataDir, identities: options.identities });
    this.#streams = this.#makeStreams();
    this.#sealerOptions = {
      journalDirectory: join(dataDir, JOURNAL_DIRECTORY),
      spoolDirectory,
      gateway,
      recipients,
      signing: loadSigningKey(dataDir),
      store,
      log,
      now,
      ...(options.sealMs === undefined ? {} : { sealMs: options.sealMs }),
      needed: (boot) => this.#needed(boot),
      heard: (event, session) => this.#index?.hear(event, session),
      batchHeard: () => this.#index?.batchHeard(),
      sealing: (sessions) => this.#index?.settle(sessions),
      sealed: (part) => {
        this.#partsSealed += 1;
        if (!part.ofGateway) this.#index?.sealed(part);
      },
    };
    writeFileSync(join(dataDir, STORE_FILE), `${JSON.stringify(options.store)}\n`, { mode: 0o600 });
    for (const { boot, bootKey } of [options, ...(options.others ?? [])])
      this.#begin(boot, Buffer.from(bootKey), resumed);
  }

  /** Another process of this run begins a journal of its own. To be told before that process can write to it. */
  begin({ boot, bootKey }: OtherBoot): void {
    this.#begin(boot, Buffer.from(bootKey), false);
  }

  /** The process of a boot is gone: what is left of it is sealed in the next round. */
  end(boot: string): void {
    if (this.#sealers.has(boot)) this.#over.add(boot);
  }

  #begin(boot: string, bootKey: Buffer, resumed: boolean): void {
    this.#keys.set(boot, bootKey);
    this.#sealers.set(boot, new Sealer({ ...this.#sealerOptions, boot, bootKey, resumed }));
  }

  get status(): PipelineStatus {
    const { files, bytes, error } = this.#uploader.state;
    const streams = this.#streams.map(({ status }) => status);
    // What is kept for a receiver that is away takes room as well.
    const kept = streams.some((stream) => stream.error !== null)
      ? listSegments(join(this.#options.dataDir, JOURNAL_DIRECTORY)).reduce((sum, { size }) => sum + size, 0)
      : 0;
    return {
      spoolFiles: files,
      spoolBytes: bytes + kept,
      storeError: error,
      error: this.#error,
      partsSealed: this.#partsSealed,
      partsStored: this.#partsStored,
      eventsRead: this.#eventsRead,
      index: this.#index?.status ?? null,
      streams,
    };
  }

  /** Keeps recordings by other rules from the next round on. */
  retain(retention: Retention): void {
    this.#retention = retention;
    this.#retainAfter = 0;
  }

  start(): void {
    const next = (): void => {
      if (this.#stopped) return;
      this.#timer = setTimeout(() => void this.run().then(next), SEALER_POLL_MS);
    };
    void this.run().then(next);
  }

  /** One round: finish earlier boots, read what is new, index, store. Never rejects. */
  async run(): Promise<void> {
    this.#busy ??= this.#round().finally(() => {
      this.#busy = null;
    });
    await this.#busy;
  }

  /** The journal is closed: seals all there is, and tries the store once more. */
  async finish(): Promise<void> {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#busy;
    try {
      this.#stream();
      await Promise.race([
        Promise.all(this.#streaming.values()),
        sleep(STREAM_FINISH_MS, undefined, { ref: false }),
      ]);
      for (const sealer of this.#sealers.values()) await sealer.finish();
      await this.#index?.flush();
      await this.#uploader.run(true);
      for (const sealer of this.#sealers.values()) sealer.release(true);
    } catch (error) {
      // The next start finishes what is left.
      this.#log.error({ error: (error as Error).message }, 'recordings could not be finished');
    }
    await this.close();
  }

  async close(): Promise<void> {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    for (const sealer of this.#sealers.values()) sealer.close();
    for (const stream of this.#streams) await stream.close();
    await this.#index?.close();
    await this.#store.close();
  }

  async #round(): Promise<void> {
    try {
      await this.#recover();
      await this.#interrupt();
      this.#stream();
      for (const boot of [...this.#over]) await this.#finishOther(boot);
      const fault = await this.#poll();
      await this.#index?.flush();
      // Also where the spool is full: what is stored makes room.
      await this.#uploader.run();
      if (fault !== null) throw fault;
      for (const sealer of this.#sealers.values()) sealer.release();
      await this.#index?.use((index) => recordHolds(index, this.#audit));
      await this.#retain();
      this.#index?.catchUp(this.#library);
      if (this.#recovered) this.#releaseFormer();
      this.#error = null;
    } catch (error) {
      const text = (error as Error).message;
      if (this.#error !== text) this.#log.error({ error: text }, 'recordings cannot be sealed');
      this.#error = text;
    }
  }

  /** Every journal is read, whatever is wrong with another. Gives what went wrong first. */
  async #poll(): Promise<unknown> {
    let fault: unknown = null;
    for (const sealer of [...this.#sealers.values()]) {
      try {
        this.#eventsRead += await sealer.poll();
      } catch (error) {
        fault ??= error;
      }
    }
    return fault;
  }

  /** Sessions that a dead process left open are marked so. What fails here is done again as for an earlier run. */
  async #finishOther(boot: string): Promise<void> {
    const sealer = this.#sealers.get(boot)!;
    this.#over.delete(boot);
    this.#sealers.delete(boot);
    try {
      await sealer.finish();
      await this.#index?.flush();
      sealer.release(true);
      rmSync(bootLockPath(this.#sealerOptions.journalDirectory, boot), { force: true });
    } catch (error) {
      sealer.close();
      this.#recovered = false;
      throw error;
    }
  }

  #makeStreams(): Stream[] {
    const { dataDir, gateway, identities, streams } = this.#options;
    const journalDirectory = join(dataDir, JOURNAL_DIRECTORY);
    const source = {
      journalDirectory,
      isLive: (boot: string) => this.#sealers.has(boot) || Lock.isHeld(bootLockPath(journalDirectory, boot)),
      bootKey: async (wanted: string) =>
        this.#keys.get(wanted) ?? (await openBoot(journalDirectory, wanted, identities)).bootKey,
    };
    return Object.entries(streams ?? {}).map(
      ([name, options]) =>
        new Stream(makeSink(options, gateway), source, join(dataDir, 'streams', `${name}.json`), this.#log),
    );
  }

  /** Streams go beside sealing: a receiver that is slow holds up nobody else. */
  #stream(): void {
    for (const stream of this.#streams) {
      if (this.#streaming.has(stream)) continue;
      const running = stream.run().finally(() => this.#streaming.delete(stream));
      this.#streaming.set(stream, running);
    }
  }

  #needed(boot: string): number | null {
    let first: number | null = null;
    for (const stream of this.#streams) {
      const needed = stream.needed(boot);
      if (needed !== null) first = Math.min(first ?? needed, needed);
    }
    return first;
  }

  /** Segments of former boots are sealed, and stay only for streams that have not read them. */
  #releaseFormer(): void {
    if (this.#streams.length === 0) return;
    for (const file of listSegments(this.#sealerOptions.journalDirectory)) {
      if (this.#sealers.has(file.boot)) continue;
      const needed = this.#needed(file.boot);
      if (needed === null || file.segment < needed) rmSync(file.path, { force: true });
    }
  }

  async #retain(): Promise<void> {
    const retention = this.#retention;
    if (retention === undefined || this.#index === null || !retains(retention)) return;
    const now = this.#now();
    if (now < this.#retainAfter) return;
    this.#retainAfter = now + RETENTION_ROUND_MS;
    await this.#index.use((index) =>
      index.alone(async () => {
        await applyRetention(retention, index, this.#store, this.#audit, now);
        await deleteBundles(retention, index, this.#store, this.#audit, now);
      }),
    );
  }

  /** What former runs left open in the index, once they are finished. */
  async #interrupt(): Promise<void> {
    if (!this.#recovered || this.#interrupted || this.#index === null) return;
    const { gateway, boot } = this.#options;
    this.#interrupted =
      (await this.#index.use((index) => index.interrupt(gateway, boot).then(() => true))) ?? false;
  }

  /** Waits for the store, whose parts say what was sealed before; the journal keeps what is not. */
  async #recover(): Promise<void> {
    if (this.#recovered || this.#now() < this.#recoverAfter) return;
    try {
      const { alive } = await recoverJournal({
        ...this.#sealerOptions,
        isCurrent: (boot) => this.#sealers.has(boot),
        identities: this.#options.identities,
      });
      await this.#index?.flush();
      if (alive.length > 0) {
        this.#recoverAfter = this.#now() + STORE_RETRY_MS_MIN;
        return;
      }
      this.#recovered = true;
      this.#interrupted = false;
    } catch (error) {
      this.#recoverAfter = this.#now() + STORE_RETRY_MS_MIN;
      this.#log.error(
        { error: (error as Error).message },
        'earlier runs of the gateway could not be finished yet',
      );
    }
  }
}
