import { type Dialect, type LexerOptions, TokenKind } from './lexer.ts';
import { splitStatements, type Token, tokenize } from './tokens.ts';

/**
 * What a text may do, judged by its words. Fails closed: what is not known to be harmless is `unknown`, which stands
 * for "anything". It reads text, not meaning: a function that a SELECT calls may write, so rules that must hold are
 * also set on the server (a read-only transaction, the account's own rights).
 */

export const EFFECTS = [
  'read',
  'write', // rows
  'definition', // tables, views, routines
  'account', // users, roles, grants
  'session', // SET, USE, DISCARD
  'transaction',
  'execute', // a routine or string whose content is not seen here
  'administration', // the server itself
  'transfer', // rows or files in or out by COPY, LOAD, OUTFILE, BULK
  'unknown',
] as const;
export type Effect = (typeof EFFECTS)[number];

export interface StatementClass {
  /** The statement's leading word in capitals, the one behind `WITH …` for common table expressions. */
  readonly verb: string;
  readonly effects: ReadonlySet<Effect>;
  /** Names of tables and views as written (unquoted), schema included; best effort. */
  readonly relations: readonly string[];
  /** UTF-16 offsets into the text. */
  readonly start: number;
  readonly end: number;
}

/** Classifies each statement of `text`. A text that ends inside a literal or comment is one `unknown`. */
export function classify(text: string, dialect: Dialect, options?: LexerOptions): readonly StatementClass[] {
  const { tokens, unterminated } = tokenize(text, dialect, options);
  const classes = splitStatements(tokens, dialect).map((statement) => classifyOne(statement, dialect));
  if (!unterminated) return classes;
  return [
    {
      verb: classes[0]?.verb ?? '',
      effects: new Set<Effect>(['unknown']),
      relations: classes.flatMap((one) => one.relations),
      start: 0,
      end: text.length,
    },
  ];
}

/** Whether nothing in `text` does more than read, begin and end transactions, and look at settings. */
export function onlyReads(text: string, dialect: Dialect, options?: LexerOptions): boolean {
  for (const statement of classify(text, dialect, options)) {
    for (const effect of statement.effects) {
      if (effect !== 'read' && effect !== 'transaction' && effect !== 'session') return false;
    }
    const changes = statement.effects.has('session') || statement.effects.has('transaction');
    if (changes && leavesReadOnly(text.slice(statement.start, statement.end))) return false;
  }
  return true;
}

/** Settings by which a session could leave the read-only mode that was set for it. */
function leavesReadOnly(text: string): boolean {
  return /read\s*write|transaction_read_only|tx_read_only|\brole\b|\bauthorization\b|reset\s+all|discard\s+all/i.test(
    text,
  );
}

const VERBS: Readonly<Record<string, Effect>> = {
  SELECT: 'read',
  VALUES: 'read',
  TABLE: 'read',
  SHOW: 'read',
  EXPLAIN: 'read',
  DESCRIBE: 'read',
  DESC: 'read',
  FETCH: 'read',
  MOVE: 'read',
  HELP: 'read',
  CHECKSUM: 'read',
  PRINT: 'read',
  READTEXT: 'read',
  INSERT: 'write',
  UPDATE: 'write',
  DELETE: 'write',
  MERGE: 'write',
  REPLACE: 'write',
  UPSERT: 'write',
  WRITETEXT: 'write',
  UPDATETEXT: 'write',
  CREATE: 'definition',
  ALTER: 'definition',
  DROP: 'definition',
  TRUNCATE: 'definition',
  COMMENT: 'definition',
  RENAME: 'definition',
  REINDEX: 'definition',
  REFRESH: 'definition',
  SECURITY: 'definition',
  IMPORT: 'definition',
  GRANT: 'account',
  REVOKE: 'account',
  DENY: 'account',
  REASSIGN: 'account',
  SET: 'session',
  RESET: 'session',
  USE: 'session',
  DISCARD: 'session',
  LISTEN: 'session',
  UNLISTEN: 'session',
  DEALLOCATE: 'session',
  CLOSE: 'session',
  DECLARE: 'session',
  OPEN: 'session',
  REVERT: 'session',
  BEGIN: 'transaction',
  START: 'transaction',
  COMMIT: 'transaction',
  ROLLBACK: 'transaction',
  END: 'transaction',
  ABORT: 'transaction',
  SAVEPOINT: 'transaction',
  RELEASE: 'transaction',
  SAVE: 'transaction',
  XA: 'transaction',
  CALL: 'execute',
  DO: 'execute',
  EXECUTE: 'execute',
  EXEC: 'execute',
  PREPARE: 'execute',
  NOTIFY: 'write',
  HANDLER: 'read',
  RAISERROR: 'read',
  THROW: 'read',
  WAITFOR: 'read',
  RETURN: 'read',
  IF: 'read',
  ELSE: 'read',
  WHILE: 'read',
  BREAK: 'read',
  CONTINUE: 'read',
  GOTO: 'read',
  COPY: 'transfer',
  LOAD: 'transfer',
  BULK: 'transfer',
  BACKUP: 'transfer',
  RESTORE: 'transfer',
  KILL: 'administration',
  SHUTDOWN: 'administration',
  DBCC: 'administration',
  RECONFIGURE: 'administration',
  CHECKPOINT: 'administration',
  VACUUM: 'administration',
  ANALYZE: 'administration',
  ANALYSE: 'administration',
  CLUSTER: 'administration',
  FLUSH: 'administration',
  INSTALL: 'administration',
  UNINSTALL: 'administration',
  OPTIMIZE: 'administration',
  REPAIR: 'administration',
  PURGE: 'administration',
  CHANGE: 'administration',
  STOP: 'administration',
  CLONE: 'administration',
  BINLOG: 'administration',
  CACHE: 'administration',
  LOCK: 'transaction',
  UNLOCK: 'transaction',
};

/** Objects whose definition is about who may do what. */
const ACCOUNT_OBJECTS = new Set([
  'USER',
  'ROLE',
  'LOGIN',
  'GROUP',
  'CREDENTIAL',
  'POLICY',
  'PRIVILEGES',
  'AUTHORIZATION',
]);
const SERVER_OBJECTS = new Set([
  'SYSTEM',
  'SERVER',
  'INSTANCE',
  'SUBSCRIPTION',
  'EXTENSION',
  'LANGUAGE',
  'ASSEMBLY',
  'ENDPOINT',
]);

/** Functions and rowset sources that reach files, programs or other servers. */
const OUTSIDE = new Set([
  'PG_READ_FILE',
  'PG_READ_BINARY_FILE',
  'PG_LS_DIR',
  'PG_STAT_FILE',
  'LO_IMPORT',
  'LO_EXPORT',
  'DBLINK',
  'DBLINK_EXEC',
  'LOAD_FILE',
  'OPENROWSET',
  'OPENQUERY',
  'OPENDATASOURCE',
  'XP_CMDSHELL',
  'SYS_EXEC',
  'SYS_EVAL',
  'PG_EXECUTE_SERVER_PROGRAM',
]);
const ADMINISTRATION = new Set([
  'PG_TERMINATE_BACKEND',
  'PG_CANCEL_BACKEND',
  'PG_RELOAD_CONF',
  'PG_ROTATE_LOGFILE',
  'PG_SWITCH_WAL',
  'PG_PROMOTE',
  'SET_CONFIG',
  'SETVAL',
]);

function classifyOne(statement: readonly Token[], dialect: Dialect): StatementClass {
  const effects = new Set<Effect>();
  const relations = new Set<string>();
  let first = 0;
  while (statement[first]?.value === '(' || statement[first]?.value === ';') first += 1;
  const verb = mainVerb(statement, first);
  const known = VERBS[verb];
  if (known !== undefined) effects.add(known);
  else if (dialect === 'tds' && statement[first]?.kind !== undefined)
    effects.add('execute'); // a bare procedure name
  else effects.add('unknown');
  for (let index = first; index < statement.length; index += 1) {
    addEffects(statement, index, index === first, dialect, effects);
    addRelations(statement, index, relations);
  }
  refineDefinition(statement, verb, effects);
  if (
    verb === 'EXPLAIN' &&
    !statement.some((token) => token.word === 'ANALYZE' || token.word === 'ANALYSE')
  ) {
    effects.clear();
    effects.add('read');
  }
  const last = statement[statement.length - 1];
  return {
    verb,
    effects,
    relations: [...relations],
    start: statement[0]?.start ?? 0,
    end: last?.end ?? 0,
  };
}

/** The leading word; for `WITH …` the first of the main verbs that stands outside parentheses. */
function mainVerb(statement: readonly Token[], first: number): string {
  const verb = statement[first]?.word ?? '';
  if (verb !== 'WITH') return verb;
  let parentheses = 0;
  for (let index = first + 1; index < statement.length; index += 1) {
    const token = statement[index]!;
    if (token.value === '(' && token.kind === TokenKind.punctuation) parentheses += 1;
    else if (token.value === ')' && token.kind === TokenKind.punctuation) parentheses -= 1;
    else if (parentheses === 0 && /^(SELECT|INSERT|UPDATE|DELETE|MERGE|VALUES|TABLE)$/.test(token.word))
      return token.word;
  }
  return verb;
}

/** Verbs that are reserved everywhere and so cannot be a column's name: where one stands, its effect is possible. */
const ANYWHERE = new Set([
  'INSERT',
  'UPDATE',
  'DELETE',
  'MERGE',
  'DROP',
  'ALTER',
  'CREATE',
  'GRANT',
  'REVOKE',
]);
/** In a batch of SQL Server every reserved verb may begin a statement of its own. */
const ANYWHERE_TDS = new Set([
  ...ANYWHERE,
  'TRUNCATE',
  'DENY',
  'EXEC',
  'EXECUTE',
  'BACKUP',
  'RESTORE',
  'BULK',
  'DBCC',
  'KILL',
  'SHUTDOWN',
  'RECONFIGURE',
  'CHECKPOINT',
  'USE',
  'WRITETEXT',
  'UPDATETEXT',
]);

function addEffects(
  statement: readonly Token[],
  index: number,
  isFirst: boolean,
  dialect: Dialect,
  effects: Set<Effect>,
): void {
  const token = statement[index]!;
  if (token.kind !== TokenKind.word && token.kind !== TokenKind.quoted) return;
  const word = token.word;
  const before = statement[index - 1];
  const after = statement[index + 1];
  const called = after?.kind === TokenKind.punctuation && after.value === '(';
  const name = token.value.toUpperCase();
  if (OUTSIDE.has(name) && (called || name === 'XP_CMDSHELL')) effects.add('transfer');
  if (ADMINISTRATION.has(name) && called) effects.add('administration');
  if (isFirst || word === '' || before?.value === '.') return;
  const verbs = dialect === 'tds' ? ANYWHERE_TDS : ANYWHERE;
  // `FOR UPDATE`, `ON DELETE`, `DO UPDATE` and `UPDATE()` are no verbs.
  const isClause =
    before?.word === 'FOR' ||
    before?.word === 'ON' ||
    before?.word === 'NO' ||
    before?.word === 'KEY' ||
    (called && word !== 'DELETE');
  if (verbs.has(word) && !isClause) effects.add(VERBS[word]!);
  if (word === 'INTO') addInto(statement, index, dialect, effects);
  if (word === 'PROGRAM' && before?.word !== 'AS') effects.add('administration');
}

/** `SELECT … INTO`: a table (PostgreSQL, SQL Server), a file or variables (MySQL). */
function addInto(statement: readonly Token[], index: number, dialect: Dialect, effects: Set<Effect>): void {
  const target = statement[index + 1];
  if (target?.word === 'OUTFILE' || target?.word === 'DUMPFILE') effects.add('transfer');
  else if (dialect === 'mysql' && target?.kind === TokenKind.parameter) return;
  else if (effects.has('read') && !effects.has('write')) effects.add('definition');
}

function refineDefinition(statement: readonly Token[], verb: string, effects: Set<Effect>): void {
  if (verb !== 'CREATE' && verb !== 'ALTER' && verb !== 'DROP' && verb !== 'SET' && verb !== 'SECURITY')
    return;
  for (let index = 1; index < Math.min(statement.length, 6); index += 1) {
    const { word } = statement[index]!;
    if (verb !== 'SET' && ACCOUNT_OBJECTS.has(word)) effects.add('account');
    if (verb !== 'SET' && SERVER_OBJECTS.has(word)) effects.add('administration');
    if (verb === 'SET' && (word === 'PASSWORD' || word === 'AUTHORIZATION')) effects.add('account');
    if (verb === 'SET' && (word === 'GLOBAL' || word === 'PERSIST' || word === 'PERSIST_ONLY'))
      effects.add('administration');
  }
}

const BEFORE_RELATION = new Set([
  'FROM',
  'JOIN',
  'INTO',
  'UPDATE',
  'TABLE',
  'TRUNCATE',
  'COPY',
  'USING',
  'VIEW',
  'ANALYZE',
  'VACUUM',
]);
const NO_RELATION = new Set([
  'SELECT',
  'IF',
  'ONLY',
  'LATERAL',
  'OUTFILE',
  'DUMPFILE',
  'SET',
  'VALUES',
  'STATISTICS',
  'OF',
  'NOT',
  'EXISTS',
  'TABLE',
  'UNNEST',
]);

/** The most names kept of one statement. */
export const RELATIONS_MAX = 64;

function addRelations(statement: readonly Token[], index: number, relations: Set<string>): void {
  if (!BEFORE_RELATION.has(statement[index]!.word)) return;
  // `EXTRACT(x FROM y)`, `SUBSTRING(x FROM 2)`: an expression, told by what follows only for numbers and strings.
  let at = index + 1;
  while (at < statement.length && relations.size < RELATIONS_MAX) {
    while (/^(ONLY|IF|NOT|EXISTS|TABLE|LOW_PRIORITY|IGNORE|QUICK)$/.test(statement[at]?.word ?? '')) at += 1;
    const name = relationAt(statement, at);
    if (name === null) return;
    relations.add(name.text);
    at = name.next;
    // An alias, then a comma and the next of the list.
    if (statement[at]?.word === 'AS') at += 1;
    if (isName(statement[at]) && statement[at + 1]?.value === ',') at += 1;
    if (statement[at]?.value !== ',' || statement[index]!.word !== 'FROM') return;
    at += 1;
  }
}

function relationAt(statement: readonly Token[], from: number): { text: string; next: number } | null {
  const parts: string[] = [];
  let at = from;
  for (;;) {
    const token = statement[at];
    if (!isName(token) || (parts.length === 0 && NO_RELATION.has(token.word))) break;
    parts.push(token.value);
    at += 1;
    // `db..table` leaves the schema out.
    while (statement[at]?.value === '.' && statement[at + 1]?.value === '.') at += 1;
    if (statement[at]?.value !== '.') break;
    at += 1;
  }
  if (parts.length === 0) return null;
  // A name directly before a parenthesis is a function, except behind INSERT INTO, where columns follow.
  const before = statement[from - 1]?.word;
  if (statement[at]?.value === '(' && before !== 'INTO' && before !== 'TABLE' && before !== 'COPY')
    return null;
  return { text: parts.join('.'), next: at };
}

function isName(token: Token | undefined): token is Token {
  return token !== undefined && (token.kind === TokenKind.word || token.kind === TokenKind.quoted);
}
