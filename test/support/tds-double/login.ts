import { createHash, createHmac, randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { md4 } from './md4.ts';
import { type DoubleCertificate, type FlightForm, strictTls, type WrappedTls, wrappedTls } from './tls.ts';
import { longText, packets, StreamReader, shortText, u16, u32, utf16 } from './wire.ts';

/** The sign-in of the test double: PRELOGIN, TLS, LOGIN7, and the ways of authentication. */

/** `off`: no TLS at all; `login-only`: what clients do not ask for is limited to LOGIN7; `required`: all encrypted; `strict`: TLS first, and only so. */
export type DoubleEncryption = 'off' | 'login-only' | 'required' | 'strict';

export interface DoubleOptions {
  readonly encryption: DoubleEncryption;
  readonly certificate?: DoubleCertificate;
  /** SQL logins. */
  readonly logins?: Readonly<Record<string, string>>;
  /** Windows accounts, `DOMAIN\user` in capitals as given. */
  readonly accounts?: Readonly<Record<string, string>>;
  /** Entra access tokens. */
  readonly tokens?: readonly string[];
  readonly databases?: readonly string[];
  /** What PRELOGIN and LOGINACK say; default 16.0.1000. */
  readonly version?: readonly [number, number, number];
  /** The highest TDS version that LOGINACK names, as its number: default 0x74000004. */
  readonly tdsVersion?: number;
  readonly mars?: boolean;
  /** Every sign-in is sent on to there. */
  readonly route?: { readonly host: string; readonly port: number; readonly database?: string };
  /** A mirroring partner to tell of. */
  readonly partner?: string;
  readonly form?: FlightForm;
  readonly wrappedTlsMax?: 'TLSv1.2' | 'TLSv1.3';
  /** NTLM without channel binding is refused. */
  readonly extendedProtection?: boolean;
  /** Acknowledge FEDAUTH and UTF8 even to those who did not ask. */
  readonly acknowledgeUnasked?: boolean;
  /** Answer every LOGIN7 with this error. */
  readonly loginError?: { readonly number: number; readonly text: string };
  /** FEDAUTHREQUIRED in the PRELOGIN answer, for a client that sent it. */
  readonly fedAuthRequired?: number;
}

/** What a LOGIN7 said, decoded. */
export interface DoubleLogin {
  readonly bytes: Buffer;
  readonly tdsVersion: number;
  readonly packetBytes: number;
  readonly host: string;
  readonly user: string;
  readonly password: string;
  readonly app: string;
  readonly server: string;
  readonly library: string;
  readonly language: string;
  readonly database: string;
  readonly attachFile: string;
  readonly changePassword: string;
  readonly sspi: Buffer;
  readonly flags: readonly [number, number, number, number];
  readonly features: readonly { id: number; data: Buffer }[];
}

export interface DoubleSession {
  readonly reader: StreamReader;
  readonly login: DoubleLogin;
  readonly database: string;
  readonly packetBytes: number;
  readonly spid: number;
  readonly mars: boolean;
  /** How LOGIN7 came. */
  readonly protection: 'clear' | 'login-only' | 'full' | 'strict';
  readonly serverName: string | null;
  readonly authentication: string;
}

/** What happened on a connection, sign-ins that failed included. */
export interface DoubleEvents {
  prelogin?(payload: Buffer): void;
  /** Host name of SNI, where TLS was done. */
  tls?(info: { serverName: string | null; version: string | null; alpn: string | null }): void;
  login?(login: DoubleLogin, protection: DoubleSession['protection']): void;
}

let nextSpid = 51;

/** Plays the server's part up to the end of the login response. Null when the client left or was refused. */
export async function acceptLogin(
  stream: Duplex,
  options: DoubleOptions,
  events: DoubleEvents,
): Promise<DoubleSession | null> {
  const raw = new StreamReader(stream);
  let reader = raw;
  let protection: DoubleSession['protection'] = 'clear';
  const first = await raw.peek(1);
  if (first === null) return null;
  let serverName: string | null = null;
  let finished: Buffer | null = null;
  if (first[0] === 0x16) {
    if (options.certificate === undefined) return drop(stream);
    const secured = await strictTls(raw, options.certificate);
    protection = 'strict';
    serverName = nameOf(secured.servername);
    finished = secured.getPeerFinished() ?? null;
    events.tls?.({ serverName, version: secured.getProtocol(), alpn: secured.alpnProtocol || null });
  } else if (options.encryption === 'strict') {
    return drop(stream);
  }
  let wrapped: WrappedTls | null = null;
  let mars = false;
  if ((await reader.peek(1))?.[0] === 0x12) {
    const prelogin = await reader.message();
    if (prelogin === null) return null;
    events.prelogin?.(prelogin.payload);
    const asked = preloginOptions(prelogin.payload);
    const encryption = answerTo((asked.get(1)?.[0] ?? 2) & 0x1f, options, protection);
    mars = (options.mars ?? false) && asked.get(4)?.[0] === 1;
    const answer = preloginAnswer(options, encryption, mars, asked.has(6));
    reader.stream.write(packets(0x04, answer, 4096, 0));
    if (protection === 'clear' && (encryption === 1 || encryption === 3 || encryption === 0)) {
      wrapped = await wrappedTls(raw, options.certificate!, {
        ...(options.form ? { form: options.form } : {}),
        ...(options.wrappedTlsMax ? { maxVersion: options.wrappedTlsMax } : {}),
      });
      protection = encryption === 0 ? 'login-only' : 'full';
      serverName = nameOf(wrapped.secured.servername);
      finished = wrapped.secured.getPeerFinished() ?? null;
      events.tls?.({ serverName, version: wrapped.secured.getProtocol(), alpn: null });
      reader = new StreamReader(wrapped.secured);
    }
  } else if (options.encryption === 'required') {
    return drop(stream);
  }
  if (wrapped !== null && protection === 'full') void pumpAll(wrapped);
  const payload =
    wrapped !== null && protection === 'login-only'
      ? await readLoginOnly(raw, reader, wrapped)
      : ((await reader.message())?.payload ?? null);
  if (payload === null) return null;
  if (protection === 'login-only') reader = raw;
  const login = parseLogin(payload);
  events.login?.(login, protection);
  return authenticate({ reader, login, options, mars, protection, serverName, finished });
}

async function pumpAll(wrapped: WrappedTls): Promise<void> {
  while (await wrapped.pumpRecord());
  wrapped.end();
}

/** Login-only encryption: the first packet of LOGIN7 is inside TLS, the others are not. */
async function readLoginOnly(
  raw: StreamReader,
  inner: StreamReader,
  wrapped: WrappedTls,
): Promise<Buffer | null> {
  let first: { header: Buffer; payload: Buffer } | null = null;
  void inner.packet().then((packet) => {
    first = packet;
  });
  while (first === null) {
    if (!(await wrapped.pumpRecord())) return null;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  let packet: { header: Buffer; payload: Buffer } = first;
  const payloads = [packet.payload];
  while (!(packet.header[1]! & 1)) {
    const next = await raw.packet();
    if (next === null) return null;
    payloads.push(next.payload);
    packet = next;
  }
  return Buffer.concat(payloads);
}

function drop(stream: Duplex): null {
  stream.destroy();
  return null;
}

function nameOf(name: string | false | null | undefined): string | null {
  return name || null;
}

/** PRELOGIN's table as token to data. */
export function preloginOptions(payload: Buffer): Map<number, Buffer> {
  const options = new Map<number, Buffer>();
  for (let at = 0; payload[at] !== 0xff && at + 5 <= payload.length; at += 5) {
    const offset = payload.readUInt16BE(at + 1);
    options.set(payload[at]!, payload.subarray(offset, offset + payload.readUInt16BE(at + 3)));
  }
  return options;
}

/** The server's row of the encryption table. */
function answerTo(asked: number, options: DoubleOptions, protection: string): number {
  if (protection === 'strict') return 2;
  if (options.encryption === 'off' || options.certificate === undefined) return 2;
  if (asked === 1 || asked === 3) return 1;
  if (options.encryption === 'required') return 3;
  return asked === 0 ? 0 : 2;
}

function preloginAnswer(options: DoubleOptions, encryption: number, mars: boolean, fedAuth: boolean): Buffer {
  const [major, minor, build] = options.version ?? [16, 0, 1000];
  const entries: [number, Buffer][] = [
    [0, Buffer.from([major, minor, build >> 8, build & 0xff, 0, 0])],
    [1, Buffer.from([encryption])],
    [2, Buffer.from([0])],
    [3, Buffer.alloc(0)],
    [4, Buffer.from([mars ? 1 : 0])],
  ];
  if (fedAuth && options.fedAuthRequired !== undefined)
    entries.push([6, Buffer.from([options.fedAuthRequired])]);
  let offset = entries.length * 5 + 1;
  const table: Buffer[] = [];
  for (const [token, data] of entries) {
    table.push(Buffer.from([token, offset >> 8, offset & 0xff, 0, data.length]));
    offset += data.length;
  }
  return Buffer.concat([...table, Buffer.from([0xff]), ...entries.map(([, data]) => data)]);
}

function parseLogin(payload: Buffer): DoubleLogin {
  const text = (at: number): string => {
    const offset = payload.readUInt16LE(at);
    return payload.toString('utf16le', offset, offset + payload.readUInt16LE(at + 2) * 2);
  };
  const long = payload.readUInt16LE(36) !== 86;
  const passwordAt = payload.readUInt16LE(44);
  const hidden = payload.subarray(passwordAt, passwordAt + payload.readUInt16LE(46) * 2);
  const clear = Buffer.from(hidden.map((byte) => (((byte ^ 0xa5) << 4) | ((byte ^ 0xa5) >> 4)) & 0xff));
  const sspiAt = payload.readUInt16LE(78);
  const features: { id: number; data: Buffer }[] = [];
  if (payload[27]! & 0x10) {
    let at = payload.readUInt32LE(payload.readUInt16LE(56));
    while (payload[at] !== 0xff) {
      const length = payload.readUInt32LE(at + 1);
      features.push({ id: payload[at]!, data: payload.subarray(at + 5, at + 5 + length) });
      at += 5 + length;
    }
  }
  return {
    bytes: Buffer.from(payload),
    tdsVersion: payload.readUInt32LE(4),
    packetBytes: payload.readUInt32LE(8),
    host: text(36),
    user: text(40),
    password: clear.toString('utf16le'),
    app: text(48),
    server: text(52),
    library: text(60),
    language: text(64),
    database: text(68),
    attachFile: text(82),
    changePassword: long ? text(86) : '',
    sspi: Buffer.from(payload.subarray(sspiAt, sspiAt + payload.readUInt16LE(80))),
    flags: [payload[24]!, payload[25]!, payload[26]!, payload[27]!],
    features,
  };
}

interface Attempt {
  readonly reader: StreamReader;
  readonly login: DoubleLogin;
  readonly options: DoubleOptions;
  readonly mars: boolean;
  readonly protection: DoubleSession['protection'];
  readonly serverName: string | null;
  readonly finished: Buffer | null;
}

async function authenticate(attempt: Attempt): Promise<DoubleSession | null> {
  const { reader, login, options } = attempt;
  const spid = nextSpid++;
  const tdsVersion = lowerVersion(login.tdsVersion, options.tdsVersion ?? 0x74000004);
  const old = tdsVersion >>> 24 <= 0x71;
  const refuse = (number: number, text: string): null => {
    const extra = number === 4060 ? errorToken(18456, 'Login failed for user.', old) : Buffer.alloc(0);
    const payload = Buffer.concat([errorToken(number, text, old), extra, doneToken(2, old)]);
    reader.stream.write(packets(0x04, payload, 4096, spid));
    reader.stream.end();
    return null;
  };
  if (options.loginError) return refuse(options.loginError.number, options.loginError.text);
  const how = await identify(attempt, spid);
  if (typeof how !== 'string') return refuse(18456, how.refused);
  const databases = options.databases ?? ['master', 'testdb'];
  const database = login.database === '' ? databases[0]! : login.database;
  if (!databases.includes(database)) {
    return refuse(4060, `Cannot open database "${database}" requested by the login. The login failed.`);
  }
  const packetBytes = login.packetBytes === 0 ? 4096 : Math.min(32767, Math.max(512, login.packetBytes));
  const payload = loginAnswer(attempt, tdsVersion, database, packetBytes);
  reader.stream.write(packets(0x04, payload, Math.min(4096, packetBytes), spid));
  const { mars, protection, serverName } = attempt;
  return { reader, login, database, packetBytes, spid, mars, protection, serverName, authentication: how };
}

const VERSIONS = [0x70, 0x71, 0x72, 0x73, 0x74];

function lowerVersion(asked: number, most: number): number {
  const rank = (version: number): number => (version >>> 24 === 0x08 ? 9 : VERSIONS.indexOf(version >>> 24));
  return rank(asked) <= rank(most) ? asked : most;
}

async function identify(attempt: Attempt, spid: number): Promise<string | { refused: string }> {
  const { login, options } = attempt;
  const fedAuth = login.features.find(({ id }) => id === 2);
  if (fedAuth !== undefined) {
    const token = fedAuth.data.toString('utf16le', 5, 5 + fedAuth.data.readUInt32LE(1));
    if (options.tokens?.includes(token)) return 'token';
    return { refused: 'Login failed for user <token-identified principal>.' };
  }
  if (login.flags[1] & 0x80) return ntlm(attempt, spid);
  if (options.logins?.[login.user] === login.password && login.user !== '') return 'sql';
  return { refused: `Login failed for user '${login.user}'.` };
}

const SIGNATURE = Buffer.from('NTLMSSP\0', 'latin1');

/** NTLMv2, checked with its message integrity code and channel binding. */
async function ntlm(attempt: Attempt, spid: number): Promise<string | { refused: string }> {
  const { reader, login, options, finished } = attempt;
  const refused = { refused: 'Login failed. The login is from an untrusted domain.' };
  if (!login.sspi.subarray(0, 8).equals(SIGNATURE) || login.sspi.readUInt32LE(8) !== 1) return refused;
  const serverChallenge = randomBytes(8);
  const challenge = challengeMessage(serverChallenge);
  const token = Buffer.concat([Buffer.from([0xed]), u16(challenge.length), challenge]);
  reader.stream.write(packets(0x04, token, 4096, spid));
  const answer = await reader.message();
  if (answer === null || answer.type !== 0x11) return refused;
  const message = answer.payload;
  const field = (at: number): Buffer => {
    const offset = message.readUInt32LE(at + 4);
    return message.subarray(offset, offset + message.readUInt16LE(at));
  };
  const response = field(20);
  const domain = field(28).toString('utf16le');
  const user = field(36).toString('utf16le');
  const password = options.accounts?.[`${domain}\\${user}`];
  if (password === undefined) return refused;
  const hmac = (key: Buffer, ...parts: Buffer[]): Buffer => {
    const digest = createHmac('md5', key);
    for (const part of parts) digest.update(part);
    return digest.digest();
  };
  const key = hmac(md4(utf16(password)), utf16(user.toUpperCase() + domain));
  const proof = hmac(key, serverChallenge, response.subarray(16));
  if (!proof.equals(response.subarray(0, 16))) return refused;
  const withoutCode = Buffer.from(message);
  withoutCode.fill(0, 72, 88);
  const code = hmac(hmac(key, proof), login.sspi, challenge, withoutCode);
  if (!code.equals(message.subarray(72, 88))) return refused;
  if (options.extendedProtection && !bindingMatches(response.subarray(44), finished)) return refused;
  return `ntlm ${domain}\\${user}`;
}

function challengeMessage(serverChallenge: Buffer): Buffer {
  const name = utf16('DOUBLE');
  const pair = (id: number, value: Buffer): Buffer => Buffer.concat([u16(id), u16(value.length), value]);
  const time = Buffer.alloc(8);
  time.writeBigUInt64LE((BigInt(Date.now()) + 11_644_473_600_000n) * 10_000n);
  const info = Buffer.concat([pair(2, name), pair(1, name), pair(7, time), pair(0, Buffer.alloc(0))]);
  const fixed = 56;
  return Buffer.concat([
    SIGNATURE,
    u32(2),
    u16(name.length),
    u16(name.length),
    u32(fixed),
    u32(0xe28a8215),
    serverChallenge,
    Buffer.alloc(8),
    u16(info.length),
    u16(info.length),
    u32(fixed + name.length),
    Buffer.from([10, 0, 0, 0, 0, 0, 0, 15]),
    name,
    info,
  ]);
}

function bindingMatches(pairs: Buffer, finished: Buffer | null): boolean {
  if (finished === null) return false;
  const data = Buffer.concat([Buffer.from('tls-unique:'), finished]);
  const wanted = createHash('md5')
    .update(Buffer.concat([Buffer.alloc(16), u32(data.length), data]))
    .digest();
  for (let at = 0; at + 4 <= pairs.length; at += 4 + pairs.readUInt16LE(at + 2)) {
    if (pairs.readUInt16LE(at) === 10) return pairs.subarray(at + 4, at + 20).equals(wanted);
    if (pairs.readUInt16LE(at) === 0) break;
  }
  return false;
}

/** In the order of a real server: database, collation, language, LOGINACK, packet size, features, DONE. */
function loginAnswer(attempt: Attempt, tdsVersion: number, database: string, packetBytes: number): Buffer {
  const { login, options } = attempt;
  const old = tdsVersion >>> 24 <= 0x71 && tdsVersion >>> 24 !== 0x08;
  const change = (type: number, value: string, former: string): Buffer =>
    sized(0xe3, Buffer.concat([Buffer.from([type]), shortText(value), shortText(former)]));
  const version = Buffer.alloc(4);
  version.writeUInt32BE(tdsVersion >>> 0);
  const [major, minor, build] = options.version ?? [16, 0, 1000];
  const program = 'Microsoft SQL Server\0\0';
  const tokens = [
    change(1, database, 'master'),
    infoToken(5701, `Changed database context to '${database}'.`, old),
    sized(0xe3, Buffer.from([7, 5, 0x09, 0x04, 0xd0, 0x00, 0x34, 0])),
    change(2, 'us_english', ''),
    infoToken(5703, 'Changed language setting to us_english.', old),
    sized(
      0xad,
      Buffer.concat([
        Buffer.from([1]),
        version,
        shortText(program),
        Buffer.from([major, minor, build >> 8, build & 0xff]),
      ]),
    ),
    change(4, String(packetBytes), '4096'),
  ];
  if (options.partner !== undefined) tokens.push(change(13, options.partner, ''));
  tokens.push(...featureAcknowledgements(login, options));
  if (options.route !== undefined) tokens.push(routingToken(options.route));
  tokens.push(doneToken(0, old));
  return Buffer.concat(tokens);
}

function featureAcknowledgements(login: DoubleLogin, options: DoubleOptions): Buffer[] {
  const parts: Buffer[] = [];
  const acknowledge = (id: number, data: Buffer): void => {
    parts.push(Buffer.from([id]), u32(data.length), data);
  };
  for (const { id } of login.features) {
    if (id === 2) acknowledge(2, Buffer.alloc(0));
    if (id === 4) acknowledge(4, Buffer.from([1]));
    if (id === 9) acknowledge(9, Buffer.from([2, 1]));
    if (id === 10) acknowledge(10, Buffer.from([1]));
    if (id === 1) acknowledge(1, Buffer.alloc(0));
  }
  if (options.acknowledgeUnasked && parts.length === 0) {
    acknowledge(2, Buffer.alloc(0));
    acknowledge(10, Buffer.from([1]));
  }
  return parts.length === 0 ? [] : [Buffer.concat([Buffer.from([0xae]), ...parts, Buffer.from([0xff])])];
}

function routingToken(route: { host: string; port: number; database?: string }): Buffer {
  const data = Buffer.concat([
    Buffer.from([0]),
    u16(route.port),
    longText(route.host),
    ...(route.database === undefined ? [] : [longText(route.database)]),
  ]);
  const type = route.database === undefined ? 20 : 21;
  return sized(0xe3, Buffer.concat([Buffer.from([type]), u16(data.length), data, u16(0)]));
}

/** A token with a two-byte length. */
export function sized(type: number, body: Buffer): Buffer {
  return Buffer.concat([Buffer.from([type]), u16(body.length), body]);
}

export interface MessageFields {
  readonly number: number;
  readonly state: number;
  readonly class: number;
  readonly text: string;
  readonly procedure: string;
  readonly line: number;
}

/** ERROR (0xAA) or INFO (0xAB). */
export function messageToken(type: 0xaa | 0xab, fields: MessageFields, old: boolean): Buffer {
  return sized(
    type,
    Buffer.concat([
      u32(fields.number),
      Buffer.from([fields.state, fields.class]),
      longText(fields.text),
      shortText('DOUBLE'),
      shortText(fields.procedure),
      old ? u16(fields.line) : u32(fields.line),
    ]),
  );
}

function errorToken(number: number, text: string, old: boolean): Buffer {
  return messageToken(
    0xaa,
    { number, state: 1, class: number === 4060 ? 11 : 14, text, procedure: '', line: 1 },
    old,
  );
}

function infoToken(number: number, text: string, old: boolean): Buffer {
  return messageToken(0xab, { number, state: 2, class: 0, text, procedure: '', line: 1 }, old);
}

function doneToken(status: number, old: boolean): Buffer {
  return Buffer.concat([Buffer.from([0xfd]), u16(status), u16(0), Buffer.alloc(old ? 4 : 8)]);
}
