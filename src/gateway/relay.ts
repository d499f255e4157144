import type { EngineSession, Note, ObserveOptions, Observer, Sink, Verdict } from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import type { Statement } from '../../protocols/statement.ts';
import type { CloseReason, Recorder, SessionRecord, Waiter } from '../recording/recorder.ts';
import type { Leg } from './leg.ts';
import { LINGER_MS_MAX, PARTING_MS_MAX, RELAY_PENDING_BYTES_MAX, RELAY_TURN_BYTES_MAX } from './limits.ts';
import { readBuffers } from './read-buffers.ts';

/** What a relay reports beside the traffic. All calls are synchronous and cheap. */
export interface RelayPort {
  readonly record: SessionRecord;
  readonly recorder: Recorder;
  /** The gate: may this statement go to the server? */
  decide(statement: Statement): Verdict;
  statementBegan(statement: Statement): void;
  statementEnded(statement: Statement): void;
  refused(statement: Statement): void;
  noted(note: Note): void;
  /** Called once, when both directions are closed and every event has been appended. */
  closed(end: RelayEnd): void;
}

export interface RelayEnd {
  readonly reason: CloseReason;
  readonly detail: string | null;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/**
 * Carries one session's bytes after sign-in.
 *
 * Chunks move as they come; beside them the engine's observer follows the protocol. A statement's start is in the
 * journal before its bytes go to the server: bytes that follow a `begin` wait in `pending` until the recorder calls
 * `written()`, which it does once per turn of the event loop for all sessions together. Everything else passes in the
 * same call in which it was read. There is no promise and no closure per chunk.
 *
 *   client ──data──▶ observer.client ──▶ toServer ──(journal written)──▶ server
 *   client ◀──────── toClient ◀── observer.server ◀──data── server
 */
export class Relay implements Sink, Waiter {
  readonly observer: Observer;
  readonly #client: Leg;
  readonly #server: Leg;
  readonly #port: RelayPort;
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  /** Events were appended since the journal was last asked to say when it has them. */
  #uncommitted = false;
  /** For each answer that the journal still owes: how many of `pending` it sets free, oldest first. */
  #owed: number[] = [];
  #owedCount = 0;
  #clientPaused = false;
  #serverPaused = false;
  /** Bytes of the server since this session last let others have their turn, and whether it is doing so now. */
  #serverBytesInTurn = 0;
  #yielding = false;
  #clientEnded = false;
  #serverEnded = false;
  #closed = false;
  #parting: { refusal: Refusal; reason: CloseReason; timer: NodeJS.Timeout } | null = null;
  #reason: CloseReason | null = null;
  #detail: string | null = null;
  #linger: NodeJS.Timeout | null = null;
  #bytesSent = 0;
  #bytesReceived = 0;
  #touched = true;
  #idles = 0;

  constructor(client: Leg, server: Leg, session: EngineSession, options: ObserveOptions, port: RelayPort) {
    this.#client = client;
    this.#server = server;
    this.#port = port;
    this.observer = session.observe(this, options);
  }

  /** Begins to carry. `fromClient` and `fromServer` are what the handshake's channels had read and not used. */
  start(fromClient: Buffer, fromServer: Buffer): void {
    const client = this.#client;
    const server = this.#server;
    client.start({
      data: this.#onClientData,
      ended: this.#onClientEnd,
      failed: this.#onClientError,
      closed: this.#onClientClose,
      drained: this.#onClientDrain,
    });
    server.start({
      data: this.#onServerData,
      ended: this.#onServerEnd,
      failed: this.#onServerError,
      closed: this.#onServerClose,
      drained: this.#onServerDrain,
    });
    if (fromServer.length > 0) this.#onServerData(fromServer);
    if (fromClient.length > 0) this.#onClientData(fromClient);
    // A peer that closed while nobody was listening says so only by its state.
    if (client.destroyed) this.#onClientClose();
    else if (client.readableEnded) this.#onClientEnd();
    if (server.destroyed) this.#onServerClose();
    else if (server.readableEnded) this.#onServerEnd();
  }

  /** Whether bytes have moved since this was last asked. */
  takeTouched(): boolean {
    const touched = this.#touched;
    this.#touched = false;
    return touched;
  }

  get bytesSent(): number {
    return this.#bytesSent;
  }

  get bytesReceived(): number {
    return this.#bytesReceived;
  }

  /** How often the session has become idle: the same number twice means that the same work is still running. */
  get idles(): number {
    return this.#idles;
  }

  get ended(): boolean {
    return this.#closed || this.#parting !== null;
  }

  /**
   * Ends the session by our will: the client hears `refusal` in its own protocol at the next message boundary, the
   * server is told that we leave. The caller interrupts a running statement beside this.
   */
  part(refusal: Refusal, reason: CloseReason): void {
    if (this.ended) return;
    this.#client.pause();
    this.#parting = { refusal, reason, timer: setTimeout(this.#onPartingTimeout, PARTING_MS_MAX) };
    this.#sayFarewell();
  }

  // Sink: called by the observer, within `client`, `server` or `release`.

  toServer(bytes: Buffer): void {
    if (this.#serverEnded || this.#parting !== null) return;
    this.#bytesSent += bytes.length;
    if (this.#uncommitted || this.#pendingBytes > 0) {
      this.#pending.push(readBuffers.lasting(bytes));
      this.#pendingBytes += bytes.length;
      if (this.#pendingBytes > RELAY_PENDING_BYTES_MAX) this.#pauseClient();
      return;
    }
    if (!this.#server.write(bytes)) this.#pauseClient();
  }

  toClient(bytes: Buffer): void {
    if (this.#client.destroyed || this.#client.writableEnded) return;
    this.#bytesReceived += bytes.length;
    if (!this.#client.write(bytes)) this.#pauseServer();
  }

  decide(statement: Statement): Verdict {
    return this.#port.decide(statement);
  }

  begin(statement: Statement): void {
    this.#port.record.begin(statement);
    this.#port.statementBegan(statement);
    this.#uncommitted = true;
  }

  end(statement: Statement): void {
    this.#port.record.end(statement);
    if (statement.status === 'denied') this.#port.refused(statement);
    this.#port.statementEnded(statement);
  }

  note(note: Note): void {
    this.#port.record.note(note);
    this.#port.noted(note);
  }

  /** The journal has what was appended up to an earlier `#commit`: what waited for that may go. */
  written(): void {
    const owed = this.#owed.shift() ?? 0;
    this.#owedCount -= owed;
    // Bytes behind the last statement that is waited for need no answer of their own.
    const isLast = this.#owed.length === 0 && !this.#uncommitted;
    const count = isLast ? this.#pending.length : owed;
    if (count === 0) return;
    const free = isLast ? this.#pending : this.#pending.splice(0, count);
    if (isLast) this.#pending = [];
    if (this.#serverEnded || this.#server.destroyed) {
      this.#pendingBytes = 0;
      return;
    }
    const bytes = free.length === 1 ? free[0]! : Buffer.concat(free);
    this.#pendingBytes -= bytes.length;
    if (!this.#server.write(bytes)) this.#pauseClient();
    else this.#resumeClient();
    if (this.#clientEnded && this.#pendingBytes === 0) this.#endServer();
  }

  readonly #onClientData = (chunk: Buffer): void => {
    if (this.#parting !== null || this.#closed) return;
    this.#touched = true;
    this.#port.record.frame?.('client', chunk);
    const observer = this.observer;
    observer.client(chunk);
    this.#commit();
    if (observer.saturated) this.#pauseClient();
    if (observer.fatal !== null) this.part(observer.fatal, 'protocol_error');
  };

  readonly #onServerData = (chunk: Buffer): void => {
    this.#touched = true;
    this.#serverBytesInTurn += chunk.length;
    if (this.#serverBytesInTurn > RELAY_TURN_BYTES_MAX && !this.#yielding) this.#yieldServer();
    this.#port.record.frame?.('server', chunk);
    const observer = this.observer;
    const wasBusy = observer.busy;
    observer.server(chunk);
    this.#commit();
    if (wasBusy && !observer.busy) this.#idles += 1;
    if (this.#clientPaused) this.#resumeClient();
    if (this.#parting !== null) this.#sayFarewell();
    else if (observer.fatal !== null) this.part(observer.fatal, 'protocol_error');
  };

  /** Lets the other sessions have their turn: a server that sends without pause could be read for milliseconds on end. */
  #yieldServer(): void {
    this.#yielding = true;
    this.#server.pause();
    setImmediate(this.#onTurnOver);
  }

  readonly #onTurnOver = (): void => {
    this.#yielding = false;
    this.#serverBytesInTurn = 0;
    if (!this.#serverPaused && !this.#server.destroyed) this.#server.resume();
  };

  /** The gate's answer to a held statement. */
  release(verdict: Verdict): void {
    this.observer.release(verdict);
    this.#commit();
    this.#resumeClient();
  }

  /** Asks the journal to say when what was begun in this call is written. */
  #commit(): void {
    if (!this.#uncommitted) return;
    this.#uncommitted = false;
    const owed = this.#pending.length - this.#owedCount;
    this.#owed.push(owed);
    this.#owedCount += owed;
    this.#port.recorder.afterWrite(this);
  }

  #pauseClient(): void {
    this.#clientPaused = true;
    this.#client.pause();
  }

  #resumeClient(): void {
    if (!this.#clientPaused || this.#parting !== null) return;
    if (this.observer.saturated || this.#pendingBytes > 0 || this.#server.needsDrain) return;
    this.#clientPaused = false;
    this.#client.resume();
  }

  #pauseServer(): void {
    this.#serverPaused = true;
    this.#server.pause();
  }

  readonly #onServerDrain = (): void => this.#resumeClient();

  readonly #onClientDrain = (): void => {
    if (!this.#serverPaused) return;
    this.#serverPaused = false;
    this.#server.resume();
  };

  readonly #onClientEnd = (): void => {
    if (this.#clientEnded) return;
    this.#clientEnded = true;
    this.#reason ??= 'client_closed';
    if (this.#pendingBytes === 0) this.#endServer();
  };

  /** Passes the client's half-close on. What the server still has to say flows until it closes too. */
  #endServer(): void {
    this.#server.end();
  }

  readonly #onClientError = (error: Error): void => {
    this.#reason ??= 'client_closed';
    this.#detail ??= errorCode(error);
  };

  /** The client is gone in both directions: the server is told, and need not finish what nobody will read. */
  readonly #onClientClose = (): void => {
    this.#clientEnded = true;
    this.#reason ??= 'client_closed';
    if (!this.#server.destroyed) {
      this.#leaveServer();
      this.#server.resume();
    }
    this.#settle();
  };

  readonly #onServerEnd = (): void => {
    if (this.#serverEnded) return;
    this.#serverEnded = true;
    const client = this.#client;
    if (!this.#clientEnded && this.#reason === null && this.observer.leaving !== 'client') {
      this.#reason = 'server_closed';
      if (this.observer.leaving !== 'server' && this.observer.atBoundary && !client.destroyed) {
        client.write(
          this.observer.farewell(new Refusal('server_closed', 'the database server closed the connection')),
        );
      }
    }
    this.#reason ??= 'client_closed';
    client.end();
    this.#server.end();
    this.#startLinger();
  };

  readonly #onServerError = (error: Error): void => {
    if (!this.#clientEnded) this.#reason ??= 'server_closed';
    this.#detail ??= errorCode(error);
  };

  readonly #onServerClose = (): void => {
    this.#onServerEnd();
    this.#settle();
  };

  #sayFarewell(): void {
    const parting = this.#parting;
    if (parting === null || !this.observer.atBoundary) return;
    clearTimeout(parting.timer);
    this.#reason = parting.reason;
    const client = this.#client;
    if (!client.destroyed && !client.writableEnded) {
      client.write(this.observer.farewell(parting.refusal));
      client.end();
      // The client's own last words are of no interest, but unread bytes would turn our FIN into a reset.
      client.resume();
    }
    this.#leaveServer();
  }

  readonly #onPartingTimeout = (): void => {
    this.#reason = this.#parting?.reason ?? 'killed';
    this.#detail ??= 'the client was cut in the middle of a message';
    this.#client.destroy();
    this.#leaveServer();
  };

  /** Tells the server that we leave and gives it a moment to close. */
  #leaveServer(): void {
    const server = this.#server;
    if (!server.destroyed && !server.writableEnded) {
      const goodbye = this.#pendingBytes === 0 ? this.observer.goodbye() : null;
      if (goodbye !== null) server.write(goodbye);
      server.end();
    }
    server.resume();
    this.#startLinger();
  }

  #startLinger(): void {
    this.#linger ??= setTimeout(() => {
      this.#client.destroy();
      this.#server.destroy();
    }, LINGER_MS_MAX);
  }

  #settle(): void {
    if (this.#closed || !this.#client.destroyed || !this.#server.destroyed) return;
    this.#closed = true;
    if (this.#linger) clearTimeout(this.#linger);
    if (this.#parting) clearTimeout(this.#parting.timer);
    const reason = this.#reason ?? 'client_closed';
    this.observer.close(this.#parting === null ? 'unknown' : 'cancelled');
    this.#port.closed({
      reason,
      detail: this.#detail,
      bytesSent: this.#bytesSent,
      bytesReceived: this.#bytesReceived,
    });
  }
}

function errorCode(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? error.message;
}
