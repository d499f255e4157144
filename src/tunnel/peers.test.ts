import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Peers } from './peers.ts';

const isLinux = process.platform === 'linux';

async function accepted(host: string, dialled = host): Promise<{ socket: Socket; close: () => void }> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, host, resolve);
  });
  const near = connect({ host: dialled, port: (server.address() as AddressInfo).port });
  const [[socket]] = await Promise.all([once(server, 'connection'), once(near, 'connect')]);
  return {
    socket,
    close: () => {
      near.destroy();
      socket.destroy();
      server.close();
    },
  };
}

test.runIf(isLinux)('knows its own connections, over each kind of loopback address', async () => {
  const peers = new Peers();
  expect(await peers.tells()).toBe(true);
  for (const [host, dialled] of [
    ['127.0.0.1', '127.0.0.1'],
    ['::1', '::1'],
    // As Java dials: an IPv4 address over a socket of IPv6.
    ['127.0.0.1', '::ffff:127.0.0.1'],
  ] as const) {
    const { socket, close } = await accepted(host, dialled);
    expect(await peers.owner(socket), dialled).toBe(process.getuid?.());
    close();
  }
});

test.runIf(isLinux)('many at once are all answered', async () => {
  const peers = new Peers();
  const all = await Promise.all(Array.from({ length: 30 }, () => accepted('127.0.0.1')));
  const owners = await Promise.all(all.map(({ socket }) => peers.owner(socket)));
  expect(new Set(owners)).toEqual(new Set([process.getuid?.()]));
  for (const { close } of all) close();
});

test('takes the owner of the far end alone, and only while its process has it open', async () => {
  const { socket, close } = await accepted('127.0.0.1');
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-peers-'));
  const hex = (port: number): string => port.toString(16).toUpperCase().padStart(4, '0');
  const far = `0100007F:${hex(socket.remotePort!)}`;
  const near = `0100007F:${hex(socket.localPort!)}`;
  const table = (inode: number): string =>
    [
      '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode',
      `   0: ${near} ${far} 01 00000000:00000000 00:00000000 00000000     7        0 1 1`,
      `   1: ${far} ${near} 05 00000000:00000000 00:00000000 00000000  1234        0 ${inode} 1`,
    ].join('\n');
  const path = join(folder, 'tcp');
  writeFileSync(path, table(2));
  expect(await new Peers([path]).owner(socket)).toBe(1234);
  writeFileSync(path, table(0));
  expect(await new Peers([path]).owner(socket)).toBeNull();
  expect(await new Peers([join(folder, 'missing')]).owner(socket)).toBeNull();
  expect(await new Peers([join(folder, 'missing')]).tells()).toBe(false);
  close();
  rmSync(folder, { recursive: true });
});
