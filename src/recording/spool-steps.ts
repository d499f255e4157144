import { closeSync, openSync, writeSync } from 'node:fs';

/**
 * What is to be done in the spool, in order. A step that fails stays, with all behind it, and is tried again before anything
 * else: where the disk was full for a while, no part has a hole. So each step must be one that can be repeated.
 */
export class SpoolSteps {
  #waiting: (() => void)[] = [];

  /** Whether a step failed, and waits to be tried again. */
  get stuck(): boolean {
    return this.#waiting.length > 0;
  }

  /** Throws what the first step that fails throws. */
  take(step: () => void): void {
    this.#waiting.push(step);
    this.retry();
  }

  /** Throws what the first step that fails throws. */
  retry(): void {
    while (this.#waiting.length > 0) {
      this.#waiting[0]!();
      this.#waiting.shift();
    }
  }
}

/** A file that is written in pieces, each of which can be written again at its place. */
export class PartFile {
  readonly path: string;
  #fd: number | null = null;

  constructor(path: string) {
    this.path = path;
  }

  open(): void {
    this.#fd = openSync(this.path, 'w', 0o600);
  }

  write(bytes: Buffer, offset: number): void {
    let written = 0;
    while (written < bytes.length)
      written += writeSync(this.#fd!, bytes, written, bytes.length - written, offset + written);
  }

  /** For good, also where the system reports an error: the descriptor is gone either way. */
  close(): void {
    const fd = this.#fd;
    this.#fd = null;
    if (fd !== null) closeSync(fd);
  }
}
