import { Refusal } from '../error.ts';
import { INSPECT_BYTES_MAX, OUTSTANDING_BYTES_MAX, OUTSTANDING_OPERATIONS_MAX } from '../limits.ts';
import { Statement, type StatementStatus } from '../statement.ts';
import { AnswerReader } from './answer.ts';
import { callStatement, completeCall, handleSource } from './calls.ts';
import { type Connection, type Held, keepHeld, type Line, noteOpaque, Request } from './conversation.ts';
import {
  MessageType,
  PACKET_HEADER_BYTES,
  PacketScanner,
  type PacketSink,
  PacketStatus,
  type SegmentSink,
} from './frames.ts';
import { REMEMBERED_CHARACTERS_MAX } from './limits.ts';
import { Outcome } from './outcome.ts';
import { refusalNumber, refusalText, refusedRequest } from './refuse.ts';
import { RequestReader } from './requests.ts';
import { DoneStatus } from './tokens.ts';

/**
 * One stream of requests and answers: the connection's only one, or one of several under MARS.
 *
 *   client packets ─▶ RequestReader ─▶ gate ─▶ begin ─▶ server        a queue of requests stands between the two:
 *   client ◀──────── (untouched) ◀─ ResponseWalker ◀─ server packets  one response message closes one request
 *
 * A request is held until it is complete, or until `INSPECT_BYTES_MAX` of it are held; then the gate is asked about
 * what is known, and the rest passes as it comes.
 */

const BULK_TEXT = /^\s*(?:insert\s+bulk|(?:write|update)text\s+bulk)\b/i;
const RESET = PacketStatus.resetConnection | PacketStatus.resetConnectionKeepTransaction;

/** Header only: it ends an unfinished request, which the server then does not run (MS-TDS 2.2.1.7). */
const IGNORE_REST = PacketStatus.endOfMessage | PacketStatus.ignore;

export class Stream implements PacketSink, SegmentSink {
  readonly #connection: Connection;
  readonly #line: Line;
  readonly #scanner = new PacketScanner();
  readonly #answer: AnswerReader;
  /** Requests that the server has and has not answered, the oldest first. */
  #queue: Request[] = [];
  #queuedTextBytes = 0;
  /** The request whose packets are coming. */
  #open: Request | null = null;
  /** The rest of the open request is not passed on. */
  #discarding = false;
  /** Readers that have done their work, by message type. */
  readonly #readers: (RequestReader | undefined)[] = [];
  /** The request whose verdict is awaited, and what came behind it. */
  #undecided: Request | null = null;
  #waiting: Held[] = [];
  /** INSERT BULK has run: the rows that follow belong to it. */
  #bulk: Outcome | null = null;
  #lastBatchText: string | null = null;
  /** Attentions that have not been acknowledged; ours is the last of them. */
  #attentions = 0;
  #ownAttention = false;
  // Of the response message at hand.
  #responding: Request | null = null;
  #inResponse = false;
  #swallowing: 'nothing' | 'answer' | 'acknowledgement' = 'nothing';
  /** Where the last header stands in the chunk at hand; -1 where that is not known. */
  #headerAt = -1;
  #receivedBytes = 0;
  #countedBytes = 0;

  constructor(connection: Connection, line: Line) {
    this.#connection = connection;
    this.#line = line;
    this.#answer = new AnswerReader(connection, (outcome, request) =>
      this.#finish(outcome, request.cancelAsked || request.ignored),
    );
  }

  get busy(): boolean {
    return this.#queue.length > 0 || this.#open !== null || this.#undecided !== null;
  }

  get saturated(): boolean {
    return (
      this.#undecided !== null ||
      this.#queue.length >= OUTSTANDING_OPERATIONS_MAX ||
      this.#queuedTextBytes >= OUTSTANDING_BYTES_MAX
    );
  }

  /** A verdict is awaited. */
  get undecided(): boolean {
    return this.#undecided !== null;
  }

  /** What the client was sent last ended a message. */
  get atBoundary(): boolean {
    return this.#scanner.atBoundary;
  }

  /** The client waits for an answer of which nothing has come. */
  get awaited(): boolean {
    return this.#queue.length > 0 || this.#undecided !== null;
  }

  // From the client.

  packet(bytes: Buffer, start: number, end: number): void {
    this.clientPacket(bytes, start, start, end);
  }

  /** Takes one whole packet, `bytes[packet, end)`, that is passed on with what precedes it from `start` on. */
  clientPacket(bytes: Buffer, start: number, packet: number, end: number): void {
    if (this.#connection.fatal !== null) return;
    if (this.#undecided !== null) {
      this.#waiting.push({ bytes, start, packet, end });
      return;
    }
    const type = bytes[packet]!;
    const status = bytes[packet + 1]!;
    if (type === MessageType.attention) this.#attention(bytes, start, end);
    else if (this.#open === null) {
      if (this.#begin(type, status)) this.#take(bytes, start, packet, end, status);
    } else if (this.#open.type === type) this.#take(bytes, start, packet, end, status);
    else this.#violated(`a packet of type ${type} inside a message of type ${this.#open.type}`);
  }

  /** The call in which `chunk` came is over: what is held of it is copied. */
  keepHeld(chunk: Buffer): void {
    if (this.#open !== null) {
      this.#open.reader.keep();
      keepHeld(this.#open.held, chunk);
    }
    if (this.#undecided !== null) keepHeld(this.#undecided.held, chunk);
    if (this.#waiting.length > 0) keepHeld(this.#waiting, chunk);
  }

  #violated(what: string): void {
    this.#connection.fatal = new Refusal('protocol_violation', `the client sent ${what}`);
  }

  #attention(bytes: Buffer, start: number, end: number): void {
    if (this.#open !== null) {
      this.#violated('an attention inside another message');
      return;
    }
    this.#attentions += 1;
    for (const request of this.#queue) request.cancelAsked = true;
    this.#line.toServer(bytes, start, end);
  }

  /** The first packet of a message. */
  #begin(type: number, status: number): boolean {
    if (!REQUEST_TYPES.includes(type)) {
      this.#violated(`a packet of type ${type}, which has no place after sign-in`);
      return false;
    }
    const { wide, collated, options, handles } = this.#connection;
    if (status & RESET && type !== MessageType.bulkLoad) {
      handles.prepared.clear();
      handles.cursors.clear();
    }
    let reader = this.#readers[type];
    if (reader === undefined)
      reader = new RequestReader(type, { wide, collated, parameters: options.parameters });
    else this.#readers[type] = undefined;
    this.#open = new Request(type, reader);
    this.#open.keepsTransaction = (status & PacketStatus.resetConnectionKeepTransaction) !== 0;
    if (type !== MessageType.bulkLoad) this.#endBulk();
    return true;
  }

  #take(bytes: Buffer, start: number, packet: number, end: number, status: number): void {
    const request = this.#open!;
    const last = (status & PacketStatus.endOfMessage) !== 0;
    const { type } = request;
    request.bytes += end - start;
    if (this.#discarding) {
      this.#discard(request, { bytes, start, packet, end }, last);
      return;
    }
    request.reader.feed(bytes, packet + PACKET_HEADER_BYTES, end);
    if (last) {
      request.whole = true;
      request.ignored = (status & PacketStatus.ignore) !== 0;
      request.reader.end();
      this.#open = null;
      this.#hold(request, bytes, start, packet, end);
      this.#readOutcomes(request);
      this.#complete(request);
      request.reader.reset();
      this.#readers[type] = request.reader;
      this.#consider(request);
      return;
    }
    if (request.queued && !this.#unseen(request)) {
      this.#line.toServer(bytes, start, end);
      return;
    }
    this.#hold(request, bytes, start, packet, end);
    if (request.heldBytes <= INSPECT_BYTES_MAX && request.held.length <= this.#line.heldPacketsMax) return;
    request.reader.settle();
    this.#readOutcomes(request);
    this.#consider(request);
  }

  #hold(request: Request, bytes: Buffer, start: number, packet: number, end: number): void {
    request.held.push({ bytes, start, packet, end });
    request.heldBytes += end - start;
  }

  /** Something of the request has come that no statement stands for yet. */
  #unseen(request: Request): boolean {
    if (request.type !== MessageType.rpc) return request.outcomes.length === 0;
    const calls = request.reader.calls.length;
    return !request.reader.lost && (calls === 0 || calls > request.outcomes.length);
  }

  /** Makes a statement of everything that the request is known to ask for. */
  #readOutcomes(request: Request): void {
    const { reader, outcomes } = request;
    if (request.type === MessageType.rpc) {
      const { handles, options } = this.#connection;
      for (let index = outcomes.length; index < reader.calls.length; index++) {
        const call = reader.calls[index]!;
        const source = handleSource(call, handles);
        const outcome = new Outcome(callStatement(call, source, options.parameters), call, source);
        outcome.partial = call.text?.partial === true;
        outcomes.push(outcome);
      }
      if (outcomes.length === 0) outcomes.push(new Outcome(new Statement('rpc', null, 0), null, null));
    } else if (outcomes.length === 0) outcomes.push(this.#simpleOutcome(request));
    if (reader.lost && !request.ignored) this.#markOpaque(request);
  }

  #simpleOutcome(request: Request): Outcome {
    if (request.type === MessageType.transactionManager) {
      return new Outcome(request.reader.transaction(), null, null);
    }
    if (request.type === MessageType.bulkLoad) {
      if (this.#bulk !== null) return this.#bulk;
      const text = this.#lastBatchText ?? 'INSERT BULK';
      return new Outcome(new Statement('bulk', text, Buffer.byteLength(text)), null, null);
    }
    const batch = request.reader.batch();
    const bulk = batch.text !== null && BULK_TEXT.test(batch.text);
    const statement = bulk ? new Statement('bulk', batch.text, batch.textBytes) : batch;
    statement.opaque = batch.opaque;
    const outcome = new Outcome(statement, null, null);
    outcome.partial = batch.opaque && !request.reader.lost;
    return outcome;
  }

  #markOpaque(request: Request): void {
    const { statement } = request.outcomes.at(-1)!;
    if (statement.opaque && request.begun === request.outcomes.length) return;
    statement.opaque = true;
    const trace = `message type ${request.type}, ${request.bytes} bytes`;
    noteOpaque(this.#connection, 'a request could not be read', trace);
  }

  /** The message is whole: what was begun while it was passing is completed. */
  #complete(request: Request): void {
    const { reader, outcomes } = request;
    for (const { statement, call, source } of outcomes) {
      statement.bytesSent += statement === outcomes[0]!.statement ? request.bytes : 0;
      if (call !== null) {
        if (request.queued) completeCall(statement, call, source);
      } else if (request.type === MessageType.sqlBatch && request.queued) reader.completeBatch(statement);
    }
    if (request.type === MessageType.sqlBatch) this.#rememberBatch(outcomes[0]!.statement.text);
  }

  /** For rows that come without INSERT BULK as their statement; a text of any length would outlive its use. */
  #rememberBatch(text: string | null): void {
    this.#lastBatchText = text !== null && text.length <= REMEMBERED_CHARACTERS_MAX ? text : null;
  }

  /** Asks the gate about what it has not been asked about, and lets the held bytes go or not. */
  #consider(request: Request): void {
    const { sink } = this.#connection;
    while (request.allowed < request.outcomes.length) {
      const outcome = request.outcomes[request.allowed]!;
      if (outcome === this.#bulk) {
        request.allowed += 1;
        request.begun += 1;
        continue;
      }
      outcome.showToGate();
      const verdict = sink.decide(outcome.statement);
      if (verdict.action === 'hold') {
        this.#undecided = request;
        return;
      }
      if (verdict.action === 'refuse') {
        this.#refuse(request, verdict.refusal);
        return;
      }
      request.allowed += 1;
    }
    this.#pass(request);
  }

  /** The gate's answer to the statement that was held. */
  release(verdict: { action: 'allow' } | { action: 'refuse'; refusal: Refusal } | { action: 'hold' }): void {
    const request = this.#undecided;
    if (request === null || verdict.action === 'hold') return;
    this.#undecided = null;
    if (verdict.action === 'refuse') this.#refuse(request, verdict.refusal);
    else {
      request.allowed += 1;
      this.#consider(request);
    }
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { bytes, start, packet, end } of waiting) this.clientPacket(bytes, start, packet, end);
  }

  #pass(request: Request): void {
    const { sink } = this.#connection;
    for (; request.begun < request.allowed; request.begun++) {
      const outcome = request.outcomes[request.begun]!;
      outcome.showToRecord();
      sink.begin(outcome.statement);
    }
    this.#enqueue(request);
    this.#sendHeld(request);
  }

  #enqueue(request: Request): void {
    if (request.queued) return;
    request.queued = true;
    for (const { statement } of request.outcomes) request.textBytes += (statement.text?.length ?? 0) * 2;
    this.#queue.push(request);
    this.#queuedTextBytes += request.textBytes;
  }

  #sendHeld(request: Request): void {
    for (const { bytes, start, end } of request.held) this.#line.toServer(bytes, start, end);
    request.held = [];
    request.heldBytes = 0;
  }

  /** The request does not reach the server, or, where its beginning has, is not run there. */
  #refuse(request: Request, refusal: Refusal): void {
    const { sink } = this.#connection;
    for (; request.begun < request.outcomes.length; request.begun++) {
      const outcome = request.outcomes[request.begun]!;
      const { statement } = outcome;
      outcome.showToRecord();
      statement.status = 'denied';
      statement.error = { code: String(refusalNumber(refusal)), message: refusalText(refusal) };
      statement.transaction = this.#connection.transaction;
      sink.begin(statement);
      sink.end(statement);
      outcome.finished = true;
    }
    const calls = request.type === MessageType.rpc ? request.outcomes.length : 0;
    if (!request.queued && this.#substituteHeld(request, refusal)) return;
    if (request.queued && this.#line.heldPacketsMax < Number.POSITIVE_INFINITY) {
      this.#violated('a refused statement in a request of which a part runs beside others');
      return;
    }
    const { version, packetBytes, serverName } = this.#connection.facts;
    request.answer = refusedRequest(refusal, calls, { version, packetBytes, serverName });
    request.held = [];
    if (request.queued) {
      // The server has the beginning: it is told to forget it, and its answer to that is replaced by ours.
      if (this.#responding === request) {
        this.#violated('a refused statement in a request that is being answered already');
        return;
      }
      request.replaces = true;
      request.ignored = true;
      const ignore = ignoredPacket(request.type);
      this.#line.toServer(ignore, 0, ignore.length);
    }
    if (request.whole) this.#answerRefused(request);
    else {
      this.#discarding = true;
      if (request.queued && this.#scanner.atBoundary) this.#nextAnswer(0);
    }
  }

  /** Lets the server refuse in our words, where nothing of ours can stand between its answers. */
  #substituteHeld(request: Request, refusal: Refusal): boolean {
    const { held } = request;
    for (let index = 0; index < held.length; index++) {
      const position = { first: index === 0, last: request.whole && index === held.length - 1 };
      const bytes = this.#line.substitute(held[index]!, position, refusal);
      if (bytes === null) return false;
      this.#line.toServer(bytes, 0, bytes.length);
    }
    request.held = [];
    request.substituted = refusal;
    this.#enqueue(request);
    if (!request.whole) this.#discarding = true;
    return true;
  }

  #discard(request: Request, packet: Held, last: boolean): void {
    if (request.substituted !== null) {
      const bytes = this.#line.substitute(packet, { first: false, last }, request.substituted)!;
      this.#line.toServer(bytes, 0, bytes.length);
    }
    if (!last) return;
    this.#discarding = false;
    this.#open = null;
    request.whole = true;
    if (request.substituted === null) this.#answerRefused(request);
  }

  #answerRefused(request: Request): void {
    this.#enqueue(request);
    if (this.#scanner.atBoundary) this.#nextAnswer(0);
  }

  /** Between two messages of the server: answers what waits for our own answer. */
  #nextAnswer(position: number): void {
    for (let head = this.#queue[0]; head?.answer; head = this.#queue[0]) {
      if (head.replaces) {
        if (this.#swallowing === 'nothing') {
          this.#swallowing = 'answer';
          this.#line.swallow(position);
        }
        return;
      }
      this.#line.toClient(position, head.answer);
      this.#dequeue();
    }
  }

  #dequeue(): void {
    const request = this.#queue.shift();
    if (request !== undefined) this.#queuedTextBytes -= request.textBytes;
  }

  // From the server.

  /** Takes what came from the server. False when it cannot be followed any more. */
  serverBytes(bytes: Buffer, start: number, end: number): boolean {
    this.#headerAt = -1;
    this.#answer.doneAt = -1;
    const followed = this.#scanner.feed(bytes, start, end, this);
    if (this.#inResponse) this.#answer.keep();
    return followed;
  }

  header(length: number, at: number): void {
    this.#receivedBytes += length;
    this.#headerAt = at;
    if (this.#inResponse) return;
    this.#inResponse = true;
    this.#responding = this.#queue[0] ?? null;
    this.#answer.begin(this.#responding);
  }

  payload(bytes: Buffer, start: number, end: number): void {
    this.#answer.walk(bytes, start, end);
  }

  messageEnd(bytes: Buffer, position: number): void {
    const answer = this.#answer;
    answer.end();
    this.#inResponse = false;
    const request = this.#responding;
    this.#responding = null;
    if (answer.acknowledged && this.#attentions > 0) this.#attentions -= 1;
    if (this.#swallowing === 'acknowledgement') {
      this.#swallowing = 'nothing';
      this.#ownAttention = false;
      this.#line.swallowed(position);
      this.#nextAnswer(position);
      return;
    }
    if (request !== null && !(answer.onlyAcknowledgement && !request.cancelAsked)) {
      if (this.#ownAttention) this.#showStopped(bytes, position);
      this.#close(request, position);
    }
    this.#countedBytes = this.#receivedBytes;
    if (this.#ownAttention && answer.acknowledged) this.#ownAttention = false;
    else if (this.#ownAttention && this.#queue.length === 0) {
      // The client has its answer and did not ask for the acknowledgement that follows.
      this.#swallowing = 'acknowledgement';
      this.#line.swallow(position);
      return;
    }
    this.#nextAnswer(position);
  }

  /**
   * The answer that our own attention cut short must not look complete to a client that asked for no cancel. Its last
   * DONE becomes one with more to come, and our error follows as the end of the same message.
   */
  #showStopped(bytes: Buffer, position: number): void {
    const done = this.#answer.doneAt;
    if (this.#headerAt < 0 || done < this.#headerAt) return;
    const { version, packetBytes, serverName } = this.#connection.facts;
    bytes[this.#headerAt + 1]! &= ~PacketStatus.endOfMessage;
    bytes[done + 1] = (bytes[done + 1]! & ~DoneStatus.attention) | DoneStatus.error | DoneStatus.more;
    const stopped = new Refusal('killed', 'this statement was stopped by the gateway');
    this.#line.toClient(position, refusedRequest(stopped, 0, { version, packetBytes, serverName }));
  }

  /** The answer to `request` is complete. */
  #close(request: Request, position: number): void {
    const cancelled = this.#answer.acknowledged || request.cancelAsked || request.ignored;
    const last = request.outcomes[request.current];
    if (last !== undefined && this.#answer.saysNothing) last.lost = true;
    this.#dequeue();
    const bulkBegins =
      request.type === MessageType.sqlBatch && request.outcomes[0]?.statement.kind === 'bulk';
    for (const outcome of request.outcomes) {
      if (outcome.finished) continue;
      if (bulkBegins && !cancelled && !outcome.failed && !outcome.lost) {
        this.#countReceived(outcome);
        this.#bulk = outcome;
        continue;
      }
      if (outcome === this.#bulk) this.#bulk = null;
      this.#finish(outcome, cancelled);
    }
    if (request.replaces && request.answer !== null) {
      this.#swallowing = 'nothing';
      this.#line.swallowed(position);
      this.#line.toClient(position, request.answer);
    }
  }

  #finish(outcome: Outcome, cancelled: boolean): void {
    const { sink, transaction, handles } = this.#connection;
    let status: StatementStatus = 'ok';
    if (cancelled) status = 'cancelled';
    else if (outcome.failed) status = 'error';
    else if (outcome.lost) status = 'unknown';
    this.#countReceived(outcome);
    outcome.finish(status, transaction, handles);
    sink.end(outcome.statement);
  }

  #countReceived(outcome: Outcome): void {
    outcome.statement.bytesReceived += this.#receivedBytes - this.#countedBytes;
    this.#countedBytes = this.#receivedBytes;
  }

  /** INSERT BULK was not followed by rows. */
  #endBulk(): void {
    const bulk = this.#bulk;
    if (bulk === null) return;
    this.#bulk = null;
    this.#finish(bulk, false);
  }

  /** The server's bytes cannot be followed any more: nothing that runs will be seen to end. */
  loseServer(): void {
    for (const request of this.#queue) {
      for (const outcome of request.outcomes) {
        if (!outcome.finished) this.#finishAs(outcome, 'unknown');
      }
    }
    if (this.#bulk !== null && !this.#bulk.finished) this.#finishAs(this.#bulk, 'unknown');
    this.#bulk = null;
    this.#queue = [];
    this.#queuedTextBytes = 0;
  }

  close(status: 'unknown' | 'cancelled'): void {
    const requests = [...this.#queue];
    if (this.#open !== null && !requests.includes(this.#open)) requests.push(this.#open);
    for (const request of requests) {
      for (let index = 0; index < request.begun; index++) {
        const outcome = request.outcomes[index]!;
        if (!outcome.finished) this.#finishAs(outcome, status);
      }
    }
    if (this.#bulk !== null && !this.#bulk.finished) this.#finishAs(this.#bulk, status);
    this.#queue = [];
    this.#open = null;
    this.#undecided = null;
    this.#waiting = [];
    this.#bulk = null;
  }

  #finishAs(outcome: Outcome, status: StatementStatus): void {
    const { sink, transaction, handles } = this.#connection;
    this.#countReceived(outcome);
    outcome.finish(status, transaction, handles);
    sink.end(outcome.statement);
  }

  /** Our own attention, to be sent now; null when nothing runs, or a request is half sent. */
  interrupt(): Buffer | null {
    if (this.#queue.length === 0 || this.#attentions > 0 || this.#open?.queued) return null;
    this.#attentions += 1;
    this.#ownAttention = true;
    for (const request of this.#queue) request.cancelAsked = true;
    return Buffer.from(ATTENTION);
  }
}

/** What a client may send after sign-in, attentions aside. */
const REQUEST_TYPES: readonly number[] = [
  MessageType.sqlBatch,
  MessageType.rpc,
  MessageType.bulkLoad,
  MessageType.transactionManager,
];

const ATTENTION = [MessageType.attention, PacketStatus.endOfMessage, 0, PACKET_HEADER_BYTES, 0, 0, 1, 0];

function ignoredPacket(type: number): Buffer {
  return Buffer.from([type, IGNORE_REST, 0, PACKET_HEADER_BYTES, 0, 0, 1, 0]);
}
