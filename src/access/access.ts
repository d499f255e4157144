import type { Address, TlsState } from '../../protocols/channel.ts';
import type { Challenge, Claim, Permit, Proof, Resource } from '../../protocols/engine.ts';

/** Who stands at the door, as far as the transport tells. */
export interface Visitor {
  /** The id that the session will have, if it becomes one. */
  readonly session: string;
  readonly address: Address;
  /** Null in the clear, and before a client has started TLS. */
  readonly tls: TlsState | null;
  readonly clientAuth: 'trust' | 'token' | 'mtls';
  /** Who trusted connections are recorded as. */
  readonly principal: string;
  /** The resource that the listener serves; null where the claim chooses. */
  readonly resource: OfferedResource | null;
}

/** A resource with its rules about databases. */
export interface OfferedResource {
  readonly resource: Resource;
  readonly database: string | null;
  readonly databases: readonly string[] | null;
}

/** Decides who comes in. The only maker of a `Permit`. */
export interface Access {
  challenge(claim: Claim, visitor: Visitor): Promise<Challenge>;
  /** Rejects with a `Refusal`. */
  admit(claim: Claim, proof: Proof, visitor: Visitor): Promise<Permit>;
}
