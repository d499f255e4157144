import { createHash, randomBytes } from 'node:crypto';
import { duplexPair } from 'node:stream';
import type { Address } from '../../protocols/channel.ts';
import type {
  Challenge,
  Claim,
  Credentials,
  Entry,
  MysqlSettings,
  Permit,
  Proof,
  Resource,
  ServerFacts,
  TokenVerifier,
} from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import { SCRAMBLE_BYTES, scrambleFrom } from '../../protocols/mysql/auth/scramble.ts';
import { type Greeting, greetingPayload, parseGreeting } from '../../protocols/mysql/greeting.ts';
import { packet } from '../../protocols/mysql/packets.ts';
import { type ResponseFields, responsePayload } from '../../protocols/mysql/response.ts';
import { Secret } from '../../protocols/secret.ts';
import { makePermit } from '../../src/access/permit.ts';
import { type ChannelTls, StreamChannel } from '../../src/gateway/channel.ts';

/** Both peers of a MySQL sign-in in memory: a client and scripted servers, with the engine between them. */

export const MYSQL_SETTINGS: MysqlSettings = {
  engine: 'mysql',
  flavor: 'mysql',
  allowLocalInfile: false,
  allowReplication: false,
  serverPublicKey: null,
  fetchServerPublicKey: false,
};

/** What one server does with one connection, from the first byte on. */
export type ServerScript = (peer: Peer) => Promise<void>;

export interface TestEntryOptions {
  /** What answers the first dial, the second, and so on; the last one answers all further. Default: `welcomingServer()`. */
  readonly servers?: readonly ServerScript[];
  readonly settings?: Partial<MysqlSettings>;
  readonly challenge?: Challenge;
  /** Launch credentials in the order of their fetches. Default: `app` with a password. */
  readonly credentials?: readonly Credentials[];
  readonly database?: string | null;
  readonly readOnly?: boolean;
  readonly clientTls?: ChannelTls;
  readonly serverTls?: ChannelTls;
  /** The servers' own certificate. */
  readonly certificate?: ChannelTls;
  readonly opened?: () => Promise<void>;
  readonly random?: (length: number) => Buffer;
  /** No resource before the client has been admitted. */
  readonly several?: boolean;
  readonly admit?: (claim: Claim, proof: Proof) => void;
  readonly clientAddress?: Address;
}

export const PASSWORD = 'canary-launch-password';

/** The wire's other end: whole packets with their sequence numbers, for a script. */
export class Peer {
  readonly channel: StreamChannel;
  sequence = 0;

  constructor(channel: StreamChannel) {
    this.channel = channel;
  }

  async read(): Promise<Buffer> {
    const header = await this.channel.read(4, 'packet');
    this.sequence = (header[3]! + 1) & 0xff;
    const length = header.readUIntLE(0, 3);
    return length === 0 ? Buffer.alloc(0) : this.channel.read(length, 'packet');
  }

  write(payload: Buffer): void {
    this.channel.write(packet(this.sequence, payload));
    this.sequence = (this.sequence + 1) & 0xff;
  }

  command(payload: Buffer): void {
    this.sequence = 0;
    this.write(payload);
  }
}

/** An `Entry` without a gateway: what the engine asked for is kept to be looked at. */
export class TestEntry implements Entry {
  readonly client: StreamChannel;
  /** The client's end of the wire. */
  readonly peer: Peer;
  readonly resource: Resource | null;
  readonly claims: Claim[] = [];
  readonly proofs: Proof[] = [];
  readonly facts: ServerFacts[] = [];
  readonly dialled: Address[] = [];
  readonly given: Credentials[] = [];
  readonly logged: string[] = [];
  /** Channels to the servers, in the order they were dialled. */
  readonly servers: StreamChannel[] = [];
  /** The scripts' ends, and what each script came to. */
  readonly scripts: Promise<void>[] = [];
  readonly #options: TestEntryOptions;
  readonly #target: Resource;

  constructor(options: TestEntryOptions = {}) {
    this.#options = options;
    const [near, far] = duplexPair();
    const address = options.clientAddress ?? { host: '127.0.0.1', port: 4711 };
    this.client = new StreamChannel(near, 'client', address, options.clientTls);
    this.peer = new Peer(
      new StreamChannel(far, 'server', { host: 'gateway.test', port: 3306 }, trustingTls(options.clientTls)),
    );
    this.#target = {
      name: 'orders',
      engine: 'mysql',
      addresses: [{ host: 'db.test', port: 3306 }],
      settings: { ...MYSQL_SETTINGS, ...options.settings },
    };
    this.resource = options.several ? null : this.#target;
  }

  async challenge(claim: Claim): Promise<Challenge> {
    this.claims.push(claim);
    return this.#options.challenge ?? { method: 'trust' };
  }

  async admit(claim: Claim, proof: Proof): Promise<Permit> {
    this.proofs.push(proof.method === 'bearer' ? { method: 'bearer', text: proof.text.clone() } : proof);
    if (proof.method === 'token' && !proof.valid) {
      throw new Refusal('credentials_invalid', `the token of "${claim.user}" is not valid`);
    }
    this.#options.admit?.(claim, proof);
    return makePermit({
      session: 'session-1',
      principal: 'tester',
      resource: this.#target,
      database: claim.database ?? this.#options.database ?? null,
      readOnly: this.#options.readOnly ?? false,
      launch: null,
    });
  }

  async credentials(): Promise<Credentials | null> {
    const next = (this.#options.credentials ?? [launch()])[this.given.length];
    if (next === undefined) return null;
    this.given.push(next);
    return next;
  }

  async dial(address: Address): Promise<StreamChannel> {
    const scripts = this.#options.servers ?? [welcomingServer()];
    const script = scripts[Math.min(this.dialled.length, scripts.length - 1)];
    this.dialled.push(address);
    if (script === undefined) {
      throw new Refusal('server_unreachable', 'the database server of orders cannot be reached');
    }
    const [near, far] = duplexPair();
    const end = new StreamChannel(
      far,
      'client',
      { host: 'gateway.test', port: 1 },
      this.#options.certificate,
    );
    const running = script(new Peer(end));
    running.catch(() => end.destroy());
    this.scripts.push(running);
    const channel = new StreamChannel(near, 'server', address, this.#options.serverTls);
    this.servers.push(channel);
    return channel;
  }

  async opened(_permit: Permit, facts: ServerFacts): Promise<void> {
    await this.#options.opened?.();
    this.facts.push(facts);
  }

  cancelKey(_id: number, length: number): Buffer {
    return randomBytes(length);
  }

  async cancel(): Promise<void> {}

  random(length: number): Buffer {
    return (this.#options.random ?? randomBytes)(length);
  }

  log(text: string): void {
    this.logged.push(text);
  }
}

/** The client's end of the wire does not check certificates; it needs only to be able to do TLS. */
function trustingTls(clientTls: ChannelTls | undefined): ChannelTls | undefined {
  return clientTls === undefined ? undefined : { mode: 'require', context: clientTls.context };
}

export function launch(username = 'app', password: string | null = PASSWORD): Credentials {
  return { username, password: password === null ? null : Secret.fromText(password), kind: 'password' };
}

/** What the gateway keeps of a launch token. */
export function verifierOf(token: string): TokenVerifier {
  const twice = (name: string): Buffer => digest(name, digest(name, Buffer.from(token)));
  return {
    scram: {
      salt: Buffer.alloc(16),
      iterations: 4096,
      storedKey: Buffer.alloc(32),
      serverKey: Buffer.alloc(32),
    },
    nativeHash: twice('sha1'),
    sha2Hash: twice('sha256'),
    matches: (shown) => shown.equals(Buffer.from(token)),
  };
}

function digest(name: string, bytes: Buffer): Buffer {
  return createHash(name).update(bytes).digest();
}

/** A greeting as MySQL 9 and MariaDB 10.11 send it. */
export function serverGreeting(
  family: 'mysql' | 'mariadb' = 'mysql',
  changes: Partial<Greeting> = {},
): Greeting {
  const mysql = {
    serverVersion: '9.7.4',
    connectionId: 77,
    scramble: scrambleFrom(randomBytes(SCRAMBLE_BYTES)),
    capabilities: 0xdfffffff,
    extended: 0,
    collation: 255,
    status: 2,
    plugin: 'caching_sha2_password',
  };
  const mariadb = {
    ...mysql,
    serverVersion: '5.5.5-10.11.19-MariaDB',
    capabilities: 0x81fffffe,
    extended: 0x1d,
    collation: 8,
    plugin: 'mysql_native_password',
  };
  return { ...(family === 'mysql' ? mysql : mariadb), ...changes };
}

export const OK: Buffer = Buffer.from('00000002000000', 'hex');

export function errorPacket(errno: number, sqlstate: string, message: string): Buffer {
  return Buffer.concat([Buffer.of(0xff, errno & 0xff, errno >>> 8), Buffer.from(`#${sqlstate}${message}`)]);
}

/** A server that lets everybody in at once. What it is sent is kept in `seen`. */
export function welcomingServer(greeting: Greeting = serverGreeting(), seen: Buffer[] = []): ServerScript {
  return scriptedServer(greeting, [OK], seen);
}

/** A server that greets, and then sends one packet of `replies` for each that it gets. */
export function scriptedServer(
  greeting: Greeting,
  replies: readonly Buffer[],
  seen: Buffer[] = [],
): ServerScript {
  return async (peer) => {
    peer.write(greetingPayload(greeting));
    for (const reply of replies) {
      seen.push(await peer.read());
      peer.write(reply);
    }
    for (;;) {
      const first = await peer.channel.first();
      if (first === null) return;
      seen.push(await peer.read());
    }
  };
}

/** Flags of an ordinary client: mysql 9's command line without its compression. */
export const CLIENT_FLAGS = 0x19bfa285;

/** Reads the gateway's greeting as a client does. */
export async function readGreeting(peer: Peer): Promise<Greeting> {
  return parseGreeting(await peer.read());
}

export function clientResponse(changes: Partial<ResponseFields> = {}): Buffer {
  return responsePayload({
    flags: CLIENT_FLAGS,
    extended: 0,
    packetBytesMax: 0x100_0000,
    collation: 255,
    user: 'alice',
    reply: Buffer.alloc(0),
    database: Buffer.alloc(0),
    plugin: 'caching_sha2_password',
    attributes: Buffer.alloc(0),
    ...changes,
  });
}
