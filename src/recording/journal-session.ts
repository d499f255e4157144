import { lastingCopy } from '../../protocols/bytes.ts';
import type { Note } from '../../protocols/engine.ts';
import type { Parameter, Statement } from '../../protocols/statement.ts';
import type { Journal } from './journal.ts';
import { endedEvent, noteEvent } from './make-events.ts';
import type { SessionEnd, SessionRecord, SessionStart } from './recorder.ts';

/** Takes secrets out of statements before anything is written. */
export interface Masker {
  /** What is to be recorded instead of a statement's text and parameters; null where nothing has to go. */
  statement(session: SessionStart, statement: Statement): MaskedStatement | null;
  /** Masks what has come back, in the statement itself. `secrets` are what went from its text. */
  outcome(session: SessionStart, statement: Statement, secrets: readonly string[]): void;
  /** For parameters that were not known at the start; null where nothing has to go. */
  parameters(session: SessionStart, statement: Statement): Parameter[] | null;
}

export interface MaskedStatement {
  readonly text: string | null;
  readonly parameters: Parameter[] | null;
  readonly secrets: readonly string[];
}

const NO_SECRETS: readonly string[] = [];

/** One session's way into the journal. */
export class JournalSession implements SessionRecord {
  readonly id: string;
  readonly #journal: Journal;
  readonly #start: SessionStart;
  readonly #bytes: Buffer;
  readonly #masker: Masker | null;
  /** What went from the texts of running statements. */
  readonly #secrets = new Map<number, readonly string[]>();
  #seq = 0;
  #closed = false;

  readonly frame: SessionRecord['frame'];

  constructor(journal: Journal, start: SessionStart, masker: Masker | null, rawFrames: boolean) {
    this.id = start.session;
    this.#journal = journal;
    this.#start = start;
    this.#bytes = lastingCopy(Buffer.from(start.session, 'latin1'));
    this.#masker = masker;
    if (rawFrames)
      this.frame = (from, bytes) => {
        if (!this.#closed) journal.frame(this.#bytes, from, bytes, this.id);
      };
  }

  begin(statement: Statement): void {
    this.#seq += 1;
    statement.seq = this.#seq;
    let { text, parameters } = statement;
    statement.recordedParameters = parameters?.length ?? 0;
    const masked = this.#masker?.statement(this.#start, statement) ?? null;
    if (masked !== null) {
      text = masked.text;
      parameters = masked.parameters;
      if (masked.secrets.length > 0) this.#secrets.set(statement.seq, masked.secrets);
    }
    statement.masked = masked !== null;
    this.#journal.begin(this.#bytes, statement, text, parameters, statement.masked, this.id);
  }

  end(statement: Statement): void {
    let parameters: Parameter[] | null = null;
    if (this.#masker !== null) {
      this.#masker.outcome(this.#start, statement, this.#secrets.get(statement.seq) ?? NO_SECRETS);
      this.#secrets.delete(statement.seq);
    }
    if ((statement.parameters?.length ?? 0) !== statement.recordedParameters) {
      parameters = statement.parameters;
      if (this.#masker !== null) parameters = this.#masker.parameters(this.#start, statement) ?? parameters;
    }
    this.#journal.end(this.#bytes, statement, parameters, this.id);
  }

  note(note: Note): void {
    this.#journal.append(noteEvent(this.id, this.#seq, note, this.#journal.now()), this.id);
  }

  close(end: SessionEnd): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#journal.ended(endedEvent(this.id, this.#seq, end, this.#journal.now()), this.id);
  }
}
