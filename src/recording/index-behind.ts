import { closeSync, existsSync, mkdirSync, openSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/** In the data directory: an empty file for each session that the index does not know whole. */
export const BEHIND_DIRECTORY = 'index-behind';

/** Sessions of the longest outage that is put right by itself: ten a second for three hours. Beyond, all are taken to be. */
export const BEHIND_MAX = 100_000;

/** Stands for every session. No session's id looks like it. */
const ALL = 'all';

/**
 * Sessions whose recordings have more than the index, because it was away when they were sealed. Kept as files, so that it
 * outlives the process, and so that a command which indexes them again can take them off.
 */
export class BehindSessions {
  readonly #directory: string;
  #known: Set<string>;

  constructor(dataDir: string) {
    this.#directory = join(dataDir, BEHIND_DIRECTORY);
    this.#known = this.#read();
  }

  /** Known sessions, as of the last `refresh`. */
  get size(): number {
    return this.#known.size;
  }

  /** More sessions than could be kept: only to index everything again helps. */
  get all(): boolean {
    return this.#known.has(ALL);
  }

  has(session: string): boolean {
    return this.#known.has(session);
  }

  add(session: string): void {
    if (this.#known.has(session) || this.all) return;
    const name = this.#known.size >= BEHIND_MAX ? ALL : session;
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    closeSync(openSync(join(this.#directory, name), 'a', 0o600));
    this.#known.add(name);
  }

  delete(session: string): void {
    if (!this.#known.delete(session)) return;
    rmSync(join(this.#directory, session), { force: true });
  }

  clear(): void {
    this.#known.clear();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  /** Sessions as they are on disk now, the earliest first. */
  refresh(): string[] {
    this.#known = this.#read();
    return [...this.#known].filter((name) => name !== ALL).sort();
  }

  #read(): Set<string> {
    return new Set(existsSync(this.#directory) ? readdirSync(this.#directory) : []);
  }
}
