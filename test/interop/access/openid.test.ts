import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type AccessApp, eventually, startAccessApp } from '../../support/access.ts';
import { makeAuthority } from '../../support/certificates.ts';
import { runSallyport } from '../../support/daemon.ts';
import {
  browse,
  CLIENT_ID,
  CLIENT_SECRET,
  type LyingProvider,
  type OpenIdProvider,
  startLyingProvider,
  startOpenIdProvider,
} from '../../support/openid.ts';

/** Sign-in with a real OpenID provider (oidc-provider), and with one that lies. */

const REDIRECT = 'http://127.0.0.1:49999/callback';
let provider: OpenIdProvider;
let gateway: AccessApp;

const RESOURCE = {
  type: 'postgres',
  host: '127.0.0.1',
  port: 1,
  launch_credentials: { username: 'x', password: 'env:OPENID_TEST_SECRET' },
};

function configFor(issuer: string, more: object = {}): object {
  return {
    resources: { orders: RESOURCE },
    oidc: {
      issuer,
      client_id: CLIENT_ID,
      client_secret: 'env:OPENID_TEST_SECRET',
      roles: { 'db-people': ['analyst', 'developer'], boss: ['admin'] },
      ...more,
    },
    rules: [{ name: 'developers', roles: ['developer'] }],
  };
}

beforeAll(async () => {
  process.env['OPENID_TEST_SECRET'] = CLIENT_SECRET;
  provider = await startOpenIdProvider({ olga: ['db-people', 'constructor'], otto: [] });
  gateway = await startAccessApp(configFor(provider.issuer));
});
afterAll(async () => {
  await gateway?.close();
  await provider?.close();
});

async function begin(app = gateway): Promise<{ flow: string; url: string }> {
  const { json, text, status } = await app.call('POST', '/api/v1/login/code', {
    body: { redirect_uri: REDIRECT },
  });
  if (status !== 200) throw new Error(text);
  return { flow: json.flow, url: json.authorization_url };
}

const finish = (flow: string, callback: string, app = gateway) =>
  app.call('POST', `/api/v1/login/code/${flow}`, { body: { callback_url: callback } });

describe('by browser', () => {
  test('code with PKCE, state and nonce; groups become roles', async () => {
    const { flow, url } = await begin();
    const asked = new URL(url).searchParams;
    expect(asked.get('code_challenge_method')).toBe('S256');
    expect(asked.get('state')).toBeTruthy();
    expect(asked.get('nonce')).toBeTruthy();
    expect(url).not.toContain(CLIENT_SECRET);
    const callback = await browse(url, 'olga');
    expect(callback).toMatch(/^http:\/\/127\.0\.0\.1:49999\/callback\?/);
    const answer = await finish(flow, callback!);
    expect(answer).toMatchObject({
      status: 200,
      json: { principal: 'olga@example.com', roles: ['analyst', 'developer'] },
    });
    const launch = await gateway.call('POST', '/api/v1/launches', {
      token: answer.json.token,
      body: { resource: 'orders' },
    });
    expect(launch).toMatchObject({
      status: 200,
      json: { rule: 'developers', principal: 'olga@example.com' },
    });
    expect((await gateway.audits('login')).at(-1)).toMatchObject({
      principal: 'olga@example.com',
      reason: 'oidc',
      client_address: '127.0.0.1',
    });
    // A flow is good for one sign-in.
    expect(await finish(flow, callback!)).toMatchObject({ status: 403 });
  });

  test('somebody in no group that counts may nothing', async () => {
    const { flow, url } = await begin();
    const answer = await finish(flow, (await browse(url, 'otto'))!);
    expect(answer.json).toMatchObject({ roles: [] });
    expect(
      await gateway.call('POST', '/api/v1/launches', {
        token: answer.json.token,
        body: { resource: 'orders' },
      }),
    ).toMatchObject({ status: 403 });
  });

  test('an address that the provider has not verified, and somebody who says no', async () => {
    const unverified = await begin();
    expect(await finish(unverified.flow, (await browse(unverified.url, 'unverified'))!)).toMatchObject({
      status: 403,
      json: { message: expect.stringContaining('not verified') },
    });
    const denied = await begin();
    expect(await finish(denied.flow, (await browse(denied.url, 'olga', { deny: true }))!)).toMatchObject({
      status: 403,
      json: { message: expect.stringContaining('refused at the provider') },
    });
  });

  test('another state, another flow, a code of another', async () => {
    const { flow, url } = await begin();
    const callback = new URL((await browse(url, 'olga'))!);
    callback.searchParams.set('state', 'another');
    expect(await finish(flow, callback.href)).toMatchObject({ status: 403 });
    const [mine, theirs] = [await begin(), await begin()];
    const stolen = new URL((await browse(theirs.url, 'olga'))!);
    stolen.searchParams.set('state', new URL(mine.url).searchParams.get('state')!);
    // PKCE and nonce are those of the other flow.
    expect(await finish(mine.flow, stolen.href)).toMatchObject({ status: 403 });
    expect(await finish('no-such-flow', stolen.href)).toMatchObject({ status: 403 });
  });

  test('the browser is sent back to this machine alone', async () => {
    for (const redirect_uri of [
      'https://evil.example/callback',
      'http://127.0.0.1.evil.example/callback',
      'http://evil@127.0.0.2/',
    ])
      expect(await gateway.call('POST', '/api/v1/login/code', { body: { redirect_uri } })).toMatchObject({
        status: 400,
      });
  });
});

test('by code typed elsewhere', async () => {
  const { json } = await gateway.call('POST', '/api/v1/login/device');
  const poll = () => gateway.call('POST', `/api/v1/login/device/${json.flow}`);
  expect((await poll()).json).toEqual({ pending: true });
  expect(await browse(json.verification_uri_complete, 'olga')).toBeNull();
  const answer = await poll();
  expect(answer).toMatchObject({
    status: 200,
    json: { principal: 'olga@example.com', roles: ['analyst', 'developer'] },
  });
  expect((await poll()).status).toBe(403);
});

test('nobody takes the name of a local user by way of the provider', async () => {
  const taking = await startAccessApp(configFor(provider.issuer, { name_claim: 'name' }));
  try {
    const { flow, url } = await begin(taking);
    expect(await finish(flow, (await browse(url, 'anna'))!, taking)).toMatchObject({
      status: 403,
      json: { message: expect.stringContaining('"anna" is the name of a local user') },
    });
    const again = await begin(taking);
    expect(await finish(again.flow, (await browse(again.url, 'operator'))!, taking)).toMatchObject({
      status: 403,
    });
  } finally {
    await taking.close();
  }
});

describe('a provider that lies', () => {
  let liar: LyingProvider;
  let app: AccessApp;
  beforeAll(async () => {
    liar = await startLyingProvider();
    app = await startAccessApp(configFor(liar.issuer));
  });
  afterAll(async () => {
    await app?.close();
    await liar?.close();
  });

  async function attempt(claims: LyingProvider['claims'], otherKey = false) {
    const { flow, url } = await begin(app);
    const asked = new URL(url).searchParams;
    Object.assign(liar, { claims, otherKey, nonce: asked.get('nonce') });
    return finish(flow, `${REDIRECT}?code=x&state=${asked.get('state')}`, app);
  }

  test('is believed when it does not', async () => {
    expect(await attempt((right) => right)).toMatchObject({
      status: 200,
      json: { principal: 'mallory@example.com' },
    });
  });

  test('its clock may be off by some seconds', async () => {
    expect(
      await attempt((right) => ({ ...right, iat: right.iat! + 20, nbf: right.iat! + 20 })),
    ).toMatchObject({ status: 200 });
    expect(await attempt((right) => ({ ...right, exp: right.iat! - 10 }))).toMatchObject({ status: 200 });
  });

  test.each<[string, LyingProvider['claims'], boolean]>([
    ['another nonce', (right) => ({ ...right, nonce: 'another' }), false],
    ['no nonce', ({ nonce: _, ...right }) => right, false],
    ['another issuer', (right) => ({ ...right, iss: 'https://evil.example' }), false],
    ['another audience', (right) => ({ ...right, aud: 'somebody-else' }), false],
    ['one that has expired', (right) => ({ ...right, exp: right.iat! - 3600 }), false],
    ['one that is not yet good', (right) => ({ ...right, nbf: right.iat! + 3600 }), false],
    ['another key', (right) => right, true],
    ['nobody to call by', ({ email: _, ...right }) => right, false],
  ])('%s', async (_name, claims, otherKey) => {
    expect(await attempt(claims, otherKey)).toMatchObject({ status: 403 });
  });
});

test('a provider that is down is said to be, and a private authority is trusted when named', async () => {
  const authority = await makeAuthority('private');
  const certificate = await authority.issue({ commonName: 'localhost', hosts: ['localhost'] });
  const secure = await startOpenIdProvider({ olga: ['db-people'] }, certificate);
  const untrusting = await startAccessApp(configFor(secure.issuer));
  const trusting = await startAccessApp(configFor(secure.issuer, { ca: 'ca.pem' }), {
    'ca.pem': authority.cert,
  });
  try {
    const ask = (app: AccessApp) => app.call('POST', '/api/v1/login/device');
    expect(await ask(untrusting)).toMatchObject({
      status: 403,
      json: { message: expect.stringContaining('OpenID provider') },
    });
    expect(await ask(trusting)).toMatchObject({ status: 200 });
    await secure.close();
    const down = await ask(trusting);
    expect(down).toMatchObject({
      status: 403,
      json: { hint: expect.stringContaining('Does the provider answer') },
    });
    expect(down.text).not.toContain(CLIENT_SECRET);
  } finally {
    await untrusting.close();
    await trusting.close();
  }
});

describe('sallyport login', () => {
  test('opens a browser, and keeps the login for its owner alone', async () => {
    const home = mkdtempSync(join(tmpdir(), 'sallyport-login-'));
    const asked = join(home, 'url');
    writeFileSync(
      join(home, 'xdg-open'),
      `#!/bin/sh\nprintf %s "$1" > ${asked}.new && mv ${asked}.new ${asked}\n`,
    );
    chmodSync(join(home, 'xdg-open'), 0o755);
    const env = { SALLYPORT_HOME: home, PATH: `${home}:${process.env['PATH']}` };
    try {
      const login = runSallyport(['login', gateway.url], { env });
      await eventually(() => existsSync(asked));
      const callback = (await browse(readFileSync(asked, 'utf8'), 'olga'))!;
      expect(await (await fetch(callback)).text()).toContain('Go back to the terminal');
      expect(await login).toMatchObject({
        code: 0,
        stdout: expect.stringContaining('Logged in as olga@example.com (analyst, developer)'),
      });
      expect(statSync(join(home, 'credentials.json')).mode & 0o777).toBe(0o600);
      expect(await runSallyport(['tokens', 'list'], { env })).toMatchObject({ code: 0 });
    } finally {
      rmSync(home, { recursive: true, force: true });
    }
  });
});
