import type { Credentials, Engine, ObserveOptions, Resource, Verdict } from '../../protocols/engine.ts';
import type { Statement } from '../../protocols/statement.ts';
import type { OfferedResource } from '../access/access.ts';
import type { ListenAddress } from '../config/values.ts';
import type { ChannelTls } from './channel.ts';

/** A resource as the gateway serves it: made from the configuration by `app.ts`, replaced as a whole on reload. */
export interface Target extends OfferedResource {
  readonly resource: Resource;
  readonly engine: Engine;
  readonly tls: ChannelTls;
  readonly limits: SessionLimits;
  readonly observe: ObserveOptions;
  /** Fetches the launch credentials. Rejects with a `SecretError`. */
  credentials(why: 'launch' | 'rejected', signal: AbortSignal): Promise<Credentials | null>;
  /** The statement policy for a session that runs as `account` on the server. */
  gate(account: string): (statement: Statement) => Verdict;
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

/** One listening address and what stands behind it. */
export interface Door {
  readonly listen: ListenAddress;
  readonly target: Target;
  readonly clientAuth: 'trust' | 'token' | 'mtls';
  readonly principal: string;
  readonly tls: ChannelTls;
  readonly cancelSource: 'same-ip' | 'any';
}

/** Text of a listening address, as in the configuration: the key by which a reload tells old from new. */
export function listenKey(listen: ListenAddress): string {
  if (listen.kind === 'unix') return `unix:${listen.path}`;
  return listen.host.includes(':') ? `[${listen.host}]:${listen.port}` : `${listen.host}:${listen.port}`;
}
