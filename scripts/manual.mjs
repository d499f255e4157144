// Writes the manual pages of the commands: docs/man/*.1.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { commandTree } from '../src/cli/command-tree.ts';
import { makeProgram } from '../src/cli/commands.ts';
import { version } from '../src/version.ts';
import { manualPages } from './references/manual.ts';

const folder = new URL('../docs/man/', import.meta.url);
mkdirSync(folder, { recursive: true });
const pages = manualPages(commandTree(await makeProgram(() => true)), version);
for (const name of readdirSync(folder)) if (!pages.has(name)) rmSync(new URL(name, folder));
for (const [name, text] of pages) writeFileSync(new URL(name, folder), text);
