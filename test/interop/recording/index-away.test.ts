import { execFile } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, connect as dial, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Statement } from '../../../protocols/statement.ts';
import { parseConfig } from '../../../src/config/load.ts';
import { newId } from '../../../src/lib/id.ts';
import { makeLog } from '../../../src/log.ts';
import { Metrics } from '../../../src/metrics.ts';
import type { IndexStoreOptions } from '../../../src/recording/index-store.ts';
import { type Journal, openJournal } from '../../../src/recording/journal.ts';
import { loadRecordingKeys, type RecordingKeys } from '../../../src/recording/keys.ts';
import { StatementMasker } from '../../../src/recording/masking.ts';
import { Pipeline } from '../../../src/recording/pipeline.ts';
import { Recording } from '../../../src/recording/setup.ts';
import { PostgresRecordingIndex } from '../../../src/store/recording-index-postgres.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { pipelineOf, sessionStart, TemporaryDirectory } from '../../support/recording.ts';

const PASSWORD = 'for-this-test';

/** A way to the server that can be cut, as a network is. */
class Way {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  port = 0;
  open = true;

  constructor(target: () => number) {
    this.#server = createServer((socket) => {
      if (!this.open) {
        socket.destroy();
        return;
      }
      const other = dial(target(), '127.0.0.1');
      for (const [from, to] of [
        [socket, other],
        [other, socket],
      ] as const) {
        this.#sockets.add(from);
        from.on('error', () => to.destroy());
        from.on('close', () => {
          this.#sockets.delete(from);
          to.destroy();
        });
        from.pipe(to);
      }
    });
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    this.port = (this.#server.address() as { port: number }).port;
  }

  cut(): void {
    this.open = false;
    for (const socket of this.#sockets) socket.destroy();
  }

  close(): void {
    this.cut();
    this.#server.close();
  }
}

describe('gateways with one index in PostgreSQL', () => {
  let server: PostgresServer;
  let way: Way;
  let databases = 0;

  beforeAll(async () => {
    server = await startPostgres({ setup: `CREATE ROLE index_user LOGIN PASSWORD '${PASSWORD}'` });
    way = new Way(() => server.port);
    await way.listen();
  }, 60_000);
  afterAll(async () => {
    way?.close();
    await server?.stop();
  });

  async function store(): Promise<Extract<IndexStoreOptions, { type: 'postgres' }>> {
    databases += 1;
    await server.query(`CREATE DATABASE away_${databases} OWNER index_user`);
    return {
      type: 'postgres',
      host: '127.0.0.1',
      port: way.port,
      database: `away_${databases}`,
      username: 'index_user',
      password: 'test:index',
      tls: { mode: 'disable' },
    };
  }

  async function gateway(root: string, name: string, indexStore: IndexStoreOptions) {
    const dataDir = join(root, name);
    mkdirSync(dataDir);
    const keys: RecordingKeys = await loadRecordingKeys(dataDir, []);
    const journal: Journal = await openJournal({
      dataDir,
      gateway: name,
      keys,
      durability: 'flushed',
      onFailure: 'refuse',
      metrics: new Metrics(),
      masker: new StatementMasker(new Map()),
    });
    const pipeline = await Pipeline.make(
      {
        ...pipelineOf(dataDir, name, journal, keys),
        store: { type: 'directory', path: join(root, 'store') },
        index: 'statements',
        indexStore,
      },
      { info: () => {}, error: () => {} },
      false,
      () => {},
      { secret: async (reference) => (reference === 'test:index' ? PASSWORD : 'nothing') },
    );
    const talk = (texts: readonly string[], ends = true): string => {
      const record = journal.session(sessionStart(newId(), 'ana', { gateway: name }));
      for (const text of texts) {
        const statement = new Statement('query', text, text.length);
        record.begin(statement);
        statement.status = 'ok';
        record.end(statement);
      }
      if (ends) record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
      journal.flush();
      return record.id;
    };
    return { journal, pipeline, talk };
  }

  function reader(
    options: Extract<IndexStoreOptions, { type: 'postgres' }>,
  ): Promise<PostgresRecordingIndex> {
    return PostgresRecordingIndex.open({ ...options, port: server.port }, async () => PASSWORD, false);
  }

  test('two write at once, and one search finds what both recorded', async () => {
    using directory = new TemporaryDirectory();
    const options = await store();
    const gateways = [
      await gateway(directory.path, 'gw-1', options),
      await gateway(directory.path, 'gw-2', options),
    ];
    const sessions: string[] = [];
    for (let round = 0; round < 10; round += 1) {
      for (const { talk } of gateways) sessions.push(talk(['SELECT shared', `SELECT round${round}`]));
      await Promise.all(gateways.map(({ pipeline }) => pipeline.run()));
    }
    for (const { journal, pipeline } of gateways) {
      await journal.close();
      await pipeline.finish();
    }
    const index = await reader(options);
    expect((await index.search({ limit: 100, text: 'shared' })).length).toBe(20);
    expect((await index.search({ limit: 100, text: 'round3' })).length).toBe(2);
    const listed = await index.sessions({ limit: 100, state: 'ended' });
    expect(listed.map(({ id }) => id).sort()).toEqual(sessions.sort());
    expect(new Set(listed.map((row) => row.gateway))).toEqual(new Set(['gw-1', 'gw-2']));
    await index.close();
  }, 60_000);

  test('recordings do not wait for an index that is away, and it is whole when it is back', async () => {
    using directory = new TemporaryDirectory();
    const options = await store();
    const { journal, pipeline, talk } = await gateway(directory.path, 'gw-1', options);
    const before = talk(['SELECT before']);
    await pipeline.run();
    way.cut();
    const meanwhile = talk(['SELECT meanwhile']);
    await pipeline.run();
    expect(pipeline.status).toMatchObject({ error: null, spoolFiles: 0, index: { behind: 1 } });
    expect(pipeline.status.index!.error).toMatch(/index of recordings in PostgreSQL/);
    expect(pipeline.status.partsStored).toBeGreaterThanOrEqual(2);
    // Too much to keep: what is dropped is read from the recordings later.
    const many = talk(Array.from({ length: 60_000 }, (_, place) => `SELECT many${place % 100}`));
    await expect
      .poll(() => pipeline.run().then(() => pipeline.status.index!.behind), { timeout: 30_000 })
      .toBe(2);
    way.open = true;
    await expect
      .poll(() => pipeline.run().then(() => pipeline.status.index), { timeout: 60_000, interval: 200 })
      .toMatchObject({ error: null, behind: 0 });
    await journal.close();
    await pipeline.finish();
    const index = await reader(options);
    for (const [session, statements] of [
      [before, 1],
      [meanwhile, 1],
      [many, 60_000],
    ] as const) {
      expect(await index.session(session)).toMatchObject({ state: 'ended', statements });
      expect((await index.search({ limit: 10_000, session })).length).toBe(Math.min(statements, 10_000));
    }
    expect((await index.search({ limit: 10_000, text: 'many7', session: many })).length).toBe(6_600);
    await index.close();
  }, 120_000);

  test('commands find it by the configuration, and nothing on disk has the password', async () => {
    using directory = new TemporaryDirectory();
    const options = await store();
    const root = directory.path;
    const text = `
gateway: { name: gw-1, data_dir: ${JSON.stringify(join(root, 'data'))} }
secrets: { env: { type: env } }
recording:
  store: { type: directory, path: ${JSON.stringify(join(root, 'store'))} }
  index:
    store: { type: postgres, host: 127.0.0.1, port: ${server.port}, database: ${options.database}, username: index_user, password: "env:INDEX_PASSWORD", tls: { mode: disable } }
resources: { orders: { type: postgres, host: localhost, launch_credentials: { username: app } } }
`;
    const file = join(root, 'config.yaml');
    writeFileSync(file, text);
    const { config } = parseConfig(text, file, { files: false });
    const asked: string[] = [];
    const recording = await Recording.start(
      config,
      new Metrics(),
      makeLog('json', 'silent'),
      async (reference) => {
        asked.push(reference);
        return PASSWORD;
      },
    );
    const record = recording.journal.session(sessionStart(newId()));
    record.begin(new Statement('query', 'SELECT findable', 15));
    record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
    await recording.close(10_000);
    expect(new Set(asked)).toEqual(new Set(['env:INDEX_PASSWORD']));

    const sallyport = fileURLToPath(new URL('../../../bin/sallyport.js', import.meta.url));
    const run = async (args: readonly string[]): Promise<string> => {
      const env = { ...process.env, INDEX_PASSWORD: PASSWORD };
      const call = promisify(execFile)(process.execPath, [sallyport, 'recordings', ...args], { env });
      return (await call.catch((error: { stderr: string }) => ({ stdout: error.stderr }))).stdout;
    };
    const found = JSON.parse(await run(['search', 'findab', '--json', '-c', file])) as object;
    expect(found).toMatchObject({ session: record.id, text: 'SELECT findable', principal: 'ana' });
    expect(await run(['list', '--data-dir', join(root, 'data')])).toMatch(/--config FILE/);
    expect(await run(['hold', record.id, '-c', file])).toContain('is held');
    const index = await reader(options);
    expect(await index.session(record.id)).toMatchObject({ held: 1 });
    await index.remove(record.id);
    expect(await run(['reindex', '--all', '-c', file])).toMatch(/sessions were indexed again/);
    expect((await index.search({ limit: 10, text: 'findable' })).length).toBe(1);
    await index.close();
    for (const entry of readdirSync(root, { recursive: true, withFileTypes: true }))
      if (entry.isFile())
        expect(readFileSync(join(entry.parentPath, entry.name)).includes(PASSWORD), entry.name).toBe(false);
  }, 60_000);
});
