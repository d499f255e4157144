import { timingSafeEqual } from 'node:crypto';
import { ProtocolError } from '../error.ts';
import { decodeBase64 } from './client.ts';
import { hmac, sha256 } from './keys.ts';
import { CLIENT_MESSAGE_BYTES_MAX } from './limits.ts';

/**
 * SCRAM-SHA-256 and SCRAM-SHA-256-PLUS toward a client (RFC 5802, RFC 7677). The checks, their order and what each
 * failure is called follow PostgreSQL's server (`auth-scram.c`), because clients have been tested against it.
 *
 * All failures are `ProtocolError`s of the client's fault. Their codes: `unsupported` for what PostgreSQL calls
 * feature_not_supported, `server_untrusted` where the two sides see different channel bindings (someone may have cut
 * in), `malformed` for the rest. A wrong password is none of them: `valid` is false.
 */

export const SCRAM_SHA_256 = 'SCRAM-SHA-256';
export const SCRAM_SHA_256_PLUS = 'SCRAM-SHA-256-PLUS';

/** What is stored of a password: enough to check a proof. */
export interface ScramVerifier {
  readonly salt: Buffer;
  readonly iterations: number;
  /** 32 bytes each. */
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
}

export interface ScramServerOptions {
  /** Hash of our own certificate, where SCRAM-SHA-256-PLUS was offered; null where it was not. */
  readonly bindingData: Buffer | null;
  /** Our part of the nonce: printable ASCII without a comma, fresh for each exchange. */
  readonly nonce: string;
  readonly verifier: ScramVerifier;
}

/** An exchange whose server-first-message is ready to be sent. */
export interface ScramChallenged {
  readonly message: Buffer;
  finish(clientFinal: Buffer): ScramFinished;
}

export interface ScramFinished {
  /** The client knows the password. */
  readonly valid: boolean;
  /** server-final-message; only to be sent when `valid`. */
  readonly message: Buffer;
}

/** Mechanism names in the order in which they are offered. */
export function offeredMechanisms(bindingData: Buffer | null): readonly string[] {
  return bindingData === null ? [SCRAM_SHA_256] : [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
}

// The groups: flag, name of the binding type, authorization identity, mandatory extension, nonce. The flag is one of
// `n`, `y`, `p=…`; what follows the second comma is client-first-message-bare, which is kept as it was sent.
const GS2_HEADER = /^(?:([ny])|p=([A-Za-z0-9.-]+)),(a=[^,]*)?,/;
const CLIENT_FIRST_BARE = /^(m=[^,]*,)?n=[^,]*,r=([\x21-\x2b\x2d-\x7e]+)(?:,[A-Za-z]=[^,]*)*$/;
const CLIENT_FINAL =
  /^(c=([A-Za-z0-9+/=]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,[A-Za-z]=[^,]*)*?),p=([A-Za-z0-9+/=]+)$/;

/** Takes client-first. `mechanism` is the one the client chose of those offered. */
export function challengeScram(
  options: ScramServerOptions,
  mechanism: string,
  clientFirst: Buffer,
): ScramChallenged {
  if (!offeredMechanisms(options.bindingData).includes(mechanism)) {
    throw malformed('a SASL mechanism that was not offered');
  }
  const text = checkedText(clientFirst);
  const header = GS2_HEADER.exec(text);
  if (header === null) throw malformed('a SCRAM message without a channel binding flag');
  const plus = mechanism === SCRAM_SHA_256_PLUS;
  checkFlag(options, plus, header[1] ?? null, header[2] ?? null);
  if (header[3] !== undefined) {
    throw new ProtocolError('unsupported', 'client', 'the client asked for an authorization identity');
  }
  const bare = text.slice(header[0].length);
  const first = CLIENT_FIRST_BARE.exec(bare);
  if (bare.startsWith('m=')) {
    throw new ProtocolError('unsupported', 'client', 'the client asked for an unknown SCRAM extension');
  }
  if (first === null) throw malformed('a SCRAM client-first-message that is not well formed');

  const { verifier } = options;
  const nonce = `${first[2]}${options.nonce}`;
  const serverFirst = `r=${nonce},s=${verifier.salt.toString('base64')},i=${verifier.iterations}`;
  const binding = Buffer.concat([
    Buffer.from(header[0], 'latin1'),
    plus ? (options.bindingData as Buffer) : Buffer.alloc(0),
  ]).toString('base64');
  return {
    message: Buffer.from(serverFirst),
    finish: (clientFinal) => finish(verifier, { bare, serverFirst, nonce, binding, plus }, clientFinal),
  };
}

function checkFlag(
  options: ScramServerOptions,
  plus: boolean,
  flag: string | null,
  bindingType: string | null,
): void {
  if (plus && flag !== null) throw malformed('no channel binding with a mechanism that needs it');
  if (!plus && bindingType !== null) throw malformed('channel binding with a mechanism that has none');
  if (plus && bindingType !== 'tls-server-end-point') throw malformed('an unknown kind of channel binding');
  // `y`: the client could bind and saw no offer. We made one, so somebody took it out.
  if (flag === 'y' && options.bindingData !== null) {
    throw new ProtocolError(
      'server_untrusted',
      'client',
      'the client supports channel binding but believes that it was not offered',
    );
  }
}

interface Exchange {
  readonly bare: string;
  readonly serverFirst: string;
  readonly nonce: string;
  readonly binding: string;
  readonly plus: boolean;
}

function finish(verifier: ScramVerifier, exchange: Exchange, clientFinal: Buffer): ScramFinished {
  const match = CLIENT_FINAL.exec(checkedText(clientFinal));
  if (match === null) throw malformed('a SCRAM client-final-message that is not well formed');
  const [, withoutProof, binding, nonce, proofText] = match as unknown as [
    string,
    string,
    string,
    string,
    string,
  ];
  if (binding !== exchange.binding) {
    if (!exchange.plus) throw malformed('an unexpected SCRAM channel binding attribute');
    throw new ProtocolError('server_untrusted', 'client', 'the SCRAM channel binding check failed');
  }
  if (nonce !== exchange.nonce) throw malformed('a SCRAM nonce that is not the one agreed');
  const proof = decodeBase64(proofText);
  if (proof?.length !== 32) throw malformed('a SCRAM proof that is not well formed');

  const authMessage = Buffer.from(`${exchange.bare},${exchange.serverFirst},${withoutProof}`, 'latin1');
  const clientKey = hmac(verifier.storedKey, authMessage);
  for (let i = 0; i < clientKey.length; i++) clientKey[i]! ^= proof[i]!;
  const signature = hmac(verifier.serverKey, authMessage);
  return {
    valid: timingSafeEqual(sha256(clientKey), verifier.storedKey),
    message: Buffer.from(`v=${signature.toString('base64')}`),
  };
}

/** One byte a character, so that the bytes signed are the bytes sent. */
function checkedText(message: Buffer): string {
  if (message.length > CLIENT_MESSAGE_BYTES_MAX) {
    throw new ProtocolError(
      'length_out_of_range',
      'client',
      `a SCRAM message of ${message.length} bytes, more than ${CLIENT_MESSAGE_BYTES_MAX}`,
    );
  }
  return message.toString('latin1');
}

function malformed(what: string): ProtocolError {
  return new ProtocolError('malformed', 'client', `the client sent ${what}`);
}
