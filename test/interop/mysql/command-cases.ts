import { expect } from 'vitest';
import type { RecordedStatement } from '../../support/memory-recorder.ts';
import type { RawMysql } from '../../support/mysql-raw.ts';
import { command, FLAG, lenenc, packets, u16, u32 } from '../../support/mysql-scripts.ts';

/** One exchange: what is sent, and what must be on record of it. */
export interface Case {
  readonly name: string;
  /** `first` is the id of the first statement that was prepared: MariaDB does not begin at 1 in a thread used before. */
  readonly send: (raw: RawMysql, first: number) => Buffer;
  readonly file?: readonly Buffer[];
  /** The reply tells of the moment, and differs each time. */
  readonly varies?: boolean;
  readonly record: readonly Partial<Record<keyof RecordedStatement | 'values' | 'code', unknown>>[];
}

const sql = (name: string, text: string, record: Case['record'][number]): Case => ({
  name,
  send: (raw) => raw.query(text),
  record: [{ kind: 'query', text, ...record }],
});

/** COM_STMT_EXECUTE; with attributes agreed on, the flag that their count follows is set by clients that send any. */
function execute(id: number, flags: number, ...rest: readonly (Buffer | number)[]): Buffer {
  return command(0x17, u32(id), flags, u32(1), ...rest);
}

/**
 * All commands, with what must be on record of each, for a session with these capabilities. In one order, so that statement
 * ids are the same each time.
 */
export function cases(flavor: 'mysql' | 'mariadb', capabilities: number, extended: number): Case[] {
  const attributes = (capabilities & FLAG.queryAttributes) !== 0;
  // With QUERY_ATTRIBUTES each parameter's type is followed by its name, even where it has none.
  const types = (...list: readonly number[]): Buffer =>
    Buffer.concat(list.map((type) => (attributes ? Buffer.of(type, 0, 0) : Buffer.of(type, 0))));
  const count = (parameters: number): Buffer => (attributes ? Buffer.of(parameters) : Buffer.alloc(0));
  const flags = attributes ? 8 : 0;
  const all: Case[] = [
    { name: 'ping', send: () => command(0x0e), record: [] },
    sql('rows', 'select id, v from t1 order by id', { rowsReturned: 3, status: 'ok', columns: ['id', 'v'] }),
    sql('a change', "insert into t2(b) values ('x'),('y')", { rowsAffected: 2, transaction: 'idle' }),
    sql('in a transaction', 'begin', { transaction: 'active' }),
    sql('an error in it', 'select nosuch', { code: '1054/42S22', transaction: 'active' }),
    sql('its end', 'rollback', { transaction: 'idle' }),
    {
      name: 'four statements',
      send: (raw) => raw.query('select 1; select 2; do 3; select 4'),
      record: [
        {
          rowsReturned: 3,
          rowsAffected: 0,
          results: [
            { tag: null, rowsReturned: 1, rowsAffected: null, columns: ['1'], text: 'select 1' },
            { tag: null, rowsReturned: 1, rowsAffected: null, columns: ['2'], text: 'select 2' },
            { tag: null, rowsReturned: null, rowsAffected: 0, text: 'do 3' },
            { tag: null, rowsReturned: 1, rowsAffected: null, columns: ['4'], text: 'select 4' },
          ],
        },
      ],
    },
    sql('an error among several', 'select 1; select nosuch; select 3', {
      rowsReturned: 1,
      code: '1054/42S22',
    }),
    sql('rows and then an error', 'select 1 union all select (select 1 union select 2)', {
      code: '1242/21000',
    }),
    sql('a procedure with two results', 'call two()', { rowsReturned: 4, rowsAffected: 0 }),
    sql('a procedure with an OUT parameter', 'call put(1, @o); select @o', { rowsReturned: 1 }),
    {
      name: 'prepare',
      send: () => command(0x16, 'select id, v from t1 where id >= ?'),
      record: [{ kind: 'prepare', status: 'ok' }],
    },
    {
      name: 'execute with types',
      send: (_raw, first) => execute(first, flags, count(1), 0, 1, types(3), u32(2)),
      record: [
        {
          kind: 'execute',
          values: [2],
          rowsReturned: 2,
          text: 'select id, v from t1 where id >= ?',
        },
      ],
    },
    {
      name: 'execute with the types of before',
      send: (_raw, first) => execute(first, flags, count(1), 0, 0, u32(3)),
      record: [{ kind: 'execute', values: [3], rowsReturned: 1 }],
    },
    {
      name: 'execute with NULL',
      send: (_raw, first) => execute(first, flags, count(1), 1, 1, types(6)),
      record: [{ kind: 'execute', values: [null], rowsReturned: 0 }],
    },
    {
      name: 'a cursor',
      send: (_raw, first) => execute(first, flags | 1, count(1), 0, 1, types(3), u32(1)),
      record: [{ kind: 'execute', values: [1], rowsReturned: 0 }],
    },
    {
      name: 'fetch',
      send: (_raw, first) => command(0x1c, u32(first), u32(2)),
      record: [{ text: 'FETCH 2', rowsReturned: 2 }],
    },
    {
      name: 'fetch the rest',
      send: (_raw, first) => command(0x1c, u32(first), u32(2)),
      record: [{ rowsReturned: 1 }],
    },
    {
      name: 'fetch past the end',
      send: (_raw, first) => command(0x1c, u32(first), u32(2)),
      record: [{ code: '1421/HY000' }],
    },
    { name: 'reset', send: (_raw, first) => command(0x1a, u32(first)), record: [] },
    {
      name: 'prepare for long data',
      send: () => command(0x16, 'insert into t2(b, c) values (?, ?)'),
      record: [{ status: 'ok' }],
    },
    {
      name: 'long data',
      send: (_raw, first) =>
        Buffer.concat([
          command(0x18, u32(first + 1), u16(1), Buffer.alloc(60_000, 'l')),
          command(0x18, u32(first + 1), u16(1), Buffer.alloc(40_004, 'l')),
          execute(first + 1, flags, count(2), 0, 1, types(253, 252), lenenc('hello')),
        ]),
      record: [{ values: ['hello', 'l'.repeat(4096)], rowsAffected: 1 }],
    },
    { name: 'close', send: (_raw, first) => command(0x19, u32(first)), record: [] },
    {
      name: 'execute what is closed',
      send: (_raw, first) => execute(first, 0),
      record: [{ code: '1243/HY000', text: null, opaque: true }],
    },
    { name: 'prepare a call', send: () => command(0x16, 'call put(?, ?)'), record: [{ status: 'ok' }] },
    {
      name: 'execute with an OUT parameter',
      send: (_raw, first) => execute(first + 2, flags, count(2), 0, 1, types(3, 3), u32(4), u32(5)),
      record: [{ rowsReturned: 1, rowsAffected: 0 }],
    },
    {
      name: 'prepare what is wrong',
      send: () => command(0x16, 'select from'),
      record: [{ code: '1064/42000' }],
    },
    { name: 'fields', send: () => command(0x04, 't1\0', '%'), record: [{ text: 'COM_FIELD_LIST t1 %' }] },
    { name: 'fields of nothing', send: () => command(0x04, 'nosuch\0'), record: [{ code: '1146/42S02' }] },
    {
      name: 'statistics',
      varies: true,
      send: () => command(0x09),
      record: [{ text: 'COM_STATISTICS', status: 'ok' }],
    },
    { name: 'debug', send: () => command(0x0d), record: [{ text: 'COM_DEBUG', status: 'ok' }] },
    { name: 'multi statements off', send: () => command(0x1b, u16(1)), record: [] },
    sql('only one statement now', 'select 1; select 2', { code: '1064/42000' }),
    { name: 'multi statements on', send: () => command(0x1b, u16(0)), record: [] },
    { name: 'no such option', send: () => command(0x1b, u16(7)), record: [] },
    { name: 'a command that is none', send: () => command(0x63), record: [{ code: '1047/08S01' }] },
    { name: 'an empty packet', send: () => packets(0, ''), record: [] },
    {
      name: 'a database',
      send: () => command(0x02, 'other'),
      record: [{ text: 'USE `other`', status: 'ok' }],
    },
    { name: 'no database', send: () => command(0x02, 'nosuch'), record: [{ code: '1049/42000' }] },
    sql('back', 'use lab', { status: 'ok' }),
    {
      name: 'a file',
      send: (raw) =>
        raw.query("load data local infile '/client/x.csv' into table t2 fields terminated by ',' (b)"),
      file: [Buffer.from('1\n2\n'), Buffer.from('3\n')],
      record: [{ rowsAffected: 3 }],
    },
    {
      name: 'a file of 300 packets',
      send: (raw) => raw.query("load data local infile '/client/long.csv' into table t2 (b)"),
      file: Array.from({ length: 300 }, (_, index) => Buffer.from(`${index}\n`)),
      record: [{ rowsAffected: 300 }],
    },
    {
      name: 'an empty file',
      send: (raw) => raw.query("load data local infile '/client/none.csv' into table t2 (b)"),
      file: [],
      record: [{ rowsAffected: 0 }],
    },
    {
      name: 'a file into no table',
      send: (raw) => raw.query("load data local infile '/client/x.csv' into table nosuch"),
      file: [Buffer.from('1\n')],
      record: [{ code: '1146/42S02' }],
    },
    {
      name: 'kill nobody by command',
      send: () => command(0x0c, u32(4_000_000)),
      record: [{ text: 'KILL 4000000', status: 'error' }],
    },
    sql('kill nobody', 'kill query 4000000', { code: '1094/HY000' }),
    {
      name: '20 in one go',
      send: (raw) =>
        Buffer.concat(Array.from({ length: 20 }, (_, index) => raw.query(`select ${index} from t1`))),
      record: Array.from({ length: 20 }, (_, index) => ({
        text: `select ${index} from t1`,
        rowsReturned: 3,
      })),
    },
    {
      name: 'the session anew',
      send: () => command(0x1f),
      record: [{ text: 'COM_RESET_CONNECTION' }],
    },
    {
      name: 'what was prepared is gone',
      send: (_raw, first) => execute(first + 1, 0),
      record: [{ code: '1243/HY000', text: null }],
    },
    sql('names', 'set names latin1', { status: 'ok' }),
    {
      name: 'text in latin1',
      send: (raw) => raw.query(Buffer.from("select hex('\xe9')", 'latin1')),
      record: [{ text: "select hex('é')", rowsReturned: 1 }],
    },
    sql('names back', 'set names utf8mb4', { status: 'ok' }),
  ];
  if (flavor === 'mysql') {
    if (attributes) {
      all.push({
        name: 'attributes',
        send: () =>
          packets(
            0,
            Buffer.concat([
              Buffer.from('030101000 1fe00016b027676'.replace(' ', ''), 'hex'),
              Buffer.from('select 5'),
            ]),
          ),
        record: [{ text: 'select 5', values: ['vv'], rowsReturned: 1 }],
      });
    }
    if (capabilities & FLAG.optionalMetadata) all.push(...withoutMetadata(execute, flags, count, types));
    return all;
  }
  all.push(
    {
      name: 'processes',
      varies: true,
      send: () => command(0x0a),
      record: [{ text: 'SHOW PROCESSLIST', status: 'ok' }],
    },
    { name: 'refresh', send: () => command(0x07, 2), record: [{ text: 'COM_REFRESH 2' }] },
    {
      name: 'prepared and executed in one go',
      send: () =>
        Buffer.concat([
          command(0x16, 'select ? + 0'),
          execute(0xffff_ffff, 0, 0, 1, types(3), u32(41)),
          command(0x16, 'select nosuch from'),
          execute(0xffff_ffff, 0),
        ]),
      record: [
        { status: 'ok' },
        { values: [41], rowsReturned: 1 },
        { code: '1064/42000' },
        { code: '1243/HY000' },
      ],
    },
  );
  if (extended & 4) {
    all.push(
      {
        name: 'prepare for bulk',
        send: () => command(0x16, 'insert into t2(b) values (?)'),
        record: [{ status: 'ok' }],
      },
      {
        name: 'bulk',
        send: () => command(0xfa, u32(0xffff_ffff), u16(128), 254, 0, 0, lenenc('b1'), 1, 0, lenenc('b3')),
        record: [
          {
            kind: 'bulk',
            values: ['b1', null, 'b3'],
            rowsAffected: 3,
            messages: ['3 tuples', expect.stringMatching(/^Records: 3/), expect.stringMatching(/^insert id/)],
          },
        ],
      },
    );
  }
  if (extended & 32) {
    all.push({
      name: 'bulk with a result for each tuple',
      varies: true,
      send: () => command(0xfa, u32(0xffff_ffff), u16(128 | 64), 254, 0, 0, lenenc('u1'), 0, lenenc('u2')),
      record: [{ kind: 'bulk', values: ['u1', 'u2'], rowsReturned: 2, status: 'ok' }],
    });
  }
  return all;
}

/** MySQL leaves definitions out where it is asked to; their EOF packets come all the same. */
function withoutMetadata(
  run: typeof execute,
  flags: number,
  count: (parameters: number) => Buffer,
  types: (...list: readonly number[]) => Buffer,
): Case[] {
  return [
    sql('no definitions from now on', 'set resultset_metadata = NONE', { status: 'ok' }),
    sql('rows without definitions', 'select id, v from t1', { rowsReturned: 3 }),
    sql('several results without definitions', 'select 1; select id from t1', { rowsReturned: 4 }),
    {
      name: 'prepare without definitions',
      send: () => command(0x16, 'select id, v from t1 where id >= ?'),
      record: [{ status: 'ok' }],
    },
    {
      name: 'rows of it',
      send: (_raw, first) => run(first, flags, count(1), 0, 1, types(3), u32(2)),
      record: [{ values: [2], rowsReturned: 2 }],
    },
    {
      name: 'a cursor of it',
      send: (_raw, first) => run(first, flags | 1, count(1), 0, 1, types(3), u32(2)),
      record: [{ values: [2], rowsReturned: 0 }],
    },
    {
      name: 'its rows',
      send: (_raw, first) => command(0x1c, u32(first), u32(9)),
      record: [{ rowsReturned: 2 }],
    },
    sql('definitions again', 'set resultset_metadata = FULL', { status: 'ok' }),
  ];
}
