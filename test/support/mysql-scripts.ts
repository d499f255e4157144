import { createHash } from 'node:crypto';
import type { Note, ObserveOptions, Observer, Sink, Verdict } from '../../protocols/engine.ts';
import { observe } from '../../protocols/mysql/observe.ts';
import { packet } from '../../protocols/mysql/packets.ts';
import type { SessionFacts } from '../../protocols/mysql/session.ts';
import type { Statement } from '../../protocols/statement.ts';
import { lending } from './lending.ts';

/** CLIENT_* flags by which the framings differ; everything else of the sessions here is the same. */
export const FLAG = {
  secureConnection: 1 << 15,
  multiStatements: 1 << 16,
  pluginAuth: 1 << 19,
  connectAttributes: 1 << 20,
  sessionTrack: 1 << 23,
  deprecateEof: 1 << 24,
  optionalMetadata: 1 << 25,
  queryAttributes: 1 << 27,
} as const;

export interface ScriptFacts {
  capabilities?: number;
  extended?: number;
  flavor?: 'mysql' | 'mariadb';
  allowLocalInfile?: boolean;
  allowReplication?: boolean;
  collation?: number;
  database?: string | null;
  readOnly?: boolean;
  changeUser?: Partial<SessionFacts['changeUser']>;
  /** A client that does not know PLUGIN_AUTH. */
  withoutPlugins?: boolean;
}

export const SCRAMBLE = Buffer.from('abcdefghijklmnopqrst', 'latin1');

export function factsOf(facts: ScriptFacts = {}): SessionFacts {
  const flavor = facts.flavor ?? 'mysql';
  return {
    capabilities:
      ((facts.capabilities ?? 0) |
        FLAG.secureConnection |
        (facts.withoutPlugins ? 0 : FLAG.pluginAuth) |
        (1 << 9)) >>>
      0,
    extended: facts.extended ?? 0,
    serverVersion: flavor === 'mysql' ? '9.7.4' : '5.5.5-10.11.19-MariaDB',
    flavor,
    collation: facts.collation ?? 45,
    status: 2,
    account: 'app',
    database: facts.database ?? null,
    readOnly: facts.readOnly ?? false,
    settings: {
      engine: 'mysql',
      flavor,
      allowLocalInfile: facts.allowLocalInfile ?? false,
      allowReplication: facts.allowReplication ?? false,
      serverPublicKey: null,
      fetchServerPublicKey: false,
    },
    changeUser: {
      challenge: { method: 'trust' },
      greetingScramble: SCRAMBLE,
      plugin: flavor === 'mysql' ? 'caching_sha2_password' : 'mysql_native_password',
      scramble: () => SCRAMBLE,
      confidential: false,
      ...facts.changeUser,
    },
  };
}

/** A statement as the sink saw it end. */
export interface Seen {
  kind: string;
  text: string | null;
  name: string | null;
  status: string;
  rows: number | null;
  affected: number | bigint | null;
  error: string | null;
  parameters: unknown;
  opaque: boolean;
  results: unknown;
  messages: string[] | null;
  columns: readonly string[] | null;
  sample: unknown;
  transaction: string;
}

/** Runs an observer, and keeps what it lets through and says. */
export class Session implements Sink {
  readonly observer: Observer;
  readonly begun: Statement[] = [];
  readonly ended: Statement[] = [];
  readonly notes: Note[] = [];
  /** What `decide` answers; the default allows. */
  decide_: (statement: Statement) => Verdict = () => ({ action: 'allow' });
  #server: Buffer[] = [];
  #client: Buffer[] = [];
  #hashes: { server: ReturnType<typeof createHash>; client: ReturnType<typeof createHash> } | null = null;
  toServerCalls = 0;
  toClientCalls = 0;

  constructor(facts: ScriptFacts = {}, options: Partial<ObserveOptions> = {}) {
    this.observer = lending(
      observe(this, { parameters: true, sampleRows: 0, columns: false, ...options }, factsOf(facts)),
    );
  }

  toServer(bytes: Buffer): void {
    this.toServerCalls += 1;
    if (this.#hashes) this.#hashes.server.update(bytes);
    else this.#server.push(Buffer.from(bytes));
  }

  toClient(bytes: Buffer): void {
    this.toClientCalls += 1;
    if (this.#hashes) this.#hashes.client.update(bytes);
    else this.#client.push(Buffer.from(bytes));
  }

  decide(statement: Statement): Verdict {
    return this.decide_(statement);
  }

  begin(statement: Statement): void {
    this.begun.push(statement);
  }

  end(statement: Statement): void {
    this.ended.push(statement);
  }

  note(note: Note): void {
    this.notes.push(note);
  }

  /** All that went to the server (and is forgotten by this), as one piece. */
  sent(): Buffer {
    const bytes = Buffer.concat(this.#server);
    this.#server = [];
    return bytes;
  }

  received(): Buffer {
    const bytes = Buffer.concat(this.#client);
    this.#client = [];
    return bytes;
  }

  /** For what is too long to keep. */
  hashInstead(): void {
    this.#hashes = { server: createHash('sha256'), client: createHash('sha256') };
  }

  hashes(): { server: string; client: string } {
    return { server: this.#hashes!.server.digest('hex'), client: this.#hashes!.client.digest('hex') };
  }

  seen(): Seen[] {
    return this.ended.map((statement) => ({
      kind: statement.kind,
      text: statement.text,
      name: statement.name,
      status: statement.status,
      rows: statement.rowsReturned,
      affected: statement.rowsAffected,
      error: statement.error?.code ?? null,
      parameters: statement.parameters?.map(({ value }) => value) ?? null,
      opaque: statement.opaque,
      results:
        statement.results?.map(({ text, rowsReturned, rowsAffected }) => [
          text,
          rowsReturned,
          rowsAffected,
        ]) ?? null,
      messages: statement.messages,
      columns: statement.columns,
      sample: statement.sample,
      transaction: statement.transaction,
    }));
  }
}

/** What each side says, in turn. Hexadecimal text may stand for bytes. */
export type Step = { readonly C: Buffer } | { readonly S: Buffer };

export interface Script {
  readonly facts?: ScriptFacts;
  readonly options?: Partial<ObserveOptions>;
  readonly decide?: (statement: Statement) => Verdict;
  readonly steps: readonly Step[];
}

export interface Run {
  readonly session: Session;
  readonly sent: Buffer;
  readonly received: Buffer;
}

/** Plays a script, each step cut into pieces of the given size (0: whole). */
export function play(script: Script, size = 0): Run {
  const session = new Session(script.facts, script.options);
  if (script.decide) session.decide_ = script.decide;
  for (const step of script.steps) {
    const [bytes, side] = 'C' in step ? [step.C, 'client' as const] : [step.S, 'server' as const];
    for (const piece of pieces(bytes, size)) session.observer[side](piece);
  }
  return { session, sent: session.sent(), received: session.received() };
}

/** Plays a script with one step (by index) cut in two at `at`. */
export function playCut(script: Script, step: number, at: number): Run {
  const session = new Session(script.facts, script.options);
  if (script.decide) session.decide_ = script.decide;
  script.steps.forEach((each, index) => {
    const [bytes, side] = 'C' in each ? [each.C, 'client' as const] : [each.S, 'server' as const];
    if (index === step) {
      session.observer[side](Buffer.from(bytes.subarray(0, at)));
      session.observer[side](Buffer.from(bytes.subarray(at)));
    } else session.observer[side](Buffer.from(bytes));
  });
  return { session, sent: session.sent(), received: session.received() };
}

export function pieces(bytes: Buffer, size: number): Buffer[] {
  if (size === 0) return [Buffer.from(bytes)];
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += size) parts.push(Buffer.from(bytes.subarray(at, at + size)));
  return parts;
}

// Packets, as the protocol documentation lays them out.

/** Payloads (hexadecimal text or bytes) as packets, numbered from `sequence`. */
export function packets(sequence: number, ...payloads: readonly (Buffer | string)[]): Buffer {
  let number = sequence;
  const parts: Buffer[] = [];
  for (const payload of payloads) {
    const bytes = hex(payload);
    parts.push(packet(number & 0xff, bytes));
    number += Math.floor(bytes.length / 0xff_ffff) + 1;
  }
  return Buffer.concat(parts);
}

export function hex(value: Buffer | string): Buffer {
  return typeof value === 'string' ? Buffer.from(value.replaceAll(' ', ''), 'hex') : value;
}

export function command(code: number, ...rest: readonly (Buffer | string | number)[]): Buffer {
  return packet(0, Buffer.concat([Buffer.of(code), ...rest.map(part)]));
}

function part(value: Buffer | string | number): Buffer {
  if (typeof value === 'number') return Buffer.of(value);
  return typeof value === 'string' ? Buffer.from(value) : value;
}

export function query(text: string): Buffer {
  return command(3, text);
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value & 0xffff);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

export function lenenc(text: Buffer | string): Buffer {
  const bytes = typeof text === 'string' ? Buffer.from(text) : text;
  if (bytes.length < 251) return Buffer.concat([Buffer.of(bytes.length), bytes]);
  if (bytes.length < 0x1_0000) return Buffer.concat([Buffer.of(0xfc), u16(bytes.length), bytes]);
  if (bytes.length < 0x100_0000) {
    return Buffer.concat([Buffer.of(0xfd), u32(bytes.length).subarray(0, 3), bytes]);
  }
  const long = Buffer.alloc(9);
  long[0] = 0xfe;
  long.writeBigUInt64LE(BigInt(bytes.length), 1);
  return Buffer.concat([long, bytes]);
}

export function ok(affected = 0, status = 2, insertId = 0): Buffer {
  return Buffer.concat([Buffer.of(0, affected, insertId), u16(status), u16(0)]);
}

/** The packet behind the last row, or (without DEPRECATE_EOF) behind definitions. */
export function eof(deprecated: boolean, status = 2): Buffer {
  return deprecated
    ? Buffer.concat([Buffer.of(0xfe, 0, 0), u16(status), u16(0)])
    : Buffer.concat([Buffer.of(0xfe), u16(0), u16(status)]);
}

export function error(errno: number, sqlstate = 'HY000', message = 'no'): Buffer {
  return Buffer.concat([Buffer.of(0xff), u16(errno), Buffer.from(`#${sqlstate}${message}`)]);
}

/** A column definition. */
export function column(name: string, type = 253, charset = 45, flags = 0, extended = false): Buffer {
  return Buffer.concat([
    lenenc('def'),
    lenenc(''),
    lenenc(''),
    lenenc(''),
    lenenc(name),
    lenenc(''),
    ...(extended ? [lenenc('')] : []),
    Buffer.of(0x0c),
    u16(charset),
    u32(255),
    Buffer.of(type),
    u16(flags),
    Buffer.of(0),
    u16(0),
  ]);
}

export function textRow(...values: readonly (string | Buffer | null)[]): Buffer {
  return Buffer.concat(values.map((value) => (value === null ? Buffer.of(0xfb) : lenenc(value))));
}

/** A whole text result: column count, definitions, rows, ends; in the framing of `deprecated`. */
export function resultset(
  deprecated: boolean,
  columns: readonly string[],
  rows: readonly (readonly (string | null)[])[],
  status = 2,
): Buffer[] {
  return [
    Buffer.of(columns.length),
    ...columns.map((name) => column(name)),
    ...(deprecated ? [] : [eof(false, status)]),
    ...rows.map((row) => textRow(...row)),
    eof(deprecated, status),
  ];
}
