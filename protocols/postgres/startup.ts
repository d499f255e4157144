import { ProtocolError, Refusal } from '../error.ts';
import { NAME_BYTES_MAX } from './limits.ts';
import { foldName, formatOptions, parseOptions, type Setting } from './options.ts';

/** What a client asks for in its StartupMessage. Values are bytes: no encoding has been agreed on yet. */
export interface Startup {
  readonly user: string;
  /** As sent; null where it is missing or empty. */
  readonly database: Buffer | null;
  readonly replication: Replication;
  /** Everything else that goes to the server, in the client's order; `options` is among it. */
  readonly parameters: readonly StartupParameter[];
  /** Names of protocol options (`_pq_.…`), none of which we know. */
  readonly protocolOptions: readonly Buffer[];
}

export type Replication = 'none' | 'physical' | 'database';

export interface StartupParameter {
  readonly name: string;
  readonly value: Buffer;
}

/** Parameters that have a meaning of their own to the server; a second one could hide the first from a rule. */
const ONCE = new Set(['user', 'database', 'options', 'replication']);

/**
 * Reads the body of a StartupMessage behind its version. Throws `malformed` (the client's fault) where its layout is
 * wrong, and a `Refusal` for names that are missing or too long.
 */
export function parseStartup(body: Buffer): Startup {
  const pairs = parsePairs(body);
  let user = '';
  let database: Buffer | null = null;
  let replication: Replication = 'none';
  const parameters: StartupParameter[] = [];
  const protocolOptions: Buffer[] = [];
  const seen = new Set<string>();
  for (const { name, value } of pairs) {
    if (ONCE.has(name) && seen.has(name)) throw malformed(`startup parameter "${name}" was sent twice`);
    seen.add(name);
    if (name === 'user') user = checkedName(value, 'user').toString('utf8');
    else if (name === 'database') database = value.length > 0 ? checkedName(value, 'database') : null;
    else if (name === 'replication') replication = parseReplication(value);
    else if (name.startsWith('_pq_.')) protocolOptions.push(Buffer.from(name, 'latin1'));
    else parameters.push({ name, value });
  }
  if (user === '') throw new MissingUser();
  return { user, database, replication, parameters, protocolOptions };
}

/** The startup packet names no user. PostgreSQL has a code of its own for it, 28000. */
export class MissingUser extends ProtocolError {
  constructor() {
    super('malformed', 'client', 'no PostgreSQL user name specified in startup packet');
  }
}

function parsePairs(body: Buffer): StartupParameter[] {
  const pairs: StartupParameter[] = [];
  let position = 0;
  while (position < body.length && body[position] !== 0) {
    const nameEnd = body.indexOf(0, position);
    const valueEnd = nameEnd < 0 ? -1 : body.indexOf(0, nameEnd + 1);
    if (valueEnd < 0) break;
    pairs.push({
      name: body.toString('latin1', position, nameEnd),
      value: body.subarray(nameEnd + 1, valueEnd),
    });
    position = valueEnd + 1;
  }
  if (position !== body.length - 1 || body[position] !== 0) {
    throw malformed('invalid startup packet layout: expected terminator as last byte');
  }
  return pairs;
}

/** The server cuts names at 63 bytes without a word, so a longer one could pass a rule and mean another name. */
function checkedName(value: Buffer, what: 'user' | 'database'): Buffer {
  if (value.length <= NAME_BYTES_MAX) return value;
  throw new Refusal(
    what === 'user' ? 'not_allowed' : 'database_not_allowed',
    `the ${what} name is ${value.length} bytes long; ${NAME_BYTES_MAX} is the most`,
  );
}

const TRUE_WORDS = ['true', 'yes', 'on', '1'];
const FALSE_WORDS = ['false', 'no', 'off', '0'];

/** As the server's `parse_bool`: unambiguous beginnings of the words count, in any case. */
function parseReplication(value: Buffer): Replication {
  const word = value.toString('latin1');
  if (word === 'database') return 'database';
  const folded = word.toLowerCase();
  // A lone `o` could be either.
  if (folded !== '' && folded !== 'o') {
    if (TRUE_WORDS.some((one) => one.startsWith(folded))) return 'physical';
    if (FALSE_WORDS.some((one) => one.startsWith(folded))) return 'none';
  }
  throw malformed('invalid value for startup parameter "replication"');
}

/** Settings that would load code, switch triggers off, or blind the server's own log. */
const DENIED = new Set([
  'session_preload_libraries',
  'local_preload_libraries',
  'session_replication_role',
  'session_authorization',
  'jit_provider',
  'dynamic_library_path',
]);

/** What a startup packet's settings come to. */
export interface SettingsAsked {
  /** The role that the session will switch to, as SET ROLE would: the last one named, null for none. */
  readonly role: string | null;
  /** Why the client may not come in with them; null where it may. */
  readonly refusal: Refusal | null;
}

/** Looks through the settings of a startup packet, in `options` and beside it. */
export function inspectSettings(startup: Startup): SettingsAsked {
  let role: string | null = null;
  try {
    // The server applies `options` first, then the parameters in their order.
    for (const { name, value } of [...optionSettings(startup), ...namedSettings(startup)]) {
      const folded = foldName(name);
      if (folded.startsWith('log_') || DENIED.has(folded)) {
        throw new Refusal('option_not_allowed', `the setting "${folded}" may not be made at sign-in`, {
          hint: "Leave it out of the connection's options.",
        });
      }
      if (folded === 'role') role = value;
    }
  } catch (error) {
    if (error instanceof Refusal) return { role, refusal: error };
    throw error;
  }
  return { role: role?.toLowerCase() === 'none' ? null : role, refusal: null };
}

/**
 * The parameters to send to the server: the client's, without those of the same name as one of `enforced`, and then the
 * enforced ones. Later ones win on the server.
 */
export function parametersWith(startup: Startup, enforced: readonly Setting[]): [string, Buffer][] {
  const names = new Set(enforced.map(({ name }) => name));
  const kept: [string, Buffer][] = [];
  for (const { name, value } of startup.parameters) {
    if (names.has(foldName(name))) continue;
    if (name === 'options' && names.size > 0) {
      const settings = parseOptions(value).filter((setting) => !names.has(foldName(setting.name)));
      if (settings.length > 0) kept.push([name, formatOptions(settings)]);
    } else kept.push([name, value]);
  }
  for (const { name, value } of enforced) kept.push([name, Buffer.from(value)]);
  return kept;
}

function optionSettings(startup: Startup): Setting[] {
  const options = startup.parameters.find(({ name }) => name === 'options');
  return options === undefined ? [] : parseOptions(options.value);
}

function namedSettings(startup: Startup): Setting[] {
  return startup.parameters
    .filter(({ name }) => name !== 'options')
    .map(({ name, value }) => ({ name, value: value.toString('latin1') }));
}

function malformed(message: string): ProtocolError {
  return new ProtocolError('malformed', 'client', message);
}
