import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse, parseDocument } from 'yaml';
import { makeAuthority } from '../../test/support/certificates.ts';
import { ConfigError, type ConfigFault } from './faults.ts';
import { loadConfig, parseConfig } from './load.ts';

const MINIMAL = `
secrets:
  env: { type: env }
resources:
  orders:
    type: postgres
    host: db.example
    launch_credentials: { username: app, password: "env:PW" }
listeners:
  - listen: 127.0.0.1:15432
    resource: orders
`;

function faultsOf(text: string, files = false): readonly ConfigFault[] {
  try {
    parseConfig(text, '/etc/sallyport/config.yaml', { files });
  } catch (error) {
    if (error instanceof ConfigError) return error.faults;
    throw error;
  }
  return [];
}

function fault(text: string, path: string): ConfigFault {
  const found = faultsOf(text).filter((entry) => entry.path === path);
  expect(found, `faults at ${path}`).toHaveLength(1);
  return found[0]!;
}

describe('a valid file', () => {
  test('gets its defaults, milliseconds and absolute paths', () => {
    const { config, warnings } = parseConfig(MINIMAL, '/etc/sallyport/config.yaml');
    expect(warnings).toEqual([]);
    expect(config.gateway).toEqual({
      name: 'sallyport',
      data_dir: '/etc/sallyport/var/sallyport',
      shutdown_grace: 30_000,
      workers: 1,
      peers: [],
    });
    expect(config.recording.store).toEqual({ type: 'directory', path: '/etc/sallyport/var/recordings' });
    expect(config.resources['orders']?.tls.mode).toBe('verify-full');
    expect(config.listeners[0]?.listen).toEqual({ kind: 'tcp', host: '127.0.0.1', port: 15432 });
  });

  test('may be JSON, and may share blocks by alias', () => {
    const { config } = parseConfig('{"resources": {}}', 'x.json');
    expect(config.resources).toEqual({});
    const shared = MINIMAL.replace('host: db.example', 'host: db.example\n    labels: &l { a: b }').replace(
      'listeners:',
      '  other:\n    type: mysql\n    host: h\n    labels: *l\n    launch_credentials: { username: u }\nlisteners:',
    );
    expect(parseConfig(shared, 'x.yaml').config.resources['other']?.labels).toEqual({ a: 'b' });
  });

  test('environment variables are left as they are written', () => {
    const text = MINIMAL.replace('db.example', '$' + '{HOST}');
    expect(parseConfig(text, 'x.yaml').config.resources['orders']?.host).toBe('$' + '{HOST}');
  });
});

describe('faults', () => {
  test('all are reported at once, with line and column', () => {
    const faults = faultsOf(`gatway: {}
gateway:
  shutdown_grace: 5x
resources:
  a:
    type: postgers
    host: db
  b:
    type: mysql
    host: db
    port: "3306"
    launch_credentials: { username: u }
listeners:
  - listen: 0.0.0.0:1
    resource: c
`);
    const seen = faults.map(({ line, column, path }) => `${line}:${column} ${path}`);
    expect(seen).toEqual([
      '1:1 gatway',
      '3:3 gateway.shutdown_grace',
      '6:5 resources.a.type',
      '11:5 resources.b.port',
      '14:5 listeners[0].client_auth',
      '15:5 listeners[0].resource',
    ]);
  });

  test('an unknown key gets the nearest known one, in the place where it stands', () => {
    expect(fault('gatway: {}\nresources: {}', 'gatway').remedy).toBe('did you mean "gateway"?');
    const text = MINIMAL.replace('host: db.example', 'host: db.example\n    chanel-binding: require');
    expect(fault(text, 'resources.orders.chanel-binding').remedy).toBe('did you mean "channel_binding"?');
    const far = MINIMAL.replace('type: env', 'type: env, zzzzzz: 1');
    expect(fault(far, 'secrets.env.zzzzzz').remedy).toBe('known keys: type');
  });

  test('a key that stands one level too high is told where it belongs', () => {
    const text = (line: string): string =>
      MINIMAL.replace('host: db.example', `host: db.example\n    ${line}`);
    expect(fault(text('idle_timeout: 5m'), 'resources.orders.idle_timeout').remedy).toBe(
      'did you mean "idle_timeout" under "limits"?',
    );
    expect(fault(text('pasword: env:PW'), 'resources.orders.pasword').remedy).toBe(
      'did you mean "password" under "launch_credentials"?',
    );
  });

  test('names that objects have by nature are names like others', () => {
    const text = MINIMAL.replaceAll('orders', 'constructor').replace('env:PW', 'constructor:PW');
    expect(faultsOf(text).map((entry) => entry.path)).toEqual([
      'resources.constructor.launch_credentials.password',
    ]);
    expect(fault('constructor: 1\nresources: {}', 'constructor').remedy).toContain('known keys');
  });

  test('a key of another type of resource is not offered', () => {
    const text = MINIMAL.replace('host: db.example', 'host: db.example\n    allow_local_infil: true');
    expect(fault(text, 'resources.orders.allow_local_infil').remedy).toContain('known keys: type, host');
  });

  test.each([
    ['port: "5432"', 'must be a number', 'write it without quotes'],
    ['port: 70000', 'must be at most 65535', null],
    ['port: 0', 'must be at least 1', null],
    ['databases: []', 'must not be empty', null],
    ['databases: a', 'must be a list', 'begin each entry with "- ", or write [a, b]'],
    ['allow_replication: "yes"', 'must be true or false', 'write true or false, without quotes'],
    [
      'channel_binding: requird',
      'is none of the possible values',
      'did you mean "require"? write one of: disable, prefer, require',
    ],
    ['database: 5', 'must be text', 'put it in quotes'],
    ['tls: verify-full', 'must be a block of keys', null],
  ])('%s', (line, message, remedy) => {
    const text = MINIMAL.replace('host: db.example', `host: db.example\n    ${line}`);
    const found = fault(text, `resources.orders.${line.slice(0, line.indexOf(':'))}`);
    expect([found.message, found.remedy]).toEqual([message, remedy]);
    expect(found.line).toBe(7 + 1);
  });

  test('a missing key points at the block that lacks it', () => {
    const found = fault(MINIMAL.replace('    host: db.example\n', ''), 'resources.orders.host');
    expect(found).toMatchObject({ line: 5, message: 'is missing' });
  });

  test('what is not YAML is told by place, without quoting the text', () => {
    const faults = faultsOf('resources:\n  orders: { password: "hunter2-canary }\n');
    expect(faults[0]?.message).toMatch(/^is not YAML: /);
    expect(faults[0]?.line).toBeGreaterThan(1);
    expect(faultsOf('a: 1\na: 2\n')[0]).toMatchObject({ line: 2, message: expect.stringContaining('twice') });
    expect(faultsOf('\tresources: {}\n')[0]?.message).toContain('tabs');
  });

  test('an alias bomb is refused', () => {
    let text = 'a: &a0 [x,x,x,x,x,x,x,x,x,x]\n';
    for (let level = 1; level < 9; level += 1)
      text += `k${level}: &a${level} [${`*a${level - 1},`.repeat(10)}]\n`;
    expect(faultsOf(text)[0]?.message).toContain('aliases');
  });

  test('an empty file, a list, plain text', () => {
    for (const text of ['', '- a\n', 'hello\n']) expect(faultsOf(text).length).toBeGreaterThan(0);
  });
});

describe('rules', () => {
  const withResource = (lines: string): string =>
    MINIMAL.replace('host: db.example', `host: db.example\n    ${lines.replaceAll('\n', '\n    ')}`);

  test.each([
    ['0.0.0.0:1', 1],
    ['192.168.1.4:1', 1],
    ['"[::]:1"', 1],
    ['db.example:1', 1],
    ['127.0.0.1:1', 0],
    ['127.8.8.8:1', 0],
    ['localhost:1', 0],
    ['"[::1]:1"', 0],
    ['unix:/run/x.sock', 0],
  ])('trust on %s', (listen, count) => {
    expect(faultsOf(MINIMAL.replace('127.0.0.1:15432', listen))).toHaveLength(count);
  });

  test('addresses that collide', () => {
    const twice = (second: string): string => `${MINIMAL}  - { listen: "${second}", resource: orders }\n`;
    expect(fault(twice('127.0.0.1:15432'), 'listeners[1].listen').message).toContain('listeners[0]');
    expect(fault(twice('localhost:15432'), 'listeners[1].listen').message).toContain('listeners[0]');
    expect(fault(twice('127.0.0.1:7070'), 'listeners[1].listen').message).toContain('http.listen');
    expect(faultsOf(twice('127.0.0.2:15432'))).toEqual([]);
    expect(
      faultsOf(`${MINIMAL.replace(':15432', ':0')}  - { listen: "127.0.0.1:0", resource: orders }\n`),
    ).toEqual([]);
  });

  test('a listener for a resource that is not there', () => {
    expect(
      fault(MINIMAL.replace('resource: orders', 'resource: order'), 'listeners[0].resource').remedy,
    ).toBe('did you mean "orders"?');
  });

  test('a provider that is not declared', () => {
    const path = 'resources.orders.launch_credentials.password';
    expect(fault(MINIMAL.replace('env: { type: env }', '{}'), path).remedy).toContain(
      'add "env: { type: env }"',
    );
    expect(fault(MINIMAL.replace('"env:PW"', '"enf:PW"'), path).remedy).toBe('did you mean "env:…"?');
  });

  test.each([
    'hunter2-canary',
    'hunter2-canary:x',
    '"hunter2:canary#x"',
    '["hunter2-canary"]',
    '{ a: hunter2-canary }',
  ])('a password in place of a reference is never shown: %s', (literal) => {
    for (const text of [
      MINIMAL.replace('"env:PW"', literal),
      MINIMAL.replace('{ username: app, password: "env:PW" }', literal),
    ]) {
      const faults = faultsOf(text);
      expect(faults.length).toBeGreaterThan(0);
      expect(JSON.stringify(faults)).not.toMatch(/hunter2.canary/);
      expect(JSON.stringify(faults)).not.toMatch(/hunter2:canary/);
    }
  });

  test('a number where a reference is wanted is called a password', () => {
    const found = fault(
      MINIMAL.replace('"env:PW"', '123456'),
      'resources.orders.launch_credentials.password',
    );
    expect(found.message).toContain('a password itself does not belong in this file');
  });

  test('hosts, with and without a port, and what is none', () => {
    for (const host of ['db:port', 'me@db', 'postgres://db/x', '"a b"'])
      expect(fault(MINIMAL.replace('db.example', host), 'resources.orders.host').remedy).toContain(
        'HOST:PORT',
      );
    for (const host of ['"::1"', '"[::1]:5433"', 'db:5433', '10.0.0.1', '/var/run/postgresql', '[a, b]'])
      expect(faultsOf(MINIMAL.replace('db.example', host))).toEqual([]);
  });

  test('settings that exclude each other', () => {
    expect(fault(withResource('databases: [a]\ndatabase: b'), 'resources.orders.database').message).toContain(
      'not among',
    );
    expect(fault(withResource('tls: { cert: a.pem }'), 'resources.orders.tls.cert').remedy).toContain('key');
    const token = MINIMAL.replace('password: "env:PW"', 'token: "env:T"');
    expect(faultsOf(token)).toEqual([]);
    expect(
      fault(
        token.replace('host: db.example', 'host: db.example\n    tls: { mode: require }'),
        'resources.orders.launch_credentials.token',
      ).remedy,
    ).toContain('verify-full');
  });

  test('mtls needs authorities, and clients that must encrypt', () => {
    const text = `${MINIMAL}    client_auth: mtls\n`;
    expect(fault(text, 'listeners[0].client_auth').remedy).toContain('client_ca');
  });

  test('recipients of recordings', () => {
    const text = `${MINIMAL}recording: { recipients: [AGE-SECRET-KEY-1CANARY] }\n`;
    expect(fault(text, 'recording.recipients[0]').remedy).toContain('age1');
    expect(JSON.stringify(faultsOf(text))).not.toContain('CANARY');
  });

  test('faults of rules are found beside faults of the schema', () => {
    const text = MINIMAL.replace('15432', '15432\n    nonsense: 1').replace(
      'resource: orders',
      'resource: nope',
    );
    expect(faultsOf(text).map((entry) => entry.path)).toEqual([
      'listeners[0].nonsense',
      'listeners[0].resource',
    ]);
  });
});

describe('any text at all', () => {
  const example = readFileSync(new URL('../../config.example.yaml', import.meta.url), 'utf8');

  test('gives a configuration or a ConfigError, and no other error', () => {
    const cut = fc.tuple(fc.nat(example.length), fc.nat(40), fc.string({ maxLength: 8, unit: 'binary' }));
    fc.assert(
      fc.property(fc.array(cut, { minLength: 1, maxLength: 4 }), (cuts) => {
        let text = example;
        for (const [at, length, put] of cuts) text = text.slice(0, at) + put + text.slice(at + length);
        faultsOf(text);
      }),
      { numRuns: 150 },
    );
  });

  test('a secret in any wrong place is not shown', () => {
    const canary = 'canary-5d2e';
    const leaves: (readonly PropertyKey[])[] = [];
    const visit = (value: unknown, path: readonly PropertyKey[]): void => {
      if (typeof value !== 'object' || value === null) leaves.push(path);
      else
        for (const [key, child] of Object.entries(value))
          visit(child, [...path, Array.isArray(value) ? Number(key) : key]);
    };
    visit(parse(example), []);
    expect(leaves.length).toBeGreaterThan(60);
    for (const path of leaves) {
      const document = parseDocument(example);
      for (const secret of [canary, `${canary}:x`, `env:${canary} y`]) {
        document.setIn(path as unknown[], secret);
        expect(JSON.stringify(faultsOf(String(document))), path.join('.')).not.toContain(canary);
      }
    }
  });
});

describe('files', () => {
  let folder: string;
  const write = (name: string, text: string, mode = 0o600): void => {
    writeFileSync(join(folder, name), text);
    chmodSync(join(folder, name), mode);
  };

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'sallyport-config-'));
    const authority = await makeAuthority('Test');
    const server = await authority.issue({ commonName: 'db.example' });
    const other = await authority.issue({ commonName: 'other.example', days: -2 });
    write('ca.pem', authority.cert, 0o644);
    write('server.pem', server.chain, 0o644);
    write('server.key', server.key);
    write('open.key', server.key, 0o644);
    write('other.pem', other.cert, 0o644);
    write('other.key', other.key);
    write('junk.pem', 'hunter2-canary', 0o600);
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  async function load(tls: string): Promise<readonly ConfigFault[]> {
    write('config.yaml', MINIMAL.replace('host: db.example', `host: db.example\n    tls: ${tls}`));
    try {
      return (await loadConfig(join(folder, 'config.yaml'))).warnings;
    } catch (error) {
      return (error as ConfigError).faults;
    }
  }

  test('that fit give no word, relative to the folder of the configuration', async () => {
    expect(await load('{ ca: ./ca.pem, cert: server.pem, key: ./server.key }')).toEqual([]);
  });

  test.each([
    ['{ ca: none.pem }', 'there is no file', 'error'],
    ['{ ca: junk.pem }', 'holds no certificate', 'error'],
    ['{ ca: server.key }', 'holds no certificate', 'error'],
    ['{ ca: . }', 'cannot be read', 'error'],
    ['{ cert: server.pem, key: other.key }', 'is not the key of the certificate', 'error'],
    ['{ cert: server.pem, key: junk.pem }', 'holds no private key', 'error'],
    ['{ cert: server.pem, key: open.key }', 'every user of this machine', 'warning'],
    ['{ cert: other.pem, key: other.key }', 'expired on', 'warning'],
    ['{ mode: require, ca: ca.pem }', 'does not check the certificate', 'warning'],
    ['{ mode: disable, ca: ca.pem }', 'TLS is disabled', 'warning'],
  ])('tls: %s', async (tls, message, severity) => {
    const faults = await load(tls);
    expect(faults.map((entry) => entry.message).join()).toContain(message);
    expect(faults[0]?.severity).toBe(severity);
    expect(JSON.stringify(faults)).not.toContain('hunter2-canary');
  });

  test('the configuration file itself', async () => {
    await expect(loadConfig(join(folder, 'missing.yaml'))).rejects.toThrow('there is no such file');
    await expect(loadConfig(folder)).rejects.toThrow('is a folder');
  });
});
