import { type HttpDouble, startHttpDouble } from './http-double.ts';

/** An endpoint for the AWS SDK: Secrets Manager's `GetSecretValue` in AWS JSON 1.1, as far as an adapter sees it. */
export interface AwsEndpoint extends HttpDouble {
  readonly secrets: Map<string, string | Buffer>;
}

export async function startAwsEndpoint(accessKeyId: string): Promise<AwsEndpoint> {
  const secrets = new Map<string, string | Buffer>();
  const double = await startHttpDouble((request) => {
    const headers = { 'content-type': 'application/x-amz-json-1.1' };
    const refuse = (
      status: number,
      type: string,
    ): { status: number; headers: typeof headers; body: string } => ({
      status,
      headers,
      body: JSON.stringify({ __type: type, Message: type }),
    });
    const authorization = String(request.headers['authorization'] ?? '');
    const credential = `AWS4-HMAC-SHA256 Credential=${accessKeyId}/`;
    if (!authorization.startsWith(credential)) return refuse(400, 'UnrecognizedClientException');
    if (request.headers['x-amz-target'] !== 'secretsmanager.GetSecretValue')
      return refuse(400, 'InvalidAction');
    const { SecretId } = JSON.parse(request.body.toString()) as { SecretId: string };
    const stored = secrets.get(SecretId);
    if (stored === undefined) return refuse(400, 'ResourceNotFoundException');
    const value =
      typeof stored === 'string' ? { SecretString: stored } : { SecretBinary: stored.toString('base64') };
    return { status: 200, headers, body: JSON.stringify({ Name: SecretId, VersionId: 'v1', ...value }) };
  });
  return Object.assign(double, { secrets });
}
