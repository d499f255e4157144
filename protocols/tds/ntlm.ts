import { createHash, createHmac } from 'node:crypto';
import { Reader, Writer } from '../bytes.ts';
import { ProtocolError } from '../error.ts';
import { md4 } from './md4.ts';

/**
 * NTLMv2 as a client (MS-NLMP): NEGOTIATE goes into LOGIN7, the server answers with CHALLENGE, AUTHENTICATE is our
 * answer to that. With integrity code (MIC) and channel binding, so that a server that demands Extended Protection
 * takes it.
 */

const SIGNATURE = Buffer.from('NTLMSSP\0', 'latin1');

/** MS-NLMP 2.2.2.5. */
const Flag = {
  unicode: 0x0000_0001,
  requestTarget: 0x0000_0004,
  ntlm: 0x0000_0200,
  alwaysSign: 0x0000_8000,
  extendedSessionSecurity: 0x0008_0000,
  targetInfo: 0x0080_0000,
  version: 0x0200_0000,
  key128: 0x2000_0000,
  key56: 0x8000_0000,
} as const;

const NEGOTIATED =
  (Flag.unicode |
    Flag.requestTarget |
    Flag.ntlm |
    Flag.alwaysSign |
    Flag.extendedSessionSecurity |
    Flag.version |
    Flag.key128 |
    Flag.key56) >>>
  0;

/** Any Windows version: 10.0.17763, NTLM revision 15 (MS-NLMP 2.2.2.10). */
const VERSION = Buffer.from([10, 0, 0x63, 0x45, 0, 0, 0, 15]);

/** Ids of the pairs in target information (MS-NLMP 2.2.2.1). */
const Pair = { end: 0, flags: 6, timestamp: 7, targetName: 9, channelBindings: 10 } as const;
const FLAGS_MIC_PRESENT = 0x2;

/** The first message, without names: they stand in AUTHENTICATE. */
export function negotiate(): Buffer {
  return new Writer(64).append(SIGNATURE).uint32le(1).uint32le(NEGOTIATED).zeros(16).append(VERSION).take();
}

export interface NtlmChallenge {
  readonly flags: number;
  /** Eight bytes. */
  readonly serverChallenge: Buffer;
  readonly targetName: string;
  /** The pairs as they were sent, the terminator left out. */
  readonly targetInfo: readonly { readonly id: number; readonly value: Buffer }[];
  readonly targetInfoBytes: number;
}

/** Reads a CHALLENGE. Throws `malformed`. */
export function parseChallenge(message: Buffer): NtlmChallenge {
  const reader = new Reader(message, 'server');
  if (!reader.slice(8, 'NTLM signature').equals(SIGNATURE) || reader.uint32le('NTLM message type') !== 2) {
    throw new ProtocolError('malformed', 'server', 'the answer to NTLM NEGOTIATE is no CHALLENGE');
  }
  const target = fieldOf(message, 12);
  const flags = message.length >= 24 ? message.readUInt32LE(20) : 0;
  reader.skip(12, 'NTLM flags');
  const serverChallenge = Buffer.from(reader.slice(8, 'NTLM server challenge'));
  const info = message.length >= 48 ? fieldOf(message, 40) : Buffer.alloc(0);
  return {
    flags,
    serverChallenge,
    targetName: target.toString('utf16le'),
    targetInfo: parsePairs(info),
    targetInfoBytes: info.length,
  };
}

/** The bytes that a `length(2) max(2) offset(4)` field points to. */
function fieldOf(message: Buffer, at: number): Buffer {
  if (at + 8 > message.length) throw new ProtocolError('malformed', 'server', 'NTLM CHALLENGE is cut');
  const length = message.readUInt16LE(at);
  const offset = message.readUInt32LE(at + 4);
  if (length === 0) return message.subarray(0, 0);
  if (offset + length > message.length) {
    throw new ProtocolError('malformed', 'server', 'an NTLM CHALLENGE field lies outside it');
  }
  return message.subarray(offset, offset + length);
}

function parsePairs(info: Buffer): { id: number; value: Buffer }[] {
  const reader = new Reader(info, 'server');
  const pairs: { id: number; value: Buffer }[] = [];
  while (reader.remaining >= 4) {
    const id = reader.uint16le('NTLM pair id');
    const length = reader.uint16le('NTLM pair length');
    if (id === Pair.end) break;
    pairs.push({ id, value: reader.slice(length, 'NTLM pair') });
  }
  return pairs;
}

export interface NtlmAccount {
  readonly domain: string;
  readonly user: string;
  /** UTF-16LE. */
  readonly password: Buffer;
}

/** `clientChallenge` is eight random bytes; `binding` is what `channelBinding` returned, or null without TLS. */
export interface NtlmProof {
  readonly account: NtlmAccount;
  readonly negotiateMessage: Buffer;
  readonly challengeMessage: Buffer;
  readonly clientChallenge: Buffer;
  /** `MSSQLSvc/host:port`. */
  readonly servicePrincipal: string;
  readonly binding: Buffer | null;
}

/**
 * AUTHENTICATE, with a MIC. Throws `authentication_unsupported` when the server's challenge carries no time: no Windows
 * since Vista leaves it out, and without it the answer would need our clock to agree with the server's.
 */
export function authenticate(proof: NtlmProof): Buffer {
  const challenge = parseChallenge(proof.challengeMessage);
  const timestamp = challenge.targetInfo.find(({ id }) => id === Pair.timestamp)?.value;
  if (timestamp === undefined || timestamp.length !== 8) {
    throw new ProtocolError('authentication_unsupported', 'server', 'the NTLM challenge carries no time');
  }
  const { account, clientChallenge } = proof;
  const key = ntowfv2(account);
  const targetInfo = buildTargetInfo(challenge, proof);
  const answer = ntlmv2Response(key, challenge.serverChallenge, clientChallenge, timestamp, targetInfo);
  const sessionKey = hmacMd5(key, answer.proof);
  const message = layOut(account, challenge.flags, answer.response);
  hmacMd5(sessionKey, proof.negotiateMessage, proof.challengeMessage, message).copy(message, MIC_OFFSET);
  key.fill(0);
  sessionKey.fill(0);
  return message;
}

/** NTOWFv2 (MS-NLMP 3.3.2): the key that a password gives, with the user's name in capitals. */
export function ntowfv2(account: NtlmAccount): Buffer {
  const hash = md4(account.password);
  const key = hmacMd5(hash, Buffer.from(account.user.toUpperCase() + account.domain, 'utf16le'));
  hash.fill(0);
  return key;
}

/** The NT response and its first 16 bytes, NTProofStr (MS-NLMP 3.3.2). */
export function ntlmv2Response(
  key: Buffer,
  serverChallenge: Buffer,
  clientChallenge: Buffer,
  timestamp: Buffer,
  targetInfo: Buffer,
): { proof: Buffer; response: Buffer } {
  const blob = new Writer(64 + targetInfo.length)
    .append(Buffer.from([1, 1, 0, 0, 0, 0, 0, 0]))
    .append(timestamp)
    .append(clientChallenge)
    .zeros(4)
    .append(targetInfo)
    .zeros(4)
    .take();
  const proof = hmacMd5(key, serverChallenge, blob);
  return { proof, response: Buffer.concat([proof, blob]) };
}

/**
 * MD5 over the structure that binds an authentication to its TLS connection (MS-NLMP 2.2.2.1, RFC 2744 3.11): no
 * addresses, and as application data the binding's prefix (RFC 5056) and its bytes.
 */
export function channelBinding(binding: { type: 'tls-unique' | 'tls-exporter'; data: Buffer }): Buffer {
  const application = Buffer.concat([Buffer.from(`${binding.type}:`, 'latin1'), binding.data]);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(application.length);
  return createHash('md5').update(Buffer.alloc(16)).update(length).update(application).digest();
}

function buildTargetInfo(challenge: NtlmChallenge, proof: NtlmProof): Buffer {
  const writer = new Writer(challenge.targetInfoBytes + 128);
  const add = (id: number, value: Buffer): void => {
    writer.uint16le(id).uint16le(value.length).append(value);
  };
  let flags = FLAGS_MIC_PRESENT;
  for (const { id, value } of challenge.targetInfo) {
    if (id === Pair.flags && value.length === 4) flags |= value.readUInt32LE(0);
    else if (id !== Pair.targetName && id !== Pair.channelBindings) add(id, value);
  }
  const flagBytes = Buffer.alloc(4);
  flagBytes.writeUInt32LE(flags >>> 0);
  add(Pair.flags, flagBytes);
  add(Pair.channelBindings, proof.binding ?? Buffer.alloc(16));
  add(Pair.targetName, Buffer.from(proof.servicePrincipal, 'utf16le'));
  return writer.uint16le(Pair.end).uint16le(0).take();
}

const MIC_OFFSET = 72;
const AUTHENTICATE_FIXED_BYTES = 88;

function layOut(account: NtlmAccount, serverFlags: number, ntResponse: Buffer): Buffer {
  const domain = Buffer.from(account.domain, 'utf16le');
  const user = Buffer.from(account.user, 'utf16le');
  // With a timestamp in the challenge the LM response is all zeros (MS-NLMP 3.1.5.1.2).
  const lmResponse = Buffer.alloc(24);
  const fields = [lmResponse, ntResponse, domain, user, Buffer.alloc(0), Buffer.alloc(0)];
  const writer = new Writer(AUTHENTICATE_FIXED_BYTES + 512).append(SIGNATURE).uint32le(3);
  let offset = AUTHENTICATE_FIXED_BYTES;
  for (const field of fields) {
    writer.uint16le(field.length).uint16le(field.length).uint32le(offset);
    offset += field.length;
  }
  writer
    .uint32le((NEGOTIATED & (serverFlags | Flag.version)) >>> 0)
    .append(VERSION)
    .zeros(16);
  for (const field of fields) writer.append(field);
  return writer.take();
}

function hmacMd5(key: Buffer, ...parts: Buffer[]): Buffer {
  const hmac = createHmac('md5', key);
  for (const part of parts) hmac.update(part);
  return hmac.digest();
}
