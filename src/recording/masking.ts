import type { Dialect } from '../../protocols/sql/lexer.ts';
import type { Parameter, Statement } from '../../protocols/statement.ts';
import type { ResourceConfig } from '../config/schema.ts';
import type { MaskedStatement, Masker } from './journal-session.ts';
import {
  isSecretName,
  MASK,
  type MaskedText,
  type MaskRules,
  maskText,
  maskValue,
  mayHoldSecrets,
  NO_RULES,
} from './mask-text.ts';
import type { SessionStart } from './recorder.ts';

/** What is recorded of one resource's parameters and literals. */
export interface ResourceMasking extends MaskRules {
  /** `masked` keeps names and types of parameters and none of their values. */
  readonly parameters: 'on' | 'masked';
}

/** The rules of each resource, from its configuration. */
export function maskingOf(
  resources: Readonly<Record<string, Pick<ResourceConfig, 'recording'>>>,
): Map<string, ResourceMasking> {
  return new Map(
    Object.entries(resources).map(([name, { recording }]) => [
      name,
      {
        parameters: recording.parameters === 'masked' ? 'masked' : 'on',
        columns: new Set(
          recording.masks.flatMap(({ columns }) => columns ?? []).map((column) => column.toLowerCase()),
        ),
        patterns: recording.masks.flatMap(({ pattern }) =>
          pattern === undefined ? [] : [new RegExp(pattern, 'gu')],
        ),
      },
    ]),
  );
}

/** What masking must know of a session. */
export type MaskedSession = Pick<SessionStart, 'resource' | 'engine'>;

/** Texts whose result is remembered: prepared statements run again and again. Only those that hold no secret. */
const REMEMBERED_MAX = 500;
const REMEMBERED_CHARACTERS_MAX = 4_096;

/** Shorter ones would take pieces out of ordinary words. */
const SECRET_CHARACTERS_MIN = 3;

/**
 * Takes credentials, and what the rules of a resource name, out of statements before anything is written. Credentials go
 * whatever the rules are.
 */
export class StatementMasker implements Masker {
  #byResource: ReadonlyMap<string, ResourceMasking>;
  readonly #remembered = new Map<string, MaskedText>();

  constructor(byResource: ReadonlyMap<string, ResourceMasking>) {
    this.#byResource = byResource;
  }

  /** Takes other rules, from the next statement on. */
  replace(byResource: ReadonlyMap<string, ResourceMasking>): void {
    this.#byResource = byResource;
    this.#remembered.clear();
  }

  statement(session: MaskedSession, statement: Statement): MaskedStatement | null {
    const { text, parameters } = statement;
    const rules = this.#rules(session);
    const masked = text !== null && mayHoldSecrets(text, rules) ? this.#mask(session, text, rules) : null;
    const kept = this.#parameters(session, statement, masked?.parameters ?? null);
    if ((masked?.text ?? null) === null && kept === null) return null;
    return { text: masked?.text ?? text, parameters: kept ?? parameters, secrets: masked?.secrets ?? [] };
  }

  parameters(session: MaskedSession, statement: Statement): Parameter[] | null {
    const { text } = statement;
    const rules = this.#rules(session);
    const places =
      text !== null && mayHoldSecrets(text, rules) ? this.#mask(session, text, rules).parameters : null;
    return this.#parameters(session, statement, places);
  }

  /** Servers quote statements and values in their errors, and procedures print and return them. */
  outcome(session: MaskedSession, statement: Statement, secrets: readonly string[]): void {
    const rules = this.#rules(session);
    const { error, messages, sample, outputs, results } = statement;
    const clean = (text: string): string => {
      let cleaned = maskValue(text, rules);
      for (const secret of secrets)
        if (secret.length >= SECRET_CHARACTERS_MIN) cleaned = cleaned.replaceAll(secret, MASK);
      return cleaned;
    };
    if (error !== null) statement.error = { ...error, message: clean(error.message) };
    if (messages !== null) statement.messages = messages.map(clean);
    if (sample !== null) statement.sample = maskSample(statement.columns, sample, rules);
    if (results !== null) {
      statement.results = results.map((result) =>
        result.text === undefined
          ? result
          : { ...result, text: this.#mask(session, result.text, rules).text ?? result.text },
      );
    }
    if (outputs !== null) {
      const all = this.#masksAll(session);
      statement.outputs = outputs.map((output, index) => maskParameter(output, index, all, null, rules));
    }
  }

  #parameters(
    session: MaskedSession,
    statement: Statement,
    places: ReadonlySet<string> | null,
  ): Parameter[] | null {
    const { parameters } = statement;
    if (parameters === null || parameters.length === 0) return null;
    const rules = this.#rules(session);
    const all = this.#masksAll(session);
    let masked: Parameter[] | null = null;
    for (let index = 0; index < parameters.length; index += 1) {
      const parameter = parameters[index]!;
      const kept = maskParameter(parameter, index, all, places, rules);
      if (kept === parameter) continue;
      masked ??= [...parameters];
      masked[index] = kept;
    }
    return masked;
  }

  #masksAll(session: MaskedSession): boolean {
    return this.#byResource.get(session.resource)?.parameters === 'masked';
  }

  #rules(session: MaskedSession): MaskRules {
    return this.#byResource.get(session.resource) ?? NO_RULES;
  }

  #mask(session: MaskedSession, text: string, rules: MaskRules): MaskedText {
    const key = `${session.resource} ${session.engine} ${text}`;
    const known = this.#remembered.get(key);
    if (known !== undefined) return known;
    const masked = maskText(text, dialectOf(session.engine), rules);
    if (masked.text === null && text.length <= REMEMBERED_CHARACTERS_MAX) {
      if (this.#remembered.size >= REMEMBERED_MAX)
        this.#remembered.delete(this.#remembered.keys().next().value!);
      this.#remembered.set(key, masked);
    }
    return masked;
  }
}

/** Columns by name, values by pattern. */
function maskSample(
  columns: readonly string[] | null,
  rows: readonly (readonly (string | null)[])[],
  rules: MaskRules,
): (string | null)[][] {
  const secret = columns?.map((name) => isSecretName(name, rules)) ?? [];
  return rows.map((row) =>
    row.map((value, column) => {
      if (value === null) return null;
      return secret[column] === true ? MASK : maskValue(value, rules);
    }),
  );
}

function maskParameter(
  parameter: Parameter,
  index: number,
  all: boolean,
  places: ReadonlySet<string> | null,
  rules: MaskRules,
): Parameter {
  const { name, value } = parameter;
  const secret =
    all ||
    (name !== null && isSecretName(name.replace(/^[@:]+/, ''), rules)) ||
    (places !== null &&
      (places.has(`$${index + 1}`) || places.has(`?${index + 1}`) || (name !== null && places.has(name))));
  if (secret) return value === null ? parameter : { name, type: parameter.type, value: MASK };
  if (typeof value === 'string') {
    const masked = maskValue(value, rules);
    if (masked === value) return parameter;
    return { name, type: parameter.type, value: masked };
  }
  if (typeof value === 'number' && rules.patterns.length > 0) {
    const text = String(value);
    return maskValue(text, rules) === text ? parameter : { name, type: parameter.type, value: MASK };
  }
  if (typeof value === 'object' && value !== null && rules.patterns.length > 0) {
    const text = JSON.stringify(value);
    return maskValue(text, rules) === text ? parameter : { name, type: parameter.type, value: MASK };
  }
  return parameter;
}

function dialectOf(engine: string): Dialect {
  return engine === 'mysql' || engine === 'tds' ? engine : 'postgres';
}
