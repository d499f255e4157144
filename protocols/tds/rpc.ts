import { PARAMETER_BYTES_MAX, PARAMETERS_BYTES_MAX } from '../limits.ts';
import type { Parameter } from '../statement.ts';
import { Cursor } from './cursor.ts';
import { ValueCapture, ValueWalker } from './extents.ts';
import {
  CALL_PARAMETERS_MAX,
  CALLS_MAX,
  CONTROL_TOKEN_BYTES_MAX,
  TABLE_PARAMETER_COLUMNS_MAX,
} from './limits.ts';
import { describeValue, isNullValue } from './parameters.ts';
import {
  isStatementName,
  type Procedure,
  procedureById,
  procedureByName,
  type Role,
  roleOf,
} from './procedures.ts';
import { TextCapture } from './text.ts';
import { qualify, readTypeInfo, TypeId, type TypeInfo, typeName } from './types.ts';
import { decodeValue } from './values.ts';

/**
 * Reads RPC requests (MS-TDS 2.2.6.6) as they pass, cut at any byte: one message may hold several calls, and a value
 * may be gigabytes long, so nothing but a bounded beginning of each value is kept.
 */

export interface Call {
  /** The procedure as the request names it; the known name where it gives a number. */
  readonly name: string;
  readonly known: Procedure | null;
  readonly parameters: CallParameter[];
  /** Set when the call's last parameter has been read. */
  complete: boolean;
  /** The statement that a system procedure runs, and the declarations of its parameters. */
  text: StatementText | null;
  definition: string | null;
  prepared: number | null;
  cursor: number | null;
}

export interface CallParameter {
  readonly role: Role;
  readonly output: boolean;
  /** Null where parameters are not recorded, and for statements and handles. */
  readonly value: Parameter | null;
}

export interface StatementText {
  readonly text: string;
  /** Length of the whole text in UTF-8, as far as it has come. */
  readonly bytes: number;
  /** Of the whole text, where it is longer than what was kept. */
  sha256: string | null;
  /** It goes on, and the rest has not been seen yet. */
  partial: boolean;
}

const ParameterStatus = { byReference: 0x01, defaultValue: 0x02, encrypted: 0x08 } as const;
const PROCEDURE_BY_ID = 0xffff;
const TABLE_NULL = 0xffff;
const COLUMN_DEFAULT = 0x0200;
const PROCEDURE_NAME_UNITS_MAX = 2048;

type Expecting =
  | 'procedure'
  | 'parameter'
  | 'value'
  | 'encryption'
  | 'table'
  | 'table_column'
  | 'table_order'
  | 'table_row'
  | 'table_value'
  | 'lost';

export interface CallOptions {
  /** TDS 7.2 and later separate calls by 0xFF (or 0xFE), earlier ones by 0x80. */
  readonly wide: boolean;
  /** TYPE_INFO of text names a collation: from TDS 7.1 on. */
  readonly collated: boolean;
  readonly parameters: boolean;
}

export class CallReader {
  readonly #options: CallOptions;
  readonly #cursor: Cursor;
  readonly #value = new ValueWalker();
  readonly #capture = new ValueCapture();
  readonly #text = new TextCapture();
  calls: Call[] = [];
  #expecting: Expecting = 'procedure';
  #carry: Buffer | null = null;
  #call: Call | null = null;
  #statementSettled = false;
  /** Of the parameter that is being read. */
  #name = '';
  #status = 0;
  #info: TypeInfo | null = null;
  #role: Role = 'value';
  #budget = PARAMETERS_BYTES_MAX;
  #table: {
    name: string;
    columns: { type: string; info: TypeInfo; absent: boolean }[];
    rows: number;
  } | null = null;
  #columnsLeft = 0;
  #column = 0;

  constructor(options: CallOptions) {
    this.#options = options;
    this.#cursor = new Cursor(options.collated);
  }

  /** Prepares for another message. */
  reset(): void {
    this.calls = [];
    this.#expecting = 'procedure';
    this.#carry = null;
    this.#call = null;
    this.#info = null;
    this.#table = null;
    this.#budget = PARAMETERS_BYTES_MAX;
    this.#capture.begin(0, false);
    this.#text.start();
  }

  /** The request cannot be read on; the calls so far are what is known of it. */
  get lost(): boolean {
    return this.#expecting === 'lost';
  }

  feed(bytes: Buffer, start: number, end: number): void {
    if (this.#expecting === 'lost') return;
    let at = start;
    let limit = end;
    let source = bytes;
    if (this.#carry !== null) {
      source = Buffer.concat([this.#carry, bytes.subarray(start, end)]);
      this.#carry = null;
      at = 0;
      limit = source.length;
    }
    while (at < limit) {
      const next = this.#step(source, at, limit);
      if (this.lost) return;
      if (next < 0) {
        if (limit - at > CONTROL_TOKEN_BYTES_MAX) this.#expecting = 'lost';
        else this.#carry = Buffer.from(source.subarray(at, limit));
        return;
      }
      at = next;
    }
  }

  /** The memory of what was fed is about to be used for something else, and the message goes on. */
  keep(): void {
    this.#capture.keep();
    this.#text.keep();
  }

  /** The message is over. A call that is not complete now never will be. */
  end(): void {
    if (this.#expecting === 'parameter' && this.#carry === null) this.#finishCall();
    else if (this.#expecting !== 'procedure' || this.#carry !== null || this.calls.length === 0) {
      this.#expecting = 'lost';
    }
  }

  /** What has been read of a statement that is still passing becomes its call's text, marked as partial. */
  settle(): void {
    const call = this.#call;
    if (this.#expecting !== 'value' || this.#role !== 'statement' || call === null) return;
    const { text } = this.#text;
    call.text = { text, bytes: this.#text.utf8Bytes(text), sha256: null, partial: true };
  }

  #step(bytes: Buffer, position: number, end: number): number {
    const cursor = this.#cursor.set(bytes, position, end);
    switch (this.#expecting) {
      case 'procedure':
        return this.#procedure(cursor);
      case 'parameter':
        return this.#parameter(cursor);
      case 'value':
        return this.#readValue(bytes, position, end);
      case 'encryption':
        return this.#encryption(cursor);
      case 'table':
        return this.#tableHeader(cursor);
      case 'table_column':
        return this.#tableColumn(cursor);
      case 'table_order':
        return this.#tableOrder(cursor);
      case 'table_row':
        return this.#tableRow(bytes, position);
      case 'table_value':
        return this.#tableValues(bytes, position, end);
      default:
        return -1;
    }
  }

  #lose(): number {
    this.#expecting = 'lost';
    return -1;
  }

  #procedure(cursor: Cursor): number {
    const length = cursor.uint16();
    let known: Procedure | null;
    let name: string;
    if (length === PROCEDURE_BY_ID) {
      const id = cursor.uint16();
      known = procedureById(id);
      name = known?.name ?? `procedure ${id}`;
    } else {
      if (length > PROCEDURE_NAME_UNITS_MAX) return this.#lose();
      name = cursor.text(length);
      known = cursor.short ? null : procedureByName(name);
    }
    cursor.skip(2);
    if (cursor.short) return -1;
    if (this.calls.length >= CALLS_MAX) return this.#lose();
    this.#call = {
      name,
      known,
      parameters: [],
      complete: false,
      text: null,
      definition: null,
      prepared: null,
      cursor: null,
    };
    this.#statementSettled = false;
    this.calls.push(this.#call);
    this.#expecting = 'parameter';
    return cursor.position;
  }

  #finishCall(): void {
    if (this.#call !== null) this.#call.complete = true;
    this.#call = null;
  }

  #parameter(cursor: Cursor): number {
    const first = cursor.uint8();
    if (this.#options.wide ? first >= 0xfe : first === 0x80) {
      this.#finishCall();
      this.#expecting = 'procedure';
      return cursor.position;
    }
    this.#name = cursor.text(first);
    this.#status = cursor.uint8();
    const info = readTypeInfo(cursor, 'request');
    if (cursor.short) return -1;
    if (info === null) return this.#lose();
    const call = this.#call!;
    this.#info = info;
    this.#role =
      call.known === null
        ? 'value'
        : roleOf(call.known, call.parameters.length, this.#name, this.#statementSettled);
    if (info.id === TypeId.table) {
      this.#expecting = 'table';
      return cursor.position;
    }
    this.#expecting = 'value';
    this.#beginValue(info);
    if (this.#value.done) this.#endValue();
    return cursor.position;
  }

  #beginValue(info: TypeInfo): void {
    const text = this.#role === 'statement' || this.#role === 'definition';
    if (text) this.#text.start();
    else this.#capture.begin(Math.min(PARAMETER_BYTES_MAX, this.#budget), this.#options.parameters);
    this.#value.begin(info.extent, info.size, text ? this.#text : this.#capture);
  }

  #readValue(bytes: Buffer, position: number, end: number): number {
    const next = this.#value.feed(bytes, position, end);
    if (this.#value.done) this.#endValue();
    return next;
  }

  #endValue(): void {
    const call = this.#call!;
    const info = this.#info!;
    const encrypted = (this.#status & ParameterStatus.encrypted) !== 0;
    switch (this.#role) {
      case 'statement':
        call.text = this.#value.isNull ? null : this.#statementText(info);
        this.#statementSettled ||= isStatementName(this.#name);
        this.#push(null);
        break;
      case 'definition':
        call.definition = this.#value.isNull
          ? null
          : String(decodeValue(info, this.#text.bytes, this.#text.cut));
        this.#push(null);
        break;
      case 'prepared':
      case 'cursor': {
        const handle = decodeValue(info, this.#capture.bytes);
        if (typeof handle === 'number' && this.#capture.total > 0) call[this.#role] = handle;
        this.#push(null);
        break;
      }
      default:
        this.#push(this.#options.parameters ? this.#described(info, encrypted) : null);
    }
    this.#expecting = encrypted ? 'encryption' : 'parameter';
  }

  #statementText(info: TypeInfo): StatementText {
    const capture = this.#text;
    const unicode = info.id === TypeId.nvarchar || info.id === TypeId.ntext || info.id === TypeId.nchar;
    const text = unicode ? capture.text : String(decodeValue(info, capture.bytes, capture.cut));
    const sha256 = unicode ? capture.textDigest() : null;
    const bytes = unicode ? capture.utf8Bytes(text) : Buffer.byteLength(text);
    return { text, bytes, sha256, partial: capture.cut };
  }

  #described(info: TypeInfo, encrypted: boolean): Parameter {
    const capture = this.#capture;
    const name = this.#name === '' ? null : this.#name;
    this.#budget = Math.max(0, this.#budget - Math.min(capture.total, PARAMETER_BYTES_MAX));
    const isNull = isNullValue(info, this.#value, capture);
    if (this.#status & ParameterStatus.defaultValue) {
      return { name, type: typeName(info), value: { default: true } };
    }
    return describeValue(name, info, isNull, encrypted, capture);
  }

  #push(value: Parameter | null): void {
    const call = this.#call!;
    const output = (this.#status & ParameterStatus.byReference) !== 0;
    if (call.parameters.length < CALL_PARAMETERS_MAX)
      call.parameters.push({ role: this.#role, output, value });
  }

  /** Behind the value of an encrypted parameter: what its type and key are. */
  #encryption(cursor: Cursor): number {
    readTypeInfo(cursor, 'request');
    if (cursor.uint8() === 0) cursor.skipShortText();
    cursor.skip(1 + 4 + 4 + 4 + 8 + 1);
    if (cursor.short) return -1;
    this.#expecting = 'parameter';
    return cursor.position;
  }

  // Table-valued parameters (MS-TDS 2.2.5.5.5): their columns and the number of their rows are recorded.

  #tableHeader(cursor: Cursor): number {
    const name = qualify(cursor.shortText(), cursor.shortText(), cursor.shortText());
    const count = cursor.uint16();
    if (cursor.short) return -1;
    if (count !== TABLE_NULL && count > TABLE_PARAMETER_COLUMNS_MAX) return this.#lose();
    this.#table = { name, columns: [], rows: count === TABLE_NULL ? -1 : 0 };
    this.#columnsLeft = count === TABLE_NULL ? 0 : count;
    this.#expecting = this.#columnsLeft > 0 ? 'table_column' : 'table_order';
    return cursor.position;
  }

  #tableColumn(cursor: Cursor): number {
    cursor.skip(4);
    const flags = cursor.uint16();
    const info = readTypeInfo(cursor, 'request');
    if (info === null) return cursor.short ? -1 : this.#lose();
    const name = cursor.shortText();
    if (cursor.short) return -1;
    const type = name === '' ? typeName(info) : `${name} ${typeName(info)}`;
    this.#table!.columns.push({ type, info, absent: (flags & COLUMN_DEFAULT) !== 0 });
    this.#columnsLeft -= 1;
    if (this.#columnsLeft === 0) this.#expecting = 'table_order';
    return cursor.position;
  }

  /** Optional order and uniqueness, up to a zero. */
  #tableOrder(cursor: Cursor): number {
    const token = cursor.uint8();
    if (token === 0x00) this.#expecting = 'table_row';
    else if (token === 0x10) cursor.skip(cursor.uint16() * 3);
    else if (token === 0x11) cursor.skip(cursor.uint16() * 2);
    else return this.#lose();
    return cursor.short ? -1 : cursor.position;
  }

  #tableRow(bytes: Buffer, position: number): number {
    const token = bytes[position];
    if (token === 0x01) {
      this.#table!.rows += 1;
      this.#column = -1;
      this.#expecting = 'table_value';
      this.#nextTableValue();
    } else if (token === 0x00) this.#endTable();
    else return this.#lose();
    return position + 1;
  }

  #tableValues(bytes: Buffer, start: number, end: number): number {
    let position = start;
    while (this.#expecting === 'table_value' && position < end) {
      position = this.#value.feed(bytes, position, end);
      if (!this.#value.done) return position;
      this.#nextTableValue();
    }
    return position;
  }

  /** Goes to the row's next value that is sent; columns that take their default have none. */
  #nextTableValue(): void {
    const { columns } = this.#table!;
    for (;;) {
      this.#column += 1;
      const column = columns[this.#column];
      if (column === undefined) {
        this.#expecting = 'table_row';
        return;
      }
      if (column.absent) continue;
      this.#value.begin(column.info.extent, column.info.size, null);
      if (!this.#value.done) return;
    }
  }

  #endTable(): void {
    const table = this.#table!;
    this.#table = null;
    this.#expecting = 'parameter';
    const name = this.#name === '' ? null : this.#name;
    const type = table.name === '' ? 'table' : table.name;
    const columns = table.columns.map((column) => column.type);
    const value = table.rows < 0 ? null : { columns, rows: table.rows };
    this.#push(this.#options.parameters ? { name, type, value } : null);
  }
}
