import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decodeEvent } from './decode.ts';
import type { JournalEvent } from './events.ts';
import { JOURNAL_DIRECTORY } from './journal.ts';
import { unwrapKey } from './keys.ts';
import { type JournalRead, JournalReader, listBoots, openBoot } from './reader.ts';
import { RecordingError } from './recorder.ts';
import { dataKey, type Fault, inspectPart, openPart, type PartInspection, type Place } from './recording.ts';
import { bundlePrefix, listBundles } from './recovery.ts';
import { type SpoolFile, spoolFiles } from './sealer.ts';
import { parseSegmentName } from './segment.ts';
import { parsePartKey, partKey, type RecordingStore, sessionPrefix } from './store/store.ts';

/** What is needed to read recordings: the store, perhaps the gateway's own directory, and the identities at hand. */
export interface LibraryOptions {
  readonly store: RecordingStore;
  /** `data_dir` of the gateway, for what is not in the store yet; null where only the store is at hand. */
  readonly dataDir: string | null;
  readonly identities: readonly string[];
}

export interface PartFile {
  readonly session: string;
  readonly part: number;
  readonly key: string;
  readonly size: number;
  /** Null in the store, else the file in the spool. */
  readonly path: string | null;
}

/** What reading a session found beside its events. */
export interface ReadReport {
  readonly faults: { readonly key: string; readonly fault: Fault }[];
  /** Keys of parts that none of the identities opens. */
  readonly locked: string[];
  /** Parts that are missing, by number. */
  readonly missing: number[];
  /** Some of the events come from the journal: they are not sealed yet. */
  unsealed: boolean;
}

/** Reads sessions from wherever their events are by now: the store, the spool, the journal. */
export class Library {
  readonly store: RecordingStore;
  readonly dataDir: string | null;
  readonly #identities: readonly string[];
  readonly #keys = new Map<string, Buffer | null>();
  /** Folders with the stored journals of boots that could not be recovered; made when first asked for. */
  #bundles: Promise<Map<string, string>> | null = null;

  constructor({ store, dataDir, identities }: LibraryOptions) {
    this.store = store;
    this.dataDir = dataDir;
    this.#identities = identities;
  }

  /** Sealed parts of one session, in order. */
  async parts(session: string): Promise<PartFile[]> {
    const spool = this.#spool();
    const stored = await this.store.list(sessionPrefix(session));
    return this.#merge(spool, stored, (file) => file.session === session).get(session) ?? [];
  }

  /** Sealed parts of all sessions, by session id. `prefix` narrows it to a year, month or day: `2026/11/24/`. */
  async allParts(prefix = ''): Promise<Map<string, PartFile[]>> {
    const spool = this.#spool();
    const stored = await this.store.list(prefix);
    return this.#merge(spool, stored, (file) => partKey(file.session, file.part).startsWith(prefix));
  }

  async read(part: PartFile): Promise<Buffer> {
    if (part.path !== null && existsSync(part.path)) return readFileSync(part.path);
    return this.store.get(part.key);
  }

  /** The data key of a part; null when no identity opens it. */
  async key(inspection: PartInspection): Promise<Buffer | null> {
    const { header } = inspection;
    if (header === null) return null;
    const wrapped = header.key;
    let key = this.#keys.get(wrapped);
    if (key === undefined) {
      key = await unwrapKey(Buffer.from(wrapped, 'base64'), this.#identities);
      this.#keys.set(wrapped, key);
      if (this.#keys.size > 1000) this.#keys.delete(this.#keys.keys().next().value!);
    }
    return key === null ? null : dataKey(header, key);
  }

  /**
   * All events of a session in order. Bad and locked parts are left out and reported. Rejects with a `RecordingError`
   * when nothing of the session can be found or read.
   */
  async *events(session: string, report: ReadReport = emptyReport()): AsyncGenerator<JournalEvent> {
    const at: Progress = { part: 0, sealed: null, over: false, ahead: 0 };
    let read = 0;
    do {
      for await (const event of this.#sealedEvents(session, at, report)) {
        read += 1;
        yield event;
      }
      if (at.over) break;
      report.unsealed = false;
      for await (const event of this.#unsealed(session, at)) {
        report.unsealed = true;
        read += 1;
        at.ahead += 1;
        yield event;
      }
      // What is not in the journal any more has been sealed while we looked.
    } while (await this.#hasPartsBehind(session, at));
    if (read > 0) return;
    if (report.locked.length > 0)
      throw new RecordingError(
        `no identity at hand opens session ${session}; name one of its recipients' key files with --identity`,
      );
    const [bad] = report.faults;
    if (bad !== undefined)
      throw new RecordingError(`${bad.key}: bytes ${bad.fault.from} to ${bad.fault.to}: ${bad.fault.what}`);
    throw new RecordingError(`there is no session ${session}`);
  }

  /** Events of the parts behind `at`, which moves on with them. */
  async *#sealedEvents(session: string, at: Progress, report: ReadReport): AsyncGenerator<JournalEvent> {
    for (const file of await this.parts(session)) {
      if (file.part <= at.part) continue;
      for (at.part += 1; at.part < file.part; at.part += 1) report.missing.push(at.part);
      const bytes = await this.read(file);
      const inspection = inspectPart(bytes);
      if (inspection.trailer !== null) {
        at.sealed = { boot: inspection.trailer.journal.boot, to: inspection.trailer.journal.to };
        at.over = inspection.trailer.state !== 'open';
      }
      const [fault] = inspection.faults;
      if (fault !== undefined) {
        report.faults.push({ key: file.key, fault });
        at.ahead = Math.max(0, at.ahead - eventsOf(inspection));
        continue;
      }
      const key = await this.key(inspection);
      if (key === null) {
        report.locked.push(file.key);
        at.ahead = Math.max(0, at.ahead - eventsOf(inspection));
        continue;
      }
      for (const line of openPart(bytes, inspection, key)) {
        if (at.ahead > 0) at.ahead -= 1;
        else yield JSON.parse(line) as JournalEvent;
      }
    }
  }

  async #hasPartsBehind(session: string, at: Progress): Promise<boolean> {
    return (await this.parts(session)).some(({ part }) => part > at.part);
  }

  /** The session in the store that began last; null when there is none. Lists the whole store. */
  async latestStored(): Promise<string | null> {
    for (const [session, parts] of [...(await this.allParts())].reverse()) {
      const { trailer } = inspectPart(await this.read(parts[0]!));
      // The gateway's own events are filed under the id of its boot.
      if (trailer?.journal.boot !== session) return session;
    }
    return null;
  }

  /** Sessions that have events in the journal, with their start where it is there too. */
  async liveSessions(): Promise<Map<string, JournalEvent | null>> {
    const sessions = new Map<string, JournalEvent | null>();
    await this.#journal((session, event) => {
      if (session === null) return;
      if (!sessions.has(session)) {
        const decoded = event();
        sessions.set(session, decoded.type === 'session_started' ? decoded : null);
      }
    });
    return sessions;
  }

  /** Ids that more events may follow for: sessions that are open by the journal, and its boots. Null without one. */
  async openSessions(): Promise<ReadonlySet<string> | null> {
    if (this.dataDir === null) return null;
    const open = new Set(listBoots(join(this.dataDir, JOURNAL_DIRECTORY)));
    await this.#journal((session, event) => {
      if (session === null) {
        const mark = event();
        if (mark.type === 'journal') for (const id of mark.sessions) open.add(id);
      } else if (open.has(session)) {
        if (event().type === 'session_ended') open.delete(session);
      } else if (event().type === 'session_started') open.add(session);
    });
    return open;
  }

  /**
   * Events of a session that the journal has and its sealed parts have not. Ends early where the sealer has been here
   * before: the events are in parts by then.
   */
  async *#unsealed(session: string, at: Progress): AsyncGenerator<JournalEvent> {
    const { sealed } = at;
    let boot: string | null = null;
    let events = 0;
    for await (const read of this.#batches(sealed?.boot ?? null)) {
      const isFirst = read.boot !== boot;
      boot = read.boot;
      // Segments go when their events are sealed: the first that is left, or one behind a hole, may not be the next.
      if ((isFirst || read.kind === 'damaged') && (await this.#hasPartsBehind(session, at))) return;
      if (read.kind !== 'batch') continue;
      const { segment, offset } = read.position;
      for (const [index, raw] of read.events.entries()) {
        if (raw.session !== session) continue;
        if (sealed !== null && boot === sealed.boot && !isAfter([segment, offset, index], sealed.to))
          continue;
        events += 1;
        // Those that were given before parts of them came.
        if (events > at.ahead) yield decodeEvent(raw.bytes);
      }
    }
  }

  /** Hands over every event that the identities open of the journal, the live one too. */
  async #journal(each: (session: string | null, event: () => JournalEvent) => void): Promise<void> {
    for await (const read of this.#batches(null)) {
      if (read.kind !== 'batch') continue;
      for (const raw of read.events) each(raw.session, () => decodeEvent(raw.bytes));
    }
  }

  /** What the identities open of the journal, batch by batch; from the boot `from` on where it is given. */
  async *#batches(from: string | null): AsyncGenerator<JournalRead & { readonly boot: string }> {
    const directories = new Map(await this.#bundleFolders());
    if (this.dataDir !== null) {
      const live = join(this.dataDir, JOURNAL_DIRECTORY);
      for (const boot of listBoots(live)) directories.set(boot, live);
    }
    for (const [boot, directory] of [...directories].sort()) {
      if (from !== null && boot < from) continue;
      const { bootKey } = await openBoot(directory, boot, this.#identities).catch(() => ({ bootKey: null }));
      if (bootKey === null) continue;
      const reader = new JournalReader(directory, boot, bootKey);
      try {
        for (let read = reader.next(false); read !== null; read = reader.next(false)) yield { ...read, boot };
      } finally {
        reader.close();
      }
    }
  }

  /** Journals in the store, fetched into a temporary folder that goes with this process. */
  #bundleFolders(): Promise<Map<string, string>> {
    if (this.#identities.length === 0) return Promise.resolve(new Map());
    this.#bundles ??= this.#fetchBundles();
    return this.#bundles;
  }

  async #fetchBundles(): Promise<Map<string, string>> {
    const folders = new Map<string, string>();
    for (const boot of await listBundles(this.store)) {
      const folder = mkdtempSync(join(tmpdir(), 'sallyport-bundle-'));
      process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
      for (const { key } of await this.store.list(bundlePrefix(boot))) {
        const name = key.slice(bundlePrefix(boot).length);
        if (parseSegmentName(name) !== null)
          writeFileSync(join(folder, name), await this.store.get(key), { mode: 0o600 });
      }
      folders.set(boot, folder);
    }
    return folders;
  }

  /** What waits for the store. To be asked before the store is: what goes there meanwhile is in both then, not in neither. */
  #spool(): readonly SpoolFile[] {
    return this.dataDir === null ? [] : spoolFiles(join(this.dataDir, 'spool'));
  }

  #merge(
    spool: readonly SpoolFile[],
    objects: readonly { key: string; size: number }[],
    wanted: (file: { session: string; part: number }) => boolean,
  ): Map<string, PartFile[]> {
    const bySession = new Map<string, Map<number, PartFile>>();
    const add = (file: PartFile): void => {
      let parts = bySession.get(file.session);
      if (parts === undefined) {
        parts = new Map();
        bySession.set(file.session, parts);
      }
      parts.set(file.part, file);
    };
    for (const { session, part, path, size } of spool)
      if (wanted({ session, part })) add({ session, part, path, size, key: partKey(session, part) });
    for (const { key, size } of objects) {
      const parsed = parsePartKey(key);
      if (parsed !== null) add({ ...parsed, key, size, path: null });
    }
    const sorted = [...bySession].sort(([left], [right]) => (left < right ? -1 : 1));
    return new Map(
      sorted.map(([session, parts]) => [
        session,
        [...parts.values()].sort((left, right) => left.part - right.part),
      ]),
    );
  }
}

/** How far the reading of a session's parts has come. */
interface Progress {
  part: number;
  sealed: { readonly boot: string; readonly to: Place } | null;
  over: boolean;
  /** Events that were read from the journal: when they are found in parts behind these, they have been given already. */
  ahead: number;
}

/** As many as a part says that it holds. */
function eventsOf({ trailer }: PartInspection): number {
  return trailer?.chunks.reduce((sum, { events }) => sum + events, 0) ?? 0;
}

export function emptyReport(): ReadReport {
  return { faults: [], locked: [], missing: [], unsealed: false };
}

function isAfter(place: Place, other: Place): boolean {
  for (let index = 0; index < 3; index += 1) {
    if (place[index]! !== other[index]!) return place[index]! > other[index]!;
  }
  return false;
}
