import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '../../../src/lib/id.ts';
import type { StatementFilter, StatementRow } from '../../../src/store/recording-index.ts';
import {
  type PostgresIndexOptions,
  PostgresRecordingIndex,
} from '../../../src/store/recording-index-postgres.ts';
import { SqliteRecordingIndex } from '../../../src/store/recording-index-sqlite.ts';
import { type Authority, makeAuthority } from '../../support/certificates.ts';
import { indexContract, sessionPatch, statementRow } from '../../support/index-contract.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { TemporaryDirectory } from '../../support/recording.ts';

/** The index in PostgreSQL against real servers, 15 and 18, over TCP as an account that owns nothing but its database. */
describe.each([15, 18] as const)('an index in PostgreSQL %i', (major) => {
  let server: PostgresServer;
  let databases = 0;

  beforeAll(async () => {
    server = await startPostgres({ major, setup: "CREATE ROLE index_user LOGIN PASSWORD 'for-this-test'" });
  }, 60_000);
  afterAll(() => server?.stop());

  async function emptyDatabase(): Promise<string> {
    databases += 1;
    const name = `index_${databases}`;
    await server.query(`CREATE DATABASE ${name} OWNER index_user`);
    return name;
  }

  function open(
    database: string,
    migrates = true,
    password = 'for-this-test',
  ): Promise<PostgresRecordingIndex> {
    const options = {
      host: server.host,
      port: server.port,
      database,
      username: 'index_user',
      tls: { mode: 'disable' } as const,
    };
    return PostgresRecordingIndex.open(options, async () => password, migrates);
  }

  indexContract(async () => open(await emptyDatabase()));

  test('a command uses no tables of another version, and a gateway none of a later', async () => {
    const database = await emptyDatabase();
    const command = await open(database, false);
    await expect(command.sessions({ limit: 1 })).rejects.toMatchObject({ code: 'version' });
    const [one, two] = [await open(database), await open(database)];
    // Both find nothing, and one after the other they make the tables.
    expect(await Promise.all([one.sessions({ limit: 1 }), two.sessions({ limit: 1 })])).toEqual([[], []]);
    expect(await command.sessions({ limit: 1 })).toEqual([]);
    await two.close();
    await one.write({ sessions: [sessionPatch(newId())], statements: [] });
    const client = await ownClient(database);
    await client.query('UPDATE recording_index_version SET version = 99');
    await client.end();
    const later = await open(database);
    await expect(later.sessions({ limit: 1 })).rejects.toThrow(/newer version.*99/);
    for (const index of [command, one, later]) await index.close();
  });

  test('a wrong password is told as such, and never shown', async () => {
    const index = await open(await emptyDatabase(), true, 'wrong-and-secret');
    const failure = index.sessions({ limit: 1 }).catch((error: unknown) => error);
    expect(await failure).toMatchObject({
      code: 'away',
      message: expect.stringMatching(/password authentication/),
    });
    expect(String((await failure) as Error)).not.toContain('wrong-and-secret');
    await index.close();
  });

  test('several write the same texts at once, and one removes them meanwhile', async () => {
    const database = await emptyDatabase();
    const writers = await Promise.all([open(database), open(database), open(database)]);
    const remover = await open(database);
    const kept: string[] = [];
    let seed = 1;
    const random = (below: number): number => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed % below;
    };
    const rounds = async (index: PostgresRecordingIndex): Promise<void> => {
      for (let round = 0; round < 25; round += 1) {
        const id = newId();
        const statements = Array.from({ length: 20 }, (_, seq) =>
          statementRow(id, seq, { text: `SELECT shared${random(15)}`, tables: [`t${random(3)}`] }),
        );
        await index.write({ sessions: [sessionPatch(id)], statements });
        if (round % 2 === 0) await remover.remove(id);
        else kept.push(id);
      }
    };
    await Promise.all(writers.map(rounds));
    // Every statement has its text: none was taken from under it.
    for (const id of kept)
      expect((await remover.search({ limit: 100, session: id, text: 'shared' })).length).toBe(20);
    for (const id of kept) await remover.remove(id);
    const client = await ownClient(database);
    const { rows } = await client.query('SELECT count(*)::int AS n FROM recording_texts');
    await client.end();
    expect(rows).toEqual([{ n: 0 }]);
    for (const index of [...writers, remover]) await index.close();
  }, 60_000);

  test('of two that ask, one is given a hold, and one works alone', async () => {
    const database = await emptyDatabase();
    const [one, two] = [await open(database), await open(database)];
    const id = newId();
    await one.write({ sessions: [sessionPatch(id)], statements: [] });
    await one.hold(id, true, 'ana');
    const given: string[] = [];
    await Promise.all(
      [one, two].map((index) =>
        index.recordHolds((changes) => void given.push(...changes.map(({ by }) => by))),
      ),
    );
    expect(given).toEqual(['ana']);
    const inner = await one.alone(async () => two.alone(async () => 'both'));
    expect(inner).toBeNull();
    expect(await two.alone(async () => 'two')).toBe('two');
    await one.close();
    await two.close();
  });

  async function ownClient(database: string) {
    const { default: pg } = await import('pg');
    const client = new pg.Client({
      host: server.socketDirectory,
      port: server.port,
      user: 'postgres',
      database,
    });
    await client.connect();
    return client;
  }

  test('finds what an index in SQLite finds', async () => {
    const database = await emptyDatabase();
    const postgres = await open(database);
    const word = fc.constantFrom(
      'select',
      'orders',
      'Żółć',
      'naïve',
      'straße',
      'İstanbul',
      'мир',
      'й',
      'ポート',
      '数据',
      'x1',
      '_a',
      '$1',
      "o'k",
      'a-b',
      '💡',
      'ﬁne',
      'é',
    );
    const name = fc.constantFrom(
      'orders',
      'sales.orders',
      'a.sales.orders',
      'ORDERS',
      'odd name',
      'x.',
      '%',
      '',
    );
    const row = fc.record({
      words: fc.array(word, { maxLength: 6 }),
      at: fc.integer({ min: 0, max: 5 }),
      tables: fc.array(name, { maxLength: 3 }),
      effects: fc.subarray(['read', 'write', 'definition']),
      risk: fc.option(fc.integer({ min: 0, max: 4 })),
      rows: fc.option(fc.integer({ min: 0, max: 3 })),
      status: fc.constantFrom('ok', 'error', 'unknown'),
      session: fc.integer({ min: 0, max: 2 }),
    });
    const optional = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined, freq: 2 });
    const query = fc.record({
      text: optional(
        fc.oneof(
          word,
          fc.string({ unit: 'binary', maxLength: 3 }),
          fc.tuple(word, word).map((pair) => pair.join(' ')),
        ),
      ),
      table: optional(fc.oneof(name, fc.constantFrom('sales', 's.orders', 'rders'))),
      effect: optional(fc.constantFrom('read', 'write', 'wri')),
      riskMin: optional(fc.integer({ min: 0, max: 4 })),
      rowsMin: optional(fc.constantFrom(0, 1, 2.5)),
      durationMsMin: optional(fc.constantFrom(0, 0.0005, 1)),
      status: optional(fc.constantFrom('ok', 'error')),
      since: optional(fc.integer({ min: 0, max: 5 })),
      until: optional(fc.integer({ min: 0, max: 5 })),
      principal: optional(fc.constantFrom('ana', 'ben')),
      limit: fc.constantFrom(3, 100),
      offset: optional(fc.constantFrom(0, 2)),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(row, { minLength: 1, maxLength: 12 }),
        fc.array(query, { minLength: 5, maxLength: 15 }),
        async (made, queries) => {
          const sqlite = new SqliteRecordingIndex(':memory:');
          const ids = [newId(), newId(), newId()];
          const statements: StatementRow[] = made.map((one, seq) =>
            statementRow(ids[one.session]!, seq, {
              at: one.at,
              text: one.words.join(' '),
              tables: one.tables,
              effects: one.effects,
              risk: one.risk,
              rows_returned: one.rows,
              duration_us: one.rows,
              status: one.status,
            }),
          );
          const sessions = ids.map((id, place) =>
            sessionPatch(id, { principal: place === 0 ? 'ana' : 'ben' }),
          );
          try {
            for (const index of [sqlite, postgres]) await index.write({ sessions, statements });
            for (const wanted of queries) {
              const filter = Object.fromEntries(
                Object.entries(wanted).filter(
                  ([, value]) => value !== undefined && !String(value).includes('\0'),
                ),
              ) as unknown as StatementFilter;
              expect(await postgres.search(filter), JSON.stringify(filter)).toEqual(
                await sqlite.search(filter),
              );
            }
          } finally {
            for (const id of ids) await postgres.remove(id);
            await sqlite.close();
          }
        },
      ),
      { numRuns: 40 },
    );
    await postgres.close();
  }, 60_000);
});

describe('an index in PostgreSQL over TLS', () => {
  let authority: Authority;
  let other: Authority;
  let server: PostgresServer;
  const folder = new TemporaryDirectory();
  const file = (name: string): string => join(folder.path, name);

  beforeAll(async () => {
    [authority, other] = await Promise.all([makeAuthority('Index'), makeAuthority('Other')]);
    server = await startPostgres({
      tls: await authority.issue({ commonName: 'localhost', hosts: ['localhost'] }),
      tlsRequired: true,
      setup: "CREATE ROLE index_user LOGIN PASSWORD 'for-this-test'",
    });
    await server.query('CREATE DATABASE kept OWNER index_user');
    writeFileSync(file('ca.pem'), authority.cert);
    writeFileSync(file('other.pem'), other.cert);
  }, 60_000);
  afterAll(async () => {
    await server?.stop();
    folder[Symbol.dispose]();
  });

  function open(host: string, tls: PostgresIndexOptions['tls']): Promise<PostgresRecordingIndex> {
    const options = { host, port: server.port, database: 'kept', username: 'index_user', tls };
    return PostgresRecordingIndex.open(options, async () => 'for-this-test', true);
  }

  test('is written and read where the certificate is of the right authority and name', async () => {
    const index = await open('localhost', { mode: 'verify-full', ca: file('ca.pem') });
    const id = newId();
    await index.write({ sessions: [sessionPatch(id)], statements: [] });
    expect(await index.session(id)).toMatchObject({ id });
    await index.close();
  });

  test('another name passes where only the authority is asked for, or the name is given', async () => {
    for (const tls of [
      { mode: 'verify-ca', ca: file('ca.pem') },
      { mode: 'verify-full', ca: file('ca.pem'), server_name: 'localhost' },
      { mode: 'require' },
    ] as const) {
      const index = await open('127.0.0.1', tls);
      expect(await index.sessions({ limit: 1 })).toBeInstanceOf(Array);
      await index.close();
    }
  });

  test('is not trusted with a wrong name, a wrong authority, or without TLS', async () => {
    for (const [host, tls, message] of [
      ['127.0.0.1', { mode: 'verify-full', ca: file('ca.pem') }, /does not match|IP: 127\.0\.0\.1/],
      ['localhost', { mode: 'verify-full', ca: file('other.pem') }, /certificate/],
      ['localhost', { mode: 'verify-full' }, /certificate/],
      ['localhost', { mode: 'disable' }, /no encryption/],
    ] as const) {
      const index = await open(host, tls);
      await expect(index.sessions({ limit: 1 })).rejects.toMatchObject({
        code: 'away',
        message: expect.stringMatching(message),
      });
      await index.close();
    }
  });
});
