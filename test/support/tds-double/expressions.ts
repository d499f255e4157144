import type { SqlToken } from './lexer.ts';
import { type SessionState, SqlError } from './state.ts';
import * as types from './types.ts';
import { literal, type Scalar, type SqlType, type SqlValue } from './types.ts';

/** Expressions of the test double's T-SQL: parsed once, evaluated for each row. */

export interface Scope {
  readonly state: SessionState;
  readonly variables: Map<string, SqlValue>;
  /** The current row by column name in small letters; null outside a query. */
  row: Map<string, SqlValue> | null;
  rowNumber: number;
  /** All rows, inside an aggregate query. */
  rows: Map<string, SqlValue>[] | null;
}

export type Expression = (scope: Scope) => SqlValue;

export class TokenCursor {
  readonly tokens: readonly SqlToken[];
  readonly sql: string;
  at = 0;

  constructor(tokens: readonly SqlToken[], sql: string) {
    this.tokens = tokens;
    this.sql = sql;
  }

  get current(): SqlToken {
    return this.tokens[this.at]!;
  }

  isWord(...words: readonly string[]): boolean {
    return this.current.kind === 'word' && words.includes(this.current.text.toUpperCase());
  }

  /** Consumes the words when they come next, in this order. */
  accept(...words: readonly string[]): boolean {
    const matches = words.every((word, index) => {
      const token = this.tokens[this.at + index];
      return (
        token !== undefined &&
        (token.kind === 'word' || token.kind === 'symbol') &&
        token.text.toUpperCase() === word
      );
    });
    if (matches) this.at += words.length;
    return matches;
  }

  expect(word: string): void {
    if (!this.accept(word)) this.fail();
  }

  next(): SqlToken {
    const token = this.current;
    if (token.kind !== 'end') this.at += 1;
    return token;
  }

  /** `a.b.c` as its last part. */
  name(): string {
    let token = this.next();
    if (token.kind !== 'word' && token.kind !== 'quoted') this.fail(token);
    while (this.accept('.')) {
      if (this.accept('.')) continue;
      token = this.next();
    }
    return token.text;
  }

  fail(token: SqlToken = this.current): never {
    throw new SqlError(102, 15, `Incorrect syntax near '${token.text}'.`, true);
  }
}

export function parseExpression(cursor: TokenCursor): Expression {
  let left = parseAnd(cursor);
  while (cursor.accept('OR')) {
    const [first, second] = [left, parseAnd(cursor)];
    left = (scope) => literal(isTrue(first(scope)) || isTrue(second(scope)));
  }
  return left;
}

function parseAnd(cursor: TokenCursor): Expression {
  let left = parseNot(cursor);
  while (cursor.accept('AND')) {
    const [first, second] = [left, parseNot(cursor)];
    left = (scope) => literal(isTrue(first(scope)) && isTrue(second(scope)));
  }
  return left;
}

function parseNot(cursor: TokenCursor): Expression {
  if (!cursor.accept('NOT')) return parseComparison(cursor);
  const inner = parseNot(cursor);
  return (scope) => literal(!isTrue(inner(scope)));
}

export function isTrue({ value }: SqlValue): boolean {
  return value !== null && value !== false && value !== 0;
}

const COMPARISONS: Readonly<Record<string, (order: number) => boolean>> = {
  '=': (order) => order === 0,
  '<>': (order) => order !== 0,
  '!=': (order) => order !== 0,
  '<': (order) => order < 0,
  '>': (order) => order > 0,
  '<=': (order) => order <= 0,
  '>=': (order) => order >= 0,
};

function parseComparison(cursor: TokenCursor): Expression {
  const left = parseSum(cursor);
  const symbol = cursor.current;
  const holds = symbol.kind === 'symbol' ? COMPARISONS[symbol.text] : undefined;
  if (holds !== undefined) {
    cursor.next();
    const right = parseSum(cursor);
    return (scope) => {
      const [a, b] = [left(scope).value, right(scope).value];
      return literal(a !== null && b !== null && holds(compare(a, b)));
    };
  }
  if (cursor.accept('IS')) {
    const negated = cursor.accept('NOT');
    cursor.expect('NULL');
    return (scope) => literal((left(scope).value === null) !== negated);
  }
  const negated = cursor.accept('NOT');
  if (cursor.accept('IN')) {
    const list = parseList(cursor);
    return (scope) => {
      const { value } = left(scope);
      const found = list.some((item) => value !== null && compare(value, item(scope).value) === 0);
      return literal(found !== negated);
    };
  }
  if (cursor.accept('LIKE')) {
    const pattern = parseSum(cursor);
    return (scope) => {
      const source = types.text(pattern(scope).value).replaceAll(/[.*+?^${}()|\\]/g, '\\$&');
      const expression = new RegExp(`^${source.replaceAll('%', '.*').replaceAll('_', '.')}$`, 'is');
      return literal(expression.test(types.text(left(scope).value)) !== negated);
    };
  }
  if (negated) cursor.fail();
  return left;
}

export function compare(a: Scalar, b: Scalar): number {
  if (typeof a === 'string' && typeof b === 'string') {
    const [x, y] = [a.trimEnd().toLowerCase(), b.trimEnd().toLowerCase()];
    return x < y ? -1 : x > y ? 1 : 0;
  }
  if (Buffer.isBuffer(a) && Buffer.isBuffer(b)) return Buffer.compare(a, b);
  const [x, y] = [Number(a), Number(b)];
  return x < y ? -1 : x > y ? 1 : 0;
}

/** `( expression, … )` */
export function parseList(cursor: TokenCursor): Expression[] {
  cursor.expect('(');
  const list: Expression[] = [];
  if (cursor.accept(')')) return list;
  do list.push(parseExpression(cursor));
  while (cursor.accept(','));
  cursor.expect(')');
  return list;
}

function parseSum(cursor: TokenCursor): Expression {
  let left = parseProduct(cursor);
  for (;;) {
    const symbol = cursor.current.text;
    if (cursor.current.kind !== 'symbol' || !['+', '-', '&', '|'].includes(symbol)) return left;
    cursor.next();
    const [first, second] = [left, parseProduct(cursor)];
    left = (scope) => combine(symbol, first(scope), second(scope));
  }
}

function parseProduct(cursor: TokenCursor): Expression {
  let left = parseUnary(cursor);
  for (;;) {
    const symbol = cursor.current.text;
    if (cursor.current.kind !== 'symbol' || !['*', '/', '%'].includes(symbol)) return left;
    cursor.next();
    const [first, second] = [left, parseUnary(cursor)];
    left = (scope) => combine(symbol, first(scope), second(scope));
  }
}

function combine(symbol: string, left: SqlValue, right: SqlValue): SqlValue {
  if (left.value === null || right.value === null) return { type: left.type, value: null };
  if (symbol === '+' && (typeof left.value === 'string' || typeof right.value === 'string')) {
    return literal(types.text(left.value) + types.text(right.value));
  }
  const [a, b] = [Number(left.value), Number(right.value)];
  if ((symbol === '/' || symbol === '%') && b === 0) {
    throw new SqlError(8134, 16, 'Divide by zero error encountered.');
  }
  const whole = left.type.id === 0x26 && right.type.id === 0x26;
  switch (symbol) {
    case '+':
      return literal(a + b);
    case '-':
      return literal(a - b);
    case '*':
      return literal(a * b);
    case '&':
      return literal(a & b);
    case '|':
      return literal(a | b);
    case '%':
      return literal(a % b);
    default:
      return literal(whole ? Math.trunc(a / b) : a / b);
  }
}

function parseUnary(cursor: TokenCursor): Expression {
  if (cursor.accept('-')) {
    const inner = parseUnary(cursor);
    return (scope) => {
      const value = inner(scope);
      if (typeof value.value === 'string') return { type: value.type, value: `-${value.value}` };
      return { type: value.type, value: value.value === null ? null : -Number(value.value) };
    };
  }
  if (cursor.accept('+')) return parseUnary(cursor);
  return parsePrimary(cursor);
}

function parsePrimary(cursor: TokenCursor): Expression {
  const token = cursor.next();
  switch (token.kind) {
    case 'number':
      return constant(numberLiteral(token.text));
    case 'national':
      return constant(literal(token.text));
    case 'string':
      return constant({ type: types.varchar(token.text.length), value: token.text });
    case 'binary': {
      const hex = token.text.slice(2);
      return constant(literal(Buffer.from(hex.length % 2 ? `0${hex}` : hex, 'hex')));
    }
    case 'variable':
      return variable(token.text);
    case 'symbol':
      if (token.text !== '(') cursor.fail(token);
      return parenthesised(cursor);
    case 'word':
    case 'quoted':
      return parseNamed(cursor, token);
    default:
      return cursor.fail(token);
  }
}

function constant(value: SqlValue): Expression {
  return () => value;
}

function parenthesised(cursor: TokenCursor): Expression {
  const inner = parseExpression(cursor);
  cursor.expect(')');
  return inner;
}

function numberLiteral(text: string): SqlValue {
  if (/e/i.test(text)) return { type: types.FLOAT, value: Number(text) };
  if (!text.includes('.')) {
    const value = BigInt(text);
    if (value < 0x8000_0000n) return literal(Number(value));
    return { type: types.decimal(text.length, 0), value: text };
  }
  const [whole, fraction] = text.split('.');
  return { type: types.decimal(whole!.length + fraction!.length, fraction!.length), value: text };
}

const GLOBALS: Readonly<Record<string, (state: SessionState) => SqlValue>> = {
  '@@version': ({ version }) => literal(`Microsoft SQL Server test double ${version}`),
  '@@spid': ({ spid }) => ({ type: types.SMALLINT, value: spid }),
  '@@rowcount': ({ rowCount }) => literal(rowCount),
  '@@trancount': ({ transactions }) => literal(transactions),
  '@@error': ({ lastError }) => literal(lastError),
  '@@identity': ({ identity }) => ({
    type: types.decimal(38, 0),
    value: identity === null ? null : `${identity}`,
  }),
  '@@servername': () => literal('DOUBLE'),
  '@@max_precision': () => ({ type: types.TINYINT, value: 38 }),
  '@@options': () => literal(5496),
  '@@language': () => literal('us_english'),
  '@@microsoftversion': () => literal(0x1000_03e8),
};

function variable(name: string): Expression {
  const key = name.toLowerCase();
  const global = GLOBALS[key];
  if (global !== undefined) return ({ state }) => global(state);
  return ({ variables }) => {
    const value = variables.get(key);
    if (value === undefined) {
      throw new SqlError(137, 15, `Must declare the scalar variable "${name}".`, true, 2);
    }
    return value;
  };
}

function parseNamed(cursor: TokenCursor, token: SqlToken): Expression {
  const word = token.kind === 'word' ? token.text.toUpperCase() : '';
  if (word === 'NULL') return constant(literal(null));
  if (word === 'CASE') return parseCase(cursor);
  if ((word === 'CAST' || word === 'TRY_CAST') && cursor.accept('(')) {
    const inner = parseExpression(cursor);
    cursor.expect('AS');
    const type = parseType(cursor);
    cursor.expect(')');
    return (scope) => cast(inner(scope), type);
  }
  if (word === 'CONVERT' && cursor.accept('(')) {
    const type = parseType(cursor);
    cursor.expect(',');
    const inner = parseExpression(cursor);
    while (cursor.accept(',')) parseExpression(cursor);
    cursor.expect(')');
    return (scope) => cast(inner(scope), type);
  }
  let name = token.text;
  while (cursor.accept('.')) name = cursor.next().text;
  if (cursor.current.text === '(') return parseCall(cursor, name);
  if (['SYSTEM_USER', 'CURRENT_USER', 'USER', 'SESSION_USER'].includes(word))
    return ({ state }) => literal(state.user);
  if (word === 'CURRENT_TIMESTAMP')
    return () => ({ type: types.DATETIME, value: new Date().toISOString().slice(0, 23) });
  return ({ row }) => {
    const value = row?.get(name.toLowerCase());
    if (value === undefined) throw new SqlError(207, 16, `Invalid column name '${name}'.`, true);
    return value;
  };
}

function parseCase(cursor: TokenCursor): Expression {
  const branches: [Expression, Expression][] = [];
  while (cursor.accept('WHEN')) {
    const condition = parseExpression(cursor);
    cursor.expect('THEN');
    branches.push([condition, parseExpression(cursor)]);
  }
  const otherwise = cursor.accept('ELSE') ? parseExpression(cursor) : constant(literal(null));
  cursor.expect('END');
  return (scope) => (branches.find(([condition]) => isTrue(condition(scope)))?.[1] ?? otherwise)(scope);
}

const AGGREGATES: Readonly<Record<string, (values: Scalar[]) => Scalar>> = {
  COUNT: (values) => values.length,
  SUM: (values) =>
    values.length === 0 ? null : values.reduce<number>((sum, value) => sum + Number(value), 0),
  MIN: (values) =>
    values.reduce<Scalar>(
      (least, value) => (least === null || compare(value, least) < 0 ? value : least),
      null,
    ),
  MAX: (values) =>
    values.reduce<Scalar>((most, value) => (most === null || compare(value, most) > 0 ? value : most), null),
};

type Function = (args: SqlValue[], scope: Scope) => SqlValue;

const FUNCTIONS: Readonly<Record<string, Function>> = {
  REPLICATE: ([text, count]) => {
    const value = types.text(text!.value).repeat(Number(count!.value));
    return {
      type: text!.type.id === 0xa7 ? types.varchar(value.length) : types.nvarchar(value.length),
      value,
    };
  },
  LEN: ([text]) => literal(types.text(text!.value).trimEnd().length),
  DATALENGTH: ([value]) => literal(types.encode(value!).length - (value!.type.size === 0xffff ? 16 : 2)),
  UPPER: ([text]) => literal(types.text(text!.value).toUpperCase()),
  LOWER: ([text]) => literal(types.text(text!.value).toLowerCase()),
  ISNULL: ([value, other]) => (value!.value === null ? other! : value!),
  COALESCE: (args) => args.find(({ value }) => value !== null) ?? literal(null),
  DB_NAME: (_args, { state }) => literal(state.database),
  DB_ID: (_args, { state }) => literal(state.databases.indexOf(state.database) + 1),
  SUSER_SNAME: (_args, { state }) => literal(state.user),
  SUSER_NAME: (_args, { state }) => literal(state.user),
  ORIGINAL_LOGIN: (_args, { state }) => literal(state.user),
  USER_NAME: () => literal('dbo'),
  SCHEMA_NAME: () => literal('dbo'),
  APP_NAME: (_args, { state }) => literal(state.application),
  HOST_NAME: (_args, { state }) => literal(state.host),
  SERVERPROPERTY: ([name], { state }) => literal(serverProperty(types.text(name!.value), state)),
  SCOPE_IDENTITY: (_args, { state }) => ({
    type: types.decimal(38, 0),
    value: state.identity === null ? null : `${state.identity}`,
  }),
  GETDATE: () => ({ type: types.DATETIME, value: new Date().toISOString().slice(0, 23) }),
  SYSDATETIME: () => ({ type: types.datetime2(7), value: new Date().toISOString().slice(0, 23) }),
  XACT_STATE: (_args, { state }) => literal(state.transactions > 0 ? 1 : 0),
  OBJECT_ID: ([name], { state }) => {
    const key = types.text(name!.value).split('.').at(-1)!.replaceAll(/[[\]]/g, '').toLowerCase();
    return { type: types.INT, value: state.objectId(key) };
  },
  CHAR: ([code]) => ({ type: types.varchar(1), value: String.fromCharCode(Number(code!.value)) }),
  NCHAR: ([code]) => literal(String.fromCharCode(Number(code!.value))),
};

function serverProperty(name: string, state: SessionState): Scalar {
  const properties: Readonly<Record<string, Scalar>> = {
    productversion: `${state.version}.0`,
    edition: 'Test Double (64-bit)',
    engineedition: 3,
    productlevel: 'RTM',
    collation: 'SQL_Latin1_General_CP1_CI_AS',
    servername: 'DOUBLE',
  };
  return properties[name.toLowerCase()] ?? null;
}

function parseCall(cursor: TokenCursor, name: string): Expression {
  const upper = name.toUpperCase();
  if (upper === 'ROW_NUMBER') return parseRowNumber(cursor);
  const aggregate = AGGREGATES[upper];
  if (aggregate !== undefined) {
    cursor.expect('(');
    const argument = cursor.accept('*') ? constant(literal(1)) : parseExpression(cursor);
    cursor.expect(')');
    return (scope) => {
      const rows = scope.rows ?? [];
      const values = rows.map((row) => argument({ ...scope, row, rows: null }).value);
      return literal(aggregate(values.filter((value) => value !== null)));
    };
  }
  const args = parseList(cursor);
  const call = FUNCTIONS[upper];
  if (call === undefined) {
    throw new SqlError(195, 15, `'${name}' is not a recognized built-in function name.`, true, 10);
  }
  return (scope) =>
    call(
      args.map((arg) => arg(scope)),
      scope,
    );
}

function parseRowNumber(cursor: TokenCursor): Expression {
  cursor.accept('(', ')');
  cursor.expect('OVER');
  cursor.expect('(');
  for (let depth = 1; depth > 0; ) {
    const { text } = cursor.next();
    if (text === '(') depth += 1;
    if (text === ')') depth -= 1;
  }
  return ({ rowNumber }) => ({ type: types.BIGINT, value: rowNumber });
}

/** Whether the tokens up to the statement's end call an aggregate. */
export function isAggregate(tokens: readonly SqlToken[]): boolean {
  return tokens.some(
    (token, index) =>
      token.kind === 'word' && token.text.toUpperCase() in AGGREGATES && tokens[index + 1]?.text === '(',
  );
}

const PLAIN_TYPES: Readonly<Record<string, SqlType>> = {
  INT: types.INT,
  INTEGER: types.INT,
  BIGINT: types.BIGINT,
  SMALLINT: types.SMALLINT,
  TINYINT: types.TINYINT,
  BIT: types.BIT,
  FLOAT: types.FLOAT,
  REAL: types.REAL,
  UNIQUEIDENTIFIER: types.GUID,
  DATE: types.DATE,
  DATETIME: types.DATETIME,
  MONEY: types.MONEY,
  XML: types.XML,
  SYSNAME: types.nvarchar(128),
  TEXT: types.varchar(9000),
  NTEXT: types.nvarchar(9000),
  IMAGE: types.varbinary(9000),
};

export function parseType(cursor: TokenCursor): SqlType {
  const name = cursor.name().toUpperCase();
  const numbers: number[] = [];
  if (cursor.accept('(')) {
    do numbers.push(cursor.accept('MAX') ? 9000 : Number(cursor.next().text));
    while (cursor.accept(','));
    cursor.expect(')');
  }
  const [first, second] = numbers;
  switch (name) {
    case 'NVARCHAR':
      return types.nvarchar(first ?? 30);
    case 'VARCHAR':
      return types.varchar(first ?? 30);
    case 'NCHAR':
      return types.nchar(first ?? 1);
    case 'CHAR':
      return types.char(first ?? 1);
    case 'VARBINARY':
    case 'BINARY':
      return types.varbinary(first ?? 30);
    case 'DECIMAL':
    case 'NUMERIC':
      return types.decimal(first ?? 18, second ?? 0);
    case 'TIME':
      return types.time(first ?? 7);
    case 'DATETIME2':
      return types.datetime2(first ?? 7);
    case 'DATETIMEOFFSET':
      return types.datetimeoffset(first ?? 7);
    default: {
      const plain = PLAIN_TYPES[name];
      if (plain === undefined) throw new SqlError(2715, 16, `Cannot find data type ${name}.`, true);
      return plain;
    }
  }
}

/** Converts; a value that keeps its type keeps its bytes. */
export function cast(source: SqlValue, type: SqlType): SqlValue {
  if (source.value === null) return { type, value: null };
  if (source.type.info.equals(type.info)) return source;
  const { value } = source;
  if (Buffer.isBuffer(value)) return { type, value };
  if (type.id === 0x26 && typeof value === 'string' && !/^\s*[-+]?\d+(\.\d*)?\s*$/.test(value)) {
    throw new SqlError(
      245,
      16,
      `Conversion failed when converting the varchar value '${value}' to data type int.`,
      true,
    );
  }
  if (type.id === 0x26) return { type, value: BigInt(Math.trunc(Number(value))) };
  if (type.id === 0x68 || type.id === 0x6d) return { type, value: Number(value) };
  return { type, value: types.text(value) };
}
