/** Caps of secret fetching. All ours, unless a source is named. */

/** Attempts at one fetch while its time lasts; only failures that may pass by themselves are repeated. */
export const FETCH_ATTEMPTS_MAX = 3;

/** The pause before the second attempt is drawn from 0 to this, and twice as long before each one after it. */
export const RETRY_PAUSE_MS = 200;

/** Values kept by the resolver; the oldest go first. */
export const CACHE_ENTRIES_MAX = 1000;

/** A value with an end is not handed out any more this long before it. */
export const EXPIRY_MARGIN_MS = 5_000;

/** A secret, and any answer of a provider, is read up to this size (AWS and Azure allow 64 and 25 KiB, Vault 512). */
export const ANSWER_BYTES_MAX = 1024 * 1024;

/** A command's standard output. */
export const COMMAND_OUTPUT_BYTES_MAX = 64 * 1024;

/** A command's standard error, of which the end is kept for the log. */
export const COMMAND_ERROR_BYTES_MAX = 4 * 1024;

/** How long giving a lease back may take. */
export const RELEASE_MS_MAX = 10_000;
