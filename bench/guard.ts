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

/** Opens all sessions, has each run a statement, and closes them; gives the memory while they were open, in KiB. */
async function openAndClose(peer: Peer): Promise<number> {
  const clients = Array.from({ length: SESSIONS }, () => {
    const client = new pg.Client({
      host: '127.0.0.1',
      port: peer.port,
      user: 'anybody',
      database: backend.database,
    });
    client.on('error', () => {});
    return client;
  });
  for (let first = 0; first < clients.length; first += 25)
    await Promise.all(clients.slice(first, first + 25).map((client) => client.connect()));
  await Promise.all(clients.map((client) => client.query('select 1')));
  const open = memoryKiB(peer.pids);
  await Promise.all(clients.map((client) => client.end()));
  return open;
}
