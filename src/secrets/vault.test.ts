import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Secret } from '../../protocols/secret.ts';
import { startHttpDouble } from '../../test/support/secret-stores/http-double.ts';
import { startVaultDouble, type VaultDouble } from '../../test/support/secret-stores/vault-double.ts';
import type { SecretValue } from './provider.ts';
import { parseReference } from './reference.ts';
import { type VaultAuth, VaultSecrets } from './vault.ts';

/** Against a double of Vault's HTTP API that was written from its documentation. */

let server: VaultDouble;
let folder: string;
let vaults: VaultSecrets[];

beforeEach(async () => {
  server = await startVaultDouble();
  folder = mkdtempSync(join(tmpdir(), 'sallyport-vault-'));
  vaults = [];
});
afterEach(async () => {
  for (const vault of vaults) await vault.close().catch(() => {});
  await server.close();
  rmSync(folder, { recursive: true });
});

const signal = (): AbortSignal => new AbortController().signal;

function vaultWith(auth: VaultAuth, namespace?: string): VaultSecrets {
  const vault = new VaultSecrets(
    'vault',
    { address: server.url, auth, namespace },
    { log: pino({ level: 'silent' }), now: Date.now, secret: async (text) => Secret.fromText(text.slice(4)) },
  );
  vaults.push(vault);
  return vault;
}

function approle(): VaultSecrets {
  const { roleId, secretId } = server.vault;
  return vaultWith({ method: 'approle', mount: 'approle', role_id: roleId, secret_id: `env:${secretId}` });
}

const fetch = (vault: VaultSecrets, reference: string): Promise<SecretValue> =>
  vault.fetch(parseReference(reference), signal());
const password = (value: SecretValue): string | undefined => value.fields['password']?.expose().toString();

describe('signing in', () => {
  beforeEach(() => server.vault.kv.set('secret/a', { password: 'pw' }));

  test.each(['kubernetes', 'jwt'] as const)('by %s, the token read anew at each sign-in', async (method) => {
    const token_file = join(folder, 'token');
    writeFileSync(token_file, 'stale');
    const vault = vaultWith({ method, mount: 'cluster', role: 'sallyport', token_file });
    await expect(fetch(vault, 'vault:secret/a')).rejects.toMatchObject({
      code: 'denied',
      message: expect.stringContaining(method),
    });
    writeFileSync(token_file, `${server.vault.jwt}\n`);
    expect(password(await fetch(vault, 'vault:secret/a'))).toBe('pw');
    expect(server.requests.at(-1)?.url.pathname).toBe('/v1/secret/data/a');
  });

  test('by a token file that an agent writes anew', async () => {
    const token_file = join(folder, 'token');
    const first = server.vault.newToken();
    writeFileSync(token_file, first);
    const vault = vaultWith({ method: 'token', token_file });
    await fetch(vault, 'vault:secret/a');
    server.vault.tokens.get(first)!.revoked = true;
    await expect(fetch(vault, 'vault:secret/a')).rejects.toMatchObject({ code: 'denied' });
    writeFileSync(token_file, server.vault.newToken());
    expect(password(await fetch(vault, 'vault:secret/a'))).toBe('pw');
  });

  test('once for all who ask at the same time, and anew when the token is revoked', async () => {
    const vault = approle();
    await Promise.all(Array.from({ length: 20 }, () => fetch(vault, 'vault:secret/a')));
    expect(server.vault.tokens.size).toBe(1);
    for (const token of server.vault.tokens.values()) token.revoked = true;
    expect(password(await fetch(vault, 'vault:secret/a'))).toBe('pw');
    expect(server.vault.tokens.size).toBe(2);
  });

  test('is not repeated for what a policy denies', async () => {
    const vault = approle();
    server.vault.denied.add('secret/data/a');
    for (let attempt = 0; attempt < 3; attempt += 1) {
      await expect(fetch(vault, 'vault:secret/a')).rejects.toMatchObject({
        code: 'denied',
        hint: expect.stringContaining('"read" on "secret/data/a"'),
      });
    }
    expect(server.vault.tokens.size).toBe(1);
  });

  test('a token is renewed while it is needed, and revoked when we close', async () => {
    server.vault.tokenSeconds = 12;
    const vault = approle();
    await fetch(vault, 'vault:secret/a');
    server.vault.tokenSeconds = 1;
    const [token] = [...server.vault.tokens.values()];
    await vault.close();
    expect(token?.revoked).toBe(true);
  });

  test('the namespace goes along', async () => {
    await fetch(
      vaultWith({ method: 'token', token: `env:${server.vault.newToken()}` }, 'team-a'),
      'vault:secret/a',
    );
    expect(server.requests.every(({ headers }) => headers['x-vault-namespace'] === 'team-a')).toBe(true);
  });
});

describe('paths', () => {
  test('of version 2 with and without data/, of version 1, and as the API has them without mount rights', async () => {
    const { kv } = server.vault;
    kv.set('secret/deep/path', { password: 'two' });
    kv.set('kv/data/x', { password: 'one' });
    kv.set('other/thing', { password: 'raw' });
    const vault = approle();
    expect(password(await fetch(vault, 'vault:secret/deep/path'))).toBe('two');
    expect(password(await fetch(vault, 'vault:secret/data/deep/path'))).toBe('two');
    expect(password(await fetch(vault, 'vault:kv/data/x'))).toBe('one');
    expect(password(await fetch(vault, 'vault:other/thing'))).toBe('raw');
    expect(password(await fetch(vault, 'vault:/v1/secret/deep/path'))).toBe('two');
  });

  test('a secret of version 2 whose own fields are called data and metadata', async () => {
    server.vault.kv.set('secret/odd', { data: 'x', metadata: 'y', password: 'pw' });
    expect(password(await fetch(approle(), 'vault:secret/odd'))).toBe('pw');
  });

  test('a static role is good until its next rotation', async () => {
    const before = Date.now();
    server.vault.kv.set('database/static-creds/app', {
      username: 'app',
      password: 'pw',
      last_vault_rotation: '2026-01-01T00:00:00Z',
      ttl: 90,
    });
    const value = await fetch(approle(), 'vault:database/static-creds/app');
    expect(value.expiresAt! - before).toBeGreaterThanOrEqual(90_000);
    expect(value.release).toBeUndefined();
  });
});

describe('accounts of the database engine', () => {
  beforeEach(() => server.vault.kv.set('database/creds/ro', { password: 'made' }));

  test('are made for each fetch, and revoked on release', async () => {
    const vault = approle();
    const first = await fetch(vault, 'vault:database/creds/ro');
    const second = await fetch(vault, 'vault:database/creds/ro');
    expect(first.fields['username']?.expose()).not.toEqual(second.fields['username']?.expose());
    await first.release?.();
    expect([...server.vault.leases.values()].map((lease) => lease.revoked)).toEqual([true, false]);
    await first.release?.();
    expect(server.requests.filter(({ url }) => url.pathname.endsWith('/revoke'))).toHaveLength(1);
  });

  test('are renewed until they are released', async () => {
    server.vault.leaseSeconds = 2;
    const vault = approle();
    const value = await fetch(vault, 'vault:database/creds/ro');
    const [lease] = [...server.vault.leases.values()];
    await expect.poll(() => lease?.renewals, { timeout: 10_000 }).toBeGreaterThanOrEqual(1);
    await value.release?.();
    expect(lease?.revoked).toBe(true);
  });

  test('one that lacks the field that was asked for is given back at once', async () => {
    const vault = approle();
    await expect(fetch(vault, 'vault:database/creds/ro#nonsense')).rejects.toMatchObject({
      code: 'field_not_found',
    });
    await expect.poll(() => [...server.vault.leases.values()][0]?.revoked).toBe(true);
  });

  test('a role that is not there', async () => {
    await expect(fetch(approle(), 'vault:database/creds/none')).rejects.toThrow(/unknown role: none/);
  });
});

describe('its state', () => {
  test('sealed, and well', async () => {
    const vault = approle();
    await vault.check(signal());
    server.vault.sealed = true;
    await expect(vault.check(signal())).rejects.toThrow('is sealed');
    await expect(fetch(vault, 'vault:secret/a')).rejects.toMatchObject({ code: 'unavailable' });
  });

  test('a standby node that names the active one', async () => {
    const standby = await startHttpDouble(({ url }) => ({
      status: 307,
      headers: { location: `${server.url}${url.pathname}` },
    }));
    server.vault.kv.set('secret/a', { password: 'pw' });
    const vault = new VaultSecrets(
      'vault',
      { address: standby.url, auth: { method: 'token', token: `env:${server.vault.newToken()}` } },
      {
        log: pino({ level: 'silent' }),
        now: Date.now,
        secret: async (text) => Secret.fromText(text.slice(4)),
      },
    );
    expect(password(await fetch(vault, 'vault:secret/a'))).toBe('pw');
    await vault.close();
    await standby.close();
  });

  test('wrong credentials say which method, and do not show them', async () => {
    const vault = vaultWith({
      method: 'approle',
      mount: 'approle',
      role_id: 'r',
      secret_id: 'env:hunter2-canary',
    });
    const error = await vault.check(signal()).catch((caught: unknown) => caught as Error);
    expect((error as Error).message).toContain('approle');
    expect((error as Error).message).not.toContain('hunter2');
  });
});
