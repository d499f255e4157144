import type { Command } from 'commander';
import { z } from 'zod';
import { session } from '../http/contract/api.ts';
import { type JournalEvent, joinStatement, type StatementStartedEvent } from '../recording/events.ts';
import { followJournal } from '../recording/follow.ts';
import { eventText, outcomeText, sessionHeading, statementText, table } from '../recording/present.ts';
import { dataDirectory } from './data-directory.ts';
import { gatewayClient } from './gateway-client.ts';
import { type ClientCommandOptions, clientFor, withGateway } from './options.ts';
import { type AccessOptions, openAccess, withAccess } from './recording-access.ts';
import { endWithReader } from './terminal-keys.ts';

/** `sallyport sessions …`: what goes on now. */
export function register(program: Command): void {
  endWithReader();
  const sessions = program
    .command('sessions')
    .summary('live sessions: list them, follow one, end one')
    .description('Sessions that are open now.');
  withAccess(sessions.command('list').description('live sessions, the latest first'))
    .option('--json', 'one JSON object a line')
    .option('--gateway [url]', 'ask the gateway that you are logged in to, instead of reading this machine')
    .action(list);
  withAccess(sessions.command('tail').description('follow a session, or all of them, as it happens'))
    .argument('[session]', "the session's id, or its beginning; default: all sessions")
    .option('--json', 'one JSON object an event')
    .option('--from-start', 'show first what the journal still has of it')
    .action(tail);
  withGateway(sessions.command('kill'))
    .argument('<session>', "the session's id")
    .description('end a session: its tool hears why, and what it runs on the server is cancelled')
    .option('--reason <text>', 'why, for the record and for the person')
    .action(kill);
}

/** What the gateway itself says: one's own sessions, or everybody's for reviewers. */
async function listRemote(options: AccessOptions & { gateway?: string | true }): Promise<void> {
  const url = typeof options.gateway === 'string' ? options.gateway : undefined;
  const open = await gatewayClient({ gateway: url }).get('/sessions', z.array(session));
  if (options.json === true) {
    for (const one of open) print(JSON.stringify(one));
    return;
  }
  if (open.length === 0) {
    print('no live sessions');
    return;
  }
  print(
    table(
      ['SESSION', 'STARTED', 'PERSON', 'RESOURCE', 'DATABASE', 'PROGRAM', 'CLIENT', 'STATE'],
      open.map((one) => [
        one.id,
        one.started_at.slice(0, 19).replace('T', ' '),
        one.principal,
        one.resource,
        one.database,
        one.client_program,
        one.client_address,
        one.busy ? 'busy' : one.transaction,
      ]),
    ),
  );
}

async function kill(session: string, options: ClientCommandOptions & { reason?: string }): Promise<void> {
  const isLocal = options.gateway === undefined;
  const client = isLocal
    ? await clientFor(options).catch(async () => gatewayClient({ dataDir: await dataDirectory(options) }))
    : await clientFor(options);
  const query = options.reason === undefined ? '' : `?reason=${encodeURIComponent(options.reason)}`;
  await client.delete(`/sessions/${encodeURIComponent(session)}${query}`);
  print(`${session} was ended.`);
}

async function list(options: AccessOptions & { gateway?: string | true }): Promise<void> {
  if (options.gateway !== undefined) {
    await listRemote(options);
    return;
  }
  const access = await openAccess(options);
  const index = await access.index();
  const rows = (await index?.sessions({ limit: 10_000, state: 'live' })) ?? [];
  await index?.close();
  if (options.json === true) {
    for (const row of rows)
      print(JSON.stringify({ ...row, started_at: new Date(row.started_at).toISOString() }));
    return;
  }
  if (rows.length === 0) {
    print('no live sessions');
    return;
  }
  print(
    table(
      ['SESSION', 'STARTED', 'PERSON', 'RESOURCE', 'DATABASE', 'PROGRAM', 'CLIENT', 'STATEMENTS'],
      rows.map((row) => [
        row.id,
        new Date(row.started_at).toISOString().slice(0, 19).replace('T', ' '),
        row.principal,
        row.resource,
        row.database,
        row.client_program,
        row.client_address,
        row.statements,
      ]),
    ),
  );
}

async function tail(
  session: string | undefined,
  options: AccessOptions & { fromStart?: boolean },
): Promise<void> {
  const access = await openAccess(options);
  if (access.dataDir === null)
    throw new Error('a live session is followed in the data directory of its gateway');
  const abort = new AbortController();
  process.once('SIGINT', () => abort.abort());
  const wanted = session?.toUpperCase();
  const began = Date.now();
  const teller = new Teller();
  for await (const { event, session: id } of followJournal(access.dataDir, access.identities, abort.signal)) {
    if (event.type === 'journal' || event.type === 'frame') continue;
    if (wanted !== undefined && !(id ?? '').startsWith(wanted)) continue;
    const old = options.fromStart !== true && Date.parse(event.at) < began - 1000;
    const text = teller.tell(event);
    if (old) continue;
    if (options.json === true) print(JSON.stringify(event));
    else if (text !== null) print(text);
    if (event.type === 'session_ended' && wanted !== undefined) return;
  }
}

/** Turns events into lines; remembers the statements that have begun. */
class Teller {
  readonly #started = new Map<string, StatementStartedEvent>();

  tell(event: JournalEvent): string | null {
    const label = 'session' in event ? event.session.slice(-6) : 'gateway';
    const lead = `${event.at.slice(11, 23)} ${label} `;
    const indent = (text: string): string => lead + text.replaceAll('\n', `\n${' '.repeat(lead.length)}`);
    switch (event.type) {
      case 'session_started':
        return indent(sessionHeading(event));
      case 'statement_started':
        this.#started.set(`${event.session}${event.seq}`, event);
        return indent(`#${event.seq} ${statementText(event)}`);
      case 'statement_ended': {
        const key = `${event.session}${event.seq}`;
        const start = this.#started.get(key);
        this.#started.delete(key);
        return start === undefined
          ? null
          : indent(`#${event.seq} → ${outcomeText(joinStatement(start, event))}`);
      }
      default: {
        const text = eventText(event);
        return text === null ? null : indent(text);
      }
    }
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
