import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { Refusal } from '../../protocols/error.ts';
import type { Config } from '../config/schema.ts';
import type { AuditEvent } from '../recording/recorder.ts';
import type { State } from '../store/state.ts';
import { Familiar, Guesses, networkOf } from './guesses.ts';
import { NOBODY_HASH, verifyPassword } from './passwords.ts';
import type { Principal } from './principal.ts';

const TOKEN_PREFIX = 'sll_';
const TOKEN_BYTES = 32;
/** Passwords that are checked at once, each in 19 MiB of memory. Ours. */
const CHECKS_MAX = 16;

export interface LoginPorts {
  readonly state: State;
  readonly config: () => Config;
  readonly audit: (event: AuditEvent) => void;
  readonly now: () => number;
}

/** A login as its owner gets it: the token is shown this once. */
export interface Login {
  readonly token: string;
  readonly principal: Principal;
  /** Milliseconds since the epoch. */
  readonly expiresAt: number;
}

/**
 * Logins: bearer tokens for the API and tunnels, kept as SHA-256. Roles are those at the time of the login for OpenID, and
 * those of the configuration as it is now for local users, so that taking a role from a user, or changing the password,
 * takes effect at once.
 */
export class Logins {
  readonly #ports: LoginPorts;
  readonly #guesses: Guesses;
  readonly #familiar: Familiar;
  #checks = 0;
  /** SHA-256 of the token that the operator's own commands use; it changes at each start. */
  readonly #operator: Buffer;

  constructor(ports: LoginPorts, operatorToken: string) {
    this.#ports = ports;
    this.#guesses = new Guesses(ports.now);
    this.#familiar = new Familiar(ports.now);
    this.#operator = sha256(operatorToken);
  }

  /** Throws a `Refusal` `credentials_invalid` or `rate_limited`. Takes as long for users who do not exist. */
  async withPassword(user: string, password: string, address: string): Promise<Login> {
    const guesses = this.#guesses;
    const account = `user ${user}`;
    const network = networkOf(address);
    const isFamiliar = this.#familiar.has(account, network);
    if (guesses.isLimited(network) || (guesses.isLimited(account) && !isFamiliar))
      throw new Refusal('rate_limited', 'too many wrong passwords; wait a minute');
    if (this.#checks >= CHECKS_MAX)
      throw new Refusal('rate_limited', 'too many people log in at this moment; try again');
    // Counted ahead: many guesses at once must not all pass before the first is found wrong.
    const limits = [guesses.wrong(network), guesses.wrong(account)];
    const { users } = this.#ports.config();
    const known = Object.hasOwn(users, user) ? users[user]! : null;
    this.#checks += 1;
    const isRight = await verifyPassword(password, known?.password ?? NOBODY_HASH).finally(() => {
      this.#checks -= 1;
    });
    if (!isRight || known === null) {
      this.#audit('login_refused', user, address, 'wrong user name or password');
      if (limits.includes(true)) this.#audit('guessing_limited', user, address, 'too many wrong passwords');
      throw new Refusal('credentials_invalid', 'wrong user name or password');
    }
    guesses.refund(network);
    guesses.refund(account);
    this.#familiar.add(account, network);
    return this.issue({ name: user, roles: known.roles, source: 'password' }, address);
  }

  /** Makes a login for a principal that was proven elsewhere. */
  issue(principal: Principal, address: string): Login {
    const { state, config, now } = this.#ports;
    const token = TOKEN_PREFIX + randomBytes(TOKEN_BYTES).toString('base64url');
    const createdAt = now();
    const expiresAt = createdAt + config().api.login_ttl;
    state.addLogin({
      tokenSha256: sha256(token).toString('hex'),
      principal: principal.name,
      roles: principal.roles,
      source: principal.source,
      proof: principal.source === 'password' ? this.#proofOf(principal.name) : '',
      createdAt,
      expiresAt,
    });
    this.#audit('login', principal.name, address, principal.source);
    return { token, principal, expiresAt };
  }

  /** Who a bearer token belongs to; null for one that is wrong or has run out. */
  principal(token: string): Principal | null {
    const digest = sha256(token);
    if (timingSafeEqual(digest, this.#operator)) return { name: 'operator', roles: [], source: 'operator' };
    const login = this.#ports.state.login(digest.toString('hex'));
    if (login === null || login.expiresAt <= this.#ports.now()) return null;
    const { users, oidc } = this.#ports.config();
    if (login.source === 'oidc' && oidc === undefined) return null;
    if (login.source !== 'password')
      return { name: login.principal, roles: login.roles, source: login.source as Principal['source'] };
    if (!Object.hasOwn(users, login.principal) || login.proof !== this.#proofOf(login.principal)) return null;
    return { name: login.principal, roles: users[login.principal]!.roles, source: 'password' };
  }

  logout(token: string, address: string): void {
    const principal = this.principal(token);
    if (this.#ports.state.removeLogin(sha256(token).toString('hex')) && principal !== null)
      this.#audit('logout', principal.name, address, null);
  }

  isAdmin(principal: Principal): boolean {
    return principal.source === 'operator' || isAmong(principal, this.#ports.config().api.admins);
  }

  isReviewer(principal: Principal): boolean {
    return this.isAdmin(principal) || isAmong(principal, this.#ports.config().api.reviewers);
  }

  /** What a login by password stands and falls with: another password ends it. */
  #proofOf(user: string): string {
    const { users } = this.#ports.config();
    return sha256(users[user]?.password ?? '').toString('hex');
  }

  #audit(action: string, principal: string, clientAddress: string, reason: string | null): void {
    this.#ports.audit({ action, principal, resource: null, clientAddress, reason });
  }
}

function isAmong(
  principal: Principal,
  people: { readonly users: readonly string[]; readonly roles: readonly string[] },
): boolean {
  return people.users.includes(principal.name) || people.roles.some((role) => principal.roles.includes(role));
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
