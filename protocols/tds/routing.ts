import type { Address, Channel } from '../channel.ts';
import type { Resource } from '../engine.ts';
import { ProtocolError } from '../error.ts';
import { ROUTING_HOPS_MAX } from './limits.ts';
import { hostOf, type LoginResult, type Server } from './login.ts';
import type { Routing } from './login-response.ts';

/**
 * Routing (ENVCHANGE 20 and 21): a server takes the sign-in and says that the session is to be had elsewhere, as Azure
 * SQL and availability groups do. We go there; the client never hears of it, or it would go past us.
 */

export interface RoutingMeans {
  dial(address: Address): Promise<Channel>;
  greet(channel: Channel, name: string, certificateName: string | null): Promise<Server>;
  /** `database` is what a routing answer named; null for the one that was asked for. */
  signIn(server: Server, database: string | null): Promise<LoginResult>;
  log(message: string, fields: Readonly<Record<string, string | number>>): void;
}

/** Signs in and goes where it is sent. Throws `server_untrusted` when it may not go there or is sent too often. */
export async function follow(
  first: Server,
  resource: Resource,
  means: RoutingMeans,
): Promise<{ server: Server; result: LoginResult }> {
  let server = first;
  let database: string | null = null;
  for (let hop = 0; ; hop += 1) {
    const result = await means.signIn(server, database);
    const { routing } = result.response;
    if (routing === null) return { server, result };
    if (hop >= ROUTING_HOPS_MAX) {
      throw new ProtocolError(
        'server_untrusted',
        'server',
        `the server was routed more than ${ROUTING_HOPS_MAX} times`,
      );
    }
    const host = hostOf(routing.host);
    means.log('the server routes the session elsewhere', { host, port: routing.port });
    if (!mayFollow(server, routing, resource)) {
      throw new ProtocolError(
        'server_untrusted',
        'server',
        `the server routes to ${host}:${routing.port}, and its own identity was not verified`,
      );
    }
    server.channel.destroy();
    const channel = await means.dial({ host, port: routing.port });
    // The certificate is checked against where we were sent, as that is whom we mean to reach now.
    server = await means.greet(channel, routing.host, host);
    database = routing.database ?? database;
  }
}

/**
 * A server that proved its identity may send us anywhere. One that did not could be anyone and make the gateway knock
 * at doors inside its network, so it may only name hosts that belong to the resource: its addresses, and hosts of the
 * same domain.
 */
function mayFollow(server: Server, routing: Routing, resource: Resource): boolean {
  if (routing.port === 0 || routing.host === '') return false;
  if (server.channel.tls?.verified === true) return true;
  const host = hostOf(routing.host).toLowerCase();
  const domain = domainOf(host);
  return resource.addresses.some((address) => {
    const known = address.host.toLowerCase();
    return known === host || (domain !== null && domain === domainOf(known));
  });
}

/** What follows the first dot of a name; null for an address, a name without a domain, and a public suffix of one label. */
function domainOf(host: string): string | null {
  const dot = host.indexOf('.');
  if (dot < 0 || /^[\d.]+$/.test(host) || host.includes(':')) return null;
  const domain = host.slice(dot + 1);
  return domain.includes('.') ? domain : null;
}
