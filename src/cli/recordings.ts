import { createPublicKey, type KeyObject } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream, readFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { pipeline } from 'node:stream/promises';
import type { Command } from 'commander';
import type { JournalEvent } from '../recording/events.ts';
import { EXPORT_FORMATS, exportSession } from '../recording/export.ts';
import { BehindSessions } from '../recording/index-behind.ts';
import { reindex } from '../recording/index-keeper.ts';
import { storedIndex } from '../recording/index-store.ts';
import { Indexer } from '../recording/indexer.ts';
import { type Events, joined } from '../recording/join.ts';
import { knownSigningKeys, publicKeyId, rotateSigningKey } from '../recording/keys.ts';
import { emptyReport, type PartFile, type ReadReport } from '../recording/library.ts';
import { INDEX_BATCH_ROWS } from '../recording/limits.ts';
import {
  bytesText,
  durationText,
  eventText,
  outcomeText,
  sessionHeading,
  statementText,
  table,
} from '../recording/present.ts';
import { bundlesIn } from '../recording/recovery.ts';
import { loadPostgresParser } from '../recording/relations.ts';
import { framesOf, Player } from '../recording/replay.ts';
import { type Judgement, RISKS, type Risk, RiskJudge } from '../recording/risk.ts';
import { type Verification, verifyEntries, verifySession } from '../recording/verify.ts';
import type {
  RecordingIndex,
  SessionFilter,
  SessionRow,
  StatementFilter,
  StatementRow,
} from '../store/recording-index.ts';
import { SqliteRecordingIndex } from '../store/recording-index-sqlite.ts';
import { ExitCode } from './exit-codes.ts';
import { type Access, type AccessOptions, openAccess, withAccess } from './recording-access.ts';
import { endWithReader, KeyReader } from './terminal-keys.ts';
import { parseTime } from './time.ts';

interface FilterOptions extends AccessOptions {
  readonly person?: string;
  readonly resource?: string;
  readonly since?: string;
  readonly until?: string;
  readonly state?: SessionFilter['state'];
  readonly reason?: string;
  readonly risk?: string;
  readonly limit: string;
  readonly table?: string;
  readonly status?: string;
  readonly effect?: string;
  readonly rows?: string;
  readonly duration?: string;
  readonly session?: string;
}

/** `sallyport recordings …`: what a reviewer does with recordings. */
export function register(program: Command): void {
  endWithReader();
  const recordings = program
    .command('recordings')
    .summary('list, read, replay, search, prove and export recordings')
    .description('Recordings of sessions, sealed or still in the journal.');
  const add = (name: string, description: string): Command =>
    withAccess(recordings.command(name).description(description));

  filters(add('list', 'sessions, the latest first'))
    .option('--state <state>', 'live, ended or interrupted')
    .option('--reason <reason>', 'why they were closed')
    .option('--json', 'one JSON object a line')
    .action(list);
  filters(add('search', 'statements of all sessions, by words of their text and what they touched'))
    .argument('[words...]', 'words that the text holds, all of them; an ending may be left out')
    .option('--table <name>', 'a table that it touches, with or without its schema')
    .option('--status <status>', 'ok, error, cancelled, denied or unknown')
    .option('--effect <effect>', 'read, write, definition, account, transfer, administration, unknown …')
    .option('--rows <number>', 'at least so many rows returned or affected')
    .option('--duration <ms>', 'at least so many milliseconds')
    .option('--session <id>', 'of this session alone')
    .option('--json', 'one JSON object a line')
    .action(search);
  withSession(add('show', 'a session and its statements, with their outcomes'))
    .option('--json', 'one JSON object a line: the events, statements in one piece')
    .action(show);
  withSession(add('replay', 'play a session in the terminal'))
    .option('--speed <number>', 'times real time: 1 is real time, 10 ten times as fast. Default: all at once')
    .option('--max-pause <seconds>', 'longer pauses are cut to this', '3')
    .option('--from <number>', 'begin with this statement', '1')
    .action(replay);
  withSession(add('export', 'write a session for other programs'))
    .option('--format <format>', EXPORT_FORMATS.join(', '), 'jsonl')
    .option('-o, --output <file>', 'where to; default: standard output')
    .action(exportTo);
  withSession(add('verify', 'prove that nothing of a recording was altered, cut or left out'))
    .option('--all', 'every recording in the store')
    .option(
      '--signing-key <file>',
      'a public key (PEM) that recordings may be signed with; may be given several times',
      (file: string, before: string[] | undefined) => [...(before ?? []), file],
    )
    .option('--json', 'one JSON object a session')
    .action(verify);
  withSession(add('hold', 'keep a recording whatever its retention says: legal hold'))
    .option('--release', 'lift the hold')
    .action(hold);
  add('sizes', 'recordings and bytes by resource')
    .option('--json', 'one JSON object a resource')
    .action(sizes);
  add('reindex', 'index sessions again from their recordings, those that the index does not know whole')
    .argument('[session]', "the session's id, or its beginning")
    .option('--all', 'every recording in the store')
    .action(reindexSessions);
  add('rotate-key', 'make a new signing key, which the gateway uses from its next start').action(rotateKey);
}

function filters(command: Command): Command {
  return command
    .option('--person <name>', 'the principal')
    .option('--resource <name>', 'the resource')
    .option('--risk <level>', `at least so risky: ${RISKS.join(', ')}`)
    .option('--since <time>', 'from this time on: 2026-11-24, 2026-11-24T10:00, 2h, 7d')
    .option('--until <time>', 'up to this time')
    .option('--limit <number>', 'at most so many', '50');
}

function withSession(command: Command): Command {
  return command
    .argument('[session]', "the session's id, or its beginning")
    .option('--last', 'the latest session');
}

interface SessionOptions extends AccessOptions {
  readonly last?: boolean;
}

async function list(options: FilterOptions): Promise<void> {
  const access = await openAccess(options);
  const index = await indexOf(access);
  const rows = await index.sessions(filterOf(options));
  await index.close();
  if (options.json === true) {
    for (const row of rows) print(JSON.stringify(sessionJson(row)));
    return;
  }
  if (rows.length === 0) {
    print('no recordings');
    return;
  }
  const headings = [
    'SESSION',
    'STARTED',
    'PERSON',
    'RESOURCE',
    'PROGRAM',
    'LENGTH',
    'STATEMENTS',
    'ERRORS',
    'RISK',
    'ROWS',
    'SIZE',
    'CLOSED',
  ];
  print(table(headings, rows.map(sessionCells)));
}

function sessionCells(row: SessionRow): (string | number | null)[] {
  const length =
    row.ended_at === null ? '' : durationText(Math.round((row.ended_at - row.started_at) * 1000));
  return [
    row.id,
    timeOf(row.started_at),
    row.principal,
    row.resource,
    row.client_program,
    length,
    row.statements,
    row.errors,
    riskName(row.risk),
    row.rows_returned,
    row.bytes === 0 ? '' : bytesText(row.bytes),
    row.state === 'live' ? 'live' : row.reason,
  ];
}

function sessionJson(row: SessionRow): object {
  const { held, started_at, ended_at, ...rest } = row;
  return {
    ...rest,
    risk: riskName(row.risk),
    started_at: new Date(started_at).toISOString(),
    ended_at: ended_at === null ? null : new Date(ended_at).toISOString(),
    legal_hold: held === 1,
  };
}

async function search(words: string[], options: FilterOptions): Promise<void> {
  const access = await openAccess(options);
  const index = await indexOf(access, { statements: true });
  const filter: StatementFilter = {
    ...filterOf(options),
    ...(words.length === 0 ? {} : { text: words.join(' ') }),
    ...(options.table === undefined ? {} : { table: options.table }),
    ...(options.status === undefined ? {} : { status: options.status }),
    ...(options.effect === undefined ? {} : { effect: options.effect }),
    ...(options.session === undefined ? {} : { session: options.session }),
    ...(options.rows === undefined ? {} : { rowsMin: numberOf(options.rows, '--rows') }),
    ...(options.duration === undefined ? {} : { durationMsMin: numberOf(options.duration, '--duration') }),
  };
  const rows = await index.search(filter);
  const sessions = new Map<string, SessionRow | null>();
  for (const { session } of rows)
    if (!sessions.has(session)) sessions.set(session, await index.session(session));
  await index.close();
  if (options.json === true) {
    for (const row of rows) print(JSON.stringify(statementJson(row, sessions.get(row.session) ?? null)));
    return;
  }
  if (rows.length === 0) {
    print('nothing found');
    return;
  }
  const headings = ['SESSION', 'SEQ', 'AT', 'PERSON', 'RESOURCE', 'STATUS', 'RISK', 'ROWS', 'TIME', 'TEXT'];
  print(
    table(
      headings,
      rows.map((row) => [
        row.session,
        row.seq,
        timeOf(row.at),
        sessions.get(row.session)?.principal ?? '',
        sessions.get(row.session)?.resource ?? '',
        row.error_code === null ? row.status : `${row.status} ${row.error_code}`,
        riskName(row.risk),
        row.rows_returned ?? row.rows_affected,
        row.duration_us === null ? '' : durationText(row.duration_us),
        (row.text ?? row.kind).replace(/\s+/g, ' ').slice(0, 80),
      ]),
    ),
  );
}

function statementJson(row: StatementRow, session: SessionRow | null): object {
  return {
    ...row,
    risk: riskName(row.risk),
    at: new Date(row.at).toISOString(),
    principal: session?.principal ?? null,
    resource: session?.resource ?? null,
  };
}

async function show(session: string | undefined, options: SessionOptions): Promise<void> {
  const { events, again, report } = await readSession(session, options);
  if (options.json === true) {
    const judge = new RiskJudge();
    for await (const event of joined(events, again)) {
      const judgement = judge.take(event);
      const risk = judgement === null ? {} : { risk: judgement.level, risk_reason: judgement.reason };
      await write(`${JSON.stringify({ ...event, ...risk })}\n`);
    }
    tellFaults(report);
    return;
  }
  const judge = new RiskJudge();
  for await (const event of joined(events, again)) {
    if (event.type === 'session_started') {
      judge.take(event);
      await write(`${sessionHeading(event)}\n\n`);
    } else if (event.type === 'statement') {
      const risk = riskText(judge.take(event));
      await write(`#${event.seq}  ${event.at}  ${outcomeText(event)}${risk === '' ? '' : `, ${risk}`}\n`);
      await write(`    ${statementText(event).replaceAll('\n', '\n    ')}\n`);
    } else {
      const text = eventText(event);
      if (text !== null) await write(`${event.at}  ${text}\n`);
    }
  }
  if (judge.worst.level !== 'none') await write(`\nthe session's ${riskText(judge.worst)}\n`);
  tellFaults(report);
}

/** What a statement could do, where it could do harm. */
function riskText(judgement: Judgement | null): string {
  if (judgement === null || judgement.level === 'none') return '';
  return `risk ${judgement.level}: ${judgement.reason}`;
}

async function replay(
  session: string | undefined,
  options: SessionOptions & { speed?: string; maxPause: string; from: string },
): Promise<void> {
  const { events, again, report } = await readSession(session, options);
  const speed = options.speed === undefined ? null : numberOf(options.speed, '--speed');
  if (speed !== null && !(speed > 0)) throw new Error('--speed takes a number above 0');
  const from = numberOf(options.from, '--from');
  const keys = new KeyReader(speed !== null && process.stdin.isTTY === true ? process.stdin : null);
  const pauseMsMax = numberOf(options.maxPause, '--max-pause') * 1000;
  // Read once more, what is bad of it is not told twice.
  let open: () => Events = () => {
    open = again;
    return events;
  };
  const player = new Player(
    () => framesOf(open()),
    { speed, pauseMsMax, from },
    { write, wait: (ms) => keys.wait(ms) },
  );
  await player.run().finally(() => keys.close());
  tellFaults(report);
}

async function exportTo(
  session: string | undefined,
  options: SessionOptions & { format: string; output?: string },
): Promise<void> {
  const format = EXPORT_FORMATS.find((one) => one === options.format);
  if (format === undefined) throw new Error(`--format takes ${EXPORT_FORMATS.join(', ')}`);
  const { events, again, report } = await readSession(session, options);
  const pieces = exportSession(events, format, again);
  if (options.output === undefined) for await (const piece of pieces) await write(piece);
  else await pipeline(pieces, createWriteStream(options.output, { mode: 0o600 }));
  tellFaults(report);
}

async function verify(
  session: string | undefined,
  options: SessionOptions & { all?: boolean; signingKey?: string[] },
): Promise<void> {
  const access = await openAccess(options);
  const trusted = trustedKeys(options.signingKey, access.dataDir);
  let targets: Map<string, PartFile[]>;
  if (options.all === true) targets = await access.library.allParts();
  else {
    const id = await sessionId(access, session, options);
    targets = new Map([[id, await access.library.parts(id)]]);
  }
  const open = await access.library.openSessions();
  let bad = 0;
  let bytes = 0;
  const began = performance.now();
  for (const [id, parts] of targets) {
    if (parts.length === 0) throw new Error(`session ${id} is not sealed yet: it lies in the journal`);
    const result = await verifySession(access.library, id, parts, trusted, open);
    bytes += result.bytes;
    if (!result.proven) bad += 1;
    if (options.json === true) print(JSON.stringify(result));
    else print(verificationText(result));
  }
  if (options.all === true) bad += await verifyAll(access, targets, options.json === true);
  const seconds = (performance.now() - began) / 1000;
  if (options.all === true && options.json !== true)
    print(
      `${targets.size} recordings, ${bytesText(bytes)} in ${seconds.toFixed(1)} s: ${bad === 0 ? 'all proven' : `${bad} NOT proven`}`,
    );
  if (bad > 0) process.exitCode = ExitCode.verifyFailed;
}

async function hold(
  session: string | undefined,
  options: SessionOptions & { release?: boolean },
): Promise<void> {
  const access = await openAccess(options);
  const id = await sessionId(access, session, options);
  const index = await access.index({ write: true });
  if (index === null) throw new Error('a hold is set in the data directory of the gateway');
  const known = await index.hold(id, options.release !== true, userInfo().username);
  await index.close();
  if (!known) throw new Error(`there is no session ${id} in the index`);
  print(options.release === true ? `${id} is no longer held` : `${id} is held`);
}

async function sizes(options: AccessOptions): Promise<void> {
  const access = await openAccess(options);
  const index = await indexOf(access);
  const rows = await index.sizes();
  await index.close();
  const bundles = await bundlesIn(access.library.store);
  if (options.json === true) {
    for (const row of rows) print(JSON.stringify(row));
    for (const { boot, gateway, bytes, storedAt } of bundles)
      print(JSON.stringify({ journal: boot, gateway, bytes, stored_at: new Date(storedAt).toISOString() }));
    return;
  }
  print(
    table(
      ['RESOURCE', 'SESSIONS', 'SIZE'],
      rows.map((row) => [row.resource, row.sessions, bytesText(row.bytes)]),
    ),
  );
  for (const { boot, bytes, storedAt } of bundles)
    print(`journal ${boot}, stored ${timeOf(storedAt)} after a crash: ${bytesText(bytes)}`);
}

async function reindexSessions(
  session: string | undefined,
  options: SessionOptions & { all?: boolean },
): Promise<void> {
  const access = await openAccess(options);
  const index = await access.index({ write: true });
  if (index === null || access.dataDir === null)
    throw new Error('the index is found by the data directory or the configuration of its gateway');
  const behind = new BehindSessions(access.dataDir);
  const wanted =
    session !== undefined
      ? [await sessionId(access, session, options)]
      : options.all === true || behind.all
        ? [...(await access.library.allParts()).keys()]
        : behind.refresh();
  const parser = await loadPostgresParser();
  const statements = storedIndex(access.dataDir).keep === 'statements';
  let done = 0;
  for (const id of wanted) {
    try {
      if (!(await reindex(id, access.library, new Indexer(index, statements, parser)))) continue;
      behind.delete(id);
      done += 1;
    } catch (error) {
      process.stderr.write(`${(error as Error).message}\n`);
      process.exitCode = ExitCode.failure;
    }
  }
  await index.close();
  if (behind.all && process.exitCode === undefined) behind.clear();
  print(`${done} of ${wanted.length} sessions were indexed again`);
}

async function rotateKey(options: AccessOptions): Promise<void> {
  const { dataDir } = await openAccess(options);
  if (dataDir === null) throw new Error('the key lies in the data directory of the gateway');
  print(`recordings are signed by ${rotateSigningKey(dataDir)} from the next start of the gateway`);
}

/** What only the whole store can show: parts and sessions that are gone. Gives the number of findings. */
async function verifyAll(access: Access, targets: Map<string, PartFile[]>, json: boolean): Promise<number> {
  const { findings, locked } = await verifyEntries(access.library, targets);
  for (const { key, what } of findings) print(json ? JSON.stringify({ key, what }) : `${key}: ${what}`);
  if (locked > 0 && !json)
    print(`${locked} recordings of the gateway itself could not be opened: missing sessions would not show`);
  return findings.length;
}

function verificationText(result: Verification): string {
  const signers = result.signers
    .map(({ id, known }) => `${id}${known ? '' : ' (not known here)'}`)
    .join(', ');
  const content = result.opened ? `${result.statements} statements` : 'content not opened';
  const gaps = result.gaps > 0 ? `, ${result.gaps} GAPS on record` : '';
  const head = `${result.session}  ${result.proven ? 'proven' : 'NOT PROVEN'}  ${result.parts} parts, ${result.events} events, ${content}, ${result.state ?? 'no end'}${gaps}; signed by ${signers || 'nobody'}`;
  const findings = result.findings.map(({ key, from, to, what }) =>
    from === null ? `    ${key}: ${what}` : `    ${key}: bytes ${from} to ${to}: ${what}`,
  );
  return [head, ...findings].join('\n');
}

function trustedKeys(
  files: string[] | undefined,
  dataDir: string | null,
): ReadonlyMap<string, KeyObject> | null {
  if (files === undefined) return dataDir === null ? null : knownSigningKeys(dataDir);
  const keys = new Map<string, KeyObject>();
  for (const file of files) {
    const key = createPublicKey(readFileSync(file));
    keys.set(publicKeyId(key), key);
  }
  return keys;
}

/** A session's events as they are read; `report` is complete when they have been. `again` reads them once more. */
async function readSession(
  session: string | undefined,
  options: SessionOptions,
): Promise<{
  events: AsyncGenerator<JournalEvent>;
  again: () => AsyncGenerator<JournalEvent>;
  report: ReadReport;
}> {
  const access = await openAccess(options);
  const id = await sessionId(access, session, options);
  const report = emptyReport();
  return { events: access.library.events(id, report), again: () => access.library.events(id), report };
}

/** The session that is meant: by id, by its beginning, or the latest. */
async function sessionId(
  access: Access,
  given: string | undefined,
  options: SessionOptions,
): Promise<string> {
  if (given === undefined) {
    if (options.last !== true)
      throw new Error('name a session by its id (`sallyport recordings list`), or give --last');
    const index = await access.index();
    const [latest] = (await index?.sessions({ limit: 1 })) ?? [];
    const stored = latest?.id ?? (await access.library.latestStored());
    await index?.close();
    const last = [stored, ...(await access.library.liveSessions()).keys()]
      .filter((id) => id !== null)
      .sort()
      .at(-1);
    if (last === undefined) throw new Error('nothing was recorded yet');
    return last;
  }
  const id = given.toUpperCase();
  if (id.length === 26) return id;
  const known = [
    ...(await access.library.allParts()).keys(),
    ...(await access.library.liveSessions()).keys(),
  ];
  const matches = [...new Set(known.filter((one) => one.startsWith(id)))];
  if (matches.length === 1) return matches[0]!;
  throw new Error(
    matches.length === 0
      ? `there is no session ${given}`
      : `${given} begins ${matches.length} ids; give more of it`,
  );
}

/** The gateway's index; where there is none, one made now from what can be read. */
async function indexOf(access: Access, needs: { statements?: boolean } = {}): Promise<RecordingIndex> {
  const index = await access.index();
  if (index !== null) {
    // An index of sessions alone does not find statements; who can open recordings can search them all the same.
    const suffices = needs.statements !== true || (await index.search({ limit: 1 })).length > 0;
    if (suffices || access.identities.length === 0) return index;
    await index.close();
  }
  const made = new SqliteRecordingIndex(':memory:');
  const indexer = new Indexer(made, true, await loadPostgresParser());
  for (const [session, parts] of await access.library.allParts()) {
    try {
      let ofGateway = true;
      for await (const event of access.library.events(session)) {
        if (event.type === 'session_started') ofGateway = false;
        indexer.hear(event, session);
        if (indexer.waiting >= INDEX_BATCH_ROWS) await indexer.write();
      }
      if (ofGateway) continue;
      for (const { part, size } of parts) indexer.sealed({ session, part, bytes: size });
    } catch (error) {
      process.stderr.write(`${(error as Error).message}\n`);
    }
  }
  await indexer.write();
  return made;
}

/** Null where risk was not judged when the index was made. */
function riskName(place: number | null | undefined): string | null {
  return place === null || place === undefined ? null : (RISKS[place] ?? null);
}

function riskPlace(text: string): number {
  const place = RISKS.indexOf(text as Risk);
  if (place === -1) throw new Error(`--risk takes ${RISKS.join(', ')}`);
  return place;
}

function filterOf(options: FilterOptions): SessionFilter {
  return {
    ...(options.person === undefined ? {} : { principal: options.person }),
    ...(options.resource === undefined ? {} : { resource: options.resource }),
    ...(options.state === undefined ? {} : { state: options.state }),
    ...(options.risk === undefined ? {} : { riskMin: riskPlace(options.risk) }),
    ...(options.reason === undefined ? {} : { reason: options.reason }),
    ...(options.since === undefined ? {} : { since: parseTime(options.since) }),
    ...(options.until === undefined ? {} : { until: parseTime(options.until) }),
    limit: numberOf(options.limit, '--limit'),
  };
}

function tellFaults(report: ReadReport): void {
  for (const { key, fault } of report.faults)
    process.stderr.write(`BAD: ${key}, bytes ${fault.from} to ${fault.to}: ${fault.what}\n`);
  for (const key of report.locked) process.stderr.write(`not opened by any identity at hand: ${key}\n`);
  for (const part of report.missing) process.stderr.write(`MISSING: part ${part}\n`);
  if (report.faults.length + report.missing.length > 0) process.exitCode = ExitCode.verifyFailed;
}

function numberOf(text: string, option: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value < 0) throw new Error(`${option} takes a number`);
  return value;
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 19).replace('T', ' ');
}

/** Waits where the reader of the output is slower than we are. */
async function write(piece: string | Buffer): Promise<void> {
  if (!process.stdout.write(piece)) await once(process.stdout, 'drain');
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
