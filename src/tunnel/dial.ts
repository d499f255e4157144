import { connect, isIP, type Socket } from 'node:net';
import * as tls from 'node:tls';
import { ANSWER_BYTES_MAX, DIAL_MS_MAX } from './limits.ts';
import { proxyFor } from './proxy.ts';

export interface DialOptions {
  /** PEM of the authorities to trust for the gateway; null: those of Node (`NODE_EXTRA_CA_CERTS` and `--use-system-ca` add theirs). */
  readonly ca: string | null;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly timeoutMs?: number;
}

/** Why the gateway could not be reached. `code` is Node's where there is one. */
export class DialError extends Error {
  readonly code: string;

  constructor(message: string, code: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.name = 'DialError';
    this.code = code;
  }
}

/**
 * Connects to `url` (`http:`, `https:`, or `unix:` with a path), through the proxy that the environment names, with the
 * certificate verified. The socket has no bytes read from it and has had none written. Rejects with a `DialError`.
 */
export async function dial(url: URL, options: DialOptions): Promise<Socket> {
  const opened: Socket[] = [];
  const keep = <T extends Socket>(socket: T): T => {
    opened.push(socket);
    return socket;
  };
  let timer: NodeJS.Timeout | undefined;
  const timeoutMs = options.timeoutMs ?? DIAL_MS_MAX;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new DialError(`${place(url)} did not answer within ${timeoutMs / 1000} s`, 'ETIMEDOUT')),
      timeoutMs,
    );
  });
  try {
    return await Promise.race([reach(url, options, keep), late]);
  } catch (error) {
    for (const socket of opened) socket.on('error', () => {}).destroy();
    if (error instanceof DialError) throw error;
    throw new DialError((error as Error).message, 'proxy_invalid', { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

type Keep = <T extends Socket>(socket: T) => T;

async function reach(url: URL, { ca, environment }: DialOptions, keep: Keep): Promise<Socket> {
  if (url.protocol === 'unix:') return connected(keep(connect({ path: url.pathname })), url.pathname);
  const host = bare(url.hostname);
  const isSecure = url.protocol === 'https:';
  const port = Number(url.port || (isSecure ? 443 : 80));
  const proxy = proxyFor(url, environment);
  const socket =
    proxy === null ? await direct(host, port, keep) : await throughProxy(proxy, host, port, keep);
  return isSecure ? secured(socket, host, ca, `${host}:${port}`, keep) : socket;
}

function direct(host: string, port: number, keep: Keep): Promise<Socket> {
  return connected(keep(connect({ host, port, noDelay: true, keepAlive: true })), `${host}:${port}`);
}

async function connected(socket: Socket, name: string): Promise<Socket> {
  await settled(socket, 'connect', (error) => reachError(error, name));
  return socket;
}

async function secured(
  socket: Socket,
  host: string,
  ca: string | null,
  name: string,
  keep: Keep,
): Promise<Socket> {
  const secure = keep(
    tls.connect({
      socket,
      host,
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ALPNProtocols: ['http/1.1'],
      ...(ca === null ? {} : { ca }),
    }),
  );
  await settled(secure, 'secureConnect', (error) => tlsError(error, name));
  return secure;
}

/** Asks an HTTP proxy for a way to `host` (RFC 9110, section 9.3.6). */
async function throughProxy(proxy: URL, host: string, port: number, keep: Keep): Promise<Socket> {
  const proxyHost = bare(proxy.hostname);
  const isSecure = proxy.protocol === 'https:';
  const proxyPort = Number(proxy.port || (isSecure ? 443 : 80));
  const name = `the proxy ${proxyHost}:${proxyPort}`;
  const plain = await connected(keep(connect({ host: proxyHost, port: proxyPort, noDelay: true })), name);
  const socket = isSecure ? await secured(plain, proxyHost, null, name, keep) : plain;
  const target = `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
  const user = decodeURIComponent(proxy.username);
  const login =
    user === ''
      ? ''
      : `Proxy-Authorization: Basic ${Buffer.from(`${user}:${decodeURIComponent(proxy.password)}`).toString('base64')}\r\n`;
  socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n${login}\r\n`);
  const head = await readHead(socket, name);
  const status = /^HTTP\/1\.[01] (\d{3})/.exec(head)?.[1];
  if (status === undefined) throw new DialError(`${name} is no HTTP proxy`, 'proxy_invalid');
  if (status.startsWith('2')) return socket;
  const why =
    status === '407'
      ? 'asks for a login; write it into the variable: http://USER:PASSWORD@HOST:PORT'
      : `does not lead to ${target}: it answered ${status}`;
  throw new DialError(`${name} ${why}`, 'proxy_refused');
}

/** The head of an answer, and not a byte more: what follows belongs to the gateway. */
function readHead(socket: Socket, name: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let head = Buffer.alloc(0);
    const finish = (outcome: () => void): void => {
      socket.off('readable', read);
      socket.off('error', failed);
      socket.off('end', ended);
      outcome();
    };
    const failed = (error: Error): void => finish(() => reject(reachError(error, name)));
    const ended = (): void =>
      finish(() => reject(new DialError(`${name} closed the connection`, 'proxy_refused')));
    const read = (): void => {
      for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) {
        head = Buffer.concat([head, chunk as Buffer]);
        const end = head.indexOf('\r\n\r\n');
        if (end >= 0) {
          const rest = head.subarray(end + 4);
          finish(() => resolve(head.subarray(0, end).toString('latin1')));
          if (rest.length > 0) socket.unshift(rest);
          return;
        }
        if (head.length > ANSWER_BYTES_MAX) {
          failed(new Error('its answer is too long'));
          return;
        }
      }
    };
    socket.on('readable', read);
    socket.on('error', failed);
    socket.on('end', ended);
    read();
  });
}

/** Waits for `event`; an error before it, or the end of the connection, rejects with what `explain` makes of it. */
function settled(
  socket: Socket,
  event: 'connect' | 'secureConnect',
  explain: (error: Error) => DialError,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const finish = (outcome: () => void): void => {
      socket.off(event, done);
      socket.off('error', failed);
      socket.off('close', closed);
      outcome();
    };
    const done = (): void => finish(resolve);
    const failed = (error: Error): void => finish(() => reject(explain(error)));
    const closed = (): void => finish(() => reject(explain(new Error('the connection was closed'))));
    socket.on(event, done);
    socket.on('error', failed);
    socket.on('close', closed);
  });
}

function reachError(error: Error, name: string): DialError {
  const code = (error as NodeJS.ErrnoException).code ?? 'unreachable';
  const why: Readonly<Record<string, string>> = {
    ECONNREFUSED: 'nothing listens there',
    ENOTFOUND: 'there is no such host',
    EAI_AGAIN: 'its name could not be looked up',
    ETIMEDOUT: 'no answer',
    ENOENT: 'there is no such socket',
    EHOSTUNREACH: 'there is no way there',
    ENETUNREACH: 'there is no way there',
  };
  return new DialError(`${name} cannot be reached: ${why[code] ?? error.message}`, code, { cause: error });
}

function tlsError(error: Error, name: string): DialError {
  const code = (error as NodeJS.ErrnoException).code ?? 'tls_failed';
  const isUntrusted = /CERT|SIGNATURE|ISSUER|ALTNAME/i.test(code);
  const hint = isUntrusted
    ? '; nothing was sent. If an authority of your own issued it, log in with --ca FILE'
    : '';
  return new DialError(
    isUntrusted
      ? `the certificate of ${name} is not trusted: ${error.message}${hint}`
      : `TLS with ${name} failed: ${error.message}`,
    code,
    { cause: error },
  );
}

function bare(hostname: string): string {
  return hostname.replace(/^\[|\]$/g, '');
}

function place(url: URL): string {
  return url.protocol === 'unix:' ? url.pathname : url.host;
}
