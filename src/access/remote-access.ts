import type { Challenge, Claim, Launch, Permit, Proof, TokenVerifier } from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import type { Access, OfferedResource, Visitor } from './access.ts';
import { makePermit } from './permit.ts';
import { type StoredVerifier, tokenVerifier } from './tokens.ts';

/**
 * Access that another process decides: what one asks of it and hears from it, as values that a channel between processes
 * can carry. That process is the one that knows launches, rules and how many connections each has.
 */

/** A visitor, with what can be reached by name alone: both processes have the same configuration. */
export interface DistantVisitor extends Omit<Visitor, 'resources'> {
  readonly resources: readonly string[];
}

export interface ChallengeQuestion {
  readonly claim: Claim;
  readonly visitor: DistantVisitor;
}

export interface AdmitQuestion extends ChallengeQuestion {
  readonly proof: DistantProof;
}

/** `bearer` is left out: its text is a secret, and no challenge here asks for it. */
export type DistantProof = Exclude<Proof, { readonly method: 'bearer' }>;

export type DistantChallenge =
  | { readonly method: 'trust' }
  | { readonly method: 'token'; readonly verifier: StoredVerifier };

export interface DistantPermit {
  readonly session: string;
  readonly principal: string;
  readonly resource: string;
  readonly database: string | null;
  readonly databases: readonly string[] | null;
  readonly readOnly: boolean;
  readonly launch: Launch | null;
}

/** The way to the process that decides. Its promises reject with a `Refusal`, or when that process is gone. */
export interface AccessLine {
  challenge(question: ChallengeQuestion): Promise<DistantChallenge>;
  admit(question: AdmitQuestion): Promise<DistantPermit>;
  closed(session: string): void;
}

/** The asking side. */
export class RemoteAccess implements Access {
  readonly #line: AccessLine;

  constructor(line: AccessLine) {
    this.#line = line;
  }

  async challenge(claim: Claim, visitor: Visitor): Promise<Challenge> {
    if (visitor.clientAuth !== 'token') return { method: 'trust' };
    const challenge = await this.#line.challenge({ claim, visitor: distant(visitor) });
    return challenge.method === 'trust'
      ? challenge
      : { method: 'token', verifier: tokenVerifier(challenge.verifier) };
  }

  async admit(claim: Claim, proof: Proof, visitor: Visitor): Promise<Permit> {
    if (proof.method === 'bearer') throw notHere();
    const given = await this.#line.admit({ claim, proof, visitor: distant(visitor) });
    const offered = visitor.resources.find(({ resource }) => resource.name === given.resource);
    if (offered !== undefined) return makePermit({ ...given, resource: offered.resource });
    this.#line.closed(given.session);
    throw notHere();
  }

  closed(permit: Permit): void {
    this.#line.closed(permit.session);
  }
}

/** The deciding side: asks `access` in the place of one that is here. `offered` are the resources by name. */
export async function challengeFor(
  access: Access,
  { claim, visitor }: ChallengeQuestion,
  offered: (name: string) => OfferedResource | null,
): Promise<DistantChallenge> {
  const challenge = await access.challenge(claim, near(visitor, offered));
  if (challenge.method === 'token') return { method: 'token', verifier: storedVerifier(challenge.verifier) };
  if (challenge.method === 'trust') return challenge;
  throw notHere();
}

/** The permit that `access` gives; it is the asker's until that says it is closed. Rejects with a `Refusal`. */
export function admitFor(
  access: Access,
  { claim, proof, visitor }: AdmitQuestion,
  offered: (name: string) => OfferedResource | null,
): Promise<Permit> {
  return access.admit(claim, proof, near(visitor, offered));
}

export function distantPermit(permit: Permit): DistantPermit {
  const { session, principal, resource, database, databases, readOnly, launch } = permit;
  return { session, principal, resource: resource.name, database, databases, readOnly, launch };
}

function distant(visitor: Visitor): DistantVisitor {
  const { tls, resources, ...rest } = visitor;
  return {
    ...rest,
    tls: tls === null ? null : { ...tls, localCertificate: null },
    resources: resources.map(({ resource }) => resource.name),
  };
}

function near(visitor: DistantVisitor, offered: (name: string) => OfferedResource | null): Visitor {
  const resources = visitor.resources.flatMap((name) => offered(name) ?? []);
  return { ...visitor, resources };
}

function storedVerifier({ scram, nativeHash, sha2Hash }: TokenVerifier): StoredVerifier {
  return { ...scram, nativeHash, sha2Hash };
}

function notHere(): Refusal {
  return new Refusal('not_allowed', 'this listener does not let you in');
}
