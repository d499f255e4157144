import type { Note } from '../../protocols/engine.ts';
import type { Parameter, Statement } from '../../protocols/statement.ts';
import type {
  AuditEvent,
  Recorder,
  SessionEnd,
  SessionRecord,
  SessionStart,
  Waiter,
} from '../../src/recording/recorder.ts';

/** A statement as it stood when it ended (or, while it runs, as it stood when it began). */
export interface RecordedStatement {
  kind: string;
  seq: number;
  text: string | null;
  textBytes: number;
  textSha256: string | null;
  name: string | null;
  parameters: Parameter[] | null;
  opaque: boolean;
  ended: boolean;
  status: string;
  rowsReturned: number | null;
  rowsAffected: number | bigint | null;
  tag: string | null;
  error: Statement['error'];
  results: Statement['results'];
  columns: readonly string[] | null;
  sample: Statement['sample'];
  messages: string[] | null;
  returnStatus: number | null;
  outputs: Statement['outputs'];
  bytesSent: number;
  bytesReceived: number;
  transaction: string;
}

export class RecordedSession implements SessionRecord {
  readonly id: string;
  readonly start: SessionStart;
  readonly statements: RecordedStatement[] = [];
  readonly notes: Note[] = [];
  end_: SessionEnd | null = null;
  readonly #open = new Map<Statement, RecordedStatement>();
  readonly #changed: () => void;

  constructor(start: SessionStart, changed: () => void) {
    this.id = start.session;
    this.start = start;
    this.#changed = changed;
  }

  begin(statement: Statement): void {
    statement.seq = this.statements.length + 1;
    statement.startedAt = Date.now();
    const recorded = snapshot(statement, false);
    this.#open.set(statement, recorded);
    this.statements.push(recorded);
    this.#changed();
  }

  end(statement: Statement): void {
    const recorded = this.#open.get(statement);
    if (recorded === undefined) throw new Error('a statement ended that had not begun, or ended twice');
    this.#open.delete(statement);
    Object.assign(recorded, snapshot(statement, true));
    this.#changed();
  }

  note(note: Note): void {
    this.notes.push(note);
    this.#changed();
  }

  close(end: SessionEnd): void {
    this.end_ = end;
    this.#changed();
  }
}

/**
 * A recorder that keeps everything in memory, for tests of what is recorded. It defers `written()` to the end of the
 * turn of the event loop, as the journal does. `failNext` makes it behave as a journal that cannot be written.
 */
export class MemoryRecorder implements Recorder {
  readonly sessions: RecordedSession[] = [];
  readonly audits: AuditEvent[] = [];
  failed: Error | null = null;
  #waiters: Waiter[] = [];
  #listeners: ((error: Error) => void)[] = [];
  #watchers: (() => void)[] = [];

  session(start: SessionStart): SessionRecord {
    if (this.failed) throw this.failed;
    const session = new RecordedSession(start, () => this.#changed());
    this.sessions.push(session);
    this.#changed();
    return session;
  }

  audit(event: AuditEvent): void {
    this.audits.push(event);
    this.#changed();
  }

  afterWrite(waiter: Waiter): void {
    if (this.#waiters.length === 0) setImmediate(() => this.#tell());
    this.#waiters.push(waiter);
  }

  async flushed(): Promise<void> {
    if (this.failed) throw this.failed;
    await new Promise<void>((resolve) => this.afterWrite({ written: resolve }));
  }

  onFailure(listener: (error: Error) => void): void {
    this.#listeners.push(listener);
  }

  fail(error: Error): void {
    this.failed = error;
    for (const listener of this.#listeners) listener(error);
  }

  async close(): Promise<void> {}

  /** All statements of all sessions, in the order in which they began within each session. */
  get statements(): RecordedStatement[] {
    return this.sessions.flatMap((session) => session.statements);
  }

  /** Resolves when `condition` holds; looked at after every event. Rejects after `milliseconds`, with what there is. */
  async until(condition: () => boolean, milliseconds = 10_000): Promise<void> {
    if (condition()) return;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        const seen = JSON.stringify(this.statements, (_key, value) =>
          typeof value === 'bigint' ? `${value}` : value,
        );
        reject(new Error(`the record did not come to what was expected; it has ${seen.slice(0, 4000)}`));
      }, milliseconds);
      this.#watchers.push(() => {
        if (!condition()) return;
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #tell(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.written();
  }

  #changed(): void {
    for (const watcher of this.#watchers) watcher();
  }
}

function snapshot(statement: Statement, ended: boolean): RecordedStatement {
  return {
    kind: statement.kind,
    seq: statement.seq,
    text: statement.text,
    textBytes: statement.textBytes,
    textSha256: statement.textSha256,
    name: statement.name,
    parameters: statement.parameters,
    opaque: statement.opaque,
    ended,
    status: statement.status,
    rowsReturned: statement.rowsReturned,
    rowsAffected: statement.rowsAffected,
    tag: statement.tag,
    error: statement.error,
    results: statement.results,
    columns: statement.columns,
    sample: statement.sample,
    messages: statement.messages,
    returnStatus: statement.returnStatus,
    outputs: statement.outputs,
    bytesSent: statement.bytesSent,
    bytesReceived: statement.bytesReceived,
    transaction: statement.transaction,
  };
}
