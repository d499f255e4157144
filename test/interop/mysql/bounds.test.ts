import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createConnection } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Refusal } from '../../../protocols/error.ts';
import { mysql } from '../../../protocols/mysql/engine.ts';
import type { DatabaseServer } from '../../support/database.ts';
import { startTestGateway, type TestGateway } from '../../support/gateway.ts';
import { startMariadb } from '../../support/mariadb.ts';
import { MYSQL_SETTINGS } from '../../support/mysql-peers.ts';
import { RawMysql } from '../../support/mysql-raw.ts';

/** What a session may cost: memory under large results and statements, and connections that nobody ended. */

const MEBIBYTE = 1024 * 1024;
/** Growth of the process beside what a test itself holds: buffers of sockets, and what is not collected yet. */
const GROWTH_BYTES_MAX = 150 * MEBIBYTE;

let server: DatabaseServer;
let gateway: TestGateway;

beforeAll(async () => {
  server = await startMariadb('10');
  await server.run(
    'create database lab',
    "create user raw@'%' identified by ''",
    "grant all on *.* to raw@'%'",
    'create table lab.numbers (n int primary key)',
    `insert into lab.numbers values ${Array.from({ length: 64 }, (_, n) => `(${n})`).join(',')}`,
    'create table lab.big (b longblob)',
    'set global max_allowed_packet = 1073741824',
  );
  gateway = await startTestGateway({
    engine: mysql,
    settings: { ...MYSQL_SETTINGS, flavor: 'mariadb' as const },
    servers: [{ host: server.host, port: server.port }],
    username: 'raw',
    password: null,
    database: 'lab',
  });
});

afterAll(async () => {
  await gateway?.close();
  await server?.stop();
});

const connect = () => RawMysql.connect({ port: gateway.port, user: 'x', database: 'lab' });

/** The most that the process has grown by, looked at while `work` goes on. */
async function growth(work: () => Promise<void>): Promise<number> {
  (globalThis as { gc?: () => void }).gc?.();
  const before = process.memoryUsage.rss();
  let most = before;
  const timer = setInterval(() => {
    most = Math.max(most, process.memoryUsage.rss());
  }, 20);
  await work();
  clearInterval(timer);
  return Math.max(most, process.memoryUsage.rss()) - before;
}

describe('memory', () => {
  test('a result of 2 GiB passes, also to a client that reads slowly', async () => {
    const raw = await connect();
    const socket = raw.detach();
    let bytes = 0;
    let pauses = 0;
    const grown = await growth(async () => {
      socket.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        // Every 200 MiB the client stops reading for a while.
        if (bytes > (pauses + 1) * 200 * MEBIBYTE) {
          pauses += 1;
          socket.pause();
          setTimeout(() => socket.resume(), 100);
        }
      });
      socket.write(raw.query("select repeat('x', 1048576) from numbers a, numbers b limit 2048"));
      const session = gateway.recorder.sessions.at(-1)!;
      await gateway.recorder.until(() => session.statements[0]?.ended === true, 100_000);
      expect(session.statements[0]).toMatchObject({ status: 'ok', rowsReturned: 2048 });
      while (bytes < session.statements[0]!.bytesReceived) await delay(10);
    });
    expect(bytes).toBeGreaterThan(2 * 1024 * MEBIBYTE);
    expect(grown / MEBIBYTE).toBeLessThan(GROWTH_BYTES_MAX / MEBIBYTE);
    socket.destroy();
  });

  test('a statement of 200 MiB passes, its digest on record', async () => {
    const raw = await connect();
    const socket = raw.detach();
    const session = gateway.recorder.sessions.at(-1)!;
    const full = 0xff_ffff;
    const text = Buffer.from("insert into big values ('");
    const digest = createHash('sha256');
    const grown = await growth(async () => {
      const filler = Buffer.alloc(full, 'y');
      const packets = 12;
      for (let index = 0; index < packets; index += 1) {
        const payload =
          index === 0
            ? Buffer.concat([Buffer.of(3), text, filler.subarray(0, full - 1 - text.length)])
            : filler;
        digest.update(index === 0 ? payload.subarray(1) : payload);
        socket.write(Buffer.of(0xff, 0xff, 0xff, index));
        if (!socket.write(payload)) await once(socket, 'drain');
      }
      digest.update("')");
      socket.write(Buffer.concat([Buffer.of(2, 0, 0, packets), Buffer.from("')")]));
      await gateway.recorder.until(() => session.statements[0]?.ended === true, 60_000);
    });
    expect(session.statements[0]).toMatchObject({
      status: 'ok',
      rowsAffected: 1,
      textBytes: 12 * full + 1,
      textSha256: digest.digest('hex'),
    });
    expect(session.statements[0]!.text).toHaveLength(64 * 1024);
    expect(grown / MEBIBYTE).toBeLessThan(GROWTH_BYTES_MAX / MEBIBYTE);
    socket.destroy();
  });
});

describe('ends', () => {
  test('clients that vanish leave nothing behind', async () => {
    for (let cycle = 0; cycle < 40; cycle += 1) {
      const raw = await connect();
      raw.write(raw.query('select n, repeat("x", 100000) from numbers where sleep(0.02) = 0'));
      const socket = raw.detach();
      if (cycle % 2 === 0) socket.resetAndDestroy();
      else socket.destroy();
    }
    const gone = async () =>
      (await server.run("select count(*) as n from information_schema.processlist where user = 'raw'"))[0]![
        'n'
      ] === 0;
    const deadline = Date.now() + 20_000;
    while (!(await gone())) {
      expect(Date.now()).toBeLessThan(deadline);
      await delay(50);
    }
    const ended = () => gateway.recorder.sessions.every(({ end_ }) => end_ !== null);
    await gateway.recorder.until(ended);
    expect(gateway.recorder.statements.every(({ ended: each }) => each)).toBe(true);
    expect(gateway.gateway.connections.size).toBe(0);
  });

  test('a session ended by an administrator: the client hears it, and the query stops', async () => {
    const raw = await connect();
    const session = gateway.recorder.sessions.at(-1)!;
    raw.write(raw.query('select count(*) from numbers a, numbers b where sleep(1) = 0'));
    await gateway.recorder.until(() => session.statements.length === 1);
    const busy = async () =>
      (
        await server.run(
          `select count(*) as n from information_schema.processlist where id = ${raw.connectionId} and info is not null`,
        )
      )[0]!['n'] === 1;
    while (!(await busy())) await delay(20);
    gateway.gateway.kill(session.id, new Refusal('killed', 'ended by an administrator'), 'killed');
    const last = await raw.packet();
    expect(last.toString('latin1')).toBe('\xff\x87\x07#70100ended by an administrator');
    await gateway.recorder.until(() => session.end_ !== null);
    expect(session.end_!.reason).toBe('killed');
    expect(session.statements[0]!.status).toBe('cancelled');
    while (await busy()) await delay(20);
  });

  test('a session that is idle too long: what the client is told is the reply to its next command', async () => {
    const idle = await startTestGateway({
      engine: mysql,
      settings: { ...MYSQL_SETTINGS, flavor: 'mariadb' as const },
      servers: [{ host: server.host, port: server.port }],
      username: 'raw',
      password: null,
      limits: { idleTimeoutMs: 300 },
    });
    const raw = await RawMysql.connect({ port: idle.port, user: 'x', database: 'lab' });
    await raw.ask(raw.query('select 1'));
    const bytes = await raw.rest();
    expect(bytes[3]).toBe(1);
    expect(bytes.readUInt16LE(5)).toBe(4031);
    expect(bytes.toString('latin1', 7)).toMatch(/^#HY000the session was idle/);
    await idle.close();
  });

  test('bytes that are no packets end nothing but their own session', async () => {
    const good = await connect();
    const bad = await connect();
    const socket = bad.detach();
    socket.write(Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'));
    // "GET " is the header of a packet of 5.5 MB: the rest never comes.
    socket.end();
    await once(socket.resume(), 'close');
    expect((await good.ask(good.query('select 1'))).length).toBeGreaterThan(10);
    good.end();
    const half = createConnection({ host: '127.0.0.1', port: gateway.port });
    await once(half, 'data');
    half.destroy();
  });
});
