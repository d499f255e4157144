import type { SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import { textValue } from './fields.ts';
import { networkFault } from './http.ts';
import {
  SecretError,
  type SecretErrorCode,
  type SecretProvider,
  type SecretReference,
  type SecretValue,
} from './provider.ts';
import { presignRdsToken, RDS_TOKEN_SECONDS } from './rds-token.ts';

export interface AwsSettings {
  readonly region?: string | undefined;
  readonly endpoint?: string | undefined;
}

/** What the SDK's errors mean for the one who asked. */
const ERROR_CODES: Readonly<Record<string, SecretErrorCode>> = {
  ResourceNotFoundException: 'not_found',
  InvalidRequestException: 'not_found', // the secret is marked for deletion
  AccessDeniedException: 'denied',
  UnrecognizedClientException: 'denied',
  InvalidSignatureException: 'denied',
  ExpiredTokenException: 'denied',
  DecryptionFailure: 'denied',
  CredentialsProviderError: 'denied',
  ValidationException: 'malformed',
  InvalidParameterException: 'malformed',
};

const HINTS: Readonly<Partial<Record<SecretErrorCode, string>>> = {
  not_found: 'Is the name right, the region too, and the secret not marked for deletion?',
  denied:
    'Our role needs secretsmanager:GetSecretValue on it, and kms:Decrypt where it has a key of its own.',
};

/** AWS Secrets Manager by its own SDK, which also finds the credentials to sign in with. */
export class AwsSecretsManager implements SecretProvider {
  readonly name: string;
  readonly #settings: AwsSettings;
  #client: SecretsManagerClient | null = null;

  constructor(name: string, settings: AwsSettings) {
    this.name = name;
    this.#settings = settings;
  }

  async fetch(reference: SecretReference, signal: AbortSignal): Promise<SecretValue> {
    const { GetSecretValueCommand } = await loadSdk(this.name);
    try {
      const client = await this.#open();
      const answer = await client.send(new GetSecretValueCommand({ SecretId: reference.path }), {
        abortSignal: signal,
      });
      const bytes = answer.SecretString === undefined ? answer.SecretBinary : answer.SecretString;
      if (bytes === undefined) {
        throw new SecretError(this.name, `${reference.path} has no value`, { code: 'not_found' });
      }
      return textValue(reference, Buffer.from(bytes as string, 'utf8'), null);
    } catch (error) {
      throw awsError(this.name, reference.path, error as Error);
    }
  }

  /** Finds credentials. There is nothing that every role may ask of Secrets Manager itself. */
  async check(): Promise<void> {
    const client = await this.#open();
    await awsCredentials(this.name, client);
  }

  async close(): Promise<void> {
    this.#client?.destroy();
    this.#client = null;
  }

  async #open(): Promise<SecretsManagerClient> {
    this.#client ??= await makeClient(this.name, this.#settings);
    return this.#client;
  }
}

/** Sign-in tokens of RDS and Aurora (IAM database authentication). A path is `HOST:PORT/USERNAME`. */
export class AwsRdsTokens implements SecretProvider {
  readonly name: string;
  readonly #settings: AwsSettings;
  readonly #now: () => number;
  #client: SecretsManagerClient | null = null;

  constructor(name: string, settings: AwsSettings, now: () => number) {
    this.name = name;
    this.#settings = settings;
    this.#now = now;
  }

  async fetch(reference: SecretReference): Promise<SecretValue> {
    const match = /^([^/:]+):(\d{1,5})\/(.+)$/.exec(reference.path);
    if (match === null || reference.field !== null) {
      throw new SecretError(this.name, 'the path is not HOST:PORT/USERNAME', {
        code: 'malformed',
        hint: `For example ${this.name}:orders.abc.eu-west-1.rds.amazonaws.com:5432/app_ro`,
      });
    }
    const client = await this.#open();
    const credentials = await awsCredentials(this.name, client);
    const region = await client.config.region();
    const [, host, port, username] = match as unknown as [string, string, string, string];
    const now = this.#now();
    const token = presignRdsToken({
      host,
      port: Number(port),
      username,
      region,
      credentials,
      at: new Date(now),
    });
    const end = now + RDS_TOKEN_SECONDS * 1000;
    const expiration = credentials.expiration?.getTime() ?? end;
    return textValue(reference, Buffer.from(token, 'utf8'), Math.min(end, expiration));
  }

  async check(): Promise<void> {
    await awsCredentials(this.name, await this.#open());
  }

  async close(): Promise<void> {
    this.#client?.destroy();
    this.#client = null;
  }

  async #open(): Promise<SecretsManagerClient> {
    this.#client ??= await makeClient(this.name, this.#settings);
    return this.#client;
  }
}

/** The SDK is an optional dependency, and takes a moment to load: only those who use it pay for it. */
async function loadSdk(provider: string): Promise<typeof import('@aws-sdk/client-secrets-manager')> {
  try {
    return await import('@aws-sdk/client-secrets-manager');
  } catch (error) {
    throw new SecretError(provider, 'the AWS SDK is not installed', {
      code: 'denied',
      hint: 'npm install @aws-sdk/client-secrets-manager',
      cause: error,
    });
  }
}

async function makeClient(provider: string, settings: AwsSettings): Promise<SecretsManagerClient> {
  const { SecretsManagerClient } = await loadSdk(provider);
  return new SecretsManagerClient({
    ...(settings.region === undefined ? {} : { region: settings.region }),
    ...(settings.endpoint === undefined ? {} : { endpoint: settings.endpoint }),
    // Attempts are the resolver's.
    maxAttempts: 1,
  });
}

async function awsCredentials(
  provider: string,
  client: SecretsManagerClient,
): Promise<Awaited<ReturnType<SecretsManagerClient['config']['credentials']>>> {
  try {
    return await client.config.credentials();
  } catch (error) {
    throw new SecretError(provider, 'the AWS SDK finds no credentials', {
      code: 'denied',
      hint: 'It looks in the environment, the shared files, web identity and the metadata service, in this order.',
      cause: error,
    });
  }
}

/** Says what went wrong. The SDK's own text is left out where it might quote a request. */
function awsError(provider: string, path: string, error: Error): SecretError {
  if (error instanceof SecretError) return error;
  const known = ERROR_CODES[error.name];
  if (known !== undefined) {
    const hint = HINTS[known];
    return new SecretError(provider, `AWS Secrets Manager refused ${path} (${error.name})`, {
      code: known,
      ...(hint === undefined ? {} : { hint }),
      cause: error,
    });
  }
  const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
  if (status !== undefined) {
    return new SecretError(provider, `AWS Secrets Manager answered ${error.name} (HTTP ${status})`, {
      code:
        status >= 500 || status === 429 || error.name === 'ThrottlingException' ? 'unavailable' : 'denied',
      cause: error,
    });
  }
  if (error.message.includes('Region is missing')) {
    return new SecretError(provider, 'no AWS region is set', {
      code: 'denied',
      hint: 'Set "region" of the provider, or AWS_REGION.',
    });
  }
  const [message, hint, code] = networkFault(error);
  return new SecretError(provider, `AWS Secrets Manager ${message}`, {
    code,
    ...(hint === null ? {} : { hint }),
    cause: error,
  });
}
