import { createHash } from 'node:crypto';
import type { Statement } from '../../protocols/statement.ts';
import type { MaskedSession, StatementMasker } from './masking.ts';

/**
 * A statement as those may see it who follow a session live: masked by the rules under which it is recorded. Made from a
 * copy: what the recorder reads is not touched.
 */
export function presentStatement(
  masker: StatementMasker,
  session: MaskedSession,
  statement: Statement,
): Record<string, unknown> {
  const masked = masker.statement(session, statement);
  const outcome = Object.assign(Object.create(Object.getPrototypeOf(statement)) as Statement, statement);
  masker.outcome(session, outcome, masked?.secrets ?? []);
  const text = masked === null ? statement.text : masked.text;
  const ended = statement.status !== 'unknown';
  return {
    seq: statement.seq,
    kind: statement.kind,
    name: statement.name,
    text,
    // Of the masked text where it was masked: the other digest would let the secret be guessed.
    text_sha256:
      (masked === null ? statement.textSha256 : null) ??
      (text === null ? null : createHash('sha256').update(text).digest('hex')),
    parameters: (masked === null ? statement.parameters : masked.parameters) ?? [],
    ...(ended
      ? {
          status: outcome.status,
          rows_returned: outcome.rowsReturned,
          rows_affected: outcome.rowsAffected === null ? null : Number(outcome.rowsAffected),
          error: outcome.error,
          bytes_sent: outcome.bytesSent,
          bytes_received: outcome.bytesReceived,
          transaction: outcome.transaction,
        }
      : {}),
  };
}
