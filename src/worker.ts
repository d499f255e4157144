import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { Refusal } from '../protocols/error.ts';
import { RemoteAccess } from './access/remote-access.ts';
import { Gateway } from './gateway/gateway.ts';
import { GatewaySessions } from './gateway/live-sessions.ts';
import type { Places } from './gateway/places.ts';
import { socketLegsWork } from './gateway/socket-leg.ts';
import { EventLoopLag } from './lib/event-loop-lag.ts';
import { type Log, makeLog } from './log.ts';
import { Metrics } from './metrics.ts';
import { ProcessRecording } from './recording/setup.ts';
import { PROVIDER_CHECK_MS, Serving } from './serving.ts';
import {
  type HandedOver,
  type PrimaryCalls,
  refusalOf,
  type Watched,
  type WorkerCalls,
  type WorkerConfig,
  type WorkerStart,
  type WorkerState,
} from './workers/contract.ts';
import { WATCHED_MAX } from './workers/limits.ts';
import { GoneError, Link } from './workers/link.ts';

/**
 * A worker: the composition root of a process that serves listeners and nothing else. `workers/pool.ts` starts it, decides
 * who comes in, seals its journal, and tells it when to end; it ends by itself when that process is gone.
 */

// Signals to the whole group, from a terminal or a service manager, are the first process's to answer.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});

/** The first process took a place when it let the client in. */
const TAKEN: Places = { take: () => true, free: () => {} };

/** The first process is gone, and this one is about to be: its clients hear no more than that. */
function withoutFirst(error: Error): never {
  if (error instanceof GoneError) throw new Refusal('draining', 'the gateway is shutting down');
  throw error;
}

/** All that a worker has once it was told what to serve. */
class Working {
  readonly gateway: Gateway;
  readonly sessions: GatewaySessions;
  readonly metrics: Metrics;
  readonly recording: ProcessRecording;
  readonly #serving: Serving<WorkerConfig>;
  readonly #log: Log;
  readonly #lag: EventLoopLag;

  static async start(start: WorkerStart): Promise<Working> {
    const { config, boot, recipients } = start;
    const log = makeLog(start.logFormat, start.logLevel).child({ worker: start.worker });
    const metrics = new Metrics();
    const serving = new Serving(config, log, metrics);
    await Promise.all([serving.open(), socketLegsWork()]);
    const recording = await ProcessRecording.open(config, recipients, boot, metrics, log);
    if (start.spoolFull) recording.spoolFull(true);
    const working = new Working(serving, recording, metrics, log);
    await working.gateway.apply(serving.doors);
    return working;
  }

  private constructor(
    serving: Serving<WorkerConfig>,
    recording: ProcessRecording,
    metrics: Metrics,
    log: Log,
  ) {
    const { gateway, recording: recorded } = serving.config;
    this.#serving = serving;
    this.recording = recording;
    this.metrics = metrics;
    this.#log = log;
    this.gateway = new Gateway({
      name: gateway.name,
      recorder: recording.journal,
      access: new RemoteAccess({
        challenge: (question) => primary.ask('challenge', question).catch(withoutFirst),
        admit: (question) => primary.ask('admit', question).catch(withoutFirst),
        closed: (session) => primary.tell('closed', session),
      }),
      metrics,
      log,
      random: randomBytes,
      now: Date.now,
      askPeers: (id, secret, host) => primary.ask('cancel', { id, secret, host }),
      endOnRecordingFailure: recorded.on_failure === 'refuse',
      places: TAKEN,
      part: 'serve',
    });
    this.sessions = new GatewaySessions(this.gateway, (statement, session) =>
      recording.present(session, statement),
    );
    this.#lag = new EventLoopLag(metrics.eventLoopLagSeconds);
    void serving.resolver.checkAll(AbortSignal.timeout(PROVIDER_CHECK_MS));
  }

  async reload(config: WorkerConfig): Promise<void> {
    await this.#serving.replace(config, () => this.gateway.apply(this.#serving.doors));
    this.recording.reload(config);
  }

  async stop(graceMs: number): Promise<void> {
    await this.gateway.drain(graceMs);
    this.#lag.stop();
    await this.#serving.close();
    await this.recording.journal.close();
    this.#log.debug('stopped');
  }

  get state(): WorkerState {
    return {
      listening: this.gateway.listening,
      journal: this.recording.journal.failed?.message ?? null,
      providers: this.#serving.resolver.health(),
    };
  }
}

/** What the first process asks, in the order in which it asked where that matters. */
class Calls implements WorkerCalls {
  #working: Working | null = null;
  /** The last of what changes this worker as a whole: one is done before the next begins. */
  #last: Promise<void> = Promise.resolve();
  readonly #watches = new Map<number, () => void>();
  /** Statements that are on their way to those who follow them. */
  #watched = 0;

  get working(): Working | null {
    return this.#working;
  }

  start = (start: WorkerStart): Promise<void> =>
    this.#inTurn(async () => {
      this.#working = await Working.start(start);
    });

  reload = (config: WorkerConfig): Promise<void> => this.#inTurn(() => this.#theWorking.reload(config));

  // Not in turn: a second call hastens the first.
  stop = async (graceMs: number): Promise<void> => {
    await this.#theWorking.stop(graceMs);
    // Behind the answer, which is on its way by then.
    setImmediate(() => process.exit(0));
  };

  spoolFull = (full: boolean): Promise<void> =>
    this.#inTurn(async () => this.#theWorking.recording.spoolFull(full));

  sessions: WorkerCalls['sessions'] = () => this.#theWorking.sessions.all();

  session: WorkerCalls['session'] = (id) => this.#theWorking.sessions.one(id);

  kill: WorkerCalls['kill'] = ({ session, ending }) =>
    this.#theWorking.sessions.kill(session, refusalOf(ending), ending.reason);

  endLaunch: WorkerCalls['endLaunch'] = ({ launch, ending }) => {
    this.#working?.gateway.endLaunch(launch, refusalOf(ending), ending.reason);
  };

  cancel: WorkerCalls['cancel'] = async ({ id, secret, host }) =>
    (await this.#theWorking.gateway.cancels.asked(id, secret, host)) === 'sent';

  watch: WorkerCalls['watch'] = async ({ session, watch }) => {
    const unwatch = await this.#theWorking.sessions.watch(session, {
      began: (shown) => this.#show({ watch, what: 'began', shown }),
      ended: (shown) => this.#show({ watch, what: 'ended', shown }),
      closed: () => this.#end(watch),
    });
    if (unwatch !== null) this.#watches.set(watch, unwatch);
    return unwatch !== null;
  };

  unwatch: WorkerCalls['unwatch'] = (watch) => {
    this.#watches.get(watch)?.();
    this.#watches.delete(watch);
  };

  metrics: WorkerCalls['metrics'] = () => this.#theWorking.metrics.registry.getMetricsAsJSON();

  state: WorkerCalls['state'] = () => this.#theWorking.state;

  get #theWorking(): Working {
    if (this.#working === null) throw new Error('this worker has not begun');
    return this.#working;
  }

  #inTurn(act: () => Promise<void>): Promise<void> {
    const done = this.#last.then(act);
    this.#last = done.catch(() => {});
    return done;
  }

  /** Whoever follows more than can be told is told no more. */
  #show(watched: Watched): void {
    if (this.#watched >= WATCHED_MAX) {
      this.#end(watched.watch);
      return;
    }
    this.#watched += 1;
    primary.tell('watched', watched, () => {
      this.#watched -= 1;
    });
  }

  #end(watch: number): void {
    this.unwatch(watch);
    primary.tell('watched', { watch, what: 'closed' });
  }
}

const calls = new Calls();
const primary = new Link<WorkerCalls, PrimaryCalls>(
  {
    send: (message, sent) => void process.send!(message, undefined, undefined, sent),
    onMessage: (listener) => void process.on('message', listener),
  },
  calls,
);
process.on('message', (message: HandedOver, socket: Socket | undefined) => {
  if (message.kind !== 'socket') return;
  primary.tell('taken', message.turn);
  if (socket === undefined) return;
  // As the gateway's own servers have it: a client may say that it sends no more, and wait for the answer.
  socket.allowHalfOpen = true;
  if (calls.working === null) socket.destroy();
  else calls.working.gateway.accepted(message.key, socket);
});
process.once('disconnect', () => process.exit(0));
// Also when the first process is gone: what was recorded is with the operating system by then.
process.on('exit', () => calls.working?.recording.journal.flush());
