import { isIPv6 } from 'node:net';

/** Wrong proofs within a window, after which a source has to wait. Ours. */
const WRONG_MAX = 10;
const WINDOW_MS = 60_000;
/** Sources that are counted at once; the oldest is forgotten for the next. Ours. */
const SOURCES_MAX = 10_000;

interface Count {
  wrong: number;
  since: number;
}

/** Counts wrong proofs by source (an address, a launch, an account), so that guessing is slow. */
export class Guesses {
  readonly #counts = new Map<string, Count>();
  readonly #now: () => number;
  readonly #wrongMax: number;

  constructor(now: () => number, wrongMax = WRONG_MAX) {
    this.#now = now;
    this.#wrongMax = wrongMax;
  }

  /** Whether `source` must wait before it may try again. */
  isLimited(source: string): boolean {
    const count = this.#counts.get(source);
    if (count === undefined) return false;
    if (this.#now() - count.since > WINDOW_MS) {
      this.#counts.delete(source);
      return false;
    }
    return count.wrong >= this.#wrongMax;
  }

  /** Counts one; true when it is the one that makes the source wait. */
  wrong(source: string): boolean {
    const count = this.#counts.get(source);
    if (count !== undefined && this.#now() - count.since <= WINDOW_MS) {
      count.wrong += 1;
      return count.wrong === this.#wrongMax;
    }
    this.#counts.delete(source);
    if (this.#counts.size >= SOURCES_MAX) this.#counts.delete(this.#counts.keys().next().value as string);
    this.#counts.set(source, { wrong: 1, since: this.#now() });
    return this.#wrongMax === 1;
  }

  /** Takes back one that was counted ahead of its proof, which then was right. */
  refund(source: string): void {
    const count = this.#counts.get(source);
    if (count !== undefined && count.wrong > 0) count.wrong -= 1;
  }

  right(source: string): void {
    this.#counts.delete(source);
  }
}

/** A proof that was right lets its source pass the limits of what it proved for this long. Ours. */
const FAMILIAR_MS_MAX = 24 * 3_600_000;

/**
 * Remembers from which addresses something was proven rightly: a stranger who guesses at a launch or an account from
 * elsewhere must not keep its owner out.
 */
export class Familiar {
  readonly #provenAt = new Map<string, number>();
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  has(what: string, address: string): boolean {
    const at = this.#provenAt.get(`${what}\0${address}`);
    return at !== undefined && this.#now() - at <= FAMILIAR_MS_MAX;
  }

  add(what: string, address: string): void {
    const key = `${what}\0${address}`;
    this.#provenAt.delete(key);
    if (this.#provenAt.size >= SOURCES_MAX)
      this.#provenAt.delete(this.#provenAt.keys().next().value as string);
    this.#provenAt.set(key, this.#now());
  }
}

/**
 * What addresses are counted by: an IPv4 address, or the /64 of an IPv6 address, all of which one machine has (RFC 4291,
 * 2.5.4). What is no address stays as it is.
 */
export function networkOf(address: string): string {
  if (!isIPv6(address)) return address;
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  const [head = '', tail] = address.split('%')[0]!.split('::');
  const left = head === '' ? [] : head.split(':');
  // A dotted tail stands for two groups, which are beyond the first four in every address that has one.
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const length = 8 + (right.at(-1)?.includes('.') ? -1 : 0);
  const groups =
    tail === undefined
      ? left
      : [...left, ...Array(Math.max(0, length - left.length - right.length)).fill('0'), ...right];
  return `${groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':')}::/64`;
}
