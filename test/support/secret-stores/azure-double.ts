import { randomBytes } from 'node:crypto';
import { type HttpDouble, startHttpDouble } from './http-double.ts';

/**
 * A double of what an adapter sees of Azure, written from its documentation: Key Vault's `Get Secret`, Entra ID's token
 * endpoint for client credentials, and the identity endpoint of App Service.
 */
export interface AzureDouble extends HttpDouble {
  /** By name, or by `name/version`. */
  readonly secrets: Map<string, { readonly value: string; readonly exp?: number }>;
  readonly clientSecret: string;
  readonly assertion: string;
  readonly identityHeader: string;
  /** Tokens are taken no more: the next request is answered with 401. */
  revokeTokens(): void;
}

export async function startAzureDouble(): Promise<AzureDouble> {
  const secrets = new Map<string, { readonly value: string; readonly exp?: number }>();
  const tokens = new Set<string>();
  const clientSecret = randomBytes(8).toString('hex');
  const assertion = `a.${randomBytes(8).toString('hex')}.c`;
  const identityHeader = randomBytes(8).toString('hex');
  const grant = (): object => {
    const token = randomBytes(16).toString('hex');
    tokens.add(token);
    return { token_type: 'Bearer', expires_in: 3599, access_token: token };
  };
  const double = await startHttpDouble(({ url, headers, body }) => {
    if (url.pathname === '/identity') {
      const isRight = headers['x-identity-header'] === identityHeader && url.searchParams.has('resource');
      return isRight ? { status: 200, body: grant() } : { status: 400, body: { error: 'invalid_request' } };
    }
    if (url.pathname === '/tenant/oauth2/v2.0/token') {
      const form = new URLSearchParams(body.toString());
      const proof = form.get('client_secret') === clientSecret || form.get('client_assertion') === assertion;
      const isRight =
        form.get('grant_type') === 'client_credentials' && form.get('client_id') === 'client' && proof;
      if (isRight && form.get('scope') === 'https://vault.azure.net/.default')
        return { status: 200, body: grant() };
      return { status: 401, body: { error: 'invalid_client', error_description: 'AADSTS7000215' } };
    }
    if (!tokens.has(String(headers['authorization']).replace('Bearer ', '')))
      return { status: 401, body: { error: { code: 'Unauthorized' } } };
    const stored = secrets.get(decodeURIComponent(url.pathname.replace('/secrets/', '')));
    if (!stored || !url.searchParams.has('api-version'))
      return { status: 404, body: { error: { code: 'SecretNotFound' } } };
    const attributes = { enabled: true, ...(stored.exp === undefined ? {} : { exp: stored.exp }) };
    return { status: 200, body: { value: stored.value, id: url.href, attributes } };
  });
  return Object.assign(double, {
    secrets,
    clientSecret,
    assertion,
    identityHeader,
    revokeTokens: () => tokens.clear(),
  });
}
