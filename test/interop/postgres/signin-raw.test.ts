import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import * as tls from 'node:tls';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startupPacket } from '../../../protocols/postgres/packets.ts';
import { type Authority, makeAuthority } from '../../support/certificates.ts';
import type { TestGateway } from '../../support/gateway.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { psql } from '../../support/postgres-clients.ts';
import {
  type PostgresGatewayOptions,
  queryThrough,
  startPostgresGateway,
  TokenAccess,
} from '../../support/postgres-gateway.ts';

/** First packets as no well-behaved client sends them, over real sockets to a real gateway and server. */

let authority: Authority;
let server: PostgresServer;
const all: TestGateway[] = [];
let clear: TestGateway;
let secure: TestGateway;

async function start(options: PostgresGatewayOptions): Promise<TestGateway> {
  const gateway = await startPostgresGateway(server, options);
  all.push(gateway);
  return gateway;
}

let certificate: Awaited<ReturnType<Authority['issue']>>;

beforeAll(async () => {
  authority = await makeAuthority('Raw');
  certificate = await authority.issue({ commonName: 'gateway', hosts: ['localhost', '127.0.0.1'] });
  server = await startPostgres({ major: 18 });
  clear = await start({});
  secure = await start({ clientTls: { certificate, mode: 'require' } });
});

afterAll(async () => {
  for (const gateway of all) await gateway.close();
  await server.stop();
});

const SSL_REQUEST = Buffer.from('0000000804d2162f', 'hex');
const GSSENC_REQUEST = Buffer.from('0000000804d21630', 'hex');
const STARTUP = startupPacket(0x30000, [
  ['user', 'x'],
  ['database', 'appdb'],
]);
const QUERY = Buffer.concat([Buffer.from('5100000011', 'hex'), Buffer.from('SELECT 4711;\0')]);

/** Everything that comes until the peer closes, or until it ends with ReadyForQuery `count` times. */
function hear(socket: Socket, readies = Number.POSITIVE_INFINITY): Promise<Buffer> {
  return new Promise((resolve) => {
    let bytes = Buffer.alloc(0);
    const take = (chunk: Buffer): void => {
      bytes = Buffer.concat([bytes, chunk]);
      if (bytes.toString('latin1').split('Z\0\0\0\x05').length - 1 < readies) return;
      socket.off('data', take);
      resolve(bytes);
    };
    socket.on('error', () => {});
    socket.on('data', take);
    socket.once('close', () => resolve(bytes));
  });
}

function open(gateway: TestGateway): Socket {
  return connect({ host: '127.0.0.1', port: gateway.port, noDelay: true });
}

/** What a client gets that sends these bytes, half-closes, and waits for the end. */
async function say(gateway: TestGateway, bytes: Buffer): Promise<string> {
  const socket = open(gateway);
  socket.end(bytes);
  return (await hear(socket)).toString('latin1');
}

const secureOptions = (): tls.ConnectionOptions => ({ ca: authority.cert, host: '127.0.0.1' });

describe('first packets', () => {
  it('asking for TLS get exactly one byte', async () => {
    expect(await say(clear, SSL_REQUEST)).toBe('N');
    const socket = open(secure);
    socket.write(SSL_REQUEST);
    const [answer] = (await once(socket, 'data')) as [Buffer];
    expect(answer.toString()).toBe('S');
    socket.destroy();
  });

  it('asking for GSS and TLS in either order come to a session', async () => {
    for (const order of [
      [GSSENC_REQUEST, SSL_REQUEST],
      [SSL_REQUEST, GSSENC_REQUEST],
    ]) {
      const socket = open(clear);
      for (const request of order) {
        socket.write(request);
        expect(String((await once(socket, 'data'))[0])).toBe('N');
      }
      socket.write(STARTUP);
      expect((await hear(socket, 1)).toString('latin1')).toMatch(/^R/);
      socket.write(QUERY);
      expect((await hear(socket, 1)).toString('latin1')).toContain('4711');
      socket.destroy();
    }
  });

  it('with a startup packet stuffed behind SSLRequest reach no server', async () => {
    for (const gateway of [await start({}), await start({ clientTls: { certificate } })]) {
      expect(await say(gateway, Buffer.concat([SSL_REQUEST, STARTUP]))).toBe('');
      expect(gateway.logs.join('')).toContain('tls_stuffing');
      expect(gateway.recorder.sessions).toEqual([]);
      expect(await gateway.metrics.registry.metrics()).not.toContain('phase="connect"');
    }
  });

  it('with the ClientHello behind SSLRequest in one segment work', async () => {
    // TLS over a stream of our own, so that its first bytes can be glued to the request.
    const { duplexPair } = await import('node:stream');
    const [inner, outer] = duplexPair();
    const socket = open(secure);
    let hello = true;
    outer.on('data', (chunk: Buffer) => {
      socket.write(hello ? Buffer.concat([SSL_REQUEST, chunk]) : chunk);
      hello = false;
    });
    let answered = false;
    socket.on('data', (chunk: Buffer) => {
      const rest = answered ? chunk : chunk.subarray(1);
      if (!answered) expect(String.fromCharCode(chunk[0]!)).toBe('S');
      answered = true;
      if (rest.length > 0) outer.write(rest);
    });
    const encrypted = tls.connect({ ...secureOptions(), socket: inner as never });
    encrypted.write(STARTUP);
    await hear(encrypted, 1);
    encrypted.write(QUERY);
    expect((await hear(encrypted, 1)).toString('latin1')).toContain('4711');
    socket.destroy();
  });

  it('of direct TLS need the ALPN', async () => {
    const good = tls.connect({ ...secureOptions(), port: secure.port, ALPNProtocols: ['postgresql'] });
    good.write(STARTUP);
    expect((await hear(good, 1)).toString('latin1')).toMatch(/^R/);
    good.destroy();
    const none = tls.connect({ ...secureOptions(), port: secure.port });
    none.write(STARTUP);
    expect((await hear(none)).length).toBe(0);
    const other = tls.connect({ ...secureOptions(), port: secure.port, ALPNProtocols: ['h2'] });
    const [error] = (await once(other, 'error')) as [NodeJS.ErrnoException];
    expect(error.message).toMatch(/no application protocol/i);
  });

  it.each([
    ['10001 bytes', Buffer.from('0000271500030000', 'hex'), ''],
    ['a length of 7', Buffer.from('0000000700030000', 'hex'), ''],
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\nHost: db\r\n\r\n'), ''],
    [
      'no terminator',
      Buffer.concat([Buffer.from('0000000f00030000', 'hex'), Buffer.from('user\0x\0')]),
      'C08P01',
    ],
    [
      'protocol 2',
      Buffer.from('0000000900020000'.padEnd(18, '0'), 'hex'),
      'EFATAL:  unsupported frontend protocol 2.0',
    ],
    ['protocol 4', Buffer.from('0000000900040000'.padEnd(18, '0'), 'hex'), 'C0A000'],
    ['no user', Buffer.from('0000000900030000'.padEnd(18, '0'), 'hex'), 'C28000'],
  ])('of %s are answered as PostgreSQL does', async (_, bytes, expected) => {
    const heard = await say(clear, bytes);
    if (expected === '') expect(heard).toBe('');
    else expect(heard).toContain(expected);
  });

  it('that never come end with the deadline, and hold up nobody', async () => {
    const gateway = await start({ limits: { handshakeTimeoutMs: 300 }, clientTls: { certificate } });
    const silent = [open(gateway), open(gateway), open(gateway)];
    silent[1]?.write(STARTUP.subarray(0, 11));
    silent[2]?.write(SSL_REQUEST);
    await queryThrough(gateway);
    const heard = await Promise.all(silent.map((socket) => hear(socket)));
    expect(heard.map(String)).toEqual(['', '', 'S']);
    expect(gateway.gateway.connections.size).toBe(0);
  });

  it('of a client that stalls in the middle of its proof end with an error that says so', async () => {
    const gateway = await start({
      limits: { handshakeTimeoutMs: 300 },
      access: new TokenAccess('x'),
      clientAuth: 'token',
    });
    const socket = open(gateway);
    socket.write(STARTUP);
    expect((await hear(socket)).toString('latin1')).toMatch(/^R.*C57014/s);
  });

  it('are the same one byte at a time, and with the first query behind them', async () => {
    const socket = open(clear);
    for (const byte of Buffer.concat([STARTUP, QUERY])) {
      socket.write(Buffer.from([byte]));
      await sleep(0);
    }
    expect((await hear(socket, 2)).toString('latin1')).toContain('4711');
    socket.destroy();
  });
});

describe('garbage', () => {
  it('on the listener costs its sender the connection and nobody else anything', async () => {
    const starts = [
      Buffer.alloc(0),
      SSL_REQUEST,
      GSSENC_REQUEST,
      STARTUP,
      Buffer.from('0000001004d2162e', 'hex'),
    ];
    for (const gateway of [clear, secure]) {
      await fc.assert(
        fc.asyncProperty(
          fc.constantFrom(...starts),
          fc.uint8Array({ maxLength: 200 }),
          async (first, rest) => {
            await say(gateway, Buffer.concat([first, rest]));
          },
        ),
        { numRuns: 60 },
      );
    }
    // Nor does a flood that nobody asked for stay in memory: it is not read before it is wanted.
    const socket = open(clear);
    socket.on('error', () => {});
    socket.write(Buffer.concat([STARTUP, randomBytes(1024 * 1024)]));
    await hear(socket, 1);
    socket.destroy();
    await queryThrough(clear);
    await queryThrough(secure, { ssl: { ca: authority.cert } });
    expect(clear.logs.join('')).not.toContain('"code":"internal"');
    expect(secure.logs.join('')).not.toContain('"code":"internal"');
  });
});

describe('a wrong token where TLS is required', () => {
  it('is one denial on record, though psql tries a second time in the clear', async () => {
    const gateway = await start({
      clientTls: { certificate, mode: 'require' },
      access: new TokenAccess('right'),
      clientAuth: 'token',
    });
    const conninfo = `host=127.0.0.1 port=${gateway.port} user=anyone dbname=appdb`;
    const { stderr } = await psql(conninfo, ['SELECT 1'], { PGPASSWORD: 'wrong' });
    expect(stderr).toContain('password authentication failed for user "anyone"');
    expect(stderr).toContain('connections without TLS are not accepted here');
    expect(gateway.recorder.audits.map(({ reason }) => reason)).toEqual(['credentials_invalid']);
  });

  it('does not hide what is wrong with the server from a client that binds the channel', async () => {
    const gateway = await start({
      clientTls: { certificate, mode: 'require' },
      access: new TokenAccess('right'),
      clientAuth: 'token',
    });
    const conninfo = `host=127.0.0.1 port=${gateway.port} user=anyone dbname=nowhere sslmode=require channel_binding=require`;
    const { stderr } = await psql(conninfo, ['SELECT 1'], { PGPASSWORD: 'right' });
    expect(stderr).toContain('database "nowhere" does not exist');
  });
});

describe('an account that may not have more connections', () => {
  it('is not named to the client', async () => {
    await server.query('ALTER ROLE scram_user CONNECTION LIMIT 0');
    const { user, password } = server.accounts.scram;
    const gateway = await start({ username: user, password });
    const error = (await queryThrough(gateway).catch((one: unknown) => one)) as Error & { code: string };
    expect(error.code).toBe('53300');
    expect(error.message).not.toContain(user);
  });
});
