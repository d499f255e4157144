import { Reader, Writer } from '../bytes.ts';
import type { Channel, TlsState } from '../channel.ts';
import { ProtocolError } from '../error.ts';
import {
  CANCEL_SECRET_BYTES_MAX,
  CANCEL_SECRET_BYTES_MIN,
  STARTUP_BODY_BYTES_MAX,
  STARTUP_BODY_BYTES_MIN,
} from './limits.ts';
import {
  ALPN,
  CANCEL_REQUEST,
  GSSENC_REQUEST,
  negotiateProtocolVersion,
  PROTOCOL_3_0,
  PROTOCOL_3_2,
  SSL_REQUEST,
  TLS_RECORD,
} from './packets.ts';
import { parseStartup, type Startup } from './startup.ts';

/**
 * The first packets of a client, up to its StartupMessage or CancelRequest ("Message Flow: Start-up", "SSL Session
 * Encryption", "Canceling Requests in Progress" in the protocol chapter).
 *
 * A client may ask for GSS encryption (never given) and for TLS, each once and in either order, or begin with a TLS
 * record at once. Nobody is refused before the StartupMessage has been read: an error in answer to an SSLRequest is shown
 * by no client, and makes pgjdbc come back in the clear.
 */
export type Accepted =
  /** The client closed before it sent anything: a health check, or libpq that disliked our answer. */
  | { readonly kind: 'nobody' }
  | { readonly kind: 'cancel'; readonly pid: number; readonly secret: Buffer }
  | { readonly kind: 'startup'; readonly startup: Startup; readonly protocolVersion: '3.0' | '3.2' };

/**
 * Reads them. Rejects with a `ProtocolError` or, for names that are too long, a `Refusal`, which the caller tells the
 * client. Where PostgreSQL closes without a word (lengths out of range, garbage, bytes stuffed before a TLS handshake),
 * or has been answered in its own older form, the channel is closed when this rejects.
 */
export async function accept(client: Channel): Promise<Accepted> {
  try {
    return await negotiate(client);
  } catch (error) {
    if (error instanceof ProtocolError && SILENT.has(error.code)) client.destroy();
    throw error;
  }
}

/** Faults of packets that are not worth an answer, or could not be given one that their sender would understand. */
const SILENT = new Set(['unexpected_end', 'length_out_of_range', 'tls_failed', 'tls_stuffing', 'timeout']);

async function negotiate(client: Channel): Promise<Accepted> {
  let directTls = false;
  let sslAsked = false;
  let gssAsked = false;
  let packets = 0;
  for (;;) {
    const first = await client.first();
    if (first === null) {
      if (packets === 0) return { kind: 'nobody' };
      throw new ProtocolError('unexpected_end', 'client', 'the client closed before its startup packet');
    }
    if (first === TLS_RECORD && packets === 0 && !directTls) {
      await acceptDirectTls(client);
      directTls = true;
      continue;
    }
    const { code, body } = await readPacket(client);
    packets += 1;
    if (code === CANCEL_REQUEST) return parseCancel(body);
    if (code === SSL_REQUEST && !sslAsked && (client.tls === null || directTls)) {
      sslAsked = true;
      await answerSslRequest(client);
    } else if (code === GSSENC_REQUEST && !gssAsked && client.tls === null) {
      gssAsked = true;
      refuseGss(client);
    } else return acceptStartup(client, code, body);
  }
}

/** A packet: its length is checked before its body is read. */
async function readPacket(client: Channel): Promise<{ code: number; body: Buffer }> {
  const length = (await client.read(4, 'a startup packet')).readUInt32BE(0) - 4;
  if (length < STARTUP_BODY_BYTES_MIN || length > STARTUP_BODY_BYTES_MAX) {
    throw new ProtocolError(
      'length_out_of_range',
      'client',
      `invalid length of startup packet: ${length} bytes, where ${STARTUP_BODY_BYTES_MIN} to ${STARTUP_BODY_BYTES_MAX} are allowed`,
    );
  }
  const packet = await client.read(length, 'the rest of a startup packet');
  return { code: packet.readInt32BE(0), body: packet.subarray(4) };
}

async function acceptDirectTls(client: Channel): Promise<void> {
  if (client.tlsMode === 'disable') {
    throw new ProtocolError('tls_failed', 'client', 'the client began with TLS, and there is no certificate');
  }
  const state = await client.acceptTls({ alpn: ALPN });
  if (state.alpn === ALPN[0]) return;
  throw new ProtocolError('tls_failed', 'client', 'the client began with TLS without the ALPN "postgresql"');
}

/**
 * Answers SSLRequest. Bytes behind it may only be the beginning of a TLS handshake; anything else was put there by
 * someone who hopes that it will be taken for the first words inside of TLS (CVE-2021-23214).
 */
async function answerSslRequest(client: Channel): Promise<TlsState | null> {
  if (client.buffered > 0 && (await client.first()) !== TLS_RECORD) {
    throw new ProtocolError('tls_stuffing', 'client', 'the client sent clear bytes behind its SSLRequest');
  }
  if (client.tlsMode === 'disable' || client.tls !== null) {
    client.write(Buffer.from('N'));
    return null;
  }
  client.write(Buffer.from('S'));
  return client.acceptTls({ alpn: ALPN });
}

function refuseGss(client: Channel): void {
  if (client.buffered > 0) {
    throw new ProtocolError(
      'tls_stuffing',
      'client',
      'received unencrypted data after GSSAPI encryption request',
    );
  }
  client.write(Buffer.from('N'));
}

function parseCancel(body: Buffer): Accepted {
  const secretBytes = body.length - 4;
  if (secretBytes < CANCEL_SECRET_BYTES_MIN || secretBytes > CANCEL_SECRET_BYTES_MAX) {
    throw new ProtocolError(
      'length_out_of_range',
      'client',
      `a CancelRequest with a secret of ${secretBytes} bytes`,
    );
  }
  const reader = new Reader(body, 'client');
  return { kind: 'cancel', pid: reader.int32be('process id'), secret: Buffer.from(reader.rest()) };
}

/**
 * Protocol 3.0 and 3.2 are spoken; any other 3.x, and protocol options, are answered by what we speak instead, which
 * has to come before anything else.
 */
function acceptStartup(client: Channel, code: number, body: Buffer): Accepted {
  const major = code >>> 16;
  const minor = code & 0xffff;
  if (major !== 3) throw refuseVersion(client, major, minor);
  const startup = parseStartup(body);
  const granted = minor >= 2 ? PROTOCOL_3_2 : PROTOCOL_3_0;
  if (granted !== code || startup.protocolOptions.length > 0) {
    client.write(negotiateProtocolVersion(granted, startup.protocolOptions));
  }
  return { kind: 'startup', startup, protocolVersion: granted === PROTOCOL_3_2 ? '3.2' : '3.0' };
}

function refuseVersion(client: Channel, major: number, minor: number): ProtocolError {
  const text = `unsupported frontend protocol ${major}.${minor}: server supports 3.0 to 3.2`;
  // Protocol 2 has errors without a length and without fields. Others are told in the form of protocol 3.
  if (major < 3) {
    client.write(new Writer().text('E').cstring(`FATAL:  ${text}\n`).take());
    client.end();
  }
  return new ProtocolError('unsupported', 'client', text);
}
