import type { Secret } from '../protocols/secret.ts';
import type { Config, ProviderConfig } from './config/schema.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';
import { AwsRdsTokens, AwsSecretsManager } from './secrets/aws.ts';
import { AzureKeyVault } from './secrets/azure.ts';
import { DirectorySecrets } from './secrets/directory.ts';
import { EnvSecrets } from './secrets/env.ts';
import { ExecSecrets } from './secrets/exec.ts';
import { FileSecrets } from './secrets/file.ts';
import { GoogleSecretManager } from './secrets/google.ts';
import { KeeperSecrets } from './secrets/keeper.ts';
import type { SecretProvider } from './secrets/provider.ts';
import { SecretResolver } from './secrets/resolver.ts';
import { VaultSecrets } from './secrets/vault.ts';

/** For providers that read local files and have no settings of their own for it. */
const LOCAL_TIMEOUT_MS = 10_000;

/** The secret providers of a configuration behind one resolver. Nothing is asked of them yet. */
export function makeResolver(
  config: Pick<Config, 'secrets'>,
  log: Log,
  metrics: Metrics | null,
): SecretResolver {
  const secret = (reference: string, signal: AbortSignal): Promise<Secret> =>
    resolver.secret(reference, signal);
  const entries = Object.entries(config.secrets).map(([name, provider]) => ({
    provider: makeProvider(name, provider, log, secret),
    timeoutMs: 'timeout' in provider ? provider.timeout : LOCAL_TIMEOUT_MS,
    cacheMs: 'cache' in provider ? provider.cache : 0,
  }));
  const resolver = new SecretResolver(entries, { log, metrics, now: Date.now, random: Math.random });
  return resolver;
}

/** Asks those providers again that were down, so that readiness comes back by itself. Never rejects. */
export async function checkDown(resolver: SecretResolver, signal: AbortSignal): Promise<void> {
  const down = resolver.health().filter(({ state }) => state === 'down');
  await Promise.all(down.map(({ provider }) => resolver.check(provider, signal).catch(() => {})));
}

function makeProvider(
  name: string,
  config: ProviderConfig,
  log: Log,
  secret: (reference: string, signal: AbortSignal) => Promise<Secret>,
): SecretProvider {
  const environment = process.env;
  const now = Date.now;
  switch (config.type) {
    case 'env':
      return new EnvSecrets(name, environment);
    case 'file':
      return new FileSecrets(name, config.path, config.identity);
    case 'exec':
      return new ExecSecrets(name, config, log);
    case 'directory':
      return new DirectorySecrets(name, config.path);
    case 'vault':
      return new VaultSecrets(name, config, { log, now, secret });
    case 'aws-secrets-manager':
      return new AwsSecretsManager(name, config);
    case 'aws-rds-token':
      return new AwsRdsTokens(name, config, now);
    case 'keeper':
      return new KeeperSecrets(name, config, { secret });
    case 'azure-key-vault':
      return new AzureKeyVault(name, config, { now, secret, environment });
    case 'google-secret-manager':
      return new GoogleSecretManager(name, config, { now, environment });
  }
}
