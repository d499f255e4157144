import { chmodSync, existsSync, lstatSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Address } from '../../protocols/channel.ts';
import { Refusal } from '../../protocols/error.ts';
import type { Access } from '../access/access.ts';
import type { ListenAddress } from '../config/values.ts';
import { newId } from '../lib/id.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { CloseReason, Recorder } from '../recording/recorder.ts';
import { type CancelOutcome, Cancels } from './cancels.ts';
import { Connection } from './connection.ts';
import { HANDSHAKES_MAX, KEEP_ALIVE_MS, TICK_MS } from './limits.ts';
import { CountedPlaces, type Places } from './places.ts';
import { type Door, listenKey, onlyTarget, type Target } from './target.ts';

/** What the gateway and its connections are given by the composition root. */
export interface GatewayPorts {
  readonly name: string;
  readonly recorder: Recorder;
  readonly access: Access;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly random: (length: number) => Buffer;
  readonly now: () => number;
  /** Asks the other processes and gateways of this address whether a cancel key is theirs. */
  readonly askPeers: ((id: number, secret: Buffer, host: string) => Promise<boolean>) | null;
  /** End running sessions when the journal fails (`recording.on_failure: refuse`). */
  readonly endOnRecordingFailure: boolean;
  /** Default: this process's own. */
  readonly places?: Places;
  /**
   * Who listens and who serves. `both`, the default: this process. `listen`: accepted sockets go to `handOver`, unread.
   * `serve`: another process listens, and its sockets come by `accepted`.
   */
  readonly part?: 'both' | 'serve' | { readonly handOver: (key: string, socket: Socket) => void };
}

/** What a connection sees of its gateway. */
export interface GatewayContext extends GatewayPorts {
  readonly cancels: Cancels;
  readonly draining: boolean;
  /** Takes one of the resource's places; false when there is none left. */
  reserve(target: Target): boolean;
  release(target: Target): void;
  cancel(id: number, secret: Buffer, host: string): Promise<CancelOutcome>;
}

interface Listener {
  /** Null where another process listens. */
  readonly server: Server | null;
  door: Door;
  handshaking: number;
}

/** All listeners of one process and the sessions behind them. */
export class Gateway implements GatewayContext {
  readonly name: string;
  readonly recorder: Recorder;
  readonly access: Access;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly random: (length: number) => Buffer;
  readonly now: () => number;
  readonly askPeers: GatewayPorts['askPeers'];
  readonly endOnRecordingFailure: boolean;
  readonly cancels: Cancels;
  readonly #listeners = new Map<string, Listener>();
  readonly #connections = new Set<Connection>();
  readonly #places: Places;
  readonly #part: NonNullable<GatewayPorts['part']>;
  readonly #ticker: NodeJS.Timeout;
  #draining = false;
  #emptied: (() => void) | null = null;

  constructor(ports: GatewayPorts) {
    this.name = ports.name;
    this.recorder = ports.recorder;
    this.access = ports.access;
    this.metrics = ports.metrics;
    this.log = ports.log;
    this.random = ports.random;
    this.now = ports.now;
    this.askPeers = ports.askPeers;
    this.endOnRecordingFailure = ports.endOnRecordingFailure;
    this.#places = ports.places ?? new CountedPlaces();
    this.#part = ports.part ?? 'both';
    this.cancels = new Cancels(ports.random, ports.now);
    this.#ticker = setInterval(() => this.#tick(), TICK_MS);
    this.#ticker.unref();
    this.recorder.onFailure((error) => this.#recordingFailed(error));
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Every listener that was asked for is up. */
  get listening(): boolean {
    for (const listener of this.#listeners.values()) if (listener.server?.listening === false) return false;
    return !this.#draining;
  }

  get connections(): ReadonlySet<Connection> {
    return this.#connections;
  }

  /**
   * Makes the listeners be those of `doors`: starts new ones, closes those that are gone, and gives the others their new
   * settings. Running sessions keep what they began with. Rejects with the first address that cannot be bound; the
   * others are up all the same.
   */
  async apply(doors: readonly Door[]): Promise<void> {
    const wanted = new Map<string, Door>();
    for (const door of doors) if (door.listen !== null) wanted.set(listenKey(door.listen), door);
    for (const [key, listener] of this.#listeners) {
      const door = wanted.get(key);
      if (door !== undefined) listener.door = door;
      else {
        this.#listeners.delete(key);
        if (listener.server === null) continue;
        listener.server.close();
        this.log.info({ listen: key }, 'listener closed');
      }
    }
    const failures: Error[] = [];
    for (const [key, door] of wanted) {
      if (this.#listeners.has(key)) continue;
      if (this.#part === 'serve') {
        this.#listeners.set(key, { server: null, door, handshaking: 0 });
        continue;
      }
      try {
        await this.#listen(key, door, door.listen!);
      } catch (error) {
        failures.push(error as Error);
      }
    }
    if (failures.length > 0) throw failures[0]!;
  }

  /** The port a TCP listener was given, where the configuration asked for port 0. Null for other addresses. */
  portOf(door: Door): number | null {
    if (door.listen === null) return null;
    const address = this.#listeners.get(listenKey(door.listen))?.server?.address();
    return typeof address === 'object' && address !== null ? address.port : null;
  }

  /**
   * Takes no new sessions, lets running statements and transactions finish for `graceMs`, then ends what is left with
   * the protocol's own words. Resolves when every session is closed.
   */
  async drain(graceMs: number): Promise<void> {
    this.#draining = true;
    for (const listener of this.#listeners.values()) listener.server?.close();
    const shutdown = (): Refusal => new Refusal('shutdown', 'the gateway is shutting down');
    const endQuiet = (): void => {
      for (const connection of this.#connections)
        if (connection.quiet) connection.end(shutdown(), 'shutdown');
    };
    const emptied = new Promise<void>((resolve) => {
      this.#emptied = resolve;
      if (this.#connections.size === 0) resolve();
    });
    endQuiet();
    const polling = setInterval(endQuiet, TICK_MS);
    const deadline = setTimeout(() => this.endAll(shutdown(), 'shutdown'), graceMs);
    await emptied;
    clearInterval(polling);
    clearTimeout(deadline);
    clearInterval(this.#ticker);
  }

  /**
   * Takes one connection: an accepted socket, or a tunnel's stream. Resolves when its handshake is over (and its session,
   * where it became one, is running). Never rejects.
   */
  async serve(door: Door, stream: Duplex, remote: Address): Promise<void> {
    const connection = new Connection(this, door, stream, remote, newId(this.now()), () => {
      this.#connections.delete(connection);
      if (this.#connections.size === 0) this.#emptied?.();
    });
    this.#connections.add(connection);
    await connection.run();
  }

  /** Ends all connections of one launch; returns how many there were. */
  endLaunch(launch: string, refusal: Refusal, reason: CloseReason): number {
    let count = 0;
    for (const connection of this.#connections) {
      if (connection.launch !== launch) continue;
      connection.end(refusal, reason);
      count += 1;
    }
    return count;
  }

  endAll(refusal: Refusal, reason: CloseReason): void {
    for (const connection of this.#connections) connection.end(refusal, reason);
  }

  /** The open session with this id, or null. */
  session(id: string): Connection | null {
    for (const connection of this.#connections) {
      if (connection.id === id && connection.summary !== null) return connection;
    }
    return null;
  }

  /** Ends one session; false when there is none with this id. */
  kill(id: string, refusal: Refusal, reason: CloseReason): boolean {
    const connection = this.session(id);
    connection?.end(refusal, reason);
    return connection !== null;
  }

  // GatewayContext

  reserve(target: Target): boolean {
    return this.#places.take(target.resource.name, target.limits.maxConnections);
  }

  release(target: Target): void {
    this.#places.free(target.resource.name);
  }

  async cancel(id: number, secret: Buffer, host: string): Promise<CancelOutcome> {
    const { askPeers } = this;
    const elsewhere = askPeers === null ? null : () => askPeers(id, secret, host);
    return this.cancels.cancel(id, secret, host, elsewhere);
  }

  async #listen(key: string, door: Door, listen: ListenAddress): Promise<void> {
    if (listen.kind === 'unix') await clearStaleSocket(listen.path);
    const part = this.#part;
    const server = createServer({
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_MS,
      pauseOnConnect: typeof part === 'object',
    });
    const listener: Listener = { server, door, handshaking: 0 };
    server.on('connection', (socket) => {
      if (typeof part === 'object') part.handOver(key, socket);
      else this.#accept(listener, socket);
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause: NodeJS.ErrnoException) => reject(new ListenError(key, cause)));
      server.listen(
        listen.kind === 'unix'
          ? { path: listen.path }
          : { host: listen.host, port: listen.port, backlog: 1024 },
        resolve,
      );
    });
    // Only the owner may connect to a trusted socket: whoever can open it is let in.
    if (listen.kind === 'unix') chmodSync(listen.path, 0o600);
    server.on('error', (error) => this.log.error({ listen: key, error: error.message }, 'listener failed'));
    this.#listeners.set(key, listener);
    this.log.info(
      {
        listen: listen.kind === 'tcp' && listen.port === 0 ? `${listen.host}:${this.portOf(door)}` : key,
        resources: door.targets.map((target) => target.resource.name).join(' '),
      },
      'listening',
    );
  }

  /** Takes a socket that another process has accepted where `key` says. One that came too late for a reload is closed. */
  accepted(key: string, socket: Socket): void {
    const listener = this.#listeners.get(key);
    if (listener === undefined) socket.destroy();
    else this.#accept(listener, socket);
  }

  #accept(listener: Listener, socket: Socket): void {
    const { door } = listener;
    if (listener.handshaking >= HANDSHAKES_MAX) {
      socket.destroy();
      this.metrics.handshakeFailuresTotal.inc({
        resource: onlyTarget(door)?.resource.name ?? '',
        engine: door.engine.name,
        code: 'rate_limited',
      });
      return;
    }
    const remote = { host: socket.remoteAddress ?? 'local', port: socket.remotePort ?? 0 };
    listener.handshaking += 1;
    void this.serve(door, socket, remote).finally(() => {
      listener.handshaking -= 1;
    });
  }

  #tick(): void {
    const now = this.now();
    for (const connection of this.#connections) connection.tick(now);
  }

  #recordingFailed(error: Error): void {
    this.log.error(
      { error: error.message, ends: this.endOnRecordingFailure },
      'the journal cannot be written',
    );
    if (!this.endOnRecordingFailure) return;
    this.endAll(
      new Refusal('recording_failed', 'this session can no longer be recorded and was ended'),
      'recording_failed',
    );
  }
}

/** An address that cannot be listened on, and why. */
export class ListenError extends Error {
  constructor(listen: string, cause: NodeJS.ErrnoException) {
    const why =
      cause.code === 'EADDRINUSE'
        ? 'another process listens there'
        : cause.code === 'EACCES'
          ? 'no permission to listen there'
          : cause.code === 'EADDRNOTAVAIL'
            ? 'this machine has no such address'
            : cause.message;
    super(`cannot listen on ${listen}: ${why}`, { cause });
    this.name = 'ListenError';
  }
}

/** Removes a socket file that nobody listens on any more; a live one is left for `listen` to fail on. */
async function clearStaleSocket(path: string): Promise<void> {
  if (!existsSync(path) || !lstatSync(path).isSocket()) return;
  const alive = await new Promise<boolean>((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
  if (!alive) unlinkSync(path);
}
