import { createReadStream } from 'node:fs';

/** Where sealed recordings are kept. One contract, one file an adapter; a test suite runs them all. */
export interface RecordingStore {
  /** What it is, for people: a folder's path, a bucket's name. Never a credential. */
  readonly name: string;
  /**
   * Stores the file at `path` under `key`; when this resolves it survives a crash of the store's own machine. Storing
   * the same content again is no fault; other content under a key that exists is refused.
   */
  put(key: string, path: string): Promise<void>;
  /** The whole object. Rejects with a `StoreError` `not_found`. */
  get(key: string): Promise<Buffer>;
  /** Objects whose key begins with `prefix`, by key. */
  list(prefix: string): Promise<StoredObject[]>;
  /** Deletes an object. No fault when there is none. */
  delete(key: string): Promise<void>;
  /** Rejects when the store cannot be reached or written. */
  check(): Promise<void>;
  close(): Promise<void>;
}

export interface StoredObject {
  readonly key: string;
  readonly size: number;
  /** Milliseconds since the epoch. */
  readonly modifiedAt: number;
}

export class StoreError extends Error {
  readonly code: 'not_found' | 'exists' | 'held' | 'unavailable';

  constructor(code: StoreError['code'], message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.name = 'StoreError';
    this.code = code;
  }
}

const SUFFIX = '.sprec';

/** `2026/11/24/SESSION/000001.sprec`: the day is that of the session's id, whose first ten characters are its time. */
export function partKey(session: string, part: number): string {
  return `${sessionPrefix(session)}${String(part).padStart(6, '0')}${SUFFIX}`;
}

/** What the keys of all parts of a session begin with. */
export function sessionPrefix(session: string): string {
  const day = new Date(idTime(session)).toISOString().slice(0, 10).replaceAll('-', '/');
  return `${day}/${session}/`;
}

/** Null for keys that are no parts. */
export function parsePartKey(key: string): { session: string; part: number } | null {
  const match = /^\d{4}\/\d{2}\/\d{2}\/([\x21-\x2e\x30-\x7e]{26})\/(\d{6})\.sprec$/.exec(key);
  return match === null ? null : { session: match[1]!, part: Number(match[2]) };
}

const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
/** 9999-12-31, the last day that `toISOString` writes with four digits. */
const TIME_MAX = 253_402_300_799_999;

/** The time in an id of `newId`, in milliseconds since the epoch. */
export function idTime(id: string): number {
  let time = 0;
  for (const character of id.slice(0, 10)) time = time * 32 + Math.max(0, ALPHABET.indexOf(character));
  return Math.min(time, TIME_MAX);
}

/** SHA-256 of a file without holding it in memory. */
export async function fileSha256(path: string): Promise<string> {
  const { createHash } = await import('node:crypto');
  const digest = createHash('sha256');
  for await (const chunk of createReadStream(path)) digest.update(chunk as Buffer);
  return digest.digest('hex');
}
