import { createHash } from 'node:crypto';
import type { Credentials } from '../../protocols/engine.ts';
import type { Secret } from '../../protocols/secret.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import {
  CACHE_ENTRIES_MAX,
  EXPIRY_MARGIN_MS,
  FETCH_ATTEMPTS_MAX,
  RELEASE_MS_MAX,
  RETRY_PAUSE_MS,
} from './limits.ts';
import { SecretError, type SecretProvider, type SecretReference, type SecretValue } from './provider.ts';
import { parseReference, referenceText } from './reference.ts';

/** A provider and how it is to be asked. */
export interface ProviderEntry {
  readonly provider: SecretProvider;
  /** For one fetch with all its attempts. */
  readonly timeoutMs: number;
  /** How long a value without an end of its own is used again; 0 asks every time. */
  readonly cacheMs: number;
}

/** `launch_credentials` as it stands in the configuration. */
export type LaunchCredentials =
  | string
  | {
      readonly username: string;
      readonly password?: string | undefined;
      readonly token?: string | undefined;
    };

/** What is known of a provider from its last use. */
export interface ProviderHealth {
  readonly provider: string;
  readonly state: 'unknown' | 'up' | 'down';
  /** Of the last use, milliseconds since the epoch; null before it. */
  readonly at: number | null;
  /** Why it is down: never a secret. */
  readonly error: string | null;
}

export interface ResolverPorts {
  readonly log: Log;
  readonly metrics: Pick<Metrics, 'secretFetchSeconds' | 'secretFetchFailuresTotal'> | null;
  readonly now: () => number;
  /** A number from 0 to 1, for the pauses between attempts. */
  readonly random: () => number;
}

interface Cached {
  readonly value: SecretValue;
  /** Milliseconds since the epoch. */
  readonly until: number;
}

interface Given {
  /** Tells a value from the next without keeping it. */
  readonly digest: Buffer;
  /** Of a leased secret, the value itself. */
  readonly lease: SecretValue | null;
}

interface Flight {
  readonly landing: Promise<SecretValue>;
  /** Those who have not taken their copy yet. */
  askers: number;
  /** What came, until the last of them has. */
  value: SecretValue | null;
  /** A leased value has been given to one of them. */
  claimed: boolean;
}

/** Fields that hold the account's name, and its password, in the order in which they are looked for. */
const USERNAME_FIELDS = ['username', 'user', 'login'];
const PASSWORD_FIELDS = ['password', 'token'];

/**
 * Turns references into launch credentials: asks providers with a deadline and few retries, keeps values for as long as
 * they may be kept, and knows of each provider whether it answered last time.
 */
export class SecretResolver {
  readonly #entries: ReadonlyMap<string, ProviderEntry>;
  readonly #ports: ResolverPorts;
  readonly #cache = new Map<string, Cached>();
  /** Fetches under way, so that a hundred connections that open at once ask only once. */
  readonly #flights = new Map<string, Flight>();
  /** References whose values are leased, one for each session: these are not worth waiting for together. */
  readonly #leased = new Set<string>();
  readonly #health = new Map<string, ProviderHealth>();
  /** What each session was given: its signal stands for it. */
  readonly #given = new WeakMap<AbortSignal, Map<string, Given>>();
  /** Ends of the leases that sessions hold. */
  readonly #leases = new Set<() => Promise<void>>();
  /** Leases that are on their way back. */
  readonly #givingBack = new Set<Promise<void>>();

  constructor(entries: readonly ProviderEntry[], ports: ResolverPorts) {
    this.#entries = new Map(entries.map((entry) => [entry.provider.name, entry]));
    this.#ports = ports;
    for (const { provider } of entries)
      this.#health.set(provider.name, { provider: provider.name, state: 'unknown', at: null, error: null });
  }

  /**
   * Launch credentials of one session, of which `signal` is the end: until it aborts, a leased secret is kept (a cancel
   * must sign in as the same account) and renewed, then it is given back. Every call gives its own copy of the password,
   * which the caller wipes.
   *
   * `rejected`: the server refused what the last call with this signal gave. The secret is fetched anew, past the cache;
   * null when it is still the same, so that a wrong password is not tried twice.
   *
   * Rejects with a `SecretError`.
   */
  async credentials(
    source: LaunchCredentials,
    why: 'launch' | 'rejected',
    signal: AbortSignal,
  ): Promise<Credentials | null> {
    const text = typeof source === 'string' ? source : (source.token ?? source.password);
    if (text === undefined) {
      const username = (source as { username: string }).username;
      return why === 'launch' ? { username, password: null, kind: 'password' } : null;
    }
    const reference = parseReference(text);
    const value = await this.#valueFor(reference, text, why, signal);
    if (value === null) return null;
    try {
      const credentials =
        typeof source === 'string' ? pair(reference, value) : named(source, reference, value);
      return value.lost ? { ...credentials, lost: value.lost } : credentials;
    } finally {
      wipe(value);
    }
  }

  /** One secret by itself, for what is no sign-in. The caller wipes it. Rejects with a `SecretError`. */
  async secret(text: string, signal: AbortSignal): Promise<Secret> {
    const reference = parseReference(text);
    const value = (await this.#valueFor(reference, text, 'launch', signal))!;
    try {
      return single(reference, value);
    } finally {
      wipe(value);
    }
  }

  /** One secret as text, for libraries that take nothing else. Rejects with a `SecretError`. */
  async text(reference: string, signal: AbortSignal): Promise<string> {
    const secret = await this.secret(reference, signal);
    try {
      return secret.expose().toString('utf8');
    } finally {
      secret.wipe();
    }
  }

  health(): ProviderHealth[] {
    return [...this.#health.values()];
  }

  /** Asks every provider whether it is there. Never rejects: the outcome is in `health()`. */
  async checkAll(signal: AbortSignal): Promise<void> {
    await Promise.all(
      [...this.#entries.values()].map(async ({ provider, timeoutMs }) => {
        try {
          await withDeadline(provider.name, timeoutMs, signal, (inner) => provider.check(inner));
          this.#seen(provider.name, null);
        } catch (error) {
          this.#seen(provider.name, asSecretError(provider.name, error));
        }
      }),
    );
  }

  /** Asks one provider whether it is there. Rejects with a `SecretError`. */
  async check(name: string, signal: AbortSignal): Promise<void> {
    const { provider, timeoutMs } = this.#entry(name);
    try {
      await withDeadline(name, timeoutMs, signal, (inner) => provider.check(inner));
      this.#seen(name, null);
    } catch (error) {
      const failure = asSecretError(name, error);
      this.#seen(name, failure);
      throw failure;
    }
  }

  /** Gives back every lease, wipes what is kept and closes the providers. */
  async close(): Promise<void> {
    for (const release of this.#leases) void release();
    await Promise.all(this.#givingBack);
    for (const { value } of this.#cache.values()) wipe(value);
    this.#cache.clear();
    const closing = [...this.#entries.values()].map(({ provider }) => provider.close());
    for (const outcome of await Promise.allSettled(closing)) {
      if (outcome.status === 'rejected')
        this.#ports.log.warn({ error: (outcome.reason as Error).message }, 'secret provider did not close');
    }
  }

  #entry(name: string): ProviderEntry {
    const entry = this.#entries.get(name);
    if (entry) return entry;
    throw new SecretError(name, `there is no secret provider "${name}"`, {
      code: 'not_found',
      hint: 'Declare it under "secrets" in the configuration.',
    });
  }

  /** A copy of the value that belongs to this session, or null when a rejected one has not changed. */
  async #valueFor(
    reference: SecretReference,
    text: string,
    why: 'launch' | 'rejected',
    signal: AbortSignal,
  ): Promise<SecretValue | null> {
    const all = this.#given.get(signal) ?? new Map<string, Given>();
    this.#given.set(signal, all);
    const given = all.get(text);
    if (why === 'rejected' && given === undefined) return null;
    if (why === 'launch' && given?.lease) return copy(given.lease);
    const rejected = why === 'rejected' ? given!.digest : null;
    let value = rejected === null || given!.lease === null ? this.#fromCache(text) : null;
    // Another session may have fetched the new value already.
    if (rejected !== null && value !== null && rejected.equals(digest(value))) {
      wipe(value);
      value = null;
    }
    value ??= await this.#fetch(reference, text, signal);
    const fresh = digest(value);
    if (value.release) this.#hold(reference, value, signal);
    if (rejected?.equals(fresh)) {
      wipe(value);
      return null;
    }
    all.set(text, { digest: fresh, lease: value.release ? value : null });
    return value.release ? copy(value) : value;
  }

  /** Keeps a leased value until the session ends, then gives it back and wipes it. */
  #hold(reference: SecretReference, value: SecretValue, signal: AbortSignal): void {
    const release = (): Promise<void> => {
      signal.removeEventListener('abort', onEnd);
      this.#leases.delete(release);
      wipe(value);
      return this.#giveBack(reference, value);
    };
    const onEnd = (): void => void release();
    this.#leases.add(release);
    signal.addEventListener('abort', onEnd, { once: true });
    if (signal.aborted) onEnd();
  }

  #fromCache(text: string): SecretValue | null {
    const cached = this.#cache.get(text);
    if (cached === undefined) return null;
    if (cached.until > this.#ports.now()) return copy(cached.value);
    this.#cache.delete(text);
    wipe(cached.value);
    return null;
  }

  #keep(text: string, value: SecretValue, cacheMs: number): void {
    const former = this.#cache.get(text);
    if (former) wipe(former.value);
    this.#cache.delete(text);
    const now = this.#ports.now();
    const end = value.expiresAt === null ? now + cacheMs : value.expiresAt - EXPIRY_MARGIN_MS;
    if (value.release || cacheMs === 0 || end <= now) return;
    this.#cache.set(text, { value: copy(value), until: Math.min(end, now + cacheMs) });
    if (this.#cache.size <= CACHE_ENTRIES_MAX) return;
    const [oldest, entry] = this.#cache.entries().next().value!;
    this.#cache.delete(oldest);
    wipe(entry.value);
  }

  /**
   * Fetches past the cache. Connections that ask for the same while it runs get copies of the one answer, unless it
   * turns out to be leased: then each gets its own.
   */
  async #fetch(reference: SecretReference, text: string, signal: AbortSignal): Promise<SecretValue> {
    const entry = this.#entry(reference.provider);
    let flight = this.#leased.has(text) ? undefined : this.#flights.get(text);
    if (flight === undefined) {
      flight = this.#takeOff(entry, reference, text);
    } else {
      flight.askers += 1;
    }
    try {
      const value = await abortable(reference.provider, flight.landing, signal);
      if (value.release === undefined) return copy(value);
      if (!flight.claimed) {
        flight.claimed = true;
        return { ...copy(value), release: () => value.release!() };
      }
    } finally {
      flight.askers -= 1;
      this.#clear(flight, reference);
    }
    return this.#fetch(reference, text, signal);
  }

  /** Starts a fetch that belongs to nobody in particular: it goes on when the one who asked first gives up. */
  #takeOff(entry: ProviderEntry, reference: SecretReference, text: string): Flight {
    const landing = this.#attempts(entry, reference);
    const flight: Flight = { landing, askers: 1, value: null, claimed: false };
    this.#flights.set(text, flight);
    const forget = (): void => {
      if (this.#flights.get(text) === flight) this.#flights.delete(text);
    };
    landing.then((value) => {
      forget();
      flight.value = value;
      if (value.release) this.#leased.add(text);
      this.#keep(text, value, entry.cacheMs);
      this.#clear(flight, reference);
    }, forget);
    return flight;
  }

  /** Wipes what came when all who waited for it have their copies, and gives back a lease that nobody wanted. */
  #clear(flight: Flight, reference: SecretReference): void {
    const { value } = flight;
    if (value === null || flight.askers > 0) return;
    flight.value = null;
    if (value.release && !flight.claimed) void this.#giveBack(reference, value);
    wipe(value);
  }

  async #attempts(entry: ProviderEntry, reference: SecretReference): Promise<SecretValue> {
    const { provider, timeoutMs } = entry;
    const { metrics, log, random } = this.#ports;
    const stop = metrics?.secretFetchSeconds.startTimer({ provider: provider.name });
    try {
      const value = await withDeadline(provider.name, timeoutMs, null, async (signal) => {
        for (let attempt = 1; ; attempt += 1) {
          try {
            return await provider.fetch(reference, signal);
          } catch (error) {
            const failure = asSecretError(provider.name, error);
            if (!failure.transient || attempt >= FETCH_ATTEMPTS_MAX || signal.aborted) throw failure;
            log.debug(
              { provider: provider.name, attempt, error: failure.message },
              'secret fetch is tried again',
            );
            await pause(random() * RETRY_PAUSE_MS * 2 ** (attempt - 1), signal);
          }
        }
      });
      this.#seen(provider.name, null);
      return value;
    } catch (error) {
      const failure = asSecretError(provider.name, error);
      this.#seen(provider.name, failure);
      metrics?.secretFetchFailuresTotal.inc({ provider: provider.name });
      throw failure;
    } finally {
      stop?.();
    }
  }

  /** A secret that is not there says nothing against the provider, which has answered. */
  #seen(name: string, failure: SecretError | null): void {
    const down = failure !== null && (failure.transient || failure.code === 'denied');
    const former = this.#health.get(name);
    const state = down ? 'down' : 'up';
    this.#health.set(name, {
      provider: name,
      state,
      at: this.#ports.now(),
      error: down ? failure.message : null,
    });
    if (former === undefined || former.state === state) return;
    if (down)
      this.#ports.log.error(
        { provider: name, error: failure.message, hint: failure.hint },
        'secret provider is down',
      );
    else if (former.state === 'down') this.#ports.log.info({ provider: name }, 'secret provider is back');
  }

  /** Gives a lease back. Never rejects; `close` waits for it. */
  #giveBack(reference: SecretReference, value: SecretValue): Promise<void> {
    const { provider, path } = reference;
    const giving = withDeadline(provider, RELEASE_MS_MAX, null, async () => value.release?.())
      .catch((error: Error) => {
        this.#ports.log.warn(
          { provider, path, error: error.message },
          'the lease of launch credentials was not given back; it ends by itself',
        );
      })
      .finally(() => this.#givingBack.delete(giving));
    this.#givingBack.add(giving);
    return giving;
  }
}

/** Account and password from one reference. */
function pair(reference: SecretReference, value: SecretValue): Credentials {
  if (reference.field !== null) {
    throw new SecretError(
      reference.provider,
      `${referenceText(reference)} names one field, and two are needed`,
      {
        code: 'malformed',
        hint: 'Leave the "#" out, or give the account as "username" and this reference as "password".',
      },
    );
  }
  const username = USERNAME_FIELDS.map((name) => value.fields[name]).find((field) => field !== undefined);
  const password = PASSWORD_FIELDS.map((name) => value.fields[name]).find((field) => field !== undefined);
  if (username === undefined || password === undefined) {
    const missing = username === undefined ? USERNAME_FIELDS[0] : PASSWORD_FIELDS[0];
    throw new SecretError(reference.provider, `${referenceText(reference)} has no field "${missing}"`, {
      code: 'field_not_found',
      hint: 'A reference that gives both needs the fields "username" and "password".',
    });
  }
  return { username: username.expose().toString('utf8'), password: password.clone(), kind: 'password' };
}

function named(
  source: Exclude<LaunchCredentials, string>,
  reference: SecretReference,
  value: SecretValue,
): Credentials {
  const kind = source.token === undefined ? 'password' : 'token';
  return { username: source.username, password: single(reference, value), kind };
}

/** The one text of a value; that of a JSON object with a field `password` is that field. */
function single(reference: SecretReference, value: SecretValue): Secret {
  const secret = value.value;
  if (secret !== null) return secret.clone();
  throw new SecretError(reference.provider, `${referenceText(reference)} has several fields`, {
    code: 'field_not_found',
    hint: `Name one: ${referenceText(reference)}#FIELD (${Object.keys(value.fields).join(', ')}).`,
  });
}

function copy(value: SecretValue): SecretValue {
  return {
    ...value,
    value: value.value?.clone() ?? null,
    fields: Object.fromEntries(Object.entries(value.fields).map(([name, field]) => [name, field.clone()])),
  };
}

function wipe(value: SecretValue): void {
  value.value?.wipe();
  for (const field of Object.values(value.fields)) field.wipe();
}

function digest(value: SecretValue): Buffer {
  const hash = createHash('sha256');
  if (value.value) hash.update(value.value.expose());
  for (const name of Object.keys(value.fields).sort())
    hash.update(`\0${name}\0`).update(value.fields[name]!.expose());
  return hash.digest();
}

/** Errors of providers are `SecretError`s; anything else is our fault, and its text might quote what was read. */
function asSecretError(provider: string, error: unknown): SecretError {
  if (error instanceof SecretError) return error;
  const name = error instanceof Error ? error.name : 'error';
  return new SecretError(provider, `the provider failed in a way that was not foreseen (${name})`, {
    cause: error,
  });
}

/** Runs `act` with a signal that ends after `timeoutMs`, or with `outer`. Rejects then even if `act` does not notice. */
async function withDeadline<T>(
  provider: string,
  timeoutMs: number,
  outer: AbortSignal | null,
  act: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), timeoutMs);
  const signal = outer ? AbortSignal.any([controller.signal, outer]) : controller.signal;
  const late = (): SecretError =>
    new SecretError(provider, `the provider did not answer within ${timeoutMs / 1000} s`, {
      code: 'timeout',
      hint: 'Is it up, and reachable from here? "timeout" of the provider says how long is waited.',
    });
  try {
    return await abortable(provider, act(signal), signal, late);
  } catch (error) {
    // What an adapter says of an interrupted request matters less than that the time was up.
    if (controller.signal.aborted && !(error instanceof SecretError && !error.transient)) throw late();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function abortable<T>(
  provider: string,
  work: Promise<T>,
  signal: AbortSignal,
  reason = (): SecretError =>
    new SecretError(provider, 'the sign-in ended before the secret was there', { code: 'timeout' }),
): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(reason());
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener('abort', done, { once: true });
  });
}
