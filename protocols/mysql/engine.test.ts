import * as tls from 'node:tls';
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import type { ChannelTls } from '../../src/gateway/channel.ts';
import { type Issued, makeAuthority } from '../../test/support/certificates.ts';
import {
  CLIENT_FLAGS,
  clientResponse,
  errorPacket,
  launch,
  OK,
  type Peer,
  readGreeting,
  type ServerScript,
  scriptedServer,
  serverGreeting,
  TestEntry,
  type TestEntryOptions,
  verifierOf,
  welcomingServer,
} from '../../test/support/mysql-peers.ts';
import type { Handshake } from '../engine.ts';
import { ProtocolError, Refusal } from '../error.ts';
import { Secret } from '../secret.ts';
import { nativeReply } from './auth/native.ts';
import { sha2Reply } from './auth/sha2.ts';
import { COMPRESS, has, LOCAL_FILES, MULTI_FACTOR_AUTHENTICATION, SSL } from './capabilities.ts';
import { mysql } from './engine.ts';
import { type Greeting, greetingPayload } from './greeting.ts';
import { packet } from './packets.ts';
import { attributesOf, parseResponse, sslRequestPayload, withAttributes } from './response.ts';

const TOKEN = 'launch-token';
const NATIVE = 'mysql_native_password';
const SHA2 = 'caching_sha2_password';

let issued: Issued;
let listenerTls: ChannelTls;

beforeAll(async () => {
  issued = await (await makeAuthority('Listeners')).issue({ commonName: 'gateway.test' });
  listenerTls = {
    mode: 'prefer',
    context: tls.createSecureContext({ cert: issued.chain, key: issued.key }),
    certificate: issued.der,
  };
});

interface Run {
  readonly entry: TestEntry;
  readonly outcome: Promise<Handshake>;
  readonly peer: Peer;
}

function start(options: TestEntryOptions = {}): Run {
  const entry = new TestEntry(options);
  const outcome = mysql.handshake(entry);
  outcome.catch(() => {});
  return { entry, outcome, peer: entry.peer };
}

/** The client's side up to its answer; `answer` makes it from the greeting. */
async function answer(
  peer: Peer,
  make: (greeting: Greeting) => Parameters<typeof clientResponse>[0],
): Promise<Greeting> {
  const greeting = await readGreeting(peer);
  peer.write(clientResponse(make(greeting)));
  return greeting;
}

function errorOf(payload: Buffer): { errno: number; sqlstate: string; message: string } {
  expect(payload[0]).toBe(0xff);
  return {
    errno: payload.readUInt16LE(1),
    sqlstate: payload.toString('latin1', 4, 9),
    message: payload.toString('utf8', 9),
  };
}

describe('trust', () => {
  test.each([
    ['no password', SHA2, Buffer.alloc(0), false],
    ['one NUL for none', SHA2, Buffer.of(0), false],
    ['any password', SHA2, Buffer.alloc(32, 9), true],
    ['the native plugin, whatever the greeting says', NATIVE, Buffer.alloc(20, 9), false],
    ['a plugin that nobody knows', 'dummy_fallback_auth', Buffer.alloc(0), false],
  ])('%s', async (_what, plugin, reply, fast) => {
    const { entry, outcome, peer } = start();
    await answer(peer, () => ({ plugin, reply }));
    if (fast) expect(await peer.read()).toEqual(Buffer.of(1, 3));
    expect(await peer.read()).toEqual(OK);
    expect(peer.sequence).toBe(fast ? 4 : 3);
    await expect(outcome).resolves.toMatchObject({ kind: 'session' });
    expect(entry.claims[0]).toMatchObject({ user: 'alice', database: null });
    expect(entry.facts[0]).toMatchObject({
      databaseUser: 'app',
      serverVersion: '9.7.4',
      serverSession: '77',
    });
  });

  test('a client without plugins gets in, too', async () => {
    const { outcome, peer } = start();
    await answer(peer, () => ({ flags: 0x0006f3cf & ~8, reply: Buffer.alloc(20, 1) }));
    expect(await peer.read()).toEqual(OK);
    await expect(outcome).resolves.toMatchObject({ kind: 'session' });
  });

  test('what the client asked for reaches the server, and who it is does not', async () => {
    const seen: Buffer[] = [];
    const { entry, outcome, peer } = start({ servers: [welcomingServer(serverGreeting(), seen)] });
    await answer(peer, () => ({
      user: 'somebody',
      collation: 45,
      packetBytesMax: 123_456,
      flags: (CLIENT_FLAGS | 8 | LOCAL_FILES | COMPRESS) >>> 0,
      database: Buffer.from('lab'),
      attributes: withAttributes(Buffer.alloc(0), { program_name: 'shop', _client_name: 'libmysql' }),
    }));
    await peer.read();
    await outcome;
    const sent = parseResponse(seen[0]!, 0xdfffffff, 0);
    expect(sent).toMatchObject({
      user: 'app',
      collation: 45,
      packetBytesMax: 123_456,
      database: Buffer.from('lab'),
    });
    expect(sent.flags).toBe(((CLIENT_FLAGS | 8) & ~LOCAL_FILES) >>> 0);
    expect(attributesOf(sent.attributes)).toEqual({
      program_name: 'shop',
      _client_name: 'libmysql',
      sallyport_session: 'session-1',
      sallyport_principal: 'tester',
    });
    expect(entry.claims[0]).toMatchObject({ user: 'somebody', database: 'lab', program: 'shop' });
  });

  test('further factors are agreed on with the server, never with the client', async () => {
    const seen: Buffer[] = [];
    const { outcome, peer } = start({ servers: [welcomingServer(serverGreeting(), seen)] });
    const greeting = await answer(peer, () => ({}));
    await peer.read();
    await outcome;
    expect(has(greeting.capabilities, MULTI_FACTOR_AUTHENTICATION)).toBe(false);
    expect(has(seen[0]!.readUInt32LE(0), MULTI_FACTOR_AUTHENTICATION)).toBe(true);
  });

  test('MariaDB: extended flags are cut to what both know', async () => {
    const seen: Buffer[] = [];
    const { outcome, peer } = start({ servers: [welcomingServer(serverGreeting('mariadb'), seen)] });
    const greeting = await answer(peer, () => ({ flags: 0x00bfa284, extended: 0x3d, plugin: NATIVE }));
    expect(greeting).toMatchObject({
      extended: 0x1d,
      plugin: NATIVE,
      serverVersion: '5.5.5-10.11.19-MariaDB',
    });
    await peer.read();
    await expect(outcome).resolves.toMatchObject({
      session: { facts: { serverVersion: '10.11.19-MariaDB' } },
    });
    expect(parseResponse(seen[0]!, 0x81fffffe, 0xffff).extended).toBe(0x1d);
  });

  test('a session that may only read is held to it by the server', async () => {
    const seen: Buffer[] = [];
    const { outcome, peer } = start({
      readOnly: true,
      servers: [scriptedServer(serverGreeting(), [OK, OK], seen)],
    });
    await answer(peer, () => ({ flags: (CLIENT_FLAGS | (1 << 27)) >>> 0 }));
    await peer.read();
    await outcome;
    expect(seen[1]!.toString('latin1')).toBe('\x03\x00\x01SET SESSION TRANSACTION READ ONLY');
  });
});

describe('tokens', () => {
  const challenge = { method: 'token', verifier: verifierOf(TOKEN) } as const;
  const token = Buffer.from(TOKEN);

  test.each([
    ['caching_sha2_password', SHA2, 'mysql', sha2Reply],
    ['native against a MariaDB', NATIVE, 'mariadb', nativeReply],
    ['native against a MySQL', NATIVE, 'mysql', nativeReply],
    ['caching_sha2_password against a MariaDB', SHA2, 'mariadb', sha2Reply],
  ] as const)('%s: the right one gets in, the wrong one does not', async (_what, plugin, family, reply) => {
    for (const shown of [token, Buffer.from('wrong')]) {
      const { entry, outcome, peer } = start({
        challenge,
        servers: [welcomingServer(serverGreeting(family))],
      });
      await answer(peer, (greeting) => ({ plugin, reply: reply(shown, greeting.scramble) }));
      const first = await peer.read();
      if (shown === token) {
        if (plugin === SHA2) expect(first).toEqual(Buffer.of(1, 3));
        await expect(outcome).resolves.toMatchObject({ kind: 'session' });
      } else {
        expect(errorOf(first)).toMatchObject({ errno: 1045, sqlstate: '28000' });
        await expect(outcome).rejects.toMatchObject({ code: 'credentials_invalid' });
        expect(entry.given).toEqual([]);
      }
      expect(entry.proofs).toEqual([{ method: 'token', valid: shown === token }]);
    }
  });

  test.each([
    ['an empty reply under a plugin other than the greeting’s', SHA2, 'mariadb', SHA2, sha2Reply],
    ['a plugin that is not known', 'dialog', 'mysql', NATIVE, nativeReply],
    ['a password in clear on an open connection', 'mysql_clear_password', 'mysql', NATIVE, nativeReply],
  ] as const)('%s is asked again, once', async (_what, plugin, family, asked, reply) => {
    for (const shown of [token, Buffer.from('wrong')]) {
      const { outcome, peer } = start({ challenge, servers: [welcomingServer(serverGreeting(family))] });
      const first = plugin === 'mysql_clear_password' ? Buffer.from(`${TOKEN}\0`) : Buffer.alloc(0);
      const greeting = await answer(peer, () => ({ plugin, reply: first }));
      const request = await peer.read();
      expect(request.toString('latin1', 0, asked.length + 2)).toBe(`\xfe${asked}\0`);
      const scramble = request.subarray(asked.length + 2, -1);
      expect(scramble).toHaveLength(20);
      expect(scramble).not.toEqual(greeting.scramble);
      peer.write(reply(shown, scramble));
      if (shown === token) await expect(outcome).resolves.toMatchObject({ kind: 'session' });
      else await expect(outcome).rejects.toMatchObject({ code: 'credentials_invalid' });
    }
  });

  test('an empty password under the greeting’s plugin is wrong at once', async () => {
    const { outcome, peer } = start({ challenge });
    await answer(peer, () => ({ reply: Buffer.of(0) }));
    expect(errorOf(await peer.read())).toMatchObject({ errno: 1045 });
    await expect(outcome).rejects.toMatchObject({ code: 'credentials_invalid' });
  });

  test('inside TLS it may be shown in clear', async () => {
    const { outcome, peer } = start({ challenge, clientTls: listenerTls });
    await startTls(peer);
    peer.write(clientResponse({ plugin: 'mysql_clear_password', reply: Buffer.from(`${TOKEN}\0`) }));
    expect(await peer.read()).toEqual(OK);
    await outcome;
  });

  test('a MariaDB client can check our certificate by the OK', async () => {
    const { outcome, peer } = start({
      challenge,
      clientTls: listenerTls,
      servers: [welcomingServer(serverGreeting('mariadb'))],
    });
    const greeting = await startTls(peer);
    peer.write(clientResponse({ plugin: NATIVE, reply: nativeReply(token, greeting.scramble) }));
    const ok = await peer.read();
    await outcome;
    const { createHash } = await import('node:crypto');
    const sha = (name: string, ...parts: Buffer[]): Buffer =>
      parts.reduce((hash, part) => hash.update(part), createHash(name)).digest();
    const secret = sha('sha1', sha('sha1', token));
    const expected = sha('sha256', secret, greeting.scramble, sha('sha256', issued.der))
      .toString('hex')
      .toUpperCase();
    expect(ok.toString('latin1', 7)).toBe(`\x41\x01${expected}`);
  });
});

describe('bearer tokens', () => {
  const challenge = { method: 'bearer' } as const;

  test.each([
    ['caching_sha2_password', SHA2, Buffer.alloc(32, 1), false],
    ['the native plugin', NATIVE, Buffer.alloc(20, 1), true],
  ] as const)(
    'inside TLS, from a client of %s: the token itself is asked for',
    async (_what, plugin, reply, switches) => {
      const { entry, outcome, peer } = start({ challenge, clientTls: listenerTls });
      await startTls(peer);
      peer.write(clientResponse({ plugin, reply }));
      if (switches) {
        expect((await peer.read()).toString('latin1', 0, 22)).toBe(`\xfe${SHA2}`);
        peer.write(Buffer.alloc(32, 2));
      }
      expect(await peer.read()).toEqual(Buffer.of(1, 4));
      peer.write(Buffer.from('a.jwt.token\0'));
      expect(await peer.read()).toEqual(OK);
      await outcome;
      const proof = entry.proofs[0]!;
      expect(proof.method === 'bearer' && proof.text.expose().toString()).toBe('a.jwt.token');
    },
  );

  test('in clear they are refused before they are sent', async () => {
    const { outcome, peer } = start({ challenge });
    await answer(peer, () => ({ reply: Buffer.alloc(32, 1) }));
    expect(errorOf(await peer.read())).toMatchObject({ errno: 3159, sqlstate: 'HY000' });
    await expect(outcome).rejects.toMatchObject({ code: 'tls_required' });
  });
});

describe('TLS of the client', () => {
  test('SSLRequest and ClientHello in one segment', async () => {
    const { outcome, peer } = start({ clientTls: listenerTls });
    await startTls(peer);
    peer.write(clientResponse());
    expect(await peer.read()).toEqual(OK);
    await expect(outcome).resolves.toMatchObject({ kind: 'session' });
  });

  test('a client that clears its SSL flag inside TLS', async () => {
    const { outcome, peer } = start({ clientTls: listenerTls });
    await startTls(peer);
    peer.write(clientResponse({ flags: CLIENT_FLAGS & ~SSL }));
    expect(await peer.read()).toEqual(OK);
    await outcome;
  });

  test('required: a client in clear hears so, in the server’s own number', async () => {
    const { outcome, peer } = start({ clientTls: { ...listenerTls, mode: 'require' } });
    await answer(peer, () => ({}));
    expect(errorOf(await peer.read())).toMatchObject({ errno: 3159, sqlstate: 'HY000' });
    await expect(outcome).rejects.toMatchObject({ code: 'tls_required' });
  });

  test('asked for where it is not offered, or together with a sign-in in clear: a bad handshake', async () => {
    for (const payload of [
      sslRequestPayload({ flags: CLIENT_FLAGS | SSL, extended: 0, packetBytesMax: 0, collation: 45 }),
      clientResponse({ flags: CLIENT_FLAGS | SSL }),
    ]) {
      const { outcome, peer } = start(payload.length === 32 ? {} : { clientTls: listenerTls });
      await readGreeting(peer);
      peer.write(payload);
      expect(errorOf(await peer.read())).toMatchObject({ errno: 1043, sqlstate: '08S01' });
      await expect(outcome).rejects.toMatchObject({ fault: 'client' });
    }
  });

  test('bytes in clear behind an SSLRequest are never taken for what came inside TLS', async () => {
    const { entry, outcome, peer } = start({ clientTls: listenerTls });
    await readGreeting(peer);
    const request = sslRequestPayload({
      flags: CLIENT_FLAGS | SSL,
      extended: 0,
      packetBytesMax: 0,
      collation: 45,
    });
    peer.channel.write(Buffer.concat([packet(1, request), packet(2, clientResponse())]));
    await expect(outcome).rejects.toMatchObject({ code: 'tls_failed', fault: 'client' });
    expect(entry.claims).toEqual([]);
  });
});

/** Asks for TLS and starts it, the ClientHello right behind the request. */
async function startTls(peer: Peer): Promise<Greeting> {
  const greeting = await readGreeting(peer);
  expect(has(greeting.capabilities, SSL)).toBe(true);
  peer.write(
    sslRequestPayload({ flags: CLIENT_FLAGS | SSL, extended: 0, packetBytesMax: 0x100_0000, collation: 255 }),
  );
  await peer.channel.connectTls({ serverName: 'gateway.test' });
  return greeting;
}

describe('what the database says', () => {
  const refused = async (
    script: ServerScript,
    options: TestEntryOptions = {},
  ): Promise<{ told: ReturnType<typeof errorOf>; entry: TestEntry; error: unknown }> => {
    const { entry, outcome, peer } = start({ servers: [script], ...options });
    await answer(peer, () => ({ database: Buffer.from('shop'), flags: CLIENT_FLAGS | 8 }));
    const told = errorOf(await peer.read());
    const error = await outcome.then(
      () => null,
      (reason: unknown) => reason,
    );
    return { told, entry, error };
  };
  const denying = (errno: number, message: string): ServerScript =>
    scriptedServer(serverGreeting(), [errorPacket(errno, '28000', message)]);

  test('a refused account is told of without its name, and on record with it', async () => {
    const { told, error } = await refused(
      denying(1045, "Access denied for user 'app'@'10.0.0.5' (using password: YES)"),
    );
    expect(told).toMatchObject({ errno: 1045, sqlstate: '28000' });
    expect(told.message).not.toMatch(/app|10\.0\.0\.5/);
    expect(error).toMatchObject({
      code: 'authentication_failed',
      serverCode: '1045/28000',
      message: expect.stringContaining("'app'@'10.0.0.5'"),
    });
  });

  test.each([
    [1044, "Access denied for user 'app'@'%' to database 'shop'", "Access denied to database 'shop'"],
    [1049, "Unknown database 'shop'", "Unknown database 'shop'"],
    [
      1226,
      "User 'app' has exceeded the 'max_user_connections' resource (current value: 1)",
      "User (launch account) has exceeded the 'max_user_connections' resource (current value: 1)",
    ],
    [
      1203,
      "User app already has more than 'max_user_connections' active connections",
      "already has more than 'max_user_connections'",
    ],
    [
      1129,
      "Host '10.0.0.5' is blocked because of many connection errors",
      'Host of the gateway is blocked because of many connection errors',
    ],
  ])('%i keeps its number', async (errno, message, shown) => {
    const { told } = await refused(denying(errno, message));
    expect(told.errno).toBe(errno);
    expect(told.message).toContain(shown);
    expect(told.message).not.toMatch(/10\.0\.0\.5|'app'|\bapp\b/);
  });

  test('an error in the place of the greeting is told after the client’s answer, inside its TLS', async () => {
    const busy: ServerScript = async (peer) => {
      peer.write(Buffer.concat([Buffer.of(0xff, 0x10, 0x04), Buffer.from('Too many connections')]));
    };
    const { entry, outcome, peer } = start({ servers: [busy], clientTls: listenerTls });
    await startTls(peer);
    peer.write(clientResponse());
    expect(errorOf(await peer.read())).toMatchObject({ errno: 1040, message: 'Too many connections' });
    await expect(outcome).rejects.toMatchObject({ code: 'server_error' });
    expect(entry.claims).toHaveLength(1);
  });

  test('a server that cannot be reached, or is none', async () => {
    const unreachable = await refused(welcomingServer(), { servers: [] });
    expect(unreachable.told).toMatchObject({ errno: 1105 });
    expect(unreachable.error).toMatchObject({ code: 'server_unreachable' });
    const none: ServerScript = async (peer) => {
      peer.channel.write(Buffer.from('SSH-2.0-OpenSSH_9.2\r\n'));
    };
    const other = await refused(none);
    expect(other.told).toMatchObject({ errno: 1105 });
    expect(other.error).toMatchObject({ fault: 'server' });
  });

  test('credentials that are refused are fetched anew, once', async () => {
    const seen: Buffer[] = [];
    const { entry, outcome, peer } = start({
      servers: [denying(1045, "Access denied for user 'app'@'%'"), welcomingServer(serverGreeting(), seen)],
      credentials: [launch(), launch('app2', 'rotated')],
    });
    await answer(peer, () => ({}));
    expect(await peer.read()).toEqual(OK);
    await expect(outcome).resolves.toMatchObject({ session: { facts: { databaseUser: 'app2' } } });
    expect(parseResponse(seen[0]!, 0xdfffffff, 0).user).toBe('app2');
    expect(entry.given.map(({ password }) => password?.wiped)).toEqual([true, true]);

    const again = start({
      servers: [denying(1045, 'Access denied')],
      credentials: [launch(), launch('app2'), launch('app3')],
    });
    await answer(again.peer, () => ({}));
    expect(errorOf(await again.peer.read())).toMatchObject({ errno: 1045 });
    await expect(again.outcome).rejects.toMatchObject({ code: 'authentication_failed' });
    expect(again.entry.given).toHaveLength(2);
    expect(again.entry.given.every(({ password }) => password?.wiped)).toBe(true);
  });

  test.each([
    ['closes', async (peer: Peer) => peer.channel.destroy()],
    [
      'says that it has waited too long',
      async (peer: Peer) => peer.write(errorPacket(1159, '08S01', 'Got timeout')),
    ],
  ])('a server that %s while the client took its time is called again', async (_what, end) => {
    const impatient: ServerScript = async (peer) => {
      peer.write(greetingPayload(serverGreeting()));
      await peer.channel.peek(4, 'answer');
      peer.sequence = 1;
      await end(peer);
    };
    const { entry, outcome, peer } = start({ servers: [impatient, welcomingServer()] });
    await answer(peer, () => ({}));
    expect(await peer.read()).toEqual(OK);
    await outcome;
    expect(entry.dialled).toHaveLength(2);
  });

  test('a second server that cannot do what the client was promised is not used', async () => {
    const impatient: ServerScript = async (peer) => {
      peer.write(greetingPayload(serverGreeting()));
      await peer.channel.peek(4, 'answer');
      peer.channel.destroy();
    };
    const lesser = serverGreeting('mysql', { capabilities: 0xdeffffff });
    const { outcome, peer } = start({ servers: [impatient, welcomingServer(lesser)] });
    await answer(peer, () => ({}));
    expect(errorOf(await peer.read())).toMatchObject({ errno: 1105 });
    await expect(outcome).rejects.toMatchObject({ code: 'unsupported', fault: 'server' });
  });
});

describe('refusals', () => {
  test('each is told in its turn, and the server gets its answer', async () => {
    const left: Buffer[] = [];
    const greeting = serverGreeting();
    const server = scriptedServer(greeting, [errorPacket(1045, '28000', 'Access denied')], left);
    const { entry, outcome, peer } = start({
      servers: [server],
      admit: () => {
        throw new Refusal('session_limit', 'too many sessions on orders', { hint: 'Close a connection.' });
      },
    });
    await answer(peer, () => ({}));
    expect(errorOf(await peer.read())).toEqual({
      errno: 1040,
      sqlstate: '08004',
      message: 'too many sessions on orders (Close a connection.)',
    });
    await expect(outcome).rejects.toMatchObject({ code: 'session_limit' });
    expect(parseResponse(left[0]!, greeting.capabilities, 0).user).toBe('');
    expect(entry.given).toEqual([]);
  });

  test('a session that cannot be recorded does not begin', async () => {
    const { outcome, peer } = start({
      opened: async () => {
        throw new Refusal('recording_unavailable', 'this session cannot be recorded');
      },
    });
    await answer(peer, () => ({}));
    expect(errorOf(await peer.read())).toMatchObject({ errno: 1105 });
    await expect(outcome).rejects.toMatchObject({ code: 'recording_unavailable' });
  });

  test('a client older than 4.1', async () => {
    const { outcome, peer } = start();
    await readGreeting(peer);
    peer.write(Buffer.from('8500000000726f6f7400', 'hex'));
    expect(errorOf(await peer.read())).toMatchObject({ errno: 1251, sqlstate: '08004' });
    await expect(outcome).rejects.toMatchObject({ code: 'unsupported', fault: 'client' });
  });

  test('a client that goes without a word is no fault, and the server is left in order', async () => {
    const left: Buffer[] = [];
    const { outcome, peer } = start({
      servers: [scriptedServer(serverGreeting(), [errorPacket(1045, '28000', 'Access denied')], left)],
    });
    await readGreeting(peer);
    peer.channel.end();
    await expect(outcome).resolves.toEqual({ kind: 'served' });
    expect(left).toHaveLength(1);
  });
});

describe('several resources behind one address', () => {
  test('the client is greeted before the server is known, and gets what both have', async () => {
    const seen: Buffer[] = [];
    const { entry, outcome, peer } = start({
      several: true,
      servers: [welcomingServer(serverGreeting('mariadb'), seen)],
    });
    const greeting = await answer(peer, () => ({ flags: CLIENT_FLAGS | LOCAL_FILES }));
    expect(greeting.serverVersion).toBe('8.0.36');
    expect(has(greeting.capabilities, LOCAL_FILES)).toBe(true);
    expect(await peer.read()).toEqual(OK);
    await outcome;
    expect(entry.dialled).toHaveLength(1);
    expect(has(seen[0]!.readUInt32LE(0), LOCAL_FILES)).toBe(false);
    expect(
      parseResponse(seen[0]!, 0xffffffff, 0).flags & ~greeting.capabilities & ~MULTI_FACTOR_AUTHENTICATION,
    ).toBe(0);
  });

  test('a server that cannot do what was promised is not used', async () => {
    const old = serverGreeting('mysql', {
      serverVersion: '5.6.51',
      capabilities: 0x807ff7ff,
      plugin: NATIVE,
    });
    const { outcome, peer } = start({ several: true, servers: [welcomingServer(old)] });
    await answer(peer, () => ({}));
    expect(errorOf(await peer.read())).toMatchObject({ errno: 1105 });
    await expect(outcome).rejects.toMatchObject({ code: 'unsupported' });
  });
});

describe('garbage', () => {
  test('an HTTP request and a 16 MiB length are refused by their header', async () => {
    for (const bytes of ['GET / HTTP/1.1\r\nHost: x\r\n\r\n', '\xff\xff\xff\x01']) {
      const { outcome, peer } = start();
      await readGreeting(peer);
      peer.channel.write(Buffer.from(bytes, 'latin1'));
      await expect(outcome).rejects.toMatchObject({ code: 'length_out_of_range', fault: 'client' });
    }
  });

  test('a client that stops at any byte: an error or nothing to serve, and the server is left', async () => {
    const whole = packet(
      1,
      clientResponse({ attributes: withAttributes(Buffer.alloc(0), { program_name: 'shop' }) }),
    );
    for (let length = 0; length < whole.length; length += 1) {
      const { entry, outcome, peer } = start();
      await readGreeting(peer);
      peer.channel.write(whole.subarray(0, length));
      peer.channel.end();
      if (length === 0) await expect(outcome).resolves.toEqual({ kind: 'served' });
      else
        await expect(outcome, `${length} bytes`).rejects.toMatchObject({
          code: 'unexpected_end',
          fault: 'client',
        });
      expect(entry.claims).toEqual([]);
    }
  });

  test('byte by byte it is understood all the same', async () => {
    const { outcome, peer } = start();
    await readGreeting(peer);
    for (const byte of packet(1, clientResponse({ database: Buffer.from('lab'), flags: CLIENT_FLAGS | 8 }))) {
      peer.channel.write(Buffer.of(byte));
      await new Promise(setImmediate);
    }
    peer.sequence = 2;
    expect(await peer.read()).toEqual(OK);
    await outcome;
  });

  test('a client that stops within its TLS handshake, or within its reply to a switch', async () => {
    const request = sslRequestPayload({
      flags: CLIENT_FLAGS | SSL,
      extended: 0,
      packetBytesMax: 0,
      collation: 45,
    });
    const hello = Buffer.from('160301020001000150010303', 'hex');
    for (let length = 0; length <= hello.length; length += 1) {
      const { entry, outcome, peer } = start({ clientTls: listenerTls });
      await readGreeting(peer);
      peer.channel.write(Buffer.concat([packet(1, request), hello.subarray(0, length)]));
      peer.channel.end();
      await expect(outcome, `${length} bytes`).rejects.toMatchObject({ code: 'tls_failed', fault: 'client' });
      expect(entry.claims).toEqual([]);
    }
    const reply = packet(3, Buffer.alloc(20, 1));
    for (let length = 0; length < reply.length; length += 1) {
      const { entry, outcome, peer } = start({ challenge: { method: 'token', verifier: verifierOf(TOKEN) } });
      await answer(peer, () => ({ plugin: 'dialog' }));
      await peer.read();
      peer.channel.write(reply.subarray(0, length));
      peer.channel.end();
      await expect(outcome, `${length} bytes`).rejects.toMatchObject({
        code: 'unexpected_end',
        fault: 'client',
      });
      expect(entry.proofs).toEqual([]);
    }
  });

  test('whoever stalls, where the deadline finds the sign-in waiting: the client hears so', async () => {
    const late = new ProtocolError('timeout', 'client', 'the sign-in took longer than 10 s');
    const silentServer: ServerScript = async (peer) => {
      peer.write(greetingPayload(serverGreeting()));
      await peer.read();
    };
    const stages: { options: TestEntryOptions; play: (peer: Peer) => Promise<void>; errno: number | null }[] =
      [
        { options: {}, play: async (peer) => void (await readGreeting(peer)), errno: 1159 },
        {
          options: { clientTls: listenerTls },
          play: async (peer) => {
            await readGreeting(peer);
            peer.write(
              sslRequestPayload({ flags: CLIENT_FLAGS | SSL, extended: 0, packetBytesMax: 0, collation: 45 }),
            );
          },
          errno: null,
        },
        {
          options: { servers: [silentServer] },
          play: async (peer) => void (await answer(peer, () => ({}))),
          errno: 1105,
        },
      ];
    for (const { options, play, errno } of stages) {
      const { entry, outcome, peer } = start(options);
      await play(peer);
      await new Promise((resolve) => setTimeout(resolve, 20));
      entry.client.fail(late);
      for (const server of entry.servers) server.fail(new ProtocolError('timeout', 'server', late.message));
      await expect(outcome).rejects.toMatchObject({ code: 'timeout' });
      if (errno !== null) expect(errorOf(await peer.read())).toMatchObject({ errno });
    }
  });

  test('random answers end in an error for the client or in a session, never otherwise', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 120 }), fc.boolean(), async (bytes, wellFramed) => {
        const { outcome, peer } = start({ challenge: { method: 'token', verifier: verifierOf(TOKEN) } });
        await readGreeting(peer);
        peer.channel.write(wellFramed ? packet(1, Buffer.from(bytes)) : Buffer.from(bytes));
        peer.channel.end();
        const result = await outcome.catch((error: unknown) => error);
        expect(result).toSatisfy(
          (value: unknown) =>
            (value as Error).name === 'ProtocolError' ||
            value instanceof Refusal ||
            (value as Handshake).kind === 'served',
        );
      }),
      { numRuns: 150 },
    );
  });
});

describe('interrupt and probe', () => {
  test('KILL QUERY with the server’s own id, as the launch account', async () => {
    const { entry, outcome, peer } = start({ credentials: [launch(), launch('app', 'again')] });
    await answer(peer, () => ({}));
    await peer.read();
    const handshake = await outcome;
    if (handshake.kind !== 'session') throw new Error('no session');
    const seen: Buffer[] = [];
    const second = new TestEntry({ servers: [scriptedServer(serverGreeting(), [OK, OK], seen)] });
    await handshake.session.interrupt({
      dial: () => second.dial({ host: 'db.test', port: 3306 }),
      credentials: () => entry.credentials(),
      observer: undefined as never,
      send: () => {},
    });
    await second.scripts[0];
    expect(parseResponse(seen[0]!, 0xdfffffff, 0)).toMatchObject({ user: 'app' });
    expect(seen[1]!.toString('latin1')).toBe('\x03KILL QUERY 77');
    expect(seen[2]).toEqual(Buffer.of(1));
    expect(entry.given[1]?.password?.wiped).toBe(true);
  });

  test('a probe signs in, opens the database and says goodbye', async () => {
    const seen: Buffer[] = [];
    const entry = new TestEntry({ servers: [welcomingServer(serverGreeting('mariadb'), seen)] });
    const channel = await entry.dial({ host: 'db.test', port: 3306 });
    const credentials = { ...launch(), password: Secret.fromText('pw') };
    await expect(
      mysql.probe(channel, entry.resource!, credentials, { database: 'lab', random: Buffer.alloc }),
    ).resolves.toMatchObject({
      engine: 'mysql',
      databaseUser: 'app',
      database: 'lab',
      authentication: NATIVE,
    });
    await entry.scripts[0];
    expect(seen[1]).toEqual(Buffer.of(1));
  });
});
