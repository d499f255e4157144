import { randomBytes, X509Certificate } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import type { Address } from '../protocols/channel.ts';
import type { Engine, EngineName } from '../protocols/engine.ts';
import { AccessControl } from './access/access-control.ts';
import type { LoadedConfig } from './config/load.ts';
import { ENGINE_OF_TYPE, resourcesOf } from './config/resources.ts';
import { isLoopback } from './config/rules.ts';
import type { Config, ListenerConfig, ResourceConfig } from './config/schema.ts';
import type { ChannelTls } from './gateway/channel.ts';
import { Gateway } from './gateway/gateway.ts';
import { localCertificate } from './gateway/local-certificate.ts';
import { makeTarget } from './gateway/make-target.ts';
import { type PeerCancel, PeerSeal, Peers } from './gateway/peers.ts';
import { type Door, listenKey, type Target } from './gateway/target.ts';
import { listenerTls } from './gateway/tls-context.ts';
import { addApi } from './http/api.ts';
import type { Health, HealthPart, HealthSource } from './http/health.ts';
import { type HttpServer, startHttp } from './http/server.ts';
import { EventLoopLag } from './lib/event-loop-lag.ts';
import type { Log } from './log.ts';
import { Metrics } from './metrics.ts';
import { makeResolver } from './providers.ts';
import type { Journal } from './recording/journal.ts';
import { knownSigningKeys } from './recording/keys.ts';
import type { Recorder } from './recording/recorder.ts';
import { Recording } from './recording/setup.ts';
import type { SecretResolver } from './secrets/resolver.ts';
import type { StoredLaunch } from './store/state.ts';
import { type TunnelResource, TunnelServer } from './tunnel/server.ts';

/** Holds the URL of the API, in `data_dir`. */
export const API_ADDRESS_FILE = 'api.url';

/** How often providers that were down are asked again, so that readiness comes back by itself. */
const PROVIDER_CHECK_MS = 30_000;

/** How long a stop waits for recordings to be sealed and stored; the next start finishes the rest. */
const SEALING_MS_MAX = 10_000;

/** Engines are loaded when a resource needs them. */
const ENGINES: Readonly<Record<EngineName, () => Promise<Engine>>> = {
  postgres: async () => (await import('../protocols/postgres/engine.ts')).postgres,
  mysql: async () => (await import('../protocols/mysql/engine.ts')).mysql,
  tds: async () => (await import('../protocols/tds/engine.ts')).tds,
};

export async function loadEngine(name: EngineName): Promise<Engine> {
  return ENGINES[name]();
}

/** What benchmarks put in the place of the product's own. */
export interface AppParts {
  readonly recorder?: Recorder;
}

/** The composition root: the one place that knows adapters by name and puts the parts together. */
export class App implements HealthSource {
  readonly gateway: Gateway;
  readonly metrics: Metrics;
  readonly journal: Journal;
  readonly access: AccessControl;
  readonly #recording: Recording;
  #config: Config;
  #resolver: SecretResolver;
  /** Of former configurations: sessions that began with them may still hold their leases. */
  readonly #formerResolvers: SecretResolver[] = [];
  readonly #log: Log;
  readonly #lag: EventLoopLag;
  readonly #checking: NodeJS.Timeout;
  readonly #tunnels: TunnelServer;
  /** For tools that ask for TLS inside a tunnel; made when the first tunnel is used. */
  #tunnelTls: Promise<ChannelTls> | null = null;
  #http: HttpServer | null = null;
  #doors: readonly Door[] = [];
  #targets: ReadonlyMap<string, Target> = new Map();

  /** Use `App.start`. */
  private constructor(config: Config, log: Log, metrics: Metrics, recording: Recording, recorder: Recorder) {
    const { journal } = recording;
    this.#config = config;
    this.#log = log;
    this.metrics = metrics;
    this.journal = journal;
    this.#recording = recording;
    this.#resolver = makeResolver(config, log, metrics);
    this.access = new AccessControl(config, {
      audit: (event) => journal.audit(event),
      endConnections: (launch, refusal) => {
        this.#tunnels.launchEnded(launch, refusal.message);
        return this.gateway.endLaunch(launch, refusal, 'launch_expired');
      },
      secret: (reference) => this.#resolver.text(reference, AbortSignal.timeout(PROVIDER_CHECK_MS)),
      now: Date.now,
    });
    this.gateway = new Gateway({
      name: config.gateway.name,
      recorder,
      access: this.access.access,
      metrics,
      log,
      random: randomBytes,
      now: Date.now,
      askPeers:
        config.gateway.peers.length === 0 ? null : (id, secret, host) => this.#askPeers({ id, secret, host }),
      endOnRecordingFailure: config.recording.on_failure === 'refuse',
    });
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
    this.#checking = setInterval(() => void this.#checkProviders(), PROVIDER_CHECK_MS);
    this.#checking.unref();
  }

  /** Opens the journal, then the listeners, then HTTP. Rejects with the error of the first that fails, all else closed. */
  static async start(loaded: LoadedConfig, log: Log, parts: AppParts = {}): Promise<App> {
    const { config } = loaded;
    const metrics = new Metrics();
    const recording = await Recording.start(config, metrics, log);
    const app = new App(config, log, metrics, recording, parts.recorder ?? recording.journal);
    try {
      await app.#resolver.checkAll(AbortSignal.timeout(PROVIDER_CHECK_MS));
      app.#doors = await app.#makeDoors();
      await app.gateway.apply(app.#doors);
      app.#http = await startHttp({
        listen: config.http.listen,
        tls: config.http.tls ?? null,
        health: app,
        metrics: metrics.registry,
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
    return this.#targets;
  }

  get doors(): readonly Door[] {
    return this.#doors;
  }

  /**
   * Takes a new configuration: listeners, resources, credentials and rules change for connections that come from now
   * on; running sessions keep what they began with. Rejects when a part of it cannot be used, with the former one in force
   * as far as possible.
   */
  async reload(loaded: LoadedConfig): Promise<void> {
    const { config } = loaded;
    for (const [name, former, wanted] of [
      ['gateway', this.#config.gateway, config.gateway],
      ['http', this.#config.http, config.http],
      ['recording', this.#config.recording, config.recording],
    ] as const) {
      if (JSON.stringify(former) !== JSON.stringify(wanted))
        this.#log.warn({ section: name }, 'changes of this section need a restart');
    }
    const former = { config: this.#config, resolver: this.#resolver };
    const keepsProviders = JSON.stringify(former.config.secrets) === JSON.stringify(config.secrets);
    this.#config = config;
    if (!keepsProviders) this.#resolver = makeResolver(config, this.#log, this.metrics);
    try {
      const doors = await this.#makeDoors();
      this.access.reload(config);
      this.#doors = doors;
      await this.gateway.apply(doors);
    } catch (error) {
      this.#config = former.config;
      if (!keepsProviders) {
        void this.#resolver.close();
        this.#resolver = former.resolver;
      }
      throw error;
    }
    if (!keepsProviders) this.#formerResolvers.push(former.resolver);
    this.#recording.reload(config);
    this.#audit('configuration_reloaded', 'SIGHUP', changedSections(former.config, config));
  }

  /** Drains for `graceMs`, then closes everything, the journal last. */
  async stop(graceMs: number): Promise<void> {
    this.#tunnels.drain();
    await this.gateway.drain(graceMs);
    await this.#tunnels.close();
    clearInterval(this.#checking);
    this.#lag.stop();
    this.access.close();
    await this.#http?.close();
    for (const resolver of [this.#resolver, ...this.#formerResolvers]) await resolver.close();
    this.#audit('gateway_stopped');
    await this.#recording.close(SEALING_MS_MAX);
  }

  health(): Health {
    const parts: HealthPart[] = [
      {
        name: 'listeners',
        ready: this.gateway.listening,
        detail: this.gateway.draining ? 'the gateway is shutting down' : null,
      },
      { name: 'journal', ready: this.journal.failed === null, detail: this.journal.failed?.message ?? null },
      // A store that is away is a warning: recordings wait on disk.
      { name: 'recordings', ready: true, detail: this.#recording.warning },
    ];
    for (const { provider, state, error } of this.#resolver.health())
      parts.push({ name: `secrets.${provider}`, ready: state !== 'down', detail: error });
    return { parts };
  }

  async #makeDoors(): Promise<Door[]> {
    const config = this.#config;
    const targets = new Map<string, Target>();
    for (const [name, resource] of Object.entries(config.resources)) {
      const listeners = config.listeners.filter((listener) => resourcesOf(listener).includes(name));
      const parts = {
        engine: await loadEngine(ENGINE_OF_TYPE[resource.type]),
        resolver: this.#resolver,
        recording: config.recording,
        publicKey: await publicKeyOf(resource),
        isLocal: listeners.every((listener) => isLoopback(listener.listen)),
      };
      targets.set(name, await makeTarget(name, resource, parts));
    }
    this.#targets = targets;
    const doors = await Promise.all(config.listeners.map((listener) => this.#makeDoor(listener, targets)));
    this.#measure(doors);
    return doors;
  }

  async #makeDoor(listener: ListenerConfig, targets: ReadonlyMap<string, Target>): Promise<Door> {
    const behind = resourcesOf(listener).map((name) => targets.get(name)!);
    const { engine } = behind[0]!;
    return {
      listen: listener.listen,
      engine,
      targets: behind,
      clientAuth: listener.client_auth,
      principal: listener.principal,
      ...(listener.client_auth === 'mtls' ? { certificate: listener.certificate } : {}),
      launch: null,
      tls: await this.#tlsOf(listener, engine.name),
      cancelSource: listener.cancel_source,
    };
  }

  /** Gauges that only the configuration changes, and counters for all that it names. */
  #measure(doors: readonly Door[]): void {
    const { sessionsLimit, certificateExpirySeconds, opaqueTotal, refusalsTotal, secretFetchFailuresTotal } =
      this.metrics;
    sessionsLimit.reset();
    certificateExpirySeconds.reset();
    for (const [resource, { limits, engine }] of this.#targets) {
      sessionsLimit.set({ resource }, limits.maxConnections);
      // A counter that begins at its first event has not increased, as Prometheus sees it.
      for (const counter of [opaqueTotal, refusalsTotal]) counter.inc({ resource, engine: engine.name }, 0);
    }
    for (const provider of Object.keys(this.#config.secrets)) secretFetchFailuresTotal.inc({ provider }, 0);
    for (const { listen, tls } of doors) {
      if (listen === null || !tls.certificate) continue;
      const { validToDate } = new X509Certificate(tls.certificate);
      certificateExpirySeconds.set(
        { certificate: `listener ${listenKey(listen)}` },
        validToDate.getTime() / 1000,
      );
    }
  }

  /**
   * Drivers of SQL Server insist on TLS, and those of MariaDB do when they have a password to send: without a certificate
   * of its own, a listener gets this machine's.
   */
  async #tlsOf(listener: ListenerConfig, engine: EngineName): Promise<ChannelTls> {
    const insists = engine === 'tds' || (engine === 'mysql' && listener.client_auth === 'token');
    if (listener.tls !== undefined || !insists) return listenerTls(listener.tls);
    return listenerTls({ mode: 'prefer', ...(await localCertificate(this.#config.gateway.data_dir)) });
  }

  #tunnelResource(name: string): TunnelResource | null {
    if (!Object.hasOwn(this.#config.resources, name)) return null;
    const { type, database, launch_credentials } = this.#config.resources[name]!;
    return {
      type,
      engine: ENGINE_OF_TYPE[type],
      database: database ?? null,
      account: typeof launch_credentials === 'string' ? null : launch_credentials.username,
    };
  }

  /** A connection that came through a tunnel is one that came to a door of its own, behind which is just its resource. */
  async #serveTunnel(launch: StoredLaunch, stream: Duplex, remote: Address): Promise<void> {
    const target = this.#targets.get(launch.resource);
    if (target === undefined) {
      stream.destroy();
      return;
    }
    this.#tunnelTls ??= localCertificate(this.#config.gateway.data_dir).then((files) =>
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

  async #askPeers(cancel: PeerCancel): Promise<boolean> {
    const { peers, peer_ca } = this.#config.gateway;
    const ca = peer_ca === undefined ? null : await readFile(peer_ca);
    return new Peers(peers, await this.#peerSeal(), ca, this.#log).cancel(cancel);
  }

  async #cancelForPeer(body: string, signature: string | undefined): Promise<boolean | null> {
    const cancel = (await this.#peerSeal()).open(body, signature);
    if (cancel === null) return null;
    // Asked by a peer, we ask no further: one hop is all there is.
    return (await this.gateway.cancels.cancel(cancel.id, cancel.secret, cancel.host)) === 'sent';
  }

  /** The secret is fetched each time: cancels are rare, and it may be rotated. */
  async #peerSeal(): Promise<PeerSeal> {
    const reference = this.#config.gateway.peer_secret ?? '';
    return new PeerSeal(
      await this.#resolver.text(reference, AbortSignal.timeout(PROVIDER_CHECK_MS)),
      Date.now,
    );
  }

  #addRoutes(server: FastifyInstance): Promise<void> {
    return addApi(server, {
      gateway: this.gateway,
      access: this.access,
      audit: (event) => this.journal.audit(event),
      present: (statement, session) => this.#recording.present(session, statement),
      signingKeys: () =>
        Object.fromEntries(
          [...knownSigningKeys(this.#config.gateway.data_dir)].map(([id, key]) => [
            id,
            key.export({ type: 'spki', format: 'pem' }).toString(),
          ]),
        ),
    });
  }

  async #checkProviders(): Promise<void> {
    const down = this.#resolver.health().filter(({ state }) => state === 'down');
    const signal = AbortSignal.timeout(PROVIDER_CHECK_MS);
    await Promise.all(down.map(({ provider }) => this.#resolver.check(provider, signal).catch(() => {})));
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

export async function publicKeyOf(resource: ResourceConfig): Promise<string | null> {
  if (!('server_public_key' in resource) || resource.server_public_key === undefined) return null;
  return readFile(resource.server_public_key, 'utf8');
}
