import { createSign } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { AccessTokens, type TokenGrant } from './access-tokens.ts';
import { textValue } from './fields.ts';
import { HttpClient, type HttpRequest, jsonBody, textField } from './http.ts';
import { SecretError, type SecretProvider, type SecretReference, type SecretValue } from './provider.ts';

export interface GoogleSettings {
  readonly project: string;
  readonly endpoint: string;
  readonly auth:
    | { readonly method: 'metadata' }
    | { readonly method: 'service-account'; readonly key_file: string };
}

export interface GooglePorts {
  readonly now: () => number;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

const SCOPE = 'https://www.googleapis.com/auth/cloud-platform';

/** How long an assertion of a service account is good: the longest that Google takes. */
const ASSERTION_SECONDS = 3600;

/**
 * Google Secret Manager over its REST API
 * (https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access), signed in by the
 * metadata server or with a service account's key (RFC 7523).
 */
export class GoogleSecretManager implements SecretProvider {
  readonly name: string;
  readonly #settings: GoogleSettings;
  readonly #ports: GooglePorts;
  readonly #client: HttpClient;
  readonly #local: HttpClient;
  readonly #tokens: AccessTokens;

  constructor(name: string, settings: GoogleSettings, ports: GooglePorts) {
    this.name = name;
    this.#settings = settings;
    this.#ports = ports;
    this.#client = new HttpClient(name);
    this.#local = new HttpClient(name, { direct: true });
    this.#tokens = new AccessTokens(ports.now, (signal) => this.#signIn(signal));
  }

  async fetch(reference: SecretReference, signal: AbortSignal): Promise<SecretValue> {
    const url = new URL(`/v1/${this.#resource(reference.path)}:access`, this.#settings.endpoint);
    const response = await this.#tokens.authorized(this.#client, { method: 'GET', url }, signal);
    const answer = jsonBody(this.name, url, response);
    if (response.status !== 200) throw this.#refusal(reference.path, response.status, answer);
    const payload = (answer['payload'] ?? {}) as Record<string, unknown>;
    return textValue(reference, Buffer.from(textField(this.name, payload, 'data'), 'base64'), null);
  }

  /** Signs in; what we may read is known when it is read. */
  async check(signal: AbortSignal): Promise<void> {
    await this.#tokens.token(signal);
  }

  async close(): Promise<void> {
    this.#client.close();
    this.#local.close();
  }

  /** `NAME`, `NAME/versions/3` or the whole `projects/…` name. */
  #resource(path: string): string {
    const full = path.startsWith('projects/') ? path : `projects/${this.#settings.project}/secrets/${path}`;
    const versioned = /\/versions\/[^/]+$/.test(full) ? full : `${full}/versions/latest`;
    return versioned.split('/').map(encodeURIComponent).join('/');
  }

  #refusal(path: string, status: number, answer: Record<string, unknown>): SecretError {
    const error = answer['error'] as { status?: unknown } | undefined;
    const said = typeof error?.status === 'string' ? ` (${error.status})` : '';
    if (status === 404)
      return new SecretError(this.name, `Google Secret Manager has no secret ${path}${said}`, {
        code: 'not_found',
        hint: 'Are project and name right, and is the version enabled?',
      });
    if (status === 401 || status === 403)
      return new SecretError(this.name, `Google Secret Manager does not let us read ${path}${said}`, {
        code: 'denied',
        hint: 'Our service account needs the role "Secret Manager Secret Accessor" on it.',
      });
    const isPassing = status === 429 || status >= 500;
    return new SecretError(this.name, `Google Secret Manager answered HTTP ${status}${said}`, {
      code: isPassing ? 'unavailable' : 'malformed',
    });
  }

  async #signIn(signal: AbortSignal): Promise<TokenGrant> {
    const { auth } = this.#settings;
    const isLocal = auth.method === 'metadata';
    const request = isLocal ? this.#metadataRequest() : await this.#assertionRequest(auth.key_file);
    const response = await (isLocal ? this.#local : this.#client).send(request, signal);
    const answer = jsonBody(this.name, request.url, response);
    if (response.status !== 200) {
      const said = typeof answer['error'] === 'string' ? answer['error'] : `HTTP ${response.status}`;
      throw new SecretError(this.name, `Google did not sign us in by ${auth.method}: ${said}`, {
        code: response.status >= 500 || response.status === 429 ? 'unavailable' : 'denied',
        hint: isLocal
          ? 'This machine or pod must run as a service account.'
          : 'The key may have been deleted, or the clock of this machine is wrong.',
      });
    }
    return {
      token: textField(this.name, answer, 'access_token'),
      seconds: Number(answer['expires_in'] ?? 0),
    };
  }

  #metadataRequest(): HttpRequest {
    const host = this.#ports.environment['GCE_METADATA_HOST'] ?? 'metadata.google.internal';
    return {
      method: 'GET',
      url: new URL(`http://${host}/computeMetadata/v1/instance/service-accounts/default/token`),
      headers: { 'metadata-flavor': 'Google' },
    };
  }

  async #assertionRequest(keyFile: string): Promise<HttpRequest> {
    const key = await this.#readKey(keyFile);
    const url = new URL(key.token_uri);
    const issued = Math.floor(this.#ports.now() / 1000);
    const head = { alg: 'RS256', typ: 'JWT', kid: key.private_key_id };
    const claims = {
      iss: key.client_email,
      scope: SCOPE,
      aud: key.token_uri,
      iat: issued,
      exp: issued + ASSERTION_SECONDS,
    };
    const signed = [head, claims]
      .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
      .join('.');
    const signature = createSign('RSA-SHA256').update(signed).sign(key.private_key).toString('base64url');
    const form = new URLSearchParams({
      grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer',
      assertion: `${signed}.${signature}`,
    });
    return {
      method: 'POST',
      url,
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: form.toString(),
    };
  }

  async #readKey(
    file: string,
  ): Promise<Record<'client_email' | 'private_key' | 'private_key_id' | 'token_uri', string>> {
    try {
      const key = JSON.parse(await readFile(file, 'utf8')) as Record<string, string>;
      const { client_email, private_key, private_key_id = '' } = key;
      const token_uri = key['token_uri'] ?? 'https://oauth2.googleapis.com/token';
      if (client_email !== undefined && private_key !== undefined)
        return { client_email, private_key, private_key_id, token_uri };
    } catch {
      // Said below: the parser's message quotes what it read.
    }
    throw new SecretError(this.name, `${file} is no key of a service account`, {
      code: 'denied',
      hint: 'It is the JSON file that "gcloud iam service-accounts keys create" writes.',
    });
  }
}
