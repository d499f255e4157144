import { X509Certificate } from 'node:crypto';
import type { Challenge, Claim, Permit, Proof } from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import type { AuditEvent } from '../recording/recorder.ts';
import type { StoredLaunch } from '../store/state.ts';
import type { Access, OfferedResource, Visitor } from './access.ts';
import { certificateName } from './certificate-name.ts';
import { Familiar, Guesses, networkOf } from './guesses.ts';
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
  /** The principal of a launch with the roles that it has now; null when there is no such person any more. */
  readonly principalOf: (launch: StoredLaunch) => Principal | null;
  readonly audit: (event: AuditEvent) => void;
  /** For the verifiers of those who do not exist. 32 bytes, kept across restarts. */
  readonly instanceKey: Buffer;
  readonly now: () => number;
}

/** Access by listener, launch token, client certificate or tunnel, as the way in asks for. The only maker of permits for people. */
export class PolicyAccess implements Access {
  readonly #ports: PolicyPorts;
  readonly #trusted = new ListenerAccess();
  readonly #guesses: Guesses;
  readonly #familiar: Familiar;

  constructor(ports: PolicyPorts) {
    this.#ports = ports;
    this.#guesses = new Guesses(ports.now);
    this.#familiar = new Familiar(ports.now);
  }

  async challenge(claim: Claim, visitor: Visitor): Promise<Challenge> {
    if (visitor.clientAuth !== 'token') return { method: 'trust' };
    const { address, target } = sourcesOf(claim, visitor);
    const isLimited = this.#guesses.isLimited(address) || this.#guesses.isLimited(target);
    if (isLimited && !this.#familiar.has(target, address)) {
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
      this.#wrong(claim, visitor);
      throw new Refusal('credentials_invalid', 'the launch token is wrong, or its launch has ended', {
        hint: 'Issue a new one: sallyport tokens issue RESOURCE',
      });
    }
    const { address, target } = sourcesOf(claim, visitor);
    this.#familiar.add(target, address);
    return this.#permit(launch, claim, visitor);
  }

  /** The first that makes a source wait is on record; those that are turned away afterwards would only fill the journal. */
  #wrong(claim: Claim, visitor: Visitor): void {
    for (const source of Object.values(sourcesOf(claim, visitor))) {
      if (!this.#guesses.wrong(source)) continue;
      this.#ports.audit({
        action: 'guessing_limited',
        principal: null,
        resource: null,
        clientAddress: visitor.address.host,
        reason: 'too many wrong launch tokens',
        detail: { user: claim.user },
      });
    }
  }

  #byTunnel(claim: Claim, visitor: Visitor): Permit {
    const launch = visitor.launch === null ? null : this.#ports.launches.running(visitor.launch);
    if (launch === null) throw new Refusal('launch_expired', 'the launch of this tunnel has ended');
    return this.#permit(launch, claim, visitor);
  }

  #byCertificate(claim: Claim, visitor: Visitor): Permit {
    const { tls } = visitor;
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
    const mapping = visitor.certificate;
    const person =
      mapping === null ? null : certificateName(new X509Certificate(tls.peerCertificate), mapping.principal);
    if (mapping === null || person === null)
      throw new Refusal('not_allowed', 'your client certificate names nobody who is known here');
    const { launches } = this.#ports;
    const principal: Principal = { name: person, roles: mapping.roles, source: 'certificate' };
    const { name } = offered.resource;
    const launch =
      launches.runningOf(principal, name) ??
      launches.issue({
        principal,
        resource: { name, labels: this.#ports.labels(name) },
        address: addressOf(visitor),
        durationMs: null,
        token: false,
        reason: null,
      }).launch;
    return this.#permit({ ...launch, roles: mapping.roles }, claim, visitor);
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
    const given = narrowed(offered, launch.databases);
    const database = databaseFor(claim.database, given);
    const { launches, rules, labels, now } = this.#ports;
    const principal = this.#ports.principalOf(launch);
    if (principal === null)
      throw new Refusal('not_allowed', `${launch.principal} is not known here any more`);
    const decision = decide(rules(), {
      principal,
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
    const { terms } = decision;
    const open = narrowed(given, terms.databases);
    const opened = databaseFor(database, open);
    const connectionsMax = least(launch.maxConnections, terms.maxConnections);
    if (!launches.connect(launch.id, connectionsMax)) {
      throw new Refusal('session_limit', `your launch allows ${connectionsMax} connections at once`, {
        hint: "Close one, or make your tool's pool smaller.",
      });
    }
    return makePermit({
      session: visitor.session,
      principal: launch.principal,
      resource: offered.resource,
      database: opened,
      databases: open.databases,
      readOnly: launch.readOnly || terms.readOnly,
      launch: { id: launch.id, expiresAt: launch.expiresAt, rule: terms.rule },
    });
  }
}

/** What wrong tokens are counted by: where they come from, and which launch they are for, however the user name is written. */
function sourcesOf(claim: Claim, visitor: Visitor): { address: string; target: string } {
  const launch = visitor.launch ?? launchIdIn(claim.user);
  return {
    address: networkOf(visitor.address.host),
    target: launch === null ? `user ${claim.user}` : `launch ${launch}`,
  };
}

function least(one: number | null, other: number | null): number | null {
  return one === null ? other : other === null ? one : Math.min(one, other);
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
