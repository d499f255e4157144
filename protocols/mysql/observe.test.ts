import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import {
  column,
  command,
  eof,
  error,
  FLAG,
  lenenc,
  ok,
  packets,
  play,
  playCut,
  query,
  resultset,
  type Script,
  Session,
  type Step,
  textRow,
  u16,
  u32,
} from '../../test/support/mysql-scripts.ts';
import { Refusal } from '../error.ts';
import type { Statement } from '../statement.ts';

/** MORE_RESULTS beside AUTOCOMMIT. */
const MORE = 0x0a;
const IN_TRANSACTION = 0x03;
const OUT_PARAMETERS = 0x100a;
const CURSOR = 0x42;
const LAST_ROW = 0x82;

/** Plays a script whole, byte by byte and cut once at every place: bytes and record must be the same each time. */
function follow(script: Script) {
  const whole = play(script);
  const { session } = whole;
  const seen = session.seen();
  const variants = [play(script, 1), play(script, 3), play(script, 7)];
  script.steps.forEach((step, index) => {
    const { length } = 'C' in step ? step.C : step.S;
    for (let at = 1; at < length; at += 1) variants.push(playCut(script, index, at));
  });
  for (const variant of variants) {
    expect(variant.session.seen()).toEqual(seen);
    expect(variant.session.notes).toEqual(session.notes);
    expect(variant.sent.equals(whole.sent)).toBe(true);
    expect(variant.received.equals(whole.received)).toBe(true);
    expect(variant.session.observer.busy).toBe(session.observer.busy);
    expect(variant.session.observer.atBoundary).toBe(session.observer.atBoundary);
  }
  return { session, seen, sent: whole.sent, received: whole.received };
}

/** As `follow`, for a conversation of which every byte passes and after which nothing is outstanding. */
function passes(script: Script) {
  const result = follow(script);
  const sent = script.steps.map((step) => ('C' in step ? step.C : Buffer.alloc(0)));
  const received = script.steps.map((step) => ('S' in step ? step.S : Buffer.alloc(0)));
  expect(result.sent.equals(Buffer.concat(sent))).toBe(true);
  expect(result.received.equals(Buffer.concat(received))).toBe(true);
  expect(result.session.observer.busy).toBe(false);
  return result;
}

/** A command behind each script shows that nothing went out of step. */
function probe(deprecated: boolean): Step[] {
  return [{ C: query('select 99') }, { S: packets(1, ...resultset(deprecated, ['n'], [['99']])) }];
}

describe.each([
  ['with EOF packets', false],
  ['with DEPRECATE_EOF', true],
])('replies %s', (_name, deprecated) => {
  const eofFlag = deprecated ? FLAG.deprecateEof : 0;
  const facts = { capabilities: eofFlag };

  test('a result, a change and an error are counted', () => {
    const { seen } = passes({
      facts,
      steps: [
        { C: query('select a from t') },
        { S: packets(1, ...resultset(deprecated, ['a'], [['1'], [null], ['3']])) },
        { C: query('insert into t values (1),(2)') },
        { S: packets(1, ok(2, IN_TRANSACTION, 7)) },
        { C: query('select nosuch') },
        { S: packets(1, error(1054, '42S22', 'Unknown column')) },
      ],
    });
    expect(seen).toMatchObject([
      { kind: 'query', text: 'select a from t', status: 'ok', rows: 3, affected: null, transaction: 'idle' },
      { status: 'ok', rows: null, affected: 2, messages: ['insert id 7'], transaction: 'active' },
      { status: 'error', error: '1054/42S22', rows: null, transaction: 'active' },
    ]);
  });

  test('several statements of one text are one command, and each result has its statement', () => {
    const { seen, session } = passes({
      facts: { capabilities: eofFlag | FLAG.multiStatements },
      steps: [
        { C: query("select ';' as a; do 3; select 4, 5 -- ; not this\n; update t set a=1") },
        {
          S: packets(
            1,
            ...resultset(deprecated, ['a'], [[';'], ['b']], MORE),
            ok(0, MORE),
            ...resultset(deprecated, ['4', '5'], [['4', '5']], MORE),
            ok(9),
          ),
        },
        ...probe(deprecated),
      ],
    });
    expect(seen).toHaveLength(2);
    expect(seen[0]).toMatchObject({ rows: 3, affected: 9, status: 'ok' });
    expect(seen[0]!.results).toEqual([
      ["select ';' as a", 2, null],
      ['do 3', null, 0],
      ['select 4, 5', 1, null],
      ['update t set a=1', null, 9],
    ]);
    expect(session.begun).toHaveLength(2);
  });

  test('an error ends the whole command, whatever was promised', () => {
    const { seen } = passes({
      facts: { capabilities: eofFlag | FLAG.multiStatements },
      steps: [
        { C: query('select 1; select nosuch; select 3') },
        { S: packets(1, ...resultset(deprecated, ['1'], [['1']], MORE), error(1054, '42S22')) },
        ...probe(deprecated),
      ],
    });
    expect(seen[0]).toMatchObject({ rows: 1, status: 'error', error: '1054/42S22' });
    expect(seen[0]!.results).toEqual([
      ['select 1', 1, null],
      ['select nosuch', null, null],
    ]);
    expect(seen[1]).toMatchObject({ rows: 1, status: 'ok' });
  });

  test('an error behind rows keeps the rows', () => {
    const rows = resultset(deprecated, ['1'], [['1']]).slice(0, -1);
    const { seen } = passes({
      facts,
      steps: [
        { C: query('select 1 union all select (select 1 union select 2)') },
        { S: packets(1, ...rows, error(1242, '21000', 'Subquery returns more than 1 row')) },
        ...probe(deprecated),
      ],
    });
    expect(seen[0]).toMatchObject({ rows: 1, status: 'error', error: '1242/21000' });
  });

  test('a procedure has results and an OK; its OUT row may promise nothing', () => {
    // MySQL without DEPRECATE_EOF leaves MORE_RESULTS out of the EOF behind a row of OUT parameters.
    const outRow = [
      Buffer.of(1),
      column('p'),
      ...(deprecated ? [] : [eof(false, OUT_PARAMETERS)]),
      Buffer.from('00000800000000', 'hex'),
      eof(deprecated, deprecated ? OUT_PARAMETERS : 2),
    ];
    const { seen } = passes({
      facts: { capabilities: eofFlag | FLAG.multiStatements },
      steps: [
        { C: command(0x16, 'call p(?, ?)') },
        {
          S: packets(
            1,
            '00 01000000 0000 0200 00 0000',
            column('?'),
            column('?'),
            ...(deprecated ? [] : [eof(false)]),
          ),
        },
        { C: command(0x17, u32(1), 0, u32(1), 0, 1, 3, 0, 3, 0, u32(4), u32(5)) },
        { S: packets(1, ...resultset(deprecated, ['x'], [['1'], ['2']], MORE), ...outRow, ok()) },
        { C: query('call q(); select 7') },
        {
          S: packets(
            1,
            ...resultset(deprecated, ['x'], [['1']], MORE),
            ...resultset(deprecated, ['x'], [], MORE),
            ok(0, MORE),
            ...resultset(deprecated, ['7'], [['7']]),
          ),
        },
        ...probe(deprecated),
      ],
    });
    expect(seen).toMatchObject([
      { kind: 'prepare', text: 'call p(?, ?)', name: '1', status: 'ok' },
      { kind: 'execute', text: 'call p(?, ?)', name: '1', parameters: [4, 5], rows: 3, status: 'ok' },
      { rows: 2, affected: 0 },
      { rows: 1 },
    ]);
    expect(seen[1]!.results).toEqual([
      [undefined, 2, null],
      [undefined, 1, null],
      [undefined, null, 0],
    ]);
    expect(seen[2]!.results).toEqual([
      ['call q()', 1, null],
      ['call q()', 0, null],
      ['call q()', null, 0],
      ['select 7', 1, null],
    ]);
  });

  test('parameters are read, and their types remembered', () => {
    const { seen } = passes({
      facts,
      steps: [
        { C: command(0x16, 'select id, v from t1 where id >= ?') },
        {
          S: packets(
            1,
            '00 07000000 0200 0100 00 0000',
            column('?'),
            ...(deprecated ? [] : [eof(false)]),
            column('id'),
            column('v'),
            ...(deprecated ? [] : [eof(false)]),
          ),
        },
        { C: command(0x17, u32(7), 0, u32(1), 0, 1, 3, 0, u32(1)) },
        { S: packets(1, ...resultset(deprecated, ['id', 'v'], [['1', 'a']])) },
        { C: command(0x17, u32(7), 0, u32(1), 0, 0, u32(2)) },
        { S: packets(1, ...resultset(deprecated, ['id', 'v'], [])) },
        { C: command(0x17, u32(7), 0, u32(1), 1, 0) },
        { S: packets(1, ...resultset(deprecated, ['id', 'v'], [])) },
        { C: command(0x19, u32(7)) },
        { C: command(0x17, u32(7), 0, u32(1), 1, 0) },
        { S: packets(1, error(1243)) },
        ...probe(deprecated),
      ],
    });
    expect(
      seen.map(({ kind, parameters, rows, opaque, text }) => [kind, parameters, rows, opaque, text]),
    ).toEqual([
      ['prepare', null, null, false, 'select id, v from t1 where id >= ?'],
      ['execute', [1], 1, false, 'select id, v from t1 where id >= ?'],
      ['execute', [2], 0, false, 'select id, v from t1 where id >= ?'],
      ['execute', [null], 0, false, 'select id, v from t1 where id >= ?'],
      ['execute', null, null, true, null],
      ['query', null, 1, false, 'select 99'],
    ]);
  });

  test('long data is counted, hashed, and dropped behind the execution', () => {
    const data = Buffer.alloc(100_004, 'x');
    const steps: Step[] = [
      { C: command(0x16, 'insert into t values (?, ?)') },
      {
        S: packets(
          1,
          '00 01000000 0000 0200 00 0000',
          column('?'),
          column('?'),
          ...(deprecated ? [] : [eof(false)]),
        ),
      },
      {
        C: Buffer.concat([
          command(0x18, u32(1), u16(1), data.subarray(0, 65_000)),
          command(0x18, u32(1), u16(1), data.subarray(65_000)),
          command(0x17, u32(1), 0, u32(1), 0, 1, 253, 0, 252, 0, lenenc('hello')),
        ]),
      },
      { S: packets(1, ok(1)) },
      { C: command(0x17, u32(1), 0, u32(1), 0, 0, lenenc('a'), lenenc('b')) },
      { S: packets(1, ok(1)) },
    ];
    for (const size of [0, 1, 1000]) {
      const { session, sent } = play({ facts, steps }, size);
      expect(sent.length).toBe(steps.reduce((sum, step) => sum + ('C' in step ? step.C.length : 0), 0));
      const [, first, second] = session.ended;
      expect(first!.parameters).toEqual([
        { name: null, type: 'VARCHAR', value: 'hello' },
        {
          name: null,
          type: 'BLOB',
          value: 'x'.repeat(4096),
          bytes: 100_004,
          sha256: createHash('sha256').update(data).digest('hex'),
        },
      ]);
      expect(second!.parameters!.map(({ value }) => value)).toEqual(['a', 'b']);
    }
  });

  test('a cursor leaves its rows to the fetches', () => {
    const opened = deprecated
      ? [Buffer.of(1), column('id'), eof(true, CURSOR)]
      : [Buffer.of(1), column('id'), eof(false, CURSOR)];
    const { seen } = passes({
      facts,
      steps: [
        { C: command(0x16, 'select id from t') },
        { S: packets(1, '00 01000000 0100 0000 00 0000', column('id'), ...(deprecated ? [] : [eof(false)])) },
        { C: command(0x17, u32(1), 1, u32(1)) },
        { S: packets(1, ...opened) },
        { C: command(0x1c, u32(1), u32(2)) },
        { S: packets(1, '0000 01000000', '0000 02000000', eof(deprecated, CURSOR)) },
        { C: command(0x1c, u32(1), u32(2)) },
        { S: packets(1, '0000 03000000', eof(deprecated, LAST_ROW)) },
        { C: command(0x1c, u32(1), u32(2)) },
        { S: packets(1, error(1421)) },
        { C: command(0x1a, u32(1)) },
        { S: packets(1, ok()) },
        ...probe(deprecated),
      ],
    });
    expect(seen.map(({ kind, text, rows, error: code }) => [kind, text, rows, code])).toEqual([
      ['prepare', 'select id from t', null, null],
      ['execute', 'select id from t', 0, null],
      ['command', 'FETCH 2', 2, null],
      ['command', 'FETCH 2', 1, null],
      ['command', 'FETCH 2', null, '1421/HY000'],
      ['query', 'select 99', 1, null],
    ]);
  });

  test('a file that is allowed passes, and its packets are no commands', () => {
    const { seen, session } = passes({
      facts: { ...facts, allowLocalInfile: true, flavor: 'mariadb', extended: 1 },
      steps: [
        { C: query("load data local infile '/tmp/x.csv' into table t") },
        { S: packets(1, Buffer.concat([Buffer.of(0xfb), Buffer.from('/tmp/x.csv')])) },
        // The second of these has sequence number 0, as packet 254 of a long file does.
        {
          C: Buffer.concat([
            packets(255, Buffer.from('1,a\n')),
            packets(0, Buffer.of(3, 0x78)),
            packets(1, ''),
          ]),
        },
        // A progress report looks like an error of number 65535.
        { S: packets(2, 'ffffff0102020000000f456e642062756c6b20696e73657274', '00 03 00 0200 0000') },
        { C: query("load data local infile '/empty' into table t") },
        { S: packets(1, Buffer.concat([Buffer.of(0xfb), Buffer.from('/empty')])) },
        { C: packets(2, '') },
        { S: packets(3, ok()) },
        { C: query("load data local infile '/x' into table nosuch") },
        { S: packets(1, error(1146, '42S02')) },
        ...probe(deprecated),
      ],
    });
    expect(seen).toMatchObject([
      { affected: 3, messages: ["sent the client's file /tmp/x.csv: 6 bytes"] },
      { affected: 0, messages: ["sent the client's file /empty: 0 bytes"] },
      { error: '1146/42S02' },
      { rows: 1 },
    ]);
    expect(session.notes).toContainEqual({
      kind: 'session_changed',
      what: 'local_file_sent',
      value: '/tmp/x.csv (6 bytes)',
    });
  });

  test('a file that is not allowed is refused where it would begin', () => {
    const { seen, sent, received } = follow({
      facts: { capabilities: eofFlag | FLAG.multiStatements },
      steps: [
        { C: query("select 1; load data local infile '/etc/passwd' into table t; select 2") },
        {
          S: packets(
            1,
            ...resultset(deprecated, ['1'], [['1']], MORE),
            Buffer.concat([Buffer.of(0xfb), Buffer.from('/etc/passwd')]),
          ),
        },
        { S: packets(deprecated ? 7 : 8, ok(0, MORE), ...resultset(deprecated, ['2'], [['2']])) },
        ...probe(deprecated),
      ],
    });
    const before = packets(1, ...resultset(deprecated, ['1'], [['1']], MORE));
    const sequence = deprecated ? 5 : 6;
    expect(received.subarray(0, before.length).equals(before)).toBe(true);
    expect(received.readUIntLE(before.length, 3)).toBeGreaterThan(9);
    expect(received[before.length + 3]).toBe(sequence);
    const payload = received.subarray(before.length + 4);
    expect(payload.readUInt16LE(1)).toBe(3948);
    expect(payload.toString('latin1', 3)).toMatch(/^#42000loading local data/);
    const commands = query("select 1; load data local infile '/etc/passwd' into table t; select 2");
    expect(sent.subarray(commands.length, commands.length + 4)).toEqual(Buffer.of(0, 0, 0, sequence + 1));
    expect(seen[0]).toMatchObject({ status: 'denied', error: '3948/42000' });
    expect(seen[1]).toMatchObject({ text: 'select 99', rows: 1 });
  });

  test('results without definitions are counted as well', () => {
    const capabilities = eofFlag | FLAG.optionalMetadata;
    const eofs = deprecated ? [] : [eof(false)];
    const { seen } = passes({
      facts: { capabilities },
      steps: [
        { C: query('select 1, 2') },
        {
          S: packets(
            1,
            Buffer.of(2, 1),
            column('1'),
            column('2'),
            ...eofs,
            textRow('1', '2'),
            eof(deprecated),
          ),
        },
        { C: query('select 1') },
        { S: packets(1, Buffer.of(1, 0), ...eofs, textRow('1'), textRow('2'), eof(deprecated)) },
        { C: command(0x16, 'select ? from t') },
        { S: packets(1, '00 01000000 0100 0100 00 0000 00', ...eofs, ...eofs) },
        { C: command(0x17, u32(1), 0, u32(1), 0, 1, 3, 0, u32(9)) },
        { S: packets(1, Buffer.of(1, 0), ...eofs, '0000 09000000', eof(deprecated)) },
        { C: command(0x17, u32(1), 1, u32(1), 0, 0, u32(9)) },
        { S: packets(1, Buffer.of(1, 0), eof(deprecated, CURSOR)) },
        { C: command(0x16, 'select ? from t') },
        { S: packets(1, '00 02000000 0100 0100 00 0000 01', column('?'), ...eofs, column('c'), ...eofs) },
        ...probe(deprecated).slice(0, 1),
        { S: packets(1, Buffer.of(1, 1), column('n'), ...eofs, textRow('99'), eof(deprecated)) },
      ],
    });
    expect(seen.map(({ rows }) => rows)).toEqual([1, 2, null, 1, 0, null, 1]);
  });

  test('metadata that MariaDB leaves out the second time', () => {
    const eofs = deprecated ? [] : [eof(false)];
    const { seen } = passes({
      facts: { capabilities: eofFlag, flavor: 'mariadb', extended: 0x1d },
      options: { sampleRows: 5, columns: true },
      steps: [
        { C: command(0x16, 'select 1 as a') },
        { S: packets(1, '00 01000000 0100 0000 00 0000', column('a', 3, 63, 0, true), ...eofs) },
        { C: command(0x17, u32(1), 0, u32(1)) },
        {
          S: packets(
            1,
            Buffer.of(1, 1),
            column('a', 3, 63, 0, true),
            ...eofs,
            '0000 01000000',
            eof(deprecated),
          ),
        },
        { C: command(0x17, u32(1), 0, u32(1)) },
        { S: packets(1, Buffer.of(1, 0), ...eofs, '0000 02000000', '0004', eof(deprecated)) },
      ],
    });
    expect(seen.map(({ rows, columns, sample }) => [rows, columns, sample])).toEqual([
      [null, null, null],
      [1, ['a'], [['1']]],
      [2, ['a'], [['2'], [null]]],
    ]);
  });

  test('bulk executions', () => {
    const { seen } = passes({
      facts: { ...facts, flavor: 'mariadb', extended: 4 },
      steps: [
        { C: command(0x16, 'insert into t(b) values (?)') },
        { S: packets(1, '00 01000000 0000 0100 00 0000', column('?'), ...(deprecated ? [] : [eof(false)])) },
        { C: command(0xfa, u32(1), u16(128), 254, 0, 0, lenenc('b1'), 1, 0, lenenc('b3'), 2) },
        { S: packets(1, ok(4)) },
        ...probe(deprecated),
      ],
    });
    expect(seen[1]).toMatchObject({
      kind: 'bulk',
      text: 'insert into t(b) values (?)',
      parameters: ['b1', null, 'b3', { indicator: 'default' }],
      affected: 4,
      messages: ['4 tuples'],
    });
  });

  test('a statement that is executed in the same breath as it is prepared', () => {
    const steps: Step[] = [
      {
        C: Buffer.concat([
          command(0x16, "select ?, '?' , ?"),
          command(0x17, u32(0xffff_ffff), 0, u32(1), 0, 1, 3, 0, 253, 0, u32(5), lenenc('x')),
        ]),
      },
      {
        S: Buffer.concat([
          packets(
            1,
            '00 09000000 0000 0200 00 0000',
            column('?'),
            column('?'),
            ...(deprecated ? [] : [eof(false)]),
          ),
          packets(1, ...resultset(deprecated, ['a'], [['5']])),
        ]),
      },
      {
        C: Buffer.concat([
          command(0x16, 'select nosuch'),
          command(0x17, u32(0xffff_ffff), 0, u32(1)),
          query('select 1'),
        ]),
      },
      {
        S: Buffer.concat([
          packets(1, error(1064, '42000')),
          packets(1, error(1243)),
          packets(1, ...resultset(deprecated, ['1'], [['1']])),
        ]),
      },
    ];
    const { seen } = passes({ facts: { ...facts, flavor: 'mariadb' }, steps });
    expect(seen.map(({ kind, name, parameters, error: code }) => [kind, name, parameters, code])).toEqual([
      ['prepare', '9', null, null],
      ['execute', '9', [5, 'x'], null],
      ['prepare', null, null, '1064/42000'],
      ['execute', null, null, '1243/HY000'],
      ['query', null, null, null],
    ]);
  });

  test('pipelined commands get their own results', () => {
    const count = 20;
    const texts = Array.from({ length: count }, (_, index) => `select ${index}`);
    const replies = texts.map((_, index) =>
      packets(
        1,
        ...resultset(
          deprecated,
          ['n'],
          Array.from({ length: index }, () => ['v']),
        ),
      ),
    );
    const { seen, session } = passes({
      facts,
      steps: [{ C: Buffer.concat(texts.map(query)) }, { S: Buffer.concat(replies) }],
    });
    expect(seen.map(({ text, rows }) => [text, rows])).toEqual(texts.map((text, index) => [text, index]));
    expect(session.toServerCalls).toBe(1);
    expect(session.toClientCalls).toBe(1);
  });

  test('one reply each to the small commands', () => {
    const eofOrOk = eof(deprecated);
    const { seen } = passes({
      facts,
      steps: [
        { C: command(0x0e) },
        { S: packets(1, ok()) },
        { C: command(0x04, 't1\0', '%') },
        { S: packets(1, column('a'), column('b'), eofOrOk) },
        { C: command(0x04, 'nosuch\0') },
        { S: packets(1, error(1146, '42S02')) },
        { C: command(0x09) },
        { S: packets(1, Buffer.from('Uptime: 5  Threads: 1')) },
        { C: command(0x0d) },
        { S: packets(1, eofOrOk) },
        { C: command(0x1b, u16(0)) },
        { S: packets(1, eofOrOk) },
        { C: command(0x1b, u16(7)) },
        { S: packets(1, error(1047, '08S01')) },
        { C: command(0x0a) },
        { S: packets(1, ...resultset(deprecated, ['Id', 'User'], [['1', 'app']])) },
        { C: command(0x07, 1) },
        { S: packets(1, ok()) },
        { C: command(0x63) },
        { S: packets(1, error(1047, '08S01')) },
        { C: command(0x0c, u32(77)) },
        { S: packets(1, error(1094)) },
        { C: command(0x02, 'lab') },
        { S: packets(1, ok()) },
        { C: packets(0, '') },
        { S: packets(1, error(1047, '08S01')) },
        { C: command(0x1f) },
        { S: packets(1, ok()) },
        ...probe(deprecated),
      ],
    });
    expect(seen.map(({ kind, text, status }) => [kind, text, status])).toEqual([
      ['command', 'COM_FIELD_LIST t1 %', 'ok'],
      ['command', 'COM_FIELD_LIST nosuch', 'error'],
      ['command', 'COM_STATISTICS', 'ok'],
      ['command', 'COM_DEBUG', 'ok'],
      ['command', 'SHOW PROCESSLIST', 'ok'],
      ['command', 'COM_REFRESH 1', 'ok'],
      ['command', 'COM_0x63', 'error'],
      ['command', 'KILL 77', 'error'],
      ['command', 'USE `lab`', 'ok'],
      ['command', 'COM_RESET_CONNECTION', 'ok'],
      ['query', 'select 99', 'ok'],
    ]);
  });

  test('a column count that makes no sense costs one command, not the session', () => {
    const { session, seen } = follow({
      facts,
      steps: [
        { C: query('select 1') },
        { S: packets(1, 'fe ffffffffffffff7f 00', Buffer.from('what is this')) },
        ...probe(deprecated),
      ],
    });
    expect(session.notes).toMatchObject([{ kind: 'opaque' }]);
    expect(seen).toMatchObject([
      { text: 'select 1', status: 'unknown', opaque: true },
      { text: 'select 99', status: 'ok', rows: 1 },
    ]);
  });

  test('a first value of 16 MiB is no end of rows', () => {
    // Such a row begins with 0xFE, as the length of its first value; its first packet is full.
    const row = textRow(Buffer.alloc(0x100_0000 + 5, 'a'), 'b');
    const steps: Step[] = [
      { C: query('select big') },
      {
        S: packets(
          1,
          Buffer.of(2),
          column('a'),
          column('b'),
          ...(deprecated ? [] : [eof(false)]),
          row,
          row,
          eof(deprecated),
        ),
      },
      ...probe(deprecated),
    ];
    for (const size of [0, 65_536, 1_000_003]) {
      const { session, received } = play({ facts, steps }, size);
      expect(session.seen().map(({ rows }) => rows)).toEqual([2, 1]);
      expect(received.length).toBe(steps.reduce((sum, step) => sum + ('S' in step ? step.S.length : 0), 0));
      expect(session.ended[0]!.bytesReceived).toBe((steps[1] as { S: Buffer }).S.length);
    }
  });
});

describe('packets of 16 MiB', () => {
  test.each([0xff_fffd, 0xff_fffe, 0xff_ffff, 0x1ff_fffd])('a command of %i bytes', (length) => {
    const text = Buffer.alloc(length, ' ');
    text.write("select '");
    const bytes = command(3, text);
    for (const size of [0, 65_536, 999_983]) {
      const { session, sent } = play({ steps: [{ C: bytes }] }, size);
      expect(sent.equals(bytes)).toBe(true);
      const [statement] = session.begun;
      expect(statement!.text!.length).toBe(64 * 1024);
      expect(statement!.textBytes).toBe(length);
      expect(statement!.textSha256).toBe(createHash('sha256').update(text).digest('hex'));
      expect(statement!.bytesSent).toBe(bytes.length);
      // The sequence number of the reply is one past that of the command's last packet.
      const farewell = session.observer.farewell(new Refusal('killed', 'bye'));
      expect(farewell[3]).toBe(Math.floor((length + 1) / 0xff_ffff) + 1);
      session.observer.server(packets(farewell[3]!, ok()));
      expect(session.observer.busy).toBe(false);
    }
  });

  test.each([0xff_fffe, 0xff_ffff, 0x100_0000])('a row of %i bytes', (length) => {
    const row = Buffer.alloc(length, 'x');
    row[0] = 0xfd;
    const replies = packets(1, Buffer.of(1), column('a'), eof(false), row, row, eof(false));
    const { session, received } = play({ steps: [{ C: query('select') }, { S: replies }] }, 300_000);
    expect(received.equals(replies)).toBe(true);
    expect(session.seen()).toMatchObject([{ rows: 2, status: 'ok' }]);
  });

  test('a parameter of 17 MiB: what came before it is on record', () => {
    const value = Buffer.alloc(17 * 1024 * 1024, 'v');
    const steps: Step[] = [
      { C: command(0x16, 'insert into t values (?, ?)') },
      { S: packets(1, '00 01000000 0000 0200 00 0000', column('?'), column('?'), eof(false)) },
      { C: command(0x17, u32(1), 0, u32(1), 0, 1, 3, 0, 252, 0, u32(42), lenenc(value)) },
      { S: packets(2, ok(1)) },
    ];
    const { session, sent } = play({ steps }, 65_536);
    expect(sent.length).toBe(steps.reduce((sum, step) => sum + ('C' in step ? step.C.length : 0), 0));
    expect(session.seen()[1]).toMatchObject({
      parameters: [42, 'v'.repeat(4096)],
      opaque: true,
      affected: 1,
    });
  });

  test('a refused command of 17 MiB: none of it passes, and the answer has the right number', () => {
    const bytes = query(`drop table t -- ${'x'.repeat(17 * 1024 * 1024)}`);
    const { session, sent, received } = play(
      {
        decide: () => ({ action: 'refuse', refusal: new Refusal('statement_not_allowed', 'no') }),
        steps: [{ C: bytes }],
      },
      65_536,
    );
    expect(sent.length).toBe(0);
    expect(received[3]).toBe(2);
    expect(received.subarray(4).toString('latin1')).toBe('\xff\xcb\x04#42000no');
    expect(session.seen()).toMatchObject([{ status: 'denied', error: '1227/42000' }]);
    expect(session.observer.busy).toBe(false);
  });
});

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
