import {
  constants,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  privateDecrypt,
  sign,
  verify,
} from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { verifierOf } from '../../../test/support/mysql-peers.ts';
import { ed25519PublicKey, ed25519Reply } from './ed25519.ts';
import { nativeMatches, nativeReply } from './native.ts';
import { parsecReply } from './parsec.ts';
import { scrambleFrom } from './scramble.ts';
import { rsaKey, rsaReply, sha2Matches, sha2Reply } from './sha2.ts';

const hex = (text: string): Buffer => Buffer.from(text, 'hex');
const text = (value: string): Buffer => Buffer.from(value, 'utf8');

const PKCS8 = hex('302e020100300506032b657004220420');
const SPKI = hex('302a300506032b6570032100');

describe('digests', () => {
  test('a reply is accepted with its own password and scramble, and with no other', () => {
    fc.assert(
      fc.property(
        fc.string({ minLength: 1 }),
        fc.string({ minLength: 1 }),
        fc.uint8Array({ minLength: 40, maxLength: 40 }),
        (token, other, random) => {
          const scramble = scrambleFrom(Buffer.from(random.subarray(0, 20)));
          const another = scrambleFrom(Buffer.from(random.subarray(20)));
          const { nativeHash, sha2Hash } = verifierOf(token);
          expect(nativeMatches(nativeHash, scramble, nativeReply(text(token), scramble))).toBe(true);
          expect(sha2Matches(sha2Hash, scramble, sha2Reply(text(token), scramble))).toBe(true);
          expect(nativeMatches(nativeHash, scramble, nativeReply(text(other), scramble))).toBe(
            other === token,
          );
          expect(sha2Matches(sha2Hash, scramble, sha2Reply(text(other), scramble))).toBe(other === token);
          if (!another.equals(scramble)) {
            expect(nativeMatches(nativeHash, another, nativeReply(text(token), scramble))).toBe(false);
            expect(sha2Matches(sha2Hash, another, sha2Reply(text(token), scramble))).toBe(false);
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  test('a reply of another length never matches', () => {
    const { nativeHash, sha2Hash } = verifierOf('token');
    for (let length = 0; length < 40; length += 1) {
      if (length !== 20)
        expect(nativeMatches(nativeHash, Buffer.alloc(20, 1), Buffer.alloc(length))).toBe(false);
      if (length !== 32) expect(sha2Matches(sha2Hash, Buffer.alloc(20, 1), Buffer.alloc(length))).toBe(false);
    }
  });
});

describe('scramble', () => {
  test('has no byte that a client would stumble over', () => {
    for (let byte = 0; byte < 256; byte += 1) {
      const made = scrambleFrom(Buffer.alloc(20, byte));
      expect(made.every((one) => one >= 1 && one <= 127 && one !== 0x24)).toBe(true);
    }
  });
});

describe('client_ed25519', () => {
  test('with a password of 32 bytes is plain Ed25519', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        (seed, nonce) => {
          const key = createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: 'der', type: 'pkcs8' });
          expect(ed25519Reply(Buffer.from(seed), Buffer.from(nonce))).toEqual(sign(null, nonce, key));
        },
      ),
      { numRuns: 10 },
    );
  });

  test('with a password of any length is verified by its public key', () => {
    for (const password of ['', 'x', 'pw-Ed25519!', 'ü'.repeat(200)]) {
      const nonce = Buffer.alloc(32, password.length);
      const key = createPublicKey({
        key: Buffer.concat([SPKI, ed25519PublicKey(text(password))]),
        format: 'der',
        type: 'spki',
      });
      expect(verify(null, nonce, key, ed25519Reply(text(password), nonce))).toBe(true);
    }
  });
});

describe('parsec', () => {
  test('refuses another key derivation and a factor that would cost too much', async () => {
    const salt = Buffer.alloc(18);
    const reply = (head: number[]): Promise<Buffer> =>
      parsecReply(text('pw'), Buffer.alloc(32), Buffer.concat([Buffer.from(head), salt]), Buffer.alloc(32));
    await expect(reply([0x50, 3])).resolves.toHaveLength(96);
    await expect(reply([0x51, 0])).rejects.toMatchObject({ code: 'authentication_unsupported' });
    await expect(reply([0x50, 4])).rejects.toMatchObject({ code: 'authentication_unsupported' });
    await expect(
      parsecReply(text('pw'), Buffer.alloc(32), hex('5000'), Buffer.alloc(32)),
    ).rejects.toMatchObject({ code: 'authentication_unsupported' });
  });
});

describe('RSA', () => {
  const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const pem = publicKey.export({ format: 'pem', type: 'spki' });

  test('the server gets the password and its NUL under the scramble', () => {
    const scramble = Buffer.from('abcdefghijklmnopqrst');
    const encrypted = rsaReply(text('pässword that is longer than it'), scramble, rsaKey(pem, 'server'));
    const mixed = privateDecrypt({ key: privateKey, padding: constants.RSA_PKCS1_OAEP_PADDING }, encrypted);
    const clear = mixed.map((byte, index) => byte ^ scramble[index % 20]!);
    expect(Buffer.from(clear).toString('utf8')).toBe('pässword that is longer than it\0');
  });

  test('a password that the key cannot carry is refused before it is encrypted', () => {
    const scramble = Buffer.alloc(20, 1);
    expect(rsaReply(Buffer.alloc(213, 0x61), scramble, rsaKey(pem, 'server'))).toHaveLength(256);
    expect(() => rsaReply(Buffer.alloc(214, 0x61), scramble, rsaKey(pem, 'server'))).toThrow(/too long/);
  });

  test('what is no RSA key is not used', () => {
    const curve = generateKeyPairSync('ed25519').publicKey.export({ format: 'pem', type: 'spki' });
    for (const bad of [curve, 'garbage', '', Buffer.alloc(4096)]) {
      expect(() => rsaKey(bad, 'server')).toThrow(/public key/);
    }
  });
});
