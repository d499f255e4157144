/** MD4 by the letter of RFC 1320, for the test double's check of NTLM: written apart from the engine's. */
export function md4(input: Buffer): Buffer {
  const rotate = (value: number, count: number): number =>
    ((value << count) | (value >>> (32 - count))) >>> 0;
  const tail = Buffer.alloc(((119 - (input.length % 64)) % 64) + 9);
  tail[0] = 0x80;
  tail.writeUInt32LE((input.length * 8) >>> 0, tail.length - 8);
  tail.writeUInt32LE(Math.floor(input.length / 0x2000_0000), tail.length - 4);
  const bytes = Buffer.concat([input, tail]);
  let [A, B, C, D] = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476];
  const orders = [
    [...Array(16).keys()],
    [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15],
    [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15],
  ];
  const shifts = [
    [3, 7, 11, 19],
    [3, 5, 9, 13],
    [3, 9, 11, 15],
  ];
  for (let at = 0; at < bytes.length; at += 64) {
    let [a, b, c, d] = [A, B, C, D];
    for (let round = 0; round < 3; round += 1) {
      for (let step = 0; step < 16; step += 1) {
        const f = round === 0 ? (b & c) | (~b & d) : round === 1 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        const k = [0, 0x5a827999, 0x6ed9eba1][round]!;
        const x = bytes.readUInt32LE(at + orders[round]![step]! * 4);
        const next = rotate((a + (f >>> 0) + x + k) >>> 0, shifts[round]![step % 4]!);
        [a, b, c, d] = [d, next, b, c];
      }
    }
    A = (A + a) >>> 0;
    B = (B + b) >>> 0;
    C = (C + c) >>> 0;
    D = (D + d) >>> 0;
  }
  const digest = Buffer.alloc(16);
  [A, B, C, D].forEach((word, index) => {
    digest.writeUInt32LE(word, index * 4);
  });
  return digest;
}
