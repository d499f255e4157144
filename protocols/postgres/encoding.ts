/**
 * Text as the client encodes it: `client_encoding`, which the server reports whenever it changes.
 */

/** Decodes the bytes from `start` (inclusive) to `end` (exclusive). Never throws: what is no text becomes U+FFFD. */
export type TextDecode = (bytes: Buffer, start: number, end: number) => string;

/** Up to this length, ASCII is put together here: a call into the decoder costs several times as much. */
const SHORT_MAX = 8;

export const decodeUtf8: TextDecode = (bytes, start, end) => {
  const length = end - start;
  if (length > SHORT_MAX) return bytes.toString('utf8', start, end);
  let all = 0;
  for (let at = start; at < end; at += 1) all |= bytes[at]!;
  return all < 0x80 ? shortAscii(bytes, start, length) : bytes.toString('utf8', start, end);
};

function shortAscii(bytes: Buffer, at: number, length: number): string {
  const a = bytes[at]!;
  const b = bytes[at + 1]!;
  const c = bytes[at + 2]!;
  const d = bytes[at + 3]!;
  switch (length) {
    case 0:
      return '';
    case 1:
      return String.fromCharCode(a);
    case 2:
      return String.fromCharCode(a, b);
    case 3:
      return String.fromCharCode(a, b, c);
    case 4:
      return String.fromCharCode(a, b, c, d);
    case 5:
      return String.fromCharCode(a, b, c, d, bytes[at + 4]!);
    case 6:
      return String.fromCharCode(a, b, c, d, bytes[at + 4]!, bytes[at + 5]!);
    case 7:
      return String.fromCharCode(a, b, c, d, bytes[at + 4]!, bytes[at + 5]!, bytes[at + 6]!);
    default:
      return String.fromCharCode(a, b, c, d, bytes[at + 4]!, bytes[at + 5]!, bytes[at + 6]!, bytes[at + 7]!);
  }
}

const decodeLatin1: TextDecode = (bytes, start, end) => bytes.toString('latin1', start, end);

/** PostgreSQL's names ("Supported Character Sets") in the form of `normalize`, and what the Encoding Standard calls them. */
const LABELS: Readonly<Record<string, string>> = {
  LATIN2: 'iso-8859-2',
  LATIN3: 'iso-8859-3',
  LATIN4: 'iso-8859-4',
  LATIN5: 'windows-1254',
  LATIN6: 'iso-8859-10',
  LATIN7: 'iso-8859-13',
  LATIN8: 'iso-8859-14',
  LATIN9: 'iso-8859-15',
  LATIN10: 'iso-8859-16',
  ISO88595: 'iso-8859-5',
  ISO88596: 'iso-8859-6',
  ISO88597: 'iso-8859-7',
  ISO88598: 'iso-8859-8',
  KOI8R: 'koi8-r',
  KOI8U: 'koi8-u',
  WIN866: 'ibm866',
  WIN874: 'windows-874',
  WIN1250: 'windows-1250',
  WIN1251: 'windows-1251',
  WIN1252: 'windows-1252',
  WIN1253: 'windows-1253',
  WIN1254: 'windows-1254',
  WIN1255: 'windows-1255',
  WIN1256: 'windows-1256',
  WIN1257: 'windows-1257',
  WIN1258: 'windows-1258',
  SJIS: 'shift_jis',
  SHIFTJIS2004: 'shift_jis',
  EUCJP: 'euc-jp',
  EUCJIS2004: 'euc-jp',
  EUCKR: 'euc-kr',
  UHC: 'euc-kr',
  EUCCN: 'gb18030',
  GBK: 'gbk',
  GB18030: 'gb18030',
  BIG5: 'big5',
};

/** The decoder for a value of `client_encoding`. Encodings nobody knows are shown as Latin-1: every byte stays visible. */
export function textDecoder(encoding: string): TextDecode {
  const name = encoding.toUpperCase().replace(/[^A-Z0-9]/g, '');
  if (name === 'UTF8' || name === 'UNICODE') return decodeUtf8;
  if (name === 'SQLASCII') return decodeUtf8OrLatin1;
  const label = LABELS[name];
  if (label === undefined) return decodeLatin1;
  try {
    const decoder = new TextDecoder(label);
    return (bytes, start, end) => decoder.decode(bytes.subarray(start, end));
  } catch {
    return decodeLatin1;
  }
}

const STRICT_UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** SQL_ASCII means "bytes": most often they are UTF-8. */
function decodeUtf8OrLatin1(bytes: Buffer, start: number, end: number): string {
  try {
    return STRICT_UTF8.decode(bytes.subarray(start, end));
  } catch {
    return bytes.toString('latin1', start, end);
  }
}

/**
 * The longest part of UTF-8 text, from `start`, that is at most `lengthMax` bytes and does not end within a character;
 * returns where it ends.
 */
export function utf8Cut(bytes: Buffer, start: number, end: number, lengthMax: number): number {
  if (end - start <= lengthMax) return end;
  let cut = start + lengthMax;
  const least = Math.max(start, cut - 3);
  while (cut > least && (bytes[cut]! & 0xc0) === 0x80) cut -= 1;
  return cut;
}
