import { once } from 'node:events';
import { type Duplex, duplexPair, Transform } from 'node:stream';
import * as tls from 'node:tls';
import { beforeAll, describe, expect, it } from 'vitest';
import { type Issued, makeAuthority } from '../../test/support/certificates.ts';
import { PreloginTransport } from './transport.ts';

let small: Issued;
let authority: string;
/** A chain of several kilobytes: one flight then takes several packets. */
let large: string;

beforeAll(async () => {
  const ca = await makeAuthority('Test', 'rsa');
  authority = ca.cert;
  small = await ca.issue({ commonName: 'localhost', keyType: 'rsa' });
  const fillers = await Promise.all(
    Array.from({ length: 24 }, (_, index) => ca.issue({ commonName: `filler-${index}`, keyType: 'rsa' })),
  );
  large = small.cert + fillers.map(({ cert }) => cert).join('');
});

interface Leg {
  readonly client: tls.TLSSocket;
  readonly server: tls.TLSSocket;
  readonly transports: { client: PreloginTransport; server: PreloginTransport };
  readonly raw: { client: Duplex; server: Duplex };
  /** What travelled, in the order of writes. */
  readonly toClient: Buffer[];
  readonly toServer: Buffer[];
}

/** Both roles over an in-memory pair whose bytes pass through `cut`. */
function connect(cut: (chunk: Buffer) => Buffer[], chain = small.chain, untilCleared = false): Leg {
  const toClient: Buffer[] = [];
  const toServer: Buffer[] = [];
  const [clientRaw, a] = duplexPair();
  const [serverRaw, b] = duplexPair();
  forward(a, b, cut, toServer);
  forward(b, a, cut, toClient);
  const transports = {
    client: new PreloginTransport(clientRaw, 'client', untilCleared),
    server: new PreloginTransport(serverRaw, 'server', untilCleared),
  };
  const server = new tls.TLSSocket(transports.server as never, {
    isServer: true,
    secureContext: tls.createSecureContext({
      cert: chain,
      key: small.key,
      maxVersion: 'TLSv1.2',
      secureOptions: 0x4000,
    }),
  });
  const client = tls.connect({ socket: transports.client as never, ca: authority, host: 'localhost' });
  for (const socket of [client, server]) socket.on('error', () => {});
  const raw = { client: clientRaw, server: serverRaw };
  return { client, server, transports, raw, toClient, toServer };
}

function forward(from: Duplex, to: Duplex, cut: (chunk: Buffer) => Buffer[], seen: Buffer[]): void {
  const cutter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      for (const part of cut(chunk)) {
        seen.push(Buffer.from(part));
        this.push(part);
      }
      done();
    },
  });
  from.pipe(cutter).pipe(to);
}

async function exchange({ client, server }: Leg): Promise<void> {
  await once(client, 'secureConnect');
  client.write('question');
  expect(String(await once(server, 'data'))).toBe('question');
  server.write('answer');
  expect(String(await once(client, 'data'))).toBe('answer');
}

/** Type and status of the TDS packets at the start of a direction, up to the first bare TLS record. */
function packetsOf(bytes: Buffer): { type: number; last: boolean; length: number }[] {
  const packets: { type: number; last: boolean; length: number }[] = [];
  for (let at = 0; bytes[at] === 0x12; at += bytes.readUInt16BE(at + 2)) {
    packets.push({ type: bytes[at]!, last: bytes[at + 1] === 1, length: bytes.readUInt16BE(at + 2) });
  }
  return packets;
}

const whole = (chunk: Buffer): Buffer[] => [chunk];
const singly = (chunk: Buffer): Buffer[] => [...chunk].map((byte) => Buffer.from([byte]));

describe('TLS inside PRELOGIN', () => {
  it('goes through in one piece, byte by byte and in odd pieces', async () => {
    await exchange(connect(whole));
    await exchange(connect(singly));
    await exchange(connect((chunk) => [chunk.subarray(0, 7), chunk.subarray(7)]));
  });

  it.each([
    ['a small chain', () => small.chain],
    ['a chain of over 16 KiB', () => large],
  ])('sends each flight as one message: %s', async (_name, chain) => {
    const leg = connect(whole, chain());
    await exchange(leg);
    const bytes = Buffer.concat(leg.toClient);
    const packets = packetsOf(bytes);
    // The server has two flights: its certificate, and ChangeCipherSpec with Finished.
    expect(packets.filter(({ last }) => last).length).toBe(2);
    expect(packets.every(({ length }) => length <= 4096)).toBe(true);
    expect(packets.at(-1)!.last).toBe(true);
    const wrapped = packets.reduce((sum, { length }) => sum + length, 0);
    expect(bytes[wrapped]).toBe(0x17);
  });

  it('is bare behind the client’s Finished', async () => {
    const leg = connect(whole);
    await exchange(leg);
    const bytes = Buffer.concat(leg.toServer);
    const packets = packetsOf(bytes);
    expect(packets.filter(({ last }) => last).length).toBe(2);
    expect(bytes[packets.reduce((sum, { length }) => sum + length, 0)]).toBe(0x17);
  });

  it('takes the bare record that follows the last packet, in the same chunk or cut anywhere', async () => {
    const packet = Buffer.from('1201000c000001001603030a', 'hex');
    const record = Buffer.from('1703030004deadbeef', 'hex');
    const bytes = Buffer.concat([packet, record]);
    const expected = Buffer.concat([packet.subarray(8), record]).toString('hex');
    for (let at = 0; at <= bytes.length; at += 1) {
      const { peer, transport } = inbound(false);
      peer.write(bytes.subarray(0, at));
      peer.end(bytes.subarray(at));
      expect((await everything(transport)).toString('hex')).toBe(expected);
    }
  });

  it('takes a client’s flight in as many messages as it likes, SqlClient’s way', async () => {
    const leg = connect((chunk) => {
      if (chunk[0] !== 0x12) return [chunk];
      const parts: Buffer[] = [];
      for (let at = 0; at < chunk.length; ) {
        const length = chunk.readUInt16BE(at + 2);
        for (let inner = 8; inner < length; inner += 100) {
          const payload = chunk.subarray(at + inner, Math.min(at + inner + 100, at + length));
          const header = Buffer.from([0x12, 1, 0, payload.length + 8, 0, 0, 0, 0]);
          parts.push(Buffer.concat([header, payload]));
        }
        at += length;
      }
      return parts;
    });
    await exchange(leg);
  });

  it('is not misled by a payload that begins like a packet', async () => {
    // Every packet is cut so that payload bytes 0x12 come first in a chunk.
    const leg = connect((chunk) => {
      const parts: Buffer[] = [];
      let from = 0;
      for (let at = chunk.indexOf(0x12, 1); at > 0; at = chunk.indexOf(0x12, at + 1)) {
        parts.push(chunk.subarray(from, at));
        from = at;
      }
      return [...parts, chunk.subarray(from)];
    });
    await exchange(leg);
  });

  it.each([
    ['another packet type', '0100000900000000aa'],
    ['an answer, from a client', '0400000900000000aa'],
    ['a packet shorter than its header', '1201000700000000'],
    ['HTTP', Buffer.from('GET / HTTP/1.1').toString('hex')],
  ])('is given up for %s', async (_name, hex) => {
    const [peer, raw] = duplexPair();
    peer.on('error', () => {});
    const transport = new PreloginTransport(raw, 'server', false);
    transport.resume();
    peer.write(Buffer.from(hex, 'hex'));
    const [error] = (await once(transport, 'error')) as [Error];
    expect(error.message).toContain('not TLS inside PRELOGIN');
    expect(raw.destroyed).toBe(true);
  });

  it('ends when the peer does', async () => {
    const [peer, raw] = duplexPair();
    const transport = new PreloginTransport(raw, 'server', false);
    transport.resume();
    peer.end();
    await once(transport, 'end');
  });
});

describe('a transport until TLS is given up', () => {
  it('gives TLS its records and keeps the clear bytes behind them, cut anywhere', async () => {
    const packet = Buffer.from('1201000c000001001603030a', 'hex');
    const records = Buffer.from('1703030004deadbeef150303000101', 'hex');
    const clear = Buffer.from('10010009000001004d', 'hex');
    const bytes = Buffer.concat([packet, records, clear]);
    for (let at = 1; at < bytes.length; at += 1) {
      const { peer, raw, transport } = inbound(true);
      const seen: Buffer[] = [];
      transport.on('data', (chunk: Buffer) => seen.push(chunk));
      peer.write(bytes.subarray(0, at));
      peer.write(bytes.subarray(at));
      await settled();
      expect(Buffer.concat(seen).toString('hex')).toBe(
        Buffer.concat([packet.subarray(8), records]).toString('hex'),
      );
      const held = transport.release();
      transport.destroy();
      expect(raw.destroyed).toBe(false);
      raw.unshift(held);
      expect((raw.read() as Buffer).toString('hex')).toBe(clear.toString('hex'));
    }
  });

  it('keeps a server’s clear answer that comes before the client has left TLS', async () => {
    const leg = connect(whole, small.chain, true);
    await once(leg.client, 'secureConnect');
    leg.client.write('login');
    expect(await read(leg.server, 5)).toBe('login');
    leg.transports.server.release();
    const clear = Buffer.from('04010009000001004d', 'hex');
    leg.raw.server.write(clear);
    await settled();
    expect(leg.transports.client.release().toString('hex')).toBe(clear.toString('hex'));
  });

  it('writes nothing once it is released', async () => {
    const { peer, transport } = inbound(true);
    const seen: Buffer[] = [];
    peer.on('data', (chunk: Buffer) => seen.push(chunk));
    transport.release();
    transport.write(Buffer.from('15030300020100', 'hex'));
    transport.end();
    await settled();
    expect(seen).toEqual([]);
  });
});

function inbound(untilCleared: boolean): { peer: Duplex; raw: Duplex; transport: PreloginTransport } {
  const [peer, raw] = duplexPair();
  raw.pause();
  return { peer, raw, transport: new PreloginTransport(raw, 'server', untilCleared) };
}

async function everything(stream: Duplex): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

async function settled(): Promise<void> {
  for (let count = 0; count < 6; count += 1) await new Promise((resolve) => setImmediate(resolve));
}

async function read(stream: Duplex, length: number): Promise<string> {
  let text = '';
  while (text.length < length) text += String(await once(stream, 'data'));
  return text;
}
