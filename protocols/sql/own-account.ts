import type { Dialect, LexerOptions } from './lexer.ts';
import { TokenKind } from './lexer.ts';
import { beginsWord } from './scan.ts';
import { splitStatements, type Token, tokenize } from './tokens.ts';

/**
 * Statements that would change the account they run as: its password, name, validity, or who may act as it. Sallyport
 * signs in as that account; whoever changes it locks everybody out, or takes it over.
 *
 * This reads text, and text can hide what it does (a function, a string put together at run time): it stops accidents
 * and the plain ways, psql's `\password` among them. What must not be possible has to be taken from the account on the
 * server.
 */

/** Words of which at least one stands in every such statement. Capitals; the scan ignores case. */
const TELLTALES: Readonly<Record<Dialect, readonly string[]>> = {
  postgres: ['ALTER', 'AUTHORIZATION', 'SESSION_AUTHORIZATION', 'GRANT', 'DROP', 'REASSIGN'],
  mysql: ['ALTER', 'PASSWORD', 'IDENTIFIED', 'RENAME', 'DROP', 'REPLACE', 'MYSQL'],
  tds: ['ALTER', 'DROP', 'SP_PASSWORD', 'SP_DROPLOGIN', 'SP_CHANGE_USERS_LOGIN'],
};

/** Verbs whose string literals are run as SQL: looked into, one level deep. */
const DYNAMIC = new Set(['DO', 'EXECUTE', 'EXEC', 'PREPARE', 'CALL', 'SP_EXECUTESQL']);

/**
 * Why `text` may not run as `account`: what it would change, in words for the person; null where it changes nothing of
 * the account. Cheap (a scan for a few words) for texts that cannot.
 */
export function changeOfOwnAccount(
  text: string,
  account: string,
  dialect: Dialect,
  options?: LexerOptions,
): string | null {
  if (!mayConcernAccounts(text, dialect)) return null;
  return examine(text, account, dialect, options, 1);
}

/** Whether any of the telltale words stands in `text`, in any case, at the start of a word. */
export function mayConcernAccounts(text: string, dialect: Dialect): boolean {
  return beginsWord(text, TELLTALES[dialect]);
}

function examine(
  text: string,
  account: string,
  dialect: Dialect,
  options: LexerOptions | undefined,
  depth: number,
): string | null {
  const { tokens } = tokenize(text, dialect, options);
  for (const statement of splitStatements(tokens, dialect)) {
    const found =
      dialect === 'postgres'
        ? postgresChange(statement, account)
        : dialect === 'mysql'
          ? mysqlChange(statement, account)
          : tdsChange(statement, account);
    if (found !== null) return found;
    if (depth === 0 || !statement.some((token) => DYNAMIC.has(token.word))) continue;
    for (const token of statement) {
      if (token.kind !== TokenKind.string || !mayConcernAccounts(token.value, dialect)) continue;
      const inner = examine(token.value, account, dialect, options, depth - 1);
      if (inner !== null) return inner;
    }
  }
  return null;
}

// PostgreSQL

const SELF = new Set(['CURRENT_USER', 'SESSION_USER', 'CURRENT_ROLE', 'USER']);

/** A role's name, or one of the words that stand for the account itself. */
function isSelf(token: Token | undefined, account: string): boolean {
  if (token === undefined) return false;
  if (token.kind === TokenKind.word && SELF.has(token.word)) return true;
  return token.value === account;
}

/** Options of ALTER ROLE that only say what a role may do: they need rights of their own and harm nobody's sign-in. */
function postgresChange(statement: readonly Token[], account: string): string | null {
  const verb = wordAt(statement, 0);
  const object = wordAt(statement, 1);
  if (verb === 'ALTER' && (object === 'ROLE' || object === 'USER' || object === 'GROUP')) {
    if (object === 'USER' && wordAt(statement, 2) === 'MAPPING') return null;
    if (object === 'GROUP') return null;
    // ALTER ROLE ALL SET … changes the account as well.
    const all = wordAt(statement, 2) === 'ALL';
    return all || isSelf(statement[2], account)
      ? `${verb} ${object} of the account that this session runs as`
      : null;
  }
  if (verb === 'SET') {
    const at = object === 'SESSION' || object === 'LOCAL' ? 2 : 1;
    if (object === 'SESSION' && wordAt(statement, 2) === 'AUTHORIZATION')
      return sessionAuthorization(statement[3]);
    if (wordAt(statement, at) === 'SESSION_AUTHORIZATION') return sessionAuthorization(statement[at + 2]);
    return null;
  }
  if (verb === 'GRANT') return grantsOwnRole(statement, account);
  if (
    (verb === 'DROP' && (object === 'ROLE' || object === 'USER')) ||
    (verb === 'REASSIGN' && object === 'OWNED')
  ) {
    const names = statement.slice(2);
    return names.some((token) => isSelf(token, account))
      ? `${verb} of the account that this session runs as`
      : null;
  }
  if (verb === 'DROP' && object === 'OWNED') {
    return statement.slice(3).some((token) => isSelf(token, account))
      ? 'DROP OWNED of the account that this session runs as'
      : null;
  }
  return null;
}

/** DEFAULT undoes the change and is what drivers send when they give a connection back to their pool. */
function sessionAuthorization(target: Token | undefined): string | null {
  return target?.word === 'DEFAULT' ? null : 'SET SESSION AUTHORIZATION';
}

/** `GRANT role TO other`: membership has no ON before TO. */
function grantsOwnRole(statement: readonly Token[], account: string): string | null {
  const to = statement.findIndex((token) => token.word === 'TO');
  if (to < 0) return null;
  const granted = statement.slice(1, to);
  if (granted.some((token) => token.word === 'ON')) return null;
  return granted.some((token) => isSelf(token, account) && token.word !== 'USER')
    ? 'GRANT of the role that this session runs as'
    : null;
}

// MySQL and MariaDB

const MYSQL_ACCOUNT_TABLES = new Set(['user', 'global_priv', 'password_history']);

function mysqlChange(statement: readonly Token[], account: string): string | null {
  const verb = wordAt(statement, 0);
  const object = wordAt(statement, 1);
  if (verb === 'SET') return mysqlSetPassword(statement, account);
  const ofUser = object === 'USER' || (object === 'OR' && wordAt(statement, 3) === 'USER');
  if ((verb === 'ALTER' || verb === 'DROP' || verb === 'RENAME' || verb === 'CREATE') && ofUser) {
    return namesMysqlAccount(statement.slice(object === 'USER' ? 2 : 4), account)
      ? `${verb} USER of the account that this session runs as`
      : null;
  }
  if (verb === 'GRANT' && statement.some((token) => token.word === 'IDENTIFIED')) {
    return namesMysqlAccount(statement, account)
      ? 'GRANT … IDENTIFIED of the account that this session runs as'
      : null;
  }
  if (verb === 'UPDATE' || verb === 'INSERT' || verb === 'REPLACE' || verb === 'DELETE') {
    return writesMysqlAccounts(statement) ? `${verb} on the server's table of accounts` : null;
  }
  return null;
}

function mysqlSetPassword(statement: readonly Token[], account: string): string | null {
  const at = statement.findIndex((token) => token.word === 'PASSWORD');
  // `SET x = PASSWORD('…')` only computes a hash.
  if (at < 1 || at > 2 || statement[at + 1]?.value === '(') return null;
  if (wordAt(statement, at + 1) !== 'FOR') return 'SET PASSWORD';
  return namesMysqlAccount(statement.slice(at + 2), account) ? 'SET PASSWORD' : null;
}

function namesMysqlAccount(tokens: readonly Token[], account: string): boolean {
  return tokens.some((token, index) => {
    if (token.word === 'CURRENT_USER') return true;
    if ((token.word === 'USER' || token.word === 'SESSION_USER') && tokens[index + 1]?.value === '(')
      return true;
    const isName =
      token.kind === TokenKind.word || token.kind === TokenKind.quoted || token.kind === TokenKind.string;
    // Behind an @ stands the host; the same text there is no account.
    return isName && token.value === account && tokens[index - 1]?.value !== '@';
  });
}

function writesMysqlAccounts(statement: readonly Token[]): boolean {
  return statement.some(
    (token, index) =>
      MYSQL_ACCOUNT_TABLES.has(token.value.toLowerCase()) &&
      statement[index - 1]?.value === '.' &&
      statement[index - 2]?.value.toLowerCase() === 'mysql',
  );
}

// SQL Server

const TDS_PROCEDURES = new Set(['sp_password', 'sp_droplogin', 'sp_change_users_login']);

/** The whole batch is looked at: its statements need no separators. Login names compare without case. */
function tdsChange(batch: readonly Token[], account: string): string | null {
  const own = account.toLowerCase();
  for (let index = 0; index < batch.length; index += 1) {
    const token = batch[index]!;
    if (token.kind !== TokenKind.string && TDS_PROCEDURES.has(token.value.toLowerCase())) return token.value;
    const isVerb = token.word === 'ALTER' || token.word === 'DROP';
    if (!isVerb) continue;
    const object = wordAt(batch, index + 1);
    if (object !== 'LOGIN' && object !== 'USER') continue;
    const target = batch[index + 2];
    if (target !== undefined && target.value.toLowerCase() === own) {
      return `${token.word} ${object} of the account that this session runs as`;
    }
  }
  return null;
}

function wordAt(statement: readonly Token[], index: number): string {
  return statement[index]?.word ?? '';
}
