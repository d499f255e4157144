import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { lending } from '../../test/support/lending.ts';
import { CollectingSink, EVERYTHING, sessionFacts } from '../../test/support/tds-capture.ts';
import {
  call,
  done,
  type EncodedParameter,
  int,
  message,
  nvarchar,
  nvarcharMax,
  response,
  returnStatus,
  returnValue,
  rpc,
  varbinaryMax,
} from '../../test/support/tds-encode.ts';
import { Writer } from '../bytes.ts';
import { observe } from './observe.ts';
import { declaredNames, procedureByName } from './procedures.ts';
import type { TdsVersion } from './session.ts';

interface Vector {
  readonly id: string;
  readonly hex: string;
}

const VECTORS = JSON.parse(
  readFileSync(join(import.meta.dirname, '../../test/golden/tds-vectors.json'), 'utf8'),
) as Vector[];

function vector(id: string): Buffer {
  return Buffer.from(VECTORS.find((entry) => entry.id === id)!.hex, 'hex');
}

function session(version: TdsVersion = '7.4', options: Partial<typeof EVERYTHING> = {}) {
  const sink = new CollectingSink();
  const observer = lending(observe(sink, { ...EVERYTHING, ...options }, sessionFacts({ version })));
  return { sink, observer };
}

/** What is recorded of one RPC message. */
function recorded(bytes: Buffer, version: TdsVersion = '7.4') {
  const { sink, observer } = session(version);
  observer.client(bytes);
  return sink.statements;
}

const handle = (value: number | null): EncodedParameter => ({ status: 1, ...int(value) });

/** The answer to a call that gives handles. */
function gives(...handles: number[]): Buffer {
  return response(
    returnStatus(0),
    ...handles.map((value) => returnValue('', int(value))),
    done(0, { token: 0xfe }),
  );
}

describe('requests of real drivers', () => {
  it('tedious: sp_executesql with named parameters', () => {
    expect(recorded(message(3, vector('lab-tedious-rpc-1')))).toMatchObject([
      {
        kind: 'rpc',
        name: 'sp_executesql',
        text: 'select @a,@b,@d',
        parameters: [
          { name: '@a', type: 'int', value: 5 },
          { name: '@b', type: 'nvarchar(5)', value: 'héllo' },
          { name: '@d', type: 'datetime2(7)' },
        ],
        opaque: false,
      },
    ]);
  });

  it('tedious: sp_prepare, sp_execute, sp_unprepare', () => {
    expect(recorded(message(3, vector('lab-tedious-rpc-2')))).toMatchObject([
      { kind: 'prepare', name: 'sp_prepare', text: 'select @a', parameters: [] },
    ]);
    const { sink, observer } = session();
    observer.client(message(3, vector('lab-tedious-rpc-2')));
    observer.server(gives(0));
    observer.client(message(3, vector('lab-tedious-rpc-3')));
    expect(sink.statements[1]).toMatchObject({
      kind: 'execute',
      name: 'sp_execute',
      parameters: [{ name: '@a', type: 'int', value: 9 }],
    });
    expect(recorded(message(3, vector('lab-tedious-rpc-4')))).toHaveLength(1);
  });

  it('mssql-jdbc: sp_prepexec, and sp_execute of the handle that came back', () => {
    const { sink, observer } = session();
    observer.client(message(3, vector('lab-mssql-jdbc-rpc-2')));
    observer.server(gives(7));
    observer.client(message(3, vector('lab-mssql-jdbc-rpc-3')));
    const text = 'select @P0 as x, @P1 as y';
    expect(sink.statements).toMatchObject([
      {
        kind: 'execute',
        name: 'sp_prepexec',
        parameters: [
          { name: '@P0', type: 'int', value: 1 },
          { name: '@P1', type: 'nvarchar(4000)', value: 'v1' },
        ],
      },
      {
        kind: 'execute',
        name: 'sp_execute',
        parameters: [
          { name: '@P0', type: 'int', value: 2 },
          { name: '@P1', type: 'nvarchar(4000)', value: 'v2' },
        ],
        opaque: false,
      },
    ]);
    expect(sink.statements.map((statement) => statement.text?.trim().replace(/\s+/g, ' '))).toEqual([
      text,
      text,
    ]);
    expect(recorded(message(3, vector('lab-mssql-jdbc-rpc-1')))).toMatchObject([{ name: 'sp_executesql' }]);
    expect(recorded(message(3, vector('lab-mssql-jdbc-rpc-4')))).toMatchObject([{ text: 'prepared #7' }]);
  });

  it('python-tds: statements of unknown length', () => {
    expect(recorded(message(3, vector('lab-pytds-rpc-1')))).toMatchObject([
      {
        text: 'select @P1,@P2',
        parameters: [
          { name: '@P1', type: 'int', value: 5 },
          { name: '@P2', type: 'nvarchar(max)', value: 'abc' },
        ],
      },
    ]);
  });

  it('jTDS: TDS 7.1, without headers', () => {
    const { sink, observer } = session('7.1');
    observer.client(message(3, vector('lab-jtds-rpc-1')));
    observer.server(
      response(
        returnStatus(0),
        returnValue('', int(7), { wide: false }),
        done(0, { token: 0xfe, wide: false }),
      ),
    );
    observer.client(message(3, vector('lab-jtds-rpc-2')));
    expect(sink.statements).toMatchObject([
      { kind: 'prepare', text: 'select  @P0 , @P1 ' },
      {
        kind: 'execute',
        text: 'select  @P0 , @P1 ',
        parameters: [
          { name: '@P0', type: 'int', value: 3 },
          { name: '@P1', type: 'nvarchar(4000)', value: 'q' },
        ],
      },
    ]);
  });

  it('transaction manager requests', () => {
    const { sink, observer } = session();
    for (const id of ['lab-tedious-transmgr-1', 'lab-tedious-transmgr-2', 'lab-pytds-transmgr-1']) {
      observer.client(message(0x0e, vector(id)));
      observer.server(response(done(0)));
    }
    expect(sink.statements).toMatchObject([
      {
        kind: 'command',
        text: 'BEGIN TRANSACTION',
        name: 't1',
        parameters: [{ name: 'isolation_level', value: 'read committed' }],
      },
      { kind: 'command', text: 'COMMIT TRANSACTION', name: null },
      { kind: 'command', text: 'BEGIN TRANSACTION', name: null },
    ]);
    const save = Buffer.concat([
      vector('lab-tedious-transmgr-2').subarray(0, 22),
      Buffer.from([9, 0, 4, 0x73, 0, 0x70, 0]),
    ]);
    observer.client(message(0x0e, save));
    expect(sink.statements[3]).toMatchObject({ text: 'SAVE TRANSACTION', name: 'sp' });
  });
});

describe('calls', () => {
  it('by name are system procedures in any spelling', () => {
    for (const name of [
      'sp_executesql',
      'SP_ExecuteSQL',
      'sys.sp_executesql',
      '[sys].[sp_executesql]',
      'master..sp_executesql',
      'master.dbo.sp_executesql;1',
      '"sp_executesql"',
    ]) {
      expect(recorded(rpc([call(name, [nvarchar('select 1')])]))).toMatchObject([{ name, text: 'select 1' }]);
    }
    expect(procedureByName('dbo.sp_executesql_2')).toBeNull();
  });

  it('find the statement by its name where parameters are out of order', () => {
    const named = (name: string, text: string): EncodedParameter => ({ name, ...nvarchar(text) });
    const bytes = rpc([
      call('sp_executesql', [
        named('@params', '@a int'),
        named('@stmt', 'select @a'),
        { name: '@a', ...int(1) },
      ]),
    ]);
    expect(recorded(bytes)).toMatchObject([{ text: 'select @a', parameters: [{ name: '@a', value: 1 }] }]);
    // A value of that name behind the statement is a value.
    const value = rpc([
      call(10, [nvarchar('select @stmt'), nvarchar('@stmt nvarchar(9)'), named('@stmt', 'drop')]),
    ]);
    expect(recorded(value)).toMatchObject([
      { text: 'select @stmt', parameters: [{ name: '@stmt', value: 'drop' }] },
    ]);
  });

  it('of other procedures show name, parameters, outputs and return status', () => {
    const { sink, observer } = session();
    observer.client(
      rpc([
        call('dbo.p_out', [
          { name: '@a', ...int(21) },
          { name: '@o', status: 1, ...int(null) },
          { name: '@d', status: 2, ...int(null) },
        ]),
      ]),
    );
    observer.server(response(returnStatus(5), returnValue('@o', int(42)), done(0, { token: 0xfe })));
    expect(sink.ended).toMatchObject([
      {
        kind: 'rpc',
        text: null,
        name: 'dbo.p_out',
        parameters: [
          { name: '@a', type: 'int', value: 21 },
          { name: '@o', type: 'int', value: null },
          { name: '@d', type: 'int', value: { default: true } },
        ],
        outputs: [{ name: '@o', type: 'int', value: 42 }],
        returnStatus: 5,
        status: 'ok',
      },
    ]);
  });

  it('are forgotten with their handle: by unprepare, and by a reset', () => {
    const { sink, observer } = session();
    const execute = (options = {}) => {
      observer.client(rpc([call(12, [int(3), int(1)])], options));
      observer.server(response(returnStatus(0), done(0, { token: 0xfe })));
    };
    const prepare = () => {
      observer.client(rpc([call(11, [handle(null), nvarchar('@x int'), nvarchar('select @x'), int(1)])]));
      observer.server(gives(3));
    };
    prepare();
    execute();
    observer.client(rpc([call(15, [int(3)])]));
    observer.server(response(returnStatus(0), done(0, { token: 0xfe })));
    execute();
    prepare();
    execute({ first: 0x08 });
    expect(sink.statements.map(({ name, text, opaque }) => [name, text, opaque])).toEqual([
      ['sp_prepare', 'select @x', false],
      ['sp_execute', 'select @x', false],
      ['sp_unprepare', 'select @x', false],
      ['sp_execute', 'prepared #3', true],
      ['sp_prepare', 'select @x', false],
      ['sp_execute', 'prepared #3', true],
    ]);
  });

  it('of cursors are known by their handle', () => {
    const { sink, observer } = session();
    observer.client(
      rpc([
        call(2, [
          handle(null),
          nvarchar('select * from t where a=@a'),
          handle(1),
          handle(1),
          handle(0),
          nvarchar('@a int'),
          int(9),
        ]),
      ]),
    );
    observer.server(gives(180_150_003, 1, 1, 40));
    observer.client(rpc([call(7, [int(180_150_003), int(2), int(0), int(128)])]));
    observer.server(response(returnStatus(0), done(0, { token: 0xfe })));
    observer.client(rpc([call(9, [int(180_150_003)])]));
    observer.server(response(returnStatus(0), done(0, { token: 0xfe })));
    observer.client(rpc([call(7, [int(180_150_003), int(2), int(0), int(128)])]));
    expect(sink.statements).toMatchObject([
      {
        name: 'sp_cursoropen',
        kind: 'execute',
        text: 'select * from t where a=@a',
        parameters: [{ name: '@a', value: 9 }],
        outputs: null,
      },
      {
        name: 'sp_cursorfetch',
        text: 'select * from t where a=@a',
        parameters: [
          { name: '@fetchtype', value: 2 },
          { name: '@rownum', value: 0 },
          { name: '@nrows', value: 128 },
        ],
      },
      { name: 'sp_cursorclose', text: 'select * from t where a=@a' },
      { name: 'sp_cursorfetch', text: 'cursor #180150003', opaque: true },
    ]);
  });

  it('of prepared cursors: sp_cursorprepexec, sp_cursorprepare, sp_cursorexecute', () => {
    const { sink, observer } = session();
    const text = 'select @n';
    observer.client(
      rpc([
        call(5, [
          handle(null),
          handle(null),
          nvarchar('@n int'),
          nvarchar(text),
          handle(1),
          handle(1),
          handle(0),
          int(4),
        ]),
      ]),
    );
    observer.server(gives(11, 22, 1, 1, 3));
    observer.client(rpc([call(4, [int(11), handle(null), handle(1), handle(1), handle(0), int(5)])]));
    observer.server(gives(23, 1, 1, 3));
    observer.client(rpc([call(7, [int(22), int(2), int(0), int(1)])]));
    observer.server(response(done(0, { token: 0xfe })));
    observer.client(rpc([call(7, [int(23), int(2), int(0), int(1)])]));
    expect(sink.statements.map((statement) => statement.text)).toEqual([text, text, text, text]);
    expect(sink.statements[1]!.parameters).toEqual([{ name: '@n', type: 'int', value: 5 }]);
  });

  it('several in one message are several statements with one answer', () => {
    for (const [version, wide] of [
      ['7.4', true],
      ['7.1', false],
    ] as const) {
      const { sink, observer } = session(version);
      observer.client(
        rpc([call('dbo.a', [int(1)]), call(10, [nvarchar('select 2')]), call('dbo.c', [])], { wide }),
      );
      expect(sink.statements.map(({ name, text }) => text ?? name)).toEqual(['dbo.a', 'select 2', 'dbo.c']);
      observer.server(
        response(
          done(0x11, { token: 0xff, command: 0xc5, count: 5, wide }),
          returnStatus(1),
          done(0x81, { token: 0xfe, wide }),
          returnStatus(2),
          done(0x83, { token: 0xfe, wide }),
          done(0x11, { token: 0xff, command: 0xc3, count: 7, wide }),
          returnStatus(3),
          done(0, { token: 0xfe, wide }),
        ),
      );
      expect(sink.ended).toMatchObject([
        { name: 'dbo.a', status: 'ok', rowsAffected: 5, returnStatus: 1 },
        { text: 'select 2', status: 'error', rowsAffected: null, returnStatus: 2 },
        { name: 'dbo.c', status: 'ok', rowsAffected: 7, returnStatus: 3 },
      ]);
      expect(observer.busy).toBe(false);
    }
  });

  it('with a table show its columns and how many rows it has', () => {
    const table = (rows: number | null, order = false): EncodedParameter => {
      const type = new Writer()
        .uint8(0xf3)
        .uint8(0)
        .uint8(3)
        .text('dbo', 'utf16le')
        .uint8(2)
        .text('tt', 'utf16le');
      if (rows === null)
        return { name: '@t', type: type.uint16le(0xffff).uint8(0).take(), value: Buffer.from([0]) };
      type.uint16le(3);
      type.uint32le(0).uint16le(0).append(int(1).type).uint8(1).text('a', 'utf16le');
      type.uint32le(0).uint16le(0).append(nvarcharMax('').type).uint8(1).text('s', 'utf16le');
      type.uint32le(0).uint16le(0x200).append(int(1).type).uint8(1).text('d', 'utf16le');
      if (order)
        type.uint8(0x10).uint16le(1).uint16le(1).uint8(1).uint8(0x11).uint16le(2).uint16le(1).uint16le(2);
      type.uint8(0);
      const value: Uint8Array[] = [];
      for (let row = 0; row < rows; row++)
        value.push(Buffer.from([1]), int(row).value, nvarcharMax('x'.repeat(row), 3).value);
      return { name: '@t', type: type.take(), value: Buffer.concat([...value, Buffer.from([0])]) };
    };
    for (const [rows, order] of [
      [0, false],
      [3, true],
      [200, false],
    ] as const) {
      const bytes = rpc([call('dbo.p', [table(rows, order), { name: '@z', ...int(1) }])]);
      expect(recorded(bytes)).toMatchObject([
        {
          parameters: [
            { name: '@t', type: 'dbo.tt', value: { columns: ['a int', 's nvarchar(max)', 'd int'], rows } },
            { name: '@z', value: 1 },
          ],
          opaque: false,
        },
      ]);
    }
    expect(recorded(rpc([call('dbo.p', [table(null)])]))).toMatchObject([
      { parameters: [{ type: 'dbo.tt', value: null }] },
    ]);
  });

  it('with an encrypted value say so and no more', () => {
    const trailer = new Writer()
      .append(int(1).type)
      .uint8(2)
      .uint8(1)
      .zeros(4 + 4 + 4 + 8)
      .uint8(1)
      .take();
    const encrypted = { name: '@e', status: 8, ...varbinaryMax(Buffer.alloc(65, 0xcc)), trailer };
    expect(recorded(rpc([call('dbo.p', [encrypted, { name: '@z', ...int(1) }])]))).toMatchObject([
      {
        parameters: [
          { name: '@e', type: 'varbinary(max)', value: { encrypted: true, bytes: 65 } },
          { name: '@z', value: 1 },
        ],
      },
    ]);
  });

  it('keep no values when parameters are not recorded, and still know handles', () => {
    const { sink, observer } = session('7.4', { parameters: false });
    observer.client(rpc([call(13, [handle(null), nvarchar('@x int'), nvarchar('select @x'), int(1)])]));
    observer.server(gives(3));
    observer.client(rpc([call(12, [int(3), int(1)])]));
    expect(sink.statements).toMatchObject([
      { text: 'select @x', parameters: null },
      { text: 'select @x', parameters: null },
    ]);
  });

  it('with something unknown in them pass as opaque', () => {
    const strange = rpc([call('dbo.p', [{ name: '@x', type: Buffer.from([0x99]), value: Buffer.alloc(9) }])]);
    const { sink, observer } = session();
    observer.client(strange);
    observer.server(response(done(0, { token: 0xfe })));
    expect(sink.sent).toEqual(strange);
    expect(sink.ended).toMatchObject([{ name: 'dbo.p', text: null, opaque: true, status: 'ok' }]);
    expect(sink.notes).toMatchObject([{ kind: 'opaque' }]);
    // Headers longer than the message, an empty message, a message that ends in a value.
    for (const payload of [
      Buffer.from('ffffff7f', 'hex'),
      Buffer.alloc(0),
      vector('lab-tedious-rpc-1').subarray(0, 200),
    ]) {
      observer.client(message(3, payload));
      observer.server(response(done(0, { token: 0xfe })));
      expect(sink.ended.at(-1)).toMatchObject({ opaque: true, status: 'ok' });
    }
    observer.client(rpc([call('dbo.q', [])]));
    expect(sink.statements.at(-1)).toMatchObject({ name: 'dbo.q', opaque: false });
  });

  it('read the same wherever they are cut into packets', () => {
    const calls = [
      call(10, [
        nvarcharMax('select @a, @b', 5),
        nvarchar('@a int, @b nvarchar(max)'),
        { name: '@a', ...int(-1) },
        nvarcharMax('wörld', 3),
      ]),
      call('dbo.p', [{ name: '@x', status: 1, ...int(null) }]),
    ];
    const whole = JSON.stringify(recorded(rpc(calls)).map(({ bytesSent: _sent, ...rest }) => rest));
    fc.assert(
      fc.property(fc.integer({ min: 9, max: 60 }), (packetBytes) => {
        const { sink, observer } = session();
        const bytes = rpc(calls, { packetBytes });
        for (const byte of bytes) observer.client(Buffer.from([byte]));
        expect(JSON.stringify(sink.statements.map(({ bytesSent: _sent, ...rest }) => rest))).toBe(whole);
        expect(sink.sent).toEqual(bytes);
      }),
      { numRuns: 30 },
    );
  });
});

describe('declarations', () => {
  it('give their names in order', () => {
    expect(declaredNames('@a int, @b decimal(10, 2) output,@c nvarchar(max)')).toEqual(['@a', '@b', '@c']);
    expect(declaredNames('')).toEqual([]);
    expect(declaredNames('@P1 [a,b].t readonly, @P2 int')).toEqual(['@P1', '@P2']);
  });
});
