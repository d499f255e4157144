import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { int4 } from './postgres-observer.ts';

/** A client that speaks PostgreSQL's messages and nothing more: signs in without password or TLS, sends what it is told to. */
export class WireClient {
  readonly socket: Socket;
  /** All messages after the sign-in, in order. */
  readonly messages: Buffer[] = [];
  /** From BackendKeyData. */
  pid = 0;
  closed = false;
  #bytes: Buffer = Buffer.alloc(0);
  #changed: (() => void) | null = null;
  #signedIn = false;
  #seen = 0;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('close', () => {
      this.closed = true;
      this.#changed?.();
    });
    socket.on('error', () => {});
  }

  static async connect(
    host: string,
    port: number,
    parameters: Readonly<Record<string, string>>,
  ): Promise<WireClient> {
    const socket = connect({ host, port, noDelay: true });
    await once(socket, 'connect');
    const client = new WireClient(socket);
    const pairs = Object.entries(parameters).map(([name, value]) => `${name}\0${value}\0`);
    const body = Buffer.concat([int4(196608), Buffer.from(`${pairs.join('')}\0`)]);
    socket.write(Buffer.concat([int4(body.length + 4), body]));
    await client.#until(() => client.#signedIn);
    return client;
  }

  /** Sends messages in one write. */
  send(...messages: Buffer[]): void {
    this.socket.write(Buffer.concat(messages));
  }

  /**
   * Waits until each of `types` has come (`ZZ`: two ReadyForQuery), in any order, since the last call of `until`, and
   * returns all messages since then.
   */
  async until(types: string): Promise<Buffer[]> {
    const start = this.#seen;
    await this.#until(() => {
      const left = letters(this.messages.slice(start));
      return [...types].every((type) => count(left, type) >= count(types, type));
    });
    this.#seen = this.messages.length;
    return this.messages.slice(start);
  }

  /** Waits for the connection's end, and returns all messages since the last call of `until`. */
  async untilClosed(): Promise<Buffer[]> {
    const start = this.#seen;
    if (!this.closed) await new Promise<void>((resolve) => this.socket.once('close', () => resolve()));
    this.#seen = this.messages.length;
    return this.messages.slice(start);
  }

  destroy(): void {
    this.socket.destroy();
  }

  async #until(condition: () => boolean): Promise<void> {
    const deadline = Date.now() + 20_000;
    while (!condition()) {
      if (this.closed || Date.now() > deadline) {
        throw new Error(`${this.closed ? 'closed' : 'late'} after ${letters(this.messages)}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 500);
        this.#changed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  #take(chunk: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    let at = 0;
    while (this.#bytes.length - at >= 5) {
      const end = at + 1 + this.#bytes.readUInt32BE(at + 1);
      if (end > this.#bytes.length) break;
      this.#message(Buffer.from(this.#bytes.subarray(at, end)));
      at = end;
    }
    this.#bytes = this.#bytes.subarray(at);
    this.#changed?.();
  }

  #message(message: Buffer): void {
    if (this.#signedIn) {
      this.messages.push(message);
      return;
    }
    const type = String.fromCharCode(message[0]!);
    if (type === 'K') this.pid = message.readUInt32BE(5);
    if (type === 'E') throw new Error(message.toString('latin1'));
    if (type === 'Z') this.#signedIn = true;
  }
}

/** The type letters of messages; ReadyForQuery with its status (`ZI`). */
export function letters(messages: readonly Buffer[]): string {
  return messages
    .map(
      (message) =>
        String.fromCharCode(message[0]!) + (message[0] === 0x5a ? String.fromCharCode(message[5]!) : ''),
    )
    .join(' ');
}

function count(text: string, letter: string): number {
  return text.split(letter).length - 1;
}

/** Fields of an ErrorResponse by their letters. */
export function fields(message: Buffer): Record<string, string> {
  const parts = message.toString('utf8', 5).split('\0');
  return Object.fromEntries(parts.filter((part) => part !== '').map((part) => [part[0]!, part.slice(1)]));
}
