import type { ChildProcess } from 'node:child_process';
import type { Socket } from 'node:net';
import type { Permit } from '../../protocols/engine.ts';
import type { Refusal } from '../../protocols/error.ts';
import type { Access } from '../access/access.ts';
import { admitFor, challengeFor, type DistantPermit, distantPermit } from '../access/remote-access.ts';
import type { LiveSessions, ShownWatcher } from '../gateway/live-sessions.ts';
import { noPlace, type Places } from '../gateway/places.ts';
import type { SessionSummary } from '../gateway/summary.ts';
import type { Target } from '../gateway/target.ts';
import type { MetricsSnapshot } from '../metrics.ts';
import type { CloseReason } from '../recording/recorder.ts';
import {
  type CancelQuestion,
  endingOf,
  type HandedOver,
  type PrimaryCalls,
  type Watched,
  type WorkerCalls,
  type WorkerState,
} from './contract.ts';
import { HANDED_OVER_MAX, METRICS_MS_MAX, STATE_MS_MAX } from './limits.ts';
import { Link } from './link.ts';

/** What the first process has for the sign-ins of its workers. */
export interface WorkerPorts {
  readonly access: Access;
  readonly places: Places;
  readonly target: (name: string) => Target | null;
  /** Whether a session elsewhere than in this worker was told to cancel. */
  readonly cancel: (question: CancelQuestion, from: WorkerProcess) => Promise<boolean>;
  readonly now: () => number;
}

/** One worker as the first process sees it: what it may ask, what it holds, and its sessions. */
export class WorkerProcess implements LiveSessions {
  readonly number: number;
  readonly boot: string;
  readonly startedAt: number;
  readonly #process: ChildProcess;
  readonly #ports: WorkerPorts;
  readonly #link: Link<PrimaryCalls, WorkerCalls>;
  /** By session. What is held here is given back when the worker says so, or when it is gone. */
  readonly #permits = new Map<string, Permit>();
  readonly #watchers = new Map<number, ShownWatcher>();
  /** Sockets on their way, by turn. Open here until the worker has them: one that dies before would leave them hanging. */
  readonly #handedOver = new Map<number, Socket>();
  #turn = 0;
  #watches = 0;
  #running = false;
  #state: WorkerState | null = null;
  #silent = false;
  #metrics: MetricsSnapshot = [];

  constructor(process: ChildProcess, number: number, boot: string, ports: WorkerPorts) {
    this.#process = process;
    this.number = number;
    this.boot = boot;
    this.#ports = ports;
    this.startedAt = ports.now();
    this.#link = new Link<PrimaryCalls, WorkerCalls>(
      {
        send: (message, sent) => void process.send(message, sent),
        onMessage: (listener) => void process.on('message', listener),
      },
      this.#calls(),
    );
  }

  get link(): Link<PrimaryCalls, WorkerCalls> {
    return this.#link;
  }

  /** It has begun, and serves. */
  get running(): boolean {
    return this.#running;
  }

  /** As it was at the last `look`. */
  get state(): WorkerState | null {
    return this.#state;
  }

  /** It did not answer to the last `look`: it hangs. */
  get silent(): boolean {
    return this.#silent;
  }

  /** Asks how it is. Never rejects. */
  async look(): Promise<void> {
    const asked = this.#link.ask('state', null).catch(() => null);
    const state = await within(asked, STATE_MS_MAX);
    this.#silent = state === null;
    this.#state = state ?? this.#state;
  }

  /** Sessions, and those about to be. */
  get sessionsHeld(): number {
    return this.#permits.size;
  }

  begun(): void {
    this.#running = true;
  }

  heldOf(launch: string): number {
    let count = 0;
    for (const permit of this.#permits.values()) if (permit.launch?.id === launch) count += 1;
    return count;
  }

  kill9(): void {
    this.#process.kill('SIGKILL');
  }

  /** When it was last given a socket, by the number of that. */
  get turn(): number {
    return this.#turn;
  }

  /** Gives it a socket, which this process lets go of then; it is closed when the worker dies before it has it. */
  take(key: string, socket: Socket, turn: number): void {
    this.#turn = turn;
    if (this.#handedOver.size >= HANDED_OVER_MAX) {
      socket.destroy();
      return;
    }
    socket.on('error', () => {});
    this.#handedOver.set(turn, socket);
    const message: HandedOver = { kind: 'socket', key, turn };
    this.#process.send(message, socket, { keepOpen: true }, (error) => {
      if (error !== null) this.#letGo(turn);
    });
  }

  /** Closes this process's hold of it alone: whoever has the socket too goes on with it. */
  #letGo(turn: number): void {
    this.#handedOver.get(turn)?.destroy();
    this.#handedOver.delete(turn);
  }

  /** The process is gone: whatever it held is given back. */
  gone(): void {
    this.#running = false;
    this.#link.close();
    for (const session of [...this.#permits.keys()]) this.#closed(session);
    for (const watcher of this.#watchers.values()) watcher.closed();
    this.#watchers.clear();
    for (const turn of [...this.#handedOver.keys()]) this.#letGo(turn);
  }

  /** Its metrics as they are now; as they were last, where it does not answer. */
  async metrics(): Promise<MetricsSnapshot> {
    const asked = this.#link.ask('metrics', null).catch(() => null);
    this.#metrics = (await within(asked, METRICS_MS_MAX)) ?? this.#metrics;
    return this.#metrics;
  }

  /** As they were last seen from outside. */
  get lastMetrics(): MetricsSnapshot {
    return this.#metrics;
  }

  // LiveSessions

  all(): Promise<readonly SessionSummary[]> {
    return this.#link.ask('sessions', null);
  }

  one(id: string): Promise<SessionSummary | null> {
    return this.#link.ask('session', id);
  }

  kill(id: string, refusal: Refusal, reason: CloseReason): Promise<boolean> {
    return this.#link.ask('kill', { session: id, ending: endingOf(refusal, reason) });
  }

  async watch(id: string, watcher: ShownWatcher): Promise<(() => void) | null> {
    this.#watches += 1;
    const watch = this.#watches;
    // Before it is asked: what happens comes right behind the answer.
    this.#watchers.set(watch, watcher);
    const found = await this.#link.ask('watch', { session: id, watch }).catch(() => false);
    if (!found) {
      this.#watchers.delete(watch);
      return null;
    }
    return () => {
      if (this.#watchers.delete(watch)) this.#link.tell('unwatch', watch);
    };
  }

  #calls(): PrimaryCalls {
    const { access, cancel } = this.#ports;
    const target = (name: string): Target | null => this.#ports.target(name);
    return {
      challenge: (question) => challengeFor(access, question, target),
      admit: async (question) => this.#hold(await admitFor(access, question, target)),
      closed: (session) => this.#closed(session),
      taken: (turn) => this.#letGo(turn),
      cancel: (question) => cancel(question, this),
      watched: (watched) => this.#watched(watched),
    };
  }

  #hold(permit: Permit): DistantPermit {
    const { access, places, target } = this.#ports;
    const { name } = permit.resource;
    if (!places.take(name, target(name)?.limits.maxConnections ?? 0)) {
      access.closed(permit);
      throw noPlace(name);
    }
    this.#permits.set(permit.session, permit);
    // It may have died while it was being decided.
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) this.#closed(permit.session);
    return distantPermit(permit);
  }

  #closed(session: string): void {
    const permit = this.#permits.get(session);
    if (permit === undefined) return;
    this.#permits.delete(session);
    this.#ports.places.free(permit.resource.name);
    this.#ports.access.closed(permit);
  }

  #watched(watched: Watched): void {
    const watcher = this.#watchers.get(watched.watch);
    if (watched.what !== 'closed') watcher?.[watched.what](watched.shown);
    else if (this.#watchers.delete(watched.watch)) watcher?.closed();
  }
}

/** What was asked, or null when it takes longer than `ms`. */
async function within<Value>(asked: Promise<Value | null>, ms: number): Promise<Value | null> {
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), ms);
  });
  const value = await Promise.race([asked, tooLate]);
  clearTimeout(timer);
  return value;
}
