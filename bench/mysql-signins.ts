import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { DatabaseServer } from '../test/support/database.ts';
import { mariadbTree, startMariadb } from '../test/support/mariadb.ts';
import { mysqlTree, startMysql } from '../test/support/mysql.ts';
import { interleaved } from './lib/load.ts';
import { type Backend, direct, haproxy, type Peer, sallyport, type TlsFiles } from './lib/peers.ts';
import { machineText, Section, versionsOf } from './lib/results.ts';
import type { BenchOptions } from './lib/round-trips.ts';
import { type SignInSample, signInSample, signInTable } from './lib/sign-ins.ts';
import { PEERS_TEXT, routerIfThere, sysbench } from './mysql.ts';

const CLIENTS = 8;
const TEST = fileURLToPath(new URL('lib/mysql-sign-in.lua', import.meta.url));
const PASSWORD = 'bench-password';

interface Family {
  readonly name: 'MySQL' | 'MariaDB' | 'MariaDB 11';
  readonly type: 'mysql' | 'mariadb';
  readonly isThere: () => boolean;
  readonly start: (options: readonly string[]) => Promise<DatabaseServer>;
  /** What follows CREATE USER …, by method. */
  readonly methods: Readonly<Record<string, string>>;
  /** The library of sysbench knows no such method: Sallyport alone can be measured, as it lets sysbench in without. */
  readonly behindSallyport?: true;
}

const FAMILIES: readonly Family[] = [
  {
    name: 'MySQL',
    type: 'mysql',
    isThere: () => mysqlTree() !== null,
    start: (options) => startMysql({ options: [...options, '--disable-log-bin'] }),
    methods: {
      caching_sha2_password: `IDENTIFIED WITH caching_sha2_password BY '${PASSWORD}'`,
    },
  },
  {
    name: 'MariaDB',
    type: 'mariadb',
    isThere: () => true,
    start: (options) => startMariadb('10', { options: [...options] }),
    methods: {
      mysql_native_password: `IDENTIFIED VIA mysql_native_password USING PASSWORD('${PASSWORD}')`,
      ed25519: `IDENTIFIED VIA ed25519 USING PASSWORD('${PASSWORD}')`,
    },
  },
  {
    name: 'MariaDB 11',
    type: 'mariadb',
    isThere: () => mariadbTree('11') !== null,
    start: (options) => startMariadb('11', { options: [...options] }),
    methods: {
      parsec: `IDENTIFIED VIA parsec USING PASSWORD('${PASSWORD}')`,
    },
    behindSallyport: true,
  },
];

/** New connections a second by what the server asks for, in the clear and with TLS on both sides. */
export async function signIns(options: BenchOptions): Promise<void> {
  const families = FAMILIES.filter(({ isThere }) => isThere());
  const title = families.some(({ type }) => type === 'mysql') ? 'MySQL and MariaDB' : 'MariaDB';
  const servers: DatabaseServer[] = [];
  for (const { start } of families)
    servers.push(await start(['--max-connections=1000', '--general-log=OFF']));
  const section = new Section('mysql sign-ins', [
    `## ${title}: sign-ins`,
    `sysbench, ${CLIENTS} threads, a new connection for every select, ${options.runs} interleaved runs of ${options.seconds} s. Named is what the server asks for (caching_sha2_password the fast way, the password being known to it): of the client, or of Sallyport, which lets its clients in without a password. With TLS, both sides have it, and Sallyport verifies the server. The full way of caching_sha2_password is taken once after a start of the server, and not measured; parsec is measured by Sallyport alone, since no load generator here knows it.`,
    PEERS_TEXT,
    machineText({
      ...Object.fromEntries(families.map(({ name }, index) => [name, servers[index]!.version])),
      ...versionsOf(['HAProxy', 'MySQL Router', 'sysbench']),
    }),
  ]);
  try {
    for (const [index, family] of families.entries())
      await signInsOf(family, servers[index]!, section, options);
  } finally {
    for (const server of servers) await server.stop();
  }
}

async function signInsOf(
  family: Family,
  server: DatabaseServer,
  section: Section,
  options: BenchOptions,
): Promise<void> {
  const certificates = certificateFolder(server);
  try {
    await server.run('CREATE DATABASE bench');
    for (const [method, how] of Object.entries(family.methods)) {
      const user = method.slice(0, 16);
      await server.run(`CREATE USER ${user}@'%' ${how}`, `GRANT ALL ON bench.* TO ${user}@'%'`);
      const backend: Backend = {
        type: family.type,
        port: server.port,
        user,
        password: PASSWORD,
        database: 'bench',
      };
      // Over TLS, MySQL learns the password's digest, which the fast way in the clear needs.
      for (const tls of [certificates.files, undefined]) {
        const withTls = tls === undefined ? {} : { tls };
        const balancer = family.behindSallyport ? null : await haproxy(backend);
        const peers = [
          ...(balancer === null ? [] : [direct(backend), balancer]),
          ...(family.type === 'mysql' ? await routerIfThere(backend) : []),
          await sallyport(backend, { recording: 'off', ...withTls }),
          await sallyport(backend, { recording: 'flushed', ...withTls }),
        ];
        try {
          const samples = await interleaved(peers, options.runs, (peer) =>
            connections(peer, backend, options.seconds, tls === undefined ? null : certificates.folder),
          );
          section.add(
            `${method}, ${tls === undefined ? 'in the clear' : 'TLS on both sides'}`,
            signInTable(samples, balancer ?? peers[0]!, options.runs),
          );
        } finally {
          for (const peer of peers) await peer.stop();
        }
      }
    }
  } finally {
    rmSync(certificates.folder, { recursive: true, force: true });
  }
}

async function connections(
  peer: Peer,
  backend: Backend,
  seconds: number,
  certificates: string | null,
): Promise<SignInSample> {
  const { count, measuredSeconds, cpu } = await sysbench(
    peer,
    backend,
    TEST,
    seconds,
    [`--threads=${CLIENTS}`, `--mysql-ssl=${certificates === null ? 'off' : 'on'}`],
    certificates ?? undefined,
  );
  return signInSample(count, measuredSeconds, cpu);
}

/** The server's certificate under the names that sysbench looks for in its directory, and for the gateway. */
function certificateFolder({ caFile }: DatabaseServer): { folder: string; files: TlsFiles } {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-tls-'));
  const files: TlsFiles = {
    ca: join(folder, 'cacert.pem'),
    cert: join(folder, 'client-cert.pem'),
    key: join(folder, 'client-key.pem'),
  };
  for (const [from, to] of [
    ['ca.pem', files.ca],
    ['cert.pem', files.cert],
    ['key.pem', files.key],
  ] as const)
    copyFileSync(join(dirname(caFile), from), to);
  return { folder, files };
}
