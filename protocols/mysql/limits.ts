/** Caps of the MySQL engine, each with its source. */

/**
 * A client's packet before it is signed in. The servers cap connection attributes at 64 KiB; the rest is names and an
 * authentication reply. Ours.
 */
export const CLIENT_LOGIN_BYTES_MAX = 128 * 1024;

/** A server's packet before the sign-in is over: greeting, public key, OK with session state. Ours. */
export const SERVER_LOGIN_BYTES_MAX = 128 * 1024;

/** Connection attributes, all names and values with their lengths. The servers' own limit. */
export const ATTRIBUTES_BYTES_MAX = 64 * 1024;

/** Attributes of a client that are put on record. Ours. */
export const ATTRIBUTES_RECORDED_MAX = 64;

/** One attribute's value on record, in characters. Ours. */
export const ATTRIBUTE_CHARACTERS_MAX = 512;

/** AuthSwitchRequests and further factors that a server may send. MariaDB accounts may name several plugins. Ours. */
export const AUTH_SWITCHES_MAX = 10;

/** Packets of one plugin's own conversation. The longest (caching_sha2_password with its key) has three. Ours. */
export const AUTH_PACKETS_MAX = 20;

/** parsec's work factor: the server asks for 1024 << factor rounds of PBKDF2. MariaDB's own range is 0 to 3. */
export const PARSEC_FACTOR_MAX = 3;

/** A server's RSA key: an upper bound keeps a hostile one from costing seconds. Ours. */
export const RSA_KEY_BITS_MAX = 8192;

/** How long a server that was greeted in vain is listened to, so that it does not count us as a failed handshake. Ours. */
export const LEAVE_MS_MAX = 1_000;

/** Bytes of an OK, ERR or column packet that are looked at; what is longer is read as far as this goes. Ours. */
export const REPLY_BYTES_MAX = 64 * 1024;

/** A row longer than this is left out of a result's sample. Ours. */
export const SAMPLE_ROW_BYTES_MAX = 64 * 1024;

/** Bytes of one value in a sample. Ours. */
export const SAMPLE_VALUE_BYTES_MAX = 1024;

/** Column names kept of one result. A table has at most 4096 columns (MySQL Reference Manual 10.4.7). */
export const COLUMNS_MAX = 4096;

/** Results of one command that are listed one by one; all are counted in its totals. Ours. */
export const RESULTS_MAX = 1000;

/** Information texts and warnings kept for one command. Ours. */
export const MESSAGES_MAX = 64;

/** Tuples of one COM_STMT_BULK_EXECUTE in an event; all are counted. Ours. */
export const BULK_TUPLES_MAX = 100;

/** Parameters of one session whose long data's head is held (4 KiB each); the others' is counted. Ours. */
export const LONG_DATA_PARAMETERS_MAX = 64;

/** Authentication data that a client sends in a COM_CHANGE_USER exchange. An access token may have 4 KiB. Ours. */
export const AUTH_REPLY_BYTES_MAX = 16 * 1024;
