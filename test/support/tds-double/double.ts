import type { AddressInfo } from 'node:net';
import { createServer, type Server, type Socket } from 'node:net';
import { acceptLogin, type DoubleLogin, type DoubleOptions, type DoubleSession } from './login.ts';
import { directWriter } from './output.ts';
import { serve } from './session.ts';
import { serveStreams } from './smp.ts';
import { Store } from './state.ts';

export interface TdsDoubleOptions extends DoubleOptions {
  /** Default: `separate`, as SQL Server mostly does. */
  readonly attention?: 'separate' | 'inside';
  readonly port?: number;
}

/** A test double of SQL Server on a free loopback port, and what it saw. */
export interface TdsDouble {
  readonly port: number;
  /** Every LOGIN7 that arrived, with how it came. */
  readonly logins: { login: DoubleLogin; protection: DoubleSession['protection'] }[];
  /** Sessions that were signed in. */
  readonly sessions: DoubleSession[];
  readonly preloginPayloads: Buffer[];
  readonly tls: { serverName: string | null; version: string | null; alpn: string | null }[];
  /** Message types and payloads after sign-in, in order of arrival. */
  readonly requests: { type: number; payload: Buffer }[];
  /** All bytes that came over all sockets, as they were on the wire. */
  readonly received: Buffer[];
  readonly store: Store;
  /** Connections that were opened, whatever became of them. */
  connections: number;
  close(): Promise<void>;
}

export async function startTdsDouble(options: TdsDoubleOptions): Promise<TdsDouble> {
  const sockets = new Set<Socket>();
  const double: TdsDouble = {
    port: 0,
    logins: [],
    sessions: [],
    preloginPayloads: [],
    tls: [],
    requests: [],
    received: [],
    store: new Store(),
    connections: 0,
    close: () => closed(server, sockets),
  };
  const server = createServer({ noDelay: true }, (socket) => {
    double.connections += 1;
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
    socket.on('data', (chunk) => double.received.push(chunk));
    void converse(socket, options, double).catch(() => socket.destroy());
  });
  await new Promise<void>((resolve) => {
    server.listen(options.port ?? 0, '127.0.0.1', resolve);
  });
  Object.assign(double, { port: (server.address() as AddressInfo).port });
  return double;
}

async function converse(socket: Socket, options: TdsDoubleOptions, double: TdsDouble): Promise<void> {
  const session = await acceptLogin(socket, options, {
    prelogin: (payload) => double.preloginPayloads.push(payload),
    tls: (info) => double.tls.push(info),
    login: (login, protection) => double.logins.push({ login, protection }),
  });
  if (session === null) return;
  double.sessions.push(session);
  const [major, minor, build] = options.version ?? [16, 0, 1000];
  const serveOptions = {
    store: double.store,
    databases: options.databases ?? ['master', 'testdb'],
    version: `${major}.${minor}.${build}`,
    attention: options.attention ?? 'separate',
    onRequest: (type: number, payload: Buffer) =>
      double.requests.push({ type, payload: Buffer.from(payload) }),
  };
  const { reader } = session;
  if (session.mars) {
    await serveStreams(reader, (next, writer) => serve(next, writer, session, serveOptions));
  } else {
    await serve(() => reader.message(), directWriter(reader.stream), session, serveOptions);
  }
  reader.stream.end();
}

async function closed(server: Server, sockets: Set<Socket>): Promise<void> {
  for (const socket of sockets) socket.destroy();
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
}
