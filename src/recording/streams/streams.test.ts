import { createHmac } from 'node:crypto';
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import { createServer as createTcpServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { createServer as createTlsServer } from 'node:tls';
import { afterEach, describe, expect, test } from 'vitest';
import { Statement } from '../../../protocols/statement.ts';
import { makeAuthority } from '../../../test/support/certificates.ts';
import { pipelineOf, sessionStart, TemporaryDirectory } from '../../../test/support/recording.ts';
import { newId } from '../../lib/id.ts';
import type { JournalEvent } from '../events.ts';
import { type Journal, openJournal } from '../journal.ts';
import { loadRecordingKeys, type RecordingKeys } from '../keys.ts';
import { Pipeline, type StreamOptions } from '../pipeline.ts';
import { listSegments } from '../reader.ts';

const QUIET = { info: () => {}, error: () => {} };
const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

interface World {
  readonly keys: RecordingKeys;
  readonly journal: Journal;
  readonly pipeline: Pipeline;
}

async function start(
  dataDir: string,
  streams: Record<string, StreamOptions>,
  resumed = false,
): Promise<World> {
  const keys = await loadRecordingKeys(dataDir, []);
  const journal = await openJournal({
    dataDir,
    gateway: 'gw-test',
    keys,
    durability: 'flushed',
    onFailure: 'refuse',
  });
  const pipeline = await Pipeline.make(
    {
      ...pipelineOf(dataDir, 'gw-test', journal, keys),
      store: { type: 'directory', path: join(dataDir, 'store') },
      index: 'off',
      streams,
    },
    QUIET,
    resumed,
  );
  return { keys, journal, pipeline };
}

async function stop({ journal, pipeline }: World): Promise<void> {
  await journal.close();
  await pipeline.finish();
}

function talk(journal: Journal, ...texts: string[]): string {
  const record = journal.session(sessionStart(newId()));
  for (const text of texts) {
    const statement = new Statement('query', text, Buffer.byteLength(text));
    record.begin(statement);
    statement.status = text.includes('bad') ? 'error' : 'ok';
    record.end(statement);
  }
  record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
  journal.flush();
  return record.id;
}

const texts = (events: readonly JournalEvent[]): (string | null)[] =>
  events.flatMap((event) => (event.type === 'statement_started' ? [event.text] : []));

const parse = (lines: string): JournalEvent[] =>
  lines
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as JournalEvent);

/** An HTTP receiver; `answer` gives the status of each delivery. */
async function receiver(answer: (delivery: number) => number): Promise<{
  url: string;
  taken: { headers: IncomingHttpHeaders; body: string; path: string }[];
}> {
  const taken: { headers: IncomingHttpHeaders; body: string; path: string }[] = [];
  let deliveries = 0;
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => {
      body += chunk.toString('utf8');
    });
    request.on('end', () => {
      deliveries += 1;
      const status = answer(deliveries);
      if (status === 200) taken.push({ headers: request.headers, body, path: request.url ?? '' });
      response.writeHead(status).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => server.close());
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}/hook`,
    taken,
  };
}

describe('a file', () => {
  test('has every event once and in order, over a restart and a rotation of the file', async () => {
    using directory = new TemporaryDirectory();
    const path = join(directory.path, 'events.jsonl');
    const streams = { lines: { type: 'file' as const, path } };
    const first = await start(directory.path, streams);
    talk(first.journal, 'SELECT 1', 'SELECT 2');
    await first.pipeline.run();
    await expect.poll(() => existsSync(path) && readFileSync(path, 'utf8')).toContain('session_ended');
    renameSync(path, `${path}.1`);
    talk(first.journal, 'SELECT 3');
    await first.pipeline.run();
    await expect.poll(() => existsSync(path)).toBe(true);
    await stop(first);
    const second = await start(directory.path, streams);
    talk(second.journal, 'SELECT 4');
    await second.pipeline.run();
    await stop(second);
    const before = parse(readFileSync(`${path}.1`, 'utf8'));
    const behind = parse(readFileSync(path, 'utf8'));
    expect(texts(before)).toEqual(['SELECT 1', 'SELECT 2']);
    expect(texts(behind)).toEqual(['SELECT 3', 'SELECT 4']);
    expect(listSegments(second.journal.directory)).toEqual([]);
  });
});

describe('a webhook', () => {
  test('signs its deliveries, and sends what was not taken again, the same and in order', async () => {
    using directory = new TemporaryDirectory();
    const secret = join(directory.path, 'secret');
    writeFileSync(secret, 'key of the hook\n');
    let away = true;
    const { url, taken } = await receiver(() => (away ? 503 : 200));
    const world = await start(directory.path, { hook: { type: 'webhook', url, secret_file: secret } });
    talk(world.journal, 'SELECT 1');
    await world.pipeline.run();
    await expect.poll(() => world.pipeline.status.streams[0]!.error).toMatch(/answered 503/);
    talk(world.journal, 'SELECT 2');
    away = false;
    await expect
      .poll(
        async () => {
          await world.pipeline.run();
          return taken.length;
        },
        { timeout: 10_000 },
      )
      .toBeGreaterThan(1);
    await stop(world);
    const events = taken.flatMap(({ body }) => parse(body));
    expect(texts(events)).toEqual(['SELECT 1', 'SELECT 2']);
    for (const { headers, body } of taken) {
      const [, seconds, signature] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(
        String(headers['sallyport-signature']),
      )!;
      expect(signature).toBe(
        createHmac('sha256', 'key of the hook').update(`${seconds}.${body}`).digest('hex'),
      );
    }
    expect(new Set(taken.map(({ headers }) => headers['sallyport-delivery'])).size).toBe(taken.length);
  });

  test('a receiver that is away over a restart of the gateway gets everything, and its segments are kept for it', async () => {
    using directory = new TemporaryDirectory();
    let away = true;
    const { url, taken } = await receiver(() => (away ? 500 : 200));
    const streams = { hook: { type: 'webhook' as const, url } };
    const first = await start(directory.path, streams);
    talk(first.journal, 'SELECT 1');
    await first.pipeline.run();
    await stop(first);
    expect(listSegments(first.journal.directory).length).toBe(1);
    const second = await start(directory.path, streams);
    talk(second.journal, 'SELECT 2');
    await second.pipeline.run();
    await expect.poll(() => second.pipeline.status.streams[0]!.error).not.toBeNull();
    away = false;
    await expect
      .poll(
        async () => {
          await second.pipeline.run();
          return texts(taken.flatMap(({ body }) => parse(body)));
        },
        { timeout: 10_000 },
      )
      .toEqual(['SELECT 1', 'SELECT 2']);
    await expect
      .poll(async () => {
        await second.pipeline.run();
        return listSegments(second.journal.directory).filter(({ boot }) => boot !== second.journal.boot);
      })
      .toEqual([]);
    await stop(second);
  });

  test('is never sent where a redirect points', async () => {
    using directory = new TemporaryDirectory();
    const other = await receiver(() => 200);
    const server = createServer((_, response) => response.writeHead(307, { location: other.url }).end());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => server.close());
    const address = server.address();
    const url = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}/`;
    const world = await start(directory.path, { hook: { type: 'webhook', url } });
    talk(world.journal, 'SELECT 1');
    await world.pipeline.run();
    await expect.poll(() => world.pipeline.status.streams[0]!.error).not.toBeNull();
    expect(other.taken).toEqual([]);
    await stop(world);
  });
});

describe('OpenTelemetry', () => {
  test('gets log records with times, severity and attributes', async () => {
    using directory = new TemporaryDirectory();
    const { url, taken } = await receiver(() => 200);
    const world = await start(directory.path, {
      otel: { type: 'otlp', url: new URL('/', url).href, headers: { 'x-tenant': 'shop' } },
    });
    const id = talk(world.journal, 'SELECT bad');
    await world.pipeline.run();
    await expect.poll(() => taken.length).toBeGreaterThan(0);
    await stop(world);
    expect(taken[0]).toMatchObject({
      path: '/v1/logs',
      headers: { 'x-tenant': 'shop', 'content-type': 'application/json' },
    });
    const records = taken.flatMap(({ body }) => JSON.parse(body).resourceLogs[0].scopeLogs[0].logRecords);
    const ended = records.find(({ eventName }) => eventName === 'sallyport.statement_ended');
    expect(ended).toMatchObject({ severityText: 'WARN', timeUnixNano: expect.stringMatching(/^\d{19}$/) });
    expect(ended.attributes).toContainEqual({ key: 'session.id', value: { stringValue: id } });
    expect(JSON.parse(ended.body.stringValue)).toMatchObject({ type: 'statement_ended', status: 'error' });
  });
});

describe('syslog', () => {
  /** Takes octet-counted messages apart. */
  function messages(bytes: Buffer): string[] {
    const found: string[] = [];
    for (let at = 0; at < bytes.length; ) {
      const blank = bytes.indexOf(0x20, at);
      const length = Number(bytes.toString('latin1', at, blank));
      found.push(bytes.toString('utf8', blank + 1, blank + 1 + length));
      at = blank + 1 + length;
    }
    return found;
  }

  test('RFC 5424 over TLS, with octet counting; a receiver that nobody vouches for gets nothing', async () => {
    using directory = new TemporaryDirectory();
    const authority = await makeAuthority('syslog');
    const { cert, key } = await authority.issue({ commonName: 'localhost' });
    let received = Buffer.alloc(0);
    const server = createTlsServer({ cert, key }, (socket) => {
      socket.on('data', (chunk: Buffer) => {
        received = Buffer.concat([received, chunk]);
      });
      socket.on('error', () => {});
    });
    server.on('tlsClientError', () => {});
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => server.close());
    const address = server.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const ca = join(directory.path, 'ca.pem');
    writeFileSync(ca, authority.cert);
    const untrusted = await start(directory.path, {
      siem: { type: 'syslog', host: 'localhost', port, tls: true },
    });
    talk(untrusted.journal, 'SELECT 1');
    await untrusted.pipeline.run();
    await expect
      .poll(() => untrusted.pipeline.status.streams[0]!.error)
      .toMatch(/certificate|issuer|unable/i);
    await stop(untrusted);
    expect(received.length).toBe(0);
    const world = await start(directory.path, {
      siem: { type: 'syslog', host: 'localhost', port, tls: true, ca },
    });
    talk(world.journal, 'SELECT "é" bad');
    await world.pipeline.run();
    await expect.poll(() => received.toString('utf8')).toContain('é');
    await stop(world);
    const all = messages(received);
    for (const message of all)
      expect(message).toMatch(
        /^<(108|110)>1 \d{4}-\d\d-\d\dT[\d:.]{15}Z \S+ sallyport gw-test \S+ - \ufeff\{.*\}$/u,
      );
    expect(texts(all.map((message) => JSON.parse(message.slice(message.indexOf('\ufeff') + 1))))).toEqual([
      'SELECT 1',
      'SELECT "é" bad',
    ]);
    expect(all.find((message) => message.includes('"status":"error"'))).toMatch(/^<108>/);
  });

  test('goes on at a new connection when the receiver closed the old one', async () => {
    using directory = new TemporaryDirectory();
    let received = '';
    const sockets: Socket[] = [];
    const server = createTcpServer((socket) => {
      sockets.push(socket);
      socket.on('data', (chunk: Buffer) => {
        received += chunk.toString('utf8');
      });
      socket.on('error', () => {});
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    closing.push(() => server.close());
    const address = server.address();
    const port = typeof address === 'object' && address !== null ? address.port : 0;
    const world = await start(directory.path, {
      siem: { type: 'syslog', host: '127.0.0.1', port, tls: false },
    });
    talk(world.journal, 'SELECT 1');
    await world.pipeline.run();
    await expect.poll(() => received).toContain('SELECT 1');
    for (const socket of sockets) socket.destroy();
    await expect
      .poll(
        async () => {
          talk(world.journal, 'SELECT 2');
          await world.pipeline.run();
          return received;
        },
        { timeout: 10_000 },
      )
      .toContain('SELECT 2');
    await stop(world);
    rmSync(directory.path, { recursive: true });
  });
});
