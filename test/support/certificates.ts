import 'reflect-metadata';
import type { webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  type X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';

/** What a certificate's key is, and with it how the certificates are signed that this key issues. */
export type KeyType = 'ecdsa' | 'ecdsa-sha512' | 'rsa' | 'rsa-sha384' | 'rsa-pss' | 'ed25519';

/** A certificate (with that of its authority behind it is `chain`) and its private key, in PEM. */
export interface Issued {
  readonly cert: string;
  readonly chain: string;
  readonly key: string;
  /** The certificate in DER. */
  readonly der: Buffer;
}

export interface IssueOptions {
  readonly commonName: string;
  /** DNS names and IP addresses; none where it is empty. Default: the common name. */
  readonly hosts?: readonly string[];
  /** Validity from now on; negative for a certificate that expired that many days ago. Default: 30. */
  readonly days?: number;
  /** Default: `ecdsa`. */
  readonly keyType?: KeyType;
}

/** A certificate authority that lives for one test run. */
export interface Authority {
  /** Its self-signed certificate, PEM: what peers are told to trust. */
  readonly cert: string;
  /** A certificate for a server or a client: both uses are set. */
  issue(options: IssueOptions): Promise<Issued>;
}

/** Makes an authority called `name`. Its own key type decides the signature algorithm of all that it issues. */
export async function makeAuthority(name: string, keyType: KeyType = 'ecdsa'): Promise<Authority> {
  const keys = await makeKeys(keyType);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: distinguishedName(name),
    keys,
    notBefore: daysFromNow(-60),
    notAfter: daysFromNow(365),
    signingAlgorithm: ALGORITHMS[keyType].signing,
    extensions: [
      new BasicConstraintsExtension(true, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const cert = `${certificate.toString('pem')}\n`;
  return {
    cert,
    issue: (options) => issue(certificate, keys.privateKey, keyType, options),
  };
}

interface KeyAlgorithm {
  readonly generate: EcKeyGenParams | RsaHashedKeyGenParams | { readonly name: 'Ed25519' };
  readonly signing: EcdsaParams | RsaPssParams | { readonly name: string };
}

type EcKeyGenParams = { name: 'ECDSA'; namedCurve: string };
type EcdsaParams = { name: 'ECDSA'; hash: string };
type RsaPssParams = { name: 'RSA-PSS'; hash: string; saltLength: number };
type RsaHashedKeyGenParams = {
  name: 'RSASSA-PKCS1-v1_5' | 'RSA-PSS';
  hash: string;
  publicExponent: Uint8Array;
  modulusLength: number;
};

const PUBLIC_EXPONENT = new Uint8Array([1, 0, 1]);

const ALGORITHMS: Readonly<Record<KeyType, KeyAlgorithm>> = {
  ecdsa: {
    generate: { name: 'ECDSA', namedCurve: 'P-256' },
    signing: { name: 'ECDSA', hash: 'SHA-256' },
  },
  'ecdsa-sha512': {
    generate: { name: 'ECDSA', namedCurve: 'P-256' },
    signing: { name: 'ECDSA', hash: 'SHA-512' },
  },
  rsa: {
    generate: rsa('RSASSA-PKCS1-v1_5', 'SHA-256'),
    signing: { name: 'RSASSA-PKCS1-v1_5' },
  },
  'rsa-sha384': {
    generate: rsa('RSASSA-PKCS1-v1_5', 'SHA-384'),
    signing: { name: 'RSASSA-PKCS1-v1_5' },
  },
  'rsa-pss': {
    generate: rsa('RSA-PSS', 'SHA-512'),
    signing: { name: 'RSA-PSS', hash: 'SHA-512', saltLength: 64 },
  },
  ed25519: { generate: { name: 'Ed25519' }, signing: { name: 'Ed25519' } },
};

function rsa(name: RsaHashedKeyGenParams['name'], hash: string): RsaHashedKeyGenParams {
  return { name, hash, publicExponent: PUBLIC_EXPONENT, modulusLength: 2048 };
}

async function makeKeys(keyType: KeyType): Promise<CryptoKeyPair> {
  const pair = await crypto.subtle.generateKey(ALGORITHMS[keyType].generate, true, ['sign', 'verify']);
  return pair as CryptoKeyPair;
}

type CryptoKey = webcrypto.CryptoKey;
type CryptoKeyPair = { readonly publicKey: CryptoKey; readonly privateKey: CryptoKey };

async function issue(
  issuer: X509Certificate,
  issuerKey: CryptoKey,
  issuerKeyType: KeyType,
  options: IssueOptions,
): Promise<Issued> {
  const keys = await makeKeys(options.keyType ?? 'ecdsa');
  const days = options.days ?? 30;
  const certificate = await X509CertificateGenerator.create({
    subject: distinguishedName(options.commonName),
    issuer: issuer.subject,
    publicKey: keys.publicKey,
    signingKey: issuerKey,
    signingAlgorithm: ALGORITHMS[issuerKeyType].signing,
    notBefore: daysFromNow(Math.min(days, 0) - 1),
    notAfter: daysFromNow(days),
    extensions: await leafExtensions(issuer, keys.publicKey, options.hosts ?? [options.commonName]),
  });
  const cert = `${certificate.toString('pem')}\n`;
  const key = PemConverter.encode(await crypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY');
  return {
    cert,
    chain: `${cert}${issuer.toString('pem')}\n`,
    key: `${key}\n`,
    der: Buffer.from(certificate.rawData),
  };
}

async function leafExtensions(
  issuer: X509Certificate,
  publicKey: CryptoKey,
  hosts: readonly string[],
): Promise<Extension[]> {
  return [
    new BasicConstraintsExtension(false),
    new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
    new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
    ...(hosts.length === 0
      ? []
      : [
          new SubjectAlternativeNameExtension(
            hosts.map((host) => ({ type: isIP(host) ? ('ip' as const) : ('dns' as const), value: host })),
          ),
        ]),
    await SubjectKeyIdentifierExtension.create(publicKey),
    await AuthorityKeyIdentifierExtension.create(issuer.publicKey),
  ];
}

function distinguishedName(commonName: string): string {
  return `CN=${commonName.replaceAll(/([,+"\\<>;=])/g, '\\$1')}`;
}

function daysFromNow(days: number): Date {
  return new Date(Date.now() + days * 86_400_000);
}
