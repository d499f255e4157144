import { parseExpression, parseList, type Scope, type TokenCursor } from './expressions.ts';
import { Cancelled, Command, type Output } from './output.ts';
import { type SessionState, SqlError } from './state.ts';
import * as types from './types.ts';

/** Statements of the test double that only say something or wait. */

export interface Run {
  readonly scope: Scope;
  readonly state: SessionState;
  readonly output: Output;
}

export type Statement = (run: Run) => Promise<void>;

export function parsePrint(cursor: TokenCursor): Statement {
  const value = parseExpression(cursor);
  return async ({ scope, output }) => {
    const text = types.text(value(scope).value);
    output.message(false, { number: 0, state: 1, class: 0, text, procedure: '', line: 1 });
  };
}

export function parseRaise(cursor: TokenCursor): Statement {
  const [message, severity, errorState] = parseList(cursor);
  if (cursor.accept('WITH')) cursor.next();
  return async ({ scope, state, output }) => {
    const level = Number(severity!(scope).value);
    const text = types.text(message!(scope).value);
    const code = Number(errorState!(scope).value);
    if (level > 10) throw new SqlError(50_000, level, text, false, code);
    state.lastError = 0;
    output.message(false, { number: 50_000, state: code, class: level, text, procedure: '', line: 1 });
  };
}

export function parseThrow(cursor: TokenCursor): Statement {
  const number = parseExpression(cursor);
  cursor.expect(',');
  const message = parseExpression(cursor);
  cursor.expect(',');
  const errorState = parseExpression(cursor);
  return async ({ scope }) => {
    const text = types.text(message(scope).value);
    throw new SqlError(Number(number(scope).value), 16, text, true, Number(errorState(scope).value));
  };
}

export function parseWait(cursor: TokenCursor): Statement {
  cursor.expect('DELAY');
  const delay = parseExpression(cursor);
  return async ({ scope, output }) => {
    const [hours, minutes, seconds] = types.text(delay(scope).value).split(':').map(Number);
    const until = Date.now() + ((hours ?? 0) * 3600 + (minutes ?? 0) * 60 + (seconds ?? 0)) * 1000;
    while (Date.now() < until) {
      if (output.cancelled) throw new Cancelled();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    output.done(Command.none, null);
  };
}
