import { timingSafeEqual } from 'node:crypto';
import { CANCEL_SOURCES_MAX, WRONG_CANCEL_KEYS_MAX, WRONG_CANCEL_KEYS_WINDOW_MS } from './limits.ts';

/** A session that can be cancelled by its key. */
export interface Cancellable {
  readonly clientHost: string;
  readonly cancelSource: 'same-ip' | 'any';
  interrupt(): Promise<void>;
}

interface CancelKey {
  readonly secret: Buffer;
  readonly session: Cancellable;
}

/** What came of a cancel request: for the log and the metrics, never for the one who asked. */
export type CancelOutcome = 'sent' | 'unknown_key' | 'other_address' | 'rate_limited';

/**
 * Maps the cancel keys that clients hold to the sessions they belong to. The client's half is drawn here and means
 * nothing to the server; the server's own key never leaves the engine.
 */
export class Cancels {
  readonly #keys = new Map<number, CancelKey[]>();
  readonly #wrong = new Map<string, { count: number; since: number }>();
  readonly #random: (length: number) => Buffer;
  readonly #now: () => number;

  constructor(random: (length: number) => Buffer, now: () => number = Date.now) {
    this.#random = random;
    this.#now = now;
  }

  /** Draws a secret of `length` bytes that is unique with `id`, and maps it to `session`. */
  register(id: number, length: number, session: Cancellable): Buffer {
    const keys = this.#keys.get(id) ?? [];
    let secret = this.#random(length);
    while (keys.some((key) => key.secret.equals(secret))) secret = this.#random(length);
    keys.push({ secret, session });
    this.#keys.set(id, keys);
    return secret;
  }

  /** Forgets the key with `id` that belongs to `session`. */
  unregister(id: number, session: Cancellable): void {
    const keys = this.#keys.get(id)?.filter((key) => key.session !== session);
    if (keys === undefined) return;
    if (keys.length === 0) this.#keys.delete(id);
    else this.#keys.set(id, keys);
  }

  /**
   * Cancels what the session with this key runs, here or, where `elsewhere` finds it, there. `host` is where the request
   * came from; its wrong keys are counted.
   */
  async cancel(
    id: number,
    secret: Buffer,
    host: string,
    elsewhere: (() => Promise<boolean>) | null = null,
  ): Promise<CancelOutcome> {
    if (this.#isLimited(host)) return 'rate_limited';
    const outcome = await this.asked(id, secret, host);
    if (outcome === 'unknown_key' && elsewhere !== null && (await elsewhere())) return 'sent';
    if (outcome !== 'sent') this.#countWrong(host);
    return outcome;
  }

  /** The same for those who ask in a client's stead: the keys that are wrong here may be right elsewhere, and they count. */
  async asked(id: number, secret: Buffer, host: string): Promise<CancelOutcome> {
    const key = this.#keys.get(id)?.find((one) => sameBytes(one.secret, secret));
    if (key === undefined) return 'unknown_key';
    if (key.session.cancelSource === 'same-ip' && key.session.clientHost !== host) return 'other_address';
    await key.session.interrupt();
    return 'sent';
  }

  #isLimited(host: string): boolean {
    const wrong = this.#wrong.get(host);
    if (wrong === undefined) return false;
    if (this.#now() - wrong.since > WRONG_CANCEL_KEYS_WINDOW_MS) {
      this.#wrong.delete(host);
      return false;
    }
    return wrong.count >= WRONG_CANCEL_KEYS_MAX;
  }

  #countWrong(host: string): void {
    const wrong = this.#wrong.get(host);
    if (wrong !== undefined) {
      wrong.count += 1;
      return;
    }
    if (this.#wrong.size >= CANCEL_SOURCES_MAX) this.#wrong.delete(this.#wrong.keys().next().value as string);
    this.#wrong.set(host, { count: 1, since: this.#now() });
  }
}

function sameBytes(left: Buffer, right: Buffer): boolean {
  return left.length === right.length && timingSafeEqual(left, right);
}
