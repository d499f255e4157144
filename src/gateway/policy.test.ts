import { describe, expect, test } from 'vitest';
import { Statement, type StatementKind } from '../../protocols/statement.ts';
import { type StatementRules, statementGate } from './policy.ts';

const RULES: StatementRules = {
  engine: 'postgres',
  account: 'app',
  allowAccountChange: false,
  readOnly: false,
  databases: null,
};

function verdict(
  rules: Partial<StatementRules>,
  text: string | null,
  kind: StatementKind = 'query',
  name?: string,
) {
  const statement = new Statement(kind, text, text === null ? 0 : Buffer.byteLength(text));
  statement.name = name ?? null;
  return statementGate({ ...RULES, ...rules })(statement).action;
}

test('a change of the own account is refused, unless it is allowed', () => {
  expect(verdict({}, "ALTER ROLE app PASSWORD 'x'")).toBe('refuse');
  expect(verdict({ allowAccountChange: true }, "ALTER ROLE app PASSWORD 'x'")).toBe('allow');
  expect(verdict({ engine: 'tds' }, null, 'rpc', 'sp_password')).toBe('refuse');
});

describe('read-only access', () => {
  const readOnly = { readOnly: true };

  test('lets reading pass and nothing else', () => {
    expect(verdict(readOnly, 'select 1')).toBe('allow');
    expect(verdict(readOnly, 'delete from t')).toBe('refuse');
    expect(verdict({ ...readOnly, allowAccountChange: true }, 'delete from t')).toBe('refuse');
  });

  test('refuses a text of which only the beginning is known', () => {
    const statement = new Statement('query', 'select 1', 1_000_000);
    expect(statementGate({ ...RULES, ...readOnly })(statement).action).toBe('refuse');
  });

  test('lets the commands of MySQL pass that are no SQL, and a query be stopped', () => {
    const mysql = { ...readOnly, engine: 'mysql' as const };
    for (const text of [
      'COM_STATISTICS',
      'COM_FIELD_LIST t %',
      'COM_RESET_CONNECTION',
      'USE `lab`',
      'KILL QUERY 7',
    ]) {
      expect([text, verdict(mysql, text, 'command')]).toEqual([text, 'allow']);
    }
    for (const text of ['COM_REFRESH 1', 'DROP DATABASE `x`', 'KILL 7', 'KILL QUERY 7; drop table t']) {
      expect([text, verdict(mysql, text, 'command')]).toEqual([text, 'refuse']);
    }
  });

  test('knows the procedures that drivers look things up with', () => {
    expect(verdict({ ...readOnly, engine: 'tds' }, null, 'rpc', 'sp_tables')).toBe('allow');
    expect(verdict({ ...readOnly, engine: 'tds' }, null, 'rpc', 'sp_columns_100')).toBe('allow');
    expect(verdict({ ...readOnly, engine: 'tds' }, null, 'rpc', 'my_procedure')).toBe('refuse');
  });
});

test('a text that could not be read whole is not let pass by the memory of one that could', () => {
  const gate = statementGate({ ...RULES, readOnly: true });
  expect(gate(new Statement('query', 'select 1', 8)).action).toBe('allow');
  const opaque = new Statement('query', 'select 1', 8);
  opaque.opaque = true;
  expect(gate(opaque).action).toBe('refuse');
});

test('a verdict is remembered, and the memory is bounded', () => {
  const gate = statementGate(RULES);
  const first = new Statement('query', "ALTER ROLE app PASSWORD 'x'", 27);
  const refused = gate(first);
  for (let index = 0; index < 1000; index += 1) gate(new Statement('query', `select ${index}`, 12));
  expect(gate(first)).toEqual(refused);
});

test('only the databases that are allowed may be opened', () => {
  const some = { engine: 'mysql' as const, databases: ['shop'] };
  expect(verdict(some, 'USE shop')).toBe('allow');
  expect(verdict(some, 'USE other')).toBe('refuse');
  expect(verdict(some, 'COM_CHANGE_USER ada other', 'command')).toBe('refuse');
  expect(verdict(some, 'COM_CHANGE_USER ada shop', 'command')).toBe('allow');
  expect(verdict({ engine: 'tds', databases: ['Shop'] }, 'USE shop SELECT 1')).toBe('allow');
  expect(verdict({ engine: 'tds', databases: ['Shop'] }, 'SELECT 1 USE master')).toBe('refuse');
});
