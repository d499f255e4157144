import type { Note } from '../../protocols/engine.ts';
import type { Statement } from '../../protocols/statement.ts';

/**
 * What the gateway asks of the journal. Everything is synchronous and batched: what is appended in one turn of the
 * event loop is written once, at the end of that turn, and then those who waited for it are told.
 */
export interface Recorder {
  /** Starts a session's record. Throws `RecordingError` when the journal is failed and `on_failure` is `refuse`. */
  session(start: SessionStart): SessionRecord;
  /** Events of the gateway itself: sign-in refused, configuration changed, tokens. */
  audit(event: AuditEvent): void;
  /**
   * Calls `waiter.written()` when all that has been appended so far is as durable as is configured: at the end of this
   * turn (`flushed`), after the next fdatasync (`synced`), at once (`buffered`). `written` may be called synchronously.
   * Every call is answered by a call of its own, in order: the relay counts them to know which bytes each sets free.
   */
  afterWrite(waiter: Waiter): void;
  /** Resolves when all that has been appended so far is as durable as is configured; rejects when it cannot be. */
  flushed(): Promise<void>;
  /** The journal cannot be written; sessions under `refuse` must end. */
  onFailure(listener: (error: Error) => void): void;
  readonly failed: Error | null;
  close(): Promise<void>;
}

export interface Waiter {
  written(): void;
}

export interface SessionRecord {
  readonly id: string;
  /** Assigns `statement.seq` and its start time, and appends the start event. */
  begin(statement: Statement): void;
  end(statement: Statement): void;
  note(note: Note): void;
  /** Set where raw frames are recorded: bytes as they came, before anything else is done with them. Copied at once. */
  readonly frame?: ((from: 'client' | 'server', bytes: Buffer) => void) | undefined;
  close(end: SessionEnd): void;
}

export interface SessionStart {
  readonly session: string;
  readonly gateway: string;
  readonly principal: string;
  readonly resource: string;
  readonly engine: string;
  readonly serverVersion: string;
  readonly databaseUser: string;
  readonly database: string | null;
  readonly serverAddress: string;
  readonly serverSession: string | null;
  readonly authentication: string;
  readonly clientAddress: string;
  readonly clientUser: string;
  readonly clientProgram: string | null;
  readonly clientAttributes: Readonly<Record<string, string>>;
  /** `TLSv1.3 TLS_AES_256_GCM_SHA384`, or null in the clear. */
  readonly clientTls: string | null;
  readonly serverTls: string | null;
  readonly serverTlsVerified: boolean;
  readonly tlsFallback: boolean;
  /** The launch that the session belongs to, and the rule that let it in; null (or left out) on trusted listeners. */
  readonly launch?: string | null;
  readonly rule?: string | null;
}

export const CLOSE_REASONS = [
  'client_closed',
  'server_closed',
  'idle_timeout',
  'max_duration',
  'killed',
  'shutdown',
  'recording_failed',
  'protocol_error',
  'server_unreachable',
  'auth_failed',
  'denied',
  'launch_expired',
  'interrupted',
] as const;
export type CloseReason = (typeof CLOSE_REASONS)[number];

export interface SessionEnd {
  readonly reason: CloseReason;
  readonly detail: string | null;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

export interface AuditEvent {
  /** `session_refused`, `configuration_reloaded`, `session_killed`, `gateway_started`, `gateway_stopped` … */
  readonly action: string;
  readonly principal: string | null;
  readonly resource: string | null;
  readonly clientAddress: string | null;
  readonly reason: string | null;
  readonly detail?: Readonly<Record<string, string | number | boolean | null>>;
}

export class RecordingError extends Error {
  constructor(message: string, options: { cause?: unknown } = {}) {
    super(message, options);
    this.name = 'RecordingError';
  }
}
