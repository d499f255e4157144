/** Tokens of the T-SQL that the test double understands. */
export interface SqlToken {
  readonly kind:
    | 'word'
    | 'quoted'
    | 'variable'
    | 'number'
    | 'string'
    | 'national'
    | 'binary'
    | 'symbol'
    | 'end';
  readonly text: string;
  readonly line: number;
  readonly start: number;
  readonly end: number;
}

const PATTERNS: readonly (readonly [SqlToken['kind'] | 'space', RegExp])[] = [
  ['space', /\s+|--[^\n]*|\/\*[\s\S]*?\*\//y],
  ['national', /N'(?:[^']|'')*'/iy],
  ['string', /'(?:[^']|'')*'/y],
  ['quoted', /\[(?:[^\]]|\]\])*\]|"(?:[^"]|"")*"/y],
  ['binary', /0x[0-9a-f]*/iy],
  ['number', /\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+/iy],
  ['variable', /@@?[\w#$]+/y],
  ['word', /[\p{L}_#][\p{L}\p{N}_#$]*/uy],
  ['symbol', /<>|<=|>=|!=|\+=|-=|::|[-+*/%(),;=<>.:?&|^~]/y],
];

/** Cuts a batch into tokens; the last one is `end`. Throws for a character that begins none. */
export function lex(sql: string): SqlToken[] {
  const tokens: SqlToken[] = [];
  let at = 0;
  let line = 1;
  while (at < sql.length) {
    const found = PATTERNS.map(([kind, pattern]) => {
      pattern.lastIndex = at;
      return { kind, match: pattern.exec(sql) };
    }).find(({ match }) => match !== null);
    if (found === undefined) throw new SyntaxError(`Incorrect syntax near '${sql[at]}'.`);
    const raw = found.match![0];
    if (found.kind !== 'space') {
      tokens.push({
        kind: found.kind,
        text: unquoted(found.kind, raw),
        line,
        start: at,
        end: at + raw.length,
      });
    }
    line += raw.split('\n').length - 1;
    at += raw.length;
  }
  tokens.push({ kind: 'end', text: '', line, start: at, end: at });
  return tokens;
}

function unquoted(kind: SqlToken['kind'], raw: string): string {
  if (kind === 'string') return raw.slice(1, -1).replaceAll("''", "'");
  if (kind === 'national') return raw.slice(2, -1).replaceAll("''", "'");
  if (kind === 'quoted') {
    return raw[0] === '[' ? raw.slice(1, -1).replaceAll(']]', ']') : raw.slice(1, -1).replaceAll('""', '"');
  }
  return raw;
}
