import type { Command } from 'commander';
import { explanation } from '../http/contract/api.ts';
import { ExitCode } from './exit-codes.ts';
import { type ClientCommandOptions, clientFor, withGateway } from './options.ts';

export function register(program: Command): void {
  const access = program
    .command('access')
    .summary('who may reach what')
    .description('Who may reach what, and why.');
  withGateway(access.command('explain'))
    .argument('<principal>', 'the person or service')
    .argument('<resource>', 'the resource')
    .description(
      'Says yes or no, by which rule and on which terms, or why no rule fits. Exits with 1 for no.',
    )
    .option('--database <name>', 'for this database')
    .option('--address <ip>', 'from this address; default: the one you call from')
    .option('--at <time>', 'at this time (ISO 8601); default: now')
    .action(explain);
}

async function explain(
  principal: string,
  resource: string,
  options: ClientCommandOptions & { database?: string; address?: string; at?: string },
): Promise<void> {
  const query = new URLSearchParams({ principal, resource });
  if (options.database !== undefined) query.set('database', options.database);
  if (options.address !== undefined) query.set('address', options.address);
  if (options.at !== undefined) query.set('at', new Date(options.at).toISOString());
  const answer = await (await clientFor(options)).get(`/access/explain?${query}`, explanation);
  if (!answer.allowed) process.exitCode = ExitCode.failure;
  if (options.json === true) {
    console.log(JSON.stringify(answer));
    return;
  }
  if (!answer.allowed) {
    console.log(`No. ${answer.reasons.length === 0 ? 'There are no rules.' : 'No rule fits:'}`);
    for (const { rule, why } of answer.reasons) console.log(`  ${rule}: ${why}`);
    return;
  }
  console.log(`Yes, by the rule "${answer.rule}".`);
  if (answer.read_only) console.log('  read-only');
  if (answer.databases !== null) console.log(`  databases: ${answer.databases.join(', ')}`);
  if (answer.max_launch_seconds !== null)
    console.log(`  a launch lasts at most ${answer.max_launch_seconds / 60} minutes`);
  if (answer.max_connections !== null) console.log(`  at most ${answer.max_connections} connections at once`);
}
