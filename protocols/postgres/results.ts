import type { Statement, StatementError, StatementResult } from '../statement.ts';
import type { RowDescription, ServerMessage } from './messages.ts';
import { ERROR_TEXT_LENGTH_MAX, NOTICES_MAX, RESULTS_MAX } from './stream-limits.ts';
import type { Tag } from './tags.ts';

/** What one result of a statement came to. */
export interface Outcome {
  /** Null for an empty text, and for a portal that was read in part. */
  readonly tag: Tag | null;
  /** DataRows that went to the client. */
  readonly rows: number;
  /** A RowDescription opened the result. */
  readonly described: boolean;
  /** The rows went to the client by COPY. */
  readonly copiedOut: boolean;
  readonly description: RowDescription | null;
  readonly sample: (readonly (string | null)[])[] | null;
}

/** SQLSTATE query_canceled: a cancel request, a statement timeout, or CopyFail. */
const QUERY_CANCELED = '57014';

/**
 * Adds a result to its statement. `earlier` is the number of results that the statement has had: their sums are in its
 * own fields, and the single results are kept apart from the second one on.
 */
export function addResult(statement: Statement, earlier: number, outcome: Outcome): void {
  const { tag, description, sample } = outcome;
  const returned = returnedOf(outcome);
  const affected = affectedOf(outcome, returned);
  const columns = description === null ? null : description.names;
  if (earlier > 0) {
    if (earlier === 1) statement.results = [soFar(statement)];
    if (earlier < RESULTS_MAX) {
      const result: StatementResult = {
        tag: tag === null ? null : tag.text,
        rowsReturned: returned,
        rowsAffected: affected === null ? null : Number(affected),
      };
      statement.results?.push(columns === null ? result : { ...result, columns });
    }
    if (returned !== null) statement.rowsReturned = (statement.rowsReturned ?? 0) + returned;
    if (affected !== null) statement.rowsAffected = sum(statement.rowsAffected, affected);
    if (tag !== null) statement.tag = tag.text;
  } else {
    statement.rowsReturned = returned;
    statement.rowsAffected = affected;
    statement.tag = tag === null ? null : tag.text;
  }
  if (columns !== null) statement.columns = columns;
  if (sample !== null && statement.sample === null) statement.sample = sample;
}

/** An error ends a statement that had a result before: that result is kept apart from the whole. */
export function keepResults(statement: Statement, earlier: number): void {
  if (earlier === 1) statement.results = [soFar(statement)];
}

function soFar(statement: Statement): StatementResult {
  const { rowsAffected, columns } = statement;
  const result: StatementResult = {
    tag: statement.tag,
    rowsReturned: statement.rowsReturned,
    rowsAffected: rowsAffected === null ? null : Number(rowsAffected),
  };
  return columns === null ? result : { ...result, columns };
}

function returnedOf({ tag, rows, described, copiedOut }: Outcome): number | null {
  if (tag === null) return described || rows > 0 ? rows : null;
  if (tag.counted === 'copied') return copiedOut ? Number(tag.count) : null;
  // SELECT INTO and CREATE TABLE AS count rows that nobody was sent.
  if (tag.counted === 'returned' && (described || tag.count === 0)) return rows;
  return described || rows > 0 ? rows : null;
}

function affectedOf({ tag, copiedOut }: Outcome, returned: number | null): number | bigint | null {
  if (tag === null) return null;
  if (tag.counted === 'affected') return tag.count;
  if (tag.counted === 'copied') return copiedOut ? null : tag.count;
  return tag.counted === 'returned' && returned === null ? tag.count : null;
}

function sum(one: number | bigint | null, other: number | bigint): number | bigint {
  if (one === null) return other;
  if (typeof one === 'number' && typeof other === 'number' && Number.isSafeInteger(one + other)) {
    return one + other;
  }
  return BigInt(one) + BigInt(other);
}

/** Ends a statement by the server's error; what it had sent and counted before stays. */
export function addError(statement: Statement, message: ServerMessage): void {
  statement.status = message.code === QUERY_CANCELED ? 'cancelled' : 'error';
  statement.error = errorOf(message);
}

function errorOf({ severity, code, message, detail }: ServerMessage): StatementError {
  return {
    code,
    message: message.slice(0, ERROR_TEXT_LENGTH_MAX),
    detail: severity === 'ERROR' ? detail : { severity, ...detail },
  };
}

/** A notice that came while the statement ran. */
export function addNotice(statement: Statement, { severity, code, message }: ServerMessage): void {
  statement.messages ??= [];
  if (statement.messages.length >= NOTICES_MAX) return;
  statement.messages.push(`${severity} ${code}: ${message.slice(0, ERROR_TEXT_LENGTH_MAX)}`);
}
