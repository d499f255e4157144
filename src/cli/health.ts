import { existsSync, readFileSync } from 'node:fs';
import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { parse } from 'yaml';
import { ExitCode } from './exit-codes.ts';

/** A health check that takes longer than this has failed: container runtimes give theirs a few seconds. Ours. */
const ANSWER_MS_MAX = 4_000;
/** `/readyz` answers with a line a part. Ours. */
const ANSWER_BYTES_MAX = 256 * 1024;
/** Where packages and images keep the configuration, and where people try things. */
const CONFIG_PATHS = ['/etc/sallyport/config.yaml', 'config.yaml'];
const DATA_DIRECTORY_DEFAULT = './var/sallyport';

interface HealthOptions {
  readonly url?: string;
  readonly config?: string;
  readonly dataDir?: string;
  readonly json?: boolean;
}

export function register(program: Command): void {
  program
    .command('health')
    .summary('ask the gateway whether it can serve')
    .description(
      'Asks /readyz of the gateway on this machine and ends with 0 when it can serve, else with 1. For health checks of containers and services.',
    )
    .option('--url <url>', 'the gateway, http://HOST:PORT or unix:/path; default: that of the configuration')
    .option('-c, --config <file>', `the configuration file; default: ${CONFIG_PATHS.join(', else ')}`)
    .option('--data-dir <folder>', "the gateway's data_dir, instead of its configuration")
    .option('--json', 'the answer as JSON')
    .action(health);
}

async function health(options: HealthOptions): Promise<void> {
  const url = options.url ?? ownAddress(options);
  const { status, text } = await ask(url, options.url !== undefined);
  if (options.json === true) console.log(text);
  else for (const line of linesOf(url, status, text)) console.log(line);
  process.exitCode = status === 200 ? ExitCode.ok : ExitCode.failure;
}

/**
 * The address that the gateway of this machine wrote into its data directory. Of the configuration only `data_dir` is
 * read: a file with a fault in it that nobody has loaded yet says nothing about the gateway that runs.
 */
function ownAddress(options: HealthOptions): string {
  const file = join(options.dataDir ?? dataDirectoryOf(options.config), 'api.url');
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (cause) {
    throw new Error(`${file} cannot be read; does the gateway run, and is it yours?`, { cause });
  }
}

function dataDirectoryOf(chosen: string | undefined): string {
  const path = chosen ?? CONFIG_PATHS.find((one) => existsSync(one));
  if (path === undefined)
    throw new Error(
      `there is no ${CONFIG_PATHS.join(' and no ')}; name the configuration with --config FILE, or the gateway with --url URL`,
    );
  const config = parse(readFileSync(path, 'utf8')) as { gateway?: { data_dir?: unknown } } | null;
  const written = config?.gateway?.data_dir;
  return resolve(dirname(path), typeof written === 'string' ? written : DATA_DIRECTORY_DEFAULT);
}

/**
 * Asks `/readyz`. With `verify` the certificate of an `https:` address must be good. The gateway of this machine is asked at
 * its own address, for which its certificate need not be made out; nothing secret is sent.
 */
function ask(address: string, verify: boolean): Promise<{ status: number; text: string }> {
  const socketPath = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined;
  const url = new URL('/readyz', socketPath === undefined ? address : 'http://localhost');
  // What listens on every address is asked on the loopback one.
  if (url.hostname === '0.0.0.0') url.hostname = '127.0.0.1';
  if (url.hostname === '[::]') url.hostname = '[::1]';
  const request = url.protocol === 'https:' ? requestHttps : requestHttp;
  return new Promise((resolved, reject) => {
    const failed = (cause: Error): void =>
      reject(new Error(`${address} cannot be reached: ${cause.message}`, { cause }));
    const outgoing = request(
      url,
      { socketPath, rejectUnauthorized: verify, signal: AbortSignal.timeout(ANSWER_MS_MAX), agent: false },
      (incoming) => {
        let text = '';
        incoming.setEncoding('utf8');
        incoming.on('data', (chunk: string) => {
          text += chunk;
          if (text.length > ANSWER_BYTES_MAX) outgoing.destroy(new Error('the answer is too large'));
        });
        incoming.on('end', () => resolved({ status: incoming.statusCode ?? 0, text }));
        incoming.on('error', failed);
      },
    );
    outgoing.on('error', (error) =>
      failed(error.name === 'AbortError' ? new Error(`no answer within ${ANSWER_MS_MAX / 1000} s`) : error),
    );
    outgoing.end();
  });
}

interface Answer {
  readonly status?: string;
  readonly parts?: readonly { name: string; ready: boolean; detail: string | null }[];
}

function linesOf(url: string, status: number, text: string): string[] {
  let answer: Answer;
  try {
    answer = JSON.parse(text) as Answer;
  } catch {
    return [`what answers at ${url} is not Sallyport (status ${status})`];
  }
  const parts = answer.parts ?? [];
  return [
    answer.status ?? `status ${status}`,
    ...parts.map(
      ({ name, ready, detail }) =>
        `  ${ready ? 'ok    ' : 'FAILED'} ${name}${detail === null ? '' : `: ${detail}`}`,
    ),
  ];
}
