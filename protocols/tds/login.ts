import { transcode } from 'node:buffer';
import type { Address, Channel } from '../channel.ts';
import type { Credentials, TdsSettings } from '../engine.ts';
import { ProtocolError, Refusal } from '../error.ts';
import { LoginRejected } from './errors.ts';
import { buildFedAuth, Feature, type FeatureRequest, passedFeatures } from './features.ts';
import {
  ENCRYPTED_PACKET_BYTES_MAX,
  HANDSHAKE_PACKET_BYTES_MAX,
  LOGIN_RESPONSE_BYTES_MAX,
  PACKET_BYTES_MAX,
  PACKET_BYTES_MIN,
  PRELOGIN_BYTES_MAX,
  SSPI_ROUNDS_MAX,
} from './limits.ts';
import { LoginResponse } from './login-response.ts';
import { buildLogin7, type Login7, utf16 } from './login7.ts';
import { buildMessage, LoginMessage, type Message, readMessage } from './messages.ts';
import { authenticate, channelBinding, negotiate } from './ntlm.ts';
import { buildPrelogin, Encryption, type Prelogin, parsePrelogin } from './prelogin.ts';
import { type TdsVersion, versionAtLeast } from './session.ts';
import { PreloginTransport } from './transport.ts';

/** The server's half of the sign-in: PRELOGIN, TLS, LOGIN7 with the launch credentials, and the answer to it. */

/** A server that has answered PRELOGIN; TLS has been done only where it comes first. */
export interface Server {
  readonly channel: Channel;
  /** What LOGIN7 calls it. */
  readonly name: string;
  /** The name that its certificate must carry, where that is not the configured one: it was routed to. */
  readonly certificateName: string | null;
  readonly prelogin: Prelogin;
  readonly protection: 'clear' | 'login' | 'full' | 'strict';
  /** TLS was preferred, and the server has none. */
  readonly fallback: boolean;
}

/** PRELOGIN with a server that is connected, behind TLS where the settings say `strict`. */
export async function greetServer(
  channel: Channel,
  settings: TdsSettings,
  name: string,
  certificateName: string | null,
  mars: boolean,
): Promise<Server> {
  const strict = settings.encryption === 'strict';
  if (strict) {
    await channel.connectTls({
      alpn: ['tds/8.0'],
      ...(certificateName === null ? {} : { serverName: certificateName }),
    });
  }
  const asked = strict ? Encryption.notSupported : encryptionAsked(settings, channel);
  const request = buildPrelogin(asked, mars);
  channel.write(buildMessage(LoginMessage.prelogin, request, HANDSHAKE_PACKET_BYTES_MAX));
  const answer = await readMessage(
    channel,
    [LoginMessage.tabularResult],
    PRELOGIN_BYTES_MAX,
    "the server's PRELOGIN",
  );
  const said = parsePrelogin(answer.payload, 'server');
  // What was not asked for does not hold, whatever the answer says.
  const prelogin = { ...said, mars: mars && said.mars };
  const agreed = strict
    ? ({ protection: 'strict', fallback: false } as const)
    : agree(asked, prelogin.encryption, channel);
  return { channel, name, certificateName, prelogin, ...agreed };
}

function encryptionAsked(settings: TdsSettings, channel: Channel): number {
  if (settings.encryption === 'off' || channel.tlsMode === 'disable') return Encryption.notSupported;
  return settings.encryption === 'login-only' ? Encryption.off : Encryption.on;
}

/** What follows from what we asked and the server answered. Throws `tls_required` when the two do not go together. */
function agree(
  asked: number,
  answered: number,
  channel: Channel,
): { protection: 'clear' | 'login' | 'full'; fallback: boolean } {
  if (asked === Encryption.notSupported) {
    if (answered === Encryption.notSupported || answered === Encryption.off) {
      return { protection: 'clear', fallback: false };
    }
    throw new ProtocolError(
      'tls_required',
      'server',
      'the server demands encryption, and it is turned off here',
    );
  }
  if (answered === Encryption.on || answered === Encryption.required) {
    return { protection: 'full', fallback: false };
  }
  if (answered === Encryption.off && asked === Encryption.off)
    return { protection: 'login', fallback: false };
  if (channel.tlsMode === 'prefer') return { protection: 'clear', fallback: true };
  throw new ProtocolError(
    'tls_required',
    'server',
    'the server does not offer the encryption that is asked of it',
  );
}

/** Starts TLS inside PRELOGIN, verified as the channel's mode says. */
async function secure(server: Server): Promise<void> {
  if (server.protection !== 'full' && server.protection !== 'login') return;
  await server.channel.connectTls({
    maxVersion: 'TLSv1.2',
    transport: (raw) => new PreloginTransport(raw, 'client', server.protection === 'login'),
    ...(server.certificateName === null ? {} : { serverName: server.certificateName }),
  });
}

/** What is to be signed in with, and what the client asked for. */
export interface LoginRequest {
  readonly login: Login7;
  readonly credentials: Credentials;
  readonly settings: TdsSettings;
  readonly database: string;
  /** The client's own leg is encrypted for the whole session: drivers then refuse packets beyond a TLS record. */
  readonly clientEncrypted: boolean;
  random(length: number): Buffer;
}

export interface LoginResult {
  readonly response: LoginResponse;
  /** The server's session id, from the header of its answer. */
  readonly process: number;
  readonly authentication: 'sql' | 'ntlm' | 'entra-token';
  /** Ids of the client's features that were passed on. */
  readonly requested: readonly number[];
}

/**
 * Signs in to a server. Returns its answer, which may say that it is to be found elsewhere. Throws `LoginRejected` when
 * the server says no, `authentication_unsupported`, a `Refusal`, and what the channel throws.
 */
export async function signIn(server: Server, request: LoginRequest): Promise<LoginResult> {
  const { channel } = server;
  await secure(server);
  const { credentials, settings } = request;
  const authentication = methodOf(credentials, settings);
  const version = serverVersion(request.login.version, server.protection === 'strict');
  if (authentication === 'entra-token') checkTokenWay(server, version);
  const packetBytes = packetBytesAsked(request, server);
  const ntlm = authentication === 'ntlm' ? negotiate() : Buffer.alloc(0);
  const passed = passedFeatures(request.login.features ?? []);
  const payload = withSecret(credentials, (password) => {
    const features = featuresFor(authentication, request.login, passed, password, server);
    const built = buildLogin7(request.login, {
      version,
      packetBytes,
      serverName: server.name,
      database: request.database,
      userName: authentication === 'sql' ? utf16(credentials.username) : Buffer.alloc(0),
      password: authentication === 'sql' ? password : Buffer.alloc(0),
      sspi: ntlm,
      features,
    });
    if (authentication === 'entra-token') features?.at(-1)?.data.fill(0);
    return built;
  });
  const packets = buildMessage(LoginMessage.login7, payload, HANDSHAKE_PACKET_BYTES_MAX);
  payload.fill(0);
  try {
    await sendLogin(server, packets);
    const response = new LoginResponse(version);
    const process = await readResponse(channel, response, async (challenge) =>
      answerChallenge(challenge, ntlm, server, request),
    );
    check(response, packetBytes, request.database, authentication);
    return { response, process, authentication, requested: passed.map(({ id }) => id) };
  } finally {
    packets.fill(0);
  }
}

/** In login-only encryption the first packet of LOGIN7 is inside TLS and everything behind it is not. */
async function sendLogin(server: Server, packets: Buffer): Promise<void> {
  const { channel } = server;
  if (server.protection === 'login') {
    const first = packets.readUInt16BE(2);
    channel.write(packets.subarray(0, first));
    await channel.clearTls();
    if (first < packets.length) channel.write(packets.subarray(first));
    return;
  }
  // Each packet by itself: SQL Server is known to stumble over one that is spread over TLS records.
  for (let position = 0; position < packets.length; ) {
    const length = packets.readUInt16BE(position + 2);
    channel.write(packets.subarray(position, position + length));
    position += length;
  }
}

/** Reads messages until the answer is complete, answering SSPI challenges. Returns the session id of its header. */
async function readResponse(
  channel: Channel,
  response: LoginResponse,
  answer: (challenge: Buffer) => Promise<Buffer>,
): Promise<number> {
  let left = LOGIN_RESPONSE_BYTES_MAX;
  let rounds = 0;
  for (;;) {
    const message: Message = await readMessage(
      channel,
      [LoginMessage.tabularResult],
      left,
      'the answer to LOGIN7',
    );
    left -= message.payload.length || 1;
    response.add(message.payload);
    if (response.done) return message.process;
    if (response.fedAuthInfo) {
      throw new ProtocolError('authentication_unsupported', 'server', 'the server asks for an Entra sign-in');
    }
    if (response.sspi === null) continue;
    rounds += 1;
    if (rounds > SSPI_ROUNDS_MAX) {
      throw new ProtocolError(
        'authentication_unsupported',
        'server',
        'the server asks for too many SSPI rounds',
      );
    }
    const blob = await answer(response.sspi);
    channel.write(buildMessage(LoginMessage.sspi, blob, HANDSHAKE_PACKET_BYTES_MAX));
  }
}

function check(
  response: LoginResponse,
  packetBytes: number,
  database: string,
  authentication: LoginResult['authentication'],
): void {
  if (response.acknowledgement === null || response.doneError) {
    if (response.errors.length > 0) throw new LoginRejected(response.errors, database);
    throw new ProtocolError('server_error', 'server', 'the server neither took nor refused the sign-in');
  }
  const granted = response.packetBytes ?? HANDSHAKE_PACKET_BYTES_MAX;
  const most = packetBytes === 0 ? PACKET_BYTES_MAX : Math.max(packetBytes, HANDSHAKE_PACKET_BYTES_MAX);
  if (!(granted >= PACKET_BYTES_MIN && granted <= most)) {
    throw new ProtocolError('malformed', 'server', `the server sets a packet size of ${granted} bytes`);
  }
  if (
    authentication === 'entra-token' &&
    response.routing === null &&
    !response.acknowledged(Feature.fedAuth)
  ) {
    throw new ProtocolError('server_untrusted', 'server', 'the server did not say that it took the token');
  }
}

function methodOf(credentials: Credentials, settings: TdsSettings): LoginResult['authentication'] {
  if (credentials.kind === 'token') return 'entra-token';
  if (settings.windowsDomain !== null || credentials.username.includes('\\')) return 'ntlm';
  return 'sql';
}

/** TDS 8.0 is spoken behind TLS only; the tokens are those of 7.4. */
function serverVersion(asked: TdsVersion, strict: boolean): TdsVersion {
  return asked === '8.0' && !strict ? '7.4' : asked;
}

function packetBytesAsked(request: LoginRequest, server: Server): number {
  const asked = request.login.packetBytes;
  const encrypted = request.clientEncrypted || server.protection === 'full' || server.protection === 'strict';
  const most = encrypted ? ENCRYPTED_PACKET_BYTES_MAX : PACKET_BYTES_MAX;
  if (asked === 0) return encrypted ? HANDSHAKE_PACKET_BYTES_MAX : 0;
  return Math.min(Math.max(asked, PACKET_BYTES_MIN), most);
}

function checkTokenWay(server: Server, version: TdsVersion): void {
  if (!versionAtLeast(version, '7.4')) {
    throw new Refusal(
      'option_not_allowed',
      `the launch credentials are an access token, which TDS ${version} cannot carry`,
      { hint: 'Use a newer driver.' },
    );
  }
  if (server.protection === 'login' || server.channel.tls?.verified !== true) {
    throw new Refusal('server_tls_failed', 'an access token is sent to a verified server only', {
      hint: 'The resource needs `encryption: on` or `strict`, and `tls.mode: verify-full`.',
    });
  }
}

function featuresFor(
  authentication: LoginResult['authentication'],
  login: Login7,
  passed: FeatureRequest[],
  token: Buffer,
  server: Server,
): FeatureRequest[] | null {
  if (authentication === 'entra-token') {
    return [...passed, buildFedAuth(token, server.prelogin.fedAuthRequired === 1)];
  }
  return login.features === null ? null : passed;
}

/** Calls `use` with the password as UTF-16LE, and wipes that copy. */
function withSecret<T>(credentials: Credentials, use: (password: Buffer) => T): T {
  const bytes = credentials.password?.expose() ?? Buffer.alloc(0);
  const password = bytes.length === 0 ? Buffer.alloc(0) : utf16Secret(bytes);
  try {
    return use(password);
  } finally {
    password.fill(0);
  }
}

function utf16Secret(bytes: Buffer): Buffer {
  try {
    return transcode(bytes, 'utf8', 'utf16le') as Buffer;
  } catch (cause) {
    throw new Refusal('credentials_unavailable', 'the launch password is not UTF-8 text', { cause });
  }
}

function answerChallenge(challenge: Buffer, ntlm: Buffer, server: Server, request: LoginRequest): Buffer {
  if (ntlm.length === 0) {
    throw new ProtocolError(
      'authentication_unsupported',
      'server',
      'the server asks for SSPI, which was not begun',
    );
  }
  const { credentials, settings } = request;
  const { domain, user } = windowsAccount(credentials.username, settings.windowsDomain);
  const binding = server.channel.tls?.binding ?? null;
  return withSecret(credentials, (password) =>
    authenticate({
      account: { domain, user, password },
      negotiateMessage: ntlm,
      challengeMessage: challenge,
      clientChallenge: request.random(8),
      servicePrincipal: `MSSQLSvc/${addressText(server.channel.remote, server.name)}`,
      binding: binding === null ? null : channelBinding(binding),
    }),
  );
}

/** `DOMAIN\user`, or `user` of the configured domain. */
function windowsAccount(username: string, configured: string | null): { domain: string; user: string } {
  const backslash = username.indexOf('\\');
  if (backslash < 0) return { domain: configured ?? '', user: username };
  return { domain: username.slice(0, backslash), user: username.slice(backslash + 1) };
}

/** The server's own name, without an instance, and the port it was dialled at. */
function addressText(remote: Address, name: string): string {
  return `${hostOf(name)}:${remote.port}`;
}

/** `host` of `host\instance`. */
export function hostOf(name: string): string {
  const backslash = name.indexOf('\\');
  return backslash < 0 ? name : name.slice(0, backslash);
}
