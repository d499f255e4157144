import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { lending } from '../../test/support/lending.ts';
import { CollectingSink, EVERYTHING, sessionFacts } from '../../test/support/tds-capture.ts';
import {
  batch,
  bitmapRow,
  call,
  chunked,
  columns,
  done,
  type EncodedColumn,
  environment,
  errorToken,
  int,
  message,
  nvarchar,
  response,
  returnStatus,
  returnValue,
  row,
  rpc,
  varbinaryMax,
} from '../../test/support/tds-encode.ts';
import { Writer } from '../bytes.ts';
import type { Statement } from '../statement.ts';
import { observe } from './observe.ts';
import type { SessionFacts } from './session.ts';

/** Answers of the server, written by the tests' own encoder. */

const INT = int(1).type;
const TEXT = nvarchar('').type;
const MAX = Buffer.from([0xa5, 0xff, 0xff]);
const SELECT = { command: 0xc1 };

function value(number: number | null): Buffer {
  return Buffer.from(int(number).value);
}

function text(characters: string | null): Buffer {
  return Buffer.from(nvarchar(characters).value);
}

function start(facts: Partial<SessionFacts> = {}, options: Partial<typeof EVERYTHING> = {}) {
  const sink = new CollectingSink();
  const observer = lending(observe(sink, { ...EVERYTHING, sampleRows: 0, ...options }, sessionFacts(facts)));
  return { sink, observer };
}

/** What is recorded when a batch is answered so; the bytes must all have passed. */
function answered(
  answer: Buffer,
  facts: Partial<SessionFacts> = {},
  options: Partial<typeof EVERYTHING> = {},
): { statement: Statement; sink: CollectingSink } {
  const { sink, observer } = start(facts, options);
  observer.client(batch('q', { wide: facts.version !== '7.1' }));
  observer.server(Buffer.from(answer));
  expect(sink.received).toEqual(answer);
  expect(sink.ended).toHaveLength(1);
  return { statement: sink.ended[0]!, sink };
}

const outcome = ({ status, rowsReturned, rowsAffected, error, opaque }: Statement) => ({
  status,
  rowsReturned,
  rowsAffected,
  error: error?.code ?? null,
  opaque,
});

describe('results', () => {
  it('of a batch with several statements are told apart', () => {
    const { statement } = answered(
      response(
        columns([
          { name: 'id', type: INT },
          { name: 'n', type: TEXT },
        ]),
        row(value(1), text('one')),
        row(value(2), text(null)),
        row(value(null), text('')),
        done(0x11, { ...SELECT, count: 3 }),
        done(0x11, { command: 0xc5, count: 5 }),
        errorToken(2627, 'Violation of PRIMARY KEY', { class: 14, state: 1, line: 3, procedure: 'dbo.p' }),
        done(0x02, { command: 0xc3 }),
      ),
    );
    expect(statement).toMatchObject({
      status: 'error',
      rowsReturned: 3,
      rowsAffected: 5,
      columns: ['id', 'n'],
      error: {
        code: '2627',
        message: 'Violation of PRIMARY KEY',
        detail: { class: 14, state: 1, line: 3, procedure: 'dbo.p' },
      },
      results: [
        { tag: 'SELECT', rowsReturned: 3, rowsAffected: null, columns: ['id', 'n'] },
        { tag: 'UPDATE', rowsReturned: null, rowsAffected: 5 },
      ],
    });
  });

  it('of INSERT … OUTPUT count as both, variables that are set as neither', () => {
    const answer = response(
      columns([{ name: 'id', type: INT }]),
      row(value(7)),
      done(0x10, { command: 0xc3, count: 1 }),
    );
    expect(outcome(answered(answer).statement)).toMatchObject({ rowsReturned: 1, rowsAffected: 1 });
    expect(outcome(answered(response(done(0x10, { ...SELECT, count: 1 }))).statement)).toMatchObject({
      rowsReturned: null,
      rowsAffected: null,
    });
    expect(
      outcome(
        answered(response(columns([{ name: 'id', type: INT }]), done(0x10, { ...SELECT, count: 0 })))
          .statement,
      ),
    ).toMatchObject({
      rowsReturned: 0,
    });
  });

  it('give samples as text when they are asked for, and only then', () => {
    const answer = response(
      columns([
        { name: 'id', type: INT },
        { name: 'n', type: TEXT },
      ]),
      row(value(1), text('one')),
      bitmapRow(value(2), null),
      row(value(3), text('x'.repeat(500))),
      row(value(4), text('four')),
      done(0x10, { ...SELECT, count: 4 }),
    );
    expect(answered(answer, {}, { sampleRows: 3 }).statement).toMatchObject({
      rowsReturned: 4,
      sample: [
        ['1', 'one'],
        ['2', null],
        ['3', `${'x'.repeat(128)}…`],
      ],
    });
    expect(answered(answer).statement.sample).toBeNull();
    expect(answered(answer, {}, { columns: false }).statement.columns).toBeNull();
  });

  it('with counts beyond 32 bits', () => {
    const bytes = done(0x10, { command: 0xc5 });
    bytes.writeBigUInt64LE(12_345_678_901n, 5);
    expect(answered(response(bytes)).statement.rowsAffected).toBe(12_345_678_901);
  });

  it('with messages, in TDS 7.1 widths too', () => {
    for (const [version, wide] of [
      ['7.4', true],
      ['7.1', false],
    ] as const) {
      const { statement } = answered(
        response(
          errorToken(0, 'hello from print', { token: 0xab, class: 0, wide }),
          columns([{ name: 'a', type: INT }], { wide }),
          row(value(1)),
          done(0x11, { ...SELECT, count: 1, wide }),
          errorToken(50_000, 'boom', { line: 9, wide }),
          errorToken(3621, 'terminated', { class: 10, wide }),
          done(0x02, { wide }),
        ),
        { version },
      );
      expect(statement).toMatchObject({
        rowsReturned: 1,
        error: { code: '50000', detail: { line: 9 } },
        messages: ['hello from print', 'error 3621: terminated'],
      });
    }
  });
});

/** Every way in which a value's length is told, with NULLs and without. */
const WIDE_COLUMNS: readonly (EncodedColumn & { readonly values: readonly (Buffer | null)[] })[] = [
  { name: 'fixed', type: Buffer.from([0x38]), values: [Buffer.alloc(4, 1), Buffer.alloc(4, 2)] },
  { name: 'int', type: INT, values: [value(1), value(null)] },
  { name: 'text', type: TEXT, values: [text('ab'), text(null), text('')] },
  {
    name: 'max',
    type: MAX,
    values: [
      chunked(Buffer.alloc(70, 0xd1), 33, true),
      chunked(Buffer.alloc(9, 0xaa), 4, false),
      chunked(null, 1, true),
      chunked(Buffer.alloc(0), 1, true),
    ],
  },
  {
    name: 'legacy',
    type: Buffer.concat([Buffer.from([0x23, 0xff, 0xff, 0xff, 0x7f]), Buffer.from('0904d00034', 'hex')]),
    extra: Buffer.from([1, 1, 0, 0x74, 0]),
    values: [
      Buffer.from([0]),
      Buffer.concat([Buffer.from([16]), Buffer.alloc(24, 0xfd), Buffer.from([3, 0, 0, 0, 1, 2, 3])]),
    ],
  },
  {
    name: 'variant',
    type: Buffer.from([0x62, 0x48, 0x1f, 0, 0]),
    values: [Buffer.alloc(4), Buffer.from([6, 0, 0, 0, 0x38, 0, 1, 0, 0, 0])],
  },
  {
    name: 'decimal',
    type: Buffer.from([0x6a, 17, 38, 4]),
    values: [Buffer.from([5, 1, 9, 0, 0, 0]), Buffer.from([0])],
  },
  { name: 'xml', type: Buffer.from([0xf1, 0]), values: [chunked(Buffer.alloc(8, 0xff), 8, true)] },
];

const anyRow = fc
  .tuple(...WIDE_COLUMNS.map((column) => fc.constantFrom(...column.values)))
  .chain((values) => fc.boolean().map((bitmap) => ({ values: values as Buffer[], bitmap })));

function encodeRow({ values, bitmap }: { values: readonly Buffer[]; bitmap: boolean }): Buffer {
  if (!bitmap) return row(...values);
  // A NULL that may be left out; the fixed column never is.
  return bitmapRow(...values.map((bytes, index) => (index === 1 && bytes[0] === 0 ? null : bytes)));
}

describe('rows', () => {
  it('are counted the same wherever packets and chunks are cut', () => {
    fc.assert(
      fc.property(
        fc.array(anyRow, { maxLength: 12 }),
        fc.integer({ min: 9, max: 200 }),
        fc.integer({ min: 1, max: 300 }),
        fc.integer({ min: 0, max: 3 }),
        (rows, packetBytes, chunkBytes, sampleRows) => {
          const payload = Buffer.concat([
            columns(WIDE_COLUMNS),
            ...rows.map(encodeRow),
            done(0x11, { ...SELECT, count: rows.length }),
            errorToken(8134, 'Divide by zero'),
            done(0x02),
          ]);
          const answer = message(4, payload, { packetBytes });
          const { sink, observer } = start({}, { sampleRows });
          observer.client(batch('q'));
          for (let at = 0; at < answer.length; at += chunkBytes)
            observer.server(answer.subarray(at, at + chunkBytes));
          expect(sink.notes).toEqual([]);
          expect(sink.ended.map(outcome)).toEqual([
            { status: 'error', rowsReturned: rows.length, rowsAffected: null, error: '8134', opaque: false },
          ]);
          expect(sink.ended[0]!.sample?.length ?? 0).toBe(Math.min(rows.length, sampleRows));
          expect(sink.received).toEqual(answer);
          expect(observer.busy).toBe(false);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('of megabytes pass in chunks as they come, and are not kept', () => {
    const large = varbinaryMax(Buffer.alloc(3 * 1024 * 1024, 0xfd)).value;
    const answer = message(
      4,
      Buffer.concat([
        columns([{ name: 'b', type: MAX }]),
        row(large),
        row(large),
        done(0x10, { ...SELECT, count: 2 }),
      ]),
      { packetBytes: 32_767 },
    );
    const { sink, observer } = start({}, { sampleRows: 1 });
    observer.client(batch('q'));
    let chunks = 0;
    for (let at = 0; at < answer.length; at += 65_536) {
      observer.server(answer.subarray(at, at + 65_536));
      chunks += 1;
    }
    expect(sink.toClientChunks).toHaveLength(chunks);
    expect(sink.ended.map(outcome)).toMatchObject([{ rowsReturned: 2, opaque: false }]);
    expect(sink.ended[0]!.sample).toEqual([[`0x${'fd'.repeat(256)}…`]]);
  });

  it('with a bitmap over seventeen columns', () => {
    const many = Array.from({ length: 17 }, (_, index) => ({ name: `c${index}`, type: INT }));
    const bits = many.map((_, index) => (index % 3 === 0 ? null : value(index)));
    const answer = response(
      columns(many),
      bitmapRow(...bits),
      bitmapRow(...many.map(() => null)),
      done(0x10, { ...SELECT, count: 2 }),
    );
    expect(answered(answer, {}, { sampleRows: 2 }).statement.sample).toEqual([
      many.map((_, index) => (index % 3 === 0 ? null : String(index))),
      many.map(() => null),
    ]);
  });
});

describe('results of encrypted columns', () => {
  const key = new Writer()
    .zeros(4 + 4 + 4 + 8)
    .uint8(1)
    .uint16le(3)
    .zeros(3)
    .uint8(1)
    .text('k', 'utf16le');
  const keyEntry = key.uint16le(1).text('p', 'utf16le').uint8(1).text('a', 'utf16le').take();
  const encryption = Buffer.concat([Buffer.from([0, 0, 0, 0, 0, 0]), INT, Buffer.from([2, 1, 1])]);
  const answer = (keys: Buffer, encrypted: boolean): Buffer =>
    response(
      columns(
        [
          { name: 'id', type: INT },
          encrypted
            ? { name: 'secret', type: MAX, flags: 0x0800, extra: encryption }
            : { name: 'open', type: MAX },
        ],
        { keys },
      ),
      row(value(1), Buffer.from(varbinaryMax(Buffer.alloc(65)).value)),
      row(value(2), chunked(null, 1, true)),
      done(0x10, { ...SELECT, count: 2 }),
    );

  it('have a table of keys when encryption was acknowledged', () => {
    const facts = { features: { columnEncryption: true, dataClassification: 0 } } as const;
    for (const bytes of [
      answer(Buffer.from([0, 0]), false),
      answer(Buffer.concat([Buffer.from([2, 0]), keyEntry, keyEntry]), true),
    ]) {
      const { statement } = answered(bytes, facts);
      expect(outcome(statement)).toEqual({
        status: 'ok',
        rowsReturned: 2,
        rowsAffected: null,
        error: null,
        opaque: false,
      });
    }
  });

  it('are opaque, and not miscounted, when it was not', () => {
    const { statement, sink } = answered(answer(Buffer.from([0, 0]), false));
    expect(outcome(statement)).toMatchObject({ status: 'ok', rowsReturned: null, opaque: true });
    expect(sink.notes).toMatchObject([{ kind: 'opaque' }]);
  });

  it('may come back as output values', () => {
    const facts = { features: { columnEncryption: true, dataClassification: 0 } } as const;
    const { sink, observer } = start(facts);
    observer.client(rpc([call('dbo.p', [{ name: '@o', status: 1, ...varbinaryMax(Buffer.alloc(0)) }])]));
    const output = returnValue('@o', varbinaryMax(Buffer.alloc(65)), {
      flags: 0x0800,
      extra: encryption.subarray(2),
    });
    observer.server(response(returnStatus(0), output, done(0, { token: 0xfe })));
    expect(sink.ended[0]).toMatchObject({
      outputs: [{ name: '@o', value: { encrypted: true, bytes: 65 } }],
      opaque: false,
    });
  });
});

describe('data classification', () => {
  const shortText = (characters: string): Buffer =>
    Buffer.concat([Buffer.from([characters.length]), Buffer.from(characters, 'utf16le')]);
  const token = (version: 1 | 2): Buffer =>
    Buffer.concat([
      Buffer.from([0xa3, 1, 0]),
      shortText('Confidential'),
      shortText('id-1'),
      Buffer.from([1, 0]),
      shortText('Contact'),
      shortText('id-2'),
      version === 2 ? Buffer.alloc(4) : Buffer.alloc(0),
      Buffer.from([1, 0, 1, 0, 0, 0, 0, 0]),
      version === 2 ? Buffer.alloc(4) : Buffer.alloc(0),
    ]);

  it.each([1, 2] as const)('version %i stands between metadata and rows', (version) => {
    const answer = response(
      columns([{ name: 'a', type: INT }]),
      token(version),
      row(value(1)),
      done(0x10, { ...SELECT, count: 1 }),
    );
    const facts = { features: { columnEncryption: false, dataClassification: version } } as const;
    expect(outcome(answered(answer, facts).statement)).toMatchObject({ rowsReturned: 1, opaque: false });
    expect(outcome(answered(answer).statement)).toMatchObject({
      rowsReturned: null,
      opaque: true,
      status: 'ok',
    });
  });
});

describe('results without metadata', () => {
  it('have the layout of their cursor or prepared statement', () => {
    const { sink, observer } = start();
    observer.client(
      rpc([call(2, [{ status: 1, ...int(null) }, nvarchar('select 1'), int(1), int(1), int(1)])]),
    );
    observer.server(
      response(
        columns([
          { name: 'a', type: INT },
          { name: 'b', type: TEXT },
        ]),
        done(0x01, { token: 0xff }),
        returnStatus(0),
        returnValue('', int(77)),
        done(0, { token: 0xfe }),
      ),
    );
    observer.client(rpc([call(7, [int(77), int(2), int(0), int(2)], 2)]));
    const fetched = [Buffer.from([0x81, 0xff, 0xff]), row(value(1), text('x')), row(value(2), text('y'))];
    observer.server(
      response(...fetched, done(0x11, { token: 0xff, ...SELECT, count: 2 }), done(0, { token: 0xfe })),
    );
    observer.client(rpc([call(7, [int(78), int(2), int(0), int(2)], 2)]));
    observer.server(
      response(...fetched, done(0x13, { token: 0xff, ...SELECT, count: 2 }), done(2, { token: 0xfe })),
    );
    expect(sink.ended.map(outcome)).toMatchObject([
      { status: 'ok', rowsReturned: 0 },
      { status: 'ok', rowsReturned: 2, opaque: false },
      { status: 'error', rowsReturned: null, opaque: true },
    ]);
  });
});

describe('answers that cannot be followed', () => {
  it.each([
    ['a token that is not known', Buffer.from([0x99, 1, 2, 3])],
    ['COMPUTE rows', Buffer.from([0x88, 1, 0, 1, 0])],
    ['a type that is not known', columns([{ name: 'a', type: Buffer.from([0x99]) }])],
    ['a row without metadata', row(value(1))],
    ['more columns than there can be', Buffer.from([0x81, 0xfe, 0xff])],
  ])('lose their own rest and no more: %s', (_what, strange) => {
    const { sink, observer } = start();
    observer.client(batch('first'));
    observer.server(response(strange, Buffer.alloc(300, 0x55), done(0x10, { command: 0xc5, count: 4 })));
    observer.client(batch('second'));
    observer.server(
      response(columns([{ name: 'a', type: INT }]), row(value(1)), done(0x10, { ...SELECT, count: 1 })),
    );
    expect(sink.ended.map(outcome)).toMatchObject([
      { status: 'ok', rowsAffected: 4, opaque: true },
      { status: 'ok', rowsReturned: 1, opaque: false },
    ]);
    expect(sink.notes).toMatchObject([{ kind: 'opaque' }]);
  });

  it.each([
    ['7.4', true],
    ['7.1', false],
  ] as const)('still tell how they ended, behind ten thousand rows: TDS %s', (version, wide) => {
    const rows = Array.from({ length: 10_000 }, (_, index) => row(value(index), text('aa')));
    const payload = Buffer.concat([
      Buffer.from([0x99]),
      ...rows,
      done(0x11, { ...SELECT, count: 10_000, wide }),
      errorToken(8134, 'Divide by zero', { line: 4, wide }),
      errorToken(3621, 'terminated', { token: 0xab, class: 0, wide }),
      returnStatus(-6),
      done(0x02, { wide }),
    ]);
    const { sink, observer } = start({ version });
    observer.client(batch('q', { wide }));
    observer.server(message(4, payload));
    expect(sink.ended).toMatchObject([
      {
        status: 'error',
        opaque: true,
        error: { code: '8134', message: 'Divide by zero', detail: { line: 4 } },
      },
    ]);
  });

  it('are of unknown outcome when they do not end in a DONE', () => {
    for (const answer of [
      response(Buffer.from([0x99, 0, 0])),
      response(columns([{ name: 'a', type: INT }]), Buffer.from([0xd1, 4])),
      response(Buffer.alloc(0)),
    ]) {
      const { sink, observer } = start();
      observer.client(batch('q'));
      observer.server(answer);
      expect(sink.ended).toHaveLength(1);
      expect(sink.ended[0]!.status).toBe('unknown');
      observer.client(batch('next'));
      observer.server(response(done(0x10, { command: 0xc5, count: 1 })));
      expect(sink.ended.map(outcome)[1]).toMatchObject({ status: 'ok', rowsAffected: 1, opaque: false });
    }
  });

  it('beyond framing end the following, and every byte still passes', () => {
    const { sink, observer } = start();
    observer.client(batch('q'));
    const nonsense = Buffer.from('0401000300000100', 'hex');
    observer.server(nonsense);
    observer.server(Buffer.from('anything'));
    observer.client(batch('more'));
    expect(sink.received).toEqual(Buffer.concat([nonsense, Buffer.from('anything')]));
    expect(sink.sent).toEqual(Buffer.concat([batch('q'), batch('more')]));
    expect(sink.ended).toMatchObject([{ status: 'unknown' }, { status: 'unknown' }]);
    expect(observer.busy).toBe(false);
    expect(observer.atBoundary).toBe(false);
  });
});

describe('tokens beside results', () => {
  it('are stepped over', () => {
    const { statement, sink } = answered(
      response(
        Buffer.from([0xa4, 3, 0, 1, 1, 0]),
        Buffer.from([0xa5, 3, 0, 1, 1, 0]),
        columns([{ name: 'a', type: INT }]),
        Buffer.from([0xa9, 2, 0, 1, 0]),
        row(value(1)),
        Buffer.from([0x78, 1, 2, 3, 4]),
        Buffer.concat([Buffer.from([0xe4, 12, 0, 0, 0]), Buffer.alloc(12, 0xfd)]),
        Buffer.from([0xae, 4, 1, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0xff]),
        done(0x10, { ...SELECT, count: 1 }),
      ),
    );
    expect(outcome(statement)).toMatchObject({ rowsReturned: 1, opaque: false });
    expect(sink.notes).toEqual([]);
  });

  it('tell of database, language, transaction and reset', () => {
    const { sink, observer } = start({ database: 'shop' });
    const exchange = (...tokens: Buffer[]): void => {
      observer.client(batch('q'));
      observer.server(response(...tokens, done(0)));
    };
    exchange(
      environment(1, 'shop', 'master'),
      environment(1, 'other', 'shop'),
      environment(2, 'Deutsch', 'us_english'),
    );
    expect(observer.transaction).toBe('idle');
    exchange(environment(8, Buffer.alloc(8, 1), Buffer.alloc(0)));
    expect(observer.transaction).toBe('active');
    exchange(environment(12, Buffer.alloc(0), Buffer.alloc(8, 1)));
    expect(observer.transaction).toBe('failed');
    exchange(environment(10, Buffer.alloc(0), Buffer.alloc(8, 1)));
    expect(observer.transaction).toBe('idle');
    exchange(environment(8, Buffer.alloc(8, 1), Buffer.alloc(0)));
    observer.client(batch('q', { first: 0x08 }));
    observer.server(response(environment(18, Buffer.alloc(0)), done(0)));
    expect(observer.transaction).toBe('idle');
    expect(sink.notes).toEqual([
      { kind: 'database_changed', database: 'other' },
      { kind: 'session_changed', what: 'language', value: 'Deutsch' },
      { kind: 'session_changed', what: 'connection', value: 'reset' },
      { kind: 'database_changed', database: 'shop' },
    ]);
    exchange(environment(8, Buffer.alloc(8, 1), Buffer.alloc(0)));
    observer.client(batch('q', { first: 0x10 }));
    observer.server(response(environment(18, Buffer.alloc(0)), done(0)));
    expect(observer.transaction).toBe('active');
    expect(sink.ended.map((statement) => statement.transaction)).toEqual([
      'idle',
      'active',
      'failed',
      'idle',
      'active',
      'idle',
      'active',
      'active',
    ]);
  });

  it('tell of the end of the connection', () => {
    const { observer, sink } = start();
    observer.client(batch('q'));
    observer.server(response(errorToken(4014, 'A fatal error occurred', { class: 20 }), done(2)));
    expect(observer.leaving).toBe('server');
    expect(sink.ended).toMatchObject([{ status: 'error', error: { code: '4014', detail: { class: 20 } } }]);
  });
});

describe('long lists', () => {
  it('of messages and results are cut, and counts stay whole', () => {
    const print = errorToken(0, 'x'.repeat(3000), { token: 0xab, class: 0 });
    const answer = response(
      ...Array.from({ length: 300 }, () => print),
      ...Array.from({ length: 1500 }, () => done(0x11, { command: 0xc3, count: 2 })),
      done(0),
    );
    const { statement } = answered(answer);
    expect(statement.messages).toHaveLength(100);
    expect(statement.messages![0]).toHaveLength(2000);
    expect(statement.results).toHaveLength(1000);
    expect(statement.rowsAffected).toBe(3000);
  });
});
