import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Connection, type ConnectionConfiguration, Request } from 'tedious';

/** Other people's SQL Server clients, as `scripts/clients.cjs` installs them. */

const CLIENTS = join(import.meta.dirname, '../../var/clients');
const PROGRAMS = join(import.meta.dirname, '../interop/tds');

export interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end, with nothing of the person's own settings. Never rejects for its exit code. */
export async function runProgram(
  command: string,
  args: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>>; readonly input?: string } = {},
): Promise<Ran> {
  const child = spawn(command, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: {
      PATH: process.env.PATH ?? '/usr/bin:/bin',
      HOME: '/nonexistent',
      LC_ALL: 'C.UTF-8',
      ...options.env,
    },
    timeout: 90_000,
    killSignal: 'SIGKILL',
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
  });
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  child.stdin.on('error', () => {});
  child.stdin.end(options.input ?? '');
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { code, stdout, stderr };
}

/** What became of one sign-in and the query behind it. */
export interface SignInResult {
  readonly ok: boolean;
  /** The query's first value, or the error as the client words it. */
  readonly text: string;
}

export interface SignIn {
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
}

/** tedious. Throws nothing. */
export async function tedious(
  signIn: SignIn,
  options: ConnectionConfiguration['options'] = {},
  statement = 'SELECT 42 AS answer',
  authentication: ConnectionConfiguration['authentication'] = {
    type: 'default',
    options: { userName: signIn.user, password: signIn.password },
  },
): Promise<SignInResult> {
  const connection = new Connection({
    server: 'localhost',
    authentication,
    options: { port: signIn.port, database: signIn.database, connectTimeout: 15_000, ...options },
  });
  connection.on('error', () => {});
  try {
    await new Promise<void>((resolve, reject) => {
      connection.connect((error) => (error ? reject(error) : resolve()));
    });
    const text = await new Promise<string>((resolve, reject) => {
      let value = '';
      const request = new Request(statement, (error) => (error ? reject(error) : resolve(value)));
      request.on('row', (columns: { value: unknown }[]) => {
        value = String(columns[0]!.value);
      });
      connection.execSqlBatch(request);
    });
    return { ok: true, text };
  } catch (error) {
    return { ok: false, text: messagesOf(error) };
  } finally {
    connection.close();
  }
}

/** The messages of an error and of those that it stands for. */
export function messagesOf(error: unknown): string {
  const messages: string[] = [];
  for (let at: unknown = error; at instanceof Error; at = at.cause) messages.push(at.message);
  return messages.join(' / ');
}

export interface PythonAttempt extends SignIn {
  readonly driver: 'pytds' | 'pymssql' | 'mssql-python' | 'pyodbc' | 'freetds-odbc';
  readonly options?: Readonly<Record<string, unknown>>;
  readonly statement?: string;
  readonly interleave?: boolean;
  /** Seconds for the sign-in; python-tds alone. */
  readonly timeout?: number;
}

/** Runs a Python program of `test/interop/tds` with the drivers of `test/clients/requirements.txt`. */
export async function runPython(program: string, input: unknown): Promise<unknown> {
  const { stdout, stderr } = await runProgram(join(CLIENTS, 'python/bin/python'), [join(PROGRAMS, program)], {
    input: JSON.stringify(input),
  });
  if (stdout === '') throw new Error(`${program} said nothing: ${stderr}`);
  return JSON.parse(stdout);
}

/** Sign-ins by Python drivers, one after another in one process. */
export async function python(attempts: readonly PythonAttempt[]): Promise<SignInResult[]> {
  const results = (await runPython('sign_in.py', attempts)) as {
    ok: boolean;
    value?: string;
    error?: string;
  }[];
  return results.map(({ ok, value, error }) => ({ ok, text: (ok ? value : error) ?? '' }));
}

/** Sign-ins by JDBC (mssql-jdbc and jTDS, as the URL says) in one JVM. `trustStore`: a PKCS12 file with password `changeit`. */
export async function jdbc(
  attempts: readonly { readonly url: string; readonly user: string; readonly password: string }[],
  trustStore: string | null = null,
  statement = 'SELECT 42 AS answer',
): Promise<SignInResult[]> {
  const folder = join(CLIENTS, 'java');
  const jars = (await readdir(folder)).filter((name) => /^(mssql-jdbc|jtds)-/.test(name));
  if (jars.length < 2) throw new Error('the JDBC drivers are missing: node scripts/clients.cjs --only java');
  const trust =
    trustStore === null
      ? []
      : [`-Djavax.net.ssl.trustStore=${trustStore}`, '-Djavax.net.ssl.trustStorePassword=changeit'];
  const { stdout, stderr } = await runProgram('java', [
    '-XX:TieredStopAtLevel=1',
    ...trust,
    '-cp',
    jars.map((name) => join(folder, name)).join(':'),
    join(import.meta.dirname, '../clients/java/JdbcSignIn.java'),
    statement,
    ...attempts.flatMap(({ url, user, password }) => [url, user, password]),
  ]);
  return lines(stdout, stderr, attempts.length);
}

/** Sign-ins by go-mssqldb. */
export async function golang(
  urls: readonly string[],
  statement = 'SELECT 42 AS answer',
): Promise<SignInResult[]> {
  const program = join(CLIENTS, 'bin/mssql-sign-in');
  if (!existsSync(program)) throw new Error('mssql-sign-in is missing: node scripts/clients.cjs --only go');
  const { stdout, stderr } = await runProgram(program, [statement, ...urls]);
  return lines(stdout, stderr, urls.length);
}

function lines(stdout: string, stderr: string, count: number): SignInResult[] {
  const found = stdout.split('\n').filter((line) => line.startsWith('ok ') || line.startsWith('error '));
  if (found.length !== count)
    throw new Error(`${count} sign-ins gave ${found.length} results: ${stdout}${stderr}`);
  return found.map((line) => ({ ok: line.startsWith('ok '), text: line.slice(line.indexOf(' ') + 1) }));
}

/** Encryption settings of FreeTDS, by the section of its configuration file. */
export const FREETDS_ENCRYPTIONS = ['off', 'request', 'require'] as const;

/** FreeTDS's command lines need a file that names servers; it lives as long as this. */
export class FreeTds {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Sections `off`, `request`, `require` for that port, each also as `off-7.1` and so on. */
  static async start(port: number): Promise<FreeTds> {
    const folder = await mkdtemp(join(tmpdir(), 'sallyport-freetds-'));
    const sections = FREETDS_ENCRYPTIONS.flatMap((encryption) =>
      ['', '-7.1', '-7.2', '-7.3', '-7.4'].map(
        (version) =>
          `[${encryption}${version}]\n\thost = 127.0.0.1\n\tport = ${port}\n\tencryption = ${encryption}\n\ttds version = ${version.slice(1) || '7.4'}\n`,
      ),
    );
    await writeFile(join(folder, 'freetds.conf'), sections.join('\n'));
    return new FreeTds(folder);
  }

  get environment(): Record<string, string> {
    return { FREETDSCONF: join(this.#folder, 'freetds.conf') };
  }

  /** `tsql` with a batch; its output without the banner. */
  async tsql(section: string, signIn: SignIn, batch = 'SELECT 42 AS answer'): Promise<SignInResult> {
    const { stdout, stderr } = await runProgram(
      'tsql',
      ['-S', section, '-U', signIn.user, '-P', signIn.password, '-D', signIn.database, '-o', 'q'],
      { env: this.environment, input: `${batch}\ngo\nexit\n` },
    );
    const said = `${stdout}\n${stderr}`.trim();
    const value = /^answer\n(.+)$/m.exec(stdout)?.[1];
    return value === undefined ? { ok: false, text: said } : { ok: true, text: value };
  }

  run(program: 'bsqldb' | 'freebcp', args: readonly string[], input = ''): Promise<Ran> {
    return runProgram(program, args, { env: this.environment, input });
  }

  /** A file beside the configuration. */
  async file(name: string, content: string): Promise<string> {
    const path = join(this.#folder, name);
    await writeFile(path, content);
    return path;
  }

  async stop(): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** isql of unixODBC over FreeTDS's ODBC driver. */
export async function isql(signIn: SignIn, statement = 'SELECT 42 AS answer'): Promise<SignInResult> {
  const connection = `Driver=${await freeTdsOdbcDriver()};Server=127.0.0.1;Port=${signIn.port};UID=${signIn.user};PWD=${signIn.password};Database=${signIn.database};TDS_Version=7.4`;
  const { stdout, stderr } = await runProgram('isql', ['-v', '-b', '-k', connection], {
    input: `${statement}\n`,
  });
  const value = /^\|\s*(\S+)\s*\|$/gm;
  const cells = [...stdout.matchAll(value)].map((match) => match[1]!);
  return cells.length < 2 ? { ok: false, text: `${stdout}${stderr}` } : { ok: true, text: cells[1]! };
}

async function freeTdsOdbcDriver(): Promise<string> {
  for (const machine of await readdir('/usr/lib')) {
    const path = `/usr/lib/${machine}/odbc/libtdsodbc.so`;
    if (existsSync(path)) return path;
  }
  throw new Error('libtdsodbc.so is missing: apt-get install tdsodbc');
}
