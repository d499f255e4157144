import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Dialect } from '../../protocols/sql/lexer.ts';
import { StatementClasses, sharedSkeleton } from './classes.ts';
import { loadPostgresParser, relationsOf } from './relations.ts';
import { riskOf } from './risk.ts';

const parser = await loadPostgresParser();

function judgedOf(text: string, dialect: Dialect): unknown {
  return { ...relationsOf(text, dialect, parser), ...riskOf(text, dialect) };
}

/** `#` is a number, `~` a string, `@@` a comment or a blank. */
const STATEMENTS: Readonly<Record<Dialect, readonly string[]>> = {
  postgres: [
    'SELECT a FROM t@@WHERE b = # AND c = ~ LIMIT #',
    'INSERT INTO s.t (a, b) VALUES (#, ~), (#, ~) ON CONFLICT (a) DO UPDATE SET b = ~',
    'UPDATE t SET a = # WHERE b IN (#, #, #)@@',
    'DELETE FROM t WHERE a = ~::date + interval ~ AND b > -#',
    'WITH x AS (SELECT * FROM a WHERE b = #) DELETE FROM d USING x WHERE d.n = ~',
    'SELECT a::float(#), b::numeric(#, #), c::varchar(#) FROM t ORDER BY # OFFSET #',
    'SELECT * FROM t LIMIT #, #',
    'FETCH # FROM c',
    'ALTER INDEX i ALTER COLUMN # SET STATISTICS #',
    `SELECT U&"d!0061" UESCAPE ~, U&'d!0061' UESCAPE ~ FROM t`,
    'SELECT ~\n~ FROM t',
    'SELECT ~@@~ FROM t',
    "SELECT E'a\\'b'\n~ FROM t",
    'SELECT x#, #x, $1, #.# FROM t',
    'CREATE TABLE t (a varchar(#) DEFAULT ~, b float(#)) PARTITION BY RANGE (a)',
    'CREATE TABLE p PARTITION OF t FOR VALUES WITH (MODULUS #, REMAINDER #)',
    'ALTER ROLE r VALID UNTIL ~ CONNECTION LIMIT #',
    'COPY t FROM ~ WITH (DELIMITER ~)',
    'COPY t TO PROGRAM ~',
    'SET search_path = ~, ~; SELECT setval(~, #)',
    'SELECT pg_read_file(~), dblink(~, ~) FROM t TABLESAMPLE SYSTEM (#)',
    'EXPLAIN (FORMAT ~) SELECT extract(epoch FROM a), substring(b FROM # FOR #) FROM t',
    'CREATE FUNCTION f() RETURNS int LANGUAGE sql COST # AS ~',
    'DO ~',
    'SELECT JSON_VALUE(a, ~) FROM t WHERE b LIKE ~ ESCAPE ~',
    'SELECT a FROM t WHERE b = #; DELETE FROM u@@',
  ],
  mysql: [
    'SELECT `a`, b FROM `t 1` WHERE c = ~@@AND d = # LIMIT #, #',
    'INSERT INTO t VALUES (#, ~), (#, ~) ON DUPLICATE KEY UPDATE a = #',
    'SELECT _utf8~, x~, ~ ~ FROM t /*!50000 WHERE a = ~ */ @@',
    'CREATE USER ~@~ IDENTIFIED BY ~',
    'SELECT a FROM t INTO OUTFILE ~',
    'SELECT LOAD_FILE(~), sys_exec(~)',
    'PREPARE s FROM ~',
    'SET GLOBAL a = #, @b := ~',
    'UPDATE t SET a = ~@@WHERE b = # -- x\n; DELETE FROM t',
  ],
  tds: [
    'SELECT TOP # a FROM [dbo].[t] WHERE b = N~@@AND c IN (#, #)',
    'DELETE t WHERE a = # UPDATE u SET b = ~ SELECT ~',
    'EXEC sp_configure ~, #',
    'sp_configure ~, #',
    'ALTER SERVER ROLE ~ ADD MEMBER ana',
    'EXEC (~)',
    "SELECT * FROM OPENROWSET(~, ~, ~) AS r WHERE a = '#'",
    'DECLARE @a int = # PRINT ~ IF # = # DROP TABLE t',
    'INSERT INTO t (a) VALUES (0x#), ($#), (-#.#)',
  ],
};

const NUMBERS = [
  '0',
  '1',
  '7',
  '42',
  '60',
  '2147483647',
  '2147483648',
  '99999999999999999999',
  '1.5',
  '0.25',
  '1e5',
  '00012',
];
const STRINGS = [
  "''",
  "'a'",
  "'it''s'",
  "'('",
  "')'",
  "','",
  "'.'",
  "';'",
  "'!'",
  "'='",
  "'xp_cmdshell'",
  "'XP_CmdShell'",
  "'sysadmin'",
  "'outfile'",
  "'dblink'",
  "'DROP TABLE t'",
  "'DELETE FROM u'",
  "'SELECT'",
  "'WHERE'",
  "'/*'",
  "'--'",
  "'*/'",
  "'do'",
  "'exec'",
  "'a\\\\'",
  "'é€😀'",
  "'1 day'",
  '\'{"a": 1}\'',
  `'${'x'.repeat(300)}'`,
];
const GAPS = [' ', '\n', '  ', ' /* a */ ', '/*é*/', ' -- c\n', " /* ' */ ", ' /* a /* b */ c */ '];

const statement = (dialect: Dialect): fc.Arbitrary<string> =>
  fc
    .tuple(
      fc.constantFrom(...STATEMENTS[dialect]),
      fc.array(fc.constantFrom(...NUMBERS), { minLength: 4, maxLength: 4 }),
      fc.array(
        fc.oneof(
          fc.constantFrom(...STRINGS),
          fc.string({ maxLength: 12 }).map((text) => `'${text.replaceAll(/['\\\0]/g, '')}'`),
        ),
        { minLength: 4, maxLength: 4 },
      ),
      fc.constantFrom(...GAPS),
    )
    .map(([template, numbers, strings, gap]) => {
      let number = 0;
      let string = 0;
      return template
        .replaceAll('@@', () => gap)
        .replaceAll(/[#~]/g, (mark) => (mark === '#' ? numbers[number++ % 4]! : strings[string++ % 4]!));
    });

const WORDS =
  'SELECT INSERT INTO UPDATE DELETE FROM WHERE SET VALUES t s.u JOIN WITH AS ( ) , ; . = * DROP TABLE DATABASE TRUNCATE GRANT ON TO ana COPY PROGRAM OUTFILE EXECUTE xp_cmdshell SYSADMIN ALTER ROLE FOR IF CASE END BEGIN CREATE FUNCTION PROCEDURE OPENROWSET pg_authid @x $1 ? [a] `b` "c" EXPLAIN ANALYZE'.split(
    ' ',
  );
const soup = fc
  .array(
    fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom(...WORDS) },
      fc.constantFrom(...NUMBERS),
      fc.constantFrom(...STRINGS),
      fc.constantFrom('/*!50000', '*/', '#\n', "N'a'", '"d"'),
    ),
    { maxLength: 25 },
  )
  .chain((tokens) =>
    fc
      .array(fc.constantFrom('', ...GAPS), { minLength: tokens.length, maxLength: tokens.length })
      .map((gaps) => tokens.map((token, index) => token + gaps[index]!).join('')),
  );

describe.each<Dialect>(['postgres', 'mysql', 'tds'])('%s', (dialect) => {
  test('a text and its skeleton are judged alike', () => {
    let shared = 0;
    fc.assert(
      fc.property(fc.oneof({ weight: 3, arbitrary: statement(dialect) }, soup), (text) => {
        const skeleton = sharedSkeleton(text, dialect);
        if (skeleton === null) return;
        if (skeleton !== text) shared += 1;
        expect(judgedOf(skeleton, dialect)).toEqual(judgedOf(text, dialect));
        expect(sharedSkeleton(skeleton, dialect)).toBe(skeleton);
      }),
      { numRuns: 800 },
    );
    expect(shared).toBeGreaterThan(150);
  });
});

describe('what was judged is remembered', () => {
  test('of texts that differ in literals, one is parsed', () => {
    let parsed = 0;
    const classes = new StatementClasses((text) => {
      parsed += 1;
      return parser?.(text);
    });
    for (let id = 0; id < 100; id += 1) {
      expect(
        classes.judge(`UPDATE accounts SET note = 'n${id}' /* ${id} */ WHERE id = ${id}`, 'postgres'),
      ).toEqual({
        tables: ['accounts'],
        effects: ['write'],
        risk: 1,
        risk_reason: 'changes rows',
      });
    }
    expect(parsed).toBe(1);
  });

  test('but not where literals are statements', () => {
    const classes = new StatementClasses(parser);
    const judged = (table: string) =>
      classes.judge(`DO $$ BEGIN DELETE FROM ${table} WHERE a = 1; END $$`, 'postgres').tables;
    expect(judged('a')).toEqual(['a']);
    expect(judged('b')).toEqual(['b']);
    const run = (name: string) => classes.judge(`EXEC ('SELECT * FROM ${name}')`, 'tds').tables;
    expect(run('a')).toEqual(['a']);
    expect(run('b')).toEqual(['b']);
  });

  test('nor for the same text in another dialect', () => {
    const classes = new StatementClasses(null);
    expect(classes.judge('SELECT * FROM a # b', 'mysql').tables).toEqual(['a']);
    expect(classes.judge('SELECT * FROM a # b', 'postgres').tables).toEqual(['a']);
    expect(classes.judge('KILL 5', 'postgres')).toEqual(classes.judge('KILL 6', 'postgres'));
    expect(classes.judge('frobnicate', 'tds').effects).toEqual(['execute']);
    expect(classes.judge('frobnicate', 'postgres').effects).toEqual(['unknown']);
  });
});
