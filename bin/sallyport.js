#!/usr/bin/env node
// Starts the command line: the compiled one of an installed package, the sources of a checkout. Kept to syntax that old
// versions of Node can read, so that they fail with a sentence and not with a stack.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const MAJOR_MIN = 24;
const root = new URL('../', import.meta.url);
const compiled = new URL('dist/src/main.js', root);
const sources = new URL('src/main.ts', root);
const bundledNode = fileURLToPath(new URL('node_modules/.bin/node', root));
const major = Number(process.versions.node.split('.')[0]);

const DAEMONS = ['start', 'demo'];
/**
 * For processes that live long. The SQL parser in WebAssembly is compiled by V8's quick compiler alone: the other would take
 * half a gigabyte for a moment and gain nothing, since parsing is off the hot path. A larger young generation lets the
 * short-lived objects of the relay die before they are copied.
 */
const DAEMON_FLAGS = ['--liftoff-only', '--max-semi-space-size=32'];

if (major < MAJOR_MIN) {
  if (existsSync(bundledNode) && process.execPath !== bundledNode) {
    runWith(bundledNode);
  } else {
    console.error(`sallyport needs Node.js ${MAJOR_MIN} or later; this is ${process.versions.node}.`);
    console.error(
      'Install it from https://nodejs.org, or in a checkout run `npm ci` first, which brings one.',
    );
    process.exitCode = 1;
  }
} else {
  if (DAEMONS.includes(process.argv[2])) replaceWithFlags();
  // A checkout always runs what its sources say, whatever was compiled before.
  await import((existsSync(sources) ? sources : compiled).href);
}

/** The same process once more, with the flags; it goes on as it is where the platform has no exec. */
function replaceWithFlags() {
  if (typeof process.execve !== 'function' || process.execArgv.includes(DAEMON_FLAGS[0])) return;
  const args = [
    ...process.execArgv,
    ...DAEMON_FLAGS,
    fileURLToPath(import.meta.url),
    ...process.argv.slice(2),
  ];
  process.execve(process.execPath, [process.execPath, ...args], process.env);
}

/** Runs this command with another Node, and ends as it does. */
function runWith(node) {
  const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: 'inherit' });
  // Ctrl-C reaches the child by the terminal itself, and is its own to answer: psql goes on after it.
  for (const signal of ['SIGINT', 'SIGQUIT'])
    process.on(signal, () => {
      if (!process.stdin.isTTY) child.kill(signal);
    });
  for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}
