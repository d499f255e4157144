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
  /** The data key of a boot; null where it cannot be read here. */
  bootKey(boot: string): Promise<Buffer | null>;
}

interface Cursor {
  readonly boot: string;
  readonly place: Place;
}

const BEGINNING: Place = [0, 0, -1];
const END: Place = [Number.MAX_SAFE_INTEGER, 0, 0];

/**
 * Brings the journal's events to one sink, in order, from a cursor that outlives the process: each event arrives at least
 * once, however long the receiver was away. Segments that it has not read yet must be kept: `needed`.
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
  /** What the sink has: everything up to here. */
  #cursor: Cursor | null;
  /** What has been read, in the boot of `#reader`. */
  #place: Place = BEGINNING;
  #reader: JournalReader | null = null;
  /** Read and not sent yet: the next delivery. */
  #waiting: { events: StreamedEvent[]; bytes: number; to: Cursor } | null = null;
  /** The boot to read after the one that is done. */
  #next: string | null = null;
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
    const cursor = this.#cursor;
    if (cursor === null || cursor.boot < boot) return 0;
    return cursor.boot > boot ? null : cursor.place[0];
  }

  /** Sends what is new. Never rejects. After a failure nothing is tried for a while, longer each time. */
  async run(): Promise<void> {
    if (this.#now() < this.#notBefore) return;
    try {
      for (;;) {
        this.#waiting ??= await this.#collect();
        if (this.#waiting === null) return;
        const { events, to } = this.#waiting;
        if (events.length > 0) await this.#sink.send(events, deliveryId(to));
        this.#sent += events.length;
        this.#waiting = null;
        this.#cursor = to;
        writeCursor(this.#cursorFile, to);
        if (this.#error !== null) this.#log.info({ stream: this.#sink.name }, 'a stream of events goes on');
        this.#error = null;
        this.#failures = 0;
      }
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  async close(): Promise<void> {
    this.#reader?.close();
    await this.#sink.close();
  }

  async #collect(): Promise<{ events: StreamedEvent[]; bytes: number; to: Cursor } | null> {
    const events: StreamedEvent[] = [];
    let bytes = 0;
    let to: Cursor | null = null;
    while (events.length < STREAM_BATCH_EVENTS_MAX && bytes < STREAM_BATCH_BYTES_MAX) {
      const reader = this.#reader ?? (await this.#openNext());
      if (reader === null) break;
      const over = this.#followingBoot(reader.boot) !== null;
      const read = reader.next(over);
      if (read === null) {
        if (!over) break;
        to = { boot: this.#followingBoot(reader.boot)!, place: BEGINNING };
        reader.close();
        this.#reader = null;
        this.#next = to.boot;
        continue;
      }
      const { segment, offset } = read.position;
      if (read.kind === 'batch') {
        const after = this.#place;
        read.events.forEach((raw, index) => {
          if (!isAfter([segment, offset, index], after)) return;
          const event = decodeEvent(raw.bytes);
          // Raw frames are unmasked, and for those who may open recordings.
          if (event.type === 'frame') return;
          const line = JSON.stringify(event);
          events.push({ event, line });
          bytes += line.length;
        });
        to = { boot: reader.boot, place: [segment, offset, Math.max(0, read.events.length - 1)] };
        // The gateway's last word: nothing of this boot is needed any more.
        const last = events.at(-1)?.event;
        if (last?.type === 'journal' && last.action === 'closed') to = { boot: reader.boot, place: END };
      } else if (read.kind === 'damaged') {
        const event = gap(`segment ${segment} of the journal was altered: ${read.reason}`, this.#now());
        events.push({ event, line: JSON.stringify(event) });
        to = { boot: reader.boot, place: [segment, offset, 0] };
      }
    }
    return to === null ? null : { events, bytes, to };
  }

  /** A reader of the boot that comes next: the one the cursor stands in, or the oldest for a stream that is new. */
  async #openNext(): Promise<JournalReader | null> {
    const { journalDirectory } = this.#source;
    const from = this.#next ?? this.#cursor?.boot ?? '';
    for (const boot of listBoots(journalDirectory)) {
      if (boot < from) continue;
      const key = await this.#source.bootKey(boot);
      if (key === null) continue;
      this.#place = this.#cursor?.boot === boot ? this.#cursor.place : BEGINNING;
      const first = listSegments(journalDirectory).find((file) => file.boot === boot)?.segment ?? 1;
      this.#reader = new JournalReader(journalDirectory, boot, key, Math.max(first, this.#place[0]));
      return this.#reader;
    }
    return null;
  }

  #followingBoot(boot: string): string | null {
    return listBoots(this.#source.journalDirectory).find((other) => other > boot) ?? null;
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

function deliveryId({ boot, place }: Cursor): string {
  return `${boot}-${place.join('-')}`;
}

function isAfter(place: Place, other: Place): boolean {
  for (let index = 0; index < 3; index += 1) {
    if (place[index]! !== other[index]!) return place[index]! > other[index]!;
  }
  return false;
}

function readCursor(path: string): Cursor | null {
  if (!existsSync(path)) return null;
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Cursor;
  } catch {
    // Half a cursor is none: everything that is still there is sent again.
    return null;
  }
}

function writeCursor(path: string, cursor: Cursor): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.tmp`;
  writeFileSync(temporary, JSON.stringify(cursor), { mode: 0o600 });
  renameSync(temporary, path);
}
