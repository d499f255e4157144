/**
 * Caps that all engines share. An engine's own are in its `limits.ts`, each with the source it was taken from.
 */

/** Statement text kept in an event; the whole text's length and SHA-256 are kept with it. Ours. */
export const STATEMENT_TEXT_BYTES_MAX = 64 * 1024;

/** A client message that policy must see whole is collected up to this many bytes; longer ones stream. Ours. */
export const INSPECT_BYTES_MAX = 1024 * 1024;

/** One parameter's value in an event; its length and SHA-256 are kept where it is longer. Ours. */
export const PARAMETER_BYTES_MAX = 4 * 1024;

/** All parameters of one statement in an event. Ours. */
export const PARAMETERS_BYTES_MAX = 256 * 1024;

/** Outstanding operations of one session; beyond, the client is not read until the server has caught up. Ours. */
export const OUTSTANDING_OPERATIONS_MAX = 50_000;

/** Text and parameters held for outstanding operations of one session; beyond, as above. Ours. */
export const OUTSTANDING_BYTES_MAX = 64 * 1024 * 1024;

/** Named prepared statements remembered by one session, and the text held for them; the oldest go first. Ours. */
export const PREPARED_STATEMENTS_MAX = 10_000;
export const PREPARED_TEXT_BYTES_MAX = 16 * 1024 * 1024;

/** Bytes that a client may pipeline behind its sign-in before it has been answered. Ours. */
export const PIPELINED_BYTES_MAX = 64 * 1024;
