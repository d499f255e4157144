import { Command, CommanderError } from 'commander';
import { ExitCode } from './cli/exit-codes.ts';
import { version } from './version.ts';

/** Commands by name. Each is loaded only when it is asked for, so that the others do not pay for its imports. */
const COMMANDS: Readonly<
  Record<string, { summary: string; load: () => Promise<{ register: (program: Command) => void }> }>
> = {
  demo: { summary: 'a database, a gateway before it and a line to try', load: () => import('./cli/demo.ts') },
  start: { summary: 'run the gateway', load: () => import('./cli/start.ts') },
  check: {
    summary: 'check the configuration, and every step to each database',
    load: () => import('./cli/check.ts'),
  },
  secrets: { summary: 'keep the encrypted secret file', load: () => import('./cli/secrets.ts') },
  recordings: {
    summary: 'list, read, replay, search, prove and export recordings',
    load: () => import('./cli/recordings.ts'),
  },
  login: { summary: 'log in to a gateway', load: () => import('./cli/login.ts') },
  logout: {
    summary: 'end the login',
    load: async () => ({ register: (await import('./cli/login.ts')).registerLogout }),
  },
  tokens: { summary: 'launch tokens', load: () => import('./cli/tokens.ts') },
  users: { summary: 'local users', load: () => import('./cli/users.ts') },
  access: { summary: 'who may reach what', load: () => import('./cli/access.ts') },
  sessions: {
    summary: 'live sessions: list them, follow one, end one',
    load: () => import('./cli/sessions.ts'),
  },
};

const program = new Command('sallyport')
  .description('Credential-injecting, recording proxy for PostgreSQL, SQL Server and MySQL/MariaDB.')
  .version(version, '-v, --version')
  .showHelpAfterError('(add --help for the options)')
  .exitOverride();

const asked = process.argv[2] ?? '';
for (const [name, { summary, load }] of Object.entries(COMMANDS)) {
  if (name === asked) (await load()).register(program);
  else program.command(name).summary(summary).description(summary);
}

try {
  if (process.argv.length <= 2) program.outputHelp();
  else await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
  else {
    console.error(`sallyport: ${error instanceof Error ? error.message : String(error)}`);
    if (process.env['SALLYPORT_DEBUG']) console.error(error);
    process.exitCode = ExitCode.failure;
  }
}
