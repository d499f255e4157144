import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Engine, EngineName } from '../protocols/engine.ts';
import { ENGINE_OF_TYPE, resourcesOf } from './config/resources.ts';
import { isLoopback } from './config/rules.ts';
import type { Config, ListenerConfig, ResourceConfig } from './config/schema.ts';
import type { ChannelTls } from './gateway/channel.ts';
import { localCertificate } from './gateway/local-certificate.ts';
import { makeTarget } from './gateway/make-target.ts';
import { type Door, listenKey, type Target } from './gateway/target.ts';
import { listenerTls } from './gateway/tls-context.ts';
import type { Metrics } from './metrics.ts';
import type { SecretResolver } from './secrets/resolver.ts';

/** Engines are loaded when a resource needs them. */
const ENGINES: Readonly<Record<EngineName, () => Promise<Engine>>> = {
  postgres: async () => (await import('../protocols/postgres/engine.ts')).postgres,
  mysql: async () => (await import('../protocols/mysql/engine.ts')).mysql,
  tds: async () => (await import('../protocols/tds/engine.ts')).tds,
};

export async function loadEngine(name: EngineName): Promise<Engine> {
  return ENGINES[name]();
}

/** What of the configuration a process needs that serves clients. */
export type ServedConfig = Pick<Config, 'gateway' | 'secrets' | 'recording' | 'resources' | 'listeners'>;

/** What a configuration serves: every resource, and every way in. */
export interface Served {
  readonly targets: ReadonlyMap<string, Target>;
  readonly doors: readonly Door[];
}

/** Rejects with a `TlsFileError`, or with what reading a key's file fails of. */
export async function makeDoors(config: ServedConfig, resolver: SecretResolver): Promise<Served> {
  const targets = new Map<string, Target>();
  for (const [name, resource] of Object.entries(config.resources)) {
    const listeners = config.listeners.filter((listener) => resourcesOf(listener).includes(name));
    const parts = {
      engine: await loadEngine(ENGINE_OF_TYPE[resource.type]),
      resolver,
      recording: config.recording,
      publicKey: await publicKeyOf(resource),
      isLocal: listeners.every((listener) => isLoopback(listener.listen)),
    };
    targets.set(name, await makeTarget(name, resource, parts));
  }
  const { data_dir } = config.gateway;
  const doors = await Promise.all(config.listeners.map((listener) => makeDoor(listener, targets, data_dir)));
  return { targets, doors };
}

async function makeDoor(
  listener: ListenerConfig,
  targets: ReadonlyMap<string, Target>,
  dataDir: string,
): Promise<Door> {
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
    tls: await tlsOf(listener, engine.name, dataDir),
    cancelSource: listener.cancel_source,
  };
}

/**
 * Drivers of SQL Server insist on TLS, and those of MariaDB do when they have a password to send: without a certificate
 * of its own, a listener gets this machine's.
 */
async function tlsOf(listener: ListenerConfig, engine: EngineName, dataDir: string): Promise<ChannelTls> {
  const insists = engine === 'tds' || (engine === 'mysql' && listener.client_auth === 'token');
  if (listener.tls !== undefined || !insists) return listenerTls(listener.tls);
  return listenerTls({ mode: 'prefer', ...(await localCertificate(dataDir)) });
}

/** The text of the file that `server_public_key` names; null where there is none. */
export async function publicKeyOf(resource: ResourceConfig): Promise<string | null> {
  if (!('server_public_key' in resource) || resource.server_public_key === undefined) return null;
  return readFile(resource.server_public_key, 'utf8');
}

/** Gauges that only the configuration changes, and counters for all that it names. */
export function measureDoors(metrics: Metrics, config: ServedConfig, { targets, doors }: Served): void {
  const { sessionsLimit, certificateExpirySeconds, opaqueTotal, refusalsTotal, secretFetchFailuresTotal } =
    metrics;
  sessionsLimit.reset();
  certificateExpirySeconds.reset();
  for (const [resource, { limits, engine }] of targets) {
    sessionsLimit.set({ resource }, limits.maxConnections);
    // A counter that begins at its first event has not increased, as Prometheus sees it.
    for (const counter of [opaqueTotal, refusalsTotal]) counter.inc({ resource, engine: engine.name }, 0);
  }
  for (const provider of Object.keys(config.secrets)) secretFetchFailuresTotal.inc({ provider }, 0);
  for (const { listen, tls } of doors) {
    if (listen === null || !tls.certificate) continue;
    const { validToDate } = new X509Certificate(tls.certificate);
    certificateExpirySeconds.set(
      { certificate: `listener ${listenKey(listen)}` },
      validToDate.getTime() / 1000,
    );
  }
}
