import { randomBytes } from 'node:crypto';
import * as tls from 'node:tls';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ChannelTls, StreamChannel } from '../../src/gateway/channel.ts';
import { makeAuthority } from '../../test/support/certificates.ts';
import {
  askingServer,
  clientStartup,
  errorFields,
  LAUNCH,
  readAny,
  readUntil,
  SERVER_PID,
  SERVER_SECRET,
  type SeenStartup,
  type ServerScript,
  TestEntry,
  type TestEntryOptions,
  welcomeBytes,
  welcomingServer,
  withCertificate,
} from '../../test/support/postgres-peers.ts';
import type { Challenge, Credentials } from '../engine.ts';
import { ProtocolError, Refusal, type RefusalCode } from '../error.ts';
import { startScram } from '../scram/client.ts';
import { deriveKeys } from '../scram/keys.ts';
import { challengeScram, SCRAM_SHA_256 } from '../scram/server.ts';
import { Secret } from '../secret.ts';
import { sendCancel } from './cancel.ts';
import { postgres } from './engine.ts';
import { errorResponse } from './errors.ts';
import { type Message, message } from './packets.ts';

/** Signs in with a client that only sends its startup packet, and returns what both sides came to. */
async function signIn(
  options: TestEntryOptions = {},
  startup = clientStartup(),
): Promise<{ entry: TestEntry; messages: Message[]; error: unknown; raw: Buffer }> {
  const entry = new TestEntry(options);
  entry.peer.write(startup);
  return finish(entry);
}

async function finish(entry: TestEntry) {
  const outcome = postgres.handshake(entry).then(
    () => null,
    (error: unknown) => error,
  );
  const messages = await readUntil(entry.peer, 'ZE').catch(() => []);
  const error = await outcome;
  const raw = Buffer.concat(messages.map(({ type, body }) => message(type, body)));
  return { entry, messages, error, raw };
}

const letters = (messages: readonly Message[]): string => messages.map(({ type }) => type).join('');
const R = (code: number, rest: Buffer | string = ''): Buffer => {
  const body = Buffer.concat([Buffer.alloc(4), Buffer.from(rest as string)]);
  body.writeInt32BE(code);
  return message('R', body);
};
const MECHANISMS = R(10, 'SCRAM-SHA-256\0\0');

let verifiedTls: ChannelTls;
let unverifiedTls: ChannelTls;
let serverCertificate: ChannelTls;
let listenerTls: ChannelTls;
let clientTrust: string;

beforeAll(async () => {
  const authority = await makeAuthority('Handshake');
  const server = await authority.issue({ commonName: 'db0.test' });
  const gateway = await authority.issue({ commonName: 'gateway.test' });
  clientTrust = authority.cert;
  const context = tls.createSecureContext({ ca: authority.cert });
  verifiedTls = { mode: 'verify-full', context };
  unverifiedTls = { mode: 'require', context };
  serverCertificate = {
    mode: 'require',
    context: tls.createSecureContext({ cert: server.chain, key: server.key }),
    certificate: server.der,
  };
  listenerTls = {
    mode: 'require',
    context: tls.createSecureContext({ cert: gateway.chain, key: gateway.key }),
    certificate: gateway.der,
  };
});

/** Answers SSLRequest by `S`, does TLS, and goes on as `script`. */
function secured(script: ServerScript): ServerScript {
  return withCertificate(async (peer) => {
    await peer.read(8, 'SSLRequest');
    peer.write(Buffer.from('S'));
    await peer.acceptTls({ alpn: ['postgresql'] });
    await script(peer);
  }, serverCertificate);
}

describe('a sign-in', () => {
  it('shows the client the server as it is, but for the cancel secret', async () => {
    const seen: SeenStartup[] = [];
    const { entry, messages, error, raw } = await signIn(
      { servers: [welcomingServer(seen, { TimeZone: 'Asia/Tokyo' })] },
      clientStartup({
        database: 'shop',
        application_name: 'psql',
        client_encoding: "'utf-8'",
        options: '-c search_path=a\\ b',
      }),
    );
    expect(error).toBeNull();
    expect(letters(messages)).toBe('RSSSKZ');
    expect(messages[3]!.body.toString()).toBe('TimeZone\0Asia/Tokyo\0');
    expect(messages[4]!.body.readInt32BE(0)).toBe(SERVER_PID);
    expect(messages[4]!.body.subarray(4)).toEqual(entry.drawn[0]!.secret);
    expect(raw.includes(SERVER_SECRET)).toBe(false);
    expect(seen).toEqual([
      {
        version: 0x30000,
        parameters: {
          user: 'launch_user',
          database: 'shop',
          application_name: 'psql',
          client_encoding: "'utf-8'",
          options: '-c search_path=a\\ b',
        },
      },
    ]);
    expect(entry.claims).toMatchObject([{ user: 'alice', database: 'shop', program: 'psql' }]);
    expect(entry.facts).toMatchObject([
      { serverVersion: '18.4', databaseUser: 'launch_user', database: 'shop', authentication: 'trust' },
    ]);
  });

  it('opens the database named like the client’s user, not like the account', async () => {
    const seen: SeenStartup[] = [];
    await signIn({ servers: [welcomingServer(seen)] });
    expect(seen[0]!.parameters).toMatchObject({ user: 'launch_user', database: 'alice' });
    await signIn({ servers: [welcomingServer(seen)], database: 'fixed' });
    expect(seen[1]!.parameters.database).toBe('fixed');
  });

  it('enforces read-only where the permit says so', async () => {
    const seen: SeenStartup[] = [];
    await signIn(
      { servers: [welcomingServer(seen)], readOnly: true },
      clientStartup({ options: '-c default_transaction_read_only=off' }),
    );
    expect(seen[0]!.parameters.options).toBeUndefined();
    expect(seen[0]!.parameters.default_transaction_read_only).toBe('on');
  });

  it.each([
    ['3.0', '3.0', 4],
    ['3.0', '3.2', 32],
    ['3.2', '3.0', 4],
    ['3.2', '3.2', 32],
  ] as const)('asks the server for %s and speaks %s with the client', async (server, client, secretBytes) => {
    const seen: SeenStartup[] = [];
    const key = server === '3.2' ? randomBytes(32) : SERVER_SECRET;
    const { messages, error } = await signIn(
      {
        settings: { protocolVersion: server },
        servers: [
          askingServer(async (peer, startup) => {
            seen.push(startup);
            peer.write(welcomeBytes({}, key));
          }),
        ],
      },
      clientStartup({}, client === '3.2' ? 0x30002 : 0x30000),
    );
    expect(error).toBeNull();
    expect(seen[0]!.version).toBe(server === '3.2' ? 0x30002 : 0x30000);
    expect(messages.find(({ type }) => type === 'K')!.body.length).toBe(4 + secretBytes);
  });

  it('goes on with a server that speaks 3.0 only, and not with one that changes what was not asked', async () => {
    const negotiating = (hex: string): ServerScript =>
      askingServer(async (peer) => {
        peer.write(Buffer.concat([Buffer.from(hex, 'hex'), welcomeBytes()]));
      });
    const asked32 = { settings: { protocolVersion: '3.2' } as const };
    const good = await signIn({ ...asked32, servers: [negotiating('760000000c0003000000000000')] });
    expect(good.error).toBeNull();
    for (const hex of [
      '760000000c0003000100000000',
      '760000000c0003000200000000',
      '760000000c0003000000000001',
      '760000000c0003000000000000760000000c0003000000000000',
    ]) {
      const { error } = await signIn({ ...asked32, servers: [negotiating(hex)] });
      expect(error).toMatchObject({ code: 'unexpected_message', fault: 'server' });
    }
    const unasked = await signIn({ servers: [negotiating('760000000c0003000000000000')] });
    expect(unasked.error).toMatchObject({ code: 'unexpected_message', fault: 'server' });
  });

  it('holds notices back until AuthenticationOk, which clients need to see first', async () => {
    const notice = message('N', Buffer.from('SNOTICE\0C00000\0Mmaintenance at noon\0\0'));
    const { messages } = await signIn({
      servers: [askingServer(async (peer) => peer.write(Buffer.concat([notice, welcomeBytes()])))],
    });
    expect(letters(messages)).toBe('RNSSKZ');
  });

  it('works without BackendKeyData, as some poolers are', async () => {
    const bytes = Buffer.concat([R(0), message('Z', Buffer.from('I'))]);
    const { messages, error } = await signIn({
      servers: [askingServer(async (peer) => peer.write(bytes))],
    });
    expect(error).toBeNull();
    expect(letters(messages)).toBe('RZ');
  });

  it('leaves what follows the first ReadyForQuery, and what the client sent ahead, to the session', async () => {
    const entry = new TestEntry({
      servers: [
        askingServer(async (peer) =>
          peer.write(Buffer.concat([welcomeBytes(), message('N', Buffer.from('\0'))])),
        ),
      ],
    });
    const query = message('Q', Buffer.from('select 1\0'));
    entry.peer.write(Buffer.concat([clientStartup(), query]));
    const outcome = await postgres.handshake(entry);
    expect(outcome.kind).toBe('session');
    expect(entry.client.detach().pending).toEqual(query);
    expect((entry.facts[0]!.server as StreamChannel).detach().pending).toEqual(
      message('N', Buffer.from('\0')),
    );
  });

  it('is nothing for a client that only knocks, and a cancel for one that asks for it', async () => {
    const knock = new TestEntry();
    knock.peer.end();
    expect(await postgres.handshake(knock)).toEqual({ kind: 'served' });
    const cancel = new TestEntry();
    cancel.peer.write(Buffer.from('0000001004d2162e000008244c039e95', 'hex'));
    expect(await postgres.handshake(cancel)).toEqual({ kind: 'served' });
    expect(cancel.cancels).toEqual([{ id: 0x824, secret: Buffer.from('4c039e95', 'hex') }]);
  });

  it('is not told to the client before its start is on record', async () => {
    const { messages, error, raw } = await signIn({
      opened: async () => {
        throw new Refusal('recording_unavailable', 'this session cannot be recorded, so it may not begin');
      },
    });
    expect(error).toMatchObject({ code: 'recording_unavailable' });
    expect(letters(messages)).toBe('E');
    expect(errorFields(messages[0]!.body)).toMatchObject({ S: 'FATAL', C: '57P03' });
    expect(raw.includes(R(0))).toBe(false);
  });

  it('wipes the credentials, whatever came of it', async () => {
    const good = await signIn();
    expect(good.entry.given.map(({ password }) => password?.wiped)).toEqual([true]);
    const bad = await signIn({ servers: [askingServer(async (peer) => peer.destroy())] });
    expect(bad.error).toMatchObject({ code: 'unexpected_end' });
    expect(bad.entry.given.map(({ password }) => password?.wiped)).toEqual([true]);
  });
});

describe('a client that may not come in', () => {
  it.each([
    ['tls_required', '28000'],
    ['credentials_invalid', '28P01'],
    ['not_allowed', '42501'],
    ['database_not_allowed', '42501'],
    ['session_limit', '53300'],
    ['draining', '57P03'],
    ['credentials_unavailable', '08006'],
  ] as [RefusalCode, string][])('hears %s as %s', async (code, sqlstate) => {
    const { messages, error } = await signIn({
      admit: () => {
        throw new Refusal(code, 'the reason', { hint: 'what to do' });
      },
    });
    expect(error).toMatchObject({ code });
    expect(letters(messages)).toBe('E');
    expect(errorFields(messages[0]!.body)).toEqual({
      S: 'FATAL',
      V: 'FATAL',
      C: sqlstate,
      M: 'the reason',
      H: 'what to do',
    });
  });

  it('must encrypt where TLS is required, though its cancel need not', async () => {
    const { messages, entry } = await signIn({ clientTls: listenerTls });
    expect(errorFields(messages[0]!.body)).toMatchObject({ C: '28000' });
    expect(entry.claims).toEqual([]);
    const cancel = new TestEntry({ clientTls: listenerTls });
    cancel.peer.write(Buffer.from('0000001004d2162e000008244c039e95', 'hex'));
    await postgres.handshake(cancel);
    expect(cancel.cancels.length).toBe(1);
  });

  it('may not replicate unless that is allowed', async () => {
    for (const value of ['true', 'database']) {
      const refused = await signIn({}, clientStartup({ replication: value, database: 'shop' }));
      expect(errorFields(refused.messages[0]!.body)).toMatchObject({ C: '42501' });
      expect(refused.entry.dialled).toEqual([]);
      const seen: SeenStartup[] = [];
      const allowed = await signIn(
        { settings: { allowReplication: true }, servers: [welcomingServer(seen)] },
        clientStartup({ replication: value, database: 'shop' }),
      );
      expect(allowed.error).toBeNull();
      expect(seen[0]!.parameters).toMatchObject({ replication: value, database: 'shop' });
      expect(allowed.entry.claims[0]).toMatchObject({ replication: true });
    }
    const seen: SeenStartup[] = [];
    await signIn({ servers: [welcomingServer(seen)] }, clientStartup({ replication: 'false' }));
    expect(seen[0]!.parameters.replication).toBeUndefined();
  });

  it.each([
    ['no user', Buffer.from('000000090003000000', 'hex'), '28000'],
    ['no terminator', Buffer.from('0000000e000300007573657200', 'hex').subarray(0, 13), '08P01'],
    ['a version that nobody speaks', clientStartup({}, 0x40000), '0A000'],
    ['a switch for the server', clientStartup({ options: '-B 10' }), '42501'],
    ['a database name that the server would cut', clientStartup({ database: 'x'.repeat(64) }), '42501'],
  ])('is told what is wrong with %s', async (_, startup, sqlstate) => {
    const bytes = Buffer.from(startup);
    bytes.writeUInt32BE(bytes.length, 0);
    const { messages, error, entry } = await signIn({}, bytes);
    expect(error).toBeInstanceOf(Error);
    expect(errorFields(messages[0]!.body)).toMatchObject({ S: 'FATAL', C: sqlstate });
    expect(entry.dialled).toEqual([]);
  });

  it('is told of a role it asked for, as of SET ROLE', async () => {
    const { entry } = await signIn({}, clientStartup({ options: '--role=other' }));
    expect(entry.claims[0]!.attributes).toEqual({ role: 'other' });
  });
});

describe('a client with a token', () => {
  const token = Buffer.from('token-of-alice');
  let challenge: Challenge;

  beforeAll(async () => {
    const salt = randomBytes(16);
    const { storedKey, serverKey } = await deriveKeys(token, salt, 4096);
    challenge = {
      method: 'token',
      verifier: {
        scram: { salt, iterations: 4096, storedKey, serverKey },
        nativeHash: Buffer.alloc(20),
        sha2Hash: Buffer.alloc(32),
        matches: (other) => other.equals(token),
      },
    };
  });

  async function answer(entry: TestEntry, password: Buffer): Promise<Message> {
    const { peer } = entry;
    const offer = await readAny(peer);
    expect(offer.body.toString('latin1', 4)).toBe('SCRAM-SHA-256\0\0');
    const started = startScram({
      binding: { kind: 'none' },
      nonce: 'clientnonce',
      iterationsMax: 4096,
      derive: (salt, iterations) => deriveKeys(password, salt, iterations),
    });
    const length = Buffer.alloc(4);
    length.writeInt32BE(started.message.length);
    peer.write(message('p', Buffer.concat([Buffer.from('SCRAM-SHA-256\0'), length, started.message])));
    const first = await readAny(peer);
    const answered = await started.answer(first.body.subarray(4));
    peer.write(message('p', answered.message));
    const last = await readAny(peer);
    if (last.type === 'R') answered.verify(last.body.subarray(4));
    return last;
  }

  it('gets in with it, and proves it before any server is dialled', async () => {
    const entry = new TestEntry({ challenge });
    entry.peer.write(clientStartup());
    const outcome = postgres.handshake(entry);
    const last = await answer(entry, token);
    expect(last.type).toBe('R');
    expect(letters(await readUntil(entry.peer, 'Z'))).toBe('RSSKZ');
    expect((await outcome).kind).toBe('session');
    expect(entry.proofs).toEqual([{ method: 'token', valid: true }]);
  });

  it('does not get in with another', async () => {
    const entry = new TestEntry({ challenge });
    entry.peer.write(clientStartup());
    const outcome = postgres.handshake(entry).catch((error: unknown) => error);
    const last = await answer(entry, Buffer.from('wrong'));
    expect(errorFields(last.body)).toMatchObject({
      C: '28P01',
      M: 'password authentication failed for user "alice"',
    });
    expect(await outcome).toMatchObject({ code: 'credentials_invalid' });
    expect(entry.dialled).toEqual([]);
  });

  it('may send its first message after an empty challenge', async () => {
    const entry = new TestEntry({ challenge });
    entry.peer.write(
      Buffer.concat([
        clientStartup(),
        message('p', Buffer.from('SCRAM-SHA-256\0\xff\xff\xff\xff', 'latin1')),
      ]),
    );
    void postgres.handshake(entry).catch(() => {});
    await readAny(entry.peer);
    expect((await readAny(entry.peer)).body).toEqual(Buffer.from([0, 0, 0, 11]));
    entry.peer.write(message('p', Buffer.from('n,,n=,r=abc')));
    expect((await readAny(entry.peer)).body.toString('latin1', 4)).toMatch(/^r=abc/);
  });

  it.each([
    ['a query instead', message('Q', Buffer.from('select 1\0')), '08P01'],
    ['a password of 65536 bytes', Buffer.from('7000010000', 'hex'), '08P01'],
    ['an unknown mechanism', message('p', Buffer.from('PLAIN\0\0\0\0\0')), '08P01'],
    ['a length that lies', message('p', Buffer.from('SCRAM-SHA-256\0\0\0\0\x20n,,', 'latin1')), '08P01'],
    [
      'an authorization identity',
      message('p', Buffer.from('SCRAM-SHA-256\0\0\0\0\x10n,a=x,n=,r=abcde', 'latin1')),
      '0A000',
    ],
  ])('is refused for %s', async (_, bytes, sqlstate) => {
    const entry = new TestEntry({ challenge });
    entry.peer.write(Buffer.concat([clientStartup(), bytes]));
    const { error, messages } = await finish(entry);
    expect(error).toBeInstanceOf(ProtocolError);
    expect(errorFields(messages.at(-1)!.body)).toMatchObject({ S: 'FATAL', C: sqlstate });
  });

  it('is not asked for a bearer token in the clear, and is over TLS', async () => {
    const clear = await signIn({ challenge: { method: 'bearer' } });
    expect(errorFields(clear.messages[0]!.body)).toMatchObject({ C: '28000' });

    let heard = '';
    const entry = new TestEntry({
      challenge: { method: 'bearer' },
      clientTls: listenerTls,
      admit: (_claim, proof) => {
        if (proof.method === 'bearer') heard = proof.text.expose().toString();
      },
    });
    const outcome = postgres.handshake(entry);
    const { peer } = entry;
    peer.write(Buffer.from('0000000804d2162f', 'hex'));
    await peer.read(1, 'S');
    const socket = tls.connect({
      socket: peer.detach().stream as never,
      ca: clientTrust,
      servername: 'gateway.test',
    });
    socket.write(clientStartup());
    const asked = await new Promise<Buffer>((resolve) => socket.once('data', resolve));
    expect(asked).toEqual(R(3));
    socket.write(message('p', Buffer.from('header.payload.signature\0')));
    await outcome;
    expect(heard).toBe('header.payload.signature');
    const proof = entry.proofs[0]!;
    expect(proof.method === 'bearer' && proof.text.wiped).toBe(true);
  });
});

describe('a server that is not to be trusted', () => {
  const canary = 'canary-launch-password';

  /** What came to the server of the gateway's, and what became of the sign-in. */
  async function against(script: (peer: StreamChannel) => Promise<void>, options: TestEntryOptions = {}) {
    let heard = Buffer.alloc(0);
    const server: ServerScript = async (peer) => {
      const reading = async (): Promise<void> => {
        for (;;) heard = Buffer.concat([heard, await peer.read(1, 'anything')]);
      };
      await script(peer);
      await reading().catch(() => {});
    };
    const result = await signIn({
      servers: [options.serverTls ? secured(wrap(server)) : wrap(server)],
      ...options,
    });
    return { ...result, heard };
  }

  function wrap(script: ServerScript): ServerScript {
    return askingServer(async (peer) => script(peer));
  }

  const scramFirst = (make: (nonce: string) => string) => async (peer: StreamChannel) => {
    peer.write(MECHANISMS);
    const first = await readAny(peer);
    const nonce = /r=(.*)$/.exec(first.body.toString('latin1'))![1]!;
    peer.write(R(11, make(nonce)));
  };
  const SALT = 's=W22ZaJ0SNY7soEsUEjb6gQ==';

  it.each([
    [
      'asks for the password in clear',
      async (peer: StreamChannel) => peer.write(R(3)),
      'authentication_unsupported',
    ],
    [
      'asks for MD5 from afar',
      async (peer: StreamChannel) => peer.write(R(5, 'salt')),
      'authentication_unsupported',
    ],
    ['asks for Kerberos', async (peer: StreamChannel) => peer.write(R(7)), 'authentication_unsupported'],
    [
      'asks for what nobody knows',
      async (peer: StreamChannel) => peer.write(R(99)),
      'authentication_unsupported',
    ],
    [
      'offers no mechanism we know',
      async (peer: StreamChannel) => peer.write(R(10, 'GS2-KRB5\0\0')),
      'authentication_unsupported',
    ],
    [
      'begins in the middle of SCRAM',
      async (peer: StreamChannel) => peer.write(R(11, 'r=x')),
      'unexpected_message',
    ],
    [
      'ends SCRAM before it began',
      async (peer: StreamChannel) => peer.write(R(12, 'v=x')),
      'unexpected_message',
    ],
    ['does not extend the nonce', scramFirst((nonce) => `r=${nonce},${SALT},i=4096`), 'server_untrusted'],
    ['has another nonce', scramFirst(() => `r=other,${SALT},i=4096`), 'server_untrusted'],
    ['asks for no rounds', scramFirst((nonce) => `r=${nonce}x,${SALT},i=0`), 'malformed'],
    ['asks for one round without TLS', scramFirst((nonce) => `r=${nonce}x,${SALT},i=1`), 'server_untrusted'],
    [
      'asks for twenty million rounds',
      scramFirst((nonce) => `r=${nonce}x,${SALT},i=20000000`),
      'server_untrusted',
    ],
    [
      'ends with a wrong signature',
      async (peer: StreamChannel) => {
        await scramFirst((nonce) => `r=${nonce}x,${SALT},i=4096`)(peer);
        await readAny(peer);
        peer.write(Buffer.concat([R(12, `v=${Buffer.alloc(32).toString('base64')}`), welcomeBytes()]));
      },
      'server_untrusted',
    ],
    [
      'ends without a signature',
      async (peer: StreamChannel) => {
        await scramFirst((nonce) => `r=${nonce}x,${SALT},i=4096`)(peer);
        await readAny(peer);
        peer.write(welcomeBytes());
      },
      'server_untrusted',
    ],
    [
      'lets us in in the middle of SCRAM',
      async (peer: StreamChannel) => {
        peer.write(MECHANISMS);
        await readAny(peer);
        peer.write(welcomeBytes());
      },
      'server_untrusted',
    ],
    [
      'says that SCRAM failed',
      async (peer: StreamChannel) => {
        await scramFirst((nonce) => `r=${nonce}x,${SALT},i=4096`)(peer);
        await readAny(peer);
        peer.write(R(12, 'e=other-error'));
      },
      'authentication_failed',
    ],
    [
      'asks twice',
      async (peer: StreamChannel) => {
        await scramFirst((nonce) => `r=${nonce}x,${SALT},i=4096`)(peer);
        await readAny(peer);
        peer.write(R(3));
      },
      'unexpected_message',
    ],
    [
      'sends a query’s answer',
      async (peer: StreamChannel) => peer.write(message('D', Buffer.alloc(4))),
      'unexpected_message',
    ],
    [
      'sends a huge request',
      async (peer: StreamChannel) => peer.write(Buffer.from('5200100000', 'hex')),
      'length_out_of_range',
    ],
    [
      'sends a length of 3',
      async (peer: StreamChannel) => peer.write(Buffer.from('5200000003', 'hex')),
      'length_out_of_range',
    ],
    [
      'never stops to talk',
      async (peer: StreamChannel) => {
        for (let i = 0; i < 40; i++) peer.write(message('N', Buffer.from('SNOTICE\0\0')));
      },
      'unexpected_message',
    ],
    [
      'says hello without end',
      async (peer: StreamChannel) => {
        peer.write(R(0));
        for (let i = 0; i < 12; i++) peer.write(message('S', Buffer.from(`x\0${'y'.repeat(29_000)}\0`)));
      },
      'length_out_of_range',
    ],
    ['says goodbye', async (peer: StreamChannel) => peer.destroy(), 'unexpected_end'],
    [
      'has a cancel secret of 300 bytes',
      async (peer: StreamChannel) => {
        peer.write(Buffer.concat([R(0), message('K', Buffer.alloc(304)), message('Z', Buffer.from('I'))]));
      },
      'malformed',
    ],
    [
      'is ready in no way that exists',
      async (peer: StreamChannel) => {
        peer.write(Buffer.concat([R(0), message('Z', Buffer.from('X'))]));
      },
      'malformed',
    ],
  ])('%s: is left, and the client hears nothing of the account', async (_, script, code) => {
    const { error, messages, heard, raw } = await against(script);
    expect(error).toMatchObject({ code, fault: 'server' });
    expect(letters(messages)).toBe('E');
    expect(errorFields(messages[0]!.body)).toMatchObject({ S: 'FATAL', C: '08006' });
    expect(raw.includes('launch_user')).toBe(false);
    expect(heard.includes(canary)).toBe(false);
    expect(String((error as Error).message)).not.toContain(canary);
  });

  it('pays no PBKDF2 for twenty million rounds', async () => {
    const started = performance.now();
    await against(scramFirst((nonce) => `r=${nonce}x,${SALT},i=20000000`));
    expect(performance.now() - started).toBeLessThan(500);
  });

  it('gets the password in clear over TLS that has verified it, and over no other', async () => {
    const script = async (peer: StreamChannel): Promise<void> => {
      peer.write(R(3));
      const { body } = await readAny(peer);
      if (body.toString() === `${canary}\0`) peer.write(welcomeBytes());
    };
    const verified = await against(script, { serverTls: verifiedTls });
    expect(verified.error).toBeNull();
    expect(verified.entry.facts[0]).toMatchObject({ authentication: 'password' });
    const unverified = await against(script, { serverTls: unverifiedTls });
    expect(unverified.error).toMatchObject({ code: 'authentication_unsupported' });
    expect(unverified.heard.includes(canary)).toBe(false);
  });

  it('gets an MD5 answer from this machine, over verified TLS, or where the settings say so', async () => {
    const script = async (peer: StreamChannel): Promise<void> => {
      peer.write(R(5, Buffer.from('890bec1e', 'hex')));
      const { body } = await readAny(peer);
      expect(body.toString()).toBe('md5df8e5f6723bd2db232aea65fd53f3e52\0');
      peer.write(welcomeBytes());
    };
    const credentials = [
      { username: 'md5_u', password: Secret.fromText('md5_secret'), kind: 'password' as const },
    ];
    const near = await against(script, { credentials, hosts: ['127.0.0.1'] });
    expect(near.entry.facts[0]).toMatchObject({ authentication: 'md5' });
    const verified = await against(script, { credentials, serverTls: verifiedTls });
    expect(verified.error).toBeNull();
    const allowed = await against(script, { credentials, settings: { md5WithoutTls: true } });
    expect(allowed.error).toBeNull();
    const unverified = await against(script, { credentials, serverTls: unverifiedTls });
    expect(unverified.error).toMatchObject({ code: 'authentication_unsupported' });
  });

  it('must bind the channel where that is required', async () => {
    const settings = { channelBinding: 'require' } as const;
    for (const script of [
      async (peer: StreamChannel) => peer.write(welcomeBytes()),
      async (peer: StreamChannel) => peer.write(R(3)),
      async (peer: StreamChannel) => peer.write(R(5, 'salt')),
      async (peer: StreamChannel) => peer.write(MECHANISMS),
    ]) {
      const clear = await against(script, { settings, hosts: ['127.0.0.1'] });
      expect(clear.error).toMatchObject({ code: 'server_untrusted' });
      const over = await against(script, { settings, serverTls: verifiedTls });
      expect(over.error).toMatchObject({ code: 'server_untrusted' });
    }
  });

  it('hears "could bind" from us only where it offered nothing', async () => {
    const flag = async (mechanisms: string, options: TestEntryOptions): Promise<string> => {
      let first = '';
      await against(async (peer) => {
        peer.write(R(10, mechanisms));
        first = (await readAny(peer)).body.toString('latin1');
        peer.destroy();
      }, options);
      return first;
    };
    const plain = 'SCRAM-SHA-256\0\0';
    const plus = 'SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0';
    const serverTls = verifiedTls;
    expect(await flag(plain, { serverTls })).toMatch(/^SCRAM-SHA-256\0.{4}y,,/s);
    expect(await flag(plus, { serverTls })).toMatch(/^SCRAM-SHA-256-PLUS\0.{4}p=tls-server-end-point,,/s);
    expect(await flag(plain, {})).toMatch(/^SCRAM-SHA-256\0.{4}n,,/s);
    // Offered in the clear, which no server does: somebody's trick.
    expect(await flag(plus, {})).toMatch(/^SCRAM-SHA-256\0.{4}n,,/s);
    const settings = { channelBinding: 'disable' } as const;
    expect(await flag(plus, { serverTls, settings })).toMatch(/^SCRAM-SHA-256\0.{4}n,,/s);
  });

  it('gets an access token only over verified TLS', async () => {
    const credentials: Credentials[] = [
      { username: 'app', password: Secret.fromText(canary), kind: 'token' },
    ];
    const oauth = async (peer: StreamChannel): Promise<void> => {
      peer.write(R(10, 'OAUTHBEARER\0\0'));
      const { body } = await readAny(peer);
      expect(body.toString('latin1')).toBe(`OAUTHBEARER\0\0\0\0\x28n,,\x01auth=Bearer ${canary}\x01\x01`);
      peer.write(welcomeBytes());
    };
    const good = await against(oauth, { credentials, serverTls: verifiedTls });
    expect(good.entry.facts[0]).toMatchObject({ authentication: 'oauthbearer' });
    for (const options of [{}, { serverTls: unverifiedTls }]) {
      for (const script of [
        oauth,
        async (peer: StreamChannel) => peer.write(R(3)),
        async (peer: StreamChannel) => peer.write(MECHANISMS),
      ]) {
        const { error, heard } = await against(script, { credentials, ...options });
        expect(error).toMatchObject({ code: 'authentication_unsupported' });
        expect(heard.includes(canary)).toBe(false);
      }
    }
  });
});

describe('TLS toward the server', () => {
  const asked =
    (answer: string): ServerScript =>
    async (peer) => {
      await peer.read(8, 'SSLRequest');
      peer.write(Buffer.from(answer));
    };
  const prefer = (): ChannelTls => ({ ...verifiedTls, mode: 'prefer' });

  it('is given up only by prefer, and only when the server has none', async () => {
    const fallen: ServerScript = async (peer) => {
      await asked('N')(peer);
      await welcomingServer()(peer);
    };
    const preferred = await signIn({ servers: [fallen], serverTls: prefer() });
    expect(preferred.entry.facts[0]).toMatchObject({ tlsFallback: true });
    const required = await signIn({ servers: [fallen], serverTls: unverifiedTls });
    expect(required.error).toMatchObject({ code: 'tls_required', fault: 'server' });
    expect(errorFields(required.messages[0]!.body)).toMatchObject({ C: '08006' });
  });

  it.each([
    ['bytes behind the answer', 'Sx', 'tls_stuffing'],
    ['an error', 'E', 'unexpected_message'],
    ['something else', 'x', 'unexpected_message'],
  ])('is not begun with a server that sends %s', async (_, answer, code) => {
    const { error, messages } = await signIn({ servers: [asked(answer)], serverTls: prefer() });
    expect(error).toMatchObject({ code, fault: 'server' });
    expect(errorFields(messages[0]!.body)).toMatchObject({ C: '08006' });
  });

  it('must confirm the ALPN when it begins at once', async () => {
    const direct = (alpn: string[]): ServerScript =>
      withCertificate(async (peer) => {
        await peer.acceptTls({ alpn });
        await welcomingServer()(peer);
      }, serverCertificate);
    const settings = { directTls: true };
    const good = await signIn({ servers: [direct(['postgresql'])], serverTls: verifiedTls, settings });
    expect(good.error).toBeNull();
    const bad = await signIn({ servers: [direct([])], serverTls: verifiedTls, settings });
    expect(bad.error).toMatchObject({ code: 'tls_failed', fault: 'server' });
  });
});

describe('launch credentials that the server does not take', () => {
  const takes = (password: string): ServerScript =>
    askingServer(async (peer) => {
      peer.write(MECHANISMS);
      const initial = await readAny(peer);
      const salt = Buffer.alloc(16, 3);
      const { storedKey, serverKey } = await deriveKeys(Buffer.from(password), salt, 4096);
      const verifier = { salt, iterations: 4096, storedKey, serverKey };
      const challenged = challengeScram(
        { bindingData: null, nonce: 'x', verifier },
        SCRAM_SHA_256,
        initial.body.subarray('SCRAM-SHA-256\0'.length + 4),
      );
      peer.write(R(11, challenged.message.toString()));
      const finished = challenged.finish((await readAny(peer)).body);
      if (finished.valid) peer.write(Buffer.concat([R(12, finished.message.toString()), welcomeBytes()]));
      else {
        const text = 'password authentication failed for user "launch_user"';
        peer.write(errorResponse({ severity: 'FATAL', code: '28P01', message: text }));
      }
    });
  const given = (...passwords: string[]): Credentials[] =>
    passwords.map((text) => ({ username: 'launch_user', password: Secret.fromText(text), kind: 'password' }));

  it('are fetched anew once', async () => {
    const { entry, error } = await signIn({ servers: [takes('new')], credentials: given('old', 'new') });
    expect(error).toBeNull();
    expect(entry.dialled.length).toBe(2);
    expect(entry.given.every(({ password }) => password?.wiped)).toBe(true);
  });

  it.each([
    [['old'], 1],
    [['old', 'older', 'new'], 2],
  ])('%j end the sign-in with a neutral text', async (passwords, fetches) => {
    const { entry, error, messages, raw } = await signIn({
      servers: [takes('new')],
      credentials: given(...passwords),
    });
    expect(entry.given.length).toBe(fetches);
    expect(error).toMatchObject({ code: 'authentication_failed', serverCode: '28P01' });
    expect(errorFields(messages[0]!.body)).toMatchObject({ C: '08006' });
    expect(raw.includes('launch_user')).toBe(false);
  });
});

describe('errors of the server', () => {
  const failing = (after: boolean): ServerScript =>
    askingServer(async (peer) => {
      const error = message(
        'E',
        Buffer.from(
          'SFATAL\0VFATAL\0C3D000\0Mdatabase "nope" does not exist\0Daccount launch_user\0Hcreate it\0Fpostinit.c\0L1\0RInitPostgres\0\0',
        ),
      );
      peer.write(after ? Buffer.concat([R(0), error]) : error);
    });

  it.each([true, false])(
    'reach the client without what is none of its business (after Ok: %s)',
    async (after) => {
      const { messages, error } = await signIn({ servers: [failing(after)] });
      expect(error).toMatchObject({ code: 'server_error', serverCode: '3D000' });
      expect(letters(messages)).toBe('E');
      expect(errorFields(messages[0]!.body)).toEqual({
        S: 'FATAL',
        V: 'FATAL',
        C: '3D000',
        M: 'database "nope" does not exist',
        H: 'create it',
      });
    },
  );
});

describe('errors that name the account', () => {
  it.each([
    [
      '53300',
      'too many connections for role "launch_user"',
      "too many connections for role of the gateway's account",
    ],
    [
      '53300',
      'trop de connexions pour le rôle «\u00a0launch_user\u00a0»',
      "trop de connexions pour le rôle of the gateway's account",
    ],
    ['3D000', 'database "launch_user_2" does not exist', 'database "launch_user_2" does not exist'],
  ])('do not name it to the client (%s)', async (code, text, shown) => {
    const { messages } = await signIn({
      servers: [
        askingServer(async (peer) =>
          peer.write(Buffer.concat([R(0), errorResponse({ severity: 'FATAL', code, message: text })])),
        ),
      ],
    });
    expect(errorFields(messages[0]!.body)).toMatchObject({ C: code, M: shown });
  });

  it('are about the credentials behind AuthenticationOk too, when they are of class 28', async () => {
    const text = 'role "launch_user" does not exist';
    const { error, messages } = await signIn({
      servers: [
        askingServer(async (peer) =>
          peer.write(
            Buffer.concat([R(0), errorResponse({ severity: 'FATAL', code: '28000', message: text })]),
          ),
        ),
      ],
    });
    expect(error).toMatchObject({ code: 'authentication_failed', serverCode: '28000' });
    expect(errorFields(messages[0]!.body).M).not.toContain('launch_user');
  });
});

describe('a server that talks nonsense', () => {
  it('costs the sign-in and nothing more, whatever it sends', async () => {
    const begin = [Buffer.alloc(0), R(0), MECHANISMS, R(0), R(11, 'r='), message('S', Buffer.from('a\0b\0'))];
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(...begin), { maxLength: 3 }),
        fc.uint8Array({ maxLength: 64 }),
        async (known, garbage) => {
          const { error, messages } = await signIn({
            servers: [
              askingServer(async (peer) => {
                peer.write(Buffer.concat([...known, Buffer.from(garbage)]));
                peer.end();
              }),
            ],
          });
          expect(error).toMatchObject({ fault: 'server' });
          expect(letters(messages)).toBe('E');
        },
      ),
      { numRuns: 150 },
    );
  });

  it('is understood all the same when it sends its bytes one by one', async () => {
    const { error, messages } = await signIn({
      servers: [
        askingServer(async (peer) => {
          for (const byte of welcomeBytes()) {
            peer.write(Buffer.from([byte]));
            await new Promise((resolve) => setImmediate(resolve));
          }
        }),
      ],
    });
    expect(error).toBeNull();
    expect(letters(messages)).toBe('RSSKZ');
  });
});

describe('several hosts', () => {
  const primary = { in_hot_standby: 'off', default_transaction_read_only: 'off' };
  const standby = { in_hot_standby: 'on', default_transaction_read_only: 'off' };
  const readOnly = { in_hot_standby: 'off', default_transaction_read_only: 'on' };
  const down: ServerScript = async (peer) => peer.destroy();
  const later: ServerScript = askingServer(async (peer) =>
    peer.write(errorResponse({ severity: 'FATAL', code: '57P03', message: 'starting up' })),
  );

  it.each([
    ['any', [down, later, welcomingServer()], 2],
    [
      'read-write',
      [welcomingServer([], standby), welcomingServer([], readOnly), welcomingServer([], primary)],
      2,
    ],
    ['read-only', [welcomingServer([], primary), welcomingServer([], readOnly)], 1],
    ['primary', [welcomingServer([], standby), welcomingServer([], readOnly)], 1],
    ['standby', [welcomingServer([], primary), welcomingServer([], standby)], 1],
    ['prefer-standby', [welcomingServer([], primary), welcomingServer([], standby)], 1],
    ['prefer-standby', [down, welcomingServer([], primary)], 1],
  ] as const)('%s finds its server', async (targetSessionAttrs, servers, expected) => {
    const { entry, error } = await signIn({ servers, settings: { targetSessionAttrs } });
    expect(error).toBeNull();
    expect(entry.facts[0]!.server.remote.port - 5432).toBe(expected);
  });

  it('ask a server that does not tell by itself', async () => {
    const old = (answer: string): ServerScript =>
      askingServer(async (peer) => {
        peer.write(welcomeBytes());
        const { type, body } = await readAny(peer);
        expect(type + body.toString()).toBe('QSHOW transaction_read_only\0');
        const length = Buffer.from([0, 1, 0, 0, 0, answer.length]);
        const row = message('D', Buffer.concat([length, Buffer.from(answer)]));
        peer.write(
          Buffer.concat([
            message('T', Buffer.alloc(2)),
            row,
            message('C', Buffer.from('SHOW\0')),
            message('Z', Buffer.from('I')),
          ]),
        );
      });
    const { entry } = await signIn({
      servers: [old('on'), old('off')],
      settings: { targetSessionAttrs: 'read-write' },
    });
    expect(entry.facts[0]!.server.remote.port).toBe(5433);
  });

  it('say so when none will do, and stop at one that says no', async () => {
    const none = await signIn({
      servers: [welcomingServer([], standby)],
      settings: { targetSessionAttrs: 'primary' },
    });
    expect(none.error).toMatchObject({ code: 'server_unreachable' });
    const seen: SeenStartup[] = [];
    const no = await signIn({
      servers: [
        askingServer(async (peer) =>
          peer.write(errorResponse({ severity: 'FATAL', code: '3D000', message: 'none' })),
        ),
        welcomingServer(seen),
      ],
    });
    expect(no.error).toMatchObject({ serverCode: '3D000' });
    expect(seen).toEqual([]);
  });
});

describe('a cancel toward the server', () => {
  it('goes to it with its own key, and ends when the server has closed', async () => {
    const entry = new TestEntry();
    entry.peer.write(clientStartup());
    const outcome = await postgres.handshake(entry);
    if (outcome.kind !== 'session') throw new Error('no session');
    let heard: Buffer | null = null;
    const cancelled = new TestEntry({
      servers: [
        async (peer) => {
          heard = await peer.read(16, 'CancelRequest');
          peer.destroy();
        },
      ],
    });
    await outcome.session.interrupt({
      dial: () => cancelled.dial({ host: 'db0.test', port: 5432 }),
      credentials: async () => null,
      observer: null as never,
      send: () => {},
    });
    expect((heard as Buffer | null)?.toString('hex')).toBe('0000001004d2162e000010920badcafe');
  });
});

describe('a cancel of an encrypted session', () => {
  it('is encrypted too, and is not sent to a server that has no TLS any more', async () => {
    const key = { pid: SERVER_PID, secret: SERVER_SECRET };
    let heard = '';
    const listening = secured(async (peer) => {
      heard = (await peer.read(16, 'CancelRequest')).toString('hex');
      peer.destroy();
    });
    const good = new TestEntry({ servers: [listening], serverTls: verifiedTls });
    await sendCancel(await good.dial({ host: 'db0.test', port: 5432 }), key, {
      encrypted: true,
      directTls: false,
    });
    expect(heard).toBe('0000001004d2162e000010920badcafe');

    let leaked = false;
    const stripped: ServerScript = async (peer) => {
      await peer.read(8, 'SSLRequest');
      peer.write(Buffer.from('N'));
      leaked = (await peer.first()) !== null;
    };
    const serverTls: ChannelTls = { ...verifiedTls, mode: 'prefer' };
    const bad = new TestEntry({ servers: [stripped], serverTls });
    const channel = await bad.dial({ host: 'db0.test', port: 5432 });
    await expect(sendCancel(channel, key, { encrypted: true, directTls: false })).rejects.toMatchObject({
      code: 'tls_required',
    });
    channel.destroy();
    expect(leaked).toBe(false);
  });
});

describe('a probe', () => {
  it('signs in and out, and says what it found', async () => {
    const entry = new TestEntry({
      servers: [
        askingServer(async (peer, startup) => {
          expect(startup.parameters).toMatchObject({ user: 'launch_user', database: 'postgres' });
          peer.write(welcomeBytes());
          expect((await readAny(peer)).type).toBe('X');
        }),
      ],
    });
    const server = await entry.dial({ host: 'db0.test', port: 5432 });
    const facts = await postgres.probe(server, entry.resource, LAUNCH, {
      database: null,
      random: randomBytes,
    });
    expect(facts).toMatchObject({ serverVersion: '18.4', authentication: 'trust' });
    expect(entry.failures).toEqual([]);
  });
});
