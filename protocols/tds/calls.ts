import type { Parameter } from '../statement.ts';
import { Statement } from '../statement.ts';
import type { Handles, Prepared } from './handles.ts';
import { declaredNames } from './procedures.ts';
import type { Call } from './rpc.ts';

/** Turns calls into statements of the record: the system procedures show the statement that they run. */

export interface KnownHandles {
  readonly prepared: Handles;
  readonly cursors: Handles;
}

/** What the call's handle stands for; null where it has none or it is not known. */
export function handleSource(call: Call, handles: KnownHandles): Prepared | null {
  return handles.cursors.find(call.cursor) ?? handles.prepared.find(call.prepared);
}

export function callStatement(call: Call, source: Prepared | null, parameters: boolean): Statement {
  const { known } = call;
  const statement = new Statement(known?.kind ?? 'rpc', null, 0);
  statement.name = call.name;
  if (known !== null) {
    const expectsText = known.roles.includes('statement');
    if (call.text !== null) {
      statement.text = call.text.text;
      statement.textBytes = call.text.bytes;
      statement.textSha256 = call.text.sha256;
      statement.opaque = call.text.partial;
    } else if (source !== null && !expectsText) {
      statement.text = source.text;
      statement.textBytes = source.textBytes;
      statement.textSha256 = source.textSha256;
    } else {
      statement.text = expectsText ? null : unknownHandle(call);
      statement.opaque = true;
    }
  }
  if (parameters) statement.parameters = callParameters(call, source);
  return statement;
}

/** Completes a statement that was begun while its call was still passing. */
export function completeCall(statement: Statement, call: Call, source: Prepared | null): void {
  if (call.text !== null) {
    statement.textBytes = call.text.bytes;
    statement.textSha256 = call.text.sha256 ?? statement.textSha256;
  }
  if (statement.parameters !== null) statement.parameters = callParameters(call, source);
}

function unknownHandle(call: Call): string {
  if (call.cursor !== null) return `cursor #${call.cursor}`;
  return call.prepared === null ? call.name : `prepared #${call.prepared}`;
}

/** The values of a call. Those without a name get the one that the statement's declarations give them. */
function callParameters(call: Call, source: Prepared | null): Parameter[] {
  const { known, parameters } = call;
  const values: Parameter[] = [];
  let declared: readonly string[] | null = null;
  for (let index = 0; index < parameters.length; index++) {
    const { role, value } = parameters[index]!;
    if (role !== 'value' || value === null) continue;
    if (value.name !== null || known === null) {
      values.push(value);
      continue;
    }
    // Procedures with parameters of their own have names for them; the others run a statement that declares them.
    if (known.names.length > 0) {
      values.push({ ...value, name: known.names[index] ?? null });
      continue;
    }
    declared ??= namesOf(call, source);
    values.push({ ...value, name: declared[values.length] ?? null });
  }
  return values;
}

function namesOf(call: Call, source: Prepared | null): readonly string[] {
  return call.definition === null ? (source?.names ?? []) : declaredNames(call.definition);
}

/** What a handle that comes back from this call stands for: the text as it came, which an event may have cut. */
export function preparedBy(call: Call, source: Prepared | null): Prepared {
  const text = call.text;
  return {
    text: text?.text ?? source?.text ?? null,
    textBytes: text?.bytes ?? source?.textBytes ?? 0,
    textSha256: text?.sha256 ?? source?.textSha256 ?? null,
    names: namesOf(call, source),
    layout: null,
  };
}
