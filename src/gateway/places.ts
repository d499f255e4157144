import { Refusal } from '../../protocols/error.ts';

/** The places that resources have for sessions (`limits.max_connections`), over all processes of the gateway. */
export interface Places {
  /** Takes one of the resource's `max` places; false when there is none left. */
  take(resource: string, max: number): boolean;
  free(resource: string): void;
}

/** Places of one process, or counted by one for all. */
export class CountedPlaces implements Places {
  /** Sessions and those about to be, by resource name: a reload keeps the count. */
  readonly #taken = new Map<string, number>();

  take(resource: string, max: number): boolean {
    const taken = this.#taken.get(resource) ?? 0;
    if (taken >= max) return false;
    this.#taken.set(resource, taken + 1);
    return true;
  }

  free(resource: string): void {
    const taken = (this.#taken.get(resource) ?? 0) - 1;
    if (taken > 0) this.#taken.set(resource, taken);
    else this.#taken.delete(resource);
  }
}

/** What the person hears who found none. */
export function noPlace(resource: string): Refusal {
  return new Refusal('session_limit', `too many sessions on ${resource}`, {
    hint: 'Close a connection, or ask for a higher limit.',
  });
}
