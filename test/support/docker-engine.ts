import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * As much of a Docker engine's HTTP interface as testcontainers needs to run one image: a test double, for machines that
 * have no engine. Its containers run nothing; the port that one is said to listen on is a server of the test's own.
 */
export interface EngineDouble {
  /** For DOCKER_HOST. */
  readonly host: string;
  /** The containers that were made, as they were asked for. */
  readonly created: { Image: string; Env: string[] }[];
  /** Ids of those that were removed. */
  readonly removed: string[];
  readonly pulls: string[];
  close(): Promise<void>;
}

export interface EngineOptions {
  /** Where the container's one port is found. */
  readonly hostPort: number;
  /** The image cannot be had. */
  readonly unreachable?: boolean;
  /** What the container writes when it has started. */
  readonly log: string;
}

export async function startEngineDouble(options: EngineOptions): Promise<EngineDouble> {
  const double = new Engine(options);
  const server = createServer((request, response) => void double.answer(request, response));
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return Object.assign(double, {
    host: `tcp://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  });
}

class Engine {
  readonly created: EngineDouble['created'] = [];
  readonly removed: string[] = [];
  readonly pulls: string[] = [];
  readonly #options: EngineOptions;
  #pulled = false;

  constructor(options: EngineOptions) {
    this.#options = options;
  }

  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://engine');
    const path = url.pathname.replace(/^\/v[\d.]+/, '');
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const json = (status: number, value: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(value));
    };
    if (path === '/info') return json(200, { OperatingSystem: 'double', OSType: 'linux', Architecture: 'x' });
    if (path === '/containers/json') return json(200, []);
    if (path.startsWith('/images/') && path.endsWith('/json')) {
      return this.#pulled ? json(200, { Id: 'image', Config: {} }) : json(404, { message: 'No such image' });
    }
    if (path === '/images/create') {
      this.pulls.push(`${url.searchParams.get('fromImage')}:${url.searchParams.get('tag')}`);
      if (this.#options.unreachable) {
        return json(500, { message: 'Get "https://registry.invalid/v2/": no such host' });
      }
      this.#pulled = true;
      return json(200, { status: 'Pull complete' });
    }
    if (path === '/containers/create') {
      this.created.push(JSON.parse(Buffer.concat(chunks).toString()));
      return json(201, { Id: `container-${this.created.length}`, Warnings: [] });
    }
    const [, id, act] = /^\/containers\/([^/]+)(?:\/(\w+))?$/.exec(path) ?? [];
    if (id === undefined) return json(404, { message: `the double does not know ${path}` });
    if (request.method === 'DELETE') {
      this.removed.push(id);
      return json(204, null);
    }
    if (act === 'json') return json(200, this.#inspected(id));
    if (act === 'logs') return this.#logs(response);
    return json(204, null);
  }

  #inspected(id: string): unknown {
    const now = new Date().toISOString();
    return {
      Id: id,
      Name: `/${id}`,
      Config: { Hostname: id, Labels: {}, Env: [] },
      State: { Status: 'running', Running: true, StartedAt: now, FinishedAt: now },
      HostConfig: { PortBindings: { '1433/tcp': [{ HostIp: '', HostPort: '0' }] } },
      NetworkSettings: {
        Ports: { '1433/tcp': [{ HostIp: '0.0.0.0', HostPort: String(this.#options.hostPort) }] },
        Networks: {},
      },
    };
  }

  /** Frames of the log: stream number, three zeros, length, text. */
  #logs(response: ServerResponse): void {
    const text = Buffer.from(`${this.#options.log}\n`);
    const head = Buffer.alloc(8);
    head[0] = 1;
    head.writeUInt32BE(text.length, 4);
    response.writeHead(200, { 'content-type': 'application/vnd.docker.raw-stream' });
    response.write(Buffer.concat([head, text]));
  }
}
