import { lookup } from 'node:dns/promises';
import { connect, isIP, type Socket } from 'node:net';
import { setTimeout as after } from 'node:timers/promises';
import type { Address, Channel, ConnectTls, TlsState } from '../../protocols/channel.ts';
import type { Credentials } from '../../protocols/engine.ts';
import { ProtocolError, type ProtocolErrorCode, Refusal } from '../../protocols/error.ts';
import { SecretError } from '../secrets/provider.ts';
import { StreamChannel } from './channel.ts';
import type { Target } from './target.ts';

/** The way to a session, as `check --connect` walks it. */
export const PROBE_STEPS = ['name', 'tcp', 'secret', 'tls', 'sign_in'] as const;
export type ProbeStep = (typeof PROBE_STEPS)[number];

export interface ProbeResult {
  readonly step: ProbeStep;
  /** `skipped`: an earlier step failed, or the resource has no such step. */
  readonly outcome: 'ok' | 'failed' | 'skipped';
  /** What was found, or what went wrong. Never a secret. */
  readonly detail: string;
  /** What to do about a failure. */
  readonly hint: string | null;
  readonly milliseconds: number;
}

export interface AddressProbe {
  readonly address: string;
  readonly ok: boolean;
  readonly steps: readonly ProbeResult[];
}

/** A step that failed, with what the person can do. */
class StepFailure extends Error {
  readonly hint: string | null;

  constructor(message: string, hint: string | null) {
    super(message);
    this.hint = hint;
  }
}

/**
 * Tries one resource address by address: name resolution, TCP, launch credentials, TLS, sign-in. Leases are given back
 * before it resolves. Never rejects for anything that the network, the provider or the server does.
 */
export async function probeTarget(
  target: Target,
  ports: { readonly random: (length: number) => Buffer; readonly now: () => number },
): Promise<AddressProbe[]> {
  const probes: AddressProbe[] = [];
  for (const address of target.resource.addresses) {
    const session = new AbortController();
    try {
      probes.push(await new Prober(target, address, session.signal, ports).run());
    } finally {
      session.abort();
    }
  }
  return probes;
}

class Prober {
  readonly #target: Target;
  readonly #address: Address;
  readonly #signal: AbortSignal;
  readonly #ports: { readonly random: (length: number) => Buffer; readonly now: () => number };
  readonly #results: ProbeResult[] = [];

  constructor(
    target: Target,
    address: Address,
    signal: AbortSignal,
    ports: { readonly random: (length: number) => Buffer; readonly now: () => number },
  ) {
    this.#target = target;
    this.#address = address;
    this.#signal = signal;
    this.#ports = ports;
  }

  async run(): Promise<AddressProbe> {
    const isSocket = this.#address.host.startsWith('/');
    const found = isSocket || (await this.#step('name', () => this.#resolveName())) !== null;
    const socket = found ? await this.#step('tcp', () => this.#dial(isSocket)) : null;
    const credentials = await this.#step('secret', () => this.#fetchCredentials());
    if (socket !== null && credentials !== null) await this.#signIn(socket.value, credentials.value);
    socket?.value.destroy();
    credentials?.value.password?.wipe();
    const steps = PROBE_STEPS.map(
      (step) => this.#results.find((result) => result.step === step) ?? skipped(step),
    );
    return {
      address: addressText(this.#address),
      ok: steps.every((step) => step.outcome !== 'failed'),
      steps,
    };
  }

  async #step<T>(
    step: ProbeStep,
    act: () => Promise<{ value: T; detail: string }>,
  ): Promise<{ value: T } | null> {
    const started = this.#ports.now();
    try {
      const { value, detail } = await act();
      this.#record(step, 'ok', detail, null, started);
      return { value };
    } catch (error) {
      const failure = error as Error & { hint?: string | null };
      this.#record(step, 'failed', failure.message, failure.hint ?? null, started);
      return null;
    }
  }

  #record(
    step: ProbeStep,
    outcome: ProbeResult['outcome'],
    detail: string,
    hint: string | null,
    started: number,
  ): void {
    this.#results.push({ step, outcome, detail, hint, milliseconds: this.#ports.now() - started });
  }

  async #resolveName(): Promise<{ value: true; detail: string }> {
    const { host } = this.#address;
    if (isIP(host) !== 0) return { value: true, detail: 'is an address' };
    const { connectTimeoutMs } = this.#target.limits;
    const found = await Promise.race([
      lookup(host, { all: true }).catch((error: NodeJS.ErrnoException) => {
        throw nameFailure(host, error);
      }),
      after(connectTimeoutMs, null, { signal: this.#signal }).catch(() => null),
    ]);
    if (found === null) {
      throw new StepFailure(
        `${host} was not resolved within ${connectTimeoutMs / 1000} s`,
        'The name server does not answer.',
      );
    }
    return { value: true, detail: found.map(({ address }) => address).join(', ') };
  }

  async #dial(isSocket: boolean): Promise<{ value: Socket; detail: string }> {
    const { host, port } = this.#address;
    const { connectTimeoutMs } = this.#target.limits;
    const socket = isSocket
      ? connect({ path: host, allowHalfOpen: true })
      : connect({ host, port, allowHalfOpen: true, noDelay: true });
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        socket.destroy();
        reject(
          new StepFailure(
            `no answer within ${connectTimeoutMs / 1000} s`,
            'A firewall drops the packets, or the host is down.',
          ),
        );
      }, connectTimeoutMs);
      socket.once('connect', () => {
        clearTimeout(timer);
        resolve();
      });
      socket.on('error', (error: NodeJS.ErrnoException) => {
        clearTimeout(timer);
        reject(
          new StepFailure(
            DIAL_ERRORS[error.code ?? '']?.[0] ?? error.message,
            DIAL_ERRORS[error.code ?? '']?.[1] ?? null,
          ),
        );
      });
    });
    return { value: socket, detail: isSocket ? 'connected' : `connected to ${socket.remoteAddress}` };
  }

  async #fetchCredentials(): Promise<{ value: Credentials; detail: string }> {
    try {
      const credentials = await this.#target.credentials('launch', this.#signal);
      if (credentials === null) throw new StepFailure('there are no credentials', null);
      const what = credentials.password === null ? 'without a password' : `with a ${credentials.kind}`;
      return { value: credentials, detail: `signs in as ${credentials.username} ${what}` };
    } catch (error) {
      if (error instanceof SecretError)
        throw new StepFailure(`${error.provider}: ${error.message}`, error.hint);
      throw error;
    }
  }

  /** The engine does TLS and sign-in in one go; its channel tells how far it came. */
  async #signIn(socket: Socket, credentials: Credentials): Promise<void> {
    const { engine, resource, tls, limits, database } = this.#target;
    const channel = new ProbeChannel(new StreamChannel(socket, 'server', this.#address, tls));
    const started = this.#ports.now();
    const timer = setTimeout(
      () => channel.fail(new ProtocolError('timeout', 'server', 'the server did not go on with the sign-in')),
      limits.handshakeTimeoutMs,
    );
    try {
      const facts = await engine.probe(channel, resource, credentials, {
        database,
        random: this.#ports.random,
      });
      this.#recordTls(channel, null, started);
      const where = facts.database === null ? '' : `, database ${facts.database}`;
      this.#record(
        'sign_in',
        'ok',
        `${facts.engine} ${facts.serverVersion} as ${facts.databaseUser}${where}, ${facts.authentication}`,
        null,
        channel.tlsEnded ?? started,
      );
    } catch (error) {
      const failure = error as Error;
      const code = error instanceof ProtocolError || error instanceof Refusal ? error.code : null;
      if (code !== null && TLS_FAILURES.has(code)) {
        this.#recordTls(channel, failure, started);
        return;
      }
      this.#recordTls(channel, null, started);
      const hint = (error instanceof Refusal ? error.hint : null) ?? SIGN_IN_HINTS[code ?? ''] ?? null;
      this.#record('sign_in', 'failed', failure.message, hint, channel.tlsEnded ?? started);
    } finally {
      clearTimeout(timer);
      channel.destroy();
    }
  }

  #recordTls(channel: ProbeChannel, failure: Error | null, started: number): void {
    const { mode } = this.#target.tls;
    if (failure !== null) {
      this.#record('tls', 'failed', failure.message, tlsHint(failure), channel.tlsStarted ?? started);
      return;
    }
    const state = channel.secured;
    if (state === null) {
      const isSocket = this.#address.host.startsWith('/');
      const absent = isSocket ? 'not used on a Unix socket' : 'not used: the server has none';
      const detail = mode === 'disable' ? 'disabled' : absent;
      this.#results.push({ step: 'tls', outcome: 'skipped', detail, hint: null, milliseconds: 0 });
      return;
    }
    const proof = state.verified ? 'certificate verified' : `certificate not checked (${mode})`;
    const took = (channel.tlsEnded ?? started) - (channel.tlsStarted ?? started);
    this.#results.push({
      step: 'tls',
      outcome: 'ok',
      detail: `${state.version} ${state.cipher}, ${proof}`,
      hint: null,
      milliseconds: took,
    });
  }
}

/** Passes everything on, and remembers when TLS began, when it was there, and what it is. */
class ProbeChannel implements Channel {
  readonly #inner: StreamChannel;
  secured: TlsState | null = null;
  tlsStarted: number | null = null;
  tlsEnded: number | null = null;

  constructor(inner: StreamChannel) {
    this.#inner = inner;
  }

  get side(): 'client' | 'server' {
    return this.#inner.side;
  }
  get remote(): Address {
    return this.#inner.remote;
  }
  get tls(): TlsState | null {
    return this.#inner.tls;
  }
  get buffered(): number {
    return this.#inner.buffered;
  }
  get tlsMode(): Channel['tlsMode'] {
    return this.#inner.tlsMode;
  }
  read(length: number, field: string): Promise<Buffer> {
    return this.#inner.read(length, field);
  }
  peek(length: number, field: string): Promise<Buffer> {
    return this.#inner.peek(length, field);
  }
  first(): Promise<number | null> {
    return this.#inner.first();
  }
  write(bytes: Buffer): void {
    this.#inner.write(bytes);
  }
  end(): void {
    this.#inner.end();
  }
  drained(milliseconds: number): Promise<void> {
    return this.#inner.drained(milliseconds);
  }
  destroy(): void {
    this.#inner.destroy();
  }
  fail(error: Error): void {
    this.#inner.fail(error);
  }
  acceptTls(): Promise<TlsState> {
    throw new ProtocolError('unsupported', 'ours', 'a probe is never a server');
  }
  async connectTls(options: ConnectTls): Promise<TlsState> {
    this.tlsStarted = Date.now();
    this.secured = await this.#inner.connectTls(options);
    this.tlsEnded = Date.now();
    return this.secured;
  }
  clearTls(): ReturnType<Channel['clearTls']> {
    return this.#inner.clearTls();
  }
}

const TLS_FAILURES: ReadonlySet<string> = new Set<ProtocolErrorCode | 'server_tls_failed'>([
  'tls_required',
  'tls_failed',
  'tls_stuffing',
  'server_tls_failed',
]);

const SIGN_IN_HINTS: Readonly<Record<string, string>> = {
  authentication_failed:
    'The server does not take this account with this password, or not from this machine.',
  server_rejected: 'The server does not take this account with this password, or not from this machine.',
  authentication_unsupported:
    'The server asks for a kind of proof that Sallyport cannot give, or gives only over TLS.',
  server_untrusted: 'The server does not know the password itself: something may stand between.',
  unexpected_end: 'It may be another kind of server, or it refuses connections from this machine.',
  unknown_message: 'Is it the kind of server that "type" says?',
  unexpected_message: 'Is it the kind of server that "type" says?',
  malformed: 'Is it the kind of server that "type" says?',
  length_out_of_range: 'Is it the kind of server that "type" says?',
  timeout: 'It may be another kind of server, or one that is overloaded.',
};

const DIAL_ERRORS: Readonly<Record<string, readonly [message: string, hint: string]>> = {
  ECONNREFUSED: ['nothing listens there', 'The server is down, or listens on another port or address.'],
  ENOENT: ['there is no such socket', 'The server is down, or its socket is elsewhere.'],
  EHOSTUNREACH: ['there is no way to that host', 'A route or a firewall is in the way.'],
  ENETUNREACH: ['there is no way to that network', 'A route, a VPN or a firewall is in the way.'],
  ETIMEDOUT: ['no answer', 'A firewall drops the packets, or the host is down.'],
  ECONNRESET: ['the connection was cut at once', 'A firewall or a load balancer without a server behind it.'],
  EACCES: ['this user may not open it', 'The permissions of the socket say who may.'],
};

/** What to do about the certificate faults that people meet, by OpenSSL's and Node's names for them. */
const CERTIFICATE_HINTS: readonly (readonly [RegExp, string])[] = [
  [/has expired|CERT_HAS_EXPIRED/, "The server's certificate must be renewed."],
  [
    /self.signed|unable to get local issuer|unable to verify|SELF_SIGNED|UNABLE_TO/,
    'Put the authority of the server\'s certificate into "tls.ca".',
  ],
  [
    /altnames|does not match|ERR_TLS_CERT_ALTNAME/,
    'Name the server as its certificate does ("host" or "tls.server_name"), or use verify-ca.',
  ],
  [/not yet valid/, 'One of the two clocks is wrong.'],
  [/version|protocol/i, 'The server speaks only older TLS: see "tls.min_version".'],
  [
    /certificate required|handshake failure|bad certificate/,
    'The server wants a client certificate: "tls.cert".',
  ],
];

function tlsHint(failure: Error): string | null {
  const code = (failure as ProtocolError).code;
  if (code === 'tls_required') return 'Switch TLS on at the server, or say "tls.mode: prefer" or "disable".';
  if (code === 'tls_stuffing')
    return 'Is it the kind of server that "type" says? If it is, something between adds bytes of its own.';
  const text = `${failure.message} ${(failure.cause as Error | undefined)?.message ?? ''}`;
  return CERTIFICATE_HINTS.find(([pattern]) => pattern.test(text))?.[1] ?? null;
}

function nameFailure(host: string, error: NodeJS.ErrnoException): StepFailure {
  if (error.code === 'ENOTFOUND')
    return new StepFailure(
      `there is no host ${host}`,
      "Is the name right, and known to this machine's name server?",
    );
  if (error.code === 'EAI_AGAIN')
    return new StepFailure('the name server does not answer', 'Check the network, and /etc/resolv.conf.');
  return new StepFailure(`${host} cannot be resolved (${error.code ?? error.message})`, null);
}

function skipped(step: ProbeStep): ProbeResult {
  return { step, outcome: 'skipped', detail: '', hint: null, milliseconds: 0 };
}

function addressText({ host, port }: Address): string {
  if (host.startsWith('/')) return host;
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
