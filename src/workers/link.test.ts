import { expect, test } from 'vitest';
import { Refusal } from '../../protocols/error.ts';
import type { Visitor } from '../access/access.ts';
import { ListenerAccess } from '../access/listener-access.ts';
import {
  type AccessLine,
  admitFor,
  challengeFor,
  distantPermit,
  RemoteAccess,
} from '../access/remote-access.ts';
import { newToken, tokenVerifier, verifierOf } from '../access/tokens.ts';
import { Cancels } from '../gateway/cancels.ts';
import { CountedPlaces } from '../gateway/places.ts';
import { QUESTIONS_MAX } from './limits.ts';
import { type Channel, Link } from './link.ts';

interface Asked {
  double(number: number): number;
  fail(how: 'refusal' | 'error'): Promise<void>;
  never(nothing: null): Promise<void>;
  note(text: string): void;
}
type Nothing = Record<never, never>;

/** Two ends of a channel that carries what structured cloning takes, later. */
function channels(): [Channel, Channel] {
  const listeners: ((message: unknown) => void)[][] = [[], []];
  const end = (here: number): Channel => ({
    send: (message, sent) => {
      const copy = structuredClone(message);
      setImmediate(() => {
        for (const listener of listeners[1 - here]!) listener(copy);
        sent(null);
      });
    },
    onMessage: (listener) => void listeners[here]!.push(listener),
  });
  return [end(0), end(1)];
}

function linked(): { near: Link<Nothing, Asked>; noted: string[] } {
  const [here, there] = channels();
  const noted: string[] = [];
  new Link<Asked, Nothing>(there, {
    double: (number) => 2 * number,
    fail: async (how) => {
      if (how === 'error') throw new Error('broken');
      throw new Refusal('session_limit', 'too many', { hint: 'wait' });
    },
    never: () => new Promise(() => {}),
    note: (text) => {
      noted.push(text);
      throw new Error('nobody hears this');
    },
  });
  return { near: new Link<Nothing, Asked>(here, {}), noted };
}

test('answers, refusals and errors come back as they were; what is told comes in order with what is asked', async () => {
  const { near, noted } = linked();
  near.tell('note', 'one');
  near.tell('note', 'two');
  expect(await near.ask('double', 21)).toBe(42);
  expect(noted).toEqual(['one', 'two']);
  await expect(near.ask('fail', 'error')).rejects.toThrow('broken');
  const refused = await near.ask('fail', 'refusal').catch((error) => error);
  expect(refused).toBeInstanceOf(Refusal);
  expect(refused).toMatchObject({ code: 'session_limit', message: 'too many', hint: 'wait' });
});

test('nobody waits for a process that is gone, and questions have a limit', async () => {
  const { near } = linked();
  const asked = Array.from({ length: QUESTIONS_MAX }, () => near.ask('never', null));
  await expect(near.ask('double', 1)).rejects.toMatchObject({ code: 'rate_limited' });
  near.close();
  for (const outcome of await Promise.allSettled(asked)) expect(outcome.status).toBe('rejected');
  await expect(near.ask('double', 1)).rejects.toThrow('gone');
});

const RESOURCE = {
  resource: {
    name: 'orders',
    engine: 'mysql' as const,
    addresses: [],
    settings: {
      engine: 'mysql' as const,
      flavor: 'mysql' as const,
      allowLocalInfile: false,
      allowReplication: false,
      serverPublicKey: null,
      fetchServerPublicKey: false,
    },
  },
  database: 'shop',
  databases: ['shop'],
};
const CLAIM = { user: 'ana', database: null, program: null, replication: false, attributes: {} };
const VISITOR: Visitor = {
  session: '01M86Z1QS7ZCPY2V17V1D6SWFB',
  address: { host: '127.0.0.1', port: 4711 },
  tls: null,
  clientAuth: 'trust',
  principal: 'local',
  launch: null,
  certificate: null,
  resources: [RESOURCE],
};

/** What goes over the line is cloned, as between processes. */
function remote(closed: string[]): RemoteAccess {
  const token = verifierOf('slp_right');
  const access = new ListenerAccess();
  const challenge = async (): Promise<{ method: 'token'; verifier: ReturnType<typeof tokenVerifier> }> => ({
    method: 'token',
    verifier: tokenVerifier(token),
  });
  const offered = (name: string) => (name === 'orders' ? RESOURCE : null);
  const line: AccessLine = {
    challenge: async (question) =>
      structuredClone(
        await challengeFor(
          { challenge, admit: access.admit, closed: access.closed },
          structuredClone(question),
          offered,
        ),
      ),
    admit: async (question) =>
      structuredClone(distantPermit(await admitFor(access, structuredClone(question), offered))),
    closed: (session) => void closed.push(session),
  };
  return new RemoteAccess(line);
}

test('a permit from another process is for the resource that is here; the token is checked here', async () => {
  const closed: string[] = [];
  const access = remote(closed);
  const permit = await access.admit(CLAIM, { method: 'trust' }, VISITOR);
  expect(permit).toMatchObject({ principal: 'local', database: 'shop', databases: ['shop'], launch: null });
  expect(permit.resource).toBe(RESOURCE.resource);
  access.closed(permit);
  expect(closed).toEqual([VISITOR.session]);
  const asked = { ...VISITOR, clientAuth: 'token' as const };
  const challenge = await access.challenge(CLAIM, asked);
  if (challenge.method !== 'token') throw new Error('a token was to be asked for');
  expect(challenge.verifier.matches(Buffer.from('slp_right'))).toBe(true);
  expect(challenge.verifier.matches(Buffer.from(newToken()))).toBe(false);
  await expect(access.admit(CLAIM, { method: 'trust' }, { ...VISITOR, resources: [] })).rejects.toMatchObject(
    { code: 'not_allowed' },
  );
});

test('places are those of all who take them, and come back', () => {
  const places = new CountedPlaces();
  expect([places.take('a', 2), places.take('a', 2), places.take('a', 2), places.take('b', 1)]).toEqual([
    true,
    true,
    false,
    true,
  ]);
  places.free('a');
  expect(places.take('a', 2)).toBe(true);
  for (let count = 0; count < 5; count += 1) places.free('b');
  expect([places.take('b', 1), places.take('b', 1)]).toEqual([true, false]);
});

test('a cancel that is right elsewhere is no wrong key, however many there are; one that nobody knows is', async () => {
  const cancels = new Cancels(
    (length) => Buffer.alloc(length, 7),
    () => 0,
  );
  const secret = Buffer.from('0102', 'hex');
  for (let count = 0; count < 50; count += 1)
    expect(await cancels.cancel(1, secret, '10.0.0.1', async () => true)).toBe('sent');
  // Asked by others: they count, we do not.
  for (let count = 0; count < 50; count += 1)
    expect(await cancels.asked(1, secret, '10.0.0.1')).toBe('unknown_key');
  for (let count = 0; count < 10; count += 1)
    expect(await cancels.cancel(1, secret, '10.0.0.1', async () => false)).toBe('unknown_key');
  expect(await cancels.cancel(1, secret, '10.0.0.1', async () => true)).toBe('rate_limited');
});
