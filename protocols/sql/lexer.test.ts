import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Dialect, Lexer, type LexerOptions, TokenKind } from './lexer.ts';

const LETTERS = new Map(Object.entries(TokenKind).map(([name, kind]) => [kind, name]));

function tokens(text: string, dialect: Dialect, options?: LexerOptions): string[] {
  const lexer = new Lexer(text, dialect, options);
  const found: string[] = [];
  while (lexer.next()) found.push(`${LETTERS.get(lexer.kind)} ${text.slice(lexer.start, lexer.end)}`);
  return found;
}

describe('comments', () => {
  test('separate words and nest in PostgreSQL and SQL Server', () => {
    const expected = ['word alter', 'word user', 'word x'];
    expect(tokens('alter/**/user/* a /* b */ c */x', 'postgres')).toEqual(expected);
    expect(tokens('alter/**/user/* a /* b */ c */x', 'tds')).toEqual(expected);
  });

  test('do not nest in MySQL, and dashes need a blank behind them', () => {
    expect(tokens('a /* /* */ b', 'mysql')).toEqual(['word a', 'word b']);
    expect(tokens('1--1', 'mysql')).toEqual(['number 1', 'punctuation -', 'punctuation -', 'number 1']);
    expect(tokens('1-- 1', 'mysql')).toEqual(['number 1']);
    expect(tokens('a#b\nc', 'mysql')).toEqual(['word a', 'word c']);
  });

  test('that MySQL and MariaDB execute are read', () => {
    expect(tokens('/*!50001 DROP */ /*M!100100 USER */ x', 'mysql')).toEqual([
      'word DROP',
      'word USER',
      'word x',
    ]);
  });
});

describe('literals', () => {
  test('backslashes escape where the dialect says so', () => {
    expect(tokens(String.raw`'a\'b'`, 'mysql')).toEqual([String.raw`string 'a\'b'`]);
    expect(tokens(String.raw`E'a\'b'`, 'postgres')).toEqual([String.raw`string E'a\'b'`]);
    expect(tokens(String.raw`'a\' b`, 'postgres')).toEqual([String.raw`string 'a\'`, 'word b']);
    expect(tokens(String.raw`'a\' b`, 'mysql', { noBackslashEscapes: true })).toEqual([
      String.raw`string 'a\'`,
      'word b',
    ]);
  });

  test('dollar quotes keep what is inside', () => {
    expect(tokens('$f$ a $$ b $f$ c', 'postgres')).toEqual(['string $f$ a $$ b $f$', 'word c']);
    expect(tokens('select $1', 'postgres')).toEqual(['word select', 'parameter $1']);
  });

  test('double quotes are names or, in MySQL, strings', () => {
    expect(tokens('"a""b"', 'postgres')).toEqual(['quoted "a""b"']);
    expect(tokens('"a"', 'mysql')).toEqual(['string "a"']);
    expect(tokens('"a"', 'mysql', { ansiQuotes: true })).toEqual(['quoted "a"']);
    expect(tokens('[a]]b].[c]', 'tds')).toEqual(['quoted [a]]b]', 'punctuation .', 'quoted [c]']);
  });

  test('a text that ends inside one says so', () => {
    for (const [text, dialect] of [
      ["'a", 'postgres'],
      ['$$a', 'postgres'],
      ['"a', 'postgres'],
      ['/* a', 'tds'],
      ['[a', 'tds'],
      ['/*! a', 'mysql'],
    ] as const) {
      const lexer = new Lexer(text, dialect);
      while (lexer.next());
      expect(lexer.unterminated, text).toBe(true);
    }
  });
});

test('names are what the server takes them for', () => {
  const name = (text: string, dialect: Dialect): string => {
    const lexer = new Lexer(text, dialect);
    lexer.next();
    return lexer.name();
  };
  expect(name('App_RO', 'postgres')).toBe('app_ro');
  expect(name('"App""RO"', 'postgres')).toBe('App"RO');
  expect(name(String.raw`U&"\0061pp"`, 'postgres')).toBe('app');
  expect(name('`a``b`', 'mysql')).toBe('a`b');
  expect(name('[a]]b]', 'tds')).toBe('a]b');
  expect(name("'it''s'", 'mysql')).toBe("it's");
});

test('literals are what the server takes them for', () => {
  const literal = (text: string, dialect: Dialect): string => {
    const lexer = new Lexer(text, dialect);
    lexer.next();
    return lexer.literal();
  };
  expect(literal(String.raw`E'\x44\122\u004f\U00000050\n\''''`, 'postgres')).toBe("DROP\n''");
  expect(literal(String.raw`U&'\0044ROP'`, 'postgres')).toBe('DROP');
  expect(literal(String.raw`'a\nb'`, 'postgres')).toBe(String.raw`a\nb`);
  expect(literal(String.raw`'a\nb\x\0'`, 'mysql')).toBe('a\nbx\0');
  expect(literal(String.raw`N'a\nb'`, 'tds')).toBe(String.raw`a\nb`);
});

test('every text is walked to its end, token behind token', () => {
  const alphabet = fc.string({
    unit: fc.constantFrom(...`'"\`[]$@#?/*-!\\;.eEnNuU&_x01 \n(),é`.split('')),
    maxLength: 60,
  });
  fc.assert(
    fc.property(alphabet, fc.constantFrom<Dialect>('postgres', 'mysql', 'tds'), (text, dialect) => {
      const lexer = new Lexer(text, dialect);
      let last = 0;
      while (lexer.next()) {
        expect(lexer.start).toBeGreaterThanOrEqual(last);
        expect(lexer.end).toBeGreaterThan(lexer.start);
        last = lexer.end;
      }
      expect(lexer.end).toBe(text.length);
    }),
    { numRuns: 3000 },
  );
});
