import { Statement } from '../../protocols/statement.ts';
import { newId } from '../../src/lib/id.ts';
import { type Durability, type OnFailure, openJournal } from '../../src/recording/journal.ts';
import { loadRecordingKeys } from '../../src/recording/keys.ts';
import { sayLine as say, sessionStart } from './recording.ts';

/**
 * A process that writes statements to a journal until it is killed, and says on standard output what it was promised:
 * a line `written SESSION SEQ` for every statement whose start is as durable as was asked for.
 *
 * Arguments: data directory, durability, on_failure, sessions, milliseconds between two statements of a session.
 */
const [dataDir, durability, onFailure, sessions, pause] = process.argv.slice(2) as [
  string,
  Durability,
  OnFailure,
  string,
  string,
];

const journal = await openJournal({
  dataDir,
  gateway: 'writer',
  keys: await loadRecordingKeys(dataDir, []),
  durability,
  onFailure,
  segmentBytesMax: 64 * 1024,
});
journal.onFailure((error) => say(`failed ${(error as NodeJS.ErrnoException).code}`));

for (let index = 0; index < Number(sessions); index += 1) {
  const record = journal.session(sessionStart(newId(), `person-${index}`));
  const run = (): void => {
    const statement = new Statement('query', `SELECT ${index} /* ${'x'.repeat(index * 10)} */`, 10 + index);
    record.begin(statement);
    journal.afterWrite({
      written() {
        say(`written ${record.id} ${statement.seq}`);
        setTimeout(() => {
          statement.status = 'ok';
          record.end(statement);
          run();
        }, Number(pause));
      },
    });
  };
  run();
}

process.stdin.on('data', (chunk) => {
  if (!chunk.toString().includes('session')) return;
  try {
    journal.session(sessionStart(newId(), 'late'));
    say('session accepted');
  } catch (error) {
    say(`session refused: ${(error as Error).message}`);
  }
});
process.stdin.on('end', () => {
  void journal.close().then(() => process.exit(0));
});
