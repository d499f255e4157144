import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TdsSettings } from '../../../protocols/engine.ts';
import { tds } from '../../../protocols/tds/engine.ts';
import { type Issued, makeAuthority } from '../../support/certificates.ts';
import { startTestGateway, type TestGateway } from '../../support/gateway.ts';
import type { RecordedSession } from '../../support/memory-recorder.ts';
import { mssqlSignIn } from '../../support/mssql.ts';
import {
  FreeTds,
  golang,
  isql,
  jdbc,
  type PythonAttempt,
  python,
  type SignIn,
  type SignInResult,
  tedious,
} from '../../support/tds-clients.ts';
import { startTdsDouble, type TdsDouble } from '../../support/tds-double/double.ts';
import type { DoubleEncryption } from '../../support/tds-double/login.ts';

/**
 * Real clients sign in through the gateway, each with each of its encryption settings, under each policy toward clients
 * and with each kind of server. The server is the test double.
 *
 * Outcomes: `clear`, `login` (LOGIN7 alone inside TLS), `full`, `strict`, as the gateway records them, or the client's
 * own error.
 */
type Outcome = 'clear' | 'login' | 'full' | 'strict' | RegExp;
type Policy = TdsSettings['clientEncryption'];

/** Outcomes under `required`, `login` and `none`. */
type Row = readonly [setting: string, required: Outcome, login: Outcome, none: Outcome];

/** What drivers say when a listener demands encryption that they were told not to use. */
const DEMANDED = /encrypt|SSL|requires/i;
/** And when they do not trust its certificate. */
const UNTRUSTED = /certificate|self.signed|PKIX|verify|trust|SSL/i;

let folder: string;
let front: Issued;
let files: { ca: string; leaf: string; wrongCa: string; trustStore: string; emptyStore: string };
let back: { certificate: Issued; ca: string };

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sallyport-tds-'));
  const frontCa = await makeAuthority('Front CA', 'rsa');
  const otherCa = await makeAuthority('Other CA', 'rsa');
  const backCa = await makeAuthority('Back CA', 'rsa');
  const hosts = ['localhost', '127.0.0.1'];
  front = await frontCa.issue({ commonName: 'localhost', hosts, keyType: 'rsa' });
  back = {
    certificate: await backCa.issue({ commonName: 'localhost', hosts, keyType: 'rsa' }),
    ca: backCa.cert,
  };
  files = {
    ca: join(folder, 'ca.pem'),
    leaf: join(folder, 'leaf.pem'),
    wrongCa: join(folder, 'wrong.pem'),
    trustStore: join(folder, 'trust.p12'),
    emptyStore: join(folder, 'wrong.p12'),
  };
  await writeFile(files.ca, frontCa.cert);
  await writeFile(files.leaf, front.cert);
  await writeFile(files.wrongCa, otherCa.cert);
  for (const [store, certificate] of [
    [files.trustStore, files.ca],
    [files.emptyStore, files.wrongCa],
  ] as const) {
    execFileSync(
      'keytool',
      [
        '-importcert',
        '-noprompt',
        '-alias',
        'ca',
        '-storetype',
        'PKCS12',
        '-storepass',
        'changeit',
        '-keystore',
        store,
        '-file',
        certificate,
      ],
      { stdio: 'ignore' },
    );
  }
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

interface Stand {
  readonly gateway: TestGateway;
  readonly double: TdsDouble;
  readonly freeTds: FreeTds;
}

async function startStand(
  policy: Policy,
  encryption: TdsSettings['encryption'],
  server: DoubleEncryption,
  mars = false,
  certificate = front,
): Promise<Stand> {
  const double = await startTdsDouble({
    encryption: server,
    certificate: back.certificate,
    logins: { svc: 'canary-launch' },
    mars,
  });
  const gateway = await startTestGateway({
    engine: tds,
    settings: {
      engine: 'tds',
      encryption,
      clientEncryption: policy,
      mars,
      windowsDomain: null,
      serverName: null,
    },
    servers: [{ host: '127.0.0.1', port: double.port }],
    username: 'svc',
    password: 'canary-launch',
    serverTls: encryption === 'off' ? { mode: 'disable' } : { mode: 'verify-full', ca: back.ca },
    clientTls: { certificate },
  });
  return { gateway, double, freeTds: await FreeTds.start(gateway.port) };
}

async function stopStand({ gateway, double, freeTds }: Stand): Promise<void> {
  await freeTds.stop();
  await gateway.close();
  await double.close();
}

/** One family of clients: its settings with their outcomes, and how all of them are run. */
interface Family {
  readonly name: string;
  readonly rows: () => readonly Row[];
  run(settings: readonly string[], stand: Stand): Promise<SignInResult[]>;
}

const account = (family: string, setting: string, { gateway }: Stand): SignIn => ({
  port: gateway.port,
  user: userOf(family, setting),
  password: 'any-thing',
  database: 'testdb',
});

/** The login name tells in the record which sign-in it was. */
function userOf(family: string, setting: string): string {
  return `${family}-${setting}`.replaceAll(/[^a-z0-9-]+/gi, '-');
}

/** What tedious is told, by itself or by mssql. */
interface NpmOptions {
  readonly encrypt: 'strict' | boolean;
  readonly trustServerCertificate: boolean;
  readonly ca: string;
}

function npmClient(
  name: 'tedious' | 'mssql',
  signIn: (options: NpmOptions, where: ReturnType<typeof account>) => Promise<SignInResult>,
): Family {
  return {
    name,
    rows: () => [
      ['off', DEMANDED, 'clear', 'clear'],
      ['on, unchecked', 'full', 'full', 'full'],
      ['on, right authority', 'full', 'full', 'full'],
      ['on, wrong authority', UNTRUSTED, UNTRUSTED, UNTRUSTED],
      ['strict, right authority', 'strict', 'strict', 'strict'],
      ['strict, wrong authority', UNTRUSTED, UNTRUSTED, UNTRUSTED],
    ],
    run: async (settings, stand) => {
      const results: SignInResult[] = [];
      for (const setting of settings) {
        const options = {
          encrypt: setting.startsWith('strict') ? ('strict' as const) : setting.startsWith('on'),
          trustServerCertificate: !setting.includes('authority'),
          ca: await readFile(setting.includes('wrong') ? files.wrongCa : files.ca, 'utf8'),
        };
        results.push(await signIn(options, account(name, setting, stand)));
      }
      return results;
    },
  };
}

const FAMILIES: readonly Family[] = [
  npmClient('tedious', ({ ca, ...options }, where) =>
    tedious(where, { ...options, cryptoCredentialsDetails: { ca } }),
  ),
  npmClient('mssql', (options, where) => mssqlSignIn(where, options)),
  {
    name: 'mssql-jdbc',
    rows: () => [
      ['encrypt=false;trustServerCertificate=true', 'full', 'login', 'clear'],
      ['encrypt=false;trustServerCertificate=false', UNTRUSTED, 'login', 'clear'],
      ['encrypt=true;trustServerCertificate=true', 'full', 'full', 'full'],
      ['encrypt=true;trustServerCertificate=true;packetSize=32767', 'full', 'full', 'full'],
      ['encrypt=true;trustServerCertificate=false', UNTRUSTED, UNTRUSTED, UNTRUSTED],
      [`encrypt=strict;serverCertificate=${files.leaf}`, 'strict', 'strict', 'strict'],
      [`encrypt=strict;serverCertificate=${files.wrongCa}`, UNTRUSTED, UNTRUSTED, UNTRUSTED],
      [`encrypt=true;trustStore=${files.trustStore};trustStorePassword=changeit`, 'full', 'full', 'full'],
    ],
    run: (settings, stand) =>
      jdbc(
        settings.map((setting) => ({
          url: `jdbc:sqlserver://localhost:${stand.gateway.port};databaseName=testdb;loginTimeout=15;${setting}`,
          ...account('mssql-jdbc', setting, stand),
        })),
        files.emptyStore,
      ),
  },
  {
    name: 'jTDS',
    rows: () => [
      ['off', /encrypted connections only/, 'clear', 'clear'],
      ['request', 'full', 'login', 'clear'],
      ['require', 'full', 'full', 'full'],
      ['authenticate', 'full', 'full', 'full'],
    ],
    run: (settings, stand) =>
      jdbc(
        settings.map((setting) => ({
          url: `jdbc:jtds:sqlserver://localhost:${stand.gateway.port}/testdb;ssl=${setting};loginTimeout=15`,
          ...account('jTDS', setting, stand),
        })),
        files.trustStore,
      ),
  },
  {
    name: 'go-mssqldb',
    rows: () => [
      // Told to encrypt, it does, and checks the certificate.
      ['encrypt=disable', UNTRUSTED, 'clear', 'clear'],
      ['encrypt=false&trustservercertificate=true', 'full', 'login', 'clear'],
      ['encrypt=true&trustservercertificate=true', 'full', 'full', 'full'],
      [`encrypt=true&certificate=${files.ca}`, 'full', 'full', 'full'],
      [`encrypt=true&certificate=${files.wrongCa}`, UNTRUSTED, UNTRUSTED, UNTRUSTED],
      [`encrypt=strict&certificate=${files.ca}`, 'strict', 'strict', 'strict'],
      [`encrypt=strict&certificate=${files.wrongCa}`, UNTRUSTED, UNTRUSTED, UNTRUSTED],
    ],
    run: (settings, stand) =>
      golang(
        settings.map((setting) => {
          const { port, user } = account('go-mssqldb', setting, stand);
          return `sqlserver://${user}:any-thing@localhost:${port}?database=testdb&dial+timeout=10&${setting}`;
        }),
      ),
  },
  pythonFamily('python-tds', 'pytds', () => [
    ['off', {}, [DEMANDED, 'clear', 'clear']],
    ['on', { cafile: files.ca, validate_host: false }, ['full', 'full', 'full']],
    ['wrong authority', { cafile: files.wrongCa, validate_host: false }, [UNTRUSTED, UNTRUSTED, UNTRUSTED]],
    [
      'login only',
      { cafile: files.ca, validate_host: false, enc_login_only: true },
      ['full', 'login', 'clear'],
    ],
  ]),
  pythonFamily('pymssql', 'pymssql', () => [
    ['default', {}, ['full', 'login', 'clear']],
    ['off', { encryption: 'off' }, ['full', 'clear', 'clear']],
    ['request', { encryption: 'request' }, ['full', 'login', 'clear']],
    ['require', { encryption: 'require' }, ['full', 'full', 'full']],
    ['7.1', { tds_version: '7.1' }, ['full', 'login', 'clear']],
    ['7.2', { tds_version: '7.2' }, ['full', 'login', 'clear']],
    ['7.3', { tds_version: '7.3' }, ['full', 'login', 'clear']],
  ]),
  pythonFamily('Microsoft ODBC 18', 'pyodbc', () => [
    ['no', { Encrypt: 'no' }, [UNTRUSTED, 'login', 'clear']],
    ['no, unchecked', { Encrypt: 'no', TrustServerCertificate: 'yes' }, ['full', 'login', 'clear']],
    ['yes, unchecked', { Encrypt: 'yes', TrustServerCertificate: 'yes' }, ['full', 'full', 'full']],
    ['yes, checked', { Encrypt: 'yes' }, [UNTRUSTED, UNTRUSTED, UNTRUSTED]],
    ['strict, pinned', { Encrypt: 'strict', ServerCertificate: files.leaf }, ['strict', 'strict', 'strict']],
    ['strict, checked', { Encrypt: 'strict' }, [UNTRUSTED, UNTRUSTED, UNTRUSTED]],
  ]),
  pythonFamily('mssql-python', 'mssql-python', () => [
    ['no', { Encrypt: 'no' }, [UNTRUSTED, 'login', 'clear']],
    ['yes, unchecked', { Encrypt: 'yes', TrustServerCertificate: 'yes' }, ['full', 'full', 'full']],
    ['strict, pinned', { Encrypt: 'strict', ServerCertificate: files.leaf }, ['strict', 'strict', 'strict']],
  ]),
  pythonFamily('FreeTDS ODBC', 'freetds-odbc', () => [
    ['7.4', { TDS_Version: '7.4' }, ['full', 'login', 'clear']],
    ['7.2', { TDS_Version: '7.2' }, ['full', 'login', 'clear']],
  ]),
  {
    name: 'tsql',
    rows: () =>
      (
        [
          ['off', 'full', 'clear', 'clear'],
          ['request', 'full', 'login', 'clear'],
          ['require', 'full', 'full', 'full'],
        ] as const
      ).flatMap(([encryption, ...outcomes]) =>
        ['7.1', '7.2', '7.3', '7.4'].map((version): Row => [`${encryption}-${version}`, ...outcomes]),
      ),
    run: async (settings, stand) => {
      const results: SignInResult[] = [];
      for (const setting of settings) {
        results.push(await stand.freeTds.tsql(setting, account('tsql', setting, stand)));
      }
      return results;
    },
  },
  {
    name: 'isql',
    rows: () => [['default', 'full', 'login', 'clear']],
    run: async (settings, stand) => [await isql(account('isql', settings[0]!, stand))],
  },
];

function pythonFamily(
  name: string,
  driver: PythonAttempt['driver'],
  settings: () => readonly [
    string,
    Readonly<Record<string, unknown>>,
    readonly [Outcome, Outcome, Outcome],
  ][],
): Family {
  return {
    name,
    rows: () => settings().map(([setting, , outcomes]) => [setting, ...outcomes]),
    run: (_names, stand) =>
      python(settings().map(([setting, options]) => ({ driver, options, ...account(name, setting, stand) }))),
  };
}

/** What became of each setting, beside what should have: a wrong one shows with the client's own words. */
async function compare(family: Family, column: 1 | 2 | 3, stand: Stand) {
  const rows = family.rows();
  const results = await family.run(
    rows.map(([setting]) => setting),
    stand,
  );
  const actual: Record<string, unknown> = {};
  const expected: Record<string, unknown> = {};
  rows.forEach((row, index) => {
    const [setting] = row;
    const outcome = row[column];
    const result = results[index]!;
    const user = userOf(family.name, setting);
    const session = stand.gateway.recorder.sessions.find(({ start }) => start.clientUser === user);
    expected[setting] = outcome instanceof RegExp ? `refused: ${outcome}` : outcome;
    if (result.ok) actual[setting] = result.text === '42' ? wayOf(session) : result;
    else if (outcome instanceof RegExp && outcome.test(result.text)) actual[setting] = expected[setting];
    else actual[setting] = result.text;
    if (outcome instanceof RegExp) expect(session, `${setting} must not become a session`).toBeUndefined();
  });
  return { actual, expected };
}

/** How the session's bytes go, once its TLS is what it must be: 1.2 inside PRELOGIN, 1.3 under TDS 8.0. */
function wayOf(session: RecordedSession | undefined): unknown {
  if (session === undefined) return 'no session';
  const { clientAttributes, clientTls } = session.start;
  const way = clientAttributes['encryption'];
  const version = clientTls?.slice(0, 7) ?? null;
  return version === { full: 'TLSv1.2', strict: 'TLSv1.3' }[way ?? ''] || (version === null && way !== 'full')
    ? way
    : `${way} over ${version}`;
}

describe.each([
  ['required', 1],
  ['login', 2],
  ['none', 3],
] as const)('clients under the policy `%s`', (policy, column) => {
  let stand: Stand;

  beforeAll(async () => {
    stand = await startStand(policy, 'on', 'required');
  });

  afterAll(() => stopStand(stand));

  it.each(FAMILIES.map((family) => [family.name, family] as const))('%s', async (_name, family) => {
    const { actual, expected } = await compare(family, column, stand);
    expect(actual).toEqual(expected);
  });

  it('and no secret came into a log line', () => {
    const lines = stand.gateway.logs.join('\n');
    expect(lines).not.toContain('canary-launch');
    expect(lines).not.toContain('any-thing');
  });
});

describe.each([
  ['off', 'off'],
  ['off', 'login-only'],
  ['login-only', 'login-only'],
  ['login-only', 'required'],
  ['strict', 'strict'],
] as const)('a resource with encryption `%s` at a server with `%s`', (encryption, server) => {
  let stand: Stand;

  beforeAll(async () => {
    stand = await startStand('login', encryption, server);
  });

  afterAll(() => stopStand(stand));

  it.each(FAMILIES.map((family) => [family.name, family] as const))('%s', async (_name, family) => {
    const { actual, expected } = await compare(family, 2, stand);
    expect(actual).toEqual(expected);
  });

  it('and every LOGIN7 went the way that was agreed on', () => {
    const way = {
      off: 'clear',
      'login-only': server === 'required' ? 'full' : 'login-only',
      strict: 'strict',
    };
    expect(new Set(stand.double.logins.map(({ protection }) => protection))).toEqual(
      new Set([way[encryption]]),
    );
    const wire = Buffer.concat(stand.double.received);
    if (encryption !== 'off') expect(wire.includes(Buffer.from('svc', 'utf16le'))).toBe(false);
  });
});

describe('a certificate chain of many kilobytes', () => {
  // Java takes ten certificates at most, GnuTLS (Debian's FreeTDS) sixteen, Microsoft's ODBC driver 16 KiB of them.
  it.each([
    [8, 7_000],
    [22, 21_000],
  ])('of %i certificates reaches every client', async (count, bytes) => {
    const filler = await makeAuthority('Filler CA', 'rsa');
    const more = await Promise.all(
      Array.from({ length: count - 1 }, (_, index) =>
        filler.issue({ commonName: `filler-${index}.example.com`, keyType: 'rsa' }),
      ),
    );
    const chain = front.cert + more.map(({ cert }) => cert).join('');
    expect(chain.length * 0.73).toBeGreaterThan(bytes * 0.9);
    const stand = await startStand('login', 'on', 'required', false, { ...front, chain });
    try {
      const unlimited = ['tedious', 'mssql', 'go-mssqldb', 'python-tds', 'pymssql'];
      const clients = FAMILIES.filter(({ name }) => count <= 10 || unlimited.includes(name));
      for (const family of clients) {
        const { actual, expected } = await compare(family, 2, stand);
        expect(actual, family.name).toEqual(expected);
      }
    } finally {
      await stopStand(stand);
    }
  });
});

describe('MARS', () => {
  it.each([
    [true, '1 7 299'],
    [false, null],
  ])('offered: %s', async (mars, expected) => {
    const stand = await startStand('login', 'on', 'required', mars);
    try {
      const attempts = (['pyodbc', 'freetds-odbc'] as const).map((driver) => ({
        driver,
        interleave: true,
        options:
          driver === 'pyodbc'
            ? { Encrypt: 'yes', TrustServerCertificate: 'yes', MARS_Connection: 'yes' }
            : { TDS_Version: '7.4', MARS_Connection: 'yes' },
        ...account(driver, `mars-${mars}`, stand),
      }));
      for (const { ok, text } of await python(attempts)) {
        if (expected === null) expect(ok).toBe(false);
        else expect(text).toBe(expected);
      }
      const texts = stand.gateway.recorder.statements.map(({ text }) => text);
      if (mars) expect(texts).toContain('SELECT 7 AS seven');
    } finally {
      await stopStand(stand);
    }
  });
});
