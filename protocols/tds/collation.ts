import { TextDecoder } from 'node:util';

/**
 * Text of `char`, `varchar` and `text` values: which code page a collation means (MS-TDS 2.2.5.1.2) and how its bytes
 * read. A collation is five bytes: 20 bits of locale id, 8 of flags, 4 of version, and a sort id that, when not zero,
 * names one of the old SQL collations and with it the code page.
 */

const UTF8_FLAG = 0x0400_0000;

/** Decodes `bytes` in the code page of `collation`; null is the code page of `SQL_Latin1_General`, Windows-1252. */
export function decodeCodePage(bytes: Buffer, collation: Buffer | null): string {
  const label = collation === null ? 'windows-1252' : codePage(collation);
  if (label === 'utf-8') return bytes.toString('utf8');
  if (label === 'cp437') return decodeTable(bytes, CODE_PAGE_437);
  if (label === 'cp850') return decodeTable(bytes, CODE_PAGE_850);
  let decoder = decoders.get(label);
  if (decoder === undefined) {
    decoder = new TextDecoder(label);
    decoders.set(label, decoder);
  }
  return decoder.decode(bytes);
}

/** The encoding label of a five-byte collation. */
export function codePage(collation: Buffer): string {
  const head = collation.readUInt32LE(0);
  if (head & UTF8_FLAG) return 'utf-8';
  const sortId = collation[4]!;
  if (sortId !== 0) return sortIdCodePage(sortId);
  const locale = head & 0xfffff;
  return LOCALES.get(locale & 0xffff) ?? LANGUAGES.get(locale & 0x3ff) ?? 'windows-1252';
}

const decoders = new Map<string, TextDecoder>();

function decodeTable(bytes: Buffer, table: string): string {
  let text = '';
  for (const byte of bytes) text += byte < 0x80 ? String.fromCharCode(byte) : table[byte - 0x80];
  return text;
}

/** Sort ids of the SQL collations, as `fn_helpcollations` and the collation tables of SQL Server's documentation name them. */
function sortIdCodePage(sortId: number): string {
  if (sortId >= 30 && sortId <= 35) return 'cp437';
  if ((sortId >= 40 && sortId <= 49) || (sortId >= 55 && sortId <= 61)) return 'cp850';
  if (sortId >= 80 && sortId <= 98) return 'windows-1250';
  if (sortId >= 104 && sortId <= 108) return 'windows-1251';
  if (sortId >= 112 && sortId <= 124) return 'windows-1253';
  if (sortId >= 128 && sortId <= 130) return 'windows-1254';
  if (sortId >= 136 && sortId <= 138) return 'windows-1255';
  if (sortId >= 144 && sortId <= 146) return 'windows-1256';
  if (sortId >= 152 && sortId <= 160) return 'windows-1257';
  if (sortId === 192 || sortId === 193 || sortId === 200) return 'shift_jis';
  if (sortId === 194 || sortId === 195 || sortId === 201) return 'euc-kr';
  if (sortId === 196 || sortId === 197 || sortId === 202) return 'big5';
  if (sortId === 198 || sortId === 199 || sortId === 203) return 'gbk';
  if (sortId >= 204 && sortId <= 206) return 'windows-874';
  return 'windows-1252';
}

/** Whole locale ids whose code page is not that of their language. */
const LOCALES = new Map<number, string>([
  [0x0404, 'big5'],
  [0x0c04, 'big5'],
  [0x1404, 'big5'],
  [0x0804, 'gbk'],
  [0x1004, 'gbk'],
  [0x0c1a, 'windows-1251'], // Serbian, Cyrillic
  [0x082c, 'windows-1251'], // Azeri, Cyrillic
  [0x0843, 'windows-1251'], // Uzbek, Cyrillic
]);

/** Primary language ids (the low ten bits of a locale id) and their Windows code pages; the rest use 1252. */
const LANGUAGES = new Map<number, string>([
  [0x01, 'windows-1256'], // Arabic
  [0x02, 'windows-1251'], // Bulgarian
  [0x04, 'gbk'],
  [0x05, 'windows-1250'], // Czech
  [0x08, 'windows-1253'], // Greek
  [0x0d, 'windows-1255'], // Hebrew
  [0x0e, 'windows-1250'], // Hungarian
  [0x11, 'shift_jis'],
  [0x12, 'euc-kr'],
  [0x15, 'windows-1250'], // Polish
  [0x18, 'windows-1250'], // Romanian
  [0x19, 'windows-1251'], // Russian
  [0x1a, 'windows-1250'], // Croatian, Serbian (Latin)
  [0x1b, 'windows-1250'], // Slovak
  [0x1c, 'windows-1250'], // Albanian
  [0x1e, 'windows-874'], // Thai
  [0x1f, 'windows-1254'], // Turkish
  [0x20, 'windows-1256'], // Urdu
  [0x22, 'windows-1251'], // Ukrainian
  [0x23, 'windows-1251'], // Belarusian
  [0x24, 'windows-1250'], // Slovenian
  [0x25, 'windows-1257'], // Estonian
  [0x26, 'windows-1257'], // Latvian
  [0x27, 'windows-1257'], // Lithuanian
  [0x29, 'windows-1256'], // Persian
  [0x2a, 'windows-1258'], // Vietnamese
  [0x2c, 'windows-1254'], // Azeri
  [0x2f, 'windows-1251'], // Macedonian
  [0x3f, 'windows-1251'], // Kazakh
  [0x43, 'windows-1254'], // Uzbek
  [0x44, 'windows-1251'], // Tatar
  [0x50, 'windows-1251'], // Mongolian
]);

const CODE_PAGE_437 =
  'ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0';

const CODE_PAGE_850 =
  'ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒáíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐└┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀ÓßÔÒõÕµþÞÚÛÙýÝ¯´\u00ad±‗¾¶§÷¸°¨·¹³²■\u00a0';
