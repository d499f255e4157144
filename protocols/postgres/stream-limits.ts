/**
 * Caps of the PostgreSQL engine while it streams. Lengths are a message's length word, which counts itself and not the
 * type byte.
 */

/** PQ_SMALL_MESSAGE_LIMIT of the server (src/include/libpq/libpq.h): messages that hold little but names. */
export const SMALL_MESSAGE_LENGTH_MAX = 10_000;

/** PQ_LARGE_MESSAGE_LIMIT of the server: MaxAllocSize - 1. */
export const LARGE_MESSAGE_LENGTH_MAX = 0x3ffffffe;

/** An ErrorResponse or NoticeResponse is read up to here; the rest passes unread. libpq's own limit is 30000 for others. Ours. */
export const ERROR_BYTES_MAX = 64 * 1024;

/** A RowDescription or ParameterDescription is read up to here. 1600 columns of the longest names need 140 KiB. Ours. */
export const DESCRIPTION_BYTES_MAX = 1024 * 1024;

/** Any other server message that is read at all. They hold a tag, a status, a name and a value. Ours. */
export const ANSWER_BYTES_MAX = 64 * 1024;

/** Text of an error's or notice's message kept in an event. Ours. */
export const ERROR_TEXT_LENGTH_MAX = 4 * 1024;

/** Notices kept with one statement. Ours. */
export const NOTICES_MAX = 100;

/** Results kept apart within one statement; beyond, only the totals count on. Ours. */
export const RESULTS_MAX = 1_000;

/** Portals remembered by one session. They end with their transaction; the oldest go first. Ours. */
export const PORTALS_MAX = 10_000;

/** A row is read for a result sample only up to this size, and a sample holds no more than this. Ours. */
export const SAMPLE_BYTES_MAX = 64 * 1024;

/** One value of a result sample. Ours. */
export const SAMPLE_VALUE_BYTES_MAX = 1024;

/** Notes about a lost thread that one session may write. Ours. */
export const OPAQUE_NOTES_MAX = 100;

// The sign-in, from the client. Lengths of messages are those of the length word.

/** Body of a packet without a type byte, its code included: `MAX_STARTUP_PACKET_LENGTH` in the server's source. */
export const STARTUP_BODY_BYTES_MIN = 4;
export const STARTUP_BODY_BYTES_MAX = 10_000;

/** Names of users and databases: the server cuts longer ones silently (`NAMEDATALEN` - 1). */
export const NAME_BYTES_MAX = 63;

/** A password or token as PasswordMessage: `PG_MAX_AUTH_TOKEN_LENGTH` in the server's source. */
export const PASSWORD_MESSAGE_BYTES_MAX = 65_535;

/** SASLInitialResponse and SASLResponse: the server's 1024 for a SCRAM message, with mechanism name and lengths. */
export const SASL_MESSAGE_BYTES_MAX = 1024 + 64;

/** Bytes of a cancel secret: four in protocol 3.0, up to 256 in 3.2 ("CancelRequest" in the protocol chapter). */
export const CANCEL_SECRET_BYTES_MIN = 4;
export const CANCEL_SECRET_BYTES_MAX = 256;

/** Bytes of the cancel secrets that we draw for clients, by protocol version: as many as PostgreSQL 18. */
export const CLIENT_SECRET_BYTES = { '3.0': 4, '3.2': 32 } as const;

// The sign-in, from the server

/** Authentication requests and NegotiateProtocolVersion: libpq's own limit (`PQconnectPoll`). */
export const AUTHENTICATION_BYTES_MAX = 2000;

/** Errors, notices and all that follows AuthenticationOk: libpq's limit for messages without bulk data. */
export const SERVER_MESSAGE_BYTES_MAX = 30_000;

/** All messages between AuthenticationOk and the first ReadyForQuery together. Ours. */
export const WELCOME_BYTES_MAX = 256 * 1024;

/** Messages of one sign-in before AuthenticationOk: SCRAM has four, notices come on top. Ours. */
export const AUTHENTICATION_MESSAGES_MAX = 24;

/** How long the server may take to close after it has read a CancelRequest; it does so in a few milliseconds. Ours. */
export const CANCEL_CLOSE_MS_MAX = 2000;
