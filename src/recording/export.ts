import type { JournalEvent, SessionStartedEvent } from './events.ts';
import { timeMs } from './events.ts';
import { pcapng } from './pcapng.ts';
import { framesOf, statementsOf } from './replay.ts';

export const EXPORT_FORMATS = ['jsonl', 'csv', 'asciicast', 'pcapng'] as const;
export type ExportFormat = (typeof EXPORT_FORMATS)[number];

const TERMINAL_COLUMNS = 120;
const TERMINAL_ROWS = 40;

/** A session's recording in a form for other programs. */
export function exportSession(events: readonly JournalEvent[], format: ExportFormat): string | Buffer {
  switch (format) {
    case 'jsonl':
      return jsonLines(events);
    case 'csv':
      return csv(events);
    case 'asciicast':
      return asciicast(events);
    case 'pcapng':
      return pcapng(events);
  }
}

/** One object a line: the session's start, each statement in one piece (`type: statement`), notes, gaps, its end. */
function jsonLines(events: readonly JournalEvent[]): string {
  const statements = new Map(statementsOf(events).map((statement) => [statement.seq, statement]));
  let text = '';
  for (const event of events) {
    // Raw frames are for pcapng.
    if (event.type === 'statement_ended' || event.type === 'frame') continue;
    const object =
      event.type === 'statement_started' ? { type: 'statement', ...statements.get(event.seq)! } : event;
    text += `${JSON.stringify(object)}\n`;
  }
  return text;
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
function csv(events: readonly JournalEvent[]): string {
  const start = events.find((event): event is SessionStartedEvent => event.type === 'session_started');
  const lines = statementsOf(events).map((statement) => {
    const values: Record<(typeof CSV_COLUMNS)[number], unknown> = {
      ...statement,
      principal: start?.principal ?? '',
      resource: start?.resource ?? '',
      parameters: statement.parameters === null ? '' : JSON.stringify(statement.parameters),
      error_code: statement.error?.code ?? '',
      error_message: statement.error?.message ?? '',
    };
    return CSV_COLUMNS.map((column) => csvCell(values[column])).join(',');
  });
  return `${[CSV_COLUMNS.join(','), ...lines].join('\r\n')}\r\n`;
}

function csvCell(value: unknown): string {
  const text = value === null || value === undefined ? '' : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** asciicast v2: what `replay` shows, with the times of the session; plays in asciinema. */
function asciicast(events: readonly JournalEvent[]): string {
  const first = events[0];
  const header = {
    version: 2,
    width: TERMINAL_COLUMNS,
    height: TERMINAL_ROWS,
    timestamp: first === undefined ? 0 : Math.floor(timeMs(first.at) / 1000),
    title:
      first !== undefined && 'session' in first ? `Sallyport session ${first.session}` : 'Sallyport session',
  };
  let text = `${JSON.stringify(header)}\n`;
  for (const frame of framesOf(events)) {
    const output = `${frame.text.replaceAll('\n', '\r\n')}\r\n`;
    text += `${JSON.stringify([Number((frame.at / 1000).toFixed(6)), 'o', output])}\n`;
  }
  return text;
}
