import { once } from 'node:events';
import { type Duplex, duplexPair } from 'node:stream';
import * as tls from 'node:tls';
import { beforeAll, describe, expect, it } from 'vitest';
import { type ChannelTls, limitedContext, StreamChannel } from '../../src/gateway/channel.ts';
import { type Authority, type Issued, makeAuthority } from '../../test/support/certificates.ts';
import { acceptLogin, type DoubleLogin, type DoubleOptions } from '../../test/support/tds-double/login.ts';
import { type MemorySignInOptions, startSignIn } from '../../test/support/tds-entry.ts';
import { CLIENT_PASSWORD, formsOf, loginPayload, type ScriptedLogin } from '../../test/support/tds-peers.ts';
import type { TlsMode } from '../channel.ts';
import type { Credentials, TdsSettings } from '../engine.ts';
import { Refusal } from '../error.ts';
import { Secret } from '../secret.ts';
import { tds } from './engine.ts';
import type { LoginRejected } from './errors.ts';
import { buildFedAuth } from './features.ts';
import { greetServer, type LoginResult, signIn as signInTo } from './login.ts';
import { parseLogin7, scramble, utf16 } from './login7.ts';
import { buildMessage } from './messages.ts';
import { buildPrelogin } from './prelogin.ts';

/** Sign-ins with TLS on either side. The server is the test double; the client's half is played by the engine's own other half. */

let authority: Authority;
let front: Issued;
let back: Issued;
const LAUNCH = 'canary-launch';

beforeAll(async () => {
  authority = await makeAuthority('Test', 'rsa');
  front = await authority.issue({ commonName: 'gateway', keyType: 'rsa' });
  back = await authority.issue({ commonName: 'db1.example.com', keyType: 'rsa' });
});

const SETTINGS: TdsSettings = {
  engine: 'tds',
  encryption: 'on',
  clientEncryption: 'login',
  mars: false,
  windowsDomain: null,
  serverName: null,
};

function listener(): ChannelTls {
  const options = { cert: front.chain, key: front.key };
  return {
    mode: 'prefer',
    context: tls.createSecureContext(options),
    limitedContext: limitedContext(options),
    certificate: front.der,
  };
}

function toServer(mode: TlsMode = 'verify-full', ca = authority.cert): ChannelTls {
  return { mode, context: tls.createSecureContext({ ca }) };
}

interface Seen {
  readonly logins: { login: DoubleLogin; protection: string }[];
  readonly names: (string | null)[];
  readonly received: Buffer[];
}

function double(options: Partial<DoubleOptions>, seen: Seen) {
  return (peer: Duplex): void => {
    peer.on('data', (chunk: Buffer) => seen.received.push(Buffer.from(chunk)));
    void acceptLogin(
      peer,
      { encryption: 'required', certificate: back, logins: { svc: LAUNCH }, ...options },
      {
        login: (login, protection) => seen.logins.push({ login, protection }),
        tls: ({ serverName }) => seen.names.push(serverName),
      },
    ).catch(() => peer.destroy());
  };
}

function nothingSeen(): Seen {
  return { logins: [], names: [], received: [] };
}

interface ClientOptions {
  readonly encryption: TdsSettings['encryption'];
  readonly password?: string;
  readonly packetBytes?: number;
  readonly features?: { id: number; data: Buffer }[];
}

/** A client that signs in at the other end of a stream. Rejects as the engine toward a server does. */
async function client(stream: Duplex, options: ClientOptions): Promise<LoginResult> {
  const channel = new StreamChannel(stream, 'server', { host: 'gateway', port: 1433 }, toServer());
  const settings = { ...SETTINGS, encryption: options.encryption };
  const server = await greetServer(channel, settings, 'gateway', null, false);
  const password = options.password ?? CLIENT_PASSWORD;
  const login = parseLogin7(
    loginPayload({
      packetBytes: options.packetBytes ?? 4096,
      ...(options.features ? { features: options.features } : {}),
    }),
  );
  return signInTo(server, {
    login,
    credentials: credentials('alice', password),
    settings,
    database: 'testdb',
    clientEncrypted: false,
    random: (length) => Buffer.alloc(length),
  });
}

function credentials(
  username: string,
  password: string,
  kind: 'password' | 'token' = 'password',
): Credentials {
  return { username, password: Secret.fromText(password), kind };
}

async function through(
  options: MemorySignInOptions,
  how: ClientOptions,
  doubleOptions: Partial<DoubleOptions> = {},
): Promise<{ seen: Seen; result: LoginResult; started: ReturnType<typeof startSignIn> }> {
  const seen = nothingSeen();
  const started = startSignIn({
    clientTls: listener(),
    serverTls: toServer(),
    server: double(doubleOptions, seen),
    ...options,
    settings: { ...SETTINGS, ...options.settings },
  });
  const [result] = await Promise.all([client(started.client, how), started.outcome]);
  return { seen, result, started };
}

describe('TLS on both sides', () => {
  it.each<[TdsSettings['encryption'], TdsSettings['encryption'], DoubleOptions['encryption'], string]>([
    ['off', 'on', 'required', 'full'],
    ['login-only', 'on', 'required', 'full'],
    ['on', 'on', 'required', 'full'],
    ['strict', 'on', 'required', 'full'],
    ['on', 'login-only', 'login-only', 'login-only'],
    ['login-only', 'login-only', 'login-only', 'login-only'],
    ['on', 'login-only', 'required', 'full'],
    ['on', 'strict', 'strict', 'strict'],
    ['login-only', 'strict', 'required', 'strict'],
    ['on', 'off', 'off', 'clear'],
    ['off', 'off', 'login-only', 'clear'],
  ])(
    'client %s, resource %s, server %s: LOGIN7 goes %s',
    async (asks, encryption, serverEncryption, protection) => {
      const { seen } = await through(
        {
          settings: { encryption },
          ...(encryption === 'off' ? { serverTls: { mode: 'disable', context: null } } : {}),
        },
        { encryption: asks },
        { encryption: serverEncryption },
      );
      expect(seen.logins.map((entry) => entry.protection)).toEqual([protection]);
      expect(seen.logins[0]!.login).toMatchObject({
        user: 'svc',
        password: LAUNCH,
        server: 'db1.example.com',
      });
      if (protection !== 'clear') {
        const wire = Buffer.concat(seen.received);
        for (const form of formsOf(LAUNCH)) expect(wire.includes(form)).toBe(false);
      }
    },
  );

  it.each<[TdsSettings['encryption'], DoubleOptions['encryption'], TlsMode, string]>([
    ['on', 'off', 'verify-full', 'tls_required'],
    ['on', 'off', 'require', 'tls_required'],
    ['login-only', 'off', 'verify-full', 'tls_required'],
    ['off', 'required', 'disable', 'tls_required'],
    ['strict', 'off', 'verify-full', 'tls_failed'],
  ])(
    'resource %s, server %s, mode %s: %s, and no password goes out',
    async (encryption, server, mode, code) => {
      const seen = nothingSeen();
      const started = startSignIn({
        clientTls: listener(),
        serverTls: mode === 'disable' ? { mode, context: null } : toServer(mode),
        settings: { ...SETTINGS, encryption },
        server: double(
          { encryption: server, ...(server === 'off' ? { certificate: undefined as never } : {}) },
          seen,
        ),
      });
      const [refused] = await Promise.all([
        client(started.client, { encryption: 'on' }).catch((error: LoginRejected) => error),
        started.outcome.catch((error: { code: string }) => expect(error.code).toBe(code)),
      ]);
      expect((refused as LoginRejected).number).toBe(18456);
      expect(seen.logins).toEqual([]);
    },
  );

  it('goes on without TLS under `prefer`, and says so', async () => {
    const { started } = await through(
      { serverTls: toServer('prefer') },
      { encryption: 'on' },
      { encryption: 'off' },
    );
    expect(started.opened[0]!.tlsFallback).toBe(true);
  });

  it.each([
    ['an unknown authority', 'verify-full' as const, 'other', false],
    ['an unknown authority', 'verify-ca' as const, 'other', false],
    ['an unknown authority', 'require' as const, 'other', true],
    ['another name', 'verify-full' as const, 'name', false],
    ['another name', 'verify-ca' as const, 'name', true],
  ])('a certificate of %s under %s', async (_what, mode, kind, accepted) => {
    const other = await makeAuthority('Other', 'rsa');
    const certificate =
      kind === 'other'
        ? await other.issue({ commonName: 'db1.example.com', keyType: 'rsa' })
        : await authority.issue({ commonName: 'elsewhere.example.com', keyType: 'rsa' });
    const seen = nothingSeen();
    const started = startSignIn({
      clientTls: listener(),
      serverTls: toServer(mode),
      settings: SETTINGS,
      server: double({ certificate }, seen),
    });
    const [result, outcome] = await Promise.all([
      client(started.client, { encryption: 'on' }).catch((error: LoginRejected) => error.number),
      started.outcome.then(
        () => 'session',
        (error: { code: string }) => error.code,
      ),
    ]);
    expect(outcome).toBe(accepted ? 'session' : 'tls_failed');
    if (!accepted) expect(result).toBe(18456);
    expect(seen.logins.length).toBe(accepted ? 1 : 0);
  });

  it('limits packets to what fits a TLS record', async () => {
    for (const [asks, asked, granted] of [
      ['on', 32_767, 16_383],
      ['on', 0, 4096],
      ['off', 32_767, 16_383],
      ['on', 100, 512],
    ] as const) {
      const { seen } = await through({}, { encryption: asks, packetBytes: asked });
      expect(seen.logins[0]!.login.packetBytes).toBe(granted);
    }
  });

  it('takes a LOGIN7 of several packets of which only the first is protected', async () => {
    const big = { id: 0x10, data: Buffer.from('x'.repeat(9000), 'utf16le') };
    const { seen } = await through(
      { settings: { encryption: 'login-only' } },
      { encryption: 'login-only', features: [big] },
      { encryption: 'login-only' },
    );
    expect(seen.logins[0]!.login.features[0]!.data.length).toBe(18_000);
    expect(seen.logins[0]!.protection).toBe('login-only');
  });
});

describe('a launch token as the password', () => {
  const verifier = (token: string) => ({
    scram: {
      salt: Buffer.alloc(16),
      iterations: 4096,
      storedKey: Buffer.alloc(32),
      serverKey: Buffer.alloc(32),
    },
    nativeHash: Buffer.alloc(20),
    sha2Hash: Buffer.alloc(32),
    matches: (shown: Buffer) => shown.toString() === token,
  });

  it.each(['login-only', 'on', 'strict'] as const)(
    'is looked at when it came inside TLS (%s)',
    async (encryption) => {
      for (const [password, valid] of [
        ['tök€n', true],
        ['other', false],
      ] as const) {
        const { started } = await through(
          { challenge: { method: 'token', verifier: verifier('tök€n') } },
          { encryption, password },
        );
        expect(started.proofs).toEqual([{ method: 'token', valid }]);
      }
    },
  );

  it('that is no text is a wrong one', async () => {
    const change = (payload: Buffer): void => {
      // Half a surrogate pair in place of the password's first character.
      scramble(Buffer.from('00d8', 'hex')).copy(payload, payload.readUInt16LE(44));
    };
    expect(await proofs({ change })).toEqual([{ method: 'token', valid: false }]);
  });

  it('may come as the client’s access token', async () => {
    const features = [buildFedAuth(utf16('token'), false)];
    expect(await proofs({ features })).toEqual([{ method: 'token', valid: true }]);
  });

  /** What a client proves that sends this LOGIN7 over TDS 8.0, where `token` is right. */
  async function proofs(options: ScriptedLogin): Promise<unknown> {
    const started = startSignIn({
      clientTls: listener(),
      serverTls: toServer(),
      settings: SETTINGS,
      challenge: { method: 'token', verifier: verifier('token') },
      server: double({}, nothingSeen()),
    });
    const channel = new StreamChannel(started.client, 'server', { host: 'gateway', port: 1433 }, toServer());
    await channel.connectTls({ alpn: ['tds/8.0'] });
    channel.write(buildMessage(0x12, buildPrelogin(2, false), 4096));
    channel.write(buildMessage(0x10, loginPayload({ ...options, database: 'testdb' }), 4096));
    await started.outcome;
    return started.proofs;
  }

  it('goes to the gateway as it is, where only that can judge it', async () => {
    const bearer = `e30.${'a'.repeat(900)}.sig`;
    const { started } = await through(
      { challenge: { method: 'bearer' } },
      { encryption: 'on', password: bearer },
    );
    const proof = started.proofs[0]!;
    expect(proof.method === 'bearer' && proof.text.expose().toString()).toBe(bearer);
  });
});

describe('launch credentials of other kinds', () => {
  it('a Windows account signs in by NTLM, bound to the TLS connection', async () => {
    for (const [username, windowsDomain] of [
      ['CORP\\svc', null],
      ['svc', 'CORP'],
    ] as const) {
      const { seen, started } = await through(
        { username, settings: { windowsDomain } },
        { encryption: 'on' },
        { accounts: { 'CORP\\svc': LAUNCH }, logins: {}, extendedProtection: true },
      );
      expect(seen.logins[0]!.login).toMatchObject({ user: '', password: '' });
      expect(started.opened[0]!.authentication).toBe('ntlm');
    }
  });

  it('a wrong Windows password is refused as such', async () => {
    const started = startSignIn({
      clientTls: listener(),
      serverTls: toServer(),
      settings: SETTINGS,
      username: 'CORP\\svc',
      server: double({ accounts: { 'CORP\\svc': 'other' } }, nothingSeen()),
    });
    const refused = client(started.client, { encryption: 'on' });
    await expect(refused).rejects.toMatchObject({ number: 18456 });
    await expect(started.outcome).rejects.toMatchObject({ code: 'authentication_failed' });
  });

  it('an access token goes by FEDAUTH, and its acknowledgement stays from a client that has none', async () => {
    for (const fedAuthRequired of [0, 1]) {
      const { seen, result, started } = await through(
        { kind: 'token' },
        { encryption: 'on', features: [] },
        { tokens: [LAUNCH], fedAuthRequired },
      );
      const { login } = seen.logins[0]!;
      expect(login).toMatchObject({ user: '', password: '' });
      expect(login.features[0]!.data[0]).toBe(2 | fedAuthRequired);
      expect(login.features[0]!.data.subarray(5).equals(utf16(LAUNCH))).toBe(true);
      expect(result.response.acknowledged(2)).toBe(false);
      expect(started.opened[0]!.authentication).toBe('entra-token');
    }
  });

  it.each([
    [
      'over login-only encryption',
      { settings: { encryption: 'login-only' as const } },
      'login-only' as const,
    ],
    ['to a server that is not verified', { serverTls: 'require' as const }, 'required' as const],
  ])('an access token is not sent %s', async (_what, options, encryption) => {
    const seen = nothingSeen();
    const started = startSignIn({
      clientTls: listener(),
      kind: 'token',
      settings: { ...SETTINGS, ...('settings' in options ? options.settings : {}) },
      serverTls: toServer('serverTls' in options ? options.serverTls : 'verify-full'),
      server: double({ encryption, tokens: [LAUNCH] }, seen),
    });
    await expect(client(started.client, { encryption: 'on' })).rejects.toMatchObject({ number: 18456 });
    await expect(started.outcome).rejects.toMatchObject({ code: 'server_tls_failed' });
    expect(seen.logins).toEqual([]);
  });
});

describe('routing by a verified server', () => {
  it('is followed anywhere, and the certificate checked against where it leads', async () => {
    const routed = await authority.issue({ commonName: 'node7.other.net', keyType: 'rsa' });
    for (const [certificate, works] of [
      [routed, true],
      [back, false],
    ] as const) {
      const seen = nothingSeen();
      const started = startSignIn({
        clientTls: listener(),
        serverTls: toServer(),
        settings: SETTINGS,
        server: (peer, address) => {
          const first = address.host === 'db1.example.com';
          const route = { host: 'node7.other.net', port: 11_001 };
          double(first ? { route } : { certificate }, seen)(peer);
        },
      });
      const [told, outcome] = await Promise.all([
        client(started.client, { encryption: 'on' }).then(
          ({ response }) => response.routing,
          ({ number }: LoginRejected) => number,
        ),
        started.outcome.then(
          () => 'session',
          ({ code }: { code: string }) => code,
        ),
      ]);
      expect(started.dialled.map(({ host, port }) => `${host}:${port}`)).toEqual([
        'db1.example.com:1433',
        'node7.other.net:11001',
      ]);
      expect(told).toBe(works ? null : 18456);
      expect(outcome).toBe(works ? 'session' : 'tls_failed');
      expect(seen.names).toEqual(works ? ['db1.example.com', 'node7.other.net'] : ['db1.example.com']);
      expect(seen.logins.at(-1)!.login.server).toBe(works ? 'node7.other.net' : 'db1.example.com');
    }
  });
});

describe('an address that serves several resources', () => {
  it('shows a version of its own, demands encryption, and meets the server when it is known', async () => {
    const { started, seen } = await through({ severalResources: true }, { encryption: 'login-only' });
    expect(started.channels.client.tls?.version).toBe('TLSv1.2');
    expect(started.dialled.length).toBe(1);
    expect(seen.logins[0]!.login.user).toBe('svc');
  });

  it('does not reach out for who may not come in', async () => {
    const started = startSignIn({
      clientTls: listener(),
      severalResources: true,
      settings: SETTINGS,
      server: double({}, nothingSeen()),
      admit: () => {
        throw new Refusal('not_allowed', 'no');
      },
    });
    await expect(client(started.client, { encryption: 'on' })).rejects.toMatchObject({ number: 18456 });
    await expect(started.outcome).rejects.toMatchObject({ code: 'not_allowed' });
    expect(started.dialled).toEqual([]);
  });
});

describe('a probe', () => {
  it('signs in and out again', async () => {
    const seen = nothingSeen();
    const [near, far] = duplexPair();
    const ended = once(far, 'end');
    double({}, seen)(far);
    const channel = new StreamChannel(near, 'server', { host: 'db1.example.com', port: 1433 }, toServer());
    const resource = {
      name: 'orders',
      engine: 'tds',
      addresses: [{ host: 'db1.example.com', port: 1433 }],
      settings: SETTINGS,
    } as const;
    const facts = await tds.probe(channel, resource, credentials('svc', LAUNCH), {
      database: 'testdb',
      random: (length) => Buffer.alloc(length),
    });
    expect(facts).toMatchObject({ serverVersion: '16.0.1000', databaseUser: 'svc', database: 'testdb' });
    expect(seen.logins[0]!.login.app).toBe('Sallyport check');
    await ended;
  });
});

describe('a client that was told to encrypt', () => {
  it('and sends LOGIN7 in the clear is told so', async () => {
    const started = startSignIn({
      clientTls: listener(),
      serverTls: toServer(),
      settings: { ...SETTINGS, clientEncryption: 'required' },
      server: double({}, nothingSeen()),
    });
    const seen: Buffer[] = [];
    started.client.on('data', (chunk: Buffer) => seen.push(chunk));
    started.client.write(buildMessage(0x12, buildPrelogin(0, false), 4096));
    started.client.write(buildMessage(0x10, loginPayload(), 4096));
    await expect(started.outcome).rejects.toMatchObject({ code: 'tls_required' });
    await new Promise((resolve) => setImmediate(resolve));
    expect(Buffer.concat(seen).toString('utf16le', 0).length).toBeGreaterThan(20);
  });
});
