import { constants } from 'node:crypto';
import { isIP } from 'node:net';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import * as tls from 'node:tls';
import type {
  AcceptTls,
  Address,
  Channel,
  ConnectTls,
  TlsMode,
  TlsState,
  TlsTransport,
} from '../../protocols/channel.ts';
import { type Fault, ProtocolError } from '../../protocols/error.ts';

/** How TLS is done on one leg. The engines only say when. */
export interface ChannelTls {
  readonly mode: TlsMode;
  /** Client side: the listener's certificate and key. Server side: CA, client certificate. Null: no TLS on this leg. */
  readonly context: tls.SecureContext | null;
  /**
   * Client side: as `context`, with at most TLS 1.2 and without session tickets, for engines that ask for that. A
   * context's limits cannot be narrowed afterwards, so it is a second one: `limitedContext` makes it.
   */
  readonly limitedContext?: tls.SecureContext | null;
  /** Our certificate in `context`, DER: for the channel binding of clients. */
  readonly certificate?: Buffer | null;
  /** Client side: ask for a certificate (mtls). */
  readonly requestCertificate?: boolean;
  /** Server side: the name that the certificate must carry, and SNI. Defaults to the address dialled. */
  readonly serverName?: string | null;
}

/**
 * How long a client that leaves TLS is left alone. Java's TLS throws away what has arrived when it is closed, and jTDS
 * closes it only after it has sent LOGIN7: an answer that is too quick is lost, and the driver waits for it in vain. A
 * real server takes longer than this to sign somebody in; a refusal of ours does not.
 */
const CLEARED_SETTLE_MS = 25;

/** The second context of a listener, made from the same options as the first. */
export function limitedContext(options: tls.SecureContextOptions): tls.SecureContext {
  return tls.createSecureContext({
    ...options,
    maxVersion: 'TLSv1.2',
    secureOptions: (options.secureOptions ?? 0) | constants.SSL_OP_NO_TICKET,
  });
}

export const NO_TLS: ChannelTls = { mode: 'disable', context: null };

interface Waiter {
  readonly length: number;
  readonly field: string;
  readonly resolve: (ready: boolean) => void;
  readonly reject: (error: Error) => void;
}

/**
 * A `Channel` over a stream: a socket, one end of a tunnel, or a `stream.duplexPair()` in tests. Reads in paused mode,
 * so that no more than the stream's own buffer is held for a peer that sends more than was asked for.
 */
export class StreamChannel implements Channel {
  readonly side: 'client' | 'server';
  readonly remote: Address;
  readonly #settings: ChannelTls;
  readonly #raw: Duplex;
  #stream: Duplex;
  #transport: TlsTransport | null = null;
  #tls: TlsState | null = null;
  #chunks: Buffer[] = [];
  #buffered = 0;
  #waiter: Waiter | null = null;
  #ended = false;
  #failure: Error | null = null;

  constructor(stream: Duplex, side: 'client' | 'server', remote: Address, settings: ChannelTls = NO_TLS) {
    this.side = side;
    this.remote = remote;
    this.#settings = settings;
    this.#raw = stream;
    this.#stream = stream;
    // A peer that resets the connection is met where the next read or write is; it must never be an uncaught event.
    stream.on('error', () => {});
    this.#listen();
  }

  get tls(): TlsState | null {
    return this.#tls;
  }

  get tlsMode(): TlsMode {
    return this.#settings.context === null ? 'disable' : this.#settings.mode;
  }

  get buffered(): number {
    this.#pull();
    return this.#buffered;
  }

  async read(length: number, field: string): Promise<Buffer> {
    await this.#available(length, field);
    return this.#consume(length);
  }

  async peek(length: number, field: string): Promise<Buffer> {
    await this.#available(length, field);
    if (this.#chunks[0]!.length < length) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0]!.subarray(0, length);
  }

  async first(): Promise<number | null> {
    this.#pull();
    if (this.#buffered === 0) {
      if (this.#ended) return null;
      const ready = await new Promise<boolean>((resolve, reject) => {
        this.#wait({ length: 1, field: '', resolve, reject });
      });
      if (!ready) return null;
    }
    return this.#chunks[0]![0]!;
  }

  write(bytes: Buffer): void {
    if (!this.#stream.destroyed && !this.#stream.writableEnded) this.#stream.write(bytes);
  }

  end(): void {
    if (!this.#stream.writableEnded) this.#stream.end();
  }

  destroy(): void {
    this.#stream.destroy();
    this.#raw.destroy();
  }

  /** Makes the pending read, and all later ones, fail with `error`: how the gateway's deadlines reach an engine. */
  fail(error: Error): void {
    this.#failure ??= error;
    const waiter = this.#waiter;
    this.#waiter = null;
    waiter?.reject(this.#failure);
  }

  async drained(milliseconds: number): Promise<void> {
    const stream = this.#stream;
    if (this.#ended || stream.destroyed) return;
    this.#unlisten();
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, milliseconds);
      function done(): void {
        clearTimeout(timer);
        stream.off('close', done);
        stream.off('end', done);
        resolve();
      }
      stream.on('end', done);
      stream.on('close', done);
      stream.on('error', done);
      stream.resume();
    });
    this.#ended = true;
  }

  async acceptTls(options: AcceptTls): Promise<TlsState> {
    const { context, limitedContext, requestCertificate } = this.#settings;
    if (context === null) throw new ProtocolError('tls_required', 'ours', 'this listener has no certificate');
    const limited = options.maxVersion === 'TLSv1.2' || options.noTickets === true;
    if (limited && !limitedContext) {
      throw new ProtocolError(
        'tls_required',
        'ours',
        'this listener has no context for TLS 1.2 without tickets',
      );
    }
    const base = this.#takeRaw(options.transport);
    const socket = new tls.TLSSocket(base as never, {
      isServer: true,
      secureContext: limited ? limitedContext! : context,
      requestCert: requestCertificate ?? false,
      rejectUnauthorized: false,
      ...(options.alpn ? { ALPNProtocols: [...options.alpn] } : {}),
    });
    await this.#handshaken(socket, 'secure');
    const verified = requestCertificate === true && isClientVerified(socket);
    return this.#secured(socket, verified, this.#settings.certificate ?? null);
  }

  async connectTls(options: ConnectTls): Promise<TlsState> {
    const { context, mode } = this.#settings;
    if (context === null) throw new ProtocolError('tls_failed', 'ours', 'TLS is disabled for this server');
    const name = options.serverName ?? this.#settings.serverName ?? this.remote.host;
    const verified = mode === 'verify-ca' || mode === 'verify-full';
    const socket = tls.connect({
      socket: this.#takeRaw(options.transport) as never,
      secureContext: context,
      host: name,
      ...(isIP(name) ? {} : { servername: name }),
      rejectUnauthorized: verified,
      ...(mode === 'verify-full' ? {} : { checkServerIdentity: () => undefined }),
      ...(options.alpn ? { ALPNProtocols: [...options.alpn] } : {}),
    });
    getLeafOnly(socket);
    await this.#handshaken(socket, 'secureConnect');
    const state = this.#secured(socket, verified && socket.authorized, ownCertificate(socket));
    this.#tls = { ...state, binding: bindingOf(socket, state.version) };
    return this.#tls;
  }

  limitTlsRecords(bytes: number): void {
    if (this.#tls !== null) (this.#stream as tls.TLSSocket).setMaxSendFragment(bytes);
  }

  async clearTls(): Promise<void> {
    const secured = this.#stream;
    const transport = this.#transport;
    if (this.#tls === null || transport === null) {
      throw new ProtocolError('unsupported', 'ours', 'this channel cannot leave TLS');
    }
    await new Promise<void>((resolve) => {
      if (secured.destroyed || secured.writableLength === 0) resolve();
      else secured.write(Buffer.alloc(0), () => resolve());
    });
    if (this.buffered > 0) {
      throw new ProtocolError('malformed', this.#fault, `the ${this.side} sent too much inside TLS`);
    }
    this.#unlisten();
    secured.on('error', () => {});
    const pending = transport.release();
    secured.destroy();
    if (pending.length > 0) this.#raw.unshift(pending);
    this.#stream = this.#raw;
    this.#transport = null;
    this.#tls = null;
    this.#ended = false;
    this.#listen();
    if (this.side === 'client') await sleep(CLEARED_SETTLE_MS);
  }

  /**
   * Hands the stream over to the relay, with the bytes that were received and not read. The channel is of no more use
   * than its `tls` and `remote` from then on.
   */
  detach(): { stream: Duplex; pending: Buffer } {
    this.#pull();
    this.#unlisten();
    const pending = Buffer.concat(this.#chunks);
    this.#chunks = [];
    this.#buffered = 0;
    return { stream: this.#stream, pending };
  }

  #takeRaw(makeTransport: AcceptTls['transport']): Duplex {
    const raw = this.#raw;
    this.#pull();
    // TLS over a stream that has ended already would wait for ever.
    if (this.#ended) throw this.#tlsFailed(new Error('the peer closed the connection'));
    this.#unlisten();
    // Without the pause, unshifted bytes are emitted to nobody and the handshake waits for ever.
    raw.pause();
    if (this.#buffered > 0) raw.unshift(Buffer.concat(this.#chunks));
    this.#chunks = [];
    this.#buffered = 0;
    if (makeTransport === undefined) return raw;
    this.#transport = makeTransport(raw);
    return this.#transport;
  }

  async #handshaken(socket: tls.TLSSocket, event: 'secure' | 'secureConnect'): Promise<void> {
    this.#stream = socket;
    // One failure may be told several times; only the first is of interest, none may be an uncaught event.
    socket.on('error', () => {});
    await new Promise<void>((resolve, reject) => {
      const settle = (finish: () => void): void => {
        socket.off(event, onSecure);
        socket.off('error', onError);
        socket.off('close', onClose);
        socket.off('end', onClose);
        socket.off('readable', ignore);
        this.#waiter = null;
        finish();
      };
      const ignore = (): void => {};
      const onSecure = (): void => settle(resolve);
      const onError = (cause: Error): void => settle(() => reject(this.#tlsFailed(cause)));
      const onClose = (): void =>
        settle(() => reject(this.#tlsFailed(new Error('the peer closed the connection'))));
      socket.on(event, onSecure);
      socket.on('error', onError);
      socket.on('close', onClose);
      // A peer that half-closes in the middle is seen only by a stream that somebody wants to read.
      socket.on('end', onClose);
      socket.on('readable', ignore);
      // A deadline that passes during the handshake rejects through the same waiter as a pending read.
      this.#waiter = {
        length: 0,
        field: 'TLS',
        resolve: () => {},
        reject: (error) => settle(() => reject(error)),
      };
      if (this.#failure) this.fail(this.#failure);
    });
    this.#listen();
  }

  #secured(socket: tls.TLSSocket, verified: boolean, localCertificate: Buffer | null): TlsState {
    const peer = socket.getPeerCertificate(false) as tls.PeerCertificate | undefined;
    this.#tls = {
      version: socket.getProtocol() ?? 'unknown',
      cipher: socket.getCipher().name,
      alpn: socket.alpnProtocol || null,
      serverName: (socket.servername as string | false | undefined) || null,
      peerCertificate: peer?.raw ?? null,
      localCertificate,
      verified,
    };
    return this.#tls;
  }

  #tlsFailed(cause: Error): ProtocolError {
    return new ProtocolError('tls_failed', this.#fault, `TLS handshake failed: ${cause.message}`, { cause });
  }

  get #fault(): Fault {
    return this.side;
  }

  async #available(length: number, field: string): Promise<void> {
    this.#pull();
    if (this.#failure) throw this.#failure;
    if (this.#buffered >= length) return;
    if (this.#ended) throw this.#unexpectedEnd(field);
    await new Promise<boolean>((resolve, reject) => {
      this.#wait({ length, field, resolve, reject });
    }).then((ready) => {
      if (!ready) throw this.#unexpectedEnd(field);
    });
  }

  #unexpectedEnd(field: string): ProtocolError {
    return new ProtocolError(
      'unexpected_end',
      this.#fault,
      `the ${this.side} closed the connection where ${field} was expected`,
    );
  }

  #wait(waiter: Waiter): void {
    if (this.#waiter) throw new Error('two reads at once on one channel');
    if (this.#failure) {
      waiter.reject(this.#failure);
      return;
    }
    this.#waiter = waiter;
    this.#onReadable();
  }

  #consume(length: number): Buffer {
    this.#buffered -= length;
    const head = this.#chunks[0]!;
    if (head.length === length) {
      this.#chunks.shift();
      return head;
    }
    if (head.length > length) {
      this.#chunks[0] = head.subarray(length);
      return head.subarray(0, length);
    }
    const whole = Buffer.concat(this.#chunks);
    this.#chunks = whole.length > length ? [whole.subarray(length)] : [];
    return whole.subarray(0, length);
  }

  #pull(): void {
    if (this.#ended) return;
    for (
      let chunk = this.#stream.read() as Buffer | null;
      chunk !== null;
      chunk = this.#stream.read() as Buffer | null
    ) {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      // One `read()` returns all that the stream holds; a second would start filling it again.
      if (this.#waiter === null || this.#buffered >= this.#waiter.length) break;
    }
  }

  readonly #onReadable = (): void => {
    const waiter = this.#waiter;
    if (waiter === null || waiter.length === 0) return;
    this.#pull();
    if (this.#buffered >= waiter.length) this.#settle(true);
    else if (this.#ended) this.#settle(false);
  };

  readonly #onEnd = (): void => {
    this.#ended = true;
    if (this.#waiter !== null && this.#waiter.length > 0) this.#settle(this.#buffered >= this.#waiter.length);
  };

  readonly #onError = (): void => this.#onEnd();

  #settle(ready: boolean): void {
    const waiter = this.#waiter;
    this.#waiter = null;
    waiter?.resolve(ready);
  }

  #listen(): void {
    this.#stream.on('readable', this.#onReadable);
    this.#stream.on('end', this.#onEnd);
    this.#stream.on('close', this.#onEnd);
    this.#stream.on('error', this.#onError);
  }

  #unlisten(): void {
    this.#stream.off('readable', this.#onReadable);
    this.#stream.off('end', this.#onEnd);
    this.#stream.off('close', this.#onEnd);
    this.#stream.off('error', this.#onError);
  }
}

/** What a client can bind an authentication to on its TLS connection: RFC 5929 up to TLS 1.2, RFC 9266 from 1.3. */
function bindingOf(socket: tls.TLSSocket, version: string): NonNullable<TlsState['binding']> | null {
  if (version === 'TLSv1.3') {
    const data = socket.exportKeyingMaterial(32, 'EXPORTER-Channel-Binding', Buffer.alloc(0));
    return { type: 'tls-exporter', data };
  }
  const finished = socket.getFinished();
  return finished === undefined ? null : { type: 'tls-unique', data: finished };
}

/**
 * Node makes objects of the server's whole chain when it checks the name, and looks at the first alone. To make that one
 * only, and once, saves 0.2 ms a sign-in.
 */
function getLeafOnly(socket: tls.TLSSocket): void {
  const get = socket.getPeerCertificate.bind(socket);
  let leaf: tls.DetailedPeerCertificate | null = null;
  socket.getPeerCertificate = () => {
    leaf ??= get(false) as tls.DetailedPeerCertificate;
    return leaf;
  };
}

/** The client certificate that we are ready to show, DER; null where none is configured. */
function ownCertificate(socket: tls.TLSSocket): Buffer | null {
  const own = socket.getCertificate() as Partial<tls.PeerCertificate> | null;
  return own?.raw ?? null;
}

/**
 * Whether the client showed a certificate from one of the listener's authorities. Node works `authorized` out only for
 * sockets of a `tls.Server`, by this same question to OpenSSL, so it is asked here. Where it cannot be asked: no.
 */
function isClientVerified(socket: tls.TLSSocket): boolean {
  const { _handle: handle } = socket as unknown as { _handle?: { verifyError?(): Error | null } };
  return handle?.verifyError !== undefined && handle.verifyError() === null;
}
