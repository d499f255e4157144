import type { Command } from 'commander';
import { z } from 'zod';
import { duration } from '../config/values.ts';
import { launch, launchAnswer } from '../http/contract/api.ts';
import { table } from '../recording/present.ts';
import { type ClientCommandOptions, clientFor, withGateway } from './options.ts';

export function register(program: Command): void {
  const tokens = program
    .command('tokens')
    .summary('launch tokens')
    .description(
      'Launch tokens: a user name and password for any tool, good for one resource and for a while.',
    );
  withGateway(tokens.command('issue'))
    .argument('<resource>', 'the resource')
    .description('Makes a launch and prints its user name and token. The token is shown this once.')
    .option('--ttl <duration>', 'how long it lasts: 30m, 8h; default: as long as the rule allows, at most 8h')
    .option('--reason <text>', 'why, for the record')
    .option('--principal <name>', 'for somebody else (operator only)')
    .action(issue);
  withGateway(tokens.command('list'))
    .description('Launches that last, the latest first.')
    .option('--all', "everybody's, for reviewers")
    .option('--ended', 'those that have ended too')
    .action(list);
  withGateway(tokens.command('revoke'))
    .argument('<launch>', 'the user name of the token')
    .description('Ends a launch at once, and with it its running sessions.')
    .action(async (id: string, options: ClientCommandOptions) => {
      await (await clientFor(options)).delete(`/launches/${encodeURIComponent(id)}`);
      console.log(`${id} has ended.`);
    });
}

async function issue(
  resource: string,
  options: ClientCommandOptions & { ttl?: string; reason?: string; principal?: string },
): Promise<void> {
  const client = await clientFor(options);
  const answer = await client.post(
    '/launches',
    {
      resource,
      token: true,
      ...(options.ttl === undefined ? {} : { ttl_seconds: Math.round(parseDuration(options.ttl) / 1000) }),
      ...(options.reason === undefined ? {} : { reason: options.reason }),
      ...(options.principal === undefined ? {} : { principal: options.principal }),
    },
    launchAnswer,
  );
  if (options.json === true) {
    console.log(JSON.stringify(answer));
    return;
  }
  console.log(`user name  ${answer.id}`);
  console.log(`password   ${answer.token}`);
  console.log(
    `\nFor ${answer.resource}, as ${answer.principal}, ${answer.read_only ? 'read-only, ' : ''}recorded, until ${new Date(answer.expires_at).toLocaleString()} (rule "${answer.rule}").`,
  );
  console.log(`End it: sallyport tokens revoke ${answer.id}`);
}

async function list(options: ClientCommandOptions & { all?: boolean; ended?: boolean }): Promise<void> {
  const client = await clientFor(options);
  const query = new URLSearchParams();
  if (options.all === true) query.set('all', 'true');
  if (options.ended === true) query.set('ended', 'true');
  const launches = await client.get(`/launches?${query}`, z.array(launch));
  if (options.json === true) {
    console.log(JSON.stringify(launches));
    return;
  }
  if (launches.length === 0) {
    console.log('no launches');
    return;
  }
  console.log(
    table(
      ['LAUNCH', 'PERSON', 'RESOURCE', 'UNTIL', 'CONNECTIONS', 'STATE'],
      launches.map((one) => [
        one.id,
        one.principal,
        one.resource,
        one.expires_at.slice(0, 16).replace('T', ' '),
        one.connections,
        one.end_reason ?? (one.read_only ? 'read-only' : 'open'),
      ]),
    ),
  );
}

/** `90s`, `30m`, `8h`, `1d` in milliseconds. */
export function parseDuration(text: string): number {
  const parsed = duration.safeParse(text);
  if (!parsed.success) throw new Error(`${text}: write a whole number and a unit: 90s, 30m, 8h, 1d`);
  return parsed.data;
}
