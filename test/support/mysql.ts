import { userInfo } from 'node:os';
import { join } from 'node:path';
import {
  type DatabaseServer,
  type Family,
  programOf,
  runProgram,
  type ServerTree,
  type StartOptions,
  serverTree,
  startDatabase,
} from './database.ts';

/** The unpacked MySQL, or null where this machine could not get it. */
export function mysqlTree(): ServerTree | null {
  return serverTree('mysql');
}

/**
 * For `describe.skipIf(mysqlMissing())`: whether there is no MySQL server here. Says so, once, on standard error. Only
 * MySQL may be left out; MariaDB comes from every Debian.
 */
export function mysqlMissing(): boolean {
  if (mysqlTree() !== null) return false;
  if (!said)
    console.error('No MySQL server (node scripts/databases.cjs could not fetch it): its tests are left out.');
  said = true;
  return true;
}

let said = false;

/** Starts a MySQL server: caching_sha2_password by default, root without password on the socket, general log on. */
export async function startMysql(options: StartOptions = {}): Promise<DatabaseServer> {
  const tree = mysqlTree();
  if (tree === null) throw new Error('there is no MySQL server here: run node scripts/databases.cjs');
  return startDatabase(family(tree), options);
}

/** Program and leading arguments of the MySQL command-line client (or `mysqldump`, `mysqladmin`) of that tree. */
export function mysqlClient(program: 'mysql' | 'mysqldump' | 'mysqladmin' = 'mysql'): {
  file: string;
  args: string[];
} {
  const tree = mysqlTree();
  if (tree === null) throw new Error('there is no MySQL client here: run node scripts/databases.cjs');
  const { file, args } = programOf(tree, `usr/bin/${program}`);
  const share = join(tree.root, 'usr/share/mysql');
  const plugins = program === 'mysql' ? [`--plugin-dir=${join(tree.root, 'usr/lib/mysql/plugin')}`] : [];
  return {
    file,
    args: [...args, '--no-defaults', `--character-sets-dir=${join(share, 'charsets')}`, ...plugins],
  };
}

function family(tree: ServerTree): Family {
  const { root } = tree;
  const share = join(root, 'usr/share/mysql');
  const common = [
    `--basedir=${join(root, 'usr')}`,
    `--lc-messages-dir=${share}`,
    `--character-sets-dir=${join(share, 'charsets')}`,
    `--plugin-dir=${join(root, 'usr/lib/mysql/plugin')}`,
    '--secure-file-priv=',
    '--innodb-buffer-pool-size=32M',
    '--innodb-redo-log-capacity=32M',
    `--user=${userInfo().username}`,
  ];
  return {
    tree,
    program: 'usr/sbin/mysqld',
    common,
    start: ['--mysqlx=OFF', '--local-infile=ON', '--innodb-flush-log-at-trx-commit=0', '--sync-binlog=0'],
    initialise: (data) => {
      const { status, stderr } = runProgram(tree, 'usr/sbin/mysqld', [
        '--no-defaults',
        ...common,
        `--datadir=${data}`,
        '--initialize-insecure',
      ]);
      if (status !== 0) throw new Error(`mysqld --initialize-insecure failed: ${stderr.slice(-4000)}`);
    },
  };
}
