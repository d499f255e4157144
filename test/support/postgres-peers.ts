import { randomBytes } from 'node:crypto';
import { duplexPair } from 'node:stream';
import type { Address } from '../../protocols/channel.ts';
import type {
  Challenge,
  Claim,
  Credentials,
  Entry,
  Permit,
  PostgresSettings,
  Proof,
  Resource,
  ServerFacts,
} from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import {
  AUTHENTICATION,
  authenticationRequest,
  backendKeyData,
  type Message,
  message,
  PROTOCOL_3_0,
  startupPacket,
} from '../../protocols/postgres/packets.ts';
import { Secret } from '../../protocols/secret.ts';
import { makePermit } from '../../src/access/permit.ts';
import { type ChannelTls, StreamChannel } from '../../src/gateway/channel.ts';

/**
 * Both peers of a PostgreSQL handshake in memory: a client and scripted servers, with the engine between them. A script
 * reads and writes through a `StreamChannel` of its own, as the other end of the wire.
 */

export const POSTGRES_SETTINGS: PostgresSettings = {
  engine: 'postgres',
  channelBinding: 'prefer',
  allowReplication: false,
  targetSessionAttrs: 'any',
  directTls: false,
  protocolVersion: '3.0',
  scramIterationsMax: 1_000_000,
};

/** What one server does, from the first byte on. */
export type ServerScript = (peer: StreamChannel) => Promise<void>;

export interface TestEntryOptions {
  /** One server for each address. Default: one that lets everybody in. */
  readonly servers?: readonly ServerScript[];
  readonly settings?: Partial<PostgresSettings>;
  readonly challenge?: Challenge;
  /** Launch credentials in the order of their fetches. Default: `launch_user` with a password. */
  readonly credentials?: readonly Credentials[];
  readonly database?: string | null;
  readonly readOnly?: boolean;
  readonly clientTls?: ChannelTls;
  readonly serverTls?: ChannelTls;
  readonly admit?: (claim: Claim, proof: Proof) => void;
  readonly opened?: () => Promise<void>;
  /** Hosts of the addresses. Default: `db0.test`, `db1.test` … */
  readonly hosts?: readonly string[];
}

export const LAUNCH: Credentials = {
  username: 'launch_user',
  password: Secret.fromText('canary-launch-password'),
  kind: 'password',
};

/** An `Entry` without a gateway: what the engine asked for is kept to be looked at. */
export class TestEntry implements Entry {
  readonly client: StreamChannel;
  /** The client's end of the wire. */
  readonly peer: StreamChannel;
  readonly resource: Resource;
  readonly claims: Claim[] = [];
  readonly proofs: Proof[] = [];
  readonly facts: ServerFacts[] = [];
  readonly dialled: Address[] = [];
  readonly given: Credentials[] = [];
  readonly cancels: { id: number; secret: Buffer }[] = [];
  readonly drawn: { id: number; secret: Buffer }[] = [];
  readonly logged: string[] = [];
  /** What the scripts failed with. */
  readonly failures: unknown[] = [];
  readonly #options: TestEntryOptions;

  constructor(options: TestEntryOptions = {}) {
    this.#options = options;
    const [near, far] = duplexPair();
    this.client = new StreamChannel(near, 'client', { host: '127.0.0.1', port: 4711 }, options.clientTls);
    this.peer = new StreamChannel(far, 'server', { host: 'gateway.test', port: 5432 });
    this.resource = {
      name: 'orders',
      engine: 'postgres',
      addresses: (options.servers ?? [welcomingServer()]).map((_, index) => ({
        host: options.hosts?.[index] ?? `db${index}.test`,
        port: 5432 + index,
      })),
      settings: { ...POSTGRES_SETTINGS, ...options.settings },
    };
  }

  async challenge(claim: Claim): Promise<Challenge> {
    this.claims.push(claim);
    return this.#options.challenge ?? { method: 'trust' };
  }

  async admit(claim: Claim, proof: Proof): Promise<Permit> {
    this.proofs.push(proof);
    if (proof.method === 'token' && !proof.valid) {
      throw new Refusal('credentials_invalid', `password authentication failed for user "${claim.user}"`);
    }
    this.#options.admit?.(claim, proof);
    return makePermit({
      session: 'session-1',
      principal: 'tester',
      resource: this.resource,
      database: claim.database ?? this.#options.database ?? null,
      readOnly: this.#options.readOnly ?? false,
      launch: null,
    });
  }

  async credentials(_permit: Permit, _why: 'launch' | 'rejected'): Promise<Credentials | null> {
    const next = (this.#options.credentials ?? [LAUNCH])[this.given.length];
    if (next === undefined) return null;
    const lease = { ...next, password: next.password?.clone() ?? null };
    this.given.push(lease);
    return lease;
  }

  async dial(address: Address): Promise<StreamChannel> {
    this.dialled.push(address);
    const index = address.port - 5432;
    const script = (this.#options.servers ?? [welcomingServer()])[index];
    if (script === undefined)
      throw new Refusal('server_unreachable', 'the database server cannot be reached');
    const [near, far] = duplexPair();
    const peer = new StreamChannel(far, 'client', { host: 'gateway.test', port: 1 }, SERVER_TLS.get(script));
    script(peer).catch((error: unknown) => this.failures.push(error));
    return new StreamChannel(near, 'server', address, this.#options.serverTls);
  }

  async opened(_permit: Permit, facts: ServerFacts): Promise<void> {
    await this.#options.opened?.();
    this.facts.push(facts);
  }

  cancelKey(id: number, length: number): Buffer {
    const secret = randomBytes(length);
    this.drawn.push({ id, secret });
    return secret;
  }

  async cancel(id: number, secret: Buffer): Promise<void> {
    this.cancels.push({ id, secret });
  }

  random(length: number): Buffer {
    return randomBytes(length);
  }

  log(text: string): void {
    this.logged.push(text);
  }
}

const SERVER_TLS = new WeakMap<ServerScript, ChannelTls>();

/** Gives a scripted server a certificate: its channel can then `acceptTls`. */
export function withCertificate(script: ServerScript, tls: ChannelTls): ServerScript {
  const own: ServerScript = (peer) => script(peer);
  SERVER_TLS.set(own, tls);
  return own;
}

export const SERVER_PID = 4242;
export const SERVER_SECRET: Buffer = Buffer.from('0badcafe', 'hex');

/** AuthenticationOk and what PostgreSQL says behind it. */
export function welcomeBytes(parameters: Readonly<Record<string, string>> = {}, key = SERVER_SECRET): Buffer {
  const reported = { server_version: '18.4', client_encoding: 'UTF8', ...parameters };
  return Buffer.concat([
    authenticationRequest(AUTHENTICATION.ok),
    ...Object.entries(reported).map(([name, value]) => message('S', Buffer.from(`${name}\0${value}\0`))),
    backendKeyData(SERVER_PID, key),
    message('Z', Buffer.from('I')),
  ]);
}

export interface SeenStartup {
  readonly version: number;
  readonly parameters: Record<string, string>;
}

/** Reads the gateway's StartupMessage. */
export async function readStartup(peer: StreamChannel): Promise<SeenStartup> {
  const length = (await peer.read(4, 'startup')).readUInt32BE(0);
  const body = await peer.read(length - 4, 'startup');
  const texts = body.toString('utf8', 4).split('\0');
  const parameters: Record<string, string> = {};
  for (let i = 0; i + 1 < texts.length && texts[i] !== ''; i += 2) parameters[texts[i]!] = texts[i + 1]!;
  return { version: body.readUInt32BE(0), parameters };
}

/** A server that asks nothing. `seen` gets each startup packet. */
export function welcomingServer(
  seen: SeenStartup[] = [],
  parameters: Readonly<Record<string, string>> = {},
): ServerScript {
  return async (peer) => {
    seen.push(await readStartup(peer));
    peer.write(welcomeBytes(parameters));
  };
}

/** A server that reads the startup packet and then goes on as told. */
export function askingServer(
  script: (peer: StreamChannel, startup: SeenStartup) => Promise<void>,
): ServerScript {
  return async (peer) => script(peer, await readStartup(peer));
}

/** A client's StartupMessage. */
export function clientStartup(
  parameters: Readonly<Record<string, string>> = {},
  version = PROTOCOL_3_0,
): Buffer {
  return startupPacket(version, Object.entries({ user: 'alice', ...parameters }));
}

/** Reads one message of any type. */
export async function readAny(peer: StreamChannel): Promise<Message> {
  const header = await peer.read(5, 'message');
  const length = header.readUInt32BE(1) - 4;
  const body = length === 0 ? Buffer.alloc(0) : await peer.read(length, 'message');
  return { type: String.fromCharCode(header[0]!), body };
}

/** Reads messages up to one of the given types, that one included. */
export async function readUntil(peer: StreamChannel, types: string): Promise<Message[]> {
  const messages: Message[] = [];
  for (;;) {
    const one = await readAny(peer);
    messages.push(one);
    if (types.includes(one.type)) return messages;
  }
}

/** The fields of an ErrorResponse by their letter. */
export function errorFields(body: Buffer): Record<string, string> {
  const fields: Record<string, string> = {};
  for (const field of body.toString('utf8').split('\0')) {
    if (field !== '') fields[field[0]!] = field.slice(1);
  }
  return fields;
}
