import type { Charset } from './charset.ts';
import { COLUMNS_MAX, SAMPLE_VALUE_BYTES_MAX } from './limits.ts';
import { type Column, columnNameAt, readColumn } from './messages.ts';
import { Fields } from './packets.ts';
import { headValue, isBinaryType, isLengthEncoded, readFixed } from './values.ts';

/** The charset number of bytes that are no text. */
const BINARY = 63;

/** Column names and the first rows of one result, as text. */
export class Sample {
  /** Definitions; empty where only names are wanted. */
  columns: Column[] = [];
  rows: (readonly (string | null)[])[] = [];
  readonly #rowsMax: number;
  /** The names of the session's last result. The same query comes again and again: its names are kept, not read. */
  readonly #known: readonly string[];
  /** Null while all names are those known. */
  #names: string[] | null = null;
  #count = 0;

  constructor(rowsMax: number, known: readonly string[]) {
    this.#rowsMax = rowsMax;
    this.#known = known;
  }

  get wantsRows(): boolean {
    return this.rows.length < this.#rowsMax && this.columns.length > 0;
  }

  /** Takes a column definition's payload. */
  addColumn(bytes: Buffer, start: number, end: number, extended: boolean): void {
    if (this.#count >= COLUMNS_MAX) return;
    if (this.#rowsMax === 0) {
      const at = columnNameAt(bytes, start, end);
      if (at >= 0) {
        this.#addName(this.#knownName(bytes, at) ?? bytes.toString('utf8', at + 1, at + 1 + bytes[at]!));
        return;
      }
    }
    const column = readColumn(bytes, start, end, extended);
    if (column === null) return;
    if (this.#rowsMax > 0) this.columns.push(column);
    this.#addName(column.name);
  }

  /** Takes over what is known of the result from before: its definitions may not come again. */
  assume(names: readonly string[], columns: readonly Column[]): void {
    this.#names = [...names];
    this.#count = names.length;
    this.columns = [...columns];
  }

  names(): readonly string[] {
    if (this.#names !== null) return this.#names;
    return this.#count === this.#known.length ? this.#known : this.#known.slice(0, this.#count);
  }

  /** Takes a row's payload; one that does not fit its columns is left out. */
  addRow(bytes: Buffer, start: number, end: number, binary: boolean, charset: Charset): void {
    const row = binary
      ? readBinaryRow(bytes, start, end, this.columns, charset)
      : readTextRow(bytes, start, end, this.columns, charset);
    if (row !== null) this.rows.push(row);
  }

  #addName(name: string): void {
    const index = this.#count;
    this.#count += 1;
    if (this.#names === null) {
      if (this.#known[index] === name) return;
      this.#names = this.#known.slice(0, index);
    }
    this.#names.push(name);
  }

  /** The known name at this place, if the one whose length byte is at `at` is the same; only ASCII ones are. */
  #knownName(bytes: Buffer, at: number): string | null {
    const known = this.#known[this.#count];
    if (this.#names !== null || known === undefined || known.length !== bytes[at]) return null;
    for (let index = 0; index < known.length; index += 1) {
      const code = known.charCodeAt(index);
      if (code > 0x7f || code !== bytes[at + 1 + index]) return null;
    }
    return known;
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
