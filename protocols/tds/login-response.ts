import { lastingCopy, Reader, Writer } from '../bytes.ts';
import { ProtocolError } from '../error.ts';
import type { ServerError } from './errors.ts';
import { Feature } from './features.ts';
import { versionText } from './prelogin.ts';
import { type SessionFeatures, type TdsVersion, versionAtLeast, versionOf } from './session.ts';

/**
 * The server's answer to LOGIN7 (MS-TDS 2.2.7): read whole, because some of it must not reach the client (where it is
 * sent on to, its mirroring partner) and some must be as the client asked (acknowledged features).
 */

const Token = {
  returnStatus: 0x79,
  order: 0xa9,
  error: 0xaa,
  info: 0xab,
  loginAck: 0xad,
  featureExtAck: 0xae,
  envChange: 0xe3,
  sessionState: 0xe4,
  sspi: 0xed,
  fedAuthInfo: 0xee,
  done: 0xfd,
  doneProc: 0xfe,
  doneInProc: 0xff,
} as const;

/** Types of ENVCHANGE (MS-TDS 2.2.7.9). */
const Change = {
  database: 1,
  packetSize: 4,
  collation: 7,
  beginTransaction: 8,
  mirrorPartner: 13,
  promoteTransaction: 15,
  userInstance: 19,
  routing: 20,
  enhancedRouting: 21,
} as const;

/** Old and new value as B_VARCHAR. All others up to 18 have B_VARBYTE. */
const TEXT_CHANGES: readonly number[] = [1, 2, 3, 4, 5, 6, Change.mirrorPartner, Change.userInstance];
const KNOWN_CHANGES_MAX = Change.enhancedRouting;

const DONE_MORE = 0x0001;
const DONE_ERROR = 0x0002;

export interface Routing {
  readonly host: string;
  readonly port: number;
  /** Null where the server did not say. */
  readonly database: string | null;
}

export interface LoginAcknowledgement {
  readonly version: TdsVersion;
  readonly program: string;
  /** `16.0.1000` */
  readonly serverVersion: string;
}

interface FeatureAcknowledgement {
  readonly id: number;
  readonly data: Buffer;
}

/** Collects the messages of one answer. */
export class LoginResponse {
  acknowledgement: LoginAcknowledgement | null = null;
  readonly errors: ServerError[] = [];
  routing: Routing | null = null;
  /** An SSPI token that waits for our answer. */
  sspi: Buffer | null = null;
  /** The server wants to tell where a token is to be had, which nobody asked. */
  fedAuthInfo = false;
  /** The final DONE has come. */
  done = false;
  doneError = false;
  database: string | null = null;
  collation: Buffer | null = null;
  packetBytes: number | null = null;
  inTransaction = false;
  readonly #asked: TdsVersion;
  /** Tokens for the client, in order; features apart. */
  readonly #tokens: Buffer[] = [];
  #features: FeatureAcknowledgement[] | null = null;
  /** Where FEATUREEXTACK stood among the tokens. */
  #featuresAt: number | null = null;

  /** `asked` is the version that LOGIN7 named: token widths follow from it until LOGINACK says otherwise. */
  constructor(asked: TdsVersion) {
    this.#asked = asked;
  }

  /** Whether the server acknowledged that feature. */
  acknowledged(id: number): boolean {
    return this.#features?.some((feature) => feature.id === id) ?? false;
  }

  /** What later tokens depend on, of the features that `requested` names. */
  sessionFeatures(requested: readonly number[]): SessionFeatures {
    const features = (this.#features ?? []).filter(({ id }) => requested.includes(id));
    const classification = features.find(({ id }) => id === Feature.dataClassification)?.data;
    const version = classification !== undefined && classification[1] === 1 ? classification[0]! : 0;
    return {
      columnEncryption: features.some(({ id, data }) => id === Feature.columnEncryption && data[0] !== 0),
      dataClassification: version === 1 || version === 2 ? version : 0,
    };
  }

  /**
   * The payload for the client. `requested` are the features that it asked for and that were passed on: an
   * acknowledgement of anything else ends its connection. `fedAuth`: it showed a token, and waits to hear that it was
   * taken.
   */
  forClient(requested: readonly number[], fedAuth: boolean): Buffer {
    const features = (this.#features ?? []).filter(({ id }) => requested.includes(id));
    if (fedAuth) features.unshift({ id: Feature.fedAuth, data: Buffer.alloc(0) });
    if (features.length === 0) return Buffer.concat(this.#tokens);
    const writer = new Writer().uint8(Token.featureExtAck);
    for (const { id, data } of features) writer.uint8(id).uint32le(data.length).append(data);
    const token = writer.uint8(0xff).take();
    const at = this.#featuresAt ?? this.#tokens.length - 1;
    return Buffer.concat([...this.#tokens.slice(0, at), token, ...this.#tokens.slice(at)]);
  }

  /** Reads one message's payload. Throws `malformed` or `unknown_message` for what cannot be delimited. */
  add(payload: Buffer): void {
    const reader = new Reader(payload, 'server');
    this.sspi = null;
    while (reader.remaining > 0) {
      const start = reader.position;
      const keep = this.#token(reader, reader.uint8('token'));
      if (keep) this.#tokens.push(payload.subarray(start, reader.position));
    }
  }

  /** Reads one token behind its type byte; true when it goes to the client as it is. */
  #token(reader: Reader, type: number): boolean {
    switch (type) {
      case Token.loginAck:
        this.#loginAck(body(reader, 'LOGINACK'));
        return true;
      case Token.error:
        this.#error(body(reader, 'ERROR'));
        return true;
      case Token.info:
      case Token.order:
        body(reader, 'token');
        return true;
      case Token.envChange:
        this.#envChange(body(reader, 'ENVCHANGE'));
        return false;
      case Token.featureExtAck:
        this.#featureExtAck(reader);
        return false;
      case Token.sspi:
        this.sspi = Buffer.from(reader.slice(reader.uint16le('SSPI length'), 'SSPI'));
        return false;
      case Token.fedAuthInfo:
        this.fedAuthInfo = true;
        reader.skip(reader.uint32le('FEDAUTHINFO length'), 'FEDAUTHINFO');
        return false;
      case Token.sessionState:
        reader.skip(reader.uint32le('SESSIONSTATE length'), 'SESSIONSTATE');
        return false;
      case Token.returnStatus:
        reader.skip(4, 'RETURNSTATUS');
        return true;
      case Token.done:
      case Token.doneProc:
      case Token.doneInProc:
        this.#doneToken(reader);
        return true;
      default:
        throw new ProtocolError(
          'unknown_message',
          'server',
          `the login response has an unknown token 0x${type.toString(16)}`,
        );
    }
  }

  #loginAck(reader: Reader): void {
    reader.skip(1, 'LOGINACK interface');
    const field = reader.uint32be('LOGINACK version');
    const version = versionOf(field);
    if (version === null) {
      throw new ProtocolError('unsupported', 'server', `the server speaks TDS 0x${field.toString(16)}`);
    }
    const program = shortText(reader, 'LOGINACK program');
    const serverVersion = versionText(reader.slice(4, 'LOGINACK program version'));
    this.acknowledgement = { version, program: program.replaceAll('\0', ''), serverVersion };
  }

  #error(reader: Reader): void {
    const number = reader.uint32le('ERROR number');
    this.errors.push({ number, state: reader.uint8('ERROR state'), class: reader.uint8('ERROR class') });
  }

  #doneToken(reader: Reader): void {
    const status = reader.uint16le('DONE status');
    const version = this.acknowledgement?.version ?? this.#asked;
    // An old server that refuses a new client answers in its own widths.
    const isOld = this.acknowledgement === null && reader.remaining === 6;
    const long = versionAtLeast(version, '7.2') && !isOld;
    reader.skip(long ? 10 : 6, 'DONE');
    if (status & DONE_ERROR) this.doneError = true;
    if (!(status & DONE_MORE)) this.done = true;
  }

  #featureExtAck(reader: Reader): void {
    const features = this.#features ?? [];
    for (let id = reader.uint8('feature'); id !== 0xff; id = reader.uint8('feature')) {
      const length = reader.uint32le('feature length');
      features.push({ id, data: Buffer.from(reader.slice(length, 'feature')) });
    }
    this.#features = features;
    this.#featuresAt ??= this.#tokens.length;
  }

  /** One token may carry several changes; those for the client are put into a token again. */
  #envChange(reader: Reader): void {
    const kept: Buffer[] = [];
    while (reader.remaining > 0) {
      const start = reader.position;
      const type = reader.uint8('ENVCHANGE type');
      if (this.#change(reader, type)) kept.push(reader.bytes.subarray(start, reader.position));
    }
    if (kept.length === 0) return;
    const changes = Buffer.concat(kept);
    this.#tokens.push(new Writer().uint8(Token.envChange).uint16le(changes.length).append(changes).take());
  }

  #change(reader: Reader, type: number): boolean {
    if (type > KNOWN_CHANGES_MAX) {
      reader.rest();
      return true;
    }
    if (type === Change.routing || type === Change.enhancedRouting) {
      this.#route(reader, type);
      return false;
    }
    if (type === Change.promoteTransaction) {
      reader.skip(reader.uint32le('ENVCHANGE length'), 'ENVCHANGE value');
      reader.skip(1, 'ENVCHANGE old value');
      return true;
    }
    const width = TEXT_CHANGES.includes(type) ? 2 : 1;
    const value = reader.slice(reader.uint8('ENVCHANGE length') * width, 'ENVCHANGE value');
    reader.skip(reader.uint8('ENVCHANGE length') * width, 'ENVCHANGE old value');
    if (type === Change.database) this.database = value.toString('utf16le');
    else if (type === Change.collation && value.length === 5) this.collation = lastingCopy(value);
    else if (type === Change.beginTransaction) this.inTransaction = true;
    else if (type === Change.packetSize) this.packetBytes = Number.parseInt(value.toString('utf16le'), 10);
    return type !== Change.mirrorPartner && type !== Change.userInstance;
  }

  #route(reader: Reader, type: number): void {
    const length = reader.uint16le('routing length');
    const data = new Reader(reader.slice(length, 'routing'), 'server');
    if (data.uint8('routing protocol') !== 0) {
      throw new ProtocolError('unsupported', 'server', 'the server routes over something that is not TCP');
    }
    const port = data.uint16le('routing port');
    const host = longText(data, 'routing host');
    const database = type === Change.enhancedRouting ? longText(data, 'routing database') : null;
    reader.skip(Math.min(2, reader.remaining), 'routing old value');
    this.routing = { host, port, database };
  }
}

/** A reader of the body behind a two-byte length. */
function body(reader: Reader, field: string): Reader {
  const length = reader.uint16le(`${field} length`);
  return new Reader(reader.slice(length, field), 'server');
}

function shortText(reader: Reader, field: string): string {
  return reader.slice(reader.uint8(`${field} length`) * 2, field).toString('utf16le');
}

function longText(reader: Reader, field: string): string {
  return reader.slice(reader.uint16le(`${field} length`) * 2, field).toString('utf16le');
}
