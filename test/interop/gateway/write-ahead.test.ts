import pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { Waiter } from '../../../src/recording/recorder.ts';
import type { TestGateway } from '../../support/gateway.ts';
import { MemoryRecorder } from '../../support/memory-recorder.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { startPostgresGateway } from '../../support/postgres-gateway.ts';

/** A recorder whose writes are done when the test says so: a disk that takes its time. */
class SlowRecorder extends MemoryRecorder {
  readonly waiting: Waiter[] = [];
  slow = false;

  override afterWrite(waiter: Waiter): void {
    if (this.slow) this.waiting.push(waiter);
    else super.afterWrite(waiter);
  }

  /** The oldest write is done. */
  writeOne(): void {
    this.waiting.shift()!.written();
  }
}

let server: PostgresServer;
let gateway: TestGateway;
let recorder: SlowRecorder;

beforeAll(async () => {
  server = await startPostgres();
});
afterAll(() => server.stop());
afterEach(() => gateway.close());

async function connected(): Promise<pg.Client> {
  recorder = new SlowRecorder();
  gateway = await startPostgresGateway(server, { recorder });
  const client = new pg.Client({
    host: '127.0.0.1',
    port: gateway.port,
    user: 'anybody',
    database: server.database,
  });
  client.on('error', () => {});
  await client.connect();
  recorder.slow = true;
  return client;
}

async function seenByServer(text: string): Promise<boolean> {
  return (await server.statementLog()).some((logged) => logged.text.includes(text));
}

test('a statement reaches the server only when its own start is written, not when an earlier one is', async () => {
  const client = await connected();
  const { stream } = (client as unknown as { connection: { stream: NodeJS.WritableStream } }).connection;
  const query = (text: string): Buffer => {
    const body = Buffer.from(`${text}\0`);
    const head = Buffer.alloc(5);
    head.write('Q');
    head.writeInt32BE(body.length + 4, 1);
    return Buffer.concat([head, body]);
  };
  stream.write(query("select 'first'"));
  await recorder.until(() => recorder.statements.length === 1);
  stream.write(query("select 'second'"));
  await recorder.until(() => recorder.statements.length === 2);
  expect(await seenByServer("'first'")).toBe(false);
  recorder.writeOne();
  await recorder.until(() => recorder.statements[0]!.ended);
  expect(await seenByServer("'second'")).toBe(false);
  recorder.writeOne();
  await recorder.until(() => recorder.statements[1]!.ended);
  expect(recorder.statements.map(({ status }) => status)).toEqual(['ok', 'ok']);
  recorder.slow = false;
  client.end().catch(() => {});
});

test('when the journal fails, the session ends in its own protocol and the statement never reaches the server', async () => {
  const client = await connected();
  const answer = client.query("select 'unrecorded'");
  const failed = expect(answer).rejects.toMatchObject({ severity: 'FATAL' });
  await recorder.until(() => recorder.statements.length === 1);
  recorder.fail(new Error('no space left on device'));
  await failed;
  expect(await seenByServer("'unrecorded'")).toBe(false);
  await recorder.until(() => recorder.sessions[0]!.end_ !== null);
  expect(recorder.sessions[0]!.end_!.reason).toBe('recording_failed');
  await expect(connectedAgain()).rejects.toMatchObject({ severity: 'FATAL' });
});

async function connectedAgain(): Promise<void> {
  const client = new pg.Client({
    host: '127.0.0.1',
    port: gateway.port,
    user: 'anybody',
    database: server.database,
  });
  client.on('error', () => {});
  await client.connect();
}
