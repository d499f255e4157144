import { TextDecoder } from 'node:util';
import { describe, expect, it } from 'vitest';
import { codePage, decodeCodePage } from './collation.ts';

function collation(locale: number, sortId = 0, flags = 0): Buffer {
  const bytes = Buffer.alloc(5);
  bytes.writeUInt32LE(locale | (flags << 20));
  bytes[4] = sortId;
  return bytes;
}

describe('collations', () => {
  it.each([
    ['SQL_Latin1_General_CP1_CI_AS', collation(0x0409, 52), [0x80, 0xe9], '€é'],
    ['SQL_Latin1_General_CP437_BIN', collation(0x0409, 30), [0x82, 0xe1], 'éß'],
    ['SQL_Latin1_General_CP850_CI_AS', collation(0x0409, 42), [0x82, 0xd5], 'éı'],
    ['Polish_CI_AS', collation(0x0415), [0xb3, 0xb9], 'łą'],
    ['Cyrillic_General_CI_AS', collation(0x0419), [0xcf, 0xf0], 'Пр'],
    ['Greek_CI_AS', collation(0x0408), [0xc1, 0xe1], 'Αα'],
    ['Turkish_CI_AS', collation(0x041f), [0xfd, 0xfe], 'ış'],
    ['Hebrew_CI_AS', collation(0x040d), [0xe0, 0xe1], 'אב'],
    ['Arabic_CI_AS', collation(0x0401), [0xc7, 0xc8], 'اب'],
    ['Lithuanian_CI_AS', collation(0x0427), [0xe0, 0xf0], 'ąš'],
    ['Vietnamese_CI_AS', collation(0x042a), [0xd0, 0xfe], 'Đ₫'],
    ['Thai_CI_AS', collation(0x041e), [0xa1, 0xa2], 'กข'],
    ['Japanese_CI_AS', collation(0x0411), [0x93, 0xfa, 0x96, 0x7b], '日本'],
    ['Korean_Wansung_CI_AS', collation(0x0412), [0xc7, 0xd1], '한'],
    ['Chinese_PRC_CI_AS', collation(0x0804), [0xd6, 0xd0], '中'],
    ['Chinese_Taiwan_Stroke_CI_AS', collation(0x0404), [0xa4, 0xa4], '中'],
    ['Latin1_General_100_CI_AS_SC_UTF8', collation(0x0409, 0, 0x40), [0xe2, 0x98, 0x83], '☃'],
  ])('%s', (_name, bytes, encoded, text) => {
    expect(decodeCodePage(Buffer.from(encoded), bytes)).toBe(text);
  });

  it('name code pages that this runtime has, whatever their five bytes', () => {
    const own = new Set(['cp437', 'cp850', 'utf-8']);
    for (let sortId = 0; sortId < 256; sortId++) {
      for (let locale = 0; locale < 0x80; locale++) {
        const label = codePage(collation(locale, sortId));
        if (!own.has(label)) expect(() => new TextDecoder(label)).not.toThrow();
        if (sortId > 0) break;
      }
    }
  });
});
