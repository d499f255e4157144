import type { JournalEvent, StatementEndedEvent, StatementStartedEvent } from './events.ts';
import { CHUNK_BYTES_MAX } from './limits.ts';

/** A session that has little to say takes no more than this. */
const FIRST_BYTES = 2 * 1024;
/** Room for a chunk and the event that makes it full, where that is no longer than most. */
const CHUNK_ROOM_BYTES = CHUNK_BYTES_MAX + 16 * 1024;
/** UTF-8 of a UTF-16 unit, at most. */
const BYTES_A_CHARACTER_MAX = 3;

/** Lines of JSON, one an event, as bytes that grow with them. */
export class Lines {
  #bytes: Buffer = Buffer.alloc(0);
  #length = 0;
  #count = 0;

  /** Bytes of the lines. */
  get length(): number {
    return this.#length;
  }

  get count(): number {
    return this.#count;
  }

  /** Bytes that are taken, for these lines and for more. */
  get room(): number {
    return this.#bytes.length;
  }

  add(event: JournalEvent): void {
    const line = `${lineOf(event)}\n`;
    this.#reserve(line);
    this.#length += this.#bytes.write(line, this.#length, 'utf8');
    this.#count += 1;
  }

  /** The bytes of the lines so far, until the next is added. */
  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  /** Begins anew, and keeps the room. */
  clear(): void {
    this.#length = 0;
    this.#count = 0;
  }

  #reserve(line: string): void {
    const room = this.#bytes.length - this.#length;
    if (line.length * BYTES_A_CHARACTER_MAX <= room) return;
    const more = Buffer.byteLength(line);
    if (more <= room) return;
    const doubled = Math.min(Math.max(this.#bytes.length * 2, FIRST_BYTES), CHUNK_ROOM_BYTES);
    const larger = Buffer.allocUnsafeSlow(Math.max(this.#length + more, doubled));
    this.#bytes.copy(larger, 0, 0, this.#length);
    this.#bytes = larger;
  }
}

/**
 * An event as its line, the same as `JSON.stringify` makes of it. The two that every statement has are put together by
 * hand: their fields are known, and only texts from outside need escapes.
 */
export function lineOf(event: JournalEvent): string {
  if (event.type === 'statement_started') return startedLine(event);
  if (event.type === 'statement_ended') return endedLine(event);
  return JSON.stringify(event);
}

function startedLine(event: StatementStartedEvent): string {
  const { session, seq, at, kind, text, text_bytes, text_sha256, masked, name, parameters, opaque } = event;
  return `{"type":"statement_started","session":"${session}","seq":${seq},"at":"${at}","kind":"${kind}","text":${quoted(text)},"text_bytes":${number(text_bytes)},"text_sha256":${digest(text_sha256)},"masked":${masked},"name":${quoted(name)},"parameters":${json(parameters)},"opaque":${opaque}}`;
}

function endedLine(event: StatementEndedEvent): string {
  const { session, seq, at, status, rows_returned, rows_affected, tag, columns, transaction } = event;
  const { error, results, sample, messages, return_status, outputs } = event;
  const { duration_us, bytes_sent, bytes_received, text_bytes, text_sha256, parameters, truncated } = event;
  const extra =
    error === null &&
    results === null &&
    sample === null &&
    messages === null &&
    return_status === null &&
    outputs === null
      ? NO_EXTRA
      : `"error":${json(error)},"results":${json(results)},"sample":${json(sample)},"messages":${json(messages)},"return_status":${json(return_status)},"outputs":${json(outputs)}`;
  let line = `{"type":"statement_ended","session":"${session}","seq":${seq},"at":"${at}","status":"${status}","rows_returned":${json(rows_returned)},"rows_affected":${json(rows_affected)},"tag":${quoted(tag)},"columns":${json(columns)},${extra},"duration_us":${number(duration_us)},"bytes_sent":${number(bytes_sent)},"bytes_received":${number(bytes_received)},"transaction":"${transaction}"`;
  if (text_bytes !== undefined) line += `,"text_bytes":${number(text_bytes)}`;
  if (text_sha256 !== undefined) line += `,"text_sha256":${digest(text_sha256)}`;
  if (parameters !== undefined) line += `,"parameters":${json(parameters)}`;
  if (truncated !== undefined) line += `,"truncated":${truncated}`;
  return `${line}}`;
}

const NO_EXTRA =
  '"error":null,"results":null,"sample":null,"messages":null,"return_status":null,"outputs":null';

function quoted(text: string | null): string {
  return text === null ? 'null' : JSON.stringify(text);
}

/** Hexadecimal digits need no escapes. */
function digest(text: string | null): string {
  return text === null ? 'null' : `"${text}"`;
}

/** JSON has no infinity. */
function number(value: number): number | string {
  return Number.isFinite(value) ? value : 'null';
}

function json(value: unknown): string {
  if (value === null) return 'null';
  return typeof value === 'number' ? `${number(value)}` : JSON.stringify(value);
}
