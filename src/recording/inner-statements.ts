import { type Dialect, TokenKind } from '../../protocols/sql/lexer.ts';
import { splitStatements, type Token, tokenize } from '../../protocols/sql/tokens.ts';

/**
 * Statements that stand in a string which another statement runs: `DO $$ … $$`, `EXEC ('…')`, `sp_executesql N'…'`,
 * `PREPARE s FROM '…'`. What they touch is as much the session's doing as what it sent itself.
 *
 * A string is read where the text shows it: as literals, put together by the dialect's own operators, or in a variable
 * that the same text filled. Where anything else is put in as it runs, the shown pieces are read and the whole counts as
 * not read. Strings in strings are followed to a named depth.
 */

/** Strings in strings in strings; deeper ones count as not read. Ours. */
const DEPTH_MAX = 4;
/** All that is read of one text's strings together: a variable may be run many times. Ours: twice what is judged of a text. */
const CHARACTERS_MAX = 512 * 1024;
/** Where a value that is not known stands in a string. A letter to the lexers, and in no name that anybody gives. */
const HOLE = '\ue000';

export interface Executed {
  /** Texts to classify, in the text's own dialect; routine code is cut into its statements. */
  readonly statements: readonly string[];
  /** Some of what runs cannot be read here. */
  readonly unread: boolean;
}

const NOTHING: Executed = { statements: [], unread: false };

const TELLTALES: Readonly<Record<Dialect, RegExp>> = {
  // `ON CONFLICT DO UPDATE` is in every other INSERT.
  postgres: /\bdo\b(?!\s+(?:update|nothing)\b)/i,
  mysql: /prepare|immediate/i,
  // Names of procedures may stand in strings themselves: `sp_configure 'xp_cmdshell'`.
  tds: /exec|[sx]p_/i,
};

/**
 * Whether the literals of `text` may count for what it does: false only where no string in it can be run. Quick; looks
 * at characters, comments and literals included.
 */
export function looksInside(text: string, dialect: Dialect): boolean {
  return TELLTALES[dialect].test(text);
}

/** What `text` runs out of strings. Never throws. */
export function executedBy(text: string, dialect: Dialect): Executed {
  if (!looksInside(text, dialect)) return NOTHING;
  const finder = new Finder(dialect);
  finder.search(text, 0);
  return finder;
}

/** Whether a name of a table was put together as the text ran. */
export function hasHole(name: string): boolean {
  return name.includes(HOLE);
}

/** A string as far as the text shows it. */
interface Value {
  readonly text: string;
  /** All of it is shown. */
  readonly known: boolean;
}

const UNKNOWN: Value = { text: HOLE, known: false };

class Finder implements Executed {
  readonly statements: string[] = [];
  unread = false;
  readonly #dialect: Dialect;
  #left = CHARACTERS_MAX;

  constructor(dialect: Dialect) {
    this.#dialect = dialect;
  }

  search(text: string, depth: number): void {
    if (!looksInside(text, this.#dialect)) return;
    const tokens = read(text, this.#dialect).tokens;
    if (this.#dialect === 'postgres') {
      for (const statement of splitStatements(tokens, 'postgres'))
        if (statement[0]!.word === 'DO') this.#doBlock(statement, depth);
    } else if (this.#dialect === 'mysql') this.#mysql(tokens, depth);
    else this.#batch(tokens, depth);
  }

  /** What runs as statements of the dialect. */
  #run(value: Value, depth: number): void {
    if (!value.known) this.unread = true;
    if (!this.#takes(value, depth)) return;
    this.statements.push(value.text);
    this.search(value.text, depth + 1);
  }

  /** Whether there is anything to read of it, and room for it. */
  #takes(value: Value, depth: number): boolean {
    if (value.text === '' || value.text === HOLE) return false;
    this.#left -= value.text.length;
    if (depth < DEPTH_MAX && this.#left >= 0) return true;
    this.unread = true;
    return false;
  }

  // PostgreSQL

  /** `DO [LANGUAGE name] 'code'`, in either order. */
  #doBlock(statement: readonly Token[], depth: number): void {
    const at = statement.findIndex((token) => token.word === 'LANGUAGE');
    const language = at === -1 ? 'plpgsql' : (statement[at + 1]?.value.toLowerCase() ?? '');
    const code = statement.filter(
      (token, index) => token.kind === TokenKind.string && (at === -1 || index !== at + 1),
    );
    const value = { text: code.map((token) => token.value).join(''), known: code.length > 0 };
    if (language !== 'plpgsql') this.unread = true;
    else if (!value.known) this.unread = true;
    else if (this.#takes(value, depth)) this.#routine(value.text, depth + 1);
  }

  /** The statements of PL/pgSQL code, without the words that hold them together. */
  #routine(code: string, depth: number): void {
    const { tokens, unterminated } = read(code, 'postgres');
    if (unterminated) this.unread = true;
    for (const piece of piecesOf(tokens)) {
      const text = textOf(piece, code);
      this.statements.push(text);
      this.search(text, depth);
      for (const [index, token] of piece.entries()) {
        if (token.word !== 'EXECUTE') continue;
        this.#run(stringAt(piece, index + 1, AFTER_EXECUTE, NO_VARIABLES).value, depth);
      }
    }
  }

  // MySQL and MariaDB

  /** `PREPARE name FROM string`, MariaDB's `EXECUTE IMMEDIATE string`. */
  #mysql(tokens: readonly Token[], depth: number): void {
    const variables = new Variables();
    for (const [index, token] of tokens.entries()) {
      if (token.kind === TokenKind.parameter) variables.hear(tokens, index);
      else if (token.word === 'PREPARE' && tokens[index + 2]?.word === 'FROM')
        this.#run(stringAt(tokens, index + 3, AFTER_EXECUTE, variables).value, depth);
      else if (token.word === 'EXECUTE' && tokens[index + 1]?.word === 'IMMEDIATE')
        this.#run(stringAt(tokens, index + 2, AFTER_EXECUTE, variables).value, depth);
    }
  }

  // SQL Server

  /** `EXEC (string)`, and procedures that run one of their arguments. */
  #batch(tokens: readonly Token[], depth: number): void {
    const variables = new Variables();
    for (const [index, token] of tokens.entries()) {
      if (token.kind === TokenKind.parameter) variables.hear(tokens, index);
      // The first statement of a batch may call a procedure by its name alone.
      else if (index === 0 && isName(token) && token.word !== 'EXEC' && token.word !== 'EXECUTE')
        this.#call(tokens, 0, variables, depth);
      else if (token.word === 'EXEC' || token.word === 'EXECUTE')
        this.#execute(tokens, index, variables, depth);
    }
  }

  #execute(tokens: readonly Token[], index: number, variables: Variables, depth: number): void {
    if (/^(GRANT|REVOKE|DENY|WITH|,)$/.test(tokens[index - 1]?.value.toUpperCase() ?? '')) return;
    let at = index + 1;
    const next = tokens[at];
    if (next?.value === '(' && next.kind === TokenKind.punctuation) {
      this.#run(stringAt(tokens, at + 1, NEXT_STATEMENT, variables).value, depth);
      return;
    }
    // `EXECUTE AS USER = …`.
    if (next?.word === 'AS') return;
    if (next?.kind === TokenKind.parameter) {
      if (tokens[at + 1]?.value !== '=') {
        // The procedure's own name is in a variable.
        this.unread = true;
        return;
      }
      at += 2;
    }
    this.#call(tokens, at, variables, depth);
  }

  /** A procedure's name and its arguments, from `from`. */
  #call(tokens: readonly Token[], from: number, variables: Variables, depth: number): void {
    let at = from;
    while (tokens[at + 1]?.value === '.' && at + 2 < tokens.length)
      at += tokens[at + 2]!.value === '.' ? 1 : 2;
    const procedure = RUNNING_PROCEDURES.get(tokens[at]?.value.toUpperCase() ?? '');
    if (procedure === undefined) return;
    at += 1;
    for (let place = 0; at < tokens.length; place += 1) {
      const name = tokens[at + 1]?.value === '=' ? tokens[at]!.value.toUpperCase() : null;
      const argument = stringAt(tokens, name === null ? at : at + 2, NEXT_STATEMENT, variables);
      if (name === null ? place === procedure.place : procedure.names.includes(name)) {
        this.#run(argument.value, depth);
        return;
      }
      if (tokens[argument.next]?.value !== ',') break;
      at = argument.next + 1;
    }
    this.unread = true;
  }
}

/** Procedures of SQL Server that run one of their arguments, and which: by place from 0, or by name. */
const RUNNING_PROCEDURES: ReadonlyMap<string, { readonly place: number; readonly names: readonly string[] }> =
  new Map([
    ['SP_EXECUTESQL', { place: 0, names: ['@STMT', '@STATEMENT'] }],
    ['SP_PREPARE', { place: 2, names: ['@STMT'] }],
    ['SP_PREPEXEC', { place: 2, names: ['@STMT'] }],
    ['SP_CURSOROPEN', { place: 1, names: ['@STMT'] }],
    ['SP_MSFOREACHTABLE', { place: 0, names: ['@COMMAND1'] }],
    ['SP_MSFOREACHDB', { place: 0, names: ['@COMMAND1'] }],
  ]);

/** Words that end the string of an EXECUTE in PL/pgSQL or MariaDB. */
const AFTER_EXECUTE: ReadonlySet<string> = new Set(['INTO', 'USING', 'LOOP']);
/** Words that end an expression in a batch of SQL Server, which needs no semicolons. */
const NEXT_STATEMENT: ReadonlySet<string> = new Set(
  'SELECT INSERT UPDATE DELETE MERGE DROP CREATE ALTER TRUNCATE EXEC EXECUTE SET DECLARE PRINT IF ELSE WHILE BEGIN END RETURN OUTPUT OUT AS AT WITH FROM WHERE GO'.split(
    ' ',
  ),
);

/** In no expression; so that a text of nothing else is not read again from each of them. */
const IN_NO_EXPRESSION = /^(EXEC|EXECUTE|PREPARE)$/;

/**
 * The string that an expression shows, from the token at `from` to a comma, a semicolon, a comparison, one of `stops` or
 * the parenthesis around it. Literals side by side, `||`, `+` and `CONCAT` put strings together.
 */
function stringAt(
  tokens: readonly Token[],
  from: number,
  stops: ReadonlySet<string>,
  variables: Variables,
): { readonly value: Value; readonly next: number } {
  let text = '';
  let known = true;
  let parentheses = 0;
  let concat = 0;
  let at = from;
  for (; at < tokens.length; at += 1) {
    const { kind, word, value } = tokens[at]!;
    if (kind === TokenKind.punctuation) {
      if (value === '(') parentheses += 1;
      else if (value === ')') {
        parentheses -= 1;
        if (parentheses < concat) concat = 0;
        if (parentheses < 0) break;
      } else if (value === ';' || (value === ',' && parentheses === 0)) break;
      else if (value === '=') {
        known = false;
        break;
      } else if (!(value === '|' || value === '+' || (value === ',' && concat > 0 && parentheses === concat)))
        known = false;
      continue;
    }
    if ((parentheses === 0 && stops.has(word)) || IN_NO_EXPRESSION.test(word)) break;
    if (kind === TokenKind.string) text += value;
    else if (word === 'CONCAT' && tokens[at + 1]?.value === '(' && concat === 0) concat = parentheses + 1;
    else {
      const variable = kind === TokenKind.parameter ? variables.value(value) : UNKNOWN;
      known &&= variable.known;
      // A function's name and its arguments are one hole.
      if (variable.text !== HOLE || !text.endsWith(HOLE)) text += variable.text;
    }
  }
  return { value: text.length > CHARACTERS_MAX ? UNKNOWN : { text, known }, next: at };
}

/** The tokens of a text. Hexadecimal and bit strings count as numbers: what they spell is not read. */
function read(text: string, dialect: Dialect): ReturnType<typeof tokenize> {
  const { tokens, unterminated } = tokenize(text, dialect);
  const ofDigits = (token: Token): boolean =>
    token.kind === TokenKind.string && /^[xb]$/i.test(text.charAt(token.start));
  return {
    tokens: tokens.map((token) => (ofDigits(token) ? { ...token, kind: TokenKind.number } : token)),
    unterminated,
  };
}

/** The variables that a text fills with strings and runs: `DECLARE @s nvarchar(max) = N'…'`, `SET @s = '…'`. */
class Variables {
  readonly #values = new Map<string, Value>();

  value(name: string): Value {
    return this.#values.get(name.toLowerCase()) ?? UNKNOWN;
  }

  /** Told of each variable in the order of the text; sees whether it is filled here. */
  hear(tokens: readonly Token[], index: number): void {
    const name = tokens[index]!.value.toLowerCase();
    const before = tokens[index - 1]?.word ?? '';
    const after = tokens[index + 1]?.word ?? '';
    // `FETCH … INTO @s`, `EXEC p @s OUTPUT`: filled with what nobody sees here.
    if (before === 'INTO' || after === 'OUTPUT' || after === 'OUT') {
      this.#values.set(name, this.#either(name, UNKNOWN));
      return;
    }
    const from = assignmentAt(tokens, index);
    if (from === null) return;
    const { value } = stringAt(tokens, from, NEXT_STATEMENT, this);
    const former = this.value(name);
    // `@s += …` and `@s = @s + …` go on with what was there.
    if (tokens[from - 2]?.value === '+')
      this.#values.set(name, { text: former.text + value.text, known: former.known && value.known });
    else if (tokens[from]?.value.toLowerCase() === name) this.#values.set(name, value);
    else this.#values.set(name, this.#either(name, value));
    // `SELECT @s = …` fills it once a row.
    if (before === 'SELECT') this.#values.set(name, { ...this.value(name), known: false });
  }

  /** What is filled twice may be either: both are read, and neither is sure. */
  #either(name: string, value: Value): Value {
    const former = this.#values.get(name);
    if (former === undefined) return value;
    return { text: `${former.text}\n;\n${value.text}`, known: false };
  }
}

const NO_VARIABLES = new Variables();

/** Tokens of a type between a variable and its first value: `@s AS nvarchar ( max ) =`. */
const TYPE_TOKENS_MAX = 8;

/** Where the expression begins that the variable at `index` is filled with; null where it is not filled. */
function assignmentAt(tokens: readonly Token[], index: number): number | null {
  let at = index + 1;
  const declared = tokens[index - 1]?.word === 'DECLARE' || tokens[index - 1]?.value === ',';
  if (declared && (tokens[at]?.kind === TokenKind.word || tokens[at]?.kind === TokenKind.quoted)) {
    while (at - index < TYPE_TOKENS_MAX && isOfType(tokens[at])) at += 1;
  }
  if (tokens[at]?.value === ':' || tokens[at]?.value === '+') at += 1;
  return tokens[at]?.value === '=' ? at + 1 : null;
}

function isOfType(token: Token | undefined): boolean {
  if (token === undefined || token.kind === TokenKind.parameter) return false;
  return token.value !== '=' && token.value !== ';';
}

/** Words of PL/pgSQL behind which a statement begins. */
const OPENING = new Set(['BEGIN', 'THEN', 'ELSE', 'LOOP', 'DECLARE']);

/** Cuts PL/pgSQL code into what is between its own words and semicolons. */
function piecesOf(tokens: readonly Token[]): Token[][] {
  const pieces: Token[][] = [];
  let piece: Token[] = [];
  let parentheses = 0;
  /** CASE … END inside a statement has THEN and ELSE of its own. */
  let cases = 0;
  const cut = (): void => {
    if (piece.length > 0) pieces.push(piece);
    piece = [];
    cases = 0;
  };
  for (const token of tokens) {
    const { kind, value, word } = token;
    if (kind === TokenKind.punctuation && value === '(') parentheses += 1;
    if (kind === TokenKind.punctuation && value === ')') parentheses -= 1;
    if (word === 'CASE' && piece.length > 0) cases += 1;
    if (word === 'END' && cases > 0) cases -= 1;
    const inside = parentheses > 0 || cases > 0 || piece[0]?.word === 'MERGE';
    if (kind === TokenKind.punctuation && value === ';') {
      parentheses = 0;
      cut();
    } else if (OPENING.has(word) && !inside) cut();
    else piece.push(token);
  }
  cut();
  return pieces;
}

/** Statements of SQL as they begin in PL/pgSQL code; all else holds an expression or a query, and is read as one. */
const SQL_VERBS = new Set(
  'SELECT WITH VALUES INSERT UPDATE DELETE MERGE CREATE ALTER DROP TRUNCATE COMMENT REINDEX REFRESH SECURITY IMPORT GRANT REVOKE REASSIGN SET RESET DISCARD LISTEN UNLISTEN NOTIFY CALL DO COPY LOAD VACUUM ANALYZE ANALYSE CLUSTER CHECKPOINT LOCK'.split(
    ' ',
  ),
);

function textOf(piece: readonly Token[], code: string): string {
  let text = SQL_VERBS.has(piece[0]!.word) ? '' : 'SELECT ';
  let from = piece[0]!.start;
  for (let index = 1; index < piece.length; index += 1) {
    // `SELECT … INTO variable` makes no table here.
    const before = piece[index - 1]!.word;
    if (piece[index]!.word !== 'INTO' || before === 'INSERT' || before === 'MERGE') continue;
    text += `${code.slice(from, piece[index]!.start)} `;
    index = afterTargets(piece, index + 1);
    from = piece[index]?.start ?? piece[piece.length - 1]!.end;
  }
  return text + code.slice(from, piece[piece.length - 1]!.end);
}

/** Behind `[STRICT] name[.name] [, name …]`. */
function afterTargets(piece: readonly Token[], from: number): number {
  let at = piece[from]?.word === 'STRICT' ? from + 1 : from;
  for (;;) {
    at += 1;
    const value = piece[at]?.value;
    if (value !== ',' && value !== '.') return at;
    at += 1;
  }
}

function isName(token: Token): boolean {
  return token.kind === TokenKind.word || token.kind === TokenKind.quoted;
}
