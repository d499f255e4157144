import { parseArgs } from 'node:util';
import { fairness } from './fairness.ts';
import { writeResultsTo } from './lib/results.ts';
import { mysqlMemory, postgresMemory, tdsMemory } from './memory.ts';
import { roundTrips as mysqlRoundTrips } from './mysql.ts';
import { bulk as mysqlBulk } from './mysql-bulk.ts';
import { signIns as mysqlSignIns } from './mysql-signins.ts';
import { levels, roundTrips } from './postgres.ts';
import { bulk } from './postgres-bulk.ts';
import { signIns } from './postgres-signins.ts';
import { startup } from './startup.ts';
import { bulk as tdsBulk, roundTrips as tdsRoundTrips, signIns as tdsSignIns } from './tds.ts';
import { workers } from './workers.ts';

/**
 * `npm run bench`: every part, into `bench/RESULTS.md`; `npm run bench -- PART…` runs some of them, by name or by what
 * stands before the colon.
 *
 *     --list           names the parts
 *     --runs N         interleaved runs of everything (default 5)
 *     --seconds N      of each run (default 1, behind a warm-up)
 *     --clients LIST   of round trips (default 1,8,64,256)
 *     --sessions LIST  of idle sessions (default 1000,5000)
 *     --results FILE   another file than bench/RESULTS.md
 *
 * A part that fails leaves what it had measured, and the others go on; the exit status is 1 then.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    list: { type: 'boolean', default: false },
    runs: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    clients: { type: 'string', default: '1,8,64,256' },
    sessions: { type: 'string', default: '1000,5000' },
    results: { type: 'string' },
  },
});
const numbers = (text: string): number[] => text.split(',').map(Number);
const options = {
  runs: Number(values.runs),
  seconds: Number(values.seconds),
  clients: numbers(values.clients),
};

const PARTS: Readonly<Record<string, () => Promise<void>>> = {
  'postgres:roundtrips': () => roundTrips(options),
  'postgres:levels': () => levels(options),
  'postgres:bulk': () => bulk(options),
  'postgres:signins': () => signIns(options),
  'postgres:memory': () => postgresMemory(numbers(values.sessions)),
  'mysql:roundtrips': () => mysqlRoundTrips(options),
  'mysql:bulk': () => mysqlBulk(options),
  'mysql:signins': () => mysqlSignIns(options),
  'mysql:memory': () => mysqlMemory(numbers(values.sessions)),
  'sqlserver:roundtrips': () => tdsRoundTrips(options),
  'sqlserver:bulk': () => tdsBulk(options),
  'sqlserver:signins': () => tdsSignIns(options),
  'sqlserver:memory': () => tdsMemory(numbers(values.sessions)),
  workers: () => workers(options),
  fairness: () => fairness(options),
  startup: () => startup(options),
};

/** The parts of those names; ends the program where one has none. */
function partsOf(names: readonly string[]): string[] {
  if (names.length === 0) return Object.keys(PARTS);
  return names.flatMap((name) => {
    const matching = Object.keys(PARTS).filter((part) => part === name || part.startsWith(`${name}:`));
    if (matching.length === 0) {
      console.error(`there is no part "${name}"; there are: ${Object.keys(PARTS).join(', ')}`);
      process.exit(2);
    }
    return matching;
  });
}

if (values.list) {
  console.log(Object.keys(PARTS).join('\n'));
  process.exit(0);
}
if (values.results !== undefined) writeResultsTo(values.results);
let failed = 0;
for (const part of partsOf(positionals)) {
  console.log(`\n# ${part}\n`);
  const started = performance.now();
  try {
    await PARTS[part]!();
  } catch (error) {
    failed += 1;
    console.error(`${part} did not finish: ${(error as Error).stack}`);
  }
  console.log(`(${part}: ${Math.round((performance.now() - started) / 1000)} s)`);
}
process.exit(failed === 0 ? 0 : 1);
