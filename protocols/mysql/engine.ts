import type { Address, Channel } from '../channel.ts';
import type {
  Challenge,
  Claim,
  Credentials,
  Engine,
  EngineSession,
  Entry,
  Handshake,
  InterruptMeans,
  MysqlSettings,
  Permit,
  ProbeMeans,
  Resource,
  ServerFacts,
} from '../engine.ts';
import { ProtocolError, Refusal } from '../error.ts';
import { claimOf, clientGreeting, greet, type Proved, prove, welcome } from './accept.ts';
import { SCRAMBLE_BYTES, scrambleFrom } from './auth/scramble.ts';
import {
  bits,
  CONNECT_ATTRS,
  CONNECT_WITH_DB,
  DEPRECATE_EOF,
  has,
  LOCAL_FILES,
  LONG_PASSWORD,
  OPTIONAL_RESULTSET_METADATA,
  PLUGIN_AUTH,
  PLUGIN_AUTH_LENENC_CLIENT_DATA,
  QUERY_ATTRIBUTES,
  SECURE_CONNECTION,
  SESSION_TRACK,
  SSL,
  without,
} from './capabilities.ts';
import { READ_ONLY } from './change-user.ts';
import { COM_QUERY, COM_QUIT } from './commands.ts';
import { errorFor, NET_READ_INTERRUPTED, ServerRefused, serverRefused } from './errors.ts';
import { flavorOf, type Greeting, plainVersion } from './greeting.ts';
import { Leg } from './leg.ts';
import { commonFlags, leave, login, meet, type ServerLeg, type SignedIn, type Wish } from './login.ts';
import { Outcome, readOk } from './messages.ts';
import { observe } from './observe.ts';
import { genericGreeting } from './profile.ts';
import { type Response, withAttributes } from './response.ts';
import type { SessionFacts } from './session.ts';

/**
 * MySQL and MariaDB. The server is met first, and its greeting is the model of ours; then the client answers, proves
 * itself and is admitted; then the server is answered with the launch credentials; then the client hears the server's
 * OK. Capabilities are one set on both legs: what the client asked for of what it was offered.
 */
export const mysql: Engine = {
  name: 'mysql',

  async handshake(entry: Entry): Promise<Handshake> {
    const signIn = new SignIn(entry);
    try {
      return await signIn.run();
    } catch (error) {
      await signIn.fail(error);
      throw error;
    }
  },

  async probe(
    channel: Channel,
    resource: Resource,
    credentials: Credentials,
    { database, random }: ProbeMeans,
  ): Promise<ServerFacts> {
    const server = await meet(channel);
    const signedIn = await signInAlone(server, resource, credentials, random, database);
    server.leg.command(Buffer.of(COM_QUIT));
    channel.end();
    return factsOf(server, signedIn, credentials.username, database);
  },
};

/** Flags that only shape the sign-in of one leg; the client's own go into the session's facts. */
const SIGN_IN_FLAGS = bits(
  SSL,
  CONNECT_WITH_DB,
  CONNECT_ATTRS,
  SECURE_CONNECTION,
  PLUGIN_AUTH,
  PLUGIN_AUTH_LENENC_CLIENT_DATA,
);

/** Flags that change how the stream after the sign-in is laid out: the server must have them where the client has. */
const STREAM_FLAGS = bits(SESSION_TRACK, DEPRECATE_EOF, OPTIONAL_RESULTSET_METADATA, QUERY_ATTRIBUTES);

/** utf8mb4_general_ci: known to every server since MySQL 5.5.3. */
const OWN_COLLATION = 45;

/** One client's sign-in, and what has come of it so far. */
class SignIn {
  readonly #entry: Entry;
  readonly #client: Leg;
  #server: ServerLeg | null = null;
  #account: string | null = null;
  #database: string | null = null;

  constructor(entry: Entry) {
    this.#entry = entry;
    this.#client = new Leg(entry.client);
  }

  async run(): Promise<Handshake> {
    const entry = this.#entry;
    const unreachable = await this.#meetServer();
    const greeting = this.#greeting(
      this.#server?.greeting ?? genericGreeting(entry.resource, this.#connectionId()),
    );
    const response = await greet(this.#client, greeting);
    if (response === null) {
      if (this.#server !== null) await leave(this.#server);
      return { kind: 'served' };
    }
    const claim = claimOf(response);
    this.#database = claim.database;
    const challenge = await entry.challenge(claim);
    // Told only now: before the answer to the greeting clients show an error poorly, and outside TLS.
    if (unreachable !== null) throw unreachable;
    const { proved, permit } = await this.#admit(claim, response, greeting, challenge);
    this.#database = permit.database;
    this.#server ??= await this.#connect(permit.resource);
    const wish = wishOf(response, claim, permit);
    const { signedIn, account } = await this.#logIn(permit, wish);
    const server = this.#server;
    if (permit.readOnly) await holdToReading(server, wish.capabilities);
    const facts = factsOf(server, signedIn, account, permit.database);
    await entry.opened(permit, facts);
    welcome(this.#client, proved, signedIn.ok, response.capabilities);
    return {
      kind: 'session',
      session: this.#session(permit, facts, server.greeting.connectionId, {
        capabilities: bits(commonFlags(wish, server.greeting), response.capabilities & SIGN_IN_FLAGS),
        extended: wish.extended,
        serverVersion: server.greeting.serverVersion,
        flavor: flavorOf(server.greeting.serverVersion),
        collation: wish.collation,
        status: statusOf(signedIn.ok),
        account,
        database: permit.database,
        readOnly: permit.readOnly,
        settings: settingsOf(permit.resource),
        changeUser: {
          challenge,
          greetingScramble: greeting.scramble,
          plugin: greeting.plugin ?? '',
          scramble: () => this.#scramble(),
          confidential: this.#client.confidential,
        },
      }),
    };
  }

  #session(permit: Permit, facts: ServerFacts, connectionId: number, session: SessionFacts): EngineSession {
    const random = (length: number): Buffer => this.#entry.random(length);
    return {
      permit,
      facts,
      observe: (sink, options) => observe(sink, options, session),
      interrupt: (means) => interrupt(means, permit.resource, connectionId, random),
    };
  }

  /** Tells the client what went wrong, and takes leave of the server. Never rejects. */
  async fail(error: unknown): Promise<void> {
    const client = this.#client;
    const greeted = client.sequence !== 0;
    const payload = errorFor(error, { account: this.#account, database: this.#database }, !greeted);
    if (payload !== null) client.write(payload);
    client.channel.end();
    const server = this.#server;
    if (server === null) return;
    await leave(server);
    server.channel.end();
  }

  /** Meets the server where the resource is fixed already. What went wrong is given back, to be told later. */
  async #meetServer(): Promise<Error | null> {
    const { resource } = this.#entry;
    if (resource === null) return null;
    try {
      this.#server = await this.#connect(resource);
      return null;
    } catch (error) {
      if (error instanceof Refusal || error instanceof ProtocolError) return error;
      throw error;
    }
  }

  /** The first address that can be reached. */
  async #connect(resource: Resource): Promise<ServerLeg> {
    let last: unknown = null;
    for (const address of resource.addresses) {
      try {
        return await this.#dial(address);
      } catch (error) {
        if (!(error instanceof Refusal && error.code === 'server_unreachable')) throw error;
        last = error;
      }
    }
    throw last ?? new Refusal('server_unreachable', `${resource.name} has no address`);
  }

  async #dial(address: Address): Promise<ServerLeg> {
    return meet(await this.#entry.dial(address));
  }

  #greeting(model: Greeting): Greeting {
    const { resource, client } = this.#entry;
    return clientGreeting(model, {
      scramble: this.#scramble(),
      tls: client.tlsMode !== 'disable',
      localInfile: resource === null || settingsOf(resource).allowLocalInfile,
    });
  }

  #scramble(): Buffer {
    return scrambleFrom(this.#entry.random(SCRAMBLE_BYTES));
  }

  /** For greetings that stand for no server yet. */
  #connectionId(): number {
    return this.#entry.random(4).readUInt32LE(0);
  }

  async #admit(
    claim: Claim,
    response: Response,
    greeting: Greeting,
    challenge: Challenge,
  ): Promise<{ proved: Proved; permit: Permit }> {
    const proved = await prove(this.#client, response, greeting, challenge, () => this.#scramble());
    try {
      return { proved, permit: await this.#entry.admit(claim, proved.proof) };
    } finally {
      if (proved.proof.method === 'bearer') proved.proof.text.wipe();
    }
  }

  /**
   * Signs in to the server. Once with credentials fetched anew, where it does not take those at hand; once on a new
   * connection, where it has not waited for us.
   */
  async #logIn(permit: Permit, wish: Wish): Promise<{ signedIn: SignedIn; account: string }> {
    const entry = this.#entry;
    let credentials = await entry.credentials(permit, 'launch');
    if (credentials === null) {
      throw new Refusal('credentials_unavailable', `there are no credentials for ${permit.resource.name}`);
    }
    let waited = false;
    let refused = false;
    try {
      for (;;) {
        this.#account = credentials.username;
        const server = this.#server!;
        requireAgreement(wish, server.greeting);
        try {
          const settings = settingsOf(permit.resource);
          const signedIn = await login(server, wish, credentials, settings, (length) => entry.random(length));
          return { signedIn, account: credentials.username };
        } catch (error) {
          if (isStale(error) && !waited) waited = true;
          else if (isDenied(error) && !refused) {
            refused = true;
            const others = await entry.credentials(permit, 'rejected');
            if (others === null) throw error;
            credentials.password?.wipe();
            credentials = others;
          } else throw error;
          entry.log('signing in to the database again', { because: (error as Error).message });
          server.channel.destroy();
          this.#server = await this.#dial(server.channel.remote);
        }
      }
    } finally {
      credentials.password?.wipe();
    }
  }
}

/** The server did not wait: it closed the connection, or says that it has timed out. */
function isStale(error: unknown): boolean {
  if (error instanceof ServerRefused) return error.error.errno === NET_READ_INTERRUPTED;
  if (!(error instanceof ProtocolError) || error.fault !== 'server') return false;
  return error.code === 'unexpected_end' || (error.code === 'tls_failed' && CUT.test(error.message));
}

/** How a TLS handshake fails when the connection is closed under it, and not over a certificate. */
const CUT = /closed the connection|ECONNRESET|EPIPE|socket disconnected/;

function isDenied(error: unknown): boolean {
  return error instanceof ServerRefused && error.code === 'authentication_failed';
}

/**
 * What the client asked for, for the server. The first flag is taken as sent: by leaving it out MariaDB's clients say
 * that they have extended flags, and old ones set it though no MariaDB offers it.
 */
function wishOf(response: Response, claim: Claim, permit: Permit): Wish {
  const { database } = permit;
  const asSent = database !== null && database === claim.database;
  const forbidden = settingsOf(permit.resource).allowLocalInfile ? 0 : LOCAL_FILES;
  return {
    capabilities: bits(
      without(response.capabilities, SIGN_IN_FLAGS, forbidden),
      response.flags & LONG_PASSWORD,
    ),
    extended: response.extended,
    packetBytesMax: response.packetBytesMax,
    collation: response.collation,
    database: asSent ? response.database : Buffer.from(database ?? '', 'utf8'),
    attributes: withAttributes(response.attributes, {
      sallyport_session: permit.session,
      sallyport_principal: permit.principal,
    }),
  };
}

/** A server other than the one the client was greeted for must be able to do what the client was promised. */
function requireAgreement(wish: Wish, greeting: Greeting): void {
  const missing = wish.capabilities & STREAM_FLAGS & ~greeting.capabilities;
  const missingExtended = wish.extended & ~greeting.extended;
  if (missing === 0 && missingExtended === 0) return;
  throw new ProtocolError(
    'unsupported',
    'server',
    `the server lacks capabilities that the client was offered (${(missing >>> 0).toString(16)}, ${(missingExtended >>> 0).toString(16)})`,
  );
}

function settingsOf(resource: Resource): MysqlSettings {
  const { settings } = resource;
  if (settings.engine !== 'mysql') throw new Error(`resource ${resource.name} is not for this engine`);
  return settings;
}

function statusOf(ok: Buffer): number {
  const outcome = new Outcome();
  readOk(ok, 0, ok.length, false, outcome);
  return outcome.status;
}

function factsOf(
  server: ServerLeg,
  signedIn: SignedIn,
  account: string,
  database: string | null,
): ServerFacts {
  return {
    engine: 'mysql',
    serverVersion: plainVersion(server.greeting.serverVersion),
    databaseUser: account,
    database,
    serverSession: String(server.greeting.connectionId),
    authentication: signedIn.authentication,
    server: server.channel,
    tlsFallback: server.tlsFallback,
  };
}

/** The server refuses writes of a session that may only read, unless the session itself takes this back. */
async function holdToReading(server: ServerLeg, capabilities: number): Promise<void> {
  const { leg } = server;
  leg.command(query(READ_ONLY, capabilities));
  const reply = await leg.read(`reply to ${READ_ONLY}`);
  if (reply[0] === 0xff) throw serverRefused(reply, 'the session could not be made read-only');
}

/** A COM_QUERY of our own; with CLIENT_QUERY_ATTRIBUTES, its empty set of attributes comes first. */
function query(text: string, capabilities: number): Buffer {
  const attributes = has(capabilities, QUERY_ATTRIBUTES) ? [0, 1] : [];
  return Buffer.concat([Buffer.of(COM_QUERY, ...attributes), Buffer.from(text, 'latin1')]);
}

/** `KILL QUERY` over a connection of its own, as the account that runs what is to be stopped. */
async function interrupt(
  means: InterruptMeans,
  resource: Resource,
  connectionId: number,
  random: (length: number) => Buffer,
): Promise<void> {
  const channel = await means.dial();
  const server = await meet(channel);
  const credentials = await means.credentials();
  if (credentials === null) {
    await leave(server);
    throw new Refusal('credentials_unavailable', `there are no credentials for ${resource.name}`);
  }
  await signInAlone(server, resource, credentials, random);
  const { leg } = server;
  leg.command(query(`KILL QUERY ${connectionId}`, 0));
  const reply = await leg.read('reply to KILL QUERY');
  leg.command(Buffer.of(COM_QUIT));
  channel.end();
  if (reply[0] === 0xff) throw serverRefused(reply, 'KILL QUERY');
}

/** Signs in for an errand of our own, in no client's name. Wipes the password. */
async function signInAlone(
  server: ServerLeg,
  resource: Resource,
  credentials: Credentials,
  random: (length: number) => Buffer,
  database: string | null = null,
): Promise<SignedIn> {
  const wish: Wish = {
    capabilities: LONG_PASSWORD,
    extended: 0,
    packetBytesMax: 0x100_0000,
    collation: OWN_COLLATION,
    database: Buffer.from(database ?? '', 'utf8'),
    attributes: withAttributes(Buffer.alloc(0), { program_name: 'sallyport' }),
  };
  try {
    return await login(server, wish, credentials, settingsOf(resource), random);
  } finally {
    credentials.password?.wipe();
  }
}
