import { open } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { SOCKET_TABLE_BYTES_MAX } from './limits.ts';

/**
 * Whose connections come in over loopback. Everybody who is signed in to a machine can connect to its loopback ports; on
 * Linux the kernel's tables of sockets (`/proc/net/tcp`, `/proc/net/tcp6`) say which user each end belongs to (proc(5)).
 */
export class Peers {
  readonly #tables: readonly string[];
  /** The read that will begin when the present one is over: it sees all sockets that are there now. */
  #next: Promise<Map<string, number>> | null = null;
  #current: Promise<unknown> = Promise.resolve();

  constructor(tables: readonly string[] = ['/proc/net/tcp', '/proc/net/tcp6']) {
    this.#tables = tables;
  }

  /** Whether this system tells. */
  async tells(): Promise<boolean> {
    if (process.platform !== 'linux') return false;
    try {
      await readTable(this.#tables[0]!, new Map());
      return true;
    } catch {
      return false;
    }
  }

  /** The user id of the process at the other end of a loopback connection; null when that end is closed already. */
  async owner(socket: Socket): Promise<number | null> {
    const { localAddress, localPort, remoteAddress, remotePort } = socket;
    if (localAddress === undefined || remoteAddress === undefined) return null;
    const owners = await this.#owners();
    return owners.get(key(remoteAddress, remotePort!, localAddress, localPort!)) ?? null;
  }

  #owners(): Promise<Map<string, number>> {
    if (this.#next !== null) return this.#next;
    const read = this.#current.then(async () => {
      this.#next = null;
      const owners = new Map<string, number>();
      for (const table of this.#tables) await readTable(table, owners).catch(() => {});
      return owners;
    });
    this.#next = read;
    this.#current = read.catch(() => {});
    return read;
  }
}

async function readTable(path: string, owners: Map<string, number>): Promise<void> {
  const file = await open(path);
  try {
    let text = '';
    for await (const chunk of file.createReadStream({ encoding: 'latin1', autoClose: false })) {
      text += chunk;
      if (text.length > SOCKET_TABLE_BYTES_MAX) throw new Error(`${path} is too large`);
    }
    for (const line of text.split('\n').slice(1)) {
      const [, local, remote, , , , , uid, , inode] = line.trim().split(/\s+/);
      // An end that its process has closed has no inode any more, and says user 0 whoever it was.
      if (local === undefined || remote === undefined || uid === undefined || inode === '0') continue;
      owners.set(`${canonical(local)} ${canonical(remote)}`, Number(uid));
    }
  } finally {
    await file.close();
  }
}

/** An address as the tables have it, an IPv4 one that came as IPv6 (`::ffff:127.0.0.1`) as what it is. */
function canonical(entry: string): string {
  return entry.replace(/^0{16}(?:FFFF0000|0000FFFF)(?=[0-9A-F]{8}:)/, '');
}

function key(fromHost: string, fromPort: number, toHost: string, toPort: number): string {
  return `${entry(fromHost, fromPort)} ${entry(toHost, toPort)}`;
}

/** Words of 32 bits in the machine's byte order, the port in the network's. */
function entry(host: string, port: number): string {
  const bytes = host === '::1' ? loopback6() : ipv4(host.replace(/^::ffff:/i, ''));
  let text = '';
  for (let word = 0; word < bytes.length; word += 4)
    text += hex(littleEndian() ? bytes.readUInt32LE(word) : bytes.readUInt32BE(word), 8);
  return `${text}:${hex(port, 4)}`;
}

function loopback6(): Buffer {
  const bytes = Buffer.alloc(16);
  bytes[15] = 1;
  return bytes;
}

function ipv4(host: string): Buffer {
  return Buffer.from(host.split('.').map(Number));
}

function hex(value: number, digits: number): string {
  return value.toString(16).toUpperCase().padStart(digits, '0');
}

function littleEndian(): boolean {
  return new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;
}
