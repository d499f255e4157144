import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { startSignIn } from '../../test/support/tds-entry.ts';
import { answering, errorOf } from '../../test/support/tds-peers.ts';
import type { LoginRejected } from './errors.ts';

/**
 * The sign-ins of recorded conversations, played again: the recorded client and the recorded server with the engine
 * between them. Only those whose LOGIN7 can be read, which is what the client knows and the record must show.
 */

const FOLDER = join(import.meta.dirname, '../../test/golden/captures/tds');

interface Expectation {
  readonly login: { user: string; database: string | null; app: string; host: string };
  readonly login_readable?: boolean;
  readonly login_error?: { number: number };
}

interface Recorded {
  readonly prelogin: Buffer;
  readonly login: Buffer;
  readonly answers: Buffer[];
}

/** Whole messages at the start of one direction. */
function messages(lines: { from: string; hex: string }[], from: string): Buffer[] {
  const bytes = Buffer.concat(
    lines.filter((line) => line.from === from).map((line) => Buffer.from(line.hex, 'hex')),
  );
  const found: Buffer[] = [];
  let start = 0;
  for (let at = 0; at + 8 <= bytes.length && found.length < 4; ) {
    const last = (bytes[at + 1]! & 1) !== 0;
    at += bytes.readUInt16BE(at + 2);
    if (!last) continue;
    found.push(bytes.subarray(start, at));
    start = at;
  }
  return found;
}

function recorded(name: string): Recorded | null {
  const lines = readFileSync(join(FOLDER, `${name}.ndjson`), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { from: string; hex: string });
  const [prelogin, login] = messages(lines, 'client');
  if (prelogin?.[0] !== 0x12 || login?.[0] !== 0x10) return null;
  return { prelogin, login, answers: messages(lines, 'server').slice(0, 2) };
}

const names = readdirSync(FOLDER)
  .filter((file) => file.endsWith('.ndjson'))
  .map((file) => file.slice(0, -'.ndjson'.length));

const playable = names.flatMap((name) => {
  const conversation = recorded(name);
  return conversation === null || conversation.answers.length < 2 ? [] : [{ name, conversation }];
});

describe('recorded sign-ins', () => {
  it('are there', () => {
    expect(playable.length).toBeGreaterThan(40);
  });

  it.each(playable.map(({ name, conversation }) => [name, conversation] as const))(
    '%s',
    async (name, conversation) => {
      const expected = JSON.parse(readFileSync(join(FOLDER, `${name}.expect.json`), 'utf8')) as Expectation;
      const signIn = startSignIn({
        settings: { clientEncryption: 'none' },
        server: (peer) => void answering(conversation.answers)(peer),
      });
      const seen: Buffer[] = [];
      signIn.client.on('data', (chunk: Buffer) => seen.push(Buffer.from(chunk)));
      signIn.client.write(Buffer.from(conversation.prelogin));
      signIn.client.write(Buffer.from(conversation.login));
      const outcome = await signIn.outcome.catch((error: LoginRejected) => error);
      await new Promise((resolve) => setImmediate(resolve));
      const { user, database, app, host } = expected.login;
      expect(signIn.claims[0]).toMatchObject({ user, program: app || null });
      expect(signIn.claims[0]!.database ?? null).toBe(database || null);
      expect(signIn.claims[0]!.attributes['host']).toBe(host);
      if (expected.login_error === undefined) {
        expect(outcome).toMatchObject({ kind: 'session' });
        // The recorded response, with nothing left out and nothing added.
        const payload = conversation.answers[1]!.subarray(8);
        expect(Buffer.concat(seen).subarray(-payload.length).toString('hex')).toBe(payload.toString('hex'));
        expect(signIn.opened[0]!.database).toBe('capdb');
      } else {
        expect(outcome).toMatchObject({ serverCode: String(expected.login_error.number) });
        expect(errorOf(Buffer.concat(seen))?.text).not.toContain(user);
      }
    },
  );
});
