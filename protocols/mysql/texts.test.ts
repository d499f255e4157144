import { describe, expect, test } from 'vitest';
import type { StatementResult } from '../statement.ts';
import { STATUS_NO_BACKSLASH_ESCAPES } from './capabilities.ts';
import { attributeResults, countPlaceholders, sessionEffects } from './texts.ts';

function texts(text: string, closed: readonly boolean[], failed = false, status = 2): (string | undefined)[] {
  const results: StatementResult[] = closed.map(() => ({ tag: null, rowsReturned: 0, rowsAffected: 0 }));
  attributeResults(text, status, results, closed, failed);
  return results.map((result) => result.text);
}

describe('which statement a result came from', () => {
  test('strings, names and comments hide semicolons', () => {
    const text = "select ';\\';' a; select `;`; /* ; */ select 3 # ;\n; select \"--;\" -- ;";
    expect(texts(text, [false, false, false, false])).toEqual([
      "select ';\\';' a",
      'select `;`',
      'select 3',
      'select "--;"',
    ]);
  });

  test('a backslash is a letter where the server says so', () => {
    const text = "select 'a\\'; select 2";
    expect(texts(text, [false, false], false, STATUS_NO_BACKSLASH_ESCAPES)).toEqual([
      "select 'a\\'",
      'select 2',
    ]);
    expect(texts(text, [false, false])).toEqual([undefined, undefined]);
  });

  test('a call has results until its OK', () => {
    expect(texts('call a(); do 1; call b()', [false, false, true, true, true])).toEqual([
      'call a()',
      'call a()',
      'call a()',
      'do 1',
      'call b()',
    ]);
  });

  test('the failed statement is the last', () => {
    expect(texts('select 1; select x; select 3', [false, true], true)).toEqual(['select 1', 'select x']);
    expect(texts('call a(); select 3', [false, true], true)).toEqual(['call a()', 'call a()']);
  });

  test('what cannot be split for certain stays whole', () => {
    for (const [text, closed] of [
      ['prepare s from @x; execute s', [true, false]],
      ['begin not atomic select 1; select 2; end', [false, false, true]],
      ["select 1; select 'open", [false, false]],
      ['select 1; select 2; select 3', [false, false]],
    ] as const) {
      expect(texts(text, closed)).toEqual(closed.map(() => undefined));
    }
  });

  test('the body of a routine is one statement', () => {
    const create = 'create procedure p() begin select 1; select 2; end';
    expect(texts(`${create}; select 3`, [true, false])).toEqual([create, 'select 3']);
  });
});

test('placeholders are counted outside of strings and comments', () => {
  expect(
    countPlaceholders('select ?, \'?\', `?`, "?" /* ? */ from t where a=? -- ?\n and b in (?,?)', 2),
  ).toBe(4);
  expect(countPlaceholders('select 1', 2)).toBe(0);
});

test.each([
  ['SET NAMES utf8mb4 COLLATE utf8mb4_bin', 'utf8mb4', null],
  ["set names 'latin1'", 'latin1', null],
  ['SET CHARACTER SET gbk', 'gbk', null],
  ['set @@session.character_set_client = cp1251', 'cp1251', null],
  ['set autocommit=0', null, null],
  ['use lab', null, 'lab'],
  ['USE `a``b` ;', null, 'a`b'],
  ['select 1', null, null],
  ['update t set names = 1', null, null],
])('%s', (text, charset, database) => {
  expect(sessionEffects(text)).toEqual({ charset, database });
});
