import type { Statement, TransactionState } from '../../protocols/statement.ts';

/** An open session, as others may see it. */
export interface SessionSummary {
  readonly session: string;
  readonly principal: string;
  readonly resource: string;
  readonly engine: string;
  /** Milliseconds since the epoch. */
  readonly startedAt: number;
  readonly clientAddress: string;
  readonly clientProgram: string | null;
  readonly databaseUser: string;
  readonly database: string | null;
  /** The server's own id for it: pid, connection id or spid. */
  readonly serverSession: string | null;
  readonly launch: string | null;
  readonly busy: boolean;
  readonly transaction: TransactionState;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** Hears of one session's statements as they happen. Called synchronously, on the hot path: it must be quick. */
export interface SessionWatcher {
  began(statement: Statement): void;
  ended(statement: Statement): void;
  closed(): void;
}
