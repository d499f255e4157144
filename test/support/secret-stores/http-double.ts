import { createServer as createPlain, type IncomingMessage } from 'node:http';
import { createServer as createTls } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';

export interface DoubleRequest {
  readonly method: string;
  readonly url: URL;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

export interface DoubleAnswer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** An object is sent as JSON. */
  readonly body?: object | string | Buffer;
}

/** An HTTP server that stands for a secret store in tests, with the faults of real ones on demand. */
export interface HttpDouble {
  readonly port: number;
  readonly url: string;
  readonly requests: DoubleRequest[];
  /** `stall`: takes requests and never answers; `garbage`: answers 200 with this text instead of its own answer. */
  fault: 'none' | 'stall' | { readonly garbage: string } | { readonly status: number };
  close(): Promise<void>;
}

export async function startHttpDouble(
  answer: (request: DoubleRequest) => DoubleAnswer | Promise<DoubleAnswer>,
  tls?: { readonly cert: string; readonly key: string },
): Promise<HttpDouble> {
  const requests: DoubleRequest[] = [];
  const sockets = new Set<Socket>();
  const handle = async (incoming: IncomingMessage): Promise<DoubleAnswer | null> => {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const request = {
      method: incoming.method ?? '',
      url: new URL(incoming.url ?? '/', double.url),
      headers: incoming.headers,
      body: Buffer.concat(chunks),
    };
    requests.push(request);
    const { fault } = double;
    if (fault === 'stall') return null;
    if (fault !== 'none')
      return 'status' in fault ? { status: fault.status, body: {} } : { status: 200, body: fault.garbage };
    return answer(request);
  };
  const listener = (incoming: IncomingMessage, outgoing: import('node:http').ServerResponse): void => {
    void handle(incoming).then((reply) => {
      if (reply === null) return;
      const { body = '' } = reply;
      const isJson = typeof body === 'object' && !Buffer.isBuffer(body);
      outgoing.writeHead(reply.status, {
        ...(isJson ? { 'content-type': 'application/json' } : {}),
        ...reply.headers,
      });
      outgoing.end(isJson ? JSON.stringify(body) : body);
    });
  };
  const server = tls ? createTls(tls, listener) : createPlain(listener);
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const double: HttpDouble = {
    port,
    url: `${tls ? 'https' : 'http'}://127.0.0.1:${port}`,
    requests,
    fault: 'none',
    close: async () => {
      for (const socket of sockets) socket.destroy();
      if (server.listening) await new Promise((resolve) => server.close(resolve));
    },
  };
  return double;
}
