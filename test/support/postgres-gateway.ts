import { randomBytes } from 'node:crypto';
import { connect, createServer, type Server } from 'node:net';
import pg from 'pg';
import type { Challenge, Claim, Permit, PostgresSettings, Proof } from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import { postgres } from '../../protocols/postgres/engine.ts';
import { deriveKeys } from '../../protocols/scram/keys.ts';
import type { Access, Visitor } from '../../src/access/access.ts';
import { makePermit } from '../../src/access/permit.ts';
import { startTestGateway, type TestGateway, type TestGatewayOptions } from './gateway.ts';
import type { PostgresServer } from './postgres.ts';
import { POSTGRES_SETTINGS } from './postgres-peers.ts';

export interface PostgresGatewayOptions
  extends Partial<Omit<TestGatewayOptions, 'engine' | 'settings' | 'servers'>> {
  readonly settings?: Partial<PostgresSettings>;
  /** Further servers behind the first. */
  readonly servers?: readonly { host: string; port: number }[];
}

/** A gateway in front of a real server. It signs in as `accounts.launch` unless told otherwise. */
export function startPostgresGateway(
  server: PostgresServer,
  options: PostgresGatewayOptions = {},
): Promise<TestGateway> {
  const { launch } = server.accounts;
  return startTestGateway({
    username: launch.user,
    password: launch.password,
    ...options,
    engine: postgres,
    settings: { ...POSTGRES_SETTINGS, ...options.settings },
    servers: options.servers ?? [server],
  });
}

/** Connects node-postgres to a gateway, runs `query`, and returns its rows. Any error rejects. */
export async function queryThrough(
  gateway: { readonly port: number },
  config: pg.ClientConfig = {},
  query = 'SELECT current_user::text AS account, current_database()::text AS database',
): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({
    host: '127.0.0.1',
    port: gateway.port,
    user: 'anyone',
    database: 'appdb',
    ...config,
  });
  await client.connect();
  try {
    return (await client.query(query)).rows;
  } finally {
    await client.end();
  }
}

/** A wire between a client and a gateway that keeps what passed. */
export interface Tap {
  readonly port: number;
  readonly toClient: () => Buffer;
  readonly toGateway: () => Buffer;
  close(): Promise<void>;
}

export async function startTap(port: number): Promise<Tap> {
  const toClient: Buffer[] = [];
  const toGateway: Buffer[] = [];
  const server: Server = createServer((client) => {
    const gateway = connect({ host: '127.0.0.1', port });
    client.on('data', (chunk) => toGateway.push(chunk));
    gateway.on('data', (chunk) => toClient.push(chunk));
    for (const socket of [client, gateway]) socket.on('error', () => {});
    client.pipe(gateway);
    gateway.pipe(client);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    port: address.port,
    toClient: () => Buffer.concat(toClient),
    toGateway: () => Buffer.concat(toGateway),
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** Asks every client for `token`, by SCRAM. Whoever knows it is let in, under any user name. */
export class TokenAccess implements Access {
  readonly #token: Buffer;
  readonly #salt = randomBytes(16);

  constructor(token: string) {
    this.#token = Buffer.from(token);
  }

  async challenge(): Promise<Challenge> {
    const token = this.#token;
    const { storedKey, serverKey } = await deriveKeys(token, this.#salt, 4096);
    return {
      method: 'token',
      verifier: {
        scram: { salt: this.#salt, iterations: 4096, storedKey, serverKey },
        nativeHash: Buffer.alloc(20),
        sha2Hash: Buffer.alloc(32),
        matches: (other) => other.equals(token),
      },
    };
  }

  async admit(claim: Claim, proof: Proof, visitor: Visitor): Promise<Permit> {
    const [offered] = visitor.resources;
    if (offered === undefined || proof.method !== 'token' || !proof.valid) {
      throw new Refusal('credentials_invalid', `password authentication failed for user "${claim.user}"`);
    }
    return makePermit({
      session: visitor.session,
      principal: claim.user,
      resource: offered.resource,
      database: claim.database,
      readOnly: false,
      launch: null,
    });
  }
  closed(): void {}
}
