import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { newId } from '../../../src/lib/id.ts';
import { openJournal } from '../../../src/recording/journal.ts';
import { loadRecordingKeys } from '../../../src/recording/keys.ts';
import { pcapng } from '../../../src/recording/pcapng.ts';
import { collected, journalEvents, sessionStart, TemporaryDirectory } from '../../support/recording.ts';

test('raw frames are a capture that tcpdump reads, checksums and streams included', async () => {
  using directory = new TemporaryDirectory();
  const keys = await loadRecordingKeys(directory.path, []);
  const journal = await openJournal({
    dataDir: directory.path,
    gateway: 'gw',
    keys,
    durability: 'flushed',
    onFailure: 'refuse',
    rawFrames: (resource) => resource === 'orders',
  });
  expect(journal.session(sessionStart(newId(), 'ana', { resource: 'other' })).frame).toBeUndefined();
  const record = journal.session(sessionStart(newId()));
  const query = Buffer.from('Q\0\0\0\x0dSELECT 7\0', 'latin1');
  const chunk = Buffer.from(query);
  record.frame!('client', chunk);
  chunk.fill(0); // The relay's buffer is used again.
  const answer = Buffer.alloc(100_001, 'row ');
  record.frame!('server', answer);
  record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
  await journal.close();
  const events = (await journalEvents(journal.directory, keys.identities)).filter(
    (event) => 'session' in event && event.session === record.id,
  );
  const path = join(directory.path, 'session.pcapng');
  writeFileSync(path, Buffer.concat(await collected(pcapng(events))));
  const dump = execFileSync('tcpdump', ['-nn', '-vv', '-S', '-r', path], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const packets = dump.split('\n').filter((line) => /Flags \[/.test(line));
  expect(packets.length).toBe(9);
  expect(dump).not.toMatch(/incorrect|bad/);
  expect(packets[0]).toMatch(/127\.0\.0\.1\.50000 > 10\.0\.0\.2\.5432: Flags \[S\]/);
  expect(packets[3]).toMatch(/Flags \[P\.\].* seq 1:15, ack 1.* length 14/);
  expect(packets[4]).toMatch(/seq 1:65496, ack 15.* length 65495/);
  expect(packets[5]).toMatch(/seq 65496:100002.* length 34506/);
  expect(packets[6]).toMatch(/Flags \[F\.\]/);
  const hex = execFileSync('tcpdump', ['-nn', '-A', '-r', path, 'src', 'port', '50000'], {
    encoding: 'latin1',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  expect(hex).toContain('SELECT 7');
  const without = events.filter(({ type }) => type !== 'frame');
  await expect(collected(pcapng(without))).rejects.toThrow(/raw_frames/);
});
