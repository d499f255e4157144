import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Address, Channel, TlsState } from '../../protocols/channel.ts';
import type {
  Challenge,
  Claim,
  Credentials,
  EngineSession,
  Entry,
  Permit,
  Proof,
  Resource,
  ServerFacts,
} from '../../protocols/engine.ts';
import { ProtocolError, Refusal } from '../../protocols/error.ts';
import { STATEMENT_STATUSES, type Statement, type StatementStatus } from '../../protocols/statement.ts';
import type { Visitor } from '../access/access.ts';
import type { Metrics } from '../metrics.ts';
import type { CloseReason, SessionRecord } from '../recording/recorder.ts';
import { SecretError } from '../secrets/provider.ts';
import type { Cancellable } from './cancels.ts';
import { StreamChannel } from './channel.ts';
import type { GatewayContext } from './gateway.ts';
import { INTERRUPT_MS_MAX, KEEP_ALIVE_MS } from './limits.ts';
import { noPlace } from './places.ts';
import { Relay, type RelayEnd } from './relay.ts';
import { legOf } from './socket-leg.ts';
import type { SessionSummary, SessionWatcher } from './summary.ts';
import { type Door, onlyTarget, type Target } from './target.ts';

/** Given to `abort`, which otherwise makes an error with a stack for each session. */
const SESSION_OVER = 'the session is over';

/** One client connection: its handshake, then its session, from the accepted socket to the last event. */
export class Connection implements Entry, Cancellable {
  readonly id: string;
  readonly client: StreamChannel;
  readonly door: Door;
  readonly cancelSource: 'same-ip' | 'any';
  readonly startedAt: number;
  readonly #context: GatewayContext;
  /** Known from the start on a door with one target, else once the client has been admitted. */
  #target: Target | null;
  readonly #servers: StreamChannel[] = [];
  /** Where each server's name led: a cancel must go to the same machine, and a name may lead to several. */
  readonly #reached = new WeakMap<Channel, string>();
  #labels: { resource: string; engine: string };
  readonly #done: () => void;
  readonly #abort = new AbortController();
  #claim: Claim | null = null;
  #session: EngineSession | null = null;
  #relay: Relay | null = null;
  #record: SessionRecord | null = null;
  #cancelId: number | null = null;
  #permit: Permit | null = null;
  #reserved = false;
  #idleSince = 0;
  readonly #watchers = new Set<SessionWatcher>();

  /** `done` is called once, when nothing of this connection is left. */
  constructor(
    context: GatewayContext,
    door: Door,
    stream: Duplex,
    remote: Address,
    id: string,
    done: () => void,
  ) {
    this.id = id;
    this.#context = context;
    this.door = door;
    this.#target = onlyTarget(door);
    this.cancelSource = door.cancelSource;
    this.client = new StreamChannel(stream, 'client', remote, door.tls);
    this.startedAt = context.now();
    this.#labels = { resource: this.#target?.resource.name ?? '', engine: door.engine.name };
    this.#done = done;
  }

  get clientHost(): string {
    return this.client.remote.host;
  }

  get resource(): Resource | null {
    return this.#target?.resource ?? null;
  }

  /** The launch that this connection belongs to, once it has been admitted. */
  get launch(): string | null {
    return this.#permit?.launch?.id ?? null;
  }

  /** The open session, once there is one: who, on what, since when. */
  get summary(): SessionSummary | null {
    const session = this.#session;
    const relay = this.#relay;
    if (session === null || relay === null) return null;
    return {
      session: this.id,
      principal: session.permit.principal,
      resource: this.#labels.resource,
      engine: this.#labels.engine,
      startedAt: this.startedAt,
      clientAddress: addressText(this.client.remote),
      clientProgram: this.#claim?.program ?? null,
      databaseUser: session.facts.databaseUser,
      database: session.facts.database,
      serverSession: session.facts.serverSession,
      launch: this.launch,
      busy: relay.observer.busy,
      transaction: relay.observer.transaction,
      bytesSent: relay.bytesSent,
      bytesReceived: relay.bytesReceived,
    };
  }

  /** Tells `watcher` of every statement from now on; the function returned ends that. */
  watch(watcher: SessionWatcher): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  /** Signs both sides in and starts the session. Never rejects: what went wrong is told, logged and counted here. */
  async run(): Promise<void> {
    const { metrics } = this.#context;
    const timeoutMs = Math.max(...this.door.targets.map((target) => target.limits.handshakeTimeoutMs));
    const deadline = setTimeout(() => this.#expire(timeoutMs), timeoutMs);
    const { engine } = this.#labels;
    metrics.handshakesOpen.inc({ engine });
    try {
      const outcome = await this.door.engine.handshake(this).finally(() => {
        clearTimeout(deadline);
        metrics.handshakesOpen.dec({ engine });
      });
      if (outcome.kind === 'session') this.#start(outcome.session);
      else this.#finish();
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Ends the session with the protocol's own words, and stops what it runs on the server. */
  end(refusal: Refusal, reason: CloseReason): void {
    const relay = this.#relay;
    if (relay === null) {
      const error = new ProtocolError('timeout', 'ours', refusal.message, { cause: refusal });
      this.client.fail(error);
      for (const server of this.#servers) server.fail(error);
      return;
    }
    if (relay.ended) return;
    if (relay.observer.busy) void this.interrupt();
    relay.part(refusal, reason);
  }

  /** Nothing runs and no transaction is open: the session can be ended without loss. */
  get quiet(): boolean {
    const observer = this.#relay?.observer;
    return observer !== undefined && !observer.busy && observer.transaction === 'idle';
  }

  /** Looks at the idle clock and the maximum duration. The idle clock stands still while a statement runs. */
  tick(now: number): void {
    const relay = this.#relay;
    if (relay === null || relay.ended) return;
    const { limits } = this.#theTarget;
    const launch = this.#permit?.launch;
    if (launch && launch.expiresAt !== null && now >= launch.expiresAt) {
      this.end(new Refusal('launch_expired', 'your launch has ended'), 'launch_expired');
      return;
    }
    if (limits.maxDurationMs !== null && now - this.startedAt >= limits.maxDurationMs) {
      this.end(new Refusal('max_duration', 'the session has reached its maximum duration'), 'max_duration');
      return;
    }
    if (relay.takeTouched() || relay.observer.busy) {
      this.#idleSince = now;
      return;
    }
    const inTransaction = relay.observer.transaction !== 'idle';
    const timeoutMs = inTransaction ? limits.idleInTransactionTimeoutMs : limits.idleTimeoutMs;
    if (timeoutMs === null || now - this.#idleSince < timeoutMs) return;
    const refusal = inTransaction
      ? new Refusal('idle_in_transaction', 'the session was idle in a transaction for too long')
      : new Refusal('idle_timeout', 'the session was idle for too long');
    this.end(refusal, 'idle_timeout');
  }

  // Cancellable

  async interrupt(): Promise<void> {
    const session = this.#session;
    const relay = this.#relay;
    if (session === null || relay === null || !relay.observer.busy) return;
    const idles = relay.idles;
    const opened: StreamChannel[] = [];
    const deadline = setTimeout(() => {
      for (const channel of opened)
        channel.fail(new ProtocolError('timeout', 'server', 'the cancel took too long'));
    }, INTERRUPT_MS_MAX);
    try {
      await session.interrupt({
        observer: relay.observer,
        send: (bytes) => session.facts.server.write(bytes),
        credentials: () => this.credentials(session.permit, 'launch'),
        dial: async () => {
          const channel = await this.#connect(
            session.facts.server.remote,
            this.#reached.get(session.facts.server),
          );
          opened.push(channel);
          // The statement that was to be cancelled may have ended meanwhile: the next one must not be hit.
          if (relay.idles !== idles) {
            channel.destroy();
            throw new ProtocolError(
              'unexpected_end',
              'ours',
              'the statement ended before the cancel was sent',
            );
          }
          return channel;
        },
      });
    } catch (error) {
      this.log('cancel was not delivered', { error: (error as Error).message });
    } finally {
      clearTimeout(deadline);
      for (const channel of opened) channel.destroy();
    }
  }

  // Entry: what the engine asks for during the handshake.

  async challenge(claim: Claim): Promise<Challenge> {
    this.#claim = claim;
    return this.#context.access.challenge(claim, this.#visitor());
  }

  async admit(claim: Claim, proof: Proof): Promise<Permit> {
    this.#claim = claim;
    if (this.#context.draining) throw new Refusal('draining', 'the gateway is shutting down');
    const permit = await this.#context.access.admit(claim, proof, this.#visitor());
    this.#permit = permit;
    const { name } = permit.resource;
    this.#target ??= this.door.targets.find((target) => target.resource.name === name) ?? null;
    if (this.#target === null) throw new Error(`a permit for ${name}, which is not behind this door`);
    this.#labels = { resource: name, engine: this.#labels.engine };
    this.#reserved = this.#context.reserve(this.#target);
    if (!this.#reserved) throw noPlace(name);
    return permit;
  }

  async credentials(_permit: Permit, why: 'launch' | 'rejected'): Promise<Credentials | null> {
    const stop = this.#context.metrics.handshakeSeconds.startTimer({ ...this.#labels, phase: 'credentials' });
    try {
      const credentials = await this.#theTarget.credentials(why, this.#abort.signal);
      credentials?.lost?.addEventListener('abort', this.#onAccountLost, { once: true });
      return credentials;
    } catch (error) {
      if (!(error instanceof SecretError)) throw error;
      this.#context.log.error(
        {
          session: this.id,
          resource: this.#labels.resource,
          provider: error.provider,
          hint: error.hint,
          error: error.message,
        },
        'launch credentials could not be fetched',
      );
      throw new Refusal(
        'credentials_unavailable',
        `the credentials for ${this.#labels.resource} are not available`,
        {
          hint: 'The secret provider did not give them. Ask the people who run this gateway.',
          cause: error,
        },
      );
    } finally {
      stop();
    }
  }

  readonly #onAccountLost = (): void => {
    const refusal = new Refusal('launch_expired', 'the account that was made for this session has ended', {
      hint: 'Connect again to get another.',
    });
    this.end(refusal, 'launch_expired');
  };

  dial(address: Address): Promise<StreamChannel> {
    return this.#connect(address);
  }

  async opened(permit: Permit, facts: ServerFacts): Promise<void> {
    const { recorder, log } = this.#context;
    try {
      this.#record = recorder.session({
        session: permit.session,
        gateway: this.#context.name,
        principal: permit.principal,
        resource: permit.resource.name,
        engine: facts.engine,
        serverVersion: facts.serverVersion,
        databaseUser: facts.databaseUser,
        database: facts.database,
        serverAddress: addressText(facts.server.remote),
        serverSession: facts.serverSession,
        authentication: facts.authentication,
        clientAddress: addressText(this.client.remote),
        clientUser: this.#claim?.user ?? '',
        clientProgram: this.#claim?.program ?? null,
        clientAttributes: this.#claim?.attributes ?? {},
        clientTls: tlsText(this.client.tls),
        serverTls: tlsText(facts.server.tls),
        serverTlsVerified: facts.server.tls?.verified ?? false,
        tlsFallback: facts.tlsFallback,
        launch: permit.launch?.id ?? null,
        rule: permit.launch?.rule ?? null,
      });
      await recorder.flushed();
    } catch (error) {
      log.error(
        { session: this.id, error: (error as Error).message },
        'session refused: it cannot be recorded',
      );
      throw new Refusal('recording_unavailable', 'this session cannot be recorded, so it may not begin', {
        hint: 'The journal of the gateway cannot be written. Ask the people who run it.',
        cause: error,
      });
    }
  }

  cancelKey(id: number, length: number): Buffer {
    this.#cancelId = id;
    return this.#context.cancels.register(id, length, this);
  }

  async cancel(id: number, secret: Buffer): Promise<void> {
    const outcome = await this.#context.cancel(id, secret, this.clientHost);
    this.#context.metrics.cancelsTotal.inc({ ...this.#labels, outcome });
    const level = outcome === 'sent' ? 'info' : 'warn';
    this.#context.log[level](
      { client: this.clientHost, resource: this.#labels.resource, outcome },
      'cancel requested',
    );
  }

  random(length: number): Buffer {
    return this.#context.random(length);
  }

  log(message: string, fields: Readonly<Record<string, string | number | boolean | null>> = {}): void {
    this.#context.log.debug({ session: this.id, resource: this.#labels.resource, ...fields }, message);
  }

  #start(session: EngineSession): void {
    const context = this.#context;
    const record = this.#record;
    if (record === null) throw new Error('an engine opened a session without a record');
    this.#session = session;
    const labels = this.#labels;
    const decide = this.#theTarget.gate(session.facts.databaseUser, session.permit);
    const server = session.facts.server as Channel as StreamChannel;
    const client = this.client.detach();
    const upstream = server.detach();
    context.metrics.handshakeSeconds.observe(
      { ...labels, phase: 'total' },
      (context.now() - this.startedAt) / 1000,
    );
    context.log.info(
      {
        session: this.id,
        principal: session.permit.principal,
        resource: labels.resource,
        client: addressText(this.client.remote),
        program: this.#claim?.program ?? null,
        clientTls: tlsText(this.client.tls),
        serverTls: tlsText(session.facts.server.tls),
      },
      'session opened',
    );
    const counts = statementCounters(context.metrics, labels);
    const relay = new Relay(legOf(client.stream), legOf(upstream.stream), session, this.#theTarget.observe, {
      record,
      recorder: context.recorder,
      decide,
      statementBegan: (statement: Statement) => {
        for (const watcher of this.#watchers) watcher.began(statement);
      },
      statementEnded: (statement: Statement) => {
        counts[statement.status].inc();
        for (const watcher of this.#watchers) watcher.ended(statement);
      },
      refused: (statement: Statement) => {
        context.metrics.refusalsTotal.inc(labels);
        context.log.warn(
          { session: this.id, resource: labels.resource, kind: statement.kind, seq: statement.seq },
          'statement refused',
        );
      },
      noted: (note) => {
        if (note.kind !== 'opaque') return;
        context.metrics.opaqueTotal.inc(labels);
        context.log.warn(
          { session: this.id, resource: labels.resource, reason: note.reason, trace: note.trace },
          'protocol not followed',
        );
      },
      closed: (end) => this.#closed(end),
    });
    this.#relay = relay;
    context.metrics.sessionsOpen.inc(labels);
    this.#idleSince = context.now();
    if (context.draining) this.end(new Refusal('shutdown', 'the gateway is shutting down'), 'shutdown');
    relay.start(client.pending, upstream.pending);
  }

  #closed(end: RelayEnd): void {
    for (const watcher of this.#watchers) watcher.closed();
    this.#watchers.clear();
    const { metrics, log, now } = this.#context;
    metrics.sessionsOpen.dec(this.#labels);
    metrics.sessionsTotal.inc({ ...this.#labels, reason: end.reason });
    metrics.bytesTotal.inc({ ...this.#labels, direction: 'sent' }, end.bytesSent);
    metrics.bytesTotal.inc({ ...this.#labels, direction: 'received' }, end.bytesReceived);
    this.#record?.close(end);
    log.info(
      {
        session: this.id,
        resource: this.#labels.resource,
        reason: end.reason,
        detail: end.detail,
        seconds: (now() - this.startedAt) / 1000,
        bytesSent: end.bytesSent,
        bytesReceived: end.bytesReceived,
      },
      'session closed',
    );
    this.#finish();
  }

  #failed(error: unknown): void {
    const { metrics, log, recorder } = this.#context;
    const code = error instanceof Refusal || error instanceof ProtocolError ? error.code : 'internal';
    metrics.handshakeFailuresTotal.inc({ ...this.#labels, code });
    const fields = {
      session: this.id,
      resource: this.#labels.resource,
      client: addressText(this.client.remote),
      code,
      fault: error instanceof ProtocolError ? error.fault : null,
      serverCode: error instanceof ProtocolError ? error.serverCode : null,
      error: error instanceof Error ? error.message : String(error),
    };
    if (code === 'internal') log.error({ ...fields, stack: (error as Error).stack }, 'connection failed');
    else log.warn(fields, 'connection refused');
    this.#record?.close({
      reason: closeReasonOf(error),
      detail: fields.error,
      bytesSent: 0,
      bytesReceived: 0,
    });
    // Who is turned away for guessing is on record once, by the access that found it out.
    if (this.#record === null && this.#claim !== null && code !== 'rate_limited') {
      recorder.audit({
        action: 'session_refused',
        principal: this.#permit?.principal ?? null,
        resource: this.#labels.resource,
        clientAddress: addressText(this.client.remote),
        reason: code,
        detail: {
          user: this.#claim.user,
          database: this.#claim.database,
          program: this.#claim.program,
          launch: this.launch,
        },
      });
    }
    void this.#abandon();
  }

  /** The engine has said what it could; whoever does not close is closed. */
  async #abandon(): Promise<void> {
    for (const server of this.#servers) server.destroy();
    await this.client.drained(1000);
    this.client.destroy();
    this.#finish();
  }

  #finish(): void {
    this.#abort.abort(SESSION_OVER);
    if (this.#cancelId !== null) this.#context.cancels.unregister(this.#cancelId, this);
    if (this.#reserved) this.#context.release(this.#theTarget);
    this.#reserved = false;
    if (this.#permit !== null) this.#context.access.closed(this.#permit);
    this.#permit = null;
    if (this.#relay === null) {
      for (const server of this.#servers) server.destroy();
      this.client.end();
      void this.client.drained(1000).then(() => this.client.destroy());
    }
    this.#done();
  }

  #expire(timeoutMs: number): void {
    const text = `the sign-in took longer than ${timeoutMs / 1000} s`;
    this.#abort.abort(SESSION_OVER);
    this.client.fail(new ProtocolError('timeout', 'client', text));
    for (const server of this.#servers) server.fail(new ProtocolError('timeout', 'server', text));
  }

  get #theTarget(): Target {
    if (this.#target === null) throw new Error('the resource was used before the client was admitted to one');
    return this.#target;
  }

  #visitor(): Visitor {
    return {
      session: this.id,
      address: this.client.remote,
      tls: this.client.tls,
      clientAuth: this.door.clientAuth,
      principal: this.door.principal,
      launch: this.door.launch,
      certificate: this.door.certificate ?? null,
      resources: this.door.targets,
    };
  }

  /** `at` is the address that the host's name led to before, where it must be the same machine again. */
  #connect(address: Address, at = address.host): Promise<StreamChannel> {
    const { limits, tls } = this.#theTarget;
    const stop = this.#context.metrics.handshakeSeconds.startTimer({ ...this.#labels, phase: 'connect' });
    return new Promise((resolve, reject) => {
      const socket = address.host.startsWith('/')
        ? connect({ path: address.host, allowHalfOpen: true })
        : connect({ host: at, port: address.port, allowHalfOpen: true, noDelay: true });
      const timer = setTimeout(() => failed(new Error('timed out')), limits.connectTimeoutMs);
      const failed = (cause: Error): void => {
        clearTimeout(timer);
        socket.destroy();
        this.#context.log.warn(
          {
            session: this.id,
            resource: this.#labels.resource,
            server: addressText(address),
            error: cause.message,
          },
          'database not reachable',
        );
        reject(
          new Refusal(
            'server_unreachable',
            `the database server of ${this.#labels.resource} cannot be reached`,
            {
              hint: 'The server is down, or the network between the gateway and it.',
              cause,
            },
          ),
        );
      };
      socket.once('error', failed);
      socket.once('connect', () => {
        clearTimeout(timer);
        stop();
        socket.off('error', failed);
        socket.setKeepAlive(true, KEEP_ALIVE_MS);
        const channel = new StreamChannel(socket, 'server', address, tls);
        this.#servers.push(channel);
        if (socket.remoteAddress !== undefined) this.#reached.set(channel, socket.remoteAddress);
        resolve(channel);
      });
    });
  }
}

/** One counter a status, looked up once: prom-client hashes the labels at each look-up. */
function statementCounters(
  metrics: Metrics,
  labels: { resource: string; engine: string },
): Record<StatementStatus, { inc(): void }> {
  const counters = STATEMENT_STATUSES.map(
    (status) => [status, metrics.statementsTotal.labels({ ...labels, status })] as const,
  );
  return Object.fromEntries(counters) as Record<StatementStatus, { inc(): void }>;
}

function closeReasonOf(error: unknown): CloseReason {
  if (error instanceof Refusal) {
    if (error.code === 'server_unreachable') return 'server_unreachable';
    if (error.code === 'server_rejected' || error.code === 'credentials_invalid') return 'auth_failed';
    if (error.code === 'recording_unavailable' || error.code === 'recording_failed')
      return 'recording_failed';
    return 'denied';
  }
  if (error instanceof ProtocolError && error.code === 'authentication_failed') return 'auth_failed';
  return 'protocol_error';
}

/** `host:port`, the host in brackets where it has colons; a Unix socket's path alone. */
export function addressText(address: Address): string {
  if (address.host.startsWith('/') || address.port === 0) return address.host;
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

function tlsText(state: TlsState | null): string | null {
  return state === null ? null : `${state.version} ${state.cipher}`;
}
