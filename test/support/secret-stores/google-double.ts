import { generateKeyPairSync, randomBytes, verify } from 'node:crypto';
import { type HttpDouble, startHttpDouble } from './http-double.ts';

/**
 * A double of what an adapter sees of Google Cloud, written from its documentation: Secret Manager's `access`, the token
 * endpoint for service accounts (RFC 7523) and the metadata server.
 */
export interface GoogleDouble extends HttpDouble {
  /** By `NAME/versions/VERSION`. */
  readonly secrets: Map<string, string>;
  /** The key file of a service account. */
  readonly keyFile: string;
}

export async function startGoogleDouble(project: string): Promise<GoogleDouble> {
  const secrets = new Map<string, string>();
  const tokens = new Set<string>();
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const grant = (): object => {
    const token = randomBytes(16).toString('hex');
    tokens.add(token);
    return { token_type: 'Bearer', expires_in: 3599, access_token: token };
  };
  const double = await startHttpDouble(({ url, headers, body }) => {
    if (url.pathname === '/computeMetadata/v1/instance/service-accounts/default/token')
      return headers['metadata-flavor'] === 'Google'
        ? { status: 200, body: grant() }
        : { status: 403, body: 'Missing' };
    if (url.pathname === '/token') {
      const assertion = new URLSearchParams(body.toString()).get('assertion') ?? '';
      const [head, claims, signature] = assertion.split('.') as [string, string, string];
      const isSigned = verify(
        'RSA-SHA256',
        Buffer.from(`${head}.${claims}`),
        publicKey,
        Buffer.from(signature ?? '', 'base64url'),
      );
      const { aud, exp } = JSON.parse(Buffer.from(claims ?? '', 'base64url').toString()) as {
        aud: string;
        exp: number;
      };
      if (isSigned && aud === `${double.url}/token` && exp * 1000 > Date.now())
        return { status: 200, body: grant() };
      return { status: 400, body: { error: 'invalid_grant' } };
    }
    if (!tokens.has(String(headers['authorization']).replace('Bearer ', '')))
      return { status: 401, body: { error: { code: 401, status: 'UNAUTHENTICATED' } } };
    const name = decodeURIComponent(url.pathname).replace(`/v1/projects/${project}/secrets/`, '');
    const stored = secrets.get(name.replace(':access', ''));
    if (stored === undefined || !name.endsWith(':access'))
      return { status: 404, body: { error: { code: 404, status: 'NOT_FOUND' } } };
    return { status: 200, body: { name, payload: { data: Buffer.from(stored).toString('base64') } } };
  });
  const key = {
    type: 'service_account',
    project_id: project,
    private_key_id: 'k1',
    private_key: privateKey.export({ type: 'pkcs8', format: 'pem' }),
    client_email: 'sallyport@test.iam.gserviceaccount.com',
    token_uri: `${double.url}/token`,
  };
  return Object.assign(double, { secrets, keyFile: JSON.stringify(key) });
}
