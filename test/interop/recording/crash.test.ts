import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { knownSigningKeys, loadRecordingKeys } from '../../../src/recording/keys.ts';
import { Library } from '../../../src/recording/library.ts';
import { listSegments } from '../../../src/recording/reader.ts';
import { spoolFiles } from '../../../src/recording/sealer.ts';
import { DirectoryStore } from '../../../src/recording/store/directory.ts';
import { verifyEntries, verifySession } from '../../../src/recording/verify.ts';
import { SqliteRecordingIndex } from '../../../src/store/recording-index-sqlite.ts';
import { TemporaryDirectory } from '../../support/recording.ts';

const KILLS = 10;

function start(root: string, lines: string[]): ChildProcess {
  const child = spawn(process.execPath, ['test/support/recording-writer.ts', root], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  createInterface({ input: child.stdout! }).on('line', (line) => lines.push(line));
  return child;
}

test('killed again and again while it seals and stores, a gateway keeps every promise once', async () => {
  using directory = new TemporaryDirectory();
  const promised: string[] = [];
  for (let round = 0; round < KILLS; round += 1) {
    const before = promised.length;
    const child = start(directory.path, promised);
    await expect.poll(() => promised.length, { timeout: 20_000 }).toBeGreaterThan(before + 20);
    await sleep(Math.random() * 700);
    child.kill('SIGKILL');
    await once(child, 'close');
  }
  const last = start(directory.path, promised);
  const before = promised.length;
  await expect.poll(() => promised.length, { timeout: 20_000 }).toBeGreaterThan(before + 20);
  last.stdin!.end();
  await once(last, 'close');
  expect(last.exitCode).toBe(0);

  const dataDir = join(directory.path, 'data');
  const store = new DirectoryStore(join(directory.path, 'store'));
  const { identities } = await loadRecordingKeys(dataDir, []);
  expect(listSegments(join(dataDir, 'journal'))).toEqual([]);
  expect(spoolFiles(join(dataDir, 'spool'))).toEqual([]);
  expect(readdirSync(join(dataDir, 'spool')).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  expect(existsSync(join(dataDir, 'journal', 'damaged'))).toBe(false);
  const library = new Library({ store, dataDir, identities });
  const all = await library.allParts();
  const seen = new Map<string, number>();
  let interrupted = 0;
  for (const [session, parts] of all) {
    const result = await verifySession(
      library,
      session,
      parts,
      knownSigningKeys(dataDir),
      await library.openSessions(),
    );
    expect(result.findings, session).toEqual([]);
    for await (const event of library.events(session)) {
      if (event.type === 'statement_started') {
        const line = `written ${event.session} ${event.seq}`;
        seen.set(line, (seen.get(line) ?? 0) + 1);
      }
      if (event.type === 'session_ended' && event.reason === 'interrupted') interrupted += 1;
    }
  }
  expect(promised.filter((line) => seen.get(line) !== 1)).toEqual([]);
  expect([...seen.values()].every((times) => times === 1)).toBe(true);
  expect(interrupted).toBeGreaterThan(KILLS);
  expect((await verifyEntries(library, all)).findings).toEqual([]);
  const index = new SqliteRecordingIndex(join(dataDir, 'recordings.sqlite'), { readOnly: true });
  expect(await index.sessions({ limit: 10_000, state: 'live' })).toEqual([]);
  let indexed = 0;
  for (const session of all.keys()) indexed += (await index.search({ limit: 10_000, session })).length;
  expect(indexed).toBe(seen.size);
  await index.close();
}, 180_000);
