import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import * as tls from 'node:tls';
import type { ListenerConfig, ResourceConfig } from '../config/schema.ts';
import { type ChannelTls, limitedContext, NO_TLS } from './channel.ts';

/** Ciphers of TLS before 1.2 need OpenSSL's lowest security level; asked for by `min_version` alone. */
const LEGACY_CIPHERS = `${tls.DEFAULT_CIPHERS}:@SECLEVEL=0`;

/** A TLS file that cannot be used: which, and why. */
export class TlsFileError extends Error {
  constructor(path: string, cause: unknown) {
    super(`${path}: ${(cause as Error).message}`, { cause });
    this.name = 'TlsFileError';
  }
}

/** TLS toward a database, as the resource's `tls` says. Rejects with a `TlsFileError`. */
export async function serverTls(config: ResourceConfig['tls']): Promise<ChannelTls> {
  if (config.mode === 'disable') return NO_TLS;
  const [ca, cert, key] = await Promise.all([
    optional(config.ca),
    optional(config.cert),
    optional(config.key),
  ]);
  const isLegacy = config.min_version === 'TLSv1' || config.min_version === 'TLSv1.1';
  const context = makeContext(config.cert ?? config.ca ?? '', {
    ...(ca ? { ca } : {}),
    ...(cert ? { cert } : {}),
    ...(key ? { key } : {}),
    minVersion: config.min_version,
    ...(isLegacy ? { ciphers: LEGACY_CIPHERS } : {}),
  });
  return { mode: config.mode, context, serverName: config.server_name ?? null };
}

/** TLS toward clients, as the listener's `tls` says. Rejects with a `TlsFileError`. */
export async function listenerTls(config: ListenerConfig['tls']): Promise<ChannelTls> {
  if (config === undefined) return NO_TLS;
  const [cert, key, ca] = await Promise.all([
    required(config.cert),
    required(config.key),
    optional(config.client_ca),
  ]);
  const options = {
    cert,
    key,
    ...(ca ? { ca } : {}),
    minVersion: 'TLSv1.2',
    // OpenSSL resumes no session of a client with a certificate without one.
    sessionIdContext: 'sallyport',
  } as const;
  const context = makeContext(config.cert, options);
  return {
    mode: config.mode,
    context,
    limitedContext: limitedContext(options),
    certificate: new X509Certificate(cert).raw,
    requestCertificate: ca !== null,
  };
}

function makeContext(path: string, options: tls.SecureContextOptions): tls.SecureContext {
  try {
    return tls.createSecureContext(options);
  } catch (error) {
    throw new TlsFileError(path, error);
  }
}

async function optional(path: string | undefined): Promise<Buffer | null> {
  return path === undefined ? null : required(path);
}

async function required(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new TlsFileError(path, error);
  }
}
