import type { ObserveOptions, Sink } from '../engine.ts';
import type { Refusal } from '../error.ts';
import type { Statement, TransactionState } from '../statement.ts';
import { decodeUtf8, type TextDecode, textDecoder } from './encoding.ts';
import {
  BIND,
  CLOSE,
  COPY_DONE,
  DESCRIBE,
  EXECUTE,
  FUNCTION_CALL,
  PARSE,
  QUERY,
  type RowDescription,
  type ServerMessage,
  SYNC,
} from './messages.ts';
import { CLOSE_PORTAL, DESCRIBE_PORTAL, Operation, OperationQueue } from './operations.ts';
import { belongs, executionOf, failureOf, takeStatement } from './records.ts';
import { addError, addNotice, addResult, keepResults } from './results.ts';
import type { SessionFacts } from './session.ts';
import { Names, type Portal } from './statements.ts';
import { OPAQUE_NOTES_MAX } from './stream-limits.ts';
import type { Tag } from './tags.ts';

/**
 * What client and server have said to each other, in the server's order.
 *
 * A server message is always seen after the client message that caused it, but client messages may be any distance
 * ahead: whole pipelines, errors that make the server skip what was sent already, Syncs that it swallows within COPY.
 * So each client message that is answered waits in a queue, and the answers consume it.
 *
 * A Sync that the server reads within COPY FROM STDIN is not answered: such entries are *soft*. Where a COPY fails it
 * cannot be known at once whether the server had read a Sync before: those are *maybe*. `need` passes over both when
 * the answer is for what stands behind them. After an error of the extended protocol the server skips to the next
 * Sync: what was sent in between is dropped from the queue, and what is yet to come is not queued (`skip`). Where only
 * soft Syncs are there, it is not known whether it skips: what follows is *tentative* until the next ReadyForQuery.
 */
export class Conversation {
  readonly queue = new OperationQueue();
  readonly names = new Names(this.queue);
  decode: TextDecode;
  transaction: TransactionState;
  /** The server skips to the next Sync. */
  skip = false;
  /** Syncs sent so far that are answered. */
  group = 0;
  /** DataRows since the last result. */
  rows = 0;
  /** Bytes of CopyData that the client has sent since the last CopyDone or CopyFail. */
  copyBytes = 0;
  /** Where in the server's stream the message under observation ends. */
  position = 0;
  /** The thread is lost: bytes pass, and nothing is attributed until a ReadyForQuery answers all that is queued. */
  lost = false;
  /** The server has said that it ends the session. */
  serverLeaves = false;
  /** Refused messages that the server has not answered yet. */
  poisons = 0;
  /** The rows of the result under way as text, while they are wanted. */
  sample: (readonly (string | null)[])[] | null = null;
  /** The columns of the result under way, where they are wanted. */
  description: RowDescription | null = null;
  /** Type letters of the last messages of both sides, for the note that the thread was lost. */
  trace: () => string = () => '';

  readonly #sink: Sink;
  readonly #describes: boolean;
  #tentative = false;
  /** The operation that the server is in COPY FROM STDIN for. */
  #copy: Operation | null = null;
  /** The client has ended that copy. */
  #copyEnded = false;
  #described = false;
  #copiedOut = false;
  /** Where the bytes of the answer under way begin. */
  #mark = 0;
  /** Statements that are over: told at the next ReadyForQuery, which knows the transaction, or at the end of the chunk. */
  #ending: Statement | null = null;
  #endings: Statement[] = [];
  #lastRefusal: Refusal | null = null;
  #notes = 0;
  readonly #parameters: Map<string, string>;

  constructor(sink: Sink, options: ObserveOptions, facts: SessionFacts) {
    this.#sink = sink;
    this.#describes = options.columns || options.sampleRows > 0;
    this.#parameters = new Map(facts.parameters);
    const encoding = facts.parameters.get('client_encoding');
    this.decode = encoding === undefined ? decodeUtf8 : textDecoder(encoding);
    this.transaction = transactionOf(facts.transactionStatus.charCodeAt(0));
  }

  get busy(): boolean {
    return this.queue.busy;
  }

  // What the client sends.

  /** Makes an operation for a client message; `sent` queues it. */
  operation(kind: number, name: string): Operation {
    return new Operation(kind, name, this.#tentative, this.group);
  }

  /** Queues an operation; one that the server is sure to skip is dropped at once. */
  sent(operation: Operation): void {
    if (!this.skip) {
      this.queue.push(operation);
      return;
    }
    operation.dropped = true;
    this.#dropStatement(operation);
  }

  syncSent(): void {
    const operation = this.operation(SYNC, '');
    operation.soft = this.#copy !== null && !this.#copyEnded;
    this.queue.push(operation);
    this.skip = false;
    if (operation.soft) return;
    this.#tentative = false;
    this.group += 1;
  }

  /** CopyDone or CopyFail. Nothing answers it; it tells which Syncs the copy has swallowed. */
  copyEndSent(): void {
    if (this.skip) return;
    const operation = this.operation(COPY_DONE, '');
    operation.bytes = this.copyBytes;
    this.copyBytes = 0;
    this.queue.push(operation);
    if (this.#copy !== null) this.#copyEnded = true;
  }

  // What the server answers.

  parseComplete(): void {
    const operation = this.#need(PARSE);
    if (operation === null) return;
    this.queue.shift();
    this.names.parsed(operation);
    if (operation.statement !== null) this.#finish(operation.statement, 'ok');
  }

  bindComplete(): void {
    const operation = this.#need(BIND);
    if (operation === null) return;
    this.queue.shift();
    const portal = operation.portal!;
    const prepared = this.names.prepared(portal.preparedName);
    if (prepared !== portal.prepared) {
      portal.prepared = prepared;
      portal.mistaken = true;
    }
    const before = this.names.bound(operation);
    if (before !== null && before.statement !== null) this.#portalEnded(before);
  }

  closeComplete(): void {
    const operation = this.#need(CLOSE, CLOSE_PORTAL);
    if (operation === null) return;
    this.queue.shift();
    if (operation.kind === CLOSE) {
      this.names.closePrepared(operation.name);
      return;
    }
    const portal = this.names.closePortal(operation.name);
    if (portal !== null && portal.statement !== null) this.#portalEnded(portal);
  }

  parameterDescription(types: readonly number[] | null): void {
    const operation = this.#need(DESCRIBE);
    if (operation === null) return;
    const prepared = this.names.prepared(operation.name);
    if (prepared !== null && types !== null) prepared.types = types;
  }

  /** RowDescription; null where it is not wanted or could not be read. */
  rowDescription(description: RowDescription | null): void {
    const operation = this.#need(QUERY, EXECUTE, DESCRIBE, DESCRIBE_PORTAL);
    if (operation === null) return;
    if (operation.kind === QUERY || operation.kind === EXECUTE) {
      this.#described = true;
      this.description = description;
      return;
    }
    this.queue.shift();
    if (description === null) return;
    if (operation.kind === DESCRIBE) {
      const prepared = this.names.prepared(operation.name);
      if (prepared !== null) prepared.description = description;
    } else {
      const portal = this.names.portal(operation.name);
      if (portal !== null) portal.description = description;
    }
  }

  noData(): void {
    if (this.#need(DESCRIBE, DESCRIBE_PORTAL) !== null) this.queue.shift();
  }

  copyInResponse(): void {
    const operation = this.#need(QUERY, EXECUTE);
    if (operation === null) return;
    this.#copy = operation;
    this.#copyEnded = false;
    let index = 1;
    let next = this.queue.at(index);
    while (next !== null && next.kind === SYNC) {
      next.soft = true;
      index += 1;
      next = this.queue.at(index);
    }
    for (; next !== null; index += 1, next = this.queue.at(index)) {
      if (next.kind !== COPY_DONE) continue;
      this.#copyEnded = true;
      break;
    }
  }

  copyOutResponse(): void {
    if (this.#need(QUERY, EXECUTE) !== null) this.#copiedOut = true;
  }

  /** START_REPLICATION: data flows both ways for as long as the client likes. */
  copyBothResponse(): void {
    this.#need(QUERY, EXECUTE);
  }

  /** CommandComplete (`tag`), EmptyQueryResponse (null) or PortalSuspended (null, `suspended`). */
  result(tag: Tag | null, suspended: boolean): void {
    const operation = this.#need(EXECUTE, QUERY);
    if (operation === null) return;
    if (operation.kind === QUERY) {
      this.#addResult(operation.statement, operation.results, tag, this.description);
      operation.results += 1;
      if (this.#copy === operation) this.#endCopy(operation);
      if (tag !== null) this.#forgetNames(tag);
    } else {
      this.#executed(operation, tag, suspended);
    }
    this.#resetResult();
  }

  /** Types and formats of the columns of the result under way, as far as they are known. */
  columnForms(): { types: readonly number[] | null; formats: readonly number[] | null } {
    const front = this.queue.front();
    if (this.lost || front === null || front.kind !== EXECUTE) {
      return { types: this.description?.types ?? null, formats: this.description?.formats ?? null };
    }
    const portal = this.names.portal(front.name) ?? front.portal;
    const description = portal?.description ?? portal?.prepared?.description ?? null;
    return { types: description?.types ?? null, formats: portal?.formats ?? null };
  }

  functionCallResponse(): void {
    this.#need(FUNCTION_CALL);
  }

  readyForQuery(status: number): void {
    this.transaction = transactionOf(status);
    if (this.lost) {
      this.#resume();
      return;
    }
    const operation = this.#need(SYNC, QUERY, FUNCTION_CALL);
    if (operation === null) return;
    this.queue.shift();
    if (operation.kind === SYNC) {
      if (operation.soft && !operation.maybe) this.#softSyncAnswered();
    } else {
      if (operation.kind === QUERY) {
        const portal = this.names.closeUnnamed();
        if (portal !== null && portal.statement !== null) this.#portalEnded(portal);
      }
      const { statement } = operation;
      if (statement !== null) {
        statement.bytesReceived += this.position - this.#mark;
        this.#finish(statement, statement.error === null ? 'ok' : statement.status);
      }
      this.#resetResult();
    }
    this.#mark = this.position;
    if (status === STATUS_IDLE) this.names.closePortals(this.#portalEndedBound);
    this.tellEndings();
  }

  notice(message: ServerMessage): void {
    const operation = this.queue.front();
    const statement = operation === null ? null : operation.statement;
    if (statement !== null) addNotice(statement, message);
    else this.#sink.note({ kind: 'server_notice', code: message.code, message: message.message });
  }

  parameterStatus(name: string, value: string): void {
    const before = this.#parameters.get(name);
    this.#parameters.set(name, value);
    if (name === 'client_encoding') this.decode = textDecoder(value);
    const telling = name === 'session_authorization' || name === 'is_superuser';
    if (telling && before !== value) this.#sink.note({ kind: 'session_changed', what: name, value });
  }

  /**
   * An ErrorResponse. `refused` says that it repeats our marker: it answers a refused message, and what is returned
   * is what the client hears instead. Null otherwise.
   */
  error(message: ServerMessage, refused: boolean): Refusal | null {
    if (message.severity === 'FATAL' || message.severity === 'PANIC') this.serverLeaves = true;
    if (this.lost) return refused ? this.#lastRefusal : null;
    let index = 0;
    let operation = this.queue.at(index);
    while (operation !== null && !operation.certain) {
      index += 1;
      operation = this.queue.at(index);
    }
    if (operation === null || operation.kind === SYNC) {
      this.#asynchronousError(message);
      return refused ? this.#lastRefusal : null;
    }
    this.queue.filterFront(index, () => true);
    const { refusal } = operation;
    if (refused && refusal !== null) this.poisons -= 1;
    const copied = this.#copy === operation;
    if (copied) this.#countCopy(operation);
    this.#copy = null;
    if (operation.kind === QUERY || operation.kind === FUNCTION_CALL)
      this.#failed(operation, message, copied);
    else this.#failedGroup(operation, message);
    this.#resetResult();
    return refused ? (refusal ?? this.#lastRefusal) : null;
  }

  // Records.

  /** A refused statement: on record, and over. `operation` stands for what is sent in its place. */
  refuse(operation: Operation, statement: Statement | null, refusal: Refusal): void {
    operation.refusal = refusal;
    this.#lastRefusal = refusal;
    if (!this.skip) this.poisons += 1;
    if (statement === null) return;
    this.#sink.begin(statement);
    statement.status = 'denied';
    statement.transaction = this.transaction;
    this.#sink.end(statement);
  }

  /** Tells of the statements that are over. */
  tellEndings(): void {
    const first = this.#ending;
    if (first === null) return;
    this.#ending = null;
    first.transaction = this.transaction;
    this.#sink.end(first);
    if (this.#endings.length === 0) return;
    const endings = this.#endings;
    this.#endings = [];
    for (const statement of endings) {
      statement.transaction = this.transaction;
      this.#sink.end(statement);
    }
  }

  /** The session is over: whatever is open ends with `status`. */
  close(status: 'unknown' | 'cancelled'): void {
    for (let operation = this.queue.front(); operation !== null; operation = this.queue.front()) {
      this.queue.shift();
      const statement = takeStatement(operation);
      if (statement !== null) this.#finish(statement, statement.error === null ? status : statement.status);
    }
    for (const portal of this.names.openPortals()) {
      if (portal.statement !== null) this.#finish(portal.statement, 'ok');
      portal.statement = null;
    }
    this.tellEndings();
  }

  /** The server's words do not fit what was asked. */
  lose(reason: string): void {
    if (this.lost) return;
    this.lost = true;
    this.skip = false;
    this.#tentative = false;
    this.#copy = null;
    this.poisons = 0;
    this.#drain();
    this.tellEndings();
    this.#notes += 1;
    if (this.#notes <= OPAQUE_NOTES_MAX) this.#sink.note({ kind: 'opaque', reason, trace: this.trace() });
  }

  /** Empties the queue of what cannot be followed: its statements end unknown, its names are taken as they were meant. */
  #drain(): void {
    for (let operation = this.queue.front(); operation !== null; operation = this.queue.front()) {
      this.queue.shift();
      this.#giveUp(operation);
    }
  }

  #giveUp(operation: Operation): void {
    if (operation.kind === PARSE && operation.refusal === null) this.names.parsed(operation);
    else if (operation.kind === BIND) this.names.bound(operation);
    const statement = takeStatement(operation);
    if (statement === null) return;
    statement.opaque = true;
    this.#finish(statement, 'unknown');
  }

  /** While the thread is lost, each ReadyForQuery is taken for the first Sync or Query that waits for one. */
  #resume(): void {
    for (let operation = this.queue.front(); operation !== null; operation = this.queue.front()) {
      this.queue.shift();
      this.#giveUp(operation);
      if (operation.kind === SYNC || operation.kind === QUERY || operation.kind === FUNCTION_CALL) break;
    }
    this.tellEndings();
    this.rows = 0;
    this.#mark = this.position;
    if (this.queue.front() === null) this.lost = false;
  }

  /** The front operation, if it is of one of these kinds. Soft and uncertain Syncs that stand before it are dropped. */
  #need(kind: number, or = 0, orElse = 0, orLast = 0): Operation | null {
    if (this.lost) return null;
    for (;;) {
      const front = this.queue.front();
      if (front === null) break;
      const found = front.kind;
      if (found === kind || found === or || found === orElse || found === orLast) return front;
      if (front.certain) break;
      this.queue.shift();
    }
    this.lose('the server answered what was not asked');
    return null;
  }

  #resetResult(): void {
    this.rows = 0;
    this.#described = false;
    this.#copiedOut = false;
    this.description = null;
    this.sample = null;
  }

  #addResult(
    statement: Statement | null,
    earlier: number,
    tag: Tag | null,
    description: RowDescription | null,
  ): void {
    if (statement === null) return;
    addResult(statement, earlier, {
      tag,
      rows: this.rows,
      described: this.#described,
      copiedOut: this.#copiedOut,
      description,
      sample: this.sample,
    });
  }

  /** An Execute has run to its end, or to its row limit. */
  #executed(operation: Operation, tag: Tag | null, suspended: boolean): void {
    const portal = this.names.portal(operation.name) ?? operation.portal;
    if (operation.statement !== null && (portal !== operation.portal || portal?.mistaken)) {
      this.#correct(operation, portal);
    }
    const { statement } = operation;
    if (statement !== null) {
      const description = this.#describes
        ? (portal?.description ?? portal?.prepared?.description ?? null)
        : null;
      this.#addResult(statement, portal === null ? 0 : portal.results, tag, description);
      statement.bytesReceived += this.position - this.#mark;
    }
    this.#mark = this.position;
    if (this.#copy === operation) this.#endCopy(operation);
    this.queue.shift();
    if (tag !== null) this.#forgetNames(tag);
    if (statement === null) return;
    if (portal === null) {
      this.#finish(statement, 'ok');
      return;
    }
    portal.results += 1;
    portal.pending -= 1;
    if (suspended || portal.pending > 0) return;
    portal.statement = null;
    this.#finish(statement, 'ok');
  }

  /**
   * The name meant something else than was foreseen when the Execute was sent, because a message before it failed.
   * What was foreseen did not run; what did run gets a record of its own.
   */
  #correct(operation: Operation, portal: Portal | null): void {
    const mistaken = operation.statement!;
    if (takeStatement(operation) !== null) {
      mistaken.messages = ['not executed: its name stood for another statement'];
      this.#finish(mistaken, 'cancelled');
    }
    operation.portal = portal;
    if (portal !== null) {
      portal.pending += 1;
      operation.statement = portal.statement;
      if (operation.statement !== null) return;
    }
    const statement = executionOf(portal, operation.name);
    statement.name ??= mistaken.name;
    statement.bytesSent = mistaken.bytesSent;
    this.#sink.begin(statement);
    operation.statement = statement;
    if (portal === null) return;
    portal.mistaken = false;
    portal.statement = statement;
    portal.results = 0;
  }

  /** COPY FROM STDIN is over: the Syncs it swallowed and the client's CopyDone go. */
  #endCopy(operation: Operation): void {
    this.#countCopy(operation);
    let count = 1;
    while (this.queue.at(count)?.soft) count += 1;
    if (this.queue.at(count)?.kind === COPY_DONE) count += 1;
    this.queue.filterFront(count, (candidate) => candidate !== operation);
    this.#copy = null;
  }

  /** Adds the bytes that were copied to the statement. */
  #countCopy(operation: Operation): void {
    let bytes = this.copyBytes;
    let index = 1;
    let next = this.queue.at(index);
    while (next !== null && next.kind === SYNC) {
      index += 1;
      next = this.queue.at(index);
    }
    if (next !== null && next.kind === COPY_DONE) bytes = next.bytes;
    else this.copyBytes = 0;
    if (operation.statement !== null) operation.statement.bytesSent += bytes;
  }

  /** A Query or FunctionCall has failed. It keeps its place: its ReadyForQuery is still to come. */
  #failed(operation: Operation, message: ServerMessage, copied: boolean): void {
    const { statement } = operation;
    if (statement !== null) {
      keepResults(statement, operation.results);
      addError(statement, message);
      if (this.rows > 0) statement.rowsReturned = (statement.rowsReturned ?? 0) + this.rows;
    }
    if (!copied) return;
    for (let index = 1, next = this.queue.at(1); next?.soft; index += 1, next = this.queue.at(index)) {
      next.maybe = true;
    }
  }

  /** A message of the extended protocol has failed: it and what follows it up to the next Sync are gone. */
  #failedGroup(operation: Operation, message: ServerMessage): void {
    const hard = this.queue.firstHardSync();
    const count = hard < 0 ? this.queue.size : hard;
    this.#recordFailure(operation, message, count);
    let softLeft = false;
    this.queue.filterFront(count, (candidate) => {
      if (candidate.kind === SYNC) {
        softLeft = true;
        return false;
      }
      candidate.dropped = true;
      if (candidate !== operation) this.#dropStatement(candidate);
      return true;
    });
    this.#mark = this.position;
    if (hard >= 0) return;
    if (softLeft) this.#tentative = true;
    else this.skip = true;
  }

  /** Puts the error on record: with the statement that the failed message belongs to, or as one of its own. */
  #recordFailure(operation: Operation, message: ServerMessage, count: number): void {
    if (operation.refusal !== null) return;
    let holder = operation;
    if (operation.statement === null) {
      for (let index = 1; index < count; index += 1) {
        const candidate = this.queue.at(index)!;
        if (candidate.kind === EXECUTE && candidate.statement !== null && belongs(candidate, operation)) {
          holder = candidate;
          break;
        }
      }
    }
    let { statement } = holder;
    if (statement === null) {
      if (operation.kind === EXECUTE) return; // it follows a refused Parse
      statement = failureOf(operation);
      this.#sink.begin(statement);
    } else {
      const { portal } = holder;
      if (portal !== null && portal.statement === statement) {
        keepResults(statement, portal.results);
        portal.statement = null;
      }
      // Another Execute of the same portal that waits behind it has no record of its own.
      if (holder !== operation) holder.statement = null;
    }
    if (this.rows > 0) statement.rowsReturned = (statement.rowsReturned ?? 0) + this.rows;
    statement.bytesReceived += this.position - this.#mark;
    addError(statement, message);
    this.#finish(statement, statement.status);
  }

  /** An operation that the server skips: its statement has not run. */
  #dropStatement(operation: Operation): void {
    const { portal } = operation;
    if (operation.refusal !== null && !this.skip) this.poisons -= 1;
    const statement = takeStatement(operation);
    if (statement === null) return;
    if (portal !== null && portal.results > 0) {
      this.#finish(statement, 'ok');
      return;
    }
    this.skipped(statement);
  }

  /** A statement that the server never runs. */
  skipped(statement: Statement): void {
    statement.messages = ['not executed: the server skipped it after an error'];
    this.#finish(statement, 'cancelled');
  }

  /**
   * A Sync within COPY was answered after all: the copy had failed before the server read it. So the server did not
   * skip to the next one, which it may or may not answer.
   */
  #softSyncAnswered(): void {
    const hard = this.queue.firstHardSync();
    if (hard >= 0) {
      this.queue.at(hard)!.maybe = true;
      this.queue.filterFront(hard, (candidate) => {
        if (!candidate.tentative) return false;
        candidate.dropped = true;
        this.#dropStatement(candidate);
        return true;
      });
      return;
    }
    for (let index = 0, next = this.queue.at(0); next !== null; index += 1, next = this.queue.at(index)) {
      next.tentative = false;
    }
    this.#tentative = false;
  }

  /** An error that answers no message: the server ends the session, or a commit failed at its Sync. */
  #asynchronousError(message: ServerMessage): void {
    const last = this.#endings.at(-1) ?? this.#ending;
    if (last !== null && !this.serverLeaves && last.status === 'ok') addError(last, message);
    else this.#sink.note({ kind: 'server_notice', code: message.code, message: message.message });
  }

  /** DISCARD ALL and DEALLOCATE ALL end all prepared statements. */
  #forgetNames(tag: Tag): void {
    if (tag.text === 'DISCARD ALL' || tag.text === 'DEALLOCATE ALL') this.names.closeAllPrepared();
  }

  readonly #portalEndedBound = (portal: Portal): void => this.#portalEnded(portal);

  /** A portal is no more. What it had under way, read in part, is over. */
  #portalEnded(portal: Portal): void {
    const { statement } = portal;
    if (statement === null || portal.pending > 0) return;
    portal.statement = null;
    this.#finish(statement, 'ok');
  }

  #finish(statement: Statement, status: Statement['status']): void {
    statement.status = status;
    if (this.#ending === null) this.#ending = statement;
    else this.#endings.push(statement);
  }
}

const STATUS_IDLE = 0x49;

/** From the status byte of ReadyForQuery. */
export function transactionOf(status: number): TransactionState {
  if (status === STATUS_IDLE) return 'idle';
  if (status === 0x54) return 'active';
  return status === 0x45 ? 'failed' : 'unknown';
}
