import { createHash, createHmac } from 'node:crypto';

/** How long RDS takes a token for a new connection. A connection that is open stays open. */
export const RDS_TOKEN_SECONDS = 15 * 60;

export interface RdsTokenRequest {
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly region: string;
  readonly credentials: {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string | undefined;
  };
  readonly at: Date;
}

/**
 * The token that RDS takes as a password under IAM database authentication: a presigned `connect` request without its
 * scheme, signed for the service `rds-db` by AWS Signature Version 4.
 *
 * Source: AWS, "Signing AWS requests with query parameters", and "Connecting to your DB instance using IAM
 * authentication".
 */
export function presignRdsToken(request: RdsTokenRequest): string {
  const { host, port, username, region, credentials, at } = request;
  const time = at.toISOString().replaceAll(/[-:]|\.\d{3}/g, '');
  const day = time.slice(0, 8);
  const scope = `${day}/${region}/rds-db/aws4_request`;
  const parameters: [string, string][] = [
    ['Action', 'connect'],
    ['DBUser', username],
    ['X-Amz-Algorithm', 'AWS4-HMAC-SHA256'],
    ['X-Amz-Credential', `${credentials.accessKeyId}/${scope}`],
    ['X-Amz-Date', time],
    ['X-Amz-Expires', String(RDS_TOKEN_SECONDS)],
    ['X-Amz-SignedHeaders', 'host'],
  ];
  if (credentials.sessionToken !== undefined)
    parameters.push(['X-Amz-Security-Token', credentials.sessionToken]);
  const query = parameters
    .map(([name, value]): [string, string] => [encode(name), encode(value)])
    .sort(([left], [right]) => (left < right ? -1 : 1))
    .map(([name, value]) => `${name}=${value}`)
    .join('&');
  const canonical = ['GET', '/', query, `host:${host}:${port}`, '', 'host', sha256('')].join('\n');
  const toSign = ['AWS4-HMAC-SHA256', time, scope, sha256(canonical)].join('\n');
  let key: Buffer | string = `AWS4${credentials.secretAccessKey}`;
  for (const part of [day, region, 'rds-db', 'aws4_request']) key = hmac(key, part);
  return `${host}:${port}/?${query}&X-Amz-Signature=${hmac(key, toSign).toString('hex')}`;
}

/** RFC 3986: everything but unreserved characters is escaped. */
function encode(text: string): string {
  return encodeURIComponent(text).replaceAll(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function hmac(key: Buffer | string, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}
