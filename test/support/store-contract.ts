import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { newId } from '../../src/lib/id.ts';
import { partKey, type RecordingStore, sessionPrefix } from '../../src/recording/store/store.ts';
import { TemporaryDirectory } from './recording.ts';

/** What every store of recordings must do. `open` gives an empty one. */
export function storeContract(open: () => Promise<RecordingStore>): void {
  const file = (directory: TemporaryDirectory, content: Buffer): string => {
    const path = join(directory.path, newId());
    writeFileSync(path, content);
    return path;
  };

  test('what is put can be got, listed and deleted', async () => {
    using directory = new TemporaryDirectory();
    const store = await open();
    await store.check();
    const ids = [newId(), newId()];
    const big = Buffer.alloc(20 * 1024 * 1024 + 7, 'recording ');
    await store.put(partKey(ids[0]!, 1), file(directory, Buffer.from('one')));
    await store.put(partKey(ids[0]!, 2), file(directory, big));
    await store.put(partKey(ids[1]!, 1), file(directory, Buffer.from('other')));
    const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
    expect(sha256(await store.get(partKey(ids[0]!, 2)))).toBe(sha256(big));
    const listed = await store.list(sessionPrefix(ids[0]!));
    expect(listed.map(({ key, size }) => ({ key, size }))).toEqual([
      { key: partKey(ids[0]!, 1), size: 3 },
      { key: partKey(ids[0]!, 2), size: big.length },
    ]);
    expect(Math.abs(listed[0]!.modifiedAt - Date.now())).toBeLessThan(60_000);
    expect((await store.list('')).length).toBe(3);
    await store.delete(partKey(ids[0]!, 1));
    await store.delete(partKey(ids[0]!, 1));
    expect((await store.list(sessionPrefix(ids[0]!))).length).toBe(1);
    await store.close();
  });

  test('the same content again is no fault; other content never replaces it', async () => {
    using directory = new TemporaryDirectory();
    const store = await open();
    const key = partKey(newId(), 1);
    await store.put(key, file(directory, Buffer.from('one')));
    await store.put(key, file(directory, Buffer.from('one')));
    await expect(store.put(key, file(directory, Buffer.from('two')))).rejects.toMatchObject({
      code: 'exists',
    });
    expect((await store.get(key)).toString()).toBe('one');
    await store.close();
  });

  test('what is not there is said to be missing', async () => {
    const store = await open();
    await expect(store.get(partKey(newId(), 1))).rejects.toMatchObject({ code: 'not_found' });
    expect(await store.list(sessionPrefix(newId()))).toEqual([]);
    await store.close();
  });
}
