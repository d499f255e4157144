import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import type { ReadStream } from 'node:tty';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PromptCancelled, promptHidden } from './prompt.ts';

const MAIN = new URL('../main.ts', import.meta.url).pathname;

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function sallyport(args: readonly string[], input = ''): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [MAIN, ...args], { cwd: folder });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
    });
    child.stderr.on('data', (chunk: Buffer) => {
      stderr += chunk.toString();
    });
    child.on('close', (code) => resolve({ code, stdout, stderr }));
    child.stdin.end(input);
  });
}

let folder: string;
const seen: Outcome[] = [];
const run = async (args: readonly string[], input?: string): Promise<Outcome> => {
  const outcome = await sallyport(args, input);
  seen.push(outcome);
  return outcome;
};

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'sallyport-cli-secrets-'));
  writeFileSync(
    join(folder, 'config.yaml'),
    'secrets:\n  local: { type: file, path: ./s.age, identity: ./s.key }\nresources: {}\n',
  );
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('sallyport secrets', () => {
  const config = ['--config', 'config.yaml'];

  test('set, list, check, rekey, remove: no output ever holds the value', async () => {
    expect(await run(['secrets', 'set', 'db#password', ...config], 'hunter2-canary\n')).toMatchObject({
      code: 0,
      stderr: 'stored db#password\n',
    });
    writeFileSync(join(folder, 'value'), 'hunter2-canary-b');
    expect((await run(['secrets', 'set', 'plain', '--from-file', 'value', ...config])).code).toBe(0);
    const listed = await run(['secrets', 'list', '--json', ...config]);
    expect(JSON.parse(listed.stdout)).toMatchObject([
      { name: 'db', fields: ['password'] },
      { name: 'plain' },
    ]);
    expect((await run(['secrets', 'list', ...config])).stdout).toMatch(
      /^db +\S+Z {2}#password\nplain +\S+Z\n$/,
    );
    expect((await run(['check', '--connect', ...config])).stdout).toContain('ok     local (file)');
    expect((await run(['secrets', 'rekey', ...config])).stderr).toContain('age1');
    expect((await run(['secrets', 'remove', 'plain', ...config])).code).toBe(0);
    expect((await run(['secrets', 'remove', 'plain', ...config])).code).toBe(1);
    expect(JSON.stringify(seen)).not.toContain('hunter2-canary');
    expect(readFileSync(join(folder, 's.age')).includes('hunter2-canary')).toBe(false);
  });

  test('what cannot be done is said, with an exit status', async () => {
    expect(await run(['secrets', 'set', 'x', ...config], '')).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('empty'),
    });
    expect(await run(['secrets', 'list'])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('--config'),
    });
    expect(await run(['secrets', 'list', '--provider', 'none', ...config])).toMatchObject({ code: 2 });
    expect((await run(['secrets', 'set', 'x', 'value-as-argument', ...config])).code).toBe(2);
  });
});

describe('the prompt', () => {
  const ask = (
    typed: string | Buffer,
  ): { answer: Promise<string>; shown: () => string; type: (more: Buffer) => void } => {
    const input = Object.assign(new PassThrough(), { setRawMode: () => input }) as unknown as ReadStream;
    const output = new PassThrough();
    let shown = '';
    output.on('data', (chunk: Buffer) => {
      shown += chunk.toString();
    });
    const answer = promptHidden('Value: ', input, output);
    (input as unknown as PassThrough).write(typed);
    return { answer, shown: () => shown, type: (more) => (input as unknown as PassThrough).write(more) };
  };

  test('shows nothing of what is typed', async () => {
    const { answer, shown } = ask('hunter2\r');
    expect(await answer).toBe('hunter2');
    expect(shown()).toBe('Value: \n');
  });

  test('knows backspace, Ctrl-U, a whole paste and Ctrl-C', async () => {
    expect(await ask('wrong\u0015ab\u007fpä\u007fé\n').answer).toBe('apé');
    const { answer, type } = ask(Buffer.from([0x70, 0xc3]));
    type(Buffer.from([0xa4, 0x0d]));
    expect(await answer).toBe('pä');
    await expect(ask('x\u0003').answer).rejects.toBeInstanceOf(PromptCancelled);
  });
});
