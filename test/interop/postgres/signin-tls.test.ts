import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Authority, type KeyType, makeAuthority } from '../../support/certificates.ts';
import type { TestGateway } from '../../support/gateway.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import {
  type PostgresGatewayOptions,
  queryThrough,
  startPostgresGateway,
} from '../../support/postgres-gateway.ts';

/** TLS toward real servers: modes, wrong certificates, channel binding with every kind of certificate. */

let authority: Authority;
let other: Authority;
const closing: (() => Promise<void>)[] = [];

beforeAll(async () => {
  authority = await makeAuthority('Server authority');
  other = await makeAuthority('Another authority');
});

afterAll(async () => {
  for (const close of closing.reverse()) await close();
});

async function serverWith(
  issued?: { chain: string; key: string },
  options: Parameters<typeof startPostgres>[0] = {},
): Promise<PostgresServer> {
  const server = await startPostgres({ ...(issued ? { tls: issued } : {}), ...options });
  closing.push(() => server.stop());
  return server;
}

async function gatewayTo(server: PostgresServer, options: PostgresGatewayOptions): Promise<TestGateway> {
  const gateway = await startPostgresGateway(server, options);
  closing.push(() => gateway.close());
  return gateway;
}

const HOSTS = ['localhost', '127.0.0.1'];

describe('a server without TLS', () => {
  let server: PostgresServer;
  beforeAll(async () => {
    server = await serverWith(undefined, { major: 15 });
  });

  it('is spoken to in the clear by disable and by prefer, which says so on record', async () => {
    for (const mode of ['disable', 'prefer'] as const) {
      const gateway = await gatewayTo(server, { serverTls: { mode } });
      await queryThrough(gateway);
      expect(gateway.recorder.sessions[0]?.start).toMatchObject({
        serverTls: null,
        tlsFallback: mode === 'prefer',
      });
    }
  });

  it.each(['require', 'verify-ca', 'verify-full'] as const)('is not spoken to by %s', async (mode) => {
    const gateway = await gatewayTo(server, { serverTls: { mode, ca: authority.cert } });
    await expect(queryThrough(gateway)).rejects.toMatchObject({
      code: '08006',
      message: 'no secure connection to the database server could be made',
    });
    expect(gateway.logs.join('')).toContain('the server offers no TLS');
  });
});

describe('a server that takes TLS only', () => {
  it('is encrypted by prefer and above', async () => {
    const server = await serverWith(await authority.issue({ commonName: 'db', hosts: HOSTS }), {
      tlsRequired: true,
    });
    for (const mode of ['prefer', 'require', 'verify-ca', 'verify-full'] as const) {
      const gateway = await gatewayTo(server, { serverTls: { mode, ca: authority.cert } });
      await queryThrough(gateway);
      expect(gateway.recorder.sessions[0]?.start).toMatchObject({
        serverTls: expect.stringContaining('TLSv1.3'),
        serverTlsVerified: mode.startsWith('verify'),
        tlsFallback: false,
      });
    }
    const clear = await gatewayTo(server, {});
    await expect(queryThrough(clear)).rejects.toMatchObject({ code: '08006' });
    expect(clear.logs.join('')).toContain('28000');
  });
});

describe('a wrong certificate', () => {
  it.each([
    [
      'that has expired',
      () => authority.issue({ commonName: 'db', hosts: HOSTS, days: -1 }),
      ['verify-ca', 'verify-full'],
      'expired',
    ],
    [
      'for another name',
      () => authority.issue({ commonName: 'elsewhere.test' }),
      ['verify-full'],
      'altnames',
    ],
    [
      'of another authority',
      () => other.issue({ commonName: 'db', hosts: HOSTS }),
      ['verify-ca', 'verify-full'],
      'certificate',
    ],
  ] as const)(
    '%s is refused by the modes that look, and never sent a password',
    async (_, make, modes, word) => {
      const server = await serverWith(await make());
      for (const mode of ['require', 'verify-ca', 'verify-full'] as const) {
        const gateway = await gatewayTo(server, { serverTls: { mode, ca: authority.cert } });
        if (!(modes as readonly string[]).includes(mode)) {
          await queryThrough(gateway);
          continue;
        }
        await expect(queryThrough(gateway)).rejects.toMatchObject({ code: '08006' });
        expect(gateway.logs.join('')).toContain(word);
      }
      expect(await server.log()).not.toContain('canary-');
    },
  );

  it('is right again under the name that the settings give', async () => {
    const server = await serverWith(await authority.issue({ commonName: 'db.internal' }));
    const gateway = await gatewayTo(server, {
      serverTls: { mode: 'verify-full', ca: authority.cert, serverName: 'db.internal' },
    });
    await queryThrough(gateway);
  });
});

describe('channel binding', () => {
  const kinds: [KeyType, boolean][] = [
    ['ecdsa', true],
    ['ecdsa-sha512', true],
    ['rsa', true],
    ['rsa-sha384', true],
    ['rsa-pss', true],
    ['ed25519', false],
  ];

  it.each(kinds)('with a certificate signed by %s', async (keyType, binds) => {
    const signer = await makeAuthority(`Signed by ${keyType}`, keyType);
    const server = await serverWith(await signer.issue({ commonName: 'db', hosts: HOSTS }));
    const authentication = async (channelBinding: 'disable' | 'prefer' | 'require') => {
      const gateway = await gatewayTo(server, {
        serverTls: { mode: 'verify-full', ca: signer.cert },
        settings: { channelBinding },
      });
      await queryThrough(gateway);
      return gateway.recorder.sessions[0]?.start.authentication;
    };
    expect(await authentication('disable')).toBe('scram-sha-256');
    expect(await authentication('prefer')).toBe(binds ? 'scram-sha-256-plus' : 'scram-sha-256');
    if (binds) expect(await authentication('require')).toBe('scram-sha-256-plus');
    else await expect(authentication('require')).rejects.toMatchObject({ code: '08006' });
  });

  it('that is required is had from no server that asks nothing, or asks for less', async () => {
    const server = await serverWith(await authority.issue({ commonName: 'db', hosts: HOSTS }), { major: 15 });
    for (const name of ['trust', 'password', 'md5'] as const) {
      const { user, password } = server.accounts[name];
      const gateway = await gatewayTo(server, {
        username: user,
        password: password ?? 'unused',
        serverTls: { mode: 'verify-full', ca: authority.cert },
        settings: { channelBinding: 'require' },
      });
      await expect(queryThrough(gateway)).rejects.toMatchObject({ code: '08006' });
    }
    const clear = await gatewayTo(server, { settings: { channelBinding: 'require' } });
    await expect(queryThrough(clear)).rejects.toMatchObject({ code: '08006' });
  });
});
