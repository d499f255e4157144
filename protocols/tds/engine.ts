import type { Channel } from '../channel.ts';
import type {
  Credentials,
  Engine,
  EngineSession,
  Entry,
  Handshake,
  InterruptMeans,
  Permit,
  ProbeMeans,
  Resource,
  ServerFacts,
  TdsSettings,
} from '../engine.ts';
import { ProtocolError, Refusal } from '../error.ts';
import {
  acceptStrict,
  answerPrelogin,
  checkLogin,
  claimOf,
  fedAuthOf,
  greet,
  type LoginReader,
  negotiate,
  negotiateNothing,
  type Protection,
  proofOf,
  type ReceivedLogin,
  readLogin,
  readPrelogin,
} from './accept.ts';
import { LoginRejected, loginErrorFields, loginRefusal } from './errors.ts';
import { HANDSHAKE_PACKET_BYTES_MAX } from './limits.ts';
import { greetServer, type LoginResult, type Server, signIn } from './login.ts';
import { ownLogin7 } from './login7.ts';
import { buildMessage, LoginMessage } from './messages.ts';
import { observe } from './observe.ts';
import type { Prelogin } from './prelogin.ts';
import { follow } from './routing.ts';
import type { SessionFacts } from './session.ts';

/** SQL Server, and whatever speaks its Tabular Data Stream (MS-TDS), versions 7.0 to 8.0. */
export const tds: Engine = { name: 'tds', handshake, probe };

/** What the error path needs to know of a sign-in that did not come to its end. */
interface Attempt {
  readonly known: LoginReader;
  readonly servers: Channel[];
  serverName: string;
}

async function handshake(entry: Entry): Promise<Handshake> {
  const attempt: Attempt = {
    known: { version: null, packetBytes: HANDSHAKE_PACKET_BYTES_MAX },
    servers: [],
    serverName: entry.resource?.name ?? 'Sallyport',
  };
  const { client } = entry;
  try {
    return await signBothIn(entry, attempt);
  } catch (error) {
    const { version, packetBytes } = attempt.known;
    // Before LOGIN7 no driver reads an error: it gets none, only the end.
    if (version !== null) {
      client.write(loginRefusal(loginErrorFields(error, attempt.serverName), version, packetBytes));
    }
    client.end();
    for (const channel of attempt.servers) channel.destroy();
    throw error;
  }
}

async function signBothIn(entry: Entry, attempt: Attempt): Promise<Handshake> {
  const { client } = entry;
  let greeting = await greet(client);
  if (greeting === null) return { kind: 'served' };
  if (greeting === 'tls') {
    await acceptStrict(client);
    greeting = await greet(client);
    if (greeting === null) return { kind: 'served' };
  }
  const prelogin = greeting === 'prelogin' ? await readPrelogin(client) : null;

  // Server first: its version and features are what the client is shown. That it cannot be reached is told later.
  const met =
    entry.resource === null ? null : await meet(entry, attempt, entry.resource, prelogin?.mars ?? false);
  const accepted = await acceptClient(entry, prelogin, met);

  const received = await readLogin(client, accepted.protection, attempt.known);
  try {
    if (accepted.refusal !== null) throw accepted.refusal;
    return await admitAndSignIn(entry, attempt, { ...accepted, received, met });
  } finally {
    received.payload.fill(0);
  }
}

/** A server that has answered PRELOGIN, or why there is none. */
type Met = { readonly server: Server } | { readonly error: unknown };

async function meet(entry: Entry, attempt: Attempt, resource: Resource, mars: boolean): Promise<Met> {
  try {
    return { server: await open(entry, attempt, resource, mars) };
  } catch (error) {
    return { error };
  }
}

/** Dials the resource's addresses in order until one answers PRELOGIN. */
async function open(entry: Entry, attempt: Attempt, resource: Resource, mars: boolean): Promise<Server> {
  const settings = settingsOf(resource);
  let failure: unknown = new Refusal('server_unreachable', `${resource.name} has no address`);
  for (const address of resource.addresses) {
    try {
      const channel = await entry.dial(address);
      attempt.servers.push(channel);
      return await greetServer(
        channel,
        settings,
        settings.serverName ?? address.host,
        null,
        mars && settings.mars,
      );
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

interface Accepted {
  readonly protection: Protection;
  readonly refusal: Refusal | null;
  /** What the client was told of multiple active result sets. */
  readonly mars: boolean;
  readonly prelogin: Prelogin | null;
}

/** Answers the client's PRELOGIN, as far as it sent one, and does the TLS that was agreed on. */
async function acceptClient(entry: Entry, prelogin: Prelogin | null, met: Met | null): Promise<Accepted> {
  const { client } = entry;
  const policy = entry.resource === null ? 'required' : settingsOf(entry.resource).clientEncryption;
  if (prelogin === null) {
    const { protection, refusal } =
      client.tls === null
        ? negotiateNothing(client, policy)
        : ({ protection: 'strict', refusal: null } as const);
    return { protection, refusal, mars: false, prelogin };
  }
  const server = met !== null && 'server' in met ? met.server.prelogin : null;
  const mars = prelogin.mars && (server?.mars ?? false);
  const negotiated = negotiate(client, prelogin.encryption, policy);
  const { protection, refusal } = await answerPrelogin(client, prelogin, server, mars, negotiated);
  return { protection, refusal, mars, prelogin };
}

interface Arrived extends Accepted {
  readonly received: ReceivedLogin;
  readonly met: Met | null;
}

async function admitAndSignIn(entry: Entry, attempt: Attempt, arrived: Arrived): Promise<Handshake> {
  const { received, protection } = arrived;
  const { login } = received;
  const fedAuth = fedAuthOf(login);
  const claim = claimOf(login, protection);
  checkLogin(login, fedAuth);
  const proof = proofOf(await entry.challenge(claim), received, fedAuth);
  const permit = await entry.admit(claim, proof);
  if (claim.replication && settingsOf(permit.resource).allowReplication !== true) {
    throw new Refusal('replication_not_allowed', 'replication agents are not let in here', {
      hint: 'The resource would need `allow_replication: true`.',
    });
  }
  attempt.serverName = permit.resource.name;
  if (login.attachFile.length > 0) entry.log('AttachDBFileName was left out of the sign-in');

  const met = arrived.met ?? (await meet(entry, attempt, permit.resource, arrived.mars));
  if ('error' in met) throw met.error;
  const signedIn = await signInFreshly(entry, attempt, arrived, permit, met.server);
  return finish(entry, attempt, arrived, permit, signedIn, fedAuth?.library === 'token');
}

interface SignedIn {
  readonly server: Server;
  readonly result: LoginResult;
  readonly account: string;
}

/** Signs in; when the server does not take the password, once more with credentials fetched anew. */
async function signInFreshly(
  entry: Entry,
  attempt: Attempt,
  arrived: Arrived,
  permit: Permit,
  first: Server,
): Promise<SignedIn> {
  const credentials = await entry.credentials(permit, 'launch');
  if (credentials === null) throw noCredentials(permit);
  try {
    return await signInWith(entry, attempt, arrived, permit, first, credentials);
  } catch (error) {
    if (!(error instanceof LoginRejected) || !error.mayBeStale) throw error;
    const fresh = await entry.credentials(permit, 'rejected');
    if (fresh === null) throw error;
    entry.log('the launch credentials were refused; trying those fetched anew');
    const again = await open(entry, attempt, permit.resource, arrived.mars);
    return await signInWith(entry, attempt, arrived, permit, again, fresh);
  }
}

async function signInWith(
  entry: Entry,
  attempt: Attempt,
  arrived: Arrived,
  permit: Permit,
  first: Server,
  credentials: Credentials,
): Promise<SignedIn> {
  const settings = settingsOf(permit.resource);
  const { protection, received } = arrived;
  try {
    const { server, result } = await follow(first, permit.resource, {
      dial: async (address) => {
        const channel = await entry.dial(address);
        attempt.servers.push(channel);
        return channel;
      },
      greet: (channel, name, certificateName) =>
        greetServer(channel, settings, name, certificateName, arrived.mars),
      signIn: (server, database) => {
        if (server.prelogin.mars !== arrived.mars && arrived.mars) {
          throw new ProtocolError('unsupported', 'server', 'the server no longer offers MARS');
        }
        return signIn(server, {
          login: received.login,
          credentials,
          settings,
          database: database ?? permit.database ?? '',
          clientEncrypted: protection === 'full' || protection === 'strict',
          random: (length) => entry.random(length),
        });
      },
      log: (message, fields) => entry.log(message, fields),
    });
    return { server, result, account: credentials.username };
  } finally {
    credentials.password?.wipe();
  }
}

/** Records that the session begins, and only then tells the client that it is in. */
async function finish(
  entry: Entry,
  attempt: Attempt,
  arrived: Arrived,
  permit: Permit,
  signedIn: SignedIn,
  fedAuth: boolean,
): Promise<Handshake> {
  const { server, result, account } = signedIn;
  const { response } = result;
  const facts = serverFacts(server, result, account);
  await entry.opened(permit, facts);
  const payload = response.forClient(result.requested, fedAuth);
  entry.client.write(
    buildMessage(LoginMessage.tabularResult, payload, attempt.known.packetBytes, result.process),
  );
  const sessionFacts: SessionFacts = {
    settings: settingsOf(permit.resource),
    version: response.acknowledgement!.version,
    mars: arrived.mars,
    packetBytes: response.packetBytes ?? HANDSHAKE_PACKET_BYTES_MAX,
    database: response.database,
    collation: response.collation,
    inTransaction: response.inTransaction,
    account,
    serverName: permit.resource.name,
    serverProcess: result.process,
    features: response.sessionFeatures(result.requested),
  };
  // SQL Server is known to stumble over packets that are spread over TLS records (go-mssqldb, issue 166).
  server.channel.limitTlsRecords?.(sessionFacts.packetBytes);
  const session: EngineSession = {
    permit,
    facts,
    observe: (sink, options) => observe(sink, options, sessionFacts),
    interrupt,
  };
  return { kind: 'session', session };
}

function serverFacts(server: Server, result: LoginResult, account: string): ServerFacts {
  const { response } = result;
  return {
    engine: 'tds',
    serverVersion: response.acknowledgement!.serverVersion,
    databaseUser: account,
    database: response.database,
    serverSession: String(result.process),
    authentication: result.authentication,
    server: server.channel,
    tlsFallback: server.fallback,
  };
}

/** Attention goes over the session's own connection, and the server answers it there. */
async function interrupt({ observer, send }: InterruptMeans): Promise<void> {
  const attention = observer.attention();
  if (attention !== null) send(attention);
}

/** Signs in to one address and out again. A server that sends its clients elsewhere has accepted the credentials. */
async function probe(
  server: Channel,
  resource: Resource,
  credentials: Credentials,
  means: ProbeMeans,
): Promise<ServerFacts> {
  const settings = settingsOf(resource);
  try {
    const met = await greetServer(server, settings, settings.serverName ?? server.remote.host, null, false);
    const result = await signIn(met, {
      login: ownLogin7('7.4', 'Sallyport check', 'sallyport'),
      credentials,
      settings,
      database: means.database ?? '',
      clientEncrypted: false,
      random: (length) => means.random(length),
    });
    return serverFacts(met, result, credentials.username);
  } finally {
    server.end();
  }
}

function settingsOf(resource: Resource): TdsSettings {
  if (resource.settings.engine !== 'tds') throw new Error(`${resource.name} is no SQL Server`);
  return resource.settings;
}

function noCredentials(permit: Permit): Refusal {
  return new Refusal('credentials_unavailable', `there are no credentials for ${permit.resource.name}`, {
    hint: 'Ask the people who run this gateway.',
  });
}
