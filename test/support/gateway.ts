import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import * as tls from 'node:tls';
import type { TlsMode } from '../../protocols/channel.ts';
import type { Engine, EngineSettings, ObserveOptions, Verdict } from '../../protocols/engine.ts';
import { Secret } from '../../protocols/secret.ts';
import type { Statement } from '../../protocols/statement.ts';
import type { Access, ClientAuth } from '../../src/access/access.ts';
import { ListenerAccess } from '../../src/access/listener-access.ts';
import { type ChannelTls, limitedContext, NO_TLS } from '../../src/gateway/channel.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import type { Door, SessionLimits, Target } from '../../src/gateway/target.ts';
import { makeLog } from '../../src/log.ts';
import { Metrics } from '../../src/metrics.ts';
import type { Recorder } from '../../src/recording/recorder.ts';
import type { Issued } from './certificates.ts';
import { MemoryRecorder } from './memory-recorder.ts';

export interface TestGatewayOptions {
  readonly engine: Engine;
  readonly settings: EngineSettings;
  /** Address(es) of the real server. */
  readonly servers: readonly { host: string; port: number }[];
  readonly username: string;
  /** Null: no password (certificate, trust). */
  readonly password: string | null;
  /** What a second fetch gives after the server refused the first; default: nothing else. */
  readonly refetched?: { username: string; password: string };
  readonly credentialKind?: 'password' | 'token';
  readonly database?: string;
  readonly databases?: readonly string[];
  /** TLS toward the server. Default: disable. */
  readonly serverTls?: {
    readonly mode: TlsMode;
    readonly ca?: string;
    readonly cert?: string;
    readonly key?: string;
    readonly serverName?: string;
  };
  /** The certificate to show to clients. Default: TLS is not offered. */
  readonly clientTls?: { readonly certificate: Issued; readonly mode?: 'prefer' | 'require' };
  readonly observe?: Partial<ObserveOptions>;
  readonly limits?: Partial<SessionLimits>;
  /** The statement policy. Default: allow everything. */
  readonly decide?: (statement: Statement) => Verdict;
  readonly access?: Access;
  readonly clientAuth?: ClientAuth;
  readonly recorder?: Recorder;
  readonly cancelSource?: 'same-ip' | 'any';
  readonly askPeers?: (id: number, secret: Buffer, host: string) => Promise<boolean>;
  /** `unix:` path instead of a loopback port. */
  readonly socketPath?: string;
}

/** Looks between which nothing may move for a session to stand still. */
const STILL_LOOKS = 4;
const STILL_LOOK_MS = 50;

/**
 * Resolves when a session that carries bytes has stopped doing so: somebody does not read, and holds all others back. Gives
 * how far it came. `look` is called meanwhile.
 */
export async function standsStill(
  { gateway }: TestGateway,
  direction: 'bytesSent' | 'bytesReceived',
  look: () => void = () => {},
): Promise<number> {
  let bytes = 0;
  for (let looks = 0; looks < STILL_LOOKS; looks += 1) {
    await sleep(STILL_LOOK_MS);
    look();
    const now = [...gateway.connections].reduce((sum, { summary }) => sum + (summary?.[direction] ?? 0), 0);
    if (now === 0 || now !== bytes) looks = 0;
    bytes = now;
  }
  return bytes;
}

/** A real gateway with one listener in this process, and what it recorded and logged. */
export interface TestGateway {
  readonly gateway: Gateway;
  readonly port: number;
  /** The recorder, unless one was passed in. */
  readonly recorder: MemoryRecorder;
  readonly metrics: Metrics;
  /** Log lines as JSON text. */
  readonly logs: string[];
  close(): Promise<void>;
}

/**
 * Starts the product's own gateway on a free loopback port, in front of the given server, with a recorder that keeps
 * its events in memory. Everything but configuration loading and the journal is the real thing.
 */
export async function startTestGateway(options: TestGatewayOptions): Promise<TestGateway> {
  const recorder = new MemoryRecorder();
  const metrics = new Metrics();
  const logs: string[] = [];
  const log = makeLog('json', 'trace', { write: (line: string) => void logs.push(line) });
  const gateway = new Gateway({
    name: 'test',
    recorder: options.recorder ?? recorder,
    access: options.access ?? new ListenerAccess(),
    metrics,
    log,
    random: randomBytes,
    now: Date.now,
    askPeers: options.askPeers ?? null,
    endOnRecordingFailure: true,
  });
  const door: Door = {
    listen: options.socketPath
      ? { kind: 'unix', path: options.socketPath }
      : { kind: 'tcp', host: '127.0.0.1', port: 0 },
    engine: options.engine,
    targets: [makeTarget(options)],
    clientAuth: options.clientAuth ?? 'trust',
    principal: 'tester',
    launch: null,
    tls: clientTls(options),
    cancelSource: options.cancelSource ?? 'same-ip',
  };
  await gateway.apply([door]);
  return {
    gateway,
    port: gateway.portOf(door) ?? 0,
    recorder,
    metrics,
    logs,
    close: () => gateway.drain(0),
  };
}

function makeTarget(options: TestGatewayOptions): Target {
  const { serverTls } = options;
  return {
    resource: {
      name: 'test-resource',
      engine: options.engine.name,
      addresses: options.servers,
      settings: options.settings,
    },
    engine: options.engine,
    database: options.database ?? null,
    databases: options.databases ?? null,
    tls:
      serverTls === undefined || serverTls.mode === 'disable'
        ? NO_TLS
        : {
            mode: serverTls.mode,
            context: tls.createSecureContext({
              ...(serverTls.ca ? { ca: serverTls.ca } : {}),
              ...(serverTls.cert ? { cert: serverTls.cert } : {}),
              ...(serverTls.key ? { key: serverTls.key } : {}),
            }),
            serverName: serverTls.serverName ?? null,
          },
    limits: {
      idleTimeoutMs: null,
      idleInTransactionTimeoutMs: null,
      maxDurationMs: null,
      maxConnections: 1000,
      connectTimeoutMs: 5000,
      handshakeTimeoutMs: 30_000,
      ...options.limits,
    },
    observe: { parameters: true, sampleRows: 0, columns: true, ...options.observe },
    credentials: async (why) => {
      const source = why === 'launch' ? options : (options.refetched ?? null);
      if (source === null) return null;
      return {
        username: source.username,
        password: source.password === null ? null : Secret.fromText(source.password),
        kind: options.credentialKind ?? 'password',
      };
    },
    gate: () => options.decide ?? (() => ({ action: 'allow' })),
  };
}

function clientTls(options: TestGatewayOptions): ChannelTls {
  const { clientTls } = options;
  if (clientTls === undefined) return NO_TLS;
  const { certificate, mode } = clientTls;
  return {
    mode: mode ?? 'prefer',
    context: tls.createSecureContext({ cert: certificate.chain, key: certificate.key }),
    limitedContext: limitedContext({ cert: certificate.chain, key: certificate.key }),
    certificate: certificate.der,
  };
}
