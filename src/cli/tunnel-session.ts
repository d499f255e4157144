import { isAbsolute, join, resolve as resolvePath } from 'node:path';
import { launchAnswer } from '../http/contract/api.ts';
import { Tunnel } from '../tunnel/client.ts';
import { LinkError } from '../tunnel/link.ts';
import type { LocalWish } from '../tunnel/local-listener.ts';
import { type GatewayClient, gatewayClient, readLogin } from './gateway-client.ts';
import { refuseLocally } from './local-refusal.ts';
import { parseDuration } from './tokens.ts';
import { type Connection, placeText } from './tunnel-lines.ts';
import { enterTunnel, type RunningTunnel } from './tunnel-registry.ts';

/** A gateway that is away for less than this is not worth a line. */
const LOST_MS_MIN = 3_000;
/** The same line is not said again for this long. */
const REPEAT_MS_MIN = 10_000;

export interface TunnelCommandOptions {
  readonly gateway?: string;
  readonly port?: number;
  readonly socket?: string;
  readonly requireToken?: boolean;
  readonly anyUser?: boolean;
  readonly ttl?: string;
  readonly reason?: string;
}

/** An open tunnel of this process, with all that its commands need. */
export interface TunnelSession {
  readonly tunnel: Tunnel;
  readonly connection: Connection;
  readonly name: string;
  /** Resolves with why, when the tunnel ends by itself. */
  readonly ended: Promise<string>;
  close(): Promise<void>;
}

/** Makes a launch and opens a tunnel for it. Rejects with an error that says what to do. */
export async function openSession(
  resource: string,
  options: TunnelCommandOptions,
  mode: RunningTunnel['mode'],
): Promise<TunnelSession> {
  const client = gatewayClient({ gateway: options.gateway });
  const launch = await client.post(
    '/launches',
    {
      resource,
      token: options.requireToken === true,
      ...(options.ttl === undefined ? {} : { ttl_seconds: Math.round(parseDuration(options.ttl) / 1000) }),
      ...(options.reason === undefined ? {} : { reason: options.reason }),
    },
    launchAnswer,
  );
  const said = new Sayings();
  let end: (why: string) => void = () => {};
  const ended = new Promise<string>((resolve) => {
    end = resolve;
  });
  let tunnel: Tunnel;
  try {
    tunnel = await Tunnel.open({
      gateway: new URL(client.gateway),
      dial: () => client.dial(),
      token: () => tokenOf(client),
      launch: launch.id,
      cookies: client.cookies,
      wish: wishOf(resource, client.gateway, options),
      ownOnly: options.anyUser !== true,
      refuse: refuseLocally,
      events: {
        lost: (why) => said.lost(why),
        back: () => said.back(),
        draining: () => said.say('the gateway is shutting down; sessions will be ended'),
        refusedLocally: (uid) =>
          said.say(
            `refused a connection of another user of this machine${uid === null ? '' : ` (uid ${uid})`}`,
          ),
        failed: (why) => said.say(`a connection could not be carried: ${why}`),
        ended: (why) => end(why),
      },
    });
  } catch (error) {
    await client.delete(`/launches/${launch.id}`).catch(() => {});
    if (error instanceof LinkError && error.hint !== null) throw new Error(`${error.message}\n${error.hint}`);
    throw error;
  }
  if (tunnel.hello.resource_type === 'sqlserver' && tunnel.place.kind === 'unix') {
    await tunnel.close();
    throw new Error('SQL Server clients know no Unix sockets; leave --socket out');
  }
  const connection: Connection = { hello: tunnel.hello, place: tunnel.place, token: launch.token };
  const { name, leave } = enterTunnel({
    resource,
    gateway: client.gateway,
    address: placeText(tunnel.place),
    principal: launch.principal,
    expires_at: launch.expires_at,
    mode,
  });
  if (!tunnel.ownOnly && options.requireToken !== true)
    said.say(
      'everybody who is signed in to this machine can use this port while the tunnel is open; --socket PATH or --require-token keeps them out',
    );
  return {
    tunnel,
    connection,
    name,
    ended,
    close: async () => {
      said.stop();
      leave();
      await tunnel.close();
    },
  };
}

/** The login of now: the person may have logged in again since. */
function tokenOf(client: GatewayClient): string | null {
  const login = readLogin();
  return login !== null && login.gateway === client.gateway ? login.token : null;
}

function wishOf(resource: string, gateway: string, options: TunnelCommandOptions): LocalWish {
  if (options.socket !== undefined) {
    if (options.port !== undefined) throw new Error('give --port or --socket, not both');
    if (process.platform === 'win32') throw new Error('--socket is for systems with Unix sockets');
    // A folder stands for the name that PostgreSQL's clients look for in it.
    const path = options.socket.endsWith('/') ? join(options.socket, '.s.PGSQL.5432') : options.socket;
    return { kind: 'unix', path: isAbsolute(path) ? path : resolvePath(path) };
  }
  if (options.port !== undefined) return { kind: 'port', port: options.port };
  return { kind: 'any', stable: `${gateway} ${resource}` };
}

/** What happens while a tunnel is open, said on standard error: once, and only when it lasts. */
class Sayings {
  readonly #last = new Map<string, number>();
  #timer: NodeJS.Timeout | null = null;
  #isLost = false;

  say(text: string): void {
    const now = Date.now();
    if (now - (this.#last.get(text) ?? 0) < REPEAT_MS_MIN) return;
    if (this.#last.size > 100) this.#last.clear();
    this.#last.set(text, now);
    process.stderr.write(`sallyport: ${text}\n`);
  }

  lost(why: string): void {
    if (this.#isLost) this.say(why);
    this.#timer ??= setTimeout(() => {
      this.#isLost = true;
      this.say(`${why}; trying to come back`);
    }, LOST_MS_MIN);
    this.#timer.unref();
  }

  back(): void {
    this.stop();
    if (this.#isLost) this.say('the gateway is back');
    this.#isLost = false;
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
