import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { observe } from '../../protocols/tds/observe.ts';
import type { SessionFacts } from '../../protocols/tds/session.ts';
import { lending } from '../support/lending.ts';
import { CollectingSink, EVERYTHING, readCapture, sessionFacts } from '../support/tds-capture.ts';

/**
 * The SQL Server observer on what no client and no server sends: recorded conversations and vectors with bytes changed,
 * lost, repeated and swapped, and plain noise. Nothing may throw, every statement that began must end, what comes from
 * the server must pass, and memory stays bounded.
 */

const CAPTURES = join(import.meta.dirname, '../golden/captures/tds');
const captures = readdirSync(CAPTURES)
  .filter(
    (file) =>
      file.endsWith('.ndjson') &&
      /types|tvp|bulk|prepare|attention|nbcrow|multi|output|transactions|512/.test(file),
  )
  .map((file) => readCapture(join(CAPTURES, file)))
  .filter(
    ({ facts, chunks }) =>
      facts !== null && chunks.reduce((sum, { bytes }) => sum + bytes.length, 0) < 60_000,
  );

const vectors = (
  JSON.parse(readFileSync(join(import.meta.dirname, '../golden/tds-vectors.json'), 'utf8')) as {
    hex: string;
  }[]
)
  .map(({ hex }) => Buffer.from(hex, 'hex'))
  .filter((bytes) => bytes.length > 0);

interface Change {
  readonly at: number;
  readonly kind: 'flip' | 'set' | 'drop' | 'repeat' | 'swap';
  readonly value: number;
}

const change: fc.Arbitrary<Change> = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  kind: fc.constantFrom('flip', 'set', 'drop', 'repeat', 'swap'),
  value: fc.constantFrom(0, 1, 2, 0x7f, 0x80, 0xd1, 0xd2, 0xe7, 0xf3, 0xfd, 0xfe, 0xff, 0x30),
});

function mutated(bytes: Buffer, changes: readonly Change[]): Buffer {
  let result = Buffer.from(bytes);
  for (const { at, kind, value } of changes) {
    const index = Math.min(result.length - 1, Math.floor(at * result.length));
    if (index < 0) return result;
    if (kind === 'flip') result[index]! ^= 1 << (value & 7);
    else if (kind === 'set') result[index] = value;
    else if (kind === 'drop')
      result = Buffer.concat([result.subarray(0, index), result.subarray(index + 1 + (value & 3))]);
    else if (kind === 'repeat')
      result = Buffer.concat([result.subarray(0, index), result.subarray(Math.max(0, index - value))]);
    else result.subarray(index, index + 4).reverse();
  }
  return result;
}

function follow(
  facts: SessionFacts,
  chunks: readonly { from: 'client' | 'server'; bytes: Buffer }[],
  refuse = 0,
): void {
  const sink = new CollectingSink();
  let asked = 0;
  sink.verdict = () => {
    asked += 1;
    if (refuse === 0 || asked % refuse !== 0) return { action: 'allow' };
    return { action: 'hold' };
  };
  const observer = lending(observe(sink, EVERYTHING, facts));
  let received = 0;
  for (const { from, bytes } of chunks) {
    observer[from](Buffer.from(bytes));
    if (from === 'server') received += bytes.length;
    if (observer.saturated) observer.release({ action: 'allow' });
    void [observer.busy, observer.atBoundary, observer.transaction, observer.leaving];
  }
  observer.close('unknown');
  if (refuse === 0) expect(sink.received.length).toBe(received);
  expect(sink.ended.length).toBe(sink.statements.length);
  for (const statement of sink.statements) expect(() => JSON.stringify(statement)).not.toThrow();
}

describe('changed conversations', () => {
  it('are followed or passed, and never fail', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...captures),
        fc.array(change, { minLength: 1, maxLength: 6 }),
        fc.constantFrom<'client' | 'server'>('client', 'server'),
        fc.nat(3),
        (capture, changes, side, refuse) => {
          const mine = capture.chunks.filter(({ from }) => from === side);
          const target = mine[Math.floor((changes[0]?.at ?? 0) * mine.length) % mine.length]!;
          follow(
            capture.facts!,
            capture.chunks.map((chunk) =>
              chunk === target ? { from: side, bytes: mutated(chunk.bytes, changes) } : chunk,
            ),
            refuse,
          );
        },
      ),
      { numRuns: 4000 },
    );
  });
});

describe('changed vectors', () => {
  const facts = [
    sessionFacts(),
    sessionFacts({ version: '7.1' }),
    sessionFacts({ features: { columnEncryption: true, dataClassification: 2 } }),
    sessionFacts({ mars: true }),
  ];

  it('as payloads of messages of every type, from both sides', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...facts),
        fc.constantFrom(...vectors),
        fc.array(change, { maxLength: 5 }),
        fc.constantFrom(1, 3, 7, 0x0e),
        fc.integer({ min: 9, max: 300 }),
        (session, vector, changes, type, packetBytes) => {
          const payload = mutated(vector, changes);
          follow(session, [
            { from: 'client', bytes: framed(type, payload, packetBytes, session.mars) },
            { from: 'server', bytes: framed(4, payload, packetBytes, session.mars) },
          ]);
        },
      ),
      { numRuns: 6000 },
    );
  });
});

describe('noise', () => {
  it('of any kind', () => {
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.array(
          fc.tuple(
            fc.constantFrom<'client' | 'server'>('client', 'server'),
            fc.uint8Array({ maxLength: 80 }),
          ),
          { maxLength: 8 },
        ),
        (mars, chunks) => {
          follow(
            sessionFacts({ mars }),
            chunks.map(([from, bytes]) => ({ from, bytes: Buffer.from(bytes) })),
          );
        },
      ),
      { numRuns: 3000 },
    );
  });

  it('that announces what never comes costs no memory', () => {
    const before = process.memoryUsage().rss;
    for (let round = 0; round < 200; round++) {
      const sink = new CollectingSink();
      const observer = observe(sink, EVERYTHING, sessionFacts());
      // A text of two gigabytes in a call, an output value of as many, a list of 65,535 columns.
      const call = Buffer.from(
        '16000000120000000200000000000000000001000000ffff0a0000000000630000ff7f0904d00034ffffff7f',
        'hex',
      );
      observer.client(framed(3, call, 4096, false));
      const value = Buffer.from('ac0000000100000000000000a5ffff0000000000000080ffffff7f', 'hex');
      observer.server(framed(4, Buffer.concat([value, Buffer.alloc(2000)]), 4096, false));
      observer.server(framed(4, Buffer.from('81feff', 'hex'), 4096, false));
      observer.close('unknown');
    }
    expect(process.memoryUsage().rss - before).toBeLessThan(150 * 1024 * 1024);
  });
});

function framed(type: number, payload: Buffer, packetBytes: number, mars: boolean): Buffer {
  const parts: Buffer[] = [];
  if (mars && type !== 4) parts.push(frame(1, Buffer.alloc(0)));
  for (let at = 0; at === 0 || at < payload.length; at += packetBytes - 8) {
    const part = payload.subarray(at, at + packetBytes - 8);
    const header = Buffer.from([type, at + packetBytes - 8 >= payload.length ? 1 : 0, 0, 0, 0, 0, 1, 0]);
    header.writeUInt16BE(part.length + 8, 2);
    const packet = Buffer.concat([header, part]);
    parts.push(mars ? frame(8, packet) : packet);
  }
  return Buffer.concat(parts);
}

function frame(flags: number, packet: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header[0] = 0x53;
  header[1] = flags;
  header.writeUInt32LE(16 + packet.length, 4);
  return Buffer.concat([header, packet]);
}
