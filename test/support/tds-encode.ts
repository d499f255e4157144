import { Writer } from '../../protocols/bytes.ts';

/**
 * Writes TDS for tests, from the specification and apart from the product's own reading of it: packets, requests,
 * typed values, tokens of responses.
 */

export const HEADERS = Buffer.from('16000000120000000200000000000000000001000000', 'hex');

/** One message as packets of at most `packetBytes`. `first` and `last` are added to the status of those packets. */
export function message(
  type: number,
  payload: Uint8Array,
  options: { packetBytes?: number; first?: number; last?: number } = {},
): Buffer {
  const room = (options.packetBytes ?? 4096) - 8;
  const count = Math.max(1, Math.ceil(payload.length / room));
  const packets: Buffer[] = [];
  for (let index = 0; index < count; index++) {
    const part = payload.subarray(index * room, (index + 1) * room);
    const final = index === count - 1;
    const status = (index === 0 ? (options.first ?? 0) : 0) | (final ? 1 | (options.last ?? 0) : 0);
    packets.push(packet(type, status, part, index + 1));
  }
  return Buffer.concat(packets);
}

export function packet(type: number, status: number, payload: Uint8Array, id = 1): Buffer {
  const header = Buffer.from([type, status, 0, 0, 0, 0, id & 0xff, 0]);
  header.writeUInt16BE(payload.length + 8, 2);
  return Buffer.concat([header, payload]);
}

export function batch(
  text: string,
  options: Parameters<typeof message>[2] & { wide?: boolean } = {},
): Buffer {
  const headers = options.wide === false ? Buffer.alloc(0) : HEADERS;
  return message(0x01, Buffer.concat([headers, Buffer.from(text, 'utf16le')]), options);
}

export const ATTENTION = Buffer.from('0601000800000100', 'hex');

/** A parameter of a call: its TYPE_INFO and its value as bytes, both from `typed`. */
export interface EncodedParameter {
  readonly name?: string;
  readonly status?: number;
  readonly type: Uint8Array;
  readonly value: Uint8Array;
  readonly trailer?: Uint8Array;
}

/** The payload of one call, without ALL_HEADERS. */
export function call(procedure: number | string, parameters: readonly EncodedParameter[], flags = 0): Buffer {
  const writer = new Writer();
  if (typeof procedure === 'number') writer.uint16le(0xffff).uint16le(procedure);
  else writer.uint16le(procedure.length).text(procedure, 'utf16le');
  writer.uint16le(flags);
  for (const { name = '', status = 0, type, value, trailer } of parameters) {
    writer.uint8(name.length).text(name, 'utf16le').uint8(status).append(type).append(value);
    if (trailer) writer.append(trailer);
  }
  return Buffer.from(writer.take());
}

export function rpc(
  calls: readonly Uint8Array[],
  options: Parameters<typeof message>[2] & { wide?: boolean } = {},
): Buffer {
  const wide = options.wide !== false;
  const parts: Uint8Array[] = wide ? [HEADERS] : [];
  for (const [index, bytes] of calls.entries()) {
    if (index > 0) parts.push(Buffer.from([wide ? 0xff : 0x80]));
    parts.push(bytes);
  }
  return message(0x03, Buffer.concat(parts), options);
}

const COLLATION = Buffer.from('0904d00034', 'hex');

export function nvarchar(text: string | null, size = 8000): EncodedParameter {
  const type = new Writer().uint8(0xe7).uint16le(size).append(COLLATION).take();
  return { type, value: counted(text === null ? null : Buffer.from(text, 'utf16le')) };
}

/** `nvarchar(max)` with its length told, or unknown, in chunks of `chunkBytes`. */
export function nvarcharMax(text: string, chunkBytes = 8000, known = false): EncodedParameter {
  const type = new Writer().uint8(0xe7).uint16le(0xffff).append(COLLATION).take();
  return { type, value: chunked(Buffer.from(text, 'utf16le'), chunkBytes, known) };
}

export function int(value: number | null): EncodedParameter {
  if (value === null) return { type: Buffer.from([0x26, 4]), value: Buffer.from([0]) };
  const bytes = Buffer.alloc(5);
  bytes[0] = 4;
  bytes.writeInt32LE(value, 1);
  return { type: Buffer.from([0x26, 4]), value: bytes };
}

export function varbinaryMax(bytes: Uint8Array, chunkBytes = 65_536): EncodedParameter {
  return { type: Buffer.from([0xa5, 0xff, 0xff]), value: chunked(bytes, chunkBytes, true) };
}

/** A two-byte length and the bytes, or the NULL that goes with it. */
export function counted(bytes: Uint8Array | null): Buffer {
  if (bytes === null) return Buffer.from([0xff, 0xff]);
  const length = Buffer.alloc(2);
  length.writeUInt16LE(bytes.length);
  return Buffer.concat([length, bytes]);
}

export function chunked(bytes: Uint8Array | null, chunkBytes: number, known: boolean): Buffer {
  if (bytes === null) return Buffer.alloc(8, 0xff);
  const writer = new Writer();
  writer.uint64le(known ? BigInt(bytes.length) : 0xffff_ffff_ffff_fffen);
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    const part = bytes.subarray(at, at + chunkBytes);
    writer.uint32le(part.length).append(part);
  }
  writer.uint32le(0);
  return Buffer.from(writer.take());
}

// Responses.

export function response(...tokens: readonly Uint8Array[]): Buffer {
  return message(0x04, Buffer.concat(tokens));
}

export interface EncodedColumn {
  readonly name: string;
  readonly type: Uint8Array;
  readonly flags?: number;
  /** Between TYPE_INFO and name: table name, encryption. */
  readonly extra?: Uint8Array;
}

export function columns(
  list: readonly EncodedColumn[],
  options: { wide?: boolean; keys?: Uint8Array } = {},
): Buffer {
  const writer = new Writer();
  writer.uint8(0x81).uint16le(list.length);
  if (options.keys) writer.append(options.keys);
  for (const { name, type, flags = 0, extra } of list) {
    if (options.wide === false) writer.uint16le(0);
    else writer.uint32le(0);
    writer.uint16le(flags).append(type);
    if (extra) writer.append(extra);
    writer.uint8(name.length).text(name, 'utf16le');
  }
  return Buffer.from(writer.take());
}

export function row(...values: readonly Uint8Array[]): Buffer {
  return Buffer.concat([Buffer.from([0xd1]), ...values]);
}

/** A row with a bitmap: null values are left out. */
export function bitmapRow(...values: readonly (Uint8Array | null)[]): Buffer {
  const bitmap = Buffer.alloc((values.length + 7) >> 3);
  for (const [index, value] of values.entries()) if (value === null) bitmap[index >> 3]! |= 1 << (index & 7);
  return Buffer.concat([Buffer.from([0xd2]), bitmap, ...values.filter((value) => value !== null)]);
}

export function done(
  status: number,
  options: { token?: number; command?: number; count?: number; wide?: boolean } = {},
): Buffer {
  const wide = options.wide !== false;
  const bytes = Buffer.alloc(wide ? 13 : 9);
  bytes[0] = options.token ?? 0xfd;
  bytes.writeUInt16LE(status, 1);
  bytes.writeUInt16LE(options.command ?? 0, 3);
  bytes.writeUInt32LE(options.count ?? 0, 5);
  return bytes;
}

export function errorToken(
  number: number,
  text: string,
  options: {
    token?: number;
    class?: number;
    state?: number;
    procedure?: string;
    line?: number;
    wide?: boolean;
  } = {},
): Buffer {
  const body = new Writer();
  body
    .uint32le(number)
    .uint8(options.state ?? 1)
    .uint8(options.class ?? 16);
  body.uint16le(text.length).text(text, 'utf16le').uint8(3).text('srv', 'utf16le');
  const procedure = options.procedure ?? '';
  body.uint8(procedure.length).text(procedure, 'utf16le');
  if (options.wide === false) body.uint16le(options.line ?? 1);
  else body.uint32le(options.line ?? 1);
  const bytes = body.take();
  return Buffer.concat([tokenHeader(options.token ?? 0xaa, bytes.length), bytes]);
}

export function environment(
  type: number,
  next: string | Uint8Array,
  before: string | Uint8Array = '',
): Buffer {
  const parts = [next, before].map((value) => {
    const bytes = typeof value === 'string' ? Buffer.from(value, 'utf16le') : Buffer.from(value);
    return Buffer.concat([Buffer.from([typeof value === 'string' ? value.length : bytes.length]), bytes]);
  });
  const body = Buffer.concat([Buffer.from([type]), ...parts]);
  return Buffer.concat([tokenHeader(0xe3, body.length), body]);
}

export function returnStatus(value: number): Buffer {
  const bytes = Buffer.from([0x79, 0, 0, 0, 0]);
  bytes.writeInt32LE(value, 1);
  return bytes;
}

export function returnValue(
  name: string,
  parameter: EncodedParameter,
  options: { ordinal?: number; wide?: boolean; flags?: number; extra?: Uint8Array } = {},
): Buffer {
  const writer = new Writer();
  writer
    .uint8(0xac)
    .uint16le(options.ordinal ?? 0)
    .uint8(name.length)
    .text(name, 'utf16le')
    .uint8(1);
  if (options.wide === false) writer.uint16le(0);
  else writer.uint32le(0);
  writer.uint16le(options.flags ?? 0).append(parameter.type);
  if (options.extra) writer.append(options.extra);
  writer.append(parameter.value);
  return Buffer.from(writer.take());
}

function tokenHeader(token: number, length: number): Buffer {
  const bytes = Buffer.from([token, 0, 0]);
  bytes.writeUInt16LE(length, 1);
  return bytes;
}

/** A frame of the Session Multiplex Protocol. */
export function frame(
  flags: number,
  session: number,
  sequence: number,
  payload: Uint8Array = Buffer.alloc(0),
): Buffer {
  const header = Buffer.alloc(16);
  header[0] = 0x53;
  header[1] = flags;
  header.writeUInt16LE(session, 2);
  header.writeUInt32LE(16 + payload.length, 4);
  header.writeUInt32LE(sequence, 8);
  header.writeUInt32LE(4, 12);
  return Buffer.concat([header, payload]);
}
