import { randomBytes } from 'node:crypto';
import { type Duplex, duplexPair } from 'node:stream';
import type {
  Challenge,
  Claim,
  Credentials,
  Entry,
  Handshake,
  Permit,
  Proof,
  Resource,
  ServerFacts,
  TdsSettings,
} from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import { Secret } from '../../protocols/secret.ts';
import { tds } from '../../protocols/tds/engine.ts';
import { makePermit } from '../../src/access/permit.ts';
import { type ChannelTls, NO_TLS, StreamChannel } from '../../src/gateway/channel.ts';

/** One sign-in through the engine over in-memory streams: the other ends are the test's. */

export interface MemorySignInOptions {
  readonly settings?: Partial<TdsSettings>;
  readonly addresses?: readonly { host: string; port: number }[];
  readonly clientTls?: ChannelTls;
  readonly serverTls?: ChannelTls;
  readonly challenge?: Challenge;
  readonly database?: string | null;
  readonly username?: string;
  readonly password?: string;
  readonly refetched?: { username: string; password: string };
  readonly kind?: 'password' | 'token';
  /** The address serves several resources: which one is known only from the permit. */
  readonly severalResources?: boolean;
  admit?(claim: Claim, proof: Proof): void;
  /** The server at an address; it gets its end of the stream. Absent: nothing listens there. */
  server?(peer: Duplex, address: { host: string; port: number }): void;
}

export interface MemorySignIn {
  /** The client's end. */
  readonly client: Duplex;
  readonly outcome: Promise<Handshake>;
  readonly claims: Claim[];
  readonly proofs: Proof[];
  readonly dialled: { host: string; port: number }[];
  readonly opened: ServerFacts[];
  readonly handedOut: Credentials[];
  readonly channels: { client: StreamChannel; servers: StreamChannel[] };
  /** Makes every pending read fail, as the gateway's deadline does. */
  expire(error: Error): void;
}

export function startSignIn(options: MemorySignInOptions = {}): MemorySignIn {
  const [client, near] = duplexPair();
  client.on('error', () => {});
  const settings: TdsSettings = {
    engine: 'tds',
    encryption: 'off',
    clientEncryption: 'login',
    mars: false,
    windowsDomain: null,
    serverName: null,
    ...options.settings,
  };
  const resource: Resource = {
    name: 'orders',
    engine: 'tds',
    addresses: options.addresses ?? [{ host: 'db1.example.com', port: 1433 }],
    settings,
  };
  const channel = new StreamChannel(
    near,
    'client',
    { host: '127.0.0.1', port: 50_000 },
    options.clientTls ?? NO_TLS,
  );
  const signIn = {
    client,
    claims: [] as Claim[],
    proofs: [] as Proof[],
    dialled: [] as { host: string; port: number }[],
    opened: [] as ServerFacts[],
    handedOut: [] as Credentials[],
    channels: { client: channel, servers: [] as StreamChannel[] },
    expire(error: Error) {
      channel.fail(error);
      for (const server of signIn.channels.servers) server.fail(error);
    },
  };
  const entry: Entry = {
    client: channel,
    resource: options.severalResources ? null : resource,
    challenge: async (claim) => {
      signIn.claims.push(claim);
      return options.challenge ?? { method: 'trust' };
    },
    admit: async (claim, proof): Promise<Permit> => {
      signIn.proofs.push(proof);
      options.admit?.(claim, proof);
      const database = claim.database ?? options.database ?? null;
      return makePermit({
        session: 's1',
        principal: 'tester',
        resource,
        database,
        readOnly: false,
        launch: null,
      });
    },
    credentials: async (_permit, why) => {
      const source =
        why === 'launch'
          ? { username: options.username ?? 'svc', password: options.password ?? 'canary-launch' }
          : (options.refetched ?? null);
      if (source === null) return null;
      const credentials: Credentials = {
        username: source.username,
        password: Secret.fromText(source.password),
        kind: options.kind ?? 'password',
      };
      signIn.handedOut.push(credentials);
      return credentials;
    },
    dial: async (address) => {
      signIn.dialled.push({ host: address.host, port: address.port });
      if (options.server === undefined)
        throw new Refusal('server_unreachable', 'the database server cannot be reached');
      const [far, ours] = duplexPair();
      far.on('error', () => {});
      const server = new StreamChannel(ours, 'server', address, options.serverTls ?? NO_TLS);
      signIn.channels.servers.push(server);
      options.server(far, address);
      return server;
    },
    opened: async (_permit, facts) => {
      signIn.opened.push(facts);
    },
    cancelKey: () => Buffer.alloc(0),
    cancel: async () => {},
    random: (length) => randomBytes(length),
    log: () => {},
  };
  const outcome = tds.handshake(entry);
  outcome.catch(() => {});
  return { ...signIn, outcome };
}

/** Everything that arrives at a stream's end, as one buffer that grows. */
export function collect(stream: Duplex): { readonly bytes: Buffer; readonly ended: Promise<void> } {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  const ended = new Promise<void>((resolve) => {
    stream.on('end', resolve);
    stream.on('close', resolve);
  });
  return {
    get bytes() {
      return Buffer.concat(chunks);
    },
    ended,
  };
}
