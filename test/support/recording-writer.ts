import { join } from 'node:path';
import { Statement } from '../../protocols/statement.ts';
import { parseConfig } from '../../src/config/load.ts';
import { newId } from '../../src/lib/id.ts';
import { makeLog } from '../../src/log.ts';
import { Metrics } from '../../src/metrics.ts';
import { Recording } from '../../src/recording/setup.ts';
import { sayLine, sessionStart } from './recording.ts';

/**
 * A process with the whole recording side of a gateway, its thread included: sessions of a few statements come and go
 * until it is killed, or told to end by the end of its standard input. Says what it was promised, as `journal-writer.ts`.
 *
 * Argument: the directory for data and store.
 */
const root = process.argv[2]!;
const text = `
gateway: { name: writer, data_dir: ${JSON.stringify(join(root, 'data'))} }
recording: { seal_every: 200ms, store: { type: directory, path: ${JSON.stringify(join(root, 'store'))} } }
resources: { orders: { type: postgres, host: localhost, launch_credentials: { username: app } } }
`;
const { config } = parseConfig(text, 'writer.yaml', { files: false });
const recording = await Recording.start(config, new Metrics(), makeLog('json', 'fatal'));
const { journal } = recording;
let ending = false;

async function session(statements: number): Promise<void> {
  const record = journal.session(sessionStart(newId()));
  for (let seq = 0; seq < statements && !ending; seq += 1) {
    const statement = new Statement('query', `SELECT ${seq} ${'x'.repeat(500)}`, 510);
    record.begin(statement);
    await new Promise<void>((resolve) => journal.afterWrite({ written: resolve }));
    sayLine(`written ${record.id} ${statement.seq}`);
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 8));
    statement.status = 'ok';
    record.end(statement);
  }
  record.close({ reason: 'client_closed', detail: null, bytesSent: 0, bytesReceived: 0 });
}

async function person(): Promise<void> {
  while (!ending) await session(1 + Math.floor(Math.random() * 60));
}

const people = Array.from({ length: 6 }, person);
process.stdin.resume();
process.stdin.on('end', () => {
  ending = true;
  void Promise.all(people)
    .then(() => recording.close(20_000))
    .then(() => process.exit(0));
});
