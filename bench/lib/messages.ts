/** Counts the ends of protocol messages in a stream that is cut anywhere, looking at headers alone. */
export interface MessageFormat {
  readonly headerBytes: number;
  /** Bytes behind the header, of the packet that this header begins. */
  bodyBytes(header: Buffer): number;
}

/** Calls `packet` with the header of each packet once all of it is there, and with its body where `keepsBodies`. */
export class PacketScanner {
  readonly #format: MessageFormat;
  readonly #packet: (header: Buffer, body: Buffer) => void;
  readonly #keptBytesMax: number;
  #header: Buffer = Buffer.alloc(0);
  #body: Buffer[] = [];
  #left = -1;

  /** Bodies beyond `keptBytesMax` bytes are passed over, and given as they began. */
  constructor(format: MessageFormat, keptBytesMax: number, packet: (header: Buffer, body: Buffer) => void) {
    this.#format = format;
    this.#keptBytesMax = keptBytesMax;
    this.#packet = packet;
  }

  push(chunk: Buffer): void {
    let at = 0;
    for (;;) {
      if (this.#left < 0) {
        const missing = this.#format.headerBytes - this.#header.length;
        const part = chunk.subarray(at, at + missing);
        at += part.length;
        this.#header = this.#header.length === 0 ? part : Buffer.concat([this.#header, part]);
        if (part.length < missing) {
          // The chunk is the socket's: what outlives this call is copied.
          this.#header = Buffer.from(this.#header);
          return;
        }
        this.#left = this.#format.bodyBytes(this.#header);
      }
      const part = chunk.subarray(at, at + this.#left);
      at += part.length;
      this.#left -= part.length;
      this.#keep(part);
      if (this.#left > 0) {
        this.#header = Buffer.from(this.#header);
        return;
      }
      const header = this.#header;
      const body = this.#body.length === 1 ? this.#body[0]! : Buffer.concat(this.#body);
      this.#header = Buffer.alloc(0);
      this.#body = [];
      this.#left = -1;
      this.#packet(header, body);
      if (at >= chunk.length) return;
    }
  }

  #keep(part: Buffer): void {
    if (this.#keptBytesMax === 0 || part.length === 0) return;
    const kept = this.#body.reduce((sum, { length }) => sum + length, 0);
    if (kept < this.#keptBytesMax) this.#body.push(Buffer.from(part.subarray(0, this.#keptBytesMax - kept)));
  }
}
