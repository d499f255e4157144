import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { lending } from '../../test/support/lending.ts';
import {
  bind,
  complete,
  describe as describeMessage,
  error,
  execute,
  FACTS,
  int4,
  KeepingSink,
  message,
  parse,
  query,
  ready,
  row,
  sync,
  value,
} from '../../test/support/postgres-observer.ts';
import type { ObserveOptions, Observer } from '../engine.ts';
import { Refusal } from '../error.ts';
import { observe } from './observe.ts';

const PARSED = message('1');
const BOUND = message('2');
const CLOSED = message('3');
const NO_DATA = message('n');
const SUSPENDED = message('s');
const COPY_DONE = message('c');
const COPY_IN = message('G', Buffer.from([0]), 0);
const COPY_OUT = message('H', Buffer.from([0]), 0);
const copyData = (text: string | Buffer): Buffer => message('d', Buffer.from(text as string));
const description = (name: string, type = 25, format = 0): Buffer =>
  message('T', 1, name, int4(0), 0, int4(type), 0xffff, int4(-1), format);

function session(options: Partial<ObserveOptions> = {}): { sink: KeepingSink; observer: Observer } {
  const sink = new KeepingSink();
  const observer = lending(
    observe(sink, { parameters: true, sampleRows: 0, columns: false, ...options }, FACTS),
  );
  return { sink, observer };
}

/** Client and server take turns; each turn is one chunk. */
function converse(turns: readonly Buffer[][], options: Partial<ObserveOptions> = {}): KeepingSink {
  const { sink, observer } = session(options);
  turns.forEach((messages, index) => {
    const chunk = Buffer.concat(messages);
    if (index % 2 === 0) observer.client(chunk);
    else observer.server(chunk);
  });
  expect(observer.busy).toBe(false);
  expect(sink.open).toEqual([]);
  return sink;
}

describe('simple protocol', () => {
  test('a query is on record with its text, rows, tag, bytes and transaction', () => {
    const asked = query('select 1 union select 2');
    const answer = [description('n'), row('1'), row('2'), complete('SELECT 2'), ready('T')];
    const { begun, ended, serverBytes, clientBytes } = converse([[asked], answer]);
    expect(begun).toHaveLength(1);
    expect(ended[0]).toMatchObject({
      kind: 'query',
      text: 'select 1 union select 2',
      textBytes: 23,
      textSha256: null,
      status: 'ok',
      tag: 'SELECT 2',
      rowsReturned: 2,
      rowsAffected: null,
      bytesSent: asked.length,
      bytesReceived: Buffer.concat(answer).length,
      transaction: 'active',
      results: null,
      columns: null,
    });
    expect(serverBytes).toEqual([asked]);
    expect(clientBytes, 'one chunk, one write').toHaveLength(1);
  });

  test.each([
    ['INSERT 0 5', null, 5],
    ['UPDATE 3', null, 3],
    ['DELETE 0', null, 0],
    ['MERGE 2', null, 2],
    ['SELECT 7', null, 7], // CREATE TABLE AS: counted, and sent to nobody
    ['COPY 4', null, 4],
    ['CREATE TABLE', null, null],
    ['INSERT 0 9007199254740993', null, 9007199254740993n],
  ])('the tag %s means %s rows returned and %s affected', (tag, returned, affected) => {
    const { ended } = converse([[query('x')], [complete(tag), ready()]]);
    expect(ended[0]).toMatchObject({ tag, rowsReturned: returned, rowsAffected: affected });
  });

  test('several statements in one text have several results, and an error after them', () => {
    const { ended } = converse([
      [query('select 1; update t set a = 1; select 1/0')],
      [
        description('n'),
        row('1'),
        complete('SELECT 1'),
        complete('UPDATE 3'),
        error('22012', 'division by zero'),
        ready(),
      ],
    ]);
    expect(ended[0]).toMatchObject({
      status: 'error',
      error: { code: '22012', message: 'division by zero' },
      rowsReturned: 1,
      rowsAffected: 3,
      results: [
        { tag: 'SELECT 1', rowsReturned: 1, rowsAffected: null },
        { tag: 'UPDATE 3', rowsReturned: null, rowsAffected: 3 },
      ],
    });
  });

  test('two queries sent at once are two records', () => {
    const { ended } = converse([
      [query('begin'), query('select 1')],
      [complete('BEGIN'), ready('T'), description('n'), row('1'), complete('SELECT 1'), ready('T')],
    ]);
    expect(ended.map(({ text, rowsReturned }) => [text, rowsReturned])).toEqual([
      ['begin', null],
      ['select 1', 1],
    ]);
  });

  test('a cancelled statement says so', () => {
    const { ended } = converse([
      [query('select pg_sleep(60)')],
      [description('s'), error('57014', 'canceling statement due to user request'), ready()],
    ]);
    expect(ended[0]).toMatchObject({ status: 'cancelled', error: { code: '57014' } });
  });

  test('notices belong to the statement that runs, and to the session when none does', () => {
    const notice = message('N', 'SNOTICE', 'VNOTICE', 'C00000', 'Mhello', Buffer.from([0]));
    const sink = converse([[query('do')], [notice, complete('DO'), ready(), notice]]);
    expect(sink.ended[0]!.messages).toEqual(['NOTICE 00000: hello']);
    expect(sink.notes).toEqual([{ kind: 'server_notice', code: '00000', message: 'hello' }]);
  });
});

describe('extended protocol', () => {
  const cycle = [parse('', 'select $1::int, $2, $3', [23, 0]), bind('', '', ['42', null, ''])];

  test('Parse, Bind, Describe, Execute, Sync in one chunk are one record', () => {
    const { begun, ended } = converse([
      [...cycle, describeMessage('P', ''), execute(''), sync()],
      [PARSED, BOUND, description('n'), row('42'), complete('SELECT 1'), ready()],
    ]);
    expect(begun).toHaveLength(1);
    expect(ended[0]).toMatchObject({
      kind: 'execute',
      text: 'select $1::int, $2, $3',
      name: null,
      parameters: [
        { type: 'int4', value: '42' },
        { type: null, value: null },
        { type: null, value: '' },
      ],
      rowsReturned: 1,
      status: 'ok',
      transaction: 'idle',
      bytesSent: Buffer.concat([...cycle, execute('')]).length,
    });
  });

  test('a Parse that is not executed at once is on record as it is sent', () => {
    const sink = converse([
      [parse('s', 'select $1'), describeMessage('S', 's'), sync()],
      [PARSED, message('t', 1, int4(23)), description('n'), ready()],
      [bind('', 's', [Buffer.from([0, 0, 0, 7])], [1]), execute(''), sync()],
      [BOUND, row('7'), complete('SELECT 1'), ready()],
    ]);
    expect(sink.ended.map(({ kind, text, name, status }) => [kind, text, name, status])).toEqual([
      ['prepare', 'select $1', 's', 'ok'],
      ['execute', 'select $1', 's', 'ok'],
    ]);
    expect(sink.ended[1]!.parameters).toEqual([{ name: null, type: 'int4', value: '7' }]);
  });

  test('a portal read in parts, over several Syncs, is one statement', () => {
    const rows = (count: number): Buffer[] => Array.from({ length: count }, () => row('x'));
    const { ended } = converse([
      [parse('', 'select 5'), bind('C_1', ''), execute('C_1', 2), sync()],
      [PARSED, BOUND, ...rows(2), SUSPENDED, ready('T')],
      [execute('C_1', 2), sync()],
      [...rows(2), SUSPENDED, ready('T')],
      [execute('C_1', 2), sync()],
      [...rows(1), complete('SELECT 1'), ready('T')],
    ]);
    expect(ended).toHaveLength(1);
    expect(ended[0]).toMatchObject({ text: 'select 5', rowsReturned: 5, status: 'ok', tag: 'SELECT 1' });
    expect(ended[0]!.results!.map((result) => result.rowsReturned)).toEqual([2, 2, 1]);
  });

  test.each([
    ['closed', [message('C', Buffer.from('P'), 'c'), sync()], [CLOSED, ready('T')]],
    ['left when its transaction ends', [query('commit')], [complete('COMMIT'), ready('I')]],
  ])('a portal that is %s has its statement ended', (_how, asked, answer) => {
    const { ended } = converse([
      [parse('', 'select 5'), bind('c', ''), execute('c', 1), sync()],
      [PARSED, BOUND, row('x'), SUSPENDED, ready('T')],
      asked,
      answer,
    ]);
    expect(ended.find(({ text }) => text === 'select 5')).toMatchObject({ status: 'ok', rowsReturned: 1 });
  });

  test('a batch is one record for each execution', () => {
    const one = (a: string): Buffer[] => [bind('', 's', [a]), describeMessage('P', ''), execute('', 1)];
    const { ended } = converse([
      [parse('s', 'insert into t values ($1)'), ...one('a'), ...one('b'), ...one('c'), sync()],
      [PARSED, ...[1, 2, 3].flatMap(() => [BOUND, NO_DATA, complete('INSERT 0 1')]), ready()],
    ]);
    expect(ended.map(({ kind, parameters }) => [kind, parameters![0]!.value])).toEqual([
      ['execute', 'a'],
      ['execute', 'b'],
      ['execute', 'c'],
    ]);
  });

  test('what an error makes the server skip has not been executed', () => {
    const { ended } = converse([
      [
        parse('', 'select 1/0'),
        bind('', ''),
        execute(''),
        parse('', 'select 2'),
        bind('', ''),
        execute(''),
        sync(),
      ],
      [PARSED, error('22012', 'division by zero'), ready()],
    ]);
    expect(ended.map(({ text, status }) => [text, status])).toEqual([
      ['select 1/0', 'error'],
      ['select 2', 'cancelled'],
    ]);
    expect(ended[1]!.messages![0]).toContain('not executed');
  });

  test('an error at the end of an implicit transaction belongs to the statement before it', () => {
    const { ended } = converse([
      [parse('', 'insert'), bind('', ''), execute(''), sync()],
      [PARSED, BOUND, complete('INSERT 0 1'), error('23503', 'violates foreign key'), ready()],
    ]);
    expect(ended[0]).toMatchObject({ status: 'error', error: { code: '23503' } });
  });

  test('a name that stood for something else than was foreseen is put right', () => {
    const { ended } = converse([
      [parse('a', 'select 1'), sync(), parse('a', 'select 2'), sync(), bind('', 'a'), execute(''), sync()],
      [
        PARSED,
        ready(),
        error('42P05', 'prepared statement "a" already exists'),
        ready(),
        BOUND,
        row('1'),
        complete('SELECT 1'),
        ready(),
      ],
    ]);
    expect(ended.map(({ kind, text, status }) => `${kind} ${text} ${status}`)).toEqual([
      'prepare select 1 ok',
      'prepare select 2 error',
      'execute select 2 cancelled',
      'execute select 1 ok',
    ]);
  });

  test('prepared statements of SQL have their name on record', () => {
    const { ended } = converse([
      [bind('', 'made_by_sql'), execute(''), sync()],
      [BOUND, row('1'), complete('SELECT 1'), ready()],
    ]);
    expect(ended[0]).toMatchObject({ text: null, name: 'made_by_sql', status: 'ok' });
  });

  test('parameters are left alone where they are not wanted', () => {
    const { ended } = converse(
      [
        [...cycle, execute(''), sync()],
        [PARSED, BOUND, complete('SELECT 0'), ready()],
      ],
      { parameters: false },
    );
    expect(ended[0]!.parameters).toBeNull();
  });

  test('a long parameter is cut, with its length and hash', () => {
    const long = 'é'.repeat(5000);
    const { ended } = converse([
      [parse('', 'select $1'), bind('', '', [long]), execute(''), sync()],
      [PARSED, BOUND, complete('SELECT 0'), ready()],
    ]);
    expect(ended[0]!.parameters![0]).toEqual({
      name: null,
      type: null,
      value: 'é'.repeat(2048),
      bytes: 10_000,
      sha256: createHash('sha256').update(long).digest('hex'),
    });
  });

  test.each([1, 1000, 65_536])('a Bind too large to be held streams, in pieces of %s bytes', (piece) => {
    const size = piece === 1 ? 1_100_000 : 3_000_000;
    const large = Buffer.alloc(size, 'x');
    const client = Buffer.concat([
      parse('', 'select', [17, 25]),
      bind('', '', [large, 'after', null, 'more'], [1, 0, 0, 0]),
      execute(''),
      sync(),
    ]);
    const { sink, observer } = session();
    for (let at = 0; at < client.length; at += piece) observer.client(client.subarray(at, at + piece));
    observer.server(Buffer.concat([PARSED, BOUND, complete('SELECT 0'), ready()]));
    expect(sink.toServerBytes.equals(client)).toBe(true);
    const parameters = sink.ended.find(({ kind }) => kind === 'execute')!.parameters!;
    expect(parameters).toHaveLength(4);
    expect(parameters[0]).toMatchObject({
      type: 'bytea',
      bytes: size,
      sha256: createHash('sha256').update(large).digest('hex'),
    });
    expect(parameters.slice(1).map((parameter) => parameter.value)).toEqual(['after', null, 'more']);
  });
});

describe('COPY and functions', () => {
  test('COPY in counts the bytes that were sent', () => {
    const data = [copyData('1\n'), copyData('2\n')];
    const asked = query('/* load */ COPY t FROM STDIN');
    const { ended } = converse([[asked], [COPY_IN], [...data, COPY_DONE], [complete('COPY 2'), ready()]]);
    expect(ended[0]).toMatchObject({
      kind: 'copy',
      rowsAffected: 2,
      rowsReturned: null,
      bytesSent: asked.length + Buffer.concat(data).length,
    });
  });

  test('COPY out counts rows returned', () => {
    const answer = [COPY_OUT, copyData('1\n'), copyData('2\n'), COPY_DONE, complete('COPY 2'), ready()];
    const { ended } = converse([[query('copy t to stdout')], answer]);
    expect(ended[0]).toMatchObject({
      kind: 'copy',
      rowsAffected: null,
      rowsReturned: 2,
      bytesReceived: Buffer.concat(answer).length,
    });
  });

  test('replication streams both ways under one statement', () => {
    const { sink, observer } = session();
    observer.client(query('START_REPLICATION SLOT s LOGICAL 0/0'));
    observer.server(message('W', Buffer.from([0]), 0));
    for (let index = 0; index < 10; index += 1) {
      observer.server(copyData('w'));
      observer.client(copyData('r'));
    }
    expect(observer.busy).toBe(true);
    observer.client(COPY_DONE);
    observer.server(
      Buffer.concat([COPY_DONE, complete('START_STREAMING'), complete('START_REPLICATION'), ready()]),
    );
    expect(sink.ended[0]).toMatchObject({ text: 'START_REPLICATION SLOT s LOGICAL 0/0', status: 'ok' });
    expect(observer.busy).toBe(false);
  });

  test('function calls have their name and arguments', () => {
    const call = message('F', int4(955), 2, 1, 1, 2, value(int4(0)), value(Buffer.from('ab')), 0);
    const { ended } = converse([[call], [message('V', int4(-1)), ready('T')]]);
    expect(ended[0]).toMatchObject({
      kind: 'rpc',
      name: 'lowrite',
      parameters: [
        { type: 'int4', value: '0' },
        { type: 'bytea', value: '\\x6162' },
      ],
      status: 'ok',
    });
  });
});

describe('large statements', () => {
  test('a text between the two caps is judged whole and recorded cut', () => {
    const text = `select '${'ü'.repeat(50_000)}'`;
    const { sink, observer } = session();
    let judged = '';
    sink.verdict = (statement) => {
      judged = statement.text!;
      return { action: 'allow' };
    };
    observer.client(query(text));
    expect(judged).toBe(text);
    expect(sink.begun[0]).toMatchObject({
      textBytes: Buffer.byteLength(text),
      textSha256: createHash('sha256').update(text).digest('hex'),
    });
    expect(Buffer.byteLength(sink.begun[0]!.text!)).toBeLessThanOrEqual(64 * 1024);
    expect(text.startsWith(sink.begun[0]!.text!)).toBe(true);
  });

  test('a statement of 300 MiB passes in bounded memory', () => {
    const piece = Buffer.alloc(64 * 1024, 'x');
    const pieces = 4800;
    const { sink, observer } = session();
    let passed = 0;
    let largest = 0;
    sink.toServer = (bytes) => {
      passed += bytes.length;
      largest = Math.max(largest, bytes.length);
    };
    const header = Buffer.from([0x51, 0, 0, 0, 0]);
    header.writeUInt32BE(piece.length * pieces + 5, 1);
    observer.client(header);
    const hash = createHash('sha256');
    const before = process.memoryUsage().rss;
    for (let index = 0; index < pieces; index += 1) {
      observer.client(piece);
      hash.update(piece);
    }
    observer.client(Buffer.from([0]));
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
    expect(passed).toBe(piece.length * pieces + 6);
    expect(largest).toBeLessThanOrEqual(1024 * 1024);
    observer.server(Buffer.concat([complete('SELECT 0'), ready()]));
    expect(sink.ended[0]).toMatchObject({
      textBytes: piece.length * pieces,
      textSha256: hash.digest('hex'),
    });
    expect(sink.ended[0]!.text).toHaveLength(64 * 1024);
  });

  test('a COPY of 1 GiB in messages that chunks cut passes in bounded memory', () => {
    const sink = new KeepingSink();
    const observer = observe(sink, { parameters: true, sampleRows: 0, columns: false }, FACTS);
    let passed = 0;
    sink.toServer = (bytes) => {
      passed += bytes.length;
    };
    observer.client(query('copy t from stdin'));
    observer.server(COPY_IN);
    const data = message('d', Buffer.alloc(9_995, 'x'));
    const chunk = Buffer.concat(Array(100).fill(data));
    const before = process.memoryUsage().rss;
    const start = passed;
    for (let index = 0; index < 1074; index += 1) {
      observer.client(chunk.subarray(0, 77_777));
      observer.client(chunk.subarray(77_777));
    }
    expect(passed - start).toBe(chunk.length * 1074);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
    observer.client(COPY_DONE);
    observer.server(Buffer.concat([complete('COPY 1'), ready()]));
    expect(sink.ended[0]!.bytesSent).toBe(chunk.length * 1074 + query('copy t from stdin').length);
  });

  test('a large Parse is hashed as it streams', () => {
    const text = 'x'.repeat(2_000_000);
    const sent = Buffer.concat([parse('big', text, [23]), bind('', 'big'), execute(''), sync()]);
    const { sink, observer } = session();
    for (let at = 0; at < sent.length; at += 60_000) observer.client(sent.subarray(at, at + 60_000));
    observer.server(Buffer.concat([PARSED, BOUND, complete('SELECT 0'), ready()]));
    expect(sink.toServerBytes.equals(sent)).toBe(true);
    const sha256 = createHash('sha256').update(text).digest('hex');
    expect(sink.ended.map(({ kind, textBytes, textSha256 }) => [kind, textBytes, textSha256])).toEqual([
      ['prepare', text.length, sha256],
      ['execute', text.length, sha256],
    ]);
  });
});

describe('the gate', () => {
  const refusal = new Refusal('statement_not_allowed', 'no', { hint: 'ask' });
  const marker = FACTS.denialMarker;
  const refusing = (): ReturnType<typeof session> => {
    const made = session();
    made.sink.verdict = (statement) =>
      statement.text?.includes('evil') || statement.name === 'lo_unlink'
        ? { action: 'refuse', refusal }
        : { action: 'allow' };
    return made;
  };
  const ours = error('42501', 'no').toString('latin1').slice(5, -1);
  const call = message('F', int4(964), 0, 1, value('1'), 0);

  test.each([
    ['Query', [query('evil')], [query(marker)]],
    ['Parse', [parse('s', 'evil'), sync()], [parse('s', marker), sync()]],
    ['FunctionCall', [call], [query(marker)]],
    [
      'Parse with its Execute',
      [parse('', 'evil'), bind('', ''), execute(''), sync()],
      [parse('', marker), bind('', ''), execute(''), sync()],
    ],
    [
      'Query between others',
      [query('a'), query('evil'), query('b')],
      [query('a'), query(marker), query('b')],
    ],
  ])('a refused %s is replaced by what the server must reject', (_what, sent, expected) => {
    const { sink, observer } = refusing();
    observer.client(Buffer.concat(sent));
    expect(sink.toServerBytes).toEqual(Buffer.concat(expected));
    expect(sink.ended.map(({ status }) => status)).toEqual(['denied']);
  });

  test('an Execute is refused on its own where the text was prepared before', () => {
    const { sink, observer } = session();
    observer.client(Buffer.concat([parse('s', 'evil'), sync()]));
    observer.server(Buffer.concat([PARSED, ready()]));
    sink.serverBytes = [];
    sink.verdict = () => ({ action: 'refuse', refusal });
    observer.client(Buffer.concat([bind('', 's'), execute(''), sync()]));
    expect(sink.toServerBytes).toEqual(Buffer.concat([bind('', 's'), execute(marker), sync()]));
    observer.server(Buffer.concat([BOUND, error('34000', `portal "${marker}" does not exist`), ready()]));
    expect(sink.toClientBytes.toString('latin1')).toContain(ours);
    expect(observer.busy).toBe(false);
  });

  test('the server hears nothing of a refused text, and the client nothing of the marker, wherever chunks are cut', () => {
    const sent = Buffer.concat([query('a'), query(`evil ${'x'.repeat(40)}`), query('b')]);
    const answer = Buffer.concat([
      complete('A'),
      ready('T'),
      error('42601', `syntax error at or near "${marker}"`),
      ready('E'),
      error('25P02', 'current transaction is aborted'),
      ready('E'),
    ]);
    const replaced = Buffer.concat([complete('A'), ready('T')]).toString('latin1');
    for (let cut = 1; cut < Math.max(sent.length, answer.length); cut += 1) {
      const { sink, observer } = refusing();
      observer.client(sent.subarray(0, cut));
      observer.client(sent.subarray(cut));
      observer.server(answer.subarray(0, cut));
      observer.server(answer.subarray(cut));
      const toServer = sink.toServerBytes.toString();
      expect(toServer).not.toContain('evil');
      const toClient = sink.toClientBytes.toString('latin1');
      expect(toClient).not.toContain(marker);
      expect(toClient.startsWith(replaced)).toBe(true);
      expect(toClient).toContain(ours);
      expect(toClient).toContain('25P02');
      expect(sink.ended.map(({ text, status }) => [text!.slice(0, 4), status])).toEqual([
        ['evil', 'denied'],
        ['a', 'ok'],
        ['b', 'error'],
      ]);
      expect(observer.atBoundary).toBe(true);
    }
  });

  test('a refused statement of many megabytes never reaches the server', () => {
    const { sink, observer } = refusing();
    const sent = Buffer.concat([query(`evil ${'x'.repeat(3_000_000)}`), query('a')]);
    for (let at = 0; at < sent.length; at += 65_536) observer.client(sent.subarray(at, at + 65_536));
    expect(sink.toServerBytes).toEqual(Buffer.concat([query(marker), query('a')]));
  });

  test('a refused statement that the server skips leaves nothing behind', () => {
    const { sink, observer } = refusing();
    observer.client(Buffer.concat([parse('', 'slect'), query('evil'), sync()]));
    observer.server(Buffer.concat([error('42601', 'syntax error at or near "slect"'), ready()]));
    expect(observer.busy).toBe(false);
    observer.client(query('a'));
    observer.server(Buffer.concat([error('42601', `"${marker}"`), ready()]));
    expect(sink.toClientBytes.toString('latin1'), 'nothing was to be replaced any more').toContain(marker);
  });

  test.each([
    ['allow', { action: 'allow' } as const, [query('held')]],
    ['refuse', { action: 'refuse', refusal } as const, [query(marker)]],
  ])('what is held passes nothing until it is released (%s)', (_what, verdict, inItsPlace) => {
    const { sink, observer } = session();
    sink.verdict = (statement) => ({ action: statement.text === 'held' ? 'hold' : 'allow' });
    const sent = Buffer.concat([query('a'), query('held'), query('b')]);
    const cut = query('a').length + 9;
    observer.client(sent.subarray(0, cut));
    observer.client(sent.subarray(cut, cut + 10));
    expect(sink.toServerBytes).toEqual(query('a'));
    expect(observer.saturated).toBe(true);
    expect(observer.busy).toBe(true);
    observer.client(sent.subarray(cut + 10));
    observer.release({ action: 'hold' });
    expect(sink.toServerBytes).toEqual(query('a'));
    observer.release(verdict);
    expect(sink.toServerBytes).toEqual(Buffer.concat([query('a'), ...inItsPlace, query('b')]));
    expect(observer.saturated).toBe(false);
    expect(sink.begun.map(({ text }) => text)).toEqual(['a', 'held', 'b']);
  });
});

describe('the session', () => {
  test.each([
    ['an unknown type', message('y')],
    ['a password', message('p', 'x')],
    ['a long Describe', describeMessage('S', 'x'.repeat(10_001))],
    ['a length below four', Buffer.from([0x51, 0, 0, 0, 3])],
    ['a length beyond a gigabyte', Buffer.from([0x51, 0x7f, 0xff, 0xff, 0xff])],
  ])('%s ends it, and what came before passes', (_what, bad) => {
    for (let cut = 0; cut < bad.length; cut += bad.length > 100 ? 1000 : 1) {
      const { sink, observer } = session();
      observer.client(Buffer.concat([query('a'), bad.subarray(0, cut)]));
      observer.client(bad.subarray(cut));
      expect(observer.fatal).toMatchObject({ code: 'protocol_violation' });
      expect(sink.toServerBytes).toEqual(query('a'));
      observer.client(query('b'));
      expect(sink.toServerBytes).toEqual(query('a'));
    }
  });

  test('our last words stand between messages only', () => {
    const { observer } = session();
    const answer = row('abc');
    expect(observer.atBoundary).toBe(true);
    observer.client(query('a'));
    observer.server(answer.subarray(0, 7));
    expect(observer.atBoundary).toBe(false);
    observer.server(answer.subarray(7));
    expect(observer.atBoundary).toBe(true);
    const words = observer.farewell(new Refusal('idle_in_transaction', 'too long'));
    expect(words.toString('latin1')).toContain('C25P03');
    expect(words.toString('latin1')).toContain('VFATAL');
  });

  test('the goodbye is said once, and never within a message', () => {
    const large = query('x'.repeat(2_000_000));
    const { observer } = session();
    expect(observer.goodbye()).toEqual(message('X'));
    observer.client(large.subarray(0, 1_500_000));
    expect(observer.goodbye()).toBeNull();
    observer.client(large.subarray(1_500_000));
    observer.client(message('X'));
    expect(observer.goodbye()).toBeNull();
    expect(observer.leaving).toBe('client');
  });

  test('a fatal error of the server is its goodbye', () => {
    const { sink, observer } = session();
    observer.server(error('57P01', 'terminating connection', 'FATAL'));
    expect(observer.leaving).toBe('server');
    expect(sink.notes[0]).toMatchObject({ kind: 'server_notice', code: '57P01' });
  });

  test('what is open at the end is ended', () => {
    const { sink, observer } = session();
    observer.client(
      Buffer.concat([query('a'), parse('', 'b'), bind('', ''), execute(''), execute(''), sync()]),
    );
    observer.close('cancelled');
    expect(sink.ended.map(({ text, status }) => [text, status])).toEqual([
      ['a', 'cancelled'],
      ['b', 'cancelled'],
    ]);
    expect(sink.open).toEqual([]);
  });

  test('a lost thread is noted once, and found again', () => {
    const { sink, observer } = session();
    observer.client(query('a'));
    observer.server(Buffer.concat([BOUND, complete('A'), ready()]));
    expect(sink.notes).toHaveLength(1);
    expect(sink.notes[0]).toMatchObject({ kind: 'opaque', trace: 'client Q server 2' });
    expect(sink.ended[0]).toMatchObject({ text: 'a', status: 'unknown', opaque: true });
    observer.client(query('b'));
    observer.server(Buffer.concat([complete('B'), ready('T')]));
    expect(sink.ended[1]).toMatchObject({ text: 'b', status: 'ok', tag: 'B' });
    expect(sink.notes).toHaveLength(1);
    expect(sink.clientBytes).toHaveLength(2);
  });

  test('the encoding of texts and parameters follows client_encoding', () => {
    const { sink, observer } = session();
    observer.server(message('S', 'client_encoding', 'LATIN1'));
    observer.client(message('Q', Buffer.from("select 'é'\0", 'latin1')));
    expect(sink.begun[0]!.text).toBe("select 'é'");
    observer.server(message('S', 'client_encoding', 'WIN1251'));
    observer.client(message('Q', Buffer.from([0xcf, 0x00])));
    expect(sink.begun[1]!.text).toBe('П');
  });

  test('a change of the account is noted', () => {
    const { sink, observer } = session();
    observer.server(message('S', 'session_authorization', 'other'));
    observer.server(message('S', 'TimeZone', 'UTC'));
    expect(sink.notes).toEqual([{ kind: 'session_changed', what: 'session_authorization', value: 'other' }]);
  });

  test('an endless pipeline makes the client wait, and the server is asked for its answers', () => {
    const { sink, observer } = session();
    observer.client(Buffer.concat([parse('s', 'select 1'), sync()]));
    observer.server(Buffer.concat([PARSED, ready()]));
    const pair = Buffer.concat([bind('', 's'), execute('')]);
    const chunk = Buffer.concat(Array(1000).fill(pair));
    let chunks = 0;
    while (!observer.saturated) {
      observer.client(chunk);
      chunks += 1;
      expect(chunks).toBeLessThan(100);
    }
    expect(sink.serverBytes.at(-1)).toEqual(message('H'));
    expect(sink.serverBytes.filter((bytes) => bytes.equals(message('H')))).toHaveLength(1);
    const answers = Buffer.concat(Array(chunks * 1000).fill(Buffer.concat([BOUND, complete('SELECT 0')])));
    observer.server(answers);
    expect(observer.saturated).toBe(false);
    expect(sink.ended).toHaveLength(chunks * 1000 + 1);
  });
});

describe('columns and samples', () => {
  test('the first rows are kept as text, in either format', () => {
    const answer = [
      BOUND,
      message(
        'T',
        2,
        'a',
        int4(0),
        0,
        int4(23),
        4,
        int4(-1),
        1,
        'b',
        int4(0),
        0,
        int4(25),
        0xffff,
        int4(-1),
        1,
      ),
      message('D', 2, value(int4(7)), value('x')),
      message('D', 2, value(int4(8)), value(null)),
      message('D', 2, value(int4(9)), value('z')),
      complete('SELECT 3'),
      ready(),
    ];
    const asked = [
      parse('', 'select'),
      message('B', '', '', 0, 0, 1, 1),
      describeMessage('P', ''),
      execute(''),
      sync(),
    ];
    for (const size of [1, 7, 10_000]) {
      const { sink, observer } = session({ columns: true, sampleRows: 2 });
      observer.client(Buffer.concat(asked));
      const bytes = Buffer.concat([PARSED, ...answer]);
      for (let at = 0; at < bytes.length; at += size) observer.server(bytes.subarray(at, at + size));
      expect(sink.ended[0]).toMatchObject({
        columns: ['a', 'b'],
        sample: [
          ['7', 'x'],
          ['8', null],
        ],
        rowsReturned: 3,
      });
      expect(sink.toClientBytes.equals(bytes)).toBe(true);
    }
  });

  test('a description that only looks like one before is another', () => {
    const ask = (name: string, type: number): Buffer[] => [
      description(name, type),
      row('1'),
      complete('SELECT 1'),
      ready(),
    ];
    const { ended } = converse(
      [
        [query('a')],
        ask('same_prefix_a', 25),
        [query('b')],
        ask('same_prefix_b', 25),
        [query('c')],
        ask('same_prefix_a', 23),
      ],
      { columns: true },
    );
    expect(ended.map(({ columns }) => columns)).toEqual([
      ['same_prefix_a'],
      ['same_prefix_b'],
      ['same_prefix_a'],
    ]);
  });

  test('results of one query have their columns each', () => {
    const { ended } = converse(
      [
        [query('select 1 as a; select 2 as b')],
        [
          description('a'),
          row('1'),
          complete('SELECT 1'),
          description('b'),
          row('2'),
          complete('SELECT 1'),
          ready(),
        ],
      ],
      { columns: true, sampleRows: 5 },
    );
    expect(ended[0]!.results!.map((result) => result.columns)).toEqual([['a'], ['b']]);
    expect(ended[0]!.sample).toEqual([['1']]);
  });
});

describe('whatever comes', () => {
  const letters = fc.constantFrom(...'QPBEDCSHFXdcfp123tTnDCZEINAGHWVsvK');
  const anyMessage = fc
    .tuple(letters, fc.uint8Array({ maxLength: 60 }))
    .map(([type, body]) => message(type, Buffer.from(body)));
  const anyBytes = fc.oneof(
    { weight: 8, arbitrary: anyMessage },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)) },
  );

  test('nothing that peers send makes an observer throw, and answers pass as they are', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.boolean(), anyBytes), { maxLength: 60 }),
        fc.integer({ min: 0, max: 2 }),
        (events, sampleRows) => {
          const { sink, observer } = session({ sampleRows, columns: sampleRows > 0 });
          const answers: Buffer[] = [];
          for (const [client, bytes] of events) {
            if (client) {
              observer.client(bytes);
            } else {
              observer.server(bytes);
              answers.push(bytes);
            }
          }
          expect(sink.toClientBytes.equals(Buffer.concat(answers))).toBe(true);
          observer.close('unknown');
          expect(sink.open).toEqual([]);
        },
      ),
      { numRuns: 3000 },
    );
  });

  test('a client that is refused at random hears of each refusal at its place', () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { minLength: 1, maxLength: 30 }), fc.nat(), (evil, seed) => {
        const { sink, observer } = session();
        const refusal = new Refusal('statement_not_allowed', 'no');
        sink.verdict = ({ text }) => (text === 'evil' ? { action: 'refuse', refusal } : { action: 'allow' });
        const sent = Buffer.concat(evil.map((one) => query(one ? 'evil' : 'good')));
        const answers = Buffer.concat(
          evil.flatMap((one) => [one ? error('42601', `"${FACTS.denialMarker}"`) : complete('OK'), ready()]),
        );
        const size = 1 + (seed % 50);
        for (let at = 0; at < sent.length; at += size) observer.client(sent.subarray(at, at + size));
        for (let at = 0; at < answers.length; at += size) observer.server(answers.subarray(at, at + size));
        const heard = sink.toClientBytes.toString('latin1').match(/C42501|OK/g) ?? [];
        expect(heard).toEqual(evil.map((one) => (one ? 'C42501' : 'OK')));
        expect(observer.busy).toBe(false);
      }),
      { numRuns: 300 },
    );
  });
});
