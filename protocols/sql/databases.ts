import { type Dialect, type LexerOptions, TokenKind } from './lexer.ts';
import { beginsWord } from './scan.ts';
import { splitStatements, tokenize } from './tokens.ts';

/** The most databases named by one text that are reported; a text that names more is none that a person wrote. */
const DATABASES_MAX = 100;

const USE = ['USE'];

/**
 * Databases that `text` makes the session's own by `USE`. PostgreSQL has no such statement: there a session stays in its
 * database. Names that are only qualified (`other.table`) are not reported: what they may reach is for the account's own
 * rights to say.
 */
export function databasesOpened(text: string, dialect: Dialect, options?: LexerOptions): string[] {
  if (dialect === 'postgres' || !beginsWord(text, USE)) return [];
  const opened: string[] = [];
  for (const statement of splitStatements(tokenize(text, dialect, options).tokens, dialect)) {
    // SQL Server's batches need no separators: the reserved word stands for itself wherever it comes, but not in hints.
    for (let index = 0; index < statement.length && opened.length < DATABASES_MAX; index += 1) {
      if (statement[index]!.word !== 'USE' || (dialect === 'mysql' && index > 0)) continue;
      const name = statement[index + 1];
      const isName = name?.kind === TokenKind.word || name?.kind === TokenKind.quoted;
      const before = statement[index - 1]?.value;
      if (isName && before !== '(' && before !== ',') opened.push(name.value);
    }
  }
  return opened;
}
