import { parseCreate, parseDrop, parseTruncate } from './definitions.ts';
import {
  cast,
  type Expression,
  isTrue,
  parseExpression,
  parseList,
  parseType,
  type Scope,
  TokenCursor,
} from './expressions.ts';
import { lex } from './lexer.ts';
import { parsePrint, parseRaise, parseThrow, parseWait, type Run, type Statement } from './messages.ts';
import { Command, type Output } from './output.ts';
import { parseQuery, type Query } from './query.ts';
import { addRow, columnOf } from './rows.ts';
import { type SessionState, SqlError, type Table } from './state.ts';
import { beginTransaction, commitTransaction, rollbackTransaction, useDatabase } from './transactions.ts';
import * as types from './types.ts';
import { literal, type SqlValue } from './types.ts';

/** Statements of the test double's T-SQL. */

/** `RETURN` inside a procedure. */
export class Return extends Error {
  readonly status: number;
  constructor(status: number) {
    super('return');
    this.status = status;
  }
}

export function newScope(state: SessionState, variables: Map<string, SqlValue>): Scope {
  return { state, variables, row: null, rowNumber: 0, rows: null };
}

/**
 * Runs a batch. An error ends its statement, a fatal one the batch; both are told to `output`. Returns the status of a
 * RETURN. Throws `Cancelled`.
 */
export async function runBatch(
  sql: string,
  state: SessionState,
  variables: Map<string, SqlValue>,
  output: Output,
  procedure = '',
): Promise<number> {
  const run: Run = { scope: newScope(state, variables), state, output };
  try {
    const statements = parseBatch(sql);
    for (const { statement, line } of statements) {
      await guarded(statement, run, line, procedure);
      await output.flush();
    }
    return 0;
  } catch (error) {
    if (error instanceof Return) return error.status;
    if (error instanceof SyntaxError) tell(run, new SqlError(102, 15, error.message, true), 1, procedure);
    else if (error instanceof SqlError) {
      if (!(error as SqlError & { told?: boolean }).told) tell(run, error, 1, procedure);
    } else throw error;
    return 0;
  }
}

async function guarded(statement: Statement, run: Run, line: number, procedure: string): Promise<void> {
  run.state.lastError = 0;
  try {
    await statement(run);
  } catch (error) {
    if (!(error instanceof SqlError)) throw error;
    tell(run, error, line, procedure);
    if (error.fatal) throw Object.assign(error, { told: true });
  }
}

function tell({ state, output }: Run, error: SqlError, line: number, procedure: string): void {
  state.lastError = error.number;
  output.message(true, {
    number: error.number,
    state: error.state,
    class: error.severity,
    text: error.message,
    procedure,
    line,
  });
  output.done(Command.none, null, true);
}

function parseBatch(sql: string): { statement: Statement; line: number }[] {
  const cursor = new TokenCursor(lex(sql), sql);
  const statements: { statement: Statement; line: number }[] = [];
  while (cursor.current.kind !== 'end') {
    if (cursor.accept(';')) continue;
    const { line } = cursor.current;
    statements.push({ statement: parseStatement(cursor), line });
  }
  return statements;
}

const STATEMENTS: Readonly<Record<string, (cursor: TokenCursor) => Statement>> = {
  SELECT: parseSelect,
  INSERT: parseInsert,
  UPDATE: parseUpdate,
  DELETE: parseDelete,
  CREATE: parseCreate,
  DROP: parseDrop,
  TRUNCATE: parseTruncate,
  DECLARE: parseDeclare,
  SET: parseSet,
  PRINT: parsePrint,
  RAISERROR: parseRaise,
  THROW: parseThrow,
  BEGIN: parseBegin,
  COMMIT: parseCommit,
  ROLLBACK: parseRollback,
  SAVE: parseSave,
  USE: parseUse,
  IF: parseIf,
  WAITFOR: parseWait,
  EXEC: parseExecute,
  EXECUTE: parseExecute,
  RETURN: parseReturn,
};

const WRITES: readonly string[] = ['INSERT', 'UPDATE', 'DELETE'];

function parseStatement(cursor: TokenCursor): Statement {
  const { current } = cursor;
  const word = current.kind === 'word' ? current.text.toUpperCase() : '';
  const parse = STATEMENTS[word];
  if (parse !== undefined) {
    if (word !== 'SELECT') cursor.next();
    const statement = parse(cursor);
    if (!WRITES.includes(word)) return statement;
    return async (run) => {
      if (run.state.implicit && run.state.transactions === 0) beginTransaction(run.state, run.output);
      await statement(run);
    };
  }
  // The first statement of a batch may be a call without EXEC.
  if (cursor.at === 0 && current.kind === 'word') return parseExecute(cursor);
  return cursor.fail();
}

function parseSelect(cursor: TokenCursor): Statement {
  const query = parseQuery(cursor);
  return async ({ scope, state, output }) => {
    if (query.assigns) {
      query.assign(scope);
      return;
    }
    if (query.into !== null) {
      const rows = [...query.rows(scope)];
      createFrom(state, query, scope, query.into, rows);
      state.rowCount = rows.length;
      output.done(0xc1, state.noCount ? null : rows.length);
      return;
    }
    const columns = query.columns(scope);
    let announced = false;
    let count = 0;
    // The metadata goes out with the first row or at the end, so that an error in the first row comes without it.
    for (const row of state.formatOnly ? [] : query.rows(scope)) {
      if (!announced) output.columns(widen(columns, row));
      announced = true;
      output.row(row);
      count += 1;
      if (count % 64 === 0) await output.flush();
    }
    if (!announced) output.columns(columns);
    state.rowCount = count;
    output.done(Command.select, state.noCount ? null : count);
  };
}

/** Text columns of literals are as wide as the limit allows, so that later rows fit. */
function widen(columns: readonly { name: string; type: types.SqlType }[], row: readonly SqlValue[]) {
  return columns.map((column, index) => {
    const type = row[index]!.value === null ? column.type : row[index]!.type;
    if (type.size === 0xffff || row[index]!.wire !== undefined) return { name: column.name, type };
    if (type.id === 0xe7) return { name: column.name, type: types.nvarchar(4000) };
    if (type.id === 0xa7) return { name: column.name, type: types.varchar(8000) };
    return { name: column.name, type };
  });
}

function createFrom(state: SessionState, query: Query, scope: Scope, name: string, rows: SqlValue[][]): void {
  const columns = query.columns(scope).map(({ name: column, type }) => ({
    name: column,
    type,
    nullable: true,
    identity: false,
    key: false,
  }));
  state.tables(name).set(name.toLowerCase(), { name, columns, rows, nextIdentity: 1 });
}

function parseInsert(cursor: TokenCursor): Statement {
  if (cursor.accept('BULK')) return parseInsertBulk(cursor);
  cursor.accept('INTO');
  const name = cursor.name();
  const names = cursor.current.text === '(' ? parseNames(cursor) : null;
  if (cursor.accept('DEFAULT', 'VALUES')) return insertRows(name, [], () => [[]]);
  if (cursor.accept('VALUES')) {
    const lists: Expression[][] = [];
    do lists.push(parseList(cursor));
    while (cursor.accept(','));
    return insertRows(name, names, (scope) => lists.map((list) => list.map((item) => item(scope))));
  }
  const query = parseQuery(cursor);
  return insertRows(name, names, (scope) => [...query.rows(scope)]);
}

function parseNames(cursor: TokenCursor): string[] {
  cursor.expect('(');
  const names: string[] = [];
  do names.push(cursor.name());
  while (cursor.accept(','));
  cursor.expect(')');
  return names;
}

function insertRows(
  name: string,
  names: readonly string[] | null,
  source: (scope: Scope) => SqlValue[][],
): Statement {
  return async ({ scope, state, output }) => {
    const table = state.table(name);
    const targets =
      names === null
        ? table.columns.filter(({ identity }) => !identity)
        : names.map((column) => columnOf(table, column));
    const rows = source(scope);
    for (const values of rows) addRow(state, table, targets, values);
    state.rowCount = rows.length;
    output.done(Command.insert, state.noCount ? null : rows.length);
  };
}

function parseInsertBulk(cursor: TokenCursor): Statement {
  const name = cursor.name();
  while (cursor.current.kind !== 'end') cursor.next();
  return async ({ state, output }) => {
    state.bulk = state.table(name);
    output.done(Command.none, null);
  };
}

function rowScope(scope: Scope, table: Table, row: readonly SqlValue[]): Scope {
  const named = new Map(table.columns.map((column, index) => [column.name.toLowerCase(), row[index]!]));
  return { ...scope, row: named };
}

function parseUpdate(cursor: TokenCursor): Statement {
  const name = cursor.name();
  cursor.expect('SET');
  const changes: [string, Expression][] = [];
  do {
    const column = cursor.name();
    cursor.expect('=');
    changes.push([column, parseExpression(cursor)]);
  } while (cursor.accept(','));
  const where = cursor.accept('WHERE') ? parseExpression(cursor) : null;
  return async ({ scope, state, output }) => {
    const table = state.table(name);
    let count = 0;
    table.rows = table.rows.map((row) => {
      const inner = rowScope(scope, table, row);
      if (where !== null && !isTrue(where(inner))) return row;
      count += 1;
      const changed = [...row];
      for (const [column, expression] of changes) {
        const target = columnOf(table, column);
        changed[table.columns.indexOf(target)] = cast(expression(inner), target.type);
      }
      return changed;
    });
    state.rowCount = count;
    output.done(Command.update, state.noCount ? null : count);
  };
}

function parseDelete(cursor: TokenCursor): Statement {
  cursor.accept('FROM');
  const name = cursor.name();
  const where = cursor.accept('WHERE') ? parseExpression(cursor) : null;
  return async ({ scope, state, output }) => {
    const table = state.table(name);
    const kept = table.rows.filter((row) => where !== null && !isTrue(where(rowScope(scope, table, row))));
    const count = table.rows.length - kept.length;
    table.rows = kept;
    state.rowCount = count;
    output.done(Command.delete, state.noCount ? null : count);
  };
}

function parseDeclare(cursor: TokenCursor): Statement {
  const declared: { name: string; type: types.SqlType; value: Expression | null }[] = [];
  do {
    const name = cursor.next().text.toLowerCase();
    cursor.accept('AS');
    const type = parseType(cursor);
    declared.push({ name, type, value: cursor.accept('=') ? parseExpression(cursor) : null });
  } while (cursor.accept(','));
  return async ({ scope }) => {
    for (const { name, type, value } of declared) {
      scope.variables.set(name, value === null ? { type, value: null } : cast(value(scope), type));
    }
  };
}

function parseSet(cursor: TokenCursor): Statement {
  if (cursor.current.kind === 'variable') {
    const name = cursor.next().text.toLowerCase();
    cursor.expect('=');
    const value = parseExpression(cursor);
    return async ({ scope }) => {
      const type = scope.variables.get(name)?.type;
      const result = value(scope);
      scope.variables.set(name, type === undefined ? result : cast(result, type));
    };
  }
  // An option: its words and values up to the next statement.
  const words: string[] = [];
  const line = cursor.current.line;
  while (cursor.current.kind !== 'end' && cursor.current.text !== ';') {
    const word = cursor.current.text.toUpperCase();
    if (
      words.length > 1 &&
      cursor.current.kind === 'word' &&
      (word in STATEMENTS || cursor.current.line > line)
    )
      break;
    if (words.length > 0 && word === 'SET') break;
    words.push(word);
    cursor.next();
  }
  return async ({ state, output }) => {
    const on = words.at(-1) === 'ON';
    if (words[0] === 'NOCOUNT') state.noCount = on;
    if (words[0] === 'FMTONLY') state.formatOnly = on;
    if (words[0] === 'IMPLICIT_TRANSACTIONS') state.implicit = on;
    output.done(Command.none, null);
  };
}

function parseBegin(cursor: TokenCursor): Statement {
  if (cursor.isWord('TRAN', 'TRANSACTION')) {
    cursor.next();
    skipName(cursor);
    return async ({ state, output }) => {
      beginTransaction(state, output);
      output.done(0xfd, null);
    };
  }
  const body: { statement: Statement; line: number }[] = [];
  while (!cursor.accept('END')) {
    if (cursor.accept(';')) continue;
    const { line } = cursor.current;
    body.push({ statement: parseStatement(cursor), line });
  }
  return async (run) => {
    for (const { statement, line } of body) await guarded(statement, run, line, '');
  };
}

function skipName(cursor: TokenCursor): string {
  if (cursor.current.kind === 'variable') return cursor.next().text;
  const isName = cursor.current.kind === 'word' || cursor.current.kind === 'quoted';
  return isName && !(cursor.current.text.toUpperCase() in STATEMENTS) ? cursor.next().text : '';
}

function parseCommit(cursor: TokenCursor): Statement {
  if (cursor.isWord('TRAN', 'TRANSACTION', 'WORK')) cursor.next();
  skipName(cursor);
  return async ({ state, output }) => {
    commitTransaction(state, output);
    output.done(0xfd, null);
  };
}

function parseRollback(cursor: TokenCursor): Statement {
  if (cursor.isWord('TRAN', 'TRANSACTION', 'WORK')) cursor.next();
  const name = skipName(cursor);
  return async ({ state, output }) => {
    rollbackTransaction(state, output, name);
    output.done(0xfd, null);
  };
}

function parseSave(cursor: TokenCursor): Statement {
  cursor.next();
  const name = skipName(cursor);
  return async ({ state, output }) => {
    state.savepoints.set(name.toLowerCase(), state.capture());
    output.done(0xfd, null);
  };
}

function parseUse(cursor: TokenCursor): Statement {
  const name = cursor.name();
  return async ({ state, output }) => {
    useDatabase(state, output, name);
    output.done(Command.none, null);
  };
}

function parseIf(cursor: TokenCursor): Statement {
  let condition: Expression;
  const negated = cursor.accept('NOT', 'EXISTS');
  if (negated || cursor.accept('EXISTS')) {
    cursor.expect('(');
    const query = parseQuery(cursor);
    cursor.expect(')');
    condition = (scope) => literal(!query.rows(scope)[Symbol.iterator]().next().done !== negated);
  } else {
    condition = parseExpression(cursor);
  }
  const yes = parseStatement(cursor);
  cursor.accept(';');
  const no = cursor.accept('ELSE') ? parseStatement(cursor) : null;
  return async (run) => {
    if (isTrue(condition(run.scope))) await yes(run);
    else await no?.(run);
  };
}

function parseReturn(cursor: TokenCursor): Statement {
  const ends = ['end', 'symbol'].includes(cursor.current.kind) && cursor.current.text !== '-';
  const value = ends ? null : parseExpression(cursor);
  return async ({ scope }) => {
    throw new Return(value === null ? 0 : Number(value(scope).value));
  };
}

interface Argument {
  readonly name: string | null;
  readonly value: Expression;
  readonly variable: string | null;
  readonly output: boolean;
}

function parseExecute(cursor: TokenCursor): Statement {
  if (cursor.current.text === '(') {
    const [text] = parseList(cursor);
    return async ({ scope, state, output }) => {
      await runBatch(types.text(text!(scope).value), state, new Map(), output);
    };
  }
  let result: string | null = null;
  if (cursor.current.kind === 'variable' && cursor.tokens[cursor.at + 1]?.text === '=') {
    result = cursor.next().text.toLowerCase();
    cursor.next();
  }
  const name = cursor.name();
  const args: Argument[] = [];
  while (!atStatementEnd(cursor)) {
    const isNamed = cursor.current.kind === 'variable' && cursor.tokens[cursor.at + 1]?.text === '=';
    const parameter = isNamed ? cursor.next().text : null;
    if (isNamed) cursor.next();
    const { current } = cursor;
    const value = parseExpression(cursor);
    const output = cursor.accept('OUTPUT') || cursor.accept('OUT');
    const variable = current.kind === 'variable' ? current.text.toLowerCase() : null;
    args.push({ name: parameter, value, variable, output });
    if (!cursor.accept(',')) break;
  }
  return async ({ scope, state, output }) => {
    const values = args.map(({ name: parameter, value }) => ({ name: parameter ?? '', value: value(scope) }));
    const { status, outputs } = await callProcedure(name, values, state, output);
    args.forEach(({ name: parameter, variable, output: isOutput }, index) => {
      const returned = outputs[index] ?? outputs.find((value) => value?.name === parameter);
      if (isOutput && variable !== null && returned) scope.variables.set(variable, returned.value);
    });
    if (result !== null) scope.variables.set(result, literal(status));
  };
}

function atStatementEnd(cursor: TokenCursor): boolean {
  const { kind, text } = cursor.current;
  return kind === 'end' || text === ';' || (kind === 'word' && text.toUpperCase() in STATEMENTS);
}

export interface NamedValue {
  readonly name: string;
  readonly value: SqlValue;
}

/** Runs a procedure of the store. `outputs` stands at the places of the arguments. */
export async function callProcedure(
  name: string,
  args: readonly NamedValue[],
  state: SessionState,
  output: Output,
): Promise<{ status: number; outputs: (NamedValue | null)[] }> {
  const procedure = state.store.procedures.get(name.toLowerCase());
  if (procedure === undefined && name.toLowerCase() === 'sp_executesql') {
    const [sql, , ...values] = args;
    const given = new Map(values.map((value) => [value.name.toLowerCase(), value.value]));
    const { formatOnly, noCount } = state;
    await runBatch(types.text(sql!.value.value), state, given, output);
    Object.assign(state, { formatOnly, noCount });
    return { status: 0, outputs: [] };
  }
  if (procedure === undefined) {
    throw new SqlError(2812, 16, `Could not find stored procedure '${name}'.`, true, 62);
  }
  const variables = new Map<string, SqlValue>();
  const places: (string | null)[] = [];
  procedure.parameters.forEach((parameter, index) => {
    const named = args.find((arg) => arg.name.toLowerCase() === parameter.name.toLowerCase());
    const given = named ?? (args[index]?.name === '' ? args[index] : undefined);
    const value = given?.value ?? parameter.fallback;
    if (value === null || value === undefined) {
      throw new SqlError(
        201,
        16,
        `Procedure or function '${procedure.name}' expects parameter '${parameter.name}', which was not supplied.`,
        true,
        4,
      );
    }
    variables.set(parameter.name.toLowerCase(), value.table ? value : cast(value, parameter.type));
    if (given !== undefined && parameter.output) places[args.indexOf(given)] = parameter.name;
  });
  const within = output.inProcedure;
  output.inProcedure = true;
  const noCount = state.noCount;
  const status = await runBatch(procedure.body, state, variables, output, procedure.name);
  state.noCount = noCount;
  output.inProcedure = within;
  const outputs = args.map((arg, index) => {
    const parameter = places[index];
    if (!parameter) return null;
    return { name: arg.name || parameter, value: variables.get(parameter.toLowerCase())! };
  });
  return { status, outputs };
}
