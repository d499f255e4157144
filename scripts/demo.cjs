'use strict';
// `npm run demo`: hands over to the product's own demo command, on the Node it needs.
const { spawn } = require('node:child_process');
const { join } = require('node:path');
const { node, root, environment } = require('./node24.cjs');

const child = spawn(node, [join(root, 'bin', 'sallyport.js'), 'demo', ...process.argv.slice(2)], {
  cwd: root,
  env: environment,
  stdio: 'inherit',
});
// Ctrl-C reaches the child by the terminal; this process only waits for it to finish cleanly.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => child.kill('SIGTERM'));
child.on('exit', (code, signal) => process.exit(code ?? (signal === 'SIGINT' ? 0 : 1)));
