/** Wrong proofs within a window, after which a source has to wait. */
const WRONG_MAX = 10;
const WINDOW_MS = 60_000;
/** Sources that are counted at once; the oldest is forgotten for the next. */
const SOURCES_MAX = 10_000;

interface Count {
  wrong: number;
  since: number;
}

/** Counts wrong proofs by source (an address, a launch, an account), so that guessing is slow. */
export class Guesses {
  readonly #counts = new Map<string, Count>();
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Whether `source` must wait before it may try again. */
  isLimited(source: string): boolean {
    const count = this.#counts.get(source);
    if (count === undefined) return false;
    if (this.#now() - count.since > WINDOW_MS) {
      this.#counts.delete(source);
      return false;
    }
    return count.wrong >= WRONG_MAX;
  }

  wrong(source: string): void {
    const count = this.#counts.get(source);
    if (count !== undefined && this.#now() - count.since <= WINDOW_MS) {
      count.wrong += 1;
      return;
    }
    this.#counts.delete(source);
    if (this.#counts.size >= SOURCES_MAX) this.#counts.delete(this.#counts.keys().next().value as string);
    this.#counts.set(source, { wrong: 1, since: this.#now() });
  }

  right(source: string): void {
    this.#counts.delete(source);
  }
}
