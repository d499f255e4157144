// Fetches the MySQL and MariaDB servers that the interop tests run against, into var/servers (ignored by git).
//
// Debian stable has one MariaDB and no MySQL; unstable has a current MySQL and a current MariaDB. Their packages are
// downloaded by a private apt tree (own lists, own cache, an empty status file, so that the whole closure comes along,
// libc included) and unpacked with dpkg -x. The host's packages are never touched; the programs are run by the dynamic
// loader that was unpacked with them. Nothing is started here.
//
//   node scripts/databases.cjs            fetch what is missing
//   node scripts/databases.cjs --refresh  fetch again
//   node scripts/databases.cjs --bench    MySQL Router as well, which only the benchmarks use
//
// Exits with 0 even when MySQL cannot be had (unstable can be uninstallable for days): the tests that need it say so.

const { execFileSync } = require('node:child_process');
const {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} = require('node:fs');
const { join, resolve } = require('node:path');

const SERVERS = resolve(__dirname, '..', 'var', 'servers');
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/** `closure`: with all they depend on; `single`: only the package itself (for its plugins); `onlyFor`: the option that asks for it. */
const TREES = [
  {
    name: 'mysql',
    suite: 'sid',
    closure: ['mysql-server-core', 'mysql-client-core'],
    single: [],
    program: 'usr/sbin/mysqld',
  },
  {
    name: 'mariadb-11',
    suite: 'sid',
    closure: ['mariadb-server-core', 'mariadb-client-core', 'libmariadb3'],
    single: ['mariadb-server', 'mariadb-client'],
    program: 'usr/sbin/mariadbd',
  },
  {
    name: 'mariadb-10',
    suite: null,
    closure: ['mariadb-server-core', 'mariadb-client-core', 'libmariadb3'],
    single: ['mariadb-server', 'mariadb-client'],
    program: 'usr/sbin/mariadbd',
  },
  {
    name: 'mysql-router',
    suite: 'sid',
    closure: ['mysql-router'],
    single: [],
    program: 'usr/bin/mysqlrouter',
    onlyFor: '--bench',
  },
];

function main() {
  const refresh = process.argv.includes('--refresh');
  let failed = 0;
  for (const tree of TREES) {
    const root = join(SERVERS, tree.name);
    if (tree.onlyFor !== undefined && !process.argv.includes(tree.onlyFor)) continue;
    if (!refresh && existsSync(join(root, tree.program))) continue;
    try {
      fetchTree(tree, root);
      console.log(`${tree.name}: unpacked in ${root}`);
    } catch (error) {
      failed += 1;
      console.log(`${tree.name}: cannot be fetched (${firstLine(error)}); tests that need it are left out`);
    }
  }
  rmSync(join(SERVERS, 'apt'), { recursive: true, force: true });
  return failed;
}

function fetchTree(tree, root) {
  const apt = join(SERVERS, 'apt', tree.name);
  for (const folder of ['lists/partial', 'cache/archives/partial', 'single'])
    mkdirSync(join(apt, folder), { recursive: true });
  writeFileSync(join(apt, 'status'), '');
  writeFileSync(join(apt, 'sources.list'), sources(tree.suite));
  writeFileSync(join(apt, 'apt.conf'), configuration(apt));
  const aptGet = (args, cwd) =>
    execFileSync('apt-get', ['-q', '-c', join(apt, 'apt.conf'), ...args], {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 300_000,
    });
  aptGet(['update']);
  aptGet(['-y', 'install', '--no-install-recommends', '--download-only', ...tree.closure]);
  if (tree.single.length > 0) aptGet(['download', ...tree.single], join(apt, 'single'));
  const unpacked = `${root}.new`;
  rmSync(unpacked, { recursive: true, force: true });
  mkdirSync(unpacked, { recursive: true });
  for (const folder of ['cache/archives', 'single']) {
    for (const name of readdirSync(join(apt, folder))) {
      if (!name.endsWith('.deb')) continue;
      execFileSync('dpkg', ['-x', join(apt, folder, name), unpacked], { stdio: ['ignore', 'pipe', 'pipe'] });
    }
  }
  if (!existsSync(join(unpacked, tree.program))) throw new Error(`the packages hold no ${tree.program}`);
  rmSync(root, { recursive: true, force: true });
  // Data directories that an older release made are no good to this one.
  rmSync(join(SERVERS, 'data', tree.name), { recursive: true, force: true });
  renameSync(unpacked, root);
}

/** The same mirror as the host's; unstable in place of its release where a suite is named. */
function sources(suite) {
  const debian = hostSources().filter(({ uri }) => /\/debian(-security)?\/?$/.test(uri));
  if (debian.length === 0) throw new Error('the package sources of this machine name no Debian mirror');
  const signed = `[signed-by=${KEYRING}]`;
  if (suite !== null) {
    const main = debian.find(({ uri }) => !/security/.test(uri)) ?? debian[0];
    return `deb ${signed} ${main.uri} ${suite} main\n`;
  }
  const lines = new Set(debian.map(({ uri, release }) => `deb ${signed} ${uri} ${release} main\n`));
  return [...lines].join('');
}

/** What the host's own source files name, in the one-line form and in stanzas. */
function hostSources() {
  const folder = '/etc/apt/sources.list.d';
  const files = existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
  const found = [];
  for (const file of ['/etc/apt/sources.list', ...files]) {
    if (!existsSync(file)) continue;
    const text = readFileSync(file, 'utf8');
    for (const [, uri, release] of text.matchAll(/^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)/gm))
      found.push({ uri, release });
    for (const stanza of text.split(/\n\s*\n/)) {
      const field = (name) =>
        new RegExp(`^${name}:\\s*(.+)$`, 'm').exec(stanza)?.[1].trim().split(/\s+/) ?? [];
      for (const uri of field('URIs')) for (const release of field('Suites')) found.push({ uri, release });
    }
  }
  return found;
}

function configuration(apt) {
  return [
    `Dir::Etc::SourceList "${join(apt, 'sources.list')}";`,
    'Dir::Etc::SourceParts "-";',
    `Dir::State::Lists "${join(apt, 'lists')}";`,
    `Dir::State::status "${join(apt, 'status')}";`,
    `Dir::Cache "${join(apt, 'cache')}";`,
    'Acquire::Languages "none";',
    'Acquire::Retries "3";',
    ...(process.getuid() === 0 ? ['APT::Sandbox::User "root";'] : []),
    '',
  ].join('\n');
}

function firstLine(error) {
  const text = error.stderr ? `${error.stderr}` : error.message;
  const lines = text.split('\n').filter((line) => line.startsWith('E: '));
  return (lines[0] ?? text.split('\n')[0]).slice(0, 300);
}

main();
