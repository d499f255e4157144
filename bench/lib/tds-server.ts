import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import {
  acceptLogin,
  type DoubleEncryption,
  type DoubleOptions,
} from '../../test/support/tds-double/login.ts';
import {
  columns,
  done,
  int,
  message,
  nvarchar,
  response,
  returnStatus,
  row,
} from '../../test/support/tds-encode.ts';
import { PacketScanner } from './messages.ts';
import { ACCOUNT, BULK_ROWS, bulkPayload, END_OF_MESSAGE, TDS, WINDOWS_DOMAIN } from './tds.ts';

/**
 * The server of the SQL Server benchmarks, a process of its own: the test double's sign-in, and answers by rote behind
 * it, so that the server costs next to nothing. Prints `port N`. Its arguments, where there are any: what it asks for
 * (`login-only`, `required`, `strict`), and the files of its certificate and key.
 */

const KEPT_BYTES = 200;

const RESULT = [
  columns([
    { name: 'id', type: int(1).type },
    { name: 'name', type: nvarchar('').type },
  ]),
  row(int(42).value, nvarchar('Ada Lovelace').value),
];
const SELECTED = response(...RESULT, done(0x10, { command: 0xc1, count: 1 }));
const CALLED = response(
  ...RESULT,
  done(0x11, { token: 0xff, command: 0xc1, count: 1 }),
  returnStatus(0),
  done(0, { token: 0xfe, command: 0xe0 }),
);
const DONE = response(done(0));
const LOADED = response(done(0x10, { command: 0xf0, count: BULK_ROWS }));
const BIG = message(0x04, bulkPayload());
const BIG_WORD = Buffer.from('dbo.big', 'utf16le');
/** Not in what drivers say first (`SET …`), nor in INSERT BULK. */
const SELECT_WORD = Buffer.from('SELECT', 'utf16le');

function answerTo(type: number, start: Buffer): Buffer {
  if (type === 0x03) return CALLED;
  if (type === 0x07) return LOADED;
  if (type !== 0x01 || !start.includes(SELECT_WORD)) return DONE;
  return start.includes(BIG_WORD) ? BIG : SELECTED;
}

const [encryption = 'off', certFile, keyFile] = process.argv.slice(2) as [
  DoubleEncryption?,
  string?,
  string?,
];
const OPTIONS: DoubleOptions = {
  encryption,
  logins: { [ACCOUNT.user]: ACCOUNT.password },
  accounts: { [`${WINDOWS_DOMAIN}\\${ACCOUNT.user}`]: ACCOUNT.password },
  databases: ['master', ACCOUNT.database],
  ...(certFile === undefined || keyFile === undefined
    ? {}
    : { certificate: { chain: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') } }),
};

async function converse(socket: Socket): Promise<void> {
  const session = await acceptLogin(socket, OPTIONS, {});
  if (session === null) return;
  let start: Buffer | null = null;
  const scanner = new PacketScanner(TDS, KEPT_BYTES, (header, body) => {
    start ??= body;
    if ((header[1]! & END_OF_MESSAGE) === 0) return;
    session.reader.stream.write(answerTo(header[0]!, start));
    start = null;
  });
  const { stream } = session.reader;
  const rest = session.reader.detach();
  stream.on('error', () => {});
  stream.on('data', (chunk: Buffer) => scanner.push(chunk));
  stream.on('end', () => stream.end());
  if (rest.length > 0) scanner.push(rest);
  stream.resume();
}

const server = createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => {});
  void converse(socket).catch(() => socket.destroy());
});
server.listen({ port: 0, host: '127.0.0.1', backlog: 1024 }, () => {
  console.log(`port ${(server.address() as AddressInfo).port}`);
});
