import { Refusal, type RefusalCode } from '../../protocols/error.ts';
import type {
  AdmitQuestion,
  ChallengeQuestion,
  DistantChallenge,
  DistantPermit,
} from '../access/remote-access.ts';
import type { Config } from '../config/schema.ts';
import type { SessionSummary } from '../gateway/summary.ts';
import type { LogFormat } from '../log.ts';
import type { MetricsSnapshot } from '../metrics.ts';
import type { Boot } from '../recording/journal.ts';
import type { CloseReason } from '../recording/recorder.ts';
import type { ProviderHealth } from '../secrets/resolver.ts';

/** What the first process of a gateway and its workers ask of each other. */

/** What a worker is given to begin with. */
export interface WorkerStart {
  /** Counted from 1; a worker that takes a dead one's place has its number. */
  readonly worker: number;
  readonly config: WorkerConfig;
  readonly boot: Boot;
  readonly recipients: readonly string[];
  readonly spoolFull: boolean;
  readonly logFormat: LogFormat;
  readonly logLevel: string;
}

/** The configuration without what only the first process uses: who may sign in to the API, and by which rules. */
export type WorkerConfig = Omit<Config, 'users' | 'oidc' | 'rules' | 'api'>;

export function workerConfig(config: Config): WorkerConfig {
  const { users: _users, oidc: _oidc, rules: _rules, api: _api, ...rest } = config;
  // Events go to their receivers from the first process, whose business the credentials for that are.
  return { ...rest, recording: { ...rest.recording, streams: {} } };
}

/** Comes with an accepted socket: where it was accepted. */
export interface HandedOver {
  readonly kind: 'socket';
  readonly key: string;
  /** To be said when it has arrived. */
  readonly turn: number;
}

/** How a worker is. */
export interface WorkerState {
  readonly listening: boolean;
  /** Why its journal cannot be written; null when it can. */
  readonly journal: string | null;
  readonly providers: readonly ProviderHealth[];
}

export interface CancelQuestion {
  readonly id: number;
  readonly secret: Buffer;
  /** Where the client's request came from. */
  readonly host: string;
}

/** A session is to end, and with which words. */
export interface Ending {
  readonly code: RefusalCode;
  readonly message: string;
  readonly hint: string | null;
  readonly reason: CloseReason;
}

export function endingOf({ code, message, hint }: Refusal, reason: CloseReason): Ending {
  return { code, message, hint, reason };
}

export function refusalOf({ code, message, hint }: Ending): Refusal {
  return new Refusal(code, message, hint === null ? {} : { hint });
}

export type Watched =
  | { readonly watch: number; readonly what: 'began' | 'ended'; readonly shown: Record<string, unknown> }
  | { readonly watch: number; readonly what: 'closed' };

/** What a worker does when the first process asks. */
export interface WorkerCalls {
  /** Rejects when it cannot serve what the configuration says. */
  start(start: WorkerStart): Promise<void>;
  reload(config: WorkerConfig): Promise<void>;
  /** Drains for so many milliseconds and closes the journal; the worker ends after the answer. */
  stop(graceMs: number): Promise<void>;
  sessions(): Promise<readonly SessionSummary[]>;
  session(id: string): Promise<SessionSummary | null>;
  kill(what: { readonly session: string; readonly ending: Ending }): Promise<boolean>;
  endLaunch(what: { readonly launch: string; readonly ending: Ending }): void;
  /** True when a session of its own was told. */
  cancel(question: CancelQuestion): Promise<boolean>;
  /** `watch` is the asker's name for it. False when there is no such session. */
  watch(what: { readonly session: string; readonly watch: number }): Promise<boolean>;
  unwatch(watch: number): void;
  metrics(): Promise<MetricsSnapshot>;
  state(): WorkerState;
  spoolFull(full: boolean): void;
}

/** What the first process does when a worker asks. */
export interface PrimaryCalls {
  challenge(question: ChallengeQuestion): Promise<DistantChallenge>;
  /** Takes one of the resource's places as well. */
  admit(question: AdmitQuestion): Promise<DistantPermit>;
  closed(session: string): void;
  /** The socket of that turn has arrived. */
  taken(turn: number): void;
  /** True when a session elsewhere was told. */
  cancel(question: CancelQuestion): Promise<boolean>;
  watched(watched: Watched): void;
}
