import { ALLOW, type Sink } from '../protocols/engine.ts';
import { observe } from '../protocols/tds/observe.ts';
import { EVERYTHING, sessionFacts } from '../test/support/tds-capture.ts';
import {
  batch,
  bitmapRow,
  call,
  columns,
  done,
  type EncodedColumn,
  int,
  message,
  nvarchar,
  nvarcharMax,
  response,
  returnStatus,
  returnValue,
  row,
  rpc,
} from '../test/support/tds-encode.ts';

/**
 * What following a SQL Server session costs: nanoseconds within the observer alone for a small round trip, and megabytes
 * of results a second. Run: `node bench/tds-observer.ts`.
 */

const SINK: Sink = {
  toServer() {},
  toClient() {},
  decide: () => ALLOW,
  begin() {},
  end() {},
  note(note) {
    throw new Error(JSON.stringify(note));
  },
};
const OPTIONS = { ...EVERYTHING, sampleRows: 0 };
const INT = int(1).type;
const TEXT = nvarchar('').type;
const SELECT = 'SELECT id, name FROM dbo.users WHERE id = ';

const value = (number: number): Uint8Array => int(number).value;
const text = (characters: string): Uint8Array => nvarchar(characters).value;

const RESULT = [
  columns([
    { name: 'id', type: INT },
    { name: 'name', type: TEXT },
  ]),
  row(value(42), text('Ada Lovelace')),
];
const CALLED = response(
  ...RESULT,
  done(0x11, { token: 0xff, command: 0xc1, count: 1 }),
  returnStatus(0),
  done(0, { token: 0xfe, command: 0xe0 }),
);

const ROUND_TRIPS: readonly { name: string; client: Buffer; server: Buffer }[] = [
  {
    name: 'batch, SELECT of one row',
    client: batch(`${SELECT}42`),
    server: response(...RESULT, done(0x10, { command: 0xc1, count: 1 })),
  },
  {
    name: 'batch, UPDATE',
    client: batch('UPDATE dbo.t SET a = 1'),
    server: response(done(0x10, { command: 0xc5, count: 1 })),
  },
  {
    name: 'sp_executesql, one parameter',
    client: rpc([call(10, [nvarchar(`${SELECT}@id`), nvarchar('@id int'), { name: '@id', ...int(42) }])]),
    server: CALLED,
  },
  { name: 'sp_execute, one parameter', client: rpc([call(12, [int(7), int(42)])]), server: CALLED },
];

/** Nanoseconds on the processor, so that a busy machine counts little. */
function processorTime(work: () => unknown): number {
  const from = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(from);
  return (user + system) * 1000;
}

const ROUNDS = 400_000;

function roundTrips(): void {
  for (const { name, client, server } of ROUND_TRIPS) {
    const observer = observe(SINK, OPTIONS, sessionFacts());
    observer.client(
      rpc([call(11, [{ status: 1, ...int(null) }, nvarchar('@id int'), nvarchar(`${SELECT}@id`)])]),
    );
    observer.server(response(returnStatus(0), returnValue('', int(7)), done(0, { token: 0xfe })));
    const run = (rounds: number): void => {
      for (let round = 0; round < rounds; round++) {
        observer.client(client);
        observer.server(server);
      }
    };
    run(ROUNDS / 4);
    const nanoseconds = processorTime(() => run(ROUNDS)) / ROUNDS;
    console.log(`${name.padEnd(32)} ${nanoseconds.toFixed(0).padStart(8)} ns`);
  }
}

const INTS = Array.from({ length: 10 }, (_, index): EncodedColumn => ({ name: `c${index}`, type: INT }));
const TEXTS = Array.from({ length: 6 }, (_, index): EncodedColumn => ({ name: `s${index}`, type: TEXT }));
const LONG = { name: 'm', type: nvarcharMax('').type };

const RESULTS: readonly { name: string; columns: readonly EncodedColumn[]; row: Buffer }[] = [
  { name: '10 int', columns: INTS, row: row(...INTS.map((_, index) => value(index))) },
  {
    name: '10 int, half of them NULL',
    columns: INTS,
    row: bitmapRow(...INTS.map((_, index) => (index % 2 ? null : value(index)))),
  },
  {
    name: '6 int, 6 nvarchar(12)',
    columns: [...INTS.slice(4), ...TEXTS],
    row: row(...[1, 2, 3, 4, 5, 6].map(value), ...TEXTS.map(() => text('hello world!'))),
  },
  { name: 'nvarchar(max) of 100', columns: [LONG], row: row(nvarcharMax('x'.repeat(100), 8000, true).value) },
  {
    name: 'nvarchar(max) of 500,000',
    columns: [LONG],
    row: row(nvarcharMax('x'.repeat(500_000), 8000, true).value),
  },
];

const RESULT_BYTES = 64_000_000;
const CHUNK_BYTES = 65_536;

function results(): void {
  for (const packetBytes of [4096, 16_383]) {
    for (const shape of RESULTS) {
      const rows = Math.ceil(RESULT_BYTES / shape.row.length);
      const payload = Buffer.concat([
        columns(shape.columns),
        ...Array<Buffer>(rows).fill(shape.row),
        done(0x10, { command: 0xc1, count: rows }),
      ]);
      const bytes = message(4, payload, { packetBytes });
      const observer = observe(SINK, OPTIONS, sessionFacts({ packetBytes }));
      const request = batch('SELECT * FROM dbo.big');
      const run = (): void => {
        observer.client(request);
        for (let at = 0; at < bytes.length; at += CHUNK_BYTES)
          observer.server(bytes.subarray(at, at + CHUNK_BYTES));
      };
      run();
      const nanoseconds = processorTime(() => [run(), run(), run()]) / 3;
      const speed = ((bytes.length / nanoseconds) * 1000).toFixed(0);
      console.log(
        `${shape.name.padEnd(26)} ${String(packetBytes).padStart(5)} ${speed.padStart(8)} MB/s ${((rows / nanoseconds) * 1000).toFixed(1).padStart(6)} M rows/s`,
      );
    }
  }
}

function memory(): void {
  const count = 2000;
  global.gc?.();
  const before = process.memoryUsage().heapUsed;
  const observers = Array.from({ length: count }, () => {
    const observer = observe(SINK, OPTIONS, sessionFacts());
    observer.client(batch('SELECT 1'));
    observer.server(response(...RESULT, done(0x10, { command: 0xc1, count: 1 })));
    return observer;
  });
  global.gc?.();
  const each = (process.memoryUsage().heapUsed - before) / observers.length;
  console.log(
    `an idle session${' '.repeat(17)} ${each.toFixed(0).padStart(8)} bytes of heap${global.gc ? '' : ' (run with --expose-gc)'}`,
  );
}

roundTrips();
results();
memory();
