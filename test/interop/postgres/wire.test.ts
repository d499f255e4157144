import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { PostgresSettings } from '../../../protocols/engine.ts';
import { Refusal } from '../../../protocols/error.ts';
import { postgres } from '../../../protocols/postgres/engine.ts';
import { standsStill, startTestGateway, type TestGateway } from '../../support/gateway.ts';
import type { RecordedStatement } from '../../support/memory-recorder.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import {
  bind,
  describe as describeMessage,
  execute,
  int4,
  message,
  parse,
  query,
  sync,
  value,
} from '../../support/postgres-observer.ts';
import { fields, letters, WireClient } from '../../support/postgres-wire.ts';

/**
 * Message by message: what a client hears through the gateway is, byte for byte, what it hears directly, in all the
 * orders that the protocol allows; and a refused statement takes the place of one that the server fails.
 */

const SETTINGS: PostgresSettings = {
  engine: 'postgres',
  channelBinding: 'prefer',
  allowReplication: false,
  targetSessionAttrs: 'any',
  directTls: false,
  protocolVersion: '3.0',
  scramIterationsMax: 1_000_000,
};

const SETUP = `
  CREATE TABLE ct (a int);
  CREATE TABLE ctt (a int);
  CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
  CREATE TRIGGER fails BEFORE INSERT ON ctt FOR EACH STATEMENT EXECUTE FUNCTION fail();
  CREATE TABLE deferred (a int UNIQUE DEFERRABLE INITIALLY DEFERRED);
  GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
`;

const FLUSH = message('H');
const DONE = message('c');
const FAIL = message('f', 'no');
const data = (text: string): Buffer => message('d', Buffer.from(text));
const all = (text: string): Buffer[] => [parse('', text), bind('', ''), execute('')];
const copy = all('copy ct from stdin');

/** What is sent at once, what is awaited before the next is sent (letters), and so on. */
type Script = readonly (readonly Buffer[] | string)[];

const SCRIPTS: readonly [string, Script][] = [
  ['an error, then the next batch', [[...all('select 1/0'), sync(), ...all('select 42'), sync()], 'ZZ']],
  ['a Query that is skipped', [[parse('', 'slect'), query('select 7'), sync(), query('select 8')], 'ZZ']],
  ['a FunctionCall that is skipped', [[parse('', 'slect'), message('F', int4(1), 0, 0, 0), sync()], 'Z']],
  ['a Query without a Sync before it', [[...all('select 1'), query('select 5'), sync()], 'ZZ']],
  ['stray copy messages', [[data('x'), DONE, FAIL, query('select 1')], 'Z']],
  ['an empty text, both ways', [[query('')], 'Z', [...all(''), sync()], 'Z']],
  [
    'a portal read in parts',
    [
      [
        parse('', 'select generate_series(1,5)'),
        bind('', ''),
        execute('', 2),
        execute('', 2),
        execute(''),
        execute(''),
        sync(),
      ],
      'Z',
    ],
  ],
  [
    'a portal that ended with its transaction',
    [[parse('', 'select 1'), bind('p', ''), sync()], 'Z', [execute('p'), sync()], 'Z'],
  ],
  ['COPY in', [[query('copy ct from stdin')], 'G', [data('1\n'), DONE], 'Z']],
  [
    'COPY in with Sync and Flush within',
    [
      [query('copy ct from stdin')],
      'G',
      [sync(), FLUSH, data('1\n'), sync(), DONE],
      'Z',
      [query('select 1')],
      'Z',
    ],
  ],
  [
    'extended COPY in, its first Sync swallowed',
    [[...copy, sync()], 'G', [data('1\n'), DONE, sync()], 'Z', [query('select 1')], 'Z'],
  ],
  ['extended COPY in, all at once', [[...copy, data('1\n'), DONE, sync(), query('select 1')], 'ZZ']],
  [
    'extended COPY in that fails',
    [[...copy, sync()], 'G', [data('x\n'), DONE, sync()], 'EZ', [query('select 1')], 'Z'],
  ],
  [
    'extended COPY in of no table',
    [[...all('copy nosuch from stdin'), sync()], 'EZ', [data('1\n'), DONE, sync()], 'Z'],
  ],
  [
    'extended COPY in that a trigger fails',
    [
      [...all('copy ctt from stdin'), sync()],
      'GEZ',
      [data('1\n'), DONE, sync()],
      'Z',
      [query('select 1')],
      'Z',
    ],
  ],
  ['COPY in that the client fails', [[query('copy ct from stdin')], 'G', [FAIL], 'EZ']],
  ['a Query within COPY', [[query('copy ct from stdin')], 'G', [query('select 1')], 'EE']],
  [
    'two copies in one Query',
    [
      [query('copy ct from stdin; copy ct from stdin')],
      'G',
      [data('1\n'), DONE],
      'G',
      [data('2\n'), DONE],
      'Z',
    ],
  ],
  [
    'COPY and a select in one Query',
    [[query('copy ct from stdin; select 1')], 'G', [data('1\n'), DONE], 'Z'],
  ],
  [
    'COPY out',
    [
      [query('copy (select generate_series(1,3)) to stdout')],
      'Z',
      [...all('copy (values (1)) to stdout'), sync()],
      'Z',
    ],
  ],
  ['NOTIFY to oneself', [[query('listen x')], 'Z', [query("notify x, 'y'")], 'AZ']],
  ['several statements, the second fails', [[query('select 1; select 1/0; select 3')], 'Z']],
  [
    'PREPARE by SQL, Bind by protocol',
    [[query('prepare zz as select 11')], 'Z', [bind('', 'zz'), execute(''), sync()], 'Z'],
  ],
  [
    'a cursor by SQL, Execute by protocol',
    [[query('begin; declare cc cursor for select 1')], 'Z', [execute('cc'), sync()], 'Z'],
  ],
  ['a Sync with a body', [[message('S', 'x')], 'EZ']],
  ['three Syncs', [[sync(), sync(), sync()], 'ZZZ']],
  [
    'a name that is taken',
    [[parse('s', 'select 1'), parse('s', 'select 2'), sync(), bind('', 's'), execute(''), sync()], 'ZZ'],
  ],
  [
    'describe, close, close again',
    [
      [
        parse('s', 'select $1::int'),
        describeMessage('S', 's'),
        bind('p', 's', ['1']),
        describeMessage('P', 'p'),
        execute('p'),
        message('C', Buffer.from('P'), 'p'),
        message('C', Buffer.from('S'), 's'),
        sync(),
      ],
      'Z',
    ],
  ],
  [
    'a commit that fails at its Sync',
    [[...all('insert into deferred values (1), (1)'), sync()], 'EZ', [query('select 1')], 'Z'],
  ],
  [
    'large objects by FunctionCall',
    [
      [query('begin')],
      'Z',
      [
        message('F', int4(715), 1, 1, 1, value(int4(4711)), 1),
        message('F', int4(952), 1, 1, 2, value(int4(4711)), value(int4(0x60000)), 1),
      ],
      'VVZZ',
      [message('F', int4(955), 1, 1, 2, value(int4(0)), value('abc'), 1)],
      'VZ',
      [query('rollback')],
      'Z',
    ],
  ],
  [
    'a pipeline within a transaction that fails',
    [[query('begin'), query('select 1'), query('select 1/0'), query('select 2'), query('rollback')], 'ZZZZZ'],
  ],
];

describe.each([15, 18] as const)('PostgreSQL %s', (major) => {
  let server: PostgresServer;
  let gateway: TestGateway;
  let verdict: ((text: string | null) => boolean) | null = null;

  beforeAll(async () => {
    server = await startPostgres({ major, setup: SETUP });
    gateway = await startTestGateway({
      engine: postgres,
      settings: SETTINGS,
      servers: [server],
      username: 'trust_user',
      password: null,
      database: server.database,
      observe: { columns: false },
      decide: ({ text }) =>
        verdict?.(text) === true
          ? {
              action: 'refuse',
              refusal: new Refusal('statement_not_allowed', 'no such thing here', { hint: 'Ask.' }),
            }
          : { action: 'allow' },
    });
  });
  afterAll(async () => {
    await gateway?.close();
    await server?.stop();
  });

  const direct = (): Promise<WireClient> =>
    WireClient.connect(server.host, server.port, { user: 'trust_user', database: server.database });
  const through = (): Promise<WireClient> =>
    WireClient.connect('127.0.0.1', gateway.port, { user: 'anybody', database: server.database });

  async function play(client: WireClient, script: Script): Promise<Buffer[]> {
    for (const step of script) {
      if (typeof step === 'string') await client.until(step);
      else client.send(...step);
    }
    client.send(message('X'));
    await client.untilClosed();
    return client.messages;
  }

  function newStatements(from: number): RecordedStatement[] {
    return gateway.recorder.sessions.slice(from).flatMap((session) => session.statements);
  }

  test.each(SCRIPTS)('%s', async (name, script) => {
    const expected = normal(await play(await direct(), script));
    const from = gateway.recorder.sessions.length;
    const heard = normal(await play(await through(), script));
    expect(heard).toEqual(expected);
    const session = gateway.recorder.sessions[from]!;
    await gateway.recorder.until(() => session.end_ !== null);
    expect(session.notes.filter((note) => note.kind === 'opaque')).toEqual([]);
    const ended = session.statements;
    expect(ended.every((statement) => statement.ended)).toBe(true);
    const unknown = ended.filter((statement) => statement.status === 'unknown');
    // The server ends the session over it, and says nothing of the Query.
    expect(unknown.map(({ text }) => text)).toEqual(name === 'a Query within COPY' ? ['select 1'] : []);
    // Each error that the client heard is on record once.
    const errors = heard.filter((line) => line.startsWith('E')).length;
    expect(ended.filter((statement) => statement.error !== null).length).toBeLessThanOrEqual(errors);
  });

  describe('a refused statement', () => {
    const evil = 'select 666';
    const refused = (text: string | null): boolean => text === evil;
    const ours = { C: '42501', M: 'no such thing here', H: 'Ask.' };

    /** The answers to a script, errors as their SQLSTATE. */
    async function answers(script: Script): Promise<{ heard: string; messages: Buffer[]; record: string[] }> {
      const from = gateway.recorder.sessions.length;
      verdict = refused;
      try {
        const messages = await play(await through(), script);
        const heard = messages.map((one) => (one[0] === 0x45 ? fields(one).C : letters([one]))).join(' ');
        const session = gateway.recorder.sessions[from]!;
        await gateway.recorder.until(() => session.end_ !== null);
        const record = newStatements(from).map(({ text, status }) => `${text} ${status}`);
        return { heard, messages, record };
      } finally {
        verdict = null;
      }
    }

    const FORMS: readonly [string, readonly Buffer[]][] = [
      ['Query', [query(evil)]],
      ['Parse, Bind, Execute', [...all(evil), sync()]],
      ['a named Parse', [parse('n', evil), describeMessage('S', 'n'), sync()]],
    ];

    test.each(FORMS)('%s, idle', async (_form, sent) => {
      const { heard, messages, record } = await answers([sent, 'Z', [query('select 1')], 'Z']);
      expect(heard).toBe('42501 ZI T D C ZI');
      expect(fields(messages[0]!)).toMatchObject({ S: 'ERROR', V: 'ERROR', ...ours });
      expect(record).toEqual([`${evil} denied`, 'select 1 ok']);
    });

    test.each(FORMS)('%s, within a transaction', async (_form, sent) => {
      const { heard } = await answers([
        [query('begin')],
        'Z',
        sent,
        'Z',
        [query('select 1')],
        'Z',
        [query('rollback')],
        'Z',
        [query('select 1')],
        'Z',
      ]);
      expect(heard).toBe('C ZT 42501 ZE 25P02 ZE C ZI T D C ZI');
    });

    test.each(FORMS)('%s, within a transaction that has failed', async (_form, sent) => {
      const { heard } = await answers([
        [query('begin'), query('select 1/0')],
        'ZZ',
        sent,
        'Z',
        [query('rollback')],
        'Z',
      ]);
      expect(heard).toBe('C ZT 22012 ZE 42501 ZE C ZI');
    });

    test.each(FORMS)('%s, between others in one write', async (_form, sent) => {
      const { heard, record } = await answers([[query('select 1'), ...sent, query('select 2')], 'ZZZ']);
      expect(heard).toBe('T D C ZI 42501 ZI T D C ZI');
      expect(record.sort()).toEqual(['select 1 ok', 'select 2 ok', `${evil} denied`].sort());
    });

    test('in the middle of a pipeline: what is before it answers, what is behind it is skipped', async () => {
      const { heard, record } = await answers([
        [...all('select 1'), ...all(evil), ...all('select 2'), sync(), ...all('select 3'), sync()],
        'ZZ',
      ]);
      expect(heard).toBe('1 2 D C 42501 ZI 1 2 D C ZI');
      expect(record.sort()).toEqual(
        ['select 1 ok', `${evil} denied`, 'select 2 cancelled', 'select 3 ok'].sort(),
      );
    });

    test('behind an error, the server skips it as it would have skipped the original', async () => {
      const { heard } = await answers([
        [...all('select 1/0'), ...all(evil), sync(), query('select 1')],
        'ZZ',
      ]);
      expect(heard).toBe('1 22012 ZI T D C ZI');
    });

    test('an Execute, when the gate has changed its mind since the Parse', async () => {
      const client = await through();
      client.send(parse('s', evil), sync());
      await client.until('Z');
      verdict = refused;
      client.send(bind('', 's'), execute(''), sync());
      const heard = await client.until('Z');
      verdict = null;
      expect(letters(heard)).toBe('2 E ZI');
      expect(fields(heard[1]!)).toMatchObject(ours);
      client.destroy();
    });

    test('a FunctionCall', async () => {
      const from = gateway.recorder.sessions.length;
      const client = await through();
      const call = message('F', int4(957), 1, 1, 1, value(int4(0x60000)), 1);
      verdict = (text) => text === null;
      client.send(query('begin'), call);
      const heard = await client.until('ZZ');
      verdict = null;
      expect(letters(heard)).toBe('C ZT E ZE');
      expect(fields(heard[2]!)).toMatchObject(ours);
      expect(newStatements(from).map(({ kind, status }) => [kind, status])).toContainEqual(['rpc', 'denied']);
      client.destroy();
    });

    test('the server never saw it', async () => {
      const log = await server.log();
      expect(log).not.toMatch(/statement: select 666|execute .*: select 666.*\n.*666/);
      expect(log).toMatch(/syntax error at or near "sallyport_deny_[0-9a-f]{12}"/);
    });
  });

  test('a hundred thousand pipelined executions that nobody reads complete when they are read', async () => {
    const from = gateway.recorder.sessions.length;
    const client = await through();
    client.send(parse('s', 'select $1::int'), sync());
    await client.until('Z');
    client.socket.pause();
    const one = Buffer.concat([bind('', 's', ['1']), execute('')]);
    const chunk = Buffer.concat(Array(1000).fill(one));
    const before = process.memoryUsage().rss;
    for (let index = 0; index < 100; index += 1) client.socket.write(chunk);
    client.socket.write(sync());
    await standsStill(gateway, 'bytesSent');
    expect(process.memoryUsage().rss - before).toBeLessThan(256 * 1024 * 1024);
    client.socket.resume();
    const heard = await client.until('Z');
    expect(heard.filter((one) => one[0] === 0x43)).toHaveLength(100_000);
    const session = gateway.recorder.sessions[from]!;
    expect(session.statements.filter(({ status }) => status === 'ok')).toHaveLength(100_001);
    client.destroy();
  });

  test('a notification reaches an idle listener at once, with the notifier as the server knows it', async () => {
    const listener = await through();
    const notifier = await through();
    listener.send(query('listen news'));
    await listener.until('Z');
    notifier.send(query("notify news, 'hello'"));
    const [notification] = await listener.until('A');
    expect(notification!.readUInt32BE(5)).toBe(notifier.pid);
    listener.destroy();
    notifier.destroy();
  });

  test("every cut of the client's bytes gives the same", async () => {
    const sent = Buffer.concat([
      ...all('select 1'),
      sync(),
      query('select 2'),
      parse('s', 'select $1'),
      bind('', 's', ['x']),
      execute(''),
      sync(),
    ]);
    const whole = await through();
    whole.send(sent);
    const expected = normal(await whole.until('ZZZ'));
    whole.destroy();
    const client = await through();
    for (let cut = 1; cut < sent.length; cut += 7) {
      client.socket.write(sent.subarray(0, cut));
      await new Promise((resolve) => setImmediate(resolve));
      client.socket.write(sent.subarray(cut));
      expect(normal(await client.until('ZZZ'))).toEqual(expected);
      client.send(message('C', Buffer.from('S'), 's'), sync());
      await client.until('Z');
    }
    client.destroy();
  });
});

/** Messages as text, without what differs from session to session: process ids, and where in the source an error arose. */
function normal(messages: readonly Buffer[]): string[] {
  return messages.map((one) => {
    const type = String.fromCharCode(one[0]!);
    if (type === 'A') return `A ${one.toString('latin1', 9)}`;
    return one.toString('latin1');
  });
}
