import { connect, type Socket } from 'node:net';
import {
  batch,
  call,
  columns,
  done,
  int,
  message,
  nvarchar,
  row,
  rpc,
} from '../../test/support/tds-encode.ts';
import { loginPacket, preloginPacket } from '../../test/support/tds-peers.ts';
import { type MessageFormat, PacketScanner } from './messages.ts';

/** What load generator and server of the SQL Server benchmarks say to each other: recorded bytes, made once. */

export const TDS: MessageFormat = {
  headerBytes: 8,
  bodyBytes: (header) => header.readUInt16BE(2) - 8,
};
/** Status of a packet that ends its message. */
export const END_OF_MESSAGE = 1;

export const ACCOUNT = { user: 'bench', password: 'bench-Password1', database: 'shop' } as const;

/** Of the Windows account of that name. */
export const WINDOWS_DOMAIN = 'BENCH';

const SELECT = 'SELECT id, name FROM dbo.users WHERE id = ';

/** Requests by what they are; the server tells them apart by type and by the words in them. */
export const REQUESTS = {
  batch: batch(`${SELECT}42`),
  rpc: rpc([call(10, [nvarchar(`${SELECT}@id`), nvarchar('@id int'), { name: '@id', ...int(42) }])]),
  down: batch('SELECT id, body FROM dbo.big'),
  insertBulk: batch('INSERT BULK dbo.upload (id int, body nvarchar(4000))'),
} as const;

export const BULK_COLUMNS = [
  { name: 'id', type: int(1).type },
  { name: 'body', type: nvarchar('').type },
];
const BULK_ROW = row(int(1).value, nvarchar('x'.repeat(480)).value);
export const BULK_ROWS = 50_000;
export const BULK_BYTES = BULK_ROWS * BULK_ROW.length;

/** Rows of a large result, or of a bulk load, with what comes before and behind them. */
export function bulkPayload(): Buffer {
  const rows = Buffer.alloc(BULK_BYTES);
  for (let at = 0; at < rows.length; at += BULK_ROW.length) BULK_ROW.copy(rows, at);
  return Buffer.concat([columns(BULK_COLUMNS), rows, done(0x10, { command: 0xc1, count: BULK_ROWS })]);
}

/** A bulk load as its one message, of type 7. */
export function bulkMessage(): Buffer {
  return message(0x07, bulkPayload());
}

/** A client that is signed in and has one request under way at a time. */
export class TdsConnection {
  readonly socket: Socket;
  #answered: (() => void) | null = null;
  #failed: ((error: Error) => void) | null = null;

  private constructor(port: number) {
    this.socket = connect({ host: '127.0.0.1', port, noDelay: true });
    const scanner = new PacketScanner(TDS, 0, (header) => {
      if ((header[1]! & END_OF_MESSAGE) === 0) return;
      const answered = this.#answered;
      this.#answered = null;
      answered?.();
    });
    this.socket.on('data', (chunk) => scanner.push(chunk));
    this.socket.on('error', (error) => this.#failed?.(error));
    this.socket.on('close', () => this.#failed?.(new Error('the connection was closed')));
  }

  /** Connects and signs in, in the clear. Rejects when the connection ends before. */
  static async open(port: number): Promise<TdsConnection> {
    const connection = new TdsConnection(port);
    await connection.exchange(preloginPacket());
    await connection.exchange(loginPacket(ACCOUNT));
    return connection;
  }

  /** Sends a message, and calls back when the whole answer is there. */
  send(bytes: Buffer, answered: () => void): void {
    this.#answered = answered;
    this.socket.write(bytes);
  }

  exchange(bytes: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#failed = reject;
      this.send(bytes, resolve);
    });
  }

  close(): Promise<void> {
    this.#failed = null;
    return new Promise((resolve) => {
      this.socket.once('close', () => resolve());
      this.socket.end();
    });
  }
}
