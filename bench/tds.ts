import { fileURLToPath } from 'node:url';
import { digits } from './lib/figures.ts';
import { atRest, interleaved, type Loaded, loaded } from './lib/load.ts';
import { type Backend, direct, haproxy, type Peer, sallyport } from './lib/peers.ts';
import { startServer } from './lib/process.ts';
import { machineText, Section, versionsOf } from './lib/results.ts';
import { addRoundTrips, type BenchOptions, COLUMNS_TEXT, type RoundTripSample } from './lib/round-trips.ts';
import { makeTls, signInSample, signInTable } from './lib/sign-ins.ts';
import { ACCOUNT, BULK_BYTES, WINDOWS_DOMAIN } from './lib/tds.ts';
import type { TdsLoadResult } from './lib/tds-load.ts';
import { perWork } from './lib/usage.ts';
import { BULK_COLUMNS_TEXT, bulkTable, transferred } from './postgres-bulk.ts';

const LOAD = fileURLToPath(new URL('lib/tds-load.ts', import.meta.url));
const SIGN_IN_CLIENTS = 8;

const DOUBLE_TEXT =
  'There is no SQL Server here: the server is a test double that signs clients in and answers by rote, the load generator a process of Node that sends recorded requests and looks at packet headers alone. Both take some 10 µs a round trip, so throughput and latency say little; CPU time of the one in between says what it says elsewhere.';

/** Small SQLBatch and sp_executesql requests. */
export async function roundTrips(options: BenchOptions): Promise<void> {
  const { backend, stop } = await startDouble();
  const balancer = await haproxy(backend);
  const main = [
    direct(backend),
    balancer,
    await sallyport(backend, { recording: 'off' }),
    await sallyport(backend, { recording: 'flushed' }),
  ];
  const variants = {
    batch: await sallyport(backend, {
      recording: 'flushed',
      resourceRecording: '{ sample_rows: 10 }',
      name: 'Sallyport flushed, 10 sample rows',
    }),
    rpc: await sallyport(backend, {
      recording: 'flushed',
      parameters: false,
      name: 'Sallyport flushed, no parameters',
    }),
  };
  const section = new Section('sql server round trips', [
    '## SQL Server (test double): round trips',
    `${options.runs} interleaved runs of ${options.seconds} s behind a warm-up; in the clear. ${DOUBLE_TEXT} ${COLUMNS_TEXT}`,
    tdsVersionsText(),
  ]);
  try {
    for (const [work, title] of [
      ['batch', 'SQLBatch'],
      ['rpc', 'RPC, sp_executesql with one parameter'],
    ] as const)
      await addRoundTrips(section, options, {
        title,
        peers: main,
        variants: [variants[work]],
        reference: balancer,
        isMain: work === 'batch',
        measure: (peer, clients) => select(peer, work, clients, options.seconds),
      });
  } finally {
    for (const peer of [...main, ...Object.values(variants)]) await peer.stop();
    await stop();
  }
}

/** A large result down and a bulk load up. */
export async function bulk(options: BenchOptions): Promise<void> {
  const { backend, stop } = await startDouble();
  const peers = [
    direct(backend),
    await haproxy(backend),
    await sallyport(backend, { recording: 'off' }),
    await sallyport(backend, { recording: 'flushed' }),
  ];
  const section = new Section('sql server bulk', [
    '## SQL Server (test double): bulk',
    `Packets of 4096 bytes, ${options.runs} interleaved runs. ${DOUBLE_TEXT} ${BULK_COLUMNS_TEXT}`,
    tdsVersionsText(),
  ]);
  try {
    for (const [work, title] of [
      ['down', 'down, one result'],
      ['up', 'up, INSERT BULK'],
    ] as const) {
      const samples = await interleaved(peers, options.runs, (peer) =>
        transferred(peer, async () => {
          const { result, cpu } = await load(peer, work, 1, options.seconds);
          return { seconds: result.seconds, cpu };
        }),
      );
      section.add(`${title}, ${digits(BULK_BYTES / 1e6)} MB`, bulkTable(samples, options.runs, BULK_BYTES));
    }
  } finally {
    for (const peer of peers) await peer.stop();
    await stop();
  }
}

/** How clients and the one in between sign in. `asks` is the server's setting, `settings` the resource's. */
const SIGN_INS = [
  { title: 'SQL login, in the clear', work: 'signin', asks: 'off', settings: null },
  {
    title: 'SQL login, TLS for the login alone on both sides',
    work: 'login',
    asks: 'login-only',
    settings: { encryption: 'login-only' },
  },
  { title: 'SQL login, TLS on both sides', work: 'tls', asks: 'required', settings: { encryption: 'on' } },
  {
    title: 'SQL login, TLS first on both sides (TDS 8.0)',
    work: 'strict',
    asks: 'strict',
    settings: { encryption: 'strict' },
  },
  {
    title: 'NTLMv2 by Sallyport (a SQL login by the others), TLS on both sides',
    work: 'tls',
    asks: 'required',
    settings: { encryption: 'on', windowsDomain: WINDOWS_DOMAIN },
  },
] as const;

/** New connections a second, each with one batch, by encryption and method. */
export async function signIns(options: BenchOptions): Promise<void> {
  const certificate = await makeTls();
  const { ca, cert, key } = certificate.files;
  const section = new Section('sql server sign-ins', [
    '## SQL Server (test double): sign-ins',
    `${SIGN_IN_CLIENTS} at once, one batch each, ${options.runs} interleaved runs of ${options.seconds} s. Named is how Sallyport, or the client, signs in to the server; clients of Sallyport need no password. With TLS the client is tedious, whose own work is most of what limits the rate. ${DOUBLE_TEXT}`,
    tdsVersionsText(),
  ]);
  try {
    for (const { title, work, asks, settings } of SIGN_INS) {
      const { backend, stop } = await startDouble(settings === null ? [] : [asks, cert, key]);
      const tls = settings === null ? {} : { tls: certificate.files, sqlServer: settings };
      const balancer = await haproxy(backend);
      const peers = [
        direct(backend),
        balancer,
        await sallyport(backend, { recording: 'off', ...tls }),
        await sallyport(backend, { recording: 'flushed', ...tls }),
      ];
      try {
        const samples = await interleaved(peers, options.runs, async (peer) => {
          const { result, cpu, measured } = await load(peer, work, SIGN_IN_CLIENTS, options.seconds, ca);
          return signInSample(result.count, result.seconds, cpu, measured);
        });
        section.add(title, signInTable(samples, balancer, options.runs));
      } finally {
        for (const peer of peers) await peer.stop();
        await stop();
      }
    }
  } finally {
    certificate.remove();
  }
}

async function select(
  peer: Peer,
  work: 'batch' | 'rpc',
  clients: number,
  seconds: number,
): Promise<RoundTripSample> {
  const { result, cpu, loopDelay, measured } = await load(peer, work, clients, seconds);
  return {
    throughput: result.count / result.seconds,
    p50: result.p50,
    p99: result.p99,
    loopDelay,
    ...perWork(cpu, measured),
  };
}

/** Runs the load generator. `measured`: how many works were done while the peer was measured. */
async function load(
  peer: Peer,
  work: string,
  clients: number,
  seconds: number,
  ca = '',
): Promise<Loaded & { readonly result: TdsLoadResult; readonly measured: number }> {
  const found = await loaded(
    peer,
    process.execPath,
    [LOAD, String(peer.port), work, String(clients), String(seconds), ...(ca === '' ? [] : [ca])],
    { begins: /^started$/m },
  );
  await atRest(peer);
  const result = JSON.parse(found.output.trim().split('\n').at(-1)!) as TdsLoadResult;
  if (result.count === 0) throw new Error(`nothing was finished in ${seconds} s: give it more --seconds`);
  return {
    ...found,
    result,
    measured: (result.count * (result.seconds - found.lateSeconds)) / result.seconds,
  };
}

async function startDouble(
  args: readonly string[] = [],
): Promise<{ backend: Backend; stop(): Promise<void> }> {
  const { port, stop } = await startServer('tds-server', args);
  return { backend: { type: 'sqlserver', port, ...ACCOUNT }, stop };
}

function tdsVersionsText(): string {
  return machineText(versionsOf(['HAProxy']));
}
