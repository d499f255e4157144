import { classify } from '../../protocols/sql/classify.ts';
import type { Dialect } from '../../protocols/sql/lexer.ts';
import { executedBy, hasHole } from './inner-statements.ts';

/** What a statement touches and does, for the index. */
export interface Relations {
  /** Tables and views, lower case, with the schema where the text names one. */
  readonly tables: readonly string[];
  readonly effects: readonly string[];
}

/** Parses PostgreSQL's SQL into its own tree. Throws for what PostgreSQL would not take either. */
export type PostgresParser = (text: string) => unknown;

/**
 * PostgreSQL's own parser, compiled to WebAssembly (`libpg-query`); null where it is not installed. Loaded by the thread
 * that indexes: a parse costs some ten microseconds and up to some milliseconds, and is never on the way of a statement.
 */
export async function loadPostgresParser(): Promise<PostgresParser | null> {
  try {
    const { loadModule, parseSync } = await import('libpg-query');
    await loadModule();
    return parseSync;
  } catch {
    return null;
  }
}

/** Longer texts are judged by their words alone: bulk INSERTs mostly. */
const PARSE_CHARACTERS_MAX = 4 * 1024;
/** Of longer ones, this much is looked at: the table of a bulk INSERT is in its beginning. */
const CLASSIFY_CHARACTERS_MAX = 16 * 1024;
const DEPTH_MAX = 500;

/**
 * What `text` touches, statements in strings that it runs included, by the parser where there is one for its dialect, else
 * by its words. What runs and cannot be read is `unknown`. Never throws.
 */
export function relationsOf(text: string, dialect: Dialect, parser: PostgresParser | null): Relations {
  const judged = text.slice(0, CLASSIFY_CHARACTERS_MAX);
  const tables = new Set<string>();
  const effects = new Set<string>();
  const executed = executedBy(judged, dialect);
  for (const [index, statement] of [judged, ...executed.statements].entries()) {
    const classes = classify(statement, dialect);
    for (const effect of classes.flatMap((one) => [...one.effects])) effects.add(effect);
    const parsed =
      parser !== null &&
      dialect === 'postgres' &&
      (index > 0 ? statement : text).length <= PARSE_CHARACTERS_MAX
        ? parsedTables(statement, parser)
        : null;
    const names = parsed ?? classes.flatMap(({ relations }) => relations.map((name) => name.toLowerCase()));
    for (const name of names) if (!hasHole(name)) tables.add(name);
  }
  if (executed.unread) effects.add('unknown');
  return { tables: [...tables], effects: [...effects] };
}

/** Null where the text cannot be parsed, or names nothing that the tree shows as a relation. */
function parsedTables(text: string, parser: PostgresParser): string[] | null {
  try {
    const found: Found = { tables: [], expressions: new Set() };
    walk(parser(text), found, 0);
    // Names of common table expressions are no tables; one with a schema is never one.
    const tables = found.tables.filter((name) => name.includes('.') || !found.expressions.has(name));
    return tables.length === 0 ? null : tables;
  } catch {
    return null;
  }
}

interface Found {
  readonly tables: string[];
  readonly expressions: Set<string>;
}

const DROPPED_RELATIONS = new Set(['OBJECT_TABLE', 'OBJECT_VIEW', 'OBJECT_MATVIEW', 'OBJECT_FOREIGN_TABLE']);

function walk(node: unknown, found: Found, depth: number): void {
  if (depth > DEPTH_MAX || typeof node !== 'object' || node === null) return;
  if (Array.isArray(node)) {
    for (const item of node) walk(item, found, depth + 1);
    return;
  }
  const fields = node as Record<string, unknown>;
  const { relname, schemaname, ctename } = fields;
  if (typeof relname === 'string')
    found.tables.push((typeof schemaname === 'string' ? `${schemaname}.${relname}` : relname).toLowerCase());
  if (typeof ctename === 'string') found.expressions.add(ctename.toLowerCase());
  if (typeof fields['removeType'] === 'string' && DROPPED_RELATIONS.has(fields['removeType']))
    for (const object of (fields['objects'] as unknown[] | undefined) ?? [])
      found.tables.push(nameOf(object));
  for (const value of Object.values(fields)) walk(value, found, depth + 1);
}

/** `List(String, String …)`: a qualified name. */
function nameOf(object: unknown): string {
  const items = (object as { List?: { items?: { String?: { sval?: string } }[] } }).List?.items ?? [];
  return items
    .map((item) => item.String?.sval ?? '')
    .join('.')
    .toLowerCase();
}
