import { ALLOW, type Sink } from '../protocols/engine.ts';
import { observe } from '../protocols/postgres/observe.ts';
import {
  bind,
  complete,
  describe,
  error,
  execute,
  FACTS,
  int4,
  message,
  parse,
  query,
  ready,
  row,
  sync,
} from '../test/support/postgres-observer.ts';

/**
 * What following a session costs: nanoseconds of processor time per round trip within the observer alone, on byte streams shaped like
 * those of `pgbench -S`. Run: `node bench/postgres-observer.ts`, with `columns` behind it for column names.
 */

const SELECT = 'SELECT abalance FROM pgbench_accounts WHERE aid = 12345;';
const DESCRIPTION = message('T', 1, 'abalance', int4(16385), 3, int4(23), 4, int4(-1), 0);

let begun = 0;
const SINK: Sink = {
  toServer() {},
  toClient() {},
  decide: () => ALLOW,
  begin() {
    begun += 1;
  },
  end() {},
  note(note) {
    throw new Error(JSON.stringify(note));
  },
};

interface Scenario {
  readonly name: string;
  readonly before?: { client: Buffer; server: Buffer };
  readonly client: Buffer;
  readonly server: Buffer;
  readonly roundTrips: number;
}

const ROW = row('0');
const PARSED = message('1');
const BOUND = message('2');

const SCENARIOS: Scenario[] = [
  {
    name: 'simple: Q / T D C Z',
    client: query(SELECT),
    server: Buffer.concat([DESCRIPTION, ROW, complete('SELECT 1'), ready()]),
    roundTrips: 400_000,
  },
  {
    name: 'prepared: B D E S / 2 T D C Z',
    before: {
      client: Buffer.concat([parse('P_0', SELECT.replace('12345', '$1')), sync()]),
      server: Buffer.concat([PARSED, ready()]),
    },
    client: Buffer.concat([bind('', 'P_0', ['12345']), describe('P', ''), execute(''), sync()]),
    server: Buffer.concat([BOUND, DESCRIPTION, ROW, complete('SELECT 1'), ready()]),
    roundTrips: 400_000,
  },
  {
    name: 'extended: P B D E S / 1 2 T D C Z',
    client: Buffer.concat([
      parse('', SELECT.replace('12345', '$1')),
      bind('', '', ['12345']),
      describe('P', ''),
      execute(''),
      sync(),
    ]),
    server: Buffer.concat([PARSED, BOUND, DESCRIPTION, ROW, complete('SELECT 1'), ready()]),
    roundTrips: 400_000,
  },
  {
    name: 'error: Q / E Z',
    client: query('select 1/0'),
    server: Buffer.concat([error('22012', 'division by zero'), ready()]),
    roundTrips: 200_000,
  },
  {
    name: 'rows: Q / T 1000xD C Z (one chunk)',
    client: query(SELECT),
    server: Buffer.concat([DESCRIPTION, ...Array(1000).fill(ROW), complete('SELECT 1000'), ready()]),
    roundTrips: 10_000,
  },
  {
    name: 'pipeline: 100x(B E) S',
    before: {
      client: Buffer.concat([parse('P_0', SELECT.replace('12345', '$1')), sync()]),
      server: Buffer.concat([PARSED, ready()]),
    },
    client: Buffer.concat([
      ...Array(100).fill(Buffer.concat([bind('', 'P_0', ['12345']), execute('')])),
      sync(),
    ]),
    server: Buffer.concat([...Array(100).fill(Buffer.concat([BOUND, ROW, complete('SELECT 1')])), ready()]),
    roundTrips: 5_000,
  },
];

for (const { name, before, client, server, roundTrips } of SCENARIOS) {
  const observer = observe(
    SINK,
    { parameters: true, sampleRows: 0, columns: process.argv[2] === 'columns' },
    FACTS,
  );
  if (before !== undefined) {
    observer.client(before.client);
    observer.server(before.server);
  }
  const turn = (): void => {
    observer.client(client);
    observer.server(server);
    if (observer.busy) throw new Error('the queue is not empty');
  };
  for (let index = 0; index < roundTrips / 5; index += 1) turn();
  const rounds: number[] = [];
  for (let repeat = 0; repeat < 5; repeat += 1) {
    // Time on the processor, so that a busy machine counts little.
    const start = process.cpuUsage();
    for (let index = 0; index < roundTrips / 5; index += 1) turn();
    const { user, system } = process.cpuUsage(start);
    rounds.push(((user + system) * 1000) / (roundTrips / 5));
  }
  rounds.sort((one, other) => one - other);
  console.log(`${name.padEnd(40)} ${rounds[2]!.toFixed(0).padStart(8)} ns  (best ${rounds[0]!.toFixed(0)})`);
}
console.log(`${begun} statements`);
