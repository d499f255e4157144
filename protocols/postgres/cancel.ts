import type { Channel } from '../channel.ts';
import { ProtocolError } from '../error.ts';
import { CANCEL_CLOSE_MS_MAX } from './limits.ts';
import type { BackendKey } from './login.ts';
import { cancelPacket } from './packets.ts';
import { secureServer } from './server-tls.ts';

/**
 * Sends a CancelRequest to a server over a new connection, encrypted where the session is. Resolves when the server
 * has closed it, which it does once it has signalled the backend (or after a cap of two seconds): clients wait for that
 * before they go on, so that the cancel cannot hit their next statement.
 */
export async function sendCancel(
  server: Channel,
  key: BackendKey,
  session: { readonly encrypted: boolean; readonly directTls: boolean },
): Promise<void> {
  if (session.encrypted) {
    const { state } = await secureServer(server, session.directTls);
    // The secret went over TLS when it was given; it does not come back in the clear.
    if (state === null) throw new ProtocolError('tls_required', 'server', 'the server no longer offers TLS');
  }
  server.write(cancelPacket(key.pid, key.secret));
  await server.drained(CANCEL_CLOSE_MS_MAX);
  server.destroy();
}
