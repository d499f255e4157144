import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Secret } from '../../protocols/secret.ts';
import { makeLog } from '../../src/log.ts';
import { AwsSecretsManager } from '../../src/secrets/aws.ts';
import { AzureKeyVault } from '../../src/secrets/azure.ts';
import { DirectorySecrets } from '../../src/secrets/directory.ts';
import { EnvSecrets } from '../../src/secrets/env.ts';
import { ExecSecrets } from '../../src/secrets/exec.ts';
import { FileSecrets } from '../../src/secrets/file.ts';
import { GoogleSecretManager } from '../../src/secrets/google.ts';
import { KeeperSecrets } from '../../src/secrets/keeper.ts';
import { SecretError, type SecretErrorCode, type SecretProvider } from '../../src/secrets/provider.ts';
import { SecretResolver } from '../../src/secrets/resolver.ts';
import { SecretFileEditor } from '../../src/secrets/secret-file.ts';
import { VaultSecrets } from '../../src/secrets/vault.ts';
import { makeAuthority } from '../support/certificates.ts';
import { startAwsEndpoint } from '../support/secret-stores/aws-endpoint.ts';
import { startAzureDouble } from '../support/secret-stores/azure-double.ts';
import { startGoogleDouble } from '../support/secret-stores/google-double.ts';
import type { HttpDouble } from '../support/secret-stores/http-double.ts';
import { startKeeperEndpoint } from '../support/secret-stores/keeper-endpoint.ts';
import { startVaultDouble } from '../support/secret-stores/vault-double.ts';

/**
 * What every secret provider does alike. Vault, Azure and Google are doubles written from their documentation; AWS and
 * Keeper are their real SDKs against local endpoints.
 */

/** Stands in every store, and must stand in no error and no log line. */
const CANARY = 'canary-7f3a"pässwörd\\x';

/** A provider and its store, which holds an account `app` whose password is `CANARY`. */
interface Bench {
  readonly provider: SecretProvider;
  /** Reference (without the provider) to account and password as fields; null where the store has no fields. */
  readonly account: string;
  /** Reference to the password alone as a whole secret. */
  readonly password: string;
  readonly missing: string;
  /** The server behind it; null where there is none. */
  readonly server: HttpDouble | null;
  /** Makes the store unreadable, and what the provider then calls it. */
  readonly ruin: (() => void | Promise<void>) | null;
  readonly ruined: SecretErrorCode;
  /** What the store answers, where it answers garbage that holds the canary. */
  readonly poison: (() => void) | null;
}

const logged: string[] = [];
const logStream = new PassThrough();
logStream.on('data', (chunk: Buffer) => logged.push(chunk.toString()));
const log = makeLog('json', 'trace', logStream);

/** Secrets that providers sign in with. */
const given = new Map<string, string>();
const secret = async (reference: string): Promise<Secret> => Secret.fromText(given.get(reference) ?? 'wrong');
const ports = { log, now: Date.now, secret, environment: {} as Record<string, string> };

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'sallyport-contract-'));
  process.env['AWS_ACCESS_KEY_ID'] = 'AKIATEST';
  process.env['AWS_SECRET_ACCESS_KEY'] = 'aws-secret-of-test';
});
afterAll(() => rmSync(folder, { recursive: true }));

const ACCOUNT = { username: 'app', password: CANARY };

/** Parts of a bench whose store is an HTTP server. */
const overHttp = (server: HttpDouble): Pick<Bench, 'server' | 'ruin' | 'ruined' | 'poison'> => ({
  server,
  ruin: () => server.close(),
  ruined: 'unavailable',
  poison: () => {
    server.fault = { garbage: `<html>${CANARY}</html>` };
  },
});

const BENCHES: Readonly<Record<string, () => Promise<Bench>>> = {
  env: async () => ({
    provider: new EnvSecrets('p', { ACCOUNT: JSON.stringify(ACCOUNT), PASSWORD: CANARY }),
    account: 'ACCOUNT',
    password: 'PASSWORD',
    missing: 'NOTHING',
    server: null,
    ruin: null,
    ruined: 'denied',
    poison: null,
  }),

  file: async () => {
    const path = join(folder, 'secrets.age');
    const identity = join(folder, 'secrets.key');
    const editor = new SecretFileEditor(path, identity);
    for (const [field, value] of Object.entries(ACCOUNT))
      await editor.set('account', field, value, new Date());
    await editor.set('password', null, CANARY, new Date());
    return {
      provider: new FileSecrets('p', path, identity),
      account: 'account',
      password: 'password',
      missing: 'nothing',
      server: null,
      ruin: () => writeFileSync(path, 'damaged'),
      ruined: 'denied',
      poison: () => writeFileSync(path, CANARY),
    };
  },

  exec: async () => {
    const script = join(folder, 'give');
    writeFileSync(
      script,
      `#!/bin/sh
case "$1" in
  account) cat '${folder}/account.json' ;;
  password) cat '${folder}/password' ;;
  *) echo "no such thing: $1" >&2; cat '${folder}/password' >&2; cat '${folder}/password'; exit 3 ;;
esac
`,
    );
    writeFileSync(join(folder, 'account.json'), `${JSON.stringify(ACCOUNT)}\n`);
    writeFileSync(join(folder, 'password'), `${CANARY}\n`);
    chmodSync(script, 0o700);
    return {
      provider: new ExecSecrets('p', { command: [script], environment: [] }, log),
      account: 'account',
      password: 'password',
      missing: 'nothing',
      server: null,
      ruin: () => rmSync(script),
      ruined: 'denied',
      poison: null,
    };
  },

  directory: async () => {
    const mounted = join(folder, 'mounted');
    // As the kubelet lays a secret out: files are links into a folder that is swapped at once.
    mkdirSync(join(mounted, 'account', 'v1'), { recursive: true });
    for (const [field, value] of Object.entries(ACCOUNT))
      writeFileSync(join(mounted, 'account', 'v1', field), value);
    const { symlinkSync } = await import('node:fs');
    symlinkSync('v1', join(mounted, 'account', '..data'));
    for (const field of Object.keys(ACCOUNT))
      symlinkSync(join('..data', field), join(mounted, 'account', field));
    writeFileSync(join(mounted, 'password'), `${CANARY}\n`);
    return {
      provider: new DirectorySecrets('p', mounted),
      account: 'account',
      password: 'password',
      missing: 'nothing',
      server: null,
      ruin: () => rmSync(mounted, { recursive: true }),
      ruined: 'not_found',
      poison: null,
    };
  },

  'vault, key-value version 2': async () => {
    const server = await startVaultDouble();
    server.vault.kv.set('secret/team/account', ACCOUNT);
    server.vault.kv.set('secret/password', { value: CANARY });
    given.set('env:SECRET_ID', server.vault.secretId);
    const auth = {
      method: 'approle',
      mount: 'approle',
      role_id: server.vault.roleId,
      secret_id: 'env:SECRET_ID',
    } as const;
    return {
      provider: new VaultSecrets('p', { address: server.url, auth }, ports),
      account: 'secret/team/account',
      password: 'secret/password',
      missing: 'secret/nothing',
      ...overHttp(server),
    };
  },

  'vault, key-value version 1, over TLS': async () => {
    const authority = await makeAuthority('Vault test');
    const { chain, key } = await authority.issue({ commonName: 'vault', hosts: ['127.0.0.1'] });
    const server = await startVaultDouble({ cert: chain, key });
    const ca = join(folder, 'vault-ca.pem');
    writeFileSync(ca, authority.cert);
    server.vault.kv.set('kv/account', ACCOUNT);
    server.vault.kv.set('kv/password', { value: CANARY });
    given.set('env:TOKEN', server.vault.newToken());
    const auth = { method: 'token', token: 'env:TOKEN' } as const;
    return {
      provider: new VaultSecrets('p', { address: server.url, ca, auth }, ports),
      account: 'kv/account',
      password: 'kv/password',
      missing: 'kv/nothing',
      ...overHttp(server),
    };
  },

  'aws-secrets-manager': async () => {
    const server = await startAwsEndpoint('AKIATEST');
    server.secrets.set('prod/account', JSON.stringify({ ...ACCOUNT, port: 5432 }));
    server.secrets.set('arn:aws:secretsmanager:eu-west-1:1:secret:password', Buffer.from(CANARY));
    return {
      provider: new AwsSecretsManager('p', { region: 'eu-west-1', endpoint: server.url }),
      account: 'prod/account',
      password: 'arn:aws:secretsmanager:eu-west-1:1:secret:password',
      missing: 'prod/nothing',
      ...overHttp(server),
    };
  },

  keeper: async () => {
    const authority = await makeAuthority('Keeper test');
    const { chain, key } = await authority.issue({ commonName: 'keeper', hosts: ['127.0.0.1'] });
    const server = await startKeeperEndpoint({ cert: chain, key });
    const uid = server.addRecord({
      title: 'Orders',
      fields: [
        { type: 'login', value: ['app'] },
        { type: 'password', value: [CANARY] },
      ],
      custom: [{ type: 'text', label: 'username', value: ['app'] }],
    });
    given.set('env:KSM', Buffer.from(JSON.stringify(server.configuration)).toString('base64'));
    return {
      provider: new KeeperSecrets('p', { config: 'env:KSM' }, { secret, ca: Buffer.from(authority.cert) }),
      account: 'Orders',
      password: `${uid}/field/password`,
      missing: 'AAAAAAAAAAAAAAAAAAAAAA',
      ...overHttp(server),
    };
  },

  'azure-key-vault': async () => {
    const server = await startAzureDouble();
    server.secrets.set('account', { value: JSON.stringify(ACCOUNT) });
    server.secrets.set('password/v1', { value: CANARY });
    given.set('env:AZURE', server.clientSecret);
    const auth = {
      method: 'client-secret',
      tenant_id: 'tenant',
      client_id: 'client',
      client_secret: 'env:AZURE',
    } as const;
    return {
      provider: new AzureKeyVault('p', { vault_url: server.url, authority: server.url, auth }, ports),
      account: 'account',
      password: 'password/v1',
      missing: 'nothing',
      ...overHttp(server),
    };
  },

  'google-secret-manager': async () => {
    const server = await startGoogleDouble('shop');
    server.secrets.set('account/versions/latest', JSON.stringify(ACCOUNT));
    server.secrets.set('password/versions/2', CANARY);
    const keyFile = join(folder, 'google.json');
    writeFileSync(keyFile, server.keyFile);
    const auth = { method: 'service-account', key_file: keyFile } as const;
    return {
      provider: new GoogleSecretManager('p', { project: 'shop', endpoint: server.url, auth }, ports),
      account: 'account',
      password: 'password/versions/2',
      missing: 'nothing',
      ...overHttp(server),
    };
  },
};

describe.each(Object.keys(BENCHES))('%s', (name) => {
  let bench: Bench;
  let resolver: SecretResolver;
  const failures: unknown[] = [];
  const resolverWith = (timeoutMs: number): SecretResolver =>
    new SecretResolver([{ provider: bench.provider, timeoutMs, cacheMs: 0 }], {
      log,
      metrics: null,
      now: Date.now,
      random: () => 0,
    });

  beforeAll(async () => {
    bench = await BENCHES[name]!();
    resolver = resolverWith(10_000);
  });
  afterAll(async () => {
    await resolver.close();
    await bench.server?.close();
  });

  const signal = (): AbortSignal => new AbortController().signal;
  const failing = async (reference: string): Promise<SecretError> => {
    const error = await resolver.secret(`p:${reference}`, signal()).catch((caught: unknown) => caught);
    failures.push(error);
    expect(error).toBeInstanceOf(SecretError);
    return error as SecretError;
  };

  test('gives a password, and account and password from one reference', async () => {
    expect((await resolver.secret(`p:${bench.password}`, signal())).expose().toString()).toBe(CANARY);
    const credentials = await resolver.credentials(`p:${bench.account}`, 'launch', signal());
    expect(credentials?.username).toBe('app');
    expect(credentials?.password?.expose().toString()).toBe(CANARY);
    await resolver.check('p', signal());
  });

  test('of several fields gives the password where none is named', async () => {
    expect((await resolver.secret(`p:${bench.account}`, signal())).expose().toString()).toBe(CANARY);
  });

  test('gives one field', async () => {
    const password = { username: 'app', password: `p:${bench.account}#password` };
    const credentials = await resolver.credentials(password, 'launch', signal());
    expect(credentials?.password?.expose().toString()).toBe(CANARY);
  });

  test('says that a secret is not there', async () => {
    const error = await failing(bench.missing);
    expect(error).toMatchObject({ provider: 'p', code: 'not_found', hint: expect.stringMatching(/\w/) });
    expect(resolver.health()[0]?.state).toBe('up');
  });

  test('says that a field is not there, and which there are', async () => {
    const error = await failing(`${bench.account}#nonsense`);
    expect(error.code).toBe('field_not_found');
    expect(error.message).toContain('nonsense');
    expect(error.hint).toMatch(/username.*password|password.*username/);
  });

  test('serves many at once', async () => {
    const all = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        resolver.secret(index % 2 === 0 ? `p:${bench.password}` : `p:${bench.account}#password`, signal()),
      ),
    );
    expect(new Set(all.map((one) => one.expose().toString()))).toEqual(new Set([CANARY]));
  });

  test('is not waited for longer than is configured', async () => {
    if (bench.server === null) return;
    bench.server.fault = 'stall';
    const hasty = resolverWith(200);
    const started = Date.now();
    const error = await hasty.secret(`p:${bench.password}`, signal()).catch((caught: unknown) => caught);
    bench.server.fault = 'none';
    failures.push(error);
    expect(error).toMatchObject({ code: 'timeout', hint: expect.stringContaining('timeout') });
    expect(Date.now() - started).toBeLessThan(3_000);
    expect(hasty.health()[0]?.state).toBe('down');
    expect((await resolver.secret(`p:${bench.password}`, signal())).expose().toString()).toBe(CANARY);
  });

  test('tries again what may pass: a server that is overloaded', async () => {
    if (bench.server === null) return;
    bench.server.fault = { status: 503 };
    const before = bench.server.requests.length;
    const error = await failing(bench.password);
    bench.server.fault = 'none';
    expect(error.code).toBe('unavailable');
    expect(bench.server.requests.length - before).toBeGreaterThanOrEqual(3);
  });

  test('quotes nothing of an answer that it does not understand', async () => {
    if (bench.poison === null) return;
    bench.poison();
    const error = await failing(bench.password);
    expect(['malformed', 'denied', 'unavailable']).toContain(error.code);
    if (bench.server !== null) bench.server.fault = 'none';
  });

  test('says that the store is gone', async () => {
    if (bench.ruin === null) return;
    await bench.ruin();
    const error = await failing(bench.password);
    expect(error.code).toBe(bench.ruined);
    expect(error.message.length).toBeGreaterThan(10);
    failures.push(await resolver.check('p', signal()).catch((caught: unknown) => caught));
  });

  test('no error and no log line ever held the secret', async () => {
    const told = failures.map((error) => inspect(error, { depth: 10, showHidden: true })).join('\n');
    expect(told).not.toMatch(/canary-7f3a/);
    expect(logged.join('')).not.toMatch(/canary-7f3a/);
  });
});
