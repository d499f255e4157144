import { classify, type Effect, type StatementClass } from '../../protocols/sql/classify.ts';
import { type Dialect, TokenKind } from '../../protocols/sql/lexer.ts';
import type { Telling } from '../../protocols/sql/skeleton.ts';
import { type Token, tokenize } from '../../protocols/sql/tokens.ts';
import { executedBy } from './inner-statements.ts';
import type { JoinedEvent } from './join.ts';

/**
 * How much harm a statement could do, for those who look for what to review first. It is judged by the statement's words,
 * the same for the same text, whatever came of it: a statement that was denied was still tried. What cannot be judged is
 * `high`.
 */

export const RISKS = ['none', 'low', 'medium', 'high', 'critical'] as const;
export type Risk = (typeof RISKS)[number];

export interface Judgement {
  readonly level: Risk;
  /** In words, and without any of the statement's text; null for `none`. */
  readonly reason: string | null;
}

/** Longer texts are not judged whole. Ours: the most that the index keeps of a text is a fraction of it. */
const JUDGED_CHARACTERS_MAX = 256 * 1024;

const HARMLESS: Judgement = { level: 'none', reason: null };

/** What a statement without a text stands for that could not be read on its way. */
export const UNREAD: Judgement = { level: 'high', reason: 'could not be read' };

/** What a statement stands for that runs a string which its text does not show. */
const UNREAD_STRING: Judgement = {
  level: 'high',
  reason: 'runs a string that was put together on the server',
};

/** Judges a text by the riskiest of its statements, those in strings that it runs included. Never throws. */
export function riskOf(text: string, dialect: Dialect): Judgement {
  const judged = text.slice(0, JUDGED_CHARACTERS_MAX);
  const executed = executedBy(judged, dialect);
  let worst: Judgement =
    judged.length < text.length
      ? { level: 'medium', reason: 'is longer than what is judged of a text' }
      : HARMLESS;
  for (const inner of executed.statements) worst = riskier(worst, worstOf(inner, dialect));
  if (executed.unread) worst = riskier(worst, UNREAD_STRING);
  return riskier(worst, worstOf(judged, dialect, executed.statements.length > 0 && !executed.unread));
}

/** `inside`: what its statements run out of strings is judged elsewhere. */
function worstOf(judged: string, dialect: Dialect, inside = false): Judgement {
  const { tokens } = tokenize(judged, dialect);
  let worst = HARMLESS;
  let from = 0;
  for (const statement of classify(judged, dialect)) {
    while (from < tokens.length && tokens[from]!.start < statement.start) from += 1;
    let to = from;
    while (to < tokens.length && tokens[to]!.end <= statement.end) to += 1;
    const words = tokens.slice(from, to);
    from = to;
    worst = riskier(worst, judge(statement, words, dialect, inside));
  }
  return worst;
}

export function riskier(one: Judgement, other: Judgement): Judgement {
  return RISKS.indexOf(other.level) > RISKS.indexOf(one.level) ? other : one;
}

/** Judges a session's statements one by one, and keeps the worst of them. */
export class RiskJudge {
  #dialect: Dialect = 'postgres';
  #worst: Judgement = HARMLESS;

  get worst(): Judgement {
    return this.#worst;
  }

  /** Null for what is no statement. Hears the start of the session first: it names the dialect. */
  take(event: JoinedEvent): Judgement | null {
    if (event.type === 'session_started') this.#dialect = dialectOf(event.engine);
    if (event.type !== 'statement') return null;
    const judgement =
      event.text === null ? (event.opaque ? UNREAD : HARMLESS) : riskOf(event.text, this.#dialect);
    this.#worst = riskier(this.#worst, judgement);
    return judgement;
  }
}

const DIALECTS: readonly Dialect[] = ['postgres', 'mysql', 'tds'];

export function dialectOf(engine: string): Dialect {
  return DIALECTS.find((dialect) => dialect === engine) ?? 'postgres';
}

/** By effect, where nothing more is known. */
const BY_EFFECT: Readonly<Record<Effect, Judgement>> = {
  read: HARMLESS,
  session: HARMLESS,
  transaction: HARMLESS,
  write: { level: 'low', reason: 'changes rows' },
  execute: { level: 'low', reason: 'runs a routine whose content is not seen' },
  definition: { level: 'medium', reason: 'changes definitions' },
  transfer: { level: 'medium', reason: 'moves rows in or out' },
  account: { level: 'high', reason: 'changes accounts or rights' },
  administration: { level: 'high', reason: 'administers the server' },
  unknown: { level: 'high', reason: 'does what is not known' },
};

/** Verbs of upkeep: they administer, and lose nothing. */
const UPKEEP = new Set([
  'VACUUM',
  'ANALYZE',
  'ANALYSE',
  'CHECKPOINT',
  'OPTIMIZE',
  'REPAIR',
  'CLUSTER',
  'CACHE',
]);

/** Names that run programs on the server's machine. */
const PROGRAMS = new Set(['XP_CMDSHELL', 'SP_OACREATE', 'SYS_EXEC', 'SYS_EVAL', 'PG_EXECUTE_SERVER_PROGRAM']);
/** Names that reach files of the server or other servers. */
const OUTSIDE = new Set([
  'PG_READ_FILE',
  'PG_READ_BINARY_FILE',
  'PG_LS_DIR',
  'PG_STAT_FILE',
  'LO_IMPORT',
  'LO_EXPORT',
  'LOAD_FILE',
  'OUTFILE',
  'DUMPFILE',
  'OPENROWSET',
  'OPENQUERY',
  'OPENDATASOURCE',
  'DBLINK',
  'DBLINK_EXEC',
]);
/** A role of SQL Server that may do everything. */
const ALL_POWERFUL = 'SYSADMIN';

/** What a literal may say that counts here: of two texts that differ in other literals alone, both get the same judgement. */
export const TELLING = tellingOf([...PROGRAMS, ...OUTSIDE, ALL_POWERFUL]);

function tellingOf(values: readonly string[]): Telling {
  return { values: new Set(values), lengthMax: Math.max(...values.map(({ length }) => length)) };
}

/** Tables with the hashes of passwords. */
const PASSWORDS = new Set(['pg_authid', 'pg_catalog.pg_authid', 'pg_shadow', 'mysql.user', 'sys.sql_logins']);

/** Verbs that do nothing but run their string, now or later. */
const RUN_A_STRING = new Set(['DO', 'PREPARE']);

function judge(
  { verb, effects, relations }: StatementClass,
  words: readonly Token[],
  dialect: Dialect,
  inside: boolean,
): Judgement {
  let worst = HARMLESS;
  for (const effect of effects) {
    if (effect === 'execute' && inside && RUN_A_STRING.has(verb)) continue;
    const upkeep = effect === 'administration' && UPKEEP.has(verb);
    worst = riskier(worst, upkeep ? { level: 'low', reason: 'keeps tables in order' } : BY_EFFECT[effect]);
  }
  if (relations.some((name) => PASSWORDS.has(name.toLowerCase())))
    worst = riskier(worst, { level: 'high', reason: 'touches the hashes of passwords' });
  for (const [index, token] of words.entries()) {
    // Names stand as words, and in SQL Server as strings where a setting is named: sp_configure 'xp_cmdshell'.
    const name = token.kind === TokenKind.string && dialect !== 'tds' ? '' : token.value.toUpperCase();
    if (PROGRAMS.has(name) || (token.word === 'PROGRAM' && /^(TO|FROM)$/.test(words[index - 1]?.word ?? '')))
      return { level: 'critical', reason: 'runs a program on the server' };
    if (token.word === 'SUPERUSER' || (name === ALL_POWERFUL && effects.size > 0 && !effects.has('read')))
      worst = riskier(worst, { level: 'critical', reason: 'makes an account all-powerful' });
    if (OUTSIDE.has(name) && effects.has('transfer'))
      worst = riskier(worst, { level: 'high', reason: 'reaches files of the server or another server' });
    worst = riskier(worst, lossAt(words, index, effects));
  }
  if (verb === 'SHUTDOWN') worst = riskier(worst, { level: 'critical', reason: 'stops the server' });
  return worst;
}

/** What the verb at `index` may destroy. */
function lossAt(words: readonly Token[], index: number, effects: ReadonlySet<Effect>): Judgement {
  const { word } = words[index]!;
  const next = words[index + 1]?.word ?? '';
  if (effects.has('definition') && word === 'DROP') {
    return next === 'DATABASE' || next === 'SCHEMA'
      ? { level: 'critical', reason: 'drops a database or schema' }
      : { level: 'high', reason: 'drops what is defined' };
  }
  if (word === 'TRUNCATE' && effects.has('definition')) return { level: 'high', reason: 'empties a table' };
  if ((word === 'DELETE' || word === 'UPDATE') && effects.has('write') && isVerb(words, index)) {
    if (!hasCondition(words, index))
      return { level: 'high', reason: `${word === 'DELETE' ? 'deletes' : 'changes'} all rows of a table` };
  }
  return HARMLESS;
}

/** `FOR UPDATE`, `ON DELETE`, `DO UPDATE`, `THEN DELETE`, `GRANT UPDATE` and `UPDATE()` are no statements. */
function isVerb(words: readonly Token[], index: number): boolean {
  const before = words[index - 1];
  const after = words[index + 1];
  if (/^(FOR|ON|DO|NO|KEY|THEN|GRANT|REVOKE|DENY|AFTER|BEFORE|OF|OR)$/.test(before?.word ?? '')) return false;
  return (
    before?.value !== ',' && before?.value !== '.' && after?.value !== '(' && after?.word !== 'STATISTICS'
  );
}

/** Verbs that end the one before in a batch of SQL Server, which needs no semicolons. */
const NEXT_STATEMENT =
  /^(SELECT|INSERT|UPDATE|DELETE|MERGE|DROP|TRUNCATE|EXEC|EXECUTE|DECLARE|PRINT|IF|WHILE|GO)$/;

/** Whether a WHERE follows before the statement, or the parentheses that it stands in, end. */
function hasCondition(words: readonly Token[], from: number): boolean {
  let parentheses = 0;
  for (let index = from + 1; index < words.length; index += 1) {
    const { value, word } = words[index]!;
    if (word === '' && value === '(') parentheses += 1;
    else if (word === '' && value === ')') parentheses -= 1;
    if (parentheses < 0) return false;
    if (parentheses > 0) continue;
    if (word === 'WHERE') return true;
    if ((word === '' && value === ';') || NEXT_STATEMENT.test(word)) return false;
  }
  return false;
}
