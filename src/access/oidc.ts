import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Agent } from 'node:https';
import type * as Client from 'openid-client';
import { Refusal } from '../../protocols/error.ts';
import type { OidcConfig } from '../config/schema.ts';
import type { Principal } from './principal.ts';

/** Sign-ins under way at once; the oldest is forgotten for the next. Ours. */
const FLOWS_MAX = 1_000;
/** A sign-in that takes longer has to begin again. Ours. */
const FLOW_MS_MAX = 10 * 60_000;
/** One request to the provider. Ours. */
const REQUEST_SECONDS_MAX = 15;
/** An answer of the provider is no larger. Ours. */
const ANSWER_BYTES_MAX = 1024 * 1024;
/** What is read of the provider is looked at again after this long. Ours. */
const DISCOVERY_MS_MAX = 3_600_000;

interface Flow {
  readonly startedAt: number;
  readonly device: Client.DeviceAuthorizationResponse | null;
  readonly verifier: string;
  readonly state: string;
  readonly nonce: string;
  /** Polls of a device flow come one at a time. */
  polling: boolean;
}

export interface OidcPorts {
  readonly config: () => OidcConfig | null;
  readonly clientSecret: () => Promise<string | null>;
  /** Whether a name is taken by somebody who is no person of the provider. */
  readonly isReserved: (name: string) => boolean;
  readonly now: () => number;
}

/**
 * Sign-in with an OpenID provider, by browser (authorization code with PKCE, state and nonce) and without one (device
 * authorization, RFC 8628). The gateway is the client: people's machines hold neither its secret nor the provider's tokens.
 */
export class Oidc {
  readonly #ports: OidcPorts;
  readonly #flows = new Map<string, Flow>();
  #discovered: { config: OidcConfig; client: Client.Configuration; at: number } | null = null;

  constructor(ports: OidcPorts) {
    this.#ports = ports;
  }

  get enabled(): boolean {
    return this.#ports.config() !== null;
  }

  /** Begins a sign-in without a browser on this side. Throws a `Refusal` when the provider cannot be asked. */
  async startDevice(): Promise<{ flow: string; response: Client.DeviceAuthorizationResponse }> {
    const { config, client, library } = await this.#client();
    const response = await told(() =>
      library.initiateDeviceAuthorization(client, { scope: config.scopes.join(' ') }),
    );
    return { flow: this.#add({ device: response, verifier: '', state: '', nonce: '' }), response };
  }

  /** Asks once whether the person has finished; null while not. Throws a `Refusal` when it will not come to anything. */
  async pollDevice(id: string): Promise<Principal | null> {
    const flow = this.#flow(id);
    if (flow.device === null) throw unknownFlow();
    if (flow.polling) return null;
    flow.polling = true;
    try {
      const { client, library } = await this.#client();
      // One question a call: the person's command asks again at the provider's pace.
      const tokens = await library.genericGrantRequest(
        client,
        'urn:ietf:params:oauth:grant-type:device_code',
        {
          device_code: flow.device.device_code,
        },
      );
      this.#flows.delete(id);
      return this.#principal(tokens.claims());
    } catch (error) {
      const code = (error as { error?: string }).error;
      if (code === 'authorization_pending' || code === 'slow_down') return null;
      this.#flows.delete(id);
      if (error instanceof Refusal) throw error;
      throw refused(error);
    } finally {
      flow.polling = false;
    }
  }

  /** Begins a sign-in by browser: the address to open. The redirect must lead to a loopback address. */
  async startCode(redirectUri: string): Promise<{ flow: string; url: string }> {
    const redirect = new URL(redirectUri);
    if (redirect.protocol !== 'http:' || !/^(127\.0\.0\.1|\[::1\]|localhost)$/.test(redirect.hostname))
      throw new Refusal('option_not_allowed', 'the browser may only be sent back to http://127.0.0.1');
    const { config, client, library } = await this.#client();
    const verifier = library.randomPKCECodeVerifier();
    const state = library.randomState();
    const nonce = library.randomNonce();
    const url = library.buildAuthorizationUrl(client, {
      redirect_uri: redirectUri,
      scope: config.scopes.join(' '),
      code_challenge: await library.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
      state,
      nonce,
    });
    return { flow: this.#add({ device: null, verifier, state, nonce }), url: url.href };
  }

  /** Ends a sign-in by browser with the address it was sent back to. Throws a `Refusal`. */
  async finishCode(id: string, callbackUrl: string): Promise<Principal> {
    const flow = this.#flow(id);
    this.#flows.delete(id);
    if (flow.device !== null) throw unknownFlow();
    const { client, library } = await this.#client();
    const tokens = await told(() =>
      library.authorizationCodeGrant(client, new URL(callbackUrl), {
        pkceCodeVerifier: flow.verifier,
        expectedState: flow.state,
        expectedNonce: flow.nonce,
        idTokenExpected: true,
      }),
    );
    return this.#principal(tokens.claims());
  }

  #principal(claims: Client.IDToken | undefined): Principal {
    const config = this.#ports.config();
    if (claims === undefined || config === null)
      throw new Refusal('not_allowed', 'the provider did not say who you are', {
        hint: 'Is "openid" among oidc.scopes?',
      });
    const name = claims[config.name_claim];
    if (typeof name !== 'string' || name === '') {
      throw new Refusal('not_allowed', `the provider gave no "${config.name_claim}" to call you by`, {
        hint: 'Set oidc.name_claim to one that it gives, or ask for more scopes.',
      });
    }
    if (config.name_claim === 'email' && claims['email_verified'] === false)
      throw new Refusal('not_allowed', 'the provider has not verified your e-mail address');
    if (this.#ports.isReserved(name)) {
      throw new Refusal('not_allowed', `"${name}" is the name of a local user here`, {
        hint: 'Rename the local user, or set oidc.name_claim to another claim.',
      });
    }
    const groups = [claims[config.groups_claim]].flat().filter((group) => typeof group === 'string');
    const roles = new Set(
      groups.flatMap((group) => (Object.hasOwn(config.roles, group) ? config.roles[group]! : [])),
    );
    return { name, roles: [...roles], source: 'oidc' };
  }

  #add(parts: Omit<Flow, 'startedAt' | 'polling'>): string {
    if (this.#flows.size >= FLOWS_MAX) this.#flows.delete(this.#flows.keys().next().value as string);
    const id = randomBytes(24).toString('base64url');
    this.#flows.set(id, { ...parts, startedAt: this.#ports.now(), polling: false });
    return id;
  }

  #flow(id: string): Flow {
    const flow = this.#flows.get(id);
    if (flow === undefined) throw unknownFlow();
    if (this.#ports.now() - flow.startedAt <= FLOW_MS_MAX) return flow;
    this.#flows.delete(id);
    throw unknownFlow();
  }

  async #client(): Promise<{ config: OidcConfig; client: Client.Configuration; library: typeof Client }> {
    const config = this.#ports.config();
    if (config === null) throw new Refusal('not_allowed', 'no OpenID provider is configured here');
    const library = await import('openid-client');
    const now = this.#ports.now();
    const known = this.#discovered;
    if (known !== null && known.config === config && now - known.at < DISCOVERY_MS_MAX)
      return { config, client: known.client, library };
    const secret = await this.#ports.clientSecret();
    const issuer = new URL(config.issuer);
    const options: Client.DiscoveryRequestOptions = {
      timeout: REQUEST_SECONDS_MAX,
      // Plain HTTP is for providers on this machine alone: in tests, or behind a local proxy.
      // What signs the ID token is checked too, not only the TLS that it came over.
      execute: [
        library.enableNonRepudiationChecks,
        ...(isLocal(issuer) ? [library.allowInsecureRequests] : []),
      ],
      ...(config.ca === undefined ? {} : { [library.customFetch]: await fetchTrusting(config.ca) }),
    };
    const client = await told(() =>
      library.discovery(
        issuer,
        config.client_id,
        secret ?? undefined,
        secret === null ? library.None() : undefined,
        options,
      ),
    );
    this.#discovered = { config, client, at: now };
    return { config, client, library };
  }
}

function isLocal(issuer: URL): boolean {
  return issuer.protocol === 'http:' && /^(127\.0\.0\.1|\[::1\]|localhost)$/.test(issuer.hostname);
}

/** Runs a request to the provider; what goes wrong becomes a `Refusal` that says so. */
async function told<T>(ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    throw refused(error);
  }
}

function refused(error: unknown): Refusal {
  const { error: code, message } = error as { error?: string; message?: string };
  if (code === 'access_denied')
    return new Refusal('not_allowed', 'the sign-in was refused at the provider', { cause: error });
  if (code === 'expired_token')
    return new Refusal('not_allowed', 'the sign-in took too long; begin again', { cause: error });
  return new Refusal(
    'not_allowed',
    `the OpenID provider did not let the sign-in through (${code ?? message ?? 'no reason given'})`,
    {
      hint: 'Does the provider answer, and do issuer and client_id fit?',
      cause: error,
    },
  );
}

function unknownFlow(): Refusal {
  return new Refusal('not_allowed', 'this sign-in is not known any more; begin again');
}

/** `fetch` that trusts the authorities of a file, and only those. */
async function fetchTrusting(path: string): Promise<Client.CustomFetch> {
  const ca = await readFile(path);
  const agent = new Agent({ ca, keepAlive: true });
  const { request } = await import('node:https');
  return (url, options) =>
    new Promise<Response>((resolve, reject) => {
      const outgoing = request(
        url,
        {
          agent,
          method: options.method,
          headers: Object.fromEntries(new Headers(options.headers as Record<string, string>)),
        },
        (incoming) => {
          const chunks: Buffer[] = [];
          let bytes = 0;
          incoming.on('data', (chunk: Buffer) => {
            bytes += chunk.length;
            if (bytes > ANSWER_BYTES_MAX) outgoing.destroy(new Error("the provider's answer is too large"));
            else chunks.push(chunk);
          });
          incoming.on('error', reject);
          incoming.on('end', () => {
            const headers = new Headers();
            for (const [name, value] of Object.entries(incoming.headers))
              for (const one of [value ?? []].flat()) headers.append(name, one);
            const body = Buffer.concat(chunks);
            resolve(
              new Response(body.length === 0 ? null : body, { status: incoming.statusCode ?? 500, headers }),
            );
          });
        },
      );
      outgoing.setTimeout(REQUEST_SECONDS_MAX * 1000, () =>
        outgoing.destroy(new Error('the provider did not answer in time')),
      );
      outgoing.on('error', reject);
      if (options.signal)
        options.signal.addEventListener('abort', () => outgoing.destroy(new Error('aborted')));
      outgoing.end(options.body === undefined || options.body === null ? undefined : String(options.body));
    });
}
