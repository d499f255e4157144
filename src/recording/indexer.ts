import type { Dialect } from '../../protocols/sql/lexer.ts';
import type { IndexRows, RecordingIndex, SessionPatch, StatementRow } from '../store/recording-index.ts';
import { type Judged, StatementClasses } from './classes.ts';
import { type JournalEvent, type StatementEndedEvent, type StatementStartedEvent, timeMs } from './events.ts';
import type { PostgresParser } from './relations.ts';
import { dialectOf, RISKS, UNREAD } from './risk.ts';
import type { SealedPart } from './sealer.ts';

/** Rows that wait for their transaction. */
const WAITING_MAX = 5_000;
/** Statements of one session begun and not ended; beyond, the oldest is indexed as unknown. */
const STARTED_MAX = 50_000;

/** Hears the events of all sessions in order and keeps the index in step, some thousand rows a transaction. */
export class Indexer {
  readonly #index: RecordingIndex;
  /** Keep statements, and not sessions alone. */
  readonly #statements: boolean;
  readonly #classes: StatementClasses;
  readonly #sessions = new Map<string, KnownSession>();
  #rows: { sessions: SessionPatch[]; statements: StatementRow[] } = { sessions: [], statements: [] };

  constructor(index: RecordingIndex, statements: boolean, parser: PostgresParser | null = null) {
    this.#index = index;
    this.#statements = statements;
    this.#classes = new StatementClasses(parser);
  }

  hear(event: JournalEvent, session: string): void {
    switch (event.type) {
      case 'session_started': {
        this.#sessions.set(session, { dialect: dialectOf(event.engine), started: new Map(), last: null });
        const { type: _, session: id, at, ...facts } = event;
        const set = {
          gateway: facts.gateway,
          principal: facts.principal,
          resource: facts.resource,
          engine: facts.engine,
          database: facts.database,
          database_user: facts.database_user,
          client_address: facts.client_address,
          client_program: facts.client_program,
          server_session: facts.server_session,
          started_at: timeMs(at),
          state: 'live' as const,
          // A session is heard from its beginning again when an index is made anew, or after a crash.
          statements: 0,
          errors: 0,
          denied: 0,
          rows_returned: 0,
          risk: 0,
          risk_reason: null,
        };
        this.#rows.sessions.push({ id, set, add: {} });
        break;
      }
      case 'statement_started':
        this.#begin(event);
        break;
      case 'statement_ended':
        this.#end(event);
        break;
      case 'session_ended': {
        const state = event.reason === 'interrupted' ? ('interrupted' as const) : ('ended' as const);
        this.#rows.sessions.push({
          id: session,
          set: { ended_at: timeMs(event.at), reason: event.reason, state, statements: event.statements },
          add: {},
        });
        this.#forget(session);
        break;
      }
      default:
        return;
    }
    if (this.#rows.sessions.length + this.#rows.statements.length >= WAITING_MAX) this.flush();
  }

  sealed(part: Pick<SealedPart, 'session' | 'part' | 'bytes'>): void {
    this.#rows.sessions.push({ id: part.session, set: { parts: part.part }, add: { bytes: part.bytes } });
  }

  /**
   * Writes all that is known of a session: what was heard so far will not be heard again after a crash. A statement that
   * still runs is written as `unknown`, and replaced when it ends.
   */
  settle(session: string): void {
    for (const start of this.#sessions.get(session)?.started.values() ?? [])
      this.#rows.statements.push(this.#row(start, null));
    this.flush();
  }

  /** Writes what waits. Throws what the index throws; the rows are lost to the index then, never to the recordings. */
  flush(): void {
    const rows: IndexRows = this.#rows;
    if (rows.sessions.length + rows.statements.length === 0) return;
    this.#rows = { sessions: [], statements: [] };
    this.#index.write({ sessions: merged(rows.sessions), statements: rows.statements });
  }

  #begin(event: StatementStartedEvent): void {
    const { risk, risk_reason } = this.#classify(event);
    this.#rows.sessions.push({
      id: event.session,
      set: { statements: event.seq },
      add: {},
      ...(risk === null || risk === 0 ? {} : { raise: { risk, risk_reason } }),
    });
    if (!this.#statements) return;
    const { started } = this.#session(event.session);
    started.set(event.seq, event);
    if (started.size > STARTED_MAX) {
      const oldest = started.values().next().value!;
      started.delete(oldest.seq);
      this.#rows.statements.push(this.#row(oldest, null));
    }
  }

  /** What is known of a session; of one that began before this process, from the index. */
  #session(id: string): KnownSession {
    let session = this.#sessions.get(id);
    if (session === undefined) {
      session = { dialect: dialectOf(this.#index.session(id)?.engine ?? ''), started: new Map(), last: null };
      this.#sessions.set(id, session);
    }
    return session;
  }

  #end(event: StatementEndedEvent): void {
    const failed = event.status === 'error' ? 1 : 0;
    const denied = event.status === 'denied' ? 1 : 0;
    const rows = Number(event.rows_returned ?? 0);
    if (failed + denied + rows > 0) {
      this.#rows.sessions.push({
        id: event.session,
        set: {},
        add: { errors: failed, denied, rows_returned: rows },
      });
    }
    if (!this.#statements) return;
    const started = this.#sessions.get(event.session)?.started;
    const start = started?.get(event.seq);
    if (started === undefined || start === undefined) {
      // It began before this process did: its row is there already.
      const known = this.#index.search({ limit: 1, session: event.session, seq: event.seq })[0];
      if (known !== undefined) this.#rows.statements.push({ ...known, ...outcomeOf(event) });
      return;
    }
    started.delete(event.seq);
    this.#rows.statements.push(this.#row(start, event));
  }

  /** Statements of a session that is over and that have no end. */
  #forget(session: string): void {
    const started = this.#sessions.get(session)?.started.values() ?? [];
    for (const start of started) this.#rows.statements.push(this.#row(start, null));
    this.#sessions.delete(session);
  }

  #row(start: StatementStartedEvent, end: StatementEndedEvent | null): StatementRow {
    return {
      session: start.session,
      seq: start.seq,
      at: timeMs(start.at),
      kind: start.kind,
      text: start.text,
      ...outcomeOf(end),
      ...this.#classify(start),
    };
  }

  #classify({ session, text, opaque }: StatementStartedEvent): Judged {
    if (text === null) return opaque ? NOT_READ : NO_CLASS;
    const state = this.#session(session);
    // Most statements end before their session's next begins.
    if (state.last?.text !== text) state.last = { text, judged: this.#classes.judge(text, state.dialect) };
    return state.last.judged;
  }
}

interface KnownSession {
  readonly dialect: Dialect;
  readonly started: Map<number, StatementStartedEvent>;
  /** What was judged last. */
  last: { readonly text: string; readonly judged: Judged } | null;
}

const NO_CLASS: Judged = { tables: [], effects: [], risk: 0, risk_reason: null };
const NOT_READ: Judged = { ...NO_CLASS, risk: RISKS.indexOf(UNREAD.level), risk_reason: UNREAD.reason };

function outcomeOf(
  end: StatementEndedEvent | null,
): Pick<StatementRow, 'status' | 'rows_returned' | 'rows_affected' | 'duration_us' | 'error_code'> {
  return {
    status: end?.status ?? 'unknown',
    rows_returned: numberOf(end?.rows_returned),
    rows_affected: numberOf(end?.rows_affected),
    duration_us: end?.duration_us ?? null,
    error_code: end?.error?.code ?? null,
  };
}

function numberOf(count: number | string | null | undefined): number | null {
  return count === null || count === undefined ? null : Math.min(Number(count), Number.MAX_SAFE_INTEGER);
}

/** One patch a session, in order: most sessions have many in a transaction. */
function merged(patches: readonly SessionPatch[]): SessionPatch[] {
  const byId = new Map<
    string,
    { id: string; set: Record<string, unknown>; add: Record<string, number>; raise?: SessionPatch['raise'] }
  >();
  for (const { id, set, add, raise } of patches) {
    let patch = byId.get(id);
    if (patch === undefined) {
      patch = { id, set: {}, add: {} };
      byId.set(id, patch);
    }
    Object.assign(patch.set, set);
    // What is set begins anew: what was to be added before goes with it.
    for (const name of Object.keys(set)) if (name in patch.add) delete patch.add[name];
    // A session that is heard from its beginning again begins with no risk.
    if ('risk' in set) delete patch.raise;
    if (raise !== undefined && raise.risk > (patch.raise?.risk ?? -1)) patch.raise = raise;
    for (const [name, value] of Object.entries(add)) {
      if (name in patch.set) patch.set[name] = Number(patch.set[name]) + value;
      else patch.add[name] = (patch.add[name] ?? 0) + value;
    }
  }
  return [...byId.values()] as SessionPatch[];
}
