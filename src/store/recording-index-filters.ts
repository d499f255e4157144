import type { SessionFilter, StatementFilter } from './recording-index.ts';
import { RESULTS_MAX } from './recording-index.ts';
import { bareTable, keptTable, wordsOf } from './recording-words.ts';

/**
 * What is asked of an index, as SQL: the same for each kind, but for what `FilterSyntax` words. `s` stands for sessions, `t`
 * for statements, `x` for texts.
 */

export interface Term {
  readonly sql: string;
  readonly values: readonly (string | number)[];
}

/** What SQLite and PostgreSQL write differently. `?` is the place of a value. */
export interface FilterSyntax {
  /** The greater of two columns, null being nothing. */
  rows: string;
  effect(effect: string): Term;
  table(name: string, bare: string): Term;
  /** Every word begins a word of the text. */
  words(words: readonly string[]): Term;
}

/** By what they look at: terms on texts and on sessions narrow a search before statements are read. */
export interface StatementTerms {
  readonly sessions: readonly Term[];
  readonly statements: readonly Term[];
  readonly texts: readonly Term[];
  /** Nothing can be found. */
  readonly none: boolean;
}

export function sessionTerms(filter: SessionFilter): Term[] {
  const { riskMin, since, until } = filter;
  return [
    ...sessionFacts(filter),
    ...(filter.held === undefined ? [] : [{ sql: 's.held = 1', values: [] }]),
    ...atLeast('s.risk', riskMin),
    ...atLeast('s.started_at', since),
    ...(until === undefined ? [] : [{ sql: 's.started_at < ?', values: [until] }]),
  ];
}

export function statementTerms(filter: StatementFilter, syntax: FilterSyntax): StatementTerms {
  const { until, rowsMin, durationMsMin, effect, table, text } = filter;
  const words = text === undefined ? null : wordsOf(text);
  const texts: Term[] = [...riskTerms(filter.riskMin)];
  if (effect !== undefined) texts.push(syntax.effect(effect));
  if (table !== undefined) {
    const name = keptTable(table);
    texts.push(syntax.table(name, bareTable(name)));
  }
  if (words !== null && words.length > 0) texts.push(syntax.words(words));
  return {
    sessions: [
      ...sessionFacts(filter),
      ...(filter.session === undefined ? [] : [{ sql: 's.id = ?', values: [filter.session] }]),
    ],
    statements: [
      ...equal('t.seq', filter.seq),
      ...equal('t.status', filter.status),
      ...atLeast('t.at', filter.since),
      ...(until === undefined ? [] : [{ sql: 't.at < ?', values: [until] }]),
      ...atLeast(syntax.rows, rowsMin === undefined ? undefined : Math.ceil(rowsMin)),
      ...atLeast('t.duration_us', durationMsMin === undefined ? undefined : Math.ceil(durationMsMin * 1000)),
    ],
    texts,
    none: words !== null && words.length === 0,
  };
}

export function limitOf({ limit }: SessionFilter): number {
  return Math.min(limit, RESULTS_MAX);
}

function sessionFacts(filter: SessionFilter): Term[] {
  return [
    ...equal('s.principal', filter.principal),
    ...equal('s.resource', filter.resource),
    ...equal('s.engine', filter.engine),
    ...equal('s.state', filter.state),
    ...equal('s.reason', filter.reason),
  ];
}

/** Risk from here on has an index of its own: such texts are few. */
export const RISK_INDEXED_MIN = 2;

/** SQLite takes an index of some rows alone where the very words of its condition stand. */
function riskTerms(riskMin: number | undefined): Term[] {
  const [term] = atLeast('x.risk', riskMin);
  if (term === undefined) return [];
  if (riskMin! < RISK_INDEXED_MIN) return [term];
  return [{ sql: `x.risk >= ${RISK_INDEXED_MIN} AND ${term.sql}`, values: term.values }];
}

function equal(column: string, value: string | number | undefined): Term[] {
  return value === undefined ? [] : [{ sql: `${column} = ?`, values: [value] }];
}

function atLeast(column: string, value: number | undefined): Term[] {
  return value === undefined ? [] : [{ sql: `${column} >= ?`, values: [value] }];
}
