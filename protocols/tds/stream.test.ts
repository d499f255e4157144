import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { lending } from '../../test/support/lending.ts';
import { CollectingSink, EVERYTHING, sessionFacts } from '../../test/support/tds-capture.ts';
import {
  ATTENTION,
  batch,
  call,
  columns,
  done,
  environment,
  errorToken,
  HEADERS,
  int,
  message,
  nvarchar,
  nvarcharMax,
  packet,
  response,
  returnStatus,
  returnValue,
  row,
  rpc,
  varbinaryMax,
} from '../../test/support/tds-encode.ts';
import type { Observer, Verdict } from '../engine.ts';
import { Refusal } from '../error.ts';
import { INSPECT_BYTES_MAX, STATEMENT_TEXT_BYTES_MAX } from '../limits.ts';
import type { Statement } from '../statement.ts';
import { observe } from './observe.ts';
import type { SessionFacts } from './session.ts';

const REFUSED = new Refusal('statement_not_allowed', 'this statement changes the login', { hint: 'Ask.' });
const OK = response(done(0x10, { command: 0xc5, count: 1 }));
const ACKNOWLEDGED = response(done(0x20));

function start(facts: Partial<SessionFacts> = {}): { sink: CollectingSink; observer: Observer } {
  const sink = new CollectingSink();
  return { sink, observer: lending(observe(sink, EVERYTHING, sessionFacts(facts))) };
}

/** Refuses what contains `ALTER LOGIN`. */
function refusing(statement: Statement): Verdict {
  return statement.text?.includes('ALTER LOGIN')
    ? { action: 'refuse', refusal: REFUSED }
    : { action: 'allow' };
}

/** The tokens of an answer of ours: ids and, of errors, number, class and text. */
function tokensOf(bytes: Buffer, wide = true): unknown[] {
  const tokens: unknown[] = [];
  let payload = Buffer.alloc(0);
  for (let at = 0; at < bytes.length; at += bytes.readUInt16BE(at + 2)) {
    payload = Buffer.concat([payload, bytes.subarray(at + 8, at + bytes.readUInt16BE(at + 2))]);
  }
  for (let at = 0; at < payload.length; ) {
    if (payload[at] === 0xaa) {
      const characters = payload.readUInt16LE(at + 9);
      const text = payload.toString('utf16le', at + 11, at + 11 + characters * 2);
      tokens.push(['error', payload.readUInt32LE(at + 3), payload[at + 8], text]);
      at += 3 + payload.readUInt16LE(at + 1);
    } else {
      tokens.push([payload[at], payload.readUInt16LE(at + 1)]);
      at += wide ? 13 : 9;
    }
  }
  return tokens;
}

const TEXT = 'Sallyport: this statement changes the login. Ask.';

describe('statements', () => {
  it('begin before their bytes reach the server, in one view of the chunk', () => {
    const order: string[] = [];
    const chunk = Buffer.concat([batch('one'), batch('two'), batch('three')]);
    const observer = observe(
      {
        toServer: (bytes) => void order.push(`${bytes === chunk ? 'the chunk' : bytes.length}`),
        toClient: () => {},
        decide: () => ({ action: 'allow' }),
        begin: (statement) => void order.push(statement.text!),
        end: () => {},
        note: () => {},
      },
      EVERYTHING,
      sessionFacts(),
    );
    observer.client(chunk);
    expect(order).toEqual(['one', 'two', 'three', 'the chunk']);
  });

  it('are read whole where packets cut their characters', () => {
    const text = "SELECT N'😀☃é' ".repeat(40);
    for (const packetBytes of [9, 31, 512, 513]) {
      const { sink, observer } = start();
      const bytes = batch(text, { packetBytes });
      for (let at = 0; at < bytes.length; at += 7) observer.client(bytes.subarray(at, at + 7));
      expect(sink.statements).toMatchObject([
        { kind: 'batch', text, textBytes: Buffer.byteLength(text), bytesSent: bytes.length },
      ]);
      expect(sink.sent).toEqual(bytes);
    }
  });

  it('without an answer yet are not at their end', () => {
    const { sink, observer } = start();
    observer.client(batch('q'));
    expect([observer.busy, observer.atBoundary]).toEqual([true, true]);
    observer.server(OK.subarray(0, 10));
    expect([observer.busy, observer.atBoundary, sink.ended.length]).toEqual([true, false, 0]);
    observer.server(OK.subarray(10));
    expect([observer.busy, observer.atBoundary, sink.ended.length]).toEqual([false, true, 1]);
    expect(sink.ended[0]).toMatchObject({ bytesReceived: OK.length });
  });

  it('that are sent ahead are matched with their answers in order', () => {
    const { sink, observer } = start();
    observer.client(Buffer.concat([batch('one'), batch('two')]));
    observer.server(
      Buffer.concat([
        response(done(0x10, { command: 0xc5, count: 1 })),
        response(done(0x10, { command: 0xc5, count: 2 })),
      ]),
    );
    expect(sink.ended.map(({ text, rowsAffected }) => [text, rowsAffected])).toEqual([
      ['one', 1],
      ['two', 2],
    ]);
  });

  it('longer than an event are cut, and the gate has seen all of them', () => {
    const { sink, observer } = start();
    const text = `${'-- é☃😀\n'.repeat(20_000)}DROP TABLE t`;
    observer.client(batch(text));
    expect(sink.judged).toEqual([text]);
    const [statement] = sink.statements;
    expect(Buffer.byteLength(statement!.text!)).toBeLessThanOrEqual(STATEMENT_TEXT_BYTES_MAX);
    expect(text.startsWith(statement!.text!)).toBe(true);
    expect(statement!.textBytes).toBe(Buffer.byteLength(text));
    expect(statement!.textSha256).toBe(createHash('sha256').update(text).digest('hex'));
    expect(statement!.opaque).toBe(false);
  });

  it('longer than what is held stream, and the gate knows that it sees a part', () => {
    const { sink, observer } = start();
    const text = 'SELECT 1 -- 😀\n'.repeat(100_000);
    let opaque: boolean | null = null;
    sink.verdict = (statement) => {
      opaque = statement.opaque;
      return { action: 'allow' };
    };
    const bytes = batch(text, { packetBytes: 4095 });
    let sentBefore = 0;
    for (let at = 0; at < bytes.length; at += 50_001) {
      observer.client(bytes.subarray(at, at + 50_001));
      if (sink.statements.length === 0) expect(sink.sent.length).toBe(0);
      else sentBefore ||= at;
    }
    expect(opaque).toBe(true);
    expect(sentBefore).toBeLessThan(INSPECT_BYTES_MAX + 100_000);
    expect(sink.sent.equals(bytes)).toBe(true);
    observer.server(OK);
    expect(sink.ended).toMatchObject([
      {
        textBytes: Buffer.byteLength(text),
        textSha256: createHash('sha256').update(text).digest('hex'),
        bytesSent: bytes.length,
        opaque: false,
        status: 'ok',
      },
    ]);
  });

  it('with gigabytes of a parameter are not kept in memory', () => {
    const { sink, observer } = start();
    const part = Buffer.alloc(1024 * 1024, 0x41);
    const value = varbinaryMax(part, 65_536);
    const head = Buffer.concat([HEADERS, call('dbo.store', [{ name: '@b', ...value }])]);
    // The value's chunks again and again: its total length is not what tells its end.
    const chunks = head.subarray(head.indexOf(value.type) + value.type.length + 8, head.length - 4);
    observer.client(packets(head.subarray(0, head.length - 4), false));
    const again = packets(chunks, false);
    const before = process.memoryUsage().rss;
    for (let round = 0; round < 256; round++) {
      observer.client(again);
      sink.toServerChunks.length = 0;
    }
    observer.client(packets(Buffer.alloc(4), true));
    expect(process.memoryUsage().rss - before).toBeLessThan(100 * 1024 * 1024);
    observer.server(response(returnStatus(0), done(0, { token: 0xfe })));
    expect(sink.ended).toMatchObject([
      {
        name: 'dbo.store',
        status: 'ok',
        opaque: false,
        parameters: [{ name: '@b', type: 'varbinary(max)', bytes: 257 * 1024 * 1024 }],
      },
    ]);
    expect(sink.ended[0]!.parameters![0]!.sha256).toMatch(/^[0-9a-f]{64}$/);
  });
});

function packets(payload: Buffer, final: boolean): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < payload.length; at += 30_000) {
    const last = final && at + 30_000 >= payload.length;
    parts.push(packet(3, last ? 1 : 0, payload.subarray(at, at + 30_000)));
  }
  return Buffer.concat(parts);
}

describe('the gate', () => {
  it("refuses a batch with an error in the server's place", () => {
    for (const [version, wide] of [
      ['7.4', true],
      ['7.1', false],
    ] as const) {
      const { sink, observer } = start({ version });
      sink.verdict = refusing;
      observer.client(batch("ALTER LOGIN app WITH PASSWORD = 'x'", { wide }));
      expect(sink.sent).toHaveLength(0);
      expect(tokensOf(sink.received, wide)).toEqual([
        ['error', 50_501, 16, TEXT],
        [0xfd, 2],
      ]);
      expect(sink.ended).toMatchObject([{ status: 'denied', error: { code: '50501', message: TEXT } }]);
      expect([observer.busy, observer.atBoundary]).toEqual([false, true]);
      observer.client(batch('next', { wide }));
      observer.server(response(done(0x10, { command: 0xc5, count: 1, wide })));
      expect(sink.ended[1]).toMatchObject({ text: 'next', status: 'ok' });
    }
  });

  it('answers at the right place when earlier requests are still being answered', () => {
    const { sink, observer } = start();
    sink.verdict = refusing;
    observer.client(Buffer.concat([batch('one'), batch('ALTER LOGIN'), batch('three')]));
    expect(sink.sent).toEqual(Buffer.concat([batch('one'), batch('three')]));
    expect(sink.received).toHaveLength(0);
    const three = response(done(0x10, { command: 0xc3, count: 3 }));
    observer.server(Buffer.concat([OK, three]));
    expect(sink.received.subarray(0, OK.length)).toEqual(OK);
    expect(sink.received.subarray(sink.received.length - three.length)).toEqual(three);
    const ours = sink.received.subarray(OK.length, sink.received.length - three.length);
    expect(tokensOf(ours)).toEqual([
      ['error', 50_501, 16, TEXT],
      [0xfd, 2],
    ]);
    expect(sink.ended.map(({ text, status }) => [text, status])).toEqual([
      ['ALTER LOGIN', 'denied'],
      ['one', 'ok'],
      ['three', 'ok'],
    ]);
  });

  it('refuses a message of calls as a whole, with an end for each', () => {
    const { sink, observer } = start();
    sink.verdict = refusing;
    observer.client(rpc([call('dbo.a', []), call(10, [nvarchar('ALTER LOGIN x')]), call('dbo.c', [])]));
    expect(sink.sent).toHaveLength(0);
    const error = ['error', 50_501, 16, TEXT];
    expect(tokensOf(sink.received)).toEqual([error, [0xfe, 0x83], error, [0xfe, 0x83], error, [0xfe, 2]]);
    expect(sink.ended.map(({ name, text, status }) => [text ?? name, status])).toEqual([
      ['dbo.a', 'denied'],
      ['ALTER LOGIN x', 'denied'],
      ['dbo.c', 'denied'],
    ]);
  });

  it('sees prepared statements again when they run', () => {
    const { sink, observer } = start();
    observer.client(rpc([call(11, [{ status: 1, ...int(null) }, nvarchar(''), nvarchar('ALTER LOGIN x')])]));
    observer.server(response(returnStatus(0), returnValue('', int(3)), done(0, { token: 0xfe })));
    sink.verdict = refusing;
    observer.client(rpc([call(12, [int(3)])]));
    expect(sink.statements.at(-1)).toMatchObject({
      kind: 'execute',
      text: 'ALTER LOGIN x',
      status: 'denied',
    });
  });

  it('is shown that there is more where something cannot be read', () => {
    const { sink, observer } = start();
    const seen: [string | null, boolean][] = [];
    sink.verdict = ({ text, textBytes }) => {
      seen.push([text, text !== null && textBytes <= Buffer.byteLength(text)]);
      return { action: 'allow' };
    };
    const strange = { type: Buffer.from([0x99]), value: Buffer.alloc(9) };
    const more = '/* the rest could not be read */';
    observer.client(rpc([call(10, [nvarchar('select 1'), nvarchar(''), strange])]));
    observer.client(message(1, Buffer.from('ffffff7f', 'hex')));
    observer.client(rpc([call(12, [int(99)])]));
    observer.client(batch('select 1'));
    expect(seen).toEqual([
      [`select 1 ${more}`, false],
      [` ${more}`, false],
      [`prepared #99 ${more}`, false],
      ['select 1', true],
    ]);
    expect(sink.statements.map(({ text, opaque }) => [text, opaque])).toEqual([
      ['select 1', true],
      [null, true],
      ['prepared #99', true],
      ['select 1', false],
    ]);
  });

  it('sees a long prepared statement whole each time that it runs', () => {
    const { sink, observer } = start();
    const text = `SELECT 1 -- ${'x'.repeat(100_000)}`;
    observer.client(rpc([call(11, [{ status: 1, ...int(null) }, nvarchar(''), nvarcharMax(text)])]));
    observer.server(response(returnStatus(0), returnValue('', int(5)), done(0, { token: 0xfe })));
    observer.client(rpc([call(12, [int(5)])]));
    expect(sink.judged).toEqual([text, text]);
    const [first, second] = sink.statements;
    expect(second).toMatchObject({
      text: first!.text,
      textBytes: text.length,
      textSha256: first!.textSha256,
    });
    expect(first!.text!.length).toBe(STATEMENT_TEXT_BYTES_MAX);
  });

  it('is not shown a SELECT where its cursor changes rows', () => {
    const { sink, observer } = start();
    observer.client(rpc([call(2, [{ status: 1, ...int(null) }, nvarchar('select * from t')])]));
    observer.server(response(returnStatus(0), returnValue('', int(9)), done(0, { token: 0xfe })));
    observer.client(rpc([call(1, [int(9), int(1), int(1), nvarchar('t'), int(5)])]));
    expect(sink.judged).toEqual(['select * from t', null]);
    expect(sink.statements[1]).toMatchObject({ name: 'sp_cursor', text: 'select * from t', opaque: false });
  });

  it('holds a statement, and what comes behind it, until it is released', () => {
    const { sink, observer } = start();
    sink.verdict = (statement) => (statement.text === 'wait' ? { action: 'hold' } : { action: 'allow' });
    observer.client(Buffer.concat([batch('first'), batch('wait'), batch('behind')]));
    expect(sink.sent).toEqual(batch('first'));
    expect([observer.saturated, observer.busy]).toEqual([true, true]);
    observer.release({ action: 'allow' });
    expect(sink.sent).toEqual(Buffer.concat([batch('first'), batch('wait'), batch('behind')]));
    expect(observer.saturated).toBe(false);
    observer.server(Buffer.concat([OK, OK, OK]));
    observer.client(batch('wait'));
    observer.release({ action: 'refuse', refusal: REFUSED });
    expect(sink.ended.map(({ text, status }) => [text, status])).toEqual([
      ['first', 'ok'],
      ['wait', 'ok'],
      ['behind', 'ok'],
      ['wait', 'denied'],
    ]);
    expect(tokensOf(sink.received.subarray(OK.length * 3))).toHaveLength(2);
  });

  it('takes back a call whose message is half sent', () => {
    const { sink, observer } = start();
    sink.verdict = refusing;
    const large = call('dbo.store', [varbinaryMax(Buffer.alloc(2 * INSPECT_BYTES_MAX))]);
    const bytes = rpc([large, call(10, [nvarchar('ALTER LOGIN x')])], { packetBytes: 32_767 });
    observer.client(bytes);
    expect(sink.statements.map(({ name, text }) => text ?? name)).toEqual(['dbo.store', 'ALTER LOGIN x']);
    // The server is told to forget what it has of the request, and its answer to that is ours instead.
    expect(sink.sent.subarray(-8)).toEqual(Buffer.from([3, 3, 0, 8, 0, 0, 1, 0]));
    expect(sink.sent.includes(Buffer.from('ALTER LOGIN x', 'utf16le'))).toBe(false);
    observer.client(batch('next'));
    observer.server(Buffer.concat([response(done(0x02)), OK]));
    expect(tokensOf(sink.received.subarray(0, sink.received.length - OK.length))).toEqual([
      ['error', 50_501, 16, TEXT],
      [0xfe, 0x83],
      ['error', 50_501, 16, TEXT],
      [0xfe, 2],
    ]);
    expect(sink.ended.map(({ name, text, status }) => [text ?? name, status])).toEqual([
      ['ALTER LOGIN x', 'denied'],
      ['dbo.store', 'cancelled'],
      ['next', 'ok'],
    ]);
    expect(observer.busy).toBe(false);
  });
});

describe('attentions', () => {
  const rows = (count: number): Buffer =>
    Buffer.concat([
      columns([{ name: 'a', type: int(1).type }]),
      ...Array.from({ length: count }, (_, index) => row(int(index).value)),
    ]);

  function cancelled(...answers: Buffer[]) {
    const { sink, observer } = start();
    observer.client(batch('long'));
    const answer = message(4, Buffer.concat([rows(2000), done(0x11, { command: 0xc1, count: 2000 })]));
    observer.server(answer.subarray(0, 9000));
    observer.client(ATTENTION);
    for (const bytes of answers) observer.server(bytes);
    observer.client(batch('next'));
    observer.server(OK);
    expect(sink.ended.map(({ text, status }) => [text, status])).toEqual([
      ['long', 'cancelled'],
      ['next', 'ok'],
    ]);
    expect(sink.sent).toEqual(Buffer.concat([batch('long'), ATTENTION, batch('next')]));
    expect(observer.busy).toBe(false);
    return sink;
  }

  const whole = message(4, Buffer.concat([rows(2000), done(0x11, { command: 0xc1, count: 2000 })]));

  it('are acknowledged in a message of their own', () => {
    cancelled(whole.subarray(9000), ACKNOWLEDGED);
  });

  it('are acknowledged in the answer itself', () => {
    const { sink, observer } = start();
    observer.client(batch('long'));
    observer.client(ATTENTION);
    observer.server(message(4, Buffer.concat([rows(10), done(0x21), done(0x20)])));
    observer.client(batch('next'));
    observer.server(OK);
    expect(sink.ended.map(({ text, status, rowsReturned }) => [text, status, rowsReturned])).toEqual([
      ['long', 'cancelled', 10],
      ['next', 'ok', null],
    ]);
  });

  it('before any answer may get nothing but their acknowledgement', () => {
    const { sink, observer } = start();
    observer.client(Buffer.concat([batch('long'), ATTENTION]));
    observer.server(ACKNOWLEDGED);
    observer.client(batch('next'));
    observer.server(OK);
    expect(sink.ended.map(({ text, status }) => [text, status])).toEqual([
      ['long', 'cancelled'],
      ['next', 'ok'],
    ]);
  });

  it('that cross the end of the answer cancel nothing, and belong to no later request', () => {
    const { sink, observer } = start();
    observer.client(batch('done already'));
    observer.server(OK);
    observer.client(Buffer.concat([ATTENTION, batch('next')]));
    observer.server(Buffer.concat([ACKNOWLEDGED, OK]));
    expect(sink.ended.map(({ text, status, rowsAffected }) => [text, status, rowsAffected])).toEqual([
      ['done already', 'ok', 1],
      ['next', 'ok', 1],
    ]);
    expect(observer.busy).toBe(false);
  });

  it('inside another message are a violation', () => {
    const { sink, observer } = start();
    observer.client(packet(1, 0, HEADERS));
    observer.client(ATTENTION);
    expect(observer.fatal).toMatchObject({ code: 'protocol_violation' });
    expect(sink.sent).toHaveLength(0);
  });

  it('of ours stop what runs and look like an error to the client', () => {
    const { sink, observer } = start();
    expect(observer.attention()).toBeNull();
    observer.client(batch('long'));
    expect(observer.attention()).toEqual(ATTENTION);
    expect(observer.attention()).toBeNull();
    const answer = message(4, Buffer.concat([rows(3), done(0x20)]));
    observer.server(Buffer.from(answer));
    expect(sink.ended).toMatchObject([{ status: 'cancelled', rowsReturned: 3 }]);
    const open = packet(4, 0, Buffer.concat([rows(3), done(0x03)]));
    expect(sink.received.subarray(0, open.length)).toEqual(open);
    const stopped = [
      ['error', 50_504, 16, 'Sallyport: this statement was stopped by the gateway.'],
      [0xfd, 2],
    ];
    expect(tokensOf(sink.received.subarray(open.length))).toEqual(stopped);
    // Acknowledged apart: the client has its answer already, and must not see the second.
    observer.client(batch('again'));
    observer.attention();
    observer.server(Buffer.concat([OK, ACKNOWLEDGED]));
    observer.client(batch('next'));
    observer.server(OK);
    const last = sink.received.subarray(sink.received.length - OK.length);
    expect(last).toEqual(OK);
    expect(sink.received.includes(ACKNOWLEDGED)).toBe(false);
    expect(sink.ended.map(({ status }) => status)).toEqual(['cancelled', 'cancelled', 'ok']);
  });
});

describe('requests that are given up', () => {
  it('by the ignore bit are cancelled before they ran', () => {
    const { sink, observer } = start();
    const payload = Buffer.concat([HEADERS, call(10, [nvarchar('select 1'), nvarchar('@a int'), int(1)])]);
    const bytes = Buffer.concat([
      packet(3, 0, payload.subarray(0, 90)),
      packet(3, 0x03, payload.subarray(90, 100), 2),
    ]);
    observer.client(bytes);
    observer.server(response(done(0x02)));
    observer.client(batch('next'));
    observer.server(OK);
    expect(sink.sent.subarray(0, bytes.length)).toEqual(bytes);
    expect(sink.ended.map(({ text, status, opaque }) => [text, status, opaque])).toEqual([
      ['select 1', 'cancelled', false],
      ['next', 'ok', false],
    ]);
    expect(sink.notes).toEqual([]);
  });

  it('by the end of the connection are of unknown outcome', () => {
    const { sink, observer } = start();
    observer.client(Buffer.concat([batch('one'), batch('two'), batch('half').subarray(0, 12)]));
    observer.close('cancelled');
    expect(sink.ended.map(({ text, status }) => [text, status])).toEqual([
      ['one', 'cancelled'],
      ['two', 'cancelled'],
    ]);
  });
});

describe('bulk loads', () => {
  const text = 'INSERT BULK dbo.t (a int)';
  const load = Buffer.concat([
    columns([{ name: 'a', type: int(1).type }]),
    ...Array.from({ length: 500 }, (_, n) => row(int(n).value)),
    done(0),
  ]);

  it('are one statement with their INSERT BULK', () => {
    const { sink, observer } = start();
    observer.client(batch(text));
    observer.server(response(done(0)));
    expect(sink.ended).toHaveLength(0);
    const bytes = message(7, load);
    for (let at = 0; at < bytes.length; at += 1000) observer.client(bytes.subarray(at, at + 1000));
    observer.server(response(done(0x10, { command: 0xf0, count: 500 })));
    expect(sink.ended).toMatchObject([
      { kind: 'bulk', text, status: 'ok', rowsAffected: 500, bytesSent: batch(text).length + bytes.length },
    ]);
    expect(sink.sent).toEqual(Buffer.concat([batch(text), bytes]));
    expect(sink.statements).toHaveLength(1);
  });

  it('pass as they come, however long', () => {
    const { sink, observer } = start();
    observer.client(batch(text));
    observer.server(response(done(0)));
    const part = Buffer.alloc(1024 * 1024);
    for (let round = 0; round < 100; round++) {
      const parts: Buffer[] = [];
      for (let at = 0; at < part.length; at += 30_000)
        parts.push(packet(7, 0, part.subarray(at, at + 30_000)));
      observer.client(Buffer.concat(parts));
      sink.toServerChunks.length = 0;
    }
    observer.client(packet(7, 1, Buffer.alloc(0)));
    observer.server(response(done(0x10, { command: 0xf0, count: 9 })));
    expect(sink.ended).toMatchObject([{ kind: 'bulk', rowsAffected: 9, status: 'ok' }]);
    expect(sink.ended[0]!.bytesSent).toBeGreaterThan(100 * 1024 * 1024);
  });

  it('end with INSERT BULK when that fails or nothing follows it', () => {
    const { sink, observer } = start();
    observer.client(batch(text));
    observer.server(response(errorToken(208, 'Invalid object name'), done(2)));
    observer.client(batch(text));
    observer.server(response(done(0)));
    observer.client(batch('something else'));
    observer.server(OK);
    expect(sink.ended).toMatchObject([
      { kind: 'bulk', status: 'error', error: { code: '208' } },
      { kind: 'bulk', status: 'ok', rowsAffected: null },
      { kind: 'batch', status: 'ok' },
    ]);
  });

  it('end once when the server can no longer be followed', () => {
    const { sink, observer } = start();
    observer.client(batch(text));
    observer.server(response(done(0)));
    observer.client(message(7, load));
    observer.server(Buffer.from('1500000000fd1000', 'hex'));
    observer.client(batch('next'));
    observer.close('unknown');
    expect(sink.ended.map(({ kind, status }) => [kind, status])).toEqual([
      ['bulk', 'unknown'],
      ['batch', 'unknown'],
    ]);
  });

  it('that fail say why', () => {
    const { sink, observer } = start();
    observer.client(batch(text));
    observer.server(response(done(0)));
    observer.client(message(7, load));
    observer.server(response(errorToken(4815, 'Received an invalid column length'), done(2)));
    expect(sink.ended).toMatchObject([{ kind: 'bulk', status: 'error', error: { code: '4815' } }]);
  });
});

describe('the end of a session', () => {
  it('is told to a client that waits for an answer, and to no other', () => {
    const { observer } = start();
    const killed = new Refusal('killed', 'an operator ended this session');
    expect(observer.farewell(killed)).toHaveLength(0);
    observer.client(batch('q'));
    expect(tokensOf(observer.farewell(killed))).toEqual([
      ['error', 50_504, 20, 'Sallyport: an operator ended this session.'],
      [0xfd, 2],
    ]);
    expect(observer.goodbye()).toBeNull();
  });

  it('comes at once for what has no place after sign-in', () => {
    for (const type of [0x02, 0x04, 0x08, 0x10, 0x11, 0x12, 0x53]) {
      const { sink, observer } = start();
      observer.client(packet(type, 1, Buffer.alloc(20)));
      expect(observer.fatal).toMatchObject({ code: 'protocol_violation' });
      observer.client(batch('after'));
      expect(sink.sent).toHaveLength(0);
      expect(sink.statements).toHaveLength(0);
    }
    const { observer } = start();
    observer.client(Buffer.from('0101000700000100', 'hex'));
    expect(observer.fatal).toMatchObject({ code: 'protocol_violation' });
    const mixed = start();
    mixed.observer.client(Buffer.concat([packet(1, 0, HEADERS), packet(3, 1, HEADERS)]));
    expect(mixed.observer.fatal).not.toBeNull();
  });
});

describe('TDS 7.0', () => {
  it('has texts without collations', () => {
    const { sink, observer } = start({ version: '7.0' });
    const text = (characters: string) => {
      const { value } = nvarchar(characters);
      return { type: Buffer.from([0xe7, 0x40, 0x1f]), value };
    };
    observer.client(
      rpc([call(10, [text('select @a'), text('@a nvarchar(9)'), { name: '@a', ...text('é') }])], {
        wide: false,
      }),
    );
    observer.server(
      response(
        columns([{ name: 'a', type: text('').type }], { wide: false }),
        row(text('é').value),
        done(0x10, { command: 0xc1, count: 1, wide: false }),
      ),
    );
    expect(sink.ended).toMatchObject([
      {
        text: 'select @a',
        parameters: [{ name: '@a', type: 'nvarchar(4000)', value: 'é' }],
        rowsReturned: 1,
        sample: [['é']],
        opaque: false,
      },
    ]);
  });
});

describe('a reset connection', () => {
  it('keeps its bit on the way, and forgets handles and database', () => {
    const { sink, observer } = start({ database: 'shop' });
    observer.client(batch('use other'));
    observer.server(response(environment(1, 'other', 'shop'), done(0)));
    const bytes = rpc([call(10, [nvarcharMax('select 1')])], { first: 0x08 });
    observer.client(bytes);
    observer.server(response(environment(18, Buffer.alloc(0)), returnStatus(0), done(0, { token: 0xfe })));
    expect(sink.sent.subarray(-bytes.length)).toEqual(bytes);
    expect(sink.notes.at(-1)).toEqual({ kind: 'database_changed', database: 'shop' });
  });
});
