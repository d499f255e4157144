import type { Address, Channel } from './channel.ts';
import type { Refusal } from './error.ts';
import type { Secret } from './secret.ts';
import type { Statement, TransactionState } from './statement.ts';

/**
 * The contract between an engine (one wire protocol) and the gateway.
 *
 * An engine has two halves. `handshake` is an async function that reads top to bottom: it speaks with the client and
 * the server over their channels, asks the gateway for permission and credentials, and ends when both sides are signed
 * in. The `Observer` it returns is a synchronous push parser that follows the traffic from then on and decides, message
 * by message, which bytes pass.
 */
export interface Engine {
  readonly name: EngineName;

  /**
   * Signs both sides in, in the protocol's own order.
   *
   * Rejects with a `Refusal` or a `ProtocolError`. Before it rejects it has told the client in the protocol's own error
   * form, as far as the protocol allows at that point, and has ended both channels. Deadlines are the gateway's: when
   * one passes, the pending read rejects with `timeout`.
   */
  handshake(entry: Entry): Promise<Handshake>;

  /** Signs in to one address and out again, for `check --connect`. `server` is connected, and in the clear. */
  probe(
    server: Channel,
    resource: Resource,
    credentials: Credentials,
    means: ProbeMeans,
  ): Promise<ServerFacts>;
}

export type EngineName = 'postgres' | 'mysql' | 'tds';

/** One client connection as an engine sees it, and all that it may ask of the gateway. */
export interface Entry {
  readonly client: Channel;
  /** The resource, where the listener or tunnel has fixed it; null on a listener that serves several. */
  readonly resource: Resource | null;

  /** How this client must prove who it is. Asked when the user name is known. */
  challenge(claim: Claim): Promise<Challenge>;
  /** Asks for permission. Rejects with a `Refusal`. The only source of a `Permit`. */
  admit(claim: Claim, proof: Proof): Promise<Permit>;
  /**
   * The launch credentials. `rejected` says that those of the last call were refused by the server: they are fetched
   * anew, once; null when there are no others. The caller wipes the password when the sign-in is over.
   */
  credentials(permit: Permit, why: 'launch' | 'rejected'): Promise<Credentials | null>;
  /** Connects to a server address (TCP only, within `connect_timeout`). Rejects with a `Refusal` `server_unreachable`. */
  dial(address: Address): Promise<Channel>;
  /**
   * Both sides are signed in: writes the session's start to the journal, as durably as is configured. Called before
   * the client is told that it is in. Rejects with a `Refusal` `recording_unavailable`.
   */
  opened(permit: Permit, facts: ServerFacts): Promise<void>;

  /** Draws a cancel secret of `length` bytes, unique with `id` among live sessions, and maps it to this session. */
  cancelKey(id: number, length: number): Buffer;
  /** A client wants another session's statement cancelled. Resolves when the server has been told, or at once when no session has that key. */
  cancel(id: number, secret: Buffer): Promise<void>;

  random(length: number): Buffer;
  /** A line for the operator's log, at debug level. Never statement text or secrets. */
  log(message: string, fields?: Readonly<Record<string, string | number | boolean | null>>): void;
}

/** What a client says of itself before anything has been decided. */
export interface Claim {
  /** The user name as the client sent it. */
  readonly user: string;
  /** Null where the client named none. */
  readonly database: string | null;
  readonly program: string | null;
  readonly replication: boolean;
  /** Further attributes worth recording: driver and its version, operating system user, host. */
  readonly attributes: Readonly<Record<string, string>>;
}

/** How a client must prove who it is. `trust` lets any user name in, with or without a password. */
export type Challenge =
  | { readonly method: 'trust' }
  | { readonly method: 'token'; readonly verifier: TokenVerifier }
  /** The password field carries something that only the gateway can judge (a JWT): needs TLS, sent in clear within. */
  | { readonly method: 'bearer' };

/**
 * What is stored of a launch token, enough to check each protocol's proof and not enough to make one. An unknown user
 * gets a verifier that nothing satisfies, so that the two cannot be told apart.
 */
export interface TokenVerifier {
  readonly scram: {
    readonly salt: Buffer;
    readonly iterations: number;
    readonly storedKey: Buffer;
    readonly serverKey: Buffer;
  };
  /** SHA1(SHA1(token)): `mysql_native_password`. */
  readonly nativeHash: Buffer;
  /** SHA256(SHA256(token)): `caching_sha2_password`. */
  readonly sha2Hash: Buffer;
  /** Checks the token itself, in constant time. */
  matches(token: Buffer): boolean;
}

/** What the client proved: nothing (trust), possession of the token, or the bearer text to be judged by `admit`. */
export type Proof =
  | { readonly method: 'trust' }
  | { readonly method: 'token'; readonly valid: boolean }
  | { readonly method: 'bearer'; readonly text: Secret };

declare const permitBrand: unique symbol;

/** "You may": made by `src/access/` alone, and needed by whatever tells a client that it is in. */
export interface Permit {
  readonly [permitBrand]: true;
  /** The session's id, as it stands in the journal. */
  readonly session: string;
  readonly principal: string;
  readonly resource: Resource;
  /** The database to open, the rules applied; null leaves it to the protocol's own default. */
  readonly database: string | null;
  /** The only databases that the session may open; null for any. */
  readonly databases: readonly string[] | null;
  /** The session may only read: the engine asks the server to hold it to that, as far as its protocol can. */
  readonly readOnly: boolean;
  /** What the connection belongs to; null where access is by the listener alone. */
  readonly launch: Launch | null;
}

/** One principal's permission to use one resource for a while. It ends all its connections when it ends. */
export interface Launch {
  readonly id: string;
  /** Milliseconds since the epoch; null for no end of its own. */
  readonly expiresAt: number | null;
  /** Name of the rule that lets the connection in. */
  readonly rule?: string;
}

/** One database server (or several that stand for one) with what an engine must know of it. */
export interface Resource {
  readonly name: string;
  readonly engine: EngineName;
  /** In order of preference; more than one only where the engine can choose among them. */
  readonly addresses: readonly Address[];
  readonly settings: EngineSettings;
}

/** Launch credentials. An account name without password is legal (certificate or peer authentication). */
export interface Credentials {
  readonly username: string;
  readonly password: Secret | null;
  /** The password is an access token: sent only over verified TLS, by the method for tokens. */
  readonly kind: 'password' | 'token';
  /** Aborts when the account is taken away while the session lasts. The gateway then ends the session; engines do nothing. */
  readonly lost?: AbortSignal;
}

export type EngineSettings = PostgresSettings | MysqlSettings | TdsSettings;

export interface PostgresSettings {
  readonly engine: 'postgres';
  readonly channelBinding: 'disable' | 'prefer' | 'require';
  readonly allowReplication: boolean;
  readonly targetSessionAttrs: 'any' | 'read-write' | 'read-only' | 'primary' | 'standby' | 'prefer-standby';
  /** Direct TLS toward the server (PostgreSQL 17 and later) instead of SSLRequest. */
  readonly directTls: boolean;
  /** The protocol version asked of the server. */
  readonly protocolVersion: '3.0' | '3.2';
  readonly scramIterationsMax: number;
  /** Answer an MD5 request over a network that TLS does not secure. Default: no. */
  readonly md5WithoutTls?: boolean;
}

export interface MysqlSettings {
  readonly engine: 'mysql';
  readonly flavor: 'mysql' | 'mariadb';
  readonly allowLocalInfile: boolean;
  readonly allowReplication: boolean;
  /** The server's RSA public key (PEM) for caching_sha2_password and sha256_password without TLS; null: none is known. */
  readonly serverPublicKey: string | null;
  /** Fetch that key from the server over the clear connection. Unauthenticated, so off unless asked for. */
  readonly fetchServerPublicKey: boolean;
}

export interface TdsSettings {
  readonly engine: 'tds';
  /** Toward the server. */
  readonly encryption: 'off' | 'login-only' | 'on' | 'strict';
  /** Toward clients: `required`, `login` (only LOGIN7 is encrypted for clients that ask for no more), `none`. */
  readonly clientEncryption: 'required' | 'login' | 'none';
  readonly mars: boolean;
  /** Windows account as launch credentials: NTLMv2. `DOMAIN\user` in the user name selects it too. */
  readonly windowsDomain: string | null;
  /** What LOGIN7 calls the server, where it differs from the address. */
  readonly serverName: string | null;
  /** Let replication agents sign in (LOGIN7's user type). Default: no. */
  readonly allowReplication?: boolean;
}

export interface ServerFacts {
  readonly engine: EngineName;
  readonly serverVersion: string;
  /** The account that signed in, and the database that was opened. */
  readonly databaseUser: string;
  readonly database: string | null;
  /** The server's own id for the session: pid, connection id or spid. */
  readonly serverSession: string | null;
  /** `scram-sha-256-plus`, `caching_sha2_password`, `ntlm` … */
  readonly authentication: string;
  readonly server: Channel;
  /** TLS was preferred, and the server has none. */
  readonly tlsFallback: boolean;
}

/** `served`: there is nothing to stream (a cancel request, a health check that sent nothing). */
export type Handshake =
  | { readonly kind: 'served' }
  | { readonly kind: 'session'; readonly session: EngineSession };

export interface EngineSession {
  readonly permit: Permit;
  readonly facts: ServerFacts;
  /** Called once. The channels are the gateway's from then on, and all bytes go through the observer. */
  observe(sink: Sink, options: ObserveOptions): Observer;
  /**
   * Stops what runs on the server without ending the session. `dial` connects to the same address again, `credentials`
   * fetches them again; engines that cancel in-band use neither. Bounded by the caller's deadline.
   */
  interrupt(means: InterruptMeans): Promise<void>;
}

export interface ProbeMeans {
  /** The database to open; null leaves it to the engine to take one that every server has. */
  readonly database: string | null;
  random(length: number): Buffer;
}

export interface InterruptMeans {
  dial(): Promise<Channel>;
  credentials(): Promise<Credentials | null>;
  /** For protocols whose cancel goes over the session's own connection: what to send, and the way to send it. */
  observer: Observer;
  send(bytes: Buffer): void;
}

export interface ObserveOptions {
  /** Decode and record bound parameters. */
  readonly parameters: boolean;
  /** Record the first rows of each result as text; 0 leaves row data untouched and unparsed. */
  readonly sampleRows: number;
  readonly columns: boolean;
}

/**
 * Where an observer's findings go. The gateway implements it; every call is synchronous.
 *
 * Bytes handed to `toServer` and `toClient` may be views into the chunk under observation: they are valid until the
 * observer's call returns, and the gateway copies what it must keep longer.
 */
export interface Sink {
  toServer(bytes: Buffer): void;
  toClient(bytes: Buffer): void;
  /** May this go to the server? Asked once a request is complete, before `begin`. */
  decide(statement: Statement): Verdict;
  /** The start of a statement. Its bytes go to `toServer` after this, never before. Also called for refused ones. */
  begin(statement: Statement): void;
  end(statement: Statement): void;
  /** What is worth a line on record and is no statement. */
  note(note: Note): void;
}

export type Verdict =
  | { readonly action: 'allow' }
  | { readonly action: 'refuse'; readonly refusal: Refusal }
  /** Wait: nothing more of this client passes until `Observer.release` is called. */
  | { readonly action: 'hold' };

export const ALLOW: Verdict = { action: 'allow' };

export type Note =
  /** The observer lost the thread and passes bytes unread until the next point where it can pick it up. */
  | { readonly kind: 'opaque'; readonly reason: string; readonly trace: string }
  | { readonly kind: 'database_changed'; readonly database: string }
  /** A change that the session's meaning depends on: SET ROLE, COM_CHANGE_USER, LOAD DATA LOCAL's file. */
  | { readonly kind: 'session_changed'; readonly what: string; readonly value: string }
  | { readonly kind: 'server_notice'; readonly code: string; readonly message: string };

/**
 * Follows one session's traffic after sign-in. Works when chunks are cut at any byte. Never throws for anything the
 * peers send: what cannot be followed passes as `opaque`, or ends the session through `fatal`.
 */
export interface Observer {
  /**
   * The next bytes of the client, or of the server. They are good during the call alone: their memory is read into
   * again as soon as it returns, so what is kept is copied.
   */
  client(chunk: Buffer): void;
  server(chunk: Buffer): void;
  /** The gate's answer to a statement that was held. */
  release(verdict: Verdict): void;

  /** A request is under way on the server, or waits for it. The idle clock stands still meanwhile. */
  readonly busy: boolean;
  readonly transaction: TransactionState;
  /** Too much is outstanding (or a statement is held): the client must not be read until this is false again. */
  readonly saturated: boolean;
  /** The client may be sent a message of ours now: what went to it last was complete. */
  readonly atBoundary: boolean;
  /** Who has said goodbye in the protocol's own words: the client (Terminate, COM_QUIT), the server (a fatal error), nobody. */
  readonly leaving: 'client' | 'server' | null;
  /** The client broke the protocol in a way that no server would tolerate; the session must end with this. */
  readonly fatal: Refusal | null;

  /** The protocol's own last words to the client. Only at a boundary. */
  farewell(refusal: Refusal): Buffer;
  /** What tells the server that we leave (Terminate, COM_QUIT), or an in-band cancel where `cancel` is set; null for nothing. */
  goodbye(): Buffer | null;
  /** An in-band cancel (TDS attention), or null where the protocol has none or nothing is running. */
  attention(): Buffer | null;
  /** The session is over: ends every open statement (`unknown`, or `cancelled` when we cut it). */
  close(status: 'unknown' | 'cancelled'): void;
}
