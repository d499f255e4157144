import { Cursor } from './cursor.ts';
import { TAIL_BYTES_MAX } from './limits.ts';
import { type Done, DoneStatus, readMessage, type ServerMessage, Token } from './tokens.ts';

/**
 * The last bytes of a response whose tokens could not be followed. A response ends with a DONE of known length, so its
 * end can be read without its beginning: the outcome, and the ERROR tokens right before it. A token further back is
 * believed only when its lengths lead exactly to the one behind it.
 */
export class ResponseTail {
  #bytes: Buffer | null = null;
  #length = 0;

  reset(): void {
    this.#length = 0;
  }

  add(bytes: Buffer, start: number, end: number): void {
    this.#bytes ??= Buffer.allocUnsafe(TAIL_BYTES_MAX * 2);
    const kept = this.#bytes;
    const from = Math.max(start, end - TAIL_BYTES_MAX);
    if (this.#length + end - from > kept.length) {
      const stay = Math.min(this.#length, TAIL_BYTES_MAX);
      kept.copy(kept, 0, this.#length - stay, this.#length);
      this.#length = stay;
    }
    this.#length += bytes.copy(kept, this.#length, from, end);
  }

  /** Fills `done` from the final DONE and gives the errors before it; null when the end is not that of a response. */
  read(wide: boolean, done: Done): { errors: ServerMessage[] } | null {
    const doneBytes = wide ? 13 : 9;
    const bytes = this.#bytes;
    if (bytes === null || !isDone(bytes, this.#length - doneBytes, true)) return null;
    const at = this.#length - doneBytes;
    done.token = bytes[at]!;
    done.status = bytes.readUInt16LE(at + 1);
    done.command = bytes.readUInt16LE(at + 3);
    done.count = bytes.readUInt32LE(at + 5) + (wide ? bytes.readUInt32LE(at + 9) * 0x1_0000_0000 : 0);
    return { errors: this.#errorsBefore(bytes, at, wide, doneBytes) };
  }

  #errorsBefore(bytes: Buffer, end: number, wide: boolean, doneBytes: number): ServerMessage[] {
    const errors: ServerMessage[] = [];
    const cursor = new Cursor();
    let boundary = end;
    while (boundary > 0) {
      const status = boundary - 5;
      if (status >= 0 && bytes[status] === Token.returnStatus) {
        boundary = status;
        continue;
      }
      if (isDone(bytes, boundary - doneBytes, false)) {
        boundary -= doneBytes;
        continue;
      }
      const at = messageEndingAt(bytes, boundary, wide, cursor);
      if (at < 0) break;
      cursor.set(bytes, at + 3, boundary);
      if (bytes[at] === Token.error) errors.unshift(readMessage(cursor, wide));
      boundary = at;
    }
    return errors;
  }
}

const KNOWN_STATUS_BITS = 0x01ff;

function isDone(bytes: Buffer, at: number, final: boolean): boolean {
  if (at < 0) return false;
  const token = bytes[at]!;
  if (token < Token.done || (final && token === Token.doneInProcedure)) return false;
  const status = bytes.readUInt16LE(at + 1);
  if (status & ~KNOWN_STATUS_BITS) return false;
  return ((status & DoneStatus.more) === 0) === final;
}

/** Where an ERROR or INFO token stands whose lengths, the inner ones too, end exactly at `boundary`; -1 for none. */
function messageEndingAt(bytes: Buffer, boundary: number, wide: boolean, cursor: Cursor): number {
  const furthest = Math.max(0, boundary - 3 - 0xffff);
  for (let at = boundary - 3; at >= furthest; at--) {
    const token = bytes[at];
    if (token !== Token.error && token !== Token.info) continue;
    if (at + 3 + bytes.readUInt16LE(at + 1) !== boundary) continue;
    cursor.set(bytes, at + 3, boundary);
    readMessage(cursor, wide);
    if (!cursor.short && cursor.position === boundary) return at;
  }
  return -1;
}
