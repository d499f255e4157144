import { describe, expect, test } from 'vitest';
import type { Dialect } from './lexer.ts';
import { skeletonOf } from './skeleton.ts';

const TELLING = { values: new Set(['XP_CMDSHELL']), lengthMax: 11 };

describe('the skeleton of a statement', () => {
  test.each<[Dialect, string, string]>([
    ['postgres', 'SELECT a1 FROM t2 WHERE b = 42;', 'SELECT a1 FROM t2 WHERE b = 1;'],
    [
      'postgres',
      "UPDATE t SET a = 'it''s', b = 3.25 WHERE c = -7",
      "UPDATE t SET a = '', b = 1.5 WHERE c = -1",
    ],
    ['postgres', 'SELECT 2147483647, 2147483648, 0000000005', 'SELECT 1, 9999999999, 1'],
    ['postgres', 'SELECT 1e5, 0x1F, 1_000, .5, 5.', 'SELECT 1e5, 0x1F, 1_000, .5, 5.'],
    [
      'postgres',
      "SELECT E'a\\'b', x'ff', U&'\\0061', $$a$$, $1",
      "SELECT E'a\\'b', x'ff', U&'\\0061', $$a$$, $1",
    ],
    ['postgres', `SELECT U&"d!0061" UESCAPE '!'`, `SELECT U&"d!0061" UESCAPE '!'`],
    ['postgres', 'SELECT a::float(24), b::numeric(10, 2)', 'SELECT a::float(24), b::numeric(1, 1)'],
    [
      'postgres',
      'ALTER INDEX i ALTER COLUMN 2 SET STATISTICS 5',
      'ALTER INDEX i ALTER COLUMN 2 SET STATISTICS 1',
    ],
    ['postgres', "SELECT 'a'\n'b' -- c\n'd'", "SELECT ''\n'b' -- c\n'd'"],
    ['postgres', "/* a */ SELECT /* b /* c */ */ 5 -- 'd\n+ 6 /* e */", ' SELECT 1 + 1'],
    [
      'postgres',
      "SELECT split(a, ',', 'xp_CmdShell', '', 'x')",
      "SELECT split(a, ',', 'xp_CmdShell', '', '')",
    ],
    ['postgres', 'SELECT "5", a FROM "t 6"', 'SELECT "5", a FROM "t 6"'],
    ['mysql', `SELECT "a"'b', _utf8mb4'c\\'d', 0xFF, 1e5 # e`, `SELECT ""'', _utf8mb4'', 1, 1`],
    ['mysql', 'SELECT `5` /*!50000 , 7 */ FROM t -- x', 'SELECT `5` , 1 FROM t'],
    ['mysql', "SELECT /*!50000 'a' */ 'b'", "SELECT '' ''"],
    ['mysql', "SELECT 'xp\\_cmd\\shell'", "SELECT 'xp\\_cmd\\shell'"],
    [
      'tds',
      "SELECT N'a', [5], @p1, 0xAB FROM t WHERE n = N'xp_cmdshell'",
      "SELECT N'', [5], @p1, 1 FROM t WHERE n = N'xp_cmdshell'",
    ],
    ['tds', 'SELECT a.5, .25, b.c FROM t1.5', 'SELECT a.1, .1, b.c FROM t1.1'],
    ['tds', '', ''],
  ])('%s: %s', (dialect, text, skeleton) => {
    expect(skeletonOf(text, dialect, TELLING)).toBe(skeleton);
  });

  test.each<[Dialect, string]>([
    ['postgres', "SELECT 'a"],
    ['postgres', 'SELECT 1 /* a'],
    ['mysql', 'SELECT `a'],
    ['mysql', 'SELECT 1 /*!50000 + 1'],
    ['tds', 'SELECT [a'],
  ])('%s has none for a text that is not whole: %s', (dialect, text) => {
    expect(skeletonOf(text, dialect, TELLING)).toBeNull();
  });
});
