/**
 * Text as the client encodes it: `client_encoding`, which the server reports whenever it changes.
 */

/** Decodes the bytes from `start` (inclusive) to `end` (exclusive). Never throws: what is no text becomes U+FFFD. */
export type TextDecode = (bytes: Buffer, start: number, end: number) => string;

export const decodeUtf8: TextDecode = (bytes, start, end) => bytes.toString('utf8', start, end);
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
