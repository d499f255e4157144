import { Reader, Writer } from '../bytes.ts';
import { ProtocolError } from '../error.ts';
import { SCRAMBLE_BYTES } from './auth/scramble.ts';
import { has, LONG_PASSWORD, PLUGIN_AUTH, PROTOCOL_41 } from './capabilities.ts';

/** A server's first packet ("Protocol::HandshakeV10"), as fields. */
export interface Greeting {
  readonly serverVersion: string;
  readonly connectionId: number;
  /** The 20 bytes that authentication replies are computed from. */
  readonly scramble: Buffer;
  /** CLIENT_* flags, unsigned. */
  readonly capabilities: number;
  /** MariaDB's extended flags; 0 where the server is not MariaDB or too old for them. */
  readonly extended: number;
  /** The low byte of the server's default collation. */
  readonly collation: number;
  readonly status: number;
  /** The plugin that `scramble` is meant for; null where the server has no plugins. */
  readonly plugin: string | null;
}

const PROTOCOL_VERSION = 10;
const FIRST_PART_BYTES = 8;
const RESERVED_BYTES = 6;

/**
 * Reads a greeting. Throws a `ProtocolError` with the server's fault: `unsupported` for another protocol version or a
 * server older than 4.1, `malformed` for one that is cut short.
 */
export function parseGreeting(payload: Buffer): Greeting {
  const reader = new Reader(payload, 'server');
  const version = reader.uint8('protocol version');
  if (version !== PROTOCOL_VERSION) {
    throw new ProtocolError(
      'unsupported',
      'server',
      `the server greets with protocol version ${version}, not 10`,
    );
  }
  const serverVersion = reader.cstring('server version').toString('latin1');
  const connectionId = reader.uint32le('connection id');
  const first = reader.slice(FIRST_PART_BYTES, 'scramble, first part');
  reader.skip(1, 'filler');
  let capabilities = reader.uint16le('capabilities');
  let collation = 0;
  let status = 0;
  let extended = 0;
  let second: Buffer = Buffer.alloc(0);
  let plugin: string | null = null;
  if (reader.remaining > 0) {
    collation = reader.uint8('collation');
    status = reader.uint16le('status');
    capabilities = (capabilities | (reader.uint16le('capabilities, high half') << 16)) >>> 0;
    const length = reader.uint8('scramble length');
    reader.skip(RESERVED_BYTES, 'reserved');
    const mariadb = reader.uint32le('extended capabilities');
    // A server that is not MariaDB sets this bit, and what stands here is filler.
    extended = has(capabilities, LONG_PASSWORD) ? 0 : mariadb;
    second = reader.slice(
      Math.min(Math.max(13, length - FIRST_PART_BYTES), reader.remaining),
      'scramble, second part',
    );
    if (has(capabilities, PLUGIN_AUTH)) plugin = untilNul(reader.rest()).toString('latin1');
  }
  if (!has(capabilities, PROTOCOL_41)) {
    throw new ProtocolError(
      'unsupported',
      'server',
      `the server (${printable(serverVersion)}) is older than MySQL 4.1`,
    );
  }
  const scramble = Buffer.concat([first, second]).subarray(0, SCRAMBLE_BYTES);
  if (scramble.length < SCRAMBLE_BYTES)
    throw reader.malformed('scramble', `has only ${scramble.length} bytes`);
  return { serverVersion, connectionId, scramble, capabilities, extended, collation, status, plugin };
}

/** Builds a greeting's payload. Nothing stands behind the plugin's NUL: some clients refuse what does. */
export function greetingPayload(greeting: Greeting): Buffer {
  const { scramble, capabilities, plugin } = greeting;
  const writer = new Writer();
  writer
    .uint8(PROTOCOL_VERSION)
    .cstring(Buffer.from(greeting.serverVersion, 'latin1'))
    .uint32le(greeting.connectionId)
    .append(scramble.subarray(0, FIRST_PART_BYTES))
    .uint8(0)
    .uint16le(capabilities & 0xffff)
    .uint8(greeting.collation)
    .uint16le(greeting.status)
    .uint16le(capabilities >>> 16)
    .uint8(plugin === null ? 0 : SCRAMBLE_BYTES + 1)
    .zeros(RESERVED_BYTES)
    .uint32le(greeting.extended)
    .append(scramble.subarray(FIRST_PART_BYTES))
    .uint8(0);
  if (plugin !== null) writer.cstring(plugin);
  return writer.take();
}

/** Which family a server's version string says it is of. */
export function flavorOf(serverVersion: string): 'mysql' | 'mariadb' {
  return /mariadb/i.test(serverVersion) ? 'mariadb' : 'mysql';
}

/** The version as a person knows it: MariaDB 10 puts `5.5.5-` before it for the sake of old replicas. */
export function plainVersion(serverVersion: string): string {
  return printable(serverVersion.replace(/^5\.5\.5-(?=\d+\.)/, ''));
}

function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 100);
}

function untilNul(bytes: Buffer): Buffer {
  const nul = bytes.indexOf(0);
  return nul < 0 ? bytes : bytes.subarray(0, nul);
}
