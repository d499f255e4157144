import { randomBytes, type X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Refusal } from '../../protocols/error.ts';
import { resourcesOf } from '../config/resources.ts';
import type { Config } from '../config/schema.ts';
import type { AuditEvent } from '../recording/recorder.ts';
import { SqliteState, type State } from '../store/state.ts';
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

  constructor(config: Config, ports: AccessPorts) {
    this.#config = config;
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
      certificatePrincipal: (certificate, listener) => this.#certificatePrincipal(certificate, listener),
      instanceKey: instanceKey(join(data_dir, INSTANCE_KEY_FILE)),
      now: ports.now,
    });
    const operatorToken = randomBytes(INSTANCE_KEY_BYTES).toString('base64url');
    writeFileSync(join(data_dir, OPERATOR_TOKEN_FILE), operatorToken, { mode: 0o600 });
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

  /** A principal by name alone, with the roles that the configuration gives it. */
  principalNamed(name: string): Principal {
    const { users } = this.#config;
    return { name, roles: Object.hasOwn(users, name) ? users[name]!.roles : [], source: 'password' };
  }

  /** Yes or no, by which rule, on which terms; or why each rule does not fit. */
  explain(
    principal: Principal,
    resource: string,
    question: Pick<AccessQuestion, 'database' | 'address' | 'at'>,
  ): Explanation {
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

  /** The principal that the listener of `resource` takes a certificate for. */
  #certificatePrincipal(certificate: X509Certificate, resource: string): Principal | null {
    const listener = this.#config.listeners.find(
      (one) => one.client_auth === 'mtls' && resourcesOf(one).includes(resource),
    );
    if (listener === undefined) return null;
    const { principal, roles } = listener.certificate;
    const name = certificateName(certificate, principal);
    return name === null ? null : { name, roles, source: 'certificate' };
  }
}

/** A name out of a certificate: the common name, or its first alternative name of a kind. Null where there is none. */
export function certificateName(
  certificate: X509Certificate,
  what: 'common_name' | 'email' | 'dns' | 'uri',
): string | null {
  if (what === 'common_name') return /^CN=(.+)$/m.exec(certificate.subject)?.[1] ?? null;
  const kind = { email: 'email', dns: 'DNS', uri: 'URI' }[what];
  // Node quotes names that could be mistaken for several; such names are taken by nobody.
  const names = certificate.subjectAltName?.split(', ') ?? [];
  const found = names.find((name) => name.startsWith(`${kind}:`))?.slice(kind.length + 1);
  return found === undefined || found.startsWith('"') ? null : found;
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
