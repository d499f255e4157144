import { createHash, createHmac, pbkdf2Sync } from 'node:crypto';
import { expect, test } from 'vitest';
import {
  impossibleVerifier,
  launchIdIn,
  newLaunchId,
  newToken,
  tokenVerifier,
  verifierOf,
} from './tokens.ts';

test('a verifier knows its token by each protocol’s proof, and no other', () => {
  const token = newToken();
  const verifier = tokenVerifier(verifierOf(token));
  expect(verifier.matches(Buffer.from(token))).toBe(true);
  expect(verifier.matches(Buffer.from(newToken()))).toBe(false);
  const { salt, iterations, storedKey } = verifier.scram;
  const clientKey = createHmac('sha256', pbkdf2Sync(token, salt, iterations, 32, 'sha256'))
    .update('Client Key')
    .digest();
  expect(createHash('sha256').update(clientKey).digest()).toEqual(storedKey);
  const sha1 = (data: string | Buffer) => createHash('sha1').update(data).digest();
  expect(verifier.nativeHash).toEqual(sha1(sha1(token)));
});

test('nothing satisfies the verifier of somebody who does not exist, and it is always the same', () => {
  const key = Buffer.alloc(32, 7);
  const verifier = impossibleVerifier(key, 'nobody');
  expect(verifier.matches(Buffer.from(newToken()))).toBe(false);
  expect(impossibleVerifier(key, 'nobody').scram).toEqual(verifier.scram);
  expect(impossibleVerifier(key, 'somebody').scram.salt).not.toEqual(verifier.scram.salt);
});

test('the launch is found in what people type as user name', () => {
  const id = newLaunchId();
  expect(launchIdIn(id)).toBe(id);
  expect(launchIdIn(id.toUpperCase())).toBe(id);
  expect(launchIdIn(`ada+${id}`)).toBe(id);
  expect(launchIdIn(`ada@${id}`)).toBe(id);
  expect(launchIdIn('postgres')).toBeNull();
  expect(launchIdIn('')).toBeNull();
});

test('tokens are long enough, all different, and safe to type', () => {
  const tokens = new Set(Array.from({ length: 1000 }, newToken));
  expect(tokens.size).toBe(1000);
  for (const token of tokens) expect(token).toMatch(/^slp_[a-z0-9]{26}$/);
});
