/** One thing that is wrong (or doubtful) in a configuration file, and what to do about it. */
export interface ConfigFault {
  readonly severity: 'error' | 'warning';
  /** Dotted path of the key, `resources.orders.tls.ca`; empty for the file as a whole. */
  readonly path: string;
  /** From 1; null where the file has no such place. */
  readonly line: number | null;
  readonly column: number | null;
  readonly message: string;
  /** What to write instead, where there is something to say. */
  readonly remedy: string | null;
}

/** A configuration that cannot be used. Holds every fault that was found, and no value of the file. */
export class ConfigError extends Error {
  readonly file: string;
  readonly faults: readonly ConfigFault[];

  constructor(file: string, faults: readonly ConfigFault[]) {
    super(faults.map((fault) => faultText(file, fault)).join('\n'));
    this.name = 'ConfigError';
    this.file = file;
    this.faults = faults;
  }
}

/** `config.yaml:12:5: resources.orders.port: must be a number; write 5432 without quotes`. */
export function faultText(file: string, fault: ConfigFault): string {
  const place = fault.line === null ? file : `${file}:${fault.line}:${fault.column ?? 1}`;
  const warning = fault.severity === 'warning' ? 'warning: ' : '';
  const path = fault.path === '' ? '' : `${fault.path}: `;
  const remedy = fault.remedy === null ? '' : `; ${fault.remedy}`;
  return `${place}: ${warning}${path}${fault.message}${remedy}`;
}

/** A path as people write it: `listeners[0].listen`. */
export function pathText(path: readonly PropertyKey[]): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`;
    else text += text === '' ? String(part) : `.${String(part)}`;
  }
  return text;
}

/** The word of `known` that `word` is most likely a slip of, or null when none is near. */
export function nearest(word: string, known: Iterable<string>): string | null {
  const lower = word.toLowerCase().replaceAll('-', '_');
  let best: string | null = null;
  let bestDistance = Math.max(1, Math.floor(lower.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(lower, candidate.toLowerCase().replaceAll('-', '_'));
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Words longer than this are no slips of a key, and are not compared. */
const COMPARED_LENGTH_MAX = 64;

/** Insertions, deletions, substitutions and swaps of neighbours that make `left` into `right`. */
function editDistance(left: string, right: string): number {
  if (left.length > COMPARED_LENGTH_MAX || right.length > COMPARED_LENGTH_MAX) return Number.MAX_SAFE_INTEGER;
  let beforeLast: number[] = [];
  let last = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let row = 1; row <= left.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= right.length; column += 1) {
      const same = left[row - 1] === right[column - 1];
      let cost = Math.min(last[column]! + 1, current[column - 1]! + 1, last[column - 1]! + (same ? 0 : 1));
      const swapped = left[row - 1] === right[column - 2] && left[row - 2] === right[column - 1];
      if (row > 1 && column > 1 && swapped) cost = Math.min(cost, beforeLast[column - 2]! + 1);
      current.push(cost);
    }
    beforeLast = last;
    last = current;
  }
  return last[right.length]!;
}
