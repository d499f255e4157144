import type { Charset } from './charset.ts';
import { COLUMNS_MAX, SAMPLE_VALUE_BYTES_MAX } from './limits.ts';
import type { Column } from './messages.ts';
import { Fields } from './packets.ts';
import { headValue, isBinaryType, isLengthEncoded, readFixed } from './values.ts';

/** The charset number of bytes that are no text. */
const BINARY = 63;

/** Column names and the first rows of one result, as text. */
export class Sample {
  columns: Column[] = [];
  rows: (readonly (string | null)[])[] = [];
  readonly #rowsMax: number;

  constructor(rowsMax: number) {
    this.#rowsMax = rowsMax;
  }

  get wantsRows(): boolean {
    return this.rows.length < this.#rowsMax && this.columns.length > 0;
  }

  addColumn(column: Column | null): void {
    if (column !== null && this.columns.length < COLUMNS_MAX) this.columns.push(column);
  }

  names(): string[] {
    return this.columns.map((column) => column.name);
  }

  /** Takes a row's payload; one that does not fit its columns is left out. */
  addRow(bytes: Buffer, start: number, end: number, binary: boolean, charset: Charset): void {
    const row = binary
      ? readBinaryRow(bytes, start, end, this.columns, charset)
      : readTextRow(bytes, start, end, this.columns, charset);
    if (row !== null) this.rows.push(row);
  }
}

/** A row of text values ("Text Resultset Row"); null where it is cut short. */
function readTextRow(
  bytes: Buffer,
  start: number,
  end: number,
  columns: readonly Column[],
  charset: Charset,
) {
  const fields = new Fields(bytes, start, end);
  const row: (string | null)[] = [];
  for (const column of columns) {
    const value = fields.lenencBytes();
    if (fields.short) return null;
    row.push(value === null ? null : shown(value, column, charset));
  }
  return row;
}

/** A row of binary values ("Binary Protocol Resultset Row"): a zero byte, NULL bits from bit 2 on, values. */
function readBinaryRow(
  bytes: Buffer,
  start: number,
  end: number,
  columns: readonly Column[],
  charset: Charset,
) {
  const fields = new Fields(bytes, start + 1, end);
  const nulls = fields.slice((columns.length + 9) >> 3);
  const row: (string | null)[] = [];
  for (let index = 0; index < columns.length; index += 1) {
    const column = columns[index]!;
    const bit = index + 2;
    if (fields.short) return null;
    if ((nulls[bit >> 3]! >> (bit & 7)) & 1) {
      row.push(null);
    } else if (isLengthEncoded(column.type) === true) {
      const value = fields.lenencBytes();
      if (fields.short || value === null) return null;
      row.push(shown(value, column, charset));
    } else {
      const value = readFixed(fields, column.type, column.unsigned);
      if (value === undefined) return null;
      row.push(value === null ? null : String(value));
    }
  }
  return row;
}

/** Text as it is; bytes as `0x…`. Numbers and dates come in the binary charset too, and are text. */
function shown(value: Buffer, column: Column, charset: Charset): string {
  const binary = column.charset === BINARY && (isBinaryType(column.type) || column.type >= 253);
  const head = headValue(value.subarray(0, SAMPLE_VALUE_BYTES_MAX), binary, charset);
  const text = typeof head === 'string' ? head : `0x${(head as { hex: string }).hex}`;
  return value.length > SAMPLE_VALUE_BYTES_MAX ? `${text}…` : text;
}
