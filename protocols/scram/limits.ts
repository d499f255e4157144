/** Caps of SCRAM, both sides. */

/** One SASL message. PostgreSQL's own limit for SCRAM messages is 1024 from clients (`PG_MAX_SASL_MESSAGE_LENGTH`). */
export const CLIENT_MESSAGE_BYTES_MAX = 1024;

/** server-first-message and server-final-message. Ours: a nonce, a salt and a count need a few hundred. */
export const SERVER_MESSAGE_BYTES_MAX = 4096;

/** Random bytes in a nonce: 24 base64 characters. As libpq and the server (`SCRAM_RAW_NONCE_LEN`). */
export const NONCE_BYTES = 18;

/** Fewest PBKDF2 rounds that a server without verified TLS may ask for: RFC 7677, section 4. */
export const ITERATIONS_MIN = 4096;

/** PBKDF2 runs at once. The thread pool of libuv has four threads, which file writes need too. Ours. */
export const DERIVATIONS_MAX = 4;

/** Derived keys kept; the one not used for longest goes first. Ours: accounts of one gateway, with room. */
export const DERIVED_KEYS_MAX = 1000;
