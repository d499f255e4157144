import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { decodeEvent } from '../decode.ts';
import type { JournalEvent } from '../events.ts';
import {
  STORE_RETRY_MS_MAX,
  STORE_RETRY_MS_MIN,
  STREAM_BATCH_BYTES_MAX,
  STREAM_BATCH_EVENTS_MAX,
} from '../limits.ts';
import { JournalReader, listBoots, listSegments } from '../reader.ts';
import type { Place } from '../recording.ts';

/** Where events go as they happen. One file an adapter. */
export interface Sink {
  /** What it is, for people. Never a credential. */
  readonly name: string;
  /**
   * Takes events in order. Resolves when the receiver has them, as far as its protocol can tell; rejects when it has
   * not, and is then given the same events again. `delivery` is the same for the same events.
   */
  send(events: readonly StreamedEvent[], delivery: string): Promise<void>;
  close(): Promise<void>;
}

export interface StreamedEvent {
  readonly event: JournalEvent;
  /** The event as one line of JSON, without the newline. */
  readonly line: string;
}

/** Which boots there are to be read, and with which keys. */
export interface StreamSource {
  readonly journalDirectory: string;
  /** Whether more may be written to it: its process lives, or what it left is not finished yet. */
  isLive(boot: string): boolean;
  /** The data key of a boot; null where it cannot be read here. */
  bootKey(boot: string): Promise<Buffer | null>;
}

/** What the sink has: everything of the boots before `floor`, and of others up to their place. */
interface Cursor {
  readonly floor: string;
  readonly boots: Record<string, Place>;
}

/** A journal that is being read. */
interface Reading {
  readonly reader: JournalReader;
  /** Where reading began: the sink has everything up to here. */
  readonly place: Place;
}

/** What goes to the sink next: events of one boot, up to `to`. */
interface Delivery {
  readonly boot: string;
  readonly events: StreamedEvent[];
  readonly to: Place;
}

const BEGINNING: Place = [0, 0, -1];
const END: Place = [Number.MAX_SAFE_INTEGER, 0, 0];

/**
 * Brings the journal's events to one sink, those of each boot in order, from a cursor that outlives the process: each event
 * arrives at least once, however long the receiver was away. Segments that it has not read yet must be kept: `needed`.
 */
export class Stream {
  readonly #sink: Sink;
  readonly #source: StreamSource;
  readonly #cursorFile: string;
  readonly #log: {
    info(fields: object, message: string): void;
    error(fields: object, message: string): void;
  };
  readonly #now: () => number;
  #cursor: Cursor;
  readonly #readings = new Map<string, Reading>();
  /** Read and not sent yet. */
  #waiting: Delivery | null = null;
  #error: string | null = null;
  #failures = 0;
  #notBefore = 0;
  #sent = 0;

  constructor(
    sink: Sink,
    source: StreamSource,
    cursorFile: string,
    log: { info(fields: object, message: string): void; error(fields: object, message: string): void },
    now: () => number = Date.now,
  ) {
    this.#sink = sink;
    this.#source = source;
    this.#cursorFile = cursorFile;
    this.#log = log;
    this.#now = now;
    this.#cursor = readCursor(cursorFile);
  }

  get status(): { name: string; error: string | null; sent: number } {
    return { name: this.#sink.name, error: this.#error, sent: this.#sent };
  }

  /** The first segment of `boot` that must not be removed yet; null where all may. */
  needed(boot: string): number | null {
    if (boot < this.#cursor.floor) return null;
    const place = this.#cursor.boots[boot];
    if (place === undefined) return 0;
    return place[0] === END[0] ? null : place[0];
  }

  /** Sends what is new. Never rejects. After a failure nothing is tried for a while, longer each time. */
  async run(): Promise<void> {
    if (this.#now() < this.#notBefore) return;
    try {
      // Oldest first, and again as long as there was something: one that is written to all the time must not hold up others.
      for (let sent = true; sent; ) {
        sent = false;
        for (const boot of this.#boots()) {
          this.#waiting ??= await this.#collect(boot);
          if (this.#waiting === null) continue;
          await this.#deliver(this.#waiting);
          sent = true;
        }
      }
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  async close(): Promise<void> {
    for (const { reader } of this.#readings.values()) reader.close();
    await this.#sink.close();
  }

  async #deliver({ boot, events, to }: Delivery): Promise<void> {
    if (events.length > 0) await this.#sink.send(events, `${boot}-${to.join('-')}`);
    this.#sent += events.length;
    this.#waiting = null;
    const there = new Set(listBoots(this.#source.journalDirectory));
    const kept = Object.entries(this.#cursor.boots).filter(([other]) => there.has(other));
    this.#cursor = { floor: this.#cursor.floor, boots: { ...Object.fromEntries(kept), [boot]: to } };
    writeCursor(this.#cursorFile, this.#cursor);
    if (this.#error !== null) this.#log.info({ stream: this.#sink.name }, 'a stream of events goes on');
    this.#error = null;
    this.#failures = 0;
  }

  /** Boots that have not been read to their end. */
  #boots(): string[] {
    return listBoots(this.#source.journalDirectory).filter((boot) => this.needed(boot) !== null);
  }

  async #collect(boot: string): Promise<Delivery | null> {
    const reading = this.#readings.get(boot) ?? (await this.#open(boot));
    if (reading === null) return null;
    const { reader } = reading;
    const events: StreamedEvent[] = [];
    let bytes = 0;
    let to: Place | null = null;
    // Asked before reading: what is written meanwhile is there the next time.
    const over = !this.#source.isLive(boot);
    while (events.length < STREAM_BATCH_EVENTS_MAX && bytes < STREAM_BATCH_BYTES_MAX) {
      const read = reader.next(over);
      if (read === null) {
        if (over) to = END;
        break;
      }
      const { segment, offset } = read.position;
      if (read.kind === 'batch') {
        const after = reading.place;
        read.events.forEach((raw, index) => {
          if (!isAfter([segment, offset, index], after)) return;
          const event = decodeEvent(raw.bytes);
          // Raw frames are unmasked, and for those who may open recordings.
          if (event.type === 'frame') return;
          const line = JSON.stringify(event);
          events.push({ event, line });
          bytes += line.length;
        });
        to = [segment, offset, Math.max(0, read.events.length - 1)];
        // The process's last word: nothing of this boot is needed any more.
        const last = events.at(-1)?.event;
        if (last?.type === 'journal' && last.action === 'closed') to = END;
      } else if (read.kind === 'damaged') {
        const event = gap(`segment ${segment} of the journal was altered: ${read.reason}`, this.#now());
        events.push({ event, line: JSON.stringify(event) });
        to = [segment, offset, 0];
      }
      if (to === END) break;
    }
    if (to === END) {
      reader.close();
      this.#readings.delete(boot);
    }
    return to === null ? null : { boot, events, to };
  }

  /** Begins to read a boot where the cursor stands in it. Null where its key cannot be had here. */
  async #open(boot: string): Promise<Reading | null> {
    const { journalDirectory } = this.#source;
    const key = await this.#source.bootKey(boot);
    if (key === null) return null;
    const place = this.#cursor.boots[boot] ?? BEGINNING;
    const first = listSegments(journalDirectory).find((file) => file.boot === boot)?.segment ?? 1;
    const reading = {
      reader: new JournalReader(journalDirectory, boot, key, Math.max(first, place[0])),
      place,
    };
    this.#readings.set(boot, reading);
    return reading;
  }

  #fail(error: Error): void {
    this.#failures += 1;
    const pause = Math.min(STORE_RETRY_MS_MAX, STORE_RETRY_MS_MIN * 2 ** Math.min(10, this.#failures - 1));
    this.#notBefore = this.#now() + pause;
    if (this.#error !== error.message)
      this.#log.error(
        { stream: this.#sink.name, error: error.message },
        'a stream of events cannot be delivered',
      );
    this.#error = error.message;
  }
}

function gap(reason: string, now: number): JournalEvent {
  const at = new Date(now).toISOString().replace('Z', '000Z');
  return { type: 'gap', at, from: at, to: at, events: 0, sessions: [], reason };
}

function isAfter(place: Place, other: Place): boolean {
  for (let index = 0; index < 3; index += 1) {
    if (place[index]! !== other[index]!) return place[index]! > other[index]!;
  }
  return false;
}

function readCursor(path: string): Cursor {
  const none: Cursor = { floor: '', boots: {} };
  if (!existsSync(path)) return none;
  try {
    const kept = JSON.parse(readFileSync(path, 'utf8')) as Cursor | { boot: string; place: Place };
    // Of a version that read one boot after the other.
    if ('boot' in kept) return { floor: kept.boot, boots: { [kept.boot]: kept.place } };
    return kept.boots === undefined ? none : kept;
  } catch {
    // Half a cursor is none: everything that is still there is sent again.
    return none;
  }
}

function writeCursor(path: string, cursor: Cursor): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.tmp`;
  writeFileSync(temporary, JSON.stringify(cursor), { mode: 0o600 });
  renameSync(temporary, path);
}
