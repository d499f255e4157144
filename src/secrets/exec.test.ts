import { existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DirectorySecrets } from './directory.ts';
import { ExecSecrets } from './exec.ts';
import { parseReference } from './reference.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'sallyport-exec-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const log = pino({ level: 'silent' });
const shell = (script: string, environment: string[] = []): ExecSecrets =>
  new ExecSecrets('x', { command: ['/bin/sh', '-c', script, 'sh'], environment }, log);
const run = async (
  provider: ExecSecrets,
  path: string,
  signal = new AbortController().signal,
): Promise<string | undefined> =>
  (await provider.fetch(parseReference(`x:${path}`), signal)).value?.expose().toString();

describe('a command', () => {
  test('gets the path as its last argument, whatever it holds, and no shell', async () => {
    const echo = new ExecSecrets('x', { command: ['/bin/echo', 'got'], environment: [] }, log);
    expect(await run(echo, '$(id); `id` "quoted" > /tmp/x')).toBe('got $(id); `id` "quoted" > /tmp/x');
  });

  test('loses one line end and nothing else', async () => {
    expect(await run(shell("printf ' a\\n\\r\\n'"), 'p')).toBe(' a\n');
    expect(await run(shell("printf 'a'"), 'p')).toBe('a');
    await expect(run(shell('printf "\\n"'), 'p')).rejects.toMatchObject({ code: 'malformed' });
  });

  test('sees the usual variables and those it was given, and no other', async () => {
    process.env['SALLYPORT_TEST_GIVEN'] = 'yes';
    process.env['SALLYPORT_TEST_KEPT'] = 'no';
    const seen = await run(shell('env', ['SALLYPORT_TEST_GIVEN']), 'p');
    expect(seen).toContain('SALLYPORT_TEST_GIVEN=yes');
    expect(seen).toContain('PATH=');
    expect(seen).not.toContain('SALLYPORT_TEST_KEPT');
  });

  test('that takes too long is ended, with what it started', async () => {
    const started = join(folder, 'started');
    const survived = join(folder, 'survived');
    const abort = new AbortController();
    const asked = run(shell(`touch ${started}; (sleep 1; touch ${survived}) & wait`), 'p', abort.signal);
    await expect.poll(() => existsSync(started)).toBe(true);
    abort.abort();
    await expect(asked).rejects.toMatchObject({ code: 'timeout' });
    await new Promise((resolve) => setTimeout(resolve, 1_300));
    expect(existsSync(survived)).toBe(false);
  });

  test('that writes without end is ended', async () => {
    await expect(run(shell('yes'), 'p')).rejects.toMatchObject({
      code: 'malformed',
      message: expect.stringContaining('64 KiB'),
    });
  });

  test('that is not there, may not be run, or fails', async () => {
    const missing = new ExecSecrets('x', { command: [join(folder, 'none')], environment: [] }, log);
    await expect(run(missing, 'p')).rejects.toMatchObject({
      code: 'denied',
      message: expect.stringContaining('not found'),
    });
    writeFileSync(join(folder, 'plain'), 'text');
    const plain = new ExecSecrets('x', { command: [join(folder, 'plain')], environment: [] }, log);
    await expect(run(plain, 'p')).rejects.toMatchObject({
      code: 'denied',
      message: expect.stringContaining('EACCES'),
    });
    await expect(run(shell('exit 7'), 'p')).rejects.toThrow('exit code 7');
    await expect(run(shell('kill -9 $$'), 'p')).rejects.toThrow('ended by SIGKILL');
  });
});

describe('a folder', () => {
  test('is not left by a path', async () => {
    const inner = join(folder, 'inner');
    rmSync(inner, { recursive: true, force: true });
    const { mkdirSync } = await import('node:fs');
    mkdirSync(inner);
    writeFileSync(join(folder, 'outer'), 'secret');
    writeFileSync(join(inner, 'x'), 'fine');
    const provider = new DirectorySecrets('d', inner);
    for (const path of ['../outer', '/etc/passwd', 'x/../../outer', '..'])
      await expect(provider.fetch(parseReference(`d:${path}`))).rejects.toMatchObject({ code: 'not_found' });
    expect((await provider.fetch(parseReference('d:./x'))).value?.expose().toString()).toBe('fine');
  });

  test('is read anew when Kubernetes has swapped it, account and password together', async () => {
    const mounted = join(folder, 'swap');
    const { mkdirSync, renameSync } = await import('node:fs');
    for (const version of ['v1', 'v2']) {
      mkdirSync(join(mounted, version), { recursive: true });
      writeFileSync(join(mounted, version, 'username'), `user-${version}`);
      writeFileSync(join(mounted, version, 'password'), `pass-${version}\n`);
    }
    symlinkSync('v1', join(mounted, '..data'));
    for (const field of ['username', 'password']) symlinkSync(join('..data', field), join(mounted, field));
    const provider = new DirectorySecrets('d', folder);
    const read = async (): Promise<string[]> =>
      Object.values((await provider.fetch(parseReference('d:swap'))).fields).map((field) =>
        field.expose().toString(),
      );
    expect((await read()).sort()).toEqual(['pass-v1', 'user-v1']);
    symlinkSync('v2', join(mounted, '..new'));
    renameSync(join(mounted, '..new'), join(mounted, '..data'));
    expect((await read()).sort()).toEqual(['pass-v2', 'user-v2']);
  });
});
