import type { Parameter } from '../statement.ts';
import { type Connection, noteOpaque, type Request } from './conversation.ts';
import type { Cursor } from './cursor.ts';
import { followEnvironment } from './environment.ts';
import type { RowLayout } from './layout.ts';
import type { Outcome } from './outcome.ts';
import { type ResponseListener, ResponseWalker } from './response.ts';
import { type Done, DoneStatus, type ServerMessage, Token } from './tokens.ts';

/** Reads one answer after the other, and tells the outcomes of the request that it answers. */
export class AnswerReader implements ResponseListener {
  readonly #connection: Connection;
  readonly #walker: ResponseWalker;
  readonly #endCall: (outcome: Outcome, request: Request) => void;
  /** The request that is being answered; null for none that we know. */
  #request: Request | null = null;
  #dones = 0;
  #others = false;
  /** A DONE said that an attention was heard. */
  acknowledged = false;
  /** Where the last DONE stands in the bytes given to `walk`; -1 where it was cut. */
  doneAt = -1;

  /** `endCall`: one of several calls of a request is over, and the answer goes on with the next. */
  constructor(connection: Connection, endCall: (outcome: Outcome, request: Request) => void) {
    this.#connection = connection;
    this.#endCall = endCall;
    const { facts, options, wide, collated } = connection;
    this.#walker = new ResponseWalker(this, {
      wide,
      collated,
      columnEncryption: facts.features.columnEncryption,
      dataClassification: facts.features.dataClassification,
      names: options.columns,
      sampleRows: options.sampleRows,
      outputs: options.parameters,
    });
  }

  /** An answer begins. */
  begin(request: Request | null): void {
    this.#request = request;
    this.#dones = 0;
    this.#others = false;
    this.acknowledged = false;
  }

  walk(bytes: Buffer, start: number, end: number): void {
    this.#walker.walk(bytes, start, end);
  }

  /** The memory of what was walked is about to be used for something else, and the answer goes on. */
  keep(): void {
    this.#walker.keep();
  }

  end(): void {
    this.#walker.endMessage();
    this.#request = null;
  }

  /** Nothing came but the acknowledgement of an attention. */
  get onlyAcknowledgement(): boolean {
    return this.acknowledged && this.#dones === 1 && !this.#others;
  }

  /** Not even how it ended. */
  get saysNothing(): boolean {
    return this.#dones === 0;
  }

  #outcome(): Outcome | null {
    const request = this.#request;
    return request === null ? null : (request.outcomes[request.current] ?? null);
  }

  result(layout: RowLayout): void {
    this.#others = true;
    this.#outcome()?.result(layout, this.#connection.options.columns);
  }

  rememberedLayout(): RowLayout | null {
    return this.#outcome()?.rememberedLayout ?? null;
  }

  sample(row: readonly (string | null)[]): void {
    this.#outcome()?.sample(row);
  }

  done(done: Done, at: number): void {
    this.#dones += 1;
    const request = this.#request;
    this.doneAt = at;
    if (done.rows !== null) this.#others = true;
    if (done.status & DoneStatus.attention) {
      this.acknowledged = true;
      if (request === null || !request.cancelAsked) return;
    }
    if (request === null) return;
    this.#outcome()?.done(done);
    if (done.token === Token.doneProcedure && request.current + 1 < request.outcomes.length) {
      this.#nextCall(request, done.status);
    }
  }

  /** A DONEPROC within a message of several calls: it ends one of them, unless a procedure called another. */
  #nextCall(request: Request, status: number): void {
    if ((status & DoneStatus.more) === 0) return;
    if ((status & DoneStatus.callInBatch) === 0 && !request.returnStatusSeen) return;
    const outcome = request.outcomes[request.current]!;
    if (!outcome.finished) this.#endCall(outcome, request);
    request.current += 1;
    request.returnStatusSeen = false;
  }

  error(message: ServerMessage): void {
    this.#others = true;
    if (message.class >= FATAL_CLASS) this.#connection.serverLeaves = true;
    this.#outcome()?.error(message);
  }

  info(message: ServerMessage): void {
    this.#others = true;
    const outcome = this.#outcome();
    if (outcome === null) {
      this.#connection.sink.note({
        kind: 'server_notice',
        code: String(message.number),
        message: message.text,
      });
    } else if (!SETTING_MESSAGES.includes(message.number)) outcome.info(message);
  }

  returnStatus(status: number): void {
    this.#others = true;
    if (this.#request !== null) this.#request.returnStatusSeen = true;
    this.#outcome()?.returnStatus(status);
  }

  output(value: Parameter, raw: number | null): void {
    this.#others = true;
    const { handles, options } = this.#connection;
    this.#outcome()?.output(value, raw, handles, options.parameters);
  }

  environment(type: number, cursor: Cursor): void {
    this.#others = true;
    followEnvironment(type, cursor, this.#connection, this.#request?.keepsTransaction === true);
  }

  lost(reason: string, token: number): void {
    this.#others = true;
    const outcome = this.#outcome();
    if (outcome !== null) {
      outcome.lost = true;
      outcome.statement.opaque = true;
    }
    noteOpaque(this.#connection, reason, `token 0x${token.toString(16)}`);
  }
}

/** "Changed database context" and "Changed language setting": ENVCHANGE says the same. */
const SETTING_MESSAGES: readonly number[] = [5701, 5703];

/** From this severity on the server closes the connection. */
const FATAL_CLASS = 20;
