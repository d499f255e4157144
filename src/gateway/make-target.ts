import type { Address } from '../../protocols/channel.ts';
import type { Engine, EngineSettings, ObserveOptions, Resource } from '../../protocols/engine.ts';
import { ENGINE_OF_TYPE } from '../config/resources.ts';
import type { Config, ResourceConfig } from '../config/schema.ts';
import type { SecretResolver } from '../secrets/resolver.ts';
import { statementGate } from './policy.ts';
import type { Target } from './target.ts';
import { serverTls } from './tls-context.ts';

const DEFAULT_PORTS: Readonly<Record<ResourceConfig['type'], number>> = {
  postgres: 5432,
  mysql: 3306,
  mariadb: 3306,
  sqlserver: 1433,
};

/**
 * What an engine is told of a resource. `publicKey` is the text of the file that `server_public_key` names; `isLocal`:
 * only this machine can reach it, so that clients may be asked for less encryption.
 */
export function makeResource(
  name: string,
  config: ResourceConfig,
  publicKey: string | null = null,
  isLocal = true,
): Resource {
  return {
    name,
    engine: ENGINE_OF_TYPE[config.type],
    addresses: addressesOf(config),
    settings: settingsOf(config, publicKey, isLocal),
  };
}

/** A resource as the gateway serves it. Rejects with a `TlsFileError`. */
export async function makeTarget(
  name: string,
  config: ResourceConfig,
  parts: {
    readonly engine: Engine;
    readonly resolver: SecretResolver;
    readonly recording: Config['recording'];
    readonly publicKey: string | null;
    readonly isLocal: boolean;
  },
): Promise<Target> {
  const { limits } = config;
  return {
    resource: makeResource(name, config, parts.publicKey, parts.isLocal),
    engine: parts.engine,
    database: config.database ?? null,
    databases: config.databases ?? null,
    tls: await serverTls(config.tls),
    limits: {
      idleTimeoutMs: limits.idle_timeout ?? null,
      idleInTransactionTimeoutMs: limits.idle_in_transaction_timeout ?? limits.idle_timeout ?? null,
      maxDurationMs: limits.max_duration ?? null,
      maxConnections: limits.max_connections,
      connectTimeoutMs: limits.connect_timeout,
      handshakeTimeoutMs: limits.handshake_timeout,
    },
    observe: observeOptions(parts.recording, config.recording),
    credentials: (why, signal) => parts.resolver.credentials(config.launch_credentials, why, signal),
    gate: (account, permit) =>
      statementGate({
        engine: ENGINE_OF_TYPE[config.type],
        account,
        allowAccountChange: config.allow_password_change,
        readOnly: permit.readOnly,
        databases: permit.databases,
      }),
  };
}

function observeOptions(global: Config['recording'], own: ResourceConfig['recording']): ObserveOptions {
  return {
    parameters: own.parameters === undefined ? global.parameters : own.parameters !== 'off',
    sampleRows: own.sample_rows,
    columns: own.columns,
  };
}

function addressesOf(config: ResourceConfig): Address[] {
  const hosts = typeof config.host === 'string' ? [config.host] : config.host;
  const port = config.port ?? DEFAULT_PORTS[config.type];
  return hosts.map((host) => {
    if (!host.startsWith('/')) return splitHost(host, port);
    // PostgreSQL's clients name the folder; the socket in it has the port in its name.
    const isFolder = config.type === 'postgres' && !/\/\.s\.PGSQL\.\d+$/.test(host);
    return { host: isFolder ? `${host.replace(/\/+$/, '')}/.s.PGSQL.${port}` : host, port };
  });
}

/** `db-1:5433` in a list of hosts has a port of its own; bare IPv6 addresses have none. */
function splitHost(host: string, port: number): Address {
  const match = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?$/.exec(host);
  if (match === null) return { host, port };
  return { host: (match[1] ?? match[2])!, port: match[3] === undefined ? port : Number(match[3]) };
}

function settingsOf(config: ResourceConfig, publicKey: string | null, isLocal: boolean): EngineSettings {
  switch (config.type) {
    case 'postgres':
      return {
        engine: 'postgres',
        channelBinding: config.channel_binding,
        allowReplication: config.allow_replication,
        targetSessionAttrs: config.target_session_attrs,
        directTls: config.direct_tls,
        protocolVersion: config.protocol_version,
        scramIterationsMax: config.scram_iterations_max,
        md5WithoutTls: config.md5_without_tls,
      };
    case 'mysql':
    case 'mariadb':
      return {
        engine: 'mysql',
        flavor: config.type,
        allowLocalInfile: config.allow_local_infile,
        allowReplication: config.allow_replication,
        serverPublicKey: publicKey,
        fetchServerPublicKey: config.fetch_server_public_key,
      };
    case 'sqlserver':
      return {
        engine: 'tds',
        encryption: config.encryption,
        clientEncryption: config.client_encryption ?? (isLocal ? 'login' : 'required'),
        mars: config.mars,
        windowsDomain: config.windows_domain ?? null,
        serverName: config.server_name ?? null,
        allowReplication: config.allow_replication,
      };
  }
}
