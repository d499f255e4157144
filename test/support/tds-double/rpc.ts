import { TokenCursor } from './expressions.ts';
import { lex } from './lexer.ts';
import type { Output } from './output.ts';
import { parseQuery } from './query.ts';
import { type SessionState, SqlError } from './state.ts';
import { callProcedure, type NamedValue, newScope, runBatch } from './statements.ts';
import * as types from './types.ts';
import { Bytes, INT, literal, readType, readValue, type SqlValue, text } from './types.ts';

/** Remote procedure calls of the test double: the system procedures that drivers use, and those of its store. */

interface Call {
  readonly procedure: string;
  readonly parameters: readonly Parameter[];
}

interface Parameter extends NamedValue {
  readonly output: boolean;
}

const NUMBERED = [
  '',
  'sp_cursor',
  'sp_cursoropen',
  'sp_cursorprepare',
  'sp_cursorexecute',
  'sp_cursorprepexec',
  'sp_cursorunprepare',
  'sp_cursorfetch',
  'sp_cursoroption',
  'sp_cursorclose',
  'sp_executesql',
  'sp_prepare',
  'sp_execute',
  'sp_prepexec',
  'sp_prepexecrpc',
  'sp_unprepare',
];

/** Reads the calls of one message; `payload` is behind ALL_HEADERS. */
export function readCalls(payload: Buffer): Call[] {
  const from = new Bytes(payload);
  const calls: Call[] = [];
  while (from.left > 0) {
    const length = from.u16();
    const procedure = length === 0xffff ? NUMBERED[from.u16()]! : from.text(length);
    from.u16();
    const parameters: Parameter[] = [];
    while (from.left > 0 && ![0xff, 0xfe, 0x80].includes(from.bytes[from.at]!))
      parameters.push(readParameter(from));
    calls.push({ procedure, parameters });
    if (from.left > 0) from.u8();
  }
  return calls;
}

function readParameter(from: Bytes): Parameter {
  const name = from.text(from.u8());
  const status = from.u8();
  if (from.bytes[from.at] === 0xf3) return { name, output: false, value: readTable(from) };
  const type = readType(from, false);
  return { name, output: (status & 1) !== 0, value: readValue(from, type) };
}

/** A table-valued parameter. As a plain value, it is the number of its rows. */
function readTable(from: Bytes): SqlValue {
  from.u8();
  let typeName = '';
  for (let part = 0; part < 3; part += 1) typeName = from.text(from.u8());
  const count = from.u16();
  const columns: types.SqlType[] = [];
  for (let index = 0; count !== 0xffff && index < count; index += 1) {
    from.u32();
    from.u16();
    columns.push(readType(from, false));
    from.text(from.u8());
  }
  let tag = from.u8();
  const rows: SqlValue[][] = [];
  for (tag = tag === 0 ? from.u8() : tag; tag === 1; tag = from.u8()) {
    rows.push(columns.map((type) => readValue(from, type)));
  }
  return { ...literal(rows.length), table: { typeName, rows } };
}

/** Runs all calls of a message. */
export async function runCalls(calls: readonly Call[], state: SessionState, output: Output): Promise<void> {
  for (const [index, call] of calls.entries()) {
    output.failed = false;
    output.inProcedure = true;
    try {
      await runCall(call, state, output);
    } catch (error) {
      if (!(error instanceof SqlError)) throw error;
      const { number, severity, message } = error;
      output.message(true, {
        number,
        state: error.state,
        class: severity,
        text: message,
        procedure: '',
        line: 1,
      });
    }
    output.procedureDone(index === calls.length - 1);
  }
}

async function runCall({ procedure, parameters }: Call, state: SessionState, output: Output): Promise<void> {
  const name = procedure.replaceAll(/[[\]]/g, '').split('.').at(-1)!.toLowerCase();
  const run = SYSTEM[name];
  if (run !== undefined) {
    await run(parameters, state, output);
    return;
  }
  const { status, outputs } = await callProcedure(name, parameters, state, output);
  output.returnStatus(status);
  outputs.forEach((value, index) => {
    if (value !== null && parameters[index]!.output) output.returnValue(index, value.name, value.value);
  });
}

type SystemProcedure = (
  parameters: readonly Parameter[],
  state: SessionState,
  output: Output,
) => Promise<void>;

const SYSTEM: Readonly<Record<string, SystemProcedure>> = {
  sp_executesql: async ([sql, declaration, ...values], state, output) => {
    const declared = declaration === undefined ? '' : text(declaration.value.value);
    const variables = named(values, declared);
    await runBatch(text(sql!.value.value), state, variables, output);
    output.returnStatus(0);
    returnOutputs(values, declared, variables, output, 2);
  },
  sp_prepare: async ([asked, declaration, sql], state, output) => {
    const handle = remember(state, text(sql!.value.value), text(declaration!.value.value));
    output.returnStatus(0);
    output.returnValue(0, asked!.name, { type: INT, value: handle });
  },
  sp_prepexec: async ([asked, declaration, sql, ...values], state, output) => {
    const handle = remember(state, text(sql!.value.value), text(declaration!.value.value));
    const variables = named(values, text(declaration!.value.value));
    await runBatch(text(sql!.value.value), state, variables, output);
    output.returnStatus(0);
    output.returnValue(0, asked!.name, { type: INT, value: handle });
    returnOutputs(values, text(declaration!.value.value), variables, output, 3);
  },
  sp_execute: async ([handle, ...values], state, output) => {
    const prepared = state.handles.get(Number(handle!.value.value));
    if (prepared === undefined) {
      throw new SqlError(8179, 16, `Could not find prepared statement with handle ${handle!.value.value}.`);
    }
    const variables = named(values, prepared.declaration);
    await runBatch(prepared.sql, state, variables, output);
    output.returnStatus(0);
    returnOutputs(values, prepared.declaration, variables, output, 1);
  },
  sp_prepexecrpc: async ([asked, procedure, ...values], state, output) => {
    const name = text(procedure!.value.value);
    const places = values.map((_value, index) => `@P${index + 1}`);
    const declaration = places.map((place) => `${place} sql_variant`).join(',');
    const handle = remember(state, `EXEC ${name} ${places.join(', ')}`, declaration);
    const { status, outputs } = await callProcedure(name, values, state, output);
    output.returnStatus(status);
    output.returnValue(0, asked!.name, { type: INT, value: handle });
    outputs.forEach((value, index) => {
      if (value !== null && values[index]!.output) output.returnValue(index + 2, value.name, value.value);
    });
  },
  sp_unprepare: async ([handle], state, output) => {
    state.handles.delete(Number(handle!.value.value));
    output.returnStatus(0);
  },
  sp_cursoropen: async ([, sql, , , , declaration, ...values], state, output) => {
    const query = text(sql!.value.value);
    openCursor(query, named(values, declaration ? text(declaration.value.value) : ''), state, output, 0);
  },
  sp_cursorprepexec: async ([, , declaration, sql, , , , ...values], state, output) => {
    const declared = text(declaration!.value.value);
    const handle = remember(state, text(sql!.value.value), declared);
    openCursor(text(sql!.value.value), named(values, declared), state, output, 1, handle);
  },
  sp_cursorexecute: async ([handle, , , , , ...values], state, output) => {
    const prepared = state.handles.get(Number(handle!.value.value))!;
    openCursor(prepared.sql, named(values, prepared.declaration), state, output, 1);
  },
  sp_cursorfetch: async ([handle, , , count], state, output) => {
    const cursor = state.cursors.get(Number(handle!.value.value));
    if (cursor === undefined) throw new SqlError(16_916, 16, 'A cursor with that handle does not exist.');
    const wanted = Math.max(1, Number(count?.value.value ?? 1));
    const rows = cursor.rows.slice(cursor.position, cursor.position + wanted);
    cursor.position += rows.length;
    output.columns([...cursor.columns, { name: 'rowstat', type: INT }]);
    for (const row of rows) output.row([...row, literal(1)]);
    output.done(0xc1, rows.length);
    output.returnStatus(0);
  },
  sp_cursorclose: async ([handle], state, output) => {
    state.cursors.delete(Number(handle!.value.value));
    output.returnStatus(0);
  },
  sp_cursorunprepare: async ([handle], state, output) => {
    state.handles.delete(Number(handle!.value.value));
    output.returnStatus(0);
  },
  sp_cursoroption: async (_parameters, _state, output) => output.returnStatus(0),
  sp_datatype_info: emptyTypes,
  sp_datatype_info_100: emptyTypes,
  sp_describe_first_result_set: async (_parameters, _state, output) => output.returnStatus(0),
  sp_reset_connection: async (_parameters, state, output) => {
    state.reset();
    output.returnStatus(0);
  },
};

async function emptyTypes(
  _parameters: readonly Parameter[],
  _state: SessionState,
  output: Output,
): Promise<void> {
  output.columns([
    { name: 'TYPE_NAME', type: types.nvarchar(128) },
    { name: 'DATA_TYPE', type: types.SMALLINT },
    { name: 'PRECISION', type: INT },
    { name: 'LITERAL_PREFIX', type: types.nvarchar(32) },
    { name: 'LITERAL_SUFFIX', type: types.nvarchar(32) },
    { name: 'CREATE_PARAMS', type: types.nvarchar(32) },
  ]);
  output.done(0xc1, 0);
  output.returnStatus(0);
}

function remember(state: SessionState, sql: string, declaration: string): number {
  const handle = state.nextHandle;
  state.nextHandle += 1;
  state.handles.set(handle, { sql, declaration });
  return handle;
}

/** Values under their names; unnamed ones get theirs from the declaration, in order. */
function named(values: readonly Parameter[], declaration: string): Map<string, SqlValue> {
  const variables = new Map<string, SqlValue>();
  const declared = declaration === '' ? [] : declaredNames(declaration);
  values.forEach(({ name, value }, index) => {
    variables.set((name || declared[index] || `@p${index}`).toLowerCase(), value);
  });
  return variables;
}

function declaredNames(declaration: string): string[] {
  const cursor = new TokenCursor(lex(declaration), declaration);
  const names: string[] = [];
  while (cursor.current.kind === 'variable') {
    names.push(cursor.next().text);
    skipDeclaration(cursor);
    cursor.accept(',');
  }
  return names;
}

/** A type and whatever else stands between two names. */
function skipDeclaration(cursor: TokenCursor): void {
  for (let depth = 0; cursor.current.kind !== 'end'; ) {
    if (depth === 0 && cursor.current.text === ',') return;
    const { text: token } = cursor.next();
    if (token === '(') depth += 1;
    if (token === ')') depth -= 1;
  }
}

function returnOutputs(
  values: readonly Parameter[],
  declaration: string,
  variables: Map<string, SqlValue>,
  output: Output,
  offset: number,
): void {
  const declared = declaration === '' ? [] : declaredNames(declaration);
  values.forEach(({ name, output: isOutput, value }, index) => {
    const variable = (name || declared[index] || `@p${index}`).toLowerCase();
    if (isOutput) output.returnValue(index + offset, name, variables.get(variable) ?? value);
  });
}

function openCursor(
  sql: string,
  variables: Map<string, SqlValue>,
  state: SessionState,
  output: Output,
  ordinal: number,
  prepared: number | null = null,
): void {
  const query = parseQuery(new TokenCursor(lex(sql), sql));
  const scope = newScope(state, variables);
  const columns = query.columns(scope);
  const handle = 180_150_000 + state.nextHandle;
  state.nextHandle += 1;
  const rows = [...query.rows(scope)];
  state.cursors.set(handle, { columns, rows, position: 0 });
  output.columns([...columns, { name: 'rowstat', type: INT }]);
  output.done(0xc1, 0);
  output.returnStatus(0);
  if (prepared !== null) output.returnValue(0, '', { type: INT, value: prepared });
  output.returnValue(ordinal, '', { type: INT, value: handle });
  output.returnValue(ordinal + 2, '', { type: INT, value: 1 });
  output.returnValue(ordinal + 3, '', { type: INT, value: 1 });
  output.returnValue(ordinal + 4, '', { type: INT, value: rows.length });
}
