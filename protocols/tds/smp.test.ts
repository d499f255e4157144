import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { lending } from '../../test/support/lending.ts';
import { CollectingSink, EVERYTHING, sessionFacts } from '../../test/support/tds-capture.ts';
import {
  ATTENTION,
  batch,
  call,
  columns,
  done,
  frame,
  int,
  message,
  nvarchar,
  response,
  returnStatus,
  returnValue,
  row,
  rpc,
} from '../../test/support/tds-encode.ts';
import { Refusal } from '../error.ts';
import { observe } from './observe.ts';

/** Several streams over one connection (MC-SMP), each packet in a frame. */

const Flag = { syn: 1, acknowledge: 2, fin: 4, data: 8 } as const;

function start() {
  const sink = new CollectingSink();
  return {
    sink,
    observer: lending(observe(sink, { ...EVERYTHING, sampleRows: 0 }, sessionFacts({ mars: true }))),
  };
}

/** A message as frames of one session, numbered from `sequence`. */
function framed(session: number, bytes: Buffer, sequence = 1): Buffer {
  const frames: Buffer[] = [];
  for (let at = 0, number = sequence; at < bytes.length; number++) {
    const length = bytes.readUInt16BE(at + 2);
    frames.push(frame(Flag.data, session, number, bytes.subarray(at, at + length)));
    at += length;
  }
  return Buffer.concat(frames);
}

const OPENED = Buffer.concat([frame(Flag.syn, 0, 0), frame(Flag.syn, 1, 0)]);
const COUNT_ONE = response(done(0x10, { command: 0xc5, count: 1 }));

describe('multiplexed sessions', () => {
  it('are followed one by one, cut at any byte', () => {
    const rows = Array.from({ length: 60 }, (_, index) => row(int(index).value));
    const long = message(
      4,
      Buffer.concat([
        columns([{ name: 'a', type: int(1).type }]),
        ...rows,
        done(0x10, { command: 0xc1, count: 60 }),
      ]),
      { packetBytes: 100 },
    );
    const client = Buffer.concat([
      OPENED,
      framed(0, batch('select a')),
      framed(1, batch('update b')),
      frame(Flag.acknowledge, 0, 1),
    ]);
    const pieces = [
      framed(0, long.subarray(0, 100)),
      framed(1, COUNT_ONE),
      framed(0, long.subarray(100), 2),
      frame(Flag.acknowledge, 1, 1),
    ];
    for (const step of [1, 7, 64, 4096]) {
      const { sink, observer } = start();
      for (let at = 0; at < client.length; at += step) observer.client(client.subarray(at, at + step));
      expect(observer.busy).toBe(true);
      const server = Buffer.concat(pieces);
      for (let at = 0; at < server.length; at += step) observer.server(server.subarray(at, at + step));
      expect(
        sink.ended.map(({ text, rowsReturned, rowsAffected, status }) => [
          text,
          rowsReturned,
          rowsAffected,
          status,
        ]),
      ).toEqual([
        ['update b', null, 1, 'ok'],
        ['select a', 60, null, 'ok'],
      ]);
      expect(sink.sent).toEqual(client);
      expect(sink.received).toEqual(server);
      expect([observer.busy, observer.atBoundary]).toEqual([false, true]);
    }
  });

  it('begin with the published example of a frame', () => {
    const vectors = JSON.parse(
      readFileSync(join(import.meta.dirname, '../../test/golden/tds-vectors.json'), 'utf8'),
    ) as { id: string; hex: string }[];
    const example = Buffer.from(vectors.find(({ id }) => id === 'mcsmp-4.3-data-packet')!.hex, 'hex');
    const { sink, observer } = start();
    observer.client(Buffer.concat([frame(Flag.syn, 5, 0), example]));
    expect(sink.statements).toMatchObject([{ kind: 'batch', text: 'SET QUOTED_IDENTIFIER OFF' }]);
  });

  it('share handles and the transaction', () => {
    const { sink, observer } = start();
    observer.client(
      Buffer.concat([
        OPENED,
        framed(0, rpc([call(11, [{ status: 1, ...int(null) }, nvarchar(''), nvarchar('select 1')])])),
      ]),
    );
    observer.server(framed(0, response(returnStatus(0), returnValue('', int(4)), done(0, { token: 0xfe }))));
    observer.client(framed(1, rpc([call(12, [int(4)])])));
    expect(sink.statements.at(-1)).toMatchObject({ name: 'sp_execute', text: 'select 1' });
  });

  it('are cancelled one by one', () => {
    const { sink, observer } = start();
    observer.client(
      Buffer.concat([OPENED, framed(0, batch('a')), framed(1, batch('b')), framed(1, ATTENTION, 2)]),
    );
    observer.server(Buffer.concat([framed(1, response(done(0x20))), framed(0, COUNT_ONE)]));
    expect(sink.ended.map(({ text, status }) => [text, status])).toEqual([
      ['b', 'cancelled'],
      ['a', 'ok'],
    ]);
  });

  it('let long requests pass before their window is used up', () => {
    const { sink, observer } = start();
    const bytes = framed(0, batch('x'.repeat(900), { packetBytes: 512 }));
    observer.client(OPENED);
    // Two packets are held, the third makes all of them go.
    observer.client(bytes.subarray(0, 2 * 528));
    expect(sink.sent).toEqual(OPENED);
    observer.client(bytes.subarray(2 * 528, 3 * 528));
    expect(sink.sent).toEqual(Buffer.concat([OPENED, bytes.subarray(0, 3 * 528)]));
    observer.client(bytes.subarray(3 * 528));
    observer.server(framed(0, COUNT_ONE));
    expect(sink.sent).toEqual(Buffer.concat([OPENED, bytes]));
    expect(sink.ended).toMatchObject([{ textBytes: 900, status: 'ok' }]);
  });

  it('get their refusals from the server itself, so that all numbers stay theirs', () => {
    const { sink, observer } = start();
    const refusal = new Refusal('statement_not_allowed', "it's 100% not allowed");
    sink.verdict = ({ text }) =>
      text?.includes('ALTER LOGIN') ? { action: 'refuse', refusal } : { action: 'allow' };
    const refused = framed(
      0,
      batch(`ALTER LOGIN x ${'-'.repeat(300)}`, { packetBytes: 512, first: 0x08 }),
      9,
    );
    observer.client(Buffer.concat([OPENED, refused, framed(1, batch('fine'))]));
    const sent = sink.sent.subarray(OPENED.length);
    const frames: Buffer[] = [];
    for (let at = 0; at < sent.length; at += sent.readUInt32LE(at + 4))
      frames.push(sent.subarray(at, at + sent.readUInt32LE(at + 4)));
    expect(
      frames.map((bytes) => [bytes.readUInt16LE(2), bytes.readUInt32LE(8), bytes[16], bytes[17]]),
    ).toEqual([
      [0, 9, 1, 8],
      [0, 10, 1, 1],
      [1, 1, 1, 1],
    ]);
    expect(frames.every((bytes) => bytes.readUInt16BE(18) === bytes.length - 16)).toBe(true);
    const text = Buffer.concat([frames[0]!.subarray(24), frames[1]!.subarray(24)]).toString('utf16le', 22);
    expect(text.trimStart()).toBe("RAISERROR(N'Sallyport: it''s 100%% not allowed.',16,1)");
    observer.server(Buffer.concat([framed(0, response(done(2))), framed(1, COUNT_ONE)]));
    expect(sink.ended.map(({ text, status }) => [text?.slice(0, 11), status])).toEqual([
      ['ALTER LOGIN', 'denied'],
      ['fine', 'ok'],
    ]);
    expect(observer.busy).toBe(false);
  });

  it('get them also for requests longer than what may be held', () => {
    const { sink, observer } = start();
    const refusal = new Refusal('statement_not_allowed', 'no');
    sink.verdict = ({ text }) =>
      text?.includes('ALTER LOGIN') ? { action: 'refuse', refusal } : { action: 'allow' };
    const refused = framed(0, batch(`ALTER LOGIN x ${'-'.repeat(2000)}`, { packetBytes: 512 }));
    observer.client(OPENED);
    for (let at = 0; at < refused.length; at += 100) observer.client(refused.subarray(at, at + 100));
    const sent = sink.sent.subarray(OPENED.length);
    const statuses: number[] = [];
    let payload = Buffer.alloc(0);
    for (let at = 0; at < sent.length; at += sent.readUInt32LE(at + 4)) {
      expect(sent.readUInt32LE(at + 8)).toBe(statuses.length + 1);
      statuses.push(sent[at + 17]!);
      payload = Buffer.concat([payload, sent.subarray(at + 24, at + sent.readUInt32LE(at + 4))]);
    }
    expect(statuses).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 1]);
    expect(payload.toString('utf16le', 22).trim()).toBe("RAISERROR(N'Sallyport: no.',16,1)");
    observer.client(framed(0, batch('fine'), 10));
    observer.server(Buffer.concat([framed(0, response(done(2))), framed(0, COUNT_ONE, 2)]));
    expect(sink.ended.map(({ status }) => status)).toEqual(['denied', 'ok']);
    expect([observer.busy, observer.fatal]).toEqual([false, null]);
  });

  it('wait together while a verdict is awaited', () => {
    const { sink, observer } = start();
    sink.verdict = ({ text }) => (text === 'wait' ? { action: 'hold' } : { action: 'allow' });
    const client = Buffer.concat([
      OPENED,
      framed(0, batch('wait')),
      frame(Flag.acknowledge, 0, 1),
      framed(1, batch('wait')),
    ]);
    observer.client(client);
    expect([sink.sent.length, observer.saturated]).toEqual([OPENED.length, true]);
    observer.release({ action: 'allow' });
    expect([sink.statements.length, observer.saturated]).toEqual([1, true]);
    observer.release({ action: 'allow' });
    expect(sink.sent).toEqual(client);
    expect([sink.statements.length, observer.saturated]).toEqual([2, false]);
  });

  it('end with FIN, and with what is no frame', () => {
    const { sink, observer } = start();
    observer.client(Buffer.concat([OPENED, framed(0, batch('q')), frame(Flag.fin, 0, 1)]));
    expect(sink.ended).toMatchObject([{ text: 'q', status: 'unknown' }]);
    observer.client(frame(Flag.data, 0, 2, batch('closed')));
    expect(observer.fatal).toMatchObject({ code: 'protocol_violation' });
    for (const bytes of [
      batch('no frame'),
      frame(Flag.data, 0, 1, Buffer.alloc(9)),
      frame(Flag.data, 7, 1, batch('q')),
    ]) {
      const other = start();
      other.observer.client(OPENED);
      other.observer.client(bytes);
      expect(other.observer.fatal).toMatchObject({ code: 'protocol_violation' });
      expect(other.sink.sent).toEqual(OPENED);
    }
    const lost = start();
    lost.observer.client(Buffer.concat([OPENED, framed(1, batch('q'))]));
    lost.observer.server(Buffer.from('nonsense'));
    lost.observer.client(framed(1, batch('r'), 2));
    expect(lost.sink.ended).toMatchObject([{ status: 'unknown' }, { status: 'unknown' }]);
    expect(lost.sink.received).toEqual(Buffer.from('nonsense'));
  });
});
