import pg from 'pg';
import { digits, median, table } from './lib/figures.ts';
import { haproxy, type Peer, sallyport } from './lib/peers.ts';
import { memoryKiB } from './lib/process.ts';
import { prepared, select } from './postgres.ts';

/**
 * A quick look for slips: a minute, as part of the tests. It prints its figures and fails only on what no noise explains:
 * the limits are about twice what a quiet machine gives. Ratios are against HAProxy in the same run.
 */

const RUNS = 3;
const SECONDS = 2;
const CLIENTS = 8;
const SESSIONS = 200;

/** CPU time of a recorded round trip, sealing included, as a multiple of HAProxy's. */
const CPU_RATIO_MAX = 8;
/** What the relaying thread allocates on its heap for a recorded round trip, in KiB. */
const ALLOCATED_KIB_MAX = 16;
/** Round trips between two looks at the heap, few enough for most looks to see no collection between them; and how many looks. */
const ALLOCATION_ROUND_TRIPS = 1_000;
const ALLOCATION_LOOKS = 15;
/** Memory that stays per session after all have gone, in KiB. */
const RETAINED_KIB_MAX = 100;
/** Memory of one idle session, in KiB. */
const IDLE_KIB_MAX = 200;

const { server, backend } = await prepared();
const peers = [await haproxy(backend), await sallyport(backend, { recording: 'flushed' })];
const rows: string[][] = [];
const failures: string[] = [];
try {
  const cpu = new Map<Peer, number[]>(peers.map((peer) => [peer, []]));
  for (let round = 0; round < RUNS; round += 1) {
    for (const peer of peers) {
      const sample = await select(peer, backend, 'simple', CLIENTS, SECONDS);
      cpu.get(peer)!.push(sample.total);
    }
  }
  const [reference, ours] = peers.map((peer) => median(cpu.get(peer)!)) as [number, number];
  check('CPU of a recorded round trip ÷ HAProxy', ours / reference, CPU_RATIO_MAX);

  const gateway = peers[1]!;
  check('KiB allocated for a round trip', await allocatedKiB(gateway), ALLOCATED_KIB_MAX);
  // The first round warms caches up: what it leaves is no leak.
  await openAndClose(gateway);
  const before = memoryKiB(gateway.pids);
  const idle = await openAndClose(gateway);
  const after = memoryKiB(gateway.pids);
  check('KiB of an idle session', (idle - before) / SESSIONS, IDLE_KIB_MAX);
  check('KiB kept of a session that ended', (after - before) / SESSIONS, RETAINED_KIB_MAX);
} finally {
  for (const peer of peers) await peer.stop();
  await server.stop();
}

console.log(table(['', 'measured', 'limit'], rows));
for (const failure of failures) console.error(failure);
process.exit(failures.length === 0 ? 0 : 1);

function check(what: string, value: number, limit: number): void {
  rows.push([what, digits(value), digits(limit)]);
  if (value > limit) failures.push(`${what}: ${digits(value)} is over ${digits(limit)}`);
}

/**
 * Growth of the heap by a round trip, the median of the looks between which nothing was collected. What a look itself
 * allocates is taken off.
 */
async function allocatedKiB(peer: Peer): Promise<number> {
  const client = clientOf(peer);
  await client.connect();
  const found: number[] = [];
  try {
    for (let look = 0; look < ALLOCATION_LOOKS; look += 1) {
      const before = await heapOf(peer);
      const start = await heapOf(peer);
      for (let count = 0; count < ALLOCATION_ROUND_TRIPS; count += 1)
        await client.query(`select ${count} + ${look}`);
      const end = await heapOf(peer);
      if (end.collections !== before.collections) continue;
      found.push((end.used - start.used - (start.used - before.used)) / ALLOCATION_ROUND_TRIPS / 1024);
    }
  } finally {
    await client.end();
  }
  if (found.length === 0)
    throw new Error(`the heap was collected within ${ALLOCATION_ROUND_TRIPS} round trips, each time`);
  return median(found);
}

/** Of the gateway's relaying thread, by its metrics. */
async function heapOf({ httpPort }: Peer): Promise<{ used: number; collections: number }> {
  const text = await (await fetch(`http://127.0.0.1:${httpPort}/metrics`)).text();
  const sum = (name: RegExp): number =>
    [...text.matchAll(name)].reduce((total, [, value]) => total + Number(value), 0);
  return {
    used: sum(/^sallyport_nodejs_heap_space_size_used_bytes\{.*\} (\S+)$/gm),
    collections: sum(/^sallyport_nodejs_gc_duration_seconds_count\{.*\} (\S+)$/gm),
  };
}

function clientOf(peer: Peer): pg.Client {
  const client = new pg.Client({
    host: '127.0.0.1',
    port: peer.port,
    user: 'anybody',
    database: backend.database,
  });
  client.on('error', () => {});
  return client;
}

/** Opens all sessions, has each run a statement, and closes them; gives the memory while they were open, in KiB. */
async function openAndClose(peer: Peer): Promise<number> {
  const clients = Array.from({ length: SESSIONS }, () => clientOf(peer));
  for (let first = 0; first < clients.length; first += 25)
    await Promise.all(clients.slice(first, first + 25).map((client) => client.connect()));
  await Promise.all(clients.map((client) => client.query('select 1')));
  const open = memoryKiB(peer.pids);
  await Promise.all(clients.map((client) => client.end()));
  return open;
}
