import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const command = fileURLToPath(new URL('../../bin/sallyport.js', import.meta.url));

export interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command of the product to its end, as a user would. */
export function runSallyport(
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; cwd?: string; input?: string } = {},
): Promise<Ran> {
  const child = spawn(process.execPath, [command, ...args], {
    stdio: 'pipe',
    env: { ...process.env, ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString('utf8');
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString('utf8');
  });
  child.stdin.on('error', () => {});
  child.stdin.end(options.input ?? '');
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** The daemon as a process of its own, with a folder for its configuration and data. */
export class Daemon {
  readonly folder: string;
  readonly configPath: string;
  readonly #environment: NodeJS.ProcessEnv;
  #child: ChildProcess | null = null;
  #output = '';
  #watchers: (() => void)[] = [];

  constructor(environment: NodeJS.ProcessEnv = {}) {
    this.folder = mkdtempSync(join(tmpdir(), 'sallyport-daemon-'));
    this.configPath = join(this.folder, 'config.yaml');
    this.#environment = environment;
  }

  get output(): string {
    return this.#output;
  }

  get pid(): number {
    return this.#child!.pid!;
  }

  configure(yaml: string): void {
    writeFileSync(this.configPath, yaml);
  }

  /** Starts it and waits until it is ready. Rejects, with what it printed, when it ends instead. */
  async start(...args: string[]): Promise<void> {
    this.#output = '';
    const child = spawn(process.execPath, [command, 'start', '--config', this.configPath, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...this.#environment },
    });
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        this.#output += chunk.toString('utf8');
        for (const watcher of this.#watchers) watcher();
      });
    }
    child.once('exit', () => {
      for (const watcher of this.#watchers) watcher();
    });
    await this.until(() => this.#output.includes('"msg":"ready"'));
  }

  signal(name: NodeJS.Signals): void {
    this.#child!.kill(name);
  }

  /** Resolves when `condition` holds; looked at whenever the daemon prints something or ends. */
  async until(condition: () => boolean): Promise<void> {
    const child = this.#child!;
    await new Promise<void>((resolve, reject) => {
      const look = (): void => {
        if (condition()) resolve();
        else if (child.exitCode !== null || child.signalCode !== null)
          reject(new Error(`the daemon ended (${child.exitCode ?? child.signalCode}):\n${this.#output}`));
        else return;
        this.#watchers = this.#watchers.filter((watcher) => watcher !== look);
      };
      this.#watchers.push(look);
      look();
    });
  }

  /** Its exit code; null where a signal ended it. */
  async ended(): Promise<number | null> {
    const child = this.#child!;
    if (child.exitCode === null && child.signalCode === null)
      await new Promise<void>((resolve) => child.once('exit', () => resolve()));
    return child.exitCode;
  }

  /** Ends it if it runs, and removes its folder. */
  async remove(): Promise<void> {
    if (this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGKILL');
      await this.ended();
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
