'use strict';
// Installs what the tests need beside the npm packages: database servers and clients from Debian's packages, drivers in
// Python, Java and Go. Each part is done once and again when its list changes. `--only debian,python,java,go,mysql`
// does a part. Everything but Debian's packages goes below var/, which git ignores.
const { spawnSync } = require('node:child_process');
const { createHash } = require('node:crypto');
const {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} = require('node:fs');
const { join } = require('node:path');

const root = join(__dirname, '..');
const lists = join(root, 'test', 'clients');
const target = join(root, 'var', 'clients');
const only = process.argv.includes('--only')
  ? process.argv[process.argv.indexOf('--only') + 1].split(',')
  : null;
const wants = (part) => only === null || only.includes(part);
mkdirSync(target, { recursive: true });

if (wants('debian')) debian();
if (wants('python')) python();
if (wants('java')) java();
if (wants('go')) go();
if (wants('mysql')) databases();

function debian() {
  const list = join(lists, 'debian.txt');
  if (!existsSync(list)) return;
  const wanted = readFileSync(list, 'utf8')
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter((line) => line !== '');
  if (!has('go')) wanted.push('golang-go');
  if (!has('mvn') || !has('java')) wanted.push('default-jdk-headless', 'maven');
  const missing = wanted.filter((name) => !isInstalled(name));
  if (missing.length === 0) return;
  if (!has('apt-get') || process.getuid?.() !== 0) {
    fail(
      `The tests need these Debian packages, and only root can install them:\n  sudo apt-get install --no-install-recommends ${missing.join(' ')}`,
    );
  }
  console.log(`Installing ${missing.length} Debian packages: ${missing.join(' ')}`);
  // The servers are started by the tests themselves, on ports of their own: none may come up as a service.
  const policy = '/usr/sbin/policy-rc.d';
  const hadPolicy = existsSync(policy);
  if (!hadPolicy) writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    run('apt-get', ['update', '-qq'], { env: environment }, true);
    run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missing], { env: environment });
  } finally {
    if (!hadPolicy) rmSync(policy, { force: true });
  }
}

function python() {
  const list = join(lists, 'requirements.txt');
  if (!existsSync(list)) return;
  once('python', [list], () => {
    const venv = join(target, 'python');
    if (!existsSync(join(venv, 'bin', 'pip'))) run('python3', ['-m', 'venv', venv]);
    run(join(venv, 'bin', 'pip'), ['install', '-q', '--disable-pip-version-check', '-r', list]);
  });
}

function java() {
  const pom = join(lists, 'java', 'pom.xml');
  if (!existsSync(pom)) return;
  once('java', [pom], () => {
    run('mvn', [
      '-q',
      '-B',
      '-f',
      pom,
      'dependency:copy-dependencies',
      `-DoutputDirectory=${join(target, 'java')}`,
    ]);
  });
}

function go() {
  const folder = join(lists, 'go');
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder)) {
    const source = join(folder, name);
    if (!statSync(source).isDirectory()) continue;
    const files = readdirSync(source).map((file) => join(source, file));
    once(`go-${name}`, files, () => {
      mkdirSync(join(target, 'bin'), { recursive: true });
      // A folder without a program of its own names somebody else's, as the tool of its module.
      const program = existsSync(join(source, 'main.go')) ? '.' : 'tool';
      run('go', ['build', '-o', join(target, 'bin', name), program], { cwd: source });
    });
  }
}

function databases() {
  const script = join(__dirname, 'databases.cjs');
  if (!existsSync(script)) return;
  // Debian's unstable suite can be uninstallable for days: the tests then say that MySQL was left out.
  const result = spawnSync(process.execPath, [script], { cwd: root, stdio: 'inherit' });
  if (result.status !== 0)
    console.log('MySQL and MariaDB servers: not obtained; their tests will be left out.');
}

/** Runs `work` unless it has been done for exactly these files. */
function once(name, files, work) {
  const hash = createHash('sha256');
  for (const file of files) hash.update(readFileSync(file));
  const digest = hash.digest('hex');
  const stamp = join(target, `.${name}`);
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === digest) return;
  console.log(`Installing test clients: ${name} …`);
  work();
  writeFileSync(stamp, digest);
}

function run(command, args, options = {}, tolerate = false) {
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
    ...options,
  });
  if (result.error) fail(`${command}: ${result.error.message}`);
  if (result.status !== 0 && !tolerate)
    fail(`${command} ${args.slice(0, 3).join(' ')} … failed (exit ${result.status})`);
}

function has(command) {
  return spawnSync('sh', ['-c', `command -v ${command}`], { stdio: 'ignore' }).status === 0;
}

function isInstalled(name) {
  const result = spawnSync('dpkg', ['-s', name], { encoding: 'utf8' });
  return result.status === 0 && /^Status: install ok installed$/m.test(result.stdout);
}

function fail(message) {
  console.error(message);
  process.exit(1);
}
