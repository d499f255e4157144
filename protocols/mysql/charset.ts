import { isUtf8 } from 'node:buffer';

/** How a session's text is read for the record. The bytes that pass are never converted. */
export interface Charset {
  /** The server's own name: `utf8mb4`, `latin1`, `gbk` … */
  readonly name: string;
  /** The text of `bytes` from `start` to `end`; what is no text in this charset shows as U+FFFD. */
  decode(bytes: Buffer, start: number, end: number): string;
  /** Whether all of these bytes are text in this charset. */
  isText(bytes: Buffer): boolean;
}

const UTF8 = (name: string): Charset => ({
  name,
  decode: (bytes, start, end) => bytes.toString('utf8', start, end),
  isText: isUtf8,
});

function legacy(name: string, label: string): Charset {
  const loose = new TextDecoder(label);
  const strict = new TextDecoder(label, { fatal: true });
  return {
    name,
    decode: (bytes, start, end) => loose.decode(bytes.subarray(start, end)),
    isText(bytes) {
      try {
        strict.decode(bytes);
        return true;
      } catch {
        return false;
      }
    },
  };
}

/** Labels of the WHATWG Encoding Standard for the server's names. Those that no client may use (ucs2, utf16, utf32) have none. */
const LABELS: Readonly<Record<string, string>> = {
  latin1: 'windows-1252',
  latin2: 'iso-8859-2',
  latin5: 'iso-8859-9',
  latin7: 'iso-8859-13',
  cp1250: 'windows-1250',
  cp1251: 'windows-1251',
  cp1256: 'windows-1256',
  cp1257: 'windows-1257',
  cp866: 'ibm866',
  koi8r: 'koi8-r',
  koi8u: 'koi8-u',
  greek: 'iso-8859-7',
  hebrew: 'iso-8859-8',
  tis620: 'windows-874',
  macroman: 'macintosh',
  big5: 'big5',
  gb2312: 'gbk',
  gbk: 'gbk',
  gb18030: 'gb18030',
  sjis: 'shift_jis',
  cp932: 'shift_jis',
  ujis: 'euc-jp',
  eucjpms: 'euc-jp',
  euckr: 'euc-kr',
};

/** Collation ids (INFORMATION_SCHEMA.COLLATIONS) that are not UTF-8. */
const COLLATIONS: Readonly<Record<string, readonly number[]>> = {
  latin1: [5, 8, 15, 31, 47, 48, 49, 94],
  latin2: [2, 9, 21, 27, 77],
  latin5: [30, 78],
  latin7: [20, 41, 42, 79],
  cp1250: [26, 34, 44, 66, 99],
  cp1251: [14, 23, 50, 51, 52],
  cp1256: [57, 67],
  cp1257: [29, 58, 59],
  cp866: [36, 68],
  koi8r: [7, 74],
  koi8u: [22, 75],
  greek: [25, 70],
  hebrew: [16, 71],
  tis620: [18, 89],
  macroman: [39, 53],
  big5: [1, 84],
  gb2312: [24, 86],
  gbk: [28, 87],
  gb18030: [248, 249, 250],
  sjis: [13, 88],
  cp932: [95, 96],
  ujis: [12, 91],
  eucjpms: [97, 98],
  euckr: [19, 85],
};

/** The server's name of a collation id's charset, for SET NAMES. */
export function charsetNameOf(collation: number): string {
  for (const name in COLLATIONS) if (COLLATIONS[name]!.includes(collation)) return name;
  if (collation === 11 || collation === 65) return 'ascii';
  if (collation === 63) return 'binary';
  // Every server knows this name for the UTF-8 of three bytes.
  const three = collation === 33 || collation === 76 || collation === 83 || collation === 223;
  return three || (collation >= 192 && collation <= 215) ? 'utf8' : 'utf8mb4';
}

const known = new Map<string, Charset>();

/** The charset of that name (any case); one that we cannot convert is read as UTF-8. */
export function charsetNamed(name: string): Charset {
  const key = name.toLowerCase();
  const found = known.get(key);
  if (found !== undefined) return found;
  const label = LABELS[key];
  if (label === undefined && !key.startsWith('utf8')) return DEFAULT;
  const made = label === undefined ? UTF8(key) : legacy(key, label);
  known.set(key, made);
  return made;
}

const DEFAULT = UTF8('utf8mb4');

/** The charset of a collation id, as in a HandshakeResponse's one byte; ids of UTF-8 and unknown ones give UTF-8. */
export function charsetOfCollation(collation: number): Charset {
  return charsetNamed(charsetNameOf(collation));
}
