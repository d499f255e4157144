import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  call,
  chunked,
  counted,
  type EncodedParameter,
  int,
  nvarchar,
  nvarcharMax,
  varbinaryMax,
} from '../../test/support/tds-encode.ts';
import { Writer } from '../bytes.ts';
import type { Parameter } from '../statement.ts';
import { CallReader } from './rpc.ts';

/**
 * Values as parameters of calls, written by the test's own encoder: what goes in must come out, for every type, and the
 * same when the request is cut anywhere.
 */

function read(parameter: EncodedParameter, cut = Number.POSITIVE_INFINITY): Parameter {
  const bytes = call('dbo.p', [
    { name: '@v', ...parameter },
    { name: '@after', ...int(7) },
  ]);
  const reader = new CallReader({ wide: true, collated: true, parameters: true });
  const at = Math.min(cut, bytes.length);
  reader.feed(bytes, 0, at);
  reader.feed(bytes, at, bytes.length);
  reader.end();
  expect(reader.lost).toBe(false);
  const [value, after] = reader.calls[0]!.parameters;
  expect(after!.value).toEqual({ name: '@after', type: 'int', value: 7 });
  return value!.value!;
}

function typed(type: readonly number[] | Uint8Array, value: Uint8Array): EncodedParameter {
  return { type: Uint8Array.from(type), value };
}

/** A one-byte length and the bytes; NULL is a zero. */
function sized(bytes: Uint8Array | null): Buffer {
  return bytes === null ? Buffer.from([0]) : Buffer.concat([Buffer.from([bytes.length]), bytes]);
}

function integer(value: bigint, bytes: number): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeBigInt64LE(value);
  return buffer.subarray(0, bytes);
}

function magnitude(value: bigint, bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at++) buffer[at] = Number((value >> BigInt(at * 8)) & 0xffn);
  return buffer;
}

const LATIN = [0x09, 0x04, 0xd0, 0x00, 0x34];
const UTF8 = [0x09, 0x04, 0xd0, 0x04, 0x00];
const JAPANESE = [0x11, 0x04, 0xd0, 0x00, 0x00];

describe('values', () => {
  it.each([
    ['tinyint', 1, 0, 255],
    ['smallint', 2, -32_768, 32_767],
    ['int', 4, -2_147_483_648, 2_147_483_647],
  ])('%s', (type, bytes, min, max) => {
    fc.assert(
      fc.property(fc.integer({ min, max }), (value) => {
        const encoded = typed([0x26, bytes], sized(integer(BigInt(value), bytes)));
        expect(read(encoded)).toEqual({ name: '@v', type, value });
      }),
      { numRuns: 50 },
    );
  });

  it('bigint keeps every digit', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (value) => {
        const found = read(typed([0x26, 8], sized(integer(value, 8)))).value;
        expect(BigInt(found as string | number)).toBe(value);
        expect(typeof found).toBe(Number.isSafeInteger(Number(value)) ? 'number' : 'string');
      }),
    );
  });

  it('decimal keeps every digit at every scale', () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: -(10n ** 38n) + 1n, max: 10n ** 38n - 1n }),
        fc.integer({ min: 0, max: 38 }),
        (value, scale) => {
          const sign = Buffer.from([value < 0n ? 0 : 1]);
          const bytes = Buffer.concat([sign, magnitude(value < 0n ? -value : value, 16)]);
          const found = read(typed([0x6a, 17, 38, scale], sized(bytes)));
          expect(found.type).toBe(`decimal(38,${scale})`);
          const [whole, fraction = ''] = String(found.value).split('.');
          expect(fraction).toHaveLength(scale);
          expect(BigInt(`${whole}${fraction}`.replace(/^-/, '')) * (value < 0n ? -1n : 1n)).toBe(value);
        },
      ),
    );
    expect(read(typed([0x6c, 5, 10, 2], sized(Buffer.from('0019000000', 'hex')))).value).toBe('-0.25');
  });

  it('money and smallmoney', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (value) => {
        const bytes = Buffer.concat([integer(value >> 32n, 4), integer(value, 4)]);
        const found = String(read(typed([0x6e, 8], sized(bytes))).value);
        expect(BigInt(found.replace('.', ''))).toBe(value);
        expect(found).toMatch(/^-?\d+\.\d{4}$/);
      }),
    );
    expect(read(typed([0x6e, 4], sized(integer(-15_000n, 4))))).toMatchObject({
      type: 'smallmoney',
      value: '-1.5000',
    });
  });

  it('float and real, with no more digits than they have', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (drawn) => {
        const value = drawn + 0;
        const bytes = Buffer.alloc(8);
        bytes.writeDoubleLE(value);
        expect(read(typed([0x6d, 8], sized(bytes))).value).toBe(value);
      }),
    );
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (drawn) => {
        const value = drawn + 0;
        const bytes = Buffer.alloc(4);
        bytes.writeFloatLE(value);
        expect(Math.fround(read(typed([0x6d, 4], sized(bytes))).value as number)).toBe(value);
      }),
    );
    const bytes = Buffer.alloc(4);
    bytes.writeFloatLE(1.1);
    expect(read(typed([0x6d, 4], sized(bytes)))).toMatchObject({ type: 'real', value: 1.1 });
  });

  it('dates and times at every scale', () => {
    const days = (value: Date): number =>
      Math.round((value.getTime() - Date.UTC(1, 0, 1) - OFFSET) / 86_400_000);
    const OFFSET = new Date(0).setUTCFullYear(1, 0, 1) - Date.UTC(1, 0, 1);
    const date = fc.date({
      min: new Date('0001-01-01T00:00:00Z'),
      max: new Date('9999-12-31T00:00:00Z'),
      noInvalidDate: true,
    });
    fc.assert(
      fc.property(
        date,
        fc.integer({ min: 0, max: 7 }),
        fc.integer({ min: 0, max: 86_399 }),
        fc.nat(),
        (value, scale, second, part) => {
          const iso = value.toISOString().slice(0, 10);
          const day = magnitude(BigInt(days(new Date(iso))), 3);
          expect(read(typed([0x28], sized(day)))).toMatchObject({ type: 'date', value: iso });
          const fraction = part % 10 ** scale;
          const width = scale < 3 ? 3 : scale < 5 ? 4 : 5;
          const time = magnitude(BigInt(second) * BigInt(10 ** scale) + BigInt(fraction), width);
          const clock = new Date(second * 1000).toISOString().slice(11, 19);
          const shown = scale === 0 ? clock : `${clock}.${String(fraction).padStart(scale, '0')}`;
          expect(read(typed([0x29, scale], sized(time)))).toMatchObject({
            type: `time(${scale})`,
            value: shown,
          });
          const both = read(typed([0x2a, scale], sized(Buffer.concat([time, day]))));
          expect(both).toMatchObject({ type: `datetime2(${scale})`, value: `${iso}T${shown}` });
        },
      ),
    );
  });

  it('datetimeoffset is shown in its own time zone', () => {
    // 2024-02-29 23:30:00 UTC is the first of March at +02:00.
    const time = magnitude(84_600n * 10n ** 7n, 5);
    const day = magnitude(738_944n, 3);
    const at = (minutes: number): unknown =>
      read(typed([0x2b, 7], sized(Buffer.concat([time, day, integer(BigInt(minutes), 2)])))).value;
    expect(at(120)).toBe('2024-03-01T01:30:00.0000000+02:00');
    expect(at(-330)).toBe('2024-02-29T18:00:00.0000000-05:30');
    expect(at(0)).toBe('2024-02-29T23:30:00.0000000+00:00');
  });

  it('datetime and smalldatetime', () => {
    const datetime = Buffer.concat([integer(45_349n, 4), integer(14_296_703n, 4)]);
    expect(read(typed([0x6f, 8], sized(datetime)))).toEqual({
      name: '@v',
      type: 'datetime',
      value: '2024-02-29T13:14:15.677',
    });
    const early = Buffer.concat([integer(-53_690n, 4), integer(0n, 4)]);
    expect(read(typed([0x6f, 8], sized(early))).value).toBe('1753-01-01T00:00:00.000');
    const small = Buffer.concat([integer(45_349n, 2), integer(794n, 2)]);
    expect(read(typed([0x6f, 4], sized(small))).value).toBe('2024-02-29T13:14:00');
  });

  it('bit, uniqueidentifier and the types of fixed length', () => {
    expect(read(typed([0x68, 1], sized(Buffer.from([1])))).value).toBe(true);
    expect(read(typed([0x68, 1], sized(Buffer.from([0])))).value).toBe(false);
    const guid = Buffer.from('ff19966f868b11d0b42d00c04fc964ff', 'hex');
    expect(read(typed([0x24, 16], sized(guid)))).toMatchObject({
      type: 'uniqueidentifier',
      value: '6F9619FF-8B86-D011-B42D-00C04FC964FF',
    });
    expect(read(typed([0x30], Buffer.from([200])))).toMatchObject({ type: 'tinyint', value: 200 });
    expect(read(typed([0x7f], integer(-5n, 8)))).toMatchObject({ type: 'bigint', value: -5 });
    expect(read(typed([0x32], Buffer.from([1])))).toMatchObject({ type: 'bit', value: true });
    expect(read(typed([0x7a], integer(15_000n, 4)))).toMatchObject({ type: 'smallmoney', value: '1.5000' });
    expect(read(typed([0x1f], Buffer.alloc(0)))).toMatchObject({ type: 'null', value: null });
  });

  it('Unicode text in every length class, cut anywhere', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary', maxLength: 60 }),
        fc.integer({ min: 1, max: 40 }),
        fc.boolean(),
        fc.nat(400),
        (text, chunkBytes, known, cut) => {
          expect(read(nvarchar(text), cut)).toEqual({ name: '@v', type: 'nvarchar(4000)', value: text });
          expect(read(nvarcharMax(text, chunkBytes, known), cut)).toEqual({
            name: '@v',
            type: 'nvarchar(max)',
            value: text,
          });
          const long = typed(
            [0x63, 0xff, 0xff, 0xff, 0x7f, ...LATIN],
            withLongLength(Buffer.from(text, 'utf16le')),
          );
          expect(read(long, cut)).toEqual({ name: '@v', type: 'ntext', value: text });
        },
      ),
    );
  });

  it('text in the code page of its collation', () => {
    const char = (collation: number[], bytes: Buffer): unknown =>
      read(typed([0xa7, 0x40, 0x1f, ...collation], counted(bytes))).value;
    expect(char(LATIN, Buffer.from([0x68, 0xe9, 0x80]))).toBe('hé€');
    expect(char(UTF8, Buffer.from('hé☃😀'))).toBe('hé☃😀');
    expect(char(JAPANESE, Buffer.from([0x93, 0xfa, 0x96, 0x7b]))).toBe('日本');
    expect(read(typed([0x23, 0, 0, 0, 0x7f, ...LATIN], withLongLength(Buffer.from([0xe9]))))).toMatchObject({
      type: 'text',
      value: 'é',
    });
  });

  it('binary as hexadecimal', () => {
    const bytes = Buffer.from('00ff10', 'hex');
    expect(read(typed([0xa5, 20, 0], counted(bytes)))).toMatchObject({
      type: 'varbinary(20)',
      value: '0x00ff10',
    });
    expect(read(typed([0xad, 3, 0], counted(bytes)))).toMatchObject({ type: 'binary(3)', value: '0x00ff10' });
    expect(read(typed([0x22, 0, 0, 0, 0x7f], withLongLength(bytes)))).toMatchObject({
      type: 'image',
      value: '0x00ff10',
    });
    expect(read(varbinaryMax(bytes))).toMatchObject({ type: 'varbinary(max)', value: '0x00ff10' });
  });

  it('xml, json, udt', () => {
    const xml = Buffer.from('\ufeff<a b="ü"/>', 'utf16le');
    expect(read(typed([0xf1, 0], chunked(xml, 7, false)))).toMatchObject({
      type: 'xml',
      value: '<a b="ü"/>',
    });
    const schema = new Writer()
      .uint8(0xf1)
      .uint8(1)
      .uint8(1)
      .text('d', 'utf16le')
      .uint8(1)
      .text('s', 'utf16le');
    schema.uint16le(2).text('xc', 'utf16le');
    expect(read({ type: schema.take(), value: chunked(xml, 100, true) })).toMatchObject({
      value: '<a b="ü"/>',
    });
    expect(read(typed([0xf4], chunked(Buffer.from('{"a":"☃"}'), 5, true)))).toMatchObject({
      type: 'json',
      value: '{"a":"☃"}',
    });
    const udt = new Writer()
      .uint8(0xf0)
      .uint8(0)
      .uint8(3)
      .text('sys', 'utf16le')
      .uint8(9)
      .text('geography', 'utf16le');
    expect(read({ type: udt.take(), value: chunked(Buffer.from([1, 2]), 9, true) })).toMatchObject({
      type: 'sys.geography',
      value: '0x0102',
    });
  });

  it('vector as its elements', () => {
    const vector = Buffer.alloc(8 + 12);
    vector.set([0xa9, 1, 3, 0, 0]);
    for (const [index, value] of [1, 0.1, -2.5].entries()) vector.writeFloatLE(value, 8 + index * 4);
    expect(read(typed([0xf5, 20, 0, 0], counted(vector)))).toMatchObject({
      type: 'vector(3)',
      value: '[1,0.1,-2.5]',
    });
    const half = Buffer.from([0xa9, 1, 2, 0, 1, 0, 0, 0, 0x00, 0x3c, 0x00, 0xc0]);
    expect(read(typed([0xf5, 12, 0, 1], counted(half)))).toMatchObject({
      type: 'vector(2)',
      value: '[1,-2]',
    });
  });

  it('sql_variant as its base type', () => {
    const variant = (bytes: number[]): unknown =>
      read(typed([0x62, 0x48, 0x1f, 0, 0], withLongLength(Buffer.from(bytes)))).value;
    expect(variant([0x38, 0, 0x2a, 0, 0, 0])).toBe(42);
    expect(variant([0xe7, 7, ...LATIN, 0x40, 0x1f, 0x68, 0, 0xe9, 0])).toBe('hé');
    expect(variant([0xa7, 7, ...UTF8, 0x40, 0x1f, 0xc3, 0xa9])).toBe('é');
    expect(variant([0x6a, 2, 10, 2, 1, 0x19, 0, 0, 0])).toBe('0.25');
    expect(variant([0x28, 0, 0x80, 0x46, 0x0b])).toBe('2024-02-29');
    expect(variant([0xa5, 2, 10, 0, 0xbe, 0xef])).toBe('0xbeef');
    expect(read(typed([0x62, 0x48, 0x1f, 0, 0], withLongLength(Buffer.alloc(0)))).value).toBeNull();
  });

  it('NULL of every type', () => {
    const nulls: [string, EncodedParameter][] = [
      ['int', typed([0x26, 4], sized(null))],
      ['bit', typed([0x68, 1], sized(null))],
      ['float', typed([0x6d, 8], sized(null))],
      ['money', typed([0x6e, 8], sized(null))],
      ['datetime', typed([0x6f, 8], sized(null))],
      ['decimal(18,4)', typed([0x6a, 17, 18, 4], sized(null))],
      ['uniqueidentifier', typed([0x24, 16], sized(null))],
      ['date', typed([0x28], sized(null))],
      ['time(7)', typed([0x29, 7], sized(null))],
      ['datetime2(3)', typed([0x2a, 3], sized(null))],
      ['datetimeoffset(7)', typed([0x2b, 7], sized(null))],
      ['varchar(30)', typed([0xa7, 30, 0, ...LATIN], counted(null))],
      ['char(30)', typed([0xaf, 30, 0, ...LATIN], counted(null))],
      ['nvarchar(15)', typed([0xe7, 30, 0, ...LATIN], counted(null))],
      ['nchar(15)', typed([0xef, 30, 0, ...LATIN], counted(null))],
      ['nvarchar(max)', typed([0xe7, 0xff, 0xff, ...LATIN], chunked(null, 1, true))],
      ['varchar(max)', typed([0xa7, 0xff, 0xff, ...LATIN], chunked(null, 1, true))],
      ['varbinary(20)', typed([0xa5, 20, 0], counted(null))],
      ['varbinary(max)', typed([0xa5, 0xff, 0xff], chunked(null, 1, true))],
      ['xml', typed([0xf1, 0], chunked(null, 1, true))],
      ['json', typed([0xf4], chunked(null, 1, true))],
      ['vector(3)', typed([0xf5, 20, 0, 0], counted(null))],
      ['text', typed([0x23, 0, 0, 0, 0x7f, ...LATIN], Buffer.alloc(4, 0xff))],
      ['ntext', typed([0x63, 0, 0, 0, 0x7f, ...LATIN], Buffer.alloc(4, 0xff))],
      ['image', typed([0x22, 0, 0, 0, 0x7f], Buffer.alloc(4, 0xff))],
      ['sql_variant', typed([0x62, 0x48, 0x1f, 0, 0], Buffer.alloc(4))],
    ];
    for (const [type, encoded] of nulls) {
      for (let cut = 0; cut < 40; cut++)
        expect(read(encoded, cut)).toEqual({ name: '@v', type, value: null });
    }
  });

  it('an empty text is not NULL', () => {
    expect(read(nvarchar('')).value).toBe('');
    expect(read(nvarcharMax('', 10, true)).value).toBe('');
    expect(read(nvarcharMax('', 10, false)).value).toBe('');
  });

  it('keeps the beginning of a long value, its length and its digest', () => {
    const text = 'a☃'.repeat(5000);
    const bytes = Buffer.from(text, 'utf16le');
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    for (const cut of [30, 4000, 4200, 19_000]) {
      const found = read(nvarcharMax(text, 1999, true), cut);
      expect(found).toMatchObject({
        type: 'nvarchar(max)',
        value: text.slice(0, 2048),
        bytes: 20_000,
        sha256,
      });
    }
    expect(read(varbinaryMax(Buffer.alloc(5000, 0xab), 512))).toMatchObject({
      value: `0x${'ab'.repeat(4096)}`,
      bytes: 5000,
    });
  });
});

function withLongLength(bytes: Uint8Array): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return Buffer.concat([length, bytes]);
}
