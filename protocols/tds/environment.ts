import type { Connection } from './conversation.ts';
import type { Cursor } from './cursor.ts';

/** Types of ENVCHANGE (MS-TDS 2.2.7.9) that the record follows. */
const Environment = {
  database: 1,
  language: 2,
  begun: 8,
  committed: 9,
  rolledBack: 10,
  enlisted: 11,
  defect: 12,
  ended: 17,
  reset: 18,
} as const;

/**
 * What an ENVCHANGE means for the session: its database, its language, its transaction, that it was reset. `cursor` stands
 * behind the type. `keepsTransaction`: the reset that was asked for leaves the transaction as it is.
 */
export function followEnvironment(
  type: number,
  cursor: Cursor,
  connection: Connection,
  keepsTransaction: boolean,
): void {
  switch (type) {
    case Environment.database: {
      const database = cursor.shortText();
      if (!cursor.short) changeDatabase(connection, database);
      return;
    }
    case Environment.language: {
      const language = cursor.shortText();
      const before = cursor.shortText();
      if (cursor.short || language === before) return;
      connection.sink.note({ kind: 'session_changed', what: 'language', value: language });
      return;
    }
    case Environment.begun:
    case Environment.enlisted:
      connection.transaction = 'active';
      return;
    case Environment.committed:
    case Environment.rolledBack:
    case Environment.ended:
      connection.transaction = 'idle';
      return;
    case Environment.defect:
      connection.transaction = 'failed';
      return;
    case Environment.reset:
      connection.sink.note({ kind: 'session_changed', what: 'connection', value: 'reset' });
      if (!keepsTransaction) connection.transaction = 'idle';
      // The database is that of the sign-in again, and the server need not say so.
      if (connection.facts.database !== null) changeDatabase(connection, connection.facts.database);
      return;
    default:
      return;
  }
}

function changeDatabase(connection: Connection, database: string): void {
  if (database === connection.database) return;
  connection.database = database;
  connection.sink.note({ kind: 'database_changed', database });
}
