import { parentPort, workerData } from 'node:worker_threads';
import { yieldToOthers } from '../lib/thread-priority.ts';
import { SEALER_NICENESS } from './limits.ts';
import { Pipeline, type PipelineOptions } from './pipeline.ts';
import type { AuditEvent } from './recorder.ts';
import type { FromThread, ToThread } from './sealing.ts';

/** The thread that `sealing.ts` starts. */
const port = parentPort!;
const { options, resumed } = workerData as { options: PipelineOptions; resumed: boolean };

const tell = (message: FromThread): void => port.postMessage(message);
const log = {
  info: (fields: object, message: string) => tell({ kind: 'log', level: 'info', fields, message }),
  error: (fields: object, message: string) => tell({ kind: 'log', level: 'error', fields, message }),
};

let audits = 0;
/** Events that the other thread was given, and that are not yet on record. */
const waiting = new Map<number, { resolve: () => void; reject: (error: Error) => void }>();

function audit(event: AuditEvent): Promise<void> {
  return new Promise((resolve, reject) => {
    audits += 1;
    waiting.set(audits, { resolve, reject });
    tell({ kind: 'audit', id: audits, event });
  });
}

let secrets = 0;
const asked = new Map<number, { resolve: (value: string) => void; reject: (error: Error) => void }>();

function secret(reference: string): Promise<string> {
  return new Promise((resolve, reject) => {
    secrets += 1;
    asked.set(secrets, { resolve, reject });
    tell({ kind: 'secret', id: secrets, reference });
  });
}

yieldToOthers(SEALER_NICENESS);
const pipeline = await Pipeline.make(options, log, resumed, audit, { secret });
pipeline.start();
const reporting = setInterval(() => tell({ kind: 'status', status: pipeline.status }), 1_000);

port.on('message', (message: ToThread) => {
  if (message.kind === 'retention') pipeline.retain(message.retention);
  else if (message.kind === 'begin') pipeline.begin(message.boot);
  else if (message.kind === 'end') pipeline.end(message.boot);
  else if (message.kind === 'secret') {
    const question = asked.get(message.id);
    asked.delete(message.id);
    if (message.value !== null) question?.resolve(message.value);
    else question?.reject(new Error(message.error ?? 'there is no such secret'));
  } else if (message.kind === 'audited') {
    const event = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.error === null) event?.resolve();
    else event?.reject(new Error(message.error));
  } else finish();
});

function finish(): void {
  clearInterval(reporting);
  void pipeline.finish().then(() => {
    tell({ kind: 'status', status: pipeline.status });
    tell({ kind: 'finished' });
    port.close();
  });
}
