/**
 * What of the recordings can be searched: sessions, and of their statements the fields one asks by. An index and no
 * record: it can be deleted and made anew from the recordings, and nothing is proved by it.
 *
 * It holds statement texts in the clear, each once however often it ran. Where the gateway's disk must show nothing, it is
 * kept to sessions.
 *
 * Every method rejects with an `IndexError`.
 */
export interface RecordingIndex {
  /** Adds rows; those that are there already are replaced. All or none. */
  write(rows: IndexRows): Promise<void>;
  /** The latest first. */
  sessions(filter: SessionFilter): Promise<SessionRow[]>;
  session(id: string): Promise<SessionRow | null>;
  /** The latest first. */
  search(filter: StatementFilter): Promise<StatementRow[]>;
  /** Sessions not under legal hold that ended before `time`, the oldest first; those of `owner` alone where it is given. */
  endedBefore(time: number, limit: number, owner?: IndexOwner): Promise<SessionRow[]>;
  /**
   * Sets or lifts the legal hold of a session, and keeps that `by` did so until a gateway has put it on record; false
   * when the session is not in the index.
   */
  hold(session: string, held: boolean, by: string): Promise<boolean>;
  /**
   * Gives `put` what `hold` did that is not yet on record, in order, and forgets it when what `put` gives has resolved. Of several
   * gateways that ask at once, one is given it.
   */
  recordHolds(put: (changes: readonly HoldChange[]) => void | Promise<void>): Promise<void>;
  remove(session: string): Promise<void>;
  /** Marks what a gateway left open in runs before `boot` as interrupted. */
  interrupt(gateway: string, boot: string): Promise<void>;
  /** Bytes and sessions by resource. */
  sizes(): Promise<{ resource: string; sessions: number; bytes: number }[]>;
  /** Runs `work` unless another gateway with the same index runs such work now: null then. */
  alone<T>(work: () => Promise<T>): Promise<T | null>;
  close(): Promise<void>;
}

/** Of several gateways with one index, whose sessions one of them may delete: its own, and those on its resources. */
export interface IndexOwner {
  readonly gateway: string;
  readonly resources: readonly string[];
}

/** `away`: the server of the index cannot be reached; `version`: the index is of another version; `failed`: all else. */
export type IndexErrorCode = 'away' | 'version' | 'failed';

export class IndexError extends Error {
  readonly code: IndexErrorCode;

  constructor(code: IndexErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'IndexError';
    this.code = code;
  }
}

export interface HoldChange {
  readonly id: number;
  readonly session: string;
  readonly resource: string;
  readonly held: number;
  readonly by: string;
  /** Milliseconds since the epoch. */
  readonly at: number;
}

export interface IndexRows {
  readonly sessions: readonly SessionPatch[];
  readonly statements: readonly StatementRow[];
  /** Outcomes of statements that are in the index already; of those that are not, nothing is kept. After `statements`. */
  readonly ends?: readonly StatementEnd[];
}

export type StatementEnd = Pick<
  StatementRow,
  'session' | 'seq' | 'status' | 'rows_returned' | 'rows_affected' | 'duration_us' | 'error_code'
>;

export type SessionStateName = 'live' | 'ended' | 'interrupted';

export interface SessionRow {
  readonly id: string;
  readonly gateway: string;
  readonly principal: string;
  readonly resource: string;
  readonly engine: string;
  readonly database: string | null;
  readonly database_user: string;
  readonly client_address: string;
  readonly client_program: string | null;
  readonly server_session: string | null;
  /** Milliseconds since the epoch. */
  readonly started_at: number;
  readonly ended_at: number | null;
  readonly state: SessionStateName;
  readonly reason: string | null;
  readonly statements: number;
  readonly errors: number;
  readonly denied: number;
  readonly rows_returned: number;
  /** Of the sealed parts. */
  readonly bytes: number;
  readonly parts: number;
  readonly held: number;
  /** The highest of its statements, as a place in `RISKS`; null where it was indexed before risk was judged. */
  readonly risk: number | null;
  readonly risk_reason: string | null;
}

/** `add` fields grow by what is given, the others are set where they are given. */
export interface SessionPatch {
  readonly id: string;
  readonly set: Partial<Omit<SessionRow, 'id' | 'held'>>;
  readonly add: Partial<
    Record<'statements' | 'errors' | 'denied' | 'rows_returned' | 'bytes' | 'parts', number>
  >;
  /** Raises the session's risk to this, where it is lower. After `set`. */
  readonly raise?: { readonly risk: number; readonly risk_reason: string | null };
}

export interface StatementRow {
  readonly session: string;
  readonly seq: number;
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly kind: string;
  readonly text: string | null;
  readonly status: string;
  readonly rows_returned: number | null;
  readonly rows_affected: number | null;
  readonly duration_us: number | null;
  readonly error_code: string | null;
  /** Tables touched, lower case, as the text names them. */
  readonly tables: readonly string[];
  readonly effects: readonly string[];
  /** A place in `RISKS`; null where it was indexed before risk was judged. */
  readonly risk: number | null;
  readonly risk_reason: string | null;
}

export interface SessionFilter {
  readonly principal?: string;
  readonly resource?: string;
  readonly engine?: string;
  readonly state?: SessionStateName;
  /** Under legal hold. */
  readonly held?: true;
  readonly reason?: string;
  /** At least so risky: of sessions their riskiest statement, of statements themselves. A place in `RISKS`. */
  readonly riskMin?: number;
  readonly since?: number;
  readonly until?: number;
  readonly limit: number;
  readonly offset?: number;
}

export interface StatementFilter extends SessionFilter {
  readonly session?: string;
  readonly seq?: number;
  /** Words that the text must hold, all of them. */
  readonly text?: string;
  readonly table?: string;
  readonly effect?: string;
  readonly status?: string;
  readonly rowsMin?: number;
  readonly durationMsMin?: number;
}

export const RESULTS_MAX = 10_000;
