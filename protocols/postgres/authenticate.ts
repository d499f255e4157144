import { Reader } from '../bytes.ts';
import type { Channel } from '../channel.ts';
import type { Challenge, Proof, TokenVerifier } from '../engine.ts';
import { ProtocolError, Refusal } from '../error.ts';
import { tlsServerEndPoint } from '../scram/channel-binding.ts';
import { NONCE_BYTES } from '../scram/limits.ts';
import { challengeScram, offeredMechanisms } from '../scram/server.ts';
import { Secret } from '../secret.ts';
import { PASSWORD_MESSAGE_BYTES_MAX, SASL_MESSAGE_BYTES_MAX } from './limits.ts';
import { AUTHENTICATION, authenticationRequest, readMessage } from './packets.ts';

/** What a client proved, and what it is to be sent before AuthenticationOk once it is let in. */
export interface Authenticated {
  readonly proof: Proof;
  readonly closing: Buffer;
}

/**
 * Has a client prove who it is. Whether that is enough is for the gateway to say: nothing sent here tells the client
 * that it is in.
 *
 * `trust` asks nothing, so that clients get in with and without a password. `token` is SCRAM-SHA-256, with channel
 * binding where the client is encrypted: the token never crosses the wire. `bearer` has the text sent as a password,
 * which needs TLS.
 */
export async function authenticate(
  client: Channel,
  challenge: Challenge,
  random: (length: number) => Buffer,
): Promise<Authenticated> {
  switch (challenge.method) {
    case 'trust':
      return { proof: { method: 'trust' }, closing: Buffer.alloc(0) };
    case 'token':
      return authenticateByToken(client, challenge.verifier, random);
    case 'bearer':
      return authenticateByBearer(client);
  }
}

async function authenticateByToken(
  client: Channel,
  verifier: TokenVerifier,
  random: (length: number) => Buffer,
): Promise<Authenticated> {
  const certificate = client.tls?.localCertificate ?? null;
  const bindingData = certificate === null ? null : tlsServerEndPoint(certificate);
  const mechanisms = offeredMechanisms(bindingData).map((name) => `${name}\0`);
  client.write(authenticationRequest(AUTHENTICATION.sasl, Buffer.from(`${mechanisms.join('')}\0`)));

  const { mechanism, clientFirst } = await readInitialResponse(client);
  const nonce = random(NONCE_BYTES).toString('base64');
  const challenged = challengeScram({ bindingData, nonce, verifier: verifier.scram }, mechanism, clientFirst);
  client.write(authenticationRequest(AUTHENTICATION.saslContinue, challenged.message));
  const finished = challenged.finish(await readAnswer(client, 'a SASL response', SASL_MESSAGE_BYTES_MAX));
  return {
    proof: { method: 'token', valid: finished.valid },
    closing: authenticationRequest(AUTHENTICATION.saslFinal, finished.message),
  };
}

/** SASLInitialResponse: the mechanism, and the first message, which may also come after an empty challenge. */
async function readInitialResponse(client: Channel): Promise<{ mechanism: string; clientFirst: Buffer }> {
  const expected = 'a SASL initial response';
  const reader = new Reader(await readAnswer(client, expected, SASL_MESSAGE_BYTES_MAX), 'client');
  const mechanism = reader.cstring('SASL mechanism').toString('latin1');
  const length = reader.int32be('length of the SASL response');
  if (length === -1 && reader.remaining === 0) {
    client.write(authenticationRequest(AUTHENTICATION.saslContinue));
    return { mechanism, clientFirst: await readAnswer(client, 'a SASL response', SASL_MESSAGE_BYTES_MAX) };
  }
  const clientFirst = reader.slice(length, 'SASL response');
  if (reader.remaining > 0) throw reader.malformed('SASL response', 'has bytes behind its end');
  return { mechanism, clientFirst };
}

async function authenticateByBearer(client: Channel): Promise<Authenticated> {
  if (client.tls === null) {
    throw new Refusal('tls_required', 'this kind of token is only taken over TLS', {
      hint: 'Connect with sslmode=require or stricter.',
    });
  }
  client.write(authenticationRequest(AUTHENTICATION.cleartext));
  const body = await readAnswer(client, 'a password', PASSWORD_MESSAGE_BYTES_MAX);
  if (body.length === 0 || body.indexOf(0) !== body.length - 1) {
    throw new ProtocolError('malformed', 'client', 'invalid password packet');
  }
  const text = Secret.fromBytes(Buffer.from(body.subarray(0, -1)));
  body.fill(0);
  return { proof: { method: 'bearer', text }, closing: Buffer.alloc(0) };
}

/** The body of the client's next message; only type `p` is legal while it signs in. */
async function readAnswer(client: Channel, expected: string, lengthMax: number): Promise<Buffer> {
  const { body } = await readMessage(client, expected, (type) => (type === 'p' ? lengthMax : null));
  return body;
}
