import type { Dialect } from '../../protocols/sql/lexer.ts';
import type {
  IndexRows,
  RecordingIndex,
  SessionPatch,
  StatementEnd,
  StatementRow,
} from '../store/recording-index.ts';
import { type Judged, StatementClasses } from './classes.ts';
import { type JournalEvent, type StatementEndedEvent, type StatementStartedEvent, timeMs } from './events.ts';
import type { PostgresParser } from './relations.ts';
import { dialectOf, RISKS, UNREAD } from './risk.ts';
import type { SealedPart } from './sealer.ts';

/** Statements of one session begun and not ended; beyond, the oldest is indexed as unknown. */
const STARTED_MAX = 50_000;

/**
 * Hears the events of all sessions in order and makes rows for the index of them. It writes nothing by itself: `take` gives
 * what waits, and who calls it writes it.
 */
export class Indexer {
  readonly #index: RecordingIndex;
  /** Keep statements, and not sessions alone. */
  readonly #statements: boolean;
  readonly #classes: StatementClasses;
  readonly #sessions = new Map<string, KnownSession>();
  /** Events of sessions that began before this process, whose dialect the index has to say. */
  #unplaced = new Map<string, JournalEvent[]>();
  #unplacedEvents = 0;
  #rows: Rows = { sessions: new Map(), statements: [], ends: [] };
  #characters = 0;

  /** `index` is asked about sessions that began before this process. */
  constructor(index: RecordingIndex, statements: boolean, parser: PostgresParser | null = null) {
    this.#index = index;
    this.#statements = statements;
    this.#classes = new StatementClasses(parser);
  }

  /** Rows and events that wait for `take`. */
  get waiting(): number {
    const { sessions, statements, ends } = this.#rows;
    return sessions.size + statements.length + ends.length + this.#unplacedEvents;
  }

  /** A session that this process has heard of, and that is not over. */
  isOpen(session: string): boolean {
    return this.#sessions.has(session) || this.#unplaced.has(session);
  }

  hear(event: JournalEvent, session: string): void {
    if (!INDEXED.has(event.type)) return;
    if (event.type !== 'session_started' && !this.#sessions.has(session)) {
      const events = this.#unplaced.get(session);
      if (events === undefined) this.#unplaced.set(session, [event]);
      else events.push(event);
      this.#unplacedEvents += 1;
      return;
    }
    this.#hear(event, session);
  }

  #hear(event: JournalEvent, session: string): void {
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
          bytes: 0,
          parts: 0,
          risk: 0,
          risk_reason: null,
        };
        this.#patch(id).begin(set);
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
        const { reason, statements } = event;
        Object.assign(this.#patch(session).set, { ended_at: timeMs(event.at), reason, state, statements });
        this.#forget(session);
        break;
      }
      default:
        return;
    }
  }

  sealed(part: Pick<SealedPart, 'session' | 'part' | 'bytes'>): void {
    const patch = this.#patch(part.session);
    patch.set['parts'] = part.part;
    patch.grow('bytes', part.bytes);
  }

  /**
   * Makes rows of all that is known of a session: what was heard so far will not be heard again after a crash. A statement
   * that still runs is `unknown`, and replaced when it ends.
   */
  settle(session: string): void {
    for (const start of this.#sessions.get(session)?.started.values() ?? [])
      this.#rows.statements.push(this.#row(start, null));
  }

  /**
   * Asks the index about sessions that began before this process, and makes rows of what was heard of them. Gives the
   * sessions that it could not be asked about, or not where `asks` is false: of those it is guessed.
   */
  async place(asks = true): Promise<string[]> {
    if (this.#unplaced.size === 0) return [];
    const unplaced = this.#unplaced;
    this.#unplaced = new Map();
    this.#unplacedEvents = 0;
    const guessed: string[] = [];
    for (const [session, events] of unplaced) {
      let engine = '';
      try {
        if (!asks) throw new Error('the index is away');
        engine = (await this.#index.session(session))?.engine ?? '';
      } catch {
        guessed.push(session);
      }
      this.#sessions.set(session, { dialect: dialectOf(engine), started: new Map(), last: null });
      for (const event of events) this.#hear(event, session);
    }
    return guessed;
  }

  /** What waits to be written; it waits no longer. */
  take(): TakenRows {
    const { sessions, statements, ends } = this.#rows;
    const characters = this.#characters;
    this.#rows = { sessions: new Map(), statements: [], ends: [] };
    this.#characters = 0;
    return {
      rows: { sessions: [...sessions.values()] as readonly SessionPatch[], statements, ends },
      characters,
    };
  }

  /** Writes what waits. Rejects with an `IndexError`; the rows are lost to the index then. */
  async write(): Promise<void> {
    await this.place();
    await this.#index.write(this.take().rows);
  }

  #begin(event: StatementStartedEvent): void {
    const { risk, risk_reason } = this.#classify(event);
    const patch = this.#patch(event.session);
    patch.set['statements'] = event.seq;
    if (risk !== null && risk > (patch.raise?.risk ?? 0)) patch.raise = { risk, risk_reason };
    if (!this.#statements) return;
    const { started } = this.#sessions.get(event.session)!;
    started.set(event.seq, event);
    if (started.size > STARTED_MAX) {
      const oldest = started.values().next().value!;
      started.delete(oldest.seq);
      this.#rows.statements.push(this.#row(oldest, null));
    }
  }

  #end(event: StatementEndedEvent): void {
    const failed = event.status === 'error' ? 1 : 0;
    const denied = event.status === 'denied' ? 1 : 0;
    const rows = Number(event.rows_returned ?? 0);
    if (failed + denied + rows > 0) {
      const patch = this.#patch(event.session);
      patch.grow('errors', failed);
      patch.grow('denied', denied);
      patch.grow('rows_returned', rows);
    }
    if (!this.#statements) return;
    const started = this.#sessions.get(event.session)?.started;
    const start = started?.get(event.seq);
    if (started === undefined || start === undefined) {
      // It began before this process did: its row is there already.
      this.#rows.ends.push({ session: event.session, seq: event.seq, ...outcomeOf(event) });
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

  #patch(session: string): Patch {
    let patch = this.#rows.sessions.get(session);
    if (patch === undefined) {
      patch = new Patch(session);
      this.#rows.sessions.set(session, patch);
    }
    return patch;
  }

  #row(start: StatementStartedEvent, end: StatementEndedEvent | null): StatementRow {
    this.#characters += start.text?.length ?? 0;
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
    const state = this.#sessions.get(session)!;
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

/** Events that rows are made of. */
const INDEXED: ReadonlySet<string> = new Set([
  'session_started',
  'statement_started',
  'statement_ended',
  'session_ended',
]);

interface Rows {
  readonly sessions: Map<string, Patch>;
  readonly statements: StatementRow[];
  readonly ends: StatementEnd[];
}

export interface TakenRows {
  readonly rows: IndexRows;
  /** Of all texts in them. */
  readonly characters: number;
}

const NO_CLASS: Judged = { tables: [], effects: [], risk: 0, risk_reason: null };
const NOT_READ: Judged = { ...NO_CLASS, risk: RISKS.indexOf(UNREAD.level), risk_reason: UNREAD.reason };

function outcomeOf(end: StatementEndedEvent | null): Omit<StatementEnd, 'session' | 'seq'> {
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

/** What is to be changed of one session: most sessions change many times before it is written. */
class Patch {
  readonly id: string;
  readonly set: Record<string, unknown> = {};
  readonly add: Record<string, number> = {};
  raise?: NonNullable<SessionPatch['raise']>;

  constructor(id: string) {
    this.id = id;
  }

  /** A session that is heard from its beginning: what was to be added or raised before goes. */
  begin(facts: Record<string, unknown>): void {
    for (const name of Object.keys(this.add)) delete this.add[name];
    delete this.raise;
    Object.assign(this.set, facts);
  }

  grow(name: string, by: number): void {
    if (by === 0) return;
    if (name in this.set) this.set[name] = Number(this.set[name]) + by;
    else this.add[name] = (this.add[name] ?? 0) + by;
  }
}
