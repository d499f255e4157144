import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { SecretSource } from './index-store.ts';
import type { OtherBoot, PipelineOptions, PipelineStatus } from './pipeline.ts';
import type { AuditEvent } from './recorder.ts';
import type { Audit, Retention } from './retention.ts';

export type ToThread =
  | { readonly kind: 'finish' }
  | { readonly kind: 'begin'; readonly boot: OtherBoot }
  | { readonly kind: 'end'; readonly boot: string }
  /** The event of this number is on record, or cannot be: then `error` says why. */
  | { readonly kind: 'audited'; readonly id: number; readonly error: string | null }
  /** What a reference stands for, or why it could not be fetched. */
  | {
      readonly kind: 'secret';
      readonly id: number;
      readonly value: string | null;
      readonly error: string | null;
    }
  | { readonly kind: 'retention'; readonly retention: Retention };
export type FromThread =
  | { readonly kind: 'status'; readonly status: PipelineStatus }
  | {
      readonly kind: 'log';
      readonly level: 'info' | 'error';
      readonly fields: object;
      readonly message: string;
    }
  | { readonly kind: 'audit'; readonly id: number; readonly event: AuditEvent }
  | { readonly kind: 'secret'; readonly id: number; readonly reference: string }
  | { readonly kind: 'finished' };

export interface SealingLog {
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Pauses before a thread that died is started again. */
const RESTART_MS = 5_000;

const IDLE: PipelineStatus = {
  spoolFiles: 0,
  spoolBytes: 0,
  storeError: null,
  error: null,
  partsSealed: 0,
  partsStored: 0,
  eventsRead: 0,
  index: null,
  streams: [],
};

/**
 * Sealing, storing and indexing in a thread of their own, so that they take no time from sessions. The thread reads the
 * journal's files; when it dies it is started again and goes on where the sealed parts end.
 */
export class Sealing {
  #options: PipelineOptions;
  readonly #log: SealingLog;
  readonly #reported: (status: PipelineStatus) => void;
  readonly #audit: Audit;
  readonly #secret: SecretSource | null;
  #worker: Worker | null = null;
  #status: PipelineStatus = IDLE;
  #restart: NodeJS.Timeout | null = null;
  #finishing: { resolve: () => void; deadline: NodeJS.Timeout } | null = null;

  /** `reported` hears the status once a second; `audit` what the thread did that belongs on record; `secret` is asked for the index. */
  constructor(
    options: PipelineOptions,
    log: SealingLog,
    reported: (status: PipelineStatus) => void = () => {},
    audit: Audit = () => {},
    secret: SecretSource | null = null,
  ) {
    this.#secret = secret;
    this.#options = options;
    this.#log = log;
    this.#reported = reported;
    this.#audit = audit;
    this.#start(false);
  }

  get status(): PipelineStatus {
    return this.#status;
  }

  /** Keeps recordings by other rules from now on. */
  retain(retention: Retention): void {
    this.#options = { ...this.#options, retention };
    this.#worker?.postMessage({ kind: 'retention', retention } satisfies ToThread);
  }

  /** Another process of this run is about to begin a journal of its own in the same directory. */
  begin(boot: OtherBoot): void {
    this.#options = { ...this.#options, others: [...(this.#options.others ?? []), boot] };
    this.#worker?.postMessage({ kind: 'begin', boot } satisfies ToThread);
  }

  /** The process of that boot is gone: what it left is sealed. */
  end(boot: string): void {
    const others = this.#options.others?.filter((other) => other.boot !== boot) ?? [];
    this.#options = { ...this.#options, others };
    this.#worker?.postMessage({ kind: 'end', boot } satisfies ToThread);
  }

  /**
   * Call when the journal is closed. Seals what there is and stores what the store takes within `deadlineMs`; the next
   * start finishes the rest. Never rejects.
   */
  async finish(deadlineMs: number): Promise<void> {
    if (this.#restart !== null) clearTimeout(this.#restart);
    const worker = this.#worker;
    if (worker === null) return;
    await new Promise<void>((resolve) => {
      const deadline = setTimeout(resolve, deadlineMs);
      this.#finishing = { resolve, deadline };
      worker.postMessage({ kind: 'finish' } satisfies ToThread);
    });
    clearTimeout(this.#finishing!.deadline);
    await worker.terminate();
  }

  #start(resumed: boolean): void {
    // The compiled file of an installed package, the source of a checkout.
    const file = new URL(`./sealer-thread${extname(import.meta.filename)}`, import.meta.url);
    const worker = new Worker(file, { workerData: { options: this.#options, resumed } });
    this.#worker = worker;
    worker.on('message', (message: FromThread) => this.#message(message));
    worker.on('error', (error) => this.#log.error({ error: error.message }, 'the sealing thread failed'));
    worker.once('exit', () => this.#exited());
    worker.unref();
  }

  async #tellSecret(id: number, reference: string): Promise<void> {
    const worker = this.#worker;
    let value: string | null = null;
    let error: string | null = null;
    try {
      if (this.#secret === null) throw new Error('nothing fetches secrets here');
      value = await this.#secret(reference);
    } catch (cause) {
      error = (cause as Error).message;
    }
    worker?.postMessage({ kind: 'secret', id, value, error } satisfies ToThread);
  }

  #message(message: FromThread): void {
    if (message.kind === 'log') this.#log[message.level](message.fields, message.message);
    else if (message.kind === 'audit') void this.#record(message.id, message.event);
    else if (message.kind === 'secret') void this.#tellSecret(message.id, message.reference);
    else if (message.kind === 'finished') this.#finishing?.resolve();
    else {
      this.#status = message.status;
      this.#reported(message.status);
    }
  }

  async #record(id: number, event: AuditEvent): Promise<void> {
    let error: string | null = null;
    try {
      await this.#audit(event);
    } catch (fault) {
      error = (fault as Error).message;
    }
    this.#worker?.postMessage({ kind: 'audited', id, error } satisfies ToThread);
  }

  #exited(): void {
    this.#worker = null;
    if (this.#finishing !== null) {
      this.#finishing.resolve();
      return;
    }
    this.#status = { ...this.#status, error: 'the sealing thread is being started again' };
    this.#restart = setTimeout(() => this.#start(true), RESTART_MS);
    this.#restart.unref();
  }
}
