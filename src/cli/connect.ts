import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { Command } from 'commander';
import type { ResourceType } from '../tunnel/messages.ts';
import { runCommand } from './run-command.ts';
import { withTunnelOptions } from './tunnel.ts';
import { type Connection, environmentOf, statusLine } from './tunnel-lines.ts';
import { openSession, type TunnelCommandOptions } from './tunnel-session.ts';

/** A client, and the arguments that lead it through the tunnel where its variables do not. */
interface Client {
  readonly program: string;
  readonly args: (connection: Connection) => string[];
}

const PSQL: Client = { program: 'psql', args: () => [] };
const MYSQL: Client = { program: 'mysql', args: mysqlArgs };
const MARIADB: Client = { program: 'mariadb', args: mysqlArgs };
const SQLCMD: Client = { program: 'sqlcmd', args: () => ['-C'] };
const TSQL: Client = { program: 'tsql', args: tsqlArgs };

/** In order of preference. */
const CLIENTS: Readonly<Record<ResourceType, readonly Client[]>> = {
  postgres: [PSQL],
  mysql: [MYSQL, MARIADB],
  mariadb: [MARIADB, MYSQL],
  sqlserver: [SQLCMD, TSQL],
};

export function register(program: Command): void {
  withTunnelOptions(program.command('connect'))
    .summary("a database's own client, through a tunnel")
    .description(
      'Runs psql, mysql (or mariadb) or sqlcmd (or tsql) through a tunnel that lives as long as it. Arguments after -- are passed on; its exit status is that of this command.',
    )
    .argument('<resource>', 'the resource')
    .argument('[arguments...]', 'after --: for the client')
    .action(connect);
}

async function connect(resource: string, args: string[], options: TunnelCommandOptions): Promise<void> {
  const session = await openSession(resource, options, 'command');
  const { connection } = session;
  const type = connection.hello.resource_type;
  const client = CLIENTS[type].find(({ program }) => isInstalled(program));
  if (client === undefined) {
    await session.close();
    const names = CLIENTS[type].map(({ program }) => program).join(' nor ');
    throw new Error(`${names} was found on this machine; install it, or use sallyport tunnel ${resource}`);
  }
  process.stderr.write(`sallyport: ${resource}: ${statusLine(connection)}\n`);
  void session.ended.then((why) => process.stderr.write(`sallyport: ${why}\n`));
  try {
    const code = await runCommand(
      [client.program, ...client.args(connection), ...args],
      environmentOf(connection),
    );
    process.exitCode = code;
  } finally {
    await session.close();
  }
  process.exit();
}

function mysqlArgs({ hello, place }: Connection): string[] {
  const way =
    place.kind === 'tcp'
      ? ['--protocol=TCP', `--host=${place.host}`, `--port=${place.port}`]
      : ['--protocol=SOCKET', `--socket=${place.path}`];
  return [
    ...way,
    `--user=${hello.principal}`,
    ...(hello.database === null ? [] : [`--database=${hello.database}`]),
  ];
}

function tsqlArgs({ hello, place, token }: Connection): string[] {
  if (place.kind !== 'tcp') throw new Error('SQL Server clients know no Unix sockets; leave --socket out');
  if (token !== null)
    throw new Error(
      'tsql takes a password on its command line, where others on this machine see it; install sqlcmd, or leave --require-token out',
    );
  return [
    ...['-H', place.host, '-p', String(place.port), '-U', hello.principal, '-P', 'any'],
    ...(hello.database === null ? [] : ['-D', hello.database]),
  ];
}

function isInstalled(program: string): boolean {
  const suffixes = process.platform === 'win32' ? ['.exe', '.cmd'] : [''];
  return (process.env['PATH'] ?? '').split(delimiter).some((folder) =>
    suffixes.some((suffix) => {
      try {
        accessSync(join(folder, program + suffix), constants.X_OK);
        return folder !== '';
      } catch {
        return false;
      }
    }),
  );
}
