import type { Channel } from '../channel.ts';
import { ProtocolError } from '../error.ts';
import { CLIENT_LOGIN_BYTES_MAX, SERVER_LOGIN_BYTES_MAX } from './limits.ts';
import { HEADER_BYTES, packet, payloadLength } from './packets.ts';

/**
 * One side of a sign-in: whole packets over a channel, with that side's sequence number. The two sides count apart:
 * what is switched or asked twice on one of them is not on the other.
 */
export class Leg {
  readonly channel: Channel;
  /** The number of the next packet, whoever sends it. */
  sequence = 0;

  constructor(channel: Channel) {
    this.channel = channel;
  }

  /**
   * The next packet's payload. `field` names it in errors. Throws a `ProtocolError`: `length_out_of_range` for a packet
   * longer than any of a sign-in, `malformed` for one out of order, and what the channel throws.
   */
  async read(field: string): Promise<Buffer> {
    const { channel } = this;
    const header = await channel.read(HEADER_BYTES, field);
    const length = payloadLength(header, 0);
    const sequence = header[3]!;
    const most = channel.side === 'client' ? CLIENT_LOGIN_BYTES_MAX : SERVER_LOGIN_BYTES_MAX;
    if (length > most) {
      throw new ProtocolError(
        'length_out_of_range',
        channel.side,
        `${field} of ${length} bytes; at most ${most} are read before a sign-in is over`,
      );
    }
    const payload = length === 0 ? EMPTY : await channel.read(length, field);
    // A server that has lost patience says so before it has had our packet, under the number that was ours.
    const impatient = channel.side === 'server' && payload[0] === ERR;
    if (sequence !== this.sequence && !impatient) {
      throw new ProtocolError(
        'malformed',
        channel.side,
        `${field} has sequence number ${sequence} where ${this.sequence} was expected`,
      );
    }
    this.sequence = (sequence + 1) & 0xff;
    return payload;
  }

  write(payload: Buffer): void {
    this.channel.write(packet(this.sequence, payload));
    this.sequence = (this.sequence + 1) & 0xff;
  }

  /** A command: numbers begin anew. */
  command(payload: Buffer): void {
    this.sequence = 0;
    this.write(payload);
  }

  /** Nobody between the two ends can read along: TLS, or a Unix socket. */
  get confidential(): boolean {
    const { tls, remote } = this.channel;
    return tls !== null || remote.port === 0 || remote.host.startsWith('/');
  }
}

const ERR = 0xff;
const EMPTY = Buffer.alloc(0);
