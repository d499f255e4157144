import { readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';

describe.runIf(process.platform === 'linux')('a thread that yields', () => {
  it('is nicer by itself alone', async () => {
    const module = new URL('./thread-priority.ts', import.meta.url).href;
    const thread = new Worker(
      `const { parentPort } = require('node:worker_threads');
       const { readFileSync } = require('node:fs');
       const niceness = () => Number(readFileSync('/proc/thread-self/stat', 'utf8').split(') ')[1].split(' ')[16]);
       const before = niceness();
       import(${JSON.stringify(module)}).then(({ yieldToOthers }) => {
         yieldToOthers(before + 3);
         parentPort.postMessage(niceness() - before);
       });`,
      { eval: true },
    );
    const ours = getPriority();
    expect(await new Promise((resolve) => thread.once('message', resolve))).toBe(3);
    expect(getPriority()).toBe(ours);
    expect(readFileSync('/proc/thread-self/stat', 'utf8').split(') ')[1]!.split(' ')[16]).toBe(String(ours));
    await thread.terminate();
  });
});
