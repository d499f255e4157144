import { createHash, type Hash } from 'node:crypto';
import { PARAMETER_BYTES_MAX, PREPARED_STATEMENTS_MAX, PREPARED_TEXT_BYTES_MAX } from '../limits.ts';
import { LONG_DATA_PARAMETERS_MAX } from './limits.ts';
import type { Column } from './messages.ts';

/** A prepared statement as this session knows it. */
export class Prepared {
  /** UTF-8 text, cut as an event's is; null where it could not be read. */
  readonly text: string | null;
  readonly textBytes: number;
  textSha256: string | null = null;
  /** The server's id, in decimal: the statement's name on record. Null until the server has answered. */
  name: string | null = null;
  id = -1;
  /** Null until the server has answered. */
  parameters: number | null = null;
  /** Type and flag of each parameter, two bytes each, as the last execution that carried types said. */
  types: Buffer | null = null;
  /** Names that came with the types (query attributes). */
  names: readonly (string | null)[] | null = null;
  longData: Map<number, LongData> | null = null;
  /** Columns of its result, kept where samples or names are wanted: servers may leave them out later. */
  columns: readonly Column[] = [];
  columnNames: readonly string[] = [];

  constructor(text: string | null, textBytes: number) {
    this.text = text;
    this.textBytes = textBytes;
  }
}

/** What is kept of one parameter's long data: its length, and where it is one of the first, its head and digest. */
export class LongData {
  bytes = 0;
  readonly #head: Buffer[] = [];
  #headBytes = 0;
  readonly #hash: Hash | null;

  constructor(kept: boolean) {
    this.#hash = kept ? createHash('sha256') : null;
  }

  get kept(): boolean {
    return this.#hash !== null;
  }

  add(piece: Buffer): void {
    this.bytes += piece.length;
    if (this.#hash === null) return;
    this.#hash.update(piece);
    const room = PARAMETER_BYTES_MAX - this.#headBytes;
    if (room <= 0 || piece.length === 0) return;
    const kept = Buffer.from(piece.subarray(0, room));
    this.#head.push(kept);
    this.#headBytes += kept.length;
  }

  head(): Buffer {
    return Buffer.concat(this.#head);
  }

  /** Hex; null where nothing was kept. Once only. */
  sha256(): string | null {
    return this.#hash?.digest('hex') ?? null;
  }
}

/** The prepared statements of one session, by the server's id. The oldest are forgotten when there are too many. */
export class PreparedStatements {
  readonly #byId = new Map<number, Prepared>();
  #textBytes = 0;
  #longDataKept = 0;

  find(id: number): Prepared | undefined {
    return this.#byId.get(id);
  }

  add(prepared: Prepared): void {
    this.remove(prepared.id);
    this.#byId.set(prepared.id, prepared);
    this.#textBytes += prepared.text?.length ?? 0;
    if (this.#byId.size > PREPARED_STATEMENTS_MAX || this.#textBytes > PREPARED_TEXT_BYTES_MAX) this.#trim();
  }

  /** The data of parameter `index`, made where there is none yet. */
  longData(prepared: Prepared, index: number): LongData {
    prepared.longData ??= new Map();
    let data = prepared.longData.get(index);
    if (data === undefined) {
      data = new LongData(this.#longDataKept < LONG_DATA_PARAMETERS_MAX);
      if (data.kept) this.#longDataKept += 1;
      prepared.longData.set(index, data);
    }
    return data;
  }

  /** Executed, reset or closed: the statement has no long data any more. */
  dropLongData(prepared: Prepared): void {
    if (prepared.longData === null) return;
    for (const data of prepared.longData.values()) if (data.kept) this.#longDataKept -= 1;
    prepared.longData = null;
  }

  remove(id: number): void {
    const prepared = this.#byId.get(id);
    if (prepared === undefined) return;
    this.dropLongData(prepared);
    this.#byId.delete(id);
    this.#textBytes -= prepared.text?.length ?? 0;
  }

  clear(): void {
    this.#byId.clear();
    this.#textBytes = 0;
    this.#longDataKept = 0;
  }

  #trim(): void {
    for (const id of this.#byId.keys()) {
      if (this.#byId.size <= PREPARED_STATEMENTS_MAX && this.#textBytes <= PREPARED_TEXT_BYTES_MAX) return;
      this.remove(id);
    }
  }
}
