import { Command } from 'commander';
import { version } from '../version.ts';

interface CommandModule {
  readonly register: (program: Command) => void;
}

/** Commands by name. Each is loaded only when it is asked for, so that the others do not pay for its imports. */
export const COMMANDS: Readonly<Record<string, { summary: string; load: () => Promise<CommandModule> }>> = {
  demo: { summary: 'a database, a gateway before it and a line to try', load: () => import('./demo.ts') },
  start: { summary: 'run the gateway', load: () => import('./start.ts') },
  check: {
    summary: 'check the configuration, and every step to each database',
    load: () => import('./check.ts'),
  },
  health: { summary: 'ask the gateway whether it can serve', load: () => import('./health.ts') },
  secrets: { summary: 'keep the encrypted secret file', load: () => import('./secrets.ts') },
  recordings: {
    summary: 'list, read, replay, search, prove and export recordings',
    load: () => import('./recordings.ts'),
  },
  login: { summary: 'log in to a gateway', load: () => import('./login.ts') },
  logout: {
    summary: 'end the login',
    load: async () => ({ register: (await import('./login.ts')).registerLogout }),
  },
  tunnel: {
    summary: 'a local port for a database behind a remote gateway',
    load: () => import('./tunnel.ts'),
  },
  connect: {
    summary: "a database's own client, through a tunnel",
    load: () => import('./connect.ts'),
  },
  tokens: { summary: 'launch tokens', load: () => import('./tokens.ts') },
  users: { summary: 'local users', load: () => import('./users.ts') },
  access: { summary: 'who may reach what', load: () => import('./access.ts') },
  sessions: {
    summary: 'live sessions: list them, follow one, end one',
    load: () => import('./sessions.ts'),
  },
  completion: { summary: 'completion for a shell', load: () => import('./completion.ts') },
  version: { summary: 'the version, and what it was built from', load: () => import('./version.ts') },
};

/** The program with the commands that `wanted` names in full, and the others by name and summary. */
export async function makeProgram(wanted: (name: string) => boolean): Promise<Command> {
  const program = new Command('sallyport')
    .description('Credential-injecting, recording proxy for PostgreSQL, SQL Server and MySQL/MariaDB.')
    .version(version, '-v, --version')
    .showHelpAfterError('(add --help for the options)')
    .exitOverride();
  for (const [name, { summary, load }] of Object.entries(COMMANDS)) {
    if (wanted(name)) (await load()).register(program);
    else program.command(name).summary(summary).description(summary);
  }
  return program;
}
