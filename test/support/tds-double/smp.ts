import type { PacketWriter } from './output.ts';
import type { DoubleMessage, StreamReader } from './wire.ts';

/** Several streams over one connection (MC-SMP): each TDS packet in a frame of 16 bytes more. */

const SYN = 1;
const ACK = 2;
const FIN = 4;
const DATA = 8;
const WINDOW = 4;

class Stream implements PacketWriter {
  readonly id: number;
  readonly #write: (bytes: Buffer) => boolean;
  #sent = 0;
  #received = 0;
  #announced = WINDOW;
  #allowed = WINDOW;
  #queue: Buffer[] = [];
  #packets: Buffer[] = [];
  #wake: (() => void) | null = null;
  #drain: (() => void)[] = [];
  #ended = false;

  constructor(id: number, write: (bytes: Buffer) => boolean) {
    this.id = id;
    this.#write = write;
  }

  onFrame(flags: number, window: number, payload: Buffer): void {
    this.#allowed = window;
    this.#pump();
    if (flags === DATA) {
      this.#received += 1;
      this.#packets.push(payload);
      if (this.#announced - this.#received < 3) {
        this.#announced = this.#received + WINDOW;
        this.#write(frame(this.id, ACK, this.#sent, this.#announced, Buffer.alloc(0)));
      }
    }
    if (flags === FIN) {
      this.#ended = true;
      this.#write(frame(this.id, FIN, this.#sent, this.#announced, Buffer.alloc(0)));
    }
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
    for (const resolve of this.#drain) resolve();
  }

  write(packet: Buffer): boolean {
    this.#queue.push(packet);
    this.#pump();
    return this.#queue.length === 0;
  }

  drained(): Promise<void> {
    if (this.#queue.length === 0 || this.#ended) return Promise.resolve();
    return new Promise((resolve) => {
      this.#drain.push(resolve);
    });
  }

  async next(): Promise<DoubleMessage | null> {
    const payloads: Buffer[] = [];
    let first: Buffer | null = null;
    for (;;) {
      while (this.#packets.length === 0) {
        if (this.#ended) return null;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      const packet = this.#packets.shift()!;
      first ??= packet;
      payloads.push(packet.subarray(8));
      if (packet[1]! & 1) {
        return {
          type: first[0]!,
          payload: Buffer.concat(payloads),
          status: first[1]!,
          lastStatus: packet[1]!,
        };
      }
    }
  }

  #pump(): void {
    while (this.#queue.length > 0 && this.#sent < this.#allowed) {
      this.#sent += 1;
      this.#write(frame(this.id, DATA, this.#sent, this.#announced, this.#queue.shift()!));
    }
    if (this.#queue.length > 0) return;
    const waiting = this.#drain;
    this.#drain = [];
    for (const resolve of waiting) resolve();
  }
}

function frame(id: number, flags: number, sequence: number, window: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header[0] = 0x53;
  header[1] = flags;
  header.writeUInt16LE(id, 2);
  header.writeUInt32LE(16 + payload.length, 4);
  header.writeUInt32LE(sequence, 8);
  header.writeUInt32LE(window, 12);
  return Buffer.concat([header, payload]);
}

/** Serves every stream that the client opens, until the connection ends. */
export async function serveStreams(
  reader: StreamReader,
  serveOne: (next: () => Promise<DoubleMessage | null>, writer: PacketWriter) => Promise<void>,
): Promise<void> {
  const streams = new Map<number, Stream>();
  for (;;) {
    const header = await reader.read(16);
    if (header === null) break;
    if (header[0] !== 0x53) throw new Error('a packet outside a MARS stream');
    const payload = await reader.read(header.readUInt32LE(4) - 16);
    if (payload === null) break;
    const id = header.readUInt16LE(2);
    const flags = header[1]!;
    if (flags === SYN) {
      const stream = new Stream(id, (bytes) => reader.stream.write(bytes));
      streams.set(id, stream);
      void serveOne(() => stream.next(), stream);
      continue;
    }
    streams.get(id)?.onFrame(flags, header.readUInt32LE(12), payload);
    if (flags === FIN) streams.delete(id);
  }
  for (const stream of streams.values()) stream.end();
}
