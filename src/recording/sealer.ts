import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { decodeEvent, type RawEvent } from './decode.ts';
import { type JournalEvent, timeText } from './events.ts';
import { type SigningKey, wrapKey } from './keys.ts';
import {
  CHUNK_BYTES_MAX,
  KEY_PARTS_MAX,
  PART_BYTES_MAX,
  SEAL_MS,
  SEALED_TOGETHER_MAX,
  SEALER_MEMORY_BYTES_MAX,
} from './limits.ts';
import { Lines } from './lines.ts';
import { type JournalRead, JournalReader, listSegments } from './reader.ts';
import {
  type Compression,
  dataKey,
  inspectPart,
  type PartInspection,
  type Place,
  type RecordingState,
  RecordingWriter,
  SALT_BYTES,
} from './recording.ts';
import { PartFile, SpoolSteps } from './spool-steps.ts';
import { parsePartKey, partKey, type RecordingStore, sessionPrefix } from './store/store.ts';

/**
 * Turns the journal of one boot into recordings.
 *
 * It follows the journal's files, sorts events by session, and seals each session's into parts: when the session ends,
 * when its events have waited for some minutes, or when a part has grown large. Sealed parts lie in `spool` until the
 * store has them. A segment of the journal is removed when every event in it lies in a sealed part that is on disk.
 *
 * It keeps no state of its own that a crash could lose: a part's trailer says which place in the journal it ends at, and
 * whoever seals the rest after a crash begins behind that place.
 */

export interface SealerOptions {
  readonly journalDirectory: string;
  readonly spoolDirectory: string;
  readonly boot: string;
  readonly bootKey: Buffer;
  readonly gateway: string;
  readonly recipients: readonly string[];
  readonly signing: SigningKey;
  readonly store: RecordingStore;
  /** Parts of this boot may exist already: look for them before beginning a session's next part. */
  readonly resumed: boolean;
  readonly compression?: Compression;
  readonly sealMs?: number;
  readonly partBytesMax?: number;
  readonly now?: () => number;
  /** Hears every event once it was read from the journal, in order. Those of parts sealed before are not repeated. */
  readonly heard?: (event: JournalEvent, session: string) => void;
  /** Called before parts take their names: what was heard of them must be kept by then, for it is not heard again. */
  readonly sealing?: (sessions: readonly string[]) => void | Promise<void>;
  /** Called behind each batch that was read and heard; the next is read when it has resolved. */
  readonly batchHeard?: () => void | Promise<void>;
  readonly sealed?: (part: SealedPart) => void;
  /** The first segment of a boot that somebody else still has to read; null where nobody has. */
  readonly needed?: (boot: string) => number | null;
  readonly log?: SealerLog;
}

/** Audit events of a sealed part, in the gateway's own recording. */
export const SEALED_ACTION = 'recording_sealed';
export const DELETED_ACTION = 'recording_deleted';

export interface SealerLog {
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface SealedPart {
  readonly session: string;
  /** It is of the gateway's own recording. */
  readonly ofGateway: boolean;
  readonly part: number;
  readonly state: RecordingState;
  readonly key: string;
  readonly events: number;
  readonly bytes: number;
}

interface SessionState {
  readonly id: string;
  /** The number of the part that is open or comes next. */
  part: number;
  /** SHA-256 of the part before. */
  previous: string | null;
  /** Events up to here lie in sealed parts. */
  sealedTo: Place | null;
  open: OpenPart | null;
  statements: number;
  lastAt: string | null;
  /** The state of the part that is being sealed; it stays until that has succeeded. */
  closing: RecordingState | null;
  ended: boolean;
}

/** The key that the data keys of several parts are derived from. */
interface SealingKey {
  readonly key: Buffer;
  /** For the recipients, base64. */
  readonly wrapped: string;
  parts: number;
}

interface OpenPart {
  /** Events of the chunk that comes next. */
  lines: Lines;
  from: Place;
  to: Place;
  firstAt: string;
  lastAt: string;
  readonly openedAt: number;
  /** Set once a chunk has been written. */
  file: { readonly writer: RecordingWriter; readonly onDisk: PartFile } | null;
}

/** Events that change nothing but the part they join. */
const JOINING: ReadonlySet<string> = new Set([
  'statement_started',
  'statement_ended',
  'note',
  'frame',
  'audit',
]);

/** Nothing of the session follows; its last part may still wait to be sealed. */
function isOver({ ended, closing }: SessionState): boolean {
  return ended || (closing !== null && closing !== 'open');
}

export class Sealer {
  readonly #options: SealerOptions;
  readonly #reader: JournalReader;
  readonly #sessions = new Map<string, SessionState>();
  readonly #now: () => number;
  /** Sessions that are over, and are sealed together: the index takes them in one transaction. */
  #over: SessionState[] = [];
  readonly #steps = new SpoolSteps();
  /** Files that are being written. */
  readonly #files = new Set<PartFile>();
  /** Parts that have their name, and of which nobody has been told. */
  #named: (SealedPart & { readonly sha256: string })[] = [];
  /** Sealed files that have not been synced. */
  readonly #unsynced = new Set<string>();
  #sealingKey: SealingKey | null = null;
  #memory = 0;
  #fault: Error | null = null;
  #closedByMark = false;
  #place: Place = [0, 0, 0];
  #lastAt: string;

  constructor(options: SealerOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#lastAt = timeText(this.#now());
    mkdirSync(options.spoolDirectory, { recursive: true, mode: 0o700 });
    this.#reader = new JournalReader(options.journalDirectory, options.boot, options.bootKey);
    // Parts that were being written when their process stopped: the journal still has their events.
    for (const name of readdirSync(options.spoolDirectory)) {
      if (name.endsWith('.tmp') && name.startsWith(`${options.boot}.`))
        rmSync(join(options.spoolDirectory, name), { force: true });
    }
  }

  /** Sessions that are not over. */
  get openSessions(): number {
    let open = 0;
    for (const state of this.#sessions.values()) if (!isOver(state)) open += 1;
    return open;
  }

  /** Reads what is new in the journal and seals what is due. Gives the number of events read. */
  async poll(final = false): Promise<number> {
    try {
      return await this.#round(final);
    } finally {
      this.#forgetKey();
    }
  }

  async #round(final: boolean): Promise<number> {
    this.#steps.retry();
    await this.#announce();
    let events = 0;
    let reads = 0;
    for (let read = this.#reader.next(final); read !== null; read = this.#reader.next(final)) {
      events += read.kind === 'batch' ? read.events.length : 0;
      await this.#take(read);
      this.#throwFault();
      await this.#options.batchHeard?.();
      reads += 1;
      if (reads % 64 === 0) await turn();
    }
    await this.#sealOver();
    await this.#sealDue();
    this.#throwFault();
    return events;
  }

  /**
   * Seals everything, for a boot that is over. Sessions that have no end on record get one: `interrupted`. What is left
   * to do is to `release` the boot's segments.
   */
  async finish(): Promise<void> {
    try {
      await this.#round(true);
      await this.#finishSessions();
    } finally {
      this.#forgetKey();
    }
    this.#reader.close();
  }

  async #finishSessions(): Promise<void> {
    for (const state of [...this.#sessions.values()]) {
      if (state.id !== this.#options.boot && !isOver(state))
        await this.#interrupt(state, 'the gateway stopped while the session was open');
    }
    await this.#sealOver();
    this.#throwFault();
    await this.#finishGateway();
    this.#throwFault();
  }

  /** The gateway's own recording gets an end too, also where all its events are sealed already. */
  async #finishGateway(): Promise<void> {
    const { boot, gateway } = this.#options;
    const own = this.#sessions.get(boot);
    if (own === undefined || own.ended) return;
    if (own.open === null || !this.#closedByMark) {
      await this.#event(own, {
        type: 'audit',
        at: this.#lastAt,
        gateway,
        action: this.#closedByMark ? 'gateway_finished' : 'gateway_interrupted',
        principal: null,
        resource: null,
        client_address: null,
        reason: null,
      });
    }
    await this.#seal([[own, this.#closedByMark ? 'ended' : 'interrupted']]);
  }

  close(): void {
    this.#reader.close();
    for (const file of this.#files) file.close();
    this.#files.clear();
  }

  /**
   * Removes the segments whose every event lies in sealed parts. Parts that the store has not taken are synced first: to
   * call it behind the store saves that.
   */
  release(all = false): void {
    if (this.#steps.stuck) return;
    const { journalDirectory, boot } = this.#options;
    let needed = all ? Number.POSITIVE_INFINITY : this.#reader.segment;
    for (const { open } of this.#sessions.values())
      if (open !== null) needed = Math.min(needed, open.from[0]);
    needed = Math.min(needed, this.#options.needed?.(boot) ?? Number.POSITIVE_INFINITY);
    const over = listSegments(journalDirectory).filter((file) => file.boot === boot && file.segment < needed);
    if (over.length === 0) return;
    this.#syncSpool();
    for (const file of over) rmSync(file.path, { force: true });
  }

  async #take(read: JournalRead): Promise<void> {
    const { segment, offset } = read.position;
    this.#place = [segment, offset, 0];
    if (read.kind === 'batch') {
      for (let index = 0; index < read.events.length; index += 1) {
        this.#place = [segment, offset, index];
        const sealing = this.#raw(read.events[index]!);
        if (sealing !== null) await sealing;
      }
      if (this.#memory > SEALER_MEMORY_BYTES_MAX) await this.#relieve();
      return;
    }
    const reason =
      read.kind === 'torn'
        ? `${read.end - offset} bytes of a write that was cut short`
        : `bytes ${offset} to ${read.end} of segment ${segment}: ${read.reason}`;
    if (read.kind === 'damaged') this.#keepDamaged(segment, reason);
    const open = [...this.#sessions.values()].filter(
      (state) => !isOver(state) && state.id !== this.#options.boot,
    );
    const gap: JournalEvent = {
      type: 'gap',
      at: this.#lastAt,
      from: this.#lastAt,
      to: this.#lastAt,
      events: read.kind === 'torn' ? read.events.length : 0,
      sessions: read.kind === 'torn' ? [] : open.map(({ id }) => id),
      reason,
    };
    await this.#event(await this.#state(this.#options.boot), gap);
    if (read.kind === 'damaged') for (const state of open) await this.#event(state, gap);
  }

  /** An altered segment is evidence: it is kept beside the journal. */
  #keepDamaged(segment: number, reason: string): void {
    const { journalDirectory, boot, log } = this.#options;
    log?.error({ boot, segment, reason }, 'the journal was altered');
    const file = listSegments(journalDirectory).find(
      (entry) => entry.boot === boot && entry.segment === segment,
    );
    if (file === undefined) return;
    const folder = join(journalDirectory, 'damaged');
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    renameSync(file.path, join(folder, file.name));
  }

  /** Null where the event only joins those that wait, as nearly all do: a promise an event is felt. */
  #raw(raw: RawEvent): Promise<void> | null {
    const event = raw.event ?? decodeEvent(raw.bytes, raw.session);
    this.#lastAt = event.at;
    const state = this.#sessions.get(raw.session ?? this.#options.boot);
    if (state === undefined || !JOINING.has(event.type)) return this.#turning(raw, event);
    if (this.#isSealed(state)) return null;
    return this.#add(state, event) ? this.#full(state) : null;
  }

  /** An event of a session that is new here, or one that begins or ends something. */
  async #turning(raw: RawEvent, event: JournalEvent): Promise<void> {
    const state = await this.#state(raw.session ?? this.#options.boot);
    if (event.type === 'journal') await this.#mark(event);
    if (this.#isSealed(state)) {
      if (event.type === 'session_ended') state.ended = true;
      return;
    }
    if (event.type === 'session_ended') {
      await this.#end(state, event, 'ended');
      return;
    }
    await this.#event(state, event);
    if (event.type === 'gap') {
      for (const session of event.sessions) {
        const loser = this.#sessions.get(session);
        if (loser !== undefined && !isOver(loser)) await this.#event(loser, event);
      }
    }
  }

  /** Whether the event at this place lies in a sealed part already. */
  #isSealed({ sealedTo }: SessionState): boolean {
    return sealedTo !== null && !after(this.#place, sealedTo);
  }

  /** A mark lists the open sessions: those before a crash are learnt from it, and those whose end was lost. */
  async #mark(event: JournalEvent & { type: 'journal' }): Promise<void> {
    this.#closedByMark = event.action === 'closed';
    const open = new Set(event.sessions);
    for (const session of open) await this.#state(session);
    for (const state of [...this.#sessions.values()]) {
      if (open.has(state.id) || isOver(state) || state.id === this.#options.boot) continue;
      await this.#interrupt(state, 'the end of the session is not on record');
    }
  }

  #interrupt(state: SessionState, detail: string): Promise<void> {
    const event = {
      type: 'session_ended' as const,
      session: state.id,
      at: state.lastAt ?? this.#lastAt,
      reason: 'interrupted' as const,
      detail,
      statements: state.statements,
      bytes_sent: 0,
      bytes_received: 0,
    };
    return this.#end(state, event, 'interrupted');
  }

  /** Adds the session's last event. It is not the end of an open part, however full that is: another would follow. */
  async #end(state: SessionState, event: JournalEvent, as: RecordingState): Promise<void> {
    this.#add(state, event);
    state.closing = as;
    this.#over.push(state);
    if (this.#over.length >= SEALED_TOGETHER_MAX) await this.#sealOver();
  }

  async #sealOver(): Promise<void> {
    const over = this.#over;
    this.#over = [];
    await this.#seal(over.map((state) => [state, state.closing!]));
  }

  async #event(state: SessionState, event: JournalEvent): Promise<void> {
    if (this.#add(state, event)) await this.#full(state);
  }

  /** Whether a chunk has come together. */
  #add(state: SessionState, event: JournalEvent): boolean {
    if (event.type === 'statement_started') state.statements = event.seq;
    state.lastAt = event.at;
    state.open ??= {
      lines: new Lines(),
      from: this.#place,
      to: this.#place,
      firstAt: event.at,
      lastAt: event.at,
      openedAt: this.#now(),
      file: null,
    };
    const open = state.open;
    const { room } = open.lines;
    open.lines.add(event);
    this.#memory += open.lines.room - room;
    open.to = this.#place;
    open.lastAt = event.at;
    this.#tell(event, state.id);
    return open.lines.length >= CHUNK_BYTES_MAX;
  }

  #throwFault(): void {
    const fault = this.#fault;
    this.#fault = null;
    if (fault !== null) throw fault;
  }

  /** What a listener throws is kept until the batch is taken whole: the journal will not give its other events again. */
  #tell(event: JournalEvent, session: string): void {
    try {
      this.#options.heard?.(event, session);
    } catch (error) {
      this.#fault ??= error as Error;
    }
  }

  async #full(state: SessionState): Promise<void> {
    // What is left of this batch stays in memory then; no other is read.
    if (this.#steps.stuck) return;
    const open = state.open!;
    await this.#chunk(state, open);
    const size = open.file?.writer.size ?? 0;
    if (size >= (this.#options.partBytesMax ?? PART_BYTES_MAX)) await this.#seal([[state, 'open']]);
  }

  async #sealDue(): Promise<void> {
    const due = this.#now() - (this.#options.sealMs ?? SEAL_MS);
    let together: [SessionState, RecordingState][] = [];
    for (const state of [...this.#sessions.values()]) {
      if (state.open === null || (state.closing === null && state.open.openedAt > due)) continue;
      together.push([state, state.closing ?? 'open']);
      if (together.length < SEALED_TOGETHER_MAX) continue;
      await this.#seal(together);
      together = [];
    }
    await this.#seal(together);
  }

  /** Writes the largest waiting chunks, until half of the memory is free again. */
  async #relieve(): Promise<void> {
    const waiting = [...this.#sessions.values()]
      .filter((state) => state.open !== null)
      .sort((left, right) => right.open!.lines.length - left.open!.lines.length);
    for (const state of waiting) {
      if (this.#memory <= SEALER_MEMORY_BYTES_MAX / 2) return;
      await this.#chunk(state, state.open!);
    }
  }

  async #chunk(state: SessionState, open: OpenPart): Promise<void> {
    const { lines } = open;
    if (lines.count === 0) return;
    open.file ??= await this.#begin(state, open);
    this.#write(open.file, (writer) => writer.chunk(lines.bytes, lines.count));
    // Whoever fills chunks will fill the next: its room is kept while there is enough for all.
    if (
      lines.length >= CHUNK_BYTES_MAX &&
      lines.room <= 2 * CHUNK_BYTES_MAX &&
      this.#memory <= SEALER_MEMORY_BYTES_MAX / 2
    ) {
      lines.clear();
      return;
    }
    this.#memory -= lines.room;
    open.lines = new Lines();
  }

  async #begin(state: SessionState, open: OpenPart): Promise<NonNullable<OpenPart['file']>> {
    const { boot, gateway, recipients, signing, spoolDirectory, compression } = this.#options;
    const { key, wrapped } = await this.#keyForPart();
    const header = {
      session: state.id,
      part: state.part,
      previous: state.previous,
      gateway,
      created_at: open.firstAt,
      compression: compression ?? 'zstd',
      recipients: [...recipients],
      key: wrapped,
      salt: randomBytes(SALT_BYTES).toString('hex'),
    };
    const writer = new RecordingWriter(header, dataKey(header, key), signing);
    const onDisk = new PartFile(join(spoolDirectory, `${boot}.${state.id}.${state.part}.tmp`));
    this.#files.add(onDisk);
    this.#do(() => onDisk.open());
    this.#do(() => onDisk.write(writer.head, 0));
    return { writer, onDisk };
  }

  /** To wrap a key costs more than all else that a short session needs: parts of one round may share one. */
  async #keyForPart(): Promise<SealingKey> {
    if (this.#sealingKey === null || this.#sealingKey.parts >= KEY_PARTS_MAX) {
      this.#forgetKey();
      const key = randomBytes(32);
      const wrapped = await wrapKey(key, this.#options.recipients);
      this.#sealingKey = { key, wrapped: wrapped.toString('base64'), parts: 0 };
    }
    this.#sealingKey.parts += 1;
    return this.#sealingKey;
  }

  /** From now on nobody but the recipients can open what was sealed with it. */
  #forgetKey(): void {
    this.#sealingKey?.key.fill(0);
    this.#sealingKey = null;
  }

  /** What `make` adds to the file goes to disk, now or when it can. */
  #write({ writer, onDisk }: NonNullable<OpenPart['file']>, make: (writer: RecordingWriter) => Buffer): void {
    const offset = writer.size;
    const bytes = make(writer);
    this.#do(() => onDisk.write(bytes, offset));
  }

  /** One step in the spool. Where it fails, `poll` says so when the batch has been taken whole. */
  #do(step: () => void): void {
    try {
      this.#steps.take(step);
    } catch (error) {
      this.#fault ??= error as Error;
    }
  }

  /** Those that have an open part get it sealed, in the state that stands beside each. */
  async #seal(wanted: readonly [SessionState, RecordingState][]): Promise<void> {
    const states = wanted.filter(([{ open }]) => open !== null);
    for (const [state, as] of states) state.closing = as;
    if (states.length === 0 || this.#steps.stuck) return;
    try {
      await this.#options.sealing?.(states.map(([{ id }]) => id));
    } catch (error) {
      // Tried again in the next round.
      this.#fault ??= error as Error;
      return;
    }
    for (const [state, as] of states) if (state.open !== null) await this.#name(state, state.open, as);
    await this.#announce();
  }

  /** Writes what is left of the part and its end, and gives it its name. */
  async #name(state: SessionState, open: OpenPart, wanted: RecordingState): Promise<void> {
    await this.#chunk(state, open);
    const file = open.file!;
    const { writer, onDisk } = file;
    const { boot, spoolDirectory } = this.#options;
    this.#write(file, () =>
      writer.end({
        state: wanted,
        firstAt: open.firstAt,
        lastAt: open.lastAt,
        boot,
        from: open.from,
        to: open.to,
      }),
    );
    const sealed = {
      session: state.id,
      ofGateway: state.id === boot,
      part: state.part,
      state: wanted,
      key: partKey(state.id, state.part),
      events: writer.events,
      bytes: writer.size,
      sha256: writer.sha256,
    };
    const target = join(spoolDirectory, spoolName(state.id, state.part));
    this.#do(() => onDisk.close());
    this.#do(() => {
      renameSync(onDisk.path, target);
      this.#files.delete(onDisk);
      this.#unsynced.add(target);
      this.#named.push(sealed);
    });
    state.previous = sealed.sha256;
    state.sealedTo = open.to;
    state.part += 1;
    this.#memory -= open.lines.room;
    state.open = null;
    state.closing = null;
    if (wanted !== 'open') {
      state.ended = true;
      // A session that ended has no more events; what is left of it is in the parts' trailers.
      this.#sessions.delete(state.id);
    }
  }

  async #announce(): Promise<void> {
    for (let next = this.#named.shift(); next !== undefined; next = this.#named.shift()) {
      const { sha256, ...part } = next;
      if (!part.ofGateway) await this.#enter(part.session, part.part, part.state, sha256);
      this.#options.sealed?.(part);
    }
  }

  /**
   * Enters a part in the gateway's own recording: so it shows when a part, or a whole session, is deleted by somebody who
   * cannot sign.
   */
  async #enter(session: string, part: number, state: RecordingState, sha256: string): Promise<void> {
    const { boot, gateway } = this.#options;
    const own = await this.#state(boot);
    if (own.ended) return;
    await this.#event(own, {
      type: 'audit',
      at: this.#lastAt,
      gateway,
      action: SEALED_ACTION,
      principal: null,
      resource: null,
      client_address: null,
      reason: null,
      detail: { session, part, state, sha256 },
    });
  }

  async #state(id: string): Promise<SessionState> {
    const known = this.#sessions.get(id);
    if (known !== undefined) return known;
    const state: SessionState = {
      id,
      part: 1,
      previous: null,
      sealedTo: null,
      open: null,
      statements: 0,
      lastAt: null,
      closing: null,
      ended: false,
    };
    if (this.#options.resumed) {
      const last = await lastPart(id, this.#options.spoolDirectory, this.#options.store);
      if (last?.trailer) {
        state.part = last.trailer.part + 1;
        state.previous = last.sha256;
        state.lastAt = last.trailer.last_at;
        if (last.trailer.journal.boot === this.#options.boot) state.sealedTo = last.trailer.journal.to;
        state.ended = last.trailer.state !== 'open';
      }
      this.#sessions.set(id, state);
      // Its entry may have been lost with the process that sealed it; a second one does no harm.
      if (last?.trailer && id !== this.#options.boot)
        await this.#enter(id, last.trailer.part, last.trailer.state, last.sha256);
      return state;
    }
    this.#sessions.set(id, state);
    return state;
  }

  #syncSpool(): void {
    for (const path of this.#unsynced) {
      // Gone: the store has it, and has synced it.
      if (existsSync(path)) syncFile(path);
    }
    this.#unsynced.clear();
    syncFile(this.#options.spoolDirectory);
  }
}

function after(place: Place, other: Place): boolean {
  for (let index = 0; index < 3; index += 1) {
    if (place[index]! !== other[index]!) return place[index]! > other[index]!;
  }
  return false;
}

function syncFile(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } catch (error) {
    if (!['EINVAL', 'ENOTSUP', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  } finally {
    closeSync(fd);
  }
}

/** The last part of a session that was sealed, wherever it is now. */
async function lastPart(
  session: string,
  spool: string,
  store: RecordingStore,
): Promise<PartInspection | null> {
  const spooled = spoolFiles(spool).filter((file) => file.session === session);
  const stored = (await store.list(sessionPrefix(session))).flatMap((object) => {
    const parsed = parsePartKey(object.key);
    return parsed === null ? [] : [{ ...parsed, key: object.key }];
  });
  const inSpool = spooled.at(-1);
  const inStore = stored.at(-1);
  if (inSpool !== undefined && inSpool.part >= (inStore?.part ?? 0))
    return inspectPart(readFileSync(inSpool.path));
  return inStore === undefined ? null : inspectPart(await store.get(inStore.key));
}

export interface SpoolFile {
  readonly session: string;
  readonly part: number;
  readonly path: string;
  readonly size: number;
}

function spoolName(session: string, part: number): string {
  return `${session}-${String(part).padStart(6, '0')}.sprec`;
}

/** Sealed parts that wait for the store, by session and part. */
export function spoolFiles(spool: string): SpoolFile[] {
  if (!existsSync(spool)) return [];
  const files: SpoolFile[] = [];
  for (const name of readdirSync(spool).sort()) {
    const match = /^([\x21-\x2e\x30-\x7e]{26})-(\d{6})\.sprec$/.exec(name);
    if (match === null) continue;
    const path = join(spool, name);
    try {
      files.push({ session: match[1]!, part: Number(match[2]), path, size: statSync(path).size });
    } catch {
      // Stored and removed meanwhile.
    }
  }
  return files;
}
