'use strict';
// `npm test`: everything that is checked, in one go: types, style, generated files, all test suites. Ends with one line
// `N passed, N failed`. `npm test -- --quick` leaves out what needs database servers.
const { spawnSync } = require('node:child_process');
const { mkdirSync, readFileSync, rmSync } = require('node:fs');
const { join } = require('node:path');
const { node, root, environment } = require('./node24.cjs');

const quick = process.argv.includes('--quick');
const bin = join(root, 'node_modules', '.bin');
const reports = join(root, 'var', 'test-reports');
let passed = 0;
let failed = 0;

rmSync(reports, { recursive: true, force: true });
mkdirSync(reports, { recursive: true });

if (!quick) {
  const clients = spawnSync(node, [join(__dirname, 'clients.cjs')], {
    cwd: root,
    env: environment,
    stdio: 'inherit',
  });
  if (clients.status !== 0) {
    console.error('The servers and clients that the tests need could not be installed.');
    finish(1);
  }
}
step('types', 'tsc', ['-p', 'tsconfig.json', '--noEmit']);
step('style', 'biome', ['check', '.']);
suite('unit');
if (!quick) {
  suite('interop');
  step('bench guard', 'node', [join(root, 'bench', 'guard.ts')]);
}
finish(0);

function step(name, command, args) {
  heading(name);
  const result = spawnSync(join(bin, command), args, { cwd: root, env: environment, stdio: 'inherit' });
  if (result.status === 0) passed += 1;
  else failed += 1;
}

function suite(project) {
  heading(`tests: ${project}`);
  const report = join(reports, `${project}.json`);
  const args = [
    'run',
    '--project',
    project,
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
  ];
  const result = spawnSync(join(bin, 'vitest'), args, { cwd: root, env: environment, stdio: 'inherit' });
  let counts = null;
  try {
    counts = JSON.parse(readFileSync(report, 'utf8'));
  } catch {
    // A run that was ended before it could report has failed, whatever it printed.
  }
  passed += counts?.numPassedTests ?? 0;
  failed += counts?.numFailedTests ?? 0;
  if ((counts === null || result.status !== 0) && (counts?.numFailedTests ?? 0) === 0) failed += 1;
  // A file that could not be loaded counts no failed test of its own.
  const skipped = (counts?.numPendingTests ?? 0) + (counts?.numTodoTests ?? 0);
  if (skipped > 0) console.log(`${skipped} left out in ${project}; each says why above.`);
}

function heading(name) {
  console.log(`\n── ${name} ${'─'.repeat(Math.max(0, 70 - name.length))}`);
}

function finish(extra) {
  failed += extra;
  console.log(`\n${passed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}
