import type { Refusal } from '../../protocols/error.ts';
import type { Statement } from '../../protocols/statement.ts';
import type { CloseReason } from '../recording/recorder.ts';
import type { Gateway } from './gateway.ts';
import type { SessionSummary } from './summary.ts';

/** The open sessions, as those may treat them who look after them: in this process or in others. */
export interface LiveSessions {
  all(): Promise<readonly SessionSummary[]>;
  /** The open session with this id, or null. */
  one(id: string): Promise<SessionSummary | null>;
  /** Ends one session; false when there is none with this id. */
  kill(id: string, refusal: Refusal, reason: CloseReason): Promise<boolean>;
  /** Tells `watcher` of every statement from now on; the function it gives ends that. Null when there is no such session. */
  watch(id: string, watcher: ShownWatcher): Promise<(() => void) | null>;
}

/** Hears of one session's statements, in a form that may be shown: masked as they are recorded. */
export interface ShownWatcher {
  began(shown: Readonly<Record<string, unknown>>): void;
  ended(shown: Readonly<Record<string, unknown>>): void;
  closed(): void;
}

/** The sessions of this process. */
export class GatewaySessions implements LiveSessions {
  readonly #gateway: Gateway;
  readonly #present: (statement: Statement, session: SessionSummary) => Record<string, unknown>;

  /** `present` gives a statement as it may be shown. */
  constructor(
    gateway: Gateway,
    present: (statement: Statement, session: SessionSummary) => Record<string, unknown>,
  ) {
    this.#gateway = gateway;
    this.#present = present;
  }

  async all(): Promise<readonly SessionSummary[]> {
    return [...this.#gateway.connections].flatMap(({ summary }) => (summary === null ? [] : [summary]));
  }

  async one(id: string): Promise<SessionSummary | null> {
    return this.#gateway.session(id)?.summary ?? null;
  }

  async kill(id: string, refusal: Refusal, reason: CloseReason): Promise<boolean> {
    return this.#gateway.kill(id, refusal, reason);
  }

  async watch(id: string, watcher: ShownWatcher): Promise<(() => void) | null> {
    const connection = this.#gateway.session(id);
    const summary = connection?.summary ?? null;
    if (connection === null || summary === null) return null;
    return connection.watch({
      began: (statement) => watcher.began(this.#present(statement, summary)),
      ended: (statement) => watcher.ended(this.#present(statement, summary)),
      closed: () => watcher.closed(),
    });
  }
}

/** The sessions of several processes. One that cannot be asked has none. */
export class JoinedSessions implements LiveSessions {
  readonly #parts: () => readonly LiveSessions[];

  constructor(parts: () => readonly LiveSessions[]) {
    this.#parts = parts;
  }

  async all(): Promise<readonly SessionSummary[]> {
    return (await this.#each((part) => part.all())).flat();
  }

  async one(id: string): Promise<SessionSummary | null> {
    return (await this.#each((part) => part.one(id))).find((found) => found !== null) ?? null;
  }

  async kill(id: string, refusal: Refusal, reason: CloseReason): Promise<boolean> {
    return (await this.#each((part) => part.kill(id, refusal, reason))).includes(true);
  }

  async watch(id: string, watcher: ShownWatcher): Promise<(() => void) | null> {
    return (await this.#each((part) => part.watch(id, watcher))).find((found) => found !== null) ?? null;
  }

  async #each<Answer>(ask: (part: LiveSessions) => Promise<Answer>): Promise<Answer[]> {
    const answers = await Promise.allSettled(this.#parts().map(ask));
    return answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []));
  }
}
