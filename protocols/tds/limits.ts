/** Caps of the SQL Server engine. All engines share those of `protocols/limits.ts`. */

/** A whole PRELOGIN message of a client. SqlClient's is 70 bytes, a long instance name included under 400. Ours. */
export const PRELOGIN_BYTES_MAX = 4096;

/** A whole LOGIN7 message (MS-TDS 2.2.6.4: "the total length MUST be less than 128K - 1 bytes"). */
export const LOGIN7_BYTES_MAX = 128 * 1024;

/** Characters of a name in LOGIN7: host, user, application, server, library, language, database (MS-TDS 2.2.6.4). */
export const LOGIN7_NAME_UNITS_MAX = 128;

/** All messages of a server's answer to LOGIN7 together: a kilobyte in practice. Ours. */
export const LOGIN_RESPONSE_BYTES_MAX = 256 * 1024;

/** Messages of SSPI between LOGIN7 and its answer: NTLM needs one. Ours. */
export const SSPI_ROUNDS_MAX = 4;

/** How often a server may send us elsewhere: Microsoft's client follows ten, FreeTDS one. Ours. */
export const ROUTING_HOPS_MAX = 5;

/** Packets before a size has been agreed on (MS-TDS 2.2.3.1.3), also those that carry TLS. */
export const HANDSHAKE_PACKET_BYTES_MAX = 4096;

/** The smallest packet size that may be agreed on (MS-TDS 2.2.6.4). */
export const PACKET_BYTES_MIN = 512;

/** The largest packet inside TLS: a TLS record holds 16384 bytes, and drivers refuse larger packets. */
export const ENCRYPTED_PACKET_BYTES_MAX = 16_383;

/** The largest packet in the clear (MS-TDS 2.2.6.4). */
export const PACKET_BYTES_MAX = 32_767;
