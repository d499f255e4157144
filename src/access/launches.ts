import type { TokenVerifier } from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import type { AuditEvent } from '../recording/recorder.ts';
import type { State, StoredLaunch } from '../store/state.ts';
import type { Principal } from './principal.ts';
import { decide, type Rule } from './rules.ts';
import { newLaunchId, newToken, type StoredVerifier, tokenVerifier, verifierOf } from './tokens.ts';

/** How long a launch lasts where neither its maker nor its rule says. Ours. */
export const LAUNCH_MS_DEFAULT = 8 * 3_600_000;
/** The longest that any launch may last. Ours. */
export const LAUNCH_MS_MAX = 30 * 24 * 3_600_000;
/** A launch of less is a slip of the pen. Ours. */
export const LAUNCH_MS_MIN = 10_000;
/** Launches of one principal that last at once. Ours. */
const RUNNING_MAX = 1_000;
/** How long ended launches are remembered. Ours. */
const REMEMBERED_MS = 90 * 24 * 3_600_000;

export interface LaunchRequest {
  readonly principal: Principal;
  readonly resource: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  /** Where the request comes from; null for a local one. */
  readonly address: string | null;
  /** Null: as long as the rule allows, at most `LAUNCH_MS_DEFAULT`. */
  readonly durationMs: number | null;
  /** Make a token to type as password. */
  readonly token: boolean;
  readonly reason: string | null;
}

export interface LaunchPorts {
  readonly state: State;
  readonly rules: () => readonly Rule[];
  readonly audit: (event: AuditEvent) => void;
  /** Ends the running connections of a launch; says how many there were. */
  readonly endConnections: (launch: string, refusal: Refusal) => number;
  readonly now: () => number;
}

/** Makes launches, ends them, and knows how many connections each has. */
export class Launches {
  readonly #ports: LaunchPorts;
  readonly #connections = new Map<string, number>();

  constructor(ports: LaunchPorts) {
    this.#ports = ports;
  }

  /**
   * Makes a launch, if a rule lets the principal. The token is returned this once and kept nowhere.
   *
   * Throws a `Refusal` `not_allowed`.
   */
  issue(request: LaunchRequest): { launch: StoredLaunch; token: string | null } {
    const { principal, resource, address } = request;
    const { state, audit, now } = this.#ports;
    const at = now();
    const decision = decide(this.#ports.rules(), { principal, resource, database: null, address, at });
    if (!decision.allowed) {
      this.#audit('launch_refused', principal.name, resource.name, address, 'no rule allows it', {});
      throw new Refusal('not_allowed', `no rule lets ${principal.name} use ${resource.name}`, {
        hint: `sallyport access explain ${principal.name} ${resource.name} says why.`,
      });
    }
    const { terms } = decision;
    const longest = Math.min(terms.maxLaunchMs ?? LAUNCH_MS_MAX, LAUNCH_MS_MAX);
    const wanted = request.durationMs ?? Math.min(LAUNCH_MS_DEFAULT, longest);
    if (wanted < LAUNCH_MS_MIN || wanted > longest) {
      throw new Refusal('not_allowed', `a launch here may last from 10s to ${hours(longest)}`, {
        hint: 'Ask for a time within that.',
      });
    }
    if (
      state.launches({ principal: principal.name, running: true, limit: RUNNING_MAX }).length >= RUNNING_MAX
    ) {
      throw new Refusal('rate_limited', `${principal.name} has ${RUNNING_MAX} launches already`, {
        hint: 'End some: sallyport tokens list, sallyport tokens revoke LAUNCH',
      });
    }
    const token = request.token ? newToken() : null;
    const launch: StoredLaunch = {
      id: newLaunchId(),
      principal: principal.name,
      roles: principal.roles,
      source: principal.source,
      resource: resource.name,
      rule: terms.rule,
      createdAt: at,
      expiresAt: at + wanted,
      endedAt: null,
      endReason: null,
      databases: terms.databases,
      maxConnections: terms.maxConnections,
      readOnly: terms.readOnly,
      reason: request.reason,
      verifier: token === null ? null : encodeVerifier(verifierOf(token)),
    };
    state.addLaunch(launch);
    audit({
      action: 'launch_started',
      principal: principal.name,
      resource: resource.name,
      clientAddress: address,
      reason: request.reason,
      detail: {
        launch: launch.id,
        rule: terms.rule,
        expiresAt: new Date(launch.expiresAt).toISOString(),
        token: token !== null,
      },
    });
    return { launch, token };
  }

  /** A launch that lasts, or null. */
  running(id: string): StoredLaunch | null {
    const launch = this.#ports.state.launch(id);
    if (launch === null || launch.endedAt !== null || launch.expiresAt <= this.#ports.now()) return null;
    return launch;
  }

  /** The running launch without token that a principal got for a resource by the same kind of proof, or null. */
  runningOf(principal: Principal, resource: string): StoredLaunch | null {
    const { state, now } = this.#ports;
    const found = state
      .launches({ principal: principal.name, running: true, limit: RUNNING_MAX })
      .find(
        (launch) =>
          launch.resource === resource &&
          launch.source === principal.source &&
          launch.verifier === null &&
          launch.expiresAt > now(),
      );
    return found ?? null;
  }

  verifier(launch: StoredLaunch): TokenVerifier | null {
    return launch.verifier === null ? null : tokenVerifier(decodeVerifier(launch.verifier));
  }

  /** Ends a launch at once, and with it its connections. False when it does not last any more. */
  end(id: string, by: string, reason: 'revoked' | 'expired' | 'checked_in' | 'tunnel_closed'): boolean {
    const { state, now } = this.#ports;
    const launch = state.launch(id);
    if (launch === null || !state.endLaunch(id, now(), reason)) return false;
    const connections = this.#ports.endConnections(id, farewellOf(reason));
    this.#audit('launch_ended', by, launch.resource, null, reason, {
      launch: id,
      of: launch.principal,
      connections,
    });
    return true;
  }

  /** Marks launches that have run out. Called from a timer. */
  tick(): void {
    const { state, now } = this.#ports;
    for (const id of state.expiredLaunches(now())) this.end(id, 'gateway', 'expired');
    state.purge(now(), now() - REMEMBERED_MS);
  }

  /** Takes a place for a connection; false when there are `connectionsMax` already. */
  connect(id: string, connectionsMax: number | null): boolean {
    const count = this.#connections.get(id) ?? 0;
    if (connectionsMax !== null && count >= connectionsMax) return false;
    this.#connections.set(id, count + 1);
    return true;
  }

  disconnect(id: string): void {
    const count = (this.#connections.get(id) ?? 0) - 1;
    if (count <= 0) this.#connections.delete(id);
    else this.#connections.set(id, count);
  }

  connections(id: string): number {
    return this.#connections.get(id) ?? 0;
  }

  #audit(
    action: string,
    principal: string,
    resource: string,
    clientAddress: string | null,
    reason: string | null,
    detail: NonNullable<AuditEvent['detail']>,
  ): void {
    this.#ports.audit({ action, principal, resource, clientAddress, reason, detail });
  }
}

function farewellOf(reason: 'revoked' | 'expired' | 'checked_in' | 'tunnel_closed'): Refusal {
  switch (reason) {
    case 'revoked':
      return new Refusal('launch_expired', 'your launch was revoked');
    case 'expired':
      return new Refusal('launch_expired', 'your launch has ended: its time is up');
    case 'checked_in':
      return new Refusal('launch_expired', 'your launch has ended: it was checked in');
    case 'tunnel_closed':
      return new Refusal('launch_expired', 'your launch has ended: its tunnel was closed');
  }
}

function encodeVerifier(verifier: StoredVerifier): Record<string, string | number> {
  const { iterations, ...hashes } = verifier;
  const encoded: Record<string, string | number> = { iterations };
  for (const [name, value] of Object.entries(hashes)) encoded[name] = value.toString('base64');
  return encoded;
}

function decodeVerifier(stored: Readonly<Record<string, string | number>>): StoredVerifier {
  const bytes = (name: string): Buffer => Buffer.from(String(stored[name]), 'base64');
  return {
    iterations: Number(stored['iterations']),
    salt: bytes('salt'),
    storedKey: bytes('storedKey'),
    serverKey: bytes('serverKey'),
    nativeHash: bytes('nativeHash'),
    sha2Hash: bytes('sha2Hash'),
  };
}

function hours(milliseconds: number): string {
  return milliseconds % 3_600_000 === 0
    ? `${milliseconds / 3_600_000}h`
    : `${Math.round(milliseconds / 60_000)}m`;
}
