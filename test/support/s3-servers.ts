import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** S3 servers that the tests run against: each has versions, object lock and multipart uploads. */

export interface S3Server {
  readonly endpoint: string;
  close(): Promise<void>;
}

export const S3_CREDENTIALS = { accessKeyId: 'sallyport', secretAccessKey: 'a-secret-of-the-tests' };

const CLIENTS = fileURLToPath(new URL('../../var/clients/', import.meta.url));

/** By name. `versitygw` is a gateway that people run in production, on a folder; `moto` keeps all in memory. */
export const S3_SERVERS: Readonly<Record<string, () => Promise<S3Server>>> = {
  versitygw: async () => {
    const root = mkdtempSync(join(tmpdir(), 'sallyport-s3-'));
    for (const folder of ['buckets', 'versions']) mkdirSync(join(root, folder));
    const port = await freePort();
    const command = join(CLIENTS, 'bin', 'versitygw');
    const keys = ['--access', S3_CREDENTIALS.accessKeyId, '--secret', S3_CREDENTIALS.secretAccessKey];
    const folders = ['posix', '--versioning-dir', join(root, 'versions'), join(root, 'buckets')];
    return start(command, ['--port', `127.0.0.1:${port}`, '--quiet', ...keys, ...folders], port, () =>
      rmSync(root, { recursive: true, force: true }),
    );
  },
  moto: async () => {
    const port = await freePort();
    const command = join(CLIENTS, 'python', 'bin', 'moto_server');
    return start(command, ['-H', '127.0.0.1', '-p', String(port)], port, () => {});
  },
};

async function start(
  command: string,
  args: readonly string[],
  port: number,
  gone: () => void,
): Promise<S3Server> {
  if (!existsSync(command)) throw new Error(`${command} is missing: run node scripts/clients.cjs`);
  const server = spawn(command, args, { stdio: 'ignore' });
  const endpoint = `http://127.0.0.1:${port}`;
  await answering(server, endpoint);
  return {
    endpoint,
    close: async () => {
      server.kill();
      if (server.exitCode === null && server.signalCode === null) await once(server, 'exit');
      gone();
    },
  };
}

async function answering(server: ChildProcess, endpoint: string): Promise<void> {
  for (let attempt = 0; attempt < 300 && server.exitCode === null; attempt += 1) {
    const answered = await fetch(endpoint).then(
      () => true,
      () => false,
    );
    if (answered) return;
    await sleep(100);
  }
  server.kill();
  throw new Error('the S3 server did not start');
}

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const address = probe.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}
