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

// After sign-in.

/** A single control token (ERROR, a column of COLMETADATA, a classification) that may be put together over packets. Ours. */
export const CONTROL_TOKEN_BYTES_MAX = 1024 * 1024;

/** Columns of one result: SQL Server's maximum for a SELECT is 4096 (its capacity specifications). Beyond, opaque. */
export const COLUMNS_MAX = 4096;

/** Columns of a table-valued parameter: SQL Server's maximum for a table is 1024. */
export const TABLE_PARAMETER_COLUMNS_MAX = 1024;

/** Parameters of one call whose values are kept: SQL Server's maximum is 2100. Beyond, they are stepped over. */
export const CALL_PARAMETERS_MAX = 2100;

/** Calls in one RPC message that are recorded one by one. Beyond, the message is opaque. Ours. */
export const CALLS_MAX = 10_000;

/** ALL_HEADERS of a request: a query notification's texts are the largest part (MS-TDS 2.2.5.3). Ours. */
export const ALL_HEADERS_BYTES_MAX = 64 * 1024;

/** The end of a response that is kept where its tokens cannot be followed, to read the last DONE and ERROR from. Ours. */
export const TAIL_BYTES_MAX = 64 * 1024;

/** Messages (INFO, PRINT, further errors) kept for one statement, and their characters. Ours. */
export const MESSAGES_MAX = 100;
export const MESSAGE_CHARACTERS_MAX = 2_000;

/** Results of one statement that are told apart; their counts are summed beyond. Ours. */
export const RESULTS_MAX = 1_000;

/** Bytes of one value of a result sample. Ours. */
export const SAMPLE_VALUE_BYTES_MAX = 256;

/** Columns of a result sample, so that samples of very wide results stay small. Ours. */
export const SAMPLE_COLUMNS_MAX = 200;

/** Multiplexed sessions of one connection. MC-SMP has 65,536; drivers pool far fewer. Ours. */
export const MULTIPLEXED_SESSIONS_MAX = 4_096;

/** Characters of the last batch that are remembered for a bulk load behind it; INSERT BULK texts are shorter. Ours. */
export const REMEMBERED_CHARACTERS_MAX = 16 * 1024;

/** Notes of one session that something could not be followed; each statement is marked all the same. Ours. */
export const OPAQUE_NOTES_MAX = 100;
