import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { type Duplex, duplexPair } from 'node:stream';
import * as tls from 'node:tls';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PreloginTransport } from '../../protocols/tds/transport.ts';
import { type Issued, makeAuthority } from '../../test/support/certificates.ts';
import { type ChannelTls, limitedContext, StreamChannel } from './channel.ts';

let issued: Issued;
let authority: string;
let sockets: Socket[] = [];

beforeAll(async () => {
  const ca = await makeAuthority('Test');
  authority = ca.cert;
  issued = await ca.issue({ commonName: 'localhost', hosts: ['localhost', '127.0.0.1'] });
});

afterAll(() => {
  for (const socket of sockets) socket.destroy();
  sockets = [];
});

function listenerTls(): ChannelTls {
  const options = { cert: issued.chain, key: issued.key };
  return {
    mode: 'prefer',
    context: tls.createSecureContext(options),
    limitedContext: limitedContext(options),
    certificate: issued.der,
  };
}

function serverTls(): ChannelTls {
  return {
    mode: 'verify-full',
    context: tls.createSecureContext({ ca: authority }),
    serverName: 'localhost',
  };
}

/** A client-side and a server-side channel with a stream between them: in memory, or a real connection. */
async function pair(kind: 'memory' | 'tcp'): Promise<{ near: StreamChannel; far: StreamChannel }> {
  const [a, b] = kind === 'memory' ? duplexPair() : await tcpPair();
  return {
    near: new StreamChannel(a, 'client', { host: '127.0.0.1', port: 1 }, listenerTls()),
    far: new StreamChannel(b, 'server', { host: '127.0.0.1', port: 2 }, serverTls()),
  };
}

async function tcpPair(): Promise<[Duplex, Duplex]> {
  const server = createServer({ allowHalfOpen: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const dialled = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
  await once(dialled, 'connect');
  const [incoming] = await accepted;
  server.close();
  sockets.push(incoming, dialled);
  return [incoming, dialled];
}

const accepting = {
  maxVersion: 'TLSv1.2',
  noTickets: true,
  transport: (raw: Duplex) => new PreloginTransport(raw, 'server', true),
} as const;
const connecting = {
  maxVersion: 'TLSv1.2',
  transport: (raw: Duplex) => new PreloginTransport(raw, 'client', true),
} as const;

describe.each(['memory', 'tcp'] as const)('TLS for a while, over %s', (kind) => {
  it('protects what is read inside, and leaves the rest in the clear', async () => {
    const { near, far } = await pair(kind);
    await Promise.all([near.acceptTls(accepting), far.connectTls(connecting)]);
    expect(near.tls).toMatchObject({ version: 'TLSv1.2' });
    expect(far.tls).toMatchObject({ version: 'TLSv1.2', verified: true });
    far.write(Buffer.from('secret'));
    expect(String(await near.read(6, 'secret'))).toBe('secret');
    await Promise.all([near.clearTls(), far.clearTls()]);
    expect([near.tls, far.tls]).toEqual([null, null]);
    near.write(Buffer.from('clear answer'));
    expect(String(await far.read(12, 'answer'))).toBe('clear answer');
    far.write(Buffer.from('clear question'));
    expect(String(await near.read(14, 'question'))).toBe('clear question');
    // Nothing was put between the relay and the socket that is not needed any more.
    expect(near.detach().stream).not.toBeInstanceOf(tls.TLSSocket);
  });

  it('keeps clear bytes that came in one piece with the last protected ones', async () => {
    const { near, far } = await pair(kind);
    await Promise.all([near.acceptTls(accepting), far.connectTls(connecting)]);
    far.write(Buffer.from('secret'));
    await far.clearTls();
    far.write(Buffer.from('and clear at once'));
    expect(String(await near.read(6, 'secret'))).toBe('secret');
    await near.clearTls();
    expect(String(await near.read(17, 'clear'))).toBe('and clear at once');
  });

  it('does not lose what was written just before', async () => {
    const { near, far } = await pair(kind);
    await Promise.all([near.acceptTls(accepting), far.connectTls(connecting)]);
    const block = Buffer.alloc(100_000, 7);
    far.write(block);
    const cleared = far.clearTls();
    expect((await near.read(block.length, 'block')).equals(block)).toBe(true);
    await cleared;
    await near.clearTls();
    far.write(Buffer.from('x'));
    expect(String(await near.read(1, 'x'))).toBe('x');
  });

  it('ends with an error when the peer sent more inside than it should', async () => {
    const { near, far } = await pair(kind);
    await Promise.all([near.acceptTls(accepting), far.connectTls(connecting)]);
    far.write(Buffer.from('secret and more'));
    await near.read(6, 'secret');
    await expect(near.clearTls()).rejects.toMatchObject({ code: 'malformed', fault: 'client' });
  });
});

describe('verify-full', () => {
  const handshake = async (
    certificate: { commonName: string; hosts: string[] },
    serverName: string,
  ): Promise<StreamChannel> => {
    const ca = await makeAuthority('Names');
    const { chain, key } = await ca.issue(certificate);
    const context = tls.createSecureContext({ ca: ca.cert });
    const [a, b] = duplexPair();
    const near = new StreamChannel(
      a,
      'client',
      { host: '127.0.0.1', port: 1 },
      {
        mode: 'prefer',
        context: tls.createSecureContext({ cert: chain, key }),
      },
    );
    const far = new StreamChannel(
      b,
      'server',
      { host: '127.0.0.1', port: 2 },
      { mode: 'verify-full', context, serverName },
    );
    const accepted = near.acceptTls({}).catch(() => {});
    await far.connectTls({});
    await accepted;
    return far;
  };

  it.each([
    ['a name', ['db.example.test'], 'db.example.test'],
    ['a name in other case', ['db.example.test'], 'DB.Example.Test'],
    ['one of several names', ['elsewhere.test', 'db.example.test'], 'db.example.test'],
    ['a wildcard', ['*.example.test'], 'db.example.test'],
    ['an IPv4 address', ['10.1.2.3'], '10.1.2.3'],
    ['an IPv6 address', ['2001:db8::1'], '2001:db8::1'],
    ['a subject where no names are given', [], 'subject.test'],
  ])('takes %s', async (_, hosts, serverName) => {
    const far = await handshake({ commonName: 'subject.test', hosts }, serverName);
    expect(far.tls).toMatchObject({ verified: true });
    expect(far.tls?.peerCertificate).toBeInstanceOf(Buffer);
  });

  it.each([
    ['another name', ['elsewhere.test'], 'db.example.test'],
    ['a part of a name', ['example.test'], 'db.example.test'],
    ['a wildcard for two labels', ['*.test'], 'db.example.test'],
    ['a wildcard for nothing', ['*.example.test'], 'example.test'],
    ['another address', ['10.1.2.3'], '10.1.2.4'],
    ['a name for an address', ['10.example.test'], '10.1.2.3'],
    ['an address that is in the subject alone', [], '10.1.2.3'],
    ['a subject beside names', ['elsewhere.test'], 'subject.test'],
  ])('refuses %s', async (_, hosts, serverName) => {
    await expect(handshake({ commonName: 'subject.test', hosts }, serverName)).rejects.toMatchObject({
      code: 'tls_failed',
      message: expect.stringMatching(
        /does not match certificate's altnames|Cert does not contain a DNS name/,
      ),
    });
  });
});

describe('TLS of a channel', () => {
  it('cannot be left where nothing stands between it and the stream', async () => {
    const { near, far } = await pair('memory');
    await Promise.all([near.acceptTls({}), far.connectTls({})]);
    await expect(near.clearTls()).rejects.toMatchObject({ code: 'unsupported' });
    const { near: clear } = await pair('memory');
    await expect(clear.clearTls()).rejects.toMatchObject({ code: 'unsupported' });
  });

  it('is limited where the engine asks, and refused where the listener cannot limit it', async () => {
    const { near, far } = await pair('memory');
    await Promise.all([near.acceptTls({ maxVersion: 'TLSv1.2' }), far.connectTls({})]);
    expect(near.tls?.version).toBe('TLSv1.2');
    const [a] = duplexPair();
    const settings: ChannelTls = { ...listenerTls(), limitedContext: null };
    const unlimited = new StreamChannel(a, 'client', { host: '127.0.0.1', port: 1 }, settings);
    await expect(unlimited.acceptTls({ noTickets: true })).rejects.toMatchObject({ fault: 'ours' });
  });

  it('resumes no session where tickets are off', async () => {
    const sessions: Buffer[] = [];
    for (let count = 0; count < 2; count += 1) {
      const [clientRaw, serverRaw] = duplexPair();
      const near = new StreamChannel(serverRaw, 'client', { host: '127.0.0.1', port: 1 }, listenerTls());
      const accepted = near.acceptTls({ maxVersion: 'TLSv1.2', noTickets: true });
      const client = tls.connect({
        socket: clientRaw as never,
        ca: authority,
        host: 'localhost',
        ...(sessions[0] ? { session: sessions[0] } : {}),
      });
      client.on('session', (session) => sessions.push(session));
      await Promise.all([accepted, once(client, 'secureConnect')]);
      expect(client.isSessionReused()).toBe(false);
      client.destroy();
    }
  });

  it('gives a channel binding toward the server, of the kind its version has', async () => {
    const old = await pair('memory');
    await Promise.all([old.near.acceptTls({ maxVersion: 'TLSv1.2' }), old.far.connectTls({})]);
    expect(old.far.tls?.binding).toMatchObject({ type: 'tls-unique' });
    expect(old.far.tls?.binding?.data.length).toBe(12);
    const current = await pair('memory');
    await Promise.all([current.near.acceptTls({}), current.far.connectTls({})]);
    expect(current.far.tls?.version).toBe('TLSv1.3');
    expect(current.far.tls?.binding).toMatchObject({ type: 'tls-exporter' });
    expect(current.far.tls?.binding?.data.length).toBe(32);
  });

  it.each([
    ['closes', (peer: Duplex) => peer.end()],
    ['talks of something else', (peer: Duplex) => peer.write('GET / HTTP/1.1\r\n\r\n')],
    [
      'wraps something else',
      (peer: Duplex) => peer.write(Buffer.from('12010010000000006162636461626364', 'hex')),
    ],
  ])('fails at once when the client %s inside PRELOGIN', async (_name, act) => {
    const [peer, raw] = duplexPair();
    peer.on('error', () => {});
    peer.resume();
    const near = new StreamChannel(raw, 'client', { host: '127.0.0.1', port: 1 }, listenerTls());
    const accepted = near.acceptTls(accepting);
    act(peer);
    await expect(accepted).rejects.toMatchObject({ code: 'tls_failed', fault: 'client' });
  });
});
