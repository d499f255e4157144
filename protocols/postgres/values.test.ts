import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeUtf8, textDecoder, utf8Cut } from './encoding.ts';
import { parseTag, TagReader } from './tags.ts';
import { ARRAY_ELEMENTS, TYPE_NAMES, typeName } from './types.ts';
import { binaryText } from './values.ts';

const text = (oid: number, hex: string): string => {
  const bytes = Buffer.from(hex, 'hex');
  return binaryText(oid, bytes, 0, bytes.length, decodeUtf8);
};

describe('binary values', () => {
  test.each([
    [16, '01', 'true'],
    [21, 'fffe', '-2'],
    [23, '12345678', '305419896'],
    [20, 'ffffffffffffffff', '-1'],
    [700, '3fc00000', '1.5'],
    [701, 'bfb999999999999a', '-0.1'],
    [1700, '0003000100000003000109291a7c', '12345.678'],
    [1700, '0002ffff40000005000107d0', '-0.00012'],
    [1700, '00000000c0000000', 'NaN'],
    [1700, '00000000d0000020', 'Infinity'],
    [1700, '00010001000000000001', '10000'],
    [1700, '0000000000000000', '0'],
    [1082, '00002279', '2024-02-29'],
    [1082, '7fffffff', 'infinity'],
    [1083, '0000000b187d38e0', '13:14:15.5'],
    [1266, '0000000b187597c0ffffe3e0', '13:14:15+02'],
    [1114, '0002b583ce01f7c0', '2024-02-29 13:14:15'],
    [1184, '0002b583ce01f7c0', '2024-02-29 13:14:15+00'],
    [1114, '7fffffffffffffff', 'infinity'],
    [1186, '00000000002dc6c00000000200000001', '1 mon 2 days 00:00:03'],
    [2950, '123e4567e89b12d3a456426614174000', '123e4567-e89b-12d3-a456-426614174000'],
    [3802, '017b2261223a20317d', '{"a": 1}'],
    [869, '020800040a010203', '10.1.2.3/8'],
    [650, '0320011020010db8000000000000000000000000', '2001:db8::/32'],
    [790, '000000000000007b', '$1.23'],
    [1560, '00000003a0', '101'],
    [3220, '00000016b374d848', '16/B374D848'],
    [27, '000000010002', '(1,2)'],
    [600, '3ff00000000000004000000000000000', '(1,2)'],
    [1007, '00000001000000010000001700000003000000010000000400000001ffffffff0000000400000003', '{1,NULL,3}'],
    [1007, '000000000000000000000017', '{}'],
    [
      1009,
      '000000020000000000000019000000020000000100000002000000010000000161000000016200000001630000000164',
      '{{a,b},{c,d}}',
    ],
    [3904, '0200000004000000010000000400000005', '[1,5)'],
    [2249, '00000002000000170000000400000001', '\\x00000002000000170000000400000001'],
    [16385, 'beef', '\\xbeef'],
    [17, '', '\\x'],
    [25, '', ''],
  ])('type %i of %s is %s', (oid, hex, expected) => {
    expect(text(oid, hex)).toBe(expected);
  });

  test("what does not have its type's form is shown as bytes, and never throws", () => {
    const oids = [...TYPE_NAMES.keys(), ...ARRAY_ELEMENTS.keys()];
    fc.assert(
      fc.property(fc.constantFrom(...oids), fc.uint8Array({ maxLength: 64 }), (oid, bytes) => {
        expect(typeof binaryText(oid, Buffer.from(bytes), 0, bytes.length, decodeUtf8)).toBe('string');
      }),
      { numRuns: 3000 },
    );
    expect(text(23, '01')).toBe('\\x01');
  });

  test('dates of the whole range are those of the calendar', () => {
    fc.assert(
      fc.property(fc.integer({ min: -700_000, max: 2_900_000 }), (days) => {
        const bytes = Buffer.alloc(4);
        bytes.writeInt32BE(days);
        const expected = new Date(Date.UTC(2000, 0, 1) + days * 86_400_000).toISOString();
        expect(binaryText(1082, bytes, 0, 4, decodeUtf8)).toBe(expected.slice(0, expected.indexOf('T')));
      }),
    );
  });
});

test('types are called what PostgreSQL calls them', () => {
  expect([0, 23, 1007, 99_999].map(typeName)).toEqual([null, 'int4', 'int4[]', 'oid 99999']);
  for (const [array, element] of ARRAY_ELEMENTS) {
    expect(TYPE_NAMES.has(element), `the elements of ${array}`).toBe(true);
  }
});

test('text of any length is decoded as UTF-8', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 20 }), fc.nat(3), (value, offset) => {
      const bytes = Buffer.concat([Buffer.alloc(offset, 'x'), Buffer.from(value), Buffer.from('y')]);
      expect(decodeUtf8(bytes, offset, bytes.length - 1)).toBe(Buffer.from(value).toString());
    }),
  );
});

test('a cut never stands within a character', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 40 }), fc.nat(60), (value, lengthMax) => {
      const bytes = Buffer.from(value.toWellFormed());
      const end = utf8Cut(bytes, 0, bytes.length, lengthMax);
      expect(end).toBeLessThanOrEqual(Math.max(lengthMax, 0));
      expect(bytes.toString('utf8', 0, end)).not.toContain(
        '\ufffd'.repeat(value.includes('\ufffd') ? 99 : 1),
      );
      expect(value.toWellFormed().startsWith(bytes.toString('utf8', 0, end))).toBe(true);
    }),
  );
});

test.each([
  ['UTF8', 'c3a9', 'é'],
  ["'utf-8'", 'c3a9', 'é'],
  ['LATIN1', 'e985', 'é\u0085'],
  ['WIN1251', 'cff0e8', 'При'],
  ['LATIN9', 'a4', '€'],
  ['SJIS', '83658358', 'テス'],
  ['EUC_JP', 'a5c6a5b9', 'テス'],
  ['EUC_KR', 'c7d1', '한'],
  ['GB18030', 'd6d0', '中'],
  ['BIG5', 'a4a4', '中'],
  ['KOI8R', 'f0', 'П'],
  ['SQL_ASCII', 'c3a9', 'é'],
  ['SQL_ASCII', 'e9', 'é'],
  ['MULE_INTERNAL', 'e9', 'é'],
])('client_encoding %s', (encoding, hex, expected) => {
  const bytes = Buffer.from(hex, 'hex');
  expect(textDecoder(encoding)(bytes, 0, bytes.length)).toBe(expected);
});

describe('command tags', () => {
  test.each([
    ['INSERT 0 5', 'affected', 5],
    ['SELECT 12', 'returned', 12],
    ['FETCH 3', 'returned', 3],
    ['COPY 9', 'copied', 9],
    ['MOVE 1', 'affected', 1],
    ['SELECT', 'nothing', null], // a walsender's
    ['CREATE TABLE', 'nothing', null],
    ['ALTER 2', 'nothing', null],
    ['UPDATE 18446744073709551615', 'affected', 18446744073709551615n],
  ])('%s counts what is %s: %s', (tag, counted, count) => {
    expect(parseTag(tag)).toEqual({ text: tag, counted, count });
  });

  test('remembered tags are the same tags', () => {
    const reader = new TagReader();
    fc.assert(
      fc.property(fc.constantFrom('SELECT', 'UPDATE', 'INSERT 0'), fc.nat(300), (verb, count) => {
        const bytes = Buffer.from(`xx${verb} ${count}\0`);
        expect(reader.read(bytes, 2, bytes.length - 1)).toEqual(parseTag(`${verb} ${count}`));
      }),
      { numRuns: 2000 },
    );
  });
});
