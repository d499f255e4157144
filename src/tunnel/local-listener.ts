import { createHash } from 'node:crypto';
import { existsSync, lstatSync, mkdirSync, statSync, unlinkSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { PORT_ATTEMPTS_MAX, PORT_FIRST, PORT_LAST } from './limits.ts';

/** Where the person wants the tunnel. `stable`: what the port is drawn from, where they do not care. */
export type LocalWish =
  | { readonly kind: 'port'; readonly port: number }
  | { readonly kind: 'any'; readonly stable: string }
  | { readonly kind: 'unix'; readonly path: string };

export type LocalPlace =
  | { readonly kind: 'tcp'; readonly host: '127.0.0.1'; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

/** The person's side of a tunnel: a loopback port, or a socket file that only its owner can open. */
export interface LocalListener {
  readonly place: LocalPlace;
  /** Takes no more connections; those that are open go on. */
  close(): void;
}

/**
 * Listens where `wish` says, and hands each connection to `accept`, paused. On a port both loopback addresses are taken,
 * where the system has both: tools that are told `localhost` may try either first, and nobody else must sit on the other.
 *
 * Rejects with an error that says what to do.
 */
export async function listenLocally(
  wish: LocalWish,
  accept: (socket: Socket) => void,
): Promise<LocalListener> {
  if (wish.kind === 'unix') return listenUnix(wish.path, accept);
  if (wish.kind === 'port') {
    const servers = await listenPort(wish.port, accept);
    if (servers === null)
      throw new Error(
        `port ${wish.port} is taken by another program; name another with --port, or leave it out`,
      );
    return portListener(servers);
  }
  for (const port of portsFor(wish.stable)) {
    const servers = await listenPort(port, accept);
    if (servers !== null) return portListener(servers);
  }
  throw new Error(`no free port was found from ${PORT_FIRST} to ${PORT_LAST}; name one with --port`);
}

/** The ports to try for a name, in order: always the same for the same name, so that tools can keep their settings. */
export function* portsFor(name: string): Generator<number> {
  const span = PORT_LAST - PORT_FIRST + 1;
  const first = createHash('sha256').update(name).digest().readUInt32BE(0) % span;
  for (let step = 0; step < PORT_ATTEMPTS_MAX; step += 1) yield PORT_FIRST + ((first + step * 7) % span);
}

/** Null when somebody else has the port, on either address. */
async function listenPort(port: number, accept: (socket: Socket) => void): Promise<Server[] | null> {
  const servers: Server[] = [];
  let wanted = port;
  for (const host of ['127.0.0.1', '::1']) {
    const server = makeServer(accept);
    const error = await listening(server, () => server.listen({ host, port: wanted, backlog: 511 }));
    if (error === null) {
      servers.push(server);
      // Port 0 lets the system choose; the other address follows.
      wanted = (server.address() as AddressInfo).port;
    } else if (host === '::1' && error.code !== 'EADDRINUSE') continue;
    else {
      for (const opened of servers) opened.close();
      if (error.code === 'EADDRINUSE') return null;
      if (error.code === 'EACCES')
        throw new Error(`port ${port} needs the rights of an administrator; name one above 1023 with --port`);
      throw error;
    }
  }
  return servers;
}

function portListener(servers: Server[]): LocalListener {
  const { port } = servers[0]!.address() as AddressInfo;
  return {
    place: { kind: 'tcp', host: '127.0.0.1', port },
    close: () => {
      for (const server of servers) server.close();
    },
  };
}

async function listenUnix(path: string, accept: (socket: Socket) => void): Promise<LocalListener> {
  const folder = dirname(path);
  if (!existsSync(folder)) mkdirSync(folder, { recursive: true, mode: 0o700 });
  const { uid, mode } = statSync(folder);
  // Whoever may write to the folder can put a socket of their own in the place of ours.
  if (process.platform !== 'win32' && (uid !== process.getuid?.() || (mode & 0o022) !== 0))
    throw new Error(`${folder} is not yours alone to write to; name a folder that is, or one to be made`);
  await clearStale(path);
  const server = makeServer(accept);
  // The file must not be open to others for a moment even: its mode comes from the mask in force when it is made.
  const mask = process.umask(0o177);
  let failing: Promise<NodeJS.ErrnoException | null>;
  try {
    failing = listening(server, () => server.listen({ path }));
  } finally {
    process.umask(mask);
  }
  const error = await failing;
  if (error !== null)
    throw new Error(
      error.code === 'EADDRINUSE'
        ? `another program listens on ${path}`
        : error.code === 'EINVAL' || error.code === 'ENAMETOOLONG'
          ? `${path} is too long for a socket; name a shorter one`
          : `cannot listen on ${path}: ${error.message}`,
    );
  return { place: { kind: 'unix', path }, close: () => server.close() };
}

/** Removes a socket file that nobody listens on any more. */
async function clearStale(path: string): Promise<void> {
  if (!existsSync(path)) return;
  if (!lstatSync(path).isSocket()) throw new Error(`${path} is there already, and is no socket`);
  const isAlive = await new Promise<boolean>((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => resolve(true));
    probe.once('error', () => resolve(false));
    probe.once('close', () => resolve(false));
    probe.once('connect', () => probe.destroy());
  });
  if (!isAlive) unlinkSync(path);
}

function makeServer(accept: (socket: Socket) => void): Server {
  return createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, accept);
}

/** Starts a server; the error it could not start with, or null. */
function listening(server: Server, start: () => void): Promise<NodeJS.ErrnoException | null> {
  return new Promise((resolve) => {
    server.once('error', resolve);
    server.once('listening', () => {
      server.off('error', resolve);
      server.on('error', () => {});
      resolve(null);
    });
    start();
  });
}
