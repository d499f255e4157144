import { randomBytes } from 'node:crypto';
import * as tls from 'node:tls';
import { beforeAll, describe, expect, it } from 'vitest';
import type { StreamChannel } from '../../src/gateway/channel.ts';
import {
  askingServer,
  clientStartup,
  errorFields,
  readAny,
  readUntil,
  SERVER_PID,
  SERVER_SECRET,
  type SeenStartup,
  type ServerScript,
  TestEntry,
  welcomeBytes,
  welcomingServer,
} from '../../test/support/postgres-peers.ts';
import {
  finishSignIn,
  letters,
  makeTestTls,
  request,
  signIn,
  type TestTls,
} from '../../test/support/postgres-sign-in.ts';
import type { Challenge } from '../engine.ts';
import { ProtocolError, Refusal, type RefusalCode } from '../error.ts';
import { startScram } from '../scram/client.ts';
import { deriveKeys } from '../scram/keys.ts';
import { postgres } from './engine.ts';
import { type Message, message } from './packets.ts';

let own: TestTls;

beforeAll(async () => {
  own = await makeTestTls();
});

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
    const bytes = Buffer.concat([request(0), message('Z', Buffer.from('I'))]);
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
    expect(raw.includes(request(0))).toBe(false);
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
    const { messages, entry } = await signIn({ clientTls: own.listener });
    expect(errorFields(messages[0]!.body)).toMatchObject({ C: '28000' });
    expect(entry.claims).toEqual([]);
    const cancel = new TestEntry({ clientTls: own.listener });
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
    const { error, messages } = await finishSignIn(entry);
    expect(error).toBeInstanceOf(ProtocolError);
    expect(errorFields(messages.at(-1)!.body)).toMatchObject({ S: 'FATAL', C: sqlstate });
  });

  it('is not asked for a bearer token in the clear, and is over TLS', async () => {
    const clear = await signIn({ challenge: { method: 'bearer' } });
    expect(errorFields(clear.messages[0]!.body)).toMatchObject({ C: '28000' });

    let heard = '';
    const entry = new TestEntry({
      challenge: { method: 'bearer' },
      clientTls: own.listener,
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
      ca: own.authority,
      servername: 'gateway.test',
    });
    socket.write(clientStartup());
    const asked = await new Promise<Buffer>((resolve) => socket.once('data', resolve));
    expect(asked).toEqual(request(3));
    socket.write(message('p', Buffer.from('header.payload.signature\0')));
    await outcome;
    expect(heard).toBe('header.payload.signature');
    const proof = entry.proofs[0]!;
    expect(proof.method === 'bearer' && proof.text.wiped).toBe(true);
  });
});
