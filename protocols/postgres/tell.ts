import type { Channel } from '../channel.ts';
import { ProtocolError, Refusal, type RefusalCode } from '../error.ts';
import { errorResponse, refusalResponse, ServerError, type ServerFields, SQLSTATES } from './errors.ts';
import { MissingUser } from './startup.ts';

/**
 * Tells a client why its sign-in failed, and ends the channel. What the client hears names neither the account that the
 * gateway signs in with nor the server's address: those are for the log, where the error itself goes.
 */
export function tellClient(client: Channel, error: unknown): void {
  client.write(answerTo(error));
  client.end();
}

function answerTo(error: unknown): Buffer {
  if (error instanceof Refusal) return refusalResponse(error, 'FATAL');
  if (error instanceof ServerError) return relayed(error.fields);
  if (!(error instanceof ProtocolError)) {
    return refusalResponse(new Refusal('internal', 'the gateway failed; its log says how'), 'FATAL');
  }
  if (error.cause instanceof Refusal) return refusalResponse(error.cause, 'FATAL');
  if (error.fault === 'server') return refusalResponse(aboutServer(error), 'FATAL');
  return errorResponse({ severity: 'FATAL', code: clientFaultState(error), message: error.message });
}

/** The SQLSTATE that PostgreSQL gives to the same fault. */
function clientFaultState(error: ProtocolError): string {
  if (error instanceof MissingUser || error.code === 'server_untrusted') return '28000';
  if (error.code === 'unsupported') return '0A000';
  return error.code === 'timeout' ? SQLSTATES.handshake_timeout : SQLSTATES.protocol_violation;
}

/**
 * An error of the server's own words: what a client may act on. Fields that say where in the server's source it arose
 * go, and the detail too, which may name the account or the host it came from.
 */
function relayed(fields: ServerFields): Buffer {
  return errorResponse({
    severity: 'FATAL',
    code: fields.get('C') ?? 'XX000',
    message: fields.get('M') ?? 'the database server refused the session',
    hint: fields.get('H') ?? null,
  });
}

const ASK = 'Ask the people who run this gateway: its log says what the server said.';

function aboutServer(error: ProtocolError): Refusal {
  const refusal = (code: RefusalCode, message: string): Refusal =>
    new Refusal(code, message, { hint: ASK, cause: error });
  switch (error.code) {
    case 'authentication_failed':
      return refusal('server_rejected', "the database server did not take the gateway's credentials");
    case 'authentication_unsupported':
      return refusal(
        'server_rejected',
        'the database server asks for a sign-in that the gateway may not answer',
      );
    case 'server_untrusted':
      return refusal('server_rejected', 'the database server could not prove who it is');
    case 'tls_failed':
    case 'tls_required':
    case 'tls_stuffing':
      return refusal('server_tls_failed', 'no secure connection to the database server could be made');
    case 'timeout':
      return refusal('server_unreachable', 'the database server took too long to answer');
    case 'unexpected_end':
      return refusal('server_unreachable', 'the database server closed the connection during sign-in');
    default:
      return refusal('server_unreachable', 'the database server answered in a way that is not understood');
  }
}
