import type { Parameter, Statement, StatementStatus, TransactionState } from '../statement.ts';
import { type KnownHandles, preparedBy } from './calls.ts';
import type { Prepared } from './handles.ts';
import type { RowLayout } from './layout.ts';
import { MESSAGE_CHARACTERS_MAX, MESSAGES_MAX, RESULTS_MAX } from './limits.ts';
import type { Call } from './rpc.ts';
import { cutText } from './text.ts';
import { type Done, DoneStatus, type ServerMessage, Token } from './tokens.ts';

/** What is learned of one statement from the server's answer, until it is over. */
export class Outcome {
  readonly statement: Statement;
  readonly call: Call | null;
  /** What the call's handle stands for. */
  readonly source: Prepared | null;
  finished = false;
  failed = false;
  /** Only the beginning of its text is known yet. */
  partial = false;
  /** What the record says of the text, while the gate is shown something else. */
  #recorded: { readonly text: string | null; readonly textBytes: number } | null = null;
  /** The final DONE of the answer could not be read. */
  lost = false;
  #created: Prepared | null = null;
  #layout: RowLayout | null = null;
  #outputs = 0;
  #inProcedure = false;

  constructor(statement: Statement, call: Call | null, source: Prepared | null) {
    this.statement = statement;
    this.call = call;
    this.source = source;
  }

  /**
   * Lets the gate see that there is more than can be read: a text that is not whole. Of a positioned change through a
   * cursor, whose text is the cursor's SELECT, it sees the procedure alone.
   */
  showToGate(): void {
    const { statement } = this;
    const changes = this.call?.known?.name === 'sp_cursor';
    if (!statement.opaque && !changes) return;
    this.#recorded = { text: statement.text, textBytes: statement.textBytes };
    statement.text = changes ? null : `${statement.text ?? ''} ${UNREAD}`;
    statement.textBytes = statement.text === null ? 0 : Buffer.byteLength(statement.text) + 1;
  }

  /** What the gate was shown gives way to what the record says. */
  showToRecord(): void {
    // A text of which only a part was held is long, and no riddle.
    if (this.partial) this.statement.opaque = false;
    if (this.#recorded !== null) Object.assign(this.statement, this.#recorded);
    this.#recorded = null;
    cutText(this.statement);
  }

  get rememberedLayout(): RowLayout | null {
    return this.source?.layout ?? this.#layout;
  }

  result(layout: RowLayout, columns: boolean): void {
    this.#layout = layout;
    if (this.source !== null) this.source.layout = layout;
    if (this.#created !== null) this.#created.layout = layout;
    if (layout.columns.length === 0) return;
    if (columns) this.statement.columns = layout.columns.map((column) => column.name ?? '');
    this.statement.sample = null;
  }

  sample(row: readonly (string | null)[]): void {
    this.statement.sample ??= [];
    this.statement.sample.push(row);
  }

  done(done: Done): void {
    const { statement } = this;
    this.lost = false;
    if (done.status & (DoneStatus.error | DoneStatus.serverError)) this.failed = true;
    // The DONEPROC behind a procedure's own counts repeats the last of them on some servers.
    const counts =
      (done.status & DoneStatus.count) !== 0 && !(done.token === Token.doneProcedure && this.#inProcedure);
    if (done.token === Token.doneInProcedure) this.#inProcedure = true;
    // The metadata of a prepared statement is a description, and no result.
    const rows = done.rows === 0 && statement.kind === 'prepare' ? null : done.rows;
    // Where rows come back from a write (OUTPUT), a count below theirs is none: Babelfish sends zero.
    const wrote = rows === null || (WRITES.has(done.command) && done.count >= rows);
    const affected = counts && !SELECTS.has(done.command) && wrote;
    if (rows === null && !affected) return;
    if (rows !== null) statement.rowsReturned = (statement.rowsReturned ?? 0) + rows;
    if (affected) statement.rowsAffected = Number(statement.rowsAffected ?? 0) + done.count;
    statement.results ??= [];
    if (statement.results.length >= RESULTS_MAX) return;
    statement.results.push({
      tag: COMMANDS.get(done.command) ?? null,
      rowsReturned: rows,
      rowsAffected: affected ? done.count : null,
      ...(rows !== null && statement.columns !== null ? { columns: statement.columns } : {}),
    });
  }

  error(message: ServerMessage): void {
    this.failed = true;
    if (this.statement.error !== null) {
      this.#keep(`error ${message.number}: ${message.text}`);
      return;
    }
    this.statement.error = {
      code: String(message.number),
      message: message.text.slice(0, MESSAGE_CHARACTERS_MAX),
      detail: {
        state: message.state,
        class: message.class,
        ...(message.procedure === '' ? {} : { procedure: message.procedure }),
        line: message.line,
      },
    };
  }

  info(message: ServerMessage): void {
    this.#keep(message.text);
  }

  returnStatus(status: number): void {
    this.statement.returnStatus = status;
  }

  /** An output value: the handle that a system procedure gives, or a parameter's value. `raw`: it as a 32-bit number. */
  output(value: Parameter, raw: number | null, handles: KnownHandles, record: boolean): void {
    const position = this.#outputs++;
    const { call } = this;
    const role = call === null ? null : outputRole(call, position);
    if (call !== null && (role === 'prepared' || role === 'cursor')) {
      if (raw === null || raw === 0) return;
      this.#created ??= preparedBy(call, this.source);
      this.#created.layout = this.#layout;
      if (role === 'prepared') handles.prepared.remember(raw, this.#created);
      else handles.cursors.remember(raw, this.#created);
      return;
    }
    if (!record || role === 'option') return;
    this.statement.outputs ??= [];
    this.statement.outputs.push(value.name === null ? { ...value, name: this.#nameOf(position) } : value);
  }

  /** The name of the `position`th output parameter, where it came back without one. */
  #nameOf(position: number): string | null {
    let outputs = 0;
    let values = 0;
    for (const { output, role } of this.call?.parameters ?? []) {
      if (output && outputs++ === position) return this.statement.parameters?.[values]?.name ?? null;
      if (role === 'value') values += 1;
    }
    return null;
  }

  finish(status: StatementStatus, transaction: TransactionState, handles: KnownHandles): void {
    const { statement, call } = this;
    this.finished = true;
    statement.status = status;
    statement.transaction = transaction;
    if (statement.results !== null && statement.results.length < 2) statement.results = null;
    if (status !== 'ok' || call === null || call.known === null) return;
    if (call.known.frees === 'prepared' && call.prepared !== null) handles.prepared.forget(call.prepared);
    if (call.known.frees === 'cursor' && call.cursor !== null) handles.cursors.forget(call.cursor);
  }

  #keep(text: string): void {
    this.statement.messages ??= [];
    if (this.statement.messages.length >= MESSAGES_MAX) return;
    this.statement.messages.push(text.slice(0, MESSAGE_CHARACTERS_MAX));
  }
}

/** Stands where a text goes on that cannot be shown. */
const UNREAD = '/* the rest could not be read */';

/** The role of the `position`th output parameter: values come back in the order of the parameters that asked for them. */
function outputRole(call: Call, position: number): string | null {
  let seen = 0;
  for (const { output, role } of call.parameters) {
    if (!output) continue;
    if (seen === position) return role;
    seen += 1;
  }
  return null;
}

/** CurCmd of DONE: numbers of SQL Server's parser, as clients have learned them. */
const COMMANDS = new Map<number, string>([
  [0xc1, 'SELECT'],
  [0xc2, 'SELECT INTO'],
  [0xc3, 'INSERT'],
  [0xc4, 'DELETE'],
  [0xc5, 'UPDATE'],
  [0x117, 'MERGE'],
  [0xf0, 'BULK INSERT'],
  [0xe0, 'EXECUTE'],
]);

/** Their counts are rows that came back, or variables that were set. */
const SELECTS = new Set([0xc1]);

/** Their counts are rows that changed, also where rows come back (OUTPUT). */
const WRITES = new Set([0xc2, 0xc3, 0xc4, 0xc5, 0x117, 0xf0]);
