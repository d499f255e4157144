import { timingSafeEqual } from 'node:crypto';
import { ProtocolError } from '../error.ts';
import { hmac, type ScramKeys } from './keys.ts';
import { ITERATIONS_MIN, SERVER_MESSAGE_BYTES_MAX } from './limits.ts';

/**
 * SCRAM-SHA-256 and SCRAM-SHA-256-PLUS toward a server (RFC 5802, RFC 7677; "SASL Authentication" in PostgreSQL's
 * protocol chapter). Three messages out and in:
 *
 *     client-first   n,,n=,r=<our nonce>
 *     server-first   r=<both nonces>,s=<salt>,i=<rounds>
 *     client-final   c=<binding>,r=<both nonces>,p=<proof>
 *     server-final   v=<signature>          without which the server has proved nothing
 */

/** What the first message says of channel binding. */
export type Binding =
  /** `n`: we cannot or do not want to. */
  | { readonly kind: 'none' }
  /** `y`: we could, and the server did not offer it. A server that did offer it knows by this that someone cut in. */
  | { readonly kind: 'not_offered' }
  /** `p`: the mechanism is SCRAM-SHA-256-PLUS; `data` is the hash of the server's certificate. */
  | { readonly kind: 'bound'; readonly data: Buffer };

export interface ScramClientOptions {
  readonly binding: Binding;
  /** Printable ASCII without a comma, fresh for each exchange. */
  readonly nonce: string;
  /** Most PBKDF2 rounds to do for this server. */
  readonly iterationsMax: number;
  /** Fewest: 1 for a server that TLS has verified, else a rogue server could ask for a proof that is cheap to guess from. */
  readonly iterationsMin?: number;
  /** Derives the keys of the account's password. */
  derive(salt: Buffer, iterations: number): Promise<ScramKeys>;
}

/** An exchange whose first message is ready to be sent. */
export interface ScramStarted {
  readonly message: Buffer;
  /** Takes server-first. Rejects with a `ProtocolError` of the server's fault; no proof has been made then. */
  answer(serverFirst: Buffer): Promise<ScramAnswered>;
}

/** An exchange whose final message is ready to be sent. */
export interface ScramAnswered {
  readonly message: Buffer;
  /** Takes server-final. Throws a `ProtocolError` unless the server has proved that it knows the account's verifier. */
  verify(serverFinal: Buffer): void;
}

export function startScram(options: ScramClientOptions): ScramStarted {
  const header = gs2Header(options.binding);
  // The user name is left empty: PostgreSQL takes the one of the startup packet.
  const bare = `n=,r=${options.nonce}`;
  return {
    message: Buffer.from(header + bare),
    answer: (serverFirst) => answer(options, header, bare, serverFirst),
  };
}

function gs2Header(binding: Binding): string {
  if (binding.kind === 'bound') return 'p=tls-server-end-point,,';
  return binding.kind === 'not_offered' ? 'y,,' : 'n,,';
}

async function answer(
  options: ScramClientOptions,
  header: string,
  bare: string,
  serverFirst: Buffer,
): Promise<ScramAnswered> {
  const { nonce, salt, iterations } = parseServerFirst(options, serverFirst);
  const keys = await options.derive(salt, iterations);
  const { binding } = options;
  const bound =
    binding.kind === 'bound' ? Buffer.concat([Buffer.from(header), binding.data]) : Buffer.from(header);
  const withoutProof = `c=${bound.toString('base64')},r=${nonce}`;
  const authMessage = Buffer.concat([Buffer.from(`${bare},`), serverFirst, Buffer.from(`,${withoutProof}`)]);
  const proof = hmac(keys.storedKey, authMessage);
  for (let i = 0; i < proof.length; i++) proof[i]! ^= keys.clientKey[i]!;
  const signature = hmac(keys.serverKey, authMessage);
  return {
    message: Buffer.from(`${withoutProof},p=${proof.toString('base64')}`),
    verify: (serverFinal) => verify(signature, serverFinal),
  };
}

/** Nonces are printable ASCII without a comma; extensions may follow the count, a mandatory one (`m=`) would lead. */
const SERVER_FIRST =
  /^r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9+/]+={0,2}),i=([1-9][0-9]{0,9})(?:,[A-Za-z]=[^,]*)*$/;

function parseServerFirst(
  options: ScramClientOptions,
  message: Buffer,
): { nonce: string; salt: Buffer; iterations: number } {
  if (message.length > SERVER_MESSAGE_BYTES_MAX) {
    throw untrusted('length_out_of_range', `a SCRAM message of ${message.length} bytes`);
  }
  const match = SERVER_FIRST.exec(message.toString('latin1'));
  if (match === null) throw untrusted('malformed', 'a SCRAM server-first-message that is not well formed');
  const [, nonce, saltText, count] = match as unknown as [string, string, string, string];
  if (!nonce.startsWith(options.nonce) || nonce.length === options.nonce.length) {
    throw untrusted('server_untrusted', 'a SCRAM nonce that does not extend ours');
  }
  const salt = decodeBase64(saltText);
  if (salt === null) throw untrusted('malformed', 'a SCRAM salt that is not base64');
  const iterations = Number(count);
  const fewest = options.iterationsMin ?? ITERATIONS_MIN;
  if (iterations < fewest) {
    throw untrusted(
      'server_untrusted',
      `${iterations} PBKDF2 rounds, fewer than ${fewest}: too few for a server that TLS has not verified`,
    );
  }
  if (iterations > options.iterationsMax) {
    throw untrusted(
      'server_untrusted',
      `${iterations} PBKDF2 rounds, more than the ${options.iterationsMax} that the settings allow`,
    );
  }
  return { nonce, salt, iterations };
}

function verify(expected: Buffer, serverFinal: Buffer): void {
  const text = serverFinal.length > SERVER_MESSAGE_BYTES_MAX ? '' : serverFinal.toString('latin1');
  const failure = /^e=([\x20-\x2b\x2d-\x7e]{1,64})/.exec(text);
  if (failure) {
    throw new ProtocolError('authentication_failed', 'server', `SCRAM failed on the server: ${failure[1]}`);
  }
  const match = /^v=([A-Za-z0-9+/]+={0,2})(?:,[A-Za-z]=[^,]*)*$/.exec(text);
  const signature = match && decodeBase64(match[1]!);
  if (!signature) throw untrusted('malformed', 'a SCRAM server-final-message that is not well formed');
  if (signature.length !== expected.length || !timingSafeEqual(signature, expected)) {
    throw new ProtocolError(
      'server_untrusted',
      'server',
      'the server could not prove that it knows the account: its SCRAM signature is wrong',
    );
  }
}

/** Strict base64: nothing that encodes back to another text. */
export function decodeBase64(text: string): Buffer | null {
  const bytes = Buffer.from(text, 'base64');
  return bytes.length > 0 && bytes.toString('base64') === text ? bytes : null;
}

function untrusted(
  code: 'malformed' | 'server_untrusted' | 'length_out_of_range',
  what: string,
): ProtocolError {
  return new ProtocolError(code, 'server', `the server sent ${what}`);
}
