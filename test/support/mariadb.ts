import { existsSync, readFileSync } from 'node:fs';
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

/** `10`: the MariaDB of Debian stable (10.11); `11`: that of unstable (11.8 or later). */
export type MariadbRelease = '10' | '11';

export function mariadbTree(release: MariadbRelease): ServerTree | null {
  return serverTree(`mariadb-${release}`);
}

/** For `describe.skipIf(...)`: whether the MariaDB of unstable is missing. Says so, once, on standard error. */
export function mariadb11Missing(): boolean {
  if (mariadbTree('11') !== null) return false;
  if (!said)
    console.error('No MariaDB 11 (node scripts/databases.cjs could not fetch it): its tests are left out.');
  said = true;
  return true;
}

let said = false;

/** Starts a MariaDB server: native passwords and ed25519 (11: also parsec and caching_sha2), root without password. */
export async function startMariadb(
  release: MariadbRelease = '10',
  options: StartOptions = {},
): Promise<DatabaseServer> {
  const tree = mariadbTree(release);
  if (tree === null) throw new Error(`there is no MariaDB ${release} here: run node scripts/databases.cjs`);
  return startDatabase(family(tree), options);
}

/** Program and leading arguments of a MariaDB command-line program of that release. */
export function mariadbClient(
  release: MariadbRelease = '10',
  program: 'mariadb' | 'mariadb-dump' | 'mariadb-admin' | 'mariadb-binlog' | 'mariadb-slap' = 'mariadb',
): { file: string; args: string[] } {
  const tree = mariadbTree(release);
  if (tree === null) throw new Error(`there is no MariaDB ${release} here: run node scripts/databases.cjs`);
  const { file, args } = programOf(tree, `usr/bin/${program}`);
  const plugins = join(tree.root, 'usr/lib/x86_64-linux-gnu/libmariadb3/plugin');
  return {
    file,
    args: [
      ...args,
      '--no-defaults',
      `--character-sets-dir=${join(shareOf(tree), 'charsets')}`,
      ...(program === 'mariadb-binlog' ? [] : [`--plugin-dir=${plugins}`]),
    ],
  };
}

function shareOf(tree: ServerTree): string {
  const share = join(tree.root, 'usr/share/mariadb');
  return existsSync(join(share, 'charsets')) ? share : join(tree.root, 'usr/share/mysql');
}

function family(tree: ServerTree): Family {
  const share = shareOf(tree);
  const plugins = join(tree.root, 'usr/lib/mysql/plugin');
  const common = [
    `--basedir=${join(tree.root, 'usr')}`,
    `--lc-messages-dir=${share}`,
    `--character-sets-dir=${join(share, 'charsets')}`,
    `--plugin-dir=${plugins}`,
    '--innodb-buffer-pool-size=32M',
    '--innodb-log-file-size=16M',
    `--user=${userInfo().username}`,
  ];
  const loaded = ['auth_ed25519', 'auth_parsec', 'auth_mysql_sha2'].filter((name) =>
    existsSync(join(plugins, `${name}.so`)),
  );
  return {
    tree,
    program: 'usr/sbin/mariadbd',
    common,
    start: [
      `--plugin-load-add=${loaded.join(';')}`,
      '--local-infile=ON',
      '--innodb-flush-log-at-trx-commit=0',
      '--performance-schema=OFF',
    ],
    initialise: (data) => {
      const { status, stderr } = runProgram(
        tree,
        'usr/sbin/mariadbd',
        ['--no-defaults', ...common, `--datadir=${data}`, '--bootstrap'],
        { input: bootstrapScript(share) },
      );
      if (status !== 0) throw new Error(`mariadbd --bootstrap failed: ${stderr.slice(-4000)}`);
    },
  };
}

/** The system tables, with a root account that has no password and no socket authentication. */
function bootstrapScript(share: string): string {
  const script = (...names: string[]): string => {
    const path = names.map((name) => join(share, name)).find((candidate) => existsSync(candidate));
    if (path === undefined) throw new Error(`none of ${names.join(', ')} in ${share}`);
    return readFileSync(path, 'utf8');
  };
  return [
    'create database mysql;',
    'use mysql;',
    'SET @auth_root_socket=NULL;',
    script('mariadb_system_tables.sql', 'mysql_system_tables.sql'),
    script('mariadb_performance_tables.sql', 'mysql_performance_tables.sql'),
    script('mariadb_system_tables_data.sql', 'mysql_system_tables_data.sql'),
    '',
  ].join('\n');
}
