import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { WebSocket } from 'ws';
import type { Cookies } from './cookies.ts';
import { DialError } from './dial.ts';
import { ANSWER_BYTES_MAX, CONTROL_BYTES_MAX, DIAL_MS_MAX, MESSAGE_BYTES_MAX } from './limits.ts';
import { parseMessage, refusalBody, SUBPROTOCOL, TUNNEL_PATH, type TunnelRole } from './messages.ts';

/** What every WebSocket of a tunnel is opened with. */
export interface LinkOptions {
  readonly gateway: URL;
  readonly dial: (url: URL) => Promise<Socket>;
  /** The person's login, asked for each time: they may have logged in again. Null where there is none. */
  readonly token: () => string | null;
  readonly launch: string;
  readonly cookies: Cookies;
}

/** Why a WebSocket could not be opened. `status` is HTTP's where the gateway answered; else null. */
export class LinkError extends Error {
  readonly code: string;
  readonly status: number | null;
  readonly hint: string | null;

  constructor(message: string, code: string, status: number | null, hint: string | null, cause?: unknown) {
    super(message, { cause });
    this.name = 'LinkError';
    this.code = code;
    this.status = status;
    this.hint = hint;
  }

  /** There is no use in trying again: the gateway has understood and said no. */
  get isFinal(): boolean {
    return (
      this.code === 'launch_ended' ||
      this.code === 'launch_unknown' ||
      this.code === 'resource_unknown' ||
      this.code === 'version_unknown'
    );
  }
}

/**
 * Opens one WebSocket of a tunnel. It comes paused: the gateway's first message may have come with its answer, and must not
 * pass before somebody listens. Rejects with a `LinkError`.
 */
export async function openLink(options: LinkOptions, role: TunnelRole): Promise<WebSocket> {
  const { gateway, launch, cookies } = options;
  const token = options.token();
  if (token === null) throw loginRequired();
  const connection = await options.dial(gateway).catch((error: unknown) => {
    if (error instanceof DialError) throw new LinkError(error.message, error.code, null, null, error);
    throw error;
  });
  const isSecure = gateway.protocol === 'https:';
  const host = gateway.protocol === 'unix:' ? 'localhost' : gateway.host;
  const socket = new WebSocket(
    `${isSecure ? 'wss' : 'ws'}://${host}/${TUNNEL_PATH}?launch=${encodeURIComponent(launch)}&role=${role}`,
    SUBPROTOCOL,
    {
      createConnection: () => connection,
      handshakeTimeout: DIAL_MS_MAX,
      perMessageDeflate: false,
      maxPayload: role === 'control' ? CONTROL_BYTES_MAX : MESSAGE_BYTES_MAX,
      headers: { authorization: `Bearer ${token}`, ...cookies.headers() },
    },
  );
  return new Promise((resolve, reject) => {
    const failed = (cause: Error): void => {
      socket.on('error', () => {});
      connection.destroy();
      reject(
        cause instanceof LinkError
          ? cause
          : new LinkError(
              `${host} did not take the tunnel: ${cause.message}`,
              'unreachable',
              null,
              null,
              cause,
            ),
      );
    };
    socket.once('error', failed);
    socket.on('upgrade', (response) => cookies.take(response.headers['set-cookie']));
    socket.once('unexpected-response', (_request, response) => {
      cookies.take(response.headers['set-cookie']);
      void refusalOf(response, host).then(failed);
    });
    socket.once('open', () => {
      socket.off('error', failed);
      socket.pause();
      resolve(socket);
    });
  });
}

function loginRequired(): LinkError {
  return new LinkError('your login has ended', 'login_required', 401, 'Log in again: sallyport login');
}

async function refusalOf(response: IncomingMessage, host: string): Promise<LinkError> {
  const status = response.statusCode ?? 0;
  let text = '';
  try {
    for await (const chunk of response) {
      text += String(chunk);
      if (text.length > ANSWER_BYTES_MAX) break;
    }
  } catch {
    // What was read has to do.
  }
  const said = parseMessage(refusalBody, text);
  if (said !== null) return new LinkError(said.message, said.error, status, said.hint ?? null);
  if (status === 401) return loginRequired();
  return new LinkError(
    `${host} answered ${status} where a tunnel was asked for`,
    'not_a_gateway',
    status,
    'Is this the address of a Sallyport gateway, and does what stands before it pass WebSockets on?',
  );
}
