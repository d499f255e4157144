import { Lexer, TokenKind } from '../sql/lexer.ts';
import { splitStatements, tokenize } from '../sql/tokens.ts';
import type { StatementResult } from '../statement.ts';
import { STATUS_NO_BACKSLASH_ESCAPES } from './capabilities.ts';

/** How many `?` placeholders a statement's text has. `status` is the server's last, for how it reads backslashes. */
export function countPlaceholders(text: string, status: number): number {
  const lexer = new Lexer(text, 'mysql', options(status));
  let count = 0;
  while (lexer.next()) {
    if (lexer.kind === TokenKind.parameter && text.charCodeAt(lexer.start) === 0x3f) count += 1;
  }
  return count;
}

/** What a text changes in the session by plain statements, for servers and clients that do not track it. */
export interface SessionEffects {
  readonly charset: string | null;
  readonly database: string | null;
}

/** The first three letters of the two statements that are looked into, in lower case. */
const SET_LETTERS = 0x73_65_74;
const USE_LETTERS = 0x75_73_65;
const NOTHING: SessionEffects = { charset: null, database: null };

const SET_CHARSET =
  /^\s*set\s+(?:(?:names|charset|character\s+set)\s+|(?:session\s+|@@(?:session\.)?)?character_set_client\s*:?=\s*)['"`]?(\w+)/i;
const USE = /^\s*use\s+(?:`((?:[^`]|``)+)`|([^\s;]+))\s*;?\s*$/i;

/** Looks at the text of a statement that succeeded. Costs a comparison for all but SET and USE. */
export function sessionEffects(text: string): SessionEffects {
  const first = text.charCodeAt(0);
  if (first > 0x20) {
    const letters = ((first | 0x20) << 16) | ((text.charCodeAt(1) | 0x20) << 8) | text.charCodeAt(2) | 0x20;
    if (letters !== SET_LETTERS && letters !== USE_LETTERS) return NOTHING;
  }
  const charset = SET_CHARSET.exec(text)?.[1] ?? null;
  if (charset !== null) return { charset, database: null };
  const use = USE.exec(text);
  if (use === null) return NOTHING;
  return { charset: null, database: use[1]?.replaceAll('``', '`') ?? use[2] ?? null };
}

/** Statements whose number of results is theirs alone to know. */
const SEVERAL_RESULTS = new Set([
  'EXECUTE',
  'BEGIN',
  'IF',
  'CASE',
  'WHILE',
  'LOOP',
  'REPEAT',
  'FOR',
  'DECLARE',
]);

/**
 * Gives each result of a text with several statements the statement it came from. `closed[i]` says that result i was an
 * OK or an error rather than rows: a CALL's results end with its OK. Where the text cannot be split for certain, the
 * results stay without text. A statement that failed is the last result.
 */
export function attributeResults(
  text: string,
  status: number,
  results: StatementResult[],
  closed: readonly boolean[],
  failed: boolean,
): void {
  const { tokens, unterminated } = tokenize(text, 'mysql', options(status));
  if (unterminated) return;
  const texts: string[] = [];
  let consumed = 0;
  const statements = splitStatements(tokens, 'mysql');
  for (const statement of statements) {
    if (texts.length >= results.length) break;
    consumed += 1;
    const verb = statement[0]!.word;
    if (SEVERAL_RESULTS.has(verb) && (verb !== 'BEGIN' || statement[1]?.word === 'NOT')) return;
    const own = text.slice(statement[0]!.start, statement[statement.length - 1]!.end);
    if (verb === 'CALL') while (texts.length < results.length - 1 && !closed[texts.length]) texts.push(own);
    texts.push(own);
  }
  if (texts.length !== results.length || (!failed && consumed !== statements.length)) return;
  for (let index = 0; index < texts.length; index += 1) {
    results[index] = { ...results[index]!, text: texts[index]! };
  }
}

function options(status: number) {
  return (status & STATUS_NO_BACKSLASH_ESCAPES) !== 0 ? { noBackslashEscapes: true } : {};
}
