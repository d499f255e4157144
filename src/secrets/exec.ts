import { spawn } from 'node:child_process';
import type { Log } from '../log.ts';
import { textValue, withoutLineEnd } from './fields.ts';
import { COMMAND_ERROR_BYTES_MAX, COMMAND_OUTPUT_BYTES_MAX } from './limits.ts';
import { SecretError, type SecretProvider, type SecretReference, type SecretValue } from './provider.ts';

export interface ExecSettings {
  /** Program and arguments; the reference's path becomes the last argument. There is no shell. */
  readonly command: readonly string[];
  /** Names of environment variables that the command sees, beside the usual few. */
  readonly environment: readonly string[];
}

/** Variables without which ordinary programs do not run. Everything else of ours is kept from the command. */
const USUAL_VARIABLES = ['PATH', 'HOME', 'USER', 'LOGNAME', 'LANG', 'LC_ALL', 'TZ', 'TMPDIR', 'SYSTEMROOT'];

/** A command's standard output, without its last line end. */
export class ExecSecrets implements SecretProvider {
  readonly name: string;
  readonly #settings: ExecSettings;
  readonly #log: Log;

  constructor(name: string, settings: ExecSettings, log: Log) {
    this.name = name;
    this.#settings = settings;
    this.#log = log;
  }

  async fetch(reference: SecretReference, signal: AbortSignal): Promise<SecretValue> {
    const output = await this.#run([reference.path], signal);
    return textValue(reference, withoutLineEnd(output), null);
  }

  /** There is nothing to ask a command without naming a secret. */
  async check(): Promise<void> {}

  async close(): Promise<void> {}

  #run(extra: readonly string[], signal: AbortSignal): Promise<Buffer> {
    const [program, ...rest] = this.#settings.command as [string, ...string[]];
    const environment: Record<string, string> = {};
    for (const name of [...USUAL_VARIABLES, ...this.#settings.environment]) {
      const value = process.env[name];
      if (value !== undefined) environment[name] = value;
    }
    return new Promise((resolve, reject) => {
      const child = spawn(program, [...rest, ...extra], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: environment,
        // Its own process group: what it starts is ended with it.
        detached: process.platform !== 'win32',
      });
      const output: Buffer[] = [];
      let outputBytes = 0;
      let complaint = '';
      const settle = (finish: () => void): void => {
        signal.removeEventListener('abort', onAbort);
        finish();
      };
      const failed = (message: string, options: ConstructorParameters<typeof SecretError>[2] = {}): void =>
        settle(() => {
          for (const chunk of output) chunk.fill(0);
          reject(new SecretError(this.name, `the command ${program} ${message}`, options));
        });
      const onAbort = (): void => {
        endGroup(child.pid);
        failed('did not answer in time', {
          code: 'timeout',
          hint: 'It was ended. Raise "timeout" if it needs longer.',
        });
      };
      signal.addEventListener('abort', onAbort);
      if (signal.aborted) onAbort();
      child.stdout.on('data', (chunk: Buffer) => {
        output.push(chunk);
        outputBytes += chunk.length;
        if (outputBytes <= COMMAND_OUTPUT_BYTES_MAX) return;
        endGroup(child.pid);
        failed(`wrote more than ${COMMAND_OUTPUT_BYTES_MAX / 1024} KiB`, {
          code: 'malformed',
          hint: 'It must write the secret and nothing else.',
        });
      });
      child.stderr.on('data', (chunk: Buffer) => {
        complaint = (complaint + chunk.toString('utf8')).slice(-COMMAND_ERROR_BYTES_MAX);
      });
      child.on('error', (error: NodeJS.ErrnoException) => {
        const missing = error.code === 'ENOENT';
        failed(missing ? 'was not found' : `could not be started (${error.code ?? error.message})`, {
          code: 'denied',
          hint: missing ? 'Give its whole path under "command".' : 'It must be executable by this user.',
        });
      });
      child.on('close', (code, killedBy) => {
        const text = Buffer.concat(output);
        if (code === 0) {
          settle(() => resolve(text));
          return;
        }
        this.#log.warn(
          {
            provider: this.name,
            program,
            exitCode: code,
            signal: killedBy,
            stderr: withoutOutput(complaint, text),
          },
          'secret command failed',
        );
        failed(code === null ? `was ended by ${killedBy}` : `ended with exit code ${code}`, {
          code: 'not_found',
          hint: 'What it wrote to standard error is in the log of the gateway.',
        });
      });
    });
  }
}

/** Ends a command with all that it has started. */
function endGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(process.platform === 'win32' ? pid : -pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

/** Standard error for the log, without any line that the command also wrote to standard output. */
function withoutOutput(complaint: string, output: Buffer): string {
  let text = complaint;
  for (const line of output.toString('utf8').split(/\r?\n/)) {
    if (line.trim() !== '') text = text.replaceAll(line.trim(), '[secret]');
  }
  return text.trim();
}
