import type { TextDecode } from './encoding.ts';
import { parseRowDescription, type RowDescription } from './messages.ts';

/** RowDescriptions of up to this many bytes are remembered, in as many places. */
const REMEMBERED_BYTES_MAX = 512;
const PLACES = 16;

interface Remembered {
  readonly bytes: Uint8Array;
  readonly decode: TextDecode;
  readonly description: RowDescription;
}

/** Sessions see the same few results again and again: their descriptions are found by their bytes. */
export class DescriptionReader {
  readonly #places: (Remembered | undefined)[] = new Array(PLACES).fill(undefined);

  /** Reads a RowDescription's body; null when it contradicts itself. */
  read(bytes: Buffer, start: number, end: number, decode: TextDecode): RowDescription | null {
    const length = end - start;
    if (length > REMEMBERED_BYTES_MAX) return parseRowDescription(bytes, start, end, decode);
    // The first column's name and the message's length tell most results apart.
    let place = length;
    for (let at = start + 1, last = Math.min(end, start + 8); at < last; at += 1) {
      place = (place * 31 + bytes[at]!) | 0;
    }
    place &= PLACES - 1;
    const remembered = this.#places[place];
    if (
      remembered !== undefined &&
      remembered.decode === decode &&
      isSame(remembered.bytes, bytes, start, length)
    ) {
      return remembered.description;
    }
    const description = parseRowDescription(bytes, start, end, decode);
    if (description === null) return null;
    this.#places[place] = {
      bytes: Uint8Array.prototype.slice.call(bytes, start, end),
      decode,
      description,
    };
    return description;
  }
}

function isSame(kept: Uint8Array, bytes: Buffer, start: number, length: number): boolean {
  if (kept.length !== length) return false;
  for (let index = 0; index < length; index += 1) if (kept[index] !== bytes[start + index]) return false;
  return true;
}
