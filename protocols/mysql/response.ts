import { Reader, Writer } from '../bytes.ts';
import { ProtocolError } from '../error.ts';
import {
  bits,
  CONNECT_ATTRS,
  CONNECT_WITH_DB,
  has,
  LONG_PASSWORD,
  PLUGIN_AUTH,
  PLUGIN_AUTH_LENENC_CLIENT_DATA,
  PROTOCOL_41,
  SECURE_CONNECTION,
  SSL,
} from './capabilities.ts';
import { ATTRIBUTE_CHARACTERS_MAX, ATTRIBUTES_BYTES_MAX, ATTRIBUTES_RECORDED_MAX } from './limits.ts';
import { Fields, lenencInteger } from './packets.ts';

/** The fixed part of a HandshakeResponse41, which alone is an SSLRequest. */
export const FIXED_BYTES = 32;
const FILLER_BYTES = 19;
/** What Connector/J 5.1 sends as an SSLRequest: flags alone. */
const SHORT_SSL_REQUEST_BYTES = 4;

/** A client's answer to the greeting ("Protocol::HandshakeResponse41"), as fields. */
export interface Response {
  /** As sent. */
  readonly flags: number;
  /** What is in force: flags sent, of those offered. The layout of all later packets follows from these. */
  readonly capabilities: number;
  /** MariaDB's extended flags, likewise. */
  readonly extended: number;
  readonly packetBytesMax: number;
  readonly collation: number;
  readonly user: string;
  readonly reply: Buffer;
  /** As sent, in the client's charset; empty for none. */
  readonly database: Buffer;
  readonly plugin: string | null;
  /** The connection attributes as sent, without the length before them; empty for none. */
  readonly attributes: Buffer;
}

/** The flags that a client's first packet begins with, and whether it asks for TLS and sends the rest within. */
export function readRequest(payload: Buffer): { flags: number; ssl: boolean } {
  if (payload.length < 2) throw malformed(`has ${payload.length} bytes`);
  const flags = payload.length >= 4 ? payload.readUInt32LE(0) : payload.readUInt16LE(0);
  if (!has(flags, PROTOCOL_41)) {
    throw new ProtocolError('unsupported', 'client', 'the client speaks the protocol of MySQL before 4.1');
  }
  const ssl =
    has(flags, SSL) && (payload.length === FIXED_BYTES || payload.length === SHORT_SSL_REQUEST_BYTES);
  return { flags, ssl };
}

/**
 * Reads a HandshakeResponse41. `offered` and `offeredExtended` are the greeting's: clients set bits that they were not
 * offered, and lay their packets out by what was offered. Throws a `ProtocolError` (`malformed`, client's fault).
 */
export function parseResponse(payload: Buffer, offered: number, offeredExtended: number): Response {
  const reader = new Reader(payload, 'client');
  const flags = reader.uint32le('capability flags');
  const capabilities = (flags & offered) >>> 0;
  const packetBytesMax = reader.uint32le('max packet size');
  const collation = reader.uint8('collation');
  reader.skip(FILLER_BYTES, 'filler');
  const extendedSent = reader.uint32le('extended capabilities');
  const extended = has(flags, LONG_PASSWORD) ? 0 : (extendedSent & offeredExtended) >>> 0;
  const user = unquoted(reader.cstring('user name').toString('utf8'));
  const reply = readReply(reader, capabilities);
  const database = has(capabilities, CONNECT_WITH_DB) ? untilNul(reader) : EMPTY;
  const plugin = has(capabilities, PLUGIN_AUTH) ? untilNul(reader).toString('latin1') : null;
  const attributes = has(capabilities, CONNECT_ATTRS) ? readAttributes(reader) : EMPTY;
  return {
    flags,
    capabilities,
    extended,
    packetBytesMax,
    collation,
    user,
    reply,
    database,
    plugin,
    attributes,
  };
}

/** Names and values of a block of connection attributes, cut to what is kept on record. Never throws. */
export function attributesOf(block: Buffer): Record<string, string> {
  const attributes: Record<string, string> = Object.create(null);
  const fields = new Fields(block);
  for (let count = 0; count < ATTRIBUTES_RECORDED_MAX && fields.remaining > 0; count += 1) {
    const name = fields.lenencBytes();
    const value = fields.lenencBytes();
    if (fields.short || name === null || value === null) break;
    attributes[text(name)] = text(value);
  }
  return attributes;
}

/** A client's attributes with our own behind them; ours alone where both are more than servers take. */
export function withAttributes(block: Buffer, own: Readonly<Record<string, string>>): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of Object.entries(own)) parts.push(lenencText(name), lenencText(value));
  const ours = Buffer.concat(parts);
  return block.length + ours.length > ATTRIBUTES_BYTES_MAX ? ours : Buffer.concat([block, ours]);
}

/** What is sent to a server, in the same terms. */
export interface ResponseFields {
  readonly flags: number;
  readonly extended: number;
  readonly packetBytesMax: number;
  readonly collation: number;
  readonly user: string;
  readonly reply: Buffer;
  readonly database: Buffer;
  readonly plugin: string;
  readonly attributes: Buffer;
}

/** An SSLRequest: the fixed part of the response that will follow inside TLS. Both must be the same. */
export function sslRequestPayload(
  fields: Omit<ResponseFields, 'user' | 'reply' | 'database' | 'plugin' | 'attributes'>,
): Buffer {
  return new Writer(64)
    .uint32le(fields.flags)
    .uint32le(fields.packetBytesMax)
    .uint8(fields.collation)
    .zeros(FILLER_BYTES)
    .uint32le(has(fields.flags, LONG_PASSWORD) ? 0 : fields.extended)
    .take();
}

/** A HandshakeResponse41; the flags decide the layout. Holds an authentication reply: the caller wipes it. */
export function responsePayload(fields: ResponseFields): Buffer {
  const { flags, reply, database, attributes } = fields;
  const writer = new Writer(512).append(sslRequestPayload(fields)).cstring(fields.user);
  if (has(flags, PLUGIN_AUTH_LENENC_CLIENT_DATA)) writer.append(lenencInteger(reply.length));
  else writer.uint8(reply.length);
  writer.append(reply);
  if (has(flags, CONNECT_WITH_DB)) writer.cstring(database);
  if (has(flags, PLUGIN_AUTH)) writer.cstring(fields.plugin);
  if (has(flags, CONNECT_ATTRS)) writer.append(lenencInteger(attributes.length)).append(attributes);
  return writer.take();
}

/** The flags of a response that only ends the conversation in an orderly way. */
export const FAREWELL_FLAGS = bits(LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH);

function readReply(reader: Reader, capabilities: number): Buffer {
  if (has(capabilities, PLUGIN_AUTH_LENENC_CLIENT_DATA)) {
    const fields = new Fields(reader.bytes, reader.position);
    const length = fields.lenenc();
    if (fields.short || length < 0) throw reader.malformed('authentication reply', 'has no length');
    reader.position = fields.at;
    return reader.slice(length, 'authentication reply');
  }
  if (has(capabilities, SECURE_CONNECTION))
    return reader.slice(reader.uint8('length of reply'), 'authentication reply');
  return reader.cstring('authentication reply');
}

/** Attributes that run past the packet are none: servers do not refuse a session for them either. */
function readAttributes(reader: Reader): Buffer {
  const fields = new Fields(reader.bytes, reader.position);
  const length = fields.lenenc();
  if (fields.short || length < 0 || length > fields.remaining || length > ATTRIBUTES_BYTES_MAX) return EMPTY;
  reader.position = fields.at;
  return reader.slice(length, 'connection attributes');
}

/** Up to a NUL, or the packet's end: some clients leave the last NUL out. */
function untilNul(reader: Reader): Buffer {
  const nul = reader.bytes.indexOf(0, reader.position);
  return nul < 0 || nul >= reader.end ? reader.rest() : reader.cstring('text');
}

/** Servers take quotes off a user name, too. */
function unquoted(user: string): string {
  return user.length > 1 && user.startsWith("'") && user.endsWith("'") ? user.slice(1, -1) : user;
}

function text(bytes: Buffer): string {
  return bytes.toString('utf8').slice(0, ATTRIBUTE_CHARACTERS_MAX);
}

function lenencText(value: string): Buffer {
  const bytes = Buffer.from(value, 'utf8');
  return Buffer.concat([lenencInteger(bytes.length), bytes]);
}

function malformed(what: string): ProtocolError {
  return new ProtocolError('malformed', 'client', `the answer to the greeting ${what}`);
}

const EMPTY = Buffer.alloc(0);
