import type { Address, TlsState } from '../../protocols/channel.ts';
import type { Challenge, Claim, Permit, Proof, Resource } from '../../protocols/engine.ts';

/** Who stands at the door, as far as the transport tells. */
export interface Visitor {
  /** The id that the session will have, if it becomes one. */
  readonly session: string;
  readonly address: Address;
  /** Null in the clear, and before a client has started TLS. */
  readonly tls: TlsState | null;
  readonly clientAuth: ClientAuth;
  /** Who trusted connections are recorded as; for tunnels, who opened it. */
  readonly principal: string;
  /** The launch of the tunnel that carries this connection; null elsewhere. */
  readonly launch: string | null;
  /** How a client certificate names its principal, and the roles it brings; null where none is asked for. */
  readonly certificate: CertificateMapping | null;
  /** What can be reached here. Where there are several, the claim's launch chooses. */
  readonly resources: readonly OfferedResource[];
}

/** What of a certificate names its principal. */
export interface CertificateMapping {
  readonly principal: 'common_name' | 'email' | 'dns' | 'uri';
  readonly roles: readonly string[];
}

/**
 * How clients prove who they are: not at all (`trust`: loopback and Unix sockets only), by a launch token, by a client
 * certificate, or by the login of the tunnel that carries them.
 */
export type ClientAuth = 'trust' | 'token' | 'mtls' | 'tunnel';

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
  /** A connection that was admitted is over: called once for every permit. */
  closed(permit: Permit): void;
}
