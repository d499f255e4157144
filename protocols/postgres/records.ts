import { Statement } from '../statement.ts';
import { BIND, DESCRIBE, EXECUTE, PARSE } from './messages.ts';
import { DESCRIBE_PORTAL, type Operation } from './operations.ts';
import type { Portal } from './statements.ts';

/** The record of an Execute of `portal`, which the client calls `name`; null for one that was not opened by Bind. */
export function executionOf(portal: Portal | null, name: string): Statement {
  const prepared = portal === null ? null : portal.prepared;
  if (prepared === null) {
    const statement = new Statement('execute', null, 0);
    statement.name = (portal === null ? '' : portal.preparedName) || name || null;
    if (portal !== null) statement.parameters = portal.parameters;
    return statement;
  }
  const statement = new Statement(prepared.copies ? 'copy' : 'execute', prepared.text, prepared.textBytes);
  statement.textSha256 = prepared.textSha256;
  statement.name = prepared.name || name || null;
  statement.parameters = portal!.parameters;
  statement.opaque = portal!.opaque;
  return statement;
}

/** The record of a Parse, Bind, Describe or Close that failed without an Execute behind it. */
export function failureOf(operation: Operation): Statement {
  const prepared = operation.prepared ?? operation.portal?.prepared ?? null;
  const kind = operation.kind === PARSE ? 'prepare' : operation.kind === BIND ? 'execute' : 'command';
  const statement = new Statement(kind, prepared?.text ?? null, prepared?.textBytes ?? 0);
  statement.textSha256 = prepared?.textSha256 ?? null;
  statement.name = operation.portal?.preparedName || operation.name || null;
  statement.parameters = operation.portal?.parameters ?? null;
  return statement;
}

/**
 * Takes an operation's statement from it, and from its portal. Null when there is none, or when it is over already:
 * the Executes of one portal share one.
 */
export function takeStatement(operation: Operation): Statement | null {
  const { statement, portal } = operation;
  operation.statement = null;
  if (statement === null || portal === null || operation.kind !== EXECUTE) return statement;
  portal.pending -= 1;
  if (portal.statement !== statement) return null;
  portal.statement = null;
  return statement;
}

/** Whether an Execute is what a failed Parse, Bind or Describe was sent for. */
export function belongs(execute: Operation, failed: Operation): boolean {
  const { portal } = execute;
  if (portal === null) return false;
  if (failed.kind === PARSE) return portal.prepared === failed.prepared;
  if (failed.kind === BIND) return portal === failed.portal;
  if (failed.kind === DESCRIBE) return portal.preparedName === failed.name;
  return failed.kind === DESCRIBE_PORTAL && portal.name === failed.name;
}
