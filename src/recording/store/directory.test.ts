import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { TemporaryDirectory } from '../../../test/support/recording.ts';
import { storeContract } from '../../../test/support/store-contract.ts';
import { newId } from '../../lib/id.ts';
import { DirectoryStore } from './directory.ts';
import { idTime, parsePartKey, partKey } from './store.ts';

describe('a folder', () => {
  const directories: TemporaryDirectory[] = [];
  afterAll(() => {
    for (const directory of directories) directory[Symbol.dispose]();
  });
  const open = async (): Promise<DirectoryStore> => {
    const directory = new TemporaryDirectory();
    directories.push(directory);
    return new DirectoryStore(join(directory.path, 'store'));
  };
  storeContract(open);

  test('files are for their owner alone, and none is left half written', async () => {
    using directory = new TemporaryDirectory();
    const store = await open();
    const path = join(directory.path, 'part');
    writeFileSync(path, 'content');
    const key = partKey(newId(), 1);
    await store.put(key, path);
    const folder = join(store.name, key, '..');
    expect(readdirSync(folder)).toEqual(['000001.sprec']);
    expect(statSync(join(store.name, key)).mode & 0o777).toBe(0o600);
    expect(statSync(folder).mode & 0o777).toBe(0o700);
  });

  test('a key cannot lead out of the folder', async () => {
    const store = await open();
    for (const key of ['../x', 'a/../../x', '/etc/passwd', 'a//b', '.hidden', 'a/.b', ''])
      await expect(async () => store.get(key)).rejects.toThrow(/no key of a recording/);
  });
});

test('keys tell the day, the session and the part', () => {
  const id = newId(Date.UTC(2026, 10, 24, 12));
  expect(idTime(id)).toBe(Date.UTC(2026, 10, 24, 12));
  expect(partKey(id, 7)).toBe(`2026/11/24/${id}/000007.sprec`);
  expect(parsePartKey(partKey(id, 7))).toEqual({ session: id, part: 7 });
  expect(parsePartKey('journal/x')).toBeNull();
});
