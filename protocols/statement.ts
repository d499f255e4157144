/**
 * What an observer tells of one request to the database, from its start (before its bytes are forwarded) to its end.
 * One object per request: the observer fills it in as it learns more, the recorder reads it twice.
 */

export const STATEMENT_KINDS = [
  'query',
  'prepare',
  'execute',
  'rpc',
  'batch',
  'copy',
  'bulk',
  'command',
] as const;
export type StatementKind = (typeof STATEMENT_KINDS)[number];

export const STATEMENT_STATUSES = ['ok', 'error', 'cancelled', 'denied', 'unknown'] as const;
export type StatementStatus = (typeof STATEMENT_STATUSES)[number];

/** `idle`: no transaction; `active`: inside one; `failed`: inside one that can only be rolled back. */
export type TransactionState = 'idle' | 'active' | 'failed' | 'unknown';

/** One bound value. `value` is JSON-safe text or number form; null is SQL NULL. */
export interface Parameter {
  readonly name: string | null;
  /** The engine's own type name (`int4`, `VARCHAR`, `nvarchar(50)`), null where the protocol does not say. */
  readonly type: string | null;
  readonly value: ParameterValue;
  /** Set when `value` was cut: the whole value's length in bytes, and its SHA-256 (hex) where it passed through us whole. */
  readonly bytes?: number;
  readonly sha256?: string;
}

export type ParameterValue = string | number | boolean | null | { readonly [key: string]: unknown };

export interface StatementError {
  /** SQLSTATE for PostgreSQL, `errno/SQLSTATE` for MySQL, error number for SQL Server. */
  readonly code: string;
  readonly message: string;
  /** What else the protocol tells: severity, state, class, procedure, line, position. */
  readonly detail?: Readonly<Record<string, string | number>>;
}

/** One result within a request that has several (multi-statement text, procedures, batches). */
export interface StatementResult {
  readonly tag: string | null;
  readonly rowsReturned: number | null;
  readonly rowsAffected: number | null;
  readonly columns?: readonly string[];
  /** The statement it came from, where the request's text had several and could be split for certain. */
  readonly text?: string;
}

export class Statement {
  readonly kind: StatementKind;
  /** UTF-8 text, cut at `STATEMENT_TEXT_BYTES_MAX`; null where the request has none that is known. */
  text: string | null;
  /** Length of the whole text in bytes: as it was sent, or in UTF-8 where the protocol has UTF-16. */
  textBytes: number;
  /** Hex; set by the observer only when `text` was cut. The recorder computes it otherwise. */
  textSha256: string | null = null;
  /** Prepared statement, portal or procedure name; null for none. */
  name: string | null = null;
  parameters: Parameter[] | null = null;
  /** The text or parameters could not be decoded; the bytes passed all the same. */
  opaque = false;

  // Completion: set by the observer before it calls `Sink.end`.
  status: StatementStatus = 'unknown';
  rowsReturned: number | null = null;
  /** From the protocol's own count; a bigint beyond 2^53. */
  rowsAffected: number | bigint | null = null;
  /** PostgreSQL's command tag; null elsewhere. */
  tag: string | null = null;
  error: StatementError | null = null;
  /** Only where a request had more than one result. */
  results: StatementResult[] | null = null;
  /** Column names of the (last) result. */
  columns: readonly string[] | null = null;
  /** The first rows of the result as text, when result samples are on. */
  sample: (readonly (string | null)[])[] | null = null;
  /** Notices, PRINT output and return status, bounded by the observer. */
  messages: string[] | null = null;
  returnStatus: number | null = null;
  /** Output parameters of a call, as they came back; null where there were none. */
  outputs: Parameter[] | null = null;
  /** Bytes of this request toward the server, and of its answers toward the client. */
  bytesSent = 0;
  bytesReceived = 0;
  transaction: TransactionState = 'unknown';

  // The recorder's own.
  seq = 0;
  startedAt = 0;
  /** How many parameters the start event carried, and whether anything in it was masked. */
  recordedParameters = 0;
  masked = false;

  constructor(kind: StatementKind, text: string | null, textBytes: number) {
    this.kind = kind;
    this.text = text;
    this.textBytes = textBytes;
  }
}
