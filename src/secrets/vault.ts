import { readFile } from 'node:fs/promises';
import type { Secret } from '../../protocols/secret.ts';
import type { Log } from '../log.ts';
import { fieldValue, secretFields } from './fields.ts';
import { HttpClient, type HttpResponse, jsonBody } from './http.ts';
import { SecretError, type SecretProvider, type SecretReference, type SecretValue } from './provider.ts';
import { VaultLease } from './vault-lease.ts';

export interface VaultSettings {
  readonly address: string;
  readonly namespace?: string | undefined;
  /** File with authorities, PEM. */
  readonly ca?: string | undefined;
  readonly auth: VaultAuth;
}

export type VaultAuth =
  | {
      readonly method: 'token';
      readonly token?: string | undefined;
      readonly token_file?: string | undefined;
    }
  | {
      readonly method: 'approle';
      readonly mount: string;
      readonly role_id: string;
      readonly secret_id: string;
    }
  | {
      readonly method: 'kubernetes' | 'jwt';
      readonly mount: string;
      readonly role: string;
      readonly token_file: string;
    };

export interface VaultPorts {
  readonly log: Log;
  readonly now: () => number;
  /** A secret of another provider, by its reference. */
  readonly secret: (reference: string, signal: AbortSignal) => Promise<Secret>;
}

/** The token that requests carry. */
interface SignIn {
  readonly token: string;
  /** Keeps a token alive that we made: accounts end with the token they were made with. Null for a given token. */
  readonly lease: VaultLease | null;
}

/** A token is not used for new requests any more this long before its end. */
const TOKEN_MARGIN_MS = 10_000;

/**
 * HashiCorp Vault and OpenBao over their HTTP API (https://developer.hashicorp.com/vault/api-docs,
 * https://openbao.org/api-docs).
 *
 * A path is read as it stands in the command line tools: for key-value mounts of version 2, `data/` is put in behind the
 * mount unless it is there. What comes with a lease is renewed until it is released, and then revoked.
 */
export class VaultSecrets implements SecretProvider {
  readonly name: string;
  readonly #settings: VaultSettings;
  readonly #ports: VaultPorts;
  #client: HttpClient | null = null;
  #signIn: SignIn | null = null;
  #signingIn: Promise<SignIn> | null = null;
  /** Version of the key-value mount that a path is in, by mount; null where it is no such mount. */
  readonly #mounts = new Map<string, 1 | 2 | null>();

  constructor(name: string, settings: VaultSettings, ports: VaultPorts) {
    this.name = name;
    this.#settings = settings;
    this.#ports = ports;
  }

  async fetch(reference: SecretReference, signal: AbortSignal): Promise<SecretValue> {
    const path = await this.#apiPath(reference.path, signal);
    const answer = await this.#authorized('GET', path, undefined, signal);
    return this.#valueOf(reference, answer);
  }

  async check(signal: AbortSignal): Promise<void> {
    const response = await this.#send(
      'GET',
      'sys/health?standbyok=true&perfstandbyok=true',
      undefined,
      null,
      signal,
    );
    if (response.status === 501)
      throw this.#error('is not initialized', 'unavailable', 'vault operator init');
    if (response.status === 503) throw this.#error('is sealed', 'unavailable', 'vault operator unseal');
    await this.#authorized('GET', 'auth/token/lookup-self', undefined, signal);
  }

  /** Revokes the token that was made for us, and with it whatever was made by it. */
  async close(): Promise<void> {
    await this.#signingIn?.catch(() => {});
    const signIn = this.#signIn;
    this.#signIn = null;
    try {
      await signIn?.lease?.revoke();
    } finally {
      this.#client?.close();
      this.#client = null;
    }
  }

  #valueOf(reference: SecretReference, answer: Record<string, unknown>): SecretValue {
    const outer = asObject(answer['data']);
    // Version 2 wraps what was stored, beside its metadata.
    const isWrapped = isObject(outer['metadata']) && 'data' in outer;
    const inner = isWrapped ? asObject(outer['data']) : outer;
    const leaseId = answer['lease_id'];
    const seconds = Number(answer['lease_duration'] ?? 0);
    if (typeof leaseId === 'string' && leaseId !== '')
      return this.#leasedValue(reference, inner, leaseId, seconds, answer['renewable'] === true);
    // Static roles say how long their password still is good; key-value secrets of version 1 only when to look again.
    const isStatic = typeof inner['last_vault_rotation'] === 'string' && typeof inner['ttl'] === 'number';
    const expiresAt = isStatic ? this.#ports.now() + Number(inner['ttl']) * 1000 : null;
    return fieldValue(reference, secretFields(inner), expiresAt);
  }

  #leasedValue(
    reference: SecretReference,
    data: Record<string, unknown>,
    leaseId: string,
    seconds: number,
    renewable: boolean,
  ): SecretValue {
    const lease = new VaultLease(`the account of ${reference.path}`, seconds, renewable, {
      ...this.#ports,
      renew: async (signal) => {
        const answer = await this.#authorized('PUT', 'sys/leases/renew', { lease_id: leaseId }, signal);
        return Number(answer['lease_duration'] ?? 0);
      },
      revoke: async (signal) => {
        await this.#authorized('PUT', 'sys/leases/revoke', { lease_id: leaseId }, signal);
      },
    });
    try {
      const expiresAt = this.#ports.now() + seconds * 1000;
      return {
        ...fieldValue(reference, secretFields(data), expiresAt),
        release: () => lease.revoke(),
        lost: lease.lost,
      };
    } catch (error) {
      void lease.revoke().catch(() => {});
      throw error;
    }
  }

  /** The path as the API wants it. */
  async #apiPath(path: string, signal: AbortSignal): Promise<string> {
    const plain = path.replace(/^\/+/, '').replace(/^v1\//, '');
    for (const [mount, version] of this.#mounts)
      if (plain.startsWith(mount)) return kvPath(plain, mount, version);
    const response = await this.#withToken('GET', `sys/internal/ui/mounts/${plain}`, undefined, signal);
    // Without the right to look at the mount, the path must already be the one of the API.
    if (response.status !== 200) return plain;
    const data = asObject(jsonBody(this.name, this.#url('sys/internal/ui/mounts'), response)['data']);
    const mount = typeof data['path'] === 'string' ? data['path'] : null;
    if (mount === null || !plain.startsWith(mount)) return plain;
    const isKv = data['type'] === 'kv' || data['type'] === 'generic';
    const version = isKv ? (String(asObject(data['options'])['version'] ?? '1') === '2' ? 2 : 1) : null;
    this.#mounts.set(mount, version);
    return kvPath(plain, mount, version);
  }

  /** A request with our token, and its answer. Signs in anew, once, when the token is not taken any more. */
  async #authorized(
    method: 'GET' | 'PUT',
    path: string,
    body: Record<string, unknown> | undefined,
    signal: AbortSignal,
  ): Promise<Record<string, unknown>> {
    const response = await this.#withToken(method, path, body, signal);
    if (response.status === 204) return {};
    const answer = jsonBody(this.name, this.#url(path), response);
    if (response.status === 200) return answer;
    throw this.#refusal(path, response.status, answer);
  }

  async #withToken(
    method: 'GET' | 'PUT',
    path: string,
    body: Record<string, unknown> | undefined,
    signal: AbortSignal,
  ): Promise<HttpResponse> {
    const first = await this.#token(signal);
    const response = await this.#send(method, path, body, first.token, signal);
    if (response.status !== 403 || (await this.#isValid(first, signal))) return response;
    // The token was revoked, or the agent has written a new one.
    if (this.#signIn === first) this.#forget();
    const second = await this.#token(signal);
    if (second.token === first.token) return response;
    return this.#send(method, path, body, second.token, signal);
  }

  /** Whether Vault knows the token: then a 403 is about what it may do. */
  async #isValid(signIn: SignIn, signal: AbortSignal): Promise<boolean> {
    const response = await this.#send('GET', 'auth/token/lookup-self', undefined, signIn.token, signal);
    return response.status === 200;
  }

  async #token(signal: AbortSignal): Promise<SignIn> {
    const { auth } = this.#settings;
    if (auth.method === 'token') return { token: await this.#givenToken(auth, signal), lease: null };
    const lease = this.#signIn?.lease;
    if (lease && (lease.lost.aborted || (lease.expiresAt ?? Infinity) - TOKEN_MARGIN_MS <= this.#ports.now()))
      this.#forget();
    if (this.#signIn) return this.#signIn;
    this.#signingIn ??= this.#login(auth, signal).finally(() => {
      this.#signingIn = null;
    });
    this.#signIn = await this.#signingIn;
    return this.#signIn;
  }

  /** Leaves a token that is at its end, or that Vault does not know any more. */
  #forget(): void {
    this.#signIn?.lease?.stop();
    this.#signIn = null;
  }

  async #givenToken(auth: Extract<VaultAuth, { method: 'token' }>, signal: AbortSignal): Promise<string> {
    if (auth.token_file !== undefined) return this.#readToken(auth.token_file);
    const secret = await this.#ports.secret(auth.token ?? '', signal);
    const text = secret.expose().toString('utf8').trim();
    secret.wipe();
    return text;
  }

  async #login(auth: Exclude<VaultAuth, { method: 'token' }>, signal: AbortSignal): Promise<SignIn> {
    const body = await this.#proof(auth, signal);
    const path = `auth/${auth.mount}/login`;
    const response = await this.#send('PUT', path, body, null, signal);
    const answer = jsonBody(this.name, this.#url(path), response);
    if (response.status !== 200) {
      const refusal = this.#refusal(path, response.status, answer);
      if (refusal.transient) throw refusal;
      throw new SecretError(this.name, `${refusal.message} (sign-in by ${auth.method})`, {
        code: 'denied',
        hint: 'The role, its secret or token, or the mount of the method is not right.',
      });
    }
    const granted = asObject(answer['auth']);
    const token = granted['client_token'];
    if (typeof token !== 'string')
      throw this.#error('answered the sign-in without a token', 'malformed', null);
    const seconds = Number(granted['lease_duration'] ?? 0);
    const lease = new VaultLease('the sign-in to Vault', seconds, granted['renewable'] === true, {
      ...this.#ports,
      renew: async (inner) => {
        const renewed = await this.#send('PUT', 'auth/token/renew-self', {}, token, inner);
        if (renewed.status !== 200) throw this.#error(`answered HTTP ${renewed.status}`, 'denied', null);
        const again = asObject(jsonBody(this.name, this.#url('auth/token/renew-self'), renewed)['auth']);
        return Number(again['lease_duration'] ?? 0);
      },
      revoke: async (inner) => {
        await this.#send('PUT', 'auth/token/revoke-self', {}, token, inner);
      },
    });
    return { token, lease };
  }

  async #proof(
    auth: Exclude<VaultAuth, { method: 'token' }>,
    signal: AbortSignal,
  ): Promise<Record<string, unknown>> {
    if (auth.method !== 'approle') return { role: auth.role, jwt: await this.#readToken(auth.token_file) };
    const secret = await this.#ports.secret(auth.secret_id, signal);
    const secretId = secret.expose().toString('utf8');
    secret.wipe();
    return { role_id: auth.role_id, secret_id: secretId };
  }

  async #readToken(file: string): Promise<string> {
    try {
      return (await readFile(file, 'utf8')).trim();
    } catch (error) {
      throw new SecretError(this.name, `${file} cannot be read (${(error as NodeJS.ErrnoException).code})`, {
        code: 'denied',
        hint: 'It holds the token that signs in to Vault.',
      });
    }
  }

  async #send(
    method: 'GET' | 'PUT',
    path: string,
    body: Record<string, unknown> | undefined,
    token: string | null,
    signal: AbortSignal,
  ): Promise<HttpResponse> {
    this.#client ??= await this.#makeClient();
    const { namespace } = this.#settings;
    const request = {
      method,
      url: this.#url(path),
      headers: {
        'x-vault-request': 'true',
        ...(token === null ? {} : { 'x-vault-token': token }),
        ...(namespace === undefined ? {} : { 'x-vault-namespace': namespace }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    };
    const response = await this.#client.send(request, signal);
    const active = response.headers.location;
    if (response.status !== 307 || active === undefined) return response;
    // A standby node that does not forward names the active one. Our token goes there as it would have gone here.
    const url = new URL(active, request.url);
    if (url.protocol !== request.url.protocol) return response;
    return this.#client.send({ ...request, url }, signal);
  }

  async #makeClient(): Promise<HttpClient> {
    const { ca } = this.#settings;
    if (ca === undefined) return new HttpClient(this.name);
    try {
      return new HttpClient(this.name, { ca: await readFile(ca) });
    } catch (error) {
      throw new SecretError(this.name, `${ca} cannot be read (${(error as NodeJS.ErrnoException).code})`, {
        code: 'denied',
      });
    }
  }

  #url(path: string): URL {
    const base = this.#settings.address.replace(/\/+$/, '');
    return new URL(`${base}/v1/${path}`);
  }

  #error(what: string, code: SecretError['code'], hint: string | null): SecretError {
    const { host } = this.#url('');
    return new SecretError(this.name, `${host} ${what}`, { code, ...(hint === null ? {} : { hint }) });
  }

  /** The error of an answer. Vault's own texts name paths and roles, and no secrets. */
  #refusal(path: string, status: number, answer: Record<string, unknown>): SecretError {
    const texts = Array.isArray(answer['errors'])
      ? answer['errors'].filter((text) => typeof text === 'string')
      : [];
    const said = texts.length > 0 ? `: ${texts.join('; ').replaceAll(/\s+/g, ' ').slice(0, 200)}` : '';
    if (status === 404)
      return this.#error(`has nothing at ${path}${said}`, 'not_found', 'Is the path right, and not deleted?');
    if (status === 403)
      return this.#error(
        `does not allow ${path}${said}`,
        'denied',
        `The policy of our token must allow "read" on "${path}".`,
      );
    if (status === 400) return this.#error(`did not take the request for ${path}${said}`, 'malformed', null);
    if (status === 503) return this.#error('is sealed or in maintenance', 'unavailable', 'vault status');
    return this.#error(`answered HTTP ${status} to ${path}${said}`, 'unavailable', null);
  }
}

function kvPath(path: string, mount: string, version: 1 | 2 | null): string {
  const rest = path.slice(mount.length);
  return version === 2 && !rest.startsWith('data/') ? `${mount}data/${rest}` : path;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function asObject(value: unknown): Record<string, unknown> {
  return isObject(value) ? value : {};
}
