import { type Dialect, Lexer, type LexerOptions, TokenKind } from './lexer.ts';

/** One token, taken out of its lexer. `word` is in capitals for words and empty for all else. */
export interface Token {
  readonly kind: TokenKind;
  readonly word: string;
  /** What a word, quoted name or string stands for; the character itself for punctuation. */
  readonly value: string;
  readonly start: number;
  readonly end: number;
}

/** All tokens of a text, and whether it ended inside one. Not for the hot path: one object a token. */
export function tokenize(
  text: string,
  dialect: Dialect,
  options?: LexerOptions,
): { readonly tokens: readonly Token[]; readonly unterminated: boolean } {
  const lexer = new Lexer(text, dialect, options);
  const tokens: Token[] = [];
  while (lexer.next()) {
    tokens.push({
      kind: lexer.kind,
      word: lexer.keyword(),
      value: lexer.name(),
      start: lexer.start,
      end: lexer.end,
    });
  }
  return { tokens, unterminated: lexer.unterminated };
}

/**
 * Cuts tokens into statements at semicolons that stand outside parentheses and outside the bodies of routines. SQL
 * Server needs no semicolons: there the whole batch is one piece, and whoever judges it looks at every verb in it.
 */
export function splitStatements(tokens: readonly Token[], dialect: Dialect): (readonly Token[])[] {
  if (dialect === 'tds') return tokens.length === 0 ? [] : [tokens];
  const statements: Token[][] = [];
  let current: Token[] = [];
  let parentheses = 0;
  let blocks = 0;
  for (const token of tokens) {
    if (token.kind === TokenKind.punctuation) {
      if (token.value === '(') parentheses += 1;
      else if (token.value === ')') parentheses = Math.max(0, parentheses - 1);
      else if (token.value === ';' && parentheses === 0 && blocks === 0) {
        if (current.length > 0) statements.push(current);
        current = [];
        continue;
      }
    } else if (isRoutineBody(current)) {
      blocks = Math.max(0, blocks + blockChange(token, current));
    }
    current.push(token);
  }
  if (current.length > 0) statements.push(current);
  return statements;
}

const ROUTINES = new Set(['FUNCTION', 'PROCEDURE', 'TRIGGER', 'EVENT']);

/** The statement so far is one whose body may hold statements with semicolons of their own. */
function isRoutineBody(statement: readonly Token[]): boolean {
  const verb = statement[0]?.word;
  if (verb === 'BEGIN') return statement[1]?.word === 'NOT';
  if (verb !== 'CREATE' && verb !== 'ALTER') return false;
  // `CREATE OR REPLACE DEFINER = u@h PROCEDURE`: the kind stands within the first few words.
  for (let index = 1; index < Math.min(statement.length, 14); index += 1) {
    if (ROUTINES.has(statement[index]!.word)) return true;
  }
  return false;
}

function blockChange(token: Token, statement: readonly Token[]): number {
  const before = statement[statement.length - 1]?.word;
  if (token.word === 'BEGIN' || token.word === 'CASE') return before === 'END' ? 0 : 1;
  if (token.word === 'IF' || token.word === 'LOOP' || token.word === 'REPEAT' || token.word === 'WHILE')
    return 0;
  if (token.word === 'END') return -1;
  // `END IF`, `END LOOP` close what was never counted.
  return 0;
}
