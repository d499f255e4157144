import type { Channel } from '../channel.ts';
import { ProtocolError } from '../error.ts';
import { PACKET_HEADER_BYTES, PacketStatus } from './frames.ts';

/** Whole messages over a channel during sign-in, when both sides take turns. The streaming phase has `frames.ts`. */

/** Message types of the sign-in (MS-TDS 2.2.3.1.1). */
export const LoginMessage = {
  oldLogin: 0x02,
  tabularResult: 0x04,
  fedAuthToken: 0x08,
  login7: 0x10,
  sspi: 0x11,
  prelogin: 0x12,
} as const;

export interface Packet {
  readonly type: number;
  readonly last: boolean;
  /** The session id of the header: the server's process id. */
  readonly process: number;
  readonly payload: Buffer;
}

export interface Message {
  readonly type: number;
  /** From the first packet's header. */
  readonly process: number;
  readonly payload: Buffer;
}

/**
 * Reads one packet whose type must be among `types` and whose payload must not exceed `limit` bytes. Throws
 * `unknown_message`, `length_out_of_range`, and what the channel throws.
 */
export async function readPacket(
  channel: Channel,
  types: readonly number[],
  limit: number,
  field: string,
): Promise<Packet> {
  const header = await channel.read(PACKET_HEADER_BYTES, field);
  const type = header[0]!;
  if (!types.includes(type)) {
    throw new ProtocolError(
      'unknown_message',
      channel.side,
      `the ${channel.side} sent packet type 0x${type.toString(16).padStart(2, '0')} where ${field} was expected`,
    );
  }
  const length = header.readUInt16BE(2) - PACKET_HEADER_BYTES;
  if (length < 0 || length > limit) {
    throw new ProtocolError(
      'length_out_of_range',
      channel.side,
      `a packet of ${field} has ${length + PACKET_HEADER_BYTES} bytes`,
    );
  }
  const last = (header[1]! & PacketStatus.endOfMessage) !== 0;
  const process = header.readUInt16BE(4);
  const payload = length === 0 ? Buffer.alloc(0) : await channel.read(length, field);
  return { type, last, process, payload };
}

/** Reads one message of one of `types`, of at most `limit` payload bytes. Throws as `readPacket`. */
export async function readMessage(
  channel: Channel,
  types: readonly number[],
  limit: number,
  field: string,
): Promise<Message> {
  const first = await readPacket(channel, types, limit, field);
  return first.last ? first : readRest(channel, first, limit, field);
}

/** Reads the packets that follow `first`, up to the end of its message. Throws as `readPacket`. */
export async function readRest(
  channel: Channel,
  first: Packet,
  limit: number,
  field: string,
): Promise<Message> {
  const payloads = [first.payload];
  let length = first.payload.length;
  for (let last = first.last; !last; ) {
    const packet = await readPacket(channel, [first.type], limit - length, field);
    // A sender of nothing but empty packets would otherwise never reach the limit.
    length += packet.payload.length || 1;
    if (length > limit) {
      throw new ProtocolError('length_out_of_range', channel.side, `${field} is longer than ${limit} bytes`);
    }
    payloads.push(packet.payload);
    last = packet.last;
  }
  return { type: first.type, process: first.process, payload: Buffer.concat(payloads) };
}

/**
 * The packets of one message, back to back. `packetBytes` includes the header. The status of packets that are not the
 * last is 0: go-mssqldb takes any other value for the end.
 */
export function buildMessage(type: number, payload: Buffer, packetBytes: number, process = 0): Buffer {
  const room = packetBytes - PACKET_HEADER_BYTES;
  const count = Math.max(1, Math.ceil(payload.length / room));
  const bytes = Buffer.allocUnsafe(payload.length + count * PACKET_HEADER_BYTES);
  let position = 0;
  for (let index = 0; index < count; index += 1) {
    const part = payload.subarray(index * room, (index + 1) * room);
    bytes[position] = type;
    bytes[position + 1] = index === count - 1 ? PacketStatus.endOfMessage : 0;
    bytes.writeUInt16BE(part.length + PACKET_HEADER_BYTES, position + 2);
    bytes.writeUInt16BE(process, position + 4);
    bytes[position + 6] = (index + 1) & 0xff;
    bytes[position + 7] = 0;
    part.copy(bytes, position + PACKET_HEADER_BYTES);
    position += part.length + PACKET_HEADER_BYTES;
  }
  return bytes;
}
