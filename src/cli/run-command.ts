import { spawn } from 'node:child_process';
import { constants } from 'node:os';

/** What a shell answers for a command that is not there, or cannot be run. */
const NOT_FOUND = 127;
const NOT_RUNNABLE = 126;

/**
 * Runs a command on this terminal and resolves with its exit status; 128 and the signal's number where one ended it, as
 * shells do. `environment` is laid over that of this process; undefined unsets.
 *
 * Ctrl-C reaches the command by the terminal itself, and is its own to answer: psql cancels a statement and lives on. The
 * signals that ask for an end are passed on.
 */
export function runCommand(
  command: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): Promise<number> {
  const [file = '', ...args] = command;
  return new Promise((resolve) => {
    const child = spawn(file, args, { stdio: 'inherit', env: { ...process.env, ...environment } });
    const passOn = (signal: NodeJS.Signals): void => void child.kill(signal);
    const stay = (): void => {};
    process.on('SIGINT', stay);
    process.on('SIGQUIT', stay);
    process.on('SIGTERM', passOn);
    process.on('SIGHUP', passOn);
    const finish = (code: number): void => {
      process.off('SIGINT', stay);
      process.off('SIGQUIT', stay);
      process.off('SIGTERM', passOn);
      process.off('SIGHUP', passOn);
      resolve(code);
    };
    child.once('error', (error: NodeJS.ErrnoException) => {
      const isMissing = error.code === 'ENOENT';
      process.stderr.write(
        `sallyport: ${file} ${isMissing ? 'was not found' : `could not be run: ${error.message}`}\n`,
      );
      finish(isMissing ? NOT_FOUND : NOT_RUNNABLE);
    });
    child.once('exit', (code, signal) =>
      finish(code ?? 128 + (signal === null ? 0 : constants.signals[signal])),
    );
  });
}
