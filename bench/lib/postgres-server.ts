import { type AddressInfo, createServer, type Socket } from 'node:net';

/**
 * A PostgreSQL server that only talks: for thousands of idle sessions, which real backends would need gigabytes for.
 * It lets everybody in and answers every simple query with one row. Prints `port N`.
 */

const SSL_REQUEST = 80877103;

function message(type: string, ...parts: readonly Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const head = Buffer.alloc(5);
  head.write(type, 0, 'latin1');
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

const text = (value: string): Buffer => Buffer.from(`${value}\0`, 'utf8');
const READY = message('Z', Buffer.from('I'));
const PARAMETERS = {
  server_version: '18.0',
  server_encoding: 'UTF8',
  client_encoding: 'UTF8',
  DateStyle: 'ISO, MDY',
  integer_datetimes: 'on',
  standard_conforming_strings: 'on',
  TimeZone: 'UTC',
};
const WELCOME = Buffer.concat([
  message('R', Buffer.alloc(4)),
  ...Object.entries(PARAMETERS).map(([name, value]) => message('S', text(name), text(value))),
  message('K', Buffer.from('0000000100000002', 'hex')),
  READY,
]);
const ANSWER = Buffer.concat([
  message(
    'T',
    Buffer.from('0001', 'hex'),
    text('one'),
    Buffer.from('000000000000000000170004ffffffff0000', 'hex'),
  ),
  message('D', Buffer.from('000100000001', 'hex'), Buffer.from('1')),
  message('C', text('SELECT 1')),
  READY,
]);

function converse(socket: Socket): void {
  let pending: Buffer = Buffer.alloc(0);
  let signedIn = false;
  socket.on('data', (chunk) => {
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
    for (;;) {
      const at = signedIn ? 1 : 0;
      if (pending.length < at + 4) break;
      const length = at + pending.readInt32BE(at);
      if (pending.length < length) break;
      const type = signedIn ? pending[0] : null;
      const code = signedIn ? 0 : pending.readInt32BE(4);
      pending = pending.subarray(length);
      if (code === SSL_REQUEST) socket.write('N');
      else if (type === null) {
        signedIn = true;
        socket.write(WELCOME);
      } else if (type === 0x51) socket.write(ANSWER);
      else if (type === 0x53) socket.write(READY);
      else if (type === 0x58) socket.end();
    }
    pending = Buffer.from(pending);
  });
}

const server = createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => {});
  converse(socket);
});
server.listen({ port: 0, host: '127.0.0.1', backlog: 1024 }, () => {
  console.log(`port ${(server.address() as AddressInfo).port}`);
});
