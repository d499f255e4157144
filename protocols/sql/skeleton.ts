import { type Dialect, Lexer, TokenKind } from './lexer.ts';

/** The largest constant that PostgreSQL's grammar takes for an integer; longer ones are numerics to it. */
const INTEGER_MAX = 2_147_483_647;

/** String values that somebody looks at: in capitals, none longer than `lengthMax`. */
export interface Telling {
  readonly values: ReadonlySet<string>;
  readonly lengthMax: number;
}

/**
 * `text` with its literals replaced by others of their kind and without its comments: equal for statements that differ in
 * nothing else. Null for a text that ends inside a literal or comment.
 *
 * It has the same tokens as `text`, in the same order, and PostgreSQL's grammar takes it if and only if it takes `text`:
 * whoever does not ask what literals say makes the same of both. Strings stay that are one of `telling`, in any case, or
 * one character of punctuation; and so do literals whose form decides how PostgreSQL reads them: `E'…'`, `U&'…'`,
 * `x'…'`, dollar quotes, numbers with letters in them.
 */
export function skeletonOf(text: string, dialect: Dialect, telling: Telling): string | null {
  const lexer = new Lexer(text, dialect);
  let skeleton = '';
  let copied = 0;
  /** Where the token before ended, and what it was. */
  let before = 0;
  let kind: TokenKind = TokenKind.end;
  let context: Context = Context.none;
  while (lexer.next()) {
    const { start, end } = lexer;
    // Between strings of PostgreSQL a line break means that one continues the other, with the first one's escapes.
    const continues = dialect === 'postgres' && kind === TokenKind.string && lexer.kind === TokenKind.string;
    if (start - before > 1 && !continues && hasComment(text, before, start)) {
      skeleton += `${text.slice(copied, before)} `;
      copied = start;
    }
    if (lexer.kind === TokenKind.number) {
      const number = numberFor(text, start, end, dialect);
      if (number !== null && context !== Context.number) {
        skeleton += text.slice(copied, start) + number;
        copied = end;
      }
    } else if (lexer.kind === TokenKind.string) {
      const quoteAt = quoteOf(text, start, dialect);
      const stays = quoteAt === -1 || context === Context.string || tells(lexer, quoteAt, telling);
      if (!stays && !continues) {
        skeleton += text.slice(copied, quoteAt + 1);
        copied = end - 1;
      }
    }
    before = end;
    kind = lexer.kind;
    context = dialect === 'postgres' ? contextBehind(lexer, context) : Context.none;
  }
  return lexer.unterminated ? null : skeleton + text.slice(copied, before);
}

/** Places where PostgreSQL's grammar asks what a literal is: `float(n)`, `ALTER COLUMN n`, `UESCAPE 'c'`. */
const Context = { none: 0, float: 1, number: 2, string: 3 } as const;
type Context = (typeof Context)[keyof typeof Context];

function contextBehind(lexer: Lexer, context: Context): Context {
  if (lexer.kind === TokenKind.word) {
    switch (lexer.end - lexer.start) {
      case 5:
        return lexer.is('FLOAT') ? Context.float : Context.none;
      case 6:
        return lexer.is('COLUMN') ? Context.number : Context.none;
      case 7:
        return lexer.is('UESCAPE') ? Context.string : Context.none;
      default:
        return Context.none;
    }
  }
  return context === Context.float && lexer.isPunctuation('(') ? Context.number : Context.none;
}

/** Whether there is more than blanks between two tokens. */
function hasComment(text: string, from: number, to: number): boolean {
  for (let at = from; at < to; at += 1) {
    const code = text.charCodeAt(at);
    if (code > 0x20 && code !== 0xa0) return true;
  }
  return false;
}

/** A number of the same kind; null for those of PostgreSQL that are more than digits and a point between. */
function numberFor(text: string, start: number, end: number, dialect: Dialect): string | null {
  // What begins with a point may stand directly behind a word.
  if (dialect !== 'postgres') return text.charCodeAt(start) === 0x2e ? '.1' : '1';
  let point = -1;
  for (let at = start; at < end; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 0x2e && point === -1) point = at;
    else if (code < 0x30 || code > 0x39) return null;
  }
  if (point !== -1) return point === start || point === end - 1 ? null : '1.5';
  return end - start < 10 || Number(text.slice(start, end)) <= INTEGER_MAX ? '1' : '9999999999';
}

/** Where the opening quote of a string stands; -1 for those of PostgreSQL that have a prefix. */
function quoteOf(text: string, start: number, dialect: Dialect): number {
  for (let at = start; ; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 0x27 || code === 0x22) return at;
    if (dialect === 'postgres') return -1;
  }
}

function tells(lexer: Lexer, quoteAt: number, { values, lengthMax }: Telling): boolean {
  const length = lexer.end - quoteAt - 2;
  // Each character may be escaped.
  if (length > 2 * lengthMax) return false;
  let value = lexer.text.slice(quoteAt + 1, lexer.end - 1);
  if (/['"\\]/.test(value)) value = lexer.literal();
  if (value.length === 1) return !/[\p{L}\p{N}]/u.test(value);
  return value.length <= lengthMax && values.has(value.toUpperCase());
}
