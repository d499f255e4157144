import type { Log } from '../log.ts';
import { RELEASE_MS_MAX } from './limits.ts';

export interface LeasePorts {
  readonly log: Log;
  readonly now: () => number;
  /** Asks for more time. Resolves with the seconds that are left then. */
  renew(signal: AbortSignal): Promise<number>;
  revoke(signal: AbortSignal): Promise<void>;
}

/** A renewal is asked for when this part of the time has passed. */
const RENEW_AFTER = 2 / 3;

/** Renewals are at least this far apart, however short the lease. */
const RENEW_PAUSE_MS_MIN = 500;

/** Timers take no more than this many milliseconds (2^31 - 1). */
const TIMER_MS_MAX = 2_147_483_647;

/** Something that Vault has given for a time: renewed until it is revoked, or until Vault will not renew it any more. */
export class VaultLease {
  readonly #what: string;
  readonly #ports: LeasePorts;
  #expiresAt: number;
  readonly #endless: boolean;
  #timer: NodeJS.Timeout | null = null;
  #over = false;
  readonly #renewable: boolean;
  readonly #lost = new AbortController();

  /** `seconds`: 0 for a lease without end. */
  constructor(what: string, seconds: number, renewable: boolean, ports: LeasePorts) {
    this.#what = what;
    this.#ports = ports;
    this.#endless = seconds === 0;
    this.#expiresAt = ports.now() + seconds * 1000;
    this.#renewable = renewable;
    if (!this.#endless) this.#schedule(seconds * 1000 * (renewable ? RENEW_AFTER : 1));
  }

  /** Milliseconds since the epoch; null for no end. */
  get expiresAt(): number | null {
    return this.#endless ? null : this.#expiresAt;
  }

  /** Aborts when it has come to its end, because it cannot be renewed, or not any more. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Renews it no more, and leaves it to end by itself. */
  stop(): void {
    this.#over = true;
    if (this.#timer) clearTimeout(this.#timer);
  }

  /** Gives it back. Later calls do nothing. */
  async revoke(): Promise<void> {
    if (this.#over) return;
    this.stop();
    await this.#ports.revoke(AbortSignal.timeout(RELEASE_MS_MAX));
  }

  #schedule(milliseconds: number): void {
    const pause = Math.min(Math.max(milliseconds, RENEW_PAUSE_MS_MIN), TIMER_MS_MAX);
    this.#timer = setTimeout(() => void this.#renew(), pause);
    this.#timer.unref();
  }

  async #renew(): Promise<void> {
    try {
      if (!this.#renewable) throw new Error('it cannot be renewed');
      const seconds = await this.#ports.renew(AbortSignal.timeout(RELEASE_MS_MAX));
      if (this.#over) return;
      this.#expiresAt = this.#ports.now() + seconds * 1000;
      this.#schedule(seconds * 1000 * RENEW_AFTER);
    } catch (error) {
      if (this.#over) return;
      const left = this.#expiresAt - this.#ports.now();
      const { log } = this.#ports;
      if (left > 0) {
        log.warn(
          { what: this.#what, secondsLeft: Math.round(left / 1000), error: (error as Error).message },
          'lease was not renewed; it is tried again',
        );
        this.#schedule(left / 3);
        return;
      }
      this.#lost.abort();
      log.error({ what: this.#what, error: (error as Error).message }, 'lease has ended');
    }
  }
}
