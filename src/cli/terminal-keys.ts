import type { ReadStream } from 'node:tty';

const ARROWS = ['\u001b[A', '\u001b[B', '\u001b[C', '\u001b[D'];

/** Single keys from a terminal, for what waits for either a key or the time. Without a terminal, time alone. */
export class KeyReader {
  readonly #input: ReadStream | null;
  readonly #keys: string[] = [];
  #waiting: ((key: string | null) => void) | null = null;

  constructor(input: ReadStream | null) {
    this.#input = input;
    if (input === null) return;
    input.setRawMode(true);
    input.resume();
    input.on('data', this.#onData);
  }

  /** Resolves with the next key, or with null after `ms` (never, for null). */
  wait(ms: number | null): Promise<string | null> {
    const key = this.#keys.shift();
    if (key !== undefined) return Promise.resolve(key);
    return new Promise((resolve) => {
      const timer = ms === null ? null : setTimeout(() => this.#tell(null), ms);
      this.#waiting = (answer) => {
        if (timer !== null) clearTimeout(timer);
        resolve(answer);
      };
    });
  }

  close(): void {
    if (this.#input === null) return;
    this.#input.off('data', this.#onData);
    this.#input.setRawMode(false);
    this.#input.pause();
  }

  readonly #onData = (chunk: Buffer | string): void => {
    let text = chunk.toString();
    while (text !== '') {
      // An arrow key is one sequence; everything else is taken character by character.
      const key = ARROWS.find((arrow) => text.startsWith(arrow)) ?? text[0]!;
      this.#keys.push(key);
      text = text.slice(key.length);
    }
    if (this.#waiting !== null && this.#keys.length > 0) this.#tell(this.#keys.shift()!);
  };

  #tell(key: string | null): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.(key);
  }
}

/** Ends this process quietly when whoever reads its output (`head`, a pager) has had enough. */
export function endWithReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(0);
  });
}
