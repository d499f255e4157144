import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { freePort } from '../../../bench/lib/process.ts';
import { DEBIAN_BIN } from '../../support/postgres.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** A newcomer's first minute: the demo, the lines that it prints, and what was recorded. */
test('the lines that the demo prints work as printed, and are on record', { timeout: 120_000 }, async () => {
  const data = mkdtempSync(join(tmpdir(), 'sallyport-demo-test-'));
  const port = await freePort();
  const environment = {
    ...process.env,
    SALLYPORT_DEMO_DIR: data,
    PATH: `${DEBIAN_BIN}:${process.env['PATH']}`,
  };
  const demo = spawn('npm', ['run', '--silent', 'demo', '--', '--port', String(port)], {
    cwd: root,
    env: environment,
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  });
  let printed = '';
  try {
    await new Promise<void>((resolve, reject) => {
      demo.stdout.on('data', (chunk: Buffer) => {
        printed += chunk.toString('utf8');
        if (printed.includes('Ctrl-C ends it all')) resolve();
      });
      demo.once('exit', () => reject(new Error(`the demo ended:\n${printed}`)));
    });
    const psql = /^ {2}(psql .*)$/m.exec(printed)![1]!;
    const node = /^ {2}(node .*)$/m.exec(printed)![1]!;
    expect(await shell(psql, environment)).toContain('Lagos');
    expect(await shell(node, environment)).toContain("'paid'");
    const replay = await shell('npx sallyport recordings replay --last', environment);
    expect(replay).toContain('select * from orders where total > $1 and status = $2');
    expect(replay).toContain('1400');
    expect(replay).toMatch(/4 rows/);
    // As Ctrl-C in a terminal does: to the whole group.
    process.kill(-demo.pid!, 'SIGINT');
    await new Promise((resolve) => demo.once('exit', resolve));
    expect(printed).toContain('Stopped.');
    expect(await shell('node bin/sallyport.js recordings list', environment)).toContain('shop');
  } finally {
    if (demo.exitCode === null && demo.signalCode === null) process.kill(-demo.pid!, 'SIGKILL');
    rmSync(data, { recursive: true, force: true });
  }
});

function shell(line: string, env: NodeJS.ProcessEnv): Promise<string> {
  const child = spawn('sh', ['-c', line], {
    cwd: root,
    env: { ...env, NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString('utf8');
    });
  return new Promise((resolve, reject) => {
    child.once('close', (code) =>
      code === 0 ? resolve(output) : reject(new Error(`${line}: ${code}\n${output}`)),
    );
  });
}
