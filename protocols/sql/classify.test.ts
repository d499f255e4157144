import { describe, expect, test } from 'vitest';
import { classify, onlyReads } from './classify.ts';
import type { Dialect } from './lexer.ts';

describe('only reads', () => {
  test.each<[Dialect, string]>([
    ['postgres', 'select * from orders where id = $1'],
    ['postgres', 'with x as (select 1) select * from x'],
    ['postgres', 'begin; select 1; commit'],
    ['postgres', "SELECT 'drop table x'"],
    ['postgres', 'explain delete from t'],
    ['postgres', 'show search_path'],
    ['postgres', 'show transaction_read_only'],
    ['postgres', 'select role from users'],
    ['postgres', 'begin isolation level repeatable read, read only'],
    ['mysql', 'SELECT `insert` FROM t'],
    ['mysql', 'SELECT 1 INTO @a'],
    ['mysql', 'SHOW TABLES'],
    ['mysql', 'SET NAMES utf8mb4'],
    ['tds', 'SELECT TOP 1 [delete] FROM t'],
    ['tds', "IF 1 = 1 SELECT 'x'"],
  ])('%s: %s', (dialect, text) => {
    expect(onlyReads(text, dialect)).toBe(true);
  });

  test.each<[Dialect, string]>([
    ['postgres', 'with x as (delete from t returning *) select * from x'],
    ['postgres', 'select 1; drop table t'],
    ['postgres', 'select * into new from t'],
    ['postgres', 'explain analyze delete from t'],
    ['postgres', 'copy t to stdout'],
    ['postgres', 'select pg_terminate_backend(1)'],
    ['postgres', "select set_config('transaction_read_only', 'off', false)"],
    ['postgres', 'set transaction read write'],
    ['postgres', 'begin read write'],
    ['postgres', 'set role other'],
    ['postgres', 'reset all'],
    ['postgres', 'frobnicate'],
    ['postgres', "select 'unterminated"],
    ['postgres', 'do $$ begin end $$'],
    ['mysql', '/*!50001 DELETE FROM t */'],
    ['mysql', "SELECT 1 INTO OUTFILE '/tmp/x'"],
    ['mysql', "SELECT LOAD_FILE('/etc/passwd')"],
    ['mysql', 'CALL p()'],
    ['mysql', 'SET GLOBAL read_only = 0'],
    ['tds', 'SELECT 1 DELETE FROM t'],
    ['tds', 'SELECT * INTO #x FROM t'],
    ['tds', "EXEC('drop table t')"],
    ['tds', 'my_procedure 1'],
    ['tds', "xp_cmdshell 'dir'"],
    ['tds', "SELECT * FROM OPENROWSET('x', 'y', 'z')"],
  ])('not %s: %s', (dialect, text) => {
    expect(onlyReads(text, dialect)).toBe(false);
  });
});

test('relations are named as written', () => {
  const relations = (text: string, dialect: Dialect = 'postgres') => classify(text, dialect)[0]!.relations;
  expect(relations('select * from a.b x, c join "D e" on true')).toEqual(['a.b', 'c', 'D e']);
  expect(relations('insert into t (a) select 1 from s')).toEqual(['t', 's']);
  expect(relations('update only t set a = 1')).toEqual(['t']);
  expect(relations('SELECT * FROM [dbo].[Orders] o', 'tds')).toEqual(['dbo.Orders']);
  expect(relations('TRUNCATE TABLE t')).toEqual(['t']);
  expect(relations('select extract(year from now())')).toEqual([]);
});

test('routine bodies keep their semicolons in MySQL', () => {
  const text = 'CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END; SELECT 3';
  expect(classify(text, 'mysql').map(({ verb }) => verb)).toEqual(['CREATE', 'SELECT']);
});

test('statements know where they stand in the text', () => {
  const text = ' select 1 ; /* x */ delete from t ; ';
  expect(classify(text, 'postgres').map(({ start, end }) => text.slice(start, end))).toEqual([
    'select 1',
    'delete from t',
  ]);
});
