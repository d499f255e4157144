import type { SessionStartedEvent } from './events.ts';
import { timeMs } from './events.ts';
import { type Events, type JoinedEvent, joined } from './join.ts';
import { pcapng } from './pcapng.ts';
import { FrameMaker } from './replay.ts';

export const EXPORT_FORMATS = ['jsonl', 'csv', 'asciicast', 'pcapng'] as const;
export type ExportFormat = (typeof EXPORT_FORMATS)[number];

const TERMINAL_COLUMNS = 120;
const TERMINAL_ROWS = 40;

/**
 * A session's recording in a form for other programs, piece by piece: it is never in memory as a whole. `again` gives the
 * events once more from their beginning, for a statement that runs beside very many others: see `joined`.
 */
export async function* exportSession(
  events: Events,
  format: ExportFormat,
  again: (() => Events) | null = null,
): AsyncGenerator<string | Buffer> {
  switch (format) {
    case 'jsonl':
      yield* jsonLines(joined(events, again));
      break;
    case 'csv':
      yield* csv(joined(events, again));
      break;
    case 'asciicast':
      yield* asciicast(events);
      break;
    case 'pcapng':
      yield* pcapng(events);
  }
}

/** One object a line: the session's start, each statement in one piece (`type: statement`), notes, gaps, its end. */
async function* jsonLines(events: AsyncIterable<JoinedEvent>): AsyncGenerator<string> {
  for await (const event of events) yield `${JSON.stringify(event)}\n`;
}

const CSV_COLUMNS = [
  'session',
  'principal',
  'resource',
  'seq',
  'at',
  'kind',
  'text',
  'parameters',
  'status',
  'rows_returned',
  'rows_affected',
  'error_code',
  'error_message',
  'duration_us',
  'bytes_sent',
  'bytes_received',
  'transaction',
] as const;

/** RFC 4180, with a heading line: one statement a line. */
async function* csv(events: AsyncIterable<JoinedEvent>): AsyncGenerator<string> {
  yield `${CSV_COLUMNS.join(',')}\r\n`;
  let start: SessionStartedEvent | null = null;
  for await (const event of events) {
    if (event.type === 'session_started') start = event;
    if (event.type !== 'statement') continue;
    const values: Record<(typeof CSV_COLUMNS)[number], unknown> = {
      ...event,
      principal: start?.principal ?? '',
      resource: start?.resource ?? '',
      parameters: event.parameters === null ? '' : JSON.stringify(event.parameters),
      error_code: event.error?.code ?? '',
      error_message: event.error?.message ?? '',
    };
    yield `${CSV_COLUMNS.map((column) => csvCell(values[column])).join(',')}\r\n`;
  }
}

function csvCell(value: unknown): string {
  const text = value === null || value === undefined ? '' : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** asciicast v2: what `replay` shows, with the times of the session; plays in asciinema. */
async function* asciicast(events: Events): AsyncGenerator<string> {
  const frames = new FrameMaker();
  let begun = false;
  for await (const event of events) {
    if (!begun) {
      yield `${JSON.stringify({
        version: 2,
        width: TERMINAL_COLUMNS,
        height: TERMINAL_ROWS,
        timestamp: Math.floor(timeMs(event.at) / 1000),
        title: 'session' in event ? `Sallyport session ${event.session}` : 'Sallyport session',
      })}\n`;
      begun = true;
    }
    const frame = frames.take(event);
    if (frame === null) continue;
    const output = `${frame.text.replaceAll('\n', '\r\n')}\r\n`;
    yield `${JSON.stringify([Number((frame.at / 1000).toFixed(6)), 'o', output])}\n`;
  }
}
