/** Length of the random bytes that passwords are mixed with in all plugins but MariaDB's newer two. */
export const SCRAMBLE_BYTES = 20;

const DOLLAR = 0x24;

/**
 * Makes a scramble from as many random bytes. Clients handle it as a C string, so no byte is 0 or above 127; a `$` is
 * left out too, as the servers leave it out.
 */
export function scrambleFrom(random: Buffer): Buffer {
  const scramble = Buffer.alloc(SCRAMBLE_BYTES);
  for (let index = 0; index < SCRAMBLE_BYTES; index += 1) {
    const byte = 1 + (random[index]! % 126);
    scramble[index] = byte >= DOLLAR ? byte + 1 : byte;
  }
  return scramble;
}

/** The 20 bytes of a scramble that may come with a NUL behind it. */
export function scrambleOf(data: Buffer): Buffer {
  return data.subarray(0, SCRAMBLE_BYTES);
}

/** `left` XOR `right`, the latter repeated; as long as `left`. */
export function xor(left: Buffer, right: Buffer): Buffer {
  const bytes = Buffer.alloc(left.length);
  for (let index = 0; index < left.length; index += 1)
    bytes[index] = left[index]! ^ right[index % right.length]!;
  return bytes;
}
