import type { Resource } from '../engine.ts';
import { CACHING_SHA2 } from './auth/sha2.ts';
import {
  bits,
  CAN_HANDLE_EXPIRED_PASSWORDS,
  CONNECT_WITH_DB,
  DEPRECATE_EOF,
  FOUND_ROWS,
  IGNORE_SPACE,
  INTERACTIVE,
  LOCAL_FILES,
  LONG_FLAG,
  LONG_PASSWORD,
  MULTI_RESULTS,
  MULTI_STATEMENTS,
  NO_SCHEMA,
  ODBC,
  PS_MULTI_RESULTS,
  RESERVED,
  SESSION_TRACK,
  STATUS_AUTOCOMMIT,
  TRANSACTIONS,
} from './capabilities.ts';
import type { Greeting } from './greeting.ts';

/** What every MySQL since 5.7 and every MariaDB since 10.2 can do: what is promised where the server is not known yet. */
const CAPABILITIES = bits(
  LONG_PASSWORD,
  FOUND_ROWS,
  LONG_FLAG,
  CONNECT_WITH_DB,
  NO_SCHEMA,
  ODBC,
  LOCAL_FILES,
  IGNORE_SPACE,
  INTERACTIVE,
  TRANSACTIONS,
  RESERVED,
  MULTI_STATEMENTS,
  MULTI_RESULTS,
  PS_MULTI_RESULTS,
  CAN_HANDLE_EXPIRED_PASSWORDS,
  SESSION_TRACK,
  DEPRECATE_EOF,
);

const VERSIONS = { mysql: '8.0.36', mariadb: '5.5.5-10.11.6-MariaDB' } as const;

/** utf8mb4, the low byte of utf8mb4_0900_ai_ci and the whole of utf8mb4_general_ci. */
const COLLATIONS = { mysql: 255, mariadb: 45 } as const;

/**
 * The greeting where there is no server to take it from: the client's own answer chooses the resource, or the server
 * cannot be reached and the client is to hear so in a way that its tool shows well.
 */
export function genericGreeting(resource: Resource | null, connectionId: number): Greeting {
  const settings = resource?.settings;
  const flavor = settings?.engine === 'mysql' ? settings.flavor : 'mysql';
  return {
    serverVersion: VERSIONS[flavor],
    connectionId,
    scramble: Buffer.alloc(0),
    capabilities: CAPABILITIES,
    extended: 0,
    collation: COLLATIONS[flavor],
    status: STATUS_AUTOCOMMIT,
    plugin: CACHING_SHA2,
  };
}
