import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { freePort } from '../../../bench/lib/process.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';

/** Two gateway processes as a user would start them, behind one address as far as clients know. */

const command = fileURLToPath(new URL('../../../bin/sallyport.js', import.meta.url));
let server: PostgresServer;
let folder: string;
const children: ReturnType<typeof spawn>[] = [];
let ports: number[];

beforeAll(async () => {
  server = await startPostgres();
  folder = mkdtempSync(join(tmpdir(), 'sallyport-processes-'));
  ports = [await freePort(), await freePort()];
  const http = [await freePort(), await freePort()];
  await Promise.all(
    [0, 1].map(async (index) => {
      const path = join(folder, `gateway-${index}.yaml`);
      writeFileSync(
        path,
        `gateway:
  { name: gw-${index}, data_dir: ./data-${index}, peers: ["http://127.0.0.1:${http[1 - index]}"], peer_secret: "env:PEER_SECRET" }
http: { listen: "127.0.0.1:${http[index]}" }
secrets: { env: { type: env } }
resources:
  orders:
    type: postgres
    host: 127.0.0.1
    port: ${server.port}
    database: ${server.database}
    tls: { mode: disable }
    launch_credentials: { username: ${server.accounts.launch.user}, password: "env:ORDERS_PASSWORD" }
listeners:
  - { listen: "127.0.0.1:${ports[index]}", resource: orders, client_auth: trust }
`,
      );
      const child = spawn(process.execPath, [command, 'start', '--config', path], {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: {
          ...process.env,
          ORDERS_PASSWORD: server.accounts.launch.password!,
          PEER_SECRET: 'between the two',
        },
      });
      children.push(child);
      await new Promise<void>((resolve) => {
        child.stdout!.on('data', (chunk: Buffer) => {
          if (chunk.toString('utf8').includes('"ready"')) resolve();
        });
      });
    }),
  );
});

afterAll(async () => {
  for (const child of children) child.kill('SIGTERM');
  await Promise.all(children.map((child) => new Promise((resolve) => child.once('exit', resolve))));
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
});

test('a cancel request that reaches the other process stops the statement', async () => {
  const client = new pg.Client({
    host: '127.0.0.1',
    port: ports[0]!,
    user: 'anybody',
    database: server.database,
  });
  await client.connect();
  const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
  const running = client.query('select pg_sleep(60)');
  const failed = expect(running).rejects.toMatchObject({ code: '57014' });
  // The statement must be there before its cancel is.
  while (
    (
      await server.query(
        "select 1 from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()",
      )
    ).length === 0
  );
  const request = Buffer.alloc(16);
  request.writeInt32BE(16, 0);
  request.writeInt32BE(80877102, 4);
  request.writeInt32BE(processID, 8);
  request.writeInt32BE(secretKey, 12);
  const socket = connect({ host: '127.0.0.1', port: ports[1]! });
  socket.end(request);
  await failed;
  expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  await client.end();
});
