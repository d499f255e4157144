import fc from 'fast-check';
import { expect, test } from 'vitest';
import { STATEMENT_KINDS, STATEMENT_STATUSES } from '../../protocols/statement.ts';
import { type JournalEvent, timeMs, timeText } from './events.ts';
import { Lines, lineOf } from './lines.ts';

const text = fc.string({ unit: 'binary', maxLength: 30 });
const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { freq: 3 });
const amount = fc.oneof(fc.nat(), fc.double(), fc.constant(Number.POSITIVE_INFINITY));
const count = fc.oneof(fc.nat(), fc.constant('18446744073709551615'), fc.constant(null));
const at = fc.double({ min: 0, max: 4e12, noNaN: true }).map(timeText);
const session = fc.constant('01KB0000000000000000000000');
const sha256 = fc.constant('ab'.repeat(32));
const parameters = fc.array(
  fc.record(
    {
      name: maybe(text),
      type: maybe(text),
      value: fc.oneof(text, amount, fc.boolean(), fc.constant(null)),
      bytes: fc.nat(),
      sha256,
    },
    { requiredKeys: ['name', 'type', 'value'] },
  ),
  { maxLength: 3 },
);

const started = fc.record({
  type: fc.constant('statement_started' as const),
  session,
  seq: fc.nat(),
  at,
  kind: fc.constantFrom(...STATEMENT_KINDS),
  text: maybe(text),
  text_bytes: amount,
  text_sha256: maybe(sha256),
  masked: fc.boolean(),
  name: maybe(text),
  parameters: maybe(parameters),
  opaque: fc.boolean(),
});

const ended = fc.record(
  {
    type: fc.constant('statement_ended' as const),
    session,
    seq: fc.nat(),
    at,
    status: fc.constantFrom(...STATEMENT_STATUSES),
    rows_returned: count,
    rows_affected: count,
    tag: maybe(text),
    columns: maybe(fc.array(text, { maxLength: 4 })),
    error: maybe(fc.record({ code: text, message: text })),
    results: maybe(
      fc.array(fc.record({ tag: maybe(text), rows_returned: count, rows_affected: count }), { maxLength: 2 }),
    ),
    sample: maybe(fc.array(fc.array(maybe(text), { maxLength: 2 }), { maxLength: 2 })),
    messages: maybe(fc.array(text, { maxLength: 2 })),
    return_status: maybe(fc.integer()),
    outputs: maybe(parameters),
    duration_us: amount,
    bytes_sent: amount,
    bytes_received: amount,
    transaction: fc.constantFrom('idle' as const, 'active' as const, 'failed' as const, 'unknown' as const),
    text_bytes: fc.nat(),
    text_sha256: sha256,
    parameters,
    truncated: fc.constant(true),
  },
  {
    requiredKeys: [
      'type',
      'session',
      'seq',
      'at',
      'status',
      'rows_returned',
      'rows_affected',
      'tag',
      'columns',
      'error',
      'results',
      'sample',
      'messages',
      'return_status',
      'outputs',
      'duration_us',
      'bytes_sent',
      'bytes_received',
      'transaction',
    ],
  },
);

const note = fc.record({
  type: fc.constant('note' as const),
  session,
  seq: fc.nat(),
  at,
  note: fc.record({ kind: text }),
});

test('a line is what JSON makes of the event', () => {
  fc.assert(
    fc.property(fc.oneof(started, ended, note), (event) => {
      expect(lineOf(event as JournalEvent)).toBe(JSON.stringify(event));
    }),
    { numRuns: 500 },
  );
});

test('lines of any length stay whole, one behind the other', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(started, fc.constantFrom(0, 1, 700, 9000)), { maxLength: 12 }),
      (events) => {
        const lines = new Lines();
        let expected = '';
        for (const [event, more] of events) {
          const long = { ...event, text: `${event.text}${'é€'.repeat(more)}` } as JournalEvent;
          expected += `${JSON.stringify(long)}\n`;
          lines.add(long);
          expect(lines.length).toBe(Buffer.byteLength(expected));
        }
        expect(lines.bytes.toString('utf8')).toBe(Buffer.from(expected).toString('utf8'));
        expect(lines.count).toBe(events.length);
      },
    ),
    { numRuns: 50 },
  );
});

test('times are written to the microsecond and read back', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 4e12 }), fc.integer({ min: 0, max: 999 }), (ms, micros) => {
      const text = new Date(ms).toISOString().replace('Z', `${String(micros).padStart(3, '0')}Z`);
      expect(timeMs(text)).toBe(ms + micros / 1000);
      // Half a microsecond more, so that no rounding decides.
      expect(timeText(ms + (micros + 0.4) / 1000)).toBe(text);
    }),
  );
  expect(timeText(Date.UTC(2026, 10, 24, 13, 59, 59, 999) + 0.9995)).toBe('2026-11-24T13:59:59.999999Z');
  expect(timeMs('2026-11-24T13:59:59Z')).toBe(Date.UTC(2026, 10, 24, 13, 59, 59));
  expect(timeMs('never')).toBeNaN();
});
