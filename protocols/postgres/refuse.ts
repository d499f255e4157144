import { Writer } from '../bytes.ts';
import type { Refusal } from '../error.ts';
import { refusalResponse } from './errors.ts';
import { EXECUTE, FUNCTION_CALL, PARSE, QUERY } from './messages.ts';

/**
 * How a statement is refused: the message is replaced by one of the same kind that the server itself must reject, and
 * the server's error is swapped for ours when it comes. So the order in a pipeline, what is skipped until Sync, the
 * aborted transaction and the status byte of ReadyForQuery are the server's own doing and right in every case. The
 * replacement holds nothing but the session's random marker, which the server's message repeats.
 */
export type Refusable = typeof QUERY | typeof PARSE | typeof EXECUTE | typeof FUNCTION_CALL;

/**
 * What goes to the server in place of a refused message. `name` is a Parse's statement name, as sent.
 *
 *   Query, FunctionCall  Query of the marker: syntax error, ReadyForQuery (both have that shape of answer)
 *   Parse                Parse of the marker: syntax error, and the server skips to the next Sync
 *   Execute              Execute of a portal by the marker's name, which does not exist; skips likewise
 */
export function poison(type: Refusable, marker: string, name: Buffer): Buffer {
  const writer = new Writer(64 + name.length);
  writer.uint8(type === FUNCTION_CALL ? QUERY : type);
  const length = writer.reserve(4);
  if (type === PARSE) writer.cstring(name).cstring(marker).uint16be(0);
  else if (type === EXECUTE) writer.cstring(marker).int32be(0);
  else writer.cstring(marker);
  writer.patchUint32be(length, writer.length - 1);
  return writer.take();
}

/** What the client hears of it: `ERROR`, so that the session goes on. */
export function refused(refusal: Refusal): Buffer {
  return refusalResponse(refusal, 'ERROR');
}

/** The last message of a session that we end. */
export function farewell(refusal: Refusal): Buffer {
  return refusalResponse(refusal, 'FATAL');
}
