// Compiles the package into dist/, and writes beside it what it was built from: SALLYPORT_BUILD_REVISION and
// SALLYPORT_BUILD_CREATED, else the commit that is checked out and its date, so that the same commit builds the same.
import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../', import.meta.url));
const typescript = dirname(createRequire(import.meta.url).resolve('typescript/package.json'));

rmSync(join(root, 'dist'), { recursive: true, force: true });
execFileSync(process.execPath, [join(typescript, 'bin', 'tsc'), '-p', 'tsconfig.build.json'], {
  cwd: root,
  stdio: 'inherit',
});
const facts = {
  revision: process.env.SALLYPORT_BUILD_REVISION ?? git(['rev-parse', 'HEAD']),
  built: process.env.SALLYPORT_BUILD_CREATED ?? git(['log', '-1', '--format=%cI']),
};
writeFileSync(join(root, 'dist', 'build.json'), `${JSON.stringify(facts)}\n`);

function git(args) {
  try {
    return execFileSync('git', args, {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return null;
  }
}
