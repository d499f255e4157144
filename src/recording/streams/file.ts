import { closeSync, fstatSync, mkdirSync, openSync, statSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Sink, StreamedEvent } from './stream.ts';

/** JSON Lines appended to a file (mode 0600), or written to standard output for `-`. */
export class FileSink implements Sink {
  readonly name: string;
  readonly #path: string;
  #fd: number | null = null;

  constructor(path: string) {
    this.#path = path;
    this.name = path === '-' ? 'standard output' : path;
  }

  send(events: readonly StreamedEvent[]): Promise<void> {
    const bytes = Buffer.from(events.map(({ line }) => `${line}\n`).join(''), 'utf8');
    try {
      const fd = this.#open();
      let written = 0;
      while (written < bytes.length) written += writeSync(fd, bytes, written);
      return Promise.resolve();
    } catch (error) {
      this.#close();
      return Promise.reject(error as Error);
    }
  }

  close(): Promise<void> {
    this.#close();
    return Promise.resolve();
  }

  /** The file under its name: one that was rotated away is left to who did it. */
  #open(): number {
    if (this.#path === '-') return 1;
    if (this.#fd !== null && isSame(this.#fd, this.#path)) return this.#fd;
    this.#close();
    mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 });
    this.#fd = openSync(this.#path, 'a', 0o600);
    return this.#fd;
  }

  #close(): void {
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
  }
}

function isSame(fd: number, path: string): boolean {
  try {
    const named = statSync(path);
    const opened = fstatSync(fd);
    return named.ino === opened.ino && named.dev === opened.dev;
  } catch {
    return false;
  }
}
