import { PREPARED_STATEMENTS_MAX, PREPARED_TEXT_BYTES_MAX } from '../limits.ts';
import type { RowLayout } from './layout.ts';

/** What a handle stands for: the statement that was prepared, or that a cursor was opened with. */
export interface Prepared {
  readonly text: string | null;
  readonly textBytes: number;
  readonly textSha256: string | null;
  /** Names of the parameters, as declared. */
  readonly names: readonly string[];
  /** The layout of its last result: later ones may come without metadata. */
  layout: RowLayout | null;
}

/** One connection's prepared statements or cursors by handle. Past the limits the oldest are forgotten. */
export class Handles {
  readonly #entries = new Map<number, Prepared>();
  #textBytes = 0;

  find(handle: number | null): Prepared | null {
    return handle === null ? null : (this.#entries.get(handle) ?? null);
  }

  remember(handle: number, prepared: Prepared): void {
    this.forget(handle);
    this.#entries.set(handle, prepared);
    this.#textBytes += size(prepared);
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= PREPARED_STATEMENTS_MAX && this.#textBytes <= PREPARED_TEXT_BYTES_MAX) return;
      if (oldest === handle) return;
      this.forget(oldest);
    }
  }

  forget(handle: number): void {
    const known = this.#entries.get(handle);
    if (known === undefined) return;
    this.#entries.delete(handle);
    this.#textBytes -= size(known);
  }

  clear(): void {
    this.#entries.clear();
    this.#textBytes = 0;
  }
}

function size(prepared: Prepared): number {
  return (prepared.text?.length ?? 0) * 2;
}
