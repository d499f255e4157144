import { createHash, type Hash } from 'node:crypto';
import { TextDecoder } from 'node:util';
import { INSPECT_BYTES_MAX, STATEMENT_TEXT_BYTES_MAX } from '../limits.ts';
import type { Statement } from '../statement.ts';
import { ValueCapture } from './extents.ts';

/**
 * Statement text as it passes, in UTF-16. Its first `INSPECT_BYTES_MAX` bytes are kept for the gate; of a longer one the
 * SHA-256 of the whole is computed on the way, over UTF-8 as that of every recorded text.
 */
export class TextCapture extends ValueCapture {
  #hash: Hash | null = null;
  #decoder: TextDecoder | null = null;
  #utf8Bytes = 0;

  start(): void {
    this.begin(INSPECT_BYTES_MAX, false);
    this.#hash = null;
    this.#decoder = null;
  }

  override add(bytes: Buffer, start: number, end: number): void {
    const before = this.total;
    super.add(bytes, start, end);
    if (this.total <= INSPECT_BYTES_MAX) return;
    if (this.#hash === null) {
      this.#hash = createHash('sha256');
      this.#decoder = new TextDecoder('utf-16le', { ignoreBOM: true });
      this.#utf8Bytes = 0;
      this.#digest(this.bytes.subarray(0, before));
    }
    this.#digest(bytes.subarray(start, end));
  }

  #digest(bytes: Buffer): void {
    const text = this.#decoder!.decode(bytes, STREAM);
    this.#utf8Bytes += Buffer.byteLength(text);
    this.#hash!.update(text);
  }

  /** Length of the text so far in UTF-8, given the part of it that was kept. */
  utf8Bytes(kept: string): number {
    return this.#hash === null ? Buffer.byteLength(kept) : this.#utf8Bytes;
  }

  /** The text, or its beginning. */
  get text(): string {
    return this.utf16;
  }

  /** SHA-256 of the whole text where only its beginning was kept; to be asked once, at its end. */
  textDigest(): string | null {
    if (this.#hash === null) return null;
    this.#hash.update(this.#decoder!.decode());
    return this.#hash.digest('hex');
  }
}

const STREAM = { stream: true } as const;

/** Cuts a statement's text to what an event may carry. Before this the gate has seen all that was collected. */
export function cutText(statement: Statement): void {
  const { text } = statement;
  // A UTF-16 unit is at most three bytes of UTF-8, so most texts need not be measured.
  if (text === null || text.length * 3 <= STATEMENT_TEXT_BYTES_MAX) return;
  const bytes = Buffer.from(text);
  if (bytes.length <= STATEMENT_TEXT_BYTES_MAX) return;
  statement.textSha256 ??= createHash('sha256').update(bytes).digest('hex');
  let end = STATEMENT_TEXT_BYTES_MAX;
  while ((bytes[end]! & 0xc0) === 0x80) end -= 1;
  statement.text = bytes.toString('utf8', 0, end);
}
