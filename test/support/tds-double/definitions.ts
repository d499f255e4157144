import { parseExpression, parseType, type Scope, type TokenCursor } from './expressions.ts';
import type { Statement } from './messages.ts';
import { Command } from './output.ts';
import { type Column, SqlError } from './state.ts';
import type { SqlValue } from './types.ts';
import * as types from './types.ts';

/** CREATE, DROP and TRUNCATE of the test double. */

export function parseTruncate(cursor: TokenCursor): Statement {
  cursor.expect('TABLE');
  const name = cursor.name();
  return async ({ state }) => {
    state.table(name).rows = [];
  };
}

export function parseCreate(cursor: TokenCursor): Statement {
  if (cursor.accept('OR', 'ALTER') || cursor.isWord('PROCEDURE', 'PROC')) return parseCreateProcedure(cursor);
  if (cursor.accept('TYPE')) return parseCreateType(cursor);
  cursor.expect('TABLE');
  const name = cursor.name();
  const columns = parseColumns(cursor);
  return async ({ state, output }) => {
    if (state.tables(name).has(name.toLowerCase())) {
      throw new SqlError(2714, 16, `There is already an object named '${name}' in the database.`, true, 6);
    }
    state.tables(name).set(name.toLowerCase(), { name, columns, rows: [], nextIdentity: 1 });
    output.done(Command.none, null);
  };
}

function parseCreateType(cursor: TokenCursor): Statement {
  const name = cursor.name();
  cursor.expect('AS');
  cursor.expect('TABLE');
  const columns = parseColumns(cursor);
  return async ({ state, output }) => {
    state.store.tableTypes.set(name.toLowerCase(), columns);
    output.done(Command.none, null);
  };
}

function parseColumns(cursor: TokenCursor): Column[] {
  cursor.expect('(');
  const columns: Column[] = [];
  do {
    const column = cursor.name();
    const type = parseType(cursor);
    const words: string[] = [];
    for (let depth = 0; depth > 0 || (cursor.current.text !== ',' && cursor.current.text !== ')'); ) {
      const token = cursor.next();
      if (token.text === '(') depth += 1;
      if (token.text === ')') depth -= 1;
      words.push(token.text.toUpperCase());
    }
    const key = words.includes('PRIMARY');
    const nullable = !words.includes('NOT') && !key;
    columns.push({ name: column, type, nullable, identity: words.includes('IDENTITY'), key });
  } while (cursor.accept(','));
  cursor.expect(')');
  return columns;
}

/** `name READONLY`: a table type, whose values are passed as they are. */
function acceptTableType(cursor: TokenCursor): boolean {
  const from = cursor.at;
  cursor.name();
  if (cursor.accept('READONLY')) return true;
  cursor.at = from;
  return false;
}

function parseCreateProcedure(cursor: TokenCursor): Statement {
  cursor.next();
  const name = cursor.name();
  const parameters: { name: string; type: types.SqlType; output: boolean; fallback: SqlValue | null }[] = [];
  while (cursor.current.kind === 'variable') {
    const parameter = cursor.next().text;
    cursor.accept('AS');
    const type = acceptTableType(cursor) ? types.INT : parseType(cursor);
    const fallback = cursor.accept('=') ? parseExpression(cursor) : null;
    const output = cursor.accept('OUTPUT') || cursor.accept('OUT');
    const value = fallback === null ? null : fallback({} as Scope);
    parameters.push({ name: parameter, type, output, fallback: value });
    cursor.accept(',');
  }
  cursor.expect('AS');
  const body = cursor.sql.slice(cursor.current.start);
  while (cursor.current.kind !== 'end') cursor.next();
  return async ({ state, output }) => {
    state.store.procedures.set(name.toLowerCase(), { name, parameters, body });
    output.done(Command.none, null);
  };
}

export function parseDrop(cursor: TokenCursor): Statement {
  const kind = cursor.next().text.toUpperCase();
  const tolerant = cursor.accept('IF', 'EXISTS');
  const name = cursor.name();
  return async ({ state, output }) => {
    const key = name.toLowerCase();
    const { procedures, tableTypes } = state.store;
    const places = { TABLE: state.tables(name), TYPE: tableTypes };
    const removed = (places[kind as 'TABLE' | 'TYPE'] ?? procedures).delete(key);
    if (!removed && !tolerant) {
      const what = kind in places ? kind.toLowerCase() : 'procedure';
      throw new SqlError(
        3701,
        11,
        `Cannot drop the ${what} '${name}', because it does not exist or you do not have permission.`,
      );
    }
    output.done(Command.none, null);
  };
}
