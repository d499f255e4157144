import {
  type JournalEvent,
  joinStatement,
  type RecordedStatement,
  type StatementEndedEvent,
  type StatementStartedEvent,
  timeMs,
} from './events.ts';
import type { Events } from './join.ts';
import { REPLAY_CHARACTERS_MAX, REPLAY_FRAMES_MAX } from './limits.ts';
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
export async function* framesOf(events: Events): AsyncGenerator<Frame> {
  const maker = new FrameMaker();
  for await (const event of events) {
    const frame = maker.take(event);
    if (frame !== null) yield frame;
  }
}

/** Makes frames of a session's events, one by one, and keeps none of them. */
export class FrameMaker {
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
        this.#last = event.seq;
        const label = `${offsetText(at).padStart(10)}  #${event.seq} `;
        const text = label + statementText(event).replaceAll('\n', `\n${' '.repeat(label.length)}`);
        return { at, text, seq: event.seq };
      }
      case 'statement_ended': {
        const which = this.#last === event.seq ? '' : `#${event.seq} `;
        return {
          at,
          text: `${' '.repeat(12)}→ ${which}${outcomeText(event)}`,
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

/** A session's frames from their beginning, as often as they are asked for. */
export type FrameSource = () => AsyncIterable<Frame>;

/**
 * Frames by their place, with a named number of them in memory: the last that were read. Who goes farther back has the
 * session read again from its beginning.
 */
class Tape {
  readonly #open: FrameSource;
  #reading: AsyncIterator<Frame> | null = null;
  /** Frames read last, and the place of the first of them. */
  #kept: Frame[] = [];
  #first = 0;
  #characters = 0;

  constructor(open: FrameSource) {
    this.#open = open;
  }

  /** Null behind the last. */
  async at(place: number): Promise<Frame | null> {
    if (place < this.#first || this.#reading === null) await this.#rewind();
    while (place >= this.#first + this.#kept.length) {
      const { done, value } = await this.#reading!.next();
      if (done === true) return null;
      this.#keep(value);
    }
    return this.#kept[place - this.#first]!;
  }

  async close(): Promise<void> {
    await this.#reading?.return?.();
    this.#reading = null;
  }

  async #rewind(): Promise<void> {
    await this.close();
    this.#reading = this.#open()[Symbol.asyncIterator]();
    this.#kept = [];
    this.#first = 0;
    this.#characters = 0;
  }

  #keep(frame: Frame): void {
    this.#kept.push(frame);
    this.#characters += frame.text.length;
    if (this.#kept.length <= REPLAY_FRAMES_MAX && this.#characters <= REPLAY_CHARACTERS_MAX) return;
    // Half of them at once: dropping them one by one would move all the others each time. Two always stay.
    const dropped = this.#kept.splice(0, Math.min(this.#kept.length - 2, Math.ceil(this.#kept.length / 2)));
    this.#first += dropped.length;
    for (const { text } of dropped) this.#characters -= text.length;
  }
}

/** What a player needs of the world around it. */
export interface PlayerPorts {
  /** The next frame waits for what this gives. */
  write(text: string): void | Promise<void>;
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
  readonly #tape: Tape;
  readonly #ports: PlayerPorts;
  readonly #options: PlayerOptions;
  #index = 0;
  #speed: number;
  #paused = false;
  #digits = '';

  constructor(open: FrameSource, options: PlayerOptions, ports: PlayerPorts) {
    this.#tape = new Tape(open);
    this.#ports = ports;
    this.#options = options;
    this.#speed = options.speed ?? Number.POSITIVE_INFINITY;
  }

  /** Resolves at the end, or when the viewer ends it. */
  async run(): Promise<void> {
    try {
      if (this.#options.from > 1) await this.#seek(this.#options.from);
      for (;;) {
        const frame = await this.#tape.at(this.#index);
        if (frame === null) return;
        const key = await this.#waitFor(frame);
        if (key === null) {
          await this.#show(frame);
          this.#index += 1;
        } else if (!(await this.#key(key))) return;
      }
    } finally {
      await this.#tape.close();
    }
  }

  async #waitFor(frame: Frame): Promise<string | null> {
    if (this.#options.speed === null) return null;
    if (this.#paused) return this.#ports.wait(null);
    const before = this.#index === 0 ? null : await this.#tape.at(this.#index - 1);
    const gap = before === null ? 0 : Math.max(0, frame.at - before.at) / this.#speed;
    return this.#ports.wait(Math.min(gap, this.#options.pauseMsMax));
  }

  async #show(frame: Frame): Promise<void> {
    await this.#ports.write(`${frame.text}\n`);
  }

  /** False ends the replay. */
  async #key(key: string): Promise<boolean> {
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
        await this.#ports.write(
          this.#paused ? '-- paused: space goes on, n next, p previous, q ends --\n' : '',
        );
        return true;
      case 'n':
      case '\u001b[C':
        await this.#step(1);
        return true;
      case 'p':
      case '\u001b[D':
        await this.#step(-1);
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
        if (digits !== '') await this.#seek(Number(digits));
        return true;
      default:
        return true;
    }
  }

  /** Shows all that lies between here and the next statement, and that statement; or goes back to the one before. */
  async #step(direction: 1 | -1): Promise<void> {
    if (direction === 1) {
      for (;;) {
        const frame = await this.#tape.at(this.#index);
        if (frame === null) return;
        await this.#show(frame);
        this.#index += 1;
        if (frame.seq !== null) return;
      }
    }
    let found = 0;
    let last: Frame | null = null;
    for (let index = this.#index - 1; index >= 0; index -= 1) {
      const frame = await this.#tape.at(index);
      if (frame === null || frame.seq === null) continue;
      found += 1;
      last = frame;
      this.#index = index;
      // The first that is found is the one on the screen already.
      if (found === 2) break;
    }
    if (last !== null) await this.#ports.write(`-- back to #${last.seq} --\n`);
  }

  async #seek(seq: number): Promise<void> {
    for (let index = await this.#seekFrom(seq); ; index += 1) {
      const frame = await this.#tape.at(index);
      if (frame === null) {
        await this.#ports.write(`-- there is no statement #${seq} --\n`);
        return;
      }
      if (frame.seq === null || frame.seq < seq) continue;
      this.#index = index;
      await this.#ports.write(`-- #${frame.seq} --\n`);
      return;
    }
  }

  /** Where to begin the search: statements count up, so one that is ahead is not looked for behind. */
  async #seekFrom(seq: number): Promise<number> {
    const here = await this.#tape.at(this.#index);
    return here !== null && here.seq !== null && here.seq <= seq ? this.#index : 0;
  }
}
