/**
 * Packets and messages of the streaming phase (MS-TDS 2.2.3.1), cut at any byte.
 *
 * A packet is an 8-byte header (type, status, length big-endian and including the header, session id, packet number,
 * window) and a payload; a message is packets of one type up to the one that carries the end-of-message bit.
 */

export const PACKET_HEADER_BYTES = 8;

/** Message types that occur after sign-in (MS-TDS 2.2.3.1.1). */
export const MessageType = {
  sqlBatch: 0x01,
  rpc: 0x03,
  tabularResult: 0x04,
  attention: 0x06,
  bulkLoad: 0x07,
  fedAuthToken: 0x08,
  transactionManager: 0x0e,
  sspi: 0x11,
} as const;

/** Status bits (MS-TDS 2.2.3.1.2). */
export const PacketStatus = {
  endOfMessage: 0x01,
  /** The client gives up this unfinished request; only together with the end of the message. */
  ignore: 0x02,
  resetConnection: 0x08,
  /** As `resetConnection`, and the transaction stays. */
  resetConnectionKeepTransaction: 0x10,
} as const;

/** Takes whole packets, each with its header, in order. */
export interface PacketSink {
  /** `bytes[start, end)` is one packet. Where `bytes` is the chunk that was fed, they are good during the call alone. */
  packet(bytes: Buffer, start: number, end: number): void;
}

/**
 * Cuts a byte stream into whole packets. A packet that arrives in one chunk is passed as a view of it; one that does
 * not is put together in a buffer of exactly its length.
 */
export class PacketCutter {
  readonly #header = Buffer.alloc(PACKET_HEADER_BYTES);
  #headerLength = 0;
  #packet: Buffer | null = null;
  #filled = 0;

  /** No packet is half received. */
  get empty(): boolean {
    return this.#headerLength === 0 && this.#packet === null;
  }

  /** Feeds one chunk. False when a header announces a length below its own size: the stream cannot be followed. */
  feed(chunk: Buffer, sink: PacketSink): boolean {
    let position = 0;
    const end = chunk.length;
    while (position < end) {
      if (this.#packet !== null || this.#headerLength > 0 || end - position < PACKET_HEADER_BYTES) {
        position = this.#continue(chunk, position, sink);
        if (position < 0) return false;
        continue;
      }
      const length = (chunk[position + 2]! << 8) | chunk[position + 3]!;
      if (length < PACKET_HEADER_BYTES) return false;
      if (length > end - position) {
        position = this.#open(chunk, position, length);
        continue;
      }
      sink.packet(chunk, position, position + length);
      position += length;
    }
    return true;
  }

  /** Starts a packet of which `chunk` holds the header and not all of the payload. */
  #open(chunk: Buffer, position: number, length: number): number {
    this.#packet = Buffer.allocUnsafeSlow(length);
    this.#filled = chunk.copy(this.#packet, 0, position);
    return chunk.length;
  }

  /** Goes on with a packet begun earlier, or with a header that is cut; returns the new position, -1 for a bad length. */
  #continue(chunk: Buffer, position: number, sink: PacketSink): number {
    if (this.#packet === null) {
      const taken = Math.min(PACKET_HEADER_BYTES - this.#headerLength, chunk.length - position);
      chunk.copy(this.#header, this.#headerLength, position, position + taken);
      this.#headerLength += taken;
      if (this.#headerLength < PACKET_HEADER_BYTES) return position + taken;
      const length = this.#header.readUInt16BE(2);
      if (length < PACKET_HEADER_BYTES) return -1;
      this.#packet = Buffer.allocUnsafeSlow(length);
      this.#header.copy(this.#packet);
      this.#filled = PACKET_HEADER_BYTES;
      this.#headerLength = 0;
      return this.#finish(position + taken, sink);
    }
    const taken = chunk.copy(this.#packet, this.#filled, position);
    this.#filled += taken;
    return this.#finish(position + taken, sink);
  }

  #finish(position: number, sink: PacketSink): number {
    const packet = this.#packet!;
    if (this.#filled === packet.length) {
      this.#packet = null;
      sink.packet(packet, 0, packet.length);
    }
    return position;
  }
}

/** Takes what a `PacketScanner` finds. Positions are those of the chunk at hand. */
export interface SegmentSink {
  /** A packet's header has been read; its payload follows. `at`: where it stands in the chunk, -1 where it was cut. */
  header(length: number, at: number): void;
  /** A piece of a packet's payload: a view that is valid during the call. */
  payload(bytes: Buffer, start: number, end: number): void;
  /** The packet with the end-of-message bit is over; the next message begins at `position`. */
  messageEnd(bytes: Buffer, position: number): void;
}

/** Follows packets without putting them together: nothing is copied, not even where they are cut. */
export class PacketScanner {
  readonly #header = Buffer.alloc(PACKET_HEADER_BYTES);
  #headerLength = 0;
  #left = 0;
  #final = false;
  #inMessage = false;

  /** What came last was the end of a message. */
  get atBoundary(): boolean {
    return !this.#inMessage && this.#headerLength === 0;
  }

  /** Feeds `bytes[start, end)`. False when a header announces a length below its own size. */
  feed(bytes: Buffer, start: number, end: number, sink: SegmentSink): boolean {
    let position = start;
    while (position < end) {
      if (this.#left > 0) {
        const taken = Math.min(this.#left, end - position);
        this.#left -= taken;
        sink.payload(bytes, position, position + taken);
        position += taken;
        if (this.#left === 0) this.#packetEnd(bytes, position, sink);
        continue;
      }
      if (this.#headerLength === 0 && end - position >= PACKET_HEADER_BYTES) {
        if (!this.#read(bytes, position, position, sink)) return false;
        position += PACKET_HEADER_BYTES;
      } else {
        const taken = Math.min(PACKET_HEADER_BYTES - this.#headerLength, end - position);
        bytes.copy(this.#header, this.#headerLength, position, position + taken);
        this.#headerLength += taken;
        position += taken;
        if (this.#headerLength < PACKET_HEADER_BYTES) break;
        this.#headerLength = 0;
        if (!this.#read(this.#header, 0, -1, sink)) return false;
      }
      if (this.#left === 0) this.#packetEnd(bytes, position, sink);
    }
    return true;
  }

  #read(bytes: Buffer, at: number, chunkAt: number, sink: SegmentSink): boolean {
    const length = (bytes[at + 2]! << 8) | bytes[at + 3]!;
    if (length < PACKET_HEADER_BYTES) return false;
    this.#left = length - PACKET_HEADER_BYTES;
    this.#final = (bytes[at + 1]! & PacketStatus.endOfMessage) !== 0;
    this.#inMessage = true;
    sink.header(length, chunkAt);
    return true;
  }

  #packetEnd(bytes: Buffer, position: number, sink: SegmentSink): void {
    if (!this.#final) return;
    this.#final = false;
    this.#inMessage = false;
    sink.messageEnd(bytes, position);
  }
}
