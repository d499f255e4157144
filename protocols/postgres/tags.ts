/**
 * Command tags: what CommandComplete says of a statement that has run.
 */

/** What a tag's count means. Only these commands' tags carry one (since PostgreSQL 12). */
export type Counted = 'nothing' | 'returned' | 'affected' | 'copied';

export interface Tag {
  readonly text: string;
  readonly counted: Counted;
  /** A bigint beyond 2^53; null where the tag has none. */
  readonly count: number | bigint | null;
}

const COUNTED: Readonly<Record<string, Counted>> = {
  SELECT: 'returned',
  FETCH: 'returned',
  INSERT: 'affected',
  UPDATE: 'affected',
  DELETE: 'affected',
  MERGE: 'affected',
  MOVE: 'affected',
  COPY: 'copied',
};

/** `INSERT 0 5` (the zero was an OID once), `SELECT 5`, `CREATE TABLE`. */
export function parseTag(text: string): Tag {
  const space = text.indexOf(' ');
  const counted = COUNTED[space < 0 ? text : text.slice(0, space)] ?? 'nothing';
  const digits = counted === 'nothing' ? null : / (\d+)$/.exec(text);
  if (digits === null) return { text, counted: 'nothing', count: null };
  const count = Number(digits[1]);
  return { text, counted, count: Number.isSafeInteger(count) ? count : BigInt(digits[1]!) };
}

/** Tags of up to this many bytes are remembered, in as many places. */
const REMEMBERED_BYTES_MAX = 24;
const PLACES = 64;

/** Sessions see the same few tags again and again: they are found by their bytes, without making text of them. */
export class TagReader {
  readonly #bytes: (Uint8Array | undefined)[] = new Array(PLACES).fill(undefined);
  readonly #tags: (Tag | undefined)[] = new Array(PLACES).fill(undefined);

  /** The tag from `start` to `end`, its NUL excluded. */
  read(bytes: Buffer, start: number, end: number): Tag {
    const length = end - start;
    if (length > REMEMBERED_BYTES_MAX) return parseTag(bytes.toString('latin1', start, end));
    let place = length;
    for (let at = start; at < end; at += 1) place = (place * 31 + bytes[at]!) | 0;
    place &= PLACES - 1;
    const remembered = this.#bytes[place];
    if (remembered !== undefined && remembered.length === length) {
      let index = 0;
      while (index < length && remembered[index] === bytes[start + index]) index += 1;
      if (index === length) return this.#tags[place]!;
    }
    const tag = parseTag(bytes.toString('latin1', start, end));
    this.#bytes[place] = Uint8Array.prototype.slice.call(bytes, start, end);
    this.#tags[place] = tag;
    return tag;
  }
}
