import { describe, expect, test } from 'vitest';
import type { Dialect } from '../../protocols/sql/lexer.ts';
import { executedBy, looksInside } from './inner-statements.ts';
import { loadPostgresParser, relationsOf } from './relations.ts';
import { type Risk, riskOf } from './risk.ts';

const parser = await loadPostgresParser();

/** Text, risk, tables; and whether all that runs can be read. */
const TABLE: readonly [Dialect, string, Risk, readonly string[], boolean][] = [
  ['postgres', 'DO $$ BEGIN PERFORM 1; END $$', 'none', [], true],
  ['postgres', 'DO $$ BEGIN DELETE FROM s.orders; END $$', 'high', ['s.orders'], true],
  ['postgres', `DO $$BEGIN IF true THEN UPDATE t SET a = 1 WHERE b = 2; END IF; END$$`, 'low', ['t'], true],
  ['postgres', `DO 'BEGIN TRUNCATE t; END' LANGUAGE plpgsql`, 'high', ['t'], true],
  [
    'postgres',
    `DO LANGUAGE 'plpgsql' $x$ BEGIN EXECUTE 'DROP DATABASE orders'; END $x$`,
    'critical',
    [],
    true,
  ],
  [
    'postgres',
    `DO $$ BEGIN EXECUTE $q$ DO $r$ BEGIN EXECUTE 'TRUN' || 'CATE deep'; END $r$ $q$; END $$`,
    'high',
    ['deep'],
    true,
  ],
  ['postgres', `DO E'BEGIN \\x44ELETE FROM t; END'`, 'high', ['t'], true],
  [
    'postgres',
    'DO $$ DECLARE n int; BEGIN SELECT count(*) INTO STRICT n FROM t; FOR r IN SELECT * FROM u LOOP NULL; END LOOP; END $$',
    'none',
    ['t', 'u'],
    true,
  ],
  [
    'postgres',
    'DO $$ BEGIN UPDATE t SET a = CASE WHEN b THEN 1 ELSE 2 END WHERE c = 3; END $$',
    'low',
    ['t'],
    true,
  ],
  [
    'postgres',
    'DO $$ BEGIN MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE; END $$',
    'low',
    ['t', 's'],
    true,
  ],
  ['postgres', `DO $$ BEGIN EXECUTE format('DROP TABLE %I', n); END $$`, 'high', [], false],
  ['postgres', `DO $$ BEGIN EXECUTE 'DROP SCHEMA ' || n; END $$`, 'critical', [], false],
  [
    'postgres',
    `DO $$ BEGIN FOR r IN EXECUTE 'SELECT * FROM t WHERE a = ' || n USING 1 LOOP END LOOP; END $$`,
    'high',
    ['t'],
    false,
  ],
  ['postgres', 'DO $$ import os $$ LANGUAGE plpython3u', 'high', [], false],
  ['postgres', 'INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING', 'low', ['t'], true],
  ['postgres', 'EXECUTE p(1)', 'low', [], true],
  ['mysql', `PREPARE s FROM 'SELECT * FROM t WHERE a = ?'`, 'none', ['t'], true],
  ['mysql', `PREPARE s FROM 'DELETE\\nFROM t'`, 'high', ['t'], true],
  ['mysql', `/*!50000PREPARE s FROM "DROP DATABASE d"*/`, 'critical', [], true],
  ['mysql', `SET @s = 'TRUNCATE t'; PREPARE p FROM @s`, 'high', ['t'], true],
  ['mysql', `SET @s = CONCAT('DROP', ' TABLE ', 't'); PREPARE p FROM @s`, 'high', ['t'], true],
  ['mysql', 'PREPARE p FROM @s', 'high', [], false],
  ['mysql', `EXECUTE IMMEDIATE 'UPDATE t SET a = 1'`, 'high', ['t'], true],
  ['mysql', `EXECUTE IMMEDIATE CONCAT('SELECT * FROM t ', @w)`, 'high', ['t'], false],
  ['mysql', `EXECUTE IMMEDIATE x'44524f50'`, 'high', [], false],
  ['mysql', 'EXECUTE s', 'low', [], true],
  ['tds', `EXEC('SELECT * FROM dbo.t')`, 'low', ['dbo.t'], true],
  ['tds', `EXECUTE (N'DROP ' + N'DATABASE d') AT other`, 'critical', [], true],
  ['tds', `EXEC sp_executesql N'DELETE FROM [Order Lines]'`, 'high', ['order lines'], true],
  [
    'tds',
    `EXEC @r = master..sp_executesql @params = N'@a int', @stmt = N'TRUNCATE TABLE t', @a = 1`,
    'high',
    ['t'],
    true,
  ],
  ['tds', `sp_executesql N'UPDATE t SET a = 1 WHERE b = @b', N'@b int', 1`, 'low', ['t'], true],
  ['tds', `DECLARE @s AS nvarchar(max) = N'DELETE t'; EXEC (@s)`, 'high', [], true],
  [
    'tds',
    `DECLARE @a int, @s nvarchar(max) SET @s = N'DELETE ' SET @s += N'FROM t' EXEC sp_executesql @s`,
    'high',
    ['t'],
    true,
  ],
  ['tds', `DECLARE @s nvarchar(99); EXEC p @s OUTPUT; SET @s = 'SELECT 1'; EXEC(@s)`, 'high', [], false],
  ['tds', `EXEC ('SELECT * FROM ' + @t + ' JOIN u ON 1 = 1')`, 'high', ['u'], false],
  ['tds', 'EXEC @procedure', 'high', [], false],
  ['tds', `EXEC('EXEC xp_cmdshell ''dir''')`, 'critical', [], true],
  ['tds', `EXEC sp_MSforeachtable 'TRUNCATE TABLE ?'`, 'high', [], true],
  ['tds', 'GRANT EXECUTE ON p TO ana', 'high', [], true],
];

describe('statements in strings that a statement runs', () => {
  test.each(TABLE)('%s: %s', (dialect, text, risk, tables, whole) => {
    const { effects, ...relations } = relationsOf(text, dialect, parser);
    expect({ risk: riskOf(text, dialect).level, tables: [...relations.tables].sort() }).toEqual({
      risk,
      tables: [...tables].sort(),
    });
    expect(executedBy(text, dialect).unread).toBe(!whole);
    expect(effects.includes('unknown')).toBe(!whole);
  });

  test('strings too deep or too long are not taken for harmless', () => {
    const quoted = (text: string): string => `EXEC('${text.replaceAll("'", "''")}')`;
    let text = 'DROP DATABASE d';
    for (let depth = 0; depth < 4; depth += 1) text = quoted(text);
    expect(riskOf(text, 'tds').level).toBe('critical');
    expect(riskOf(quoted(text), 'tds').level).toBe('high');
    expect(
      executedBy(`DECLARE @s nvarchar(max) = '${'x'.repeat(100_000)}'${' EXEC(@s)'.repeat(9)}`, 'tds'),
    ).toEqual(expect.objectContaining({ unread: true }));
  });

  test.each<[Dialect, string, string]>([
    ['tds', `DECLARE @s nvarchar(max) = 'ab'`, ' SET @s = @s + @s'],
    ['tds', '', 'EXEC('],
    ['tds', '', 'EXEC sp_executesql '],
    ['tds', '', 'SET @a=(@a='],
    ['tds', '', 'DECLARE @a int, '],
    ['mysql', '', 'PREPARE s FROM '],
    ['mysql', '', 'EXECUTE IMMEDIATE ('],
    ['postgres', 'DO $$', 'EXECUTE '],
    ['postgres', 'DO $$', 'EXECUTE ('],
    ['postgres', 'DO $$', 'SELECT 1 INTO '],
  ])('%s: a text of many %s%s is read in time', (dialect, head, piece) => {
    const text =
      head + piece.repeat(Math.ceil(250_000 / piece.length)) + (dialect === 'postgres' ? '$$' : '');
    const began = performance.now();
    riskOf(text, dialect);
    expect(performance.now() - began).toBeLessThan(3_000);
  });

  test('most statements need no look inside', () => {
    for (const text of [
      'SELECT do_it FROM t',
      'INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 1',
    ])
      expect(looksInside(text, 'postgres')).toBe(false);
    expect(looksInside('SELECT a FROM t', 'mysql')).toBe(false);
    expect(looksInside(`UPDATE t SET a = 'b'`, 'tds')).toBe(false);
  });
});
