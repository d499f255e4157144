import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { observe } from '../../protocols/postgres/observe.ts';
import type { Statement } from '../../protocols/statement.ts';
import { FACTS, KeepingSink, split } from '../support/postgres-observer.ts';
import { lending } from '../support/lending.ts';

/**
 * Recorded conversations with real servers: an observer must tell the same of each, however late the server's answers
 * reach it and wherever the streams are cut.
 */

interface Capture {
  readonly scenario: string;
  readonly expect: readonly string[];
  readonly sent: string;
  readonly events: readonly { readonly from: 'client' | 'server'; readonly hex: string }[];
}

interface Step {
  readonly client: boolean;
  readonly bytes: Buffer;
}

const INTERLEAVINGS = 300;
const OPTIONS = { parameters: true, sampleRows: 0, columns: false };

function load(version: string): Capture[] {
  const file = new URL(`./captures/postgres/${version}.ndjson`, import.meta.url);
  return readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Capture);
}

/** A small generator of its own, so that a failure can be repeated by its seed (mulberry32). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 4294967296;
  };
}

/** Lets server messages fall behind: each keeps its place among the server's, and none comes before it was seen. */
function interleave(steps: readonly Step[], random: () => number): Step[] {
  const order: Step[] = [];
  const waiting: Step[] = [];
  const eagerness = random();
  for (const step of steps) {
    if (step.client) order.push(step);
    else waiting.push(step);
    while (waiting.length > 0 && random() < eagerness) order.push(waiting.shift()!);
  }
  return [...order, ...waiting];
}

/** What the record says, in the notation of the captures. */
function told(statements: readonly Statement[]): string[] {
  const lines: string[] = [];
  for (const statement of statements) {
    if (statement.status === 'cancelled' && statement.error === null) continue; // the server skipped it
    if (statement.kind === 'prepare' && statement.error === null) continue;
    const text = statement.kind === 'rpc' ? 'F' : (statement.text ?? `?${statement.name}`);
    const results = statement.results ?? (statement.error === null ? [statement] : []);
    for (const { tag, rowsReturned } of results) {
      if (statement.kind === 'rpc') lines.push('F=>V');
      else if (tag === null) lines.push(`${text}=>${rowsReturned ? `s/${rowsReturned}` : 'I'}`);
      else lines.push(`${text}=>${tag}${rowsReturned ? `/${rowsReturned}` : ''}`);
    }
    if (statement.error !== null) lines.push(`${text}=>${statement.error.code}`);
  }
  return lines;
}

function replay(steps: readonly Step[], pieces?: (bytes: Buffer) => Buffer[]): KeepingSink {
  const sink = new KeepingSink();
  const observer = lending(observe(sink, OPTIONS, FACTS));
  for (const { client, bytes } of steps) {
    for (const piece of pieces === undefined ? [bytes] : pieces(bytes)) {
      if (client) observer.client(piece);
      else observer.server(piece);
    }
  }
  expect(observer.busy, 'nothing is left in the queue').toBe(false);
  expect(observer.fatal).toBeNull();
  expect(sink.notes.filter((note) => note.kind === 'opaque')).toEqual([]);
  expect(sink.open, 'every statement has ended').toEqual([]);
  const client = Buffer.concat(steps.filter((step) => step.client).map((step) => step.bytes));
  const server = Buffer.concat(steps.filter((step) => !step.client).map((step) => step.bytes));
  expect(sink.toServerBytes.equals(client), 'the server gets what the client sent').toBe(true);
  expect(sink.toClientBytes.equals(server), 'the client gets what the server sent').toBe(true);
  return sink;
}

/** Merges what one side sends in a row into one chunk, as it arrives from a socket. */
function merge(steps: readonly Step[]): Step[] {
  const merged: Step[] = [];
  for (const step of steps) {
    const last = merged.at(-1);
    if (last?.client === step.client) {
      merged[merged.length - 1] = { client: step.client, bytes: Buffer.concat([last.bytes, step.bytes]) };
    } else {
      merged.push(step);
    }
  }
  return merged;
}

describe.each(['pg15', 'pg18'])('conversations recorded from %s', (version) => {
  for (const capture of load(version)) {
    const steps = capture.events.map(({ from, hex }) => ({
      client: from === 'client',
      bytes: Buffer.from(hex, 'hex'),
    }));

    test(`${capture.scenario}, ${capture.sent}: in any order`, () => {
      expect(told(replay(steps).ended)).toEqual(capture.expect);
      for (let seed = 1; seed <= INTERLEAVINGS; seed += 1) {
        const order = interleave(steps, generator(seed));
        expect(told(replay(order).ended), `seed ${seed}`).toEqual(capture.expect);
        expect(told(replay(merge(order)).ended), `seed ${seed}, merged`).toEqual(capture.expect);
      }
    });

    test(`${capture.scenario}, ${capture.sent}: cut anywhere`, () => {
      const single = (bytes: Buffer): Buffer[] => Array.from(bytes, (byte) => Buffer.from([byte]));
      expect(told(replay(steps, single).ended)).toEqual(capture.expect);
      for (const step of steps) {
        for (let cut = 1; cut < step.bytes.length; cut += 1) {
          const pieces = (bytes: Buffer): Buffer[] =>
            bytes === step.bytes ? [bytes.subarray(0, cut), bytes.subarray(cut)] : [bytes];
          expect(told(replay(steps, pieces).ended), `cut at ${cut}`).toEqual(capture.expect);
        }
      }
    });

    test(`${capture.scenario}, ${capture.sent}: nothing goes to the server that is not on record`, () => {
      const sink = new KeepingSink();
      const observer = lending(observe(sink, OPTIONS, FACTS));
      sink.toServer = (bytes) => {
        for (const message of split(bytes)) {
          const body = message.subarray(5);
          const text = body.subarray(body.indexOf(0) + 1);
          if (message[0] === 0x51) expect(sink.texts).toContain(body.toString('utf8', 0, body.length - 1));
          if (message[0] === 0x50) expect(sink.texts).toContain(text.toString('utf8', 0, text.indexOf(0)));
        }
      };
      for (const { client, bytes } of merge(steps)) {
        if (client) observer.client(bytes);
        else observer.server(bytes);
      }
    });
  }
});
