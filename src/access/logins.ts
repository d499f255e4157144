import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { Refusal } from '../../protocols/error.ts';
import type { Config } from '../config/schema.ts';
import type { AuditEvent } from '../recording/recorder.ts';
import type { State } from '../store/state.ts';
import { Guesses } from './guesses.ts';
import { NOBODY_HASH, verifyPassword } from './passwords.ts';
import type { Principal } from './principal.ts';

const TOKEN_PREFIX = 'sll_';
const TOKEN_BYTES = 32;

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
 * those of the configuration as it is now for local users, so that taking a role from a user takes effect at once.
 */
export class Logins {
  readonly #ports: LoginPorts;
  readonly #guesses: Guesses;
  /** SHA-256 of the token that the operator's own commands use; it changes at each start. */
  readonly #operator: Buffer;

  constructor(ports: LoginPorts, operatorToken: string) {
    this.#ports = ports;
    this.#guesses = new Guesses(ports.now);
    this.#operator = sha256(operatorToken);
  }

  /** Throws a `Refusal` `credentials_invalid` or `rate_limited`. Takes as long for users who do not exist. */
  async withPassword(user: string, password: string, address: string): Promise<Login> {
    if (this.#guesses.isLimited(address) || this.#guesses.isLimited(`user ${user}`)) {
      this.#audit('login_refused', user, address, 'too many wrong passwords');
      throw new Refusal('rate_limited', 'too many wrong passwords; wait a minute');
    }
    const { users } = this.#ports.config();
    const known = Object.hasOwn(users, user) ? users[user]! : null;
    const isRight = await verifyPassword(password, known?.password ?? NOBODY_HASH);
    if (!isRight || known === null) {
      this.#guesses.wrong(address);
      this.#guesses.wrong(`user ${user}`);
      this.#audit('login_refused', user, address, 'wrong user name or password');
      throw new Refusal('credentials_invalid', 'wrong user name or password');
    }
    this.#guesses.right(`user ${user}`);
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
    if (login.source !== 'password')
      return { name: login.principal, roles: login.roles, source: login.source as Principal['source'] };
    const { users } = this.#ports.config();
    if (!Object.hasOwn(users, login.principal)) return null;
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
