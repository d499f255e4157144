import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { follow, passes } from '../../test/support/mysql-follow.ts';
import {
  column,
  command,
  error,
  FLAG,
  lenenc,
  ok,
  packets,
  play,
  query,
  resultset,
  Session,
  type Step,
  textRow,
  u16,
  u32,
} from '../../test/support/mysql-scripts.ts';
import { Refusal } from '../error.ts';
import type { Statement } from '../statement.ts';

const IN_TRANSACTION = 0x03;

describe('the gate', () => {
  const refuseDrops = (statement: Statement) =>
    statement.text?.startsWith('drop')
      ? ({ action: 'refuse', refusal: new Refusal('statement_not_allowed', 'not here') } as const)
      : ({ action: 'allow' } as const);
  const refused = (sequence: number) => packets(sequence, error(1227, '42000', 'not here'));

  test('a refusal is the reply, and nothing of the statement passes', () => {
    const { seen, sent, received } = follow({ decide: refuseDrops, steps: [{ C: query('drop table t') }] });
    expect(sent.length).toBe(0);
    expect(received).toEqual(refused(1));
    expect(seen).toMatchObject([{ status: 'denied', text: 'drop table t', error: '1227/42000' }]);
  });

  test('a refusal behind pipelined commands waits for its turn', () => {
    const first = packets(1, ...resultset(false, ['a'], [['1']]));
    const third = packets(1, ok(3));
    const { seen, sent, received, session } = follow({
      decide: refuseDrops,
      steps: [
        {
          C: Buffer.concat([
            query('select 1'),
            query('drop table t'),
            query('update t set a=1'),
            query('drop x'),
            query('drop y'),
          ]),
        },
        { S: Buffer.concat([first, third]) },
      ],
    });
    expect(sent).toEqual(Buffer.concat([query('select 1'), query('update t set a=1')]));
    expect(received).toEqual(Buffer.concat([first, refused(1), third, refused(1), refused(1)]));
    expect(seen.filter(({ status }) => status === 'denied')).toHaveLength(3);
    expect(seen.filter(({ status }) => status === 'ok')).toMatchObject([{ rows: 1 }, { affected: 3 }]);
    expect(session.observer.busy).toBe(false);
  });

  test('a held statement holds what comes behind it', () => {
    const script: Step[] = [{ C: Buffer.concat([query('select 1'), query('drop t'), query('select 2')]) }];
    for (const verdict of ['allow', 'refuse'] as const) {
      for (const size of [0, 1, 5]) {
        const session = new Session();
        session.decide_ = (statement) =>
          statement.text === 'drop t' ? { action: 'hold' } : { action: 'allow' };
        const bytes = (script[0] as { C: Buffer }).C;
        for (let at = 0; at < bytes.length; at += size || bytes.length) {
          session.observer.client(bytes.subarray(at, at + (size || bytes.length)));
        }
        expect(session.sent()).toEqual(query('select 1'));
        expect(session.observer.saturated).toBe(true);
        expect(session.observer.busy).toBe(true);
        session.observer.server(packets(1, ok()));
        session.observer.release(
          verdict === 'allow'
            ? { action: 'allow' }
            : { action: 'refuse', refusal: new Refusal('statement_not_allowed', 'not here') },
        );
        expect(session.observer.saturated).toBe(false);
        const expected = verdict === 'allow' ? [query('drop t'), query('select 2')] : [query('select 2')];
        expect(session.sent()).toEqual(Buffer.concat(expected));
        if (verdict === 'refuse')
          expect(session.received()).toEqual(Buffer.concat([packets(1, ok()), refused(1)]));
        session.observer.server(
          verdict === 'allow' ? Buffer.concat([packets(1, ok()), packets(1, ok())]) : packets(1, ok()),
        );
        expect(session.observer.busy).toBe(false);
        expect(session.begun.map(({ text }) => text)).toEqual(['select 1', 'drop t', 'select 2']);
      }
    }
  });

  test('the gate can tell that a text goes on beyond what it sees', () => {
    const text = `/* ${'x'.repeat(1_200_000)} */ drop table t`;
    let seen: [number, number] = [0, 0];
    const { session } = play(
      {
        decide: ({ text: shown, textBytes }) => {
          seen = [shown!.length, textBytes];
          return { action: 'allow' };
        },
        steps: [{ C: query(text) }],
      },
      65_536,
    );
    expect(seen).toEqual([1024 * 1024 - 1, text.length]);
    expect(session.begun[0]!.textSha256).toBe(createHash('sha256').update(text).digest('hex'));
  });

  test('the gate sees a text that an event cuts', () => {
    const text = `/* ${'x'.repeat(100_000)} */ drop table t`;
    let seen = '';
    const { session } = play({
      decide: (statement) => {
        seen = statement.text!;
        return { action: 'allow' };
      },
      steps: [{ C: query(text) }],
    });
    expect(seen).toBe(text);
    expect(session.begun[0]!.text!.length).toBe(64 * 1024);
    expect(session.begun[0]!.textSha256).toBe(createHash('sha256').update(text).digest('hex'));
  });

  test.each([
    ['SHUTDOWN', command(0x08), 1227],
    ['BINLOG_DUMP', command(0x12, u32(4), u16(0), u32(2), 'binlog.1'), 1227],
    ['BINLOG_DUMP_GTID', command(0x1e, u16(0), u32(2), u32(0)), 1227],
    ['REGISTER_SLAVE', command(0x15, u32(2), lenenc('h'), lenenc('u'), lenenc('pa55word')), 1227],
    ['TABLE_DUMP', command(0x13), 1047],
    ['DAEMON', command(0x1d), 1047],
    ['CLONE', command(0x20), 1047],
    ['SLAVE_SQL', command(0xfd), 1047],
  ])('%s is refused whatever the policy', (_name, bytes, errno) => {
    const { seen, sent, received } = follow({ steps: [{ C: Buffer.concat([bytes, query('select 1')]) }] });
    expect(sent).toEqual(query('select 1'));
    expect(received[3]).toBe(1);
    expect(received.readUInt16LE(5)).toBe(errno);
    expect(seen).toMatchObject([{ status: 'denied' }]);
    expect(JSON.stringify(seen)).not.toContain('pa55word');
  });

  test('what is sent behind a request for the binary log is recorded as what it is', () => {
    const { seen } = passes({
      facts: { allowReplication: true },
      steps: [
        { C: Buffer.concat([command(0x12, u32(4), u16(0), u32(2), 'no such log'), query('drop table t')]) },
        { S: packets(1, error(1236, 'HY000')) },
        { S: packets(1, ok()) },
      ],
    });
    expect(seen).toMatchObject([{ status: 'error' }, { text: 'drop table t', status: 'ok' }]);
  });

  test('the binary log passes where replication is allowed', () => {
    const { session } = passes({
      facts: { allowReplication: true },
      steps: [
        { C: command(0x15, u32(2), lenenc('h'), lenenc('u'), lenenc('pa55word')) },
        { S: packets(1, ok()) },
        { C: command(0x12, u32(4), u16(0), u32(2), 'binlog.1') },
        {
          S: packets(
            1,
            Buffer.concat([Buffer.of(0), Buffer.alloc(30, 1)]),
            Buffer.concat([Buffer.of(0), Buffer.alloc(9, 2)]),
          ),
        },
        // A semi-synchronous replica's acknowledgement is no command.
        { C: packets(0, Buffer.concat([Buffer.of(0xef), Buffer.alloc(8, 3)])) },
        { S: packets(3, error(1236, 'HY000')) },
        { C: query('select 1') },
        { S: packets(1, ok()) },
      ],
    });
    expect(session.seen().map(({ text, status }) => [text, status])).toEqual([
      ['COM_REGISTER_SLAVE', 'ok'],
      ['COM_BINLOG_DUMP', 'error'],
      ['select 1', 'ok'],
    ]);
  });
});

describe('texts', () => {
  test('attributes stand before the text', () => {
    const { seen } = passes({
      facts: { capabilities: FLAG.queryAttributes },
      steps: [
        { C: command(3, '\0\x01', 'select 1') },
        { S: packets(1, ok()) },
        {
          C: packets(
            0,
            Buffer.concat([
              Buffer.from('030101000 1fe00016b027676'.replaceAll(' ', ''), 'hex'),
              Buffer.from("select 'with attr'"),
            ]),
          ),
        },
        { S: packets(1, ok()) },
      ],
    });
    expect(seen.map(({ text, parameters }) => [text, parameters])).toEqual([
      ['select 1', null],
      ["select 'with attr'", ['vv']],
    ]);
  });

  test('attributes that make no sense hide the text: it does not run', () => {
    const { seen, sent, received } = follow({
      facts: { capabilities: FLAG.queryAttributes },
      steps: [{ C: command(3, '\x05\x01\0', 'drop table t') }],
    });
    expect(sent.length).toBe(0);
    expect(received.readUInt16LE(5)).toBe(1835);
    expect(seen).toMatchObject([{ text: null, opaque: true, status: 'denied' }]);
  });

  test('an execution with attributes behind its parameters', () => {
    const { session } = passes({
      facts: { capabilities: FLAG.queryAttributes | FLAG.deprecateEof },
      steps: [
        { C: command(0x16, 'select ?') },
        { S: packets(1, '00 01000000 0100 0100 00 0000', column('?'), column('?')) },
        {
          C: command(
            0x17,
            u32(1),
            8,
            u32(1),
            2,
            0,
            1,
            3,
            0,
            lenenc(''),
            254,
            0,
            lenenc('trace'),
            u32(9),
            lenenc('t1'),
          ),
        },
        { S: packets(1, ok()) },
      ],
    });
    expect(session.ended[1]!.parameters).toEqual([
      { name: null, type: 'INT', value: 9 },
      { name: 'trace', type: 'CHAR', value: 't1' },
    ]);
  });

  test('an execution with the count of parameters, though no flag says that it comes', () => {
    const { session } = passes({
      facts: { capabilities: FLAG.queryAttributes | FLAG.deprecateEof },
      steps: [
        { C: command(0x16, 'select ?') },
        { S: packets(1, '00 01000000 0100 0100 00 0000', column('?'), column('?')) },
        { C: command(0x17, u32(1), 0, u32(1), 1, 0, 1, 3, 0, lenenc(''), u32(9)) },
        { S: packets(1, ok()) },
      ],
    });
    expect(session.ended[1]!.parameters).toEqual([{ name: null, type: 'INT', value: 9 }]);
  });

  test.each([
    ['latin1', 8, Buffer.from("select 'caf\xe9 \x80'", 'latin1'), "select 'café €'"],
    [
      'gbk',
      28,
      Buffer.concat([Buffer.from("select '"), Buffer.from('d6d0', 'hex'), Buffer.from("'")]),
      "select '中'",
    ],
    ['utf8mb4', 45, Buffer.from("select '😀'"), "select '😀'"],
  ])('text in %s is read, and passes unchanged', (_name, collation, text, shown) => {
    const { seen } = passes({
      facts: { collation },
      steps: [{ C: command(3, text) }, { S: packets(1, ok()) }],
    });
    expect(seen[0]!.text).toBe(shown);
  });

  test('SET NAMES changes how text is read, when it succeeds', () => {
    const text = Buffer.from("select '\xe9'", 'latin1');
    const { seen } = passes({
      steps: [
        { C: query('set names nosuch') },
        { S: packets(1, error(1115, '42000')) },
        { C: query('SET NAMES latin1') },
        { S: packets(1, ok()) },
        { C: command(3, text) },
        { S: packets(1, ok()) },
      ],
    });
    expect(seen[2]!.text).toBe("select 'é'");
  });

  test('what the server tracks is believed', () => {
    const changes = Buffer.concat([
      Buffer.of(0, lenenc('character_set_client').length + lenenc('latin1').length),
      lenenc('character_set_client'),
      lenenc('latin1'),
      Buffer.of(1, lenenc('lab').length),
      lenenc('lab'),
    ]);
    const tracked = Buffer.concat([Buffer.of(0, 0, 0), u16(0x4002), u16(1), lenenc('info'), lenenc(changes)]);
    const { seen, session } = passes({
      facts: { capabilities: FLAG.sessionTrack },
      steps: [
        { C: query('call set_it()') },
        { S: packets(1, tracked) },
        { C: command(3, Buffer.from("select '\xe9'", 'latin1')) },
        { S: packets(1, ok()) },
      ],
    });
    expect(seen).toMatchObject([{ messages: ['info', '1 warnings'] }, { text: "select 'é'" }]);
    expect(session.notes).toEqual([{ kind: 'database_changed', database: 'lab' }]);
  });

  test('USE is followed', () => {
    const { session } = passes({
      steps: [
        { C: query('use `la``b`') },
        { S: packets(1, ok()) },
        { C: query('use nosuch') },
        { S: packets(1, error(1049, '42000')) },
        { C: command(2, 'other') },
        { S: packets(1, ok()) },
      ],
    });
    expect(session.notes).toEqual([
      { kind: 'database_changed', database: 'la`b' },
      { kind: 'database_changed', database: 'other' },
    ]);
  });
});

describe('ends', () => {
  test('what the server says unasked is passed and told', () => {
    const bytes = packets(0, error(4031, 'HY000', 'The client was disconnected by the server'));
    const { session } = passes({ steps: [{ S: bytes }] });
    expect(session.observer.leaving).toBe('server');
    expect(session.notes).toEqual([
      { kind: 'server_notice', code: '4031/HY000', message: 'The client was disconnected by the server' },
    ]);
  });

  test('COM_QUIT', () => {
    const { session } = passes({ steps: [{ C: command(1) }] });
    expect(session.observer.leaving).toBe('client');
    expect(session.observer.goodbye()).toBeNull();
    expect(session.ended).toEqual([]);
  });

  test('last words have the number that the client waits for', () => {
    const refusal = new Refusal('killed', 'ended by an administrator');
    const session = new Session();
    expect(session.observer.goodbye()).toEqual(command(1));
    expect(session.observer.farewell(refusal)[3]).toBe(1);
    session.observer.client(query('select sleep(8)'));
    expect(session.observer.farewell(refusal)[3]).toBe(1);
    session.observer.server(packets(1, Buffer.of(1), column('a')));
    expect(session.observer.atBoundary).toBe(true);
    const last = session.observer.farewell(refusal);
    expect(last[3]).toBe(3);
    expect(last.subarray(4).toString('latin1')).toBe('\xff\x87\x07#70100ended by an administrator');
    session.observer.server(packets(3, textRow('abc')).subarray(0, 6));
    expect(session.observer.atBoundary).toBe(false);
    session.observer.close('cancelled');
    expect(session.seen()).toMatchObject([{ status: 'cancelled', text: 'select sleep(8)' }]);
  });

  test('an interrupted query is a cancelled one', () => {
    const { seen } = passes({
      steps: [
        { C: query('select sleep(8)') },
        { S: packets(1, error(1317, '70100', 'Query execution was interrupted')) },
      ],
    });
    expect(seen).toMatchObject([{ status: 'cancelled', error: '1317/70100' }]);
  });

  test('a deadlock ends the transaction', () => {
    const { seen } = passes({
      steps: [
        { C: query('begin') },
        { S: packets(1, ok(0, IN_TRANSACTION)) },
        { C: query('update t set a=1') },
        { S: packets(1, error(1213, '40001', 'Deadlock found')) },
      ],
    });
    expect(seen.map(({ transaction }) => transaction)).toEqual(['active', 'idle']);
  });
});
