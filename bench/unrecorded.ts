import { App } from '../src/app.ts';
import { loadConfig } from '../src/config/load.ts';
import { makeLog } from '../src/log.ts';
import type { Recorder, SessionRecord, SessionStart } from '../src/recording/recorder.ts';

/**
 * The gateway with a recorder that keeps nothing, to see what recording costs. It exists only here: the product has no
 * such setting.
 */
class NoRecorder implements Recorder {
  readonly failed = null;

  session(start: SessionStart): SessionRecord {
    return { id: start.session, begin: () => {}, end: () => {}, note: () => {}, close: () => {} };
  }

  audit(): void {}

  afterWrite(waiter: { written(): void }): void {
    waiter.written();
  }

  async flushed(): Promise<void> {}

  onFailure(): void {}

  async close(): Promise<void> {}
}

const loaded = await loadConfig(process.argv[2]!);
const app = await App.start(loaded, makeLog('json', 'error'), { recorder: new NoRecorder() });
process.once('SIGTERM', () => void app.stop(0).then(() => process.exit(0)));
