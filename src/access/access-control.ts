import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Refusal } from '../../protocols/error.ts';
import type { Config } from '../config/schema.ts';
import type { AuditEvent } from '../recording/recorder.ts';
import { SqliteState, type State, type StoredLaunch } from '../store/state.ts';
import type { Access } from './access.ts';
import { Launches } from './launches.ts';
import { Logins } from './logins.ts';
import { Oidc } from './oidc.ts';
import { PolicyAccess } from './policy-access.ts';
import type { Principal } from './principal.ts';
import { type AccessQuestion, decide, type Rule } from './rules.ts';

/** How often launches are looked at for their end. */
const TICK_MS = 1_000;

const STATE_FILE = 'state.db';
const INSTANCE_KEY_FILE = 'instance.key';
const INSTANCE_KEY_BYTES = 32;
/** For commands of whoever may read the gateway's own files. Made anew at each start. */
export const OPERATOR_TOKEN_FILE = 'operator.token';

/** Names under which the product's own doings are on record. */
const RESERVED_NAMES: ReadonlySet<string> = new Set(['operator', 'gateway']);

/** What `access explain` answers. */
export interface Explanation {
  readonly allowed: boolean;
  readonly rule: string | null;
  readonly reasons: { readonly rule: string; readonly why: string }[];
  readonly read_only: boolean;
  readonly databases: string[] | null;
  readonly max_launch_seconds: number | null;
  readonly max_connections: number | null;
}

export interface AccessPorts {
  readonly audit: (event: AuditEvent) => void;
  readonly endConnections: (launch: string, refusal: Refusal) => number;
  /** Fetches what a reference names, as text. */
  readonly secret: (reference: string) => Promise<string>;
  readonly now: () => number;
}

/** All of access in one process: its rules, launches and state, made from the configuration. */
export class AccessControl {
  readonly access: Access;
  readonly launches: Launches;
  readonly state: State;
  readonly logins: Logins;
  readonly oidc: Oidc;
  #config: Config;
  readonly #ticker: NodeJS.Timeout;
  readonly #now: () => number;

  constructor(config: Config, ports: AccessPorts) {
    this.#config = config;
    this.#now = ports.now;
    const { data_dir } = config.gateway;
    mkdirSync(data_dir, { recursive: true, mode: 0o700 });
    this.state = new SqliteState(join(data_dir, STATE_FILE));
    this.launches = new Launches({
      state: this.state,
      rules: () => this.rules,
      audit: ports.audit,
      endConnections: ports.endConnections,
      now: ports.now,
    });
    this.access = new PolicyAccess({
      launches: this.launches,
      rules: () => this.rules,
      labels: (resource) => this.labels(resource),
      principalOf: (launch) => this.#principalOf(launch),
      audit: ports.audit,
      instanceKey: instanceKey(join(data_dir, INSTANCE_KEY_FILE)),
      now: ports.now,
    });
    const operatorToken = randomBytes(INSTANCE_KEY_BYTES).toString('base64url');
    const operatorTokenPath = join(data_dir, OPERATOR_TOKEN_FILE);
    // A file that is there already would keep its mode.
    rmSync(operatorTokenPath, { force: true });
    writeFileSync(operatorTokenPath, operatorToken, { mode: 0o600, flag: 'wx' });
    this.logins = new Logins(
      { state: this.state, config: () => this.#config, audit: ports.audit, now: ports.now },
      operatorToken,
    );
    this.oidc = new Oidc({
      config: () => this.#config.oidc ?? null,
      clientSecret: async () => {
        const reference = this.#config.oidc?.client_secret;
        return reference === undefined ? null : ports.secret(reference);
      },
      isReserved: (name) => Object.hasOwn(this.#config.users, name) || RESERVED_NAMES.has(name),
      now: ports.now,
    });
    this.#ticker = setInterval(() => this.launches.tick(), TICK_MS);
    this.#ticker.unref();
  }

  get rules(): readonly Rule[] {
    return this.#config.rules;
  }

  get config(): Config {
    return this.#config;
  }

  labels(resource: string): Readonly<Record<string, string>> {
    return this.#config.resources[resource]?.labels ?? {};
  }

  /** A principal by name alone, with the roles that the configuration gives it, or else its latest login. */
  principalNamed(name: string): Principal {
    const { users } = this.#config;
    if (Object.hasOwn(users, name)) return { name, roles: users[name]!.roles, source: 'password' };
    const login = this.state.latestLogin(name, this.#now());
    return { name, roles: login?.roles ?? [], source: 'oidc' };
  }

  /** Local users have the roles of the configuration as it is now; others those that their sign-in brought. */
  #principalOf(launch: StoredLaunch): Principal | null {
    const { principal: name, roles } = launch;
    const source = launch.source as Principal['source'];
    if (source !== 'password') return { name, roles, source };
    const { users } = this.#config;
    return Object.hasOwn(users, name) ? { name, roles: users[name]!.roles, source } : null;
  }

  /** Yes or no, by which rule, on which terms; or why each rule does not fit. */
  explain(
    principal: Principal,
    resource: string,
    question: Pick<AccessQuestion, 'database' | 'address' | 'at'>,
  ): Explanation {
    if (!Object.hasOwn(this.#config.resources, resource))
      throw new Refusal('not_allowed', `there is no resource "${resource}"`);
    const decision = decide(this.rules, {
      principal,
      resource: { name: resource, labels: this.labels(resource) },
      ...question,
    });
    const terms = decision.allowed ? decision.terms : null;
    return {
      allowed: decision.allowed,
      rule: terms?.rule ?? null,
      reasons: decision.allowed ? [] : [...decision.reasons],
      read_only: terms?.readOnly ?? false,
      databases: terms?.databases?.slice() ?? null,
      max_launch_seconds: terms === null || terms.maxLaunchMs === null ? null : terms.maxLaunchMs / 1000,
      max_connections: terms?.maxConnections ?? null,
    };
  }

  /** Rules, users and labels of the new configuration are asked from the next connection or call on. */
  reload(config: Config): void {
    this.#config = config;
  }

  close(): void {
    clearInterval(this.#ticker);
    this.state.close();
  }
}

/** 32 random bytes of this instance, made at the first start. */
function instanceKey(path: string): Buffer {
  if (!existsSync(path)) writeFileSync(path, randomBytes(INSTANCE_KEY_BYTES), { mode: 0o600, flag: 'wx' });
  const key = readFileSync(path);
  if (key.length !== INSTANCE_KEY_BYTES)
    throw new Error(
      `${path} has not the ${INSTANCE_KEY_BYTES} bytes it should have; remove it to have it made anew`,
    );
  return key;
}
