import type { ObserveOptions, Sink } from '../engine.ts';
import { OUTSTANDING_BYTES_MAX, OUTSTANDING_OPERATIONS_MAX, PARAMETERS_BYTES_MAX } from '../limits.ts';
import type { Statement, StatementStatus, TransactionState } from '../statement.ts';
import {
  DEPRECATE_EOF,
  MARIADB_CACHE_METADATA,
  MARIADB_EXTENDED_METADATA,
  MARIADB_PROGRESS,
  MULTI_STATEMENTS,
  OPTIONAL_RESULTSET_METADATA,
  QUERY_ATTRIBUTES,
  SESSION_TRACK,
  STATUS_IN_TRANSACTION,
} from './capabilities.ts';
import { type Charset, charsetNamed, charsetOfCollation } from './charset.ts';
import type { ReplyKind } from './commands.ts';
import type { SessionChange } from './messages.ts';
import { type Prepared, PreparedStatements } from './prepared.ts';
import { type ErrorCode, errorPacket } from './refuse.ts';
import type { SessionFacts } from './session.ts';

/** One command and what is known of its replies. A list of them, oldest first, is what the server still has to answer. */
export class Exchange {
  readonly reply: ReplyKind;
  readonly statement: Statement | null;
  next: Exchange | null = null;
  /** The sequence number of its first reply: one past that of the command's last packet. */
  sequence = 1;
  /** The whole command has been read; until then its sequence number is not known. */
  complete = true;
  /** Set where the server never sees this command: what the client hears in its place. */
  answer: { readonly code: ErrorCode; readonly message: string } | null = null;
  /** The replies are for us and not for the client: it is told how each ends. */
  internal: ((error: { code: ErrorCode; message: string } | null) => void) | null = null;
  /** COM_CHANGE_USER, which is answered here: called when all before it is answered. */
  takeTurn: ((exchange: Exchange) => void) | null = null;
  /** Rows come in the binary form. */
  binary = false;
  /** COM_QUERY: its text may have several statements, or change what the session's text is read by. */
  text = false;
  prepared: Prepared | null = null;
  /** An execution of a statement whose preparation was not yet answered: its payload, to be read again. */
  unread: Buffer | null = null;
  assumedParameters = 0;
  /** Called at a good end: what the command changed in the session. */
  applied: (() => void) | null = null;
  /** The packet was empty. */
  empty = false;
  /** Bytes of its replies. */
  received = 0;
  /** What it holds in memory, roughly. */
  weight = 0;

  constructor(reply: ReplyKind, statement: Statement | null) {
    this.reply = reply;
    this.statement = statement;
  }
}

/**
 * What both directions of one session share: the outstanding exchanges, prepared statements, and what the server has
 * said of the session's state.
 */
export class Conversation {
  readonly sink: Sink;
  readonly options: ObserveOptions;
  readonly facts: SessionFacts;
  readonly prepared = new PreparedStatements();
  /** The statement of the last COM_STMT_PREPARE, answered or not. */
  lastPrepared: Prepared | null = null;
  head: Exchange | null = null;
  #tail: Exchange | null = null;
  #outstanding = 0;
  #outstandingBytes = 0;

  readonly deprecateEof: boolean;
  readonly optionalMetadata: boolean;
  readonly countedMetadata: boolean;
  readonly extendedMetadata: boolean;
  readonly progress: boolean;
  readonly sessionTrack: boolean;
  readonly queryAttributes: boolean;

  charset: Charset;
  database: string | null;
  status: number;
  multiStatements: boolean;
  /** The sequence number that follows what was last seen of the head's exchange; -1 when nothing of its replies was. */
  sequence = -1;
  /** The server has asked for a file: the client's packets are its content, until an empty one. */
  file: { readonly name: string; bytes: number; readonly statement: Statement | null } | null = null;
  /** A change of user that is being worked out here: the client waits for our answer to it. */
  changing: Exchange | null = null;
  /** A reply could not be followed: what comes passes unread until the client's next command. */
  lost = false;
  leaving: 'client' | 'server' | null = null;

  constructor(sink: Sink, options: ObserveOptions, facts: SessionFacts) {
    this.sink = sink;
    this.options = options;
    this.facts = facts;
    const { capabilities, extended } = facts;
    this.deprecateEof = (capabilities & DEPRECATE_EOF) !== 0;
    this.optionalMetadata = (capabilities & OPTIONAL_RESULTSET_METADATA) !== 0;
    this.countedMetadata = this.optionalMetadata || (extended & MARIADB_CACHE_METADATA) !== 0;
    this.extendedMetadata = (extended & MARIADB_EXTENDED_METADATA) !== 0;
    this.progress = (extended & MARIADB_PROGRESS) !== 0;
    this.sessionTrack = (capabilities & SESSION_TRACK) !== 0;
    this.queryAttributes = (capabilities & QUERY_ATTRIBUTES) !== 0;
    this.multiStatements = (capabilities & MULTI_STATEMENTS) !== 0;
    this.charset = charsetOfCollation(facts.collation);
    this.database = facts.database;
    this.status = facts.status;
  }

  get transaction(): TransactionState {
    return this.status & STATUS_IN_TRANSACTION ? 'active' : 'idle';
  }

  /** Too much is outstanding: the client must not be read. */
  get crowded(): boolean {
    return this.#outstanding >= OUTSTANDING_OPERATIONS_MAX || this.#outstandingBytes >= OUTSTANDING_BYTES_MAX;
  }

  /** The server sends its binary log, or will. */
  get streaming(): boolean {
    for (let exchange = this.head; exchange !== null; exchange = exchange.next) {
      if (exchange.reply === 'stream' && exchange.answer === null) return true;
    }
    return false;
  }

  push(exchange: Exchange): void {
    if (this.lost) this.#recover();
    if (this.#tail === null) this.head = exchange;
    else this.#tail.next = exchange;
    this.#tail = exchange;
    this.#outstanding += 1;
    exchange.weight = weight(exchange);
    this.#outstandingBytes += exchange.weight;
  }

  /** The head has been answered. */
  shift(): void {
    const exchange = this.head!;
    this.head = exchange.next;
    if (this.head === null) this.#tail = null;
    this.#outstanding -= 1;
    this.#outstandingBytes -= exchange.weight;
    this.sequence = -1;
  }

  /** Whether the head needs no server: what answers it can be sent as soon as the client may hear it. */
  get mayAdvance(): boolean {
    const { head } = this;
    return head !== null && (head.takeTurn !== null || (head.answer !== null && head.complete));
  }

  /** Answers what stands at the head and never went to the server. Only while the client is at a packet's end. */
  advance(): void {
    while (this.mayAdvance) {
      const exchange = this.head!;
      this.shift();
      if (exchange.takeTurn !== null) exchange.takeTurn(exchange);
      else {
        const answer = exchange.answer!;
        this.sink.toClient(errorPacket(exchange.sequence, answer.code, answer.message));
      }
    }
  }

  /** Ends a statement on record. */
  end(statement: Statement, status: StatementStatus, received: number): void {
    statement.status = status;
    statement.transaction = this.transaction;
    statement.bytesReceived = received;
    this.sink.end(statement);
  }

  /** Takes over what the server says has changed in the session. */
  apply(changes: readonly SessionChange[]): void {
    for (const change of changes) {
      if (change.kind === 'schema') this.changeDatabase(change.value);
      else if (change.name === 'character_set_client') this.charset = charsetNamed(change.value);
    }
  }

  changeDatabase(database: string): void {
    if (database === this.database || (database === '' && this.database === null)) return;
    this.database = database === '' ? null : database;
    this.sink.note({ kind: 'database_changed', database });
  }

  /** The server has forgotten all that the session had set up. */
  reset(): void {
    this.prepared.clear();
    this.lastPrepared = null;
  }

  /**
   * Commands that were sent behind the one that asks for a file are, to the server, that file: up to the first empty
   * packet. They are not answered.
   */
  becomeFile(asking: Exchange): void {
    let previous = asking;
    for (let exchange = asking.next; exchange !== null; exchange = exchange.next) {
      if (exchange.answer !== null) {
        previous = exchange;
        continue;
      }
      previous.next = exchange.next;
      if (this.#tail === exchange) this.#tail = previous;
      this.#outstanding -= 1;
      this.#outstandingBytes -= exchange.weight;
      if (exchange.statement !== null) {
        exchange.statement.opaque = true;
        this.end(exchange.statement, 'unknown', 0);
      }
      if (!exchange.empty) continue;
      this.file = null;
      return;
    }
  }

  /** The client speaks again: what it waited for has been answered, whatever it was. */
  #recover(): void {
    this.lost = false;
    for (let exchange = this.head; exchange !== null; exchange = exchange.next) {
      if (exchange.statement !== null) exchange.statement.opaque = true;
    }
    this.#endAll('unknown');
  }

  /** Ends all that is open; the session is over. */
  close(status: 'unknown' | 'cancelled'): void {
    const { changing } = this;
    this.changing = null;
    if (changing !== null) this.end(changing.statement!, status, 0);
    this.#endAll(status);
  }

  #endAll(status: StatementStatus): void {
    for (let exchange = this.head; exchange !== null; exchange = exchange.next) {
      if (exchange.statement !== null && exchange.answer === null) {
        this.end(exchange.statement, status, exchange.received);
      }
    }
    this.head = null;
    this.#tail = null;
    this.#outstanding = 0;
    this.#outstandingBytes = 0;
  }
}

/** What an outstanding exchange holds in memory, roughly. */
function weight(exchange: Exchange): number {
  const { statement } = exchange;
  if (statement === null) return 64;
  const parameters = statement.parameters === null ? 0 : Math.min(statement.bytesSent, PARAMETERS_BYTES_MAX);
  return 256 + (statement.text?.length ?? 0) + parameters;
}
