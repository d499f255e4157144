import { STATUS_SESSION_STATE_CHANGED } from './capabilities.ts';
import { Fields } from './packets.ts';

/** What an OK, EOF or end-of-rows packet says. One object is filled again and again. */
export class Outcome {
  affected: number | bigint = 0;
  insertId: number | bigint = 0;
  status = 0;
  warnings = 0;
  /** "Rows matched: 1 …"; empty for none. */
  info = '';
  /** Entries of session state, or null where nothing changed. */
  changes: SessionChange[] | null = null;
}

export interface SessionChange {
  readonly kind: 'variable' | 'schema';
  readonly name: string;
  readonly value: string;
}

const CHANGE_SYSTEM_VARIABLES = 0;
const CHANGE_SCHEMA = 1;

/**
 * Reads an OK packet's payload from `start` (its header byte, 0x00 or 0xFE) to `end` ("OK_Packet"). The plain ones, six
 * small fields in seven bytes, take no allocation.
 */
export function readOk(
  bytes: Buffer,
  start: number,
  end: number,
  sessionTrack: boolean,
  outcome: Outcome,
): void {
  outcome.info = '';
  outcome.changes = null;
  if (end - start === 7 && bytes[start + 1]! < 0xfb && bytes[start + 2]! < 0xfb) {
    outcome.affected = bytes[start + 1]!;
    outcome.insertId = bytes[start + 2]!;
    outcome.status = bytes[start + 3]! | (bytes[start + 4]! << 8);
    outcome.warnings = bytes[start + 5]! | (bytes[start + 6]! << 8);
    return;
  }
  const fields = new Fields(bytes, start + 1, end);
  outcome.affected = fields.lenencCount();
  outcome.insertId = fields.lenencCount();
  outcome.status = fields.uint16();
  outcome.warnings = fields.uint16();
  if (fields.short || fields.remaining === 0) return;
  // Servers write the text with its length even where the documentation says "rest of the packet".
  if (!sessionTrack && bytes[fields.at]! !== fields.remaining - 1) outcome.info = fields.rest().toString();
  else outcome.info = fields.lenencBytes()?.toString() ?? '';
  if (sessionTrack && outcome.status & STATUS_SESSION_STATE_CHANGED) outcome.changes = readChanges(fields);
}

/** Reads an EOF packet in the old form: header 0xFE, warnings, status. */
export function readEof(bytes: Buffer, start: number, end: number, outcome: Outcome): void {
  outcome.affected = 0;
  outcome.insertId = 0;
  outcome.info = '';
  outcome.changes = null;
  outcome.warnings = end - start >= 3 ? bytes[start + 1]! | (bytes[start + 2]! << 8) : 0;
  outcome.status = end - start >= 5 ? bytes[start + 3]! | (bytes[start + 4]! << 8) : 0;
}

function readChanges(fields: Fields): SessionChange[] {
  const changes: SessionChange[] = [];
  const total = fields.lenenc();
  const end = Math.min(fields.end, fields.at + Math.max(total, 0));
  while (fields.at < end && !fields.short) {
    const type = fields.uint8();
    const data = fields.lenencBytes() ?? Buffer.alloc(0);
    const entry = new Fields(data);
    if (type === CHANGE_SYSTEM_VARIABLES) {
      while (entry.remaining > 0 && !entry.short) {
        const name = entry.lenencBytes()?.toString() ?? '';
        changes.push({ kind: 'variable', name, value: entry.lenencBytes()?.toString() ?? '' });
      }
    } else if (type === CHANGE_SCHEMA) {
      changes.push({ kind: 'schema', name: 'schema', value: entry.lenencBytes()?.toString() ?? '' });
    }
  }
  return changes;
}

export interface ServerError {
  readonly errno: number;
  /** Five characters; `HY000` where the packet carries none. */
  readonly sqlstate: string;
  readonly message: string;
}

/** Reads an ERR packet's payload ("ERR_Packet"), with or without `#` and SQLSTATE. */
export function readError(bytes: Buffer, start: number, end: number): ServerError {
  const errno = end - start >= 3 ? bytes[start + 1]! | (bytes[start + 2]! << 8) : 0;
  const marked = end - start >= 9 && bytes[start + 3] === 0x23;
  const sqlstate = marked ? bytes.toString('latin1', start + 4, start + 9) : 'HY000';
  const from = marked ? start + 9 : Math.min(start + 3, end);
  return { errno, sqlstate, message: bytes.toString('utf8', from, end) };
}

/** The reply to COM_STMT_PREPARE ("COM_STMT_PREPARE_OK"). */
export interface PrepareOk {
  readonly id: number;
  readonly columns: number;
  readonly parameters: number;
  readonly warnings: number;
  /** Definitions follow: always, but where CLIENT_OPTIONAL_RESULTSET_METADATA is in force and says otherwise. */
  readonly metadata: boolean;
}

/** Reads a COM_STMT_PREPARE_OK payload; null where it is cut short. */
export function readPrepareOk(
  bytes: Buffer,
  start: number,
  end: number,
  optional: boolean,
): PrepareOk | null {
  const fields = new Fields(bytes, start + 1, end);
  const id = fields.uint32();
  const columns = fields.uint16();
  const parameters = fields.uint16();
  fields.uint8();
  if (fields.short) return null;
  // Servers before 4.1.1 end here; nobody's warnings are worth failing for.
  const warnings = fields.remaining >= 2 ? fields.uint16() : 0;
  const metadata = !optional || fields.remaining === 0 || fields.uint8() !== 0;
  return { id, columns, parameters, warnings, metadata };
}

/** One column of a result, as far as samples need it ("ColumnDefinition41"). */
export interface Column {
  readonly name: string;
  readonly type: number;
  readonly charset: number;
  readonly unsigned: boolean;
}

const COLUMN_FLAG_UNSIGNED = 0x20;

/** Reads a column definition; `extended` where MariaDB's EXTENDED_METADATA is in force. Null where it is cut short. */
export function readColumn(bytes: Buffer, start: number, end: number, extended: boolean): Column | null {
  const fields = new Fields(bytes, start, end);
  for (let skipped = 0; skipped < 4; skipped += 1) fields.lenencBytes(); // catalog, schema, table, org_table
  const name = fields.lenencBytes();
  fields.lenencBytes(); // org_name
  if (extended) fields.lenencBytes();
  fields.lenenc(); // length of the fixed fields
  const charset = fields.uint16();
  fields.uint32(); // display length
  const type = fields.uint8();
  const flags = fields.uint16();
  if (fields.short || name === null) return null;
  return { name: name.toString(), type, charset, unsigned: (flags & COLUMN_FLAG_UNSIGNED) !== 0 };
}

/**
 * Where the name of a column definition stands: the offset of its length byte. -1 where that takes a closer look
 * (`readColumn`): a name of 251 bytes or more, or a definition that is cut short.
 */
export function columnNameAt(bytes: Buffer, start: number, end: number): number {
  let at = start;
  // Catalog, schema, table and original table come before it.
  for (let skipped = 0; skipped < 4; skipped += 1) {
    if (at >= end || bytes[at]! > 250) return -1;
    at += 1 + bytes[at]!;
  }
  return at < end && bytes[at]! <= 250 && at + bytes[at]! < end ? at : -1;
}
