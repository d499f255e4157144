import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  hash,
  hkdfSync,
  type KeyObject,
} from 'node:crypto';
import {
  chmodSync,
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { Decrypter, Encrypter, generateX25519Identity, identityToRecipient } from 'age-encryption';
import { RECIPIENTS_MAX } from './limits.ts';
import { RecordingError } from './recorder.ts';

/** What data keys are wrapped to, and what the gateway itself can open again. */
export interface RecordingKeys {
  readonly recipients: readonly string[];
  /** Identities at hand; empty where only reviewers can read. */
  readonly identities: readonly string[];
}

/** File of the key that is made when no recipients are configured. */
export const LOCAL_KEY_FILE = 'recording.key';
export const SIGNING_KEY_FILE = 'signing.key';
export const SIGNING_KEYS_DIRECTORY = 'signing-keys';

/**
 * The recipients of this gateway's recordings: those configured, or one whose identity is made in `dataDir` (mode
 * 0600) at the first start. Throws `RecordingError` when the key file can be neither read nor made.
 */
export async function loadRecordingKeys(
  dataDir: string,
  configured: readonly string[],
): Promise<RecordingKeys> {
  if (configured.length > RECIPIENTS_MAX)
    throw new RecordingError(`recording.recipients names more than ${RECIPIENTS_MAX} recipients`);
  for (const recipient of configured) checkRecipient(recipient);
  if (configured.length > 0) return { recipients: configured, identities: [] };
  const path = join(dataDir, LOCAL_KEY_FILE);
  const identity = identityIn(keepFile(path, `${await generateX25519Identity()}\n`).toString('utf8'), path);
  return { recipients: [await identityToRecipient(identity)], identities: [identity] };
}

/** Throws `RecordingError` for what is no age recipient. */
export function checkRecipient(recipient: string): void {
  try {
    new Encrypter().addRecipient(recipient);
  } catch (cause) {
    throw new RecordingError(`${JSON.stringify(recipient)} is no age recipient (age1…)`, { cause });
  }
}

/** The age identities in the text of a key file, comments left out. Throws `RecordingError` when there is none. */
export function identitiesIn(text: string, path: string): string[] {
  const identities = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith('AGE-SECRET-KEY-'));
  if (identities.length === 0) throw new RecordingError(`${path} holds no age identity (AGE-SECRET-KEY-…)`);
  return identities;
}

function identityIn(text: string, path: string): string {
  return identitiesIn(text, path)[0]!;
}

/** Wraps a data key: an age file, readable by any of the recipients. */
export async function wrapKey(key: Uint8Array, recipients: readonly string[]): Promise<Buffer> {
  const encrypter = new Encrypter();
  for (const recipient of recipients) encrypter.addRecipient(recipient);
  return Buffer.from(await encrypter.encrypt(key));
}

/** Opens a wrapped data key; null when none of the identities is among its recipients, or the file was altered. */
export async function unwrapKey(wrapped: Uint8Array, identities: readonly string[]): Promise<Buffer | null> {
  if (identities.length === 0) return null;
  const decrypter = new Decrypter();
  for (const identity of identities) decrypter.addIdentity(identity);
  try {
    return Buffer.from(await decrypter.decrypt(wrapped));
  } catch {
    return null;
  }
}

/** HKDF-SHA-256 (RFC 5869), 32 bytes. */
export function deriveKey(key: Uint8Array, salt: string | Uint8Array, info: string): Buffer {
  return Buffer.from(hkdfSync('sha256', key, salt, info, 32));
}

/** The key that recordings are signed with, and what its public half is called. */
export interface SigningKey {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  /** Its 32 bytes, base64. */
  readonly publicBytes: string;
  /** First 16 hex digits of the SHA-256 of the public key's 32 bytes. */
  readonly id: string;
}

/** The gateway's Ed25519 key, made in `dataDir` (mode 0600, PKCS #8 PEM) at the first start. */
export function loadSigningKey(dataDir: string): SigningKey {
  const { privateKey } = generateKeyPairSync('ed25519');
  const path = join(dataDir, SIGNING_KEY_FILE);
  const pem = keepFile(path, privateKey.export({ type: 'pkcs8', format: 'pem' }).toString());
  const key = signingKeyOf(createPrivateKey(pem), path);
  // Kept under its id when the private key is replaced: old recordings are verified with it.
  const publicPem = key.publicKey.export({ type: 'spki', format: 'pem' }).toString();
  keepFile(join(dataDir, SIGNING_KEYS_DIRECTORY, `${key.id}.pem`), publicPem);
  return key;
}

/** Public keys that this gateway has signed with, by id: the present one and those before it. */
export function knownSigningKeys(dataDir: string): Map<string, KeyObject> {
  const keys = new Map<string, KeyObject>();
  const folder = join(dataDir, SIGNING_KEYS_DIRECTORY);
  if (!existsSync(folder)) return keys;
  for (const name of readdirSync(folder).filter((file) => file.endsWith('.pem'))) {
    const key = createPublicKey(readFileSync(join(folder, name)));
    keys.set(publicKeyId(key), key);
  }
  return keys;
}

/**
 * Puts a new signing key in the place of the present one, whose public half stays known. The gateway signs with it from
 * its next start. Gives the new key's id.
 */
export function rotateSigningKey(dataDir: string): string {
  loadSigningKey(dataDir);
  rmSync(join(dataDir, SIGNING_KEY_FILE));
  return loadSigningKey(dataDir).id;
}

export function signingKeyOf(privateKey: KeyObject, path: string): SigningKey {
  if (privateKey.asymmetricKeyType !== 'ed25519') throw new RecordingError(`${path} holds no Ed25519 key`);
  const publicKey = createPublicKey(privateKey);
  return {
    privateKey,
    publicKey,
    publicBytes: publicKeyBytes(publicKey).toString('base64'),
    id: publicKeyId(publicKey),
  };
}

/** The 32 bytes of an Ed25519 public key. */
function publicKeyBytes(key: KeyObject): Buffer {
  return key.export({ type: 'spki', format: 'der' }).subarray(-32);
}

export function publicKeyId(key: KeyObject): string {
  return hash('sha256', publicKeyBytes(key)).slice(0, 16);
}

/** Reads a file that only its owner may read; makes it with `content` where there is none. */
function keepFile(path: string, content: string): Buffer {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  try {
    const fd = openSync(path, 'wx', 0o600);
    try {
      writeSync(fd, content);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST')
      throw new RecordingError(`${path} cannot be made`, { cause: error });
  }
  try {
    if ((statSync(path).mode & 0o077) !== 0) chmodSync(path, 0o600);
    return readFileSync(path);
  } catch (error) {
    throw new RecordingError(`${path} cannot be read`, { cause: error });
  }
}
