import { type SessionStartedEvent, timeMs } from './events.ts';
import type { Events } from './join.ts';
import { CAPTURE_PIECE_BYTES } from './limits.ts';

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

/** The capture file, piece by piece. Throws an error when the session has no raw frames on record. */
export async function* pcapng(events: Events): AsyncGenerator<Buffer> {
  let start: SessionStartedEvent | null = null;
  let capture: Capture | null = null;
  let first: number | null = null;
  for await (const event of events) {
    first ??= timeMs(event.at);
    if (event.type === 'session_started') start = event;
    if (event.type !== 'frame') continue;
    capture ??= new Capture(start, first);
    capture.frame(timeMs(event.at), event.from, Buffer.from(event.data, 'base64'));
    if (capture.length >= CAPTURE_PIECE_BYTES) yield capture.take();
  }
  if (capture === null)
    throw new Error(
      'this session has no raw frames on record: set raw_frames in the `recording` of its resource',
    );
  capture.close();
  yield capture.take();
}

/** One connection, from its SYN to its FIN. */
class Capture {
  readonly #client: Peer;
  readonly #server: Peer;
  #blocks: Buffer[] = [sectionHeader(), interfaceDescription()];
  #last: number;
  /** Bytes that wait to be taken. */
  length = 0;

  constructor(start: SessionStartedEvent | null, at: number) {
    this.#client = peer(start?.client_address ?? '', 50_000, '10.0.0.1');
    this.#server = peer('', PORTS[start?.engine ?? ''] ?? 5432, '10.0.0.2');
    this.#last = at;
    this.#packet(this.#client, this.#server, SYN);
    this.#packet(this.#server, this.#client, SYN | ACK);
    this.#packet(this.#client, this.#server, ACK);
  }

  frame(at: number, sender: 'client' | 'server', data: Buffer): void {
    this.#last = at;
    const [from, to] = sender === 'client' ? [this.#client, this.#server] : [this.#server, this.#client];
    for (let offset = 0; offset < data.length; offset += SEGMENT_BYTES_MAX)
      this.#packet(from, to, ACK | PUSH, data.subarray(offset, offset + SEGMENT_BYTES_MAX));
  }

  close(): void {
    this.#packet(this.#client, this.#server, FIN | ACK);
    this.#packet(this.#server, this.#client, FIN | ACK);
    this.#packet(this.#client, this.#server, ACK);
  }

  take(): Buffer {
    const bytes = Buffer.concat(this.#blocks);
    this.#blocks = [];
    this.length = 0;
    return bytes;
  }

  #packet(from: Peer, to: Peer, flags: number, data: Buffer = NOTHING): void {
    const packet = enhancedPacket(this.#last, ipPacket(from, to, flags, data));
    this.#blocks.push(packet);
    this.length += packet.length;
    from.sequence = (from.sequence + data.length + ((flags & (SYN | FIN)) === 0 ? 0 : 1)) >>> 0;
  }
}

const NOTHING = Buffer.alloc(0);

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
