import { cast, compare } from './expressions.ts';
import { type Column, type SessionState, SqlError, type Table } from './state.ts';
import type { SqlValue } from './types.ts';
import * as types from './types.ts';

/** Rows of the test double's tables and their constraints. */

export function columnOf(table: Table, name: string): Column {
  const found = table.columns.find((column) => column.name.toLowerCase() === name.toLowerCase());
  if (found === undefined) throw new SqlError(207, 16, `Invalid column name '${name}'.`, true);
  return found;
}

export function addRow(
  state: SessionState,
  table: Table,
  targets: readonly Column[],
  values: readonly SqlValue[],
): void {
  if (values.length !== targets.length) {
    throw new SqlError(
      213,
      16,
      'Column name or number of supplied values does not match table definition.',
      true,
    );
  }
  const row = table.columns.map((column): SqlValue => {
    const index = targets.indexOf(column);
    if (index >= 0) return cast(values[index]!, column.type);
    if (!column.identity) return { type: column.type, value: null };
    state.identity = table.nextIdentity;
    table.nextIdentity += 1;
    return { type: column.type, value: state.identity };
  });
  table.columns.forEach((column, index) => {
    const { value } = row[index]!;
    if (value === null && !column.nullable) {
      throw new SqlError(
        515,
        16,
        `Cannot insert the value NULL into column '${column.name}', table '${table.name}'; column does not allow nulls. INSERT fails.`,
      );
    }
    if (column.key && table.rows.some((other) => compare(other[index]!.value, value) === 0)) {
      throw new SqlError(
        2627,
        14,
        `Violation of PRIMARY KEY constraint 'PK_${table.name}'. Cannot insert duplicate key in object 'dbo.${table.name}'. The duplicate key value is (${types.text(value)}).`,
      );
    }
  });
  table.rows.push(row);
}
