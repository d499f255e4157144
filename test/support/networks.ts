import { spawnSync } from 'node:child_process';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** What may stand between a person and a gateway: proxies, balancers, another network. */

/** An HTTP proxy that takes CONNECT, for every name to this machine. */
export interface TestProxy {
  readonly port: number;
  /** Hosts that were asked for, in order. */
  readonly asked: string[];
  /** The connections that it carries now, in order of their coming. */
  readonly carried: Set<Socket>;
  close(): void;
}

export async function startProxy(options: { login?: string } = {}): Promise<TestProxy> {
  const asked: string[] = [];
  const carried = new Set<Socket>();
  const { port, server } = await listen((near) => {
    readHead(near, (head, rest) => {
      const target = /^CONNECT (\S+):(\d+) HTTP\/1\.1\r\n/.exec(head);
      if (target === null) {
        near.end('HTTP/1.1 400 Bad Request\r\n\r\n');
        return;
      }
      const given = /^proxy-authorization: Basic (\S+)\r?$/im.exec(head)?.[1] ?? '';
      if (options.login !== undefined && Buffer.from(given, 'base64').toString() !== options.login) {
        near.end('HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n');
        return;
      }
      asked.push(target[1]!);
      carried.add(near);
      near.once('close', () => carried.delete(near));
      near.write('HTTP/1.1 200 Connection established\r\n\r\n');
      joinSockets(near, connect({ host: '127.0.0.1', port: Number(target[2]) }), rest);
    });
  });
  return { port, asked, carried, close: () => void server.close() };
}

/** A balancer between gateways that keeps a visitor on one by a cookie, as those of clouds do. */
export interface TestBalancer {
  readonly port: number;
  /** How many connections each gateway was given. */
  readonly counts: number[];
  close(): void;
}

export async function startBalancer(ports: readonly number[]): Promise<TestBalancer> {
  const counts = ports.map(() => 0);
  let turn = 0;
  const { port, server } = await listen((near) => {
    readHead(near, (head, rest) => {
      const kept = /^cookie:.*\broute=(\d+)/im.exec(head)?.[1];
      const index = kept === undefined ? turn++ % ports.length : Number(kept);
      counts[index]! += 1;
      const far = connect({ host: '127.0.0.1', port: ports[index]! });
      far.once('data', (chunk: Buffer) => {
        far.pause();
        const line = chunk.indexOf('\r\n') + 2;
        near.write(chunk.subarray(0, line));
        near.write(`set-cookie: route=${index}; Path=/\r\n`);
        near.write(chunk.subarray(line));
        far.pipe(near);
      });
      far.write(Buffer.concat([Buffer.from(head, 'latin1'), rest]));
      near.pipe(far);
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        one.on('error', () => other.destroy());
        one.on('close', () => other.destroy());
      }
    });
  });
  return { port, counts, close: () => void server.close() };
}

/** A long way to `port` of this machine: every piece takes `delayMs` in each direction. */
export async function startLongWay(
  port: number,
  delayMs: number,
  host: string,
  far: string,
): Promise<{ port: number; close(): void }> {
  const way = await listen((near) => {
    const away = connect({ host: far, port, noDelay: true });
    for (const [from, to] of [
      [near, away],
      [away, near],
    ] as const) {
      from.on('error', () => to.destroy());
      from.on('data', (chunk) => setTimeout(() => to.write(chunk), delayMs));
      from.on('close', () => setTimeout(() => to.destroySoon(), delayMs));
    }
  }, host);
  return { port: way.port, close: () => void way.server.close() };
}

/** A network namespace that is joined to this one by a pair of interfaces. */
export interface Laptop {
  /** What runs a program in it. */
  readonly through: readonly string[];
  /** This machine's address, as the other sees it. */
  readonly host: string;
  /** Latency and loss, where the system can make them. */
  readonly impaired: boolean;
  remove(): void;
}

/** Null where the system does not let us; says so on standard error. */
export function makeLaptop(): Laptop | null {
  const id = `${process.pid % 100_000}`;
  const name = `sp-laptop-${id}`;
  const [near, far] = [`spn${id}`, `spf${id}`];
  const subnet = `10.213.${process.pid % 250}`;
  const steps = [
    `ip netns add ${name}`,
    `ip link add ${near} type veth peer name ${far}`,
    `ip link set ${far} netns ${name}`,
    `ip addr add ${subnet}.1/24 dev ${near}`,
    `ip link set ${near} up`,
    `ip -n ${name} addr add ${subnet}.2/24 dev ${far}`,
    `ip -n ${name} link set ${far} up`,
    `ip -n ${name} link set lo up`,
  ];
  const remove = (): void => {
    ran(`ip netns del ${name}`);
    ran(`ip link del ${near}`);
  };
  const failed = steps.find((step) => !ran(step));
  if (failed !== undefined) {
    remove();
    console.error(`No network namespaces here (${failed} failed): the test over two networks is left out.`);
    return null;
  }
  const impaired = ran(`tc qdisc add dev ${near} root netem delay 30ms 5ms loss 1%`);
  if (!impaired) console.error('No netem here: latency is made by a relay, and packets are not lost.');
  return { through: ['ip', 'netns', 'exec', name], host: `${subnet}.1`, impaired, remove };
}

function ran(command: string): boolean {
  const [file, ...args] = command.split(' ');
  return spawnSync(file!, args, { stdio: 'ignore' }).status === 0;
}

async function listen(
  accept: (socket: Socket) => void,
  host = '127.0.0.1',
): Promise<{ port: number; server: Server }> {
  const server = createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => socket.destroy());
    accept(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  return { port: (server.address() as AddressInfo).port, server };
}

function readHead(socket: Socket, done: (head: string, rest: Buffer) => void): void {
  let bytes = Buffer.alloc(0);
  const read = (chunk: Buffer): void => {
    bytes = Buffer.concat([bytes, chunk]);
    const end = bytes.indexOf('\r\n\r\n');
    if (end < 0) return;
    socket.off('data', read);
    socket.pause();
    done(bytes.subarray(0, end + 4).toString('latin1'), bytes.subarray(end + 4));
  };
  socket.on('data', read);
}

function joinSockets(near: Socket, far: Socket, first: Buffer): void {
  if (first.length > 0) far.write(first);
  near.pipe(far);
  far.pipe(near);
  far.on('error', () => near.destroy());
  far.on('close', () => near.destroy());
  near.on('close', () => far.destroy());
}
