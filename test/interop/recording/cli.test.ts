import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Statement } from '../../../protocols/statement.ts';
import { newId } from '../../../src/lib/id.ts';
import { openJournal } from '../../../src/recording/journal.ts';
import { loadRecordingKeys } from '../../../src/recording/keys.ts';
import { Pipeline } from '../../../src/recording/pipeline.ts';
import { partKey } from '../../../src/recording/store/store.ts';
import { pipelineOf, sessionStart, TemporaryDirectory } from '../../support/recording.ts';

/** The commands as a reviewer types them, on recordings of two sessions. */
let directory: TemporaryDirectory;
let dataDir: string;
let ana: string;
let ben: string;

beforeAll(async () => {
  directory = new TemporaryDirectory();
  dataDir = join(directory.path, 'data');
  mkdirSync(dataDir);
  const keys = await loadRecordingKeys(dataDir, []);
  const journal = await openJournal({
    dataDir,
    gateway: 'gw',
    keys,
    durability: 'flushed',
    onFailure: 'refuse',
  });
  const talk = (principal: string, texts: string[]): string => {
    const record = journal.session(sessionStart(newId(), principal));
    for (const text of texts) {
      const statement = new Statement('query', text, text.length);
      record.begin(statement);
      statement.status = 'ok';
      statement.rowsReturned = 2;
      record.end(statement);
    }
    record.close({ reason: 'client_closed', detail: null, bytesSent: 3, bytesReceived: 4 });
    return record.id;
  };
  ana = talk('ana', ['SELECT * FROM orders', 'SELECT \u001b[31mred']);
  ben = talk('ben', ['DELETE FROM orders WHERE id = 7']);
  await journal.close();
  const pipeline = await Pipeline.make(
    {
      ...pipelineOf(dataDir, 'gw', journal, keys),
      store: { type: 'directory', path: join(directory.path, 'store') },
      index: 'statements',
    },
    { info: () => {}, error: () => {} },
    false,
  );
  await pipeline.finish();
});

afterAll(() => directory[Symbol.dispose]());

function sallyport(...args: string[]): { status: number | null; output: string; errors: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['src/main.ts', ...args], {
    encoding: 'utf8',
  });
  return { status, output: stdout, errors: stderr };
}

const recordings = (...args: string[]) => sallyport('recordings', ...args, '--data-dir', dataDir);

describe('recordings', () => {
  test('list: a table for people, JSON Lines for programs, filters', () => {
    const { output, status } = recordings('list');
    expect(status).toBe(0);
    expect(output.split('\n')[0]).toMatch(/^SESSION +STARTED +PERSON/);
    expect(output).toContain(ana);
    const rows = recordings('list', '--json', '--person', 'ben').output.trimEnd().split('\n');
    expect(rows.map((row) => JSON.parse(row))).toMatchObject([
      { id: ben, principal: 'ben', statements: 1, state: 'ended' },
    ]);
    expect(recordings('list', '--since', '2020-01-01', '--until', '2020-01-02').output).toBe(
      'no recordings\n',
    );
    expect(recordings('list', '--since', 'yesterday').errors).toMatch(/write a time as/);
  });

  test('search: by words, table and effect', () => {
    expect(JSON.parse(recordings('search', 'delete', 'ord', '--json').output)).toMatchObject({
      session: ben,
      text: 'DELETE FROM orders WHERE id = 7',
      principal: 'ben',
    });
    expect(recordings('search', '--table', 'orders').output.trimEnd().split('\n').length).toBe(3);
    expect(recordings('search', '--effect', 'write').output).toContain(ben);
    expect(recordings('search', 'nothing of the kind').output).toBe('nothing found\n');
  });

  test('replay and show: by id, by its beginning, the last; terminal codes are made visible', () => {
    const { output } = recordings('replay', ana);
    expect(output).toMatch(/ana on orders/);
    expect(output).toMatch(/#1 SELECT \* FROM orders\n +→ ok, 2 rows returned/);
    expect(output).toContain('SELECT ␛[31mred');
    expect(output).not.toContain('\u001b');
    expect(recordings('replay', '--last').output).toContain('DELETE FROM orders');
    expect(recordings('show', ana.toLowerCase()).output).toContain('SELECT * FROM orders');
    expect(recordings('replay', 'NOSUCH').errors).toMatch(/there is no session NOSUCH/);
    expect(recordings('replay').errors).toMatch(/give --last/);
  });

  test('export to a file', () => {
    const path = join(directory.path, 'out.csv');
    expect(recordings('export', ben, '--format', 'csv', '-o', path).status).toBe(0);
    expect(readFileSync(path, 'utf8').split('\r\n').length).toBe(3);
    expect(recordings('export', ben, '--format', 'pdf').errors).toMatch(/jsonl, csv, asciicast/);
  });

  test('a store alone, with and without a key', () => {
    const store = join(directory.path, 'store');
    const key = join(dataDir, 'recording.key');
    const withKey = sallyport('recordings', 'list', '--store', store, '--identity', key);
    expect(withKey.output).toContain(ben);
    expect(sallyport('recordings', 'replay', ana, '--store', store).errors).toMatch(/no identity at hand/);
    expect(sallyport('recordings', 'verify', ana, '--store', store).output).toMatch(
      /proven .*not known here/,
    );
  });

  test('search without an index of statements reads the recordings themselves', () => {
    const store = join(directory.path, 'store');
    const key = join(dataDir, 'recording.key');
    const found = sallyport('recordings', 'search', 'delete', '--store', store, '-i', key, '--json').output;
    expect(JSON.parse(found)).toMatchObject({ session: ben, principal: 'ben' });
  });

  test('verify: status 5 and the bad bytes when something was altered, once --all sees what is gone', () => {
    const all = recordings('verify', '--all');
    expect(all.output).toMatch(/3 recordings, .*: all proven/);
    expect(all.status).toBe(0);
    const path = join(directory.path, 'store', partKey(ana, 1));
    const bytes = readFileSync(path);
    const altered = Buffer.from(bytes);
    altered[bytes.length >> 1]! ^= 1;
    writeFileSync(path, altered);
    const bad = recordings('verify', ana);
    expect(bad.status).toBe(5);
    expect(bad.output).toMatch(/NOT PROVEN.*bytes \d+ to \d+/s);
    const shown = recordings('replay', ana);
    expect(shown.errors).toMatch(/bytes \d+ to \d+/);
    writeFileSync(path, bytes);
  });

  test('hold, sizes, rotate-key', () => {
    expect(recordings('hold', ana).output).toMatch(/is held/);
    expect(JSON.parse(recordings('list', '--person', 'ana', '--json').output)).toMatchObject({
      legal_hold: true,
    });
    expect(recordings('hold', ana, '--release').output).toMatch(/no longer held/);
    expect(JSON.parse(recordings('sizes', '--json').output)).toMatchObject({
      resource: 'orders',
      sessions: 2,
    });
    expect(recordings('rotate-key').output).toMatch(/signed by [0-9a-f]{16}/);
    expect(recordings('verify', '--all').status).toBe(0);
  });

  test('what reads half of it and goes ends it without a word', () => {
    const { stderr } = spawnSync(
      'sh',
      [
        '-c',
        `"$0" src/main.ts recordings export "$1" --data-dir "$2" | head -c 1`,
        process.execPath,
        ana,
        dataDir,
      ],
      { encoding: 'utf8' },
    );
    expect(stderr).toBe('');
  });
});
