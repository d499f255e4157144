import type { Output } from './output.ts';
import { type SessionState, SqlError } from './state.ts';
import { shortText } from './wire.ts';

/** Transactions and the database context of the test double, with the ENVCHANGEs that tell of them. */

let nextDescriptor = 1n;

export function beginTransaction(state: SessionState, output: Output): void {
  state.transactions += 1;
  if (state.transactions > 1) return;
  state.snapshot = state.capture();
  state.descriptor = (nextDescriptor << 32n) | 1n;
  nextDescriptor += 1n;
  output.change(Buffer.concat([Buffer.from([8, 8]), descriptorBytes(state), Buffer.from([0])]));
}

function descriptorBytes(state: SessionState): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(state.descriptor);
  return bytes;
}

export function commitTransaction(state: SessionState, output: Output): void {
  if (state.transactions === 0) {
    throw new SqlError(3902, 16, 'The COMMIT TRANSACTION request has no corresponding BEGIN TRANSACTION.');
  }
  state.transactions -= 1;
  if (state.transactions > 0) return;
  state.snapshot = null;
  state.savepoints.clear();
  output.change(Buffer.concat([Buffer.from([9, 0, 8]), descriptorBytes(state)]));
}

export function rollbackTransaction(state: SessionState, output: Output, name: string): void {
  const saved = state.savepoints.get(name.toLowerCase());
  if (saved !== undefined) {
    state.restore(saved);
    return;
  }
  if (state.transactions === 0) {
    throw new SqlError(3903, 16, 'The ROLLBACK TRANSACTION request has no corresponding BEGIN TRANSACTION.');
  }
  state.restore(state.snapshot!);
  state.transactions = 0;
  state.snapshot = null;
  state.savepoints.clear();
  output.change(Buffer.concat([Buffer.from([10, 0, 8]), descriptorBytes(state)]));
}

export function useDatabase(state: SessionState, output: Output, database: string): void {
  const found = state.databases.find((name) => name.toLowerCase() === database.toLowerCase());
  if (found === undefined) {
    throw new SqlError(
      911,
      16,
      `Database '${database}' does not exist. Make sure that the name is entered correctly.`,
      true,
    );
  }
  output.change(Buffer.concat([Buffer.from([1]), shortText(found), shortText(state.database)]));
  state.database = found;
  const text = `Changed database context to '${found}'.`;
  output.message(false, { number: 5701, state: 2, class: 0, text, procedure: '', line: 1 });
}
