import { BURST_BUFFERS_KEPT_MAX, BURST_READ_BYTES, READ_BYTES } from './limits.ts';

/**
 * The memory that sockets are read into, lent to one leg at a time and used again for its next read. A leg has a small
 * buffer of its own; what comes in bursts is read into larger ones that all legs share out.
 *
 * Bytes read are good only during the call that hands them on. Who keeps them copies them, with one exception: a write
 * that the kernel did not take at once has the buffer until it is through, and the reader goes on with another.
 */
export class ReadBuffers {
  /** What is being handed on right now; null between reads. */
  #reading: Buffer | null = null;
  #kept = false;
  #lent = 0;
  readonly #spare: Buffer[] = [];

  /** Marks `buffer` as being handed on. */
  enter(buffer: Buffer): void {
    this.#reading = buffer;
    this.#kept = false;
  }

  /** The call is over. Returns whether somebody kept the buffer. */
  leave(): boolean {
    this.#reading = null;
    return this.#kept;
  }

  /** Whether `bytes` lie in the buffer that is being handed on, so that they are good for this call alone. */
  isLent(bytes: Buffer): boolean {
    return this.#reading !== null && this.#reading.buffer === bytes.buffer;
  }

  /** `bytes`, or a copy of them where they are good for this call alone. */
  lasting(bytes: Buffer): Buffer {
    return this.isLent(bytes) ? Buffer.from(bytes) : bytes;
  }

  /**
   * Keeps the buffer in which `bytes` lie, where that is the one being handed on: it is not read into again until it is
   * given back. Returns it; null for bytes of other memory.
   */
  keep(bytes: Buffer): Buffer | null {
    if (!this.isLent(bytes)) return null;
    this.#kept = true;
    return this.#reading;
  }

  /** As `keep`, where nobody will say when the write is through: the buffer goes with it. */
  forsake(bytes: Buffer): void {
    const buffer = this.keep(bytes);
    if (buffer !== null && buffer.length === BURST_READ_BYTES) this.#lent -= 1;
  }

  small(): Buffer {
    return Buffer.allocUnsafeSlow(READ_BYTES);
  }

  burst(): Buffer {
    this.#lent += 1;
    return this.#spare.pop() ?? Buffer.allocUnsafeSlow(BURST_READ_BYTES);
  }

  /** Large buffers that are with legs, or with writes of theirs. */
  get lent(): number {
    return this.#lent;
  }

  /** Whether a leg may hold on to its large buffer between two bursts. */
  get plenty(): boolean {
    return this.#lent <= BURST_BUFFERS_KEPT_MAX;
  }

  /** Takes a buffer back, small or large. */
  giveBack(buffer: Buffer): void {
    if (buffer.length !== BURST_READ_BYTES) return;
    this.#lent -= 1;
    if (this.#spare.length < BURST_BUFFERS_KEPT_MAX) this.#spare.push(buffer);
  }
}

/** Of this process. */
export const readBuffers = new ReadBuffers();
