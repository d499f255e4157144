import { Writer } from '../bytes.ts';
import { ProtocolError } from '../error.ts';
import { buildFeatures, type FeatureRequest, parseFeatures } from './features.ts';
import { LOGIN7_NAME_UNITS_MAX } from './limits.ts';
import { type TdsVersion, versionAtLeast, versionOf } from './session.ts';

/**
 * LOGIN7 (MS-TDS 2.2.6.4): 36 bytes of numbers, pairs of offset and length (in UTF-16 units), and the text they point
 * to. Little-endian. Up to TDS 7.1 the fixed part is 86 bytes, from 7.2 it is 94.
 *
 * A client's LOGIN7 goes to the server with everything it asks for but who it is: the numbers are kept as they are and
 * the text is laid out again, in the order of the table, because what replaces the identity has other lengths.
 */
export interface Login7 {
  readonly version: TdsVersion;
  readonly packetBytes: number;
  /** Client program version, process id, flags, time zone and locale as they are: the first 36 bytes, a view. */
  readonly head: Buffer;
  /** All text is UTF-16LE, views into the payload. */
  readonly hostName: Buffer;
  readonly userName: Buffer;
  /** As it was sent: obfuscated, which is no protection. */
  readonly password: Buffer;
  /** Offset behind the password's last byte. */
  readonly passwordEnd: number;
  readonly programName: Buffer;
  readonly serverName: Buffer;
  readonly libraryName: Buffer;
  readonly language: Buffer;
  readonly database: Buffer;
  /** Six bytes: a network card's address by custom. */
  readonly clientId: Buffer;
  readonly attachFile: Buffer;
  readonly integrated: boolean;
  readonly passwordChange: boolean;
  readonly userInstance: boolean;
  readonly userType: number;
  readonly readOnlyIntent: boolean;
  /** In the client's order; null where it sent no FeatureExt. */
  readonly features: readonly FeatureRequest[] | null;
}

/** Offsets in the fixed part. */
const At = {
  length: 0,
  version: 4,
  packetBytes: 8,
  connectionId: 20,
  optionFlags1: 24,
  optionFlags2: 25,
  typeFlags: 26,
  optionFlags3: 27,
  hostName: 36,
  userName: 40,
  password: 44,
  programName: 48,
  serverName: 52,
  extension: 56,
  libraryName: 60,
  language: 64,
  database: 68,
  clientId: 72,
  sspi: 78,
  attachFile: 82,
  changePassword: 86,
  sspiLong: 90,
} as const;

const HEAD_BYTES = 36;
const FIXED_BYTES_OLD = 86;
const FIXED_BYTES = 94;
/** Characters of a file name (MS-TDS 2.2.6.4). */
const FILE_NAME_UNITS_MAX = 260;

const FLAG1_BIG_ENDIAN = 0x01;
const FLAG1_EBCDIC = 0x02;
const FLAG2_INTEGRATED = 0x80;
const TYPE_READ_ONLY_INTENT = 0x20;
const FLAG3_CHANGE_PASSWORD = 0x01;
const FLAG3_USER_INSTANCE = 0x04;
const FLAG3_EXTENSION = 0x10;

export const USER_TYPE_REPLICATION = 3;

/** The version that a LOGIN7 payload names, from its first eight bytes; null for none that is spoken here. */
export function loginVersion(payload: Buffer): TdsVersion | null {
  return payload.length < 8 ? null : versionOf(payload.readUInt32LE(At.version));
}

/**
 * Reads a whole LOGIN7 payload. Drivers fill unused pairs with anything: text that lies outside the payload reads as
 * empty, too long names are cut. Throws `malformed` for a payload shorter than its fixed part, a FeatureExt that runs
 * past its end, and byte orders that no driver uses any more; `unsupported` for a version before 7.0.
 */
export function parseLogin7(payload: Buffer): Login7 {
  const version = loginVersion(payload);
  if (payload.length < FIXED_BYTES_OLD) throw malformed(`LOGIN7 has ${payload.length} bytes`);
  if (version === null) {
    const field = payload.readUInt32LE(At.version).toString(16);
    throw new ProtocolError('unsupported', 'client', `TDS version 0x${field} is not spoken here`);
  }
  const long = versionAtLeast(version, '7.2');
  if (long && payload.length < FIXED_BYTES) throw malformed(`LOGIN7 has ${payload.length} bytes`);
  const flags1 = payload[At.optionFlags1]!;
  if (flags1 & (FLAG1_BIG_ENDIAN | FLAG1_EBCDIC)) {
    throw new ProtocolError('unsupported', 'client', 'big-endian and EBCDIC clients are not served');
  }
  const flags3 = payload[At.optionFlags3]!;
  const password = text(payload, At.password, 0xffff);
  const name = (at: number): Buffer => apart(text(payload, at, LOGIN7_NAME_UNITS_MAX), password);
  // tedious sets the flag in TDS 7.3 as well, where it has nothing to point to.
  const hasExtension = long && (flags3 & FLAG3_EXTENSION) !== 0 && payload.readUInt16LE(At.extension + 2) > 0;
  return {
    version,
    packetBytes: payload.readUInt32LE(At.packetBytes),
    head: payload.subarray(0, HEAD_BYTES),
    hostName: hostName(payload, name(At.hostName)),
    userName: name(At.userName),
    password,
    passwordEnd: password.length === 0 ? 0 : payload.readUInt16LE(At.password) + password.length,
    programName: name(At.programName),
    serverName: name(At.serverName),
    libraryName: name(At.libraryName),
    language: name(At.language),
    database: name(At.database),
    clientId: payload.subarray(At.clientId, At.clientId + 6),
    attachFile: apart(text(payload, At.attachFile, FILE_NAME_UNITS_MAX), password),
    integrated: (payload[At.optionFlags2]! & FLAG2_INTEGRATED) !== 0,
    passwordChange:
      (flags3 & FLAG3_CHANGE_PASSWORD) !== 0 ||
      (long && payload.readUInt16LE(At.changePassword + 2) > 0 && changesPassword(payload)),
    userInstance: (flags3 & FLAG3_USER_INSTANCE) !== 0,
    userType: (payload[At.optionFlags2]! >> 4) & 0x07,
    readOnlyIntent: (payload[At.typeFlags]! & TYPE_READ_ONLY_INTENT) !== 0,
    features: hasExtension ? parseExtension(payload) : null,
  };
}

/** What takes the place of the client's identity, and what of the rest must differ toward the server. */
export interface Login7Replacement {
  readonly version: TdsVersion;
  readonly packetBytes: number;
  /** What the server is called: Azure finds the logical server by it. */
  readonly serverName: string;
  readonly database: string;
  /** UTF-16LE. Empty for a sign-in by SSPI or token. */
  readonly userName: Buffer;
  /** UTF-16LE in the clear; it is obfuscated here. */
  readonly password: Buffer;
  readonly sspi: Buffer;
  /** Null for no FeatureExt. */
  readonly features: readonly FeatureRequest[] | null;
}

/** Lays a client's LOGIN7 out again with another identity. The payload holds the password: wipe it after use. */
export function buildLogin7(login: Login7, replacement: Login7Replacement): Buffer {
  const { version, features } = replacement;
  const long = versionAtLeast(version, '7.2');
  const withFeatures = long && features !== null;
  // Room for all of it: a writer that grows leaves a copy of the password behind.
  const writer = new Writer(capacityFor(login, replacement));
  writer.append(login.head);
  const pairs = writer.reserve((long ? FIXED_BYTES : FIXED_BYTES_OLD) - HEAD_BYTES);
  const put = (at: number, bytes: Buffer, unit: 1 | 2): void => {
    writer.patchUint16le(at, writer.length);
    writer.patchUint16le(at + 2, bytes.length / unit);
    writer.append(bytes);
  };
  put(At.hostName, login.hostName, 2);
  put(At.userName, replacement.userName, 2);
  const scrambled = scramble(replacement.password);
  put(At.password, scrambled, 2);
  scrambled.fill(0);
  put(At.programName, login.programName, 2);
  put(At.serverName, utf16(replacement.serverName), 2);
  let extension = 0;
  if (withFeatures) {
    extension = writer.length;
    put(At.extension, Buffer.alloc(4), 1);
  } else {
    put(At.extension, Buffer.alloc(0), 1);
  }
  put(At.libraryName, login.libraryName, 2);
  put(At.language, login.language, 2);
  put(At.database, utf16(replacement.database), 2);
  const sspi = replacement.sspi;
  put(At.sspi, sspi, 1);
  put(At.attachFile, Buffer.alloc(0), 2);
  if (long) put(At.changePassword, Buffer.alloc(0), 2);
  if (withFeatures) {
    writer.patchUint32le(extension, writer.length);
    const block = buildFeatures(features);
    writer.append(block);
    block.fill(0);
  }
  const payload = writer.take();
  login.clientId.copy(payload, At.clientId);
  patchHead(payload, login, replacement, withFeatures);
  if (pairs !== HEAD_BYTES) throw new Error('the fixed part of LOGIN7 begins elsewhere');
  return payload;
}

function capacityFor(login: Login7, replacement: Login7Replacement): number {
  const kept = [login.hostName, login.programName, login.libraryName, login.language];
  const given = [replacement.userName, replacement.password, replacement.sspi];
  const names = (replacement.serverName.length + replacement.database.length) * 2;
  const fields = [...kept, ...given].reduce((sum, { length }) => sum + length, names);
  return (replacement.features ?? []).reduce((sum, { data }) => sum + data.length + 5, fields + 256);
}

function patchHead(
  payload: Buffer,
  login: Login7,
  replacement: Login7Replacement,
  withFeatures: boolean,
): void {
  payload.writeUInt32LE(payload.length, At.length);
  // The client's own number where the version stays: there are several for 7.1.
  if (replacement.version !== login.version) {
    payload.writeUInt32LE(VERSION_FIELDS[replacement.version], At.version);
  }
  payload.writeUInt32LE(replacement.packetBytes, At.packetBytes);
  payload.writeUInt32LE(0, At.connectionId);
  const integrated = replacement.sspi.length > 0 ? FLAG2_INTEGRATED : 0;
  payload[At.optionFlags2] = (payload[At.optionFlags2]! & ~FLAG2_INTEGRATED) | integrated;
  payload[At.optionFlags3] =
    (payload[At.optionFlags3]! & ~(FLAG3_CHANGE_PASSWORD | FLAG3_USER_INSTANCE | FLAG3_EXTENSION)) |
    (withFeatures ? FLAG3_EXTENSION : 0);
}

const VERSION_FIELDS: Readonly<Record<TdsVersion, number>> = {
  '7.0': 0x7000_0000,
  '7.1': 0x7100_0001,
  '7.2': 0x7209_0002,
  '7.3A': 0x730a_0003,
  '7.3B': 0x730b_0003,
  '7.4': 0x7400_0004,
  '8.0': 0x0800_0000,
};

/** A LOGIN7 of our own, for a sign-in without a client. `programName` and `hostName` show in the server's session list. */
export function ownLogin7(version: TdsVersion, programName: string, hostName: string): Login7 {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(VERSION_FIELDS[version], At.version);
  head.writeUInt32LE(4096, At.packetBytes);
  // As Microsoft's drivers: USE answered by ENVCHANGE, the database and the language must be there, ANSI defaults.
  head[At.optionFlags1] = 0xe0;
  head[At.optionFlags2] = 0x03;
  const empty = Buffer.alloc(0);
  return {
    version,
    packetBytes: 4096,
    head,
    hostName: utf16(hostName),
    userName: empty,
    password: empty,
    passwordEnd: 0,
    programName: utf16(programName),
    serverName: empty,
    libraryName: utf16('Sallyport'),
    language: empty,
    database: empty,
    clientId: Buffer.alloc(6),
    attachFile: empty,
    integrated: false,
    passwordChange: false,
    userInstance: false,
    userType: 0,
    readOnlyIntent: false,
    features: null,
  };
}

export function utf16(value: string): Buffer {
  return Buffer.from(value, 'utf16le');
}

/**
 * A password as LOGIN7 carries it: the nibbles of each byte swapped, then XOR 0xA5 (MS-TDS 2.2.6.4). Takes UTF-16LE,
 * returns a copy.
 */
export function scramble(password: Buffer): Buffer {
  const scrambled = Buffer.allocUnsafe(password.length);
  for (let index = 0; index < password.length; index += 1) {
    const byte = password[index]!;
    scrambled[index] = ((byte << 4) | (byte >> 4)) ^ 0xa5;
  }
  return scrambled;
}

/** The reverse of `scramble`: UTF-16LE, a copy that the caller wipes. */
export function unscramble(scrambled: Buffer): Buffer {
  const password = Buffer.allocUnsafe(scrambled.length);
  for (let index = 0; index < scrambled.length; index += 1) {
    const byte = scrambled[index]! ^ 0xa5;
    password[index] = (byte << 4) | (byte >> 4);
  }
  return password;
}

/** The text that the pair at `at` points to, cut to `unitsMax`; empty where it lies outside the payload. */
function text(payload: Buffer, at: number, unitsMax: number): Buffer {
  const offset = payload.readUInt16LE(at);
  const units = payload.readUInt16LE(at + 2);
  if (units === 0 || offset < FIXED_BYTES_OLD || offset + units * 2 > payload.length)
    return payload.subarray(0, 0);
  return payload.subarray(offset, offset + Math.min(units, unitsMax) * 2);
}

/** `field`, or nothing where it overlaps the password: a wrong pair must not carry it into a record or to the server. */
function apart(field: Buffer, password: Buffer): Buffer {
  const start = field.byteOffset;
  const overlaps =
    start < password.byteOffset + password.length && password.byteOffset < start + field.length;
  return overlaps && field.length > 0 && password.length > 0 ? field.subarray(0, 0) : field;
}

/** tedious writes the offset as the length where it has no host name: such a name runs into the next field. */
function hostName(payload: Buffer, name: Buffer): Buffer {
  const offset = payload.readUInt16LE(At.hostName);
  const next = payload.readUInt16LE(At.userName);
  if (payload.readUInt16LE(At.userName + 2) > 0 && next >= offset && next < offset + name.length) {
    return name.subarray(0, next - offset);
  }
  return name;
}

/** Whether the new password's pair points to text. SqlClient leaves a wrong offset there, but with length 0. */
function changesPassword(payload: Buffer): boolean {
  return text(payload, At.changePassword, 0xffff).length > 0;
}

function parseExtension(payload: Buffer): FeatureRequest[] {
  const pointer = payload.readUInt16LE(At.extension);
  const length = payload.readUInt16LE(At.extension + 2);
  if (length < 4 || pointer + 4 > payload.length) throw malformed('the extension of LOGIN7 lies outside it');
  const offset = payload.readUInt32LE(pointer);
  if (offset >= payload.length) throw malformed('FeatureExt of LOGIN7 lies outside it');
  return parseFeatures(payload, offset);
}

function malformed(what: string): ProtocolError {
  return new ProtocolError('malformed', 'client', what);
}
