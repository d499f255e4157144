import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import type { ChannelTls } from '../../src/gateway/channel.ts';
import {
  askingServer,
  clientStartup,
  errorFields,
  LAUNCH,
  readAny,
  SERVER_PID,
  SERVER_SECRET,
  type ServerScript,
  TestEntry,
  welcomeBytes,
  welcomingServer,
  withCertificate,
} from '../../test/support/postgres-peers.ts';
import {
  letters,
  makeTestTls,
  request,
  SCRAM_OFFER,
  securedServer,
  signIn,
  type TestTls,
} from '../../test/support/postgres-sign-in.ts';
import type { Credentials } from '../engine.ts';
import { deriveKeys } from '../scram/keys.ts';
import { challengeScram, SCRAM_SHA_256 } from '../scram/server.ts';
import { Secret } from '../secret.ts';
import { sendCancel } from './cancel.ts';
import { postgres } from './engine.ts';
import { errorResponse } from './errors.ts';
import { message } from './packets.ts';

let own: TestTls;

beforeAll(async () => {
  own = await makeTestTls();
});

const secured = (script: ServerScript): ServerScript => securedServer(script, own.server);

describe('TLS toward the server', () => {
  const asked =
    (answer: string): ServerScript =>
    async (peer) => {
      await peer.read(8, 'SSLRequest');
      peer.write(Buffer.from(answer));
    };
  const prefer = (): ChannelTls => ({ ...own.verified, mode: 'prefer' });

  it('is given up only by prefer, and only when the server has none', async () => {
    const fallen: ServerScript = async (peer) => {
      await asked('N')(peer);
      await welcomingServer()(peer);
    };
    const preferred = await signIn({ servers: [fallen], serverTls: prefer() });
    expect(preferred.entry.facts[0]).toMatchObject({ tlsFallback: true });
    const required = await signIn({ servers: [fallen], serverTls: own.unverified });
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
      }, own.server);
    const settings = { directTls: true };
    const good = await signIn({ servers: [direct(['postgresql'])], serverTls: own.verified, settings });
    expect(good.error).toBeNull();
    const bad = await signIn({ servers: [direct([])], serverTls: own.verified, settings });
    expect(bad.error).toMatchObject({ code: 'tls_failed', fault: 'server' });
  });
});

describe('launch credentials that the server does not take', () => {
  const takes = (password: string): ServerScript =>
    askingServer(async (peer) => {
      peer.write(SCRAM_OFFER);
      const initial = await readAny(peer);
      const salt = Buffer.alloc(16, 3);
      const { storedKey, serverKey } = await deriveKeys(Buffer.from(password), salt, 4096);
      const verifier = { salt, iterations: 4096, storedKey, serverKey };
      const challenged = challengeScram(
        { bindingData: null, nonce: 'x', verifier },
        SCRAM_SHA_256,
        initial.body.subarray('SCRAM-SHA-256\0'.length + 4),
      );
      peer.write(request(11, challenged.message.toString()));
      const finished = challenged.finish((await readAny(peer)).body);
      if (finished.valid)
        peer.write(Buffer.concat([request(12, finished.message.toString()), welcomeBytes()]));
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
      peer.write(after ? Buffer.concat([request(0), error]) : error);
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
          peer.write(Buffer.concat([request(0), errorResponse({ severity: 'FATAL', code, message: text })])),
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
            Buffer.concat([request(0), errorResponse({ severity: 'FATAL', code: '28000', message: text })]),
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
    const begin = [
      Buffer.alloc(0),
      request(0),
      SCRAM_OFFER,
      request(0),
      request(11, 'r='),
      message('S', Buffer.from('a\0b\0')),
    ];
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
    const good = new TestEntry({ servers: [listening], serverTls: own.verified });
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
    const serverTls: ChannelTls = { ...own.verified, mode: 'prefer' };
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
