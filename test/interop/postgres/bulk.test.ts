import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { postgres } from '../../../protocols/postgres/engine.ts';
import { startTestGateway, type TestGateway } from '../../support/gateway.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { execute, int4, message, parse, query, sync } from '../../support/postgres-observer.ts';
import { WireClient } from '../../support/postgres-wire.ts';

/**
 * Much at once, in bounded memory. SALLYPORT_BULK_MIB says how much; 1024 is what is promised, the default is enough to
 * tell memory that grows from memory that does not.
 */
const MIB = 1024 * 1024;
const SIZE = Number(process.env.SALLYPORT_BULK_MIB ?? 128) * MIB;
const GROWTH_MAX = 64 * MIB;

let server: PostgresServer;
let gateway: TestGateway;

beforeAll(async () => {
  server = await startPostgres({
    major: 18,
    setup:
      'CREATE UNLOGGED TABLE bulk (a text); CREATE TABLE large (a bytea); ALTER TABLE large ALTER a SET STORAGE EXTERNAL; GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC',
  });
  gateway = await startTestGateway({
    engine: postgres,
    settings: {
      engine: 'postgres',
      channelBinding: 'prefer',
      allowReplication: false,
      targetSessionAttrs: 'any',
      directTls: false,
      protocolVersion: '3.0',
      scramIterationsMax: 1_000_000,
    },
    servers: [server],
    username: 'trust_user',
    password: null,
    database: server.database,
  });
});
afterAll(async () => {
  await gateway?.close();
  await server?.stop();
});

type Port = () => number;
const direct: Port = () => server.port;
const through: Port = () => gateway.port;

/** A signed-in socket that nobody reads yet. */
async function raw(port: Port): Promise<Socket> {
  const client = await WireClient.connect('127.0.0.1', port(), {
    user: 'trust_user',
    database: server.database,
  });
  client.socket.removeAllListeners('data');
  return client.socket;
}

async function write(socket: Socket, bytes: Buffer): Promise<void> {
  if (!socket.write(bytes)) await once(socket, 'drain');
}

/** Reads until a ReadyForQuery ends the stream; gives the number of bytes. */
function drain(socket: Socket): Promise<number> {
  return new Promise((resolve, reject) => {
    let bytes = 0;
    let tail: Buffer = Buffer.alloc(0);
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      tail = chunk.length >= 6 ? chunk.subarray(-6) : Buffer.concat([tail, chunk]).subarray(-6);
      if (tail.length === 6 && tail.toString('latin1', 0, 5) === 'Z\0\0\0\x05') {
        socket.removeAllListeners('data');
        resolve(bytes);
      }
    });
    socket.once('close', () => reject(new Error('closed')));
  });
}

/** Does the work both ways; the memory of this process, the gateway in it, must not grow by the work. */
async function both(what: string, work: (port: Port) => Promise<number>): Promise<void> {
  await work(through); // what is compiled and allocated once
  const start = performance.now();
  const expected = await work(direct);
  const directMs = performance.now() - start;
  const before = process.memoryUsage().rss;
  let most = 0;
  const watch = setInterval(() => {
    most = Math.max(most, process.memoryUsage().rss);
  }, 20);
  const started = performance.now();
  expect(await work(through)).toBe(expected);
  const throughMs = performance.now() - started;
  clearInterval(watch);
  const growth = Math.max(0, most - before) / MIB;
  console.log(
    `${what}, ${SIZE / MIB} MiB: direct ${directMs.toFixed(0)} ms, through ${throughMs.toFixed(0)} ms, memory +${growth.toFixed(0)} MiB`,
  );
  expect(growth).toBeLessThan(GROWTH_MAX / MIB);
}

test('COPY in', async () => {
  const line = Buffer.from(`${'x'.repeat(999)}\n`);
  const lines = Buffer.concat(Array(64).fill(line));
  const chunk = message('d', lines);
  await both('COPY in', async (port) => {
    const socket = await raw(port);
    socket.write(query('truncate bulk'));
    await drain(socket);
    const done = drain(socket);
    socket.write(query('copy bulk from stdin'));
    for (let sent = 0; sent < SIZE; sent += chunk.length) await write(socket, chunk);
    socket.write(message('c'));
    const bytes = await done;
    socket.destroy();
    return bytes;
  });
  const copies = gateway.recorder.statements.filter(({ kind }) => kind === 'copy');
  expect(copies.at(-1)).toMatchObject({ status: 'ok', rowsAffected: Math.ceil(SIZE / chunk.length) * 64 });
  expect(copies.at(-1)!.bytesSent).toBeGreaterThanOrEqual(SIZE);
});

test('COPY out', async () => {
  await both('COPY out', async (port) => {
    const socket = await raw(port);
    socket.write(query('copy bulk to stdout'));
    const bytes = await drain(socket);
    socket.destroy();
    return bytes;
  });
  expect(gateway.recorder.statements.at(-1)!.bytesReceived).toBeGreaterThanOrEqual(SIZE);
});

test('a single value, both ways', async () => {
  const size = Math.floor(SIZE / 2);
  const piece = Buffer.alloc(64 * 1024, 'x');
  const pieces = Math.floor(size / piece.length);
  const length = pieces * piece.length;
  const body = Buffer.concat([Buffer.from('\0\0'), Buffer.from([0, 1, 0, 1, 0, 1]), int4(length)]);
  const header = Buffer.alloc(5);
  header.write('B');
  header.writeUInt32BE(4 + body.length + length + 2, 1);
  await both('one value in, and out again', async (port) => {
    const socket = await raw(port);
    socket.write(query('truncate large'));
    await drain(socket);
    let done = drain(socket);
    socket.write(Buffer.concat([parse('', 'insert into large values ($1)', [17]), header, body]));
    for (let sent = 0; sent < pieces; sent += 1) await write(socket, piece);
    socket.write(Buffer.concat([Buffer.from([0, 0]), execute(''), sync()]));
    await done;
    done = drain(socket);
    socket.write(
      Buffer.concat([
        parse('', 'select a from large'),
        message('B', '', '', 0, 0, 1, 1),
        execute(''),
        sync(),
      ]),
    );
    const bytes = await done;
    socket.destroy();
    return bytes;
  });
  const insert = gateway.recorder.statements
    .filter(({ kind, text }) => kind === 'execute' && text?.startsWith('insert into large'))
    .at(-1)!;
  const hash = createHash('sha256');
  for (let sent = 0; sent < pieces; sent += 1) hash.update(piece);
  expect(insert.parameters![0]).toMatchObject({ type: 'bytea', bytes: length, sha256: hash.digest('hex') });
});

test('a client that reads slowly holds up the server, and nobody else', async () => {
  const socket = await raw(through);
  socket.pause();
  const before = process.memoryUsage().rss;
  socket.write(query(`select repeat('x', 10000) from generate_series(1, ${Math.floor(SIZE / 10_000)})`));
  const other = await WireClient.connect('127.0.0.1', gateway.port, { user: 'x', database: server.database });
  for (let round = 0; round < 20; round += 1) {
    const start = performance.now();
    other.send(query('select 1'));
    await other.until('Z');
    expect(performance.now() - start).toBeLessThan(1000);
    await sleep(50);
  }
  expect(process.memoryUsage().rss - before).toBeLessThan(GROWTH_MAX);
  const [backend] = await server.query(
    `select wait_event from pg_stat_activity where query like 'select repeat%' and state = 'active' and pid <> pg_backend_pid()`,
  );
  expect(backend!.wait_event).toBe('ClientWrite');
  socket.destroy();
  other.destroy();
});

test('a statement of many megabytes', async () => {
  const text = `select length('${'x'.repeat(Math.min(SIZE / 4, 300 * MIB))}')`;
  const sent = query(text);
  const before = process.memoryUsage().rss;
  const socket = await raw(through);
  const done = drain(socket);
  for (let at = 0; at < sent.length; at += MIB) await write(socket, sent.subarray(at, at + MIB));
  await done;
  expect(process.memoryUsage().rss - before).toBeLessThan(GROWTH_MAX);
  expect(gateway.recorder.statements.at(-1)).toMatchObject({
    kind: 'query',
    status: 'ok',
    textBytes: text.length,
    textSha256: createHash('sha256').update(text).digest('hex'),
  });
  socket.destroy();
});
