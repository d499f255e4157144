import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Issued, makeAuthority } from '../../test/support/certificates.ts';
import { digits, median, table } from './figures.ts';
import type { Peer, TlsFiles } from './peers.ts';
import { nameWithRuns } from './round-trips.ts';
import type { CpuUse } from './usage.ts';

/** One run of sign-ins. CPU time is that of the one in between, in microseconds a sign-in. */
export interface SignInSample {
  /** Sign-ins a second, each with one statement. */
  readonly rate: number;
  readonly cpu: number;
  readonly relaying: number;
}

/** `count` sign-ins in `seconds`; `cpu`, in seconds, was used for `measured` of them. */
export function signInSample(count: number, seconds: number, cpu: CpuUse, measured = count): SignInSample {
  return {
    rate: count / seconds,
    cpu: (cpu.total * 1e6) / measured,
    relaying: (cpu.relaying * 1e6) / measured,
  };
}

/** Rates as multiples of `reference`'s. */
export function signInTable(
  samples: ReadonlyMap<Peer, readonly SignInSample[]>,
  reference: Peer,
  runs: number,
): string {
  const of = (peer: Peer, field: keyof SignInSample): number =>
    median(samples.get(peer)!.map((sample) => sample[field]));
  return table(
    ['', 'sign-ins a second', `÷ ${reference.name}`, 'CPU, µs a sign-in', 'of it, the relaying thread'],
    [...samples.keys()].map((peer) => [
      nameWithRuns(peer, samples.get(peer)!.length, runs),
      digits(of(peer, 'rate')),
      digits(of(peer, 'rate') / of(reference, 'rate')),
      peer.pids.length === 0 ? '–' : digits(of(peer, 'cpu')),
      peer.httpPort === undefined ? '–' : digits(of(peer, 'relaying')),
    ]),
  );
}

/** A certificate for this machine, in files that the peers read and as what servers are started with. */
export interface BenchTls {
  readonly files: TlsFiles;
  readonly issued: Issued;
  remove(): void;
}

export async function makeTls(): Promise<BenchTls> {
  const authority = await makeAuthority('Benchmarks', 'ecdsa');
  const issued = await authority.issue({ commonName: 'localhost', hosts: ['localhost', '127.0.0.1'] });
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-bench-tls-'));
  const files: TlsFiles = {
    ca: join(folder, 'ca.pem'),
    cert: join(folder, 'cert.pem'),
    key: join(folder, 'key.pem'),
  };
  writeFileSync(files.ca, authority.cert);
  writeFileSync(files.cert, issued.chain);
  // PgBouncer runs as nobody where this runs as root.
  writeFileSync(files.key, issued.key, { mode: 0o644 });
  chmodSync(folder, 0o755);
  return { files, issued, remove: () => rmSync(folder, { recursive: true, force: true }) };
}
