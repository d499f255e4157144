import type { EventParameter, JournalEvent, RecordedStatement, SessionStartedEvent } from './events.ts';

/** How recordings look to people. Everything that came from outside is shown so that a terminal does not obey it. */

const PARAMETER_CHARACTERS_MAX = 200;

/** Control characters made visible: a statement could otherwise steer the terminal of who reviews it. */
export function shown(text: string): string {
  return text.replace(/(?![\n\t])[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu, (character) => {
    const code = character.charCodeAt(0);
    if (character === '\r') return '';
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return `\\u${code.toString(16).padStart(4, '0')}`;
  });
}

/** `1.234 ms`, `12.3 s`, `2 m 5 s`. */
export function durationText(us: number): string {
  if (us < 1000) return `${us} µs`;
  if (us < 1_000_000) return `${(us / 1000).toFixed(us < 10_000 ? 2 : 1)} ms`;
  const seconds = us / 1_000_000;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} m ${Math.round(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} m`;
}

export function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${value} B` : `${value.toFixed(1)} ${units[unit]}`;
}

/** Milliseconds since the session began, as `m:ss.mmm`. */
export function offsetText(ms: number): string {
  const minutes = Math.floor(ms / 60_000);
  const rest = ms - minutes * 60_000;
  return `${minutes}:${(rest / 1000).toFixed(3).padStart(6, '0')}`;
}

export function sessionHeading(start: SessionStartedEvent): string {
  const program = start.client_program === null ? '' : ` with ${start.client_program}`;
  const database = start.database === null ? '' : `/${start.database}`;
  const secure = start.server_tls === null ? 'in the clear' : start.server_tls;
  return shown(
    [
      `Session ${start.session}`,
      `${start.principal} on ${start.resource}${database}${program}, from ${start.client_address}`,
      `${start.engine} ${start.server_version} at ${start.server_address} as ${start.database_user} (${start.authentication}, ${secure}); server session ${start.server_session ?? '?'}`,
      `began ${start.at}`,
    ].join('\n'),
  );
}

export function parameterText({ name, type, value, bytes }: EventParameter, index: number): string {
  const label = name ?? `$${index + 1}`;
  const text =
    typeof value === 'string' ? JSON.stringify(value) : value === null ? 'NULL' : JSON.stringify(value);
  const cut =
    bytes !== undefined
      ? ` … (${bytesText(bytes)} in all)`
      : text.length > PARAMETER_CHARACTERS_MAX
        ? ' …'
        : '';
  return shown(
    `${label}${type === null ? '' : ` ${type}`} = ${text.slice(0, PARAMETER_CHARACTERS_MAX)}${cut}`,
  );
}

/** What was run, without its outcome. */
export function statementText(
  statement: Pick<RecordedStatement, 'kind' | 'text' | 'name' | 'parameters' | 'opaque'>,
): string {
  const lines = (statement.text ?? (statement.opaque ? '(could not be read)' : `(${statement.kind})`))
    .trimEnd()
    .split('\n');
  const name = statement.name === null || statement.name === '' ? '' : ` [${statement.name}]`;
  lines[0] = `${lines[0]}${name}`;
  for (const [index, parameter] of (statement.parameters ?? []).entries())
    lines.push(`  ${parameterText(parameter, index)}`);
  return lines.map(shown).join('\n');
}

/** How it ended, on one line. */
export function outcomeText(
  statement: Pick<
    RecordedStatement,
    'status' | 'error' | 'rows_returned' | 'rows_affected' | 'duration_us' | 'transaction'
  >,
): string {
  if (statement.status === 'unknown') return 'unknown: its end is not on record';
  const facts: string[] = [statement.status];
  if (statement.error !== null) facts.push(`${statement.error.code} ${statement.error.message}`);
  if (statement.rows_returned !== null) facts.push(rowsText(statement.rows_returned, 'returned'));
  if (statement.rows_affected !== null) facts.push(rowsText(statement.rows_affected, 'affected'));
  if (statement.duration_us !== null) facts.push(durationText(statement.duration_us));
  if (statement.transaction === 'active' || statement.transaction === 'failed')
    facts.push(`transaction ${statement.transaction}`);
  return shown(facts.join(', '));
}

function rowsText(count: number | string, what: string): string {
  return `${count} ${Number(count) === 1 ? 'row' : 'rows'} ${what}`;
}

/** A line for events that are no statements; null where there is nothing to say. */
export function eventText(event: JournalEvent): string | null {
  switch (event.type) {
    case 'note': {
      const { kind, ...facts } = event.note;
      return shown(`note: ${kind} ${Object.values(facts).join(' ')}`);
    }
    case 'gap':
      return shown(
        `GAP: ${event.events === 0 ? 'events' : `${event.events} events`} between ${event.from} and ${event.to} are not on record (${event.reason})`,
      );
    case 'session_ended':
      return shown(
        `ended: ${event.reason}${event.detail === null ? '' : ` (${event.detail})`}, ${event.statements} statements, ${bytesText(event.bytes_sent)} sent, ${bytesText(event.bytes_received)} received`,
      );
    case 'audit':
      return shown(
        `${event.action} ${event.principal ?? ''} ${event.resource ?? ''} ${event.reason ?? ''}`.trimEnd(),
      );
    default:
      return null;
  }
}

/** Rows as a table for people: columns as wide as their content, numbers to the right. */
export function table(
  headings: readonly string[],
  rows: readonly (readonly (string | number | null)[])[],
): string {
  const cells = rows.map((row) =>
    row.map((cell) => shown(cell === null ? '' : String(cell)).replaceAll('\n', ' ')),
  );
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...cells.map((row) => row[column]?.length ?? 0)),
  );
  const line = (row: readonly string[], numeric: (column: number) => boolean): string =>
    row
      .map((cell, column) =>
        numeric(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!),
      )
      .join('  ')
      .trimEnd();
  const numeric = (column: number): boolean =>
    rows.length > 0 && rows.every((row) => typeof row[column] === 'number' || row[column] === null);
  return [line(headings, numeric), ...cells.map((row) => line(row, numeric))].join('\n');
}
