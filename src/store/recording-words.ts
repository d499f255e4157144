/** What a statement's text is found by: the same for every kind of index. */

/** Text kept per statement; the rest is in the recording. */
const TEXT_CHARACTERS_MAX = 16 * 1024;
/** Longer words and names are found by so much of them. PostgreSQL takes no lexeme above 2046 bytes. */
const WORD_CHARACTERS_MAX = 255;

/** Accents of Latin letters do not count; in other alphabets such marks make another letter. */
const ACCENTED = /([a-z])[\u0300-\u036f]+/g;
const WORD = /[\p{L}\p{N}_$]+/gu;

/** A statement's text as an index keeps it. PostgreSQL takes neither NUL nor half a surrogate pair. */
export function keptText(text: string): string {
  const cut = text.length > TEXT_CHARACTERS_MAX ? text.slice(0, TEXT_CHARACTERS_MAX) : text;
  return withoutNul(cut).toWellFormed();
}

export function withoutNul(text: string): string {
  return text.includes('\0') ? text.replaceAll('\0', '\ufffd') : text;
}

/** By far the usual case. */
export function isAscii(text: string): boolean {
  return /^[\0-\x7f]*$/.test(text);
}

/** The words of a text or of a search, each once, in lower case and without accents. */
export function wordsOf(text: string): string[] {
  const lower = text.toLowerCase();
  const plain = isAscii(lower) ? lower : lower.normalize('NFD').replace(ACCENTED, '$1').normalize('NFC');
  const words = plain.match(WORD) ?? [];
  return [...new Set(words.map((word) => cutWord(word)))];
}

/**
 * A digest of 53 bits that costs little: who finds a text by it compares the text itself. Two rounds of 32 bits, as in
 * MurmurHash3's finalizer.
 */
export function digestOf(text: string): number {
  let high = 0x9e3779b9;
  let low = 0x243f6a88;
  for (let index = 0; index < text.length; index += 1) {
    const unit = text.charCodeAt(index);
    high = Math.imul(high ^ unit, 0x85ebca6b);
    high ^= high >>> 13;
    low = Math.imul(low ^ unit, 0xc2b2ae35);
    low ^= low >>> 16;
  }
  return (high >>> 0) * 0x200000 + (low >>> 11);
}

/** Tables as an index keeps them: lower case, each once. */
export function keptTables(tables: readonly string[]): string[] {
  return [...new Set(tables.map(keptTable))].filter((name) => name !== '');
}

export function keptTable(name: string): string {
  return cutWord(withoutNul(name).toWellFormed().toLowerCase().replaceAll('\n', ' '));
}

/** A table's name without its schema: what is behind the last dot. */
export function bareTable(name: string): string {
  return name.slice(name.lastIndexOf('.') + 1);
}

function cutWord(word: string): string {
  return word.length > WORD_CHARACTERS_MAX ? word.slice(0, WORD_CHARACTERS_MAX).toWellFormed() : word;
}
