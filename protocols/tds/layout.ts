import type { Cursor } from './cursor.ts';
import { stepOver } from './extents.ts';
import { Extent, readTypeInfo, TypeId, type TypeInfo } from './types.ts';

/**
 * What COLMETADATA says of a result (MS-TDS 2.2.7.4), reduced to what stepping over its rows needs: how the length of
 * each column's value is told. Neighbouring columns of fixed length are one step.
 */

export interface Column {
  readonly info: TypeInfo;
  /** Null where names are not asked for. */
  readonly name: string | null;
}

export interface ColumnOptions {
  /** From TDS 7.2 on, user types are four bytes and table names come in parts. */
  readonly wide: boolean;
  readonly collated: boolean;
  readonly columnEncryption: boolean;
  readonly names: boolean;
}

const FLAG_ENCRYPTED = 0x0800;

/** Reads one column. Null: its type is not known (`cursor.short` false), or it is not all there (`cursor.short`). */
export function readColumn(cursor: Cursor, options: ColumnOptions): Column | null {
  cursor.skip(options.wide ? 4 : 2);
  const flags = cursor.uint16();
  const info = readTypeInfo(cursor, 'result');
  if (info === null) return null;
  if (info.id === TypeId.text || info.id === TypeId.ntext || info.id === TypeId.image) {
    const parts = options.wide ? cursor.uint8() : 1;
    for (let part = 0; part < parts; part++) cursor.skipLongText();
  }
  if (options.columnEncryption && flags & FLAG_ENCRYPTED) {
    cursor.skip(2);
    skipEncryption(cursor);
  }
  if (options.names) return { info, name: cursor.shortText() };
  cursor.skipShortText();
  return { info, name: null };
}

/** Steps over one entry of the key table that COLMETADATA has when column encryption is on. */
export function skipColumnKey(cursor: Cursor): void {
  cursor.skip(4 + 4 + 4 + 8);
  const values = cursor.uint8();
  for (let value = 0; value < values; value++) {
    cursor.skip(cursor.uint16());
    cursor.skipShortText();
    cursor.skipLongText();
    cursor.skipShortText();
  }
}

/** Steps over the encryption metadata of a column or an output value, behind the ordinal that only columns have. */
export function skipEncryption(cursor: Cursor): void {
  cursor.skip(4);
  readTypeInfo(cursor, 'result');
  if (cursor.uint8() === 0) cursor.skipShortText();
  cursor.skip(2);
}

export function isEncrypted(flags: number, columnEncryption: boolean): boolean {
  return columnEncryption && (flags & FLAG_ENCRYPTED) !== 0;
}

export class RowLayout {
  readonly columns: readonly Column[];
  readonly #extents: number[] = [];
  readonly #sizes: number[] = [];
  readonly #stepExtents: number[] = [];
  readonly #stepSizes: number[] = [];
  /** Bytes of the bitmap ahead of a row that leaves its NULLs out. */
  readonly bitmapBytes: number;

  constructor(columns: readonly Column[]) {
    this.columns = columns;
    this.bitmapBytes = (columns.length + 7) >> 3;
    let steps = 0;
    for (const { info } of columns) {
      const { extent, size } = info;
      this.#extents.push(extent);
      this.#sizes.push(size);
      if (extent === Extent.fixed && steps > 0 && this.#stepExtents[steps - 1] === Extent.fixed) {
        this.#stepSizes[steps - 1]! += size;
        continue;
      }
      this.#stepExtents.push(extent);
      this.#stepSizes.push(size);
      steps += 1;
    }
  }

  extent(column: number): number {
    return this.#extents[column]!;
  }

  size(column: number): number {
    return this.#sizes[column]!;
  }

  /** The position behind the row whose values begin at `start`, or -1 when it does not end before `end`. */
  stepRow(bytes: Buffer, start: number, end: number): number {
    const extents = this.#stepExtents;
    const sizes = this.#stepSizes;
    const steps = extents.length;
    let position = start;
    for (let step = 0; step < steps; step++) {
      switch (extents[step]) {
        case Extent.fixed:
          position += sizes[step]!;
          break;
        case Extent.byte:
          if (position >= end) return -1;
          position += 1 + bytes[position]!;
          break;
        case Extent.short: {
          if (position + 2 > end) return -1;
          const length = bytes[position]! | (bytes[position + 1]! << 8);
          position += length === 0xffff ? 2 : 2 + length;
          break;
        }
        default:
          position = stepOver(extents[step]!, sizes[step]!, bytes, position, end);
          if (position < 0) return -1;
      }
    }
    return position <= end ? position : -1;
  }

  /** As `stepRow`, for a row with a bitmap at `start`. */
  stepBitmapRow(bytes: Buffer, start: number, end: number): number {
    const extents = this.#extents;
    const sizes = this.#sizes;
    const count = extents.length;
    let position = start + this.bitmapBytes;
    if (position > end) return -1;
    for (let column = 0; column < count; column++) {
      if (bytes[start + (column >> 3)]! & (1 << (column & 7))) continue;
      switch (extents[column]) {
        case Extent.byte:
          if (position >= end) return -1;
          position += 1 + bytes[position]!;
          break;
        default:
          position = stepOver(extents[column]!, sizes[column]!, bytes, position, end);
          if (position < 0) return -1;
      }
    }
    return position <= end ? position : -1;
  }
}
