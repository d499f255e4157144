/**
 * The messages of PostgreSQL's protocol 3 as bytes: their types, and the few that are built or read whole.
 * Source: "Message Formats" in the frontend/backend protocol chapter. All integers are big endian.
 */

/** Type bytes of messages from the client. */
export const QUERY = 0x51; // Q
export const PARSE = 0x50; // P
export const BIND = 0x42; // B
export const DESCRIBE = 0x44; // D
export const EXECUTE = 0x45; // E
export const CLOSE = 0x43; // C
export const SYNC = 0x53; // S
export const FLUSH = 0x48; // H
export const FUNCTION_CALL = 0x46; // F
export const TERMINATE = 0x58; // X

/** Both ways. */
export const COPY_DATA = 0x64; // d
export const COPY_DONE = 0x63; // c
export const COPY_FAIL = 0x66; // f

/** Type bytes of messages from the server. */
export const PARSE_COMPLETE = 0x31; // 1
export const BIND_COMPLETE = 0x32; // 2
export const CLOSE_COMPLETE = 0x33; // 3
export const NOTIFICATION = 0x41; // A
export const COMMAND_COMPLETE = 0x43; // C
export const DATA_ROW = 0x44; // D
export const ERROR_RESPONSE = 0x45; // E
export const COPY_IN_RESPONSE = 0x47; // G
export const COPY_OUT_RESPONSE = 0x48; // H
export const EMPTY_QUERY_RESPONSE = 0x49; // I
export const NOTICE_RESPONSE = 0x4e; // N
export const PARAMETER_STATUS = 0x53; // S
export const ROW_DESCRIPTION = 0x54; // T
export const FUNCTION_CALL_RESPONSE = 0x56; // V
export const COPY_BOTH_RESPONSE = 0x57; // W
export const READY_FOR_QUERY = 0x5a; // Z
export const NO_DATA = 0x6e; // n
export const PORTAL_SUSPENDED = 0x73; // s
export const PARAMETER_DESCRIPTION = 0x74; // t

/** The type byte and the length word. */
export const HEADER_BYTES = 5;

/** Makes the server send what it has answered so far; changes nothing else, and is ignored where it has no meaning. */
export const FLUSH_MESSAGE: Buffer = Buffer.from([FLUSH, 0, 0, 0, 4]);

export const TERMINATE_MESSAGE: Buffer = Buffer.from([TERMINATE, 0, 0, 0, 4]);

/** A signed 32-bit integer at `at`; the caller has checked the bounds. */
export function int32(bytes: Buffer, at: number): number {
  return (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
}

/** An unsigned 16-bit integer at `at`; the caller has checked the bounds. */
export function uint16(bytes: Buffer, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

/** Where the NUL of the cstring at `at` is, or -1 when there is none before `end`. */
export function terminator(bytes: Buffer, at: number, end: number): number {
  // Most are names: near enough to be found before a search would have begun.
  const near = Math.min(end, at + 24);
  for (let position = at; position < near; position += 1) if (bytes[position] === 0) return position;
  if (near === end) return -1;
  const nul = bytes.indexOf(0, near);
  return nul < end ? nul : -1;
}

/** The column descriptions of a RowDescription. */
export interface RowDescription {
  readonly names: readonly string[];
  readonly types: readonly number[];
  /** 0 text, 1 binary, for each column. A statement's description says 0 for all, whatever Bind asks for later. */
  readonly formats: readonly number[];
}

/** Reads a RowDescription's body; null when it contradicts itself. */
export function parseRowDescription(
  bytes: Buffer,
  start: number,
  end: number,
  decode: (bytes: Buffer, start: number, end: number) => string,
): RowDescription | null {
  if (end - start < 2) return null;
  const count = uint16(bytes, start);
  const names: string[] = [];
  const types: number[] = [];
  const formats: number[] = [];
  let at = start + 2;
  for (let index = 0; index < count; index += 1) {
    const nul = terminator(bytes, at, end);
    if (nul < 0 || nul + 19 > end) return null;
    names.push(decode(bytes, at, nul));
    // Behind the name: table OID 4, column 2, type OID 4, type size 2, modifier 4, format 2.
    types.push(int32(bytes, nul + 7) >>> 0);
    formats.push(uint16(bytes, nul + 17));
    at = nul + 19;
  }
  return { names, types, formats };
}

/** Reads a ParameterDescription's body: type OIDs; null when it contradicts itself. */
export function parseParameterDescription(bytes: Buffer, start: number, end: number): number[] | null {
  return end - start < 2 ? null : parseTypes(bytes, start, end);
}

/** Reads an Int16 count and as many OIDs, as Parse and ParameterDescription have them. */
export function parseTypes(bytes: Buffer, start: number, end: number): number[] | null {
  const count = uint16(bytes, start);
  if (start + 2 + count * 4 > end) return null;
  const types: number[] = [];
  for (let index = 0; index < count; index += 1) types.push(int32(bytes, start + 2 + index * 4) >>> 0);
  return types;
}

/** What an error or notice says, of the fields that go on record. */
export interface ServerMessage {
  readonly severity: string;
  readonly code: string;
  readonly message: string;
  readonly detail: Readonly<Record<string, string | number>>;
}

const DETAIL_FIELDS: Readonly<Record<number, string>> = {
  68: 'detail', // D
  72: 'hint', // H
  80: 'position', // P
  87: 'where', // W
  115: 'schema', // s
  116: 'table', // t
  99: 'column', // c
  110: 'constraint', // n
};

/** Reads the body of an ErrorResponse or NoticeResponse. Stops where it is cut short and gives what came before. */
export function parseServerMessage(
  bytes: Buffer,
  start: number,
  end: number,
  decode: (bytes: Buffer, start: number, end: number) => string,
  lengthMax: number,
): ServerMessage {
  let severity = '';
  let code = '';
  let message = '';
  const detail: Record<string, string | number> = {};
  let at = start;
  while (at < end && bytes[at] !== 0) {
    const field = bytes[at]!;
    let nul = terminator(bytes, at + 1, end);
    if (nul < 0) nul = end;
    const textEnd = Math.min(nul, at + 1 + lengthMax);
    if (field === 0x56) severity = decode(bytes, at + 1, textEnd);
    else if (field === 0x53 && severity === '') severity = decode(bytes, at + 1, textEnd);
    else if (field === 0x43) code = decode(bytes, at + 1, textEnd);
    else if (field === 0x4d) message = decode(bytes, at + 1, textEnd);
    else {
      const name = DETAIL_FIELDS[field];
      if (name !== undefined) {
        const text = decode(bytes, at + 1, textEnd);
        detail[name] = name === 'position' ? Number(text) : text;
      }
    }
    at = nul + 1;
  }
  return { severity, code, message, detail };
}
