import { hash, type KeyObject } from 'node:crypto';
import type { JournalEvent } from './events.ts';
import type { Library, PartFile } from './library.ts';
import { inspectPart, openPart, type RecordingState } from './recording.ts';
import { DELETED_ACTION, SEALED_ACTION } from './sealer.ts';
import { parsePartKey, partKey } from './store/store.ts';

/** One thing that is wrong with a session's recording. `from` and `to` are byte offsets in the part's file. */
export interface Finding {
  readonly key: string;
  readonly from: number | null;
  readonly to: number | null;
  readonly what: string;
}

export interface Verification {
  readonly session: string;
  /** Every byte is as it was signed, by known keys, and no part, chunk or statement is missing. */
  readonly proven: boolean;
  readonly findings: readonly Finding[];
  readonly parts: number;
  readonly bytes: number;
  readonly events: number;
  readonly statements: number;
  /** Ids of the keys that signed it, and whether each is known. */
  readonly signers: readonly { readonly id: string; readonly known: boolean }[];
  /** The content was decrypted and checked too. Without a key to read, chain and signature are. */
  readonly opened: boolean;
  readonly state: RecordingState | null;
  /** Gaps that the gateway itself put on record. */
  readonly gaps: number;
}

/**
 * Proves one session's recording: chain and signature of every part, the order of parts, and, where an identity opens
 * it, the content and the numbering of statements. `trusted` are public keys by id; null where none are known, and then
 * who signed is reported but not judged. `open` are the sessions that may go on; null where that is not known. Rejects only when the store cannot be read.
 */
export async function verifySession(
  library: Library,
  session: string,
  parts: readonly PartFile[],
  trusted: ReadonlyMap<string, KeyObject> | null,
  open: ReadonlySet<string> | null,
): Promise<Verification> {
  const findings: Finding[] = [];
  const signers = new Map<string, boolean>();
  const content = new ContentCheck();
  let previous: string | null = null;
  let expected = 1;
  let opened = true;
  let state: RecordingState | null = null;
  let events = 0;
  for (const part of parts) {
    const { key } = part;
    if (part.part !== expected) {
      findings.push({ key, from: null, to: null, what: `part ${expected} is missing before this one` });
      previous = null;
    }
    const bytes = await library.read(part);
    const inspection = inspectPart(bytes);
    for (const { from, to, what } of inspection.faults) findings.push({ key, from, to, what });
    if (inspection.header !== null) {
      const { header } = inspection;
      if (header.session !== session || header.part !== part.part)
        findings.push({
          key,
          from: null,
          to: null,
          what: `this is part ${header.part} of session ${header.session}`,
        });
      if (part.part === expected && header.previous !== previous && (previous !== null || part.part === 1))
        findings.push({ key, from: null, to: null, what: 'it does not follow on the part before' });
    }
    const { signedBy } = inspection;
    if (signedBy !== null) {
      const known = trusted?.has(signedBy) ?? false;
      signers.set(signedBy, known);
      if (trusted !== null && !known)
        findings.push({ key, from: null, to: null, what: `it is signed by an unknown key, ${signedBy}` });
    }
    if (state !== null && state !== 'open')
      findings.push({ key, from: null, to: null, what: 'it comes after the end of the session' });
    state = inspection.trailer?.state ?? state;
    events += inspection.trailer?.events ?? 0;
    previous = inspection.sha256;
    expected = part.part + 1;
    if (inspection.faults.length > 0) continue;
    const dataKey = await library.key(inspection);
    if (dataKey === null) {
      opened = false;
      continue;
    }
    try {
      for (const line of openPart(bytes, inspection, dataKey))
        content.event(JSON.parse(line) as JournalEvent, session);
    } catch (error) {
      findings.push({ key, from: null, to: null, what: (error as Error).message });
    }
  }
  if (state === 'open' && open !== null && !open.has(session)) {
    const key = parts.at(-1)?.key ?? session;
    findings.push({ key, from: null, to: null, what: 'its end is missing: no part closes the session' });
  }
  if (opened && findings.length === 0)
    for (const what of content.finish(state))
      findings.push({ key: parts.at(-1)?.key ?? session, from: null, to: null, what });
  return {
    session,
    proven: findings.length === 0,
    findings,
    parts: parts.length,
    bytes: parts.reduce((sum, { size }) => sum + size, 0),
    events,
    statements: content.statements,
    signers: [...signers].map(([id, known]) => ({ id, known })),
    opened,
    state,
    gaps: content.gaps,
  };
}

/** What the events themselves must show: one session, its statements numbered without a hole, its end last. */
class ContentCheck {
  statements = 0;
  gaps = 0;
  #ended: number | null = null;
  readonly #faults: string[] = [];

  event(event: JournalEvent, session: string): void {
    if (event.type === 'gap') this.gaps += 1;
    if (event.type === 'gap' || event.type === 'audit' || event.type === 'journal') return;
    if (event.session !== session) this.#fault(`an event of session ${event.session} is in it`);
    if (event.type === 'statement_started') {
      // A gap on record says itself what is missing.
      if (event.seq !== this.statements + 1 && this.gaps === 0)
        this.#fault(`statement ${event.seq} follows on statement ${this.statements}`);
      this.statements = event.seq;
    }
    if (event.type === 'session_ended') this.#ended = event.statements;
  }

  finish(state: RecordingState | null): readonly string[] {
    if (state === 'ended' && this.#ended !== null && this.#ended !== this.statements && this.gaps === 0)
      this.#fault(`the session had ${this.#ended} statements, ${this.statements} are on record`);
    return this.#faults;
  }

  #fault(what: string): void {
    if (this.#faults.length < 100) this.#faults.push(what);
  }
}

/**
 * Compares the store with the entries that the gateways made for each part they sealed: a part that has an entry, was not
 * deleted by retention and is not there was taken away, or replaced when its digest differs. `all` are the parts there are.
 * Entries of recordings that no identity opens cannot be read; their number is given.
 */
export async function verifyEntries(
  library: Library,
  all: ReadonlyMap<string, readonly PartFile[]>,
): Promise<{ findings: Finding[]; entries: number; locked: number }> {
  const entries = new Map<string, string>();
  const deleted = new Set<string>();
  let locked = 0;
  for (const [session, parts] of all) {
    const [first] = parts;
    if (first === undefined) continue;
    const { trailer } = inspectPart(await library.read(first));
    if (trailer?.journal.boot !== session) continue;
    try {
      for await (const event of library.events(session)) {
        if (event.type !== 'audit' || event.detail === undefined) continue;
        const id = String(event.detail['session']);
        if (event.action === DELETED_ACTION) deleted.add(id);
        if (event.action === SEALED_ACTION)
          entries.set(partKey(id, Number(event.detail['part'])), String(event.detail['sha256']));
      }
    } catch {
      locked += 1;
    }
  }
  const findings: Finding[] = [];
  const present = new Map([...all.values()].flat().map((part) => [part.key, part]));
  for (const [key, sha256] of entries) {
    const { session } = parsePartKey(key)!;
    if (deleted.has(session)) continue;
    const part = present.get(key);
    if (part === undefined) {
      findings.push({ key, from: null, to: null, what: 'it was sealed, and is not in the store' });
    } else if (hash('sha256', await library.read(part)) !== sha256) {
      findings.push({ key, from: null, to: null, what: 'it is not the file that was sealed' });
    }
  }
  return { findings, entries: entries.size, locked };
}
