import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { extname, join } from 'node:path';
import type { Duplex } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import type { Address } from '../protocols/channel.ts';
import type { Refusal } from '../protocols/error.ts';
import { AccessControl } from './access/access-control.ts';
import type { LoadedConfig } from './config/load.ts';
import { ENGINE_OF_TYPE } from './config/resources.ts';
import type { Config } from './config/schema.ts';
import { measureDoors } from './doors.ts';
import type { ChannelTls } from './gateway/channel.ts';
import { Gateway } from './gateway/gateway.ts';
import { GatewaySessions, JoinedSessions, type LiveSessions } from './gateway/live-sessions.ts';
import { localCertificate } from './gateway/local-certificate.ts';
import { type PeerCancel, PeerSeal, Peers } from './gateway/peers.ts';
import { CountedPlaces } from './gateway/places.ts';
import { socketLegsWork } from './gateway/socket-leg.ts';
import type { Door, Target } from './gateway/target.ts';
import { listenerTls } from './gateway/tls-context.ts';
import { addApi } from './http/api.ts';
import type { Health, HealthPart, HealthSource } from './http/health.ts';
import { type HttpServer, startHttp } from './http/server.ts';
import { EventLoopLag } from './lib/event-loop-lag.ts';
import type { Log, LogFormat } from './log.ts';
import { Metrics } from './metrics.ts';
import type { Journal } from './recording/journal.ts';
import { knownSigningKeys } from './recording/keys.ts';
import type { Recorder } from './recording/recorder.ts';
import { Recording } from './recording/setup.ts';
import { PROVIDER_CHECK_MS, Serving } from './serving.ts';
import type { StoredLaunch } from './store/state.ts';
import { type TunnelResource, TunnelServer } from './tunnel/server.ts';
import { workerConfig } from './workers/contract.ts';
import { anyOf, WorkerPool } from './workers/pool.ts';

/** Holds the URL of the API, in `data_dir`. */
export const API_ADDRESS_FILE = 'api.url';

/** How long a stop waits for recordings to be sealed and stored; the next start finishes the rest. */
const SEALING_MS_MAX = 10_000;

export interface AppParts {
  /** What benchmarks put in the place of the product's own. */
  readonly recorder?: Recorder;
  /** Of the log, for processes that this one starts. Default: json. */
  readonly logFormat?: LogFormat;
}

/** The composition root: the one place that knows adapters by name and puts the parts together. */
export class App implements HealthSource {
  readonly gateway: Gateway;
  readonly metrics: Metrics;
  readonly journal: Journal;
  readonly access: AccessControl;
  readonly #recording: Recording;
  readonly #serving: Serving<Config>;
  /** The processes that serve the listeners; null where this one does. */
  readonly #pool: WorkerPool | null;
  readonly #sessions: LiveSessions;
  readonly #log: Log;
  readonly #lag: EventLoopLag;
  readonly #tunnels: TunnelServer;
  /** For tools that ask for TLS inside a tunnel; made when the first tunnel is used. */
  #tunnelTls: Promise<ChannelTls> | null = null;
  #http: HttpServer | null = null;

  /** Use `App.start`. */
  private constructor(config: Config, log: Log, metrics: Metrics, recording: Recording, parts: AppParts) {
    const { journal } = recording;
    this.#log = log;
    this.metrics = metrics;
    this.journal = journal;
    this.#recording = recording;
    this.#serving = new Serving(config, log, metrics);
    this.access = new AccessControl(config, {
      audit: (event) => journal.audit(event),
      endConnections: (launch, refusal) => {
        this.#tunnels.launchEnded(launch, refusal.message);
        return this.#endLaunch(launch, refusal);
      },
      secret: (reference) => this.#secretText(reference),
      now: Date.now,
    });
    const places = new CountedPlaces();
    const count = workersOf(config);
    this.gateway = new Gateway({
      name: config.gateway.name,
      recorder: parts.recorder ?? journal,
      access: this.access.access,
      metrics,
      log,
      random: randomBytes,
      now: Date.now,
      askPeers:
        config.gateway.peers.length === 0 && count === 1
          ? null
          : (id, secret, host) => this.#askOthers({ id, secret, host }),
      endOnRecordingFailure: config.recording.on_failure === 'refuse',
      places,
      part: count === 1 ? 'both' : { handOver: (key, socket) => this.#pool!.handOver(key, socket) },
    });
    this.#pool =
      count === 1
        ? null
        : new WorkerPool({
            count,
            script: join(import.meta.dirname, `worker${extname(import.meta.filename)}`),
            log,
            logFormat: parts.logFormat ?? 'json',
            access: this.access.access,
            places,
            target: (name) => this.#serving.targets.get(name) ?? null,
            config: () => workerConfig(this.#serving.config),
            recording,
            cancel: async (cancel) => (await this.#cancelHere(cancel)) || this.#askPeers(cancel),
            now: Date.now,
          });
    const own = new GatewaySessions(this.gateway, (statement, session) =>
      recording.present(session, statement),
    );
    const pool = this.#pool;
    this.#sessions = pool === null ? own : new JoinedSessions(() => [own, ...pool.workers]);
    recording.onSpool((full) => pool?.spoolFull(full));
    this.#tunnels = new TunnelServer({
      gateway: config.gateway.name,
      principal: (token) => this.access.logins.principal(token),
      launch: (id) => this.access.state.launch(id),
      endLaunch: (id, by) => void this.access.launches.end(id, by, 'tunnel_closed'),
      resource: (name) => this.#tunnelResource(name),
      serve: (launch, stream, remote) => this.#serveTunnel(launch, stream, remote),
      draining: () => this.gateway.draining,
      audit: (event) => journal.audit(event),
      metrics,
      log,
      now: Date.now,
    });
    this.#lag = new EventLoopLag(metrics.eventLoopLagSeconds);
  }

  /** Opens the journal, then the listeners, then HTTP. Rejects with the error of the first that fails, all else closed. */
  static async start(loaded: LoadedConfig, log: Log, parts: AppParts = {}): Promise<App> {
    const { config } = loaded;
    const metrics = new Metrics();
    // The thread asks when it first writes to the index, which is not before the parts are put together here.
    const secret = (reference: string): Promise<string> =>
      app.#serving.resolver.text(reference, AbortSignal.timeout(PROVIDER_CHECK_MS));
    const recording = await Recording.start(config, metrics, log, secret);
    const app: App = new App(config, log, metrics, recording, parts);
    try {
      const [legsWork] = await Promise.all([
        socketLegsWork(),
        app.#serving.resolver.checkAll(AbortSignal.timeout(PROVIDER_CHECK_MS)),
      ]);
      if (!legsWork)
        log.warn(
          { node: process.version },
          'sockets are relayed the slower way: this Node is not one that is known',
        );
      await app.#serving.open();
      await app.#listen(true);
      app.#http = await startHttp({
        listen: config.http.listen,
        tls: config.http.tls ?? null,
        health: app,
        metrics: { contentType: metrics.registry.contentType, text: () => app.#metricsText() },
        cancelForPeer:
          config.gateway.peer_secret === undefined
            ? null
            : (body, signature) => app.#cancelForPeer(body, signature),
        routes: (server) => app.#addRoutes(server),
      });
      app.#tunnels.attach(app.#http.server);
    } catch (error) {
      await app.stop(0);
      throw error;
    }
    // Where commands on this machine find the API, beside the token that lets them in.
    await writeFile(join(config.gateway.data_dir, API_ADDRESS_FILE), app.#http.url, { mode: 0o600 });
    app.#audit('gateway_started');
    log.info({ http: app.#http.address }, 'ready');
    return app;
  }

  /** Where HTTP listens, and each TCP listener: for configurations that ask for port 0. */
  get httpAddress(): string {
    return this.#http?.address ?? '';
  }

  /** Every resource as it is served now. */
  get targets(): ReadonlyMap<string, Target> {
    return this.#serving.targets;
  }

  get doors(): readonly Door[] {
    return this.#serving.doors;
  }

  /** Connections of all processes. */
  get connections(): number {
    return this.gateway.connections.size + (this.#pool?.sessions ?? 0);
  }

  /**
   * Takes a new configuration: listeners, resources, credentials and rules change for connections that come from now
   * on; running sessions keep what they began with. Rejects when a part of it cannot be used, with the former one in force
   * as far as possible.
   */
  async reload(loaded: LoadedConfig): Promise<void> {
    const { config } = loaded;
    const former = this.#serving.config;
    for (const name of ['gateway', 'http', 'recording'] as const) {
      if (JSON.stringify(former[name]) !== JSON.stringify(config[name]))
        this.#log.warn({ section: name }, 'changes of this section need a restart');
    }
    await this.#serving.replace(config, () => {
      this.access.reload(this.#serving.config);
      return this.#listen(false);
    });
    this.#recording.reload(config);
    this.#audit('configuration_reloaded', 'SIGHUP', changedSections(former, config));
  }

  /** Drains for `graceMs`, then closes everything, the journal last. */
  async stop(graceMs: number): Promise<void> {
    this.#tunnels.drain();
    await Promise.all([this.gateway.drain(graceMs), this.#pool?.stop(graceMs)]);
    await this.#tunnels.close();
    this.#lag.stop();
    this.access.close();
    await this.#http?.close();
    await this.#serving.close();
    this.#audit('gateway_stopped');
    await this.#recording.close(SEALING_MS_MAX);
  }

  async health(): Promise<Health> {
    const pool = (await this.#pool?.health()) ?? null;
    const journal = this.journal.failed?.message ?? pool?.journal ?? null;
    const parts: HealthPart[] = [
      {
        name: 'listeners',
        ready: this.gateway.listening && (pool?.listening ?? true),
        detail: this.gateway.draining ? 'the gateway is shutting down' : null,
      },
      { name: 'journal', ready: journal === null, detail: journal },
      // A store that is away is a warning: recordings wait on disk.
      { name: 'recordings', ready: true, detail: this.#recording.warning },
    ];
    if (pool !== null) {
      const { troubles } = pool;
      parts.push({ name: 'workers', ready: troubles.length === 0, detail: troubles.join('; ') || null });
    }
    for (const { provider, state, error } of this.#serving.resolver.health()) {
      const down = pool?.providers.find((theirs) => theirs.provider === provider && theirs.state === 'down');
      parts.push({
        name: `secrets.${provider}`,
        ready: state !== 'down' && down === undefined,
        detail: error ?? down?.error ?? null,
      });
    }
    return { parts };
  }

  /** Makes the listeners be those of the configuration, once those are ready who serve what comes there. */
  async #listen(isStart: boolean): Promise<void> {
    const config = this.#serving.config;
    measureDoors(this.metrics, config, this.#serving);
    await (isStart ? this.#pool?.start() : this.#pool?.reload(workerConfig(config)));
    await this.gateway.apply(this.doors);
  }

  #endLaunch(launch: string, refusal: Refusal): number {
    const reason = 'launch_expired';
    return (
      this.gateway.endLaunch(launch, refusal, reason) + (this.#pool?.endLaunch(launch, refusal, reason) ?? 0)
    );
  }

  async #metricsText(): Promise<string> {
    const { registry } = this.metrics;
    return this.#pool === null ? registry.metrics() : this.#pool.metrics(await registry.getMetricsAsJSON());
  }

  #tunnelResource(name: string): TunnelResource | null {
    const { resources } = this.#serving.config;
    if (!Object.hasOwn(resources, name)) return null;
    const { type, database, launch_credentials } = resources[name]!;
    return {
      type,
      engine: ENGINE_OF_TYPE[type],
      database: database ?? null,
      account: typeof launch_credentials === 'string' ? null : launch_credentials.username,
    };
  }

  /** A connection that came through a tunnel is one that came to a door of its own, behind which is just its resource. */
  async #serveTunnel(launch: StoredLaunch, stream: Duplex, remote: Address): Promise<void> {
    const target = this.targets.get(launch.resource);
    if (target === undefined) {
      stream.destroy();
      return;
    }
    this.#tunnelTls ??= localCertificate(this.#serving.config.gateway.data_dir).then((files) =>
      listenerTls({ mode: 'prefer', ...files }),
    );
    try {
      const door: Door = {
        listen: null,
        engine: target.engine,
        targets: [target],
        clientAuth: launch.verifier === null ? 'tunnel' : 'token',
        principal: launch.principal,
        launch: launch.id,
        tls: await this.#tunnelTls,
        cancelSource: 'same-ip',
      };
      await this.gateway.serve(door, stream, remote);
    } catch (error) {
      this.#tunnelTls = null;
      stream.destroy();
      this.#log.error({ error: (error as Error).message }, 'tunnels have no certificate');
    }
  }

  /** Whether a session of another process or gateway was told to cancel. */
  async #askOthers(cancel: PeerCancel): Promise<boolean> {
    return ((await this.#pool?.cancel(cancel)) ?? false) || this.#askPeers(cancel);
  }

  async #askPeers(cancel: PeerCancel): Promise<boolean> {
    const { peers, peer_ca } = this.#serving.config.gateway;
    if (peers.length === 0) return false;
    const ca = peer_ca === undefined ? null : await readFile(peer_ca);
    return new Peers(peers, await this.#peerSeal(), ca, this.#log).cancel(cancel);
  }

  async #cancelForPeer(body: string, signature: string | undefined): Promise<boolean | null> {
    const cancel = (await this.#peerSeal()).open(body, signature);
    if (cancel === null) return null;
    // Asked by a peer, we ask no other gateway: one hop is all there is.
    return anyOf([this.#cancelHere(cancel), ...(this.#pool === null ? [] : [this.#pool.cancel(cancel)])]);
  }

  async #cancelHere({ id, secret, host }: PeerCancel): Promise<boolean> {
    return (await this.gateway.cancels.asked(id, secret, host)) === 'sent';
  }

  /** The secret is fetched each time: cancels are rare, and it may be rotated. */
  async #peerSeal(): Promise<PeerSeal> {
    const reference = this.#serving.config.gateway.peer_secret ?? '';
    return new PeerSeal(await this.#secretText(reference), Date.now);
  }

  #secretText(reference: string): Promise<string> {
    return this.#serving.resolver.text(reference, AbortSignal.timeout(PROVIDER_CHECK_MS));
  }

  #addRoutes(server: FastifyInstance): Promise<void> {
    return addApi(server, {
      sessions: this.#sessions,
      access: this.access,
      audit: (event) => this.journal.audit(event),
      signingKeys: () =>
        Object.fromEntries(
          [...knownSigningKeys(this.#serving.config.gateway.data_dir)].map(([id, key]) => [
            id,
            key.export({ type: 'spki', format: 'pem' }).toString(),
          ]),
        ),
    });
  }

  /** A configuration that could not be used is on record too: somebody tried to change it. */
  reloadRefused(why: string): void {
    this.journal.audit({
      action: 'configuration_refused',
      principal: null,
      resource: null,
      clientAddress: null,
      reason: why,
    });
  }

  #audit(action: string, reason: string | null = null, changed: readonly string[] = []): void {
    this.journal.audit({
      action,
      principal: null,
      resource: null,
      clientAddress: null,
      reason,
      ...(changed.length === 0 ? {} : { detail: { changed: changed.join(' ') } }),
    });
  }
}

/** Names of the sections in which two configurations differ. */
function changedSections(former: Config, config: Config): string[] {
  return (Object.keys(config) as (keyof Config)[]).filter(
    (section) => JSON.stringify(former[section]) !== JSON.stringify(config[section]),
  );
}

/** How many processes serve the listeners: 1 where this one does. */
function workersOf({ gateway: { workers } }: Config): number {
  return workers === 'auto' ? availableParallelism() : workers;
}
