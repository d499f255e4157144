import type { Secret } from '../../protocols/secret.ts';

/** A place that secrets are fetched from. One file an adapter; `app.ts` constructs them. */
export interface SecretProvider {
  /** The name it has in the configuration. */
  readonly name: string;
  /**
   * Fetches what `reference` names. Rejects with a `SecretError` that says provider, path and what to do, and never
   * holds the secret.
   */
  fetch(reference: SecretReference, signal: AbortSignal): Promise<SecretValue>;
  /** Whether the provider can be reached, as last seen: for `/readyz` and `check --connect`. */
  check(signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
}

/** `PROVIDER:PATH[#FIELD]`, taken apart. */
export interface SecretReference {
  readonly provider: string;
  readonly path: string;
  readonly field: string | null;
}

export interface SecretValue {
  /** The secret itself, or null where the reference names a set of fields and no field was asked for. */
  readonly value: Secret | null;
  /** Named fields, where the provider has them (`username`, `password`, …). */
  readonly fields: Readonly<Record<string, Secret>>;
  /** Until when it is good; null for no end. Milliseconds since the epoch. */
  readonly expiresAt: number | null;
  /** Gives a lease back when the session ends. A value that has this belongs to one session and is never shared. */
  release?(): Promise<void>;
  /** Aborts when a leased value is taken away before it was given back. */
  readonly lost?: AbortSignal;
}

/**
 * What kind of failure it was. `unavailable` and `timeout` may pass by themselves and are tried again; after all but
 * `not_found`, `field_not_found` and `malformed` the provider counts as down.
 */
export type SecretErrorCode =
  | 'not_found'
  | 'field_not_found'
  | 'malformed'
  | 'denied'
  | 'unavailable'
  | 'timeout';

export class SecretError extends Error {
  readonly provider: string;
  readonly code: SecretErrorCode;
  readonly hint: string | null;

  constructor(
    provider: string,
    message: string,
    options: { code?: SecretErrorCode; hint?: string; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = 'SecretError';
    this.provider = provider;
    this.code = options.code ?? 'unavailable';
    this.hint = options.hint ?? null;
  }

  /** Whether the same request may succeed in a moment. */
  get transient(): boolean {
    return this.code === 'unavailable' || this.code === 'timeout';
  }
}
