import type { ProviderConfig } from '../config/schema.ts';
import type { Log } from '../log.ts';
import { EnvSecrets } from './env.ts';
import { ExecSecrets } from './exec.ts';
import { FileSecrets } from './file.ts';
import { type ProviderEntry, type ResolverPorts, SecretResolver } from './resolver.ts';

/** For providers that have no setting of their own. They read local files, and need no cache. */
const LOCAL = { timeoutMs: 10_000, cacheMs: 0 };

/** The providers of a configuration behind one resolver. Nothing is asked of them yet. */
export function makeResolver(
  providers: Readonly<Record<string, ProviderConfig>>,
  ports: ResolverPorts,
): SecretResolver {
  return new SecretResolver(
    Object.entries(providers).map(([name, config]) => makeProvider(name, config, ports.log)),
    ports,
  );
}

function makeProvider(name: string, config: ProviderConfig, log: Log): ProviderEntry {
  switch (config.type) {
    case 'env':
      return { provider: new EnvSecrets(name), ...LOCAL };
    case 'file':
      return { provider: new FileSecrets(name, config.path, config.identity), ...LOCAL };
    case 'exec':
      return {
        provider: new ExecSecrets(name, config, log),
        timeoutMs: config.timeout,
        cacheMs: config.cache,
      };
  }
}
