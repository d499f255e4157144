import type { Command } from 'commander';
import { App } from '../app.ts';
import { ConfigError, faultText } from '../config/faults.ts';
import { type LoadedConfig, loadConfig } from '../config/load.ts';
import type { Log, LogFormat } from '../log.ts';
import { makeLog } from '../log.ts';
import { ExitCode } from './exit-codes.ts';

interface StartOptions {
  readonly config: string;
  readonly logFormat: LogFormat;
  readonly logLevel: string;
}

export function register(program: Command): void {
  program
    .command('start')
    .summary('run the gateway')
    .description(
      'Runs the gateway until SIGTERM or SIGINT, which let running statements finish for as long as gateway.shutdown_grace says; a second one ends it at once. SIGHUP reads the configuration again.',
    )
    .requiredOption('-c, --config <file>', 'the configuration file')
    .option('--log-format <format>', 'json, or pretty for people', oneOf('json', 'pretty'), 'json')
    .option(
      '--log-level <level>',
      'trace, debug, info, warn or error',
      oneOf('trace', 'debug', 'info', 'warn', 'error'),
      'info',
    )
    .action(start);
}

async function start(options: StartOptions): Promise<void> {
  const loaded = await loadOrExplain(options.config);
  if (loaded === null) return;
  const log = makeLog(options.logFormat, options.logLevel);
  for (const warning of loaded.warnings)
    log.warn({ path: warning.path, line: warning.line }, warning.message);
  // From the first moment on: a signal must not find the process without an answer to it.
  const signalled = firstSignal();
  let running: App | null = null;
  process.on('SIGHUP', () => {
    if (running === null) log.warn('SIGHUP while starting: ignored');
    else void reload(running, options.config, log);
  });
  let app: App;
  try {
    app = await App.start(loaded, log, { logFormat: options.logFormat });
  } catch (error) {
    log.fatal({ error: (error as Error).message }, 'the gateway could not start');
    process.exitCode = ExitCode.startFailed;
    return;
  }
  running = app;
  await runUntilSignal(app, loaded.config.gateway.shutdown_grace, log, { signalled });
}

/** The first SIGTERM or SIGINT. */
export function firstSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const name of ['SIGTERM', 'SIGINT'] as const) process.once(name, () => resolve(name));
  });
}

/** Waits for SIGTERM or SIGINT, drains, closes, and does what comes `after`. A second signal ends the process at once. */
export async function runUntilSignal(
  app: App,
  graceMs: number,
  log: Log,
  options: { signalled?: Promise<NodeJS.Signals>; after?: () => Promise<void> } = {},
): Promise<void> {
  const signal = await (options.signalled ?? firstSignal());
  log.info({ signal, graceSeconds: graceMs / 1000, sessions: app.connections }, 'shutting down');
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.once(name, () => {
      log.warn('a second signal: ending at once');
      void app.stop(0).finally(() => process.exit(ExitCode.interrupted));
    });
  }
  await app.stop(graceMs);
  await options.after?.();
  log.info('stopped');
  process.exit(ExitCode.ok);
}

async function reload(app: App, path: string, log: Log): Promise<void> {
  try {
    const loaded = await loadConfig(path);
    for (const warning of loaded.warnings)
      log.warn({ path: warning.path, line: warning.line }, warning.message);
    await app.reload(loaded);
    log.info('configuration read again');
  } catch (error) {
    const faults =
      error instanceof ConfigError ? error.faults.map((fault) => faultText(path, fault)) : undefined;
    app.reloadRefused((error as Error).message);
    log.error(
      { error: (error as Error).message, faults },
      'the configuration was not taken; the former one stays in force',
    );
  }
}

/** Loads the configuration, or says on standard error what is wrong with it and sets the exit code. */
export async function loadOrExplain(path: string): Promise<LoadedConfig | null> {
  try {
    return await loadConfig(path);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    for (const fault of error.faults) console.error(faultText(path, fault));
    process.exitCode = ExitCode.usage;
    return null;
  }
}

function oneOf(...choices: string[]): (value: string) => string {
  return (value) => {
    if (choices.includes(value)) return value;
    throw new Error(`write one of: ${choices.join(', ')}`);
  };
}
