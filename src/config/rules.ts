import { createPrivateKey, createPublicKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { isIP } from 'node:net';
import { Encrypter } from 'age-encryption';
import { checkAccess, checkListenerResources } from './access-rules.ts';
import { nearest } from './faults.ts';
import type { Config, ListenerConfig, ProviderConfig, ResourceConfig } from './schema.ts';
import type { ListenAddress } from './values.ts';

/** What a rule found. `path` leads to the key. */
export interface Finding {
  readonly severity?: 'error' | 'warning';
  readonly path: readonly PropertyKey[];
  readonly message: string;
  readonly remedy?: string;
}

type Report = (finding: Finding) => void;

/** Names as written in the file, those of entries with faults included. */
export interface DeclaredNames {
  readonly resources: readonly string[];
  readonly providers: readonly string[];
}

/**
 * Checks what no single field can say: names that refer to each other, settings that exclude each other, and (unless
 * `files` is false) that the files named are there and fit together.
 */
export function checkRules(config: Config, names: DeclaredNames, files: boolean, report: Report): void {
  checkAddresses(config, report);
  checkAccess(config, names, report);
  config.listeners.forEach((listener, index) => {
    if (!listener) return;
    checkListener(listener, ['listeners', index], files, report);
    checkListenerResources(listener, ['listeners', index], config, names, report);
  });
  for (const [name, resource] of Object.entries(config.resources)) {
    const path = ['resources', name];
    checkResource(resource, path, report);
    for (const { reference, at } of secretReferences(resource))
      checkReference(reference, [...path, ...at], names.providers, report);
    if (files) checkResourceFiles(resource, path, report);
  }
  for (const [name, provider] of Object.entries(config.secrets))
    checkProvider(provider, ['secrets', name], { config, names, files }, report);
  const { index } = config.recording;
  if (typeof index === 'object' && index.store.type === 'postgres') {
    const { password, host, tls } = index.store;
    const path = ['recording', 'index', 'store'];
    if (password !== undefined) checkReference(password, [...path, 'password'], names.providers, report);
    if (tls.mode === 'disable' && !isLocalHost(host))
      report({
        severity: 'warning',
        path: [...path, 'tls', 'mode'],
        message: 'leaves statements and the password open to the network',
        remedy: 'use verify-full',
      });
  }
  config.recording.recipients.forEach((recipient, index) => {
    try {
      new Encrypter().addRecipient(recipient);
    } catch {
      report({
        path: ['recording', 'recipients', index],
        message: 'is not an age recipient',
        remedy:
          'write a public key that begins with "age1"; the secret key (AGE-SECRET-KEY-…) stays elsewhere',
      });
    }
  });
}

function isLocalHost(host: string): boolean {
  return host.startsWith('/') || host === 'localhost' || host === '::1' || host.startsWith('127.');
}

/** Every reference to a secret in a resource, and the key (within the resource) that holds it. */
export function secretReferences(
  resource: ResourceConfig,
): { readonly reference: string; readonly at: readonly string[] }[] {
  const credentials = resource.launch_credentials;
  if (typeof credentials === 'string') return [{ reference: credentials, at: ['launch_credentials'] }];
  const found = [];
  for (const field of ['password', 'token'] as const) {
    const reference = credentials[field];
    if (reference !== undefined) found.push({ reference, at: ['launch_credentials', field] });
  }
  return found;
}

/** Providers that need no other provider to sign in: what others sign in with may come from these. */
const PLAIN_PROVIDERS: readonly string[] = ['env', 'file', 'exec', 'directory'];

function checkProvider(
  provider: ProviderConfig,
  path: readonly PropertyKey[],
  all: { readonly config: Config; readonly names: DeclaredNames; readonly files: boolean },
  report: Report,
): void {
  for (const { reference, at } of providerReferences(provider)) {
    checkReference(reference, [...path, ...at], all.names.providers, report);
    const name = reference.slice(0, reference.indexOf(':'));
    const other = Object.hasOwn(all.config.secrets, name) ? all.config.secrets[name] : undefined;
    if (other === undefined || PLAIN_PROVIDERS.includes(other.type)) continue;
    report({
      path: [...path, ...at],
      message: 'comes from a provider that must sign in itself',
      remedy: `use one of type ${PLAIN_PROVIDERS.join(', ')}`,
    });
  }
  if (provider.type === 'vault' && provider.auth.method === 'token') {
    if ((provider.auth.token === undefined) === (provider.auth.token_file === undefined))
      report({ path: [...path, 'auth'], message: 'needs either "token" or "token_file"' });
  }
  if (provider.type === 'keeper' && (provider.config === undefined) === (provider.config_file === undefined))
    report({ path, message: 'needs either "config" or "config_file"' });
  const address = addressOf(provider);
  if (address !== null && isClearText(address.url)) {
    report({
      severity: 'warning',
      path: [...path, address.key],
      message: 'secrets would pass the network in the clear',
      remedy: 'use https://',
    });
  }
  if (!all.files) return;
  if (provider.type === 'file') {
    const at = [...path, 'identity'];
    const key = readText(provider.identity, at, report, { missing: 'make it with: sallyport secrets set' });
    if (key !== null) warnWhenReadable(provider.identity, at, report);
  }
  if (provider.type === 'vault' && provider.ca !== undefined)
    readCertificates(provider.ca, [...path, 'ca'], report);
  if (provider.type === 'google-secret-manager' && provider.auth.method === 'service-account') {
    const at = [...path, 'auth', 'key_file'];
    if (readText(provider.auth.key_file, at, report) !== null)
      warnWhenReadable(provider.auth.key_file, at, report);
  }
  if (provider.type === 'keeper' && provider.config_file !== undefined) {
    const at = [...path, 'config_file'];
    if (readText(provider.config_file, at, report) !== null)
      warnWhenReadable(provider.config_file, at, report);
  }
}

/** References within a provider, and the key (within the provider) that holds each. */
function providerReferences(provider: ProviderConfig): { reference: string; at: string[] }[] {
  const found: { reference: string; at: string[] }[] = [];
  const add = (reference: string | undefined, ...at: string[]): void => {
    if (reference !== undefined) found.push({ reference, at });
  };
  if (provider.type === 'keeper') add(provider.config, 'config');
  if (provider.type === 'vault') {
    if (provider.auth.method === 'token') add(provider.auth.token, 'auth', 'token');
    if (provider.auth.method === 'approle') add(provider.auth.secret_id, 'auth', 'secret_id');
  }
  if (provider.type === 'azure-key-vault' && provider.auth.method === 'client-secret')
    add(provider.auth.client_secret, 'auth', 'client_secret');
  return found;
}

function addressOf(provider: ProviderConfig): { key: string; url: string } | null {
  switch (provider.type) {
    case 'vault':
      return { key: 'address', url: provider.address };
    case 'azure-key-vault':
      return { key: 'vault_url', url: provider.vault_url };
    case 'google-secret-manager':
      return { key: 'endpoint', url: provider.endpoint };
    case 'aws-secrets-manager':
      return provider.endpoint === undefined ? null : { key: 'endpoint', url: provider.endpoint };
    default:
      return null;
  }
}

function isClearText(url: string): boolean {
  const { protocol, hostname } = new URL(url);
  return (
    protocol === 'http:' && !isLoopback({ kind: 'tcp', host: hostname.replace(/^\[|\]$/g, ''), port: 0 })
  );
}

/** Whether only this machine can reach the address. */
export function isLoopback(listen: ListenAddress): boolean {
  if (listen.kind === 'unix') return true;
  const { host } = listen;
  if (host === 'localhost' || host === '::1') return true;
  return isIP(host) === 4 && host.startsWith('127.');
}

function checkAddresses(config: Config, report: Report): void {
  const seen: { readonly listen: ListenAddress; readonly text: string }[] = [
    { listen: config.http.listen, text: 'http.listen' },
  ];
  config.listeners.forEach((listener, index) => {
    if (!listener) return;
    const other = seen.find((entry) => collide(entry.listen, listener.listen));
    if (other) {
      report({
        path: ['listeners', index, 'listen'],
        message: `is the same address as ${other.text}`,
        remedy: 'give each listener its own port or socket',
      });
    }
    seen.push({ listen: listener.listen, text: `listeners[${index}].listen` });
  });
}

function collide(left: ListenAddress, right: ListenAddress): boolean {
  if (left.kind === 'unix' || right.kind === 'unix')
    return left.kind === 'unix' && right.kind === 'unix' && left.path === right.path;
  if (left.port !== right.port || left.port === 0) return false;
  const everywhere = (host: string): boolean => host === '0.0.0.0' || host === '::' || host === '*';
  const plain = (host: string): string => (host === 'localhost' ? '127.0.0.1' : host.toLowerCase());
  return plain(left.host) === plain(right.host) || everywhere(left.host) || everywhere(right.host);
}

function checkListener(
  listener: ListenerConfig,
  path: readonly PropertyKey[],
  files: boolean,
  report: Report,
): void {
  if (listener.client_auth === 'trust' && !isLoopback(listener.listen)) {
    report({
      path: [...path, 'client_auth'],
      message:
        'trust lets in everybody who can reach the address, so it is only for loopback and Unix sockets',
      remedy: 'listen on 127.0.0.1, [::1] or unix:/path, or use client_auth: token',
    });
  }
  if (listener.client_auth === 'mtls') {
    if (listener.tls?.client_ca === undefined || listener.tls.mode !== 'require') {
      report({
        path: [...path, 'client_auth'],
        message: 'mtls needs TLS that clients must use, and authorities for their certificates',
        remedy: 'add tls: { mode: require, cert: …, key: …, client_ca: … }',
      });
    }
  }
  if (!files || listener.tls === undefined) return;
  checkCertificate(listener.tls.cert, listener.tls.key, [...path, 'tls'], report);
  if (listener.tls.client_ca !== undefined)
    readCertificates(listener.tls.client_ca, [...path, 'tls', 'client_ca'], report);
}

/** A name or an address in brackets, with or without a port of its own. */
const HOST = /^(?:\[[0-9a-fA-F:.]+\]|[^:/\s@[\]]+)(?::\d{1,5})?$/;

function checkResource(resource: ResourceConfig, path: readonly PropertyKey[], report: Report): void {
  const hosts = typeof resource.host === 'string' ? [resource.host] : resource.host;
  hosts.forEach((host, index) => {
    if (isIP(host) !== 0 || host.startsWith('/') || HOST.test(host)) return;
    report({
      path: typeof resource.host === 'string' ? [...path, 'host'] : [...path, 'host', index],
      message: 'is not a host name or address',
      remedy: 'write the name or address alone, or HOST:PORT; accounts go under "launch_credentials"',
    });
  });
  const { database, databases, tls } = resource;
  if (database !== undefined && databases !== undefined && !databases.includes(database)) {
    report({
      path: [...path, 'database'],
      message: 'is not among "databases", so nobody could open it',
      remedy: 'add it there, or choose one of those',
    });
  }
  if ((tls.cert === undefined) !== (tls.key === undefined)) {
    const there = tls.cert === undefined ? 'key' : 'cert';
    report({
      path: [...path, 'tls', there],
      message: 'a client certificate needs both "cert" and "key"',
      remedy: `add "${there === 'cert' ? 'key' : 'cert'}", or leave both out`,
    });
  }
  if (tls.mode === 'disable' && (tls.ca ?? tls.cert ?? tls.server_name) !== undefined) {
    report({
      severity: 'warning',
      path: [...path, 'tls', 'mode'],
      message: 'TLS is disabled, so its other settings have no effect',
    });
  }
  if ((tls.mode === 'require' || tls.mode === 'prefer') && tls.ca !== undefined) {
    report({
      severity: 'warning',
      path: [...path, 'tls', 'mode'],
      message: `"${tls.mode}" does not check the certificate, although "ca" is given`,
      remedy: 'use verify-ca or verify-full',
    });
  }
  const credentials = resource.launch_credentials;
  if (typeof credentials === 'string') return;
  if (credentials.password !== undefined && credentials.token !== undefined) {
    report({
      path: [...path, 'launch_credentials', 'token'],
      message: 'there is a password too, and only one of them can be used',
      remedy: 'leave one out',
    });
  }
  if (credentials.token !== undefined && tls.mode !== 'verify-full' && tls.mode !== 'verify-ca') {
    report({
      path: [...path, 'launch_credentials', 'token'],
      message: 'a token is only sent to a server whose certificate has been checked',
      remedy: 'set tls.mode to verify-full or verify-ca',
    });
  }
}

function checkReference(
  reference: string,
  path: readonly PropertyKey[],
  providers: readonly string[],
  report: Report,
): void {
  const provider = reference.slice(0, reference.indexOf(':'));
  if (providers.includes(provider)) return;
  // What stands before the colon may be the beginning of a password: it is compared, never shown.
  const meant = nearest(provider, providers);
  const known = providers.length > 0 ? `providers: ${providers.join(', ')}` : 'there are none yet';
  report({
    path,
    message: 'does not begin with the name of a secret provider',
    remedy:
      provider === 'env'
        ? 'add "env: { type: env }" under "secrets"'
        : meant !== null
          ? `did you mean "${meant}:…"?`
          : `write PROVIDER:PATH with a provider that is declared under "secrets" (${known})`,
  });
}

function checkResourceFiles(resource: ResourceConfig, path: readonly PropertyKey[], report: Report): void {
  const { tls } = resource;
  if (tls.ca !== undefined) readCertificates(tls.ca, [...path, 'tls', 'ca'], report);
  if (tls.cert !== undefined && tls.key !== undefined)
    checkCertificate(tls.cert, tls.key, [...path, 'tls'], report);
  if (!('server_public_key' in resource) || resource.server_public_key === undefined) return;
  const at = [...path, 'server_public_key'];
  const pem = readText(resource.server_public_key, at, report);
  if (pem === null) return;
  try {
    if (createPublicKey(pem).asymmetricKeyType !== 'rsa')
      report({ path: at, message: 'is not an RSA key, which is what MySQL uses here' });
  } catch {
    report({
      path: at,
      message: 'holds no public key in PEM form',
      remedy: "copy the server's public_key.pem",
    });
  }
}

/** A certificate with its key: both are there, both can be read, and they belong together. */
function checkCertificate(cert: string, key: string, path: readonly PropertyKey[], report: Report): void {
  const certificates = readCertificates(cert, [...path, 'cert'], report);
  const privateKey = readPrivateKey(key, [...path, 'key'], report);
  const leaf = certificates[0];
  if (leaf === undefined || privateKey === null) return;
  if (!leaf.checkPrivateKey(privateKey)) {
    report({
      path: [...path, 'key'],
      message: 'is not the key of the certificate in "cert"',
      remedy: 'the first certificate of the chain must be that of the key',
    });
  }
}

function readPrivateKey(file: string, path: readonly PropertyKey[], report: Report): KeyObject | null {
  const pem = readText(file, path, report);
  if (pem === null) return null;
  warnWhenReadable(file, path, report);
  try {
    return createPrivateKey(pem);
  } catch {
    const encrypted = pem.includes('ENCRYPTED');
    report({
      path,
      message: encrypted ? 'is encrypted with a passphrase' : 'holds no private key in PEM form',
      ...(encrypted
        ? { remedy: 'decrypt it (openssl pkey) and keep the file readable by this user alone' }
        : {}),
    });
    return null;
  }
}

const CERTIFICATE = /-----BEGIN (?:TRUSTED )?CERTIFICATE-----[\s\S]+?-----END (?:TRUSTED )?CERTIFICATE-----/g;

/** The certificates of a PEM file; empty when it has none, which is reported. */
function readCertificates(file: string, path: readonly PropertyKey[], report: Report): X509Certificate[] {
  const pem = readText(file, path, report);
  if (pem === null) return [];
  try {
    const certificates = (pem.match(CERTIFICATE) ?? []).map((block) => new X509Certificate(block));
    if (certificates.length === 0) {
      report({
        path,
        message: 'holds no certificate in PEM form',
        remedy: 'it begins with -----BEGIN CERTIFICATE-----',
      });
    }
    warnWhenExpired(certificates, path, report);
    return certificates;
  } catch {
    report({ path, message: 'holds a certificate that cannot be read' });
    return [];
  }
}

/** Certificates that end within this time are mentioned. Ours. */
const EXPIRY_WARNING_MS = 14 * 86_400_000;

function warnWhenExpired(
  certificates: readonly X509Certificate[],
  path: readonly PropertyKey[],
  report: Report,
): void {
  const first = certificates.toSorted(
    (left, right) => left.validToDate.getTime() - right.validToDate.getTime(),
  )[0];
  if (first === undefined) return;
  const left = first.validToDate.getTime() - Date.now();
  if (left > EXPIRY_WARNING_MS) return;
  const day = first.validToDate.toISOString().slice(0, 10);
  report({
    severity: 'warning',
    path,
    message:
      left < 0 ? `holds a certificate that expired on ${day}` : `holds a certificate that expires on ${day}`,
  });
}

function readText(
  file: string,
  path: readonly PropertyKey[],
  report: Report,
  remedies: { readonly missing?: string } = {},
): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') {
      report({
        path,
        message: `there is no file ${file}`,
        remedy: remedies.missing ?? 'relative paths begin at the folder of this configuration',
      });
    } else if (code === 'EACCES') report({ path, message: `this user may not read ${file}` });
    else report({ path, message: `${file} cannot be read (${code ?? 'unknown error'})` });
    return null;
  }
}

function warnWhenReadable(file: string, path: readonly PropertyKey[], report: Report): void {
  if (process.platform === 'win32') return;
  const mode = statSync(file).mode & 0o777;
  if ((mode & 0o007) === 0) return;
  report({
    severity: 'warning',
    path,
    message: `every user of this machine can open ${file} (mode ${mode.toString(8)})`,
    remedy: `chmod 600 ${file}`,
  });
}
