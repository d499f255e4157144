import type { Address, Channel } from '../channel.ts';
import type { Credentials, Entry, Permit, PostgresSettings } from '../engine.ts';
import { ProtocolError, Refusal } from '../error.ts';
import { parseServerFields, ServerError } from './errors.ts';
import { SERVER_MESSAGE_BYTES_MAX } from './limits.ts';
import { type LoggedIn, type LoginRequest, login } from './login.ts';
import { message, readMessage, TERMINATE } from './packets.ts';

/**
 * Finds the server among a resource's addresses, as libpq does with several hosts and `target_session_attrs`: in order,
 * the first that can be reached and is of the wanted kind. `prefer-standby` goes through them a second time and takes
 * any.
 *
 * Credentials that the server refuses are fetched anew once, and tried again on a new connection. They are wiped when
 * this settles.
 */
export async function reach(
  entry: Entry,
  permit: Permit,
  settings: PostgresSettings,
  request: Omit<LoginRequest, 'credentials' | 'settings'>,
): Promise<{ loggedIn: LoggedIn; account: string }> {
  const attempts = new Attempts(entry, permit, settings, request);
  try {
    const { targetSessionAttrs: wanted } = settings;
    const passes: Wanted[] = wanted === 'prefer-standby' ? ['standby', 'any'] : [wanted];
    let failure: Error | null = null;
    for (const pass of passes) {
      for (const address of permit.resource.addresses) {
        try {
          const loggedIn = await attempts.attempt(address);
          if (await fits(loggedIn, pass)) return { loggedIn, account: attempts.account };
          leave(loggedIn.server);
          failure ??= notOfTheKind(permit, pass);
        } catch (error) {
          if (!mayTryNext(error)) throw error;
          failure = error as Error;
          entry.log('database host passed over', { host: address.host, error: failure.message });
        }
      }
    }
    throw failure ?? new Refusal('server_unreachable', `${permit.resource.name} has no address`);
  } finally {
    attempts.wipe();
  }
}

/** Tells a server that we leave, and closes. */
export function leave(server: Channel): void {
  server.write(TERMINATE);
  server.end();
}

class Attempts {
  readonly #entry: Entry;
  readonly #permit: Permit;
  readonly #settings: PostgresSettings;
  readonly #request: Omit<LoginRequest, 'credentials' | 'settings'>;
  #credentials: Credentials | null = null;
  #refetched = false;

  constructor(
    entry: Entry,
    permit: Permit,
    settings: PostgresSettings,
    request: Omit<LoginRequest, 'credentials' | 'settings'>,
  ) {
    this.#entry = entry;
    this.#permit = permit;
    this.#settings = settings;
    this.#request = request;
  }

  get account(): string {
    return this.#credentials?.username ?? '';
  }

  async attempt(address: Address): Promise<LoggedIn> {
    // Connected first: a server that is down should not cost a fetch from the secret provider.
    const server = await this.#entry.dial(address);
    this.#credentials ??= await this.#fetch('launch');
    if (this.#credentials === null) {
      throw new Refusal(
        'credentials_unavailable',
        `there are no credentials for ${this.#permit.resource.name}`,
      );
    }
    try {
      return await this.#login(server, this.#credentials);
    } catch (error) {
      if (!wasRejected(error) || this.#refetched) throw error;
      this.#refetched = true;
      const fresh = await this.#fetch('rejected');
      if (fresh === null) throw error;
      this.wipe();
      this.#credentials = fresh;
      this.#entry.log('launch credentials were refused; trying those fetched anew');
      return await this.#login(await this.#entry.dial(address), fresh);
    }
  }

  wipe(): void {
    this.#credentials?.password?.wipe();
  }

  #fetch(why: 'launch' | 'rejected'): Promise<Credentials | null> {
    return this.#entry.credentials(this.#permit, why);
  }

  async #login(server: Channel, credentials: Credentials): Promise<LoggedIn> {
    try {
      return await login(server, { ...this.#request, credentials, settings: this.#settings });
    } catch (error) {
      server.destroy();
      throw error;
    }
  }
}

function wasRejected(error: unknown): boolean {
  return error instanceof ProtocolError && error.code === 'authentication_failed' && error.fault === 'server';
}

/**
 * A host that is down, or says that it cannot take connections now, is passed over. One that answers and says no would
 * say no again. A passed deadline is that of the whole sign-in.
 */
function mayTryNext(error: unknown): boolean {
  if (error instanceof Refusal) return error.code === 'server_unreachable';
  if (error instanceof ServerError) return error.serverCode === '57P03';
  return (
    error instanceof ProtocolError &&
    error.fault === 'server' &&
    ['unexpected_end', 'tls_failed', 'tls_required'].includes(error.code)
  );
}

type Wanted = PostgresSettings['targetSessionAttrs'];

async function fits(loggedIn: LoggedIn, wanted: Wanted): Promise<boolean> {
  switch (wanted) {
    case 'any':
    case 'prefer-standby':
      return true;
    case 'read-write':
      return !(await isReadOnly(loggedIn));
    case 'read-only':
      return isReadOnly(loggedIn);
    case 'primary':
      return !(await isStandby(loggedIn));
    case 'standby':
      return isStandby(loggedIn);
  }
}

/** PostgreSQL 14 and later tell by ParameterStatus; older ones are asked. */
async function isReadOnly({ server, parameters }: LoggedIn): Promise<boolean> {
  const standby = parameters.get('in_hot_standby');
  const readOnly = parameters.get('default_transaction_read_only');
  if (standby !== undefined && readOnly !== undefined) return standby === 'on' || readOnly === 'on';
  return (await ask(server, 'SHOW transaction_read_only')) === 'on';
}

async function isStandby({ server, parameters }: LoggedIn): Promise<boolean> {
  const standby = parameters.get('in_hot_standby');
  if (standby !== undefined) return standby === 'on';
  return (await ask(server, 'SELECT pg_catalog.pg_is_in_recovery()')) === 't';
}

/** The only value of a query's only row, as text. */
async function ask(server: Channel, query: string): Promise<string | null> {
  server.write(message('Q', Buffer.from(`${query}\0`)));
  let value: string | null = null;
  for (;;) {
    const { type, body } = await readMessage(server, 'the answer to our query', (one) =>
      'TDCZENS'.includes(one) ? SERVER_MESSAGE_BYTES_MAX : null,
    );
    if (type === 'E') throw new ServerError(parseServerFields(body));
    // DataRow: Int16 count, then Int32 length and bytes.
    if (type === 'D' && body.length >= 6) value = body.toString('utf8', 6);
    if (type === 'Z') return value;
  }
}

function notOfTheKind(permit: Permit, wanted: Wanted): Refusal {
  return new Refusal('server_unreachable', `no server of ${permit.resource.name} is ${wanted} at present`, {
    hint: 'The resource asks for such a server by target_session_attrs.',
  });
}
