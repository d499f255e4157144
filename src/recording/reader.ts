import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { decodeEvent, type RawEvent, splitEvents } from './decode.ts';
import type { JournalEvent } from './events.ts';
import { unwrapKey } from './keys.ts';
import { RecordingError } from './recorder.ts';
import { parseSegmentName, readSegmentHeader, type SegmentHeader, SegmentReader } from './segment.ts';

/** One segment as it lies on disk. */
export interface SegmentFile {
  readonly boot: string;
  readonly segment: number;
  readonly name: string;
  readonly path: string;
  readonly size: number;
}

/** The segments of a journal directory, by boot and number: in the order in which they were written. */
export function listSegments(directory: string): SegmentFile[] {
  if (!existsSync(directory)) return [];
  const files: SegmentFile[] = [];
  for (const name of readdirSync(directory).sort()) {
    const parsed = parseSegmentName(name);
    if (parsed === null) continue;
    const path = join(directory, name);
    files.push({ ...parsed, name, path, size: statSync(path).size });
  }
  return files;
}

/** The boots that have segments, oldest first. */
export function listBoots(directory: string): string[] {
  return [...new Set(listSegments(directory).map(({ boot }) => boot))];
}

/** Where an event stands: the segment, and the offset of its batch within. */
export interface Position {
  readonly boot: string;
  readonly segment: number;
  readonly offset: number;
}

export type JournalRead =
  | {
      readonly kind: 'batch';
      readonly position: Position;
      /** Where the batch ends. */
      readonly end: number;
      readonly events: readonly RawEvent[];
    }
  /** The last batch of a segment is not whole: the process or the machine stopped in the middle of a write. */
  | {
      readonly kind: 'torn';
      readonly position: Position;
      readonly end: number;
      /** Complete events of the torn batch. They are not authenticated, and nobody was promised them. */
      readonly events: readonly RawEvent[];
    }
  /** Bytes were altered or removed. Nothing more is given of this segment. */
  | {
      readonly kind: 'damaged';
      readonly position: Position;
      readonly end: number;
      readonly reason: string;
    };

/**
 * Reads the segments of one boot in order, while they are being written or afterwards. `next` gives null when there is
 * nothing more for now; with `final`, the boot is over and what is left is torn.
 */
export class JournalReader {
  readonly boot: string;
  readonly #directory: string;
  readonly #bootKey: Buffer;
  #reader: SegmentReader | null = null;
  #segment: number;
  /** What the next segment must follow on; null where reading began in the middle. */
  #expected: { segment: number; mac: string } | null = null;

  /** `from` is the number of the first segment to read; default: the first there is. */
  constructor(directory: string, boot: string, bootKey: Buffer, from = 1) {
    this.boot = boot;
    this.#directory = directory;
    this.#bootKey = bootKey;
    this.#segment = from - 1;
  }

  /** The segment being read; 0 before the first. */
  get segment(): number {
    return this.#segment;
  }

  next(final: boolean): JournalRead | null {
    for (;;) {
      const reader = this.#reader;
      if (reader === null) {
        const following = this.#following();
        if (following === null) return null;
        const fault = this.#advance(following);
        if (fault !== null) return fault;
        continue;
      }
      const read = this.#read(reader, false);
      if (read !== null) return read;
      if (!final && this.#following() === null) return null;
      // Read again: what the writer added to this segment came before it made the next.
      const last = this.#read(reader, true);
      if (last !== null) return last;
    }
  }

  close(): void {
    this.#reader?.close();
    this.#reader = null;
  }

  #following(): SegmentFile | null {
    let best: SegmentFile | null = null;
    for (const file of listSegments(this.#directory)) {
      if (file.boot !== this.boot || file.segment <= this.#segment) continue;
      if (best === null || file.segment < best.segment) best = file;
    }
    return best;
  }

  #read(reader: SegmentReader, over: boolean): JournalRead | null {
    const offset = reader.offset;
    const position = { boot: this.boot, segment: this.#segment, offset };
    const read = reader.next();
    if (read.kind === 'batch') {
      return {
        kind: 'batch',
        position,
        end: offset + read.batch.length,
        events: splitEvents(read.batch.payload),
      };
    }
    if (read.kind === 'end') {
      if (!over) return null;
      this.#leave(reader);
      if (read.bytes === 0) return null;
      const events = splitEvents(read.torn, true);
      return { kind: 'torn', position, end: offset + read.bytes, events };
    }
    this.#leave(reader);
    return { kind: 'damaged', position, end: offset + read.length, reason: read.reason };
  }

  #leave(reader: SegmentReader): void {
    this.#expected = { segment: this.#segment, mac: reader.mac.toString('hex') };
    reader.close();
    this.#reader = null;
  }

  #advance(file: SegmentFile): JournalRead | null {
    const expected = this.#expected;
    const position = { boot: this.boot, segment: file.segment, offset: 0 };
    const fault = (reason: string): JournalRead => ({ kind: 'damaged', position, end: file.size, reason });
    this.#segment = file.segment;
    let reader: SegmentReader;
    try {
      reader = new SegmentReader(file.path, this.#bootKey);
    } catch (error) {
      this.#expected = null;
      return fault((error as Error).message);
    }
    const { previous, boot, segment } = reader.header;
    if (boot !== this.boot || segment !== file.segment) {
      reader.close();
      this.#expected = null;
      return fault('the file was renamed');
    }
    this.#reader = reader;
    if (expected !== null && (previous?.segment !== expected.segment || previous.mac !== expected.mac))
      return fault('this segment does not follow on the one before: batches or a segment were removed');
    return null;
  }
}

/** The header of a boot's first segment that can be read, and its data key where an identity opens it. */
export async function openBoot(
  directory: string,
  boot: string,
  identities: readonly string[],
): Promise<{ header: SegmentHeader; bootKey: Buffer | null }> {
  let fault: unknown = null;
  for (const file of listSegments(directory)) {
    if (file.boot !== boot) continue;
    try {
      const header = readSegmentHeader(file.path);
      const bootKey = await unwrapKey(Buffer.from(header.key, 'base64'), identities);
      return { header, bootKey: bootKey?.length === 32 ? bootKey : null };
    } catch (error) {
      fault = error;
    }
  }
  throw new RecordingError(`no segment of boot ${boot} in ${directory} can be read`, { cause: fault });
}

/** What reading a whole journal found beside its events. */
export interface JournalReport {
  boots: number;
  segments: number;
  batches: number;
  events: number;
  bytes: number;
  torn: { position: Position; end: number; events: number }[];
  damaged: { position: Position; end: number; reason: string }[];
  /** Boots that none of the identities opens. */
  locked: string[];
}

/**
 * Reads every event of a journal directory that the identities open, oldest boot first, and calls `each` with it.
 * `verified` is false for the complete events of a torn last batch. Alterations are reported, never thrown.
 */
export async function readJournal(
  directory: string,
  identities: readonly string[],
  each: (event: JournalEvent, where: { position: Position; verified: boolean }) => void = () => {},
): Promise<JournalReport> {
  const segments = listSegments(directory);
  const report: JournalReport = {
    boots: 0,
    segments: segments.length,
    batches: 0,
    events: 0,
    bytes: segments.reduce((sum, { size }) => sum + size, 0),
    torn: [],
    damaged: [],
    locked: [],
  };
  for (const boot of listBoots(directory)) {
    report.boots += 1;
    let bootKey: Buffer | null;
    try {
      bootKey = (await openBoot(directory, boot, identities)).bootKey;
    } catch (error) {
      const first = segments.find((file) => file.boot === boot)!;
      const position = { boot, segment: first.segment, offset: 0 };
      report.damaged.push({ position, end: first.size, reason: (error as Error).message });
      continue;
    }
    if (bootKey === null) {
      report.locked.push(boot);
      continue;
    }
    const reader = new JournalReader(directory, boot, bootKey);
    for (let read = reader.next(true); read !== null; read = reader.next(true)) {
      const { position } = read;
      if (read.kind === 'damaged') {
        report.damaged.push({ position, end: read.end, reason: read.reason });
        continue;
      }
      if (read.kind === 'batch') report.batches += 1;
      else report.torn.push({ position, end: read.end, events: read.events.length });
      for (const raw of read.events) {
        report.events += 1;
        each(decodeEvent(raw.bytes), { position, verified: read.kind === 'batch' });
      }
    }
    reader.close();
  }
  return report;
}
