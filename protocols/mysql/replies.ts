import type { Conversation } from './conversation.ts';
import { HEADER_BYTES, PACKET_PAYLOAD_BYTES_MAX, payloadLength } from './packets.ts';
import { ReplyMachine } from './reply-machine.ts';

/**
 * The server's direction: finds the packets, passes them, and shows a `ReplyMachine` those that it wants to see. All of a
 * chunk goes to the client in one piece, unless something of it is not for the client, or something of ours goes between.
 *
 * A packet whose header, or first byte behind it, is not yet there is kept back until it is: what it is may keep it from
 * the client. What is longer passes as it comes.
 */
export class Replies {
  readonly #conversation: Conversation;
  readonly #machine: ReplyMachine;

  // the packet that is only partly here
  #inside = false;
  #remaining = 0;
  /** Length of the payload's first packet: what ends rows is told by it. */
  #firstLength = 0;
  /** The current packet is full: the payload goes on in the next. */
  #full = false;
  /** Bytes of a header that have not passed yet. */
  #header: Buffer = EMPTY;
  #kept: Buffer[] = [];
  #keptBytes = 0;
  #keepMax = 0;
  #swallows = false;

  constructor(conversation: Conversation) {
    this.#conversation = conversation;
    this.#machine = new ReplyMachine(conversation);
  }

  /** What last went to the client was a whole payload. */
  get atBoundary(): boolean {
    return !this.#inside || this.#swallows;
  }

  server(chunk: Buffer): void {
    const conversation = this.#conversation;
    let at = 0;
    let passFrom = 0;
    const end = chunk.length;
    while (at < end) {
      if (this.#inside) {
        const swallows = this.#swallows;
        if (swallows) this.#pass(chunk, passFrom, at);
        const next = this.#inner(chunk, at);
        if (swallows) passFrom = next;
        at = next;
      } else {
        if (this.#header.length === 0 && this.#machine.expectsRows) at = this.#passRows(chunk, at);
        if (at >= end) break;
        if (this.#header.length > 0 || end - at <= HEADER_BYTES) {
          this.#pass(chunk, passFrom, at);
          at = this.#begin(chunk, at);
          passFrom = at;
          continue;
        }
        const from = at;
        const length = payloadLength(chunk, from);
        const to = from + HEADER_BYTES + length;
        let withheld: boolean;
        if (to <= end && length < PACKET_PAYLOAD_BYTES_MAX) {
          at = to;
          withheld = this.#whole(chunk, from, to, length);
        } else {
          at = from + HEADER_BYTES;
          this.#enter(chunk, from);
          withheld = this.#swallows;
        }
        if (withheld) {
          this.#pass(chunk, passFrom, from);
          passFrom = at;
        }
      }
      if (conversation.mayAdvance && !this.#inside) {
        this.#pass(chunk, passFrom, at);
        passFrom = at;
        conversation.advance();
      }
    }
    this.#pass(chunk, passFrom, end);
  }

  /**
   * Gathers a header, and the first byte behind it: a packet passes only when that is known, for what it is may keep it
   * from the client. Returns where it stopped.
   */
  #begin(chunk: Buffer, at: number): number {
    const missing = this.#header.length < HEADER_BYTES ? HEADER_BYTES - this.#header.length : 1;
    const to = Math.min(at + missing, chunk.length);
    const start = Buffer.concat([this.#header, chunk.subarray(at, to)]);
    const empty = start.length === HEADER_BYTES && payloadLength(start, 0) === 0;
    if (start.length <= HEADER_BYTES && !empty) {
      this.#header = start;
      return to;
    }
    this.#header = EMPTY;
    this.#enter(start, 0);
    if (!this.#swallows) this.#conversation.sink.toClient(start);
    this.#inner(start, HEADER_BYTES);
    if (this.#conversation.mayAdvance && !this.#inside) this.#conversation.advance();
    return to;
  }

  #pass(chunk: Buffer, from: number, to: number): void {
    if (to <= from) return;
    const whole = from === 0 && to === chunk.length;
    this.#conversation.sink.toClient(whole ? chunk : chunk.subarray(from, to));
  }

  /** Passes rows that are wholly in the chunk, as many as there are. Returns where the first other packet begins. */
  #passRows(chunk: Buffer, from: number): number {
    const end = chunk.length - HEADER_BYTES;
    let at = from;
    let last = -1;
    let rows = 0;
    while (at < end) {
      const length = chunk[at]! | (chunk[at + 1]! << 8) | (chunk[at + 2]! << 16);
      const to = at + HEADER_BYTES + length;
      const first = chunk[at + HEADER_BYTES]!;
      if (first >= NO_ROW || length === 0 || length === PACKET_PAYLOAD_BYTES_MAX || to > chunk.length) break;
      rows += 1;
      last = at;
      at = to;
    }
    if (last < 0) return from;
    this.#machine.countRows(rows);
    const conversation = this.#conversation;
    conversation.sequence = (chunk[last + 3]! + 1) & 0xff;
    if (conversation.head !== null) conversation.head.received += at - from;
    return at;
  }

  /** A packet begins whose end is not in this chunk, or which goes on in another packet. */
  #enter(bytes: Buffer, at: number): void {
    const length = payloadLength(bytes, at);
    this.#inside = true;
    this.#remaining = length;
    this.#firstLength = length;
    this.#full = length === PACKET_PAYLOAD_BYTES_MAX;
    this.#keptBytes = 0;
    this.#kept = [];
    this.#conversation.sequence = (bytes[at + 3]! + 1) & 0xff;
    const first = length > 0 ? bytes[at + HEADER_BYTES]! : -1;
    this.#swallows = this.#machine.withheld(first, length);
    this.#keepMax = this.#machine.wanted(first, length);
    const { head } = this.#conversation;
    if (head !== null) head.received += HEADER_BYTES + length;
  }

  /** The bytes from `at` that belong to the payload under way. Returns where they end. */
  #inner(chunk: Buffer, at: number): number {
    let position = at;
    const end = chunk.length;
    for (;;) {
      const taken = Math.min(this.#remaining, end - position);
      if (taken > 0) {
        const room = Math.min(this.#keepMax - this.#keptBytes, taken);
        if (room > 0) {
          this.#kept.push(Buffer.from(chunk.subarray(position, position + room)));
          this.#keptBytes += room;
        }
        this.#remaining -= taken;
        position += taken;
      }
      if (this.#remaining > 0) return position;
      if (!this.#full) {
        this.#leave();
        return position;
      }
      // The payload goes on behind another header, which passes with it.
      const header = this.#header;
      const more = Math.min(HEADER_BYTES - header.length, end - position);
      if (more === 0) return position;
      const next = Buffer.concat([header, chunk.subarray(position, position + more)]);
      position += more;
      if (next.length < HEADER_BYTES) {
        this.#header = next;
        return position;
      }
      this.#header = EMPTY;
      const length = payloadLength(next, 0);
      this.#remaining = length;
      this.#full = length === PACKET_PAYLOAD_BYTES_MAX;
      this.#conversation.sequence = (next[3]! + 1) & 0xff;
      const { head } = this.#conversation;
      if (head !== null) head.received += HEADER_BYTES + length;
    }
  }

  #leave(): void {
    const kept = this.#kept.length === 1 ? this.#kept[0]! : Buffer.concat(this.#kept);
    this.#kept = [];
    this.#inside = false;
    this.#machine.packet(kept, 0, kept.length, this.#firstLength);
    this.#swallows = false;
  }

  /** A packet that is wholly in the chunk. Whether it is kept from the client. */
  #whole(chunk: Buffer, at: number, to: number, length: number): boolean {
    const conversation = this.#conversation;
    conversation.sequence = (chunk[at + 3]! + 1) & 0xff;
    if (conversation.head !== null) conversation.head.received += to - at;
    const withheld = this.#machine.withheld(length > 0 ? chunk[at + HEADER_BYTES]! : -1, length);
    this.#machine.packet(chunk, at + HEADER_BYTES, to, length);
    return withheld;
  }
}

/** No row begins with this byte or the next, but one whose first value has 16 MiB or more: EOF, ERR. */
const NO_ROW = 0xfe;
const EMPTY = Buffer.alloc(0);
