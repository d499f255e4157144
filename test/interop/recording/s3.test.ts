import { writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import {
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  ListMultipartUploadsCommand,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Statement } from '../../../protocols/statement.ts';
import { newId } from '../../../src/lib/id.ts';
import { openJournal } from '../../../src/recording/journal.ts';
import { knownSigningKeys, loadRecordingKeys } from '../../../src/recording/keys.ts';
import { Library } from '../../../src/recording/library.ts';
import { S3_PART_BYTES } from '../../../src/recording/limits.ts';
import { makeStore, Pipeline } from '../../../src/recording/pipeline.ts';
import { spoolFiles } from '../../../src/recording/sealer.ts';
import { S3Store } from '../../../src/recording/store/s3.ts';
import { partKey } from '../../../src/recording/store/store.ts';
import { verifySession } from '../../../src/recording/verify.ts';
import { pipelineOf, sessionStart, TemporaryDirectory } from '../../support/recording.ts';
import { S3_CREDENTIALS, S3_SERVERS, type S3Server } from '../../support/s3-servers.ts';
import { storeContract } from '../../support/store-contract.ts';

let endpoint: string;
let client: S3Client;
let buckets = 0;

async function bucket(lock = false): Promise<string> {
  buckets += 1;
  const Bucket = `recordings-${buckets}`;
  await client.send(new CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: lock }));
  return Bucket;
}

function open(name: string, more: object = {}, at = endpoint): Promise<S3Store> {
  return S3Store.open(
    { type: 's3', bucket: name, prefix: 'sallyport/', region: 'us-east-1', endpoint: at, ...more },
    { credentials: S3_CREDENTIALS, maxAttempts: 1 },
  );
}

describe.each(Object.entries(S3_SERVERS))('a bucket of %s', (_, start) => {
  let server: S3Server;

  beforeAll(async () => {
    server = await start();
    endpoint = server.endpoint;
    client = new S3Client({
      endpoint,
      region: 'us-east-1',
      forcePathStyle: true,
      credentials: S3_CREDENTIALS,
    });
  }, 60_000);

  afterAll(async () => {
    client?.destroy();
    await server?.close();
  });

  storeContract(async () => open(await bucket()));

  test('an upload that was cut short goes on behind the parts that the store has', async () => {
    using directory = new TemporaryDirectory();
    const Bucket = await bucket();
    const key = partKey(newId(), 1);
    const content = Buffer.alloc(3 * S3_PART_BYTES + 5);
    for (let at = 0; at < content.length; at += 4096) content.writeUInt32LE(at, at);
    const path = join(directory.path, 'part');
    writeFileSync(path, content);
    const Key = `sallyport/${key}`;
    const { UploadId } = await client.send(new CreateMultipartUploadCommand({ Bucket, Key }));
    await client.send(
      new UploadPartCommand({
        Bucket,
        Key,
        UploadId,
        PartNumber: 1,
        Body: content.subarray(0, S3_PART_BYTES),
      }),
    );
    const sent: string[] = [];
    const store = await open(Bucket, {});
    const counting = countRequests(sent);
    const through = await open(Bucket, {}, await counting.listen(endpoint));
    await through.put(key, path);
    expect(sent.filter((line) => /^PUT .*partNumber=1&/.test(line) || /partNumber=1$/.test(line))).toEqual(
      [],
    );
    expect(sent.filter((line) => /^PUT .*partNumber=/.test(line)).length).toBe(3);
    expect((await store.get(key)).equals(content)).toBe(true);
    expect((await client.send(new ListMultipartUploadsCommand({ Bucket }))).Uploads ?? []).toEqual([]);
    await through.close();
    await store.close();
    counting.close();
  });

  test('an unfinished upload of other bytes is given up', async () => {
    using directory = new TemporaryDirectory();
    const Bucket = await bucket();
    const key = partKey(newId(), 1);
    const content = Buffer.alloc(2 * S3_PART_BYTES, 'right');
    const path = join(directory.path, 'part');
    writeFileSync(path, content);
    const Key = `sallyport/${key}`;
    const { UploadId } = await client.send(new CreateMultipartUploadCommand({ Bucket, Key }));
    await client.send(
      new UploadPartCommand({
        Bucket,
        Key,
        UploadId,
        PartNumber: 1,
        Body: Buffer.alloc(S3_PART_BYTES, 'wrong'),
      }),
    );
    const store = await open(Bucket);
    await store.put(key, path);
    expect((await store.get(key)).equals(content)).toBe(true);
    await store.close();
  });

  test('a locked recording cannot be deleted, and the store says why', async () => {
    using directory = new TemporaryDirectory();
    const store = await open(await bucket(true), { object_lock: { mode: 'compliance', period: 86_400_000 } });
    const key = partKey(newId(), 1);
    const path = join(directory.path, 'part');
    writeFileSync(path, 'content');
    await store.put(key, path);
    await expect(store.delete(key)).rejects.toMatchObject({ code: 'held' });
    expect((await store.get(key)).toString()).toBe('content');
    await store.close();
  });

  test('a gateway seals into it, waits while it is away, and a reviewer reads and proves what is there', async () => {
    using directory = new TemporaryDirectory();
    const dataDir = directory.path;
    const keys = await loadRecordingKeys(dataDir, []);
    const journal = await openJournal({
      dataDir,
      gateway: 'gw',
      keys,
      durability: 'flushed',
      onFailure: 'refuse',
    });
    const relay = countRequests([]);
    const at = await relay.listen(endpoint);
    process.env['AWS_ACCESS_KEY_ID'] = S3_CREDENTIALS.accessKeyId;
    process.env['AWS_SECRET_ACCESS_KEY'] = S3_CREDENTIALS.secretAccessKey;
    const store = {
      type: 's3' as const,
      bucket: await bucket(),
      prefix: 'gw/',
      region: 'us-east-1',
      endpoint: at,
    };
    const pipeline = await Pipeline.make(
      {
        ...pipelineOf(dataDir, 'gw', journal, keys),
        store,
        index: 'off',
      },
      { info: () => {}, error: () => {} },
      false,
    );
    const talk = (): string => {
      const record = journal.session(sessionStart(newId()));
      record.begin(new Statement('query', 'SELECT 1', 8));
      record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
      journal.flush();
      return record.id;
    };
    const ids = [talk()];
    await pipeline.run();
    expect(pipeline.status).toMatchObject({ spoolFiles: 0, storeError: null, partsStored: 1 });
    relay.refuse(true);
    ids.push(talk());
    await pipeline.run();
    expect(pipeline.status).toMatchObject({ spoolFiles: 1, storeError: expect.stringContaining('s3://') });
    relay.refuse(false);
    await journal.close();
    await pipeline.finish();
    expect(spoolFiles(join(dataDir, 'spool'))).toEqual([]);
    const library = new Library({
      store: await makeStore(store),
      dataDir: null,
      identities: keys.identities,
    });
    for (const id of ids) {
      const result = await verifySession(
        library,
        id,
        await library.parts(id),
        knownSigningKeys(dataDir),
        null,
      );
      expect(result).toMatchObject({ proven: true, opened: true, statements: 1, state: 'ended' });
    }
    relay.close();
  }, 60_000);

  test('a store that is away is told from one that has not what is asked', async () => {
    const away = await open('nowhere', {}, 'http://127.0.0.1:9');
    await expect(away.check()).rejects.toMatchObject({ code: 'unavailable' });
    await expect(away.get(partKey(newId(), 1))).rejects.toMatchObject({ code: 'unavailable' });
    const missing = await open('no-such-bucket');
    await expect(missing.check()).rejects.toThrow(/cannot be reached/);
    await away.close();
    await missing.close();
  });
});

/** Passes bytes on to the S3 server and notes the first line of each request. */
function countRequests(lines: string[]): {
  listen: (to: string) => Promise<string>;
  /** Whether connections are cut, those there are and those that come. */
  refuse: (away: boolean) => void;
  close: () => void;
} {
  const relay = createServer();
  const sockets = new Set<Socket>();
  let refusing = false;
  return {
    refuse: (away) => {
      refusing = away;
      if (away) for (const socket of sockets) socket.destroy();
    },
    close: () => relay.close(),
    listen: async (to) => {
      const { connect } = await import('node:net');
      const { hostname, port } = new URL(to);
      relay.on('connection', (socket) => {
        if (refusing) {
          socket.destroy();
          return;
        }
        sockets.add(socket);
        const server = connect(Number(port), hostname);
        socket.on('data', (chunk) => {
          const line = /^(GET|PUT|POST|HEAD|DELETE) \S+/.exec(chunk.toString('latin1'))?.[0];
          if (line !== undefined) lines.push(line);
        });
        socket.pipe(server).pipe(socket);
        socket.on('error', () => server.destroy());
        server.on('error', () => socket.destroy());
      });
      await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve));
      const address = relay.address();
      return `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
    },
  };
}
