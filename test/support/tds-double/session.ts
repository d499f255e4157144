import type { DoubleSession } from './login.ts';
import { Cancelled, Command, Output, type PacketWriter } from './output.ts';
import { addRow } from './rows.ts';
import { readCalls, runCalls } from './rpc.ts';
import { SessionState, SqlError, type Store } from './state.ts';
import { runBatch } from './statements.ts';
import { beginTransaction, commitTransaction, rollbackTransaction } from './transactions.ts';
import { Bytes, readType, readValue, type SqlType } from './types.ts';
import type { DoubleMessage } from './wire.ts';

export interface SessionOptions {
  readonly store: Store;
  readonly databases: readonly string[];
  readonly version: string;
  /** How an attention is acknowledged. */
  readonly attention: 'separate' | 'inside';
  /** Called with each request, before it runs. */
  onRequest?(type: number, payload: Buffer): void;
}

/** Requests and answers of one stream (the connection, or one of several under MARS), until `next` gives null. */
export async function serve(
  next: () => Promise<DoubleMessage | null>,
  writer: PacketWriter,
  session: DoubleSession,
  options: SessionOptions,
): Promise<void> {
  const state = new SessionState({
    store: options.store,
    spid: session.spid,
    user: session.login.user || session.authentication,
    application: session.login.app,
    host: session.login.host,
    database: session.database,
    databases: options.databases,
    old: session.login.tdsVersion >>> 24 === 0x71 || session.login.tdsVersion >>> 24 === 0x70,
    columnEncryption: session.login.features.some(({ id }) => id === 4),
    version: options.version,
  });
  try {
    await answerAll(next, writer, session.packetBytes, state, options);
  } finally {
    // A transaction that is left open.
    if (state.transactions > 0) state.reset();
  }
}

async function answerAll(
  next: () => Promise<DoubleMessage | null>,
  writer: PacketWriter,
  packetBytes: number,
  state: SessionState,
  options: SessionOptions,
): Promise<void> {
  let running: Promise<void> = Promise.resolve();
  let output: Output | null = null;
  for (;;) {
    const message = await next();
    if (message === null) break;
    options.onRequest?.(message.type, message.payload);
    if (message.type === 0x06) {
      if (output !== null) output.cancelled = true;
      else acknowledge(state, writer);
      continue;
    }
    await running;
    const current = new Output(state, writer, packetBytes);
    output = current;
    running = answer(message, state, current, options).then(() => {
      if (output === current) output = null;
    });
    running.catch(() => {});
  }
  if (output !== null) (output as Output).cancelled = true;
  await running.catch(() => {});
}

/** An attention that found nothing running. */
function acknowledge(state: SessionState, writer: PacketWriter): void {
  const output = new Output(state, writer, 4096);
  void output.finishCancelled('inside');
}

async function answer(
  message: DoubleMessage,
  state: SessionState,
  output: Output,
  options: SessionOptions,
): Promise<void> {
  try {
    if (message.status & 0x18) {
      state.reset();
      output.change(Buffer.from([18, 0, 0]));
    }
    if (message.lastStatus & 2) output.failed = true;
    else await execute(message, state, output);
    if (output.cancelled) throw new Cancelled();
    await output.finish();
  } catch (error) {
    if (error instanceof Cancelled) {
      await output.finishCancelled(options.attention);
      return;
    }
    const text = error instanceof Error ? error.message : String(error);
    output.message(true, {
      number: 50_001,
      state: 1,
      class: 16,
      text: `test double: ${text}`,
      procedure: '',
      line: 1,
    });
    await output.finish();
  }
}

async function execute(message: DoubleMessage, state: SessionState, output: Output): Promise<void> {
  const { type, payload } = message;
  if (type === 0x07) {
    bulkLoad(payload, state, output);
    return;
  }
  const body = state.old ? payload : payload.subarray(payload.readUInt32LE(0));
  if (type === 0x01) await runBatch(body.toString('utf16le'), state, new Map(), output);
  else if (type === 0x03) await runCalls(readCalls(body), state, output);
  else if (type === 0x0e) transaction(body, state, output);
  else throw new Error(`message type ${type} is not known`);
}

function transaction(body: Buffer, state: SessionState, output: Output): void {
  const request = body.readUInt16LE(0);
  const name = (at: number): string => body.toString('utf16le', at + 1, at + 1 + (body[at] ?? 0));
  try {
    if (request === 5) beginTransaction(state, output);
    else if (request === 7) commitTransaction(state, output);
    else if (request === 8) rollbackTransaction(state, output, name(2));
    else if (request === 9) state.savepoints.set(name(2).toLowerCase(), state.capture());
    if ((request === 7 || request === 8) && (body[3 + (body[2] ?? 0)] ?? 0) & 1)
      beginTransaction(state, output);
  } catch (error) {
    if (!(error instanceof SqlError)) throw error;
    output.message(true, {
      number: error.number,
      state: 1,
      class: error.severity,
      text: error.message,
      procedure: '',
      line: 1,
    });
  }
  output.done(Command.none, null, output.failed);
}

/** COLMETADATA, rows and DONE as a client sends them behind INSERT BULK. */
function bulkLoad(payload: Buffer, state: SessionState, output: Output): void {
  const table = state.bulk;
  state.bulk = null;
  if (table === null) throw new Error('rows came without INSERT BULK');
  const from = new Bytes(payload);
  let columns: { name: string; type: SqlType }[] = [];
  let count = 0;
  while (from.left > 0) {
    const token = from.u8();
    if (token === 0x81) columns = readColumns(from, state);
    else if (token === 0xd1 || token === 0xd2) {
      const bitmap = token === 0xd2 ? from.take(Math.ceil(columns.length / 8)) : null;
      const values = columns.map(({ type }, index) => {
        const isNull = bitmap !== null && (bitmap[index >> 3]! >> (index & 7)) & 1;
        if (isNull) return { type, value: null };
        return type.id === 0x22 || type.id === 0x23 || type.id === 0x63
          ? readPointed(from, type)
          : readValue(from, type);
      });
      const targets = columns.map(({ name }, index) => {
        const found = table.columns.find((column) => column.name.toLowerCase() === name.toLowerCase());
        return found ?? table.columns[index]!;
      });
      addRow(state, table, targets, values);
      count += 1;
    } else if (token === 0xfd) from.take(state.old ? 8 : 12);
    else throw new Error(`token 0x${token.toString(16)} in a bulk load`);
  }
  state.rowCount = count;
  output.done(Command.bulk, count);
}

function readColumns(
  from: Bytes,
  { old, columnEncryption }: SessionState,
): { name: string; type: SqlType }[] {
  const count = from.u16();
  // The table of keys; no column of the double is encrypted.
  if (columnEncryption) from.u16();
  const columns: { name: string; type: SqlType }[] = [];
  for (let index = 0; index < count; index += 1) {
    from.take(old ? 4 : 6);
    const type = readType(from, !old);
    if (old && (type.id === 0x22 || type.id === 0x23 || type.id === 0x63)) from.text(from.u16());
    columns.push({ name: from.text(from.u8()), type });
  }
  return columns;
}

/** TEXT and its like in a row: a pointer and a time stamp before the length. */
function readPointed(from: Bytes, type: SqlType) {
  const pointer = from.u8();
  if (pointer === 0) return { type, value: null };
  from.take(pointer + 8);
  const data = from.take(from.u32());
  if (type.id === 0x22) return { type, value: data };
  return { type, value: data.toString(type.id === 0x23 ? 'latin1' : 'utf16le') };
}
