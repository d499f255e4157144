import type { Refusal, RefusalCode } from '../error.ts';
import { errorToken } from './errors.ts';
import { MessageType } from './frames.ts';
import { buildMessage } from './messages.ts';
import { type TdsVersion, versionAtLeast } from './session.ts';
import { DoneStatus, Token } from './tokens.ts';

/**
 * What a client hears of us after sign-in: an ERROR and a DONE as the whole answer to a request of which nothing has
 * been answered (MS-TDS 2.2.7.10, 2.2.7.6). Numbers from 50000 up are free for applications.
 */

const NUMBERS: Readonly<Partial<Record<RefusalCode, number>>> = {
  statement_not_allowed: 50_501,
  protocol_violation: 50_502,
  recording_failed: 50_503,
  recording_unavailable: 50_503,
  killed: 50_504,
  shutdown: 50_505,
  idle_timeout: 50_506,
  idle_in_transaction: 50_507,
  max_duration: 50_508,
  launch_expired: 50_509,
  server_closed: 50_510,
};
const OTHER_NUMBER = 50_500;

/** Severity 16: an error that the person can mend. The session goes on. */
const STATEMENT_CLASS = 16;
/** Severity 20: the connection is over. */
const SESSION_CLASS = 20;

export interface Speaker {
  readonly version: TdsVersion;
  readonly packetBytes: number;
  /** What the error names as the server. */
  readonly serverName: string;
}

/** The number that `refusal` has in the ERROR token, for the record. */
export function refusalNumber(refusal: Refusal): number {
  return NUMBERS[refusal.code] ?? OTHER_NUMBER;
}

export function refusalText(refusal: Refusal): string {
  return `Sallyport: ${refusal.message}.${refusal.hint === null ? '' : ` ${refusal.hint}`}`;
}

/** The answer to a batch (`calls` 0), or to a message of that many calls, each of which gets its own end. */
export function refusedRequest(refusal: Refusal, calls: number, speaker: Speaker): Buffer {
  const error = errorToken(errorFields(refusal, STATEMENT_CLASS, speaker), speaker.version);
  const parts: Buffer[] = [];
  if (calls === 0) parts.push(error, doneToken(Token.done, DoneStatus.error, speaker.version));
  for (let call = 1; call <= calls; call++) {
    const more = call < calls ? DoneStatus.more | DoneStatus.callInBatch : 0;
    parts.push(error, doneToken(Token.doneProcedure, DoneStatus.error | more, speaker.version));
  }
  return buildMessage(MessageType.tabularResult, Buffer.concat(parts), speaker.packetBytes);
}

/** The last words of a session, as the answer to a request that waits for one. */
export function sessionEnd(refusal: Refusal, speaker: Speaker): Buffer {
  const error = errorToken(errorFields(refusal, SESSION_CLASS, speaker), speaker.version);
  const done = doneToken(Token.done, DoneStatus.error, speaker.version);
  return buildMessage(MessageType.tabularResult, Buffer.concat([error, done]), speaker.packetBytes);
}

function errorFields(refusal: Refusal, severity: number, speaker: Speaker) {
  return {
    number: refusalNumber(refusal),
    state: 1,
    class: severity,
    message: refusalText(refusal),
    serverName: speaker.serverName,
  };
}

/** A DONE token without a count; 9 bytes up to TDS 7.1, 13 from 7.2. */
function doneToken(token: number, status: number, version: TdsVersion): Buffer {
  const bytes = Buffer.alloc(versionAtLeast(version, '7.2') ? 13 : 9);
  bytes[0] = token;
  bytes.writeUInt16LE(status, 1);
  return bytes;
}
