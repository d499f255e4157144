import { setTimeout as sleep } from 'node:timers/promises';
import { digits, table } from './lib/figures.ts';
import { atRest } from './lib/load.ts';
import { type Backend, haproxy, type Peer, pgbouncer, sallyport } from './lib/peers.ts';
import { memoryKiB, startServer } from './lib/process.ts';
import { machineText, Section, versionsOf } from './lib/results.ts';
import { type IdleSession, openMysql, openPostgres, openTds } from './lib/sessions.ts';
import { ACCOUNT } from './lib/tds.ts';
import { mysqlVersionsText, preparedMysql, routerIfThere } from './mysql.ts';

/** Sessions that come and go before anything is counted: code is compiled, and the heap has grown once. */
const WARM_UP_SESSIONS = 200;
const WARM_UP_STATEMENTS = 20;
/** Sign-ins under way at once. */
const AT_ONCE = 25;
const SETTLE_MS = 2_000;
const HOW_TEXT = `Proportional set size by \`/proc\`, one run. ${WARM_UP_SESSIONS} sessions with ${WARM_UP_STATEMENTS} statements each come and go first (“warm”); then every session runs two statements and stays. “From the start” also counts what the process took for good when it warmed up.`;

/** Idle sessions before a server that only talks: thousands of real backends would not fit beside. */
export async function postgresMemory(counts: readonly number[]): Promise<void> {
  const server = await startServer('postgres-server');
  const backend: Backend = {
    type: 'postgres',
    port: server.port,
    user: 'bench',
    password: '',
    database: 'bench',
  };
  const section = new Section('postgres memory', [
    '## PostgreSQL: memory of idle sessions',
    `${HOW_TEXT} The server is a double that answers by rote, without a password and in the clear.`,
    machineText(versionsOf(['HAProxy', 'PgBouncer'])),
  ]);
  try {
    await idleMemory(
      section,
      [
        () => haproxy(backend),
        () => pgbouncer(backend),
        () => sallyport(backend, { recording: 'off' }),
        () => sallyport(backend, { recording: 'flushed' }),
      ],
      counts,
      (peer) => openPostgres(peer, backend),
    );
  } finally {
    await server.stop();
  }
}

export async function tdsMemory(counts: readonly number[]): Promise<void> {
  const server = await startServer('tds-server');
  const backend: Backend = { type: 'sqlserver', port: server.port, ...ACCOUNT };
  const section = new Section('sql server memory', [
    '## SQL Server (test double): memory of idle sessions',
    `${HOW_TEXT} In the clear.`,
    machineText(versionsOf(['HAProxy'])),
  ]);
  try {
    await idleMemory(
      section,
      [() => haproxy(backend), () => sallyport(backend, { recording: 'flushed' })],
      counts,
      openTds,
    );
  } finally {
    await server.stop();
  }
}

export async function mysqlMemory(counts: readonly number[]): Promise<void> {
  const prepared = await preparedMysql();
  const { server, backend } = prepared;
  await server.run(`SET GLOBAL max_connections = ${Math.max(...counts) + 100}`);
  const section = new Section('mysql memory', [
    `## ${prepared.name}: memory of idle sessions`,
    `${HOW_TEXT} In the clear, before a real server.`,
    mysqlVersionsText(prepared),
  ]);
  try {
    await idleMemory(
      section,
      [
        () => haproxy(backend),
        async () => (await routerIfThere(backend))[0] ?? null,
        () => sallyport(backend, { recording: 'flushed' }),
      ],
      counts,
      (peer) => openMysql(peer, backend),
    );
  } finally {
    await server.stop();
  }
}

/** One row for each peer, one after another, each with the machine to itself. */
async function idleMemory(
  section: Section,
  makers: readonly (() => Promise<Peer | null>)[],
  counts: readonly number[],
  open: (peer: Peer) => Promise<IdleSession>,
): Promise<void> {
  const rows: string[][] = [];
  for (const make of makers) {
    const peer = await make();
    if (peer === null) continue;
    try {
      rows.push([peer.name, ...(await cellsOf(peer, counts, open))]);
    } finally {
      await peer.stop();
    }
  }
  const first = counts[0] ?? 0;
  const last = counts.at(-1) ?? 0;
  section.add(
    null,
    table(
      [
        '',
        'MiB at the start',
        'MiB warm',
        ...counts.map((count) => `KiB a session at ${count}`),
        ...(first === last ? [] : [`KiB for each from ${first} to ${last}`]),
        `KiB a session at ${last}, from the start`,
        'MiB when all have gone',
      ],
      rows,
    ),
  );
}

async function cellsOf(
  peer: Peer,
  counts: readonly number[],
  open: (peer: Peer) => Promise<IdleSession>,
): Promise<string[]> {
  const atStart = memoryKiB(peer.pids);
  const passing: IdleSession[] = [];
  await fill(passing, WARM_UP_SESSIONS, () => open(peer));
  for (let count = 0; count < WARM_UP_STATEMENTS; count += 1) await each(passing, (one) => one.statement());
  await each(passing, (one) => one.close());
  await settled(peer);
  const warm = memoryKiB(peer.pids);
  const sessions: IdleSession[] = [];
  const measured: number[] = [];
  for (const count of counts) {
    await fill(sessions, count, () => open(peer));
    for (let round = 0; round < 2; round += 1) await each(sessions, (one) => one.statement());
    await settled(peer);
    measured.push(memoryKiB(peer.pids));
  }
  await each(sessions, (one) => one.close());
  await settled(peer);
  const [first, last] = [counts[0]!, counts.at(-1)!];
  return [
    digits(atStart / 1024),
    digits(warm / 1024),
    ...counts.map((count, index) => digits((measured[index]! - warm) / count)),
    ...(first === last ? [] : [digits((measured.at(-1)! - measured[0]!) / (last - first))]),
    digits((measured.at(-1)! - atStart) / last),
    digits(memoryKiB(peer.pids) / 1024),
  ];
}

async function fill(sessions: IdleSession[], count: number, open: () => Promise<IdleSession>): Promise<void> {
  while (sessions.length < count) {
    const more = Array.from({ length: Math.min(AT_ONCE, count - sessions.length) }, open);
    sessions.push(...(await Promise.all(more)));
  }
}

async function each(
  sessions: readonly IdleSession[],
  work: (session: IdleSession) => Promise<void>,
): Promise<void> {
  for (let at = 0; at < sessions.length; at += AT_ONCE)
    await Promise.all(sessions.slice(at, at + AT_ONCE).map(work));
}

/** What was under way is done, and what is idle has been so for a while. */
async function settled(peer: Peer): Promise<void> {
  await sleep(SETTLE_MS);
  await atRest(peer);
}
