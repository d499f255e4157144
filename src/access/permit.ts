import type { Launch, Permit, Resource } from '../../protocols/engine.ts';

/**
 * Makes a permit. The type's brand cannot be satisfied elsewhere without a cast, and a test holds that no file outside
 * `src/access/` has one: whatever tells a client that it is in has been through here.
 */
export function makePermit(fields: {
  session: string;
  principal: string;
  resource: Resource;
  database: string | null;
  databases?: readonly string[] | null;
  readOnly: boolean;
  launch: Launch | null;
}): Permit {
  return Object.freeze({ ...fields, databases: fields.databases ?? null }) as unknown as Permit;
}
