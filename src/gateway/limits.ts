/** Caps of the gateway itself. */

/** Client bytes held while their statements' events wait for the journal; beyond, the client is not read. */
export const RELAY_PENDING_BYTES_MAX = 1024 * 1024;

/** Bytes that one session's server may send before the other sessions get their turn. Ours, by `bench fairness`. */
export const RELAY_TURN_BYTES_MAX = 256 * 1024;

/** What each leg of a session reads into. Most messages of people and applications are shorter. */
export const READ_BYTES = 4 * 1024;

/** What a leg reads into while there is more than that, and how many such buffers stay with legs that may need them no more. */
export const BURST_READ_BYTES = 64 * 1024;
export const BURST_BUFFERS_KEPT_MAX = 256;

/** How long a session that ends by our will waits for a message boundary toward the client. */
export const PARTING_MS_MAX = 2_000;

/** How long a half-closed or ended connection may linger before it is destroyed. */
export const LINGER_MS_MAX = 2_000;

/** How long a cancel may take on its way to the server. */
export const INTERRUPT_MS_MAX = 5_000;

/** Wrong cancel keys from one address within a minute; beyond, its cancels are dropped. */
export const WRONG_CANCEL_KEYS_MAX = 10;
export const WRONG_CANCEL_KEYS_WINDOW_MS = 60_000;
/** Addresses whose wrong cancel keys are counted at once. */
export const CANCEL_SOURCES_MAX = 10_000;

/** How often idle clocks and maximum durations are looked at. */
export const TICK_MS = 250;

/** Connections in their handshake at once, per listener; beyond, new ones are closed at once. */
export const HANDSHAKES_MAX = 2_000;

/** TCP keep-alive: first probe after this long without traffic. */
export const KEEP_ALIVE_MS = 60_000;
