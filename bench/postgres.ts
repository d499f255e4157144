import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { DEBIAN_BIN, type PostgresServer, startPostgres } from '../test/support/postgres.ts';
import { digits, median, percentile, table } from './lib/figures.ts';
import { type Backend, direct, haproxy, type Peer, pgbouncer, sallyport } from './lib/peers.ts';
import { cpuSince, cpuTime, mainThreadTime, memoryKiB, run } from './lib/process.ts';
import { machineText, writeSection } from './lib/results.ts';

export interface BenchOptions {
  readonly runs: number;
  readonly seconds: number;
  readonly clients: readonly number[];
}

const SCALE = 10;
const MICROSECONDS = 1e6;

interface Sample {
  readonly throughput: number;
  readonly p50: number;
  readonly p99: number;
  readonly user: number;
  readonly system: number;
  /** Of the thread that relays, in µs a round trip. */
  readonly main: number;
}

/** Round trips of a select by primary key: throughput, latency, CPU time of the one in between. */
export async function roundTrips(options: BenchOptions): Promise<void> {
  const { server, backend } = await prepared();
  const peers = [
    direct(backend),
    await haproxy(backend),
    await pgbouncer(backend),
    await sallyport(backend, { recording: 'off' }),
    await sallyport(backend, { recording: 'buffered' }),
    await sallyport(backend, { recording: 'flushed' }),
    await sallyport(backend, {
      recording: 'flushed',
      parameters: false,
      name: 'Sallyport flushed, no parameters',
    }),
    await sallyport(backend, { recording: 'synced' }),
  ];
  const sections = await measured(peers, server, backend, options);
  writeSection(
    'postgres round trips',
    `## PostgreSQL: round trips\n\n\`pgbench -S\`, one thread, ${options.runs} interleaved runs of ${options.seconds} s each.\n\n${await versionsText()}\n\n${sections.join('\n\n')}`,
  );
}

/** The same round trips by what is recorded of them: each level alone, beside no recording at all. */
export async function levels(options: BenchOptions): Promise<void> {
  const { server, backend } = await prepared();
  const level = (name: string, resourceRecording: string): Promise<Peer> =>
    sallyport(backend, { recording: 'flushed', resourceRecording, name: `Sallyport, ${name}` });
  const peers = [
    direct(backend),
    await sallyport(backend, { recording: 'off', name: 'Sallyport, nothing recorded' }),
    await level('statements without parameters', '{ parameters: "off" }'),
    await level('with parameters', '{ parameters: "on" }'),
    await level(
      'parameters and masks',
      `{ parameters: "on", masks: [{ columns: [aid, ssn] }, { pattern: '\\b\\d{4}-\\d{4}-\\d{4}-\\d{4}\\b' }] }`,
    ),
    await level('parameters and 10 sample rows', '{ parameters: "on", sample_rows: 10 }'),
    await level('parameters and raw frames', '{ parameters: "on", raw_frames: true }'),
  ];
  const sections = await measured(peers, server, backend, options);
  writeSection(
    'postgres recording levels',
    `## PostgreSQL: what each level of recording costs\n\n\`pgbench -S\` (results of one row), one thread, ${options.runs} interleaved runs of ${options.seconds} s each; durability \`flushed\`, column names recorded at every level, CPU of all threads of the gateway, sealing and indexing among them. A parameter is bound in the prepared protocol alone; in the simple one the value stands in the text.\n\n${await versionsText()}\n\n${sections.join('\n\n')}`,
  );
}

/** A table for each protocol and number of clients, of runs interleaved between `peers`. Stops peers and server. */
async function measured(
  peers: readonly Peer[],
  server: PostgresServer,
  backend: Backend,
  options: BenchOptions,
): Promise<string[]> {
  const sections: string[] = [];
  try {
    for (const mode of ['simple', 'prepared'] as const) {
      for (const clients of options.clients) {
        const samples = new Map<Peer, Sample[]>(peers.map((peer) => [peer, []]));
        for (let round = 0; round < options.runs; round += 1) {
          for (const peer of peers)
            samples.get(peer)!.push(await select(peer, backend, mode, clients, options.seconds));
        }
        sections.push(
          roundTripTable(`${mode} protocol, ${clients} client${clients === 1 ? '' : 's'}`, peers, samples),
        );
        console.log(sections.at(-1));
      }
    }
  } finally {
    for (const peer of peers) await peer.stop();
    await server.stop();
  }
  return sections;
}

function roundTripTable(
  title: string,
  peers: readonly Peer[],
  samples: ReadonlyMap<Peer, readonly Sample[]>,
): string {
  const of = (peer: Peer, field: keyof Sample): number =>
    median(samples.get(peer)!.map((sample) => sample[field]));
  const cpu = (peer: Peer): number => median(samples.get(peer)!.map((sample) => sample.user + sample.system));
  const reference = peers.find(({ name }) => name === 'PgBouncer') ?? peers[1]!;
  const base = peers[0]!;
  const rows = peers.map((peer) => [
    peer.name,
    digits(of(peer, 'throughput') / of(base, 'throughput')),
    digits(of(peer, 'p50') / of(base, 'p50')),
    digits(of(peer, 'p99') / of(base, 'p99')),
    peer.pids.length === 0 ? '–' : digits(cpu(peer)),
    peer.pids.length === 0 ? '–' : `${digits(of(peer, 'user'))} + ${digits(of(peer, 'system'))}`,
    peer.pids.length === 0 ? '–' : digits(of(peer, 'main')),
    peer.pids.length === 0 ? '–' : digits(cpu(peer) / cpu(reference)),
  ]);
  return `### ${title}\n\n${table(
    [
      '',
      'throughput ÷ direct',
      'p50 ÷ direct',
      'p99 ÷ direct',
      'CPU µs a round trip',
      'user + system',
      'of it, the relaying thread',
      `CPU ÷ ${reference.name}`,
    ],
    rows,
  )}`;
}

export async function select(
  peer: Peer,
  backend: Backend,
  mode: 'simple' | 'prepared',
  clients: number,
  seconds: number,
): Promise<Sample> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-log-'));
  try {
    const before = peer.pids.length > 0 ? cpuTime(peer.pids) : null;
    const mainBefore = mainThreadTime(peer.pids);
    const output = await run(
      join(DEBIAN_BIN, 'pgbench'),
      [
        ...['-n', '-S', '-M', mode, '-c', String(clients), '-j', '1', '-T', String(seconds)],
        ...['-l', '--sampling-rate=0.1', `--log-prefix=${join(folder, 'log')}`],
        ...['-h', '127.0.0.1', '-p', String(peer.port), '-U', backend.user, backend.database],
      ],
      { env: environment(peer) },
    );
    const cpu = before === null ? { user: 0, system: 0 } : cpuSince(peer.pids, before);
    // On a machine that is busy with other things, a short run may not get to its first answer.
    if (!/^tps = /m.test(output))
      throw new Error(`pgbench finished nothing in ${seconds} s: give it more --seconds`);
    const transactions = Number(/number of transactions actually processed: (\d+)/.exec(output)![1]);
    const latencies = readdirSync(folder)
      .flatMap((name) => readFileSync(join(folder, name), 'utf8').trim().split('\n'))
      .map((line) => Number(line.split(' ')[2]));
    return {
      throughput: Number(/^tps = ([\d.]+)/m.exec(output)![1]),
      p50: percentile(latencies, 0.5),
      p99: percentile(latencies, 0.99),
      user: (cpu.user * MICROSECONDS) / transactions,
      system: (cpu.system * MICROSECONDS) / transactions,
      main: ((mainThreadTime(peer.pids) - mainBefore) * MICROSECONDS) / transactions,
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A gigabyte down by COPY and by SELECT, half of one up by COPY. */
export async function bulk(options: BenchOptions): Promise<void> {
  const { server, backend } = await prepared();
  await server.query(
    `CREATE UNLOGGED TABLE bulk AS SELECT n AS id, repeat(md5(n::text), 30) AS body FROM generate_series(1, 250000) n;
     CREATE UNLOGGED TABLE upload (id int, body text); GRANT ALL ON bulk, upload TO PUBLIC`,
  );
  const peers = [
    direct(backend),
    await haproxy(backend),
    await pgbouncer(backend),
    await sallyport(backend, { recording: 'off' }),
    await sallyport(backend, { recording: 'flushed' }),
  ];
  const gigabytes = (250_000 * (30 * 32 + 8)) / 1e9;
  const psql = (peer: Peer, command: string): Promise<string> =>
    run('sh', ['-c', command], {
      env: {
        ...environment(peer),
        PGHOST: '127.0.0.1',
        PGPORT: String(peer.port),
        PGUSER: backend.user,
        PGDATABASE: backend.database,
      },
    });
  const works: [string, string][] = [
    ['down, COPY', 'psql -qXc "copy bulk to stdout" > /dev/null'],
    ['down, SELECT', 'psql -qXAt -v FETCH_COUNT=0 -c "select * from bulk limit 100000" > /dev/null'],
    [
      'up, COPY',
      `head -c 240000000 /dev/zero | tr '\\0' 'x' | fold -w 950 | sed 's/^/1\\t/' | psql -qXc "copy upload from stdin"`,
    ],
  ];
  const sections: string[] = [];
  try {
    for (const [name, command] of works) {
      const volume = name.startsWith('up')
        ? 0.2405
        : name.includes('SELECT')
          ? (gigabytes * 100) / 250
          : gigabytes;
      const times = new Map<Peer, number[]>(peers.map((peer) => [peer, []]));
      const cpus = new Map<Peer, number[]>(peers.map((peer) => [peer, []]));
      for (let round = 0; round < options.runs; round += 1) {
        for (const peer of peers) {
          if (name.startsWith('up')) await server.query('TRUNCATE upload');
          const before = cpuTime(peer.pids);
          const started = performance.now();
          await psql(peer, command);
          times.get(peer)!.push((performance.now() - started) / 1000);
          const cpu = cpuSince(peer.pids, before);
          cpus.get(peer)!.push((cpu.user + cpu.system) / volume);
        }
      }
      const reference = median(cpus.get(peers[1]!)!);
      const rows = peers.map((peer) => [
        peer.name,
        digits(median(times.get(peer)!) / median(times.get(peers[0]!)!)),
        peer.pids.length === 0 ? '–' : digits(median(cpus.get(peer)!)),
        peer.pids.length === 0 ? '–' : digits(median(cpus.get(peer)!) / reference),
      ]);
      sections.push(`### ${name}\n\n${table(['', 'time ÷ direct', 'CPU s a GB', 'CPU ÷ HAProxy'], rows)}`);
      console.log(sections.at(-1));
    }
  } finally {
    for (const peer of peers) await peer.stop();
    await server.stop();
  }
  writeSection(
    'postgres bulk',
    `## PostgreSQL: bulk\n\n${options.runs} interleaved runs.\n\n${await versionsText()}\n\n${sections.join('\n\n')}`,
  );
}

/** New connections a second, each with one select; the server asks every one for SCRAM-SHA-256. */
export async function signIns(options: BenchOptions): Promise<void> {
  const { server, backend } = await prepared();
  const peers = [
    direct(backend),
    await haproxy(backend),
    await pgbouncer(backend, { freshServers: true }),
    await sallyport(backend, { recording: 'off' }),
    await sallyport(backend, { recording: 'flushed' }),
  ];
  const rates = new Map<Peer, number[]>(peers.map((peer) => [peer, []]));
  const cpus = new Map<Peer, number[]>(peers.map((peer) => [peer, []]));
  try {
    for (let round = 0; round < options.runs; round += 1) {
      for (const peer of peers) {
        const before = cpuTime(peer.pids);
        const output = await run(
          join(DEBIAN_BIN, 'pgbench'),
          [
            ...['-n', '-S', '-C', '-c', '8', '-j', '1', '-T', String(options.seconds)],
            ...['-h', '127.0.0.1', '-p', String(peer.port), '-U', backend.user, backend.database],
          ],
          { env: environment(peer) },
        );
        const cpu = cpuSince(peer.pids, before);
        const count = Number(/number of transactions actually processed: (\d+)/.exec(output)![1]);
        rates.get(peer)!.push(Number(/^tps = ([\d.]+)/m.exec(output)![1]));
        cpus.get(peer)!.push(((cpu.user + cpu.system) * MICROSECONDS) / count);
      }
    }
  } finally {
    for (const peer of peers) await peer.stop();
    await server.stop();
  }
  const base = median(rates.get(peers[2]!)!);
  const rows = peers.map((peer) => [
    peer.name,
    digits(median(rates.get(peer)!) / base),
    peer.pids.length === 0 ? '–' : digits(median(cpus.get(peer)!)),
  ]);
  const text = table(['', 'sign-ins a second ÷ PgBouncer', 'CPU µs a sign-in'], rows);
  console.log(text);
  writeSection(
    'postgres sign-ins',
    `## PostgreSQL: sign-ins\n\n\`pgbench -S -C -c 8\`, ${options.runs} interleaved runs of ${options.seconds} s. The server asks every connection for SCRAM-SHA-256; PgBouncer opens a new one each time as well.\n\n${text}`,
  );
}

/** Memory of the one in between for sessions that do nothing. */
export async function idleMemory(counts: readonly number[]): Promise<void> {
  const most = Math.max(...counts);
  const { server, backend } = await prepared({ max_connections: most + 50, shared_buffers: '16MB' });
  const rows: string[][] = [];
  try {
    for (const make of [
      () => haproxy(backend),
      () => pgbouncer(backend),
      () => sallyport(backend, { recording: 'flushed' }),
    ]) {
      const peer = await make();
      const clients: pg.Client[] = [];
      const cells = [peer.name];
      const before = memoryKiB(peer.pids);
      for (const count of counts) {
        while (clients.length < count) {
          const batch = Array.from({ length: Math.min(50, count - clients.length) }, () =>
            client(peer, backend),
          );
          await Promise.all(batch.map((one) => one.connect()));
          clients.push(...batch);
        }
        await new Promise((resolve) => setTimeout(resolve, 3000));
        cells.push(digits((memoryKiB(peer.pids) - before) / count));
      }
      rows.push([...cells, digits(before / 1024)]);
      await Promise.all(clients.map((one) => one.end()));
      await peer.stop();
    }
  } finally {
    await server.stop();
  }
  const text = table(['', ...counts.map((count) => `KiB a session at ${count}`), 'MiB with none'], rows);
  console.log(text);
  writeSection(
    'postgres memory',
    `## PostgreSQL: memory of idle sessions\n\nProportional set size from \`/proc\`, less that before the first.\n\n${text}`,
  );
}

function client(peer: Peer, backend: Backend): pg.Client {
  const one = new pg.Client({
    host: '127.0.0.1',
    port: peer.port,
    user: backend.user,
    database: backend.database,
    ...(peer.password === null ? {} : { password: peer.password }),
  });
  one.on('error', () => {});
  return one;
}

export async function prepared(
  settings: Record<string, string | number> = {},
): Promise<{ server: PostgresServer; backend: Backend }> {
  const server = await startPostgres({
    settings: { log_statement: 'none', log_connections: 'off', max_connections: 300, ...settings },
  });
  const { user, password } = server.accounts.launch;
  const backend: Backend = {
    type: 'postgres',
    port: server.port,
    user,
    password: password!,
    database: server.database,
  };
  await run(
    join(DEBIAN_BIN, 'pgbench'),
    [
      '-i',
      '-q',
      '-s',
      String(SCALE),
      '-h',
      '127.0.0.1',
      '-p',
      String(server.port),
      '-U',
      user,
      server.database,
    ],
    { env: environment({ password }) },
  );
  return { server, backend };
}

function environment(peer: { readonly password: string | null }): NodeJS.ProcessEnv {
  const { PATH, HOME } = process.env;
  return {
    PATH,
    HOME,
    PGSSLMODE: 'disable',
    ...(peer.password === null ? {} : { PGPASSWORD: peer.password }),
  };
}

async function versionsText(): Promise<string> {
  const first = async (command: string, args: string[]): Promise<string> =>
    (await run(command, args)).split('\n')[0]!.replace(/^.*?(\d+\.[\d.]+).*$/, '$1');
  return machineText({
    PostgreSQL: '18',
    HAProxy: await first('haproxy', ['-v']),
    PgBouncer: await first('pgbouncer', ['--version']),
    pgbench: await first(join(DEBIAN_BIN, 'pgbench'), ['--version']),
  });
}
