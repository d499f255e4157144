/** One line of a server's general log: what a connection asked for. */
export interface Logged {
  readonly connection: number;
  /** `Query`, `Prepare`, `Execute`, `Init DB`, `Quit` … */
  readonly command: string;
  readonly text: string;
}

const LINE =
  /^(?:\d{4}-\d\d-\d\dT\S+|\d{6} +\d+:\d\d:\d\d)?\t+ *(\d+) (Connect|Query|Prepare|Execute|Bulk_execute|Init DB|Field List|Quit|Close stmt|Reset stmt|Long Data|Fetch|Statistics|Change user|Reset Connection|Ping|Kill|Debug|Refresh|Processlist|Set option|Shutdown|Error)\t?(.*)$/;

/** Takes MySQL's and MariaDB's general log apart; a text of several lines belongs to the line that it began on. */
export function parseGeneralLog(log: string): Logged[] {
  const entries: { connection: number; command: string; text: string }[] = [];
  for (const line of log.split('\n')) {
    const found = LINE.exec(line);
    if (found !== null) entries.push({ connection: Number(found[1]), command: found[2]!, text: found[3]! });
    else if (entries.length > 0) entries.at(-1)!.text += `\n${line}`;
  }
  return entries.map(({ text, ...rest }) => ({ ...rest, text: text.trimEnd() }));
}
