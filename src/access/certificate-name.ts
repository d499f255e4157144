import type { X509Certificate } from 'node:crypto';

/** A name out of a certificate: the common name, or its first alternative name of a kind. Null where there is none, or no single one. */
export function certificateName(
  certificate: X509Certificate,
  what: 'common_name' | 'email' | 'dns' | 'uri',
): string | null {
  if (what === 'common_name') {
    // One attribute a line; several in one part of the name stand on one line, joined by " + ".
    const lines = certificate.subject?.split('\n') ?? [];
    const names = lines.filter((line) => /(?:^|\+ )CN=/.test(line));
    return names.length === 1 && !names[0]!.includes(' + ') ? names[0]!.slice('CN='.length) : null;
  }
  const kind = { email: 'email', dns: 'DNS', uri: 'URI' }[what];
  // Node quotes names that could be mistaken for several; such names are taken by nobody.
  const names = certificate.subjectAltName?.split(', ') ?? [];
  const found = names.find((name) => name.startsWith(`${kind}:`))?.slice(kind.length + 1);
  return found === undefined || found.startsWith('"') ? null : found;
}
