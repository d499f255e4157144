import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import mariadb from 'mariadb';
import mysql2 from 'mysql2/promise';
import { mariadbClient } from './mariadb.ts';
import { mysqlClient, mysqlTree } from './mysql.ts';

/** How one client is to sign in. */
export interface Call {
  readonly port: number;
  readonly user: string;
  readonly password: string | null;
  readonly database: string;
  /**
   * `default`: whatever the client does of itself. `required`: encrypted, the certificate checked by `caFile` where the
   * client can. `sealed`: encrypted, and the certificate, which is unknown, checked by what the server proves of the
   * password: only for clients that `takesSeal`. `off`: in clear.
   */
  readonly tls: 'default' | 'required' | 'sealed' | 'off';
  readonly caFile: string;
}

export interface Outcome {
  readonly ok: boolean;
  /** The one value that the query gave, or what the client says of its failure. */
  readonly text: string;
}

export interface MysqlClient {
  readonly name: string;
  /**
   * MariaDB's library from 3.4 on: with a password it talks only to a server whose certificate it can check, by an
   * authority or by what the server proves of the password.
   */
  readonly checksServer?: boolean;
  /** One of MariaDB's, with "zero-configuration TLS". */
  readonly takesSeal?: boolean;
  run(call: Call, query: string): Promise<Outcome>;
}

/** `mysql`, which comes without types: as much as is used of it. */
const mysqljs = createRequire(import.meta.url)('mysql') as {
  createConnection(options: object): {
    query(text: string, done: (error: Error | null, rows: Record<string, unknown>[]) => void): void;
    end(): void;
  };
};

const ROOT = join(import.meta.dirname, '..', '..');
const CLIENTS = join(ROOT, 'var', 'clients');
const CALL_MS_MAX = 30_000;

/** Every client that this machine has; MySQL's own command line comes with the MySQL server. */
export function mysqlClients(): MysqlClient[] {
  return [
    ...(mysqlTree() === null ? [] : [MYSQL_CLI]),
    commandLine('mariadb 10.11', mariadbClient('10'), mariadbTls('--skip-ssl')),
    {
      ...commandLine('mariadb 11.8', mariadbClient('11'), mariadbTls('--skip-ssl')),
      checksServer: true,
      takesSeal: true,
    },
    MYSQL2,
    MYSQLJS,
    MARIADB_NPM,
    PYMYSQL,
    MYSQLCLIENT,
    CONNECTOR_PYTHON,
    GO,
    jdbc('Connector/J', 'jdbc:mysql', connectorJTls),
    { ...jdbc('MariaDB Connector/J', 'jdbc:mariadb', mariadbJTls), takesSeal: true },
    php('PHP mysqli', PHP_MYSQLI),
    php('PHP PDO', PHP_PDO),
  ];
}

const MYSQL_CLI: MysqlClient =
  mysqlTree() === null ? ({} as MysqlClient) : commandLine('mysql 9', mysqlClient(), mysqlTls);

function mysqlTls({ tls, caFile }: Call): string[] {
  if (tls === 'required') return ['--ssl-mode=VERIFY_IDENTITY', `--ssl-ca=${caFile}`];
  return tls === 'off' ? ['--ssl-mode=DISABLED'] : [];
}

function mariadbTls(off: string): (call: Call) => string[] {
  return ({ tls, caFile }) => {
    if (tls === 'required') return ['--ssl', '--ssl-verify-server-cert', `--ssl-ca=${caFile}`];
    return tls === 'off' ? [off] : [];
  };
}

/** `mysql` and `mariadb`: the same options but for TLS. */
export function commandLine(
  name: string,
  { file, args }: { file: string; args: string[] },
  tlsArgs: (call: Call) => string[],
): MysqlClient {
  return {
    name,
    run: (call, query) =>
      execute(file, [
        ...args,
        '--protocol=TCP',
        '--host=localhost',
        `--port=${call.port}`,
        `--user=${call.user}`,
        ...(call.password === null ? [] : [`--password=${call.password}`]),
        ...tlsArgs(call),
        '--skip-column-names',
        '--batch',
        `--execute=${query}`,
        call.database,
      ]),
  };
}

const MYSQL2: MysqlClient = {
  name: 'mysql2',
  run: (call, query) =>
    attempt(async () => {
      const connection = await mysql2.createConnection({
        host: 'localhost',
        port: call.port,
        user: call.user,
        ...(call.password === null ? {} : { password: call.password }),
        database: call.database,
        ...(call.tls === 'required' ? { ssl: { ca: readFileSync(call.caFile), verifyIdentity: true } } : {}),
      });
      try {
        const [rows] = await connection.query({ sql: query, rowsAsArray: true });
        return (rows as unknown[][])[0]?.[0];
      } finally {
        await connection.end();
      }
    }),
};

const MYSQLJS: MysqlClient = {
  name: 'mysql (npm)',
  run: (call, query) =>
    attempt(
      () =>
        new Promise((resolve, reject) => {
          const connection = mysqljs.createConnection({
            host: 'localhost',
            port: call.port,
            user: call.user,
            ...(call.password === null ? {} : { password: call.password }),
            database: call.database,
            ...(call.tls === 'required' ? { ssl: { ca: readFileSync(call.caFile, 'utf8') } } : {}),
          });
          connection.query(query, (error, rows) => {
            connection.end();
            if (error) reject(error);
            else resolve(Object.values(rows[0] ?? {})[0]);
          });
        }),
    ),
};

const MARIADB_NPM: MysqlClient = {
  name: 'mariadb (npm)',
  takesSeal: true,
  run: (call, query) =>
    attempt(async () => {
      const connection = await mariadb.createConnection({
        host: 'localhost',
        port: call.port,
        user: call.user,
        ...(call.password === null ? {} : { password: call.password }),
        database: call.database,
        ...(call.tls === 'required' ? { ssl: { ca: readFileSync(call.caFile, 'utf8') } } : {}),
        ...(call.tls === 'sealed' ? { ssl: true } : {}),
      });
      try {
        const rows = (await connection.query({ sql: query, rowsAsArray: true })) as unknown[][];
        return rows[0]?.[0];
      } finally {
        await connection.end();
      }
    }),
};

const PYMYSQL = python(
  'PyMySQL',
  join(CLIENTS, 'python', 'bin', 'python'),
  `import pymysql
ssl = dict(ssl_ca=ca, ssl_verify_cert=True, ssl_verify_identity=True) if tls == 'required' else dict(ssl_disabled=True) if tls == 'off' else {}
connection = pymysql.connect(host='localhost', port=port, user=user, password=password or '', database=database, **ssl)`,
);

const MYSQLCLIENT = python(
  'mysqlclient',
  '/usr/bin/python3',
  `import MySQLdb
ssl = dict(ssl=dict(ca=ca)) if tls == 'required' else {}
connection = MySQLdb.connect(host='127.0.0.1', port=port, user=user, passwd=password or '', db=database, **ssl)`,
);

const CONNECTOR_PYTHON = python(
  'mysql-connector-python',
  join(CLIENTS, 'python', 'bin', 'python'),
  `import mysql.connector
ssl = dict(ssl_ca=ca, ssl_verify_cert=True, ssl_verify_identity=True) if tls == 'required' else dict(ssl_disabled=True) if tls == 'off' else {}
connection = mysql.connector.connect(host='localhost', port=port, user=user, password=password or '', database=database, **ssl)`,
);

function python(name: string, interpreter: string, connect: string): MysqlClient {
  const script = `import json, sys
call = json.loads(sys.argv[1])
port, user, password, database, tls, ca = (call[k] for k in ('port', 'user', 'password', 'database', 'tls', 'caFile'))
${connect}
cursor = connection.cursor()
cursor.execute(sys.argv[2])
print(cursor.fetchone()[0])
connection.close()`;
  return { name, run: (call, query) => execute(interpreter, ['-c', script, JSON.stringify(call), query]) };
}

const GO: MysqlClient = {
  name: 'go-sql-driver',
  run: (call, query) => {
    const account = call.password === null ? call.user : `${call.user}:${call.password}`;
    const mode = { default: '', required: '?tls=test', sealed: '', off: '?tls=false' }[call.tls];
    const dsn = `${account}@tcp(localhost:${call.port})/${call.database}${mode}`;
    return execute(join(CLIENTS, 'bin', 'mysql-sign-in'), [
      dsn,
      query,
      ...(call.tls === 'required' ? [call.caFile] : []),
    ]);
  },
};

function jdbc(name: string, scheme: string, tls: (call: Call) => string): MysqlClient {
  return {
    name,
    run: async (call, query) => {
      const url = `${scheme}://localhost:${call.port}/${call.database}?${tls(call)}`;
      const { ok, text } = await execute('java', [
        '-XX:TieredStopAtLevel=1',
        '-cp',
        `${join(CLIENTS, 'java')}/*`,
        join(ROOT, 'test', 'clients', 'java', 'JdbcSignIn.java'),
        query,
        url,
        call.user,
        call.password ?? '-',
      ]);
      return { ok: ok && text.startsWith('ok '), text: text.replace(/^(ok|error) /, '') };
    },
  };
}

function connectorJTls({ tls, caFile }: Call): string {
  if (tls === 'required') {
    const store = trustStore(caFile);
    return `sslMode=VERIFY_IDENTITY&trustCertificateKeyStoreType=PKCS12&trustCertificateKeyStoreUrl=file:${store}&trustCertificateKeyStorePassword=${STORE_PASSWORD}`;
  }
  return tls === 'off' ? 'sslMode=DISABLED' : '';
}

const STORE_PASSWORD = 'changeit';

/** The authority's certificate in the form that Java takes, made beside its PEM file. */
function trustStore(caFile: string): string {
  const store = `${caFile}.p12`;
  if (existsSync(store)) return store;
  const made = spawnSync('keytool', [
    '-importcert',
    '-noprompt',
    '-alias',
    'ca',
    '-file',
    caFile,
    '-storetype',
    'PKCS12',
    '-keystore',
    store,
    '-storepass',
    STORE_PASSWORD,
  ]);
  if (made.status !== 0) throw new Error(`keytool failed: ${made.stdout}${made.stderr}`);
  return store;
}

function mariadbJTls({ tls, caFile }: Call): string {
  if (tls === 'required') return `sslMode=verify-full&serverSslCert=${caFile}`;
  if (tls === 'sealed') return 'sslMode=verify-full';
  return tls === 'off' ? 'sslMode=disable' : '';
}

const PHP_MYSQLI = `
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
$link = mysqli_init();
if ($call['tls'] === 'required') $link->ssl_set(null, null, $call['caFile'], null, null);
$link->real_connect('127.0.0.1', $call['user'], $call['password'] ?? '', $call['database'], $call['port'], null, $call['tls'] === 'required' ? MYSQLI_CLIENT_SSL : 0);
echo $link->query($argv[2])->fetch_row()[0], "\\n";`;

const PHP_PDO = `
$options = $call['tls'] === 'required' ? [PDO::MYSQL_ATTR_SSL_CA => $call['caFile']] : [];
$link = new PDO("mysql:host=127.0.0.1;port={$call['port']};dbname={$call['database']}", $call['user'], $call['password'] ?? '', $options);
echo $link->query($argv[2])->fetch(PDO::FETCH_NUM)[0], "\\n";`;

function php(name: string, body: string): MysqlClient {
  const script = `$call = json_decode($argv[1], true);${body}`;
  return {
    name,
    run: (call, query) =>
      execute('php', ['-d', 'display_errors=stderr', '-r', script, JSON.stringify(call), query]),
  };
}

/** Runs a program to its end; what it prints is the value, or what it says on standard error is the failure. */
export function execute(file: string, args: readonly string[], timeoutMs = CALL_MS_MAX): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
    });
    child.stderr.on('data', (chunk: Buffer) => {
      stderr += chunk.toString();
    });
    const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    child.on('error', (error) => resolve({ ok: false, text: error.message }));
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (code === 0) resolve({ ok: true, text: stdout.trim() });
      else resolve({ ok: false, text: `${signal ?? code}: ${stderr.trim() || stdout.trim()}` });
    });
  });
}

async function attempt(act: () => Promise<unknown>): Promise<Outcome> {
  try {
    return { ok: true, text: String(await act()) };
  } catch (error) {
    return { ok: false, text: (error as Error).message };
  }
}
