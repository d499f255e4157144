import { createServer, type IncomingMessage } from 'node:http';
import { connect, createServer as createTcp, type Server, type Socket } from 'node:net';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type Authority, makeAuthority } from '../../test/support/certificates.ts';
import { type HttpDouble, startHttpDouble } from '../../test/support/secret-stores/http-double.ts';
import { HttpClient } from './http.ts';

let authority: Authority;
const closing: { close(): unknown }[] = [];
beforeAll(async () => {
  authority = await makeAuthority('HTTP test');
});
afterEach(async () => {
  for (const one of closing.splice(0)) await one.close();
});

const signal = (): AbortSignal => new AbortController().signal;

async function tlsServer(options: { hosts: string[]; days?: number }): Promise<HttpDouble> {
  const { chain, key } = await authority.issue({ commonName: 'store', ...options });
  const server = await startHttpDouble(() => ({ status: 200, body: { fine: true } }), { cert: chain, key });
  closing.push(server);
  return server;
}

function clientWith(options: ConstructorParameters<typeof HttpClient>[1] = {}): HttpClient {
  const client = new HttpClient('p', options);
  closing.push(client);
  return client;
}

const trusting = (): HttpClient => clientWith({ ca: Buffer.from(authority.cert) });
const ask = (client: HttpClient, url: string): Promise<{ status: number; body: Buffer }> =>
  client.send({ method: 'GET', url: new URL(url) }, signal());

describe('certificates', () => {
  test('of a known authority', async () => {
    const { url } = await tlsServer({ hosts: ['127.0.0.1'] });
    expect((await ask(trusting(), url)).status).toBe(200);
  });

  test.each([
    ['of another name', { hosts: ['else.example'] }, /another name/],
    ['that has expired', { hosts: ['127.0.0.1'], days: -3 }, /expired/],
  ])('%s', async (_, options, message) => {
    const { url } = await tlsServer(options);
    await expect(ask(trusting(), url)).rejects.toMatchObject({
      code: 'denied',
      message: expect.stringMatching(message),
    });
  });

  test('of an authority that is not known', async () => {
    const { url } = await tlsServer({ hosts: ['127.0.0.1'] });
    await expect(ask(clientWith(), url)).rejects.toMatchObject({
      code: 'denied',
      hint: expect.stringContaining('"ca"'),
    });
  });
});

describe('answers', () => {
  test('that are too long are not kept', async () => {
    const server = await startHttpDouble(() => ({ status: 200, body: Buffer.alloc(3 * 1024 * 1024) }));
    closing.push(server);
    await expect(ask(clientWith(), server.url)).rejects.toMatchObject({ code: 'malformed' });
  });

  test('that break off, and servers that hang up', async () => {
    const server = createTcp((socket: Socket) => {
      socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf'));
      socket.on('error', () => {});
    });
    await listen(server);
    await expect(ask(clientWith(), addressOf(server))).rejects.toMatchObject({ code: 'unavailable' });
    const rude = createTcp((socket: Socket) => socket.destroy());
    await listen(rude);
    await expect(ask(clientWith(), addressOf(rude))).rejects.toMatchObject({ code: 'unavailable' });
  });

  test('nobody there', async () => {
    await expect(ask(clientWith(), 'http://127.0.0.1:1/')).rejects.toThrow('nothing listens there');
    await expect(ask(clientWith(), 'http://nowhere.invalid/')).rejects.toMatchObject({ code: 'unavailable' });
  });

  test('redirects are answers like others', async () => {
    const server = await startHttpDouble(() => ({
      status: 302,
      headers: { location: 'http://127.0.0.1:1/' },
    }));
    closing.push(server);
    expect((await ask(clientWith(), server.url)).status).toBe(302);
  });
});

describe('a proxy', () => {
  /** A CONNECT proxy that leads every name to `port`. */
  async function proxyTo(port: number): Promise<{ url: string; asked: string[] }> {
    const asked: string[] = [];
    const server = createServer();
    server.on('connect', (request: IncomingMessage, client: Socket) => {
      asked.push(request.url ?? '');
      const upstream = connect(port, '127.0.0.1', () => {
        client.write('HTTP/1.1 200 Connection established\r\n\r\n');
        upstream.pipe(client).pipe(upstream);
      });
      for (const socket of [upstream, client]) socket.on('error', () => {});
    });
    await listen(server);
    return { url: addressOf(server), asked };
  }

  test('of the environment is used, but not for this machine, nor where it is ruled out', async () => {
    const server = await tlsServer({ hosts: ['vault.invalid', '127.0.0.1'] });
    const proxy = await proxyTo(server.port);
    const kept = process.env['HTTPS_PROXY'];
    process.env['HTTPS_PROXY'] = proxy.url;
    try {
      const client = trusting();
      expect((await ask(client, 'https://vault.invalid:8200/')).status).toBe(200);
      expect(proxy.asked).toEqual(['vault.invalid:8200']);
      expect((await ask(client, server.url)).status).toBe(200);
      expect(proxy.asked).toHaveLength(1);
      const direct = clientWith({ direct: true });
      await expect(ask(direct, 'https://vault.invalid:8200/')).rejects.toMatchObject({ code: 'unavailable' });
    } finally {
      if (kept === undefined) delete process.env['HTTPS_PROXY'];
      else process.env['HTTPS_PROXY'] = kept;
    }
  });
});

async function listen(server: Server): Promise<void> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => sockets.add(socket));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push({
    close: () => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    },
  });
}

function addressOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`;
}
