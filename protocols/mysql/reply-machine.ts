import type { StatementError, StatementResult, StatementStatus } from '../statement.ts';
import { STATUS_CURSOR_EXISTS, STATUS_MORE_RESULTS, STATUS_PS_OUT_PARAMS } from './capabilities.ts';
import { charsetNamed } from './charset.ts';
import type { Conversation, Exchange } from './conversation.ts';
import { readParameters } from './interpreter.ts';
import { MESSAGES_MAX, REPLY_BYTES_MAX, RESULTS_MAX, SAMPLE_ROW_BYTES_MAX } from './limits.ts';
import { Outcome, readEof, readError, readOk, readPrepareOk } from './messages.ts';
import { Fields, PACKET_PAYLOAD_BYTES_MAX, packet } from './packets.ts';
import { LOCAL_FILES_DISABLED } from './refuse.ts';
import { Sample } from './samples.ts';
import { attributeResults, sessionEffects } from './texts.ts';

/**
 * Reads the server's packets as replies to the head of the outstanding exchanges: counts what passes, finds where each
 * command's replies end, and says which packets are not for the client (replies to what we asked ourselves, a request
 * for a file that is not allowed). After the protocol documentation's "Command Phase", each command's page:
 *
 *   first ─ OK, ERR ─────────────────────────────▶ done, or first again where the status says MORE_RESULTS
 *     │ file request ─▶ first (the client sends its file)
 *     │ column count ─▶ column × n ─▶ columns_end (no DEPRECATE_EOF) ─▶ row × m ─ EOF ─▶ done, or first
 *     │ prepared ─▶ prepare_parameter × n ─▶ …_end ─▶ prepare_column × m ─▶ …_end ─▶ done
 *     └ rows of a fetch, columns of a list ─▶ row × m ─ EOF ─▶ done
 *
 * Two things servers do that the documentation does not say: the flag for "definitions follow" stands behind the column
 * count; and MySQL without DEPRECATE_EOF leaves MORE_RESULTS out of the EOF that ends a row of OUT parameters.
 */
type Expect =
  | 'first'
  | 'column'
  | 'columns_end'
  | 'row'
  | 'prepare_parameter'
  | 'prepare_parameters_end'
  | 'prepare_column'
  | 'prepare_columns_end';

const OK = 0x00;
const EOF = 0xfe;
const ERR = 0xff;
const FILE = 0xfb;
const ER_QUERY_INTERRUPTED = 1317;
/** Errors by which a server has rolled the whole transaction back: deadlock, lock table full. */
const ROLLED_BACK = new Set([1213, 1206]);
/** Errors with which a server ends the session: shutdown, killed (MariaDB's and MySQL's number), idle for too long. */
const LAST_WORDS = new Set([1053, 1927, 3169, 4031]);
const EMPTY = Buffer.alloc(0);

export class ReplyMachine {
  readonly #conversation: Conversation;
  #expect: Expect = 'first';
  readonly #outcome = new Outcome();

  // the result under way
  #rows = 0;
  #left = 0;
  #outParameters = false;
  #sawOldEof = false;
  #sample: Sample | null = null;
  /** Column names of the last result. */
  #names: readonly string[] = [];
  #prepareColumns = 0;
  #prepareMetadata = true;

  // the exchange under way
  #rowsReturned = -1;
  #affected: number | bigint = -1;
  #results: StatementResult[] | null = null;
  #closed: boolean[] | null = null;
  #messages: string[] | null = null;
  /** A file was asked for that may not be sent: replies to this exchange are ours to swallow. */
  #refusedFile: string | null = null;
  #refusedSequence = 0;
  #wasLost = false;

  constructor(conversation: Conversation) {
    this.#conversation = conversation;
  }

  /** The packets that come are rows (or what is counted like rows) for the client, and need not be looked into. */
  get expectsRows(): boolean {
    if (this.#expect !== 'row' || this.#sample?.wantsRows || this.#refusedFile !== null) return false;
    const { head } = this.#conversation;
    return head !== null && head.internal === null;
  }

  /** So many rows passed that were not shown to `packet`. */
  countRows(rows: number): void {
    this.#rows += rows;
  }

  /** How much of a packet is looked at: rows and definitions that only pass are not. */
  wanted(first: number, length: number): number {
    if (first === ERR) return REPLY_BYTES_MAX;
    if (this.#expect === 'row') {
      if (this.#isEnd(first, length)) return REPLY_BYTES_MAX;
      return this.#sample?.wantsRows ? SAMPLE_ROW_BYTES_MAX + 1 : 1;
    }
    if (this.#expect === 'column' || this.#expect === 'prepare_column') {
      return this.#sample === null ? 1 : REPLY_BYTES_MAX;
    }
    if (this.#expect === 'prepare_parameter') return 1;
    return REPLY_BYTES_MAX;
  }

  /** Whether the packet that begins so is not for the client. */
  withheld(first: number, length: number): boolean {
    const { head, facts } = this.#conversation;
    if (head === null) return false;
    if (head.internal !== null || this.#refusedFile !== null) return true;
    return (
      first === FILE &&
      this.#expect === 'first' &&
      head.reply === 'result' &&
      length > 0 &&
      !facts.settings.allowLocalInfile
    );
  }

  #isEnd(first: number, length: number): boolean {
    return (
      first === EOF && (this.#conversation.deprecateEof ? length < PACKET_PAYLOAD_BYTES_MAX : length < 9)
    );
  }

  /** One payload: `bytes` from `start` to `end` are its head, or all of it; `length` is that of its first packet. */
  packet(bytes: Buffer, start: number, end: number, length: number): void {
    const conversation = this.#conversation;
    const { head } = conversation;
    const first = start < end ? bytes[start]! : -1;
    if (head === null || head.answer !== null) {
      this.#unsolicited(first, bytes, start, end);
      return;
    }
    if (this.#wasLost) {
      if (conversation.lost) return;
      this.#wasLost = false;
      this.#forget();
    }
    if (first === ERR && length >= 3) {
      // MariaDB's progress reports look like an error of number 0xFFFF.
      if (conversation.progress && bytes[start + 1] === 0xff && bytes[start + 2] === 0xff) return;
      if (head.reply !== 'text') {
        this.#error(head, bytes, start, end);
        return;
      }
    }
    switch (this.#expect) {
      case 'row':
        if (this.#isEnd(first, length)) this.#endOfRows(head, bytes, start, end, length);
        else this.#row(bytes, start, end, length, head);
        return;
      case 'first':
        this.#first(head, first, bytes, start, end, length);
        return;
      case 'column':
        this.#sample?.addColumn(bytes, start, end, this.#conversation.extendedMetadata);
        this.#left -= 1;
        if (this.#left === 0) this.#expect = this.#conversation.deprecateEof ? 'row' : 'columns_end';
        return;
      case 'columns_end':
        this.#endOfColumns(head, bytes, start, end);
        return;
      default:
        this.#prepareDefinition(head, first, bytes, start, end, length);
    }
  }

  #row(bytes: Buffer, start: number, end: number, length: number, head: Exchange): void {
    this.#rows += 1;
    const sample = this.#sample;
    if (sample === null || !sample.wantsRows || length > SAMPLE_ROW_BYTES_MAX) return;
    sample.addRow(bytes, start, end, head.binary, this.#conversation.charset);
  }

  #first(head: Exchange, first: number, bytes: Buffer, start: number, end: number, length: number): void {
    switch (head.reply) {
      case 'one':
        this.#single(head, first, bytes, start, end, length);
        return;
      case 'text':
        this.#done(head);
        return;
      case 'result':
        if (first === OK) this.#ok(head, bytes, start, end);
        else if (first === FILE) this.#fileRequest(head, bytes, start, end);
        else this.#columnCount(head, bytes, start, end);
        return;
      case 'prepare':
        this.#prepared(head, bytes, start, end);
        return;
      default:
        // Rows of a cursor, definitions of a list, events of a stream: no head, only an end.
        if (head.reply === 'fetch') this.#sample = this.#sampleOf(head, false);
        this.#expect = 'row';
        this.#rows = 0;
        if (this.#isEnd(first, length)) this.#endOfRows(head, bytes, start, end, length);
        else this.#row(bytes, start, end, length, head);
    }
  }

  /** What is to be kept of a result; `follows`: its definitions come with it. */
  #sampleOf(head: Exchange, follows: boolean): Sample | null {
    const { sampleRows, columns } = this.#conversation.options;
    if ((sampleRows === 0 && !columns) || head.statement === null) return null;
    const sample = new Sample(sampleRows, this.#names);
    const { prepared } = head;
    if (prepared !== null && !follows) sample.assume(prepared.columnNames, prepared.columns);
    return sample;
  }

  /** A command that is answered by one packet: OK, or EOF in either form. */
  #single(head: Exchange, first: number, bytes: Buffer, start: number, end: number, length: number): void {
    const conversation = this.#conversation;
    if (first === OK || first === EOF) {
      if (first === EOF && length < 7) readEof(bytes, start, end, this.#outcome);
      else readOk(bytes, start, end, conversation.sessionTrack, this.#outcome);
      this.#noteOutcome();
    }
    this.#done(head);
  }

  #ok(head: Exchange, bytes: Buffer, start: number, end: number): void {
    const outcome = this.#outcome;
    readOk(bytes, start, end, this.#conversation.sessionTrack, outcome);
    this.#noteOutcome();
    const { affected } = outcome;
    this.#affected = this.#affected === -1 ? affected : sum(this.#affected, affected);
    if (outcome.insertId !== 0) this.#message(`insert id ${outcome.insertId}`);
    this.#endOfResult(head, null, affected, outcome.status);
  }

  /** What an OK or EOF says of the session. */
  #noteOutcome(): void {
    const outcome = this.#outcome;
    const conversation = this.#conversation;
    conversation.status = outcome.status;
    if (outcome.info !== '') this.#message(outcome.info);
    if (outcome.warnings > 0) this.#message(`${outcome.warnings} warnings`);
    if (outcome.changes !== null) conversation.apply(outcome.changes);
  }

  #message(text: string): void {
    this.#messages ??= [];
    if (this.#messages.length < MESSAGES_MAX) this.#messages.push(text.slice(0, 512));
  }

  #fileRequest(head: Exchange, bytes: Buffer, start: number, end: number): void {
    const conversation = this.#conversation;
    const name = conversation.charset.decode(bytes, start + 1, end);
    if (head.internal !== null || !conversation.facts.settings.allowLocalInfile) {
      // The server waits for a file: it gets an empty one, and the client our refusal where the file would begin.
      if (this.#refusedFile === null) this.#refusedSequence = (conversation.sequence - 1) & 0xff;
      this.#refusedFile ??= name;
      conversation.sink.toServer(packet(conversation.sequence, EMPTY));
      return;
    }
    conversation.sink.note({ kind: 'session_changed', what: 'local_file_asked', value: name });
    conversation.file = { name, bytes: 0, statement: head.statement };
    conversation.becomeFile(head);
  }

  #columnCount(head: Exchange, bytes: Buffer, start: number, end: number): void {
    const conversation = this.#conversation;
    const fields = new Fields(bytes, start, end);
    const count = fields.lenenc();
    if (fields.short || count < 1 || count > 0xffff) {
      this.#lose(head, bytes, start, end);
      return;
    }
    const follows = !conversation.countedMetadata || fields.remaining === 0 || fields.uint8() !== 0;
    this.#left = follows ? count : 0;
    this.#rows = 0;
    this.#outParameters = false;
    this.#sawOldEof = false;
    this.#sample = this.#sampleOf(head, follows);
    if (follows) this.#expect = 'column';
    else this.#expect = conversation.deprecateEof ? 'row' : 'columns_end';
  }

  #endOfColumns(head: Exchange, bytes: Buffer, start: number, end: number): void {
    const outcome = this.#outcome;
    readEof(bytes, start, end, outcome);
    this.#conversation.status = outcome.status;
    this.#outParameters = (outcome.status & STATUS_PS_OUT_PARAMS) !== 0;
    if (outcome.status & STATUS_CURSOR_EXISTS) this.#cursor(head);
    else this.#expect = 'row';
  }

  /** The rows stay on the server until they are fetched. */
  #cursor(head: Exchange): void {
    this.#rememberColumns(head);
    this.#rowsReturned = Math.max(this.#rowsReturned, 0);
    this.#endOfResult(head, 0, null, this.#outcome.status & ~STATUS_MORE_RESULTS);
  }

  #endOfRows(head: Exchange, bytes: Buffer, start: number, end: number, length: number): void {
    const conversation = this.#conversation;
    const outcome = this.#outcome;
    if (!conversation.deprecateEof || length < 7) {
      readEof(bytes, start, end, outcome);
      // A server's query cache may hold results in the old form (MySQL 5.7): then an EOF ends the definitions too.
      if (conversation.deprecateEof && this.#rows === 0 && !this.#sawOldEof && head.reply === 'result') {
        this.#sawOldEof = true;
        return;
      }
    } else readOk(bytes, start, end, conversation.sessionTrack, outcome);
    this.#noteOutcome();
    if (head.reply !== 'result') {
      if (head.reply === 'fetch') this.#rowsReturned = this.#rows;
      this.#keepSample(head);
      this.#done(head);
      return;
    }
    if (outcome.status & STATUS_CURSOR_EXISTS) {
      this.#cursor(head);
      return;
    }
    this.#rememberColumns(head);
    this.#rowsReturned = Math.max(this.#rowsReturned, 0) + this.#rows;
    let { status } = outcome;
    if (this.#outParameters && !conversation.deprecateEof) status |= STATUS_MORE_RESULTS;
    this.#endOfResult(head, this.#rows, null, status);
  }

  #rememberColumns(head: Exchange): void {
    const sample = this.#sample;
    if (head.prepared === null || sample === null) return;
    head.prepared.columns = sample.columns;
    head.prepared.columnNames = sample.names();
  }

  #keepSample(head: Exchange): void {
    const sample = this.#sample;
    const { statement } = head;
    if (sample === null || statement === null) return;
    const { sampleRows, columns } = this.#conversation.options;
    this.#names = sample.names();
    if (columns || sampleRows > 0) statement.columns = this.#names;
    if (sampleRows > 0) statement.sample = sample.rows;
  }

  /** One result is over: `rows` of it, or `affected` by it. */
  #endOfResult(head: Exchange, rows: number | null, affected: number | bigint | null, status: number): void {
    const more = (status & STATUS_MORE_RESULTS) !== 0;
    if (more || this.#results !== null) this.#addResult(rows, affected);
    this.#keepSample(head);
    this.#sample = null;
    if (more) this.#expect = 'first';
    else this.#done(head);
  }

  #addResult(rows: number | null, affected: number | bigint | null): void {
    this.#results ??= [];
    this.#closed ??= [];
    if (this.#results.length >= RESULTS_MAX) return;
    const columns = this.#sample !== null && this.#conversation.options.columns ? this.#sample.names() : null;
    this.#results.push({
      tag: null,
      rowsReturned: rows,
      rowsAffected: affected === null ? null : Number(affected),
      ...(columns === null ? {} : { columns }),
    });
    this.#closed.push(rows === null);
  }

  #prepared(head: Exchange, bytes: Buffer, start: number, end: number): void {
    const conversation = this.#conversation;
    const ok = readPrepareOk(bytes, start, end, conversation.optionalMetadata);
    const prepared = head.prepared;
    if (ok === null || prepared === null) {
      this.#lose(head, bytes, start, end);
      return;
    }
    prepared.id = ok.id;
    prepared.name = String(ok.id);
    prepared.parameters = ok.parameters;
    if (head.statement !== null) {
      head.statement.name = prepared.name;
      // The text's digest was not known before all of it had passed.
      prepared.textSha256 = head.statement.textSha256;
    }
    conversation.prepared.add(prepared);
    this.#readAgain(head);
    if (ok.warnings > 0) this.#message(`${ok.warnings} warnings`);
    const eof = !conversation.deprecateEof;
    this.#prepareColumns = ok.columns;
    this.#sample = this.#sampleOf(head, true);
    this.#left = ok.metadata ? ok.parameters : 0;
    if (ok.parameters > 0 && (this.#left > 0 || eof)) {
      this.#expect = this.#left > 0 ? 'prepare_parameter' : 'prepare_parameters_end';
      this.#prepareMetadata = ok.metadata;
      return;
    }
    this.#prepareMetadata = ok.metadata;
    this.#toPrepareColumns(head);
  }

  #toPrepareColumns(head: Exchange): void {
    const eof = !this.#conversation.deprecateEof;
    this.#left = this.#prepareMetadata ? this.#prepareColumns : 0;
    if (this.#left > 0) this.#expect = 'prepare_column';
    else if (this.#prepareColumns > 0 && eof) this.#expect = 'prepare_columns_end';
    else this.#donePrepare(head);
  }

  #prepareDefinition(
    head: Exchange,
    first: number,
    bytes: Buffer,
    start: number,
    end: number,
    length: number,
  ): void {
    const eof = !this.#conversation.deprecateEof;
    switch (this.#expect) {
      case 'prepare_parameter':
        this.#left -= 1;
        // Counts have 16 bits: where definitions end by an EOF, that is what is believed.
        if (eof && this.#isEnd(first, length)) this.#toPrepareColumns(head);
        else if (this.#left <= 0 && !eof) this.#toPrepareColumns(head);
        return;
      case 'prepare_parameters_end':
        this.#toPrepareColumns(head);
        return;
      case 'prepare_column':
        if (eof && this.#isEnd(first, length)) {
          this.#donePrepare(head);
          return;
        }
        this.#sample?.addColumn(bytes, start, end, this.#conversation.extendedMetadata);
        this.#left -= 1;
        if (this.#left <= 0 && !eof) this.#donePrepare(head);
        return;
      default:
        this.#donePrepare(head);
    }
  }

  #donePrepare(head: Exchange): void {
    this.#rememberColumns(head);
    this.#sample = null;
    this.#done(head);
  }

  /** Executions were sent before the server had said how many parameters the statement has. */
  #readAgain(head: Exchange): void {
    const conversation = this.#conversation;
    const { prepared } = head;
    for (let exchange = head.next; exchange !== null; exchange = exchange.next) {
      const { unread, statement } = exchange;
      if (exchange.prepared !== prepared || unread === null || statement === null) continue;
      statement.name = prepared!.name;
      if (exchange.assumedParameters !== prepared!.parameters) {
        const fields = new Fields(unread, 5);
        readParameters(statement, fields, prepared!, prepared!.parameters!, conversation, false);
      }
      exchange.unread = null;
    }
  }

  #error(head: Exchange, bytes: Buffer, start: number, end: number): void {
    const error = readError(bytes, start, end);
    const { statement } = head;
    if (ROLLED_BACK.has(error.errno)) this.#conversation.status &= ~1;
    if (head.internal !== null) {
      const code = { errno: error.errno, sqlstate: error.sqlstate };
      this.#forget();
      this.#conversation.shift();
      head.internal({ code, message: error.message });
      return;
    }
    const afterRows = this.#expect === 'row' && (head.reply === 'result' || head.reply === 'fetch');
    if (afterRows) this.#rowsReturned = Math.max(this.#rowsReturned, 0) + this.#rows;
    if (this.#results !== null) {
      this.#addResult(afterRows ? this.#rows : null, null);
      this.#closed![this.#closed!.length - 1] = true;
    }
    if (LAST_WORDS.has(error.errno)) this.#conversation.leaving = 'server';
    if (statement !== null) this.#keepSample(head);
    if (this.#refusedFile !== null) {
      this.#refusedFileDone(head);
      return;
    }
    this.#conversation.shift();
    const status = error.errno === ER_QUERY_INTERRUPTED ? 'cancelled' : 'error';
    this.#complete(head, status, { code: `${error.errno}/${error.sqlstate}`, message: error.message });
  }

  /** All of a command's replies are there. */
  #done(head: Exchange): void {
    if (head.internal !== null) {
      this.#forget();
      this.#conversation.shift();
      head.internal(null);
    } else if (this.#refusedFile !== null) this.#refusedFileDone(head);
    else {
      this.#conversation.shift();
      head.applied?.();
      this.#complete(head, 'ok', null);
    }
  }

  /** Ends the statement of an exchange that is over, and forgets what was kept for it. */
  #complete(head: Exchange, status: StatementStatus, error: StatementError | null): void {
    const { statement } = head;
    if (statement !== null) {
      statement.error = error;
      if (this.#rowsReturned >= 0) statement.rowsReturned = this.#rowsReturned;
      if (this.#affected !== -1) statement.rowsAffected = this.#affected;
      if (this.#messages !== null) {
        statement.messages =
          statement.messages === null ? this.#messages : [...statement.messages, ...this.#messages];
      }
      if (this.#results !== null) this.#attribute(head, status !== 'ok');
      if (head.text && status === 'ok') this.#sessionEffects(statement.text);
    }
    this.#forget();
    if (statement !== null) this.#conversation.end(statement, status, head.received);
  }

  #attribute(head: Exchange, failed: boolean): void {
    const statement = head.statement!;
    const results = this.#results!;
    statement.results = results;
    const { multiStatements, status } = this.#conversation;
    // A text that was cut has lost statements; results beyond what is listed have none to be given.
    if (!head.text || !multiStatements || statement.text === null || results.length >= RESULTS_MAX) return;
    if (statement.textSha256 !== null) return;
    attributeResults(statement.text, status, results, this.#closed!, failed);
  }

  #sessionEffects(text: string | null): void {
    if (text === null) return;
    const effects = sessionEffects(text);
    const conversation = this.#conversation;
    if (effects.charset !== null) conversation.charset = charsetNamed(effects.charset);
    if (effects.database !== null) conversation.changeDatabase(effects.database);
  }

  /** Forgets what was kept for the exchange under way. */
  #forget(): void {
    this.#expect = 'first';
    this.#rows = 0;
    this.#rowsReturned = -1;
    this.#affected = -1;
    this.#results = null;
    this.#closed = null;
    this.#messages = null;
    this.#sample = null;
  }

  /** The server has finished with the empty file that it was given: the client hears why. */
  #refusedFileDone(head: Exchange): void {
    const conversation = this.#conversation;
    const name = this.#refusedFile!;
    this.#refusedFile = null;
    const code = LOCAL_FILES_DISABLED[conversation.facts.flavor];
    const message = 'loading local data is not allowed on this resource';
    this.#complete(head, 'denied', {
      code: `${code.errno}/${code.sqlstate}`,
      message: `${message}: ${name}`,
    });
    // It stays at the head, to be answered once all before it has passed.
    head.answer = { code, message };
    head.sequence = this.#refusedSequence;
  }

  /** What cannot be followed passes unread until the client's next command tells that the replies are over. */
  #lose(head: Exchange, bytes: Buffer, start: number, end: number): void {
    const conversation = this.#conversation;
    this.#wasLost = true;
    conversation.lost = true;
    this.#forget();
    conversation.sink.note({
      kind: 'opaque',
      reason: `a reply of the server to ${head.reply} could not be read`,
      trace: bytes.toString('hex', start, Math.min(end, start + 16)),
    });
  }

  /** The server speaks although nothing was asked: why it ends the session. */
  #unsolicited(first: number, bytes: Buffer, start: number, end: number): void {
    if (first !== ERR) return;
    const conversation = this.#conversation;
    const error = readError(bytes, start, end);
    conversation.leaving = 'server';
    conversation.sink.note({
      kind: 'server_notice',
      code: `${error.errno}/${error.sqlstate}`,
      message: error.message,
    });
  }
}

function sum(left: number | bigint, right: number | bigint): number | bigint {
  if (typeof left === 'number' && typeof right === 'number') return left + right;
  return BigInt(left) + BigInt(right);
}
