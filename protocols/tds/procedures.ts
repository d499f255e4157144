/**
 * The system procedures through which drivers run statements (MS-TDS 2.2.6.6 and SQL Server's documentation of each):
 * which parameter is the statement, which its declarations, which a handle, and where the values begin.
 */

export type Role = 'statement' | 'definition' | 'prepared' | 'cursor' | 'value' | 'option';

export interface Procedure {
  readonly name: string;
  /** Roles by position; what lies beyond has the role `rest`. */
  readonly roles: readonly Role[];
  readonly rest: Role;
  /** What the record calls it. */
  readonly kind: 'rpc' | 'prepare' | 'execute';
  /** Names of the parameters whose role is `option` or `value`, by position, for the record. */
  readonly names: readonly (string | null)[];
  /** The handle that it frees. */
  readonly frees: 'prepared' | 'cursor' | null;
}

function procedure(
  name: string,
  kind: Procedure['kind'],
  roles: readonly Role[],
  rest: Role,
  extra: { names?: readonly (string | null)[]; frees?: 'prepared' | 'cursor' } = {},
): Procedure {
  return { name, kind, roles, rest, names: extra.names ?? [], frees: extra.frees ?? null };
}

/** By the number that requests use in place of a name. */
const BY_ID: readonly (Procedure | null)[] = [
  null,
  procedure('sp_cursor', 'rpc', ['cursor'], 'value', { names: [null, '@optype', '@rownum', '@table'] }),
  procedure(
    'sp_cursoropen',
    'execute',
    ['cursor', 'statement', 'option', 'option', 'option', 'definition'],
    'value',
  ),
  procedure('sp_cursorprepare', 'prepare', ['prepared', 'definition', 'statement'], 'option'),
  procedure('sp_cursorexecute', 'execute', ['prepared', 'cursor', 'option', 'option', 'option'], 'value'),
  procedure(
    'sp_cursorprepexec',
    'execute',
    ['prepared', 'cursor', 'definition', 'statement', 'option', 'option', 'option'],
    'value',
  ),
  procedure('sp_cursorunprepare', 'rpc', ['prepared'], 'option', { frees: 'prepared' }),
  procedure('sp_cursorfetch', 'rpc', ['cursor'], 'value', {
    names: [null, '@fetchtype', '@rownum', '@nrows'],
  }),
  procedure('sp_cursoroption', 'rpc', ['cursor'], 'value', { names: [null, '@code', '@value'] }),
  procedure('sp_cursorclose', 'rpc', ['cursor'], 'option', { frees: 'cursor' }),
  procedure('sp_executesql', 'rpc', ['statement', 'definition'], 'value'),
  procedure('sp_prepare', 'prepare', ['prepared', 'definition', 'statement'], 'option'),
  procedure('sp_execute', 'execute', ['prepared'], 'value'),
  procedure('sp_prepexec', 'execute', ['prepared', 'definition', 'statement'], 'value'),
  procedure('sp_prepexecrpc', 'execute', ['prepared', 'statement'], 'value'),
  procedure('sp_unprepare', 'rpc', ['prepared'], 'option', { frees: 'prepared' }),
];

const BY_NAME = new Map(BY_ID.filter((entry) => entry !== null).map((entry) => [entry.name, entry]));

export function procedureById(id: number): Procedure | null {
  return BY_ID[id] ?? null;
}

/**
 * The system procedure that a name means: in any case, with or without brackets, schema, database and group number.
 * Names that begin with `sp_` resolve to the system's procedure from every database.
 */
export function procedureByName(name: string): Procedure | null {
  const last = /(?:\[((?:[^\]]|\]\])*)\]|"((?:[^"]|"")*)"|([^.[\]"]*))$/.exec(
    name.trim().replace(/;\d+$/, ''),
  );
  if (last === null) return null;
  const bare = (last[1] ?? last[2] ?? last[3] ?? '').trim().toLowerCase();
  return BY_NAME.get(bare) ?? null;
}

const STATEMENT_NAMES = new Set(['@stmt', '@statement', 'stmt', 'statement']);
const DEFINITION_NAMES = new Set(['@params', '@parameters', '@paramdef', 'params', 'parameters', 'paramdef']);

/**
 * The role of the parameter at `index` (from 0). A name decides where a driver gives one of the documented ones ahead
 * of the values; elsewhere, and by default, the position does. `named` says that the statement was already given under
 * its own name or without one.
 */
export function roleOf(known: Procedure, index: number, name: string, settled: boolean): Role {
  const role = known.roles[index] ?? known.rest;
  if (name === '' || (settled && role === 'value')) return role;
  const lower = name.toLowerCase();
  if (STATEMENT_NAMES.has(lower) && known.roles.includes('statement')) return 'statement';
  if (DEFINITION_NAMES.has(lower) && index < known.roles.length) return 'definition';
  return role;
}

export function isStatementName(name: string): boolean {
  return name === '' || STATEMENT_NAMES.has(name.toLowerCase());
}

/** The names that a parameter definition declares: `@a int, @b nvarchar(20) output` gives `@a`, `@b`. */
export function declaredNames(definition: string): string[] {
  const names: string[] = [];
  let depth = 0;
  let start = 0;
  for (let at = 0; at <= definition.length; at++) {
    const character = at === definition.length ? ',' : definition[at];
    if (character === '(' || character === '[') depth += 1;
    else if (character === ')' || character === ']') depth -= 1;
    else if (character === ',' && depth <= 0) {
      const name = /^\s*(@[^\s]+)/.exec(definition.slice(start, at));
      if (name !== null) names.push(name[1]!);
      start = at + 1;
    }
  }
  return names;
}
