import { expect, test } from 'vitest';
import { Familiar, Guesses, networkOf } from './guesses.ts';

test('a source waits after ten wrong proofs, for a minute', () => {
  let now = 0;
  const guesses = new Guesses(() => now);
  for (let count = 1; count <= 10; count += 1) {
    expect(guesses.isLimited('a')).toBe(false);
    expect(guesses.wrong('a')).toBe(count === 10);
  }
  expect(guesses.isLimited('a')).toBe(true);
  expect(guesses.isLimited('b')).toBe(false);
  now = 60_001;
  expect(guesses.isLimited('a')).toBe(false);
});

test('a refund takes one back', () => {
  const guesses = new Guesses(() => 0, 2);
  guesses.wrong('a');
  guesses.wrong('a');
  guesses.refund('a');
  expect(guesses.isLimited('a')).toBe(false);
});

test('what was proven is familiar for a day, from there alone', () => {
  let now = 0;
  const familiar = new Familiar(() => now);
  familiar.add('launch x', '192.0.2.1');
  expect(familiar.has('launch x', '192.0.2.1')).toBe(true);
  expect(familiar.has('launch x', '192.0.2.2')).toBe(false);
  expect(familiar.has('launch y', '192.0.2.1')).toBe(false);
  now = 86_400_001;
  expect(familiar.has('launch x', '192.0.2.1')).toBe(false);
});

test.each([
  ['192.0.2.7', '192.0.2.7'],
  ['::ffff:192.0.2.7', '192.0.2.7'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:db8:1:2:ffff::9', '2001:db8:1:2::/64'],
  ['2001:db8::1', '2001:db8:0:0::/64'],
  ['::1', '0:0:0:0::/64'],
  ['fe80::1%eth0', 'fe80:0:0:0::/64'],
  ['64:ff9b::192.0.2.1', '64:ff9b:0:0::/64'],
  ['local', 'local'],
])('%s is counted as %s', (address, network) => {
  expect(networkOf(address)).toBe(network);
});
