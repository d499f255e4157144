import type { SecretReference } from './provider.ts';

/** Takes `PROVIDER:PATH[#FIELD]` apart. The configuration has been checked for its form. */
export function parseReference(text: string): SecretReference {
  const colon = text.indexOf(':');
  const hash = text.indexOf('#', colon + 1);
  return {
    provider: text.slice(0, Math.max(colon, 0)),
    path: hash === -1 ? text.slice(colon + 1) : text.slice(colon + 1, hash),
    field: hash === -1 ? null : text.slice(hash + 1),
  };
}

/** The reference as it is written, for messages: it names a secret and is none. */
export function referenceText(reference: SecretReference): string {
  const field = reference.field === null ? '' : `#${reference.field}`;
  return `${reference.provider}:${reference.path}${field}`;
}
