import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { Command } from 'commander';
import { App } from '../app.ts';
import { parseConfig } from '../config/load.ts';
import { EmbeddedPostgres } from '../demo/embedded-postgres.ts';
import { sampleSql } from '../demo/sample.ts';
import type { LogFormat } from '../log.ts';
import { makeLog } from '../log.ts';
import { demoDataDirectory } from './data-directory.ts';
import { firstSignal, runUntilSignal } from './start.ts';

const GATEWAY_PORT = 15432;
const HTTP_PORT = 7070;
const DATABASE = 'shop';
const ACCOUNT = 'shop_app';
const PASSWORD_VARIABLE = 'SALLYPORT_DEMO_PASSWORD';
const GRACE_MS = 2_000;

export function register(program: Command): void {
  program
    .command('demo')
    .summary('a database, a gateway before it and a line to try')
    .description(
      'Starts an embedded PostgreSQL whose password nobody is told, and a gateway before it. Prints lines to try, and stays up until Ctrl-C. Needs no account, no Docker and no configuration.',
    )
    .option('--port <number>', 'where the gateway listens', Number, GATEWAY_PORT)
    .option('--log-level <level>', 'trace, debug, info, warn or error', 'warn')
    .option('--log-format <format>', 'pretty or json', 'pretty')
    .action(demo);
}

async function demo(options: { port: number; logLevel: string; logFormat: LogFormat }): Promise<void> {
  console.log('Starting PostgreSQL …');
  const password = randomBytes(24).toString('base64url');
  const databasePort = await freePort(0);
  const database = await EmbeddedPostgres.start({
    port: databasePort,
    database: DATABASE,
    account: ACCOUNT,
    password,
    setup: sampleSql(ACCOUNT),
  });
  const killDatabase = (): void => database.kill();
  process.once('exit', killDatabase);
  // The gateway fetches it from its environment, as it would from a vault.
  process.env[PASSWORD_VARIABLE] = password;
  const port = await freePort(options.port);
  const httpPort = await freePort(HTTP_PORT);
  const dataDirectory = demoDataDirectory();
  const loaded = parseConfig(configText(databasePort, port, httpPort, dataDirectory), 'demo.yaml', {
    files: false,
  });
  const log = makeLog(options.logFormat, options.logLevel);
  const signalled = firstSignal();
  const app = await App.start(loaded, log, { logFormat: options.logFormat });
  console.log(welcome(port, httpPort));
  process.on('SIGHUP', () => {});
  try {
    await runUntilSignal(app, GRACE_MS, log, {
      signalled,
      after: async () => {
        await database.stop();
        process.off('exit', killDatabase);
        console.log('\nStopped. The recordings stay: npx sallyport recordings list');
      },
    });
  } finally {
    delete process.env[PASSWORD_VARIABLE];
  }
}

function configText(databasePort: number, port: number, httpPort: number, dataDirectory: string): string {
  return `
gateway: { name: demo, data_dir: ${JSON.stringify(dataDirectory)}, shutdown_grace: 2s }
http: { listen: "127.0.0.1:${httpPort}" }
secrets: { env: { type: env } }
recording: { store: { type: directory, path: ${JSON.stringify(join(dataDirectory, 'recordings'))} } }
resources:
  shop:
    type: postgres
    host: 127.0.0.1
    port: ${databasePort}
    database: ${DATABASE}
    databases: [${DATABASE}]
    tls: { mode: disable }
    launch_credentials: { username: ${ACCOUNT}, password: "env:${PASSWORD_VARIABLE}" }
listeners:
  - { listen: "127.0.0.1:${port}", resource: shop, client_auth: trust, principal: you }
`;
}

function welcome(port: number, httpPort: number): string {
  const url = `postgres://you@127.0.0.1:${port}/${DATABASE}`;
  // The bundled driver is only there in a checkout.
  const hasDriver = existsSync(new URL('../../node_modules/pg', import.meta.url));
  const node = `node --input-type=module -e "import pg from 'pg'; const c = new pg.Client('${url}'); await c.connect(); console.table((await c.query('select * from orders where total > \\$1 and status = \\$2', [1400, 'paid'])).rows); await c.end()"`;
  return `
Sallyport is up. In a second terminal, without a password:

  psql ${url} -c "select city, count(*), sum(total) from orders join customers c on c.id = customer_id group by city"
${hasDriver ? `\n  ${node}\n` : ''}
The database account behind it is "${ACCOUNT}"; its password was made just now and shown to nobody.
Then see what was recorded:

  npx sallyport recordings replay --last

Health and metrics: http://127.0.0.1:${httpPort}/readyz   http://127.0.0.1:${httpPort}/metrics
Ctrl-C ends it all.
`;
}

/** `preferred` where nobody listens there, else any free port of the loopback address. */
async function freePort(preferred: number): Promise<number> {
  const attempt = (port: number): Promise<number | null> =>
    new Promise((resolve) => {
      const server = createServer();
      server.once('error', () => resolve(null));
      server.listen(port, '127.0.0.1', () => {
        const address = server.address();
        const found = typeof address === 'object' && address !== null ? address.port : null;
        server.close(() => resolve(found));
      });
    });
  const port = (await attempt(preferred)) ?? (await attempt(0));
  if (port === null) throw new Error('no free port on 127.0.0.1');
  return port;
}
