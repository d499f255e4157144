import type { Challenge, Claim, Permit, Proof } from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import type { Access, OfferedResource, Visitor } from './access.ts';
import { makePermit } from './permit.ts';

/**
 * Access by the listener alone: whoever can reach a trusted address is its principal. The configuration allows `trust`
 * only on loopback addresses and Unix sockets.
 */
export class ListenerAccess implements Access {
  async challenge(_claim: Claim, visitor: Visitor): Promise<Challenge> {
    if (visitor.clientAuth !== 'trust') throw notAllowed();
    return { method: 'trust' };
  }

  async admit(claim: Claim, proof: Proof, visitor: Visitor): Promise<Permit> {
    const offered = visitor.resources.length === 1 ? visitor.resources[0]! : null;
    if (visitor.clientAuth !== 'trust' || proof.method !== 'trust' || offered === null) throw notAllowed();
    return makePermit({
      session: visitor.session,
      principal: visitor.principal,
      resource: offered.resource,
      database: databaseFor(claim.database, offered),
      databases: offered.databases,
      readOnly: false,
      launch: null,
    });
  }

  closed(): void {}
}

/** The database to open: the one asked for, else the resource's default; checked against the list where there is one. */
export function databaseFor(asked: string | null, offered: OfferedResource): string | null {
  const database = asked || offered.database;
  if (offered.databases === null) return database;
  if (database !== null && offered.databases.includes(database)) return database;
  throw new Refusal('database_not_allowed', `database "${database ?? ''}" may not be opened here`, {
    hint: `Connect to one of: ${offered.databases.join(', ')}.`,
  });
}

function notAllowed(): Refusal {
  return new Refusal('not_allowed', 'this listener does not let you in');
}
