import { Statement } from '../statement.ts';
import { ValueCapture } from './extents.ts';
import { MessageType } from './frames.ts';
import { ALL_HEADERS_BYTES_MAX } from './limits.ts';
import { type Call, type CallOptions, CallReader } from './rpc.ts';
import { TextCapture } from './text.ts';

/**
 * Reads the payload of one request as its packets pass: ALL_HEADERS (MS-TDS 2.2.5.3, from TDS 7.2 on), and behind them
 * a batch's text, calls, or a transaction manager request. A bulk load's rows are not looked at.
 */
export class RequestReader {
  readonly type: number;
  readonly #text: TextCapture | null;
  readonly #calls: CallReader | null;
  readonly #body: ValueCapture | null;
  /** Bytes of the word that says how long the headers are, and what it says so far; then the bytes left of them. */
  readonly #hasHeaders: boolean;
  #headerWordBytes = 0;
  #headersLength = 0;
  #headersLeft: number;
  lost = false;

  constructor(type: number, options: CallOptions) {
    this.type = type;
    this.#hasHeaders = options.wide && type !== MessageType.bulkLoad;
    this.#headersLeft = this.#hasHeaders ? -1 : 0;
    this.#text = type === MessageType.sqlBatch ? new TextCapture() : null;
    this.#text?.start();
    this.#calls = type === MessageType.rpc ? new CallReader(options) : null;
    this.#body = type === MessageType.transactionManager ? new ValueCapture() : null;
    this.#body?.begin(TRANSACTION_REQUEST_BYTES_MAX, false);
  }

  /** Prepares for another request of the same type. */
  reset(): void {
    this.#headerWordBytes = 0;
    this.#headersLength = 0;
    this.#headersLeft = this.#hasHeaders ? -1 : 0;
    this.lost = false;
    this.#text?.start();
    this.#calls?.reset();
    this.#body?.begin(TRANSACTION_REQUEST_BYTES_MAX, false);
  }

  feed(bytes: Buffer, start: number, end: number): void {
    let position = start;
    if (this.#headersLeft !== 0) position = this.#skipHeaders(bytes, start, end);
    if (position >= end || this.lost) return;
    if (this.#text !== null) this.#text.add(bytes, position, end);
    else if (this.#calls !== null) this.#calls.feed(bytes, position, end);
    else if (this.#body !== null) this.#body.add(bytes, position, end);
  }

  /** The memory of what was fed is about to be used for something else, and the message goes on. */
  keep(): void {
    this.#text?.keep();
    this.#calls?.keep();
    this.#body?.keep();
  }

  /** The message is over. */
  end(): void {
    if (this.#headersLeft !== 0) this.lost = true;
    this.#calls?.end();
    if (this.#calls?.lost) this.lost = true;
  }

  /** The calls that have begun, the last of which may still be passing. */
  get calls(): readonly Call[] {
    return this.#calls?.calls ?? NO_CALLS;
  }

  /** Makes what has come of a statement that is still passing readable. */
  settle(): void {
    this.#calls?.settle();
    if (this.#calls?.lost) this.lost = true;
  }

  /** The batch's text as far as it was kept, its length in bytes so far, and, of one that was cut, its digest. */
  batch(): Statement {
    const capture = this.#text!;
    const text = this.lost ? null : capture.text;
    const statement = new Statement('batch', text, text === null ? 0 : capture.utf8Bytes(text));
    statement.opaque = this.lost || capture.cut;
    return statement;
  }

  /** Completes what `batch` said when only a part of the text had come. */
  completeBatch(statement: Statement): void {
    const capture = this.#text!;
    statement.textSha256 = capture.textDigest() ?? statement.textSha256;
    statement.textBytes = capture.utf8Bytes(capture.text);
  }

  transaction(): Statement {
    return transactionStatement(this.#body!.bytes, this.lost);
  }

  #skipHeaders(bytes: Buffer, start: number, end: number): number {
    if (this.#headersLeft < 0 && this.#headerWordBytes === 0 && end - start >= 4) {
      const length = bytes.readUInt32LE(start);
      if (length >= 4 && length <= ALL_HEADERS_BYTES_MAX && length <= end - start) {
        this.#headersLeft = 0;
        return start + length;
      }
    }
    let position = start;
    while (this.#headersLeft < 0 && position < end) {
      this.#headersLength += bytes[position++]! * 256 ** this.#headerWordBytes++;
      if (this.#headerWordBytes < 4) continue;
      if (this.#headersLength < 4 || this.#headersLength > ALL_HEADERS_BYTES_MAX) {
        this.lost = true;
        return end;
      }
      this.#headersLeft = this.#headersLength - 4;
    }
    if (this.#headersLeft <= 0) return position;
    const taken = Math.min(this.#headersLeft, end - position);
    this.#headersLeft -= taken;
    return position + taken;
  }
}

const NO_CALLS: readonly Call[] = [];

/** Two names of at most 255 bytes and what stands between them; a DTC cookie may be longer, and is not read. */
const TRANSACTION_REQUEST_BYTES_MAX = 1024;

/** Request types (MS-TDS 2.2.6.9) in words, the first four without a counterpart in T-SQL. */
const TRANSACTION_REQUESTS: Readonly<Record<number, string>> = {
  0: 'GET DTC ADDRESS',
  1: 'PROPAGATE TRANSACTION',
  5: 'BEGIN TRANSACTION',
  6: 'PROMOTE TRANSACTION',
  7: 'COMMIT TRANSACTION',
  8: 'ROLLBACK TRANSACTION',
  9: 'SAVE TRANSACTION',
};

const ISOLATION_LEVELS = [
  null,
  'read uncommitted',
  'read committed',
  'repeatable read',
  'serializable',
  'snapshot',
] as const;

const BEGIN = 5;

function transactionStatement(bytes: Buffer, lost: boolean): Statement {
  const type = bytes.length < 2 ? -1 : bytes.readUInt16LE(0);
  const text = TRANSACTION_REQUESTS[type];
  const statement = new Statement('command', text ?? null, 0);
  statement.opaque = lost || text === undefined;
  if (statement.opaque || type < BEGIN || text === undefined) return statement;
  let position = 2;
  if (type === BEGIN) {
    const level = ISOLATION_LEVELS[bytes[position] ?? 0];
    if (level) statement.parameters = [{ name: 'isolation_level', type: null, value: level }];
    position += 1;
  }
  const nameBytes = bytes[position] ?? 0;
  const name = bytes.toString('utf16le', position + 1, Math.min(bytes.length, position + 1 + nameBytes));
  if (name !== '' && type !== 6) statement.name = name;
  return statement;
}
