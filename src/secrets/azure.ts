import { readFile } from 'node:fs/promises';
import type { Secret } from '../../protocols/secret.ts';
import { AccessTokens, type TokenGrant } from './access-tokens.ts';
import { textValue } from './fields.ts';
import { HttpClient, type HttpRequest, jsonBody, textField } from './http.ts';
import { SecretError, type SecretProvider, type SecretReference, type SecretValue } from './provider.ts';

export interface AzureSettings {
  readonly vault_url: string;
  /** Where Entra ID signs applications in. */
  readonly authority: string;
  readonly auth: AzureAuth;
}

export type AzureAuth =
  | { readonly method: 'managed-identity'; readonly client_id?: string | undefined }
  | {
      readonly method: 'workload-identity';
      readonly tenant_id?: string | undefined;
      readonly client_id?: string | undefined;
      readonly token_file?: string | undefined;
    }
  | {
      readonly method: 'client-secret';
      readonly tenant_id: string;
      readonly client_id: string;
      readonly client_secret: string;
    };

export interface AzurePorts {
  readonly now: () => number;
  readonly secret: (reference: string, signal: AbortSignal) => Promise<Secret>;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

/** Version of the Key Vault data plane, and of the metadata service. */
const VAULT_API = '7.4';
const IMDS_API = '2018-02-01';
const APP_SERVICE_API = '2019-08-01';

/** The metadata service of a virtual machine. */
const IMDS = 'http://169.254.169.254/metadata/identity/oauth2/token';

/**
 * Azure Key Vault over its REST API (https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret), signed in as a
 * managed identity, a workload identity or an application.
 */
export class AzureKeyVault implements SecretProvider {
  readonly name: string;
  readonly #settings: AzureSettings;
  readonly #ports: AzurePorts;
  readonly #client: HttpClient;
  /** The metadata service is on this machine: no proxy leads there. */
  readonly #local: HttpClient;
  readonly #tokens: AccessTokens;

  constructor(name: string, settings: AzureSettings, ports: AzurePorts) {
    this.name = name;
    this.#settings = settings;
    this.#ports = ports;
    this.#client = new HttpClient(name);
    this.#local = new HttpClient(name, { direct: true });
    this.#tokens = new AccessTokens(ports.now, (signal) => this.#signIn(signal));
  }

  async fetch(reference: SecretReference, signal: AbortSignal): Promise<SecretValue> {
    const path = reference.path.split('/').map(encodeURIComponent).join('/');
    const url = new URL(`/secrets/${path}?api-version=${VAULT_API}`, this.#settings.vault_url);
    const response = await this.#tokens.authorized(this.#client, { method: 'GET', url }, signal);
    const answer = jsonBody(this.name, url, response);
    if (response.status !== 200) throw this.#refusal(reference.path, response.status, answer);
    const attributes = answer['attributes'] as { exp?: number } | undefined;
    const expiresAt = attributes?.exp === undefined ? null : attributes.exp * 1000;
    return textValue(reference, Buffer.from(textField(this.name, answer, 'value'), 'utf8'), expiresAt);
  }

  /** Signs in; what we may read is known when it is read. */
  async check(signal: AbortSignal): Promise<void> {
    await this.#tokens.token(signal);
  }

  async close(): Promise<void> {
    this.#client.close();
    this.#local.close();
  }

  #refusal(path: string, status: number, answer: Record<string, unknown>): SecretError {
    const error = answer['error'] as { code?: unknown } | undefined;
    const said = typeof error?.code === 'string' ? ` (${error.code})` : '';
    const { host } = new URL(this.#settings.vault_url);
    if (status === 404)
      return new SecretError(this.name, `${host} has no secret ${path}${said}`, {
        code: 'not_found',
        hint: 'Is the name right, and the secret enabled?',
      });
    if (status === 401 || status === 403)
      return new SecretError(this.name, `${host} does not let us read ${path}${said}`, {
        code: 'denied',
        hint: 'Our identity needs the role "Key Vault Secrets User" there, and the firewall of the vault must let us in.',
      });
    const isPassing = status === 429 || status >= 500;
    return new SecretError(this.name, `${host} answered HTTP ${status}${said}`, {
      code: isPassing ? 'unavailable' : 'malformed',
    });
  }

  async #signIn(signal: AbortSignal): Promise<TokenGrant> {
    const { auth } = this.#settings;
    const isLocal = auth.method === 'managed-identity';
    const request = isLocal ? this.#identityRequest(auth.client_id) : await this.#tokenRequest(auth, signal);
    const response = await (isLocal ? this.#local : this.#client).send(request, signal);
    const answer = jsonBody(this.name, request.url, response);
    if (response.status !== 200) {
      const said = typeof answer['error'] === 'string' ? answer['error'] : `HTTP ${response.status}`;
      throw new SecretError(this.name, `Azure did not sign us in by ${auth.method}: ${said}`, {
        code: response.status >= 500 || response.status === 429 ? 'unavailable' : 'denied',
        hint: isLocal
          ? 'This machine or app must have a managed identity; a user-assigned one needs "client_id".'
          : 'Check tenant, client and the proof: secrets end, and federated credentials name issuer and subject.',
      });
    }
    return {
      token: textField(this.name, answer, 'access_token'),
      seconds: Number(answer['expires_in'] ?? secondsUntil(answer['expires_on'], this.#ports.now())),
    };
  }

  /** The scope of Key Vault in the same cloud as the vault. */
  get #resource(): string {
    const { hostname } = new URL(this.#settings.vault_url);
    const suffix = hostname.split('.').slice(1).join('.');
    return suffix.startsWith('vault.') ? `https://${suffix}` : 'https://vault.azure.net';
  }

  #identityRequest(clientId: string | undefined): HttpRequest {
    const { IDENTITY_ENDPOINT: endpoint, IDENTITY_HEADER: header } = this.#ports.environment;
    const isAppService = endpoint !== undefined && header !== undefined;
    const url = new URL(isAppService ? endpoint : IMDS);
    url.searchParams.set('api-version', isAppService ? APP_SERVICE_API : IMDS_API);
    url.searchParams.set('resource', this.#resource);
    if (clientId !== undefined) url.searchParams.set('client_id', clientId);
    return {
      method: 'GET',
      url,
      headers: isAppService ? { 'x-identity-header': header } : { metadata: 'true' },
    };
  }

  async #tokenRequest(
    auth: Exclude<AzureAuth, { method: 'managed-identity' }>,
    signal: AbortSignal,
  ): Promise<HttpRequest> {
    const { environment } = this.#ports;
    const tenant = auth.tenant_id ?? environment['AZURE_TENANT_ID'] ?? '';
    const form = new URLSearchParams({
      grant_type: 'client_credentials',
      client_id: auth.client_id ?? environment['AZURE_CLIENT_ID'] ?? '',
      scope: `${this.#resource}/.default`,
    });
    if (auth.method === 'client-secret') {
      const secret = await this.#ports.secret(auth.client_secret, signal);
      form.set('client_secret', secret.expose().toString('utf8'));
      secret.wipe();
    } else {
      form.set('client_assertion_type', 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer');
      form.set('client_assertion', await this.#assertion(auth.token_file));
    }
    return {
      method: 'POST',
      url: new URL(`/${encodeURIComponent(tenant)}/oauth2/v2.0/token`, this.#settings.authority),
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: form.toString(),
    };
  }

  async #assertion(tokenFile: string | undefined): Promise<string> {
    const file = tokenFile ?? this.#ports.environment['AZURE_FEDERATED_TOKEN_FILE'] ?? '';
    try {
      return (await readFile(file, 'utf8')).trim();
    } catch (error) {
      throw new SecretError(this.name, `${file || 'the federated token file'} cannot be read`, {
        code: 'denied',
        hint: 'Is the workload identity webhook on, and this pod labelled for it?',
        cause: error,
      });
    }
  }
}

function secondsUntil(epochSeconds: unknown, now: number): number {
  const end = Number(epochSeconds);
  return Number.isFinite(end) ? end - now / 1000 : 0;
}
