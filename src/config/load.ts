import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import {
  type Document,
  isAlias,
  isMap,
  isNode,
  isPair,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
} from 'yaml';
import type { z } from 'zod';
import { ConfigError, type ConfigFault, nearest, pathText } from './faults.ts';
import { configJsonSchema, keysBelow, knownKeys, type SchemaNode } from './json-schema.ts';
import { resolvePaths } from './paths.ts';
import { checkRules } from './rules.ts';
import { type Config, configSchema, listenerSchema, providerSchema, resourceSchema } from './schema.ts';

export interface LoadedConfig {
  /** Valid, with every default filled in and every file path made absolute. */
  readonly config: Config;
  /** The file it came from, as given. */
  readonly path: string;
  readonly warnings: readonly ConfigFault[];
}

export interface ParseOptions {
  /** Look at the files that the configuration names. Default: true. */
  readonly files?: boolean;
}

/** A configuration file is read up to this size. Ours. */
const CONFIG_BYTES_MAX = 4 * 1024 * 1024;

/** YAML aliases that may be followed: enough for shared blocks, too few for a bomb. Ours. */
const ALIASES_MAX = 1000;

/**
 * Reads and checks a configuration file. Relative paths in it are taken from the folder that the file is in.
 *
 * Rejects with a `ConfigError` that holds every fault found.
 */
export async function loadConfig(path: string): Promise<LoadedConfig> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new ConfigError(path, [wholeFile(unreadable(error as NodeJS.ErrnoException))]);
  }
  if (bytes.length > CONFIG_BYTES_MAX) {
    throw new ConfigError(path, [wholeFile(`is larger than ${CONFIG_BYTES_MAX / 1024 / 1024} MiB`)]);
  }
  return parseConfig(bytes.toString('utf8'), path);
}

/**
 * Checks a configuration given as YAML text (JSON is YAML too). `path` is for messages, and its folder is where relative
 * paths begin; it need not exist. Environment variables are not expanded: a value is what is written.
 *
 * Throws a `ConfigError` that holds every fault found.
 */
export function parseConfig(text: string, path: string, options: ParseOptions = {}): LoadedConfig {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, version: '1.2' });
  const places = new Places(document, lines);
  const syntax = document.errors.map((error) => ({
    severity: 'error' as const,
    path: '',
    ...places.at(error.pos[0]),
    message: `is not YAML: ${SYNTAX_ERRORS[error.code] ?? 'something stands where it cannot'}`,
    remedy: null,
  }));
  if (syntax.length > 0) throw new ConfigError(path, syntax);

  const raw = plainValue(document, path);
  const result = configSchema.safeParse(raw);
  const faults: ConfigFault[] = [];
  if (!result.success) {
    const schema = configJsonSchema();
    for (const issue of result.error.issues) faults.push(...issueFaults(issue, raw, schema, places));
  }
  const directory = dirname(resolve(path));
  const config = resolvePaths(
    result.success ? result.data : usableParts(raw, result.error.issues),
    directory,
  );
  const names = {
    resources: Object.keys((raw as Partial<Config> | null)?.resources ?? {}),
    providers: Object.keys((raw as Partial<Config> | null)?.secrets ?? {}),
  };
  checkRules(config, names, options.files ?? true, (finding) => {
    faults.push({
      severity: finding.severity ?? 'error',
      path: pathText(finding.path),
      ...places.of(finding.path),
      message: finding.message,
      remedy: finding.remedy ?? null,
    });
  });
  faults.sort((left, right) => (left.line ?? 0) - (right.line ?? 0));
  if (faults.some((fault) => fault.severity === 'error')) throw new ConfigError(path, faults);
  return { config, path, warnings: faults };
}

/** What the parser's codes mean. Its own messages quote the file, and so might quote a password. */
const SYNTAX_ERRORS: Readonly<Record<string, string>> = {
  BAD_ALIAS: 'an alias (*name) without its anchor (&name)',
  BAD_INDENT: 'the indentation does not fit the lines above',
  BAD_SCALAR_START: 'a value begins with a character that needs quotes around the value',
  BAD_DQ_ESCAPE:
    'an escape in double quotes that does not exist; use single quotes for text with backslashes',
  BLOCK_AS_IMPLICIT_KEY: 'two keys on one line, or a value with ": " in it that needs quotes',
  DUPLICATE_KEY: 'this key is there twice',
  MISSING_CHAR: 'a quote, bracket or colon is missing',
  MULTILINE_IMPLICIT_KEY: 'a key that runs over several lines; a colon may be missing',
  MULTIPLE_DOCS: 'more than one document (---) in the file',
  TAB_AS_INDENT: 'tabs as indentation; use spaces',
  UNEXPECTED_TOKEN: 'something stands where it cannot; quotes or brackets may not be closed',
};

function plainValue(document: Document.Parsed, path: string): unknown {
  try {
    return document.toJS({ maxAliasCount: ALIASES_MAX });
  } catch {
    throw new ConfigError(path, [wholeFile('its aliases (*name) cannot be resolved, or are too many')]);
  }
}

function wholeFile(message: string): ConfigFault {
  return { severity: 'error', path: '', line: null, column: null, message, remedy: null };
}

function unreadable(error: NodeJS.ErrnoException): string {
  if (error.code === 'ENOENT') return 'there is no such file';
  if (error.code === 'EACCES') return 'this user may not read the file';
  if (error.code === 'EISDIR') return 'is a folder, not a file';
  return `cannot be read: ${error.code ?? error.message}`;
}

type Issue = z.core.$ZodIssue;

/** Faults of one finding of the schema. Values of the file are never quoted: one of them could be a password. */
function issueFaults(issue: Issue, raw: unknown, schema: SchemaNode, places: Places): ConfigFault[] {
  const fault = (message: string, remedy: string | null = null, path = issue.path): ConfigFault => ({
    severity: 'error',
    path: pathText(path),
    ...places.of(path),
    message,
    remedy,
  });
  const value = valueAt(raw, issue.path);
  switch (issue.code) {
    case 'unrecognized_keys': {
      return issue.keys.map((key) => ({
        ...fault('is not a known key', keyRemedy(key, raw, schema, issue.path), [...issue.path, key]),
        ...places.of([...issue.path, key]),
      }));
    }
    case 'invalid_union': {
      if (issue.discriminator !== undefined) {
        const options = (issue as { options?: readonly unknown[] }).options?.map(String) ?? [];
        return [choiceFault(value, options, fault)];
      }
      const branches = issue.errors.filter((branch) => !branch.some((inner) => wrongKind(inner)));
      const branch = branches[0] ?? [];
      if (branch.length > 0) {
        return branch.flatMap((inner) =>
          issueFaults({ ...inner, path: [...issue.path, ...inner.path] } as Issue, raw, schema, places),
        );
      }
      if (value === undefined) return [fault('is missing')];
      const kinds = issue.errors.flatMap((inner) => inner.filter(wrongKind).map(kindOf));
      return [fault(`must be ${[...new Set(kinds)].join(' or ')}`)];
    }
    case 'invalid_type':
      if (value === undefined) return [fault('is missing', `write ${kindOf(issue)}`)];
      if (value === null) return [fault('is empty', `write ${kindOf(issue)}, or leave the key out`)];
      if (isSecretPath(issue.path)) return [fault(NOT_A_REFERENCE, REFERENCE_FORM)];
      return [fault(`must be ${kindOf(issue)}`, typeRemedy(issue.expected, value))];
    case 'invalid_value':
      return [choiceFault(value, issue.values.map(String), fault)];
    case 'too_small':
    case 'too_big':
      return [fault(rangeText(issue))];
    case 'invalid_key':
      return [
        fault('is not a name that can be used here', 'use letters, digits, "_" and "-", a letter first'),
      ];
    case 'invalid_format':
      if (isSecretPath(issue.path)) return [fault(NOT_A_REFERENCE, REFERENCE_FORM)];
      return [fault('is not in the right form', issue.message)];
    default:
      return [fault('is not in the right form', issue.message)];
  }
}

/** The key that was meant: one of the same block, or one of a block within it. */
function keyRemedy(key: string, raw: unknown, schema: SchemaNode, path: readonly PropertyKey[]): string {
  const known = knownKeys(schema, raw, path);
  const meant = nearest(key, known);
  if (meant !== null) return `did you mean "${meant}"?`;
  const below = keysBelow(schema, raw, path);
  const lower = nearest(key, new Set(below.map((one) => one.slice(one.indexOf('.') + 1))));
  const place = below.find((one) => one.slice(one.indexOf('.') + 1) === lower);
  if (place !== undefined) return `did you mean "${lower}" under "${place.slice(0, place.indexOf('.'))}"?`;
  return `known keys: ${known.join(', ')}`;
}

const NOT_A_REFERENCE = 'is not a reference to a secret; a password itself does not belong in this file';
const REFERENCE_FORM = 'write PROVIDER:PATH or PROVIDER:PATH#FIELD, for example env:ORDERS_PASSWORD';

const SECRET_KEYS: ReadonlySet<string> = new Set([
  'launch_credentials',
  'password',
  'token',
  'secret_id',
  'client_secret',
  'config',
]);

/** Whether the key holds a reference to a secret, and so may hold the secret itself by mistake. */
function isSecretPath(path: readonly PropertyKey[]): boolean {
  const last = path.at(-1);
  return SECRET_KEYS.has(String(last));
}

function choiceFault(
  value: unknown,
  options: readonly string[],
  fault: (message: string, remedy: string | null) => ConfigFault,
): ConfigFault {
  const list = `write one of: ${options.join(', ')}`;
  if (value === undefined || value === null) return fault('is missing', list);
  const meant = typeof value === 'string' ? nearest(value, options) : null;
  return fault('is none of the possible values', meant === null ? list : `did you mean "${meant}"? ${list}`);
}

/** Whether a form of a union was not even tried, because the value is of another kind altogether. */
function wrongKind(issue: Issue): boolean {
  return issue.code === 'invalid_type' && issue.path.length === 0;
}

const KINDS: Readonly<Record<string, string>> = {
  string: 'text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'a block of keys',
  record: 'a block of keys',
};

function kindOf(issue: Issue): string {
  return issue.code === 'invalid_type' ? (KINDS[issue.expected] ?? issue.expected) : 'something else';
}

function typeRemedy(expected: string, value: unknown): string | null {
  if (expected === 'string' && (typeof value === 'number' || typeof value === 'boolean'))
    return 'put it in quotes';
  if (expected === 'number' && typeof value === 'string') return 'write it without quotes';
  if (expected === 'boolean' && typeof value === 'string') return 'write true or false, without quotes';
  if (expected === 'array') return 'begin each entry with "- ", or write [a, b]';
  return null;
}

function rangeText(issue: Extract<Issue, { code: 'too_small' | 'too_big' }>): string {
  const number = issue.origin === 'number' || issue.origin === 'int' || issue.origin === 'bigint';
  const unit = issue.origin === 'string' ? ' characters' : number ? '' : ' entries';
  if (issue.code === 'too_big') return `must be at most ${issue.maximum}${unit}`;
  if (!number && issue.minimum === 1) return 'must not be empty';
  if (number && issue.minimum === 0 && issue.inclusive === false) return 'must be more than 0';
  return `must be at least ${issue.minimum}${unit}`;
}

function valueAt(raw: unknown, path: readonly PropertyKey[]): unknown {
  let value = raw;
  for (const part of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Record<PropertyKey, unknown>)[part];
  }
  return value;
}

/**
 * What can be understood of a configuration with faults, so that its other faults are found in the same run: keys that
 * are not known are left out, and so are resources, listeners and providers that are wrong in themselves.
 */
function usableParts(raw: unknown, issues: readonly Issue[]): Config {
  const copy = structuredClone(raw) as Record<string, unknown> | null;
  for (const issue of issues) {
    if (issue.code !== 'unrecognized_keys') continue;
    const owner = valueAt(copy, issue.path) as Record<string, unknown> | undefined;
    for (const key of issue.keys) delete owner?.[key];
  }
  const whole = configSchema.safeParse(copy);
  if (whole.success) return whole.data;
  const part = <T>(schema: z.ZodType<T>, value: unknown): T | undefined => schema.safeParse(value).data;
  const entries = <T>(schema: z.ZodType<T>, values: unknown): Record<string, T> => {
    const kept: Record<string, T> = {};
    for (const [name, value] of Object.entries(values ?? {})) {
      const parsed = part(schema, value);
      if (parsed !== undefined) kept[name] = parsed;
    }
    return kept;
  };
  const { gateway, http, recording } = configSchema.shape;
  const listeners = Array.isArray(copy?.['listeners']) ? copy['listeners'] : [];
  return {
    ...configSchema.parse({ resources: {} }),
    ...dropUndefined({
      gateway: part(gateway, copy?.['gateway']),
      http: part(http, copy?.['http']),
      recording: part(recording, copy?.['recording']),
    }),
    secrets: entries(providerSchema, copy?.['secrets']),
    resources: entries(resourceSchema, copy?.['resources']),
    // Places of listeners that are wrong in themselves stay empty, so that the others keep their numbers.
    listeners: listeners.map((listener) => part(listenerSchema, listener)) as Config['listeners'],
  };
}

function dropUndefined<T extends object>(fields: T): { [K in keyof T]: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never;
}

/** Finds the line and column of keys in the text. */
class Places {
  readonly #document: Document.Parsed;
  readonly #lines: LineCounter;

  constructor(document: Document.Parsed, lines: LineCounter) {
    this.#document = document;
    this.#lines = lines;
  }

  at(offset: number): { line: number; column: number } {
    const { line, col } = this.#lines.linePos(offset);
    return { line, column: col };
  }

  /** The place of the key at `path`, or of the nearest thing around it that is there. */
  of(path: readonly PropertyKey[]): { line: number | null; column: number | null } {
    let node: unknown = this.#document.contents;
    let offset = isNode(node) ? (node.range?.[0] ?? null) : null;
    for (const part of path) {
      const found = this.#child(node, part);
      if (found === null) break;
      offset = found.offset ?? offset;
      node = found.node;
    }
    return offset === null ? { line: null, column: null } : this.at(offset);
  }

  #child(parent: unknown, part: PropertyKey): { node: unknown; offset: number | null } | null {
    const node = isAlias(parent) ? parent.resolve(this.#document) : parent;
    if (isSeq(node) && typeof part === 'number') {
      const item = node.items[part];
      return item === undefined
        ? null
        : { node: item, offset: isNode(item) ? (item.range?.[0] ?? null) : null };
    }
    if (!isMap(node)) return null;
    const pair = node.items.find(
      (item) => isPair(item) && isScalar(item.key) && String(item.key.value) === part,
    );
    if (pair === undefined) return null;
    return { node: pair.value, offset: isScalar(pair.key) ? (pair.key.range?.[0] ?? null) : null };
  }
}
