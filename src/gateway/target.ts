import type {
  Credentials,
  Engine,
  ObserveOptions,
  Permit,
  Resource,
  Verdict,
} from '../../protocols/engine.ts';
import type { Statement } from '../../protocols/statement.ts';
import type { CertificateMapping, ClientAuth, OfferedResource } from '../access/access.ts';
import type { ListenAddress } from '../config/values.ts';
import type { ChannelTls } from './channel.ts';

/** A resource as the gateway serves it: made from the configuration by `app.ts`, replaced as a whole on reload. */
export interface Target extends OfferedResource {
  readonly resource: Resource;
  readonly engine: Engine;
  readonly tls: ChannelTls;
  readonly limits: SessionLimits;
  readonly observe: ObserveOptions;
  /**
   * Fetches the launch credentials of the session that `signal` ends with: what was leased for it is kept until then, so
   * that a cancel signs in as the same account, and given back. Rejects with a `SecretError`.
   */
  credentials(why: 'launch' | 'rejected', signal: AbortSignal): Promise<Credentials | null>;
  /** The statement policy for a session that runs as `account` on the server. */
  gate(account: string, permit: Permit): (statement: Statement) => Verdict;
}

/** Milliseconds; null for no limit. */
export interface SessionLimits {
  readonly idleTimeoutMs: number | null;
  readonly idleInTransactionTimeoutMs: number | null;
  readonly maxDurationMs: number | null;
  readonly maxConnections: number;
  readonly connectTimeoutMs: number;
  readonly handshakeTimeoutMs: number;
}

/** One way in, and what stands behind it: a listening address, or a tunnel's end. */
export interface Door {
  /** Null for a tunnel, whose connections are handed in. */
  readonly listen: ListenAddress | null;
  /** The protocol that is spoken here; all targets are of it. */
  readonly engine: Engine;
  /** What can be reached. Where there are several, the client's launch chooses. */
  readonly targets: readonly Target[];
  readonly clientAuth: ClientAuth;
  /** Who trusted connections are recorded as. */
  readonly principal: string;
  /** For `mtls`: how a certificate names its principal. */
  readonly certificate?: CertificateMapping;
  /** The launch of a tunnel; null for listeners. */
  readonly launch: string | null;
  readonly tls: ChannelTls;
  readonly cancelSource: 'same-ip' | 'any';
}

/** The one target of a door that has just one; else null. */
export function onlyTarget(door: Door): Target | null {
  return door.targets.length === 1 ? door.targets[0]! : null;
}

/** Text of a listening address, as in the configuration: the key by which a reload tells old from new. */
export function listenKey(listen: ListenAddress): string {
  if (listen.kind === 'unix') return `unix:${listen.path}`;
  return listen.host.includes(':') ? `[${listen.host}]:${listen.port}` : `${listen.host}:${listen.port}`;
}
