import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { lenenc, u16, u32 } from '../../test/support/mysql-scripts.ts';
import { charsetNamed, charsetOfCollation } from './charset.ts';
import { Fields, lenencInteger, packet } from './packets.ts';
import { bytesParameter, headValue, readFixed, typeName } from './values.ts';

function read(type: number, bytes: Buffer, unsigned = false): unknown {
  const fields = new Fields(bytes);
  const value = readFixed(fields, type, unsigned);
  expect(fields.short).toBe(false);
  expect(fields.remaining).toBe(0);
  return value;
}

function bytesOf(write: (bytes: Buffer) => void, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  write(bytes);
  return bytes;
}

describe('binary values', () => {
  test.each([
    ['TINYINT', 1, Buffer.of(0xff), false, -1],
    ['TINYINT UNSIGNED', 1, Buffer.of(0xff), true, 255],
    ['SMALLINT', 2, u16(0x8000), false, -32768],
    ['YEAR', 13, u16(2026), false, 2026],
    ['INT', 3, u32(-2), false, -2],
    ['INT UNSIGNED', 3, u32(-2), true, 4294967294],
    ['MEDIUMINT', 9, u32(-8388608), false, -8388608],
    ['BIGINT', 8, bytesOf((b) => b.writeBigInt64LE(-9007199254740993n), 8), false, '-9007199254740993'],
    ['BIGINT', 8, bytesOf((b) => b.writeBigInt64LE(-5n), 8), false, -5],
    ['BIGINT UNSIGNED', 8, Buffer.alloc(8, 0xff), true, '18446744073709551615'],
    ['FLOAT', 4, bytesOf((b) => b.writeFloatLE(1.1), 4), false, 1.1],
    ['DOUBLE', 5, bytesOf((b) => b.writeDoubleLE(0.1), 8), false, 0.1],
    ['DOUBLE', 5, bytesOf((b) => b.writeDoubleLE(Number.NaN), 8), false, 'NaN'],
    ['DATE', 10, Buffer.of(0), false, '0000-00-00'],
    ['DATE', 10, Buffer.concat([Buffer.of(4), u16(2026), Buffer.of(1, 9)]), false, '2026-01-09'],
    ['DATETIME', 12, Buffer.of(0), false, '0000-00-00 00:00:00'],
    [
      'DATETIME',
      12,
      Buffer.concat([Buffer.of(7), u16(2026), Buffer.of(1, 9, 23, 5, 7)]),
      false,
      '2026-01-09 23:05:07',
    ],
    [
      'TIMESTAMP',
      7,
      Buffer.concat([Buffer.of(11), u16(2026), Buffer.of(1, 9, 23, 5, 7), u32(42)]),
      false,
      '2026-01-09 23:05:07.000042',
    ],
    [
      'DATETIME',
      12,
      Buffer.concat([Buffer.of(13), u16(2026), Buffer.of(1, 9, 0, 0, 0), u32(0), u16(-330)]),
      false,
      '2026-01-09 00:00:00-05:30',
    ],
    ['TIME', 11, Buffer.of(0), false, '00:00:00'],
    ['TIME', 11, Buffer.concat([Buffer.of(8, 1), u32(2), Buffer.of(3, 4, 5)]), false, '-51:04:05'],
    [
      'TIME',
      11,
      Buffer.concat([Buffer.of(12, 0), u32(0), Buffer.of(3, 4, 5), u32(900_000)]),
      false,
      '03:04:05.900000',
    ],
    ['BOOL', 244, Buffer.of(1), false, 1],
    ['NULL', 6, Buffer.alloc(0), false, null],
  ])('%s', (name, type, bytes, unsigned, value) => {
    expect(read(type, bytes, unsigned)).toBe(value);
    expect(typeName(type, unsigned)).toBe(name);
    // Cut anywhere, it is no value and nothing is read beyond its end.
    for (let at = 0; at < bytes.length; at += 1) {
      const fields = new Fields(bytes, 0, at);
      readFixed(fields, type, unsigned);
      expect(fields.short).toBe(true);
    }
  });

  test('strings are text where they are text, else hexadecimal digits', () => {
    const utf8 = charsetNamed('utf8mb4');
    const value = (bytes: Buffer, binary = false) => bytesParameter(null, null, bytes, binary, utf8).value;
    expect(value(Buffer.from('größer'))).toBe('größer');
    expect(value(Buffer.from('größer'), true)).toBe('größer');
    expect(value(Buffer.of(0xff, 0x00))).toEqual({ hex: 'ff00' });
    expect(value(Buffer.of(0x41, 0x00), true)).toEqual({ hex: '4100' });
    expect(value(Buffer.alloc(0))).toBe('');
    expect(headValue(Buffer.alloc(0), true, utf8)).toBe('');
    // The cut does not make text binary.
    const long = bytesParameter('p', 'CHAR', Buffer.from(`x${'€'.repeat(3000)}`), false, utf8);
    expect(long.value).toBe(`x${'€'.repeat(1365)}`);
    expect(long.bytes).toBe(9001);
    expect(long.sha256).toMatch(/^[0-9a-f]{64}$/);
  });

  test('collations say how text is read', () => {
    expect(charsetOfCollation(8).name).toBe('latin1');
    expect(charsetOfCollation(28).name).toBe('gbk');
    expect(charsetOfCollation(255).name).toBe('utf8mb4');
    expect(charsetNamed('UTF8MB3').name).toBe('utf8mb3');
    expect(charsetNamed('nosuch').name).toBe('utf8mb4');
  });
});

describe('fields', () => {
  test('length-encoded integers and strings come back', () => {
    fc.assert(
      fc.property(fc.nat(0xffff_ffff), fc.uint8Array({ maxLength: 70_000 }), (value, array) => {
        const fields = new Fields(Buffer.concat([lenencInteger(value), lenenc(Buffer.from(array))]));
        expect(fields.lenenc()).toBe(value);
        expect(fields.lenencBytes()).toEqual(Buffer.from(array));
        expect(fields.remaining).toBe(0);
        expect(fields.short).toBe(false);
      }),
      { numRuns: 100 },
    );
  });

  test('whatever is read of whatever bytes stays within them', () => {
    const reads: ((fields: Fields) => unknown)[] = [
      (fields) => fields.lenenc(),
      (fields) => fields.lenencCount(),
      (fields) => fields.lenencBytes(),
      (fields) => fields.untilNul(),
      (fields) => fields.uint32(),
      (fields) => fields.slice(3),
      (fields) => readFixed(fields, 12, false),
      (fields) => readFixed(fields, 11, false),
    ];
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 64 }),
        fc.array(fc.nat(reads.length - 1), { maxLength: 20 }),
        (array, order) => {
          const bytes = Buffer.concat([Buffer.from(array), Buffer.alloc(100, 0x55)]);
          const fields = new Fields(bytes, 0, array.length);
          for (const index of order) {
            reads[index]!(fields);
            expect(fields.at).toBeLessThanOrEqual(array.length);
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  test('a payload of 0xFFFFFF bytes is followed by an empty packet', () => {
    const bytes = packet(254, Buffer.alloc(0xff_ffff, 1));
    expect(bytes.length).toBe(0xff_ffff + 8);
    expect(bytes.subarray(0, 4)).toEqual(Buffer.of(0xff, 0xff, 0xff, 254));
    expect(bytes.subarray(-4)).toEqual(Buffer.of(0, 0, 0, 255));
  });
});
