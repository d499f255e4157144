import { parseArgs } from 'node:util';
import { fairness } from './fairness.ts';
import { roundTrips as mysqlRoundTrips } from './mysql.ts';
import { bulk, idleMemory, levels, roundTrips, signIns } from './postgres.ts';
import { startup } from './startup.ts';

/**
 * `npm run bench`: every part, into `bench/RESULTS.md`. `npm run bench -- PART…` runs some of them. `--runs`, `--seconds` and
 * `--clients 1,8` make it shorter.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '3' },
    clients: { type: 'string', default: '1,8,64,256' },
    sessions: { type: 'string', default: '1000,5000' },
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
  'postgres:memory': () => idleMemory(numbers(values.sessions)),
  'mysql:roundtrips': () => mysqlRoundTrips(options),
  fairness: () => fairness(options),
  startup: () => startup(options),
};

const asked = positionals.length === 0 ? Object.keys(PARTS) : positionals;
for (const name of asked) {
  const matching = Object.keys(PARTS).filter((part) => part === name || part.startsWith(`${name}:`));
  if (matching.length === 0) {
    console.error(`there is no part "${name}"; there are: ${Object.keys(PARTS).join(', ')}`);
    process.exit(2);
  }
  for (const part of matching) {
    console.log(`\n# ${part}\n`);
    await PARTS[part]!();
  }
}
process.exit(0);
