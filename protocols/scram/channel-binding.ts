import { createHash } from 'node:crypto';

/**
 * Channel binding `tls-server-end-point` (RFC 5929, section 4): the hash of the server's certificate. The hash function
 * is that of the certificate's own signature, with SHA-256 in place of MD5 and SHA-1.
 *
 * `certificate` is DER. Null where the signature has no single hash function (Ed25519, Ed448, post-quantum schemes), or
 * where it is not one we know: such a certificate cannot be bound to.
 */
export function tlsServerEndPoint(certificate: Buffer): Buffer | null {
  const hash = signatureHash(certificate);
  return hash === null ? null : createHash(hash).update(certificate).digest();
}

type Hash = 'sha224' | 'sha256' | 'sha384' | 'sha512';

/** Object identifiers of signature algorithms (RFC 3279, 4055, 5758), in hexadecimal DER. */
const SIGNATURES: Readonly<Record<string, Hash>> = {
  '2a864886f70d010104': 'sha256', // md5WithRSAEncryption
  '2a864886f70d010105': 'sha256', // sha1WithRSAEncryption
  '2a864886f70d01010e': 'sha224', // sha224WithRSAEncryption
  '2a864886f70d01010b': 'sha256', // sha256WithRSAEncryption
  '2a864886f70d01010c': 'sha384', // sha384WithRSAEncryption
  '2a864886f70d01010d': 'sha512', // sha512WithRSAEncryption
  '2a8648ce3d0401': 'sha256', // ecdsa-with-SHA1
  '2a8648ce3d040301': 'sha224', // ecdsa-with-SHA224
  '2a8648ce3d040302': 'sha256', // ecdsa-with-SHA256
  '2a8648ce3d040303': 'sha384', // ecdsa-with-SHA384
  '2a8648ce3d040304': 'sha512', // ecdsa-with-SHA512
};

/** id-RSASSA-PSS: the hash function stands in its parameters. */
const RSASSA_PSS = '2a864886f70d01010a';

/** Object identifiers of hash functions, for the parameters of RSASSA-PSS. */
const HASHES: Readonly<Record<string, Hash>> = {
  '2b0e03021a': 'sha256', // SHA-1, to be replaced
  '608648016503040204': 'sha224',
  '608648016503040201': 'sha256',
  '608648016503040202': 'sha384',
  '608648016503040203': 'sha512',
};

const SEQUENCE = 0x30;
const OBJECT_IDENTIFIER = 0x06;
const CONTEXT_0 = 0xa0;

function signatureHash(certificate: Buffer): Hash | null {
  // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { algorithm, parameters }, signature }
  const outer = element(certificate, 0, SEQUENCE);
  const toBeSigned = outer && element(outer.content, 0, SEQUENCE);
  const algorithm = outer && toBeSigned && element(outer.content, toBeSigned.end, SEQUENCE);
  const identifier = algorithm && element(algorithm.content, 0, OBJECT_IDENTIFIER);
  if (!algorithm || !identifier) return null;
  const name = identifier.content.toString('hex');
  if (name !== RSASSA_PSS) return SIGNATURES[name] ?? null;
  // RSASSA-PSS-params ::= SEQUENCE { hashAlgorithm [0] AlgorithmIdentifier DEFAULT sha1, … }
  const parameters = element(algorithm.content, identifier.end, SEQUENCE);
  if (!parameters) return null;
  const tagged = element(parameters.content, 0, CONTEXT_0);
  if (!tagged) return 'sha256';
  const hashAlgorithm = element(tagged.content, 0, SEQUENCE);
  const hash = hashAlgorithm && element(hashAlgorithm.content, 0, OBJECT_IDENTIFIER);
  return hash ? (HASHES[hash.content.toString('hex')] ?? null) : null;
}

/** The DER element at `start`, when it has this tag and lies within `bytes`; `end` is the offset behind it. */
function element(bytes: Buffer, start: number, tag: number): { content: Buffer; end: number } | null {
  if (start + 2 > bytes.length || bytes[start] !== tag) return null;
  const first = bytes[start + 1]!;
  let from = start + 2;
  let length = first;
  if (first >= 0x80) {
    const count = first & 0x7f;
    if (count === 0 || count > 4 || from + count > bytes.length) return null;
    length = bytes.readUIntBE(from, count);
    from += count;
  }
  const end = from + length;
  return end > bytes.length ? null : { content: bytes.subarray(from, end), end };
}
