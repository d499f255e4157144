import 'reflect-metadata';
import { X509Certificate as NodeCertificate } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509CertificateGenerator,
} from '@peculiar/x509';

/**
 * A certificate of the gateway's own, for tools on this machine whose drivers insist on TLS even over loopback (those of
 * SQL Server do). It is self-signed: its key is its authority, so there is no other key that could sign for other names. A
 * tool that verifies is pointed at `local-tls.pem`.
 */

const CERTIFICATE_FILE = 'local-tls.pem';
const KEY_FILE = 'local-tls.key';
const DAY_MS = 86_400_000;
const VALID_DAYS = 820;
/** Made anew when it has less than this left. */
const RENEW_DAYS = 60;
/** RSA with SHA-256 is what every driver that still speaks TDS can verify. */
const ALGORITHM = {
  name: 'RSASSA-PKCS1-v1_5',
  hash: 'SHA-256',
  publicExponent: new Uint8Array([1, 0, 1]),
  modulusLength: 2048,
} as const;

/** Paths of a certificate (PEM) and its key in `dataDir`, made (mode 0600) or renewed where need be. */
export async function localCertificate(dataDir: string): Promise<{ cert: string; key: string }> {
  const paths = { cert: join(dataDir, CERTIFICATE_FILE), key: join(dataDir, KEY_FILE) };
  if (isGood(paths)) return paths;
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const now = Date.now();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: 'CN=Sallyport on this machine',
    keys,
    notBefore: new Date(now - DAY_MS),
    notAfter: new Date(now + VALID_DAYS * DAY_MS),
    signingAlgorithm: { name: ALGORITHM.name },
    extensions: [
      new BasicConstraintsExtension(false),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature | KeyUsageFlags.keyEncipherment, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension(
        ['localhost', '127.0.0.1', '::1', hostname()].map((name) => ({
          type: isIP(name) ? ('ip' as const) : ('dns' as const),
          value: name,
        })),
      ),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
      await AuthorityKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const key = PemConverter.encode(await crypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY');
  write(paths.key, `${key}\n`);
  write(paths.cert, `${certificate.toString('pem')}\n`);
  return paths;
}

function isGood(paths: { cert: string; key: string }): boolean {
  if (!existsSync(paths.cert) || !existsSync(paths.key)) return false;
  try {
    const certificate = new NodeCertificate(readFileSync(paths.cert));
    return certificate.validToDate.getTime() - Date.now() > RENEW_DAYS * DAY_MS;
  } catch {
    return false;
  }
}

/** Whole or not at all: a crash leaves no half of a key. */
function write(path: string, text: string): void {
  writeFileSync(`${path}.new`, text, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}
