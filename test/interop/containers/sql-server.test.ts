import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type EngineDouble, startEngineDouble } from '../../support/docker-engine.ts';
import { mssqlSignIn } from '../../support/mssql.ts';
import { chooseSqlServer, SQL_SERVER_IMAGE } from '../../support/sql-server-choice.ts';
import { SqlServerRun } from '../../support/sql-server-run.ts';
import { startTdsDouble } from '../../support/tds-double/double.ts';

/** Which SQL Server the other tests run on. Where no container engine is, a double of one shows what would come of it. */

describe('the choice', () => {
  const url = 'SALLYPORT_TEST_MSSQL_URL';

  test.each([
    ['a URL', { [url]: 'mssql://sa:p@db:1433/tempdb' }, true, { from: 'url' }],
    ['an image by name', { [url]: 'docker:some/image' }, false, { image: 'some/image', required: true }],
    ['none, although an engine answers', { [url]: 'none' }, true, { from: 'double' }],
    ['nothing, with an engine', {}, true, { image: SQL_SERVER_IMAGE, required: false }],
    ['nothing, with an engine, in CI', { CI: 'true' }, true, { image: SQL_SERVER_IMAGE, required: true }],
    ['nothing, without an engine', {}, false, { from: 'double' }],
    ['nothing, without an engine, in CI', { CI: 'true' }, false, { from: 'double' }],
    ['that there must be containers', { SALLYPORT_TEST_CONTAINERS: '1' }, false, { required: true }],
  ])('by %s', (_what, environment, engine, expected) => {
    expect(chooseSqlServer(environment, engine)).toMatchObject(expected);
  });

  test('says whose licence is accepted, and how to leave it out', () => {
    expect(chooseSqlServer({}, true)).toMatchObject({
      line: expect.stringMatching(/licence.*SALLYPORT_TEST_MSSQL_URL=none/),
    });
  });

  test('of something else fails without repeating it: there may be a password in it', () => {
    expect(() => chooseSqlServer({ [url]: 'sa:canary@db' }, true)).not.toThrow(/canary/);
    expect(() => chooseSqlServer({ [url]: 'canary and more' }, true)).toThrow(/neither mssql:/);
  });
});

describe('a run', () => {
  const options = { hostPort: 1, unreachable: true, log: 'Recovery is complete.' };
  const said: string[] = [];
  let engine: EngineDouble;

  beforeAll(async () => {
    engine = await startEngineDouble(options);
    vi.stubEnv('DOCKER_HOST', engine.host);
    vi.stubEnv('TESTCONTAINERS_RYUK_DISABLED', 'true');
  });

  afterAll(async () => {
    vi.unstubAllEnvs();
    await engine?.close();
  });

  function run(environment: Readonly<Record<string, string>> = {}): SqlServerRun {
    said.length = 0;
    return new SqlServerRun(environment, (line) => said.push(line));
  }

  test('with `none` asks no engine', async () => {
    const started = run({ SALLYPORT_TEST_MSSQL_URL: 'none' });
    expect(await started.offer()).toBeNull();
    expect([engine.pulls, engine.created]).toEqual([[], []]);
    expect(said).toEqual([expect.stringContaining('test double alone')]);
    await started.stop();
  });

  test('brings a server that is elsewhere to 127.0.0.1', async () => {
    const far = await startTdsDouble({ encryption: 'off', logins: { 'a b': 'p/w' }, databases: ['shop'] });
    const started = run({ SALLYPORT_TEST_MSSQL_URL: `mssql://a%20b:p%2Fw@localhost:${far.port}/shop` });
    const { host, port, username, password, database } = (await started.offer())!;
    expect([host, port === far.port, said]).toEqual(['127.0.0.1', false, []]);
    expect(await mssqlSignIn({ port, user: username, password, database })).toEqual({ ok: true, text: '42' });
    await started.stop();
    await far.close();
  });

  test('whose image cannot be had says so once and goes on with the double', async () => {
    const started = run();
    expect(await started.offer()).toBeNull();
    expect(await started.offer()).toBeNull();
    expect(engine.pulls).toEqual([SQL_SERVER_IMAGE]);
    expect(said).toEqual([
      expect.stringContaining('licence'),
      expect.stringMatching(/could not be started.*no such host.*go on with the test double/s),
    ]);
    await started.stop();
  });

  test('whose image cannot be had fails in CI', async () => {
    const started = run({ CI: 'true' });
    await expect(started.offer()).rejects.toThrow(/no such host.*SALLYPORT_TEST_MSSQL_URL=none/s);
    await started.stop();
  });

  test('starts one container for all who ask, and removes it', async () => {
    const accounts: Record<string, string> = {};
    const inside = await startTdsDouble({ encryption: 'off', logins: accounts, databases: ['tempdb'] });
    Object.assign(options, { hostPort: inside.port, unreachable: false });
    const started = run();
    const [offer, again] = await Promise.all([started.offer(), started.offer()]);
    expect(again).toEqual(offer);
    expect(engine.created).toHaveLength(1);
    const { Image, Env } = engine.created[0]!;
    expect(Image).toBe(SQL_SERVER_IMAGE);
    expect(Env).toEqual(
      expect.arrayContaining([
        'ACCEPT_EULA=Y',
        'MSSQL_PID=Developer',
        `MSSQL_SA_PASSWORD=${offer!.password}`,
      ]),
    );
    expect(said).toEqual([expect.stringContaining('licence')]);
    accounts['sa'] = offer!.password;
    const { port, username, password, database } = offer!;
    expect(await mssqlSignIn({ port, user: username, password, database })).toEqual({ ok: true, text: '42' });
    await started.stop();
    expect(engine.removed).toEqual(['container-1']);
    await inside.close();
  });
});
