import { Secret } from '../../protocols/secret.ts';
import { SecretError, type SecretReference, type SecretValue } from './provider.ts';
import { referenceText } from './reference.ts';

/**
 * A secret that a provider holds as one text. Text that is a JSON object gives its fields too, as most providers' own
 * consoles store account and password that way; where no field is asked for, its `password` stands for the whole.
 *
 * `bytes` are owned by the result. Throws a `SecretError` when a field is asked for that is not there.
 */
export function textValue(reference: SecretReference, bytes: Buffer, expiresAt: number | null): SecretValue {
  if (bytes.length === 0) {
    throw new SecretError(reference.provider, `${referenceText(reference)} is empty`, {
      code: 'malformed',
      hint: 'An empty secret is never right: store a value.',
    });
  }
  const fields = jsonFields(bytes);
  if (reference.field === null && fields['password'] === undefined)
    return { value: Secret.fromBytes(bytes), fields, expiresAt };
  bytes.fill(0);
  return fieldValue(reference, fields, expiresAt);
}

/**
 * A secret that a provider holds as named fields. Throws a `SecretError` when a field is asked for that is not there.
 */
export function fieldValue(
  reference: SecretReference,
  fields: Readonly<Record<string, Secret>>,
  expiresAt: number | null,
): SecretValue {
  if (reference.field === null) return { value: onlyField(fields), fields, expiresAt };
  const value = Object.hasOwn(fields, reference.field) ? fields[reference.field] : undefined;
  if (value === undefined) {
    const names = Object.keys(fields);
    throw new SecretError(
      reference.provider,
      `${referenceText({ ...reference, field: null })} has no field "${reference.field}"`,
      {
        code: 'field_not_found',
        hint:
          names.length > 0
            ? `Its fields are: ${names.join(', ')}.`
            : 'It is one text without fields: leave the "#" and what follows out.',
      },
    );
  }
  return { value: value.clone(), fields, expiresAt };
}

/** Text and numbers of a JSON object as secrets; what else it holds is left out. */
export function secretFields(values: Readonly<Record<string, unknown>>): Record<string, Secret> {
  const fields: Record<string, Secret> = Object.create(null);
  for (const [name, value] of Object.entries(values)) {
    if (typeof value === 'string' && value !== '') fields[name] = Secret.fromText(value);
    else if (typeof value === 'number') fields[name] = Secret.fromText(String(value));
  }
  return fields;
}

/** Without the line end that editors and `echo` leave at the end of a file. */
export function withoutLineEnd(bytes: Buffer): Buffer {
  let end = bytes.length;
  if (end > 0 && bytes[end - 1] === 0x0a) end -= 1;
  if (end > 0 && bytes[end - 1] === 0x0d) end -= 1;
  return bytes.subarray(0, end);
}

/** The one field of a secret that has only one: then nobody needs to name it. */
function onlyField(fields: Readonly<Record<string, Secret>>): Secret | null {
  const all = Object.values(fields);
  if (all.length === 1) return all[0]!.clone();
  return fields['password']?.clone() ?? null;
}

function jsonFields(bytes: Buffer): Record<string, Secret> {
  if (bytes[0] !== 0x7b) return Object.create(null);
  try {
    const parsed: unknown = JSON.parse(bytes.toString('utf8'));
    return secretFields(parsed as Record<string, unknown>);
  } catch {
    return Object.create(null);
  }
}
