import type { Channel, TlsState } from '../channel.ts';
import { ProtocolError } from '../error.ts';
import { ALPN, requestPacket, SSL_REQUEST } from './packets.ts';

/** What TLS toward the server came to. */
export interface ServerTls {
  readonly state: TlsState | null;
  /** The mode is `prefer`, and the server has no TLS. */
  readonly fallback: boolean;
}

/**
 * Starts TLS toward the server as its mode says. Only `prefer` goes on without it, and only when the server says that
 * it has none; a handshake that fails is never followed by an attempt in the clear. A Unix socket has no TLS.
 *
 * Rejects with a `ProtocolError` of the server's fault.
 */
export async function secureServer(server: Channel, directTls: boolean): Promise<ServerTls> {
  if (server.tlsMode === 'disable' || server.remote.host.startsWith('/')) {
    return { state: null, fallback: false };
  }
  if (directTls) {
    const state = await server.connectTls({ alpn: ALPN });
    if (state.alpn !== ALPN[0]) {
      throw new ProtocolError('tls_failed', 'server', 'the server did not confirm the ALPN "postgresql"');
    }
    return { state, fallback: false };
  }
  server.write(requestPacket(SSL_REQUEST));
  const answer = String.fromCharCode((await server.read(1, 'the answer to SSLRequest'))[0]!);
  // A server never speaks first in TLS: more bytes were put there by someone else (CVE-2021-23222).
  if (server.buffered > 0) {
    throw new ProtocolError('tls_stuffing', 'server', 'clear bytes came behind the answer to SSLRequest');
  }
  if (answer === 'S') return { state: await server.connectTls({ alpn: ALPN }), fallback: false };
  if (answer !== 'N') {
    // An error's text could be anybody's: nothing has been authenticated.
    throw new ProtocolError('unexpected_message', 'server', 'the server did not answer SSLRequest by S or N');
  }
  if (server.tlsMode !== 'prefer') {
    throw new ProtocolError(
      'tls_required',
      'server',
      `the server offers no TLS, and tls.mode is ${server.tlsMode}`,
    );
  }
  return { state: null, fallback: true };
}
