import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

/** A TCP relay between a client and a server of a test: to see the bytes, or to come from another address. */
export interface ByteRelay {
  readonly port: number;
  /** All bytes that went to the one who connects, in the order of their arrival, of all connections. */
  readonly toClient: Buffer[];
  readonly toServer: Buffer[];
  close(): Promise<void>;
}

export interface RelayOptions {
  /** The address that the relay connects from. */
  readonly localAddress?: string;
  /** The address that it listens on. Default: 127.0.0.1. */
  readonly host?: string;
  /** Keeps the client's first bytes back for as long. */
  readonly holdFirstMs?: number;
}

/** Relays what comes to a free port to `port` of 127.0.0.1. */
export async function startRelay(port: number, options: RelayOptions = {}): Promise<ByteRelay> {
  const toClient: Buffer[] = [];
  const toServer: Buffer[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect({
      host: '127.0.0.1',
      port,
      ...(options.localAddress ? { localAddress: options.localAddress } : {}),
    });
    for (const [from, to, kept] of [
      [near, far, toServer],
      [far, near, toClient],
    ] as const) {
      sockets.add(from);
      const held = from === near && options.holdFirstMs !== undefined ? delay(options.holdFirstMs) : null;
      from.on('data', async (chunk: Buffer) => {
        kept.push(chunk);
        if (held !== null) await held;
        to.write(chunk);
      });
      from.on('end', () => to.end());
      from.on('error', () => to.destroy());
      from.on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
    }
  });
  server.listen(0, options.host ?? '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    toClient,
    toServer,
    close: async () => {
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, 'close');
    },
  };
}
