import { constants, generateKeyPairSync, privateDecrypt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { duplexPair } from 'node:stream';
import * as tls from 'node:tls';
import { beforeAll, describe, expect, test } from 'vitest';
import type { ChannelTls } from '../../src/gateway/channel.ts';
import { NO_TLS, StreamChannel } from '../../src/gateway/channel.ts';
import { makeAuthority } from '../../test/support/certificates.ts';
import {
  errorPacket,
  launch,
  MYSQL_SETTINGS,
  OK,
  Peer,
  serverGreeting,
} from '../../test/support/mysql-peers.ts';
import type { Credentials, MysqlSettings } from '../engine.ts';
import { Secret } from '../secret.ts';
import { CONNECT_WITH_DB, has } from './capabilities.ts';
import { type Greeting, greetingPayload, parseGreeting } from './greeting.ts';
import { leave, login, meet, type SignedIn, type Wish } from './login.ts';
import { parseResponse, type Response } from './response.ts';

interface Vector {
  readonly name: string;
  readonly user: string;
  readonly password: string;
  readonly database: string | null;
  readonly packets: readonly (readonly ['S' | 'C' | 'T', string])[];
}
const VECTORS = JSON.parse(
  readFileSync(new URL('../../test/golden/mysql-vectors.json', import.meta.url), 'utf8'),
) as Vector[];

const WISH: Wish = {
  capabilities: 0x09bfa285,
  extended: 0,
  packetBytesMax: 0x100_0000,
  collation: 45,
  database: Buffer.alloc(0),
  attributes: Buffer.alloc(0),
};

let certificate: ChannelTls;
let trusting: ChannelTls;
let verifying: ChannelTls;

beforeAll(async () => {
  const authority = await makeAuthority('Databases');
  const issued = await authority.issue({ commonName: 'db.test' });
  certificate = { mode: 'prefer', context: tls.createSecureContext({ cert: issued.chain, key: issued.key }) };
  trusting = { mode: 'require', context: tls.createSecureContext() };
  verifying = { mode: 'verify-full', context: tls.createSecureContext({ ca: authority.cert }) };
});

interface Means {
  readonly credentials?: Credentials;
  readonly settings?: Partial<MysqlSettings>;
  readonly tls?: ChannelTls;
  readonly wish?: Partial<Wish>;
  readonly random?: (length: number) => Buffer;
  readonly host?: string;
}

/** Signs in against `script`, which plays the server behind its greeting. */
async function signIn(
  script: (peer: Peer, greeting: Greeting) => Promise<void>,
  means: Means = {},
  greeting = serverGreeting(),
): Promise<SignedIn> {
  const [near, far] = duplexPair();
  const host = means.host ?? 'db.test';
  const channel = new StreamChannel(near, 'server', { host, port: 3306 }, means.tls ?? NO_TLS);
  const peer = new Peer(new StreamChannel(far, 'client', { host: 'gateway.test', port: 1 }, certificate));
  peer.write(greetingPayload(greeting));
  const server = await meet(channel);
  const scripted = script(peer, greeting);
  const failed = scripted.catch(() => {
    peer.channel.destroy();
  });
  try {
    return await login(
      server,
      { ...WISH, ...means.wish },
      means.credentials ?? launch(),
      { ...MYSQL_SETTINGS, ...means.settings },
      means.random ?? (() => Buffer.alloc(32, 7)),
    );
  } finally {
    channel.destroy();
    await failed;
  }
}

async function response(peer: Peer, greeting: Greeting): Promise<Response> {
  let payload = await peer.read();
  if (payload.length === 32) {
    await peer.channel.acceptTls({});
    payload = await peer.read();
  }
  return parseResponse(payload, greeting.capabilities, greeting.extended);
}

const switchTo = (plugin: string, data: Buffer): Buffer =>
  Buffer.concat([Buffer.of(0xfe), Buffer.from(`${plugin}\0`), data]);
const more = (...bytes: number[]): Buffer => Buffer.of(0x01, ...bytes);
const SCRAMBLE = Buffer.from('abcdefghijklmnopqrst\0');

describe('conversations of real servers', () => {
  // The lab's client began otherwise in these two: with the native plugin, and with nothing.
  const FIRST_REPLY_DIFFERS = new Set(['V7', 'V14']);

  for (const vector of VECTORS) {
    test(`${vector.name}: the replies are those that the server took`, async () => {
      const [, ...packets] = vector.packets;
      const greeting = parseGreeting(Buffer.from(vector.packets[0]![1], 'hex').subarray(4));
      const usesTls = packets.some(([from]) => from === 'T');
      const outcome = signIn(
        async (peer) => {
          let first = true;
          for (const [from, text] of packets) {
            const payload = Buffer.from(text, 'hex').subarray(4);
            if (from === 'T') await peer.channel.acceptTls({});
            else if (from === 'S') peer.write(payload);
            else {
              const sent = await peer.read();
              if (payload.length === 32 && first && usesTls) expect(sent).toHaveLength(32);
              else if (first) {
                first = false;
                const expected = parseResponse(payload, greeting.capabilities, greeting.extended);
                const mine = parseResponse(sent, greeting.capabilities, greeting.extended);
                expect(mine.user).toBe(expected.user);
                expect(mine.database).toEqual(expected.database);
                if (!FIRST_REPLY_DIFFERS.has(vector.name)) expect(mine.reply).toEqual(expected.reply);
              } else if (payload.length === 256) expect(sent).toHaveLength(256);
              else expect(sent).toEqual(payload);
            }
          }
        },
        {
          credentials: launch(vector.user, vector.password),
          settings: { fetchServerPublicKey: true },
          wish: { database: Buffer.from(vector.database ?? '') },
          random: () =>
            Buffer.from('aaa77b35bd435612721baeea1248132c65218a8848a6d2466bb5b5f38a2b9308', 'hex'),
          ...(usesTls ? { tls: trusting } : {}),
        },
        greeting,
      );
      if (vector.name === 'V6')
        await expect(outcome).rejects.toMatchObject({
          code: 'authentication_failed',
          serverCode: '1045/28000',
        });
      else if (vector.name === 'V16')
        await expect(outcome).rejects.toMatchObject({
          code: 'authentication_failed',
          serverCode: '1698/28000',
        });
      else await expect(outcome).resolves.toMatchObject({ ok: expect.any(Buffer) });
    });
  }
});

describe('what is sent', () => {
  test('flags of the wish, those that the sign-in needs, and none that the server lacks', async () => {
    const greeting = serverGreeting('mysql', { capabilities: 0x00fff7df });
    let seen: Response | null = null;
    await signIn(
      async (peer) => {
        seen = await response(peer, greeting);
        peer.write(OK);
      },
      { wish: { database: Buffer.from('lab') } },
      greeting,
    );
    // No DEPRECATE_EOF, no QUERY_ATTRIBUTES, no further factors: the server has none of them.
    expect(seen).toMatchObject({ flags: 0x00bfa28d, user: 'app', database: Buffer.from('lab') });
  });

  test('the SSLRequest is the beginning of the answer that follows', async () => {
    let request: Buffer = Buffer.alloc(0);
    let answer: Buffer = Buffer.alloc(0);
    await signIn(
      async (peer) => {
        request = await peer.read();
        await peer.channel.acceptTls({});
        answer = await peer.read();
        peer.write(OK);
      },
      { tls: trusting },
    );
    expect(request).toHaveLength(32);
    expect(answer.subarray(0, 32)).toEqual(request);
  });

  test('a database is opened by a command where the server cannot do it at sign-in', async () => {
    const greeting = serverGreeting('mysql', { capabilities: 0xdfffffff & ~CONNECT_WITH_DB });
    let command: Buffer = Buffer.alloc(0);
    await signIn(
      async (peer) => {
        expect(has((await response(peer, greeting)).flags, CONNECT_WITH_DB)).toBe(false);
        peer.write(OK);
        command = await peer.read();
        peer.write(OK);
      },
      { wish: { database: Buffer.from('lab') } },
      greeting,
    );
    expect(command.toString('latin1')).toBe('\x02lab');
  });
});

describe('TLS', () => {
  test('a server without it is refused, but where it is only preferred', async () => {
    const greeting = serverGreeting('mysql', { capabilities: 0xdffff7ff });
    for (const mode of ['require', 'verify-ca', 'verify-full'] as const) {
      await expect(signIn(async () => {}, { tls: { ...trusting, mode } }, greeting)).rejects.toMatchObject({
        code: 'tls_required',
        fault: 'server',
      });
    }
    const preferred = signIn(
      async (peer) => {
        await response(peer, greeting);
        peer.write(OK);
      },
      { tls: { ...trusting, mode: 'prefer' } },
      greeting,
    );
    await expect(preferred).resolves.toMatchObject({ authentication: 'caching_sha2_password' });
  });

  test('an unknown authority and another name are refused before anything is said', async () => {
    for (const means of [
      { tls: { ...verifying, context: tls.createSecureContext() } },
      { tls: verifying, host: 'other.test' },
    ]) {
      let said = 0;
      const outcome = signIn(async (peer, greeting) => {
        await response(peer, greeting);
        said += 1;
      }, means);
      await expect(outcome).rejects.toMatchObject({ code: 'tls_failed', fault: 'server' });
      expect(said).toBe(0);
    }
  });
});

describe('a password in clear', () => {
  const full = async (peer: Peer, greeting: Greeting): Promise<Buffer> => {
    await response(peer, greeting);
    peer.write(more(0x04));
    const sent = await peer.read();
    peer.write(OK);
    return sent;
  };

  for (const [plugin, data] of [
    ['mysql_clear_password', Buffer.alloc(0)],
    ['sha256_password', SCRAMBLE],
    ['dialog', Buffer.from('\x04Password: ')],
  ] as const) {
    test(`${plugin} is not answered without TLS, and is with it`, async () => {
      const sent: Buffer[] = [];
      const script = async (peer: Peer, greeting: Greeting): Promise<void> => {
        await response(peer, greeting);
        peer.write(switchTo(plugin, data));
        sent.push(await peer.read());
        peer.write(OK);
      };
      await expect(signIn(script)).rejects.toMatchObject({ code: 'authentication_unsupported' });
      expect(sent).toEqual([]);
      await expect(signIn(script, { tls: trusting })).resolves.toMatchObject({ authentication: plugin });
      expect(sent).toEqual([Buffer.from('canary-launch-password\0')]);
    });
  }

  test('caching_sha2_password in full: refused in clear, sent inside TLS and over a socket file', async () => {
    let sent: Buffer | null = null;
    const script = async (peer: Peer, greeting: Greeting): Promise<void> => {
      sent = await full(peer, greeting);
    };
    await expect(signIn(script)).rejects.toMatchObject({
      code: 'authentication_unsupported',
      message: expect.stringContaining('tls.mode'),
    });
    expect(sent).toBeNull();
    await expect(signIn(script, { tls: trusting })).resolves.toMatchObject({
      authentication: 'caching_sha2_password (full)',
    });
    expect(sent).toEqual(Buffer.from('canary-launch-password\0'));
    sent = null;
    await signIn(script, { host: '/run/mysqld/mysqld.sock' });
    expect(sent).toEqual(Buffer.from('canary-launch-password\0'));
  });

  test('with a configured key it goes encrypted for that key, and no key of the server’s is asked for', async () => {
    const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const pem = publicKey.export({ format: 'pem', type: 'spki' }).toString();
    const greeting = serverGreeting();
    let sent: Buffer = Buffer.alloc(0);
    const outcome = await signIn(
      async (peer) => {
        sent = await full(peer, greeting);
      },
      { settings: { serverPublicKey: pem, fetchServerPublicKey: true } },
      greeting,
    );
    expect(outcome.authentication).toBe('caching_sha2_password (full, RSA)');
    const mixed = privateDecrypt({ key: privateKey, padding: constants.RSA_PKCS1_OAEP_PADDING }, sent);
    expect(mixed.map((byte, index) => byte ^ greeting.scramble[index % 20]!).toString()).toBe(
      'canary-launch-password\0',
    );
  });

  test('a fetched key that is none is not used', async () => {
    const outcome = signIn(
      async (peer, greeting) => {
        await response(peer, greeting);
        peer.write(more(0x04));
        expect(await peer.read()).toEqual(Buffer.of(2));
        peer.write(Buffer.concat([more(), Buffer.from('not a key')]));
      },
      { settings: { fetchServerPublicKey: true } },
    );
    await expect(outcome).rejects.toMatchObject({ code: 'server_untrusted' });
  });
});

describe('an access token', () => {
  const credentials = (): Credentials => ({
    username: 'app',
    password: Secret.fromText('canary-token'),
    kind: 'token',
  });
  const script = async (peer: Peer, greeting: Greeting): Promise<void> => {
    expect((await response(peer, greeting)).reply).toHaveLength(0);
    peer.write(switchTo('mysql_clear_password', Buffer.alloc(0)));
    expect(await peer.read()).toEqual(Buffer.from('canary-token\0'));
    peer.write(OK);
  };

  test('goes to a server that has proved who it is', async () => {
    await expect(signIn(script, { credentials: credentials(), tls: verifying })).resolves.toMatchObject({
      authentication: 'mysql_clear_password',
    });
  });

  test('goes to no other, and answers no other method', async () => {
    await expect(signIn(script, { credentials: credentials(), tls: trusting })).rejects.toMatchObject({
      message: expect.stringContaining('verify-full'),
    });
    const native = async (peer: Peer, greeting: Greeting): Promise<void> => {
      await response(peer, greeting);
      peer.write(switchTo('mysql_native_password', SCRAMBLE));
    };
    await expect(signIn(native, { credentials: credentials(), tls: verifying })).rejects.toMatchObject({
      code: 'authentication_unsupported',
    });
  });
});

describe('hostile servers', () => {
  const afterResponse =
    (...packets: Buffer[]) =>
    async (peer: Peer, greeting: Greeting): Promise<void> => {
      await response(peer, greeting);
      for (const packet of packets) peer.write(packet);
    };

  test.each([
    ['an empty packet', Buffer.alloc(0), 'malformed'],
    ['a bare switch to the method of before 4.1', Buffer.of(0xfe), 'authentication_unsupported'],
    ['an unknown plugin', switchTo('authentication_kerberos_client', SCRAMBLE), 'authentication_unsupported'],
    ['a switch without a scramble', switchTo('mysql_native_password', Buffer.of(1, 2)), 'malformed'],
    ['ed25519 with a short nonce', switchTo('client_ed25519', Buffer.alloc(31)), 'malformed'],
    ['parsec with a short nonce', switchTo('parsec', Buffer.alloc(31)), 'malformed'],
    ['a byte that says nothing', more(0x05), 'unexpected_message'],
    [
      'a key that was not asked for',
      more(...Buffer.from('-----BEGIN PUBLIC KEY-----')),
      'unexpected_message',
    ],
    [
      'another factor that was not agreed on',
      Buffer.from('\x02sha256_password\0abcdefghijklmnopqrst\0', 'latin1'),
      'unexpected_message',
    ],
  ])('%s', async (_what, bytes, code) => {
    const greeting = serverGreeting('mysql', { capabilities: 0xcfffffff });
    await expect(signIn(afterResponse(bytes), {}, greeting)).rejects.toMatchObject({ code, fault: 'server' });
  });

  test('one that switches for ever', async () => {
    const script = async (peer: Peer, greeting: Greeting): Promise<void> => {
      await response(peer, greeting);
      for (let count = 0; count < 30; count += 1) {
        peer.write(switchTo('mysql_native_password', SCRAMBLE));
        await peer.read();
      }
    };
    await expect(signIn(script)).rejects.toThrow(/more than 10 switches/);
  });

  test('a packet longer than any, and one out of order', async () => {
    const long = async (peer: Peer, greeting: Greeting): Promise<void> => {
      await response(peer, greeting);
      peer.channel.write(Buffer.from('ffffff02', 'hex'));
    };
    await expect(signIn(long)).rejects.toMatchObject({ code: 'length_out_of_range' });
    const unordered = async (peer: Peer, greeting: Greeting): Promise<void> => {
      await response(peer, greeting);
      peer.channel.write(Buffer.from('07000005', 'hex'));
      peer.channel.write(OK);
    };
    await expect(signIn(unordered)).rejects.toMatchObject({ code: 'malformed' });
  });

  test('a further factor is answered with the same secret', async () => {
    const sent: Buffer[] = [];
    await signIn(
      async (peer, greeting) => {
        await response(peer, greeting);
        peer.write(Buffer.concat([Buffer.of(2), Buffer.from('sha256_password\0'), SCRAMBLE]));
        sent.push(await peer.read());
        peer.write(OK);
      },
      { tls: trusting },
    );
    expect(sent).toEqual([Buffer.from('canary-launch-password\0')]);
  });

  test('cut at any byte of its conversation: an error, at once', async () => {
    const greeting = greetingPayload(serverGreeting());
    const bytes = Buffer.concat([
      Buffer.from([greeting.length, 0, 0, 0]),
      greeting,
      Buffer.from('2c000002', 'hex'),
      switchTo('caching_sha2_password', SCRAMBLE),
      Buffer.from('020000040103', 'hex'),
      Buffer.from('0700000500000002000000', 'hex'),
    ]);
    for (let length = 0; length < bytes.length; length += 1) {
      const [near, far] = duplexPair();
      const channel = new StreamChannel(near, 'server', { host: 'db.test', port: 3306 });
      far.resume();
      for (const byte of bytes.subarray(0, length)) far.write(Buffer.of(byte));
      far.end();
      const outcome = meet(channel).then((server) =>
        login(server, WISH, launch(), MYSQL_SETTINGS, Buffer.alloc),
      );
      await expect(outcome, `${length} bytes`).rejects.toMatchObject({ fault: 'server' });
    }
    const [near, far] = duplexPair();
    far.resume();
    const behindGreeting = greeting.length + 4;
    for (const byte of bytes.subarray(0, behindGreeting)) far.write(Buffer.of(byte));
    const server = await meet(new StreamChannel(near, 'server', { host: 'db.test', port: 3306 }));
    setImmediate(() => {
      for (const byte of bytes.subarray(behindGreeting)) far.write(Buffer.of(byte));
    });
    await expect(login(server, WISH, launch(), MYSQL_SETTINGS, Buffer.alloc)).resolves.toMatchObject({
      ok: OK,
    });
  });

  test('an error in the place of the greeting keeps its number', async () => {
    const [near, far] = duplexPair();
    const payload = Buffer.concat([Buffer.of(0xff, 0x10, 0x04), Buffer.from('Too many connections')]);
    far.write(Buffer.concat([Buffer.of(payload.length, 0, 0, 0), payload]));
    await expect(
      meet(new StreamChannel(near, 'server', { host: 'db.test', port: 3306 })),
    ).rejects.toMatchObject({
      code: 'server_error',
      serverCode: '1040/HY000',
      error: { errno: 1040, message: 'Too many connections' },
    });
  });
});

describe('leaving a server that was greeted in vain', () => {
  test('it gets a whole answer, so that it does not count a failed handshake', async () => {
    const [near, far] = duplexPair();
    const channel = new StreamChannel(near, 'server', { host: 'db.test', port: 3306 });
    const peer = new Peer(new StreamChannel(far, 'client', { host: 'gateway.test', port: 1 }));
    const greeting = serverGreeting();
    peer.write(greetingPayload(greeting));
    const server = await meet(channel);
    const left = leave(server);
    const answer = await response(peer, greeting);
    expect(answer).toMatchObject({ user: '', plugin: 'caching_sha2_password' });
    peer.write(switchTo('mysql_native_password', SCRAMBLE));
    expect(await peer.read()).toHaveLength(0);
    peer.write(errorPacket(1045, '28000', 'Access denied'));
    await left;
    await leave(server);
    channel.destroy();
  });
});
