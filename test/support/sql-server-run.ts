import { createServer } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net';
import type { TestProject } from 'vitest/node';
import { engineAnswers, sqlServerContainer } from './containers.ts';
import { chooseSqlServer, containerFailure, type SqlServerChoice } from './sql-server-choice.ts';

/**
 * One SQL Server for a whole run. Test files run in processes of their own; the first that needs a server asks this
 * process for it, and the others get the same.
 */

/**
 * Where a server is, or null: the test double is to be used. It is always on 127.0.0.1, where clients of all kinds look for
 * it: what is elsewhere is brought there.
 */
export type SqlServerOffer = {
  readonly host: '127.0.0.1';
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly database: string;
} | null;

declare module 'vitest' {
  interface ProvidedContext {
    /** URL that answers with a `SqlServerOffer`, or 500 and a text that says why there is none. */
    sqlServerOffer: string;
  }
}

/** Less than the hooks of a test may take: what pulls for longer goes on, and the next run finds it. */
const READY_MS_MAX = 165_000;

export class SqlServerRun {
  readonly #environment: Readonly<Record<string, string | undefined>>;
  readonly #say: (line: string) => void;
  #offer: Promise<SqlServerOffer> | null = null;
  #container: Promise<{ close(): Promise<void> }> | null = null;
  #forwarder: Forwarder | null = null;

  constructor(
    environment: Readonly<Record<string, string | undefined>>,
    say: (line: string) => void = console.error,
  ) {
    this.#environment = environment;
    this.#say = say;
  }

  /** The same for all who ask. Rejects where a server must be there and is not. */
  offer(): Promise<SqlServerOffer> {
    this.#offer ??= this.#choose();
    return this.#offer;
  }

  async stop(): Promise<void> {
    const container = await this.#container?.catch(() => null);
    await container?.close();
    await this.#forwarder?.close();
  }

  async #choose(): Promise<SqlServerOffer> {
    const asked = this.#environment['SALLYPORT_TEST_MSSQL_URL'] ?? '';
    const choice = chooseSqlServer(this.#environment, asked === '' && (await engineAnswers()));
    if (choice.from === 'url') return this.#near(reachableOf(choice.url));
    this.#say(choice.line);
    return choice.from === 'double' ? null : this.#contained(choice);
  }

  async #contained({
    image,
    required,
  }: Extract<SqlServerChoice, { from: 'container' }>): Promise<SqlServerOffer> {
    const starting = sqlServerContainer(image);
    this.#container = starting;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        this.#container = null;
        starting.then((container) => container.close()).catch(() => {});
        reject(
          new Error(`it was not ready in ${READY_MS_MAX / 1000} s (try \`docker pull ${image}\` first)`),
        );
      }, READY_MS_MAX);
    });
    try {
      return await this.#near(await Promise.race([starting, late]));
    } catch (error) {
      const message = containerFailure(image, error, required);
      if (required) throw new Error(message, { cause: error });
      this.#say(message);
      return null;
    } finally {
      clearTimeout(timer);
    }
  }

  async #near({ host, port, username, password, database }: Server): Promise<SqlServerOffer> {
    const account = { username, password, database };
    if (host === '127.0.0.1') return { host, port, ...account };
    this.#forwarder = await startForwarder(host, port);
    return { host: '127.0.0.1', port: this.#forwarder.port, ...account };
  }
}

interface Server {
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly database: string;
}

interface Forwarder {
  readonly port: number;
  close(): Promise<void>;
}

/** Carries connections to a loopback port on to a server. */
async function startForwarder(host: string, port: number): Promise<Forwarder> {
  const sockets = new Set<Socket>();
  const server = createTcpServer({ allowHalfOpen: true, noDelay: true }, (near) => {
    const far = connect({ host, port, allowHalfOpen: true, noDelay: true });
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket);
      socket.pipe(other);
      socket.on('error', () => other.destroy());
      socket.on('close', () => sockets.delete(socket));
    }
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
    },
  };
}

function reachableOf(url: URL): Server {
  return {
    host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    port: Number(url.port || 1433),
    username: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
    database: url.pathname.slice(1) || 'tempdb',
  };
}

/** For vitest, once a run: answers the test files, and ends what was started. */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const run = new SqlServerRun(process.env);
  const server = createServer((_request, response) => {
    run.offer().then(
      (offer) => response.end(JSON.stringify(offer)),
      (error: Error) => {
        response.statusCode = 500;
        response.end(error.message);
      },
    );
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  project.provide('sqlServerOffer', `http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  return async () => {
    server.closeAllConnections();
    server.close();
    await run.stop();
  };
}
