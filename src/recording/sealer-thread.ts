import { parentPort, workerData } from 'node:worker_threads';
import { Pipeline, type PipelineOptions } from './pipeline.ts';
import type { FromThread, ToThread } from './sealing.ts';

/** The thread that `sealing.ts` starts. */
const port = parentPort!;
const { options, resumed } = workerData as { options: PipelineOptions; resumed: boolean };

const tell = (message: FromThread): void => port.postMessage(message);
const log = {
  info: (fields: object, message: string) => tell({ kind: 'log', level: 'info', fields, message }),
  error: (fields: object, message: string) => tell({ kind: 'log', level: 'error', fields, message }),
};

const pipeline = await Pipeline.make(options, log, resumed, (event) => tell({ kind: 'audit', event }));
pipeline.start();
const reporting = setInterval(() => tell({ kind: 'status', status: pipeline.status }), 1_000);

port.on('message', (message: ToThread) => {
  if (message.kind === 'retention') pipeline.retain(message.retention);
  else if (message.kind === 'begin') pipeline.begin(message.boot);
  else if (message.kind === 'end') pipeline.end(message.boot);
  else finish();
});

function finish(): void {
  clearInterval(reporting);
  void pipeline.finish().then(() => {
    tell({ kind: 'status', status: pipeline.status });
    tell({ kind: 'finished' });
    port.close();
  });
}
