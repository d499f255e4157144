import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT } from 'jose';
import Provider from 'oidc-provider';
import type { Issued } from './certificates.ts';
import { freePort } from './postgres.ts';

/** A real OpenID provider, a browser without a screen to sign in at it, and a provider that lies. */

export const CLIENT_ID = 'sallyport';
export const CLIENT_SECRET = 'canary-openid-client-secret';

export interface OpenIdProvider {
  readonly issuer: string;
  close(): Promise<void>;
}

/** Everybody may sign in with any password. `groups` are by login name; the e-mail address is `NAME@example.com`. */
export async function startOpenIdProvider(
  groups: Readonly<Record<string, readonly string[]>>,
  tls?: Pick<Issued, 'chain' | 'key'>,
): Promise<OpenIdProvider> {
  const port = await freePort();
  const issuer = tls === undefined ? `http://127.0.0.1:${port}` : `https://localhost:${port}`;
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: CLIENT_ID,
        client_secret: CLIENT_SECRET,
        application_type: 'native',
        redirect_uris: ['http://127.0.0.1/callback'],
        grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
        response_types: ['code'],
      },
    ],
    jwks: { keys: [{ ...(await exportJWK(privateKey)), alg: 'RS256', use: 'sig', kid: 'one' }] },
    cookies: { keys: ['for-tests'] },
    features: { deviceFlow: { enabled: true }, devInteractions: { enabled: true } },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'groups'] },
    conformIdTokenClaims: false,
    findAccount: async (_context, sub) => ({
      accountId: sub,
      claims: async () => ({
        sub,
        email: `${sub}@example.com`,
        email_verified: sub !== 'unverified',
        name: sub,
        groups: [...(groups[sub] ?? [])],
      }),
    }),
  });
  const handle = provider.callback();
  const server =
    tls === undefined
      ? createHttpServer(handle)
      : createHttpsServer({ cert: tls.chain, key: tls.key }, handle);
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    issuer,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

const PAGES_MAX = 15;

/**
 * Opens `url` and signs in as `login` at whatever forms come, following redirects. Resolves to the address outside the
 * provider that it is sent to in the end, or null when the last page has no form.
 */
export async function browse(
  url: string,
  login: string,
  options: { deny?: boolean } = {},
): Promise<string | null> {
  const cookies = new Map<string, string>();
  const origin = new URL(url).origin;
  let next: { url: string; body?: URLSearchParams } = { url };
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const answer = await fetch(next.url, {
      redirect: 'manual',
      headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; ') },
      ...(next.body === undefined ? {} : { method: 'POST', body: next.body }),
    });
    for (const cookie of answer.headers.getSetCookie()) {
      const [pair] = cookie.split(';');
      const at = pair!.indexOf('=');
      cookies.set(pair!.slice(0, at), pair!.slice(at + 1));
    }
    const location = answer.headers.get('location');
    if (location !== null) {
      const target = new URL(location, next.url);
      if (target.origin !== origin) return target.href;
      next = { url: target.href };
      continue;
    }
    const text = await answer.text();
    const cancel = /href="([^"]*\/abort)"/.exec(text)?.[1];
    if (options.deny === true && cancel !== undefined) {
      next = { url: new URL(cancel, next.url).href };
      continue;
    }
    const form = /<form[^>]*action="([^"]+)"[^>]*>([\s\S]*?)<\/form>/.exec(text);
    if (form === null) return null;
    const body = new URLSearchParams();
    for (const [input] of form[2]!.matchAll(/<input[^>]*>/g)) {
      const name = /name="([^"]+)"/.exec(input)?.[1];
      if (name !== undefined) body.set(name, /value="([^"]*)"/.exec(input)?.[1] ?? login);
    }
    next = { url: new URL(form[1]!.replaceAll('&amp;', '&'), next.url).href, body };
  }
  throw new Error('the sign-in did not come to an end');
}

/** A provider whose ID tokens say what a test wants: `claims` get the nonce that was asked for. */
export interface LyingProvider extends OpenIdProvider {
  claims: (right: JWTPayload) => JWTPayload;
  /** Sign with a key that is not published. */
  otherKey: boolean;
  nonce: string;
}

export async function startLyingProvider(): Promise<LyingProvider> {
  const port = await freePort();
  const issuer = `http://127.0.0.1:${port}`;
  const keys = await generateKeyPair('RS256', { extractable: true });
  const others = await generateKeyPair('RS256', { extractable: true });
  const published = { ...(await exportJWK(keys.publicKey)), alg: 'RS256', use: 'sig', kid: 'one' };
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    response.setHeader('content-type', 'application/json');
    const path = new URL(request.url ?? '/', issuer).pathname;
    if (path === '/.well-known/openid-configuration') {
      response.end(
        JSON.stringify({
          issuer,
          authorization_endpoint: `${issuer}/authorize`,
          token_endpoint: `${issuer}/token`,
          jwks_uri: `${issuer}/jwks`,
          response_types_supported: ['code'],
          subject_types_supported: ['public'],
          id_token_signing_alg_values_supported: ['RS256'],
        }),
      );
    } else if (path === '/jwks') response.end(JSON.stringify({ keys: [published] }));
    else {
      const now = Math.floor(Date.now() / 1000);
      const right = {
        iss: issuer,
        aud: CLIENT_ID,
        sub: 'mallory',
        email: 'mallory@example.com',
        nonce: provider.nonce,
        iat: now,
        exp: now + 300,
      };
      const token = await new SignJWT(provider.claims(right))
        .setProtectedHeader({ alg: 'RS256', kid: 'one' })
        .sign(provider.otherKey ? others.privateKey : keys.privateKey);
      response.end(JSON.stringify({ access_token: 'x', token_type: 'bearer', id_token: token }));
    }
  };
  const server = createHttpServer((request, response) => void answer(request, response));
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const provider: LyingProvider = {
    issuer,
    claims: (right) => right,
    otherKey: false,
    nonce: '',
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return provider;
}
