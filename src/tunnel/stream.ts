import { Duplex } from 'node:stream';
import type { RawData, WebSocket } from 'ws';
import { CHUNK_BYTES_MAX } from './limits.ts';
import { CloseCode, END } from './messages.ts';

/**
 * One database connection over an open WebSocket, as a stream with half-close: `end()` here is `'end'` there, and the other
 * direction goes on. Back-pressure holds in both directions: a chunk counts as written when the operating system has it,
 * and a reader that stops stops the WebSocket.
 *
 * The stream owns the WebSocket: it closes it when both directions have ended, and aborts it when destroyed before.
 * An abort by the peer destroys the stream with the error `ECONNRESET`.
 */
export class TunnelStream extends Duplex {
  readonly #socket: WebSocket;
  #peerEnded = false;

  constructor(socket: WebSocket) {
    super({ allowHalfOpen: true, autoDestroy: true, emitClose: true });
    this.#socket = socket;
    socket.on('message', this.#onMessage);
    socket.on('close', this.#onClose);
    // What goes wrong is followed by `close`, which says enough.
    socket.on('error', ignore);
    if (socket.readyState !== socket.OPEN) queueMicrotask(this.#onClose);
  }

  override _read(): void {
    if (this.#socket.isPaused) this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#send(chunk, done);
  }

  override _writev(chunks: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    const last = chunks.length - 1;
    for (let index = 0; index < last; index += 1) this.#send(chunks[index]!.chunk, ignore);
    this.#send(chunks[last]!.chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    if (this.#socket.readyState === this.#socket.OPEN) this.#socket.send(END, (error) => done(error ?? null));
    else done(this.#peerEnded ? null : reset());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    const socket = this.#socket;
    socket.off('message', this.#onMessage);
    socket.off('close', this.#onClose);
    // The closing handshake is read even where data was not.
    if (socket.isPaused) socket.resume();
    if (socket.readyState === socket.OPEN)
      socket.close(
        this.writableFinished && (this.#peerEnded || error === null) ? CloseCode.done : CloseCode.aborted,
      );
    done(error);
  }

  #send(chunk: Buffer, done: (error?: Error | null) => void): void {
    const socket = this.#socket;
    if (socket.readyState !== socket.OPEN) {
      // A peer that has said all it had to say reads no more: what it said is still to be read here.
      done(this.#peerEnded ? null : reset());
      return;
    }
    let rest = chunk;
    while (rest.length > CHUNK_BYTES_MAX) {
      socket.send(rest.subarray(0, CHUNK_BYTES_MAX), { binary: true });
      rest = rest.subarray(CHUNK_BYTES_MAX);
    }
    socket.send(rest, { binary: true }, (error) => done(error ?? null));
  }

  readonly #onMessage = (data: RawData, isBinary: boolean): void => {
    if (this.#peerEnded || (!isBinary && String(data) !== END)) {
      this.#socket.close(CloseCode.violation);
      this.destroy(reset());
      return;
    }
    if (!isBinary) {
      this.#peerEnded = true;
      this.push(null);
    } else if (!this.push(data as Buffer)) this.#socket.pause();
  };

  readonly #onClose = (): void => {
    if (!this.#peerEnded) this.destroy(reset());
    // Its last words may still wait for their reader.
    else if (this.readableEnded) this.destroy();
    else this.once('end', () => this.destroy());
  };
}

function reset(): Error {
  return Object.assign(new Error('the tunnel broke off'), { code: 'ECONNRESET' });
}

function ignore(): void {}
