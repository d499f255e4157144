import { describe, expect, test } from 'vitest';
import { loadPostgresParser, relationsOf } from './relations.ts';

const parser = await loadPostgresParser();

describe('PostgreSQL, by its own parser', () => {
  test.each([
    ['SELECT * FROM a JOIN s.b USING (id)', ['a', 's.b']],
    [
      'WITH x AS (SELECT * FROM a) DELETE FROM d USING x WHERE id IN (SELECT id FROM "E f")',
      ['d', 'e f', 'a'],
    ],
    ['WITH x AS (SELECT 1) SELECT * FROM x JOIN public.x y ON true', ['public.x']],
    ['COPY sales.orders FROM STDIN', ['sales.orders']],
    ['DROP TABLE IF EXISTS a, s.b', ['a', 's.b']],
    ['DROP FUNCTION f(int)', []],
    ['TRUNCATE a, b', ['a', 'b']],
    ['CREATE TABLE n AS SELECT * FROM o', ['o', 'n']],
    ['MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN DELETE', ['t', 's']],
    ['GRANT SELECT ON a TO u', ['a']],
    ['INSERT INTO t SELECT * FROM (SELECT * FROM u) v', ['t', 'u']],
  ])('%s', (text, tables) => {
    expect([...relationsOf(text, 'postgres', parser).tables].sort()).toEqual([...tables].sort());
  });

  test('what cannot be parsed is judged by its words', () => {
    expect(relationsOf('SELECT * FROM a WHERE WHERE', 'postgres', parser).tables).toEqual(['a']);
    expect(relationsOf(`SELECT ${'('.repeat(2000)}1`, 'postgres', parser).tables).toEqual([]);
    expect(
      relationsOf(`INSERT INTO big VALUES ${'(1),'.repeat(5000)}(2)`, 'postgres', parser).tables,
    ).toEqual(['big']);
  });
});

test('other dialects by their words', () => {
  expect(relationsOf('SELECT * FROM `a b` JOIN c', 'mysql', parser)).toEqual({
    tables: ['a b', 'c'],
    effects: ['read'],
  });
  expect(relationsOf('DELETE FROM [dbo].[Orders]', 'tds', parser)).toEqual({
    tables: ['dbo.orders'],
    effects: ['write'],
  });
});
