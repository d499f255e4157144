const KEPT = 32;

/** The type letters of the last messages in one direction, for the note that the thread was lost. */
export class MessageTrace {
  readonly #types = new Uint8Array(KEPT);
  #count = 0;

  add(type: number): void {
    this.#types[this.#count & (KEPT - 1)] = type;
    this.#count = (this.#count + 1) & 0x3fffffff;
  }

  /** Oldest first. */
  get text(): string {
    let text = '';
    for (let index = Math.max(0, this.#count - KEPT); index < this.#count; index += 1) {
      text += String.fromCharCode(this.#types[index & (KEPT - 1)]!);
    }
    return text;
  }
}
