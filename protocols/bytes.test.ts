import { describe, expect, it } from 'vitest';
import { Writer } from './bytes.ts';

describe('Writer', () => {
  it('writes every kind of field right where it has to grow for it', () => {
    const write: [string, number, (writer: Writer) => Writer][] = [
      ['07', 1, (writer) => writer.uint8(7)],
      ['0102', 2, (writer) => writer.uint16be(0x102)],
      ['0201', 2, (writer) => writer.uint16le(0x102)],
      ['030201', 3, (writer) => writer.uint24le(0x10203)],
      ['fffffffe', 4, (writer) => writer.int32be(-2)],
      ['01020304', 4, (writer) => writer.uint32be(0x1020304)],
      ['04030201', 4, (writer) => writer.uint32le(0x1020304)],
      ['0807060504030201', 8, (writer) => writer.uint64le(0x102030405060708n)],
      ['6162', 2, (writer) => writer.append(Buffer.from('ab'))],
      ['616200', 3, (writer) => writer.cstring('ab')],
      ['0000', 2, (writer) => writer.zeros(2)],
    ];
    for (const [hex, length, act] of write) {
      for (let capacity = 1; capacity <= length; capacity++) {
        const writer = new Writer(capacity).uint8(0xee);
        expect(act(writer).take().toString('hex')).toBe(`ee${hex}`);
      }
    }
  });

  it('starts anew after its bytes were taken', () => {
    const writer = new Writer(2);
    const first = writer.append(Buffer.alloc(300, 1)).take();
    expect(writer.uint8(2).take()).toEqual(Buffer.from([2]));
    expect(first).toEqual(Buffer.alloc(300, 1));
  });
});
