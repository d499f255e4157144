import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createPublicKey,
  hash,
  type KeyObject,
  sign,
  verify,
} from 'node:crypto';
import { gunzipSync, gzipSync, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { z } from 'zod';
import { deriveKey, publicKeyId, type SigningKey } from './keys.ts';
import { CHUNK_PLAIN_BYTES_MAX, RECORDING_HEADER_BYTES_MAX, RECORDING_TRAILER_BYTES_MAX } from './limits.ts';
import { RecordingError } from './recorder.ts';

/**
 * One part of a session's recording, as a file. `docs/recording-format.md` describes it for others.
 *
 *   magic "SPRECRD1" | header length u32 | header JSON
 *   chunk: length u32 | AES-256-GCM ciphertext | tag 16        (any number)
 *   0 u32 | trailer JSON | Ed25519 signature of the trailer 64 | trailer length u32 | magic "SPRECEND"
 *
 * A chunk is compressed JSON Lines, one event a line. Its hash is SHA-256(hash before | length | ciphertext | tag); the
 * hash before the first is that of magic, length and header. Associated data binds session, part, index and hash before.
 * The trailer lists all hashes, so that the signature covers every byte, and whoever has no key to read can still tell
 * whether and where a file was altered.
 */

export const RECORDING_FORMAT = 'sallyport recording 1';
const MAGIC = Buffer.from('SPRECRD1', 'latin1');
const END_MAGIC = Buffer.from('SPRECEND', 'latin1');
const TAG_BYTES = 16;
const SIGNATURE_BYTES = 64;
const FOOTER_BYTES = 4 + END_MAGIC.length;
const PREFIX_BYTES = MAGIC.length + 4;

const hex = z.string().regex(/^[0-9a-f]{64}$/);
const place = z.tuple([z.int(), z.int(), z.int()]).describe('Segment, offset of the batch, index within it.');

const headerSchema = z.object({
  format: z.literal(RECORDING_FORMAT),
  session: z.string().regex(/^[\x21-\x7e]{26}$/),
  part: z.int().positive(),
  /** SHA-256 of the part before, the whole file. */
  previous: hex.nullable(),
  gateway: z.string(),
  created_at: z.string(),
  compression: z.enum(['zstd', 'gzip', 'none']),
  recipients: z.array(z.string()),
  /** A 32-byte key as an age file, base64: `dataKey` makes the part's own of it. */
  key: z.base64(),
  /** Hex. Parts without it have their own key in `key`. */
  salt: z
    .string()
    .regex(/^[0-9a-f]{32}$/)
    .optional(),
  /** The Ed25519 public key that the trailer is signed with, base64. */
  signing_key: z.base64(),
});
export type RecordingHeader = z.output<typeof headerSchema>;

const trailerSchema = z.object({
  format: z.literal(RECORDING_FORMAT),
  session: z.string(),
  part: z.int(),
  state: z.enum(['open', 'ended', 'interrupted']),
  events: z.int(),
  first_at: z.string().nullable(),
  last_at: z.string().nullable(),
  /** Where the events stood in the gateway's journal. */
  journal: z.object({ boot: z.string(), from: place, to: place }),
  /** SHA-256 of magic, length and header. */
  header: hex,
  chunks: z.array(z.object({ offset: z.int(), length: z.int(), events: z.int(), hash: hex })),
  head: hex,
});
export type RecordingTrailer = z.output<typeof trailerSchema>;
/** `open`: another part follows; `ended`: the session closed; `interrupted`: the gateway stopped within it. */
export type RecordingState = RecordingTrailer['state'];
export type Compression = RecordingHeader['compression'];
export type Place = z.output<typeof place>;

export interface PartFacts {
  readonly state: RecordingState;
  readonly firstAt: string | null;
  readonly lastAt: string | null;
  readonly boot: string;
  readonly from: Place;
  readonly to: Place;
}

export const SALT_BYTES = 16;

/**
 * The part's data key, 32 bytes, from the one that `header.key` wraps, which parts may share: HKDF-SHA-256 with
 * `header.salt`, for the format, the session and the part.
 */
export function dataKey(
  { salt, session, part }: Pick<RecordingHeader, 'salt' | 'session' | 'part'>,
  key: Buffer,
): Buffer {
  if (salt === undefined) return key;
  return deriveKey(key, Buffer.from(salt, 'hex'), `${RECORDING_FORMAT} ${session} ${part}`);
}

/** Makes the bytes of one part, piece by piece: the caller writes what each call returns, in order. */
export class RecordingWriter {
  readonly header: RecordingHeader;
  /** To be written first. */
  readonly head: Buffer;
  /** Bytes returned so far. */
  size: number;
  events = 0;
  readonly #key: Buffer;
  readonly #signing: SigningKey;
  readonly #chunks: RecordingTrailer['chunks'] = [];
  readonly #file = createHash('sha256');
  #hash: Buffer;

  /** `key` is the part's own data key (`dataKey`), never used before. It is wiped when the part has its end. */
  constructor(header: Omit<RecordingHeader, 'format' | 'signing_key'>, key: Buffer, signing: SigningKey) {
    this.header = {
      format: RECORDING_FORMAT,
      ...header,
      signing_key: signing.publicBytes,
    };
    this.#key = key;
    this.#signing = signing;
    const text = Buffer.from(JSON.stringify(this.header), 'utf8');
    if (text.length > RECORDING_HEADER_BYTES_MAX)
      throw new RecordingError('too many recipients for the header of a recording');
    this.head = Buffer.concat([MAGIC, u32(text.length), text]);
    this.size = this.head.length;
    this.#hash = hash('sha256', this.head, 'buffer');
    this.#file.update(this.head);
  }

  /** SHA-256 of the whole file. Asked once, after `end`. */
  get sha256(): string {
    return this.#file.digest('hex');
  }

  /** One chunk of `events` lines of JSON, each ended by a newline. */
  chunk(lines: Buffer, events: number): Buffer {
    const index = this.#chunks.length;
    const { session, part, compression } = this.header;
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce(index));
    cipher.setAAD(associatedData(session, part, index, this.#hash));
    const sealed = Buffer.concat([
      cipher.update(compress(compression, lines)),
      cipher.final(),
      cipher.getAuthTag(),
    ]);
    const bytes = Buffer.concat([u32(sealed.length), sealed]);
    this.#hash = chainHash(this.#hash, bytes);
    this.#chunks.push({
      offset: this.size,
      length: bytes.length,
      events,
      hash: this.#hash.toString('hex'),
    });
    this.#file.update(bytes);
    this.size += bytes.length;
    this.events += events;
    return bytes;
  }

  /** What ends the file. */
  end(facts: PartFacts): Buffer {
    const trailer: RecordingTrailer = {
      format: RECORDING_FORMAT,
      session: this.header.session,
      part: this.header.part,
      state: facts.state,
      events: this.events,
      first_at: facts.firstAt,
      last_at: facts.lastAt,
      journal: { boot: facts.boot, from: facts.from, to: facts.to },
      header: hash('sha256', this.head),
      chunks: this.#chunks,
      head: this.#hash.toString('hex'),
    };
    const text = Buffer.from(JSON.stringify(trailer), 'utf8');
    const signature = sign(null, text, this.#signing.privateKey);
    this.#key.fill(0);
    const bytes = Buffer.concat([u32(0), text, signature, u32(text.length), END_MAGIC]);
    this.#file.update(bytes);
    this.size += bytes.length;
    return bytes;
  }
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** The chunk's index, big endian, in 12 bytes: the key is the part's own, so no nonce is used twice. */
function nonce(index: number): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt32BE(index, 8);
  return bytes;
}

function associatedData(session: string, part: number, index: number, before: Buffer): Buffer {
  return Buffer.from(`${RECORDING_FORMAT} ${session} ${part} ${index} ${before.toString('hex')}`, 'latin1');
}

function chainHash(before: Buffer, bytes: Buffer): Buffer {
  return hash('sha256', Buffer.concat([before, bytes]), 'buffer');
}

function compress(compression: Compression, bytes: Buffer): Buffer {
  if (compression === 'zstd') return zstdCompressSync(bytes);
  return compression === 'gzip' ? gzipSync(bytes) : bytes;
}

function decompress(compression: Compression, bytes: Buffer): Buffer {
  const options = { maxOutputLength: CHUNK_PLAIN_BYTES_MAX };
  if (compression === 'zstd') return zstdDecompressSync(bytes, options);
  return compression === 'gzip' ? gunzipSync(bytes, options) : bytes;
}

/** Something in a file that is not as it was written: the first bad bytes, from `from` to before `to`. */
export interface Fault {
  readonly from: number;
  readonly to: number;
  readonly what: string;
}

/** What can be said of a part without a key to read it. */
export interface PartInspection {
  readonly header: RecordingHeader | null;
  /** Null where it is missing or not signed by the header's key. */
  readonly trailer: RecordingTrailer | null;
  /** Id of the public key that signed it; null where the signature is not good. */
  readonly signedBy: string | null;
  readonly publicKey: KeyObject | null;
  /** SHA-256 of the whole file. */
  readonly sha256: string;
  /** Empty where every byte is as it was signed; else the first bad range comes first. */
  readonly faults: readonly Fault[];
}

/** Checks a part's structure, chain and signature. Never throws for what the bytes are. */
export function inspectPart(file: Buffer): PartInspection {
  const faults: Fault[] = [];
  const sha256 = hash('sha256', file);
  const parsed = parseHeader(file);
  if (typeof parsed === 'string') {
    return {
      header: null,
      trailer: null,
      signedBy: null,
      publicKey: null,
      sha256,
      faults: [
        { from: 0, to: Math.min(file.length, PREFIX_BYTES + RECORDING_HEADER_BYTES_MAX), what: parsed },
      ],
    };
  }
  const { header, length } = parsed;
  const publicKey = publicKeyOf(header);
  const end = parseTrailer(file, publicKey);
  if (typeof end === 'string') {
    faults.push({ from: lastWhole(file, length), to: file.length, what: end });
  } else {
    // A trailer that is not signed still tells where the bytes differ from what it says.
    const fault = walk(file, length, end.trailer, end.at);
    if (fault !== null) faults.push(fault);
    if (!end.signed)
      faults.push({ from: end.at, to: file.length, what: 'the trailer or its signature was altered' });
    else if (end.trailer.session !== header.session || end.trailer.part !== header.part)
      faults.push({ from: 0, to: length, what: 'the header is of another recording' });
  }
  const trailer = typeof end !== 'string' && end.signed ? end.trailer : null;
  return {
    header,
    trailer,
    signedBy: trailer === null || publicKey === null ? null : publicKeyId(publicKey),
    publicKey,
    sha256,
    faults,
  };
}

function parseHeader(file: Buffer): { header: RecordingHeader; length: number } | string {
  if (file.length < PREFIX_BYTES || !file.subarray(0, MAGIC.length).equals(MAGIC))
    return 'no recording begins here';
  const length = file.readUInt32LE(MAGIC.length);
  if (length > RECORDING_HEADER_BYTES_MAX || PREFIX_BYTES + length > file.length)
    return 'the length of the header is not possible';
  try {
    const text = file.toString('utf8', PREFIX_BYTES, PREFIX_BYTES + length);
    return { header: headerSchema.parse(JSON.parse(text)), length: PREFIX_BYTES + length };
  } catch {
    return 'the header was altered';
  }
}

function publicKeyOf(header: RecordingHeader): KeyObject | null {
  const bytes = Buffer.from(header.signing_key, 'base64');
  if (bytes.length !== 32) return null;
  try {
    return createPublicKey({
      key: { kty: 'OKP', crv: 'Ed25519', x: bytes.toString('base64url') },
      format: 'jwk',
    });
  } catch {
    return null;
  }
}

function parseTrailer(
  file: Buffer,
  publicKey: KeyObject | null,
): { trailer: RecordingTrailer; at: number; signed: boolean } | string {
  const footerAt = file.length - FOOTER_BYTES;
  if (footerAt < 0 || !file.subarray(footerAt + 4).equals(END_MAGIC)) return 'the end is missing';
  const length = file.readUInt32LE(footerAt);
  const at = footerAt - SIGNATURE_BYTES - length;
  if (length > RECORDING_TRAILER_BYTES_MAX || at < PREFIX_BYTES)
    return 'the length of the trailer is not possible';
  const text = file.subarray(at, at + length);
  const signature = file.subarray(at + length, footerAt);
  try {
    const trailer = trailerSchema.parse(JSON.parse(text.toString('utf8')));
    return { trailer, at, signed: publicKey !== null && verify(null, text, publicKey, signature) };
  } catch {
    return 'the trailer was altered';
  }
}

/** Compares the header and the chunks with what the trailer says of them; gives the first that differs. */
function walk(file: Buffer, headLength: number, trailer: RecordingTrailer, trailerAt: number): Fault | null {
  let before: Buffer = hash('sha256', file.subarray(0, headLength), 'buffer');
  if (before.toString('hex') !== trailer.header)
    return { from: 0, to: headLength, what: 'the header was altered' };
  let at = headLength;
  for (const [index, chunk] of trailer.chunks.entries()) {
    if (chunk.offset !== at || at + chunk.length > trailerAt - 4)
      return { from: at, to: trailerAt, what: `bytes were added or removed before chunk ${index}` };
    const computed = chainHash(before, file.subarray(at, at + chunk.length));
    if (computed.toString('hex') !== chunk.hash)
      return { from: at, to: at + chunk.length, what: `chunk ${index} was altered` };
    before = computed;
    at += chunk.length;
  }
  if (at + 4 !== trailerAt || file.readUInt32LE(at) !== 0)
    return { from: at, to: trailerAt, what: 'bytes were added or altered behind the last chunk' };
  return null;
}

/** Where the last whole chunk ends, going by lengths alone. */
function lastWhole(file: Buffer, headLength: number): number {
  let at = headLength;
  while (at + 4 <= file.length) {
    const length = file.readUInt32LE(at);
    if (length < TAG_BYTES || at + 4 + length > file.length) return at;
    at += 4 + length;
  }
  return at;
}

/**
 * The events of a part that `inspectPart` found without fault, one a line, in order. Throws `RecordingError` where the key
 * does not fit or the content is not what the trailer says. A chunk is opened when its first line is asked for: a part may
 * unpack to much more than its size.
 */
export function* openPart(file: Buffer, inspection: PartInspection, key: Buffer): Generator<string> {
  const { header, trailer, faults } = inspection;
  if (header === null || trailer === null || faults.length > 0) {
    const fault = faults[0];
    throw new RecordingError(
      `bytes ${fault?.from ?? 0} to ${fault?.to ?? file.length} of the recording are bad: ${fault?.what ?? 'no trailer'}`,
    );
  }
  let before: Buffer = hash('sha256', file.subarray(0, trailer.chunks[0]?.offset ?? 0), 'buffer');
  for (const [index, chunk] of trailer.chunks.entries()) {
    const bytes = file.subarray(chunk.offset, chunk.offset + chunk.length);
    const plain = openChunk(header, bytes.subarray(4), index, before, key);
    before = Buffer.from(chunk.hash, 'hex');
    const lines = plain.toString('utf8').split('\n');
    lines.pop();
    if (lines.length !== chunk.events)
      throw new RecordingError(`chunk ${index} holds ${lines.length} events and not ${chunk.events}`);
    yield* lines;
  }
}

function openChunk(
  header: RecordingHeader,
  sealed: Buffer,
  index: number,
  before: Buffer,
  key: Buffer,
): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce(index));
  decipher.setAAD(associatedData(header.session, header.part, index, before));
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES));
  try {
    const packed = Buffer.concat([
      decipher.update(sealed.subarray(0, sealed.length - TAG_BYTES)),
      decipher.final(),
    ]);
    return decompress(header.compression, packed);
  } catch (cause) {
    throw new RecordingError(`chunk ${index} cannot be opened with this key`, { cause });
  }
}
