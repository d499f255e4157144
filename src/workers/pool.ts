import { fork } from 'node:child_process';
import type { Socket } from 'node:net';
import type { Refusal } from '../../protocols/error.ts';
import type { Log, LogFormat } from '../log.ts';
import { countedMetrics, type MetricsSnapshot, mergedMetrics } from '../metrics.ts';
import type { Boot } from '../recording/journal.ts';
import type { CloseReason } from '../recording/recorder.ts';
import type { ProviderHealth } from '../secrets/resolver.ts';
import { type CancelQuestion, endingOf, type WorkerConfig } from './contract.ts';
import {
  RESTART_MS_MAX,
  RESTART_MS_MIN,
  RESTARTS_MAX,
  START_MS_MAX,
  STEADY_MS,
  STOP_MS_MAX,
} from './limits.ts';
import { GoneError } from './link.ts';
import { type WorkerPorts, WorkerProcess } from './worker-process.ts';

export interface PoolPorts extends Omit<WorkerPorts, 'cancel'> {
  readonly count: number;
  /** The file that a worker runs. */
  readonly script: string;
  readonly log: Log;
  readonly logFormat: LogFormat;
  readonly config: () => WorkerConfig;
  readonly recording: PoolRecording;
  /** Whether a session in this process, or with a peer, was told to cancel. */
  readonly cancel: (question: CancelQuestion) => Promise<boolean>;
}

/** What the recording side does for workers. */
export interface PoolRecording {
  readonly recipients: readonly string[];
  readonly spoolFull: boolean;
  begin(): Promise<Boot>;
  end(boot: string): void;
}

/** A worker's place: who has it, and how it went with those before. */
interface Place {
  readonly number: number;
  worker: WorkerProcess | null;
  /** Deaths in a row, none of which had lived for a while. */
  deaths: number;
  restart: NodeJS.Timeout | null;
  /** Why nobody serves here, for people. */
  trouble: string | null;
}

/** How the workers are, all together. */
export interface PoolHealth {
  readonly listening: boolean;
  /** One sentence for each that does not serve; empty when all do. */
  readonly troubles: readonly string[];
  readonly journal: string | null;
  readonly providers: readonly ProviderHealth[];
}

/**
 * The processes that serve the listeners. Each has its own event loop and journal; this one accepts connections, hands
 * them out in turn, decides who comes in, and starts a worker again that has died.
 */
export class WorkerPool {
  readonly #ports: PoolPorts;
  readonly #places: readonly Place[];
  readonly #exits = new Map<WorkerProcess, () => void>();
  #stopping = false;
  /** Sockets handed over so far. */
  #turn = 0;
  /** What workers that are gone have counted. */
  #formerMetrics: Promise<MetricsSnapshot> = Promise.resolve([]);

  constructor(ports: PoolPorts) {
    this.#ports = ports;
    this.#places = Array.from({ length: ports.count }, (_, index) => ({
      number: index + 1,
      worker: null,
      deaths: 0,
      restart: null,
      trouble: 'it has not begun yet',
    }));
  }

  /** Starts all of them. Rejects with the first that cannot serve what the configuration says. */
  async start(): Promise<void> {
    await Promise.all(this.#places.map((place) => this.#begin(place)));
  }

  get workers(): readonly WorkerProcess[] {
    return this.#places.flatMap(({ worker }) => (worker?.running ? [worker] : []));
  }

  /** Sessions of all workers, and those about to be. */
  get sessions(): number {
    return this.workers.reduce((sum, worker) => sum + worker.sessionsHeld, 0);
  }

  async health(): Promise<PoolHealth> {
    await Promise.all(this.workers.map((worker) => worker.look()));
    const troubles = this.#places.flatMap(({ number, worker, trouble }) => {
      if (trouble !== null) return [`worker ${number}: ${trouble}`];
      return worker?.silent ? [`worker ${number} does not answer`] : [];
    });
    const { workers } = this;
    const failed = workers.find(({ state }) => state !== null && state.journal !== null);
    return {
      listening: troubles.length === 0 && workers.every(({ state }) => state?.listening ?? true),
      troubles,
      journal: failed === undefined ? null : `worker ${failed.number}: ${failed.state!.journal}`,
      providers: workers.flatMap(({ state }) => state?.providers ?? []),
    };
  }

  /**
   * Has all workers take the configuration. Rejects with the error of one that cannot; one that dies meanwhile is replaced
   * by one that begins with it.
   */
  async reload(config: WorkerConfig): Promise<void> {
    const asked = this.#alive().map((worker) => worker.link.ask('reload', config));
    for (const outcome of await Promise.allSettled(asked))
      if (outcome.status === 'rejected' && !(outcome.reason instanceof GoneError)) throw outcome.reason;
  }

  spoolFull(full: boolean): void {
    for (const worker of this.#alive()) worker.link.tell('spoolFull', full);
  }

  /**
   * Gives a socket that was accepted where `key` says to the worker with the fewest sessions, in turn where these are
   * equal. Closes it when nobody serves.
   */
  handOver(key: string, socket: Socket): void {
    const [chosen] = [...this.workers].sort(
      (one, other) => one.sessionsHeld - other.sessionsHeld || one.turn - other.turn,
    );
    this.#turn += 1;
    if (chosen === undefined) socket.destroy();
    else chosen.take(key, socket, this.#turn);
  }

  /** Ends all connections of one launch; returns how many there were. */
  endLaunch(launch: string, refusal: Refusal, reason: CloseReason): number {
    let count = 0;
    for (const worker of this.workers) {
      count += worker.heldOf(launch);
      worker.link.tell('endLaunch', { launch, ending: endingOf(refusal, reason) });
    }
    return count;
  }

  /** Whether a worker, other than the one that asks, has told a session of its own to cancel. */
  async cancel(question: CancelQuestion, except: WorkerProcess | null = null): Promise<boolean> {
    const others = this.workers.filter((worker) => worker !== except);
    return anyOf(others.map((worker) => worker.link.ask('cancel', question)));
  }

  /** The metrics of all processes as one; `own` are those of this one. */
  async metrics(own: MetricsSnapshot): Promise<string> {
    const theirs = await Promise.all(this.workers.map((worker) => worker.metrics()));
    return mergedMetrics([own, ...theirs, await this.#formerMetrics]).metrics();
  }

  /** Drains for `graceMs`; a worker that does not end is ended. May be called again to hasten it. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    await Promise.all(
      this.#places.map(async (place) => {
        if (place.restart !== null) clearTimeout(place.restart);
        const { worker } = place;
        if (worker === null) return;
        const exited = new Promise<void>((resolve) => {
          const former = this.#exits.get(worker);
          this.#exits.set(worker, () => {
            former?.();
            resolve();
          });
        });
        if (worker.running) worker.link.ask('stop', graceMs).catch(() => {});
        else worker.kill9();
        const deadline = setTimeout(() => worker.kill9(), graceMs + STOP_MS_MAX);
        await exited;
        clearTimeout(deadline);
      }),
    );
  }

  /** Those that can be told something: they do it when they have begun. */
  #alive(): WorkerProcess[] {
    return this.#places.flatMap(({ worker }) => worker ?? []);
  }

  async #begin(place: Place): Promise<void> {
    const { log, logFormat, recording, config, access, places, target, now } = this.#ports;
    const boot = await recording.begin();
    if (this.#stopping) {
      recording.end(boot.id);
      return;
    }
    // Serialized so that buffers and bigints pass. Nothing is said in arguments, which others see.
    const forked = fork(this.#ports.script, [], { serialization: 'advanced' });
    const cancel = async (question: CancelQuestion, from: WorkerProcess): Promise<boolean> =>
      (await this.cancel(question, from)) || this.#ports.cancel(question);
    const worker = new WorkerProcess(forked, place.number, boot.id, { access, places, target, now, cancel });
    place.worker = worker;
    let how: string | null = null;
    const exited = (what: string): void => {
      if (how !== null) return;
      how = what;
      this.#exited(place, worker, what);
    };
    forked.once('exit', (code, signal) => exited(signal ?? `status ${code}`));
    forked.on('error', (error) => {
      log.error({ worker: place.number, error: error.message }, 'a worker could not be reached');
      if (forked.pid === undefined) exited(error.message);
    });
    const deadline = setTimeout(() => worker.kill9(), START_MS_MAX);
    try {
      await worker.link.ask('start', {
        worker: place.number,
        config: config(),
        boot,
        recipients: recording.recipients,
        spoolFull: recording.spoolFull,
        logFormat,
        logLevel: log.level,
      });
    } catch (error) {
      worker.kill9();
      const reason = how === null ? (error as Error) : new Error(`a worker ended while it began (${how})`);
      place.trouble = reason.message;
      throw reason;
    } finally {
      clearTimeout(deadline);
    }
    worker.begun();
    place.trouble = null;
  }

  #exited(place: Place, worker: WorkerProcess, how: string): void {
    const { log, recording, now } = this.#ports;
    const wasRunning = worker.running;
    worker.gone();
    place.worker = null;
    this.#formerMetrics = this.#formerMetrics.then(async (former) =>
      countedMetrics(await mergedMetrics([former, worker.lastMetrics]).getMetricsAsJSON()),
    );
    recording.end(worker.boot);
    this.#exits.get(worker)?.();
    this.#exits.delete(worker);
    if (this.#stopping) return;
    place.deaths = now() - worker.startedAt >= STEADY_MS ? 1 : place.deaths + 1;
    if (!wasRunning) return;
    place.trouble = `it ended (${how}) and is being started again`;
    log.error(
      { worker: place.number, how, deaths: place.deaths },
      'a worker ended, and its sessions with it',
    );
    this.#restartLater(place);
  }

  #restartLater(place: Place): void {
    const { log } = this.#ports;
    if (this.#stopping) return;
    if (place.deaths > RESTARTS_MAX) {
      place.trouble = `it ended ${place.deaths} times in a row; restart the gateway`;
      log.fatal({ worker: place.number }, 'a worker is not started again');
      return;
    }
    const pause = Math.min(RESTART_MS_MAX, RESTART_MS_MIN * 2 ** Math.max(0, place.deaths - 1));
    place.restart = setTimeout(() => {
      place.restart = null;
      this.#begin(place).then(
        () => log.info({ worker: place.number }, 'a worker was started again'),
        (error: Error) => {
          log.error({ worker: place.number, error: error.message }, 'a worker could not be started again');
          this.#restartLater(place);
        },
      );
    }, pause);
  }
}

/** True as soon as one of them is. */
export function anyOf(asked: readonly Promise<boolean>[]): Promise<boolean> {
  const yes = asked.map((answer) =>
    answer.then((found) => (found ? true : Promise.reject(new Error('not there')))),
  );
  return Promise.any(yes).catch(() => false);
}
