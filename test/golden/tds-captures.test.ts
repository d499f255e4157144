import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Statement } from '../../protocols/statement.ts';
import { type Capture, type CollectingSink, readCapture, replay } from '../support/tds-capture.ts';

/**
 * Recorded conversations with a real TDS server: the observer must find exactly what each recording's expectation says,
 * whole and cut at every byte, and let every byte through as it came.
 */

const DIRECTORY = join(import.meta.dirname, 'captures/tds');

interface ExpectedParameter {
  readonly name: string;
  readonly type: string;
  readonly value: unknown;
  readonly declared?: string;
  readonly output?: boolean;
}

interface ExpectedStatement {
  readonly kind: 'batch' | 'rpc' | 'bulk' | 'transaction';
  readonly text: string;
  readonly params: readonly ExpectedParameter[];
  readonly rows: number | null;
  readonly affected: number | null;
  readonly error: { readonly number: number; readonly message: string } | null;
  readonly origin?: 'driver';
  readonly text_source?: 'capture';
  readonly result_sets?: readonly number[];
  readonly infos?: readonly (string | { message: string })[];
  readonly proc?: string;
  readonly wire_proc?: string;
  readonly cancelled?: boolean;
  readonly aborted?: boolean;
  readonly output?: Readonly<Record<string, unknown>>;
  readonly return_value?: number;
  readonly name?: string;
  readonly first_rows?: readonly (readonly unknown[])[];
  readonly bulk_message_bytes?: number;
  readonly affected_note?: string;
}

interface Expectation {
  readonly login: { readonly database: string };
  readonly statements: readonly ExpectedStatement[];
  readonly cancelled: boolean;
  readonly login_error?: unknown;
}

const NAMES = readdirSync(DIRECTORY)
  .filter((file) => file.endsWith('.ndjson'))
  .map((file) => file.slice(0, -'.ndjson'.length));

/** Nothing can be read of these: the sign-in is their whole content, or all of it is inside TLS. */
const UNREADABLE = NAMES.filter((name) => /unknown-|wrong-password|no-prelogin|full-tls/.test(name));

describe.each(NAMES)('%s', (name) => {
  const capture = readCapture(join(DIRECTORY, `${name}.ndjson`));
  const expectation = JSON.parse(readFileSync(join(DIRECTORY, `${name}.expect.json`), 'utf8')) as Expectation;

  if (UNREADABLE.includes(name)) {
    it('has nothing after its sign-in that can be read', () => expect(capture.facts).toBeNull());
    return;
  }

  it('gives what is expected, and every byte', () => {
    const sink = replay(capture.facts!, capture.chunks);
    expect(sink.notes.filter((note) => note.kind === 'opaque')).toEqual([]);
    expect(sink.sent).toEqual(bytesOf(capture, 'client'));
    expect(sink.received).toEqual(bytesOf(capture, 'server'));
    expect(sink.statements.map(shown)).toEqual(
      expectation.statements.map((wanted, index) => expected(wanted, sink.statements[index])),
    );
    expect(sink.ended).toHaveLength(sink.statements.length);
    expect(sink.statements.some((statement) => statement.status === 'cancelled')).toBe(expectation.cancelled);
  });

  it('gives the same when it is cut anywhere', () => {
    const whole = summary(replay(capture.facts!, capture.chunks));
    expect(summary(replay(capture.facts!, capture.chunks, bytewise))).toEqual(whole);
    expect(summary(replay(capture.facts!, joined(capture)))).toEqual(whole);
    for (const at of cutPoints(capture)) {
      const sink = replay(capture.facts!, capture.chunks, (bytes, index) =>
        index === at.chunk ? [bytes.subarray(0, at.byte), bytes.subarray(at.byte)] : [bytes],
      );
      expect(summary(sink), `chunk ${at.chunk} cut at ${at.byte}`).toEqual(whole);
    }
  });
});

function bytesOf(capture: Capture, from: 'client' | 'server'): Buffer {
  return Buffer.concat(capture.chunks.filter((chunk) => chunk.from === from).map((chunk) => chunk.bytes));
}

function bytewise(bytes: Buffer): Buffer[] {
  return Array.from(bytes, (_, at) => bytes.subarray(at, at + 1));
}

/** Neighbouring chunks of one direction as one. */
function joined(capture: Capture): Capture['chunks'] {
  const chunks: { from: 'client' | 'server'; bytes: Buffer }[] = [];
  for (const { from, bytes } of capture.chunks) {
    const last = chunks.at(-1);
    if (last?.from === from) last.bytes = Buffer.concat([last.bytes, bytes]);
    else chunks.push({ from, bytes });
  }
  return chunks;
}

/** Every byte of short recordings; of long ones a sample that is spread over the whole and falls on different offsets. */
function cutPoints(capture: Capture): { chunk: number; byte: number }[] {
  const points: { chunk: number; byte: number }[] = [];
  let total = 0;
  for (const { bytes } of capture.chunks) total += bytes.length;
  const stride = Math.max(1, Math.floor(total / 600)) | 1;
  let next = 0;
  for (const [chunk, { bytes }] of capture.chunks.entries()) {
    for (; next < bytes.length; next += stride) if (next > 0) points.push({ chunk, byte: next });
    next -= bytes.length;
  }
  return points;
}

function summary(sink: CollectingSink): unknown {
  return {
    statements: sink.statements.map(({ bytesReceived: _received, ...rest }) => rest),
    notes: sink.notes,
    sent: sink.sent.toString('base64'),
    received: sink.received.toString('base64'),
  };
}

interface Shown {
  kind: string;
  text: string | null;
  procedure: string | null;
  parameters: unknown[];
  rows: unknown;
  affected: unknown;
  error: unknown;
  status: string;
  results: unknown;
  messages: unknown;
  outputs: unknown;
  returnStatus: unknown;
  sample: unknown;
}

const KINDS: Record<string, string> = {
  rpc: 'rpc',
  prepare: 'rpc',
  execute: 'rpc',
  batch: 'batch',
  bulk: 'bulk',
  command: 'transaction',
};

function shown(statement: Statement): Shown {
  const kind = KINDS[statement.kind] ?? statement.kind;
  return {
    kind,
    text: oneLine(statement.text ?? statement.name),
    procedure: statement.name,
    parameters:
      kind === 'transaction'
        ? []
        : (statement.parameters ?? []).map((parameter) => [bare(parameter.name), canonical(parameter.value)]),
    rows: statement.rowsReturned,
    affected: statement.rowsAffected,
    error: statement.error === null ? null : [statement.error.code, statement.error.message],
    status: statement.status,
    results: statement.results?.map((result) => result.rowsReturned).filter((rows) => rows !== null) ?? null,
    messages: statement.messages,
    outputs: (statement.outputs ?? []).map((output) => canonical(output.value)),
    returnStatus: statement.returnStatus,
    sample: statement.sample?.[0]?.map(canonical) ?? null,
  };
}

/** What the expectation says, and, where it says nothing, what was found. */
function expected(wanted: ExpectedStatement, found: Statement | undefined): Shown {
  if (found === undefined) throw new Error(`missing: ${wanted.text}`);
  const actual = shown(found);
  const procedure = wanted.wire_proc ?? wanted.proc ?? wanted.name ?? null;
  const unprepare = wanted.text === 'sp_unprepare';
  // The README: rows, counts and errors of these were not observed.
  const unobserved = wanted.text_source === 'capture' || wanted.cancelled === true || wanted.aborted === true;
  return {
    kind: wanted.kind,
    text: unprepare ? actual.text : oneLine(wanted.text),
    procedure,
    parameters:
      wanted.origin === 'driver'
        ? actual.parameters
        : wanted.params.map((parameter) => [
            bare(parameter.name === '' ? null : parameter.name),
            expectedValue(parameter),
          ]),
    rows: unobserved ? actual.rows : wanted.origin === 'driver' && wanted.rows === 0 ? null : wanted.rows,
    affected: unobserved || wanted.affected_note ? actual.affected : wanted.affected,
    error: unobserved
      ? actual.error
      : wanted.error === null
        ? null
        : [String(wanted.error.number), wanted.error.message],
    status: wanted.cancelled
      ? 'cancelled'
      : wanted.aborted
        ? 'unknown'
        : unobserved
          ? actual.status
          : wanted.error === null
            ? 'ok'
            : 'error',
    results: wanted.result_sets ?? actual.results,
    messages: wanted.infos
      ? wanted.infos.map((info) => (typeof info === 'string' ? info : info.message))
      : actual.messages,
    outputs: wanted.output ? Object.values(wanted.output).map(canonical) : actual.outputs,
    returnStatus: wanted.return_value ?? actual.returnStatus,
    sample: expectedSample(wanted, actual.sample),
  };
}

/** The first row as the client showed it; those that keep milliseconds only show less than the wire has. */
function expectedSample(wanted: ExpectedStatement, actual: unknown): unknown {
  const row = wanted.first_rows?.[0];
  if (row === undefined || wanted.result_sets !== undefined || !Array.isArray(actual)) return actual;
  return row.map((value, column) => {
    const found: unknown = actual[column];
    const text = canonical(value);
    const shorter = typeof text === 'string' && /\.\d{3}$/.test(text) && String(found).startsWith(text);
    return shorter ? found : text;
  });
}

function bare(name: string | null): string | null {
  return name?.replace(/^@/, '') ?? null;
}

/** Clients add line ends and blanks to what the script wrote. */
function oneLine(text: string | null): string | null {
  return text?.replace(/\s+/g, ' ').trim() ?? null;
}

function expectedValue(parameter: ExpectedParameter): unknown {
  const { value, type } = parameter;
  const declared = parameter.declared?.toLowerCase() ?? type;
  if (typeof value !== 'string') return canonical(value);
  // The script's driver makes a date of it; what goes over the wire is the time of day.
  if (type.startsWith('time')) return canonical(value.replace(/^.*T/, ''));
  if (declared.startsWith('varchar')) return canonical(value.replace(/[^\x00-\xff]/g, '?'));
  return canonical(value);
}

/** One form for values that the script's language and the record write differently. */
function canonical(value: unknown): unknown {
  if (value === null || typeof value === 'object') return value;
  const text = String(value);
  const point = /^(\d{4}-\d\d-\d\d)?[T ]?(?:(\d\d:\d\d:\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)?$/.exec(text);
  if (point !== null && text.length > 6 && (point[1] || point[2])) {
    const fraction = (point[3] ?? '').replace(/0+$/, '');
    const zone = point[4] === 'Z' || point[4] === '+00:00' ? '' : (point[4] ?? '');
    return `${point[1] ?? ''} ${point[2] ?? '00:00:00'}${fraction === '' ? '' : `.${fraction}`}${zone}`;
  }
  if (/^-?\d+\.\d+$/.test(text)) return text.replace(/\.?0+$/, '');
  return text.trimEnd();
}
