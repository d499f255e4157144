import type { Duplex } from 'node:stream';

/**
 * What a handshake needs from its transport, and nothing more. The gateway implements it over sockets, tests over an
 * in-memory pair. All reads are bounded by their argument, so nothing is buffered that nobody asked for.
 *
 * Every method rejects with a `ProtocolError` whose `fault` is this channel's side: `unexpected_end` when the peer
 * closed, `timeout` when the handshake's deadline passed, `tls_failed` when TLS did.
 */
export interface Channel {
  readonly side: 'client' | 'server';
  readonly remote: Address;
  /** The state of TLS on this leg; null in the clear. */
  readonly tls: TlsState | null;
  /** Bytes received and not yet read. After an SSLRequest this must be looked at before TLS starts. */
  readonly buffered: number;
  /** Whether this leg can do TLS: a certificate is configured (client side), or the mode is not `disable` (server side). */
  readonly tlsMode: TlsMode;

  /** Exactly `length` bytes (1 or more), consumed. `field` names them in the error. */
  read(length: number, field: string): Promise<Buffer>;
  /** The first `length` bytes without consuming them. */
  peek(length: number, field: string): Promise<Buffer>;
  /** Like `peek(1)`, but null when the peer closes before it sends any byte: no error, only nobody there. */
  first(): Promise<number | null>;
  /** Queues bytes. The array is not kept after the call returns unless it is a Buffer the caller gives away. */
  write(bytes: Buffer): void;
  /** Ends our direction after what was written; the peer may still send. */
  end(): void;
  /** Reads until the peer closes, at most `milliseconds`; what comes is thrown away. Resolves either way. */
  drained(milliseconds: number): Promise<void>;
  /** Closes both directions at once. */
  destroy(): void;

  /** TLS as server, toward a client, with the listener's certificate. Buffered bytes are fed to the handshake. */
  acceptTls(options: AcceptTls): Promise<TlsState>;
  /** TLS as client, toward the database, verified as the resource's mode says. */
  connectTls(options: ConnectTls): Promise<TlsState>;
  /**
   * From now on no TLS record that we send holds more than `bytes` (512 to 16384) of plaintext; nothing happens in the
   * clear. A server that wants a packet of its protocol in one record gets it when packets of that size are written.
   */
  limitTlsRecords?(bytes: number): void;
  /**
   * Gives TLS up and goes on in the clear below it, without a close_notify: TDS login-only encryption. Resolves when
   * what was written before has gone out encrypted. Only on a channel whose TLS was started with a `transport` whose
   * stream can be released; rejects with `malformed` when the peer sent more inside TLS than was read.
   */
  clearTls(): Promise<void>;
}

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** PostgreSQL's names for what is asked of TLS toward a server; client side uses `disable`, `prefer` and `require`. */
export type TlsMode = 'disable' | 'prefer' | 'require' | 'verify-ca' | 'verify-full';

export interface AcceptTls {
  /** Protocols to choose from; a client that offers none of them, but others, fails the handshake. */
  readonly alpn?: readonly string[];
  readonly maxVersion?: 'TLSv1.2' | 'TLSv1.3';
  /** No session tickets, so no resumption (TDS inside PRELOGIN needs a full handshake each time). */
  readonly noTickets?: boolean;
  /** Puts something between the raw stream and TLS: TDS wraps TLS records in its own packets. */
  readonly transport?: (raw: Duplex) => TlsTransport;
}

/** What stands between the raw stream and TLS. */
export interface TlsTransport extends Duplex {
  /**
   * Takes its hands off the raw stream, which is left paused, and returns what it had read of it and not given to TLS.
   * Whatever is written to it afterwards is dropped, and its destruction leaves the raw stream alone.
   */
  release(): Buffer;
}

export interface ConnectTls extends AcceptTls {
  /** The name the certificate is checked against and sent as SNI, where it differs from the address dialled. */
  readonly serverName?: string;
}

export interface TlsState {
  /** `TLSv1.2`, `TLSv1.3` */
  readonly version: string;
  readonly cipher: string;
  readonly alpn: string | null;
  /** SNI as the client sent it (client side), or as we sent it (server side). */
  readonly serverName: string | null;
  /** The peer's certificate, DER; null when it showed none. */
  readonly peerCertificate: Buffer | null;
  /** Our own certificate on this leg, DER: what a client's channel binding refers to. Null where we showed none. */
  readonly localCertificate: Buffer | null;
  /** The peer's certificate chains to a configured authority (and matches the name, for `verify-full`). */
  readonly verified: boolean;
  /**
   * Our end of the channel binding toward a server (RFC 5929, RFC 9266): `tls-unique` (our Finished message of a full
   * TLS 1.2 handshake), or `tls-exporter` (32 bytes) for TLS 1.3. Absent on the client side.
   */
  readonly binding?: { readonly type: 'tls-unique' | 'tls-exporter'; readonly data: Buffer } | null;
}
