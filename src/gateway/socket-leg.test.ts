import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { afterEach, describe, expect, test } from 'vitest';
import { type Leg, type LegEvents, StreamLeg } from './leg.ts';
import { BURST_READ_BYTES, READ_BYTES } from './limits.ts';
import { readBuffers } from './read-buffers.ts';
import { handleOf, legOf, SocketLeg, socketLegsWork } from './socket-leg.ts';

const open: Socket[] = [];
afterEach(() => {
  for (const socket of open.splice(0)) socket.destroy();
});

/** Two ends of one TCP connection. */
async function pair(): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true, noDelay: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const near = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
  const [[far]] = (await Promise.all([once(server, 'connection'), once(near, 'connect')])) as [
    [Socket],
    unknown,
  ];
  server.close();
  open.push(near, far);
  return [near, far];
}

function events(over: Partial<LegEvents> = {}): LegEvents {
  return { data: () => {}, ended: () => {}, failed: () => {}, closed: () => {}, drained: () => {}, ...over };
}

const kinds: [string, (socket: Socket) => Leg][] = [
  ['a socket leg', (socket) => new SocketLeg(socket, handleOf(socket)!)],
  ['a stream leg', (socket) => new StreamLeg(socket)],
];

/** Joins two connections as the relay does: what cannot be written stops the reading on the other side. */
function join(left: Leg, right: Leg): void {
  const carry = (from: Leg, to: Leg): LegEvents =>
    events({
      data: (chunk) => {
        if (!to.write(chunk)) from.pause();
      },
      ended: () => to.end(),
      drained: () => to.resume(),
    });
  left.start({ ...carry(left, right), drained: () => right.resume() });
  right.start({ ...carry(right, left), drained: () => left.resume() });
}

test('this Node has what socket legs need, and they pass their own trial', async () => {
  const [near] = await pair();
  expect(legOf(near)).toBeInstanceOf(SocketLeg);
  expect(await socketLegsWork()).toBe(true);
});

test('what is no plain socket, or is not at rest, is carried as a stream', async () => {
  const [near] = await pair();
  const other = Duplex.from({ readable: near, writable: near });
  other.on('error', () => {});
  expect(legOf(other)).toBeInstanceOf(StreamLeg);
  const [ended] = await pair();
  ended.end();
  expect(legOf(ended)).toBeInstanceOf(StreamLeg);
  const [gone] = await pair();
  gone.destroy();
  expect(legOf(gone)).toBeInstanceOf(StreamLeg);
});

describe.each(kinds)('%s', (_, make) => {
  test('carries megabytes both ways to readers that dawdle, and lends no memory twice', async () => {
    const [client, gatewayNear] = await pair();
    const [gatewayFar, server] = await pair();
    join(make(gatewayNear), make(gatewayFar));
    const bytes = randomBytes(8 * 1024 * 1024);
    const digest = (data: Buffer): string => createHash('sha256').update(data).digest('hex');
    const receive = async (socket: Socket): Promise<string> => {
      const hash = createHash('sha256');
      let count = 0;
      // Without the option, who has heard all would be destroyed with what it has not sent yet.
      for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
        hash.update(chunk as Buffer);
        count += 1;
        if (count % 7 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      return hash.digest('hex');
    };
    const received = [receive(client), receive(server)];
    for (let at = 0, step = 1; at < bytes.length; at += step, step = (step * 7 + 13) % 200_001) {
      client.write(bytes.subarray(at, at + step));
      server.write(bytes.subarray(at, at + step));
    }
    client.end();
    server.end();
    expect(await Promise.all(received)).toEqual([digest(bytes), digest(bytes)]);
  });

  test('passes a half-close on and still carries the other way', async () => {
    const [client, gatewayNear] = await pair();
    const [gatewayFar, server] = await pair();
    join(make(gatewayNear), make(gatewayFar));
    client.end('last words');
    const heard: Buffer[] = [];
    for await (const chunk of server) heard.push(chunk as Buffer);
    expect(Buffer.concat(heard).toString()).toBe('last words');
    server.end('answer');
    const answer: Buffer[] = [];
    for await (const chunk of client) answer.push(chunk as Buffer);
    expect(Buffer.concat(answer).toString()).toBe('answer');
  });

  test('tells of a reset as an error and an end', async () => {
    const [near, far] = await pair();
    const leg = make(near);
    const seen: string[] = [];
    const closed = new Promise<void>((resolve) => {
      leg.start(
        events({
          failed: (error) => seen.push((error as NodeJS.ErrnoException).code!),
          closed: () => resolve(),
        }),
      );
    });
    far.resetAndDestroy();
    await closed;
    expect(seen).toEqual(['ECONNRESET']);
    expect(leg.destroyed).toBe(true);
    leg.write(Buffer.from('to nobody'));
    leg.pause();
    leg.resume();
    leg.end();
    leg.destroy();
  });

  test('reads nothing while it is paused', async () => {
    const [near, far] = await pair();
    const leg = make(near);
    let received = 0;
    let resumed = false;
    const done = new Promise<void>((resolve) => {
      leg.start(
        events({
          data: (chunk) => {
            received += chunk.length;
            if (!resumed) leg.pause();
            if (received === 300_000) resolve();
          },
        }),
      );
    });
    far.write(Buffer.alloc(100_000));
    while (received === 0) await new Promise((resolve) => setImmediate(resolve));
    const before = received;
    await new Promise<void>((resolve) => far.write(Buffer.alloc(200_000), () => resolve()));
    for (let turns = 0; turns < 20; turns += 1) await new Promise((resolve) => setImmediate(resolve));
    expect(received).toBe(before);
    resumed = true;
    leg.resume();
    await done;
  });

  test('keeps what a peer does not read, and says when it has', async () => {
    const [near, far] = await pair();
    const leg = make(near);
    const drained = new Promise<void>((resolve) => leg.start(events({ drained: () => resolve() })));
    const block = randomBytes(1024 * 1024);
    let blocks = 1;
    while (leg.write(block)) blocks += 1;
    expect(leg.needsDrain).toBe(true);
    leg.write(Buffer.from('behind all that'));
    void drained.then(() => leg.end());
    const hash = createHash('sha256');
    for await (const chunk of far) hash.update(chunk as Buffer);
    const expected = createHash('sha256');
    for (let index = 0; index < blocks; index += 1) expected.update(block);
    expect(hash.digest('hex')).toBe(expected.update('behind all that').digest('hex'));
  });
});

describe('memory', () => {
  test('a burst is read into a large buffer, which goes back when it is over', async () => {
    const [near, far] = await pair();
    const sizes: number[] = [];
    const lent = readBuffers.lent;
    const leg = legOf(near);
    leg.start(events({ data: (chunk) => sizes.push(chunk.length) }));
    far.write(Buffer.alloc(512 * 1024));
    const total = (): number => sizes.reduce((sum, size) => sum + size, 0);
    while (total() < 512 * 1024) await new Promise((resolve) => setImmediate(resolve));
    expect(sizes[0]).toBe(READ_BYTES);
    expect(Math.max(...sizes)).toBe(BURST_READ_BYTES);
    // One more short read ends the burst.
    far.write('x');
    while (total() < 512 * 1024 + 1) await new Promise((resolve) => setImmediate(resolve));
    expect(readBuffers.lent).toBe(lent);
  });

  test('a connection that closes in a burst gives its buffer back', async () => {
    const [near, far] = await pair();
    const lent = readBuffers.lent;
    const leg = legOf(near);
    let received = 0;
    const closed = new Promise<void>((resolve) => {
      leg.start(
        events({
          data: (chunk) => {
            received += chunk.length;
            if (received > 200_000) leg.destroy();
          },
          closed: () => resolve(),
        }),
      );
    });
    far.on('error', () => {});
    far.write(Buffer.alloc(1024 * 1024));
    await closed;
    expect(readBuffers.lent).toBe(lent);
  });

  test('bytes that are handed on are good for that call alone, and a copy lasts', async () => {
    const [near, far] = await pair();
    const leg = legOf(near);
    const kept: Buffer[] = [];
    const views: Buffer[] = [];
    leg.start(
      events({
        data: (chunk) => {
          views.push(chunk);
          kept.push(readBuffers.lasting(chunk));
        },
      }),
    );
    for (const word of ['first', 'other']) {
      far.write(word);
      const count = kept.length;
      while (kept.length === count) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(kept.map(String)).toEqual(['first', 'other']);
    expect(views[0]!.toString()).toBe('other');
    const own = Buffer.from('own');
    expect(readBuffers.lasting(own)).toBe(own);
  });
});
