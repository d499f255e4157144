import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { table } from '../recording/present.ts';
import { ExitCode } from './exit-codes.ts';
import { runCommand } from './run-command.ts';
import { type Connection, environmentOf, statusLine, tunnelLines, untilText } from './tunnel-lines.ts';
import { runningTunnels, stopTunnel, tunnelsFolder } from './tunnel-registry.ts';
import { openSession, type TunnelCommandOptions } from './tunnel-session.ts';

/** A tunnel that goes to the background must be open within this time. Ours. */
const BACKGROUND_MS_MAX = 60_000;
/** Set for the process that is the tunnel in the background. */
const BACKGROUND_VARIABLE = 'SALLYPORT_TUNNEL_BACKGROUND';

interface StartOptions extends TunnelCommandOptions {
  readonly background?: boolean;
  readonly json?: boolean;
}

/** What the process in the background tells the one that started it. */
type BackgroundMessage = { readonly opened: Connection; readonly name: string } | { readonly failed: string };

export function register(program: Command): void {
  const tunnel = program
    .command('tunnel')
    .summary('a local port for a database behind a remote gateway')
    .description(
      'Opens a port on this machine (or a Unix socket) that leads through the gateway to a resource, for tools to connect to as if the database were here. Sallyport signs in to the database; what is run is recorded.',
    )
    .usage('RESOURCE [options] [-- COMMAND...] | list | stop [NAME...|--all]');
  withTunnelOptions(tunnel.command('start', { isDefault: true }))
    .description(
      'Opens a tunnel until Ctrl-C, until its launch ends, or for as long as COMMAND runs, whose exit status it then has. The command finds the way in PGHOST, PGPORT, MYSQL_HOST, MYSQL_TCP_PORT, SQLCMDSERVER and their kin, and in DATABASE_URL.',
    )
    .argument('<resource>', 'the resource')
    .argument('[command...]', 'after --: a command to run with the tunnel')
    .option('--background', 'open it and give the terminal back; see `sallyport tunnel list` and `stop`')
    .option('--json', 'print where it is as JSON')
    .action(start);
  tunnel
    .command('list')
    .description('Tunnels of yours that are open on this machine.')
    .option('--json', 'as JSON')
    .action(list);
  tunnel
    .command('stop')
    .description('Closes tunnels, and ends their launches and sessions.')
    .argument('[names...]', 'as `sallyport tunnel list` shows them')
    .option('--all', 'all of them')
    .action(stop);
}

/** The options by which a tunnel is opened: of `tunnel`, and of `connect`. */
export function withTunnelOptions(command: Command): Command {
  return command
    .option('--gateway <url>', 'the gateway; default: that of the last login')
    .option('--port <port>', 'the local port; default: one that is always the same for this resource', portOf)
    .option(
      '--socket <path>',
      'a Unix socket that only you can open, instead of a port; a path that ends in / is a folder for psql to be told as host',
    )
    .option('--require-token', 'tools must give a password, which is made and shown for this tunnel')
    .option('--any-user', 'let other users of this machine use the port too')
    .option(
      '--ttl <duration>',
      'how long it may be open: 30m, 8h; default: as long as the rule allows, at most 8h',
    )
    .option('--reason <text>', 'why, for the record');
}

async function start(resource: string, command: string[], options: StartOptions): Promise<void> {
  if (options.background === true && process.env[BACKGROUND_VARIABLE] === undefined) {
    if (command.length > 0) throw new Error('a command runs in the foreground; leave --background out');
    await startBackground(options);
    return;
  }
  if (options.background === true) await runInBackground(resource, options);
  else if (command.length > 0) await runFor(resource, command, options);
  else await runInForeground(resource, options);
}

async function runFor(resource: string, command: string[], options: StartOptions): Promise<void> {
  const session = await openSession(resource, options, 'command');
  process.stderr.write(`sallyport: ${resource}: ${statusLine(session.connection)}\n`);
  void session.ended.then((why) => process.stderr.write(`sallyport: ${why}\n`));
  const code = await runCommand(command, environmentOf(session.connection));
  await session.close();
  process.exit(code);
}

async function runInForeground(resource: string, options: StartOptions): Promise<void> {
  const session = await openSession(resource, options, 'foreground');
  print(session.connection, session.name, options);
  if (options.json !== true) console.log('Ctrl-C closes the tunnel.');
  await untilOver(session.ended, session.close);
}

/** Waits for a signal, or for the tunnel to end by itself; closes; ends the process. */
async function untilOver(ended: Promise<string>, close: () => Promise<void>): Promise<never> {
  const signalled = new Promise<null>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => resolve(null));
  });
  const why = await Promise.race([ended, signalled]);
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => process.exit(ExitCode.interrupted));
  if (why !== null) process.stderr.write(`sallyport: ${why}\n`);
  await close();
  process.exit(why === null ? ExitCode.ok : ExitCode.failure);
}

async function runInBackground(resource: string, options: StartOptions): Promise<void> {
  const tell = (message: BackgroundMessage): Promise<void> =>
    new Promise((resolve) => {
      if (process.send === undefined) resolve();
      else process.send(message, () => resolve());
    });
  try {
    const session = await openSession(resource, options, 'background');
    await tell({ opened: session.connection, name: session.name });
    process.disconnect?.();
    await untilOver(session.ended, session.close);
  } catch (error) {
    await tell({ failed: (error as Error).message });
    process.exit(ExitCode.failure);
  }
}

/** Starts this command again as a process of its own, and waits until its tunnel is open. */
async function startBackground(options: StartOptions): Promise<void> {
  const folder = tunnelsFolder();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const log = openSync(join(folder, 'background.log'), 'a', 0o600);
  const child = spawn(process.execPath, process.argv.slice(1), {
    detached: true,
    stdio: ['ignore', log, log, 'ipc'],
    env: { ...process.env, [BACKGROUND_VARIABLE]: '1' },
  });
  closeSync(log);
  const message = await new Promise<BackgroundMessage>((resolve) => {
    child.once('message', (said) => resolve(said as BackgroundMessage));
    child.once('error', (error) => resolve({ failed: error.message }));
    child.once('exit', () => resolve({ failed: `it ended; ${join(folder, 'background.log')} says more` }));
    setTimeout(() => {
      child.kill();
      resolve({ failed: 'it was not open in time' });
    }, BACKGROUND_MS_MAX).unref();
  });
  if (child.connected) child.disconnect();
  child.unref();
  if ('failed' in message) throw new Error(message.failed);
  print(message.opened, message.name, options);
  if (options.json !== true) console.log(`Close it: sallyport tunnel stop ${message.name}`);
}

function print(connection: Connection, name: string, options: StartOptions): void {
  if (options.json !== true) {
    for (const line of tunnelLines(connection)) console.log(line);
    return;
  }
  const { hello, place, token } = connection;
  const environment = environmentOf(connection);
  console.log(
    JSON.stringify({
      name,
      resource: hello.resource,
      type: hello.resource_type,
      gateway: hello.gateway,
      launch: hello.launch,
      ...(place.kind === 'tcp' ? { host: place.host, port: place.port } : { socket: place.path }),
      account: hello.account,
      database: hello.database,
      read_only: hello.read_only,
      expires_at: hello.expires_at,
      token,
      url: environment['DATABASE_URL'],
    }),
  );
}

function list(options: { json?: boolean }): void {
  const tunnels = runningTunnels();
  if (options.json === true) {
    console.log(JSON.stringify(tunnels));
    return;
  }
  if (tunnels.length === 0) {
    console.log('no tunnels');
    return;
  }
  console.log(
    table(
      ['NAME', 'RESOURCE', 'ADDRESS', 'UNTIL', 'GATEWAY', 'MODE', 'PID'],
      tunnels.map((one) => [
        one.name,
        one.resource,
        one.address,
        untilText(new Date(one.expires_at)),
        one.gateway,
        one.mode,
        one.pid,
      ]),
    ),
  );
}

async function stop(names: string[], options: { all?: boolean }): Promise<void> {
  const tunnels = runningTunnels();
  if (names.length === 0 && options.all !== true)
    throw new Error('name the tunnels to close, or --all; sallyport tunnel list shows them');
  for (const name of names)
    if (!tunnels.some((tunnel) => tunnel.name === name))
      throw new Error(`there is no tunnel "${name}"; sallyport tunnel list shows those that are open`);
  const wanted = options.all === true ? tunnels : tunnels.filter(({ name }) => names.includes(name));
  for (const tunnel of wanted) {
    const stopped = await stopTunnel(tunnel);
    if (stopped) console.log(`${tunnel.name} is closed.`);
    else {
      console.error(`sallyport: ${tunnel.name} (process ${tunnel.pid}) does not close`);
      process.exitCode = ExitCode.failure;
    }
  }
  if (wanted.length === 0) console.log('no tunnels');
}

function portOf(text: string): number {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port > 65535)
    throw new InvalidArgumentError('Write a port from 1 to 65535, or 0 for any.');
  return port;
}
