import {
  type JournalEvent,
  joinStatement,
  type RecordedStatement,
  type StatementEndedEvent,
  type StatementStartedEvent,
  timeMs,
} from './events.ts';
import { eventText, offsetText, outcomeText, sessionHeading, statementText } from './present.ts';

/** One thing that is shown at a moment of the replay. */
export interface Frame {
  /** Milliseconds since the session began. */
  readonly at: number;
  readonly text: string;
  /** The statement that begins here; null for all else. */
  readonly seq: number | null;
}

/** Puts starts and ends of statements together, in the order of their starts. */
export function statementsOf(events: readonly JournalEvent[]): RecordedStatement[] {
  const ends = new Map<number, StatementEndedEvent>();
  for (const event of events) if (event.type === 'statement_ended') ends.set(event.seq, event);
  return events
    .filter((event): event is StatementStartedEvent => event.type === 'statement_started')
    .map((start) => joinStatement(start, ends.get(start.seq) ?? null));
}

/** The frames of a session: each statement when it started, its outcome when it ended. */
export function framesOf(events: Iterable<JournalEvent>): Frame[] {
  const maker = new FrameMaker();
  const frames: Frame[] = [];
  for (const event of events) {
    const frame = maker.take(event);
    if (frame !== null) frames.push(frame);
  }
  return frames;
}

/** Makes frames of a session's events, one by one. */
export class FrameMaker {
  readonly #starts = new Map<number, StatementStartedEvent>();
  #origin: number | null = null;
  /** Several statements may run at once: then an outcome names the one it belongs to. */
  #last: number | null = null;

  /** Null for events that show nothing. */
  take(event: JournalEvent): Frame | null {
    this.#origin ??= timeMs(event.at);
    const at = Math.max(0, timeMs(event.at) - this.#origin);
    switch (event.type) {
      case 'session_started':
        return { at, text: `${sessionHeading(event)}\n`, seq: null };
      case 'statement_started': {
        this.#starts.set(event.seq, event);
        this.#last = event.seq;
        const label = `${offsetText(at).padStart(10)}  #${event.seq} `;
        const text = label + statementText(event).replaceAll('\n', `\n${' '.repeat(label.length)}`);
        return { at, text, seq: event.seq };
      }
      case 'statement_ended': {
        const start = this.#starts.get(event.seq);
        this.#starts.delete(event.seq);
        if (start === undefined) return null;
        const which = this.#last === event.seq ? '' : `#${event.seq} `;
        return {
          at,
          text: `${' '.repeat(12)}→ ${which}${outcomeText(joinStatement(start, event))}`,
          seq: null,
        };
      }
      default: {
        const text = eventText(event);
        return text === null ? null : { at, text: `${offsetText(at).padStart(10)}  ${text}`, seq: null };
      }
    }
  }
}

/** What a player needs of the world around it. */
export interface PlayerPorts {
  write(text: string): void;
  /** Resolves after `ms`, or as soon as a key is pressed, with that key; null when the time passed. */
  wait(ms: number | null): Promise<string | null>;
}

export interface PlayerOptions {
  /** 1 is real time; null shows everything at once. */
  readonly speed: number | null;
  /** Pauses longer than this are cut to it, at any speed. */
  readonly pauseMsMax: number;
  /** Begin with this statement. */
  readonly from: number;
}

const SPEED_MIN = 1 / 16;
const SPEED_MAX = 1024;

/**
 * Plays frames. Keys: space pauses and goes on, `n`/→ and `p`/← go to the next and the previous statement, digits and
 * Enter go to a statement, `+` and `-` double and halve the speed, `q` ends.
 */
export class Player {
  readonly #frames: readonly Frame[];
  readonly #ports: PlayerPorts;
  readonly #options: PlayerOptions;
  #index = 0;
  #speed: number;
  #paused = false;
  #digits = '';

  constructor(frames: readonly Frame[], options: PlayerOptions, ports: PlayerPorts) {
    this.#frames = frames;
    this.#ports = ports;
    this.#options = options;
    this.#speed = options.speed ?? Number.POSITIVE_INFINITY;
  }

  /** Resolves at the end, or when the viewer ends it. */
  async run(): Promise<void> {
    if (this.#options.from > 1) this.#seek(this.#options.from);
    for (;;) {
      const frame = this.#frames[this.#index];
      if (frame === undefined) return;
      const key = await this.#waitFor(frame);
      if (key === null) {
        this.#show(frame);
        this.#index += 1;
      } else if (!this.#key(key)) return;
    }
  }

  async #waitFor(frame: Frame): Promise<string | null> {
    if (this.#options.speed === null) return null;
    if (this.#paused) return this.#ports.wait(null);
    const before = this.#frames[this.#index - 1];
    const gap = before === undefined ? 0 : Math.max(0, frame.at - before.at) / this.#speed;
    return this.#ports.wait(Math.min(gap, this.#options.pauseMsMax));
  }

  #show(frame: Frame): void {
    this.#ports.write(`${frame.text}\n`);
  }

  /** False ends the replay. */
  #key(key: string): boolean {
    if (/^\d$/.test(key)) {
      this.#digits = (this.#digits + key).slice(-9);
      return true;
    }
    const digits = this.#digits;
    this.#digits = '';
    switch (key) {
      case 'q':
      case '\u0003':
      case '\u0004':
        return false;
      case ' ':
        this.#paused = !this.#paused;
        this.#ports.write(this.#paused ? '-- paused: space goes on, n next, p previous, q ends --\n' : '');
        return true;
      case 'n':
      case '\u001b[C':
        this.#step(1);
        return true;
      case 'p':
      case '\u001b[D':
        this.#step(-1);
        return true;
      case '+':
      case '=':
        this.#speed = Math.min(SPEED_MAX, this.#speed * 2);
        return true;
      case '-':
        this.#speed = Math.max(SPEED_MIN, this.#speed / 2);
        return true;
      case '\r':
      case '\n':
        if (digits !== '') this.#seek(Number(digits));
        return true;
      default:
        return true;
    }
  }

  /** Shows all that lies between here and the next statement, and that statement; or goes back to the one before. */
  #step(direction: 1 | -1): void {
    if (direction === 1) {
      while (this.#index < this.#frames.length) {
        const frame = this.#frames[this.#index]!;
        this.#show(frame);
        this.#index += 1;
        if (frame.seq !== null) return;
      }
      return;
    }
    let found = 0;
    for (let index = this.#index - 1; index >= 0; index -= 1) {
      if (this.#frames[index]!.seq === null) continue;
      found += 1;
      this.#index = index;
      // The first that is found is the one on the screen already.
      if (found === 2) break;
    }
    if (found > 0) this.#ports.write(`-- back to #${this.#frames[this.#index]!.seq} --\n`);
  }

  #seek(seq: number): void {
    const index = this.#frames.findIndex((frame) => frame.seq !== null && frame.seq >= seq);
    if (index === -1) {
      this.#ports.write(`-- there is no statement #${seq} --\n`);
      return;
    }
    this.#index = index;
    this.#ports.write(`-- #${this.#frames[index]!.seq} --\n`);
  }
}
