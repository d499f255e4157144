'use strict';
// The Node that the product runs on: this one where it is new enough, else the one that the npm packages bring.
const { existsSync } = require('node:fs');
const { delimiter, join } = require('node:path');

const root = join(__dirname, '..');
const bin = join(root, 'node_modules', '.bin');
const bundled = join(bin, process.platform === 'win32' ? 'node.exe' : 'node');
const node =
  Number(process.versions.node.split('.')[0]) >= 24 || !existsSync(bundled) ? process.execPath : bundled;

module.exports = {
  root,
  node,
  /** The environment for child processes: the packages' commands, and with them the right Node, come first. */
  environment: { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` },
};
