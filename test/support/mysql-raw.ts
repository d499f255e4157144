import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { packet } from '../../protocols/mysql/packets.ts';

/**
 * A client that sends exactly the packets it is told to, and shows the replies as they came. It signs in without a
 * password, in clear, and asks for just the capabilities that a test is about.
 */

const LONG_PASSWORD = 1;
const CONNECT_WITH_DB = 8;
const BASE = LONG_PASSWORD | 4 | (1 << 9) | (1 << 13) | (1 << 15) | (1 << 17) | (1 << 18) | (1 << 19);

export interface RawOptions {
  readonly port: number;
  readonly user: string;
  readonly database: string;
  /** CLIENT_* flags beside the basic ones. */
  readonly capabilities?: number;
  /** MariaDB's extended flags: any of them clears LONG_PASSWORD. */
  readonly extended?: number;
  readonly collation?: number;
  readonly withoutPlugins?: boolean;
}

export class RawMysql {
  readonly #socket: Socket;
  readonly connectionId: number;
  /** What has come and was not yet taken: a view into `#room`, which has more behind it. */
  #received: Buffer = Buffer.alloc(0);
  #room: Buffer = Buffer.alloc(64 * 1024);
  #wake: (() => void) | null = null;
  #ended = false;
  #markers = 0;
  readonly #attributes: boolean;

  private constructor(socket: Socket, connectionId: number, attributes: boolean) {
    this.#socket = socket;
    this.connectionId = connectionId;
    this.#attributes = attributes;
  }

  static async connect(options: RawOptions): Promise<RawMysql> {
    const socket = createConnection({ host: '127.0.0.1', port: options.port, noDelay: true });
    await once(socket, 'connect');
    const first = new RawMysql(socket, 0, false);
    first.#listen();
    const greeting = await first.packet();
    const versionEnd = greeting.indexOf(0, 1);
    const connectionId = greeting.readUInt32LE(versionEnd + 1);
    const offered =
      (greeting.readUInt16LE(versionEnd + 14) | (greeting.readUInt16LE(versionEnd + 19) << 16)) >>> 0;
    const extended =
      offered & LONG_PASSWORD ? 0 : greeting.readUInt32LE(versionEnd + 28) & (options.extended ?? 0);
    let flags =
      (BASE | (options.database === '' ? 0 : CONNECT_WITH_DB) | (options.capabilities ?? 0)) & offered;
    if (options.withoutPlugins) flags &= ~(1 << 19);
    if ((options.extended ?? 0) === 0) flags |= LONG_PASSWORD;
    else flags &= ~LONG_PASSWORD;
    const response = Buffer.alloc(32);
    response.writeUInt32LE(flags >>> 0, 0);
    response.writeUInt32LE(0x4000_0000, 4);
    response[8] = options.collation ?? 45;
    response.writeUInt32LE(extended, 28);
    const plugin = greeting.toString(
      'latin1',
      greeting.lastIndexOf(0, greeting.length - 2) + 1,
      greeting.length - 1,
    );
    socket.write(
      packet(
        1,
        Buffer.concat([
          response,
          Buffer.from(`${options.user}\0\0`),
          ...(options.database === '' ? [] : [Buffer.from(`${options.database}\0`)]),
          ...(options.withoutPlugins ? [] : [Buffer.from(`${plugin}\0`)]),
          ...(flags & (1 << 20) ? [Buffer.of(0)] : []),
        ]),
      ),
    );
    let sequence = 3;
    for (;;) {
      const reply = await first.packet();
      if (reply[0] === 0) break;
      if (reply[0] === 0xff) throw new Error(`not signed in: ${reply.toString('latin1', 3)}`);
      // The account has no password, whatever the plugin.
      if (reply[0] === 0xfe) socket.write(packet(sequence, Buffer.alloc(0)));
      sequence += 2;
    }
    socket.removeAllListeners('data');
    socket.removeAllListeners('close');
    socket.removeAllListeners('error');
    const raw = new RawMysql(socket, connectionId, (flags & (1 << 27)) !== 0);
    raw.#received = first.#received;
    raw.#listen();
    return raw;
  }

  /** Sends bytes as they are. */
  write(bytes: Buffer): void {
    this.#socket.write(bytes);
  }

  /** A COM_QUERY, with the empty list of attributes where they are agreed on. */
  query(text: Buffer | string): Buffer {
    const head = this.#attributes ? Buffer.of(3, 0, 1) : Buffer.of(3);
    return packet(0, Buffer.concat([head, typeof text === 'string' ? Buffer.from(text) : text]));
  }

  /**
   * Sends bytes and gives what the server answers to them: all that comes before the reply to a query sent behind, which
   * nothing else can answer. Where the server asks for a file, `file` is sent first: its packets from number 2 on.
   */
  async ask(bytes: Buffer, file: readonly Buffer[] | null = null): Promise<Buffer> {
    this.#markers += 1;
    const marker = `marker-${this.#markers}-`;
    this.write(bytes);
    if (file !== null) {
      await this.#until(
        () => lastPayload(this.#received)?.[0] === 0xfb || lastPayload(this.#received)?.[0] === 0xff,
      );
      if (lastPayload(this.#received)![0] === 0xfb) {
        for (const [index, data] of file.entries()) this.write(packet((2 + index) & 0xff, data));
        this.write(packet((2 + file.length) & 0xff, Buffer.alloc(0)));
      }
    }
    this.write(this.query(`select '${marker}' as marker`));
    // The marker stands in the definition, then in the row; the packet behind the row is the last.
    const row = Buffer.concat([Buffer.of(marker.length), Buffer.from(marker)]);
    let at = -1;
    await this.#until(() => {
      // It is among the last bytes; what is before may be long.
      const tail = Math.max(0, this.#received.length - 300);
      const found = this.#received.subarray(tail).lastIndexOf(row);
      at = found < 0 ? -1 : tail + found;
      return at >= 0 && wholeAt(this.#received, at + row.length);
    });
    const end = at + row.length + 4 + this.#received.readUIntLE(at + row.length, 3);
    const all = this.#received.subarray(0, end);
    this.#received = this.#received.subarray(end);
    return all.subarray(0, startOfMarker(all, at));
  }

  /** The next packet's payload. */
  async packet(): Promise<Buffer> {
    await this.#until(() => wholeAt(this.#received, 0));
    const length = this.#received.readUIntLE(0, 3);
    const payload = this.#received.subarray(4, 4 + length);
    this.#received = this.#received.subarray(4 + length);
    return payload;
  }

  /** All that comes until the server closes. */
  async rest(): Promise<Buffer> {
    await this.#until(() => this.#ended);
    return this.#received;
  }

  /** Hands the socket over: nothing that comes is kept any more. */
  detach(): Socket {
    this.#socket.removeAllListeners('data');
    return this.#socket;
  }

  end(): void {
    this.#socket.end(packet(0, Buffer.of(1)));
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #listen(): void {
    this.#socket.on('data', (chunk: Buffer) => {
      this.#append(chunk);
      this.#wake?.();
    });
    this.#socket.on('error', () => {});
    this.#socket.on('close', () => {
      this.#ended = true;
      this.#wake?.();
    });
  }

  #append(chunk: Buffer): void {
    const length = this.#received.length + chunk.length;
    const from = this.#received.byteOffset - this.#room.byteOffset;
    if (this.#received.buffer !== this.#room.buffer || from + length > this.#room.length) {
      const room = Buffer.alloc(Math.max(64 * 1024, length * 2));
      this.#received.copy(room);
      this.#room = room;
      this.#received = room.subarray(0, this.#received.length);
    }
    const start = this.#received.byteOffset - this.#room.byteOffset;
    chunk.copy(this.#room, start + this.#received.length);
    this.#received = this.#room.subarray(start, start + length);
  }

  async #until(condition: () => boolean): Promise<void> {
    const timer = setTimeout(() => this.#socket.destroy(), 20_000);
    while (!condition()) {
      if (this.#ended) {
        clearTimeout(timer);
        throw new Error(`the connection ended; last came ${this.#received.subarray(-60).toString('latin1')}`);
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    clearTimeout(timer);
  }
}

function wholeAt(bytes: Buffer, at: number): boolean {
  return bytes.length >= at + 4 && bytes.length >= at + 4 + bytes.readUIntLE(at, 3);
}

/** The last whole packet's payload, where the bytes end with it. */
function lastPayload(bytes: Buffer): Buffer | null {
  let at = 0;
  let last: Buffer | null = null;
  while (wholeAt(bytes, at)) {
    const length = bytes.readUIntLE(at, 3);
    last = bytes.subarray(at + 4, at + 4 + length);
    at += 4 + length;
  }
  return at === bytes.length ? last : null;
}

/** Where the reply to the marker's query begins: its column count has sequence number 1, two packets or more before. */
function startOfMarker(bytes: Buffer, rowAt: number): number {
  let at = 0;
  let start = 0;
  while (at < rowAt) {
    const length = bytes.readUIntLE(at, 3);
    if (bytes[at + 3] === 1) start = at;
    at += 4 + length;
  }
  return start;
}
