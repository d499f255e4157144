import { type Dialect, Lexer, TokenKind } from '../../protocols/sql/lexer.ts';

/**
 * Finds what must not be recorded in a statement's text.
 *
 * It walks the text once, token by token, and remembers how a literal would have to be understood: behind a word that
 * names a secret (`PASSWORD '…'`, `secret = …`), behind `IDENTIFIED`, as an argument of a function or procedure that
 * takes keys, in the place of a column of that name in an INSERT. Where it is unsure it masks: a value too few on record
 * is a nuisance, one too many is a leak.
 */

export const MASK = '***';
const MASKED_LITERAL = `'${MASK}'`;

/** What a resource's rules add to what is masked always. */
export interface MaskRules {
  /** Column and parameter names, lower case. */
  readonly columns: ReadonlySet<string>;
  /** Matched within literals and parameter values; global. */
  readonly patterns: readonly RegExp[];
}

export const NO_RULES: MaskRules = { columns: new Set(), patterns: [] };

export interface MaskedText {
  /** Null where nothing had to go. */
  readonly text: string | null;
  /** Parameters in secret places, as the text writes them: `$1`, `@p`; `?1`, `?2` … where they have no name. */
  readonly parameters: ReadonlySet<string>;
  /** The literals that went, without their quotes: servers repeat them in errors. */
  readonly secrets: readonly string[];
}

const NOTHING: MaskedText = { text: null, parameters: new Set(), secrets: [] };

/** A text in which none of these stands holds no credential that we know how to find. */
const TELLTALE =
  /pass|pwd|secret|identified|token|credential|api_?key|access_?key|accountkey|private_?key|crypt|:\/\/|sp_addlogin|approle|linkedsrvlogin|openrowset|opendatasource/i;

const SECRET_NAME =
  /(^|_|[a-z])(password|passwd|passphrase|pwd|secret|token|api_?key|access_?key|secret_?key|private_?key|passcode)(_?hash)?$/i;

/** Between a secret's name and its value. */
const CONNECTORS = new Set([
  'BY',
  'AS',
  'TO',
  'FROM',
  'USING',
  'ENCRYPTED',
  'UNENCRYPTED',
  'PASSWORD',
  'LIKE',
  'ILIKE',
  'NOT',
  'IN',
  'ANY',
  'IS',
  'DISTINCT',
  'BINARY',
]);
const CONNECTING_PUNCTUATION = new Set(['=', '<', '>', '!', ':', '(', '|', '+', '~']);

/** Words that end the clause which IDENTIFIED began. */
const ENDS_IDENTIFIED = new Set(['REQUIRE', 'ACCOUNT', 'COMMENT', 'ATTRIBUTE', 'DEFAULT', 'RESOURCE']);
const IDENTIFIED_BEFORE = new Set(['BY', 'AS', 'USING', 'PASSWORD', 'REPLACE', '(', 'OR', 'AND']);

/** Functions whose literals may be keys. */
const SECRET_FUNCTIONS = new Set([
  'CRYPT',
  'PGP_SYM_ENCRYPT',
  'PGP_SYM_DECRYPT',
  'PGP_SYM_ENCRYPT_BYTEA',
  'PGP_SYM_DECRYPT_BYTEA',
  'PGP_PUB_DECRYPT',
  'ENCRYPT',
  'DECRYPT',
  'ENCRYPT_IV',
  'DECRYPT_IV',
  'AES_ENCRYPT',
  'AES_DECRYPT',
  'DES_ENCRYPT',
  'DES_DECRYPT',
  'ENCODE_PASSWORD',
  'PASSWORD',
  'OLD_PASSWORD',
  'ENCRYPTBYPASSPHRASE',
  'DECRYPTBYPASSPHRASE',
  'PWDENCRYPT',
  'PWDCOMPARE',
  'OPENROWSET',
  'OPENDATASOURCE',
]);
/** Procedures that take passwords by position: all literals but the first. */
const SECRET_PROCEDURES = new Set([
  'SP_ADDLOGIN',
  'SP_PASSWORD',
  'SP_SETAPPROLE',
  'SP_ADDAPPROLE',
  'SP_ADDLINKEDSRVLOGIN',
  'SP_APPROLEPASSWORD',
]);

/** `password=…` within a connection string, and `user:…@` within a URL. */
const IN_CONNECTION_STRING =
  /\b((?:password|passwd|pwd|passphrase|secret|token|account_?key|shared_?access_?key|access_?key|api_?key|sig)\s*=\s*)(?:''[^']*''|\{[^}]*\}|[^\s;&'"]+)/gi;
const IN_URL = /([a-z][a-z0-9+.-]*:\/\/[^\s:/@]*:)([^\s@/]+)@/gi;

/** Dynamic SQL is looked into this deep. */
const DEPTH_MAX = 3;

/** Masks `text`. Costs one scan by a regular expression where nothing in it tells of secrets and there are no rules. */
export function maskText(text: string, dialect: Dialect, rules: MaskRules): MaskedText {
  if (!mayHoldSecrets(text, rules)) return NOTHING;
  return new TextMasker(text, dialect, rules, 0).run();
}

export function mayHoldSecrets(text: string, rules: MaskRules): boolean {
  return TELLTALE.test(text) || rules.columns.size > 0 || rules.patterns.length > 0;
}

/** Whether a column or parameter of this name holds a secret. */
export function isSecretName(name: string, rules: MaskRules): boolean {
  return SECRET_NAME.test(name) || rules.columns.has(name.toLowerCase());
}

/** Applies the pattern rules, and takes passwords out of connection strings. The value itself where nothing matches. */
export function maskValue(value: string, rules: MaskRules): string {
  let masked = value;
  if (/[=@]/.test(masked))
    masked = masked.replace(IN_CONNECTION_STRING, `$1${MASK}`).replace(IN_URL, `$1${MASK}@`);
  for (const pattern of rules.patterns) masked = masked.replace(pattern, MASK);
  return masked;
}

class TextMasker {
  readonly #lexer: Lexer;
  readonly #text: string;
  readonly #dialect: Dialect;
  readonly #rules: MaskRules;
  readonly #level: number;
  readonly #parameters = new Set<string>();
  readonly #secrets: string[] = [];
  #output = '';
  #copied = 0;
  /** A secret's name came last, and nothing since that ends its reach. */
  #armed = false;
  /** The parenthesis depth within which everything is secret; null outside. */
  #secretDepth: number | null = null;
  #depth = 0;
  #identified = false;
  /** Literals seen of a procedure that takes passwords by position; null outside. */
  #procedure: number | null = null;
  #before = '';
  #unnamed = 0;
  readonly #insert: InsertColumns;

  constructor(text: string, dialect: Dialect, rules: MaskRules, level: number) {
    this.#text = text;
    this.#dialect = dialect;
    this.#rules = rules;
    this.#level = level;
    this.#lexer = new Lexer(text, dialect);
    this.#insert = new InsertColumns((name) => isSecretName(name, rules));
  }

  run(): MaskedText {
    const lexer = this.#lexer;
    while (lexer.next()) {
      switch (lexer.kind) {
        case TokenKind.word:
          this.#word(lexer.keyword());
          break;
        case TokenKind.quoted:
          this.#quoted();
          break;
        case TokenKind.string:
          this.#string();
          break;
        case TokenKind.number:
          this.#number();
          break;
        case TokenKind.parameter:
          this.#parameter();
          break;
        default:
          this.#punctuation(this.#text[lexer.start]!);
      }
    }
    const changed = this.#copied > 0;
    return {
      text: changed ? this.#output + this.#text.slice(this.#copied) : null,
      parameters: this.#parameters,
      secrets: this.#secrets,
    };
  }

  #word(word: string): void {
    const name = this.#text.slice(this.#lexer.start, this.#lexer.end);
    const calls = this.#follows('(');
    if (word === 'IDENTIFIED') this.#identified = true;
    else if (ENDS_IDENTIFIED.has(word)) this.#identified = false;
    if (SECRET_PROCEDURES.has(word)) this.#procedure = 0;
    else if (word === 'EXEC' || word === 'EXECUTE') this.#procedure = null;
    this.#insert.word(word, name, this.#depth);
    if (SECRET_FUNCTIONS.has(word) && calls) this.#secretDepth ??= this.#depth + 1;
    if (isSecretName(name, this.#rules)) this.#armed = true;
    // `password = upper('x')`: the call stands in the value's place.
    else if (!(this.#armed && (calls || CONNECTORS.has(word) || isStringPrefix(word)))) this.#armed = false;
    this.#before = word;
  }

  #quoted(): void {
    const name = this.#lexer.name();
    this.#insert.word('', name, this.#depth);
    const raw = this.#text[this.#lexer.start];
    // With QUOTED_IDENTIFIER off, SQL Server takes it for a string.
    if (raw === '"' && this.#dialect === 'tds' && this.#secretHere()) {
      this.#replace(MASKED_LITERAL);
      this.#before = '';
      return;
    }
    this.#armed = isSecretName(name, this.#rules);
    this.#before = '';
  }

  #string(): void {
    const secret = this.#secretHere();
    if (this.#procedure !== null) this.#procedure += 1;
    if (secret) {
      this.#secrets.push(this.#lexer.literal());
      this.#replace(MASKED_LITERAL);
    } else this.#inner();
    // `'a' || 'b'` and `'a' 'b'` are one value.
    this.#armed = secret && this.#secretDepth === null;
    this.#before = "'";
  }

  #number(): void {
    if (this.#secretHere()) this.#replace(MASK);
    else if (this.#rules.patterns.length > 0) {
      const raw = this.#text.slice(this.#lexer.start, this.#lexer.end);
      if (maskValue(raw, this.#rules) !== raw) this.#replace(MASK);
    }
    this.#before = '0';
  }

  #parameter(): void {
    const raw = this.#text.slice(this.#lexer.start, this.#lexer.end);
    let name = raw;
    if (raw === '?') {
      this.#unnamed += 1;
      name = `?${this.#unnamed}`;
    }
    const own = isSecretName(raw.replace(/^[@:]+/, ''), this.#rules);
    if (own || this.#secretHere()) this.#parameters.add(name);
    this.#armed = own;
    this.#before = raw;
  }

  #punctuation(character: string): void {
    if (character === '(') {
      this.#depth += 1;
      if (this.#armed) this.#secretDepth ??= this.#depth;
      this.#insert.open(this.#depth);
    } else if (character === ')') {
      this.#depth = Math.max(0, this.#depth - 1);
      if (this.#secretDepth !== null && this.#depth < this.#secretDepth) this.#secretDepth = null;
      this.#insert.close(this.#depth);
    } else if (character === ',') {
      this.#insert.comma(this.#depth);
      if (this.#before === "'" && this.#depth === 0 && this.#dialect === 'mysql') this.#armed = false;
    } else if (character === ';' && this.#depth === 0) {
      this.#identified = false;
      this.#procedure = null;
      this.#insert.reset();
    }
    if (!CONNECTING_PUNCTUATION.has(character)) this.#armed = false;
    this.#before = character;
  }

  #secretHere(): boolean {
    if (this.#armed || this.#secretDepth !== null) return true;
    if (this.#identified && IDENTIFIED_BEFORE.has(this.#before)) return true;
    if (this.#procedure !== null && this.#procedure > 0) return true;
    return this.#insert.secretHere(this.#depth);
  }

  /** A literal that is no secret itself may hold one: a connection string, dynamic SQL, what a pattern matches. */
  #inner(): void {
    const { start, end } = this.#lexer;
    const raw = this.#text.slice(start, end);
    let masked = maskValue(raw, this.#rules);
    if (this.#level < DEPTH_MAX && TELLTALE.test(raw)) masked = this.#dynamic(masked);
    if (masked !== raw) this.#replace(masked);
  }

  #dynamic(raw: string): string {
    const dollar = /^\$[^$]*\$/.exec(raw)?.[0];
    if (dollar !== undefined) {
      const closed = raw.endsWith(dollar) && raw.length >= dollar.length * 2;
      const body = raw.slice(dollar.length, closed ? -dollar.length : undefined);
      return dollar + this.#nested(body) + (closed ? dollar : '');
    }
    const open = raw.search(/['"]/);
    const quote = raw[open] ?? "'";
    const closed = raw.length > open + 1 && raw.endsWith(quote);
    const body = raw.slice(open + 1, closed ? -1 : undefined);
    const plain = body.replaceAll(quote + quote, quote);
    const masked = this.#nested(plain);
    if (masked === plain) return raw;
    return raw.slice(0, open + 1) + masked.replaceAll(quote, quote + quote) + (closed ? quote : '');
  }

  #nested(body: string): string {
    const { text, secrets } = new TextMasker(body, this.#dialect, this.#rules, this.#level + 1).run();
    this.#secrets.push(...secrets);
    return text ?? body;
  }

  #follows(character: string): boolean {
    const { text } = this.#lexer;
    let at = this.#lexer.end;
    while (at < text.length && /\s/.test(text[at]!)) at += 1;
    return text[at] === character;
  }

  #replace(replacement: string): void {
    this.#output += this.#text.slice(this.#copied, this.#lexer.start) + replacement;
    this.#copied = this.#lexer.end;
  }
}

/** Prefixes that some lexers give as a word of their own. */
function isStringPrefix(word: string): boolean {
  return word === 'N' || word === 'E' || word === 'X' || word === 'B' || word === 'U';
}

/** Follows `INSERT INTO t (a, b) VALUES (1, 2), (3, 4)`: which places of a row belong to secret columns. */
class InsertColumns {
  readonly #isSecret: (name: string) => boolean;
  #phase: 'none' | 'table' | 'columns' | 'between' | 'rows' = 'none';
  /** Depth of the list that is being read. */
  #depth = 0;
  #column = 0;
  readonly #secret = new Set<number>();

  constructor(isSecret: (name: string) => boolean) {
    this.#isSecret = isSecret;
  }

  word(word: string, name: string, depth: number): void {
    if (word === 'INSERT' || word === 'REPLACE') {
      this.reset();
      this.#phase = 'table';
    } else if (this.#phase === 'columns' && depth === this.#depth) {
      if (this.#isSecret(name)) this.#secret.add(this.#column);
    } else if (this.#phase === 'between' && (word === 'VALUES' || word === 'VALUE')) {
      this.#phase = 'rows';
    } else if (this.#phase === 'between' && word === 'SELECT') {
      this.reset();
    }
  }

  open(depth: number): void {
    if (this.#phase === 'table') {
      this.#phase = 'columns';
      this.#depth = depth;
      this.#column = 0;
    } else if (this.#phase === 'rows' && depth === this.#depth) this.#column = 0;
  }

  close(depth: number): void {
    if (this.#phase === 'columns' && depth < this.#depth) this.#phase = 'between';
  }

  comma(depth: number): void {
    if (depth === this.#depth) this.#column += 1;
  }

  secretHere(depth: number): boolean {
    return this.#phase === 'rows' && depth >= this.#depth && this.#secret.has(this.#column);
  }

  reset(): void {
    this.#phase = 'none';
    this.#secret.clear();
    this.#column = 0;
  }
}
