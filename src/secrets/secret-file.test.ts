import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { FileSecrets } from './file.ts';
import { parseReference } from './reference.ts';
import { SecretFileEditor } from './secret-file.ts';

const NOW = new Date('2026-01-02T03:04:05Z');
let folder: string;
let path: string;
let identity: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'sallyport-secrets-'));
  path = join(folder, 'secrets.age');
  identity = join(folder, 'keys', 'secrets.key');
});
afterEach(() => rmSync(folder, { recursive: true }));

const editor = (): SecretFileEditor => new SecretFileEditor(path, identity);
const fetchText = async (provider: FileSecrets, reference: string): Promise<string | undefined> =>
  (await provider.fetch(parseReference(reference))).value?.expose().toString();

test('what is set can be fetched; files are for the owner alone and hold nothing readable', async () => {
  await editor().set('orders', null, 'hunter2-canary', NOW);
  await editor().set('shop', 'username', 'app', NOW);
  await editor().set('shop', 'password', 'pässwörd', NOW);
  const provider = new FileSecrets('local', path, identity);
  expect(await fetchText(provider, 'local:orders')).toBe('hunter2-canary');
  expect(await fetchText(provider, 'local:shop#password')).toBe('pässwörd');
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(statSync(identity).mode & 0o777).toBe(0o600);
  expect(readFileSync(path).includes('hunter2-canary')).toBe(false);
  expect(readdirSync(folder).sort()).toEqual(['keys', 'secrets.age']);
});

test('a running provider sees what is set later', async () => {
  await editor().set('orders', null, 'one', NOW);
  const provider = new FileSecrets('local', path, identity);
  expect(await fetchText(provider, 'local:orders')).toBe('one');
  await editor().set('orders', null, 'two', NOW);
  expect(await fetchText(provider, 'local:orders')).toBe('two');
});

test('list has names, fields and times; remove takes an entry or a field', async () => {
  await editor().set('b', 'x', '1', NOW);
  await editor().set('b', 'y', '2', NOW);
  await editor().set('a', null, '3', NOW);
  expect(await editor().list()).toEqual([
    { name: 'a', fields: [], updatedAt: NOW.toISOString() },
    { name: 'b', fields: ['x', 'y'], updatedAt: NOW.toISOString() },
  ]);
  expect(await editor().remove('b', 'z')).toBe(false);
  expect(await editor().remove('b', 'x')).toBe(true);
  expect(await editor().remove('b', 'y')).toBe(true);
  expect(await editor().remove('none', null)).toBe(false);
  expect((await editor().list()).map((entry) => entry.name)).toEqual(['a']);
});

test('rekey makes a new key: the old one opens nothing any more', async () => {
  await editor().set('orders', null, 'one', NOW);
  const former = readFileSync(identity, 'utf8');
  const provider = new FileSecrets('local', path, identity);
  await fetchText(provider, 'local:orders');
  const recipient = await editor().rekey(NOW);
  expect(recipient).toMatch(/^age1/);
  expect(readFileSync(identity, 'utf8')).toContain(recipient);
  expect(await fetchText(provider, 'local:orders')).toBe('one');
  const old = join(folder, 'old.key');
  writeFileSync(old, former);
  await expect(
    new FileSecrets('local', path, old).fetch(parseReference('local:orders')),
  ).rejects.toMatchObject({
    code: 'denied',
  });
});

test('a crash between the steps of rekey leaves a file that can be opened', async () => {
  await editor().set('orders', null, 'one', NOW);
  const before = readFileSync(path);
  const old = readFileSync(identity, 'utf8')
    .split('\n')
    .find((line) => line.startsWith('AGE-'));
  await editor().rekey(NOW);
  const fresh = readFileSync(identity, 'utf8')
    .split('\n')
    .find((line) => line.startsWith('AGE-'));
  const provider = new FileSecrets('local', path, identity);
  for (const state of [before, readFileSync(path)]) {
    writeFileSync(path, state);
    writeFileSync(identity, `${fresh}\n${old}\n`);
    expect(await fetchText(provider, 'local:orders')).toBe('one');
  }
});

test('two changes at once: both are kept, or one is told to wait', async () => {
  await editor().set('a', null, '1', NOW);
  const outcomes = await Promise.allSettled(
    ['b', 'c', 'd'].map((name) => editor().set(name, null, name, NOW)),
  );
  const kept = outcomes.filter((outcome) => outcome.status === 'fulfilled').length;
  expect(await editor().list()).toHaveLength(1 + kept);
  for (const outcome of outcomes)
    if (outcome.status === 'rejected') expect(outcome.reason.message).toContain('another command');
});

test('a lock whose process is gone is taken over; one that is alive is not', async () => {
  writeFileSync(`${path}.lock`, '4194304');
  await editor().set('a', null, '1', NOW);
  writeFileSync(`${path}.lock`, String(process.pid));
  await expect(editor().set('a', null, '2', NOW)).rejects.toThrow('.lock');
});

test('files that are no such files say so', async () => {
  await editor().set('a', null, 'hunter2-canary', NOW);
  const provider = new FileSecrets('local', path, identity);
  for (const damage of [Buffer.alloc(0), Buffer.from('junk'), readFileSync(path).subarray(0, -1)]) {
    writeFileSync(path, damage);
    await expect(provider.fetch(parseReference('local:a'))).rejects.toMatchObject({ code: 'denied' });
    await expect(editor().list()).rejects.toThrow('cannot be opened');
  }
  writeFileSync(identity, 'hunter2-canary\n');
  const error = await provider.fetch(parseReference('local:a')).catch((caught: unknown) => caught as Error);
  expect((error as Error).message).toContain('no age identity');
  expect((error as Error).message).not.toContain('hunter2');
});
