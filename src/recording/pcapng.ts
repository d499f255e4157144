import type { JournalEvent, SessionStartedEvent } from './events.ts';
import { timeMs } from './events.ts';

/**
 * A session's raw frames as a capture file (pcapng, draft-ietf-opsawg-pcapng), for Wireshark. The bytes are what passed
 * between the client and the gateway after sign-in, TLS taken off. IP and TCP headers are made up around them: the
 * addresses and ports are the session's, sequence numbers count the bytes, and the connection opens and closes properly,
 * so that the dissectors put the streams together.
 */

const SECTION_HEADER = 0x0a0d0d0a;
const INTERFACE_DESCRIPTION = 1;
const ENHANCED_PACKET = 6;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
/** Raw IPv4 or IPv6, by its first half byte. */
const LINKTYPE_RAW = 101;
const IP_HEADER_BYTES = 20;
const TCP_HEADER_BYTES = 20;
const PROTOCOL_TCP = 6;
/** An IPv4 packet ends at 65535 bytes. */
const SEGMENT_BYTES_MAX = 65_535 - IP_HEADER_BYTES - TCP_HEADER_BYTES;

const FIN = 0x01;
const SYN = 0x02;
const PUSH = 0x08;
const ACK = 0x10;

interface Peer {
  readonly address: Buffer;
  readonly port: number;
  sequence: number;
}

/** Ports that Wireshark knows the protocols by. */
const PORTS: Readonly<Record<string, number>> = { postgres: 5432, mysql: 3306, tds: 1433 };

/** Throws an error when the session has no raw frames on record. */
export function pcapng(events: readonly JournalEvent[]): Buffer {
  const start = events.find((event): event is SessionStartedEvent => event.type === 'session_started');
  if (!events.some(({ type }) => type === 'frame'))
    throw new Error(
      'this session has no raw frames on record: set raw_frames in the `recording` of its resource',
    );
  const client = peer(start?.client_address ?? '', 50_000, '10.0.0.1');
  const server = peer('', PORTS[start?.engine ?? ''] ?? 5432, '10.0.0.2');
  const blocks = [sectionHeader(), interfaceDescription()];
  const first = timeMs(events[0]!.at);
  const packet = (at: number, from: Peer, to: Peer, flags: number, data: Buffer): void => {
    blocks.push(enhancedPacket(at, ipPacket(from, to, flags, data)));
    from.sequence = (from.sequence + data.length + ((flags & (SYN | FIN)) === 0 ? 0 : 1)) >>> 0;
  };
  const nothing = Buffer.alloc(0);
  packet(first, client, server, SYN, nothing);
  packet(first, server, client, SYN | ACK, nothing);
  packet(first, client, server, ACK, nothing);
  let last = first;
  for (const event of events) {
    if (event.type !== 'frame') continue;
    last = timeMs(event.at);
    const data = Buffer.from(event.data, 'base64');
    const [from, to] = event.from === 'client' ? [client, server] : [server, client];
    for (let at = 0; at < data.length; at += SEGMENT_BYTES_MAX)
      packet(last, from, to, ACK | PUSH, data.subarray(at, at + SEGMENT_BYTES_MAX));
  }
  packet(last, client, server, FIN | ACK, nothing);
  packet(last, server, client, FIN | ACK, nothing);
  packet(last, client, server, ACK, nothing);
  return Buffer.concat(blocks);
}

/** `10.1.2.3:50000`; where it is no IPv4 address, `fallback` stands for it. */
function peer(text: string, port: number, fallback: string): Peer {
  const match = /^(\d+\.\d+\.\d+\.\d+):(\d+)$/.exec(text);
  const address = Buffer.from((match?.[1] ?? fallback).split('.').map(Number));
  return { address, port: match === null ? port : Number(match[2]), sequence: 0 };
}

function block(type: number, body: Buffer): Buffer {
  const padded = (body.length + 3) & ~3;
  const bytes = Buffer.alloc(padded + 12);
  bytes.writeUInt32LE(type, 0);
  bytes.writeUInt32LE(bytes.length, 4);
  body.copy(bytes, 8);
  bytes.writeUInt32LE(bytes.length, bytes.length - 4);
  return bytes;
}

function sectionHeader(): Buffer {
  const body = Buffer.alloc(16);
  body.writeUInt32LE(BYTE_ORDER_MAGIC, 0);
  body.writeUInt16LE(1, 4);
  // The length of the section is not given.
  body.writeBigInt64LE(-1n, 8);
  return block(SECTION_HEADER, body);
}

/** Times are in microseconds, as they are where no option says otherwise. */
function interfaceDescription(): Buffer {
  const body = Buffer.alloc(8);
  body.writeUInt16LE(LINKTYPE_RAW, 0);
  return block(INTERFACE_DESCRIPTION, body);
}

function enhancedPacket(atMs: number, packet: Buffer): Buffer {
  const micros = BigInt(Math.round(atMs * 1000));
  const body = Buffer.alloc(20 + packet.length);
  body.writeUInt32LE(Number(micros >> 32n), 4);
  body.writeUInt32LE(Number(micros & 0xffffffffn), 8);
  body.writeUInt32LE(packet.length, 12);
  body.writeUInt32LE(packet.length, 16);
  packet.copy(body, 20);
  return block(ENHANCED_PACKET, body);
}

function ipPacket(from: Peer, to: Peer, flags: number, data: Buffer): Buffer {
  const tcp = Buffer.alloc(TCP_HEADER_BYTES + data.length);
  tcp.writeUInt16BE(from.port, 0);
  tcp.writeUInt16BE(to.port, 2);
  tcp.writeUInt32BE(from.sequence, 4);
  if ((flags & ACK) !== 0) tcp.writeUInt32BE(to.sequence, 8);
  tcp[12] = (TCP_HEADER_BYTES / 4) << 4;
  tcp[13] = flags;
  tcp.writeUInt16BE(65_535, 14);
  data.copy(tcp, TCP_HEADER_BYTES);
  const pseudo = Buffer.concat([
    from.address,
    to.address,
    Buffer.from([0, PROTOCOL_TCP, tcp.length >> 8, tcp.length & 255]),
  ]);
  tcp.writeUInt16BE(checksum(pseudo, tcp), 16);
  const ip = Buffer.alloc(IP_HEADER_BYTES);
  ip[0] = 0x45;
  ip.writeUInt16BE(IP_HEADER_BYTES + tcp.length, 2);
  // Not to be fragmented.
  ip.writeUInt16BE(0x4000, 6);
  ip[8] = 64;
  ip[9] = PROTOCOL_TCP;
  from.address.copy(ip, 12);
  to.address.copy(ip, 16);
  ip.writeUInt16BE(checksum(ip), 10);
  return Buffer.concat([ip, tcp]);
}

/** The one's complement sum of RFC 1071. All but the last piece are of even length. */
function checksum(...pieces: readonly Buffer[]): number {
  let sum = 0;
  for (const piece of pieces) {
    for (let at = 0; at + 1 < piece.length; at += 2) sum += piece.readUInt16BE(at);
    if (piece.length % 2 === 1) sum += piece[piece.length - 1]! << 8;
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return ~sum & 0xffff;
}
