import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import type { Socket } from 'node:net';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { failure } from '../http/contract/api.ts';
import { Cookies } from '../tunnel/cookies.ts';
import { dial } from '../tunnel/dial.ts';

/** An answer of the gateway may take this long. Ours. */
const ANSWER_MS_MAX = 30_000;
/** An answer is no larger than this. Ours. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

/** Lets the login go over plain HTTP to another machine. */
const ALLOW_HTTP_VARIABLE = 'SALLYPORT_ALLOW_HTTP';

const OPERATOR_TOKEN_FILE = 'operator.token';
const API_ADDRESS_FILE = 'api.url';

const loginSchema = z.object({
  gateway: z.string(),
  token: z.string(),
  principal: z.string(),
  expires_at: z.string(),
  ca: z.string().optional(),
  /** Of a balancer before several gateways: the login is known to the one that it leads to. */
  cookies: z.string().optional(),
});

/** A login as it is kept on the person's machine. */
export type SavedLogin = z.output<typeof loginSchema>;

/** `credentials.json` in the place where the operating system keeps such things. */
export function loginPath(): string {
  if (process.env['SALLYPORT_HOME']) return join(process.env['SALLYPORT_HOME'], 'credentials.json');
  const home = homedir();
  const folder =
    process.platform === 'win32'
      ? (process.env['APPDATA'] ?? join(home, 'AppData', 'Roaming'))
      : process.platform === 'darwin'
        ? join(home, 'Library', 'Application Support')
        : (process.env['XDG_CONFIG_HOME'] ?? join(home, '.config'));
  return join(folder, 'sallyport', 'credentials.json');
}

/** The saved login; null where there is none, or it has run out. */
export function readLogin(): SavedLogin | null {
  const path = loginPath();
  if (!existsSync(path)) return null;
  const parsed = loginSchema.safeParse(parseJson(readFileSync(path, 'utf8')));
  if (!parsed.success) throw new Error(`${path} is damaged; log in again: sallyport login`);
  return Date.parse(parsed.data.expires_at) > Date.now() ? parsed.data : null;
}

export function saveLogin(login: SavedLogin): void {
  const path = loginPath();
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(`${path}.new`, `${JSON.stringify(login, null, 2)}\n`, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

export function forgetLogin(): void {
  rmSync(loginPath(), { force: true });
}

/** What the gateway said no to, in its own words. */
export class GatewayError extends Error {
  readonly status: number;
  readonly hint: string | null;

  constructor(status: number, message: string, hint: string | null) {
    super(hint === null ? message : `${message}\n${hint}`);
    this.name = 'GatewayError';
    this.status = status;
    this.hint = hint;
  }
}

export interface ClientOptions {
  /** Base URL: `https://gateway.example:7070`. */
  readonly gateway: string;
  readonly token: string | null;
  /** PEM file of the authorities to trust for the gateway. */
  readonly ca?: string | undefined;
  /** What a balancer has set before. */
  readonly cookies?: string | undefined;
}

/** Calls the gateway's API. */
export class GatewayClient {
  /** What a balancer between several gateways wants back. */
  readonly cookies: Cookies;
  readonly #options: ClientOptions;

  constructor(options: ClientOptions) {
    this.#options = options;
    this.cookies = new Cookies(options.cookies);
  }

  get gateway(): string {
    return this.#options.gateway;
  }

  get token(): string | null {
    return this.#options.token;
  }

  get ca(): string | undefined {
    return this.#options.ca;
  }

  /**
   * A connection to the gateway: verified, and through the proxy that the environment names. Rejects with a `DialError`, and
   * where the way would be in clear.
   */
  async dial(): Promise<Socket> {
    const { gateway, ca } = this.#options;
    const url = new URL(gateway);
    if (url.protocol === 'http:' && !isThisMachine(url.hostname) && !process.env[ALLOW_HTTP_VARIABLE])
      throw new Error(
        `${gateway} would be sent your login in clear; use https://, or set ${ALLOW_HTTP_VARIABLE}=1 where something else encrypts the way`,
      );
    return dial(url, {
      ca: ca === undefined ? null : readFileSync(ca, 'utf8'),
      environment: process.env,
    });
  }

  get<T>(path: string, schema: z.ZodType<T>): Promise<T> {
    return this.#call('GET', path, undefined, schema);
  }

  post<T>(path: string, body: unknown, schema: z.ZodType<T>): Promise<T> {
    return this.#call('POST', path, body, schema);
  }

  async delete(path: string): Promise<void> {
    await this.#call('DELETE', path, undefined, z.unknown());
  }

  async #call<T>(method: string, path: string, body: unknown, schema: z.ZodType<T>): Promise<T> {
    const { status, text } = await this.#request(method, `/api/v1${path}`, body);
    const json = text === '' ? null : parseJson(text);
    if (status >= 400) {
      const said = failure.safeParse(json);
      if (status === 401 && this.#options.token !== null)
        throw new GatewayError(status, 'your login has ended', 'Log in again: sallyport login');
      if (said.success) throw new GatewayError(status, said.data.message, said.data.hint ?? null);
      throw new GatewayError(status, `the gateway answered ${status}`, null);
    }
    const parsed = schema.safeParse(json);
    if (!parsed.success)
      throw new GatewayError(
        status,
        `what answers at ${this.#options.gateway} is not this version of Sallyport`,
        null,
      );
    return parsed.data;
  }

  async #request(method: string, path: string, body: unknown): Promise<{ status: number; text: string }> {
    const { gateway, token } = this.#options;
    const isSocket = gateway.startsWith('unix:');
    const url = isSocket ? new URL(`http://localhost${path}`) : new URL(path, gateway);
    const payload = body === undefined ? null : Buffer.from(JSON.stringify(body));
    const request = url.protocol === 'https:' ? requestHttps : requestHttp;
    const connection = await this.dial();
    return new Promise((resolve, reject) => {
      const outgoing = request(
        url,
        {
          method,
          createConnection: () => connection,
          headers: {
            accept: 'application/json',
            ...this.cookies.headers(),
            ...(token === null ? {} : { authorization: `Bearer ${token}` }),
            ...(payload === null
              ? {}
              : { 'content-type': 'application/json', 'content-length': payload.length }),
          },
        },
        (incoming) => {
          this.cookies.take(incoming.headers['set-cookie']);
          const chunks: Buffer[] = [];
          let bytes = 0;
          incoming.on('data', (chunk: Buffer) => {
            bytes += chunk.length;
            if (bytes > ANSWER_BYTES_MAX) outgoing.destroy(new Error('the answer is too large'));
            else chunks.push(chunk);
          });
          incoming.on('end', () =>
            resolve({ status: incoming.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') }),
          );
          incoming.on('error', reject);
        },
      );
      outgoing.setTimeout(ANSWER_MS_MAX, () => outgoing.destroy(new Error('no answer in time')));
      outgoing.on('error', (cause) =>
        reject(new Error(`${gateway} cannot be reached: ${cause.message}`, { cause })),
      );
      outgoing.end(payload ?? undefined);
    });
  }
}

export interface GatewayOptions {
  readonly gateway?: string | undefined;
  /** Commands on the gateway's own machine: its data directory, whose token lets them in as operator. */
  readonly dataDir?: string | undefined;
}

/** The gateway that a command talks to: as operator with `dataDir`, else by the saved login. Throws with what to do. */
export function gatewayClient(options: GatewayOptions): GatewayClient {
  const { dataDir } = options;
  if (dataDir !== undefined) {
    const read = (name: string): string => {
      try {
        return readFileSync(join(dataDir, name), 'utf8').trim();
      } catch (cause) {
        throw new Error(`${join(dataDir, name)} cannot be read; does the gateway run, and is it yours?`, {
          cause,
        });
      }
    };
    return new GatewayClient({ gateway: read(API_ADDRESS_FILE), token: read(OPERATOR_TOKEN_FILE) });
  }
  const login = readLogin();
  if (login === null || (options.gateway !== undefined && options.gateway !== login.gateway))
    throw new Error(`log in first: sallyport login ${options.gateway ?? 'https://GATEWAY:7070'}`);
  return new GatewayClient({
    gateway: login.gateway,
    token: login.token,
    ca: login.ca,
    cookies: login.cookies,
  });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function isThisMachine(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || /^127\./.test(hostname);
}
