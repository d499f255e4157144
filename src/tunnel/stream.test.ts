import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { Heartbeats } from './heartbeats.ts';
import { MESSAGE_BYTES_MAX } from './limits.ts';
import { CloseCode } from './messages.ts';
import { TunnelStream } from './stream.ts';

/** Two ends of real WebSockets over loopback. */
let http: Server;
let sockets: WebSocketServer;

beforeEach(async () => {
  http = createServer();
  sockets = new WebSocketServer({ server: http, perMessageDeflate: false, maxPayload: MESSAGE_BYTES_MAX });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
});
afterEach(async () => {
  for (const socket of sockets.clients) socket.terminate();
  sockets.close();
  http.close();
});

async function pair(): Promise<{ near: WebSocket; far: WebSocket }> {
  const near = new WebSocket(`ws://127.0.0.1:${(http.address() as AddressInfo).port}`, {
    perMessageDeflate: false,
    maxPayload: MESSAGE_BYTES_MAX,
  });
  const [[far]] = await Promise.all([once(sockets, 'connection'), once(near, 'open')]);
  return { near, far };
}

async function streams(): Promise<{ near: TunnelStream; far: TunnelStream; socket: WebSocket }> {
  const { near, far } = await pair();
  return { near: new TunnelStream(near), far: new TunnelStream(far), socket: near };
}

test('each direction ends on its own, and then the WebSocket does', async () => {
  const { near, far, socket } = await streams();
  const closed = once(socket, 'close');
  near.end('a question');
  expect(await text(far)).toBe('a question');
  expect(far.writable).toBe(true);
  far.write('the first half, ');
  await sleep(20);
  far.end('the second');
  expect(await text(near)).toBe('the first half, the second');
  expect((await closed)[0]).toBe(CloseCode.done);
});

test('whatever is written arrives, in whatever pieces', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 700_000 }), { maxLength: 6 }), async (lengths) => {
      const { near, far } = await streams();
      const written = lengths.map((length, index) => Buffer.alloc(length, 65 + index));
      near.cork();
      for (const bytes of written) near.write(bytes);
      near.uncork();
      near.end();
      far.end();
      const arrived: Buffer[] = [];
      for await (const chunk of far) arrived.push(chunk as Buffer);
      expect(Buffer.concat(arrived).equals(Buffer.concat(written))).toBe(true);
    }),
    { numRuns: 15 },
  );
});

test('a reader that stops stops the writer, and loses nothing', async () => {
  const { near, far } = await streams();
  let written = 0;
  const chunk = Buffer.alloc(64 * 1024, 1);
  // Until nothing has moved for a while: what lies between is the systems' buffers and ours.
  for (let idle = 0; idle < 10; ) {
    if (near.writableNeedDrain) {
      const moved = await Promise.race([once(near, 'drain').then(() => true), sleep(50).then(() => false)]);
      idle = moved ? 0 : idle + 1;
    } else {
      near.write(chunk);
      written += chunk.length;
      await sleep(0);
    }
    if (written > 64 * 1024 * 1024) throw new Error('there is no back-pressure');
  }
  near.end();
  let read = 0;
  far.on('data', (bytes: Buffer) => {
    read += bytes.length;
  });
  await once(far, 'end');
  expect(read).toBe(written);
  far.end();
});

test('an abort is heard as a reset, not as an end', async () => {
  const { near, far } = await streams();
  near.write('half a mess');
  await once(far, 'readable');
  const failed = once(far, 'error');
  near.destroy();
  expect(await failed).toMatchObject([{ code: 'ECONNRESET' }]);
  expect(far.readableEnded).toBe(false);
});

test('last words are read though the WebSocket has closed behind them', async () => {
  const { near, far } = await streams();
  far.end('why you were cut off');
  await once(far, 'finish');
  far.destroy();
  await sleep(50);
  // A tool that has not looked yet still writes; that is not held against it.
  near.write('another statement');
  expect(await text(near)).toBe('why you were cut off');
  if (!near.closed) await once(near, 'close');
});

test('a peer that breaks the rules is cut off', async () => {
  for (const wrong of ['no such word', 'end']) {
    const { near, far } = await pair();
    const stream = new TunnelStream(far);
    stream.resume();
    const failed = once(stream, 'error');
    const closed = once(near, 'close');
    if (wrong === 'end') near.send('end');
    near.send(wrong);
    expect(await failed).toMatchObject([{ code: 'ECONNRESET' }]);
    expect((await closed)[0]).toBe(CloseCode.violation);
  }
});

test('a message that is too long ends its connection alone', async () => {
  const { near, far } = await pair();
  const stream = new TunnelStream(far);
  const failed = once(stream, 'error');
  near.on('error', () => {});
  near.send(Buffer.alloc(MESSAGE_BYTES_MAX + 1));
  expect(await failed).toMatchObject([{ code: 'ECONNRESET' }]);
});

test('a WebSocket that had closed before is a reset', async () => {
  const { near, far } = await pair();
  near.terminate();
  await once(far, 'close');
  const stream = new TunnelStream(far);
  expect(await once(stream, 'error')).toMatchObject([{ code: 'ECONNRESET' }]);
});

test('a peer that falls silent is dropped, one that does not read for long is not', async () => {
  const beats = new Heartbeats(20);
  const theirs = new Heartbeats(20);
  try {
    const slow = await pair();
    const dead = await pair();
    for (const { far } of [slow, dead]) beats.add(far);
    theirs.add(slow.near);
    slow.near.pause();
    // Nobody answers for this one: neither pongs nor pings of its own come.
    dead.near.pause();
    await once(dead.far, 'close');
    await sleep(200);
    expect(slow.far.readyState).toBe(slow.far.OPEN);
    expect(slow.near.readyState).toBe(slow.near.OPEN);
  } finally {
    beats.stop();
    theirs.stop();
  }
});
