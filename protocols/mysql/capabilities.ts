/**
 * Capability flags of the connection phase. The low 32 bits are MySQL's and MariaDB's common ones; MariaDB has a second
 * word. Flag words are kept as unsigned 32-bit numbers: combine them with `bits`, whose `>>> 0` keeps them so.
 *
 * Source: MySQL Client/Server Protocol, "Capabilities Flags"; MariaDB, "Connection phase", capabilities.
 */

export const LONG_PASSWORD = 1;
export const FOUND_ROWS = 1 << 1;
export const LONG_FLAG = 1 << 2;
export const CONNECT_WITH_DB = 1 << 3;
export const NO_SCHEMA = 1 << 4;
export const COMPRESS = 1 << 5;
export const ODBC = 1 << 6;
export const LOCAL_FILES = 1 << 7;
export const IGNORE_SPACE = 1 << 8;
export const PROTOCOL_41 = 1 << 9;
export const INTERACTIVE = 1 << 10;
export const SSL = 1 << 11;
export const IGNORE_SIGPIPE = 1 << 12;
export const TRANSACTIONS = 1 << 13;
export const RESERVED = 1 << 14;
export const SECURE_CONNECTION = 1 << 15;
export const MULTI_STATEMENTS = 1 << 16;
export const MULTI_RESULTS = 1 << 17;
export const PS_MULTI_RESULTS = 1 << 18;
export const PLUGIN_AUTH = 1 << 19;
export const CONNECT_ATTRS = 1 << 20;
export const PLUGIN_AUTH_LENENC_CLIENT_DATA = 1 << 21;
export const CAN_HANDLE_EXPIRED_PASSWORDS = 1 << 22;
export const SESSION_TRACK = 1 << 23;
export const DEPRECATE_EOF = 1 << 24;
export const OPTIONAL_RESULTSET_METADATA = 1 << 25;
export const ZSTD_COMPRESSION_ALGORITHM = 1 << 26;
export const QUERY_ATTRIBUTES = 1 << 27;
export const MULTI_FACTOR_AUTHENTICATION = 1 << 28;
export const CAPABILITY_EXTENSION = 1 << 29;
export const SSL_VERIFY_SERVER_CERT = 1 << 30;
export const REMEMBER_OPTIONS = 0x8000_0000;

/** MariaDB's second word, bits counted from 0 (32 and up in MariaDB's own headers). */
export const MARIADB_PROGRESS = 1;
export const MARIADB_COM_MULTI = 1 << 1;
export const MARIADB_STMT_BULK_OPERATIONS = 1 << 2;
export const MARIADB_EXTENDED_METADATA = 1 << 3;
export const MARIADB_CACHE_METADATA = 1 << 4;
export const MARIADB_BULK_UNIT_RESULTS = 1 << 5;

/** The extended flags that this engine follows; others are not offered to clients. */
export const MARIADB_EXTENDED_KNOWN =
  MARIADB_PROGRESS |
  MARIADB_STMT_BULK_OPERATIONS |
  MARIADB_EXTENDED_METADATA |
  MARIADB_CACHE_METADATA |
  MARIADB_BULK_UNIT_RESULTS;

/** Status flags in OK and EOF packets (SERVER_STATUS_*, MySQL source `include/mysql_com.h`). */
export const STATUS_IN_TRANSACTION = 0x0001;
export const STATUS_AUTOCOMMIT = 0x0002;
export const STATUS_MORE_RESULTS = 0x0008;
export const STATUS_CURSOR_EXISTS = 0x0040;
export const STATUS_LAST_ROW_SENT = 0x0080;
export const STATUS_NO_BACKSLASH_ESCAPES = 0x0200;
export const STATUS_PS_OUT_PARAMS = 0x1000;
export const STATUS_SESSION_STATE_CHANGED = 0x4000;

/** Joins flags to one unsigned word. */
export function bits(...flags: readonly number[]): number {
  return flags.reduce((word, flag) => word | flag, 0) >>> 0;
}

/** `word` without `flags`, unsigned. */
export function without(word: number, ...flags: readonly number[]): number {
  return (word & ~bits(...flags)) >>> 0;
}

/** All of `flags` are set in `word`. */
export function has(word: number, flags: number): boolean {
  return (word & flags) >>> 0 === flags >>> 0;
}
