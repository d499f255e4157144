import { type IncomingHttpHeaders, Agent as PlainAgent, request as plainRequest } from 'node:http';
import { Agent as TlsAgent, request as tlsRequest } from 'node:https';
import { ANSWER_BYTES_MAX } from './limits.ts';
import { SecretError, type SecretErrorCode } from './provider.ts';

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'PUT';
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  /** Zeroed by nobody: it is text that was made for this request. */
  readonly body?: string | Uint8Array;
}

export interface HttpResponse {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

interface Agents {
  readonly plain: PlainAgent;
  readonly tls: TlsAgent;
}

const LOOPBACK = /^(?:localhost|127\.[\d.]+|\[::1\])$/;

/** Connections kept open between fetches, each for at most this long. */
const KEEP_ALIVE_MS = 30_000;

/**
 * HTTP for provider adapters: bounded answers, errors that say what is wrong with the network or the certificate, and
 * the proxy settings of the environment (HTTPS_PROXY, NO_PROXY). Redirects are not followed.
 */
export class HttpClient {
  readonly #provider: string;
  readonly #direct: Agents;
  readonly #proxied: Agents;

  /** `ca`: authorities to trust instead of those of Node (PEM). `direct`: never through a proxy. */
  constructor(provider: string, options: { readonly ca?: Buffer | null; readonly direct?: boolean } = {}) {
    this.#provider = provider;
    const ca = options.ca ? { ca: options.ca } : {};
    const shared = { keepAlive: true, timeout: KEEP_ALIVE_MS };
    const proxied = { ...shared, proxyEnv: process.env };
    this.#direct = { plain: new PlainAgent(shared), tls: new TlsAgent({ ...shared, ...ca }) };
    this.#proxied =
      options.direct === true
        ? this.#direct
        : { plain: new PlainAgent(proxied), tls: new TlsAgent({ ...proxied, ...ca }) };
  }

  /** One request and its whole answer, whatever its status. Rejects with a `SecretError` where there is no answer. */
  send(request: HttpRequest, signal: AbortSignal): Promise<HttpResponse> {
    const { method, url, headers, body } = request;
    const isTls = url.protocol === 'https:';
    // What is on this machine is never asked for through a proxy.
    const agents = LOOPBACK.test(url.hostname) ? this.#direct : this.#proxied;
    const options = {
      method,
      signal,
      agent: isTls ? agents.tls : agents.plain,
      headers: {
        accept: 'application/json',
        'user-agent': 'sallyport',
        ...headers,
        ...(body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }),
      },
    };
    return new Promise((resolve, reject) => {
      const failed = (error: NodeJS.ErrnoException): void => reject(this.#failure(url, error));
      const outgoing = (isTls ? tlsRequest : plainRequest)(url, options, (incoming) => {
        const chunks: Buffer[] = [];
        let length = 0;
        incoming.on('error', failed);
        incoming.on('data', (chunk: Buffer) => {
          chunks.push(chunk);
          length += chunk.length;
          if (length <= ANSWER_BYTES_MAX) return;
          incoming.destroy();
          reject(
            new SecretError(
              this.#provider,
              `${url.host} answered with more than ${ANSWER_BYTES_MAX / 1024} KiB`,
              {
                code: 'malformed',
              },
            ),
          );
        });
        incoming.on('end', () => {
          if (!incoming.complete) return;
          resolve({
            status: incoming.statusCode ?? 0,
            headers: incoming.headers,
            body: Buffer.concat(chunks),
          });
        });
      });
      outgoing.on('error', failed);
      outgoing.end(body);
    });
  }

  close(): void {
    for (const { plain, tls } of [this.#direct, this.#proxied]) {
      plain.destroy();
      tls.destroy();
    }
  }

  #failure(url: URL, error: NodeJS.ErrnoException): SecretError {
    const [message, hint, code] = networkFault(error);
    return new SecretError(this.#provider, `${url.host} ${message}`, {
      code,
      ...(hint === null ? {} : { hint }),
      cause: error,
    });
  }
}

/** What a network or certificate fault means for the person who reads it. */
export function networkFault(
  error: NodeJS.ErrnoException,
): [message: string, hint: string | null, code: SecretErrorCode] {
  const { code = '' } = error;
  if (error.name === 'AbortError') return ['did not answer in time', null, 'timeout'];
  if (code === 'ECONNREFUSED')
    return ['cannot be reached: nothing listens there', 'Is it up, and is the port right?', 'unavailable'];
  if (code === 'ENOTFOUND') return ['is not known to the name server', 'Is the name right?', 'unavailable'];
  if (code === 'EAI_AGAIN')
    return ['cannot be resolved: the name server does not answer', null, 'unavailable'];
  if (code === 'CERT_HAS_EXPIRED')
    return ['shows a certificate that has expired', 'It must be renewed there.', 'denied'];
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID')
    return ['shows a certificate of another name', 'Use the name that is in the certificate.', 'denied'];
  if (/SELF_SIGNED|UNABLE_TO_GET_ISSUER|UNABLE_TO_VERIFY/.test(code)) {
    return [
      'shows a certificate of an authority that is not known',
      'Name that authority under "ca" where the provider has it, or in NODE_EXTRA_CA_CERTS.',
      'denied',
    ];
  }
  return [`cannot be reached (${code || error.message})`, null, 'unavailable'];
}

/** An answer's body as a JSON object. Throws a `SecretError` that does not quote it. */
export function jsonBody(provider: string, url: URL, response: HttpResponse): Record<string, unknown> {
  try {
    const parsed: unknown = JSON.parse(response.body.toString('utf8'));
    if (typeof parsed === 'object' && parsed !== null) return parsed as Record<string, unknown>;
  } catch {
    // Said below: the parser's own message quotes what it read.
  }
  throw new SecretError(
    provider,
    `${url.host} answered with something that is not JSON (HTTP ${response.status})`,
    {
      code: response.status >= 500 ? 'unavailable' : 'malformed',
      hint: 'Is the address that of the provider, and is there a proxy or a login page between?',
    },
  );
}

/** A field of an answer that must be text. */
export function textField(provider: string, values: Readonly<Record<string, unknown>>, name: string): string {
  const value = values[name];
  if (typeof value === 'string' && value !== '') return value;
  throw new SecretError(provider, `the answer has no "${name}"`, { code: 'malformed' });
}
