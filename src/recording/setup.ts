import { readFileSync } from 'node:fs';
import type { Statement } from '../../protocols/statement.ts';
import type { Config } from '../config/schema.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import { type Journal, openJournal } from './journal.ts';
import { identitiesIn, loadRecordingKeys } from './keys.ts';
import { presentStatement } from './live.ts';
import { type MaskedSession, maskingOf, StatementMasker } from './masking.ts';
import type { PipelineStatus } from './pipeline.ts';
import { RecordingError } from './recorder.ts';
import type { Retention } from './retention.ts';
import { Sealing } from './sealing.ts';

const MIB = 1024 * 1024;

/** The recording side of one gateway: its journal, what masks it, and the thread that makes recordings of it. */
export class Recording {
  readonly journal: Journal;
  readonly #masker: StatementMasker;
  /** Names of resources whose raw frames are recorded. */
  readonly #rawFrames: Set<string>;
  readonly #sealing: Sealing;
  readonly #log: Log;
  readonly #spoolBytesMax: number;

  /** Rejects with a `RecordingError` when the journal cannot be opened or a key cannot be read. */
  static async start(config: Config, metrics: Metrics, log: Log): Promise<Recording> {
    const { recording } = config;
    const dataDir = config.gateway.data_dir;
    const keys = await loadRecordingKeys(dataDir, recording.recipients);
    const identities = [...keys.identities, ...recoveryIdentities(recording.recovery_identity)];
    const rawFrames = rawFramesOf(config);
    const masker = new StatementMasker(maskingOf(config.resources));
    const journal = await openJournal({
      dataDir,
      gateway: config.gateway.name,
      keys,
      durability: recording.durability,
      onFailure: recording.on_failure,
      masker,
      rawFrames: (resource) => rawFrames.has(resource),
      metrics,
      log,
    });
    return new Recording(
      config,
      { journal, masker, rawFrames, identities, recipients: keys.recipients },
      metrics,
      log,
    );
  }

  private constructor(
    config: Config,
    parts: {
      readonly journal: Journal;
      readonly masker: StatementMasker;
      readonly rawFrames: Set<string>;
      readonly identities: readonly string[];
      readonly recipients: readonly string[];
    },
    metrics: Metrics,
    log: Log,
  ) {
    const { recording } = config;
    const { journal, masker, identities, recipients } = parts;
    this.journal = journal;
    this.#masker = masker;
    this.#rawFrames = parts.rawFrames;
    this.#log = log;
    this.#spoolBytesMax = recording.spool_limit_mib * MIB;
    const options = {
      dataDir: config.gateway.data_dir,
      gateway: config.gateway.name,
      boot: journal.boot,
      bootKey: journal.bootKey,
      recipients,
      identities,
      store: recording.store,
      // Texts in the clear would show on a disk that is to show nothing: only where the key lies there anyway.
      index: recording.index ?? (recording.recipients.length === 0 ? 'statements' : 'sessions'),
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
        this.#watchSpool(status);
      },
      (event) => journal.audit(event),
    );
  }

  get status(): PipelineStatus {
    return this.#sealing.status;
  }

  /** One sentence for `/readyz`; null where nothing is to be said. */
  get warning(): string | null {
    const { error, storeError, spoolFiles, streams } = this.#sealing.status;
    if (storeError !== null) return `${storeError}; ${spoolFiles} parts of recordings wait on disk`;
    return error ?? streams.find((stream) => stream.error !== null)?.error ?? null;
  }

  /** A statement as it may be shown to those who follow its session live. */
  present(session: MaskedSession, statement: Statement): Record<string, unknown> {
    return presentStatement(this.#masker, session, statement);
  }

  /** What resources say of their recordings, from now on. All else of `recording` needs a restart. */
  reload(config: Config): void {
    this.#masker.replace(maskingOf(config.resources));
    this.#sealing.retain(retentionOf(config));
    this.#rawFrames.clear();
    for (const resource of rawFramesOf(config)) this.#rawFrames.add(resource);
  }

  /** Closes the journal and seals what there is, for at most `deadlineMs`; the next start finishes the rest. */
  async close(deadlineMs: number): Promise<void> {
    await this.journal.close();
    await this.#sealing.finish(deadlineMs);
  }

  #watchSpool({ spoolBytes }: PipelineStatus): void {
    const full = spoolBytes > this.#spoolBytesMax;
    if (full === (this.journal.blocked !== null)) return;
    if (!full) {
      this.#log.info({ spoolBytes }, 'recordings reach their store again');
      this.journal.unblock();
      return;
    }
    this.#log.error({ spoolBytes, limit: this.#spoolBytesMax }, 'too many recordings wait for their store');
    this.journal.block(new RecordingError('too many recordings wait on disk for their store'));
  }
}

function rawFramesOf(config: Config): Set<string> {
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
  };
}
