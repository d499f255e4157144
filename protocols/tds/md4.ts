/**
 * MD4 (RFC 1320), which NTLM needs for its password hash and which OpenSSL 3 no longer offers. Takes any bytes, returns
 * the 16-byte digest. Not for anything but NTLM: it is broken as a hash.
 */
export function md4(message: Buffer): Buffer {
  const length = message.length;
  const padded = Buffer.alloc(((length + 8) >>> 6) * 64 + 64);
  message.copy(padded);
  padded[length] = 0x80;
  padded.writeBigUInt64LE(BigInt(length) * 8n, padded.length - 8);
  const state = new Uint32Array([0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476]);
  const words = new Uint32Array(16);
  for (let block = 0; block < padded.length; block += 64) {
    for (let index = 0; index < 16; index += 1) words[index] = padded.readUInt32LE(block + index * 4);
    compress(state, words);
  }
  padded.fill(0);
  words.fill(0);
  const digest = Buffer.alloc(16);
  for (let index = 0; index < 4; index += 1) digest.writeUInt32LE(state[index]!, index * 4);
  return digest;
}

/** Per round: the order of the words, the shifts and the constant (RFC 1320, section 3.4). */
const ROUNDS = [
  { order: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], shifts: [3, 7, 11, 19], constant: 0 },
  {
    order: [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15],
    shifts: [3, 5, 9, 13],
    constant: 0x5a827999,
  },
  {
    order: [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15],
    shifts: [3, 9, 11, 15],
    constant: 0x6ed9eba1,
  },
] as const;

function compress(state: Uint32Array, words: Uint32Array): void {
  let [a, b, c, d] = state as unknown as [number, number, number, number];
  for (let round = 0; round < 3; round += 1) {
    const { order, shifts, constant } = ROUNDS[round]!;
    for (let step = 0; step < 16; step += 1) {
      const sum = (a + mix(round, b, c, d) + words[order[step]!]! + constant) >>> 0;
      const shift = shifts[step & 3]!;
      [a, b, c, d] = [d, ((sum << shift) | (sum >>> (32 - shift))) >>> 0, b, c];
    }
  }
  state[0] = state[0]! + a;
  state[1] = state[1]! + b;
  state[2] = state[2]! + c;
  state[3] = state[3]! + d;
}

function mix(round: number, x: number, y: number, z: number): number {
  if (round === 0) return (x & y) | (~x & z);
  if (round === 1) return (x & y) | (x & z) | (y & z);
  return x ^ y ^ z;
}
