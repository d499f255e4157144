import { pino } from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { VaultLease } from './vault-lease.ts';

beforeEach(() => {
  vi.useFakeTimers({ now: 0 });
});
afterEach(() => {
  vi.useRealTimers();
});

/** A lease of `seconds` whose renewals are answered by `renew`; `at` are the seconds at which they were asked for. */
function leaseOf(
  seconds: number,
  renew: () => number,
  renewable = true,
): { lease: VaultLease; at: number[]; revoked: () => number } {
  const at: number[] = [];
  let revoked = 0;
  const lease = new VaultLease('the account of a test', seconds, renewable, {
    log: pino({ level: 'silent' }),
    now: Date.now,
    renew: async () => {
      at.push(Date.now() / 1000);
      return renew();
    },
    revoke: async () => {
      revoked += 1;
    },
  });
  return { lease, at, revoked: () => revoked };
}

test('is renewed when two thirds of its time have passed', async () => {
  const { lease, at } = leaseOf(60, () => 60);
  await vi.advanceTimersByTimeAsync(100_000);
  expect(at).toEqual([40, 80]);
  expect(lease.expiresAt).toBe(140_000);
  lease.stop();
});

test('is renewed no more once it is revoked, which happens once', async () => {
  const { lease, at, revoked } = leaseOf(60, () => 60);
  await lease.revoke();
  await lease.revoke();
  await vi.advanceTimersByTimeAsync(100_000);
  expect([at, revoked()]).toEqual([[], 1]);
});

test('a renewal that fails is tried again while there is time', async () => {
  let answers = 0;
  const { lease, at } = leaseOf(60, () => {
    answers += 1;
    if (answers < 3) throw new Error('not now');
    return 60;
  });
  await vi.advanceTimersByTimeAsync(52_000);
  expect(at.map(Math.round)).toEqual([40, 47, 51]);
  expect(lease.lost.aborted).toBe(false);
  lease.stop();
});

test('one that is renewed no more is lost at its end', async () => {
  const { lease } = leaseOf(60, () => {
    throw new Error('lease not found');
  });
  await vi.advanceTimersByTimeAsync(59_000);
  expect(lease.lost.aborted).toBe(false);
  await vi.advanceTimersByTimeAsync(2_000);
  expect(lease.lost.aborted).toBe(true);
  expect(vi.getTimerCount()).toBe(0);
});

test('one that comes to its longest time asks no faster than twice a second', async () => {
  const end = 120;
  const { lease, at } = leaseOf(60, () => Math.min(60, end - Date.now() / 1000));
  await vi.advanceTimersByTimeAsync(end * 1000);
  expect(at.length).toBeLessThan(20);
  lease.stop();
});

test('one without an end is left alone', async () => {
  const { lease, at } = leaseOf(0, () => 0);
  await vi.advanceTimersByTimeAsync(100_000);
  expect([at, lease.lost.aborted, lease.expiresAt]).toEqual([[], false, null]);
});

test('one that cannot be renewed is lost at its end', async () => {
  const { lease, at } = leaseOf(60, () => 60, false);
  await vi.advanceTimersByTimeAsync(59_000);
  expect(lease.lost.aborted).toBe(false);
  await vi.advanceTimersByTimeAsync(2_000);
  expect([at, lease.lost.aborted]).toEqual([[], true]);
});

test('a lease of years does not overflow the timer', async () => {
  const { lease, at } = leaseOf(10 * 365 * 86_400, () => 60);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(at).toEqual([]);
  lease.stop();
});
