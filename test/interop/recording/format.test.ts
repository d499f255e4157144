import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Statement } from '../../../protocols/statement.ts';
import { newId } from '../../../src/lib/id.ts';
import { openJournal } from '../../../src/recording/journal.ts';
import { LOCAL_KEY_FILE, loadRecordingKeys, loadSigningKey } from '../../../src/recording/keys.ts';
import { Sealer, spoolFiles } from '../../../src/recording/sealer.ts';
import { DirectoryStore } from '../../../src/recording/store/directory.ts';
import { sessionStart, TemporaryDirectory } from '../../support/recording.ts';

/** The commands of the documentation's worked example, and what they say of `file`. */
function byHand(file: string, identity: string, cwd: string): { status: number | null; output: string } {
  const document = readFileSync(new URL('../../../docs/recording-format.md', import.meta.url), 'utf8');
  const commands = /worked example.*?```sh\n(.*?)```/s.exec(document)![1]!;
  const { status, stdout, stderr } = spawnSync('sh', ['-c', commands], {
    cwd,
    env: { PATH: process.env['PATH'], FILE: file, IDENTITY: identity },
    encoding: 'utf8',
  });
  return { status, output: stdout + stderr };
}

test('a recording can be proven and read with openssl, age and zstd, as the documentation says', async () => {
  using directory = new TemporaryDirectory();
  const dataDir = directory.path;
  const keys = await loadRecordingKeys(dataDir, []);
  const journal = await openJournal({
    dataDir,
    gateway: 'demo',
    keys,
    durability: 'flushed',
    onFailure: 'refuse',
  });
  const record = journal.session(sessionStart(newId()));
  for (let seq = 0; seq < 300; seq += 1) {
    const statement = new Statement('query', `SELECT ${seq} -- ${'x'.repeat(2000)}`, 2012);
    record.begin(statement);
    record.end(statement);
  }
  record.close({ reason: 'client_closed', detail: null, bytesSent: 1, bytesReceived: 2 });
  await journal.close();
  const spoolDirectory = join(dataDir, 'spool');
  await new Sealer({
    journalDirectory: journal.directory,
    spoolDirectory,
    boot: journal.boot,
    bootKey: journal.bootKey,
    gateway: 'demo',
    recipients: keys.recipients,
    signing: loadSigningKey(dataDir),
    store: new DirectoryStore(join(dataDir, 'store')),
    resumed: false,
  }).finish();
  const { path } = spoolFiles(spoolDirectory).find(({ session }) => session === record.id)!;
  const identity = join(dataDir, LOCAL_KEY_FILE);
  const good = byHand(path, identity, dataDir);
  expect(good.output).toMatch(/Signature Verified Successfully\nchain proven\n\{"type":"session_started"/);
  const lines = good.output.trimEnd().split('\n').slice(2);
  expect(lines.length).toBe(602);
  expect(JSON.parse(lines[599]!)).toMatchObject({ type: 'statement_started', seq: 300 });
  expect(good.status).toBe(0);

  const bytes = readFileSync(path);
  for (const at of [20, Math.floor(bytes.length / 2), bytes.length - 200]) {
    const altered = Buffer.from(bytes);
    altered[at]! ^= 1;
    writeFileSync(join(dataDir, 'altered'), altered);
    const bad = byHand(join(dataDir, 'altered'), identity, dataDir);
    expect(bad.output.includes('Verified Successfully') && bad.output.includes('chain proven')).toBe(false);
    expect(bad.status).not.toBe(0);
  }
});
