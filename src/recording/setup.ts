import { readFileSync } from 'node:fs';
import type { Statement } from '../../protocols/statement.ts';
import type { Config } from '../config/schema.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { IndexStatus } from './index-keeper.ts';
import { indexOptionsOf, type SecretSource } from './index-store.ts';
import { type Boot, type Journal, newBoot, openJournal } from './journal.ts';
import { identitiesIn, loadRecordingKeys, type RecordingKeys } from './keys.ts';
import { presentStatement } from './live.ts';
import { type MaskedSession, maskingOf, StatementMasker } from './masking.ts';
import type { PipelineStatus } from './pipeline.ts';
import { RecordingError } from './recorder.ts';
import type { Retention } from './retention.ts';
import { Sealing } from './sealing.ts';

const MIB = 1024 * 1024;

/** What of the configuration a process needs that records. */
export type RecordedConfig = Pick<Config, 'gateway' | 'recording' | 'resources'>;

/** What one process records: its journal, and what masks it. */
export class ProcessRecording {
  readonly journal: Journal;
  readonly #masker: StatementMasker;
  /** Names of resources whose raw frames are recorded. */
  readonly #rawFrames: Set<string>;

  /**
   * Opens the journal: under `boot`, for a process that works for another, else under a boot of its own. Rejects with a
   * `RecordingError` when that cannot be.
   */
  static async open(
    config: RecordedConfig,
    recipients: readonly string[],
    boot: Boot | null,
    metrics: Metrics,
    log: Log,
  ): Promise<ProcessRecording> {
    const { recording } = config;
    const rawFrames = rawFramesOf(config);
    const masker = new StatementMasker(maskingOf(config.resources));
    const journal = await openJournal({
      dataDir: config.gateway.data_dir,
      gateway: config.gateway.name,
      keys: { recipients, identities: [] },
      durability: recording.durability,
      onFailure: recording.on_failure,
      masker,
      rawFrames: (resource) => rawFrames.has(resource),
      metrics,
      log,
      ...(boot === null ? {} : { boot }),
    });
    return new ProcessRecording(journal, masker, rawFrames);
  }

  private constructor(journal: Journal, masker: StatementMasker, rawFrames: Set<string>) {
    this.journal = journal;
    this.#masker = masker;
    this.#rawFrames = rawFrames;
  }

  /** A statement as it may be shown to those who follow its session live. */
  present(session: MaskedSession, statement: Statement): Record<string, unknown> {
    return presentStatement(this.#masker, session, statement);
  }

  /** Too many recordings wait for their store, or no longer: as if the journal failed, and worked again. */
  spoolFull(full: boolean): void {
    if (full) this.journal.block(new RecordingError('too many recordings wait on disk for their store'));
    else this.journal.unblock();
  }

  /** What resources say of their recordings, from now on. All else of `recording` needs a restart. */
  reload(config: RecordedConfig): void {
    this.#masker.replace(maskingOf(config.resources));
    this.#rawFrames.clear();
    for (const resource of rawFramesOf(config)) this.#rawFrames.add(resource);
  }
}

/** The recording side of one gateway: the journal of this process, and the thread that makes recordings of all journals. */
export class Recording {
  readonly #own: ProcessRecording;
  readonly #sealing: Sealing;
  readonly #log: Log;
  readonly #recipients: readonly string[];
  readonly #spoolBytesMax: number;
  #spoolFull = false;
  #onSpool: (full: boolean) => void = () => {};

  /**
   * `secret` fetches the password of an index behind a network. Rejects with a `RecordingError` when the journal cannot be
   * opened or a key cannot be read.
   */
  static async start(
    config: Config,
    metrics: Metrics,
    log: Log,
    secret: SecretSource | null = null,
  ): Promise<Recording> {
    const { recording } = config;
    const keys = await loadRecordingKeys(config.gateway.data_dir, recording.recipients);
    const identities = [...keys.identities, ...recoveryIdentities(recording.recovery_identity)];
    const own = await ProcessRecording.open(config, keys.recipients, null, metrics, log);
    return new Recording(config, own, { recipients: keys.recipients, identities }, metrics, log, secret);
  }

  private constructor(
    config: Config,
    own: ProcessRecording,
    keys: RecordingKeys,
    metrics: Metrics,
    log: Log,
    secret: SecretSource | null,
  ) {
    const { recording } = config;
    const { journal } = own;
    const { recipients, identities } = keys;
    this.#own = own;
    this.#log = log;
    this.#recipients = recipients;
    this.#spoolBytesMax = recording.spool_limit_mib * MIB;
    const index = indexOptionsOf(recording);
    const options = {
      dataDir: config.gateway.data_dir,
      gateway: config.gateway.name,
      boot: journal.boot,
      bootKey: journal.bootKey,
      recipients,
      identities,
      store: recording.store,
      index: index.keep,
      indexStore: index.store,
      sealMs: recording.seal_every,
      retention: retentionOf(config),
      streams: recording.streams,
    };
    this.#sealing = new Sealing(
      options,
      log,
      (status) => {
        metrics.recordingSpoolBytes.set(status.spoolBytes);
        metrics.recordingSpoolParts.set(status.spoolFiles);
        metrics.recordingIndexUp.set(status.index === null || status.index.error === null ? 1 : 0);
        metrics.recordingIndexBehindSessions.set(status.index?.behind ?? 0);
        this.#watchSpool(status);
      },
      (event) => {
        journal.audit(event);
        return journal.flushed();
      },
      secret,
    );
  }

  get journal(): Journal {
    return this.#own.journal;
  }

  /** What session keys are wrapped to. */
  get recipients(): readonly string[] {
    return this.#recipients;
  }

  /** Too many recordings wait for their store. */
  get spoolFull(): boolean {
    return this.#spoolFull;
  }

  /** Tells of `spoolFull` whenever it changes. */
  onSpool(listener: (full: boolean) => void): void {
    this.#onSpool = listener;
  }

  /** A boot for another process that is about to begin: its journal is sealed here. */
  async begin(): Promise<Boot> {
    const boot = await newBoot(this.#recipients, Date.now());
    this.#sealing.begin({ boot: boot.id, bootKey: boot.key });
    return boot;
  }

  /** The process with this boot is gone: its open sessions are marked as interrupted. */
  end(boot: string): void {
    this.#sealing.end(boot);
  }

  get status(): PipelineStatus {
    return this.#sealing.status;
  }

  /** One sentence for `/readyz`; null where nothing is to be said. */
  get warning(): string | null {
    const { error, storeError, spoolFiles, streams } = this.#sealing.status;
    if (storeError !== null) return `${storeError}; ${spoolFiles} parts of recordings wait on disk`;
    const stream = streams.find((one) => one.error !== null)?.error ?? null;
    return error ?? stream ?? indexWarning(this.#sealing.status.index);
  }

  /** A statement as it may be shown to those who follow its session live. */
  present(session: MaskedSession, statement: Statement): Record<string, unknown> {
    return this.#own.present(session, statement);
  }

  /** What resources say of their recordings, from now on. All else of `recording` needs a restart. */
  reload(config: Config): void {
    this.#own.reload(config);
    this.#sealing.retain(retentionOf(config));
  }

  /** Closes the journal and seals what there is, for at most `deadlineMs`; the next start finishes the rest. */
  async close(deadlineMs: number): Promise<void> {
    await this.journal.close();
    await this.#sealing.finish(deadlineMs);
  }

  #watchSpool({ spoolBytes }: PipelineStatus): void {
    const full = spoolBytes > this.#spoolBytesMax;
    if (full === this.#spoolFull) return;
    this.#spoolFull = full;
    if (!full) this.#log.info({ spoolBytes }, 'recordings reach their store again');
    else
      this.#log.error({ spoolBytes, limit: this.#spoolBytesMax }, 'too many recordings wait for their store');
    this.#own.spoolFull(full);
    this.#onSpool(full);
  }
}

function indexWarning(index: IndexStatus | null): string | null {
  if (index === null) return null;
  const behind = Number.isFinite(index.behind) ? `${index.behind} sessions` : 'sessions';
  if (index.error !== null)
    return index.behind === 0 ? index.error : `${index.error}; ${behind} are to be indexed again`;
  if (index.behind === 0 || index.catchesUp) return null;
  return `${behind} are not whole in the index of recordings: index them again with \`sallyport recordings reindex\``;
}

function rawFramesOf(config: RecordedConfig): Set<string> {
  const resources = Object.entries(config.resources);
  return new Set(resources.filter(([, { recording }]) => recording.raw_frames).map(([name]) => name));
}

function recoveryIdentities(path: string | undefined): string[] {
  if (path === undefined) return [];
  try {
    return identitiesIn(readFileSync(path, 'utf8'), path);
  } catch (cause) {
    throw new RecordingError(`recording.recovery_identity: ${(cause as Error).message}`, { cause });
  }
}

function retentionOf(config: Config): Retention {
  const resources = Object.entries(config.resources);
  return {
    defaultMs: config.recording.retention ?? null,
    byResource: Object.fromEntries(
      resources.flatMap(([name, { recording }]) =>
        recording.retention === undefined ? [] : [[name, recording.retention]],
      ),
    ),
    held: resources.filter(([, { recording }]) => recording.legal_hold).map(([name]) => name),
    // What another gateway holds is only known there.
    ...(indexOptionsOf(config.recording).store.type === 'sqlite'
      ? {}
      : { owner: { gateway: config.gateway.name, resources: resources.map(([name]) => name) } }),
  };
}
