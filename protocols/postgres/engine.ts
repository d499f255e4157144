import type { Channel } from '../channel.ts';
import type {
  Claim,
  Credentials,
  Engine,
  EngineSession,
  Entry,
  Handshake,
  InterruptMeans,
  ObserveOptions,
  Observer,
  Permit,
  PostgresSettings,
  ProbeMeans,
  Resource,
  ServerFacts,
  Sink,
} from '../engine.ts';
import { Refusal } from '../error.ts';
import { DerivedKeys } from '../scram/keys.ts';
import { type Accepted, accept } from './accept.ts';
import { authenticate } from './authenticate.ts';
import { sendCancel } from './cancel.ts';
import { leave, reach } from './hosts.ts';
import { CLIENT_SECRET_BYTES, NAME_BYTES_MAX } from './limits.ts';
import { type BackendKey, type LoggedIn, login } from './login.ts';
import { observe } from './observe.ts';
import { AUTHENTICATION, authenticationRequest, backendKeyData, message } from './packets.ts';
import { DENIAL_MARKER_BYTES, denialMarker, type SessionFacts } from './session.ts';
import { inspectSettings, parametersWith, type Startup } from './startup.ts';
import { tellClient } from './tell.ts';

/**
 * PostgreSQL, protocol 3.0 and 3.2.
 *
 * The order of a sign-in: the client's startup packets; its proof; permission; the server, all the way to its first
 * ReadyForQuery; the session's start on record; and only then AuthenticationOk and what the server said, to the client.
 * Whatever fails before reaches the client as an error of its sign-in.
 */
export const postgres: Engine = { name: 'postgres', handshake, probe };

/** Shared by all sessions of the process: PBKDF2 is paid once for an account. */
const derivedKeys = new DerivedKeys();

async function handshake(entry: Entry): Promise<Handshake> {
  try {
    const accepted = await accept(entry.client);
    if (accepted.kind === 'nobody') return { kind: 'served' };
    if (accepted.kind === 'cancel') {
      // Nothing is ever answered, and the client waits for the end of the connection: it comes when this resolves.
      await entry.cancel(accepted.pid, accepted.secret);
      return { kind: 'served' };
    }
    return { kind: 'session', session: await open(entry, accepted) };
  } catch (error) {
    tellClient(entry.client, error);
    throw error;
  }
}

type Opening = Extract<Accepted, { kind: 'startup' }>;

async function open(entry: Entry, { startup, protocolVersion }: Opening): Promise<EngineSession> {
  const { client } = entry;
  if (client.tlsMode === 'require' && client.tls === null) {
    throw new Refusal('tls_required', 'connections without TLS are not accepted here', {
      hint: 'Connect with sslmode=require or stricter.',
    });
  }
  const { role, refusal } = inspectSettings(startup);
  const { permit, closing } = await admit(entry, startup, role);
  // Only now, so that whoever tried is on record.
  if (refusal !== null) throw refusal;
  const settings = settingsOf(permit.resource);
  if (startup.replication !== 'none' && !settings.allowReplication) {
    throw new Refusal('replication_not_allowed', 'replication connections are not allowed here', {
      hint: `Replication reads the whole server. Whoever runs this gateway may allow it for ${permit.resource.name}.`,
    });
  }
  const database = databaseToOpen(permit, startup);
  const { loggedIn, account } = await reach(entry, permit, settings, {
    database,
    parameters: serverParameters(permit, startup),
    derivedKeys,
    random: (length) => entry.random(length),
  });
  const facts = serverFacts(loggedIn, account, database.toString('utf8'));
  try {
    await entry.opened(permit, facts);
    welcome(entry, loggedIn, protocolVersion, closing);
  } catch (error) {
    leave(loggedIn.server);
    throw error;
  }
  return new PostgresSession(permit, facts, {
    backendKey: loggedIn.backendKey,
    directTls: settings.directTls,
    role,
    observed: {
      protocolVersion,
      parameters: loggedIn.parameters,
      transactionStatus: loggedIn.transactionStatus,
      serverPid: loggedIn.backendKey?.pid ?? null,
      account,
      database: database.toString('utf8'),
      replication: startup.replication !== 'none',
      denialMarker: denialMarker(entry.random(DENIAL_MARKER_BYTES)),
    },
  });
}

/** Permission, and what the client must be sent between its proof and AuthenticationOk. */
async function admit(
  entry: Entry,
  startup: Startup,
  role: string | null,
): Promise<{ permit: Permit; closing: Buffer }> {
  const claim = makeClaim(startup, role);
  const challenge = await entry.challenge(claim);
  const { proof, closing } = await authenticate(entry.client, challenge, (length) => entry.random(length));
  try {
    const permit = await entry.admit(claim, proof);
    if (proof.method === 'token' && !proof.valid) {
      throw new Refusal('credentials_invalid', `password authentication failed for user "${claim.user}"`);
    }
    return { permit, closing };
  } finally {
    if (proof.method === 'bearer') proof.text.wipe();
  }
}

function makeClaim(startup: Startup, role: string | null): Claim {
  const attributes: Record<string, string> = {};
  if (role !== null) attributes.role = role;
  if (startup.replication !== 'none') attributes.replication = startup.replication;
  const program = startup.parameters.find(({ name }) => name === 'application_name');
  return {
    user: startup.user,
    database: startup.database?.toString('utf8') ?? null,
    program: program?.value.toString('utf8') || null,
    replication: startup.replication !== 'none',
    attributes,
  };
}

function settingsOf(resource: Resource): PostgresSettings {
  if (resource.settings.engine === 'postgres') return resource.settings;
  throw new Error(`resource ${resource.name} is not a PostgreSQL resource`);
}

/**
 * The name as the client sent it, byte for byte, where that is what was permitted. Without any the default is the
 * client's own user name: the protocol's rule, applied before the account takes the user's place.
 */
function databaseToOpen(permit: Permit, startup: Startup): Buffer {
  const asked = startup.database;
  if (permit.database === null) return asked ?? Buffer.from(startup.user, 'utf8');
  if (asked !== null && asked.toString('utf8') === permit.database) return asked;
  const database = Buffer.from(permit.database, 'utf8');
  if (database.length <= NAME_BYTES_MAX) return database;
  throw new Refusal('database_not_allowed', `the database name is longer than ${NAME_BYTES_MAX} bytes`);
}

function serverParameters(permit: Permit, startup: Startup): [string, Buffer][] {
  const enforced = permit.readOnly ? [{ name: 'default_transaction_read_only', value: 'on' }] : [];
  const parameters = parametersWith(startup, enforced);
  if (startup.replication === 'none') return parameters;
  const value = startup.replication === 'database' ? 'database' : 'true';
  return [['replication', Buffer.from(value)], ...parameters];
}

function serverFacts(loggedIn: LoggedIn, account: string, database: string): ServerFacts {
  return {
    engine: 'postgres',
    serverVersion: loggedIn.parameters.get('server_version') ?? 'unknown',
    databaseUser: account,
    database,
    serverSession: loggedIn.backendKey === null ? null : String(loggedIn.backendKey.pid),
    authentication: loggedIn.authentication,
    server: loggedIn.server,
    tlsFallback: loggedIn.tlsFallback,
  };
}

/**
 * Tells the client that it is in: AuthenticationOk and all that the server said behind its own, in its order. Only the
 * cancel secret is ours; the process id stays the server's, which pgAdmin and NOTIFY's readers use.
 */
function welcome(entry: Entry, loggedIn: LoggedIn, protocolVersion: '3.0' | '3.2', closing: Buffer): void {
  const bytes = [closing, authenticationRequest(AUTHENTICATION.ok)];
  for (const { type, body } of loggedIn.welcome) {
    if (type !== 'K') bytes.push(message(type, body));
    else if (loggedIn.backendKey !== null) {
      const { pid } = loggedIn.backendKey;
      bytes.push(backendKeyData(pid, entry.cancelKey(pid, CLIENT_SECRET_BYTES[protocolVersion])));
    }
  }
  entry.client.write(Buffer.concat(bytes));
}

interface SessionParts {
  readonly backendKey: BackendKey | null;
  readonly directTls: boolean;
  /** What the startup packet's settings switched the role to. */
  readonly role: string | null;
  readonly observed: SessionFacts;
}

class PostgresSession implements EngineSession {
  readonly permit: Permit;
  readonly facts: ServerFacts;
  readonly #parts: SessionParts;

  constructor(permit: Permit, facts: ServerFacts, parts: SessionParts) {
    this.permit = permit;
    this.facts = facts;
    this.#parts = parts;
  }

  observe(sink: Sink, options: ObserveOptions): Observer {
    const { role, observed } = this.#parts;
    if (role !== null) sink.note({ kind: 'session_changed', what: 'role', value: role });
    return observe(sink, options, observed);
  }

  /** Cancels by a CancelRequest with the server's own key. Does nothing where the server gave none. */
  async interrupt(means: InterruptMeans): Promise<void> {
    const { backendKey, directTls } = this.#parts;
    if (backendKey === null) return;
    const encrypted = this.facts.server.tls !== null;
    await sendCancel(await means.dial(), backendKey, { encrypted, directTls });
  }
}

/** Opens `postgres` where no database is named: nearly every server has it. */
async function probe(
  server: Channel,
  resource: Resource,
  credentials: Credentials,
  means: ProbeMeans,
): Promise<ServerFacts> {
  const name = means.database ?? 'postgres';
  const loggedIn = await login(server, {
    credentials,
    database: Buffer.from(name, 'utf8'),
    parameters: [['application_name', Buffer.from('sallyport check')]],
    settings: settingsOf(resource),
    derivedKeys,
    random: (length) => means.random(length),
  });
  leave(server);
  return serverFacts(loggedIn, credentials.username, name);
}
