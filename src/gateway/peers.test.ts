import { createServer } from 'node:http';
import { expect, test } from 'vitest';
import { makeLog } from '../log.ts';
import { PeerSeal, Peers } from './peers.ts';

const CANCEL = { id: 4711, secret: Buffer.from('01020304', 'hex'), host: '10.1.2.3' };
const log = makeLog('json', 'fatal', { write: () => {} });

test('what a peer signed is read, and nothing else', () => {
  let now = 1_000_000;
  const seal = new PeerSeal('shared', () => now);
  const { body, signature } = seal.seal(CANCEL);
  expect(seal.open(body, signature)).toEqual(CANCEL);
  expect(new PeerSeal('other', () => now).open(body, signature)).toBeNull();
  expect(seal.open(body.replace('4711', '4712'), signature)).toBeNull();
  expect(seal.open(body, undefined)).toBeNull();
  expect(seal.open(body, 'AAAA')).toBeNull();
  now += 60_000;
  expect(seal.open(body, signature)).toBeNull();
});

test('one peer that has the session is enough, whatever the others do', async () => {
  const seal = new PeerSeal('shared', Date.now);
  const answers = ['unknown', 'cancelled'];
  const servers = answers.map((answer) =>
    createServer((request, response) => {
      let body = '';
      request.on('data', (chunk) => {
        body += chunk;
      });
      request.on('end', () => {
        const known = seal.open(body, String(request.headers['sallyport-signature']));
        response.writeHead(known === null ? 403 : 200).end(answer);
      });
    }),
  );
  const ports = await Promise.all(
    servers.map(
      (server) =>
        new Promise<number>((resolve) =>
          server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port)),
        ),
    ),
  );
  const urls = [...ports.map((port) => `http://127.0.0.1:${port}`), 'http://127.0.0.1:1'];
  try {
    expect(await new Peers(urls, seal, null, log).cancel(CANCEL)).toBe(true);
    expect(await new Peers([urls[0]!, urls[2]!], seal, null, log).cancel(CANCEL)).toBe(false);
    expect(await new Peers(urls, new PeerSeal('wrong', Date.now), null, log).cancel(CANCEL)).toBe(false);
  } finally {
    for (const server of servers) server.close();
  }
});
