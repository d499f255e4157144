import type { Duplex } from 'node:stream';
import { type MessageFields, messageToken, sized } from './login.ts';
import type { SessionState } from './state.ts';
import { encode, type SqlType, type SqlValue } from './types.ts';
import { packets, shortText, u16, u32, u64 } from './wire.ts';

export interface ResultColumn {
  readonly name: string;
  readonly type: SqlType;
}

export class Cancelled extends Error {}

/** Commands as DONE names them. */
export const Command = {
  select: 0xc1,
  insert: 0xc3,
  delete: 0xc4,
  update: 0xc5,
  bulk: 0xf0,
  none: 0,
} as const;

/** Where a session's packets go: the connection itself, or one stream of several (MARS). */
export interface PacketWriter {
  write(packet: Buffer): boolean;
  drained(): Promise<void>;
}

export function directWriter(stream: Duplex): PacketWriter {
  return {
    write: (packet) => stream.write(packet),
    drained: () =>
      new Promise((resolve) => {
        if (!stream.writableNeedDrain || stream.destroyed) resolve();
        else {
          const done = (): void => {
            stream.off('drain', done);
            stream.off('close', done);
            resolve();
          };
          stream.on('drain', done);
          stream.on('close', done);
        }
      }),
  };
}

const FLUSH_BYTES = 32 * 1024;

/** The answer to one request, token by token. A DONE is held back until it is known whether another follows. */
export class Output {
  readonly #state: SessionState;
  readonly #writer: PacketWriter;
  readonly #packetBytes: number;
  #tokens: Buffer[] = [];
  #length = 0;
  #packetId = 1;
  #done: { kind: number; status: number; command: number; count: number } | null = null;
  #columns: readonly ResultColumn[] = [];
  /** Set by an attention. */
  cancelled = false;
  /** DONE within a procedure. */
  inProcedure = false;
  failed = false;

  constructor(state: SessionState, writer: PacketWriter, packetBytes: number) {
    this.#state = state;
    this.#writer = writer;
    this.#packetBytes = packetBytes;
  }

  put(token: Buffer): void {
    this.#tokens.push(token);
    this.#length += token.length;
  }

  columns(columns: readonly ResultColumn[]): void {
    this.#releaseDone();
    this.#columns = columns;
    const old = this.#state.old;
    const parts = columns.flatMap(({ name, type }) => [
      old ? u16(0) : u32(0),
      u16(9),
      type.info,
      shortText(name.slice(0, 128)),
    ]);
    const keys = this.#state.columnEncryption ? u16(0) : Buffer.alloc(0);
    this.put(Buffer.concat([Buffer.from([0x81]), u16(columns.length), keys, ...parts]));
  }

  /** A row; from TDS 7.3 on one with NULLs has a bitmap of them. */
  row(values: readonly SqlValue[]): void {
    const isBitmap = !this.#state.old && values.some(({ value }) => value === null);
    if (isBitmap) {
      const bitmap = Buffer.alloc(Math.ceil(values.length / 8));
      values.forEach(({ value }, index) => {
        if (value === null) bitmap[index >> 3] = bitmap[index >> 3]! | (1 << (index & 7));
      });
      const present = values.filter(({ value }) => value !== null);
      this.put(Buffer.concat([Buffer.from([0xd2]), bitmap, ...present.map(encode)]));
    } else {
      const typed = values.map((value, index) =>
        value.value === null ? { type: this.#columns[index]!.type, value: null } : value,
      );
      this.put(Buffer.concat([Buffer.from([0xd1]), ...typed.map(encode)]));
    }
  }

  message(error: boolean, fields: MessageFields): void {
    this.#releaseDone();
    this.put(messageToken(error ? 0xaa : 0xab, fields, this.#state.old));
    if (error) this.failed = true;
  }

  /** ENVCHANGE with its body behind the length. */
  change(body: Buffer): void {
    this.#releaseDone();
    this.put(sized(0xe3, body));
  }

  /** The end of a statement. `count` null: none. */
  done(command: number, count: number | null, error = false): void {
    this.#releaseDone();
    this.#done = {
      kind: this.inProcedure ? 0xff : 0xfd,
      status: (count === null ? 0 : 0x10) | (error ? 2 : 0) | (this.#state.transactions > 0 ? 4 : 0),
      command,
      count: count ?? 0,
    };
  }

  returnStatus(status: number): void {
    this.#releaseDone();
    this.put(Buffer.concat([Buffer.from([0x79]), u32(status)]));
  }

  returnValue(ordinal: number, name: string, value: SqlValue): void {
    this.#releaseDone();
    const userType = this.#state.old ? u16(0) : u32(0);
    this.put(
      Buffer.concat([
        Buffer.from([0xac]),
        u16(ordinal),
        shortText(name),
        Buffer.from([1]),
        userType,
        u16(1),
        value.type.info,
        encode(value),
      ]),
    );
  }

  /** The end of a procedure; more may follow in a message of several calls. */
  procedureDone(last: boolean): void {
    this.#releaseDone();
    this.#done = { kind: 0xfe, status: this.failed ? 2 : 0, command: 0xe0, count: 0 };
    if (!last) this.#releaseDone();
  }

  /** Sends what is whole packets, and waits when the client does not read. Throws `Cancelled` after an attention. */
  async flush(): Promise<void> {
    if (this.#length < FLUSH_BYTES) {
      if (this.cancelled) throw new Cancelled();
      return;
    }
    const bytes = Buffer.concat(this.#tokens);
    const room = this.#packetBytes - 8;
    let at = 0;
    while (at + room < bytes.length && !this.cancelled) {
      const ready = this.#writer.write(this.#packet(bytes.subarray(at, at + room), false));
      at += room;
      if (!ready) await this.#writer.drained();
    }
    this.#tokens = [bytes.subarray(at)];
    this.#length = bytes.length - at;
    await new Promise((resolve) => setImmediate(resolve));
    if (this.cancelled) throw new Cancelled();
  }

  /** The end of the message. */
  async finish(): Promise<void> {
    if (this.#done === null) this.done(Command.none, null, this.failed);
    const last = this.#done!;
    this.#done = null;
    if (this.failed && last.kind === 0xfd) last.status |= 2;
    this.#putDone(last.kind === 0xff ? 0xfd : last.kind, last.status, last.command, last.count);
    await this.#end();
  }

  /** Ends a message that an attention cut off, and acknowledges the attention inside it or in a message of its own. */
  async finishCancelled(form: 'separate' | 'inside'): Promise<void> {
    this.#done = null;
    if (form === 'separate') {
      this.#putDone(0xfd, 2, 0, 0);
      await this.#end();
      this.#packetId = 1;
    }
    this.#putDone(0xfd, 0x20, 0, 0);
    await this.#end();
  }

  async #end(): Promise<void> {
    const bytes = Buffer.concat(this.#tokens);
    this.#tokens = [];
    this.#length = 0;
    const room = this.#packetBytes - 8;
    let at = 0;
    for (; at + room < bytes.length; at += room) {
      if (!this.#writer.write(this.#packet(bytes.subarray(at, at + room), false)))
        await this.#writer.drained();
    }
    this.#writer.write(this.#packet(bytes.subarray(at), true));
  }

  #packet(payload: Buffer, last: boolean): Buffer {
    const packet = packets(0x04, payload, 65_535, this.#state.spid);
    packet[1] = last ? 1 : 0;
    packet[6] = this.#packetId;
    this.#packetId = (this.#packetId + 1) & 0xff;
    return packet;
  }

  #releaseDone(): void {
    const done = this.#done;
    if (done === null) return;
    this.#done = null;
    this.#putDone(done.kind, done.status | 1, done.command, done.count);
  }

  #putDone(kind: number, status: number, command: number, count: number): void {
    const counted = this.#state.old ? u32(count) : u64(count);
    this.put(Buffer.concat([Buffer.from([kind]), u16(status), u16(command), counted]));
  }
}
