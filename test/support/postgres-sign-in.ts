import * as tls from 'node:tls';
import { postgres } from '../../protocols/postgres/engine.ts';
import { type Message, message } from '../../protocols/postgres/packets.ts';
import type { ChannelTls } from '../../src/gateway/channel.ts';
import { makeAuthority } from './certificates.ts';
import {
  clientStartup,
  readUntil,
  type ServerScript,
  TestEntry,
  type TestEntryOptions,
  withCertificate,
} from './postgres-peers.ts';

/** Whole sign-ins in memory: a client that sends its startup packet, the engine, and scripted servers. */

export interface SignedIn {
  readonly entry: TestEntry;
  /** What the client was sent, up to ReadyForQuery or an error. */
  readonly messages: Message[];
  /** What the handshake rejected with; null when it came to a session. */
  readonly error: unknown;
  readonly raw: Buffer;
}

/** Signs in with a client that only sends its startup packet. */
export function signIn(options: TestEntryOptions = {}, startup = clientStartup()): Promise<SignedIn> {
  const entry = new TestEntry(options);
  entry.peer.write(startup);
  return finishSignIn(entry);
}

/** Runs the handshake of a client that has sent all it will. */
export async function finishSignIn(entry: TestEntry): Promise<SignedIn> {
  const outcome = postgres.handshake(entry).then(
    () => null,
    (error: unknown) => error,
  );
  const messages = await readUntil(entry.peer, 'ZE').catch(() => []);
  const error = await outcome;
  const raw = Buffer.concat(messages.map(({ type, body }) => message(type, body)));
  return { entry, messages, error, raw };
}

/** The types of messages, one letter each. */
export const letters = (messages: readonly Message[]): string => messages.map(({ type }) => type).join('');

/** An authentication request. */
export function request(code: number, rest: Buffer | string = ''): Buffer {
  const body = Buffer.concat([Buffer.alloc(4), Buffer.from(rest as string)]);
  body.writeInt32BE(code);
  return message('R', body);
}

export const SCRAM_OFFER = request(10, 'SCRAM-SHA-256\0\0');

/** TLS of both legs under one authority. */
export interface TestTls {
  /** Toward `db0.test`: verified, and encrypted only. */
  readonly verified: ChannelTls;
  readonly unverified: ChannelTls;
  /** What scripted servers show. */
  readonly server: ChannelTls;
  /** A listener that requires TLS, as `gateway.test`. */
  readonly listener: ChannelTls;
  readonly authority: string;
}

export async function makeTestTls(): Promise<TestTls> {
  const authority = await makeAuthority('Handshake');
  const server = await authority.issue({ commonName: 'db0.test' });
  const gateway = await authority.issue({ commonName: 'gateway.test' });
  const context = tls.createSecureContext({ ca: authority.cert });
  return {
    verified: { mode: 'verify-full', context },
    unverified: { mode: 'require', context },
    server: {
      mode: 'require',
      context: tls.createSecureContext({ cert: server.chain, key: server.key }),
      certificate: server.der,
    },
    listener: {
      mode: 'require',
      context: tls.createSecureContext({ cert: gateway.chain, key: gateway.key }),
      certificate: gateway.der,
    },
    authority: authority.cert,
  };
}

/** A server that answers SSLRequest by `S`, does TLS, and goes on as `script`. */
export function securedServer(script: ServerScript, tlsOfServer: ChannelTls): ServerScript {
  return withCertificate(async (peer) => {
    await peer.read(8, 'SSLRequest');
    peer.write(Buffer.from('S'));
    await peer.acceptTls({ alpn: ['postgresql'] });
    await script(peer);
  }, tlsOfServer);
}
