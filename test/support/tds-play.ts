import type { Duplex } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'vitest';
import { collect, type MemorySignIn, type MemorySignInOptions, startSignIn } from './tds-entry.ts';
import { answering, formsOf, SERVER_LOGIN, SERVER_PRELOGIN } from './tds-peers.ts';

/** Sign-ins over in-memory streams, played to their end. */

/** A server that takes every sign-in. */
export const GOOD = answering([SERVER_PRELOGIN, SERVER_LOGIN]);

/** Lets what is under way come to rest. In-memory streams need a few turns of the event loop for each hop. */
export async function rest(): Promise<void> {
  for (let count = 0; count < 12; count += 1) await turn();
}

export interface Played {
  readonly signIn: MemorySignIn;
  readonly toClient: Buffer;
  readonly toServer: Buffer;
  readonly error: unknown;
  readonly kind: string | null;
}

/** Plays a client that sends `chunks` one after another and then, unless told to stay, closes. */
export async function play(
  chunks: readonly Buffer[],
  options: Omit<MemorySignInOptions, 'server'> & { server?: (peer: Duplex) => unknown } = {},
  end: 'close' | 'stay' = 'stay',
): Promise<Played> {
  const toServer: Buffer[] = [];
  const { server } = options;
  const signIn = startSignIn({
    ...options,
    server: (peer) => {
      peer.on('data', (chunk: Buffer) => toServer.push(Buffer.from(chunk)));
      (server ?? GOOD)(peer);
    },
  });
  const output = collect(signIn.client);
  for (const chunk of chunks) {
    // A copy: the engine wipes what held a password.
    signIn.client.write(Buffer.from(chunk));
    await rest();
  }
  if (end === 'close') signIn.client.end();
  const settled = await Promise.race([
    signIn.outcome.then(
      ({ kind }) => ({ kind, error: null }),
      (error: unknown) => ({ kind: null, error }),
    ),
    stalled(),
  ]);
  await rest();
  return { signIn, toClient: output.bytes, toServer: Buffer.concat(toServer), ...settled };
}

async function stalled(): Promise<{ kind: string; error: null }> {
  for (let count = 0; count < 200; count += 1) await turn();
  return { kind: 'waiting', error: null };
}

/** No form of `secret` is in `bytes`. */
export function expectNoSecret(bytes: Buffer, secret: string): void {
  for (const form of formsOf(secret)) expect(bytes.includes(form)).toBe(false);
}
