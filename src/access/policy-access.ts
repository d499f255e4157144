import { X509Certificate } from 'node:crypto';
import type { Challenge, Claim, Permit, Proof } from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import type { StoredLaunch } from '../store/state.ts';
import type { Access, OfferedResource, Visitor } from './access.ts';
import { Guesses } from './guesses.ts';
import type { Launches } from './launches.ts';
import { databaseFor, ListenerAccess } from './listener-access.ts';
import { makePermit } from './permit.ts';
import type { Principal } from './principal.ts';
import { decide, type Rule } from './rules.ts';
import { impossibleVerifier, launchIdIn } from './tokens.ts';

export interface PolicyPorts {
  readonly launches: Launches;
  readonly rules: () => readonly Rule[];
  readonly labels: (resource: string) => Readonly<Record<string, string>>;
  /** Principal of a verified client certificate; null where the mapping gives none. */
  readonly certificatePrincipal: (certificate: X509Certificate, resource: string) => Principal | null;
  /** For the verifiers of those who do not exist. 32 bytes, kept across restarts. */
  readonly instanceKey: Buffer;
  readonly now: () => number;
}

/** Access by listener, launch token, client certificate or tunnel, as the way in asks for. The only maker of permits for people. */
export class PolicyAccess implements Access {
  readonly #ports: PolicyPorts;
  readonly #trusted = new ListenerAccess();
  readonly #guesses: Guesses;

  constructor(ports: PolicyPorts) {
    this.#ports = ports;
    this.#guesses = new Guesses(ports.now);
  }

  async challenge(claim: Claim, visitor: Visitor): Promise<Challenge> {
    if (visitor.clientAuth !== 'token') return { method: 'trust' };
    if (this.#guesses.isLimited(visitor.address.host) || this.#guesses.isLimited(claim.user)) {
      throw new Refusal('rate_limited', 'too many wrong tokens; wait a minute', {
        hint: 'Check the launch token, or issue a new one: sallyport tokens issue RESOURCE',
      });
    }
    const launch = this.#launchOf(claim, visitor);
    const verifier = launch === null ? null : this.#ports.launches.verifier(launch);
    return { method: 'token', verifier: verifier ?? impossibleVerifier(this.#ports.instanceKey, claim.user) };
  }

  async admit(claim: Claim, proof: Proof, visitor: Visitor): Promise<Permit> {
    switch (visitor.clientAuth) {
      case 'trust':
        return this.#trusted.admit(claim, proof, visitor);
      case 'token':
        return this.#byToken(claim, proof, visitor);
      case 'tunnel':
        return this.#byTunnel(claim, visitor);
      case 'mtls':
        return this.#byCertificate(claim, visitor);
    }
  }

  closed(permit: Permit): void {
    if (permit.launch !== null) this.#ports.launches.disconnect(permit.launch.id);
  }

  #byToken(claim: Claim, proof: Proof, visitor: Visitor): Permit {
    const launch = this.#launchOf(claim, visitor);
    if (proof.method !== 'token' || !proof.valid || launch === null) {
      this.#guesses.wrong(visitor.address.host);
      this.#guesses.wrong(claim.user);
      throw new Refusal('credentials_invalid', 'the launch token is wrong, or its launch has ended', {
        hint: 'Issue a new one: sallyport tokens issue RESOURCE',
      });
    }
    this.#guesses.right(claim.user);
    return this.#permit(launch, claim, visitor);
  }

  #byTunnel(claim: Claim, visitor: Visitor): Permit {
    const launch = visitor.launch === null ? null : this.#ports.launches.running(visitor.launch);
    if (launch === null) throw new Refusal('launch_expired', 'the launch of this tunnel has ended');
    return this.#permit(launch, claim, visitor);
  }

  #byCertificate(claim: Claim, visitor: Visitor): Permit {
    const { tls, address } = visitor;
    if (tls === null) throw new Refusal('tls_required', 'this listener needs TLS with a client certificate');
    if (!tls.verified || tls.peerCertificate === null) {
      throw new Refusal('not_allowed', 'your client certificate is missing or not from a trusted authority', {
        hint: 'Set the certificate and key in your tool (for libpq: sslcert and sslkey).',
      });
    }
    const offered = visitor.resources.length === 1 ? visitor.resources[0]! : null;
    if (offered === null) {
      throw new Refusal('not_allowed', 'this listener serves several resources, and needs a launch token');
    }
    const certificate = new X509Certificate(tls.peerCertificate);
    const principal = this.#ports.certificatePrincipal(certificate, offered.resource.name);
    if (principal === null)
      throw new Refusal('not_allowed', 'your client certificate names nobody who is known here');
    const { launches } = this.#ports;
    const { name } = offered.resource;
    const launch =
      launches.runningOf(principal.name, name) ??
      launches.issue({
        principal,
        resource: { name, labels: this.#ports.labels(name) },
        address: address.host,
        durationMs: null,
        token: false,
        reason: null,
      }).launch;
    return this.#permit(launch, claim, visitor);
  }

  /**
   * The launch of the tunnel that carries the visitor, whatever the user name, or else the one that the user name speaks of;
   * if it lasts and leads to something that can be reached here.
   */
  #launchOf(claim: Claim, visitor: Visitor): StoredLaunch | null {
    const id = visitor.launch ?? launchIdIn(claim.user);
    const launch = id === null ? null : this.#ports.launches.running(id);
    if (launch === null) return null;
    return visitor.resources.some(({ resource }) => resource.name === launch.resource) ? launch : null;
  }

  /** Rules are asked again for each connection: they may have changed, and the hour with them. */
  #permit(launch: StoredLaunch, claim: Claim, visitor: Visitor): Permit {
    const offered = visitor.resources.find(({ resource }) => resource.name === launch.resource);
    if (offered === undefined) throw new Refusal('not_allowed', `${launch.resource} cannot be reached here`);
    const open = narrowed(offered, launch.databases);
    const database = databaseFor(claim.database, open);
    const { launches, rules, labels, now } = this.#ports;
    const decision = decide(rules(), {
      principal: { name: launch.principal, roles: launch.roles, source: 'token' },
      resource: { name: launch.resource, labels: labels(launch.resource) },
      database,
      address: addressOf(visitor),
      at: now(),
    });
    if (!decision.allowed) {
      throw new Refusal('not_allowed', `no rule lets ${launch.principal} use ${launch.resource} now`, {
        hint: `sallyport access explain ${launch.principal} ${launch.resource} says why.`,
      });
    }
    if (!launches.connect(launch)) {
      throw new Refusal('session_limit', `your launch allows ${launch.maxConnections} connections at once`, {
        hint: "Close one, or make your tool's pool smaller.",
      });
    }
    return makePermit({
      session: visitor.session,
      principal: launch.principal,
      resource: offered.resource,
      database,
      databases: open.databases,
      readOnly: launch.readOnly || decision.terms.readOnly,
      launch: { id: launch.id, expiresAt: launch.expiresAt },
    });
  }
}

/** The resource's databases, less those that the launch does not give. */
function narrowed(offered: OfferedResource, databases: readonly string[] | null): OfferedResource {
  if (databases === null) return offered;
  const both =
    offered.databases === null ? databases : databases.filter((one) => offered.databases!.includes(one));
  const database =
    offered.database !== null && both.includes(offered.database) ? offered.database : (both[0] ?? null);
  return { ...offered, database, databases: both };
}

/** A Unix socket has a path and no address. */
function addressOf(visitor: Visitor): string | null {
  return visitor.address.port === 0 ? null : visitor.address.host;
}
