import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { hashPassword } from '../../src/access/passwords.ts';
import { GatewayClient } from '../../src/cli/gateway-client.ts';
import { loginAnswer } from '../../src/http/contract/api.ts';
import type { AuditJournalEvent } from '../../src/recording/events.ts';
import { followJournal } from '../../src/recording/follow.ts';
import { identitiesIn, LOCAL_KEY_FILE } from '../../src/recording/keys.ts';
import type { Issued } from './certificates.ts';
import { freePort } from './postgres.ts';

/** Real processes for tests of tunnels: `sallyport start`, and `sallyport tunnel` of a person who has logged in to it. */

const MAIN = join(import.meta.dirname, '..', '..', 'src', 'main.ts');
const READY_MS_MAX = 30_000;
const POLL_MS = 50;

export interface GatewayProcess {
  readonly pid: number;
  readonly port: number;
  /** `http://127.0.0.1:PORT`, or `https:` where it was given a certificate. */
  readonly url: string;
  readonly dataDirectory: string;
  /** The log so far, a line each. */
  log(): string;
  /** Starts it again, on the same port and the same data, after `kill`. */
  restart(): Promise<void>;
  kill(signal: NodeJS.Signals): Promise<void>;
  /** An API client that is logged in as `user`. */
  client(user?: string): Promise<GatewayClient>;
  metric(line: string): Promise<number>;
  /** Audit events that are in its journal by now. */
  audits(): Promise<AuditJournalEvent[]>;
  /** Kills it, and removes its files. */
  close(): Promise<void>;
}

export interface GatewayProcessOptions {
  /** YAML of `resources:`, indented by two. */
  readonly resources: string;
  /** YAML of `rules:`, one a line; default: everybody may use everything. */
  readonly rules?: string;
  readonly tls?: Issued;
  /** The authority of `tls`, PEM. */
  readonly ca?: string;
  readonly name?: string;
  readonly environment?: Readonly<Record<string, string>>;
  readonly host?: string;
}

/** The password of all users of the test gateways: `anna`, `ben` and `cleo`. */
export const PASSWORD = 'canary-login-password';
export const USERS = ['anna', 'ben', 'cleo'] as const;

export async function startGatewayProcess(options: GatewayProcessOptions): Promise<GatewayProcess> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-tunnel-gateway-'));
  const host = options.host ?? '127.0.0.1';
  const port = await freePort();
  const hash = await hashPassword(PASSWORD);
  if (options.tls !== undefined) {
    writeFileSync(join(folder, 'tls.pem'), options.tls.chain);
    writeFileSync(join(folder, 'tls.key'), options.tls.key, { mode: 0o600 });
  }
  const config = join(folder, 'config.yaml');
  // No index of statements: its parser takes memory of its own, and tests watch that of what carries bytes.
  const tls = options.tls === undefined ? '' : ', tls: { cert: tls.pem, key: tls.key }';
  writeFileSync(
    config,
    `gateway: { name: ${options.name ?? 'gw-1'}, data_dir: ./data, shutdown_grace: 1s }
http: { listen: "${host}:${port}"${tls} }
secrets:
  env: { type: env }
recording: { index: sessions, store: { type: directory, path: ./recordings } }
users:
${USERS.map((user) => `  ${user}: { password: "${hash}" }`).join('\n')}
rules:
${options.rules ?? '  - { name: everybody }'}
resources:
${options.resources}
`,
  );
  let child: ChildProcess | null = null;
  let said = '';
  const scheme = options.tls === undefined ? 'http' : 'https';
  const url = `${scheme}://${host}:${port}`;
  const caFile = join(folder, 'ca.pem');
  if (options.ca !== undefined) writeFileSync(caFile, options.ca);
  const ca = options.ca === undefined ? undefined : caFile;
  const start = async (): Promise<void> => {
    const started = spawn(process.execPath, [MAIN, 'start', '--config', config], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...options.environment },
    });
    child = started;
    for (const output of [started.stdout, started.stderr])
      output.on('data', (chunk) => {
        said += chunk;
      });
    const client = new GatewayClient({ gateway: url, token: null, ca });
    for (let waited = 0; waited < READY_MS_MAX; waited += POLL_MS) {
      if (started.exitCode !== null) {
        await sleep(POLL_MS);
        throw new Error(`the gateway did not start:\n${said}`);
      }
      const isUp = await client.dial().then(
        (socket) => {
          socket.destroy();
          return true;
        },
        () => false,
      );
      if (isUp) return;
      await sleep(POLL_MS);
    }
    throw new Error(`the gateway did not listen:\n${said}`);
  };
  const kill = async (signal: NodeJS.Signals): Promise<void> => {
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    await gone;
  };
  await start();
  return {
    get pid() {
      return child?.pid ?? 0;
    },
    port,
    url,
    dataDirectory: join(folder, 'data'),
    log: () => said,
    restart: start,
    kill,
    client: async (user = 'anna') => {
      const anonymous = new GatewayClient({ gateway: url, token: null, ca });
      const { token } = await anonymous.post('/login', { user, password: PASSWORD }, loginAnswer);
      return new GatewayClient({ gateway: url, token, ca });
    },
    audits: () => readAudits(join(folder, 'data')),
    metric: (line) => readMetric(url, ca, line),
    close: async () => {
      await kill('SIGKILL');
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A journal without news for this long is taken to be read. */
const JOURNAL_QUIET_MS = 400;

async function readAudits(dataDirectory: string): Promise<AuditJournalEvent[]> {
  const key = join(dataDirectory, LOCAL_KEY_FILE);
  const abort = new AbortController();
  const quiet = setTimeout(() => abort.abort(), JOURNAL_QUIET_MS);
  const audits: AuditJournalEvent[] = [];
  for await (const { event } of followJournal(
    dataDirectory,
    identitiesIn(readFileSync(key, 'utf8'), key),
    abort.signal,
  )) {
    quiet.refresh();
    if (event.type === 'audit') audits.push(event);
  }
  return audits;
}

async function readMetric(url: string, ca: string | undefined, line: string): Promise<number> {
  const { request } = url.startsWith('https:') ? await import('node:https') : await import('node:http');
  const text = await new Promise<string>((resolve, reject) => {
    request(
      `${url}/metrics`,
      { ...(ca === undefined ? {} : { ca: readFileSync(ca) }), agent: false },
      (answer) => {
        let body = '';
        answer.on('data', (chunk) => {
          body += chunk;
        });
        answer.on('end', () => resolve(body));
      },
    )
      .on('error', reject)
      .end();
  });
  const found = text.split('\n').find((one) => one.startsWith(`${line} `));
  return found === undefined ? 0 : Number(found.slice(line.length + 1));
}

/** A person's machine: a folder of their own, with their login in it. */
export interface Person {
  readonly home: string;
  readonly environment: Readonly<Record<string, string>>;
  /** Runs a command to its end. */
  run(args: readonly string[], options?: RunOptions): Promise<Outcome>;
  /** Starts a command and leaves it running. */
  start(args: readonly string[], options?: RunOptions): ChildProcess;
  /** Opens a tunnel and waits until it is there. */
  tunnel(args: readonly string[], options?: RunOptions): Promise<TunnelProcess>;
  remove(): void;
}

export interface RunOptions {
  /** What the command is started by: `ip netns exec NAME`. */
  readonly through?: readonly string[];
  /** In a process group of its own, so that a signal can be sent to all of it, as a terminal does. */
  readonly detached?: boolean;
  readonly environment?: Readonly<Record<string, string | undefined>>;
  readonly input?: string;
}

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** What `sallyport tunnel --json` prints. */
export interface TunnelFacts {
  readonly name: string;
  readonly launch: string;
  readonly host: string;
  readonly port: number;
  readonly socket?: string;
  readonly account: string | null;
  readonly database: string | null;
  readonly token: string | null;
  readonly url: string;
  readonly expires_at: string;
}

export interface TunnelProcess extends TunnelFacts {
  readonly child: ChildProcess;
  readonly pid: number;
  stderr(): string;
  /** Waits until standard error has what `pattern` says. */
  says(pattern: RegExp, withinMs?: number): Promise<void>;
  /** Ends it as Ctrl-C does; its exit status. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
  /** Its exit status when it ends by itself. */
  readonly exited: Promise<number | null>;
  /** Resident memory now, in MiB. */
  residentMiB(): number;
}

/** Logs a person in to `gateway` and gives them a folder. */
export async function makePerson(
  gateway: Pick<GatewayProcess, 'url' | 'client'>,
  options: { user?: string; url?: string; ca?: string; token?: string } = {},
): Promise<Person> {
  const home = mkdtempSync(join(tmpdir(), 'sallyport-person-'));
  const client = await gateway.client(options.user ?? 'anna');
  const ca = options.ca ?? (client.ca === undefined ? undefined : readFileSync(client.ca, 'utf8'));
  if (ca !== undefined) writeFileSync(join(home, 'ca.pem'), ca);
  writeFileSync(
    join(home, 'credentials.json'),
    JSON.stringify({
      gateway: options.url ?? gateway.url,
      token: options.token ?? client.token,
      principal: options.user ?? 'anna',
      expires_at: new Date(Date.now() + 3_600_000).toISOString(),
      ...(ca === undefined ? {} : { ca: join(home, 'ca.pem') }),
    }),
    { mode: 0o600 },
  );
  const environment = { SALLYPORT_HOME: home };
  return {
    home,
    environment,
    run: (args, run) => runCommand(args, environment, run),
    start: (args, run = {}) => launch(args, environment, run),
    tunnel: (args, run) => startTunnel(args, environment, run),
    remove: () => rmSync(home, { recursive: true, force: true }),
  };
}

function launch(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
  options: RunOptions,
): ChildProcess {
  const [file, ...rest] = [...(options.through ?? []), process.execPath, MAIN, ...args];
  return spawn(file!, rest, {
    detached: options.detached ?? false,
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, ...environment, ...options.environment },
  });
}

async function runCommand(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
  options: RunOptions = {},
): Promise<Outcome> {
  const child = launch(args, environment, options);
  let stdout = '';
  let stderr = '';
  child.stdout!.on('data', (chunk) => {
    stdout += chunk;
  });
  child.stderr!.on('data', (chunk) => {
    stderr += chunk;
  });
  child.stdin!.on('error', () => {});
  child.stdin!.end(options.input ?? '');
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stdout, stderr };
}

async function startTunnel(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
  options: RunOptions = {},
): Promise<TunnelProcess> {
  const child = launch(['tunnel', ...args, '--json'], environment, options);
  let stderr = '';
  child.stderr!.on('data', (chunk) => {
    stderr += chunk;
  });
  const exited = once(child, 'exit').then(([code]) => code as number | null);
  const line = await Promise.race([
    once(createInterface({ input: child.stdout! }), 'line').then(([text]) => String(text)),
    exited.then(async () => {
      await sleep(POLL_MS);
      throw new Error(`the tunnel did not open:\n${stderr}`);
    }),
  ]);
  return {
    ...(JSON.parse(line) as TunnelFacts),
    child,
    pid: child.pid!,
    stderr: () => stderr,
    says: async (pattern, withinMs = 20_000) => {
      for (let waited = 0; !pattern.test(stderr); waited += POLL_MS) {
        if (waited > withinMs) throw new Error(`the tunnel did not say ${pattern}:\n${stderr}`);
        await sleep(POLL_MS);
      }
    },
    stop: async (signal = 'SIGINT') => {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
      return exited;
    },
    exited,
    residentMiB: () => residentMiB(child.pid!),
  };
}

/** Resident memory of a process, in MiB (proc(5)). */
export function residentMiB(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kib) / 1024;
}

/** YAML of a PostgreSQL resource. Its password is in `TUNNEL_PASSWORD`. */
export function postgresResource(name: string, port: number, more = ''): string {
  return `  ${name}:
    type: postgres
    host: 127.0.0.1
    port: ${port}
    database: appdb
    tls: { mode: disable }
    launch_credentials: { username: launch_user, password: "env:TUNNEL_PASSWORD" }
${more}`;
}
