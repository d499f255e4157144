import { Writer } from '../bytes.ts';
import type { Channel } from '../channel.ts';
import { type Fault, ProtocolError } from '../error.ts';

/**
 * Packets and messages of the sign-in, as bytes ("Message Formats" in the protocol chapter). Packets begin with a length
 * word; messages with a type byte before it. Length words count themselves; all numbers are big-endian.
 */

export const SSL_REQUEST = 80877103;
export const GSSENC_REQUEST = 80877104;
export const CANCEL_REQUEST = 80877102;
export const PROTOCOL_3_0 = 0x0003_0000;
export const PROTOCOL_3_2 = 0x0003_0002;

/** First byte of a TLS record with a handshake message. No legal packet begins with it: it would be 300 MB long. */
export const TLS_RECORD = 0x16;

/** Application protocol name for direct TLS, sent and asked for in negotiated TLS too. */
export const ALPN: readonly string[] = ['postgresql'];

/** Codes of authentication requests. */
export const AUTHENTICATION = {
  ok: 0,
  kerberos: 2,
  cleartext: 3,
  md5: 5,
  gss: 7,
  gssContinue: 8,
  sspi: 9,
  sasl: 10,
  saslContinue: 11,
  saslFinal: 12,
} as const;

/** SSLRequest, GSSENCRequest: a packet of nothing but its code. */
export function requestPacket(code: number): Buffer {
  return new Writer(8).int32be(8).int32be(code).take();
}

/** StartupMessage: the version, then names and values. */
export function startupPacket(version: number, parameters: readonly [string, Buffer | string][]): Buffer {
  const writer = new Writer(512);
  const length = writer.reserve(4);
  writer.int32be(version);
  for (const [name, value] of parameters) writer.cstring(Buffer.from(name, 'latin1')).cstring(value);
  writer.uint8(0);
  writer.patchUint32be(length, writer.length);
  return writer.take();
}

/** CancelRequest for the backend with this process id and secret. */
export function cancelPacket(pid: number, secret: Buffer): Buffer {
  const writer = new Writer(12 + secret.length);
  return writer
    .int32be(12 + secret.length)
    .int32be(CANCEL_REQUEST)
    .int32be(pid)
    .append(secret)
    .take();
}

/** Any message: its type letter and its body. */
export function message(type: string, body: Buffer = Buffer.alloc(0)): Buffer {
  return new Writer(5 + body.length)
    .text(type)
    .int32be(4 + body.length)
    .append(body)
    .take();
}

export const TERMINATE: Buffer = message('X');

/** An authentication request (`R`), with what belongs to its code behind it. */
export function authenticationRequest(code: number, rest: Buffer = Buffer.alloc(0)): Buffer {
  return message('R', new Writer(4 + rest.length).int32be(code).append(rest).take());
}

/** NegotiateProtocolVersion: the version that we speak and the protocol options that we do not know. */
export function negotiateProtocolVersion(version: number, options: readonly Buffer[]): Buffer {
  const writer = new Writer().int32be(version).int32be(options.length);
  for (const option of options) writer.cstring(option);
  return message('v', writer.take());
}

/** BackendKeyData: what a client needs to cancel. */
export function backendKeyData(pid: number, secret: Buffer): Buffer {
  return message('K', new Writer().int32be(pid).append(secret).take());
}

/** One message of a handshake. */
export interface Message {
  /** The type as a letter. */
  readonly type: string;
  readonly body: Buffer;
}

/**
 * Reads one message. `limit` gives the highest length word for a type, or null for a type that must not come here: both
 * are decided before anything is allocated. `expected` names what should come, for the error.
 */
export async function readMessage(
  channel: Channel,
  expected: string,
  limit: (type: string) => number | null,
): Promise<Message> {
  const header = await channel.read(5, expected);
  const type = String.fromCharCode(header[0]!);
  const length = header.readUInt32BE(1);
  const most = limit(type);
  if (most === null) {
    throw new ProtocolError(
      'unexpected_message',
      channel.side as Fault,
      `the ${channel.side} sent ${typeName(type)} where ${expected} was expected`,
    );
  }
  if (length < 4 || length > most) {
    throw new ProtocolError(
      'length_out_of_range',
      channel.side as Fault,
      `the ${channel.side} sent ${typeName(type)} of ${length} bytes, where 4 to ${most} are allowed`,
    );
  }
  const body = length === 4 ? Buffer.alloc(0) : await channel.read(length - 4, expected);
  return { type, body };
}

function typeName(type: string): string {
  return /^[!-~]$/.test(type)
    ? `a message of type "${type}"`
    : `a message of type byte ${type.charCodeAt(0)}`;
}
