import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { follow, passes } from '../../test/support/mysql-follow.ts';
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
  query,
  resultset,
  type Step,
  textRow,
  u16,
  u32,
} from '../../test/support/mysql-scripts.ts';
import { Refusal } from '../error.ts';

/** MORE_RESULTS beside AUTOCOMMIT. */
const MORE = 0x0a;
const IN_TRANSACTION = 0x03;
const OUT_PARAMETERS = 0x100a;
const CURSOR = 0x42;
const LAST_ROW = 0x82;

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
