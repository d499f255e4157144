import { join } from 'node:path';
import { DEBIAN_BIN } from '../test/support/postgres.ts';
import { atRest, interleaved, Meter } from './lib/load.ts';
import { type Backend, direct, type Peer, pgbouncer, sallyport } from './lib/peers.ts';
import { run } from './lib/process.ts';
import { Section } from './lib/results.ts';
import type { BenchOptions } from './lib/round-trips.ts';
import { makeTls, type SignInSample, signInSample, signInTable } from './lib/sign-ins.ts';
import { postgresEnvironment, prepared, versionsText } from './postgres.ts';

const CLIENTS = 8;
const METHODS = ['trust', 'password', 'md5', 'scram'] as const;
const METHOD_NAMES = { trust: 'trust', password: 'clear-text password', md5: 'MD5', scram: 'SCRAM-SHA-256' };

/** New connections a second by what the server asks for, in the clear and with TLS on both sides. */
export async function signIns(options: BenchOptions): Promise<void> {
  const certificate = await makeTls();
  const { server, backend } = await prepared({}, { tls: certificate.issued });
  const section = new Section('postgres sign-ins', [
    '## PostgreSQL: sign-ins',
    `\`pgbench -S -C -c ${CLIENTS}\`: a new connection for every select, ${options.runs} interleaved runs of ${options.seconds} s. Named is what the server asks of whoever connects to it: of the client directly, else of the one in between, which lets its clients in without a password. PgBouncer opens a new connection to the server for each, as Sallyport does. With TLS, both sides have it (TLS 1.3, ECDSA P-256), and the one in between verifies the server. A clear-text password is measured with TLS alone: without it, Sallyport does not send one. \`pgbench\` itself takes its share of a core, most with TLS and SCRAM.`,
    versionsText(),
  ]);
  try {
    for (const tls of [undefined, certificate.files]) {
      for (const method of METHODS) {
        if (method === 'password' && tls === undefined) continue;
        const { user, password } = server.accounts[method];
        const account: Backend = { ...backend, user, password: password ?? '' };
        const withTls = tls === undefined ? {} : { tls };
        const bouncer = await pgbouncer(account, { freshServers: true, ...withTls });
        const peers = [
          direct(account),
          bouncer,
          await sallyport(account, { recording: 'off', ...withTls }),
          await sallyport(account, { recording: 'flushed', ...withTls }),
        ];
        try {
          const samples = await interleaved(peers, options.runs, (peer) =>
            connections(peer, account, tls === undefined ? 'disable' : 'require', options.seconds),
          );
          section.add(
            `${METHOD_NAMES[method]}, ${tls === undefined ? 'in the clear' : 'TLS on both sides'}`,
            signInTable(samples, bouncer, options.runs),
          );
        } finally {
          for (const peer of peers) await peer.stop();
        }
      }
    }
  } finally {
    await server.stop();
    certificate.remove();
  }
}

async function connections(
  peer: Peer,
  backend: Backend,
  sslmode: 'disable' | 'require',
  seconds: number,
): Promise<SignInSample> {
  const meter = await Meter.open(peer);
  const output = await run(
    join(DEBIAN_BIN, 'pgbench'),
    [
      ...['-n', '-S', '-C', '-c', String(CLIENTS), '-j', '1', '-T', String(seconds)],
      ...['-h', '127.0.0.1', '-p', String(peer.port), '-U', backend.user, backend.database],
    ],
    { env: postgresEnvironment(peer, sslmode) },
  );
  const { cpu } = await meter.close();
  await atRest(peer);
  const count = Number(/number of transactions actually processed: (\d+)/.exec(output)?.[1]);
  if (!(count > 0)) throw new Error(`pgbench signed in not once in ${seconds} s: give it more --seconds`);
  return signInSample(count, count / Number(/^tps = ([\d.]+)/m.exec(output)![1]), cpu);
}
