import {
  compare,
  type Expression,
  isAggregate,
  isTrue,
  parseExpression,
  parseList,
  type Scope,
  type TokenCursor,
} from './expressions.ts';
import type { SqlToken } from './lexer.ts';
import type { ResultColumn } from './output.ts';
import { SqlError } from './state.ts';
import { BIT, INT, nvarchar, type SqlValue } from './types.ts';

/** SELECT of the test double: one source, a filter, an order, aggregates over all rows, UNION ALL. */
export interface Query {
  readonly into: string | null;
  /** Only sets variables. */
  readonly assigns: boolean;
  assign(scope: Scope): void;
  columns(scope: Scope): ResultColumn[];
  rows(scope: Scope): Iterable<SqlValue[]>;
}

type NamedRow = Map<string, SqlValue>;

/** Where rows come from; null for a SELECT without FROM. */
interface Source {
  names(scope: Scope): readonly { name: string; type: ResultColumn['type'] }[];
  rows(scope: Scope): Iterable<NamedRow>;
}

interface Item {
  readonly star: boolean;
  readonly name: string;
  readonly variable: string | null;
  readonly expression: Expression | null;
}

const CLAUSES = [
  'FROM',
  'WHERE',
  'ORDER',
  'GROUP',
  'UNION',
  'OPTION',
  'INTO',
  'FOR',
  'CROSS',
  'INNER',
  'LEFT',
  'JOIN',
  'ON',
  'AS',
  'SET',
  'SELECT',
  'INSERT',
  'UPDATE',
  'DELETE',
  'PRINT',
  'RAISERROR',
  'THROW',
  'DECLARE',
  'EXEC',
  'EXECUTE',
  'IF',
  'ELSE',
  'END',
  'BEGIN',
  'COMMIT',
  'ROLLBACK',
  'DROP',
  'CREATE',
  'WAITFOR',
  'RETURN',
  'USE',
  'SAVE',
  'TRUNCATE',
  'WITH',
];

export function parseQuery(cursor: TokenCursor): Query {
  const first = parseOne(cursor);
  const others: Query[] = [];
  while (cursor.accept('UNION', 'ALL')) others.push(parseOne(cursor));
  if (cursor.accept('OPTION')) parseAnything(cursor);
  if (others.length === 0) return first;
  return {
    into: first.into,
    assigns: first.assigns,
    assign: (scope) => first.assign(scope),
    columns: (scope) => first.columns(scope),
    *rows(scope) {
      yield* first.rows(scope);
      for (const other of others) yield* other.rows(scope);
    },
  };
}

/** A parenthesis with whatever is in it. */
function parseAnything(cursor: TokenCursor): void {
  cursor.expect('(');
  for (let depth = 1; depth > 0; ) {
    const { text } = cursor.next();
    if (text === '(') depth += 1;
    if (text === ')') depth -= 1;
  }
}

function parseOne(cursor: TokenCursor): Query {
  cursor.expect('SELECT');
  const start = cursor.at;
  if (cursor.accept('DISTINCT')) cursor.accept('ALL');
  const top = parseTop(cursor);
  const items: Item[] = [];
  do items.push(parseItem(cursor));
  while (cursor.accept(','));
  const aggregate = isAggregate(cursor.tokens.slice(start, cursor.at) as SqlToken[]);
  const into = cursor.accept('INTO') ? cursor.name() : null;
  const source = cursor.accept('FROM') ? parseSource(cursor) : null;
  const where = cursor.accept('WHERE') ? parseExpression(cursor) : null;
  const order = cursor.accept('ORDER', 'BY') ? parseOrder(cursor) : [];
  return new OneQuery({ top, items, aggregate, into, source, where, order });
}

function parseTop(cursor: TokenCursor): Expression | null {
  if (!cursor.accept('TOP')) return null;
  if (cursor.current.text !== '(') {
    const count = Number(cursor.next().text);
    return () => ({ type: INT, value: count });
  }
  const [count] = parseList(cursor);
  return count!;
}

function parseItem(cursor: TokenCursor): Item {
  if (cursor.accept('*')) return { star: true, name: '', variable: null, expression: null };
  const { current } = cursor;
  const after = cursor.tokens[cursor.at + 1];
  if (current.kind === 'variable' && after?.text === '=') {
    cursor.next();
    cursor.next();
    return {
      star: false,
      name: '',
      variable: current.text.toLowerCase(),
      expression: parseExpression(cursor),
    };
  }
  if ((current.kind === 'word' || current.kind === 'quoted') && after?.text === '=') {
    cursor.next();
    cursor.next();
    return { star: false, name: current.text, variable: null, expression: parseExpression(cursor) };
  }
  const expression = parseExpression(cursor);
  const isColumn = cursor.tokens[cursor.at - 1] === current || cursor.tokens[cursor.at - 2]?.text === '.';
  const last = cursor.tokens[cursor.at - 1]!;
  const plain = isColumn && (last.kind === 'word' || last.kind === 'quoted') ? last.text : '';
  return { star: false, name: parseAlias(cursor) ?? plain, variable: null, expression };
}

function parseAlias(cursor: TokenCursor): string | null {
  if (cursor.accept('AS')) return cursor.next().text;
  const { kind, text } = cursor.current;
  if (kind === 'quoted' || kind === 'string') return cursor.next().text;
  if (kind === 'word' && !CLAUSES.includes(text.toUpperCase())) return cursor.next().text;
  return null;
}

function parseOrder(cursor: TokenCursor): { key: Expression; descending: boolean }[] {
  const keys: { key: Expression; descending: boolean }[] = [];
  do {
    const key = parseExpression(cursor);
    const descending = cursor.accept('DESC');
    if (!descending) cursor.accept('ASC');
    keys.push({ key, descending });
  } while (cursor.accept(','));
  return keys;
}

function parseSource(cursor: TokenCursor): Source {
  let source = parsePart(cursor);
  // A cross join of the catalogue with itself is how T-SQL makes many rows: the double's catalogue has no end anyway.
  while (cursor.accept('CROSS', 'JOIN') || cursor.accept(',')) {
    const other = parsePart(cursor);
    if (source !== ENDLESS) source = crossed(source, other);
  }
  return source;
}

function parsePart(cursor: TokenCursor): Source {
  if (cursor.accept('(')) return parseDerived(cursor);
  if (cursor.current.kind === 'variable') return parseTableVariable(cursor);
  const from = cursor.at;
  const name = cursor.name();
  const path = cursor.tokens
    .slice(from, cursor.at)
    .map(({ text }) => text.toLowerCase())
    .join('');
  parseAlias(cursor);
  if (cursor.accept('WITH')) parseAnything(cursor);
  if (path === 'sys.all_objects' || path === 'sys.all_columns' || path === 'master.dbo.spt_values')
    return ENDLESS;
  if (path === 'sys.columns') return CATALOGUE;
  return {
    names: ({ state }) => state.table(name).columns,
    *rows({ state }) {
      const table = state.table(name);
      for (const row of table.rows) {
        yield new Map(table.columns.map((column, index) => [column.name.toLowerCase(), row[index]!]));
      }
    },
  };
}

/** A table-valued parameter. */
function parseTableVariable(cursor: TokenCursor): Source {
  const variable = cursor.next().text;
  parseAlias(cursor);
  const tableOf = ({ variables }: Scope) => {
    const found = variables.get(variable.toLowerCase())?.table;
    if (found === undefined) {
      throw new SqlError(1087, 16, `Must declare the table variable "${variable}".`, true);
    }
    return found;
  };
  return {
    names: (scope) => scope.state.tableType(tableOf(scope).typeName),
    *rows(scope) {
      const { typeName, rows } = tableOf(scope);
      const columns = scope.state.tableType(typeName);
      for (const row of rows) {
        yield new Map(columns.map((column, index) => [column.name.toLowerCase(), row[index]!]));
      }
    },
  };
}

/** The columns of all tables, with what bulk loads ask of them. */
const CATALOGUE: Source = {
  names: () => [
    { name: 'object_id', type: INT },
    { name: 'column_id', type: INT },
    { name: 'name', type: nvarchar(128) },
    { name: 'collation_name', type: nvarchar(128) },
    { name: 'is_computed', type: BIT },
    { name: 'encryption_type', type: INT },
  ],
  *rows({ state }) {
    for (const [key, table] of [...state.store.tables, ...state.temporary]) {
      for (const [index, { name, type }] of table.columns.entries()) {
        const isText = [0xa7, 0xaf, 0xe7, 0xef].includes(type.id);
        yield new Map<string, SqlValue>([
          ['object_id', { type: INT, value: state.objectId(key) }],
          ['column_id', { type: INT, value: index + 1 }],
          ['name', { type: nvarchar(128), value: name }],
          ['collation_name', { type: nvarchar(128), value: isText ? 'SQL_Latin1_General_CP1_CI_AS' : null }],
          ['is_computed', { type: BIT, value: 0 }],
          ['encryption_type', { type: INT, value: null }],
        ]);
      }
    }
  },
};

const ENDLESS: Source = {
  names: () => [],
  *rows() {
    for (;;) yield new Map();
  },
};

function crossed(left: Source, right: Source): Source {
  return {
    names: (scope) => [...left.names(scope), ...right.names(scope)],
    *rows(scope) {
      for (const a of left.rows(scope)) for (const b of right.rows(scope)) yield new Map([...a, ...b]);
    },
  };
}

/** `(VALUES (…), (…)) AS t (a, b)` or `(SELECT …) AS t`. */
function parseDerived(cursor: TokenCursor): Source {
  if (!cursor.accept('VALUES')) {
    const query = parseQuery(cursor);
    cursor.expect(')');
    parseAlias(cursor);
    return {
      names: (scope) => query.columns(scope),
      *rows(scope) {
        const names = query.columns(scope).map(({ name }) => name.toLowerCase());
        for (const row of query.rows(scope)) yield new Map(names.map((name, index) => [name, row[index]!]));
      },
    };
  }
  const lists: Expression[][] = [];
  do lists.push(parseList(cursor));
  while (cursor.accept(','));
  cursor.expect(')');
  parseAlias(cursor);
  cursor.expect('(');
  const names: string[] = [];
  do names.push(cursor.name());
  while (cursor.accept(','));
  cursor.expect(')');
  return {
    names: (scope) => names.map((name, index) => ({ name, type: lists[0]![index]!(scope).type })),
    *rows(scope) {
      for (const list of lists) {
        yield new Map(names.map((name, index) => [name.toLowerCase(), list[index]!(scope)]));
      }
    },
  };
}

interface Parts {
  readonly top: Expression | null;
  readonly items: readonly Item[];
  readonly aggregate: boolean;
  readonly into: string | null;
  readonly source: Source | null;
  readonly where: Expression | null;
  readonly order: readonly { key: Expression; descending: boolean }[];
}

class OneQuery implements Query {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  get into(): string | null {
    return this.#parts.into;
  }

  get assigns(): boolean {
    return this.#parts.items.some(({ variable }) => variable !== null);
  }

  assign(scope: Scope): void {
    for (const row of this.#scopes(scope)) {
      for (const { variable, expression } of this.#parts.items) {
        if (variable !== null && expression !== null) scope.variables.set(variable, expression(row));
      }
    }
  }

  columns(scope: Scope): ResultColumn[] {
    const names = this.#parts.source?.names(scope) ?? [];
    // Types come from a look at the expressions over an empty row of the source.
    const row: NamedRow = new Map(names.map(({ name, type }) => [name.toLowerCase(), { type, value: null }]));
    const inner: Scope = { ...scope, row, rowNumber: 1, rows: [] };
    return this.#parts.items.flatMap(({ star, name, expression }) => {
      if (star) return names.map((column) => ({ name: column.name, type: column.type }));
      return [{ name, type: typeOf(expression!, inner) }];
    });
  }

  *rows(scope: Scope): Iterable<SqlValue[]> {
    const names = this.#parts.source?.names(scope).map(({ name }) => name.toLowerCase()) ?? [];
    for (const inner of this.#scopes(scope)) {
      yield this.#parts.items.flatMap(({ star, expression }) =>
        star ? names.map((name) => inner.row!.get(name)!) : [expression!(inner)],
      );
    }
  }

  *#scopes(scope: Scope): Iterable<Scope> {
    const { source, where, order, aggregate, top } = this.#parts;
    if (source === null) {
      if (where === null || isTrue(where(scope)))
        yield { ...scope, rowNumber: 1, rows: aggregate ? [new Map()] : null };
      return;
    }
    const limit = top === null ? Number.POSITIVE_INFINITY : Number(top(scope).value);
    if (aggregate) {
      const rows = [...this.#filtered(scope)];
      yield { ...scope, row: rows[0] ?? new Map(), rows };
      return;
    }
    const rows = order.length === 0 ? this.#filtered(scope) : this.#ordered(scope);
    let rowNumber = 0;
    if (limit <= 0) return;
    for (const row of rows) {
      rowNumber += 1;
      yield { ...scope, row, rowNumber };
      if (rowNumber >= limit) return;
    }
  }

  *#filtered(scope: Scope): Iterable<NamedRow> {
    const { source, where } = this.#parts;
    for (const row of source!.rows(scope)) {
      if (where === null || isTrue(where({ ...scope, row }))) yield row;
    }
  }

  #ordered(scope: Scope): NamedRow[] {
    const rows = [...this.#filtered(scope)];
    const { order, items } = this.#parts;
    const keyed = rows.map((row) => {
      const named = new Map(row);
      for (const { name, expression } of items) {
        if (name !== '' && expression !== null && !named.has(name.toLowerCase())) {
          named.set(name.toLowerCase(), expression({ ...scope, row }));
        }
      }
      return { row, keys: order.map(({ key }) => key({ ...scope, row: named }).value) };
    });
    keyed.sort((a, b) => {
      for (const [index, { descending }] of order.entries()) {
        const result = compare(a.keys[index]!, b.keys[index]!);
        if (result !== 0) return descending ? -result : result;
      }
      return 0;
    });
    return keyed.map(({ row }) => row);
  }
}

function typeOf(expression: Expression, scope: Scope): ResultColumn['type'] {
  try {
    return expression(scope).type;
  } catch {
    return INT;
  }
}
