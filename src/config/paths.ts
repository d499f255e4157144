import { resolve } from 'node:path';
import type { Config, ListenerConfig, ProviderConfig, ResourceConfig } from './schema.ts';
import type { ListenAddress } from './values.ts';

/** A copy of `config` in which every file and folder is an absolute path, taken from `directory`. */
export function resolvePaths(config: Config, directory: string): Config {
  const at = (path: string): string => resolve(directory, path);
  const { store } = config.recording;
  return {
    ...config,
    gateway: {
      ...config.gateway,
      data_dir: at(config.gateway.data_dir),
      ...(config.gateway.peer_ca === undefined ? {} : { peer_ca: at(config.gateway.peer_ca) }),
    },
    http: {
      ...config.http,
      listen: listenPath(config.http.listen, at),
      ...(config.http.tls ? { tls: { cert: at(config.http.tls.cert), key: at(config.http.tls.key) } } : {}),
    },
    ...(config.oidc?.ca === undefined ? {} : { oidc: { ...config.oidc, ca: at(config.oidc.ca) } }),
    secrets: mapValues(config.secrets, (provider) => providerPaths(provider, at)),
    recording: {
      ...config.recording,
      index: indexPaths(config.recording.index, at),
      store: store.type === 'directory' ? { ...store, path: at(store.path) } : store,
      streams: mapValues(config.recording.streams, (stream) => streamPaths(stream, at)),
      ...(config.recording.recovery_identity === undefined
        ? {}
        : { recovery_identity: at(config.recording.recovery_identity) }),
    },
    resources: mapValues(config.resources, (resource) => resourcePaths(resource, at)),
    listeners: config.listeners.map((listener) => listener && listenerPaths(listener, at)),
  };
}

type At = (path: string) => string;

function resourcePaths(resource: ResourceConfig, at: At): ResourceConfig {
  const tls = { ...resource.tls };
  if (tls.ca !== undefined) tls.ca = at(tls.ca);
  if (tls.cert !== undefined) tls.cert = at(tls.cert);
  if (tls.key !== undefined) tls.key = at(tls.key);
  if ('server_public_key' in resource && resource.server_public_key !== undefined)
    return { ...resource, tls, server_public_key: at(resource.server_public_key) };
  return { ...resource, tls };
}

function indexPaths(index: Config['recording']['index'], at: At): Config['recording']['index'] {
  if (typeof index !== 'object' || index.store.type === 'sqlite') return index;
  const { host } = index.store;
  const tls = { ...index.store.tls };
  if (tls.ca !== undefined) tls.ca = at(tls.ca);
  if (tls.cert !== undefined) tls.cert = at(tls.cert);
  if (tls.key !== undefined) tls.key = at(tls.key);
  return { ...index, store: { ...index.store, host: host.startsWith('.') ? at(host) : host, tls } };
}

type StreamConfig = Config['recording']['streams'][string];

function streamPaths(stream: StreamConfig, at: At): StreamConfig {
  switch (stream.type) {
    case 'file':
      return stream.path === '-' ? stream : { ...stream, path: at(stream.path) };
    case 'syslog':
      return stream.ca === undefined ? stream : { ...stream, ca: at(stream.ca) };
    case 'webhook':
      return stream.secret_file === undefined ? stream : { ...stream, secret_file: at(stream.secret_file) };
    case 'otlp':
      return stream;
  }
}

function listenerPaths(listener: ListenerConfig, at: At): ListenerConfig {
  const resolved = { ...listener, listen: listenPath(listener.listen, at) };
  if (listener.tls === undefined) return resolved;
  const { cert, key, client_ca } = listener.tls;
  const tls = { ...listener.tls, cert: at(cert), key: at(key) };
  return { ...resolved, tls: client_ca === undefined ? tls : { ...tls, client_ca: at(client_ca) } };
}

function providerPaths(provider: ProviderConfig, at: At): ProviderConfig {
  switch (provider.type) {
    case 'file':
      return { ...provider, path: at(provider.path), identity: at(provider.identity) };
    case 'directory':
      return { ...provider, path: at(provider.path) };
    case 'keeper':
      return provider.config_file === undefined
        ? provider
        : { ...provider, config_file: at(provider.config_file) };
    case 'vault': {
      const resolved = provider.ca === undefined ? provider : { ...provider, ca: at(provider.ca) };
      const { auth } = resolved;
      if (!('token_file' in auth) || auth.token_file === undefined) return resolved;
      return { ...resolved, auth: { ...auth, token_file: at(auth.token_file) } };
    }
    case 'azure-key-vault': {
      const { auth } = provider;
      if (auth.method !== 'workload-identity' || auth.token_file === undefined) return provider;
      return { ...provider, auth: { ...auth, token_file: at(auth.token_file) } };
    }
    case 'google-secret-manager': {
      const { auth } = provider;
      if (auth.method !== 'service-account') return provider;
      return { ...provider, auth: { ...auth, key_file: at(auth.key_file) } };
    }
    default:
      return provider;
  }
}

function listenPath(listen: ListenAddress, at: At): ListenAddress {
  return listen.kind === 'unix' ? { kind: 'unix', path: at(listen.path) } : listen;
}

function mapValues<T>(values: Readonly<Record<string, T>>, change: (value: T) => T): Record<string, T> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, change(value)]));
}
