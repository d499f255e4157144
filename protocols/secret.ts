import { inspect } from 'node:util';

const SHOWN = '[secret]';

/**
 * A value that cannot print itself. Whatever shows it (string conversion, JSON, `util.inspect`, a log line) gets
 * `[secret]`; only `expose()` gives the bytes, and only the engines' login code calls that.
 */
export class Secret {
  #bytes: Buffer;
  #wiped = false;

  private constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** Takes UTF-8 text. The string itself stays in the heap until collected: prefer `fromBytes` where bytes are at hand. */
  static fromText(text: string): Secret {
    return new Secret(Buffer.from(text, 'utf8'));
  }

  /** Takes ownership of `bytes`: they are zeroed by `wipe()`. */
  static fromBytes(bytes: Buffer): Secret {
    return new Secret(bytes);
  }

  /** The secret's bytes (UTF-8 for passwords), not a copy. Throws after `wipe()`. */
  expose(): Buffer {
    if (this.#wiped) throw new Error('this secret has been wiped');
    return this.#bytes;
  }

  /** An independent copy, so that the lease of one session ends without ending another's. Throws after `wipe()`. */
  clone(): Secret {
    return new Secret(Buffer.from(this.expose()));
  }

  get wiped(): boolean {
    return this.#wiped;
  }

  wipe(): void {
    this.#bytes.fill(0);
    this.#wiped = true;
  }

  [Symbol.dispose](): void {
    this.wipe();
  }

  toString(): string {
    return SHOWN;
  }

  toJSON(): string {
    return SHOWN;
  }

  [Symbol.toPrimitive](): string {
    return SHOWN;
  }

  [inspect.custom](): string {
    return SHOWN;
  }
}
