import { createHash, type Hash } from 'node:crypto';
import type { Verdict } from '../engine.ts';
import { Refusal } from '../error.ts';
import { INSPECT_BYTES_MAX } from '../limits.ts';
import type { Statement } from '../statement.ts';
import { ChangeUser, type ChangeUserPort } from './change-user.ts';
import type { Conversation, Exchange } from './conversation.ts';
import { cutText, Interpreter, type Request } from './interpreter.ts';
import { AUTH_REPLY_BYTES_MAX } from './limits.ts';
import { HEADER_BYTES, PACKET_PAYLOAD_BYTES_MAX, payloadLength } from './packets.ts';
import { ERROR_CODES, type ErrorCode, refusalText } from './refuse.ts';

/**
 * The client's direction: finds the commands, asks the gate about each that is on record, and passes or drops its bytes.
 *
 *   command ──whole──▶ decide ──▶ pass (begin, queue, toServer) │ refuse (queue our answer) │ hold
 *      │ longer than INSPECT_BYTES_MAX: decided on its head, then its rest streams
 *      ├─ unread: the server has asked for a file; packets pass as its content until an empty one
 *      └─ blocked: a held statement, or a COM_CHANGE_USER whose answer is being worked out; what comes is kept unread
 *
 * All commands of one chunk that pass go to the server in one piece.
 */
type State = 'command' | 'rest' | 'unread' | 'auth' | 'blocked';

export class Requests implements ChangeUserPort {
  readonly #conversation: Conversation;
  readonly #interpreter: Interpreter;
  #state: State = 'command';
  /** Pieces of a packet whose header, or as much of it as is inspected, is not yet whole. */
  #pieces: Buffer[] = [];
  #piecesBytes = 0;

  // state `rest` and `unread`: where in the command's packets we are
  #remaining = 0;
  /** Header bytes of the next packet that have been read. */
  #header = 0;
  #length = 0;
  /** The packet before was full, so that this one belongs to the same payload. */
  #continued = false;
  #sequence = 0;
  /** The rest of the command passes (else it is dropped: it was refused). */
  #passes = true;
  #exchange: Exchange | null = null;
  #hash: Hash | null = null;
  #textBytes = 0;
  #more: ((piece: Buffer) => void) | null = null;

  // state `blocked`
  #waiting: Buffer[] = [];
  #held: { readonly request: Request; readonly bytes: Buffer; readonly whole: boolean } | null = null;
  #authReply: ((reply: Buffer, sequence: number) => void) | null = null;

  fatal: Refusal | null = null;

  constructor(conversation: Conversation) {
    this.#conversation = conversation;
    this.#interpreter = new Interpreter(conversation);
  }

  /** The client must not be read: a statement is held, or a change of user is under way. */
  get blocked(): boolean {
    return this.#state === 'blocked';
  }

  /** No part of a command has gone to the server without the rest. */
  get atBoundary(): boolean {
    return this.#state === 'command' || this.#state === 'auth' || this.#state === 'blocked';
  }

  /** A command is only partly there. */
  get incomplete(): boolean {
    return this.#state === 'rest' || this.#held !== null;
  }

  client(chunk: Buffer): void {
    if (this.fatal !== null) return;
    if (this.#state === 'blocked') {
      this.#waiting.push(Buffer.from(chunk));
      return;
    }
    let at = 0;
    let passFrom = 0;
    const end = chunk.length;
    while (at < end) {
      const state = this.#state as State;
      if (state === 'rest' || state === 'unread') {
        const next = this.#stream(chunk, at);
        if (!this.#passes) {
          this.#pass(chunk, passFrom, at);
          passFrom = next;
        }
        at = next;
        continue;
      }
      if (state === 'blocked') {
        this.#pass(chunk, passFrom, at);
        this.#waiting.push(Buffer.from(chunk.subarray(at)));
        return;
      }
      if (state === 'command' && this.#unreadFollows()) continue;
      const available = this.#piecesBytes === 0 ? this.#available(chunk, at) : 0;
      if (available === 0) {
        // The packet is not wholly in this chunk: its pieces are kept, and pass together.
        this.#pass(chunk, passFrom, at);
        at = this.#gather(chunk, at);
        passFrom = at;
        continue;
      }
      if (state === 'auth') {
        this.#pass(chunk, passFrom, at);
        at += available;
        passFrom = at;
        this.#takeAuth(chunk.subarray(at - available, at));
        continue;
      }
      if (!this.#command(chunk, at, at + available)) {
        this.#pass(chunk, passFrom, at);
        passFrom = at + available;
      }
      at += available;
    }
    this.#pass(chunk, passFrom, end);
  }

  /** The gate's answer to a held statement. */
  release(verdict: Verdict): void {
    const held = this.#held;
    if (held === null || verdict.action === 'hold') return;
    this.#held = null;
    this.#state = held.request.changeUser === null ? 'command' : 'blocked';
    const { bytes, request, whole } = held;
    if (this.#settle(request, verdict, bytes, 0, bytes.length, whole)) {
      this.#conversation.sink.toServer(bytes);
    }
    if (!this.blocked) this.#feed();
  }

  /** The client's next packet is authentication data for us, not a command. */
  expectAuth(reply: (reply: Buffer, sequence: number) => void): void {
    this.#authReply = reply;
    this.#state = 'auth';
    this.#feed();
  }

  /** Goes on with commands, after `block`. */
  unblock(): void {
    this.#state = 'command';
    this.#feed();
  }

  fail(refusal: Refusal): void {
    this.fatal = refusal;
  }

  #feed(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const chunk of waiting) this.client(chunk);
  }

  #pass(chunk: Buffer, from: number, to: number): void {
    if (to <= from) return;
    const whole = from === 0 && to === chunk.length;
    this.#conversation.sink.toServer(whole ? chunk : chunk.subarray(from, to));
  }

  /** What the server wants next is no command: a file's content. */
  #unreadFollows(): boolean {
    if (this.#conversation.file === null) return false;
    if (this.#piecesBytes > 0) {
      // Bytes of a header that came before we knew: they begin the content.
      const pieces = Buffer.concat(this.#pieces);
      this.#pieces = [];
      this.#piecesBytes = 0;
      this.#enterUnread();
      this.client(pieces);
    } else this.#enterUnread();
    return true;
  }

  #enterUnread(): void {
    this.#state = 'unread';
    this.#passes = true;
    this.#exchange = null;
    this.#hash = null;
    this.#more = null;
    this.#remaining = 0;
    this.#length = 0;
    this.#header = 0;
    this.#continued = false;
  }

  /** How many bytes from `at` are one command as far as it is looked at; 0 where they are not all in the chunk. */
  #available(chunk: Buffer, at: number): number {
    const there = chunk.length - at;
    if (there < HEADER_BYTES) return 0;
    const wanted = HEADER_BYTES + Math.min(payloadLength(chunk, at), this.#inspected());
    return there < wanted ? 0 : wanted;
  }

  #inspected(): number {
    return this.#state === 'auth' ? AUTH_REPLY_BYTES_MAX : INSPECT_BYTES_MAX;
  }

  /** Keeps the bytes from `at` on that belong to the packet under way; processes it when it is there. Returns where it ends. */
  #gather(chunk: Buffer, at: number): number {
    let from = at;
    if (this.#piecesBytes < HEADER_BYTES) {
      const taken = Math.min(HEADER_BYTES - this.#piecesBytes, chunk.length - from);
      this.#keep(chunk.subarray(from, from + taken));
      from += taken;
      if (this.#piecesBytes < HEADER_BYTES) return from;
      const header = this.#pieces.length === 1 ? this.#pieces[0]! : Buffer.concat(this.#pieces);
      this.#length = HEADER_BYTES + Math.min(payloadLength(header, 0), this.#inspected());
    }
    const taken = Math.min(this.#length - this.#piecesBytes, chunk.length - from);
    if (taken > 0) this.#keep(chunk.subarray(from, from + taken));
    if (this.#piecesBytes < this.#length) return from + taken;
    const bytes = Buffer.concat(this.#pieces, this.#piecesBytes);
    this.#pieces = [];
    this.#piecesBytes = 0;
    if (this.#state === 'auth') this.#takeAuth(bytes);
    else if (this.#command(bytes, 0, bytes.length)) this.#conversation.sink.toServer(bytes);
    return from + taken;
  }

  #keep(piece: Buffer): void {
    this.#pieces.push(Buffer.from(piece));
    this.#piecesBytes += piece.length;
  }

  #takeAuth(bytes: Buffer): void {
    if (payloadLength(bytes, 0) > AUTH_REPLY_BYTES_MAX) {
      this.fatal = new Refusal('protocol_violation', 'the authentication data is too long');
      return;
    }
    const reply = this.#authReply!;
    this.#authReply = null;
    this.#state = 'blocked';
    reply(bytes.subarray(HEADER_BYTES), bytes[3]!);
  }

  /** One command, from its header at `at` to `end`, which may be before its own end. Whether these bytes pass. */
  #command(bytes: Buffer, at: number, end: number): boolean {
    const length = payloadLength(bytes, at);
    const whole = length === end - at - HEADER_BYTES && length < PACKET_PAYLOAD_BYTES_MAX;
    const request = this.#interpreter.read(bytes, at + HEADER_BYTES, end, whole, length);
    const { exchange } = request;
    if (exchange !== null) exchange.sequence = (bytes[at + 3]! + 1) & 0xff;
    if (request.changeUser !== null) return this.#changeUser(request, bytes, at, end, whole);
    const { statement } = request;
    if (statement === null) {
      if (exchange !== null) this.#conversation.push(exchange);
      if (!whole) this.#enterRest(request, bytes, at, end, true);
      return true;
    }
    statement.bytesSent += HEADER_BYTES + length;
    if (request.refused !== null) {
      return this.#refuse(request, request.refused.code, request.refused.message, bytes, at, end, whole);
    }
    const verdict = this.#conversation.sink.decide(statement);
    if (verdict.action === 'hold') {
      this.#hold(request, bytes, at, end, whole);
      return false;
    }
    return this.#settle(request, verdict, bytes, at, end, whole);
  }

  /** Keeps a command until the gate has made up its mind. */
  #hold(request: Request, bytes: Buffer, at: number, end: number, whole: boolean): void {
    const copy = request.copy();
    // Offsets count from the start of what is kept.
    if (copy.textStart >= 0) copy.textStart -= at;
    this.#held = { request: copy, bytes: Buffer.from(bytes.subarray(at, end)), whole };
    this.#state = 'blocked';
  }

  #settle(
    request: Request,
    verdict: Verdict,
    bytes: Buffer,
    at: number,
    end: number,
    whole: boolean,
  ): boolean {
    if (verdict.action === 'refuse') {
      const { refusal } = verdict;
      return this.#refuse(request, ERROR_CODES[refusal.code], refusalText(refusal), bytes, at, end, whole);
    }
    const conversation = this.#conversation;
    const statement = request.statement!;
    const exchange = request.exchange!;
    cutText(statement, request);
    conversation.sink.begin(statement);
    conversation.push(exchange);
    if (request.changeUser !== null) {
      const change = new ChangeUser(conversation, this, request.changeUser, exchange);
      exchange.takeTurn = () => change.begin();
      conversation.advance();
      return false;
    }
    const { prepared } = exchange;
    if (prepared !== null) {
      if (exchange.reply === 'prepare') conversation.lastPrepared = prepared;
      else if (exchange.reply === 'result') conversation.prepared.dropLongData(prepared);
    }
    if (!whole) this.#enterRest(request, bytes, at, end, true);
    return true;
  }

  #refuse(
    request: Request,
    code: ErrorCode,
    message: string,
    bytes: Buffer,
    at: number,
    end: number,
    whole: boolean,
  ): false {
    const conversation = this.#conversation;
    const statement = request.statement!;
    const exchange = request.exchange!;
    cutText(statement, request);
    exchange.answer = { code, message };
    statement.status = 'denied';
    statement.error = { code: `${code.errno}/${code.sqlstate}`, message };
    statement.transaction = conversation.transaction;
    conversation.sink.begin(statement);
    if (request.changeUser !== null) this.#state = 'command';
    conversation.push(exchange);
    if (whole) {
      statement.bytesSent = 0;
      conversation.sink.end(statement);
      conversation.advance();
    } else this.#enterRest(request, bytes, at, end, false);
    return false;
  }

  #changeUser(request: Request, bytes: Buffer, at: number, end: number, whole: boolean): boolean {
    if (!whole) {
      this.fatal = new Refusal('protocol_violation', 'the COM_CHANGE_USER packet is too long');
      return false;
    }
    const statement = request.statement!;
    this.#state = 'blocked';
    const verdict = this.#conversation.sink.decide(statement);
    if (verdict.action === 'hold') {
      this.#hold(request, bytes, at, end, whole);
      return false;
    }
    return this.#settle(request, verdict, bytes, at, end, whole);
  }

  /** The rest of a long command follows: it passes or is dropped, and is counted and hashed. */
  #enterRest(request: Request, bytes: Buffer, at: number, end: number, passes: boolean): void {
    const length = payloadLength(bytes, at);
    this.#state = 'rest';
    this.#passes = passes;
    this.#exchange = request.exchange;
    this.#remaining = length - (end - at - HEADER_BYTES);
    this.#length = length;
    this.#header = 0;
    this.#continued = false;
    this.#sequence = bytes[at + 3]!;
    this.#hash = null;
    if (request.exchange !== null) request.exchange.complete = false;
    if (request.textStart >= 0) {
      this.#hash = createHash('sha256');
      this.#hash.update(bytes.subarray(request.textStart, end));
      this.#textBytes = end - request.textStart;
    }
    this.#more = request.more;
    if (this.#remaining === 0 && length < PACKET_PAYLOAD_BYTES_MAX) this.#endOfPayload();
  }

  /** Follows packets of which only the lengths matter. Returns where it stopped: at the payload's end, or the chunk's. */
  #stream(chunk: Buffer, at: number): number {
    let position = at;
    const end = chunk.length;
    while (position < end) {
      if (this.#remaining > 0) {
        const taken = Math.min(this.#remaining, end - position);
        if (this.#hash !== null) {
          this.#hash.update(chunk.subarray(position, position + taken));
          this.#textBytes += taken;
        }
        this.#more?.(chunk.subarray(position, position + taken));
        const { file } = this.#conversation;
        if (this.#state === 'unread' && file !== null) file.bytes += taken;
        this.#remaining -= taken;
        position += taken;
      } else {
        const byte = chunk[position]!;
        position += 1;
        if (this.#header < 3) {
          this.#continued = this.#header === 0 ? this.#length === PACKET_PAYLOAD_BYTES_MAX : this.#continued;
          this.#length = this.#header === 0 ? byte : this.#length | (byte << (8 * this.#header));
          this.#header += 1;
          continue;
        }
        this.#header = 0;
        this.#sequence = byte;
        this.#remaining = this.#length;
        const exchange = this.#exchange;
        if (exchange !== null) exchange.sequence = (byte + 1) & 0xff;
        const statement = exchange?.statement ?? null;
        if (statement !== null) statement.bytesSent += HEADER_BYTES + this.#length;
      }
      if (this.#remaining === 0 && this.#header === 0 && this.#length < PACKET_PAYLOAD_BYTES_MAX) {
        this.#endOfPayload();
        return position;
      }
    }
    return position;
  }

  #endOfPayload(): void {
    const conversation = this.#conversation;
    if (this.#state === 'unread') {
      conversation.sequence = (this.#sequence + 1) & 0xff;
      const empty = this.#length === 0 && !this.#continued;
      this.#length = 0;
      if (empty) {
        endOfFile(conversation);
        this.#state = 'command';
      }
      return;
    }
    const exchange = this.#exchange;
    this.#state = 'command';
    this.#exchange = null;
    this.#more = null;
    if (exchange === null) return;
    exchange.complete = true;
    exchange.sequence = (this.#sequence + 1) & 0xff;
    const { statement } = exchange;
    if (statement === null) return;
    if (this.#hash !== null) this.#finishText(statement);
    if (exchange.answer !== null) {
      statement.bytesSent = 0;
      conversation.sink.end(statement);
      conversation.advance();
    }
  }

  #finishText(statement: Statement): void {
    statement.textBytes = this.#textBytes;
    statement.textSha256 = this.#hash!.digest('hex');
    this.#hash = null;
  }
}

/** The client has sent all of the file. */
function endOfFile(conversation: Conversation): void {
  const file = conversation.file!;
  conversation.file = null;
  conversation.sink.note({
    kind: 'session_changed',
    what: 'local_file_sent',
    value: `${file.name} (${file.bytes} bytes)`,
  });
  const { statement } = file;
  if (statement === null) return;
  statement.messages ??= [];
  statement.messages.push(`sent the client's file ${file.name}: ${file.bytes} bytes`);
}
