import { ALLOW, type EngineName, type Verdict } from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import { onlyReads } from '../../protocols/sql/classify.ts';
import { databasesOpened } from '../../protocols/sql/databases.ts';
import type { Dialect } from '../../protocols/sql/lexer.ts';
import { changeOfOwnAccount } from '../../protocols/sql/own-account.ts';
import type { Statement } from '../../protocols/statement.ts';

/** What the statements of one session may do. */
export interface StatementRules {
  readonly engine: EngineName;
  /** The account that the session runs as on the server. */
  readonly account: string;
  /** Let statements through that change that account's own password, name or membership. */
  readonly allowAccountChange: boolean;
  /** Let only statements through that do nothing but read, as far as their text shows. */
  readonly readOnly: boolean;
  /** The only databases that may be opened; null (or left out) for any. */
  readonly databases?: readonly string[] | null;
}

/**
 * Texts whose verdict is remembered by one session (the latest half of them for certain), and the longest text that is
 * worth it.
 */
const VERDICTS_MAX = 256;
const VERDICT_TEXT_LENGTH_MAX = 2048;

/**
 * The gate of one session. Applications send the same texts again and again, so verdicts are remembered: a repeated
 * statement costs one look into a map.
 */
export function statementGate(rules: StatementRules): (statement: Statement) => Verdict {
  if (rules.allowAccountChange && !rules.readOnly && !rules.databases) return () => ALLOW;
  const dialect: Dialect = rules.engine;
  // Two generations: to take the oldest out of one map each time costs more than the verdict of a short text.
  let verdicts = new Map<string, Verdict>();
  let former = new Map<string, Verdict>();
  return (statement) => {
    const { text } = statement;
    if (text === null) return statement.name === null ? ALLOW : judgeProcedure(statement, rules);
    // What could not be read whole is judged each time: the same text may stand for something else.
    if (statement.opaque) return judge(text, statement, rules, dialect);
    const remembered = verdicts.get(text);
    if (remembered !== undefined) return remembered;
    const verdict = former.get(text) ?? judge(text, statement, rules, dialect);
    if (text.length <= VERDICT_TEXT_LENGTH_MAX) {
      if (verdicts.size >= VERDICTS_MAX / 2) {
        former = verdicts;
        verdicts = new Map();
      }
      verdicts.set(text, verdict);
    }
    return verdict;
  };
}

function judge(text: string, statement: Statement, rules: StatementRules, dialect: Dialect): Verdict {
  if (!rules.allowAccountChange) {
    const change = changeOfOwnAccount(text, rules.account, dialect);
    if (change !== null) {
      return refuse(
        `${change} is not allowed here`,
        'Sallyport signs in with this account for everybody. Have its password changed where it is kept.',
      );
    }
  }
  if (rules.databases) {
    const allowed = new Set(rules.databases.map((name) => folded(name, dialect)));
    const other = databasesAsked(text, statement, dialect).find(
      (name) => !allowed.has(folded(name, dialect)),
    );
    if (other !== undefined)
      return refuse(
        `database "${other}" may not be opened here`,
        `You may open: ${rules.databases.join(', ')}.`,
      );
  }
  if (rules.readOnly) {
    // What was cut off cannot be judged.
    const whole = !statement.opaque && statement.textBytes <= Buffer.byteLength(text);
    if (dialect === 'mysql' && statement.kind === 'command' && COMMANDS_THAT_LOOK.test(text)) return ALLOW;
    if (dialect === 'mysql' && STOPPING_A_QUERY.test(text)) return ALLOW;
    if (!whole || !onlyReads(text, dialect)) {
      return refuse(READ_ONLY, READ_ONLY_HINT);
    }
  }
  return ALLOW;
}

/** Databases that a statement opens: by USE, or by MySQL's COM_CHANGE_USER, which is on record with user and database. */
function databasesAsked(text: string, statement: Statement, dialect: Dialect): string[] {
  const changed = statement.kind === 'command' ? /^COM_CHANGE_USER \S* (.+)$/s.exec(text)?.[1] : undefined;
  return changed === undefined ? databasesOpened(text, dialect) : [changed];
}

/** SQL Server's database names compare without case; MySQL's as the file system does, so exactly. */
function folded(name: string, dialect: Dialect): string {
  return dialect === 'tds' ? name.toLowerCase() : name;
}

/** MySQL's commands that are no SQL, by the names under which they are on record. None of these changes data. */
const COMMANDS_THAT_LOOK = /^COM_(?:STATISTICS|RESET_CONNECTION|FIELD_LIST .*|CHANGE_USER .*)$/s;
/** What command lines and drivers send over a second connection when their user cancels. */
const STOPPING_A_QUERY = /^\s*(?:\/\*[^*!]*\*\/\s*)?KILL\s+QUERY\s+\d+\s*;?\s*$/i;

/** Procedures that only look things up, as drivers and tools call them by name (Transact-SQL catalog procedures). */
const LOOKING =
  /^(?:sys\.)?sp_(?:columns|tables|pkeys|fkeys|statistics|special_columns|sproc_columns|stored_procedures|databases|datatype_info|server_info|help\w*|describe_\w+|tablecollations\w*|unprepare|cursorclose|cursorfetch|cursoroption|reset_connection)(?:_90|_100)?$/i;

/** A procedure or function called by name, without SQL text: SQL Server's RPC, PostgreSQL's FunctionCall. */
function judgeProcedure(statement: Statement, rules: StatementRules): Verdict {
  if (statement.kind !== 'rpc') return ALLOW;
  const name = statement.name ?? '';
  if (rules.readOnly && !LOOKING.test(name)) return refuse(READ_ONLY, READ_ONLY_HINT);
  return judge(`EXEC ${name}`, statement, { ...rules, readOnly: false }, rules.engine);
}

const READ_ONLY = 'your access is read-only, and this statement may change something';
const READ_ONLY_HINT = 'Ask for access that may write.';

function refuse(message: string, hint: string): Verdict {
  return { action: 'refuse', refusal: new Refusal('statement_not_allowed', message, { hint }) };
}
