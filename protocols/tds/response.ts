import { PARAMETER_BYTES_MAX } from '../limits.ts';
import type { Parameter } from '../statement.ts';
import { Cursor } from './cursor.ts';
import { ValueCapture, ValueWalker } from './extents.ts';
import {
  type Column,
  type ColumnOptions,
  isEncrypted,
  RowLayout,
  readColumn,
  skipColumnKey,
  skipEncryption,
} from './layout.ts';
import {
  COLUMNS_MAX,
  CONTROL_TOKEN_BYTES_MAX,
  SAMPLE_COLUMNS_MAX,
  SAMPLE_VALUE_BYTES_MAX,
} from './limits.ts';
import { describeValue, isNullValue } from './parameters.ts';
import { ResponseTail } from './tail.ts';
import { type Done, readMessage, type ServerMessage, Token } from './tokens.ts';
import { readTypeInfo, TypeId, type TypeInfo } from './types.ts';
import { decodeValue } from './values.ts';

/**
 * Follows the token stream of responses (MS-TDS 2.2.4), cut at any byte.
 *
 * Rows have no length of their own, so they are stepped over column by column with the layout from COLMETADATA; a row
 * that is wholly at hand takes one call and no allocation. Only control tokens are put together when they are cut.
 * Whatever cannot be followed loses the rest of its message and no more: each message begins with a token. Of a lost
 * message the last bytes are kept, and its final DONE and errors are read from there.
 */

/** Where findings go. All calls are synchronous, within `walk` or `endMessage`. */
export interface ResponseListener {
  /** A result begins. `layout` is valid for as long as it is kept. */
  result(layout: RowLayout): void;
  /** The layout that a result without metadata has: that of the cursor or prepared statement. Null: not known. */
  rememberedLayout(): RowLayout | null;
  sample(row: readonly (string | null)[]): void;
  /** `done` is used again for the next one. `at`: where the token stands in the bytes given to `walk`, -1 if it was cut. */
  done(done: Done, at: number): void;
  error(message: ServerMessage): void;
  info(message: ServerMessage): void;
  /** The type and the bytes behind it, new value first. */
  environment(type: number, cursor: Cursor): void;
  returnStatus(status: number): void;
  output(value: Parameter, raw: number | null): void;
  /** The rest of this message passes unread. */
  lost(reason: string, token: number): void;
}

export interface WalkOptions extends ColumnOptions {
  readonly dataClassification: 0 | 1 | 2;
  readonly sampleRows: number;
  readonly outputs: boolean;
}

type Expecting =
  | 'token'
  | 'row_value'
  | 'column_count'
  | 'column_key_count'
  | 'column_key'
  | 'column'
  | 'feature'
  | 'skipped'
  | 'output_value'
  | 'message_end';

export class ResponseWalker {
  readonly #listener: ResponseListener;
  readonly #options: WalkOptions;
  readonly #cursor: Cursor;
  readonly #value = new ValueWalker();
  readonly #capture = new ValueCapture();
  readonly #done: Done = { token: 0, status: 0, command: 0, count: 0, rows: null };
  readonly #doneBytes: number;
  readonly #tail = new ResponseTail();
  #expecting: Expecting = 'token';
  /** The beginning of a control token that is cut. */
  #carry: Buffer | null = null;
  #skip = 0;
  #layout: RowLayout | null = null;
  /** Rows of the result that is open; null when none is. */
  #rows: number | null = null;
  #sampled = 0;
  #columns: Column[] = [];
  #columnsLeft = 0;
  #keysLeft = 0;
  /** Of the row that is being stepped over in pieces. */
  #column = 0;
  #valueOpen = false;
  #bitmap: Buffer | null = null;
  #sample: (string | null)[] | null = null;
  #output: { name: string; info: TypeInfo; encrypted: boolean } | null = null;

  constructor(listener: ResponseListener, options: WalkOptions) {
    this.#listener = listener;
    this.#options = options;
    this.#cursor = new Cursor(options.collated);
    this.#doneBytes = options.wide ? 13 : 9;
  }

  /** Whether the rest of this message passes unread. */
  get lost(): boolean {
    return this.#expecting === 'message_end';
  }

  /** Takes the next `bytes[start, end)` of a message's payload. */
  walk(bytes: Buffer, start: number, end: number): void {
    if (this.#expecting === 'message_end') {
      this.#tail.add(bytes, start, end);
      return;
    }
    if (this.#carry === null) {
      this.#walk(bytes, start, end, true);
      return;
    }
    const joined = Buffer.concat([this.#carry, bytes.subarray(start, end)]);
    this.#carry = null;
    this.#walk(joined, 0, joined.length, false);
  }

  /** The memory of what was walked is about to be used for something else, and the message goes on. */
  keep(): void {
    if (this.#expecting !== 'token' && this.#expecting !== 'message_end') this.#capture.keep();
  }

  /** The message is over: the next byte begins a token. */
  endMessage(): void {
    if (this.#expecting === 'message_end') this.#readTail();
    else if (this.#expecting !== 'token' || this.#carry !== null) {
      this.#listener.lost('a response ended inside a token', 0);
    }
    this.#expecting = 'token';
    this.#carry = null;
    this.#layout = null;
    this.#rows = null;
    this.#sample = null;
    this.#output = null;
    this.#columns = [];
  }

  /** The rest of this message cannot be followed; what came of it does not matter. */
  abandon(): void {
    this.#expecting = 'message_end';
    this.#carry = null;
    this.#tail.reset();
  }

  #walk(bytes: Buffer, start: number, end: number, direct: boolean): void {
    let position = start;
    while (position < end) {
      const next = this.#step(bytes, position, end, direct);
      if (next < 0) {
        this.#stop(bytes, position, end);
        return;
      }
      position = next;
    }
  }

  /** Why a step did not go on: the message was lost, or a control token is cut and waits for more. */
  #stop(bytes: Buffer, position: number, end: number): void {
    if (this.#expecting === 'message_end') {
      this.#tail.reset();
      this.#tail.add(bytes, position, end);
      return;
    }
    if (end - position > CONTROL_TOKEN_BYTES_MAX) {
      this.#lose('a control token is longer than the limit', bytes[position]!);
      return;
    }
    this.#carry = Buffer.from(bytes.subarray(position, end));
  }

  /** One token, or one piece of one. Gives the position behind it; -1 when more bytes are needed or the thread is lost. */
  #step(bytes: Buffer, position: number, end: number, direct: boolean): number {
    switch (this.#expecting) {
      case 'token':
        return this.#token(bytes, position, end, direct);
      case 'row_value':
        return this.#rowValues(bytes, position, end);
      case 'skipped': {
        const taken = Math.min(this.#skip, end - position);
        this.#skip -= taken;
        if (this.#skip === 0) this.#expecting = 'token';
        return position + taken;
      }
      case 'column_count':
        return this.#columnCount(bytes, position, end);
      case 'column_key_count':
        return this.#columnKeyCount(bytes, position, end);
      case 'column_key':
        return this.#columnKey(bytes, position, end);
      case 'column':
        return this.#nextColumn(bytes, position, end);
      case 'feature':
        return this.#feature(bytes, position, end);
      case 'output_value':
        return this.#outputValue(bytes, position, end);
      default:
        return -1;
    }
  }

  #token(bytes: Buffer, position: number, end: number, direct: boolean): number {
    const token = bytes[position]!;
    switch (token) {
      case Token.row:
      case Token.bitmapRow:
        return this.#row(bytes, position, end);
      case Token.done:
      case Token.doneProcedure:
      case Token.doneInProcedure:
        return this.#readDone(bytes, position, end, direct);
      case Token.columnMetadata:
        this.#expecting = 'column_count';
        return position + 1;
      case Token.error:
      case Token.info:
      case Token.environmentChange:
        return this.#counted(bytes, position, end);
      case Token.order:
      case Token.tableName:
      case Token.columnInfo:
      case Token.columnSources:
      case Token.sspi:
        if (position + 3 > end) return -1;
        return this.#skipBytes(position + 3, bytes.readUInt16LE(position + 1));
      case Token.sessionState:
      case Token.federatedInfo:
        if (position + 5 > end) return -1;
        return this.#skipBytes(position + 5, bytes.readUInt32LE(position + 1));
      case Token.offset:
        return this.#skipBytes(position + 1, 4);
      case Token.returnStatus:
        if (position + 5 > end) return -1;
        this.#listener.returnStatus(bytes.readInt32LE(position + 1));
        return position + 5;
      case Token.returnValue:
        return this.#outputHeader(bytes, position, end);
      case Token.featureAcknowledgement:
        this.#expecting = 'feature';
        return position + 1;
      case Token.dataClassification:
        return this.#classification(bytes, position, end);
      default:
        return this.#lose(`unknown token 0x${token.toString(16)}`, token);
    }
  }

  #skipBytes(position: number, length: number): number {
    if (length > 0) {
      this.#skip = length;
      this.#expecting = 'skipped';
    }
    return position;
  }

  #lose(reason: string, token: number): number {
    this.#expecting = 'message_end';
    this.#listener.lost(reason, token);
    return -1;
  }

  // Rows.

  #row(bytes: Buffer, start: number, end: number): number {
    const layout = this.#layout;
    if (layout === null) return this.#lose('a row without metadata', bytes[start]!);
    if (this.#sampled < this.#options.sampleRows) return this.#beginRow(layout, bytes, start, end, true);
    let position = start;
    let rows = 0;
    do {
      const token = bytes[position];
      let next: number;
      if (token === Token.row) next = layout.stepRow(bytes, position + 1, end);
      else if (token === Token.bitmapRow) next = layout.stepBitmapRow(bytes, position + 1, end);
      else break;
      if (next < 0) {
        this.#rows = (this.#rows ?? 0) + rows;
        return this.#beginRow(layout, bytes, position, end, false);
      }
      position = next;
      rows += 1;
    } while (position < end);
    this.#rows = (this.#rows ?? 0) + rows;
    return position;
  }

  /** A row that is cut, or whose values are wanted: value by value. */
  #beginRow(layout: RowLayout, bytes: Buffer, position: number, end: number, sample: boolean): number {
    let next = position + 1;
    this.#bitmap = null;
    if (bytes[position] === Token.bitmapRow) {
      next += layout.bitmapBytes;
      if (next > end) {
        // Only here is a row's beginning put together: its bitmap is a control structure of at most 512 bytes.
        this.#carry = Buffer.from(bytes.subarray(position, end));
        return end;
      }
      this.#bitmap = Buffer.from(bytes.subarray(position + 1, next));
    }
    this.#column = 0;
    this.#valueOpen = false;
    this.#sample = sample ? [] : null;
    this.#expecting = 'row_value';
    if (layout.columns.length === 0) this.#endRow();
    return next;
  }

  #rowValues(bytes: Buffer, start: number, end: number): number {
    const layout = this.#layout!;
    const count = layout.columns.length;
    const value = this.#value;
    let position = start;
    while (this.#column < count) {
      const column = this.#column;
      if (!this.#valueOpen) {
        if (this.#bitmap !== null && this.#bitmap[column >> 3]! & (1 << (column & 7))) {
          this.#sample?.push(null);
          this.#column += 1;
          continue;
        }
        const capture = this.#sample !== null && column < SAMPLE_COLUMNS_MAX ? this.#capture : null;
        capture?.begin(SAMPLE_VALUE_BYTES_MAX, false);
        value.begin(layout.extent(column), layout.size(column), capture);
        this.#valueOpen = true;
      }
      position = value.feed(bytes, position, end);
      if (!value.done) return position;
      this.#valueOpen = false;
      if (this.#sample !== null && column < SAMPLE_COLUMNS_MAX) {
        this.#sample.push(valueText(layout.columns[column]!.info, value, this.#capture));
      }
      this.#column += 1;
    }
    this.#endRow();
    return position;
  }

  #endRow(): void {
    this.#expecting = 'token';
    this.#rows = (this.#rows ?? 0) + 1;
    if (this.#sample === null) return;
    this.#sampled += 1;
    this.#listener.sample(this.#sample);
    this.#sample = null;
  }

  // Metadata.

  #columnCount(bytes: Buffer, position: number, end: number): number {
    if (position + 2 > end) return -1;
    const count = bytes.readUInt16LE(position);
    if (count === 0xffff) {
      // Nothing follows: the client asked for no metadata, because it knows it.
      this.#expecting = 'token';
      this.#announce(this.#listener.rememberedLayout());
      return position + 2;
    }
    if (count > COLUMNS_MAX) return this.#lose('more columns than a result can have', Token.columnMetadata);
    this.#columns = [];
    this.#columnsLeft = count;
    this.#expecting = this.#options.columnEncryption ? 'column_key_count' : 'column';
    if (!this.#options.columnEncryption && count === 0) this.#endColumns();
    return position + 2;
  }

  #columnKeyCount(bytes: Buffer, position: number, end: number): number {
    if (position + 2 > end) return -1;
    this.#keysLeft = bytes.readUInt16LE(position);
    this.#keysRead();
    return position + 2;
  }

  #columnKey(bytes: Buffer, position: number, end: number): number {
    const cursor = this.#cursor.set(bytes, position, end);
    skipColumnKey(cursor);
    if (cursor.short) return -1;
    this.#keysLeft -= 1;
    this.#keysRead();
    return cursor.position;
  }

  #keysRead(): void {
    if (this.#keysLeft > 0) this.#expecting = 'column_key';
    else if (this.#columnsLeft > 0) this.#expecting = 'column';
    else this.#endColumns();
  }

  #nextColumn(bytes: Buffer, position: number, end: number): number {
    const cursor = this.#cursor.set(bytes, position, end);
    const column = readColumn(cursor, this.#options);
    if (cursor.short) return -1;
    if (column === null) return this.#lose('a column of an unknown type', Token.columnMetadata);
    this.#columns.push(column);
    this.#columnsLeft -= 1;
    if (this.#columnsLeft === 0) this.#endColumns();
    return cursor.position;
  }

  #endColumns(): void {
    this.#expecting = 'token';
    const layout = new RowLayout(this.#columns);
    this.#columns = [];
    this.#announce(layout);
  }

  #announce(layout: RowLayout | null): void {
    this.#layout = layout;
    this.#sampled = 0;
    this.#rows ??= 0;
    if (layout !== null) this.#listener.result(layout);
  }

  // Other control tokens.

  #readDone(bytes: Buffer, position: number, end: number, direct: boolean): number {
    const next = position + this.#doneBytes;
    if (next > end) return -1;
    const done = this.#done;
    done.token = bytes[position]!;
    done.status = bytes[position + 1]! | (bytes[position + 2]! << 8);
    done.command = bytes[position + 3]! | (bytes[position + 4]! << 8);
    done.count = bytes.readUInt32LE(position + 5);
    if (this.#options.wide) done.count += bytes.readUInt32LE(position + 9) * 0x1_0000_0000;
    done.rows = this.#rows;
    this.#rows = null;
    this.#layout = null;
    this.#listener.done(done, direct ? position : -1);
    return next;
  }

  /** ERROR, INFO, ENVCHANGE: read when they are there whole. */
  #counted(bytes: Buffer, position: number, end: number): number {
    if (position + 3 > end) return -1;
    const next = position + 3 + bytes.readUInt16LE(position + 1);
    if (next > end) return -1;
    const token = bytes[position]!;
    const cursor = this.#cursor.set(bytes, position + 3, next);
    if (token === Token.environmentChange) {
      if (next > position + 3) this.#listener.environment(cursor.uint8(), cursor);
      return next;
    }
    const message = readMessage(cursor, this.#options.wide);
    if (cursor.short) return this.#lose('a message token that runs past its end', token);
    if (token === Token.error) this.#listener.error(message);
    else this.#listener.info(message);
    return next;
  }

  #feature(bytes: Buffer, position: number, end: number): number {
    if (bytes[position] === 0xff) {
      this.#expecting = 'token';
      return position + 1;
    }
    if (position + 5 > end) return -1;
    const length = bytes.readUInt32LE(position + 1);
    if (length > CONTROL_TOKEN_BYTES_MAX) {
      return this.#lose('a feature acknowledgement longer than the limit', Token.featureAcknowledgement);
    }
    return position + 5 + length <= end ? position + 5 + length : -1;
  }

  #classification(bytes: Buffer, position: number, end: number): number {
    const version = this.#options.dataClassification;
    if (version === 0) return this.#lose('a data classification that was not asked for', bytes[position]!);
    const cursor = this.#cursor.set(bytes, position + 1, end);
    skipClassification(cursor, version);
    return cursor.short ? -1 : cursor.position;
  }

  #outputHeader(bytes: Buffer, position: number, end: number): number {
    const cursor = this.#cursor.set(bytes, position + 1, end);
    cursor.skip(2);
    const name = cursor.shortText();
    cursor.skip(1 + (this.#options.wide ? 4 : 2));
    const flags = cursor.uint16();
    const info = readTypeInfo(cursor, 'result');
    if (cursor.short) return -1;
    if (info === null) return this.#lose('an output value of an unknown type', Token.returnValue);
    const encrypted = isEncrypted(flags, this.#options.columnEncryption);
    if (encrypted) skipEncryption(cursor);
    if (cursor.short) return -1;
    this.#output = { name, info, encrypted };
    this.#capture.begin(PARAMETER_BYTES_MAX, true);
    this.#value.begin(info.extent, info.size, this.#capture);
    this.#expecting = 'output_value';
    return cursor.position < end ? cursor.position : this.#outputValue(bytes, cursor.position, end);
  }

  #outputValue(bytes: Buffer, position: number, end: number): number {
    const next = this.#value.feed(bytes, position, end);
    if (!this.#value.done) return next;
    const { name, info, encrypted } = this.#output!;
    const capture = this.#capture;
    const isNull = isNullValue(info, this.#value, capture);
    this.#output = null;
    this.#expecting = 'token';
    const raw =
      !isNull && info.id === TypeId.intN && capture.total === 4 ? capture.bytes.readInt32LE(0) : null;
    const value = describeValue(name === '' ? null : name, info, isNull, encrypted, capture);
    this.#listener.output(value, raw);
    return next;
  }

  /** Reads what the end of a lost message tells. */
  #readTail(): void {
    const listener = this.#listener;
    const tail = this.#tail.read(this.#options.wide, this.#done);
    if (tail === null) return;
    for (const message of tail.errors) listener.error(message);
    this.#done.rows = null;
    listener.done(this.#done, -1);
  }
}

/** The body of a DATACLASSIFICATION token (MS-TDS 2.2.7.5). */
function skipClassification(cursor: Cursor, version: 1 | 2): void {
  for (let list = 0; list < 2; list++) {
    const entries = cursor.uint16();
    for (let entry = 0; entry < entries && !cursor.short; entry++) {
      cursor.skipShortText();
      cursor.skipShortText();
    }
  }
  if (version === 2) cursor.skip(4);
  const columns = cursor.uint16();
  for (let column = 0; column < columns && !cursor.short; column++) {
    cursor.skip(cursor.uint16() * (version === 2 ? 8 : 4));
  }
}

function valueText(info: TypeInfo, walker: ValueWalker, capture: ValueCapture): string | null {
  if (isNullValue(info, walker, capture)) return null;
  const value = decodeValue(info, capture.bytes, capture.cut);
  return capture.cut ? `${String(value)}…` : String(value);
}
