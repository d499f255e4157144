import { readFileSync } from 'node:fs';
import type { Note, ObserveOptions } from '../../protocols/engine.ts';
import { ALLOW, type Sink, type Verdict } from '../../protocols/engine.ts';
import type { Statement } from '../../protocols/statement.ts';
import { observe } from '../../protocols/tds/observe.ts';
import { type SessionFacts, versionOf } from '../../protocols/tds/session.ts';
import { lending } from './lending.ts';

/** Recorded conversations with a TDS server, cut at the end of their sign-in, and what an observer makes of the rest. */

export interface Chunk {
  readonly from: 'client' | 'server';
  readonly bytes: Buffer;
}

export interface Capture {
  /** Null: the sign-in failed, or cannot be read. */
  readonly facts: SessionFacts | null;
  /** What came after the sign-in, one read each. */
  readonly chunks: readonly Chunk[];
}

export function readCapture(path: string): Capture {
  const lines = readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { from: 'client' | 'server'; hex: string });
  const whole = { client: joined(lines, 'client'), server: joined(lines, 'server') };
  const starts = { client: clientStart(whole.client), server: serverStart(whole.server) };
  if (starts.client === null || starts.server === null) return { facts: null, chunks: [] };
  const seen = { client: 0, server: 0 };
  const chunks: Chunk[] = [];
  for (const { from, hex } of lines) {
    const bytes = Buffer.from(hex, 'hex');
    const skipped = Math.min(bytes.length, Math.max(0, starts[from]!.position - seen[from]));
    seen[from] += bytes.length;
    if (skipped < bytes.length) chunks.push({ from, bytes: bytes.subarray(skipped) });
  }
  return { facts: starts.server.facts, chunks };
}

function joined(lines: readonly { from: string; hex: string }[], from: string): Buffer {
  return Buffer.concat(
    lines.filter((line) => line.from === from).map((line) => Buffer.from(line.hex, 'hex')),
  );
}

/** Behind PRELOGIN, TLS, and LOGIN7, which is in clear or in TLS records of its own. */
function clientStart(bytes: Buffer): { position: number } | null {
  let position = 0;
  while (position < bytes.length) {
    const first = bytes[position]!;
    if (first === 0x12) position += bytes.readUInt16BE(position + 2);
    else if (first >= 0x14 && first <= 0x17) {
      position += 5 + bytes.readUInt16BE(position + 3);
      if (first === 0x17) return { position };
    } else if (first === 0x10) {
      const last = bytes[position + 1]! & 1;
      position += bytes.readUInt16BE(position + 2);
      if (last) return { position };
    } else return null;
  }
  return null;
}

/** Behind the answer to LOGIN7. The first message of type 4 answers PRELOGIN. */
function serverStart(bytes: Buffer): { position: number; facts: SessionFacts } | null {
  let position = 0;
  let messages = 0;
  let payload: Buffer[] = [];
  while (position + 8 <= bytes.length) {
    const first = bytes[position]!;
    if (first >= 0x14 && first <= 0x17) {
      position += 5 + bytes.readUInt16BE(position + 3);
      continue;
    }
    const length = bytes.readUInt16BE(position + 2);
    const last = bytes[position + 1]! & 1;
    if (first === 0x04) {
      payload.push(bytes.subarray(position + 8, position + length));
      if (last) messages += 1;
    }
    position += length;
    if (messages === 2) {
      const facts = loginFacts(Buffer.concat(payload));
      return facts === null ? null : { position, facts };
    }
    if (last) payload = [];
  }
  return null;
}

/** What a login response says; null when it has no LOGINACK. */
export function loginFacts(payload: Buffer): SessionFacts | null {
  let version: SessionFacts['version'] | null = null;
  let database: string | null = null;
  let collation: Buffer | null = null;
  let packetBytes = 4096;
  for (let at = 0; at < payload.length; ) {
    const token = payload[at]!;
    if (token === 0xfd) break;
    if (token === 0xae) {
      at += 1;
      while (payload[at] !== 0xff) at += 5 + payload.readUInt32LE(at + 1);
      at += 1;
      continue;
    }
    const length = payload.readUInt16LE(at + 1);
    if (token === 0xad) version = versionOf(payload.readUInt32BE(at + 4));
    if (token === 0xe3) {
      const type = payload[at + 3];
      const size = payload[at + 4]!;
      if (type === 1) database = payload.toString('utf16le', at + 5, at + 5 + size * 2);
      if (type === 4) packetBytes = Number(payload.toString('utf16le', at + 5, at + 5 + size * 2));
      if (type === 7) collation = payload.subarray(at + 5, at + 5 + size);
    }
    at += 3 + length;
  }
  return version === null ? null : sessionFacts({ version, database, collation, packetBytes });
}

export function sessionFacts(facts: Partial<SessionFacts> = {}): SessionFacts {
  return {
    settings: {
      engine: 'tds',
      encryption: 'off',
      clientEncryption: 'none',
      mars: false,
      windowsDomain: null,
      serverName: null,
    },
    version: '7.4',
    mars: false,
    packetBytes: 4096,
    database: null,
    collation: null,
    inTransaction: false,
    account: 'svc_app',
    serverName: 'orders',
    serverProcess: 51,
    features: { columnEncryption: false, dataClassification: 0 },
    ...facts,
  };
}

/** What an observer said and let through. */
export class CollectingSink implements Sink {
  readonly statements: Statement[] = [];
  readonly ended: Statement[] = [];
  readonly notes: Note[] = [];
  readonly toServerChunks: Buffer[] = [];
  readonly toClientChunks: Buffer[] = [];
  /** Texts as the gate saw them. */
  readonly judged: (string | null)[] = [];
  verdict: (statement: Statement) => Verdict = () => ALLOW;

  toServer(bytes: Buffer): void {
    this.toServerChunks.push(Buffer.from(bytes));
  }

  toClient(bytes: Buffer): void {
    this.toClientChunks.push(Buffer.from(bytes));
  }

  decide(statement: Statement): Verdict {
    this.judged.push(statement.text);
    return this.verdict(statement);
  }

  begin(statement: Statement): void {
    this.statements.push(statement);
  }

  end(statement: Statement): void {
    if (this.ended.includes(statement)) throw new Error(`ended twice: ${statement.text}`);
    this.ended.push(statement);
  }

  note(note: Note): void {
    this.notes.push(note);
  }

  get sent(): Buffer {
    return Buffer.concat(this.toServerChunks);
  }

  get received(): Buffer {
    return Buffer.concat(this.toClientChunks);
  }
}

export const EVERYTHING: ObserveOptions = { parameters: true, sampleRows: 3, columns: true };

/** Feeds chunks to an observer, each cut by `cut` into pieces; ends it, and gives what came of it. */
export function replay(
  facts: SessionFacts,
  chunks: readonly Chunk[],
  cut: (chunk: Buffer, index: number) => readonly Buffer[] = (chunk) => [chunk],
  options: ObserveOptions = EVERYTHING,
): CollectingSink {
  const sink = new CollectingSink();
  const observer = lending(observe(sink, options, facts));
  for (const [index, { from, bytes }] of chunks.entries()) {
    for (const piece of cut(Buffer.from(bytes), index)) observer[from](piece);
  }
  observer.close('unknown');
  return sink;
}
