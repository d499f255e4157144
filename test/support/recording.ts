import { mkdtempSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { JournalEvent } from '../../src/recording/events.ts';
import type { Journal } from '../../src/recording/journal.ts';
import type { RecordingKeys } from '../../src/recording/keys.ts';
import type { PipelineOptions } from '../../src/recording/pipeline.ts';
import { readJournal } from '../../src/recording/reader.ts';
import type { SessionStart } from '../../src/recording/recorder.ts';

/** A session's start with everything filled in. */
export function sessionStart(
  session: string,
  principal = 'ana',
  more: Partial<SessionStart> = {},
): SessionStart {
  return {
    session,
    gateway: 'gw-test',
    principal,
    resource: 'orders',
    engine: 'postgres',
    serverVersion: '18.4',
    databaseUser: 'app',
    database: 'orders',
    serverAddress: '127.0.0.1:5432',
    serverSession: '4711',
    authentication: 'scram-sha-256',
    clientAddress: '127.0.0.1:50000',
    clientUser: 'ana',
    clientProgram: 'psql',
    clientAttributes: { client_encoding: 'UTF8' },
    clientTls: null,
    serverTls: 'TLSv1.3 TLS_AES_256_GCM_SHA384',
    serverTlsVerified: true,
    tlsFallback: false,
    ...more,
  };
}

/** What a pipeline for `journal` is given by its gateway; store and index are the caller's. */
export function pipelineOf(
  dataDir: string,
  gateway: string,
  { boot, bootKey }: Pick<Journal, 'boot' | 'bootKey'>,
  { recipients, identities }: RecordingKeys,
): Omit<PipelineOptions, 'store' | 'index'> {
  return { dataDir, gateway, boot, bootKey, recipients, identities };
}

/** A fresh directory that is gone when the test is. */
export class TemporaryDirectory {
  readonly path = mkdtempSync(join(tmpdir(), 'sallyport-recording-'));

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** Every event of a journal directory that the identities open. */
export async function journalEvents(
  directory: string,
  identities: readonly string[],
): Promise<JournalEvent[]> {
  const events: JournalEvent[] = [];
  await readJournal(directory, identities, (event) => events.push(event));
  return events;
}

/** Writes a line to standard output before it returns, however full the pipe is: what was said was said. */
export function sayLine(line: string): void {
  const bytes = Buffer.from(`${line}\n`);
  let written = 0;
  while (written < bytes.length) {
    try {
      written += writeSync(1, bytes, written);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
    }
  }
}

/** All that comes of it. */
export async function collected<T>(pieces: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const piece of pieces) all.push(piece);
  return all;
}
