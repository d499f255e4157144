import { chmodSync, existsSync, lstatSync, unlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { Server } from 'node:http';
import { type FastifyInstance, fastify } from 'fastify';
import type { ListenAddress } from '../config/values.ts';
import { PEER_CANCEL_PATH } from '../gateway/peers.ts';
import type { HealthSource } from './health.ts';

/** Bodies of requests are no larger than this: 256 KiB. Ours. */
const BODY_BYTES_MAX = 256 * 1024;
/** A request must be there within this time. Ours. */
const REQUEST_MS_MAX = 30_000;

export interface HttpPorts {
  readonly listen: ListenAddress;
  /** Files of certificate and key (PEM); null: plain HTTP. */
  readonly tls: { readonly cert: string; readonly key: string } | null;
  readonly health: HealthSource;
  readonly metrics: { readonly contentType: string; text(): Promise<string> };
  /** Cancels for another gateway, if it is one: null for what is not signed as peers sign. Null: there are no peers. */
  readonly cancelForPeer: ((body: string, signature: string | undefined) => Promise<boolean | null>) | null;
  /** Adds the routes of the API, where there is one. */
  readonly routes?: (server: FastifyInstance) => Promise<void>;
}

/** Health, metrics and API of one process. */
export interface HttpServer {
  /** The address it was given, for configurations that ask for port 0. */
  readonly address: string;
  readonly url: string;
  /** Node's own server, for those who take over connections (WebSocket upgrades). */
  readonly server: Server;
  close(): Promise<void>;
}

/** Starts listening. Rejects with Node's error when the address cannot be had. */
export async function startHttp(ports: HttpPorts): Promise<HttpServer> {
  const tls =
    ports.tls === null ? null : { cert: await readFile(ports.tls.cert), key: await readFile(ports.tls.key) };
  const server = fastify({
    // Fastify's types take one kind of server at a time; both have the same routes.
    ...(tls === null ? {} : { https: tls as unknown as null }),
    logger: false,
    bodyLimit: BODY_BYTES_MAX,
    requestTimeout: REQUEST_MS_MAX,
    forceCloseConnections: true,
    // What a stranger sent is not repeated in answers.
    frameworkErrors: (_error, _request, reply) => {
      reply.raw.statusCode = 400;
      reply.raw.end('{"error":"bad request"}');
    },
  });
  server.addHook('onSend', async (_request, reply) => {
    reply.header('cache-control', 'no-store');
    reply.header('x-content-type-options', 'nosniff');
  });
  server.get('/livez', async () => ({ status: 'alive' }));
  server.get('/readyz', async (_request, reply) => {
    const { parts } = await ports.health.health();
    const ready = parts.every((part) => part.ready);
    return reply.code(ready ? 200 : 503).send({ status: ready ? 'ready' : 'not ready', parts });
  });
  server.get('/metrics', async (_request, reply) => {
    reply.header('content-type', ports.metrics.contentType);
    return ports.metrics.text();
  });
  const { cancelForPeer } = ports;
  if (cancelForPeer !== null) {
    server.post(PEER_CANCEL_PATH, async (request, reply) => {
      const signature = request.headers['sallyport-signature'];
      const outcome = await cancelForPeer(
        String(request.body),
        typeof signature === 'string' ? signature : undefined,
      );
      if (outcome === null) return reply.code(403).send('not a peer');
      return reply.type('text/plain').send(outcome ? 'cancelled' : 'unknown');
    });
  }
  await ports.routes?.(server);
  const { listen } = ports;
  if (listen.kind === 'unix') {
    if (existsSync(listen.path) && lstatSync(listen.path).isSocket()) unlinkSync(listen.path);
    await server.listen({ path: listen.path });
    chmodSync(listen.path, 0o600);
  } else {
    await server.listen({ host: listen.host, port: listen.port });
  }
  const bound = server.server.address();
  const address =
    typeof bound === 'object' && bound !== null
      ? `${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`
      : String(bound);
  return {
    address,
    url: listen.kind === 'unix' ? `unix:${listen.path}` : `${tls === null ? 'http' : 'https'}://${address}`,
    server: server.server,
    close: () => server.close(),
  };
}
