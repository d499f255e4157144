import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import { Secret } from '../../protocols/secret.ts';
import { Metrics } from '../metrics.ts';
import { SecretError, type SecretProvider, type SecretReference, type SecretValue } from './provider.ts';
import { type ProviderEntry, SecretResolver } from './resolver.ts';

/** A provider whose answers a test writes, and that counts what is asked of it. */
class ScriptedProvider implements SecretProvider {
  readonly name = 'scripted';
  fetches = 0;
  released: string[] = [];
  /** Milliseconds that giving a lease back takes. */
  slowRelease = 0;
  answer: (reference: SecretReference, signal: AbortSignal) => SecretValue | Promise<SecretValue>;

  constructor(answer: ScriptedProvider['answer']) {
    this.answer = answer;
  }

  async fetch(reference: SecretReference, signal: AbortSignal): Promise<SecretValue> {
    this.fetches += 1;
    return this.answer(reference, signal);
  }

  async check(): Promise<void> {}
  async close(): Promise<void> {}

  text(value: string, expiresAt: number | null = null): SecretValue {
    return { value: Secret.fromText(value), fields: {}, expiresAt };
  }

  leased(value: string): SecretValue {
    return {
      value: null,
      fields: { username: Secret.fromText(`u-${value}`), password: Secret.fromText(value) },
      expiresAt: null,
      release: async () => {
        await new Promise((resolve) => setTimeout(resolve, this.slowRelease));
        this.released.push(value);
      },
    };
  }
}

interface Bench {
  readonly resolver: SecretResolver;
  readonly provider: ScriptedProvider;
  readonly metrics: Metrics;
  clock: number;
}

function bench(answer: ScriptedProvider['answer'], policy: Partial<ProviderEntry> = {}): Bench {
  const provider = new ScriptedProvider(answer);
  const metrics = new Metrics();
  const made: Bench = {
    provider,
    metrics,
    clock: 1_000_000,
    resolver: new SecretResolver([{ provider, timeoutMs: 500, cacheMs: 60_000, ...policy }], {
      log: pino({ level: 'silent' }),
      metrics,
      now: () => made.clock,
      random: () => 0,
    }),
  };
  return made;
}

const APP = { username: 'app', password: 'scripted:db' };
const text = (credentials: { password: Secret | null } | null): string | undefined =>
  credentials?.password?.expose().toString();
const launch = (bench: Bench, signal = new AbortController().signal): Promise<string | undefined> =>
  bench.resolver.credentials(APP, 'launch', signal).then(text);

describe('launch credentials', () => {
  test('a name with a password, with a token, and with neither', async () => {
    const { resolver, provider } = bench(() => provider.text('pw'));
    const { signal } = new AbortController();
    expect(await resolver.credentials(APP, 'launch', signal)).toMatchObject({
      username: 'app',
      kind: 'password',
    });
    expect(
      await resolver.credentials({ username: 'app', token: 'scripted:t' }, 'launch', signal),
    ).toMatchObject({
      kind: 'token',
    });
    expect(await resolver.credentials({ username: 'app' }, 'launch', signal)).toEqual({
      username: 'app',
      password: null,
      kind: 'password',
    });
    expect(await resolver.credentials({ username: 'app' }, 'rejected', signal)).toBeNull();
  });

  test.each([['username'], ['user'], ['login']])(
    'both from one reference, the account in "%s"',
    async (field) => {
      const { resolver } = bench(() => ({
        value: null,
        fields: { [field]: Secret.fromText('who'), password: Secret.fromText('pw') },
        expiresAt: null,
      }));
      const credentials = await resolver.credentials('scripted:db', 'launch', new AbortController().signal);
      expect([credentials?.username, text(credentials)]).toEqual(['who', 'pw']);
    },
  );

  test('a reference for both that lacks one says which', async () => {
    const { resolver, provider } = bench(() => provider.text('pw'));
    const { signal } = new AbortController();
    await expect(resolver.credentials('scripted:db', 'launch', signal)).rejects.toMatchObject({
      code: 'field_not_found',
      message: 'scripted:db has no field "username"',
    });
    await expect(resolver.credentials('scripted:db#password', 'launch', signal)).rejects.toThrow(
      'names one field',
    );
    await expect(resolver.credentials('other:db', 'launch', signal)).rejects.toThrow(
      'no secret provider "other"',
    );
  });

  test('what one session wipes, another still has', async () => {
    const made = bench(() => made.provider.text('pw'));
    const first = await made.resolver.credentials(APP, 'launch', new AbortController().signal);
    first?.password?.wipe();
    expect(await launch(made)).toBe('pw');
    expect(made.provider.fetches).toBe(1);
  });
});

describe('the cache', () => {
  test('keeps a value for as long as is configured', async () => {
    const made = bench(() => made.provider.text('pw'));
    await launch(made);
    made.clock += 59_999;
    await launch(made);
    expect(made.provider.fetches).toBe(1);
    made.clock += 1;
    await launch(made);
    expect(made.provider.fetches).toBe(2);
  });

  test('never longer than the value is good', async () => {
    const made = bench(() => made.provider.text('pw', made.clock + 20_000));
    await launch(made);
    made.clock += 14_999;
    await launch(made);
    expect(made.provider.fetches).toBe(1);
    made.clock += 1;
    await launch(made);
    expect(made.provider.fetches).toBe(2);
  });

  test('is off at 0', async () => {
    const made = bench(() => made.provider.text('pw'), { cacheMs: 0 });
    await launch(made);
    await launch(made);
    expect(made.provider.fetches).toBe(2);
  });

  test('a hundred connections at once ask once, and each has its own copy', async () => {
    const made = bench(
      () => new Promise((resolve) => setTimeout(() => resolve(made.provider.text('pw')), 20)),
      { cacheMs: 0 },
    );
    const all = await Promise.all(
      Array.from({ length: 100 }, () =>
        made.resolver.credentials(APP, 'launch', new AbortController().signal),
      ),
    );
    expect(made.provider.fetches).toBe(1);
    all[0]?.password?.wipe();
    expect(new Set(all.slice(1).map(text))).toEqual(new Set(['pw']));
  });
});

describe('a rejected password', () => {
  test('is fetched anew, past the cache', async () => {
    let current = 'old';
    const made = bench(() => made.provider.text(current));
    const { signal } = new AbortController();
    expect(await launch(made, signal)).toBe('old');
    current = 'new';
    expect(text(await made.resolver.credentials(APP, 'rejected', signal))).toBe('new');
    expect(await launch(made)).toBe('new');
    expect(made.provider.fetches).toBe(2);
  });

  test('that has not changed is not tried again', async () => {
    const made = bench(() => made.provider.text('same'));
    const { signal } = new AbortController();
    await launch(made, signal);
    expect(await made.resolver.credentials(APP, 'rejected', signal)).toBeNull();
  });

  test('of many sessions is fetched once', async () => {
    let current = 'old';
    const made = bench(() => made.provider.text(current));
    const signals = Array.from({ length: 50 }, () => new AbortController().signal);
    await Promise.all(signals.map((signal) => launch(made, signal)));
    current = 'new';
    const again = await Promise.all(
      signals.map((signal) => made.resolver.credentials(APP, 'rejected', signal)),
    );
    expect(new Set(again.map(text))).toEqual(new Set(['new']));
    expect(made.provider.fetches).toBe(2);
    // One that was given the old value before, and comes late.
    expect(await launch(made, signals[0]!)).toBe('new');
  });
});

describe('a provider in trouble', () => {
  test('is asked again while its fault may pass', async () => {
    const made = bench(() => {
      if (made.provider.fetches < 3) throw new SecretError('scripted', 'not now');
      return made.provider.text('pw');
    });
    expect(await launch(made)).toBe('pw');
    expect(made.provider.fetches).toBe(3);
    expect(made.resolver.health()[0]).toMatchObject({ state: 'up' });
  });

  test('is asked three times at most, and counts as down until it answers', async () => {
    const made = bench(() => {
      throw new SecretError('scripted', 'not now', { hint: 'wait' });
    });
    expect(made.resolver.health()[0]).toMatchObject({ state: 'unknown', at: null });
    await expect(launch(made)).rejects.toMatchObject({ message: 'not now', hint: 'wait' });
    expect(made.provider.fetches).toBe(3);
    expect(made.resolver.health()).toEqual([
      { provider: 'scripted', state: 'down', at: made.clock, error: 'not now' },
    ]);
    expect(
      await made.metrics.registry.getSingleMetricAsString('sallyport_secret_fetch_failures_total'),
    ).toContain('sallyport_secret_fetch_failures_total{provider="scripted"} 1');
    made.provider.answer = () => made.provider.text('pw');
    await launch(made);
    expect(made.resolver.health()[0]).toMatchObject({ state: 'up', error: null });
  });

  test('that has not got the secret is not down, and not asked again', async () => {
    const made = bench(() => {
      throw new SecretError('scripted', 'no such secret', { code: 'not_found' });
    });
    await expect(launch(made)).rejects.toThrow('no such secret');
    expect(made.provider.fetches).toBe(1);
    expect(made.resolver.health()[0]).toMatchObject({ state: 'up' });
  });

  test('that never answers runs into its deadline', async () => {
    const made = bench(() => new Promise(() => {}), { timeoutMs: 50 });
    await expect(launch(made)).rejects.toMatchObject({
      code: 'timeout',
      message: expect.stringContaining('0.05 s'),
    });
    expect(made.resolver.health()[0]).toMatchObject({ state: 'down' });
  });

  test('that fails unforeseen does not quote what it read', async () => {
    const made = bench(() => JSON.parse('hunter2-canary') as SecretValue);
    const error = await launch(made).catch((caught: unknown) => caught as SecretError);
    expect(error).toBeInstanceOf(SecretError);
    expect((error as SecretError).message).not.toContain('hunter2');
  });

  test('one sign-in that gives up does not disturb another', async () => {
    const made = bench(
      () => new Promise((resolve) => setTimeout(() => resolve(made.provider.text('pw')), 40)),
    );
    const impatient = new AbortController();
    const first = launch(made, impatient.signal);
    const second = launch(made);
    impatient.abort();
    await expect(first).rejects.toMatchObject({ code: 'timeout' });
    expect(await second).toBe('pw');
    expect(made.provider.fetches).toBe(1);
  });
});

describe('leases', () => {
  const both = (made: Bench, signal: AbortSignal): Promise<string | undefined> =>
    made.resolver.credentials('scripted:creds', 'launch', signal).then(text);
  const counting = (): Bench => {
    const made = bench(() => made.provider.leased(`lease-${made.provider.fetches}`));
    return made;
  };

  test('each session has its own, the same again for a cancel, given back at its end', async () => {
    const made = counting();
    const sessions = Array.from({ length: 5 }, () => new AbortController());
    const values = await Promise.all(sessions.map(({ signal }) => both(made, signal)));
    expect(new Set(values).size).toBe(5);
    expect(await both(made, sessions[2]!.signal)).toBe(values[2]);
    sessions[2]!.abort();
    await expect.poll(() => made.provider.released).toEqual([values[2]]);
    await made.resolver.close();
    expect(made.provider.released.sort()).toEqual([...values].sort());
  });

  test('closing waits for those that are on their way back', async () => {
    const made = counting();
    const session = new AbortController();
    await both(made, session.signal);
    made.provider.slowRelease = 50;
    session.abort();
    expect(made.provider.released).toEqual([]);
    await made.resolver.close();
    expect(made.provider.released).toEqual(['lease-1']);
  });

  test('one that comes when the session is over is given back at once', async () => {
    const made = bench(
      () => new Promise((resolve) => setTimeout(() => resolve(made.provider.leased('late')), 30)),
    );
    const session = new AbortController();
    const asked = both(made, session.signal);
    session.abort();
    await expect(asked).rejects.toMatchObject({ code: 'timeout' });
    await expect.poll(() => made.provider.released).toEqual(['late']);
  });
});
