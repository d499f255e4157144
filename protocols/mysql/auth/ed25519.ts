import { createHash } from 'node:crypto';

/**
 * MariaDB's `client_ed25519`: an Ed25519 signature (RFC 8032, section 5.1) over the server's 32-byte nonce, in which the
 * password stands in the place of the 32-byte private key. It may be of any length, so that no library's signing
 * function fits; the point arithmetic is here. It is not constant in time, as no arithmetic of big integers in JavaScript
 * is.
 */
export const ED25519 = 'client_ed25519';

export const ED25519_NONCE_BYTES = 32;
export const ED25519_REPLY_BYTES = 64;

/** R || s over `nonce`, signed with the password's key. */
export function ed25519Reply(password: Buffer, nonce: Buffer): Buffer {
  const { scalar, prefix } = expand(password);
  const publicKey = encode(multiply(scalar));
  const r = integer(sha512(prefix, nonce)) % ORDER;
  const R = encode(multiply(r));
  const k = integer(sha512(R, publicKey, nonce)) % ORDER;
  prefix.fill(0);
  return Buffer.concat([R, littleEndian((r + k * scalar) % ORDER)]);
}

/** The public key that MariaDB stores for a password (there in base64 without padding). 32 bytes. */
export function ed25519PublicKey(password: Buffer): Buffer {
  const { scalar, prefix } = expand(password);
  prefix.fill(0);
  return encode(multiply(scalar));
}

function expand(password: Buffer): { scalar: bigint; prefix: Buffer } {
  const digest = sha512(password);
  digest[0]! &= 0xf8;
  digest[31] = (digest[31]! & 0x3f) | 0x40;
  const scalar = integer(digest.subarray(0, 32));
  digest.fill(0, 0, 32);
  return { scalar, prefix: digest.subarray(32) };
}

// edwards25519: -x² + y² = 1 + d·x²·y² over the field of P; extended coordinates (X : Y : Z : T), x = X/Z, y = Y/Z,
// x·y = T/Z. Constants and formulas: RFC 8032, sections 5.1 and 5.1.4.

const P = 2n ** 255n - 19n;
const ORDER = 2n ** 252n + 27742317777372353535851937790883648493n;
/** Twice the curve's d. */
const D2 = modulo(-2n * 121665n * power(121666n, P - 2n));

interface Point {
  readonly x: bigint;
  readonly y: bigint;
  readonly z: bigint;
  readonly t: bigint;
}

const IDENTITY: Point = { x: 0n, y: 1n, z: 1n, t: 0n };
const BASE: Point = basePoint();

function basePoint(): Point {
  const x = 15112221349535400772501151409588531511454012693041857206046113283949847762202n;
  const y = 46316835694926478169428394003475163141307993866256225615783033603165251855960n;
  return { x, y, z: 1n, t: modulo(x * y) };
}

/** Bits of a scalar that one addition takes care of. */
const WINDOW_BITS = 4;
const WINDOWS = 256 / WINDOW_BITS;

/** For each window the multiples 0…15 of the base point times what the window counts. Made at the first use. */
let multiples: readonly (readonly Point[])[] | null = null;

function makeMultiples(): readonly (readonly Point[])[] {
  const windows: Point[][] = [];
  let step = BASE;
  for (let window = 0; window < WINDOWS; window += 1) {
    const row = [IDENTITY];
    for (let digit = 1; digit < 1 << WINDOW_BITS; digit += 1) row.push(add(row[digit - 1]!, step));
    windows.push(row);
    step = add(row.at(-1)!, step);
  }
  return windows;
}

/** `scalar`, below 2²⁵⁶, times the base point: one addition a window, also of nothing. */
function multiply(scalar: bigint): Point {
  multiples ??= makeMultiples();
  const bytes = littleEndian(scalar);
  let result = IDENTITY;
  for (let index = 0; index < bytes.length; index += 1) {
    const byte = bytes[index]!;
    result = add(result, multiples[2 * index]![byte & 0x0f]!);
    result = add(result, multiples[2 * index + 1]![byte >> WINDOW_BITS]!);
  }
  bytes.fill(0);
  return result;
}

function add(left: Point, right: Point): Point {
  const a = modulo((left.y - left.x) * (right.y - right.x));
  const b = modulo((left.y + left.x) * (right.y + right.x));
  const c = modulo(modulo(left.t * right.t) * D2);
  const d = modulo(2n * left.z * right.z);
  return completed(b - a, d - c, d + c, b + a);
}

function completed(e: bigint, f: bigint, g: bigint, h: bigint): Point {
  return { x: modulo(e * f), y: modulo(g * h), z: modulo(f * g), t: modulo(e * h) };
}

/** y in little-endian, the lowest bit of x in the highest bit. */
function encode(point: Point): Buffer {
  const inverse = power(point.z, P - 2n);
  const x = modulo(point.x * inverse);
  const y = modulo(point.y * inverse);
  return littleEndian(y | ((x & 1n) << 255n));
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n;
  let square = modulo(base);
  for (let rest = exponent; rest > 0n; rest >>= 1n) {
    if (rest & 1n) result = modulo(result * square);
    square = modulo(square * square);
  }
  return result;
}

function modulo(value: bigint): bigint {
  const rest = value % P;
  return rest < 0n ? rest + P : rest;
}

function integer(bytes: Buffer): bigint {
  return BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`);
}

function littleEndian(value: bigint): Buffer {
  return Buffer.from(value.toString(16).padStart(64, '0'), 'hex').reverse();
}

function sha512(...parts: readonly Buffer[]): Buffer {
  const hash = createHash('sha512');
  for (const part of parts) hash.update(part);
  return hash.digest();
}
