/**
 * The commands of the command phase ("Command Phase"; MySQL source `include/my_command.h`; MariaDB documentation,
 * "Text protocol" and "Binary protocol") and what each is answered with.
 */
export const COM_QUIT = 0x01;
export const COM_INIT_DB = 0x02;
export const COM_QUERY = 0x03;
export const COM_FIELD_LIST = 0x04;
export const COM_CREATE_DB = 0x05;
export const COM_DROP_DB = 0x06;
export const COM_REFRESH = 0x07;
export const COM_SHUTDOWN = 0x08;
export const COM_STATISTICS = 0x09;
export const COM_PROCESS_INFO = 0x0a;
export const COM_PROCESS_KILL = 0x0c;
export const COM_DEBUG = 0x0d;
export const COM_PING = 0x0e;
export const COM_CHANGE_USER = 0x11;
export const COM_BINLOG_DUMP = 0x12;
export const COM_REGISTER_SLAVE = 0x15;
export const COM_STMT_PREPARE = 0x16;
export const COM_STMT_EXECUTE = 0x17;
export const COM_STMT_SEND_LONG_DATA = 0x18;
export const COM_STMT_CLOSE = 0x19;
export const COM_STMT_RESET = 0x1a;
export const COM_SET_OPTION = 0x1b;
export const COM_STMT_FETCH = 0x1c;
export const COM_BINLOG_DUMP_GTID = 0x1e;
export const COM_RESET_CONNECTION = 0x1f;
export const COM_STMT_BULK_EXECUTE = 0xfa;

/** First byte of a semi-synchronous replica's acknowledgement (MySQL source, `plugin/semisync`): no command. */
export const SEMI_SYNC_ACKNOWLEDGEMENT = 0xef;

/** COM_SET_OPTION's argument that switches several statements in one text off (0 switches them on). */
export const OPTION_MULTI_STATEMENTS_OFF = 1;

/** The statement id that means "the one prepared last" (MariaDB). */
export const LAST_PREPARED = 0xffff_ffff;

/**
 * What answers a command: `one` packet; one of `text`, whatever it begins with; a `result` (OK, ERR, a file request or rows, perhaps several); the definitions
 * of a `prepare`; the rows of a `fetch`; a `list` of column definitions; an endless `stream` of events.
 */
export type ReplyKind = 'one' | 'text' | 'result' | 'prepare' | 'fetch' | 'list' | 'stream';

/** What answers a command of that code, where that alone can be told. */
export function replyKind(code: number): ReplyKind {
  switch (code) {
    case COM_QUERY:
    case COM_STMT_EXECUTE:
    case COM_STMT_BULK_EXECUTE:
    case COM_PROCESS_INFO:
      return 'result';
    case COM_STMT_PREPARE:
      return 'prepare';
    case COM_STMT_FETCH:
      return 'fetch';
    case COM_FIELD_LIST:
      return 'list';
    case COM_STATISTICS:
      return 'text';
    default:
      return isStream(code) ? 'stream' : 'one';
  }
}

const NAMES: Readonly<Record<number, string>> = {
  0: 'COM_SLEEP',
  [COM_CREATE_DB]: 'COM_CREATE_DB',
  [COM_DROP_DB]: 'COM_DROP_DB',
  [COM_REFRESH]: 'COM_REFRESH',
  [COM_SHUTDOWN]: 'COM_SHUTDOWN',
  [COM_STATISTICS]: 'COM_STATISTICS',
  [COM_PROCESS_INFO]: 'COM_PROCESS_INFO',
  11: 'COM_CONNECT',
  [COM_DEBUG]: 'COM_DEBUG',
  15: 'COM_TIME',
  16: 'COM_DELAYED_INSERT',
  [COM_BINLOG_DUMP]: 'COM_BINLOG_DUMP',
  19: 'COM_TABLE_DUMP',
  20: 'COM_CONNECT_OUT',
  [COM_REGISTER_SLAVE]: 'COM_REGISTER_SLAVE',
  29: 'COM_DAEMON',
  [COM_BINLOG_DUMP_GTID]: 'COM_BINLOG_DUMP_GTID',
  [COM_RESET_CONNECTION]: 'COM_RESET_CONNECTION',
  32: 'COM_CLONE',
  33: 'COM_SUBSCRIBE_GROUP_REPLICATION_STREAM',
  251: 'COM_SLAVE_WORKER',
  252: 'COM_SLAVE_IO',
  253: 'COM_SLAVE_SQL',
  254: 'COM_MULTI',
};

/** The protocol's name of a command that is recorded by its name; its number for one that has none. */
export function commandName(code: number): string {
  return NAMES[code] ?? `COM_0x${code.toString(16).padStart(2, '0')}`;
}

/**
 * Commands of the server's own threads and of replication plugins. A server answers most of them with an error; those it
 * would not must not come from a client.
 */
const INTERNAL = new Set([11, 15, 16, 19, 20, 29, 32, 33, 251, 252, 253, 254, 255]);

export function isInternal(code: number): boolean {
  return INTERNAL.has(code);
}

/** Commands answered by the binary log, event after event. */
export function isStream(code: number): boolean {
  return code === COM_BINLOG_DUMP || code === COM_BINLOG_DUMP_GTID;
}

export function isReplication(code: number): boolean {
  return isStream(code) || code === COM_REGISTER_SLAVE;
}
