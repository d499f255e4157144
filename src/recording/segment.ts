import { type Cipheriv, createCipheriv, createDecipheriv, type Decipheriv, hash } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { z } from 'zod';
import type { EventBuffer } from './format.ts';
import { deriveKey } from './keys.ts';
import { BATCH_PAYLOAD_BYTES_MAX, SEGMENT_HEADER_BYTES_MAX } from './limits.ts';
import { RecordingError } from './recorder.ts';

/**
 * One file of the journal.
 *
 *   magic "SPJOURN1" | header length u32 | header JSON (clear) | AES-256-CTR stream of batches
 *   batch: payload length u32 | payload (events) | MAC 16
 *
 * The header carries the boot's data key wrapped to the age recipients. Both keys of a segment come from it by HKDF and
 * are used for this segment alone, so that the stream's counter starts at zero. The MAC of a batch is
 *
 *   SHA-256(MAC key 32 | MAC of the batch before 16 | payload length | payload), first 16 bytes
 *
 * where the first batch's "before" is SHA-256(MAC key | magic, length and header), first 16 bytes. Half of the digest is
 * withheld and the other half is itself encrypted, so nobody can extend what was hashed. One call of `hash` and one of a
 * long-lived cipher cost 2 µs for a batch of 700 bytes, where a new HMAC costs 13 and a new AES-GCM 17; so every batch
 * is authenticated and there is no tail without a MAC.
 */

const MAGIC = Buffer.from('SPJOURN1', 'latin1');
export const MAC_BYTES = 16;
export const MAC_KEY_BYTES = 32;
const LENGTH_BYTES = 4;
const PREFIX_BYTES = MAGIC.length + 4;

/** Bytes at the head of an `EventBuffer` that belong to the segment: MAC key, MAC before, payload length. */
export const BATCH_HEAD_BYTES = MAC_KEY_BYTES + MAC_BYTES + LENGTH_BYTES;
const BEFORE_AT = MAC_KEY_BYTES;
const LENGTH_AT = MAC_KEY_BYTES + MAC_BYTES;

const headerSchema = z.object({
  version: z.literal(1),
  boot: z.string().regex(/^[0-9A-Z]{26}$/),
  segment: z.int().positive(),
  gateway: z.string(),
  created_at: z.string(),
  recipients: z.array(z.string()),
  /** The boot's 32-byte data key as an age file, base64. */
  key: z.base64(),
  /** The segment before, and its last MAC; null for the first of a boot. */
  previous: z.object({ segment: z.int().positive(), mac: z.string() }).nullable(),
});
export type SegmentHeader = z.output<typeof headerSchema>;

const SUFFIX = '.journal';

export function segmentName(boot: string, segment: number): string {
  return `${boot}-${String(segment).padStart(8, '0')}${SUFFIX}`;
}

/** Null for files that are no segments. */
export function parseSegmentName(name: string): { boot: string; segment: number } | null {
  const match = /^([0-9A-Z]{26})-(\d{8})\.journal$/.exec(name);
  return match === null ? null : { boot: match[1]!, segment: Number(match[2]) };
}

interface SegmentKeys {
  readonly stream: Buffer;
  readonly mac: Buffer;
}

function segmentKeys(bootKey: Buffer, boot: string, segment: number): SegmentKeys {
  return {
    stream: deriveKey(bootKey, boot, `sallyport journal ${segment} stream`),
    mac: deriveKey(bootKey, boot, `sallyport journal ${segment} mac`),
  };
}

function firstMac(macKey: Buffer, head: Buffer): Buffer {
  return hash('sha256', Buffer.concat([macKey, head]), 'buffer').subarray(0, MAC_BYTES);
}

/** Writes one segment. Every failure leaves the file as it was before the call, or unusable and to be abandoned. */
export class SegmentWriter {
  readonly path: string;
  readonly fd: number;
  readonly segment: number;
  readonly createdAt: number;
  /** Bytes of whole batches, header included. */
  size: number;
  /** MAC of the last whole batch. */
  readonly mac: Buffer;
  /** Whole batches written. */
  batches = 0;
  readonly #cipher: Cipheriv;

  /** Makes the file (mode 0600) and writes its header. Throws what the file system throws; then there is no file. */
  constructor(directory: string, header: SegmentHeader, bootKey: Buffer, buffer: EventBuffer, now: number) {
    this.path = join(directory, segmentName(header.boot, header.segment));
    this.segment = header.segment;
    this.createdAt = now;
    const text = Buffer.from(JSON.stringify(header), 'utf8');
    const head = Buffer.alloc(PREFIX_BYTES + text.length);
    MAGIC.copy(head);
    head.writeUInt32LE(text.length, MAGIC.length);
    text.copy(head, PREFIX_BYTES);
    if (text.length > SEGMENT_HEADER_BYTES_MAX)
      throw new RecordingError('too many recipients for a segment header');
    const keys = segmentKeys(bootKey, header.boot, header.segment);
    this.#cipher = createCipheriv('aes-256-ctr', keys.stream, Buffer.alloc(16));
    this.mac = Buffer.from(firstMac(keys.mac, head));
    this.fd = openSync(this.path, 'wx', 0o600);
    try {
      writeWhole(this.fd, head);
    } catch (error) {
      closeSync(this.fd);
      unlinkSync(this.path);
      throw error;
    }
    this.size = head.length;
    keys.mac.copy(buffer.bytes, 0);
    this.mac.copy(buffer.bytes, BEFORE_AT);
  }

  /**
   * Writes the events of `buffer` as one batch and returns the bytes written. `buffer` keeps its events. Throws what
   * the file system throws; then the segment must be abandoned, since its cipher has moved on.
   */
  write(buffer: EventBuffer): number {
    buffer.reserve(MAC_BYTES);
    const { bytes, end } = buffer;
    bytes.writeUInt32LE(end - BATCH_HEAD_BYTES, LENGTH_AT);
    const digest = hash('sha256', bytes.subarray(0, end), 'buffer');
    digest.copy(bytes, end, 0, MAC_BYTES);
    const sealed = this.#cipher.update(bytes.subarray(LENGTH_AT, end + MAC_BYTES));
    writeWhole(this.fd, sealed);
    digest.copy(bytes, BEFORE_AT, 0, MAC_BYTES);
    digest.copy(this.mac, 0, 0, MAC_BYTES);
    this.size += sealed.length;
    this.batches += 1;
    return sealed.length;
  }

  /** Cuts what a failed write has left, where the file system lets us, and closes the file; an empty one goes. */
  abandon(): void {
    try {
      if (this.batches === 0) unlinkSync(this.path);
      else ftruncateSync(this.fd, this.size);
    } catch {
      // The reader recognises a torn batch as well.
    }
    this.close();
  }

  sync(): void {
    fsyncSync(this.fd);
  }

  close(): void {
    try {
      closeSync(this.fd);
    } catch {
      // Nothing more can be done with a descriptor that does not close.
    }
  }
}

function writeWhole(fd: number, bytes: Buffer): void {
  let written = 0;
  while (written < bytes.length) written += writeSync(fd, bytes, written, bytes.length - written, null);
}

export interface Batch {
  /** Where the batch stands in the file, and how long it is there. */
  readonly offset: number;
  readonly length: number;
  readonly payload: Buffer;
}

/** What the next bytes of a segment are. */
export type SegmentRead =
  | { readonly kind: 'batch'; readonly batch: Batch }
  /** Nothing more for now: the end, or a batch that is still being written. `bytes` are there beyond the last batch. */
  | { readonly kind: 'end'; readonly bytes: number; readonly torn: Buffer }
  /** Bytes that were altered, from `offset` to the end of the file. */
  | { readonly kind: 'damaged'; readonly offset: number; readonly length: number; readonly reason: string };

const READ_BYTES = 256 * 1024;
/** What was read last, of any segment: decrypted at once, into bytes of its own. */
const encrypted = Buffer.allocUnsafeSlow(READ_BYTES);
/** Batches up to this are hashed without allocating. */
const SEALED_BYTES = 16 * 1024;

/** Reads the clear header of a segment. Throws `RecordingError` for files that have none. */
export function readSegmentHeader(path: string): SegmentHeader {
  const fd = openSync(path, 'r');
  try {
    return readHead(fd, path).header;
  } finally {
    closeSync(fd);
  }
}

function readHead(fd: number, path: string): { header: SegmentHeader; head: Buffer } {
  const prefix = readAt(fd, 0, PREFIX_BYTES);
  if (prefix.length < PREFIX_BYTES || !prefix.subarray(0, MAGIC.length).equals(MAGIC))
    throw new RecordingError(`${path} is no journal segment`);
  const length = prefix.readUInt32LE(MAGIC.length);
  if (length > SEGMENT_HEADER_BYTES_MAX) throw new RecordingError(`${path} has a damaged header`);
  const head = readAt(fd, 0, PREFIX_BYTES + length);
  if (head.length < PREFIX_BYTES + length) throw new RecordingError(`${path} ends within its header`);
  try {
    return { header: headerSchema.parse(JSON.parse(head.toString('utf8', PREFIX_BYTES))), head };
  } catch (cause) {
    throw new RecordingError(`${path} has a damaged header`, { cause });
  }
}

function readAt(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  let read = 0;
  while (read < length) {
    const count = readSync(fd, bytes, read, length - read, position + read);
    if (count === 0) break;
    read += count;
  }
  return bytes.subarray(0, read);
}

/**
 * Reads a segment from its head, batch by batch, while it is being written or afterwards. Every batch that it gives is
 * authentic and follows the one before; after `damaged` it gives nothing more.
 */
export class SegmentReader {
  readonly path: string;
  readonly name: string;
  readonly header: SegmentHeader;
  /** Where the next batch begins. */
  offset: number;
  readonly #fd: number;
  /** What the MAC of the next batch is made of: MAC key, MAC of the batch before, then the batch. */
  readonly #sealed = Buffer.allocUnsafeSlow(SEALED_BYTES);
  readonly #decipher: Decipheriv;
  /** Decrypted bytes that are no whole batch yet; they begin at `offset`. */
  #bytes = Buffer.alloc(0);
  #damage: SegmentRead | null = null;

  /** Throws `RecordingError` for files that are no segment, and what the file system throws. */
  constructor(path: string, bootKey: Buffer) {
    this.path = path;
    this.name = basename(path);
    this.#fd = openSync(path, 'r');
    try {
      const { header, head } = readHead(this.#fd, path);
      const keys = segmentKeys(bootKey, header.boot, header.segment);
      this.header = header;
      this.offset = head.length;
      keys.mac.copy(this.#sealed, 0);
      firstMac(keys.mac, head).copy(this.#sealed, BEFORE_AT);
      this.#decipher = createDecipheriv('aes-256-ctr', keys.stream, Buffer.alloc(16));
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  /** MAC of the last batch that was read. */
  get mac(): Buffer {
    return Buffer.from(this.#sealed.subarray(BEFORE_AT, BEFORE_AT + MAC_BYTES));
  }

  next(): SegmentRead {
    if (this.#damage !== null) return this.#damage;
    for (;;) {
      const read = this.#parse();
      if (read !== null) return read;
      const count = readSync(this.#fd, encrypted, 0, READ_BYTES, this.offset + this.#bytes.length);
      if (count === 0) return { kind: 'end', bytes: this.#bytes.length, torn: this.#torn() };
      const plain = this.#decipher.update(encrypted.subarray(0, count));
      this.#bytes = this.#bytes.length === 0 ? plain : Buffer.concat([this.#bytes, plain]);
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  #torn(): Buffer {
    return this.#bytes.subarray(LENGTH_BYTES);
  }

  #parse(): SegmentRead | null {
    const bytes = this.#bytes;
    if (bytes.length < LENGTH_BYTES) return null;
    const length = bytes.readUInt32LE(0);
    if (length === 0 || length > BATCH_PAYLOAD_BYTES_MAX)
      return this.#damaged('the length of a batch is not possible');
    const whole = LENGTH_BYTES + length + MAC_BYTES;
    if (bytes.length < whole) return null;
    const macAt = LENGTH_BYTES + length;
    const digest = hash('sha256', this.#covered(bytes, macAt), 'buffer');
    if (digest.compare(bytes, macAt, whole, 0, MAC_BYTES) !== 0)
      return this.#damaged('a batch is not what was written');
    digest.copy(this.#sealed, BEFORE_AT, 0, MAC_BYTES);
    const batch = { offset: this.offset, length: whole, payload: bytes.subarray(LENGTH_BYTES, macAt) };
    this.#bytes = bytes.subarray(whole);
    this.offset += whole;
    return { kind: 'batch', batch };
  }

  /** What the MAC covers of a batch, `length` bytes with their length: in one piece, to be hashed at once. */
  #covered(batch: Buffer, length: number): Buffer {
    const end = LENGTH_AT + length;
    if (end > this.#sealed.length)
      return Buffer.concat([this.#sealed.subarray(0, LENGTH_AT), batch.subarray(0, length)]);
    batch.copy(this.#sealed, LENGTH_AT, 0, length);
    return this.#sealed.subarray(0, end);
  }

  #damaged(reason: string): SegmentRead {
    const length = fstatSync(this.#fd).size - this.offset;
    this.#damage = { kind: 'damaged', offset: this.offset, length, reason };
    return this.#damage;
  }
}
