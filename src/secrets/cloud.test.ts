import { createHash, createHmac, type Hash, type Hmac } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SignatureV4 } from '@smithy/signature-v4';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Secret } from '../../protocols/secret.ts';
import { makeAuthority } from '../../test/support/certificates.ts';
import { startAzureDouble } from '../../test/support/secret-stores/azure-double.ts';
import { startGoogleDouble } from '../../test/support/secret-stores/google-double.ts';
import {
  type KeeperEndpoint,
  startKeeperEndpoint,
} from '../../test/support/secret-stores/keeper-endpoint.ts';
import { AwsRdsTokens, AwsSecretsManager } from './aws.ts';
import { AzureKeyVault } from './azure.ts';
import { GoogleSecretManager } from './google.ts';
import { KeeperSecrets } from './keeper.ts';
import type { SecretProvider } from './provider.ts';
import { presignRdsToken } from './rds-token.ts';
import { parseReference } from './reference.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'sallyport-cloud-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const signal = (): AbortSignal => new AbortController().signal;
const secret = async (text: string): Promise<Secret> => Secret.fromText(text.slice(text.indexOf(':') + 1));
const text = async (provider: SecretProvider, reference: string): Promise<string | undefined> =>
  (await provider.fetch(parseReference(reference), signal())).value?.expose().toString();

/** SHA-256 and HMAC in the form that the SDK's signer wants them. */
class Sha256 {
  readonly #hash: Hash | Hmac;

  constructor(key?: unknown) {
    this.#hash = key === undefined ? createHash('sha256') : createHmac('sha256', key as Buffer);
  }

  update(data: string | Uint8Array): void {
    this.#hash.update(data);
  }

  async digest(): Promise<Uint8Array> {
    return new Uint8Array(this.#hash.digest());
  }

  reset(): void {}
}

describe('RDS tokens', () => {
  const credentials = {
    accessKeyId: 'AKIATEST',
    secretAccessKey: 'key/of+test',
    sessionToken: 'session/+=token',
  };
  const at = new Date('2026-02-03T04:05:06.789Z');

  test.each([
    ['app_ro', credentials],
    ["o'brien (x)*!", { accessKeyId: 'AKIATEST', secretAccessKey: 'k' }],
  ])('are what the AWS SDK signs, for %s', async (username, keys) => {
    const host = 'orders.abc.eu-west-1.rds.amazonaws.com';
    const oracle = new SignatureV4({
      service: 'rds-db',
      region: 'eu-west-1',
      credentials: keys,
      sha256: Sha256,
    });
    const signed = await oracle.presign(
      {
        method: 'GET',
        protocol: 'https:',
        hostname: host,
        port: 5432,
        path: '/',
        headers: { host: `${host}:5432` },
        query: { Action: 'connect', DBUser: username },
      } as never,
      { expiresIn: 900, signingDate: at },
    );
    const token = presignRdsToken({ host, port: 5432, username, region: 'eu-west-1', credentials: keys, at });
    const ours = new URL(`https://${token}`).searchParams;
    expect(Object.fromEntries(ours)).toEqual(signed.query);
    expect(token.startsWith(`${host}:5432/?`)).toBe(true);
  });

  test('are made for the path, with the end of the credentials they are made with', async () => {
    process.env['AWS_ACCESS_KEY_ID'] = 'AKIATEST';
    process.env['AWS_SECRET_ACCESS_KEY'] = 'aws-secret-of-test';
    const provider = new AwsRdsTokens('rds', { region: 'eu-west-1' }, () => at.getTime());
    const value = await provider.fetch(parseReference('rds:db.example:3306/app'));
    expect(value.value?.expose().toString()).toMatch(/^db\.example:3306\/\?Action=connect&DBUser=app&X-Amz-/);
    expect(value.expiresAt).toBe(at.getTime() + 900_000);
    for (const path of ['db.example/app', 'db.example:3306', 'nonsense', 'db.example:3306/app#field'])
      await expect(provider.fetch(parseReference(`rds:${path}`))).rejects.toThrow('HOST:PORT/USERNAME');
    await provider.check();
    await provider.close();
  });
});

describe('AWS without what it needs', () => {
  test('says that there is no region, or no credentials', async () => {
    const kept = { ...process.env };
    for (const name of Object.keys(process.env)) if (name.startsWith('AWS_')) delete process.env[name];
    Object.assign(process.env, {
      AWS_EC2_METADATA_DISABLED: 'true',
      HOME: folder,
      AWS_CONFIG_FILE: join(folder, 'none'),
    });
    try {
      const provider = new AwsSecretsManager('aws', { region: 'eu-west-1', endpoint: 'http://127.0.0.1:9' });
      await expect(provider.check()).rejects.toMatchObject({
        code: 'denied',
        message: expect.stringContaining('no credentials'),
      });
      await expect(provider.fetch(parseReference('aws:x'), signal())).rejects.toMatchObject({
        code: 'denied',
      });
      const nowhere = new AwsSecretsManager('aws', {});
      await expect(nowhere.fetch(parseReference('aws:x'), signal())).rejects.toMatchObject({
        code: 'denied',
      });
    } finally {
      process.env = kept;
    }
  });
});

describe('Azure', () => {
  const ports = (environment: Record<string, string>): ConstructorParameters<typeof AzureKeyVault>[2] => ({
    now: Date.now,
    secret,
    environment,
  });

  test('signs in as the identity of the app, and anew when its token is not taken any more', async () => {
    const server = await startAzureDouble();
    server.secrets.set('db', { value: 'pw', exp: 4_000_000_000 });
    const environment = {
      IDENTITY_ENDPOINT: `${server.url}/identity`,
      IDENTITY_HEADER: server.identityHeader,
    };
    const settings = {
      vault_url: server.url,
      authority: server.url,
      auth: { method: 'managed-identity' },
    } as const;
    const provider = new AzureKeyVault('az', settings, ports(environment));
    expect(await text(provider, 'az:db')).toBe('pw');
    server.revokeTokens();
    const value = await provider.fetch(parseReference('az:db'), signal());
    expect(value.expiresAt).toBe(4_000_000_000_000);
    const stranger = new AzureKeyVault('az', settings, ports({ ...environment, IDENTITY_HEADER: 'no' }));
    await expect(stranger.check(signal())).rejects.toMatchObject({
      code: 'denied',
      hint: expect.stringContaining('identity'),
    });
    await server.close();
  });

  test('signs in as a workload, the token read anew', async () => {
    const server = await startAzureDouble();
    server.secrets.set('db', { value: 'pw' });
    const AZURE_FEDERATED_TOKEN_FILE = join(folder, 'federated');
    const provider = new AzureKeyVault(
      'az',
      { vault_url: server.url, authority: server.url, auth: { method: 'workload-identity' } },
      ports({ AZURE_TENANT_ID: 'tenant', AZURE_CLIENT_ID: 'client', AZURE_FEDERATED_TOKEN_FILE }),
    );
    await expect(provider.check(signal())).rejects.toMatchObject({
      code: 'denied',
      hint: expect.stringContaining('workload identity'),
    });
    writeFileSync(AZURE_FEDERATED_TOKEN_FILE, `${server.assertion}\n`);
    expect(await text(provider, 'az:db')).toBe('pw');
    await server.close();
  });
});

describe('Google', () => {
  test('signs in by the metadata server; names may be whole', async () => {
    const server = await startGoogleDouble('shop');
    server.secrets.set('db/versions/latest', 'pw');
    const settings = { project: 'shop', endpoint: server.url, auth: { method: 'metadata' } } as const;
    const environment = { GCE_METADATA_HOST: `127.0.0.1:${server.port}` };
    const provider = new GoogleSecretManager('g', settings, { now: Date.now, environment });
    expect(await text(provider, 'g:db')).toBe('pw');
    expect(await text(provider, 'g:projects/shop/secrets/db')).toBe('pw');
    expect(await text(provider, 'g:projects/shop/secrets/db/versions/latest')).toBe('pw');
    expect(server.requests.filter(({ url }) => url.pathname.startsWith('/computeMetadata'))).toHaveLength(1);
    await server.close();
  });

  test('a key that is none, and a clock that is wrong', async () => {
    const server = await startGoogleDouble('shop');
    const key_file = join(folder, 'key.json');
    const settings = {
      project: 'shop',
      endpoint: server.url,
      auth: { method: 'service-account', key_file },
    } as const;
    writeFileSync(key_file, '{"private_key":"hunter2-canary');
    const provider = new GoogleSecretManager('g', settings, { now: Date.now, environment: {} });
    await expect(provider.check(signal())).rejects.toThrow(/is no key/);
    writeFileSync(key_file, server.keyFile);
    const late = new GoogleSecretManager('g', settings, { now: () => 0, environment: {} });
    await expect(late.check(signal())).rejects.toMatchObject({
      code: 'denied',
      hint: expect.stringContaining('clock'),
    });
    await server.close();
  });
});

describe('Keeper', () => {
  let server: KeeperEndpoint;
  let ca: Buffer;
  let uid: string;

  beforeAll(async () => {
    const authority = await makeAuthority('Keeper test');
    const { chain, key } = await authority.issue({ commonName: 'keeper', hosts: ['127.0.0.1'] });
    ca = Buffer.from(authority.cert);
    server = await startKeeperEndpoint({ cert: chain, key });
    uid = server.addRecord({
      title: 'Orders DB',
      fields: [
        { type: 'login', value: ['app'] },
        { type: 'password', value: ['pw'] },
        { type: 'host', value: [{ hostName: 'db.example', port: '5432' }] },
      ],
      custom: [{ type: 'secret', label: 'api token', value: ['one', 'two'] }],
    });
  });
  afterAll(() => server.close());

  const keeper = (): KeeperSecrets =>
    new KeeperSecrets('k', { config: `env:${JSON.stringify(server.configuration)}` }, { secret, ca });

  test('by UID and title, by field, and in Keeper notation', async () => {
    const provider = keeper();
    for (const reference of [
      `k:${uid}#password`,
      'k:Orders DB#password',
      `k:${uid}`,
      `k:${uid}/field/password`,
    ])
      expect(await text(provider, reference)).toBe('pw');
    expect(await text(provider, 'k:Orders DB/field/login')).toBe('app');
    expect(await text(provider, `k:${uid}/field/host[0][hostName]`)).toBe('db.example');
    expect(await text(provider, `k:${uid}/custom_field/api token[1]`)).toBe('two');
    expect(await text(provider, `k:${uid}#api token`)).toBe('one');
  });

  test('what is not there, and what is not one value', async () => {
    const provider = keeper();
    await expect(text(provider, `k:${uid}/field/none`)).rejects.toMatchObject({ code: 'not_found' });
    await expect(text(provider, 'k:Nothing')).rejects.toMatchObject({ code: 'not_found' });
    await expect(text(provider, `k:${uid}/field/host[hostName]`)).rejects.toMatchObject({
      code: 'malformed',
    });
    await expect(text(provider, `k:${uid}/custom_field/api token`)).rejects.toMatchObject({
      code: 'field_not_found',
    });
  });

  test('two devices in one process do not mix their keys', async () => {
    const authority = await makeAuthority('Other');
    const { chain, key } = await authority.issue({ commonName: 'keeper', hosts: ['127.0.0.1'] });
    const other = await startKeeperEndpoint({ cert: chain, key });
    other.addRecord({ title: 'Orders DB', fields: [{ type: 'password', value: ['other'] }] });
    const config = `env:${JSON.stringify(other.configuration)}`;
    const second = new KeeperSecrets('k2', { config }, { secret, ca: Buffer.from(authority.cert) });
    const first = keeper();
    const all = await Promise.all(
      Array.from({ length: 6 }, (_, index) => text(index % 2 === 0 ? first : second, 'k:Orders DB#password')),
    );
    expect(all).toEqual(['pw', 'other', 'pw', 'other', 'pw', 'other']);
    await other.close();
  });

  test('a device that was removed, and a configuration that is none', async () => {
    server.state.removed = true;
    await expect(keeper().check(signal())).rejects.toMatchObject({
      code: 'denied',
      message: 'Keeper: access_denied',
    });
    server.state.removed = false;
    const config_file = join(folder, 'ksm.json');
    const provider = new KeeperSecrets('k', { config_file }, { secret, ca });
    await expect(provider.check(signal())).rejects.toThrow('cannot be read');
    writeFileSync(config_file, 'hunter2-canary');
    await expect(provider.check(signal())).rejects.toThrow(/is no device configuration/);
    writeFileSync(config_file, JSON.stringify(server.configuration));
    await provider.check(signal());
    expect(await text(provider, `k:${uid}#password`)).toBe('pw');
  });
});
