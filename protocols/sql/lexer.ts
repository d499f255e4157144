/**
 * One-pass lexers of the three SQL dialects: where a text's words, names, literals and comments begin and end, and
 * nothing of its grammar.
 *
 * What a rule is decided on must be read as the server reads it, so each dialect's own ways are followed: nested
 * comments (PostgreSQL, SQL Server), comments that are executed (MySQL's `/*! … *​/`), dollar quotes, backslash escapes,
 * bracketed names. A text that ends inside a literal or comment is `unterminated`: the server will refuse it, and a
 * rule treats it as one that may do anything.
 *
 * Sources: PostgreSQL documentation 4.1 and `src/backend/parser/scan.l`; MySQL Reference Manual 11; MariaDB
 * documentation on comments; Transact-SQL reference on identifiers and constants.
 */

export type Dialect = 'postgres' | 'mysql' | 'tds';

export const TokenKind = {
  end: 0,
  /** An unquoted identifier or keyword. */
  word: 1,
  /** A quoted identifier: `"x"`, `` `x` ``, `[x]`. */
  quoted: 2,
  /** A string literal, with its prefix (`E`, `N`, `_utf8`, dollar tag) where it has one. */
  string: 3,
  number: 4,
  /** `$1`, `?`, `@x`, `@@x`, `:x`. */
  parameter: 5,
  /** One character of anything else. */
  punctuation: 6,
} as const;
export type TokenKind = (typeof TokenKind)[keyof typeof TokenKind];

export interface LexerOptions {
  /** PostgreSQL: `standard_conforming_strings = off`, so that a backslash escapes in plain literals. */
  readonly backslashEscapes?: boolean;
  /** MySQL: `sql_mode` has NO_BACKSLASH_ESCAPES. */
  readonly noBackslashEscapes?: boolean;
  /** MySQL: `sql_mode` has ANSI_QUOTES, so that `"x"` is a name. */
  readonly ansiQuotes?: boolean;
}

const TAB = 0x09;
const SPACE = 0x20;
const NO_BREAK_SPACE = 0xa0;
const DOUBLE_QUOTE = 0x22;
const HASH = 0x23;
const DOLLAR = 0x24;
const QUOTE = 0x27;
const STAR = 0x2a;
const DASH = 0x2d;
const SLASH = 0x2f;
const QUESTION = 0x3f;
const AT = 0x40;
const BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const UNDERSCORE = 0x5f;
const BACKTICK = 0x60;

/** Walks a text token by token: `while (lexer.next()) …`, looking at `kind`, `start` and `end`. */
export class Lexer {
  readonly text: string;
  readonly dialect: Dialect;
  kind: TokenKind = TokenKind.end;
  /** UTF-16 offsets of the current token: first character, and one past the last. */
  start = 0;
  end = 0;
  /** The text ended inside a literal, a quoted name or a comment. */
  unterminated = false;
  readonly #backslash: boolean;
  readonly #ansiQuotes: boolean;
  /** Inside a MySQL comment that is executed: its end is no token. */
  #inExecutedComment = false;

  constructor(text: string, dialect: Dialect, options: LexerOptions = {}) {
    this.text = text;
    this.dialect = dialect;
    this.#backslash =
      dialect === 'mysql' ? options.noBackslashEscapes !== true : options.backslashEscapes === true;
    this.#ansiQuotes = dialect !== 'mysql' || options.ansiQuotes === true;
  }

  /** Moves to the next token; false at the end of the text. */
  next(): boolean {
    const start = this.#skipBlank(this.end);
    const { text } = this;
    this.start = start;
    if (start >= text.length) {
      this.kind = TokenKind.end;
      this.end = start;
      return false;
    }
    const code = text.charCodeAt(start);
    if (code === QUOTE) this.#string(start);
    else if (code === DOUBLE_QUOTE) this.#doubleQuote(start);
    else if (code === BACKTICK && this.dialect === 'mysql') this.#quotedName(start, BACKTICK);
    else if (code === BRACKET && this.dialect === 'tds') this.#quotedName(start, 0x5d);
    else if (code === DOLLAR && this.dialect === 'postgres') this.#dollar(start);
    else if (isDigit(code) || (code === 0x2e && isDigit(text.charCodeAt(start + 1)))) this.#number(start);
    else if (isWordStart(code, this.dialect)) this.#word(start);
    else if (code === AT && this.dialect !== 'postgres') this.#variable(start);
    else if (code === QUESTION && this.dialect === 'mysql') this.#take(TokenKind.parameter, start + 1);
    else this.#take(TokenKind.punctuation, start + 1);
    return true;
  }

  /** The current word in capitals; empty for other kinds. */
  keyword(): string {
    return this.kind === TokenKind.word ? this.text.slice(this.start, this.end).toUpperCase() : '';
  }

  /** Whether the current token is the word `keyword` (given in capitals), in any case. */
  is(keyword: string): boolean {
    return (
      this.kind === TokenKind.word &&
      this.end - this.start === keyword.length &&
      this.text.slice(this.start, this.end).toUpperCase() === keyword
    );
  }

  /** Whether the current token is this one punctuation character. */
  isPunctuation(character: string): boolean {
    return this.kind === TokenKind.punctuation && this.text[this.start] === character;
  }

  /** The name that a word, quoted name or (as MySQL's account names are) string literal stands for. */
  name(): string {
    const raw = this.text.slice(this.start, this.end);
    if (this.kind === TokenKind.word) return this.dialect === 'postgres' ? raw.toLowerCase() : raw;
    if (this.kind === TokenKind.quoted) return unquoteName(raw);
    if (this.kind === TokenKind.string) return this.literal();
    return raw;
  }

  /** The value of a string literal, its escapes resolved. Hexadecimal and bit strings (`x'…'`, `b'…'`) stay digits. */
  literal(): string {
    const raw = this.text.slice(this.start, this.end);
    if (raw.startsWith('$')) {
      const tag = raw.indexOf('$', 1) + 1;
      return raw.slice(tag, raw.length - tag);
    }
    const open = raw.search(/['"]/);
    const quote = raw[open]!;
    const body = raw.slice(open + 1, raw.endsWith(quote) ? -1 : undefined).replaceAll(quote + quote, quote);
    if (this.dialect === 'postgres' && /^u&/i.test(raw)) return unescapeUnicode(body);
    const escaped = this.#backslash || (this.dialect === 'postgres' && /^e/i.test(raw));
    return escaped ? unescapeBackslashes(body, this.dialect) : body;
  }

  #take(kind: TokenKind, end: number): void {
    this.kind = kind;
    this.end = end;
  }

  #skipBlank(from: number): number {
    const { text } = this;
    let at = from;
    for (;;) {
      const code = text.charCodeAt(at);
      if (isBlank(code, this.dialect)) {
        at += 1;
      } else if (code === DASH && text.charCodeAt(at + 1) === DASH && this.#isDashComment(at)) {
        at = endOfLine(text, at + 2);
      } else if (code === HASH && this.dialect === 'mysql') {
        at = endOfLine(text, at + 1);
      } else if (code === SLASH && text.charCodeAt(at + 1) === STAR) {
        at = this.#blockComment(at);
      } else if (this.#inExecutedComment && code === STAR && text.charCodeAt(at + 1) === SLASH) {
        this.#inExecutedComment = false;
        at += 2;
      } else {
        if (at >= text.length && this.#inExecutedComment) this.unterminated = true;
        return at;
      }
    }
  }

  /** MySQL needs a blank (or the end) behind the two dashes. */
  #isDashComment(at: number): boolean {
    if (this.dialect !== 'mysql') return true;
    const after = this.text.charCodeAt(at + 2);
    return Number.isNaN(after) || after <= SPACE;
  }

  #blockComment(at: number): number {
    const { text } = this;
    if (this.dialect === 'mysql') {
      const executed = /^\/\*M?!\d*/.exec(text.slice(at, at + 12));
      if (executed !== null) {
        this.#inExecutedComment = true;
        return at + executed[0].length;
      }
      const end = text.indexOf('*/', at + 2);
      if (end < 0) this.unterminated = true;
      return end < 0 ? text.length : end + 2;
    }
    let depth = 1;
    let position = at + 2;
    while (depth > 0) {
      const close = text.indexOf('*/', position);
      if (close < 0) {
        this.unterminated = true;
        return text.length;
      }
      const open = text.indexOf('/*', position);
      if (open >= 0 && open < close) {
        depth += 1;
        position = open + 2;
      } else {
        depth -= 1;
        position = close + 2;
      }
    }
    return position;
  }

  /** A literal whose opening quote is at `quoteAt`; the token begins at `this.start`. */
  #string(quoteAt: number, backslash = this.#backslash): void {
    this.#take(TokenKind.string, this.#closing(quoteAt, backslash));
  }

  #doubleQuote(start: number): void {
    if (this.#ansiQuotes) this.#take(TokenKind.quoted, this.#closing(start, false));
    else this.#take(TokenKind.string, this.#closing(start, this.#backslash));
  }

  #quotedName(start: number, close: number): void {
    const { text } = this;
    const character = String.fromCharCode(close);
    let at = text.indexOf(character, start + 1);
    while (at >= 0 && text.charCodeAt(at + 1) === close) at = text.indexOf(character, at + 2);
    if (at < 0) this.unterminated = true;
    this.#take(TokenKind.quoted, at < 0 ? text.length : at + 1);
  }

  /** One past the quote that closes the one at `open`, doubled quotes (and escaped ones) skipped. */
  #closing(open: number, backslash: boolean): number {
    const { text } = this;
    const quote = text.charCodeAt(open);
    for (let at = open + 1; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      if (code === BACKSLASH && backslash) at += 1;
      else if (code === quote) {
        if (text.charCodeAt(at + 1) !== quote) return at + 1;
        at += 1;
      }
    }
    this.unterminated = true;
    return text.length;
  }

  #dollar(start: number): void {
    const { text } = this;
    let at = start + 1;
    if (isDigit(text.charCodeAt(at))) {
      while (isDigit(text.charCodeAt(at))) at += 1;
      this.#take(TokenKind.parameter, at);
      return;
    }
    while (isWordPart(text.charCodeAt(at), this.dialect) && text.charCodeAt(at) !== DOLLAR) at += 1;
    if (text.charCodeAt(at) !== DOLLAR) {
      this.#take(TokenKind.punctuation, start + 1);
      return;
    }
    const tag = text.slice(start, at + 1);
    const close = text.indexOf(tag, at + 1);
    if (close < 0) this.unterminated = true;
    this.#take(TokenKind.string, close < 0 ? text.length : close + tag.length);
  }

  #number(start: number): void {
    const { text } = this;
    let at = start;
    while (isWordPart(text.charCodeAt(at), this.dialect) || text.charCodeAt(at) === 0x2e) {
      const code = text.charCodeAt(at) | 0x20;
      const sign = text.charCodeAt(at + 1);
      at += code === 0x65 && (sign === 0x2b || sign === DASH) && !isHexadecimal(text, start) ? 2 : 1;
    }
    this.#take(TokenKind.number, at);
  }

  #word(start: number): void {
    const { text } = this;
    let at = start + 1;
    while (isWordPart(text.charCodeAt(at), this.dialect)) at += 1;
    const code = text.charCodeAt(at);
    if (code === QUOTE || code === DOUBLE_QUOTE || code === 0x26) {
      if (this.#prefixed(start, at, code)) return;
    }
    this.#take(TokenKind.word, at);
  }

  /** A word that is the prefix of a literal or name directly behind it: `E'…'`, `N'…'`, `_utf8'…'`, `U&"…"`. */
  #prefixed(start: number, at: number, code: number): boolean {
    const { text, dialect } = this;
    const length = at - start;
    const first = text.charCodeAt(start) | 0x20;
    if (code === 0x26) {
      const quote = text.charCodeAt(at + 1);
      if (dialect !== 'postgres' || length !== 1 || first !== 0x75) return false;
      if (quote !== QUOTE && quote !== DOUBLE_QUOTE) return false;
      const kind = quote === QUOTE ? TokenKind.string : TokenKind.quoted;
      this.#take(kind, this.#closing(at + 1, false));
      return true;
    }
    if (code === DOUBLE_QUOTE && dialect !== 'mysql') return false;
    const oneLetter = length === 1 && 'ebxn'.includes(String.fromCharCode(first));
    const introducer = dialect === 'mysql' && text.charCodeAt(start) === UNDERSCORE;
    if (!oneLetter && !introducer) return false;
    if (dialect !== 'postgres' && first === 0x65) return false;
    this.#string(at, this.#backslash || (dialect === 'postgres' && first === 0x65));
    return true;
  }

  #variable(start: number): void {
    const { text } = this;
    let at = start + 1;
    if (text.charCodeAt(at) === AT) at += 1;
    const code = text.charCodeAt(at);
    if (this.dialect === 'mysql' && (code === QUOTE || code === DOUBLE_QUOTE || code === BACKTICK)) {
      // An account's host part (`'u'@'h'`), or a user variable with a quoted name: the quotes are tokens of their own.
      this.#take(TokenKind.punctuation, start + 1);
      return;
    }
    while (
      isWordPart(text.charCodeAt(at), this.dialect) ||
      (text.charCodeAt(at) === 0x2e && this.dialect === 'mysql')
    )
      at += 1;
    this.#take(at === start + 1 ? TokenKind.punctuation : TokenKind.parameter, at);
  }
}

function isBlank(code: number, dialect: Dialect): boolean {
  // SQL Server takes every control character and the no-break space for blanks, the others only the usual five.
  if (dialect === 'tds') return code <= SPACE || code === NO_BREAK_SPACE;
  return code === SPACE || (code >= TAB && code <= 0x0d);
}

function isDigit(code: number): boolean {
  return code >= 0x30 && code <= 0x39;
}

function isWordStart(code: number, dialect: Dialect): boolean {
  const letter = code | 0x20;
  if (letter >= 0x61 && letter <= 0x7a) return true;
  if (code === UNDERSCORE || code >= 0x80) return true;
  return (code === HASH && dialect === 'tds') || (code === DOLLAR && dialect === 'mysql');
}

function isWordPart(code: number, dialect: Dialect): boolean {
  const letter = code | 0x20;
  if (letter >= 0x61 && letter <= 0x7a) return true;
  if (isDigit(code) || code === UNDERSCORE || code === DOLLAR || code >= 0x80) return true;
  return dialect === 'tds' && (code === HASH || code === AT);
}

function isHexadecimal(text: string, start: number): boolean {
  return text.charCodeAt(start) === 0x30 && (text.charCodeAt(start + 1) | 0x20) === 0x78;
}

function endOfLine(text: string, from: number): number {
  const newline = text.indexOf('\n', from);
  const carriage = text.indexOf('\r', from);
  if (newline < 0 && carriage < 0) return text.length;
  if (newline < 0) return carriage;
  return carriage < 0 ? newline : Math.min(newline, carriage);
}

function unquoteName(raw: string): string {
  if (/^u&"/i.test(raw)) return unescapeUnicode(raw.slice(3, -1).replaceAll('""', '"'));
  const close = raw[0] === '[' ? ']' : raw[0]!;
  return raw
    .slice(1, raw.length > 1 && raw.endsWith(close) ? -1 : undefined)
    .replaceAll(close + close, close);
}

const CONTROL_ESCAPES: Readonly<Record<string, string>> = {
  n: '\n',
  r: '\r',
  t: '\t',
  b: '\b',
};

/** `E'…'` (PostgreSQL documentation 4.1.2.2) and MySQL's literals (Reference Manual 11.1.1). */
function unescapeBackslashes(body: string, dialect: Dialect): string {
  if (!body.includes('\\')) return body;
  if (dialect === 'mysql') {
    return body.replace(/\\(.)/gs, (_, letter: string) =>
      letter === '0' ? '\0' : letter === 'Z' ? '\u001a' : (CONTROL_ESCAPES[letter] ?? letter),
    );
  }
  return body.replace(
    /\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))/gs,
    (whole, byte?: string, short?: string, long?: string, octal?: string, letter = '') => {
      const hexadecimal = byte ?? short ?? long;
      if (hexadecimal === undefined && octal === undefined)
        return letter === 'f' ? '\f' : (CONTROL_ESCAPES[letter] ?? letter);
      const point = hexadecimal === undefined ? Number.parseInt(octal!, 8) : Number.parseInt(hexadecimal, 16);
      return point <= 0x10ffff ? String.fromCodePoint(point) : whole;
    },
  );
}

/** PostgreSQL's `U&"…"` with the default escape character. */
function unescapeUnicode(body: string): string {
  return body.replace(/\\(?:\+([0-9a-f]{6})|([0-9a-f]{4})|\\)/gi, (whole, long?: string, short?: string) => {
    const hexadecimal = long ?? short;
    if (hexadecimal === undefined) return '\\';
    const point = Number.parseInt(hexadecimal, 16);
    return point <= 0x10ffff ? String.fromCodePoint(point) : whole;
  });
}
