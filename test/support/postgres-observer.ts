import { ALLOW, type Note, type Sink, type Verdict } from '../../protocols/engine.ts';
import type { SessionFacts } from '../../protocols/postgres/session.ts';
import type { Statement } from '../../protocols/statement.ts';

/** Facts of a session that has just been signed in. */
export const FACTS: SessionFacts = {
  protocolVersion: '3.0',
  parameters: new Map([
    ['server_version', '18.4'],
    ['client_encoding', 'UTF8'],
  ]),
  transactionStatus: 'I',
  serverPid: 4711,
  account: 'app',
  database: 'appdb',
  replication: false,
  denialMarker: 'sallyport_deny_0123456789ab',
};

/** A sink that keeps all it is given, and checks that what it is given comes in the order that is promised. */
export class KeepingSink implements Sink {
  readonly begun: Statement[] = [];
  readonly ended: Statement[] = [];
  readonly notes: Note[] = [];
  readonly texts = new Set<string>();
  serverBytes: Buffer[] = [];
  clientBytes: Buffer[] = [];
  verdict: (statement: Statement) => Verdict = () => ALLOW;

  toServer(bytes: Buffer): void {
    this.serverBytes.push(Buffer.from(bytes));
  }

  toClient(bytes: Buffer): void {
    this.clientBytes.push(Buffer.from(bytes));
  }

  decide(statement: Statement): Verdict {
    return this.verdict(statement);
  }

  begin(statement: Statement): void {
    if (this.begun.includes(statement)) throw new Error('begun twice');
    this.begun.push(statement);
    if (statement.text !== null) this.texts.add(statement.text);
  }

  end(statement: Statement): void {
    if (!this.begun.includes(statement)) throw new Error('ended before it was begun');
    if (this.ended.includes(statement)) throw new Error('ended twice');
    this.ended.push(statement);
  }

  note(note: Note): void {
    this.notes.push(note);
  }

  get open(): Statement[] {
    return this.begun.filter((statement) => !this.ended.includes(statement));
  }

  get toServerBytes(): Buffer {
    return Buffer.concat(this.serverBytes);
  }

  get toClientBytes(): Buffer {
    return Buffer.concat(this.clientBytes);
  }
}

/** One protocol message: type letter, length, body. */
export function message(type: string, ...parts: (Buffer | string | number)[]): Buffer {
  const body = Buffer.concat(
    parts.map((part) => {
      if (typeof part === 'string') return Buffer.from(`${part}\0`);
      if (typeof part !== 'number') return part;
      const bytes = Buffer.alloc(2);
      bytes.writeUInt16BE(part);
      return bytes;
    }),
  );
  const header = Buffer.alloc(5);
  header.write(type, 0, 'latin1');
  header.writeUInt32BE(body.length + 4, 1);
  return Buffer.concat([header, body]);
}

/** An Int32. */
export function int4(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

/** A value with its length, or NULL. */
export function value(content: string | Buffer | null): Buffer {
  if (content === null) return int4(-1);
  const bytes = Buffer.from(content as string);
  return Buffer.concat([int4(bytes.length), bytes]);
}

export const query = (text: string): Buffer => message('Q', text);
export const parse = (name: string, text: string, types: number[] = []): Buffer =>
  message('P', name, text, types.length, ...types.map(int4));
export const bind = (
  portal: string,
  statement: string,
  values: (string | Buffer | null)[] = [],
  formats: number[] = [],
): Buffer =>
  message('B', portal, statement, formats.length, ...formats, values.length, ...values.map(value), 0);
export const execute = (portal: string, rows = 0): Buffer => message('E', portal, int4(rows));
export const describe = (what: 'S' | 'P', name: string): Buffer => message('D', Buffer.from(what), name);
export const sync = (): Buffer => message('S');
export const complete = (tag: string): Buffer => message('C', tag);
export const ready = (status: 'I' | 'T' | 'E' = 'I'): Buffer => message('Z', Buffer.from(status));
export const error = (code: string, text: string, severity = 'ERROR'): Buffer =>
  message('E', `S${severity}`, `V${severity}`, `C${code}`, `M${text}`, Buffer.from([0]));
export const row = (...values: (string | null)[]): Buffer =>
  message('D', values.length, ...values.map(value));

/** Splits a stream of whole messages. Throws when its end is cut. */
export function split(stream: Buffer): Buffer[] {
  const messages: Buffer[] = [];
  for (let at = 0; at < stream.length; ) {
    const end = at + 1 + stream.readUInt32BE(at + 1);
    if (end > stream.length) throw new Error('a message is cut');
    messages.push(stream.subarray(at, end));
    at = end;
  }
  return messages;
}
